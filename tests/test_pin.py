"""Pinned answers: whoever may read the app gets what was pinned, whatever was written since, or an error."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.stores import NAMES, SCHEMA, Connect, level
from tripleweb import HistoryError
from tripleweb.datalog.query import parse
from tripleweb.errors import TriplewebError
from tripleweb.pin import Pin, digest

RULE = "[[(above ?u ?m) [?u :user/manager ?m]] [(above ?u ?m) [?u :user/manager ?x] (above ?x ?m)]]"
ASKED: list[tuple[str, tuple[Any, ...]]] = [
    (NAMES, ()),
    ("[:find ?u ?a :in $ [?a ...] :where [?u :user/age ?a]]", ([1, 2, 3, None],)),
    ("[:find ?u ?x :in $ [[?u ?x]] :where [?u :user/name]]", ([("u1", 1.5), ("u2", True)],)),
    ("[:find (sum ?a) (avg ?a) (count ?u) (distinct ?a) :where [?u :user/age ?a]]", ()),
    ("[:find (pull ?p [* {:post/author [:user/name]}]) :where [?p :post/title]]", ()),
    ("[:find ?u ?m :in $ % :where (above ?u ?m)]", (RULE,)),
    ("[:find ?p ?n :where [?p :post/likes ?n]]", ()),
    ("[:find ?a (count ?u) :where [?u :user/age ?a]]", ()),
    ("[:find ?a :where [_ :user/age ?a] :order-by [?a] :limit 2]", ()),
    ("[:find ?u ?a :where [?u :user/age ?a] :order-by [?a :desc] :limit 3]", ()),
    ("[:find ?u :where [?u :user/name] (not [_ :post/author ?u])]", ()),
    ("[:find ?s ?p ?v :where [?s ?p ?v]]", ()),
    ('[:find ?n . :where [_ :user/name ?n] [(= ?n "nobody")]]', ()),
]


def write(db: tripleweb.Database, dice: random.Random) -> None:
    user, post = f"u{dice.randrange(6)}", f"p{dice.randrange(4)}"
    what = dice.randrange(6)
    try:
        if what == 0:
            db.insert("user", id=user, name=dice.choice("abc"), age=dice.choice([1, 2, 2.0, 3, 2.5]))
        elif what == 1:
            db.update("user", user, manager=f"u{dice.randrange(6)}")
        elif what == 2:
            db.insert(
                "post", id=post, title=dice.choice("xyz"), author=user, tags=["t1", "t2"][: dice.randrange(3)]
            )
        elif what == 3:
            db.increment("post", post, likes=dice.randrange(1, 3))
        elif what == 4:
            db.unset(user, "user/age")
        elif dice.random() < 0.3:
            db.delete(user)
    except tripleweb.errors.DeletedError:
        pass


def plainly(frame: pd.DataFrame) -> list[str]:
    """Rows in no order; 2 and 2.0 are one value."""
    return sorted(
        repr([float(cell) if type(cell) is int else cell for cell in row])
        for row in frame.itertuples(index=False, name=None)
    )


@pytest.mark.parametrize("seed", range(3))
def test_what_was_pinned_comes_back(connect: Connect, seed: int) -> None:
    """`live.pin()` and `db.at(pin)`: by the one who pinned it and by others, after further writes and deletes."""
    dice = random.Random(seed)
    one, other = connect(schema=SCHEMA), connect(schema=SCHEMA, replicate="all")
    one.rules("[(named ?u ?n) [?u :user/name ?n]]")
    lives = [one.live(text, *inputs) for text, inputs in ASKED]
    lives.append(one.live("[:find ?n :where (named _ ?n)]"))
    lives.append(one.select("user").where("age", ">", 1).live())
    kept: list[tuple[str, pd.DataFrame]] = []
    for _ in range(6):
        for _ in range(8):
            write(dice.choice([one, other]), dice)
        level(one, other)
        for live in dice.sample(lives, 6):
            kept.append((str(live.pin()), live.df))
    for db in (one, other):
        for text, frame in kept:
            found = db.at(text)
            assert found.attrs["tripleweb"]["digest"] == Pin(text).digest, seed
            assert list(found.columns) == list(frame.columns)
            assert plainly(found) == plainly(frame), f"seed {seed}: {text}"


def test_equal_numbers_are_one_value() -> None:
    """Which of 1 and 1.0 a set of rows shows is chance: they are one row."""
    query = parse("[:find ?a ?b :where [?a :k/b ?b]]")
    told = [digest(query, [("a", n), ("a", (n, True)), ("a", {"k/b": [n]})]) for n in (2, 2.0)]
    assert told[0] == told[1]
    assert digest(query, [("a", 0)]) == digest(query, [("a", -0.0)])
    assert digest(query, [("a", 1 << 60)]) == digest(query, [("a", float(1 << 60))])
    others = [1, True, "1", 1.5, None, (1 << 60) + 1, float(1 << 60), 1e300, datetime(2020, 1, 1, tzinfo=UTC)]
    assert len({digest(query, [("a", one)]) for one in others}) == len(others)


def test_a_pin_is_text(connect: Connect) -> None:
    db = connect()
    db.insert("user", name="Ada")
    db.flush()
    pin = db.live(NAMES).pin()
    assert eval(repr(pin)) == pin == Pin(str(pin))
    assert pin.app == db.status.app
    assert NAMES[:-1] in pin.query and len(pin.digest) == 64
    db.insert("user", name="Bob")
    db.flush()
    with pytest.raises(HistoryError, match="is another than was pinned"):
        db.at(pin.replace(pin.digest, "0" * 64))
    with pytest.raises(HistoryError, match="another history"):
        db.at(pin.replace(pin.position.partition(":")[0], "elsewhere"))
    with pytest.raises(ValueError, match="a pin of the app"):
        db.at(pin.replace(f'"app":"{pin.app}"', '"app":"another"'))
    for text in ("", "{}", "[1]", pin[:-5], pin.replace(":find", ":finds")):
        with pytest.raises(ValueError, match=r"not a pin"):
            db.at(text)
    with pytest.raises(TypeError, match="a pin is text"):
        db.at(3)  # type: ignore[arg-type]


def test_what_cannot_be_pinned(connect: Connect) -> None:
    db = connect()
    db.insert("user", name="Ada")
    db.flush()
    for text, inputs, said in (
        ("[:find ?n :in $ ?f :where [_ :user/name ?n] [(?f ?n)]]", [str.isupper], "Python functions"),
        ("[:find (sample 1 ?n) :where [_ :user/name ?n]]", [], "throws dice"),
        ("[:find ?n :where [_ :user/name ?n] :limit 1]", [], "add :order-by"),
    ):
        with pytest.raises(ValueError, match=said):
            db.live(text, *inputs).pin()
    live = db.live(NAMES)
    assert live.pin().app == db.status.app
    db.go_offline()
    db.insert("user", name="Bob")
    with pytest.raises(TriplewebError, match=r"db\.flush"):
        live.pin()
    with pytest.raises(HistoryError, match="a server keeps"):
        tripleweb.open().live(NAMES).pin()
    with pytest.raises(ValueError, match="has no server"):
        tripleweb.open().at('{"app":"a","position":["e",1],"digest":"","query":""}')
