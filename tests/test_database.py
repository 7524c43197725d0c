"""The object a user holds, sentence by sentence of its contract: in memory, in a file, and connected."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.stores import NAMES, SCHEMA
from tripleweb import Ref, database
from tripleweb.database import Database
from tripleweb.datalog import evaluate
from tripleweb.errors import (
    BudgetError,
    DeletedError,
    IncompleteError,
    NoServerError,
    QueryError,
    SchemaError,
    StorageError,
    StoreLockedError,
)
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.web import WebServer

ROOT = Path(__file__).resolve().parent.parent


class Where:
    """A server on loopback with data of its own, that can be stopped and started on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = 0
        self.start()

    def start(self) -> None:
        self.server = WebServer(
            SqliteStores(self._folder), port=self._port, owner="ada", token="a-secret-token"
        ).start()
        self._port = int(self.server.url.rstrip("/").rpartition(":")[2])
        self.running = True

    def stop(self) -> None:
        if self.running:
            self.running = False
            self.server.stop()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Where]:
    where = Where(tmp_path / "server")
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TRIPLEWEB_URL", where.server.url)
    monkeypatch.setenv("TRIPLEWEB_TOKEN", "a-secret-token")
    yield where
    where.stop()


Open = Callable[..., Database]


@pytest.fixture
def connect(server: Where) -> Iterator[Open]:
    """`tripleweb.connect`, closed at the end."""
    made: list[weakref.ref[Database]] = []

    def connect(app: str = "my-app", **options: Any) -> Database:
        db = tripleweb.connect(app, **options)
        made.append(weakref.ref(db))
        return db

    yield connect
    for held in made:
        if (db := held()) is not None:
            db._session.close(0.2)


