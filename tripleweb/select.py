"""Questions without Datalog: `db.select("post").where("score", ">", 90).include("author").order_by("-score")`.

A `Selection` says what is wanted and never changes; each method gives another one. When it is looked at (`df`, `live`)
it becomes a query of its `Source`, a store of now or one that was, which is what `datalog()` shows: `:where` finds the
entities, a `get` each column, so that what is missing drops no row. Invariants: the rows are the entities that have
something of the kind, each once, and read as `Database.get` reads them, plain defaults included; a wrong name or value
is an error that says which one, and what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tripleweb.datalog.builtins import FUNCTIONS, inward, truthy
from tripleweb.datalog.clauses import guess
from tripleweb.datalog.edn import show_value
from tripleweb.datalog.kinds import predicate_text
from tripleweb.datalog.pullpattern import stand_in
from tripleweb.datalog.query import Query
from tripleweb.errors import SchemaError
from tripleweb.ids import kind_of
from tripleweb.schema import Field, Schema, field_of
from tripleweb.store import Store
from tripleweb.terms import Value

if TYPE_CHECKING:
    import pandas as pd

    from tripleweb.live import LiveFrame

LISTED_MAX = 100  # values of an `in` that stand in the query's text; more come as an input
_EQUAL = ("=", "!=")
_CHOICE = ("in", "not in")
_ORDERED = ("<", "<=", ">", ">=")
_TEXT = {
    "contains": "clojure.string/includes?",
    "startswith": "clojure.string/starts-with?",
    "endswith": "clojure.string/ends-with?",
    "matches": "re-find",
}
OPERATORS = (*_EQUAL, *_ORDERED, *_CHOICE, *_TEXT)
_SAME = {
    "==": "=",
    "<>": "!=",
    "is": "=",
    "is not": "!=",
    "starts-with": "startswith",
    "ends-with": "endswith",
}


@dataclass(frozen=True, slots=True)
class Condition:
    path: str
    operator: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path} {self.operator} {self.value!r:.80}"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A selection as a query: its text and inputs, and for each column its kind and whether it can miss values."""

    text: str
    inputs: tuple[Any, ...]
    kinds: dict[str, str]
    nullable: frozenset[str]


class Source(Protocol):
    """What a selection is asked of. `ask` says what a query needs, `load` brings that here, `answer` is of what is
    here; `names` are predicates that there is data of, beside those in the store that `look` gives."""

    patience: ClassVar[float]

    @property
    def schema(self) -> Schema: ...
    @property
    def is_partial(self) -> bool: ...
    @property
    def load(self) -> Callable[[Any, float, bool], object]: ...
    @property
    def follow(self) -> Callable[[Query, Sequence[Any], float, Compiled], LiveFrame]: ...
    def names(self, kind: str, timeout: float, strict: bool) -> Collection[str]: ...
    def look(self) -> AbstractContextManager[Store]: ...
    def parsed(self, text: str) -> Query: ...
    def ask(self, parsed: Query, inputs: Sequence[Any]) -> Any: ...
    def answer(self, parsed: Query, made: Compiled, asked: Any) -> Any: ...


