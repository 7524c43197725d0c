"""`db.select`: questions without Datalog. What it finds is compared with what a loop over `db.get` finds."""

from __future__ import annotations

import doctest
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tripleweb import Ref, t
from tripleweb.errors import SchemaError
from tripleweb.frame import text_dtype
from tripleweb.select import OPERATORS, Selection

SCHEMA = tripleweb.schema(
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
        "score": t.number(optional=True),
        "tags": t.ref_many("tag"),
        "words": t.many(t.string(), default=["none"]),
        "likes": t.counter(),
    },
    tag={"label": t.string(), "weight": t.number(optional=True)},
)
MOMENT = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def db() -> tripleweb.Database:
    db = tripleweb.open(schema=SCHEMA)
    with db.transaction():
        db.insert("tag", id="t1", label="python", weight=2)
        db.insert("tag", id="t2", label="data")
        db.insert("user", id="ada", name="Ada", age=36, joined=MOMENT)
        db.insert("user", id="bob", name="Bob", active=False, manager="ada")
        db.insert("post", id="p1", title="One", author="ada", score=91, tags=["t1", "t2"], likes=3)
        db.insert("post", id="p2", title="Two", author="bob", score=95.5, words=["a", "b"])
        db.insert("post", id="p3", title="Three", author="gone", tags=["t2"])
    return db


def without_schema(db: tripleweb.Database) -> tripleweb.Database:
    """The same store, for somebody who writes what he likes."""
    other = tripleweb.Database(db._session)
    other._finalizer.detach()  # the store is not its own to close
    return other


def ids(selection: Selection) -> list[str]:
    return list(selection.df()["id"])


# -- columns ----------------------------------------------------------------------------------------------------


def test_columns_are_those_of_the_schema(db: tripleweb.Database) -> None:
    frame = db.select("post").order_by("title").df()
    assert list(frame) == ["id", "title", "author", "score", "tags", "words", "likes"]
    assert frame.to_dict("records")[0] == {
        "id": "p1", "title": "One", "author": "ada", "score": 91, "tags": ["t1", "t2"], "words": ["none"], "likes": 3,
    }  # fmt: skip
    assert frame["likes"].tolist() == [3, 0, 0]
    assert frame["tags"].tolist() == [["t1", "t2"], ["t2"], []]
    assert frame["score"].dtype == "Float64"
    assert frame["score"].isna().tolist() == [False, True, False]
    assert frame["likes"].dtype == "Int64"
    assert frame["title"].dtype == text_dtype()
    assert isinstance(frame.index, pd.RangeIndex)
    assert frame.attrs["tripleweb"]["complete"] is True


def test_dtypes_do_not_depend_on_the_data(db: tripleweb.Database) -> None:
    full = db.select("user").df()
    assert (full["active"].tolist(), str(full["active"].dtype)) == ([True, False], "boolean")
    empty = db.select("user").where("name", "nobody").include("manager").df()
    for frame in (full, empty):
        kinds = {name: str(frame[name].dtype) for name in ("age", "active", "joined")}
        assert kinds["active"] == "boolean"
        assert kinds["joined"] == "datetime64[us, UTC]"
    assert len(empty) == 0
    assert empty["name"].dtype == text_dtype()
    assert full["age"].dtype == "Int64"


def test_included_fields_stand_beside(db: tripleweb.Database) -> None:
    frame = db.select("post").include("author", "tags").order_by("id").df()
    assert list(frame)[7:] == [
        "author.name", "author.age", "author.active", "author.joined", "author.manager", "tags.label", "tags.weight",
    ]  # fmt: skip
    assert frame["author.name"].tolist()[:2] == ["Ada", "Bob"]
    assert frame["author.name"].isna().tolist() == [False, False, True], "nobody is there who wrote it"
    assert frame["author.active"].tolist() == [True, False, pd.NA]
    assert frame["author.age"].dtype == "Int64"
    assert frame["tags.label"].tolist() == [["python", "data"], [], ["data"]]
    assert frame["tags.weight"].tolist() == [[2, None], [], [None]], "a place for each member"
    deeper = db.select("post").include("author.manager").where("id", "p2").df()
    assert deeper["author.manager.name"].tolist() == ["Ada"]
    assert list(db.select("post").include("author").include("author").df())[7:] == list(frame)[7:12]


