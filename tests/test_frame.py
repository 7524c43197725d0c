"""Shapes and dtypes of what queries answer, and frames on their way in."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tripleweb.change import Change
from tripleweb.errors import SchemaError
from tripleweb.frame import frame_columns, kind_frame, result_frame, series, shape, text_dtype
from tripleweb.schema import SCHEMALESS, schema, t
from tripleweb.store import Store
from tripleweb.terms import Ref, Value
from tripleweb.transaction import Transaction
from tripleweb.writes import insert_columns

MOMENT = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)
TEXT = str(pd.Series(["x"]).dtype)
UTC_US = "datetime64[us, UTC]"


class Answer(NamedTuple):
    columns: list[str]
    rows: list[tuple[Any, ...]]


@pytest.mark.parametrize(
    ("values", "dtype", "nullable"),
    [
        ([1, 2], "int64", "Int64"),
        ([1, 2.5], "float64", "Float64"),
        ([1.0, 2.0], "float64", "Float64"),
        ([True, False], "bool", "boolean"),
        (["a", "b"], TEXT, TEXT),
        ([Ref("a"), "b"], TEXT, TEXT),
        ([MOMENT], UTC_US, UTC_US),
        ([1, "a"], "object", "object"),
        ([1, True], "object", "object"),
        ([MOMENT, "a"], "object", "object"),
        ([[1], [2]], "object", "object"),
        ([{"a": 1}], "object", "object"),
        ([2**70], "object", "object"),
        ([2**63 - 1, -(2**63)], "int64", "Int64"),
        ([], "object", "object"),
    ],
)
def test_dtypes(values: list[Any], dtype: str, nullable: str) -> None:
    """dtypes: `int64`; any float makes `float64`; `bool`; text pandas' default string dtype; dates
    `datetime64[us, UTC]`; mixed kinds `object`; columns that can miss values by the query's form, whatever the
    data, `Int64`, `Float64`, `boolean`."""
    assert str(series(values).dtype) == dtype
    assert str(series(values, nullable=True).dtype) == nullable
    with_missing = series([*values, None])
    assert str(with_missing.dtype) == nullable
    assert list(with_missing.isna()) == [False] * len(values) + [True]
    for given in (series(values), with_missing.iloc[: len(values)]):
        back = given.tolist()
        assert back == values
        assert [type(v) is bool for v in back] == [type(v) is bool for v in values]


@pytest.mark.parametrize(
    ("kind", "dtype", "nullable"),
    [
        ("n", "int64", "Int64"),
        ("b", "bool", "boolean"),
        ("s", TEXT, TEXT),
        ("r", TEXT, TEXT),
        ("d", UTC_US, UTC_US),
    ],
)
def test_an_empty_column(kind: str, dtype: str, nullable: str) -> None:
    """An empty column takes the schema's kind, else `object`."""
    frame = result_frame(["a", "b"], [], kinds={"a": kind})
    assert (str(frame.dtypes["a"]), frame.dtypes["b"], len(frame)) == (dtype, object, 0)
    assert str(series([], kind=kind, nullable=True).dtype) == nullable
    missing = series([None, None], kind=kind)
    assert str(missing.dtype) == nullable and missing.isna().all()


def test_text_has_the_dtype_that_pandas_infers() -> None:
    """Text pandas' default string dtype (text is the string dtype that version infers)."""
    assert series(["a"]).dtype == pd.Series(["a"]).dtype == text_dtype()
    assert series(["a", None]).isna().tolist() == [False, True]
    if pd.__version__ >= "3":
        assert TEXT == "str"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecation
        with pd.option_context("future.infer_string", False):
            assert series(["a"]).dtype == object
    odd = ["", "é", "\x00", "x" * 10_000, "🐍", "NA", "nan", "None"]
    assert series(odd).tolist() == odd


def test_dates() -> None:
    """Years 1-9999, with microseconds."""
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    dates = series([first, None, last, MOMENT.astimezone(timezone(timedelta(hours=5)))])
    assert str(dates.dtype) == UTC_US
    assert [None if v is pd.NaT else v.to_pydatetime() for v in dates] == [first, None, last, MOMENT]


