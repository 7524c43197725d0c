"""In which order the literals of a body are looked at by columns: as in `joins`, by sizes that mirrors and samples
tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any

import numpy as np

from tripleweb.datalog.bodies import Apply, Literal, Member, Triple, inputs_of, outputs_of
from tripleweb.datalog.captured import Scope
from tripleweb.datalog.joins import HALF, SAMPLE, Sizes, best
from tripleweb.datalog.vectorised.mirrors import Mirror
from tripleweb.datalog.vectorised.vectors import Batch, Constant, Vector

if TYPE_CHECKING:
    from tripleweb.datalog.vectorised.steps import Run

KEPT_MAX = 64
COMPARED: dict[str, Any] = {"<": lt, ">": gt, "<=": le, ">=": ge, "=": eq, "==": eq, "!=": ne, "not=": ne}


class Orders:
    """In which order bodies are looked at, and the functions that they call: kept from run to run of a query."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        # beside each order its literals, so that their id() is nobody else's
        self._kept: dict[tuple[Any, ...], tuple[Sequence[Literal], list[tuple[Literal, set[str]]]]] = {}
        self._functions: dict[int, Any] = {}  # by id() of the literal, which is the query's

    def function(self, literal: Apply) -> Any:
        found = self._functions.get(id(literal))
        if found is None:
            found = self._functions[id(literal)] = self._scope.resolve(
                [literal.form], "FUNCTION", literal.function, 0
            )
        return found

    def of(
        self, literals: Sequence[Literal], batch: Batch, wanted: Collection[str], run: Run
    ) -> list[tuple[Literal, set[str]]]:
        """Literals in the order in which they are to be looked at, each with the variables that are asked for after
        it. It is found anew where sizes have changed."""
        if len(literals) < 2:  # there is but one order, and nothing to measure
            return list(zip(literals, needed_after(literals, wanted), strict=True))
        known = _first_members(literals, batch, run)
        if known is not None:
            return list(zip(known, needed_after(known, wanted), strict=True))
        sizes = Measured(run, literals, batch.vectors)
        key = (id(literals), tuple(batch.vectors), tuple(wanted), sizes.signature)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            ordered = [literal for _, literal in best(literals, batch.vectors, sizes)[0]]
            found = literals, list(zip(ordered, needed_after(ordered, wanted), strict=True))
            self._kept[key] = found
        return found[1]


def _first_members(literals: Sequence[Literal], batch: Batch, run: Run) -> Sequence[Literal] | None:
    """The order of what most queries ask of a relation, something of its members: known without measuring, where there
    are no more of them than of the triples."""
    if len(literals) != 2:
        return None
    member, triple = sorted(literals, key=lambda literal: isinstance(literal, Triple))
    if not (isinstance(member, Member) and isinstance(triple, Triple)) or triple.value in batch:
        return None
    if triple.subject not in member.terms or triple.value in member.terms:
        return None
    few = len(run.relations[member.relation]) <= run.scope.store.count(triple.predicate)
    return (member, triple) if few else None


class Measured(Sizes):
    """The sizes of mirrors, and what comparisons with constants leave of a sample."""

    def __init__(self, run: Run, literals: Sequence[Literal], known: Collection[str] = ()) -> None:
        """`known` are the variables that are bound before, beside the constants."""
        self._run = run
        self._constants = run.constants
        self._counts: dict[str, int] = {}
        self._means: dict[tuple[str, str], float] = {}
        self._shares: dict[int, float] = {}
        compared = {
            name
            for literal in literals
            if isinstance(literal, Apply) and literal.function in COMPARED and literal.binding is None
            for name in literal.arguments
        }
        held: dict[str, Mirror] = {}
        for literal in literals:
            if not isinstance(literal, Triple):
                continue
            name, value = literal.predicate, literal.value
            mirror = run.ready(name)
            if mirror is None and value in compared and value not in self._constants:
                mirror = run.mirror(name)
            if mirror is None:
                self._counts[name] = run.scope.store.count(name)
                is_joined = value in known or value in self._constants or _uses(literals, value) > 1
                self._means[name, value] = run.rough.fan(name, value) if is_joined else 1.0
                continue
            held[value] = mirror
            self._counts[name] = len(mirror.cells)
            constant = value in self._constants
            self._means[name, value] = (
                float(len(run.selected(literal, self._constants[value]))) if constant else mirror.fan
            )
        for literal in literals:
            if isinstance(literal, Apply) and literal.binding is None and len(literal.arguments) == 2:
                self._shares[id(literal)] = self._tested(literal, held)
        self.signature = (
            *(count.bit_length() for count in self._counts.values()),
            *(int(fan).bit_length() for fan in self._means.values()),
            *(int(32 * share) for share in self._shares.values()),
            *(len(tuples).bit_length() for tuples in run.relations.values()),
        )

    def _tested(self, literal: Apply, held: Mapping[str, Mirror]) -> float:
        mirrors = [held[name] for name in literal.arguments if name in held and name not in self._constants]
        if len(mirrors) != 1 or not all(
            name in held or name in self._constants for name in literal.arguments
        ):
            return HALF
        cells = mirrors[0].cells
        sample = self._run.cells_of(mirrors[0], cells[:: max(1, len(cells) // SAMPLE)])
        vectors: dict[str, Vector] = {
            name: Constant(self._constants[name], len(sample)) if name in self._constants else sample
            for name in literal.arguments
        }
        mask = self._run.compared(literal, Batch(vectors, len(sample)))
        return (
            HALF
            if mask is None or not len(sample)
            else max(0.001, float(np.count_nonzero(mask)) / len(sample))
        )

    def count(self, predicate: str) -> int:
        return self._counts[predicate]

    def fan(self, predicate: str, variable: str) -> float:
        return self._means[predicate, variable]

    def share(self, literal: Literal) -> float:
        return self._shares.get(id(literal), HALF)

    def members(self, relation: str) -> int:
        return len(self._run.relations[relation])


def _uses(literals: Sequence[Literal], name: str) -> int:
    """How many literals a variable stands in."""
    return sum(name in {*inputs_of(literal), *outputs_of(literal)} for literal in literals)


def needed_after(ordered: Sequence[Literal], wanted: Collection[str]) -> list[set[str]]:
    """For each literal, the variables that are asked for after it."""
    needed, out = set(wanted), []
    for literal in reversed(ordered):
        out.append(set(needed))
        needed.update(inputs_of(literal))
        needed.update(outputs_of(literal))
    return out[::-1]
