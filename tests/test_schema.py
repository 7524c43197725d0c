"""The rules of a schema: what may be declared, what each field takes, how misfits read."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import pytest

from tripleweb.change import Change
from tripleweb.errors import SchemaError
from tripleweb.schema import SCHEMALESS, Field, Schema, field_of, schema, t
from tripleweb.store import Store
from tripleweb.terms import Ref, Value

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
        "author": t.ref("user"),
        "tags": t.ref_many("tag"),
        "words": t.many(t.string()),
        "likes": t.counter(),
    },
    tag={"label": t.string()},
)


def field(predicate: str) -> Field:
    return BLOG.at(predicate)


def test_what_a_schema_knows() -> None:
    assert BLOG.kinds() == ["user", "post", "tag"]
    assert list(BLOG.fields("user")) == ["name", "age", "active", "joined", "manager"]
    assert [f.type for f in BLOG.fields("user").values()] == ["s", "n", "b", "d", "r"]
    assert [f.predicate for f in BLOG.fields("tag").values()] == ["tag/label"]
    assert field("post/tags").many and field("post/tags").target == "tag"
    assert field("post/likes").counter
    assert field("user/nickname").type == "", "a field that the schema does not know is free"


def test_required_fields() -> None:
    """ "Required are the fields with neither `optional=` nor `default=`, sets and counters apart."""
    names = [f.predicate for kind in BLOG.kinds() for f in BLOG.fields(kind).values() if f.required]
    assert names == ["user/name", "post/title", "post/author", "tag/label"]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ({"_user": {}}, ["_user", "'_'"]),
        ({"a/b": {}}, ["a/b", "'/'"]),
        ({"": {}}, ["kind ''"]),
        ({"user": {"_name": t.string()}}, ["_name", "'_'"]),
        ({"user": {"id": t.string()}}, ["'id'", "user"]),
        ({"user": {"a\nb": t.string()}}, ["control"]),
        ({"user": {"x" * 600: t.string()}}, ["512"]),
        ({"user": {7: t.string()}}, ["7", "name"]),
        ({"user": {"name": str}}, ["user.name", "t.string()"]),
        ({"user": t.string()}, ["user", "dict"]),
        ({"post": {"author": t.ref("user")}}, ["post.author", "'user'", "post"]),
        ({"user": {"name": t.string(default=7)}}, ["user.name = 7", "text"]),
        ({"user": {"age": t.number(default=-1, check=lambda n: n > 0)}}, ["user.age = -1", "check"]),
        ({"user": {"age": t.number(check=7)}}, ["user.age", "callable"]),  # type: ignore[arg-type]
    ],
)
def test_a_schema_that_cannot_be(kinds: dict, words: list[str]) -> None:
    """Kind and field names do not begin with `_`; no field is called `id`."""
    with pytest.raises(SchemaError) as error:
        Schema(kinds)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "inner", [t.ref_many("x"), t.counter(), t.string(optional=True), t.string(default="a"), str]
)
def test_the_members_of_a_set_are_plain(inner: Field) -> None:
    with pytest.raises(SchemaError, match="plain type"):
        t.many(inner)


@pytest.mark.parametrize(
    ("predicate", "given", "stored"),
    [
        ("user/name", "Ada", "Ada"),
        ("user/age", 36, 36),
        ("user/age", 36.5, 36.5),
        ("user/active", False, False),
        ("user/joined", MOMENT, MOMENT),
        ("user/manager", "bob", Ref("bob")),
        ("user/manager", Ref("bob"), Ref("bob")),
        ("user/name", None, None),
        ("post/tags", ["b", "a", "b"], [Ref("a"), Ref("b")]),
        ("post/tags", {"a"}, [Ref("a")]),
        ("post/tags", (), []),
        ("post/tags", None, None),
        ("post/words", ("x", "y"), ["x", "y"]),
    ],
)
def test_what_fields_take(predicate: str, given: object, stored: Value) -> None:
    taken = field(predicate).take(given)
    assert taken == stored
    assert type(taken) is type(stored)
    if isinstance(taken, list):
        assert [type(member) for member in taken] == [type(member) for member in stored]


