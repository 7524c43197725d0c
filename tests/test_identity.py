"""Who a replica is: forks, copied files, and files that a dead session has left with unsent writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.stores import Connect, level, online
from tripleweb import lifetime
from tripleweb.database import Database
from tripleweb.errors import StoreLockedError, TriplewebError
from tripleweb.storage.replica import ReplicaFile
from tripleweb.web import WebServer

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
VALUE = "[:find ?v . :where [_ :k/v ?v]]"


def in_fork(work: Callable[[], Any], *, exits: bool = False) -> str:
    """What `work` returns in a fork of this process, as text. `exits`: the fork runs to its end as scripts do."""
    read, write = os.pipe()
    forked = os.fork()
    if forked == 0:
        try:
            said = str(work())
        except BaseException:  # noqa: BLE001 (the parent is told)
            said = traceback.format_exc()
        os.write(write, said.encode())
        os.close(write)
        if exits:
            lifetime._close_all()
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        told = pipe.read()
    assert os.waitpid(forked, 0)[1] == 0
    return told


@needs_fork
@pytest.mark.parametrize("where", [":memory:", "file"])
def test_a_fork_does_not_speak_as_its_parent(connect: Connect, tmp_path: Path, where: str) -> None:
    """Its store is closed there, says so, and still answers; the parent goes on."""
    db = connect(path=where if where == ":memory:" else tmp_path / "r")
    db.set("x", "k/v", 1)
    level(db)

    def child() -> str:
        said = [str(db.q(VALUE)), db.status.state]
        for use in (lambda: db.set("x", "k/v", 2), db.go_online, lambda: db.flush(0)):
            try:
                use()
                said.append("done")
            except TriplewebError as error:
                said.append(str(error))
        db.close()
        return "\n".join(said)

    value, state, *said = in_fork(child, exits=True).splitlines()
    assert (value, state) == ("1", "offline")
    theirs = f"this store is process {os.getpid()}'s, of which this one is a fork"
    assert [theirs in each for each in said] == [True, True, False], said
    assert said[2] == "done", "nothing was unsent"
    db.set("x", "k/v", 3)
    level(db)
    assert db.q(VALUE) == 3
    assert [fate.outcome for fate in db._session.fates] == ["applied", "applied"]


@needs_fork
def test_a_fork_of_an_unsent_store_does_not_wait_for_anybody(connect: Connect) -> None:
    db = connect()
    online(db)
    db.go_offline()
    db.set("x", "k/v", 1)

    def child() -> str:
        with pytest.raises(TimeoutError, match="fork"):
            db.flush(60)
        return f"{db.status.pending} {db.status.reason}"

    assert in_fork(child, exits=True).startswith("1 this store is process")
    db.go_online()
    level(db)


@needs_fork
def test_a_store_in_memory_goes_on_as_a_copy() -> None:
    db = tripleweb.open()
    db.set("x", "k/v", 1)
    live = db.live("[:find ?v :where [_ :k/v ?v]]")
    assert live["v"].tolist() == [1]
    heard: list[Any] = []
    live.on_change(lambda live, delta: heard.append(delta))

    def child() -> str:
        db.set("x", "k/v", 2)
        live.wait(10, until=lambda df: df["v"].tolist() == [2])
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            time.sleep(0.005)
        db.close()
        return f"{live.value['v'].tolist()} {len(heard)}"

    assert in_fork(child) == "[2] 1"
    assert db.q(VALUE) == 1 and not heard
    db.set("x", "k/v", 3)
    assert live["v"].tolist() == [3]
    db.close()


@needs_fork
def test_a_fork_in_the_middle_of_somebody_elses_transaction(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of the parent holds the lock for as long as it likes: neither process stands still for that."""
    monkeypatch.setattr(lifetime, "PATIENCE_S", 0.01)
    db, local = connect(), tripleweb.open()
    online(db)
    opened, end = threading.Event(), threading.Event()

    def hold() -> None:
        with db.transaction(), local.transaction():
            db.set("x", "k/v", 1)
            opened.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert opened.wait(10)

    def child() -> str:
        said = [db.status.state]
        for use in (lambda: db.q(VALUE), lambda: local.q(VALUE), lambda: local.set("x", "k/v", 1)):
            with pytest.raises(TriplewebError, match="of which this one is a fork"):
                use()
        return str(said)

    try:
        assert in_fork(child, exits=True) == "['offline']"
    finally:
        end.set()
        thread.join(10)
    level(db)
    assert db.q(VALUE) == 1


@needs_fork
def test_a_fork_within_its_own_transaction(connect: Connect) -> None:
    db = connect()
    online(db)
    with db.transaction():
        db.set("x", "k/v", 1)
        assert in_fork(lambda: db.q(VALUE)) == "None", "which is not committed"
        db.set("x", "k/w", 2)
    level(db)
    assert db.q(VALUE) == 1


@needs_fork
def test_a_fork_that_lives_on_does_not_keep_the_file(connect: Connect, tmp_path: Path) -> None:
    """The lock on a replica's file ends with the session that took it, not with the last fork of its process."""
    db = connect(path=tmp_path / "r")
    online(db)
    read, write = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        with pytest.raises(StoreLockedError):
            ReplicaFile(tmp_path / "r")
        db.close()
        ReplicaFile(tmp_path / "r").close()
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(forked, 0)


