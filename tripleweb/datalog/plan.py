"""What is bound when: rules made ready to run, and the order in which clauses run.

Clauses have no order of their own. A clause can run as soon as what it requires is bound; whether all of them ever
can does not depend on the data, so `Program` raises `QueryError` ("insufficient bindings") before any is read. It
also makes every `or` a rule without a name of its own, since that is what it is, finds which rules call each other
(`component`), and refuses negation through recursion. `arrange` then picks the order by what the source says of the
sizes: what is selective first, never a cross product while there is another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tripleweb.datalog.clauses import (
    Blank,
    Branch,
    Call,
    Clause,
    Constant,
    Not,
    Or,
    Pattern,
    RuleCall,
    Variable,
    bound,
    guess,
    variables,
)
from tripleweb.datalog.query import Query, variable_name
from tripleweb.errors import QueryError

LEVELS_MAX = 100


@dataclass(frozen=True, slots=True)
class Given:
    """Rows that an input brings; a clause like any other."""

    variables: tuple[str, ...]
    rows: list[tuple[object, ...]]


Step = Clause | Given
Stuck = tuple[Clause, list[str]]  # a clause and the variables that it lacks


class Program:
    """A query with its rules, checked and ready.

    `where` and `bodies` hold no `Or`. `needs[rule]` are the positions of its arguments that a caller must bind;
    rules that call each other have the same `component`, and `recursive` ones can call themselves.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.bodies: dict[str, tuple[Branch, ...]] = {}
        self.needs: dict[str, frozenset[int]] = {}
        self.component: dict[str, str] = {}
        self.recursive: set[str] = set()
        self._pending: list[str] = []
        self.where = self._without_or(query.where)
        while self._pending:
            name = self._pending.pop()
            if name not in self.bodies:
                self.bodies[name] = tuple(
                    replace(branch, clauses=self._without_or(branch.clauses)) for branch in query.rules[name]
                )
        self._connect()
        self._find_needs()
        final, stuck = self.closure(self.where, [name for given in query.inputs for name in bound(given)])
        if stuck:
            raise self.insufficient(*stuck[0], final)
        for name in (*map(variable_name, query.find), *query.with_):
            if name not in final:
                raise query.form.error(
                    f"insufficient bindings: {name} is only used, never bound", "a clause that binds it"
                )

    def _without_or(self, clauses: Sequence[Clause]) -> tuple[Clause, ...]:
        """The clauses with calls of nameless rules for each `or`; notes the rules that they call."""
        out: list[Clause] = []
        for clause in clauses:
            if isinstance(clause, Or):
                name = f"or {len(self.bodies)}"  # no rule can be called so: names have no blanks
                self.bodies[name] = ()
                branches = [self._without_or(branch) for branch in clause.branches]
                self.bodies[name] = tuple(
                    Branch(clause.variables, clause.required, branch, clause.form) for branch in branches
                )
                clause = RuleCall(name, tuple(map(Variable, clause.variables)), clause.form)
            elif isinstance(clause, Not):
                clause = replace(clause, clauses=self._without_or(clause.clauses))
            elif isinstance(clause, RuleCall):
                bodies = self.query.rules.get(clause.name)
                if bodies is None:
                    known = sorted(self.query.rules)
                    raise clause.form.error(
                        f"an unknown rule {clause.name}{guess(clause.name, known)}",
                        f"one of {', '.join(known)}"
                        if known
                        else "rules: % in :in, or rules kept on the store",
                    )
                if len(bodies[0].variables) != len(clause.arguments):
                    raise clause.form.error(
                        f"{clause.name} does not take {len(clause.arguments)} arguments",
                        str(bodies[0].form.value[0]),
                    )
                self._pending.append(clause.name)
            out.append(clause)
        return tuple(out)

    def _calls(self, clauses: Iterable[Clause], level: int = 1) -> list[tuple[RuleCall, int]]:
        """Calls with the number of `not` around them, plus one."""
        out: list[tuple[RuleCall, int]] = []
        for clause in clauses:
            if isinstance(clause, RuleCall):
                out.append((clause, level))
            elif isinstance(clause, Not):
                out += self._calls(clause.clauses, level + 1)
        return out

    def _connect(self) -> None:
        calls = {
            name: [c for body in bodies for c in self._calls(body.clauses)]
            for name, bodies in self.bodies.items()
        }
        reached = {name: _reachable(name, calls) for name in calls}
        for name in calls:
            self.component[name] = min([name, *(other for other in reached[name] if name in reached[other])])
        self.recursive = {name for name in calls if name in reached[name]}
        heights: dict[str, int] = {}
        # callees first: a component reaches strictly more rules than those below it
        for name in sorted(calls, key=lambda name: (len(reached[name] | {name}), name)):
            height = 1
            for call, level in calls[name]:
                if self.component[call.name] != self.component[name]:
                    height = max(height, level + heights[self.component[call.name]])
                elif level > 1:
                    raise call.form.error(
                        f"{call.name} is negated in a rule that it takes part in", "no such circle"
                    )
            component = self.component[name]
            heights[component] = max(height, heights.get(component, 1))
            if heights[component] > LEVELS_MAX:
                raise self.bodies[name][0].form.error(
                    f"rules that call each other more than {LEVELS_MAX} deep"
                )

    # -- what must be bound ------------------------------------------------------------------------------------

    def _find_needs(self) -> None:
        self.needs = {name: frozenset(range(bodies[0].required)) for name, bodies in self.bodies.items()}
        changed = True
        while changed:
            changed = False
            for name, bodies in self.bodies.items():
                for body in bodies:
                    needed = self._need(body, self.needs[name])
                    if needed != self.needs[name]:
                        self.needs[name] = needed
                        changed = True

    def _need(self, body: Branch, needed: frozenset[int]) -> frozenset[int]:
        """The arguments that must be bound so that everything in this body can run and binds the others."""
        while True:
            names = {body.variables[index] for index in needed}
            final, stuck = self.closure(body.clauses, names)
            wanted: list[str] = []
            for _, lacking in stuck:
                wanted = [name for name in lacking if name in body.variables]
                if wanted:
                    break
            if stuck and not wanted:
                raise self.insufficient(*stuck[0], final)
            wanted = wanted or [name for name in body.variables if name not in final]
            if not wanted:
                return needed
            needed |= {body.variables.index(name) for name in wanted}

    def closure(self, clauses: Sequence[Step], names: Iterable[str]) -> tuple[set[str], list[Stuck]]:
        """(all that gets bound, what can never run) where `names` are bound at first."""
        known = set(names)
        waiting: dict[str, list[Step]] = {}  # by the first variable that they lack
        ready: list[Step] = [clause for clause in clauses if not isinstance(clause, Not)]
        while ready:
            clause = ready.pop()
            lacking = self.lacks(clause, known)
            if lacking:
                waiting.setdefault(lacking[0], []).append(clause)
                continue
            for name in provides(clause):
                if name not in known:
                    known.add(name)
                    ready += waiting.pop(name, [])
        stuck = [(clause, self.lacks(clause, known)) for clause in clauses if not isinstance(clause, Given)]
        return known, [(clause, lacking) for clause, lacking in stuck if lacking]

    def lacks(self, clause: Step, known: set[str]) -> list[str]:
        """What must still be bound before the clause can run; [] if it can."""
        if isinstance(clause, Call):
            terms = (clause.function, *clause.arguments)
            return [t.name for t in terms if isinstance(t, Variable) and t.name not in known]
        if isinstance(clause, RuleCall):
            needed = [clause.arguments[index] for index in sorted(self.needs[clause.name])]
            out = [t.name for t in needed if isinstance(t, Variable) and t.name not in known]
            return out + ["_"] * any(isinstance(t, Blank) for t in needed)
        if isinstance(clause, Not):
            if clause.variables is not None:
                outside = [name for name in clause.variables if name not in known]
                joined = list(clause.variables)
            else:
                inside = variables(*clause.clauses)
                joined = [name for name in inside if name in known]
                outside = [] if joined else (inside or ["_"])
            if outside:
                return outside
            return [name for _, lacking in self.closure(clause.clauses, joined)[1] for name in lacking]
        return []

    def insufficient(self, clause: Clause, lacking: list[str], known: set[str]) -> QueryError:
        """The error for a clause that can never run; it points at the innermost one."""
        if isinstance(clause, Not):
            joined = [name for name in clause.variables or variables(*clause.clauses) if name in known]
            final, stuck = self.closure(clause.clauses, joined)
            if stuck and joined:
                return self.insufficient(*stuck[0], final)
        names = " ".join(dict.fromkeys(lacking))
        return clause.form.error(
            f"insufficient bindings: {names} is not bound", "a clause or an input that binds it"
        )


