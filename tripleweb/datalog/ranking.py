"""Order that is kept while its items come and go, and the window of it that :limit and :offset leave.

A `Ranking` holds its items in blocks of one to two thousand: what comes or goes costs a search by bisection and the
shift of one block, whatever the size of the whole. The keys of items are not kept but made when they are compared,
some ten for a search. Invariants: the items of all blocks, one block after the other, are sorted by the key; no block
is empty, and `_lasts` has the key of the last item of each. Items of the same key may stand in any order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from tripleweb.datalog.builtins import order
from tripleweb.terms import Ref

Row = tuple[Any, ...]

BLOCK = 1_000  # items; one block holds at most twice as many
_RANKS: dict[type, int] = {int: 1, float: 1, str: 3, Ref: 3}


class Meter:
    """Counts units of work: rows, values and items that were looked at."""

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0


class Ranking:
    """Items sorted by `key`; the same item may be there several times.

    >>> ranking = Ranking(lambda item: item, Meter())
    >>> ranking.update([], [3, 1, 2, 2])
    >>> ranking.update([2], [0])
    >>> list(ranking), ranking[1], ranking.part(1, 3)
    ([0, 1, 2, 3], 1, [1, 2])
    """

    __slots__ = ("_blocks", "_key", "_lasts", "_meter", "size")

    def __init__(self, key: Callable[[Any], Any], meter: Meter) -> None:
        self._key = key
        self._meter = meter
        self._blocks: list[list[Any]] = []
        self._lasts: list[Any] = []
        self.size = 0

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._blocks)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        number, index = self._place(index)
        return self._blocks[number][index]

    def _place(self, index: int) -> tuple[int, int]:
        """The block where the item with this number is and its number there, looked for from the nearer end."""
        blocks = self._blocks
        if index < self.size // 2:
            number = 0
            while index >= len(blocks[number]):
                index -= len(blocks[number])
                number += 1
            return number, index
        index -= self.size
        number = len(blocks) - 1
        while index < -len(blocks[number]):
            index += len(blocks[number])
            number -= 1
        return number, index + len(blocks[number])

    def last(self) -> Any:
        return self._blocks[-1][-1]

    def part(self, start: int, stop: int | None) -> list[Any]:
        """The items from `start` up to `stop`."""
        wanted = (self.size if stop is None else min(stop, self.size)) - start
        if wanted <= 0:
            return []
        number, index = self._place(start)
        items = self._blocks[number][index : index + wanted]
        while len(items) < wanted:
            number += 1
            items += self._blocks[number][: wanted - len(items)]
        return items

    def position(self, block: int, index: int) -> int:
        """The number of items before the one at this place."""
        return sum(map(len, self._blocks[:block])) + index

    def insert(self, item: Any) -> tuple[int, int]:
        """Puts an item in its place: (block, index)."""
        self._meter.units += 1
        self.size += 1
        key = self._key(item)
        blocks, lasts = self._blocks, self._lasts
        if not blocks:
            blocks.append([item])
            lasts.append(key)
            return 0, 0
        number = bisect_left(lasts, key)
        if number == len(blocks):
            number -= 1
            block = blocks[number]
            index = len(block)
            lasts[number] = key
        else:
            block = blocks[number]
            index = bisect_left(block, key, key=self._key)
        block.insert(index, item)
        if len(block) > 2 * BLOCK:
            blocks.insert(number + 1, block[BLOCK:])
            del block[BLOCK:]
            lasts.insert(number, self._key(block[-1]))
        return number, index

    def remove(self, item: Any) -> tuple[int, int]:
        """Takes an item away: the place where it was. Raises `KeyError` if there is none."""
        self._meter.units += 1
        key = self._key(item)
        number = bisect_left(self._lasts, key)
        if number < len(self._blocks):
            index = bisect_left(self._blocks[number], key, key=self._key)
        while number < len(self._blocks):
            block = self._blocks[number]
            while index < len(block):
                if block[index] == item:
                    self._take(number, index)
                    return number, index
                if self._key(block[index]) != key:
                    raise KeyError(item)
                self._meter.units += 1
                index += 1
            number, index = number + 1, 0
        raise KeyError(item)

    def _take(self, number: int, index: int) -> None:
        self.size -= 1
        block = self._blocks[number]
        del block[index]
        if not block:
            del self._blocks[number], self._lasts[number]
        elif index == len(block):
            self._lasts[number] = self._key(block[-1])

    def update(self, removed: Sequence[Any], added: Sequence[Any]) -> None:
        """Takes away, then puts in; where it is much, sorts everything afresh."""
        if self.is_much(len(removed) + len(added)):
            self._rebuild(removed, added)
            return
        for item in removed:
            self.remove(item)
        for item in added:
            self.insert(item)

    def is_much(self, changes: int) -> bool:
        """True if sorting everything is cheaper than that many changes one by one."""
        return changes > 32 + self.size // 8

    def _rebuild(self, removed: Sequence[Any], added: Sequence[Any]) -> None:
        items = [*self, *added]
        self._meter.units += len(items) + len(removed)
        if removed:
            gone: dict[Any, int] = {}
            for item in removed:
                name = (item, self._key(item))  # the key may tell apart what is equal
                gone[name] = gone.get(name, 0) + 1
            kept = []
            for item in items:
                name = (item, self._key(item))
                if gone.get(name):
                    gone[name] -= 1
                else:
                    kept.append(item)
            if any(gone.values()):
                raise KeyError(next(name[0] for name, count in gone.items() if count))
            items = kept
        items.sort(key=self._key)
        self.fill(items)

    def fill(self, items: list[Any]) -> None:
        """These items take the place of all, sorted as they are."""
        self._blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
        self._lasts = [self._key(block[-1]) for block in self._blocks]
        self.size = len(items)


class Window:
    """Rows by a `row_order`, of which those from `start` up to `stop` are shown."""

    __slots__ = ("_ranking", "_start", "_stop", "key")

    def __init__(self, key: Callable[[Row], Any], start: int, stop: int | None, meter: Meter) -> None:
        self.key = key
        self._start = start
        self._stop = stop
        self._ranking = Ranking(key, meter)

    @property
    def size(self) -> int:
        """The number of all rows, shown or not."""
        return self._ranking.size

    def rows(self) -> list[Row]:
        """What is shown, in order."""
        return self._ranking.part(self._start, self._stop)

    def change(self, removed: Sequence[Row], added: Sequence[Row]) -> dict[Row, int]:
        """Takes rows away and puts rows in; what that changes in what is shown, netted: row to how often."""
        net: dict[Row, int] = {}
        if not self._start and self._stop is None:
            self._ranking.update(removed, added)
            count(net, added, 1)
            count(net, removed, -1)
        elif self._ranking.is_much(len(removed) + len(added)):
            count(net, self.rows(), -1)
            self._ranking.update(removed, added)
            count(net, self.rows(), 1)
        else:
            for row in removed:
                self._remove(row, net)
            for row in added:
                self._insert(row, net)
        return net

    def _insert(self, row: Row, net: dict[Row, int]) -> None:
        ranking, start, stop = self._ranking, self._start, self._stop
        place = ranking.position(*ranking.insert(row))
        if stop is not None and place >= stop:
            return
        if place >= start:
            count(net, (row,), 1)
        elif ranking.size > start:
            count(net, (ranking[start],), 1)
        if stop is not None and ranking.size > stop:
            count(net, (ranking[stop],), -1)

    def _remove(self, row: Row, net: dict[Row, int]) -> None:
        ranking, start, stop = self._ranking, self._start, self._stop
        place = ranking.position(*ranking.remove(row))
        if stop is not None and place >= stop:
            return
        if place >= start:
            count(net, (row,), -1)
        elif ranking.size >= start:
            count(net, (ranking[start - 1],), -1)
        if stop is not None and ranking.size >= stop:
            count(net, (ranking[stop - 1],), 1)


def count(net: dict[Row, int], rows: Iterable[Row], sign: int) -> None:
    """Adds `sign` for every row; what comes to nothing is not there."""
    for row in rows:
        total = net.get(row, 0) + sign
        if total:
            net[row] = total
        else:
            del net[row]


# -- keys -----------------------------------------------------------------------------------------------------


class Descending:
    """A key that sorts the other way round."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(self.key == other.key)

    def __lt__(self, other: Descending) -> bool:
        return bool(other.key < self.key)

    def __hash__(self) -> int:
        return hash(self.key)


