"""The storage contract over every backend: histories, folding, receipts, failures, and processes killed at any moment.

A failure prints the seed in the name of its test. `Tenant` is the oracle: it makes commits like those of a server and
knows what must be there afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.test_store import random_changes
from tripleweb.change import DELETED, SINGLE, Change
from tripleweb.clock import stamp_text
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.storage import App, TenantStorage, TenantStores
from tripleweb.storage import file as storage_file
from tripleweb.storage import sqlite as storage_sqlite
from tripleweb.storage.archive import Sizes
from tripleweb.storage.file import DatabaseFile
from tripleweb.storage.memory import MemoryStores, MemoryTenant
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant, app_of, file_name
from tripleweb.storage.writer import Writer
from tripleweb.store import Store
from tripleweb.sync.messages import Committed, change_to_wire, encode
from tripleweb.sync.records import Commit, Entry, ReplicaRow
from tripleweb.terms import Ref

ROOT = Path(__file__).resolve().parent.parent
REPLICAS = ("0123456789ab", "zz3456789abc", "00000000000a")


def contents(registers: Iterable[Change]) -> list[str]:
    """Registers in a form in which 1, 1.0 and True differ."""
    store = Store()
    store.apply(registers)
    return sorted(map(repr, store.registers()))


class Tenant:
    """Makes random commits, all from one seed, and keeps what a storage must have after them."""

    def __init__(self, seed: object) -> None:
        self.rng = random.Random(f"{seed}/tenant")
        self.chance = random.Random(f"{seed}/gists")
        self.seq = self.batch = self.time = 0
        self.entries: list[Entry] = []
        self.receipts: dict[tuple[str, int], tuple[str, bytes]] = {}
        self.gists: dict[tuple[str, int], bytes] = {}
        self.names: dict[str, bytes] = {}
        self.replicas: dict[str, ReplicaRow] = {}
        self.store = Store()

    def commit(self, entries: int | None = None, changes: int = 6) -> Commit:
        rng = self.rng
        self.batch += 1
        self.time += rng.randrange(1, 5)
        commit = Commit(self.batch, self.seq, self.time)
        for _ in range(rng.randrange(4) if entries is None else entries):
            replica = rng.choice(REPLICAS)
            row = self.replicas.setdefault(replica, ReplicaRow(f"user {replica[0]}"))
            row.last += 1
            row.time = row.seen = self.time
            if rng.random() < 0.8:
                self._enter(commit, replica, row.last, random_changes(rng, rng.randrange(1, changes)))
            body = b'{"receipt":%d}' % row.last
            commit.receipts.append((replica, row.last, f"t{row.last}", body))
            self.receipts[replica, row.last] = (f"t{row.last}", body)
            commit.replicas[replica] = row
        for replica, row in self.replicas.items():
            if rng.random() < 0.2 and row.confirmed < row.last:
                row.confirmed = rng.randrange(row.confirmed, row.last) + 1
                commit.replicas[replica] = row
                for key in [key for key in self.receipts if key[0] == replica and key[1] <= row.confirmed]:
                    del self.receipts[key]
                for key in [key for key in self.gists if key[0] == replica and key[1] <= row.confirmed]:
                    del self.gists[key]
            held = sorted(key for key in self.receipts if key[0] == replica)
            if self.chance.random() < 0.1 and held:  # also some that come with this very commit
                number = self.chance.choice(held)[1]
                commit.gists.append((replica, number, b"gist%d" % number))
                self.gists[replica, number] = b"gist%d" % number
                for key in [key for key in held if key[1] <= number]:
                    del self.receipts[key]
        for name in "abc":
            if self.chance.random() < 0.1:
                body = None if self.chance.random() < 0.4 else b"name%d" % self.batch
                commit.names[name] = body
                if body is not None:
                    self.names[name] = body
                else:
                    self.names.pop(name, None)
        commit.replicas = {replica: ReplicaRow(*vars_of(row)) for replica, row in commit.replicas.items()}
        commit.seq = self.seq
        return commit

    def _enter(self, commit: Commit, replica: str, number: int, changes: list[Change]) -> None:
        self.seq += 1
        at = self.rng.randrange(12)  # few moments, so that stamps meet
        registers = tuple(change._replace(time=at, replica=replica) for change in changes)
        body = Committed(self.seq, "ada", stamp_text(at, replica), [change_to_wire(c) for c in registers])
        entry = Entry(
            self.seq, replica, number, f"t{number}", "ada", 1000 + self.seq, encode(body), registers
        )
        commit.entries.append(entry)
        self.entries.append(entry)
        self.store.apply(registers)

    def check(self, storage: TenantStorage, tail: int = 7) -> None:
        state = storage.load(tail)
        assert contents(state.registers) == sorted(map(repr, self.store.registers()))
        assert (state.seq, state.time) == (self.seq, self.time)
        assert state.replicas == self.replicas
        assert state.receipts == self.receipts
        assert state.gists == self.gists
        assert state.names == self.names
        assert repr(state.tail) == repr(self.entries[-tail:])


def vars_of(row: ReplicaRow) -> tuple[str, int, int, int, int]:
    return row.user, row.last, row.confirmed, row.time, row.seen


SMALL = Sizes(kept=7, run_bytes=400, frame=8)  # so that a short history has runs and frames


@pytest.fixture(params=["memory", "sqlite", "sqlite, large entries", "sqlite, small archive"])
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TenantStores]:
    if request.param == "sqlite, large entries":
        monkeypatch.setattr(storage_sqlite, "UNREAD_BYTES", 200)
    sizes = SMALL if request.param == "sqlite, small archive" else None
    made: TenantStores = (
        MemoryStores() if request.param == "memory" else SqliteStores(tmp_path / "data", sizes)
    )
    yield made
    made.close()


# ---------------------------------------- one app


@pytest.mark.parametrize("seed", range(25))
def test_after_any_history_the_state_is_that_of_a_store_fed_the_same(stores: TenantStores, seed: int) -> None:
    rng = random.Random(f"{seed}/actions")
    tenant, storage = Tenant(seed), stores.open("app")
    epoch = storage.load().epoch
    for _ in range(60):
        roll = rng.random()
        if roll < 0.55:
            storage.commit(tenant.commit())
        elif roll < 0.85:
            limit = rng.choice([1, 2, 5, 100])
            backlog = storage.backlog
            moved = storage.fold(limit)
            assert moved <= limit and (moved > 0) == (backlog > 0)
            storage.archive()
        elif roll < 0.92:
            storage.close()
            storage = stores.open("app")
        else:
            seq, limit = rng.randrange(tenant.seq + 2), rng.randrange(1, 10)
            assert repr(storage.since(seq, limit)) == repr(tenant.entries[seq : seq + limit])
        tenant.check(storage)
    while storage.fold(10) or storage.archive():
        tenant.check(storage)
    assert storage.backlog == 0 and repr(storage.since(0)) == repr(tenant.entries)
    storage.close()
    reopened = stores.open("app")
    tenant.check(reopened)
    assert reopened.load().epoch == epoch


def test_a_new_app_is_empty_and_each_has_its_own_epoch(stores: TenantStores) -> None:
    state, other = stores.open("app").load(), stores.open("other").load()
    assert (state.seq, state.time, list(state.registers), state.tail, state.receipts, state.replicas) == (
        *(0, 0, [], [], {}, {}),
    )
    assert len(state.epoch) > 10 and state.epoch != other.epoch


def test_receipts_stay_until_they_are_confirmed(stores: TenantStores) -> None:
    storage = stores.open("app")
    row = ReplicaRow("ada", last=3)
    storage.commit(Commit(1, 0, 1, [], [("r1", n, f"t{n}", b"{}") for n in (1, 2, 3)], {"r1": row}))
    storage.commit(Commit(2, 0, 2, [], [("r2", 1, "u1", b"{}")], {"r2": ReplicaRow("bob", last=1)}))
    assert len(storage.load().receipts) == 4
    storage.commit(Commit(3, 0, 3, [], [("r1", 4, "t4", b"{}")], {"r1": ReplicaRow("ada", 4, 2)}))
    assert sorted(storage.load().receipts) == [("r1", 3), ("r1", 4), ("r2", 1)]
    assert storage.load().replicas["r1"] == ReplicaRow("ada", 4, 2)


def test_a_gist_takes_the_place_of_receipts_and_goes_when_it_is_confirmed(stores: TenantStores) -> None:
    storage = stores.open("app")
    row = ReplicaRow("ada", last=5)
    storage.commit(Commit(1, 0, 1, [], [("r1", n, f"t{n}", b"{}") for n in range(1, 6)], {"r1": row}))
    storage.commit(Commit(2, 0, 2, [], [("r2", 1, "u1", b"{}")], {"r2": ReplicaRow("bob", last=1)}))
    storage.commit(Commit(3, 0, 3, gists=[("r1", 2, b"one"), ("r1", 4, b"two")]))
    storage.close()
    storage = stores.open("app")
    assert sorted(storage.load().receipts) == [("r1", 5), ("r2", 1)]
    assert storage.load().gists == {("r1", 2): b"one", ("r1", 4): b"two"}
    assert storage.load().replicas["r1"] == row
    storage.commit(Commit(4, 0, 4, replicas={"r1": ReplicaRow("ada", 5, 3, seen=7)}))
    assert storage.load().gists == {("r1", 4): b"two"}
    storage.commit(Commit(5, 0, 5, gists=[("r1", 5, b"three")], replicas={"r1": ReplicaRow("ada", 5, 5)}))
    assert (storage.load().gists, sorted(storage.load().receipts)) == ({}, [("r2", 1)])


def test_a_state_is_not_altered_by_later_commits(stores: TenantStores) -> None:
    tenant, storage = Tenant(1), stores.open("app")
    for _ in range(20):
        storage.commit(tenant.commit())
    storage.fold(10)
    before = sorted(map(repr, tenant.store.registers()))
    state = storage.load()
    registers = iter(state.registers)
    first = next(registers)  # being consumed, as by a server that loads in slices
    replicas = {replica: vars_of(row) for replica, row in state.replicas.items()}
    for _ in range(20):
        storage.commit(tenant.commit())
        storage.fold(10)
    assert contents([first, *registers]) == before
    assert {replica: vars_of(row) for replica, row in state.replicas.items()} == replicas
    tenant.check(storage)


def test_a_large_transaction_is_folded_in_slices(stores: TenantStores) -> None:
    tenant, storage = Tenant(2), stores.open("app")
    tenant.batch, commit = 1, Commit(1, 1, 0)
    changes = [Change(f"e{i}", "k/a", SINGLE, i, 1, "a") for i in range(250)]
    tenant._enter(commit, REPLICAS[0], 1, changes)
    storage.commit(commit)
    slices = [storage.fold(100), storage.fold(100)]
    tenant.check(storage)
    storage.close()
    storage = stores.open("app")
    tenant.check(storage)
    assert [*slices, storage.fold(100), storage.fold(100)] == [100, 100, 50, 0]
    tenant.check(storage)


@pytest.mark.parametrize("spoil", ["gap", "again", "backwards", "receipt"])
def test_a_commit_that_does_not_continue_fails_whole_and_for_good(stores: TenantStores, spoil: str) -> None:
    tenant, storage = Tenant(3), stores.open("app")
    for _ in range(3):
        last = tenant.commit(entries=3)
        storage.commit(last)
    wrong = Tenant(4)
    wrong.seq = {"gap": tenant.seq + 1, "again": tenant.seq - 1}.get(spoil, tenant.seq)
    commit = wrong.commit(entries=3)
    commit.receipts = commit.receipts if spoil != "receipt" else [("new", 1, "a", b""), ("new", 1, "b", b"")]
    commit.replicas.clear()
    if spoil != "receipt":
        commit.receipts.clear()
    if spoil == "backwards":
        commit.entries, commit.seq = [], tenant.seq - 1
    with pytest.raises(StorageError):
        storage.commit(commit)
    with pytest.raises(StorageError):
        storage.commit(tenant.commit())
    tenant = Tenant(3)
    for _ in range(3):
        tenant.commit(entries=3)
    with pytest.raises(StorageError):
        storage.load()
    storage.close()
    tenant.check(stores.open("app"))


def test_a_closed_storage_says_so(stores: TenantStores) -> None:
    storage = stores.open("app")
    storage.close()
    storage.close()
    for use in (
        storage.load,
        storage.fold,
        lambda: storage.since(0),
        lambda: storage.archive(),
        lambda: storage.trim(1),
        lambda: storage.reach(1),
        lambda: list(storage.past(0)),
        lambda: list(storage.deeds("e0")),
        lambda: storage.commit(Commit(1, 0, 1)),
    ):
        with pytest.raises(StorageError, match="closed"):
            use()


# ---------------------------------------- the tenants of a server


def test_the_registry(stores: TenantStores) -> None:
    assert stores.apps() == {}
    stores.put(App("b", "Second", 2))
    stores.put(App("a", "First", 1, {"ada": "admin", "bob": "writer"}))
    assert list(stores.apps().items()) == [
        ("a", App("a", "First", 1, {"ada": "admin", "bob": "writer"})),
        ("b", App("b", "Second", 2)),
    ]
    patched = stores.patch("a", members={"bob": None, "cy": "reader"})
    assert patched == stores.apps()["a"] == App("a", "First", 1, {"ada": "admin", "cy": "reader"})
    assert stores.patch("a", name="Début").name == stores.apps()["a"].name == "Début"
    with pytest.raises(KeyError):
        stores.patch("c", name="x")
    with pytest.raises(ValueError, match="App ID"):
        stores.put(App("../c", "x", 1))
    stores.delete("b")
    assert list(stores.apps()) == ["a"]


def test_tenants_are_opened_once_listed_and_dropped(stores: TenantStores) -> None:
    assert stores.tenants() == []
    storage, other = stores.open("App"), stores.open("app")
    storage.commit(Commit(1, 0, 5))
    assert other.load().time == 0 and stores.tenants() == ["App", "app"]
    for use in (stores.open, stores.drop, stores.delete):
        with pytest.raises(StorageError, match="open"):
            use("App")
    epoch = storage.load().epoch
    storage.close()
    assert stores.open("App").load().epoch == epoch
    other.close()
    stores.put(App("app", "x", 1))
    stores.delete("app")
    assert stores.tenants() == ["App"] and stores.apps() == {}
    stores.drop("never seen-".strip("-").replace(" ", "-"))
    assert stores.open("app").load().time == 0
    with pytest.raises(ValueError, match="App ID"):
        stores.open("a/b")


def test_every_app_has_a_file_name_of_its_own_everywhere() -> None:
    apps = [
        "a",
        "A",
        "aA",
        "Aa",
        "a.b",
        "a_b",
        "a-b",
        "con",
        "CON",
        "com1",
        "lpt9",
        "x" * 64,
        "X" * 64,
        "nul.txt",
    ]
    names = [file_name(app) for app in apps]
    assert len({name.lower() for name in names}) == len(apps)
    assert [app_of(name) for name in names] == apps
    assert all(
        len(name) < 220 and name.split(".")[0].lower() not in storage_sqlite._RESERVED for name in names
    )


# ---------------------------------------- SQLite


def test_the_server_keeps_its_id_and_its_apps(tmp_path: Path) -> None:
    first = SqliteStores(tmp_path)
    server_id = first.server_id
    first.put(App("a", "A", 1, {"ada": "admin"}))
    first.close()
    second = SqliteStores(tmp_path)
    assert (second.server_id, second.apps()) == (server_id, {"a": App("a", "A", 1, {"ada": "admin"})})
    second.close()
    other = SqliteStores(tmp_path / "other")
    assert len(server_id) > 10 and other.server_id != server_id
    other.close()


def test_two_servers_never_own_one_directory(tmp_path: Path) -> None:
    held = child("hold_directory", tmp_path)
    assert held.stdout is not None and held.stdout.readline().strip() == "held"
    with pytest.raises(StoreLockedError, match=f"process {held.pid}"):
        SqliteStores(tmp_path)
    kill(held)
    stores = SqliteStores(tmp_path)
    with pytest.raises(StoreLockedError):
        SqliteStores(tmp_path)
    stores.close()
    SqliteStores(tmp_path).close()


def hold_directory(folder: str) -> None:
    stores = SqliteStores(folder)
    print("held", flush=True)
    sys.stdin.read()
    stores.close()


def test_the_table_can_be_read_with_any_sqlite(tmp_path: Path) -> None:
    tenant, storage = Tenant(5), SqliteTenant(tmp_path / "app", "app")
    commit = Commit(1, 1, 0)
    changes = [
        Change("ada", "user/name", "", "Ada", 1, "a"),
        Change("ada", "user/boss", "", Ref("bob"), 1, "a"),
        Change("ada", "user/tall", "", True, 1, "a"),
        Change("ada", "user/age", "", None, 1, "a"),
        Change("ada", "user/tags", "*", None, 1, "a"),
        Change("cy", DELETED, "", True, 1, "a"),
    ]
    tenant._enter(commit, REPLICAS[0], 1, changes)
    storage.commit(commit)
    assert storage.fold() == 6
    storage.close()
    assert [path.name for path in tmp_path.iterdir()] == ["app"], "no side files are left behind"
    hlc = stamp_text(commit.entries[0].registers[0].time, REPLICAS[0])
    with sqlite3.connect(tmp_path / "app") as connection:
        rows = connection.execute(
            "SELECT subject, predicate, slot, object, object_type, deleted, hlc, seq, tx, author FROM triples"
        ).fetchall()
        log = connection.execute('SELECT seq, replica, number, id, "by", at FROM log').fetchall()
    connection.close()
    common = (hlc, 1, "t1", "ada")
    assert sorted(rows) == [
        ("ada", "user/age", "", None, None, 1, *common),
        ("ada", "user/boss", "", "bob", "ref", 0, *common),
        ("ada", "user/name", "", "Ada", "string", 0, *common),
        ("ada", "user/tags", "*", None, None, 0, *common),
        ("ada", "user/tall", "", 1, "boolean", 0, *common),
        ("cy", "_deleted", "", 1, "boolean", 1, *common),
    ]
    assert log == [(1, REPLICAS[0], 1, "t1", "ada", 1001)]


@pytest.mark.parametrize("seed", range(10))
def test_the_table_holds_what_the_store_holds_and_nothing_else(tmp_path: Path, seed: int) -> None:
    tenant, storage = Tenant(seed), SqliteTenant(tmp_path / "app", "app")
    for _ in range(40):
        storage.commit(tenant.commit())
        storage.fold(tenant.rng.randrange(1, 20))
    while storage.fold():
        pass
    storage.close()
    with sqlite3.connect(tmp_path / "app") as connection:
        rows = connection.execute(
            "SELECT subject, predicate, slot, hlc, object IS NULL FROM triples"
        ).fetchall()
    connection.close()
    assert sorted(rows) == sorted(
        (*register.key, stamp_text(*register.stamp), register.value is None)
        for register in tenant.store.registers()
    )


def test_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    storage = SqliteTenant(tmp_path / "app", "app")
    with storage._file.reading() as connection:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    assert settings == ["wal", 2]
    storage.close()


def test_a_full_disk_fails_the_commit_and_loses_nothing_before_it(tmp_path: Path) -> None:
    tenant, storage = Tenant(6), SqliteTenant(tmp_path / "app", "app")
    for _ in range(10):
        storage.commit(tenant.commit())
    with storage._file.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    again = Tenant(6)
    for _ in range(10):
        again.commit()
    big = Tenant(7)
    big.seq = tenant.seq
    with pytest.raises(StorageError, match=r"app.*full"):
        storage.commit(big.commit(entries=200, changes=40))
    with pytest.raises(StorageError, match="open it again"):
        storage.commit(tenant.commit())
    storage.close()
    storage = SqliteTenant(tmp_path / "app", "app")
    again.check(storage)
    storage.close()


def test_the_write_ahead_log_stays_bounded_while_commits_rush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_file, "WAL_BYTES_MAX", 200_000)
    monkeypatch.setattr(storage_file, "WAL_BYTES_KEPT", 100_000)
    tenant, storage = Tenant(8), SqliteTenant(tmp_path / "app", "app")
    for _ in range(25):
        storage.commit(tenant.commit(entries=20))
    assert (tmp_path / "app-wal").stat().st_size < 400_000 < 25 * 5 * 4096
    registers = iter(storage.load().registers)
    assert next(registers)  # a reader pins the log: it may grow, commits go on
    for _ in range(10):
        storage.commit(tenant.commit(entries=20))
    tenant.check(storage)
    storage.close()


def test_small_transactions_after_a_large_one_make_few_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's file stays as large as it was; what is in it does not."""
    made: list[int] = []
    checkpoint = DatabaseFile.checkpoint

    def counted(self: DatabaseFile) -> None:
        made.append(1)
        checkpoint(self)

    monkeypatch.setattr(DatabaseFile, "checkpoint", counted)
    file = DatabaseFile(tmp_path / "x", "some 1", "CREATE TABLE t (b BLOB)", full=False, sole=True)
    for size, pages in [(5 << 20, 1_300), *[(100, 5)] * 400]:
        file.ease(pages)
        with file.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (zeroblob(?))", (size,))
    assert 1 <= len(made) <= 3
    assert (tmp_path / "x-wal").stat().st_size < storage_file.WAL_BYTES_KEPT
    file.close()


