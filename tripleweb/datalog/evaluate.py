"""The plain evaluator: a query and a source to rows, in slices of bounded work.

It is small enough to be read in an evening, and stays as the oracle of every faster engine. A *relation* is a tuple
of variable names and a list of distinct tuples. Clauses run one after the other (`plan.arrange`), each a *stage*
that turns rows into rows; what no later clause needs is projected away at once. Rules are tables of what was asked
and answered (`Table`): a call asks for the values of its bound arguments, so that only what can matter is derived;
every (row that waits, answer) is joined once, which is semi-naive evaluation without rounds.

Invariants: between two yields of `steps` lie at most `SLICE` units of work, a unit being a row touched or derived;
all work is counted; the source is read but never changed, and must not change meanwhile. Callables given as inputs
see Python's own values, must be pure, and what they raise propagates.

What differs from DataScript, on purpose (theirs | ours):

- order of clauses: as written, what is unbound so far is an error or local to a `not` | free, and `not` joins on all
  that the query binds around it
- subjects and references: integers | their ids' text, equal to any text value
- attributes: keywords or strings | a predicate's text, `:user/name` and `"user/name"` are one
- keywords and nil as values: yes | `QueryError`, since nothing stored is one
- comparisons across kinds, or of collections: an exception, or JavaScript's idea | false
- a variable of a join or of a rule's head that no clause uses: ignored, or nil | `QueryError`; where one branch or
  body leaves it to the others, it must be bound outside, as theirs
- required variables of a rule: nil, or not joined on, where they are not bound | bound, or a `QueryError`
- `or` without any variable: an error | a test like any other
- a variable twice in a pattern, binding or call: the last one stands, or an error | the same value in both places
- `true` and 1, 1 and 1.0: as the host has it | `true` is no number; 1 and 1.0 are equal, either may stand for both
- `+` and other functions of what does not fit, division by zero, results beyond 64 bit: exceptions, NaN, Infinity,
  `"1a"` | no value, and the row drops out
- taking apart what is no collection or has too few values: an exception | no row; for inputs and what callables
  give: `QueryError`
- a range: of any numbers, equal to a list of them | of integers, equal to ranges only until it is taken apart
- callables: get the source for `$` | values only; `complement`, `identical?`, `meta`, `-differ?`: there | not there;
  `lower-case`, `upper-case` and `trim` of `clojure.string`: not there | there
- texts, and collections that calls make of collections: of any size | bounded, else `BudgetError`
- numeric aggregates: of anything | of the numbers, `skipped` counts the rest; of no number: no row
- `min`, `max` and `compare` of mixed kinds: an exception | by the total order boolean < number < date < text;
  `compare` of vectors: the shorter is less | item by item
- sums of floats: by the order of adding | exact, rounded once; sums beyond 64 bit are floats
- `rand` and `sample`: random | chosen by a hash of the values, the same everywhere; not there as functions
- `[?x ?y]`, `?x .` with several answers: any | the first by :order-by, else by the total order; so with :limit
- `distinct`: a set | a tuple in order; `:keys`, `:strs`, `:syms`: maps | names of columns
- `str` of 1.0, of dates, of sets: `"1"` in JavaScript | as EDN, as they are stored, as vectors in order
- `name` and `namespace`: of keywords | of a predicate's text; `type`: a class | a word, such as `"number"`
- recursion through `or`: no end | works; negation through recursion: no meaning | `QueryError`
- a pulled reference: `{:db/id 7}` | its id's text, with a pattern of its own a dict; `:db/id` is called `"id"`
- what is pulled as a list: an attribute of many values | several values, all that `:kinds` says are sets, and
  reverse attributes; `:limit` goes with every attribute, 1,000 with reverse ones too
- a pattern below what is no reference: an exception | texts are followed, other values left out
- an attribute pulled twice, an empty pattern: not there the second time, nil | there, `QueryError`
- `:xform` and components: there | not there; depth of a pull: all there is | 200 entities, then `BudgetError`
- `(get ?e :a :b)` in :find and :order-by: not there | the value at the end of the path, missing ones included
- several sources, look-up references, transactions, maps, nested calls: partly | `QueryError`
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from typing import Any

from tripleweb.datalog.answer import Result, answer
from tripleweb.datalog.builtins import FUNCTIONS, SLICE, chunks, complete, effort, inward, outward, truthy
from tripleweb.datalog.clauses import (
    Binding,
    Blank,
    Call,
    Constant,
    Not,
    Pattern,
    RuleCall,
    Rules,
    Variable,
    bound,
    variables,
)
from tripleweb.datalog.inputs import asked, bind, prepare
from tripleweb.datalog.patterns import pattern_stage
from tripleweb.datalog.plan import Given, Program, Sizes, Step, arrange
from tripleweb.datalog.pull import Puller
from tripleweb.datalog.query import Query, variable_name
from tripleweb.datalog.relation import (
    CELL_BYTES,
    Reader,
    Row,
    Rows,
    Stage,
    Work,
    distinct,
    known,
    picker,
    terms_of,
)
from tripleweb.errors import BudgetError
from tripleweb.view import Fitting, Source


@dataclass(frozen=True, slots=True)
class Budget:
    """What a query may cost: units of work, and bytes of rows derived. None: as much as it likes."""

    rows: int | None = None
    bytes: int | None = None


def run(
    query: Query | str,
    inputs: Sequence[Any],
    source: Source,
    *,
    rules: str | Rules | None = None,
    budget: Budget | None = None,
) -> Result:
    """Evaluates a query at once; `steps` says the rest.

    >>> from tripleweb.change import Change
    >>> from tripleweb.store import Store
    >>> store = Store()
    >>> delta = store.apply([Change("ada", "user/age", "", 36, 1, "r"), Change("bob", "user/age", "", 17, 1, "r")])
    >>> run("[:find ?u ?age :in ?least :where [?u :user/age ?age] [(>= ?age ?least)]]", [18], store).rows
    [('ada', 36)]
    """
    return complete(steps(query, inputs, source, rules=rules, budget=budget))


def steps(
    query: Query | str,
    inputs: Sequence[Any],
    source: Source,
    *,
    rules: str | Rules | None = None,
    budget: Budget | None = None,
) -> Generator[int, None, Result]:
    """Evaluates a query in slices: yields the work done since the last yield, at most `SLICE`, returns a `Result`.

    `inputs` are one value for each binding of :in but `$` (`%` takes the text of rules); they may be Python
    callables. `rules` are kept ones, which `%` replaces by name; where they are given, `%` need not be. Closing
    the generator ends the evaluation. Raises `QueryError`, `BudgetError` and what callables raise.
    """
    return (yield from evaluate(Evaluation(*prepare(query, inputs, rules), source), budget))


def evaluate(evaluation: Evaluation, budget: Budget | None = None) -> Generator[int, None, Result]:
    """`steps` of a query that is prepared."""
    budget = budget or Budget()
    inner = evaluation.result()
    done, since = 0, 0
    try:
        while True:
            try:
                units = next(inner)
            except StopIteration as end:
                result: Result = end.value
                result.work = done
                return result
            done += units
            since += units
            if budget.rows is not None and done > budget.rows:
                raise BudgetError(f"the query needs more than its {budget.rows:,} units of work")
            if budget.bytes is not None and evaluation.reader.bytes > budget.bytes:
                raise BudgetError(f"the query derives more than its {budget.bytes:,} bytes of rows")
            while since >= SLICE // 2:
                yield min(since, SLICE)
                since -= min(since, SLICE)
    finally:
        inner.close()


class Table:
    """A rule, asked with some of its arguments bound: what was asked, and every answer.

    `positions` are the bound arguments; a key holds their values, an answer the values of all arguments.
    """

    def __init__(self, name: str, positions: tuple[int, ...]) -> None:
        self.name = name
        self.positions = positions
        self.key = picker(positions)
        self.asked: set[Row] = set()
        self.known: set[Row] = set()
        self.answers: dict[Row, Rows] = {}  # by key; those that the sites were told of
        self.fresh: Rows = []  # known, not yet told
        self.sites: list[Site] = []
        self.bodies: list[TableBody] | None = None  # made when it is first asked


class TableBody:
    """One body of a table's rule: its stages, and the answer that a row at their end is."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.stages: list[Stage | Site] = []
        self.head: Callable[[Row], Row] = picker(())


