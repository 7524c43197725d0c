"""Windows: how a page looks at the rows of an answer, and what it is told of them. Pure; the rest of the protocol is in
`messages`.

A subscription of kind `rows` is told all rows of its query, then what came and what went:

    > {"t":"subscribe","subscription":{"id":"top","kind":"rows","query":"[:find ?n :where [_ :user/name ?n]]"}}
    < {"t":"rows","id":"top","epoch":"e1","seq":44,"reset":true,"columns":["n"],"added":[[["s","Ada"]]],"removed":[]}

A server that has the feature `views` keeps the rows of a query in any order for a subscription of kind `rows` that has
a `view`, and sends those that a window shows:

    > {"t":"subscribe","subscription":{"id":"w1","kind":"rows",
    >  "query":"[:find ?u ?n ?a :where [?u :user/name ?n] [?u :user/age ?a]]",
    >  "view":{"count":25,"first":50,"order":[["a","desc"],["n","asc"]],"columns":["u","n","a"],"turn":1,
    >   "filters":[{"column":"n","op":"contains","value":["s","ad"],"fold":true},
    >    {"column":"a","op":"range","low":["n",18],"high":["n",65],"open":true}]}}}
    < {"t":"window","id":"w1","epoch":"e1","seq":44,"total":100000,"matching":112,"first":50,"turn":1,"reset":true,
    <  "columns":["u","n","a"],"rows":[[17,[["r","ada"],["s","Ada"],["n",36]]]],"n":1}

`count` rows from `first` on, of those that all filters leave (`matching`, of `total`), in this order; ties are broken
by the columns that it does not name, ascending, and without any the order is the query's. Missing values come last,
kinds in the order that `:order-by` has. A filter looks at one column: `equals` a `value`, `one-of` several `values`,
`contains` a text (`fold`: whatever its case), a `range` with a `low` end, a `high` one or both, which are in it
(`open`: which are not), `missing`; `negated` turns it round. Values keep their kinds, so nothing is equal to, or lies
between, what is of another kind. Of columns with one name the first is meant. Without `columns` all are sent.

A row comes with its key, which it keeps until the next `reset`. What comes of the window after that is the difference:
rows with the keys `removed` go, others are `moved` or `inserted`, each with the place that it has when all of that is
done, and then cells are `changed`, a whole row of them:

    < {"t":"window","id":"w1","epoch":"e1","seq":45,"total":100000,"matching":112,"first":50,"turn":1,
    <  "removed":[17],"moved":[[0,18]],"inserted":[[24,94,[["r","bob"],["s","Bo Adam"],["n",33]]]],
    <  "changed":[[18,[["r","eve"],["s","Madge"],["n",41]]]],"n":2}

A frame shows one commit of the server, never one that is not yet durable; of several commits that a slow reader has not
been told of only the last is shown. Looking elsewhere, or otherwise, replaces the whole view:

    > {"t":"scroll","id":"w1","view":{"count":25,"first":75,"order":[["a","desc"]],"turn":2}}

`turn` is said back by the first frame that is of this view; a frame comes even where no row is another. Nothing is told
while a view is `paused`, or done for it; then the difference comes at once. The same query with the same inputs is kept
once, however many look at it. A view that is none of its answer, or rows that are too many or too large, end the
subscription: it has `failed`, by `view`, `limits`, `query` or `budget`.

A `View` is what a client says; `read` makes a `Look` of it, which is checked and canonical: two looks that order alike
have equal `order`, two that leave the same rows by the same words equal `filters`, so that what is kept for the one
serves the other. Invariants: a filter is pure, never raises because of the data, and looks at one cell. A cell is a
value as the engine holds it; what is no single value is a `Tree`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tripleweb.datalog.arranged import Keep, Order, Row, Tree, total_order
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.ranking import ascending
from tripleweb.terms import Flag, Ref, from_wire, kind_name, to_wire

VIEWS = "views"  # the feature
FILTERS_MAX = 32
VALUES_MAX = 1_000  # of a filter
FIRST_MAX = 1 << 53
OPS = ("equals", "contains", "range", "one-of", "missing")
WireCell = tuple[str, str | int | float | bool | None]
WireRow = tuple[int, list[WireCell]]  # with its key
Test = Callable[[Any], bool]  # of a cell


class ViewError(ValueError):
    """What is asked for is no view of this answer."""


class Filter(msgspec.Struct, omit_defaults=True):
    """Rows whose cell in `column` fits; see the head of this module."""

    column: str
    op: str
    value: Any = None
    values: list[Any] = []
    low: Any = None
    high: Any = None
    open: bool = False
    fold: bool = False
    negated: bool = False


class View(msgspec.Struct, omit_defaults=True):
    """What a page shows of an answer: `count` rows from `first` on. `columns`: all, if none are named. `turn` is said
    back by the first frame that is of this view."""

    count: int = 100
    first: int = 0
    order: list[tuple[str, str]] = []
    filters: list[Filter] = []
    columns: list[str] = []
    paused: bool = False
    turn: int = 0


class Scroll(msgspec.Struct, tag_field="t", tag="scroll", omit_defaults=True):
    """Another view of what is subscribed to."""

    id: str
    view: View
    n: int = 0


class Shown(msgspec.Struct, tag_field="t", tag="window", omit_defaults=True):
    """The rows of a window, or (without `reset`) what came of those that were sent before."""

    id: str
    epoch: str
    seq: int
    total: int
    matching: int
    first: int = 0
    turn: int = 0
    reset: bool = False
    columns: list[str] = []
    rows: list[WireRow] = []
    removed: list[int] = []
    moved: list[tuple[int, int]] = []
    inserted: list[tuple[int, int, list[WireCell]]] = []
    changed: list[WireRow] = []
    n: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """A view that can be shown of an answer: by its numbers of columns, its filters as `keep`."""

    first: int
    count: int
    order: Order
    filters: bytes
    columns: tuple[int, ...]
    paused: bool
    turn: int
    keep: Keep | None = None

    @property
    def key(self) -> tuple[Order, bytes]:
        """Equal for looks that have the same rows in the same order."""
        return self.order, self.filters


def read(
    view: View, columns: Sequence[str], order_by: Order, rows_max: int, bytes_max: int = 64 << 10
) -> Look:
    """A view of an answer with these columns, which is ordered by `order_by` unless the view says otherwise. Raises
    `ViewError`.

    >>> look = read(View(10, order=[("b", "desc")], filters=[Filter("a", "contains", ["s", "x"])]), ["a", "b"], (), 100)
    >>> look.order, look.columns, look.keep(("axe", 1)), look.keep((5, 1))
    (((1, True), (0, False)), (0, 1), True, False)
    """
    if view.first < 0 or view.first > FIRST_MAX:
        raise ViewError(f"a window begins at row 0 or later, not at {view.first}")
    if not 0 <= view.count <= rows_max:
        raise ViewError(f"a window has 0 to {rows_max:,} rows, not {view.count}")
    if len(msgspec.json.encode(view)) > bytes_max:
        raise ViewError(f"a view has at most {bytes_max >> 10} KiB")
    if len(view.filters) > FILTERS_MAX:
        raise ViewError(f"a view has at most {FILTERS_MAX} filters, not {len(view.filters)}")
    numbers: dict[str, int] = {}
    for number, name in enumerate(columns):
        numbers.setdefault(name, number)

    def place(name: str) -> int:
        if name not in numbers:
            raise ViewError(f"no column {name[:80]!r}; the columns are {', '.join(columns)[:400]}")
        return numbers[name]

    order = []
    for name, direction in view.order:
        if direction not in ("asc", "desc"):
            raise ViewError(f"{direction[:80]!r} is no direction of {name[:80]!r}: asc or desc")
        order.append((place(name), direction == "desc"))
    tests = [(place(one.column), _tested(one)) for one in view.filters]
    said = sorted({msgspec.json.encode((place(one.column), one)) for one in view.filters})
    return Look(
        view.first,
        view.count,
        total_order(order or order_by, len(columns)),
        b",".join(said),
        tuple(place(name) for name in view.columns) or tuple(range(len(columns))),
        view.paused,
        view.turn,
        _all(tests) if tests else None,
    )


def _all(tests: list[tuple[int, Test]]) -> Keep:
    def keep(row: Row) -> bool:
        return all(test(row[column]) for column, test in tests)

    return keep


def _tested(asked: Filter) -> Test:
    test = _test(asked)
    return (lambda cell: not test(cell)) if asked.negated else test


def _test(asked: Filter) -> Test:
    where = f"filter on {asked.column[:80]!r}"
    if asked.op == "missing":
        return lambda cell: cell is None
    if asked.op == "equals":
        wanted = _value(asked.value, where)
        return lambda cell: bool(cell == wanted)
    if asked.op == "one-of":
        if len(asked.values) > VALUES_MAX:
            raise ViewError(f"{where}: one of at most {VALUES_MAX:,} values, not {len(asked.values):,}")
        some = frozenset(_value(value, where) for value in asked.values)
        return lambda cell: cell in some
    if asked.op == "contains":
        text = _value(asked.value, where)
        if not isinstance(text, str):
            raise ViewError(f"{where}: what a text contains is text")
        if asked.fold:
            folded = text.casefold()
            return lambda cell: isinstance(cell, str) and folded in cell.casefold()
        return lambda cell: isinstance(cell, str) and text in cell
    if asked.op == "range":
        return _between(asked, where)
    raise ViewError(f"{where}: {asked.op[:80]!r} is none of {', '.join(OPS)}")


def _between(asked: Filter, where: str) -> Test:
    low, high = (None if end is None else _value(end, where) for end in (asked.low, asked.high))
    if low is None and high is None:
        raise ViewError(f"{where}: a range has a low end, a high end or both")
    kinds = {ascending(end)[0] for end in (low, high) if end is not None}
    if len(kinds) > 1:
        names = " and ".join(kind_name(to_wire(_outward(end))[0]) for end in (low, high))
        raise ViewError(f"{where}: the ends of a range are of one kind, not {names}")
    (rank,) = kinds
    least, most = (None if end is None else ascending(end)[1] for end in (low, high))
    is_open = asked.open

    def test(cell: Any) -> bool:
        if cell is None or type(cell) is Tree:
            return False
        place, value = ascending(cell)
        if place != rank or (is_open and value in (least, most)):
            return False
        return (least is None or value >= least) and (most is None or value <= most)

    return test


def _value(wire: Any, where: str) -> Any:
    """A value of a filter as the engine holds it."""
    if isinstance(wire, list | tuple) and len(wire) == 2 and isinstance(wire[0], str):
        try:
            value = from_wire("n" if wire[0] == "i" and type(wire[1]) is int else wire[0], wire[1])
        except (ValueError, TypeError) as error:
            raise ViewError(f"{where}: {error}") from None
        if value is not None:
            return inward(value)
    raise ViewError(f'{where}: {str(wire)[:80]} is no value: ["s", "text"], ["n", 1] …')


def _outward(cell: Any) -> Any:
    return cell.value if type(cell) is Flag else cell


def wire_cell(cell: Any, is_id: bool = False) -> WireCell:
    """A cell as it travels; `is_id`: its text is the id of an entity.

    >>> wire_cell("ada", True), wire_cell(Tree("[1]")), wire_cell(None)
    (('r', 'ada'), ('j', '[1]'), ('', None))
    """
    cls = type(cell)
    if cls is str:
        return ("r" if is_id else "s"), cell
    if cls is Tree:
        return "j", cell.text
    return to_wire(cell.value if cls is Flag else cell)


def wire_bytes(cell: Any) -> int:
    """An upper bound of the bytes of a cell in a frame: JSON escapes a byte as six at most."""
    if isinstance(cell, Tree):
        cell = cell.text
    return 6 * (len(cell) if cell.isascii() else 4 * len(cell)) + 16 if isinstance(cell, str | Ref) else 60