def crash_copy(source: Path, target: Path) -> Path:
    """The files as they lie there while they are open: what a crash of the machine leaves."""
    target.mkdir()
    for path in source.parent.glob(f"{source.name}*"):
        shutil.copy(path, target / path.name)
    return target / source.name


def test_damage_is_found_after_an_unclean_stop_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    storage = SqliteTenant(tmp_path / "live" / "app", "app")
    tenant = Tenant(9)
    for _ in range(40):
        storage.commit(tenant.commit(entries=6))
    while storage.fold():
        pass
    storage.commit(tenant.commit(entries=1))
    whole = crash_copy(tmp_path / "live" / "app", tmp_path / "whole")
    damaged = crash_copy(tmp_path / "live" / "app", tmp_path / "damaged")
    storage.close()
    reopened = SqliteTenant(whole, "app")
    tenant.check(reopened)
    reopened.close()
    with open(damaged, "r+b") as file:
        for page in range(3, damaged.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(600))
    with pytest.raises(StorageError, match=str(damaged)):
        SqliteTenant(damaged, "app")


def test_a_damaged_row_is_an_error_not_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "app"
    for column, value in (("body", b"{}"), ("body", b"\xff"), ("hlc", "zz"), ("object", b"\x00")):
        tenant, storage = Tenant(10), SqliteTenant(path, "app")
        storage.commit(tenant.commit(entries=4))
        while storage.fold():
            pass
        storage.close()
        table = "log" if column == "body" else "triples"
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
        connection.close()
        storage = SqliteTenant(path, "app")
        with pytest.raises(StorageError, match=f"{path}.*damaged"):
            list(storage.load().registers)
        storage.close()
        path.unlink()


