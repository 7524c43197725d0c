"""`live.why(row)`: which row is meant, and what its frame says; what it is made of is `test_reasons`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tripleweb import QueryError, Ref, TriplewebError, t
from tripleweb.database import Database

ADULTS = "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age] [(> ?age 30)]]"


@pytest.fixture
def db() -> Any:
    with tripleweb.open() as db:
        for id, name, age in ("ada", "Ada", 36), ("bob", "Bob", 41), ("cy", "Cy", 17), ("di", "Di", 41):
            db.insert("user", id=id, name=name, age=age)
        yield db


def subjects(frame: pd.DataFrame) -> set[str]:
    return set(frame["subject"].dropna())


@pytest.mark.parametrize("form", ["label", "numpy", "iloc", "loc", "dict", "part", "tuple", "frame"])
def test_a_row_is_named_as_a_user_of_pandas_names_it(db: Database, form: str) -> None:
    """ "`live.why(row)`"."""
    live = db.live(ADULTS)
    df = live.df
    at = int(df.index[df["name"] == "Bob"][0])
    rows = {
        "label": at,
        "numpy": np.int64(at),
        "iloc": df.iloc[at],
        "loc": df.loc[at],
        "dict": {"name": "Bob", "age": 41},
        "part": {"name": "Bob"},
        "tuple": ("Bob", 41),
        "frame": df[df["name"] == "Bob"],
    }
    assert subjects(live.why(rows[form])) == {"bob"}


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        (3, ValueError, "there is no row 3: the answer has 3"),
        (-1, ValueError, "there is no row -1"),
        (True, TypeError, "not bool"),
        ("Bob", TypeError, "not str"),
        ({"age": 41}, ValueError, "2 rows have age=41"),
        ({"name": "Cy"}, ValueError, "no row of the answer has name='Cy'; db.why_not"),
        ({"nam": "Ada"}, ValueError, "no column 'nam'; did you mean name"),
        ({}, ValueError, "an empty row; the columns are name, age"),
        (("Ada",), ValueError, "1 values for 2 columns: name, age"),
    ],
)
def test_what_is_no_row_is_an_error(db: Database, row: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        db.live(ADULTS).why(row)


def test_the_frame_says_what_when_and_how_many(db: Database) -> None:
    frame = db.live(ADULTS).why({"name": "Ada"})
    assert frame.columns.tolist() == [
        "derivation", "depth", "kind", "clause", "subject", "predicate", "value", "time", "user", "note", "ways",
    ]  # fmt: skip
    assert frame["value"].tolist() == ["Ada", 36, None]
    assert frame["kind"].tolist() == ["triple", "triple", "call"]
    assert frame["note"].tolist()[2] == "(> 36 30)"
    assert str(frame["time"].dtype) == "datetime64[us, UTC]"
    age = (pd.Timestamp.now("UTC") - frame["time"]).dropna()
    assert len(age) == 2 and (age < pd.Timedelta("10min")).all() and (age > -pd.Timedelta("1min")).all()
    assert frame["user"].isna().all()  # nobody, without a server
    assert frame.attrs["tripleweb"] == {
        "complete": True, "scope": "local", "position": None,
        "derivations": 1, "triples": 2, "rows": 0, "rows_left_out": 0,
    }  # fmt: skip


def test_true_is_not_one(db: Database) -> None:
    db.set("x", "k/m", True)
    db.set("y", "k/m", 1)
    live = db.live("[:find ?v :where [_ :k/m ?v]]")
    assert [subjects(live.why({"v": one})) for one in (True, 1, 1.0)] == [{"x"}, {"y"}, {"y"}]


def test_more_derivations_when_asked_for(db: Database) -> None:
    live = db.live("[:find ?age :where [_ :user/age ?age]]")
    frame = live.why({"age": 41}, derivations=5)
    assert frame.attrs["tripleweb"]["derivations"] == 2 and subjects(frame) == {"bob", "di"}
    assert frame["derivation"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="derivations=0"):
        live.why(0, derivations=0)


def test_rows_of_a_group(db: Database) -> None:
    live = db.live("[:find (avg ?age) (count ?u) :where [?u :user/age ?age]]")
    frame = live.why(0)
    assert frame["note"].tolist()[:2] == ["33.75 over 4 rows", "4 over 4 rows"]
    assert subjects(frame) == {"ada", "bob", "cy", "di"}
    assert frame.attrs["tripleweb"]["rows"] == 4


def test_pulled_trees_are_traced_to_their_entity(db: Database) -> None:
    db.set("cy", "user/boss", Ref("bob"))
    live = db.live(
        "[:find ?age (pull ?u [:user/name {:user/boss [:user/name]}]) :where [?u :user/age ?age] [(< ?age 42)] "
        ":order-by [(get ?u :user/name) :desc]]"
    )
    df = live.df
    assert df["u"][1] == {"user/name": "Cy", "user/boss": {"user/name": "Bob"}}
    for row in (1, df.iloc[1]):
        frame = live.why(row)
        pulled = frame[frame["kind"] == "pull"]
        assert pulled[["subject", "value"]].values.tolist() == [["cy", "Cy"], ["cy", "bob"], ["bob", "Bob"]]


def test_selections_and_their_missing_cells() -> None:
    schema = tripleweb.schema(user={"name": t.string(), "age": t.number(optional=True)})
    with tripleweb.open(schema=schema) as db:
        db.insert("user", id="ada", name="Ada")
        live = db.select("user").where("name", "Ada").live()
        frame = live.why(live.df.iloc[0])
        assert frame[frame["kind"] == "pull"]["value"].tolist() == ["Ada"]
        assert subjects(frame) == {"ada"}


def test_a_counter_has_the_time_of_its_newest_share() -> None:
    schema = tripleweb.schema(post={"likes": t.counter()})
    with tripleweb.open(schema=schema) as db:
        db.increment("post", "p", likes=2)
        db.increment("post", "p", likes=3)
        frame = db.live("[:find ?n :where [_ :post/likes ?n]]").why(0)
        assert frame["value"].tolist() == [5] and frame["time"].notna().all()


def test_one_that_was_closed_says_so(db: Database) -> None:
    live = db.live(ADULTS)
    live.close()
    with pytest.raises(TriplewebError, match="was closed"):
        live.why(0)


def test_within_a_transaction_it_speaks_of_what_the_frame_shows(db: Database) -> None:
    live = db.live(ADULTS)
    assert len(live) == 3
    with db.transaction():
        db.update("user", "cy", age=50)
        assert len(live) == 3
        with pytest.raises(TriplewebError, match="transaction"):
            live.why(0)
    assert subjects(live.why({"name": "Cy"})) == {"cy"}


def test_who_wrote_it_is_said_of_own_writes_only() -> None:
    with (
        tripleweb.connect("why", url="embedded", path=":memory:") as one,
        tripleweb.connect("why", url="embedded", path=":memory:") as other,
    ):
        one.insert("user", id="ada", name="Ada", age=36)
        one.flush()
        assert other.q(ADULTS)["name"].tolist() == ["Ada"]
        mine, yours = (db.live(ADULTS).why(0)["user"].dropna().tolist() for db in (one, other))
        assert mine == [one.status.user] * 2 and yours == []


# -- why not --------------------------------------------------------------------------------------------------


def reasons(frame: pd.DataFrame) -> list[str]:
    return [f"{clause}: {note}" for clause, note in frame[frame["blamed"]][["clause", "note"]].values]


@pytest.mark.parametrize(
    "row",
    [
        {"name": "Cy"},
        {"?name": "Cy", "age": 17},
        ("Cy", 17),
        pd.Series({"name": "Cy", "age": np.int64(17)}),
        pd.DataFrame({"name": ["Cy"]}),
    ],
)
def test_why_not(db: Database, row: Any) -> None:
    """ "`db.why_not(query, row)`"."""
    for asked in (ADULTS, db.live(ADULTS)):
        frame = db.why_not(asked, row)
        assert list(frame.columns) == ["depth", "kind", "clause", "left", "blamed", "note"]
        assert [str(dtype) for dtype in frame.dtypes[["depth", "left", "blamed"]]] == [
            "int64",
            "Int64",
            "bool",
        ]
        assert reasons(frame)[-1] == "[(> ?age 30)]: (> 17 30) is false"
        assert frame["left"].tolist()[-1] == 0
        assert frame.attrs["tripleweb"]["found"] is False


def test_why_not_of_a_row_that_is_there(db: Database) -> None:
    frame = db.why_not(ADULTS, {"name": "Ada"})
    assert frame.attrs["tripleweb"]["found"] is True and not reasons(frame)
    assert frame["note"].tolist()[-1] == "it is in the answer; live.why(row) says why"


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        (3, TypeError, r"^a row is a Series, .* not int$"),
        ("Ada", TypeError, "a row is a Series"),
        ({"name": {"a": 1}}, TypeError, r"name: no variable has a dict"),
        ({"name": pd.Series([1, 2])}, TypeError, r"name: no variable has a Series"),
        ({"nam": "Ada"}, ValueError, "did you mean name"),
        ({}, ValueError, "an empty row"),
        (("Ada",), ValueError, "1 values for 2 columns"),
    ],
)
def test_why_not_of_what_is_no_row(db: Database, row: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        db.why_not(ADULTS, row)


@pytest.mark.parametrize("asked", [None, 5, "select"])
def test_why_not_of_what_is_no_query(db: Database, asked: Any) -> None:
    with pytest.raises(QueryError, match="a query is text"):
        db.why_not(db.select("user") if asked == "select" else asked, {"name": "Ada"})


def test_a_live_frame_has_its_inputs(db: Database) -> None:
    live = db.live("[:find ?n :in $ ?min :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a ?min)]]", 40)
    with pytest.raises(TypeError, match="a live frame has its inputs"):
        db.why_not(live, {"n": "Ada"}, 30)


def test_why_not_compares_with_the_row_that_is_most_alike(db: Database) -> None:
    """Of rows without a plain value to go by, and where a value is said to be missing."""
    db.insert("user", id="eve", name="Eve")
    people = db.select("user").live()
    assert reasons(db.why_not(people, {"name": "Cy", "age": 5}))[0].endswith(": age is 17, not 5")
    assert reasons(db.why_not(people, {"age": 5, "name": "Eve"}))[0].endswith(": age is missing, not 5")
    assert reasons(db.why_not(people, {"name": "Cy", "age": None}))[0].endswith(": age is 17, not missing")
    assert reasons(db.why_not(ADULTS, {"name": "Ada", "age": pd.NA})) == ["?age: age is 36, not missing"]


def test_why_not_of_a_single_value_or_row(db: Database) -> None:
    """ "`?x .` a Python value": a bare value is its row, and the answer ends with the first."""
    asked = "[:find ?name . :where [_ :user/name ?name] :order-by [?name]]"
    assert db.q(asked) == "Ada"
    assert db.why_not(asked, "Ada").attrs["tripleweb"]["found"] is True
    assert reasons(db.why_not(asked, "Cy")) == [": it is row 3 of 4, and the query has row 1 only"]
    assert reasons(db.why_not("[:find [?name ...] :where [_ :user/name ?name]]", "Zed")) == [
        '[_ :user/name ?name]: no user/name is "Zed"'
    ]
    pair = "[:find [?name ?age] :where [?u :user/name ?name] [?u :user/age ?age] :order-by [?age]]"
    assert db.why_not(pair, db.q(pair)).attrs["tripleweb"]["found"] is True
    assert reasons(db.why_not(pair, ("Ada", 36))) == [": it is row 2 of 4, and the query has row 1 only"]
    db.insert("user", id="a", name="Aa")  # by all columns, where no order is said
    some = "[:find ?name :where [_ :user/name ?name] :limit 2]"
    for name in db.q(some.replace(":limit 2", ""))["name"]:
        found = db.why_not(some, {"name": name}).attrs["tripleweb"]["found"]
        assert found == (name in set(db.q(some)["name"])), name
    none = "[:find ?name :where [_ :user/name ?name] :limit 0]"
    assert reasons(db.why_not(none, "Ada"))[0].endswith("and the query has no rows")
    assert subjects(db.live("[:find [?name ...] :where [_ :user/name ?name]]").why("Di")) == {"di"}


def test_why_not_with_inputs_and_kept_rules(db: Database) -> None:
    db.rules("[(older ?u ?least) [?u :user/age ?a] [(> ?a ?least)]]")
    asked = "[:find ?n :in $ ?least :where (older ?u ?least) [?u :user/name ?n]]"
    assert "(> 41 50) is false" in " ".join(reasons(db.why_not(asked, {"n": "Bob"}, 50)))
    live = db.live(asked, 50)
    db.rules(
        "[(older ?u ?least) [?u :user/age ?a] [(> ?a 0)] [(> ?least 0)]]"
    )  # the frame was made with those before
    assert "(> 41 50) is false" in " ".join(reasons(db.why_not(live, {"n": "Bob"})))
    assert db.why_not(asked, {"n": "Bob"}, 50).attrs["tripleweb"]["found"]


def test_what_comes_after_the_clauses(db: Database) -> None:
    first = "[:find ?name :where [_ :user/name ?name] :order-by [?name] :limit 2]"
    assert reasons(db.why_not(first, {"name": "Di"})) == [": it is row 4 of 4, and the query has rows 1 to 2"]
    mean = "[:find (avg ?age) :with ?u :where [?u :user/age ?age]]"
    assert reasons(db.why_not(mean, {"avg_age": 40.0})) == ["(avg ?age): avg_age is 33.75, not 40.0"]
    assert db.why_not(mean, {"avg_age": 33.75}).attrs["tripleweb"]["found"]


def test_a_value_that_the_schema_does_not_read(tmp_path: Path) -> None:
    file = tmp_path / "people.tripleweb"
    with tripleweb.open(file) as db:
        db.insert("user", id="ada", name="Ada", age="36")
    schema = tripleweb.schema(user={"name": t.string(), "age": t.number(optional=True)})
    with tripleweb.open(file, schema=schema) as db:
        query = "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]"
        assert reasons(db.why_not(query, {"name": "Ada"})) == [
            "[?u :user/age ?age]: user/age is text everywhere, and is read as number only"
        ]
        db.insert("user", id="bob", name="Bob", age=41)
        assert reasons(db.why_not(query, {"name": "Ada"})) == [
            '[?u :user/name ?name]: user/name of ada is "Ada"',
            '[?u :user/age ?age]: user/age of ada is text "36", and is read as number only',
        ]


@pytest.mark.filterwarnings("ignore:not all of")
def test_offline_it_is_said_that_not_all_is_here() -> None:
    with tripleweb.connect("why-away", url="embedded", path=":memory:") as db:
        db.go_offline()
        frame = db.why_not(ADULTS, {"name": "Ada"})
        assert frame["note"].tolist()[-1] == "not all that it reads is here: that may be why"


def test_what_a_replica_has_not_loaded_is_loaded_for_it() -> None:
    with (
        tripleweb.connect("why-not", url="embedded", path=":memory:") as one,
        tripleweb.connect("why-not", url="embedded", path=":memory:") as other,
    ):
        one.insert("user", id="ada", name="Ada", age=29)
        one.flush()
        assert other.q(ADULTS).empty
        frame = other.why_not(ADULTS, {"name": "Ada"})
        assert reasons(frame)[-1] == "[(> ?age 30)]: (> 29 30) is false"
        other.go_offline()
        assert other.why_not(ADULTS, {"name": "Ada"}).attrs["tripleweb"]["complete"] is True
