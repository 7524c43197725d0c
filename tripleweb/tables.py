"""How the store keeps triples: one table per kind, one row an entity, one row-aligned column a predicate.

A column is a list of native values and arrays of stamps; a lazily built reverse index answers "who has this value".
Only rows that ever held more than a single value have a `Cell`: there, and nowhere else, floors are looked at.
Invariants: a row with a cell has ABSENT among the column's values; `visible` of a cell is what `see` gives; `live`
counts what is visible; a table and its columns, their lists and dicts stay the same objects as long as the store
lives, so that compiled queries may hold them. Keeping `index` and `live` right is `store`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import eq
from typing import Any, Protocol

from tripleweb.cells import NEVER, Cell, value_order
from tripleweb.change import RESET, SINGLE
from tripleweb.clock import Stamp
from tripleweb.ids import kind_of
from tripleweb.terms import Value
from tripleweb.view import ABSENT, Columns, View, index_key

SCANS_MAX = 4  # of a column take less time than its reverse index: measured, a quarter of it at 10,000 rows
STALE_MIN = 1_000  # rows of a mirror that may be stale, however short its column is


class Mirrored(Protocol):
    """A copy of what a column shows; rows that may have changed since are its `stale` ones."""

    stale: list[int]


class Column:
    """One predicate: `values[row]` is the single value or ABSENT; rows with a cell have ABSENT here."""

    __slots__ = ("cells", "index", "live", "mirror", "predicate", "replicas", "scans", "times", "values")

    def __init__(self, predicate: str) -> None:
        self.predicate = predicate
        self.values: list[Any] = []
        self.times = array("q")  # of slot ""; -1: never written
        self.replicas = array("I")
        self.cells: dict[int, Cell] = {}
        self.index: dict[Any, int | set[int]] | None = None
        self.scans = 0  # by `rows_with`, while there was no index
        self.live = 0  # visible triples
        self.mirror: Mirrored | None = None  # while somebody keeps a copy that is told what changes

    def grow(self, rows: int) -> None:
        missing = rows - len(self.values)
        if missing == 1:
            self.values.append(ABSENT)
            self.times.append(-1)
            self.replicas.append(0)
        elif missing > 0:
            self.values.extend([ABSENT] * missing)
            self.times.extend(array("q", [-1]) * missing)
            self.replicas.extend(array("I", [0]) * missing)

    def single(self, row: int) -> Any:
        """The single value at a row, ABSENT for a tombstone or none."""
        value = self.values[row]
        cell = self.cells.get(row) if value is ABSENT and self.cells else None
        return value if cell is None else cell.single

    def assign(self, row: int, value: Value, time: int, replica: int) -> None:
        """Sets the single value of a row without a cell, and its stamp. Where there is no reverse index to keep, it
        calls nothing, so that nothing interrupts it."""
        if self.mirror is not None:
            self.spoil(row)  # first, so that an interrupt finds nothing half done
        old = self.values[row]
        self.values[row] = value
        self.times[row] = time
        self.replicas[row] = replica
        if old is ABSENT:
            self.live += 1
        if self.index is not None and (type(old) is not type(value) or old != value):
            self.reindex(row, () if old is ABSENT else (old,), (value,))

    def is_new(self, rows: Sequence[int]) -> bool:
        """True if nothing was ever written at these rows, which are there."""
        if self.cells and not self.cells.keys().isdisjoint(rows):
            return False
        run = as_run(rows)
        return max(self.times[run.start : run.stop] if run else [self.times[row] for row in rows]) < 0

    def fill(
        self,
        rows: Sequence[int],
        cells: Sequence[Any],
        times: int | Sequence[int],
        replicas: int | Sequence[int],
    ) -> None:
        """Sets single values at rows that are new, all with one stamp or each with its own."""
        new_times = array("q", [times]) * len(rows) if isinstance(times, int) else array("q", times)
        new_replicas = (
            array("I", [replicas]) * len(rows) if isinstance(replicas, int) else array("I", replicas)
        )
        run = as_run(rows)
        if run:
            place = slice(run.start, run.stop)
            self.values[place], self.times[place], self.replicas[place] = cells, new_times, new_replicas
        else:
            for row, value, time, replica in zip(rows, cells, new_times, new_replicas, strict=True):
                self.values[row] = value
                self.times[row] = time
                self.replicas[row] = replica
        self.live += len(rows)
        if self.index is not None:
            for row, value in zip(rows, cells, strict=True):
                self._enter(self.index, index_key(value), row)

    def fill_sets(self, rows: Sequence[int], sets: Sequence[tuple[Value, ...]], marker: Stamp) -> None:
        """Assigns whole sets at rows that are new, all with one stamp."""
        cells = self.cells
        for row, members in zip(rows, sets, strict=True):
            cell = cells[row] = Cell(ABSENT)
            cell.marker = marker
            cell.members = cell.visible = members
        self.live += sum(map(len, sets))
        if self.index is not None:
            for row, members in zip(rows, sets, strict=True):
                for key in dict.fromkeys(map(index_key, members)):
                    self._enter(self.index, key, row)

    def spoil_all(self, rows: Iterable[int]) -> None:
        for row in rows:
            self.spoil(row)

    def spoil(self, row: int) -> None:
        """Tells the mirror that a row may show something else; one of which much is stale is given up."""
        mirror = self.mirror
        if mirror is not None and mirror.stale[-1:] != [row]:  # else it was told just now
            mirror.stale.append(row)
            if len(mirror.stale) > STALE_MIN + len(self.values) // 4:
                self.mirror = None

    def visible(self, row: int) -> tuple[Value, ...]:
        if row >= len(self.values):
            return ()
        value = self.values[row]
        if value is not ABSENT:
            return (value,)
        cell = self.cells.get(row) if self.cells else None
        return () if cell is None else cell.visible

    def several(self, row: int) -> tuple[Value, ...]:
        """What a row with a cell shows; () for any other row, whose value stands among `values`."""
        cell = self.cells.get(row)
        return () if cell is None else cell.visible

    def reverse(self) -> dict[Any, int | set[int]]:
        """Who shows what: the key of a value -> its row, or the set of its rows where there are more. Built when it is
        first asked for, kept right from then on; always the same dict."""
        if self.index is None:
            self.index = {}
            for row, held in enumerate(self.values):
                if held is not ABSENT:
                    self._enter(self.index, index_key(held), row)
            for row, cell in self.cells.items():
                for held in cell.visible:
                    self._enter(self.index, index_key(held), row)
        return self.index

    def rows_with(self, value: Value) -> list[int]:
        """The rows that show a value, in order; text and references match by their text. An index is made once looking
        through the column has cost as much."""
        if self.index is None and not self.cells and self.scans < SCANS_MAX:
            self.scans += 1
            return list(self._scanned(value))
        rows = self.reverse().get(index_key(value))
        return [] if rows is None else [rows] if type(rows) is int else sorted(rows)  # type: ignore[arg-type]

    def _scanned(self, value: Value) -> Iterator[int]:
        """The rows whose single value is this one, in order."""
        values, row = self.values, -1
        with suppress(ValueError):  # there is no further one
            while True:
                row = values.index(value, row + 1)
                if (type(values[row]) is bool) is (type(value) is bool):  # True is not 1
                    yield row

    def reindex(self, row: int, gone: Sequence[Value], shown: Sequence[Value]) -> None:
        """Keeps the reverse index right where a row ceased to show `gone` and now shows `shown`."""
        index = self.index
        if index is None:
            return
        if len(gone) < 2 and len(shown) < 2:
            old = index_key(gone[0]) if gone else ABSENT
            new = index_key(shown[0]) if shown else ABSENT
            if old != new:
                if old is not ABSENT:
                    self._leave(index, old, row)
                if new is not ABSENT:
                    self._enter(index, new, row)
            return
        keys = dict.fromkeys(map(index_key, shown))
        # "a" and Ref("a") share a key: it goes when the last of them goes
        for key in dict.fromkeys(map(index_key, gone)):
            if key not in keys:
                self._leave(index, key, row)
        for key in keys:
            self._enter(index, key, row)

    @staticmethod
    def _enter(index: dict[Any, int | set[int]], key: Any, row: int) -> None:
        held = index.setdefault(key, row)
        if type(held) is set:
            held.add(row)
        elif held != row:
            index[key] = {held, row}  # type: ignore[arg-type]

    @staticmethod
    def _leave(index: dict[Any, int | set[int]], key: Any, row: int) -> None:
        held = index[key]
        if type(held) is not set:
            del index[key]
            return
        held.discard(row)
        if len(held) == 1:
            index[key] = held.pop()

    # -- the visible layer by itself, for `Store.replay`: no register and no stamp is touched -------------------

    def hide(self, row: int, value: Value) -> None:
        """Takes away a value that a row shows."""
        self.spoil(row)
        left: tuple[Value, ...] = ()
        if self.values[row] is not ABSENT:
            self.values[row] = ABSENT
        else:
            cell = self.cells[row]
            shown = [held for held in cell.visible if type(held) is not type(value) or held != value]
            left = cell.visible = tuple(shown)
        self.live -= 1
        if self.index is not None:
            key = index_key(value)
            if not left or all(index_key(held) != key for held in left):
                self._leave(self.index, key, row)

    def show(self, row: int, value: Value) -> bool:
        """Puts a value to what a row shows; True if it took a new cell for that, which `dissolve` takes away."""
        self.spoil(row)
        cell = self.cells.get(row) if self.cells else None
        made = False
        if cell is not None:
            cell.visible = tuple(sorted((*cell.visible, value), key=value_order))
        elif self.values[row] is ABSENT:
            self.values[row] = value
        else:
            cell = self.cells[row] = Cell(ABSENT)
            cell.visible = tuple(sorted((self.values[row], value), key=value_order))
            self.values[row] = ABSENT
            made = True
        self.live += 1
        if self.index is not None:
            self._enter(self.index, index_key(value), row)
        return made

    def dissolve(self, row: int) -> None:
        """Takes away a cell that `show` has made."""
        self.spoil(row)
        shown = self.cells.pop(row).visible
        assert len(shown) < 2
        self.values[row] = shown[0] if shown else ABSENT


class Table:
    """One kind: the rows of its entities and the columns of its predicates."""

    __slots__ = ("columns", "entities", "pinned", "row_of")

    def __init__(self) -> None:
        self.row_of: dict[int, int] = {}
        self.entities = array("I")  # row -> entity number
        self.columns: dict[str, Column] = {}
        self.pinned: list[Column] = []

    def pin(self, column: Column) -> None:
        """From now on a column of this table is as long as `entities` is."""
        if column not in self.pinned:
            column.grow(len(self.entities))
            self.pinned.append(column)

    def add(self, number: int) -> int:
        """A new row, for an entity that has none."""
        entities = self.entities
        row = self.row_of[number] = len(entities)
        entities.append(number)
        for column in self.pinned:
            column.grow(row + 1)
        return row

    def extend(self, numbers: Sequence[int], ints: Mapping[str, int]) -> list[int]:
        """New rows, for entities that have none. The values of `ints` are 0, 1, 2 … as far as there are entities: the
        same objects serve as rows."""
        start = len(self.entities)
        rows = list(islice(ints.values(), start, start + len(numbers)))
        self.row_of.update(zip(numbers, rows, strict=True))
        self.entities.extend(numbers)
        for column in self.pinned:
            column.grow(len(self.entities))
        return rows


class Tables:
    """The tables of a store: places of triples, and what is visible there, as a `Source`."""

    def __init__(self) -> None:
        self.names: list[str] = []  # entity number -> id
        self.numbers: dict[str, int] = {}
        self.replicas: list[str] = []
        self._replica_numbers: dict[str, int] = {}
        self._tables: dict[str, Table] = {}
        self._columns: dict[str, tuple[Table, Column]] = {}  # by predicate
        self.mirrors: Any = None  # of `datalog.vectorised`, once it was asked

    # -- places ------------------------------------------------------------------------------------------------

    def column(self, predicate: str) -> tuple[Table, Column]:
        """The table and the column of a predicate, made if need be; they stay the same as long as the store lives."""
        found = self._columns.get(predicate)
        if found is None:
            table = self._tables.setdefault(kind_of(predicate), Table())
            column = table.columns[predicate] = Column(predicate)
            found = self._columns[predicate] = table, column
        return found

    def table(self, group: str) -> Table:
        """The table of a kind, made if need be; it stays the same as long as the store lives."""
        return self._tables.setdefault(group, Table())

    def number(self, subject: str) -> int:
        """The number of an entity, which gets one if need be; that it has one says nothing about it."""
        number = self.numbers.get(subject)
        if number is None:
            number = self.numbers[subject] = len(self.names)
            self.names.append(subject)
        return number

    def place(self, subject: str, predicate: str) -> tuple[Column, int]:
        """The column and row of a (subject, predicate), made if need be."""
        table, column = self._columns.get(predicate) or self.column(predicate)
        number = self.numbers.get(subject)
        if number is None:
            number = self.number(subject)
        row = table.row_of.get(number)
        if row is None:
            row = table.add(number)
        if row >= len(column.values):
            column.grow(row + 1)
        return column, row

    def _rows(self, group: str, subjects: Sequence[str]) -> list[int]:
        """The rows of entities, which differ, in the table of a kind, made if need be."""
        table = self._tables.setdefault(group, Table())
        entities: list[Any] = list(map(self.numbers.get, subjects))
        if None in entities:
            fresh = [subject for subject, number in zip(subjects, entities, strict=True) if number is None]
            made = list(range(len(self.names), len(self.names) + len(fresh)))
            self.names += fresh
            self.numbers.update(zip(fresh, made, strict=True))
            put_in(entities, made)
        rows: list[Any] = list(map(table.row_of.get, entities))
        if None in rows:
            fresh_entities = [number for number, row in zip(entities, rows, strict=True) if row is None]
            put_in(rows, table.extend(fresh_entities, self.numbers))
        return rows

    def _find(self, subject: str, predicate: str) -> tuple[Column, int] | None:
        """The column and row of a (subject, predicate), if there is one."""
        number = self.numbers.get(subject)
        found = self._columns.get(predicate)
        if number is None or found is None:
            return None
        table, column = found
        row = table.row_of.get(number)
        if row is None or row >= len(column.values):
            return None
        return column, row

    def replica_number(self, replica: str) -> int:
        number = self._replica_numbers.get(replica)
        if number is None:
            number = self._replica_numbers[replica] = len(self.replicas)
            self.replicas.append(replica)
        return number

    def _single_stamp(self, column: Column, row: int) -> Stamp:
        time = column.times[row]
        return NEVER if time < 0 else (time, self.replicas[column.replicas[row]])

    def _stamp_at(self, column: Column, row: int, place: str) -> Stamp:
        """The stamp of a register, NEVER if there is none."""
        if place == SINGLE:
            return self._single_stamp(column, row)
        cell = column.cells.get(row)
        if cell is None:
            return NEVER
        if place == RESET:
            return cell.marker
        held = cell.held(place)
        return NEVER if held is None else held[1:]

    # -- reading (Source) --------------------------------------------------------------------------------------

    def predicates(self) -> list[str]:
        """All predicates with at least one visible triple, sorted."""
        return sorted(name for name, (_, column) in self._columns.items() if column.live)

    def count(self, predicate: str) -> int:
        """How many visible triples a predicate has."""
        found = self._columns.get(predicate)
        return 0 if found is None else found[1].live

    def scan(self, predicate: str) -> Iterator[tuple[str, Value]]:
        """Every (subject, value) of a predicate."""
        if predicate in self._columns:
            table, column = self._columns[predicate]
            names, entities = self.names, table.entities
            for row, value in enumerate(column.values):
                if value is not ABSENT:
                    yield names[entities[row]], value
            for row, cell in column.cells.items():
                for value in cell.visible:
                    yield names[entities[row]], value

    def values(self, subject: str, predicate: str) -> list[Value]:
        """The values of one field, sorted; [] if there are none."""
        found = self._find(subject, predicate)
        return [] if found is None else list(found[0].visible(found[1]))

    def subjects(self, predicate: str, value: Value) -> list[str]:
        """Who has this value; text and references match by their text."""
        if predicate not in self._columns:
            return []
        table, column = self._columns[predicate]
        return [self.names[table.entities[row]] for row in column.rows_with(value)]

    def about(self, subject: str) -> Iterator[tuple[str, Value]]:
        """Every (predicate, value) of an entity."""
        number = self.numbers.get(subject)
        if number is not None:
            for table in self._tables.values():
                row = table.row_of.get(number)
                if row is not None:
                    for name, column in table.columns.items():
                        for value in column.visible(row):
                            yield name, value

    def entities(self, group: str) -> list[str]:
        """The ids that have something visible in a kind, in the order in which they were first written."""
        table = self._tables.get(group)
        if table is None:
            return []
        columns = list(table.columns.values())
        return [
            self.names[number]
            for row, number in enumerate(table.entities)
            if any(column.visible(row) for column in columns)
        ]

    def view(self, predicates: frozenset[str] | None = None) -> View:
        """An immutable copy of some predicates (None: of all), for evaluating while the store goes on."""
        names = sorted(predicates) if predicates is not None else self.predicates()
        columns: Columns = {}
        for name in names:
            if name not in self._columns:
                continue
            table, column = self._columns[name]
            if column.live:
                cells = {row: cell.visible for row, cell in column.cells.items() if cell.visible}
                columns[name] = (table.entities, column.values.copy(), cells)
        return View(self.names, columns)


def as_run(rows: Sequence[int]) -> range | None:
    """Rows as a range where each is the one after that before it.

    >>> as_run([4, 5, 6]), as_run([4, 6, 5, 7])
    (range(4, 7), None)
    """
    run = range(rows[0], rows[0] + len(rows))
    return run if rows[-1] == run[-1] and all(map(eq, rows, run)) else None


def put_in(found: list[Any], made: Iterable[Any]) -> None:
    """Puts the next of `made` wherever nothing was found."""
    if found.count(None) == len(found):
        found[:] = made
        return
    rest = iter(made)
    for at, each in enumerate(found):
        if each is None:
            found[at] = next(rest)
