"""What the answer of a query depends on: from its bodies to the bodies whose derivations name the places it needs.

A *place* is a (subject, predicate) with all that is there. Whoever holds the needed places of a store, and of others
nothing but what that store has, too, finds the same answer as the store. For the body of a query that takes

- all triples of each derivation, negations left out: whoever holds more than asked may find that derivation, too;
- the *witnesses* of a negation: all triples of each derivation of the body and what is negated, as if it were not;
- where a `get-else`, `get-some` or `missing?` looks, and whether something is there or not, for each derivation of
  what it looks from: whoever does not hold the place would take "not here" for "missing". What filters its value, and
  what other such calls say, does not matter, since they may be wrong where their own place is not held.

For a rule that calls itself it takes that for each derivation of each tuple. Literals that share no variable are
looked at by themselves (their product says nothing new), but those without any variable hold for all: they are cheap
to ask. Invariant: more triples, or fewer, never take away a derivation of the bodies here but through a call that
reads; so nothing needs to be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    inputs_of,
    outputs_of,
    predicates_of,
)
from tripleweb.datalog.captured import Relation, Row, Scope
from tripleweb.datalog.clauses import Binding
from tripleweb.datalog.compiled import SINK, Change, Module
from tripleweb.datalog.executor import Finder
from tripleweb.datalog.maintained import DEAR, SLACK, Plan, Shape
from tripleweb.datalog.plan import Program
from tripleweb.store import Store

Heard = dict[str, list[Callable[..., int]]]  # triggers by predicate
Found = tuple["Needs", Row, int]  # the row: subjects and roots, and the sink


@dataclass(frozen=True, slots=True)
class Needs:
    """What a row of a body says: `places` are (which cell is the subject, the predicate), `roots` (which cell is an
    entity that is looked up, by which look-up)."""

    places: tuple[tuple[int, str], ...]
    roots: tuple[tuple[int, int], ...]


@dataclass
class _Part:
    """Literals, and what is needed for each derivation of them: (subject, predicate), and (entity, look-up)."""

    literals: tuple[Literal, ...]
    places: dict[tuple[str, str], None] = field(default_factory=dict)
    roots: dict[tuple[str, int], None] = field(default_factory=dict)

    @property
    def head(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, _ in (*self.places, *self.roots)))

    @property
    def needs(self) -> Needs:
        at = self.head.index
        return Needs(
            tuple((at(subject), predicate) for subject, predicate in self.places),
            tuple((at(entity), lookup) for entity, lookup in self.roots),
        )


class Parts:
    """Collects what bodies need, where the variables `known` have a value from the start."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self._parts: dict[tuple[Literal, ...], _Part] = {}

    def all(self) -> list[_Part]:
        return [part for part in self._parts.values() if part.places or part.roots]

    def add(self, literals: Sequence[Literal], roots: Mapping[str, Sequence[int]]) -> None:
        """The needs of a body; `roots` are variables whose entities are looked up, with the numbers of how."""
        plain = _plain(literals)
        self._need(plain, plain)
        left = dict(roots)
        for part in [*self._split(plain), self._ground(plain)]:
            names = {*self._known, *_bound(part)}
            for name in [name for name in left if name in names]:
                for number in left.pop(name):
                    self._part(part).roots[name, number] = None
        for literal in literals:
            if isinstance(literal, Without):
                self._witness(plain, literal)

    def _witness(self, outside: Sequence[Literal], negation: Without) -> None:
        inside = _plain(negation.literals)
        self._need([*outside, *inside], inside)
        for literal in negation.literals:
            if isinstance(literal, Without):
                self._witness([*outside, *inside], literal)

    def _need(self, literals: Sequence[Literal], asked: Sequence[Literal]) -> None:
        """Notes what is needed at the `asked` of some literals, for each derivation of all of them."""
        parts = self._split(literals)
        ground = self._ground(literals)
        for part in [*parts, ground]:
            for literal in part[: len(part) - len(ground)] if part is not ground else ground:
                if isinstance(literal, Triple) and literal in asked:
                    self._part(part).places[literal.subject, literal.predicate] = None
        for literal in asked:
            if isinstance(literal, Read):
                before = self._part(self._before(literals, literal))
                before.places.update(dict.fromkeys((literal.subject, name) for name in literal.predicates))

    def _part(self, literals: tuple[Literal, ...]) -> _Part:
        return self._parts.setdefault(literals, _Part(literals))

    def _free(self, literal: Literal) -> set[str]:
        return set(_mentioned(literal)) - self._known

    def _ground(self, literals: Iterable[Literal]) -> tuple[Literal, ...]:
        return tuple(literal for literal in literals if not self._free(literal))

    def _split(self, literals: Sequence[Literal]) -> list[tuple[Literal, ...]]:
        """The connected ones among literals with variables, each with those that have none behind."""
        ground = self._ground(literals)
        left = [literal for literal in literals if self._free(literal)]
        out = []
        while left:
            found = self._connected(left, self._free(left[0]))
            left = [literal for literal in left if literal not in found]
            out.append((*found, *ground))
        return out

    def _connected(self, literals: Sequence[Literal], names: Iterable[str]) -> list[Literal]:
        names, moved = set(names) - self._known, True
        while moved:
            before = len(names)
            for literal in literals:
                free = self._free(literal)
                if not free.isdisjoint(names):
                    names |= free
            moved = len(names) > before
        return [literal for literal in literals if not self._free(literal).isdisjoint(names)]

    def _before(self, literals: Sequence[Literal], read: Read) -> tuple[Literal, ...]:
        """What has to do with the subject that is read of: what needs no such call, and the calls that come first."""
        bound, used = set(self._known), list[Literal]()
        left = [literal for literal in literals if literal is not read]
        wanted = set(inputs_of(read))

        def first(literal: Literal) -> bool:
            return not isinstance(literal, Read) or (
                _leads(literal, read, literals) and not _leads(read, literal, literals)
            )

        while True:
            able = [literal for literal in left if bound.issuperset(inputs_of(literal))]
            ready = [literal for literal in able if first(literal)]
            if not ready and wanted <= bound:
                break
            ready = ready or able  # calls without which its subject is not known
            if not ready:
                raise Unsupported("its clauses can only run in an order that the data decides")
            for literal in ready:
                left.remove(literal)
                used.append(literal)
                bound.update(outputs_of(literal))
        return (*self._connected(used, wanted), *self._ground(used))


