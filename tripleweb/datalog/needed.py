"""Which places queries need, found and followed: `Lineages` for the queries of one store, each a `Needed`.

`Needed.find` gives all places from nothing. After every delta of the store `Lineages.changed` says in which queries
places came to be needed that they do not hold; what is needed no more is left where it is, until somebody finds all
from nothing again. Three things find places:

- triggers on the bodies of the lineage (`lineage.LineageShape`), shared by all queries of one shape;
- for a query that shows a window of its rows (`:limit`), the rows themselves are maintained, and only the derivations
  of those within are asked for. With negation, a call that reads or an aggregate that cannot be: a row that is wrong
  for want of a place beyond the window would stand within it;
- for what is looked up of an entity (`pull`, `get`), the tree, where a change touches it.

What must see a delta triple by triple (recursion, rows) gives up where a large one costs more than to begin anew.
Invariants: while `trouble` is None and `find` was called, `held` and what `changed` gave hold all that is needed; a
change costs nothing for the queries that do not care, however many there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from tripleweb.datalog.bodies import Body
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.captured import Row
from tripleweb.datalog.clauses import Binding, Variable
from tripleweb.datalog.executor import Finder
from tripleweb.datalog.joins import best
from tripleweb.datalog.lineage import Found, Heard, LineagePlan, LineageShape, Needs, Parts
from tripleweb.datalog.lookups import Lookup, lookups_of
from tripleweb.datalog.maintained import Maintained, Plan, Shape, Template, bind_inputs
from tripleweb.datalog.plan import Program
from tripleweb.datalog.pull import UNIT_BYTES, Pulled, Readers, StandingPull, Triple, Visits
from tripleweb.datalog.query import Aggregate, Query, variable_name
from tripleweb.datalog.upkeep import AFRESH, FEW, TRIPLE
from tripleweb.errors import BudgetError
from tripleweb.ids import check_id
from tripleweb.store import Delta, Store
from tripleweb.terms import Value

Place = tuple[str, str]  # (subject, predicate)


class Needed:
    """The places that one query needs; `held` are those that are known of. Raises `QueryError`, and `Unsupported` for
    a query that cannot be compiled."""

    def __init__(
        self,
        lineages: Lineages,
        program: Program,
        inputs: Sequence[tuple[Binding, Any]],
        held: Container[Place],
    ) -> None:
        self.held = held
        self.news: dict[Place, None] = {}  # needed and not held, since they were last taken
        self.trouble: BaseException | None = None  # why it follows no more
        self._lineages = lineages
        query, store = program.query, lineages.store
        lookups = lookups_of(query, bind_inputs(program, inputs)[0])
        roots: dict[str, list[int]] = {}
        for number, lookup in enumerate(lookups):
            roots.setdefault(variable_name(query.find[lookup.root]), []).append(number)
        plan = LineagePlan(program, inputs, store, roots, lineages.found.append)
        self.is_window = _has_window(query, lookups) and plan.is_positive and not plan.recursion.relations
        self._rows: _Rows | None = None  # while they are followed
        self._rows_plan: Plan | None = None
        self._columns: dict[int, int] = {}  # of its rows: look-up -> where its entities are
        if self.is_window:
            self._rows_plan = Plan(Program(_window(query)), inputs, store)
            self._columns = {number: lookup.root for number, lookup in enumerate(lookups)}
        elif lookups and not plan.is_positive:
            self._rows_plan = Plan(Program(_all_of(query, list(roots))), inputs, store)
            self._columns = {number: at for at, name in enumerate(roots) for number in roots[name]}
        self._shape = None if self.is_window else lineages.shape(plan)
        self._constants = list(plan.constants.values())
        self._pulls = [_Trees(lookup, store, query, lineages, self) for lookup in lookups]
        self._units = inf  # what is left for the pulls of a `find`
        self._is_followed = False
        if self._shape is not None and not self._shape.components:
            self._follow(self._shape)

    def _follow(self, shape: LineageShape) -> None:
        self._is_followed = True
        self._lineages.enter(shape, (*self._constants, self))

    @property
    def price(self) -> float:
        """About how many rows `find` will look at."""
        plan = self._shape.plan if self._shape is not None else self._rows_plan
        assert plan is not None
        known, sizes = {*plan.constants, *plan.captured}, plan.sizes(())
        return sum(best(body.literals[1:], known, sizes)[1] for body in plan.bodies)

    def find(self, units: float = inf) -> dict[Place, None]:
        """All places that are needed now, found from nothing. Raises `BudgetError` where that takes more units; then it
        follows no more until it was found again."""
        afresh, self.trouble = self.trouble is not None, None
        self._units = units
        try:
            return self._found(afresh)
        except BaseException as error:
            self.trouble = error
            raise
        finally:
            self._units = inf

    def _found(self, afresh: bool) -> dict[Place, None]:
        for pull in self._pulls:
            pull.close()
        out: dict[Place, None] = {}
        shape = self._shape
        if shape is not None:
            if shape.components and (afresh or not self._is_followed):
                self._spend(shape.start(self._units))
            finder = shape.finder
            finder.scope.work[0] = work = 0
            for needs, function in zip(shape.plan.needs, finder.functions, strict=True):
                finder.scope.limit[0] = self._units - work
                found: dict[Row, None] = {}
                work += function(found, *self._constants)
                self._take(needs, found, (), out)
            self._spend(work + finder.scope.work[0])
            shape.allow_for(work)
            if not self._is_followed:
                self._follow(shape)
        if self._rows_plan is not None:
            if self._rows is not None and afresh:
                self._lineages.quit(self._rows)
                self._rows = None
            if self._rows is None:
                rows = _Rows(self._lineages, self._rows_plan, self)
                rows.start(self._units, None)
                self._spend(rows.full)
                self._lineages.join(rows)
                self._rows = rows
            self._take_rows(self._rows.standing_rows, (), out)
        return out

    def close(self) -> None:
        """It is followed no more."""
        for pull in self._pulls:
            pull.close()
        if self._is_followed and self._shape is not None:
            self._lineages.leave(self._shape, (*self._constants, self))
        if self._rows is not None:
            self._lineages.quit(self._rows)

    def fail(self, error: Exception) -> None:
        """Somebody found out that it cannot be followed."""
        self.trouble = error
        self._lineages.touched[self] = None

    def spend(self, size: int) -> None:
        """Bytes that were pulled."""
        self._spend(size // UNIT_BYTES)

    def _spend(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise BudgetError("what the query needs takes more than its units of work to find")

    def _take(
        self, needs: Needs, rows: Iterable[Row], held: Container[Place], out: dict[Place, None]
    ) -> None:
        """Puts what some rows need and nobody holds into `out`."""
        for at, predicate in needs.places:
            for row in rows:
                place = row[at], predicate
                if place not in held and place not in out and _is_id(place[0]):
                    out[str(place[0]), predicate] = None
        for at, number in needs.roots:
            for row in rows:
                self._look(number, row[at], held, out)

    def _look(self, number: int, root: Any, held: Container[Place], out: dict[Place, None]) -> None:
        if _is_id(root):
            for place in self._pulls[number].places(str(root)):
                if place not in held:
                    out[place] = None

    def _take_rows(self, rows: Iterable[Row], held: Container[Place], out: dict[Place, None]) -> None:
        """Likewise for rows of the query that came: within its window, or all of them."""
        assert self._rows is not None
        for row in rows:
            if self.is_window:
                for needs, found in self._rows.derivations(row):
                    self._take(needs, found, held, out)
            for number, column in self._columns.items():
                self._look(number, row[column], held, out)

    # -- what follows a change; the state of the store is the new one

    def derived(self, needs: Needs, row: Row) -> None:
        """A trigger found this."""
        if self.trouble is None:
            self._take(needs, (row,), self.held, self.news)

    def settle(self) -> None:
        """Ends a change that touched rows or trees of it."""
        if self.trouble is not None:
            return
        if self._rows is not None and self._rows.log:
            self._take_rows(self._rows.changed(), self.held, self.news)
        for pull in self._pulls:
            for place in pull.renewed():
                if place not in self.held:
                    self.news[place] = None


def _is_id(value: Any) -> bool:
    """True for what may have triples."""
    try:
        check_id(value)
    except (TypeError, ValueError):
        return False
    return True


def _has_window(query: Query, lookups: Sequence[Lookup]) -> bool:
    """True if it shows some of its rows only, and which ones depends on nothing but the rows."""
    aggregates = any(isinstance(element, Aggregate) for element in query.find)
    is_cut = query.limit is not None or query.shape in ("tuple", "scalar")
    return is_cut and not aggregates and not any(lookup.early for lookup in lookups)


def _window(query: Query) -> Query:
    """The rows that an answer is cut from, the skipped ones among them: who has none of these would skip others."""
    limit = 1 if query.limit is None else query.limit
    limit = min(1, limit) if query.shape in ("tuple", "scalar") else limit
    find = tuple(Variable(variable_name(element)) for element in query.find)
    return replace(query, find=find, shape="relation", offset=0, limit=query.offset + limit, hidden=())


def _all_of(query: Query, names: Sequence[str]) -> Query:
    """All values of some variables."""
    find = tuple(map(Variable, names))
    columns = tuple(names)
    return replace(
        query, find=find, columns=columns, shape="relation", with_=(), order_by=(), offset=0, limit=None,
        hidden=(),
    )  # fmt: skip


class _Trees(StandingPull):
    """What is looked up of the entities of one query, as the places that were looked at; nothing else is kept."""

    def __init__(
        self, lookup: Lookup, store: Store, query: Query, lineages: Lineages, needed: Needed
    ) -> None:
        super().__init__(lookup.pattern, store, query.fields, needed.spend, lineages.readers)
        self._store = store
        self._lineages = lineages
        self._needed = needed
        self._places: dict[Place, None] = {}
        self._leads = lookup.pattern.leads  # where a value says which entities come next

    def _look(self, root: str, visits: Visits) -> Pulled:
        visits.places = self._places
        super()._look(root, visits)
        return None

    def places(self, root: str) -> Iterable[Place]:
        """The places of an entity's tree, if they are not known yet."""
        self._places.clear()
        self.value(root)
        return list(self._places)

    def note(self, triple: Triple) -> None:
        place = triple[:2]
        if triple[1] not in self._leads and place in self._needed.held and self._store.values(*place):
            return  # a value for another one, at the end of a branch: the tree has the places that it had
        super().note(triple)
        if self.stale:
            self._lineages.touched[self._needed] = None

    def renewed(self) -> Iterable[Place]:
        """The places of the trees that changes have touched."""
        roots = list(self.stale)
        self.stale.clear()
        for root in roots:
            self.forget(root)
            yield from self.places(root)