class _Join:
    """How the answers of a call extend rows: `key(row)` is what is asked, `merge` joins."""

    def __init__(self, call: RuleCall, columns: Sequence[str], table: Table) -> None:
        self.table = table
        self.key = terms_of(columns, [call.arguments[position] for position in table.positions])
        new: dict[str, int] = {}
        # what an answer must agree with: a constant, a cell of the row, another of its own cells
        self.constants: list[tuple[int, Any]] = []
        self.with_row: list[tuple[int, int]] = []
        self.with_self: list[tuple[int, int]] = []
        for position, term in enumerate(call.arguments):
            if position in table.positions or isinstance(term, Blank):
                continue
            if isinstance(term, Constant):
                self.constants.append((position, term.value))
            elif term.name in columns:
                self.with_row.append((position, columns.index(term.name)))
            elif term.name in new:
                self.with_self.append((position, new[term.name]))
            else:
                new[term.name] = position
        self.columns = (*columns, *new)
        self.pick = picker(list(new.values()))

    def merge(self, pairs: Iterable[tuple[Row, Row]]) -> Iterator[Row | None]:
        """A row for each pair of row and answer that agree, None for the others, which count as work too."""
        pick = self.pick
        if not (self.constants or self.with_row or self.with_self):
            return (row + pick(answer) for row, answer in pairs)
        return (row + pick(answer) if self.agree(row, answer) else None for row, answer in pairs)

    def agree(self, row: Row, answer: Row) -> bool:
        return (
            all(answer[at] == value for at, value in self.constants)
            and all(answer[at] == row[index] for at, index in self.with_row)
            and all(answer[at] == answer[other] for at, other in self.with_self)
        )


