"""Looking back as a user meets it: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from tests.stores import SCHEMA, Connect, level
from tests.test_storage import wait_until
from tripleweb.errors import HistoryError
from tripleweb.web import WebServer


def moment() -> pd.Timestamp:
    """A moment after all that was committed so far and before all that will be: the server's are milliseconds."""
    moments = [datetime.now(UTC)]
    deadline = time.monotonic() + 60
    while moments[-1] < moments[0] + timedelta(milliseconds=6):
        assert time.monotonic() < deadline, "the clock stands still"
        time.sleep(0.001)
        moments.append(datetime.now(UTC))
    return pd.Timestamp(moments[0] + timedelta(milliseconds=3))


def test_history(connect: Connect) -> None:
    """`db.history(id)`: a frame (`time user predicate old new`, oldest first; one row a member of a many-valued field;
    a delete is a row for each value it removed)."""
    db = connect(schema=SCHEMA)
    before = moment()
    post = db.insert("post", title="One", author="ada", tags=["a", "b"], likes=2)
    db.flush()
    db.update("post", post, title="Two", tags=["b", "c"])
    db.increment("post", post, likes=3)
    db.flush()
    db.delete(post)
    db.flush()
    frame = db.history(post)
    assert list(frame.columns) == ["time", "user", "predicate", "old", "new"]
    assert str(frame["time"].dtype) == "datetime64[us, UTC]" and frame["time"].is_monotonic_increasing
    assert before < frame["time"].iloc[0] <= frame["time"].iloc[-1] < moment()
    assert set(frame["user"]) == {"ada"}
    rows = [
        tuple(None if pd.isna(v) else v for v in row) for row in frame.iloc[:, 2:].itertuples(index=False)
    ]
    assert rows == [
        ("post/author", None, "ada"),
        ("post/likes", None, 2),
        ("post/tags", None, "a"),
        ("post/tags", None, "b"),
        ("post/title", None, "One"),
        ("post/tags", "a", None),
        ("post/tags", None, "c"),
        ("post/title", "One", "Two"),
        ("post/likes", 2, 5),
        ("post/author", "ada", None),
        ("post/likes", 5, None),
        ("post/tags", "b", None),
        ("post/tags", "c", None),
        ("post/title", "Two", None),
    ]
    nothing = db.history("nobody")
    assert len(nothing) == 0 and list(nothing.dtypes) == list(frame.iloc[:0].dtypes)


def test_as_of(server: WebServer, connect: Connect) -> None:
    """`db.as_of(moment).q(…)`: the state after the last transaction the server committed by then, empty before the
    first; before the floor of a compacted log `HistoryError`."""
    db, other = connect(schema=SCHEMA), connect(schema=SCHEMA)
    query = "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age] :order-by [?name]]"
    empty = moment()
    ada = db.insert("user", name="Ada", age=36)
    db.flush()
    one = moment()
    other.insert("user", name="Bob", age=17)
    other.flush()
    db.update("user", ada, age=37)
    db.flush()
    two = moment()
    db.delete(ada)
    level(db, other)

    def rows(at: object) -> list[list[object]]:
        frame = db.as_of(at).q(query)
        assert list(frame.columns) == ["name", "age"] and frame.attrs["tripleweb"]["complete"]
        return frame.to_numpy().tolist()

    assert rows(empty) == [] == rows("2013-01-01T00:00:00Z")
    assert rows(one) == [["Ada", 36]]
    assert rows(two) == [["Ada", 37], ["Bob", 17]] == rows(two.to_pydatetime()) == rows(two.isoformat())
    assert rows(moment()) == [["Bob", 17]] == rows(datetime.now(UTC) + timedelta(days=1))
    assert db.as_of(empty).q(query)["age"].dtype == "int64"  # the schema says so, as of any query
    with pytest.raises(ValueError, match="no time zone"):
        db.as_of(two.tz_localize(None))
    storage = server.hub.tenants["app"].storage
    wait_until(lambda: not storage.backlog, "the log was never folded")
    while storage.trim(3):
        pass
    assert rows(two) == [["Ada", 37], ["Bob", 17]]
    for at in (empty, one):
        with pytest.raises(HistoryError, match="kept no longer"):
            db.as_of(at).q(query)
