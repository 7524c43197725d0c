"""EDN: text to forms that know where they stand, and back.

A `Form` is one piece of EDN with its kind, value and place. The reader takes what queries need of EDN: lists,
vectors, sets, maps, symbols, keywords, strings, numbers, booleans, nil, `#inst` dates, `#tripleweb/ref` references and
`#"…"` patterns, with comments (`;` and `#_`). Everything else is refused by name.

Invariants: whatever the text, `read` returns forms or raises `QueryError` with a place; it does not recurse, and
depth and size are bounded (`DEPTH_MAX`, `TEXT_MAX`), so those who walk forms may recurse.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from tripleweb.errors import QueryError
from tripleweb.terms import INT_MAX, INT_MIN, Ref, date_text, normalise

DEPTH_MAX = 100
TEXT_MAX = 1_000_000
SHOWN_MAX = 200
REFERENCE = "#tripleweb/ref"  # before the id of an entity

_CLOSING = {"(": ")", "[": "]", "{": "}", "#{": "}"}
_COLLECTION = {"(": "list", "[": "vector", "{": "map", "#{": "set"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "b": "\b", "f": "\f", "/": "/"}
_BLANK = re.compile(r"(?:[\s,]+|;[^\n]*)+")
_ATOM = re.compile(r"""[^\s,;()\[\]{}"]+""")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_INTEGER = re.compile(r"([+-]?)(0|[1-9][0-9]*)N?")
_FLOAT = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?M?")
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,6})?)?)?(Z|[+-]\d\d:?\d\d)?)?)?)?")


@dataclass(frozen=True, slots=True)
class Form:
    """One piece of EDN.

    `kind` is one of `list vector set map symbol keyword string number boolean nil date regex`. `value` is a tuple
    of forms for the first four (a map's keys and values in turn), the text of a symbol, of a keyword (without its
    colon), string (a `Ref` where it is tagged as one) or pattern, else the Python value. Places count from 1 and do
    not take part in equality.
    """

    kind: str
    value: Any
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return show(self)

    @property
    def sequential(self) -> bool:
        return self.kind in ("list", "vector")

    def symbol(self, *names: str) -> bool:
        """True if this is a symbol (one of `names`, where some are given)."""
        return self.kind == "symbol" and (not names or self.value in names)

    def error(self, message: str, expected: str | None = None) -> QueryError:
        """A `QueryError` that points at this form."""
        return QueryError(
            message, line=self.line, column=self.column, form=show(self, SHOWN_MAX), expected=expected
        )


def read(text: str) -> Form:
    """The one form in `text`.

    Raises `QueryError`, with line and column, for anything else.

    >>> str(read('[:find ?x  :where [?x :user/age 36.50]] ; who'))
    '[:find ?x :where [?x :user/age 36.5]]'
    >>> read("[:find ?x")
    Traceback (most recent call last):
    tripleweb.errors.QueryError: the vector that begins here is not closed: [; expected ] (line 1, column 1)
    """
    forms = read_all(text)
    if not forms:
        raise QueryError("there is nothing to read", line=1, column=1, form="", expected="one EDN form")
    if len(forms) > 1:
        raise forms[1].error("more text after the end of the form", "one EDN form")
    return forms[0]


def read_all(text: str, limit: int = TEXT_MAX) -> list[Form]:
    """All forms in `text`, which has at most `limit` characters, one after the other; [] if it is blank. Raises
    `QueryError`."""
    return _Reader(text, limit).read()


