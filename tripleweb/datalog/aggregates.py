"""Aggregates: many values to one, in slices.

An aggregate is a generator: it yields the units of work done and returns its result, None where there is no value.
Invariants: the result does not depend on the order of the values, so that replicas agree; sums of floats are exact
before they are rounded, once; means, medians, variances and deviations are floats, whole or not; `rand` and `sample`
choose by a hash of the values, so that the same data is drawn the same everywhere and a live frame holds still.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from tripleweb.datalog.builtins import SLICE, chunks, fit, is_stored, order, outward
from tripleweb.datalog.edn import show_value
from tripleweb.terms import INT_MAX, INT_MIN, slot

Work = Generator[int, None, Any]

_UNIT = 1074  # every finite float is a whole number of 2**-1074


def _exact(numbers: Sequence[Any]) -> Generator[int, None, tuple[int, bool]]:
    """The exact sum in units of 2**-1074, and whether all were integers: no order of adding changes it."""
    total, whole = 0, True
    for part in chunks(numbers):
        integers = sum(n for n in part if type(n) is int)
        for n in part:
            if type(n) is float:
                top, bottom = n.as_integer_ratio()
                total += top << (_UNIT + 1 - bottom.bit_length())
                whole = False
        total += integers << _UNIT
        yield len(part)
    return total, whole


def plain(total: int, unit: int, whole: bool) -> Any:
    """The sum total / 2**unit as a number: an integer where all numbers were `whole`; no value beyond the floats."""
    if whole and INT_MIN <= total >> unit <= INT_MAX:
        return total >> unit
    return mean(total, unit, 1)


def mean(total: int, unit: int, count: int) -> float | None:
    """The float nearest to total / 2**unit / count; no value beyond the floats."""
    try:
        return total / (count << unit)
    except OverflowError:
        return None


def _sum(numbers: Sequence[Any]) -> Work:
    total, whole = yield from _exact(numbers)
    return plain(total, _UNIT, whole)


def _average(numbers: Sequence[Any]) -> Work:
    total, _ = yield from _exact(numbers)
    return mean(total, _UNIT, len(numbers))


def spread(count: int, total: int, squares: int, unit: int) -> float | None:
    """The variance of `count` numbers, rounded once: their sum is total / 2**unit, that of their squares
    squares / 4**unit.
    """
    try:
        return (count * squares - total * total) / (count * count << 2 * unit)
    except OverflowError:
        return None


def _variance(numbers: Sequence[Any]) -> Work:
    unit = 0
    for part in chunks(numbers):
        bottoms = [n.as_integer_ratio()[1] for n in part if type(n) is float]
        unit = max(unit, max(bottoms, default=1).bit_length() - 1)
        yield len(part)
    total = squares = 0
    for part in chunks(numbers):
        for n in part:
            top, bottom = n.as_integer_ratio()
            units = top << (unit + 1 - bottom.bit_length())
            total += units
            squares += units * units
        yield len(part)
    return spread(len(numbers), total, squares, unit)


def _deviation(numbers: Sequence[Any]) -> Work:
    variance = yield from _variance(numbers)
    return None if variance is None else math.sqrt(variance)


def _median(numbers: Sequence[Any]) -> Work:
    integers_first = [n for n in numbers if type(n) is int] + [n for n in numbers if type(n) is float]
    ranked = yield from sort_slices(integers_first, lambda n: n)
    half = len(ranked) // 2
    return middle(ranked[half - 1 + len(ranked) % 2], ranked[half])


def middle(low: Any, high: Any) -> Any:
    """The float half-way between two numbers that are equal or neighbours; no value beyond the floats."""
    return fit((low + high) / 2) if low != high else float(low)


def rank(value: Any) -> tuple[Any, ...]:
    """`order`, and of two equal numbers the integer first: the same whichever came first."""
    return (1, value, True) if type(value) is float else order(value)


def sort_slices(
    values: Sequence[Any], key: Callable[[Any], Any], descending: bool = False, part: int | None = None
) -> Work:
    """`sorted(values, key=key, reverse=descending)` in slices of `part` values; equal values stay in order."""
    part = part or SLICE // 2
    runs = []
    for some in chunks(values, part):
        runs.append(sorted(some, key=key, reverse=descending))
        yield len(some)
    if len(runs) < 2:
        return runs[0] if runs else []
    ranked: list[Any] = []
    for some in chunks(heapq.merge(*runs, key=key, reverse=descending), part):
        ranked += some
        yield len(some)
    return ranked


def _extreme(pick: Callable[..., Any]) -> Callable[..., Work]:
    def one_or_n(values: Sequence[Any], n: int | None = None) -> Work:
        if n is not None:
            ranked = yield from sort_slices(values, rank)
            return tuple(ranked[:n] if pick is min else ranked[max(0, len(ranked) - n) :])
        best: list[Any] = []
        for part in chunks(values):
            best = [pick(best + part, key=rank)]
            yield len(part)
        return best[0]

    return one_or_n


def _count_distinct(values: Sequence[Any]) -> Work:
    seen: dict[Any, None] = {}
    for part in chunks(values):
        seen.update(dict.fromkeys(part))
        yield len(part)
    return len(seen)


def _distinct(values: Sequence[Any]) -> Work:
    seen: dict[Any, None] = {}
    for part in chunks(values):
        seen.update(dict.fromkeys(part))
        yield len(part)
    return tuple((yield from sort_slices(list(seen), order)))


def draw(value: Any, salt: int = 0) -> bytes:
    """A place in a shuffle that every replica agrees on; equal values have the same."""
    return blake2b(
        _name(outward(value)).encode("utf-8", "surrogatepass"), digest_size=8, salt=salt.to_bytes(8, "big")
    ).digest()


def _name(shown: Any) -> str:
    if type(shown) is tuple:
        return f"[{' '.join(map(_name, shown))}]"
    return slot(shown) if type(shown) is bool or is_stored(shown) else show_value(shown)


def _shuffled(values: Sequence[Any], salt: int) -> Work:
    drawn: list[tuple[bytes, int]] = []
    for part in chunks(values):
        drawn += [(draw(value, salt), len(drawn) + index) for index, value in enumerate(part)]
        yield len(part)
    return drawn


def _sample(values: Sequence[Any], n: int) -> Work:
    drawn = yield from sort_slices((yield from _shuffled(values, 0)), lambda drawn: drawn)
    return tuple(values[index] for _, index in drawn[:n])


def _rand(values: Sequence[Any], n: int | None = None) -> Work:
    picked = []
    for salt in range(1 if n is None else n):
        picked.append(values[min((yield from _shuffled(values, salt)))[1]])
    return picked[0] if n is None else tuple(picked)


def _size(values: Sequence[Any]) -> Work:
    yield 1
    return len(values)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`function(values)`, or `function(values, n)`; `arguments` are the numbers of arguments before the values.

    A numeric one gets numbers only. None as its result: there is no value.
    """

    function: Callable[..., Work]
    arguments: tuple[int, ...] = (0,)
    numeric: bool = False


AGGREGATES = {
    "count": Aggregate(_size),
    "count-distinct": Aggregate(_count_distinct),
    "distinct": Aggregate(_distinct),
    "sum": Aggregate(_sum, numeric=True),
    "avg": Aggregate(_average, numeric=True),
    "median": Aggregate(_median, numeric=True),
    "variance": Aggregate(_variance, numeric=True),
    "stddev": Aggregate(_deviation, numeric=True),
    "min": Aggregate(_extreme(min), (0, 1)),
    "max": Aggregate(_extreme(max), (0, 1)),
    "rand": Aggregate(_rand, (0, 1)),
    "sample": Aggregate(_sample, (1,)),
}