@pytest.mark.parametrize(
    ("predicate", "given", "words"),
    [
        ("user/name", 7, ["user.name = 7", "expected text", "a number"]),
        ("user/name", Ref("x"), ["user.name", "expected text", "an id"]),
        ("user/age", "36", ["user.age = '36'", "expected a number", "text"]),
        ("user/age", True, ["user.age = True", "expected a number", "a boolean"]),
        ("user/active", 1, ["user.active = 1", "expected a boolean"]),
        ("user/joined", "2020-01-01", ["user.joined", "expected a date"]),
        ("user/manager", 7, ["user.manager = 7", "expected an id of a user"]),
        ("post/tags", "a", ["post.tags = 'a'", "list or set", "set of references to tag"]),
        ("post/tags", [7], ["post.tags = 7", "expected an id of a tag"]),
        ("post/tags", ["a", None], ["post.tags", "missing"]),
        ("post/likes", 3, ["post.likes = 3", "increments"]),
    ],
)
def test_a_violation(predicate: str, given: object, words: list[str]) -> None:
    """A violation or an unknown field raises `SchemaError` naming kind, field, value and expectation."""
    with pytest.raises(SchemaError) as error:
        field(predicate).take(given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("predicate", "given", "kind"),
    [
        ("user/age", math.nan, ValueError),
        ("user/age", math.inf, ValueError),
        ("user/age", 2**63, ValueError),
        ("user/joined", datetime(2020, 1, 1), ValueError),
        ("user/name", "\ud800", ValueError),
        ("user/name", "x" * 1_000_001, ValueError),
        ("user/manager", "", ValueError),
        ("user/name", ["Ada"], TypeError),
        ("user/joined", date(2020, 1, 1), TypeError),
        ("post/tags", {"a": 1}, TypeError),
        ("user/name", object(), TypeError),
    ],
)
def test_no_value_at_all(predicate: str, given: object, kind: type[Exception]) -> None:
    """NaN, infinities, larger integers, naive datetimes, lone surrogates, values over 1 MB and other types raise
    `ValueError`/`TypeError` that say what was wrong. With a schema it is a violation of it, too."""
    with pytest.raises(kind) as error:
        field(predicate).take(given)
    assert isinstance(error.value, SchemaError)
    assert predicate.replace("/", ".") in str(error.value)
    if given != "":  # an empty text is no id, but a text
        with pytest.raises(kind):
            SCHEMALESS.at(predicate).take(given)


def test_an_unknown_field() -> None:
    with pytest.raises(SchemaError) as error:
        BLOG.field("user", "nick", "Ada")
    assert str(error.value) == (
        "user.nick = 'Ada': user has no field 'nick'; expected one of name, age, active, joined, manager"
    )
    with pytest.raises(SchemaError, match="there is no kind 'usr'; expected one of user, post, tag"):
        BLOG.field("usr", "name", "Ada")
    with pytest.raises(SchemaError, match="no kind 'usr'"):
        BLOG.fields("usr")
    with pytest.raises(SchemaError, match="id="):
        BLOG.field("user", "id", "ada")


def check_age(age: float) -> bool:
    return age >= 0


def test_check_is_asked_for_each_value() -> None:
    s = schema(
        a={
            "age": t.number(check=check_age),
            "even": t.many(t.number(check=lambda n: n % 2 == 0), check=lambda n: n < 10),
            "hits": t.counter(check=lambda n: n > 0),
            "word": t.string(check=str.isalpha),
            "year": t.number(check=lambda n: datetime(n, 1, 1)),
        }
    )
    assert s.field("a", "age").take(3) == 3
    with pytest.raises(SchemaError, match=r"a\.age = -3: expected a value that its check check_age accepts"):
        s.field("a", "age").take(-3)
    assert s.field("a", "even").take([4, 2]) == [2, 4]
    for wrong in ([1], [12]):
        with pytest.raises(SchemaError, match=r"a\.even"):
            s.field("a", "even").take(wrong)
    assert s.field("a", "even").members(1, guard=False) == [1], "what is there may be removed"
    assert s.field("a", "hits").amount(1) == 1
    with pytest.raises(SchemaError, match=r"a\.hits = -1"):
        s.field("a", "hits").amount(-1)
    with pytest.raises(SchemaError, match="isalpha"):
        s.field("a", "word").take("x1")
    with pytest.raises(SchemaError, match="it said: year"):
        s.field("a", "year").take(12345)


def test_check_guards_writes_only() -> None:
    """`check=` guards writes only."""
    s = schema(a={"age": t.number(check=check_age)})
    assert s.at("a/age").read([-3]) == -3


def test_misfits_read_as_missing() -> None:
    """Data from others that does not fit the schema reads as missing, never as an exception, and is not
    converted."""
    assert field("user/age").read(["36"]) is None
    assert field("user/age").read([True]) is None
    assert field("user/active").read([1]) is True, "the default"
    assert field("user/manager").read(["bob"]) is None, "text is no reference"
    assert field("user/name").read([Ref("bob")]) is None
    assert field("post/tags").read(["a", Ref("b"), 3]) == [Ref("b")]
    assert field("user/age").read(["x", 2]) == 2


