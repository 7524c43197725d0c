"""Where rows become pandas, and frames become columns of values: the only module that imports pandas.

The dtype of a column follows from its values, never from pandas' guess: whole numbers `int64`, any float makes
`float64`, `bool`, text pandas' default string dtype (whatever this version infers), dates `datetime64[us, UTC]`,
mixed kinds `object`. A column that can miss values (`nullable`) has `Int64`, `Float64` or `boolean`, whatever the
data. A column without any value takes the kind that the schema promises (`kinds`), else `object`. References are
text here; lists (many values) and dicts (pulls) stay as they are, in `object`.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, compress, count
from types import NoneType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

try:
    from pandas._config import using_string_dtype
except ImportError:  # to infer it each time takes longer than all else that a small frame needs
    using_string_dtype = None
from tripleweb.datalog.builtins import outward
from tripleweb.datalog.clauses import Clause, Constant, Or, Pattern, Variable
from tripleweb.datalog.pull import thawed
from tripleweb.datalog.query import Aggregate, Get, Query
from tripleweb.datalog.vectorised.columns import Column as ArrayColumn
from tripleweb.datalog.vectorised.columns import Sheaf
from tripleweb.ids import kind_of
from tripleweb.intake import key_names
from tripleweb.schema import Field, Schema, field_of
from tripleweb.store import Store
from tripleweb.tables import Column
from tripleweb.terms import KINDS, Ref
from tripleweb.view import ABSENT

Rows = Sequence[Sequence[Any]]
Array = Any  # of numpy or, where its dtype is pandas' own, of pandas
KNOWN_MAX = 512  # queries
PATCHED_FROM = 256  # rows; a frame of fewer is made anew as quickly
PIECES_MAX = 64  # of a frame that is patched
AHEAD_MAX = 64  # rows between two that stayed
_OUTWARD = frozenset((str, int, float, bool, datetime, NoneType, list, dict))
_MASKED: dict[str, tuple[str, Any]] = {
    "n": ("int64", pd.arrays.IntegerArray),
    "f": ("float64", pd.arrays.FloatingArray),
    "b": ("bool", pd.arrays.BooleanArray),
}
_LETTERS: dict[type, str] = {str: "s", Ref: "s", int: "n", float: "n", bool: "b", datetime: "d"}


class Answer(Protocol):
    """What a query answered (`datalog.evaluate.Result`)."""

    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Rows: ...


def result_frame(
    columns: Sequence[str],
    rows: Rows,
    *,
    kinds: Mapping[str, str] | None = None,
    nullable: Collection[str] = (),
    attrs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Rows as a DataFrame with a fresh RangeIndex.

    `kinds` gives the letter (`s n b d r`) of columns whose kind is known, for those that turn out to be empty;
    `nullable` names the columns that can miss values; `attrs` becomes `frame.attrs["tripleweb"]`.

    >>> result_frame(["name", "age"], [("Ada", 36), ("Bob", 41.5)]).dtypes["age"]
    dtype('float64')
    >>> result_frame(["age"], [(36,), (None,)]).dtypes["age"]
    Int64Dtype()
    """
    sheet = Sheet(columns, kinds or {}, nullable)
    frame = sheet.frame(rows)
    if attrs is not None:
        frame.attrs["tripleweb"] = dict(attrs)
    return frame


def series(values: Sequence[Any], *, kind: str = "", nullable: bool = False) -> pd.Series:
    """Values (None: missing) as a Series of the dtype that the head of this module tells."""
    array = _array(values, set(map(type, values)), kind, nullable, text_dtype())
    return pd.Series(array, dtype=array.dtype, copy=False)


