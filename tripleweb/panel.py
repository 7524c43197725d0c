"""A store at a glance, kept fresh under its cell: state and server, the members of its app, the queries it follows.

Invariants: it starts with what `db.status` shows, and says no more as plain text; looking changes nothing in the store,
and asks the server for the members only, on a thread of its own and at most once in `MEMBERS_S`; it is written anew
when something is otherwise, at most once in `PAUSE_S`; whatever people have named is escaped.
"""

from __future__ import annotations

import html
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tripleweb.discovery import Unreachable, find, look_up
from tripleweb.display import Bundle, Display, show
from tripleweb.status import Status
from tripleweb.store import Delta
from tripleweb.table import cell_text

if TYPE_CHECKING:
    from tripleweb.database import Database

PAUSE_S = 1.0
MEMBERS_S = 30.0
QUERIES_MAX = 25


@dataclass(frozen=True, slots=True)
class FollowedQuery:
    """A query that a store keeps answering. `rows` None: nobody has looked yet. `cost`: rows that are touched to answer
    it afresh; None where each look does that, for `reason`. `frames`: how many live frames show it."""

    text: str
    rows: int | None
    cost: int | None
    reason: str
    frames: int


class Panel:
    """What `%tripleweb status` shows of a store. As text it is the store's status."""

    def __init__(self, db: Database) -> None:
        self._db = weakref.ref(db)
        self._last = db.status
        self._display: Display | None = None
        self._timer: threading.Timer | None = None
        self._drawn = 0.0
        self._members: Mapping[str, str | None] | None = None
        self._asked = 0.0
        self._lock = threading.Lock()

    @property
    def status(self) -> Status:
        """How the store stands; of one that is gone, how it stood last."""
        db = self._db()
        if db is not None:
            self._last = db.status
        return self._last

    def __repr__(self) -> str:
        return repr(self.status)

    def _repr_html_(self) -> str:
        db = self._db()
        queries = [] if db is None else followed(db)
        sections = [self.status._repr_html_(), _members_html(self._members), _queries_html(queries)]
        return "".join(filter(None, sections))

    def _bundle(self, note: str = "") -> Bundle:
        self._drawn = time.monotonic()
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def _ipython_display_(self) -> None:
        self._display = show(self._bundle, ended=lambda cell: self._end())
        db = self._db()
        if self._display is not None and db is not None:
            db._session.anchored[id(self)] = self
            db._session.watch(self)
            self._ask_members()

    # -- a watcher of the store: called with its lock held -----------------------------------------------------

    def changed(self, delta: Delta) -> None:
        self._touch()

    def catch_up(self) -> None:
        """Nothing of it is shown to the user's code."""

    def state_changed(self) -> None:
        self._touch()

    def _touch(self) -> None:
        """There may be news: they are written now, or when the pause is over."""
        with self._lock:
            display = self._display
            if display is None or display.closed or self._timer is not None:
                return
            wait = self._drawn + PAUSE_S - time.monotonic()
            if wait > 0:
                self._timer = threading.Timer(wait, self._due)
                self._timer.daemon = True
                self._timer.start()
                return
        display.touch()

    def _due(self) -> None:
        with self._lock:
            self._timer = None
            display = self._display
        if display is not None:
            display.touch()
            self._ask_members()

    def _end(self) -> None:
        db = self._db()
        if db is not None:
            db._session.anchored.pop(id(self), None)
        with self._lock:
            self._display = None

    # -- the members -------------------------------------------------------------------------------------------

    def _ask_members(self) -> None:
        status, now = self.status, time.monotonic()
        with self._lock:
            if status.state != "online" or (self._asked and now < self._asked + MEMBERS_S):
                return
            self._asked = now
        threading.Thread(
            target=self._learn_members, args=(status,), name="tripleweb-panel", daemon=True
        ).start()

    def _learn_members(self, status: Status) -> None:
        from urllib.parse import quote

        try:
            entry = look_up(find(status.server), f"apps/{quote(status.app, safe='')}")
            members = dict(entry["members"])
        except (
            Unreachable,
            ValueError,
            KeyError,
            TypeError,
        ):  # a token that only this store has, or no right
            return
        members.setdefault(status.user, entry.get("role"))
        if members != self._members:
            self._members = members
            self._touch()


def followed(db: Database) -> list[FollowedQuery]:
    """The queries of a store's live frames, the latest first."""
    found = []
    with db._session.lock:
        for shared in () if db._lives is None else reversed(db._lives._shared.values()):
            live, maintained = shared.live, shared.live.maintained
            rows = len(live.held[0]) if shared.evaluated or maintained is not None else None
            cost = None if maintained is None else maintained.full
            frames = len(shared.frames())
            found.append(FollowedQuery(live.query.text, rows, cost, live.reason or "", frames))
    return found


def _members_html(members: Mapping[str, str | None] | None) -> str:
    if not members:
        return ""
    said = ", ".join(f"{html.escape(name)} ({role or 'no role'})" for name, role in sorted(members.items()))
    return f"<p style='margin:.4em 0'><b>members</b> {said}</p>"


def _queries_html(queries: list[FollowedQuery]) -> str:
    if not queries:
        return ""
    left = "style='text-align:left'"
    rows = []
    for one in queries[:QUERIES_MAX]:
        count = "not looked at" if one.rows is None else f"{one.rows:,}"
        cost = (
            f"{one.cost:,} rows touched"
            if one.cost is not None
            else f"at each look{': ' * bool(one.reason)}{one.reason}"
        )
        text = cell_text(" ".join(one.text.split()))
        cells = (f"<code>{html.escape(text)}</code>", count, html.escape(cost), str(one.frames))
        rows.append("<tr>" + "".join(f"<td {left}>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th {left}>{name}</th>" for name in ("followed query", "rows", "cost afresh", "frames"))
    more = f"<p>and {len(queries) - QUERIES_MAX:,} more</p>" if len(queries) > QUERIES_MAX else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"
