"""What a query says of predicates: of what kind their values are, and how they read (`:kinds`).

    kinds = '{' (predicate (type | '(' type default+ ')'))* '}'
    type  = kind | '[' kind ']' | 'counter'                       in brackets: a set of them
    kind  = 'text' | 'number' | 'boolean' | 'date' | 'reference'

It is what of a schema matters to readers, so that both ends of a connection give the same answer. Invariant: what
`type_text` writes, `parse_kinds` reads as the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tripleweb.datalog.edn import Form, show_value
from tripleweb.ids import kind_of
from tripleweb.schema import Field, field_of
from tripleweb.terms import Ref, Value, kind, kind_name

_PLAIN_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_LETTERS = {kind_name(letter): letter for letter in "snbdr"}
_TYPES = ", ".join([*_LETTERS, "counter", "[text]", "(number 0)"])


def read_as(
    predicate: str, letter: str, many: bool = False, counter: bool = False, default: Any = None
) -> Field:
    """A field as far as it matters to readers."""
    name = field_of(predicate)
    return Field(letter, kind_of(predicate), name, predicate, many, counter, default=default)


def parse_kinds(forms: Sequence[Form], whole: Form) -> dict[str, Field]:
    if len(forms) != 1 or forms[0].kind != "map":
        raise (forms[0] if forms else whole).error("not kinds of predicates", ":kinds {:user/age number}")
    fields: dict[str, Field] = {}
    for name, form in zip(forms[0].value[::2], forms[0].value[1::2], strict=True):
        if name.kind not in ("keyword", "string"):
            raise name.error("not a predicate", ':user/name or "user/name"')
        field = _typed(name.value, form)
        if fields.setdefault(name.value, field) != field:
            raise name.error("a predicate with two kinds", "one of them")
    return fields


def _typed(predicate: str, form: Form) -> Field:
    word, *defaults = form.value if form.kind == "list" and len(form.value) > 1 else (form,)
    if word.symbol("counter") and not defaults:
        return read_as(predicate, "n", counter=True)
    many = word.kind == "vector" and len(word.value) == 1
    word = word.value[0] if many else word
    if not word.symbol(*_LETTERS) or (len(defaults) > 1 and not many):
        raise form.error("not a kind", _TYPES)
    letter = _LETTERS[word.value]
    values: list[Value] = []
    for default in defaults:
        value = Ref(default.value) if letter == "r" and default.kind == "string" else default.value
        if default.kind not in ("string", "number", "boolean", "date") or kind(value) != letter:
            raise default.error("not a default of this kind", f"a {word.value}")
        values.append(value)
    if not values:
        return read_as(predicate, letter, many)
    return read_as(predicate, letter, many, default=tuple(values) if many else values[0])


def type_text(field: Field) -> str:
    if field.counter:
        return "counter"
    word = f"[{kind_name(field.type)}]" if field.many else kind_name(field.type)
    if field.default is None:
        return word
    defaults = field.default if field.many else (field.default,)
    return f"({word} {' '.join(map(show_value, defaults))})" if defaults else word


def predicate_text(predicate: str) -> str:
    """A predicate as queries have it: a keyword, where it can be one."""
    return f":{predicate}" if _PLAIN_KEYWORD.fullmatch(predicate) else show_value(predicate)
