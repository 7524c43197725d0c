"""A local transaction: many writes, one stamp, at most one change a slot; or, after an exception, nothing at all.

Writes go into the store at once, so that the transaction's own reads see them; the store records what they replace.
Two lists come out: `changes`, the transaction as it travels (increments of counters as such, slot `c:`), and
`registers`, what now stands in the store (the share's new total, slot `c:REPLICA`).

Netting: a later write of the same slot replaces the earlier one; assigning a single value takes back what the
transaction wrote to members of the field, and the other way round, so that nothing of one stamp hides or shows
something else of the same stamp by accident.
"""

from __future__ import annotations

from collections.abc import Iterable

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.errors import DeletedError
from tripleweb.store import Delta, Store, net
from tripleweb.terms import Value, slot


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
        self._places: dict[tuple[str, str], list[str]] = {}  # field -> the slots written in it, counters apart
        self._deltas: list[Delta] = []
        self._kept = store.record()

    # -- writing -----------------------------------------------------------------------------------------------

    def set(self, subject: str, predicate: str, value: Value | None) -> None:
        """Assigns the single value of a field; None removes everything that is there."""
        self._take_back(subject, predicate, members=True)
        self._write(Change(subject, predicate, SINGLE, value, self.time, self.replica))

    def assign(self, subject: str, predicate: str, values: Iterable[Value]) -> None:
        """Assigns the whole set of a many-valued field."""
        self._take_back(subject, predicate, members=True)
        self._take_back(subject, predicate, members=False)
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
        self._check(subject)
        key = (subject, predicate, COUNTER)
        share = (subject, predicate, COUNTER + self.replica)
        held = self.store.register(share)
        before = held.value if held is not None and held.value is not None else 0
        counted = self._changes.get(key)
        so_far = counted.value if counted is not None else 0
        self._changes[key] = Change(*key, so_far + amount, self.time, self.replica)  # type: ignore[operator]
        self._deltas.append(
            self.store.put([Change(*share, before + amount, self.time, self.replica)])  # type: ignore[operator]
        )

    def delete(self, subject: str) -> None:
        """Deletes an entity, every kind of it, for ever."""
        self._check(subject)
        for key in [key for key in self._changes if key[0] == subject]:
            del self._changes[key]
            self._places.pop(key[:2], None)
        self._write(Change(subject, DELETED, SINGLE, True, self.time, self.replica))

    # -- ending ------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> list[Change]:
        """What was written, netted, as it travels."""
        return list(self._changes.values())

    def registers(self) -> list[Change]:
        """What now stands in the store because of this transaction."""
        out = []
        for key, change in self._changes.items():
            if key[2] == COUNTER:
                share = self.store.register((key[0], key[1], COUNTER + self.replica))
                assert share is not None
                out.append(share)
            else:
                out.append(change)
        return out

    def commit(self) -> Delta:
        """Ends the transaction; returns what it changed."""
        self.store.stop()
        return net(self._deltas)

    def rollback(self) -> None:
        """Ends the transaction; leaves no trace of it."""
        self.store.stop()
        self.store.undo(self._kept)

    def _check(self, subject: str) -> None:
        if self.store.deleted(subject) is not None:
            raise DeletedError(f"{subject!r} was deleted; deletes are for ever: write to a new id")

    def _write(self, change: Change) -> None:
        self._check(change.subject)
        self._deltas.append(self.store.put([change]))
        if change.key not in self._changes:
            self._places.setdefault(change.key[:2], []).append(change.slot)
        self._changes[change.key] = change

    def _take_back(self, subject: str, predicate: str, *, members: bool) -> None:
        """Sets what this transaction wrote to a field's members (or single value) back to what was there."""
        places = self._places.get((subject, predicate))
        if not places:
            return
        taken = [place for place in places if (place != SINGLE) == members]
        self._places[subject, predicate] = [place for place in places if (place != SINGLE) != members]
        for place in taken:
            key = (subject, predicate, place)
            del self._changes[key]
            before = next(old for kept, old in self._kept if kept == key)
            self._deltas.append(
                self.store.put([before]) if before is not None else self.store.put(drop=[key])
            )