def _array(values: Sequence[Any], types: Collection[type], kind: str, nullable: bool, text: Any) -> Array:
    """Values of these `types` as an array of their dtype; `text` is that of text."""
    nullable = nullable or NoneType in types
    letters = {_LETTERS.get(each, "") for each in types if each is not NoneType}
    letters = letters or {"s" if kind == "r" else kind}
    letter = letters.pop() if len(letters) == 1 else ""
    if letter == "s":
        texts = [str(value) if type(value) is Ref else value for value in values] if Ref in types else values
        return _objects(texts) if is_object_dtype(text) else pd.array(_objects(texts), dtype=text, copy=False)
    if letter == "d":
        return pd.array(_moments(values)).tz_localize("UTC")
    if letter == "b":
        return _masked(values, "bool", pd.arrays.BooleanArray, nullable)
    if letter == "f" or (letter == "n" and float in types):
        return _masked(values, "float64", pd.arrays.FloatingArray, nullable)
    if letter == "n":
        try:
            return _masked(values, "int64", pd.arrays.IntegerArray, nullable)
        except OverflowError:  # a sum may outgrow 64 bits; it stays exact
            return _objects(values)
    if list in types:  # a field with several values somewhere is a column of lists
        values = [each if each is None or type(each) is list else [each] for each in values]
    return _objects(list(map(own, values)))


def _array_of(column: ArrayColumn, kind: str, nullable: bool, text: Any) -> Array:
    """`_array` of a column that came as an array, which stays as it is."""
    letter, values = column.letter, column.values
    if letter == "s":
        return values.copy() if is_object_dtype(text) else pd.array(values.copy(), dtype=text, copy=False)
    if letter in _MASKED and len(values):
        made = values.astype(_MASKED[letter][0])
        return _MASKED[letter][1](made, np.zeros(len(made), dtype=bool)) if nullable else made
    held = values.tolist()
    if not set(map(type, held)) <= _OUTWARD:
        held = list(map(outward, held))
    return _array(held, set(map(type, held)), kind, nullable, text)


def _objects(values: Sequence[Any]) -> Array:
    return np.fromiter(values, dtype=object, count=len(values))


class Sheet:
    """The frame of an answer, from version to version: where few rows came and went, only their cells are looked at.

    Rows are tuples that have at least the cells of the columns, in the engine's values or in Python's. Invariants: a
    frame is what `result_frame` makes of the same rows, in the same order; no two frames share memory.
    """

    __slots__ = ("_kinds", "_last", "_names", "_nullable")

    def __init__(self, names: Sequence[str], kinds: Mapping[str, str], nullable: Collection[str]) -> None:
        self._names = names
        self._kinds = kinds
        self._nullable = nullable
        self._last: tuple[Rows, list[_Column]] = (), []

    def frame(self, rows: Rows, *, at_end: bool = False) -> pd.DataFrame:
        """The frame of these rows, which nobody changes from now on. What stayed of the last ones is told by identity;
        `at_end`: what stayed is in the order of then, and what came stands behind it."""
        old, columns = self._last
        kept = _kept(old, rows, at_end) if old and len(rows) >= PATCHED_FROM else None
        if kept is None:
            text = text_dtype()
            columns = [self._column(index, rows, text) for index in range(len(self._names))]
        else:
            columns = [self._patched(index, columns[index], rows, kept) for index in range(len(self._names))]
        self._last = rows, columns
        index = pd.RangeIndex(len(rows))
        data = {
            # what is told to be `object` is never inferred
            name: pd.Series(column.array, index=index, dtype=object, copy=False)
            if is_object_dtype(column.array.dtype)
            else column.array
            for name, column in zip(self._names, columns, strict=True)
        }
        return pd.DataFrame(data, index=index, copy=False)

    def _column(self, index: int, rows: Rows, text: Any) -> _Column:
        name = self._names[index]
        if isinstance(rows, Sheaf):
            kind, nullable = self._kinds.get(name, ""), name in self._nullable
            return _Column(_array_of(rows.columns[index], kind, nullable, text), None)
        values, types = _values_at(rows, index)
        array = _array(values, types, self._kinds.get(name, ""), name in self._nullable, text)
        if getattr(array.dtype, "storage", "") == "pyarrow" or not types.isdisjoint((list, dict)):
            return _Column(array, None)  # patches would fragment the one, and share the others
        types_of = map(type, values) if len(types) > 1 else dict.fromkeys(types, len(values))
        return _Column(array, Counter(types_of))

    def _patched(self, index: int, old: _Column, rows: Rows, kept: _Kept) -> _Column:
        """A column of the last rows as one of these; made anew where its dtype might be another."""
        name = self._names[index]
        if old.types is not None:
            array = old.array
            gone, _ = _values_at(kept.gone, index)
            came, _ = _values_at(kept.came, index)
            types = old.types + Counter(map(type, came))
            types.subtract(map(type, gone))
            types = +types
            if types.keys() == old.types.keys():
                kind, nullable = self._kinds.get(name, ""), name in self._nullable
                fresh = _array(came, types, kind, nullable, array.dtype)
                if fresh.dtype == array.dtype:
                    return _Column(kept.joined(array, fresh), types)
        return self._column(index, rows, text_dtype())


