"""Queries that are asked once: each is answered from a state of its app that is durable, and then forgotten.

Evaluation is counted and comes in slices, one slice of one query at a time whoever asks, so that the event loop runs
on; it ends at its budget, and where it is cancelled. Invariants: an answer is whole, or it is an error; it is the
state at `position`, which is on disk when the answer is given.

What travels is plain JSON. Inputs are text, numbers, booleans, `{"date": "2013-01-01T00:00:00Z"}`, arrays of them
(collections, tuples) and arrays of arrays (relations). In rows, dates are text of that form, references their id's
text, tuples arrays, what was pulled objects (null where nothing is there).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import Result
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.pull import mapped
from tripleweb.datalog.query import parse
from tripleweb.errors import BudgetError, QueryError, TriplewebError
from tripleweb.hub import Hub
from tripleweb.terms import Ref, date_text

UNITS_A_SECOND = 1_000_000  # of work: what a second of `query_budget` is
BUDGET_S = 5.0
BYTES_MAX = 128 << 20  # of rows derived
TEXT_MAX = 64 << 10  # of a query, or of its rules
DEPTH_MAX = 3  # of inputs: a relation is an array of arrays
SLICE_S = 0.005
PATIENCE_S = 120  # wall clock; a busy server answers late, but not for ever
_NANOSECONDS = re.compile(r"[.,]\d{6}\d*[1-9]")


class TooManyError(TriplewebError):
    """More queries at a time than one user may ask."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`columns` and `rows` as `evaluate` gives them, and the position whose state they are."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    position: str


class Inquiry:
    """Answers queries about the apps of `hub`. `budget_s` is in seconds of work: `UNITS_A_SECOND` units each."""

    def __init__(self, hub: Hub, budget_s: float = BUDGET_S, *, per_user: int = 8) -> None:
        self._hub = hub
        self._budget = evaluate.Budget(int(budget_s * UNITS_A_SECOND), BYTES_MAX)
        self._per_user = per_user
        self._asking: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    async def ask(self, app: str, user: str, query: str, inputs: Sequence[Any], rules: str | None) -> Answer:
        """The answer. Cancelling it ends the evaluation.

        Raises `QueryError`, `BudgetError`, `TooManyError`, `TimeoutError`, and what `Hub.join` does.
        """
        if self._asking[user] >= self._per_user:
            self._hub.counts.ask("refused")
            raise TooManyError(f"{user} is asking {self._per_user} queries already; wait for one to end")
        self._asking[user] += 1
        outcome = "cancelled"
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._answer(app, query, inputs, rules)
            outcome = "answered"
            return answer
        except BudgetError:
            outcome = "budget"
            raise
        except QueryError:
            outcome = "malformed"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._hub.counts.ask(outcome)
            self._asking[user] -= 1
            if not self._asking[user]:
                del self._asking[user]

    async def _answer(self, app: str, text: str, inputs: Sequence[Any], rules: str | None) -> Answer:
        for said in (text, rules or ""):
            if len(said) > TEXT_MAX:
                raise QueryError(f"the text of a query has at most {TEXT_MAX:,} characters")
        query = parse(text)
        given = [_input(value) for value in inputs]
        program, pairs = prepare(query, given, rules)
        async with self._hub.using(app) as tenant:
            view, epoch, seq = await tenant.view(program.query.predicates)
            evaluation = evaluate.Evaluation(program, pairs, view)
            result = await self._evaluate(evaluate.evaluate(evaluation, self._budget))
            await tenant.durable(seq)
        return Answer(result.columns, result.rows, f"{epoch}:{seq}")

    async def _evaluate(self, steps: Generator[int, None, Result]) -> Result:
        try:
            while True:
                async with self._turn:
                    ends = time.monotonic() + SLICE_S
                    while time.monotonic() < ends:
                        try:
                            self._hub.counts.units += next(steps)
                        except StopIteration as done:
                            result: Result = done.value
                            return result
                    await asyncio.sleep(0)
        finally:
            steps.close()


def _input(value: Any, depth: int = 0) -> Any:
    """An input from its JSON."""
    if isinstance(value, list) and depth < DEPTH_MAX:
        return [_input(item, depth + 1) for item in value]
    if isinstance(value, dict) and value.keys() == {"date"} and isinstance(value["date"], str):
        try:
            if _NANOSECONDS.search(value["date"]):  # else they would be cut off without a word
                raise ValueError(f"{value['date']!r:.80} has more than six digits of a second")
            return datetime.fromisoformat(value["date"])
        except ValueError as error:
            raise QueryError(f"not a date: {error}") from None
    if isinstance(value, list | dict):
        raise QueryError(
            f"not an input: {str(value)[:80]}",
            expected='text, a number, true, false, {"date": "…Z"}, or arrays of them',
        )
    return value


def plain(value: Any) -> Any:
    """A value of a row as JSON has it; what was pulled is an object.

    >>> from datetime import datetime, timezone
    >>> plain((Ref("ada"), 1, datetime(2013, 1, 1, tzinfo=timezone.utc)))
    ['ada', 1, '2013-01-01T00:00:00.000000Z']
    """
    if isinstance(value, tuple | list | dict):
        return mapped(value, plain)
    if isinstance(value, datetime):
        return date_text(value)
    return str(value) if isinstance(value, Ref) else value
