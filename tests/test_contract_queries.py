"""Queries and live frames as a user meets them: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.live_host import Host, wait_until
from tests.stores import Connect, level
from tripleweb import Ref
from tripleweb.database import Database
from tripleweb.errors import QueryError, TriplewebError
from tripleweb.live import LiveFrame


@pytest.fixture
def people(db: Database) -> Database:
    for name, age, boss in (("Ada", 36, None), ("Bob", 17, "ada"), ("Cyd", 36, "bob")):
        db.insert("user", id=name.lower(), name=name, age=age, boss=None if boss is None else Ref(boss))
    return db


RULES = """[[(above ?a ?b) [?b :user/boss ?a]]
            [(above ?a ?b) [?m :user/boss ?a] (above ?m ?b)]]"""


def test_inputs(people: Database) -> None:
    """`:in` with scalar, tuple, collection, relation (also a DataFrame) and `%` rules, in any order."""
    q = people.q
    assert sorted(q("[:find [?n ...] :in % ?who $ :where (above ?who ?u) [?u :user/name ?n]]", RULES, "ada")) == [
        "Bob", "Cyd"
    ]  # fmt: skip
    assert (
        q("[:find ?n . :in [?a ?b] :where [?u :user/age ?a] [?u :user/name ?n] [(= ?n ?b)]]", (36, "Cyd"))
        == "Cyd"
    )
    for given in (
        ["Ada", "Bob"],
        ("Ada", "Bob"),
        {"Ada", "Bob"},
        pd.Series(["Ada", "Bob"]),
        np.array(["Ada", "Bob"]),
    ):
        assert sorted(q("[:find [?u ...] :in $ [?n ...] :where [?u :user/name ?n]]", given)) == ["ada", "bob"]
    pairs = [("Ada", 1), ("Cyd", 2), ("Nobody", 3)]
    for rows in (pairs, [list(pair) for pair in pairs], pd.DataFrame(pairs, columns=["x", "y"])):
        found = q("[:find ?u ?k :in $ [[?n ?k]] :where [?u :user/name ?n]]", rows)
        assert sorted(found.itertuples(index=False, name=None)) == [("ada", 1), ("cyd", 2)]
    assert q("[:find ?u ?k :in [[?n ?k]] $ ?least % :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a ?least)] "
             "(above ?boss ?u)]", pairs, 20, RULES).to_numpy().tolist() == [["cyd", 2]]  # fmt: skip
    assert sorted(people.live("[:find [?b ...] :in $ % :where (above ?a ?b)]", RULES).value) == ["bob", "cyd"]
    with pytest.raises(QueryError, match="inputs"):
        q("[:find ?n :in $ ?n]")


def test_callables(people: Database) -> None:
    """Python callables passed as inputs and used as predicates or functions (pure ones)."""
    query = "[:find ?n ?short :in $ ?test ?f :where [_ :user/name ?n] [(?test ?n)] [(?f ?n) ?short]]"
    assert people.q(query, lambda name: name > "B", lambda name: name[:2]).sort_values("n").to_numpy().tolist() == [
        ["Bob", "Bo"], ["Cyd", "Cy"]
    ]  # fmt: skip
    live = people.live(query, str.isalpha, len)
    people.insert("user", name="Dee")
    assert sorted(live["short"]) == [3, 3, 3, 3]
    with pytest.raises(ZeroDivisionError):
        people.q(query, lambda name: 1 / 0, len)


def test_columns(people: Database) -> None:
    """Columns are the find variables without `?`; `(avg ?age)` is `avg_age`, `(count-distinct ?x)` `count_distinct_x`,
    `(min 3 ?x)` `min_3_x`, …; repeated names get `_2`."""
    frame = people.q("[:find ?n ?n (avg ?age) (count-distinct ?u) (min 3 ?u) (avg ?age) "
                     ":where [?u :user/name ?n] [?u :user/age ?age]]")  # fmt: skip
    assert list(frame.columns) == ["n", "n_2", "avg_age", "count_distinct_u", "min_3_u", "avg_age_2"]


def test_order(db: Database) -> None:
    """Without `:order-by` row order is not promised; with it, kinds sort boolean < number < date < text, missing last,
    ties by the remaining columns."""
    moments = [datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2021)]
    ordered = [False, True, -1, 0.5, 1, *moments, "", "a", "b"]
    for number, value in enumerate(reversed(ordered)):
        db.set(f"s{number}", "k/v", value)
    for direction, expected in (("", ordered), (" :asc", ordered), (" :desc", ordered[::-1])):
        assert db.q(f"[:find [?v ...] :where [_ :k/v ?v] :order-by [?v{direction}]]").tolist() == expected
    for number in range(6):
        db.set(f"t{number}", "k/a", number % 2)
        db.set(f"t{number}", "k/b", -number)
    frame = db.q("[:find ?s ?a ?b :where [?s :k/a ?a] [?s :k/b ?b] :order-by [?a :desc] :limit 4 :offset 1]")
    assert frame["s"].tolist() == ["t3", "t5", "t0", "t2"], "ties by the remaining columns"


def test_sets(people: Database) -> None:
    """Sets, as in DataScript: aggregates run over distinct find-and-with tuples."""
    assert people.q("[:find (sum ?age) . :where [_ :user/age ?age]]") == 53
    assert people.q("[:find (sum ?age) . :with ?u :where [?u :user/age ?age]]") == 89
    assert len(people.q("[:find ?age :where [_ :user/age ?age]]")) == 2


def test_ids_are_text_to_a_query(people: Database) -> None:
    """To a query a subject or a reference is its id's text: an id given as a literal or an input matches both."""
    people.set("x", "note/about", "ada")  # text, not a reference
    for query, inputs in (
        ('[:find ?u . :where [?u :user/boss "ada"]]', ()),
        ("[:find ?u . :in $ ?b :where [?u :user/boss ?b]]", ("ada",)),
        ("[:find ?u . :in $ ?b :where [?u :user/boss ?b]]", (Ref("ada"),)),
    ):
        assert people.q(query, *inputs) == "bob"
    for given in ("ada", Ref("ada")):
        assert people.q("[:find ?n . :in $ ?u :where [?u :user/name ?n]]", given) == "Ada"
        assert people.q("[:find ?x . :in $ ?u :where [?x :note/about ?u]]", given) == "x"
    assert people.q("[:find ?n . :where [_ :note/about ?u] [?u :user/name ?n]]") == "Ada"


