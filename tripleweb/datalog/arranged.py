"""The rows of an answer that changes, numbered, in as many orders as somebody looks at.

An `Arranged` knows each row of an answer as an `Entry` with a number, which stays while the row's other cells change:
a row that goes and one that comes in the same step, alike in the columns that say what a row is about (`subjects`),
are one entry that changed. An `Arrangement` has the entries that a filter leaves in one order. Invariants: after `take`
and the `change` of each arrangement, each has exactly the entries that its filter leaves, sorted; orders are total, for
numbers break their ties; work is in proportion to the change and comes in slices where it grows with the answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tripleweb.datalog.aggregates import sort_slices
from tripleweb.datalog.builtins import chunks, inward, outward
from tripleweb.datalog.pull import mapped
from tripleweb.datalog.ranking import Meter, Ranking, row_order
from tripleweb.terms import Flag, Ref, date_text

Row = tuple[Any, ...]
Order = tuple[tuple[int, bool], ...]  # pairs (column, descending)
Keep = Callable[[Row], bool]
Ops = list[tuple[int, int]]  # (position, 1 for what came there and -1 for what went), one after the other
PART = 2_000  # entries in a slice
FEW = 200  # changes in one
DEAR = 10  # so many entries could be looked at while one is searched for,
KEYED = 5  # one is sorted,
TRIED = 3  # and one is put to a filter
_SINGLE = frozenset((str, int, float, Ref, Flag, datetime, type(None)))


class Tree:
    """A cell that is no single value, by its JSON text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is Tree and self.text == other.text

    def __hash__(self) -> int:
        return hash((Tree, self.text))

    def __str__(self) -> str:  # by which it is ordered
        return self.text

    def __repr__(self) -> str:
        return f"Tree({self.text!r})"


def cells_of(row: Row) -> Row:
    """A row of an answer, from inside of the engine or from outside, as it is arranged.

    >>> cells_of(("a", 1, None, True, {"b": [1]}))
    ('a', 1, None, true, Tree('{"b":[1]}'))
    """
    return row if _SINGLE.issuperset(map(type, row)) else tuple(map(_cell, row))


def _cell(cell: Any) -> Any:
    if type(cell) in _SINGLE:
        return cell
    if type(cell) is bool:
        return inward(cell)
    cell = outward(cell)
    if not isinstance(cell, dict | list | tuple):
        return cell
    tree = mapped(cell, lambda leaf: date_text(leaf) if isinstance(leaf, datetime) else leaf)
    return Tree(msgspec.json.encode(tree, order="sorted").decode())


def total_order(order_by: Iterable[tuple[int, bool]], width: int) -> Order:
    """An order whose ties are broken by all other columns.

    >>> total_order([(1, True)], 3)
    ((1, True), (0, False), (2, False))
    """
    columns: dict[int, bool] = {}
    for column, is_descending in (*order_by, *((column, False) for column in range(width))):
        columns.setdefault(column, is_descending)
    return tuple(columns.items())


class Entry:
    """A row with its number; another row of this number is another entry."""

    __slots__ = ("number", "row")

    def __init__(self, number: int, row: Row) -> None:
        self.number = number
        self.row = row