def test_without_a_schema_columns_are_what_there_is() -> None:
    db = tripleweb.open()
    db.insert("user", id="ada", name="Ada", age=36)
    db.insert("org", id="acme", name="Acme")
    db.insert("post", id="p1", title="One", author=Ref("ada"), tags={"x", "y"})
    db.insert("post", id="p2", score=True, author=Ref("acme"), tags={"x"})
    frame = db.select("post").include("author").order_by("id").df()
    assert list(frame) == [
        "id", "author", "score", "tags", "title", "author.name", "author.age", "author.user/name",
    ]  # fmt: skip
    assert frame["tags"].tolist() == [["x", "y"], ["x"]], "lists, since one of them has several"
    assert str(frame["score"].dtype) == "boolean"
    assert str(frame["author.age"].dtype) == "Int64"
    with pytest.raises(
        SchemaError, match=r"'name' is a field of org and of user; expected one of org/name, user/name"
    ):
        db.select("post").where("author.name", "Ada").df()
    assert ids(db.select("post").where("author.user/name", "Ada")) == ["p1"]
    assert list(db.select("nothing").df()) == ["id"]
    assert len(db.select("nothing").where("what", ">", 3).df()) == 0


# -- conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("score", ">", 90), ["p1", "p2"]),
        (("score", ">=", 95.5), ["p2"]),
        (("score", "<", 95), ["p1"]),
        (("score", "<=", 1), []),
        (("score", 91), ["p1"]),
        (("score", "=", 91.0), ["p1"]),
        (("score", "==", 91), ["p1"]),
        (("score", "!=", 91), ["p2"]),
        (("score", "<>", 91), ["p2"]),
        (("score", None), ["p3"]),
        (("score", "=", None), ["p3"]),
        (("score", "is", None), ["p3"]),
        (("score", "!=", None), ["p1", "p2"]),
        (("score", "IS  NOT", None), ["p1", "p2"]),
        (("score", "in", [91, 7]), ["p1"]),
        (("score", "in", []), []),
        (("score", "not in", [91, 7]), ["p2"]),
        (("score", "not in", []), ["p1", "p2"]),
        (("score", "in", range(200)), ["p1"]),
        (("score", "in", pd.Series([95.5])), ["p2"]),
        (("title", "contains", "T"), ["p2", "p3"]),
        (("title", "startswith", "Th"), ["p3"]),
        (("title", "endswith", "e"), ["p1", "p3"]),
        (("title", "matches", "^T.o"), ["p2"]),
        (("title", ">", "P"), ["p2", "p3"]),
        (("id", "p1"), ["p1"]),
        (("id", "in", ["p1", "p3", "nothing"]), ["p1", "p3"]),
        (("id", "not in", ["p1", "p3"]), ["p2"]),
        (("id", "!=", "p1"), ["p2", "p3"]),
        (("id", ">", "p1"), ["p2", "p3"]),
        (("id", None), []),
        (("id", "!=", None), ["p1", "p2", "p3"]),
        (("author", "ada"), ["p1"]),
        (("author", Ref("ada")), ["p1"]),
        (("author.id", "ada"), ["p1"]),
        (("author.name", "Ada"), ["p1"]),
        (("author.name", "!=", "Ada"), ["p2"]),
        (("author.active", True), ["p1"]),
        (("author.active", False), ["p2"]),
        (("author.active", "!=", False), ["p1"]),
        (("author.active", None), ["p3"]),
        (("author.active", "!=", None), ["p1", "p2"]),
        (("author.age", None), ["p2", "p3"]),
        (("author.age", "!=", None), ["p1"]),
        (("author.joined", "<", pd.Timestamp("2021-01-01", tz="UTC")), ["p1"]),
        (("author.manager.name", "Ada"), ["p2"]),
        (("tags", "t1"), ["p1"]),
        (("tags", "contains", "t2"), ["p1", "p3"]),
        (("tags", "!=", "t1"), ["p2", "p3"]),
        (("tags", "in", ["t1", "t2"]), ["p1", "p3"]),
        (("tags", "not in", ["t1"]), ["p2", "p3"]),
        (("tags", None), ["p2"]),
        (("tags", "!=", None), ["p1", "p3"]),
        (("tags.label", "data"), ["p1", "p3"]),
        (("tags.label", "!=", "python"), ["p2", "p3"]),
        (("tags.weight", ">", 1), ["p1"]),
        (("words", "none"), ["p1", "p3"]),
        (("words", "!=", "none"), ["p2"]),
        (("words", "contains", "a"), ["p2"]),
        (("words", None), []),
        (("likes", 0), ["p2", "p3"]),
        (("likes", ">", 0), ["p1"]),
        (("likes", "in", [0, 3]), ["p1", "p2", "p3"]),
        (("likes", "not in", [3]), ["p2", "p3"]),
        (("likes", None), []),
        (("likes", "!=", None), ["p1", "p2", "p3"]),
    ],
)  # fmt: skip
def test_conditions(db: tripleweb.Database, condition: tuple[Any, ...], expected: list[str]) -> None:
    db.increment("post", "p1", likes=0)
    for word in ("p1", "p3"):
        db.unset(word, "post/words")
    chosen = db.select("post").where(*condition).order_by("id")
    assert ids(chosen) == expected
    live = chosen.live()
    assert list(live.df["id"]) == expected
    live.close()


