"""A client's durable file: any history of saves, compaction in between, owners and adoption, killed processes.

`Local` is the oracle: it makes saves like those of a client and knows, by a `Store`, what must be there afterwards.
"""

from __future__ import annotations

import gc
import os
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest

from tests.test_storage import child, kill
from tests.test_store import random_changes
from tripleweb.change import COUNTER, DELETED, Change, Key
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.storage import file as storage_file
from tripleweb.storage import replica as storage_replica
from tripleweb.storage.file import OwnerLock
from tripleweb.storage.packing import decode_registers, encode_registers
from tripleweb.storage.replica import (
    FATES_MAX,
    MemoryReplica,
    Replica,
    ReplicaFile,
    adopt,
)
from tripleweb.store import Store
from tripleweb.sync import records
from tripleweb.sync.records import Fate, LocalCommit, Pending
from tripleweb.terms import Ref


def registers(store: Store) -> list[str]:
    return sorted(map(repr, store.registers()))


class Local:
    """Makes random saves, all from one seed, and keeps what a replica must have after them."""

    def __init__(self, seed: object) -> None:
        self.rng = random.Random(f"{seed}/local")
        self.store = Store()
        self.outbox: dict[int, Pending] = {}
        self.fates: list[Fate] = []
        self.meta: dict[str, object] = {}
        self.saves = 0

    def commit(self, changes: int = 8, subjects: int = 4) -> LocalCommit:
        rng, commit = self.rng, LocalCommit()
        self.saves += 1
        graves = {r.subject for r in self.store.registers() if r.predicate == DELETED}
        if rng.random() < 0.02:
            commit.clear = True
            self.store, graves = Store(), set()
        if graves and rng.random() < 0.3:
            commit.revive = [rng.choice(sorted(graves))]
            graves -= set(commit.revive)
        for change in random_changes(rng, rng.randrange(changes), subjects):
            if change.subject not in graves:
                commit.registers.append(change)
            if change.predicate == DELETED:
                graves.add(change.subject)
        known: list[Key] = sorted(register.key for register in self.store.registers())
        if known and rng.random() < 0.2:
            commit.drop = rng.sample(known, rng.randrange(1, min(4, len(known) + 1)))
        self._write_about_it(commit)
        self.store.put(revive=commit.revive)
        self.store.put(commit.registers)
        self.store.put(drop=commit.drop)
        return commit

    def _write_about_it(self, commit: LocalCommit) -> None:
        rng = self.rng
        if self.outbox and rng.random() < 0.5:
            commit.decided = rng.sample(sorted(self.outbox), rng.randrange(1, len(self.outbox) + 1))
            for number in commit.decided:
                del self.outbox[number]
                commit.fates.append(Fate(self.saves, "ada", "k/a", ("s", str(number)), "applied", "bob", ""))
        for number in rng.choice([[self.saves], [self.saves], sorted(self.outbox), []]):
            pending = Pending(number, f"t{number}.{self.saves}", self.saves, random_changes(rng, 3))
            pending.changes.append(Change("ada", "k/n", COUNTER, 1.5, self.saves, "a"))
            commit.pending.append(pending)
            self.outbox[number] = pending
        commit.meta = {"saves": self.saves, rng.choice("abc"): {"e": [self.saves, None, "x"]}}
        self.fates.extend(commit.fates)
        self.meta.update(commit.meta)

    def check(self, replica: Replica) -> None:
        state = replica.load()
        store = Store()
        store.apply(state.registers)
        assert registers(store) == registers(self.store)
        assert repr(state.pending) == repr([self.outbox[number] for number in sorted(self.outbox)])
        assert state.fates == self.fates[-FATES_MAX:]
        assert state.meta == self.meta


