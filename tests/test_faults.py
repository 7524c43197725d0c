"""What only real processes can show: histories over a real server, kill -9 under load, what is left behind.

Every random choice comes from one seed, which a failure prints. The processes are those of `tests.faults`.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

import tripleweb
from tests.faults.figures import longest
from tests.faults.processes import TOKEN, Process, Server, asked, client, wait_until
from tests.faults.scenarios import FAULTS, seed_of_today
from tripleweb import Ref, t
from tripleweb.errors import DeletedError, SchemaError

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SCHEMA = tripleweb.schema(
    user={
        "name": t.string(optional=True),
        "age": t.number(optional=True),
        "active": t.boolean(default=True),
        "joined": t.date(optional=True),
        "boss": t.ref("user", optional=True),
        "tags": t.many(t.string()),
        "friends": t.ref_many("user"),
        "likes": t.counter(),
    }
)
EVERYTHING = "[:find ?e ?p ?v :where [?e ?p ?v]]"
QUERIES = (
    EVERYTHING,
    "[:find ?e ?name ?age :where [?e :user/name ?name] [?e :user/age ?age]]",
    "[:find ?e ?of :where [?e :user/boss ?b] [?b :user/name ?of]]",
    "[:find ?e (count ?tag) :where [?e :user/tags ?tag]]",
    "[:find ?e ?n :where [?e :user/likes ?n]]",
    "[:find ?a ?b :where [?a :user/friends ?b] (not [?b :user/friends ?a])]",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as running:
        yield running


# -- histories -------------------------------------------------------------------------------------------------------


class Replica:
    """One of the replicas of a history: a session that is closed and opened again on the same file."""

    def __init__(self, url: str, app: str, path: Path | str, replicate: Literal["queries", "all"]) -> None:
        self._where = app, url, path
        self.replicate = replicate
        self.opened: list[tripleweb.Database] = []
        self.open(SCHEMA)

    def open(self, schema: tripleweb.Schema | None) -> None:
        app, url, path = self._where
        self.db = tripleweb.connect(
            app, url=url, token=TOKEN, path=path, schema=schema, replicate=self.replicate
        )

    def reopen(self, schema: tripleweb.Schema | None) -> None:
        self.db.close()
        self.open(schema)


def random_value(rng: random.Random) -> Any:
    return rng.choice((
        rng.randrange(100), "text", True, 1, 1.0, 0.5, "", "Ünïcode \U0001f98a", Ref("u1"), 2**63 - 1,
        datetime(2013, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(9)),
    ))  # fmt: skip


def random_write(rng: random.Random, db: tripleweb.Database) -> None:
    """One call of the public interface. What the rules of the schema or a deletion forbid is refused, not written."""
    subject, other = (f"u{rng.randrange(8)}" for _ in range(2))
    members = rng.sample(["a", "b", "c", "d"], rng.randrange(1, 4))
    typed = db.schema is SCHEMA
    calls: list[Callable[[], Any]] = [
        lambda: db.insert("user", id=subject, name=rng.choice(["Ada", "Bob"]), age=rng.randrange(90)),
        lambda: db.update("user", subject, age=rng.choice([None, rng.randrange(90), 0.5])),
        lambda: db.update("user", subject, boss=Ref(other), joined=datetime(2020, 1, rng.randrange(1, 9), tzinfo=UTC)),
        lambda: db.update("user", subject, tags=set(members)),
        lambda: db.add("user", subject, tags=set(members), friends={Ref(other)}) if typed else db.unset(subject, "x/y"),
        lambda: db.remove("user", subject, tags=set(members)) if typed else db.unset(subject, "user/tags", "a"),
        lambda: db.increment("user", subject, likes=rng.choice([1, 2, -1])),
        lambda: db.set(subject, "free/value", random_value(rng)),
        lambda: db.set(subject, "user/age" if not typed else "free/age", random_value(rng)),
        lambda: db.unset(subject, "free/value"),
        lambda: db.insert_frame(
            "user", pd.DataFrame({"id": [f"u{n}" for n in rng.sample(range(8), 3)], "age": [1, 2, 3]}), id="id",
            deleted="skip",
        ),
        lambda: db.delete(subject) if rng.random() < 0.15 else db.increment("user", subject, likes=1),
    ]  # fmt: skip
    try:
        rng.choice(calls)()
    except (DeletedError, SchemaError):
        pass  # of a deleted id, of a misfit that is there: nothing was written


def random_step(rng: random.Random, replica: Replica) -> None:
    db = replica.db
    kind = rng.random()
    if kind < 0.55:
        random_write(rng, db)
    elif kind < 0.68:
        fail = rng.random() < 0.2
        try:
            with db.transaction():
                for _ in range(rng.randrange(1, 5)):
                    random_write(rng, db)
                if fail:
                    raise KeyError("undone")
        except KeyError:
            assert fail
    elif kind < 0.80:
        db.go_offline()
    elif kind < 0.93:
        db.go_online()
    elif kind < 0.97:
        replica.reopen(rng.choice([SCHEMA, SCHEMA, None]))
    elif db.status.state == "online":
        db.q(QUERIES[1], timeout=0.01)


def content(replica: Replica) -> Any:
    """What a full copy holds; of what loads what it is asked, all that there is to be seen."""
    session = replica.db._session
    if replica.replicate == "queries":
        return rows(replica.db.q(EVERYTHING, strict=True))
    with session.lock:
        return set(session.store.registers())


def rows(frame: pd.DataFrame) -> list[str]:
    return sorted(map(repr, frame.itertuples(index=False, name=None)))


def check_history(url: str, seed: int, folder: Path) -> None:
    """Three replicas write, go offline, come back, are closed and opened again; in the end all show the same. One or
    two have full copies, the others what their live frames and the checks ask for."""
    rng = random.Random(seed)
    app = f"history-{seed}"
    kinds: list[Literal["queries", "all"]] = ["all", "queries", rng.choice(("all", "queries"))]
    replicas = [Replica(url, app, folder / f"{seed}-{n}", kind) for n, kind in enumerate(kinds)]
    followed = [(replica, replica.db, replica.db.live(QUERIES[seed % len(QUERIES)])) for replica in replicas]
    last: Replica | None = None
    try:
        for _ in range(60):
            random_step(rng, rng.choice(replicas))
        for replica in replicas:
            if replica.db.schema is not SCHEMA:
                replica.reopen(SCHEMA)
            replica.db.go_online()
        for replica in replicas:
            replica.db.flush(30)
        last = Replica(url, app, ":memory:", "all")
        all_rows = rows(last.db.q(EVERYTHING, strict=True))
        for replica in replicas:
            wanted = content(last) if replica.replicate == "all" else all_rows
            wait_until(
                lambda replica=replica, wanted=wanted: content(replica) == wanted,
                f"replicas agree, seed {seed}",
            )
            assert replica.db.status.pending == 0, f"seed {seed}"
        for text in QUERIES:
            wanted_rows = rows(last.db.q(text))
            for replica in replicas:
                assert rows(replica.db.q(text, strict=True)) == wanted_rows, f"seed {seed}: {text}"
        for replica in replicas:
            frames = [db.frame("user").sort_values("id", ignore_index=True) for db in (replica.db, last.db)]
            pd.testing.assert_frame_equal(*frames, obj=f"seed {seed}")
        for replica, db, live in followed:
            if db is replica.db:
                assert rows(live.df) == rows(db.q(QUERIES[seed % len(QUERIES)])), f"seed {seed}: a live frame"
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        for replica in [*replicas, last] if last is not None else replicas:
            replica.db.close()


@pytest.mark.filterwarnings("ignore:.* left out. deleted ids")
@pytest.mark.parametrize("block", range(4))
def test_random_histories_converge(server: Server, tmp_path: Path, block: int) -> None:
    for seed in range(25 * block, 25 * block + 25):
        check_history(server.url, seed, tmp_path)


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_real_faults(tmp_path: Path, fault: str) -> None:
    """No acknowledged write is lost, none is doubled, and all are equal at the end; what it cost is told at the end
    of the run. What happens is in `tests.faults.scenarios`."""
    seed = seed_of_today()
    print(f"TRIPLEWEB_FAULT_SEED={seed}")
    figures = FAULTS[fault](tmp_path, seed)
    assert figures.writes > 10, "hardly anything happened"  # of thousands here, on a quiet machine


def test_the_longest_wait_is_what_lies_outside_of_outages() -> None:
    assert longest([], []) == 0
    assert longest([(1, 3), (2, 7)], []) == 5
    assert longest([(1, 3), (2, 7)], [(3, 6)]) == 2
    assert longest([(2, 7)], [(0, 3), (6, 9)]) == 3
    assert longest([(2, 7)], [(6, 9), (5, 6), (1, 4)]) == 1
    assert longest([(2, 7)], [(1, 8)]) == 0
    assert longest([(2, 7)], [(8, 9), (0, 1)]) == 5


@pytest.mark.parametrize("online", [False, True])
def test_the_next_session_sends_what_a_killed_one_had_written(
    server: Server, tmp_path: Path, online: bool
) -> None:
    """Clients are killed after a write returned; whoever connects next takes up their replicas, unsent writes first."""
    data, written = tmp_path / "data", 0
    for number in range(5):
        with client("idle", server.url, "app", data=data, name=f"k{number}") as killed:
            path = killed.answer()
            if not online:
                killed.ask("offline")
            killed.ask("write")
            written += 1
            for _ in range(number):
                killed.ask("write")
                written += 1
        with client("idle", server.url, "app", data=data, name=f"n{number}") as heir:
            assert heir.answer() == path, "it took another replica"
            heir.ask("flush")
            assert heir.ask("pending") == 0
    with client("idle", server.url, "app", ":memory:", data=data, name="last") as last:
        last.answer()
        assert asked(last, "counts")["all"] == written


@pytest.mark.parametrize("whose", ["client", "server"])
def test_a_disk_that_takes_no_more_loses_nothing(server: Server, tmp_path: Path, whose: str) -> None:
    """What cannot be kept is an error (here) or stays pending (at the server); all else goes on where it was."""
    data = tmp_path / "data"

    def start(name: str) -> Process:
        process = client("idle", server.url, "app", str(tmp_path / name), data=data, name=name)
        process.answer()
        return process

    with start("one") as one, start("other") as other:
        one.ask("write")
        other.ask("write")
        for each in (one, other):
            each.ask("flush")
        (one if whose == "client" else server.process).ask("room", bytes=1_000_000)
        written, said = one.ask("fill", most=60)
        if whose == "client":
            assert 0 < written < 60 and "disk I/O error" in said, said
            with pytest.raises(AssertionError, match="ended"):
                one.ask("write")  # a file that failed is not written any more
        else:
            assert written == 60
            assert one.ask("try_flush", within=2) > 0
            server.process.ask("room", bytes=-1)
        other.ask("write")
        if whose == "client":
            one.kill()
        heir = start("one") if whose == "client" else one
        with heir:
            heir.ask("write")
            for each in (heir, other):
                each.ask("flush")
            dump = asked(other, "dump")
            assert sum(p == "big/text" for _, p, _ in dump) == written
            wait_until(lambda: heir.ask("dump") == dump, "both show the same")
            assert asked(heir, "counts")["all"] == 4


# -- what is left behind ---------------------------------------------------------------------------------------------


def held() -> tuple[int, list[str]]:
    """Open files of this process, and the names of its threads."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), sorted(thread.name for thread in threading.enumerate())


