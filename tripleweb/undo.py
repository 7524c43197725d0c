"""Taking back what a session wrote: its last transactions as deeds, and the transaction that undoes one.

A deed is taken back where its values still stand, that is where the register that it wrote still has its stamp and
is not hidden by a later assignment. What others have written since is left alone, and so is what they deleted; what
was left alone is told, value by value, with the reason:

    newer      somebody has written it since          deleted    the entity was deleted, by the deed or since
    reset      the whole set was assigned since       rejected   the server did not take it: it is not there
    limits     a counter cannot count that far           counter    a number beside what was counted: it is in the sum
    unseen     it was written over so much that had not been loaded that the server could not tell it

What this session has undone (and redone) since counts for nothing: a register that it wrote stands for the one that
it replaced. So one can go back step by step, and forth again.

A single value comes back as it was before the deed. Sets go back element by element, so that what others added
stays. Counters count back, whatever they have come to. Deletes are for ever.

Invariants: taking back is a transaction like every other, with a new stamp, and itself a deed (which `redo` takes
back); no more than `DEEDS_MAX` deeds are remembered, nor more than `CHANGES_MAX` changes besides the last deed's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from tripleweb.blocks import Changes, in_blocks
from tripleweb.cells import NEVER
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.clock import Stamp
from tripleweb.errors import TriplewebError
from tripleweb.kept import Kept
from tripleweb.store import Delta, Triple, change_of
from tripleweb.terms import Value, kind, slot
from tripleweb.transaction import Transaction
from tripleweb.view import ABSENT

DEEDS_MAX = 100
NOTES_MAX = 2 * DEEDS_MAX
CHANGES_MAX = 100_000
COLUMNS_MIN = 1_000


class Left(NamedTuple):
    """One value that was left alone: what the deed wrote, or removed."""

    subject: str
    predicate: str
    value: Value | None
    reason: str


# A transaction that wrote one single value: subject, predicate, value, time, replica; then the value, the time and the
# replica's number that stood there
Note = tuple[str, str, Value, int, str, Any, int, int]


class Written(Protocol):
    """What a `Deed` is made of: a `Transaction`, or what a `Note` stands for."""

    time: int
    replica: str

    @property
    def changes(self) -> Sequence[Change]: ...

    @property
    def replaced(self) -> Kept: ...


class Deed:
    """What one transaction did: the slots it wrote, with their values, and the triples that went.

    `id` is that of the transaction in the outbox ("" without a server); `stamps` are the ones it had, the present one
    last. `check` is what the server was asked before it took this, or what this took back (None: nothing): what is
    redone is asked again. `replaced` are the registers that stood where it wrote, `instead` those that the server had
    there when it rejected it (None: there is none, or all of them are unknown).
    """

    __slots__ = (
        "_changes",
        "_delta",
        "_idle",
        "_size",
        "_stood",
        "check",
        "id",
        "instead",
        "rejected",
        "replaced",
        "stamps",
        "unseen",
    )

    def __init__(self, id: str, tx: Written, delta: Delta, check: Any = None) -> None:
        self.id = id
        self.check = check
        self.stamps: list[Stamp] = [(tx.time, tx.replica)]
        self.rejected = False
        self.instead: dict[Key, Change | None] | None = None
        self.unseen = False  # what it wrote over is known to nobody here
        self._stood: dict[tuple[str, str, type, str], Triple] = {}
        self.replaced = tx.replaced
        changes = tx.changes
        self._size = len(changes)
        self._changes: Sequence[Change] | _Columns = changes
        self._delta = delta
        self._idle: set[Key] | None = None
        if (
            isinstance(changes, Changes) or self._size > COLUMNS_MIN
        ):  # by columns it takes a fifth of the room
            self._idle = _without_effect(changes, delta)
            if not isinstance(changes, Changes):
                self._changes = _Columns([c[:4] for c in changes])
            self._delta = Delta(delta.removed)

    def __len__(self) -> int:
        return self._size

    @property
    def gone(self) -> list[Triple]:
        """The triples that went. Where a single value was written the server's word counts, if it has said something:
        what stood here may have been written over by then."""
        if not self._stood:
            return self._delta.removed
        written, singles = set(), set()
        for s, p, place, v, _ in self.changes():
            if v is not None:
                written.add(_said(s, p, v))
            if place == SINGLE:
                singles.add((s, p))
        told = {said[:2] for said in self._stood} & singles
        here = [triple for triple in self._delta.removed if triple[:2] not in told]
        known = {_said(*triple) for triple in here} | written
        return [*here, *(triple for said, triple in self._stood.items() if said not in known)]

    def learn(self, stood: Iterable[Triple]) -> None:
        """What stood where it wrote, at places of which nothing was here."""
        self._stood = {_said(*triple): triple for triple in stood}

    def changes(self) -> Iterator[tuple[str, str, str, Value | None, bool]]:
        """(subject, predicate, slot, value, whether the triple came with it)."""
        idle = self._idle
        if idle is None:
            assert not isinstance(self._changes, _Columns)
            idle = _without_effect(self._changes, self._delta)
        rows: Iterable[tuple[Any, ...]]
        rows = self._changes.rows() if isinstance(self._changes, _Columns) else self._changes
        for subject, predicate, place, value, *_ in rows:
            is_idle = (subject, predicate, place) in idle
            if self._stood and value is not None:
                is_idle = is_idle or _said(subject, predicate, value) in self._stood
            yield subject, predicate, place, value, value is not None and place != COUNTER and not is_idle


class _Single:
    """A transaction that wrote one single value, from its note. `replicas` are the names of replicas by number."""

    def __init__(self, note: Note, replicas: Sequence[str]) -> None:
        subject, predicate, value, self.time, self.replica, old, was, by = note
        self.changes: Sequence[Change] = [Change(subject, predicate, SINGLE, value, self.time, self.replica)]
        self.replaced, self.delta = Kept(), change_of(subject, predicate, old, value)
        before = None
        if was >= 0:
            held = None if old is ABSENT else old
            before = Change(subject, predicate, SINGLE, held, was, replicas[by])
        self.replaced.ones()[subject, predicate, SINGLE] = before


class _Columns:
    """Rows, column by column."""

    __slots__ = ("_columns",)

    def __init__(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._columns = [list(map(itemgetter(i), rows)) for i in range(len(rows[0]))]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self._columns, strict=True)


def _said(subject: str, predicate: str, value: Value) -> tuple[str, str, type, str]:
    """A triple, so that it is equal to those that say the same."""
    return subject, predicate, type(value), slot(value)


def _without_effect(changes: Sequence[Change], delta: Delta) -> set[Key]:
    """The registers that were set to what was visible there already."""
    if isinstance(changes, Changes):
        loose = sum(c.value is not None and c.predicate != DELETED for c in changes.loose)
        if loose + in_blocks(changes.blocks) == delta.come:
            return set()
    valued = [c for c in changes if c.value is not None and c.predicate != DELETED]
    if len(valued) == len(delta.added):
        return set()
    came: set[Any] = {(s, p, type(v), slot(v)) for s, p, v in delta.added}
    values = [(change, change.value) for change in valued if change.value is not None]
    return {c[:3] for c, v in values if (c.subject, c.predicate, type(v), slot(v)) not in came}


class Deeds:
    """The deeds of a session, oldest first, those that can be taken back (`done`) and those that took one back
    (`undone`). `replicas` are the names of replicas by their number, for `notes`."""

    def __init__(self, replicas: Sequence[str] = ()) -> None:
        # the latest deeds, each of one single value, as they are written down in passing; who adds to them (of a store
        # without a server only) calls `trim` once there are more than `NOTES_MAX`
        self.notes: list[Note] = []
        self._replicas = replicas
        self._done: list[Deed] = []
        self._undone: list[Deed] = []
        self._all: list[Deed] = []
        self._by_id: dict[str, Deed] = {}
        self._changes = 0  # of all of them

    @property
    def done(self) -> list[Deed]:
        """The deeds that `undo` takes back, from the end."""
        self._read_notes()
        return self._done

    @property
    def undone(self) -> list[Deed]:
        """Those that `redo` takes back likewise."""
        self._read_notes()
        return self._undone

    def trim(self) -> None:
        """Forgets what the notes have outnumbered."""
        del self.notes[:-DEEDS_MAX]
        for deeds in (self._done, self._undone, self._all):
            deeds.clear()
        self._by_id.clear()
        self._changes = 0

    def _read_notes(self) -> None:
        if self.notes:
            notes = self.notes.copy()
            self.notes.clear()
            for note in notes:
                single = _Single(note, self._replicas)
                self._add(Deed("", single, single.delta))

    def add(self, deed: Deed) -> None:
        """Something new was written: what was undone before cannot be redone."""
        self._read_notes()
        self._add(deed)

    def _add(self, deed: Deed) -> None:
        self._undone.clear()
        self._done.append(deed)
        self._remember(deed)

    def last(self, redo: bool = False) -> Deed:
        """The deed to take back. Raises `TriplewebError` if there is none."""
        deeds = self.undone if redo else self.done
        if not deeds:
            raise TriplewebError(
                "there is nothing to redo: nothing was undone since the last write"
                if redo
                else "there is nothing to undo: this session has written nothing (more)"
            )
        return deeds[-1]

    def turn(self, by: Deed | None, redo: bool = False) -> None:
        """The last deed was taken back by another; None: all of it was left alone."""
        source, target = (self.undone, self.done) if redo else (self.done, self.undone)
        check = source.pop().check
        if by is not None:
            by.check = check
            target.append(by)
            self._remember(by)

    def restamped(self, id: str, stamp: Stamp) -> None:
        """A transaction has another stamp now."""
        deed = self._by_id.get(id)
        if deed is not None and deed.stamps[-1] != stamp:
            deed.stamps.append(stamp)

    def decided(
        self,
        id: str,
        stamp: Stamp,
        rejected: bool,
        stood: Iterable[Triple],
        unseen: bool,
        held: dict[Key, Change | None] | None,
    ) -> None:
        """The server has decided on a transaction, and says what it wrote over that was not here, and what it has there
        (`held`) where not all is as it was pushed."""
        self.restamped(id, stamp)
        deed = self._by_id.get(id)
        if deed is not None:
            deed.rejected, deed.unseen = rejected, unseen
            deed.instead = held if rejected else None
            deed.learn(stood)

    def take_back(self, tx: Transaction, deed: Deed) -> list[Left]:
        """Writes into `tx` what takes a deed back, one of those that `last` gives; returns what is left alone."""
        self._read_notes()
        return take_back(tx, deed, self._all)

    def _remember(self, deed: Deed) -> None:
        self._all.append(deed)
        self._changes += len(deed)
        if deed.id:
            self._by_id[deed.id] = deed
        while len(self._all) > DEEDS_MAX or (len(self._all) > 1 and self._changes - len(deed) > CHANGES_MAX):
            oldest = self._all.pop(0)
            self._changes -= len(oldest)
            self._by_id.pop(oldest.id, None)
            for deeds in (self._done, self._undone):
                if oldest in deeds:
                    deeds.remove(oldest)


def take_back(tx: Transaction, deed: Deed, known: Sequence[Deed]) -> list[Left]:
    """Writes into `tx` what takes a deed back; returns what is left alone. `known` are the deeds of the session, oldest
    first; those after this one count for nothing."""
    past, doubt = _Past(known, deed), _Doubt(known, deed)
    fields: dict[tuple[str, str], _Field] = {}
    deleted: set[str] = set()
    for subject, predicate, place, value, came in deed.changes():
        if predicate == DELETED:
            deleted.add(subject)
            continue
        field = fields.get((subject, predicate))
        if field is None:
            field = fields[subject, predicate] = _Field(tx, subject, predicate, past)
        field.slots[place] = value
        if doubt and doubt.looks_at(field, place, value, came):
            continue
        if came:
            assert value is not None
            field.came[place] = value
    left: list[Left] = []
    for triple in deed.gone:
        if triple[0] in deleted:
            left.append(Left(*triple, "rejected" if deed.rejected else "deleted"))
        elif not (doubt and doubt.is_void(fields[triple[:2]], triple[2])):
            fields[triple[:2]].went(triple[2])
    for field in fields.values():
        if deed.rejected:
            left += field.left_alone("rejected")
        elif deed.unseen or (field.subject, field.predicate) in doubt.unknown:
            left += field.left_alone("unseen")
        elif tx.store.deleted(field.subject) is not None:
            left += field.left_alone("deleted")
        else:
            left += field.take_back()
    return left


class _Past:
    """What the stamps of registers mean when a deed is taken back: what came after it in this session is undone."""

    def __init__(self, known: Sequence[Deed], deed: Deed) -> None:
        self.stamp = deed.stamps[-1]
        self._undone: dict[Stamp, Deed] = {}
        self._present: dict[Stamp, Stamp] = {}
        after = False
        for each in known:
            for stamp in each.stamps:
                self._present[stamp] = each.stamps[-1]
                if after:
                    self._undone[stamp] = each
            after = after or each is deed

    def stamp_of(self, register: Change | None) -> Stamp:
        """The stamp of a register; of one that was written and undone, that of what stood there before."""
        if register is None:
            return NEVER
        key, stamp = register.key, register.stamp
        while stamp in self._undone:
            before = self._undone[stamp].replaced.before(key)
            stamp = NEVER if before is None else before.stamp
        return self._present.get(stamp, stamp)


class _Doubt:
    """What was written here before and rejected since never stood where a deed wrote: there was what the server had.

    `unknown` are the fields of which that is not known. False if nothing of this session was rejected.
    """

    def __init__(self, known: Sequence[Deed], deed: Deed) -> None:
        self._deed = deed
        self._rejected = {
            stamp: one for one in known if one.rejected and one is not deed for stamp in one.stamps
        }
        self._void: dict[tuple[str, str], list[Value]] = {}
        self.unknown: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._rejected)

    def looks_at(self, field: _Field, place: str, value: Value | None, came: bool) -> bool:
        """True if this place of a deed had something that was rejected: then `field` has got what it needs."""
        key, where = (field.subject, field.predicate, place), (field.subject, field.predicate)
        try:
            before = None if place == COUNTER else self._deed.replaced.before(key)
        except KeyError:  # it had lost when it was written
            before = None
        rejected = None if before is None else self._rejected.get(before.stamp)
        if before is None or rejected is None:
            return False
        if rejected.instead is None or place == RESET:
            self.unknown.add(where)
            return False
        stood = rejected.instead.get(key)
        held = None if stood is None else stood.value
        if before.value is not None:
            self._void.setdefault(where, []).append(before.value)
        if value is not None and (held is None or slot(held) != slot(value)):
            field.came[place] = value
        if held is not None and (value is None or slot(held) != slot(value)):
            field.went(held)
        return True

    def is_void(self, field: _Field, value: Value) -> bool:
        """True for a value that went with a deed, but had come with what was rejected."""
        where, place = (field.subject, field.predicate), slot(value)
        if any(slot(void) == place for void in self._void.get(where, ())):
            return True
        for rejected in self._rejected.values():
            if place not in field.slots and rejected.instead and (*where, place) in rejected.instead:
                stood = rejected.instead[*where, place]
                return stood is None or stood.value is None
        return False


class _Field:
    """What a deed did to one (subject, predicate): `slots` that it wrote, values that `came` with them (by slot) and
    values that are `gone`."""

    __slots__ = ("came", "gone", "past", "predicate", "slots", "stamp", "subject", "tx")

    def __init__(self, tx: Transaction, subject: str, predicate: str, past: _Past) -> None:
        self.tx = tx
        self.subject = subject
        self.predicate = predicate
        self.past = past
        self.stamp = past.stamp
        self.slots: dict[str, Value | None] = {}
        self.came: dict[str, Value] = {}
        self.gone: list[Value] = []

    def went(self, value: Value) -> None:
        """A value is gone, which is said once."""
        if all(slot(value) != slot(known) for known in self.gone):
            self.gone.append(value)

    def left_alone(self, reason: str) -> Iterable[Left]:
        if COUNTER in self.slots:
            return [self._left(self.slots[COUNTER], reason)]
        replaced = SINGLE in self.slots and self.came
        values = [*self.came.values(), *([] if replaced else self.gone)]
        return [self._left(value, reason) for value in values]

    def take_back(self) -> Iterable[Left]:
        if COUNTER in self.slots:
            return self._count_back()
        if self._is_counted():
            return self.left_alone("counter")
        left: list[Left] = []
        taken: dict[str, Value] = {}
        for place, value in self.came.items():
            reason = self._reason(place) or self._is_there_twice(place, value)
            if reason:
                left.append(self._left(value, reason))
            else:
                taken[place] = value
        back: list[Value] = []
        for value in self.gone:
            taker = next(place for place in (slot(value), SINGLE, RESET) if place in self.slots)
            if taker == SINGLE and self.came.get(SINGLE) is not taken.get(SINGLE):
                continue  # what came instead stays, and was told
            reason = self._reason(taker)
            if not reason and self._stamp(slot(value)) > self.stamp:
                register = self._register(slot(value))
                if register is not None and register.value is not None:
                    continue  # somebody has put it back already
                reason = "newer"
            if not reason:
                back.append(value)
            else:
                left.append(self._left(value, reason))
        self._write(taken, back)
        return left

    def _is_counted(self) -> bool:
        """True if numbers that the deed wrote are not to be told from what was counted beside them."""
        values = [*self.came.values(), *self.gone]
        return any(kind(value) == "n" for value in values) and any(
            register.slot.startswith(COUNTER)
            for register in self.tx.store.registers_of(self.subject, self.predicate)
        )

    def _count_back(self) -> Iterable[Left]:
        amount = self.slots[COUNTER]
        assert isinstance(amount, int | float)
        try:
            self.tx.increment(self.subject, self.predicate, -amount)
        except ValueError:
            return [self._left(amount, "limits")]
        return []

    def _write(self, taken: dict[str, Value], back: list[Value]) -> None:
        """Removes `taken` and brings `back`, in the form in which they were there."""
        tx, subject, predicate = self.tx, self.subject, self.predicate
        if not (taken or back):
            return
        out = set(map(slot, taken.values()))
        others = [v for v in tx.store.values(subject, predicate) if slot(v) not in out]
        if not others and len(back) <= 1 and self._was_single(back):
            tx.set(subject, predicate, back[0] if back else None)
        elif SINGLE in taken:
            tx.assign(subject, predicate, [*others, *back])
        else:
            for value in taken.values():
                tx.remove(subject, predicate, value)
            for value in back:
                tx.add(subject, predicate, value)

    def _was_single(self, values: list[Value]) -> bool:
        """True if these (at most one) were, or are to be, a single value rather than members of a set."""
        if SINGLE in self.slots:
            return not values or self._register(slot(values[0])) is None
        hidden = self._register(SINGLE)
        return bool(values and hidden and hidden.value is not None and slot(hidden.value) == slot(values[0]))

    def _reason(self, place: str) -> str:
        """Why what the deed wrote there does not stand any more; "" if it does."""
        if self._stamp(place) != self.stamp:
            return "newer"
        if max(self._stamp(SINGLE), self._stamp(RESET)) > self.stamp:
            return "reset"
        return "newer" if self._is_other(place) else ""

    def _is_other(self, place: str) -> bool:
        """True if something else shows than the single value of the deed, though its register stands for that: what
        this session has undone since had been written over somebody else's word, which came back then."""
        if place != SINGLE:
            return False
        wrote, register = self.slots[SINGLE], self._register(SINGLE)
        held = wrote if wrote is not None else None if register is None else register.value
        shown = [slot(value) for value in self.tx.store.values(self.subject, self.predicate)]
        return held is not None and (slot(held) in shown) is (wrote is None)

    def _is_there_twice(self, place: str, value: Value) -> str:
        """ "newer" where somebody else's word shows the same value: as a member beside the single one, or as that."""
        other = slot(value) if place == SINGLE else SINGLE
        register = self._register(other)
        if register is None or register.value is None or slot(register.value) != slot(value):
            return ""
        return "newer" if self.past.stamp_of(register) > self.stamp else ""

    def _stamp(self, place: str) -> Stamp:
        return self.past.stamp_of(self._register(place))

    def _register(self, place: str) -> Change | None:
        return self.tx.store.register((self.subject, self.predicate, place))

    def _left(self, value: Value | None, reason: str) -> Left:
        return Left(self.subject, self.predicate, value, reason)