class _Reader:
    """One pass over a text with an explicit stack of what is open."""

    def __init__(self, text: str, limit: int) -> None:
        if not isinstance(text, str):
            raise QueryError(f"a query is text, not {type(text).__name__}", line=1, column=1)
        if len(text) > limit:
            raise QueryError(
                f"a query has at most {limit:,} characters; this one has {len(text):,}", line=1, column=1
            )
        self.text = text
        self.at = 0
        self.line = 1
        self.line_start = 0

    def read(self) -> list[Form]:
        top: list[Form] = []
        # What is open: (opener, where it began, what it holds so far); an opener "#_" drops the next form.
        open_: list[tuple[str, tuple[int, int], list[Form]]] = []
        text = self.text
        while True:
            self.skip()
            place = (self.line, self.at - self.line_start + 1)
            if self.at >= len(text):
                break
            char = text[self.at]
            opener = char if char in "([{" else "#{" if text.startswith("#{", self.at) else None
            form: Form | None = None
            if opener or text.startswith("#_", self.at):
                if len(open_) >= DEPTH_MAX:
                    self.fail(f"nested more than {DEPTH_MAX} deep", place, char)
                self.at += len(opener or "#_")
                open_.append((opener or "#_", place, []))
            elif char in ")]}":
                if not open_ or _CLOSING.get(open_[-1][0]) != char:
                    expected = f"{_CLOSING[open_[-1][0]]}" if open_ and open_[-1][0] != "#_" else "a form"
                    self.fail("a closing bracket that closes nothing", place, char, expected)
                self.at += 1
                opener, place, held = open_.pop()
                form = Form(_COLLECTION[opener], tuple(held), *place)
                if form.kind == "map" and len(held) % 2:
                    raise form.error("a map with a key that has no value", "keys and values in turn")
            else:
                form = self.atom(place)
            while form is not None and open_ and open_[-1][0] == "#_":
                open_.pop()
                form = None
            if form is not None:
                (open_[-1][2] if open_ else top).append(form)
        if open_:
            opener, place, _ = open_[-1]
            if opener == "#_":
                self.fail("nothing follows the #_", place, "#_", "the form that is left out")
            self.fail(
                f"the {_COLLECTION[opener]} that begins here is not closed", place, opener, _CLOSING[opener]
            )
        return top

    def skip(self) -> None:
        match = _BLANK.match(self.text, self.at)
        if match:
            self.move(match.end())

    def move(self, end: int) -> None:
        """Goes on to `end`, counting lines."""
        lines = self.text.count("\n", self.at, end)
        if lines:
            self.line += lines
            self.line_start = self.text.rindex("\n", self.at, end) + 1
        self.at = end

    def fail(self, message: str, place: tuple[int, int], form: str, expected: str | None = None) -> NoReturn:
        raise QueryError(message, line=place[0], column=place[1], form=form[:SHOWN_MAX], expected=expected)

    def string(self, place: tuple[int, int], start: int) -> str:
        """The raw inside of the string literal at `start`."""
        match = _STRING.match(self.text, start)
        if match is None:
            self.fail("a string that is not closed", place, self.text[self.at : self.at + 40], 'a closing "')
        self.move(match.end())
        return match[1]

    def atom(self, place: tuple[int, int]) -> Form:
        text, start = self.text, self.at
        if text[start] == '"':
            return Form("string", self.unescape(self.string(place, start), place), *place)
        if text.startswith('#"', start):
            return Form("regex", self.string(place, start + 1), *place)
        match = _ATOM.match(text, start)
        assert match is not None  # brackets, blanks, comments and strings were seen to
        word = match[0]
        if word[0] == "#":
            return self.tagged(word, place)
        self.at = match.end()
        if word in ("true", "false"):
            return Form("boolean", word == "true", *place)
        if word == "nil":
            return Form("nil", None, *place)
        if word[0] == ":":
            return Form("keyword", self.keyword(word, place), *place)
        if word[0].isdigit() or (word[0] in "+-." and word[1:2].isdigit()):
            return Form("number", self.number(word, place), *place)
        if word[0] in "\\'`~@^":
            names = {"\\": "a character", "^": "metadata"}
            self.fail(f"{names.get(word[0], 'a quote')} has no place in a query", place, word, "a form")
        return Form("symbol", word, *place)

    def keyword(self, word: str, place: tuple[int, int]) -> str:
        if len(word) == 1 or word[1] == ":":
            self.fail("not a keyword", place, word, "a name after one colon, such as :user/name")
        return word[1:]

    def number(self, word: str, place: tuple[int, int]) -> int | float:
        match = _INTEGER.fullmatch(word)
        if match:
            value = int(match[1] + match[2]) if len(word) <= 21 else INT_MAX + 1
            if not INT_MIN <= value <= INT_MAX:
                self.fail("an integer beyond 64 bit", place, word, f"{INT_MIN} to {INT_MAX}")
            return value
        if _FLOAT.fullmatch(word):
            number = float(word.rstrip("M"))
            if math.isfinite(number):
                return number
        return self.fail("not a number", place, word, "digits, such as 36, -1.5 or 1e6, of finite size")

    def tagged(self, word: str, place: tuple[int, int]) -> Form:
        self.at += len(word)
        if word == REFERENCE:
            self.skip()
            if not self.text.startswith('"', self.at):
                self.fail("a reference without its id", place, word, f'{REFERENCE} "id"')
            id = self.unescape(self.string(place, self.at), place)
            try:
                return Form("string", normalise(Ref(id)), *place)
            except ValueError as error:
                self.fail(f"not a reference: {error}", place, word, f'{REFERENCE} "id"')
        if word != "#inst":
            self.fail("an unknown tag", place, word, '#inst "2013-01-01T00:00:00Z", #{…}, #"…" or #_')
        self.skip()
        if not self.text.startswith('"', self.at):
            self.fail("a date without its text", place, word, '#inst "2013-01-01T00:00:00Z"')
        written = self.string(place, self.at)
        try:
            # shorter dates begin at the first moment that they name; without a zone they are UTC
            if not _DATE.fullmatch(written):
                raise ValueError(written)
            day, _, hours = written.partition("T")
            zone = re.search(r"(Z|[+-]\d\d:?\d\d)$", hours)
            clock = hours[: zone.start()] if zone else hours
            clock += "00:00:00"[len(clock) :] if len(clock) < 8 else ""
            whole, dot, fraction = clock.partition(".")
            clock = whole + dot + fraction.ljust(6, "0") if dot else whole
            day += "-01" * (2 - day.count("-"))
            offset = zone[0].replace("Z", "+00:00") if zone else "+00:00"
            moment = normalise(datetime.fromisoformat(f"{day}T{clock}{offset}"))
        except ValueError:
            self.fail("not a date", place, f'#inst "{written}"', '#inst "2013-01-01T00:00:00Z"')
        return Form("date", moment, *place)

    def unescape(self, raw: str, place: tuple[int, int]) -> str:
        def one(match: re.Match[str]) -> str:
            name = match[1]
            if len(name) == 5:
                return chr(int(name[1:], 16))
            if name not in _ESCAPES:
                self.fail(
                    "an unknown escape in a string", place, f"\\{name}", 'one of \\n \\t \\r \\\\ \\" \\uXXXX'
                )
            return _ESCAPES[name]

        text = _ESCAPE.sub(one, raw) if "\\" in raw else raw
        try:
            # two escapes that are a surrogate pair are one character
            return text.encode("utf-16", "surrogatepass").decode("utf-16") if "\\u" in raw else text
        except UnicodeDecodeError:
            self.fail("a lone surrogate in a string", place, raw, "a character")


