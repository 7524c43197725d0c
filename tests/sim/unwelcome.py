"""Planted bugs about disks that are full and users who may no longer write, or be there. See `mutants`.

Those of disks are bugs of the shells, which the simulator has its own of: they show that its checks would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.sim.disk import ReplicaDisk, TenantDisk
from tests.sim.nodes import ClientNode
from tripleweb.errors import StorageError
from tripleweb.sync import client
from tripleweb.sync.client import ClientCore
from tripleweb.sync.records import Commit, LocalCommit
from tripleweb.sync.restores import Keepsakes
from tripleweb.sync.server import TenantCore
from tripleweb.transaction import Transaction

Patch = tuple[Any, str, Any]


def unsaved_taken_for_written() -> list[Patch]:
    """A client whose disk is full goes on as if it had saved."""
    save = ReplicaDisk.save

    def careless(self: ReplicaDisk, commit: LocalCommit) -> None:
        with suppress(StorageError):
            save(self, commit)

    return [(ReplicaDisk, "save", careless)]


def half_written() -> list[Patch]:
    """Of a write that a full disk does not take the registers are there, and what is to be pushed is not."""
    save = ReplicaDisk.save

    def half(self: ReplicaDisk, commit: LocalCommit) -> None:
        if self.full and commit.pending and not commit.decided:
            self.full = False
            save(self, LocalCommit(registers=commit.registers))
            raise StorageError("the disk is full")
        save(self, commit)

    return [(ReplicaDisk, "save", half)]


def failed_write_stays() -> list[Patch]:
    """A write that could not be saved is not taken back in memory."""
    return [(ClientCore, "abandon", lambda self, tx: None)]


def number_of_a_failed_write_is_spent() -> list[Patch]:
    """… or its number is not used again, so that there is a hole."""
    abandon = ClientCore.abandon

    def spending(self: ClientCore, tx: Transaction) -> None:
        self.next += bool(tx.changes)
        abandon(self, tx)

    return [(ClientCore, "abandon", spending)]


def unsaved_is_dropped() -> list[Patch]:
    """A step of the server's that could not be saved is not saved later, either."""

    def dropping(self: ClientNode) -> bool:
        self.unsaved.clear()
        return True

    return [(ClientNode, "_save_the_unsaved", dropping)]


def full_server_goes_on() -> list[Patch]:
    """A commit that the server's disk did not take counts as durable."""
    commit = TenantDisk.commit

    def careless(self: TenantDisk, one: Commit) -> None:
        if not self.full:
            commit(self, one)

    return [(TenantDisk, "commit", careless)]


def expelled_is_served() -> list[Patch]:
    """Who has no role any more is served like before, until he hangs up."""

    def served(self: TenantCore, conn: Any, now_ms: int) -> None:
        pass

    return [(TenantCore, "disconnect", served)]


def rejected_value_is_lost() -> list[Patch]:
    """What was rejected is undone, and not kept for its user."""
    return [(client, "fates_of", lambda pending, receipt, most: [])]


def refused_forgets_the_unsent() -> list[Patch]:
    """Who is told that he is not a member any more has what he had not sent thrown away."""
    disconnected = ClientCore.disconnected

    def forgetting(self: ClientCore, reason: str = "", refused: bool = False) -> None:
        if refused:
            self.outbox.clear()
        disconnected(self, reason, refused)

    return [(ClientCore, "disconnected", forgetting)]


def known_waits_to_be_pushed_again() -> list[Patch]:
    """A server that is put back to a later backup is told by another name what it knows by this one."""
    return [(Keepsakes, "_there", lambda self, *_: set())]


# the first seed that notices it
CAUGHT: dict[Callable[[], list[Patch]], int] = {
    unsaved_taken_for_written: 9,
    half_written: 9,
    failed_write_stays: 3,
    number_of_a_failed_write_is_spent: 3,
    unsaved_is_dropped: 46,
    full_server_goes_on: 10,
    expelled_is_served: 0,
    rejected_value_is_lost: 0,
    refused_forgets_the_unsent: 9,
    known_waits_to_be_pushed_again: 1000438,
}