def test_comparisons(db: Database) -> None:
    """Comparisons across kinds are false."""
    for number, value in enumerate([1, "1", True, datetime(2020, 1, 1, tzinfo=UTC)]):
        db.set(f"s{number}", "k/v", value)
    for sign in ("<", ">", "<=", ">="):
        pairs = db.q(f"[:find ?s ?t :where [?s :k/v ?a] [?t :k/v ?b] [({sign} ?a ?b)]]")
        assert [s for s, t in pairs.itertuples(index=False) if s != t] == []
    assert db.q("[:find [?s ...] :where [?s :k/v ?v] [(> ?v 0)]]").tolist() == ["s0"]


def test_aggregates_over_nothing(people: Database) -> None:
    """An aggregate over nothing gives no row."""
    assert people.q("[:find (count ?u) (max ?a) :where [?u :user/age ?a] [(> ?a 99)]]").empty
    assert people.q("[:find (count ?u) . :where [?u :user/none]]") is None
    assert people.q("[:find ?n (sum ?a) :where [?u :user/name ?n] [?u :user/none ?a]]").shape == (0, 2)


def test_errors_of_queries(db: Database) -> None:
    """A query error raises `QueryError` with line, column, the offending form and what was expected."""
    text = "[:find ?x\n :where [?x :user/name ?n]\n        [(starts ?n \"A\")]]"  # fmt: skip
    for ask in (db.q, db.live, lambda query: asyncio.run(db.aq(query))):
        with pytest.raises(QueryError) as error:
            ask(text)
        found = error.value
        assert (found.line, found.column, found.form) == (3, 11, "starts") and found.expected
        assert "line 3" in str(found) and isinstance(found, TriplewebError)


