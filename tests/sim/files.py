"""Disks that are files: the real storages, which must give what was saved in them.

A process that dies abandons its file: the next one starts from a copy of what is in the file system at that moment,
write-ahead log and all, taken in the middle of a transaction that never ends.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

from tests.sim.checks import hold
from tests.sim.disk import ReplicaDisk, TenantDisk
from tripleweb.storage.replica import ReplicaFile
from tripleweb.storage.sqlite import SqliteTenant
from tripleweb.sync.records import Commit, LocalCommit, LocalState, TenantState

_names = itertools.count()


def _abandon(storage: SqliteTenant | ReplicaFile, path: Path, table: str) -> Path:
    """A copy of a file as it is while a transaction is open; the file itself is left."""
    folder = path.parent.parent / str(next(_names))
    folder.mkdir(parents=True)
    with storage._file.reading() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"DELETE FROM {table}")
        for file in path.parent.iterdir():
            if file.suffix != ".lock":
                shutil.copy(file, folder / file.name)
        connection.execute("ROLLBACK")
    return folder / path.name


class TenantFile(TenantDisk):
    """The server's disk, and beside it the real one, which must agree."""

    def __init__(self, epoch: str, folder: Path) -> None:
        super().__init__(epoch)
        self._path = folder / str(next(_names)) / "app.db"
        self._path.parent.mkdir(parents=True)
        self._storage = SqliteTenant(self._path, "app")

    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        self._storage.commit(commit)
        if commit.batch % 3 == 0:
            self._storage.fold(commit.batch % 7 + 1)

    def load(self, tail: int) -> TenantState:
        path = _abandon(self._storage, self._path, "log")
        self._storage.close()
        self._path, self._storage = path, SqliteTenant(path, "app")
        expected, found = super().load(tail), self._storage.load(tail)
        found = replace(found, epoch=self.epoch, origin=self.origin, registers=list(found.registers))
        for name in ("seq", "time", "replicas", "receipts", "gists", "names"):
            left, right = getattr(found, name), getattr(expected, name)
            hold("storage keeps what it took", left == right, f"{name}: {left}, saved was {right}")
        ids = [entry.id for entry in found.tail]
        hold(
            "storage keeps what it took",
            ids == [entry.id for entry in expected.tail],
            f"the tail has {ids}",
        )
        return found

    def cut(self, floor: int) -> None:
        super().cut(floor)
        while self._storage.fold(7):
            pass
        while self._storage.trim(floor):
            pass

    def close(self) -> None:
        self._storage.close()


class ReplicaOnFile(ReplicaDisk):
    """A replica's disk, and beside it its real file, which must agree. It loses no tail."""

    def __init__(self, folder: Path, copied: ReplicaOnFile | None = None) -> None:
        super().__init__()
        self._folder = folder
        if copied is not None:
            self._safe = copied._whole(copied._journal)
            self._path = _abandon(copied._storage, copied._path, "outbox")
        else:
            self._path = folder / str(next(_names)) / "replica.db"
            self._path.parent.mkdir(parents=True)
        self._storage = ReplicaFile(self._path)

    tail = property(lambda self: 0)  # type: ignore[assignment]

    def save(self, commit: LocalCommit) -> None:
        super().save(commit)
        self._storage.save(commit)

    def load(self) -> LocalState:
        path = _abandon(self._storage, self._path, "outbox")
        self._storage.close()
        self._path, self._storage = path, ReplicaFile(path)
        expected, found = super().load(), self._storage.load()
        found.registers = list(found.registers)
        for name in ("pending", "meta", "registers", "kept"):
            left, right = (getattr(state, name) for state in (found, expected))
            if name == "meta":  # kept as JSON, which has no tuples
                right = json.loads(json.dumps(right))
            else:
                left, right = sorted(left, key=str), sorted(right, key=str)
            hold("storage keeps what it took", left == right, f"{name}: {left}, saved was {right}")
        return found

    def close(self) -> None:
        self._storage.close()

    def copied(self) -> ReplicaDisk:
        return ReplicaOnFile(self._folder, self)
