"""A query as bodies: conjunctions of literals, without `or` and without rules that do not call themselves.

This is what code is generated from. `or` and plain rules are multiplied out, so a query becomes a few bodies whose
derivations add up; every constant becomes a variable that is bound from the start (`Writer.constants`), so that
queries that differ in their constants only have the same shape; blanks become variables that nobody else uses.

Invariants: a body's derivations are the assignments of its variables under which all its literals hold, and a row of
the query is there as long as one derivation of it is; variables of a `Without` that it does not share are its own.
What cannot be said so is `Unsupported`, and the plain evaluator does it: a variable predicate, `missing?` of a
reverse, more than `BODIES_MAX` bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tripleweb.datalog.builtins import FUNCTIONS, forward
from tripleweb.datalog.clauses import (
    BindCollection,
    Binding,
    BindTuple,
    Blank,
    Branch,
    Call,
    Clause,
    Constant,
    Not,
    Pattern,
    RuleCall,
    Term,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.edn import Form
from tripleweb.datalog.plan import Given, Program

BODIES_MAX = 64
LITERALS_MAX = 60

_FORM: Any = field(compare=False, repr=False)
# the form of the clause that a literal comes from, after those of the (or …) and the calls of rules around it
_ORIGIN: Any = field(default=(), compare=False, repr=False)


class Unsupported(Exception):
    """This query cannot be compiled; the message says why."""


@dataclass(frozen=True, slots=True)
class Triple:
    """[subject :predicate value]; `kind` is the letter that the value must have, if any."""

    predicate: str
    subject: str
    value: str
    kind: str | None = None
    origin: tuple[Form, ...] = _ORIGIN


@dataclass(frozen=True, slots=True)
class Apply:
    """A call. `function` names a built-in, or is a variable that holds a callable (`custom`)."""

    function: str
    arguments: tuple[str, ...]
    binding: Binding | None
    custom: bool
    form: Form = _FORM
    origin: tuple[Form, ...] = _ORIGIN

    @property
    def outputs(self) -> list[str]:
        return [] if self.binding is None else list(bound(self.binding))


@dataclass(frozen=True, slots=True)
class Read:
    """`get-else`, `get-some` or `missing?`: a call that reads the predicates `predicates` of `subject`."""

    function: str
    subject: str
    predicates: tuple[str, ...]
    arguments: tuple[str, ...]
    binding: Binding | None
    form: Form = _FORM
    origin: tuple[Form, ...] = _ORIGIN

    @property
    def outputs(self) -> list[str]:
        return [] if self.binding is None else list(bound(self.binding))


@dataclass(frozen=True, slots=True)
class Without:
    """No derivation of these literals with the present values of `joined`."""

    joined: tuple[str, ...]
    literals: tuple[Literal, ...]
    origin: tuple[Form, ...] = _ORIGIN


@dataclass(frozen=True, slots=True)
class Member:
    """A tuple of a relation: of the rows of an input (`"input 0"`), or of a rule that calls itself."""

    relation: str
    terms: tuple[str, ...]
    origin: tuple[Form, ...] = _ORIGIN


Literal = Triple | Apply | Read | Without | Member


@dataclass(frozen=True, slots=True)
class Body:
    """`head` are the variables of the row that a derivation stands for."""

    head: tuple[str, ...]
    literals: tuple[Literal, ...]


def inputs_of(literal: Literal) -> Iterator[str]:
    """The variables that must be bound before the literal can be looked at."""
    if isinstance(literal, Apply):
        yield from literal.arguments
        if literal.custom:
            yield literal.function
    elif isinstance(literal, Read):
        yield literal.subject
        yield from literal.arguments
    elif isinstance(literal, Without):
        yield from literal.joined


def outputs_of(literal: Literal) -> Iterator[str]:
    """The variables that are bound after it."""
    if isinstance(literal, Triple):
        yield literal.subject
        yield literal.value
    elif isinstance(literal, Member):
        yield from literal.terms
    elif isinstance(literal, Apply | Read):
        yield from literal.outputs


def predicates_of(literals: Iterable[Literal]) -> Iterator[str]:
    """The predicates whose triples can change what these literals give."""
    for literal in literals:
        if isinstance(literal, Triple):
            yield literal.predicate
        elif isinstance(literal, Read):
            yield from literal.predicates
        elif isinstance(literal, Without):
            yield from predicates_of(literal.literals)


def relations_of(literals: Iterable[Literal]) -> Iterator[str]:
    """The relations that can change what these literals give."""
    return (member.relation for member in members_of(literals))


def members_of(literals: Iterable[Literal]) -> Iterator[Member]:
    """The members of relations among these literals, and within negations."""
    for literal in literals:
        if isinstance(literal, Member):
            yield literal
        elif isinstance(literal, Without):
            yield from members_of(literal.literals)


def renamed_binding(binding: Binding, names: Mapping[str, Variable]) -> Binding:
    if isinstance(binding, Variable):
        return names.get(binding.name, binding)
    if isinstance(binding, BindTuple):
        return replace(binding, items=tuple(renamed_binding(item, names) for item in binding.items))
    if isinstance(binding, BindCollection):
        return replace(binding, item=renamed_binding(binding.item, names))
    return binding


class Writer:
    """Turns the clauses of a program into bodies; one for all bodies that share constants and relations."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants: dict[str, Any] = {}
        self._fresh = 0
        self._around: tuple[Form, ...] = ()
        self._kinds = program.query.kinds

    def constant(self, value: Any) -> Variable:
        name = f"?constant {len(self.constants)}"
        self.constants[name] = value
        return Variable(name)

    def fresh(self, name: str = "?_") -> Variable:
        self._fresh += 1
        return Variable(f"{name.partition(' ')[0]} {self._fresh}")

    def bodies(
        self,
        clauses: Sequence[Clause],
        known: Iterable[str],
        head: Sequence[str],
        more: Sequence[Literal] = (),
    ) -> list[Body]:
        """The bodies of clauses where `known` variables are bound from the start; `more` literals join each."""
        final, _ = self.program.closure(clauses, known)
        found = []
        for literals in self._expand(clauses, {}, final):
            body = Body(tuple(head), (*more, *literals))
            if len(body.literals) > LITERALS_MAX:
                raise Unsupported(f"more than {LITERALS_MAX} clauses in a body")
            found.append(body)
        return found

    def _expand(
        self, clauses: Sequence[Clause], names: Mapping[str, Variable], final: set[str]
    ) -> list[list[Literal]]:
        """The alternatives of clauses whose variables are called by `names`; `final` are all that get bound."""
        out: list[list[Literal]] = [[]]
        for clause in clauses:
            alternatives = self._alternatives(clause, names, final)
            out = [[*left, *right] for left in out for right in alternatives]
            if len(out) > BODIES_MAX:
                raise Unsupported(f"more than {BODIES_MAX} ways to choose from its (or …) and rules")
        return out

    def _alternatives(
        self, clause: Clause, names: Mapping[str, Variable], final: set[str]
    ) -> list[list[Literal]]:
        origin = (*self._around, clause.form)
        if isinstance(clause, Pattern):
            if not isinstance(clause.predicate, Constant):
                raise Unsupported("a predicate is a variable")
            predicate = clause.predicate.value
            subject, value = (self._name(term, names) for term in (clause.subject, clause.value))
            return [[Triple(predicate, subject, value, self._kinds.get(predicate), origin)]]
        if isinstance(clause, Call):
            return [[replace(self._call(clause, names), origin=origin)]]
        if isinstance(clause, Not):
            return [self._negation(clause, names, final, origin)]
        assert isinstance(clause, RuleCall)  # a program has no other
        arguments = [Variable(self._name(term, names)) for term in clause.arguments]
        if clause.name in self.program.recursive:
            return [[Member(clause.name, tuple(argument.name for argument in arguments), origin)]]
        outside, self._around = self._around, origin
        found = [
            literals
            for branch in self.program.bodies[clause.name]
            for literals in self.branch(branch, dict(zip(branch.variables, arguments, strict=True)))
        ]
        self._around = outside
        return found

    def branch(self, branch: Branch, names: Mapping[str, Variable]) -> list[list[Literal]]:
        """The alternatives of a rule's body where its head's variables are called by `names`."""
        last, _ = self.program.closure(branch.clauses, branch.variables)
        inner = {**names, **{name: self.fresh(name) for name in sorted(last) if name not in names}}
        return self._expand(branch.clauses, inner, last)

    def _name(self, term: Term, names: Mapping[str, Variable]) -> str:
        if isinstance(term, Constant):
            return self.constant(term.value).name
        if isinstance(term, Blank):
            return self.fresh().name
        return names.get(term.name, term).name

    def _call(self, clause: Call, names: Mapping[str, Variable]) -> Apply | Read:
        binding = None if clause.binding is None else renamed_binding(clause.binding, names)
        if isinstance(clause.function, Variable):
            function = self._name(clause.function, names)
            arguments = tuple(self._name(term, names) for term in clause.arguments)
            return Apply(function, arguments, binding, True, clause.form)
        if not FUNCTIONS[clause.function].reads:
            arguments = tuple(self._name(term, names) for term in clause.arguments)
            return Apply(clause.function, arguments, binding, False, clause.form)
        last = 2 if clause.function != "get-some" else len(clause.arguments)
        predicates = []
        for term in clause.arguments[1:last]:
            if not isinstance(term, Constant):
                raise Unsupported("a predicate is a variable")
            if clause.function == "missing?" and forward(term.value):
                raise Unsupported("missing? of a reverse")
            predicates.append(term.value)
        subject = self._name(clause.arguments[0], names)
        rest = tuple(self._name(term, names) for term in clause.arguments[last:])
        return Read(clause.function, subject, tuple(predicates), rest, binding, clause.form)

    def _negation(
        self, clause: Not, names: Mapping[str, Variable], final: set[str], origin: tuple[Form, ...]
    ) -> list[Literal]:
        inside = variables(*clause.clauses) if clause.variables is None else clause.variables
        joined = [name for name in inside if name in final]
        last, _ = self.program.closure(clause.clauses, joined)
        inner = {name: names.get(name, Variable(name)) for name in joined}
        inner.update({name: self.fresh(name) for name in sorted(last) if name not in inner})
        shared = tuple(dict.fromkeys(inner[name].name for name in joined))
        # constants of the inside are bound from the start, as everywhere
        return [Without(shared, tuple(body), origin) for body in self._expand(clause.clauses, inner, last)]


