"""Many registers at once, into a store and out of it: by columns, where one by one takes several times as long.

Invariants: `absorb` leaves what `Store.apply` would leave, whatever is there and however often a register comes; what
`contents` gives is each register of a store once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from tripleweb.blocks import Block, Changes, Sets, Singles
from tripleweb.cells import value_order
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key, outranks
from tripleweb.delta import ColumnDelta, Delta, net
from tripleweb.store import Store
from tripleweb.terms import Ref, Value
from tripleweb.view import ABSENT

SLICE = 50_000  # registers that are sorted by columns at a time
STEP = 10_000  # that are merged between two looks at the clock
FEW = 50  # of a column, or of all, that are not worth it


def absorb(store: Store, changes: Iterable[Change]) -> Delta:
    """Merges registers of which many are the first at their places; equal references become one object.

    >>> store = Store()
    >>> absorb(store, [Change("ada", "user/age", "", 36, 1, "a"), Change("ada", "user/age", "", 37, 2, "a")]).added
    [('ada', 'user/age', 37)]
    """
    source, refs, deltas = iter(changes), dict[Ref, Ref](), []
    while some := list(islice(source, SLICE)):
        deltas.append(store.apply(some) if len(some) < FEW else _absorb(store, some, refs))
    return net(deltas)


def gather(store: Store, pieces: Iterable[Sequence[Change]]) -> Iterator[int]:
    """What absorbing all pieces would leave, in steps that say how many registers they were about. Of a register that
    comes again and again only what stands is merged, as far as `SLICE` others have not come between.

    >>> store = Store()
    >>> list(gather(store, [[Change("ada", "user/age", "", 36, 1, "a")], [Change("ada", "user/age", "", 37, 2, "a")]]))
    [1, 1, 1]
    >>> store.values("ada", "user/age")
    [37]
    """
    newest: dict[Key, Change] = {}
    for piece in pieces:
        for change in piece:
            key = change[:3]
            held = newest.get(key)
            if (
                held is None
                or held[4:] < change[4:]
                or (held[4:] == change[4:] and outranks(change[3], held[3]))
            ):
                newest[key] = change
        yield len(piece)
        if len(newest) >= SLICE:
            yield from _poured(store, newest)
    yield from _poured(store, newest)


def _poured(store: Store, newest: dict[Key, Change]) -> Iterator[int]:
    source = iter(newest.values())
    while some := list(islice(source, STEP)):
        absorb(store, some)
        yield len(some)
    newest.clear()


def _absorb(store: Store, changes: list[Change], refs: dict[Ref, Ref]) -> Delta:
    columns: dict[str, list[Change]] = {}
    rest: list[Change] = []
    for change in changes:
        if change[2] == SINGLE and change[3] is not None and change[1] != DELETED:
            try:
                columns[change[1]].append(change)
            except KeyError:
                columns[change[1]] = [change]
        else:
            rest.append(change)
    rest, sets = whole_sets(rest)
    blocks: list[Block] = []
    for predicate, held in columns.items():
        if len(held) < FEW:
            rest += held
            continue
        subjects, _, _, cells, times, replicas = map(list, zip(*held, strict=True))
        if Ref in set(map(type, cells)):
            cells = [refs.setdefault(cell, cell) if type(cell) is Ref else cell for cell in cells]
        if len(dict.fromkeys(subjects)) == len(subjects) and store.load_column(
            predicate, subjects, cells, times, replicas
        ):
            blocks.append(Singles(predicate, subjects, cells, -1, ""))  # stamps are nothing to a delta
        else:
            rest += held
    for block in sets:
        block.cells = [
            tuple([refs.setdefault(cell, cell) if type(cell) is Ref else cell for cell in cells])
            for cells in block.cells
        ]
        if len(dict.fromkeys(block.subjects)) == len(block.subjects) and store.load_sets(
            block.predicate, block.subjects, block.cells, (block.time, block.replica)
        ):
            blocks.append(block)
        else:
            rest += block.changes()
    return net([ColumnDelta([], [], blocks), store.apply(rest)])


def whole_sets(registers: Iterable[Change]) -> tuple[list[Change], list[Sets]]:
    """Registers: those that are of no whole set, and the sets that were assigned at one stamp and not written to since,
    in blocks. The registers of one field are to follow each other, or they make none."""
    found: dict[tuple[str, int, str], tuple[list[str], list[tuple[Value, ...]]]] = {}
    rest: list[Change] = []
    for (subject, predicate), group in groupby(registers, itemgetter(0, 1)):
        held = list(group)
        marker = [one for one in held if one[2] == RESET]
        members = [one for one in held if one[2] != RESET]
        is_whole = len(marker) == 1 and all(
            one[3] is not None and one[4:] == marker[0][4:] and one[2] and one[2][:2] != COUNTER
            for one in members
        )
        if is_whole and len({one[2] for one in members}) == len(members):
            subjects, cells = found.setdefault((predicate, *marker[0].stamp), ([], []))
            values: list[Any] = [one[3] for one in members]
            subjects.append(subject)
            cells.append(tuple(sorted(values, key=value_order) if len(values) > 1 else values))
        else:
            rest += held
    return rest, [
        Sets(predicate, subjects, cells, time, replica)
        for (predicate, time, replica), (subjects, cells) in found.items()
    ]


def contents(store: Store) -> Changes:
    """All registers of a store, in blocks where many have one stamp."""
    blocks: list[Block] = []
    loose: list[Change] = []
    for predicate in store.written():
        table, column = store.column(predicate)
        names, entities, replicas = store.names, table.entities, store.replicas
        singles: dict[tuple[int, int], tuple[list[str], list[Any]]] = {}
        several: list[Change] = []
        rows = zip(entities, column.values, column.times, column.replicas, strict=False)
        for row, (entity, value, time, replica) in enumerate(rows):
            if value is ABSENT:
                if time >= 0 or row in column.cells:
                    several += store.registers_at(names[entity], predicate)
                continue
            subjects, cells = singles.setdefault((time, replica), ([], []))
            subjects.append(names[entity])
            cells.append(value)
        for (time, replica), (subjects, cells) in singles.items():
            block = Singles(predicate, subjects, cells, time, replicas[replica])
            if len(block) < FEW:
                loose += block.changes()
            else:
                blocks.append(block)
        rest, sets = whole_sets(several)
        loose += rest
        for whole in sets:
            if len(whole) < FEW:
                loose += whole.changes()
            else:
                blocks.append(whole)
    return Changes([[*store.graves(), *loose], *blocks])


def loaded(registers: Iterable[Change]) -> Store:
    """A new store with these."""
    store, source, refs = Store(), iter(registers), dict[Ref, Ref]()
    while some := list(islice(source, SLICE)):
        _absorb(store, some, refs)
    return store


def replace(store: Store, registers: list[Change]) -> Delta:
    """Makes registers the whole content of a store, whatever was there; one may come again, as it was later."""
    if not store.written() and not store.has_graves:
        return absorb(store, registers)
    keys = {register.key for register in registers}
    if len(keys) < len(registers):
        registers = list(loaded(registers).registers())
    gone = [register.key for register in store.registers() if register.key not in keys]
    revive = [subject for subject, predicate, _ in gone if predicate == DELETED]
    return store.put(registers, gone, revive)
