"""The maintained answer against the answer that is made of all rows at once, on random queries and random streams."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from tripleweb.datalog import ranking
from tripleweb.datalog.aggregates import AGGREGATES
from tripleweb.datalog.answer import Result, Rows, answer
from tripleweb.datalog.builtins import FALSE, TRUE, inward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.query import Aggregate, Query, parse
from tripleweb.datalog.ranking import Meter, Ranking
from tripleweb.datalog.standing import Standing
from tripleweb.errors import QueryError
from tripleweb.terms import Ref

Row = tuple[Any, ...]
# What these give does not depend on which of two equal rows came.
EXACT = ("sum", "avg", "median", "variance", "stddev", "min", "max", "count", Variable("?f"))


def fresh(query: Query, scalars: dict[str, Any], rows: list[Row]) -> Result:
    work = answer(query, scalars, rows)
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: Result = done.value
            return result


def keys(rows: list[Row]) -> list[Row]:
    """Rows in which True is not 1."""
    return [tuple(map(inward, row)) for row in rows]


def exactly(value: Any) -> Any:
    """A value with its type: bit for bit, but that 0.0 is -0.0."""
    return tuple(map(exactly, value)) if isinstance(value, tuple) else (type(value), value)


def a_float(rng: random.Random) -> float:
    """Of wild magnitude."""
    return rng.choice((1, -1)) * math.ldexp(rng.random(), rng.choice((0, 0, 3, 60, -60, 1000, -1000, -1070)))


POOLS: dict[str, Callable[[random.Random], Any]] = {
    "few": lambda rng: rng.randrange(4),
    "integers": lambda rng: rng.choice((rng.randrange(-9, 9), 2**60 + rng.randrange(9), -(2**63), 2**63 - 1)),
    "floats": a_float,
    "numbers": lambda rng: rng.choice((rng.randrange(3), float(rng.randrange(3)), -0.0, a_float(rng), 2**62 + 2)),
    "prices": lambda rng: rng.randrange(400) / 4,
    "texts": lambda rng: rng.choice("abcdé\x00") * rng.randrange(3),
    "mixed": lambda rng: rng.choice(
        (
            TRUE, FALSE, 0, 1, 1.0, 2, 2.5, "1", "a", Ref("a"), "", datetime(2013, 1, 1, tzinfo=UTC),
            datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=rng.randrange(9)), (), (1, "a"), (1.0, Ref("a")),
            (TRUE, (2,)), frozenset((1, "b")), range(2), (0, 1), a_float(rng),
        )
    ),
}  # fmt: skip
# Values of which no two are equal without being the same.
ONE_FORM = ("few", "integers", "texts")


class Case:
    """A random query, its scalars, and rows that fit."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        names = ["?a", "?b", "?c"]
        elements = [self.element(rng.choice(names)) for _ in range(rng.randint(1, 3))]
        shape = rng.random()
        if shape < 0.15:
            find = f"{elements[0]} ."
        elif shape < 0.3:
            find = f"[{' '.join(elements)}]"
        elif shape < 0.4:
            find = f"[{elements[0]} ...]"
        else:
            find = " ".join(elements)
        text = f":find {find}"
        used = {word.strip("()[].") for word in find.split()}
        self.with_ = [name for name in (*names, "?w") if name not in used and rng.random() < 0.4]
        text += f" :with {' '.join(self.with_)}" if self.with_ else ""
        text += " :in $ ?n ?f :where [?a ?b ?c] [?w ?n ?f]"
        plain = parse(f"[{text}]")
        if rng.random() < 0.5:
            columns = [rng.choice(plain.columns) for _ in range(rng.randint(1, 2))]
            text += f" :order-by [{' '.join(c + rng.choice(('', ' :desc')) for c in columns)}]"
        if rng.random() < 0.4:
            text += f" :limit {rng.randrange(6)}"
        if rng.random() < 0.2:
            text += f" :offset {rng.randrange(5)}"
        self.query = parse(f"[{text}]")
        self.scalars = {
            "?n": rng.randrange(4),
            "?f": rng.choice((len, tuple, lambda v: v[-1], lambda v: v[0], self.rarely)),
        }
        self.pools = {name: rng.choice(list(POOLS)) for name in (*names, "?w")}
        self.is_exact = all(name in ONE_FORM for name in self.pools.values()) or (
            "mixed" not in self.pools.values()
            and all(isinstance(e, Aggregate) and e.function in EXACT for e in self.query.find)
        )

    @staticmethod
    def rarely(values: list[Any]) -> Any:
        return len(values) if len(values) % 3 else None

    def element(self, name: str) -> str:
        if self.rng.random() < 0.5:
            return name
        function = self.rng.choice([*AGGREGATES, "aggregate"])
        if function == "aggregate":
            return f"(aggregate ?f {name})"
        count = self.rng.choice(AGGREGATES[function].arguments)
        return f"({function} {self.rng.choice(('?n', '0', '1', '2', '9')) if count else ''} {name})"

    def row(self) -> Row:
        values = {name: POOLS[pool](self.rng) for name, pool in self.pools.items()}
        names = [getattr(element, "name", None) or element.variable.name for element in self.query.find]  # type: ignore[union-attr]
        return tuple(values[name] for name in (*names, *self.with_))

    def other_form(self, row: Row) -> Row:
        """An equal row, some of it of another type."""
        cells = list(row)
        for index, cell in enumerate(cells):
            if self.rng.random() < 0.5:
                if type(cell) is int and int(float(cell)) == cell:
                    cells[index] = float(cell)
                elif type(cell) is float and cell.is_integer() and abs(cell) < 2**63:
                    cells[index] = int(cell)
                elif type(cell) is str and cell:
                    cells[index] = Ref(cell)
        return tuple(cells)


