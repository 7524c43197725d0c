"""A page that looks at windows over answers: the least that reads them, as a browser would, beside a server's peers.

`Shown` is what a page has of one window: it applies frames and nothing else. `expected` is what it should have, found
the plain way: all rows of a fresh evaluation, filtered one by one, sorted whole, cut.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from tests.peers import Peers
from tripleweb.datalog import evaluate
from tripleweb.store import Store
from tripleweb.sync import messages, views
from tripleweb.sync.display import cell_to_wire
from tripleweb.sync.messages import Failed, Hello, Subscribe, Subscription, Unsubscribe
from tripleweb.sync.server import Actor
from tripleweb.sync.views import Scroll, View

Cell = tuple[str, Any]


class Shown:
    """What a page has of one window."""

    def __init__(self) -> None:
        self.n = 0
        self.keys: list[int] = []
        self.cells: dict[int, list[Cell]] = {}
        self.columns: list[str] = []
        self.last: views.Shown | None = None  # the frame

    @property
    def rows(self) -> list[list[Cell]]:
        return [self.cells[key] for key in self.keys]

    def apply(self, frame: views.Shown) -> None:
        self.n += 1
        assert frame.n == self.n, f"frame {frame.n} came where {self.n} was due"
        self.last = frame
        if frame.reset:
            self.columns, self.keys, self.cells = (
                frame.columns,
                [key for key, _ in frame.rows],
                dict(frame.rows),
            )
            assert len(self.cells) == len(self.keys), "a key is there twice"
            return
        assert not (frame.rows or frame.columns)
        for key in frame.removed:
            del self.cells[key]
        left = {*frame.removed, *(key for _, key in frame.moved)}
        self.keys = [key for key in self.keys if key not in left]
        placed = [*frame.moved, *((at, key) for at, key, _ in frame.inserted)]
        for at, key in sorted(placed):
            assert at <= len(self.keys)
            self.keys.insert(at, key)
        for _, key, cells in frame.inserted:
            assert key not in self.cells
            self.cells[key] = cells
        for key, cells in frame.changed:
            assert self.cells[key] != cells
            self.cells[key] = cells
        assert len(self.cells) == len(self.keys) == len(set(self.keys))


class Page:
    """A connection that keeps nothing, with the interface that `Peers` needs of a peer."""

    def __init__(self, peers: Peers, name: str = "page") -> None:
        self.peers = peers
        self.name = name
        self.core = self  # that is told of the end of its connection
        self.conn: int | None = None
        self.said: list[Any] = []
        self.sent = 0
        self.got: list[Any] = []
        self.asked: dict[str, Subscription] = {}
        self.shown: dict[str, Shown] = {}
        self.failed: dict[str, Failed] = {}
        self.hear: Callable[[Page, views.Shown], None] = lambda page, frame: None  # it has taken this frame
        peers.clients.append(self)  # type: ignore[arg-type]

    def connect(self) -> Page:
        self.peers.connections += 1
        self.conn = self.peers.connections
        said = {"user": self.name, "session": self.name, "role": "writer"}
        self.peers.note({"connect": self.conn, **said})
        self.peers.server.connect(self.conn, Actor(self.name, session=self.name), self.peers.now_ms)
        self.shown = {name: Shown() for name in self.asked}
        name = f"{self.conn:012d}"
        hello = Hello((2, 2), name, "x", 1 << 53, 0, 0, subscriptions=list(self.asked.values()))
        self.said, self.sent = [hello], 0
        return self

    def disconnected(self, reason: str = "") -> None:
        self.conn = None

    def drop(self) -> None:
        if self.conn is not None:
            self.peers.server.disconnect(self.conn, self.peers.now_ms)
        self.conn = None

    def ask(self, name: str, query: str, view: View, *inputs: Any, rules: str | None = None) -> None:
        wire = [messages.input_to_wire(given) for given in inputs]
        self.asked[name] = Subscription(name, "rows", query, wire, rules, view=view)
        self.shown[name] = Shown()
        self.failed.pop(name, None)
        if self.conn is not None:
            self.said.append(Subscribe(self.asked[name]))

    def scroll(self, name: str, view: View) -> None:
        self.asked[name] = msgspec.structs.replace(self.asked[name], view=view)
        if self.conn is not None:
            self.said.append(Scroll(name, view))

    def end(self, name: str) -> None:
        del self.asked[name], self.shown[name]
        if self.conn is not None:
            self.said.append(Unsubscribe(name))

    def up(self) -> list[Any]:
        said, self.said = self.said, []
        for frame in said if self.conn is not None else ():
            if not isinstance(frame, Hello):
                self.sent += 1
                frame.n = self.sent
            assert self.conn is not None
            self.peers.to_server(self.conn, messages.encode(frame))
            if self.conn is None:
                break
        return said

    def take(self, frame: Any) -> None:
        self.got.append(frame)
        if isinstance(frame, Failed):
            self.failed[frame.id] = frame
            self.asked.pop(frame.id, None)
            self.shown.pop(frame.id, None)
        elif isinstance(frame, views.Shown) and frame.id in self.shown:
            if (
                frame.n == 1
            ):  # of what was asked for last; what came before it was of what had its name before
                self.shown[frame.id] = Shown()
            self.shown[frame.id].apply(frame)
            self.hear(self, frame)

    def of(self, name: str) -> list[views.Shown]:
        """The frames of one window that it got."""
        return [frame for frame in self.got if isinstance(frame, views.Shown) and frame.id == name]


# -- the plain way --------------------------------------------------------------------------------------------

_RANKS = {"b": 0, "n": 1, "d": 2, "s": 3, "j": 4}


def answer(asked: Subscription, store: Store) -> tuple[list[str], list[list[Cell]]]:
    """(columns, all rows) of a subscription, in the query's order."""
    inputs = [messages.input_from_wire(wire) for wire in asked.inputs]
    result = evaluate.run(asked.query or "", inputs, store, rules=asked.rules)
    return list(result.columns), [[plain(cell_to_wire(cell)) for cell in row] for row in result.rows]


