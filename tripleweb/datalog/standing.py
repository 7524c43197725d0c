"""The answer that stands: what `answer` makes of all rows at once, maintained from the rows that come and go.

A row is a distinct tuple of the engine's values for the variables of find and with. `apply` only notes it; `settle`
ends a commit: it nets what was noted, brings groups, order and window up to date, and says what that did to the
answer. Invariants: after a `settle`, `rows` and `skipped` are what `answer` gives for the rows that are there, and
the old rows without `removed` and with `added` are the new ones; work is proportional to the change (and to the
group, for the aggregates that are Python functions, and to what a result itself holds); a commit on which an
aggregate fails leaves the old answer, and the next `settle` tries its groups again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from itertools import repeat
from operator import itemgetter
from typing import Any

from tripleweb.datalog.accumulators import CUSTOM, Accumulator, Kept, Ranked, Total, kept
from tripleweb.datalog.aggregates import AGGREGATES
from tripleweb.datalog.answer import Rows, fold, outward_rows
from tripleweb.datalog.builtins import NUMBERS, chunks, complete, inward, outward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.query import Aggregate, Query, variable_name
from tripleweb.datalog.ranking import Meter, Row, Window, count, row_order
from tripleweb.terms import Flag, Ref

_NUMBERS = frozenset(NUMBERS)
_PLAIN = frozenset((str, int, float))
_SINGLE = _PLAIN | {Flag, Ref, datetime}  # no two of these are different inside and the same outside


class Group:
    """The rows that have the same cells beside the aggregates."""

    __slots__ = ("accumulators", "cells", "row", "size")

    def __init__(self, cells: list[Any], accumulators: list[Accumulator]) -> None:
        self.cells = cells
        self.accumulators = accumulators
        self.size = 0
        self.row: Row | None = None  # what it gives to the answer, as it was settled


class Standing:
    """The answer of a query, maintained. Raises `QueryError` for arguments of aggregates that do not fit.

    It must look nothing up (`query.looks_up`; else `ValueError`). `scalars` are the inputs by name. `apply(row, sign)`
    notes that a row came (1) or went (-1); of one row they take turns. `held` may be a collection that has the rows
    which are there whenever `rows` is read, such as the caller's own dict of rows: then a plain query keeps no second
    one.

    >>> from tripleweb.datalog.query import parse
    >>> standing = Standing(parse("[:find ?team (avg ?age) :with ?who :where [?who :team ?team] [?who :age ?age]]"), {})
    >>> standing.fill([("red", 30, "ada"), ("red", 41, "bob"), ("blue", 20, "cy")])
    >>> standing.settle()
    Rows(added=[('red', 35.5), ('blue', 20.0)], removed=[])
    >>> standing.apply(("red", 41, "bob"), -1)
    >>> standing.settle(), standing.rows
    (Rows(added=[('red', 30.0)], removed=[('red', 35.5)]), [('red', 30.0), ('blue', 20.0)])
    """

    __slots__ = (
        "_aggregation", "_back", "_held", "_meter", "_owned", "_pending", "_rows", "_width", "_window",
        "_with", "apply", "is_inner", "query", "recasts", "skipped",
    )  # fmt: skip

    apply: Callable[[Row, int], None]

    def __init__(self, query: Query, scalars: Mapping[str, Any], held: Collection[Row] | None = None) -> None:
        if query.looks_up:
            raise ValueError("what is looked up when an answer is made (pull, get) does not follow from rows")
        self.query = query
        self.skipped: dict[str, int] = {}
        self.is_inner = False  # True: `settle` gives rows as the engine has them
        self.recasts = 0  # how often an answer stayed the same, but for 1 that is 1.0 now or the reverse
        self._meter = Meter()
        self._pending: dict[Row, int] = {}
        self._back: list[Row] = []
        self.apply = _noting(self._pending, self._back)
        self._width = len(query.find)
        self._with = bool(query.with_)
        self._window = _window(query, self._meter)
        self._aggregation = (
            _Aggregation(query, scalars, self._meter, self._window is not None)
            if any(isinstance(element, Aggregate) for element in query.find)
            else None
        )
        self._owned: dict[Row, None] = {}
        self._held: Collection[Row] = self._owned if held is None else held
        self._rows: list[Row] | None = []

    @property
    def touched(self) -> int:
        """The units of work so far: rows, groups, values and places in an order that were looked at."""
        return self._meter.units

    def fill(self, rows: Iterable[Row]) -> None:
        """All these rows came."""
        if self._pending:
            for row in rows:
                self.apply(row, 1)
        else:
            for part in chunks(rows):  # in one call they would keep other threads from running for as long
                self._pending.update(zip(part, repeat(1)))

    def settle(self) -> Rows | None:
        """Ends a commit: what came into the answer and what left it since the last one; None if nothing did.

        With :order-by, `added` and `removed` are in its order. The order of the same rows never changes: columns that
        :order-by has not break its ties. Raises what an aggregate raises that is a Python function.
        """
        if self._aggregation is not None:
            change = self._settle_groups(self._aggregation)
        else:
            change = self._settle_rows()
        if change is None:
            return None
        self._rows = None
        removed, added = change
        self.recasts += not removed and not added
        if self._window is not None:
            removed, added = _signed(self._window.change(removed, added))
            if self.query.order_by:
                is_first = not removed and len(added) == self._window.size
                removed.sort(key=self._window.key)
                added = self._window.rows() if is_first else sorted(added, key=self._window.key)
        return self._shown(removed, added)

    def _settle_rows(self) -> tuple[list[Row], list[Row]] | None:
        """(removed, added) of a query without aggregates."""
        pending = self._pending
        if self._back:
            back = {row: row for row in self._back if not _NUMBERS.isdisjoint(map(type, row))}
            recast = list(back.values())  # each as it came last
            self._back.clear()
            if recast:
                self._rows = None
                self.recasts += 1
                if self._window is not None:
                    recast = self._cut(recast) if self._with else recast
                    self._window.change(recast, recast)
        if not pending:
            return None
        self._meter.units += len(pending)
        removed: list[Row] = []
        added: list[Row] = []
        for row, sign in pending.items():
            (added if sign > 0 else removed).append(row)
        pending.clear()
        if self._window is None and self._held is self._owned:
            for row in removed:
                del self._owned[row]
            for row in added:
                self._owned[row] = None
        if self._with:
            removed, added = self._cut(removed), self._cut(added)
            if removed and added:
                net: dict[Row, int] = {}
                count(net, added, 1)
                count(net, removed, -1)
                return _signed(net)
        return removed, added

    def _settle_groups(self, aggregation: _Aggregation) -> tuple[list[Row], list[Row]] | None:
        """(removed, added) of a query with aggregates."""
        if self._back:
            aggregation.take_again(self._back)
            self._back.clear()
        if self._pending:
            aggregation.take(self._pending)
            self._pending.clear()
        if not aggregation.changed:
            return None
        change = aggregation.settle()
        if aggregation.skips or self.skipped:
            self.skipped = {name: number for name, number in aggregation.skips.items() if number}
        return change

    @property
    def rows(self) -> list[Row]:
        """The answer as it was settled, in Python's own values, in the order of :order-by. Made when looked at."""
        if self._rows is None:
            rows = self.held
            if self._with and self._aggregation is None and self._window is None:
                rows = self._cut(rows)
            self._rows = complete(outward_rows(rows, self._width))
        return self._rows

    @property
    def held(self) -> list[Row]:
        """`rows` as the engine has them, perhaps with cells of :with behind; rows that stay are the same objects."""
        if self._window is not None:
            return self._window.rows()
        return self._aggregation.rows() if self._aggregation is not None else list(self._held)

    @property
    def has_news(self) -> bool:
        """True if rows were noted since `settle`, or an aggregate failed."""
        changed = self._aggregation is not None and self._aggregation.changed
        return bool(self._pending or self._back or changed)

    @property
    def waiting(self) -> int:
        """How many rows were noted since `settle`."""
        return len(self._pending) + len(self._back)

    @property
    def is_appended(self) -> bool:
        """True if rows of `held` that stay keep their order, and those that come stand behind them."""
        return self._window is None and self._aggregation is None

    def _cut(self, rows: Iterable[Row]) -> list[Row]:
        return [row[: self._width] for row in rows]

    def _shown(self, removed: list[Row], added: list[Row]) -> Rows | None:
        if not removed and not added:
            return None
        if self.is_inner:
            return Rows(added, removed)
        simple = True
        for rows in (removed, added):
            for index, row in enumerate(rows):
                if not _PLAIN.issuperset(map(type, row)):
                    rows[index] = tuple(map(outward, row))
                    simple = simple and _SINGLE.issuperset(map(type, row))
        return Rows(added, removed) if simple or not (added and removed) else _netted(added, removed)


