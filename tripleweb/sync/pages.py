"""What connections are shown by queries that the server answers (`display`): who is shown what, and what a change of
the store means to them. Work for one connection comes in slices beside its loads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tripleweb.datalog.query import Query
from tripleweb.errors import QueryError
from tripleweb.store import Delta, Store
from tripleweb.sync.display import Display
from tripleweb.sync.feed import Feed
from tripleweb.sync.loads import Job, Loads
from tripleweb.sync.messages import Subscription
from tripleweb.sync.tail import Log


class Filed:
    """Things by the predicates that their queries read; under None those that read all."""

    def __init__(self) -> None:
        self._filed: dict[str | None, dict[Any, None]] = {}

    def put(self, query: Query, thing: Any) -> None:
        """It hears of changes from now on."""
        for predicate in _read(query):
            self._filed.setdefault(predicate, {})[thing] = None

    def take(self, query: Query, thing: Any) -> None:
        """It hears of them no more."""
        for predicate in _read(query):
            filed = self._filed[predicate]
            del filed[thing]
            if not filed:
                del self._filed[predicate]

    def hear(self, delta: Delta) -> Iterable[Any]:
        """Those whose queries read what a change has changed."""
        found: dict[Any, None] = {}
        if delta and self._filed:
            for predicate in (None, *sorted(delta.predicates)):
                found.update(self._filed.get(predicate, {}))
        return found


def _read(query: Query) -> Iterable[str | None]:
    predicates = query.predicates
    return (None,) if predicates is None else sorted(predicates)


class Pages:
    """The displays of a tenant."""

    def __init__(self, log: Log, store: Store, loads: Loads) -> None:
        self._log = log
        self._store = store
        self._loads = loads
        self._filed = Filed()
        self._shown: dict[Display, Feed] = {}

    def show(self, feed: Feed, subscription: Subscription) -> str:
        """Shows the answer of a query from now on; or why that cannot be read."""
        try:
            display = Display(subscription)
        except (QueryError, ValueError, TypeError) as error:
            return str(error)
        self.hide(feed, subscription.id)
        feed.displays[subscription.id] = display
        self._filed.put(display.query, display)
        self._shown[display] = feed
        self._run(display)
        return ""

    def hide(self, feed: Feed, name: str) -> None:
        """A subscription ends, if it is one of these."""
        if (display := feed.displays.pop(name, None)) is not None:
            self._filed.take(display.query, display)
            del self._shown[display]

    def leave(self, feed: Feed) -> None:
        """A connection is gone."""
        for name in list(feed.displays):
            self.hide(feed, name)

    def noticed(self, delta: Delta) -> None:
        """The store has changed."""
        for display in self._filed.hear(delta):
            display.stale = True
            self._run(display)

    def _run(self, display: Display) -> None:
        if not display.running:
            display.running = True
            feed = self._shown[display]
            self._loads.begin(feed, self._answer(feed, display))

    def _answer(self, feed: Feed, display: Display) -> Job:
        """Brings a display up to date, until it is not stale any more."""
        while display.stale:
            seq, batch = self._log.seq, self._log.last_batch()
            view = self._store.view(display.query.predicates)
            steps = display.answer(view, self._log.epoch, seq, self._loads.limits)
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    frame = done.value
                    break
                if display not in self._shown:
                    return
                yield False
            if display not in self._shown:
                return
            if frame is not None:
                feed.out.append((batch, frame))
                self._loads.due[feed] = None
            yield False
        display.running = False
