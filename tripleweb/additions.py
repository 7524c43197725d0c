"""Triples that come to what is there: a transaction in which fields get values that were written elsewhere.

A single value is assigned, the members of a set are added to those that are there, a counter is brought to a total by
counting what it lacks. So doing it twice is doing it once, and no member that somebody added is lost. Invariants: what
does not fit its field is found by `check`, before anything is written; what belongs to a deleted entity is left out,
and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tripleweb.cells import total, value_order
from tripleweb.errors import SchemaError
from tripleweb.inventory import COUNT, MEMBER, SINGLE
from tripleweb.schema import Field
from tripleweb.terms import Value, kind, slot
from tripleweb.transaction import Transaction


class Place(NamedTuple):
    """The values that one field is to have. `holding` is one of `inventory`'s; what is not known is "": a single value
    where there is one, members where there are several, unless a schema knows better. `line`: where it comes from."""

    subject: str
    predicate: str
    values: Sequence[Value]  # different ones
    holding: str
    line: int


def check(field: Field, place: Place) -> Place:
    """The place as its field takes it, its holding known. Raises `SchemaError`, or `ValueError` of a free field."""
    subject, predicate, values, holding, line = place
    if field.type:
        holding = COUNT if field.counter else MEMBER if field.many else SINGLE
        if field.counter:
            for value in values:
                field.amount(value)
        else:
            taken = [
                _taken(field, value) for value in values
            ]  # text may become a reference that is there, too
            values = list({slot(value): value for value in taken}.values()) if len(taken) > 1 else taken
    elif not holding:
        holding = MEMBER if len(values) > 1 else SINGLE
    if holding == COUNT and not all(kind(value) == "n" for value in values):
        raise ValueError(f"{predicate} of {subject!r}: a counter's total is a number")
    if holding != MEMBER and len(values) > 1:
        what = "the total of a counter" if holding == COUNT else "a single value"
        said = f"{predicate} of {subject!r}: expected {what}, got {len(values)} different ones"
        raise SchemaError(said) if field.type else ValueError(said)
    return Place(subject, predicate, values, holding, line)


def _taken(field: Field, value: Value) -> Value:
    if field.check is None and kind(value) == field.type:
        return value
    taken = field.one(value)
    assert taken is not None
    return taken


def write(tx: Transaction, places: Sequence[Place], is_whole: bool) -> tuple[int, int]:
    """Writes checked places; returns how many values were written, and how many were left out, for their entities were
    deleted. `is_whole`: what is not in the store is nowhere, so that new sets may be assigned, which is faster."""
    singles: dict[str, dict[str, Value]] = {}
    sets: dict[str, dict[str, Sequence[Value]]] = {}
    written = left_out = 0
    store, has_graves = tx.store, tx.store.has_graves
    for place in places:
        subject, predicate, values, holding, _ = place
        if has_graves and store.deleted(subject) is not None:
            left_out += len(values)
            continue
        written += len(values)
        if holding == SINGLE:
            singles.setdefault(predicate, {})[subject] = values[0]
        elif holding == MEMBER:
            members = sets.setdefault(predicate, {})
            members[subject] = [*members.get(subject, ()), *values]  # a large set comes in pieces
        else:
            _count_up(tx, place)
    for predicate, found in sets.items():
        _add_members(tx, predicate, found, is_whole)
    for predicate, cells in singles.items():
        tx.set_columns(list(cells), [(predicate, list(cells.values()))])
    return written, left_out


def _add_members(
    tx: Transaction, predicate: str, members: dict[str, Sequence[Value]], is_whole: bool
) -> None:
    subjects = list(members)
    fresh = tx.store.untouched(predicate, subjects) if is_whole else [False] * len(subjects)
    new = [subject for subject, is_fresh in zip(subjects, fresh, strict=True) if is_fresh]
    for subject, is_fresh in zip(subjects, fresh, strict=True):
        if not is_fresh:
            there = {slot(value) for value in tx.store.values(subject, predicate)}
            for value in members[subject]:
                if slot(value) not in there:
                    tx.add(subject, predicate, value)
    if new:
        tx.assign_column(new, predicate, [sorted(members[subject], key=value_order) for subject in new])


def _count_up(tx: Transaction, place: Place) -> None:
    """Counts what a counter lacks."""
    wanted = total(place.values)
    there = [value for value in tx.store.values(place.subject, place.predicate) if kind(value) == "n"]
    held = total(there)
    lacks = wanted - held if there else wanted  # type: ignore[operator]
    if not there or lacks or (type(wanted) is float and type(held) is int):
        tx.increment(place.subject, place.predicate, lacks)  # type: ignore[arg-type]