def _noting(pending: dict[Row, int], back: list[Row]) -> Callable[[Row, int], None]:
    """The function that notes into `pending`; into `back` rows that went and came again, perhaps as 1.0 for 1."""
    get = pending.get

    def apply(row: Row, sign: int) -> None:
        total = get(row, 0) + sign
        if total:
            pending[row] = total
        else:
            del pending[row]
            if sign > 0:
                back.append(row)

    return apply


def _signed(net: Mapping[Row, int]) -> tuple[list[Row], list[Row]]:
    """(removed, added), each as often as it is counted."""
    removed: list[Row] = []
    added: list[Row] = []
    for row, total in net.items():
        if total > 0:
            added += [row] * total
        else:
            removed += [row] * -total
    return removed, added


def _netted(added: list[Row], removed: list[Row]) -> Rows | None:
    """Rows that differ inside the engine only (a range and a tuple) are the same outside."""
    net: dict[Row, int] = {}
    shown: dict[Row, Row] = {}
    for rows, sign in ((added, 1), (removed, -1)):
        for row in rows:
            key = tuple(map(inward, row))
            shown[key] = row
            count(net, (key,), sign)
    gone, come = _signed(net)
    if not gone and not come:
        return None
    return Rows([shown[key] for key in come], [shown[key] for key in gone])


