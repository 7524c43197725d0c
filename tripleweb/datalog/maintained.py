"""Queries that are kept up to date by what a change touches.

A `Template` has the generated triggers of one shape of query; the queries of that shape are its `group`, a relation of
their constants, so a trigger joins once for all of them, and those that ask for different values are told apart by a
look-up. A `Maintained` is one query: it knows how many derivations each row of find-and-with has, and what appears or
vanishes goes on to `Standing`, which makes the answer of it. Triggers only note in its `log`; it is added up when
somebody looks, or when it is long. Queries with recursion, callables or collections among
their inputs have a template of their own.

Invariants: after `start`, and after each `Store.replay` of a delta through `step`, the counts of every member are those
of a fresh run; where a step raised, they are not. `touched` counts rows looked at, as everywhere in the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from math import inf
from typing import Any

from tripleweb.datalog.answer import Rows
from tripleweb.datalog.bodies import (
    Body,
    Member,
    Writer,
    bodies_of,
    has_callable,
    lifted,
    predicates_of,
    relations_of,
)
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.captured import Relation, Row, Scope, too_many
from tripleweb.datalog.clauses import Binding, Variable, bound
from tripleweb.datalog.compiled import SINK, Change, Module
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.inputs import bind
from tripleweb.datalog.joins import Sizes
from tripleweb.datalog.looked import StandingLookups
from tripleweb.datalog.plan import Given, Program
from tripleweb.datalog.pull import Readers
from tripleweb.datalog.recursion import Component, Recursion
from tripleweb.datalog.standing import Standing
from tripleweb.store import Store
from tripleweb.terms import Value

GROUP = "[group]"
MANY = 400  # rows that generated code touches in the time that a run by columns takes at least: measured
SLACK, DEAR = 16_000, 4  # rows that one trigger may look at: some, and so many times what an evaluation does
GROWN = 4  # members of a group from which on joins come first and their constants last
Trigger = Callable[[str, int, Any, Value, int], int]


def bind_inputs(
    program: Program, inputs: Sequence[tuple[Binding, Any]]
) -> tuple[dict[str, Any], dict[str, Given]]:
    """(the inputs that are single values, the others as relations by name). Raises `QueryError`."""
    scalars: dict[str, Any] = {}
    given: dict[str, Given] = {}
    form = program.query.form
    for binding, value in inputs:
        rows = list(dict.fromkeys(bind(binding, value, form)))
        if not isinstance(binding, Variable):
            given[f"[input {len(given)}]"] = Given(tuple(bound(binding)), rows)
        elif rows:
            scalars[binding.name] = rows[0][0]
        else:
            raise form.error(f"the input {binding.name} has no value", "a value that is not missing")
    return scalars, given


class Plan:
    """A query with its inputs as bodies over a store. Raises `Unsupported` where the query cannot be compiled.

    `key` is equal for queries that can share a template, None for one that cannot share its own. `constants` are what
    queries of one shape differ in, by variable; `captured` are values that stand in the code's scope.
    """

    def __init__(self, program: Program, inputs: Sequence[tuple[Binding, Any]], store: Store) -> None:
        self.query = program.query
        self.store = store
        self.scalars, given = bind_inputs(program, inputs)
        writer = Writer(program)
        bodies = bodies_of(writer, given, self.scalars)
        self.relations = {name: Relation(rows.rows) for name, rows in given.items()}
        self.recursion = Recursion(writer, Sizes(store, self.relations, self.scalars))
        bodies = self.recursion.adorned(bodies, self.scalars)
        self.captured: dict[str, Any] = {**self.scalars, **writer.constants}
        bodies = self._asked(bodies)
        self.constants: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # what the query's variables are called here
        self.key: object | None = None
        alone = given or self.recursion.relations or any(has_callable(body.literals) for body in bodies)
        if not alone:
            shape, self.constants, self.names = lifted(bodies, self.captured)
            bodies, self.captured = list(shape), {}
            kinds = tuple(sorted(self.query.kinds.items()))
            self.key = shape, tuple(self.constants), kinds
        group = Member(GROUP, (*self.constants, SINK))
        self.bodies = [Body(body.head, (group, *body.literals)) for body in bodies]

    @property
    def free(self) -> list[Body]:
        """The bodies alone, of a query that belongs to no group."""
        return [replace(body, literals=body.literals[1:]) for body in self.bodies]

    @property
    def can_run_by_columns(self) -> bool:
        """False for rules that call themselves, whose relations are kept as tuples, and for callables."""
        return not self.recursion.relations and not any(has_callable(body.literals) for body in self.bodies)

    def _asked(self, bodies: list[Body]) -> list[Body]:
        """The bodies whose derivations are asked for: those of the query."""
        return bodies

    def scope(self, group: Relation) -> Scope:
        """What its code works on, for the queries in `group`."""
        relations = {**self.relations, **self.recursion.relations, GROUP: group}
        return Scope(self.store, self.captured, self.query.kinds, relations)

    def sizes(self, group: Sized) -> Sizes:
        return Sizes(self.store, {**self.relations, GROUP: group}, {**self.captured, **self.constants})


class Shape:
    """The triggers of one shape, for the queries whose constants and sinks are rows of `group`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.group = Relation()
        self._scope = plan.scope(self.group)
        self._scope.within = [inf]  # `work` only grows here
        self.components: list[Component] = plan.recursion.compile(self._scope, plan.bodies)
        self.full = 0  # rows touched to evaluate its queries
        self._touched = 0
        self._grown = False
        self._compile()

    def _written(self, module: Module, body: Body, change: Change) -> list[str]:
        """The names of the functions that a change of what this body reads calls."""
        return module.triggers(body, change)

    def _compile(self) -> None:
        module = Module(self.plan.sizes(range(100 if self._grown else 1)), self._scope.constants)
        triggers: dict[str, list[str]] = {}
        listens: dict[str, list[str]] = {}
        for body in self.plan.bodies:
            for predicate in sorted(set(predicates_of(body.literals))):
                triggers.setdefault(predicate, []).extend(self._written(module, body, Change(predicate)))
            for relation in sorted(set(relations_of(body.literals)) & self.plan.recursion.relations.keys()):
                change = Change(relation=relation)
                listens.setdefault(relation, []).extend(self._written(module, body, change))
        functions = module.bind(self._scope)
        self.triggers = {key: [functions[name] for name in names] for key, names in triggers.items()}
        self._listens = {key: [functions[name] for name in names] for key, names in listens.items()}
        self.predicates = frozenset(self.triggers).union(
            *(component.triggers for component in self.components)
        )
        self.source = module.source

    @property
    def touched(self) -> int:
        """The rows looked at so far by `step`, and by recursion."""
        return self._touched + self._scope.work[0] + sum(component.touched for component in self.components)

    def enter(self, row: Row) -> bool:
        """From now on the triggers serve this row, too. True if they were made anew, for more of them."""
        self.group.add(row)
        if self._grown or len(self.group) < GROWN or self.plan.key is None:
            return False
        self._grown = True
        self._compile()
        return True

    def allow(self, limit: float, most: int | None) -> None:
        """What one trigger may touch, and the bytes that relations may take; beyond it, it raises `BudgetError`."""
        self._scope.limit[0] = limit
        self._scope.allow(most)

    def hears(self, predicates: frozenset[str]) -> bool:
        """True if one of these predicates can change an answer."""
        return not self.predicates.isdisjoint(predicates)

    def step(self, predicate: str, subject: str, row: int, value: Value, sign: int) -> None:
        """One triple is about to go (-1) or has come (+1)."""
        seen = inward(value)
        for trigger in self.triggers.get(predicate, ()):
            self._touched += trigger(subject, row, seen, value, sign)
        if self.components:
            self.derive(predicate, subject, row, value, sign)

    def derive(self, predicate: str, subject: str, row: int, value: Value, sign: int) -> None:
        """The part of a step that concerns the relations of recursive rules."""
        for component in self.components:
            if predicate in component.triggers:
                component.before(component.triggers[predicate], (subject, row, inward(value), value), sign)
        if sign > 0:
            self.gone(predicate)

    def gone(self, predicate: str) -> None:
        """The change of the last step has happened."""
        for component in self.components:
            if predicate in component.triggers:
                component.after(self._tell)

    def _tell(self, relation: str, row: Row, sign: int, gone: bool) -> None:
        """A tuple of a relation is about to go or has come; or, `gone`, it went."""
        if not gone:
            for trigger in self._listens.get(relation, ()):
                self._touched += trigger(row, sign)
        for component in self.components:
            if relation in component.listens:
                if not gone:
                    component.before(component.listens[relation], (row,), sign)
                if gone or sign > 0:
                    component.after(self._tell)


