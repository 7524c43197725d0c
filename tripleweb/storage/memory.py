"""Memory in the place of a disk: the same contract without one, for embedded servers and tests.

What is durable here lives as long as the `MemoryStores` it came from: an app that is closed and opened again is as it
was. It folds as the others do, from its log into a `Store`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from tripleweb.change import DELETED, Change
from tripleweb.errors import HistoryError, StorageError
from tripleweb.ids import check_app, kind_of, nano_id
from tripleweb.storage import TAIL, App, Deed
from tripleweb.store import Store
from tripleweb.sync.records import Commit, Entry, ReplicaRow, TenantState


class _Data:
    """What an app's file would be."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.seq = self.time = 0
        self.log: list[Entry] = []
        self.receipts: dict[tuple[str, int], tuple[str, bytes]] = {}
        self.gists: dict[tuple[str, int], bytes] = {}
        self.names: dict[str, bytes] = {}
        self.replicas: dict[str, ReplicaRow] = {}
        self.table = Store()
        self.folded = self.part = 0
        self.floor = self.floor_at = 0
        self.base = Store()  # the state at the floor


class MemoryTenant:
    """One app; the contract is `storage.TenantStorage`."""

    def __init__(self, app: str, data: _Data | None = None) -> None:
        self.app = app
        self.closed = False
        self._data = _Data(nano_id(os.urandom)) if data is None else data
        self._failure = ""

    @property
    def backlog(self) -> int:
        return self._data.seq - self._data.folded

    def load(self, tail: int = TAIL) -> TenantState:
        data = self._ready()
        registers: list[Change] = list(data.table.registers())
        for entry in data.log[data.folded - data.floor :]:
            registers.extend(entry.registers)
        return TenantState(
            epoch=data.epoch,
            origin=data.epoch,
            seq=data.seq,
            time=data.time,
            registers=iter(registers),
            replicas={replica: replace(row) for replica, row in data.replicas.items()},
            receipts=dict(data.receipts),
            gists=dict(data.gists),
            names=dict(data.names),
            tail=data.log[-tail:] if tail else [],
        )

    def commit(self, commit: Commit) -> None:
        data = self._ready()
        expected = list(range(data.seq + 1, commit.seq + 1))
        if commit.seq < data.seq or [entry.seq for entry in commit.entries] != expected:
            self._failure = f"commit {commit.batch} up to {commit.seq} does not continue {data.seq}"
        keys = [(replica, number) for replica, number, _, _ in commit.receipts]
        if len({*keys}) < len(keys) or any(key in data.receipts for key in keys):
            self._failure = f"commit {commit.batch} brings a second receipt for a transaction"
        self._ready()
        data.log.extend(commit.entries)
        data.receipts.update({(replica, number): (tx, body) for replica, number, tx, body in commit.receipts})
        for replica, row in commit.replicas.items():
            data.replicas[replica] = replace(row)
        data.gists.update({(replica, number): body for replica, number, body in commit.gists})
        confirmed = {replica: row.confirmed for replica, row in commit.replicas.items()}
        for key in [key for key in data.gists if key[1] <= confirmed.get(key[0], 0)]:
            del data.gists[key]
        for replica, number, _ in commit.gists:
            confirmed[replica] = max(number, confirmed.get(replica, 0))
        for key in [key for key in data.receipts if key[1] <= confirmed.get(key[0], 0)]:
            del data.receipts[key]
        names = {**data.names, **commit.names}
        data.names = {name: body for name, body in names.items() if body is not None}
        data.seq, data.time = commit.seq, commit.time

    def fold(self, limit: int = 500) -> int:
        data = self._ready()
        moved = 0
        while moved < limit and data.folded < data.seq:
            registers = data.log[data.folded - data.floor].registers
            piece = list(islice(registers, data.part, data.part + limit - moved))
            data.table.apply(piece)
            moved += max(len(piece), 1)
            data.part += len(piece)
            if data.part >= len(registers):
                data.folded, data.part = data.folded + 1, 0
        return moved

    def since(self, seq: int, limit: int = 1_000) -> list[Entry]:
        data = self._ready()
        if seq < data.floor:
            raise HistoryError(f"the log of app {self.app!r} begins after entry {data.floor}, not {seq}")
        return data.log[seq - data.floor : seq - data.floor + limit]

    @property
    def floor(self) -> int:
        return self._data.floor

    @property
    def unarchived(self) -> int:
        return 0

    def archive(self) -> int:
        self._ready()
        return 0

    def trim(self, floor: int) -> int:
        data = self._ready()
        old = data.log[: max(0, min(floor, data.folded) - data.floor)][:1_000]
        for entry in old:
            data.base.apply(entry.registers)
            data.floor, data.floor_at = entry.seq, entry.at
        del data.log[: len(old)]
        return len(old)

    def reach(self, moment: int) -> int:
        data = self._ready()
        for entry in reversed(data.log):
            if entry.at <= moment:
                return entry.seq
        if data.floor and moment < data.floor_at:
            raise HistoryError(
                f"history begins later than that: what came before transaction {data.floor} is kept no longer"
            )
        return data.floor

    def past(self, seq: int, kinds: Collection[str] | None = None) -> Iterator[list[Change]]:
        data = self._ready()
        if not data.floor <= seq <= data.seq:
            raise HistoryError(
                f"history is kept from transaction {data.floor} to {data.seq}; {seq} lies outside of that"
            )
        wanted = None if kinds is None else {*kinds, DELETED}
        entries = data.log[: seq - data.floor]
        yield _of_kinds(data.base.registers(), wanted)
        for entry in entries:
            yield _of_kinds(entry.registers, wanted)

    def deeds(self, subject: str) -> Iterator[list[Deed]]:
        data = self._ready()
        entries = list(data.log)
        yield [Deed(data.floor, data.floor_at, "", list(data.base.registers_of(subject)))]
        for entry in entries:
            changes = [change for change in entry.registers if change.subject == subject]
            yield [Deed(entry.seq, entry.at, entry.by, changes)] if changes else []

    def close(self) -> None:
        self.closed = True

    def _ready(self) -> _Data:
        if self._failure or self.closed:
            raise StorageError(f"app {self.app!r}: {self._failure or 'was closed'}")
        return self._data


