"""All triples of a store as they were at one moment, in order, and how their fields hold them.

A *holding* says what a value is in its field: `SINGLE`, the only one; `MEMBER`, one of a set (if of one); `COUNT`, the
total of a counter. Invariants: the order is that of subjects, predicates, values, so that equal triples give equal
inventories wherever they were written; nothing that is written later is seen; of the store no value is copied, only
the columns that point at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from typing import Any

from tripleweb.cells import Cell
from tripleweb.store import Store
from tripleweb.tables import Column
from tripleweb.terms import Value, kind, same
from tripleweb.view import ABSENT

SINGLE, MEMBER, COUNT = "single", "set", "counter"

Row = tuple[str, str, Value, str]  # subject, predicate, value, holding
_Several = dict[int, list[tuple[Value, str]]]
_Predicates = list[tuple[str, list[Any], _Several]]


class Inventory:
    """Taken while nobody writes (with a session's lock held); gone through whenever one likes.

    >>> from tripleweb.change import Change
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/name", "", "Ada", 1, "a")])
    >>> list(Inventory(store))
    [('ada', 'user/name', 'Ada', 'single')]
    """

    def __init__(self, store: Store) -> None:
        self._names = store.names  # grows at its end only
        tables: dict[int, tuple[Any, _Predicates]] = {}
        self.count = 0
        for predicate in store.predicates():
            table, column = store.column(predicate)
            several = {row: _held(column, row, cell) for row, cell in column.cells.items() if cell.visible}
            _, predicates = tables.setdefault(id(table), (table.entities[:], []))
            predicates.append((predicate, column.values.copy(), several))
            self.count += column.live
        self._tables = list(tables.values())

    def __iter__(self) -> Iterator[Row]:
        streams = [self._entities(number) for number in range(len(self._tables))]
        if len(streams) == 1:
            for subject, number, row in streams[0]:
                yield from self._rows(subject, number, row)
            return
        for subject, places in groupby(merge(*streams), key=lambda place: place[0]):
            found = [held for _, number, row in places for held in self._rows(subject, number, row)]
            found.sort(key=lambda held: held[1])  # the values of a predicate are together, and in order
            yield from found

    def _entities(self, number: int) -> Iterator[tuple[str, int, int]]:
        """The entities of one kind, sorted: (id, number of the kind, row)."""
        names, entities = self._names, self._tables[number][0]
        for row in sorted(range(len(entities)), key=lambda row: names[entities[row]]):
            yield names[entities[row]], number, row

    def _rows(self, subject: str, number: int, row: int) -> Iterator[Row]:
        for predicate, values, several in self._tables[number][1]:
            if row < len(values):
                value = values[row]
                if value is not ABSENT:
                    yield subject, predicate, value, SINGLE
                elif row in several:
                    for value, holding in several[row]:
                        yield subject, predicate, value, holding


def _held(column: Column, row: int, cell: Cell) -> list[tuple[Value, str]]:
    """What a field shows that ever held more than a single value."""
    counts = cell.shares is not None and any(value is not None for value, _, _ in cell.shares.values())
    if counts:
        return [(value, COUNT if kind(value) == "n" else MEMBER) for value in cell.visible]
    if len(cell.visible) == 1 and cell.single is not ABSENT and same(cell.single, cell.visible[0]):
        return [(cell.visible[0], SINGLE)]  # what was assigned hides everything older
    return [(value, MEMBER) for value in cell.visible]
