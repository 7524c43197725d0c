"""Random queries over random databases: the engine against an evaluator of nested loops, and against itself.

A failure prints its seed; `check(SEED)` replays it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from tests.datalog_generator import RULES_TEXT, Case, Generator
from tests.datalog_oracle import Oracle, Typed, typed
from tests.datalog_source import Triples
from tripleweb.change import Change
from tripleweb.datalog.builtins import SLICE
from tripleweb.datalog.evaluate import Budget, Result, run, steps
from tripleweb.datalog.live import LiveQuery
from tripleweb.datalog.query import parse
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.terms import slot


def rounded(cell: Typed) -> Typed:
    """Floats that took different ways are compared to twelve digits."""
    kind, value = cell
    if kind == "c":
        return kind, tuple(map(rounded, value))
    if kind == "n" and isinstance(value, float) and not value.is_integer():
        return kind, float(f"{value:.11e}")
    return cell


def counted(result: Result) -> Counter[tuple[Typed, ...]]:
    return Counter(tuple(rounded(typed(cell)) for cell in row) for row in result.rows)


def store_of(case: Case) -> Store:
    store = Store()
    store.apply(Change(s, p, slot(v), v, time, "r") for time, (s, p, v) in enumerate(case.triples, 1))
    return store


def check(seed: int) -> None:
    case = Generator(seed).case()
    note = f"seed {seed}\n{case.text()}\n{case.inputs}\n{case.triples}"
    triples = Triples(case.triples)
    query = parse(case.text()).bind_rules(RULES_TEXT)
    expected = Counter()
    bound = Oracle(
        parse(case.text().replace(" % ", " ", 1).replace(" %", "", 1)).bind_rules(RULES_TEXT),
        case.inputs,
        triples,
    )
    for row, count in bound.answer().items():
        expected[tuple(map(rounded, row))] += count
    inputs = [RULES_TEXT, *case.inputs]
    result = run(query, inputs, triples)
    assert counted(result) == expected, note
    shuffled = random.Random(seed).sample(case.where, len(case.where))
    assert counted(run(case.text(shuffled), inputs, triples)) == expected, f"shuffled: {shuffled}\n{note}"
    assert counted(run(query, inputs, store_of(case))) == expected, f"over a Store: {note}"
    assert run(query, inputs, triples).rows == result.rows, f"not deterministic: {note}"


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_engine_agrees_with_nested_loops(start: int) -> None:
    for seed in range(start, start + 50):
        check(seed)


@pytest.mark.long
@pytest.mark.parametrize("start", range(1_000, 2_000, 250))
def test_engine_agrees_with_nested_loops_for_long(start: int) -> None:
    for seed in range(start, start + 250):
        check(seed)


@pytest.mark.parametrize("seed", range(60))
def test_live_is_fresh_after_every_change(seed: int) -> None:
    case = Generator(seed).case()
    rng = random.Random(seed)
    triples = Triples(case.triples)
    inputs = [RULES_TEXT, *case.inputs]
    live = LiveQuery(case.text(), inputs, triples)
    live.refresh()
    for _ in range(12):
        others = Generator(rng.randrange(10**6)).triples()
        delta = triples.change(
            add=rng.sample(others, min(len(others), rng.randint(0, 3))),
            remove=rng.sample(triples.all(), min(len(triples.all()), rng.randint(0, 3))),
        )
        before, version = counted(live.result), live.version
        fresh = counted(run(case.text(), inputs, triples))
        if not live.touched(delta):
            assert fresh == before, f"seed {seed}: untouched by {delta}, yet changed: {case.text()}"
            continue
        change = live.refresh()
        assert counted(live.result) == fresh, f"seed {seed}"
        assert (change is not None) == (fresh != before), f"seed {seed}"
        assert live.version == version + (change is not None), f"seed {seed}"
        if change is not None:
            added, removed = (
                counted(Result(live.query.columns, rows)) for rows in (change.added, change.removed)
            )
            assert before - removed + added == fresh, f"seed {seed}: {change}"
            assert not (added & removed), f"seed {seed}: {change}"


@pytest.mark.parametrize("seed", range(100, 140))
def test_every_slice_is_bounded_and_a_budget_ends_the_work(seed: int) -> None:
    case = Generator(seed).case()
    inputs = [RULES_TEXT, *case.inputs]
    triples = Triples(case.triples)
    whole = run(case.text(), inputs, triples)
    work = steps(case.text(), inputs, triples)
    assert all(0 < units <= SLICE for units in work), f"seed {seed}"
    if whole.work > 1:
        with pytest.raises(BudgetError):
            run(case.text(), inputs, triples, budget=Budget(rows=whole.work - 1))
    assert run(case.text(), inputs, triples, budget=Budget(rows=whole.work)).rows == whole.rows


class Counting(Triples):
    """Counts the triples that it gives out; made for many of them."""

    def __init__(self, triples: Any) -> None:
        super().__init__(triples)
        self.read = 0
        self.columns: dict[str, list[Any]] = {}
        self.by_value: dict[Any, list[str]] = {}
        for s, p, v in self.all():
            self.columns.setdefault(p, []).append((s, v))
            self.by_value.setdefault((p, v), []).append(s)

    def count(self, predicate: str) -> int:
        return len(self.columns[predicate])

    def scan(self, predicate: str) -> Any:
        for pair in self.columns[predicate]:
            self.read += 1
            yield pair

    def subjects(self, predicate: str, value: Any) -> list[str]:
        found = self.by_value.get((predicate, value), [])
        self.read += len(found)
        return found


def test_no_slice_reads_more_than_it_says() -> None:
    source = Counting((f"e{n}", "k/n", n % 100) for n in range(30_000))
    text = "[:find (count ?a) (count ?b) :where [?a :k/n ?n] [?b :k/n ?n] [(< ?n 2)]]"
    read = 0
    slices = 0
    for units in steps(text, [], source):
        assert source.read - read <= SLICE
        read, slices = source.read, slices + 1
        assert units <= SLICE
    assert slices > 10


def test_closing_the_generator_ends_the_evaluation() -> None:
    source = Counting((f"e{n}", "k/n", n % 100) for n in range(30_000))
    work = steps("[:find ?a ?b :where [?a :k/n ?n] [?b :k/n ?n]]", [], source)
    next(work)
    work.close()
    assert source.read < 2 * SLICE
    assert list(work) == []


def test_sums_do_not_depend_on_order() -> None:
    rng = random.Random(7)
    numbers = [rng.uniform(-1, 1) * 10 ** rng.randint(-12, 12) for _ in range(500)]
    answers = set()
    for _ in range(5):
        rng.shuffle(numbers)
        triples = Triples((f"e{index}", "k/n", number) for index, number in enumerate(numbers))
        answers.add(
            run("[:find (sum ?n) (avg ?n) (variance ?n) :with ?e :where [?e :k/n ?n]]", [], triples).rows[0]
        )
    assert len(answers) == 1
    assert answers.pop()[0] == math.fsum(numbers)
