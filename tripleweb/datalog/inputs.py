"""Inputs: what comes from Python beside a query, and how bindings take values apart.

Inputs are single values, collections (whatever can be iterated over: lists, sets, arrays, Series, views of dicts,
generators), relations (collections of tuples, or a DataFrame), rules and Python callables. pandas and numpy are
understood by what they can do, not imported. In a collection, what pandas takes for missing is no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from tripleweb.datalog.builtins import LEVELS_MAX, inward, order
from tripleweb.datalog.clauses import (
    RULES,
    SOURCE,
    BindCollection,
    Binding,
    Blank,
    Rules,
    Variable,
    parse_rules,
)
from tripleweb.datalog.edn import Form
from tripleweb.datalog.plan import Program
from tripleweb.datalog.query import Query, parse
from tripleweb.terms import normalise

Row = tuple[Any, ...]
_SCALARS = (bool, int, float, str)
_PLAIN = frozenset((bool, int, float, str, datetime))
_NO_COLLECTIONS = (str, bytes, bytearray, Mapping)
ITEMS_MAX = 10_000_000  # of one input


def prepare(
    query: Query | str, inputs: Sequence[Any], rules: str | Rules | None = None
) -> tuple[Program, list[tuple[Binding, Any]]]:
    """The query with its rules, checked, and the other inputs beside their bindings. Raises `QueryError`."""
    query = parse(query) if isinstance(query, str) else query
    wanted = [binding for binding in query.inputs if binding != SOURCE]
    given = list(inputs)
    if RULES in wanted and len(given) == len(wanted) - 1 and rules is not None:
        wanted.remove(RULES)  # the kept rules stand for it
    if len(given) != len(wanted):
        names = " ".join(str(getattr(b, "name", None) or getattr(b, "form", b)) for b in wanted)
        raise query.form.error(f"the query takes {len(wanted)} inputs, not {len(given)}", names or None)
    texts: list[str | Rules] = [] if rules is None else [rules]
    pairs: list[tuple[Binding, Any]] = []
    for binding, value in zip(wanted, given, strict=True):
        if isinstance(binding, str):
            if not isinstance(value, str):
                raise query.form.error(f"the rules for % are text, not {type(value).__name__}")
            texts.append(parse_rules(value))
        else:
            pairs.append((binding, still(value, query.form)))
    return Program(query.bind_rules(*texts) if texts else query), pairs


def items_of(value: Any) -> Any:
    """The items of a collection from Python, None if it is none. A DataFrame is a collection of its rows."""
    if type(value) is tuple or type(value) is list:
        return map(_present, value)
    if hasattr(value, "itertuples"):
        return (tuple(map(_present, row)) for row in value.itertuples(index=False, name=None))
    if isinstance(value, set | frozenset):
        return iter(sorted(value, key=lambda item: order(inward(item))))
    if (
        getattr(value, "ndim", 1) == 0
        or isinstance(value, _NO_COLLECTIONS)
        or not isinstance(value, Iterable)
    ):
        return None
    return map(_present, value)


def _check_level(level: int, form: Form) -> None:
    if level >= LEVELS_MAX:
        raise form.error(f"collections that nest more than {LEVELS_MAX} deep")


def still(value: Any, form: Form, level: int = 0) -> Any:
    """An input as it is now, where what pandas takes for missing is None: what the caller does with a list or a
    DataFrame later is not to be seen, and a generator gives its items but once."""
    if type(value) in _PLAIN or isinstance(value, _SCALARS) or callable(value):
        return value
    items = items_of(value)
    if items is None:
        return value
    _check_level(level, form)
    held = [still(item, form, level + 1) for item in islice(items, ITEMS_MAX + 1)]
    if len(held) > ITEMS_MAX:
        raise form.error("an input without end", f"at most {ITEMS_MAX:,} items")
    return held


def _present(cell: Any) -> Any:
    """NaN is how pandas' columns of floats say that there is no value."""
    cls = type(cell)
    if cls is float:
        return cell if cell == cell else None
    if cls in _PLAIN:
        return cell
    is_float = isinstance(cell, float) or getattr(getattr(cell, "dtype", None), "kind", "") == "f"
    return None if is_float and getattr(cell, "ndim", 0) == 0 and cell != cell else cell


def value_of(value: Any, form: Form, what: str, level: int = 0) -> Any:
    """A value from Python as the engine holds it; None for no value."""
    if callable(value) and not isinstance(value, _SCALARS):
        return value
    items = None if isinstance(value, _SCALARS) else items_of(value)
    if items is not None:
        _check_level(level, form)
        return tuple(value_of(item, form, what, level + 1) for item in items)
    try:
        return inward(normalise(value))
    except (TypeError, ValueError) as error:
        raise form.error(f"{what}: {error}") from None


def asked(function: Any, *arguments: Any) -> Any:
    """What a callable of the user's returns. Evaluation is made of generators, which `StopIteration` would end as if
    there were nothing more."""
    try:
        return function(*arguments)
    except StopIteration as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise RuntimeError(f"{name}, called by a query, raised StopIteration") from error


def bind(binding: Binding, value: Any, form: Form | None) -> Iterator[Row]:
    """The rows that a binding makes of a value, in the order of `bound(binding)`.

    What does not fit makes none, or is an error that points at `form`, where there is one.
    """
    if isinstance(binding, Blank):
        yield ()
        return
    if isinstance(binding, Variable):
        value = value if form is None else value_of(value, form, f"the value for {binding.name}")
        if value is not None:
            yield (value,)
        return
    items = None if form is None else items_of(value)
    if isinstance(value, frozenset):
        items = iter(sorted(value, key=order))
    elif isinstance(value, tuple | range):
        items = iter(value)
    if items is None:
        if form is not None and value is not None:
            kind = "collection" if isinstance(binding, BindCollection) else "tuple"
            raise form.error(
                f"{type(value).__name__} is no {kind} for {binding.form}", "a list, a tuple or a set"
            )
    elif isinstance(binding, BindCollection):
        for item in items:
            yield from bind(binding.item, item, form)
    else:
        held = list(islice(items, len(binding.items)))
        if len(held) == len(binding.items):
            yield from _product(binding.items, held, form)
        elif form is not None:
            raise form.error(f"{len(held)} values for {binding.form}", f"{len(binding.items)} values")


def _product(bindings: Sequence[Binding], values: Sequence[Any], form: Form | None) -> Iterator[Row]:
    if not bindings:
        yield ()
        return
    for row in bind(bindings[0], values[0], form):
        for rest in _product(bindings[1:], values[1:], form):
            yield row + rest
