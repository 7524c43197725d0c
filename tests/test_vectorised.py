"""Queries by columns: the same answers as the plain evaluator, whatever was written in between, for every construct.

A failure prints its seed; `follow(queries, SEED)` replays it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.live_constructs import CONSTRUCTS, SHAPES, constructs, of_one_shape
from tests.live_histories import History, _outcome, keys
from tests.live_mixtures import Mixture
from tests.test_maintained import follow_constructs
from tripleweb.datalog import evaluate, maintained
from tripleweb.datalog.executor import Executor, Prepared
from tripleweb.datalog.query import parse
from tripleweb.store import Store

Ways = Counter[str]


def follow(
    queries: Iterable[tuple[str, list[Any]]], seed: int, steps: int, before: int = 12, many: int = -1
) -> Ways:
    """Asks queries after each step of a history; returns which executor answered how often."""
    store = Store()
    history = History(seed, store)
    for _ in range(before):
        history.batch()
    executor = Executor(store, many)
    parsed = [(text, parse(text), inputs) for text, inputs in queries]
    ways: Ways = Counter()
    for step in range(steps):
        for text, query, inputs in parsed:
            said = f"seed {seed}, step {step}\n{text}\n{inputs[1 if '%' in text else 0 :]}"
            wrong, result = _outcome(lambda: executor.run(query, inputs))
            due, expected = _outcome(lambda: evaluate.run(query, inputs, store))
            assert wrong == due, f"{said}: {wrong} where {due} was due"
            if result is None or expected is None:
                continue
            here, fresh = keys(result.rows), keys(expected.rows)
            if query.order_by:
                assert here == fresh, f"{said}\n  here  {here}\n  fresh {fresh}"
            only, missing = Counter(here) - Counter(fresh), Counter(fresh) - Counter(here)
            assert not only and not missing, f"{said}\n  only here {only}\n  missing {missing}"
            assert result.skipped == expected.skipped, said
            assert result.columns == expected.columns, said
            held = [entry[2] for entry in executor._prepared.values() if entry[0] is query]
            ways[held[0].way if held and isinstance(held[0], Prepared) else "plain"] += 1
        (history.large if step % 7 == 6 else history.batch)()
    return ways


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_every_construct(name: str) -> None:
    for seed in range(3):
        ways = follow(constructs(name), seed, steps=8)
        assert ways["compiled"] == 0, "everything that can be runs by columns here"
        if name not in ("callables", "variable predicates"):
            assert ways["vectorised"] > 0, ways


def test_nothing_at_all() -> None:
    """Nothing is there, or only entities without what is asked for."""
    queries = [query for name in CONSTRUCTS for query in constructs(name)]
    for before in (0, 1, 2):
        ways = follow(queries, 7, steps=1, before=before)
        assert ways["vectorised"] > 100, ways


@pytest.mark.parametrize("line", list(filter(None, map(str.strip, SHAPES.splitlines()))))
def test_one_shape_with_other_constants(line: str) -> None:
    store = Store()
    history = History(1, store)
    for _ in range(30):
        history.batch()
    for text, inputs in of_one_shape(line, history.random, 30):
        ways = follow([(text, inputs)], 2, steps=2, before=30)
        assert ways["vectorised"] == 2, text


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_live_queries_begin_by_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivations are counted as generated code counts them, or triggers would lose them later."""
    monkeypatch.setattr(maintained, "MANY", -1)
    assert follow_constructs([name], 11, steps=12)


def mixtures(start: int, count: int) -> Ways:
    ways: Ways = Counter()
    for seed in range(start, start + count):
        ways += follow([Mixture(seed).query()], seed, steps=4)
    return ways


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_mixtures(start: int) -> None:
    ways = mixtures(start, 100)
    assert ways["vectorised"] > 3 * ways["plain"], ways


@pytest.mark.long
@pytest.mark.parametrize("start", range(1_000, 3_000, 500))
def test_mixtures_for_long(start: int) -> None:
    assert mixtures(start, 500)["compiled"] == 0
