"""Patterns to pull: which attributes of an entity, and of those that it refers to, are wanted.

    pattern   = '[' item+ ']'
    item      = '*' | attribute | '{' (attribute (pattern | depth))+ '}'
    attribute = name | '[' name option* ']' | '(' 'limit' name count ')' | '(' 'default' name value ')'
    option    = ':as' key | ':limit' count | ':default' value
    name      = keyword | string        :kind/_name is the reverse of :kind/name, :db/id (or :id) the entity's id
    count     = 1, 2 … | nil            key   = keyword | string | symbol
    depth     = 1, 2 … | '...'          value = constant, or a vector of them        ( [ and ( mean the same )

Invariants: `parse_pull` gives a pattern or raises `QueryError` with place, form and expectation, whatever the text; a
pattern never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tripleweb.datalog.builtins import forward
from tripleweb.datalog.edn import Form, read
from tripleweb.ids import kind_of
from tripleweb.schema import Field
from tripleweb.terms import Value

LIMIT = 1_000  # of the values of one attribute, where the pattern does not say
_ID = ("db/id", "id")
_EXPECTED = ":user/name, [:user/name :as :name], {:user/manager [:user/name]} or *"

Fields = Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a pattern. `predicate` "" is the entity's id; `nested` and `recursive` say what becomes of
    references; `depth` None: as deep as it goes."""

    predicate: str
    key: Any
    reverse: bool = False
    limit: int | None = LIMIT
    default: Any = None
    nested: PullPattern | None = None
    recursive: bool = False
    depth: int | None = None


@dataclass(frozen=True)
class PullPattern:
    """A parsed pattern; `star` is where among the attributes `*` stands, None if it does not."""

    attributes: tuple[Attribute, ...]
    star: int | None
    form: Form

    def __str__(self) -> str:
        return str(self.form)

    @cached_property
    def named(self) -> frozenset[str]:
        """The forward predicates of this level."""
        return frozenset(each.predicate for each in self.attributes if not each.reverse)

    @cached_property
    def leads(self) -> frozenset[str]:
        """The predicates that lead from one entity to others, at every level."""
        found: set[str] = set()
        pending = [self]
        while pending:
            for each in pending.pop().attributes:
                if each.reverse or each.recursive or each.nested is not None:
                    found.add(each.predicate)
                if each.nested is not None:
                    pending.append(each.nested)
        return frozenset(found)

    @cached_property
    def reads(self) -> tuple[frozenset[str] | None, frozenset[str]]:
        """The predicates that are read forward (None: any) and in reverse, at every level."""
        ahead: set[str] = set()
        back: set[str] = set()
        any_ = False
        pending = [self]
        while pending:
            pattern = pending.pop()
            any_ = any_ or pattern.star is not None
            for each in pattern.attributes:
                if each.predicate:
                    (back if each.reverse else ahead).add(each.predicate)
                if each.nested is not None:
                    pending.append(each.nested)
        return None if any_ else frozenset(ahead), frozenset(back)

    def predicates(self, fields: Fields) -> frozenset[str] | None:
        """What the pulled depends on, read with these fields; None: any predicate. A default is not there without its
        entity, so that all of its kind counts."""
        ahead, back = self.reads
        return None if ahead is None else back | ahead | companions(ahead, fields)


def companions(predicates: Iterable[str], fields: Fields) -> frozenset[str]:
    """The predicates that tell whether the entities are there which the fields' defaults would be filled in for."""
    kinds = {kind_of(name) for name in predicates if name in fields and stand_in(fields[name]) is not None}
    return frozenset(name for name in fields if kind_of(name) in kinds)


def stand_in(field: Field) -> list[Value] | None:
    """The values that a field reads as where it has none; None if it is missing then."""
    if field.counter:
        return [0]
    if field.default is None or callable(field.default):
        return None
    return list(field.default) if field.many else [field.default]


# -- reading patterns -----------------------------------------------------------------------------------------


