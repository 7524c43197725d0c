"""What a client's data should look like: kinds, their fields, what each field takes and how it reads.

A schema lives in the client that wrote it; the server never sees it. It guards this client's writes (`take`,
`members`, `amount` return what is to be stored, or raise) and interprets what is read (`read`: data from others that
does not fit is missing, never an exception, and is not converted).

Invariants: a `Schema` is immutable; its field names and defaults were checked when it was made, so that only values
can be wrong later; what `take` returned reads back as it is. A store without a schema uses `SCHEMALESS`, which has
the same doors: there a field is *free*, of any kind of value (`type` is ""), single for a scalar and many for a
Python set.

    field        `type`   Python                               stored as
    t.string     "s"      str                                  one value
    t.number     "n"      int, float                           one value
    t.boolean    "b"      bool                                 one value
    t.date       "d"      aware datetime, pandas.Timestamp     one value
    t.ref        "r"      the id of an entity: str, Ref        one value
    t.many       of its   list, tuple, set of them             members (also t.ref_many)
    t.counter    "n"      int, float                           shares, by increments only
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tripleweb.cells import total
from tripleweb.errors import SchemaError
from tripleweb.ids import check_id, check_predicate, kind_of
from tripleweb.store import Store
from tripleweb.terms import Ref, Value, kind, kind_name, normalise, slot, sort_key

Check = Callable[[Any], Any]
_ARTICLES = {"s": "text", "n": "a number", "b": "a boolean", "d": "a date", "r": "an id"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a kind. Made by `t.…`, which leaves `kind`, `name` and `predicate` to `schema`.

    `type` is the letter of its values (`s n b d r`, "" for any), `target` the kind that a reference is to,
    `default` a value (stored form; a tuple for a set) or a callable without arguments, None for none.
    `check` is called with each single value that is written (each member of a set, each amount of a counter).
    """

    type: str
    kind: str = ""
    name: str = ""
    predicate: str = ""
    many: bool = False
    counter: bool = False
    optional: bool = False
    default: Any = None
    check: Check | None = None
    target: str | None = None

    @property
    def required(self) -> bool:
        """True if `insert` demands a value."""
        free = self.optional or self.default is not None or self.many or self.counter
        return bool(self.type) and not free

    @property
    def description(self) -> str:
        """What the field holds, in words.

        >>> t.ref_many("tag").description, t.number().description, t.counter().description
        ('set of references to tag', 'number', 'counter')
        """
        if self.counter:
            return "counter"
        if not self.type:
            return "any value"
        word = kind_name(self.type)
        plural = "text" if word == "text" else word + "s"
        to = f" to {self.target}" if self.target else ""
        return f"set of {plural}{to}" if self.many else word + to

    # -- writing -----------------------------------------------------------------------------------------------

    def take(self, value: Any) -> Value | list[Value] | None:
        """What an assignment of `value` stores: a value; the sorted members of a set; None: it is removed.

        Raises `SchemaError` for what the field does not take; of a free field `ValueError` or `TypeError` for what
        cannot be stored at all.
        """
        if self.counter:
            raise self.misfit(value, "increments: a counter counts and is never assigned")
        if self.many or not self.type:
            if self._is_whole(value):
                return self._several(value)
            if self.many and self.one(value, guard=False) is not None:
                raise self.misfit(value, f"a list or set: the field is a {self.description}")
        return self.one(value)

    def members(self, value: Any, *, guard: bool = True) -> list[Value]:
        """The members to add or remove: of a list or set, or a single one. `guard`: ask `check`."""
        if self.type and not self.many:
            raise self.misfit(value, f"a field of many values; this one is a single {self.description}")
        if self._is_whole(value):
            return self._several(value, guard=guard)
        member = self.one(value, guard=guard)
        return [] if member is None else [member]

    def amount(self, value: Any) -> int | float | None:
        """The amount to count; None for none."""
        if self.type and not self.counter:
            raise self.misfit(value, f"a counter; this field is a {self.description}")
        counted = self.one(value)
        if counted is None or type(counted) is int or type(counted) is float:
            return counted
        raise self.misfit(value, "a number to count")

    def check_removal(self, value: Any = None) -> None:
        """Raises `SchemaError` where the field's value may not be removed."""
        if self.counter:
            raise self.misfit(value, "increments: a counter counts and is never removed")
        if self.required:
            raise self.misfit(value, f"a value ({self.description}): the field is required")

    def fill(self) -> Value | list[Value] | int | float | None:
        """What `insert` writes where nothing was given: the default, None if there is none."""
        given = self.default() if callable(self.default) else self.default
        if given is None:
            return None
        return self.amount(given) if self.counter else self.take(given)

    def misfit(self, value: Any, expected: str) -> SchemaError:
        """The error for a value that does not fit."""
        return SchemaError(f"{self._place(value)}: expected {expected}")

    def _place(self, value: Any) -> str:
        return f"{f'{self.kind}.{self.name}' if self.type else self.predicate} = {_shorten(value)}"

    def _is_whole(self, value: Any) -> bool:
        """True for a collection of members. A free field takes Python sets only: a list is not a value, and
        whether its order matters is not known."""
        if isinstance(value, set | frozenset):
            return True
        if not self.type:
            if isinstance(value, list | tuple):
                raise TypeError(
                    f"{self.predicate}: a {type(value).__name__} is not a value: {_shorten(value)}; "
                    "without a schema a Python set means many values"
                )
            return False
        if (
            isinstance(value, str | bytes | Mapping) or getattr(value, "ndim", 1) != 1
        ):  # a frame gives its columns
            return False
        return isinstance(value, Iterable)

    def _several(self, values: Iterable[Any], *, guard: bool = True) -> list[Value]:
        members: dict[str, Value] = {}
        for value in values:
            member = self.one(value, guard=guard)
            if member is None:
                raise self.misfit(value, "members that are values: a set has no missing ones")
            members[slot(member)] = member
        return sorted(members.values(), key=_order)

    def one(self, value: Any, *, guard: bool = True) -> Value | None:
        """A single value (a member, an amount) as it is stored; None for no value. `guard`: ask `check`."""
        try:
            taken = normalise(value)
            if self.type == "r" and type(taken) is str:
                taken = Ref(check_id(taken))
        except (ValueError, TypeError) as error:
            if not self.type:
                raise type(error)(f"{self.predicate}: {error}") from None
            raise self.misfit(value, f"{_ARTICLES[self.type]}: {error}") from None
        if taken is None or not self.type:
            return taken
        letter = kind(taken)
        if letter != self.type:
            of = f" of a {self.target}" if self.target else ""
            raise self.misfit(value, f"{_ARTICLES[self.type]}{of}, not {_ARTICLES[letter]}")
        if guard and self.check is not None:
            self._ask(self.check, taken)
        return taken

    def _ask(self, check: Check, value: Value) -> None:
        name = getattr(check, "__name__", "<lambda>")
        said = "its check" if name == "<lambda>" else f"its check {name}"
        try:
            fits = bool(check(value))
        except (ValueError, TypeError, AssertionError) as error:
            raise self.misfit(value, f"a value that {said} accepts; it said: {error}") from error
        if not fits:
            raise self.misfit(value, f"a value that {said} accepts")

    # -- reading -----------------------------------------------------------------------------------------------

    def fits(self, value: Value) -> bool:
        """True if a stored value is of the field's kind. (`check` guards writes only.)"""
        return not self.type or kind(value) == self.type

    def read(self, values: Sequence[Value], *, several: bool = False) -> Any:
        """How the visible values of a field read: a counter's as their sum, many as a sorted list, else one value
        (the first in order, should others have written several), the plain default or None. Values that do not
        fit are left out. A free field with more than one value, or `several`, reads as a list.

        >>> t.number().read(["x", 2]), t.number(default=1).read(["x"]), t.counter().read([])
        (2, 1, 0)
        """
        fitting = values if not self.type else [value for value in values if kind(value) == self.type]
        if self.counter:
            return total(fitting)
        if fitting:
            whole = self.many or (not self.type and (several or len(fitting) > 1))
            return list(fitting) if whole else fitting[0]
        if self.default is not None and not callable(self.default):
            return list(self.default) if self.many else self.default
        return [] if self.many else None


