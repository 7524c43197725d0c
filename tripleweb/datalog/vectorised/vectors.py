"""What the variables of a query stand for while it runs by columns: vectors, in batches of one length.

A vector is late: `Entities` knows numbers or rows, `Cells` places of a mirror; values are made where somebody asks for
them (`inward`, an array of objects as the engine holds values). Invariants: vectors and the arrays they hand out are
never written to; the code of a value (`Codes`) is the number of the entity that has it as its id, or one beyond all
numbers, and two values are equal exactly if their codes are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tripleweb.datalog.vectorised.mirrors import EXACT, Array, Mirror, Mirrors, Places, alone

NONE = -1  # the number of no entity


class Renumbered(Exception):
    """Entities got numbers while codes were given to values: the run has to begin again."""


class Codes:
    """Numbers for values, within one run. `base`: from here on they are of values that are no entity's id."""

    def __init__(self, mirrors: Mirrors) -> None:
        self.mirrors = mirrors
        self.more: dict[Any, int] = {}
        self._others: list[Any] = []  # the same values in the order of their codes
        self._base = -1  # until there is one of them

    @property
    def base(self) -> int:
        if not self.more:
            self._base = len(self.mirrors.tables.names)
        return self._base

    @property
    def size(self) -> int:
        return self.base + len(self.more)

    def check(self) -> None:
        """Raises `Renumbered` where it must."""
        if self.more and len(self.mirrors.tables.names) != self._base:
            raise Renumbered

    def of(self, vector: Vector) -> Array:
        """The codes of a vector's values."""
        if isinstance(vector, Entities):
            return vector.numbers
        if isinstance(vector, Constant):
            return np.full(len(vector), self._code(vector.value), dtype=np.int64)
        return np.fromiter(map(self._code, vector.inward().tolist()), np.int64, len(vector))

    def _code(self, value: Any) -> int:
        code = self.mirrors.tables.numbers.get(value)
        if code is None:
            code = self.more.get(value)
        if code is None:
            code = self.size
            self.more[value] = code
            self._others.append(value)
        return code

    def values(self, codes: Array) -> Array:
        """The values that have these codes."""
        names = self.mirrors.names
        if not self.more or not len(codes) or int(codes.max()) < self.base:
            return names[codes]
        out = np.empty(len(codes), dtype=object)
        beyond = codes >= self.base
        places = (codes[beyond] - self.base).tolist()
        out[beyond] = np.fromiter(map(self._others.__getitem__, places), object, len(places))
        out[~beyond] = names[codes[~beyond]]
        return out


class Vector(ABC):
    """The values of one variable."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: Array, memo: dict[int, Array]) -> Vector:
        """The values at some places. `memo` knows arrays, by id(), that were taken so already."""

    @abstractmethod
    def inward(self) -> Array:
        """The values as the engine holds them."""

    def numbers_in(self, mirrors: Mirrors) -> Array:
        """The numbers of the entities that the values name, NONE where there is none."""
        get = mirrors.tables.numbers.get
        return np.fromiter([get(value, NONE) for value in self.inward().tolist()], np.int64, len(self))


def taken(array: Array, index: Array, memo: dict[int, Array]) -> Array:
    found = memo.get(id(array))
    if found is None:
        found = memo[id(array)] = array[index]
    return found


class Entities(Vector):
    """Ids of entities: by number, or by row of one kind. `codes` tells the values of numbers beyond the entities'."""

    __slots__ = ("_codes", "_mirrors", "_numbers", "_places", "_rows")

    def __init__(
        self,
        mirrors: Mirrors,
        numbers: Array | None = None,
        places: Places | None = None,
        rows: Array | None = None,
        codes: Codes | None = None,
    ) -> None:
        self._mirrors = mirrors
        self._numbers = numbers
        self._places = places
        self._rows = rows
        self._codes = codes

    def __len__(self) -> int:
        held = self._numbers if self._numbers is not None else self._rows
        assert held is not None
        return len(held)

    @property
    def is_mixed(self) -> bool:
        """True if there may be values among them that are no entity's id."""
        return self._codes is not None and bool(self._codes.more)

    @property
    def numbers(self) -> Array:
        if self._numbers is None:
            assert self._places is not None
            self._numbers = self._places.entities[self._rows]
        return self._numbers

    def rows(self, places: Places) -> tuple[Array, bool]:
        """(rows of a kind, -1 for those that have none; whether all have one)."""
        if self._places is places and self._rows is not None:
            return self._rows, True
        numbers = self.numbers
        if self.is_mixed:
            assert self._codes is not None
            inside = numbers < self._codes.base
            return np.where(inside, places.rows[np.where(inside, numbers, 0)], NONE), False
        return places.rows[numbers], False

    def take(self, index: Array, memo: dict[int, Array]) -> Entities:
        numbers = None if self._numbers is None else taken(self._numbers, index, memo)
        rows = None if self._rows is None else taken(self._rows, index, memo)
        return Entities(self._mirrors, numbers, self._places, rows, self._codes)

    def inward(self) -> Array:
        return self._mirrors.names[self.numbers] if self._codes is None else self._codes.values(self.numbers)

    def numbers_in(self, mirrors: Mirrors) -> Array:
        if self.is_mixed:
            assert self._codes is not None
            return np.where(self.numbers < self._codes.base, self.numbers, NONE)
        return self.numbers


