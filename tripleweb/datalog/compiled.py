"""Bodies as generated Python: nested loops over the store's columns and reverse indexes.

One generator writes every kind of function, `w` being the rows that it touched:

    find(rows, *constants) -> w                            the rows of a body, into a dict
    count(*constants) -> n, w                              how many derivations some literals have
    run(sign) -> w                                         all derivations of a body
    trigger(subject, row, value, raw, sign) -> w           those in which one triple takes part
    trigger(tuple, sign) -> w                              those in which one tuple of a relation takes part
    gain(subject, row, value, raw, sign) -> w              those that there are after a delta in which it took part
    holds(*values) -> bool                                 is there one, with these values of some variables?

A derivation's row goes to `counts`, which says how many derivations it has; from a trigger it goes with the sign to
the value of the variable SINK, a function of (row, sign): whoever keeps the counts adds it up when it is looked at. For
a relation `into` it goes to `out((into, row, sign))`.

Invariants: no text of a user's, no predicate and no value is ever in the source. They are captured, as are the
columns; so the same source serves all queries of one shape and is compiled once. Triggers are called while the triple
is there, just before it goes or just after it came, and count each derivation once: of a change at one literal, those
before it see the triple, those after it do not, and each literal has its own turn. A negation, or a function that
reads, is evaluated with the triple and without it. Work is counted; beyond `limit` it ends in `BudgetError`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from tripleweb.datalog.bodies import (
    Apply,
    Body,
    Literal,
    Member,
    Read,
    Triple,
    Unsupported,
    Without,
    outputs_of,
    predicates_of,
    relations_of,
)
from tripleweb.datalog.captured import CLASSES, Scope
from tripleweb.datalog.clauses import Binding, Blank, Variable
from tripleweb.datalog.clauses import bound as names_in
from tripleweb.datalog.edn import Form
from tripleweb.datalog.joins import Numbered, Sizes, best, greedy
from tripleweb.ids import kind_of

SINK = "sink"  # no variable of a query is called so
LOOPS_MAX = 18  # Python nests 20 blocks at most
_ORDERED = ("<", ">", "<=", ">=")
_EQUAL, _UNEQUAL = ("=", "=="), ("!=", "not=")


@dataclass(frozen=True, slots=True)
class Change:
    """What a trigger is told of: a triple of a predicate, or a tuple of a relation."""

    predicate: str | None = None
    relation: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("d_tuple",) if self.predicate is None else ("d_subject", "d_row", "d_value", "d_raw")

    def touches(self, literal: Literal) -> bool:
        if self.predicate is not None:
            return any(self.predicate == name for name in predicates_of((literal,)))
        return any(self.relation == name for name in relations_of((literal,)))


@dataclass(slots=True)
class _Place:
    """Under which local names the value of a variable is at hand, its entity's number, its rows by kind."""

    text: str = ""
    number: str = ""
    rows: dict[str, str] = field(default_factory=dict)


_Places = dict[str, _Place]


