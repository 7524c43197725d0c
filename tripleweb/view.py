"""What a query reads: the `Source` of triples, and `View`, a source that stays as the store was at one moment."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from tripleweb.terms import Value


class Source(Protocol):
    """What a query reads. All triples given are visible ones; refs come as `Ref`, booleans as `bool`."""

    def predicates(self) -> list[str]: ...
    def count(self, predicate: str) -> int: ...
    def scan(self, predicate: str) -> Iterable[tuple[str, Value]]: ...
    def values(self, subject: str, predicate: str) -> Sequence[Value]: ...
    def subjects(self, predicate: str, value: Value) -> Iterable[str]: ...
    def about(self, subject: str) -> Iterable[tuple[str, Value]]: ...


class _Absent:
    """The value of a row that has none in this column."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
# predicate -> (row -> entity number, row -> single value or ABSENT, row -> several values)
Columns = dict[str, tuple["array[int]", list[Any], dict[int, tuple[Value, ...]]]]


def index_key(value: Value) -> Any:
    """Equal for what a query takes to be equal: 1 and 1.0, a reference and its text; never for True and 1."""
    return (value,) if type(value) is bool else value


class View:
    """Some predicates of a store as they were at one moment: a `Source` that nothing changes any more."""

    def __init__(self, names: list[str], columns: Columns) -> None:
        self._names = names  # grows at its end only, so sharing it is safe; entity arrays likewise
        self._columns = columns
        self._by_subject: dict[str, dict[str, list[Value]]] = {}
        self._by_value: dict[str, dict[Any, list[str]]] = {}

    def predicates(self) -> list[str]:
        return sorted(self._columns)

    def count(self, predicate: str) -> int:
        column = self._columns.get(predicate)
        return 0 if column is None else len(column[1])

    def scan(self, predicate: str) -> Iterator[tuple[str, Value]]:
        column = self._columns.get(predicate)
        if column is not None:
            entities, values, cells = column
            for row, value in enumerate(values):
                if value is not ABSENT:
                    yield self._names[entities[row]], value
            for row, several in cells.items():
                for value in several:
                    yield self._names[entities[row]], value

    def values(self, subject: str, predicate: str) -> list[Value]:
        held = self._by_subject.get(predicate)
        if held is None:
            held = self._by_subject[predicate] = {}
            for name, value in self.scan(predicate):
                held.setdefault(name, []).append(value)
        return held.get(subject, [])

    def subjects(self, predicate: str, value: Value) -> list[str]:
        index = self._by_value.get(predicate)
        if index is None:
            index = self._by_value[predicate] = {}
            for name, held in self.scan(predicate):
                index.setdefault(index_key(held), []).append(name)
        return index.get(index_key(value), [])

    def about(self, subject: str) -> Iterator[tuple[str, Value]]:
        for predicate in self.predicates():
            for value in self.values(subject, predicate):
                yield predicate, value