def test_conditions_add_up(db: tripleweb.Database) -> None:
    chosen = (
        db.select("post").where("score", ">", 90).where("author.active", True).where("tags.label", "data")
    )
    assert ids(chosen) == ["p1"]
    assert ids(chosen.where("title", "!=", "One")) == []


def test_a_selection_never_changes(db: tripleweb.Database) -> None:
    all_ = db.select("post")
    one = all_.where("id", "p1")
    assert (len(all_.df()), len(one.df())) == (3, 1)
    assert all_.limit(1) == all_.limit(1)
    assert repr(one.include("author").order_by("-score").offset(1).limit(2)) == (
        "<select post, where id = 'p1', include author, order by -score, offset 1, limit 2>"
    )


def test_misfits_are_missing(db: tripleweb.Database) -> None:
    plain = without_schema(db)
    plain.set("p1", "post/score", "high")
    plain.set("x", "post/title", 7)
    plain.set("y", "other/title", "y")
    frame = db.select("post").order_by("id").df()
    assert list(frame["id"]) == ["p1", "p2", "p3"], "x has nothing that is a post's"
    assert frame["score"].isna().tolist() == [True, False, True]
    assert ids(db.select("post").where("score", None).order_by("id")) == ["p1", "p3"]
    plain.set("x", "post/likes", 3)
    assert db.select("post").where("id", "x").df()["likes"].tolist() == [3]
    assert db.select("post").where("id", "x").df()["title"].isna().all(), "required, and missing all the same"


