"""A query that is kept up to date by what a change touches.

`Maintained` knows how many derivations each row of find-and-with has; generated triggers add and take away, and what
appears or vanishes goes on to `Standing`, which makes the answer of it. Invariants: after `start`, and after each
`Store.replay` of a delta through `step`, the counts are those of a fresh run; where a step raised, they are not, and
only `start` makes them so again. `touched` counts rows looked at, as everywhere in the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from tripleweb.datalog.bodies import Writer, bodies_of, predicates_of, relations_of
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.captured import Relation, Row, Scope
from tripleweb.datalog.clauses import Binding, Variable, bound
from tripleweb.datalog.compiled import Change, Module
from tripleweb.datalog.inputs import bind
from tripleweb.datalog.joins import Sizes
from tripleweb.datalog.plan import Given, Program
from tripleweb.datalog.recursion import Recursion
from tripleweb.datalog.standing import Standing
from tripleweb.store import Store
from tripleweb.terms import Value

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


class Maintained:
    """The derivations of a query over a store. Raises `Unsupported` where the query cannot be compiled."""

    def __init__(
        self,
        program: Program,
        inputs: Sequence[tuple[Binding, Any]],
        store: Store,
    ) -> None:
        self.store = store
        self.counts: dict[Row, int] = {}
        self._touched = 0
        self.scalars, given = bind_inputs(program, inputs)
        writer = Writer(program)
        outer = bodies_of(writer, given, self.scalars)
        relations = {name: Relation(rows.rows) for name, rows in given.items()}
        sizes = Sizes(store, relations, {**self.scalars, **writer.constants})
        recursion = Recursion(writer, sizes, relations)
        bodies = recursion.adorned(outer, self.scalars)
        constants = {**self.scalars, **writer.constants}
        self._scope = Scope(store, constants, program.query.kinds, relations, self.counts)
        self.standing = Standing(program.query, self.scalars, self.counts)
        self._scope.change = self.standing.apply
        self.components = recursion.compile(self._scope)
        module = Module(sizes, self._scope.constants)
        runs = [module.run(body) for body in bodies]
        triggers: dict[str, list[str]] = {}
        listens: dict[str, list[str]] = {}
        for body in bodies:
            for predicate in sorted(set(predicates_of(body.literals))):
                triggers.setdefault(predicate, []).extend(module.triggers(body, Change(predicate)))
            for relation in sorted(set(relations_of(body.literals))):
                if relation not in given:
                    listens.setdefault(relation, []).extend(module.triggers(body, Change(relation=relation)))
        functions = dict(zip(module.names, module.bind(self._scope), strict=True))
        self._runs = [functions[name] for name in runs]
        self.triggers = {key: [functions[name] for name in names] for key, names in triggers.items()}
        self._listens = {key: [functions[name] for name in names] for key, names in listens.items()}
        self.predicates = frozenset(self.triggers).union(
            *(component.triggers for component in self.components)
        )
        self.module = module

    @property
    def touched(self) -> int:
        """The rows looked at so far."""
        return self._touched + self._scope.work[0] + sum(component.touched for component in self.components)

    def start(self, limit: float, most: float) -> None:
        """Finds every derivation, from nothing; once. Raises `BudgetError` where one body touches more rows than
        `limit`, or there are more than `most` answers."""
        self._scope.limit[0], self._scope.most[0] = limit, most
        for component in self.components:
            component.start()
        for run in self._runs:
            self._touched += run(1)
        self._scope.limit[0] = inf
        self.standing.fill(self.counts)
        self.standing.settle()

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

    def hears(self, predicates: frozenset[str]) -> bool:
        """True if one of these predicates can change the answer."""
        return not self.predicates.isdisjoint(predicates)

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
