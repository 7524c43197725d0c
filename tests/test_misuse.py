"""What careless and unlucky users do: broken clocks, odd inputs, closing at the wrong moment, too much at once."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tripleweb import t
from tripleweb.change import Change
from tripleweb.database import Database
from tripleweb.datalog import inputs
from tripleweb.errors import QueryError, SchemaError, StorageError, StoreLockedError, TriplewebError
from tripleweb.session import Session, now_ms
from tripleweb.storage.replica import MemoryReplica, ReplicaFile
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync import messages
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.server import Limits
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer

SCHEMA = tripleweb.schema(
    user={
        "name": t.string(),
        "age": t.number(optional=True),
        "tags": t.many(t.string()),
        "seen": t.counter(),
    }
)
NAMES = "[:find [?name ...] :where [_ :user/name ?name]]"
OF_AGE = "[:find [?name ...] :in [?age ...] :where [?u :user/age ?age] [?u :user/name ?name]]"


@pytest.fixture
def db() -> Iterator[Database]:
    with tripleweb.open() as db:
        yield db


@pytest.fixture
def ages(db: Database) -> Database:
    for name, age in (("Ada", 36), ("Bob", 17), ("Cy", 50)):
        db.insert("user", id=name.lower(), name=name, age=age)
    return db


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(SqliteStores(tmp_path / "server"), owner="ada", token="a-secret-token").start()
    yield server
    server.stop()


@pytest.fixture
def connect(server: WebServer) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def connect(**options: Any) -> Database:
        made.append(
            tripleweb.connect(
                "app", **{"url": server.url, "token": "a-secret-token", "path": ":memory:", **options}
            )
        )
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


# -- clocks ----------------------------------------------------------------------------------------------------


class Wall:
    """A wall clock that shows what it is told to."""

    def __init__(self) -> None:
        self.wrong: int | None = None

    def __call__(self) -> int:
        return now_ms() if self.wrong is None else self.wrong


@pytest.mark.parametrize("absurd", [10**16, (1 << 62), 1 << 80, -(10**16)])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_absurd_clock_stops_no_write_and_leaves_no_trace(absurd: int, kind: str, tmp_path: Path) -> None:
    wall = Wall()
    path = tmp_path / "a.tripleweb"

    def opened() -> Database:
        replica = ReplicaFile(path) if kind == "file" else MemoryReplica()
        return Database(Session(replica, now=wall))

    wall.wrong = absurd
    db = opened()
    db.insert("user", id="ada", name="Ada")
    db.update("user", "ada", name="Ada L.")
    wall.wrong = None
    if kind == "file":
        db.close()
        db = opened()
    db.update("user", "ada", name="Ada Lovelace")
    assert db.q(NAMES).tolist() == ["Ada Lovelace"]
    behind = now_ms() - (db._session.core.clock.last >> 16)
    assert 0 <= behind < 60_000  # the clock is right again
    db.close()


def test_a_synced_store_whose_clock_was_absurd_is_like_any_other_once_it_is_right(server: WebServer) -> None:
    walls = Wall(), Wall()
    sessions = [Session(MemoryReplica(), app="app", url=server.url, now=wall) for wall in walls]
    walls[0].wrong = 10**16
    for session in sessions:
        session.connect("a-secret-token")
        assert session.wait_for(lambda session=session: session.core.caught_up, 10)
    first, second = map(Database, sessions)
    first.insert("user", id="ada", name="one")
    first.flush(10)
    assert sessions[1].wait_for(lambda: second.get("user", "ada") is not None, 10)
    second.update("user", "ada", name="two")
    second.flush(10)
    assert sessions[0].wait_for(lambda: first.get("user", "ada")["name"] == "two", 10)
    walls[0].wrong = None
    first.update("user", "ada", name="three")
    first.flush(10)
    assert sessions[1].wait_for(lambda: second.get("user", "ada")["name"] == "three", 10)
    for session in sessions:
        assert abs(now_ms() - (session.core.clock.last >> 16)) < 120_000
        session.close(0.5)


# -- closing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "disconnect", "forget"])
def test_a_store_is_not_closed_within_a_transaction(end: str, tmp_path: Path) -> None:
    db = tripleweb.open(tmp_path / "a.tripleweb")
    with db.transaction():
        db.insert("user", id="ada", name="Ada")
        with pytest.raises(TriplewebError, match="within a transaction: end it first"):
            db.close() if end == "close" else db.disconnect(forget=end == "forget")
        db.insert("user", id="bob", name="Bob")
    assert sorted(db.q(NAMES)) == ["Ada", "Bob"]
    db.close()
    with tripleweb.open(tmp_path / "a.tripleweb") as db:
        assert sorted(db.q(NAMES)) == ["Ada", "Bob"]


# -- too much at once ------------------------------------------------------------------------------------------


def test_what_no_server_would_take_is_refused_at_once(connect: Callable[..., Database]) -> None:
    db = connect()
    db._session.core.limits = ClientLimits(transaction_changes_max=100, transaction_bytes_max=1 << 20)
    with pytest.raises(ValueError, match="at most 100 changes; this one has 101"):
        db.insert_frame("user", pd.DataFrame({"name": [str(i) for i in range(101)]}))
    with pytest.raises(ValueError, match="at most 1 MB; this one has 2"), db.transaction():
        for i in range(3):
            db.insert("user", id=f"u{i}", name="é" * 200_000)
    assert db.status.pending == 0 and db.kinds() == []
    db.insert_frame("user", pd.DataFrame({"name": [str(i) for i in range(100)]}))
    db.flush(10, strict=True)
    assert len(db.q(NAMES)) == 100
    with pytest.raises(ValueError, match="write it in several"):
        db.insert_frame("user", pd.DataFrame({"name": [str(i) for i in range(101)]}))
    db.undo()
    db.flush(10, strict=True)
    assert db.kinds() == []


def test_a_local_store_takes_what_no_server_would(db: Database) -> None:
    db._session.core.limits = ClientLimits(transaction_changes_max=1, transaction_bytes_max=1)
    assert len(db.insert_frame("user", pd.DataFrame({"name": ["a", "b", "c"]}))) == 3


def test_what_a_client_lets_pass_fits_what_a_server_takes() -> None:
    assert ClientLimits().transaction_changes_max <= Limits().transaction_changes_max
    slack = HubLimits().transaction_bytes_max - ClientLimits().transaction_bytes_max
    assert slack >= messages.FRAME_BYTES_MAX
    values = ["plain", "\x00" * 500, "é" * 300, tripleweb.Ref("x"), 7, 2**62, 1.5, True, datetime.now(UTC)]
    changes = [
        Change(f"u{i}", "user/f", "", value, 1, "0" * 12) for i, value in enumerate([*values, None] * 50)
    ]
    travels = len(messages.encode([messages.change_to_wire(change) for change in changes]))
    messages.check_size(changes, bytes_max=travels * 2)
    with pytest.raises(ValueError, match="at most"):
        messages.check_size(changes, bytes_max=travels - 100)


# -- arguments -------------------------------------------------------------------------------------------------


def test_an_address_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="url= is text, not int"):
        tripleweb.connect("app", url=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="token= is text, not bytes"):
        tripleweb.connect("app", url="http://127.0.0.1:1/", token=b"x")  # type: ignore[arg-type]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there that few have")
def test_a_link_to_a_file_in_use_is_that_file(tmp_path: Path) -> None:
    path, link = tmp_path / "a.tripleweb", tmp_path / "link.tripleweb"
    with tripleweb.open(path) as db:
        db.insert("user", id="ada", name="Ada")
        link.symlink_to(path)
        with pytest.raises(StoreLockedError, match="in use"):
            tripleweb.open(link)
    with tripleweb.open(link) as db:
        assert db.q(NAMES).tolist() == ["Ada"]


@pytest.mark.skipif(os.name == "nt", reason="as above")
def test_another_name_of_a_file_in_use_is_that_file(tmp_path: Path) -> None:
    path, name = tmp_path / "a.tripleweb", tmp_path / "b.tripleweb"
    with tripleweb.open(path) as db:
        db.insert("user", id="ada", name="Ada")
        os.link(path, name)
        with pytest.raises(StoreLockedError, match="in use"):
            tripleweb.open(name)
        db.insert("user", id="bob", name="Bob")
        assert sorted(db.q(NAMES)) == ["Ada", "Bob"]


HOLDING = """
import threading
import tripleweb

