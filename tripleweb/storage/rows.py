"""Rows of a server's table of triples: what stands in its columns, and how many of them go into it at once.

`sqlite` says what the columns are. Invariant: of two rows for one register the one with the higher stamp stands, equal
ones go by `change.outranks`; what a column holds comes out of it as the value that it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from tripleweb.change import DELETED, SINGLE, outranks
from tripleweb.terms import Ref, Value, date_text, kind, parse_date

T = TypeVar("T")
PUT_TRIPLES = """
INSERT INTO triples (subject, predicate, slot, object, object_type, hlc, deleted, seq, tx, author) VALUES """
OUTRANKING = """
ON CONFLICT (subject, predicate, slot) DO UPDATE SET object = excluded.object, object_type = excluded.object_type,
    hlc = excluded.hlc, deleted = excluded.deleted, seq = excluded.seq, tx = excluded.tx, author = excluded.author
WHERE excluded.hlc > hlc
    OR (excluded.hlc = hlc AND outranks(excluded.object, excluded.object_type, object, object_type))"""
_TYPES = {"s": "string", "n": "number", "b": "boolean", "d": "date", "r": "ref"}


def to_columns(value: Value | None) -> tuple[Any, str | None]:
    """A value as (object, object_type); numbers stay numbers, a boolean is 0 or 1, a date its text."""
    if value is None:
        return None, None
    letter = kind(value)
    if letter == "d":
        return date_text(value), "date"  # type: ignore[arg-type]
    return (str(value) if letter == "r" else value), _TYPES[letter]


def from_columns(held: Any, named: str | None) -> Value | None:
    """The value of `to_columns`' pair; raises `ValueError` for what `to_columns` never makes."""
    cls = type(held)
    if (named == "string" and cls is str) or (named == "number" and cls in (int, float)):
        return held  # type: ignore[no-any-return]
    if named == "ref" and cls is str:
        return Ref(held)
    if named == "boolean" and held in (0, 1):
        return bool(held)
    if named == "date" and cls is str:
        return parse_date(held)
    if named is None and held is None:
        return None
    raise ValueError(f"not a stored object of type {named!r}: {held!r:.80}")


def _pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Values for statements with many of them: each step of SQLite's lets go of the interpreter's lock, and getting it
    back from a busy event loop takes longer than the row. Few different sizes, so that statements stay prepared."""
    at = 0
    for many in (64, 8, 1):
        while len(values) - at >= many:
            yield values[at : at + many]
            at += many


def insert(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]], ending: str = ""
) -> None:
    """`statement` up to its VALUES; `ending` is what follows them."""
    for piece in _pieces(rows):
        row = f"({', '.join('?' * len(piece[0]))})"
        values = [value for each in piece for value in each]
        connection.execute(statement + ", ".join([row] * len(piece)) + ending, values)


def buried_of(connection: sqlite3.Connection, subjects: set[str]) -> set[str]:
    """Those that are in the graveyard."""
    found: set[str] = set()
    for piece in _pieces(sorted(subjects)):
        rows = connection.execute(
            "SELECT subject FROM triples WHERE predicate = ? AND slot = ? AND subject IN"
            f" ({', '.join('?' * len(piece))})",
            (DELETED, SINGLE, *piece),
        )
        found.update(row[0] for row in rows)
    return found


def outranks_row(new: Any, new_type: str | None, old: Any, old_type: str | None) -> bool:
    return outranks(from_columns(new, new_type), from_columns(old, old_type))
