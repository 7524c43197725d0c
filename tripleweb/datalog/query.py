"""Query text to a checked tree of frozen values: everything that can be said about a query without any data.

The body of a query is `clauses`'; here are what it finds, its inputs, order and names. Each part is its grammar, its
records, then its parser. Invariants: `parse` gives a `Query` or raises `QueryError` with place, form and
expectation, whatever the text; a query never changes, so parsed ones are cached and shared between threads.
"""

from __future__ import annotations

import re
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
from tripleweb.datalog.edn import Form, read, show_value
from tripleweb.terms import kind_name

CACHED_TEXT_MAX = 10_000
_PLAIN_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


# -- find -----------------------------------------------------------------------------------------------------
#
#    find      = element+ | '[' element '...' ']' | '[' element+ ']' | element '.'
#    element   = variable | pull | aggregate
#    pull      = '(' 'pull' source? variable pattern ')'
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
    variable: Variable
    pattern: Form
    form: Form = PLACE


Element = Variable | Aggregate | Pull

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
        return Pull(variable_of(words[0]), words[1], form)
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


def variable_name(element: Element) -> str:
    return element.name if isinstance(element, Variable) else element.variable.name


def _column(element: Element) -> str:
    if not isinstance(element, Aggregate):
        return variable_name(element)[1:]
    parts = ["aggregate" if isinstance(element.function, Variable) else element.function.replace("-", "_")]
    parts += [element.function.name[1:]] if isinstance(element.function, Variable) else []
    parts += [a.name[1:] if isinstance(a, Variable) else str(a.value) for a in element.arguments]
    return "_".join([*parts, element.variable.name[1:]])


def _columns(names: Iterable[str]) -> tuple[str, ...]:
    """The names, repeated ones with `_2`, `_3` …"""
    out: dict[str, None] = {}
    for name in names:
        count, column = 1, name
        while column in out:
            count += 1
            column = f"{name}_{count}"
        out[column] = None
    return tuple(out)


# -- the query ------------------------------------------------------------------------------------------------
#
#    query    = '[' (keyword form*)+ ']' | '{' (keyword '[' form* ']')+ '}'
#    keywords = :find :keys :strs :syms :with :in :where :order-by :limit :offset :kinds
#    :keys, :strs, :syms  one name a column          :with      variables that keep rows apart
#    :order-by            '[' ((variable | column) (':asc' | ':desc')?)+ ']'       :limit, :offset   a number
#    :kinds               '{' (predicate kind)* '}'      kind = text | number | boolean | date | reference


