"""Query text to a checked tree of frozen values: everything that can be said about a query without any data.

The body of a query is `clauses`'; here are what it finds, its inputs, order and names. Each part is its grammar, its
records, then its parser. Invariants: `parse` gives a `Query` or raises `QueryError` with place, form and
expectation, whatever the text; a query never changes, so parsed ones are cached and shared between threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, ClassVar

from tripleweb.datalog.aggregates import AGGREGATES
from tripleweb.datalog.builtins import FUNCTIONS, forward
from tripleweb.datalog.clauses import (
    PLACE,
    RULES,
    SOURCE,
    Branch,
    Call,
    Clause,
    Clauses,
    Constant,
    Input,
    Not,
    Or,
    Pattern,
    RuleCall,
    Rules,
    Variable,
    bound,
    guess,
    input_of,
    is_variable,
    parse_rules,
    sequence,
    variable_of,
    variables,
)
from tripleweb.datalog.edn import Form, read
from tripleweb.datalog.kinds import parse_kinds, predicate_text, read_as, type_text
from tripleweb.datalog.pullpattern import PullPattern, parse_pull, path_pattern
from tripleweb.schema import Field, Schema, field_of

CACHED_TEXT_MAX = 10_000


# -- find -----------------------------------------------------------------------------------------------------
#
#    find      = element+ | '[' element '...' ']' | '[' element+ ']' | element '.'
#    element   = variable | pull | get | aggregate
#    pull      = '(' 'pull' source? variable (pattern | variable) ')'      an input variable: the pattern's text
#    get       = '(' 'get' variable predicate+ ')'
#    aggregate = '(' name argument* variable ')' | '(' 'aggregate' variable argument* variable ')'
#    argument  = variable | constant


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate of `variable`; `function` names a built-in or is an input that holds a callable."""

    function: str | Variable
    arguments: tuple[Variable | Constant, ...]
    variable: Variable
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class Pull:
    """A tree of what is there of the entity `variable` (`pull`); a pattern that is a variable comes as an input."""

    variable: Variable
    pattern: PullPattern | Variable
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class Get:
    """What one finds from the entity `variable` along the predicates of `path`: a value, a list where one of them has
    many, or nothing (None), which drops no row."""

    variable: Variable
    path: tuple[str, ...]
    form: Form = PLACE


Element = Variable | Aggregate | Pull | Get

_FIND = "?x ?y, [?x ?y], [?x ...] or ?x ."


def _find(forms: Sequence[Form], whole: Form) -> tuple[str, tuple[Element, ...]]:
    """(shape, elements)."""
    if not forms:
        raise whole.error("nothing to find", f":find {_FIND}")
    if len(forms) == 2 and forms[1].symbol("."):
        return "scalar", (_element(forms[0]),)
    if len(forms) == 1 and forms[0].kind == "vector":
        items = forms[0].value
        if len(items) == 2 and items[1].symbol("..."):
            return "collection", (_element(items[0]),)
        if not items:
            raise forms[0].error("nothing to find", f":find {_FIND}")
        return "tuple", tuple(map(_element, items))
    return "relation", tuple(map(_element, forms))


def _element(form: Form) -> Element:
    if is_variable(form):
        return Variable(form.value)
    if form.kind != "list" or not form.value or form.value[0].kind != "symbol":
        raise form.error("cannot be found", "?x, (aggregate-function ?x) or (pull ?x [pattern])")
    head, words = form.value[0], form.value[1:]
    if head.symbol("pull"):
        words = words[1:] if words and words[0].symbol(SOURCE) else words
        if len(words) != 2:
            raise form.error("not a pull", "(pull ?x [pattern])")
        pattern = Variable(words[1].value) if is_variable(words[1]) else parse_pull(words[1])
        return Pull(variable_of(words[0]), pattern, form)
    if head.symbol("get"):
        return _get(form)
    function: str | Variable = head.value
    if head.symbol("aggregate"):
        if len(words) < 2:
            raise form.error("not an aggregate", "(aggregate ?function ?x)")
        function, words = variable_of(words[0]), words[1:]
    elif head.value not in AGGREGATES:
        raise head.error(
            f"an unknown aggregate{guess(head.value, AGGREGATES)}", ", ".join(sorted(AGGREGATES))
        )
    if not words or not is_variable(words[-1]):
        raise form.error("an aggregate of nothing", f"({head.value} … ?x)")
    parser = Clauses()
    arguments = tuple(parser.argument(word) for word in words[:-1])
    if isinstance(function, str):
        counts = AGGREGATES[function].arguments
        if len(arguments) not in counts:
            raise form.error(
                f"{function} does not take {len(arguments)} arguments before its variable",
                f"({function} {'n ' if 1 in counts else ''}?x)",
            )
        for word, argument in zip(words, arguments, strict=False):
            if isinstance(argument, Constant) and (type(argument.value) is not int or argument.value < 0):
                raise word.error("not a number of values", "a whole number, such as 3")
    return Aggregate(function, arguments, Variable(words[-1].value), form)


