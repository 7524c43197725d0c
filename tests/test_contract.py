"""What a user types and what comes back, sentence by sentence of the public surface.

`ELSEWHERE` lists the sentences that other tests quote, and where; the tests of this module quote the rest. A sentence
is not here while what it promises is still to be built: `select`, `pull`, `db.rules`, loading by query, rejections
other than by role, guarded transactions, history, export, displays after a reload.
"""

from __future__ import annotations

import ast
import asyncio
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.http_client import User
from tripleweb import Ref, t
from tripleweb.database import Database
from tripleweb.errors import (
    DeletedError,
    QueryError,
    RejectedError,
    SchemaError,
    TriplewebError,
)
from tripleweb.storage.memory import MemoryStores
from tripleweb.terms import date_text
from tripleweb.web import WebServer

HERE = Path(__file__).resolve().parent
SCHEMA = tripleweb.schema(
    user={
        "name": t.string(),
        "age": t.number(optional=True),
        "active": t.boolean(default=True),
        "joined": t.date(optional=True),
        "manager": t.ref("user", optional=True),
    },
    post={"title": t.string(), "author": t.ref("user"), "tags": t.ref_many("tag"), "likes": t.counter()},
    tag={"label": t.string()},
)
NAMES = "[:find ?name :where [_ :user/name ?name]]"

# Each sentence stands after the test that quotes it.
ELSEWHERE = """
-- schema
test_writes::test_a_counter_only_counts: A counter only counts: `insert(…, likes=3)` counts 3 (left out: 0);
    assigning or removing one by `update`, `set` or `unset` raises `SchemaError`.
test_schema::test_a_schema_that_cannot_be: Kind and field names do not begin with `_`; no field is called `id`.
test_schema::test_a_violation: A violation or an unknown field raises `SchemaError` naming kind, field, value
    and expectation
test_writes::test_a_violation_writes_nothing: and writes nothing
test_writes::test_insert: Defaults are written by `insert`
test_schema::test_defaults: on read, `get`, `select` and `pull` use plain ones (not callables) for missing
    fields.
test_schema::test_misfits_read_as_missing: Data from others that does not fit the schema reads as missing, never
    as an exception, and is not converted
test_kinds::test_every_clause_sees_what_fits: a client with a schema adds its fields' *kinds* to the clauses of
    the queries it runs and subscribes, so both ends answer the same
test_schema::test_check_guards_writes_only: `check=` guards writes only.
test_kinds::test_fields_that_the_schema_does_not_know_are_free: Old clients ignore fields they do not know.
test_writes::test_without_a_schema: Without a schema, scalars are single, Python sets are many,
    `tripleweb.Ref(id)` is a reference; lists raise.

-- values, ids, predicates
test_frame::test_frames_on_their_way_in: `None` and pandas' missing values mean "no value"; numpy scalars are
    understood.
test_schema::test_no_value_at_all: NaN, infinities, larger integers, naive datetimes, lone surrogates, values
    over 1 MB and other types raise `ValueError`/`TypeError` that say what was wrong.

-- a store
test_discovery::test_the_order: then `TRIPLEWEB_URL`/`TRIPLEWEB_TOKEN`, JupyterHub, the running Jupyter server
    that started this kernel, a `tripleweb serve` on this machine.
test_embedded::test_stores_of_one_process_share_a_server: `url="embedded"` runs a server inside this process.
test_database::test_no_server: Nothing found: `NoServerError` that says what to do.
test_database::test_a_known_server_that_is_down_is_no_error: The store opens offline with what it has and keeps
    trying
test_shelf::test_a_free_file_is_taken_up_again_a_held_one_is_not: `path=None` picks a replica file of this
    server, app and user that no running session holds (unsent writes first), or a new one
test_database::test_paths: An explicit path in use raises `StoreLockedError`; `":memory:"` opts out.
test_places_to_connect::test_a_hub: Who I am comes from the server: the Hub's user on a JupyterHub
test_places_to_connect::test_a_token_server: every kernel and every request that brings only the server's token
    is the server's owner
test_extension::test_who_brings_only_the_servers_token_is_its_owner: the operating system's user name, the same
    after a restart … never a random name per request
test_database::test_a_transaction_is_one_or_nothing: inside `with db.transaction():` many become one with one
    stamp (an exception undoes all)
test_session::test_a_returned_write_survives_the_death_of_the_process: A returned write survives the death of
    the process
test_writes::test_update: None removes; tags=[…] assigns the whole set; unknown ids are created
test_writes::test_add_and_remove: merge element by element
test_schema::test_an_entity_as_one_kind: dict with "id"; many as a sorted list; None if there is none
test_writes::test_set_and_unset: `set` and `unset` check a predicate that the schema knows (`SchemaError`; an id
    becomes a reference there) and take any other as a store without a schema does.
test_writes::test_set_on_a_many_valued_field: On a many-valued field a scalar adds one member and a Python set
    assigns the whole; elsewhere a scalar assigns.
test_writes::test_unset_of_one_member: `unset(s, p)` removes all, `unset(s, p, o)` one member.
test_schema::test_required_fields: Required are the fields with neither `optional=` nor `default=`, sets and
    counters apart.
test_writes::test_rows_of_entities_that_are_there: unless the id already has a value for them here
test_writes::test_update: removing one raises `SchemaError`
test_writes::test_key_columns: `id=` names a column, whose text is the id, or a list of columns, whose texts are
    joined by `/` (integers in decimal, dates as stored); `prefix=` goes before either as it is.
test_writes::test_key_columns: Id columns are also written as fields, except one called `id` and those that the
    schema does not know
test_writes::test_keys_that_cannot_be: a missing or repeated key raises `ValueError`
test_writes::test_insert_columns: It returns a list of ids in row order
test_writes::test_deleted_rows: Writing to a deleted id raises `DeletedError` (`insert_frame(deleted="skip")`
    leaves those out and says how many).

-- queries
test_frame::test_shapes: A relation find gives a DataFrame; `[?x ...]` a Series; `[?x ?y]` a tuple or None; `?x
    .` a Python value or None.
test_live_frame::test_value_has_the_shape_of_q: `db.live(…).df` is always a DataFrame, `live.value` has the
    shape of `q`.
test_frame::test_dtypes: `int64`; any float makes `float64`; `bool`; text pandas' default string dtype; dates
    `datetime64[us, UTC]`; mixed kinds `object`; columns that can miss values by the query's form, whatever the
    data, `Int64`, `Float64`, `boolean`
test_frame::test_an_empty_column: an empty column takes the schema's kind, else `object`
test_database::test_skipped_values_are_counted: numeric aggregates skip what is not a number and say how many in
    `attrs`
test_database::test_what_is_incomplete_is_said: `strict=True` raises `IncompleteError` where it would warn;
    offline answers from the replica

-- live frames
test_live_frame::test_the_first_look_waits_for_a_complete_answer: `db.live` returns at once; the first `.df`,
    `value` or callback waits for the first complete answer
test_live_frame::test_the_first_look_waits_for_a_limited_time: at most `timeout=10`, then what is here,
    `complete` false
test_live_frame::test_the_frame_follows: `live.df` is an ordinary DataFrame that never changes under your feet
test_live_frame::test_a_frame_is_safe_to_modify: safe to modify
test_live_frame::test_version: `live.version` grows with each change
test_live_frame::test_on_change: `live.on_change(fn)` calls `fn(live, delta)` after each transaction, in order
test_live_frame::test_on_change: `delta.added` and `delta.removed` are DataFrames; it returns a function that
    stops it
test_database::test_a_callback_may_query_and_write: on one callback thread of the store and outside its lock
    (queries and `flush` are allowed there)
test_live_frame::test_errors_of_callbacks: What `fn` raises goes to `live.error` and is shown once.
test_live_frame::test_wait: `live.wait(timeout=30)` returns `live` as soon as it is newer than the last `.df`
    seen
test_live_frame::test_wait_until: as soon as `until(df)` is true; else `TimeoutError`
test_live_frame::test_close: `live.close()`
test_live_frame::test_equal_queries_share_their_work: Equal queries share their work
test_display::test_running_a_cell_again_ends_what_it_displayed: running a cell again closes what its last run
    displayed
test_live_frame::test_it_behaves_like_its_frame: It behaves in expressions like its frame (`live["age"].mean()`,
    `len(live)`, `live.plot(…)`)
test_display::test_a_display_follows: as the last value of a cell it shows a table that keeps itself up to date
test_display::test_in_a_real_kernel: while a long cell runs
test_display::test_elsewhere_it_is_a_plain_table: Elsewhere it is a plain table

-- sync
test_undo::test_undo_and_redo: `db.undo()` takes back this session's last transaction as a new one, where its
    values still stand; returns a frame of what it left alone; `db.redo()`.
"""