class _Column(NamedTuple):
    array: Array
    types: Counter[type] | None  # how many cells have which type; None: it is not patched


class _Kept(NamedTuple):
    """How new rows come from old ones."""

    pieces: list[tuple[int, int, int]]  # start and stop of old rows that stayed, how many new ones follow
    gone: list[Sequence[Any]]
    came: list[Sequence[Any]]

    def joined(self, old: Array, fresh: Array) -> Array:
        """A column of the old rows and the cells of those that came as the column of the new ones."""
        parts, at = [], 0
        for start, stop, added in self.pieces:
            parts += [old[start:stop], fresh[at : at + added]]
            at += added
        parts = [part for part in parts if len(part)]
        return np.concatenate(parts) if isinstance(old, np.ndarray) else type(old)._concat_same_type(parts)


def _kept(old: Rows, new: Rows, at_end: bool) -> _Kept | None:
    """What of `old` stayed in `new`, told by identity; None where it is not worth while."""
    kept = _Kept([], [], [])
    i = j = 0
    while True:
        start = i
        run = _run(old, new, i, j, at_end)
        i, j = i + run, j + run
        if i == len(old) or j == len(new):
            gone, came = len(old) - i, len(new) - j
        elif len(kept.pieces) == PIECES_MAX:
            return None
        else:
            for ahead in range(1, AHEAD_MAX):
                a = old[i + ahead] if i + ahead < len(old) else None
                b = new[j + ahead] if j + ahead < len(new) else None
                if a is not None and a is b:
                    gone = came = ahead
                elif a is new[j]:
                    gone, came = ahead, 0
                elif b is old[i]:
                    gone, came = 0, ahead
                else:
                    continue
                break
            else:
                return None
        kept.pieces.append((start, i, came))
        kept.gone.extend(old[i : i + gone])
        kept.came.extend(new[j : j + came])
        i, j = i + gone, j + came
        if i == len(old) and j == len(new):
            break
    if len(kept.gone) + len(kept.came) > len(new) // 2:
        return None
    if at_end:  # a run was only looked at here and there
        stayed: list[Sequence[Any]] = []
        for start, stop, _ in kept.pieces:
            stayed += old[start:stop]
        if stayed != new[: len(stayed)]:  # quick: what is identical is not compared
            return None
    return kept


def _run(old: Rows, new: Rows, i: int, j: int, at_end: bool) -> int:
    """How many rows from `i` on in `old` are those from `j` on in `new`."""
    most = min(len(old) - i, len(new) - j)
    if at_end:  # from the first that is gone on none stands where it stood
        return bisect_left(range(most), True, key=lambda at: old[i + at] is not new[j + at])
    at, size = 0, 32
    while at < most:
        size = min(2 * size, 4096)
        differ = map(operator.is_not, old[i + at : i + at + size], new[j + at : j + at + size])
        first = next(compress(count(at), differ), None)
        if first is not None:
            return first
        at += size
    return most