def _get(form: Form) -> Get:
    expected = "(get ?x :post/author :user/name)"
    words = form.value[1:]
    if len(words) < 2:
        raise form.error("not a path to get", expected)
    for word in words[1:]:
        if word.kind not in ("keyword", "string") or not word.value:
            raise word.error("not a predicate", expected)
    return Get(variable_of(words[0]), tuple(word.value for word in words[1:]), form)


def variable_name(element: Element) -> str:
    return element.name if isinstance(element, Variable) else element.variable.name


def _column(element: Element) -> str:
    if isinstance(element, Get):
        return ".".join(map(field_of, element.path))
    if not isinstance(element, Aggregate):
        return variable_name(element)[1:]
    parts = ["aggregate" if isinstance(element.function, Variable) else element.function.replace("-", "_")]
    parts += [element.function.name[1:]] if isinstance(element.function, Variable) else []
    parts += [a.name[1:] if isinstance(a, Variable) else str(a.value) for a in element.arguments]
    return "_".join([*parts, element.variable.name[1:]])


def _columns(names: Iterable[str]) -> tuple[str, ...]:
    """The names, repeated ones with `_2`, `_3` …"""
    out: dict[str, None] = {}
    counts: dict[str, int] = {}
    for name in names:
        count, column = counts.get(name, 1), name
        while column in out:
            count += 1
            column = f"{name}_{count}"
        counts[name] = count
        out[column] = None
    return tuple(out)


# -- the query ------------------------------------------------------------------------------------------------
#
#    query    = '[' (keyword form*)+ ']' | '{' (keyword '[' form* ']')+ '}'
#    keywords = :find :keys :strs :syms :with :in :where :order-by :limit :offset :kinds
#    :keys, :strs, :syms  one name a column          :with      variables that keep rows apart
#    :order-by            '[' ((variable | column | get) (':asc' | ':desc')?)+ ']'     :limit, :offset   a number
#    :kinds               how predicates read: see `kinds`


