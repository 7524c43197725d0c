"""Schema, values, ids and predicates as a user meets them: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.stores import SCHEMA, Connect, level, online
from tripleweb import Ref, t
from tripleweb.database import Database
from tripleweb.errors import SchemaError
from tripleweb.terms import date_text

# -- schema ----------------------------------------------------------------------------------------------------


def test_an_example(connect: Connect) -> None:
    """Schema (client only; the server never sees it): `user={"name": t.string(), "age": t.number(optional=True),
    "active": t.boolean(default=True), "joined": t.date(optional=True), "manager": t.ref("user", optional=True)},
    post={"title": t.string(), "author": t.ref("user"), "tags": t.ref_many("tag"), "likes": t.counter()},
    tag={"label": t.string()}`."""
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    db, bare = connect(schema=SCHEMA), connect()
    db.insert("user", id="ada", name="Ada", age=36.5, active=False, joined=noon, manager="bob")
    db.insert("tag", id="x", label="X")
    db.insert("post", id="p", title="P", author="ada", tags=["x", "y"], likes=2)
    assert db.get("user", "ada") == {
        "id": "ada", "name": "Ada", "age": 36.5, "active": False, "joined": noon, "manager": "bob"
    }  # fmt: skip
    assert db.get("post", "p") == {
        "id": "p", "title": "P", "author": "ada", "tags": ["x", "y"], "likes": 2
    }  # fmt: skip
    assert db.get("tag", "x") == {"id": "x", "label": "X"}
    for kind, field, wrong in (
        ("user", "name", 1), ("user", "age", "36"), ("user", "active", 1), ("user", "joined", "2020-01-01"),
        ("user", "manager", 1), ("post", "author", 1), ("post", "tags", [1]), ("tag", "label", Ref("x")),
    ):  # fmt: skip
        with pytest.raises(SchemaError, match=rf"{kind}\.{field} = .*expected"):
            db.update(kind, "any", **{field: wrong})
    level(db, bare)
    bare.set("ada", "user/age", "36")  # what others write is their affair, and nobody else refuses it
    bare.insert("user", id="eve", name=7, nick="E")
    level(bare, db)
    assert bare.receipts()["outcome"].tolist() == ["applied"] * 3


def test_what_others_write(connect: Connect) -> None:
    """Data from others that does not fit the schema reads as missing, never as an exception, and is not converted.
    Old clients ignore fields they do not know."""
    db, other = connect(schema=SCHEMA), connect()
    db.insert("user", id="ada", name="Ada", age=36, joined=datetime(2020, 1, 1, tzinfo=UTC))
    level(db, other)
    live = db.live("[:find ?u ?a :where [?u :user/age ?a]]")
    assert live.df.to_numpy().tolist() == [["ada", 36]]
    other.update("user", "ada", age="36", joined="yesterday", active=1, manager="bob", nick="A")
    other.insert("user", id="eve", name=True, age=2.5)
    other.insert("post", id="p", title={"one", 2}, author=7, tags={"x", Ref("y")}, likes=1)
    level(other, db)
    assert db.get("user", "ada") == {
        "id": "ada", "name": "Ada", "age": None, "active": True, "joined": None, "manager": None
    }  # fmt: skip
    assert db.get("user", "eve")["name"] is None and db.get("user", "eve")["age"] == 2.5
    assert db.get("post", "p") == {"id": "p", "title": "one", "author": None, "tags": ["y"], "likes": 1}
    frame = db.frame("user").set_index("id")
    assert frame["name"].isna().tolist() == [False, True] and frame["age"].isna().tolist() == [True, False]
    assert live.df.to_numpy().tolist() == [["eve", 2.5]]
    assert db.q("[:find (avg ?a) . :where [_ :user/age ?a]]") == 2.5
    assert other.q('[:find ?u . :where [?u :user/age "36"]]') == "ada", "it is there, as it was written"


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
    """`t.many(t.string())` is a set of plain values, `t.counter()` a number that concurrent increments add up in
    (`db.increment("post", p, likes=1)`)."""
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


# -- values, ids, predicates -----------------------------------------------------------------------------------


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


def test_deleted_is_not_in_what_became_of_writes(connect: Connect) -> None:
    """`_deleted` never appears in a result."""
    db = connect()
    db.insert("user", id="ada", name="Ada")
    live = db.live("[:find ?s ?p ?v :where [?s ?p ?v]]")
    went: list[pd.DataFrame] = []
    live.on_change(lambda live, delta: went.extend([delta.added, delta.removed]))
    db.delete("ada")
    db.flush(10)
    live.wait(10, until=lambda df: df.empty and len(went) == 2)
    receipts = db.receipts()
    assert receipts["subject"].tolist() == ["ada", "ada"] and receipts["outcome"].tolist() == ["applied"] * 2
    assert receipts["predicate"].tolist() == ["user/name", ""] and receipts["value"].isna().tolist() == [
        False,
        True,
    ]
    for shown in (receipts, *went, db.undo()):
        assert "_deleted" not in shown.to_csv()
