"""What a user writes: the methods of a `Database` that change it.

Invariants: a method that raises has written nothing; each is one transaction, or part of the one that is open.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from tripleweb import writes
from tripleweb.collector import collector_at_rest
from tripleweb.datalog.executor import Executor
from tripleweb.intake import key_names
from tripleweb.pen import Block, Pen
from tripleweb.progress import patient_progress
from tripleweb.schema import Schema
from tripleweb.session import Session
from tripleweb.shield import Shield
from tripleweb.status import WHAT

if TYPE_CHECKING:
    import pandas as pd

    from tripleweb.difference import Applied

_LEFT = {**WHAT, "reason": "s"}
_UNDO_WAITS_S = 5.0


class Editing:
    """The writing half of a database."""

    schema: Schema
    _session: Session
    _pen: Pen
    _executor: Executor

    if TYPE_CHECKING:

        def transaction(self, check: str | None = None, inputs: Sequence[Any] = ()) -> Block: ...
        def kinds(self, *, timeout: float = 10, strict: bool = False) -> list[str]: ...
        def fields(self, kind: str, /, *, timeout: float = 10, strict: bool = False) -> list[str]: ...

    def insert(self, kind: str, /, *, id: str | None = None, **fields: Any) -> str:
        """Writes an entity and returns its id: a nano id, or the given one, which merges with what is there.

        Raises `SchemaError`, `DeletedError`, `ValueError` and `TypeError`, and has written nothing then.
        """
        return self._session.write(
            lambda tx: writes.insert(tx, self.schema, kind, fields, id=id, random_bytes=os.urandom)
        )

    def update(self, kind: str, id: str, /, **fields: Any) -> None:
        """Assigns fields; None removes, a list or set assigns all members. An unknown id is created."""
        self._session.write(lambda tx: writes.update(tx, self.schema, kind, id, fields))

    def add(self, kind: str, id: str, /, **fields: Any) -> None:
        """Adds members to many-valued fields; what others add and remove merges, element by element."""
        self._session.write(lambda tx: writes.add(tx, self.schema, kind, id, fields))

    def remove(self, kind: str, id: str, /, **fields: Any) -> None:
        """Removes members from many-valued fields."""
        self._session.write(lambda tx: writes.remove(tx, self.schema, kind, id, fields))

    def increment(self, kind: str, id: str, /, **amounts: Any) -> None:
        """Counts in counters: concurrent increments add up."""
        self._session.write(lambda tx: writes.increment(tx, self.schema, kind, id, amounts))

    def delete(self, id: str, /) -> None:
        """Deletes an entity, every kind of it, for ever; it wins over every concurrent update."""
        self._session.write(lambda tx: writes.delete(tx, id))

    def set(self, subject: str, predicate: str, value: Any, /) -> None:
        """Writes one triple. On a many-valued field a scalar adds one member and a Python set assigns the whole."""
        if not self._pen.set(self.schema, subject, predicate, value):
            self._session.write(lambda tx: writes.set_triple(tx, self.schema, subject, predicate, value))

    def unset(self, subject: str, predicate: str, value: Any = writes.EVERYTHING, /) -> None:
        """Removes everything at a predicate, or one member."""
        self._session.write(lambda tx: writes.unset_triple(tx, self.schema, subject, predicate, value))

    def insert_frame(
        self,
        kind: str,
        frame: pd.DataFrame,
        /,
        *,
        id: str | Sequence[str] | None = None,
        prefix: str = "",
        deleted: Literal["raise", "skip"] = "raise",
    ) -> list[str]:
        """Inserts the rows of a DataFrame in one transaction; returns their ids in row order.

        `id` names the column whose text is the id, or columns whose texts are joined by `/`, after `prefix`; None
        makes nano ids. Missing cells are no values. Raises `ValueError` for a missing or repeated key, and as `insert`.
        `deleted="skip"` leaves out rows whose id was deleted, and warns how many.
        """
        from tripleweb.frame import frame_columns

        keys = key_names(id)
        with collector_at_rest(), patient_progress(f"inserting {kind}", getattr(frame, "size", 0)) as tell:
            columns = frame_columns(frame, keys)
            options: dict[str, Any] = {"id": keys, "prefix": prefix, "deleted": deleted, "tell": tell}
            inserted = self._session.write(
                lambda tx: writes.insert_columns(
                    tx, self.schema, kind, columns, random_bytes=os.urandom, **options
                )
            )
            with Shield(), self._session.lock:
                self._executor.foresee(kind, len(inserted.ids))
        if inserted.skipped:
            count = len(inserted.skipped)
            warnings.warn(
                f"{count} {'row was' if count == 1 else 'rows were'} left out: deleted ids", stacklevel=2
            )
        return inserted.ids

    def apply(
        self, before: pd.DataFrame, after: pd.DataFrame, /, *, kind: str | None = None, delete: bool = True
    ) -> Applied:
        """Writes the difference of two frames as the smallest transaction, and says what that was.

        Rows are known by their column `id` (or an index of that name): those that only `after` has are inserted, with
        nano ids where they have none; those that it lacks are deleted, unless `delete` is off; of the others the cells
        that differ are written, and nothing else, so that what somebody else has changed meanwhile stays. Sets change
        member by member, counters by what was added. A cell that became missing is removed; columns that `after` lacks
        stay as they are, those such as `author.name` must not differ. `kind=` is needed where the frames do not know
        it: those of `frame` and `select` do, as do copies of them. Raises `ValueError`, `TypeError`, `SchemaError` with
        the row's id, `DeletedError`, and has written nothing then.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", id="ada", name="Ada", age=36)
        >>> before = db.frame("user")
        >>> db.apply(before, before.assign(age=before["age"] + 1))
        <1 cell of 1 row changed>
        >>> db.get("user", "ada")["age"]
        37
        """
        from tripleweb import difference

        found = difference.difference(before, after)
        if kind is None:
            known = {name: set(self.schema.fields(name)) for name in self.schema.kinds()}
            if self.schema.is_open:
                known = {name: set(self.fields(name)) for name in self.kinds()}
            kind = difference.kind_of_frames(before, after, known)
        if not found.size:
            return difference.Applied()
        with patient_progress(f"writing {kind}", before.size + after.size) as tell, self.transaction():
            return difference.write(self, kind, found, delete, tell)

    def undo(self) -> pd.DataFrame:
        """Takes back this session's last transaction by a new one, where its values still stand; called again, the one
        before it. Returns what it left alone: a frame of `subject predicate value reason`, the reason being one of
        `newer reset deleted rejected limits counter unseen`.

        Counters count back; a delete is for ever. What had not been loaded comes back as the server has told it, for
        which this waits some seconds while online; what was rejected does not come back. Raises `TriplewebError` if
        there is nothing to undo, within a transaction, and while the server has not decided on a guarded one.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", name="Ada", age=36)
        >>> db.update("user", ada, age=37)
        >>> len(db.undo()), db.get("user", ada)["age"]
        (0, 36)
        """
        return self._take_back(redo=False)

    def redo(self) -> pd.DataFrame:
        """Takes back the last `undo` likewise, as long as nothing else was written."""
        return self._take_back(redo=True)

    def _take_back(self, redo: bool) -> pd.DataFrame:
        from tripleweb.frame import result_frame

        session = self._session
        waits = session.is_partial or session.core.is_guarded
        if waits and session.state == "online" and not session.within_transaction:
            with suppress(TimeoutError):  # what it wrote over may come with the receipt
                session.flush(_UNDO_WAITS_S)
        return result_frame(tuple(_LEFT), session.take_back(redo), kinds=_LEFT)