def words(text: str) -> str:
    """A text without its signs."""
    return " ".join(re.findall(r"\w+", text)).lower()


def elsewhere() -> list[tuple[str, str]]:
    """(test, sentence)."""
    found = re.findall(r"^(test_\w+::test_\w+): (.+(?:\n    .+)*)", ELSEWHERE, re.MULTILINE)
    assert len(found) == ELSEWHERE.count("::")
    return found


@pytest.mark.parametrize(("test", "sentence"), elsewhere())
def test_the_sentence_is_quoted_there(test: str, sentence: str) -> None:
    module, name = test.split("::")
    tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert found, f"there is no {module}::{name}"
    assert words(sentence) in words(ast.get_docstring(found[0]) or ""), "it says something else"


# -- where the tests of this module run ------------------------------------------------------------------------------


@pytest.fixture
def db() -> Iterator[Database]:
    with tripleweb.open() as db:
        yield db


@pytest.fixture
def blog() -> Iterator[Database]:
    with tripleweb.open(schema=SCHEMA) as db:
        yield db


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


Connect = Callable[..., Database]


@pytest.fixture
def connect(server: WebServer) -> Iterator[Connect]:
    made: list[Database] = []

    def connect(**options: Any) -> Database:
        place = {"url": server.url, "token": server.token, "path": ":memory:", **options}
        made.append(tripleweb.connect("app", **place))
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