def _plain(literals: Iterable[Literal]) -> list[Literal]:
    return [literal for literal in literals if not isinstance(literal, Without)]


def _bound(literals: Iterable[Literal]) -> Iterator[str]:
    for literal in literals:
        yield from outputs_of(literal)


def _mentioned(literal: Literal) -> Iterator[str]:
    yield from inputs_of(literal)
    yield from outputs_of(literal)


def _leads(one: Literal, other: Literal, literals: Sequence[Literal]) -> bool:
    """True if what one call gives goes into another, perhaps by further calls."""
    names, moved = set(outputs_of(one)), True
    calls = [literal for literal in literals if isinstance(literal, Apply | Read)]
    while moved:
        before = len(names)
        for literal in calls:
            if not names.isdisjoint(inputs_of(literal)):
                names.update(outputs_of(literal))
        moved = len(names) > before
    return not names.isdisjoint(inputs_of(other))


class LineagePlan(Plan):
    """The lineage of a query as bodies over a store: the head of each are subjects and roots, then the sink; `needs`
    says what they mean. Raises `Unsupported`.

    `is_positive`: there is no negation and no call that reads, so that whatever holds some derivations of some rows
    has these rows. Only then `roots` (see `Parts.add`) are looked at here: else rows come and go otherwise, too.
    """

    def __init__(
        self,
        program: Program,
        inputs: Sequence[tuple[Binding, Any]],
        store: Store,
        roots: Mapping[str, Sequence[int]],
        out: Callable[[Found], object],
    ) -> None:
        self._roots = roots
        self._out = out
        super().__init__(program, inputs, store)
        self.bodies = [Body((*body.head, SINK), body.literals) for body in self.bodies]
        if self.key is not None:
            self.key = "lineage", self.key, tuple(self.needs)

    def _asked(self, bodies: list[Body]) -> list[Body]:
        derived = [body for body in self.recursion.bodies() if not _is_start(*body)]
        everything = [*bodies, *(body for _, body in derived)]
        self.is_positive = not any(
            isinstance(literal, Without | Read) for body in everything for literal in body.literals
        )
        parts = Parts(self.captured)
        for body in bodies:
            parts.add(body.literals, self._roots if self.is_positive else {})
        for _, body in derived:
            parts.add(body.literals, {})
        self.needs = [part.needs for part in parts.all()]
        return [Body(part.head, part.literals) for part in parts.all()]

    def scope(self, group: Relation) -> Scope:
        return replace(super().scope(group), out=self._out)


