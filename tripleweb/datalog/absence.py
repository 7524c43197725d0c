"""Why a row is not in an answer: the clauses that cannot hold with its values, and what the data say instead.

The values of the row are bound from the start, and the clauses followed as they are written; the first that leaves
nothing ends that. Some of those before it have nothing to do with it: what stays is a *conflict*, clauses that cannot
hold together, of which none can be left out (a minimal unsatisfiable subset, found by leaving out one after the other:
Dershowitz, Hanna and Nadel, A Scalable Algorithm for Minimal Unsatisfiable Core Extraction, 2006). A clause that cannot
even hold alone is a conflict of its own. Of a call of rules the conflict of each body is told below it.

Invariants: the clauses that are blamed together cannot hold with the row's values, and without any one of them (that
can be left out: a call needs what binds its arguments) they can, unless finding that out would cost more than the
budget has; nothing is blamed of a row whose clauses hold; all work is counted; the same source gives the same reasons.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tripleweb.datalog.builtins import inward, order
from tripleweb.datalog.clauses import Call, Constant, Not, Pattern, RuleCall, Term, Variable, guess, variables
from tripleweb.datalog.plan import Given, Step, provides
from tripleweb.datalog.reasons import Proofs, Triple, called, named, names_of, shown
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Store
from tripleweb.terms import kind, kind_name

EXAMPLES = 3  # of what the data say
NEAR_OF = 10_000  # values among which the nearest is looked for
SHARE = 1 / 16  # of the budget, for one thing that is to be found out
DEPTH_MAX = 3  # rules within rules that are told
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Absence:
    """One line of why not. `left`: in how many ways all clauses up to this one hold with the row's values; None where
    that is not known. `blamed`: it is one of those that cannot hold together."""

    depth: int
    kind: str
    clause: str
    left: int | None
    blamed: bool
    note: str = ""


class Absences:
    """Finds what keeps a row out of an answer, over a store that does not change meanwhile."""

    def __init__(self, proofs: Proofs, store: Store) -> None:
        self._proofs = proofs
        proofs.share = SHARE
        self._program = proofs.program
        self._kinds = proofs.program.query.kinds
        self._store = store
        self._told: set[Any] = set()  # goals

    def lines(self, known: Values) -> list[Absence]:
        """A line a clause, and those of rules below their calls; no line is blamed where all of them hold. `known` are
        the values of variables as they are given out.

        >>> from tripleweb.change import Change
        >>> from tripleweb.datalog.inputs import prepare
        >>> store = Store()
        >>> delta = store.apply([Change("ada", "user/age", "", 29, 1, "r")])
        >>> program = prepare("[:find ?u :where [?u :user/age ?a] [(> ?a 30)]]", [])
        >>> absences = Absences(Proofs(*program, store), store)
        >>> [(line.clause, line.left, line.note) for line in absences.lines({"?u": "ada"}) if line.blamed]
        [('[?u :user/age ?a]', 1, 'user/age of ada is 29'), ('[(> ?a 30)]', 0, '(> 29 30) is false')]
        """
        scalars = self._proofs.scalars
        bound = {name: inward(value) for name, value in known.items()}
        others = [name for name in bound if name in scalars and order(bound[name]) != order(scalars[name])]
        if others:
            return [
                Absence(0, "input", f":in {name}", 0, True, f"{name} is {shown(scalars[name])} in this query")
                for name in others
            ]
        clauses = (*self._proofs.givens, *named(self._program.where))
        return list(self._lines(clauses, {**bound, **scalars}, 0))

    def _lines(self, clauses: Sequence[Step], bound: dict[str, Any], depth: int) -> Iterator[Absence]:
        followed, left = self._follow(clauses, bound)
        conflict: list[Step] = []
        failing = next((at for at, count in enumerate(left) if count == 0), None)
        if failing is not None:
            conflict = self._conflict(followed[: failing + 1], bound)
        elif None in left:
            conflict = self._conflict(followed, bound)
        for clause, count in zip(followed, left, strict=True):
            blamed = any(clause is one for one in conflict)
            note = self._note(clause, conflict, bound) if blamed else ""
            yield Absence(depth, _kind(clause), self._proofs.text(clause), count, blamed, note)
            if blamed and isinstance(clause, RuleCall) and depth < DEPTH_MAX:
                yield from self._below(clause, conflict, bound, depth + 1)

    def _follow(self, clauses: Sequence[Step], bound: dict[str, Any]) -> tuple[list[Step], list[int | None]]:
        """(the clauses in the order in which they can be followed, in how many ways each leaves all so far)."""
        waiting, followed = list(clauses), list[Step]()
        known = set(bound)
        while waiting:
            clause = next((one for one in waiting if self._runs(one, known, waiting)), waiting[0])
            waiting = [one for one in waiting if one is not clause]
            followed.append(clause)
            known.update(provides(clause))
        counts: list[int | None] = []
        columns, rows = tuple(bound), [tuple(bound.values())]
        for number, clause in enumerate(followed):
            if counts and not counts[-1]:
                counts.append(counts[-1])
                continue
            try:
                later = {*names_of(followed[number:]), *columns}
                columns, rows = self._proofs.rows([clause], columns, rows, later)
                counts.append(len(rows))
            except BudgetError:
                counts.append(None)
        return followed, counts

    def _runs(self, clause: Step, known: set[str], waiting: Sequence[Step]) -> bool:
        """True if a clause can be followed now; what is negated waits for all that it shares variables with."""
        if isinstance(clause, Given):
            return True
        if isinstance(clause, Not):
            shared = set(_inside(clause)) & set(names_of([one for one in waiting if one is not clause]))
            if shared - known:
                return False
        return not self._program.lacks(clause, known)

    def _conflict(self, clauses: Sequence[Step], bound: dict[str, Any]) -> list[Step]:
        """Some of these clauses that cannot hold together; of several that cannot hold alone, all."""
        alone = [one for one in clauses if self._holds([one], bound, clauses) is False]
        if alone:
            return alone
        kept = list(clauses)
        if self._holds(kept, bound, clauses) is not False:
            return []
        size = 0
        while size != (size := len(kept)):  # one may be left out only when what needs it has been
            for clause in list(kept):
                less = [one for one in kept if one is not clause]
                if self._holds(less, bound, clauses) is False:
                    kept = less
        return kept

    def _holds(self, some: Sequence[Step], bound: dict[str, Any], among: Sequence[Step]) -> bool | None:
        """True if these clauses hold with some values; None where they cannot be followed without the others, or that
        costs too much to find out."""
        known, stuck = self._program.closure(some, bound)
        elsewhere = set(names_of(among))
        if stuck or any(set(_inside(one)) & elsewhere - known for one in some if isinstance(one, Not)):
            return None
        try:
            return bool(self._found(some, bound))
        except BudgetError:
            return None

    def _examples(self, some: Sequence[Step], bound: dict[str, Any]) -> list[Values]:
        """As `_found`; nothing where that cannot be followed, or costs too much."""
        try:
            return [] if self._program.closure(some, bound)[1] else self._found(some, bound)
        except BudgetError:
            return []

    def _found(self, some: Sequence[Step], bound: dict[str, Any]) -> list[Values]:
        names = {name for clause in some for name in _names(clause)}
        return self._proofs.holding(some, {name: value for name, value in bound.items() if name in names})

    # -- what the data say -------------------------------------------------------------------------------------

    def _note(self, clause: Step, conflict: Sequence[Step], bound: dict[str, Any]) -> str:
        """Of the last clause of a conflict why it does not hold where the others do, of these what they have found; of
        one that cannot hold alone why not."""
        others = list(conflict[:-1])
        try:
            found = [] if self._program.closure(others, bound)[1] else self._found(others, bound)
        except BudgetError:
            return "an example costs too much to find" if clause is conflict[-1] else ""
        first = heapq.nsmallest(EXAMPLES, found, key=lambda row: [order(row[name]) for name in sorted(row)])
        examples = [{**bound, **row} for row in first]
        is_refuted = clause is conflict[-1] or not examples  # no examples: each of them fails alone
        tell = self._refuted if is_refuted else self._held
        return "; ".join(
            dict.fromkeys(filter(None, (tell(clause, values) for values in examples or [bound])))
        )

    def _held(self, clause: Step, values: Values) -> str:
        """What a clause has found."""
        if isinstance(clause, RuleCall):
            arguments = [_text(term, values) for term in clause.arguments]
            return "" if clause.name.startswith("or ") else f"({' '.join([clause.name, *arguments])})"
        return _triples_text(self._proofs.triples(clause, values)) or self._proofs.note(clause, values)

    def _refuted(self, clause: Step, values: Values) -> str:
        """Why a clause does not hold with these values."""
        if isinstance(clause, Pattern):
            return self._of_pattern(clause, values)
        if isinstance(clause, Call):
            return self._of_call(clause, values)
        if isinstance(clause, Not):
            return self._of_negation(clause, values)
        if isinstance(clause, Given):
            given = ", ".join(
                f"{name} = {shown(values[name])}" for name in clause.variables if name in values
            )
            return f"no row of the input has {given}" if given else "the input has no rows"
        if not isinstance(clause, RuleCall) or clause.name.startswith("or "):
            return "no branch of it holds"
        arguments = [_text(term, values) for term in clause.arguments]
        return f"no body of it holds for ({' '.join([clause.name, *arguments])})"

    def _of_pattern(self, clause: Pattern, values: Values) -> str:
        subject, predicate, value = (
            _value(term, values) for term in (clause.subject, clause.predicate, clause.value)
        )
        if not isinstance(predicate, str):
            return self._of_entity(subject) if isinstance(subject, str) else "no triple matches it"
        if not self._store.count(predicate):
            return f"no triple has {predicate}{guess(predicate, self._store.predicates())}"
        if isinstance(subject, str):
            return self._of_field(subject, predicate, value)
        if value is None:
            return self._unfit(predicate) or f"no {predicate} fits here"
        return f"no {predicate} is {shown(value)}{self._nearest(predicate, value)}"

    def _of_field(self, subject: str, predicate: str, value: Any) -> str:
        held = list(islice(self._proofs.source.values(subject, predicate), EXAMPLES + 1))
        if held:
            more = " …" if len(held) > EXAMPLES else ""
            text = f"{predicate} of {subject} is {', '.join(shown(inward(one)) for one in held[:EXAMPLES])}{more}"
            is_other = value is not None and all(inward(one) != value for one in held)
            return f"{text}, not {shown(value)}" if is_other and len(held) <= EXAMPLES else text
        raw = list(islice(self._store.values(subject, predicate), 1))
        if raw:
            has = f"{kind_name(kind(raw[0]))} {shown(inward(raw[0]))}"
            return (
                f"{predicate} of {subject} is {has}, and is read as {kind_name(self._kinds[predicate])} only"
            )
        return self._of_entity(subject, predicate)

    def _of_entity(self, subject: str, predicate: str = "") -> str:
        if self._store.deleted(subject) is not None:
            return f"{subject} was deleted"
        if next(iter(self._store.about(subject)), None) is None:
            return f"there is no {subject}"
        return f"{subject} has no {predicate}" if predicate else f"no triple of {subject} matches it"

    def _unfit(self, predicate: str) -> str:
        """That all values of a predicate are of another kind than it is read as."""
        if predicate not in self._kinds or next(iter(self._proofs.source.scan(predicate)), None) is not None:
            return ""
        one = next(value for _, value in self._store.scan(predicate))
        wanted = kind_name(self._kinds[predicate])
        return f"{predicate} is {kind_name(kind(one))} everywhere, and is read as {wanted} only"

    def _nearest(self, predicate: str, value: Any) -> str:
        """The values of a predicate that are most like one, as far as they were looked at."""
        values = [inward(held) for _, held in islice(self._proofs.source.scan(predicate), NEAR_OF)]
        if isinstance(value, str):
            texts = dict.fromkeys(str(one) for one in values if isinstance(one, str))
            lower = {text.casefold(): text for text in texts}
            near = [lower[text] for text in difflib.get_close_matches(value[:50].casefold(), lower, EXAMPLES)]
        elif isinstance(value, int | float):
            numbers = sorted(
                {one for one in values if type(one) in (int, float)}, key=lambda one: abs(one - value)
            )
            near = numbers[:EXAMPLES]
        else:
            near = []
        return f"; there is {', '.join(shown(one) for one in near)}" if near else ""

    def _of_call(self, clause: Call, values: Values) -> str:
        if clause.binding is None:
            return f"{called(clause, values)} is false"
        wanted = {name: values[name] for name in _names(clause) if name in values}
        asked = set(provides(clause)) & set(wanted)
        free = {name: value for name, value in wanted.items() if name not in asked}
        if self._program.lacks(clause, set(free)):
            return ""
        found = self._examples([clause], free)
        if not found:
            return f"{called(clause, free)} gives nothing"
        given = ", ".join(f"{name} is {shown(wanted[name])}" for name in sorted(asked))
        return f"{called(clause, found[0])}{f', but {given}' if given else ''}"

    def _of_negation(self, clause: Not, values: Values) -> str:
        inside = named(clause.clauses)
        bound = {name: values[name] for name in _inside(clause) if name in values}
        if self._program.closure(inside, bound)[1]:
            return ""
        found = sorted(
            self._examples(inside, bound), key=lambda row: [(n, order(row[n])) for n in sorted(row)]
        )
        triples = [
            triple for row in found[:EXAMPLES] for one in inside for triple in self._proofs.triples(one, row)
        ]
        said = _triples_text(triples)
        return f"it holds: {said}" if said else "it holds"

    def _below(
        self, call: RuleCall, conflict: Sequence[Step], bound: dict[str, Any], depth: int
    ) -> Iterator[Absence]:
        """Why no body of a rule holds, with the arguments that are known."""
        others = [one for one in conflict if one is not call]
        values = bound
        if others:
            values = {**bound, **next(iter(self._examples(others, bound)), {})}
        bodies = self._program.bodies[call.name]
        arguments = [_value(term, values) for term in call.arguments]
        goal = (call.name, *(None if one is None else order(one) for one in arguments))
        if goal in self._told:
            return
        self._told.add(goal)
        for number, body in enumerate(bodies):
            inner = {
                name: one for name, one in zip(body.variables, arguments, strict=True) if one is not None
            }
            if len(bodies) > 1:
                kind_ = "branch" if call.name.startswith("or ") else "body"
                yield Absence(depth, kind_, "", None, False, f"{kind_} {number + 1} of {len(bodies)}")
            try:
                lines = list(self._lines(named(body.clauses), inner, depth))
            except QueryError:
                continue
            yield from (line for line in lines if line.blamed or line.depth > depth)


def _triples_text(triples: Iterable[Triple]) -> str:
    return ", ".join(f"{p} of {s} is {shown(inward(value))}" for s, p, value in dict.fromkeys(triples))


def _kind(clause: Step) -> str:
    if isinstance(clause, Given):
        return "input"
    if isinstance(clause, RuleCall):
        return "or" if clause.name.startswith("or ") else "rule"
    return "triple" if isinstance(clause, Pattern) else "not" if isinstance(clause, Not) else "call"


def _inside(clause: Not) -> list[str]:
    return list(clause.variables if clause.variables is not None else variables(*clause.clauses))


def _names(clause: Step) -> Iterable[str]:
    if isinstance(clause, Given):
        return clause.variables
    return _inside(clause) if isinstance(clause, Not) else variables(clause)


def _value(term: Term, values: Values) -> Any:
    if isinstance(term, Constant):
        return term.value
    return values.get(term.name) if isinstance(term, Variable) else None


def _text(term: Term, values: Values) -> str:
    """An argument: its value where it is known."""
    known = _value(term, values)
    return (
        term.name if known is None and isinstance(term, Variable) else "_" if known is None else shown(known)
    )
