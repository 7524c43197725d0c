"""The difference of two frames as the smallest transaction: `db.apply(before, after)`.

Rows are matched by their ids. A cell counts as changed where its value is another one: 1 is 1.0, and all that pandas
takes for missing is one thing. Invariants: what is equal in both frames is not written, whatever somebody else has made
of it meanwhile; many-valued fields change member by member and counters by what was added, so that concurrent edits
merge; all of it is one transaction, and what is wrong with a row is said with its id, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
from pandas.api.types import is_integer_dtype, is_object_dtype

from tripleweb.because import plain
from tripleweb.datalog.builtins import inward, order
from tripleweb.errors import SchemaError
from tripleweb.schema import Schema

ID = "id"
_SEVERAL = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Applied:
    """What was written. `cells` counts changed cells of rows that stay."""

    inserted: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    cells: int = 0

    def __repr__(self) -> str:
        def some(ids: list[str], what: str) -> str:
            return f"{len(ids):,} row{'s' * (len(ids) != 1)} {what}" if ids else ""

        changed = (
            f"{self.cells:,} cell{'s' * (self.cells != 1)} of {some(self.updated, 'changed')}"
            if self.updated
            else ""
        )
        parts = [some(self.inserted, "inserted"), changed, some(self.deleted, "deleted")]
        return f"<{', '.join(filter(None, parts)) or 'nothing to write'}>"


class Editor(Protocol):
    """Who writes: a `Database`."""

    schema: Schema

    def insert(self, kind: str, /, *, id: str | None = None, **fields: Any) -> str: ...
    def update(self, kind: str, id: str, /, **fields: Any) -> None: ...
    def add(self, kind: str, id: str, /, **fields: Any) -> None: ...
    def remove(self, kind: str, id: str, /, **fields: Any) -> None: ...
    def increment(self, kind: str, id: str, /, **amounts: Any) -> None: ...
    def delete(self, id: str, /) -> None: ...


@dataclass
class Difference:
    """What leads from one frame to another, by id: fields of rows that are new (their ids may be left to be made),
    cells that changed as (before, after), and ids of rows that are gone."""

    new: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)
    changed: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Steps that it takes to write it."""
        return len(self.new) + len(self.changed) + len(self.gone)


def difference(before: pd.DataFrame, after: pd.DataFrame) -> Difference:
    """From one frame to another. Both have a column `id`, or an index of that name. Raises `ValueError` for ids that
    are missing (in `after`: of new rows they may be) or there twice, and for changes in columns such as `author.name`,
    which are fields of something else. Columns that `after` lacks count as not changed.

    >>> before = pd.DataFrame({"id": ["a", "b"], "n": [1, 2]})
    >>> found = difference(before, pd.DataFrame({"id": ["a", None], "n": [7, 3]}))
    >>> found.changed, found.new, found.gone
    ({'a': {'n': (1, 7)}}, [(None, {'n': 3})], ['b'])
    """
    old, new = _by_id(before, "before", False), _by_id(after, "after", True)
    fresh = new[new.index.isna()]
    new = new[new.index.notna()]
    staying = old.index.intersection(new.index, sort=False)
    found = Difference(gone=[str(one) for one in old.index.difference(new.index, sort=False)])
    for column in new.columns:
        name = str(column)
        was = old.loc[staying, column] if column in old.columns else pd.Series(None, staying, dtype=object)
        now = new.loc[staying, column]
        drifts = is_integer_dtype(was.dtype) and not is_integer_dtype(now.dtype)
        for at, (one, other) in _changed(was, now):
            if drifts and isinstance(one, int) and isinstance(other, float) and float(one) == other:
                continue  # as near to it as a float can be: beyond 2**53 that is not equal
            if "." in name:
                whose = name.rpartition(".")[0]
                raise ValueError(
                    f"{name} of {at} changed: it is a field of what {whose} refers to; write it there"
                )
            if drifts and isinstance(other, float) and other.is_integer():
                other = int(other)  # a missing cell elsewhere in the column has made floats of all
            found.changed.setdefault(at, {})[name] = one, other
    for rows, given in ((new[~new.index.isin(old.index)], True), (fresh, False)):
        for at, cells in zip(rows.index, rows.itertuples(index=False, name=None), strict=True):
            fields = {str(name): plain(cell) for name, cell in zip(rows.columns, cells, strict=True)}
            present = {name: cell for name, cell in fields.items() if cell is not None and "." not in name}
            found.new.append((str(at) if given else None, present))
    return found


