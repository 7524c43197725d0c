"""From the bindings of a query to its answer: aggregates, order, limit, shape, and Python's own values.

Invariants: the answer does not depend on the order in which rows come, except where no order was promised; work is
done in slices, as everywhere in the evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

from tripleweb.datalog.aggregates import AGGREGATES, rank, sort_slices
from tripleweb.datalog.builtins import CHUNK, NUMBERS, chunks, order, outward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.inputs import asked, value_of
from tripleweb.datalog.lookups import filled, late_cell, lookups_of, widened
from tripleweb.datalog.pull import Puller
from tripleweb.datalog.query import Aggregate, Query

Row = tuple[Any, ...]
Work = Generator[int, None, Any]
_PLAIN = frozenset((str, int, float))


@dataclass(slots=True)
class Result:
    """What a query gives.

    `rows` are tuples of `str`, `int`, `float`, `bool`, aware `datetime` and tuples of them, one cell for each of
    `columns`, in the order of :order-by if there is one; what was pulled is a dict (None: nothing is there), what was
    got may be a list or None. `skipped` counts by column the values that a numeric
    aggregate left out; `work` is what the evaluation cost, in units.
    """

    columns: tuple[str, ...]
    rows: list[Row]
    skipped: dict[str, int] = field(default_factory=dict)
    work: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of an answer: the rows that came, and those that went."""

    added: list[Row] = field(default_factory=list)
    removed: list[Row] = field(default_factory=list)


def answer(query: Query, scalars: Mapping[str, Any], rows: list[Row], puller: Puller | None = None) -> Work:
    """The `Result` of distinct rows whose cells are the variables of find and with. A query that looks things up needs
    the `puller`."""
    result = Result(query.columns, rows)
    width = len(query.find)
    if any(isinstance(element, Aggregate) for element in query.find):
        result.rows = yield from _aggregate(query, scalars, rows, result.skipped)
    elif query.with_:
        result.rows = []
        for part in chunks(rows):
            result.rows += [row[:width] for row in part]
            yield len(part)
    if query.looks_up:
        assert puller is not None
        lookups = lookups_of(query, scalars)
        wide = width + len(query.hidden)
        rows = widened(query, result.rows)
        rows = yield from filled([each for each in lookups if each.early], wide, rows, puller)
        rows = yield from ordered(query, rows)
        result.rows = yield from filled([each for each in lookups if not each.early], wide, rows, puller)
        early = [column for each in lookups if each.early for column in each.columns if column < width]
    else:
        result.rows = yield from ordered(query, result.rows)
    result.rows = yield from outward_rows(result.rows, width)
    if query.looks_up and early:
        result.rows = [
            tuple([late_cell(cell) if at in early else cell for at, cell in enumerate(row)])
            for row in result.rows
        ]
    return result


def _aggregate(query: Query, scalars: Mapping[str, Any], rows: list[Row], skipped: dict[str, int]) -> Work:
    groups: dict[Row, list[Row]] = {}
    plain = [index for index, element in enumerate(query.find) if not isinstance(element, Aggregate)]
    for part in chunks(rows):
        for row in part:
            groups.setdefault(tuple([row[index] for index in plain]), []).append(row)
        yield len(part)
    folds = {
        index: fold(element, scalars)
        for index, element in enumerate(query.find)
        if isinstance(element, Aggregate)
    }
    numeric = {
        index
        for index, element in enumerate(query.find)
        if isinstance(element, Aggregate)
        and isinstance(element.function, str)
        and AGGREGATES[element.function].numeric
    }
    out: list[Row] = []
    for members in groups.values():
        cells = list(members[0][: len(query.find)])
        missing = False
        for index, folded in folds.items():
            values: list[Any] = []
            for part in chunks(members):
                values += [row[index] for row in part]
                yield len(part)
            if index in numeric:
                numbers = [value for value in values if type(value) in NUMBERS]
                if len(numbers) < len(values):
                    column = query.columns[index]
                    skipped[column] = skipped.get(column, 0) + len(values) - len(numbers)
                values = numbers
            cells[index] = (yield from folded(values)) if values else None
            missing = missing or cells[index] is None
        if not missing:
            out.append(tuple(cells))
    return out


def fold(element: Aggregate, scalars: Mapping[str, Any]) -> Callable[[list[Any]], Work]:
    """The generator function of an aggregate with its arguments filled in."""
    arguments = [
        scalars[argument.name] if isinstance(argument, Variable) else argument.value
        for argument in element.arguments
    ]
    if isinstance(element.function, str):
        function = AGGREGATES[element.function].function
        for argument in arguments:
            if type(argument) is not int or argument < 0:
                raise element.form.error(
                    f"{outward(argument)!r:.80} is not a number of values", "a whole number"
                )
        return lambda values: function(values, *arguments)
    custom = scalars[element.function.name]
    if not callable(custom):
        raise element.form.error(f"{element.function.name} is no function", "a Python callable as the input")

    def call(values: list[Any]) -> Work:
        ranked = yield from sort_slices(values, rank)
        given = asked(custom, *map(outward, arguments), list(map(outward, ranked)))
        return value_of(given, element.form, "the aggregate")

    return call


def ordered(query: Query, rows: list[Row]) -> Work:
    """By :order-by, missing last, ties by the other columns; by all columns where only some rows are wanted."""
    only_first = query.shape in ("tuple", "scalar")
    if query.order_by or query.limit is not None or query.offset or (only_first and len(rows) > 1):
        rows = yield from sort_slices(rows, lambda row: tuple(map(order, row)))
        for column, descending in reversed(query.order_by):
            rows = yield from sort_slices(rows, partial(_cell_order, column), descending)
            if descending and query.looks_up:
                rows = [row for row in rows if row[column] is not None] + [
                    r for r in rows if r[column] is None
                ]
    end = None if query.limit is None else query.offset + query.limit
    rows = rows[query.offset : end] if query.offset or end is not None else rows
    return rows[:1] if only_first else rows


def _cell_order(column: int, row: Row) -> Any:
    return order(row[column])


def outward_rows(rows: list[Row], width: int) -> Work:
    """The rows in Python's own values: column by column, since most need no change."""
    out: list[Row] = []
    for part in chunks(rows, CHUNK):
        columns: list[Sequence[Any]] = [list(map(itemgetter(index), part)) for index in range(width)]
        for index, column in enumerate(columns):
            if not _PLAIN.issuperset(map(type, column)):
                columns[index] = list(map(outward, column))
        out += zip(*columns, strict=True)
        yield len(part)
    return out
