"""Live frames: what they show, when they tell, how they end, and how they behave in expressions."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.live_host import NAMES, Host, wait_until
from tripleweb.errors import QueryError, TriplewebError
from tripleweb.live import LiveDelta, LiveFrame


@pytest.fixture
def host() -> Host:
    host = Host()
    host.set("a", name="Ada", age=36)
    host.set("b", name="Bob", age=41)
    return host


def people(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return sorted(frame.itertuples(index=False, name=None))


# ---------------------------------------- looking


def test_the_frame_follows(host: Host) -> None:
    """`live.df` is an ordinary DataFrame that never changes under your feet …; the next access gives the fresh
    one."""
    live = host.live()
    before = live.df
    assert type(before) is pd.DataFrame and people(before) == [("Ada", 36), ("Bob", 41)]
    host.set("c", name="Cyd", age=7)
    assert people(before) == [("Ada", 36), ("Bob", 41)]
    assert people(live.df) == [("Ada", 36), ("Bob", 41), ("Cyd", 7)]
    host.receive(("a", "user/age", "", 37))
    assert people(live.df) == [("Ada", 37), ("Bob", 41), ("Cyd", 7)]


def test_a_frame_is_safe_to_modify(host: Host) -> None:
    """[`live.df` is] safe to modify."""
    live = host.live()
    mine = live.df
    mine.loc[0, "age"] = -1
    mine["new"] = 1
    mine.attrs["tripleweb"]["complete"] = "?"
    mine.iloc[1, 0] = "Eve"
    assert people(live.df) == [("Ada", 36), ("Bob", 41)]
    assert live.df.attrs["tripleweb"] == {"complete": True, "scope": "app", "position": 2}


def test_a_frame_is_built_once_a_version(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    live = host.live()
    first = live.df
    monkeypatch.setattr("tripleweb.frame.Sheet.frame", None)  # would raise
    assert live.df.equals(first)
    host.set("x", other=1)
    assert live.df.equals(first)


def test_version(host: Host) -> None:
    """`live.version` grows with each change."""
    live = host.live()
    seen = [live.version]
    for write in (lambda: host.set("c", name="Cyd", age=1), lambda: host.set("c", age=2)):
        write()
        seen.append(live.version)
    assert seen[0] < seen[1] < seen[2]
    host.set("c", age=2)
    host.set("c", other=1)
    assert live.version == seen[2], "nothing in the answer changed"


def test_equal_queries_share_their_work(host: Host) -> None:
    """Equal queries share their work."""
    query = "[:find ?u :in $ ?age :where [?u :user/age ?age]]"
    one, same = host.live(query, 36), host.live(query, 36)
    assert one._shared is same._shared
    others = [host.live(query, 36.0), host.live(query, True), host.live(query, "36"), host.live(NAMES)]
    assert len({id(live._shared) for live in (one, *others)}) == 5
    frames = [host.live("[:find ?x :in [?x ...]]", pd.Series([1])) for _ in range(2)]
    assert frames[0]._shared is not frames[1]._shared, "whether frames are equal is not asked"
    one.close()
    host.set("z", age=36)
    assert sorted(same["u"]) == ["a", "z"] and sorted(one["u"]) == ["a"]


def test_a_query_that_nobody_looks_at_is_not_evaluated(host: Host) -> None:
    live = host.live()
    for age in range(5):
        host.set("a", age=age)
    assert live._shared.live.version == 0
    assert people(live.df) == [("Ada", 4), ("Bob", 41)]


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("[:find [?n ...] :where [_ :user/name ?n]]", ["Ada", "Bob"]),
        ('[:find [?n ?a] :where [?u :user/name ?n] [?u :user/age ?a] [(= ?n "Ada")]]', ("Ada", 36)),
        ("[:find (max ?a) . :where [_ :user/age ?a]]", 41),
        ("[:find ?a . :where [_ :user/nothing ?a]]", None),
    ],
)
def test_value_has_the_shape_of_q(host: Host, query: str, value: Any) -> None:
    """`db.live(…).df` is always a DataFrame, `live.value` has the shape of `q`."""
    live = host.live(query)
    assert isinstance(live.df, pd.DataFrame)
    got = live.value
    assert sorted(got) == value if isinstance(value, list) else got == value
    assert isinstance(host.live().value, pd.DataFrame)


def test_empty_columns_and_columns_that_can_miss_values(host: Host) -> None:
    live = host.live(
        "[:find ?a ?b :where [?u :user/aa ?a] [?u :user/bb ?b]]", kinds={"a": "n", "b": "d"}, nullable={"a"}
    )
    assert [str(dtype) for dtype in live.dtypes] == ["Int64", "datetime64[us, UTC]"]


def test_skipped_values_are_counted_in_attrs(host: Host) -> None:
    """Numeric aggregates skip what is not a number and say how many in `attrs`."""
    host.set("c", age="old")
    live = host.live("[:find (avg ?age) :where [_ :user/age ?age]]")
    assert live.df.attrs["tripleweb"]["skipped_avg_age"] == 1


# ---------------------------------------- the first complete answer


def test_the_first_look_waits_for_a_complete_answer(host: Host) -> None:
    """`db.live` returns at once; the first `.df`, `value` or callback waits for the first complete answer."""
    host.complete = False
    live = host.live()
    frames: list[pd.DataFrame] = []
    looking = threading.Thread(target=lambda: frames.append(live.df))
    looking.start()
    wait_until(lambda: host.settled == 1)
    assert looking.is_alive() and not frames
    host.receive(("c", "user/name", "", "Cyd"), ("c", "user/age", "", 7))
    host.finish_loading()
    looking.join(20)
    assert people(frames[0]) == [("Ada", 36), ("Bob", 41), ("Cyd", 7)]
    assert frames[0].attrs["tripleweb"]["complete"] is True


def test_the_first_look_waits_for_a_limited_time(host: Host) -> None:
    """At most `timeout=10`, then what is here, `complete` false."""
    host.complete = False
    live = host.live(timeout=0.01)
    assert people(live.df) == [("Ada", 36), ("Bob", 41)]
    assert live.df.attrs["tripleweb"]["complete"] is False
    assert host.settled == 1, "only the first look waits"
    host.finish_loading()
    assert live.df.attrs["tripleweb"]["complete"] is True


def test_the_first_callback_waits_for_a_complete_answer(host: Host) -> None:
    host.complete = False
    live = host.live()
    seen: list[int] = []
    live.on_change(lambda live, delta: seen.append(len(delta.added)))
    host.set("c", name="Cyd", age=7)
    wait_until(lambda: host.settled == 1)
    assert seen == []
    host.finish_loading()
    wait_until(lambda: seen == [1])


# ---------------------------------------- callbacks


def test_on_change(host: Host) -> None:
    """`live.on_change(fn)` calls `fn(live, delta)` after each transaction, in order …; `delta.added` and
    `delta.removed` are DataFrames; it returns a function that stops it."""
    live = host.live()
    seen: list[tuple[LiveFrame, LiveDelta]] = []
    stop = live.on_change(lambda *arguments: seen.append(arguments))
    host.set("c", name="Cyd", age=7)
    with host.transaction():
        host.set("c", age=8)
        host.set("c", age=9)
        host.set("b", age=None)
    host.set("c", other=1)
    host.receive(("a", "user/age", "", 37))
    wait_until(lambda: len(seen) == 3)
    assert all(given is live for given, _ in seen)
    deltas = [(people(delta.added), people(delta.removed)) for _, delta in seen]
    assert deltas == [
        ([("Cyd", 7)], []),
        ([("Cyd", 9)], [("Bob", 41), ("Cyd", 7)]),
        ([("Ada", 37)], [("Ada", 36)]),
    ]
    assert all(type(frame) is pd.DataFrame for _, delta in seen for frame in (delta.added, delta.removed))
    stop()
    host.set("a", age=1)
    done = threading.Event()
    host.submit(done.set)
    assert done.wait(20) and len(seen) == 3
    stop()


def test_looking_takes_nothing_from_the_listeners(host: Host) -> None:
    live, other = host.live(), host.live()
    seen: list[Any] = []
    live.on_change(lambda live, delta: seen.append(people(delta.added)))
    for age in range(20):
        host.set("a", age=age)
        assert ("Ada", age) in people(other.df)
    wait_until(lambda: seen == [[("Ada", age)] for age in range(20)])


def test_callbacks_run_on_one_thread_outside_of_the_lock(host: Host) -> None:
    """On one callback thread of the store and outside its lock (queries and `flush` are allowed there)."""
    threads: list[Any] = []
    free: list[bool] = []

    def probe(live: LiveFrame, delta: LiveDelta) -> None:
        threads.append(threading.current_thread())
        other = threading.Thread(
            target=lambda: free.append(host.lock.acquire(timeout=5) and not host.lock.release())
        )
        other.start()
        other.join()
        live.wait(5, until=lambda df: len(df) > 2)

    host.live().on_change(probe)
    host.live("[:find ?n :where [_ :user/name ?n]]").on_change(
        lambda live, delta: threads.append(threading.current_thread())
    )
    host.set("c", name="Cyd", age=7)
    wait_until(lambda: len(threads) == 2)
    assert threads == [host.thread, host.thread] and free == [True]


def test_a_callback_may_write(host: Host) -> None:
    live = host.live()
    live.on_change(lambda live, delta: host.set("a", age=100) if "Cyd" in set(delta.added["name"]) else None)
    host.set("c", name="Cyd", age=7)
    wait_until(lambda: ("Ada", 100) in people(live.df))
    assert live.error is None


def test_errors_of_callbacks(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What `fn` raises goes to `live.error` and is shown once."""
    live = host.live()
    calls: list[int] = []

    def fail(live: LiveFrame, delta: LiveDelta) -> None:
        calls.append(1)
        raise ValueError(f"call {len(calls)}")

    after: list[int] = []
    live.on_change(fail)
    live.on_change(lambda live, delta: after.append(1))
    assert live.error is None
    with caplog.at_level(logging.ERROR, "tripleweb"):
        for age in (1, 2):
            host.set("a", age=age)
        wait_until(lambda: len(after) == 2)
    assert len(calls) == 2 and str(live.error) == "call 2"
    assert len(caplog.records) == 1 and "call 1" in str(caplog.records[0].exc_info)
    assert "ValueError: call 2" in live._repr_html_()
    with pytest.raises(TypeError, match="function"):
        live.on_change(7)  # type: ignore[arg-type]


