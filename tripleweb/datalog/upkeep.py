"""Which live queries are kept up to date by the deltas of one store.

`Upkeep.open` gives a `LiveQuery` whose answer follows `Upkeep.changed(delta)`, to be called once for each delta and
before the store changes again. A query is evaluated when it is first looked at; from then on its triggers run. A batch
that costs more than a fresh evaluation, or a trigger that fails, makes it stale: the next look evaluates afresh.
Invariant: a refreshed query has the answer of a fresh evaluation, whichever way it took. What cannot be compiled
(`reason` says why) is evaluated afresh whenever it is refreshed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any
from weakref import WeakValueDictionary

from tripleweb.datalog.answer import Result, Row, Rows
from tripleweb.datalog.bodies import Unsupported
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.clauses import Rules
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.live import LiveQuery
from tripleweb.datalog.maintained import Maintained, Plan, Template, Trigger
from tripleweb.datalog.pull import Readers, frozen
from tripleweb.datalog.query import Query
from tripleweb.datalog.standing import Standing
from tripleweb.errors import BudgetError, TriplewebError
from tripleweb.store import Delta, Store
from tripleweb.terms import Value

FEW = 64  # triples: up to here nobody weighs triggers against a fresh evaluation
TRIPLE = 6  # rows that a fresh evaluation looks at in the time that one triple takes to replay and to follow: measured
AFRESH = 4_000  # rows that can be looked at in the time that it takes to prepare a fresh evaluation
FOLD_EVERY = 64  # deltas
NOTED_MAX = 1_000
TOUCHED_MAX = 100_000


class Followed(LiveQuery):
    """A live query that is kept up to date; `refresh` with `follow` off evaluates it afresh, once."""

    def __init__(
        self,
        upkeep: Upkeep,
        query: Query | str,
        inputs: Sequence[Any],
        rules: str | Rules | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(query, inputs, upkeep.store, rules, budget)
        self.upkeep = upkeep
        self.reason: str | None = None  # why it is not maintained
        self.maintained: Maintained | None = None  # while it is
        self._carried: Rows | None = None  # what changed after the last refresh, until it was dropped

    @property
    def result(self) -> Result:
        maintained = self.maintained
        if maintained is not None:
            standing = maintained.standing
            if self._result.rows is not standing.rows or self._result.skipped != standing.skipped:
                self._result = Result(self.query.columns, standing.rows, dict(standing.skipped))
        return self._result

    @property
    def rows(self) -> list[Row]:
        return self.result.rows

    @property
    def held(self) -> tuple[list[Row], bool]:
        """(the rows as the engine has them, which may be wider; see `Standing.held` and `is_appended`)."""
        standing = None if self.maintained is None else self.maintained.standing
        if isinstance(standing, Standing):
            return standing.held, standing.is_appended
        return self.rows, False

    @property
    def skipped(self) -> dict[str, int]:
        """As in `result`."""
        return dict(self._result.skipped if self.maintained is None else self.maintained.standing.skipped)

    @property
    def has_news(self) -> bool:
        """True if a refresh may find something."""
        maintained = self.maintained
        return maintained is None or bool(maintained.log) or maintained.standing.has_news

    def refresh(self, budget: Budget | None = None, follow: bool = True) -> Rows | None:
        if self.upkeep.store.is_replaying:
            raise TriplewebError("a function that a query calls cannot look at what is followed")
        maintained = self.maintained
        if maintained is not None:
            try:
                if maintained.looked is None:
                    change = maintained.settle()
                else:
                    limits = budget or self.budget or Budget()
                    change = maintained.settle(_most(limits.rows), _most(limits.bytes))
                if change is not None:
                    self.version += 1
            except Exception as error:
                # half of it is settled, or it has become too large: the next look evaluates afresh
                if maintained.looked is not None or isinstance(error, BudgetError):
                    self.drop()
                raise
            except BaseException:
                if maintained.looked is None:
                    self._leave()
                raise
            return change
        if self.reason is None and follow:
            try:
                return self._start(budget or self.budget or Budget())
            except Unsupported as why:
                self.reason = str(why)
        return super().refresh(budget)

    def _leave(self) -> None:
        """An interrupt came while it was settled: what it keeps may be half of one answer and half of the next. It is
        evaluated afresh, and counts as changed, since nobody knows what of it was seen."""
        self.upkeep.release(self)
        self.version += 1

    def _start(self, budget: Budget) -> Rows | None:
        maintained = self.upkeep.prepare(self)
        try:
            maintained.start(_most(budget.rows), budget.bytes)
        except BaseException:
            maintained.close()
            raise
        standing = maintained.standing
        change = self.take(Result(self.query.columns, standing.rows, dict(standing.skipped)))
        self.upkeep.follow(self, maintained)
        return change

    @property
    def is_current(self) -> bool:
        """True while it is kept up to date."""
        return self.maintained is not None

    def drop(self) -> None:
        """It is kept up to date no more: the next look evaluates afresh, and tells of all that changed since the last
        one. What goes wrong here, that evaluation will say. What looks things up reads nothing here: the store may be
        on the way from one state to another, or what it reads may be what went wrong."""
        maintained = self.maintained
        if maintained is None:
            return
        self._result = self.result
        change = None
        if maintained.looked is None:
            try:
                if maintained.log:
                    maintained.fold()
                change = maintained.standing.settle()
            except Exception as error:  # noqa: BLE001 (a user's aggregate may raise anything)
                maintained.template.trouble = error  # the old answer stands
            else:
                self._result = self.result
        self.upkeep.release(self)
        self._carried = change if self._carried is None else _netted([self._carried, change])

    def take(self, result: Result) -> Rows | None:
        version = self.version
        change = super().take(result)
        if self._carried is not None:
            carried, self._carried = self._carried, None
            change = _netted([carried, change])
            self.version = version + (change is not None)
        return change


def _netted(changes: Iterable[Rows | None]) -> Rows | None:
    """Changes of an answer, one after the other, as one."""
    net: Counter[Row] = Counter()
    shown: dict[Row, Row] = {}
    for change in changes:
        for rows, sign in ((change.added, 1), (change.removed, -1)) if change is not None else ():
            for row in rows:
                key = tuple(map(frozen, row))
                shown[key] = row
                net[key] += sign
    added = [shown[key] for key, count in net.items() for _ in range(count)]
    removed = [shown[key] for key, count in net.items() for _ in range(-count)]
    return Rows(added, removed) if added or removed else None


def _most(given: int | None) -> float:
    return inf if given is None else given


class Upkeep:
    """The live queries of one store that follow its deltas."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._templates: dict[object, Template] = {}  # those that have members
        # by id() of what maintains it
        self._followed: WeakValueDictionary[int, Followed] = WeakValueDictionary()
        # all triggers by predicate; None: to be collected anew
        self._heard: dict[str, list[Trigger]] | None = {}
        self._recursive: list[Template] = []
        self._turn = 0
        self._touched = 0  # rows, by triggers, since it was added up what they noted
        self.readers = Readers()  # of what is looked up

    def open(
        self,
        query: Query | str,
        inputs: Sequence[Any] = (),
        rules: str | Rules | None = None,
        budget: Budget | None = None,
    ) -> Followed:
        """A live query over the store. Raises `QueryError` for what cannot be run.

        >>> from tripleweb.change import Change
        >>> store = Store()
        >>> upkeep = Upkeep(store)
        >>> live = upkeep.open("[:find ?name :where [_ :user/name ?name]]")
        >>> live.refresh(), live.rows
        (None, [])
        >>> upkeep.changed(store.apply([Change("ada", "user/name", "", "Ada", 1, "r")]))
        []
        >>> live.refresh(), live.version
        (Rows(added=[('Ada',)], removed=[]), 1)
        """
        return Followed(self, query, inputs, rules, budget)

    def prepare(self, live: Followed) -> Maintained:
        """What will maintain a query. Raises `Unsupported`."""
        plan = Plan(live.program, live.bound_inputs, self.store)
        template = None if plan.key is None else self._templates.get(plan.key)
        return Maintained(plan, template or Template(plan), self.readers)

    def follow(self, live: Followed, maintained: Maintained) -> None:
        """From now on its triggers run."""
        template = maintained.template
        self._templates[template.plan.key or template] = template
        live.maintained = maintained
        self._followed[id(maintained)] = live
        if template.join(maintained) or len(template.members) == 1:
            self._heard = None

    def forget(self, live: Followed) -> None:
        """Nobody looks at it for now: its triggers run no more."""
        live.drop()

    def release(self, live: Followed) -> None:
        """What `Followed.drop` needs: it leaves its template."""
        maintained, live.maintained = live.maintained, None
        if maintained is not None:
            template = maintained.template
            template.leave(maintained)
            self._followed.pop(id(maintained), None)
            if not template.members:
                del self._templates[template.plan.key or template]
                self._heard = None

    def changed(self, delta: Delta) -> list[Followed]:
        """Has the followed queries see a delta that the store has just made; returns those that follow no more. Does
        not raise what triggers raise: the query's next evaluation will."""
        self.readers.mark(delta.removed, delta.added)
        heard = self._heard if self._heard is not None else self._collect()
        predicates = delta.predicates
        if heard.keys().isdisjoint(predicates):
            return []
        if len(delta.added) + len(delta.removed) > FEW:
            return self._weigh(delta)
        try:
            self.store.replay(delta, self._step, self._gone if self._recursive else None)
        except BaseException as error:
            dropped = self._drop(one for one in self._templates.values() if one.hears(predicates))
            if not isinstance(error, Exception):
                raise
            return dropped
        self._turn += 1
        return self._fold() if self._turn % FOLD_EVERY == 0 or self._touched > TOUCHED_MAX else []

    def _fold(self) -> list[Followed]:
        """Adds up what was noted for queries that nobody looks at, so that it does not grow; leaves those behind that
        nobody holds. Returns those that it has dropped, which have become too large."""
        dropped = []
        self._touched = 0
        for key, template in list(self._templates.items()):
            for member in list(template.members.values()):
                if id(member) not in self._followed:
                    template.leave(member)
                elif len(member.log) > NOTED_MAX:
                    member.fold()
                    if member.is_too_large:
                        live = self._followed[id(member)]
                        live.drop()
                        dropped.append(live)
            if not template.members and self._templates.pop(key, None) is not None:
                self._heard = None
        return dropped

    def _step(self, predicate: str, subject: str, row: int, value: Value, sign: int) -> None:
        seen = inward(value)
        assert self._heard is not None
        touched = 0
        for trigger in self._heard.get(predicate, ()):
            touched += trigger(subject, row, seen, value, sign)
        self._touched += touched
        for template in self._recursive:
            template.derive(predicate, subject, row, value, sign)

    def _gone(self, predicate: str) -> None:
        for template in self._recursive:
            template.gone(predicate)

    def _collect(self) -> dict[str, list[Trigger]]:
        """All triggers of all templates."""
        heard: dict[str, list[Trigger]] = {}
        for template in self._templates.values():
            for predicate in template.predicates:
                heard.setdefault(predicate, []).extend(template.triggers.get(predicate, ()))
        self._recursive = [template for template in self._templates.values() if template.components]
        self._heard = heard
        return heard

    def _weigh(self, delta: Delta) -> list[Followed]:
        """A large delta: what costs more to follow than to evaluate afresh is dropped, at once where that can be told
        from the number of triples, else as soon as it has cost as much."""
        heard: Counter[str] = Counter()
        for triples in (delta.removed, delta.added):
            heard.update([triple[1] for triple in triples])
        running: dict[Template, int] = {}
        dear: list[Template] = []
        for template in self._templates.values():
            if template.hears(delta.predicates):
                full = sum(AFRESH + member.full for member in template.members.values())
                triples_heard = sum(heard[predicate] for predicate in template.predicates)
                if triples_heard * TRIPLE > full:
                    dear.append(template)
                else:
                    running[template] = template.touched + full
        dropped = self._drop(dear)
        if not running:
            return dropped

        def each(call: Callable[[Template], object]) -> None:
            for template, most in list(running.items()):
                try:
                    call(template)
                    costly = template.touched > most
                except Exception as error:  # noqa: BLE001 (the next evaluation will say it, too)
                    costly, template.trouble = True, error
                if costly:
                    del running[template]
                    dropped.extend(self._drop([template]))

        try:
            self.store.replay(
                delta,
                lambda *step: each(lambda template: template.step(*step)),
                lambda predicate: each(lambda template: template.gone(predicate)),
            )
        except BaseException:
            self._drop(running)
            raise
        return dropped + self._fold()

    def _drop(self, templates: Iterable[Template]) -> list[Followed]:
        dropped = []
        for template in list(templates):
            for maintained in list(template.members.values()):
                live = self._followed.get(id(maintained))
                if live is None:  # nobody holds it any more
                    template.leave(maintained)
                else:
                    live.drop()
                    dropped.append(live)
            self._templates.pop(template.plan.key or template, None)
        self._heard = None
        return dropped
