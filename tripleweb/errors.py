"""Every exception that tripleweb raises on purpose, in one place.

The rule of the house: an error says what was wrong, where, and what to do. Wrong *values* given by the caller are
Python's own `ValueError` and `TypeError`; everything that has to do with tripleweb itself is a `TriplewebError`. A
`SchemaError` is all of them: what does not fit the schema is a wrong value, or of a wrong type.
"""

from __future__ import annotations


class TriplewebError(Exception):
    """The root of tripleweb's own exceptions."""


class QueryError(TriplewebError):
    """A query that cannot be read or run.

    `line` and `column` count from 1 (None where the error has no place in the text), `form` is the offending piece
    of the query as text and `expected` says what could have stood there.
    """

    def __init__(
        self,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        form: str | None = None,
        expected: str | None = None,
    ) -> None:
        self.message = message
        self.line = line
        self.column = column
        self.form = form
        self.expected = expected
        text = message
        if form is not None and form not in message:
            text += f": {form}"
        if expected is not None:
            text += f"; expected {expected}"
        if line is not None:
            text += f" (line {line}, column {column})"
        super().__init__(text)


class BudgetError(QueryError):
    """A query that wanted more work than it was given."""


class SchemaError(TriplewebError, ValueError, TypeError):
    """A write that does not fit the schema; nothing was written."""


class DeletedError(TriplewebError):
    """A write to an entity that was deleted. Deletes are for ever; take a new id."""


class NoServerError(TriplewebError):
    """`connect` found no server to talk to."""


class StoreLockedError(TriplewebError):
    """The store's file is in use by another running session."""


class IncompleteError(TriplewebError):
    """A strict query whose data could not be loaded whole in time."""


class RejectedError(TriplewebError):
    """Writes that the server refused; `receipts` says which and why."""


class HistoryError(TriplewebError):
    """A moment that the log does not reach back to."""


class StorageError(TriplewebError):
    """A file or database that could not be read or written."""


class DamagedError(StorageError):
    """A file that does not hold what was written into it."""


class ProtocolError(TriplewebError):
    """The other side broke the protocol; it costs the connection and nothing else.

    `code` is a short word of `tripleweb.sync.messages`, for programs; the message is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)