def _is_start(relation: str, body: Body) -> bool:
    """True for the demand that comes from outside of a rule: those who ask have its literals in their own bodies."""
    asks = any(isinstance(literal, Member) and literal.relation[:7] == "[demand" for literal in body.literals)
    return relation[:7] == "[demand" and not asks


class LineageShape(Shape):
    """The triggers of a lineage. With recursion, they take part in `Store.replay`. Without it, they are run on the
    state after a whole delta: `triggers` for each triple that was added, `firsts` only where no value of its class
    went (the value does not matter to the body), `reads` for what was added and for what was removed."""

    plan: LineagePlan

    def __init__(self, plan: LineagePlan) -> None:
        self._needs = dict(zip(plan.bodies, plan.needs, strict=True))
        self.firsts: Heard = {}
        self.reads: Heard = {}
        super().__init__(plan)
        self._finder: Finder | None = None

    def _compile(self) -> None:
        if self.components:
            super()._compile()
            return
        module = Module(self.plan.sizes(range(100 if self._grown else 1)), self._scope.constants)
        named: list[tuple[str, str, Heard]] = []
        self.triggers, self.firsts, self.reads = {}, {}, {}
        for body in self.plan.bodies:
            names = Counter(body.head)
            for literal in body.literals:
                names.update(_mentioned(literal))
            for at, literal in enumerate(body.literals):
                for predicate in sorted(set(predicates_of((literal,)))):
                    name = module.gain(body, at, Change(predicate), self._needs[body])
                    alone = isinstance(literal, Triple) and names[literal.value] == 1
                    kept = (
                        self.reads if isinstance(literal, Read) else self.firsts if alone else self.triggers
                    )
                    named.append((predicate, name, kept))
        functions = module.bind(self._scope)
        for predicate, name, kept in named:
            kept.setdefault(predicate, []).append(functions[name])
        self.predicates = frozenset((*self.triggers, *self.firsts, *self.reads))
        self.source = module.source

    def _written(self, module: Module, body: Body, change: Change) -> list[str]:
        return module.triggers(body, change, self._needs[body])

    @property
    def finder(self) -> Finder:
        """What finds the rows of its bodies, without the sink, for some constants."""
        if self._finder is None or not self._finder.fits:
            names = list(self.plan.constants)
            bodies = [(Body(body.head[:-1], body.literals[1:]), names) for body in self.plan.bodies]
            self._finder = Finder(self.plan, bodies)
        return self._finder

    def start(self, units: float) -> int:
        """Derives the relations of recursive rules; the rows that it touched. Raises `BudgetError`."""
        self.allow(units, None)
        before = self.touched
        for component in self.components:
            component.start()
        return self.touched - before

    def allow_for(self, full: int) -> None:
        """What a trigger may cost, where a query took that many rows to evaluate."""
        self.full = max(self.full, full)
        self.allow(SLACK + DEAR * self.full, None)
