"""Write-ahead logs that end in the middle: what a machine that dies, or a disk that lies, leaves of the last writes.

What is there afterwards is whole commits, the first so many of those that were made, and none that lay before the tear
is missing; numbers go on where those end. Where a server has lost what it had acknowledged, its clients push it again.
A failure prints the seed in the name of its test.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import tripleweb
from tests.live_host import wait_until
from tests.stores import level
from tests.test_replica_file import Local
from tests.test_storage import Tenant, crash_copy
from tripleweb.database import Database
from tripleweb.storage.replica import ReplicaFile
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant, file_name
from tripleweb.web import WebServer

FRAME = 4096 + 24  # a page of the log with its head (SQLite's file format, section 4.1)
HEAD = 32


def tear(log: Path, rng: random.Random) -> int:
    """Spoils a log somewhere; returns the place before which it is as it was."""
    data = bytearray(log.read_bytes())
    place = rng.randrange(len(data) + 1)
    if rng.random() < 0.3:  # where one frame ends and the next begins
        place = min(len(data), HEAD + FRAME * rng.randrange(1 + len(data) // FRAME))
    kind = rng.choice(["cut", "zeroes", "noise", "older"])
    length = rng.choice([1, 100, FRAME, len(data)])
    end = min(len(data), place + length)
    before = bytes(data)
    if kind == "cut":
        del data[place:]
    elif kind == "zeroes":
        data[place:end] = bytes(end - place)
    elif kind == "noise":
        data[place:end] = rng.randbytes(end - place)
    elif place:  # what lay there before the log came round to it
        data[place:end] = (bytes(data[:place]) * (1 + (end - place) // place))[: end - place]
    log.write_bytes(data)
    same = next(
        (at for at, (one, other) in enumerate(zip(before, data, strict=False)) if one != other), len(data)
    )
    print(f"{kind} at {place:,} of {len(before):,}, {same:,} are as they were")
    return same


def is_whole(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    return found == [("ok",)]


def check_tenant(folder: Path, seed: int) -> None:
    rng = random.Random(f"{seed}/torn tenant")
    (folder / "live").mkdir()
    path = folder / "live" / "app"
    SqliteTenant(path, "app").close()
    tenant, storage = Tenant(seed), SqliteTenant(path, "app")
    ends: list[tuple[int, int]] = []  # a commit's time, and where the log ended with it
    if comes_round := rng.random() < 0.5:
        for _ in range(rng.randrange(1, 30)):
            storage.commit(tenant.commit())
        while storage.fold():
            pass
    kept = tenant.time
    for _ in range(rng.randrange(1, 40)):
        storage.commit(tenant.commit())
        ends.append((tenant.time, (path.parent / "app-wal").stat().st_size))
        if storage.backlog and rng.random() < 0.3:
            storage.fold(rng.randrange(1, 60))
    torn = crash_copy(path, folder / "torn")
    storage.close()
    (folder / "torn" / "app-shm").unlink(missing_ok=True)
    same = tear(folder / "torn" / "app-wal", rng)

    storage, again = SqliteTenant(torn, "app"), Tenant(seed)
    landed = storage.load().time
    least = kept if comes_round else max([kept, *(at for at, end in ends if end <= same)])
    assert least <= landed <= tenant.time
    while again.time < landed:
        again.commit()
    assert again.time == landed, "half of a commit is there"
    again.check(storage)
    for _ in range(3):
        storage.commit(again.commit(entries=2))
    while storage.fold(50):
        pass
    again.check(storage)
    storage.close()
    assert is_whole(torn)


def check_replica(folder: Path, seed: int) -> None:
    rng = random.Random(f"{seed}/torn replica")
    (folder / "live").mkdir()
    path = folder / "live" / "r"
    ReplicaFile(path).close()
    local, replica = Local(seed), ReplicaFile(path)
    ends: list[int] = []
    for _ in range(rng.randrange(1, 60)):
        replica.save(local.commit())
        ends.append((path.parent / "r-wal").stat().st_size)
    torn = crash_copy(path, folder / "torn")
    replica.close()
    (folder / "torn" / "r-shm").unlink(missing_ok=True)
    same = tear(folder / "torn" / "r-wal", rng)

    replica, again = ReplicaFile(torn), Local(seed)
    landed = int(replica.load().meta.get("saves", 0))
    assert sum(end <= same for end in ends) <= landed <= local.saves
    while again.saves < landed:
        again.commit()
    again.check(replica)
    for _ in range(3):
        replica.save(again.commit())
    again.check(replica)
    replica.close()
    assert is_whole(torn)


CHECKS = [check_tenant, check_replica]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_there_is_whole_and_the_first_of_it(
    tmp_path: Path, check: Callable[[Path, int], None], seed: int
) -> None:
    check(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 300))
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_there_is_whole_and_the_first_of_it_often(
    tmp_path: Path, check: Callable[[Path, int], None], seed: int
) -> None:
    check(tmp_path, seed)


# -- a server, and those who had its word ------------------------------------------------------------------------------

TOKEN = "a-token-of-this-test"


class Server:
    """A server over a folder, which can be put on the same port again over another."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.web = WebServer(SqliteStores(folder), owner="ada", token=TOKEN, port=port).start()

    @property
    def port(self) -> int:
        return int(self.web.url.rstrip("/").rpartition(":")[2])

    def stop(self) -> None:
        self.web.stop()