@dataclass(frozen=True, repr=False)
class Selection:
    """Some entities of a kind, as a table: `id`, then the kind's fields (of the schema, in its order; without a schema
    those that there is data of when it is looked at), then what is included. Missing values are missing, sets lists.

    >>> import tripleweb
    >>> db = tripleweb.open()
    >>> ada = db.insert("user", name="Ada", id="ada")
    >>> for title, score in ("One", 91), ("Two", 95), ("Three", 17):
    ...     post = db.insert("post", title=title, score=score, author=tripleweb.Ref(ada), id=title)
    >>> good = db.select("post").where("score", ">", 90).where("author.name", "Ada")
    >>> good.include("author").order_by("-score").df()[["title", "score", "author.name"]]
      title  score author.name
    0   Two     95         Ada
    1   One     91         Ada
    >>> print(good.datalog())
    [:find ?id (get ?id :post/author) (get ?id :post/score) (get ?id :post/title)
     :keys "id" "author" "score" "title"
     :where [?id :post/score ?1] [(> ?1 90)] [?id :post/author ?2] [?2 :user/name "Ada"]]
    """

    _source: Source
    _kind: str
    _conditions: tuple[Condition, ...] = ()
    _included: tuple[str, ...] = ()
    _order: tuple[str, ...] = ()
    _limit: int | None = None
    _offset: int = 0

    def __post_init__(self) -> None:
        if not self._source.schema.is_open:
            self._source.schema.fields(self._kind)
            self._compiled()

    def where(self, path: str, *condition: Any) -> Selection:
        """The entities for which this holds as well: `where("score", ">", 90)`, or `where("title", "One")` for
        equality. A path leads through references: `"author.name"`; `"id"` is the id.

        Operators: `= != < <= > >=`, `in` and `not in` (of a list), `contains startswith endswith matches` (of a text;
        `matches` finds a regular expression in it). None stands for a missing value: `where("author", None)`. Nothing
        else matches a missing value, `!=` neither. Of a set one member has to fit: `where("tags", "t1")` (`contains`
        says the same); for `!=` and `not in` none may.

        Raises `SchemaError` for a field that is not there or a value that it cannot have, `ValueError` for an operator
        that is none.
        """
        if not isinstance(path, str) or len(condition) not in (1, 2):
            raise TypeError(
                'where takes a path and a value, or a path, an operator and a value: "score", ">", 90'
            )
        operator, value = ("=", condition[0]) if len(condition) == 1 else condition
        word = " ".join(operator.lower().split()) if isinstance(operator, str) else operator
        word = _SAME.get(word, word) if isinstance(word, str) else word
        if word not in OPERATORS:
            hint = guess(str(operator), OPERATORS)
            raise ValueError(
                f"{path} {operator!r}: not an operator{hint}; expected one of {' '.join(OPERATORS)}"
            )
        if word in _CHOICE:
            value = _listed(path, word, value)
        return replace(self, _conditions=(*self._conditions, Condition(path, word, value)))

    def include(self, *paths: str) -> Selection:
        """With the fields of what is referred to: `include("author")` adds `author.name` and so on; those of a set of
        references are lists, one place for each member. Raises `SchemaError`."""
        return replace(self, _included=tuple(dict.fromkeys((*self._included, *map(_text, paths)))))

    def order_by(self, *paths: str) -> Selection:
        """Ordered by these instead, `"-score"` downwards: booleans, numbers, dates, text; missing ones last in either
        direction, ties by the id. Raises `SchemaError`."""
        return replace(self, _order=tuple(map(_text, paths)))

    def limit(self, count: int | None) -> Selection:
        """At most so many rows, the first ones by the order (without one: by the id); None: all."""
        return replace(self, _limit=None if count is None else _count(count, "limit"))

    def offset(self, count: int) -> Selection:
        """Without the first rows."""
        return replace(self, _offset=_count(count, "offset"))

    def df(self, *, timeout: float | None = None, strict: bool = False) -> pd.DataFrame:
        """The rows, as `Database.q` gives them; it says the rest. It waits for 10 seconds at most (for what was,
        30), unless `timeout` says how long; what was is whole or an error, `strict` or not.

        dtypes: fields that the schema requires are `int64`, `float64`, `bool`; all others can miss values and are
        `Int64`, `Float64`, `boolean`, whatever the data. Text has pandas' string dtype, dates `datetime64[us, UTC]`.
        """
        source = self._source
        patience = source.patience if timeout is None else timeout
        made = self._compiled(patience, strict)
        parsed = source.parsed(made.text)
        asked = source.ask(parsed, made.inputs)
        source.load(asked, patience, strict)
        frame: pd.DataFrame = source.answer(parsed, made, asked)
        frame.attrs["tripleweb_kind"] = self._kind
        return frame

    def live(self, *, timeout: float = 10) -> LiveFrame:
        """The rows as a live frame. Without a schema it has the columns that there is data of now. Raises
        `TriplewebError` for a selection of what was (`db.as_of`), which does not change."""
        follow = self._source.follow
        made = self._compiled(timeout)
        return follow(self._source.parsed(made.text), made.inputs, timeout, made)

    def datalog(self) -> str:
        """The query that it is. (A long list that is asked for comes as its input.)"""
        return self._compiled().text

    def __repr__(self) -> str:
        parts = [f"select {self._kind}"]
        parts += [f"where {condition}" for condition in self._conditions]
        parts += [f"include {path}" for path in self._included]
        parts += [f"order by {', '.join(self._order)}"] if self._order else []
        parts += [f"offset {self._offset}"] if self._offset else []
        parts += [f"limit {self._limit}"] if self._limit is not None else []
        return f"<{', '.join(parts)}>"

    def _compiled(self, timeout: float | None = None, strict: bool = False) -> Compiled:
        """The query of it. Without a schema it depends on what there is, which is loaded first."""
        source, schema = self._source, self._source.schema
        patience = source.patience if timeout is None else timeout
        names = source.names(self._kind, patience, strict) if schema.is_open else ()
        loaded: set[str] = set()
        while True:
            with source.look() as store:
                compiler = _Compiler(schema, store, self._kind, names)
                try:
                    made, error = compiler.compile(self), None
                except SchemaError as misfit:
                    made, error = None, misfit
            fresh = [] if not source.is_partial else [p for p in compiler.led if p not in loaded]
            if made is not None and not fresh:
                return made
            if error is not None and not fresh:
                raise error
            for predicate in fresh:  # what its references lead to
                loaded.add(predicate)
                led = source.parsed(f"[:find (pull ?v [*]) :where [_ {predicate_text(predicate)} ?v]]")
                source.load(source.ask(led, ()), patience, strict)


