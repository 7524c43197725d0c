"""How the store keeps triples: one table per kind, one row an entity, one row-aligned column a predicate.

A column is a list of native values and arrays of stamps; a lazily built reverse index answers "who has this value".
Only rows that ever held more than a single value have a `Cell`: there, and nowhere else, floors are looked at.
Invariants: a row with a cell has ABSENT among the column's values; `visible` of a cell is what `see` gives; `live`
counts what is visible. Keeping `index` and `live` right is `store`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

from tripleweb.change import SINGLE, Change, Key
from tripleweb.clock import Stamp
from tripleweb.terms import Value, kind, slot, sort_key
from tripleweb.view import ABSENT, index_key

NEVER: Stamp = (-1, "")
Held = tuple[Value | None, int, str]  # a register without its key: value, time, replica


class Cell:
    """A (subject, predicate) that ever held more than a single value."""

    __slots__ = ("marker", "members", "shares", "single", "visible")

    def __init__(self, single: Any) -> None:
        # the value at slot "", ABSENT for a tombstone or none; its stamp is in the column
        self.single = single
        self.marker: Stamp = NEVER
        self.members: dict[str, Held] = {}
        self.shares: dict[str, Held] = {}
        self.visible: tuple[Value, ...] = ()

    def see(self, single: Stamp) -> None:
        """Brings `visible` up to date, sorted; `single` is the stamp of the single value."""
        floor = max(single, self.marker)
        shown: dict[str, Value] = {}
        if self.single is not ABSENT and single >= self.marker:
            shown[slot(self.single)] = self.single
        for place, (value, time, replica) in self.members.items():
            if value is not None and (time, replica) >= floor:
                shown[place] = value
        shares = [value for value, _, _ in self.shares.values() if value is not None]
        if shares:
            beside = [v for v in shown.values() if kind(v) == "n"]
            shown = {place: v for place, v in shown.items() if kind(v) != "n"}
            count = total(shares + beside)
            shown[slot(count)] = count
        self.visible = tuple(sorted(shown.values(), key=_order))


class Column:
    """One predicate: `values[row]` is the single value or ABSENT; rows with a cell have ABSENT here."""

    __slots__ = ("cells", "index", "live", "predicate", "replicas", "times", "values")

    def __init__(self, predicate: str) -> None:
        self.predicate = predicate
        self.values: list[Any] = []
        self.times = array("q")  # of slot ""; -1: never written
        self.replicas = array("I")
        self.cells: dict[int, Cell] = {}
        self.index: dict[Any, set[int]] | None = None
        self.live = 0  # visible triples

    def grow(self, rows: int) -> None:
        missing = rows - len(self.values)
        if missing == 1:
            self.values.append(ABSENT)
            self.times.append(-1)
            self.replicas.append(0)
        elif missing > 0:
            self.values.extend([ABSENT] * missing)
            self.times.extend(array("q", [-1]) * missing)
            self.replicas.extend(array("I", [0]) * missing)

    def single(self, row: int) -> Any:
        """The single value at a row, ABSENT for a tombstone or none."""
        value = self.values[row]
        cell = self.cells.get(row) if value is ABSENT and self.cells else None
        return value if cell is None else cell.single

    def visible(self, row: int) -> tuple[Value, ...]:
        if row >= len(self.values):
            return ()
        value = self.values[row]
        if value is not ABSENT:
            return (value,)
        cell = self.cells.get(row) if self.cells else None
        return () if cell is None else cell.visible

    def rows_with(self, value: Value) -> list[int]:
        """The rows that show a value, in order; text and references match by their text."""
        if self.index is None:
            index: dict[Any, set[int]] = {}
            for row in range(len(self.values)):
                for held in self.visible(row):
                    index.setdefault(index_key(held), set()).add(row)
            self.index = index
        return sorted(self.index.get(index_key(value), ()))

    def reindex(self, row: int, gone: Iterable[Value], shown: Iterable[Value]) -> None:
        """Keeps the reverse index right where a row ceased to show `gone` and now shows `shown`."""
        index = self.index
        if index is not None:
            keys = {index_key(value) for value in shown}
            # "a" and Ref("a") share a key: it goes when the last of them goes
            for key in {index_key(value) for value in gone} - keys:
                rows = index[key]
                rows.discard(row)
                if not rows:
                    del index[key]
            for key in keys:
                index.setdefault(key, set()).add(row)


class Table:
    """One kind: the rows of its entities and the columns of its predicates."""

    __slots__ = ("columns", "entities", "row_of")

    def __init__(self) -> None:
        self.row_of: dict[int, int] = {}
        self.entities = array("I")  # row -> entity number
        self.columns: dict[str, Column] = {}


class Kept:
    """Registers as they were before they were overwritten, since `Store.record`: the oldest word on each counts.

    Segments follow each other in time: registers one by one, or a column of single values written at once.
    """

    def __init__(self) -> None:
        self.segments: list[dict[Key, Change | None] | Block] = []

    def ones(self) -> dict[Key, Change | None]:
        """Where to note the next register that is written by itself, unless it is there already."""
        if not self.segments or isinstance(self.segments[-1], Block):
            self.segments.append({})
        last = self.segments[-1]
        assert isinstance(last, dict)
        return last

    def before(self, key: Key) -> Change | None:
        """The register at `key` as it was, None if there was none; raises `KeyError` if it was not written."""
        for segment in self.segments:
            if isinstance(segment, dict):
                if key in segment:
                    return segment[key]
            elif key[1] == segment.predicate and key[2] == SINGLE and key[0] in segment.rows:
                return segment.before(segment.rows[key[0]])
        raise KeyError(key)


class Block:
    """The single values of one predicate that were written at once: what stood there, row by row. Where nothing had
    ever been written there, `times` is empty."""

    __slots__ = ("_names", "_replicas", "_rows", "_times", "_values", "predicate", "subjects")

    def __init__(
        self,
        predicate: str,
        subjects: Sequence[str],
        values: Sequence[Any] = (),
        times: Sequence[int] = (),
        replicas: Sequence[int] = (),
        names: Sequence[str] = (),
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

    def before(self, row: int) -> Change | None:
        """The register that stood at a row, None if there was none."""
        if not self._times or self._times[row] < 0:
            return None
        value = None if self._values[row] is ABSENT else self._values[row]
        name = self._names[self._replicas[row]]
        return Change(self.subjects[row], self.predicate, SINGLE, value, self._times[row], name)


def total(shares: Iterable[Value]) -> Value:
    """The sum of a counter's shares: exact, so that it does not depend on their order."""
    numbers: list[Any] = [share for share in shares if kind(share) == "n"]
    if any(type(n) is float for n in numbers):
        return fsum(numbers)
    return int(sum(numbers))


def _order(value: Value) -> tuple[Any, ...]:
    return (*sort_key(value), kind(value))
