"""Relations as columns of codes: what a query was given as an input, and what recursive rules derive.

A `Tuples` holds distinct tuples; `put` adds those that are new and says which they were, so a fixpoint is a loop over
what came last (semi-naive evaluation). Tuples are told apart by one integer each, into which their codes are packed.
Invariant: codes are smaller than the `size` that is given with them, which may grow from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tripleweb.datalog.vectorised.mirrors import Array

WIDTH_BITS = 62  # of a packed tuple
FEW = 1_000  # codes are sorted in the time in which a table of places is made for them: measured


class Tuples:
    """Distinct tuples of one width."""

    def __init__(self, width: int) -> None:
        self._columns: list[Array] = [np.empty(0, dtype=np.int64) for _ in range(width)]
        self._came: list[list[Array]] = []  # what is not among the columns yet, by `put`
        self._size = 0
        self._seen: Array | None = None  # of width 1: by code
        self._last: Array = np.empty(0, dtype=np.int64)
        self._packed: Array = np.empty(0, dtype=np.int64)  # sorted
        self._base = 0  # with which they were packed
        self._orders: dict[tuple[int, ...], tuple[Array, Array, int]] = {}

    def __len__(self) -> int:
        return self._size

    @property
    def columns(self) -> list[Array]:
        """Put together when somebody asks: not every time that a little came."""
        if self._came:
            self._columns = [np.concatenate(parts) for parts in zip(self._columns, *self._came, strict=True)]
            self._came = []
        return self._columns

    @classmethod
    def of(cls, columns: Sequence[Array]) -> Tuples:
        """Tuples that are known to be distinct, for reading."""
        made = cls(0)
        made._columns = list(columns)
        made._size = len(columns[0])
        return made

    def put(self, columns: Sequence[Array], size: int) -> Tuples:
        """Adds tuples, `size` being more than any code; returns those that were not there, once each."""
        if len(columns) == 1:
            fresh = [self._new_codes(columns[0], size)]
        else:
            fresh = self._new_tuples(columns, size)
        if len(fresh[0]):
            self._came.append(fresh)
            self._size += len(fresh[0])
            self._orders.clear()
        return Tuples.of(fresh)

    def _new_codes(self, codes: Array, size: int) -> Array:
        if self._seen is None or len(self._seen) < size:
            grown = np.zeros(size + size // 8, dtype=np.bool_)
            if self._seen is not None:
                grown[: len(self._seen)] = self._seen
            self._seen = grown
        fresh = codes[~self._seen[codes]]
        if 1 < len(fresh) < FEW:
            fresh.sort()
            other = fresh[1:] != fresh[:-1]
            if not other.all():
                fresh = fresh[np.concatenate(([True], other))]
        elif (
            len(fresh) > 1
        ):  # of equal ones the last stays: each writes its place, and looks whether it stands
            if len(self._last) < len(self._seen):
                self._last = np.empty(len(self._seen), dtype=np.int64)
            places = np.arange(len(fresh))
            self._last[fresh] = places
            fresh = fresh[self._last[fresh] == places]
        self._seen[fresh] = True
        return fresh

    def _new_tuples(self, columns: Sequence[Array], size: int) -> list[Array]:
        if size > self._base:
            self._base = size + size // 8
            self._packed = np.sort(packed(self.columns, self._base)) if len(self) else self._packed
        if self._base ** len(columns) >= 1 << WIDTH_BITS:
            return self._new_wide(columns)
        codes = packed(columns, self._base)
        codes.sort()  # quicker than `unique`, which hashes
        if len(codes) > 1:
            codes = codes[np.concatenate(([True], codes[1:] != codes[:-1]))]
        if len(self._packed):
            at = np.searchsorted(self._packed, codes)
            at[at == len(self._packed)] = 0
            codes = codes[self._packed[at] != codes]
        if len(codes):
            merged = np.concatenate((self._packed, codes))
            merged.sort(kind="stable")  # two runs, which are merged
            self._packed = merged
        out = []
        for _ in columns:
            codes, last = np.divmod(codes, self._base)
            out.append(last)
        return out[::-1]

    def _new_wide(self, columns: Sequence[Array]) -> list[Array]:
        """Tuples that do not go into one integer."""
        old = len(self)
        known, given = ranked(self.columns, columns)
        _, first = np.unique(np.concatenate((known, given)), return_index=True)
        fresh = np.sort(first[first >= old]) - old
        return [column[fresh] for column in columns]

    def contains(self, keys: Sequence[Array]) -> Array:
        """Which of these tuples are among them."""
        if len(keys) == 1:
            if self._seen is None:
                self._seen = np.zeros(int(self.columns[0].max(initial=-1)) + 1, dtype=np.bool_)
                self._seen[self.columns[0]] = True
            seen, asked = self._seen, keys[0]
            inside = asked < len(seen)
            found: Array = seen[asked] if inside.all() else inside & seen[np.where(inside, asked, 0)]
            return found
        places = tuple(range(len(self.columns)))
        index, _ = self.joined(places, keys, lambda rows: None)
        found = np.zeros(len(keys[0]), dtype=np.bool_)
        found[index] = True
        return found

    def joined(
        self, places: Sequence[int], keys: Sequence[Array], touch: Callable[[int], None]
    ) -> tuple[Array, Array]:
        """(places among the keys, places of tuples that have these codes at `places`), all pairs of them."""
        mine = [self.columns[place] for place in places]
        base = 1 + max([0, *(int(column.max()) for column in (*keys, *mine) if len(column))])
        held = self._orders.get(tuple(places))
        if base ** len(places) >= 1 << WIDTH_BITS:
            codes, asked = ranked(mine, keys)
            order = np.argsort(codes, kind="stable")
            in_order = codes[order]
        else:
            if held is None or held[2] < base:
                codes = packed(mine, base)
                order = np.argsort(codes, kind="stable")
                held = self._orders[tuple(places)] = codes[order], order, base
            in_order, order, base = held
            asked = packed(keys, base)
        first = np.searchsorted(in_order, asked, "left")
        counts = np.searchsorted(in_order, asked, "right") - first
        total = int(counts.sum())
        touch(total)
        index = np.repeat(np.arange(len(asked)), counts)
        found = order[np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
        return index, found


def packed(columns: Sequence[Array], base: int) -> Array:
    """Tuples of codes below `base` as one integer each."""
    out = columns[0].astype(np.int64)
    for column in columns[1:]:
        out = out * base + column
    return out


def ranked(some: Sequence[Array], others: Sequence[Array]) -> tuple[Array, Array]:
    """Tuples of two lists as small integers, which are equal where the tuples are."""
    size = len(some[0])
    codes = np.zeros(size + len(others[0]), dtype=np.int64)
    for one, other in zip(some, others, strict=True):
        _, ranks = np.unique(np.concatenate((one, other)), return_inverse=True)
        _, codes = np.unique(codes * (int(ranks.max(initial=0)) + 1) + ranks, return_inverse=True)
    return codes[:size], codes[size:]