@dataclass(frozen=True)
class Query:
    """A parsed query.

    `shape` is one of `relation collection tuple scalar`, `find` its elements and `columns` their names; `order_by`
    are pairs (column index, descending), an index beyond the columns is one of `hidden`, which are only ordered by;
    `rules` are the ones bound by `bind_rules`. `fields` say of predicates how they read. Of what kind they are
    (`kinds`: letters) holds in all clauses and rules: the query sees only triples whose value is of that kind. The rest
    (sets, defaults, counters) is for pull and get. `written` is the text that was parsed, "" if `fields` has more.
    """

    written: str
    shape: str
    find: tuple[Element, ...]
    columns: tuple[str, ...]
    inputs: tuple[Input, ...]
    with_: tuple[str, ...]
    where: tuple[Clause, ...]
    order_by: tuple[tuple[int, bool], ...]
    limit: int | None
    offset: int
    form: Form = PLACE
    rules: Rules = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)
    hidden: tuple[Get, ...] = ()

    KEYS: ClassVar[tuple[str, ...]] = (
        "find", "keys", "strs", "syms", "with", "in", "where", "order-by", "limit", "offset", "kinds",
    )  # fmt: skip

    def bind_rules(self, *rules: str | Rules) -> Query:
        """The query with these rules; a later one replaces an earlier one of the same name."""
        if not any(rules):
            return self
        merged: dict[str, tuple[Branch, ...]] = dict(self.rules)
        for given in rules:
            merged.update(parse_rules(given) if isinstance(given, str) else given)
        return replace(self, rules=merged)

    @cached_property
    def text(self) -> str:
        """The query as EDN, with all of its kinds."""
        return self.written or _text_with_kinds(self.form, self.fields)

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """The letters of the predicates that have a kind."""
        return {predicate: field.type for predicate, field in self.fields.items()}

    def of_kinds(self, kinds: Mapping[str, str]) -> Query:
        """The query where the predicates that it reads have these kinds (by letter), unless its own `:kinds` say
        otherwise: `text` says it, too, so that it has the same answer elsewhere.

        >>> parse("[:find ?a :where [_ :user/age ?a]]").of_kinds({"user/age": "n", "user/name": "s"}).text
        '[:find ?a :where [_ :user/age ?a] :kinds {:user/age number}]'
        """
        return self._of_fields({name: read_as(name, letter) for name, letter in kinds.items()})

    def of_schema(self, schema: Schema) -> Query:
        """Likewise with the kinds of a schema, and, where entities are looked up, with all of its fields that matters
        to readers.

        >>> from tripleweb.schema import schema, t
        >>> users = schema(user={"name": t.string(), "active": t.boolean(default=True)})
        >>> parse("[:find (pull ?u [:user/active]) :where [?u :user/name]]").of_schema(users).text
        '[:find (pull ?u [:user/active]) :where [?u :user/name]
          :kinds {:user/active (boolean true) :user/name text}]'
        """
        if not self.looks_up and RULES not in self.inputs:
            types = schema.types
            read = types if (named := self.predicates) is None else sorted(named & types.keys())
            return self.of_kinds({name: types[name] for name in read})
        given = {name: schema.at(name) for name in schema.types}
        return self._of_fields(
            {
                name: read_as(name, f.type, f.many, f.counter, None if callable(f.default) else f.default)
                for name, f in given.items()
            }
        )

    def _of_fields(self, fields: Mapping[str, Field]) -> Query:
        # what is pulled may depend on the fields, what clauses read does not
        whole = replace(self, fields={**fields, **self.fields}) if self.looks_up else self
        read = whole.predicates if RULES not in self.inputs else None
        merged = {**self.fields}
        for predicate in sorted(fields):
            if read is None or predicate in read:
                merged.setdefault(predicate, fields[predicate])
        if len(merged) == len(self.fields):
            return self
        return replace(self, written="", fields=merged)

    @cached_property
    def looks_up(self) -> bool:
        """True if entities are looked up for the answer (pull, get)."""
        return any(isinstance(element, Pull | Get) for element in (*self.find, *self.hidden))

    @property
    def nullable(self) -> frozenset[str]:
        """The columns that can miss values by the form of the query."""
        return frozenset(
            column
            for column, element in zip(self.columns, self.find, strict=True)
            if isinstance(element, Get)
        )

    @cached_property
    def predicates(self) -> frozenset[str] | None:
        """What the answer depends on; None: any predicate, since a variable stands for one.

        Rules count as far as they are bound.
        """
        names: set[str | None] = set()
        called: list[str] = []
        pending: list[Clause] = list(self.where)
        while pending:
            clause = pending.pop()
            if isinstance(clause, Pattern):
                term = clause.predicate
                names.add(term.value if isinstance(term, Constant) else None)
            elif (
                isinstance(clause, Call)
                and isinstance(clause.function, str)
                and FUNCTIONS[clause.function].reads
            ):
                last = 2 if clause.function != "get-some" else len(clause.arguments)
                for argument in clause.arguments[1:last]:
                    names.add(argument.value if isinstance(argument, Constant) else None)
                    if isinstance(argument, Constant) and clause.function == "missing?":
                        names.add(forward(argument.value) or argument.value)
            elif isinstance(clause, Not):
                pending += clause.clauses
            elif isinstance(clause, Or):
                pending += chain.from_iterable(clause.branches)
            elif isinstance(clause, RuleCall) and clause.name not in called:
                called.append(clause.name)
                pending += chain.from_iterable(branch.clauses for branch in self.rules.get(clause.name, ()))
        for element in (*self.find, *self.hidden):
            if isinstance(element, Pull | Get):
                pattern = path_pattern([element.path]) if isinstance(element, Get) else element.pattern
                pulled = pattern.predicates(self.fields) if isinstance(pattern, PullPattern) else None
                names.update((None,) if pulled is None else pulled)
        return None if None in names else frozenset(name for name in names if name is not None)

    def uses_callables(self, inputs: Iterable[Any]) -> bool:
        """True if one of these inputs is or holds a Python callable, so that the query runs only here."""
        return any(
            callable(value)
            or (isinstance(value, list | tuple | set | frozenset) and self.uses_callables(value))
            for value in inputs
        )