def _values_at(rows: Rows, index: int) -> tuple[list[Any], set[type]]:
    """The cells of a column in Python's own values, and their types."""
    values = list(map(operator.itemgetter(index), rows))
    types = set(map(type, values))
    if not types <= _OUTWARD:
        values = list(map(outward, values))
        types = set(map(type, values))
    return values, types


def own(cell: Any) -> Any:
    """A cell that whoever gets it may modify."""
    return thawed(cell) if type(cell) in (dict, list) else cell


class Columns(NamedTuple):
    """What is known of an answer's columns beforehand; see `result_frame`."""

    kinds: Mapping[str, str]
    nullable: Collection[str]


def columns_of(parsed: Query, schema: Schema) -> Columns:
    """The columns of a query as far as its schema tells their kinds."""
    held = _known.get(id(parsed))
    if held is None or held[0] is not parsed or held[1] is not schema:
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        held = _known[id(parsed)] = parsed, schema, _columns_of(parsed, schema)
    return held[2]


_known: dict[int, tuple[Query, Schema, Columns]] = {}  # by id() of the query


def _columns_of(parsed: Query, schema: Schema) -> Columns:
    letters = _letters(parsed.where, schema)
    kinds: dict[str, str] = {}
    for column, element in zip(parsed.columns, parsed.find, strict=True):
        if isinstance(element, Variable):
            kinds[column] = letters.get(element.name, "")
        elif isinstance(element, Get):
            kinds[column] = got_kind(schema, element.path)
        elif isinstance(element, Aggregate) and isinstance(element.function, str):
            of = letters.get(element.variable.name, "")
            if element.function in ("min", "max") and not element.arguments:
                kinds[column] = of
            elif element.function in _LETTER_OF:
                kinds[column] = _LETTER_OF[element.function]
    return Columns(kinds, parsed.nullable)


def _letters(clauses: Iterable[Clause], schema: Schema) -> dict[str, str]:
    """The kinds of variables, "" where they are not known or differ between the ways of an `or`."""
    letters: dict[str, str] = {}
    for clause in clauses:
        found: dict[str, str] = {}
        if isinstance(clause, Or):
            ways = [_letters(branch, schema) for branch in clause.branches]
            for name in dict.fromkeys(chain.from_iterable(ways)):
                several = {way[name] for way in ways if name in way}
                found[name] = several.pop() if len(several) == 1 else ""
        elif isinstance(clause, Pattern):
            if isinstance(clause.predicate, Constant) and isinstance(clause.value, Variable):
                found[clause.value.name] = schema.at(str(clause.predicate.value)).type
            if isinstance(clause.subject, Variable):
                found[clause.subject.name] = "s"
        letters.update({name: letter for name, letter in found.items() if letter or name not in letters})
    return letters


def got_kind(schema: Schema, path: Sequence[str]) -> str:
    """The kind of what `get` finds at the end of a path, "" for lists and for what is not known."""
    fields = [schema.at(name) for name in path]
    return "" if any(field.many for field in fields) else fields[-1].type


_LETTER_OF = {"count": "n", "count-distinct": "n", "sum": "n"} | dict.fromkeys(
    ("avg", "median", "variance", "stddev"), "f"
)


def text_dtype() -> Any:
    """The dtype that this pandas, with its present options, infers for text."""
    if using_string_dtype is None:
        return pd.Series(["text"]).dtype
    return _inferred(using_string_dtype(), pd.get_option("mode.string_storage"))


@lru_cache
def _inferred(*options: Any) -> Any:
    return pd.Series(["text"]).dtype


