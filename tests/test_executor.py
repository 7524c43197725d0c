"""What looks something up goes to the plain evaluator until that has cost as much as generating code: the answers are
the same on both sides of the switch, and the switch comes.

A failure prints its seed; `follow(queries, SEED)` replays it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.live_constructs import CONSTRUCTS, constructs
from tests.test_vectorised import follow
from tripleweb.change import Change
from tripleweb.datalog import evaluate
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.executor import GENERATED, INDEXED, LOOK, Executor, Prepared
from tripleweb.datalog.maintained import MANY
from tripleweb.datalog.query import Query, parse
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.tables import SCANS_MAX
from tripleweb.terms import Ref, slot

BY_NAME = "[:find ?u ?age :in $ ?name :where [?u :user/name ?name] [?u :user/age ?age]]"


def people(count: int) -> Store:
    store = Store()
    changes = []
    for number in range(count):
        subject = f"u{number}"
        changes.append(Change(subject, "user/name", "", f"n{number // 2}", 1, "r"))
        changes.append(Change(subject, "user/age", "", number, 1, "r"))
    store.apply(changes)
    return store


def way(executor: Executor, query: Query) -> str:
    held = [entry[2] for entry in executor._prepared.values() if entry[0] is query]
    return held[0].way if held and isinstance(held[0], Prepared) else "plain"


@pytest.mark.parametrize("seed", range(3))
def test_every_construct_before_and_after_the_switch(seed: int) -> None:
    ways: Counter[str] = Counter()
    for name in CONSTRUCTS:
        ways += follow(constructs(name), seed, steps=8, many=MANY)
    assert ways["plain"] > 100 and ways["compiled"] > 100, ways


def test_code_is_generated_once_looking_has_cost_as_much() -> None:
    store = people(100)
    executor, query = Executor(store), parse(BY_NAME)
    expected = [("u14", 14), ("u15", 15)]
    ways = []
    for _ in range(GENERATED // LOOK + 1):
        assert sorted(executor.run(query, ["n7"]).rows) == expected
        ways.append(way(executor, query))
    assert ways[0] == "plain" and ways[-1] == "compiled", ways
    assert ways == sorted(ways, reverse=True), "once there is code, it stays"
    assert sorted(executor.run(query, ["n7"]).rows) == expected


def test_what_finds_much_is_generated_at_once() -> None:
    """More than is left of what generating takes is given up on; of large columns nothing is looked through at all."""
    asked = "[:find ?v :in $ ?least :where [?u :user/age ?v] [(>= ?v ?least)]]"
    for count in (GENERATED, INDEXED * MANY + 1):
        store = people(count)
        executor, query = Executor(store, many=10 * count), parse(asked)
        assert len(executor.run(query, [0]).rows) == count
        assert way(executor, query) == "compiled"
    lookup = parse(BY_NAME)
    executor.run(lookup, ["n7"])
    assert way(executor, lookup) == "compiled"
    assert not store.column("user/name")[1].scans


def test_a_budget_that_is_too_small_is_an_error_on_both_sides() -> None:
    store = people(100)
    executor, query = Executor(store), parse("[:find ?v :in $ ?x :where [?u :user/age ?v] [(> ?v ?x)]]")
    for _ in range(8):
        with pytest.raises(BudgetError):
            executor.run(query, [0], budget=Budget(rows=10))
    for _ in range(8):
        with pytest.raises(BudgetError):
            executor.run(query, [0], budget=Budget(bytes=100))


def test_another_query_at_the_same_place_begins_anew() -> None:
    """Places of queries that are gone are given to others."""
    executor = Executor(people(10))
    first, other = parse(BY_NAME), parse(BY_NAME.replace("?age", "?a"))
    executor._looked[id(other), ""] = first, GENERATED
    executor.run(other, ["n1"])
    assert way(executor, other) == "plain"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tripleweb.datalog.executor.KEPT_MAX", 4)
    executor = Executor(people(10))
    queries = [parse(BY_NAME.replace("?age", f"?a{number}")) for number in range(20)]
    for query in queries:
        executor.run(query, ["n1"])
        assert len(executor._looked) <= 4


@pytest.mark.parametrize("value", [True, False, 1, 0, 1.0, "a", Ref("a"), "1", 2])
def test_looking_through_a_column_finds_what_its_index_finds(value: Any) -> None:
    store = Store()
    given = [True, 1, 1.0, "a", Ref("a"), "1", False, 0, True, None]
    store.apply(
        [Change(f"e{at}", "k/v", "", held, 1, "r") for at, held in enumerate(given) if held is not None]
        + [Change(f"e{len(given)}", "k/w", "", 1, 1, "r")]  # a row without a value
    )
    column = store.column("k/v")[1]
    scanned = [column.rows_with(value) for _ in range(SCANS_MAX)]
    assert column.index is None
    indexed = column.rows_with(value)
    assert column.index is not None, "from now on an index pays"
    assert scanned == [indexed] * SCANS_MAX


def test_cells_of_several_values_are_found_from_the_start() -> None:
    store = Store()
    store.apply([Change("a", "k/v", slot(text), text, 1, "r") for text in ("0", "1")])
    query = parse("[:find ?u :in $ ?v :where [?u :k/v ?v]]")
    for value in ("0", "1", "2"):
        assert Executor(store).run(query, [value]).rows == evaluate.run(query, [value], store).rows
