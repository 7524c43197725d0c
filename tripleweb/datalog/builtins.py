"""Built-in predicates and functions, and the values that they work on.

Inside the engine a value is what the store gives, with one change: a boolean is a `Flag`, so that `True` is not `1`
in a join, a set or a comparison, while `1` and `1.0` are equal, hash alike and join. `inward` and `outward` are the
two doors. Beside stored values a query can hold tuples, sets, ranges, patterns and Python callables.

Invariants: a built-in never raises because of the data. Arguments that do not fit make a predicate false and give a
function no value (None), which drops the row; so does a number that cannot be stored (beyond 64 bit, infinite).
The work of one call is bounded: what would be larger than a value may be raises `BudgetError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, TypeVar

from tripleweb.datalog.edn import show_value
from tripleweb.datalog.regex import Pattern
from tripleweb.errors import BudgetError
from tripleweb.terms import FALSE as FALSE
from tripleweb.terms import INT_MAX, INT_MIN, TEXT_BYTES_MAX, Ref, date_text, sort_key
from tripleweb.terms import TRUE as TRUE
from tripleweb.terms import Flag as Flag
from tripleweb.view import Source

SLICE = 4_000  # units of work between two yields: a few milliseconds
CHUNK = SLICE // 4
RANGE_MAX = 100_000
Result = TypeVar("Result")
LEVELS_MAX = 100  # of collections in collections


FLAGS = {True: TRUE, False: FALSE}
NUMBERS = (int, float)
_KINDS: dict[type, str] = {
    Flag: "boolean",
    int: "number",
    float: "number",
    datetime: "date",
    str: "text",
    Ref: "text",
}
SMALL = frozenset((Flag, int, float, bool, datetime, type(None)))  # of no weight, ever
_COLLECTIONS = frozenset((tuple, frozenset))


def inward(value: Any) -> Any:
    """A value of the store or of a callable, as the engine holds it."""
    cls = type(value)
    if cls is bool:
        return TRUE if value else FALSE
    if cls is tuple or cls is list:
        return tuple(map(inward, value))
    return value


def outward(value: Any) -> Any:
    """A value of the engine as users get it: `bool`, plain `str`, tuples for every collection."""
    cls = type(value)
    if cls is Flag:
        return value.value
    if cls is Ref:
        return str(value)
    if cls is tuple or cls is range:
        return tuple(map(outward, value))
    if cls is frozenset:
        return tuple(map(outward, sorted(value, key=order)))
    return value.source if cls is Pattern else value


def order(value: Any) -> tuple[int, Any]:
    """A key for the total order: boolean < number < date < text < collections, missing last."""
    cls = type(value)
    if cls is Flag:
        return (0, value.value)
    if cls is int or cls is float:
        return (1, value)
    if cls is tuple or cls is range:
        return (8, tuple(map(order, value)))
    if cls is frozenset:
        return (8, tuple(sorted(map(order, value))))
    return sort_key(value) if value is None or cls in _KINDS else (8, ((9, str(value)),))


def is_stored(value: Any) -> bool:
    """True for the kinds of values that a triple can have."""
    return type(value) in _KINDS


def truthy(value: Any) -> bool:
    """As in Clojure: everything but no value and false."""
    return value is not None and value is not False and value is not FALSE


def weight(value: Any) -> int:
    """The units of work that it takes to go through a value, beyond the one of its call; 0 if it is small."""
    cls = type(value)
    if cls is str or cls is Ref:
        return len(value) >> 6
    if cls is tuple or cls is frozenset:
        return len(value) + sum(map(weight, value))
    return len(value) if cls is range else 0


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if type(value) in _COLLECTIONS else 0


def chunks(values: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
    """`values` in lists of at most `size`."""
    it = iter(values)
    while part := list(islice(it, size)):
        yield part


def complete(work: Generator[int, None, Result]) -> Result:
    """What work that is done in slices returns, done at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: Result = done.value
            return result


# -- predicates and functions ---------------------------------------------------------------------------------