def plain(cell: Cell) -> Cell:
    """Without the difference of an id and a text, of whole numbers and floats, and of the order of keys."""
    kind, value = cell
    if kind == "j":
        return kind, msgspec.json.encode(msgspec.json.decode(value), order="sorted").decode()
    if kind in ("n", "i"):
        value = int(value) if kind == "i" or value == int(value) else value
    return {"r": "s", "i": "n"}.get(kind, kind), value


def expected(
    columns: list[str], rows: list[list[Cell]], view: View, is_ordered: bool = False
) -> tuple[int, int, list[list[Cell]]]:
    """(rows in all, rows that the filters leave, the rows to be seen). `is_ordered`: they come in the query's order."""
    left = [row for row in rows if all(_fits(row[columns.index(one.column)], one) for one in view.filters)]
    order = [(columns.index(name), way == "desc") for name, way in view.order]
    order += [(at, False) for at in range(len(columns)) if at not in [column for column, _ in order]]

    def compare(one: list[Cell], other: list[Cell]) -> int:
        for column, is_descending in order:
            a, b = one[column], other[column]
            if a == b:
                continue
            if not a[0] or not b[0]:
                return 1 if not a[0] else -1
            is_less = (
                (_RANKS[a[0]], a[1]) < (_RANKS[b[0]], b[1]) if a[0] == b[0] else _RANKS[a[0]] < _RANKS[b[0]]
            )
            return -1 if is_less != is_descending else 1
        return 0

    if order and (view.order or not is_ordered):
        left.sort(key=functools.cmp_to_key(compare))
    places = [columns.index(name) for name in view.columns] or list(range(len(columns)))
    part = left[view.first : view.first + view.count]
    return len(rows), len(left), [[row[at] for at in places] for row in part]


def _fits(cell: Cell, one: views.Filter) -> bool:
    kind, value = cell

    def same(wire: Any) -> bool:
        return plain(tuple(wire)) == cell  # type: ignore[arg-type]

    if one.op == "missing":
        found = kind == ""
    elif one.op == "equals":
        found = same(one.value)
    elif one.op == "one-of":
        found = any(map(same, one.values))
    elif one.op == "contains":
        text = one.value[1]
        found = kind == "s" and (text.lower() in value.lower() if one.fold else text in value)
    else:
        ends = [None if end is None else plain(tuple(end)) for end in (one.low, one.high)]  # type: ignore[misc]
        found = all(end is None or end[0] == kind for end in ends)
        found = (
            found and (ends[0] is None or ends[0][1] <= value) and (ends[1] is None or value <= ends[1][1])
        )
        found = found and not (one.open and value in [end[1] for end in ends if end is not None])
    return found != one.negated