def _text(path: Any) -> str:
    if not isinstance(path, str):
        raise TypeError(f"a path is text, such as 'author.name', not {type(path).__name__}")
    return path


def _count(count: Any, what: str) -> int:
    if isinstance(count, bool) or not hasattr(count, "__index__") or count.__index__() < 0:
        raise ValueError(f"{what} {count!r}: expected a number from 0")
    number: int = count.__index__()
    return number


def _listed(path: str, operator: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{path} {operator} {value!r:.80}: expected a list of values")
    return tuple(value)


class _Compiler:
    """Makes one query of a selection."""

    def __init__(self, schema: Schema, store: Store, kind: str, names: Collection[str]) -> None:
        self.schema = schema
        self.store = store
        self.kind = kind
        self.there_is = sorted({*names, *store.predicates()}) if schema.is_open else []  # predicates
        self.fresh = 0
        self.anchored = False  # a clause says that an entity is of the kind
        self.inputs: list[Any] = []
        self.names: list[str] = []
        self._targets: dict[str, list[str]] = {}
        self._fields: dict[str, dict[str, Field]] = {}

    def compile(self, selection: Selection) -> Compiled:
        columns: dict[str, tuple[Field, ...]] = {
            name: (field,) for name, field in self.fields(self.kind).items()
        }
        for path in selection._included:
            steps = self.resolve(path)
            for target in self.targets(steps, path):
                for name, field in self.fields(target).items():
                    column = f"{path}.{name}"
                    columns[f"{path}.{field.predicate}" if column in columns else column] = (*steps, field)
        clauses = [clause for condition in selection._conditions for clause in self.condition(condition)]
        if not self.anchored:
            clauses.insert(0, self.there("?id", self.kind))
        order = [self.ordered(path) for path in selection._order]
        find = ["?id", *(f"(get ?id {_path(steps)})" for steps in columns.values())]
        parts = [":find", *find, "\n :keys", *map(show_value, ("id", *columns))]
        parts += ["\n :in $", *self.names] if self.names else []
        parts += ["\n :where", *clauses]
        if order:
            parts += ["\n :order-by", f"[{' '.join([*order, '?id'])}]"]
        parts += [f"\n :offset {selection._offset}"] if selection._offset else []
        parts += [f"\n :limit {selection._limit}"] if selection._limit is not None else []
        kinds = {"id": "s"}
        nullable = set()
        for column, steps in columns.items():
            if not any(field.many for field in steps):
                kinds[column] = steps[-1].type
                if len(steps) > 1 or not steps[0].required:
                    nullable.add(column)
        text = " ".join(parts).replace(" \n", "\n")
        return Compiled(f"[{text}]", tuple(self.inputs), kinds, frozenset(nullable))

    @property
    def led(self) -> list[str]:
        """The predicates of references whose targets were looked for in what there is."""
        return list(self._targets)

    # -- names -------------------------------------------------------------------------------------------------

    def fields(self, kind: str) -> dict[str, Field]:
        """The fields of a kind: what the schema says, else what there is."""
        known = self._fields.get(kind)
        if known is None:
            known = self.schema.fields(kind)
            if self.schema.is_open:
                names = [name for name in self.there_is if kind_of(name) == kind]
                known = {field_of(name): self.schema.at(name) for name in names if field_of(name) != "id"}
            self._fields[kind] = known
        return known

    def targets(self, steps: Sequence[Field], path: str) -> list[str]:
        """The kinds of what a reference leads to; without a schema of what it leads to now."""
        field = steps[-1] if steps else None
        if field is None:
            raise SchemaError(f"{self.kind}.{path}: the id leads nowhere; expected a reference")
        if field.type:
            if field.target is None:
                raise SchemaError(
                    f"{field.kind}.{field.name} (in {path!r}) is a {field.description}: expected a reference"
                )
            return [field.target]
        if field.predicate not in self._targets:
            found: dict[str, None] = {}
            for _, value in self.store.scan(field.predicate):
                if isinstance(value, str):
                    found.update(dict.fromkeys(kind_of(name) for name, _ in self.store.about(value)))
            self._targets[field.predicate] = sorted(found)
        return self._targets[field.predicate]

    def resolve(self, path: str) -> tuple[Field, ...]:
        """The fields along a path from the kind; () for the id."""
        if path == "id":
            return ()
        steps: list[Field] = []
        kinds = [self.kind]
        rest = path.removesuffix(".id") if path.endswith(".id") else path
        while True:
            found, rest = self._step(kinds, rest, path)
            steps.append(found)
            if not rest:
                return tuple(steps)
            kinds = self.targets(steps, path)

    def _step(self, kinds: list[str], rest: str, path: str) -> tuple[Field, str]:
        """The field that `rest` begins with, and what is left. Names may have dots: the longest one counts."""
        known: dict[str, list[Field]] = {}
        for kind in kinds:
            for name, field in self.fields(kind).items():
                known.setdefault(name, []).append(field)
                known.setdefault(field.predicate, []).append(field)
        end = len(rest)
        while end > 0:
            found = known.get(rest[:end], [])
            if len(found) > 1:
                raise SchemaError(
                    f"{self.kind}.{path}: {rest[:end]!r} is a field of {' and of '.join(f.kind for f in found)}; "
                    f"expected one of {', '.join(f.predicate for f in found)}"
                )
            if found:
                return found[0], rest[end + 1 :]
            end = rest.rfind(".", 0, end)
        name = rest.partition(".")[0]
        names = [each for each in known if "/" not in each]
        of = " or ".join(kinds) if kinds else f"what {path.removesuffix('.' + rest)} refers to"
        listed = ", ".join(["id", *names])
        raise SchemaError(
            f"{self.kind}.{path}: {of} has no field {name!r}{guess(name, names)}; expected one of {listed}"
        )

    # -- clauses -----------------------------------------------------------------------------------------------

    def variable(self) -> str:
        self.fresh += 1
        return f"?{self.fresh}"

    def there(self, entity: str, kind: str) -> str:
        """A clause that an entity has something of a kind."""
        names = [field.predicate for field in self.fields(kind).values()]
        if not names:
            return f"[(ground []) [{entity} ...]]"
        patterns = [f"[{entity} {predicate_text(name)}]" for name in names]
        return patterns[0] if len(patterns) == 1 else f"(or-join [{entity}] {' '.join(patterns)})"

    def ordered(self, path: str) -> str:
        steps = self.resolve(path.removeprefix("-"))
        if any(field.many for field in steps):
            raise SchemaError(
                f"{self.kind}.{path.removeprefix('-')}: expected a single value to order by, not a set"
            )
        got = f"(get ?id {_path(steps)})" if steps else "?id"
        return f"{got} {':desc' if path.startswith('-') else ':asc'}"

    def condition(self, condition: Condition) -> list[str]:
        if self.schema.is_open and not self.fields(self.kind):
            return []  # there is nothing yet, so there are no wrong names
        steps = self.resolve(condition.path)
        if not steps:
            return self.of_id(condition)
        field = steps[-1]
        several = any(each.many for each in steps)
        operator = condition.operator
        if operator == "contains" and field.many:
            operator = "="
        test = self.test(field, operator, condition)
        if condition.value is None and operator in _EQUAL:
            return self.of_missing(steps, operator)
        if operator in ("!=", "not in") and several:
            positive, negated = self.test(field, "=" if operator == "!=" else "in", condition), []
            negated = self.positive(steps, positive, anchor=False)
            return [f"(not-join [?id] {' '.join(negated)})"]
        return self.positive(steps, test)

    def of_id(self, condition: Condition) -> list[str]:
        field = Field("r", self.kind, "id", f"{self.kind}/id")
        if condition.value is None:
            if condition.operator not in _EQUAL:
                raise self.nothing(field, condition)
            return [] if condition.operator == "!=" else ["[(ground []) [?id ...]]"]
        test = self.test(field, condition.operator, condition)
        if test.term is not None:
            return [f"[(ground {test.term}) ?id]"]
        return [*test.source("?id"), *test.clauses("?id")]

    def of_missing(self, steps: tuple[Field, ...], operator: str) -> list[str]:
        """That a value is missing (=) or there (!=)."""
        *before, field = steps
        has_default = bool(stand_in(field))
        if not before and operator == "=":
            return (
                ["[(ground []) [?id ...]]"]
                if has_default
                else [f"[(missing? $ ?id {predicate_text(field.predicate)})]"]
            )
        if not before and has_default:
            return []
        if has_default:
            clauses, entity = self.walk(before, anchor=operator == "!=")
            clauses.append(self.there(entity, field.kind))
        else:
            clauses, _ = self.walk(steps, anchor=operator == "!=")
        return clauses if operator == "!=" else [f"(not-join [?id] {' '.join(clauses)})"]

    def walk(self, steps: Sequence[Field], anchor: bool = True) -> tuple[list[str], str]:
        """Patterns along fields, and the variable at their end."""
        clauses: list[str] = []
        entity = "?id"
        for field in steps:
            self.anchored = self.anchored or (anchor and entity == "?id" and field.kind == self.kind)
            after = self.variable()
            clauses.append(f"[{entity} {predicate_text(field.predicate)} {after}]")
            entity = after
        return clauses, entity

    def positive(self, steps: tuple[Field, ...], test: _Test, anchor: bool = True) -> list[str]:
        """That a value along the fields passes a test, a default where it stands in."""
        *before, field = steps
        clauses, entity = self.walk(before, anchor)
        name = predicate_text(field.predicate)
        instead = stand_in(field) or []
        if any(test.holds(inward(value)) for value in instead):
            if before:
                clauses.append(self.there(entity, field.kind))
            if field.many:
                value = self.variable()
                found = " ".join([*test.source(value), f"[{entity} {name} {value}]", *test.clauses(value)])
                return [*clauses, f"(or-join [{entity}] (and {found}) [(missing? $ {entity} {name})])"]
            value = self.variable()
            clauses.append(f"[(get-else $ {entity} {name} {show_value(instead[0])}) {value}]")
            return [*clauses, *test.clauses(value, bound=True)]
        self.anchored = self.anchored or (anchor and entity == "?id" and field.kind == self.kind)
        if test.term is not None:
            return [*clauses, f"[{entity} {name} {test.term}]"]
        value = self.variable()
        return [*clauses, *test.source(value), f"[{entity} {name} {value}]", *test.clauses(value)]

    # -- values ------------------------------------------------------------------------------------------------

    def nothing(self, field: Field, condition: Condition) -> SchemaError:
        return SchemaError(
            f"{field.kind}.{field.name} {condition.operator} None: None goes with = and != only"
        )

    def test(self, field: Field, operator: str, condition: Condition) -> _Test:
        """What a value of a field has to pass. Raises `SchemaError` (of a field without a type `ValueError` or
        `TypeError`) for what it cannot be compared with."""
        given = condition.value
        if operator in _CHOICE:
            values = [field.one(each, guard=False) for each in given]
            if None in values:
                raise self.nothing(field, condition)
            return _Test(self, operator, [value for value in values if value is not None])
        if given is None:
            if operator not in _EQUAL:
                raise self.nothing(field, condition)
            return _Test(self, operator, [])
        if operator in _TEXT:
            if not isinstance(given, str) or field.type not in ("s", "r", ""):
                raise SchemaError(
                    f"{field.kind}.{field.name} {operator} {given!r:.80}: expected text, in a field of text"
                )
            return _Test(self, operator, [given])
        value = field.one(given, guard=False)
        if value is None:
            raise self.nothing(field, condition)
        return _Test(self, operator, [value])


class _Test:
    """A comparison of something with values."""

    def __init__(self, compiler: _Compiler, operator: str, values: list[Value]) -> None:
        self._compiler = compiler
        self.operator = operator
        self.values = values
        self._input: str | None = None

    @property
    def term(self) -> str | None:
        """The one value that passes, if it is as simple as that."""
        return show_value(self.values[0]) if self.operator == "=" else None

    def source(self, variable: str) -> list[str]:
        """Clauses that bind a variable to the values of a choice."""
        if self.operator != "in":
            return []
        if len(self.values) <= LISTED_MAX:
            return [f"[(ground {show_value(self.values)}) [{variable} ...]]"]
        self._compiler.names.append(f"[{variable} ...]")
        self._compiler.inputs.append(self.values)
        return []

    def clauses(self, variable: str, bound: bool = False) -> list[str]:
        """Clauses that test a variable; `bound`: not by `source`."""
        if self.operator == "=":
            return [f"[(= {variable} {self.term})]"]
        if self.operator == "in":
            return (
                [f"[(contains? #{{{' '.join(map(show_value, self.values))}}} {variable})]"] if bound else []
            )
        if self.operator == "not in":
            return [f"[(!= {variable} {show_value(value)})]" for value in self.values]
        if self.operator == "matches":
            return [f"[(re-find {show_value(self.values[0])} {variable})]"]
        return [f"[({_TEXT.get(self.operator, self.operator)} {variable} {show_value(self.values[0])})]"]

    def holds(self, value: Any) -> bool:
        """True if a value of the engine passes."""
        if self.operator in _CHOICE:
            return (value in set(map(inward, self.values))) == (self.operator == "in")
        function: Callable[..., Any] = FUNCTIONS[_TEXT.get(self.operator, self.operator)].function
        given = inward(self.values[0])
        return truthy(function(given, value) if self.operator == "matches" else function(value, given))


def _path(steps: Sequence[Field]) -> str:
    return " ".join(predicate_text(field.predicate) for field in steps)
