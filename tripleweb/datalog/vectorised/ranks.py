"""Rows in the order of `:order-by`, cut to `:limit`, by columns: as `answer` does it for rows.

Where only some rows are wanted, those that cannot be among them go before anything is sorted. Invariant: ties are in
the order of all columns, ascending; a column of mixed kinds is left to `answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tripleweb.datalog.query import Query
from tripleweb.datalog.vectorised.mirrors import Array
from tripleweb.datalog.vectorised.vectors import Cells, Constant, Entities, Vector, numeric


def chosen(query: Query, vectors: Sequence[Vector], size: int) -> Array | None:
    """The places of a query's rows, in order; None where they cannot be compared here. The vectors are of its find."""
    end = size if query.limit is None else query.offset + query.limit
    if query.shape in ("tuple", "scalar"):
        end = min(end, query.offset + 1)
    keys = [*query.order_by, *((column, False) for column in range(len(vectors)))]
    places = np.arange(size)
    if end < size:
        column, descending = keys[0]
        first = ranks(vectors[column])
        if first is None:
            return None
        if end <= query.offset:
            return places[:0]
        first = -first if descending else first
        places = np.flatnonzero(first <= np.partition(first, end - 1)[end - 1])
        vectors = [vector.take(places, {}) for vector in vectors]
    by: list[Array] = []
    for column, descending in keys:
        found = ranks(vectors[column])
        if found is None:
            return None
        by.append(-found if descending else found)
    return places[np.lexsort(by[::-1])][query.offset : end]


def ranks(vector: Vector) -> Array | None:
    """Numbers that compare as the values do; None for values of several kinds."""
    numbers = numeric(vector)
    if isinstance(numbers, np.ndarray):
        return numbers
    if isinstance(vector, Constant):
        return np.zeros(len(vector), dtype=np.int64)
    if isinstance(vector, Cells) and vector.mirror.letter == "b":
        return vector.data.astype(np.int64)
    if (isinstance(vector, Cells) and vector.mirror.letter in "sd") or (
        isinstance(vector, Entities) and not vector.is_mixed
    ):
        held = vector.inward().tolist()
        rank: dict[Any, int] = {value: place for place, value in enumerate(sorted(set(held)))}
        return np.fromiter(map(rank.__getitem__, held), np.int64, len(held))
    return None
