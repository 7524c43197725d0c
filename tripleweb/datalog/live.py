"""Live queries: the answer now, and what changed since it was last looked at.

A `LiveQuery` evaluates again and compares. That is the first version of every construct and stays for ever the
oracle of faster ones. Invariants: `rows` is what a fresh evaluation of the same source gives; the old rows with
`added` put in and `removed` taken out are the new rows; where nothing changed, `version` stands still. With
:order-by the order belongs to the answer: a change of it alone is a change, with nothing added or removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tripleweb.datalog.answer import Result, Rows
from tripleweb.datalog.builtins import complete
from tripleweb.datalog.clauses import Binding, Rules
from tripleweb.datalog.evaluate import Budget, Evaluation, evaluate
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.pull import frozen
from tripleweb.datalog.query import Query
from tripleweb.store import Delta
from tripleweb.view import Source

Row = tuple[Any, ...]


class LiveQuery:
    """A query over a source that changes. Raises `QueryError` for what cannot be run, before any data is read.

    >>> from tripleweb.change import Change
    >>> from tripleweb.store import Store
    >>> store = Store()
    >>> live = LiveQuery("[:find ?name :where [_ :user/name ?name]]", [], store)
    >>> live.refresh(), live.rows
    (None, [])
    >>> delta = store.apply([Change("ada", "user/name", "", "Ada", 1, "r")])
    >>> live.touched(delta), live.refresh(), live.version
    (True, Rows(added=[('Ada',)], removed=[]), 1)
    """

    def __init__(
        self,
        query: Query | str,
        inputs: Sequence[Any],
        source: Source,
        rules: str | Rules | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.program, self._inputs = prepare(query, inputs, rules)
        self.query = self.program.query
        self.source = source
        self.version = 0
        self.budget = budget
        self._result = Result(self.query.columns, [])

    @property
    def inputs(self) -> Sequence[Any]:
        """What was given, without rules, as it was then."""
        return [value for _, value in self._inputs]

    @property
    def bound_inputs(self) -> list[tuple[Binding, Any]]:
        """The inputs beside their bindings, without rules."""
        return self._inputs

    @property
    def result(self) -> Result:
        """The answer of the last `refresh`."""
        return self._result

    @property
    def rows(self) -> list[Row]:
        """The rows of the last `refresh`."""
        return self._result.rows

    def touched(self, delta: Delta) -> bool:
        """True if this delta may have changed the answer: it changed a predicate that the query reads."""
        predicates = self.query.predicates
        return bool(delta.predicates) if predicates is None else not predicates.isdisjoint(delta.predicates)

    def refresh(self, budget: Budget | None = None) -> Rows | None:
        """Evaluates again; what changed, None if nothing did. On an error the old answer stands."""
        work = evaluate(Evaluation(self.program, self._inputs, self.source), budget or self.budget)
        return self.take(complete(work))

    def take(self, result: Result) -> Rows | None:
        """Puts a fresh result, evaluated elsewhere, in the place of the old one; what changed, None if nothing did."""
        old, self._result = self._result, result
        change = _difference(old.rows, result.rows)
        moved = bool(self.query.order_by) and _keys(old.rows) != _keys(result.rows)
        if not (change.added or change.removed or moved):
            return None
        self.version += 1
        return change


def _keys(rows: list[Row]) -> list[Row]:
    """Rows that can be compared and looked up: True is not 1, and what was pulled is a key."""
    return [tuple(map(frozen, row)) for row in rows]


def _difference(old: list[Row], new: list[Row]) -> Rows:
    """Rows may be there several times (:with keeps them apart), so they are counted."""
    counts: dict[Row, int] = {}
    for key in _keys(old):
        counts[key] = counts.get(key, 0) + 1
    added = []
    for key, row in zip(_keys(new), new, strict=True):
        if counts.get(key):
            counts[key] -= 1
        else:
            added.append(row)
    removed = []
    for key, row in zip(_keys(old), old, strict=True):
        if counts[key]:
            counts[key] -= 1
            removed.append(row)
    return Rows(added, removed)