def bodies_of(writer: Writer, given: Mapping[str, Given], scalars: Iterable[str]) -> list[Body]:
    """A query as bodies; `given` are relations by name, `scalars` the inputs that are single values."""
    program, query = writer.program, writer.program.query
    known = [*scalars, *(name for relation in given.values() for name in relation.variables)]
    members = [Member(name, relation.variables) for name, relation in given.items()]
    head = [
        element.name if isinstance(element, Variable) else element.variable.name for element in query.find
    ]
    return writer.bodies(program.where, known, [*head, *query.with_], members)


def lifted(
    bodies: Sequence[Body], constants: Mapping[str, Any]
) -> tuple[tuple[Body, ...], dict[str, Any], dict[str, str]]:
    """The bodies with their variables called by the order in which they appear, the constants by these names, and
    what each variable is called now. The first two agree for queries that differ in names and values only."""
    names: dict[str, Variable] = {}
    renamed = tuple(
        Body(
            tuple(_called(names, name) for name in body.head),
            tuple(_renamed(names, _joining(one, constants)) for one in body.literals),
        )
        for body in bodies
    )
    called = {old: new.name for old, new in names.items()}
    return renamed, {new: constants[old] for old, new in called.items() if old in constants}, called


def has_callable(literals: Iterable[Literal]) -> bool:
    """True if a literal, or one within a negation, calls what is an input."""
    return any(
        has_callable(literal.literals) if isinstance(literal, Without) else getattr(literal, "custom", False)
        for literal in literals
    )


