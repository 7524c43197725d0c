"""All that is no triple as steps by columns: calls, negations, relations.

Comparisons of columns of one kind are done by arrays; other calls row by row, as their functions are. A negation asks
for all rows at once which of them have a derivation of what is within. See `triples` for what a step is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import islice
from operator import add, mul
from typing import Any

import numpy as np

from tripleweb.datalog.bodies import Apply, Literal, Member, Read, Triple, Without
from tripleweb.datalog.builtins import CHUNK, FUNCTIONS, chunks, inward, truthy
from tripleweb.datalog.captured import Scope
from tripleweb.datalog.clauses import Binding, Blank, Variable, bound
from tripleweb.datalog.inputs import bind
from tripleweb.datalog.vectorised.columns import REPEATED
from tripleweb.datalog.vectorised.mirrors import EXACT, FLAGS, Array, Mirrors
from tripleweb.datalog.vectorised.orders import COMPARED, Orders
from tripleweb.datalog.vectorised.relations import Tuples
from tripleweb.datalog.vectorised.triples import Matching
from tripleweb.datalog.vectorised.vectors import (
    Batch,
    Cells,
    Constant,
    Entities,
    Objects,
    Vector,
    equal,
    numeric,
)
from tripleweb.ids import kind_of

TAG = "tag"  # no variable of a query is called so
_EQUAL, _UNEQUAL = ("=", "=="), ("!=", "not=")


_ARITHMETIC: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_PLAIN: dict[str, Any] = {"+": add, "-": add, "*": mul}  # what bounds the result


class Tags(Vector):
    """Which row of an outer batch a row comes from."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Array) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: Array, memo: dict[int, Array]) -> Tags:
        return Tags(self.numbers[index])

    def inward(self) -> Array:
        return self.numbers.astype(object)