class Template(Shape):
    """The shape of queries that are followed, and those queries."""

    def __init__(self, plan: Plan) -> None:
        self.members: dict[int, Maintained] = {}  # by id()
        self.trouble: Exception | None = None  # why its queries follow no more
        super().__init__(plan)

    def join(self, member: Maintained) -> bool:
        """From now on the triggers serve this query, too. True if they were made anew, for more of them."""
        self.members[id(member)] = member
        self.full += member.full
        self.allow(SLACK + DEAR * self.full, member.most)
        return self.enter(member.row)

    def leave(self, member: Maintained) -> None:
        """The triggers serve this query no more."""
        del self.members[id(member)]
        self.full -= member.full
        self.group.remove(member.row)
        member.close()


class Maintained:
    """One query: its derivations and its answer. It is evaluated by `start`; then its template's triggers serve it."""

    def __init__(self, plan: Plan, template: Template, readers: Readers | None = None) -> None:
        self.plan = plan
        self.template = template
        self.counts: dict[Row, int] = {}
        self.looked = (
            StandingLookups(plan.query, plan.scalars, plan.store, self.counts, readers)
            if plan.query.looks_up
            else None
        )
        self.standing = self.looked or Standing(plan.query, plan.scalars, self.counts)
        self.log: list[tuple[Row, int]] = []  # derivations that came and went since the counts were made
        self.row: Row = (*plan.constants.values(), self.log.append)
        self.full = 0  # rows touched by `start`
        self.most: int | None = None  # bytes that the answer may take

    def start(self, limit: float, most: int | None) -> None:
        """Finds every derivation, from nothing; once. Raises `BudgetError` where one body, or what is pulled, touches
        more rows than `limit`, or the answer, or what is pulled, takes more than `most` bytes."""
        plan, alone = self.plan, Relation([self.row])
        scope = self._scope = plan.scope(alone)
        scope.counts = self.counts
        scope.limit[0] = limit
        scope.allow(most)
        self.most = most
        if self.template.components:  # it is this query's own
            self.template.allow(limit, most)
        for component in self.template.components:
            before = component.touched
            component.start()
            self.full += component.touched - before
        module = Module(plan.sizes(alone), scope.constants)
        runs = [module.run(body) for body in plan.bodies]
        if module.price > MANY and plan.can_run_by_columns:
            self._count_by_columns(limit, most)
        else:
            functions = module.bind(scope)
            for name in runs:
                self.full += functions[name](1)
        self.full += scope.work[0]
        self.standing.fill(self.counts)
        self.settle(limit, inf if most is None else most)

    def _count_by_columns(self, limit: float, most: int | None) -> None:
        """Finds every derivation of a query that looks at much."""
        from tripleweb.datalog.vectorised import Vectorised

        plan = self.plan
        columns = Vectorised(plan.store, plan.query, plan.free, plan.recursion, self._scope)
        constants = {**plan.captured, **plan.constants}
        budget = Budget(None if limit == inf else int(limit), most)
        self.counts.update(columns.counts(constants, plan.relations, budget))
        self.full += columns.touched

    def fold(self) -> None:
        """Adds up what the triggers have found."""
        counts, get, apply = self.counts, self.counts.get, self.standing.apply
        for row, sign in self.log:
            count = get(row, 0) + sign
            if count:
                counts[row] = count
            else:
                del counts[row]
            if count == (sign > 0):  # the first came, or the last went
                apply(row, sign)
        self.log.clear()

    @property
    def is_too_large(self) -> bool:
        """True if there are more rows than an evaluation may find."""
        return len(self.counts) > self._scope.most[0]

    def settle(self, units: float = inf, size: float = inf) -> Rows | None:
        """What changed in the answer since the last time; None if nothing did. Raises `BudgetError` where it has become
        too large, or more than these units or bytes are pulled for it."""
        if self.log:
            self.fold()
            if self.is_too_large:
                too_many(self._scope.most)
        return self.standing.settle() if self.looked is None else self.looked.settle(units, size)

    def close(self) -> None:
        """Gives up what it has pulled; the answer stays."""
        if self.looked is not None:
            self.looked.close()
