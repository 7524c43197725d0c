"""Rules that call themselves, as relations that are kept up to date by deleting and deriving again.

`Recursion` makes the relations that a query's bodies ask for. A relation holds the tuples of one rule, as far as they
are demanded: `reach 0` only those whose first argument stands in `[demand reach 0]`, which is a relation like any other
and is derived beside it. Relations that depend on each other are a `Component`; a component reads triples and the
relations of earlier ones.

A change goes through a component so: what may have lost a derivation is taken out, and what follows from it, and so
on; of that, what still has a derivation comes back; then what has a new one comes in, and what follows from it. Then
the others are told, tuple by tuple. Invariant: after each change the relations are the least ones that the rules and
the triples give; where a step raised, such as `BudgetError` of rules that go on for ever, they are not. (Gupta,
Mumick, Subrahmanian, "Maintaining views incrementally", SIGMOD 1993: DRed.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tripleweb.datalog.bodies import (
    Body,
    Literal,
    Member,
    Unsupported,
    Without,
    Writer,
    inputs_of,
    outputs_of,
    predicates_of,
    relations_of,
)
from tripleweb.datalog.captured import Relation, Row, Scope, spent, too_many
from tripleweb.datalog.clauses import Branch, Variable
from tripleweb.datalog.compiled import Change, Module
from tripleweb.datalog.joins import Sizes, greedy, steps

SMALL = (
    0.05  # of the largest predicate of a rule: fewer rows than that demand, more ask for the whole relation
)
Tell = Callable[[str, Row, int, bool], None]  # relation, tuple, sign; True: it is gone now


class Component:
    """Relations that depend on each other, and the bodies that derive them."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self.relations = relations
        self.bodies: list[tuple[str, Body]] = []
        self.found: list[tuple[str, Row, int]] = []  # where the functions put what they derive
        self.touched = 0
        self.is_read_singly = (
            False  # who is told of a tuple looks at no other one: all may be told at the end
        )
        self._scope: Scope  # set when it is compiled
        self._lost: dict[tuple[str, Row], None] = {}

    def makes(self) -> set[str]:
        return {name for name, _ in self.bodies}

    def reads(self) -> set[str]:
        return {name for _, body in self.bodies for name in relations_of(body.literals)}

    def compile(self, sizes: Sizes, scope: Scope) -> None:
        module = Module(sizes, scope.constants)
        own = self.makes()
        runs = [module.run(body, name) for name, body in self.bodies]
        holds: dict[str, list[str]] = {}
        triggers: dict[str, list[str]] = {}
        listens: dict[str, list[str]] = {}
        for name, body in self.bodies:
            holds.setdefault(name, []).append(module.holds(body.head, body.literals))
            for predicate in sorted(set(predicates_of(body.literals))):
                triggers.setdefault(predicate, []).extend(module.triggers(body, Change(predicate), name))
            for relation in sorted(set(relations_of(body.literals))):
                change = Change(relation=relation)
                listens.setdefault(relation, []).extend(module.triggers(body, change, name))
        bound = self._scope = replace(scope, out=self.found.append)
        functions = module.bind(bound)

        def of(names: Mapping[str, list[str]]) -> dict[str, list[Callable[..., Any]]]:
            return {key: [functions[name] for name in found] for key, found in names.items()}

        self._runs = [functions[name] for name in runs]
        self._holds = of(holds)
        self.triggers = of(triggers)
        self.listens = {name: found for name, found in of(listens).items() if name not in own}
        self._own = {name: found for name, found in of(listens).items() if name in own}
        self.module = module

    def start(self) -> None:
        """Derives everything from nothing."""
        self._lost.clear()
        self.found.clear()
        for name, _ in self.bodies:
            self.relations[name].clear()
        for run in self._runs:
            self.touched += run(1)
        self._derive()

    def before(self, triggers: Sequence[Callable[..., int]], arguments: tuple[Any, ...], sign: int) -> None:
        """Takes note of a change while what changes is there: what it derives, and what may be lost with it."""
        for trigger in triggers:
            self.touched += trigger(*arguments, sign)
        gains = [entry for entry in self.found if entry[2] > 0]
        queue = [entry for entry in self.found if entry[2] < 0]
        self.found.clear()
        end = self.touched + self._scope.limit[0]
        while queue:
            name, row, _ = queue.pop()
            if row in self.relations[name] and (name, row) not in self._lost:
                self._lost[name, row] = None
                self.touched += 1
                for trigger in self._own.get(name, ()):
                    self.touched += trigger(row, -1)
                if self.touched > end:
                    spent(self._scope.limit, self.touched)
                queue += self.found
                self.found.clear()
        self.found += gains

    def after(self, tell: Tell) -> None:
        """Brings the relations up to date with the noted change, which has happened; tells what came and went."""
        if not self._lost and not self.found:
            return
        lost = list(self._lost)
        self._lost.clear()
        for name, row in lost:
            self.relations[name].remove(row)
        again = [(name, row, 1) for name, row in lost if any(holds(*row) for holds in self._holds[name])]
        self.touched += len(lost)
        self.found += again
        before = set(lost)
        new = [entry for entry in self._derive() if entry not in before]
        gone = [(name, row) for name, row in lost if row not in self.relations[name]]
        if self.is_read_singly:
            for name, row in gone:
                tell(name, row, -1, False)
            for name, row in new:
                tell(name, row, 1, False)
            return
        # the others see one change at a time, each while the tuple is there
        for name, row in new:
            self.relations[name].remove(row)
        for name, row in gone:
            self.relations[name].add(row)
        for name, row in gone:
            tell(name, row, -1, False)
            self.relations[name].remove(row)
            tell(name, row, -1, True)
        for name, row in new:
            self.relations[name].add(row)
            tell(name, row, 1, False)

    def _derive(self) -> list[tuple[str, Row]]:
        """Puts in what was found, and what follows; returns what came."""
        came: list[tuple[str, Row]] = []
        queue = list(self.found)
        self.found.clear()
        limit, most = self._scope.limit, self._scope.most
        end = self.touched + limit[0]
        while queue:
            name, row, _ = queue.pop()
            relation = self.relations[name]
            if not relation.add(row):
                continue
            came.append((name, row))
            self.touched += 1
            for trigger in self._own.get(name, ()):
                self.touched += trigger(row, 1)
            if self.touched > end:
                spent(limit, self.touched)
            if relation.weight > most[0]:
                too_many(most)
            queue += self.found
            self.found.clear()
        return came


