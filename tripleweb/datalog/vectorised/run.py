"""A query by columns: bodies to batches, rules to fixpoints, batches to an answer.

`Vectorised` belongs to one query over one store; `call` runs it with other inputs. Recursive rules are evaluated
semi-naively: a round joins what the last one brought with everything there is. Invariants: the rows are those of the
plain evaluator; a run that raises leaves nothing behind but mirrors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from tripleweb.datalog.answer import Result, Row, answer, ordered
from tripleweb.datalog.bodies import Body, Literal, Member, Triple, members_of, predicates_of
from tripleweb.datalog.builtins import chunks, complete, inward, outward
from tripleweb.datalog.captured import Relation, Scope
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.joins import steps as rows_expected
from tripleweb.datalog.pull import Puller
from tripleweb.datalog.query import Aggregate, Query
from tripleweb.datalog.recursion import Component, Recursion
from tripleweb.datalog.vectorised.columns import Sheaf, column_of, distinct, is_determined, union
from tripleweb.datalog.vectorised.groups import grouped
from tripleweb.datalog.vectorised.mirrors import Array, mirrors_of
from tripleweb.datalog.vectorised.orders import Measured, Orders
from tripleweb.datalog.vectorised.ranks import chosen
from tripleweb.datalog.vectorised.relations import Tuples
from tripleweb.datalog.vectorised.steps import Run
from tripleweb.datalog.vectorised.vectors import Batch, Constant, Objects, Renumbered, Vector
from tripleweb.store import Store

Found = TypeVar("Found")
Given = ParamSpec("Given")
Round = tuple[str, Body, int, tuple[Literal, ...], Triple | None]


def begun_again(
    work: Callable[Concatenate[Vectorised, Given], Found],
) -> Callable[Concatenate[Vectorised, Given], Found]:
    """What `work` gives; once more with all mirrors made, where one of them numbered entities too late."""

    @wraps(work)
    def run(self: Vectorised, /, *given: Given.args, **named: Given.kwargs) -> Found:
        try:
            return work(self, *given, **named)
        except Renumbered:
            self._mirror()
            return work(self, *given, **named)

    return run


class Vectorised:
    """Bodies over a store, ready to be run; `recursion` derives the relations that are no inputs."""

    def __init__(
        self, store: Store, query: Query, bodies: Sequence[Body], recursion: Recursion, scope: Scope
    ) -> None:
        self.query = query
        self.bodies = list(bodies)
        self._store = store
        self._scope = scope
        self._components = _in_order(recursion)
        derived = [body for component in self._components for _, body in component.bodies]
        self._predicates = sorted(
            {name for body in (*self.bodies, *derived) for name in predicates_of(body.literals)}
        )
        self._orders = Orders(scope)
        members = [member for body in (*self.bodies, *derived) for member in members_of(body.literals)]
        self._widths = {member.relation: len(member.terms) for member in members}
        # (relation, body, place of a literal of the component's own, the other literals, the reference that is all
        # there is to follow), by component
        self._rounds = [
            [
                (name, body, at, (*body.literals[:at], *body.literals[at + 1 :]), _followed(body, at))
                for name, body in component.bodies
                for at, literal in enumerate(body.literals)
                if _is_own(literal, component.makes())
            ]
            for component in self._components
        ]
        self._aggregates = any(isinstance(element, Aggregate) for element in query.find)
        self._is_ordered = bool(query.order_by or query.limit is not None or query.offset)
        self._is_one = query.shape in ("tuple", "scalar")

    @begun_again
    def call(
        self,
        constants: Mapping[str, Any],
        scalars: Mapping[str, Any],
        relations: Mapping[str, Relation],
        budget: Budget,
    ) -> Result:
        """The answer with these values. Raises `BudgetError`."""
        query = self.query
        run = self._run(constants, relations, budget, is_exact=False)
        parts: list[list[Vector]] = []
        size, is_whole = 0, True
        for body in self.bodies:
            batch, determined = self._body(run, body)
            if not batch.size:
                continue
            parts.append([batch.vectors[name] for name in body.head])
            size, is_whole = size + batch.size, determined and not size
        if not size:
            vectors: list[Vector] = []
        else:
            vectors = union(parts, run.mirrors)
            first = None if is_whole else distinct(vectors, size, run.codes)
            if first is not None:
                memo: dict[int, Any] = {}
                vectors, size = [vector.take(first, memo) for vector in vectors], len(first)
        run.answer(size)
        result = self._shaped(vectors, size)
        if result is None:
            puller = Puller(run.source, query.fields) if query.looks_up else None
            result = complete(answer(query, scalars, _rows(vectors, size), puller))
        result.work = run.touched + self._scope.work[0]
        return result

    def _shaped(self, vectors: Sequence[Vector], size: int) -> Result | None:
        """The result of distinct rows as columns; None where that is for `answer` to make."""
        query = self.query
        if not size or query.looks_up or (query.with_ and not self._aggregates):
            return None
        if self._aggregates:
            columns = grouped(query, vectors, size)
            if columns is None:
                return None
            sheaf = Sheaf(columns, len(columns[0].values))
            if self._is_ordered or self._is_one:
                rows = complete(ordered(query, [tuple(map(inward, row)) for row in sheaf.rows]))
                return Result(query.columns, [tuple(map(outward, row)) for row in rows])
        else:
            if self._is_ordered or (self._is_one and size > 1):
                places = chosen(query, vectors, size)
                if places is None:
                    return None
                memo: dict[int, Array] = {}
                vectors, size = [vector.take(places, memo) for vector in vectors], len(places)
            sheaf = Sheaf([column_of(vector) for vector in vectors], size)
        return Result(query.columns, sheaf.rows if self._is_one else sheaf)  # type: ignore[arg-type]

    def _mirror(self) -> None:
        for predicate in self._predicates:
            mirrors_of(self._store).of(predicate)

    def steps(
        self,
        constants: Mapping[str, Any],
        relations: Mapping[str, Relation],
        budget: Budget,
        clock: Callable[[], float],
    ) -> Iterator[tuple[int, Literal, float, int, int, float]]:
        """How the bodies are run: for each literal the number of its body, it, about how many rows were expected after
        it, how many there are, how many it touched, and how long it took."""
        self._mirror()
        run = self._run(constants, relations, budget, is_exact=False)
        for number, body in enumerate(self.bodies, 1):
            batch = self._start(run)
            ordered = run.orders.of(body.literals, batch, body.head, run)
            expected = rows_expected(
                [(0, literal) for literal, _ in ordered], constants, Measured(run, body.literals)
            )
            for (literal, later), estimated in zip(ordered, expected, strict=True):
                before, started = run.touched, clock()
                batch = run.step(literal, batch, later) if batch.size else batch
                yield number, literal, estimated, batch.size, run.touched - before, clock() - started

    @begun_again
    def counts(
        self, constants: Mapping[str, Any], relations: Mapping[str, Relation], budget: Budget
    ) -> Counter[Row]:
        """How many derivations each row has."""
        run = self._run(constants, relations, budget, is_exact=True)
        found: Counter[Row] = Counter()
        for body in self.bodies:
            batch, _ = self._body(run, body)
            rows = _tuples([batch.vectors[name] for name in body.head], batch.size) if batch.size else ()
            for part in chunks(rows):  # in one call they would keep other threads from running for as long
                found.update(part)
        run.answer(len(found))
        self.touched = run.touched + self._scope.work[0]
        return found

    def _run(
        self, constants: Mapping[str, Any], relations: Mapping[str, Relation], budget: Budget, is_exact: bool
    ) -> Run:
        mirrors = mirrors_of(self._store)
        scope = self._scope
        scope.limit[0] = float("inf") if budget.rows is None else budget.rows
        scope.allow(budget.bytes)
        scope.work[0] = 0
        run = Run(mirrors, scope, constants, self._orders, is_exact)
        for name, relation in relations.items():
            if name in self._widths:
                run.relations[name] = _given(run, relation, self._widths[name])
        for component, rounds in zip(self._components, self._rounds, strict=True):
            self._fixpoint(run, component, rounds)
        return run

    def _body(self, run: Run, body: Body) -> tuple[Batch, bool]:
        """(a batch with the head's variables, whether its rows have different heads)."""
        run.bound, run.bonds = set(), []
        batch = self._start(run)
        for literal, later in run.orders.of(body.literals, batch, body.head, run):
            batch = run.step(literal, batch, later)
            if not batch.size:
                return batch, True
        return batch, is_determined((*body.head, *run.constants), run.bound, run.bonds)

    def _start(self, run: Run) -> Batch:
        return Batch({name: Constant(value) for name, value in run.constants.items()}, 1)

    # -- rules

    def _fixpoint(self, run: Run, component: Component, rounds: Sequence[Round]) -> None:
        """The relations of a component: what follows from nothing, and then from what came last."""
        own = component.makes()
        for name, body in component.bodies:
            run.relations[name] = Tuples(len(body.head))
        found = []
        for name, body in component.bodies:
            if not any(_is_own(literal, own) for literal in body.literals):
                batch = self._start(run)
                found.append(
                    (name, self._heads(run, body, run.orders.of(body.literals, batch, body.head, run), batch))
                )
        orders: dict[int, list[tuple[Literal, set[str]]]] = {}
        while True:
            came: dict[str, list[Tuples]] = {}
            for name, columns in found:
                if columns is not None:
                    fresh = run.relations[name].put(columns, run.codes.size)
                    run.hold(len(run.relations[name]))
                    if len(fresh):
                        came.setdefault(name, []).append(fresh)
            if not came:
                return
            found = []
            for number, (name, body, at, rest, reference) in enumerate(rounds):
                literal = body.literals[at]
                assert isinstance(literal, Member)
                for fresh in came.get(literal.relation, ()):
                    if (
                        reference is not None
                        and (codes := run.followed(reference, fresh.columns[0])) is not None
                    ):
                        found.append((name, [codes] if len(codes) else None))
                        continue
                    batch = run.member(literal, self._start(run), fresh)
                    if number not in orders:
                        orders[number] = run.orders.of(rest, batch, body.head, run)
                    found.append((name, self._heads(run, body, orders[number], batch)))

    def _heads(
        self, run: Run, body: Body, ordered: Sequence[tuple[Literal, set[str]]], batch: Batch
    ) -> list[Array] | None:
        """The codes of a body's heads, column by column; None if there are none."""
        for literal, later in ordered:
            if not batch.size:
                return None
            batch = run.step(literal, batch, later)
        if not batch.size:
            return None
        return [run.codes.of(batch.vectors[name]) for name in body.head]


def _is_own(literal: Literal, own: set[str]) -> bool:
    return isinstance(literal, Member) and literal.relation in own


def _followed(body: Body, at: int) -> Triple | None:
    """The literal beside the one at `at`, where the heads are just the subjects that refer to its members."""
    member, other = body.literals[at], body.literals[1 - at] if len(body.literals) == 2 else None
    if not (isinstance(member, Member) and isinstance(other, Triple) and other.subject != other.value):
        return None
    return other if member.terms == (other.value,) and body.head == (other.subject,) else None


def _in_order(recursion: Recursion) -> list[Component]:
    """The components, those first that others read."""
    left, out = list(recursion.components), []
    while left:
        made = {name for component in left for name in component.makes()}
        ready = next(one for one in left if not (one.reads() & made) - one.makes())
        left.remove(ready)
        out.append(ready)
    return out


def _given(run: Run, relation: Relation, width: int) -> Tuples:
    """The rows of an input as codes."""
    rows = list(relation.members)
    vectors = [Objects(np.fromiter([row[at] for row in rows], object, len(rows))) for at in range(width)]
    return Tuples.of([run.codes.of(vector) for vector in vectors])


def _tuples(vectors: Sequence[Vector], size: int) -> Iterable[Row]:
    """Rows in the engine's values."""
    lists = [vector.inward().tolist() for vector in vectors]
    return zip(*lists, strict=True) if lists else [()] * size


def _rows(vectors: Sequence[Vector], size: int) -> list[Row]:
    return list(_tuples(vectors, size))