def provides(clause: Step) -> Iterable[str]:
    """The variables that are bound after a clause has run."""
    if isinstance(clause, Given):
        return clause.variables
    if isinstance(clause, Call):
        return () if clause.binding is None else bound(clause.binding)
    return () if isinstance(clause, Not) else variables(clause)


def _reachable(name: str, calls: dict[str, list[tuple[RuleCall, int]]]) -> set[str]:
    reached: set[str] = set()
    pending = [name]
    while pending:
        for call, _ in calls[pending.pop()]:
            if call.name not in reached:
                reached.add(call.name)
                pending.append(call.name)
    return reached


# -- order ----------------------------------------------------------------------------------------------------

CROSS = 1e6  # how much worse a clause is that shares nothing with what is known
UNKNOWN = 1e4  # what a call of a rule may give, where nobody knows


class Sizes:
    """Estimates from the source: `count(predicate)`, `holders(predicate, value)` and `predicates()`."""

    def __init__(
        self,
        count: Callable[[str], int],
        holders: Callable[[str, object], int],
        predicates: Callable[[], list[str]],
    ) -> None:
        self.count = count
        self.holders = holders
        self.predicates = predicates
        self.values: Mapping[
            str, object
        ] = {}  # of variables that have one each, in the clauses that come next

    def pattern(self, clause: Pattern, known: set[str]) -> float:
        """How many rows this pattern makes of one."""
        if not isinstance(clause.predicate, Constant):
            total = float(sum(map(self.count, self.predicates())))
            return (
                20.0
                if _is_known(clause.subject, known)
                else total / (3 if _is_known(clause.value, known) else 1)
            )
        name = clause.predicate.value
        if _is_known(clause.subject, known):
            return 0.5 if _is_known(clause.value, known) else 1.0
        count = self.count(name)
        if isinstance(clause.value, Constant):
            return float(self.holders(name, clause.value.value))
        if not _is_known(clause.value, known):
            return float(count)
        if isinstance(clause.value, Variable) and clause.value.name in self.values:
            return float(self.holders(name, self.values[clause.value.name]))
        return min(3.0, count)


