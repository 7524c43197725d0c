"""What is made durable: the commits that leave the cores, and the states they start from.

A core never touches a disk. It hands out a commit, and somebody who has a disk stores it whole or not at all and then
says so. `Commit` and `TenantState` are the server's, `LocalCommit` and `LocalState` a replica's. Invariant: loading
after any number of whole commits gives the state in which the last of them left the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tripleweb.change import COUNTER, Change, Key
from tripleweb.influx import loaded
from tripleweb.store import Store
from tripleweb.sync.messages import Check

FATES_MAX = 10_000
LOST_MAX = 100_000
LOST = ("superseded", "rejected")

# -- server --------------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One accepted transaction in the log. `body` is the JSON of `messages.Committed`."""

    seq: int
    replica: str
    number: int
    id: str
    by: str
    at: int  # milliseconds, the server's clock
    body: bytes
    registers: Sequence[Change]  # what it set: the same changes with their stamps, shares as totals

    def keys(self, replica: str) -> set[Key]:
        """The registers that it would have set as a transaction of `replica`."""
        share = COUNTER + replica
        return {(s, p, share if place[:2] == COUNTER else place) for s, p, place, *_ in self.registers}


@dataclass(slots=True)
class ReplicaRow:
    """What the server remembers of a replica, for ever."""

    user: str
    last: int = 0  # highest number decided
    confirmed: int = 0  # receipts up to here are stored at the replica
    time: int = 0  # of its last accepted stamp; its next one is later
    seen: int = 0  # milliseconds, the server's clock: when it was last heard of, as far as that matters


@dataclass(slots=True)
class Commit:
    """What the server must have on disk before anybody hears of it. Applied in the order of `batch`."""

    batch: int
    seq: int
    time: int  # high-water mark of the server's clock
    entries: list[Entry] = field(default_factory=list)
    receipts: list[tuple[str, int, str, bytes]] = field(
        default_factory=list
    )  # replica, number, id, JSON of Receipt
    replicas: dict[str, ReplicaRow] = field(
        default_factory=dict
    )  # rows that changed; drop receipts and gists <= confirmed
    gists: list[tuple[str, int, bytes]] = field(
        default_factory=list
    )  # replica, number, what takes the place of its receipts up to there (see `decisions`)
    names: dict[str, bytes | None] = field(
        default_factory=dict
    )  # of published queries; None: of none any more


@dataclass(slots=True)
class TenantState:
    """A tenant as its storage gives it. `registers` may be a one-time iterator; `tail` are the newest entries of the
    log in order, already contained in `registers`."""

    epoch: str
    seq: int = 0
    time: int = 0
    registers: Iterable[Change] = ()
    replicas: dict[str, ReplicaRow] = field(default_factory=dict)
    receipts: dict[tuple[str, int], tuple[str, bytes]] = field(default_factory=dict)
    gists: dict[tuple[str, int], bytes] = field(default_factory=dict)  # replica, the last number in it
    tail: list[Entry] = field(default_factory=list)
    backup: tuple[str, int] | None = None  # (epoch, seq): so far the latest verified backup reaches
    origin: str = ""  # the epoch in which it began; whoever is deleted and made anew has another
    names: dict[str, bytes] = field(default_factory=dict)  # of published queries


# -- replica -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pending:
    """A local transaction whose fate the server has not decided. Increments stand as such (slot `c:`)."""

    number: int
    id: str
    time: int
    changes: Sequence[Change]
    check: Check | None = None


@dataclass(slots=True)
class Kept:
    """A transaction of ours that the server accepted, until a verified backup holds it (see `restores`)."""

    replica: str  # whose number this is: ours, or one that was ours
    number: int
    id: str
    time: int  # of the stamp that the server gave it
    changes: Sequence[Change]  # as in `Pending`, at that time
    epoch: str
    seq: int  # of the server's order in that epoch: what is beyond has not seen it
    at: int  # milliseconds, the server's clock
    was: list[tuple[str, int]] = field(
        default_factory=list
    )  # replicas and numbers by which it was pushed before


@dataclass(slots=True)
class Fate:
    """What became of one written value, for people: a row of `db.receipts()`."""

    time: int  # milliseconds: when it was written
    subject: str
    predicate: str
    value: Any  # as `terms.to_wire` gives it
    outcome: str  # applied, superseded, restamped, rejected
    by: str
    reason: str


def worth_keeping(fates: list[Fate]) -> list[Fate]:
    """The newest 10,000, and of those before them the newest 100,000 of writes that did not stand: what they wrote is
    kept nowhere else, and no load of a large table pushes it out."""
    cut = max(0, len(fates) - FATES_MAX)
    lost = [fate for fate in fates[:cut] if fate.outcome in LOST]
    return lost[-LOST_MAX:] + fates[cut:]


def lost(fates: list[Fate]) -> int:
    """How many of them are of values that did not stand."""
    return sum(fate.outcome in LOST for fate in fates)


@dataclass(slots=True)
class LocalCommit:
    """One atomic step of a replica. Applied in this order: revive, registers, drop; a register with the predicate
    `_deleted` buries its entity and all the entity's other registers."""

    registers: Sequence[Change] = field(default_factory=list)  # as they now are, whatever stood there
    drop: list[Key] = field(default_factory=list)
    revive: list[str] = field(default_factory=list)
    clear: bool = False  # forget all registers first
    fresh: int = 0  # so many of the registers, or more, are known to be the first at their places
    pending: list[Pending] = field(default_factory=list)  # new or rewritten, by number
    decided: list[int] = field(
        default_factory=list
    )  # numbers that leave the outbox (before `pending` is added)
    fates: list[Fate] = field(default_factory=list)
    released: list[tuple[str, int]] = field(default_factory=list)  # (replica, number) of what is kept no more
    kept: list[Kept] = field(default_factory=list)  # new or other than before (after `released`)
    meta: dict[str, Any] = field(
        default_factory=dict
    )  # JSON values by name: replica, next, clock, cursors, ...


@dataclass(slots=True)
class LocalState:
    """A replica as its file gives it; all empty for a new one."""

    registers: Iterable[Change] = ()
    pending: list[Pending] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    store: Store | None = None  # what `registers` are of, where they came as one

    def content(self) -> Store:
        """The registers as a store, which is the caller's from then on."""
        return loaded(self.registers) if self.store is None else self.store