def _compare(holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    """A chain of comparisons: every neighbouring pair is of one kind and holds."""

    def chain(*values: Any) -> bool:
        for a, b in pairwise(values):
            kind = _KINDS.get(type(a))
            if kind is None or kind != _KINDS.get(type(b)):
                return False
            if kind == "boolean":
                a, b = a.value, b.value
            if not holds(a, b):
                return False
        return True

    return chain


def _equal(*values: Any) -> bool:
    return all(a == b for a, b in pairwise(values))


def fit(number: Any) -> Any:
    """The number if it can be stored, else no value."""
    if type(number) is int:
        return number if INT_MIN <= number <= INT_MAX else None
    return number if math.isfinite(number) else None


def _arithmetic(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` on numbers; no value for anything else, for a division by zero and outside of the range."""

    def guarded(*values: Any) -> Any:
        if not all(type(value) in NUMBERS for value in values):
            return None
        try:
            return fit(function(*values))
        except (ZeroDivisionError, OverflowError):
            return None

    return guarded


def _subtract(first: Any, *rest: Any) -> Any:
    return first - sum(rest) if rest else -first


def divide(a: Any, b: Any) -> Any:
    """The quotient: an integer where two integers divide evenly, else a float."""
    return a // b if type(a) is type(b) is int and a % b == 0 else a / b


def _divide(first: Any, *rest: Any) -> Any:
    if not rest:
        return divide(1, first)
    for value in rest:
        first = divide(first, value)
    return first


def _quotient(a: Any, b: Any) -> Any:
    if type(a) is type(b) is int:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return float(math.trunc(a / b))


def _remainder(a: Any, b: Any) -> Any:
    return a - b * _quotient(a, b) if type(a) is type(b) is int else math.fmod(a, b)


def _on_number(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) in NUMBERS and test(value)


def _compared(a: Any, b: Any) -> int:
    x, y = order(a), order(b)
    return (x > y) - (x < y)


def _and(*values: Any) -> Any:
    return next((value for value in values if not truthy(value)), values[-1] if values else TRUE)


def _or(*values: Any) -> Any:
    return next((value for value in values if truthy(value)), values[-1] if values else None)


def text(value: Any) -> str:
    """A value as `str` prints it: text as it is, everything else as EDN, dates as they are stored."""
    if isinstance(value, str):
        return str(value)
    value = outward(value)
    return date_text(value) if type(value) is datetime else show_value(value)


def _joined(parts: Sequence[str], between: str = "", end: str = "") -> str:
    size = sum(map(len, parts)) + len(between) * len(parts)
    if size > TEXT_BYTES_MAX:
        raise BudgetError(f"a text of {size:,} characters is larger than a value may be ({TEXT_BYTES_MAX:,})")
    return between.join(parts) + end


def _str(*values: Any) -> str:
    return _joined([text(value) for value in values])


def _print(readable: bool, end: str) -> Callable[..., str]:
    def printed(*values: Any) -> str:
        return _joined([show_value(outward(v)) if readable else text(v) for v in values], " ", end)

    return printed


def _on_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` on texts; no value (false, for a predicate) for anything else."""
    return lambda *values: function(*values) if all(isinstance(value, str) for value in values) else None


def _whole(value: Any) -> int | None:
    """The integer that a number is, since 2.0 and 2 are one value; None for anything else."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _substring(value: Any, start: Any, *rest: Any) -> Any:
    if not isinstance(value, str):
        return None
    start, end = _whole(start), _whole(rest[0] if rest else len(value))
    if start is None or end is None:
        return None
    return value[start:end] if 0 <= start <= end <= len(value) else None


def _count(value: Any) -> int | None:
    return len(value) if isinstance(value, str | tuple | frozenset | range) else None


def _tuple(*values: Any) -> tuple[Any, ...]:
    """They hold each other: without bounds, a few calls would make what no memory holds."""
    if not _COLLECTIONS.isdisjoint(map(type, values)):
        if weight(values) > RANGE_MAX:
            raise BudgetError(f"a collection has at most {RANGE_MAX:,} items, with those of its items")
        if _depth(values) > LEVELS_MAX:
            raise BudgetError(f"collections nest at most {LEVELS_MAX} deep")
    return values


def _range(*bounds: Any) -> Any:
    whole = [number for number in map(_whole, bounds) if number is not None]
    if len(whole) < len(bounds) or (len(bounds) == 3 and not whole[2]):
        return None
    numbers = range(*whole)
    size = -((numbers.start - numbers.stop) // numbers.step)  # len() fails beyond 63 bit
    if size > RANGE_MAX:
        raise BudgetError(f"a range has at most {RANGE_MAX:,} numbers; this one has {size:,}")
    return numbers


def _contains(collection: Any, key: Any) -> bool:
    if type(collection) is frozenset:
        return key in collection
    size, place = _count(collection), _whole(key)
    return size is not None and place is not None and 0 <= place < size


def _set(collection: Any) -> Any:
    return frozenset(collection) if isinstance(collection, str | tuple | frozenset | range) else None


def _pattern(value: Any) -> Pattern | None:
    return value if type(value) is Pattern else _compiled(str(value)) if isinstance(value, str) else None


@lru_cache(maxsize=256)
def _compiled(source: str) -> Pattern | None:
    """The pattern, if the text is one: patterns that come as data must not raise."""
    try:
        return Pattern(source)
    except ValueError:
        return None


def _found(groups: tuple[str | None, ...] | None) -> Any:
    return groups if groups is None or len(groups) > 1 else groups[0]


def _find(pattern: Any, value: Any) -> Any:
    compiled = _pattern(pattern)
    return _found(compiled.search(value)) if compiled and isinstance(value, str) else None


def _matches(pattern: Any, value: Any) -> Any:
    compiled = _pattern(pattern)
    return _found(compiled.match(value)) if compiled and isinstance(value, str) else None


def _all_matches(pattern: Any, value: Any) -> Any:
    compiled = _pattern(pattern)
    if compiled is None or not isinstance(value, str):
        return None
    return tuple(map(_found, compiled.all(value))) or None


def _namespace(value: Any) -> Any:
    return value.partition("/")[0] if isinstance(value, str) and "/" in value else None


def _name(value: Any) -> Any:
    return str(value).partition("/")[2] or value if isinstance(value, str) else None


def _get_else(source: Source, subject: Any, predicate: Any, default: Any) -> Any:
    return next(iter(_values(source, subject, predicate)), default)


def _get_some(source: Source, subject: Any, *predicates: Any) -> Any:
    for predicate in predicates:
        for value in _values(source, subject, predicate):
            return (predicate, value)
    return None


def _missing(source: Source, subject: Any, predicate: Any) -> bool:
    if _values(source, subject, predicate):
        return False
    reverse = forward(predicate) if isinstance(predicate, str) else None
    return (
        reverse is None
        or not isinstance(subject, str)
        or not any(True for _ in source.subjects(reverse, subject))
    )


def forward(predicate: str) -> str | None:
    """`user/manager` for `user/_manager`, its reverse; None for a predicate that is none."""
    kind, slash, name = predicate.rpartition("/")
    return f"{kind}{slash}{name[1:]}" if name.startswith("_") and len(name) > 1 else None


def _values(source: Source, subject: Any, predicate: Any) -> Sequence[Any]:
    if not isinstance(subject, str) or not isinstance(predicate, str):
        return ()
    return [inward(value) for value in source.values(subject, predicate)]


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function of the engine's values that takes `least` to `most` arguments (None: any number).

    One that reads gets the source first, and names of predicates from position `predicates` on.
    """

    function: Callable[..., Any]
    least: int
    most: int | None
    reads: bool = False


def _table() -> dict[str, Builtin]:
    table: dict[str, Builtin] = {}

    def add(least: int, most: int | None, **functions: Callable[..., Any]) -> None:
        table.update({name: Builtin(function, least, most) for name, function in functions.items()})

    add(
        1,
        None,
        **{"=": _equal, "==": _equal, "not=": lambda *v: not _equal(*v), "!=": lambda *v: not _equal(*v)},
    )
    add(1, None, **{"<": _compare(lambda a, b: a < b), ">": _compare(lambda a, b: a > b)})
    add(1, None, **{"<=": _compare(lambda a, b: a <= b), ">=": _compare(lambda a, b: a >= b)})
    add(0, None, **{"+": _arithmetic(lambda *v: sum(v)), "*": _arithmetic(lambda *v: math.prod(v))})
    add(1, None, **{"-": _arithmetic(_subtract), "/": _arithmetic(_divide)})
    add(2, 2, quot=_arithmetic(_quotient), rem=_arithmetic(_remainder), mod=_arithmetic(lambda a, b: a % b))
    add(1, 1, inc=_arithmetic(lambda a: a + 1), dec=_arithmetic(lambda a: a - 1))
    add(1, None, max=lambda *v: max(v, key=order), min=lambda *v: min(v, key=order))
    add(1, 1, **{"zero?": _on_number(lambda a: a == 0), "pos?": _on_number(lambda a: a > 0)})
    add(1, 1, **{"neg?": _on_number(lambda a: a < 0), "odd?": _on_number(lambda a: a % 2 == 1)})
    add(1, 1, **{"even?": _on_number(lambda a: a % 2 == 0)})
    add(2, 2, compare=_compared)
    add(1, 1, **{"true?": lambda a: a is TRUE, "false?": lambda a: a is FALSE})
    add(
        1,
        1,
        **{"nil?": lambda a: a is None, "some?": lambda a: a is not None, "not": lambda a: not truthy(a)},
    )
    add(0, None, **{"and": _and, "or": _or, "str": _str, "vector": _tuple, "list": _tuple})
    add(1, None, tuple=_tuple)
    add(1, 1, identity=lambda a: a, ground=lambda a: a, untuple=lambda a: a, set=_set)
    add(1, 1, type=lambda a: _KINDS.get(type(a), "collection"), name=_name, namespace=_namespace)
    add(
        1,
        1,
        count=_count,
        **{"empty?": lambda a: _count(a) == 0, "not-empty": lambda a: a if _count(a) else None},
    )
    add(1, 3, range=_range)
    add(2, 2, **{"contains?": _contains})
    add(0, None, **{"pr-str": _print(True, ""), "prn-str": _print(True, "\n")})
    add(0, None, **{"print-str": _print(False, ""), "println-str": _print(False, "\n")})
    add(2, 3, subs=_substring)
    add(2, 2, **{"re-find": _find, "re-matches": _matches, "re-seq": _all_matches})
    add(1, 1, **{"re-pattern": _pattern})
    add(1, 1, **{"clojure.string/blank?": _on_text(lambda a: not a.strip())})
    add(2, 2, **{"clojure.string/includes?": _on_text(lambda a, b: b in a)})
    add(2, 2, **{"clojure.string/starts-with?": _on_text(str.startswith)})
    add(2, 2, **{"clojure.string/ends-with?": _on_text(str.endswith)})
    add(
        1,
        1,
        **{
            "clojure.string/lower-case": _on_text(str.lower),
            "clojure.string/upper-case": _on_text(str.upper),
        },
    )
    add(1, 1, **{"clojure.string/trim": _on_text(str.strip)})
    table["get-else"] = Builtin(_get_else, 3, 3, reads=True)
    table["get-some"] = Builtin(_get_some, 2, None, reads=True)
    table["missing?"] = Builtin(_missing, 2, 2, reads=True)
    return table


FUNCTIONS = _table()
# Functions that do not go through what they are given, or bound it themselves.
_LIGHT = frozenset(
    """count empty? not-empty contains? identity ground untuple type nil? some? not and or true? false? vector list
    tuple range""".split()
)


def effort(name: str, arguments: Iterable[Any], value: Any) -> int:
    """The units of work that a call of a built-in took, beyond one, by what it was given and gave."""
    if name in _LIGHT or (type(value) in SMALL and SMALL.issuperset(map(type, arguments))):
        return 0
    units = weight(value) + sum(map(weight, arguments))
    if name.startswith("re-"):
        text = sum(len(each) for each in arguments if isinstance(each, str))
        units += sum(each.effort(text) for each in arguments if type(each) is Pattern)
    return units


# What DataScript has and this engine has not, and why.
REFUSED = {
    "rand": "a query gives the same answer everywhere; as an aggregate, (rand ?x) chooses",
    "rand-int": "a query gives the same answer everywhere",
    "keyword": "values are never keywords; a predicate is its text",
    "meta": "values have no metadata",
    "identical?": "values have no identity; use =",
    "complement": "functions are not values here; use not",
    "hash-map": "maps are not values; use tuple",
    "array-map": "maps are not values; use tuple",
}
