"""Values: their kinds, equality, order, canonical form and form on the wire.

Five kinds of values are stored: text `s`, number `n` (int of 64 bits, finite float), boolean `b`, date `d` (a moment
in UTC with microseconds) and reference `r`. Inside the program they are native Python objects: `str`, `int`,
`float`, `bool`, aware `datetime` in UTC, and `Ref`, which is a `str`. Invariants: `normalise` is the only way in, and
what it returns is hashable, immutable, JSON-safe through `to_wire`, and equal to itself (no NaN). Kinds are never
converted: `True` is not `1`, `"1"` is not `1`, but `1` and `1.0` are the same number.

The *slot* of a value is its canonical text with its kind; two values are the same member of a many-valued field
exactly if their slots are equal. Text of more than 256 bytes stands there by its SHA-256.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

TEXT_BYTES_MAX = 1_000_000
SLOT_BYTES_MAX = 256
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
SAFE_INT_MAX = (1 << 53) - 1  # beyond it, JSON readers with floats would round

Wire = str | int | float | bool | None


class Ref(str):
    """A reference to an entity: its id, as a `str` that knows it is one.

    >>> Ref("ada")
    Ref('ada')
    >>> Ref("ada") == "ada"
    True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Ref({str.__repr__(self)})"


Value = str | int | float | bool | datetime | Ref


