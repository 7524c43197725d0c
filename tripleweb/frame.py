"""Where rows become pandas, and frames become columns of values: the only module that imports pandas.

The dtype of a column follows from its values, never from pandas' guess: whole numbers `int64`, any float makes
`float64`, `bool`, text pandas' default string dtype (whatever this version infers), dates `datetime64[us, UTC]`,
mixed kinds `object`. A column that can miss values (`nullable`) has `Int64`, `Float64` or `boolean`, whatever the
data. A column without any value takes the kind that the schema promises (`kinds`), else `object`. References are
text here; lists (many values) and dicts (pulls) stay as they are, in `object`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from tripleweb.datalog.clauses import Clause, Constant, Or, Pattern, Variable
from tripleweb.datalog.pull import thawed
from tripleweb.datalog.query import Aggregate, Get, Query
from tripleweb.ids import kind_of
from tripleweb.schema import Schema, field_of
from tripleweb.store import Store
from tripleweb.terms import Ref, Value
from tripleweb.writes import key_names

Rows = Sequence[Sequence[Any]]
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
    given = kinds or {}
    cells: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    data = {
        name: series(values, kind=given.get(name, ""), nullable=name in nullable)
        for name, values in zip(columns, cells, strict=True)
    }
    frame = pd.DataFrame(data, columns=list(columns), index=pd.RangeIndex(len(rows)))
    if attrs is not None:
        frame.attrs["tripleweb"] = dict(attrs)
    return frame


def series(values: Sequence[Any], *, kind: str = "", nullable: bool = False) -> pd.Series:
    """Values (None: missing) as a Series of the dtype that the head of this module tells."""
    types = set(map(type, values))
    nullable = nullable or type(None) in types
    types.discard(type(None))
    letters = {_LETTERS.get(each, "") for each in types} or {"s" if kind == "r" else kind}
    letter = letters.pop() if len(letters) == 1 else ""
    if letter == "s":
        texts = [str(value) if type(value) is Ref else value for value in values] if Ref in types else values
        return pd.Series(texts, dtype=text_dtype())
    if letter == "d":
        return pd.Series(_moments(values)).dt.tz_localize("UTC")
    if letter == "b":
        return _masked(values, "bool", pd.arrays.BooleanArray, nullable)
    if letter == "n" and float in types:
        return _masked(values, "float64", pd.arrays.FloatingArray, nullable)
    if letter == "n":
        try:
            return _masked(values, "int64", pd.arrays.IntegerArray, nullable)
        except OverflowError:  # a sum may outgrow 64 bits; it stays exact
            return pd.Series(list(values), dtype=object)
    if list in types:  # a field with several values somewhere is a column of lists
        values = [each if each is None or type(each) is list else [each] for each in values]
    return pd.Series(list(map(own, values)), dtype=object)


def own(cell: Any) -> Any:
    """A cell that whoever gets it may modify."""
    return thawed(cell) if type(cell) in (dict, list) else cell


class Columns(NamedTuple):
    """What is known of an answer's columns beforehand; see `result_frame`."""

    kinds: Mapping[str, str]
    nullable: Collection[str]


def columns_of(parsed: Query, schema: Schema) -> Columns:
    """The columns of a query as far as its schema tells their kinds."""
    letters: dict[str, str] = {}
    clauses: list[Clause] = list(parsed.where)
    while clauses:
        clause = clauses.pop()
        if isinstance(clause, Or):
            clauses.extend(inner for branch in clause.branches for inner in branch)
        elif isinstance(clause, Pattern):
            if isinstance(clause.subject, Variable):
                letters[clause.subject.name] = "s"
            if isinstance(clause.predicate, Constant) and isinstance(clause.value, Variable):
                letters.setdefault(clause.value.name, schema.at(str(clause.predicate.value)).type)
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
            elif element.function in _NUMERIC:
                kinds[column] = "n"
    return Columns(kinds, parsed.nullable)


def got_kind(schema: Schema, path: Sequence[str]) -> str:
    """The kind of what `get` finds at the end of a path, "" for lists and for what is not known."""
    fields = [schema.at(name) for name in path]
    return "" if any(field.many for field in fields) else fields[-1].type


_NUMERIC = frozenset(("count", "count-distinct", "sum", "avg", "median", "variance", "stddev"))


def text_dtype() -> Any:
    """The dtype that this pandas, with its present options, infers for text."""
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
    columns: dict[str, dict[str, list[Value]]] = {}
    there: set[str] = set()
    for field in fields:
        held = columns[field.predicate] = {}
        for subject, value in store.scan(field.predicate):
            if field.fits(value):
                held.setdefault(subject, []).append(value)
        there.update(held)
    subjects = [subject for subject in store.entities(kind) if subject in there]
    data = {"id": series(subjects, kind="s")}
    for field in fields:
        held = columns[field.predicate]
        several = schema.is_open and any(len(values) > 1 for values in held.values())
        if field.many or several:
            lists = [field.read(held.get(subject, ()), several=True) or [] for subject in subjects]
            data[field.name] = pd.Series(lists, dtype=object)
        else:
            values = [field.read(held.get(subject, ())) for subject in subjects]
            data[field.name] = series(values, kind=field.type, nullable=not field.required)
    return pd.DataFrame(data, columns=list(data), index=pd.RangeIndex(len(subjects)))


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
    naive = [None if value is None else value.astimezone(UTC).replace(tzinfo=None) for value in values]
    return np.array(naive, dtype="datetime64[us]")


def _masked(values: Sequence[Any], dtype: str, masked: Any, nullable: bool) -> pd.Series:
    """A Series of a numpy dtype, or of its masked twin where values can be missing."""
    if not nullable:
        return pd.Series(np.array(values, dtype=dtype))
    mask = np.array([value is None for value in values], dtype=bool)
    data = np.array([0 if value is None else value for value in values], dtype=dtype)
    return pd.Series(masked(data, mask))
