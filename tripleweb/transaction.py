"""A local transaction: many writes, one stamp, at most one change a slot; or, after an exception, nothing at all.

Writes go into the store at once, so that the transaction's own reads see them; the store records what they replace.
Two lists come out: `changes`, the transaction as it travels (increments of counters as such, slot `c:`), and
`registers`, what now stands in the store (the share's new total, slot `c:REPLICA`).

Netting: a later write of the same slot replaces the earlier one; assigning a single value takes back what the
transaction wrote to members of the field, and the other way round, so that nothing of one stamp hides or shows
something else of the same stamp by accident.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.errors import DeletedError
from tripleweb.store import Delta, Store, net
from tripleweb.tables import Column, Kept
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
        self._columns: list[Change] = []  # of `set_columns`, as long as nothing else was written
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
        return not self._columns

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
        self, subjects: Sequence[str], columns: Iterable[tuple[str, Sequence[Value | None]]]
    ) -> None:
        """Assigns many single values at once: `columns` are predicates with a cell for each of the `subjects`, which
        differ; None leaves alone what is there."""
        for subject in subjects:
            self.check(subject)
        columns = list(columns)
        self._fold_singles()
        if self._members:
            for predicate, cells in columns:
                for subject, value in zip(subjects, cells, strict=True):
                    if value is not None:
                        self._take_back_members(subject, predicate)
        first = not (self._changes or self._columns)
        new, end = tuple.__new__, (self.time, self.replica)
        for predicate, cells in columns:
            self._columns += [
                new(Change, (subject, predicate, SINGLE, value, *end))
                for subject, value in zip(subjects, cells, strict=True)
                if value is not None
            ]
        if not first:
            self._fold()
        self._deltas.append(self.store.put_columns(subjects, columns, end))

    def assign(self, subject: str, predicate: str, values: Iterable[Value]) -> None:
        """Assigns the whole set of a many-valued field."""
        self._fold()
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
        self._fold()
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
    def changes(self) -> list[Change]:
        """What was written, netted, as it travels."""
        self._fold_singles()
        return self._columns or list(self._changes.values())

    def registers(self) -> list[Change]:
        """What now stands in the store because of this transaction."""
        changes = self.changes
        if not self._has_counted:
            return changes
        out = []
        for change in changes:
            if change.slot == COUNTER:
                share = self.store.register((change.subject, change.predicate, COUNTER + self.replica))
                assert share is not None
                out.append(share)
            else:
                out.append(change)
        return out

    @property
    def replaced(self) -> Kept:
        """The registers that stood where this transaction wrote."""
        self._fold_singles()
        return self._kept

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
        self._fold()
        self._deltas.append(self.store.put((change,)))
        key = change[:3]
        if change.slot != SINGLE and key not in self._changes:
            self._members.setdefault(key[:2], []).append(change.slot)
        self._changes[key] = change

    def _fold(self) -> None:
        """What `set_columns` and `set_at` wrote becomes like everything else, for something else follows."""
        self._fold_singles()
        if self._columns:
            self._changes.update([(change[:3], change) for change in self._columns])
            self._columns = []

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
