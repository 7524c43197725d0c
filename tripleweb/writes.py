"""The writes of a client, by the rules of its schema: what `db.insert`, `update`, `add` … put into a transaction.

Each function takes the `Transaction` to write to and the `Schema` (`SCHEMALESS` for none). Invariant: whatever can
be wrong is found before anything is written, so that a call that raises has changed nothing, also in the middle of a
longer transaction. What they raise: `SchemaError` (the data does not fit), `DeletedError` (the entity was deleted),
`ValueError` and `TypeError` (not a value, not an id).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tripleweb.errors import SchemaError
from tripleweb.ids import RandomBytes, check_id, check_predicate, kind_of, nano_id
from tripleweb.intake import has_lists, in_row, key_names, taken_column, taken_ids
from tripleweb.schema import Field, Schema
from tripleweb.terms import Ref, Value
from tripleweb.transaction import Transaction

EVERYTHING: Final = object()  # `unset` without a value: all of them
_Plan = list[tuple[Field, Any]]


class Inserted(NamedTuple):
    """What became of the rows of `insert_columns`."""

    ids: list[str]  # of the rows written, in their order
    skipped: list[str]  # ids left out because they were deleted


def insert(
    tx: Transaction,
    schema: Schema,
    kind: str,
    fields: Mapping[str, Any],
    *,
    id: str | None = None,
    random_bytes: RandomBytes,
) -> str:
    """Writes an entity and returns its id: a new nano id, or the given one (which merges with what is there).

    Fields left out (or None) get their default; required ones must be given, unless the id has a value already.

    >>> from tripleweb.schema import SCHEMALESS
    >>> from tripleweb.store import Store
    >>> tx = Transaction(Store(), 1, "a")
    >>> insert(tx, SCHEMALESS, "airport", {"name": "Kennedy"}, id="JFK", random_bytes=bytes)
    'JFK'
    """
    known = schema.fields(kind)
    subject = nano_id(random_bytes) if id is None else check_id(id)
    tx.check(subject)
    plan: _Plan = []
    for name, value in fields.items():
        field = schema.field(kind, name, value)
        taken = field.amount(value) if field.counter else field.take(value)
        if taken is not None:
            plan.append((field, taken))
    given = {field.name for field, _ in plan}
    for field in known.values():
        if field.name not in given and (filled := _missing(tx, field, subject)) is not None:
            plan.append((field, filled))
    if all(taken == [] for _, taken in plan):
        raise SchemaError(f"{kind} {subject!r}: expected at least one field with a value")
    _check_counts(tx, subject, plan)
    for field, taken in plan:
        _write(tx, subject, field, taken)
    return subject


def update(tx: Transaction, schema: Schema, kind: str, id: str, fields: Mapping[str, Any]) -> None:
    """Assigns fields of an entity (of an unknown id: creates it). None removes; a set is assigned whole."""
    schema.fields(kind)
    subject = check_id(id)
    tx.check(subject)
    plan: _Plan = []
    for name, value in fields.items():
        field = schema.field(kind, name, value)
        taken = field.take(value)
        if taken is None:
            field.check_removal(value)
        plan.append((field, taken))
    for field, taken in plan:
        _write(tx, subject, field, taken)


def add(tx: Transaction, schema: Schema, kind: str, id: str, fields: Mapping[str, Any]) -> None:
    """Adds members to many-valued fields: each merges by itself with what others add and remove."""
    subject, plan = _members(tx, schema, kind, id, fields, guard=True)
    for field, members in plan:
        for member in members:
            tx.add(subject, field.predicate, member)


def remove(tx: Transaction, schema: Schema, kind: str, id: str, fields: Mapping[str, Any]) -> None:
    """Removes members from many-valued fields."""
    subject, plan = _members(tx, schema, kind, id, fields, guard=False)
    for field, members in plan:
        for member in members:
            tx.remove(subject, field.predicate, member)


def increment(tx: Transaction, schema: Schema, kind: str, id: str, amounts: Mapping[str, Any]) -> None:
    """Counts amounts (of either sign) in counters."""
    schema.fields(kind)
    subject = check_id(id)
    tx.check(subject)
    plan: _Plan = []
    for name, value in amounts.items():
        field = schema.field(kind, name, value)
        counted = field.amount(value)
        if counted is None:
            raise field.misfit(value, "a number to count")
        plan.append((field, counted))
    for field, counted in plan:
        tx.counted(subject, field.predicate, counted)
    for field, counted in plan:
        tx.increment(subject, field.predicate, counted)


def delete(tx: Transaction, id: str) -> None:
    """Deletes an entity, every kind of it, for ever."""
    tx.delete(check_id(id))


def set_triple(tx: Transaction, schema: Schema, subject: str, predicate: str, value: Any) -> None:
    """Writes one triple. On a many-valued field a scalar adds one member and a collection assigns the whole;
    elsewhere a scalar assigns. None removes, as `unset_triple` does."""
    subject, field = check_id(subject), schema.at(check_predicate(predicate))
    tx.check(subject)
    if field.many and (isinstance(value, str) or not hasattr(value, "__iter__")):
        members = field.members(value)
        if members:
            tx.add(subject, field.predicate, members[0])
            return
        value = None
    taken = field.take(value)
    if taken is None:
        field.check_removal(value)
    _write(tx, subject, field, taken)


def unset_triple(
    tx: Transaction, schema: Schema, subject: str, predicate: str, value: Any = EVERYTHING
) -> None:
    """Removes everything at a predicate, or one member of it."""
    subject, field = check_id(subject), schema.at(check_predicate(predicate))
    tx.check(subject)
    if value is EVERYTHING:
        field.check_removal()
        _write(tx, subject, field, None)
        return
    field.check_removal(value)
    member = field.one(value, guard=False)
    if member is None:
        raise ValueError(f"{predicate}: expected a value to remove, got {value!r}")
    tx.remove(subject, predicate, member)


def insert_columns(
    tx: Transaction,
    schema: Schema,
    kind: str,
    columns: Mapping[str, Sequence[Any]],
    *,
    id: str | Sequence[str] | None = None,
    prefix: str = "",
    deleted: str = "raise",
    random_bytes: RandomBytes,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> Inserted:
    """Inserts many entities of a kind at once; `columns` are lists of the same length, one cell a row. NaN, None
    and pandas' missing values are no values: such a cell leaves alone what is there.

    `id` names the column whose text is the id, or the columns whose texts are joined by `/` (integers in decimal,
    dates as stored), after `prefix`. They are written as fields, too, except one called `id` and those that the
    schema does not know. Errors name the row, counted from 0; a missing or repeated key is a `ValueError`.
    `deleted="skip"` leaves out rows whose id was deleted. `tell` hears how many cells of how many are done.
    """
    if deleted not in ("raise", "skip"):
        raise ValueError(f'deleted={deleted!r}: expected "raise" or "skip"')
    keys = key_names(id)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix= is text, not {type(prefix).__name__}")
    known = schema.fields(kind)
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    count = next(iter(lengths.values()), 0)
    subjects = taken_ids(columns, keys, prefix, count, random_bytes)
    fields: _Plan = []
    known_refs: dict[str, Ref] = {}
    done, all_cells = 0, count * len(columns)
    for name, cells in columns.items():
        if name in keys and (name == "id" or not (schema.is_open or name in known)):
            continue
        field = schema.field(kind, name, cells[0] if count else None)
        fields.append((field, taken_column(field, cells, known_refs)))
        done += count
        tell(done // 2, all_cells)  # to check them takes about half of the time
    rows = range(count)
    skipped: list[str] = []
    dead: list[int] = []
    if tx.store.has_graves:
        dead = [row for row, subject in enumerate(subjects) if tx.store.deleted(subject) is not None]
    if dead and deleted == "raise":
        in_row(dead[0], tx.check, subjects[dead[0]])
    if dead:
        gone = set(dead)
        alive = [row for row in rows if row not in gone]
        skipped = [subjects[row] for row in dead]
        subjects = [subjects[row] for row in alive]
        fields = [(field, [cells[row] for row in alive]) for field, cells in fields]
        rows = range(len(subjects))
    given = {field.name: cells for field, cells in fields}
    for field in known.values():
        if field.name not in given:
            given[field.name] = [None] * len(subjects)
            fields.append((field, given[field.name]))
        cells = given[field.name]
        if (field.required or field.default is not None) and None in cells:
            for row in rows:
                if cells[row] is None:
                    cells[row] = in_row(row, _missing, tx, field, subjects[row])
    _check_not_empty(tx, kind, subjects, [cells for _, cells in fields])
    counters = [(field, cells) for field, cells in fields if field.counter]
    for row in rows if counters else ():
        in_row(row, _check_counts, tx, subjects[row], [(field, cells[row]) for field, cells in counters])
    singles, sets = [], []
    for field, cells in fields:
        if not field.counter and has_lists(cells):
            sets.append((field, [cell if type(cell) is list else None for cell in cells]))
            cells = [None if type(cell) is list else cell for cell in cells]
        if not field.counter and cells.count(None) < len(cells):
            singles.append((field.predicate, cells))

    def written() -> None:
        nonlocal done
        done = min(done + count, 2 * all_cells)
        tell(done // 2, all_cells)

    tx.set_columns(subjects, singles, written)
    for field, cells in sets:
        tx.assign_column(subjects, field.predicate, cells)
        written()
    for field, cells in counters:
        for subject, amount in zip(subjects, cells, strict=True):
            if amount is not None:
                tx.increment(subject, field.predicate, amount)
    return Inserted(list(subjects), skipped)  # the transaction goes on with its own


# -- inside ----------------------------------------------------------------------------------------------------


def _missing(tx: Transaction, field: Field, subject: str) -> Any:
    """What `insert` writes for a field that was not given: its default, unless the entity has a value."""
    if not field.required and field.default is None:
        return None
    if any(field.fits(value) for value in tx.store.values(subject, field.predicate)):
        return None
    if field.required:
        raise field.misfit(None, f"{field.description}: the field is required")
    return field.fill()


def _members(
    tx: Transaction, schema: Schema, kind: str, id: str, fields: Mapping[str, Any], *, guard: bool
) -> tuple[str, _Plan]:
    schema.fields(kind)
    subject = check_id(id)
    tx.check(subject)
    plan: _Plan = []
    for name, value in fields.items():
        field = schema.field(kind, name, value)
        plan.append((field, field.members(value, guard=guard)))
    return subject, plan


def _check_counts(tx: Transaction, subject: str, plan: _Plan) -> None:
    """Raises `ValueError` if an amount would make a counter outgrow its 64 bits."""
    for field, amount in plan:
        if field.counter and amount is not None:
            tx.counted(subject, field.predicate, amount)


def _write(tx: Transaction, subject: str, field: Field, taken: Value | list[Value] | None) -> None:
    """Writes what `Field.take`, `amount` or `fill` returned; None removes."""
    if field.counter:
        assert isinstance(taken, int | float)
        tx.increment(subject, field.predicate, taken)
    elif isinstance(taken, list):
        tx.assign(subject, field.predicate, taken)
    elif taken is None and field.many:
        tx.assign(subject, field.predicate, [])
    else:
        tx.set(subject, field.predicate, taken)


def _check_not_empty(tx: Transaction, kind: str, subjects: list[str], columns: list[list[Any]]) -> None:
    """Raises for a row without any value, unless the entity is there."""
    if any(None not in cells and not has_lists(cells) for cells in columns):
        return
    for row, subject in enumerate(subjects):
        if all(cells[row] is None or cells[row] == [] for cells in columns):
            if all(kind_of(predicate) != kind for predicate, _ in tx.store.about(subject)):
                raise SchemaError(f"row {row}: {kind} {subject!r}: expected at least one field with a value")