def check(
    case: Case, standing: Standing, held: dict[Row, Row], old: list[Row], said: Rows | None
) -> list[Row]:
    """The new rows, after a `settle`."""
    query = case.query
    expected = fresh(query, case.scalars, list(held.values()))
    rows = standing.rows
    assert standing.skipped == expected.skipped
    if query.order_by:
        assert keys(rows) == keys(expected.rows)
    else:
        assert Counter(keys(rows)) == Counter(keys(expected.rows))
    if case.is_exact:
        assert Counter(map(exactly, rows)) == Counter(map(exactly, expected.rows))
    before, after = Counter(keys(old)), Counter(keys(rows))
    if said is None:
        assert before == after
    else:
        added, removed = Counter(keys(said.added)), Counter(keys(said.removed))
        assert added or removed
        assert not added & removed
        assert not removed - before
        assert before - removed + added == after
        assert all(
            type(cell) in (str, int, float, bool, datetime, tuple) for row in said.added for cell in row
        )
    return list(rows)


def run_case(seed: int, commits: int = 25) -> int:
    """The number of commits after which all was right."""
    case = Case(seed)
    rng = case.rng
    held: dict[Row, Row] = {}
    outside: dict[Row, None] = {}
    is_shared = rng.random() < 0.5
    standing = Standing(case.query, case.scalars, outside if is_shared else None)
    rows: list[Row] = []
    for number in range(commits):
        try:
            size = rng.choice((1, 1, 2, 5, 20, 150 if rng.random() < 0.2 else 3))
            shrinks = rng.random() < 0.3
            for _ in range(size):
                row = case.row()
                if held and (row in held or shrinks or rng.random() < 0.3):
                    row = row if row in held else rng.choice(list(held))
                    outside.pop(row)
                    del held[row]
                    standing.apply(case.other_form(row), -1)
                else:
                    held[row] = row
                    outside[row] = None
                    standing.apply(row, 1)
            said = standing.settle()
            if rng.random() < 0.7:
                rows = check(case, standing, held, rows, said)
            else:  # nobody looks at the rows in between
                assert (said is None) == (Counter(keys(rows)) == Counter(keys(standing.rows)))
                rows = list(standing.rows)
        except Exception as error:
            error.add_note(f"seed {seed}, commit {number}: {case.query.text} {case.scalars} {case.pools}")
            raise
    assert standing.settle() is None
    return number + 1


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_what_stands_is_what_would_be_found(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(start, start + 100):
        monkeypatch.setattr(ranking, "BLOCK", random.Random(seed).choice((1, 2, 5, 500)))
        assert run_case(seed) == 25


@pytest.mark.long
@pytest.mark.parametrize("start", range(100_000, 101_500, 500))
def test_what_stands_is_what_would_be_found_at_length(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(start, start + 500):
        monkeypatch.setattr(ranking, "BLOCK", random.Random(seed).choice((1, 2, 5, 500)))
        assert run_case(seed) == 25


# -- single properties


WHERE = ":where [?a ?b ?c] [?d ?e ?f]"


def standing_of(find: str, rows: list[Row], scalars: dict[str, Any] | None = None) -> Standing:
    standing = Standing(parse(f"[:find {find} {WHERE if ':where' not in find else ''}]"), scalars or {})
    standing.fill(rows)
    standing.settle()
    return standing


def change(standing: Standing, *noted: tuple[Row, int]) -> Rows | None:
    for row, sign in noted:
        standing.apply(row, sign)
    return standing.settle()


@pytest.mark.parametrize(
    "find",
    [
        "?a ?b", "?a :with ?b", f"?a ?b {WHERE} :order-by [?b]", f"?a ?b {WHERE} :order-by [?a :desc ?b]",
        f"?a ?b {WHERE} :order-by [?b :desc] :limit 10", f"?a ?b {WHERE} :limit 20 :offset 300", "[?a ?b]", "?a .",
        "(count ?a) :with ?b", "(count-distinct ?a) :with ?b", "(distinct ?a) :with ?b", "(sum ?a) :with ?b",
        "(avg ?a) :with ?b", "(median ?a) :with ?b", "(variance ?a) (stddev ?a) :with ?b",
        "(min ?a) (max ?a) :with ?b", "(min 3 ?a) (max 3 ?a) :with ?b", "(rand ?a) :with ?b", "(sample 5 ?a) :with ?b",
        "?a (sum ?b)", f"?a (sum ?b) {WHERE} :order-by [sum_b] :limit 5", "?a (aggregate ?g ?b) :in ?g",
    ],
)  # fmt: skip
def test_work_is_proportional_to_the_change(find: str) -> None:
    """Units of work for the same changes of an answer of 500, 4,000 and 32,000 rows."""
    rng = random.Random(find)
    units = []
    for size in (500, 4_000, 32_000):
        # every ?a has two rows at most, for the groups
        cells = find.count("(") if ":with" in find else 1
        rows: list[Row] = [(*[number // 2 + 0.5] * max(cells, 1), number) for number in range(size)]
        standing = standing_of(find, rows, {"?g": sum})
        rows_before = Counter(standing.rows)
        before = standing.touched
        for number in rng.sample(range(size), 100):
            first = change(standing, (rows[number], -1))
            second = change(standing, (rows[number], 1))
            assert (first is None) == (second is None)
            if first is not None and second is not None:
                assert (Counter(first.added), Counter(first.removed)) == (
                    Counter(second.removed), Counter(second.added)
                )  # fmt: skip
        units.append((standing.touched - before) / 200)
        assert Counter(standing.rows) == rows_before
    assert 1 <= units[0] <= 12
    assert max(units) <= units[0] * 1.2


def test_that_much_is_sorted_at_once_and_little_is_not() -> None:
    meter = Meter()
    ordered = Ranking(lambda item: item, meter)
    ordered.update([], list(range(10_000)))
    assert meter.units == 10_000
    ordered.update([17], [18])
    assert meter.units == 10_002
    with pytest.raises(KeyError):
        ordered.remove(17)
    with pytest.raises(KeyError):
        ordered.update(list(range(17, 5_000)), [])


def test_a_window_tells_only_what_enters_and_leaves_it() -> None:
    rows: list[Row] = [(number, 0) for number in range(100, 5_100, 10)]
    standing = standing_of(f"?a {WHERE} :order-by [?a] :limit 3 :offset 2", [row[:1] for row in rows])
    assert standing.rows == [(120,), (130,), (140,)]
    assert change(standing, ((4_000,), -1)) is None
    assert change(standing, ((150,), -1)) is None
    assert change(standing, ((125,), 1)) == Rows([(125,)], [(140,)])
    assert change(standing, ((1,), 1)) == Rows([(110,)], [(130,)])
    assert change(standing, ((125,), -1), ((126,), 1)) == Rows([(126,)], [(125,)])
    assert standing.rows == [(110,), (120,), (126,)]
    assert change(standing, ((100,), -1), ((2,), 1)) is None
    assert change(standing, *[((number,), -1) for number in (1, 2, 110)]) == Rows(
        [(130,), (140,), (160,)], [(110,), (120,), (126,)]
    )


def test_what_comes_and_goes_in_one_commit_is_nothing() -> None:
    for find in ("?a", "(count ?a)", f"?a {WHERE} :order-by [?a] :limit 5"):
        standing = standing_of(find, [(1,), (2,)])
        assert change(standing, ((3,), 1), ((3,), -1)) is None
        assert change(standing, ((2,), -1), ((2,), 1)) is None
        assert change(standing) is None


def test_a_row_that_comes_again_may_be_the_float() -> None:
    large = 2**60 + 1
    standing = standing_of("(sum ?a)", [(large,), (2,)])
    assert standing.rows == [(large + 2,)]
    assert change(standing, ((2,), -1), ((2.0,), 1)) == Rows([(float(large + 2),)], [(large + 2,)])
    assert change(standing, ((2,), -1)) == Rows([(large,)], [(float(large + 2),)])


@pytest.mark.parametrize("end", ["", ":limit 3", ":order-by [sum_a]"])
def test_rows_show_the_float_that_came_for_an_integer(end: str) -> None:
    standing = standing_of(f"(sum ?a) {WHERE} {end}", [(2,)])
    assert repr(standing.rows) == "[(2,)]"
    assert change(standing, ((2,), -1), ((2.0,), 1)) is None
    assert repr(standing.rows) == "[(2.0,)]"


def test_nothing_remains_of_a_number_that_went() -> None:
    standing = standing_of(
        "(sum ?a) (avg ?a) (variance ?a) (stddev ?a) :with ?b", [(*[n] * 4, 0) for n in (1, 2, 4)]
    )
    seven = standing.rows
    assert seven == [(7, 7 / 3, 14 / 9, math.sqrt(14 / 9))]
    for number in (1e308, 5e-324, -1e-300, 0.1):
        assert change(standing, ((*[number] * 4, 2), 1)) is not None
        assert change(standing, ((*[number] * 4, 2), -1)) is not None
        assert list(map(exactly, standing.rows)) == list(map(exactly, seven))


@pytest.mark.parametrize("seed", range(20))
def test_the_variance_is_rounded_once(seed: int) -> None:
    rng = random.Random(seed)
    numbers = [a_float(rng) / 2**520 for _ in range(rng.randint(1, 40))] + [rng.randrange(2**62)] * (seed % 2)
    rows: list[Row] = list(enumerate(numbers))
    query = parse(f"[:find (variance ?b) :with ?a {WHERE}]")
    mean = sum(map(Fraction, numbers)) / len(numbers)
    exact = sum((Fraction(number) - mean) ** 2 for number in numbers) / len(numbers)
    found = fresh(query, {}, [(number, index) for index, number in rows]).rows
    assert found == [(float(exact),)]
    assert standing_of("(variance ?b) :with ?a", [(number, index) for index, number in rows]).rows == found


def test_skipped_values_are_counted_while_they_are_there() -> None:
    x, true, two = ((*[value] * 3, 0) for value in ("x", TRUE, 2))
    standing = standing_of("(sum ?a) (avg ?a) (count ?a) :with ?b", [x, true, two])
    assert (standing.rows, standing.skipped) == ([(2, 2, 3)], {"sum_a": 2, "avg_a": 2})
    assert change(standing, (two, -1)) == Rows([], [(2, 2, 3)])
    assert change(standing, (x, -1)) is None
    assert standing.skipped == {"sum_a": 1, "avg_a": 1}
    change(standing, (true, -1))
    assert (standing.rows, standing.skipped) == ([], {})


def test_what_is_the_same_outside_is_no_change() -> None:
    standing = standing_of("?a", [(range(2),), (FALSE,)])
    assert standing.rows == [((0, 1),), (False,)]
    assert change(standing, ((range(2),), -1), (((0, 1),), 1)) is None
    assert repr(change(standing, ((FALSE,), -1), ((0,), 1))) == repr(Rows([(0,)], [(False,)]))


def test_an_aggregate_that_fails_leaves_the_old_answer() -> None:
    def careful(values: list[Any]) -> Any:
        if 13 in values:
            raise ZeroDivisionError("mine")
        return sum(values)

    standing = standing_of("?a (aggregate ?g ?b) :in ?g", [("x", 1), ("y", 2)], {"?g": careful})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="mine"):
            change(standing, *([(("x", 13), 1), (("y", 3), 1)] if _ == 0 else []))
        assert standing.rows == [("x", 1), ("y", 2)]
    assert change(standing, (("x", 13), -1)) == Rows([("y", 5)], [("y", 2)])


def test_only_the_changed_groups_are_asked() -> None:
    asked: list[int] = []

    def size(values: list[Any]) -> int:
        asked.append(len(values))
        return len(values)

    standing = standing_of("?a (aggregate ?g ?b) :in ?g", [(n % 10, n) for n in range(1_000)], {"?g": size})
    asked.clear()
    assert change(standing, ((3, 1_003), 1)) == Rows([(3, 101)], [(3, 100)])
    assert asked == [101]


def test_arguments_are_checked_at_once() -> None:
    with pytest.raises(QueryError, match="not a number of values"):
        standing_of(f"(min ?n ?a) :in ?n {WHERE}", [], {"?n": "2"})
    with pytest.raises(QueryError, match="is no function"):
        standing_of(f"(aggregate ?n ?a) :in ?n {WHERE}", [], {"?n": 2})


def test_what_is_looked_up_is_refused() -> None:
    with pytest.raises(ValueError, match="pull"):
        standing_of("(pull ?a [*])", [])


def test_a_plain_query_keeps_no_rows_if_they_are_held() -> None:
    held: dict[Row, int] = {}
    standing = Standing(parse(f"[:find ?a :with ?b {WHERE}]"), {}, held)
    for number in range(1_000):
        held[number % 2, number] = 1
        standing.apply((number % 2, number), 1)
    standing.settle()
    assert Counter(standing.rows) == {(0,): 500, (1,): 500}
    assert not any(len(getattr(standing, name)) for name in ("_owned", "_pending", "_back"))