def written(db: Database) -> set[tuple[str, str, object]]:
    with db._session.lock:
        store = db._session.store
        return {(s, p, v) for p in store.predicates() for s, v in store.scan(p)}


def check_crowd(folder: Path, seed: int) -> None:
    """A server dies, and its file loses its end, acknowledged transactions with it: all of it comes again."""
    rng = random.Random(f"{seed}/torn server")
    expected: set[tuple[str, str, object]] = set()
    counted = 0

    def write(db: Database, name: str, count: int) -> int:
        nonlocal counted
        for number in range(count):
            place = f"{name}{rng.randrange(1 << 30)}"
            with db.transaction():
                db.set(place, "k/n", number)
                db.set(place, "k/text", "x" * rng.randrange(200))
                db.increment("k", "all", n=1)
            expected.add((place, "k/n", number))
            counted += 1
            if rng.random() < 0.3:
                db.flush(10)
        return count

    with ExitStack() as stack:
        server = Server(folder / "live")
        stack.callback(lambda: server.stop())
        dbs = [
            stack.enter_context(
                tripleweb.connect(
                    "a", url=server.web.url, token=TOKEN, path=folder / f"{name}.replica", replicate="all"
                )
            )
            for name in ("ada", "bob")
        ]
        for turn in range(2):
            for name, db in zip(("ada", "bob"), dbs, strict=True):
                write(db, name, rng.randrange(1, 12))
            level(*dbs)
            if turn == 0:  # what is older is in the file itself
                port = server.port
                server.stop()
                server = Server(folder / "live", port)
                wait_until(lambda: all(db.status.state == "online" for db in dbs), 30)
        shutil.copytree(folder / "live", folder / "torn")
        write(dbs[0], "ada", rng.randrange(3))
        level(*dbs)
        port = server.port
        server.stop()
        (folder / "torn" / f"{file_name('a')}-shm").unlink(missing_ok=True)
        tear(folder / "torn" / f"{file_name('a')}-wal", rng)
        server = Server(folder / "torn", port)
        write(dbs[1], "bob", rng.randrange(3))
        deadline = time.monotonic() + 30
        wait_until(lambda: all(db.status.state == "online" for db in dbs), 30)
        level(*dbs)
        wait_until(lambda: written(dbs[0]) == written(dbs[1]), max(1, deadline - time.monotonic()))
        with tripleweb.connect(
            "a", url=server.web.url, token=TOKEN, path=":memory:", replicate="all"
        ) as fresh:
            level(fresh)
            assert written(fresh) == written(dbs[0])
            assert expected <= written(fresh)
            assert {v for s, p, v in written(fresh) if (s, p) == ("all", "k/n")} == {counted}


@pytest.mark.parametrize("seed", range(6))
def test_clients_of_a_server_that_lost_its_tail_bring_it_back(tmp_path: Path, seed: int) -> None:
    check_crowd(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 112))
def test_clients_of_a_server_that_lost_its_tail_bring_it_back_often(tmp_path: Path, seed: int) -> None:
    check_crowd(tmp_path, seed)