@pytest.fixture(params=["memory", "file", "file, full"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    made: Replica = MemoryReplica()
    if request.param != "memory":
        made = ReplicaFile(tmp_path / "my.replica", "full" if request.param == "file, full" else "process")
    yield made
    made.close()


# ---------------------------------------- what is saved


@pytest.mark.parametrize("seed", range(25))
def test_after_any_history_the_state_is_that_of_a_store(
    replica: Replica, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_replica, "CHUNK", 3)
    monkeypatch.setattr(storage_replica, "BACKLOG_MIN", 150)
    rng = random.Random(f"{seed}/actions")
    local, steps = Local(seed), iter(())
    for _ in range(120):
        replica.save(local.commit())
        roll = rng.random()
        if roll < 0.3 and next(steps, steps) is steps:
            steps = replica.compact(local.store.registers())  # goes on while saves come in between
        elif roll < 0.35:
            steps = iter(())  # left before its end
        elif roll < 0.45:
            local.check(replica)
        elif roll < 0.55 and isinstance(replica, ReplicaFile):
            steps = iter(())
            replica.close()
            replica.__init__(replica.path)
    local.check(replica)
    for _ in replica.compact(local.store.registers()):
        local.check(replica)
    for _ in range(3):  # what follows a compaction, in other sessions
        if isinstance(replica, ReplicaFile):
            replica.close()
            replica.__init__(replica.path)
        local.check(replica)
        replica.save(local.commit())
    local.check(replica)


def test_every_kind_of_value_comes_back_as_it_was(replica: Replica) -> None:
    values = [
        *("", "a\0b", "é" * 300, Ref("ä"), 0, -(2**63), 2**63 - 1, 1.0, -0.5, 1e300, True, False, None),
        *(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    ]
    changes = [Change("ada", f"k/{n}", "", value, 2**62 + n, "a") for n, value in enumerate(values)]
    replica.save(LocalCommit(registers=changes, pending=[Pending(1, "t", 1, changes)]))
    state = replica.load()
    assert repr(sorted(state.registers, key=lambda c: c.time)) == repr(changes)
    assert repr(state.pending[0].changes) == repr(changes)
    assert all(type(c.value) is type(v) for c, v in zip(state.pending[0].changes, values, strict=True))


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x91\x01", encode_registers([])[:-1] + b"\x92", b"\xc1"])
def test_what_was_never_packed_is_not_unpacked(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_registers(body)


def test_the_newest_ten_thousand_fates_are_kept(replica: Replica) -> None:
    fates = [Fate(n, "ada", "k/a", ("n", n), "applied", "", "") for n in range(FATES_MAX + 2_000)]
    replica.save(LocalCommit(fates=fates[:7_000]))
    replica.save(LocalCommit(fates=fates[7_000:11_900]))
    for n in range(11_900, 12_000):
        replica.save(LocalCommit(fates=fates[n : n + 1]))
    assert replica.load().fates == fates[-FATES_MAX:]
    replica.save(LocalCommit(fates=fates))
    assert replica.load().fates == fates[-FATES_MAX:]


def test_what_did_not_stand_is_kept_longer(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """No load of a large table pushes it out."""
    monkeypatch.setattr(records, "LOST_MAX", 700)
    monkeypatch.setattr(storage_replica, "LOST_MAX", 700)
    fates = [
        Fate(n, "ada", "k/a", ("n", n), ("rejected", "applied", "superseded", "restamped")[n % 4], "", "")
        for n in range(2_000)
    ]
    later = [Fate(n, "bob", "k/a", ("n", n), "applied", "", "") for n in range(5 * FATES_MAX + 1)]
    replica.save(LocalCommit(fates=fates))
    for n in range(0, len(later), 4_000):
        replica.save(LocalCommit(fates=later[n : n + 4_000]))
    lost = [fate for fate in fates if fate.outcome in records.LOST]
    assert replica.load().fates == lost[-700:] + later[-FATES_MAX:]
    if isinstance(replica, ReplicaFile):
        assert rows(replica, "fates") < 3 * FATES_MAX, "the file forgets them, too"


def test_a_large_save_is_one_save(replica: Replica) -> None:
    many = [Change(f"e{n}", "k/a", "", n, 1, "a") for n in range(5_000)]
    replica.save(LocalCommit(registers=many))
    drop = [change.key for change in many[:4_500]]
    replica.save(LocalCommit(revive=["x"], registers=many[:4_600], drop=drop, meta={"n": 1}))
    assert sorted(replica.load().registers) == sorted(many[4_500:])
    replica.save(LocalCommit(clear=True, registers=many[:10]))
    assert sorted(replica.load().registers) == sorted(many[:10])


def test_a_closed_replica_says_so(replica: Replica) -> None:
    replica.close()
    replica.close()
    for use in (replica.load, lambda: replica.save(LocalCommit())):
        with pytest.raises(StorageError, match="closed"):
            use()


# ---------------------------------------- the file


def rows(replica: ReplicaFile, table: str) -> int:
    with replica._file.reading() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_opening_takes_as_long_as_there_is_data_not_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_replica, "BACKLOG_MIN", 500)
    path = tmp_path / "r"
    for session in range(4):
        replica = ReplicaFile(path)
        replica.load()
        assert rows(replica, "saves") <= 500 and rows(replica, "chunks") <= 1
        for n in range(700):
            replica.save(LocalCommit(registers=[Change("ada", f"k/{n % 10}", "", n, session + 1, "a")]))
        assert replica.due
        replica.close()
    replica = ReplicaFile(path)
    assert len(list(replica.load().registers)) == 10
    assert (rows(replica, "saves"), rows(replica, "chunks"), replica.due) == (0, 1, False)
    size = path.stat().st_size
    assert size < 300_000
    replica.close()


def test_compaction_goes_in_small_steps_and_one_at_a_time(tmp_path: Path) -> None:
    replica, store = ReplicaFile(tmp_path / "r"), Store()
    many = [Change(f"e{n}", "k/a", "", n, 1, "a") for n in range(21_000)]
    store.put(many)
    replica.save(LocalCommit(registers=many))
    assert replica.due
    steps = replica.compact(store.registers())
    assert sum(1 for _ in zip(range(5), steps, strict=False)) == 5
    assert not replica.due and rows(replica, "chunks") == 5
    replica.save(LocalCommit(registers=many))
    with pytest.raises(StorageError, match="already"):
        next(replica.compact(store.registers()))
    assert sum(1 for _ in steps) >= 6
    later = len(range(0, len(many), storage_replica.CHUNK)) + 1
    assert (rows(replica, "saves"), rows(replica, "chunks"), replica.due) == (later, 11, True)
    assert sorted(replica.load().registers) == sorted(many)
    assert (rows(replica, "saves"), rows(replica, "chunks"), replica.due) == (0, 11, False)
    replica.close()


def test_settings_that_make_a_save_durable(tmp_path: Path) -> None:
    """A returned write survives the death of the process (`durability="full"`: of the machine): each commit is
    forced to the disk."""
    for durability, level in (("process", 1), ("full", 2)):
        replica = ReplicaFile(tmp_path / durability, durability)  # type: ignore[arg-type]
        with replica._file.reading() as connection:
            found = [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]
        assert found == ["wal", level]
        assert not (tmp_path / f"{durability}-shm").exists(), "works where there is no shared memory"
        replica.close()
    with pytest.raises(ValueError, match="durability"):
        ReplicaFile(tmp_path / "x", "perhaps")  # type: ignore[arg-type]


def test_a_full_disk_fails_the_save_and_the_next_may_work(tmp_path: Path) -> None:
    local, replica = Local(1), ReplicaFile(tmp_path / "r")
    for _ in range(5):
        replica.save(local.commit())
    with replica._file.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    big = [Change("e", f"k/{n}", "", "x" * 100, 1, "a") for n in range(1_000)]
    with pytest.raises(StorageError, match="full"):
        replica.save(LocalCommit(registers=big, meta={"saves": 99}))
    local.check(replica)
    with replica._file.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    for _ in range(5):
        replica.save(local.commit())
    local.check(replica)
    replica.close()


class Interrupting:
    """A connection during which somebody presses Ctrl-C, right after one statement."""

    def __init__(self, connection: sqlite3.Connection, after: str) -> None:
        self._connection, self._after = connection, after

    def execute(self, statement: str, *arguments: object) -> object:
        done = self._connection.execute(statement, *arguments)  # type: ignore[arg-type]
        if statement.startswith(self._after):
            self._after = "nothing more"
            raise KeyboardInterrupt
        return done

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def test_an_interrupted_save_is_taken_back_or_makes_the_file_open_anew(tmp_path: Path) -> None:
    replica = ReplicaFile(tmp_path / "r")
    plain = replica._file._connection
    for number, after in enumerate(("BEGIN", "DELETE FROM fates"), 1):
        replica._file._connection = Interrupting(plain, after)  # type: ignore[assignment]
        fates = [Fate(1, "ada", "k/a", ("s", ""), "applied", "", "")] * (FATES_MAX + 1)
        with pytest.raises(KeyboardInterrupt):
            replica.save(LocalCommit(meta={"n": -1}, fates=fates))
        replica.save(LocalCommit(meta={"n": number}))
        assert (replica.load().meta, replica.load().fates) == ({"n": number}, [])
    replica._file._connection = Interrupting(plain, "COMMIT")  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        replica.save(LocalCommit(meta={"n": 3}))
    with pytest.raises(StorageError, match="interrupted right after a commit; open it again"):
        replica.save(LocalCommit(meta={"n": 4}))
    replica.close()
    replica = ReplicaFile(tmp_path / "r")
    assert replica.load().meta == {"n": 3}
    replica.close()


@pytest.mark.parametrize("kind", ["text", "other database", "tenant", "other version"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path, said = tmp_path / "notes", "is not a tripleweb replica"
    if kind == "text":
        path.write_text("eggs, milk\n" * 1_000)
        said = "not a database"
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE meta (name TEXT, value)")
            if kind != "other database":
                held = "tripleweb tenant 2" if kind == "tenant" else "tripleweb replica 2"
                connection.execute("INSERT INTO meta VALUES ('_format', ?)", (held,))
        connection.close()
        if kind == "other version":
            said = "format 'tripleweb replica 2'; this version of tripleweb reads 'tripleweb replica 1'"
    before = path.read_bytes()
    with pytest.raises(StorageError, match=said):
        ReplicaFile(path)
    assert [found.name for found in tmp_path.iterdir()] == ["notes"] and path.read_bytes() == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r"
    for statement in ("UPDATE saves SET body = x'c1'", "UPDATE outbox SET changes = x'9101'"):
        replica = ReplicaFile(path)
        change = Change("ada", "k/a", "", 1, 1, "a")
        replica.save(LocalCommit(registers=[change], pending=[Pending(1, "t", 1, [change])]))
        replica.close()
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
        replica = ReplicaFile(path)
        with pytest.raises(StorageError, match=f"{path} is damaged"):
            replica.load()
        replica.wipe()
    with pytest.raises(StorageError, match=f"{tmp_path}/none/r"):
        ReplicaFile(tmp_path / "none" / "r")


def test_names_in_meta_that_are_the_files_own_are_refused(replica: Replica) -> None:
    with pytest.raises(ValueError, match="'_x'"):
        replica.save(LocalCommit(meta={"n": 1, "_x": 1}))
    assert replica.load().meta == {}


def test_wiping_leaves_nothing(tmp_path: Path) -> None:
    replica = ReplicaFile(tmp_path / "r")
    replica.save(Local(1).commit())
    replica.wipe()
    assert list(tmp_path.iterdir()) == []
    replica.close()
    again = ReplicaFile(tmp_path / "r")
    assert not list(again.load().registers) and not again.load().meta
    with pytest.raises(StorageError, match="another session"):
        replica.wipe()
    again.close()


# ---------------------------------------- owners


def test_a_file_has_one_owner_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "r"
    holder = child("hold_replica", path, module=__name__)
    assert holder.stdout is not None and holder.stdout.readline().strip() == str(path)
    with pytest.raises(StoreLockedError, match=f"process {holder.pid}"):
        ReplicaFile(path)
    kill(holder)
    replica = ReplicaFile(path)
    with pytest.raises(StoreLockedError, match=f"{path} is in use.*process {os.getpid()}"):
        ReplicaFile(path)
    replica.close()
    ReplicaFile(path).close()


def test_a_lock_whose_file_its_last_owner_deletes_is_taken_on_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = OwnerLock(tmp_path / "lock", tmp_path)
    really_lock = storage_file._lock

    def lock(handle: int) -> bool:
        first.release(delete=True)  # between the opening and the locking of the second
        return really_lock(handle)

    monkeypatch.setattr(storage_file, "_lock", lock)
    second = OwnerLock(tmp_path / "lock", tmp_path)
    with pytest.raises(StoreLockedError):
        OwnerLock(tmp_path / "lock", tmp_path)
    second.release(delete=True)
    assert list(tmp_path.iterdir()) == []


def hold_replica(path: str) -> None:
    replica = ReplicaFile(path)
    print(replica.path, flush=True)
    input()
    replica.close()


def test_a_forked_child_that_ends_leaves_its_parents_log_alone(tmp_path: Path) -> None:
    """SQLite writes the log back and deletes it when a connection is freed; the parent would go on in a file that is
    gone."""
    local, replica = Local(1), ReplicaFile(tmp_path / "r")
    replica.save(local.commit())
    log = tmp_path / "r-wal"
    before = log.stat()
    forked = os.fork()
    if forked == 0:
        replica.close()
        replica._file._connection = None  # type: ignore[assignment]
        gc.collect()
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
    after = log.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    replica.save(local.commit())
    local.check(replica)
    replica.close()


def test_a_forked_child_does_not_write_and_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    local, replica = Local(1), ReplicaFile(tmp_path / "r")
    replica.save(local.commit())
    read, write = os.pipe()
    forked = os.fork()
    if forked == 0:
        said = []
        for use in (lambda: replica.save(LocalCommit()), replica.load, replica.wipe):
            try:
                use()
                said.append("it worked")
            except StorageError as error:
                said.append(str(error))
        replica.close()
        os.write(write, "\n".join(said).encode())
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        told = pipe.read().splitlines()
    assert os.waitpid(forked, 0)[1] == 0
    assert len(told) == 3 and all(f"opened by process {os.getpid()}" in line for line in told)
    with pytest.raises(StoreLockedError):
        ReplicaFile(tmp_path / "r")
    replica.save(local.commit())
    local.check(replica)
    replica.close()


def adopt_and_hold(folder: str) -> None:
    replica = adopt(folder)
    print(replica.path, flush=True)
    input()
    replica.close()


def test_sessions_that_choose_at_once_choose_different_files(tmp_path: Path) -> None:
    def five() -> list[str]:
        sessions = [child("adopt_and_hold", tmp_path, module=__name__) for _ in range(5)]
        chosen = [session.stdout.readline().strip() for session in sessions if session.stdout]
        for n, session in enumerate(sessions):
            if n % 2:
                kill(session)
            else:
                session.communicate("\n")
        return chosen

    first, second = five(), five()
    assert len(set(first)) == 5 and all(Path(path).parent == tmp_path for path in first)
    assert sorted(second) == sorted(first), "free files are taken before new ones are made"


def test_choosing_at_once_makes_no_new_files_while_there_are_free_ones(tmp_path: Path) -> None:
    names = {replica.path for replica in [adopt(tmp_path) for _ in range(6)] if replica.close() is None}
    with ThreadPoolExecutor(6) as threads:
        for _ in range(10):
            together = Barrier(6)

            def choose(together: Barrier = together) -> ReplicaFile:
                together.wait(20)
                return adopt(tmp_path)

            chosen = [future.result(20) for future in [threads.submit(choose) for _ in range(6)]]
            assert {replica.path for replica in chosen} == names
            for replica in chosen:
                replica.close()


def test_unsent_writes_are_adopted_first_then_the_file_used_last(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    held = [adopt(folder) for _ in range(4)]
    names = [replica.path for replica in held]
    assert len(set(names)) == 4
    for replica, age, unsent in zip(held, (40, 10, 20, 30), (0, 0, 2, 0), strict=True):
        replica.save(LocalCommit(pending=[Pending(n, "t", 1, []) for n in range(unsent)]))
        replica.close()
        os.utime(replica.path, (1e9 - age, 1e9 - age))
    first, second, third = (adopt(folder) for _ in range(3))
    assert [first.path, second.path, third.path] == [names[2], names[1], names[3]]
    assert (first.unsent, second.unsent) == (2, 0)
    first.wipe()
    second.close()
    fourth = adopt(folder)
    assert fourth.path == names[1]
    for replica in (third, fourth):
        replica.close()


def test_adopting_meets_a_damaged_file_or_other_versions(tmp_path: Path) -> None:
    (tmp_path / "x.v9.replica").write_text("of a version to come")
    replica = adopt(tmp_path)
    replica.close()
    Path(replica.path).with_name("bad.v1.replica").write_text("no database" * 100)
    with pytest.raises(StorageError, match=r"bad\.v1\.replica"):
        adopt(tmp_path)
    ReplicaFile(replica.path).close()
    Path(replica.path).with_name("bad.v1.replica").unlink()
    again = adopt(tmp_path)
    assert again.path == replica.path
    again.close()


# ---------------------------------------- killed processes


def save_for_ever(path: str, seed: str) -> None:
    rng = random.Random(f"{seed}/child")
    local, replica = Local(seed), ReplicaFile(path)
    steps = replica.compact(())
    while True:
        replica.save(local.commit(changes=40, subjects=30))
        print(local.saves, flush=True)
        if rng.random() < 0.3 and next(steps, steps) is steps:
            steps = replica.compact(local.store.registers())


def check_survival(path: Path, seed: int) -> None:
    process = child("save_for_ever", path, seed, module=__name__)
    assert process.stdout is not None
    returned = 0
    for _ in range(random.Random(f"{seed}/moment").randrange(1, 400)):
        returned = int(process.stdout.readline())
    returned = max([returned, *map(int, kill(process))])
    replica, local = ReplicaFile(path), Local(seed)
    landed = replica.load().meta["saves"]
    assert landed >= returned, f"save {returned} had returned, {landed} is the last there"
    while local.saves < landed:
        local.commit(changes=40, subjects=30)
    local.check(replica)
    for _ in replica.compact(local.store.registers()):
        pass
    local.check(replica)
    replica.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_returned_survives_a_killed_session(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_replica, "CHUNK", 50)
    check_survival(tmp_path / "r", seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 108))
def test_what_was_returned_survives_a_killed_session_often(tmp_path: Path, seed: int) -> None:
    check_survival(tmp_path / "r", seed)