def online(*dbs: Database) -> None:
    for db in dbs:
        assert db._session.wait_for(lambda db=db: db._session.core.caught_up, 10), db.status


def level(*dbs: Database) -> None:
    """Everything is decided, and everybody has it."""
    online(*dbs)
    for db in dbs:
        db.flush(10)
    last = max(db._session.core.cursors["app"] for db in dbs)
    for db in dbs:
        assert db._session.wait_for(lambda db=db: db._session.core.cursors["app"] >= last, 10)


def later(db: Database) -> None:
    """What this store writes from now on is later than what others have written so far."""
    db._session.core.clock.last += 50 << 16


# -- schema ------------------------------------------------------------------------------------------------------------


def test_what_fields_take() -> None:
    """Fields take `optional=`, `default=` (value or callable), `check=` (callable)."""
    ids = iter(["n1", "n2"])
    schema = tripleweb.schema(
        item={
            "name": t.string(check=str.isalpha),
            "size": t.number(optional=True, check=lambda size: size > 0),
            "colour": t.string(default="red"),
            "serial": t.string(default=lambda: next(ids)),
            "parts": t.many(t.string(), default={"a"}),
        }
    )
    db = tripleweb.open(schema=schema)
    one, other = db.insert("item", name="one"), db.insert("item", name="other", colour="blue")
    assert db.get("item", one) == {
        "id": one, "name": "one", "size": None, "colour": "red", "serial": "n1", "parts": ["a"]
    }  # fmt: skip
    assert db.get("item", other)["colour"] == "blue" and db.get("item", other)["serial"] == "n2"
    for wrong in (
        lambda: db.insert("item", name="number 1"),
        lambda: db.update("item", one, size=-1),
        lambda: db.set(one, "item/size", 0),
        lambda: db.insert_frame("item", pd.DataFrame({"name": ["fine", "x1"]})),
    ):
        with pytest.raises(SchemaError, match="check"):
            wrong()
    assert len(db.frame("item")) == 2


def test_sets_and_counters(connect: Connect) -> None:
    """`t.many(t.string())` is a set of plain values, `t.counter()` a number that concurrent increments add up in."""
    schema = tripleweb.schema(post={"title": t.string(), "words": t.many(t.string()), "likes": t.counter()})
    one, other = connect(schema=schema), connect(schema=schema)
    p = one.insert("post", title="P", words=["b", "a", "b"], likes=1)
    level(one, other)
    for db in (one, other):
        db.go_offline()
    one.increment("post", p, likes=2)
    one.add("post", p, words="c")
    other.increment("post", p, likes=4)
    other.remove("post", p, words=["a"])
    for db in (one, other):
        db.go_online()
    online(one, other)
    level(one, other)
    assert one.get("post", p) == other.get("post", p) == {
        "id": p, "title": "P", "words": ["b", "c"], "likes": 7
    }  # fmt: skip


def test_how_a_counter_reads(blog: Database) -> None:
    """It reads as an `int` (`float` if any share is one), 0 where nobody counted; a query matches where somebody
    did."""
    p = blog.insert("post", title="P", author="ada")
    counted = "[:find ?n . :where [_ :post/likes ?n]]"
    assert blog.get("post", p)["likes"] == 0 and blog.q(counted) is None
    assert blog.frame("post")["likes"].tolist() == [0]
    blog.increment("post", p, likes=3)
    assert blog.q(counted) == 3 and type(blog.get("post", p)["likes"]) is int
    blog.increment("post", p, likes=1.0)
    assert blog.q(counted) == 4 and type(blog.get("post", p)["likes"]) is float


# -- values, ids, predicates -------------------------------------------------------------------------------------------