FORKER = """
import os, sys, tripleweb
import gc
db = tripleweb.connect("app", url=sys.argv[1], token=sys.argv[2], path=sys.argv[3])
db.go_offline()
for number in range(50):
    db.set(f"e{number}", "k/v", number)
if os.fork() == 0:
    del db
    gc.collect()
    sys.exit()  # as a script's fork ends: everything is taken down
assert os.wait()[1] == 0
for number in range(50, 60):
    db.set(f"e{number}", "k/v", number)
os.kill(os.getpid(), 9)
"""


@needs_fork
def test_a_fork_that_ends_leaves_its_parents_file_alone(
    server: WebServer, connect: Connect, tmp_path: Path
) -> None:
    """SQLite would write the log back and delete it when the fork takes down the connection that it inherited."""
    told = subprocess.run(
        [sys.executable, "-c", FORKER, server.url, server.token, str(tmp_path / "r")], timeout=60
    )
    assert told.returncode == -9
    db = connect(path=tmp_path / "r")
    level(db)
    assert sorted(db.q("[:find [?v ...] :where [_ :k/v ?v]]")) == list(range(60))


# -- copies ------------------------------------------------------------------------------------------------------------


def likes(db: Database, count: int) -> None:
    """Waits until everything is decided and the counter stands at `count`: for those who ask for it (what was only
    written leaves a replica that takes a new identity)."""
    session = db._session
    online(db)
    db.live("[:find ?n . :where [_ :p/likes ?n]]")

    def is_there() -> bool:
        values = session.store.values("x", "p/likes")
        return session.core.caught_up and not session.core.pending and values == [count]

    assert session.wait_for(is_there, 20), (db.status, session.store.values("x", "p/likes"))


def test_a_copied_file_counts_once_and_both_go_on(connect: Connect, tmp_path: Path) -> None:
    """Clones and shortened files take a new identity; nothing is lost, nothing counts twice."""
    db = connect(path=tmp_path / "r")
    db.increment("p", "x", likes=1)
    likes(db, 1)
    db.go_offline()
    db.increment("p", "x", likes=10)
    db.close()
    shutil.copy(tmp_path / "r", tmp_path / "copy")
    shutil.copy(tmp_path / "r", tmp_path / "old")
    first, second = (connect(path=tmp_path / name) for name in ("r", "copy"))
    for db in (first, second):
        likes(db, 11)
    first.increment("p", "x", likes=100)
    second.increment("p", "x", likes=1_000)
    for db in (first, second):
        likes(db, 1_111)
    old = connect(path=tmp_path / "old")  # the state of before all that: a snapshot that was restored
    old.increment("p", "x", likes=10_000)
    for db in (first, second, old):
        likes(db, 11_111)
    assert len({db._session.core.replica for db in (first, second, old)}) == 3
    assert {fate.outcome for fate in old._session.fates} <= {"applied", "restamped"}


# -- what dead sessions left -------------------------------------------------------------------------------------------


@pytest.fixture
def shelved(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """`tripleweb.connect` with replica files of its own choice."""
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    made: list[Database] = []

    def connect(token: str = server.token) -> Database:
        made.append(tripleweb.connect("app", url=server.url, token=token))
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


def abandon(*dbs: Database) -> None:
    """As if their processes had been killed: nothing more is sent, and the files are free."""
    for db in dbs:
        db.go_offline()
        db._finalizer.detach()
        db._session.close(0)


def test_the_next_connect_sends_what_all_dead_sessions_left(server: WebServer, shelved: Connect) -> None:
    """Unsent writes of free replica files are adopted by the next connect: of all of them."""
    dead = [shelved() for _ in range(4)]
    online(*dead)
    for db in dead:
        db.increment("p", "x", likes=1)
    level(*dead)
    for db in dead:
        db.go_offline()
    for number, db in enumerate(dead[1:]):  # one has nothing to say
        db.increment("p", "x", likes=10 ** (number + 1))
        db.set(f"e{number}", "k/v", number)
    abandon(*dead)
    db = shelved()
    likes(db, 1_114)
    session = db._session

    def told() -> bool:
        return sum(fate.outcome == "applied" and fate.predicate == "k/v" for fate in session.fates) == 3

    assert session.wait_for(told, 10), "their receipts are here"
    second = shelved()
    assert not Path(second._session.replica.path).samefile(db._session.replica.path)
    files = list(Path(second._session.replica.path).parent.glob("*.replica"))
    assert len(files) == 4, "nobody needed a new file, and none was left held"


def test_what_dead_sessions_left_and_is_rejected_is_told(server: WebServer, shelved: Connect) -> None:
    eve = server.access.mint("eve")
    dead = [shelved(eve) for _ in range(3)]
    online(*dead)
    abandon_first = [db for db in dead if db.go_offline() is None]
    for number, db in enumerate(abandon_first):
        db.set(f"e{number}", "k/v", number)
    abandon(*dead)
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    db = shelved(eve)
    session = db._session
    assert session.wait_for(lambda: len(session.fates) == 3, 10)
    assert sorted(db.receipts()["value"]) == [0, 1, 2] and set(db.receipts()["outcome"]) == {"rejected"}
    assert session.take_rejected() == {"permission": 3}


def test_who_is_offline_by_choice_sends_nothing_for_others(server: WebServer, shelved: Connect) -> None:
    dead = [shelved() for _ in range(2)]
    online(*dead)
    for number, db in enumerate(dead):
        db.go_offline()
        db.set(f"e{number}", "k/v", number)
    abandon(*dead)
    db = shelved()
    db.go_offline()
    db.close()
    deadline = time.monotonic() + 10
    while "tripleweb-leftovers-app" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    live = shelved().live("[:find [?v ...] :where [_ :k/v ?v]]")
    live.wait(10, until=lambda df: sorted(df["v"]) == [0, 1])
