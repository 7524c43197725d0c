"""Clauses and rules: the body of a query, as frozen values with their places in the text.

Each part of the language is its grammar, its records, then its parser. Invariants: `parse_rules` and `Clauses` give
a tree or raise `QueryError` with place, form and expectation, whatever the text; all that can be known without data
is checked here (names and numbers of arguments, patterns, variables of joins and heads), but what is bound when:
that is `plan`'s.

    variable = symbol that begins with ?      constant  = string | number | boolean | date | pattern
    source   = the symbol $                   predicate = keyword | string
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from tripleweb.datalog.builtins import FALSE, FUNCTIONS, REFUSED, TRUE
from tripleweb.datalog.edn import Form, read_all
from tripleweb.datalog.regex import Pattern as TextPattern
from tripleweb.terms import normalise

CLAUSES_MAX = 500
CACHED_TEXT_MAX = 10_000

PLACE: Any = field(compare=False, repr=False)
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True)
class Variable:
    name: str  # with its question mark


@dataclass(frozen=True, slots=True)
class Constant:
    value: Any  # as the engine holds it (`builtins.inward`)


@dataclass(frozen=True, slots=True)
class Blank:
    pass


Term = Variable | Constant | Blank
BLANK = Blank()


def is_variable(form: Form) -> bool:
    return form.kind == "symbol" and form.value.startswith("?") and len(form.value) > 1


def variable_of(form: Form, expected: str = "a variable, such as ?x") -> Variable:
    if not is_variable(form):
        raise form.error("not a variable", expected)
    return Variable(form.value)


def _constant(form: Form, expected: str) -> Any:
    """The value of a constant; vectors and sets of constants are constants too."""
    if form.kind == "boolean":
        return TRUE if form.value else FALSE
    if form.kind in ("number", "string", "date"):
        try:
            return normalise(form.value)
        except ValueError as error:
            raise form.error(str(error)) from None
    if form.kind == "regex":
        return _pattern_of(form)
    if form.kind == "vector":
        return tuple(_constant(item, expected) for item in form.value)
    if form.kind == "set":
        return frozenset(_constant(item, expected) for item in form.value)
    if form.kind == "keyword":
        raise form.error("a keyword is no value; write it as a string", f'"{form.value}"')
    if form.kind == "nil":
        raise form.error("nil is not a value: what is not there has no triple", "missing? or get-else")
    if form.kind == "list":
        raise form.error("calls do not nest: bind the inner result to a variable first", expected)
    raise form.error("not a value", expected)


def _pattern_of(form: Form) -> TextPattern:
    try:
        return TextPattern(form.value)
    except ValueError as error:
        raise form.error(str(error)) from None


def sequence(form: Form, expected: str) -> tuple[Form, ...]:
    if not form.sequential:
        raise form.error("not a vector", expected)
    return tuple(form.value)


def guess(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:50], known, 3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# -- bindings and inputs --------------------------------------------------------------------------------------
#
#    binding    = variable | '_' | tuple | collection | relation
#    tuple      = '[' binding+ ']'
#    collection = '[' binding '...' ']'
#    relation   = '[' tuple ']'
#    input      = source | '%' | binding


@dataclass(frozen=True, slots=True)
class BindTuple:
    items: tuple[Binding, ...]
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class BindCollection:
    item: Binding
    form: Form = PLACE


Binding = Variable | Blank | BindTuple | BindCollection
RULES, SOURCE = "%", "$"
Input = Binding | str  # RULES and SOURCE stand for themselves

_BINDING = "?x, _, [?x ?y], [?x ...] or [[?x ?y]]"


def _binding(form: Form) -> Binding:
    if form.symbol("_"):
        return BLANK
    if form.kind != "vector":
        return variable_of(form, _BINDING)
    items = form.value
    if len(items) == 2 and items[1].symbol("..."):
        return BindCollection(_binding(items[0]), form)
    if len(items) == 1 and items[0].kind == "vector":
        return BindCollection(_binding(items[0]), form)
    if not items:
        raise form.error("an empty binding", _BINDING)
    return BindTuple(tuple(map(_binding, items)), form)


def input_of(form: Form) -> Input:
    if form.symbol(RULES, SOURCE):
        return str(form.value)
    if form.kind == "symbol" and form.value.startswith("$"):
        raise form.error("there is one source", "$")
    return _binding(form)


def bound(binding: Input) -> Iterator[str]:
    """The names of the variables that a binding binds, repeated ones repeatedly."""
    if isinstance(binding, Variable):
        yield binding.name
    elif isinstance(binding, BindTuple):
        for item in binding.items:
            yield from bound(item)
    elif isinstance(binding, BindCollection):
        yield from bound(binding.item)


# -- clauses --------------------------------------------------------------------------------------------------
#
#    clause  = pattern | call | rule | not | or          (each may have source as its first word)
#    pattern = '[' subject predicate? value? ']'         subject, value = variable | constant | '_'
#    call    = '[' '(' function argument* ')' binding? ']'     argument = variable | constant | source
#    rule    = '(' name (variable | constant | '_')+ ')'
#    not     = '(' 'not' clause+ ')' | '(' 'not-join' '[' variable+ ']' clause+ ')'
#    or      = '(' 'or' branch+ ')' | '(' 'or-join' '[' ('[' variable+ ']')? variable* ']' branch+ ')'
#    branch  = clause | '(' 'and' clause+ ')'


@dataclass(frozen=True, slots=True)
class Pattern:
    subject: Term
    predicate: Term
    value: Term
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class Call:
    """A predicate (`binding` None) or a function; `function` names a built-in or is a variable."""

    function: str | Variable
    arguments: tuple[Variable | Constant, ...]
    binding: Binding | None
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class RuleCall:
    name: str
    arguments: tuple[Term, ...]
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class Not:
    """`variables` are the ones shared with the outside; None: all that the outside binds."""

    variables: tuple[str, ...] | None
    clauses: tuple[Clause, ...]
    form: Form = PLACE


@dataclass(frozen=True, slots=True)
class Or:
    """`variables` are the ones shared with the outside; the first `required` of them must be bound there."""

    variables: tuple[str, ...]
    required: int
    branches: tuple[tuple[Clause, ...], ...]
    form: Form = PLACE


Clause = Pattern | Call | RuleCall | Not | Or

_CLAUSE = "[?e :predicate ?v], [(predicate ?x)], [(function ?x) ?y], (rule ?x), (not …), (or …)"
_WORDS = ("not", "not-join", "or", "or-join", "and")


def variables(*clauses: Clause) -> list[str]:
    """The variables of clauses that their surroundings see, each once."""
    return list(dict.fromkeys(chain.from_iterable(map(_variables, clauses))))


def _variables(clause: Clause) -> list[str]:
    if isinstance(clause, Pattern):
        terms: Sequence[Any] = (clause.subject, clause.predicate, clause.value)
    elif isinstance(clause, Call):
        terms = (clause.function, *clause.arguments)
    elif isinstance(clause, RuleCall):
        terms = clause.arguments
    elif isinstance(clause, Or):
        return list(clause.variables)
    else:
        return variables(*clause.clauses) if clause.variables is None else list(clause.variables)
    names = [term.name for term in terms if isinstance(term, Variable)]
    if isinstance(clause, Call) and clause.binding is not None:
        names += bound(clause.binding)
    return names


class Clauses:
    """The parser of clauses; it counts them, since planning takes time with their number."""

    def __init__(self) -> None:
        self.count = 0

    def all(self, forms: Iterable[Form]) -> tuple[Clause, ...]:
        return tuple(map(self.clause, forms))

    def clause(self, form: Form) -> Clause:
        self.count += 1
        if self.count > CLAUSES_MAX:
            raise form.error(f"more than {CLAUSES_MAX} clauses")
        if not form.sequential:
            raise form.error("not a clause", _CLAUSE)
        items = form.value
        if items and items[0].kind == "symbol" and items[0].value.startswith("$"):
            if not items[0].symbol(SOURCE):
                raise items[0].error("there is one source", "$")
            items = items[1:]
        if not items:
            raise form.error("an empty clause", _CLAUSE)
        if form.kind == "list":
            return self.listed(form, items)
        if items[0].kind == "list":
            return self.call(form, items)
        return self.pattern(form, items)

    def pattern(self, form: Form, items: Sequence[Form]) -> Pattern:
        if len(items) > 3:
            raise form.error(
                "a pattern has three terms at most; transactions are not queryable", "[?e :predicate ?v]"
            )
        terms = [
            self.term(item, place)
            for item, place in zip(items, ("subject", "predicate", "value"), strict=False)
        ]
        subject, predicate, value = (*terms, BLANK, BLANK)[:3]
        return Pattern(subject, predicate, value, form)

    def term(self, form: Form, place: str) -> Term:
        if form.symbol("_"):
            return BLANK
        if is_variable(form):
            return Variable(form.value)
        if place == "predicate":
            return Constant(_predicate(form))
        if form.kind in ("vector", "set", "map", "regex", "list"):
            raise form.error(
                "collections are not stored, and there are no look-up references", "a variable or a value"
            )
        if place == "subject" and form.kind not in ("string", "symbol", "keyword", "nil"):
            raise form.error("a subject is an id, which is text", 'a variable, _ or "an-id"')
        return Constant(_constant(form, "a variable, _ or a value"))

    def call(self, form: Form, items: Sequence[Form]) -> Call:
        if len(items) > 2:
            raise form.error("too much after a call", "[(predicate ?x)] or [(function ?x) ?y]")
        inner = items[0]
        if not inner.value or inner.value[0].kind != "symbol" or inner.value[0].symbol("_"):
            raise inner.error(
                "not a call", "(function argument*), where function is a built-in or a variable"
            )
        head, words = inner.value[0], inner.value[1:]
        if is_variable(head):
            function: str | Variable = Variable(head.value)
            arguments = tuple(self.argument(word) for word in words)
        else:
            function = head.value
            arguments = self.arguments(head, words, inner)
        return Call(function, arguments, _binding(items[1]) if len(items) == 2 else None, form)

    def argument(self, form: Form) -> Variable | Constant:
        if is_variable(form):
            return Variable(form.value)
        if form.symbol(SOURCE):
            raise form.error("only get-else, get-some and missing? read the source", "a variable or a value")
        return Constant(_constant(form, "a variable or a value"))

    def arguments(self, head: Form, words: Sequence[Form], call: Form) -> tuple[Variable | Constant, ...]:
        name = head.value
        builtin = FUNCTIONS.get(name)
        if builtin is None:
            if name in REFUSED:
                raise head.error(f"there is no {name}: {REFUSED[name]}")
            raise head.error(f"an unknown function{guess(name, FUNCTIONS)}", "a built-in or a variable")
        if builtin.reads:
            if not words or not words[0].symbol(SOURCE):
                raise call.error(f"{name} reads the source", f"({name} $ ?e :predicate …)")
            words = words[1:]
        if len(words) < builtin.least or (builtin.most is not None and len(words) > builtin.most):
            most = builtin.most
            count = (
                f"{builtin.least}"
                if most == builtin.least
                else f"{builtin.least} to {most or 'any number of'}"
            )
            raise call.error(f"{name} does not take {len(words)} arguments", f"{count} of them")
        if builtin.reads:
            last = 2 if name != "get-some" else len(words)
            if name == "get-else" and words[2].kind == "nil":
                raise words[2].error("nil is no default: what is not there has no value", "a value")
            return tuple(
                self.predicate(word) if 1 <= index < last else self.argument(word)
                for index, word in enumerate(words)
            )
        if name.startswith("re-") and words[0].kind == "string":
            return (Constant(_pattern_of(words[0])), *map(self.argument, words[1:]))
        return tuple(map(self.argument, words))

    def predicate(self, form: Form) -> Variable | Constant:
        return Variable(form.value) if is_variable(form) else Constant(_predicate(form))

    def listed(self, form: Form, items: Sequence[Form]) -> Clause:
        head, rest = items[0], items[1:]
        if head.kind != "symbol" or head.value[0] == "?" or head.symbol("_", RULES):
            raise form.error("not a clause", _CLAUSE)
        word = head.value
        if word == "and":
            raise form.error(
                "(and …) stands in (or …) only: clauses in a row are joined by themselves", _CLAUSE
            )
        if word not in _WORDS:
            return self.rule(form, word, rest)
        if word.endswith("-join"):
            if not rest or rest[0].kind != "vector":
                raise form.error(f"{word} without its variables", f"({word} [?x …] clause …)")
            required, shared = _head_variables(rest[0], nested=word == "or-join")
            rest = rest[1:]
        if not rest:
            raise form.error(
                f"{word} without clauses", f"({word} {'[?x …] ' if '-' in word else ''}clause …)"
            )
        if word == "not":
            return Not(None, self.all(rest), form)
        if word == "not-join":
            negated = Not(shared, self.all(rest), form)
            seen(shared, negated.clauses, form)
            return negated
        branches = tuple(self.branch(item) for item in rest)
        if word == "or":
            return Or(tuple(variables(*chain.from_iterable(branches))), 0, branches, form)
        seen(
            shared[required:], chain.from_iterable(branches), form
        )  # in one branch: outside may bind it, too
        return Or(shared, required, branches, form)

    def branch(self, form: Form) -> tuple[Clause, ...]:
        if form.kind == "list" and form.value and form.value[0].symbol("and"):
            if len(form.value) == 1:
                raise form.error("and without clauses", "(and clause …)")
            return self.all(form.value[1:])
        return (self.clause(form),)

    def rule(self, form: Form, name: str, items: Sequence[Form]) -> RuleCall:
        if name in FUNCTIONS:
            raise form.error(f"{name} is a function; its call stands in a vector", f"[{form}]")
        if not items:
            raise form.error("a rule without arguments", "(rule-name ?x …)")
        arguments: list[Term] = []
        for item in items:
            blank = item.symbol("_")
            arguments.append(BLANK if blank else self.argument(item))
        return RuleCall(name, tuple(arguments), form)


def seen(names: Sequence[str], clauses: Iterable[Clause], form: Form) -> None:
    """Raises `QueryError` for a variable that is joined on but stands in no clause: a slip of the pen."""
    there = set(variables(*clauses))
    unseen = [name for name in names if name not in there]
    if unseen:
        raise form.error(
            f"{' '.join(unseen)} is joined on but not used in the clauses", "a clause that uses it"
        )


def _predicate(form: Form) -> str:
    if form.kind not in ("keyword", "string"):
        raise form.error("not a predicate", ':user/name, "user/name", a variable or _')
    return str(form.value)


def _head_variables(form: Form, nested: bool, what: str = "[?x …]") -> tuple[int, tuple[str, ...]]:
    """(how many are required, all of them): `[?x ?y]`, or `[[?required] ?x]`."""
    items = sequence(form, what)
    required: tuple[Form, ...] = ()
    if nested and items and items[0].kind == "vector":
        required, items = tuple(items[0].value), items[1:]
    names = tuple(variable_of(item).name for item in (*required, *items))
    if not names:
        raise form.error("no variables", what)
    if len(set(names)) < len(names):
        raise form.error("variables that repeat", "distinct variables")
    return len(required), names


# -- rules ----------------------------------------------------------------------------------------------------
#
#    rules  = '[' rule* ']' | rule          (a text may hold several)
#    rule   = '[' '(' name ('[' variable+ ']')? variable* ')' clause+ ']'


@dataclass(frozen=True, slots=True)
class Branch:
    """One body of a rule; the first `required` of its `variables` must be bound by the caller."""

    variables: tuple[str, ...]
    required: int
    clauses: tuple[Clause, ...]
    form: Form = PLACE


Rules = Mapping[str, tuple[Branch, ...]]


def parse_rules(text: str) -> Rules:
    """Rules by name, each with all its bodies. Raises `QueryError`.

    >>> rules = parse_rules('''[[(above ?a ?b) [?a :user/manager ?b]]
    ...                         [(above ?a ?b) [?a :user/manager ?m] (above ?m ?b)]]''')
    >>> [(name, len(bodies)) for name, bodies in rules.items()]
    [('above', 2)]
    """
    rules: dict[str, tuple[Branch, ...]] = {}
    clauses = Clauses()
    for top in read_all(text):
        items = sequence(top, "[[(rule ?x …) clause …] …]")
        for form in (top,) if items and items[0].kind == "list" else items:
            name, branch = _rule(form, clauses)
            bodies = rules.get(name, ())
            if bodies and (len(bodies[0].variables), bodies[0].required) != (
                len(branch.variables),
                branch.required,
            ):
                raise form.error(
                    f"the bodies of {name} differ in their number of variables", str(bodies[0].form.value[0])
                )
            rules[name] = (*bodies, branch)
    for bodies in rules.values():
        there = [set(variables(*body.clauses)) for body in bodies]
        for index, name in enumerate(bodies[0].variables):
            if not any(body.variables[index] in names for body, names in zip(bodies, there, strict=True)):
                seen([name], (), bodies[0].form)
    return rules


def _rule(form: Form, clauses: Clauses) -> tuple[str, Branch]:
    expected = "[(rule ?x …) clause …]"
    if not form.sequential or not form.value or form.value[0].kind != "list":
        raise form.error("not a rule", expected)
    head, *body = form.value
    if not head.value or head.value[0].kind != "symbol" or head.value[0].value[0] in "?$_%":
        raise head.error("a rule without a name", "(rule-name ?x …)")
    name = head.value[0].value
    if name in _WORDS or name in FUNCTIONS:
        raise head.value[0].error("a name that the language has taken", "another name for the rule")
    required, names = _head_variables(
        Form("vector", head.value[1:], head.line, head.column), True, "(rule-name ?x …)"
    )
    if not body:
        raise form.error("a rule without clauses", expected)
    parsed = clauses.all(body)
    return name, Branch(names, required, parsed, form)
