"""What stood where something was written, to be put back or told: registers by themselves, or whole columns of them.

Invariant: `Kept.before` knows each register that was written since `Store.record`, and no other, as it was then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tripleweb.change import RESET, SINGLE, Change, Key
from tripleweb.terms import Value, slot
from tripleweb.view import ABSENT


class Kept:
    """Registers as they were before they were overwritten, since `Store.record`: the oldest word on each counts.

    Segments follow each other in time: registers one by one, or what was written at once.
    """

    def __init__(self) -> None:
        self.segments: list[dict[Key, Change | None] | Underlay | NothingHeld] = []

    def ones(self) -> dict[Key, Change | None]:
        """Where to note the next register that is written by itself, unless it is there already."""
        if not self.segments or not isinstance(self.segments[-1], dict):
            self.segments.append({})
        last = self.segments[-1]
        assert isinstance(last, dict)
        return last

    def before(self, key: Key) -> Change | None:
        """The register at `key` as it was, None if there was none; raises `KeyError` if it was not written."""
        for segment in self.segments:
            if key in segment:
                return segment[key]
        raise KeyError(key)


class Underlay:
    """The single values of one predicate that were written at once: what stood there, row by row."""

    __slots__ = ("_names", "_replicas", "_rows", "_times", "_values", "predicate", "subjects")

    def __init__(
        self,
        predicate: str,
        subjects: Sequence[str],
        values: Sequence[Any],
        times: Sequence[int],
        replicas: Sequence[int],
        names: Sequence[str],
    ) -> None:
        self.predicate = predicate
        self.subjects = subjects
        self._values = values
        self._times = times
        self._replicas = replicas
        self._names = names  # of replicas, by their number
        self._rows: dict[str, int] | None = None

    @property
    def rows(self) -> dict[str, int]:
        if self._rows is None:
            self._rows = {subject: row for row, subject in enumerate(self.subjects)}
        return self._rows

    def __contains__(self, key: Key) -> bool:
        return key[1] == self.predicate and key[2] == SINGLE and key[0] in self.rows

    def __getitem__(self, key: Key) -> Change | None:
        row = self.rows[key[0]]
        if self._times[row] < 0:
            return None
        value = None if self._values[row] is ABSENT else self._values[row]
        return Change(*key, value, self._times[row], self._names[self._replicas[row]])

    def items(self) -> Iterator[tuple[Key, Change | None]]:
        for subject in self.subjects:
            key = subject, self.predicate, SINGLE
            yield key, self[key]


class NothingHeld:
    """Single values of one predicate, or whole `sets` of them, that were written at once where nothing had been."""

    __slots__ = ("_rows", "predicate", "sets", "subjects")

    def __init__(
        self, predicate: str, subjects: Sequence[str], sets: Sequence[tuple[Value, ...]] | None = None
    ) -> None:
        self.predicate = predicate
        self.subjects = subjects
        self.sets = sets
        self._rows: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.subjects) + (0 if self.sets is None else sum(map(len, self.sets)))

    def __contains__(self, key: Key) -> bool:
        if key[1] != self.predicate or (key[2] == SINGLE) is not (self.sets is None):
            return False
        if self._rows is None:
            self._rows = {subject: row for row, subject in enumerate(self.subjects)}
        row = self._rows.get(key[0])
        if row is None or self.sets is None:
            return row is not None
        return key[2] == RESET or any(slot(value) == key[2] for value in self.sets[row])

    def __getitem__(self, key: Key) -> None:
        return None

    def items(self) -> Iterator[tuple[Key, None]]:
        for row, subject in enumerate(self.subjects):
            if self.sets is None:
                yield (subject, self.predicate, SINGLE), None
            else:
                yield (subject, self.predicate, RESET), None
                for value in self.sets[row]:
                    yield (subject, self.predicate, slot(value)), None