def parse_pull(pattern: Form | str) -> PullPattern:
    """A pattern. Raises `QueryError` with place, form and expectation.

    >>> str(parse_pull("[:user/name {:user/manager ...}]"))
    '[:user/name {:user/manager ...}]'
    >>> parse_pull("[{:user/manager 0}]")
    Traceback (most recent call last):
    tripleweb.errors.QueryError: recursion of no depth: 0; expected a number from 1, or ... (line 1, column 17)
    """
    form = read(pattern) if isinstance(pattern, str) else pattern
    if not form.sequential:
        raise form.error("not a pattern to pull", "[:user/name …]")
    if not form.value:
        raise form.error("a pattern that pulls nothing", f"[{_EXPECTED}]")
    found: dict[Any, Attribute] = {}
    star: int | None = None
    for item in form.value:
        if item.symbol("*") or (item.kind in ("string", "keyword") and item.value == "*"):
            star = len(found) if star is None else star
        elif item.kind == "map":
            if not item.value:
                raise item.error("an empty map", "{:user/manager [:user/name]}")
            for key, below in zip(item.value[::2], item.value[1::2], strict=True):
                attribute = _nested(key, below)
                found[attribute.key] = attribute
        else:
            attribute = _attribute(item)
            found[attribute.key] = attribute
    return PullPattern(tuple(found.values()), star, form)


def _nested(key: Form, below: Form) -> Attribute:
    attribute = _attribute(key)
    if not attribute.predicate:
        raise key.error("an id has no attributes", "an attribute that holds references")
    if below.symbol("...") or (below.kind == "string" and below.value == "..."):
        return replace(attribute, recursive=True)
    if below.kind == "number":
        if type(below.value) is not int or below.value < 1:
            raise below.error("recursion of no depth", "a number from 1, or ...")
        return replace(attribute, recursive=True, depth=below.value)
    if not below.sequential:
        raise below.error("neither a pattern nor a recursion", "[:user/name …], a number or ...")
    return replace(attribute, nested=parse_pull(below))


def _attribute(form: Form) -> Attribute:
    if not form.sequential:
        return _name(form)
    if not form.value:
        raise form.error("not an attribute", _EXPECTED)
    head, *rest = form.value
    if len(rest) == 2 and (head.symbol("limit", "default") or _is_text(head, "limit", "default")):
        return _option(_name(rest[0]), form, head.value, rest[1])
    attribute = _name(head)
    if len(rest) % 2:
        raise form.error("an option without its value", ":as, :limit or :default, each with a value")
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        if name.kind == "keyword" and name.value == "xform":
            raise name.error("functions are not pulled through", ":as, :limit or :default")
        if name.kind != "keyword" or name.value not in ("as", "limit", "default"):
            raise name.error("not an option of an attribute", ":as, :limit or :default")
        attribute = _option(attribute, name, name.value, value)
    return attribute


def _is_text(form: Form, *texts: str) -> bool:
    return form.kind == "string" and form.value in texts


def _name(form: Form) -> Attribute:
    if form.kind not in ("keyword", "string") or not form.value:
        raise form.error("not an attribute", _EXPECTED)
    name = form.value
    if name in _ID or (form.kind == "string" and name == ":db/id"):
        return Attribute("", "id")
    back = forward(name)
    return Attribute(name, name) if back is None else Attribute(back, name, reverse=True)


def _option(attribute: Attribute, form: Form, name: str, value: Form) -> Attribute:
    if name == "as":
        if value.kind not in ("keyword", "string", "symbol"):
            raise value.error("not a key", ":as :name")
        return replace(attribute, key=value.value)
    if not attribute.predicate:
        raise form.error("an id has neither limit nor default", ":as")
    if name == "limit":
        if value.kind != "nil" and (type(value.value) is not int or value.value < 1):
            raise value.error("not a limit", "a number from 1, or nil for all")
        return replace(attribute, limit=value.value)
    return replace(attribute, default=_constant(value))


def _constant(form: Form) -> Any:
    if form.kind in ("number", "string", "boolean", "date", "nil"):
        return form.value
    if form.kind == "vector":
        return tuple(map(_constant, form.value))
    raise form.error("not a default", "text, a number, true, false, a date, or a vector of them")


def path_pattern(paths: Iterable[tuple[str, ...]]) -> PullPattern:
    """What is to be pulled to follow all of these paths from one entity. What a path ends with has its text as a key,
    what it goes through a tuple of it; every entity on the way is there, and nothing is cut off."""
    leaves: dict[str, None] = {}
    deeper: dict[str, list[tuple[str, ...]]] = {}
    for first, *rest in paths:
        if rest:
            deeper.setdefault(first, []).append(tuple(rest))
        else:
            leaves[first] = None
    attributes = [Attribute("", "id")]
    attributes += [replace(_ahead(name), key=name) for name in leaves]
    attributes += [
        replace(_ahead(name), key=(name,), nested=path_pattern(several)) for name, several in deeper.items()
    ]
    return PullPattern(tuple(attributes), None, Form("symbol", "get"))


def _ahead(name: str) -> Attribute:
    back = forward(name)
    return Attribute(name if back is None else back, name, reverse=back is not None, limit=None)