NEW_YORK = timezone(timedelta(hours=-5))
VALUES: list[tuple[Any, Any]] = [
    ("é", "é"), (unicodedata.normalize("NFD", "é"), "e\u0301"), ("", ""), ("\x00🐍", "\x00🐍"), ("x" * 1_000_000,) * 2,
    (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (0.1, 0.1), (-1e308, -1e308), (5e-324, 5e-324), (True, True),
    (datetime(2020, 1, 1, 0, 0, 0, 1, NEW_YORK), datetime(2020, 1, 1, 5, 0, 0, 1, UTC)),
    (datetime(1, 1, 1, tzinfo=UTC),) * 2, (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),) * 2,
    (pd.Timestamp("2020-01-01T00:00:00.000001-05:00"), datetime(2020, 1, 1, 5, 0, 0, 1, UTC)),
    (Ref("ada"), Ref("ada")), (np.int32(7), 7), (np.float64(1.5), 1.5), (np.bool_(True), True), (np.str_("x"), "x"),
]  # fmt: skip


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    """`str` (never normalised), `int` (64 bit), `float` (finite), `bool`, aware `datetime`/`pandas.Timestamp`
    (stored as UTC text with six digits and `Z`, years 1-9999; non-zero nanoseconds raise), references."""
    path = tmp_path / "values"
    with tripleweb.open(path) as db:
        for number, (given, _) in enumerate(VALUES):
            db.set(f"v{number}", "k/v", given)
        with pytest.raises(ValueError, match="nanoseconds"):
            db.set("x", "k/v", pd.Timestamp("2020-01-01T00:00:00.000000001Z"))
        with pytest.raises(ValueError, match="years"):
            db.set("x", "k/v", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    with tripleweb.open(path) as db:
        for number, (_, stored) in enumerate(VALUES):
            back = db.get("k", f"v{number}")["v"]
            assert back == stored and type(back) is type(stored), stored
        count = db.q("[:find (count ?s) . :where [?s :k/v]]")
        assert count == len(VALUES)
        assert db.q('[:find ?t . :where ["v11" :k/v ?d] [(str ?d) ?t]]') == "2020-01-01T05:00:00.000001Z"
    assert date_text(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000000Z"


def test_which_values_are_one(db: Database) -> None:
    """`True` is not `1`, `"1"` is not `1`, `1 == 1.0`."""
    db.set("s", "k/many", {True, "1"})
    db.add("k", "s", many=1.0)
    held = db.get("k", "s")["many"]
    assert [type(value) for value in held] == [bool, float, str]
    for given, found in ((True, 1), (1, 1), (1.0, 1), ("1", 1), (False, 0), (2, 0)):
        assert len(db.q("[:find ?s ?v :in $ ?v :where [?s :k/many ?v]]", given)) == found, given
    assert db.q("[:find ?a ?b :where [_ :k/many ?a] [_ :k/many ?b] [(= ?a ?b)]]").shape == (3, 2)


def test_ids(db: Database) -> None:
    """Any text without control characters up to 512 bytes is an id or a predicate …; ids are nano ids unless given, and
    are one space per app."""
    odd = [
        "é" * 256,
        "a b/c?d=e#f%20",
        '"quoted" [x]',
        "'); DROP",
        "👩‍👩‍👧",
        "user/name",
        " ",
        "_x",
        "x" * 512,
    ]
    for name in odd:
        db.set(name, "k/v", name)
        if not name.startswith("_"):
            db.set("s", name, 1)
            assert db.q("[:find ?v . :in $ ?p :where [_ ?p ?v]]", name) == 1
        assert db.q("[:find ?s . :in $ ?v :where [?s :k/v ?v]]", name) == name
    for wrong in ("", "a\nb", "\x7f", "\x85", "x" * 513, "é" * 257, "\ud800"):
        with pytest.raises(ValueError):
            db.set(wrong, "k/v", 1)
        with pytest.raises(ValueError):
            db.set("s", wrong, 1)
    made = {db.insert("k", v=number) for number in range(100)}
    assert len(made) == 100 and all(re.fullmatch(r"[A-Za-z0-9_-]{21}", name) for name in made)
    db.insert("user", id="x", name="X")
    db.insert("post", id="x", title="also X")
    assert db.q("[:find ?n ?t :where [?x :user/name ?n] [?x :post/title ?t]]").to_numpy().tolist() == [
        ["X", "also X"]
    ]


def test_the_kind_of_a_predicate(db: Database) -> None:
    """The kind of a predicate is the text before its first `/`."""
    db.set("s", "a/b/c", 1)
    db.set("s", "plain", 2)
    assert db.kinds() == ["a", "plain"] and db.fields("a") == ["b/c"]
    assert db.get("a", "s") == {"id": "s", "b/c": 1} and db.frame("a")["b/c"].tolist() == [1]


def test_deleted_is_not_data(db: Database) -> None:
    """`_deleted` never appears in a result and is refused as data."""
    db.insert("user", id="ada", name="Ada")
    db.insert("user", id="bob", name="Bob", boss=Ref("ada"))
    db.delete("ada")
    assert sorted(db.q("[:find ?p :where [_ ?p]]")["p"]) == ["user/boss", "user/name"]
    assert db.q('[:find ?s ?v :where [?s "_deleted" ?v]]').empty
    assert db.q('[:find ?p ?v :where ["ada" ?p ?v]]').empty
    assert db.kinds() == ["user"] and db.get("user", "ada") is None and len(db.frame("user")) == 1
    for wrong in (
        lambda: db.set("x", "_deleted", True),
        lambda: db.unset("ada", "_deleted"),
        lambda: db.insert("_deleted", x=1),
        lambda: db.insert_frame("user", pd.DataFrame({"_deleted": [True]})),
    ):
        with pytest.raises((ValueError, SchemaError)):
            wrong()


# -- a store -----------------------------------------------------------------------------------------------------------


def test_a_full_copy(connect: Connect) -> None:
    """`"all"` keeps a full copy of the app."""
    one = connect()
    one.insert_frame("row", pd.DataFrame({"n": range(100)}))
    level(one)
    other = connect(replicate="all")
    online(other)
    other.go_offline()
    assert other.q("[:find (count ?r) . :where [?r :row/n]]", strict=True) == 100


def test_a_label(server: WebServer, connect: Connect) -> None:
    """`label=` is shown beside it, marked as self-chosen."""
    db = connect(label="Ada's <laptop>")
    online(db)
    assert db.status.user == "ada"
    page = User(server, token=server.token).get("/tripleweb").body.decode()
    assert "calls itself “Ada&#x27;s &lt;laptop&gt;”" in page and "ada" in page


def test_writes_are_here_at_once(connect: Connect, server: WebServer) -> None:
    """Writes are local, immediate, atomic."""
    db = connect(schema=SCHEMA)
    online(db)
    db.go_offline()
    ada = db.insert("user", name="Ada")
    assert db.get("user", ada)["name"] == "Ada" and db.q(NAMES)["name"].tolist() == ["Ada"]
    assert db.status.pending == 1
    with pytest.raises(SchemaError):
        db.insert_frame("user", pd.DataFrame({"name": ["Bob", "Cyd"], "age": [1, "two"]}))
    with pytest.raises(SchemaError):
        db.update("user", ada, age=36, active="yes")
    assert db.get("user", ada)["age"] is None and len(db.q(NAMES)) == 1 and db.status.pending == 1


def test_insert(blog: Database) -> None:
    """`insert` returns the id; an existing id= merges; at least one field."""
    ada = blog.insert("user", name="Ada")
    assert blog.insert("user", id=ada, age=36) == ada
    assert blog.get("user", ada) == {
        "id": ada, "name": "Ada", "age": 36, "active": True, "joined": None, "manager": None
    }  # fmt: skip
    bare = tripleweb.open()
    with pytest.raises(ValueError, match="at least one field"):
        bare.insert("user", id="x")
    with pytest.raises(SchemaError, match="at least one field"):
        bare.insert("user", name=None)
    assert bare.kinds() == []


def test_a_delete_wins(connect: Connect) -> None:
    """`db.delete(ada)`: every kind of it; wins over every concurrent update, for ever."""
    one, other = connect(), connect()
    one.insert("user", id="x", name="X")
    one.insert("post", id="x", title="P")
    level(one, other)
    for db in (one, other):
        db.go_offline()
    one.delete("x")
    later(other)
    other.update("user", "x", name="later")
    other.set("x", "new/kind", 1)
    for db in (one, other):
        db.go_online()
        online(db)
        db.flush(10)
    level(one, other)
    for db in (one, other):
        assert db.kinds() == [] and db.get("user", "x") is None
        with pytest.raises(DeletedError):
            db.insert("user", id="x", name="again")
    lost = other.receipts().tail(2)
    assert lost["outcome"].tolist() == ["superseded"] * 2 and lost["reason"].tolist() == ["deleted"] * 2


def test_what_is_there(blog: Database) -> None:
    """`db.kinds(); db.fields("post"); db.frame("post")`: what is there, without a query."""
    ada = blog.insert("user", name="Ada", age=36)
    blog.insert("post", id="p", title="P", author=ada, tags=["t1"])
    assert blog.kinds() == ["post", "user"]
    assert blog.fields("post") == ["author", "tags", "title"] and blog.fields("tag") == []
    frame = blog.frame("post")
    assert frame.to_dict("records") == [{"id": "p", "title": "P", "author": ada, "tags": ["t1"], "likes": 0}]


def test_what_insert_demands(blog: Database) -> None:
    """`insert` and `insert_frame` demand them …; `update`, `add` and `set` never do; removing one raises
    `SchemaError`."""
    with pytest.raises(SchemaError, match="required"):
        blog.insert("post", title="P")
    with pytest.raises(SchemaError, match=r"row 1.*required"):
        blog.insert_frame("user", pd.DataFrame({"name": ["Ada", None]}))
    blog.update("post", "p", title="P")
    blog.add("post", "q", tags="t1")
    blog.set("r", "post/title", "R")
    assert set(blog.frame("post")["id"]) == {"p", "q", "r"}
    for remove in (
        lambda: blog.update("post", "p", title=None),
        lambda: blog.unset("p", "post/title"),
        lambda: blog.set("p", "post/title", None),
    ):
        with pytest.raises(SchemaError, match="required"):
            remove()


def test_key_columns_as_they_are_stored(db: Database) -> None:
    """Integers in decimal, dates as stored; `None` makes nano ids."""
    frame = pd.DataFrame(
        {
            "n": np.array([7, -(2**62)], dtype="int64"),
            "d": pd.to_datetime(["2013-01-01T05:00:00Z", "2013-06-01T04:00:00.5Z"], format="ISO8601"),
            "s": ["é", "x y"],
        }
    )
    assert db.insert_frame("r", frame, id="n") == ["7", str(-(2**62))]
    assert db.insert_frame("r", frame, id=["s", "d"], prefix="p:") == [
        "p:é/2013-01-01T05:00:00.000000Z", "p:x y/2013-06-01T04:00:00.500000Z"
    ]  # fmt: skip
    assert db.insert_frame("r", frame.astype({"n": "Int64"}), id="n", prefix="q") == ["q7", f"q{-(2**62)}"]
    made = db.insert_frame("r", frame)
    assert len(set(made)) == 2 and all(len(name) == 21 for name in made)
    assert db.get("r", made[1])["s"] == "x y"


def test_references_read_back(blog: Database) -> None:
    """References read back as `tripleweb.Ref`, which is a `str`."""
    blog.insert("post", id="p", title="P", author="ada", tags=["t2", "t1"])
    got = blog.get("post", "p")
    assert [type(got["author"]), *map(type, got["tags"])] == [Ref, Ref, Ref] and isinstance(
        got["author"], str
    )
    assert (got["author"], got["tags"]) == ("ada", ["t1", "t2"]) and f"{got['author']}" == "ada"
    assert type(blog.q("[:find ?a . :where [_ :post/author ?a]]")) is str


# -- queries -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(db: Database) -> Database:
    for name, age, boss in (("Ada", 36, None), ("Bob", 17, "ada"), ("Cyd", 36, "bob")):
        db.insert("user", id=name.lower(), name=name, age=age, boss=None if boss is None else Ref(boss))
    return db


RULES = """[[(above ?a ?b) [?b :user/boss ?a]]
            [(above ?a ?b) [?m :user/boss ?a] (above ?m ?b)]]"""


def test_inputs(people: Database) -> None:
    """`:in` with scalar, tuple, collection, relation (also a DataFrame) and `%` rules, in any order."""
    q = people.q
    assert sorted(q("[:find [?n ...] :in % ?who $ :where (above ?who ?u) [?u :user/name ?n]]", RULES, "ada")) == [
        "Bob", "Cyd"
    ]  # fmt: skip
    assert (
        q("[:find ?n . :in [?a ?b] :where [?u :user/age ?a] [?u :user/name ?n] [(= ?n ?b)]]", (36, "Cyd"))
        == "Cyd"
    )
    for given in (
        ["Ada", "Bob"],
        ("Ada", "Bob"),
        {"Ada", "Bob"},
        pd.Series(["Ada", "Bob"]),
        np.array(["Ada", "Bob"]),
    ):
        assert sorted(q("[:find [?u ...] :in $ [?n ...] :where [?u :user/name ?n]]", given)) == ["ada", "bob"]
    pairs = [("Ada", 1), ("Cyd", 2), ("Nobody", 3)]
    for rows in (pairs, [list(pair) for pair in pairs], pd.DataFrame(pairs, columns=["x", "y"])):
        found = q("[:find ?u ?k :in $ [[?n ?k]] :where [?u :user/name ?n]]", rows)
        assert sorted(found.itertuples(index=False, name=None)) == [("ada", 1), ("cyd", 2)]
    assert q("[:find ?u ?k :in [[?n ?k]] $ ?least % :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a ?least)] "
             "(above ?boss ?u)]", pairs, 20, RULES).to_numpy().tolist() == [["cyd", 2]]  # fmt: skip
    assert sorted(people.live("[:find [?b ...] :in $ % :where (above ?a ?b)]", RULES).value) == ["bob", "cyd"]
    with pytest.raises(QueryError, match="inputs"):
        q("[:find ?n :in $ ?n]")


def test_callables(people: Database) -> None:
    """Python callables passed as inputs and used as predicates or functions (pure ones)."""
    query = "[:find ?n ?short :in $ ?test ?f :where [_ :user/name ?n] [(?test ?n)] [(?f ?n) ?short]]"
    assert people.q(query, lambda name: name > "B", lambda name: name[:2]).sort_values("n").to_numpy().tolist() == [
        ["Bob", "Bo"], ["Cyd", "Cy"]
    ]  # fmt: skip
    live = people.live(query, str.isalpha, len)
    people.insert("user", name="Dee")
    assert sorted(live["short"]) == [3, 3, 3, 3]
    with pytest.raises(ZeroDivisionError):
        people.q(query, lambda name: 1 / 0, len)


def test_columns(people: Database) -> None:
    """Columns are the find variables without `?`; `(avg ?age)` is `avg_age`, `(count-distinct ?x)` `count_distinct_x`,
    `(min 3 ?x)` `min_3_x`, …; repeated names get `_2`."""
    frame = people.q("[:find ?n ?n (avg ?age) (count-distinct ?u) (min 3 ?u) (avg ?age) "
                     ":where [?u :user/name ?n] [?u :user/age ?age]]")  # fmt: skip
    assert list(frame.columns) == ["n", "n_2", "avg_age", "count_distinct_u", "min_3_u", "avg_age_2"]


def test_order(db: Database) -> None:
    """Without `:order-by` row order is not promised; with it, kinds sort boolean < number < date < text, missing last,
    ties by the remaining columns."""
    moments = [datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2021)]
    ordered = [False, True, -1, 0.5, 1, *moments, "", "a", "b"]
    for number, value in enumerate(reversed(ordered)):
        db.set(f"s{number}", "k/v", value)
    for direction, expected in (("", ordered), (" :asc", ordered), (" :desc", ordered[::-1])):
        assert db.q(f"[:find [?v ...] :where [_ :k/v ?v] :order-by [?v{direction}]]").tolist() == expected
    for number in range(6):
        db.set(f"t{number}", "k/a", number % 2)
        db.set(f"t{number}", "k/b", -number)
    frame = db.q("[:find ?s ?a ?b :where [?s :k/a ?a] [?s :k/b ?b] :order-by [?a :desc] :limit 4 :offset 1]")
    assert frame["s"].tolist() == ["t3", "t5", "t0", "t2"], "ties by the remaining columns"


def test_sets(people: Database) -> None:
    """Sets, as in DataScript: aggregates run over distinct find-and-with tuples."""
    assert people.q("[:find (sum ?age) . :where [_ :user/age ?age]]") == 53
    assert people.q("[:find (sum ?age) . :with ?u :where [?u :user/age ?age]]") == 89
    assert len(people.q("[:find ?age :where [_ :user/age ?age]]")) == 2


def test_ids_are_text_to_a_query(people: Database) -> None:
    """To a query a subject or a reference is its id's text: an id given as a literal or an input matches both."""
    people.set("x", "note/about", "ada")  # text, not a reference
    for query, inputs in (
        ('[:find ?u . :where [?u :user/boss "ada"]]', ()),
        ("[:find ?u . :in $ ?b :where [?u :user/boss ?b]]", ("ada",)),
        ("[:find ?u . :in $ ?b :where [?u :user/boss ?b]]", (Ref("ada"),)),
    ):
        assert people.q(query, *inputs) == "bob"
    for given in ("ada", Ref("ada")):
        assert people.q("[:find ?n . :in $ ?u :where [?u :user/name ?n]]", given) == "Ada"
        assert people.q("[:find ?x . :in $ ?u :where [?x :note/about ?u]]", given) == "x"
    assert people.q("[:find ?n . :where [_ :note/about ?u] [?u :user/name ?n]]") == "Ada"


def test_comparisons(db: Database) -> None:
    """Comparisons across kinds are false."""
    for number, value in enumerate([1, "1", True, datetime(2020, 1, 1, tzinfo=UTC)]):
        db.set(f"s{number}", "k/v", value)
    for sign in ("<", ">", "<=", ">="):
        pairs = db.q(f"[:find ?s ?t :where [?s :k/v ?a] [?t :k/v ?b] [({sign} ?a ?b)]]")
        assert [s for s, t in pairs.itertuples(index=False) if s != t] == []
    assert db.q("[:find [?s ...] :where [?s :k/v ?v] [(> ?v 0)]]").tolist() == ["s0"]


def test_aggregates_over_nothing(people: Database) -> None:
    """An aggregate over nothing gives no row."""
    assert people.q("[:find (count ?u) (max ?a) :where [?u :user/age ?a] [(> ?a 99)]]").empty
    assert people.q("[:find (count ?u) . :where [?u :user/none]]") is None
    assert people.q("[:find ?n (sum ?a) :where [?u :user/name ?n] [?u :user/none ?a]]").shape == (0, 2)


def test_errors_of_queries(db: Database) -> None:
    """A query error raises `QueryError` with line, column, the offending form and what was expected."""
    text = "[:find ?x\n :where [?x :user/name ?n]\n        [(starts ?n \"A\")]]"  # fmt: skip
    for ask in (db.q, db.live, lambda query: asyncio.run(db.aq(query))):
        with pytest.raises(QueryError) as error:
            ask(text)
        found = error.value
        assert (found.line, found.column, found.form) == (3, 11, "starts") and found.expected
        assert "line 3" in str(found) and isinstance(found, TriplewebError)


def test_asking_asynchronously(people: Database) -> None:
    """`await db.aq(query, *inputs)` for async code."""
    query = "[:find ?n . :in $ ?a :where [?u :user/age ?a] [?u :user/name ?n]]"

    async def ask() -> list[Any]:
        return await asyncio.gather(*(people.aq(query, age, strict=True) for age in (17, 99)))

    assert asyncio.run(ask()) == ["Bob", None]


def test_what_an_answer_says_of_itself(connect: Connect) -> None:
    """The frame's `attrs["tripleweb"]` is flat JSON: `complete` (bool), `scope`, `position`."""
    local, db = tripleweb.open(), connect()
    db.set("x", "k/v", 1)
    level(db)
    for store in (local, db):
        for frame in (
            store.q("[:find ?v :where [_ :k/v ?v]]"),
            store.live("[:find ?v :where [_ :k/v ?v]]").df,
        ):
            said = frame.attrs["tripleweb"]
            assert said.keys() == {"complete", "scope", "position"} and said["complete"] is True
            assert all(
                value is None or isinstance(value, bool | int | float | str) for value in said.values()
            )
    assert said["position"] and isinstance(
        db.q("[:find [?v ...] :where [_ :k/v ?v]]").attrs["tripleweb"], dict
    )


# -- sync --------------------------------------------------------------------------------------------------------------


def test_status(server: WebServer, connect: Connect) -> None:
    """`db.status` has `.state` (`"local" "connecting" "online" "offline" "refused"`), `.pending` (writes whose fate the
    server has not decided and made durable), `.server`, `.app`, `.user`, `.reason`; its repr and HTML are what
    `%tripleweb status` shows."""
    local = tripleweb.open().status
    assert (local.state, local.pending, local.server, local.app, local.user, local.reason) == (
        "local",
        0,
        "",
        "",
        "",
        "",
    )
    db = connect(label="Ada's <laptop>")
    states = {db.status.state}
    online(db)
    states.add(db.status.state)
    assert states <= {"connecting", "online"} and db.status.state == "online"
    assert (db.status.server, db.status.app, db.status.user) == (server.url, "app", "ada")
    db.go_offline()
    db.set("x", "k/v", 1)
    db.set("x", "k/v", 2)
    assert (db.status.state, db.status.pending, db.status.reason) == ("offline", 2, "by choice")
    assert "2 writes pending" in repr(db.status) and "by choice" in db.status._repr_html_()
    assert repr(db) == repr(db.status) and db._repr_html_() == db.status._repr_html_()
    wrong = connect(token="wrong")
    assert wrong._session.wait_for(lambda: wrong.status.state == "refused", 10) and wrong.status.reason


def test_flush(connect: Connect) -> None:
    """`db.flush(timeout=30)` returns when everything written so far is decided; `TimeoutError` otherwise, at once when
    offline by choice or refused."""
    db = connect()
    for number in range(50):
        db.set(f"e{number}", "k/v", number)
    assert db.flush() is None and db.status.pending == 0
    tripleweb.open().flush(0)
    db.go_offline()
    db.flush()  # nothing is written that is not decided
    db.set("x", "k/v", 1)
    with pytest.raises(TimeoutError, match=r"1 of 1 transactions .*by choice"):
        db.flush(timeout=1_000)
    with pytest.raises(TriplewebError, match="transaction"), db.transaction():
        db.set("y", "k/v", 1)
        db.flush()


def test_what_became_of_writes(server: WebServer, connect: Connect) -> None:
    """`db.receipts()` is a DataFrame (`time subject predicate value outcome by reason`) of what became of writes:
    `applied`, `superseded` (it lost when it arrived: `by`, `reason` newer, reset or deleted) … Nothing is dropped
    silently."""
    one, other = connect(), connect(token=server.access.mint("bob"))
    for subject in ("new", "set", "gone", "fine"):
        one.set(subject, "k/v", "first")
    level(one, other)
    one.go_offline()
    for subject in ("new", "set", "gone", "fine"):
        one.set(subject, "k/v", f"lost {subject}") if subject != "set" else one.add(
            "k", subject, v="lost set"
        )
    later(other)
    other.set("new", "k/v", "theirs")
    other.set("set", "k/v", {"a"})
    other.delete("gone")
    level(other)
    one.go_online()
    online(one)
    level(one, other)
    receipts = one.receipts()
    assert list(receipts.columns) == ["time", "subject", "predicate", "value", "outcome", "by", "reason"]
    assert str(receipts.dtypes["time"]) == "datetime64[us, UTC]"
    last = receipts.tail(4).set_index("subject")
    fates = {
        subject: (row["value"], row["outcome"], row["by"], row["reason"]) for subject, row in last.iterrows()
    }
    assert fates == {
        "new": ("lost new", "superseded", "bob", "newer"),
        "set": ("lost set", "superseded", "bob", "reset"),
        "gone": ("lost gone", "superseded", "bob", "deleted"),
        "fine": ("lost fine", "applied", "", ""),
    }
    one.flush(strict=True)  # what lost was not rejected


def test_what_was_rejected_is_kept(server: WebServer, connect: Connect) -> None:
    """`strict=True` raises `RejectedError` on rejections. `rejected` (… permission …) with the value kept."""
    db = connect(token=server.access.mint("eve"))
    db.set("x", "k/v", "mine")
    level(db)
    db.go_offline()
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    lost = [{"a", "b"}, Ref("y"), 2**60, datetime(2020, 1, 1, tzinfo=UTC), "text"]
    for number, value in enumerate(lost):
        db.set(f"r{number}", "k/v", value)
    db.set("x", "k/v", None)
    db.go_online()
    with pytest.raises(RejectedError, match="permission"):
        db.flush(10, strict=True)
    receipts = db.receipts()
    rejected = receipts[receipts["outcome"] == "rejected"]
    assert set(rejected["reason"]) == {"permission"}
    kept = [value for value in rejected["value"] if value is not None]
    assert kept == ["a", "b", "y", 2**60, datetime(2020, 1, 1, tzinfo=UTC), "text"]
    assert db.q("[:find ?s ?v :where [?s :k/v ?v]]").to_numpy().tolist() == [["x", "mine"]], "undone here"


def test_ending(tmp_path: Path, connect: Connect) -> None:
    """`db.go_offline()`, `db.go_online()`, `db.close()`, `db.disconnect(forget=True)` (wipes the replica)."""
    path = tmp_path / "replica"
    db = connect(path=path)
    online(db)
    db.go_offline()
    assert db.status.state == "offline"
    db.set("x", "k/v", 1)
    db.go_online()
    level(db)
    db.close()
    assert path.exists()
    with pytest.raises(TriplewebError, match="closed"):
        db.set("x", "k/v", 2)
    again = connect(path=path)
    assert again.q("[:find ?v . :where [_ :k/v ?v]]") == 1
    again.disconnect()
    assert path.exists()
    connect(path=path).disconnect(forget=True)
    assert not path.exists()
