"""The columns of a frame as they are stored: ids, and values as their fields take them, checked column by column.

Invariants: what comes out is what `ids.check_id` and `Field.take` would give cell by cell, and where they would raise,
so does this, naming the row (counted from 0). A column that comes out may be modified by whoever asked for it. Equal
ids that are referred to become one object, and so does text, a date or a number that a column repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from math import isfinite, isinf
from typing import Any

from tripleweb.errors import DeletedError, SchemaError
from tripleweb.ids import BYTES_MAX, RandomBytes, check_id, nano_ids
from tripleweb.schema import Field
from tripleweb.terms import INT_MAX, INT_MIN, TEXT_BYTES_MAX, Ref, normalise, slot

SAMPLE = 1_000  # cells of a column by which one sees whether it repeats itself
_ONE_KIND = {str: "s", int: "n", Ref: "r"}  # exact types whose equal members are one


def key_names(id: str | Iterable[str] | None) -> list[str]:
    """The names of key columns; raises `TypeError` for what is none."""
    if id is None:
        return []
    names: list[Any] = [id] if isinstance(id, str) or not isinstance(id, Iterable) else list(id)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"id= takes names of columns (text), not {name!r}")
    return names


def taken_ids(
    columns: Mapping[str, Sequence[Any]],
    keys: list[str],
    prefix: str,
    count: int,
    random_bytes: RandomBytes,
) -> list[str]:
    """The ids of rows: joined from the columns `keys`, or new ones."""
    if not keys:
        made = nano_ids(random_bytes, count)
        return [check_id(prefix + each) for each in made] if prefix else made
    for name in keys:
        if name not in columns:
            raise ValueError(f"no column {name!r} to take ids from; there are {', '.join(columns)}")
    parts = [_key_texts(name, columns[name]) for name in keys]
    if len(parts) == 1 and not prefix and are_plain_ids(parts[0]):
        different = dict.fromkeys(parts[0])
        if len(different) == len(parts[0]):
            return list(different)
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


def are_plain_ids(texts: Iterable[str]) -> bool:
    """True if a look says that all of these are ids; where it is false each has to be asked."""
    texts = list(texts)
    if not texts or set(map(type, texts)) != {str} or not all(texts) or max(map(len, texts)) > BYTES_MAX:
        return False
    whole = "".join(texts)
    return whole.isascii() and whole.isprintable()


def _key_texts(name: str, cells: Sequence[Any]) -> Sequence[str]:
    """The cells of a key column as (parts of) ids."""
    types = set(map(type, cells))
    if types == {str}:
        return cells
    if types == {int} and min(cells) >= INT_MIN and max(cells) <= INT_MAX:
        return list(map(str, cells))
    return [in_row(row, _key_text, name, cell) for row, cell in enumerate(cells)]


def _key_text(name: str, cell: Any) -> str:
    """A cell as (a part of) an id: text as it is, other values in their canonical form."""
    value = None if isinstance(cell, float) and cell != cell else normalise(cell)
    if value is None:
        raise ValueError(f"no value in the key column {name!r}")
    return str(value) if isinstance(value, str) else slot(value)[2:]


def taken_column(field: Field, cells: Sequence[Any], refs: dict[str, Ref]) -> list[Any]:
    """A column as its field takes it; None where there is no value, a list where there are several. `refs` has the
    references that were made before, by their ids, and gets those that are made."""
    if field.check is None and not field.counter:
        cells = _without_missing(cells)
        found = _plain_sets(field, cells, refs)
        if found is None and not field.many:
            found = _plain_refs(field.type, cells, refs) or _plain(field.type, cells)
        if found is not None:
            return found
    take = field.amount if field.counter else field.take
    out: list[Any] = []
    try:
        for cell in cells:
            out.append(None if isinstance(cell, float) and cell != cell else take(cell))
    except (ValueError, TypeError) as error:
        raise of_row(len(out), error) from error.__cause__
    return out


def _without_missing(cells: Sequence[Any]) -> Sequence[Any]:
    """The cells with None for pandas' missing values; NaN is one of these in a column of something else."""
    types = set(map(type, cells))
    of_pandas = {
        cls for cls in types if cls.__module__.startswith("pandas.") and cls.__name__ in ("NAType", "NaTType")
    }
    if float in types and len(types) > 1:
        return [None if type(c) in of_pandas or (type(c) is float and c != c) else c for c in cells]
    return [None if type(c) in of_pandas else c for c in cells] if of_pandas else cells


