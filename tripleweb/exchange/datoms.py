"""EDN: a datom a line, as Datomic and DataScript print them, without transactions.

    ["ada" :user/age 36]
    ["p1" :post/tags #tripleweb/ref "x" :set]

A predicate that can be one is a keyword, others are strings; dates are tagged `#inst`, references `#tripleweb/ref`. A
fourth element says that a value is one of a set, or the total of a counter, and is passed over by who takes `[e a v]`.

`read` also takes what others write: datoms of several lines; one vector, list or set of them; `[:db/add e a v]`;
`#datascript/Datom [e a v tx added]`; entities that are numbers. A datom of what was retracted is refused: files hold
what is there, not what was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import IO, Any

from tripleweb.datalog.edn import REFERENCE, Form, read_all, show_value
from tripleweb.errors import QueryError
from tripleweb.exchange import BadFile, Raw
from tripleweb.exchange.files import LINE_BYTES_MAX, lines, text
from tripleweb.inventory import COUNT, MEMBER, SINGLE, Row
from tripleweb.terms import Ref, date_text, kind, kind_name

_EXPECTED = 'expected a datom such as ["ada" :user/age 36]'
# What readers of EDN agree about
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_.*+!?-]*(?:/[A-Za-z][A-Za-z0-9_.*+!?-]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ENDS = {SINGLE: "]\n", MEMBER: " :set]\n", COUNT: " :counter]\n"}
_FIELDS = {"set": MEMBER, "counter": COUNT, "single": SINGLE}
# A datom as nearly all are; others go the long way
_PLAIN = re.compile(
    r'\["([^"\\]+)" (?::([A-Za-z][A-Za-z0-9_.*+!?-]*(?:/[A-Za-z][A-Za-z0-9_.*+!?-]*)?)|"([^"\\]+)") '
    rf'(?:"([^"\\]*)"|({REFERENCE}) "([^"\\]+)"|(-?(?:0|[1-9][0-9]{{0,17}}))|(true|false))(?: :(set|counter))?\]\r?\n?'
)
_SIGNS = re.compile(r'["\\;\[\](){}]')
_BETWEEN = re.compile(r"(?:[\s,]|;[^\n]*(?:\n|$))*(?:#datascript/Datom\s*|#)?")
_DEPTH_MAX = 20


def write(file: IO[bytes], batches: Iterable[Sequence[Row]]) -> None:
    names: dict[str, str] = {}
    for batch in batches:
        out = []
        for subject, predicate, value, holding in batch:
            name = names.get(predicate)
            if name is None:
                is_one = _KEYWORD.fullmatch(predicate)
                name = names[predicate] = f":{predicate}" if is_one else _string(predicate)
            out.append(f"[{_string(subject)} {name} {_shown(value)}{_ENDS[holding]}")
        file.write("".join(out).encode())


def _string(value: str) -> str:
    shown = show_value(value)
    return shown if shown.isprintable() else _CONTROL.sub(lambda one: f"\\u{ord(one[0]):04x}", shown)


def _shown(value: Any) -> str:
    cls = type(value)
    if cls is str:
        return _string(value)
    if cls is Ref:
        return f"{REFERENCE} {_string(value)}"
    return f'#inst "{date_text(value)}"' if cls is datetime else show_value(value)


def read(file: IO[bytes]) -> Iterator[Raw]:
    pieces = _Pieces()
    for number, raw in lines(file):
        line = text(number, raw)
        if not pieces.is_within and (plain := _PLAIN.fullmatch(line)):
            subject, word, name, string, tag, id, integer, boolean, field = plain.groups()
            if string is not None:
                value, named = string, "text"
            elif tag:
                value, named = id, "reference"
            elif integer:
                value, named = int(integer), "number"
            else:
                value, named = boolean == "true", "boolean"
            yield (number, subject, word or name, value, named, field or "", False)
            continue
        for begun, datom in pieces.feed(number, line):
            yield _datom(begun, datom)
    pieces.end()


class _Pieces:
    """Text line by line, datom by datom. What it keeps of the text is the datom that has begun."""

    def __init__(self) -> None:
        self.is_within = False  # a line alone would not be understood
        self._open: list[str] = []  # the brackets
        self._base = 0  # how many of them are round all datoms
        self._kept: list[str] = []
        self._size = 0
        self._begun = 0
        self._in_string = False
        self._is_first = False  # this datom may turn out to be the bracket round all of them
        self._is_over = False  # which was closed

    def feed(self, number: int, line: str) -> Iterator[tuple[int, str]]:
        """The datoms that end in this line, with the lines where they began."""
        start = 0  # of what is not dealt with
        skip_to = 0
        for sign in _SIGNS.finditer(line):
            at, char = sign.start(), sign[0]
            if at < skip_to:
                continue
            if self._in_string:
                if char == "\\":
                    skip_to = at + 2
                elif char == '"':
                    self._in_string = False
                continue
            if char == ";":
                skip_to = len(line)
                if len(self._open) > self._base:
                    self._keep(number, line[start:at] + "\n")
                    start = len(line)
            elif char == '"':
                self._in_string = True
                if len(self._open) <= self._base:
                    raise BadFile(number, f"text outside of a datom; {_EXPECTED}")
            elif char in "[({":
                if len(self._open) == self._base:
                    if self._is_over:
                        raise BadFile(number, "more after the end of the datoms")
                    self._check_between(number, line[start:at])
                    start, self._begun, self._is_first = at, number, self._base == 0
                elif self._is_first:
                    self._is_first = False
                    if _BETWEEN.fullmatch(("".join(self._kept) + line[start:at])[1:]):
                        self._kept, self._size, self._base = [], 0, 1
                        start, self._begun = at, number
                self._open.append(char)
                if len(self._open) > _DEPTH_MAX:
                    raise BadFile(number, f"brackets {_DEPTH_MAX} deep; {_EXPECTED}")
            elif char in "])}":
                if not self._open:
                    raise BadFile(number, f"a bracket that closes nothing; {_EXPECTED}")
                self._open.pop()
                if len(self._open) == self._base:
                    self._keep(number, line[start : at + 1])
                    yield self._begun, "".join(self._kept)
                    self._kept, self._size, start = [], 0, at + 1
                elif len(self._open) < self._base:
                    self._check_between(number, line[start:at])
                    self._base, self._is_over, start = 0, True, at + 1
        rest = line[start:]
        if len(self._open) > self._base:
            self._keep(number, rest)
        else:
            self._check_between(number, rest)
        self.is_within = bool(self._open) or self._is_over

    def end(self) -> None:
        """Raises `BadFile` if the text ends in the middle."""
        if self._open:
            raise BadFile(self._begun, f"what begins here is not closed: the file was cut off? {_EXPECTED}")

    def _keep(self, number: int, part: str) -> None:
        self._kept.append(part)
        self._size += len(part)
        if self._size > LINE_BYTES_MAX:
            raise BadFile(self._begun, f"a datom longer than {LINE_BYTES_MAX >> 20} MB, which no triple is")

    def _check_between(self, number: int, between: str) -> None:
        if _BETWEEN.fullmatch(between) is None:
            raise BadFile(number, f"not a datom: {between.strip()[:40]!r}; {_EXPECTED}")


def _datom(number: int, written: str) -> Raw:
    try:
        (form,) = read_all(written, LINE_BYTES_MAX)
    except QueryError as error:
        raise BadFile(number + (error.line or 1) - 1, f"{error.message}; {_EXPECTED}") from None
    items = list(form.value) if form.sequential else []
    if items and items[0].kind == "keyword" and items[0].value == "db/add":
        del items[0]
    if not 3 <= len(items) <= 5 or (len(items) == 5 and items[4].kind != "boolean"):
        raise BadFile(number, f"not a datom: {str(form)[:60]}; {_EXPECTED}")
    entity, attribute, value = items[:3]
    if len(items) == 5 and not items[4].value:
        raise BadFile(number, f"a datom of what was retracted: {str(form)[:60]}; expected what is there")
    field = ""
    if len(items) == 4 and items[3].kind == "keyword":
        field = items[3].value
    subject = str(entity.value) if entity.kind in ("string", "number") else None
    if subject is None or attribute.kind not in ("keyword", "string"):
        raise BadFile(number, f"not a datom: {str(form)[:60]}; {_EXPECTED}")
    return (number, subject, str(attribute.value), *_value(number, value), _FIELDS.get(field, field), False)


def _value(number: int, form: Form) -> tuple[Any, str]:
    """A value, and its kind; a number may be the id of an entity, where a schema says so."""
    if form.kind == "keyword":
        return str(form.value), "text"
    if form.kind == "number":
        return form.value, ""
    if form.kind in ("string", "boolean", "date"):
        return form.value, kind_name(kind(form.value))
    raise BadFile(number, f"{str(form)[:60]} is not a value: expected text, a number, true, false or #inst")