def _window(query: Query, meter: Meter) -> Window | None:
    """What `answer` sorts by and cuts off; None where it does neither."""
    only_first = query.shape in ("tuple", "scalar")
    if not (query.order_by or query.limit is not None or query.offset or only_first):
        return None
    stop = None if query.limit is None else query.offset + query.limit
    if only_first:
        stop = query.offset + min(1, 1 if query.limit is None else query.limit)
    return Window(row_order(query.order_by, len(query.find)), query.offset, stop, meter)


# -- aggregates -----------------------------------------------------------------------------------------------

Read = Callable[[Group], Any]


class _Aggregation:
    """The groups of a query with aggregates."""

    def __init__(self, query: Query, scalars: Mapping[str, Any], meter: Meter, is_ordered: bool) -> None:
        self.skips: dict[str, int] = {}
        self._meter = meter
        self._is_ordered = is_ordered
        self._width = len(query.find)
        self._groups: dict[Any, Group] = {}
        self.changed: dict[Any, Group] = {}
        self._makers: list[Callable[[], Accumulator]] = []
        self._feeds: list[tuple[int, int, tuple[str, ...]]] = []
        self._readers: list[tuple[int, Read]] = []
        # 1 and 1.0 are one row: which of them is there counts for sums. Here are the rows that have the float.
        self._floats: dict[Row, Row] = {}
        self._watched: tuple[int, ...] = ()
        self._plan(query, scalars)
        plain = [index for index, element in enumerate(query.find) if not isinstance(element, Aggregate)]
        self._key: Callable[[Row], Any] = itemgetter(*plain) if plain else lambda row: ()

    def _plan(self, query: Query, scalars: Mapping[str, Any]) -> None:
        """One accumulator for the aggregates of one variable that can share it."""
        numbers: dict[Any, int] = {}
        columns: list[int] = []
        names: list[list[str]] = []
        watched: set[int] = set()
        first: dict[str, int] = {}
        for index, element in enumerate(query.find):
            if not isinstance(element, Aggregate):
                continue
            folded = fold(element, scalars)
            arguments = [
                scalars[argument.name] if isinstance(argument, Variable) else argument.value
                for argument in element.arguments
            ]
            is_numeric = isinstance(element.function, str) and AGGREGATES[element.function].numeric
            how = kept(element.function, len(arguments)) if isinstance(element.function, str) else CUSTOM
            if how is None:
                self._readers.append((index, lambda group: group.size))
                continue
            column = first.setdefault(variable_name(element), index)
            maker = how.accumulator
            if issubclass(maker, Total | Ranked):  # type: ignore[arg-type]
                watched.add(column)
            name = (maker, column, is_numeric, *(arguments if how.takes_arguments else ()))
            number = numbers.get(name)
            if number is None:
                number = numbers[name] = len(numbers)
                self._makers.append(_maker(how, self._meter, arguments))
                columns.append(column)
                names.append([])
            if is_numeric:
                names[number].append(query.columns[index])
            self._readers.append((index, _reader(element, how, number, arguments, folded)))
        self._feeds = [(number, columns[number], tuple(names[number])) for number in range(len(numbers))]
        self._watched = tuple(sorted(watched))

    def rows(self) -> list[Row]:
        return [group.row for group in self._groups.values() if group.row is not None]

    def take(self, pending: Mapping[Row, int]) -> None:
        """Feeds the accumulators."""
        groups, changed, key_of, feeds = self._groups, self.changed, self._key, self._feeds
        skips, watched = self.skips, self._watched
        self._meter.units += len(pending)
        for row, sign in pending.items():
            for index in watched:
                value = row[index]
                if (type(value) is float and value.is_integer()) or (sign < 0 and self._floats):
                    row = self._as_held(row, sign)
                    break
            key = key_of(row)
            group = groups.get(key)
            if group is None:
                group = groups[key] = Group(list(row[: self._width]), [make() for make in self._makers])
            changed[key] = group
            group.size += sign
            accumulators = group.accumulators
            for number, index, names in feeds:
                value = row[index]
                if names and type(value) not in NUMBERS:
                    for name in names:
                        skips[name] = skips.get(name, 0) + sign
                else:
                    accumulators[number].add(value, sign)

    def take_again(self, rows: Iterable[Row]) -> None:
        """Rows that went and came again: nothing, but for those that may have come as 1.0 instead of 1."""
        for row in rows:
            if any(type(row[index]) in NUMBERS and row[index] == int(row[index]) for index in self._watched):
                self.take({row: -1})
                self.take({row: 1})

    def _as_held(self, row: Row, sign: int) -> Row:
        """The row as it came: with the float or with the equal integer."""
        if sign > 0:
            self._floats[row] = row
            return row
        came = self._floats.pop(row, None)
        if came is not None:
            return came
        cells = list(row)
        for index in self._watched:
            if type(cells[index]) is float and cells[index].is_integer():
                cells[index] = int(cells[index])
        return tuple(cells)

    def settle(self) -> tuple[list[Row], list[Row]] | None:
        """(removed, added) rows of the groups that changed; None if no row changed, not even from 1 to 1.0.

        In case of an error everything stands as it stood.
        """
        changed = self.changed
        self._meter.units += len(changed)
        fresh = [self._row(group) if group.size else None for group in changed.values()]
        removed: list[Row] = []
        added: list[Row] = []
        is_recast = False
        for (key, group), row in zip(changed.items(), fresh, strict=True):
            old = group.row
            if row != old:
                if old is not None:
                    removed.append(old)
                if row is not None:
                    added.append(row)
                group.row = row
            elif row is not None and _form(row) != _form(old):
                is_recast = True
                group.row = row
                if self._is_ordered:  # there the row itself has to be replaced
                    removed.append(old)  # type: ignore[arg-type]
                    added.append(row)
            if not group.size:
                del self._groups[key]
        changed.clear()
        return (removed, added) if removed or added or is_recast else None

    def _row(self, group: Group) -> Row | None:
        cells = group.cells
        for index, read in self._readers:
            value = read(group)
            if value is None:
                return None
            cells[index] = value
        return tuple(cells)


def _form(value: Any) -> Any:
    """Tells 1 and 1.0 apart."""
    return tuple(map(_form, value)) if type(value) is tuple else type(value)


def _maker(how: Kept, meter: Meter, arguments: list[Any]) -> Callable[[], Accumulator]:
    if how.takes_arguments:
        return lambda: how.accumulator(meter, *arguments)
    return lambda: how.accumulator(meter)


def _reader(
    element: Aggregate, how: Kept, number: int, arguments: list[Any], folded: Callable[[list[Any]], Any]
) -> Read:
    read = how.read
    if not isinstance(element.function, str):
        return lambda group: complete(folded(read(group.accumulators[number])))
    if arguments and not how.takes_arguments:
        return lambda group: read(group.accumulators[number], *arguments)
    return lambda group: read(group.accumulators[number])
