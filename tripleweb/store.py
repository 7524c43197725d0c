"""The triple store: registers merged by their stamps, kept in tables, seen through floors.

What is stored are registers (subject, predicate, slot), each with its highest stamp (`change.py` says what slots
mean). What is *visible* is what is not older than the floor of its (subject, predicate): the later of the single
value's stamp (or of its tombstone's) and the reset marker's. Counter shares stand below no floor; they show as their
sum. A deleted entity is one row in the graveyard for ever, and its registers go.

Invariants: any order and any duplication of the same changes gives the same registers, hence the same triples; no
schema is needed to merge or to read; a `Delta` added to the old triples gives the new ones; server, client and
simulator use this one class. How it all lies in memory: `tables.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key, outranks
from tripleweb.clock import Stamp
from tripleweb.ids import kind_of
from tripleweb.tables import NEVER, Block, Cell, Column, Kept, Table
from tripleweb.terms import Value, slot
from tripleweb.view import ABSENT, Columns, View

Triple = tuple[str, str, Value]
Fate = tuple[str, int, str]  # (reason, time, replica) of what beat a change
# (subject, predicate) -> its place and what was visible there
Touched = dict[tuple[str, str], tuple[Column, int, tuple[Value, ...]]]


class Delta:
    """What a batch of changes did to the visible triples, netted: `removed` from and `added` to them."""

    __slots__ = ("_predicates", "added", "removed")

    def __init__(self, removed: list[Triple] | None = None, added: list[Triple] | None = None) -> None:
        self.removed: list[Triple] = [] if removed is None else removed
        self.added: list[Triple] = [] if added is None else added
        self._predicates: frozenset[str] | None = None

    @property
    def predicates(self) -> frozenset[str]:
        """The predicates that it touches; to be asked for when it is complete."""
        if self._predicates is None:
            of = itemgetter(1)
            self._predicates = frozenset(map(of, self.removed)) | frozenset(map(of, self.added))
        return self._predicates

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)

    def __repr__(self) -> str:
        return f"Delta(removed={self.removed!r}, added={self.added!r})"


def net(deltas: Iterable[Delta]) -> Delta:
    """Several deltas, one after the other, as one."""
    deltas = [delta for delta in deltas if delta]
    if len(deltas) == 1:
        return deltas[0]
    counts: dict[tuple[str, str, type, str], list[Any]] = {}
    for delta in deltas:
        for triples, sign in ((delta.removed, -1), (delta.added, 1)):
            for triple in triples:
                s, p, v = triple
                entry = counts.setdefault((s, p, type(v), slot(v)), [0, triple])
                entry[0] += sign
    return Delta(
        [triple for n, triple in counts.values() if n < 0], [triple for n, triple in counts.values() if n > 0]
    )


class Store:
    """Registers in, visible triples out.

    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/name", "", "Ada", 1, "a")])
    >>> delta.added, store.values("ada", "user/name")
    ([('ada', 'user/name', 'Ada')], ['Ada'])
    >>> store.apply([Change("ada", "user/name", "", "late", 0, "b")])
    Delta(removed=[], added=[])
    """

    def __init__(self) -> None:
        self._names: list[str] = []  # entity number -> id
        self._numbers: dict[str, int] = {}
        self._replicas: list[str] = []
        self._replica_numbers: dict[str, int] = {}
        self._tables: dict[str, Table] = {}
        self._columns: dict[str, tuple[Table, Column]] = {}  # by predicate
        self._graves: dict[str, Stamp] = {}
        self._kept: Kept | None = None  # while recording

    # -- merging -----------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], fates: list[Fate | None] | None = None) -> Delta:
        """Merges changes; returns what became of the visible triples.

        `fates`, if given, gets one entry a change: None where it stands, else (reason, time, replica) of what
        beat it, the reason being `deleted`, `newer` or `reset`. A change that is there already stands.
        """
        touched: Touched = {}
        for change in changes:
            fate = self._merge(change, touched)
            if fates is not None:
                fates.append(fate)
        return _settle(touched)

    def put(
        self, changes: Iterable[Change] = (), drop: Iterable[Key] = (), revive: Iterable[str] = ()
    ) -> Delta:
        """Sets registers whatever their stamps, drops others, takes entities out of the graveyard.

        For what is not a merge: undoing, re-stamping, forgetting. Only what is revived comes back from the graveyard.
        """
        touched: Touched = {}
        for subject in revive:
            self._keep((subject, DELETED, SINGLE))
            self._graves.pop(subject, None)
        for key in drop:
            if key[1] != DELETED and self.register(key) is not None:
                self._set(key, ABSENT, NEVER, touched)
        for change in changes:
            if change.predicate == DELETED:
                self._bury(change, touched)
            elif change.subject not in self._graves:
                value = ABSENT if change.value is None else change.value
                self._set(change[:3], value, change[4:], touched)
        return _settle(touched)

    def put_columns(
        self, subjects: Sequence[str], columns: Iterable[tuple[str, Sequence[Value | None]]], stamp: Stamp
    ) -> Delta:
        """What `put` does, for single values of many entities: `columns` are predicates with a cell for each of the
        `subjects` (which differ, and are not deleted); None leaves alone what is there."""
        delta = Delta()
        places: dict[str, Sequence[int]] = {}
        for predicate, cells in columns:
            group = kind_of(predicate)
            if group not in places:
                places[group] = self._rows(group, subjects)
            self._put_column(predicate, subjects, places[group], cells, stamp, delta)
        return delta

    def _put_column(
        self,
        predicate: str,
        subjects: Sequence[str],
        rows: Sequence[int],
        cells: Sequence[Any],
        stamp: Stamp,
        delta: Delta,
    ) -> None:
        _, column = self._column(predicate)
        time, replica = stamp[0], self._replica_number(stamp[1])
        if None in cells:
            given = [cell is not None for cell in cells]
            subjects = list(compress(subjects, given))
            rows, cells = list(compress(rows, given)), list(compress(cells, given))
        if not rows:
            return
        column.grow(max(rows) + 1)
        values, times, replicas = column.values, column.times, column.replicas
        touched: Touched = {}
        removed, added = delta.removed, delta.added
        before = Block(predicate, subjects)
        if max(times[row] for row in rows) < 0 and not column.cells:  # nothing was ever written there
            for row, value in zip(rows, cells, strict=True):
                values[row] = value
                times[row] = time
                replicas[row] = replica
            added.extend([(s, predicate, v) for s, v in zip(subjects, cells, strict=True)])
            column.live += len(rows)
            for row, value in zip(rows, cells, strict=True) if column.index is not None else ():
                column.reindex(row, (), (value,))
        else:
            if self._kept is not None:
                before = Block(
                    predicate,
                    subjects,
                    [column.single(row) for row in rows] if column.cells else [values[row] for row in rows],
                    array("q", [times[row] for row in rows]),
                    array("I", [replicas[row] for row in rows]),
                    self._replicas,
                )
            for subject, row, value in zip(subjects, rows, cells, strict=True):
                if row in column.cells:
                    self._set_in_cell(column, row, (subject, predicate, SINGLE), value, stamp, touched)
                    continue
                old, values[row] = values[row], value
                times[row] = time
                replicas[row] = replica
                if old is ABSENT:
                    column.live += 1
                    added.append((subject, predicate, value))
                elif type(old) is not type(value) or old != value:
                    removed.append((subject, predicate, old))
                    added.append((subject, predicate, value))
                else:
                    continue
                if column.index is not None:
                    column.reindex(row, () if old is ABSENT else (old,), (value,))
            more = _settle(touched)
            removed += more.removed
            added += more.added
        if self._kept is not None:
            self._kept.segments.append(before)

    def record(self) -> Kept:
        """Starts keeping the registers that are about to be overwritten; returns what grows with each."""
        self._kept = Kept()
        return self._kept

    def stop(self) -> None:
        """Ends `record`."""
        self._kept = None

    def undo(self, kept: Kept) -> Delta:
        """Sets registers back to what `record` kept."""
        deltas = []
        for segment in reversed(kept.segments):
            if not isinstance(segment, dict):
                pairs = [(subject, segment.before(row)) for row, subject in enumerate(segment.subjects)]
                found = [change for _, change in pairs if change is not None]
                fresh = [(s, segment.predicate, SINGLE) for s, change in pairs if change is None]
                deltas.append(self.put(found, fresh))
                continue
            found = [change for change in segment.values() if change is not None]
            fresh = [key for key, change in segment.items() if change is None]
            revived = [subject for subject, predicate, _ in fresh if predicate == DELETED]
            deltas.append(self.put(found, fresh, revived))
        return net(deltas)

    def _merge(self, change: Change, touched: Touched) -> Fate | None:
        subject, predicate, place, value, time, replica = change
        grave = self._graves.get(subject) if self._graves else None
        if predicate == DELETED:
            if grave is None or grave < (time, replica):
                self._bury(change, touched)
            return None
        if grave is not None:
            return ("deleted", *grave)
        column, row = self._place(subject, predicate)
        stamp, old = (time, replica), self._stamp_at(column, row, place)
        if stamp <= old:
            if old != stamp:
                return ("newer", *old)
            current = self.register(change[:3])
            if current is None or not outranks(value, current.value):
                same = current is not None and not outranks(current.value, value)
                return None if same else ("newer", *old)
        self._write(change[:3], column, row, ABSENT if value is None else value, stamp, touched)
        if place[:2] != COUNTER and (column.cells or place != SINGLE):
            floor = self.floor(subject, predicate)
            if stamp < floor:
                return ("reset", *floor)
        return None

    def _set(self, key: Key, value: Any, stamp: Stamp, touched: Touched) -> None:
        """Sets one register, whatever it was; stamp NEVER drops it."""
        column, row = self._place(key[0], key[1])
        self._write(key, column, row, value, stamp, touched)

    def _write(self, key: Key, column: Column, row: int, value: Any, stamp: Stamp, touched: Touched) -> None:
        """Sets one register whose place is known."""
        if self._kept is not None:
            self._keep(key)
        if key[2] != SINGLE or (column.cells and row in column.cells):
            self._set_in_cell(column, row, key, value, stamp, touched)
            return
        pair = key[:2]
        if pair not in touched:
            touched[pair] = column, row, column.visible(row)
        column.values[row] = value
        column.times[row] = stamp[0]
        column.replicas[row] = self._replica_number(stamp[1])

    def _set_in_cell(
        self, column: Column, row: int, key: Key, value: Any, stamp: Stamp, touched: Touched
    ) -> None:
        """Sets a register where there is more than a single value, or is from now on."""
        pair, place = key[:2], key[2]
        if pair not in touched:
            touched[pair] = column, row, column.visible(row)
        cell = column.cells.get(row)
        if cell is None:
            cell = column.cells[row] = Cell(column.values[row])
            column.values[row] = ABSENT
        if place == SINGLE:
            cell.single = value
            column.times[row] = stamp[0]
            column.replicas[row] = self._replica_number(stamp[1])
        elif place == RESET:
            cell.marker = stamp
        else:
            slots = cell.shares if place[:2] == COUNTER else cell.members
            if stamp == NEVER:
                slots.pop(place, None)
            else:
                slots[place] = (None if value is ABSENT else value, *stamp)
        cell.see(self._single_stamp(column, row))

    def _bury(self, change: Change, touched: Touched) -> None:
        subject = change.subject
        for register in list(self.registers_of(subject)):
            if register.predicate != DELETED:
                self._set(register.key, ABSENT, NEVER, touched)
        number = self._numbers.get(subject)
        if number is not None:
            for table in self._tables.values():
                row = table.row_of.get(number)
                if row is not None:
                    for column in table.columns.values():
                        column.cells.pop(row, None)
        self._keep((subject, DELETED, SINGLE))
        self._graves[subject] = change.stamp

    def _keep(self, key: Key) -> None:
        if self._kept is not None:
            ones = self._kept.ones()
            if key not in ones:
                ones[key] = self.register(key)

    # -- places ------------------------------------------------------------------------------------------------

    def _column(self, predicate: str) -> tuple[Table, Column]:
        """The column of a predicate and its table, made if need be."""
        found = self._columns.get(predicate)
        if found is None:
            table = self._tables.setdefault(kind_of(predicate), Table())
            column = table.columns[predicate] = Column(predicate)
            found = self._columns[predicate] = table, column
        return found

    def _number(self, subject: str) -> int:
        number = self._numbers.get(subject)
        if number is None:
            number = self._numbers[subject] = len(self._names)
            self._names.append(subject)
        return number

    def _place(self, subject: str, predicate: str) -> tuple[Column, int]:
        """The column and row of a (subject, predicate), made if need be."""
        table, column = self._columns.get(predicate) or self._column(predicate)
        number = self._numbers.get(subject)
        if number is None:
            number = self._number(subject)
        row = table.row_of.get(number)
        if row is None:
            row = table.row_of[number] = len(table.entities)
            table.entities.append(number)
        if row >= len(column.values):
            column.grow(row + 1)
        return column, row

    def _rows(self, group: str, subjects: Iterable[str]) -> list[int]:
        """The rows of entities in the table of a kind, made if need be."""
        table = self._tables.setdefault(group, Table())
        row_of, entities = table.row_of, table.entities
        rows = []
        for subject in subjects:
            number = self._numbers.get(subject)
            if number is None:
                number = self._number(subject)
            row = row_of.get(number)
            if row is None:
                row = row_of[number] = len(entities)
                entities.append(number)
            rows.append(row)
        return rows

    def _find(self, subject: str, predicate: str) -> tuple[Column, int] | None:
        """The column and row of a (subject, predicate), if there is one."""
        number = self._numbers.get(subject)
        found = self._columns.get(predicate)
        if number is None or found is None:
            return None
        table, column = found
        row = table.row_of.get(number)
        if row is None or row >= len(column.values):
            return None
        return column, row

    def _replica_number(self, replica: str) -> int:
        number = self._replica_numbers.get(replica)
        if number is None:
            number = self._replica_numbers[replica] = len(self._replicas)
            self._replicas.append(replica)
        return number

    def _single_stamp(self, column: Column, row: int) -> Stamp:
        time = column.times[row]
        return NEVER if time < 0 else (time, self._replicas[column.replicas[row]])

    def _stamp_at(self, column: Column, row: int, place: str) -> Stamp:
        """The stamp of a register, NEVER if there is none."""
        if place == SINGLE:
            return self._single_stamp(column, row)
        cell = column.cells.get(row)
        if cell is None:
            return NEVER
        if place == RESET:
            return cell.marker
        held = (cell.shares if place[:2] == COUNTER else cell.members).get(place)
        return NEVER if held is None else held[1:]

    # -- registers ---------------------------------------------------------------------------------------------

    def register(self, key: Key) -> Change | None:
        """The register at (subject, predicate, slot), None if it was never set."""
        subject, predicate, place = key
        if predicate == DELETED:
            grave = self._graves.get(subject)
            return None if grave is None else Change(subject, DELETED, SINGLE, True, *grave)
        found = self._find(subject, predicate)
        if found is None:
            return None
        column, row = found
        if place == SINGLE:
            return self._single_at(subject, column, row)
        stamp = self._stamp_at(column, row, place)
        if stamp == NEVER:
            return None
        cell = column.cells.get(row)
        if place == RESET:
            value = ABSENT
        else:
            assert cell is not None
            value = (cell.shares if place[:2] == COUNTER else cell.members)[place][0]
        return Change(subject, predicate, place, None if value is ABSENT else value, *stamp)

    def floor(self, subject: str, predicate: str) -> Stamp:
        """The stamp below which the members and the single value of a (subject, predicate) are hidden."""
        found = self._find(subject, predicate)
        return NEVER if found is None else max(self._stamp_at(*found, SINGLE), self._stamp_at(*found, RESET))

    def registers_of(self, subject: str, predicate: str | None = None) -> Iterator[Change]:
        """Every register of an entity (of one of its predicates), its tombstone among them."""
        if subject in self._graves and predicate in (None, DELETED):
            yield Change(subject, DELETED, SINGLE, True, *self._graves[subject])
        number = self._numbers.get(subject)
        if number is None:
            return
        for group, table in list(self._tables.items()):
            row = table.row_of.get(number)
            if row is None or (predicate is not None and group != kind_of(predicate)):
                continue
            for name, column in list(table.columns.items()):
                if predicate in (None, name) and row < len(column.values):
                    yield from self._registers_at(subject, column, row)

    def registers(self) -> Iterator[Change]:
        """Every register there is, graves first. May be suspended while the store changes: what was there at the
        start and still is is given, in its present state."""
        for subject, grave in list(self._graves.items()):
            yield Change(subject, DELETED, SINGLE, True, *grave)
        for table in list(self._tables.values()):
            for column in list(table.columns.values()):
                for row in range(len(column.values)):
                    if column.times[row] >= 0 or row in column.cells:
                        yield from self._registers_at(self._names[table.entities[row]], column, row)

    def _single_at(self, subject: str, column: Column, row: int) -> Change | None:
        """The register of the single value at a place, None if it was never set."""
        time = column.times[row]
        if time < 0:
            return None
        value = column.single(row)
        found = None if value is ABSENT else value
        return Change(subject, column.predicate, SINGLE, found, time, self._replicas[column.replicas[row]])

    def _registers_at(self, subject: str, column: Column, row: int) -> list[Change]:
        predicate = column.predicate
        cell = column.cells.get(row)
        single = self._single_at(subject, column, row)
        out = [] if single is None else [single]
        if cell is not None:
            if cell.marker != NEVER:
                out.append(Change(subject, predicate, RESET, None, *cell.marker))
            for slots in (cell.members, cell.shares):
                out.extend(Change(subject, predicate, place, *held) for place, held in slots.items())
        return out

    def deleted(self, subject: str) -> Stamp | None:
        """The stamp of an entity's deletion, None if it was not deleted."""
        return self._graves.get(subject)

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
            names, entities = self._names, table.entities
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
        return [self._names[table.entities[row]] for row in column.rows_with(value)]

    def about(self, subject: str) -> Iterator[tuple[str, Value]]:
        """Every (predicate, value) of an entity."""
        number = self._numbers.get(subject)
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
            self._names[number]
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
        return View(self._names, columns)


def _settle(touched: Touched) -> Delta:
    """Compares what was visible with what is; keeps counts and reverse indexes right."""
    delta = Delta()
    removed, added = delta.removed, delta.added
    for (subject, predicate), (column, row, before) in touched.items():
        after = column.visible(row)
        if len(before) == 1 == len(after):
            old, new = before[0], after[0]
            if type(old) is type(new) and old == new:
                continue
            removed.append((subject, predicate, old))
            added.append((subject, predicate, new))
            column.reindex(row, before, after)
            continue
        if before == after and all(type(a) is type(b) for a, b in zip(before, after, strict=True)):
            continue
        gone, come = before, after
        if before and after:
            earlier = {(slot(v), type(v)): v for v in before}
            later = {(slot(v), type(v)): v for v in after}
            gone = tuple(v for k, v in earlier.items() if k not in later)
            come = tuple(v for k, v in later.items() if k not in earlier)
        column.live += len(come) - len(gone)
        column.reindex(row, gone, after)
        removed.extend([(subject, predicate, v) for v in gone])
        added.extend([(subject, predicate, v) for v in come])
    return delta