def _plain(letter: str, cells: Sequence[Any]) -> list[Any] | None:
    """The cells as they are, where one look at the whole column says that they are values of a field's kind as it
    stores them (or missing); None where each has to be asked."""
    only, given = _one_type(cells)
    if only is float and letter in ("", "n"):
        if not all(map(isfinite, given)):
            if any(map(isinf, given)):
                return None
            return [None if cell is None or cell != cell else cell for cell in cells]
        return list(cells)
    if only is bool and letter in ("", "b"):
        return list(cells)
    if only is int and letter in ("", "n"):
        if min(given) < INT_MIN or max(given) > INT_MAX:
            return None
    elif only is str and letter in ("", "s"):
        if max(map(len, given)) > TEXT_BYTES_MAX // 4 or not _is_unicode("".join(given)):
            return None
    elif not (only is datetime and letter in ("", "d") and all(cell.tzinfo is UTC for cell in given)):
        return None
    return _shared(cells)


def _is_unicode(text: str) -> bool:
    """False if there are lone surrogates in it."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _one_type(cells: Sequence[Any]) -> tuple[type | None, Sequence[Any]]:
    """The type that all cells have which are not None, and these; None if there is no such type."""
    types = set(map(type, cells))
    if type(None) not in types:
        return (types.pop() if len(types) == 1 else None), cells
    types.discard(type(None))
    return (types.pop() if len(types) == 1 else None), [cell for cell in cells if cell is not None]


def _shared(cells: Sequence[Any]) -> list[Any]:
    """The cells, equal ones as one object where the column repeats itself. They are of one type but for None."""
    some = cells[:: max(1, len(cells) // SAMPLE)]
    again = len(some) - len(set(some))  # of n cells out of d different ones, about n² / 2d
    if len(cells) < SAMPLE or len(some) ** 2 > again * len(cells):
        return list(cells)
    one: dict[Any, Any] = {}
    return list(map(one.setdefault, cells, cells))


def _plain_refs(letter: str, cells: Sequence[Any], refs: dict[str, Ref]) -> list[Any] | None:
    """Ids as references, where one look says that they are ids; None where each has to be asked."""
    only, given = _one_type(cells)
    if not (only is Ref and letter in ("", "r")) and not (only is str and letter == "r"):
        return None
    if not _refer(given, refs):
        return None
    found: list[Any] = list(map(refs.get, cells))
    return found


def _refer(ids: Iterable[str], refs: dict[str, Ref]) -> bool:
    """Makes the references to ids that are not there yet; False where one is maybe none."""
    fresh = [text for text in dict.fromkeys(ids) if text not in refs]
    if fresh:
        texts = list(map(str.__str__, fresh))
        if not are_plain_ids(texts):
            return False
        refs.update(zip(texts, map(Ref, texts), strict=True))
    return True


def _plain_sets(field: Field, cells: Sequence[Any], refs: dict[str, Ref]) -> list[Any] | None:
    """Collections as sorted lists of their different members, where one look says what these are; None where each has
    to be asked."""
    types = set(map(type, cells))
    types.discard(type(None))
    if not types or not types <= ({list, tuple, set, frozenset} if field.many else {set, frozenset}):
        return None
    members = list(chain.from_iterable(cell for cell in cells if cell is not None))
    kinds = set(map(type, members))
    only = kinds.pop() if len(kinds) == 1 else None
    if members and only not in _ONE_KIND:
        return None
    letter = "r" if field.type == "r" and only is str else _ONE_KIND.get(only, "")  # type: ignore[arg-type]
    if members and field.type not in ("", letter):
        return None
    if not members:
        one: Mapping[Any, Any] = {}
    elif letter == "r":
        if not _refer(members, refs):
            return None
        one = refs
    else:
        different = list(dict.fromkeys(members))
        if _plain(letter, different) is None:
            return None
        one = dict(zip(different, different, strict=True))
    return [None if cell is None else sorted(map(one.__getitem__, dict.fromkeys(cell))) for cell in cells]


def has_lists(cells: list[Any]) -> bool:
    return list in map(type, cells)


def in_row(row: int, step: Any, *arguments: Any) -> Any:
    """Calls `step`; what it raises names the row."""
    try:
        return step(*arguments)
    except (DeletedError, ValueError, TypeError) as error:
        raise of_row(row, error) from error.__cause__


def of_row(row: int, error: Exception) -> Exception:
    """The error with its row in the message; in a note where it is of a kind that only its maker can make."""
    if type(error) in (SchemaError, DeletedError, ValueError, TypeError):
        return type(error)(f"row {row}: {error}")
    error.add_note(f"in row {row}")
    return error