class Module:
    """Functions that are compiled together, and what they capture: `captures[(what, of)]` is a name in the source."""

    def __init__(self, sizes: Sizes, constants: Iterable[str]) -> None:
        self.sizes = sizes
        self.constants = list(constants)
        self.captures: dict[tuple[Any, ...], str] = {}
        self.functions: list[str] = []
        self.names: list[str] = []
        self.orders: list[list[Numbered]] = []  # of `run` and `find`, in turn
        self.price = 0.0  # rows that `run` is expected to touch
        self.kept: list[Form | Binding | None] = []

    def capture(self, what: str, *of: Any) -> str:
        key = (what, *of)
        if key not in self.captures:
            self.captures[key] = f"{what}{len(self.captures)}"
        return self.captures[key]

    def keep(self, value: Form | Binding | None) -> int:
        """A number for something that is captured as it is, and is no part of the shape."""
        self.kept.append(value)
        return len(self.kept) - 1

    @property
    def source(self) -> str:
        inner = "\n".join(f"    {line}" for function in self.functions for line in function.split("\n"))
        head = f"def make({', '.join(self.captures.values())}):"
        return f"{head}\n{inner}\n    return [{', '.join(self.names)}]\n"

    def bind(self, scope: Scope) -> dict[str, Callable[..., Any]]:
        """The functions by name, working on what this scope has."""
        captured = [scope.resolve(self.kept, *key) for key in self.captures]
        return dict(zip(self.names, _compiled(self.source)(*captured), strict=True))

    # -- the functions

    def run(self, body: Body, into: str | None = None) -> str:
        """All derivations of a body; returns the name of the function."""
        ordered, price = best(body.literals, self.constants, self.sizes)
        self.orders.append(ordered)
        self.price += price
        function = _Function(self, "run", ("sign",))
        for _, literal in ordered:
            function.literal(literal, None)
        return function.end_with_row(body.head, into, tells=False)

    def find(self, body: Body, constants: Sequence[str], ordered: Sequence[Numbered] | None = None) -> str:
        """The different rows of a body, as keys of a dict; constants are parameters."""
        parameters = [f"p{place}" for place in range(len(constants))]
        function = _Function(self, "find", ("rows", *parameters))
        for variable, parameter in zip(constants, parameters, strict=True):
            function.unify(parameter, variable)
        if ordered is None:
            ordered, _ = best(body.literals, function.at, self.sizes)
        self.orders.append(list(ordered))
        for _, literal in ordered:
            function.literal(literal, None)
        cells = ", ".join([function.text(name) for name in body.head])
        most, too_many = self.capture("MOST"), self.capture("TOO_MANY")
        return function.end(f"rows[({cells},)] = None", f"if len(rows) > {most}[0]: {too_many}()")

    def count(self, literals: Sequence[Literal], constants: Sequence[str]) -> str:
        """(derivations of these literals in their order, w); constants are parameters."""
        parameters = [f"p{place}" for place in range(len(constants))]
        function = _Function(self, "count", parameters, nothing="n, w")
        function.line("n = 0")
        for variable, parameter in zip(constants, parameters, strict=True):
            function.unify(parameter, variable)
        for literal in literals:
            function.literal(literal, None)
        return function.end("n += 1")

    def holds(self, variables: Sequence[str], literals: Sequence[Literal], gone: Change | None = None) -> str:
        """Whether there is a derivation with these values of `variables`, not counting `gone`."""
        parameters = [f"p{place}" for place in range(len(variables))]
        more = gone.parameters if gone is not None else ()
        function = _Function(self, "holds", (*parameters, *more), nothing="False", work="WORK[0]")
        for variable, parameter in zip(variables, parameters, strict=True):
            function.unify(parameter, variable)
        ordered, _ = best(literals, function.at, self.sizes)
        for _, literal in ordered:
            function.literal(literal, gone)
        return function.end("return True")

    def within(self, start: Literal, around: Sequence[Literal], change: Change, wanted: Sequence[str]) -> str:
        """Adds to a set the values of `wanted` that go with a change of `start`, as far as `around` holds."""
        function = _Function(self, "within", (*change.parameters, "add"), work="WORK[0]")
        function.nothing = "None"
        if isinstance(start, Triple | Member):
            function.match(start)
        else:
            assert isinstance(start, Read)
            function.unify("d_subject", start.subject)
        for _, literal in greedy(list(enumerate(around)), function.at, self.sizes):
            if all(name in function.at for name in wanted):
                break
            function.literal(literal, None)
        cells = ", ".join([function.text(name) for name in wanted])
        return function.end(f"add(({cells},))")

    def triggers(self, body: Body, change: Change, into: Hashable = None) -> list[str]:
        """A function for each literal that the change can touch."""
        return [
            self._trigger(body, at, change, into)
            for at, literal in enumerate(body.literals)
            if change.touches(literal)
        ]

    def gain(self, body: Body, at: int, change: Change, into: Hashable) -> str:
        """A function that finds, once a whole delta is applied, every derivation with this literal at the change,
        however often others find it, too. A literal that reads is asked what it gives now."""
        return self._trigger(body, at, change, into, after=True)

    def _trigger(self, body: Body, at: int, change: Change, into: Hashable, after: bool = False) -> str:
        literal = body.literals[at]
        function = _Function(self, "trigger", (*change.parameters, "sign"))
        rest = list(enumerate(body.literals))
        if isinstance(literal, Triple | Member):
            function.match(literal)
            del rest[at]
        elif isinstance(literal, Read):
            function.unify("d_subject", literal.subject)
        elif isinstance(literal, Without):
            function.candidates(literal, change)
        for place, other in greedy(rest, function.at, self.sizes):
            if isinstance(other, Member) and SINK in other.terms:
                function.prepare_row(body.head)
            if place == at and not after:
                function.flip(other, change)
            else:
                function.literal(other, change if place > at and not after else None)
        return function.end_with_row(body.head, into)


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(source, "<a query>", "exec"), scope)
    make: Callable[..., Any] = scope["make"]
    return make