class Site:
    """A call of a rule within its own component: rows wait here for answers that are still to come."""

    def __init__(self, join: _Join, body: TableBody) -> None:
        self.join = join
        self.body = body
        self.next = len(body.stages) + 1  # the stage after this one
        self.waiting: dict[Row, Rows] = {}
        self.seen: set[Row] = set()


class Evaluation:
    """One evaluation of a program over a source: its caches, its tables and the bytes it has derived."""

    def __init__(self, program: Program, inputs: Sequence[tuple[Binding, Any]], source: Source) -> None:
        self.program = program
        self.inputs = inputs
        kinds = program.query.kinds
        self.source = source = Fitting(source, kinds) if kinds else source
        self.reader = Reader(source)
        self.sizes = Sizes(source.count, lambda p, v: len(self.reader.fetch(p, False, v)), source.predicates)
        self._tables: dict[tuple[str, tuple[int, ...]], Table] = {}
        self._agendas: dict[str, deque[tuple[Any, ...]]] = {}
        self._owed = 0  # units of work of calls that are not counted yet

    def givens(self) -> Work:
        """(the single inputs by their variables, the others as clauses)."""
        scalars: dict[str, Any] = {}
        clauses: list[Given] = []
        form = self.program.query.form
        for binding, value in self.inputs:
            rows: dict[Row, None] = {}
            for part in chunks(bind(binding, value, form)):
                rows.update(dict.fromkeys(part))
                yield len(part)
            if not isinstance(binding, Variable):
                clauses.append(Given(tuple(bound(binding)), list(rows)))
            elif rows:
                scalars[binding.name] = next(iter(rows))[0]
            else:
                raise form.error(f"the input {binding.name} has no value", "a value that is not missing")
        return scalars, clauses

    def result(self) -> Work:
        """The `Result`, without its work."""
        query = self.program.query
        scalars, clauses = yield from self.givens()
        output = [*map(variable_name, query.find), *query.with_]
        stages, columns = self.stages([*clauses, *self.program.where], tuple(scalars), output, 1.0, None)
        found = yield from self.run_stages(stages, [tuple(scalars.values())])
        pick = picker([columns.index(name) for name in output])
        found = yield from self.reader.make(found, partial(map, pick))
        puller = Puller(self.source, query.fields, self.reader.weigh) if query.looks_up else None
        return (yield from answer(query, scalars, found, puller))

    # -- stages ------------------------------------------------------------------------------------------------

    def stages(
        self,
        clauses: Sequence[Step],
        columns: Sequence[str],
        output: Iterable[str],
        rows: float,
        body: TableBody | None,
    ) -> tuple[list[Stage | Site], tuple[str, ...]]:
        """The stages for clauses, and the columns at their end: those of `output`, of distinct rows.

        In the body of a rule, calls of its own component become sites.
        """
        ordered = arrange(self.program, clauses, columns, rows, self.sizes)
        needed = set(output)
        later: list[set[str]] = []
        for clause in reversed(ordered):
            later.append(set(needed))
            needed.update(clause.variables if isinstance(clause, Given) else variables(clause))
        stages: list[Stage | Site] = [] if body is None else body.stages
        columns = tuple(columns)
        for clause, kept in zip(ordered, reversed(later), strict=True):
            stage, columns = self._stage(clause, columns, body)
            stages.append(stage)
            keep = tuple(column for column in columns if column in kept)
            if keep != columns or not _is_distinct(clause):
                stages.append(self._projection(columns, keep))
                columns = keep
        return stages, columns

    def _projection(self, columns: Sequence[str], keep: Sequence[str]) -> Stage:
        pick = picker([columns.index(column) for column in keep])
        return lambda rows: distinct(rows, pick)

    def _stage(
        self, clause: Step, columns: tuple[str, ...], body: TableBody | None
    ) -> tuple[Stage | Site, tuple[str, ...]]:
        if isinstance(clause, Pattern):
            return pattern_stage(self.reader, clause, columns)
        if isinstance(clause, Call):
            return self._call(clause, columns)
        if isinstance(clause, Given):
            return self._given(clause, columns)
        if isinstance(clause, Not):
            return self._negation(clause, columns), columns
        assert isinstance(clause, RuleCall)  # a program has no other
        join = _Join(clause, columns, self._table(clause, columns))
        component = self.program.component
        if body is not None and component[body.table.name] == component[clause.name]:
            site = Site(join, body)
            join.table.sites.append(site)
            return site, join.columns
        return partial(self._ask, join), join.columns

    def run_stages(self, stages: Sequence[Stage | Site], rows: Rows, start: int = 0) -> Work:
        """Rows through stages; none come out where they wait at a site: from there the agenda goes on with them."""
        for stage in islice(stages, start, None):
            if not rows:
                break
            if isinstance(stage, Site):
                yield from self._wait(stage, rows)
                return []
            rows = yield from stage(rows)
        return rows

    def _given(self, clause: Given, columns: tuple[str, ...]) -> tuple[Stage, tuple[str, ...]]:
        shared = [name for name in clause.variables if name in columns]
        new = [name for name in clause.variables if name not in columns]
        key, pick = (picker([clause.variables.index(name) for name in names]) for names in (shared, new))
        mine = picker([columns.index(name) for name in shared])

        def stage(rows: Rows) -> Work:
            index: dict[Row, Rows] = {}
            for part in chunks(clause.rows):
                for row in part:
                    index.setdefault(key(row), []).append(pick(row))
                yield len(part)
            return (
                yield from self.reader.make(
                    rows, lambda part: (row + more for row in part for more in index.get(mine(row), ()))
                )
            )

        return stage, (*columns, *new)

    # -- calls and negation ------------------------------------------------------------------------------------

    def _call(self, clause: Call, columns: tuple[str, ...]) -> tuple[Stage, tuple[str, ...]]:
        call = self._caller(clause, columns)
        binding = clause.binding
        if binding is None:

            def test(part: Rows) -> Iterator[Row | None]:
                for row in part:
                    yield row if truthy(call(row)) else None
                    if self._owed:
                        yield from self._pay()

            return (lambda rows: self.reader.make(rows, test)), columns
        names = list(bound(binding))
        wide = [*columns, *names]
        new = [name for name in dict.fromkeys(names) if name not in columns]
        alike = [(i, wide.index(name)) for i, name in enumerate(wide) if wide.index(name) != i]
        pick = picker([*range(len(columns)), *map(wide.index, new)])
        form = clause.form if isinstance(clause.function, Variable) else None

        def produce(part: Rows) -> Iterator[Row | None]:
            for row in part:
                value = call(row)
                if self._owed:
                    yield from self._pay()
                if value is not None:
                    for more in bind(binding, value, form):
                        made = row + more
                        yield pick(made) if all(made[a] == made[b] for a, b in alike) else None

        return (lambda rows: self.reader.make(rows, produce)), (*columns, *new)

    def _caller(self, clause: Call, columns: Sequence[str]) -> Callable[[Row], Any]:
        """A function from a row to what the call gives: the engine's own values, except from callables."""
        arguments = terms_of(columns, clause.arguments)
        if isinstance(clause.function, Variable):
            at = columns.index(clause.function.name)

            def call(row: Row) -> Any:
                if not callable(row[at]):
                    raise clause.form.error(
                        f"{outward(row[at])!r:.80} is no function", "a Python callable as the input"
                    )
                given = asked(row[at], *map(outward, arguments(row)))
                return bool(given) if clause.binding is None else given

            return call
        builtin = FUNCTIONS[clause.function]
        function = partial(builtin.function, self.source) if builtin.reads else builtin.function
        name = clause.function

        def built_in(row: Row) -> Any:
            given = arguments(row)
            try:
                value = function(*given)
            except BudgetError as error:
                place = clause.form.error(error.message)
                raise BudgetError(
                    error.message, line=place.line, column=place.column, form=place.form
                ) from None
            self._owed += effort(name, given, value)
            if type(value) is str:
                self.reader.bytes += len(value)
            elif type(value) is tuple:
                self.reader.bytes += CELL_BYTES * len(value)
            return inward(value) if type(value) is bool else value

        return built_in

    def _pay(self) -> Iterator[None]:
        """Rows that are none, for the work of calls: each is counted as one unit."""
        owed, self._owed = self._owed, 0
        return repeat(None, owed)

    def _negation(self, clause: Not, columns: tuple[str, ...]) -> Stage:
        inside = variables(*clause.clauses) if clause.variables is None else clause.variables
        joined = [name for name in inside if name in columns]
        stages, last = self.stages(clause.clauses, joined, joined, 10.0, None)
        ask, pick = (picker([columns.index(name) for name in names]) for names in (joined, last))

        def stage(rows: Rows) -> Work:
            asked = yield from distinct(rows, ask)
            found: set[Row] = set()
            for part in chunks((yield from self.run_stages(stages, asked))):
                found.update(part)
                yield len(part)
            return (
                yield from self.reader.make(
                    rows, lambda part: (None if pick(row) in found else row for row in part)
                )
            )

        return stage

    # -- rules -------------------------------------------------------------------------------------------------

    def _table(self, call: RuleCall, columns: Sequence[str]) -> Table:
        """The table that a call asks, with all that is bound of a plain rule. A recursive one is asked with just
        enough to say where to begin: what it asks itself would multiply."""
        given = [position for position, term in enumerate(call.arguments) if known(term, columns)]
        if call.name in self.program.recursive:
            constants = [position for position in given if isinstance(call.arguments[position], Constant)]
            given = sorted({*self.program.needs[call.name], *(constants or given)[:1]})
        key = (call.name, tuple(given))
        if key not in self._tables:
            self._tables[key] = Table(*key)
        return self._tables[key]

    def _bodies(self, table: Table) -> list[TableBody]:
        if table.bodies is None:
            table.bodies = []
            for branch in self.program.bodies[table.name]:
                body = TableBody(table)
                columns = [branch.variables[position] for position in table.positions]
                _, last = self.stages(branch.clauses, columns, branch.variables, 10.0, body)
                body.head = picker([last.index(name) for name in branch.variables])
                table.bodies.append(body)
        return table.bodies

    def _agenda(self, table: Table) -> deque[tuple[Any, ...]]:
        return self._agendas.setdefault(self.program.component[table.name], deque())

    def _ask(self, join: _Join, rows: Rows) -> Work:
        """Rows joined with all answers of a rule of another component."""
        keys = yield from distinct(rows, join.key)
        yield from self._want(join.table, keys)
        agenda = self._agenda(join.table)
        while agenda:
            task, *arguments = agenda.popleft()
            yield from task(*arguments)
        pairs = partial(_answered, join.table.answers, join.key)
        return (yield from self.reader.make(rows, lambda part: join.merge(pairs(part))))

    def _want(self, table: Table, keys: Iterable[Row]) -> Work:
        """Asks a table for keys, once each."""
        for part in chunks(keys):
            fresh = [key for key in part if key not in table.asked]
            table.asked.update(fresh)
            if fresh:
                self._agenda(table).append((self._begin, table, fresh))
            yield len(part)

    def _begin(self, table: Table, keys: Rows) -> Work:
        for body in self._bodies(table):
            yield from self._go_on(body, 0, keys)

    def _go_on(self, body: TableBody, start: int, rows: Rows) -> Work:
        """Rows through the rest of a body; what comes out are answers."""
        table = body.table
        rows = yield from self.run_stages(body.stages, rows, start)
        for part in chunks(rows):
            fresh = [answer for answer in map(body.head, part) if answer not in table.known]
            if fresh and not table.fresh:
                self._agenda(table).append((self._tell, table))
            table.known.update(fresh)
            table.fresh += fresh
            yield len(part)

    def _wait(self, site: Site, rows: Rows) -> Work:
        """Rows come to a site: they ask, meet the answers that are told already, and wait for the others."""
        key, answers = site.join.key, site.join.table.answers
        new: Rows = []
        for part in chunks(rows):
            unseen = [row for row in part if row not in site.seen]
            site.seen.update(unseen)
            for row in unseen:
                site.waiting.setdefault(key(row), []).append(row)
            yield from self._want(site.join.table, dict.fromkeys(map(key, unseen)))
            new += unseen
        yield from self._meet(site, new, partial(_answered, answers, key))

    def _tell(self, table: Table) -> Work:
        """The new answers of a table, to everybody who waits for them."""
        fresh, table.fresh = table.fresh, []
        for part in chunks(fresh):
            for found in part:
                table.answers.setdefault(table.key(found), []).append(found)
            yield len(part)
        for site in table.sites:
            yield from self._meet(site, fresh, partial(_waiting, site.waiting, table.key))

    def _meet(self, site: Site, rows: Rows, pairs: Callable[[Rows], Iterator[tuple[Row, Row]]]) -> Work:
        met = yield from self.reader.make(rows, lambda part: site.join.merge(pairs(part)))
        if met:
            self._agenda(site.body.table).append((self._go_on, site.body, site.next, met))


def _is_distinct(clause: Step) -> bool:
    """True if a clause makes distinct rows of distinct rows."""
    if isinstance(clause, Pattern):
        return isinstance(clause.predicate, Constant)
    if isinstance(clause, RuleCall):
        return not any(isinstance(term, Blank) for term in clause.arguments)
    return (
        not isinstance(clause, Call) or clause.binding is None or isinstance(clause.binding, Variable | Blank)
    )


def _answered(answers: dict[Row, Rows], key: Callable[[Row], Row], rows: Rows) -> Iterator[tuple[Row, Row]]:
    return ((row, found) for row in rows for found in answers.get(key(row), ()))


def _waiting(waiting: dict[Row, Rows], key: Callable[[Row], Row], answers: Rows) -> Iterator[tuple[Row, Row]]:
    return ((row, found) for found in answers for row in waiting.get(key(found), ()))
