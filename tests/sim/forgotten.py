"""Planted bugs about servers that are put back to a backup, and have forgotten what they had accepted since. See
`mutants`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tripleweb.sync import client
from tripleweb.sync.readers import Readers
from tripleweb.sync.records import LocalCommit
from tripleweb.sync.restores import Keepsakes

Patch = tuple[Any, str, Any]


def forgotten_not_pushed_again() -> list[Patch]:
    """A replica takes what it had a receipt for as known for ever."""
    return [(Keepsakes, "unknown", lambda self, *_: [])]


def kept_in_memory_only() -> list[Patch]:
    """What is kept for a restore is not on the replica's disk: a session that ends forgets it."""
    put = Keepsakes._put

    def unsaved(self: Keepsakes, commit: LocalCommit, one: Any) -> None:
        put(self, LocalCommit(), one)

    return [(Keepsakes, "_put", unsaved)]


def cursors_outlive_their_epoch() -> list[Patch]:
    """A server that was put back takes cursors of the time before for its own."""
    subscribe = Readers.subscribe

    def trusting(self: Readers, reader: Any, subscription: Any, **more: Any) -> None:
        if subscription.cursor is not None:
            seq = min(subscription.cursor[1], self.log.durable_seq)
            subscription = msgspec.structs.replace(subscription, cursor=(self.log.epoch, seq))
        subscribe(self, reader, subscription, **more)

    return [(Readers, "subscribe", trusting)]


def earlier_names_not_asked_for() -> list[Patch]:
    """What a replica had written under an earlier identity is not looked for after a restore."""
    return [(Keepsakes, "formers", lambda self, replica: [])]


def all_kept_is_pushed_again() -> list[Patch]:
    """Also what the backup has, under a new identity, as if it was not there."""
    unknown = Keepsakes.unknown

    def everything(self: Keepsakes, replica: str, last: int, former: Any, outbox: Any) -> Any:
        gone = unknown(self, replica, last, former, outbox)
        return [one for one in self if one.number not in outbox] if gone else gone

    return [(Keepsakes, "unknown", everything)]


def pushed_again_over_a_hole() -> list[Patch]:
    """Numbers that were rejected, and are not kept, are not missed in what is pushed again."""
    return [(client, "joins", lambda *_: True)]


def pushed_again_as_new() -> list[Patch]:
    """What is pushed again has another id than it had: a copy that has pushed it already is not known by it."""
    push = Keepsakes.push_again

    def renamed(self: Keepsakes, commit: LocalCommit, forgotten: Any) -> Any:
        pushed = push(self, commit, forgotten)
        for pending in pushed.values():
            pending.id = pending.id[::-1]
        return pushed

    return [(Keepsakes, "push_again", renamed)]


# the first seed that notices it
CAUGHT: dict[Callable[[], list[Patch]], int] = {
    forgotten_not_pushed_again: 20,
    kept_in_memory_only: 76,
    cursors_outlive_their_epoch: 13,
    earlier_names_not_asked_for: 182,
    all_kept_is_pushed_again: 20,
    pushed_again_over_a_hole: 40,
    pushed_again_as_new: 20,
}
