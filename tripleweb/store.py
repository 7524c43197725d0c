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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any

from tripleweb.blocks import Sets, Singles
from tripleweb.blocks import Triple as Triple
from tripleweb.cells import NEVER, Cell
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key, outranks
from tripleweb.clock import Stamp
from tripleweb.delta import ColumnDelta
from tripleweb.delta import Delta as Delta
from tripleweb.delta import change_of as change_of
from tripleweb.delta import net as net
from tripleweb.ids import kind_of
from tripleweb.kept import Kept, NothingHeld, Underlay
from tripleweb.tables import Column, Tables
from tripleweb.terms import Value, slot
from tripleweb.view import ABSENT

Fate = tuple[str, int, str]  # (reason, time, replica) of what beat a change
# (subject, predicate) -> its place and what was visible there
Touched = dict[tuple[str, str], tuple[Column, int, tuple[Value, ...]]]
Step = Callable[[str, str, int, Value, int], object]  # predicate, subject, row, value, sign


class Store(Tables):
    """Registers in, visible triples out.

    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/name", "", "Ada", 1, "a")])
    >>> delta.added, store.values("ada", "user/name")
    ([('ada', 'user/name', 'Ada')], ['Ada'])
    >>> store.apply([Change("ada", "user/name", "", "late", 0, "b")])
    Delta(removed=[], added=[])
    """

    def __init__(self) -> None:
        super().__init__()
        self._graves: dict[str, Stamp] = {}
        self._kept: Kept | None = None  # while recording
        self.is_replaying = False  # what is visible is of the past, and nobody may write or keep what is seen

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
        delta = ColumnDelta([], [], [])
        places: dict[str, Sequence[int]] = {}
        for predicate, cells in columns:
            group = kind_of(predicate)
            if group not in places:
                places[group] = self._rows(group, subjects)
            self._put_column(predicate, subjects, places[group], cells, stamp, delta)
        return delta if delta.blocks else Delta(delta.removed, delta.loose)

    def _put_column(
        self,
        predicate: str,
        subjects: Sequence[str],
        rows: Sequence[int],
        cells: Sequence[Any],
        stamp: Stamp,
        delta: ColumnDelta,
    ) -> None:
        _, column = self.column(predicate)
        if None in cells:
            given = [cell is not None for cell in cells]
            subjects = list(compress(subjects, given))
            rows, cells = list(compress(rows, given)), list(compress(cells, given))
        if not rows:
            return
        column.grow(max(rows) + 1)
        if column.mirror is not None:
            column.spoil_all(rows)
        before: Underlay | NothingHeld
        if column.is_new(rows):
            column.fill(rows, cells, stamp[0], self.replica_number(stamp[1]))
            delta.blocks.append(Singles(predicate, subjects, cells, *stamp))
            before = NothingHeld(predicate, subjects)
        else:
            before = self._underlay(predicate, subjects, column, rows)
            self._overwrite(predicate, subjects, column, rows, cells, stamp, delta)
        if self._kept is not None:
            self._kept.segments.append(before)

    def _underlay(
        self, predicate: str, subjects: Sequence[str], column: Column, rows: Sequence[int]
    ) -> Underlay:
        values, times, replicas = column.values, column.times, column.replicas
        return Underlay(
            predicate,
            subjects,
            [column.single(row) for row in rows] if column.cells else [values[row] for row in rows],
            array("q", [times[row] for row in rows]),
            array("I", [replicas[row] for row in rows]),
            self.replicas,
        )

    def _overwrite(
        self,
        predicate: str,
        subjects: Sequence[str],
        column: Column,
        rows: Sequence[int],
        cells: Sequence[Any],
        stamp: Stamp,
        delta: ColumnDelta,
    ) -> None:
        """Sets single values where there may be others."""
        time, replica = stamp[0], self.replica_number(stamp[1])
        values, times, replicas = column.values, column.times, column.replicas
        removed, added = delta.removed, delta.loose
        touched: Touched = {}
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

    def renew_set(self, predicate: str, subject: str, members: tuple[Value, ...], stamp: Stamp) -> bool:
        """Assigns the set that stands there already, whatever its stamp; False where something else stands, or more."""
        found = self._find(subject, predicate)
        cell = None if found is None else found[0].cells.get(found[1])
        if found is None or cell is None or found[0].times[found[1]] >= 0 or not cell.stands(members):
            return False
        for place in (RESET, *map(slot, members)) if self._kept is not None else ():
            self._keep((subject, predicate, place))
        cell.marker = stamp
        return True

    def load_column(
        self,
        predicate: str,
        subjects: Sequence[str],
        cells: Sequence[Value],
        times: int | Sequence[int],
        replicas: str | Sequence[str],
    ) -> bool:
        """What `put` does, for single values of entities, which differ; False where that has to be done one by one, for
        something was written there, or is deleted."""
        column, rows = self._new_places(predicate, subjects)
        if rows and isinstance(replicas, str):
            column.fill(rows, cells, times, self.replica_number(replicas))
        elif rows:
            numbers = {name: self.replica_number(name) for name in dict.fromkeys(replicas)}
            column.fill(rows, cells, times, [numbers[name] for name in replicas])
        return rows is not None

    def load_sets(
        self, predicate: str, subjects: Sequence[str], sets: Sequence[tuple[Value, ...]], stamp: Stamp
    ) -> bool:
        """What `load_column` does, for whole sets, each sorted and without repetition."""
        column, rows = self._new_places(predicate, subjects)
        if rows:
            column.fill_sets(rows, sets, stamp)
        return rows is not None

    def put_sets(
        self, predicate: str, subjects: Sequence[str], sets: Sequence[tuple[Value, ...]], stamp: Stamp
    ) -> Delta:
        """Assigns whole sets, each sorted and without repetition, to entities (which differ, and are not deleted) of
        whose fields `untouched` is true."""
        is_loaded = self.load_sets(predicate, subjects, sets, stamp)
        assert is_loaded
        if self._kept is not None:
            self._kept.segments.append(NothingHeld(predicate, subjects, sets))
        return ColumnDelta([], [], [Sets(predicate, subjects, sets, *stamp)])

    def _new_places(self, predicate: str, subjects: Sequence[str]) -> tuple[Column, list[int] | None]:
        """A column and the rows of entities in it, of which a mirror is told; None if anything was ever written at one
        of these, or one is deleted."""
        _, column = self.column(predicate)
        if self._graves and not self._graves.keys().isdisjoint(subjects):
            return column, None
        rows = self._rows(kind_of(predicate), subjects)
        if rows:
            column.grow(max(rows) + 1)
            if not column.is_new(rows):
                return column, None
            if column.mirror is not None:
                column.spoil_all(rows)
        return column, rows

    def untouched(self, predicate: str, subjects: Sequence[str]) -> list[bool]:
        """Of which entities no register of this field was ever set."""
        found = self._columns.get(predicate)
        if found is None or not found[1].values:
            return [True] * len(subjects)
        table, column = found
        rows = [table.row_of.get(self.numbers.get(subject, -1), -1) for subject in subjects]
        size, times, cells = len(column.values), column.times, column.cells
        return [not -1 < row < size or (times[row] < 0 and row not in cells) for row in rows]

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
            pairs = list(segment.items())
            found = [change for _, change in pairs if change is not None]
            fresh = [key for key, change in pairs if change is None]
            revived = [subject for subject, predicate, _ in fresh if predicate == DELETED]
            deltas.append(self.put(found, fresh, revived))
        return net(deltas)

    def replay(self, delta: Delta, step: Step, gone: Callable[[str], object] | None = None) -> None:
        """Lets `step` see a delta that was applied, one triple after the other: `step(predicate, subject, row, value,
        sign)` is called with -1 just before a removed triple goes, with +1 just after an added one has come, and meets
        everything visible as it is at that moment (stamps and registers are the new ones throughout); `gone(predicate)`
        just after a removed one went. If one of them raises, the rest happens unseen. Meanwhile `is_replaying`.

        >>> store = Store()
        >>> delta = store.apply([Change("ada", "user/name", "", "Ada", 1, "a")])
        >>> store.replay(delta, lambda *seen: print(seen, store.values("ada", "user/name")))
        ('user/name', 'ada', 0, 'Ada', 1) ['Ada']
        """
        columns, numbers = self._columns, self.numbers
        todo: list[tuple[int, str, str, int, Value, Column]] = []
        made: list[tuple[Column, int]] = []
        for sign, triples in ((-1, delta.removed), (1, delta.added)):
            for subject, predicate, value in triples:
                table, column = columns[predicate]
                todo.append((sign, predicate, subject, table.row_of[numbers[subject]], value, column))
        middle = len(delta.removed)
        for _, _, _, row, value, column in todo[middle:]:
            column.hide(row, value)
        for _, _, _, row, value, column in todo[:middle]:
            if column.show(row, value):
                made.append((column, row))
        steps = iter(todo)
        hidden = False  # where the present step is
        self.is_replaying = True
        try:
            for sign, predicate, subject, row, value, column in steps:
                if sign < 0:
                    step(predicate, subject, row, value, sign)
                    column.hide(row, value)
                    hidden = True
                    if gone is not None:
                        gone(predicate)
                    hidden = False
                else:
                    if column.show(row, value):
                        made.append((column, row))
                    step(predicate, subject, row, value, sign)
        except BaseException:
            if sign < 0 and not hidden:
                column.hide(row, value)
            for sign, _, _, row, value, column in steps:
                if sign < 0:
                    column.hide(row, value)
                elif column.show(row, value):
                    made.append((column, row))
            raise
        finally:
            self.is_replaying = False
            for column, row in made:
                column.dissolve(row)

    def _merge(self, change: Change, touched: Touched) -> Fate | None:
        subject, predicate, place, value, time, replica = change
        found, number = self._columns.get(predicate), self.numbers.get(subject)
        if place == SINGLE and found is not None and number is not None:
            # what nearly all changes are: a single value meets nothing but an earlier one, and takes over
            table, column = found
            row = table.row_of.get(number, -1)
            if -1 < row < len(column.values) and time > column.times[row] and value is not None:
                if row not in column.cells and self._kept is None and subject not in self._graves:
                    pair = subject, predicate
                    if pair not in touched:
                        before = column.values[row]
                        touched[pair] = column, row, () if before is ABSENT else (before,)
                    column.values[row] = value
                    column.times[row] = time
                    column.replicas[row] = self.replica_number(replica)
                    return None
        grave = self._graves.get(subject) if self._graves else None
        if predicate == DELETED:
            if grave is None or grave < (time, replica):
                self._bury(change, touched)
            return None
        if grave is not None:
            return ("deleted", *grave)
        column, row = self.place(subject, predicate)
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
        column, row = self.place(key[0], key[1])
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
        column.replicas[row] = self.replica_number(stamp[1])

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
            column.replicas[row] = self.replica_number(stamp[1])
        elif place == RESET:
            cell.opened()  # members of a closed cell have the marker's stamp
            cell.marker = stamp
        else:
            slots = cell.counted() if place[:2] == COUNTER else cell.opened()
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
        number = self.numbers.get(subject)
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
            held = None if cell is None else cell.held(place)
            assert held is not None
            value = held[0]
        return Change(subject, predicate, place, None if value is ABSENT else value, *stamp)

    def floor(self, subject: str, predicate: str) -> Stamp:
        """The stamp below which the members and the single value of a (subject, predicate) are hidden."""
        found = self._find(subject, predicate)
        return NEVER if found is None else max(self._stamp_at(*found, SINGLE), self._stamp_at(*found, RESET))

    def registers_of(self, subject: str, predicate: str | None = None) -> Iterator[Change]:
        """Every register of an entity (of one of its predicates), its tombstone among them."""
        if subject in self._graves and predicate in (None, DELETED):
            yield Change(subject, DELETED, SINGLE, True, *self._graves[subject])
        number = self.numbers.get(subject)
        if number is None:
            return
        for group, table in list(self._tables.items()):
            row = table.row_of.get(number)
            if row is None or (predicate is not None and group != kind_of(predicate)):
                continue
            for name, column in list(table.columns.items()):
                if predicate in (None, name) and row < len(column.values):
                    yield from self._registers_at(subject, column, row)

    def registers_at(self, subject: str, predicate: str) -> list[Change]:
        """Every register of one place; of a deleted entity its tombstone, which is all that is left of it."""
        grave = self._graves.get(subject)
        if grave is not None:
            return [Change(subject, DELETED, SINGLE, True, *grave)]
        found = self._find(subject, predicate)
        return [] if found is None else self._registers_at(subject, *found)

    def registers(self) -> Iterator[Change]:
        """Every register there is, graves first. May be suspended while the store changes: what was there at the
        start and still is is given, in its present state."""
        yield from self.graves()
        for table in list(self._tables.values()):
            for column in list(table.columns.values()):
                for row in range(len(column.values)):
                    if column.times[row] >= 0 or row in column.cells:
                        yield from self._registers_at(self.names[table.entities[row]], column, row)

    def places(self, wants: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Every (subject, predicate) of wanted predicates where there is a register, if only of what was taken away.
        Tombstones aside. May be suspended as `registers` may."""
        for table in list(self._tables.values()):
            for column in list(table.columns.values()):
                if wants(column.predicate):
                    for row in range(len(column.values)):
                        if column.times[row] >= 0 or row in column.cells:
                            yield self.names[table.entities[row]], column.predicate

    def _single_at(self, subject: str, column: Column, row: int) -> Change | None:
        """The register of the single value at a place, None if it was never set."""
        time = column.times[row]
        if time < 0:
            return None
        value = column.single(row)
        found = None if value is ABSENT else value
        return Change(subject, column.predicate, SINGLE, found, time, self.replicas[column.replicas[row]])

    def _registers_at(self, subject: str, column: Column, row: int) -> list[Change]:
        predicate = column.predicate
        cell = column.cells.get(row)
        single = self._single_at(subject, column, row)
        out = [] if single is None else [single]
        if cell is not None:
            if cell.marker != NEVER:
                out.append(Change(subject, predicate, RESET, None, *cell.marker))
            out.extend(Change(subject, predicate, place, *held) for place, held in cell.items())
        return out

    def graves(self) -> Iterator[Change]:
        """The tombstones of deleted entities."""
        for subject, grave in list(self._graves.items()):
            yield Change(subject, DELETED, SINGLE, True, *grave)

    def written(self) -> list[str]:
        """The predicates that anything was ever written to, tombstones of entities aside."""
        return list(self._columns)

    @property
    def has_graves(self) -> bool:
        """True if any entity was ever deleted."""
        return bool(self._graves)

    def deleted(self, subject: str) -> Stamp | None:
        """The stamp of an entity's deletion, None if it was not deleted."""
        return self._graves.get(subject)


def _settle(touched: Touched) -> Delta:
    """Compares what was visible with what is; keeps counts and reverse indexes right."""
    delta = Delta()
    removed, added = delta.removed, delta.added
    for (subject, predicate), (column, row, before) in touched.items():
        after = column.visible(row)
        if column.mirror is not None:
            column.spoil(row)
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