class Schema:
    """The kinds of a client's data and their fields. Made by `schema`; `SCHEMALESS` is the one that knows nothing
    and takes everything."""

    __slots__ = ("_fields", "_is_open", "_kinds", "_types")

    def __init__(self, kinds: Mapping[str, Mapping[str, Field]], *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._kinds: dict[str, dict[str, Field]] = {}
        for group, fields in kinds.items():
            check_names(group)
            if not isinstance(fields, Mapping):
                raise SchemaError(
                    f"{group} = {_shorten(fields)}: expected a dict of fields, such as t.string()"
                )
            self._kinds[group] = {name: _named(group, name, field) for name, field in fields.items()}
        self._fields = {
            field.predicate: field for fields in self._kinds.values() for field in fields.values()
        }
        self._types = {predicate: field.type for predicate, field in self._fields.items()}
        for field in self._fields.values():
            if field.target is not None and field.target not in self._kinds:
                raise SchemaError(
                    f"{field.kind}.{field.name} refers to {field.target!r}: expected one of the kinds "
                    f"{_listing(self._kinds)}"
                )
            if field.default is not None and not callable(field.default):
                filled = field.fill()
                plain = tuple(filled) if isinstance(filled, list) else filled
                final = replace(field, default=plain)
                self._kinds[field.kind][field.name] = self._fields[field.predicate] = final

    def __repr__(self) -> str:
        lines = (
            f"  {group}: " + ", ".join(f"{name} ({field.description})" for name, field in fields.items())
            for group, fields in self._kinds.items()
        )
        return "\n".join(["Schema", *lines])

    @property
    def is_open(self) -> bool:
        """True if it takes what it does not know (only `SCHEMALESS` does)."""
        return self._is_open

    @property
    def types(self) -> Mapping[str, str]:
        """The letters of the predicates that it knows."""
        return self._types

    def kinds(self) -> list[str]:
        """The kinds that it knows, in the order in which they were written down."""
        return list(self._kinds)

    def fields(self, group: str) -> dict[str, Field]:
        """The fields that it knows of a kind, by name; raises `SchemaError` for a kind that it does not."""
        fields = self._kinds.get(group)
        if fields is None:
            if not self._is_open:
                raise SchemaError(
                    f"there is no kind {_shorten(group)}: expected one of {_listing(self._kinds)}"
                )
            if group:  # without a name it can be read: a predicate may begin with '/'
                check_names(group)
            return {}
        return fields

    def field(self, group: str, name: str, value: Any = None) -> Field:
        """A field by kind and name; raises `SchemaError` if there is none. `value` is for the message only."""
        fields = self._kinds.get(group)
        field = None if fields is None else fields.get(name)
        if field is not None:
            return field
        if self._is_open:
            check_names(group, name)
            return _free(f"{group}/{name}")
        given = f"{group}.{name} = {_shorten(value)}"
        if fields is None:
            raise SchemaError(f"{given}: there is no kind {group!r}; expected one of {_listing(self._kinds)}")
        hint = "a key, not a field; give it as id=" if name == "id" else f"one of {_listing(fields)}"
        raise SchemaError(f"{given}: {group} has no field {name!r}; expected {hint}")

    def at(self, predicate: str) -> Field:
        """The field of a predicate; a free one if the schema does not know it."""
        return self._fields.get(predicate) or _free(predicate)

    def shows(self, predicate: str, value: Value) -> bool:
        """True if a triple is there for somebody with this schema, who reads its kinds field by field."""
        return self._is_open or self._types.get(predicate) == kind(value)

    def entity(self, store: Store, group: str, subject: str) -> dict[str, Any] | None:
        """What is known of an entity as one kind: a dict with `id` and all fields of the schema (missing ones None,
        sets as sorted lists); without a schema those that are there. None if nothing of that kind is there: what does
        not fit the schema, or is not known to it, is not."""
        fields = self.fields(group)
        held: dict[str, list[Value]] = {}
        for predicate, value in store.about(subject):
            if kind_of(predicate) == group and self.shows(predicate, value):
                held.setdefault(predicate, []).append(value)
        if not held:
            return None
        out: dict[str, Any] = {"id": subject}
        for field in fields.values():
            out[field.name] = field.read(held.get(field.predicate, ()))
        if self._is_open:
            for predicate in sorted(held):
                if (
                    field_of(predicate) == "id"
                ):  # others may have written one; the key is not to be hidden by it
                    continue
                several = not _is_single(store, subject, predicate)
                out[field_of(predicate)] = _free(predicate).read(held[predicate], several=several)
        return out


def schema(**kinds: Mapping[str, Field]) -> Schema:
    """A schema: for each kind a dict of its fields, made with `t`.

    Raises `SchemaError` for names that begin with `_`, a field called `id`, a reference to a kind that is not there
    and a default that its own field refuses.

    >>> s = schema(user={"name": t.string(), "manager": t.ref("user", optional=True)})
    >>> s.fields("user")["manager"].description
    'reference to user'
    >>> s.field("user", "name").take(7)
    Traceback (most recent call last):
    tripleweb.errors.SchemaError: user.name = 7: expected text, not a number
    """
    return Schema(kinds)


class _Types:
    """The types of fields. Each takes `optional=` (reads may find nothing), `default=` (a value, or a callable
    without arguments that `insert` calls) and `check=` (a callable that says whether a value is fine)."""

    def string(self, *, optional: bool = False, default: Any = ..., check: Check | None = None) -> Field:
        """Text."""
        return _typed("s", optional, default, check)

    def number(self, *, optional: bool = False, default: Any = ..., check: Check | None = None) -> Field:
        """A number: `int` of 64 bits or finite `float`."""
        return _typed("n", optional, default, check)

    def boolean(self, *, optional: bool = False, default: Any = ..., check: Check | None = None) -> Field:
        """True or False."""
        return _typed("b", optional, default, check)

    def date(self, *, optional: bool = False, default: Any = ..., check: Check | None = None) -> Field:
        """A moment: an aware `datetime` or `pandas.Timestamp`, kept in UTC with microseconds."""
        return _typed("d", optional, default, check)

    def ref(
        self, target: str, *, optional: bool = False, default: Any = ..., check: Check | None = None
    ) -> Field:
        """The id of an entity of the kind `target` (which need not be there yet)."""
        return replace(_typed("r", optional, default, check), target=_target(target))

    def ref_many(
        self, target: str, *, optional: bool = False, default: Any = ..., check: Check | None = None
    ) -> Field:
        """A set of ids of entities of the kind `target`."""
        return self.many(self.ref(target), optional=optional, default=default, check=check)

    def many(
        self, of: Field, *, optional: bool = False, default: Any = ..., check: Check | None = None
    ) -> Field:
        """A set of single values, such as `t.many(t.string())`; `check` is asked for each member."""
        if not isinstance(of, Field) or of.many or of.counter or of.optional or of.default is not None:
            raise SchemaError(
                f"t.many({_shorten(of)}): expected the plain type of its members, such as t.string(); "
                "optional= and default= belong to the set"
            )
        typed = _typed(of.type, optional, default, _both(of.check, check))
        return replace(typed, many=True, target=of.target)

    def counter(self, *, optional: bool = False, default: Any = ..., check: Check | None = None) -> Field:
        """A number that concurrent increments add up in; `check` is asked for each amount. Reads 0 where nobody
        counted."""
        return replace(_typed("n", optional, default, check), counter=True)


t: Final = _Types()
SCHEMALESS: Final = Schema({}, is_open=True)


def check_schema(given: object) -> Schema:
    """The schema that was given, `SCHEMALESS` for None; raises `TypeError` for what is none."""
    if not isinstance(given, Schema | None):
        raise TypeError(f"schema= takes what tripleweb.schema(…) made, not {type(given).__name__}")
    return SCHEMALESS if given is None else given


def check_names(group: object, name: object = None) -> None:
    """Raises `SchemaError` unless these may be the names of a kind and (if given) of a field of it."""
    for what, text in (("kind", group), ("field", name)):
        if what == "field" and text is None:
            continue
        place = f"{what} {_shorten(text)}" + (f" of {group}" if what == "field" else "")
        if not isinstance(text, str) or not text or text.startswith("_"):
            raise SchemaError(f"{place}: expected a name (text) that does not begin with '_'")
        if what == "kind" and "/" in text:
            raise SchemaError(f"{place}: expected a name without '/', which ends the kind in a predicate")
        if what == "field" and text == "id":
            raise SchemaError(f"{place}: expected another name; 'id' is the entity's key")
    try:
        check_predicate(group if name is None else f"{group}/{name}")
    except ValueError as error:
        raise SchemaError(
            f"the name {group}{'' if name is None else f'.{name}'} cannot be used: {error}"
        ) from None


def field_of(predicate: str) -> str:
    """The name of a predicate's field: the text after its first `/` (all of it where there is none).

    >>> field_of("user/name"), field_of("plain")
    ('name', 'plain')
    """
    group, slash, name = predicate.partition("/")
    return name if slash else group


def _named(group: str, name: str, field: object) -> Field:
    check_names(group, name)
    if not isinstance(field, Field):
        raise SchemaError(f"{group}.{name} = {_shorten(field)}: expected a type, such as t.string()")
    if field.check is not None and not callable(field.check):
        raise SchemaError(f"{group}.{name}: check = {_shorten(field.check)}: expected a callable")
    return replace(field, kind=group, name=name, predicate=f"{group}/{name}")


def _free(predicate: str) -> Field:
    return Field("", kind=kind_of(predicate), name=field_of(predicate), predicate=predicate)


def _typed(letter: str, optional: bool, default: Any, check: Check | None) -> Field:
    """`default=None` is a default, too: no value. So the field is optional."""
    plain = None if default is ... else default
    return Field(letter, optional=optional or default is None, default=plain, check=check)


def _target(target: object) -> str:
    if not isinstance(target, str):
        raise SchemaError(f"a reference to {_shorten(target)}: expected the name of a kind")
    return target


def _both(first: Check | None, second: Check | None) -> Check | None:
    if first is None or second is None:
        return first or second
    return lambda value: first(value) and second(value)


def _is_single(store: Store, subject: str, predicate: str) -> bool:
    """True if what is visible was written as a single value (or counted), not as the members of a set."""
    for register in store.registers_of(subject, predicate):
        if register.slot == "" and register.value is not None:
            return register.stamp == store.floor(subject, predicate)
        if register.slot.startswith("c:"):
            return True
    return False


def _order(value: Value) -> tuple[Any, ...]:
    return (*sort_key(value), kind(value))


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "(none)"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
