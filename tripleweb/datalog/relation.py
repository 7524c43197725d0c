"""Rows, and reading a source into them in slices.

A relation is a tuple of variable names and a list of distinct rows of the same width. A *stage* is a generator
function from rows to rows that yields the units of work done, at most a few `CHUNK`s at a time: a unit is a row
touched or derived.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from tripleweb.datalog.builtins import CHUNK, chunks, inward, is_stored, outward
from tripleweb.datalog.clauses import Constant, Term, Variable
from tripleweb.view import Source

Row = tuple[Any, ...]
Rows = list[Row]
Work = Generator[int, None, Any]
Stage = Callable[[Rows], Work]
ROW_BYTES, CELL_BYTES = 56, 8


def picker(indexes: Sequence[int]) -> Callable[[Row], Row]:
    """A function from a row to a tuple of some of its cells."""
    if len(indexes) == 1:
        only = indexes[0]
        return lambda row: (row[only],)
    return itemgetter(*indexes) if indexes else lambda row: ()


def terms_of(columns: Sequence[str], terms: Sequence[Term]) -> Callable[[Row], Row]:
    """A function from a row to the values of terms that are all bound."""
    constants = tuple(term.value for term in terms if isinstance(term, Constant))
    indexes, used = [], 0
    for term in terms:
        if isinstance(term, Variable):
            indexes.append(columns.index(term.name))
        else:
            indexes.append(len(columns) + used)
            used += 1
    pick = picker(indexes)
    return (lambda row: pick(row + constants)) if constants else pick


def known(term: Term, columns: Sequence[str]) -> Callable[[Row], Any] | None:
    """A function from a row to the value of a term; None if it has none yet."""
    if isinstance(term, Constant):
        value = term.value
        return lambda row: value
    return (
        itemgetter(columns.index(term.name)) if isinstance(term, Variable) and term.name in columns else None
    )


def distinct(rows: Rows, pick: Callable[[Row], Row]) -> Work:
    seen: dict[Row, None] = {}
    for part in chunks(rows):
        seen.update(dict.fromkeys(map(pick, part)))
        yield len(part)
    return list(seen)


class _Index(dict[Any, Sequence[Any]]):
    """Nothing for a key that is not there."""

    def __missing__(self, key: Any) -> Sequence[Any]:
        return ()


class Reader:
    """A source as one evaluation sees it: what was read is kept, what was derived is counted (`bytes`)."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.bytes = 0
        self._pairs: dict[str, Rows] = {}
        self._indexes: dict[tuple[str, bool], _Index] = {}
        self._fetched: dict[tuple[str, bool, Any], list[Any]] = {}
        self._members: dict[tuple[str, Any], set[Any]] = {}

    def weigh(self, bytes: int) -> None:
        """Counts what is derived elsewhere."""
        self.bytes += bytes

    def fetch(self, predicate: str, forward: bool, key: Any) -> Sequence[Any]:
        """The values of a subject (`forward`), or the subjects that have a value, from the source; each once."""
        held = self._fetched.get((predicate, forward, key))
        if held is None:
            if forward:
                found = self.source.values(key, predicate) if isinstance(key, str) else ()
                held = [inward(value) for value in found]
            else:
                held = list(self.source.subjects(predicate, outward(key))) if is_stored(key) else []
            if len(held) > 1:  # a text and a reference to it may both be there
                held = list(dict.fromkeys(held))
            self._fetched[predicate, forward, key] = held
        return held

    def scan(self, predicate: str) -> Work:
        """All (subject, value) of a predicate, each once."""
        held = self._pairs.get(predicate)
        if held is None:
            found: dict[Row, None] = {}
            for part in chunks(self.source.scan(predicate)):
                pairs = [pair if type(pair[1]) is not bool else (pair[0], inward(pair[1])) for pair in part]
                found.update(dict.fromkeys(pairs))
                yield len(part)
            held = self._pairs[predicate] = list(found)
        return held

    def look_up(self, predicate: str, forward: bool, keys: int) -> Work:
        """The function that `fetch` is for one predicate: few keys ask the source one by one, many get an index
        of the whole column."""
        index = self._indexes.get((predicate, forward))
        if index is None and keys * 10 <= self.source.count(predicate):
            return partial(self.fetch, predicate, forward)
        if index is None:
            index = _Index()
            pairs = yield from self.scan(predicate)
            key, value = (0, 1) if forward else (1, 0)
            for part in chunks(pairs):
                for pair in part:
                    held = index.get(pair[key])
                    # most keys have one: Python's garbage collector forgets a tuple of atoms, but never a list
                    if held is None:
                        index[pair[key]] = (pair[value],)
                    elif type(held) is list:
                        held.append(pair[value])
                    else:
                        index[pair[key]] = [*held, pair[value]]
                yield len(part)
            self._indexes[predicate, forward] = index
        return index.__getitem__

    def make(self, rows: Rows, produce: Callable[[Rows], Iterator[Row | None]]) -> Work:
        """What `produce` makes of the rows, without Nones; both count."""
        out: Rows = []
        for part in chunks(rows):
            yield len(part)
            made = produce(part)
            while piece := list(islice(made, CHUNK)):
                kept = [row for row in piece if row is not None]
                out += kept
                if kept:
                    self.bytes += len(kept) * (ROW_BYTES + CELL_BYTES * len(kept[0]))
                yield len(piece)
        return out

    def member_set(self, predicate: str, subject: Any, values: Sequence[Any]) -> Work:
        """The many values of one subject as a set."""
        members = self._members.get((predicate, subject))
        if members is None:
            members = self._members[predicate, subject] = set()
            for part in chunks(values):
                members.update(part)
                yield len(part)
        return members
