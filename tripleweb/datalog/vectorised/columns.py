"""Answers as columns: the heads of derivations, distinct, in Python's own values.

A `Sheaf` is the list of an answer's rows to whoever wants rows, and its columns to whoever makes frames of them: rows
are made when the first is asked for. Distinct is only what has to be: where the variables of a head determine all
others (an entity determines its single values), or a column has no two equal values, rows are distinct as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tripleweb.datalog.builtins import outward
from tripleweb.datalog.vectorised.mirrors import Array, Mirrors
from tripleweb.datalog.vectorised.vectors import Cells, Codes, Constant, Entities, Objects, Vector

Row = tuple[Any, ...]
Bond = tuple[tuple[str, ...], str]  # these variables determine that one
_PLAIN = frozenset((str, int, float))
REPEATED = ""  # among what is bound: rows may be there twice, so no head determines them


@dataclass(frozen=True, slots=True)
class Column:
    """`letter`: "s" text, "n" int64, "f" float64, "b" bool, "d" dates; "o": whatever."""

    letter: str
    values: Array


class Sheaf(Sequence[Row]):
    """Rows that stand in columns."""

    def __init__(self, columns: Sequence[Column], size: int) -> None:
        self.columns = columns
        self._size = size
        self._rows: list[Row] | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> list[Row]:
        if self._rows is None:
            lists = [column.values.tolist() for column in self.columns]
            self._rows = list(zip(*lists, strict=True)) if lists else [()] * self._size
        return self._rows

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        return self.rows[at]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        return self.rows == (other.rows if isinstance(other, Sheaf) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.rows)


def column_of(vector: Vector) -> Column:
    """A vector's values as users get them."""
    if isinstance(vector, Cells):
        letter = vector.mirror.letter
        if letter != "o":
            return Column(letter, vector.data)
    elif isinstance(vector, Entities) and not vector.is_mixed:
        return Column("s", vector.inward())
    elif isinstance(vector, Objects) and vector.values.dtype.kind in "if":
        return Column("n" if vector.values.dtype.kind == "i" else "f", vector.values)
    values = vector.inward()
    types = set(map(type, values))
    if not types <= _PLAIN:
        values = np.fromiter(map(outward, values), object, len(values))
    return Column("s" if types == {str} else "o", values)


# -- distinct rows


def is_determined(head: Collection[str], bound: Collection[str], bonds: Sequence[Bond]) -> bool:
    """True if the variables of a head determine all that were bound, so that no two rows have the same head."""
    known, left = set(head), list(bonds)
    while not known.issuperset(bound):
        ready = [bond for bond in left if known.issuperset(bond[0])]
        if not ready:
            return False
        known.update(name for _, name in ready)
        left = [bond for bond in left if bond not in ready]
    return True


def distinct(vectors: Sequence[Vector], size: int, codes: Codes) -> Array | None:
    """Where the first row of each kind stands; None if all rows differ."""
    if size < 2:
        return None
    if not vectors:
        return np.zeros(1, dtype=np.int64)
    whole = [codes_in(vector, size) for vector in vectors]
    texts = [vector.inward().tolist() for vector, found in zip(vectors, whole, strict=True) if found is None]
    if texts and any(len(set(held)) == size for held in texts):
        return None
    if not texts:
        return _first(whole, size)  # type: ignore[arg-type]
    if len(texts) == len(vectors) == 1:
        rows: Iterable[Any] = texts[0]
    else:
        rows = zip(*[vector.inward().tolist() for vector in vectors], strict=True)
    seen: dict[Any, int] = {}
    for place, row in enumerate(rows):
        seen.setdefault(row, place)
    return None if len(seen) == size else np.fromiter(seen.values(), np.int64, len(seen))


def codes_in(vector: Vector, size: int) -> Array | None:
    """`integers`, also of a column whose values it is worth while to number."""
    found = integers(vector)
    if found is None and isinstance(vector, Cells):
        mirror = vector.mirror
        if mirror.is_numbered or len(mirror.data) <= 2 * size:
            found = mirror.cell_codes[vector.cells]
    return found


def integers(vector: Vector) -> Array | None:
    """Integers that are equal where the values are."""
    if isinstance(vector, Entities):
        return vector.numbers
    if isinstance(vector, Cells) and vector.mirror.letter in "nb":
        return vector.data
    if isinstance(vector, Objects) and vector.values.dtype.kind == "i":
        return vector.values
    if isinstance(vector, Constant):
        return np.zeros(len(vector), dtype=np.int64)
    return None


def _first(columns: Sequence[Array], size: int) -> Array | None:
    codes = pressed(columns, size)
    _, first = np.unique(codes, return_index=True)
    return None if len(first) == size else np.sort(first)


def pressed(columns: Sequence[Array], size: int) -> Array:
    """Rows of integers as one integer each, which are equal where the rows are."""
    codes, span = np.zeros(size, dtype=np.int64), 1
    for column in columns:
        low, high = int(column.min(initial=0)), int(column.max(initial=0))
        width = high - low + 1
        if span * width >= 1 << 62:
            _, codes = np.unique(codes, return_inverse=True)
            span = int(codes.max(initial=0)) + 1
            _, ranks = np.unique(column, return_inverse=True)
            column, low, width = ranks, 0, int(ranks.max(initial=0)) + 1
        codes = codes * width + (column.astype(np.int64) - low)
        span *= width
    return codes


def union(parts: Sequence[Sequence[Vector]], mirrors: Mirrors) -> list[Vector]:
    """The rows of several lists of vectors, one after the other."""
    if len(parts) == 1:
        return list(parts[0])
    out: list[Vector] = []
    for pieces in zip(*parts, strict=True):
        if all(isinstance(piece, Entities) and not piece.is_mixed for piece in pieces):
            out.append(Entities(mirrors, np.concatenate([piece.numbers for piece in pieces])))
        elif all(isinstance(piece, Cells) and piece.mirror is pieces[0].mirror for piece in pieces):
            out.append(Cells(pieces[0].mirror, np.concatenate([piece.cells for piece in pieces])))
        else:
            out.append(Objects(np.concatenate([piece.inward() for piece in pieces])))
    return out