@pytest.fixture(params=["memory", "file", "connected"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens an empty store of each kind."""
    made: list[Database] = []
    if request.param == "connected":
        connecting = request.getfixturevalue("connect")

    def opening(**options: Any) -> Database:
        if request.param == "connected":
            return connecting(f"app-{len(made)}", **options)
        path = tmp_path / f"{len(made)}.tripleweb" if request.param == "file" else None
        made.append(tripleweb.open(path, **options))
        return made[-1]

    yield opening
    for db in made:
        db.close()


def state_is(db: Database, state: str, timeout: float = 10) -> None:
    assert db._session.wait_for(lambda: db.status.state == state, timeout), db.status


# -- writing ---------------------------------------------------------------------------------------------------


def test_writes_as_the_contract_shows_them(opened: Open) -> None:
    db = opened(schema=SCHEMA)
    ada = db.insert("user", name="Ada", age=36)
    assert isinstance(ada, str) and len(ada) == 21
    assert db.insert("user", id="bob", name="Bob", manager=ada) == "bob"
    assert db.insert("user", id="bob", age=17) == "bob"  # an existing id merges; required is there already
    assert db.get("user", "bob") == {
        "id": "bob", "name": "Bob", "age": 17, "active": True, "joined": None, "manager": Ref(ada),
    }  # fmt: skip
    db.update("user", "bob", age=18, manager=None)
    assert db.get("user", "bob")["manager"] is None
    db.update("user", "new", age=1)  # unknown ids are created
    assert db.get("user", "new")["age"] == 1
    db.insert("tag", id="t1", label="one")
    p = db.insert("post", title="P", author="bob", tags=["t1"])
    db.add("post", p, tags=["t2", "t3"])
    db.remove("post", p, tags="t1")
    assert db.get("post", p)["tags"] == ["t2", "t3"]
    db.update("post", p, tags=["t9"])
    assert db.get("post", p)["tags"] == ["t9"]
    assert db.get("post", p)["likes"] == 0
    db.increment("post", p, likes=2)
    db.increment("post", p, likes=-0.5)
    assert db.get("post", p)["likes"] == 1.5
    author = db.get("post", p)["author"]
    assert author == "bob" and isinstance(author, Ref)
    db.delete("bob")
    assert db.get("user", "bob") is None
    with pytest.raises(DeletedError):
        db.insert("user", id="bob", name="Bob again")


def test_violations_write_nothing(opened: Open) -> None:
    db = opened(schema=SCHEMA)
    for wrong in (
        lambda: db.insert("user", age=1),
        lambda: db.insert("user", name="A", age="old"),
        lambda: db.insert("user", name="A", size=3),
        lambda: db.insert("nobody", name="A"),
        lambda: db.update("post", "p", likes=3),
        lambda: db.set("p", "post/likes", 3),
    ):
        with pytest.raises(SchemaError):
            wrong()
    for wrong in (
        lambda: db.set("a", "_deleted", True),
        lambda: db.set("", "user/name", "x"),
        lambda: db.set("a", "other/x", float("nan")),
        lambda: db.set("a", "other/x", 2**63),
        lambda: db.set("a", "other/x", datetime(2020, 1, 1)),
        lambda: db.get("user", ""),
    ):
        with pytest.raises(ValueError):
            wrong()
    assert db.kinds() == [] and db.status.pending == 0


def test_single_triples(opened: Open) -> None:
    db = opened()
    db.set("abc", "user/name", "Ada")
    db.set("abc", "user/tags", {"x", "y"})
    db.set("abc", "user/boss", Ref("bob"))
    assert db.get("user", "abc") == {"id": "abc", "name": "Ada", "tags": ["x", "y"], "boss": Ref("bob")}
    db.unset("abc", "user/tags", "x")
    db.unset("abc", "user/name")
    assert db.get("user", "abc") == {"id": "abc", "tags": ["y"], "boss": Ref("bob")}
    with pytest.raises(TypeError):
        db.set("abc", "user/list", [1, 2])


def test_a_transaction_is_one_or_nothing(opened: Open) -> None:
    """Inside `with db.transaction():` many become one with one stamp (an exception undoes all)."""
    db = opened(schema=SCHEMA)
    assert db.kinds() == []
    with db.transaction():
        ada = db.insert("user", name="Ada")
        with db.transaction():
            db.update("user", ada, age=36)
        assert db.q("[:find ?a . :where [_ :user/age ?a]]") == 36  # it sees its own writes
    assert len({register.stamp for register in db._session.store.registers()}) == 1
    with pytest.raises(KeyError), db.transaction():
        db.insert("user", name="Bob")
        db.update("user", ada, name="Changed")
        db.delete(ada)
        raise KeyError
    assert db.q(NAMES)["name"].tolist() == ["Ada"] and db.get("user", ada)["age"] == 36


def test_insert_frame(opened: Open) -> None:
    db = opened()
    frame = pd.DataFrame(
        {
            "origin": ["JFK", "LGA"],
            "day": [1, 2],
            "delay": [1.5, math.nan],
            "at": pd.to_datetime(["2013-01-01T00:00Z"] * 2),
        }
    )
    ids = db.insert_frame("flight", frame, id=["origin", "day"], prefix="f/")
    assert ids == ["f/JFK/1", "f/LGA/2"]
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    assert db.get("flight", "f/LGA/2") == {"id": "f/LGA/2", "origin": "LGA", "day": 2, "at": moment}
    db.delete("f/JFK/1")
    with pytest.raises(DeletedError, match="row 0"):
        db.insert_frame("flight", frame, id=["origin", "day"], prefix="f/")
    with pytest.warns(UserWarning, match="1 row was left out"):
        assert db.insert_frame("flight", frame, id=["origin", "day"], prefix="f/", deleted="skip") == [
            "f/LGA/2"
        ]
    with pytest.raises(ValueError):
        db.insert_frame("flight", pd.DataFrame({"k": ["a", "a"]}), id="k")
    assert len(db.insert_frame("note", pd.DataFrame({"text": ["a", "b"]}))) == 2


# -- asking ----------------------------------------------------------------------------------------------------


def test_queries_have_shapes_kinds_and_attrs(opened: Open) -> None:
    db = opened(schema=SCHEMA)
    empty = db.q("[:find ?u ?name ?age (max ?j) (count ?u) :where [?u :user/name ?name] [?u :user/age ?age] "
                 "[?u :user/joined ?j]]")  # fmt: skip
    # an empty column takes the schema's kind
    assert [str(dtype) for dtype in empty.dtypes[2:]] == ["int64", "datetime64[us, UTC]", "int64"]
    assert empty.dtypes["name"] == pd.Series(["x"]).dtype
    # or none, where it may be of several
    assert db.q("[:find ?x :where (or [_ :user/name ?x] [_ :user/age ?x])]").dtypes["x"] == "object"
    assert db.q("[:find ?x :where (or [?x :user/age] [_ :user/name ?x])]").dtypes["x"] == empty.dtypes["name"]
    ada = db.insert("user", name="Ada", age=36)
    db.insert("user", name="Bob", age=17)
    frame = db.q("[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age] [(> ?age 30)]]")
    assert frame.to_dict("list") == {"name": ["Ada"], "age": [36]}
    attrs = frame.attrs["tripleweb"]
    assert json.loads(json.dumps(attrs)) == attrs and attrs["complete"] is True
    assert {"complete", "scope", "position"} <= attrs.keys()
    assert all(not isinstance(value, dict | list) for value in attrs.values())
    assert sorted(db.q("[:find [?name ...] :where [_ :user/name ?name]]")) == ["Ada", "Bob"]
    assert db.q("[:find [?n ?a] :in $ ?u :where [?u :user/name ?n] [?u :user/age ?a]]", ada) == ("Ada", 36)
    assert db.q("[:find ?a . :in $ ?u :where [?u :user/age ?a]]", "nobody") is None
    assert sorted(db.q("[:find ?t :in $ [?t ...]]", ["a", "b"])["t"]) == ["a", "b"]
    with pytest.raises(QueryError, match="line 1"):
        db.q("[:find ?x :where [?x :user/name")
    with pytest.raises(QueryError):
        db.q(NAMES, "one input too many")


def test_skipped_values_are_counted(opened: Open) -> None:
    """Numeric aggregates skip what is not a number and say how many in `attrs`."""
    db = opened()
    for subject, value in (("a", 1), ("b", 2), ("c", "three")):
        db.set(subject, "k/v", value)
    frame = db.q("[:find (sum ?v) :where [?s :k/v ?v]]")
    assert frame["sum_v"].tolist() == [3] and frame.attrs["tripleweb"]["skipped_sum_v"] == 1


def test_a_query_with_a_clause_too_few_is_an_error_before_it_eats_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 1 << 28 <= (database._budget().bytes or 0) <= 4 << 30
    monkeypatch.setattr(database, "_budget", lambda: evaluate.Budget(bytes=20 << 20))
    db = tripleweb.open()
    db.insert_frame("k", pd.DataFrame({"n": range(1_000)}))
    product = "[:find ?a ?b :where [?a :k/n] [?b :k/n]]"
    with pytest.raises(BudgetError, match="20,971,520 bytes"):
        db.q(product)
    live = db.live(product)
    with pytest.raises(BudgetError):
        len(live)
    assert len(db.q("[:find ?a ?b :where [?a :k/n ?n] [?b :k/n ?n]]")) == 1_000


def test_forgetting_a_store_that_was_closed_says_that_it_does_not(tmp_path: Path) -> None:
    db = tripleweb.open(tmp_path / "r")
    db.insert("user", name="Ada")
    db.close()
    with pytest.raises(StorageError, match="was closed"):
        db.disconnect(forget=True)
    assert (tmp_path / "r").exists()


def test_an_async_query_within_a_transaction_sees_it_and_does_not_wait_for_it() -> None:
    async def work() -> int:
        with db.transaction():
            db.insert("user", name="Ada")
            return await asyncio.wait_for(db.aq("[:find (count ?u) . :where [?u :user/name]]"), 10)

    db = tripleweb.open()
    assert asyncio.run(work()) == 1


def test_async_queries_leave_the_loop_alone(opened: Open) -> None:
    db = opened()
    db.set("a", "k/v", 1)
    turns = 0

    async def main() -> Any:
        nonlocal turns
        task = asyncio.create_task(db.aq("[:find ?v . :in $ ?slow :where [_ :k/v ?v] [(?slow ?v)]]", slow))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return await task

    def slow(value: int) -> bool:
        deadline = time.monotonic() + 10
        while turns < 50 and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        return True

    assert asyncio.run(main()) == 1 and turns >= 50


def test_what_is_there_without_a_query(opened: Open) -> None:
    db = opened(schema=SCHEMA)
    assert db.kinds() == [] and db.fields("post") == []
    assert list(db.frame("post").columns) == ["id", "title", "author", "tags", "likes"]
    ada = db.insert("user", name="Ada")
    db.set("x", "other/thing", 1)
    assert db.kinds() == ["other", "user"] and db.fields("user") == ["active", "name"]
    frame = db.frame("user")
    assert frame["id"].tolist() == [ada] and str(frame.dtypes["age"]) in ("Int64", "object")
    assert frame.attrs["tripleweb"]["complete"] is True
    with pytest.raises(SchemaError):
        db.frame("nobody")


def test_live_frames_follow(opened: Open) -> None:
    db = opened(schema=SCHEMA)
    live = db.live(
        "[:find ?name ?age :in $ ?min :where [?u :user/name ?name] [?u :user/age ?age] [(>= ?age ?min)]]", 18
    )
    seen: list[tuple[int, int, str]] = []
    before = live.df
    assert len(before) == 0 and live.version == 0
    stop = live.on_change(
        lambda live, delta: seen.append(
            (len(delta.added), len(delta.removed), threading.current_thread().name)
        )
    )
    ada = db.insert("user", name="Ada", age=36)
    assert live.wait(10) is live and len(before) == 0
    assert live.df.to_dict("list") == {"name": ["Ada"], "age": [36]}
    db.insert("user", name="Child", age=3)
    with db.transaction():
        db.update("user", ada, age=37)
        db.insert("user", name="Bob", age=20)
    live.wait(10, until=lambda df: len(df) == 2)
    assert live.version == 2 and sorted(live["age"]) == [20, 37]
    deadline = time.monotonic() + 10
    while len(seen) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert [pair[:2] for pair in seen] == [(1, 0), (2, 1)] and len({name for _, _, name in seen}) == 1
    assert live.df.attrs["tripleweb"]["complete"] is True
    stop()
    db.delete(ada)
    live.wait(10, until=lambda df: len(df) == 1)
    with pytest.raises(TimeoutError):
        live.wait(0.05)
    live.close()
    db.insert("user", name="Late", age=50)
    assert len(live.df) == 1 and len(seen) == 2


def test_a_callback_may_query_and_write(opened: Open) -> None:
    """…on one callback thread of the store and outside its lock (queries and `flush` are allowed there)."""
    db = opened()
    done = threading.Event()

    def count(live: Any, delta: Any) -> None:
        total = db.q("[:find (count ?u) . :where [?u :user/name]]")
        db.flush(10)
        db.set("report", "report/total", total)
        done.set()

    live = db.live(NAMES)
    live.on_change(count)
    db.insert("user", name="Ada")
    assert done.wait(10) and db.q("[:find ?t . :where [_ :report/total ?t]]") == 1 and live.error is None


# -- stores ----------------------------------------------------------------------------------------------------


def test_a_file_is_durable_and_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "notes.tripleweb"
    with tripleweb.open(path, schema=SCHEMA, durability="full") as db:
        ada = db.insert("user", name="Ada")
        with pytest.raises(StoreLockedError):
            tripleweb.open(path)
    with tripleweb.open(path, schema=SCHEMA) as db:
        assert db.get("user", ada)["name"] == "Ada"
        assert db.status.state == "local" and db.receipts().empty
        db.flush(0)
        db.go_offline()
        db.go_online()
    with pytest.raises(ValueError, match="durability"):
        tripleweb.open(path, durability="some")  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        tripleweb.connect("my-app", url="http://127.0.0.1:9/", path=path)
    tripleweb.open(path).disconnect(forget=True)
    assert not path.exists()


def test_a_schema_is_made_by_schema() -> None:
    with pytest.raises(TypeError, match="schema"):
        tripleweb.open(schema={"user": {}})  # type: ignore[arg-type]


def test_a_closed_store_says_so(opened: Open) -> None:
    db = opened()
    db.set("a", "k/v", 1)
    live = db.live("[:find ?v :where [_ :k/v ?v]]")
    assert db.kinds() == ["k"]
    db.close()
    db.close()
    with pytest.raises(tripleweb.TriplewebError, match="closed"):
        db.set("a", "k/v", 2)
    began = time.monotonic()
    assert len(live.df) == 1 and live.closed and len(db.q("[:find ?v :where [_ :k/v ?v]]")) == 1
    assert time.monotonic() - began < 5  # it does not wait for what will not come


def test_a_store_that_nobody_holds_ends(connect: Open) -> None:
    """A cell that connects again gives its first store up: the thread and the replica's file with it."""
    db = connect()
    state_is(db, "online")
    session = db._session
    path = session.replica.path
    del db
    gc.collect()
    deadline = time.monotonic() + 10
    while not session.closed or any(thread.name == "tripleweb-close" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = connect()
    assert again._session.replica.path == path


SCRIPT = """
import tripleweb
db = tripleweb.connect("my-app")
with db.transaction():
    for number in range(500):
        db.set(f"e{number}", "k/n", number)
live = db.live("[:find ?n :where [_ :k/n ?n]]")
live.on_change(lambda live, delta: None)
db.q("[:find ?n :where [_ :k/n ?n]]")
db.set("last", "k/n", -1)
"""


def test_the_end_of_a_process_is_clean(server: Where, connect: Open) -> None:
    """A script that just ends has sent what it wrote, and says nothing about threads and sockets."""
    # what pandas says of its own future when it is imported is not meant
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.server.hub.apps
    assert connect().q("[:find (count ?e) . :where [?e :k/n]]", strict=True) == 501
    # and while the server is down: nothing is lost, nothing hangs
    server.stop()
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.replace("k/n", "k/offline")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began < 20
    server.start()
    db = connect()
    db.flush(20)
    assert db.q("[:find (count ?e) . :where [?e :k/offline]]", strict=True) == 501


def test_a_live_frame_keeps_its_store(connect: Open) -> None:
    live = connect().live(NAMES)
    heard = threading.Event()
    connect().live(NAMES).on_change(lambda live, delta: heard.set())
    gc.collect()
    writer = connect()
    writer.insert("user", name="Ada")
    live.wait(10, until=lambda df: len(df) == 1)
    assert heard.wait(10)


# -- connected -------------------------------------------------------------------------------------------------


def test_connect_with_nothing_but_the_app(connect: Open) -> None:
    one, other = connect(schema=SCHEMA), connect(schema=SCHEMA)
    ada = one.insert("user", name="Ada", age=36)
    live = other.live(NAMES)
    live.wait(10, until=lambda df: len(df) == 1)
    assert other.get("user", ada)["age"] == 36
    one.flush(10)
    status = one.status
    assert (status.state, status.pending, status.app, status.user, status.reason) == (
        "online",
        0,
        "my-app",
        "ada",
        "",
    )
    assert "online" in repr(one) and "my-app" in repr(status) and "my-app" in status._repr_html_()
    receipts = one.receipts()
    assert list(receipts.columns) == ["time", "subject", "predicate", "value", "outcome", "by", "reason"]
    assert (
        receipts["outcome"].tolist() == ["applied"] * 3
        and str(receipts.dtypes["time"]) == "datetime64[us, UTC]"
    )
    assert set(receipts["value"]) == {"Ada", 36, True}


def test_a_first_question_waits_for_what_is_there(connect: Open) -> None:
    """Connected, `q` (like `get`) loads what the query needs first."""
    one = connect()
    one.insert_frame("row", pd.DataFrame({"n": range(2000)}))
    one.flush(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh = connect()
        frame = fresh.q("[:find ?n :where [_ :row/n ?n]]", strict=True)
    assert len(frame) == 2000 and frame.attrs["tripleweb"]["complete"] is True
    assert connect().live("[:find ?n :where [_ :row/n ?n]]").df.shape == (2000, 1)


def test_what_is_incomplete_is_said(server: Where, connect: Open) -> None:
    """`strict=True` raises `IncompleteError` where it would warn; offline answers from the replica."""
    server.stop()
    db = connect()
    state_is(db, "offline")
    db.insert("user", name="Ada")
    began = time.monotonic()
    with pytest.warns(UserWarning, match="not all of my-app is here"):
        frame = db.q(NAMES)
    assert time.monotonic() - began < 5
    assert frame["name"].tolist() == ["Ada"] and frame.attrs["tripleweb"]["complete"] is False
    for ask in (db.q, lambda *a, **k: db.get("user", "x", **k), lambda *a, **k: db.kinds(**k)):
        with pytest.raises(IncompleteError):
            ask(NAMES, strict=True)
    server.start()
    db._session._link.hurry()
    state_is(db, "online")
    assert db.q(NAMES, strict=True).attrs["tripleweb"]["complete"] is True
    server.stop()
    state_is(db, "offline")
    assert db.q(NAMES, strict=True)["name"].tolist() == ["Ada"]  # as of then


def test_a_known_server_that_is_down_is_no_error(server: Where, connect: Open) -> None:
    """A known server that is down is no error: the store opens offline with what it has and keeps trying. Unsent
    writes are found first."""
    one = connect()
    one.insert("user", name="Ada")
    one.flush(10)
    server.stop()
    state_is(one, "offline")
    one.insert("user", name="Offline")
    path = one._session.replica.path
    one.close()
    again = connect()
    assert again._session.replica.path == path and again.status.pending == 1
    assert sorted(again.q(NAMES)["name"]) == ["Ada", "Offline"]
    server.start()
    again.flush(20)
    assert again.status.pending == 0 and again.status.state == "online"


def test_written_before_the_server_was_ever_reached(server: Where, connect: Open) -> None:
    server.stop()
    first = connect()
    first.insert("user", name="Early")
    first.close()
    server.start()
    second = connect()
    second.flush(20)
    assert second.q(NAMES)["name"].tolist() == ["Early"]


def test_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing found: `NoServerError` that says what to do."""
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    with pytest.raises(NoServerError, match="url="):
        tripleweb.connect("my-app")
    with pytest.raises(ValueError, match="App ID"):
        tripleweb.connect("..")
    with pytest.raises(ValueError, match="replicate"):
        tripleweb.connect("my-app", replicate="some")  # type: ignore[arg-type]
    with WebServer(MemoryStores()) as server, pytest.raises(NoServerError, match="has no tripleweb"):
        tripleweb.connect("my-app", url=server.url + "elsewhere/", token=server.token)


def test_paths(connect: Open, tmp_path: Path) -> None:
    """An explicit path in use raises `StoreLockedError`; `":memory:"` opts out."""
    one = connect(path=tmp_path / "mine")
    with pytest.raises(StoreLockedError):
        connect(path=tmp_path / "mine")
    assert connect(path=":memory:")._session.replica.path == ":memory:"
    two, three = connect(), connect()
    assert two._session.replica.path != three._session.replica.path
    one.disconnect(forget=True)
    assert not (tmp_path / "mine").exists()


def test_a_wrong_token_is_refused(server: Where, connect: Open) -> None:
    db = connect(token="wrong", url=server.server.url)
    state_is(db, "refused")
    assert "403" in db.status.reason and "wrong" not in repr(db.status)
    db.insert("user", name="Ada")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="refused"):
        db.flush()
    assert time.monotonic() - began < 5 and db.status.pending == 1


def test_offline_by_choice(connect: Open) -> None:
    one, other = connect(schema=SCHEMA), connect(schema=SCHEMA)
    p = one.insert("post", title="P", author="ada")
    one.flush(10)
    other.live("[:find ?t :where [_ :post/title ?t]]").wait(10, until=len)
    for db in (one, other):
        db.go_offline()
        assert db.status.state == "offline" and db.status.reason == "by choice"
        db.increment("post", p, likes=1)
        db.add("post", p, tags=[f"t-{id(db) % 7}"])
    with pytest.raises(TimeoutError):
        one.flush(10)
    for db in (one, other):
        db.go_online()
        db.flush(10)
    counted = one.live("[:find ?n . :where [_ :post/likes ?n]]")
    counted.wait(10, until=lambda df: counted.value == 2)
    assert other.q("[:find ?n . :where [_ :post/likes ?n]]") == 2
    assert one.get("post", p) == other.get("post", p)


def test_flush_returns_while_an_earlier_write_was_beaten(connect: Open) -> None:
    one, other = connect(), connect()
    one.set("x", "k/v", 1)
    one.flush(10)
    other.live("[:find ?v :where [_ :k/v ?v]]").wait(10, until=len)
    one.go_offline()
    one.set("x", "k/v", 2)
    other.delete("x")
    other.flush(10)
    one.go_online()
    one.flush(10, strict=True)
    last = one.receipts().iloc[-1]
    assert (last["outcome"], last["reason"], last["by"], last["value"]) == ("superseded", "deleted", "ada", 2)
    assert one.get("k", "x") is None
