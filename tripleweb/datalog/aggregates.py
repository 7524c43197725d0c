"""Aggregates: many values to one, in slices.

An aggregate is a generator: it yields the units of work done and returns its result, None where there is no value.
Invariants: the result does not depend on the order of the values, so that replicas agree; sums of floats are exact
before they are rounded, once; `rand` and `sample` choose by a hash of the values, so that the same data is drawn the
same everywhere and a live frame holds still.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from tripleweb.datalog.builtins import SLICE, chunks, divide, fit, is_stored, order, outward
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


def _quotient_of(total: int, whole: bool, count: int) -> Any:
    """The nearest number to total / count; no value beyond the floats."""
    if whole and not (total >> _UNIT) % count and INT_MIN <= (total >> _UNIT) // count <= INT_MAX:
        return (total >> _UNIT) // count
    try:
        return total / (count << _UNIT)
    except OverflowError:
        return None


def _sum(numbers: Sequence[Any]) -> Work:
    return _quotient_of(*(yield from _exact(numbers)), 1)


def _average(numbers: Sequence[Any]) -> Work:
    return _quotient_of(*(yield from _exact(numbers)), len(numbers))


def _variance(numbers: Sequence[Any]) -> Work:
    mean = yield from _average(numbers)
    if mean is None:
        return None
    squares: list[float] = []
    for part in chunks(numbers):
        squares += [float((n - mean) * (n - mean)) for n in part]
        yield len(part)
    if not all(map(math.isfinite, squares)):
        return None
    return (yield from _average(squares))


def _deviation(numbers: Sequence[Any]) -> Work:
    variance = yield from _variance(numbers)
    return None if variance is None else math.sqrt(variance)


def _median(numbers: Sequence[Any]) -> Work:
    ranked = yield from sort_slices(numbers, lambda n: n)
    middle = len(ranked) // 2
    if len(ranked) % 2:
        return ranked[middle]
    return fit(divide(ranked[middle - 1] + ranked[middle], 2))


def sort_slices(values: Sequence[Any], key: Callable[[Any], Any], descending: bool = False) -> Work:
    """`sorted(values, key=key, reverse=descending)` in slices; equal values stay in order."""
    runs = []
    for part in chunks(values, SLICE // 2):
        runs.append(sorted(part, key=key, reverse=descending))
        yield len(part)
    if len(runs) < 2:
        return runs[0] if runs else []
    ranked: list[Any] = []
    for part in chunks(heapq.merge(*runs, key=key, reverse=descending), SLICE // 2):
        ranked += part
        yield len(part)
    return ranked


def _extreme(pick: Callable[..., Any]) -> Callable[..., Work]:
    def one_or_n(values: Sequence[Any], n: int | None = None) -> Work:
        if n is not None:
            ranked = yield from sort_slices(values, order)
            return tuple(ranked[:n] if pick is min else ranked[max(0, len(ranked) - n) :])
        best: list[Any] = []
        for part in chunks(values):
            best = [pick(best + part, key=order)]
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


def _draw(value: Any, salt: int) -> bytes:
    """A place in a shuffle that every replica agrees on: the same data is drawn the same everywhere."""
    shown = outward(value)
    name = slot(shown) if is_stored(value) else show_value(shown)
    return blake2b(
        name.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt.to_bytes(8, "big")
    ).digest()


def _shuffled(values: Sequence[Any], salt: int) -> Work:
    drawn: list[tuple[bytes, int]] = []
    for part in chunks(values):
        drawn += [(_draw(value, salt), len(drawn) + index) for index, value in enumerate(part)]
        yield len(part)
    return drawn


def _sample(values: Sequence[Any], n: int) -> Work:
    drawn = yield from sort_slices((yield from _shuffled(values, 0)), lambda draw: draw)
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
