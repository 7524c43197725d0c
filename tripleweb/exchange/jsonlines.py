"""JSON Lines: an object a line.

    {"subject":"ada","predicate":"user/age","value":36,"kind":"number"}
    {"subject":"p1","predicate":"post/tags","value":"x","kind":"reference","field":"set"}

An integer is written without a fraction, a float with one or an exponent; integers beyond 2**53, which many readers
would round, are text with the kind `number`. Lines of the first format (`sync.triples`) are read, too: `first_format`
says whether a file has these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import msgspec

from tripleweb.change import Change
from tripleweb.exchange import BadFile, Raw
from tripleweb.exchange.files import lines
from tripleweb.exchange.values import WORDS, text_of
from tripleweb.inventory import SINGLE, Row
from tripleweb.sync.triples import change_from_triple
from tripleweb.terms import SAFE_INT_MAX

_EXPECTED = 'expected an object such as {"subject":"ada","predicate":"user/age","value":36,"kind":"number"} in one line'
_Scalar = str | int | float | bool | None
_UNSET = msgspec.UNSET


class _Out(msgspec.Struct, omit_defaults=True, gc=False):
    subject: str
    predicate: str
    value: _Scalar
    kind: str
    field: str = SINGLE


class _In(msgspec.Struct, gc=False):
    subject: str
    predicate: str
    value: _Scalar | msgspec.UnsetType = _UNSET
    kind: str | None = ""
    field: str | None = ""
    hlc: str = ""


_decode_in = msgspec.json.Decoder(_In).decode
_encode_lines = msgspec.json.Encoder().encode_lines


def write(file: IO[bytes], batches: Iterable[Sequence[Row]]) -> None:
    for batch in batches:
        file.write(
            _encode_lines(
                [
                    _Out(subject, predicate, _json(value), WORDS[type(value)], holding)
                    for subject, predicate, value, holding in batch
                ]
            )
        )


def _json(value: Any) -> _Scalar:
    cls = type(value)
    if cls is str or cls is bool or cls is float:
        return value  # type: ignore[no-any-return]
    if cls is int and -SAFE_INT_MAX <= value <= SAFE_INT_MAX:
        return value  # type: ignore[no-any-return]
    return text_of(value)


def read(file: IO[bytes]) -> Iterator[Raw]:
    for number, line in lines(file):
        if line[:1] != b"{" and line.isspace():
            continue
        try:
            row = _decode_in(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadFile(number, f"{error}; {_EXPECTED}") from None
        if row.value is _UNSET:
            what = "a line of the first format among others" if row.hlc else "there is no value"
            raise BadFile(number, f"{what}; {_EXPECTED}")
        yield (number, row.subject, row.predicate, row.value, row.kind or "", row.field or "", False)


def first_format(file: IO[bytes]) -> bool:
    """True if the first line of a file is one of the first format."""
    for _, line in lines(file):
        if not line.isspace():
            try:
                found = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                return False
            return isinstance(found, dict) and "hlc" in found and "value" not in found
    return False


def read_first_format(file: IO[bytes]) -> Iterator[Change]:
    """The changes of a file of the first format."""
    for number, line in lines(file):
        if not line.isspace():
            try:
                yield change_from_triple(msgspec.json.decode(line, type=dict))
            except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, TypeError) as error:
                raise BadFile(number, str(error)) from None
