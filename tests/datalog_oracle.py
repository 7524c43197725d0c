"""An evaluator that shares nothing with the engine but its parser: nested loops over all triples, rules by trying
every tuple of the domain until nothing new is found. Slow, and short enough to be seen to be right.

Inside, a value is the pair (kind, value), so that True is not 1 and "1" is not 1, but 1 is 1.0 and a reference is
its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

from tests.datalog_source import Triples
from tripleweb.datalog.builtins import outward
from tripleweb.datalog.clauses import (
    BindCollection,
    Binding,
    BindTuple,
    Blank,
    Call,
    Clause,
    Constant,
    Not,
    Or,
    Pattern,
    RuleCall,
    Variable,
    variables,
)  # fmt: skip
from tripleweb.datalog.query import Aggregate, Query

Typed = tuple[str, Any]
Env = dict[str, Typed]


def typed(value: Any) -> Typed:
    for kind, cls in (("b", bool), ("n", int | float), ("d", datetime), ("s", str)):
        if isinstance(value, cls):
            return kind, str(value) if kind == "s" else value
    return "c", tuple(map(typed, value))


def compare(test: Any) -> Any:
    return lambda *v: all(a[0] == b[0] != "c" and test(a[1], b[1]) for a, b in pairwise(v))


def plus(*values: Typed) -> Typed | None:
    return ("n", sum(v for _, v in values)) if all(k == "n" for k, _ in values) else None


FUNCTIONS: dict[str, Any] = {
    "=": lambda *v: len(set(v)) == 1,
    "not=": lambda *v: len(set(v)) > 1,
    "<": compare(lambda a, b: a < b),
    ">": compare(lambda a, b: a > b),
    "<=": compare(lambda a, b: a <= b),
    "+": plus,
    "-": lambda a, b: ("n", a[1] - b[1]) if a[0] == b[0] == "n" else None,
    "*": lambda a, b: ("n", a[1] * b[1]) if a[0] == b[0] == "n" else None,
    "inc": lambda a: plus(a, ("n", 1)),
    "identity": lambda a: a,
    "even?": lambda a: type(a[1]) is int and a[1] % 2 == 0,
    "odd?": lambda a: type(a[1]) is int and a[1] % 2 == 1,
    "tuple": lambda *v: ("c", v),
    "count": lambda a: ("n", len(a[1])) if a[0] in "cs" else None,
    "str": lambda *v: ("s", "".join(w for _, w in v)) if all(k == "s" for k, _ in v) else None,
    "clojure.string/starts-with?": lambda a, b: a[0] == b[0] == "s" and a[1].startswith(b[1]),
}


class Oracle:
    def __init__(self, query: Query, inputs: Sequence[Any], triples: Triples) -> None:
        self.query = query
        self.triples = [(typed(s), typed(p), typed(v)) for s, p, v in triples.all()]
        self.envs: list[Env] = [{}]
        for binding, value in zip((b for b in query.inputs if not isinstance(b, str)), inputs, strict=True):
            self.envs = [more for env in self.envs for more in self.bind(binding, typed(value), env)]
        domain = {term for triple in self.triples for term in triple} | set(self.constants(query.where))
        domain |= {value for env in self.envs for value in env.values()}
        for branches in query.rules.values():
            domain |= {value for branch in branches for value in self.constants(branch.clauses)}
        self.domain = sorted(domain, key=repr)
        self.facts: dict[str, set[tuple[Typed, ...]]] = {}
        used = [call.name for call, _ in self.calls(query.where, False)]
        for name in used:
            inner = (
                call.name for branch in query.rules[name] for call, _ in self.calls(branch.clauses, False)
            )
            used += [other for other in dict.fromkeys(inner) if other not in used]
        levels = {name: self.level(name, ()) for name in used}
        for level in sorted(set(levels.values())):
            self.saturate([name for name in dict.fromkeys(used) if levels[name] == level])

    # -- rules, lowest stratum first

    def level(self, name: str, path: tuple[str, ...]) -> int:
        """More than that of every rule that is negated below; a circle adds nothing."""
        if name in path:
            return 0
        out = 0
        for branch in self.query.rules[name]:
            for call, negated in self.calls(branch.clauses, False):
                out = max(out, self.level(call.name, (*path, name)) + negated)
        return out

    def calls(self, clauses: Sequence[Clause], negated: bool) -> Iterator[tuple[RuleCall, bool]]:
        for clause in clauses:
            if isinstance(clause, RuleCall):
                yield clause, negated
            elif isinstance(clause, Not):
                yield from self.calls(clause.clauses, True)
            elif isinstance(clause, Or):
                for branch in clause.branches:
                    yield from self.calls(branch, negated)

    def constants(self, clauses: Sequence[Clause]) -> Iterator[Typed]:
        for clause in clauses:
            if isinstance(clause, Not):
                yield from self.constants(clause.clauses)
            elif isinstance(clause, Or):
                for branch in clause.branches:
                    yield from self.constants(branch)
            else:
                terms = (
                    clause.arguments if not isinstance(clause, Pattern) else (clause.subject, clause.value)
                )
                yield from (typed(outward(term.value)) for term in terms if isinstance(term, Constant))

    def saturate(self, names: Sequence[str]) -> None:
        for name in names:
            self.facts[name] = set()
        size = -1
        while size < sum(map(len, self.facts.values())):
            size = sum(map(len, self.facts.values()))
            for name in names:
                for branch in self.query.rules[name]:
                    for values in product(self.domain, repeat=len(branch.variables)):
                        env = dict(zip(branch.variables, values, strict=True))
                        if values not in self.facts[name] and self.holds(branch.clauses, env):
                            self.facts[name].add(values)

    # -- clauses

    def holds(self, clauses: Sequence[Clause], env: Env) -> bool:
        return any(True for _ in self.solve(clauses, env))

    def solve(self, clauses: Sequence[Clause], env: Env) -> Iterator[Env]:
        if not clauses:
            yield env
            return
        chosen = min(range(len(clauses)), key=lambda index: self.rank(clauses[index], env))
        rest = [*clauses[:chosen], *clauses[chosen + 1 :]]
        for more in self.one(clauses[chosen], env):
            yield from self.solve(rest, more)

    def rank(self, clause: Clause, env: Env) -> int:
        """Patterns first, then what has its arguments; rules and `or` may bind them, negation goes last."""
        if isinstance(clause, Call | RuleCall):
            ready = all(t.name in env for t in clause.arguments if isinstance(t, Variable))
            return 1 if ready else 2 if isinstance(clause, RuleCall) else 4
        return 0 if isinstance(clause, Pattern) else 3 if isinstance(clause, Or) else 5

    def one(self, clause: Clause, env: Env) -> Iterator[Env]:
        if isinstance(clause, Pattern):
            for triple in self.triples:
                yield from self.match((clause.subject, clause.predicate, clause.value), triple, env)
        elif isinstance(clause, RuleCall):
            facts = self.facts[clause.name]
            given = tuple(env.get(t.name) for t in clause.arguments if isinstance(t, Variable))
            if (
                len(given) == len(clause.arguments)
                and None not in given
                and not set(given) <= set(self.domain)
            ):
                for branch in self.query.rules[clause.name]:  # a computed value: no fact was tried for it
                    if self.holds(branch.clauses, dict(zip(branch.variables, given, strict=True))):  # type: ignore[arg-type]
                        facts = {given}  # type: ignore[arg-type]
            for fact in facts:
                yield from self.match(clause.arguments, fact, env)
        elif isinstance(clause, Call):
            yield from self.call(clause, env)
        elif isinstance(clause, Not):
            names = variables(*clause.clauses) if clause.variables is None else clause.variables
            if not self.holds(clause.clauses, {name: env[name] for name in names if name in env}):
                yield env
        else:
            inner = {name: env[name] for name in clause.variables if name in env}
            for branch in clause.branches:
                for found in self.solve(branch, inner):
                    yield {**env, **{name: found[name] for name in clause.variables}}

    def match(self, terms: Sequence[Any], values: Sequence[Typed], env: Env) -> Iterator[Env]:
        found = dict(env)
        for term, value in zip(terms, values, strict=True):
            if isinstance(term, Constant) and typed(outward(term.value)) != value:
                return
            if isinstance(term, Variable) and found.setdefault(term.name, value) != value:
                return
        yield found

    def call(self, clause: Call, env: Env) -> Iterator[Env]:
        arguments = [
            env[t.name] if isinstance(t, Variable) else typed(outward(t.value)) for t in clause.arguments
        ]
        if clause.function in ("get-else", "missing?"):
            held = [v for s, p, v in self.triples if (s, p) == tuple(arguments[:2])]
            result: Any = not held if clause.function == "missing?" else [*held, arguments[-1]][0]
        else:
            result = FUNCTIONS[str(clause.function)](*arguments)
        if clause.binding is None:
            if result:
                yield env
        elif result is not None:
            yield from self.bind(clause.binding, typed(result) if isinstance(result, bool) else result, env)

    def bind(self, binding: Binding, value: Typed, env: Mapping[str, Typed]) -> Iterator[Env]:
        if isinstance(binding, Blank):
            yield dict(env)
        elif isinstance(binding, Variable):
            if env.get(binding.name, value) == value:
                yield {**env, binding.name: value}
        elif isinstance(binding, BindCollection):
            for item in value[1]:
                yield from self.bind(binding.item, item, env)
        elif isinstance(binding, BindTuple):
            envs = [dict(env)]
            for item, part in zip(binding.items, value[1], strict=False):
                envs = [more for each in envs for more in self.bind(item, part, each)]
            yield from envs

    def bindings(self) -> set[tuple[Typed, ...]]:
        """The distinct (find, with) tuples."""
        names = [
            *(e.name if isinstance(e, Variable) else e.variable.name for e in self.query.find),
            *self.query.with_,
        ]
        return {
            tuple(e[name] for name in names) for env in self.envs for e in self.solve(self.query.where, env)
        }

    def answer(self) -> Counter[tuple[Typed, ...]]:
        """The rows, each with the number of times that it is there."""
        rows, find = self.bindings(), self.query.find
        if not any(isinstance(element, Aggregate) for element in find):
            return Counter(row[: len(find)] for row in rows)
        groups: dict[tuple[Typed, ...], list[tuple[Typed, ...]]] = {}
        for row in rows:
            plain = tuple(row[i] for i, e in enumerate(find) if not isinstance(e, Aggregate))
            groups.setdefault(plain, []).append(row)
        out: Counter[tuple[Typed, ...]] = Counter()
        for members in groups.values():
            cells: list[Typed | None] = list(members[0][: len(find)])
            for index, element in enumerate(find):
                if isinstance(element, Aggregate):
                    n = outward(element.arguments[0].value) if element.arguments else None  # type: ignore[union-attr]
                    cells[index] = fold(str(element.function), n, [row[index] for row in members])
            if None not in cells:
                out[tuple(cells)] += 1  # type: ignore[arg-type]
        return out


def rank_value(value: Typed) -> tuple[int, Any]:
    return "bnds".index(value[0]), value[1]


def fold(name: str, n: int | None, values: list[Typed]) -> Typed | None:
    """An aggregate by the book, in fractions."""
    ranked = sorted(values, key=rank_value)
    if name in ("count", "count-distinct"):
        return "n", len(values if name == "count" else set(values))
    if name == "distinct":
        return "c", tuple(sorted(set(values), key=rank_value))
    if name in ("min", "max"):
        if n is None:
            return ranked[0 if name == "min" else -1]
        return "c", tuple(ranked[:n] if name == "min" else ranked[len(ranked) - n :] if n else ())
    numbers = sorted(Fraction(value) for kind, value in values if kind == "n")
    if not numbers:
        return None
    mean = sum(numbers) / len(numbers)
    variance = sum((x - mean) ** 2 for x in numbers) / len(numbers)
    middle = (numbers[(len(numbers) - 1) // 2] + numbers[len(numbers) // 2]) / 2
    result = {"sum": sum(numbers), "avg": mean, "median": middle, "variance": variance, "stddev": variance}[
        name
    ]
    return "n", float(result) ** 0.5 if name == "stddev" else float(result)
