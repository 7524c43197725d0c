"""Disks with faults: the server's tenant and a replica's file, each as the commits that landed on it.

A disk that is `full` takes no commit: it raises, and has nothing of it.
The server's disk loses nothing that it has acknowledged. A replica's file survives the death of its process whole;
what a power failure or a copied file does to it (a lost tail, an old state, a second owner) is asked for by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

from tripleweb.change import DELETED, Change, Key
from tripleweb.clock import Stamp
from tripleweb.errors import StorageError
from tripleweb.sync.records import (
    Commit,
    Entry,
    Fate,
    Kept,
    LocalCommit,
    LocalState,
    Pending,
    ReplicaRow,
    TenantState,
)

JOURNAL = 40  # commits of a replica that a power failure can still lose


class Disk:
    """A disk, which may be full."""

    full = False

    def _check_room(self) -> None:
        if self.full:
            raise StorageError("the disk is full")


class TenantDisk(Disk):
    """What is durable at the server."""

    def __init__(self, epoch: str) -> None:
        self.epoch = self.origin = epoch
        self.seq = 0
        self.time = 0
        self.log: list[Entry] = []
        self.registers: dict[Key, Change] = {}
        self.graves: dict[str, Stamp] = {}
        self.replicas: dict[str, ReplicaRow] = {}
        self.receipts: dict[tuple[str, int], tuple[str, bytes]] = {}
        self.gists: dict[tuple[str, int], bytes] = {}
        self.names: dict[str, bytes] = {}
        self.floor = 0  # up to here the log is cut off; `log` has it all, for the checks

    def commit(self, commit: Commit) -> None:
        self._check_room()
        for entry in commit.entries:
            assert entry.seq == self.seq + 1, f"the log has no hole: {entry.seq} after {self.seq}"
            self.seq = entry.seq
            self.log.append(entry)
            for change in entry.registers:
                self._merge(change)
        assert commit.seq == self.seq
        self.time = commit.time
        names = {**self.names, **commit.names}
        self.names = {name: body for name, body in names.items() if body is not None}
        for replica, number, tx, body in commit.receipts:
            self.receipts[replica, number] = (tx, body)
        for replica, upto, body in commit.gists:
            self.gists[replica, upto] = body
            for key in [k for k in self.receipts if k[0] == replica and k[1] <= upto]:
                del self.receipts[key]
        for replica, row in commit.replicas.items():
            self.replicas[replica] = replace(row)
            for key in [k for k in self.gists if k[0] == replica and k[1] <= row.confirmed]:
                del self.gists[key]
            for key in [k for k in self.receipts if k[0] == replica and k[1] <= row.confirmed]:
                del self.receipts[key]

    def close(self) -> None:
        pass

    def cut(self, floor: int) -> None:
        """Lets go of the log up to a floor."""
        self.floor = max(self.floor, floor)

    def copied(self) -> TenantDisk:
        """The same once more, as a backup has it."""
        twin = TenantDisk(self.epoch)
        twin.origin = self.origin
        twin.seq, twin.time, twin.log = self.seq, self.time, list(self.log)
        twin.registers, twin.graves, twin.receipts = (
            dict(self.registers),
            dict(self.graves),
            dict(self.receipts),
        )
        twin.replicas = {replica: replace(row) for replica, row in self.replicas.items()}
        twin.gists, twin.names, twin.floor = dict(self.gists), dict(self.names), self.floor
        return twin

    def _merge(self, change: Change) -> None:
        """A merge of the disk's own, so that the store's is not checked against itself alone."""
        if change.predicate == DELETED:
            self.graves[change.subject] = max(self.graves.get(change.subject, (-1, "")), change.stamp)
            for key in [key for key in self.registers if key[0] == change.subject]:
                del self.registers[key]
        elif change.subject not in self.graves:
            held = self.registers.get(change.key)
            if held is None or held.stamp < change.stamp:
                self.registers[change.key] = change

    def load(self, tail: int) -> TenantState:
        graves = (Change(s, DELETED, "", True, *stamp) for s, stamp in self.graves.items())
        return TenantState(
            self.epoch,
            self.seq,
            self.time,
            [*graves, *self.registers.values()],
            {replica: replace(row) for replica, row in self.replicas.items()},
            dict(self.receipts),
            dict(self.gists),
            self.log[max(self.floor, len(self.log) - tail) :],
            origin=self.origin,
            names=dict(self.names),
        )


class _File:
    """A replica's state, as a file holds it."""

    def __init__(self) -> None:
        self.registers: dict[Key, Change] = {}
        self.graves: dict[str, Change] = {}
        self.pending: dict[int, Pending] = {}
        self.fates: list[Fate] = []
        self.kept: dict[tuple[str, int], Kept] = {}
        self.meta: dict[str, object] = {}

    def apply(self, commit: LocalCommit) -> None:
        if commit.clear:
            self.registers.clear()
            self.graves.clear()
        for subject in commit.revive:
            self.graves.pop(subject, None)
        for change in commit.registers:
            if change.predicate == DELETED:
                self.graves[change.subject] = change
                for key in [key for key in self.registers if key[0] == change.subject]:
                    del self.registers[key]
            else:
                self.registers[change.key] = change
        for key in commit.drop:
            self.registers.pop(key, None)
        for number in commit.decided:
            self.pending.pop(number, None)
        for pending in commit.pending:
            self.pending[pending.number] = copy.copy(pending)
        self.fates.extend(commit.fates)
        for key in commit.released:
            self.kept.pop(key, None)
        self.kept.update(((one.replica, one.number), one) for one in commit.kept)
        self.meta.update(commit.meta)

    def state(self) -> LocalState:
        return LocalState(
            [*self.graves.values(), *self.registers.values()],
            [copy.copy(pending) for pending in self.pending.values()],
            list(self.fates),
            copy.deepcopy(self.meta),
            list(self.kept.values()),
        )

    def copied(self) -> _File:
        twin = _File()
        twin.registers, twin.graves = dict(self.registers), dict(self.graves)
        twin.pending = {number: copy.copy(pending) for number, pending in self.pending.items()}
        twin.fates, twin.meta = list(self.fates), copy.deepcopy(self.meta)
        twin.kept = dict(self.kept)
        return twin


class ReplicaDisk(Disk):
    """A replica's file and the commits that a power failure could take from it."""

    def __init__(self) -> None:
        self._safe = _File()
        self._journal: list[LocalCommit] = []

    def save(self, commit: LocalCommit) -> None:
        self._check_room()
        # a deep copy: the core goes on changing what it handed out
        self._journal.append(
            replace(commit, pending=[copy.copy(p) for p in commit.pending], meta=copy.deepcopy(commit.meta))
        )
        if len(self._journal) > JOURNAL:
            self._safe.apply(self._journal.pop(0))

    def _whole(self, commits: Iterable[LocalCommit]) -> _File:
        file = self._safe.copied()
        for commit in commits:
            file.apply(commit)
        return file

    def load(self) -> LocalState:
        self._safe, self._journal = self._whole(self._journal), []
        return self._safe.state()

    @property
    def tail(self) -> int:
        """How many commits a power failure could lose."""
        return len(self._journal)

    def lose_tail(self, commits: int) -> None:
        """A power failure: the newest commits are gone."""
        del self._journal[len(self._journal) - commits :]

    def close(self) -> None:
        pass

    def copied(self) -> ReplicaDisk:
        """The same file once more, as a copied folder has it."""
        twin = ReplicaDisk()
        twin._safe = self._whole(self._journal)
        return twin
