"""Planted bugs about those who were unseen for long, and about a log that is cut off. See `mutants`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.sim.disk import TenantDisk
from tripleweb.sync import decisions
from tripleweb.sync.client import ClientCore
from tripleweb.sync.decisions import Decisions, Gist
from tripleweb.sync.tail import Tail

Patch = tuple[Any, str, Any]


def long_ago_is_dropped() -> list[Patch]:
    """Nothing is kept of the receipts of who is unseen for long."""
    return [(decisions, "encode_gists", lambda gists: msgspec.msgpack.encode([]))]


def long_ago_is_confirmed() -> list[Patch]:
    """What is no longer kept whole counts as confirmed: whoever comes back seems to have lost his tail."""
    fade = Decisions.fade

    def confirming(self: Decisions, commit: Any, durable_batch: int) -> bool:
        before = len(commit.gists)
        has_faded = fade(self, commit, durable_batch)
        for replica, number, _ in commit.gists[before:]:
            row = self._rows[replica]
            row.confirmed = max(row.confirmed, number)
            commit.replicas[replica] = row
        return has_faded

    return [(Decisions, "fade", confirming)]


def long_ago_was_applied() -> list[Patch]:
    """What was rejected long ago is said to have been applied."""
    gist_of = decisions.gist_of

    def kind(receipt: Any, replica: str) -> Gist:
        gist = gist_of(receipt, replica)
        if gist.more is not None:
            gist.more.rejected, gist.more.reason = False, ""
        return gist

    return [(decisions, "gist_of", kind)]


def long_ago_all_stood() -> list[Patch]:
    """Which changes lost is not kept."""
    gist_of = decisions.gist_of

    def whole(receipt: Any, replica: str) -> Gist:
        gist = gist_of(receipt, replica)
        if gist.more is not None:
            gist.more.lost = []
        return gist

    return [(decisions, "gist_of", whole)]


def long_ago_is_not_loaded() -> list[Patch]:
    """Who is told of long ago is not told to load what he reads."""
    told = Gist.receipt

    def without(self: Gist, *rest: Any) -> Any:
        receipt = told(self, *rest)
        receipt.reload = False
        return receipt

    return [(Gist, "receipt", without)]


def long_ago_is_known_by_number() -> list[Patch]:
    """Which transaction had a number is not kept: whoever asks for it is believed to have written that one."""
    unconfirmed, poke = Decisions.unconfirmed, ClientCore._poke
    nameless: set[str] = set()

    def told(self: Decisions, replica: str, now_ms: int) -> Any:
        whole = self._receipts.get(replica, {})
        for receipt, batch in unconfirmed(self, replica, now_ms):
            if receipt.number not in whole:
                nameless.add(receipt.id)
            yield receipt, batch

    def believing(self: ClientCore, frame: Any, now_ms: int) -> Any:
        for receipt in frame.receipts:
            if receipt.id in nameless and receipt.number in self.outbox:
                receipt.id = self.outbox[receipt.number].id
        return poke(self, frame, now_ms)

    return [(Decisions, "unconfirmed", told), (ClientCore, "_poke", believing)]


def long_ago_at_another_stamp() -> list[Patch]:
    """The stamp that a transaction was given is not kept, but the moment at which that is told."""
    unconfirmed = Decisions.unconfirmed

    def restamped(self: Decisions, replica: str, now_ms: int) -> Any:
        for receipt, batch in unconfirmed(self, replica, now_ms):
            if receipt.at == now_ms:
                receipt.stamp = f"{now_ms << 16:016x}-{replica}"
            yield receipt, batch

    return [(Decisions, "unconfirmed", restamped)]


def last_number_is_dropped() -> list[Patch]:
    """Who is unseen for long is not known any more at all."""
    fade = Decisions.fade

    def forgetting(self: Decisions, commit: Any, durable_batch: int) -> bool:
        before = len(commit.gists)
        has_faded = fade(self, commit, durable_batch)
        for replica, _, _ in commit.gists[before:]:
            if replica not in self._receipts:
                self._rows.pop(replica, None)  # type: ignore[attr-defined]
                self._gists.pop(replica, None)
        return has_faded

    return [(Decisions, "fade", forgetting)]


def just_seen_is_long_ago() -> list[Patch]:
    """Everybody who is away is taken for long unseen."""
    return [(Decisions, "_is_long_unseen", lambda self, replica: replica not in self._here)]


def cut_log_seems_whole() -> list[Patch]:
    """Whoever stands before what is left of the log is told what is left of it."""

    def rest(self: Tail, since: int, upto: int) -> Any:
        return [entry for entry in self._entries if since < entry.seq <= upto]

    def find(self: Tail, transaction: str) -> Any:
        return next((entry for entry in self._entries if entry.id == transaction), None)

    return [
        (Tail, "between", rest),
        (Tail, "find", find),
        (Tail, "floor", property(lambda self: 0)),
    ]


def graves_are_cut_off() -> list[Patch]:
    """With the log goes who is dead since then: what is written late brings him back."""
    cut = TenantDisk.cut

    def all_of_it(self: TenantDisk, floor: int) -> None:
        cut(self, floor)
        for entry in self.log[: self.floor]:
            for change in entry.registers:
                if self.graves.get(change.subject) == change.stamp:
                    del self.graves[change.subject]

    return [(TenantDisk, "cut", all_of_it)]


def tombstones_are_cut_off() -> list[Patch]:
    """With the log goes that a value was taken away: what was written before that and comes late stands."""
    cut = TenantDisk.cut

    def all_of_it(self: TenantDisk, floor: int) -> None:
        cut(self, floor)
        for entry in self.log[: self.floor]:
            for change in entry.registers:
                if self.registers.get(change.key) == change and change.value is None:
                    del self.registers[change.key]

    return [(TenantDisk, "cut", all_of_it)]


CAUGHT: dict[Callable[[], list[Patch]], int] = {
    long_ago_is_dropped: 0,
    long_ago_is_confirmed: 1,
    long_ago_was_applied: 1,
    long_ago_all_stood: 8,
    long_ago_is_not_loaded: 28,
    long_ago_is_known_by_number: 1346,
    long_ago_at_another_stamp: 1,
    last_number_is_dropped: 4,
    just_seen_is_long_ago: 5,
    cut_log_seems_whole: 30,
    graves_are_cut_off: 78,
    tombstones_are_cut_off: 67,
}