def shape(
    answer: Answer,
    form: str,
    *,
    kinds: Mapping[str, str] | None = None,
    nullable: Collection[str] = (),
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """An answer in the shape that the query's `:find` asks for (`Query.shape`): "relation" a DataFrame,
    "collection" a Series, "tuple" a tuple or None, "scalar" a Python value or None."""
    if form == "scalar":
        return own(answer.rows[0][0]) if answer.rows else None
    if form == "tuple":
        return tuple(map(own, answer.rows[0])) if answer.rows else None
    frame = result_frame(answer.columns, answer.rows, kinds=kinds, nullable=nullable, attrs=attrs)
    if form == "relation":
        return frame
    assert form == "collection", form
    column = frame[answer.columns[0]]
    column.attrs.update(frame.attrs)
    return column


def kind_frame(store: Store, schema: Schema, kind: str) -> pd.DataFrame:
    """All entities of a kind: `id`, then the fields of the schema in its order; without a schema those that are
    there, sorted. All but required fields can miss values. Many-valued fields are columns of lists; without a
    schema those that hold several values somewhere.

    Raises `SchemaError` for a kind that the schema does not know.
    """
    fields = list(schema.fields(kind).values())
    if schema.is_open:
        there_are = [predicate for predicate in store.predicates() if kind_of(predicate) == kind]
        fields = [schema.at(predicate) for predicate in there_are if field_of(predicate) != "id"]
    table = store.table(kind)
    size = len(table.entities)
    shown = [_shown(table.columns.get(field.predicate), field, size) for field in fields]
    there = np.zeros(size, dtype=bool)
    for _, has, _ in shown:
        there |= has
    rows = np.flatnonzero(there).tolist()
    names, entities = store.names, table.entities
    data = {"id": series([names[entities[row]] for row in rows], kind="s")}
    for field, (cells, _, several) in zip(fields, shown, strict=True):
        if len(rows) < size:
            cells = [cells[row] for row in rows]
        if field.many or (schema.is_open and several):
            lists = [[] if cell is None else cell if type(cell) is list else [cell] for cell in cells]
            data[field.name] = pd.Series(lists, dtype=object)
        else:
            data[field.name] = series(cells, kind=field.type, nullable=not field.required)
    return pd.DataFrame(data, columns=list(data), index=pd.RangeIndex(len(rows)))


def _shown(column: Column | None, field: Field, size: int) -> tuple[list[Any], Array, bool]:
    """(what a field reads as in each row of its kind, where a value fits, whether any row shows several)."""
    held = [] if column is None else column.values
    has = np.zeros(size, dtype=bool)
    has[: len(held)] = np.fromiter([value is not ABSENT for value in held], bool, len(held))
    if field.many:
        cells = [field.read(() if value is ABSENT else (value,)) for value in held]
        cells += [field.read(()) for _ in range(size - len(held))]
    else:
        blank = field.read(())
        cells = [blank if value is ABSENT else value for value in held]
        cells += [blank] * (size - len(held))
    if field.type and not {KINDS.get(each, field.type) for each in set(map(type, held))} <= {field.type}:
        for row, value in enumerate(held):
            if value is not ABSENT and not field.fits(value):
                has[row], cells[row] = False, field.read(())
    several = False
    for row, cell in (column.cells if column is not None else {}).items():
        has[row] = any(map(field.fits, cell.visible))
        cells[row] = field.read(cell.visible)
        several = several or len(cell.visible) > 1
    return cells, has, several


def frame_columns(frame: pd.DataFrame, id: str | Sequence[str] | None = None) -> dict[str, list[Any]]:
    """A frame's columns as lists of Python values, for `writes.insert_columns`. What is missing stays as pandas has
    it (NaN, NA, NaT, None). Levels of the index that `id` names are columns, too.

    >>> frame_columns(pd.DataFrame({"name": ["Ada"], "age": [36]}))
    {'name': ['Ada'], 'age': [36]}
    """
    frame = _plain(frame)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"expected a DataFrame, got {type(frame).__name__}")
    wanted = key_names(id)
    levels = [name for name in frame.index.names if name in wanted and name not in frame.columns]
    out: dict[str, list[Any]] = {name: frame.index.get_level_values(name).tolist() for name in levels}
    for position, name in enumerate(frame.columns):
        if not isinstance(name, str):
            raise TypeError(f"a column's name is a field's name, text, not {name!r}")
        if name in out:
            raise ValueError(f"two columns are called {name!r}")
        out[name] = _cells(frame.iloc[:, position])
    if not out and len(frame):
        raise ValueError(
            f"a frame of {len(frame)} rows without columns: expected at least one field with a value"
        )
    return out


