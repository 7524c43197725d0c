"""What connections are shown by queries that the server answers, as a whole (`display`) or by windows (`windows`): who
is shown what, and what a change of the store means to them. Work comes in slices beside the loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec.structs import replace

from tripleweb.datalog.query import Query
from tripleweb.errors import QueryError
from tripleweb.store import Delta, Store
from tripleweb.sync.display import Display
from tripleweb.sync.feed import Feed
from tripleweb.sync.loads import Failure, Job, Loads
from tripleweb.sync.messages import Failed, Subscription, input_from_wire
from tripleweb.sync.published import Publications, Publish, Published, Watched
from tripleweb.sync.tail import Log
from tripleweb.sync.views import View, ViewError
from tripleweb.sync.windows import TooMany, Window, Windows


class Unknown(Exception):
    """A name that means nothing here."""


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
    """The displays and windows of a tenant."""

    def __init__(self, log: Log, store: Store, loads: Loads, published: Publications) -> None:
        self._published = published
        self._log = log
        self._store = store
        self._loads = loads
        self._filed = Filed()
        self._shown: dict[Display, Feed] = {}
        self._viewers: dict[Window, Feed] = {}
        self._answers = Filed()
        self.windows = Windows(
            log, store, loads.limits, partial(loads.begin, None), self._later, self._ready, self._fail
        )

    def show(self, feed: Feed, subscription: Subscription) -> Failure | None:
        """Shows the answer of a query from now on; or why it cannot be shown."""
        try:
            if subscription.view is not None:
                self._open(feed, subscription, subscription.view)
                return None
            if subscription.query is None:
                return "query", "a subscription of kind 'rows' has a query, or a view and the name of one"
            display = Display(subscription)
        except ViewError as error:
            return "view", str(error)
        except Unknown as error:
            return "unknown", str(error)
        except TooMany as error:
            return "limits", str(error)
        except (QueryError, ValueError, TypeError) as error:
            return "query", str(error)
        self.hide(feed, subscription.id)
        feed.displays[subscription.id] = display
        self._filed.put(display.query, display)
        self._shown[display] = feed
        self._run(display)
        return None

    def _open(self, feed: Feed, subscription: Subscription, view: View) -> None:
        if len(feed.windows) - (subscription.id in feed.windows) >= self._loads.limits.windows_max:
            raise TooMany(f"a connection has at most {self._loads.limits.windows_max:,} windows")
        name = subscription.published
        if name:
            meant = self._published.find(name, self._log.now_ms)
            if meant is None:
                raise Unknown("nobody knows this view here (any more)")
            subscription = replace(subscription, query=meant.query, inputs=meant.inputs, rules=meant.rules)
        window = self.windows.open(feed, subscription, view)
        window.published = name
        self.hide(feed, subscription.id)
        feed.windows[subscription.id] = window
        self._viewers[window] = feed
        self._answers.put(window.answer.told.query, window)
        for publisher in self._published.look(name) if name else ():
            publisher.out.append((0, Watched(name)))
            self._loads.due[publisher] = None

    def publish(self, feed: Feed, asked: Publish, user: str, batch: Callable[[], int]) -> None:
        """Gives a query its name, or says why it has none; the name leaves when what commit `batch` has is durable."""
        self._loads.due[feed] = None
        try:
            inputs = [input_from_wire(wire) for wire in asked.inputs]
            name = self._published.publish(asked, user, self._log.now_ms, inputs)
        except (QueryError, ValueError, TypeError) as error:
            feed.out.append((0, Failed(asked.id, "query", str(error))))
            return
        feed.out.append((batch(), Published(asked.id, name)))
        if self._published.hear(feed, name):
            feed.out.append((batch(), Watched(name)))

    def scroll(self, feed: Feed, name: str, view: View) -> None:
        """A window looks otherwise now, if it is (still) there."""
        if (window := feed.windows.get(name)) is not None:
            try:
                self.windows.scroll(window, view)
            except ViewError as error:
                self._fail(window, "view", str(error))

    def hide(self, feed: Feed, name: str) -> None:
        """A subscription ends, if it is one of these."""
        if (display := feed.displays.pop(name, None)) is not None:
            self._filed.take(display.query, display)
            del self._shown[display]
        if (window := feed.windows.pop(name, None)) is not None:
            self._answers.take(window.answer.told.query, window)
            self.windows.close(window)
            del self._viewers[window]
            if window.published:
                self._published.look_away(window.published)

    def resume(self, feed: Feed) -> None:
        """A connection reads again."""
        for window in feed.windows.values():
            self.windows.resume(window)

    def _later(self, expected: Callable[[], float], run: Callable[[], None]) -> None:
        self._loads.long.append((expected, run))

    def _ready(self, window: Window) -> None:
        self._loads.due[self._viewers[window]] = None

    def _fail(self, window: Window, code: str, message: str) -> None:
        feed = self._viewers[window]
        self.hide(feed, window.id)
        feed.sizes.pop(window.id, None)
        feed.out.append((0, Failed(window.id, code, message)))
        self._loads.due[feed] = None

    def leave(self, feed: Feed) -> None:
        """A connection is gone."""
        for name in [*feed.displays, *feed.windows]:
            self.hide(feed, name)
        self._published.leave(feed)

    def noticed(self, delta: Delta) -> None:
        """The store has changed."""
        for display in self._filed.hear(delta):
            display.stale = True
            self._run(display)
        self.windows.changed(delta)
        for answer in dict.fromkeys(window.answer for window in self._answers.hear(delta)):
            self.windows.noticed(answer)

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
