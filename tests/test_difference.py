"""`db.apply(before, after)`: the smallest transaction, by hand and at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.live_host import wait_until
from tests.stores import SCHEMA
from tripleweb import DeletedError, SchemaError
from tripleweb.database import Database
from tripleweb.difference import difference


@pytest.fixture
def blog() -> Iterator[Database]:
    with tripleweb.open(schema=SCHEMA) as db:
        db.insert("user", id="ada", name="Ada", age=36, joined=datetime(2013, 1, 1, tzinfo=UTC))
        db.insert("user", id="bob", name="Bob")
        db.insert("user", id="cy", name="Cy", age=17, manager="ada")
        for number in range(3):
            db.insert("tag", id=f"t{number}", label=f"tag {number}")
        db.insert("post", id="p1", title="One", author="ada", tags=["t0", "t1"], likes=3)
        db.insert("post", id="p2", title="Two", author="bob")
        yield db


def written(db: Database) -> int:
    """How many registers were written so far."""
    return sum(1 for _ in db._session.store.registers())


def test_only_what_differs_is_written(blog: Database) -> None:
    """ "`db.apply(before, after)` writes the difference of two frames"."""
    before = blog.frame("user")
    after = before.copy()
    after.loc[after["id"] == "ada", "age"] = 37
    after.loc[after["id"] == "bob", "name"] = "Robert"
    blog.update("user", "cy", age=18)  # somebody else, meanwhile
    deltas: list[Any] = []
    live = blog.live("[:find ?u ?p ?v :where [?u ?p ?v] [?u :user/name _]]")
    live.on_change(lambda _, delta: deltas.append(delta))
    done = blog.apply(before, after)
    assert repr(done) == "<2 cells of 2 rows changed>"
    assert (sorted(done.updated), done.cells, done.inserted, done.deleted) == (["ada", "bob"], 2, [], [])
    assert [blog.get("user", one)["age"] for one in ("ada", "bob", "cy")] == [37, None, 18]  # type: ignore[index]
    wait_until(lambda: bool(deltas))
    assert len(deltas) == 1 and len(deltas[0].added) == len(deltas[0].removed) == 2


def test_equal_frames_write_nothing(blog: Database) -> None:
    before = written(blog)
    frame = blog.select("user").include("manager").df()
    others = [
        frame.astype({"age": "float64"}),
        frame.astype(object),
        frame.sample(frac=1),
        frame.set_index("id"),
    ]
    for after in (frame, *others):
        assert repr(blog.apply(frame, after)) == "<nothing to write>"
    assert written(blog) == before


def test_rows_that_come_and_rows_that_go(blog: Database) -> None:
    before = blog.frame("user")
    fresh = pd.DataFrame({"id": ["di", None], "name": ["Di", "Eve"], "age": [41, None]})
    after = pd.concat([before[before["id"] != "bob"], fresh], ignore_index=True)
    done = blog.apply(before, after)
    assert done.inserted[0] == "di" and len(done.inserted[1]) == 21 and done.deleted == ["bob"]
    assert repr(done) == "<2 rows inserted, 1 row deleted>"
    assert sorted(blog.frame("user")["name"]) == ["Ada", "Cy", "Di", "Eve"]
    with pytest.raises(DeletedError):
        blog.apply(before, before.assign(name="x"))
    assert "x" not in set(blog.frame("user")["name"]), "all or nothing"


def test_rows_may_be_kept(blog: Database) -> None:
    before = blog.frame("user")
    assert repr(blog.apply(before, before.head(1), delete=False)) == "<nothing to write>"
    assert len(blog.frame("user")) == 3


def test_a_cell_that_became_missing_is_removed(blog: Database) -> None:
    before = blog.frame("user")
    after = before.copy()
    after.loc[after["id"] == "ada", ["age", "joined"]] = [pd.NA, pd.NaT]
    blog.apply(before, after)
    assert blog.get("user", "ada")["age"] is None and blog.get("user", "ada")["joined"] is None  # type: ignore[index]
    with pytest.raises(SchemaError, match=r"row ada: .*name"):
        blog.apply(before, before.assign(name=None))


def test_floats_that_pandas_made_of_integers_are_integers(blog: Database) -> None:
    before = pd.DataFrame({"id": ["ada", "cy"], "age": [36, 17]})
    after = pd.DataFrame({"id": ["ada", "cy"], "age": [38.0, np.nan]})
    blog.apply(before, after, kind="user")
    assert type(blog.get("user", "ada")["age"]) is int  # type: ignore[index]
    assert blog.get("user", "cy")["age"] is None  # type: ignore[index]


def test_integers_that_no_float_holds_are_not_rounded(blog: Database) -> None:
    """A cell that becomes missing makes floats of the column; beyond 2**53 they are near their integers, not equal."""
    large = 2**53 + 1
    blog.update("user", "ada", age=large)
    before = pd.DataFrame({"id": ["ada", "cy"], "age": [large, 17]})
    after = pd.DataFrame({"id": ["ada", "cy"], "age": [float(large), np.nan]})
    said = blog.apply(before, after, kind="user")
    assert (said.updated, said.cells) == (["cy"], 1)
    assert blog.get("user", "ada")["age"] == large  # type: ignore[index]
    assert blog.get("user", "cy")["age"] is None  # type: ignore[index]


def test_sets_change_member_by_member_and_counters_by_what_was_added(blog: Database) -> None:
    before = blog.frame("post")
    after = before.copy()
    after["tags"] = [["t1", "t2"] if one == "p1" else ["t0"] for one in after["id"]]
    after["likes"] = [likes + 2 for likes in after["likes"]]
    blog.add("post", "p1", tags=["t9"])
    blog.increment("post", "p1", likes=10)
    blog.apply(before, after)
    post = blog.get("post", "p1")
    assert (
        post is not None and [str(one) for one in post["tags"]] == ["t1", "t2", "t9"] and post["likes"] == 15
    )
    assert [str(one) for one in blog.get("post", "p2")["tags"]] == ["t0"]  # type: ignore[index]


def test_columns_of_something_else_must_not_change(blog: Database) -> None:
    before = blog.select("post").include("author").df()
    after = before.assign(title=before["title"] + "!")
    assert blog.apply(before, after).cells == 2
    after["author.name"] = "x"
    with pytest.raises(ValueError, match=r"author.name of p1 changed: .* author refers to"):
        blog.apply(before, after)


def test_without_a_schema() -> None:
    with tripleweb.open() as db:
        db.insert("thing", id="a", n=1, tags={"x", "y"})
        db.insert("thing", id="b", n=2, tags={"z"})
        before = db.frame("thing")
        after = before.copy()
        after["n"] = [5, 2]
        after["tags"] = [["x"], ["z", "w"]]
        assert db.apply(before, after).cells == 3
        assert (
            db.get("thing", "a") == {"id": "a", "n": 5, "tags": ["x"]} or db.get("thing", "a")["tags"] == "x"
        )  # type: ignore[index]
        assert sorted(db.get("thing", "b")["tags"]) == ["w", "z"]  # type: ignore[index]


def test_of_what_kind_rows_are(blog: Database) -> None:
    plain = pd.DataFrame({"id": ["ada"], "age": [36]})
    assert blog.apply(plain, plain.assign(age=40)).cells == 1  # only users have an age
    live = blog.select("user").live()
    assert blog.apply(live.df, live.df.assign(age=41)).cells == 3
    with pytest.raises(ValueError, match="no kind has the fields nothing: give kind="):
        blog.apply(
            plain.rename(columns={"age": "nothing"}),
            plain.rename(columns={"age": "nothing"}).assign(nothing=1),
        )
    with pytest.raises(ValueError, match="3 kinds have the fields"):
        blog.apply(plain[["id"]], pd.DataFrame({"id": ["ada", "x"]}))


@pytest.mark.parametrize(
    ("before", "after", "error", "words"),
    [
        (
            {"id": ["a", "a"], "n": [1, 2]},
            {"id": ["a"], "n": [1]},
            ValueError,
            "before has the id 'a' more than once",
        ),
        (
            {"id": ["a"], "n": [1]},
            {"id": ["b", "b"], "n": [1, 2]},
            ValueError,
            "after has the id 'b' more than once",
        ),
        ({"id": [None], "n": [1]}, {"id": ["b"], "n": [1]}, ValueError, "before has a row without id: row 0"),
        ({"n": [1]}, {"id": ["b"], "n": [1]}, ValueError, "before has no column 'id'"),
        ([1], {"id": ["b"]}, TypeError, "before is a DataFrame, not list"),
    ],
)
def test_what_is_wrong_with_frames(before: Any, after: Any, error: type[Exception], words: str) -> None:
    frames = [pd.DataFrame(one) if isinstance(one, dict) else one for one in (before, after)]
    with pytest.raises(error, match=words):
        difference(*frames)


@pytest.mark.parametrize("seed", [random.randrange(1 << 30) for _ in range(4)])
def test_at_random(seed: int) -> None:
    """After it the store shows `after`, having written as many cells as differ."""
    rng = random.Random(seed)
    values: dict[str, Any] = {
        "name": lambda: rng.choice(["a", "b", "é", "1"]),
        "age": lambda: rng.choice([None, 1, 2, 2.5]),
        "active": lambda: rng.choice([True, False]),
        "joined": lambda: rng.choice([None, datetime(2013, 1, rng.randrange(1, 4), tzinfo=UTC)]),
        "manager": lambda: rng.choice([None, "u0", "u1"]),
    }
    with tripleweb.open(schema=SCHEMA) as db:
        for number in range(20):
            fields = {name: draw() for name, draw in values.items()}
            db.insert("user", id=f"u{number}", **{n: v for n, v in fields.items() if v is not None})
        for _ in range(6):
            before = db.frame("user")
            after = before.sample(frac=rng.choice([1, 0.8]), random_state=rng.randrange(1000)).reset_index(
                drop=True
            )
            cells = 0
            for name, draw in values.items():
                column = after[name].astype(object)
                for row in range(len(column)):
                    if rng.random() < 0.2:
                        old, new = column[row], draw()
                        lacks = pd.isna(old)
                        cells += not (
                            (lacks and new is None) or (not lacks and new is not None and old == new)
                        )
                        column[row] = new
                after[name] = column
            done = db.apply(before, after)
            assert done.cells == cells, f"seed {seed}"
            shown = db.frame("user").set_index("id")
            assert set(shown.index) == set(after["id"]), f"seed {seed}"
            for row in after.to_dict("records"):
                for name in values:
                    cell, wanted = shown.loc[row["id"], name], row[name]
                    same = pd.isna(cell) if wanted is None or pd.isna(wanted) else cell == wanted
                    assert same, f"seed {seed}: {row['id']} {name} is {cell!r}, not {wanted!r}"