def test_a_frame() -> None:
    rows = [("Ada", 36, None), ("Bob", 41.5, "x")]
    frame = result_frame(["name", "age", "note"], rows, nullable={"age"}, attrs={"complete": True})
    assert list(frame.columns) == ["name", "age", "note"]
    assert list(frame.index) == [0, 1]
    assert [str(dtype) for dtype in frame.dtypes] == [TEXT, "Float64", TEXT]
    assert frame.attrs == {"tripleweb": {"complete": True}}
    assert result_frame(["a"], []).shape == (0, 1)


def test_shapes() -> None:
    """A relation find gives a DataFrame; `[?x ...]` a Series; `[?x ?y]` a tuple or None; `?x .` a Python value or
    None."""
    some, none = Answer(["x", "y"], [(1, "a"), (2, "b")]), Answer(["x", "y"], [])
    assert shape(some, "relation").equals(result_frame(some.columns, some.rows))
    assert shape(some, "tuple") == (1, "a") and shape(none, "tuple") is None
    assert shape(some, "scalar") == 1 and shape(none, "scalar") is None
    column = shape(Answer(["x"], [(1,), (2,)]), "collection", attrs={"complete": False})
    assert isinstance(column, pd.Series) and column.name == "x" and column.tolist() == [1, 2]
    assert column.attrs == {"tripleweb": {"complete": False}}
    assert str(shape(Answer(["x"], []), "collection", kinds={"x": "n"}).dtype) == "int64"


def store(*changes: tuple[str, str, str, Value | None]) -> Store:
    out = Store()
    out.apply([Change(*change, 1, "a") for change in changes])
    return out


POST = schema(
    post={
        "title": t.string(),
        "words": t.number(),
        "score": t.number(optional=True),
        "hot": t.boolean(default=False),
        "at": t.date(optional=True),
        "by": t.ref("post", optional=True),
        "tags": t.ref_many("post"),
        "likes": t.counter(),
    },
    other={"title": t.string()},
)
POSTS = (
    ("p", "post/title", "", "P"),
    ("p", "post/words", "", 3),
    ("p", "post/tags", "r:y", Ref("y")),
    ("p", "post/tags", "r:x", Ref("x")),
    ("q", "post/title", "", "Q"),
    ("q", "post/words", "", 4),
    ("q", "post/score", "", "high"),
    ("q", "post/likes", "c:a", 2),
    ("q", "post/by", "", Ref("p")),
    ("q", "post/strange", "", 1),
)


def test_a_kind_as_a_frame() -> None:
    """`db.frame("post")`: columns `id`, then the fields (missing ones as missing), a many-valued one a column of
    lists. Fields other than required ones can miss values. Data from others that does not fit reads as missing."""
    frame = kind_frame(store(*POSTS), POST, "post")
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "id": TEXT, "title": TEXT, "words": "int64", "score": "Int64", "hot": "boolean", "at": UTC_US, "by": TEXT,
        "tags": "object", "likes": "Int64",
    }  # fmt: skip
    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    assert rows == [
        ["p", "P", 3, None, False, None, None, ["x", "y"], 0],
        ["q", "Q", 4, None, False, None, "p", [], 2],
    ]
    empty = kind_frame(Store(), POST, "post")
    assert empty.shape == (0, 9)
    assert [str(dtype) for dtype in empty.dtypes] == [str(dtype) for dtype in frame.dtypes]
    with pytest.raises(SchemaError, match="no kind 'pots'"):
        kind_frame(Store(), POST, "pots")


def test_a_kind_as_a_frame_without_a_schema() -> None:
    """[Nullable are] all of them without a schema."""
    frame = kind_frame(store(*POSTS), SCHEMALESS, "post")
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "id": TEXT, "by": TEXT, "likes": "Int64", "score": TEXT, "strange": "Int64", "tags": "object",
        "title": TEXT, "words": "Int64",
    }  # fmt: skip
    assert frame["tags"].tolist() == [["x", "y"], []]
    assert kind_frame(Store(), SCHEMALESS, "post").columns.tolist() == ["id"]


