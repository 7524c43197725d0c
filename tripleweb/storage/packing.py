"""Registers as they lie in a replica's file: MessagePack, of rows, or of columns where many were written at once.

Rows are the fields of a `Change` each, values in MessagePack's own kinds and references as extension 1. A body of
columns begins with a byte that begins no MessagePack: MARK, then [rows, frames]. A frame is [subjects, columns], a
column [predicate, times, replicas, cells, places, sizes, refers], one cell a subject:

    times, replicas   one for all, or a list
    places            None, or a list: the cells' places among `cells`, which then has each value once
    sizes             None: single values. A list: sets, so many members each, `cells` being all of them
    refers            `cells` are the texts of references

Invariants: what was packed comes out as it was, in its order (rows first); equal references of one body come out as
one object, as do those of all bodies that one `Unpacker` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, repeat
from operator import itemgetter
from typing import Any

import msgspec

from tripleweb.blocks import Block, Changes, Sets, Singles
from tripleweb.change import DELETED, SINGLE, Change, Key
from tripleweb.influx import FEW, whole_sets
from tripleweb.store import Store
from tripleweb.sync.messages import Check
from tripleweb.terms import Ref, Value

MARK = b"\xc1"
GUARDED = MARK + MARK  # before a transaction with a check
FRAME = 20_000  # cells in one body

_Row = tuple[str, str, str, Any, int, str]


class _Column(msgspec.Struct, array_like=True):
    predicate: str
    times: int | list[int]
    replicas: str | list[str]
    cells: list[Any]
    places: list[int] | None = None
    sizes: list[int] | None = None
    refers: bool = False


class _Frame(msgspec.Struct, array_like=True):
    subjects: list[str]
    columns: list[_Column]


class _Body(msgspec.Struct, array_like=True):
    rows: Sequence[_Row]
    frames: list[_Frame]


def _pack_ref(value: Any) -> msgspec.msgpack.Ext:
    if type(value) is Ref:
        return msgspec.msgpack.Ext(1, value.encode())
    raise TypeError(f"not a value: {value!r:.80}")


def _unpack_ref(code: int, data: memoryview) -> Ref:
    if code != 1:
        raise ValueError(f"not a packed value: extension {code}")
    return Ref(str(data, "utf-8"))


encode = msgspec.msgpack.Encoder(enc_hook=_pack_ref).encode
_decode_rows = msgspec.msgpack.Decoder(list[_Row], ext_hook=_unpack_ref).decode
_decode_guarded = msgspec.msgpack.Decoder(tuple[Check, bytes]).decode
_decode_body = msgspec.msgpack.Decoder(_Body, ext_hook=_unpack_ref).decode
decode_save = msgspec.msgpack.Decoder(
    tuple[bool, list[str], list[_Row], list[Key]], ext_hook=_unpack_ref
).decode


# -- packing -------------------------------------------------------------------------------------------------------


def encode_registers(registers: Sequence[Change]) -> bytes:
    """Registers, packed in their order."""
    if not isinstance(registers, Changes):
        return encode(registers)
    frames = list(_frames(registers.blocks, len(registers)))
    return MARK + encode(_Body(registers.loose, frames))


def encode_blocks(blocks: Iterable[Block]) -> Iterator[bytes]:
    """Blocks, packed in bodies of bounded size."""
    for frame in _frames(blocks, FRAME):
        yield MARK + encode(_Body([], [frame]))


def encode_apart(registers: Sequence[Change]) -> bytes:
    """Registers, which differ, packed in whatever order takes least."""
    rows: list[Change] = []
    frames = []
    for predicate, group in groupby(registers, itemgetter(1)):
        run = list(group)
        singles = [change for change in run if change.slot == SINGLE and change.value is not None]
        if predicate == DELETED or len(singles) < FEW:
            rows += run
            continue
        if len(singles) < len(run):
            rows += [change for change in run if change.slot != SINGLE or change.value is None]
        subjects, _, _, values, times, replicas = map(list, zip(*singles, strict=True))
        column = _column(predicate, values)
        column.times = _one_or_all(times)
        column.replicas = _one_or_all(replicas)
        frames.append(_Frame(subjects, [column]))
    rows, sets = whole_sets(rows)
    frames += _frames(sets, len(registers))
    return MARK + encode(_Body(rows, frames))


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if values.count(values[0]) == len(values) else values


def _frames(blocks: Iterable[Block], size: int) -> Iterator[_Frame]:
    """Blocks that have their subjects in common share them; of frames with too many cells each has a part."""
    for _, group in groupby(blocks, lambda block: id(block.subjects)):
        held = list(group)
        subjects, cells = held[0].subjects, sum(map(len, held))
        step = len(subjects) if cells <= size else max(1, len(subjects) * size // cells)
        for start in range(0, len(subjects), step):
            columns = [_of_block(block, start, start + step) for block in held]
            yield _Frame(list(subjects[start : start + step]), columns)


def _of_block(block: Block, start: int, stop: int) -> _Column:
    cells = block.cells[start:stop]
    if isinstance(block, Singles):
        column = _column(block.predicate, cells)  # type: ignore[arg-type]
    else:
        sets: Sequence[tuple[Value, ...]] = cells  # type: ignore[assignment]
        column = _column(block.predicate, list(chain.from_iterable(sets)))
        column.sizes = list(map(len, sets))
    column.times, column.replicas = block.time, block.replica
    return column


def _column(predicate: str, cells: Sequence[Value]) -> _Column:
    """A column without stamps. References and what repeats itself is packed once."""
    types = set(map(type, cells))
    if types == {Ref}:
        places: dict[Any, int] = {}
        at = [places.setdefault(cell, len(places)) for cell in cells]
        return _Column(predicate, 0, "", list(map(str.__str__, places)), at, None, True)
    return _Column(predicate, 0, "", list(cells))


# -- unpacking -----------------------------------------------------------------------------------------------------


class Unpacker:
    """Reads bodies, one after the other."""

    def __init__(self) -> None:
        self._refs: dict[str, Ref] = {}

    def rows(self, body: bytes) -> tuple[list[Change], list[_Frame]]:
        """The registers of a body that lie in rows, and the others. Raises `ValueError` or `TypeError`."""
        if body[:1] != MARK:
            return list(map(Change._make, _decode_rows(body))), []
        whole = _decode_body(memoryview(body)[1:])
        return list(map(Change._make, whole.rows)), whole.frames

    def cells(self, column: _Column, count: int) -> list[Any]:
        """A value for each of the subjects, or a tuple of the members of its set."""
        cells = column.cells
        if column.refers:
            refs = self._refs
            for text in cells:
                if text not in refs:
                    refs[text] = Ref(text)
            cells = list(map(refs.__getitem__, cells))
        if column.places is not None:
            cells = list(map(cells.__getitem__, column.places))
        if column.sizes is not None:
            each = iter(cells)
            cells = [tuple(islice(each, size)) for size in column.sizes]
        if len(cells) != count:
            raise ValueError(f"a column of {len(cells)} cells for {count} subjects")
        return cells

    def changes(self, body: bytes) -> list[Change]:
        """All registers of a body."""
        rows, frames = self.rows(body)
        for frame in frames:
            for column in frame.columns:
                rows += self._changes(frame.subjects, column)
        return rows

    def _changes(self, subjects: list[str], column: _Column) -> Iterator[Change]:
        cells = self.cells(column, len(subjects))
        times: Iterable[int] = repeat(column.times) if isinstance(column.times, int) else column.times
        replicas: Iterable[str] = (
            repeat(column.replicas) if isinstance(column.replicas, str) else column.replicas
        )
        for subject, cell, time, replica in zip(subjects, cells, times, replicas, strict=False):
            if column.sizes is None:
                yield Change(subject, column.predicate, SINGLE, cell, time, replica)
            else:
                yield from Sets(column.predicate, [subject], [cell], time, replica).changes()

    def load(self, store: Store, body: bytes) -> tuple[int, int]:
        """Sets the registers of a body, whatever stood there; returns how many there are, and how many of them are
        known to be the first at their places."""
        rows, frames = self.rows(body)
        store.put(rows)
        count, fresh = len(rows), 0
        for frame in frames:
            subjects = frame.subjects
            is_sound = len(dict.fromkeys(subjects)) == len(subjects)
            for column in frame.columns:
                cells, times, replicas = self.cells(column, len(subjects)), column.times, column.replicas
                size = len(cells) + (0 if column.sizes is None else sum(column.sizes))
                count += size
                if column.sizes is None:
                    is_loaded = is_sound and store.load_column(
                        column.predicate, subjects, cells, times, replicas
                    )
                elif isinstance(times, int) and isinstance(replicas, str):
                    is_loaded = is_sound and store.load_sets(
                        column.predicate, subjects, cells, (times, replicas)
                    )
                else:
                    raise ValueError("sets of several stamps in one column")
                if is_loaded:
                    fresh += size
                else:
                    store.put(self._changes(subjects, column))
        return count, fresh


def encode_pending(changes: Sequence[Change], check: Check | None) -> bytes:
    """The changes of an unsent transaction, with its check before them. A version that knows no checks cannot read
    that, rather than send it without."""
    body = encode_registers(changes)
    return body if check is None else GUARDED + msgspec.msgpack.encode((check, body))


def decode_pending(body: bytes) -> tuple[list[Change], Check | None]:
    """What `encode_pending` packed; raises `ValueError` for anything else.

    >>> decode_pending(encode_pending([], Check("[:find ?u . :where [?u :user/name]]")))[1].query
    '[:find ?u . :where [?u :user/name]]'
    """
    if body[: len(GUARDED)] != GUARDED:
        return decode_registers(body), None
    check, changes = _decode_guarded(body[len(GUARDED) :])
    return decode_registers(changes), check


def decode_registers(body: bytes) -> list[Change]:
    """What `encode_registers` packed; raises `ValueError` for anything else.

    >>> change = Change("ada", "user/boss", "", Ref("bob"), 1, "a")
    >>> decode_registers(encode_registers([change])) == [change]
    True
    """
    return Unpacker().changes(body)
