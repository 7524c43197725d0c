"""The log as history, over every backend: `past`, `deeds`, `reach` and `since` give what replaying the log gives,
whatever has been folded, archived and cut off meanwhile.

`test_storage.Tenant` makes the histories; a plain `Store` that is fed its entries is the oracle.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.test_storage import REPLICAS, Tenant, contents
from tripleweb.change import DELETED, SINGLE, Change
from tripleweb.errors import HistoryError, StorageError
from tripleweb.ids import kind_of
from tripleweb.storage import TenantStorage, TenantStores, archive
from tripleweb.storage.archive import Sizes
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import OLDER, SqliteStores, SqliteTenant
from tripleweb.store import Store
from tripleweb.sync.records import Commit

TINY = Sizes(kept=2, run_bytes=300, frame=8)


@pytest.fixture(params=["memory", "sqlite", "sqlite, pieces of two"])
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TenantStores]:
    if request.param == "sqlite, pieces of two":
        monkeypatch.setattr(archive, "PIECE", 2)
        monkeypatch.setattr(archive, "SCANNED", 3)
    made: TenantStores = (
        MemoryStores() if request.param == "memory" else SqliteStores(tmp_path / "data", TINY)
    )
    yield made
    made.close()


def replayed(tenant: Tenant, seq: int, kinds: set[str] | None = None) -> list[str]:
    """The registers after `seq`, as they print."""
    store = Store()
    for entry in tenant.entries[:seq]:
        store.apply(entry.registers)
    wanted = None if kinds is None else {*kinds, DELETED}
    return sorted(
        repr(one) for one in store.registers() if wanted is None or kind_of(one.predicate) in wanted
    )


def found(storage: TenantStorage, seq: int, kinds: set[str] | None = None) -> list[str]:
    store = Store()
    for piece in storage.past(seq, kinds):
        store.apply(piece)
    return sorted(map(repr, store.registers()))


def check_history(tenant: Tenant, storage: TenantStorage, rng: random.Random, every: bool = False) -> None:
    floor = storage.floor
    seqs = range(floor, tenant.seq + 1)
    for seq in seqs if every else rng.sample(seqs, min(2, len(seqs))):
        assert found(storage, seq) == replayed(tenant, seq)
        kinds = {*rng.sample(["k", "other", "nothing"], rng.randrange(3))}
        assert found(storage, seq, kinds) == replayed(tenant, seq, kinds)
        if seq:
            assert storage.reach(1000 + seq) == seq
    for subject in ("e0", "e1", "e2", "e", "nobody"):
        deeds = [deed for piece in storage.deeds(subject) for deed in piece]
        base = Store()
        for entry in tenant.entries[:floor]:
            base.apply(entry.registers)
        assert contents(deeds[0].changes) == contents(base.registers_of(subject))
        expected = [
            (entry.seq, entry.at, entry.by, repr([one for one in entry.registers if one.subject == subject]))
            for entry in tenant.entries[floor:]
            if any(one.subject == subject for one in entry.registers)
        ]
        assert [(deed.seq, deed.at, deed.by, repr(deed.changes)) for deed in deeds[1:]] == expected
    assert repr(storage.since(floor)) == repr(tenant.entries[floor:])
    after, limit = rng.randrange(floor, tenant.seq + 1), rng.randrange(1, 9)
    assert repr(storage.since(after, limit)) == repr(tenant.entries[after : after + limit])


@pytest.mark.parametrize("seed", range(5))
def test_the_history_is_the_log_replayed_whatever_was_moved_or_cut(stores: TenantStores, seed: int) -> None:
    rng = random.Random(f"{seed}/moves")
    tenant, storage = Tenant(f"{seed}/history"), stores.open("app")
    for _ in range(60):
        roll = rng.random()
        if roll < 0.5:
            storage.commit(tenant.commit())
        elif roll < 0.75:
            storage.fold(rng.choice([1, 5, 100]))
        elif roll < 0.92:
            storage.archive()
        elif roll < 0.96:
            storage.close()
            storage = stores.open("app")
        elif tenant.seq:
            before, floor = storage.floor, rng.randrange(tenant.seq)
            while storage.trim(floor):
                pass
            assert before <= storage.floor <= max(before, floor)
        if rng.random() < 0.2:
            check_history(tenant, storage, rng)
            tenant.check(storage, tail=2)
    while storage.fold() or storage.archive():
        pass
    assert not storage.backlog
    check_history(tenant, storage, rng, every=True)


def filled(storage: TenantStorage, seed: object, commits: int = 40) -> Tenant:
    tenant = Tenant(seed)
    for _ in range(commits):
        storage.commit(tenant.commit(entries=2))
        storage.fold(9)
        storage.archive()
    while storage.fold() or storage.archive():
        pass
    return tenant


def test_before_the_floor_and_beyond_the_end_there_is_no_history(stores: TenantStores) -> None:
    storage = stores.open("app")
    tenant = filled(storage, "floor")
    assert (storage.floor, storage.reach(1000), storage.reach(0)) == (0, 0, 0)
    assert storage.trim(0) == 0
    while storage.trim(30):
        assert repr(storage.load(2).tail) == repr(tenant.entries[-2:])
    for _ in range(2):
        assert storage.floor == 30 and storage.reach(1030) == 30 and storage.reach(9999) == tenant.seq
        refused: list[Callable[[], object]] = [
            lambda: storage.reach(1029),
            lambda: list(storage.past(29)),
            lambda: list(storage.past(tenant.seq + 1)),
            lambda: storage.since(29),
        ]
        for ask in refused:
            with pytest.raises(HistoryError):
                ask()
        assert found(storage, 30) == replayed(tenant, 30)
        tenant.check(storage, tail=2)
        storage.close()
        storage = stores.open("app")
    check_history(tenant, storage, random.Random(0), every=True)


def test_the_floor_is_never_beyond_what_is_folded(stores: TenantStores) -> None:
    tenant, storage = Tenant("unfolded"), stores.open("app")
    for _ in range(5):
        storage.commit(tenant.commit(entries=2))
    assert storage.trim(9) == 0 and storage.floor == 0
    while storage.fold():
        pass
    while storage.trim(99):
        pass
    assert storage.floor == tenant.seq > 0 and storage.load().tail == [] and storage.since(tenant.seq) == []
    storage.commit(tenant.commit(entries=2))
    check_history(tenant, storage, random.Random(0), every=True)


def test_time_may_stand_still_or_go_back(stores: TenantStores) -> None:
    tenant, storage = Tenant("clocks"), stores.open("app")
    moments = [5, 5, 9, 9, 9, 3, 4, 12, 12, 11]
    for n, at in enumerate(moments, 1):
        commit = Commit(n, n, 0)
        tenant._enter(commit, REPLICAS[0], n, [Change("e", "k/a", SINGLE, n, 1, "a")])
        commit.entries[0] = msgspec.structs.replace(commit.entries[0], at=at)
        storage.commit(commit)
    for _ in range(2):
        for moment in range(14):
            last = max((seq for seq, at in enumerate(moments, 1) if at <= moment), default=0)
            assert storage.reach(moment) == last, moment
        while storage.fold() or storage.archive():
            pass


def test_a_large_transaction_is_archived_in_slices(stores: TenantStores) -> None:
    tenant, storage = Tenant("large"), stores.open("app")
    tenant.batch, commit = 1, Commit(1, 3, 0)
    for n in range(3):
        changes = [Change(f"e{i}", f"k{i % 3}/a", SINGLE, i + n, 1, "a") for i in range(100)]
        tenant._enter(commit, REPLICAS[0], n + 1, changes)
    storage.commit(commit)
    while storage.fold():
        pass
    slices = []
    while moved := storage.archive():
        slices.append(moved)
    if isinstance(storage, SqliteTenant):
        assert len(slices) > 1 and storage.unarchived == 0
        assert max(slices) <= max(100, 2 * archive.PIECE)
    assert found(storage, 1, {"k1"}) == replayed(tenant, 1, {"k1"})
    check_history(tenant, storage, random.Random(0), every=True)


# ---------------------------------------- SQLite


def rows(path: Path, table: str) -> int:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        counted = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    connection.close()
    return counted


def test_what_is_cut_off_is_gone_and_the_log_is_small(tmp_path: Path) -> None:
    path = tmp_path / "app"
    storage = SqliteTenant(path, "app", TINY)
    tenant = filled(storage, "cut")
    assert rows(path, "runs") > 5 and rows(path, "framed") > 3
    assert rows(path, "log") < TINY.kept + 12
    while storage.trim(tenant.seq):
        pass
    assert [rows(path, table) for table in ("log", "runs", "pages")] == [0, 0, 0]
    assert found(storage, tenant.seq) == replayed(tenant, tenant.seq)
    storage.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_was_half_moved_is_moved_again(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "PIECE", 1)
    tenant, rng = Tenant(f"{seed}/half"), random.Random(f"{seed}/half")
    path = tmp_path / "app"
    storage = SqliteTenant(path, "app", TINY)
    for _ in range(25):
        storage.commit(tenant.commit(entries=2))
        for _ in range(rng.randrange(9)):
            storage.fold(rng.randrange(1, 9))
            storage.archive()
        if rng.random() < 0.2:
            storage.trim(rng.randrange(tenant.seq))
        storage.close()  # in the middle of whatever it is
        storage = SqliteTenant(path, "app", TINY)
        check_history(tenant, storage, rng)
    storage.close()


@pytest.mark.parametrize("form", OLDER)
def test_a_file_of_a_form_before_is_opened_and_has_its_history(tmp_path: Path, form: str) -> None:
    path = tmp_path / "app"
    storage = SqliteTenant(path, "app")
    tenant = Tenant("older")
    for _ in range(20):
        storage.commit(tenant.commit(entries=2))
    while storage.fold():
        pass
    epoch = storage.load().epoch
    storage.close()
    with sqlite3.connect(path) as connection:  # what it was like
        connection.execute("DROP TABLE names")
        connection.execute("DROP TABLE gists")
        connection.execute("ALTER TABLE replicas DROP COLUMN seen")
        connection.execute("UPDATE meta SET value = 1234 << 16 WHERE name = 'time'")
        if form == "tripleweb tenant 2":
            for table in ("runs", "pages", "frames", "framed"):
                connection.execute(f"DROP TABLE {table}")
            connection.execute("DELETE FROM meta WHERE name IN ('archived', 'floor', 'floor_at')")
        connection.execute("UPDATE meta SET value = ? WHERE name = '_format'", (form,))
    connection.close()
    tenant.time, tenant.gists, tenant.names = 1234 << 16, {}, {}
    for row in tenant.replicas.values():
        row.seen = 1234  # when the server last wrote
    for _ in range(2):
        storage = SqliteTenant(path, "app", TINY)
        assert storage.load().epoch == epoch
        tenant.check(storage, tail=2)
        check_history(tenant, storage, random.Random(0), every=True)
        while storage.fold() or storage.archive():
            pass
        storage.close()


def test_a_damaged_archive_is_an_error_not_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "app"
    storage = SqliteTenant(path, "app", TINY)
    tenant = filled(storage, "damage")
    storage.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE pages SET body = substr(body, 1, length(body) - 3)")
    connection.close()
    storage = SqliteTenant(path, "app", TINY)
    with pytest.raises(StorageError, match="app is damaged: its archive"):
        storage.since(0)
    with pytest.raises(StorageError, match="app is damaged: its archive"):
        list(storage.past(1))
    tenant.check(storage, tail=2)
    storage.close()


def test_only_what_is_asked_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large kind that nobody asks for no page is read, nor of one whose frame holds it already, however long ago
    the first run was."""
    path = tmp_path / "app"
    storage, tenant = SqliteTenant(path, "app", TINY), Tenant("asked")
    for n in range(1, 60):
        commit, kind = Commit(n, n, 0), "small" if n in (1, 58) else "large"
        tenant._enter(commit, REPLICAS[0], n, [Change(f"e{n % 4}", f"{kind}/a", SINGLE, n, n, "a")])
        storage.commit(commit)
        while storage.fold() or storage.archive():
            pass
    assert rows(path, "runs") > 5
    read: list[bytes] = []

    def unpacked(body: bytes) -> bytes:
        read.append(body)
        return real(body)

    real = archive.unpacked
    monkeypatch.setattr(archive, "unpacked", unpacked)
    last = tenant.seq - TINY.kept
    for kinds, most in (({"nothing"}, 0), ({"small"}, 2), ({"large"}, 1 + TINY.frame)):
        read.clear()
        assert found(storage, last, kinds) == replayed(tenant, last, kinds)
        assert len(read) <= most, kinds
    storage.close()


def test_reading_the_past_goes_on_while_it_is_cut_off(tmp_path: Path) -> None:
    storage = SqliteTenant(tmp_path / "app", "app", TINY)
    tenant = filled(storage, "reading")
    pieces = storage.past(3)
    store = Store()
    store.apply(next(pieces))
    while storage.trim(tenant.seq):
        pass
    for piece in pieces:
        store.apply(piece)
    assert sorted(map(repr, store.registers())) == replayed(tenant, 3)
    storage.close()
