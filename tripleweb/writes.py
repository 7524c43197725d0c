"""The writes of a client, by the rules of its schema: what `db.insert`, `update`, `add` … put into a transaction.

Each function takes the `Transaction` to write to and the `Schema` (`SCHEMALESS` for none). Invariant: whatever can
be wrong is found before anything is written, so that a call that raises has changed nothing, also in the middle of a
longer transaction. What they raise: `SchemaError` (the data does not fit), `DeletedError` (the entity was deleted),
`ValueError` and `TypeError` (not a value, not an id).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite, isinf
from typing import Any, Final, NamedTuple

from tripleweb.errors import DeletedError, SchemaError
from tripleweb.ids import RandomBytes, check_id, check_predicate, kind_of, nano_id
from tripleweb.schema import Field, Schema
from tripleweb.terms import INT_MAX, INT_MIN, TEXT_BYTES_MAX, Value, normalise, slot
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


def key_names(id: str | Iterable[str] | None) -> list[str]:
    """The names of key columns; raises `TypeError` for what is none."""
    if id is None:
        return []
    names: list[Any] = [id] if isinstance(id, str) or not isinstance(id, Iterable) else list(id)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"id= takes names of columns (text), not {name!r}")
    return names


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
) -> Inserted:
    """Inserts many entities of a kind at once; `columns` are lists of the same length, one cell a row. NaN, None
    and pandas' missing values are no values: such a cell leaves alone what is there.

    `id` names the column whose text is the id, or the columns whose texts are joined by `/` (integers in decimal,
    dates as stored), after `prefix`. They are written as fields, too, except one called `id` and those that the
    schema does not know. Errors name the row, counted from 0; a missing or repeated key is a `ValueError`.
    `deleted="skip"` leaves out rows whose id was deleted.
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
    subjects = _subjects(columns, keys, prefix, count, random_bytes)
    fields: _Plan = []
    for name, cells in columns.items():
        if name in keys and (name == "id" or not (schema.is_open or name in known)):
            continue
        field = schema.field(kind, name, cells[0] if count else None)
        fields.append((field, _taken(field, cells)))
    rows = range(count)
    skipped: list[str] = []
    dead = [row for row, subject in enumerate(subjects) if tx.store.deleted(subject) is not None]
    if dead and deleted == "raise":
        _in_row(dead[0], tx.check, subjects[dead[0]])
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
                    cells[row] = _in_row(row, _missing, tx, field, subjects[row])
    _check_not_empty(tx, kind, subjects, [cells for _, cells in fields])
    counters = [(field, cells) for field, cells in fields if field.counter]
    for row in rows if counters else ():
        _in_row(row, _check_counts, tx, subjects[row], [(field, cells[row]) for field, cells in counters])
    tx.set_columns(
        subjects, [(field.predicate, _singles(cells)) for field, cells in fields if not field.counter]
    )
    for field, cells in fields:
        if field.counter or _has_lists(cells):
            for subject, taken in zip(subjects, cells, strict=True):
                if type(taken) is list or (field.counter and taken is not None):
                    _write(tx, subject, field, taken)
    return Inserted(subjects, skipped)


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


def _subjects(
    columns: Mapping[str, Sequence[Any]],
    keys: list[str],
    prefix: str,
    count: int,
    random_bytes: RandomBytes,
) -> list[str]:
    if not keys:
        return [check_id(prefix + nano_id(random_bytes)) for _ in range(count)]
    for name in keys:
        if name not in columns:
            raise ValueError(f"no column {name!r} to take ids from; there are {', '.join(columns)}")
    parts = [_key_texts(name, columns[name]) for name in keys]
    seen: dict[str, int] = {}
    for row, texts in enumerate(zip(*parts, strict=True)):
        try:
            subject = check_id(prefix + "/".join(texts))
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
        before = seen.setdefault(subject, row)
        if before != row:
            raise ValueError(f"row {row}: the key {subject!r} is that of row {before}, too; keys must differ")
    return list(seen)


