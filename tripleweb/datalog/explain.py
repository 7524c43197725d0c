"""What a query costs, step by step: `explain` runs it, and says what each clause was expected to make and what it made.

A query that is compiled is taken in the order of its generated code; its first one, two, three … clauses are run, and a
step is what one more of them adds: its rows, the rows that it touched, the time that it took. A query of the plain
evaluator is run once, with a meter at each stage; there rows are what goes on to the next stage, and what rules and
negations do is told in steps of their own. Invariants: `actual` and `touched` are counted by the code that answers
queries, never estimated; the last step is what is made of the rows that the clauses gave; the store stays as it is.
Time comes from `clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from tripleweb.datalog.answer import Result
from tripleweb.datalog.bodies import Literal, Member, Triple, Unsupported, Without, outputs_of, predicates_of
from tripleweb.datalog.builtins import FUNCTIONS, complete, forward
from tripleweb.datalog.clauses import (
    Binding,
    Call,
    Constant,
    Not,
    Pattern,
    RuleCall,
    Rules,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.compiled import Module
from tripleweb.datalog.edn import SHOWN_MAX, Form, show
from tripleweb.datalog.evaluate import Budget, Evaluation, Site, Table, TableBody, evaluate
from tripleweb.datalog.executor import Executor, Prepared
from tripleweb.datalog.inputs import ITEMS_MAX, prepare
from tripleweb.datalog.joins import steps
from tripleweb.datalog.kinds import predicate_text
from tripleweb.datalog.plan import Given, Program, Step, arrange, expected
from tripleweb.datalog.query import Query
from tripleweb.datalog.relation import Row, Rows, Stage, Work, known
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.ids import kind_of
from tripleweb.schema import field_of
from tripleweb.store import Store

AROUND_MAX = 40  # characters of what a clause stands in
_LITTLE = "recursion, or collections among its inputs, over little data"
REPEATS = 20  # times that what is quick is measured again at most: the least counts
LONG = 0.005  # seconds: what has taken so long is measured enough
Clock = Callable[[], float]  # seconds
_Found = TypeVar("_Found")

# name -> kind, by letter
COLUMNS = {
    "step": "n",
    "body": "n",
    "clause": "s",
    "within": "s",
    "access": "s",
    "estimated": "n",
    "actual": "n",
    "touched": "n",
    "ms": "n",
    "executor": "s",
    "note": "s",
}


class Explained(NamedTuple):
    """Rows of `COLUMNS`; `facts` are of the whole query, ready for JSON."""

    rows: list[tuple[Any, ...]]
    facts: dict[str, Any]


@dataclass(eq=False)
class _Step:
    """A clause in its place. `body` counts the ways through `or` and rules; `within` is what it stands in."""

    body: int
    clause: str
    within: str
    access: str
    executor: str
    estimated: float | None
    predicates: tuple[str, ...]
    alone: bool = False  # it makes rows, and shares nothing with what comes before
    given: int = 0  # rows that came to it
    actual: int = 0
    touched: int = 0
    seconds: float = 0.0
    inner: list[_Step] = field(default_factory=list)


def explain(
    executor: Executor,
    query: Query,
    inputs: Sequence[Any],
    rules: Rules | None = None,
    *,
    clock: Clock,
    budget: Budget | None = None,
    there: Collection[str] = (),
) -> Explained:
    """Runs a query over the executor's store and says how. Raises `QueryError`, `BudgetError` and what callables raise.

    A row a step: `step` from 1 on; `body`: which of the ways through its `or` and rules; `clause`: its text; `within`:
    the `or`, rule or negation that it stands in; `access`: look up subject, look up value, scan, filter, function,
    negation, relation (of an input or a rule), answer; `estimated`: rows expected after it, as the order of clauses
    was chosen by; `actual`: rows after it; `touched`: rows looked at in it; `ms`; `executor`: compiled, plain, or
    recursion (a rule that calls itself, by the plain evaluator); `note`: what may be wrong. The last one makes the
    answer of the rows. `facts`: `executor` and why it is not the compiled one (`executor_reason`); `rows`, `touched`
    and `ms` in all; `live`: whether a live frame of it follows by "triggers" or is evaluated "afresh", and why
    (`live_reason`); `predicates` that it reads, None: any. `there` are predicates that there is data of elsewhere.

    >>> from tripleweb.change import Change
    >>> from tripleweb.datalog.query import parse
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/age", "", 36, 1, "r"), Change("bob", "user/age", "", 17, 1, "r")])
    >>> query = parse("[:find ?u :where [(>= ?age 18)] [?u :user/age ?age]]")
    >>> told = explain(Executor(store), query, [], clock=lambda: 0.0)
    >>> [(row[2], row[4], row[6]) for row in told.rows]
    [('[?u :user/age ?age]', 'scan', 2), ('[(>= ?age 18)]', 'filter', 1), (':find ?u', 'answer', 1)]
    >>> told.facts["executor"], told.facts["live"]
    ('compiled', 'triggers')
    """
    # what gives its items but once is asked for several times here
    inputs = [
        list(islice(value, ITEMS_MAX + 1)) if isinstance(value, Iterator) else value for value in inputs
    ]
    program, pairs = prepare(query, inputs, rules)
    prepared = executor.prepared(query, inputs, rules)
    name = "plain" if isinstance(prepared, str) else prepared.way
    if isinstance(prepared, Prepared) and name != "plain":
        given = [value for _, value in pairs]
        result, total = _timed(lambda: prepared.call(given, budget or Budget()), clock)
        name = prepared.way  # it may have learnt better
        if name == "compiled":
            found = list(_compiled_steps(prepared, clock))
        else:
            found = list(_vectorised_steps(prepared, given, budget or Budget(), clock))
    else:
        metered = _Metered(program, pairs, executor.store, clock)
        result, total = metered.run(budget)
        found = metered.steps
    why = None if name != "plain" else prepared if isinstance(prepared, str) else _LITTLE
    touched = sum(step.touched for step in found)
    # what the plain evaluator did beside is the answer's; compiled steps are counted by running them again, where a
    # negation may look up what it had to scan for before
    left = 0 if name == "compiled" else result.work - touched
    spent = total - sum(step.seconds for step in found)
    reads = program.query.predicates
    told = {forward(name) or name for step in found for name in step.predicates}
    rest = tuple(sorted({forward(name) or name for name in reads or ()} - told))
    last = _Step(1, _find_text(query.form), "", "answer", name, None, rest)
    last.actual, last.touched, last.seconds = len(result.rows), max(0, left), max(0.0, spent)
    live = _why_afresh(query, inputs, rules)
    everywhere = {*there, *executor.store.predicates()}
    return Explained(
        [
            (
                number,
                step.body,
                step.clause,
                step.within,
                step.access,
                None if step.estimated is None else round(step.estimated, 2),
                step.actual,
                step.touched,
                round(step.seconds * 1000, 4),
                step.executor,
                _note(step, everywhere),
            )
            for number, step in enumerate([*found, last], 1)
        ],
        {
            "executor": name,
            "executor_reason": why,
            "rows": len(result.rows),
            "touched": touched + max(0, left),
            "ms": round(total * 1000, 4),
            "live": "triggers" if live is None else "afresh",
            "live_reason": live,
            "predicates": None if reads is None else sorted(reads),
        },
    )


def _timed(call: Callable[[], _Found], clock: Clock) -> tuple[_Found, float]:
    """What a call gives, and how long it takes: the least of a few times, if it is quick."""
    started = clock()
    found = call()
    least = spent = clock() - started
    for _ in range(REPEATS):
        if spent >= LONG:
            break
        started = clock()
        call()
        took = clock() - started
        spent += took
        least = min(least, took)
    return found, least


def _why_afresh(query: Query, inputs: Sequence[Any], rules: Rules | None) -> str | None:
    """Why a live query is evaluated afresh; None if triggers follow. They are made for an empty store: for the one
    that is asked they would leave indexes behind, which every write from then on would keep right."""
    upkeep = Upkeep(Store())
    try:
        upkeep.prepare(upkeep.open(query, inputs, rules))
    except Unsupported as reason:
        return str(reason)
    return None


def _find_text(form: Form) -> str:
    parts: list[str] = []
    taken = False
    for index, item in enumerate(form.value):
        if item.kind == "keyword" and (form.kind == "vector" or index % 2 == 0):
            taken = item.value == "find"
        if taken:
            parts.append(show(item, SHOWN_MAX))
    return " ".join(parts)


def _note(step: _Step, there: Collection[str]) -> str:
    """What is probably not meant. `there` are the predicates that there is data of."""
    said = []
    for name in step.predicates:
        name = forward(name) or name
        if name not in there:
            said.append(f"no triple has {predicate_text(name)}{_near(name, sorted(there))}")
    if step.alone and step.given > 1:
        said.append(f"a cross product: it shares nothing with the {step.given:,} rows before")
    return "; ".join(said)


def _near(name: str, there: Sequence[str]) -> str:
    """Predicates that may be meant: fields of its kind; where there is no such kind, this field of kinds that look
    alike, or else whichever predicates do."""
    kind = kind_of(name)
    siblings = {field_of(other): other for other in there if kind_of(other) == kind}
    alike = siblings or {other: other for other in there}
    close = get_close_matches(field_of(name) if siblings else name, alike, 2)
    close = [one for one in close if field_of(one) == field_of(name)] or close
    return f"; did you mean {' or '.join(predicate_text(alike[one]) for one in close)}?" if close else ""


# -- generated code -------------------------------------------------------------------------------------------


def _compiled_steps(prepared: Prepared, clock: Clock) -> Iterator[_Step]:
    assert prepared.finder is not None
    prepared.finder.functions  # noqa: B018 (they have an order once they are made)
    plan, scope = prepared.plan, prepared.finder.scope
    names, values = list(plan.constants), list(plan.constants.values())
    sizes = plan.sizes(())
    module = Module(sizes, ())
    orders = prepared.finder.module.orders
    counts = [
        [module.count([literal for _, literal in ordered[:end]], names) for end in range(len(ordered) + 1)]
        for ordered in orders
    ]
    functions = module.bind(scope)

    def measured(name: str) -> tuple[int, int, float]:
        def call() -> tuple[int, int]:
            scope.work[0] = 0
            rows, work = functions[name](*values)
            return rows, work + scope.work[0]

        (rows, work), seconds = _timed(call, clock)
        return rows, work, seconds

    for number, (ordered, starts) in enumerate(zip(orders, counts, strict=True), 1):
        seen, joined = set(names), set[str]()
        rows, work, seconds = measured(starts[0])
        estimates = steps(ordered, names, sizes)
        for (_, literal), estimated, name in zip(ordered, estimates, starts[1:], strict=True):
            step = _step_of(number, literal, seen, joined, "compiled", estimated, rows)
            before, spent = work, seconds
            rows, work, seconds = measured(name)
            step.actual, step.touched, step.seconds = rows, work - before, max(0.0, seconds - spent)
            seconds = max(seconds, spent)
            seen.update(outputs_of(literal))
            joined = seen.difference(names)
            yield step


def _vectorised_steps(
    prepared: Prepared, inputs: Sequence[Any], budget: Budget, clock: Clock
) -> Iterator[_Step]:
    constants, _, relations = prepared.given(inputs)
    seen, body, given = set(constants), 0, 1
    found = prepared.by_columns().steps(constants, relations, budget, clock)
    for number, literal, estimated, rows, touched, seconds in found:
        if number != body:
            seen, body, given = set(constants), number, 1
        step = _step_of(number, literal, seen, seen.difference(constants), "vectorised", estimated, given)
        step.actual, step.touched, step.seconds = rows, touched, seconds
        seen.update(outputs_of(literal))
        given = rows
        yield step


def _step_of(
    body: int, literal: Literal, seen: set[str], joined: set[str], executor: str, estimated: float, given: int
) -> _Step:
    origin = literal.origin or (None,)  # an input has none
    return _Step(
        body,
        "" if origin[-1] is None else show(origin[-1], SHOWN_MAX),
        ", ".join(show(form, AROUND_MAX) for form in literal.origin[:-1]),
        _access(literal, seen),
        executor,
        estimated,
        tuple(sorted(set(predicates_of((literal,))))),
        isinstance(literal, Triple) and joined.isdisjoint((literal.subject, literal.value)),
        given,
    )


def _access(literal: Literal, seen: set[str]) -> str:
    if isinstance(literal, Triple):
        if literal.subject in seen:
            return "look up subject"
        return "look up value" if literal.value in seen else "scan"
    if isinstance(literal, Without):
        return "negation"
    if isinstance(literal, Member):
        return "relation"
    return "filter" if literal.binding is None else "function"


# -- the plain evaluator --------------------------------------------------------------------------------------


class _Metered(Evaluation):
    """An evaluation that knows of each stage what it costs. Time and work go to the innermost stage that runs."""

    def __init__(
        self, program: Program, inputs: Sequence[tuple[Binding, Any]], store: Store, clock: Clock
    ) -> None:
        super().__init__(program, inputs, store)
        self._clock = clock
        self._bindings = {
            tuple(bound(binding)): binding for binding, _ in inputs if not isinstance(binding, Variable)
        }
        self._scalars = {binding.name for binding, _ in inputs if isinstance(binding, Variable)}
        self._top: list[_Step] = []
        self._of_rules: dict[Table, list[_Step]] = {}
        self._making: list[_Step] = []  # negations whose stages are being made
        self._estimates: list[Iterator[float]] = []
        self._last: _Step | None = None
        self._sites: dict[Site, _Step] = {}
        self._active: _Step | None = None
        self._since = 0.0
        self._charged = False  # the units that are on their way up are counted

    def run(self, budget: Budget | None) -> tuple[Result, float]:
        started = self._clock()
        work = evaluate(self, budget)
        return complete(work), self._clock() - started

    def result(self) -> Work:
        work = super().result()
        while True:
            self._charged = False
            try:
                units = next(work)
            except StopIteration as done:
                return done.value
            yield units

    @property
    def steps(self) -> list[_Step]:
        """Those of the query, each with those of its negation, then those of rules."""
        tops = [*self._top, *(step for found in self._of_rules.values() for step in found)]
        return [step for top in tops for step in _with_inner(top)]

    # -- where it looks on

    def stages(
        self,
        clauses: Sequence[Step],
        columns: Sequence[str],
        output: Iterable[str],
        rows: float,
        body: TableBody | None,
    ) -> tuple[list[Stage | Site], tuple[str, ...]]:
        ordered = arrange(self.program, clauses, columns, rows, self.sizes)
        self._estimates.append(iter(expected(self.program, ordered, columns, rows, self.sizes)))
        made = super().stages(clauses, columns, output, rows, body)
        self._estimates.pop()
        return made

    def _stage(
        self, clause: Step, columns: tuple[str, ...], body: TableBody | None
    ) -> tuple[Stage | Site, tuple[str, ...]]:
        step = self._step(clause, columns, body)
        self._making.append(step)
        stage, columns = super()._stage(clause, columns, body)
        self._making.pop()
        self._last = step
        if isinstance(stage, Site):
            self._sites[stage] = step
            return stage, columns
        return self._metered(step, stage), columns

    def _projection(self, columns: Sequence[str], keep: Sequence[str]) -> Stage:
        stage, step = super()._projection(columns, keep), self._last
        assert step is not None  # a projection follows what it projects

        def projected(rows: Rows) -> Work:
            kept = yield from self._watched(step, stage(rows))
            step.actual -= len(rows) - len(kept)
            return kept

        return projected

    def _metered(self, step: _Step, stage: Stage) -> Stage:
        def metered(rows: Rows) -> Work:
            step.given += len(rows)
            made = yield from self._watched(step, stage(rows))
            step.actual += len(made)
            return made

        return metered

    def _wait(self, site: Site, rows: Rows) -> Work:
        self._sites[site].given += len(rows)
        return (yield from self._watched(self._sites[site], super()._wait(site, rows)))

    def _meet(self, site: Site, rows: Rows, pairs: Callable[[Rows], Iterator[tuple[Row, Row]]]) -> Work:
        return (yield from self._watched(self._sites[site], super()._meet(site, rows, pairs)))

    def _go_on(self, body: TableBody, start: int, rows: Rows) -> Work:
        if start:  # what a site made
            site = body.stages[start - 1]
            assert isinstance(site, Site)
            self._sites[site].actual += len(rows)
        return (yield from super()._go_on(body, start, rows))

    def _watched(self, step: _Step, work: Work) -> Generator[int, None, Any]:
        while True:
            outer = self._switch(step)
            try:
                units = next(work)
            except StopIteration as done:
                return done.value
            finally:
                self._switch(outer)
            if not self._charged:
                step.touched += units
                self._charged = True
            yield units

    def _switch(self, step: _Step | None) -> _Step | None:
        """Time counts for this step from now on; returns the one that it counted for."""
        now = self._clock()
        if self._active is not None:
            self._active.seconds += now - self._since
        before, self._active, self._since = self._active, step, now
        return before

    # -- what it says of a clause

    def _step(self, clause: Step, columns: tuple[str, ...], body: TableBody | None) -> _Step:
        around = self._making[-1] if self._making and body is None else None
        recursive = self.program.recursive
        called = body.table.name if body is not None else ""
        if isinstance(clause, RuleCall):
            called = clause.name if clause.name in recursive else called
        number, within, siblings = 1, "", self._top
        if around is not None:
            number, within, siblings = around.body, around.clause, around.inner
        elif body is not None:
            table = body.table
            branches = self.program.bodies[table.name]
            number = len(table.bodies or ()) + 1
            form = branches[0].form
            within = show(form if table.name.startswith("or ") else form.value[0], AROUND_MAX)
            siblings = self._of_rules.setdefault(table, [])
        step = _Step(
            number,
            self._text(clause),
            within[:AROUND_MAX],
            _access_of(clause, columns),
            "recursion" if called in recursive or (around and around.executor == "recursion") else "plain",
            next(self._estimates[-1]),
            tuple(_read_by(clause)),
            isinstance(clause, Pattern)
            and self._scalars.issuperset({*columns}.intersection(variables(clause))),
        )
        siblings.append(step)
        return step

    def _text(self, clause: Step) -> str:
        if not isinstance(clause, Given):
            return show(clause.form, SHOWN_MAX)
        binding = self._bindings[clause.variables]
        form = getattr(binding, "form", None)
        return ":in _" if form is None else f":in {show(form, SHOWN_MAX)}"


def _with_inner(step: _Step) -> Iterator[_Step]:
    yield step
    for one in step.inner:
        yield from _with_inner(one)


def _access_of(clause: Step, columns: Sequence[str]) -> str:
    if isinstance(clause, Pattern):
        if known(clause.subject, columns):
            return "look up subject"
        return "look up value" if known(clause.value, columns) else "scan"
    if isinstance(clause, Not):
        return "negation"
    if isinstance(clause, Call):
        return "filter" if clause.binding is None else "function"
    return "relation"


def _read_by(clause: Step) -> Iterator[str]:
    """The predicates that a clause names; those within a negation or a rule have clauses of their own."""
    terms: Sequence[Any] = ()
    if isinstance(clause, Pattern):
        terms = (clause.predicate,)
    elif isinstance(clause, Call) and isinstance(clause.function, str) and FUNCTIONS[clause.function].reads:
        terms = clause.arguments[1:] if clause.function == "get-some" else clause.arguments[1:2]
    for term in terms:
        if isinstance(term, Constant) and isinstance(term.value, str):
            yield term.value