@dataclass(frozen=True)
class Query:
    """A parsed query.

    `shape` is one of `relation collection tuple scalar`, `find` its elements and `columns` their names; `order_by`
    are pairs (column index, descending); `rules` are the ones bound by `bind_rules`. `kinds` are the letters of
    predicates: the query sees only triples whose value is of that kind, in all its clauses and rules.
    """

    text: str
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
    kinds: Mapping[str, str] = field(default_factory=dict)

    KEYS: ClassVar[tuple[str, ...]] = (
        "find", "keys", "strs", "syms", "with", "in", "where", "order-by", "limit", "offset", "kinds",
    )  # fmt: skip

    def bind_rules(self, *rules: str | Rules) -> Query:
        """The query with these rules; a later one replaces an earlier one of the same name."""
        merged: dict[str, tuple[Branch, ...]] = dict(self.rules)
        for given in rules:
            merged.update(parse_rules(given) if isinstance(given, str) else given)
        return replace(self, rules=merged)

    def of_kinds(self, kinds: Mapping[str, str]) -> Query:
        """The query where the predicates that it reads have these kinds (by letter), unless its own `:kinds` say
        otherwise: `text` says it, too, so that it has the same answer elsewhere.

        >>> parse("[:find ?a :where [_ :user/age ?a]]").of_kinds({"user/age": "n", "user/name": "s"}).text
        '[:find ?a :where [_ :user/age ?a] :kinds {:user/age number}]'
        """
        read = self.predicates if RULES not in self.inputs else None
        more = {
            predicate: letter
            for predicate, letter in sorted(kinds.items())
            if predicate not in self.kinds and (read is None or predicate in read)
        }
        if not more:
            return self
        merged = {**self.kinds, **more}
        return replace(self, text=_text_with_kinds(self.form, merged), kinds=merged)

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
        if None in names or any(isinstance(element, Pull) for element in self.find):
            return None
        return frozenset(name for name in names if name is not None)

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
    if renamed:
        columns = _renamed(parts, renamed, shape, columns, whole)
        order_names.update({name: index for index, name in enumerate(columns)})
    return Query(
        text, shape, find, columns, inputs, with_, where,
        order_by=_order_by(parts["order-by"], order_names, whole) if "order-by" in parts else (),
        limit=_number(parts["limit"], "limit", whole) if "limit" in parts else None,
        offset=_number(parts["offset"], "offset", whole) if "offset" in parts else 0,
        form=whole,
        kinds=_kinds(parts["kinds"], whole) if "kinds" in parts else {},
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
    given = [name for item in inputs for name in bound(item)]
    for form, item in zip(parts.get("in", ()), inputs, strict=False):
        if (inputs.count(item) > 1 and isinstance(item, str)) or any(
            given.count(name) > 1 for name in bound(item)
        ):
            raise form.error("given twice in :in", "distinct variables, % and $ once")
    known = {*given, *variables(*where)}
    elements = list(map(variable_name, find))
    scalars = {item.name for item in inputs if isinstance(item, Variable)}
    for element, name in zip(find, elements, strict=True):
        form = whole if isinstance(element, Variable) else element.form
        if name not in known:
            raise form.error(f"{name} is found but nowhere bound", "a clause or an input that binds it")
        for term in (element.function, *element.arguments) if isinstance(element, Aggregate) else ():
            if isinstance(term, Variable) and term.name not in scalars:
                raise form.error(f"{term.name} is not an input", f":in … {term.name}")
    for form, name in zip(parts.get("with", ()), with_, strict=True):
        if name not in known:
            raise form.error("nowhere bound", "a clause or an input that binds it")
        if name in elements or with_.count(name) > 1:
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


def _order_by(forms: Sequence[Form], names: Mapping[str, int], whole: Form) -> tuple[tuple[int, bool], ...]:
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
        else:
            raise form.error("not a column of the result", " ".join(names))
    return tuple(ordered)


_LETTERS = {kind_name(letter): letter for letter in "snbdr"}


def _kinds(forms: Sequence[Form], whole: Form) -> dict[str, str]:
    if len(forms) != 1 or forms[0].kind != "map":
        raise (forms[0] if forms else whole).error("not kinds of predicates", ":kinds {:user/age number}")
    kinds: dict[str, str] = {}
    for name, word in zip(forms[0].value[::2], forms[0].value[1::2], strict=True):
        if name.kind not in ("keyword", "string"):
            raise name.error("not a predicate", ':user/name or "user/name"')
        if not word.symbol(*_LETTERS):
            raise word.error("not a kind", ", ".join(_LETTERS))
        if kinds.setdefault(name.value, _LETTERS[word.value]) != _LETTERS[word.value]:
            raise name.error("a predicate with two kinds", "one of them")
    return kinds


def _text_with_kinds(whole: Form, kinds: Mapping[str, str]) -> str:
    """The text of a query with these `:kinds` instead of its own."""
    parts: list[str] = []
    own = False
    for index, form in enumerate(whole.value):
        if form.kind == "keyword" and (whole.kind == "vector" or index % 2 == 0):
            own = form.value == "kinds"
        if not own:
            parts.append(str(form))
    pairs = (f"{_predicate_text(name)} {kind_name(letter)}" for name, letter in kinds.items())
    inside = " ".join([*parts, ":kinds", "{" + " ".join(pairs) + "}"])
    return f"{{{inside}}}" if whole.kind == "map" else f"[{inside}]"


def _predicate_text(predicate: str) -> str:
    return f":{predicate}" if _PLAIN_KEYWORD.fullmatch(predicate) else show_value(predicate)


def _number(forms: Sequence[Form], key: str, whole: Form) -> int:
    if len(forms) != 1 or type(forms[0].value) is not int or forms[0].value < 0:
        raise (forms[0] if forms else whole).error(f"not a number for :{key}", f":{key} 10")
    return int(forms[0].value)