class _Function:
    """Writes one function: lines, and what is known of each variable where the next line will stand."""

    def __init__(
        self, module: Module, name: str, parameters: Sequence[str], *, nothing: str = "w", work: str = "w"
    ) -> None:
        self.module = module
        self.name = f"{name}{len(module.names)}"
        module.names.append(self.name)
        self.nothing = nothing  # what is returned where nothing was found
        self.work = work if work == "w" else f"{module.capture('WORK')}[0]"
        self.lines = [f"def {self.name}({', '.join(parameters)}):"]
        self.depth = 1
        self.loops = 0
        self.words = 0
        self.sign = "sign"
        self.key = self.entry = ""  # the row, and it with its sign, once they are made
        if self.work == "w":
            self.line("w = 0")
        self.at: _Places = {name: _Place(text=module.capture("K", name)) for name in module.constants}

    # -- lines

    def word(self, letter: str) -> str:
        self.words += 1
        return f"{letter}{self.words}"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def skip_if(self, condition: str) -> None:
        self.line(f"if {condition}: {'continue' if self.loops else f'return {self.nothing}'}")

    def loop(self, head: str, work: int = 1) -> None:
        if self.loops >= LOOPS_MAX:
            raise Unsupported(f"more than {LOOPS_MAX} loops within each other")
        self.line(head)
        self.loops += 1
        self.depth += 1
        if work:
            self.line(f"{self.work} += {work}")

    def check(self) -> None:
        """Ends what costs too much; stands before every loop that can be long."""
        limit = self.module.capture("LIMIT" if self.work == "w" else "WITHIN")
        self.line(f"if {self.work} > {limit}[0]: {self.module.capture('SPENT')}({self.work})")

    def end(self, *lines: str) -> str:
        for text in lines:
            self.line(text)
        self.depth = 1
        self.line(f"return {self.nothing}")
        self.module.functions.append("\n".join(self.lines))
        return self.name

    def end_with_row(self, head: Sequence[str], into: Hashable, tells: bool = True) -> str:
        capture, key, sign = self.module.capture, self.key or self.row_of(head), self.sign
        if into is not None:
            return self.end(f"{capture('OUT')}(({capture('WORD', into)}, {key}, {sign}))")
        if tells:
            return self.end(
                f"{self.text(SINK)}({self.entry if sign == 'sign' and self.entry else f'({key}, {sign})'})"
            )
        counts, most, too_many = capture("COUNTS"), capture("MOST"), capture("TOO_MANY")
        return self.end(
            f"key = {key}",
            f"{counts}[key] = {capture('GET')}(key, 0) + 1",
            f"if len({counts}) > {most}[0]: {too_many}()",
        )

    def row_of(self, names: Sequence[str]) -> str:
        cells = [self.text(name) for name in names]
        return f"({', '.join(cells)},)" if cells else "()"

    def prepare_row(self, head: Sequence[str]) -> None:
        """Makes the row where it is known already, for all that the next loop finds."""
        if head and not self.key and all(name in self.at for name in head):
            row = self.row_of(head)
            self.key, self.entry = self.word("k"), self.word("e")
            self.line(f"{self.key} = {row}")
            self.line(f"{self.entry} = ({self.key}, sign)")

    # -- variables

    def text(self, variable: str) -> str:
        place = self.at[variable]
        if not place.text:
            number = self.number(variable)
            place.text = self.word("x")
            self.line(f"{place.text} = {self.module.capture('NAMES')}[{number}]")
        return place.text

    def number(self, variable: str) -> str:
        place = self.at[variable]
        if not place.number:
            place.number = self.word("n")
            if place.rows:
                table, row = next(iter(place.rows.items()))
                self.line(f"{place.number} = {self.module.capture('ENTITIES', table)}[{row}]")
            else:
                self.line(f"{place.number} = {self.module.capture('NUMBERS')}.get({place.text})")
                self.skip_if(f"{place.number} is None")
        return place.number

    def row(self, variable: str, table: str) -> str:
        place = self.at[variable]
        if table not in place.rows:
            number = self.number(variable)
            row = self.word("r")
            self.line(f"{row} = {self.module.capture('ROWS', table)}.get({number})")
            self.skip_if(f"{row} is None")
            place.rows[table] = row
        return place.rows[table]

    def unify(self, expression: str, variable: str) -> None:
        """Binds a variable to a value, or has them be equal."""
        if variable in self.at:
            self.skip_if(f"{expression} != {self.text(variable)}")
        elif expression.isidentifier():
            self.at[variable] = _Place(text=expression)
        else:
            word = self.word("x")
            self.line(f"{word} = {expression}")
            self.at[variable] = _Place(text=word)

    def fit(self, word: str, kind: str | None) -> None:
        """Has a value from a column be of a kind, and as the engine holds it."""
        capture = self.module.capture
        if kind in CLASSES:
            self.skip_if(f"{word}.__class__ is not {capture('CLASS', kind)}")
        elif kind == "n":
            self.skip_if(f"{word}.__class__ not in {capture('NUMERIC')}")
        else:
            if kind == "b":
                self.skip_if(f"{word}.__class__ is not bool")
            self.line(
                f"if {word}.__class__ is bool: {word} = {capture('TRUE')} if {word} else {capture('FALSE')}"
            )

    # -- literals

    def literal(self, literal: Literal, gone: Change | None) -> None:
        """The code of one literal, which does not see `gone`."""
        gone = gone if gone is not None and gone.touches(literal) else None
        if isinstance(literal, Triple):
            self.triple(literal, gone)
        elif isinstance(literal, Member):
            self.member(literal, gone)
        elif isinstance(literal, Apply):
            self.apply(literal)
        elif isinstance(literal, Read):
            word = self.word("x")
            self.line(f"{word} = {self.read(literal, gone)}")
            self.result(literal.binding, word, None)
        else:
            self.skip_if(self.negated(literal, gone))

    def match(self, literal: Triple | Member) -> None:
        """The literal is the change that the trigger was told of."""
        if isinstance(literal, Member):
            for place, term in enumerate(literal.terms):
                self.unify(f"d_tuple[{place}]", term)
            return
        if literal.kind in CLASSES:
            self.skip_if(f"d_value.__class__ is not {self.module.capture('CLASS', literal.kind)}")
        elif literal.kind is not None:
            wanted = "NUMERIC" if literal.kind == "n" else "BOOLEAN"
            self.skip_if(f"d_value.__class__ not in {self.module.capture(wanted)}")
        self.unify("d_subject", literal.subject)
        self.at[literal.subject].rows[kind_of(literal.predicate)] = "d_row"
        self.unify("d_value", literal.value)

    def triple(self, literal: Triple, gone: Change | None) -> None:
        capture, table = self.module.capture, kind_of(literal.predicate)
        values, several = capture("VALUES", literal.predicate), capture("SEVERAL", literal.predicate)
        absent = capture("ABSENT")
        held, found = self.word("v"), self.word("x")
        if literal.subject in self.at:
            row = self.row(literal.subject, table)
            self.line(f"{held} = {values}[{row}]")
            self.loop(f"for {found} in ({held},) if {held} is not {absent} else {several}({row}):")
        elif literal.value in self.at:
            rows, row = self.word("h"), self.word("r")
            self.line(f"{rows} = {capture('REVERSE', literal.predicate)}.get({self.text(literal.value)})")
            self.skip_if(f"{rows} is None")
            self.check()
            self.loop(f"for {row} in ({rows},) if {rows}.__class__ is int else {rows}:")
            self.line(f"{held} = {values}[{row}]")
            self.loop(f"for {found} in ({held},) if {held} is not {absent} else {several}({row}):", 0)
            self.at[literal.subject] = _Place(rows={table: row})
        else:
            row, some = self.word("r"), self.word("h")
            self.line(f"{self.work} += len({values})")
            self.check()
            self.loop(f"for {row}, {held} in enumerate({values}):", 0)
            self.line(f"if {held} is {absent}:")
            self.line(f"    {some} = {several}({row})")
            self.line(f"    if not {some}: continue")
            self.line(f"else: {some} = ({held},)")
            self.loop(f"for {found} in {some}:", 0)
            self.at[literal.subject] = _Place(rows={table: row})
        self.fit(found, literal.kind)
        if gone is not None:
            same = f"{found} == d_value and {found}.__class__ is d_value.__class__"
            self.skip_if(f"{row} == d_row and {same}")
        self.unify(found, literal.value)

    def member(self, literal: Member, gone: Change | None) -> None:
        capture, found = self.module.capture, self.word("t")
        given = tuple(place for place, term in enumerate(literal.terms) if term in self.at)
        keys = [self.text(literal.terms[place]) for place in given]
        if len(given) == len(literal.terms):
            self.line(f"{found} = ({', '.join(keys)},)")
            self.skip_if(f"{found} not in {capture('MEMBERS', literal.relation)}")
            self.line(f"{self.work} += 1")
        else:
            self.check()
            members = capture("MEMBERS", literal.relation)
            if given:
                key = keys[0] if len(keys) == 1 else f"({', '.join(keys)})"
                members = f"{capture('INDEX', literal.relation, given)}.get({key}, ())"
            new = [term for place, term in enumerate(literal.terms) if place not in given]
            if gone is None and len(set(new)) == len(new):
                words = [
                    self.word("x") if place not in given else "_" for place, _ in enumerate(literal.terms)
                ]
                self.loop(f"for {', '.join(words)}, in {members}:")
                for word, term in zip(words, literal.terms, strict=True):
                    if word != "_":
                        self.at[term] = _Place(text=word)
                return
            self.loop(f"for {found} in {members}:")
        if gone is not None:
            self.skip_if(f"{found} == d_tuple")
        for place, term in enumerate(literal.terms):
            if place not in given:
                self.unify(f"{found}[{place}]", term)

    def apply(self, literal: Apply) -> None:
        arguments = [self.text(name) for name in literal.arguments]
        if literal.binding is None:
            self.skip_if(f"not ({self.test(literal, arguments)})")
            return
        word = self.word("x")
        self.line(f"{word} = {self.function(literal)}({', '.join(arguments)})")
        self.result(literal.binding, word, literal.form if literal.custom else None)

    def test(self, literal: Apply, arguments: Sequence[str]) -> str:
        """A condition; comparisons of two numbers need no call."""
        called = f"{self.module.capture('TRUTHY')}({self.function(literal)}({', '.join(arguments)}))"
        if not literal.custom and len(arguments) == 2:
            a, b = arguments
            if literal.function in _EQUAL:
                return f"{a} == {b}"
            if literal.function in _UNEQUAL:
                return f"{a} != {b}"
            if literal.function in _ORDERED:
                numeric = self.module.capture("NUMERIC")
                both = f"{a}.__class__ in {numeric} and {b}.__class__ in {numeric}"
                return f"{a} {literal.function} {b} if {both} else {called}"
        return called

    def function(self, literal: Apply) -> str:
        form = self.module.keep(literal.form)
        if literal.custom:
            return self.module.capture("CUSTOM", literal.function, literal.binding is None, form)
        return self.module.capture("FUNCTION", literal.function, form)

    def result(self, binding: Binding | None, word: str, form: Form | None) -> None:
        """Binds what a call gave; `form` says that it comes from a user's callable."""
        if binding is None:
            self.skip_if(f"not {self.module.capture('TRUTHY')}({word})")
            return
        self.skip_if(f"{word} is None")
        if isinstance(binding, Blank):
            return
        if isinstance(binding, Variable) and form is None:
            self.unify(word, binding.name)
            return
        parts = self.word("t")
        take = self.module.capture("BIND", self.module.keep(binding), self.module.keep(form))
        self.check()
        self.loop(f"for {parts} in {take}({word}):")
        for place, name in enumerate(names_in(binding)):
            self.unify(f"{parts}[{place}]", name)

    def read(self, literal: Read, gone: Change | None) -> str:
        capture = self.module.capture
        source = capture("SOURCE")
        if gone is not None:
            source = f"{capture('LESS')}({source}, d_subject, {capture('WORD', gone.predicate)}, d_raw)"
        words = [capture("WORD", predicate) for predicate in literal.predicates]
        rest = [self.text(name) for name in literal.arguments]
        arguments = ", ".join([source, self.text(literal.subject), *words, *rest])
        return f"{capture('READ', literal.function)}({arguments})"

    def negated(self, literal: Without, gone: Change | None) -> str:
        """A condition: the literals of a negation have a derivation."""
        name = self.module.holds(literal.joined, literal.literals, gone)
        arguments = [self.text(variable) for variable in literal.joined]
        return f"{name}({', '.join([*arguments, *(gone.parameters if gone is not None else ())])})"

    # -- changes within a negation, or of what is read

    def flip(self, literal: Literal, change: Change) -> None:
        """Goes on with what the change makes true or false by a literal that is not a plain one."""
        sign = self.word("s")
        if isinstance(literal, Without):
            there, was = self.word("a"), self.word("b")
            self.line(f"{there} = {self.negated(literal, None)}")
            self.line(f"{was} = {self.negated(literal, change)}")
            self.skip_if(f"{there} == {was}")
            self.line(f"{sign} = -{self.sign} if {there} else {self.sign}")
            self.sign = sign
            return
        assert isinstance(literal, Read)
        there, was, word = self.word("a"), self.word("b"), self.word("x")
        self.line(f"{there} = {self.read(literal, None)}")
        self.line(f"{was} = {self.read(literal, change)}")
        self.skip_if(f"{there} == {was} and {there}.__class__ is {was}.__class__")
        self.loop(f"for {word}, {sign} in (({was}, -{self.sign}), ({there}, {self.sign})):")
        self.sign = sign
        self.result(literal.binding, word, None)

    def candidates(self, literal: Without, change: Change) -> None:
        """Loops over the values of joined variables for which a negation may have changed: those of `shared`,
        which every literal within that the change can be says something about. None of them: all values may be
        concerned, and the trigger goes through the whole body."""
        paths = list(_paths(literal.literals, change))
        reached = [set(chain(_mentioned(start), *map(outputs_of, around))) for start, around in paths]
        shared = [name for name in literal.joined if all(name in names for names in reached)]
        if not shared or all(name in self.at for name in shared):
            return
        collected = self.word("c")
        self.line(f"{collected} = set()")
        for start, around in paths:
            name = self.module.within(start, around, change, shared)
            self.line(f"{name}({', '.join(change.parameters)}, {collected}.add)")
        word = self.word("t")
        self.loop(f"for {word} in {collected}:")
        for place, variable in enumerate(shared):
            self.unify(f"{word}[{place}]", variable)


def _mentioned(literal: Literal) -> Iterator[str]:
    """The variables that a change of this literal says something about."""
    if isinstance(literal, Read):
        yield literal.subject
    else:
        yield from outputs_of(literal)


def _paths(
    literals: Sequence[Literal], change: Change, outside: Sequence[Literal] = ()
) -> Iterator[tuple[Triple | Member | Read, list[Literal]]]:
    """Each literal within a negation that the change can be, with the plain ones that must hold around it."""
    for literal in literals:
        if change.touches(literal):
            around = list(outside)
            around += [one for one in literals if one is not literal and isinstance(one, Triple | Member)]
            if isinstance(literal, Without):
                yield from _paths(literal.literals, change, around)
            elif not isinstance(literal, Apply):
                yield literal, around