def test_connecting_200_times_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    """No thread, no open file, no lock, no object, neither here nor at the server."""
    sessions: list[weakref.ref[Any]] = []

    def cycle(number: int) -> None:
        with tripleweb.connect("app", url=server.url, token=TOKEN, path=tmp_path / "r") as db:
            live = db.live("[:find ?e ?n :where [?e :k/n ?n]]")
            calls: list[int] = []
            live.on_change(lambda live, delta: calls.append(len(delta.added)))
            db.insert("k", id=f"e{number % 50}", n=number)
            assert number in set(live.df["n"])
            if number % 3:
                db.flush(10)
            if number % 2:
                live.close()
            sessions.append(weakref.ref(db._session))

    for number in range(10):
        cycle(number)
    before, there = held(), server.process.ask("count")
    for number in range(10, 210):
        cycle(number)
    wait_until(lambda: held() == before, f"{held()} is {before} again")
    wait_until(lambda: all(ref() is None for ref in sessions), "sessions are collected")
    wait_until(lambda: server.process.ask("count") == there, f"the server is as before: {there}")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("server", "r", "r.lock")]
    with tripleweb.connect("app", url=server.url, token=TOKEN, path=tmp_path / "r") as db:
        db.flush(10)
        assert len(db.q("[:find ?e ?n :where [?e :k/n ?n]]")) == 50


def test_50_live_frames_leave_nothing_behind() -> None:
    db = tripleweb.open()
    db.insert_frame("k", pd.DataFrame({"n": range(100)}))
    db.live("[:find ?e :where [?e :k/n 1]]").close()
    wait = threading.Event()
    db._session.submit(wait.set)
    assert wait.wait(10)
    before = held()
    lives = [db.live(f"[:find ?e :where [?e :k/n ?n] [(> ?n {n})]]") for n in range(50)]
    for number, live in enumerate(lives):
        assert len(live) == 99 - number
        live.on_change(lambda live, delta: None)
    refs = [weakref.ref(live) for live in lives] + [weakref.ref(live._shared) for live in lives]
    for live in lives[:25]:
        live.close()
    db.insert("k", n=1_000)
    for live in lives[25:]:
        live.close()
    del live, lives
    wait_until(lambda: gc.collect() >= 0 and all(ref() is None for ref in refs), "live frames are collected")
    assert not db._lives._shared and not db._session.anchored
    assert held() == before
    db.close()
