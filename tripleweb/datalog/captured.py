"""What generated code works on: the columns of a store, constants, built-ins, relations and where rows go.

`Scope.resolve` gives the object for each capture of `compiled.Module`. Invariants: nothing here is looked up while a
function runs; columns that are captured are pinned, so that a row of the kind is always a place in them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from math import inf
from typing import Any, NoReturn

from tripleweb.datalog.builtins import FALSE, FUNCTIONS, TRUE, effort, inward, outward, truthy
from tripleweb.datalog.edn import Form
from tripleweb.datalog.inputs import asked, bind
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.terms import Ref, Value
from tripleweb.view import ABSENT, Fitting, Source

CLASSES = {"s": str, "r": Ref, "d": datetime}
_FIXED = {
    "ABSENT": ABSENT,
    "TRUE": TRUE,
    "FALSE": FALSE,
    "TRUTHY": truthy,
    "NUMERIC": frozenset((int, float)),
    "BOOLEAN": frozenset((type(TRUE),)),
}

ROW_BYTES = 150  # of a row of an answer, about
Row = tuple[Any, ...]


class Relation:
    """Tuples of one width with indexes by some of their places: the rows of an input, or of a recursive rule.

    `members` and what `index` gives stay the same objects, so that code can hold them.

    >>> reach = Relation([("a", "b"), ("a", "c")])
    >>> index = reach.index((0,))
    >>> reach.add(("b", "c")), len(reach), sorted(index["a"]), list(index["b"])
    (True, 3, [('a', 'b'), ('a', 'c')], [('b', 'c')])
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.members: dict[Row, None] = dict.fromkeys(rows)
        self._indexes: dict[tuple[int, ...], dict[Any, dict[Row, None]]] = {}

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, row: object) -> bool:
        return row in self.members

    @property
    def weight(self) -> int:
        """How many rows of an answer take as much memory, about."""
        return len(self.members) * (1 + 2 * len(self._indexes))

    def index(self, places: tuple[int, ...]) -> dict[Any, dict[Row, None]]:
        """Tuples by the value at a place (by the tuple of values, if places are several), kept right from now on."""
        index = self._indexes.get(places)
        if index is None:
            index = self._indexes[places] = {}
            for row in self.members:
                index.setdefault(_key(row, places), {})[row] = None
        return index

    def clear(self) -> None:
        self.members.clear()
        for index in self._indexes.values():
            index.clear()

    def add(self, row: Row) -> bool:
        """Puts a tuple in; False if it was there."""
        if row in self.members:
            return False
        self.members[row] = None
        for places, index in self._indexes.items():
            index.setdefault(_key(row, places), {})[row] = None
        return True

    def remove(self, row: Row) -> None:
        """Takes a tuple out that is there."""
        del self.members[row]
        for places, index in self._indexes.items():
            key = _key(row, places)
            held = index[key]
            del held[row]
            if not held:
                del index[key]


def _key(row: Row, places: tuple[int, ...]) -> Any:
    return row[places[0]] if len(places) == 1 else tuple([row[place] for place in places])


class Less:
    """A source without one triple."""

    def __init__(self, source: Source, subject: str, predicate: str, value: Value) -> None:
        self._source = source
        self._subject, self._predicate, self._value = subject, predicate, value

    def values(self, subject: str, predicate: str) -> Sequence[Value]:
        found = self._source.values(subject, predicate)
        if subject != self._subject or predicate != self._predicate:
            return found
        cls, gone = type(self._value), self._value
        return [value for value in found if type(value) is not cls or value != gone]