def _key_texts(name: str, cells: Sequence[Any]) -> Sequence[str]:
    """The cells of a key column as (parts of) ids."""
    types = set(map(type, cells))
    if types == {str}:
        return cells
    if types == {int} and min(cells) >= INT_MIN and max(cells) <= INT_MAX:
        return list(map(str, cells))
    return [_in_row(row, _key_text, name, cell) for row, cell in enumerate(cells)]


def _key_text(name: str, cell: Any) -> str:
    """A cell as (a part of) an id: text as it is, other values in their canonical form."""
    value = None if isinstance(cell, float) and cell != cell else normalise(cell)
    if value is None:
        raise ValueError(f"no value in the key column {name!r}")
    return str(value) if isinstance(value, str) else slot(value)[2:]


def _taken(field: Field, cells: Sequence[Any]) -> list[Any]:
    """A column as its field takes it; None where there is no value."""
    if field.check is None and not (field.many or field.counter):
        plain = _plain(field.type, cells)
        if plain is not None:
            return plain
    take = field.amount if field.counter else field.take
    out: list[Any] = []
    try:
        for cell in cells:
            out.append(None if isinstance(cell, float) and cell != cell else take(cell))
    except (ValueError, TypeError) as error:
        raise _of_row(len(out), error) from error.__cause__
    return out


def _plain(letter: str, cells: Sequence[Any]) -> list[Any] | None:
    """The cells as they are, where one look at the whole column says that they are values of a field's kind as it
    stores them (or missing); None where each has to be asked."""
    types = set(map(type, cells))
    some_missing = type(None) in types
    types.discard(type(None))
    if len(types) != 1:
        return None
    only = types.pop()
    given = [cell for cell in cells if cell is not None] if some_missing else cells
    if only is float and letter in ("", "n"):
        if not all(map(isfinite, given)):
            if any(map(isinf, given)):
                return None
            return [None if cell is None or cell != cell else cell for cell in cells]
    elif only is int and letter in ("", "n"):
        if min(given) < INT_MIN or max(given) > INT_MAX:
            return None
    elif only is str and letter in ("", "s"):
        if not all(map(str.isascii, given)) or max(map(len, given)) > TEXT_BYTES_MAX:
            return None
    elif not (only is bool and letter in ("", "b")):
        if not (only is datetime and letter in ("", "d") and all(cell.tzinfo is UTC for cell in given)):
            return None
    return list(cells)


def _singles(cells: list[Any]) -> list[Any]:
    """The cells that are single values; None for the others."""
    return [None if type(cell) is list else cell for cell in cells] if _has_lists(cells) else cells


def _has_lists(cells: list[Any]) -> bool:
    return list in map(type, cells)


def _check_not_empty(tx: Transaction, kind: str, subjects: list[str], columns: list[list[Any]]) -> None:
    """Raises for a row without any value, unless the entity is there."""
    if any(None not in cells and not _has_lists(cells) for cells in columns):
        return
    for row, subject in enumerate(subjects):
        if all(cells[row] is None or cells[row] == [] for cells in columns):
            if all(kind_of(predicate) != kind for predicate, _ in tx.store.about(subject)):
                raise SchemaError(f"row {row}: {kind} {subject!r}: expected at least one field with a value")


def _in_row(row: int, step: Any, *arguments: Any) -> Any:
    """Calls `step`; what it raises names the row."""
    try:
        return step(*arguments)
    except (DeletedError, ValueError, TypeError) as error:
        raise _of_row(row, error) from error.__cause__


def _of_row(row: int, error: Exception) -> Exception:
    """The error with its row in the message; in a note where it is of a kind that only its maker can make."""
    if type(error) in (SchemaError, DeletedError, ValueError, TypeError):
        return type(error)(f"row {row}: {error}")
    error.add_note(f"in row {row}")
    return error
