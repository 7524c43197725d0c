"""Why a row is in an answer: its derivations, with the triples that each of them is made of.

A *derivation* is one way in which all clauses of a query hold at once: a value for each of its variables, where `_`
counts as a variable of its own, so that each pattern is a triple. What a rule says in it has a way to hold in turn, a
*way* being one of its bodies with values, and so on: a proof. The plain evaluator finds the values, with those of
the row bound from the start; which ways the rules take is found from the row downwards, layer by layer, and then the
cheapest proof of each from the triples upwards (Knuth, A Generalization of Dijkstra's Algorithm, 1977), which never
goes in circles.

Invariants: what is shown is a proof: every triple of it is there, and a source with these triples and no other has
the row, too, as long as the query negates nothing, asks for nothing that is missing and skips no rows; all work is
counted; the same source gives the same reasons.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tripleweb.datalog.aggregates import AGGREGATES
from tripleweb.datalog.answer import fold
from tripleweb.datalog.builtins import FUNCTIONS, NUMBERS, complete, inward, is_stored, order, outward
from tripleweb.datalog.clauses import (
    Binding,
    Blank,
    Call,
    Clause,
    Constant,
    Not,
    Pattern,
    RuleCall,
    Term,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.edn import show, show_value
from tripleweb.datalog.evaluate import Budget, Evaluation
from tripleweb.datalog.lookups import lookups_of
from tripleweb.datalog.plan import Given, Program, Step
from tripleweb.datalog.pull import Puller, Visits
from tripleweb.datalog.query import Aggregate, variable_name
from tripleweb.datalog.relation import Row, Work, picker
from tripleweb.errors import BudgetError
from tripleweb.terms import Value
from tripleweb.view import Source, index_key

Triple = tuple[str, str, Value]
Goal = tuple[str, Row]  # a rule, and the values of its arguments

CONSIDERED = 1_000  # derivations among which the smallest ones are looked for
GROUP_MAX = 100  # rows of a group that are shown
PULLED_MAX = 100  # triples of what is pulled that are shown
GOALS_ENOUGH = 2_000  # from here on the first proof is taken, not the cheapest
GOALS_MAX = 50_000
TEXT_MAX = 200  # of a clause, as it is shown


@dataclass(frozen=True, slots=True)
class Reason:
    """One line of why. `derivation` counts from 1, of an aggregate the rows of its group; `depth` is how many rules
    it is in. `kind` is one of `triple call input rule or not aggregate pull`; `ways`, of a rule, in how many ways it
    holds."""

    derivation: int
    depth: int
    kind: str
    clause: str
    triple: Triple | None = None
    note: str = ""
    ways: int | None = None


@dataclass
class Reasons:
    """What there is to say about a row. `derivations` counts all ways in which the query's own clauses hold; `rows`
    those of the group that an aggregate goes over, of which `left_out` are not shown (0 without an aggregate)."""

    lines: list[Reason] = field(default_factory=list)
    derivations: int = 0
    rows: int = 0
    left_out: int = 0

    @property
    def triples(self) -> dict[Triple, None]:
        """The triples that are shown, each once."""
        return dict.fromkeys(line.triple for line in self.lines if line.triple is not None)


def why(
    program: Program,
    inputs: Sequence[tuple[Binding, Any]],
    source: Source,
    known: Mapping[str, Any],
    *,
    most: int = 1,
    budget: Budget | None = None,
) -> Reasons:
    """Why a row is in the answer of a program with its inputs: `most` of its derivations, those of the fewest triples
    first, among the first `CONSIDERED` of them. No derivation: it is not in the answer.

    `known` are the values (as they are given out) of the variables that the row shows: all that are found, but those
    that go into aggregates. Raises `BudgetError`, also where a proof has more than `GOALS_MAX` steps.

    >>> from tripleweb.change import Change
    >>> from tripleweb.datalog.inputs import prepare
    >>> from tripleweb.store import Store
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/age", "", 36, 1, "r")])
    >>> query = "[:find ?u :where [?u :user/age ?a] [(> ?a 30)]]"
    >>> [(line.clause, line.triple, line.note) for line in why(*prepare(query, []), store, {"?u": "ada"}).lines]
    [('[?u :user/age ?a]', ('ada', 'user/age', 36), ''), ('[(> ?a 30)]', None, '(> 36 30)')]
    """
    return Proofs(program, inputs, source, budget).why(known, most)


@dataclass(frozen=True)
class Way:
    """One way for clauses to hold: the values of their variables."""

    clauses: tuple[Step, ...]
    values: Mapping[str, Any]
    goals: tuple[Goal, ...]
    cost: int  # triples
    note: str = ""


class Proofs:
    """Finds the proofs of what a program says over a source that does not change meanwhile."""

    def __init__(
        self,
        program: Program,
        inputs: Sequence[tuple[Binding, Any]],
        source: Source,
        budget: Budget | None = None,
    ) -> None:
        self.program = program
        self.evaluation = Evaluation(program, inputs, source)
        self.source = self.evaluation.source
        self._budget = budget or Budget()
        self._done = 0
        self.share = 1.0  # of the budget, that one piece of work may take
        self._inputs = inputs
        self.scalars, self.givens = self.run(self.evaluation.givens())
        self._ways: dict[Goal, list[Way]] = {}
        self._best: dict[Goal, tuple[int, Way]] = {}

    def run(self, work: Work) -> Any:
        """What work returns, as far as the budget goes, and its share of it."""
        budget, reader = self._budget, self.evaluation.reader
        units_max = None if budget.rows is None else min(budget.rows, self._done + budget.rows * self.share)
        bytes_max = (
            None if budget.bytes is None else min(budget.bytes, reader.bytes + budget.bytes * self.share)
        )

        def counted() -> Work:
            try:
                while True:
                    units = next(work)
                    self._done += units
                    if units_max is not None and self._done > units_max:
                        raise BudgetError(
                            f"to find the reasons takes more than {budget.rows:,} units of work"
                        )
                    if bytes_max is not None and reader.bytes > bytes_max:
                        raise BudgetError(
                            f"to find the reasons takes more than {budget.bytes:,} bytes of rows"
                        )
                    yield units
            except StopIteration as end:
                return end.value

        return complete(counted())

    # -- the query's own clauses ------------------------------------------------------------------------------

    def why(self, known: Mapping[str, Any], most: int) -> Reasons:
        query = self.program.query
        clauses = (*self.givens, *named(self.program.where))
        rows = [
            row
            for row in self.holding(clauses, {**self._bindable(known), **self.scalars})
            if all(outward(row[name]) == outward(inward(value)) for name, value in known.items())
        ]
        told = Reasons(derivations=len(rows))
        shown: list[list[Way]] = []
        if not any(isinstance(element, Aggregate) for element in query.find):
            shown = [self._cheapest(clauses, rows, most)]
        else:
            groups: dict[Row, list[Mapping[str, Any]]] = {}
            names = [*map(variable_name, query.find), *query.with_]
            for row in rows:
                groups.setdefault(tuple(index_key(row[name]) for name in names), []).append(row)
            told.rows = len(groups)
            told.left_out = max(0, len(groups) - GROUP_MAX)
            first = heapq.nsmallest(GROUP_MAX, groups, key=lambda cells: tuple(map(order, cells)))
            shown = [self._cheapest(clauses, groups[cells], 1) for cells in first]
            told.lines += self._aggregated(list(groups))
        number = 0
        for ways in shown:
            for way in ways:
                number += 1
                told.lines += self._told(number, way)
        if rows and query.looks_up:
            told.lines += self._pulled(rows[0])
        return told

    def _bindable(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What can be bound from the start; a collection may be a set or a range in the engine."""
        return {name: inward(value) for name, value in known.items() if is_stored(inward(value))}

    def holding(self, clauses: Sequence[Step], bound_: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """All values of the variables of clauses with which they hold, where some are bound."""
        names = names_of(clauses)
        sizes = self.evaluation.sizes
        sizes.values = {name: value for name, value in bound_.items() if is_stored(outward(value))}
        try:
            columns, found = self.rows(clauses, tuple(bound_), [tuple(bound_.values())], {*names, *bound_})
        finally:
            sizes.values = {}
        return [dict(zip(columns, row, strict=True)) for row in found]

    def rows(
        self, clauses: Sequence[Step], columns: Sequence[str], rows: list[Row], output: Iterable[str]
    ) -> tuple[tuple[str, ...], list[Row]]:
        """(columns, rows) of clauses joined with some rows."""
        stages, last = self.evaluation.stages(clauses, columns, output, float(len(rows)), None)
        return last, self.run(self.evaluation.run_stages(stages, rows))

    def _cheapest(self, clauses: tuple[Step, ...], rows: list[Mapping[str, Any]], most: int) -> list[Way]:
        """The ways of the fewest triples among the first of these."""

        def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
            return tuple(order(row[name]) for name in sorted(row) if name not in self.scalars)

        considered = heapq.nsmallest(CONSIDERED, rows, key=place)
        ways = [self._way(clauses, row) for row in considered]
        self.prove(goal for way in ways for goal in way.goals)
        return heapq.nsmallest(most, ways, key=self._cost)

    def _cost(self, way: Way) -> int:
        return way.cost + sum(self._best[goal][0] for goal in way.goals)

    def _way(self, clauses: tuple[Step, ...], values: Mapping[str, Any], note: str = "") -> Way:
        goals = [_goal(clause, values) for clause in clauses if isinstance(clause, RuleCall)]
        triples = {triple for clause in clauses for triple in self.triples(clause, values)}
        return Way(clauses, values, tuple(goals), len(triples), note)

    # -- rules -----------------------------------------------------------------------------------------------

    def prove(self, goals: Iterable[Goal]) -> None:
        """Finds a proof of each of these goals, all of which hold."""
        targets = [goal for goal in dict.fromkeys(goals) if goal not in self._best]
        layer = [goal for goal in targets if goal not in self._ways]
        tried = 0
        while targets:
            if layer:
                layer = self._expand(layer)
            if layer and len(self._ways) < max(GOALS_ENOUGH, 2 * tried):
                continue
            tried = len(self._ways)
            self._settle()
            targets = [goal for goal in targets if goal not in self._best]
            if targets and (not layer or len(self._ways) > GOALS_MAX):
                raise BudgetError(f"a proof of it takes more than {GOALS_MAX:,} steps through rules")

    def _expand(self, layer: list[Goal]) -> list[Goal]:
        """Finds all ways in which some goals hold; returns the goals that these lead to and that are new."""
        by_rule: dict[str, list[Row]] = {}
        for name, arguments in layer:
            by_rule.setdefault(name, []).append(arguments)
            self._ways[name, arguments] = []
        new: dict[Goal, None] = {}
        for name, asked in by_rule.items():
            bodies = self.program.bodies[name]
            for number, body in enumerate(bodies):
                clauses = named(body.clauses)
                names = {*names_of(clauses), *body.variables}
                columns, rows = self.rows(clauses, body.variables, asked, names)
                head = picker([columns.index(variable) for variable in body.variables])
                note = f"body {number + 1} of {len(bodies)}" if len(bodies) > 1 else ""
                for row in sorted(rows, key=lambda row: tuple(map(order, row))):
                    way = self._way(clauses, dict(zip(columns, row, strict=True)), note)
                    self._ways[name, head(row)].append(way)
                    new.update((goal, None) for goal in way.goals if goal not in self._ways)
        return list(new)

    def _settle(self) -> None:
        """The cheapest proof of each goal that has one by what is expanded so far."""
        self._best.clear()
        heap: list[tuple[int, int, Goal, Way]] = []
        waiting: dict[Goal, list[tuple[int, Goal, Way]]] = {}
        missing: dict[int, int] = {}  # by the number of a way: its goals that are not proved
        count = 0
        for goal, ways in self._ways.items():
            for way in ways:
                count += 1
                needed = set(way.goals)
                missing[count] = len(needed)
                for other in needed:
                    waiting.setdefault(other, []).append((count, goal, way))
                if not needed:
                    heapq.heappush(heap, (way.cost, count, goal, way))
        while heap:
            cost, _, goal, way = heapq.heappop(heap)
            if goal in self._best:
                continue
            self._best[goal] = cost, way
            for number, above, higher in waiting.get(goal, ()):
                missing[number] -= 1
                if not missing[number] and above not in self._best:
                    heapq.heappush(heap, (self._cost(higher), number, above, higher))

    def ways(self, goal: Goal) -> tuple[Way, int]:
        """(the cheapest way of a goal that is proved, how many there are)."""
        return self._best[goal][1], len(self._ways[goal])

    # -- telling ---------------------------------------------------------------------------------------------

    def _told(self, number: int, way: Way) -> Iterator[Reason]:
        """The lines of a derivation: those of a rule below its call, each goal once."""
        told: set[Goal] = set()
        stack = [self._lines(number, 0, way, told)]
        while stack:
            for line, below in stack[-1]:
                yield line
                if below is not None:
                    stack.append(self._lines(number, line.depth + 1, below, told))
                    break
            else:
                stack.pop()

    def _lines(
        self, number: int, depth: int, way: Way, told: set[Goal]
    ) -> Iterator[tuple[Reason, Way | None]]:
        for clause in way.clauses:
            text = self.text(clause)
            if isinstance(clause, RuleCall):
                goal = _goal(clause, way.values)
                below, ways = self.ways(goal)
                kind = "or" if clause.name.startswith("or ") else "rule"
                parts = [f"({' '.join([clause.name, *map(shown, goal[1])])})"] * (kind == "rule")
                parts += [below.note.replace("body", "branch" if kind == "or" else "body")] * bool(below.note)
                again = goal in told
                parts += ["as above"] * again
                told.add(goal)
                note = ": ".join(parts)
                yield Reason(number, depth, kind, text, None, note, ways), None if again else below
                continue
            note = self.note(clause, way.values)
            if isinstance(clause, Pattern) or (isinstance(clause, Call) and reads(clause)):
                triples = list(self.triples(clause, way.values))
                for triple in triples:
                    yield Reason(number, depth, "triple", text, triple, note), None
                if triples:
                    continue
            kind = "not" if isinstance(clause, Not) else "input" if isinstance(clause, Given) else "call"
            yield Reason(number, depth, kind, text, None, note), None

    def text(self, clause: Step) -> str:
        """A clause as it was written."""
        if not isinstance(clause, Given):
            return show(clause.form, TEXT_MAX)
        forms = [
            binding.form
            for binding, _ in self._inputs
            if not isinstance(binding, Variable | Blank) and tuple(bound(binding)) == clause.variables
        ]
        return f":in {show(forms[0], TEXT_MAX)}" if forms else ":in _"

    def note(self, clause: Step, values: Mapping[str, Any]) -> str:
        """What is to be said of a clause that holds with these values, beside its triples."""
        if isinstance(clause, Given):
            return ", ".join(f"{name} = {shown(values[name])}" for name in dict.fromkeys(clause.variables))
        if isinstance(clause, Not):
            inside = variables(*clause.clauses) if clause.variables is None else clause.variables
            given = ", ".join(f"{name} = {shown(values[name])}" for name in inside if name in values)
            return f"nothing matches for {given}" if given else "nothing matches"
        return called(clause, values) if isinstance(clause, Call) else ""

    def triples(self, clause: Step, values: Mapping[str, Any]) -> Iterator[Triple]:
        """The triples that a pattern, or a call that reads, has found with these values."""
        if isinstance(clause, Pattern):
            subject, predicate, value = (
                _value(term, values) for term in (clause.subject, clause.predicate, clause.value)
            )
            yield from self._there(subject, predicate, value)
        elif isinstance(clause, Call) and clause.function == "get-else":
            subject, predicate, _ = (_value(term, values) for term in clause.arguments)
            if isinstance(clause.binding, Variable):
                yield from self._there(subject, predicate, values[clause.binding.name])
        elif isinstance(clause, Call) and clause.function == "get-some":
            subject, *predicates = (_value(term, values) for term in clause.arguments)
            for predicate in predicates:
                if isinstance(predicate, str) and isinstance(subject, str):
                    held = self.source.values(subject, predicate)
                    yield from ((str(subject), str(predicate), value) for value in held[:1])
                    if held:
                        return

    def _there(self, subject: Any, predicate: Any, value: Any) -> Iterator[Triple]:
        if isinstance(subject, str) and isinstance(predicate, str):
            for held in self.source.values(subject, predicate):
                if inward(held) == value:  # a text and a reference to it may both be there
                    yield str(subject), str(predicate), held

    def _aggregated(self, groups: list[Row]) -> Iterator[Reason]:
        query = self.program.query
        for index, element in enumerate(query.find):
            if isinstance(element, Aggregate):
                values = [row[index] for row in groups]
                count = len(values)
                note = f"over {count:,} {'row' if count == 1 else 'rows'}"
                if isinstance(element.function, str) and AGGREGATES[element.function].numeric:
                    values = [value for value in values if type(value) in NUMBERS]
                    if len(values) < count:
                        note += f", {count - len(values):,} of them no numbers"
                given = self.run(fold(element, self.scalars)(values)) if values else None
                yield Reason(0, 0, "aggregate", show(element.form, TEXT_MAX), None, f"{shown(given)} {note}")

    def _pulled(self, row: Mapping[str, Any]) -> Iterator[Reason]:
        """The triples of what is looked up, up to a bound."""
        query = self.program.query
        puller = Puller(self.source, query.fields, self.evaluation.reader.weigh)
        for lookup in lookups_of(query, self.scalars):
            elements = [query.find[column] for column in lookup.columns if column < len(query.find)]
            forms = [element.form for element in elements if not isinstance(element, Variable)]
            if not forms:
                continue  # the rows are only ordered by it
            root = row[variable_name(query.find[lookup.root])]
            places: dict[tuple[str, str], None] = {}
            self.run(puller.steps(lookup.pattern, root, Visits(places)))
            triples = [
                (subject, predicate, value)
                for subject, predicate in places
                for value in self.source.values(subject, predicate)
            ]
            text = ", ".join(show(form, TEXT_MAX) for form in forms)
            for triple in triples[:PULLED_MAX]:
                yield Reason(0, 0, "pull", text, triple)
            if len(triples) > PULLED_MAX:
                yield Reason(0, 0, "pull", text, None, f"{len(triples) - PULLED_MAX:,} more triples")


def names_of(clauses: Iterable[Step]) -> list[str]:
    """The variables of clauses that their surroundings see, each once."""
    out: dict[str, None] = {}
    for clause in clauses:
        if not isinstance(clause, Not):
            out.update(dict.fromkeys(clause.variables if isinstance(clause, Given) else variables(clause)))
    return list(out)


def named(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    """The clauses with a variable of its own for each `_` of patterns and calls of rules, so that values of all
    variables say which triples they are."""
    count = 0

    def name(term: Any) -> Any:
        nonlocal count
        if isinstance(term, Blank):
            count += 1
            return Variable(f"_ {count}")  # a name that no query has
        return term

    out: list[Clause] = []
    for clause in clauses:
        if isinstance(clause, Pattern):
            subject, predicate, value = map(name, (clause.subject, clause.predicate, clause.value))
            clause = replace(clause, subject=subject, predicate=predicate, value=value)
        elif isinstance(clause, RuleCall):
            clause = replace(clause, arguments=tuple(map(name, clause.arguments)))
        out.append(clause)
    return tuple(out)


def reads(call: Call) -> bool:
    """True for `get-else`, `get-some` and `missing?`."""
    return isinstance(call.function, str) and FUNCTIONS[call.function].reads


def called(call: Call, values: Mapping[str, Any]) -> str:
    """A call with its values, and what it gave: `(+ 36 1) = 37`."""
    if isinstance(call.function, Variable):
        function = values.get(call.function.name)
        name = getattr(function, "__name__", type(function).__name__)
    else:
        name = call.function
    arguments = [
        shown(_value(term, values)) if _is_bound(term, values) else show_term(term) for term in call.arguments
    ]
    text = f"({' '.join([name, *arguments])})"
    if call.binding is None:
        return text
    names = [name for name in dict.fromkeys(bound(call.binding)) if name in values]
    if isinstance(call.binding, Variable) and names:
        return f"{text} = {shown(values[names[0]])}"
    given = ", ".join(f"{name} = {shown(values[name])}" for name in names)
    return f"{text}: {given}" if given else text


def shown(value: Any) -> str:
    """A value of the engine as queries write it, cut where it is long."""
    text = getattr(value, "__name__", None) if callable(value) else show_value(outward(value))
    text = str(value) if text is None else text
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def show_term(term: Term) -> str:
    return (
        term.name if isinstance(term, Variable) else shown(term.value) if isinstance(term, Constant) else "_"
    )


def _is_bound(term: Term, values: Mapping[str, Any]) -> bool:
    return isinstance(term, Constant) or (isinstance(term, Variable) and term.name in values)


def _value(term: Any, values: Mapping[str, Any]) -> Any:
    return term.value if isinstance(term, Constant) else values[term.name]


def _goal(call: RuleCall, values: Mapping[str, Any]) -> Goal:
    return call.name, tuple(_value(term, values) for term in call.arguments)
