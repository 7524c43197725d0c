"""A local transaction: many writes, one stamp, at most one change a slot; or, after an exception, nothing at all.

Writes go into the store at once, so that the transaction's own reads see them; the store records what they replace.
Two lists come out: `changes`, the transaction as it travels (increments of counters as such, slot `c:`), and
`registers`, what now stands in the store (the share's new total, slot `c:REPLICA`).

Netting: a later write of the same slot replaces the earlier one; assigning a single value takes back what the
transaction wrote to members of the field, and the other way round, so that nothing of one stamp hides or shows
something else of the same stamp by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any

from tripleweb.blocks import Block, Changes, Sets, Singles
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.errors import DeletedError
from tripleweb.kept import Kept, NothingHeld
from tripleweb.store import Delta, Store, net
from tripleweb.tables import Column
from tripleweb.terms import Value, normalise, slot
from tripleweb.view import ABSENT


class Transaction:
    """Writes with one stamp (`time`, `replica`) into `store`.

    >>> store = Store()
    >>> tx = Transaction(store, 1, "a")
    >>> tx.set("ada", "user/age", 36)
    >>> tx.set("ada", "user/age", 37)
    >>> tx.commit().added, len(tx.changes)
    ([('ada', 'user/age', 37)], 1)
    """

    def __init__(self, store: Store, time: int, replica: str) -> None:
        self.store = store
        self.time = time
        self.replica = replica
        self._changes: dict[Key, Change] = {}
        # of `set_columns` and `assign_column`, as long as nothing else was written to their predicates
        self._blocks: list[Block] = []
        self._in_blocks: set[str] = set()  # these predicates
        # single values written where nothing else is, since anything else was written: their places, and the value,
        # time and replica that stood there
        self._singles: dict[Key, tuple[Column, int, Any, int, int]] = {}
        self._number = store.replica_number(replica)
        # field -> the slots written in it but "" and "c:"
        self._members: dict[tuple[str, str], list[str]] = {}
        self._deltas: list[Delta] = []
        self._has_counted = False
        self._kept = store.record()

    def check(self, subject: str) -> None:
        """Raises `DeletedError` if the entity was deleted."""
        if self.store.deleted(subject) is not None:
            raise DeletedError(f"{subject!r} was deleted; deletes are for ever: write to a new id")

    # -- writing -----------------------------------------------------------------------------------------------

    def set(self, subject: str, predicate: str, value: Value | None) -> None:
        """Assigns the single value of a field; None removes everything that is there."""
        if value is not None and self.is_plain:
            self.check(subject)
            column, row = self.store.place(subject, predicate)
            if not column.cells or row not in column.cells:
                self.set_at(subject, predicate, column, row, value)
                return
        self._take_back_members(subject, predicate)
        self._write(Change(subject, predicate, SINGLE, value, self.time, self.replica))

    @property
    def is_plain(self) -> bool:
        """True if `set_at` may be called: it does not keep the order with what `set_columns` wrote."""
        return not self._blocks

    def set_at(self, subject: str, predicate: str, column: Column, row: int, value: Value) -> None:
        """What `set` does, for an entity that was not deleted, in its row of the predicate's column, where it has no
        cell. Without a reverse index nothing interrupts it."""
        key, before = (subject, predicate, SINGLE), None
        if key not in self._singles:
            before = column, row, column.values[row], column.times[row], column.replicas[row]
        column.assign(row, value, self.time, self._number)
        if before is not None:
            self._singles[key] = before

    def set_columns(
        self,
        subjects: Sequence[str],
        columns: Iterable[tuple[str, Sequence[Value | None]]],
        told: Callable[[], object] = lambda: None,
    ) -> None:
        """Assigns many single values at once: `columns` are predicates with a cell for each of the `subjects`, which
        differ; None leaves alone what is there. `told` is called after each column."""
        self._check_all(subjects)
        columns = list(columns)
        for predicate, _ in columns:
            self._fold_if(predicate)
        for predicate, cells in columns if self._members else ():
            for subject, value in zip(subjects, cells, strict=True):
                if value is not None:
                    self._take_back_members(subject, predicate)
        blocks: list[Block] = []
        for predicate, cells in columns:
            some, values = subjects, cells
            if None in cells:
                given = [value is not None for value in cells]
                some, values = list(compress(subjects, given)), list(compress(cells, given))
            blocks.append(Singles(predicate, some, values, self.time, self.replica))  # type: ignore[arg-type]
        self._note(blocks)

        def one_by_one() -> Iterator[tuple[str, Sequence[Value | None]]]:
            for column in columns:
                yield column
                told()

        self._deltas.append(self.store.put_columns(subjects, one_by_one(), (self.time, self.replica)))

    def assign_column(
        self, subjects: Sequence[str], predicate: str, sets: Sequence[Sequence[Value] | None]
    ) -> None:
        """Assigns the whole sets of a many-valued field of many entities, which differ; each set is sorted and without
        repetition. None leaves alone what is there."""
        self._check_all(subjects)
        self._fold_if(predicate)
        fresh = self.store.untouched(predicate, subjects)
        end = self.time, self.replica
        first: dict[str, tuple[Value, ...]] = {}
        again: dict[str, tuple[Value, ...]] = {}
        for subject, values, is_fresh in zip(subjects, sets, fresh, strict=True):
            if values is None:
                continue
            members = tuple(values)
            if is_fresh:
                first[subject] = members
            elif self.store.renew_set(predicate, subject, members, end):
                again[subject] = members
            else:
                self.assign(subject, predicate, values)
        # one list of subjects for all columns, where that is so
        given = subjects if len(first) == len(subjects) else list(first)
        blocks: list[Block] = [Sets(predicate, given, list(first.values()), *end)]
        self._note([*blocks, Sets(predicate, list(again), list(again.values()), *end)])
        if first:
            self._deltas.append(self.store.put_sets(predicate, given, list(first.values()), end))

    def _check_all(self, subjects: Sequence[str]) -> None:
        for subject in subjects if self.store.has_graves else ():
            self.check(subject)

    def _note(self, blocks: list[Block]) -> None:
        """Takes note of what is about to be written at once."""
        self._fold_singles()
        predicates = {block.predicate for block in blocks}
        is_apart = not (self._in_blocks & predicates)
        if self._changes and is_apart:
            is_apart = predicates.isdisjoint(key[1] for key in self._changes)
        if not is_apart:
            self._fold()
        self._blocks += [block for block in blocks if len(block)]
        self._in_blocks |= predicates
        if not is_apart:
            self._fold()

    def assign(self, subject: str, predicate: str, values: Iterable[Value]) -> None:
        """Assigns the whole set of a many-valued field."""
        self._fold_if(predicate)
        self._take_back_members(subject, predicate)
        if (subject, predicate, SINGLE) in self._changes:
            self._take_back((subject, predicate, SINGLE))
        self._write(Change(subject, predicate, RESET, None, self.time, self.replica))
        for value in values:
            self.add(subject, predicate, value)

    def add(self, subject: str, predicate: str, value: Value) -> None:
        """Adds one member."""
        self._write(Change(subject, predicate, slot(value), value, self.time, self.replica))

    def remove(self, subject: str, predicate: str, value: Value) -> None:
        """Removes one member. Where it stands as the single value, the others are assigned anew: a tombstone of
        the single value would hide them."""
        place = slot(value)
        single = self.store.register((subject, predicate, SINGLE))
        if single is not None and single.value is not None and slot(single.value) == place:
            visible = self.store.values(subject, predicate)
            self.assign(subject, predicate, [other for other in visible if slot(other) != place])
        else:
            self._write(Change(subject, predicate, place, None, self.time, self.replica))

    def increment(self, subject: str, predicate: str, amount: int | float) -> None:
        """Counts `amount` (of either sign) in this replica's share of a counter."""
        self.check(subject)
        self._fold_if(predicate)
        counted, standing = self.counted(subject, predicate, amount)
        self._changes[counted.key] = counted
        self._has_counted = True
        self._deltas.append(self.store.put([standing]))

    def counted(self, subject: str, predicate: str, amount: int | float) -> tuple[Change, Change]:
        """What `increment` would write: the increment as it travels, and the share as it then stands. Raises
        `ValueError` where either is no number that can be stored, for then nobody would take the transaction."""
        share = self.store.register((subject, predicate, COUNTER + self.replica))
        earlier = self._changes.get((subject, predicate, COUNTER))
        values = [
            normalise(amount if held is None or held.value is None else held.value + amount)  # type: ignore[operator]
            for held in (earlier, share)
        ]
        return (
            Change(subject, predicate, COUNTER, values[0], self.time, self.replica),
            Change(subject, predicate, COUNTER + self.replica, values[1], self.time, self.replica),
        )

    def delete(self, subject: str) -> None:
        """Deletes an entity, every kind of it, for ever."""
        self.check(subject)
        self._fold()
        for key in [key for key in self._changes if key[0] == subject]:
            del self._changes[key]
            self._members.pop(key[:2], None)
        self._write(Change(subject, DELETED, SINGLE, True, self.time, self.replica))

    # -- ending ------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> Sequence[Change]:
        """What was written, netted, as it travels; what was written at once comes last."""
        self._fold_singles()
        loose = list(self._changes.values())
        return Changes([loose, *self._blocks]) if self._blocks else loose

    def registers(self) -> Sequence[Change]:
        """What now stands in the store because of this transaction."""
        changes = self.changes
        if not self._has_counted:
            return changes
        out = []
        for change in changes.loose if isinstance(changes, Changes) else changes:
            if change.slot == COUNTER:
                share = self.store.register((change.subject, change.predicate, COUNTER + self.replica))
                assert share is not None
                out.append(share)
            else:
                out.append(change)
        return Changes([out, *self._blocks]) if self._blocks else out

    @property
    def replaced(self) -> Kept:
        """The registers that stood where this transaction wrote."""
        self._fold_singles()
        return self._kept

    @property
    def fresh(self) -> int:
        """How many registers were written at once where nothing had ever been."""
        return sum(len(segment) for segment in self._kept.segments if isinstance(segment, NothingHeld))

    def commit(self) -> Delta:
        """Ends the transaction; returns what it changed."""
        self._fold_singles()
        self.store.stop()
        return net(self._deltas)

    def rollback(self) -> None:
        """Ends the transaction; leaves no trace of it."""
        self._fold_singles()
        self.store.stop()
        self.store.undo(self._kept)

    def _write(self, change: Change) -> None:
        self.check(change.subject)
        self._fold_if(change.predicate)
        self._deltas.append(self.store.put((change,)))
        key = change[:3]
        if change.slot != SINGLE and key not in self._changes:
            self._members.setdefault(key[:2], []).append(change.slot)
        self._changes[key] = change

    def _fold_if(self, predicate: str) -> None:
        """What was written before one writes to a predicate, by something else than `set_at`."""
        self._fold_singles()
        if predicate in self._in_blocks or (self._blocks and predicate == DELETED):
            self._fold()

    def _fold(self) -> None:
        """What was written at once becomes like everything else, for something else follows."""
        self._fold_singles()
        for block in self._blocks:
            for change in block.changes():
                key = change[:3]
                if key[2] != SINGLE and key not in self._changes:
                    self._members.setdefault(key[:2], []).append(key[2])
                self._changes[key] = change
        self._blocks = []
        self._in_blocks = set()

    def _fold_singles(self) -> None:
        if not self._singles:
            return
        time, replica, names = self.time, self.replica, self.store.replicas
        ones, changes, delta = self._kept.ones(), self._changes, Delta()
        new, removed, added = tuple.__new__, delta.removed, delta.added
        for key, (column, row, old, was, by) in self._singles.items():
            subject, predicate, _ = key
            value = column.values[row]
            if key not in ones:
                held = None if old is ABSENT else old
                ones[key] = None if was < 0 else new(Change, (*key, held, was, names[by]))
            changes[key] = new(Change, (*key, value, time, replica))
            if old is ABSENT:
                added.append((subject, predicate, value))
            elif type(old) is not type(value) or old != value:
                removed.append((subject, predicate, old))
                added.append((subject, predicate, value))
        self._singles = {}
        self._deltas.append(delta)

    def _take_back_members(self, subject: str, predicate: str) -> None:
        if self._members:
            for place in self._members.pop((subject, predicate), ()):
                self._take_back((subject, predicate, place))

    def _take_back(self, key: Key) -> None:
        """Sets a register that this transaction wrote back to what was there."""
        del self._changes[key]
        before = self._kept.before(key)
        self._deltas.append(self.store.put([before]) if before is not None else self.store.put(drop=[key]))
