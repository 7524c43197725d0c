"""Pins: an answer that can be shown again. A pin says what was asked, at which position of the server's log, and the
digest of the answer; whoever may read the app can have that answer from it, for as long as the log reaches back.

Invariants: an answer that is given for a pin is the one that was pinned, or it is an error; a pin has nothing in it but
the app, the query with its inputs and rules, numbers and a hash, so it can stand in a notebook; nothing that only this
session knows is pinned: what is pinned, the server has.

The digest is SHA-256 (FIPS 180-4) of the answer as JSON: rows of values with their kinds (`terms.to_wire`), sorted
unless the query orders them. Equal numbers are one value there as they are in an answer, which shows the one of 1 and
1.0 that it came upon: whole floats count as integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import Result
from tripleweb.datalog.builtins import outward
from tripleweb.datalog.clauses import parse_rules
from tripleweb.datalog.query import Aggregate, Query, parse
from tripleweb.datalog.rulebook import Rulebook
from tripleweb.errors import HistoryError, QueryError, TriplewebError
from tripleweb.past import Asking, Past
from tripleweb.subscriptions import check_of
from tripleweb.sync.messages import encode, input_from_wire
from tripleweb.terms import to_wire

if TYPE_CHECKING:
    import pandas as pd

_DICE = {"rand", "sample"}


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    """What the text of a pin says."""

    app: str
    position: tuple[str, int]
    digest: str
    query: str
    inputs: list[Any] = []
    rules: str | None = None


class Pin(str):
    """A pinned answer, as text: it can be printed, pasted and sent, and goes to `Database.at` as it is.

    `app`, `position` ("epoch:seq"), `query`, `digest` are what it says. Raises `ValueError` for a text that is none.
    """

    __slots__ = ("_told",)

    def __new__(cls, text: str) -> Pin:
        if not isinstance(text, str):
            raise TypeError(f"a pin is text, not {type(text).__name__}")
        pin = super().__new__(cls, text)
        try:
            pin._told = msgspec.json.decode(text.encode(), type=_Told)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(f"not a pin: {text[:60]!r} ({error})") from None
        return pin

    _told: _Told

    @property
    def app(self) -> str:
        return self._told.app

    @property
    def position(self) -> str:
        epoch, seq = self._told.position
        return f"{epoch}:{seq}"

    @property
    def query(self) -> str:
        return self._told.query

    @property
    def digest(self) -> str:
        return self._told.digest

    def __repr__(self) -> str:
        return f"Pin({str(self)!r})"


def pinned(app: str, position: str, query: Query, inputs: Sequence[Any], result: Result) -> Pin:
    """A pin of an answer that the server's log has at this position. Raises `ValueError` for what cannot be asked
    again: a query with Python functions among its inputs, or one that throws dice."""
    thrown = {
        e.function for e in query.find if isinstance(e, Aggregate) and isinstance(e.function, str)
    } & _DICE
    if thrown:
        raise ValueError(f"{thrown.pop()} throws dice: such an answer comes but once, and cannot be pinned")
    if (query.limit is not None or query.offset) and not query.order_by:
        raise ValueError("which rows a :limit leaves is not said: add :order-by, and it can be pinned")
    if query.uses_callables(inputs):
        raise ValueError("a query with Python functions cannot be pinned: nobody else has them")
    check = check_of(query, inputs, str(Rulebook(query.rules)) or None)
    epoch, _, seq = position.rpartition(":")
    told = _Told(app, (epoch, int(seq)), digest(query, result.rows), check.query, check.inputs, check.rules)
    return Pin(encode(told).decode())


def at(db: Asking, text: str, budget: Callable[[], evaluate.Budget], timeout: float) -> pd.DataFrame:
    """See `Database.at`."""
    from tripleweb.frame import columns_of, shape

    told = Pin(text)._told
    if db._session.app != told.app:
        held = f"this store is of {db._session.app!r}" if db._session.app else "this store has no server"
        raise ValueError(f"a pin of the app {told.app!r}: {held}")
    try:
        query, inputs = parse(told.query), [input_from_wire(wire) for wire in told.inputs]
        rules = None if told.rules is None else parse_rules(told.rules)
    except (ValueError, QueryError) as error:
        raise ValueError(f"not a pin: {error}") from None
    past = Past(db, budget, position=told.position)
    result = past.run(query, inputs, timeout, rules)
    if digest(query, result.rows) != told.digest:
        raise HistoryError(f"the answer at {told.position[0]}:{told.position[1]} is another than was pinned")
    known = columns_of(query, db.schema)
    attrs = past.attrs() | {"digest": told.digest}
    frame: pd.DataFrame = shape(result, "relation", kinds=known.kinds, nullable=known.nullable, attrs=attrs)
    return frame


def digest(query: Query, rows: Iterable[Sequence[Any]]) -> str:
    """The digest of an answer, as hexadecimal digits."""
    told = [encode([_told(cell) for cell in row]) for row in rows]
    if not query.order_by:
        told.sort()
    return hashlib.sha256(b"\n".join(told)).hexdigest()


def _told(cell: Any) -> Any:
    """A cell with its kinds; what is in a list that was pulled has no order."""
    if isinstance(cell, Mapping):
        return {str(key): _told(value) for key, value in sorted(cell.items(), key=lambda pair: str(pair[0]))}
    if isinstance(cell, list | tuple | set | frozenset):
        return {"all": sorted(encode(_told(one)).decode() for one in cell)}
    value = outward(cell)
    return to_wire(int(value) if isinstance(value, float) and value.is_integer() else value)


def refuse(position: str | None, pending: int, is_complete: bool, reason: str) -> str:
    """The position that can be pinned. Raises `TriplewebError` where there is none."""
    if position is None:
        raise HistoryError("a pin is of what a server keeps: this store has none, or has not reached it yet")
    if pending:
        raise TriplewebError(f"not all that was written is decided yet ({pending} pending): db.flush() first")
    if not is_complete:
        raise TriplewebError(f"not all of the answer is here{f' ({reason})' if reason else ''}")
    return position
