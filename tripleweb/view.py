"""What a query reads: the `Source` of triples; `View`, a source that stays as the store was at one moment; `Fitting`,
a source without what is not of the kind that its predicate should have."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tripleweb.terms import FALSE, TRUE, Value, kind


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
    return (TRUE if value else FALSE) if type(value) is bool else value


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


class Fitting:
    """A source as one reads it who knows the kinds of some predicates (`kinds`: their letters): a triple whose value
    is of another kind is not there.

    `predicates` and `count` speak of all there is, fitting or not: they say where to look, not what there is.
    """

    def __init__(self, source: Source, kinds: Mapping[str, str]) -> None:
        self._source = source
        self._kinds = kinds
        self.predicates = source.predicates
        self.count = source.count

    def scan(self, predicate: str) -> Iterable[tuple[str, Value]]:
        letter = self._kinds.get(predicate)
        pairs = self._source.scan(predicate)
        return pairs if letter is None else (pair for pair in pairs if kind(pair[1]) == letter)

    def values(self, subject: str, predicate: str) -> Sequence[Value]:
        letter = self._kinds.get(predicate)
        held = self._source.values(subject, predicate)
        return held if letter is None else [value for value in held if kind(value) == letter]

    def subjects(self, predicate: str, value: Value) -> Iterable[str]:
        letter = self._kinds.get(predicate)
        found = self._source.subjects(predicate, value)
        if letter is None:
            return found
        if letter not in "sr":  # what is equal is of one kind, except that a reference is equal to its text
            return found if kind(value) == letter else ()
        return [subject for subject in found if value in self.values(subject, predicate)]

    def about(self, subject: str) -> Iterable[tuple[str, Value]]:
        kinds = self._kinds
        return (pair for pair in self._source.about(subject) if kinds.get(pair[0]) in (None, kind(pair[1])))