def test_frames_on_their_way_in() -> None:
    """`None` and pandas' missing values mean "no value"; numpy scalars are understood."""
    frame = pd.DataFrame(
        {
            "key": ["a", "b"],
            "i": np.array([1, 2], dtype="int32"),
            "f": [1.5, np.nan],
            "b": pd.array([True, pd.NA], dtype="boolean"),
            "n": pd.array([7, pd.NA], dtype="Int64"),
            "d": pd.to_datetime(["2013-01-01T00:15:00-05:00", None], utc=True),
            "s": ["x", None],
            "c": pd.Categorical(["u", None]),
            "o": [3, np.float64("nan")],
        }
    ).set_index("key")
    columns = frame_columns(frame, "key")
    assert list(columns) == ["key", "i", "f", "b", "n", "d", "s", "c", "o"]
    assert "key" not in frame_columns(frame)
    kept = Store()
    tx = Transaction(kept, 1, "a")
    insert_columns(tx, SCHEMALESS, "x", columns, id="key", random_bytes=bytes)
    tx.commit()
    a = dict(kept.about("a"))
    assert a == {
        "x/key": "a", "x/i": 1, "x/f": 1.5, "x/b": True, "x/n": 7, "x/d": MOMENT, "x/s": "x", "x/c": "u", "x/o": 3
    }  # fmt: skip
    assert [type(a[f"x/{name}"]) for name in "ifbndsc"] == [int, float, bool, int, datetime, str, str]
    assert dict(kept.about("b")) == {"x/key": "b", "x/i": 2}


@pytest.mark.parametrize(
    ("frame", "error", "match"),
    [
        (pd.DataFrame({1: [1]}), TypeError, "1"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "two columns are called 'a'"),
        ({"a": [1]}, TypeError, "dict"),
    ],
)
def test_frames_that_cannot_be(frame: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        frame_columns(frame)


@pytest.mark.parametrize(
    ("cells", "error", "match"),
    [
        (pd.to_datetime(["2013-01-01"]), ValueError, "time zone"),
        (pd.to_datetime(["2013-01-01T00:00:00.000000001Z"]), ValueError, "nanoseconds"),
        (pd.to_timedelta(["1h"]), TypeError, "Timedelta"),
    ],
)
def test_cells_that_cannot_be_stored(cells: Any, error: type[Exception], match: str) -> None:
    columns = frame_columns(pd.DataFrame({"a": cells}))
    tx = Transaction(Store(), 1, "a")
    with pytest.raises(error, match=f"row 0.*{match}"):
        insert_columns(tx, SCHEMALESS, "x", columns, random_bytes=bytes)


@pytest.mark.parametrize("many", [1, 3_000])  # asked by generated code and kept; by columns
def test_means_are_floats_whole_or_not(many: int) -> None:
    """A live column keeps its dtype with whatever is written; sums of whole numbers are whole."""
    db = tripleweb.open()
    query = (
        "[:find (avg ?v) (median ?v) (variance ?v) (stddev ?v) (sum ?v)"
        " :with ?e :where [?e :k/v ?v] [?e :k/g 1]]"
    )
    live = db.live(query)
    dtypes = ["float64"] * 4 + ["int64"]
    assert live.df.dtypes.astype(str).tolist() == dtypes
    db.insert_frame("k", pd.DataFrame({"v": [2, 4] * many, "g": 1}))
    for value in (None, 8, 3, 2.5, 3):
        if value is not None:
            db.set("x", "k/g", 1)
            db.set("x", "k/v", value)
        expected = dtypes if value != 2.5 else ["float64"] * 5
        for answer in (db.q(query), live.df):
            assert answer.dtypes.astype(str).tolist() == expected
            assert answer["median_v"][0] in (2.0, 3.0, 4.0, 2.5)
        pd.testing.assert_frame_equal(db.q(query), live.df)