class _RowShape(Template):
    """The shape of rows that are maintained; `derivations` finds those of a row."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._needs: list[Needs] = []
        self._finder: Finder | None = None

    def _prepared(self) -> Finder:
        if self._finder is None or not self._finder.fits:
            plan = self.plan
            bodies: list[tuple[Body, list[str]]] = []
            self._needs = []
            for body in plan.bodies:
                names = [*plan.constants, *body.head[: len(plan.query.find)]]
                parts = Parts({*names, *plan.captured})
                parts.add(body.literals[1:], {})
                for part in parts.all():
                    self._needs.append(part.needs)
                    bodies.append((Body(part.head, part.literals), names))
            self._finder = Finder(plan, bodies)
        return self._finder

    def derivations(self, constants: Iterable[Any], row: Row) -> Iterator[tuple[Needs, Iterable[Row]]]:
        """All derivations of a row of the query with these constants, by what they need."""
        finder = self._prepared()
        for needs, function in zip(self._needs, finder.functions, strict=True):
            found: dict[Row, None] = {}
            function(found, *constants, *row)
            yield needs, found


class _Rows(Maintained):
    """The rows of a query, maintained: those in its window, or of the entities that are looked up."""

    def __init__(self, lineages: Lineages, plan: Plan, needed: Needed) -> None:
        self.shape = lineages.row_shape(plan)
        super().__init__(plan, self.shape)
        self.needed = needed
        self._lineages = lineages
        self.row = (*plan.constants.values(), self._note)

    def _note(self, entry: tuple[Row, int]) -> None:
        if self.needed.trouble is None:
            self.log.append(entry)
            self._lineages.touched[self.needed] = None

    @property
    def standing_rows(self) -> list[Row]:
        """The rows as the engine has them."""
        return [tuple(map(inward, row)) for row in self.standing.rows]

    def changed(self) -> list[Row]:
        """The rows that came; of a window also those that are there and have a derivation more."""
        again = {row[: len(self.plan.query.find)] for row, sign in self.log if sign > 0}
        change = self.settle()
        came = [] if change is None else [tuple(map(inward, row)) for row in change.added]
        if not self.needed.is_window:
            return came
        return [row for row in self.standing_rows if row in again or row in came]

    def derivations(self, row: Row) -> Iterator[tuple[Needs, Iterable[Row]]]:
        """All derivations of a row, by what they need."""
        return self.shape.derivations(self.plan.constants.values(), row)


def _key(plan: Plan) -> object | None:
    """Equal for plans whose rows can share a shape: it matters which cells are found and which are kept beside."""
    return None if plan.key is None else (plan.key, len(plan.query.find))


class Lineages:
    """The places that queries over one store need, followed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.readers = Readers()  # of what is looked up
        self.found: list[Found] = []  # by triggers, until the end of the change
        self.touched: dict[Needed, None] = {}
        self._work = 0  # rows that triggers looked at, where their shapes do not count them
        self._shapes: dict[object, LineageShape] = {}
        self._row_shapes: dict[object, _RowShape] = {}
        # all triggers that run after a delta, as `LineageShape` has them
        self._triggers: Heard = {}
        self._firsts: Heard = {}
        self._reads: Heard = {}
        self._replayed: list[Shape] = []
        self._replayed_for: frozenset[str] = frozenset()
        self._is_collected = True  # these are up to date

    @property
    def work(self) -> int:
        """The rows that triggers looked at so far."""
        counted = (*self._shapes.values(), *self._row_shapes.values())
        return self._work + sum(shape.touched for shape in counted)

    # -- who is followed

    def shape(self, plan: LineagePlan) -> LineageShape:
        found = None if plan.key is None else self._shapes.get(plan.key)
        return found or LineageShape(plan)

    def row_shape(self, plan: Plan) -> _RowShape:
        return self._row_shapes.get(_key(plan)) or _RowShape(plan)

    def enter(self, shape: LineageShape, row: Row) -> None:
        is_new = not len(shape.group)
        self._shapes[shape.plan.key or shape] = shape
        if shape.enter(row) or is_new:
            self._is_collected = False

    def leave(self, shape: LineageShape, row: Row) -> None:
        shape.group.remove(row)
        if not len(shape.group):
            del self._shapes[shape.plan.key or shape]
            self._work += shape.touched
            self._is_collected = False

    def join(self, rows: _Rows) -> None:
        shape = rows.shape
        self._row_shapes[_key(shape.plan) or shape] = shape
        if shape.join(rows) or len(shape.members) == 1:
            self._is_collected = False

    def quit(self, rows: _Rows) -> None:
        shape = rows.shape
        shape.leave(rows)
        if not shape.members:
            del self._row_shapes[_key(shape.plan) or shape]
            self._work += shape.touched
            self._is_collected = False

    def _collect(self) -> None:
        self._is_collected = True
        self._triggers, self._firsts, self._reads = {}, {}, {}
        self._replayed = list(self._row_shapes.values())
        for shape in self._shapes.values():
            if shape.components:
                self._replayed.append(shape)
                continue
            for mine, all_ in (
                (shape.triggers, self._triggers),
                (shape.firsts, self._firsts),
                (shape.reads, self._reads),
            ):
                for predicate, triggers in mine.items():
                    all_.setdefault(predicate, []).extend(triggers)
        self._replayed_for = frozenset().union(*(shape.predicates for shape in self._replayed))

    # -- changes

    def changed(self, delta: Delta) -> list[Needed]:
        """To be called once after each delta of the store: the queries with `news`, or with `trouble`."""
        if not self._is_collected:
            self._collect()
        self.readers.mark(delta.removed, delta.added)
        try:
            self._run(delta, self._triggers, self._firsts, self._reads)
        except Exception:  # noqa: BLE001 (which shape it was is found out one by one)
            self._one_by_one(delta)
        if self._replayed and not self._replayed_for.isdisjoint(delta.predicates):
            self._replay(delta)
        for needs, row, sign in self.found:
            if sign > 0:
                row[-1].derived(needs, row)
                if row[-1].news:
                    self.touched[row[-1]] = None
        self.found.clear()
        if not self.touched:
            return []
        out = list(self.touched)
        for needed in out:
            try:
                needed.settle()
            except Exception as error:  # noqa: BLE001 (its owner will hear of it)
                needed.trouble = error
        self.touched.clear()
        return [needed for needed in out if needed.news or needed.trouble is not None]

    def _run(self, delta: Delta, triggers: Heard, firsts: Heard, reads: Heard) -> None:
        self._call(triggers, delta.added)
        if firsts:
            added = delta.added
            if delta.removed:
                gone = {(subject, predicate, value.__class__) for subject, predicate, value in delta.removed}
                added = [
                    triple for triple in added if (triple[0], triple[1], triple[2].__class__) not in gone
                ]
            self._call(firsts, added)
        if reads:
            self._call(reads, delta.added)
            self._call(reads, delta.removed)

    def _call(self, heard: Heard, triples: Iterable[Triple]) -> None:
        for subject, predicate, value in triples:
            triggers = heard.get(predicate)
            if triggers is not None:
                row = self.store.place(subject, predicate)[1]
                seen = inward(value)
                for trigger in triggers:
                    self._work += trigger(subject, row, seen, value, 1)

    def _one_by_one(self, delta: Delta) -> None:
        """Runs the triggers of each shape by itself, since one of them fails. To find things twice is harmless."""
        for shape in self._shapes.values():
            if shape.components:
                continue
            try:
                self._run(delta, shape.triggers, shape.firsts, shape.reads)
            except Exception as error:  # noqa: BLE001 (its owners will hear of it)
                self._fail(shape, error)

    def _fail(self, shape: Shape, error: Exception) -> None:
        if isinstance(shape, _RowShape):
            for member in shape.members.values():
                assert isinstance(member, _Rows)
                member.needed.fail(error)
        else:
            for row in shape.group.members:
                row[-1].fail(error)

    def _replay(self, delta: Delta) -> None:
        """Has those see the delta triple by triple that must know what goes, too."""
        running = [shape for shape in self._replayed if shape.hears(delta.predicates)]
        if len(delta.added) + len(delta.removed) > FEW:
            heard = Counter(predicate for _, predicate, _ in (*delta.added, *delta.removed))
            for shape in tuple(running):
                full = AFRESH * len(shape.group) + shape.full
                if sum(heard[predicate] for predicate in shape.predicates) * TRIPLE > full:
                    running.remove(shape)
                    self._fail(shape, BudgetError("more changed at once than it is worth to follow"))

        def fails(shape: Shape, error: Exception) -> None:
            running.remove(shape)
            self._fail(shape, error)

        def step(predicate: str, subject: str, row: int, value: Value, sign: int) -> None:
            for shape in tuple(running):
                try:
                    shape.step(predicate, subject, row, value, sign)
                except Exception as error:  # noqa: BLE001 (its owners will hear of it)
                    fails(shape, error)

        def gone(predicate: str) -> None:
            for shape in tuple(running):
                try:
                    shape.gone(predicate)
                except Exception as error:  # noqa: BLE001 (its owners will hear of it)
                    fails(shape, error)

        self.store.replay(delta, step, gone if any(shape.components for shape in running) else None)
