"""Subscriptions of kind `rows`: a query that the server answers and keeps answering, for a page that shows it.

A cell is a value with its kind; `j` is the JSON text of what is no single value (what was pulled, a collection).
A display remembers what its client was sent and sends the difference. It is evaluated on a view of one moment, in
slices, with a budget; whoever drives the slices cancels it by closing the generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from datetime import datetime
from typing import Any, Protocol

import msgspec

from tripleweb.datalog import evaluate, query
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.pull import mapped
from tripleweb.errors import BudgetError, QueryError
from tripleweb.sync.messages import FRAME_BYTES_MAX, Failed, Rows, Subscription, encode, input_from_wire
from tripleweb.terms import date_text, to_wire
from tripleweb.view import Source


class DisplayLimits(Protocol):
    """The bounds of one evaluation: units of work in all and between two yields, rows sent."""

    @property
    def query_units(self) -> int: ...
    @property
    def slice_units(self) -> int: ...
    @property
    def rows_max(self) -> int: ...


class Display:
    """One such subscription. Raises `QueryError` or `ValueError` for a query or inputs that cannot be read.

    `stale`: the data of its query may have changed since it was last evaluated; `running`: a job works on it.
    """

    def __init__(self, subscription: Subscription) -> None:
        self.id = subscription.id
        self.inputs = [input_from_wire(wire) for wire in subscription.inputs]
        self.rules = subscription.rules
        asked = query.parse(subscription.query or "")
        self.query = prepare(asked, self.inputs, self.rules)[
            0
        ].query  # with its rules, which read triples, too
        self.sent: list[Any] | None = None
        self.count = 0  # frames of rows
        self.stale = True
        self.running = False

    def answer(
        self, view: Source, epoch: str, seq: int, limits: DisplayLimits
    ) -> Generator[None, None, Rows | Failed | None]:
        """Evaluates the query on `view`; returns the frame that brings the client there, None if it is there."""
        self.stale = False
        budget = evaluate.Budget(limits.query_units)
        steps = evaluate.steps(self.query, self.inputs, view, rules=self.rules, budget=budget)
        work = 0
        try:
            while True:
                work += next(steps)
                if work >= limits.slice_units:
                    work = 0
                    yield
        except StopIteration as done:
            result = done.value
        except QueryError as error:
            return Failed(self.id, "budget" if isinstance(error, BudgetError) else "query", str(error))
        finally:
            steps.close()
        rows = [[cell_to_wire(value) for value in row] for row in result.rows[: limits.rows_max]]
        frame = self._difference(rows, list(result.columns), epoch, seq)
        if frame is not None and len(encode(frame)) > FRAME_BYTES_MAX:
            self.sent = None
            self.count -= 1
            return Failed(self.id, "limits", f"these {len(rows):,} rows are larger than a frame may be")
        return frame

    def _difference(self, rows: list[Any], columns: list[str], epoch: str, seq: int) -> Rows | None:
        before, self.sent = self.sent, rows
        if before is None or (self.query.order_by and before != rows):
            return self._rows(epoch, seq, True, columns, rows, [])
        old, new = (Counter(tuple(row) for row in several) for several in (before, rows))
        added, removed = list((new - old).elements()), list((old - new).elements())
        if not added and not removed:
            return None
        return self._rows(epoch, seq, False, columns, [list(r) for r in added], [list(r) for r in removed])

    def _rows(
        self, epoch: str, seq: int, reset: bool, columns: list[str], added: list[Any], removed: list[Any]
    ) -> Rows:
        self.count += 1
        return Rows(self.id, epoch, seq, reset, columns, added, removed, self.count)


def cell_to_wire(cell: Any) -> tuple[str, Any]:
    """A cell of an answer as it travels.

    >>> cell_to_wire("a"), cell_to_wire({"user/tags": ["x"]}), cell_to_wire(None)
    (('s', 'a'), ('j', '{"user/tags":["x"]}'), ('', None))
    """
    if not isinstance(cell, dict | list | tuple):
        return to_wire(cell)
    tree = mapped(cell, lambda leaf: date_text(leaf) if isinstance(leaf, datetime) else leaf)
    return "j", msgspec.json.encode(tree).decode()