class Cells(Vector):
    """Values of a column that are no references, by their cells in its mirror."""

    __slots__ = ("_data", "cells", "mirror")

    def __init__(self, mirror: Mirror, cells: Array) -> None:
        self.mirror = mirror
        self.cells = cells
        self._data: Array | None = None

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def data(self) -> Array:
        """The values as the mirror has them."""
        if self._data is None:
            self._data = self.mirror.data[self.cells]
        return self._data

    def take(self, index: Array, memo: dict[int, Array]) -> Cells:
        return Cells(self.mirror, taken(self.cells, index, memo))

    def inward(self) -> Array:
        return self.mirror.inward(self.cells)


class Objects(Vector):
    """Values that were computed."""

    __slots__ = ("values",)

    def __init__(self, values: Array) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: Array, memo: dict[int, Array]) -> Objects:
        return Objects(taken(self.values, index, memo))

    def inward(self) -> Array:
        return self.values if self.values.dtype == object else self.values.astype(object)


class Constant(Vector):
    """One value, as often as there are rows."""

    __slots__ = ("_size", "value")

    def __init__(self, value: Any, size: int = 1) -> None:
        self.value = value
        self._size = size

    def __len__(self) -> int:
        return self._size

    def take(self, index: Array, memo: dict[int, Array]) -> Constant:
        return Constant(self.value, len(index))

    def inward(self) -> Array:
        out = np.empty(self._size, dtype=object)
        out.fill(self.value)
        return out

    def numbers_in(self, mirrors: Mirrors) -> Array:
        found = mirrors.tables.numbers.get(self.value, NONE) if isinstance(self.value, str) else NONE
        return np.full(self._size, found, dtype=np.int64)


class Batch:
    """Rows: a vector of the same length for each variable that is bound."""

    __slots__ = ("size", "vectors")

    def __init__(self, vectors: dict[str, Vector], size: int) -> None:
        self.vectors = vectors
        self.size = size

    def __contains__(self, variable: object) -> bool:
        return variable in self.vectors

    def take(self, index: Array) -> Batch:
        """The rows at some places, in that order."""
        memo: dict[int, Array] = {}
        return Batch({name: vector.take(index, memo) for name, vector in self.vectors.items()}, len(index))

    def where(self, mask: Array) -> Batch:
        """The rows where the mask is true."""
        index = np.flatnonzero(mask)
        return self if len(index) == self.size else self.take(index)

    def having(self, vectors: Mapping[str, Vector]) -> Batch:
        """The same rows with more variables."""
        return Batch({**self.vectors, **vectors}, self.size)

    def only(self, names: Iterable[str]) -> Batch:
        """The same rows, of these variables only."""
        wanted = set(names)
        if self.vectors.keys() <= wanted:
            return self
        return Batch({name: v for name, v in self.vectors.items() if name in wanted}, self.size)


def numeric(vector: Vector) -> Any:
    """Numbers that compare as Python's do: an array, or a plain number; None if the values are something else."""
    if isinstance(vector, Cells) and vector.mirror.letter in "nf":
        return vector.data
    if isinstance(vector, Objects) and vector.values.dtype.kind in "if":
        return vector.values
    if isinstance(vector, Constant) and type(vector.value) in (int, float):
        value = vector.value
        return value if type(value) is float or -EXACT <= value <= EXACT else None
    return None


def equal(a: Vector, b: Vector, mirrors: Mirrors) -> Array:
    """Where two vectors have equal values."""
    if isinstance(a, Entities) and isinstance(b, Entities):
        return np.asarray(a.numbers == b.numbers)
    if isinstance(a, Constant):
        a, b = b, a
    if isinstance(b, Constant):
        return equals(a, b.value, mirrors)
    one, other = numeric(a), numeric(b)
    if one is not None and other is not None:
        return np.asarray(one == other)
    return np.asarray(a.inward() == b.inward(), dtype=np.bool_)


def equals(vector: Vector, value: Any, mirrors: Mirrors) -> Array:
    """Where a vector has this value."""
    nowhere = np.zeros(len(vector), dtype=np.bool_)
    if isinstance(vector, Constant):
        return np.ones(len(vector), dtype=np.bool_) if vector.value == value else nowhere
    if isinstance(vector, Entities):
        code = mirrors.tables.numbers.get(value) if isinstance(value, str) else None
        if code is None and vector._codes is not None:
            code = vector._codes.more.get(value)
        return nowhere if code is None else np.asarray(vector.numbers == code)
    if isinstance(vector, Cells):
        wanted = vector.mirror.as_held(value)
        return (
            nowhere
            if wanted is None
            else np.asarray(vector.data == alone(wanted, vector.data), dtype=np.bool_)
        )
    held = vector.inward()
    return np.asarray(held == alone(value, held), dtype=np.bool_)
