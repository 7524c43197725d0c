"""Answers once: a query over a store by generated code, by columns, or by the plain evaluator.

An `Executor` belongs to one store. It keeps what was prepared for a query, so that asking again with other inputs is a
call; when the sizes of the columns have changed much, the order of joins is found anew. Generated code is for what
looks at few rows: it costs next to nothing to call. What looks at many runs in numpy (`vectorised`), at a fixed price
and a fraction of the time a row. Which of the two is told by how many rows the code is expected to touch, and what it
touched the last time; the reverse indexes that it would need are built once the runs without them have cost as much.
After each write mirrors are copied, which generated code need not wait for: the larger they are, the more it may touch.
A query that looks something up goes to the plain evaluator until that has cost as much as generating code would: most
queries that somebody types are asked once.

Invariant: the rows are those of `evaluate.run`, in whatever order where none was promised. Callables among the inputs,
and what `Unsupported` says, go to the plain evaluator, as do rules that call themselves over little data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import Result, Row, answer
from tripleweb.datalog.bodies import (
    Body,
    Literal,
    Triple,
    Unsupported,
    Without,
    has_callable,
    members_of,
    outputs_of,
    predicates_of,
)
from tripleweb.datalog.builtins import complete, outward
from tripleweb.datalog.captured import Relation, Scope
from tripleweb.datalog.clauses import RULES, SOURCE, Binding, Rules, Variable
from tripleweb.datalog.compiled import Module
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.inputs import bind, prepare, still
from tripleweb.datalog.joins import Sizes, best
from tripleweb.datalog.maintained import MANY, Plan, bind_inputs
from tripleweb.datalog.plan import Program
from tripleweb.datalog.pull import Puller
from tripleweb.datalog.query import Aggregate, Query
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.view import Fitting

if TYPE_CHECKING:
    from tripleweb.datalog.vectorised import Vectorised

KEPT_MAX = 512
GROWTH = 2  # bits: by how much a column may grow or shrink until the order is found anew
INDEXED = 30  # times so many rows are indexed in the time that the first run by columns takes: measured
COPIED = 32_000  # rows of mirrors that are looked at again in the time that a run by columns takes at least: measured
LEAN = 16  # the plain evaluator takes so many times longer for a row than generated code, about: measured
GENERATED = 600  # units of work of the plain evaluator that take as long as generating code: measured
LOOK = 140  # such units that a run of it takes, however little it finds: measured
_PLAIN = frozenset((str, int, float))


class Finder:
    """Functions that find the rows of bodies of a plan, each with the variables that are its parameters."""

    def __init__(self, plan: Plan, bodies: Sequence[tuple[Body, Sequence[str]]]) -> None:
        self._plan = plan
        self._bodies = bodies
        self._store = plan.store
        self._predicates = sorted({name for body, _ in bodies for name in predicates_of(body.literals)})
        self._counts = self._measure()
        sizes = plan.sizes(())
        known = [(*parameters, *plan.captured) for _, parameters in bodies]
        found = [best(body.literals, names, sizes) for (body, _), names in zip(bodies, known, strict=True)]
        self._orders = [ordered for ordered, _ in found]
        self.price = sum(price for _, price in found)  # rows that they are expected to touch
        self._reversed: set[str] = set()  # predicates whose reverse indexes they look into
        for names, ordered in zip(known, self._orders, strict=True):
            self._reverse([literal for _, literal in ordered], names, sizes)

    def _reverse(self, ordered: Iterable[Literal], known: Iterable[str], sizes: Sizes) -> None:
        seen = set(known)
        for literal in ordered:
            if isinstance(literal, Triple) and literal.subject not in seen and literal.value in seen:
                self._reversed.add(literal.predicate)
            elif isinstance(literal, Without):
                inner, _ = best(literal.literals, {*known, *literal.joined}, sizes)
                self._reverse([one for _, one in inner], {*known, *literal.joined}, sizes)
            seen.update(outputs_of(literal))

    def _measure(self) -> list[int]:
        return [self._store.count(name).bit_length() for name in self._predicates]

    @property
    def fits(self) -> bool:
        """False once the columns have other sizes than those that the order of joins was made for."""
        return all(abs(now - then) <= GROWTH for now, then in zip(self._measure(), self._counts, strict=True))

    @cached_property
    def scope(self) -> Scope:
        return self._plan.scope(Relation())

    @cached_property
    def module(self) -> Module:
        return Module(self._plan.sizes(()), self.scope.constants)

    @cached_property
    def functions(self) -> list[Any]:
        """Made when they are first called, and with them the indexes that they look into."""
        pairs = zip(self._bodies, self._orders, strict=True)
        names = [self.module.find(body, parameters, ordered) for (body, parameters), ordered in pairs]
        functions = self.module.bind(self.scope)
        return [functions[name] for name in names]

    @property
    def unindexed(self) -> int:
        """Triples that must be indexed before they can be called."""
        columns = [self._store.column(name)[1] for name in sorted(self._reversed)]
        return sum(column.live for column in columns if column.index is None)

    @property
    def spoilt(self) -> int:
        """Rows of the mirrors that are to be copied before they are looked at: there was a write since."""
        columns = [self._store.column(name)[1] for name in self._predicates]
        return sum(len(column.values) for column in columns if column.mirror and column.mirror.stale)


class Prepared:
    """A query ready to be asked with other inputs. Raises `Unsupported`.

    `finder` is its generated code; None where only columns can do it: for rules that call themselves, and relations
    among the inputs.
    """

    def __init__(
        self, store: Store, program: Program, inputs: Sequence[tuple[Binding, Any]], many: int = MANY
    ) -> None:
        self.program = program
        self.query = query = program.query
        self.plan = Plan(program, inputs, store)  # with the constants of these inputs
        derived = [body for _, body in self.plan.recursion.bodies()]
        for body in (*self.plan.bodies, *derived):
            if has_callable(body.literals):
                raise Unsupported("callables among its inputs")
            if any(not relation.terms for relation in members_of(body.literals)):
                raise Unsupported("an input without variables")
        self._store = store
        self._form = query.form
        self._many = many
        self.width = len(inputs)
        self._bindings = [binding for binding, _ in inputs]
        constants = self.plan.constants or self.plan.captured
        self._names = list(constants)
        self._constants = list(constants.values())
        self._places = [
            self._names.index(name)
            if (name := self.plan.names.get(binding.name, binding.name)) in self._names
            else -1
            for binding in self._bindings
            if isinstance(binding, Variable)
        ]
        self.bodies = self.plan.free
        self.finder: Finder | None = None
        if self.plan.key is not None:
            self.finder = Finder(self.plan, [(body, self._names) for body in self.bodies])
        self._columns: Vectorised | None = None
        self._touched = self.finder.price if self.finder is not None else inf  # rows, by generated code
        self._owed = 0.0  # rows that runs by columns have cost while generated code waited for its indexes
        kinds = query.kinds
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
        return self.finder is None or self.finder.fits

    def call(self, inputs: Sequence[Any], budget: Budget) -> Result:
        if self.finder is not None:
            if self.way == "compiled":
                constants, scalars = self._bound(inputs)
                return self._compiled(self.finder, constants, scalars, budget)
            self._owed += self._least
        return self.by_columns().call(*self.given(inputs), budget)

    @property
    def way(self) -> str:
        """What answers it now: "compiled", "vectorised", or "plain"."""
        if self.finder is None:
            triples = sum(self._store.count(name) for name in self.query.predicates or ())
            return "vectorised" if triples > self._many // LEAN else "plain"
        is_lean = self._touched <= self._many or self._touched <= self._least
        is_quick = is_lean and self.finder.unindexed <= self._owed + INDEXED * self._many
        return "compiled" if is_quick else "vectorised"

    @property
    def _least(self) -> float:
        """Rows that generated code touches in the time that a run by columns takes now at least."""
        assert self.finder is not None
        return self._many * (1 + self.finder.spoilt / COPIED)

    def given(self, inputs: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Relation]]:
        """(the constants of the bodies, the inputs that are single values, the others), by name."""
        if self.finder is not None:
            constants, scalars = self._bound(inputs)
            return dict(zip(self._names, constants, strict=True)), scalars, {}
        held = [still(value, self._form) for value in inputs]
        scalars, given = bind_inputs(self.program, list(zip(self._bindings, held, strict=True)))
        kept = dict(zip(self._names, self._constants, strict=True))
        return kept | scalars, scalars, {name: Relation(rows.rows) for name, rows in given.items()}

    def _bound(self, inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """(the constants of the bodies, the inputs by name)."""
        constants = self._constants.copy()
        scalars: dict[str, Any] = {}
        for place, binding, given in zip(self._places, self._bindings, inputs, strict=True):
            assert isinstance(binding, Variable)  # all of them, or the plan had no key
            value = given if type(given) is str else self._value(binding, given)
            scalars[binding.name] = value
            if place >= 0:
                constants[place] = value
        return constants, scalars

    def _compiled(
        self, finder: Finder, constants: Sequence[Any], scalars: dict[str, Any], budget: Budget
    ) -> Result:
        scope = finder.scope
        scope.limit[0] = inf if budget.rows is None else budget.rows
        scope.allow(budget.bytes)
        scope.work[0] = work = 0
        rows: dict[Row, None] = {}
        for find in finder.functions:
            work += find(rows, *constants)
        query = self.query
        if self._is_plain and (len(rows) < 2 or query.shape in ("relation", "collection")):
            result = Result(query.columns, _outward(list(rows)))
        else:
            puller = Puller(self._source, query.fields) if query.looks_up else None
            result = complete(answer(query, scalars, list(rows), puller))
        result.work = work + scope.work[0]
        self._touched = max(result.work, self._touched / 2)
        return result

    def by_columns(self) -> Vectorised:
        """The query for numpy, which is imported for the first one."""
        if self._columns is None:
            from tripleweb.datalog.vectorised import Vectorised

            scope = self.plan.scope(Relation())
            self._columns = Vectorised(self._store, self.query, self.bodies, self.plan.recursion, scope)
        return self._columns

    def _value(self, binding: Variable, given: Any) -> Any:
        rows = list(bind(binding, given, self._form))
        if not rows:
            raise self._form.error(f"the input {binding.name} has no value", "a value that is not missing")
        return rows[0][0]


def _outward(rows: list[Row]) -> list[Row]:
    return [row if _PLAIN.issuperset(map(type, row)) else tuple(map(outward, row)) for row in rows]


class Executor:
    """Queries over one store, asked once each. `many`: from so many rows on it runs by columns.

    >>> from tripleweb.change import Change
    >>> from tripleweb.datalog.query import parse
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/age", "", 36, 1, "r"), Change("bob", "user/age", "", 17, 1, "r")])
    >>> query = parse("[:find ?u ?age :in $ ?least :where [?u :user/age ?age] [(>= ?age ?least)]]")
    >>> executor = Executor(store)
    >>> executor.run(query, [18]).rows, executor.run(query, [50]).rows
    ([('ada', 36)], [])
    """

    def __init__(self, store: Store, many: int = MANY) -> None:
        self.store = store
        self._many = many
        # by id() of the query and the text of the rules that came as an input
        self._prepared: dict[tuple[int, str], tuple[Query, Rules | None, Prepared | str]] = {}
        self._looked: dict[tuple[int, str], tuple[Query, int]] = {}  # units of work that `_look_up` took

    def run(
        self,
        query: Query,
        inputs: Sequence[Any],
        rules: Rules | None = None,
        budget: Budget | None = None,
    ) -> Result:
        """The answer now. Raises `QueryError`, `BudgetError` and what callables among the inputs raise."""
        budget = budget or Budget()
        text, given = _parted(query, inputs)
        key = id(query), text
        held = self._prepared.get(key)
        if held is None or held[1] is not rules or not (isinstance(held[2], str) or held[2].fits):
            program, pairs = prepare(query, inputs, rules)
            given = [value for _, value in pairs]  # what could be gone through once only was
            if self._looks_up(program, given):
                found = self._look_up(key, query, program, pairs, budget)
                if found is not None:
                    return found
            held = self._keep(query, text, rules, program, pairs)
        prepared = held[2]
        if (
            isinstance(prepared, Prepared)
            and len(given) == prepared.width
            and not any(map(callable, given))
            and prepared.way != "plain"
        ):
            return prepared.call(given, budget)
        if text:
            given = _with_rules(query, text, given)
        return evaluate.run(query, given, self.store, rules=rules, budget=budget)

    def _looks_up(self, program: Program, given: Sequence[Any]) -> bool:
        """Whether a query may find what it is given, single values, by looking at little."""
        bindings = [binding for binding in program.query.inputs if not isinstance(binding, str)]
        if not given or program.recursive or not all(isinstance(binding, Variable) for binding in bindings):
            return False
        names = program.query.predicates
        most = INDEXED * min(self._many, MANY)  # what looks through a column is not counted as work
        return (
            names is not None
            and all(self.store.count(name) <= most for name in names)
            and not any(map(callable, given))
        )

    def _look_up(
        self,
        key: tuple[int, str],
        query: Query,
        program: Program,
        pairs: Sequence[tuple[Binding, Any]],
        budget: Budget,
    ) -> Result | None:
        """The answer by the plain evaluator; None where that takes more than is left of what generating code does."""
        held, spent = self._looked.get(key, (query, 0))
        spent = LOOK + (spent if held is query else 0)
        result: Result | None = None
        if spent < GENERATED:
            most = GENERATED - spent if budget.rows is None else min(GENERATED - spent, budget.rows)
            evaluation = evaluate.Evaluation(program, pairs, self.store)
            try:
                result = complete(evaluate.evaluate(evaluation, Budget(most, budget.bytes)))
            except BudgetError:  # whether it is too much for the caller is for generated code to say
                spent = GENERATED
            else:
                spent += result.work
        if len(self._looked) >= KEPT_MAX:
            self._looked.clear()
        self._looked[key] = query, spent
        return result

    def _keep(
        self,
        query: Query,
        text: str,
        rules: Rules | None,
        program: Program,
        pairs: Sequence[tuple[Binding, Any]],
    ) -> tuple[Query, Rules | None, Prepared | str]:
        prepared: Prepared | str
        try:
            prepared = Prepared(self.store, program, pairs, self._many)
        except Unsupported as why:
            prepared = str(why)
        if len(self._prepared) >= KEPT_MAX:
            self._prepared.clear()
        held = self._prepared[id(query), text] = query, rules, prepared
        return held

    def foresee(self, kind: str, rows: int) -> None:
        """So many rows of a kind were loaded: what their first query would sort is sorted with the load."""
        from tripleweb.datalog.vectorised.mirrors import mirrors_of

        mirrors_of(self.store).foresee(kind, rows)

    def prepared(self, query: Query, inputs: Sequence[Any], rules: Rules | None = None) -> Prepared | str:
        """A query made ready anew; or why it goes to the plain evaluator."""
        return self._keep(query, _parted(query, inputs)[0], rules, *prepare(query, inputs, rules))[2]


def _parted(query: Query, inputs: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """(the text of the rules among the inputs, the other inputs)."""
    if RULES not in query.inputs:
        return "", inputs
    wanted = [binding for binding in query.inputs if binding != SOURCE]
    at = wanted.index(RULES)
    if len(inputs) != len(wanted) or not isinstance(inputs[at], str):
        return "", inputs  # the kept ones stand for them, or `prepare` says what is wrong
    return inputs[at], [*inputs[:at], *inputs[at + 1 :]]


def _with_rules(query: Query, text: str, inputs: Sequence[Any]) -> list[Any]:
    at = [binding for binding in query.inputs if binding != SOURCE].index(RULES)
    return [*inputs[:at], text, *inputs[at:]]
