"""How a database writes: blocks that are one transaction, and the short way of `set`, for one plain single value of a
store that is in memory, or within a transaction.

Nearly every write is of this kind, and the long way (`session`, `writes`, `transaction`) spends most of its time on
what such a write does not have: sets, counters, members to take back, a commit to save, a link to wake, watchers to
tell. Invariant: what is done here is what the long way would do, to the last register, delta and deed; where that is
not sure from a look, or the long way would raise, `set` does nothing and says so, and the long way is taken. The rules
themselves are elsewhere: `terms.normalise`, `ids.check_id`, `tables.Column.assign`, `Transaction.set_at`,
`clock.Clock.tick`, `undo.Deeds`.

Ctrl-C: a step is not left in its middle. CPython looks for signals where a function begins, after a call into C and
where a loop turns; so between the beginning of `Column.assign` (without a reverse index to keep) and the end of the
`append` after it there is no such place, and no `Shield` is needed, which would cost half as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from tripleweb.errors import TriplewebError
from tripleweb.ids import check_id, check_predicate
from tripleweb.schema import Schema
from tripleweb.session import Session
from tripleweb.shield import Shield
from tripleweb.store import change_of
from tripleweb.sync.messages import Check
from tripleweb.tables import Column, Table
from tripleweb.terms import KINDS, Ref, normalise
from tripleweb.undo import NOTES_MAX
from tripleweb.verdict import Verdict

_Plain = tuple[Table, Column, str]


class Pen:
    """Writes single values for a `Database`. It is as close to its session as if it were a method of it."""

    def __init__(self, session: Session, schema: Schema) -> None:
        self._session = session
        self._schema = schema
        self._store = session.store
        self._numbers = session.store.numbers
        self._graves = session.store._graves
        self._notes = session._deeds.notes
        self._replica, self._by = "", 0  # the number of the session's replica
        # where values of a predicate go, and the letter of their kind ("": any); None: that is not for here
        self._fields: dict[str, _Plain | None] = {}
        # a transaction of its own needs nothing but the store: there is nobody to send it to, and nothing to save
        self._is_alone = session.core.local and not session.replica.keeps

    def set(self, schema: Schema, subject: Any, predicate: Any, value: Any) -> bool:
        """What `writes.set_triple` does, in the open transaction or one of its own; False if it has done nothing."""
        if type(subject) is not str or type(predicate) is not str:
            return False
        if schema is not self._schema:
            self._schema = schema
            self._fields.clear()
        field = self._fields.get(predicate)
        if field is None and (predicate in self._fields or (field := self._learn(predicate)) is None):
            return False
        table, column, letter = field
        try:
            value = normalise(value)
        except (ValueError, TypeError):
            return False
        if value is None:
            return False
        if letter and KINDS[type(value)] != letter:
            if letter != "r" or type(value) is not str:
                return False
            try:
                value = Ref(check_id(value))
            except ValueError:
                return False
        session = self._session
        with session.lock:
            tx = session._tx
            if tx is None and (
                not self._is_alone or session.closed or session._depth or self._store.is_replaying
            ):
                return False
            if subject in self._graves:
                return False
            number = self._numbers.get(subject)
            row = None if number is None else table.row_of.get(number)
            if row is None or row >= len(column.values):
                if number is None:
                    try:
                        check_id(subject)
                    except ValueError:
                        return False
                with Shield():
                    row = self._store.place(subject, predicate)[1]
            if column.cells and row in column.cells:
                return False
            if tx is not None:
                if not tx.is_plain:
                    return False
                if session._depth:
                    session._check_opener()
                if column.index is None:
                    tx.set_at(subject, predicate, column, row, value)
                else:
                    with Shield():
                        tx.set_at(subject, predicate, column, row, value)
                return True
            core, notes = session.core, self._notes
            if core.replica != self._replica:
                self._replica, self._by = core.replica, self._store.replica_number(core.replica)
            replica, by = self._replica, self._by
            time = core.clock.tick(session._now() + core.offset_ms)
            old = column.values[row]
            note = subject, predicate, value, time, replica, old, column.times[row], column.replicas[row]
            if column.index is None and not session._watchers:
                column.assign(row, value, time, by)
                notes.append(note)
            else:
                with Shield():
                    column.assign(row, value, time, by)
                    notes.append(note)
                    if session._watchers:
                        session._tell(change_of(subject, predicate, old, value))
            if session._waiting:
                session.changed.notify_all()
            if len(notes) > NOTES_MAX:
                session._deeds.trim()
        return True

    def _learn(self, predicate: str) -> _Plain | None:
        """How a predicate is written, which is noted; None if it is not written here, or is no predicate."""
        try:
            field = self._schema.at(check_predicate(predicate))
        except ValueError:
            return None
        plain = None
        if not (field.many or field.counter or field.check is not None):
            with self._session.lock:
                plain = (*self._store.column(predicate), field.type)
        self._fields[predicate] = plain
        return plain


class Block:
    """What `Database.transaction` returns, and the value of its block. `guard` is asked when the block begins, where
    there is no server: why the transaction is not to be taken, or ""."""

    def __init__(
        self, session: Session, check: Check | None = None, guard: Callable[[], str] = lambda: ""
    ) -> None:
        self._session = session
        self._check = check
        self._guard = guard
        self._open = False
        self._verdict = Verdict(check)

    def __enter__(self) -> Block:
        if self._open:
            raise TriplewebError("this transaction is open already")
        session = self._session
        session.begin()
        try:
            if session.verdict is None:
                self._verdict = Verdict(self._check)
                if self._check is not None and session.core.local:
                    self._verdict.refusal = self._guard()
                session.verdict = self._verdict
            elif self._check is not None:
                raise TriplewebError(
                    "a check belongs to the outermost transaction: this one is within another"
                )
            else:
                self._verdict = session.verdict
        except BaseException:
            session.end(commit=False)
            raise
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._session.end(commit=kind is None)

    def wait(self, timeout: float | None = 30) -> bool:
        """Whether the transaction was committed, once the server has decided that and made it durable; False: it was
        rejected, and is undone here. At once where there is no server.

        Raises `TimeoutError` if that is not known after `timeout` seconds, at once when offline by choice or refused;
        and `TriplewebError` within a transaction, and for one that an exception has undone.
        """
        return self._verdict.wait(self._session, timeout)

    @property
    def message(self) -> str:
        """Why it was rejected, as far as is known; "" otherwise."""
        return self._verdict.message
