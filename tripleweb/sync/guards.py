"""Guarded transactions at the server: the queries that decide on them, and who waits for his turn meanwhile.

A guarded transaction carries a query (`messages.Check`), and is taken only if the query has an answer on the state that
all transactions accepted before it have made. What a replica pushes behind it waits, so that its numbers are decided
in order; what others push goes on. Invariants: between a query's answer and the transaction that it decides on nothing
is accepted; an answer is asked for once for each decision; no query takes longer on the caller's loop than a slice:
one that does is left for `is_heavy`, and asked where it holds nobody up. A query that cannot be asked, or that needs
more than its budget, has no answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from tripleweb.datalog.clauses import Rules, parse_rules
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.executor import KEPT_MAX, Executor
from tripleweb.datalog.query import Query, parse
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.sync.messages import Check, PushedTransaction, input_from_wire

MESSAGE_MAX = 500
_BYTES_MAX = 64 << 20  # of rows that a query derives: the app waits for it
_ROWS = 1 << 60  # by columns is never quicker: a server does not import numpy for a guard
_IN_A_TURN = 50  # transactions behind a guarded one, between two looks at the rest of the work


class GuardLimits(Protocol):
    """Units of work that a query may take in all, and on the loop; transactions that may wait."""

    @property
    def query_units(self) -> int: ...
    @property
    def slice_units(self) -> int: ...
    @property
    def behind_max(self) -> int: ...


class Heavy(Exception):
    """A query takes longer than a slice."""


class Behind:
    """What one connection has pushed that is not decided: a guarded transaction first. `decide` decides on one, and is
    told if all of it was heard; it raises `Heavy`, having done nothing."""

    def __init__(self, decide: Callable[[PushedTransaction, bool], None]) -> None:
        self.decide = decide
        self.pushed: deque[tuple[PushedTransaction, bool]] = deque()


class Guards:
    """All guarded transactions of one tenant.

    >>> from tripleweb.change import Change
    >>> from tripleweb.sync.server import Limits
    >>> store = Store()
    >>> guards = Guards(store, Limits())
    >>> free = Check("[:find ?s . :in $ ?s :where (not [?s :seat/holder])]", [("s", "12A")])
    >>> guards.refusal(free)
    ''
    >>> delta = store.apply([Change("12A", "seat/holder", "", "ada", 1, "r")])
    >>> guards.refusal(free)
    'the query of its check has no answer'
    """

    def __init__(self, store: Store, limits: GuardLimits) -> None:
        self._store = store
        self._limits = limits
        self._executor = Executor(store, _ROWS)
        self._work: dict[tuple[str, str | None], float] = {}  # of queries, the last time
        self._units = 0  # that a query may take now; 0: all
        self._waiting: deque[Behind] = deque()
        self._heavy: deque[Behind] = deque()
        self._count = 0

    def wait(self, behind: Behind, pushed: PushedTransaction, is_whole: bool) -> None:
        """A transaction waits for its turn."""
        if not behind.pushed:
            self._waiting.append(behind)
        behind.pushed.append((pushed, is_whole))
        self._count += _weight(pushed)

    def leave(self, behind: Behind) -> None:
        """Its connection is over: nobody decides on what it pushed."""
        self._count -= sum(_weight(pushed) for pushed, _ in behind.pushed)
        behind.pushed.clear()
        for queue in (self._waiting, self._heavy):
            if behind in queue:
                queue.remove(behind)

    @property
    def is_full(self) -> bool:
        """So much waits that nothing more is to be taken in."""
        return self._count > self._limits.behind_max

    @property
    def has_work(self) -> bool:
        """True if `step` has something to do."""
        return bool(self._waiting)

    @property
    def is_heavy(self) -> bool:
        """True if a query waits that takes longer than a slice: `evaluate` is to be called beside the loop."""
        return bool(self._heavy)

    def step(self) -> None:
        """The longest-waiting connection has its turn: a guarded transaction, and some of what is behind it."""
        behind = self._waiting.popleft()
        self._units = self._limits.slice_units
        try:
            self._turn(behind)
        except Heavy:
            self._heavy.append(behind)
        finally:
            self._units = 0

    def evaluate(self) -> None:
        """The longest-waiting query that takes longer than a slice, and the transaction that it decides on."""
        self._turn(self._heavy.popleft(), 1)

    def _turn(self, behind: Behind, most: int = _IN_A_TURN) -> None:
        asked = False
        for _ in range(min(most, len(behind.pushed))):
            pushed, is_whole = behind.pushed[0]
            if asked and pushed.check is not None:
                break
            asked = True
            behind.decide(pushed, is_whole)
            if not behind.pushed:  # its connection has ended by that
                return
            behind.pushed.popleft()
            self._count -= _weight(pushed)
        if behind.pushed:
            self._waiting.append(behind)

    def refusal(self, check: Check) -> str:
        """Why the transaction of a check is not taken now; "" if it is. Raises `Heavy`."""
        try:
            rules = None if check.rules is None else _rules(check.rules)
            inputs = [input_from_wire(wire) for wire in check.inputs]
            query = parse(check.query)
            most = self._limits.query_units
            if self._units:
                if self._price(query, check) > self._units:
                    raise Heavy
                most = min(most, self._units)
            result = self._executor.run(query, inputs, rules, Budget(most, _BYTES_MAX))
        except Heavy:
            raise
        except BudgetError as error:
            if self._units and self._units < self._limits.query_units:
                raise Heavy from None
            return _said(error)
        except Exception as error:  # noqa: BLE001 - it is a stranger's query, on a store that it does not change
            return _said(error)
        if len(self._work) >= KEPT_MAX:
            self._work.clear()
        self._work[check.query, check.rules] = result.work
        return "" if result.rows else "the query of its check has no answer"

    def _price(self, query: Query, check: Check) -> float:
        """About how many triples are looked at, those that must be indexed for the first time among them."""
        known = self._work.get((check.query, check.rules))
        if known is not None:
            return known
        names = query.predicates
        if names is None or check.rules is not None:
            names = frozenset(self._store.predicates())
        return sum(map(self._store.count, names))


@lru_cache(100)
def _rules(text: str) -> Rules:
    """The same object for the same text, by which what was prepared with it is found again."""
    return parse_rules(text)


def _weight(pushed: PushedTransaction) -> int:
    return 1 + len(pushed.changes)


def _said(error: Exception) -> str:
    return f"its check cannot be asked: {error}"[:MESSAGE_MAX]