def _is_known(term: object, known: set[str]) -> bool:
    return isinstance(term, Constant) or (isinstance(term, Variable) and term.name in known)


def arrange(
    program: Program, clauses: Sequence[Step], names: Iterable[str], rows: float, sizes: Sizes
) -> list[Step]:
    """The clauses in the order in which they run, where `names` are bound in about `rows` rows.

    Raises `QueryError` if one of them can never run.
    """
    known = set(names)
    final, stuck = program.closure(clauses, known)
    if stuck:
        raise program.insufficient(*stuck[0], final)
    used = [set(clause.variables if isinstance(clause, Given) else variables(clause)) for clause in clauses]
    costs: dict[int, tuple[float, float]] = {}
    stale = list(range(len(clauses)))  # whose cost is not known, or changed with what is bound
    out: list[Step] = []
    while len(out) < len(clauses):
        for index in stale:
            costs[index] = _cost(program, clauses[index], known, final, rows, sizes)
        index = min(costs, key=lambda index: (costs[index], index))
        _, fan = costs.pop(index)
        clause = clauses[index]
        new = {name for name in provides(clause) if name not in known}
        known |= new
        out.append(clause)
        crossing = rows <= 1 < rows * fan  # from now on, what shares nothing makes a cross product
        rows = max(1.0, rows * fan)
        stale = [index for index in costs if crossing or not new.isdisjoint(used[index])]
    return out


def expected(
    program: Program, ordered: Sequence[Step], names: Iterable[str], rows: float, sizes: Sizes
) -> list[float]:
    """About how many rows there are after each of some clauses that run in this order."""
    known = set(names)
    final, _ = program.closure(ordered, known)
    out = []
    for clause in ordered:
        rows = max(1.0, rows * _cost(program, clause, known, final, rows, sizes)[1])
        known.update(provides(clause))
        out.append(rows)
    return out


def _cost(
    program: Program, clause: Step, known: set[str], final: set[str], rows: float, sizes: Sizes
) -> tuple[float, float]:
    """(how late, rows made of one); infinity while the clause cannot run."""
    never = (float("inf"), 1.0)
    if isinstance(clause, Not):
        joined = variables(*clause.clauses) if clause.variables is None else clause.variables
        return (0.1, 1.0) if all(name in known for name in joined if name in final) else never
    if program.lacks(clause, known):
        return never
    if isinstance(clause, Call):
        if clause.binding is None:
            return 0.0, 0.5
        return (0.05, 1.0) if isinstance(clause.binding, Variable | Blank) else (2.0, 5.0)
    shared = [name for name in provides(clause) if name in known]
    if isinstance(clause, Given):
        fan = 0.5 if len(shared) == len(clause.variables) else len(clause.rows) / (10 if shared else 1)
    elif isinstance(clause, Pattern):
        fan = sizes.pattern(clause, known)
        shared += [""] * isinstance(clause.subject, Constant)
    else:
        assert isinstance(clause, RuleCall)  # a program has no other
        fan = _rule_fan(program, clause, known, sizes)
        shared += [""] * any(isinstance(term, Constant) for term in clause.arguments)
    crossed = not shared and rows > 1 and fan > 1
    return fan * CROSS if crossed else fan, fan


def _rule_fan(program: Program, call: RuleCall, known: set[str], sizes: Sizes) -> float:
    """The least pattern of each body, added up."""
    total = 0.0
    for body in program.bodies[call.name]:
        pairs = zip(body.variables, call.arguments, strict=True)
        inner = {name for name, term in pairs if _is_known(term, known)}
        patterns = [sizes.pattern(clause, inner) for clause in body.clauses if isinstance(clause, Pattern)]
        total += min(patterns, default=1.0 if inner else UNKNOWN)
    return total * (10 if call.name in program.recursive else 1)