@dataclass
class Scope:
    """What one query's code works on. Lists of a number are `work`, the rows touched within negations, `limit`, how
    many one call may touch, `within`, how large `work` may be (the same list, unless told), and `most`, how many
    different ones it may derive."""

    store: Store
    constants: Mapping[str, Any]
    kinds: Mapping[str, str] = field(default_factory=dict)
    relations: Mapping[str, Relation] = field(default_factory=dict)
    counts: dict[Row, int] = field(default_factory=dict)
    out: Callable[[tuple[Any, Row, int]], object] | None = None
    limit: list[float] = field(default_factory=lambda: [inf])
    most: list[float] = field(default_factory=lambda: [inf, inf])
    work: list[int] = field(default_factory=lambda: [0])
    within: list[float] | None = None

    def allow(self, bytes: int | None) -> None:
        """What the rows that are derived may take; None: as much as they like."""
        self.most[:] = (inf, inf) if bytes is None else (bytes // ROW_BYTES, bytes)

    def resolve(self, kept: Sequence[Any], what: str, *of: Any) -> Any:
        """The object for a capture; `kept` are the module's forms and bindings."""
        if what in _FIXED:
            return _FIXED[what]
        found: Any = getattr(self, f"_{what.lower()}")(*of) if what not in _KEPT else None
        if what == "FUNCTION":
            found = _builtin(of[0], kept[of[1]], self.work)
        elif what == "CUSTOM":
            found = _custom(self.constants[of[0]], of[1], kept[of[2]])
        elif what == "BIND":
            found = partial(bind, kept[of[0]], form=kept[of[1]])
        return found

    def _k(self, name: str) -> Any:
        return self.constants[name]

    def _names(self) -> list[str]:
        return self.store.names

    def _numbers(self) -> dict[str, int]:
        return self.store.numbers

    def _entities(self, kind: str) -> Any:
        return self.store.table(kind).entities

    def _rows(self, kind: str) -> dict[int, int]:
        return self.store.table(kind).row_of

    def _values(self, predicate: str) -> list[Any]:
        table, column = self.store.column(predicate)
        table.pin(column)
        return column.values

    def _several(self, predicate: str) -> Callable[[int], Sequence[Value]]:
        return self.store.column(predicate)[1].several

    def _reverse(self, predicate: str) -> dict[Any, Any]:
        return self.store.column(predicate)[1].reverse()

    def source(self) -> Source:
        """The triples, as one reads them who knows the kinds of predicates."""
        return Fitting(self.store, self.kinds) if self.kinds else self.store

    def _source(self) -> Source:
        return self.source()

    def _less(self) -> type[Less]:
        return Less

    def _word(self, text: Hashable) -> Hashable:
        return text

    def _class(self, letter: str) -> type:
        return CLASSES[letter]

    def _read(self, name: str) -> Callable[..., Any]:
        function = FUNCTIONS[name].function
        return function if name != "missing?" else lambda *arguments: inward(function(*arguments))

    def _members(self, relation: str) -> Mapping[Row, None]:
        return self.relations[relation].members

    def _index(self, relation: str, places: tuple[int, ...]) -> Mapping[Any, Mapping[Row, None]]:
        return self.relations[relation].index(places)

    def _counts(self) -> dict[Row, int]:
        return self.counts

    def _get(self) -> Callable[..., Any]:
        return self.counts.get

    def _out(self) -> Any:
        return self.out

    def _limit(self) -> list[float]:
        return self.limit

    def _within(self) -> list[float]:
        return self.limit if self.within is None else self.within

    def _most(self) -> list[float]:
        return self.most

    def _too_many(self) -> Callable[[], None]:
        return partial(too_many, self.most)

    def _work(self) -> list[int]:
        return self.work

    def _spent(self) -> Callable[[int], None]:
        return partial(spent, self.limit)


_KEPT = frozenset(("FUNCTION", "CUSTOM", "BIND"))


def spent(limit: list[float], work: int) -> NoReturn:
    raise BudgetError(f"the query needs more than its {limit[0]:,} units of work")


def too_many(most: list[float]) -> NoReturn:
    raise BudgetError(f"the query derives more than its {most[1]:,} bytes of rows")


def _builtin(name: str, form: Form, work: list[int]) -> Callable[..., Any]:
    """A built-in whose errors say where it stands, and that counts what it costs beyond one unit."""
    function = FUNCTIONS[name].function

    def call(*arguments: Any) -> Any:
        try:
            value = function(*arguments)
        except BudgetError as error:
            place = form.error(error.message)
            raise BudgetError(error.message, line=place.line, column=place.column, form=place.form) from None
        work[0] += effort(name, arguments, value)
        return inward(value) if type(value) is bool else value

    return call


def _custom(function: Any, is_test: bool, form: Form) -> Callable[..., Any]:
    """A user's callable: it gets and gives Python's own values."""

    def call(*arguments: Any) -> Any:
        if not callable(function):
            raise form.error(f"{outward(function)!r:.80} is no function", "a Python callable as the input")
        given = asked(function, *map(outward, arguments))
        return bool(given) if is_test else given

    return call
