"""What a replica keeps of its own accepted transactions, for the day on which its server is put back to a backup.

A server that was restored has forgotten what it accepted after its backup, and with it the numbers of the replicas that
had written it. Numbers have no holes and are decided in order, so what a server knows of a replica is all up to some
number and nothing beyond: that number tells, exactly, what is to be pushed again. It is pushed with its first number,
id and stamp where that joins without a hole (else under a new identity, in the order of the stamps), and so merges as
it did, increments included: those that the backup has seen have a number that the server knows.

Invariants: a transaction is kept from its receipt on until a verified backup holds it, it is a week old, or there is
more than `ClientLimits` allow, oldest first; what was rejected is not kept; what is being pushed again stays kept, and
is in the outbox like any other pending transaction, so neither a crash nor a lost connection drops or doubles it. One
thing a number does not tell: where two copies of one file have used the same numbers for different transactions, and
the server forgot those of the one and was then told those of the other, the first takes its own for known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from tripleweb.change import COUNTER, Change
from tripleweb.clock import Stamp
from tripleweb.store import Delta, Store, net
from tripleweb.sync.messages import Cursor, Receipt, Welcome
from tripleweb.sync.outbox import ClientLimits
from tripleweb.sync.records import Kept, LocalCommit, Pending

FORMERS_MAX = 100  # identities of which a hello asks
_SAMPLE = 100


class Keepsakes:
    """The accepted transactions of one replica, of all the identities that it had, by identity and number."""

    def __init__(self, kept: Iterable[Kept], limits: ClientLimits, origin: str = "") -> None:
        self._limits = limits
        self._origin = origin  # the epoch in which the app began that accepted them
        self._held = {(one.replica, one.number): one for one in sorted(kept, key=lambda one: one.at)}
        self._bytes = sum(map(_size, self._held.values()))
        self._backup: Cursor | None = None  # of which the server spoke last

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._held.values())

    def has(self, replica: str, number: int) -> bool:
        return (replica, number) in self._held

    def formers(self, replica: str) -> list[str]:
        """The identities, other than `replica`, under which something was accepted that is kept."""
        names = {name for one in self for name, _ in _numbers(one)}
        return sorted(names - {replica})[:FORMERS_MAX]

    def decided(
        self, commit: LocalCommit, replica: str, pending: Pending, receipt: Receipt, time: int, epoch: str
    ) -> None:
        """A transaction has its receipt, with this time of its stamp."""
        before = self._held.get((replica, pending.number))
        self._drop(commit, [(replica, pending.number)])
        if receipt.outcome != "rejected" and pending.changes:
            changes = pending.changes
            if time != pending.time:
                changes = [change._replace(time=time) for change in changes]
            at = epoch, receipt.seq, receipt.at
            was = [] if before is None else before.was
            self._put(commit, Kept(replica, pending.number, pending.id, time, changes, *at, was))

    def release(self, commit: LocalCommit, backup: Cursor | None, now_ms: int) -> None:
        """Lets go of what a verified backup holds, which reaches to `backup`, of what is too old, and of too much."""
        if backup is not None and backup != self._backup:
            self._backup = epoch, seq = backup
            held = [key for key, one in self._held.items() if one.epoch == epoch and one.seq <= seq]
            self._drop(commit, held)
        gone: list[tuple[str, int]] = []
        count, size = len(self._held), self._bytes
        for key, one in self._held.items():
            is_too_much = count > self._limits.kept_max or size > self._limits.kept_bytes_max
            if not is_too_much and now_ms - one.at <= self._limits.kept_ms:
                break
            gone.append(key)
            count, size = count - 1, size - _size(one)
        self._drop(commit, gone)

    def told(self, backup: Cursor | None, now_ms: int) -> LocalCommit | None:
        """What the server has said of its latest backup lets go of some, which is to be saved."""
        commit = LocalCommit()
        self.release(commit, backup, now_ms)
        return commit if commit.released else None

    def greeted(
        self, commit: LocalCommit, welcome: Welcome, replica: str, outbox: Mapping[int, Pending]
    ) -> tuple[list[Kept], set[int]]:
        """What the server that says this welcome has forgotten. And what waits to be pushed again, by number, and is
        known to it after all: it was put back once more, to a later backup than the one that had forgotten that. An
        app that began another time, since the one before it was deleted, has forgotten nothing: what was accepted then
        is not kept for it."""
        if self._origin and welcome.origin and self._origin != welcome.origin:
            self._drop(commit, list(self._held))
        commit.meta["origin"] = self._origin = welcome.origin or self._origin
        forgotten = self.unknown(replica, welcome.last, welcome.former, outbox)
        self.release(commit, welcome.backup, welcome.now)
        there = self._there(replica, {**welcome.former, replica: welcome.last}, outbox)
        waiting = {number: pending for number, pending in outbox.items() if number not in there}
        self.known(commit, forgotten, waiting, (welcome.epoch, welcome.seq))
        return forgotten, there

    def _there(self, replica: str, lasts: Mapping[str, int], outbox: Mapping[int, Pending]) -> set[int]:
        held = [(number, self._held.get((replica, number)), pending.id) for number, pending in outbox.items()]
        return {
            number
            for number, one, tx in held
            if one is not None and one.id == tx and any(n <= lasts.get(who, 0) for who, n in _numbers(one))
        }

    def unknown(
        self, replica: str, last: int, former: Mapping[str, int], outbox: Collection[int]
    ) -> list[Kept]:
        """What the server has forgotten: it knows `replica` up to `last`, and other identities up to `former`. What is
        in the outbox already is left out."""
        lasts = {name: former.get(name, 0) for name in self.formers(replica)} | {replica: last}
        return [
            one
            for (name, number), one in self._held.items()
            if all(n > lasts.get(who, 0) for who, n in _numbers(one))
            and name in lasts
            and not (name == replica and number in outbox)
        ]

    def known(
        self, commit: LocalCommit, gone: Collection[Kept], outbox: Mapping[int, Pending], at: Cursor
    ) -> None:
        """All but `gone`, and what waits in the outbox, are part of the server's epoch from its beginning."""
        waiting = {pending.id for pending in outbox.values()} | {one.id for one in gone}
        for one in [one for one in self if one.epoch != at[0] and one.id not in waiting]:
            self._put(commit, replace(one, epoch=at[0], seq=at[1]))

    def push_again(self, commit: LocalCommit, forgotten: Iterable[Kept]) -> dict[int, Pending]:
        """They are pending once more, as they were, by number."""
        commit.pending = sorted(map(_again, forgotten), key=lambda pending: pending.number)
        return {pending.number: pending for pending in commit.pending}

    def renumber(
        self,
        commit: LocalCommit,
        forgotten: Iterable[Kept],
        outbox: Mapping[int, Pending],
        identities: tuple[str, str],
        store: Store,
        there: Collection[int] = (),
    ) -> tuple[dict[int, Pending], Delta]:
        """All that is to be pushed, numbered anew from 1 in the order in which it was written, by the second of the
        identities instead of the first (or of an earlier one). What shows of it in the store has the new stamps.

        What is `there`, by its number in the outbox, is not pushed: by another name it might count twice."""
        old, new = identities
        kept = {one.id: one for one in forgotten}
        unsent = {number: one for number, one in outbox.items() if number not in there}
        kept |= {one.id: one for number in unsent if (one := self._held.get((old, number))) is not None}
        moving = {one.id: _again(one) for one in kept.values()} | {one.id: one for one in unsent.values()}
        numbered: dict[int, Pending] = {}
        deltas, restamped = [], []
        by = {tx: kept[tx].replica if tx in kept else old for tx in moving}
        for moved in _in_order((by[tx], one) for tx, one in moving.items()):
            before = kept.get(moved.id)
            stamp = moved.time, old if before is None else before.replica
            for change in moved.changes:
                held = self._standing(store, change, stamp)
                if held is not None:
                    restamped.append(held._replace(replica=new))
                    deltas.append(store.put(restamped[-1:]))
            number = len(numbered) + 1
            changes = [change._replace(replica=new) for change in moved.changes]
            numbered[number] = Pending(number, moved.id, moved.time, changes, moved.check)
            if before is not None:
                self._drop(commit, [(before.replica, before.number)])
                was = _numbers(before)
                self._put(commit, replace(before, replica=new, number=number, changes=changes, was=was))
        commit.decided, commit.pending, commit.registers = list(outbox), list(numbered.values()), restamped
        return numbered, net(deltas)

    def _standing(self, store: Store, change: Change, stamp: Stamp) -> Change | None:
        held = store.register(change.key) if change.slot != COUNTER else None
        return held if held is not None and held.stamp == stamp else None

    def _put(self, commit: LocalCommit, one: Kept) -> None:
        key = one.replica, one.number
        before = self._held.get(key)
        self._bytes += _size(one) - (_size(before) if before is not None else 0)
        self._held[key] = one
        commit.kept.append(one)

    def _drop(self, commit: LocalCommit, keys: Iterable[tuple[str, int]]) -> None:
        for key in keys:
            if (one := self._held.pop(key, None)) is not None:
                self._bytes -= _size(one)
                commit.released.append(key)