def test_a_query_that_cannot_be_evaluated(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def half(age: int) -> float:
        if age == 13:
            raise RuntimeError("unlucky")
        return age / 2

    query = "[:find ?h :in $ ?half :where [_ :user/age ?age] [(?half ?age) ?h]]"
    live = host.live(query, half)
    deltas: list[Any] = []
    live.on_change(lambda live, delta: deltas.append((sorted(delta.added["h"]), sorted(delta.removed["h"]))))
    with caplog.at_level(logging.ERROR, "tripleweb"):
        host.set("a", age=13)
    assert str(live.error) == "unlucky" and len(caplog.records) == 1
    with pytest.raises(RuntimeError, match="unlucky"):
        live.df  # noqa: B018
    host.set("a", age=14)
    assert sorted(live["h"]) == [7.0, 20.5]
    wait_until(lambda: deltas == [([7.0], [18.0])])
    with pytest.raises(QueryError):
        host.live("[:find ?x :where [?x")


def test_an_attribute_error_of_a_callable_is_seen(host: Host) -> None:
    live = host.live("[:find ?n :in $ ?f :where [_ :user/name ?a] [(?f ?a) ?n]]", lambda name: name.nope)
    with pytest.raises(AttributeError, match="nope"):
        live.df  # noqa: B018


# ---------------------------------------- transactions


def test_a_transaction_is_seen_when_it_is_done(host: Host) -> None:
    live = host.live()
    live.df  # noqa: B018
    host.set("a", age=1)
    with host.transaction():
        host.set("a", age=2)
        assert ("Ada", 1) in people(live.df), "the state before the transaction"
        fresh = host.live('[:find ?age . :where [?u :user/name "Ada"] [?u :user/age ?age]]')
        assert fresh.value == 2, "a query that was never asked sees what a query sees"
    assert ("Ada", 2) in people(live.df)
    with pytest.raises(ZeroDivisionError), host.transaction():
        host.set("a", age=3)
        live.version  # noqa: B018
        assert host.live("[:find [?n ...] :where [_ :user/age ?n]]").df["n"].max() == 41
        raise ZeroDivisionError
    assert ("Ada", 2) in people(live.df) and fresh.value == 2


def test_what_is_undone_was_never_told(host: Host) -> None:
    seen: list[Any] = []
    with pytest.raises(ZeroDivisionError), host.transaction():
        host.set("a", age=1)
        live = host.live()
        live.on_change(lambda live, delta: seen.append(people(delta.added)))
        host.set("a", age=2)
        assert ("Ada", 1) in people(live.df), "as at its first look"
        raise ZeroDivisionError
    assert ("Ada", 36) in people(live.df)
    host.set("b", age=1)
    wait_until(lambda: seen and seen[-1] == [("Bob", 1)])
    assert [("Ada", 2)] not in seen


# ---------------------------------------- waiting


def test_wait(host: Host) -> None:
    """`live.wait(timeout=30)` returns `live` as soon as it is newer than the last `.df` seen."""
    live = host.live()
    assert live.wait(0) is live, "nothing was seen yet"
    live.df  # noqa: B018
    with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
        live.wait(0.01)
    host.set("a", age=1)
    assert live.wait(0) is live and live.wait(0) is live
    live.df  # noqa: B018
    writer = threading.Timer(0.02, lambda: host.set("a", age=2))
    writer.start()
    assert ("Ada", 2) in people(live.wait(20).df)
    with pytest.raises(TriplewebError), host.transaction():
        live.wait(1)


def test_wait_until(host: Host) -> None:
    """With `until=` as soon as `until(df)` is true; else `TimeoutError`."""
    live = host.live()
    assert live.wait(until=lambda df: len(df) == 2) is live
    seen: list[int] = []

    def three(df: pd.DataFrame) -> bool:
        seen.append(len(df))
        if len(df) == 2:
            threading.Timer(0.01, lambda: host.set("c", name="Cyd", age=7)).start()
        return len(df) == 3

    live.wait(20, until=three)
    assert seen == [2, 3]
    with pytest.raises(TimeoutError):
        live.wait(0.01, until=lambda df: False)
    with pytest.raises(KeyError):
        live.wait(until=lambda df: df["nope"])


# ---------------------------------------- ending


def test_close(host: Host) -> None:
    """`live.close()`."""
    live = host.live()
    seen: list[Any] = []
    live.on_change(lambda *arguments: seen.append(arguments))
    live.df  # noqa: B018

    def wait() -> None:
        with pytest.raises(TimeoutError, match="closed") as error:
            live.wait(20)
        seen.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    live.close()
    with host.lock:
        host.changed.notify_all()
    waiting.join(20)
    assert len(seen) == 1 and live.closed
    host.set("c", name="Cyd", age=7)
    assert people(live.df) == [("Ada", 36), ("Bob", 41)]
    live.close()
    with pytest.raises(TriplewebError, match="closed"):
        live.on_change(print)
    assert host.lives._shared == {}


def test_a_frame_that_was_never_seen_keeps_what_it_had_when_closed(host: Host) -> None:
    live = host.live()
    host.lives.close()
    host.set("a", age=1)
    assert live.closed and people(live.df) == [("Ada", 36), ("Bob", 41)]


def test_forgotten_frames_cost_nothing(host: Host) -> None:
    live, heard = host.live(), host.live()
    stop = heard.on_change(lambda live, delta: None)
    refs = [weakref.ref(live), weakref.ref(heard)]
    del live, heard
    gc.collect()
    assert refs[0]() is None and refs[1]() is not None, "a frame with a listener lives"
    stop()
    del stop
    gc.collect()
    assert refs[1]() is None
    host.set("a", age=1)
    assert host.lives._shared == {}


# ---------------------------------------- in expressions


def test_it_behaves_like_its_frame(host: Host) -> None:
    """It behaves in expressions like its frame (`live["age"].mean()`, `len(live)`, `live.plot(…)`)."""
    live = host.live()
    assert live["age"].mean() == 38.5 and live.age.max() == 41
    assert len(live) == 2 and list(live) == ["name", "age"] and "age" in live and "x" not in live
    assert live.shape == (2, 2) and people(live.sort_values("age")) == people(live.df)
    assert people(live[live["age"] > 40]) == [("Bob", 41)]
    assert live.query("age > 40")["name"].tolist() == ["Bob"]
    assert {"df", "age", "groupby", "on_change"} <= set(dir(live))
    assert live._ipython_key_completions_() == ["name", "age"]
    for wrong in ("nope", "_nope", "__nope__"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(live, wrong)
    with pytest.raises(KeyError):
        live["nope"]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(live)
    with pytest.raises(TypeError):
        live["age"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        live.age = 1  # type: ignore[attr-defined]


def test_operators(host: Host) -> None:
    live = host.live("[:find ?a :where [_ :user/age ?a] :order-by [?a]]")
    df = live.df
    for got, wanted in [
        (live + 1, df + 1), (1 - live, 1 - df), (live * live, df * df), (live / df, df / df), (df + live, df + df),
        (df["a"].rename("x").to_frame("a") - live, df - df), (live // 2, df // 2), (live**2, df**2),
        (live % 5, df % 5), (2**live, 2**df), (live > 40, df > 40), (live == live, df == df), (live != 36, df != 36),
        (-live, -df), (abs(live), abs(df)), (~(live > 40), ~(df > 40)), ((live > 1) & (live < 40), df < 40),
        (np.log(live), np.log(df)),
        (np.array([[1], [2]]) + live, np.array([[1], [2]]) + df), (live @ [[1]], df @ [[1]]),
    ]:  # fmt: skip
        assert isinstance(got, pd.DataFrame)
        pd.testing.assert_frame_equal(got, wanted)
    assert np.asarray(live).tolist() == [[36], [41]]
    assert np.asarray(live, dtype=float).dtype == float
    assert hash(live) == hash(live) and {live: 1}[live] == 1


# ---------------------------------------- Ctrl-C in the middle of a look


FOLLOWED = (
    "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]",
    "[:find (sum ?age) (count ?u) :with ?name :where [?u :user/name ?name] [?u :user/age ?age]]",
    "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age] :order-by [?age :desc] :limit 1]",
)


@pytest.mark.parametrize("query", FOLLOWED)
def test_an_interrupt_at_any_line_of_a_look_loses_nothing(host: Host, query: str) -> None:
    """An interrupt finds a query that is kept up to date settled, or has it evaluated afresh: the next look has the
    whole answer, and a version that has grown."""
    line, struck, age = 0, True, 50
    while struck:
        live = host.live(query)
        for who in ("a", "b"):
            seen, before, age = people_of(live), live.version, age + 1
            host.set(who, age=age)
            struck = strike(lambda live=live: live.version, line)
            fresh = people_of(host.live(f"{query} "))
            assert people_of(live) == fresh, f"line {line}"
            assert live.version > before and fresh != seen, f"line {line}"
        line += 1
    assert line > 10


def people_of(live: LiveFrame) -> list[str]:
    return sorted(map(repr, live.df.itertuples(index=False, name=None)))


def strike(look: Callable[[], object], at: int) -> bool:
    """Looks; raises KeyboardInterrupt at the line of this number that is run in the engine. False if there is none."""
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        here = frame.f_code.co_filename
        if "tripleweb" not in here or here.endswith(("live.py", "shield.py", "test_live_frame.py")):
            return trace
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        look()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(outer)
    return False
