"""The literals of a body as steps: each makes of a batch of rows the next one.

There are three primitives: `take` follows a subject to its row (a place in an array), `expand` a value to the cells
that show it (slices of an array that is sorted by value), `select` keeps rows. No join hashes or sorts rows. A variable
that nobody asks for later is not bound: where only the heads of derivations matter, what is left of its literal is
whether there is such a triple.

Invariants: a batch's rows are distinct assignments of the variables bound so far, as far as `Run.is_exact`; work is
counted before memory is taken, and ends in `BudgetError` beyond the limits of the scope.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np

from tripleweb.datalog.bodies import Apply, Literal, Member, Read, Triple, Without, inputs_of, outputs_of
from tripleweb.datalog.builtins import FUNCTIONS, inward, truthy
from tripleweb.datalog.captured import Scope, spent, too_many
from tripleweb.datalog.clauses import Binding, Blank, Variable, bound
from tripleweb.datalog.inputs import bind
from tripleweb.datalog.joins import HALF, SAMPLE, Sizes, best
from tripleweb.datalog.vectorised import scans
from tripleweb.datalog.vectorised.columns import Bond
from tripleweb.datalog.vectorised.mirrors import FLAGS, Array, Mirror, Mirrors
from tripleweb.datalog.vectorised.relations import Tuples
from tripleweb.datalog.vectorised.vectors import (
    NONE,
    Batch,
    Cells,
    Codes,
    Constant,
    Entities,
    Objects,
    Vector,
    equal,
    numeric,
)
from tripleweb.ids import kind_of
from tripleweb.terms import Ref

TAG = "tag"  # no variable of a query is called so
KEPT_MAX = 64
WIDE = 4  # batches may have so many times the rows that an answer may have
_COMPARE: dict[str, Any] = {"<": lt, ">": gt, "<=": le, ">=": ge, "=": eq, "==": eq, "!=": ne, "not=": ne}
_EQUAL, _UNEQUAL = ("=", "=="), ("!=", "not=")


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


class Run:
    """What the steps of one evaluation share."""

    def __init__(
        self, mirrors: Mirrors, scope: Scope, constants: Mapping[str, Any], orders: Orders, is_exact: bool
    ) -> None:
        self.mirrors = mirrors
        self.codes = Codes(mirrors)
        self.scope = scope
        self.constants = constants
        self.source = scope.source()
        self.is_exact = is_exact  # every derivation counts, not only whether a row has one
        self.orders = orders
        self.relations: dict[str, Tuples] = {}
        self.touched = 0
        self.bound: set[str] = set()  # what rows of the present body are made of
        self.bonds: list[Bond] = []
        self._selected: dict[tuple[str, str], Array] = {}  # cells, by predicate and constant

    def mirror(self, predicate: str) -> Mirror:
        found = self.mirrors.of(predicate)
        self.codes.check()
        return found

    def selected(self, literal: Triple, value: Any) -> Array:
        """The cells that show the constant that a literal has as its value."""
        key = literal.predicate, literal.value
        if key not in self._selected:
            self._selected[key] = self.mirror(literal.predicate).select(value)
        return self._selected[key]

    def touch(self, rows: int) -> None:
        """Counts rows before they are made."""
        self.touched += rows
        if self.touched + self.scope.work[0] > self.scope.limit[0]:
            spent(self.scope.limit, self.touched)
        if rows > WIDE * self.scope.most[0]:
            too_many(self.scope.most)

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

    # -- triples

    def triple(self, literal: Triple, batch: Batch, later: Collection[str]) -> Batch:
        if not batch.size:
            return self._nothing(batch, literal.subject, literal.value)
        if self.mirrors.ready(literal.predicate) is None:
            out = self._by_rows(literal, batch, later)
            if out is not None:
                return out
        mirror = self.mirror(literal.predicate)
        fits = mirror.fitting(literal.kind)
        if literal.subject in batch:
            return self._forward(literal, batch, later, mirror, fits)
        if literal.value in batch:
            return self._backward(literal, batch, later, mirror, fits)
        return self._scan(literal, batch, later, mirror, mirror.cells, fits)

    def _nothing(self, batch: Batch, *names: str) -> Batch:
        none = np.empty(0, dtype=np.int64)
        empty = batch.take(none)
        return empty.having({name: Entities(self.mirrors, none) for name in names if name not in empty})

    def _scan(
        self,
        literal: Triple,
        batch: Batch,
        later: Collection[str],
        mirror: Mirror,
        cells: Array,
        fits: Array | None,
    ) -> Batch:
        """Every row with every one of these cells."""
        if fits is not None:
            cells = cells[fits[cells]]
        count = len(cells)
        is_asked = literal.subject in later or (literal.value in later and literal.value not in batch)
        if not (is_asked or self.is_exact or literal.subject == literal.value):
            return batch if count else self._nothing(batch)  # whoever it is, and whatever
        self.touch(max(count, 1) * batch.size)
        if batch.size != 1:
            batch = batch.take(np.repeat(np.arange(batch.size), count))
            cells = np.tile(cells, batch.size // count if count else 0)
        else:
            batch = batch.take(np.zeros(count, dtype=np.int64))
        return self._bound(literal, batch, mirror, cells)

    def _bound(self, literal: Triple, batch: Batch, mirror: Mirror, cells: Array) -> Batch:
        """Rows with the cell that goes with each, where neither or only the value is bound."""
        places = self.mirrors.places(kind_of(literal.predicate))
        subject = Entities(self.mirrors, places=places, rows=mirror.rows_of(cells))
        self.bound.add(literal.subject)
        self._bind(literal, mirror, literal.value not in batch)
        if literal.value not in batch and literal.value != literal.subject:
            return batch.having({literal.subject: subject, literal.value: self.cells_of(mirror, cells)})
        batch = batch.having({literal.subject: subject})
        if literal.value == literal.subject:  # an entity that names itself
            return batch.where(equal(subject, self.cells_of(mirror, cells), self.mirrors))
        return batch

    def cells_of(self, mirror: Mirror, cells: Array) -> Vector:
        return Entities(self.mirrors, mirror.data[cells]) if mirror.letter == "r" else Cells(mirror, cells)

    def _by_rows(self, literal: Triple, batch: Batch, later: Collection[str]) -> Batch | None:
        """What follows from a column that has no mirror; None where it is to get one."""
        table, column = self.mirrors.tables.column(literal.predicate)
        rent, places = self.mirrors.rent, self.mirrors.places(kind_of(literal.predicate))
        if literal.subject in batch:
            if not rent.allows(column, batch.size):
                return None
            table.pin(column)
            self.touch(batch.size)
            subject = batch.vectors[literal.subject]
            if isinstance(subject, Entities):
                rows, _ = subject.rows(places)
            else:
                numbers = subject.numbers_in(self.mirrors)
                rows = np.where(numbers >= 0, places.rows[numbers], NONE)
            index, found, single = scans.values_at(column, rows.tolist(), literal.kind)
            if literal.value not in batch and literal.value not in later and not self.is_exact:
                return batch.take(np.array(sorted(set(index)), dtype=np.int64))
            if single:
                self.bonds.append(((literal.subject,), literal.value))
            self.touch(len(found))
            batch = batch.take(np.array(index, dtype=np.int64))
            vector = self._values(found)
            if literal.value in batch:
                return batch.where(equal(vector, batch.vectors[literal.value], self.mirrors))
            self.bound.add(literal.value)
            return batch.having({literal.value: vector})
        if literal.value not in batch:
            return None
        value = batch.vectors[literal.value]
        wanted: dict[str, list[int]] = {}
        for place, key in enumerate(value.inward().tolist()):
            if not isinstance(key, str):
                return None
            wanted.setdefault(key, []).append(place)
        is_asked = literal.subject in later or self.is_exact
        rough = Sizes(self.scope.store, {}, self.constants)
        if not rent.allows(
            column, len(wanted) * rough.fan(literal.predicate, literal.value) if is_asked else 0
        ):
            return None
        self.touch(len(column.values))
        if not is_asked:
            found_places = sorted(scans.places_shown(column, wanted, literal.kind))
            return batch.take(np.array(found_places, dtype=np.int64))
        index, rows_found = scans.rows_among(column, wanted, literal.kind)
        self.touch(len(index))
        self.bound.add(literal.subject)
        rows = np.array(rows_found, dtype=np.int64)
        batch = batch.take(np.array(index, dtype=np.int64))
        return batch.having({literal.subject: Entities(self.mirrors, places=places, rows=rows)})

    def _values(self, found: list[Any]) -> Vector:
        """Values of a column as a vector."""
        if set(map(type, found)) == {Ref}:
            number = self.mirrors.tables.number
            numbers = np.fromiter(map(number, found), np.int64, len(found))
            self.codes.check()
            return Entities(self.mirrors, numbers)
        return Objects(np.fromiter(map(inward, found), object, len(found)))

    def _forward(
        self, literal: Triple, batch: Batch, later: Collection[str], mirror: Mirror, fits: Array | None
    ) -> Batch:
        self.touch(batch.size)
        subject = batch.vectors[literal.subject]
        places = self.mirrors.places(kind_of(literal.predicate))
        if isinstance(subject, Entities):
            rows, is_whole = subject.rows(places)
        else:
            numbers = subject.numbers_in(self.mirrors)
            rows, is_whole = np.where(numbers >= 0, places.rows[numbers], NONE), False
        if mirror.several:
            there = None if is_whole else rows >= 0
            first, last = mirror.starts[rows], mirror.starts[rows + 1]
            counts = last - first if there is None else np.where(there, last - first, 0)
            return self._expanded(literal, batch, later, mirror, fits, first, counts, None)
        mask = None if is_whole else rows >= 0
        if mirror.present is not None:
            mask = mirror.present[rows] if mask is None else mask & mirror.present[rows]
        if fits is not None:
            mask = fits[rows] if mask is None else mask & fits[rows]
        if mask is not None:
            index = np.flatnonzero(mask)
            if len(index) < batch.size:
                batch, rows = batch.take(index), rows[index]
        return self._unified(literal, batch, later, mirror, rows)

    def _unified(
        self, literal: Triple, batch: Batch, later: Collection[str], mirror: Mirror, cells: Array
    ) -> Batch:
        """Rows with the cell that goes with each; its value is bound, or must be equal."""
        if literal.value in batch:
            self._bind(literal, mirror, False)
            held = batch.vectors[literal.value]
            return batch.where(equal(self.cells_of(mirror, cells), held, self.mirrors))
        if mirror.several or literal.value in later:
            self._bind(literal, mirror, True)
        return (
            batch.having({literal.value: self.cells_of(mirror, cells)}) if literal.value in later else batch
        )

    def _bind(self, literal: Triple, mirror: Mirror, is_new: bool) -> None:
        """Takes note that a subject goes with its value."""
        if is_new:
            self.bound.add(literal.value)
        if not mirror.several:
            self.bonds.append(((literal.subject,), literal.value))

    def _expanded(
        self,
        literal: Triple,
        batch: Batch,
        later: Collection[str],
        mirror: Mirror,
        fits: Array | None,
        first: Array,
        counts: Array,
        order: Array | None,
    ) -> Batch:
        """Each row as often as it has cells: `counts` of them from `first` on (in `order`)."""
        new = literal.value if literal.subject in batch else literal.subject
        if new not in later and new not in batch and fits is None and not self.is_exact:
            return batch.where(counts > 0)
        total = int(counts.sum())
        self.touch(total)
        index = np.repeat(np.arange(batch.size), counts)
        starts = np.cumsum(counts) - counts
        cells = np.arange(total) + np.repeat(first - starts, counts)
        if order is not None:
            cells = order[cells]
        if fits is not None:
            kept = fits[cells]
            index, cells = index[kept], cells[kept]
        batch = batch.take(index)
        if order is None:
            return self._unified(literal, batch, later, mirror, cells)
        return self._bound(literal, batch, mirror, cells)

    def _backward(
        self, literal: Triple, batch: Batch, later: Collection[str], mirror: Mirror, fits: Array | None
    ) -> Batch:
        value = batch.vectors[literal.value]
        if isinstance(value, Constant):
            return self._scan(literal, batch, later, mirror, self.selected(literal, value.value), fits)
        self.touch(batch.size)
        if mirror.letter == "r":
            keys = value.numbers_in(self.mirrors)
        elif isinstance(value, Cells) and value.mirror is mirror:
            keys = mirror.cell_codes[value.cells]
        else:
            keys = mirror.codes_of_values(value.inward().tolist())
        if literal.subject not in later and fits is None and not self.is_exact:
            has = mirror.has
            inside = (keys >= 0) & (keys < len(has))
            return batch.where(inside & has[np.where(inside, keys, 0)] if len(has) else inside)
        order, starts = mirror.index()
        known = (keys >= 0) & (keys < len(starts) - 1)
        keys = np.where(known, keys, 0)
        if len(starts) < 2:
            return self._nothing(batch, literal.subject)
        first = starts[keys]
        counts = np.where(known, starts[keys + 1] - first, 0)
        return self._expanded(literal, batch, later, mirror, fits, first, counts, order)

    # -- calls

    def apply(self, literal: Apply, batch: Batch) -> Batch:
        if literal.binding is None and len(literal.arguments) == 2 and not literal.custom:
            mask = self.compared(literal, batch)
            if mask is not None:
                self.touch(batch.size)
                return batch.where(mask)
        arguments = [batch.vectors[name].inward().tolist() for name in literal.arguments]
        function = self.orders.function(literal)
        self.touch(batch.size)
        if arguments:
            found = [function(*row) for row in zip(*arguments, strict=True)]
        else:
            found = [function() for _ in range(batch.size)]
        self._note(literal.arguments, literal.binding)
        return self._result(literal.binding, found, batch)

    def _note(self, inputs: tuple[str, ...], binding: Binding | None) -> None:
        if isinstance(binding, Variable):
            self.bonds.append((inputs, binding.name))

    def compared(self, literal: Apply, batch: Batch) -> Array | None:
        """Where a comparison of two columns holds; None where they are not of one kind that arrays can compare."""
        name = literal.function
        if name not in _COMPARE:
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
        found = _COMPARE[name](one, other)
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
            made = list(bind(binding, value, None))
            rows += made
            index += [place] * len(made)
        self.touch(len(rows))
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
        self.touch(batch.size)
        if not len(tuples):
            return self._nothing(batch, *literal.terms)
        if shared:
            keys = [self.codes.of(batch.vectors[literal.terms[place]]) for place in shared]
            if not new:
                return batch.where(tuples.contains(keys))
            index, found = tuples.joined(shared, keys, self.touch)
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
                batch, found = batch.where(mask), found[mask]
            else:
                self.bound.add(name)
                batch = batch.having({name: vector})
        return batch


def _comparable(vector: Vector) -> tuple[str, Any] | None:
    """(kind, an array or one value) of text or dates, which Python compares as built-ins do."""
    if isinstance(vector, Cells) and vector.mirror.letter in "sd":
        return vector.mirror.letter, vector.data
    if isinstance(vector, Entities) and not vector.is_mixed:
        return "s", vector.inward()
    if isinstance(vector, Constant):
        if isinstance(vector.value, str):
            return "s", vector.value
        if type(vector.value).__name__ == "datetime":
            return "d", vector.value
    return None


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
        sizes = Measured(run, literals)
        key = (id(literals), tuple(batch.vectors), tuple(wanted), sizes.signature)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            ordered = [literal for _, literal in best(literals, batch.vectors, sizes)[0]]
            found = literals, list(zip(ordered, needed_after(ordered, wanted), strict=True))
            self._kept[key] = found
        return found[1]


class Measured(Sizes):
    """The sizes of mirrors, and what comparisons with constants leave of a sample."""

    def __init__(self, run: Run, literals: Sequence[Literal]) -> None:
        self._run = run
        self._constants = run.constants
        self._counts: dict[str, int] = {}
        self._means: dict[tuple[str, str], float] = {}
        self._shares: dict[int, float] = {}
        rough = Sizes(run.scope.store, {}, self._constants)
        compared = {
            name
            for literal in literals
            if isinstance(literal, Apply) and literal.function in _COMPARE and literal.binding is None
            for name in literal.arguments
        }
        held: dict[str, Mirror] = {}
        for literal in literals:
            if not isinstance(literal, Triple):
                continue
            name, value = literal.predicate, literal.value
            mirror = run.mirrors.ready(name)
            if mirror is None and value in compared and value not in self._constants:
                mirror = run.mirror(name)
            if mirror is None:
                self._counts[name] = run.scope.store.count(name)
                self._means[name, value] = rough.fan(name, value)
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


def needed_after(ordered: Sequence[Literal], wanted: Collection[str]) -> list[set[str]]:
    """For each literal, the variables that are asked for after it."""
    needed, out = set(wanted), []
    for literal in reversed(ordered):
        out.append(set(needed))
        needed.update(inputs_of(literal))
        needed.update(outputs_of(literal))
    return out[::-1]