def _cells(column: pd.Series) -> list[Any]:
    """The values of a column; moments, where microseconds suffice, as Python's own, in UTC."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        moments = column.dt.tz_convert("UTC").to_numpy(f"datetime64[{column.dt.unit}]")
        rounded = moments.astype("datetime64[us]")
        if bool((rounded.astype(moments.dtype) == moments)[~np.isnat(moments)].all()):
            found = rounded.tolist()
            if not any(isinstance(moment, int) for moment in found):  # a year that Python has not
                return [None if moment is None else moment.replace(tzinfo=UTC) for moment in found]
    cells: list[Any] = column.tolist()
    return cells


_PROTOCOLS = ("__dataframe__", "__arrow_c_stream__")  # by which plotting libraries take frames of any make


class FrameLike:
    """Whatever has a `df` and should behave in expressions like it: items, attributes, iteration, operators, numpy.

    Attributes of its own come first; `frame_like["name"]` always means the column.
    """

    __slots__ = ()
    __pandas_priority__ = 5000  # above a DataFrame's: pandas leaves `frame + frame_like` to us
    __hash__ = object.__hash__

    @property
    def df(self) -> pd.DataFrame:
        raise AttributeError("df")

    def __getattr__(self, name: str) -> Any:
        own = getattr(type(self), name, None)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)  # it raised an AttributeError: that one is to be seen
        if name.startswith("_") and name not in _PROTOCOLS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.df, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.df)})

    def __getitem__(self, key: Any) -> Any:
        return self.df[key]

    def __len__(self) -> int:
        return len(self.df)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.df)

    def __contains__(self, key: object) -> bool:
        return key in self.df

    def __bool__(self) -> bool:
        return bool(self.df)  # raises, as a frame's truth is ambiguous

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.df, dtype=dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*map(_plain, inputs), **options)


def _plain(value: Any) -> Any:
    return value.df if isinstance(value, FrameLike) else value


def _add_operator(name: str, function: Callable[..., Any], *, reflected: bool = False) -> None:
    def forward(self: FrameLike, *others: Any) -> Any:
        return function(self.df, *map(_plain, others))

    def backward(self: FrameLike, other: Any) -> Any:
        return function(_plain(other), self.df)

    setattr(FrameLike, f"__{name}__", backward if reflected else forward)


for _name in "add sub mul truediv floordiv mod pow matmul and or xor".split():
    _function = getattr(operator, f"__{_name}__")
    _add_operator(_name, _function)
    _add_operator(f"r{_name}", _function, reflected=True)
for _name in "lt le eq ne gt ge neg pos invert abs".split():
    _add_operator(_name, getattr(operator, f"__{_name}__"))
_add_operator("round", round)
_add_operator("divmod", divmod)
_add_operator("rdivmod", divmod, reflected=True)


def _moments(values: Sequence[datetime | None]) -> np.ndarray[Any, Any]:
    naive = [
        None
        if value is None
        else value.replace(tzinfo=None)
        if value.tzinfo is UTC
        else value.astimezone(UTC).replace(tzinfo=None)
        for value in values
    ]
    return np.array(naive, dtype="datetime64[us]")


def _masked(values: Sequence[Any], dtype: str, masked: Any, nullable: bool) -> Array:
    """An array of a numpy dtype, or of its masked twin where values can be missing."""
    if not nullable:
        return np.array(values, dtype=dtype)
    mask = np.array([value is None for value in values], dtype=bool)
    data = np.array([0 if value is None else value for value in values], dtype=dtype)
    return masked(data, mask)