def _by_id(frame: pd.DataFrame, what: str, may_lack: bool) -> pd.DataFrame:
    """The frame with its ids as the index, as text, and no column of that name."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{what} is a DataFrame, not {type(frame).__name__}")
    if ID not in frame.columns and frame.index.name != ID:
        raise ValueError(f"{what} has no column {ID!r}, by which its rows are known")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{what} has the column {twice!r} twice")
    ids = frame[ID] if ID in frame.columns else frame.index.to_series()
    if not may_lack and ids.isna().any():
        raise ValueError(f"{what} has a row without id: row {int(ids.isna().to_numpy().argmax())}")
    named = [None if lacks else str(one) for one, lacks in zip(ids, ids.isna(), strict=True)]
    texts = pd.Index(named, dtype=object)
    known = texts[texts.notna()]
    if not known.is_unique:
        raise ValueError(f"{what} has the id {known[known.duplicated()][0]!r} more than once")
    return frame.drop(columns=[ID], errors="ignore").set_axis(texts, axis=0)


def _changed(was: pd.Series, now: pd.Series) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The rows at which two columns differ, with both values."""
    if was.dtype == now.dtype and not is_object_dtype(was.dtype):
        differs = ~((was == now).fillna(False).to_numpy(bool) | (was.isna() & now.isna()).to_numpy(bool))
        was, now = was[differs], now[differs]
    for at, one, other in zip(was.index, was, now, strict=True):
        one, other = plain(one), plain(other)
        if not _is_same(one, other):
            yield str(at), (one, other)


def _is_same(one: Any, other: Any) -> bool:
    if one is None or other is None or isinstance(one, _SEVERAL) or isinstance(other, _SEVERAL):
        return _members(one).keys() == _members(other).keys() if not (one is None and other is None) else True
    return bool(order(inward(one)) == order(inward(other)))


def _members(cell: Any) -> dict[Any, Any]:
    """The members of a many-valued cell by what makes them equal; of a single value that alone."""
    if cell is None:
        return {}
    members = [plain(one) for one in cell] if isinstance(cell, _SEVERAL) else [cell]
    return {order(inward(one)): one for one in members if one is not None}


def kind_of_frames(before: pd.DataFrame, after: pd.DataFrame, fields: Mapping[str, set[str]]) -> str:
    """Of what kind the rows of two frames are: as `db.frame` and `db.select` have noted, else the one that has a field
    for each of their columns; `fields` are those of each kind. Raises `ValueError`."""
    for frame in (before, after):
        if isinstance(noted := frame.attrs.get("tripleweb_kind"), str):
            return noted
    columns = {str(name) for frame in (before, after) for name in frame.columns if "." not in str(name)} - {
        ID
    }
    fitting = sorted(kind for kind, names in fields.items() if columns <= names)
    if len(fitting) != 1:
        found = f"{len(fitting)} kinds have" if fitting else "no kind has"
        raise ValueError(
            f"of what kind are these rows? {found} the fields {', '.join(sorted(columns))}: give kind="
        )
    return fitting[0]


def write(
    editor: Editor, kind: str, found: Difference, delete: bool, tell: Callable[[int, int], None]
) -> Applied:
    """Writes a difference, within a transaction. Raises as the methods of `editor` do, a `SchemaError` with the id of
    the row."""
    inserted: list[str] = []
    cells = sum(map(len, found.changed.values()))
    gone = found.gone if delete else []
    for done, (id, fields) in enumerate(found.new):
        tell(done, found.size)
        with _said_of(id or "without id"):
            inserted.append(_insert(editor, kind, id, fields))
    for done, (at, changes) in enumerate(found.changed.items(), len(found.new)):
        tell(done, found.size)
        with _said_of(at):
            _change(editor, kind, at, changes)
    for at in gone:
        editor.delete(at)
    return Applied(inserted, list(found.changed), list(gone), cells)


@contextmanager
def _said_of(row: str) -> Iterator[None]:
    try:
        yield
    except SchemaError as error:
        raise SchemaError(f"row {row}: {error}") from None


def _insert(editor: Editor, kind: str, id: str | None, fields: Mapping[str, Any]) -> str:
    return editor.insert(
        kind, id=id, **{name: _whole(editor, kind, name, cell) for name, cell in fields.items()}
    )


def _change(editor: Editor, kind: str, at: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
    assigned: dict[str, Any] = {}
    for name, (was, now) in changes.items():
        known = editor.schema.field(kind, name)
        if known.counter:
            editor.increment(kind, at, **{name: (0 if now is None else now) - (0 if was is None else was)})
        elif known.many or isinstance(was, _SEVERAL) or isinstance(now, _SEVERAL):
            old, new = _members(was), _members(now)
            if gone := {one for key, one in old.items() if key not in new}:
                editor.remove(kind, at, **{name: gone})
            if come := {one for key, one in new.items() if key not in old}:
                editor.add(kind, at, **{name: come})
        else:
            assigned[name] = now
    if assigned:
        editor.update(kind, at, **assigned)


def _whole(editor: Editor, kind: str, name: str, cell: Any) -> Any:
    """A cell of a new row as `insert` takes it."""
    if isinstance(cell, _SEVERAL) and not editor.schema.field(kind, name).many:
        return set(cell)
    return cell