db, begun = tripleweb.open(PATH), threading.Event()
db.set("ada", "user/name", "Ada")

def hold():
    with db.transaction():
        db.set("bob", "user/name", "Bob")
        begun.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
begun.wait()
"""


def test_a_thread_within_a_transaction_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    path = tmp_path / "a.tripleweb"
    subprocess.run([sys.executable, "-c", HOLDING.replace("PATH", repr(str(path)))], timeout=30, check=True)
    with tripleweb.open(path) as db:
        assert db.q(NAMES).tolist() == ["Ada"]


# -- inputs of queries -----------------------------------------------------------------------------------------

COLLECTIONS: dict[str, Callable[[], Any]] = {
    "keys": lambda: {36: "x", 50: "y"}.keys(),
    "values": lambda: {"x": 36, "y": 50}.values(),
    "generator": lambda: (age for age in (36, 50)),
    "map": lambda: map(int, ["36", "50"]),
    "series": lambda: pd.Series([36.0, None, 50.0]),
    "list with NaN": lambda: [36, math.nan, 50],
    "list with missing": lambda: [36, None, pd.NA, pd.NaT, 50],
    "array": lambda: np.array([36, math.nan, 50], dtype="float32"),
    "categorical": lambda: pd.Categorical([36, 50, None]),
    "index": lambda: pd.Index([36, 50], dtype="Int64"),
    "set": lambda: {36, 50},
}


@pytest.mark.parametrize("given", COLLECTIONS)
def test_whatever_can_be_iterated_over_is_a_collection(given: str, ages: Database) -> None:
    assert sorted(ages.q(OF_AGE, COLLECTIONS[given]())) == ["Ada", "Cy"]
    live = ages.live(OF_AGE.replace("[?name ...]", "?name"), COLLECTIONS[given]())
    assert sorted(live.df["name"]) == ["Ada", "Cy"]
    ages.insert("user", name="Di", age=50)
    assert sorted(live.df["name"]) == ["Ada", "Cy", "Di"]  # a generator gives its items but once


def test_relations_come_as_pairs_of_any_kind(ages: Database) -> None:
    query = "[:find ?n ?x :in [[?n ?x]] :where [_ :user/name ?n]]"
    bonus = {"Ada": 1, "Zoe": 2}
    for given in (
        bonus.items(),
        zip(bonus, [1, 2], strict=True),
        list(bonus.items()),
        pd.DataFrame(bonus.items()),
    ):
        assert ages.q(query, given).values.tolist() == [["Ada", 1]]
    assert ages.q(query, [("Ada", math.nan), ("Bob", 2)]).values.tolist() == [["Bob", 2]]


@pytest.mark.parametrize("given", ["Ada", b"ab", {"Ada": 1}, 5, np.array(5), None])
def test_what_is_no_collection_is_said_to_be_none(given: Any, ages: Database) -> None:
    if given is None:
        assert ages.q(OF_AGE, given).tolist() == []
    else:
        with pytest.raises(QueryError, match="is no collection"):
            ages.q(OF_AGE, given)


def test_an_input_without_end_is_an_error(ages: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "ITEMS_MAX", 1_000)
    with pytest.raises(QueryError, match="without end"):
        ages.q(OF_AGE, count())


def test_what_happens_to_an_input_later_is_not_seen(ages: Database) -> None:
    query = OF_AGE.replace("[?name ...]", "?name")
    for given in ([36], pd.Series([36]), np.array([36]), {36}):
        live = ages.live(query, given)
        if isinstance(given, list):
            given.append(50)
        elif isinstance(given, set):
            given.add(50)
        else:
            given[0] = 50
        assert live.df["name"].tolist() == ["Ada"], type(given)
        assert ages.live(query, [36]).df["name"].tolist() == ["Ada"]


def test_true_is_not_one_in_inputs_that_are_shared(db: Database) -> None:
    db.set("a", "x/flag", True)
    db.set("b", "x/flag", 1)
    query = "[:find ?e :in [?v ...] :where [?e :x/flag ?v]]"
    frames = [db.live(query, frozenset([given])) for given in (True, 1)]
    assert [frame.df["e"].tolist() for frame in frames] == [["a"], ["b"]]


def stopping(*_: Any) -> bool:
    raise StopIteration


@pytest.mark.parametrize(
    "query",
    [
        "[:find [?n ...] :in ?f :where [_ :user/name ?n] [(?f ?n)]]",
        "[:find [?m ...] :in ?f :where [_ :user/name ?n] [(?f ?n) ?m]]",
        "[:find [?m ...] :in ?f :where [_ :user/name ?n] [(?f ?n) [?m ...]]]",
        "[:find (aggregate ?f ?n) . :in ?f :where [_ :user/name ?n]]",
        "[:find [?n ...] :in ?f :where [_ :user/name ?n] (not [(?f ?n)])]",
        "[:find [?n ...] :in ?f :where [_ :user/name ?n] (or [(?f ?n)] [_ :user/age ?n])]",
    ],
)
def test_a_callable_that_stops_iteration_does_not_stop_the_answer_short(query: str, ages: Database) -> None:
    for ask in (lambda: ages.q(query, stopping), lambda: ages.live(query, stopping).df):
        with pytest.raises(RuntimeError, match="stopping, called by a query, raised StopIteration"):
            ask()


# -- errors ----------------------------------------------------------------------------------------------------


def test_errors_are_of_public_types_without_a_tail() -> None:
    db = tripleweb.open(schema=SCHEMA)
    attempts: list[Callable[[], Any]] = [
        lambda: db.insert("user", name=b"Ada"),
        lambda: db.insert("user", name=math.nan),
        lambda: db.insert("user", name="Ada", age=2**70),
        lambda: db.insert("user", name="Ada", tags=[datetime(2020, 1, 1)]),
        lambda: db.insert_frame("user", pd.DataFrame({"name": [b"Ada"]})),
        lambda: db.set("ada", "user/name", object()),
        lambda: db.update("user", "ada", age=[]),
        lambda: tripleweb.open().insert("user"),
        lambda: tripleweb.open().insert_frame("user", pd.DataFrame({"name": [None]})),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError) as caught:
            attempt()
        assert type(caught.value) in (SchemaError, ValueError)
        said = "".join(traceback.format_exception(caught.value))
        assert (
            "During handling" not in said and "direct cause" not in said and "._" not in said.splitlines()[-1]
        )


def test_an_error_of_the_users_own_code_comes_as_it_is_and_names_the_row() -> None:
    def default() -> str:
        return json.loads("{")

    schema = tripleweb.schema(user={"name": t.string(default=default), "age": t.number(optional=True)})
    db = tripleweb.open(schema=schema)
    with pytest.raises(json.JSONDecodeError) as caught:
        db.insert_frame("user", pd.DataFrame({"age": [1]}))
    assert caught.value.__notes__ == ["in row 0"]
    assert db.kinds() == []


# -- files and addresses ---------------------------------------------------------------------------------------


def test_what_could_not_be_opened_is_let_go_of(tmp_path: Path, connect: Callable[..., Database]) -> None:
    path = tmp_path / "a.tripleweb"
    connect().close()
    ours = connect(path=path)
    ours.close()
    for _ in range(2):
        with pytest.raises(StorageError, match="a replica of the app 'app': connect to that") as caught:
            tripleweb.open(path)  # what raised is kept: no collector lets go of the file
        assert caught
    connect(path=path).close()
    for wrong in ({"schema": {}}, {"label": 5}):
        with pytest.raises(TypeError, match=r"schema= takes|label= is text"):
            connect(path=path, **wrong)
        connect(path=path).close()
    with pytest.raises(TypeError, match="schema= takes"):
        tripleweb.open(tmp_path / "b", schema={})  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://127.0.0.1:http/", "http://[::1/", ""])
def test_an_address_that_nobody_can_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected an address such as"):
        tripleweb.connect("app", url=url, path=":memory:")


# -- bulk ------------------------------------------------------------------------------------------------------


def test_frames_that_cannot_be_inserted_say_why(db: Database) -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    with pytest.raises(ValueError, match="2 rows without columns"):
        db.insert_frame("row", frame[[]])
    with pytest.raises(TypeError, match="ndarray is not a kind of value"):
        db.insert_frame("row", pd.DataFrame({"a": [np.array([1, 2])]}))
    with pytest.raises(TypeError, match="id= takes names of columns"):
        db.insert_frame("row", frame, id=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prefix= is text"):
        db.insert_frame("row", frame, prefix=None)  # type: ignore[arg-type]
    assert db.kinds() == []
    assert db.insert_frame("row", frame, id=(name for name in "ab")) == ["x/1", "y/2"]  # type: ignore[arg-type]


def test_a_live_frame_can_be_inserted(db: Database) -> None:
    db.insert_frame("row", pd.DataFrame({"a": ["x", "y"]}), id="a")
    live = db.live("[:find ?a :where [_ :row/a ?a]]")
    assert sorted(db.insert_frame("copy", live, id="a", prefix="copy-")) == ["copy-x", "copy-y"]


# -- values ----------------------------------------------------------------------------------------------------


class Colour(str, Enum):  # noqa: UP042 (a StrEnum prints what it holds)
    RED = "red"


class Size(int, Enum):
    LARGE = 3


def test_members_of_enums_are_what_they_hold() -> None:
    db = tripleweb.open(schema=SCHEMA)
    db.insert("user", id=Colour.RED, name=Colour.RED, age=Size.LARGE, tags=[Colour.RED])
    assert db.get("user", "red") == {"id": "red", "name": "red", "age": 3, "tags": ["red"], "seen": 0}
    assert db.q("[:find ?e . :in ?n :where [?e :user/name ?n]]", Colour.RED) == "red"
    assert db.insert_frame("user", pd.DataFrame({"name": [Colour.RED]}), id="name") == ["red"]


def test_a_frame_is_no_set() -> None:
    db = tripleweb.open(schema=SCHEMA)
    for given in (pd.DataFrame({"a": ["x"]}), np.array([["x"]])):
        with pytest.raises(SchemaError, match="expected text"):
            db.add("user", "ada", tags=given)
    db.add("user", "ada", tags=pd.Series(["x", "y"]))
    assert db.get("user", "ada")["tags"] == ["x", "y"]


def test_a_key_is_not_hidden_by_a_field_of_its_name(db: Database) -> None:
    db.set("ada", "user/id", "other")
    db.set("ada", "user/name", "Ada")
    assert db.get("user", "ada") == {"id": "ada", "name": "Ada"}
    assert db.frame("user").to_dict("list") == {"id": ["ada"], "name": ["Ada"]}


def test_every_kind_that_there_is_can_be_read(db: Database) -> None:
    for predicate in ("/x", "x/", "plain", "a/b/c"):
        db.set("s", predicate, 1)
    assert [db.frame(kind).shape for kind in db.kinds()] == [(1, 2)] * 4
    assert db.get("", "s") == {"id": "s", "x": 1}
    with pytest.raises(SchemaError, match="expected a name"):
        db.insert("", x=1)


# -- live frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [math.inf, 1e10, None])
def test_a_wait_may_be_as_long_as_one_likes(timeout: float | None, ages: Database) -> None:
    live = ages.live("[:find ?n :where [_ :user/name ?n]]")
    assert len(live.df) == 3
    writer = threading.Timer(0.05, lambda: ages.insert("user", name="Di"))
    writer.start()
    assert len(live.wait(timeout)) == 4
    writer.join()


def test_what_a_callback_does_to_its_delta_no_other_sees(ages: Database) -> None:
    live = ages.live("[:find ?n :where [_ :user/name ?n]]")
    told: queue.Queue[list[str]] = queue.Queue()

    def spoil(live: Any, delta: Any) -> None:
        delta.added["n"] = "spoilt"
        delta.added["more"] = 1

    stops = [live.on_change(spoil), live.on_change(lambda live, delta: told.put(delta.added["n"].tolist()))]
    ages.insert("user", name="Di")
    assert told.get(timeout=10) == ["Di"]
    for stop in stops:
        stop()


def test_a_live_frame_is_rounded_divided_and_lent_to_plotting_libraries(db: Database) -> None:
    db.set("a", "x/n", 7.26)
    live = db.live("[:find ?n :where [_ :x/n ?n]]")
    assert round(live, 1)["n"].tolist() == [7.3]
    assert [part["n"].tolist() for part in divmod(live, 7)] == [[1.0], [pytest.approx(0.26)]]
    for name in ("__dataframe__", "__arrow_c_stream__"):
        assert hasattr(live, name) == hasattr(live.df, name)
    assert not hasattr(live, "__fspath__")