def _joining(literal: Literal, constants: Mapping[str, Any]) -> Literal:
    """The literal where the constants within a negation are joined: they are bound outside of it now."""
    if not isinstance(literal, Without):
        return literal
    inner = tuple(_joining(one, constants) for one in literal.literals)
    names = (name for one in inner for name in (*inputs_of(one), *outputs_of(one)))
    more = dict.fromkeys(name for name in names if name in constants)
    return Without(tuple(dict.fromkeys((*literal.joined, *more))), inner, literal.origin)


def _called(names: dict[str, Variable], name: str) -> str:
    return names.setdefault(name, Variable(f"?{len(names)}")).name


def _renamed(names: dict[str, Variable], literal: Literal) -> Literal:
    def called(variables: Iterable[str]) -> tuple[str, ...]:
        return tuple(_called(names, name) for name in variables)

    if isinstance(literal, Triple):
        subject, value = called((literal.subject, literal.value))
        return replace(literal, subject=subject, value=value)
    if isinstance(literal, Member):
        return replace(literal, terms=called(literal.terms))
    if isinstance(literal, Without):
        inner = tuple(_renamed(names, one) for one in literal.literals)
        return Without(called(literal.joined), inner, literal.origin)
    called(literal.outputs)
    binding = None if literal.binding is None else renamed_binding(literal.binding, names)
    if isinstance(literal, Read):
        (subject,) = called((literal.subject,))
        return replace(literal, subject=subject, arguments=called(literal.arguments), binding=binding)
    function = called((literal.function,))[0] if literal.custom else literal.function
    return replace(literal, function=function, arguments=called(literal.arguments), binding=binding)