def test_defaults() -> None:
    """On read, `get`, `select` and `pull` use plain ones (not callables) for missing fields."""
    s = schema(
        a={
            "x": t.number(default=1),
            "y": t.number(default=lambda: 2),
            "z": t.many(t.string(), default={"b", "a"}),
            "none": t.string(default=None),
        }
    )
    assert [s.at(f"a/{name}").read([]) for name in ("x", "y", "z", "none")] == [1, None, ["a", "b"], None]
    assert [s.at(f"a/{name}").fill() for name in ("x", "y", "z", "none")] == [1, 2, ["a", "b"], None]
    assert not s.at("a/none").required, "no value is the default"
    s.at("a/z").read([]).append("c")
    assert s.at("a/z").read([]) == ["a", "b"]
    bad = schema(a={"x": t.number(default=lambda: "one")})
    with pytest.raises(SchemaError, match=r"a\.x = 'one'"):
        bad.at("a/x").fill()


def test_a_counter_reads_as_a_sum() -> None:
    """It reads as an `int` (`float` if any share is one), 0 where nobody counted."""
    likes = field("post/likes")
    assert likes.read([]) == 0
    assert likes.read([3]) == 3
    assert likes.read(["x", 4]) == 4
    total = likes.read([1, 2.0])
    assert total == 3 and type(total) is float
    assert type(likes.read([3])) is int


def test_without_a_schema() -> None:
    """Without a schema, scalars are single, Python sets are many, `tripleweb.Ref(id)` is a reference; lists
    raise."""
    name = SCHEMALESS.field("user", "name")
    assert name.take("Ada") == "Ada"
    assert name.take({2, 1}) == [1, 2]
    assert name.take(frozenset()) == []
    assert name.take(Ref("x")) == Ref("x") and type(name.take(Ref("x"))) is Ref
    assert name.take(None) is None
    for wrong in ([1], (1, 2), {"a": 1}):
        with pytest.raises(TypeError, match="user/name"):
            name.take(wrong)
        with pytest.raises(TypeError):
            name.members(wrong)
    assert name.members("a") == ["a"] and name.members({"b", "a"}) == ["a", "b"]
    with pytest.raises(SchemaError, match="a number to count"):
        name.amount("x")
    assert SCHEMALESS.fields("user") == {}
    for names in (("_user", "a"), ("user", "_a"), ("user", "id"), ("a/b", "c")):
        with pytest.raises(SchemaError):
            SCHEMALESS.field(*names)


def apply(*changes: tuple[str, str, str, Value | None, int]) -> Store:
    store = Store()
    store.apply([Change(*change, "a") for change in changes])
    return store


def test_an_entity_as_one_kind() -> None:
    """`db.get("user", ada)`: dict with "id"; many as a sorted list; None if there is none."""
    store = apply(
        ("p", "post/title", "", "Hello", 1),
        ("p", "post/tags", "r:b", Ref("b"), 1),
        ("p", "post/tags", "r:a", Ref("a"), 1),
        ("p", "post/words", "", "x", 1),
        ("p", "post/strange", "", 1, 1),
        ("p", "user/name", "", "P", 1),
        ("q", "tag/label", "", None, 1),
    )
    got = BLOG.entity(store, "post", "p")
    assert got == {
        "id": "p", "title": "Hello", "author": None, "tags": ["a", "b"], "words": ["x"], "likes": 0
    }  # fmt: skip
    assert got is not None and all(type(tag) is Ref for tag in got["tags"])
    assert BLOG.entity(store, "user", "p") == {
        "id": "p", "name": "P", "age": None, "active": True, "joined": None, "manager": None
    }  # fmt: skip
    assert BLOG.entity(store, "tag", "q") is None
    assert BLOG.entity(store, "tag", "nobody") is None


def test_an_entity_without_a_schema() -> None:
    store = apply(
        ("p", "post/title", "", "Hello", 1),
        ("p", "post/one", "*", None, 1),
        ("p", "post/one", "s:x", "x", 1),
        ("p", "post/two", "s:x", "x", 1),
        ("p", "post/two", "s:y", "y", 1),
        ("p", "post/count", "c:r", 2, 1),
        ("p", "post/count", "c:s", 3, 1),
        ("p", "post/late", "", "x", 1),
        ("p", "post/late", "*", None, 2),
        ("p", "post/late", "s:x", "x", 2),
    )
    assert SCHEMALESS.entity(store, "post", "p") == {
        "id": "p", "title": "Hello", "one": ["x"], "two": ["x", "y"], "count": 5, "late": ["x"]
    }  # fmt: skip


def test_words_for_people() -> None:
    assert repr(BLOG).splitlines()[1] == (
        "  user: name (text), age (number), active (boolean), joined (date), manager (reference to user)"
    )
    assert [f.description for f in BLOG.fields("post").values()] == [
        "text", "reference to user", "set of references to tag", "set of text", "counter"
    ]  # fmt: skip
    assert field_of("a/b/c") == "b/c"
