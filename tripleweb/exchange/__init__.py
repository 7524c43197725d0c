"""Triples in files that other programs read: JSON Lines, CSV, EDN datoms, Parquet, a row a value.

A row is a subject, a predicate, a value, its *kind* (`text number boolean date reference`) and its *field*, which says
how the value stands there (`single set counter`; see `inventory`). Each format is a module with `write`, from batches
of `inventory`'s rows to a file, and `read`, from a file to `Raw` rows; `values` says how values look as text, `files`
what a file is called and how it comes to be, whole or not at all.

Invariants: what `write` wrote, `read` reads as exactly the same values; equal rows make equal bytes; whatever a file
holds, `read` gives rows or raises `BadFile` with the line, and keeps no more of it in memory than a line.
"""

from __future__ import annotations

from typing import Any

# A row as it stands in a file: line, subject, predicate, value, kind, field, `is_text`. Kind and field are "" where the
# file does not say. `is_text`: a value of any kind is written as text, so that what looks like a number is one where
# there is no kind.
Raw = tuple[int, Any, Any, Any, str, str, bool]


class BadFile(ValueError):
    """A file that cannot be read; `line` counts from 1, 0 where no line is to blame."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        self.message = message
        super().__init__(f"line {line}: {message}" if line else message)
