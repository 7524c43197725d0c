"""Loading what is asked, with threads: sessions that are interrupted, closed, cut off and connected again meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import tripleweb
from tests.stores import SCHEMA, Connect, level
from tripleweb.database import Database
from tripleweb.errors import TriplewebError
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.web import WebServer


def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, "it does not come about"
        time.sleep(0.01)


def filled(connect: Connect, users: int = 200) -> Database:
    db = connect(schema=SCHEMA, replicate="all")
    with db.transaction():
        for number in range(users):
            db.insert("user", id=f"u{number}", name=f"name {number}", age=number)
    db.flush()
    return db


def ages(db: Database, least: int) -> int:
    return len(db.q("[:find ?u ?a :in $ ?least :where [?u :user/age ?a] [(>= ?a ?least)]]", least))


INTERRUPTED = """
import os, signal, sys, threading, warnings
import pandas  # numpy cannot be imported again when its import was interrupted
import tripleweb
from tests.stores import NAMES, SCHEMA, level
from tests.test_on_demand_threads import ages

url, token = sys.argv[1:]
db = tripleweb.connect("app", url=url, token=token, path=":memory:", schema=SCHEMA)
struck = 0
for number in range(40):
    timer = threading.Timer(0.0004 * number, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ages(db, number)
        threading.Event().wait(10)  # it comes for certain
    except KeyboardInterrupt:
        struck += 1
    timer.join()
assert struck == 40
assert ages(db, 100) == 100 and len(db.q(NAMES)) == 200
level(db)
print("whole")
"""


def test_an_interrupted_load_leaves_the_store_whole(connect: Connect, server: WebServer) -> None:
    """In a process of its own, which is struck by Ctrl-C at every moment of a load."""
    filled(connect)
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, server.url, server.token],
        capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parent.parent, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert ran.stdout == "whole\n", ran.stderr


def test_a_store_that_is_closed_while_something_loads_lets_go_of_who_waits(connect: Connect) -> None:
    filled(connect)
    for delay in (0, 0.001, 0.005, 0.02):
        db = connect(schema=SCHEMA)
        ended: list[object] = []

        def ask(db: Database = db, ended: list[object] = ended) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    ended.append(ages(db, 3))
                except TriplewebError as error:
                    ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(delay)
        db.close()
        thread.join(30)
        assert not thread.is_alive() and ended, delay


def test_going_offline_and_online_while_others_load(connect: Connect) -> None:
    everything = filled(connect)
    db, other = connect(schema=SCHEMA), connect(schema=SCHEMA)
    wrong: list[object] = []
    stop = threading.Event()

    def ask(db: Database) -> None:
        number = 0
        while not stop.is_set():
            number = (number + 7) % 150
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frame = db.q(
                    "[:find ?u ?a :in $ ?least :where [?u :user/age ?a] [(>= ?a ?least)]]", number, timeout=2
                )
            if frame.attrs["tripleweb"]["complete"] and len(frame) != 200 - number:
                wrong.append((number, len(frame)))

    threads = [threading.Thread(target=ask, args=(one,)) for one in (db, db, other)]
    for thread in threads:
        thread.start()
    for number in range(15):
        db.go_offline()
        everything.update("user", "u1", name=f"changed {number}")
        db.go_online()
        stop.wait(0.02)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    level(everything)
    assert db.get("user", "u1")["name"] == "changed 14" == other.get("user", "u1")["name"]


def test_live_frames_follow_over_a_server_that_is_killed(tmp_path: Path) -> None:
    stores = tmp_path / "data"
    server = WebServer(SqliteStores(stores), owner="ada", token="a-secret-token").start()
    port = int(server.url.rstrip("/").rpartition(":")[2])
    url = server.url
    place = {"url": url, "token": "a-secret-token", "path": ":memory:", "schema": SCHEMA}
    one, two = tripleweb.connect("app", **place), tripleweb.connect("app", **place)
    try:
        live = two.live("[:find ?u ?n :where [?u :user/age ?a] [(> ?a 10)] [?u :user/name ?n]]")
        for number in range(3):
            one.insert("user", id=f"u{number}", name="x", age=20)
            until(lambda number=number: len(live.df) == number + 1)
            server.stop()
            one.insert("user", id=f"off{number}", name="y", age=5)
            server = WebServer(SqliteStores(stores), port=port, owner="ada", token="a-secret-token").start()
            one.flush(20)
        one.update("user", "off1", age=50)
        until(lambda: len(live.df) == 4)
        assert set(live.df["n"]) == {"x", "y"}
    finally:
        for db in (one, two):
            db._session.close(0.2)
        server.stop()


def test_nothing_is_left_of_live_frames(connect: Connect, server: WebServer) -> None:
    filled(connect, 30)
    db = connect(schema=SCHEMA)
    for number in range(50):
        live = db.live("[:find ?u :in $ ?least :where [?u :user/age ?a] [(>= ?a ?least)]]", number)
        assert len(live.df) == max(0, 30 - number)
        live.close()
    session = db._session
    with session.lock:
        assert session.subscriptions.tick(1e9) is False  # one tick is not longer than a minute
        for _ in range(6):
            session.subscriptions.tick(60)
        session.wake()
    assert not session.core.subscriptions
    until(lambda: not session.store.predicates() or not any(session.store.scan("user/age")))
    assert not any(a.holds for a in session.subscriptions._asked.values())
