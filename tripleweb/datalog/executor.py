"""Answers once: a query over a store by generated code where that can be, else by the plain evaluator.

An `Executor` belongs to one store. It keeps what was prepared for a query, so that asking again with other inputs is a
call; when the sizes of the columns have changed much, the order of joins is found anew. Invariant: the rows are those
of `evaluate.run`, in whatever order where none was promised. Recursion, callables and collections among the inputs,
and what `Unsupported` says, go to the plain evaluator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import Result, Row, answer
from tripleweb.datalog.bodies import Body, Unsupported, predicates_of
from tripleweb.datalog.builtins import complete, outward
from tripleweb.datalog.captured import Relation
from tripleweb.datalog.clauses import RULES, Binding, Rules, Variable
from tripleweb.datalog.compiled import Module
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.inputs import bind, prepare
from tripleweb.datalog.maintained import Plan
from tripleweb.datalog.plan import Program
from tripleweb.datalog.pull import Puller
from tripleweb.datalog.query import Aggregate, Query
from tripleweb.store import Store
from tripleweb.view import Fitting

KEPT_MAX = 512
GROWTH = 2  # bits: by how much a column may grow or shrink until the order is found anew
_PLAIN = frozenset((str, int, float))


class Finder:
    """Functions that find the rows of bodies of a plan, each with the variables that are its parameters."""

    def __init__(self, plan: Plan, bodies: Sequence[tuple[Body, Sequence[str]]]) -> None:
        self.scope = plan.scope(Relation())
        self.module = Module(plan.sizes(()), self.scope.constants)
        names = [self.module.find(body, parameters) for body, parameters in bodies]
        functions = self.module.bind(self.scope)
        self.functions = [functions[name] for name in names]
        self._store = plan.store
        self._predicates = sorted({name for body, _ in bodies for name in predicates_of(body.literals)})
        self._sizes = self._measure()

    def _measure(self) -> list[int]:
        return [self._store.count(name).bit_length() for name in self._predicates]

    @property
    def fits(self) -> bool:
        """False once the columns have other sizes than those that the order of joins was made for."""
        return all(abs(now - then) <= GROWTH for now, then in zip(self._measure(), self._sizes, strict=True))


class Prepared:
    """A query of single values, ready to be called with others. Raises `Unsupported`."""

    def __init__(self, store: Store, program: Program, inputs: Sequence[tuple[Binding, Any]]) -> None:
        query = program.query
        plan = self.plan = Plan(program, inputs, store)  # with the constants of these inputs
        if plan.key is None:
            raise Unsupported("recursion, callables or collections among its inputs")
        self.query = query
        self._store = store
        self._form = query.form
        self._constants = list(plan.constants.values())
        names = list(plan.constants)
        self._places = [
            (names.index(plan.names[binding.name]) if binding.name in plan.names else -1, binding)
            for binding, _ in inputs
            if isinstance(binding, Variable)  # all of them, or the plan had no key
        ]
        finder = Finder(plan, [(replace(body, literals=body.literals[1:]), names) for body in plan.bodies])
        self.scope, self.module, self._finds = finder.scope, finder.module, finder.functions
        self._finder = finder
        kinds = query.kinds
        self.width = len(inputs)
        self._source = Fitting(store, kinds) if kinds else store
        self._is_plain = not (
            any(isinstance(element, Aggregate) for element in query.find)
            or query.with_
            or query.order_by
            or query.limit is not None
            or query.offset
            or query.looks_up
        )

    @property
    def fits(self) -> bool:
        """As `Finder.fits`."""
        return self._finder.fits

    def call(self, inputs: Sequence[Any], budget: Budget) -> Result:
        constants = self._constants.copy()
        scalars: dict[str, Any] = {}
        for (place, binding), given in zip(self._places, inputs, strict=True):
            value = given if type(given) is str else self._value(binding, given)
            scalars[binding.name] = value
            if place >= 0:
                constants[place] = value
        scope = self.scope
        scope.limit[0] = inf if budget.rows is None else budget.rows
        scope.allow(budget.bytes)
        scope.work[0] = work = 0
        rows: dict[Row, None] = {}
        for find in self._finds:
            work += find(rows, *constants)
        query = self.query
        if self._is_plain and (len(rows) < 2 or query.shape in ("relation", "collection")):
            result = Result(query.columns, _outward(list(rows)))
        else:
            puller = Puller(self._source, query.fields) if query.looks_up else None
            result = complete(answer(query, scalars, list(rows), puller))
        result.work = work + scope.work[0]
        return result

    def _value(self, binding: Variable, given: Any) -> Any:
        rows = list(bind(binding, given, self._form))
        if not rows:
            raise self._form.error(f"the input {binding.name} has no value", "a value that is not missing")
        return rows[0][0]


def _outward(rows: list[Row]) -> list[Row]:
    return [row if _PLAIN.issuperset(map(type, row)) else tuple(map(outward, row)) for row in rows]


class Executor:
    """Queries over one store, asked once each.

    >>> from tripleweb.change import Change
    >>> from tripleweb.datalog.query import parse
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/age", "", 36, 1, "r"), Change("bob", "user/age", "", 17, 1, "r")])
    >>> query = parse("[:find ?u ?age :in $ ?least :where [?u :user/age ?age] [(>= ?age ?least)]]")
    >>> executor = Executor(store)
    >>> executor.run(query, [18]).rows, executor.run(query, [50]).rows
    ([('ada', 36)], [])
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._prepared: dict[int, tuple[Query, Rules | None, Prepared | str]] = {}  # by id() of the query

    def run(
        self,
        query: Query,
        inputs: Sequence[Any],
        rules: Rules | None = None,
        budget: Budget | None = None,
    ) -> Result:
        """The answer now. Raises `QueryError`, `BudgetError` and what callables among the inputs raise."""
        budget = budget or Budget()
        if RULES in query.inputs:  # other rules are another query
            return evaluate.run(query, inputs, self.store, rules=rules, budget=budget)
        held = self._prepared.get(id(query))
        if held is None or held[1] is not rules or not (isinstance(held[2], str) or held[2].fits):
            program, pairs = prepare(query, inputs, rules)
            inputs = [value for _, value in pairs]  # what could be gone through once only was
            held = self._keep(query, rules, program, pairs)
        prepared = held[2]
        if (
            isinstance(prepared, Prepared)
            and len(inputs) == prepared.width
            and not any(map(callable, inputs))
        ):
            return prepared.call(inputs, budget)
        return evaluate.run(query, inputs, self.store, rules=rules, budget=budget)

    def _keep(
        self, query: Query, rules: Rules | None, program: Program, pairs: Sequence[tuple[Binding, Any]]
    ) -> tuple[Query, Rules | None, Prepared | str]:
        prepared: Prepared | str
        try:
            prepared = Prepared(self.store, program, pairs)
        except Unsupported as why:
            prepared = str(why)
        if len(self._prepared) >= KEPT_MAX:
            self._prepared.clear()
        held = self._prepared[id(query)] = query, rules, prepared
        return held

    def reason(self, query: Query, inputs: Sequence[Any], rules: Rules | None = None) -> str | None:
        """Why a query goes to the plain evaluator; None if it does not."""
        held = self.prepared(query, inputs, rules)
        return held if isinstance(held, str) else None

    def prepared(self, query: Query, inputs: Sequence[Any], rules: Rules | None = None) -> Prepared | str:
        """A query made ready anew; or why it goes to the plain evaluator."""
        return self._keep(query, rules, *prepare(query, inputs, rules))[2]