def _of_kinds(registers: Iterable[Change], kinds: Collection[str] | None) -> list[Change]:
    return [change for change in registers if kinds is None or kind_of(change.predicate) in kinds]


class MemoryStores:
    """The tenants of a server that forgets everything when it ends; see `storage.TenantStores`."""

    def __init__(self) -> None:
        self.server_id = nano_id(os.urandom)
        self._data: dict[str, _Data] = {}
        self._open: dict[str, MemoryTenant] = {}
        self._apps: dict[str, App] = {}

    def open(self, app: str) -> MemoryTenant:
        check_app(app)
        self._check_closed(app)
        if app not in self._data:
            self._data[app] = _Data(nano_id(os.urandom))
        tenant = self._open[app] = MemoryTenant(app, self._data[app])
        return tenant

    def _check_closed(self, app: str) -> None:
        if app in self._open and not self._open[app].closed:
            raise StorageError(f"app {app!r} is open already")

    def tenants(self) -> list[str]:
        return sorted(self._data)

    def drop(self, app: str) -> None:
        self._check_closed(app)
        self._data.pop(app, None)

    def apps(self) -> dict[str, App]:
        return dict(sorted(self._apps.items()))

    def put(self, app: App) -> None:
        self._apps[check_app(app.id)] = app

    def patch(
        self, app: str, name: str | None = None, members: Mapping[str, str | None] | None = None
    ) -> App:
        patched = self._apps[app] = self._apps[app].patched(name, members or {})
        return patched

    def delete(self, app: str) -> None:
        self.drop(app)
        self._apps.pop(app, None)

    def close(self) -> None:
        for tenant in self._open.values():
            tenant.close()