def _numbers(one: Kept) -> list[tuple[str, int]]:
    return [*one.was, (one.replica, one.number)]


def _again(one: Kept) -> Pending:
    """A kept transaction, as it is pushed again."""
    return Pending(one.number, one.id, one.time, one.changes)


def _in_order(written: Iterable[tuple[str, Pending]]) -> list[Pending]:
    """Transactions of several identities as they were written: those of one by their numbers, and so that the stamps
    rise, as far as the server has not set one of them forward."""
    latest: dict[str, int] = {}
    keyed = []
    for who, one in sorted(written, key=lambda pair: (pair[0], pair[1].number)):
        latest[who] = max(latest.get(who, 0), one.time)
        keyed.append((latest[who], who, one.number, one))
    return [one for *_, one in sorted(keyed, key=lambda item: item[:3])]


def joins(last: int, again: Iterable[Kept], outbox: Collection[int], end: int) -> bool:
    """True if what is pushed again and what is in the outbox follow on `last` without a hole, up to before `end`."""
    numbers = {one.number for one in again}
    return all(number in numbers or number in outbox for number in range(last + 1, end))


def _size(one: Kept) -> int:
    """Bytes, about."""
    changes = one.changes
    step = max(1, len(changes) // _SAMPLE)
    seen = [changes[at] for at in range(0, len(changes), step)]
    size = sum(
        100
        + len(c.subject)
        + len(c.predicate)
        + len(c.slot)
        + (len(c.value) if isinstance(c.value, str) else 8)
        for c in seen
    )
    return size * len(changes) // max(1, len(seen))
