"""A query without what never travels: what of it can be asked of somebody else, who is to say what it depends on.

Python callables, and inputs that are too large, stay here. `portable` leaves them out, and with them the calls that
cannot be made any more; everything else of the query stays, so that the lineage of what is left has the lineage of the
query: fewer conditions have more derivations. What a call would have given is free then; a negation that is only joined
on such variables becomes a condition of its own, since its witnesses may be anywhere. Where that cannot be said in a
query, such as of a callable that goes into a rule, it asks for whole predicates. Invariant: the answer of what comes
out means nothing; what it depends on holds all that the answer of the query depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from tripleweb.datalog.clauses import (
    SOURCE,
    Binding,
    Call,
    Clause,
    Input,
    Not,
    Or,
    Pattern,
    RuleCall,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.kinds import predicate_text, type_text
from tripleweb.datalog.plan import Program
from tripleweb.datalog.query import Get, Pull, Query, parse
from tripleweb.errors import QueryError

ITEMS_MAX = 1_000  # of an input that travels
_FOUND = "?portable"  # what it finds beside what it looks up
_TRUE = "[(ground true) _]"


class _Whole(Exception):
    """Whole predicates must be asked for."""


def portable(
    text: str, inputs: Sequence[Any] = (), rules: str | None = None, items_max: int = ITEMS_MAX
) -> tuple[str | None, list[Any]]:
    """(query, inputs) to ask for instead; the same where all of it can travel; (None, []) for everything there is.
    Raises `QueryError` for a query that cannot be run.

    >>> portable("[:find ?n :in $ ?f :where [?u :user/name ?n] [(?f ?n)]]", [str.isupper])
    ('[:find ?portable :in $ :where [(ground true) ?portable] [?u :user/name ?n]]', [])
    """
    query = parse(text)
    wanted = [binding for binding in query.inputs if binding != SOURCE]
    callables: set[str] = set()
    left: list[tuple[Input, Any]] = []
    for binding, value in zip(wanted, inputs, strict=False):
        if query.uses_callables([value]):
            callables.update(bound(binding))
        elif isinstance(value, str) or _size(value, items_max + 1) <= items_max:
            left.append((binding, value))
    if len(left) == min(len(wanted), len(inputs)):
        return text, list(inputs)
    program, _ = prepare(text, inputs, rules)
    try:
        asked = _Asked(program, callables).text([binding for binding, _ in left])
        given = [value for _, value in left]
        prepare(asked, given, rules)
    except (_Whole, QueryError):  # what is left is no query
        return _whole(program.query), []
    return asked, given


def _size(value: Any, most: int) -> int:
    """How many items there are in an input, those of collections in it among them; counts no further than `most`."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return 1
    if not isinstance(value, Sized) or len(value) >= most or hasattr(value, "itertuples"):
        return most  # what can be gone through once only is not for us to use up
    return sum(_size(item, most) for item in (value.values() if isinstance(value, Mapping) else value))


def _whole(query: Query) -> str | None:
    if query.predicates is None:
        return None
    if not query.predicates:
        return f"[:find {_FOUND} :where [(ground true) {_FOUND}]]"
    patterns = " ".join(f"[{_FOUND} {predicate_text(name)}]" for name in sorted(query.predicates))
    return f"[:find {_FOUND} :where (or {patterns})]"


