"""The answer that stands of a query that looks things up: `Standing` with the cells of pulls and gets.

It has the interface of `Standing` and stands between the rows that come and go and one. A row is widened with what the
order depends on, and goes on so; the other cells are looked up for the rows that are shown, and only again where a
change touched what a tree had visited (`StandingPull`). `changed` must be told of every delta, before the next
`settle`, which reads the store as it is then. Invariant: after a `settle`, `rows` is what `answer` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from tripleweb.datalog.answer import Rows
from tripleweb.datalog.builtins import inward, outward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.lookups import Lookup, Row, early_cell, late_cell, lookups_of
from tripleweb.datalog.pull import StandingPull, Triple, frozen
from tripleweb.datalog.query import Aggregate, Query, variable_name
from tripleweb.datalog.standing import Standing
from tripleweb.view import Source


class _Standing:
    """One look-up: its pulls, the rows in which its entities are, and those that a change may have touched."""

    def __init__(self, lookup: Lookup, source: Source, query: Query) -> None:
        self.lookup = lookup
        self.pull = StandingPull(lookup.pattern, source, query.fields)
        self.rows: dict[str, dict[Row, None]] = {}
        self.touched: dict[str, None] = {}

    def enter(self, root: Any, row: Row) -> None:
        if isinstance(root, str):
            self.rows.setdefault(root, {})[row] = None

    def leave(self, root: Any, row: Row) -> None:
        if isinstance(root, str):
            rows = self.rows[root]
            del rows[row]
            if not rows:
                del self.rows[root]
                self.pull.forget(root)
                self.touched.pop(root, None)

    def cells(self, root: Any) -> Row:
        return self.lookup.cells(self.pull.value(str(root)) if isinstance(root, str) else None)

    def renewed(self) -> list[Row]:
        """The rows of entities whose values changed."""
        touched, self.touched = self.touched, {}
        found: dict[Row, None] = {}
        for root in touched:
            if self.pull.renew_root(root):
                found.update(self.rows.get(root, {}))
        return list(found)


class StandingLookups:
    """As `Standing`, for a query with `pull` or `get` over a source."""

    def __init__(
        self,
        query: Query,
        scalars: dict[str, Any],
        source: Source,
        held: Collection[Row] | None = None,
    ) -> None:
        self.query = query
        self._width = len(query.find)
        self._wide = self._width + len(query.hidden)
        all_ = [_Standing(lookup, source, query) for lookup in lookups_of(query, scalars)]
        self._early = [each for each in all_ if each.lookup.early]
        self._late = [each for each in all_ if not each.lookup.early]
        cells = tuple(
            element if isinstance(element, Aggregate) else Variable(variable_name(element))
            for element in query.find
        )
        names = tuple(map(str, range(self._wide + self._width)))
        # rows as they come -> the rows of found cells -> those that are shown, in order
        self._found = Standing(
            replace(
                query,
                find=cells,
                hidden=(),
                shape="relation",
                order_by=(),
                limit=None,
                offset=0,
            ),
            scalars,
            held,
        )
        self._shown = Standing(
            replace(
                query,
                find=tuple(map(Variable, names)),
                columns=names,
                hidden=(),
                with_=("number",) if query.with_ else (),
            ),
            {},
        )
        self.apply: Callable[[Row, int], None] = self._found.apply
        self.fill = self._found.fill
        self._counts: dict[Row, int] = {}  # found rows: :with has some of them repeatedly
        self._widened: dict[Row, Row] = {}  # found rows, as they were widened last
        self._answer: dict[Row, Row] = {}  # shown rows -> those of the answer
        self._times: dict[Row, int] = {}
        self._rows: list[Row] | None = []

    @property
    def skipped(self) -> dict[str, int]:
        return self._found.skipped

    @property
    def touched(self) -> int:
        """The units of work so far, beside the pulls."""
        return self._found.touched + self._shown.touched

    @property
    def has_news(self) -> bool:
        """True if `settle` may find something."""
        lookups = (*self._early, *self._late)
        return self._found.has_news or self._shown.has_news or any(each.touched for each in lookups)

    def changed(self, removed: Iterable[Triple], added: Iterable[Triple]) -> None:
        """Notes what a change of the source touches."""
        for each in (*self._early, *self._late):
            each.touched.update(dict.fromkeys(each.pull.touched(removed, added)))

    def settle(self) -> Rows | None:
        """Ends a commit: see `Standing.settle`."""
        change = self._found.settle()
        if change is not None:
            for row in change.removed:
                self._go(tuple(map(inward, row)))
            for row in change.added:
                self._come(tuple(map(inward, row)))
        again: dict[Row, None] = {}
        for each in self._early:
            again.update(dict.fromkeys(each.renewed()))
        for row in again:
            self._widen(row)
        change = self._shown.settle()
        before = self._rows
        removed: list[Row] = []
        added: list[Row] = []
        for row in change.removed if change is not None else ():
            removed.append(self._hide(_key(row)))
        later: dict[Row, None] = {}
        for each in self._late:
            later.update(dict.fromkeys(each.renewed()))
        for key in later:
            old = self._answer[key]
            new = self._answer[key] = self._made(key)
            removed += [old] * self._times[key]
            added += [new] * self._times[key]
        for row in change.added if change is not None else ():
            added.append(self._show(_key(row)))
        if not (removed or added):
            return None
        self._rows = None
        added, removed = _netted(added, removed)
        if added or removed:
            return Rows(added, removed)
        # what is the same may be in another order
        moved = before is None or list(map(_frozen, before)) != list(map(_frozen, self.rows))
        return Rows() if moved and self.query.order_by else None

    @property
    def rows(self) -> list[Row]:
        """The answer as it was settled. Made when looked at."""
        if self._rows is None:
            self._rows = [self._answer[_key(row)] for row in self._shown.rows]
        return self._rows

    # -- found rows --------------------------------------------------------------------------------------------

    def _come(self, row: Row) -> None:
        count = self._counts.get(row, 0)
        self._counts[row] = count + 1
        if not count:
            for each in self._early:
                each.enter(row[each.lookup.root], row)
            self._widened[row] = self._wider(row)
        self._shown.apply(self._numbered(row, count), 1)

    def _go(self, row: Row) -> None:
        count = self._counts[row] - 1
        self._shown.apply(self._numbered(row, count), -1)
        if count:
            self._counts[row] = count
            return
        del self._counts[row], self._widened[row]
        for each in self._early:
            each.leave(row[each.lookup.root], row)

    def _widen(self, row: Row) -> None:
        """Puts a row that is there in its new place."""
        wide = self._wider(row)
        if wide == self._widened[row] and list(map(type, wide)) == list(map(type, self._widened[row])):
            return
        for number in range(self._counts[row]):
            self._shown.apply(self._numbered(row, number), -1)
        self._widened[row] = wide
        for number in range(self._counts[row]):
            self._shown.apply(self._numbered(row, number), 1)

    def _wider(self, row: Row) -> Row:
        cells = [*row, *(None for _ in self.query.hidden)]
        for each in self._early:
            for column, cell in zip(each.lookup.columns, each.cells(row[each.lookup.root]), strict=True):
                cells[column] = early_cell(cell)
        return (*cells, *row)

    def _numbered(self, row: Row, number: int) -> Row:
        """A wide row; the number tells equal ones apart, and is cut off as :with is."""
        wide = self._widened[row]
        return (*wide, number) if self.query.with_ else wide

    # -- shown rows --------------------------------------------------------------------------------------------

    def _show(self, key: Row) -> Row:
        times = self._times.get(key, 0)
        self._times[key] = times + 1
        if not times:
            for each in self._late:
                each.enter(key[self._wide + each.lookup.root], key)
            self._answer[key] = self._made(key)
        return self._answer[key]

    def _hide(self, key: Row) -> Row:
        row = self._answer[key]
        self._times[key] -= 1
        if not self._times[key]:
            del self._times[key], self._answer[key]
            for each in self._late:
                each.leave(key[self._wide + each.lookup.root], key)
        return row

    def _made(self, key: Row) -> Row:
        cells = list(map(outward, key[: self._width]))
        for each in self._early:
            for column in each.lookup.columns:
                if column < self._width:
                    cells[column] = late_cell(key[column])
        for each in self._late:
            for column, cell in zip(
                each.lookup.columns, each.cells(key[self._wide + each.lookup.root]), strict=True
            ):
                if column < self._width:
                    cells[column] = cell
        return tuple(cells)


def _frozen(row: Row) -> Row:
    return tuple(map(frozen, row))


def _netted(added: list[Row], removed: list[Row]) -> tuple[list[Row], list[Row]]:
    """Without what both have: rows that only differ in what is not seen."""
    if not (added and removed):
        return added, removed
    counts = Counter(map(_frozen, removed))
    come = []
    for row in added:
        key = _frozen(row)
        if counts[key]:
            counts[key] -= 1
        else:
            come.append(row)
    gone = []
    for row in removed:
        key = _frozen(row)
        if counts[key]:
            counts[key] -= 1
            gone.append(row)
    return come, gone


def _key(row: Row) -> Row:
    return tuple(map(inward, row))