# -- order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (("score",), ["p1", "p2", "p3"]),
        (("-score",), ["p2", "p1", "p3"]),
        (("title",), ["p1", "p3", "p2"]),
        (("-title",), ["p2", "p3", "p1"]),
        (("author.name",), ["p1", "p2", "p3"]),
        (("-author.name",), ["p2", "p1", "p3"]),
        (("author.active", "-id"), ["p2", "p1", "p3"]),
        (("-likes", "-id"), ["p1", "p3", "p2"]),
        (("-id",), ["p3", "p2", "p1"]),
    ],
)
def test_order(db: tripleweb.Database, order: tuple[str, ...], expected: list[str]) -> None:
    chosen = db.select("post").order_by(*order)
    assert ids(chosen) == expected
    assert ids(chosen.limit(2)) == expected[:2]
    assert ids(chosen.offset(1).limit(1)) == expected[1:2]
    assert ids(chosen.limit(1).limit(None)) == expected
    assert list(chosen.df()) == list(db.select("post").df()), "what is ordered by adds no column"
    live = chosen.limit(2).live()
    assert list(live.df["id"]) == expected[:2]
    live.close()


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda db: db.select("pots"), SchemaError, "'pots': expected one of user, post, tag"),
        (
            lambda db: db.select("post").where("scroe", ">", 9),
            SchemaError,
            r"post.scroe: post has no field 'scroe'; did you mean score\?; expected one of id, title, author, score",
        ),
        (
            lambda db: db.select("post").where("author.nmae", "x"),
            SchemaError,
            "post.author.nmae: user has no field 'nmae'; did you mean name",
        ),
        (lambda db: db.select("post").where("title.x", 1), SchemaError, "post.title .* expected a reference"),
        (lambda db: db.select("post").include("title"), SchemaError, "post.title .* is a text: expected a reference"),
        (lambda db: db.select("post").include("id"), SchemaError, "the id leads nowhere"),
        (lambda db: db.select("post").include("autor"), SchemaError, "did you mean author"),
        (lambda db: db.select("post").order_by("-scor"), SchemaError, "did you mean score"),
        (lambda db: db.select("post").order_by("tags"), SchemaError, "not a set"),
        (lambda db: db.select("post").order_by("tags.label"), SchemaError, "not a set"),
        (lambda db: db.select("post").where("score", ">", "x"), SchemaError, "post.score = 'x': expected a number"),
        (lambda db: db.select("post").where("score", "in", [1, "x"]), SchemaError, "post.score = 'x'"),
        (lambda db: db.select("post").where("score", "in", 3), TypeError, "score in 3: expected a list"),
        (lambda db: db.select("post").where("title", "in", "One"), TypeError, "expected a list"),
        (lambda db: db.select("post").where("score", ">", None), SchemaError, "None goes with = and != only"),
        (lambda db: db.select("post").where("score", "in", [None]), SchemaError, "None goes with"),
        (lambda db: db.select("post").where("score", "contains", "x"), SchemaError, "expected text"),
        (lambda db: db.select("post").where("title", "startswith", 3), SchemaError, "expected text"),
        (lambda db: db.select("post").where("score", "=>", 3), ValueError, "not an operator; did you mean > or ="),
        (lambda db: db.select("post").where("score", 3, 4), ValueError, "not an operator"),
        (lambda db: db.select("post").where("score"), TypeError, "where takes a path and a value"),
        (lambda db: db.select("post").where(3, 4), TypeError, "where takes a path"),
        (lambda db: db.select("post").order_by(3), TypeError, "a path is text"),
        (lambda db: db.select("post").limit(-1), ValueError, "limit -1"),
        (lambda db: db.select("post").limit(1.5), ValueError, "limit 1.5"),
        (lambda db: db.select("post").offset(True), ValueError, "offset True"),
    ],
)  # fmt: skip
def test_errors_come_at_once(
    db: tripleweb.Database, ask: Callable[[tripleweb.Database], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ask(db)


def test_errors_without_a_schema() -> None:
    db = tripleweb.open()
    db.insert("post", id="p", title="One", author="Ada")
    for chosen, said in (
        (db.select("post").where("titel", "x"), "post has no field 'titel'; did you mean title"),
        (db.select("post").order_by("scoer"), "expected one of id, author, title"),
        (db.select("post").where("author.name", "x"), "what author refers to has no field 'name'"),
    ):
        with pytest.raises(SchemaError, match=said):
            chosen.df()
    with pytest.raises(ValueError, match="nan"):
        db.select("post").where("title", float("nan")).df()


# -- the query that it is ---------------------------------------------------------------------------------------


def test_it_is_datalog_that_anybody_can_ask(db: tripleweb.Database) -> None:
    chosen = (
        db.select("post")
        .where("score", ">", 90)
        .where("author.active", True)
        .include("author", "tags")
        .order_by("-score")
        .limit(10)
    )
    text = chosen.datalog()
    assert text.startswith("[:find ?id (get ?id :post/title) (get ?id :post/author)")
    assert ":order-by [(get ?id :post/score) :desc ?id]\n :limit 10]" in text
    answer = db.q(text)
    assert answer.astype(object).equals(chosen.df().astype(object))
    assert list(answer) == list(chosen.df())


def test_text_is_never_code(db: tripleweb.Database) -> None:
    odd = '"] [?id :post/title ?x'
    db.insert("post", id="odd", title=odd, author="ada")
    for operator in ("=", "contains", "startswith", "in"):
        assert ids(db.select("post").where("title", operator, [odd] if operator == "in" else odd)) == ["odd"]
    plain = tripleweb.open()
    plain.set("a", "post/an odd] name", 1)
    plain.set("a", "post/dotted.name", 2)
    assert ids(plain.select("post").where("an odd] name", 1)) == ["a"]
    assert plain.select("post").where("dotted.name", 2).df()["dotted.name"].tolist() == [2]


# -- live -------------------------------------------------------------------------------------------------------


def test_it_is_live(db: tripleweb.Database) -> None:
    live = db.select("post").where("author.active", True).include("author").order_by("-score").live()
    assert list(live.df["id"]) == ["p1"]
    version = live.version
    db.update("user", "ada", name="Ada L.")
    assert live.df["author.name"].tolist() == ["Ada L."]
    db.update("user", "bob", active=True)
    assert list(live.df["id"]) == ["p2", "p1"]
    db.update("post", "p1", score=99)
    assert list(live.df["id"]) == ["p1", "p2"]
    assert live.df["score"].dtype == "Float64"
    assert live.version > version
    db.insert("user", id="gone", name="Gone")
    assert list(live.df["id"]) == ["p1", "p2", "p3"], "who has no `active` is active"
    assert len(live) == 3
    live.close()


def test_a_listener_hears_of_optional_fields(db: tripleweb.Database) -> None:
    heard: list[tuple[list[Any], list[Any]]] = []
    came = threading.Event()

    def hear(_: Any, delta: Any) -> None:
        heard.append((delta.removed["age"].tolist(), delta.added["age"].tolist()))
        came.set()

    live = db.select("user").live()
    live.on_change(hear)
    db.update("user", "ada", age=37)
    assert came.wait(10)
    assert heard == [([36], [37])]
    live.close()


# -- against a loop over `get` ----------------------------------------------------------------------------------


def follow(db: tripleweb.Database, kind: str, entity: str, path: list[str]) -> list[Any]:
    """The values at the end of a path from an entity, by `get` alone; missing ones are not there."""
    got = db.get(kind, entity)
    if got is None:
        return []
    value = got[path[0]]
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(path) == 1:
        return values
    target = SCHEMA.fields(kind)[path[0]].target
    assert target is not None
    return [found for each in values for found in follow(db, target, each, path[1:])]


def holds(operator: str, found: list[Any], value: Any, several: bool) -> bool:
    def compare(each: Any) -> bool:
        if operator in ("in", "not in"):
            return any(same(each, one) for one in value)
        if operator in ("=", "!="):
            return same(each, value)
        if operator in ("contains", "startswith", "endswith", "matches"):
            if operator.endswith("with"):
                return bool(getattr(each, operator)(value))
            return value in each
        return {"<": each < value, "<=": each <= value, ">": each > value, ">=": each >= value}[operator]

    def same(a: Any, b: Any) -> bool:
        return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)

    if operator in ("!=", "not in"):
        return (several or bool(found)) and not any(map(compare, found))
    return any(map(compare, found))


PATHS: dict[str, tuple[list[Any], bool]] = {
    "title": (["a", "b", "ab"], False),
    "score": ([0, 1, 2.5], False),
    "likes": ([0, 1, 2], False),
    "words": (["none", "a"], True),
    "tags": (["t0", "t1"], True),
    "author": (["u0", "u1", "u9"], False),
    "author.active": ([True, False], False),
    "author.name": (["a", "b"], False),
    "author.age": ([0, 1], False),
    "author.manager.active": ([True, False], False),
    "author.manager": (["u0", "u1"], False),
    "tags.label": (["a", "b"], True),
    "tags.weight": ([1, 2], True),
}


def change(db: tripleweb.Database, chance: random.Random) -> None:
    """One write of somebody, who need not have a schema."""
    plain = without_schema(db)
    kind, entity = chance.choice([("user", "u"), ("post", "p"), ("tag", "t")])
    id = f"{entity}{chance.randrange(4)}"
    if db._session.store.deleted(id):
        return
    if chance.random() < 0.03:
        db.delete(id)
        return
    field = chance.choice(list(SCHEMA.fields(kind).values()))
    predicate = f"{kind}/{field.name}"
    if chance.random() < 0.2 and not field.counter:
        plain.unset(id, predicate)
    elif field.counter:
        db.increment(kind, id, likes=chance.choice([1, -1]))
    elif chance.random() < 0.05:
        plain.set(id, predicate, chance.choice([MOMENT, "odd"]) if field.type != "d" else 3)
    else:
        values: dict[str, list[Any]] = {
            "s": ["a", "b", "ab"], "n": [0, 1, 2, 2.5], "b": [True, False], "d": [MOMENT],
            "r": [Ref(f"{ {'tag': 't', 'user': 'u'}.get(field.target or '', 'u') }{chance.randrange(5)}")],
        }  # fmt: skip
        value = chance.choice(values[field.type])
        plain.set(id, predicate, {value} if field.many else value)


def choose(
    chance: random.Random, selection: Selection
) -> tuple[Selection, Callable[[tripleweb.Database, str], bool], str]:
    path = chance.choice(list(PATHS))
    values, several = PATHS[path]
    textual = isinstance(values[0], str) and path.rpartition(".")[2] in ("title", "name", "label")
    operator = chance.choice(
        [o for o in OPERATORS if textual or o not in ("contains", "startswith", "endswith", "matches")]
    )
    if chance.random() < 0.15:
        operator = chance.choice(["=", "!="])
        there = operator == "!="
        return (
            selection.where(path, operator, None),
            lambda db, id: bool(follow(db, "post", id, path.split("."))) == there,
            f"{path} {operator} None",
        )
    value: Any = chance.choice(values)
    if operator in ("in", "not in"):
        value = chance.sample(values, chance.randint(0, len(values)))
    return (
        selection.where(path, operator, value),
        lambda db, id: holds(operator, follow(db, "post", id, path.split(".")), value, several),
        f"{path} {operator} {value}",
    )


def check_history(seed: int) -> int:
    chance = random.Random(seed)
    db = tripleweb.open(schema=SCHEMA)
    for _ in range(40):
        change(db, chance)
    selection, tests, said = db.select("post"), [], []
    for _ in range(chance.randint(0, 2)):
        selection, test, words = choose(chance, selection)
        tests.append(test)
        said.append(words)
    order = chance.choice([(), ("-score",), ("author.name", "-id"), ("-author.active", "title")])
    selection = selection.order_by(*order).include("author")
    live, rows = selection.live(), 0
    for _ in range(6):
        change(db, chance)
        expected = [
            p for p in (f"p{n}" for n in range(4)) if db.get("post", p) and all(test(db, p) for test in tests)
        ]
        frame = selection.df()
        assert sorted(frame["id"]) == expected, f"seed {seed}: {said}\n{selection.datalog()}"
        followed = live.df
        if not order:
            frame, followed = (f.sort_values("id", ignore_index=True) for f in (frame, followed))
        assert followed.astype(object).equals(frame.astype(object)), f"seed {seed}: live {said}"
        for row in frame.to_dict("records"):
            got = db.get("post", row["id"])
            assert got is not None
            shown = {name: None if not isinstance(v := row[name], list) and pd.isna(v) else v for name in got}
            assert shown == got, f"seed {seed}"
            author = [] if pd.isna(row["author.name"]) else [row["author.name"]]
            assert author == follow(db, "post", row["id"], ["author", "name"]), f"seed {seed}"
        rows += len(frame)
    live.close()
    return rows


def test_it_finds_what_a_loop_finds() -> None:
    assert sum(map(check_history, range(60))) > 200


@pytest.mark.long
def test_it_finds_what_a_loop_finds_for_long() -> None:
    for seed in range(1_000, 1_060):
        check_history(seed)


def test_the_page_about_asking_says_what_is_so() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "queries.md"
    found = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 10
    assert found.failed == 0
