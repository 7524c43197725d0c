"""The triple store: registers merged by their stamps, kept in tables, seen through floors.

What is stored are registers (subject, predicate, slot), each with its highest stamp (`change.py` says what slots
mean). What is *visible* is what is not older than the floor of its (subject, predicate): the later of the single
value's stamp (or of its tombstone's) and the reset marker's. Counter shares stand below no floor; they show as their
sum. A deleted entity is one row in the graveyard for ever, and its registers go.

Invariants: any order and any duplication of the same changes gives the same registers, hence the same triples; no
schema is needed to merge or to read; a `Delta` added to the old triples gives the new ones; server, client and
simulator use this one class.

Inside, triples come in and tables stay: one table per kind, one row an entity, one row-aligned column a predicate
(a list of native values and arrays of stamps). A row is the entity's index, a lazily built reverse index per column
answers "who has this value". Only rows that ever held more than a single value have a `_Cell`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from math import fsum
from typing import Any

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key, outranks
from tripleweb.clock import Stamp
from tripleweb.ids import kind_of
from tripleweb.terms import Value, kind, slot, sort_key
from tripleweb.view import ABSENT, Columns, View, index_key

Triple = tuple[str, str, Value]
Fate = tuple[str, int, str]  # (reason, time, replica) of what beat a change


_NEVER: Stamp = (-1, "")


class Delta:
    """What a batch of changes did to the visible triples, netted: `removed` from and `added` to them."""

    __slots__ = ("added", "removed")

    def __init__(self, removed: list[Triple] | None = None, added: list[Triple] | None = None) -> None:
        self.removed: list[Triple] = [] if removed is None else removed
        self.added: list[Triple] = [] if added is None else added

    @property
    def predicates(self) -> frozenset[str]:
        return frozenset(p for _, p, _ in self.removed) | frozenset(p for _, p, _ in self.added)

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


class _Cell:
    """A (subject, predicate) that ever held more than a single value."""

    __slots__ = ("marker", "members", "shares", "single", "visible")

    def __init__(self, single: Any) -> None:
        self.single = (
            single  # the value at slot "", ABSENT for a tombstone or none; its stamp is in the column
        )
        self.marker: Stamp = _NEVER
        self.members: dict[str, tuple[Value | None, int, str]] = {}
        self.shares: dict[str, tuple[Value | None, int, str]] = {}
        self.visible: tuple[Value, ...] = ()


class _Column:
    """One predicate: `values[row]` is the single value or ABSENT; rows with a cell have ABSENT here."""

    __slots__ = ("cells", "index", "live", "predicate", "replicas", "times", "values")

    def __init__(self, predicate: str) -> None:
        self.predicate = predicate
        self.values: list[Any] = []
        self.times = array("q")  # of slot ""; -1: never written
        self.replicas = array("I")
        self.cells: dict[int, _Cell] = {}
        self.index: dict[Any, set[int]] | None = None
        self.live = 0  # visible triples

    def grow(self, rows: int) -> None:
        missing = rows - len(self.values)
        if missing > 0:
            self.values.extend([ABSENT] * missing)
            self.times.extend([-1] * missing)
            self.replicas.extend([0] * missing)

    def visible(self, row: int) -> tuple[Value, ...]:
        if row >= len(self.values):
            return ()
        value = self.values[row]
        if value is not ABSENT:
            return (value,)
        cell = self.cells.get(row)
        return () if cell is None else cell.visible


class _Table:
    """One kind: the rows of its entities and the columns of its predicates."""

    __slots__ = ("columns", "entities", "row_of")

    def __init__(self) -> None:
        self.row_of: dict[int, int] = {}
        self.entities = array("I")  # row -> entity number
        self.columns: dict[str, _Column] = {}


def total(shares: Iterable[Value]) -> Value:
    """The sum of a counter's shares: exact, so that it does not depend on their order."""
    numbers: list[Any] = [share for share in shares if kind(share) == "n"]
    if any(type(n) is float for n in numbers):
        return fsum(numbers)
    return int(sum(numbers))


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
        self._tables: dict[str, _Table] = {}
        self._graves: dict[str, Stamp] = {}
        self._kept: list[tuple[Key, Change | None]] | None = None  # registers as they were, while recording

    # -- merging -----------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], fates: list[Fate | None] | None = None) -> Delta:
        """Merges changes; returns what became of the visible triples.

        `fates`, if given, gets one entry a change: None where it stands, else (reason, time, replica) of what
        beat it, the reason being `deleted`, `newer` or `reset`. A change that is there already stands.
        """
        touched: dict[tuple[str, str], tuple[Value, ...]] = {}
        for change in changes:
            fate = self._merge(change, touched)
            if fates is not None:
                fates.append(fate)
        return self._settle(touched)

    def put(
        self, changes: Iterable[Change] = (), drop: Iterable[Key] = (), revive: Iterable[str] = ()
    ) -> Delta:
        """Sets registers whatever their stamps, drops others, takes entities out of the graveyard.

        For what is not a merge: undoing, re-stamping, forgetting. Only what is revived comes back from the graveyard.
        """
        touched: dict[tuple[str, str], tuple[Value, ...]] = {}
        for subject in revive:
            self._keep((subject, DELETED, SINGLE))
            self._graves.pop(subject, None)
        for key in drop:
            if key[1] != DELETED and self.register(key) is not None:
                self._write(key, ABSENT, _NEVER, touched)
        for change in changes:
            if change.predicate == DELETED:
                self._bury(change, touched)
            elif change.subject not in self._graves:
                self._write(
                    change.key, ABSENT if change.value is None else change.value, change.stamp, touched
                )
        return self._settle(touched)

    def record(self) -> list[tuple[Key, Change | None]]:
        """Starts keeping the registers that are about to be overwritten; returns the growing list."""
        self._kept = []
        return self._kept

    def stop(self) -> None:
        """Ends `record`."""
        self._kept = None

    def undo(self, kept: Sequence[tuple[Key, Change | None]]) -> Delta:
        """Sets registers back to what `record` kept, the oldest word on each register last."""
        deltas = []
        for key, change in reversed(kept):
            if change is not None:
                deltas.append(self.put([change]))
            elif key[1] == DELETED:
                deltas.append(self.put(revive=[key[0]]))
            else:
                deltas.append(self.put(drop=[key]))
        return net(deltas)

    def _merge(self, change: Change, touched: dict[tuple[str, str], tuple[Value, ...]]) -> Fate | None:
        subject, predicate, place, value, time, replica = change
        grave = self._graves.get(subject) if self._graves else None
        if predicate == DELETED:
            if grave is None or grave < (time, replica):
                self._bury(change, touched)
            return None
        if grave is not None:
            return ("deleted", *grave)
        key = (subject, predicate, place)
        old = self._stamp(key)
        if (time, replica) <= old:
            if old != (time, replica):
                return ("newer", *old)
            current = self.register(key)
            if current is None or not outranks(value, current.value):
                same = current is not None and not outranks(current.value, value)
                return None if same else ("newer", *old)
        self._write(key, ABSENT if value is None else value, (time, replica), touched)
        if place[:2] != COUNTER:
            floor = self.floor(subject, predicate)
            if (time, replica) < floor:
                return ("reset", *floor)
        return None

    def _write(
        self, key: Key, value: Any, stamp: Stamp, touched: dict[tuple[str, str], tuple[Value, ...]]
    ) -> None:
        """Sets one register, whatever it was; stamp _NEVER drops it."""
        subject, predicate, place = key
        if self._kept is not None:
            self._keep(key)
        _, row, column = self._place(subject, predicate)
        pair = (subject, predicate)
        cell = column.cells.get(row) if column.cells else None
        if pair not in touched:
            touched[pair] = column.visible(row)
        if place != SINGLE and cell is None:
            cell = column.cells[row] = _Cell(column.values[row])
            column.values[row] = ABSENT
        if cell is None:
            column.values[row] = value
            column.times[row] = stamp[0]
            column.replicas[row] = self._replica_number(stamp[1])
            return
        if place == SINGLE:
            cell.single = value
            column.times[row] = stamp[0]
            column.replicas[row] = self._replica_number(stamp[1])
        elif place == RESET:
            cell.marker = stamp
        else:
            slots = cell.shares if place[:2] == COUNTER else cell.members
            if stamp == _NEVER:
                slots.pop(place, None)
            else:
                slots[place] = (None if value is ABSENT else value, *stamp)
        cell.visible = self._see(cell, self._single_stamp(column, row))

    def _bury(self, change: Change, touched: dict[tuple[str, str], tuple[Value, ...]]) -> None:
        subject = change.subject
        for register in list(self.registers_of(subject)):
            if register.predicate != DELETED:
                self._write(register.key, ABSENT, _NEVER, touched)
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
            self._kept.append((key, self.register(key)))

    def _settle(self, touched: dict[tuple[str, str], tuple[Value, ...]]) -> Delta:
        """Compares what was visible with what is; keeps counts and reverse indexes right."""
        delta = Delta()
        for (subject, predicate), before in touched.items():
            _, row, column = self._place(subject, predicate)
            after = column.visible(row)
            if before == after and all(type(a) is type(b) for a, b in zip(before, after, strict=True)):
                continue
            gone, come = before, after
            if len(before) > 1 or len(after) > 1:
                old = {(slot(v), type(v)): v for v in before}
                new = {(slot(v), type(v)): v for v in after}
                gone = tuple(v for k, v in old.items() if k not in new)
                come = tuple(v for k, v in new.items() if k not in old)
            column.live += len(come) - len(gone)
            index = column.index
            if index is not None:
                # "a" and Ref("a") share a key: it goes when the last of them goes
                keys = {index_key(value) for value in after}
                for key in {index_key(value) for value in gone} - keys:
                    rows = index[key]
                    rows.discard(row)
                    if not rows:
                        del index[key]
                for key in keys:
                    index.setdefault(key, set()).add(row)
            delta.removed.extend((subject, predicate, v) for v in gone)
            delta.added.extend((subject, predicate, v) for v in come)
        return delta

    # -- places ------------------------------------------------------------------------------------------------

    def _place(self, subject: str, predicate: str) -> tuple[_Table, int, _Column]:
        """The cell of a (subject, predicate), made if need be."""
        number = self._numbers.get(subject)
        if number is None:
            number = self._numbers[subject] = len(self._names)
            self._names.append(subject)
        group = kind_of(predicate)
        table = self._tables.get(group)
        if table is None:
            table = self._tables[group] = _Table()
        row = table.row_of.get(number)
        if row is None:
            row = table.row_of[number] = len(table.entities)
            table.entities.append(number)
        column = table.columns.get(predicate)
        if column is None:
            column = table.columns[predicate] = _Column(predicate)
        if row >= len(column.values):
            column.grow(row + 1)
        return table, row, column

    def _find(self, subject: str, predicate: str) -> tuple[_Column, int] | None:
        """The cell of a (subject, predicate), if there is one."""
        number = self._numbers.get(subject)
        table = self._tables.get(kind_of(predicate))
        if number is None or table is None:
            return None
        row = table.row_of.get(number)
        column = table.columns.get(predicate)
        if row is None or column is None or row >= len(column.values):
            return None
        return column, row

    def _replica_number(self, replica: str) -> int:
        number = self._replica_numbers.get(replica)
        if number is None:
            number = self._replica_numbers[replica] = len(self._replicas)
            self._replicas.append(replica)
        return number

    def _single_stamp(self, column: _Column, row: int) -> Stamp:
        time = column.times[row]
        return _NEVER if time < 0 else (time, self._replicas[column.replicas[row]])

    def _see(self, cell: _Cell, single: Stamp) -> tuple[Value, ...]:
        """What is visible in a cell, sorted."""
        floor = max(single, cell.marker)
        shown: dict[str, Value] = {}
        if cell.single is not ABSENT and single >= cell.marker:
            shown[slot(cell.single)] = cell.single
        for place, (value, time, replica) in cell.members.items():
            if value is not None and (time, replica) >= floor:
                shown[place] = value
        shares = [value for value, _, _ in cell.shares.values() if value is not None]
        if shares:
            beside = [v for v in shown.values() if kind(v) == "n"]
            shown = {place: v for place, v in shown.items() if kind(v) != "n"}
            count = total(shares + beside)
            shown[slot(count)] = count
        return tuple(sorted(shown.values(), key=_visible_order))

    # -- registers ---------------------------------------------------------------------------------------------

    def _stamp(self, key: Key) -> Stamp:
        """The stamp of a register, _NEVER if there is none."""
        found = self._find(key[0], key[1])
        if found is None:
            return _NEVER
        column, row = found
        place = key[2]
        if place == SINGLE:
            return self._single_stamp(column, row)
        cell = column.cells.get(row)
        if cell is None:
            return _NEVER
        if place == RESET:
            return cell.marker
        held = (cell.shares if place[:2] == COUNTER else cell.members).get(place)
        return _NEVER if held is None else held[1:]

    def register(self, key: Key) -> Change | None:
        """The register at (subject, predicate, slot), None if it was never set."""
        if key[1] == DELETED:
            grave = self._graves.get(key[0])
            return None if grave is None else Change(key[0], DELETED, SINGLE, True, *grave)
        stamp = self._stamp(key)
        if stamp == _NEVER:
            return None
        found = self._find(key[0], key[1])
        assert found is not None
        column, row = found
        cell = column.cells.get(row)
        if key[2] == SINGLE:
            value = column.values[row] if cell is None else cell.single
        elif key[2] == RESET:
            value = ABSENT
        else:
            assert cell is not None
            value = (cell.shares if key[2][:2] == COUNTER else cell.members)[key[2]][0]
        return Change(*key, None if value is ABSENT else value, *stamp)

    def floor(self, subject: str, predicate: str) -> Stamp:
        """The stamp below which the members and the single value of a (subject, predicate) are hidden."""
        return max(self._stamp((subject, predicate, SINGLE)), self._stamp((subject, predicate, RESET)))

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

    def _registers_at(self, subject: str, column: _Column, row: int) -> list[Change]:
        predicate = column.predicate
        cell = column.cells.get(row)
        single = column.values[row] if cell is None else cell.single
        out = []
        if column.times[row] >= 0:
            stamp = self._single_stamp(column, row)
            out.append(Change(subject, predicate, SINGLE, None if single is ABSENT else single, *stamp))
        if cell is not None:
            if cell.marker != _NEVER:
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
        return sorted(
            name for table in self._tables.values() for name, column in table.columns.items() if column.live
        )

    def count(self, predicate: str) -> int:
        """How many visible triples a predicate has."""
        column = self._column(predicate)
        return 0 if column is None else column.live

    def scan(self, predicate: str) -> Iterator[tuple[str, Value]]:
        """Every (subject, value) of a predicate."""
        table = self._tables.get(kind_of(predicate))
        column = None if table is None else table.columns.get(predicate)
        if table is not None and column is not None:
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
        table = self._tables.get(kind_of(predicate))
        column = None if table is None else table.columns.get(predicate)
        if table is None or column is None:
            return []
        if column.index is None:
            index: dict[Any, set[int]] = {}
            for row in range(len(column.values)):
                for held in column.visible(row):
                    index.setdefault(index_key(held), set()).add(row)
            column.index = index
        rows = column.index.get(index_key(value), ())
        return [self._names[table.entities[row]] for row in sorted(rows)]

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

    def _column(self, predicate: str) -> _Column | None:
        table = self._tables.get(kind_of(predicate))
        return None if table is None else table.columns.get(predicate)

    def view(self, predicates: frozenset[str] | None = None) -> View:
        """An immutable copy of some predicates (None: of all), for evaluating while the store goes on."""
        names = sorted(predicates) if predicates is not None else self.predicates()
        columns: Columns = {}
        for name in names:
            table = self._tables.get(kind_of(name))
            column = None if table is None else table.columns.get(name)
            if table is not None and column is not None and column.live:
                cells = {row: cell.visible for row, cell in column.cells.items() if cell.visible}
                columns[name] = (table.entities, column.values.copy(), cells)
        return View(self._names, columns)


def _visible_order(value: Value) -> tuple[Any, ...]:
    return (*sort_key(value), kind(value))