class Recursion:
    """The relations that bodies ask for; `adorned` makes the bodies ask for them by their names here."""

    def __init__(self, writer: Writer, sizes: Sizes) -> None:
        self.writer = writer
        self.sizes = sizes
        self.relations: dict[str, Relation] = {}
        self._made: dict[str, Component] = {}  # by component of the program, or by name

    @property
    def components(self) -> list[Component]:
        """What derives the relations, in no order."""
        return list(self._made.values())

    def bodies(self) -> list[tuple[str, Body]]:
        """What derives the relations, those of demands among them."""
        return [pair for component in self._made.values() for pair in component.bodies]

    def compile(self, scope: Scope, asked: Iterable[Body]) -> list[Component]:
        """The components that these bodies ask, ready to run, those first that others read."""
        left = list(self._made.values())
        out: list[Component] = []
        while left:
            made = {name for component in left for name, _ in component.bodies}
            ready = next(
                component for component in left if not (component.reads() & made) - component.makes()
            )
            left.remove(ready)
            ready.compile(self.sizes, scope)
            out.append(ready)
        if len(out) == 1:
            out[0].is_read_singly = all(self._reads_singly(body.literals) for body in asked)
        return out

    def adorned(self, bodies: Sequence[Body], known: Iterable[str]) -> list[Body]:
        """The bodies, with members of relations that exist here. Raises `Unsupported`."""
        known = set(known)
        out = []
        for body in bodies:
            literals = tuple(self._adorned(body.literals, body.literals, known, None, ()))
            out.append(Body(body.head, literals))
        return out

    def _adorned(
        self,
        literals: Sequence[Literal],
        around: Sequence[Literal],
        known: set[str],
        component: Component | None,
        places: Sequence[int],
    ) -> Iterator[Literal]:
        recursive = self.writer.program.recursive
        for literal in literals:
            if isinstance(literal, Without):
                inner = self._adorned(literal.literals, around, known, component, places)
                yield Without(literal.joined, tuple(inner), literal.origin)
            elif isinstance(literal, Member) and literal.relation in recursive:
                yield from self._called(literal, around, known, component, places)
            else:
                yield literal

    def _called(
        self,
        call: Member,
        around: Sequence[Literal],
        known: set[str],
        component: Component | None,
        places: Sequence[int],
    ) -> tuple[Literal, ...]:
        """What stands for a call: its relation, which is demanded by the literals around it."""
        program = self.writer.program
        rule = call.relation
        inside = component is not None and self._made.get(program.component[rule]) is component
        plain = [other for other in around if not self._is_recursive(other)]
        needs = program.needs[rule]
        constant = [
            place for place, term in enumerate(call.terms) if term in self.writer.constants or term in known
        ]
        if inside:
            wanted = sorted({*needs, *(place for place in places if place < len(call.terms))})
            others = [other for other in around if other is not call]
            for choice in (plain, others):
                run = self._demand(call, wanted, choice, known)
                if run is not None:
                    adorned = tuple(self._adorned(run, run, known, component, places))
                    return (self._ask(call, wanted, adorned),)
            wanted = sorted(needs)
        else:
            wanted = sorted({*needs, *constant[:1]})
            if not wanted and component is None:
                wanted = self._small(call, plain, known)
            elif component is None and all(place in constant for place in wanted):
                linear = self._linear(call, wanted)
                if linear is not None:
                    return linear
        if component is not None and not inside and any(place not in constant for place in wanted):
            raise Unsupported("a rule that must be told where to begin by another rule")
        run = self._demand(call, wanted, plain, known)
        if run is None:
            raise Unsupported("a rule that must be told where to begin by a rule")
        return (self._ask(call, wanted, run),)

    def _reads_singly(self, literals: Sequence[Literal]) -> bool:
        """True if a derivation has one tuple of a derived relation at most, and no negation looks for one."""
        readers = [one for one in literals if not self.relations.keys().isdisjoint(relations_of((one,)))]
        return len(readers) <= 1 and not any(isinstance(one, Without) for one in readers)

    def _linear(self, call: Member, places: Sequence[int]) -> tuple[Literal, ...] | None:
        """For a rule whose calls of itself only pass on what is asked for, where it is demanded once: what holds from
        anywhere that is demanded is an answer. So the demand is all that has to be kept, and what stands for the call
        is its body that does not call itself; where there are several, a relation of just the answers. None for other
        rules."""
        rule, program = call.relation, self.writer.program
        free = [place for place in range(len(call.terms)) if place not in places]
        alone = all(
            other == rule or component != program.component[rule]
            for other, component in program.component.items()
        )
        if not free or not alone:
            return None
        name = " ".join([rule, *(f"{place}:{call.terms[place]}" for place in places)])
        demand = f"[demand {name}]"
        bodies = [(demand, Body(tuple(call.terms[place] for place in places), ()))]
        plain: list[tuple[Branch, int]] = []  # the bodies that do not call the rule: which of a branch's
        for branch in program.bodies[rule]:
            renamed = {variable: self.writer.fresh(variable) for variable in branch.variables}
            head = [renamed[variable].name for variable in branch.variables]
            asked = Member(demand, tuple(head[place] for place in places))
            for number, literals in enumerate(self.writer.branch(branch, renamed)):
                again = [one for one in literals if isinstance(one, Member) and one.relation == rule]
                rest = tuple(one for one in literals if one not in again)
                if len(again) > 1 or any(map(self._is_recursive, rest)):
                    return None
                if not again:
                    plain.append((branch, number))
                    bodies.append((name, Body(tuple(head[place] for place in free), (asked, *rest))))
                    continue
                used = {other for one in rest for other in (*inputs_of(one), *outputs_of(one))}
                used.update(again[0].terms[place] for place in places)
                if any(again[0].terms[place] != head[place] or head[place] in used for place in free):
                    return None
                bodies.append(
                    (demand, Body(tuple(again[0].terms[place] for place in places), (asked, *rest)))
                )
        if len(plain) == 1:
            bodies = [body for body in bodies if body[0] == demand]
        if demand not in self.relations:
            self.relations.update((relation, Relation()) for relation, _ in bodies)
            component = self._made[name] = Component(self.relations)
            component.bodies += bodies
        if len(plain) != 1:
            return (Member(name, tuple(call.terms[place] for place in free)),)
        (branch, number) = plain[0]
        named = {
            variable: self.writer.fresh(variable) if place in places else Variable(call.terms[place])
            for place, variable in enumerate(branch.variables)
        }
        asked = Member(demand, tuple(named[branch.variables[place]].name for place in places))
        return (asked, *self.writer.branch(branch, named)[number])

    def _is_recursive(self, literal: Literal) -> bool:
        names = relations_of((literal,))
        return any(not name.startswith("[") for name in names)

    def _demand(
        self, call: Member, places: Sequence[int], around: Sequence[Literal], known: set[str]
    ) -> tuple[Literal, ...] | None:
        """The literals of `around` that give values to the terms at these places; None if they do not."""
        bound = {*known, *self.writer.constants}
        wanted = {call.terms[place] for place in places} - bound
        used: list[Literal] = []
        left = [literal for literal in around if literal is not call and not isinstance(literal, Without)]
        if not wanted:
            # what is demanded is known; still only if the demand of the caller stands
            return tuple(
                literal
                for literal in left
                if isinstance(literal, Member) and literal.relation.startswith("[demand")
            )
        moved = True
        while moved:
            moved = False
            for literal in list(left):
                if all(name in bound for name in inputs_of(literal)):
                    left.remove(literal)
                    used.append(literal)
                    bound.update(outputs_of(literal))
                    moved = True
        if not wanted <= bound:
            return None
        return tuple(_connected(used, wanted))

    def _small(self, call: Member, plain: Sequence[Literal], known: set[str]) -> list[int]:
        """The first place whose values are few, as far as one can know: there it pays to demand."""
        program = self.writer.program
        largest = max(map(self.sizes.count, program.query.predicates or ()), default=0)
        bound = {*known, *self.writer.constants}
        for place, _ in enumerate(call.terms):
            literals = self._demand(call, [place], plain, known)
            if literals:
                ordered = greedy(list(enumerate(literals)), bound, self.sizes)
                if steps(ordered, bound, self.sizes)[-1] <= largest * SMALL:
                    return [place]
        return []

    def _ask(self, call: Member, places: Sequence[int], demand: tuple[Literal, ...]) -> Member:
        """Makes the relation if need be, and demands of it what these literals give."""
        name = " ".join([call.relation, *map(str, places)])
        program = self.writer.program
        component = self._made.get(program.component[call.relation])
        if component is None:
            component = self._made[program.component[call.relation]] = Component(self.relations)
            self._define(component, call.relation, name, places)
        elif name not in self.relations:
            self._define(component, call.relation, name, places)
        if places:
            head = tuple(call.terms[place] for place in places)
            body = (f"[demand {name}]", Body(head, demand))
            if body not in component.bodies:
                component.bodies.append(body)
        return Member(name, call.terms)

    def _define(self, component: Component, rule: str, name: str, places: Sequence[int]) -> None:
        """The bodies of a relation: those of its rule, where the demanded places are demanded."""
        self.relations[name] = Relation()
        if places:
            self.relations[f"[demand {name}]"] = Relation()
        for branch in self.writer.program.bodies[rule]:
            renamed = {variable: self.writer.fresh(variable) for variable in branch.variables}
            head = [renamed[variable].name for variable in branch.variables]
            more = [Member(f"[demand {name}]", tuple(head[place] for place in places))] if places else []
            for literals in self.writer.branch(branch, renamed):
                around = [*more, *literals]
                adorned = tuple(self._adorned(around, around, set(), component, places))
                component.bodies.append((name, Body(tuple(head), adorned)))


def _connected(literals: Sequence[Literal], wanted: set[str]) -> list[Literal]:
    """The literals that have to do with the wanted variables, through others or by themselves."""
    names = set(wanted)
    used: list[Literal] = []
    moved = True
    while moved:
        moved = False
        for literal in literals:
            mine = {*inputs_of(literal), *outputs_of(literal)}
            if literal not in used and mine & names:
                used.append(literal)
                names |= mine
                moved = True
    return [literal for literal in literals if literal in used]
