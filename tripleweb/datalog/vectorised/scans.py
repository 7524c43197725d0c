"""Columns that have no mirror yet, looked at row by row: for the first queries, which arrays do not pay for.

A `Rent` says how long: once what was looked at has cost about as much as the mirror, it is made. Only text (ids,
references, strings) is searched for here. Invariant: what is found is what a mirror would find.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain, repeat
from typing import Any

from tripleweb.datalog.captured import CLASSES
from tripleweb.tables import Column
from tripleweb.terms import KINDS
from tripleweb.view import ABSENT

ONCE = 0.5  # of a mirror: the price of looking at a long column without one
LEAST, LONG = 0.1, 8_000  # the price for a short one, and the rows from which on it is long
MANY = 8  # a column of which more than one row in so many is found is better mirrored


class Rent:
    """What was paid so far for columns without mirrors, by predicate, in mirrors. It is not much: what was asked twice
    will be asked again."""

    def __init__(self) -> None:
        self._paid: dict[str, float] = {}

    def allows(self, column: Column, rows: float) -> bool:
        """True if so many rows of it may be looked for once more without a mirror."""
        price = max(LEAST, ONCE * min(1.0, len(column.values) / LONG))
        paid = self._paid.get(column.predicate, 0.0) + price
        self._paid[column.predicate] = paid
        return paid <= 1.0 and rows * MANY <= len(column.values)


def values_at(
    column: Column, rows: Sequence[int], kind: str | None
) -> tuple[list[int], list[Any], bool, bool]:
    """(places among the rows, the values that they show there, whether no row shows several, whether one may show a
    value and its equal). Rows of -1 are none."""
    values, several = column.values, column.several
    places: list[int] = []
    found: list[Any] = []
    single, repeats = True, False
    for place, row in enumerate(rows):
        if row < 0:
            continue
        value = values[row]
        if value is not ABSENT:
            places.append(place)
            found.append(value)
        else:
            more = several(row)
            if len(more) > 1:
                single, repeats = False, repeats or len(set(more)) < len(more)
            places += repeat(place, len(more))
            found += more
    if kind is not None and any(KINDS[type(value)] != kind for value in found):
        kept = [at for at, value in enumerate(found) if KINDS[type(value)] == kind]
        places, found = [places[at] for at in kept], [found[at] for at in kept]
    return places, found, single, repeats


def rows_among(
    column: Column, wanted: dict[str, list[int]], kind: str | None
) -> tuple[list[int], list[int], bool]:
    """(places, rows, whether one may come twice): every row that shows one of these texts, with each place that
    wants it; a row that shows a text and a reference to it comes with each."""
    values = column.values
    rows = [row for row, value in enumerate(values) if value in wanted]
    texts = [values[row] for row in rows]
    if column.cells and len(wanted) == 1:
        (one,) = wanted
        for row, cell in [(row, cell) for row, cell in column.cells.items() if one in cell.visible]:
            same = [value for value in cell.visible if value == one]
            rows += repeat(row, len(same))
            texts += same
    elif column.cells:
        visibles = [cell.visible for cell in column.cells.values()]
        ends, in_cells = list(accumulate(map(len, visibles))), list(column.cells)
        shown = list(chain.from_iterable(visibles))
        hits = [at for at, value in enumerate(shown) if value in wanted]
        rows += [in_cells[bisect_right(ends, at)] for at in hits]
        texts += [shown[at] for at in hits]
    if kind is not None:
        kept = [at for at, value in enumerate(texts) if KINDS[type(value)] == kind]
        rows, texts = [rows[at] for at in kept], [texts[at] for at in kept]
    places: list[int] = []
    out: list[int] = []
    for row, text in zip(rows, texts, strict=True):
        more = wanted[text]
        places += more
        out += repeat(row, len(more))
    return places, out, len(set(map(type, texts))) > 1


def places_shown(column: Column, wanted: dict[str, list[int]], kind: str | None) -> list[int]:
    """The places that want what some row shows."""
    cells = chain.from_iterable(cell.visible for cell in column.cells.values())
    if kind is None:
        there = {*column.values, *cells}
    else:
        cls = CLASSES.get(kind)
        there = {value for value in chain(column.values, cells) if value.__class__ is cls}
    return [place for text, places in wanted.items() if text in there for place in places]
