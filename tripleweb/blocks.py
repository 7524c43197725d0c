"""What was written at once, as columns: a bulk transaction is a few `Singles` and `Sets`, and stays so in memory, in
its deed, in its delta and on its way to the disk. Single changes and triples are made for whoever asks for them.

Invariants: a block stands for the same changes that its values would have been one by one, in its order; subjects of
one block differ; what a block was made of is never modified by anybody any more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import Any, overload

from tripleweb.change import RESET, SINGLE, Change
from tripleweb.terms import Value, slot

Triple = tuple[str, str, Value]
_new = tuple.__new__


class Singles:
    """Single values of one predicate, one for each of the subjects, with one stamp."""

    __slots__ = ("cells", "predicate", "replica", "subjects", "time")

    def __init__(
        self, predicate: str, subjects: Sequence[str], cells: Sequence[Value], time: int, replica: str
    ) -> None:
        self.predicate = predicate
        self.subjects = subjects
        self.cells = cells
        self.time = time
        self.replica = replica

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def count(self) -> int:
        """How many triples it stands for."""
        return len(self.subjects)

    def changes(self, start: int = 0, stop: int | None = None) -> Iterator[Change]:
        """
        >>> list(Singles("user/age", ["ada"], [36], 1, "a").changes())
        [Change(subject='ada', predicate='user/age', slot='', value=36, time=1, replica='a')]
        """
        subjects, cells = self.subjects, self.cells
        if start or stop is not None:
            subjects, cells = subjects[start:stop], cells[start:stop]
        fields = (
            subjects,
            repeat(self.predicate),
            repeat(SINGLE),
            cells,
            repeat(self.time),
            repeat(self.replica),
        )
        return map(_new, repeat(Change), zip(*fields))  # noqa: B905 - most of them are endless

    def triples(self) -> Iterator[Triple]:
        return zip(self.subjects, repeat(self.predicate), self.cells)


class Sets:
    """Whole sets of one many-valued predicate, one for each of the subjects, with one stamp: a reset marker, then the
    members, which are sorted and differ in their slots."""

    __slots__ = ("_ends", "cells", "predicate", "replica", "subjects", "time")

    def __init__(
        self,
        predicate: str,
        subjects: Sequence[str],
        cells: Sequence[tuple[Value, ...]],
        time: int,
        replica: str,
    ) -> None:
        self.predicate = predicate
        self.subjects = subjects
        self.cells = cells
        self.time = time
        self.replica = replica
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return len(self.subjects) + self.count

    @property
    def count(self) -> int:
        """How many triples it stands for."""
        return sum(map(len, self.cells))

    def changes(self, start: int = 0, stop: int | None = None) -> Iterator[Change]:
        """
        >>> [change[2:4] for change in Sets("post/tags", ["p"], [("x", "y")], 1, "a").changes()]
        [('*', None), ('s:x', 'x'), ('s:y', 'y')]
        """
        if start or stop is not None:
            yield from self._between(start, len(self) if stop is None else stop)
            return
        end = self.time, self.replica
        for subject, members in zip(self.subjects, self.cells, strict=True):
            yield _new(Change, (subject, self.predicate, RESET, None, *end))
            for value in members:
                yield _new(Change, (subject, self.predicate, slot(value), value, *end))

    def _between(self, start: int, stop: int) -> Iterator[Change]:
        if self._ends is None:
            self._ends = list(accumulate(1 + len(members) for members in self.cells))
        first, last = bisect_right(self._ends, start), bisect_right(self._ends, max(start, stop - 1)) + 1
        before = self._ends[first - 1] if first else 0
        piece = Sets(
            self.predicate, self.subjects[first:last], self.cells[first:last], self.time, self.replica
        )
        return iter(list(piece.changes())[start - before : stop - before])

    def triples(self) -> Iterator[Triple]:
        for subject, members in zip(self.subjects, self.cells, strict=True):
            for value in members:
                yield subject, self.predicate, value


Block = Singles | Sets


class Changes(Sequence[Change]):
    """Changes of which many are in blocks.

    >>> changes = Changes([Singles("user/age", ["ada", "bob"], [36, 40], 1, "a"), []])
    >>> len(changes), changes[1].value, [change.subject for change in changes[1:]]
    (2, 40, ['bob'])
    """

    __slots__ = ("_starts", "parts")

    def __init__(self, parts: Iterable[Block | list[Change]]) -> None:
        self.parts = [part for part in parts if len(part)]
        self._starts = [0, *accumulate(map(len, self.parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Change]:
        return chain.from_iterable(part if isinstance(part, list) else part.changes() for part in self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, place: int) -> Change: ...

    @overload
    def __getitem__(self, place: slice) -> list[Change]: ...

    def __getitem__(self, place: int | slice) -> Change | list[Change]:
        if isinstance(place, int):
            at = range(len(self))[place]
            return self._between(at, at + 1)[0]
        start, stop, step = place.indices(len(self))
        return self._between(start, stop) if step == 1 else list(self)[place]

    def _between(self, start: int, stop: int) -> list[Change]:
        out: list[Change] = []
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            part, begin, end = self.parts[at], self._starts[at], min(stop, self._starts[at + 1])
            if isinstance(part, list):
                out += part[start - begin : end - begin]
            else:
                out += part.changes(start - begin, end - begin)
            start, at = end, at + 1
        return out

    @property
    def loose(self) -> list[Change]:
        """Those that are in no block."""
        return [change for part in self.parts if isinstance(part, list) for change in part]

    @property
    def blocks(self) -> list[Block]:
        return [part for part in self.parts if not isinstance(part, list)]


def in_blocks(parts: Iterable[Any]) -> int:
    """How many triples blocks stand for."""
    return sum(part.count for part in parts)
