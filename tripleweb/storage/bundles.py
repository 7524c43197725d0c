"""Many changes as one body: by columns, packed and compressed; what the older part of a log is made of.

Three kinds of bodies. *Transactions*: who wrote the transactions of a run, when, under which number and id. *Changes*:
what these have set, of one kind of predicates; each says to which transaction of the run it belongs and where it stood
in it. *Registers*: a state, each register with its stamp.

Invariants: what was packed comes out as it was, in its order; values stand as on the wire, so that a log entry's JSON
comes out byte for byte. A body that is not whole raises `ValueError`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import msgspec

from tripleweb.change import Change
from tripleweb.clock import COUNTER_BITS
from tripleweb.sync.messages import WireChange
from tripleweb.terms import Ref, Value, parse_date

LEVEL = 6  # of the compression; more of it saves 2 % and takes twice the time
_READ: dict[str, Callable[[Any], Value]] = {"d": parse_date, "r": Ref, "i": int}


class Transaction(NamedTuple):
    """A transaction of the log, without its changes; `at` in milliseconds, (`time`, `replica`) its stamp."""

    seq: int
    replica: str
    number: int
    id: str
    by: str
    at: int
    time: int
    stamped: str  # the replica of the stamp


class _Texts(msgspec.Struct, array_like=True):
    """A column of texts, each text once."""

    texts: list[str]
    places: list[int]

    def all(self) -> list[str]:
        return list(map(self.texts.__getitem__, self.places))


class _Columns(msgspec.Struct, array_like=True):
    subjects: _Texts
    predicates: _Texts
    slots: _Texts
    letters: _Texts
    values: list[Any]


class _Transactions(msgspec.Struct, array_like=True):
    first: int
    replicas: _Texts
    numbers: list[int]  # each less the one before
    ids: list[str]
    by: _Texts
    ats: list[int]  # each less the one before
    times: list[int]  # each less its `at`
    stamped: _Texts


class _Changes(msgspec.Struct, array_like=True):
    columns: _Columns
    owners: list[int]  # places in the run, each less the one before
    places: list[int]  # in the transaction; empty: 0 throughout


class _Registers(msgspec.Struct, array_like=True):
    columns: _Columns
    least: int
    times: list[int]  # less the least
    replicas: _Texts


_change = partial(tuple.__new__, Change)  # what `Change._make` does, in a third of its time
_encode = msgspec.msgpack.Encoder().encode
_transactions = msgspec.msgpack.Decoder(_Transactions).decode
_changes = msgspec.msgpack.Decoder(_Changes).decode
_registers = msgspec.msgpack.Decoder(_Registers).decode


def _texts(column: Iterable[str]) -> _Texts:
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(text, len(numbers)) for text in column]
    return _Texts(list(numbers), places)


def _steps(column: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise([0, *column])]


def _packed(body: Any) -> bytes:
    return zlib.compress(_encode(body), LEVEL)


def unpacked(body: bytes) -> bytes:
    """A body, no longer compressed. Raises `ValueError`."""
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise ValueError(f"not a body of columns: {error}") from None


def names(raw: bytes, text: str) -> bool:
    """False if a body, no longer compressed, does not have this text in it: there is no need to read it then."""
    return text.encode() in raw


def pack_transactions(run: Sequence[Transaction]) -> bytes:
    """The transactions of a run, whose seqs follow each other."""
    replicas, numbers, ids, by, ats = (list(column) for column in list(zip(*run, strict=True))[1:6])
    return _packed(
        _Transactions(
            run[0].seq,
            _texts(replicas),
            _steps(numbers),
            ids,
            _texts(by),
            _steps(ats),
            [one.time - (one.at << COUNTER_BITS) for one in run],
            _texts(one.stamped for one in run),
        )
    )


def unpack_transactions(body: bytes) -> list[Transaction]:
    """What `pack_transactions` packed."""
    held = _transactions(unpacked(body))
    ats = list(accumulate(held.ats))
    times = [(at << COUNTER_BITS) + time for at, time in zip(ats, held.times, strict=True)]
    seqs = range(held.first, held.first + len(ats))
    columns = (held.replicas.all(), accumulate(held.numbers), held.ids, held.by.all(), ats, times)
    return [Transaction(*row) for row in zip(seqs, *columns, held.stamped.all(), strict=True)]


def pack_changes(changes: Sequence[tuple[int, int, WireChange]]) -> bytes:
    """Changes of a run in their order: (place of the transaction in the run, place in the transaction, change)."""
    owners, places, wires = zip(*changes, strict=True)
    return _packed(_Changes(_columns(wires), _steps(owners), list(places) if any(places) else []))


def unpack_changes(raw: bytes) -> tuple[list[int], list[int], list[WireChange]]:
    """(owners, places, changes) of what `pack_changes` packed, no longer compressed."""
    held = _changes(raw)
    columns = held.columns
    rows = (columns.subjects.all(), columns.predicates.all(), columns.slots.all(), columns.letters.all())
    owners = list(accumulate(held.owners))
    return owners, held.places or [0] * len(owners), list(zip(*rows, columns.values, strict=True))


def changed(raw: bytes, run: Sequence[Transaction], least: int, most: int) -> list[Change]:
    """The changes in what `pack_changes` packed whose transactions have seqs after `least` up to `most`."""
    held = _changes(raw)
    owners = list(accumulate(held.owners))
    low, high = least - run[0].seq, most - run[0].seq
    times, replicas = [one.time for one in run], [one.stamped for one in run]
    rows = _changes_of(
        held.columns, [times[owner] for owner in owners], [replicas[owner] for owner in owners]
    )
    if not owners or (owners[0] > low and owners[-1] <= high):
        return rows
    return [row for owner, row in zip(owners, rows, strict=True) if low < owner <= high]


def pack_registers(registers: Sequence[tuple[WireChange, int, str]]) -> bytes:
    """A piece of a state: (register, time, replica)."""
    wires, times, replicas = zip(*registers, strict=True)
    least = min(times)
    return _packed(_Registers(_columns(wires), least, [time - least for time in times], _texts(replicas)))


def unpack_registers(raw: bytes) -> list[Change]:
    """The registers of what `pack_registers` packed, no longer compressed."""
    held = _registers(raw)
    times = [held.least + time for time in held.times]
    return _changes_of(held.columns, times, held.replicas.all())


def _columns(wires: Iterable[WireChange]) -> _Columns:
    subjects, predicates, slots, letters, values = zip(*wires, strict=True)
    return _Columns(_texts(subjects), _texts(predicates), _texts(slots), _texts(letters), list(values))


def _changes_of(columns: _Columns, times: Sequence[int], replicas: Sequence[str]) -> list[Change]:
    values = columns.values
    if not _READ.keys().isdisjoint(columns.letters.texts):
        values = [
            value if (read := _READ.get(letter)) is None else read(value)
            for letter, value in zip(columns.letters.all(), values, strict=True)
        ]
    rows = (columns.subjects.all(), columns.predicates.all(), columns.slots.all())
    return list(map(_change, zip(*rows, values, times, replicas, strict=True)))
