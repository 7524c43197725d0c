"""Derivations of a query, found by trying: no plan, no index, no generated code. `places` are the places of all triples
of all derivations, for queries of patterns, built-ins, `or` and rules that do not call themselves; where an answer is
cut, of those that give its rows, or the ones before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tripleweb.datalog import evaluate
from tripleweb.datalog.builtins import FUNCTIONS, inward, truthy
from tripleweb.datalog.clauses import (
    Blank,
    Call,
    Clause,
    Constant,
    Not,
    Or,
    Pattern,
    RuleCall,
    Term,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.inputs import bind, prepare
from tripleweb.datalog.query import Query, variable_name
from tripleweb.view import Fitting, Source

Place = tuple[str, str]
Names = dict[str, Any]
Found = tuple[Names, frozenset[Place]]


def places(text: str, inputs: Sequence[Any], source: Source) -> set[Place]:
    program, pairs = prepare(text, inputs)
    assert not program.recursive
    query = program.query
    starts: list[Names] = [{}]
    for binding, value in pairs:
        rows = list(bind(binding, value, query.form))
        starts = [
            {**names, **dict(zip(bound(binding), row, strict=True))} for names in starts for row in rows
        ]
    fitting = Fitting(source, query.kinds)
    shown = _shown(query, inputs, source)
    return {
        place
        for names in starts
        for found, used in _solve(query, list(query.where), names, fitting)
        if shown is None or tuple(found[variable_name(element)] for element in query.find) in shown
        for place in used
    }


def _shown(query: Query, inputs: Sequence[Any], source: Source) -> set[tuple[Any, ...]] | None:
    """The rows of an answer that is cut, skipped ones among them; None of one that is not, or where more counts."""
    only_first = query.shape in ("tuple", "scalar")
    if not all(isinstance(element, Variable) for element in query.find):
        return None
    if query.limit is None and not only_first:
        return None
    size = 1 if only_first and query.limit != 0 else query.limit or 0
    plain = replace(query, shape="relation", offset=0, limit=query.offset + size)
    return {tuple(map(inward, row)) for row in evaluate.run(plain, inputs, source).rows}


def is_connected(text: str, inputs: Sequence[Any]) -> bool:
    """True if all clauses hang together by their variables, so that a derivation is one whole."""
    program, pairs = prepare(text, inputs)
    known = {name for binding, _ in pairs if isinstance(binding, Variable) for name in bound(binding)}
    if any(isinstance(clause, Or | RuleCall | Not) for clause in program.query.where) or len(pairs) > len(
        known
    ):
        return False
    groups: list[set[str]] = []
    for clause in program.query.where:
        names = set(variables(clause)) - known
        if names or isinstance(clause, Pattern):
            touching = [group for group in groups if group & names]
            groups = [group for group in groups if not group & names] + [names.union(*touching)]
    return len(groups) < 2


def _solve(query: Query, clauses: list[Clause], names: Names, source: Source) -> Iterator[Found]:
    if not clauses:
        yield names, frozenset()
        return
    able = [
        one for one in clauses if not isinstance(one, Call) or all(_is_bound(t, names) for t in one.arguments)
    ]
    assert able  # or a rule wants to be told where to begin
    clause = min(able, key=lambda one: isinstance(one, Or | RuleCall))
    rest = [one for one in clauses if one is not clause]
    for more, used in _one(query, clause, names, source):
        for final, others in _solve(query, rest, more, source):
            yield final, used | others


def _is_bound(term: Term, names: Names) -> bool:
    return isinstance(term, Constant) or (isinstance(term, Variable) and term.name in names)


def _one(query: Query, clause: Clause, names: Names, source: Source) -> Iterator[Found]:
    if isinstance(clause, Pattern):
        assert isinstance(clause.predicate, Constant)
        predicate = clause.predicate.value
        for subject, value in list(source.scan(predicate)):
            more = _match(clause.subject, subject, _match(clause.value, inward(value), names))
            if more is not None:
                yield more, frozenset([(str(subject), predicate)])
    elif isinstance(clause, Call):
        assert isinstance(clause.function, str)
        builtin = FUNCTIONS[clause.function]
        assert not builtin.reads
        given = [names[t.name] if isinstance(t, Variable) else t.value for t in clause.arguments]
        value = inward(builtin.function(*given))
        if clause.binding is None:
            if truthy(value):
                yield names, frozenset()
        elif value is not None:
            for row in bind(clause.binding, value, None):
                found: Names | None = names
                for name, cell in zip(bound(clause.binding), row, strict=True):
                    found = _match(Variable(name), cell, found)
                if found is not None:
                    yield found, frozenset()
    elif isinstance(clause, Or):
        for branch in clause.branches:
            inner = {name: names[name] for name in clause.variables if name in names}
            for found, used in _solve(query, list(branch), inner, source):
                yield {**names, **{name: found[name] for name in clause.variables}}, used
    else:
        assert isinstance(clause, RuleCall)
        for body in query.rules[clause.name]:
            inner = {
                name: names[term.name] if isinstance(term, Variable) else term.value
                for name, term in zip(body.variables, clause.arguments, strict=True)
                if _is_bound(term, names)
            }
            for found, used in _solve(query, list(body.clauses), inner, source):
                more: Names | None = names
                for name, term in zip(body.variables, clause.arguments, strict=True):
                    more = _match(term, found[name], more)
                if more is not None:
                    yield more, used


def _match(term: Term, value: Any, names: Mapping[str, Any] | None) -> Names | None:
    if names is None:
        return None
    if isinstance(term, Blank):
        return dict(names)
    if isinstance(term, Constant):
        return dict(names) if term.value == value else None
    if term.name in names:
        return dict(names) if names[term.name] == value else None
    return {**names, term.name: value}