class _Asked:
    """Writes what is left of a query where some variables are callables."""

    def __init__(self, program: Program, callables: set[str]) -> None:
        self._query = program.query
        self._needs = program.needs
        self._callables = callables

    def text(self, inputs: Sequence[Input]) -> str:
        query = self._query
        known = {name for binding in inputs for name in bound(binding)}
        final = self._final(query.where, known)
        looked = [element for element in (*query.find, *query.hidden) if isinstance(element, Pull | Get)]
        for element in looked:
            pattern = element.pattern if isinstance(element, Pull) else None
            if element.variable.name not in final or (
                isinstance(pattern, Variable) and pattern.name not in known
            ):
                raise _Whole
        parts = ["[:find", _FOUND, *(str(element.form) for element in looked), ":in", SOURCE]
        parts += map(_shown, inputs)
        parts += [":where", f"[(ground true) {_FOUND}]", *self._written(query.where, known)]
        if query.fields:
            pairs = (f"{predicate_text(name)} {type_text(field)}" for name, field in query.fields.items())
            parts.append(f":kinds {{{' '.join(pairs)}}}")
        return " ".join(parts) + "]"

    def _is_called(self, clause: Clause) -> bool:
        """True for what cannot be asked of others by itself."""
        if isinstance(clause, RuleCall) and not self._callables.isdisjoint(variables(clause)):
            raise _Whole
        return isinstance(clause, Call) and not self._callables.isdisjoint(variables(clause))

    def _final(self, clauses: Sequence[Clause], known: Iterable[str]) -> set[str]:
        """The variables that are bound by what is left of some clauses."""
        final = set(known)
        waiting = [
            clause for clause in clauses if not isinstance(clause, Not) and not self._is_called(clause)
        ]
        moved = True
        while moved:
            able = [clause for clause in waiting if self._needed(clause) <= final]
            waiting = [clause for clause in waiting if clause not in able]
            for clause in able:
                final.update(self._given(clause, final))
            moved = bool(able)
        if any(not isinstance(clause, Call) for clause in waiting):
            raise _Whole
        return final

    def _needed(self, clause: Clause) -> set[str]:
        if isinstance(clause, Call):
            return {term.name for term in clause.arguments if isinstance(term, Variable)}
        if isinstance(clause, RuleCall):
            terms = [clause.arguments[place] for place in self._needs[clause.name]]
            return {term.name for term in terms if isinstance(term, Variable)}
        return set(clause.variables[: clause.required]) if isinstance(clause, Or) else set()

    def _given(self, clause: Clause, known: set[str]) -> set[str]:
        if isinstance(clause, Call):
            return set() if clause.binding is None else set(bound(clause.binding))
        if isinstance(clause, Or):
            inner = known.intersection(clause.variables)
            return set(clause.variables).intersection(
                *(self._final(branch, inner) for branch in clause.branches)
            )
        return set(variables(clause))

    def _written(self, clauses: Sequence[Clause], known: Iterable[str]) -> list[str]:
        """What is left of clauses, as text."""
        final = self._final(clauses, known)
        out: list[str] = []
        for clause in clauses:
            if isinstance(clause, Pattern | RuleCall):
                out.append(str(clause.form))
            elif isinstance(clause, Call):
                if not self._is_called(clause) and self._needed(clause) <= final:
                    out.append(str(clause.form))
            elif isinstance(clause, Or):
                out.append(self._either(clause, final))
            else:
                out += self._negation(clause, final)
        return out

    def _either(self, clause: Or, final: set[str]) -> str:
        """A disjunction; a branch of which nothing is left is true."""
        inner = final.intersection(clause.variables)
        left = [each for branch in clause.branches for each in branch if not self._is_called(each)]
        there = final.intersection(variables(*left))
        required = [name for name in clause.variables[: clause.required] if name in final]
        others = [name for name in clause.variables[clause.required :] if name in there]
        if not required and not others:
            raise _Whole
        shared = [f"[{' '.join(required)}]"] * bool(required) + others
        branches = [" ".join(self._written(branch, inner)) or _TRUE for branch in clause.branches]
        return f"(or-join [{' '.join(shared)}] {' '.join(f'(and {branch})' for branch in branches)})"

    def _negation(self, clause: Not, final: set[str]) -> list[str]:
        inside = variables(*clause.clauses) if clause.variables is None else clause.variables
        joined = [name for name in inside if name in final]
        written = self._written(clause.clauses, joined)
        if not written or not joined:
            return written
        return [f"(not-join [{' '.join(joined)}] {' '.join(written)})"]


def _shown(binding: Input) -> str:
    if isinstance(binding, str):
        return binding
    return binding.name if isinstance(binding, Variable) else _form(binding)


def _form(binding: Binding) -> str:
    return str(getattr(binding, "form", "_"))
