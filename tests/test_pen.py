"""The short way of `set` is the long way: two stores, one without a pen, go through the same histories, and everything
that can be seen of them is the same; also to Ctrl-C, to threads, and after the death of the process."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tripleweb import Ref, t
from tripleweb.database import Database
from tripleweb.errors import TriplewebError
from tripleweb.pen import Pen
from tripleweb.schema import Schema
from tripleweb.session import Session
from tripleweb.storage.replica import MemoryReplica, ReplicaFile
from tripleweb.store import Delta
from tripleweb.undo import DEEDS_MAX, NOTES_MAX
from tripleweb.writes import insert_columns


def even(value: int) -> bool:
    return value % 2 == 0


SCHEMA = tripleweb.schema(
    user={
        "name": t.string(optional=True),
        "age": t.number(),
        "active": t.boolean(default=True),
        "born": t.date(optional=True),
        "boss": t.ref("user", optional=True),
        "tags": t.many(t.string()),
        "seen": t.counter(),
        "pairs": t.number(optional=True, check=even),
    }
)
SUBJECTS = ["a", "b", Ref("a"), np.str_("b"), "é", "", "x" * 600, "bad\n", 7, None, [], object]
PREDICATES = ["user/name", "user/age", "user/active", "user/born", "user/boss", "user/tags", "user/seen"]
PREDICATES += ["user/pairs", "user/other", "free/x", "free/y", "plain"]
ODD_PREDICATES: list[Any] = [
    "_deleted",
    "_x/y",
    "",
    "x" * 600,
    "a\tb",
    Ref("user/age"),
    np.str_("free/x"),
    3,
    None,
    {},
]
VALUES: list[Any] = [
    "x",
    "é",
    "x" * 300,
    1,
    1.0,
    2,
    2.5,
    True,
    False,
    Ref("a"),
    "a",
    datetime(2020, 1, 1, tzinfo=UTC),
]
ODD_VALUES: list[Any] = [
    *(
        None,
        float("nan"),
        float("inf"),
        1 << 63,
        -(1 << 63),
        "\ud800",
        "x" * 1_000_001,
        [1],
        (1, 2),
        {"a": 1},
        object,
    ),
    *(
        {"p", "q"},
        frozenset([1, 2]),
        set(),
        np.int64(3),
        np.float64(0.5),
        np.bool_(True),
        np.str_("n"),
        pd.NA,
        pd.NaT,
    ),
    *(
        datetime(2020, 1, 1),
        datetime(2021, 5, 5, tzinfo=timezone(timedelta(hours=2))),
        pd.Timestamp("2020", tz="UTC"),
    ),
    *("", "bad\nid", "y" * 600, b"bytes"),
]


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def changed(self, delta: Delta) -> None:
        self.heard.append(f"{sorted(map(repr, delta.removed))} {sorted(map(repr, delta.added))}")

    def catch_up(self) -> None:
        self.heard.append("catch up")

    def state_changed(self) -> None:
        self.heard.append("state")


class NoPen(Pen):
    def set(self, schema: Schema, subject: Any, predicate: Any, value: Any) -> bool:
        return False


class CountingPen(Pen):
    done = 0

    def set(self, schema: Schema, subject: Any, predicate: Any, value: Any) -> bool:
        done = super().set(schema, subject, predicate, value)
        self.done += done
        return done


def make(pen: type[Pen], schema: Schema | None, path: Path | None) -> Database:
    clock = itertools.count(1_000)
    replica = MemoryReplica(kept=False) if path is None else ReplicaFile(path)
    session = Session(replica, random_bytes=bytes, now=lambda: next(clock) // 3)
    db = Database(session, schema)
    db._pen = pen(session, db.schema)
    return db


def outcome(operation: Callable[[], Any]) -> str:
    try:
        return repr(operation())
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be the same
        return f"{type(error).__mro__} {error}"


def state(db: Database) -> list[str]:
    store = db._session.store
    shown = [f"{p} {s} {v!r}" for p in store.predicates() for s, v in store.scan(p)]
    counts = [f"{p} {store.count(p)}" for p in store.predicates()]
    found = [f"{p} {v!r} {sorted(store.subjects(p, v))}" for p in PREDICATES[:3] for v in VALUES]
    # the other predicates have no reverse index, unless an operation asked for it
    return sorted(map(repr, store.registers())) + shown + counts + found + [str(db._session.core.clock.last)]


def operations(rng: random.Random, depth: int = 0) -> Iterator[Callable[[Database], Any]]:
    """The same for each store: the arguments are drawn before."""
    for _ in range(rng.randrange(1, 6) if depth == 0 else rng.randrange(3, 12)):
        odd = rng.random()
        subject = rng.choice("abcdefgh") if rng.random() < 0.9 else rng.choice(SUBJECTS)
        predicate = rng.choice(PREDICATES) if rng.random() < 0.95 else rng.choice(ODD_PREDICATES)
        if depth and rng.random() < 0.8:
            subject, predicate = rng.choice("ab"), rng.choice(["user/age", "free/x"])
        value = rng.choice(VALUES) if odd < 0.8 else rng.choice(ODD_VALUES)
        roll = rng.random()
        if depth and rng.random() < 0.2:
            roll = rng.choice([0.72, 0.885])  # what comes between two writes of the same in one transaction
        elif not depth and rng.random() < 0.15:
            roll = 0.95
        if roll < 0.70:
            yield lambda db, s=subject, p=predicate, v=value: db.set(s, p, v)
        elif roll < 0.75:
            yield lambda db, s=subject, p=predicate: db.unset(s, p)
        elif roll < 0.80:
            yield lambda db, s=subject, v=value: db.set(s, "user/tags", {"one", "two"} if v == 1 else "one")
        elif roll < 0.83:
            yield lambda db, s=subject: db.increment("user", s, seen=2)
        elif roll < 0.86:
            yield lambda db, s=subject, v=value: db.update("user", s, name="n", age=v)
        elif roll < 0.88:
            yield lambda db, s=subject, v=value: db.insert("user", id="" if s is None else s, age=v)
        elif roll < 0.89:
            yield lambda db, s=subject, v=value: insert_rows(db, [s, "r"], [1, v])
        elif roll < 0.90:
            yield lambda db, s=subject: db.delete(s)
        elif roll < 0.92:
            yield lambda db: sorted(map(repr, db._session.take_back()))
        elif roll < 0.94:
            yield lambda db: sorted(map(repr, db._session.take_back(redo=True)))
        elif roll < 0.97 and depth < 2:
            inner = list(operations(rng, depth + 1))
            fails = rng.random() < 0.4
            yield lambda db, inner=inner, fails=fails: block(db, inner, fails)
        elif roll < 0.98:
            yield lambda db, p=predicate: db._session.store.column(p)[1].reverse() and None
        else:
            yield lambda db: db.undo().shape


def insert_rows(db: Database, ids: list[Any], ages: list[Any]) -> Any:
    columns = {"id": ids, "age": ages}
    return db._session.write(
        lambda tx: insert_columns(tx, db.schema, "user", columns, id="id", random_bytes=bytes)
    )


def block(db: Database, inner: list[Callable[[Database], Any]], fails: bool) -> list[str]:
    with db.transaction():
        seen = [outcome(lambda op=op: op(db)) for op in inner]
        if fails:
            raise RuntimeError(f"planned {seen}")
    return seen


def check_alike(dbs: list[Database], rng: random.Random, steps: int, said: str) -> None:
    listeners = [Listener() for _ in dbs]
    watched = rng.random() < 0.5
    for step in range(steps):
        if watched and step == 5:
            for db, listener in zip(dbs, listeners, strict=True):
                db._session.watch(listener)
        for operation in operations(rng):
            first, second = (outcome(lambda db=db: operation(db)) for db in dbs)
            assert first == second, f"{said} step {step}"
        assert state(dbs[0]) == state(dbs[1]), f"{said} step {step}"
        assert listeners[0].heard == listeners[1].heard, f"{said} step {step}"
    assert bool(listeners[0].heard) == watched


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["free", "schema"])
@pytest.mark.parametrize("seed", range(60))
def test_the_short_way_is_the_long_way(seed: int, schema: Schema | None) -> None:
    rng = random.Random(seed)
    dbs = [make(pen, schema, None) for pen in (CountingPen, NoPen)]
    check_alike(dbs, rng, 25, f"seed {seed}")
    assert dbs[0]._pen.done > 5, f"seed {seed}"  # type: ignore[attr-defined]
    for db in dbs:
        db.close()
    closed = [outcome(lambda db=db: db.set("a", "user/age", 1)) for db in dbs]
    assert closed[0] == closed[1] and "closed" in closed[0]


@pytest.mark.parametrize("seed", range(12))
def test_in_a_file_too(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    dbs = [make(pen, SCHEMA, tmp_path / pen.__name__) for pen in (CountingPen, NoPen)]
    check_alike(dbs, rng, 12, f"seed {seed}")
    for db in dbs:
        with db.transaction():
            db.set("a2", "user/age", 5)
            db.set("a2", "user/age", 6)
    before = sorted(map(repr, dbs[0]._session.store.registers()))
    for db in dbs:
        db.close()
    again = [tripleweb.open(tmp_path / pen.__name__) for pen in (CountingPen, NoPen)]
    assert [sorted(map(repr, db._session.store.registers())) for db in again] == [before] * 2
    for db in again:
        db.close()


def test_what_is_noted_in_passing_can_be_taken_back() -> None:
    db = make(CountingPen, SCHEMA, None)
    for age in range(NOTES_MAX + DEEDS_MAX + 10):
        db.set("a", "user/age", age)
        assert len(db._session._deeds.notes) <= NOTES_MAX
    assert db._pen.done == NOTES_MAX + DEEDS_MAX + 10  # type: ignore[attr-defined]
    last = NOTES_MAX + DEEDS_MAX + 9
    for back in range(1, DEEDS_MAX // 2 + 1):  # each undo is remembered, too
        assert db.undo().empty
        assert db._session.store.values("a", "user/age") == [last - back]
    with pytest.raises(TriplewebError, match="nothing to undo"):
        db.undo()
    assert db.redo().empty and db._session.store.values("a", "user/age") == [last - DEEDS_MAX // 2 + 1]
    db.set("a", "user/age", -1)
    with pytest.raises(TriplewebError, match="nothing to redo"):
        db.redo()
    db.close()


def test_who_waits_hears_of_it() -> None:
    with tripleweb.open() as db:
        session, seen = db._session, threading.Event()

        def wait() -> None:
            if session.wait_for(lambda: bool(session.store.values("a", "k/v")), 60):
                seen.set()

        thread = threading.Thread(target=wait)
        thread.start()
        deadline = time.monotonic() + 20
        while not session._waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        db.set("a", "k/v", 1)
        assert seen.wait(20)
        thread.join()


def test_threads_write_one_after_the_other() -> None:
    with tripleweb.open(schema=SCHEMA) as db:
        ages: list[int] = []

        def write(n: int) -> None:
            for i in range(300):
                db.set(f"e{i % 20}", "user/age", n * 1000 + i)
                if i % 50 == 0:
                    with db.transaction():
                        for k in range(5):
                            db.set(f"t{k}", "user/age", n * 1000 + i)
                        ages.append(
                            len({tuple(db._session.store.values(f"t{k}", "user/age")) for k in range(5)})
                        )

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store = db._session.store
        assert ages == [1] * 24 and store.count("user/age") == 25
        times = [change.time for change in store.registers()]
        assert len(set(times)) == 21, "a stamp is given once"


def test_a_task_does_not_write_into_the_transaction_of_another() -> None:
    async def run() -> None:
        with tripleweb.open() as db:
            ready, go = asyncio.Event(), asyncio.Event()

            async def holds() -> None:
                with db.transaction():
                    db.set("a", "k/v", 1)
                    ready.set()
                    await go.wait()
                    db.set("a", "k/v", 2)

            task = asyncio.create_task(holds())
            await ready.wait()
            with pytest.raises(TriplewebError, match="another task"):
                db.set("b", "k/v", 1)
            go.set()
            await task
            assert db._session.store.values("a", "k/v") == [2] and db._session.store.values("b", "k/v") == []

    asyncio.run(run())


@pytest.mark.parametrize("way", ["memory", "fresh", "watched", "indexed", "transaction"])
def test_ctrl_c_finds_each_write_done_or_not_done(way: str) -> None:
    """Struck at random moments; then values, stamps, count, index, undo and what a watcher heard agree."""
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    db = tripleweb.open(schema=SCHEMA)
    session = db._session
    store, column = session.store, session.store.column("user/age")[1]
    listener = Listener()
    if way == "watched":
        session.watch(listener)
    if way == "indexed":
        column.reverse()
    if way == "fresh":
        store.column("user/name")[0].pin(store.column("user/name")[1])
    returned, stop, struck = 0, threading.Event(), True

    def strike() -> None:
        while not stop.wait(rng.uniform(0.0002, 0.002)):
            os.kill(os.getpid(), signal.SIGINT)

    def cell() -> None:
        nonlocal returned, struck
        while True:
            if way == "transaction":
                struck = True
                with db.transaction():
                    struck = False
                    for k in range(5):
                        db.set(f"e{k}", "user/age", returned)
                    struck = True
            else:
                db.set(f"e{returned if way == 'fresh' else returned % 7}", "user/age", returned)
            returned += 1

    striker = threading.Thread(target=strike)
    interrupts, deadline = 0, time.monotonic() + 30

    def hit(*_: object) -> None:
        nonlocal struck
        if not struck:  # once a cell: what strikes elsewhere would end the test
            struck = True
            raise KeyboardInterrupt

    outer = signal.signal(signal.SIGINT, hit)
    gc.disable()  # what strikes within somebody's callback of the collector is lost
    try:
        striker.start()
        while interrupts < 300:
            assert time.monotonic() < deadline, f"seed {seed}"
            try:
                struck = False
                cell()
            except KeyboardInterrupt:
                interrupts += 1
                if session._deeds.notes:  # what is noted is done, and what is done is noted
                    subject, *_, time_noted = session._deeds.notes[-1][:4]
                    assert store.floor(subject, "user/age")[0] == time_noted == max(column.times), (
                        f"seed {seed}"
                    )
    finally:
        struck = True
        stop.set()
        striker.join()
        signal.signal(signal.SIGINT, outer)
        gc.enable()
    assert returned > 0
    table, pinned = store.column("user/name")
    assert table.row_of == {number: row for row, number in enumerate(table.entities)}
    assert store.numbers == {name: number for number, name in enumerate(store.names)}
    for each in (column, pinned):
        assert len(each.values) == len(each.times) == len(each.replicas), f"seed {seed}"
    assert way != "fresh" or len(pinned.values) == len(table.entities), f"seed {seed}"
    shown = dict(store.scan("user/age"))
    assert store.count("user/age") == len(shown), f"seed {seed}"
    registers = {change.subject: change for change in store.registers()}
    assert {s: c.value for s, c in registers.items()} == shown, f"seed {seed}"
    assert len({c.time for c in registers.values()}) == (1 if way == "transaction" else len(registers))
    if way == "transaction":
        assert len(set(shown.values())) == 1, f"seed {seed}: half of a transaction"
    assert all(store.subjects("user/age", age) for age in set(shown.values())), f"seed {seed}"
    assert sum(len(store.subjects("user/age", age)) for age in set(shown.values())) == len(shown)
    if way == "watched":
        assert all(f"'user/age', {age})" in "".join(listener.heard[-20:]) for age in shown.values()), (
            f"seed {seed}"
        )
    else:
        last = session._deeds.done[-1].stamps[-1]
        assert last == max(c.stamp for c in registers.values()), f"seed {seed}: a deed nobody knows of"
    db.close()
