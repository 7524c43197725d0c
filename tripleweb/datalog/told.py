"""Answers that are told as the engine has them: rows that come and go, with references and booleans as what they are.

A `Told` is a followed query for those who keep its rows themselves. Invariant: the rows of `begin`, without those that
`news` removed and with those that it added, are the answer as of the last `news`. Where it cannot be followed
(`Unsupported`), `afresh` finds the rows in slices, as users get them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import chain
from math import inf
from typing import Any

from tripleweb.datalog.answer import Row
from tripleweb.datalog.clauses import Clause, Constant, Not, Or, Pattern, RuleCall, Term, Variable
from tripleweb.datalog.evaluate import Budget, Evaluation, evaluate
from tripleweb.datalog.query import Aggregate, Get, Query, parse
from tripleweb.datalog.standing import Standing
from tripleweb.datalog.upkeep import Followed, Upkeep
from tripleweb.view import Source


class Told(Followed):
    """Raises `QueryError` and what `normalise` raises for what cannot be run. `width` columns are to be seen; behind
    them are those that the query's order needs.

    >>> from tripleweb.change import Change
    >>> from tripleweb.store import Store
    >>> from tripleweb.terms import Ref
    >>> store = Store()
    >>> upkeep = Upkeep(store)
    >>> told = Told(upkeep, "[:find ?p ?a :where [?p :post/author ?a]]", [])
    >>> told.begin(Budget())
    []
    >>> upkeep.changed(store.apply([Change("p1", "post/author", "", Ref("ada"), 1, "r")]))
    []
    >>> told.news(Budget()), told.ids, told.subjects
    (([], [('p1', Ref('ada'))]), frozenset({0}), (0,))
    """

    def __init__(self, upkeep: Upkeep, text: str, inputs: Sequence[Any], rules: str | None = None) -> None:
        asked = parse(text)
        self.width = len(asked.find)
        hidden = tuple(f"(ordered by {number})" for number in range(len(asked.hidden)))
        whole = replace(
            asked, find=(*asked.find, *asked.hidden), columns=(*asked.columns, *hidden), hidden=()
        )
        super().__init__(upkeep, whole, inputs, rules)
        self.ids = entity_columns(self.query)
        self.subjects = _subjects(self.query, self.ids)

    def begin(self, budget: Budget) -> list[Row]:
        """Finds all rows, and follows them from now on. Raises `QueryError`, and `Unsupported` where that cannot be."""
        maintained = self.upkeep.prepare(self)
        try:
            maintained.start(inf if budget.rows is None else budget.rows, budget.bytes)
        except BaseException:
            maintained.close()
            raise
        self.upkeep.follow(self, maintained)
        standing, width = maintained.standing, len(self.query.find)
        if not isinstance(standing, Standing):
            return list(standing.rows)
        standing.is_inner = True
        return [row[:width] for row in standing.held]

    @property
    def waiting(self) -> int:
        """How many changes of rows `news` has to look at, about."""
        maintained = self.maintained
        return 0 if maintained is None else len(maintained.log) + maintained.standing.waiting

    def news(self, budget: Budget) -> tuple[list[Row], list[Row]]:
        """(removed, added) since it was last asked, while it is followed. Raises `QueryError`; then it is no more."""
        maintained = self.maintained
        assert maintained is not None
        try:
            change = maintained.settle(
                *(inf if most is None else most for most in (budget.rows, budget.bytes))
            )
        except BaseException:
            self.drop()
            raise
        return ([], []) if change is None else (change.removed, change.added)

    def drop(self) -> None:
        """It is followed no more, and whoever has its rows begins again."""
        self.upkeep.release(self)

    def afresh(self, source: Source, budget: Budget) -> Generator[int, None, list[Row]]:
        """The rows as a source has them, in slices. Raises `QueryError`."""
        result = yield from evaluate(Evaluation(self.program, self.bound_inputs, source), budget)
        rows: list[Row] = result.rows
        return rows


def entity_columns(query: Query) -> frozenset[int]:
    """The columns that have ids of entities: variables that stand where entities do, or for references.

    >>> query = parse("[:find ?u ?n (count ?p) :where [?p :post/author ?u] [?u :user/name ?n]]")
    >>> sorted(entity_columns(query))
    [0]
    """
    names: set[str] = set()
    in_rules: dict[str, set[int]] = {}  # the arguments that are ids, of rules
    size = -1
    while size != (size := len(names) + sum(map(len, in_rules.values()))):
        names.update(_entities(query.where, query, in_rules))
        for rule, branches in query.rules.items():
            found = in_rules.setdefault(rule, set())
            for branch in branches:
                inner = _entities(branch.clauses, query, in_rules)
                found.update(at for at, name in enumerate(branch.variables) if name in inner)
    kinds = query.kinds
    return frozenset(
        column
        for column, element in enumerate(query.find)
        if (isinstance(element, Variable) and element.name in names)
        or (isinstance(element, Get) and kinds.get(element.path[-1]) == "r")
    )


def _entities(clauses: Sequence[Clause], query: Query, in_rules: dict[str, set[int]]) -> set[str]:
    terms: list[Term] = []
    pending = list(clauses)
    while pending:
        clause = pending.pop()
        if isinstance(clause, Pattern):
            terms.append(clause.subject)
            if isinstance(clause.predicate, Constant) and query.kinds.get(clause.predicate.value) == "r":
                terms.append(clause.value)
        elif isinstance(clause, RuleCall):
            terms += [clause.arguments[at] for at in sorted(in_rules.get(clause.name, ()))]
        elif isinstance(clause, Or):
            pending += chain.from_iterable(clause.branches)
        elif isinstance(clause, Not):
            continue  # what is negated may name what is no entity
    return {term.name for term in terms if isinstance(term, Variable)}


def _subjects(query: Query, ids: frozenset[int]) -> tuple[int, ...] | None:
    """The columns that say what a row is about; None: nothing does."""
    if any(isinstance(element, Aggregate) for element in query.find):
        return tuple(at for at, element in enumerate(query.find) if isinstance(element, Variable))
    return tuple(sorted(ids)) or None
