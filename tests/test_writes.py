"""What each write puts into a transaction, by the rules of the schema and without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tripleweb.change import Change
from tripleweb.errors import DeletedError, SchemaError
from tripleweb.schema import SCHEMALESS, Schema, schema, t
from tripleweb.store import Store
from tripleweb.terms import Ref, Value
from tripleweb.transaction import Transaction
from tripleweb.writes import (
    add,
    delete,
    increment,
    insert,
    insert_columns,
    remove,
    set_triple,
    unset_triple,
    update,
)

MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
BLOG = schema(
    user={
        "name": t.string(),
        "age": t.number(optional=True),
        "active": t.boolean(default=True),
        "joined": t.date(optional=True),
        "manager": t.ref("user", optional=True),
    },
    post={
        "title": t.string(),
        "author": t.ref("user", optional=True),
        "tags": t.ref_many("tag"),
        "likes": t.counter(),
    },
    tag={
        "label": t.string(optional=True),
        "words": t.many(t.string()),
        "code": t.string(default=lambda: "new"),
    },
)


class World:
    """A store with a schema, whose every write is a transaction, as `db` has it."""

    def __init__(self, schema: Schema = BLOG) -> None:
        self.schema, self.store, self.time = schema, Store(), 0
        self.changes: list[Change] = []

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        self.time += 1
        tx = Transaction(self.store, self.time, "a")
        try:
            yield tx
        except BaseException:
            tx.rollback()
            raise
        self.changes = tx.changes
        tx.commit()

    def do(self, write: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self.transaction() as tx:
            if write is delete:
                return write(tx, *arguments, **options)
            return write(tx, self.schema, *arguments, **options)

    def insert(self, kind: str, id: str | None = None, /, **fields: Any) -> str:
        return self.do(insert, kind, fields, id=id, random_bytes=lambda n: bytes(range(n)))

    def rows(self, kind: str, columns: dict[str, list[Any]], **options: Any) -> Any:
        source = iter(range(1_000_000))
        options.setdefault("random_bytes", lambda n: next(source).to_bytes(n, "little"))
        return self.do(insert_columns, kind, columns, **options)

    def check_refused(
        self, error: type[Exception], match: str, write: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        """The write raises and changes nothing, also in a transaction that goes on."""
        before = set(self.store.registers())
        with self.transaction() as tx:
            with pytest.raises(error, match=match):
                write(tx, *(() if write is delete else (self.schema,)), *args, **kw)
            assert tx.changes == []
        assert set(self.store.registers()) == before

    def __getitem__(self, place: tuple[str, str]) -> list[Value]:
        return self.store.values(*place)


@pytest.fixture
def blog() -> World:
    return World()


@pytest.fixture
def loose() -> World:
    return World(SCHEMALESS)


def test_insert(blog: World) -> None:
    """`ada = db.insert("user", name="Ada", age=36)` returns the id. Defaults are written by `insert`."""
    ada = blog.insert("user", name="Ada", age=36, manager="bob", joined=MOMENT)
    assert len(ada) == 21
    assert dict(blog.store.about(ada)) == {
        "user/name": "Ada", "user/age": 36, "user/manager": "bob", "user/joined": MOMENT, "user/active": True
    }  # fmt: skip
    assert type(blog[ada, "user/manager"][0]) is Ref
    blog.insert("tag", "x", label="X")
    assert blog["x", "tag/code"] == ["new"], "a callable default"


def test_insert_merges_an_existing_id(blog: World) -> None:
    """An existing id= merges. `insert` and `insert_frame` demand [required fields] unless the id already has a
    value for them here."""
    blog.insert("user", "ada", name="Ada", active=False)
    blog.insert("user", "ada", age=36)
    assert dict(blog.store.about("ada")) == {"user/name": "Ada", "user/age": 36, "user/active": False}
    args = {"id": "bob", "random_bytes": bytes}
    blog.check_refused(
        SchemaError,
        r"user\.name = None: expected text: the field is required",
        insert,
        "user",
        {"age": 1},
        **args,
    )
    blog.check_refused(SchemaError, r"user\.name", insert, "user", {"age": 1, "name": None}, **args)
    blog.store.apply([Change("bob", "user/name", "", 7, 9, "b")])
    blog.check_refused(SchemaError, r"user\.name", insert, "user", {"age": 1}, **args)


def test_insert_wants_something(blog: World, loose: World) -> None:
    """At least one field."""
    args = {"id": "x", "random_bytes": bytes}
    loose.check_refused(ValueError, "at least one field", insert, "user", {}, **args)
    loose.check_refused(ValueError, "at least one field", insert, "user", {"a": None, "b": set()}, **args)
    bare = World(schema(tag={"label": t.string(optional=True), "words": t.many(t.string())}))
    bare.check_refused(SchemaError, "at least one field", insert, "tag", {"label": None, "words": []}, **args)


@pytest.mark.parametrize(
    ("kind", "fields", "match"),
    [
        ("user", {"name": "Ada", "age": "36"}, r"user\.age = '36': expected a number"),
        ("user", {"name": "Ada", "nick": "A"}, r"user\.nick = 'A': user has no field 'nick'"),
        ("usr", {"name": "Ada"}, "no kind 'usr'"),
        ("user", {"name": "Ada", "id": "ada"}, "id="),
    ],
)
def test_a_violation_writes_nothing(blog: World, kind: str, fields: dict[str, Any], match: str) -> None:
    """A violation or an unknown field raises `SchemaError` … and writes nothing."""
    blog.check_refused(SchemaError, match, insert, kind, fields, id="x", random_bytes=bytes)
    blog.check_refused(SchemaError, match, update, kind, "x", fields)


def test_ids_are_checked(blog: World) -> None:
    for wrong, error in (("", ValueError), ("a\nb", ValueError), (7, TypeError)):
        blog.check_refused(error, "id", insert, "user", {"name": "Ada"}, id=wrong, random_bytes=bytes)
        blog.check_refused(error, "id", update, "user", wrong, {"name": "Ada"})
        blog.check_refused(error, "id", set_triple, wrong, "user/name", "Ada")
        blog.check_refused(error, "id", delete, wrong)


def test_update(blog: World) -> None:
    """`db.update("user", ada, age=37, manager=None)`: None removes; tags=[…] assigns the whole set; unknown ids
    are created. [Required fields:] `update`, `add` and `set` never do [demand them]; removing one raises
    `SchemaError`."""
    blog.do(update, "user", "ada", {"age": 36, "manager": "bob"})
    blog.do(update, "user", "ada", {"age": 37, "manager": None})
    assert dict(blog.store.about("ada")) == {"user/age": 37}
    blog.check_refused(
        SchemaError, r"user\.name = None: .*required", update, "user", "ada", {"age": 1, "name": None}
    )
    blog.do(update, "user", "ada", {"active": None})
    assert blog["ada", "user/active"] == []
    blog.do(update, "post", "p", {"tags": ["x", "y"]})
    blog.do(update, "post", "p", {"tags": ["z", "y"]})
    assert blog["p", "post/tags"] == ["y", "z"]
    blog.do(update, "post", "p", {"tags": None})
    assert blog["p", "post/tags"] == []
    blog.do(update, "post", "p", {})
    blog.check_refused(SchemaError, "no kind", update, "usr", "p", {})


def test_add_and_remove(blog: World) -> None:
    """`db.add("post", p, tags=[t1, t2]); db.remove("post", p, tags=t1)`: merge element by element."""
    blog.do(add, "post", "p", {"tags": ["t1", "t2"]})
    assert [c.slot for c in blog.changes] == ["r:t1", "r:t2"], "no reset marker: others' members stay"
    blog.do(remove, "post", "p", {"tags": "t1"})
    assert blog["p", "post/tags"] == ["t2"]
    blog.do(add, "post", "p", {"tags": None})
    assert blog["p", "post/tags"] == ["t2"]
    for write in (add, remove):
        blog.check_refused(
            SchemaError,
            r"post\.title = 'x': expected a field of many values",
            write,
            "post",
            "p",
            {"title": "x"},
        )
        blog.check_refused(SchemaError, r"post\.likes", write, "post", "p", {"likes": 1})
        blog.check_refused(SchemaError, r"post\.tags = 7", write, "post", "p", {"tags": ["a", 7]})


def test_a_counter_only_counts(blog: World) -> None:
    """A counter only counts: `insert(…, likes=3)` counts 3 (left out: 0); assigning or removing one by `update`,
    `set` or `unset` raises `SchemaError`."""
    blog.insert("post", "p", title="Hello", likes=3)
    assert blog["p", "post/likes"] == [3]
    assert ("p", "post/likes", "c:", 3) in [change[:4] for change in blog.changes]
    blog.do(increment, "post", "p", {"likes": 1})
    blog.do(increment, "post", "p", {"likes": -2})
    assert blog["p", "post/likes"] == [2]
    blog.insert("post", "q", title="Silent")
    assert blog["q", "post/likes"] == [], "a query matches where somebody did"
    entity = BLOG.entity(blog.store, "post", "q")
    assert entity is not None and entity["likes"] == 0
    blog.check_refused(SchemaError, r"post\.likes = 5", update, "post", "p", {"likes": 5})
    blog.check_refused(SchemaError, r"post\.likes = None", update, "post", "p", {"likes": None})
    blog.check_refused(SchemaError, r"post\.likes = 5", set_triple, "p", "post/likes", 5)
    blog.check_refused(SchemaError, r"post\.likes", set_triple, "p", "post/likes", None)
    blog.check_refused(SchemaError, r"post\.likes", unset_triple, "p", "post/likes")
    blog.check_refused(SchemaError, r"post\.likes", unset_triple, "p", "post/likes", 2)
    blog.check_refused(SchemaError, r"post\.likes = None", increment, "post", "p", {"likes": None})
    blog.check_refused(SchemaError, r"post\.likes = 'x'", increment, "post", "p", {"likes": "x"})
    blog.check_refused(
        SchemaError, r"post\.title = 1: expected a counter", increment, "post", "p", {"title": 1}
    )
    blog.check_refused(ValueError, "64 bits", increment, "post", "p", {"likes": 2**63 - 1})


def test_increments_of_a_transaction_stay_storable(blog: World) -> None:
    with blog.transaction() as tx:
        increment(tx, BLOG, "post", "p", {"likes": -(2**62)})
    with blog.transaction() as tx:
        increment(tx, BLOG, "post", "p", {"likes": 2**62})
        with pytest.raises(ValueError, match="64 bits"):
            increment(tx, BLOG, "post", "p", {"likes": 2**62})
        assert [change.value for change in tx.changes] == [2**62]
    assert blog["p", "post/likes"] == [0]
    two = World(schema(x={"a": t.counter(), "b": t.counter()}))
    two.do(increment, "x", "p", {"b": 2**62})
    two.check_refused(ValueError, "64 bits", increment, "x", "p", {"a": 1, "b": 2**62})
    two.check_refused(ValueError, "64 bits", insert, "x", {"a": 1, "b": 2**62}, id="p", random_bytes=bytes)
    columns = {"id": ["q", "p"], "b": [1, 2**62]}
    two.check_refused(
        ValueError, "row 1: .*64 bits", insert_columns, "x", columns, id="id", random_bytes=bytes
    )


def test_delete(blog: World) -> None:
    """`db.delete(ada)`: every kind of it. Writing to a deleted id raises `DeletedError`."""
    blog.insert("user", "ada", name="Ada")
    blog.do(set_triple, "ada", "post/title", "too")
    blog.do(delete, "ada")
    assert list(blog.store.about("ada")) == []
    blog.check_refused(DeletedError, "ada", insert, "user", {}, id="ada", random_bytes=bytes)
    blog.check_refused(DeletedError, "ada", update, "user", "ada", {"age": 1})
    blog.check_refused(DeletedError, "ada", add, "post", "ada", {"tags": "x"})
    blog.check_refused(DeletedError, "ada", remove, "post", "ada", {"tags": "x"})
    blog.check_refused(DeletedError, "ada", increment, "post", "ada", {"likes": 1})
    blog.check_refused(DeletedError, "ada", set_triple, "ada", "user/age", 1)
    blog.check_refused(DeletedError, "ada", unset_triple, "ada", "user/age")
    blog.check_refused(DeletedError, "ada", delete, "ada")


def test_set_and_unset(blog: World) -> None:
    """`set` and `unset` check a predicate that the schema knows (`SchemaError`; an id becomes a reference there)
    and take any other as a store without a schema does."""
    blog.do(set_triple, "abc", "user/name", "Ada")
    blog.do(set_triple, "abc", "user/manager", "bob")
    assert type(blog["abc", "user/manager"][0]) is Ref
    blog.check_refused(SchemaError, r"user\.age = 'x'", set_triple, "abc", "user/age", "x")
    blog.check_refused(SchemaError, r"user\.age", set_triple, "abc", "user/age", {1, 2})
    blog.do(set_triple, "abc", "user/nick", "A")
    blog.do(set_triple, "abc", "plain", {2, 1})
    assert (blog["abc", "user/nick"], blog["abc", "plain"]) == (["A"], [1, 2])
    blog.check_refused(TypeError, "plain", set_triple, "abc", "plain", [1])
    blog.do(unset_triple, "abc", "user/nick")
    blog.do(set_triple, "abc", "user/manager", None)
    assert blog["abc", "user/nick"] == blog["abc", "user/manager"] == []
    blog.check_refused(ValueError, "'_'", set_triple, "abc", "_deleted", True)
    blog.check_refused(ValueError, "'_'", unset_triple, "abc", "_deleted")


def test_set_on_a_many_valued_field(blog: World) -> None:
    """On a many-valued field a scalar adds one member and a Python set assigns the whole; elsewhere a scalar
    assigns."""
    blog.do(set_triple, "p", "post/tags", "a")
    blog.do(set_triple, "p", "post/tags", "b")
    assert blog["p", "post/tags"] == ["a", "b"]
    assert [change.slot for change in blog.changes] == ["r:b"]
    blog.do(set_triple, "p", "post/tags", {"c", "d"})
    assert blog["p", "post/tags"] == ["c", "d"]
    blog.do(set_triple, "p", "post/tags", None)
    assert blog["p", "post/tags"] == []
    blog.do(set_triple, "p", "post/title", "one")
    blog.do(set_triple, "p", "post/title", "two")
    assert blog["p", "post/title"] == ["two"]


def test_unset_of_one_member(blog: World, loose: World) -> None:
    """`unset(s, p)` removes all, `unset(s, p, o)` one member … removing [a required field] raises `SchemaError`."""
    blog.do(add, "post", "p", {"tags": ["a", "b", "c"]})
    blog.do(unset_triple, "p", "post/tags", "b")
    assert blog["p", "post/tags"] == ["a", "c"]
    blog.do(unset_triple, "p", "post/tags")
    assert blog["p", "post/tags"] == []
    blog.do(set_triple, "p", "post/title", "one")
    blog.check_refused(SchemaError, r"post\.title .*required", unset_triple, "p", "post/title")
    blog.check_refused(SchemaError, r"post\.title .*required", unset_triple, "p", "post/title", "one")
    blog.do(update, "user", "ada", {"age": 36})
    blog.do(unset_triple, "ada", "user/age", 35)
    assert blog["ada", "user/age"] == [36]
    blog.do(unset_triple, "ada", "user/age", 36)
    assert blog["ada", "user/age"] == []
    blog.check_refused(ValueError, "a value to remove", unset_triple, "ada", "user/age", None)
    loose.do(set_triple, "x", "a/b", {True, "1"})
    loose.do(unset_triple, "x", "a/b", 1)
    assert loose["x", "a/b"] == [True, "1"]


def test_without_a_schema(loose: World) -> None:
    """Without a schema, scalars are single, Python sets are many, `tripleweb.Ref(id)` is a reference; lists
    raise."""
    loose.insert("post", "p", title="Hello", tags={"b", "a"}, author=Ref("ada"))
    assert loose["p", "post/tags"] == ["a", "b"]
    assert type(loose["p", "post/author"][0]) is Ref and type(loose["p", "post/title"][0]) is str
    loose.do(add, "post", "p", {"tags": "c", "words": {"x", "y"}})
    loose.do(remove, "post", "p", {"tags": {"a"}})
    loose.do(increment, "post", "p", {"likes": 2})
    loose.do(update, "post", "p", {"title": None})
    assert loose["p", "post/tags"] == ["b", "c"] and loose["p", "post/words"] == ["x", "y"]
    assert loose["p", "post/likes"] == [2] and loose["p", "post/title"] == []
    for write in (update, add, remove):
        loose.check_refused(TypeError, "post/tags", write, "post", "p", {"tags": ["a"]})
    loose.check_refused(SchemaError, "'_'", update, "post", "p", {"_x": 1})
    loose.check_refused(SchemaError, "'/'", update, "a/b", "p", {"x": 1})


# ---------------------------------------- many rows


def test_insert_columns(blog: World) -> None:
    """It returns a list of ids in row order … `None` makes nano ids."""
    done = blog.rows("user", {"name": ["Ada", "Bob"], "age": [36, None], "manager": [None, "ada"]})
    assert len(set(done.ids)) == 2 and done.skipped == []
    assert [blog[i, "user/name"] for i in done.ids] == [["Ada"], ["Bob"]]
    assert [blog[i, "user/age"] for i in done.ids] == [[36], []]
    assert [blog[i, "user/active"] for i in done.ids] == [[True], [True]]
    assert type(blog[done.ids[1], "user/manager"][0]) is Ref
    assert blog.rows("user", {}).ids == [] and blog.rows("user", {"age": []}).ids == []


def test_key_columns(blog: World, loose: World) -> None:
    """`id=` names a column, whose text is the id, or a list of columns, whose texts are joined by `/` (integers in
    decimal, dates as stored); `prefix=` goes before either as it is. Id columns are also written as fields, except
    one called `id` and those that the schema does not know."""
    assert blog.rows("user", {"name": ["Ada", "Bob"]}, id="name").ids == ["Ada", "Bob"]
    assert blog["Ada", "user/name"] == ["Ada"]
    assert blog.rows("user", {"id": ["x"], "name": ["X"]}, id="id").ids == ["x"]
    assert dict(blog.store.about("x")) == {"user/name": "X", "user/active": True}
    keys = {"year": [2013, 2013.0], "day": [MOMENT, MOMENT], "no": [1, 2], "name": ["a", "b"]}
    done = blog.rows("user", keys, id=["year", "day", "no"], prefix="F:")
    assert done.ids == ["F:2013/2020-01-01T00:00:00.000000Z/1", "F:2013/2020-01-01T00:00:00.000000Z/2"]
    assert dict(blog.store.about(done.ids[0])) == {"user/name": "a", "user/active": True}
    assert loose.rows("f", {"no": [7, 8]}, id="no").ids == ["7", "8"]
    assert loose["7", "f/no"] == [7]
    assert loose.rows("f", {"id": [7], "a": [1]}, id=["id", "a"]).ids == ["7/1"]
    assert dict(loose.store.about("7/1")) == {"f/a": 1}


@pytest.mark.parametrize(
    ("columns", "id", "match"),
    [
        ({"name": ["Ada", None]}, "name", "row 1: no value in the key column 'name'"),
        ({"name": ["Ada", math.nan]}, "name", "row 1: no value"),
        ({"name": ["Ada", "Bob", "Ada"]}, "name", "row 2: the key 'Ada' is that of row 0"),
        ({"name": ["Ada", ""]}, "name", "row 1: an id must not be empty"),
        ({"age": [1, 1.0], "name": ["a", "b"]}, "age", "row 1: the key '1'"),
        ({"age": [1], "name": ["a", "b"]}, "age", "different lengths"),
    ],
)
def test_keys_that_cannot_be(blog: World, columns: dict[str, list[Any]], id: str, match: str) -> None:
    """A missing or repeated key raises `ValueError`."""
    blog.check_refused(ValueError, match, insert_columns, "user", columns, id=id, random_bytes=bytes)


def test_errors_name_the_row(blog: World, loose: World) -> None:
    def refuse(error: type[Exception], match: str, columns: dict[str, list[Any]], **options: Any) -> None:
        blog.check_refused(error, match, insert_columns, "user", columns, random_bytes=bytes, **options)

    refuse(SchemaError, r"row 1: user\.age = 'x': expected a number", {"name": ["a", "b"], "age": [1, "x"]})
    refuse(SchemaError, r"row 1: user\.name = None: .*required", {"name": ["a", math.nan]})
    refuse(SchemaError, r"row 0: user\.name = None: .*required", {"age": [1]})
    refuse(SchemaError, r"user\.nick = 'a': user has no field", {"name": ["a"], "nick": ["a"]})
    refuse(SchemaError, "id=", {"name": ["a"], "id": ["a"]})
    refuse(ValueError, "row 0", {"name": ["a"], "age": [math.inf]})
    refuse(ValueError, "no column 'email'", {"name": ["a"]}, id="email")
    refuse(ValueError, "deleted='no'", {"name": ["a"]}, deleted="no")
    loose.check_refused(TypeError, "row 1: x/a", insert_columns, "x", {"a": [1, [2]]}, random_bytes=bytes)
    loose.check_refused(
        ValueError, "row 1: .*at least one", insert_columns, "x", {"a": [1, None]}, random_bytes=bytes
    )


def test_rows_of_entities_that_are_there(blog: World) -> None:
    """`insert` and `insert_frame` demand [required fields] unless the id already has a value for them here. A cell
    without a value leaves alone what is there."""
    blog.insert("user", "ada", name="Ada", age=36, active=False)
    done = blog.rows("user", {"key": ["ada", "bob"], "name": [None, "Bob"], "age": [math.nan, 1]}, id="key")
    assert done.ids == ["ada", "bob"]
    assert dict(blog.store.about("ada")) == {"user/name": "Ada", "user/age": 36, "user/active": False}


def test_deleted_rows(blog: World) -> None:
    """Writing to a deleted id raises `DeletedError` (`insert_frame(deleted="skip")` leaves those out and says how
    many)."""
    blog.do(delete, "Ada")
    columns = {"name": ["Bob", "Ada", "Cyd"]}
    blog.check_refused(
        DeletedError, "row 1: 'Ada'", insert_columns, "user", columns, id="name", random_bytes=bytes
    )
    done = blog.rows("user", columns, id="name", deleted="skip")
    assert done == (["Bob", "Cyd"], ["Ada"])
    assert blog["Cyd", "user/name"] == ["Cyd"]


def test_sets_and_counters_in_columns(blog: World, loose: World) -> None:
    blog.rows(
        "post",
        {"id": ["p", "q"], "title": ["a", "b"], "tags": [["x", "y"], None], "likes": [2, None]},
        id="id",
    )
    assert blog["p", "post/tags"] == ["x", "y"] and blog["q", "post/tags"] == []
    assert blog["p", "post/likes"] == [2] and blog["q", "post/likes"] == []
    loose.rows("post", {"id": ["p", "q"], "tags": [{"x", "y"}, "z"]}, id="id")
    assert loose["p", "post/tags"] == ["x", "y"] and loose["q", "post/tags"] == ["z"]


def test_rows_are_one_transaction(loose: World) -> None:
    """One stamp, and at most one change a slot, also after earlier writes of the same transaction."""
    with loose.transaction() as tx:
        set_triple(tx, SCHEMALESS, "p", "x/a", {1, 2})
        insert_columns(tx, SCHEMALESS, "x", {"id": ["p", "q"], "a": [5, 6]}, id="id", random_bytes=bytes)
        set_triple(tx, SCHEMALESS, "q", "x/a", 7)
    assert sorted(change[:4] for change in loose.changes) == [("p", "x/a", "", 5), ("q", "x/a", "", 7)]
    assert loose["p", "x/a"] == [5]