def show(form: Form, limit: int | None = None) -> str:
    """The form as EDN; cut off at `limit` characters with an ellipsis, where one is given.

    >>> show(read('( a  "b\\n" ,#{1})'))
    '(a "b\\\\n" #{1})'
    """
    parts: list[str] = []
    size = 0
    pending: list[Form | str] = [form]
    while pending and (limit is None or size <= limit):
        item = pending.pop()
        if isinstance(item, str):
            part = item
        elif isinstance(item.value, tuple):
            opener = next(key for key, kind in _COLLECTION.items() if kind == item.kind)
            pending.append(_CLOSING[opener])
            for index in range(len(item.value) - 1, -1, -1):
                pending.append(item.value[index])
                if index:
                    pending.append(" ")
            part = opener
        else:
            part = _show_atom(item)
        parts.append(part)
        size += len(part)
    text = "".join(parts)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _show_atom(form: Form) -> str:
    if form.kind == "keyword":
        return f":{form.value}"
    if form.kind == "regex":
        return f'#"{form.value}"'
    return str(form.value) if form.kind == "symbol" else show_value(form.value)


def show_value(value: Any) -> str:
    """A Python value as EDN, as `pr-str` gives it.

    >>> show_value(True), show_value('say "a"'), show_value(1.0), show_value((1, "b"))
    ('true', '"say \\\\"a\\\\""', '1.0', '[1 "b"]')
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    if isinstance(value, datetime):
        return f'#inst "{date_text(value)}"'
    if isinstance(value, tuple | list):
        return "[" + " ".join(show_value(item) for item in value) + "]"
    return repr(value)