@pytest.mark.parametrize("kind", ["text", "other database", "other kind", "other version", "a folder"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "app"
    said = "tenant"
    if kind == "text":
        path.write_text("a letter to my grandmother\n" * 200)
        said = "not a database"
    elif kind == "a folder":
        path.mkdir()
        said = str(path)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE meta (name TEXT, value)")
            held = {"other kind": "tripleweb replica 1", "other version": "tripleweb tenant 99"}.get(kind)
            connection.execute("INSERT INTO meta VALUES ('_format', ?)", (held,))
        connection.close()
        said = "99.*reads.*tenant 4" if kind == "other version" else "is not a tripleweb tenant"
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StorageError, match=said):
        SqliteTenant(path, "app")
    assert [found.name for found in tmp_path.iterdir()] == ["app"]
    assert not path.is_file() or path.read_bytes() == before


# ---------------------------------------- killed processes


def child(function: str, *arguments: object, module: str = __name__) -> subprocess.Popen[str]:
    """A function of a test module in a process of its own."""
    code = f"from {module} import {function}; {function}(*{list(map(str, arguments))!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def kill(process: subprocess.Popen[str]) -> list[str]:
    """kill -9; returns what it had said and was not yet read, whole lines only."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended by itself: nothing was tried"
    return [line for line in said.splitlines(keepends=True) if line.endswith("\n")]


def commit_for_ever(folder: str, seed: str) -> None:
    rng = random.Random(f"{seed}/child")
    tenant, storage = Tenant(seed), SqliteStores(folder).open("app")
    while True:
        commit = tenant.commit(entries=rng.randrange(20))
        storage.commit(commit)
        print(commit.batch, flush=True)
        if rng.random() < 0.3:
            storage.fold(rng.randrange(1, 60))


def check_survival(folder: Path, seed: int) -> None:
    process = child("commit_for_ever", folder, seed)
    assert process.stdout is not None
    acked = 0
    for _ in range(random.Random(f"{seed}/moment").randrange(1, 120)):
        acked = int(process.stdout.readline())
    acked = max([acked, *map(int, kill(process))])
    stores = SqliteStores(folder)
    storage = stores.open("app")
    tenant, landed = Tenant(seed), storage.load().time
    entries = random.Random(f"{seed}/child")
    while tenant.time < landed:
        tenant.commit(entries=entries.randrange(20))
        if entries.random() < 0.3:
            entries.randrange(1, 60)
    assert tenant.batch >= acked, f"commit {acked} was acknowledged, {tenant.batch} is the last there"
    tenant.check(storage)
    while storage.fold(50):
        pass
    tenant.check(storage)
    stores.close()
    with sqlite3.connect(folder / file_name("app")) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_a_killed_server(tmp_path: Path, seed: int) -> None:
    check_survival(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 108))
def test_what_was_acknowledged_survives_a_killed_server_often(tmp_path: Path, seed: int) -> None:
    check_survival(tmp_path, seed)


# ---------------------------------------- the writer


def wait_until(condition: Callable[[], bool], said: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, said
        time.sleep(0.002)


def direct(function: Callable[..., None], *arguments: object) -> None:
    function(*arguments)


def test_the_writer_calls_back_once_a_commit_in_order_on_the_loop(stores: TenantStores) -> None:
    async def run() -> None:
        loop, home = asyncio.get_running_loop(), threading.get_ident()
        writer = Writer(loop.call_soon_threadsafe, rest=0.01)
        tenants = {app: (Tenant(app), stores.open(app), []) for app in ("a", "b", "c")}
        finished = asyncio.Event()

        def done(app: str) -> Callable[[Commit, Exception | None], None]:
            def called(commit: Commit, error: Exception | None) -> None:
                assert error is None and threading.get_ident() == home
                tenants[app][2].append(commit.batch)
                if all(len(seen) == 30 for _, _, seen in tenants.values()):
                    finished.set()

            return called

        for _ in range(30):
            for app, (tenant, storage, _) in tenants.items():
                writer.submit(storage, tenant.commit(), done(app))
        await asyncio.wait_for(finished.wait(), 20)
        assert all(seen == list(range(1, 31)) for _, _, seen in tenants.values())
        assert await loop.run_in_executor(None, writer.stop)
        for tenant, storage, _ in tenants.values():
            tenant.check(storage)

    asyncio.run(run())


def test_the_writer_folds_when_nothing_else_is_to_do(stores: TenantStores) -> None:
    writer = Writer(direct, threads=1, rest=0.001)
    tenants = [(Tenant(app), stores.open(app)) for app in ("a", "b")]
    for tenant, storage in tenants:
        writer.submit(storage, tenant.commit(entries=20), lambda commit, error: None)
    wait_until(lambda: not any(storage.backlog for _, storage in tenants), "the log was never folded")
    for tenant, storage in tenants:
        writer.submit(storage, tenant.commit(entries=5), lambda commit, error: None)
    assert writer.stop()
    for tenant, storage in tenants:
        tenant.check(storage)


def test_a_failed_commit_is_told_and_harms_no_other_app(stores: TenantStores) -> None:
    writer = Writer(direct, threads=1)
    good, bad = stores.open("good"), stores.open("bad")
    told: list[tuple[str, int, str]] = []

    def note(app: str) -> Callable[[Commit, Exception | None], None]:
        return lambda commit, error: told.append((app, commit.batch, type(error).__name__))

    broken = Commit(1, 5, 1)
    broken.receipts = [("r", 1, None, b"")]  # type: ignore[list-item]
    writer.submit(bad, broken, note("bad"))
    writer.submit(bad, Commit(2, 0, 1), note("bad"))
    writer.submit(good, Commit(1, 0, 1), note("good"))
    assert writer.stop()
    assert told == [("bad", 1, "StorageError"), ("bad", 2, "StorageError"), ("good", 1, "NoneType")]


def test_retiring_closes_after_the_commits_and_stopping_takes_nothing_more(stores: TenantStores) -> None:
    writer, tenant, storage = Writer(direct, rest=0.001), Tenant(1), stores.open("a")
    told: list[object] = []
    for _ in range(5):
        writer.submit(storage, tenant.commit(), lambda commit, error: told.append(error))
    writer.retire(storage, lambda error: told.append(("closed", error)))
    assert writer.stop() and told == [*[None] * 5, ("closed", None)]
    with pytest.raises(StorageError, match="stopped"):
        writer.submit(storage, tenant.commit(), lambda commit, error: None)
    with pytest.raises(StorageError, match="closed"):
        storage.load()
    assert Writer(direct).stop(), "a writer that never wrote stops at once"


class Gate(MemoryTenant):
    """A storage whose commits wait until they are let through."""

    def __init__(self) -> None:
        super().__init__("gate")
        self.open = threading.Event()
        self.folding = 0

    def commit(self, commit: Commit) -> None:
        assert self.open.wait(20)
        super().commit(commit)

    def fold(self, limit: int = 500) -> int:
        self.folding += 1
        raise StorageError("no room")


def test_what_may_wait_is_bounded_and_stop_says_if_it_was_in_time() -> None:
    gate, told = Gate(), []
    writer = Writer(direct, limit=3)
    writer.submit(gate, Commit(1, 0, 1), lambda commit, error: told.append(commit.batch))
    wait_until(lambda: not any(lane.jobs for lane in writer._lanes), "the thread did not take the first")
    for batch in (2, 3, 4):
        writer.submit(gate, Commit(batch, 0, 1), lambda commit, error: told.append(commit.batch))
    with pytest.raises(StorageError, match="waiting"):
        writer.submit(gate, Commit(5, 0, 1), lambda commit, error: told.append(commit.batch))
    assert not writer.stop(timeout=0.01)
    gate.open.set()
    assert writer.stop() and told == [1, 2, 3, 4]


def test_a_commit_is_waited_for_unless_the_disk_is_slow() -> None:
    gate = Gate()
    writer = Writer(direct)
    slow = writer.submit(gate, Commit(1, 0, 1), lambda commit, error: None)
    assert not writer.wait(slow, 0.2)
    gate.open.set()
    assert slow.wait(20) and slow.error is None
    assert not writer.wait(slow, 0.2), "for four seconds from then on nobody is waited for"
    other = Writer(direct)
    assert other.wait(other.submit(gate, Commit(2, 0, 2), lambda commit, error: None), 20)
    assert writer.stop() and other.stop()


def test_trouble_in_the_background_is_logged_and_the_thread_lives(caplog: pytest.LogCaptureFixture) -> None:
    def closed_loop(function: Callable[..., None], *arguments: object) -> None:
        raise RuntimeError("Event loop is closed")

    gate, told = Gate(), []
    gate.open.set()
    with caplog.at_level(logging.ERROR, "tripleweb"):
        broken = Writer(closed_loop)
        broken.submit(gate, Commit(1, 0, 1), lambda commit, error: told.append(commit.batch))
        assert broken.stop() and not told
        writer = Writer(direct, rest=0.001)
        writer.submit(gate, Commit(2, 0, 2), lambda commit, error: told.append(commit.batch))
        wait_until(lambda: gate.folding > 0, "nothing was folded")
        writer.submit(gate, Commit(3, 0, 3), lambda commit, error: told.append(commit.batch))
        assert writer.stop() and told == [2, 3]
    assert "could not be delivered" in caplog.text and "folding the log of app 'gate' failed" in caplog.text