def ascending(value: Any) -> tuple[int, Any]:
    """`order`, quickly."""
    place = _RANKS.get(type(value))
    return order(value) if place is None else (place, value)


def descending(value: Any) -> tuple[Any, ...]:
    """The order the other way round; what is missing stays last.

    >>> sorted(["b", "ba", "", "a", None], key=descending)
    ['ba', 'b', 'a', '', None]
    """
    if value is None:
        return (1, 0)
    place, inner = ascending(value)
    if place < 2:
        return (-place, -inner)
    if isinstance(inner, datetime):
        return (-place, _EPOCH - inner)
    if isinstance(inner, str):
        # Compared as text, which costs a tenth of `Descending`: each sign by the one as far from the other end, and an
        # end after all signs. Of a long text that is done for its beginning only.
        turned = inner[:_TURNED].translate(_turned)
        return (-place, turned, Descending(inner)) if len(inner) > _TURNED else (-place, turned + _END)
    return (-place, Descending(inner))


class _Turned(dict[int, int]):
    """Code points to those as far from the other end. Surrogates, which no text has, make room for `_END`."""

    def __missing__(self, code: int) -> int:
        turned = self[code] = 0x10F7FF - (code if code < 0xD800 else code - 0x800)
        return turned


_turned = _Turned()
_TURNED = 64
_END = "\U0010ffff"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def row_order(order_by: Iterable[tuple[int, bool]], width: int) -> Callable[[Row], Any]:
    """The key of a row: by the columns of :order-by, then by the others.

    >>> sorted([(1, "a"), (2, "b"), (2, "a")], key=row_order([(0, True)], 2))
    [(2, 'a'), (2, 'b'), (1, 'a')]
    """
    columns: dict[int, bool] = {}
    for column, is_descending in (*order_by, *((column, False) for column in range(width))):
        columns.setdefault(column, is_descending)
    if not any(columns.values()):
        if tuple(columns) == tuple(range(width)):
            return lambda row: tuple(map(ascending, islice(row, width)))
        pick = itemgetter(*columns)
        return lambda row: tuple(map(ascending, pick(row)))
    parts = [(descending if down else ascending, column) for column, down in columns.items()]
    return lambda row: tuple([key(row[column]) for key, column in parts])