def parse(text: str) -> Query:
    """The query in `text`. Raises `QueryError` with line, column, the offending form and what was expected.

    >>> query = parse("[:find ?name (avg ?age) :where [?u :user/name ?name] [?u :user/age ?age]]")
    >>> query.shape, query.columns, sorted(query.predicates)
    ('relation', ('name', 'avg_age'), ['user/age', 'user/name'])
    >>> parse("[:find ?x :where [?x :user/name ?n] [(> ?n nil)]]")
    Traceback (most recent call last):
    tripleweb.errors.QueryError: nil is not a value: what is not there has no triple;
    expected missing? or get-else (line 1, column 44)
    """
    return _parse_cached(text) if isinstance(text, str) and len(text) <= CACHED_TEXT_MAX else _parse(text)


def _parse(text: str) -> Query:
    whole = read(text)
    parts = _sections(whole)
    shape, find = _find(parts.get("find", ()), whole)
    columns = _columns(map(_column, find))
    with_ = tuple(variable_of(form).name for form in parts.get("with", ()))
    inputs = tuple(map(input_of, parts["in"])) if "in" in parts else (SOURCE,)
    where = Clauses().all(parts.get("where", ()))
    _check(whole, parts, find, with_, inputs, where)
    renamed = [key for key in ("keys", "strs", "syms") if key in parts]
    order_names = _order_names(find, columns)
    hidden: list[Get] = []
    if renamed:
        columns = _renamed(parts, renamed, shape, columns, whole)
        order_names.update({name: index for index, name in enumerate(columns)})
    return Query(
        text, shape, find, columns, inputs, with_, where,
        order_by=_order_by(parts["order-by"], order_names, whole, find, hidden) if "order-by" in parts else (),
        limit=_number(parts["limit"], "limit", whole) if "limit" in parts else None,
        offset=_number(parts["offset"], "offset", whole) if "offset" in parts else 0,
        form=whole,
        fields=parse_kinds(parts["kinds"], whole) if "kinds" in parts else {},
        hidden=tuple(hidden),
    )  # fmt: skip


_parse_cached: Callable[[str], Query] = lru_cache(maxsize=512)(_parse)


def _sections(whole: Form) -> dict[str, tuple[Form, ...]]:
    """The forms after each keyword."""
    sections: dict[str, list[Form]] = {}
    expected = ", ".join(f":{key}" for key in Query.KEYS)
    if whole.kind == "map":
        for key, value in zip(whole.value[::2], whole.value[1::2], strict=True):
            single = key.value in ("limit", "offset", "order-by", "kinds")
            forms = [value] if single else list(sequence(value, "a vector of what stands after the keyword"))
            _add_section(sections, key, forms, expected)
    elif whole.kind == "vector":
        key = None
        for form in whole.value:
            if form.kind == "keyword":
                key = form
                _add_section(sections, key, [], expected)
            elif key is None:
                raise form.error("a query begins with a keyword", ":find")
            else:
                sections[key.value].append(form)
    else:
        raise whole.error("not a query", "[:find … :where …] or {:find […] :where […]}")
    return {key: tuple(forms) for key, forms in sections.items()}


def _add_section(sections: dict[str, list[Form]], key: Form, forms: list[Form], expected: str) -> None:
    if key.kind != "keyword" or key.value not in Query.KEYS:
        hint = guess(str(key.value), Query.KEYS) if key.kind == "keyword" else ""
        raise key.error(f"an unknown part of a query{hint}", expected)
    if key.value in sections:
        raise key.error("a part of the query that is there twice", "each keyword once")
    sections[key.value] = forms


def _check(
    whole: Form,
    parts: Mapping[str, tuple[Form, ...]],
    find: tuple[Element, ...],
    with_: tuple[str, ...],
    inputs: tuple[Input, ...],
    where: tuple[Clause, ...],
) -> None:
    given = Counter(name for item in inputs for name in bound(item))
    kept = Counter(with_)
    for form, item in zip(parts.get("in", ()), inputs, strict=False):
        if (isinstance(item, str) and inputs.count(item) > 1) or any(given[name] > 1 for name in bound(item)):
            raise form.error("given twice in :in", "distinct variables, % and $ once")
    known = {*given, *variables(*where)}
    elements = list(map(variable_name, find))
    found = set(elements)
    scalars = {item.name for item in inputs if isinstance(item, Variable)}
    for element, name in zip(find, elements, strict=True):
        form = whole if isinstance(element, Variable) else element.form
        if name not in known:
            raise form.error(f"{name} is found but nowhere bound", "a clause or an input that binds it")
        terms: tuple[Any, ...] = (element.pattern,) if isinstance(element, Pull) else ()
        for term in (element.function, *element.arguments) if isinstance(element, Aggregate) else terms:
            if isinstance(term, Variable) and term.name not in scalars:
                raise form.error(f"{term.name} is not an input", f":in … {term.name}")
    for form, name in zip(parts.get("with", ()), with_, strict=True):
        if name not in known:
            raise form.error("nowhere bound", "a clause or an input that binds it")
        if name in found or kept[name] > 1:
            raise form.error("a variable that is there twice", "variables in :with that :find has not")


