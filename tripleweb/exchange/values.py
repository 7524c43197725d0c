"""Values as files have them: the words for their kinds, how each looks as text, what text without a kind stands for.

Invariants: `value_of` of a value's kind and text is the same value, of the same type; what it returns can be stored.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

from tripleweb.terms import KINDS, Ref, Value, date_text, kind_name, normalise, parse_date

WORDS = {cls: kind_name(letter) for cls, letter in KINDS.items()}  # by the type of a value
LETTERS = {kind_name(letter): letter for letter in "snbdr"} | {"string": "s", "ref": "r"}
_EXPECTED = {
    "s": "text",
    "n": "a number, such as 36, -1.5 or 1e16",
    "b": "true or false",
    "d": "a date with its zone, such as 2013-01-01T00:00:00.000000Z",
    "r": "the id of an entity",
}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.(\d{1,9}))?)?(?:Z|[+-]\d\d:?\d\d)", re.ASCII)
_DIGITS_MAX = 20  # of an integer; 64 bits have 19


def text_of(value: Value) -> str:
    """A value as text.

    >>> text_of(1), text_of(1.0), text_of(True)
    ('1', '1.0', 'true')
    """
    cls = type(value)
    if cls is str or cls is Ref:
        return str(value)
    if cls is bool:
        return "true" if value else "false"
    return date_text(value) if cls is datetime else repr(value)  # type: ignore[arg-type]


def value_of(letter: str, raw: Any) -> Value:
    """A value of a kind, as it stands in a file, be it text or not. Raises `ValueError`.

    >>> value_of("n", "1.0"), value_of("n", 1), value_of("s", "1.0")
    (1.0, 1, '1.0')
    """
    cls = type(raw)
    found: Value | None = None
    if cls is str or cls is Ref:
        if letter == "s":
            found = normalise(raw)
        elif letter == "r":
            found = normalise(Ref(raw))
        elif letter == "n":
            found = normalise(_number(raw))
        elif letter == "b":
            found = {"true": True, "True": True, "false": False, "False": False}.get(raw)
        else:
            found = _date(raw)
    elif (
        cls is bool if letter == "b" else cls in (int, float) if letter == "n" else isinstance(raw, datetime)
    ):
        found = normalise(raw) if letter in "nbd" else None
    elif letter == "r" and cls is int:  # ids of other stores may be numbers
        found = normalise(Ref(str(raw)))
    if found is None:
        raise ValueError(f"expected {_EXPECTED[letter]}, got {_short(raw)}")
    return found


def natural(raw: Any, is_text: bool) -> Value | None:
    """The value that stands in a file without a kind; None for no value. Raises `ValueError` and `TypeError`.

    >>> natural("36", is_text=True), natural("36", is_text=False), natural("036", is_text=True)
    (36, '36', '036')
    """
    if not is_text or type(raw) is not str:
        return normalise(raw)
    if not raw:
        return None
    if raw in ("true", "false", "True", "False"):
        return raw in ("true", "True")
    if raw[0] in "-0123456789" and (number := _number(raw)) is not None:
        return number if type(number) is float or -(1 << 63) <= number < 1 << 63 else normalise(raw)
    if _DATE.fullmatch(raw) and (moment := _date(raw)) is not None:
        return moment
    return normalise(raw)


def _number(raw: str) -> int | float | None:
    if _INTEGER.fullmatch(raw):
        return int(raw) if len(raw) <= _DIGITS_MAX else None
    if _NUMBER.fullmatch(raw):
        number = float(raw)
        return number if math.isfinite(number) else None
    return None


def _date(raw: str) -> Value | None:
    try:
        return parse_date(raw)
    except ValueError:
        match = _DATE.fullmatch(raw)
    if match is None:
        return None
    digits = match[1] or ""
    if digits[6:].strip("0"):
        raise ValueError(f"moments have microseconds; {_short(raw)} has nanoseconds")
    if digits:
        raw = raw.replace(f".{digits}", f".{digits[:6].ljust(6, '0')}", 1)
    try:
        return normalise(datetime.fromisoformat(raw))
    except ValueError:
        return None


def _short(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."
