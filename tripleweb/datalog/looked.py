"""The answer that stands of a query that looks things up: `Standing` with the cells of pulls and gets.

It has the interface of `Standing` and stands between the rows that come and go and one. A row is widened with what the
order depends on, and goes on so; the other cells are looked up for the rows that are shown, and only again where a
change touched what a tree had visited (`StandingPull`). `changed` (or the `Readers` that it shares) must be told of
every delta, before the next `settle`, which reads the store as it is then: not in the middle of a transaction.
Invariants: after a `settle`, `rows` is what `answer` gives; after one that failed, `rows` and `skipped` are still
those of the last that did not, and nothing else may be asked of it but `close`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from math import inf
from typing import Any

from tripleweb.datalog.answer import Rows
from tripleweb.datalog.builtins import inward, outward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.lookups import Lookup, Row, early_cell, late_cell, lookups_of
from tripleweb.datalog.pull import UNIT_BYTES, Readers, StandingPull, Triple, frozen
from tripleweb.datalog.query import Aggregate, Query, variable_name
from tripleweb.datalog.ranking import row_order
from tripleweb.datalog.standing import Standing
from tripleweb.errors import BudgetError
from tripleweb.view import Source


class _Standing:
    """One look-up: its pulls, the rows in which its entities are, and those that a change may have touched."""

    def __init__(
        self,
        lookup: Lookup,
        source: Source,
        query: Query,
        weigh: Callable[[int], object],
        readers: Readers | None,
    ) -> None:
        self.lookup = lookup
        self.pull = StandingPull(lookup.pattern, source, query.fields, weigh, readers)
        self.rows: dict[str, dict[Row, None]] = {}

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
                self.pull.stale.pop(root, None)

    def cells(self, root: Any) -> Row:
        return self.lookup.cells(self.pull.value(str(root)) if isinstance(root, str) else None)

    def renewed(self, going: Collection[Row] = ()) -> list[Row]:
        """The rows of entities whose values changed; for those that are `going` alone nothing is pulled."""
        touched = list(self.pull.stale)
        self.pull.stale.clear()
        found: dict[Row, None] = {}
        for root in touched:
            staying = [row for row in self.rows.get(root, ()) if row not in going]
            if not staying:
                self.pull.forget(root)
            elif self.pull.renew_root(root):
                found.update(dict.fromkeys(staying))
        return list(found)


class StandingLookups:
    """As `Standing`, for a query with `pull` or `get` over a source."""

    def __init__(
        self,
        query: Query,
        scalars: dict[str, Any],
        source: Source,
        held: Collection[Row] | None = None,
        readers: Readers | None = None,
    ) -> None:
        self.query = query
        self.skipped: dict[str, int] = {}
        self.work = 0  # units of what was pulled
        self._left = inf, inf  # units and bytes of pulls that are left in this settle
        self._width = len(query.find)
        self._wide = self._width + len(query.hidden)
        all_ = [
            _Standing(lookup, source, query, self._weigh, readers) for lookup in lookups_of(query, scalars)
        ]
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
        self._by = row_order(query.order_by, self._wide + self._width)
        self._counts: dict[Row, int] = {}  # found rows: :with has some of them repeatedly
        self._widened: dict[Row, Row] = {}  # found rows, as they were widened last
        self._answer: dict[Row, Row] = {}  # shown rows -> those of the answer
        self._times: dict[Row, int] = {}
        self._rows: list[Row] | None = []

    @property
    def touched(self) -> int:
        """The units of work so far."""
        return self._found.touched + self._shown.touched + self.work

    def _weigh(self, size: int) -> None:
        units, most = self._left
        units, most = self._left = units - size // UNIT_BYTES, most - size
        self.work += size // UNIT_BYTES
        if units < 0:
            raise BudgetError("what the query pulls needs more than its units of work")
        if most < 0:
            raise BudgetError("what the query pulls takes more than its bytes")

    @property
    def has_news(self) -> bool:
        """True if `settle` may find something."""
        lookups = (*self._early, *self._late)
        return self._found.has_news or self._shown.has_news or any(each.pull.stale for each in lookups)

    @property
    def waiting(self) -> int:
        """How many rows and trees `settle` has to look at."""
        trees = sum(len(each.pull.stale) for each in (*self._early, *self._late))
        return self._found.waiting + self._shown.waiting + trees

    def changed(self, removed: Iterable[Triple], added: Iterable[Triple]) -> None:
        """Notes what a change of the source touches."""
        for each in (*self._early, *self._late):
            each.pull.stale.update(dict.fromkeys(each.pull.touched(removed, added)))

    def close(self) -> None:
        """Gives up all that was pulled; `rows` stay."""
        for each in (*self._early, *self._late):
            each.pull.close()

    def settle(self, units: float = inf, size: float = inf) -> Rows | None:
        """Ends a commit: see `Standing.settle`. Raises `BudgetError` where it pulls more than these units or bytes."""
        self._left = units, size
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
        gone = [_key(row) for row in change.removed] if change is not None else []
        come = [_key(row) for row in change.added] if change is not None else []
        try:
            later = self._pulled(gone, come)
        except BaseException:
            if self._rows is None:
                self._rows = [self._answer[key] for key in self._before(gone, come)]
            raise
        self.skipped = self._found.skipped
        old = {key: self._answer[key] for key in (*gone, *later)}
        removed = [self._hide(key) for key in gone]
        added: list[Row] = []
        for key in later:
            new = self._answer[key] = self._made(key)
            removed += [old[key]] * self._times[key]
            added += [new] * self._times[key]
        added += [self._show(key) for key in come]
        for key in dict.fromkeys(gone):
            if key not in self._times:  # only now, since rows that came may have the same entities
                for each in self._late:
                    each.leave(key[self._wide + each.lookup.root], key)
        if not (removed or added):
            return None
        before, self._rows = self._rows, None
        added, removed = _netted(added, removed)
        if added or removed:
            return Rows(added, removed)
        if not self.query.order_by:
            return None
        # what is the same may be in another order: rows moved, or what is looked up of two was swapped
        if before is None:
            before = [old.get(key) or self._answer[key] for key in self._before(gone, come)]
        return None if all(map(_is_same, before, self.rows)) else Rows()

    def _pulled(self, gone: list[Row], come: list[Row]) -> list[Row]:
        """Pulls all that the next answer needs and does not know: whatever may fail does so here. The rows that stay
        and whose late cells changed."""
        going = {key for key, times in Counter(gone).items() if times == self._times[key]}
        later: dict[Row, None] = {}
        for each in self._late:
            later.update(dict.fromkeys(each.renewed(going)))
        for key in come:
            for each in self._late:
                each.cells(key[self._wide + each.lookup.root])
        return list(later)

    def _before(self, gone: list[Row], come: list[Row]) -> list[Row]:
        """The keys of the rows that were shown before these went and those came, in their order."""
        counts = Counter(come)
        keys = list(gone)
        for row in self._shown.rows:
            key = _key(row)
            if counts[key]:
                counts[key] -= 1
            else:
                keys.append(key)
        return sorted(keys, key=self._by)

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


def _is_same(one: Row, other: Row) -> bool:
    return one is other or _frozen(one) == _frozen(other)


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