class Arrangement:
    """The entries that `keep` leaves, in one order. `meter` counts the entries that were looked at, and `compared` the
    keys that were made of them."""

    def __init__(self, order: Order, keep: Keep | None, meter: Meter) -> None:
        self.order = order
        self.keep = keep
        self.meter = meter
        self.compared = 0
        self.is_filled = False
        self._by = row_order(order, len(order))
        self._ranking = Ranking(self._key, meter)

    def _key(self, entry: Entry) -> Any:
        self.compared += 1
        return self._by(entry.row), entry.number

    @property
    def size(self) -> int:
        return self._ranking.size

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._ranking)

    def part(self, first: int, count: int) -> list[Entry]:
        """`count` entries from `first` on, as far as there are any."""
        found = self._ranking.part(first, first + count)
        self.meter.units += len(found)
        return found

    def fill(self, entries: Iterable[Entry], like: Arrangement | None = None) -> Generator[int, None, None]:
        """Takes all entries in; faster from what has the same order and leaves them all."""
        kept: list[Entry] = []
        for part in chunks(like or entries, PART):
            if self.keep is None:
                kept += part
                yield len(part)
            else:
                kept += [one for one in part if self.keep(one.row)]
                yield TRIED * len(part)
        self._ranking.fill(kept if like is not None else (yield from self._sorted(kept)))
        self.is_filled = True

    def change(self, gone: Sequence[Entry], come: Sequence[Entry]) -> Generator[int, None, Ops | None]:
        """Takes entries out and in; what that did, None if it was much."""
        gone, come = (yield from self._left(gone)), (yield from self._left(come))
        if self._ranking.is_much(len(gone) + len(come)):
            yield from self._merge(gone, come)
            return None
        ranking, ops = self._ranking, Ops()
        for sign, entries in ((-1, gone), (1, come)):
            step = ranking.remove if sign < 0 else ranking.insert
            for part in chunks(entries, FEW):
                ops += [(ranking.position(*step(entry)), sign) for entry in part]
                yield DEAR * len(part)
        return ops

    def _left(self, entries: Sequence[Entry]) -> Generator[int, None, Sequence[Entry]]:
        """Those that the filter leaves."""
        if self.keep is None:
            return entries
        left: list[Entry] = []
        for part in chunks(entries, PART):
            left += [one for one in part if self.keep(one.row)]
            self.meter.units += len(part)
            yield TRIED * len(part)
        return left

    def _sorted(self, entries: Sequence[Entry]) -> Generator[int, None, list[Entry]]:
        work = sort_slices(entries, self._key, part=PART // 2)
        while True:
            try:
                yield KEYED * next(work)
            except StopIteration as done:
                ranked: list[Entry] = done.value
                return ranked

    def _merge(self, gone: Sequence[Entry], come: Sequence[Entry]) -> Generator[int, None, None]:
        left = frozenset(gone)
        staying = (entry for entry in self._ranking if entry not in left)
        coming = yield from self._sorted(come)
        merged: list[Entry] = []
        for part in chunks(heapq.merge(staying, coming, key=self._key), PART // 2):
            merged += part
            self.meter.units += len(part)
            yield KEYED * len(part)
        self._ranking.fill(merged)


def is_touched(ops: Ops, first: int, stop: int) -> bool:
    """True if the entries from `first` up to `stop` are others now, or stand otherwise.

    >>> is_touched([(9, 1)], 2, 5), is_touched([(0, -1), (1, 1)], 2, 5), is_touched([(0, -1)], 2, 5)
    (False, False, True)
    """
    start, end = first, stop  # where the entries are by now that stood there
    for position, sign in ops:
        if position < start or (sign > 0 and position == start):
            start, end = start + sign, end + sign
        elif position < end:
            return True
    return start != first


class Arranged:
    """The rows of one answer. `subjects`: the columns that say what a row is about; None: nothing does.

    >>> from tripleweb.datalog.builtins import complete
    >>> rows = Arranged((0,))
    >>> gone, come = complete(rows.take([], [("ada", 1), ("bob", 2)]))
    >>> gone, come = complete(rows.take([("ada", 1)], [("ada", 3)]))
    >>> [(one.number, one.row) for one in (*gone, *come)], rows.size
    ([(1, ('ada', 1)), (1, ('ada', 3))], 2)
    """

    def __init__(self, subjects: tuple[int, ...] | None) -> None:
        self._subjects = subjects
        self._entries: dict[Row, Entry | list[Entry]] = {}  # several, where rows are equal
        self._last = 0
        self.size = 0

    def __iter__(self) -> Iterator[Entry]:
        for held in self._entries.values():
            if isinstance(held, list):
                yield from held
            else:
                yield held

    def take(
        self, removed: Iterable[Row], added: Iterable[Row]
    ) -> Generator[int, None, tuple[list[Entry], list[Entry]]]:
        """Rows went and came: (the entries that are there no more, those that are new)."""
        gone: list[Entry] = []
        for part in chunks(removed, PART):
            gone += map(self._pop, part)
            yield len(part)
        left: dict[Row, list[Entry]] = {}
        if self._subjects is not None:
            for part in chunks(reversed(gone), PART):
                for entry in part:
                    left.setdefault(self._about(entry.row), []).append(entry)
                yield len(part)
        come: list[Entry] = []
        for part in chunks(added, PART):
            for row in part:
                same = left.get(self._about(row)) if left else None
                if same:
                    number = same.pop().number
                else:
                    number = self._last = self._last + 1
                come.append(self._put(Entry(number, row)))
            yield len(part)
        return gone, come

    def difference(self, rows: Sequence[Row]) -> Generator[int, None, tuple[list[Row], list[Row]]]:
        """(removed, added): what makes these rows of those that are there."""
        counts: dict[Row, int] = {}
        for part in chunks(rows, PART):
            for row in part:
                counts[row] = counts.get(row, 0) + 1
            yield len(part)
        removed: list[Row] = []
        for entries in chunks(self, PART):
            for entry in entries:
                if counts.get(entry.row):
                    counts[entry.row] -= 1
                else:
                    removed.append(entry.row)
            yield len(entries)
        added: list[Row] = []
        for pairs in chunks(counts.items(), PART):
            added += [row for row, count in pairs for _ in range(count)]
            yield len(pairs)
        return removed, added

    def _about(self, row: Row) -> Row:
        return tuple([row[column] for column in self._subjects or ()])

    def _put(self, entry: Entry) -> Entry:
        self.size += 1
        held = self._entries.get(entry.row)
        if held is None:
            self._entries[entry.row] = entry
        elif isinstance(held, list):
            held.append(entry)
        else:
            self._entries[entry.row] = [held, entry]
        return entry

    def _pop(self, row: Row) -> Entry:
        self.size -= 1
        held = self._entries[row]
        if isinstance(held, list) and len(held) > 1:
            return held.pop()
        del self._entries[row]
        return held[0] if isinstance(held, list) else held
