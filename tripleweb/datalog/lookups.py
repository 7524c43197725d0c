"""Look-ups: the cells of an answer that are read of an entity once its row is known (`pull`, `get`).

A row first holds the id of the entity where such a cell will be. What is ordered by is looked up for all rows, the
rest for those that are left after :limit. Invariants: a look-up neither drops nor adds a row, and the order of rows
depends on ids where it depends on what is pulled; each entity is looked up once; all work is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tripleweb.datalog.builtins import inward, outward
from tripleweb.datalog.pull import Puller, thawed
from tripleweb.datalog.pullpattern import Fields, PullPattern, parse_pull, path_pattern
from tripleweb.datalog.query import Aggregate, Get, Pull, Query, variable_name

Row = tuple[Any, ...]
Cells = Callable[[Any], Row]


@dataclass(frozen=True)
class Lookup:
    """One pattern that is pulled of the entity in the cell `root` of a row; `cells` makes the cells `columns` of it
    (those beyond the found ones are the query's hidden ones). `early`: the order of the rows depends on it."""

    root: int
    pattern: PullPattern
    columns: tuple[int, ...]
    cells: Cells
    early: bool


def lookups_of(query: Query, scalars: Mapping[str, Any]) -> list[Lookup]:
    """The look-ups of a query whose single inputs are `scalars`. Raises `QueryError` for a pattern that is an input
    and none."""
    ordered = {column for column, _ in query.order_by}
    roots = {
        variable_name(element): index
        for index, element in reversed(list(enumerate(query.find)))
        if not isinstance(element, Aggregate)
    }
    out: list[Lookup] = []
    groups: dict[tuple[int, bool], dict[int, Get]] = {}
    for index, element in enumerate(chain(query.find, query.hidden)):
        if isinstance(element, Pull):
            pattern = _pattern(element, scalars)
            out.append(
                Lookup(roots[element.variable.name], pattern, (index,), lambda pulled: (pulled,), False)
            )
        elif isinstance(element, Get):
            group = roots[element.variable.name], index in ordered
            groups.setdefault(group, {})[index] = element
    for (root, early), gets in groups.items():
        paths = [get.path for get in gets.values()]
        out.append(Lookup(root, path_pattern(paths), tuple(gets), _reader(paths, query.fields), early))
    return out


def _pattern(element: Pull, scalars: Mapping[str, Any]) -> PullPattern:
    if isinstance(element.pattern, PullPattern):
        return element.pattern
    text = scalars[element.pattern.name]
    if not isinstance(text, str):
        raise element.form.error(f"{element.pattern.name} is no pattern", "its text as the input")
    return parse_pull(text)


def _reader(paths: Sequence[tuple[str, ...]], fields: Fields) -> Cells:
    many = [any(name in fields and fields[name].many for name in path) for path in paths]

    def cells(pulled: Any) -> Row:
        found = [_walk(pulled or {}, path) for path in paths]
        return tuple(
            [] if cell is None and is_many else cell for cell, is_many in zip(found, many, strict=True)
        )

    return cells


def _walk(pulled: dict[Any, Any], path: tuple[str, ...]) -> Any:
    """What the pull of `path_pattern` holds at the end of a path: None, a value, or a list with a cell for each entity
    on the way."""
    if len(path) == 1:
        return pulled.get(path[0])
    below = pulled.get((path[0],))
    if not isinstance(below, list):
        return None if below is None else _walk(below, path[1:])
    out: list[Any] = []
    for one in below:
        cell = _walk(one, path[1:])
        if isinstance(cell, list):
            out += cell
        else:
            out.append(cell)
    return out


def filled(
    lookups: Sequence[Lookup], width: int, rows: Sequence[Row], puller: Puller
) -> Generator[int, None, list[Row]]:
    """Wide rows (`widened`), `width` cells and the ids, with the cells of these look-ups."""
    out: list[Row] = []
    known: list[dict[Any, Row]] = [{} for _ in lookups]
    for row in rows:
        cells = list(row)
        for lookup, memo in zip(lookups, known, strict=True):
            root = row[width + lookup.root]
            found = memo.get(root)
            if found is None:
                found = lookup.cells((yield from puller.steps(lookup.pattern, root)))
                memo[root] = found
            for column, cell in zip(lookup.columns, found, strict=True):
                cells[column] = early_cell(cell) if lookup.early else thawed(cell)
        out.append(tuple(cells))
        yield 1
    return out


def widened(query: Query, rows: Iterator[Row] | Sequence[Row]) -> list[Row]:
    """Rows of found cells with room for the hidden ones, followed by the found cells once more: the ids."""
    room = (None,) * len(query.hidden)
    return [row + room + row for row in rows]


def early_cell(cell: Any) -> Any:
    """A cell that rows are ordered by, as the engine holds values: a list is a tuple."""
    return inward(cell)


def late_cell(cell: Any) -> Any:
    """Such a cell as it is given out."""
    return list(outward(cell)) if type(cell) is tuple else outward(cell)
