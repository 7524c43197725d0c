"""The order in which the literals of a body are looked at: by what each is expected to cost.

`Sizes` asks the store; `cost` says how many rows a literal makes of one; `greedy` takes the cheapest at each step;
`best` tries every start and keeps the order that touches the fewest rows in all. Invariant: a literal comes after all
that it needs (`inputs_of`); where no order does that, `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from math import inf
from typing import Any

from tripleweb.datalog.bodies import (
    Apply,
    Literal,
    Member,
    Read,
    Triple,
    Unsupported,
    Without,
    inputs_of,
    outputs_of,
)
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.clauses import Variable
from tripleweb.store import Store
from tripleweb.tables import Column
from tripleweb.view import ABSENT

Numbered = tuple[int, Literal]  # a literal and its place in the body
SAMPLE = 256
DERIVED = 10_000
STARTS_MAX = 12
HALF = 0.5  # of the rows pass a test of which nothing is known


class Sizes:
    """What a store and some relations say of their sizes."""

    def __init__(self, store: Store, relations: Mapping[str, Sized], constants: Mapping[str, object]) -> None:
        self._store = store
        self._relations = relations
        self._constants = constants
        self._fans: dict[tuple[str, str | None], float] = {}

    def count(self, predicate: str) -> int:
        return self._store.count(predicate)

    def fan(self, predicate: str, variable: str) -> float:
        """How many subjects have the value of a variable: exactly, where the value and the index are there; as a sample
        has it, where the value is."""
        column = self._store.column(predicate)[1]
        if variable in self._constants and column.index is not None:
            try:
                rows = column.index.get(self._constants[variable], ())
            except TypeError:  # a value that cannot be a key is nobody's
                return 0.0
            return 1.0 if isinstance(rows, int) else float(len(rows))
        key = predicate, variable if variable in self._constants else None
        if key not in self._fans:
            self._fans[key] = self._sampled(column, variable)
        return self._fans[key]

    def _sampled(self, column: Column, variable: str) -> float:
        if column.index is not None:
            return column.live / max(1, len(column.index))
        sample = self._sample(column)
        if variable in self._constants:
            hits = sample.count(self._constants[variable])
            if hits > 2:
                return column.live * hits / len(sample)
        distinct = len(set(sample))
        if distinct >= len(sample) * 0.9:
            return 1.0
        return max(1.0, column.live / max(1, distinct * 2))  # a sample sees about half of what repeats

    @staticmethod
    def _sample(column: Column) -> list[Any]:
        """Some of its single values."""
        step = max(1, len(column.values) // SAMPLE)
        return [inward(value) for value in column.values[::step] if value is not ABSENT]

    def share(self, literal: Literal) -> float:
        """Which part of the rows a test leaves."""
        return HALF

    def members(self, relation: str) -> int:
        """How many tuples a relation has; of one that is derived, how many it may have."""
        return len(self._relations[relation]) if relation in self._relations else DERIVED


def cost(literal: Literal, known: set[str], sizes: Sizes) -> float:
    """About how many rows a literal makes of one; infinity while it cannot run."""
    if any(name not in known for name in inputs_of(literal)):
        return inf
    if isinstance(literal, Apply):
        return 0.01 if literal.binding is None else 0.05 if isinstance(literal.binding, Variable) else 2.0
    if isinstance(literal, Read):
        return 0.1
    if isinstance(literal, Without):
        return 0.3
    if isinstance(literal, Member):
        given = sum(term in known for term in literal.terms)
        size = sizes.members(literal.relation)
        return 0.2 if given == len(literal.terms) else float(size) ** (0.4 if given else 1.0)
    count = float(sizes.count(literal.predicate))
    if literal.subject in known:
        return 0.5 if literal.value in known else 1.0
    return min(count, sizes.fan(literal.predicate, literal.value)) if literal.value in known else count + 1.0


def greedy(
    literals: Iterable[Numbered], known: Iterable[str], sizes: Sizes, first: int | None = None
) -> list[Numbered]:
    """What costs least first, from `known` variables on (after the literal at place `first`, if given)."""
    left = list(literals)
    seen = set(known)
    out: list[Numbered] = []
    while left:
        if first is not None and not out:
            chosen = next(pair for pair in left if pair[0] == first)
        else:
            chosen = min(left, key=lambda pair: (cost(pair[1], seen, sizes), pair[0]))
        if cost(chosen[1], seen, sizes) == inf:
            raise Unsupported("its clauses can only run in an order that the data decides")
        left.remove(chosen)
        out.append(chosen)
        seen.update(outputs_of(chosen[1]))
    return out


def steps(ordered: Sequence[Numbered], known: Iterable[str], sizes: Sizes) -> list[float]:
    """About how many rows there are after each literal."""
    seen, rows, out = set(known), 1.0, []
    for _, literal in ordered:
        made = cost(literal, seen, sizes)
        if isinstance(literal, Triple | Member):
            rows = max(0.01, rows * made)
        elif not any(True for _ in outputs_of(literal)):
            rows *= sizes.share(literal)
        out.append(rows)
        seen.update(outputs_of(literal))
    return out


def best(literals: Sequence[Literal], known: Iterable[str], sizes: Sizes) -> tuple[list[Numbered], float]:
    """The order that touches the fewest rows, of the greedy ones from each start; and how many that are."""
    numbered, known = list(enumerate(literals)), set(known)
    starts: list[int | None] = [None]
    if len(numbered) <= STARTS_MAX:
        starts += [at for at, literal in numbered if isinstance(literal, Triple | Member)]
    found = []
    for start in starts:
        ordered = greedy(numbered, known, sizes, start)
        found.append((sum(steps(ordered, known, sizes)), ordered))
    price, ordered = min(found, key=lambda pair: pair[0])
    return ordered, price