class Flag:
    """A boolean that is no number: what stands for `True` and `False` wherever values are compared or are keys.
    There are two of them: `TRUE` and `FALSE`."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "true" if self.value else "false"


TRUE, FALSE = Flag(True), Flag(False)

KINDS: dict[type, str] = {str: "s", int: "n", float: "n", bool: "b", datetime: "d", Ref: "r"}
_STORED_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_NAMES = {"s": "text", "n": "number", "b": "boolean", "d": "date", "r": "reference"}
_ORDER = {"b": 0, "n": 1, "d": 2, "s": 3, "r": 3}


def kind(value: Value) -> str:
    """The kind of a stored value: one of `s n b d r`.

    >>> kind("x"), kind(1), kind(1.5), kind(True), kind(Ref("x"))
    ('s', 'n', 'n', 'b', 'r')
    """
    return KINDS[type(value)]


def kind_name(letter: str) -> str:
    """The word for a kind, for messages: `number` for `n`."""
    return _NAMES[letter]


def normalise(value: Any) -> Value | None:
    """The stored form of what a user gave; None for "no value".

    Understands numpy scalars and pandas' `Timestamp`, and takes `None`, `pandas.NA` and `NaT` for "no value",
    without importing either library. Raises `TypeError` for other types and `ValueError` for NaN, infinities,
    integers beyond 64 bit, naive datetimes, non-zero nanoseconds, lone surrogates and values over 1 MB.

    >>> normalise(3), normalise("x"), normalise(None)
    (3, 'x', None)
    >>> normalise(float("nan"))
    Traceback (most recent call last):
    ValueError: nan is not a value; use None for "no value"
    """
    cls = type(value)
    if cls is str:
        return _text(value)
    if cls is int:
        if INT_MIN <= value <= INT_MAX:
            return int(value)
        raise ValueError(f"integers have 64 bits at most: {_shorten(value)} lies outside")
    if cls is bool:
        return bool(value)
    if cls is float:
        if math.isfinite(value):
            return float(value)
        raise ValueError(f'{value} is not a value; use None for "no value"')
    if value is None:
        return None
    if cls is Ref:
        from tripleweb.ids import check_id

        check_id(value)
        return Ref(value)
    return _foreign(value)


def _foreign(value: Any) -> Value | None:
    """What is not exactly one of our own types: subclasses, numpy, pandas."""
    cls = type(value)
    module = cls.__module__.partition(".")[0]
    if module == "pandas" and cls.__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, datetime):
        if getattr(value, "nanosecond", 0):
            raise ValueError(f"moments have microseconds; {value} has nanoseconds: round it first")
        if value.tzinfo is None or value.utcoffset() is None:
            raise ValueError(f"{value!r} has no time zone; give one, such as tzinfo=datetime.UTC")
        try:
            moment = value.astimezone(UTC)
        except (OverflowError, ValueError):
            raise ValueError(f"{value!r} lies outside of the years 1 to 9999 in UTC") from None
        return datetime(
            moment.year,
            moment.month,
            moment.day,
            moment.hour,
            moment.minute,
            moment.second,
            moment.microsecond,
            UTC,
        )
    if module == "numpy" and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        if getattr(value.dtype, "kind", "") == "M":
            if str(value) == "NaT":
                return None
            raise ValueError(f"{value!r} has no time zone; give an aware datetime or pandas.Timestamp")
        item = value.item()
        if type(item) in KINDS:
            return normalise(item)
    elif isinstance(value, Ref):
        return normalise(Ref(value))
    elif isinstance(value, bool | int | float | str):
        if isinstance(value, str):  # what it holds, not what it prints: a member of an Enum prints its name
            return normalise(str.__str__(value))
        return normalise(int(value) if isinstance(value, int) else float(value))
    raise TypeError(
        f"{cls.__name__} is not a kind of value: {_shorten(value)}; "
        "values are str, int, float, bool, aware datetime and tripleweb.Ref"
    )


def _text(value: str) -> str:
    if not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError(f"text with a lone surrogate cannot be stored: {_shorten(value)}") from None
    else:
        size = len(value)
    if size > TEXT_BYTES_MAX:
        raise ValueError(f"a value has at most 1 MB; this text has {size:,} bytes and begins {value[:40]!r}")
    return value


def _shorten(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def slot(value: Value) -> str:
    """The canonical text of a value with its kind: what makes it one member of a many-valued field.

    >>> slot("1"), slot(1), slot(1.0), slot(True), slot(Ref("1"))
    ('s:1', 'n:1', 'n:1', 'b:true', 'r:1')
    """
    cls = type(value)
    if cls is str:
        return _text_slot("s", value)  # type: ignore[arg-type]
    if cls is Ref:
        return _text_slot("r", value)  # type: ignore[arg-type]
    if cls is bool:
        return "b:true" if value else "b:false"
    if cls is int:
        return f"n:{value}"
    if cls is float:
        return f"n:{int(value)}" if value.is_integer() else f"n:{value!r}"  # type: ignore[union-attr,arg-type]
    return "d:" + date_text(value)  # type: ignore[arg-type]


def _text_slot(letter: str, value: str) -> str:
    if len(value) * 4 > SLOT_BYTES_MAX:
        raw = value.encode()
        if len(raw) > SLOT_BYTES_MAX:
            return f"{letter}#{sha256(raw).hexdigest()}"
    return f"{letter}:{value}"


def same(a: Value, b: Value) -> bool:
    """True if two values are one member: equal, and of the same kind."""
    return (type(a) is type(b) and a == b) or slot(a) == slot(b)


def sort_key(value: Value | None) -> tuple[int, Any]:
    """A key that sorts all values: boolean < number < date < text (references among it), missing last.

    >>> sorted(["b", 2, True, None, 1.5, "a"], key=sort_key)
    [True, 1.5, 2, 'a', 'b', None]
    """
    if value is None:
        return (9, 0)
    return (_ORDER[KINDS[type(value)]], value)


def date_text(moment: datetime) -> str:
    """A date as it is stored: UTC, six digits of microseconds and `Z`, so that text order is time order.

    >>> date_text(datetime(2013, 1, 1, tzinfo=UTC))
    '2013-01-01T00:00:00.000000Z'
    """
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_date(text: str) -> datetime:
    """The date that was stored as `text`; raises `ValueError` for any other form."""
    if not _STORED_DATE.fullmatch(text):  # `fromisoformat` alone reads weeks and offsets as well
        raise ValueError(f"not a stored date: {text[:40]!r}; expected the form 2013-01-01T00:00:00.000000Z")
    return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)


def to_wire(value: Value | None) -> tuple[str, Wire]:
    """(kind, JSON value) as it travels and is stored; ("", None) for no value.

    Integers beyond 2**53 travel as text with the kind `i`, since many JSON readers would round them.

    >>> to_wire(7), to_wire(2**60), to_wire(Ref("x")), to_wire(None)
    (('n', 7), ('i', '1152921504606846976'), ('r', 'x'), ('', None))
    """
    if value is None:
        return "", None
    letter = KINDS[type(value)]
    if letter == "d":
        return "d", date_text(value)  # type: ignore[arg-type]
    if letter == "r":
        return "r", str(value)
    if letter == "n" and type(value) is int and not -SAFE_INT_MAX <= value <= SAFE_INT_MAX:
        return "i", str(value)
    return letter, value  # type: ignore[return-value]


def from_wire(letter: str, value: Any) -> Value | None:
    """The value of `to_wire`'s pair; raises `ValueError` for what `to_wire` never makes."""
    cls = type(value)
    if letter == "s" and cls is str:
        return _text(value)
    if letter == "n":
        if cls is int and INT_MIN <= value <= INT_MAX:
            return int(value)
        if cls is float and math.isfinite(value):
            return float(value)
    elif letter == "r" and cls is str:
        return normalise(Ref(value))
    elif letter == "b" and cls is bool:
        return bool(value)
    elif letter == "d" and cls is str:
        return parse_date(value)
    elif letter == "" and value is None:
        return None
    elif letter == "i" and cls is str and len(value) <= 20:
        return normalise(int(value))
    raise ValueError(f"not a value of kind {str(letter)[:8]!r}: {_shorten(value)}")
