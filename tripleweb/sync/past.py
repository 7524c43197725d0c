"""Looking back: what was visible after some transaction, and what was done to an entity. Pure; the rest of the protocol
is in `messages`.

A server that has the feature `past` answers

    > {"t":"past","id":"p1","at":1700000000000,"kinds":["user"]}
    < {"t":"was","id":"p1","epoch":"e1","seq":44,"singles":[["ada","user/name","s","Ada"]],"members":[],"more":false}
    > {"t":"deeds","id":"h1","subject":"ada"}
    < {"t":"did","id":"h1","rows":[[1700000000001,"bob","user/name",["",null],["s","Ada"]]],"more":false}

in one frame or more (`more`: another follows), or with `failed`, whose code is `history` where the log does not reach
back so far. `at` is a moment in milliseconds of the server's clock; instead of it a `position` may say of which epoch
and seq. `kinds` are those of the predicates that are wanted, null for all. What is told is what is durable, depends on
nothing else that is said on the connection, and holds up nothing. `unsubscribe` with the id of a question ends it: no
more is told (or what was on its way, and nothing after that). `singles` are the fields that had a single value,
`members` those of several, a row each; a counter is its total.

Invariants: what `was` tells is what `Store` shows that merged the log up to there; the rows of `did` lead from nothing
to what stands now, the rows of one transaction netted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from tripleweb.cells import Cell
from tripleweb.change import COUNTER, SINGLE, Change
from tripleweb.ids import kind_of
from tripleweb.influx import gather
from tripleweb.store import Delta, Store
from tripleweb.terms import Value, from_wire, same, slot, sort_key, to_wire
from tripleweb.view import ABSENT

PAST = "past"  # the feature
ROWS = 2_000  # in a frame
FRAME_BYTES = 1 << 20  # about
KINDS_MAX = 1_000
_REPLICA = "past"  # whose stamp the values of a frozen store have

Pair = tuple[str, str | int | float | bool | None]
Fact = tuple[str, str, str, str | int | float | bool | None]


class Past(msgspec.Struct, tag_field="t", tag="past", omit_defaults=True):
    id: str
    at: int | None = None
    position: tuple[str, int] | None = None
    kinds: list[str] | None = None
    n: int = 0


class Deeds(msgspec.Struct, tag_field="t", tag="deeds", omit_defaults=True):
    id: str
    subject: str
    n: int = 0


class Was(msgspec.Struct, tag_field="t", tag="was"):
    id: str
    epoch: str
    seq: int
    singles: list[Fact]
    members: list[Fact]
    more: bool


class Did(msgspec.Struct, tag_field="t", tag="did"):
    id: str
    rows: list[tuple[int, str, str, Pair, Pair]]
    more: bool


Row = tuple[int, str, str, Value | None, Value | None]  # at, by, predicate, old, new


# -- at the server -------------------------------------------------------------------------------------------------


def was(
    pieces: Iterable[Sequence[Change]], asked: Past, epoch: str, seq: int
) -> Iterator[tuple[int, Was | None]]:
    """(work done, a frame or None) step by step: merges what a state was made of, then tells what is visible of it."""
    store = Store()
    for count in gather(store, pieces):
        yield count, None
    facts = _facts(store, asked.kinds)
    more = True
    while more:
        frame = _frame(facts, asked.id, epoch, seq)
        more = frame.more
        yield 1 + len(frame.singles) + len(frame.members), frame


def _facts(store: Store, kinds: Collection[str] | None) -> Iterator[tuple[bool, Fact]]:
    """(whether it is a member of several, a triple) of all that is visible."""
    for predicate in sorted(store.predicates()):
        if kinds is None or kind_of(predicate) in kinds:
            table, column = store.column(predicate)
            names, entities, cells = store.names, table.entities, column.cells
            for row, value in enumerate(column.values):
                if value is not ABSENT:
                    yield False, (names[entities[row]], predicate, *to_wire(value))
                elif row in cells:
                    shown = column.visible(row)
                    is_member = not (len(shown) == 1 and _is_single(cells[row], shown[0]))
                    for one in shown:
                        yield is_member, (names[entities[row]], predicate, *to_wire(one))


def _is_single(cell: Cell, shown: Value) -> bool:
    """True if what is visible there was counted, or written as a single value."""
    return bool(cell.shares) or (cell.single is not ABSENT and same(cell.single, shown))


def _frame(facts: Iterator[tuple[bool, Fact]], name: str, epoch: str, seq: int) -> Was:
    """The next frame; the last one says so, and may be empty."""
    frame, size = Was(name, epoch, seq, [], [], True), 0
    singles, members = frame.singles, frame.members
    for is_member, fact in islice(facts, ROWS):
        (members if is_member else singles).append(fact)
        if type(fact[3]) is str:
            size += len(fact[3])
            if size > FRAME_BYTES:
                return frame
    frame.more = len(frame.singles) + len(frame.members) == ROWS
    return frame


class History:
    """What became of one entity, from its registers at some time on, transaction by transaction."""

    def __init__(self, base: Iterable[Change] = ()) -> None:
        self._store = Store()
        self._store.apply(base)

    def rows(self, at: int, by: str, changes: Sequence[Change]) -> list[Row]:
        """What a transaction did: a row for each value that came or went, or was replaced by another."""
        delta = self._store.apply(changes)
        single = {
            predicate: all(place == SINGLE or place[:2] == COUNTER for place in places)
            for predicate, places in _places(changes).items()
        }
        return [(at, by, *row) for row in _paired(delta, single)]


def _places(changes: Sequence[Change]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for change in changes:
        places.setdefault(change.predicate, []).append(change.slot)
    return places


def _paired(delta: Delta, single: dict[str, bool]) -> Iterator[tuple[str, Value | None, Value | None]]:
    gone: dict[str, list[Value]] = {}
    come: dict[str, list[Value]] = {}
    for triples, found in ((delta.removed, gone), (delta.added, come)):
        for _, predicate, value in triples:
            found.setdefault(predicate, []).append(value)
    for predicate in sorted({*gone, *come}):
        old, new = (sorted(some.get(predicate, ()), key=sort_key) for some in (gone, come))
        if len(old) == 1 == len(new) and single.get(predicate, False):
            yield predicate, old[0], new[0]
            continue
        yield from ((predicate, value, None) for value in old)
        yield from ((predicate, None, value) for value in new)


def did(name: str, rows: Sequence[Row], more: bool) -> Did:
    """Rows of a history as they travel."""
    return Did(name, [(at, by, p, to_wire(old), to_wire(new)) for at, by, p, old, new in rows], more)


# -- at the client -------------------------------------------------------------------------------------------------


def told_registers(frame: Was) -> Iterator[Change]:
    """What a frame tells, as registers of a store that stands still. Raises `ValueError`."""
    for subject, predicate, letter, raw in frame.singles:
        yield Change(subject, predicate, SINGLE, from_wire(letter, raw), 1, _REPLICA)
    for subject, predicate, letter, raw in frame.members:
        value = from_wire(letter, raw)
        if value is None:
            raise ValueError("a member of several is a value")
        yield Change(subject, predicate, slot(value), value, 1, _REPLICA)


def told_rows(frame: Did) -> list[tuple[Any, ...]]:
    """The rows of a history. Raises `ValueError`."""
    return [(at, by, p, from_wire(*old), from_wire(*new)) for at, by, p, old, new in frame.rows]
