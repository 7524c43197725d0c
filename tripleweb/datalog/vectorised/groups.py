"""Aggregates over columns. What arrays cannot say exactly is left to `answer`: floats that are averaged, medians, kinds
that mix. Invariant: a result is the one that `aggregates` gives for the same rows, as a number equal to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import numpy as np

from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.query import Aggregate, Query
from tripleweb.datalog.vectorised.columns import Column, codes_in, column_of, pressed
from tripleweb.datalog.vectorised.mirrors import EXACT, Array
from tripleweb.datalog.vectorised.vectors import Vector, numeric

SPAN = 4  # groups are counted in an array of all keys where these are no more than so many times the rows


def grouped(query: Query, vectors: Sequence[Vector], size: int) -> list[Column] | None:
    """The columns of a query's find for distinct rows of its find and with; None where they cannot be made here."""
    keys: list[Array] = []
    for vector, element in zip(vectors, query.find, strict=False):
        if isinstance(element, Variable):
            keys.append(keys_of(vector))
        elif (
            not isinstance(element, Aggregate)
            or element.arguments
            or not isinstance(element.function, str)
            or element.function not in _FOLDS
        ):
            return None
    if not size:
        return None
    groups = Groups(keys, size)
    out: list[Column] = []
    for vector, element in zip(vectors, query.find, strict=False):
        if isinstance(element, Aggregate):
            made = _FOLDS[str(element.function)](groups, vector)
            if made is None:
                return None
            out.append(made)
        else:
            out.append(column_of(vector.take(groups.first, {})))
    return out


def keys_of(vector: Vector) -> Array:
    """Integers that are equal where the values are."""
    whole = codes_in(vector, len(vector))
    if whole is not None:
        return whole
    codes: dict[Any, int] = {}
    held = vector.inward().tolist()
    return np.fromiter([codes.setdefault(value, len(codes)) for value in held], np.int64, len(held))


class Groups:
    """Rows by their keys: `of` (the group of each row), `first` (a row of each group), `counts`."""

    def __init__(self, keys: Sequence[Array], size: int) -> None:
        codes = pressed(keys, size)
        low = int(codes.min())
        span = int(codes.max()) - low + 1
        if span <= SPAN * size + 1024:
            codes = codes - low if low else codes
            counts = np.bincount(codes, minlength=span)
            there = np.flatnonzero(counts)
            if len(there) < span:
                rank = np.empty(span, dtype=np.int64)
                rank[there] = np.arange(len(there))
                codes = rank[codes]
            self.of, self.counts = codes, counts[there]
            self.first = np.empty(len(there), dtype=np.int64)
            self.first[codes[::-1]] = np.arange(size - 1, -1, -1)
        else:
            _, self.first, self.of, self.counts = np.unique(
                codes, return_index=True, return_inverse=True, return_counts=True
            )
        self._order: Array | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def starts(self) -> Array:
        """Where the rows of each group begin in `order`."""
        found: Array = np.cumsum(self.counts) - self.counts
        return found

    @property
    def order(self) -> Array:
        if self._order is None:
            self._order = np.argsort(self.of, kind="stable")
        return self._order


def _numbers(vector: Vector) -> tuple[str, Array]:
    """("n" for integers, "f" for floats, "" for others; the array)."""
    found = numeric(vector)
    if not isinstance(found, np.ndarray):
        return "", np.empty(0)
    return "n" if found.dtype.kind == "i" else "f", found


def _count(groups: Groups, vector: Vector) -> Column:
    return Column("n", groups.counts)


def _totals(groups: Groups, values: Array) -> Array | None:
    """Exact sums of integers; None if they might not go into the floats that they are added in."""
    most = max(abs(int(values.max())), abs(int(values.min())))
    if most * int(groups.counts.max()) >= EXACT:
        return None
    return np.bincount(groups.of, weights=values, minlength=len(groups)).astype(np.int64)


def _sum(groups: Groups, vector: Vector) -> Column | None:
    letter, values = _numbers(vector)
    if letter == "n":
        totals = _totals(groups, values)
        return None if totals is None else Column("n", totals)
    if letter == "f":
        parts = np.split(values[groups.order], groups.starts[1:])
        try:
            return Column("f", np.fromiter(map(fsum, parts), np.float64, len(groups)))
        except OverflowError:
            return None
    return None


def _average(groups: Groups, vector: Vector) -> Column | None:
    letter, values = _numbers(vector)
    totals = _totals(groups, values) if letter == "n" else None
    if totals is None:
        return None
    return Column("f", totals / groups.counts)


def _least(groups: Groups, vector: Vector) -> Column | None:
    return _extreme(groups, vector, np.minimum)


def _most(groups: Groups, vector: Vector) -> Column | None:
    return _extreme(groups, vector, np.maximum)


def _extreme(groups: Groups, vector: Vector, pick: np.ufunc) -> Column | None:
    letter, values = _numbers(vector)
    return Column(letter, pick.reduceat(values[groups.order], groups.starts)) if letter else None


def _count_distinct(groups: Groups, vector: Vector) -> Column:
    values = keys_of(vector)
    pairs = np.unique(pressed([groups.of, values], len(values)), return_index=True)[1]
    return Column("n", np.bincount(groups.of[pairs], minlength=len(groups)))


_FOLDS = {
    "count": _count,
    "sum": _sum,
    "avg": _average,
    "min": _least,
    "max": _most,
    "count-distinct": _count_distinct,
}