def _renamed(
    parts: Mapping[str, tuple[Form, ...]],
    keys: Sequence[str],
    shape: str,
    columns: tuple[str, ...],
    whole: Form,
) -> tuple[str, ...]:
    forms = parts[keys[0]]
    if len(keys) > 1:
        raise whole.error("columns are named twice", f"one of {', '.join(f':{key}' for key in keys)}")
    if shape not in ("relation", "tuple"):
        raise whole.error(
            f":{keys[0]} names the columns of a relation or a tuple", ":find ?x ?y or :find [?x ?y]"
        )
    for form in forms:
        if form.kind not in ("symbol", "keyword", "string"):
            raise form.error("not a name", "a symbol")
    if len(forms) != len(columns):
        raise whole.error(f":{keys[0]} has {len(forms)} names for {len(columns)} columns", "a name for each")
    return _columns(str(form.value) for form in forms)


def _order_names(find: tuple[Element, ...], columns: tuple[str, ...]) -> dict[str, int]:
    """What :order-by may call each column: its name, or its variable."""
    names = {name: index for index, name in enumerate(columns)}
    for index, element in enumerate(find):
        if isinstance(element, Variable):
            names.setdefault(element.name, index)
    return names


def _order_by(
    forms: Sequence[Form], names: Mapping[str, int], whole: Form, find: Sequence[Element], hidden: list[Get]
) -> tuple[tuple[int, bool], ...]:
    """(column, descending) of each; what is ordered by but not found becomes `hidden`."""
    expected = ":order-by [?name :asc avg_age :desc]"
    if len(forms) != 1 or forms[0].kind != "vector" or not forms[0].value:
        raise (forms[0] if forms else whole).error("not an order", expected)
    ordered: list[tuple[int, bool]] = []
    for form in forms[0].value:
        if form.kind == "keyword":
            if form.value not in ("asc", "desc") or not ordered or form is forms[0].value[0]:
                raise form.error("not a direction", expected)
            ordered[-1] = (ordered[-1][0], form.value == "desc")
        elif form.kind in ("symbol", "string") and form.value in names:
            ordered.append((names[form.value], False))
        elif form.kind == "list" and form.value and form.value[0].symbol("get"):
            got = _get(form)
            if got in find:
                ordered.append((find.index(got), False))
                continue
            if got.variable.name not in [
                variable_name(element) for element in find if not isinstance(element, Aggregate)
            ]:
                raise form.error(
                    f"{got.variable.name} is not found", "a variable of :find that is not aggregated"
                )
            ordered.append((len(find) + len(hidden), False))
            hidden.append(got)
        else:
            raise form.error("not a column of the result", " ".join(names))
    return tuple(ordered)


def _text_with_kinds(whole: Form, fields: Mapping[str, Field]) -> str:
    """The text of a query with these `:kinds` instead of its own."""
    parts: list[str] = []
    own = False
    for index, form in enumerate(whole.value):
        if form.kind == "keyword" and (whole.kind == "vector" or index % 2 == 0):
            own = form.value == "kinds"
        if not own:
            parts.append(str(form))
    pairs = (f"{predicate_text(name)} {type_text(field)}" for name, field in fields.items())
    inside = " ".join([*parts, ":kinds", "{" + " ".join(pairs) + "}"])
    return f"{{{inside}}}" if whole.kind == "map" else f"[{inside}]"


def _number(forms: Sequence[Form], key: str, whole: Form) -> int:
    if len(forms) != 1 or type(forms[0].value) is not int or forms[0].value < 0:
        raise (forms[0] if forms else whole).error(f"not a number for :{key}", f":{key} 10")
    return int(forms[0].value)
