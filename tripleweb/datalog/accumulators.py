"""Accumulators: what a group of rows keeps of its values, so that its aggregates follow them one by one.

An accumulator takes a value that came (`add` with 1) or went (with -1) and is read when a commit ends. Several
aggregates of one variable share one. Invariants: what is read is bit for bit what the function in `aggregates` gives
for the values that are there; no more is kept than the aggregate needs; numbers are summed up exactly, so that
nothing remains of a value that went.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

from tripleweb.datalog.aggregates import draw, mean, middle, plain, rank, spread
from tripleweb.datalog.ranking import Meter, Ranking, ascending


class Accumulator(Protocol):
    def add(self, value: Any, sign: int) -> None:
        """A value came (1) or went (-1)."""


class Total:
    """The exact sum of numbers: `total` / 2**`unit`, with the unit that the finest of them needed."""

    __slots__ = ("count", "floats", "total", "unit")

    def __init__(self, _: Meter) -> None:
        self.count = self.floats = self.total = self.unit = 0

    def add(self, value: Any, sign: int) -> None:
        self.count += sign
        if type(value) is int:
            units = value << self.unit if self.unit else value
        else:
            self.floats += sign
            units = self._units(value)
        if sign > 0:
            self.total += units
        else:
            self.total -= units
            if self.unit and not self.floats:
                self._scale(0)

    def _units(self, value: float) -> int:
        top, bottom = value.as_integer_ratio()
        unit = bottom.bit_length() - 1
        if unit > self.unit:
            self._scale(unit)
            return top
        return top << (self.unit - unit)

    def _scale(self, unit: int) -> None:
        self.total = (
            self.total << (unit - self.unit) if unit > self.unit else self.total >> (self.unit - unit)
        )
        self.unit = unit

    def sum(self) -> Any:
        return plain(self.total, self.unit, not self.floats) if self.count else None

    def average(self) -> float | None:
        return mean(self.total, self.unit, self.count) if self.count else None


class Moments(Total):
    """Beside the sum that of the squares: `squares` / 4**`unit`."""

    __slots__ = ("squares",)

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter)
        self.squares = 0

    def add(self, value: Any, sign: int) -> None:
        units = self._units(value) if type(value) is float else value << self.unit
        self.squares += units * units if sign > 0 else -units * units
        super().add(value, sign)

    def _scale(self, unit: int) -> None:
        shift = 2 * (unit - self.unit)
        self.squares = self.squares << shift if shift > 0 else self.squares >> -shift
        super()._scale(unit)

    def variance(self) -> float | None:
        return spread(self.count, self.total, self.squares, self.unit) if self.count else None

    def deviation(self) -> float | None:
        variance = self.variance()
        return None if variance is None else math.sqrt(variance)


class Bag:
    """How often each value is there."""

    __slots__ = ("counts", "meter")

    def __init__(self, meter: Meter) -> None:
        self.counts: dict[Any, int] = {}
        self.meter = meter

    def add(self, value: Any, sign: int) -> None:
        total = self.counts.get(value, 0) + sign
        if total:
            self.counts[value] = total
            if total == sign == 1:
                self.came(value)
        else:
            del self.counts[value]
            self.went(value)

    def came(self, value: Any) -> None:
        """The first of its kind."""

    def went(self, value: Any) -> None:
        """The last of its kind."""

    def distinct(self) -> int:
        return len(self.counts)


class Distinct(Bag):
    """Every value once, ranked; put in order when it is looked at."""

    __slots__ = ("_changes", "_ranking")

    def __init__(self, meter: Meter) -> None:
        super().__init__(meter)
        self._ranking = Ranking(self.key(), meter)
        self._changes: dict[Any, int] = {}

    def key(self) -> Callable[[Any], Any]:
        return ascending

    def item(self, value: Any) -> Any:
        """What stands for a value in the ranking."""
        return value

    def came(self, value: Any) -> None:
        if not self._changes.pop(value, 0):
            self._changes[value] = 1

    def went(self, value: Any) -> None:
        if not self._changes.pop(value, 0):
            self._changes[value] = -1

    def ranking(self) -> Ranking:
        if self._changes:
            removed = [self.item(value) for value, sign in self._changes.items() if sign < 0]
            added = [self.item(value) for value, sign in self._changes.items() if sign > 0]
            self._changes.clear()
            self._ranking.update(removed, added)
        return self._ranking

    def all(self) -> Any:
        return tuple(self.ranking())


class Drawn(Distinct):
    """Every value once, shuffled by its hash, which is kept beside it."""

    __slots__ = ()

    def key(self) -> Callable[[Any], Any]:
        return itemgetter(0)

    def item(self, value: Any) -> Any:
        self.meter.units += 1
        return draw(value), value

    def one(self) -> Any:
        return self.ranking()[0][1]

    def sample(self, n: int) -> Any:
        """The first n; a value that is there several times may be drawn several times."""
        drawn: list[Any] = []
        for _, value in self.ranking().part(0, n):
            drawn += [value] * min(self.counts[value], n - len(drawn))
        return tuple(drawn)


class Draws(Bag):
    """For each of n shuffles the value that comes first."""

    __slots__ = ("_firsts",)

    def __init__(self, meter: Meter, n: int) -> None:
        super().__init__(meter)
        self._firsts: list[tuple[bytes, Any] | None] = [None] * n  # None: to be looked for among all values

    def came(self, value: Any) -> None:
        if len(self.counts) == 1:
            self._firsts = [(draw(value, salt), value) for salt in range(len(self._firsts))]
            return
        self.meter.units += len(self._firsts)
        for salt, first in enumerate(self._firsts):
            if first is not None and (drawn := draw(value, salt)) < first[0]:
                self._firsts[salt] = drawn, value

    def went(self, value: Any) -> None:
        self._firsts = [None if first is None or first[1] == value else first for first in self._firsts]

    def all(self) -> Any:
        for salt, first in enumerate(self._firsts):
            if first is None:
                self.meter.units += len(self.counts)
                self._firsts[salt] = min(
                    ((draw(value, salt), value) for value in self.counts), key=itemgetter(0)
                )
        return tuple([first[1] for first in self._firsts if first is not None])


class Ranked:
    """Every value as often as it is there, ranked; put in order when it is looked at."""

    __slots__ = ("_added", "_ranking", "_removed", "meter")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._ranking = Ranking(_rank, meter)
        self._added: list[Any] = []
        self._removed: list[Any] = []

    def add(self, value: Any, sign: int) -> None:
        (self._added if sign > 0 else self._removed).append(value)

    def ranking(self) -> Ranking:
        if self._added or self._removed:
            removed, added = self._removed, self._added
            self._removed, self._added = [], []
            if added:
                self._ranking.update([], added)
            if removed:  # perhaps what just came
                self._ranking.update(removed, [])
        return self._ranking

    def least(self) -> Any:
        return self.ranking()[0]

    def most(self) -> Any:
        return self.ranking().last()

    def first(self, n: int) -> Any:
        return tuple(self.ranking().part(0, n))

    def end(self, n: int) -> Any:
        ranking = self.ranking()
        return tuple(ranking.part(max(0, ranking.size - n), None))

    def median(self) -> Any:
        ranking = self.ranking()
        if not ranking.size:
            return None
        half = ranking.size // 2
        if ranking.size % 2:
            return middle(ranking[half], ranking[half])
        low, high = ranking.part(half - 1, half + 1)
        return middle(low, high)

    def list(self) -> list[Any]:
        values = list(self.ranking())
        self.meter.units += len(values)
        return values


def _rank(value: Any) -> tuple[Any, ...]:
    """`aggregates.rank`, quickly."""
    return (1, value) if type(value) is int else rank(value)


@dataclass(frozen=True, slots=True)
class Kept:
    """How an aggregate is kept: the accumulator that is made for each group, and what is read of it.

    `read` gets the accumulator and the arguments of the aggregate.
    """

    accumulator: Callable[..., Accumulator]
    read: Callable[..., Any]
    takes_arguments: bool = False  # the accumulator itself depends on them


def kept(name: str, arguments: int) -> Kept | None:
    """How the aggregate of this name with so many arguments is kept; None for `count`: it is the size of the group."""
    return _KEPT[name, arguments]


CUSTOM = Kept(Ranked, Ranked.list)

_KEPT: dict[tuple[str, int], Kept | None] = {
    ("count", 0): None,
    ("count-distinct", 0): Kept(Bag, Bag.distinct),
    ("distinct", 0): Kept(Distinct, Distinct.all),
    ("sum", 0): Kept(Total, Total.sum),
    ("avg", 0): Kept(Total, Total.average),
    ("median", 0): Kept(Ranked, Ranked.median),
    ("variance", 0): Kept(Moments, Moments.variance),
    ("stddev", 0): Kept(Moments, Moments.deviation),
    ("min", 0): Kept(Ranked, Ranked.least),
    ("min", 1): Kept(Ranked, Ranked.first),
    ("max", 0): Kept(Ranked, Ranked.most),
    ("max", 1): Kept(Ranked, Ranked.end),
    ("rand", 0): Kept(Drawn, Drawn.one),
    ("rand", 1): Kept(Draws, Draws.all, takes_arguments=True),
    ("sample", 1): Kept(Drawn, Drawn.sample),
}