def test_asking_asynchronously(people: Database) -> None:
    """`await db.aq(query, *inputs)` for async code."""
    query = "[:find ?n . :in $ ?a :where [?u :user/age ?a] [?u :user/name ?n]]"

    async def ask() -> list[Any]:
        return await asyncio.gather(*(people.aq(query, age, strict=True) for age in (17, 99)))

    assert asyncio.run(ask()) == ["Bob", None]


def test_what_an_answer_says_of_itself(connect: Connect) -> None:
    """The frame's `attrs["tripleweb"]` is flat JSON: `complete` (bool), `scope`, `position`."""
    local, db = tripleweb.open(), connect()
    db.set("x", "k/v", 1)
    level(db)
    for store in (local, db):
        for frame in (
            store.q("[:find ?v :where [_ :k/v ?v]]"),
            store.live("[:find ?v :where [_ :k/v ?v]]").df,
        ):
            said = frame.attrs["tripleweb"]
            assert said.keys() == {"complete", "scope", "position"} and said["complete"] is True
            assert all(
                value is None or isinstance(value, bool | int | float | str) for value in said.values()
            )
    assert said["position"] and isinstance(
        db.q("[:find [?v ...] :where [_ :k/v ?v]]").attrs["tripleweb"], dict
    )


# -- live frames -------------------------------------------------------------------------------------------------------


def test_the_first_callback_waits() -> None:
    """The first `.df`, `value` or callback waits for the first complete answer."""
    host = Host()
    host.complete = False
    values: list[Any] = []
    called: list[int] = []
    live = host.live("[:find (count ?u) . :where [?u :user/name]]")
    live.on_change(lambda live, delta: called.append(int(delta.added.iloc[0, 0])))
    looking = threading.Thread(target=lambda: values.append(live.value))
    looking.start()
    host.set("a", name="Ada")
    host.receive(("b", "user/name", "", "Bob"))
    wait_until(lambda: host.settled == 2)
    assert not called and not values
    host.finish_loading()
    looking.join(20)
    wait_until(lambda: len(called) == 2)
    assert values == [2] and called == [1, 2], "each transaction, in order"


def test_the_thread_of_callbacks(people: Database) -> None:
    """`live.on_change(fn)` calls `fn(live, delta)` after each transaction, in order, on one callback thread of the
    store and outside its lock (queries and `flush` are allowed there)."""
    calls: list[tuple[str, int, int]] = []

    def follow(name: str) -> Callable[[LiveFrame, Any], None]:
        def called(live: LiveFrame, delta: Any) -> None:
            other = threading.Thread(target=lambda: people.set("other", "thread/wrote", name))
            other.start()
            other.join(10)
            assert not other.is_alive(), "the lock is held"
            people.flush(1)
            calls.append(
                (name, threading.get_ident(), people.q("[:find (count ?u) . :where [?u :user/name]]"))
            )

        return called

    names = people.live("[:find ?n :where [_ :user/name ?n]]")
    ages = people.live("[:find (sum ?a) . :where [_ :user/age ?a]]")
    names.on_change(follow("names"))
    ages.on_change(follow("ages"))
    for number in range(20):
        with people.transaction():
            people.insert("user", id=f"u{number}", name=f"N{number}", age=100 + number)
    wait_until(lambda: len(calls) == 40)
    assert [name for name, _, _ in calls] == ["names", "ages"] * 20
    assert len({thread for _, thread, _ in calls}) == 1 and calls[0][1] != threading.get_ident()
    assert names.error is None and ages.error is None


def test_an_expression_of_a_live_frame(people: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It behaves in expressions like its frame (`live["age"].mean()`, `len(live)`, `live.plot(…)`)."""
    drawn: list[tuple[Any, ...]] = []
    backend = ModuleType("backend_of_this_test")
    backend.plot = lambda data, kind, **how: drawn.append((len(data), kind, how["x"], how["y"]))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    live = people.live("[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]")
    with pd.option_context("plotting.backend", backend.__name__):
        live.plot(x="name", y="age", kind="bar")
        people.insert("user", name="Dee", age=1)
        live.plot.line(x="name", y="age")
    assert drawn == [(3, "bar", "name", "age"), (4, "line", "name", "age")]
    assert live["age"].mean() == 22.5 and len(live) == 4