class Run(Matching):
    """One evaluation."""

    def __init__(
        self, mirrors: Mirrors, scope: Scope, constants: Mapping[str, Any], orders: Orders, is_exact: bool
    ) -> None:
        super().__init__(mirrors, scope, constants, is_exact)
        self.source = scope.source()
        self.orders = orders
        self.relations: dict[str, Tuples] = {}

    def step(
        self, literal: Literal, batch: Batch, later: Collection[str], given: Tuples | None = None
    ) -> Batch:
        """The rows that follow. `later` are the variables that are asked for; `given` stands for the relation."""
        if isinstance(literal, Triple):
            out = self.triple(literal, batch, later)
        elif isinstance(literal, Apply):
            out = self.apply(literal, batch)
        elif isinstance(literal, Member):
            out = self.member(literal, batch, self.relations[literal.relation] if given is None else given)
        elif isinstance(literal, Without):
            out = self.without(literal, batch)
        else:
            out = self.read(literal, batch)
        return out.only((*later, *self.constants))

    # -- calls

    def apply(self, literal: Apply, batch: Batch) -> Batch:
        if literal.binding is None and len(literal.arguments) == 2 and not literal.custom:
            mask = self.compared(literal, batch)
            if mask is not None:
                self.touch(batch.size)
                return batch.where(mask)
        if isinstance(literal.binding, Variable) and len(literal.arguments) == 2 and not literal.custom:
            made = self.computed(literal, batch)
            if made is not None:
                values, there = made
                self.touch(batch.size)
                self._note(literal.arguments, literal.binding)
                batch = batch if there is None else batch.where(there)
                return self._unify(
                    batch, literal.binding.name, Objects(values if there is None else values[there])
                )
        arguments = [batch.vectors[name].inward().tolist() for name in literal.arguments]
        function = self.orders.function(literal)
        found: list[Any] = []
        for part in chunks(list(zip(*arguments, strict=True)) if arguments else [()] * batch.size):
            self.touch(len(part))
            found += [function(*row) for row in part]
        self._note(literal.arguments, literal.binding)
        return self._result(literal.binding, found, batch)

    def _note(self, inputs: tuple[str, ...], binding: Binding | None) -> None:
        if isinstance(binding, Variable):
            self.bonds.append((inputs, binding.name))

    def computed(self, literal: Apply, batch: Batch) -> tuple[Array, Array | None] | None:
        """(the numbers that an operation on two columns of numbers gives, where there are such; None for everywhere);
        None where arrays cannot say it exactly."""
        operation = _ARITHMETIC.get(literal.function)
        a, b = (numeric(batch.vectors[name]) for name in literal.arguments)
        if (
            operation is None
            or a is None
            or b is None
            or not (isinstance(a, np.ndarray) or isinstance(b, np.ndarray))
        ):
            return None
        if not batch.size:
            return np.empty(0, dtype=np.int64), None
        if _is_whole(a) and _is_whole(b):
            if literal.function == "/":
                return None  # an integer where it divides evenly
            most = _PLAIN[literal.function](_size(a), _size(b))
            return (operation(a, b), None) if most <= EXACT else None
        with np.errstate(all="ignore"):
            values = np.asarray(operation(a, b), dtype=np.float64)
        there = np.isfinite(values)
        return values, None if there.all() else there

    def compared(self, literal: Apply, batch: Batch) -> Array | None:
        """Where a comparison of two columns holds; None where they are not of one kind that arrays can compare."""
        name = literal.function
        if name not in COMPARED:
            return None
        a, b = (batch.vectors[name] for name in literal.arguments)
        if name in _EQUAL:
            return equal(a, b, self.mirrors)
        if name in _UNEQUAL:
            return ~equal(a, b, self.mirrors)
        one, other = numeric(a), numeric(b)
        if one is None or other is None:
            one, other = _comparable(a), _comparable(b)
            if one is None or other is None or one[0] != other[0]:
                return None
            one, other = one[1], other[1]
        found = COMPARED[name](one, other)
        return found if isinstance(found, np.ndarray) else np.full(batch.size, bool(found))

    def _result(self, binding: Binding | None, found: list[Any], batch: Batch) -> Batch:
        """The rows with what a call gave for each."""
        if binding is None:
            return batch.where(np.fromiter(map(truthy, found), np.bool_, len(found)))
        there = [place for place, value in enumerate(found) if value is not None]
        if len(there) < len(found):
            batch = batch.take(np.array(there, dtype=np.int64))
            found = [found[place] for place in there]
        if isinstance(binding, Blank):
            return batch
        if isinstance(binding, Variable):
            return self._unify(batch, binding.name, Objects(np.fromiter(found, object, len(found))))
        names, index, rows = list(bound(binding)), [], []
        for place, value in enumerate(found):
            made = bind(binding, value, None)
            while part := list(islice(made, CHUNK)):
                self.touch(len(part))
                rows += part
                index += [place] * len(part)
                self.hold(len(rows))
        if len(set(zip(index, rows, strict=True))) < len(rows):
            self.bound.add(REPEATED)
        batch = batch.take(np.array(index, dtype=np.int64))
        vectors = [
            Objects(np.fromiter([row[at] for row in rows], object, len(rows))) for at in range(len(names))
        ]
        for at, name in enumerate(names):
            before = batch.size
            batch = self._unify(batch, name, vectors[at])
            if batch.size != before:  # a name that was bound: the others follow its rows
                kept = np.flatnonzero(self._kept)
                vectors = [vector.take(kept, {}) for vector in vectors]
        return batch

    def _unify(self, batch: Batch, name: str, vector: Vector) -> Batch:
        if name not in batch:
            self.bound.add(name)
            return batch.having({name: vector})
        self._kept = equal(batch.vectors[name], vector, self.mirrors)
        return batch.where(self._kept)

    def read(self, literal: Read, batch: Batch) -> Batch:
        self.touch(batch.size)
        subject = batch.vectors[literal.subject]
        if literal.function == "missing?" and isinstance(subject, Entities):
            there = self._shown(literal.predicates[0], subject)
            if literal.binding is None:
                return batch.where(~there)
            found = FLAGS[(~there).astype(np.intp)].tolist()
        else:
            function = FUNCTIONS[literal.function].function
            rest = [batch.vectors[name].inward().tolist() for name in literal.arguments]
            source, predicates = self.source, literal.predicates
            found = [
                function(source, *row[:1], *predicates, *row[1:])
                for row in zip(subject.inward().tolist(), *rest, strict=True)
            ]
            if literal.function == "missing?":
                found = list(map(inward, found))
        self._note((literal.subject, *literal.arguments), literal.binding)
        return self._result(literal.binding, found, batch)

    def _shown(self, predicate: str, subject: Entities) -> Array:
        """Whether entities show a value of a predicate, of the kind that it should have."""
        mirror = self.mirror(predicate)
        rows, _ = subject.rows(self.mirrors.places(kind_of(predicate)))
        fits = mirror.fitting(self.scope.kinds.get(predicate))
        shown = np.zeros(mirror.size + 1, dtype=np.bool_)  # the last one: of no row
        cells = mirror.cells if fits is None else mirror.cells[fits[mirror.cells]]
        shown[mirror.rows_of(cells)] = True
        return shown[rows]

    # -- negation and relations

    def without(self, literal: Without, batch: Batch) -> Batch:
        if not batch.size:
            return batch
        return batch.where(~self._matched(literal, batch))

    def _matched(self, literal: Without, batch: Batch) -> Array:
        """Which rows have a derivation of what is within."""
        inner = batch.only((*literal.joined, *self.constants))
        inner = inner.having({TAG: Tags(np.arange(batch.size))})
        before = self.is_exact, self.bound, self.bonds
        self.is_exact, self.bound, self.bonds = False, set(), []
        try:
            for one, later in self.orders.of(literal.literals, inner, (TAG,), self):
                inner = self.step(one, inner, later)
                if not inner.size:
                    break
        finally:
            self.is_exact, self.bound, self.bonds = before
        found = np.zeros(batch.size, dtype=np.bool_)
        if inner.size:
            tags = inner.vectors[TAG]
            assert isinstance(tags, Tags)
            found[tags.numbers] = True
        return found

    def member(self, literal: Member, batch: Batch, tuples: Tuples) -> Batch:
        shared = [place for place, term in enumerate(literal.terms) if term in batch]
        new = [place for place in range(len(literal.terms)) if place not in shared]
        found: Any
        self.touch(batch.size)
        if not len(tuples):
            return self._nothing(batch, *literal.terms)
        if shared:
            keys = [self.codes.of(batch.vectors[literal.terms[place]]) for place in shared]
            if not new:
                return batch.where(tuples.contains(keys))
            index, found = tuples.joined(shared, keys, self.touch)
        elif batch.size == 1:
            self.touch(len(tuples))
            index, found = np.zeros(len(tuples), dtype=np.int64), slice(None)
        else:
            self.touch(batch.size * len(tuples))
            index = np.repeat(np.arange(batch.size), len(tuples))
            found = np.tile(np.arange(len(tuples)), batch.size)
        batch = batch.take(index)
        for place in new:
            vector = Entities(self.mirrors, tuples.columns[place][found], codes=self.codes)
            name = literal.terms[place]
            if name in batch:  # twice in one literal
                mask = equal(batch.vectors[name], vector, self.mirrors)
                batch, found = batch.where(mask), np.arange(len(tuples))[found][mask]
            else:
                self.bound.add(name)
                batch = batch.having({name: vector})
        return batch


def _is_whole(numbers: Any) -> bool:
    return numbers.dtype.kind == "i" if isinstance(numbers, np.ndarray) else type(numbers) is int


def _size(numbers: Any) -> int:
    """The largest absolute value."""
    return abs(numbers) if type(numbers) is int else max(abs(int(numbers.max())), abs(int(numbers.min())))


def _comparable(vector: Vector) -> tuple[str, Any] | None:
    """(kind, an array or one value) of text or dates, which Python compares as built-ins do."""
    if isinstance(vector, Cells) and vector.mirror.letter in "sd":
        return vector.mirror.letter, vector.data
    if isinstance(vector, Entities) and not vector.is_mixed:
        return "s", vector.inward()
    if isinstance(vector, Constant):
        if isinstance(vector.value, str):
            return "s", vector.inward()
        if type(vector.value) is datetime:
            return "d", vector.value
    return None
