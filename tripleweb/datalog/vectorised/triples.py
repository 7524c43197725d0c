"""Triples as steps by columns: each makes of a batch of rows the next one.

There are three primitives: `take` follows a subject to its row (a place in an array), `expand` a value to the cells
that show it (slices of an array that is sorted by value), `select` keeps rows. No join hashes or sorts rows. A variable
that nobody asks for later is not bound: where only the heads of derivations matter, what is left of its literal is
whether there is such a triple.

Invariants: a batch's rows are distinct assignments of the variables bound so far, unless REPEATED is among these;
`bound` and `bonds` say which these are, and which determine others; work is counted before memory is taken, and ends in
`BudgetError` beyond the limits of the scope.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

import numpy as np

from tripleweb.datalog.bodies import Triple
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.captured import Scope, spent, too_many
from tripleweb.datalog.joins import Sizes
from tripleweb.datalog.vectorised import scans
from tripleweb.datalog.vectorised.columns import REPEATED, Bond
from tripleweb.datalog.vectorised.mirrors import Array, Mirror, Mirrors
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
)
from tripleweb.ids import kind_of
from tripleweb.terms import Ref

WIDE = 4  # batches may have so many times the rows that an answer may have


class Matching:
    """The triples of one evaluation, and what all its steps share."""

    def __init__(self, mirrors: Mirrors, scope: Scope, constants: Mapping[str, Any], is_exact: bool) -> None:
        self.mirrors = mirrors
        self.codes = Codes(mirrors)
        self.rough = Sizes(scope.store, {}, constants)  # of columns without mirrors
        self.scope = scope
        self.constants = constants
        self.is_exact = is_exact  # every derivation counts, not only whether a row has one
        self.touched = 0
        self.bound: set[str] = set()  # what rows of the present body are made of
        self.bonds: list[Bond] = []
        self._selected: dict[tuple[str, str], Array] = {}  # cells, by predicate and constant

    def mirror(self, predicate: str) -> Mirror:
        found = self.mirrors.of(predicate)
        self.codes.check()  # what it was told of may have named new entities
        return found

    def ready(self, predicate: str) -> Mirror | None:
        """The mirror, if there is one."""
        found = self.mirrors.ready(predicate)
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
        self.hold(rows)

    def hold(self, rows: int) -> None:
        """Raises `BudgetError` where so many rows are more than there may be at once."""
        if rows > WIDE * self.scope.most[0]:
            too_many(self.scope.most)

    def answer(self, rows: int) -> None:
        """Counts rows of the answer."""
        self.touch(rows)
        if rows > self.scope.most[0]:
            too_many(self.scope.most)

    def triple(self, literal: Triple, batch: Batch, later: Collection[str]) -> Batch:
        if not batch.size:
            return self._nothing(batch, literal.subject, literal.value)
        mirror = self.ready(literal.predicate)
        if mirror is None:
            out = self._by_rows(literal, batch, later)
            if out is not None:
                return out
            mirror = self.mirror(literal.predicate)
        if mirror.is_empty:
            return self._nothing(batch, literal.subject, literal.value)
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
            index, found, single, repeats = scans.values_at(column, rows.tolist(), literal.kind)
            if literal.value not in batch and literal.value not in later and not self.is_exact:
                return batch.take(np.array(sorted(set(index)), dtype=np.int64))
            if single:
                self.bonds.append(((literal.subject,), literal.value))
            if repeats:
                self.bound.add(REPEATED)
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
        fan = self.rough.fan(literal.predicate, literal.value) if is_asked else 0
        if not rent.allows(column, len(wanted) * fan):
            return None
        self.touch(len(column.values))
        if not is_asked:
            found_places = sorted(scans.places_shown(column, wanted, literal.kind))
            return batch.take(np.array(found_places, dtype=np.int64))
        index, rows_found, repeats = scans.rows_among(column, wanted, literal.kind)
        if repeats:
            self.bound.add(REPEATED)
        self.touch(len(index))
        self.bound.add(literal.subject)
        rows = np.array(rows_found, dtype=np.int64)
        batch = batch.take(np.array(index, dtype=np.int64))
        return batch.having({literal.subject: Entities(self.mirrors, places=places, rows=rows)})

    def _values(self, found: list[Any]) -> Vector:
        """Values of a column as a vector."""
        if set(map(type, found)) == {Ref}:
            number = self.mirrors.tables.number
            numbers = np.fromiter(map(number, map(str, found)), np.int64, len(found))
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
        elif mirror.repeats:
            self.bound.add(REPEATED)

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
        if not total:
            return self._nothing(batch, literal.subject, literal.value)
        index = np.arange(batch.size).repeat(counts)
        cells = np.arange(total) + (first + counts - counts.cumsum()).repeat(counts)
        if order is not None:
            cells = order[cells]
            batch = batch.only((*later, *self.constants))  # the value has done its part
        if fits is not None:
            kept = fits[cells]
            index, cells = index[kept], cells[kept]
        batch = batch.take(index)
        if order is None:
            return self._unified(literal, batch, later, mirror, cells)
        places = self.mirrors.places(kind_of(literal.predicate))
        self.bound.add(literal.subject)
        self._bind(literal, mirror, False)
        subject = Entities(self.mirrors, places=places, rows=mirror.rows_of(cells))
        return batch.having({literal.subject: subject})

    def followed(self, literal: Triple, keys: Array) -> Array | None:
        """The codes of the subjects whose reference is to one of these, as often as they have one. None where more has
        to be looked at than places: that is for `triple`. Most rounds of most recursions are this and nothing else."""
        mirror = self.ready(literal.predicate)
        if (
            mirror is None
            or mirror.letter != "r"
            or self.codes.more
            or mirror.fitting(literal.kind) is not None
        ):
            return None
        if mirror.is_empty or mirror.has_to_number(len(keys)):
            return None
        order, starts = mirror.index()
        first = starts[keys]
        counts = starts[keys + 1] - first
        total = int(counts.sum())
        self.touch(2 * len(keys) + total)
        cells = order[np.arange(total) + (first + counts - counts.cumsum()).repeat(counts)]
        return self.mirrors.places(kind_of(literal.predicate)).entities[mirror.rows_of(cells)]

    def _looked_up(
        self, literal: Triple, batch: Batch, later: Collection[str], mirror: Mirror, fits: Array | None
    ) -> Batch:
        """What few rows find in the reverse index of a column, which writes keep right: codes are made anew."""
        get = mirror.column.reverse().get
        held = [get(value) for value in batch.vectors[literal.value].inward().tolist()]
        counts = np.array([len(rows) if isinstance(rows, set) else int(rows is not None) for rows in held])
        if literal.subject not in later and fits is None and not self.is_exact:
            return batch.where(counts > 0)
        self.touch(int(counts.sum()))
        batch = batch.take(np.repeat(np.arange(batch.size), counts))
        cells = np.fromiter(
            chain.from_iterable(
                rows if isinstance(rows, set) else () if rows is None else (rows,) for rows in held
            ),
            np.int64,
            batch.size,
        )
        if fits is not None:
            batch, cells = batch.where(fits[cells]), cells[fits[cells]]
        return self._bound(literal, batch, mirror, cells)

    def _backward(
        self, literal: Triple, batch: Batch, later: Collection[str], mirror: Mirror, fits: Array | None
    ) -> Batch:
        value = batch.vectors[literal.value]
        if isinstance(value, Constant):
            return self._scan(literal, batch, later, mirror, self.selected(literal, value.value), fits)
        self.touch(batch.size)
        if mirror.has_to_number(batch.size):
            return self._looked_up(literal, batch, later, mirror, fits)
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
        is_number = mirror.letter == "r" and isinstance(value, Entities) and not value.is_mixed
        if is_number and len(starts) > len(self.mirrors.tables.names):  # all of them have a place
            first = starts[keys]
            counts = starts[keys + 1] - first
        else:
            known = (keys >= 0) & (keys < len(starts) - 1)
            keys = np.where(known, keys, 0)
            first = starts[keys]
            counts = np.where(known, starts[keys + 1] - first, 0)
        return self._expanded(literal, batch, later, mirror, fits, first, counts, order)
