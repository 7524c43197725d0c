"""A source of triples for tests, small enough to be right by reading, and the delta that a change of it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tripleweb.store import Delta
from tripleweb.terms import Value, slot, sort_key

Triple = tuple[str, str, Value]


def same_to_a_query(a: Value, b: Value) -> bool:
    """Text and references match by their text, 1 and 1.0 are one number, True is not 1."""
    return a == b and (type(a) is bool) == (type(b) is bool)


class Triples:
    """Triples in a dict, each once; every question is answered by going through all of them."""

    def __init__(self, triples: Iterable[Triple] = ()) -> None:
        self._triples: dict[tuple[str, str, str], Triple] = {}
        self.change(add=triples)

    def change(self, add: Iterable[Triple] = (), remove: Iterable[Triple] = ()) -> Delta:
        delta = Delta()
        for triple in remove:
            gone = self._triples.pop((triple[0], triple[1], slot(triple[2])), None)
            if gone is not None:
                delta.removed.append(gone)
        for triple in add:
            key = (triple[0], triple[1], slot(triple[2]))
            if key not in self._triples:
                self._triples[key] = triple
                delta.added.append(triple)
        return delta

    def all(self) -> list[Triple]:
        return list(self._triples.values())

    def predicates(self) -> list[str]:
        return sorted({p for _, p, _ in self.all()})

    def count(self, predicate: str) -> int:
        return len(list(self.scan(predicate)))

    def scan(self, predicate: str) -> Iterator[tuple[str, Value]]:
        return ((s, v) for s, p, v in self.all() if p == predicate)

    def values(self, subject: str, predicate: str) -> list[Value]:
        return sorted((v for s, v in self.scan(predicate) if s == subject), key=sort_key)

    def subjects(self, predicate: str, value: Value) -> list[str]:
        return list(dict.fromkeys(s for s, v in self.scan(predicate) if same_to_a_query(v, value)))

    def about(self, subject: str) -> Iterator[tuple[str, Value]]:
        return ((p, v) for s, p, v in self.all() if s == subject)
