"""Live queries: what changes, what counts as a change, and what a delta touches."""

from __future__ import annotations

from typing import Any

import pytest

from tests.datalog_source import Triples
from tripleweb.datalog.evaluate import Budget, steps
from tripleweb.datalog.live import LiveQuery, Rows
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Delta
from tripleweb.terms import Ref

NAMES = "[:find ?n :where [?u :user/name ?n]]"


def step(live: LiveQuery, source: Triples, add: Any = (), remove: Any = ()) -> Rows | None:
    source.change(add, remove)
    return live.refresh()


def test_rows_come_and_go() -> None:
    source = Triples([("a", "user/name", "Ada")])
    live = LiveQuery(NAMES, [], source)
    assert (live.rows, live.version) == ([], 0)
    assert live.refresh() == Rows([("Ada",)], [])
    assert step(live, source, [("b", "user/name", "Bob")], [("a", "user/name", "Ada")]) == Rows(
        [("Bob",)], [("Ada",)]
    )
    assert (live.rows, live.version) == ([("Bob",)], 2)


def test_no_change_of_the_answer_is_no_change() -> None:
    source = Triples([("a", "user/name", "Ada")])
    live = LiveQuery(NAMES, [], source)
    live.refresh()
    assert step(live, source, [("b", "user/name", "Ada")]) is None
    assert step(live, source, [], [("a", "user/name", "Ada")]) is None
    assert step(live, source, [("b", "user/age", 3)]) is None
    assert live.version == 1


def test_true_and_one_are_different_rows() -> None:
    source = Triples([("a", "v", 1)])
    live = LiveQuery("[:find ?v :where [_ :v ?v]]", [], source)
    live.refresh()
    change = step(live, source, [("a", "v", True)], [("a", "v", 1)])
    assert repr(change) == repr(Rows([(True,)], [(1,)]))


def test_rows_that_with_keeps_apart_are_counted() -> None:
    source = Triples([("a", "v", 1), ("b", "v", 1)])
    live = LiveQuery("[:find ?v :with ?e :where [?e :v ?v]]", [], source)
    assert live.refresh() == Rows([(1,), (1,)], [])
    assert step(live, source, [], [("a", "v", 1)]) == Rows([], [(1,)])


def test_with_an_order_the_order_counts() -> None:
    source = Triples([("a", "name", "A"), ("a", "rank", 1), ("b", "name", "B"), ("b", "rank", 2)])
    text = "[:find ?n (max ?r) :where [?e :name ?n] [?e :rank ?r] :order-by [?n :desc]]"
    live = LiveQuery(text, [], source)
    live.refresh()
    assert live.rows == [("B", 2), ("A", 1)]
    assert step(live, source, [("a", "rank", 0)]) is None
    ranked = LiveQuery("[:find ?n :where [?e :name ?n] :order-by [?n]]", [], source)
    ranked.refresh()
    ranked.take(type(ranked.result)(("n",), [("B",), ("A",)]))
    assert ranked.refresh() == Rows([], [])  # only the order changed
    assert ranked.version == 3


def test_aggregates_follow() -> None:
    source = Triples([("a", "v", 1)])
    live = LiveQuery("[:find (sum ?v) (count ?v) :where [_ :v ?v]]", [], source)
    live.refresh()
    assert step(live, source, [("b", "v", 2.5)]) == Rows([(3.5, 2)], [(1, 1)])
    assert step(live, source, [], [("a", "v", 1), ("b", "v", 2.5)]) == Rows([], [(3.5, 2)])


@pytest.mark.parametrize(
    ("text", "touching", "other"),
    [
        (NAMES, "user/name", "user/age"),
        ("[:find ?u :where [?u :a] (not [?u :b])]", "b", "c"),
        ('[:find ?u :where [?u :a] [(missing? $ ?u "b")]]', "b", "c"),
        ("[:find ?u :where (above ?u _)]", "boss", "a"),
        ("[:find ?p :where [_ ?p _]]", "anything", None),
    ],
)
def test_what_touches(text: str, touching: str, other: str | None) -> None:
    live = LiveQuery(text, [], Triples(), rules="[[(above ?a ?b) [?a :boss ?b]]]")
    assert live.touched(Delta([], [("e", touching, 1)]))
    assert live.touched(Delta([("e", touching, 1)], []))
    assert other is None or not live.touched(Delta([], [("e", other, 1)]))
    assert not live.touched(Delta())


def test_a_recursive_answer_follows() -> None:
    source = Triples([("a", "to", Ref("b")), ("b", "to", Ref("c"))])
    rules = "[[(go ?a ?b) [?a :to ?b]] [(go ?a ?b) [?a :to ?m] (go ?m ?b)]]"
    live = LiveQuery('[:find ?x :in % :where (go "a" ?x)]', [rules], source)
    live.refresh()
    assert sorted(live.rows) == [("b",), ("c",)]
    assert step(live, source, [("c", "to", Ref("d"))]) == Rows([("d",)], [])
    change = step(live, source, [], [("b", "to", Ref("c"))])
    assert change is not None
    assert (change.added, sorted(change.removed)) == ([], [("c",), ("d",)])


def test_what_cannot_run_is_said_at_once() -> None:
    with pytest.raises(QueryError, match="insufficient bindings"):
        LiveQuery("[:find ?x :in ?x :where [(> ?y 1)]]", [1], Triples())
    with pytest.raises(QueryError, match="unknown rule"):
        LiveQuery("[:find ?x :where (r ?x)]", [], Triples())


def test_on_an_error_the_old_answer_stands() -> None:
    source = Triples([("a", "v", 1)])
    live = LiveQuery("[:find ?v :where [_ :v ?v]]", [], source)
    live.refresh()
    source.change([(f"e{n}", "v", n) for n in range(50)])
    with pytest.raises(BudgetError):
        live.refresh(Budget(rows=10))
    assert (live.rows, live.version) == ([(1,)], 1)
    assert live.refresh() is not None
    assert live.version == 2


def test_a_result_evaluated_elsewhere_can_be_taken() -> None:
    source = Triples([("a", "v", 1)])
    live = LiveQuery("[:find ?v :where [_ :v ?v]]", [], source)
    work = steps(live.query, [], source)
    while True:
        try:
            next(work)
        except StopIteration as done:
            assert live.take(done.value) == Rows([(1,)], [])
            break
    assert live.refresh() is None
