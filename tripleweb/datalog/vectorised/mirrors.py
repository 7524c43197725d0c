"""Columns as arrays: what the numpy executor reads instead of the store's lists.

A `Mirror` shows the visible values of one column as *cells*: places in parallel arrays. Where no row shows more than
one value, a row is its cell's number; else cells are sorted by row, and `starts` says where those of a row begin. All
values of one kind stand in an array of that kind; anything else is an array of objects, as the engine holds them.

    letter   data                                letter   data
    "n"      int64, none beyond 2**53            "s"      object: text
    "f"      float64                             "d"      object: dates
    "b"      bool                                "o"      object: of several kinds
    "r"      int32: numbers of entities

Invariants: after `fresh` a mirror shows what its column shows; the column tells it which rows may have changed since,
and only these are looked at again; arrays that were handed out are never written to by `patch`, which copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np

from tripleweb.datalog.builtins import inward
from tripleweb.datalog.vectorised.scans import Rent
from tripleweb.tables import Column, Table, Tables
from tripleweb.terms import FALSE, TRUE, Ref
from tripleweb.view import ABSENT

Array = np.ndarray[Any, np.dtype[Any]]
EXACT = 1 << 53  # integers up to here are floats, too
SAMPLE = 256
FORESEEN = 1_000  # rows of a load from which on its references are sorted at once
FEW = 32  # rows of a column for each value that is wanted: from here on a dict is quicker than codes of all
_LETTERS: dict[type, str] = {int: "n", float: "f", bool: "b", Ref: "r", str: "s", datetime: "d"}
_DTYPES: dict[str, Any] = {"n": np.int64, "f": np.float64, "b": np.bool_, "r": np.int32}
_FILL = {"n": 0, "f": 0.0, "b": False, "r": ABSENT}  # what stands where nothing is
FLAGS = np.array([FALSE, TRUE], dtype=object)
_CLASSES: dict[str, tuple[type, ...]] = {
    "s": (str,),
    "r": (Ref,),
    "d": (datetime,),
    "n": (int, float),
    "b": (type(TRUE),),
}


def alone(value: Any, among: Array) -> Any:
    """A value to be compared with an array: numpy takes text for a fixed width, and zeros at its end for nothing."""
    if among.dtype != object:
        return value
    box = np.empty((), dtype=object)
    box[()] = value
    return box


def _sample(column: Column) -> Any:
    """One of the values of a column; `ABSENT` where its first rows show none."""
    shown = (value for row in range(min(SAMPLE, len(column.values))) for value in column.visible(row))
    return next(shown, ABSENT)


def _starts(codes: Array, most: int) -> Array:
    """Where the cells of each code begin once they are sorted by code, and the end."""
    starts = np.zeros(most + 1, dtype=np.int64)
    np.cumsum(np.bincount(codes, minlength=most), out=starts[1:])
    return starts


class Places:
    """The rows of one kind: `entities` (row -> number of the entity) and `rows` (number -> row, -1 for none)."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.entities: Array = np.empty(0, dtype=np.int32)
        self.rows: Array = np.full(1, -1, dtype=np.int32)  # the last one is that of no entity

    def fresh(self, numbers: int) -> Places:
        """Brings it up to date; there are so many entities in all."""
        have, want = len(self.entities), len(self.table.entities)
        if have < want:
            more = np.frombuffer(self.table.entities[have:], dtype=np.uint32).astype(np.int32)
            entities = np.concatenate((self.entities, more)) if have else more
        if len(self.rows) <= numbers:
            grown = np.full(numbers + numbers // 8 + 1, -1, dtype=np.int32)
            grown[: len(self.rows)] = self.rows
            self.rows = grown
        if have < want:
            self.rows[entities[have:]] = np.arange(have, want, dtype=np.int32)
            self.entities = entities  # last, so that an interrupt finds nothing half done
        return self


class Mirror:
    """One column as arrays. `stale` are the rows that may show something else than here."""

    def __init__(self, mirrors: Mirrors, table: Table, column: Column) -> None:
        table.pin(column)
        self.mirrors = mirrors
        self.tables = mirrors.tables
        self.column = column
        self.stale: list[int] = []
        self._build()
        column.mirror = self

    # -- making

    def _build(self) -> None:
        column = self.column
        values: Sequence[Any] = column.values
        self.size = len(values)
        self.several = any(len(cell.visible) > 1 for cell in column.cells.values())
        self.present: Array | None = None  # by row, where there is one cell a row; None: all are there
        self.starts: Array = np.empty(0, dtype=np.int64)  # by row, and the end; where there are several
        self.rows: Array = np.empty(0, dtype=np.int32)  # by cell; where there are several
        if self.several:
            self._build_several()
            return
        if column.cells:
            shown = list(values)
            for row, cell in column.cells.items():
                if cell.visible:
                    shown[row] = cell.visible[0]
            values = shown
        types = set(map(type, values))
        if type(ABSENT) in types:
            types.remove(type(ABSENT))
            self.present = np.fromiter([value is not ABSENT for value in values], np.bool_, self.size)
        self.letter, self.data = self._encoded(values, types)
        self._forget()

    def _build_several(self) -> None:
        column = self.column
        values = column.values
        # nothing here makes objects that the collector would go through
        singles = [row for row, value in enumerate(values) if value is not ABSENT]
        visibles = [cell.visible for cell in column.cells.values()]
        shown = [values[row] for row in singles]
        shown += chain.from_iterable(visibles)
        letter, data = self._encoded(shown, set(map(type, shown)))
        rows = np.array([*singles, *column.cells], dtype=np.int32)
        rows = np.repeat(rows, [1] * len(singles) + list(map(len, visibles)))
        order = np.argsort(rows, kind="stable")
        self.letter, self.data = letter, data[order]
        self._set_rows(rows[order])
        self._forget()

    def _set_rows(self, rows: Array) -> None:
        self.rows = rows
        self.starts = _starts(rows, self.size)

    def _encoded(self, values: Sequence[Any], types: set[type]) -> tuple[str, Array]:
        """(letter, array) of values of these types; where one is missing stands whatever its kind has."""
        letter = _LETTERS[types.pop()] if len(types) == 1 else "o" if types else "s"
        if letter in _FILL and self.present is not None and len(self.present) == len(values):
            fill = _FILL[letter]
            values = [fill if value is ABSENT else value for value in values]
        if letter == "n":
            try:
                data = np.fromiter(values, np.int64, len(values))
            except OverflowError:
                letter = "o"
            else:
                if not len(data) or (int(data.max()) <= EXACT and int(data.min()) >= -EXACT):
                    return letter, data
                letter = "o"
        if letter == "r":
            numbers = self.tables.numbers
            try:
                return letter, np.fromiter(map(numbers.__getitem__, values), np.int32, len(values))
            except KeyError:  # an entity that is not here and may be written later, or nothing
                number = self.tables.number
                found = [0 if value is ABSENT else number(str(value)) for value in values]
                return letter, np.array(found, dtype=np.int32)
        if letter in _DTYPES:
            return letter, np.fromiter(values, _DTYPES[letter], len(values))
        if letter == "o":
            values = list(map(inward, values))
        return letter, np.fromiter(values, object, len(values))

    def _forget(self) -> None:
        """What was derived from the arrays is to be made anew."""
        self.stale.clear()
        self.order: Array | None = None  # cells by code
        self.code_starts: Array | None = None
        self._codes: dict[Any, int] | None = None
        self._cell_codes: Array | None = None
        self._cells: Array | None = None
        self._has: Array | None = None
        self._fan: float | None = None
        self._repeats: bool | None = None
        self._fitting: dict[str, Array] = {}

    # -- keeping up

    def fresh(self) -> Mirror:
        """Brings it up to date."""
        size = len(self.column.values)
        if self.stale or size != self.size:
            rows = sorted({*self.stale, *range(self.size, size)})
            self.column.mirror = None  # whoever is interrupted leaves none behind
            if len(rows) > max(64, size // 4) or not self._patched(rows, size):
                self._build()
            self.column.mirror = self
        return self

    def _patched(self, rows: list[int], size: int) -> bool:
        """Looks at some rows again; False if they do not fit in."""
        shown = [self.column.visible(row) for row in rows]
        types = {type(value) for values in shown for value in values}
        if self.letter != "o" and any(_LETTERS[each] != self.letter for each in types):
            return False
        several = self.several
        if not several and any(len(values) > 1 for values in shown):
            return False
        values = [value for each in shown for value in each]
        if several:
            made = self._fit(values)
            if made is None:
                return False
            again = np.zeros(size, dtype=np.bool_)
            again[rows] = True
            kept = ~again[self.rows]
            placed = np.repeat(np.array(rows, dtype=np.int32), [len(each) for each in shown])
            all_rows = np.concatenate((self.rows[kept], placed))
            order = np.argsort(all_rows, kind="stable")
            self.data = np.concatenate((self.data[kept], made))[order]
            self.size = size
            self._set_rows(all_rows[order])
            self._forget()
            return True
        made = self._fit(values)
        if made is None:
            return False
        there = np.array([bool(each) for each in shown], dtype=np.bool_)
        data = np.empty(size, dtype=self.data.dtype)
        data[: self.size] = self.data
        data[self.size :] = _FILL.get(self.letter, ABSENT) if self.letter != "r" else 0
        data[np.array(rows)[there]] = made
        if self.present is not None or not there.all():
            present = np.ones(size, dtype=np.bool_)
            if self.present is not None:
                present[: self.size] = self.present
            present[rows] = there
            self.present = present
        self.data, self.size = data, size
        self._forget()
        return True

    def _fit(self, values: list[Any]) -> Array | None:
        """Values that are of the kind of the others, as an array; None if they do not fit."""
        if self.letter == "o":
            return np.fromiter(map(inward, values), object, len(values))
        letter, made = (
            self._encoded(values, set(map(type, values))) if values else (self.letter, self.data[:0])
        )
        return made if letter == self.letter else None

    # -- asking

    @property
    def is_empty(self) -> bool:
        """True if no cell shows anything."""
        return not len(self.data if self.several or self.present is None else self.cells)

    @property
    def cells(self) -> Array:
        """The numbers of all cells that show something."""
        if self._cells is None:
            present = self.present
            if self.several or present is None:
                self._cells = np.arange(len(self.data), dtype=np.int64)
            else:
                self._cells = np.flatnonzero(present)
        return self._cells

    def rows_of(self, cells: Array) -> Array:
        return self.rows[cells] if self.several else cells

    def fitting(self, kind: str | None) -> Array | None:
        """Which cells are of a kind; None for all."""
        if kind is None or (self.letter != "o" and kind == {"f": "n"}.get(self.letter, self.letter)):
            return None
        if kind not in self._fitting:
            if self.letter != "o":
                found = np.zeros(len(self.data), dtype=np.bool_)
            else:
                classes = _CLASSES[kind]
                found = np.fromiter([type(value) in classes for value in self.data], np.bool_, len(self.data))
            self._fitting[kind] = found
        return self._fitting[kind]

    @property
    def repeats(self) -> bool:
        """Whether a row shows a text and a reference to it, which are one value to a query."""
        if self._repeats is None:
            repeats = False
            if self.several and self.letter == "o":
                together = self.rows[1:] == self.rows[:-1]
                repeats = bool((together & (self.data[1:] == self.data[:-1])).any())
            self._repeats = repeats
        return self._repeats

    def select(self, value: Any) -> Array:
        """The cells that show a value, as the engine holds it."""
        if self.order is not None:
            code = int(self.codes_of_values([value])[0])
            return self._coded(code) if code >= 0 else np.empty(0, dtype=np.int64)
        index = self.column.index
        if index is not None and not self.several:
            rows = index.get(value, ())
            return np.array([rows] if isinstance(rows, int) else sorted(rows), dtype=np.int64)
        wanted = self.as_held(value)
        if wanted is None:
            return np.empty(0, dtype=np.int64)
        found = self.data == alone(wanted, self.data)
        if self.present is not None:
            found = found & self.present
        return np.flatnonzero(found)

    def as_held(self, value: Any) -> Any:
        """A value as it stands among `data`; None if it cannot be there."""
        letter, cls = self.letter, type(value)
        if letter == "r":
            return self.tables.numbers.get(value) if isinstance(value, str) else None
        if letter in "nf":
            if cls not in (int, float) or (abs(value) > EXACT and (letter == "n" or float(value) != value)):
                return None
            return value if letter == "n" else float(value)
        if letter == "b":
            return value.value if cls is type(TRUE) else None
        return None if isinstance(value, tuple | frozenset | range) else value

    def _coded(self, code: int) -> Array:
        assert self.order is not None and self.code_starts is not None
        return self.order[self.code_starts[code] : self.code_starts[code + 1]]

    def index(self) -> tuple[Array, Array]:
        """(cells by the code of their value, where those of each code begin, and the end). Codes are numbers of
        entities for references, else what `codes_of_values` gives."""
        if self.order is None:
            is_full = self.several or self.present is None
            cells = np.arange(len(self.data), dtype=np.int64) if is_full else self.cells
            codes = self.cell_codes if is_full else self.cell_codes[cells]
            most = len(self.tables.names) if self.letter == "r" else len(self._codes or ())
            self.code_starts = _starts(codes, most)
            # sorting what is packed is quicker than sorting places by codes, and keeps cells in order
            packed = (codes.astype(np.int64) << 32) | cells
            packed.sort()
            self.order = packed & 0xFFFFFFFF
        assert self.code_starts is not None
        if self.letter == "r" and len(self.code_starts) <= len(self.tables.names):
            # entities came since, to which nobody refers: with a place for each, whoever follows need not look
            more = len(self.tables.names) - len(self.code_starts) + 1 + len(self.code_starts) // 8
            self.code_starts = np.append(self.code_starts, np.repeat(self.code_starts[-1:], more))
        return self.order, self.code_starts

    def has_to_number(self, wanted: int) -> bool:
        """Whether so few values are wanted that numbering all would be more work than looking them up."""
        few = not self.several and wanted * FEW <= len(self.data)
        return few and (
            self._cell_codes is None
            if self.letter != "r"
            else self.order is None and self.column.index is not None
        )

    @property
    def is_numbered(self) -> bool:
        """Whether `cell_codes` are there already."""
        return self._cell_codes is not None

    @property
    def cell_codes(self) -> Array:
        """The code of the value at each cell, -1 where nothing is there."""
        if self.letter == "r":
            return self.data
        if self._cell_codes is None:
            codes: dict[Any, int] = {}
            values = FLAGS[self.data.astype(np.intp)] if self.letter == "b" else self.data
            held = values.tolist()
            if self.present is None:
                found = [codes.setdefault(value, len(codes)) for value in held]
            else:
                there = self.present.tolist()
                found = [
                    codes.setdefault(value, len(codes)) if is_there else -1
                    for value, is_there in zip(held, there, strict=True)
                ]
            self._codes = codes
            self._cell_codes = np.array(found, dtype=np.int64)
        return self._cell_codes

    def codes_of_values(self, values: Sequence[Any]) -> Array:
        """Codes of values as the engine holds them, -1 for those that nobody shows."""
        get: Callable[[Any, int], int]
        if self.letter == "r":
            get = self.tables.numbers.get
        else:
            self.cell_codes  # noqa: B018 (makes them)
            assert self._codes is not None
            get = self._codes.get
        return np.fromiter([get(value, -1) for value in values], np.int64, len(values))

    @property
    def has(self) -> Array:
        """By code: whether anybody shows that value."""
        if self._has is None:
            codes = self.cell_codes
            most = len(self.tables.names) if self.letter == "r" else len(self._codes or ())
            has = np.zeros(most, dtype=np.bool_)
            has[codes[self.cells] if len(self.cells) < len(codes) else codes] = True
            self._has = has
        return self._has

    @property
    def fan(self) -> float:
        """About how many cells show the same value."""
        if self._fan is None:
            cells = self.cells
            if not len(cells):
                self._fan = 0.0
            elif self.letter == "r" or self._cell_codes is not None:
                self._fan = len(cells) / max(1, int(np.count_nonzero(self.has)))
            else:
                sample = self.data[cells[:: max(1, len(cells) // SAMPLE)]].tolist()
                distinct = len(set(sample))
                self._fan = 1.0 if distinct >= 0.9 * len(sample) else max(1.0, len(cells) / (2 * distinct))
        return self._fan

    def inward(self, cells: Array) -> Array:
        """The values at cells as the engine holds them: an array of objects. References are their text."""
        data = self.data[cells]
        if self.letter == "b":
            return FLAGS[data.astype(np.intp)]
        if self.letter == "r":
            return self.mirrors.names[data]
        return data.astype(object)


class Mirrors:
    """The mirrors of one store's columns, and the places of its tables: one for each store (`mirrors_of`)."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.rent = Rent()
        self._places: dict[int, Places] = {}  # by id() of the table
        self._names: Array = np.empty(0, dtype=object)

    def of(self, predicate: str) -> Mirror:
        """The mirror of a predicate's column, up to date."""
        table, column = self.tables.column(predicate)
        held = column.mirror
        return held.fresh() if isinstance(held, Mirror) else Mirror(self, table, column)

    def ready(self, predicate: str) -> Mirror | None:
        """The mirror of a predicate's column, up to date, if there is one."""
        held = self.tables.column(predicate)[1].mirror
        return held.fresh() if isinstance(held, Mirror) else None

    def foresee(self, kind: str, rows: int) -> None:
        """Makes the mirrors of references of a kind, sorted by value, where `rows` that came at once are most of it:
        what was loaded is about to be asked, and a first join follows references backwards."""
        table = self.tables.table(kind)
        if rows < FORESEEN or 2 * rows < len(table.entities):
            return
        for column in list(table.columns.values()):
            if _LETTERS.get(type(_sample(column))) == "r":
                self.of(column.predicate).index()
        self.places(kind)

    def places(self, group: str) -> Places:
        table = self.tables.table(group)
        found = self._places.get(id(table))
        if found is None:
            found = self._places[id(table)] = Places(table)
        return found.fresh(len(self.tables.names))

    @property
    def names(self) -> Array:
        """The ids of entities by number."""
        names = self.tables.names
        have = len(self._names)
        if have < len(names):
            more = np.fromiter(names[have:], object, len(names) - have)
            self._names = np.concatenate((self._names, more)) if have else more
        return self._names


def mirrors_of(tables: Tables) -> Mirrors:
    """The mirrors of a store."""
    if tables.mirrors is None:
        tables.mirrors = Mirrors(tables)
    found: Mirrors = tables.mirrors
    return found
