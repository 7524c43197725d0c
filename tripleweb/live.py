"""Live frames: DataFrames that follow their query, and the book of which queries are followed.

`LiveQueries` belongs to one store. Frames of equal queries share one `Followed` query, which is evaluated when
somebody first looks and from then on kept up to date by what changes; what cannot be kept so is evaluated again when
somebody looks, or at once after a transaction where somebody listens.

Invariants: everything here that is shared is guarded by the store's one lock; a query is never evaluated in the
middle of a transaction, so nobody is shown what may still be undone; each change of an answer that has listeners
goes to them once and in order, on the store's thread of callbacks and outside of its lock; a frame that was handed
out never changes and is its owner's to modify. A live frame stays alive while it is displayed or listened to, else
as long as somebody holds it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
from pandas.api.types import is_object_dtype

from tripleweb import because
from tripleweb.datalog.answer import Result
from tripleweb.datalog.query import Query
from tripleweb.datalog.upkeep import Followed, Upkeep
from tripleweb.display import Display, current_cell
from tripleweb.errors import TriplewebError
from tripleweb.followed import Hold, LiveDelta, Shared
from tripleweb.frame import own, shape
from tripleweb.pin import Pin
from tripleweb.showing import Shown
from tripleweb.store import Delta, Store
from tripleweb.subscriptions import Publication, key_of

if TYPE_CHECKING:
    from tripleweb.charts import Plot

log = logging.getLogger("tripleweb")

_COPIES_ARE_LAZY = int(pd.__version__.partition(".")[0]) >= 3  # copy on write


class LiveHost(Protocol):
    """What live frames need of the store that they follow."""

    @property
    def app(self) -> str:
        """The app that it is a replica of; "" for a store without a server."""
        ...

    @property
    def lock(self) -> Any:
        """The re-entrant lock that guards the store, held for the whole of a transaction."""
        ...

    @property
    def state(self) -> str:
        """A word for people: local, online, offline …"""
        ...

    @property
    def note(self) -> str:
        """How the store stands, for the foot of a table."""
        ...

    @property
    def within_transaction(self) -> bool:
        """True if this thread has a transaction open."""
        ...

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job` on the thread of the callbacks: in order, outside of the lock."""
        ...

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until `condition`, asked with the lock held whenever something may have changed, is true."""
        ...

    def follow(self, query: Query, inputs: Sequence[Any]) -> Any:
        """What the query needs is kept here from now on; returns what the others know it by. Called with the lock."""
        ...

    def unfollow(self, asked: Any) -> None:
        """It need not be kept here any longer. Called with the lock."""
        ...

    def settle(self, asked: Any, timeout: float) -> bool:
        """Waits until all that a query needs is here; False if it is not by then (at once in a transaction)."""
        ...

    def attrs(self, asked: Any) -> dict[str, Any]:
        """What a frame of a query says about itself now: flat JSON, at least `complete` (bool)."""
        ...

    def author(self, replica: str) -> str | None:
        """Who writes as this replica; None where that is not known here."""
        ...

    def pin(self, query: Query, inputs: Sequence[Any], result: Result, asked: Any) -> Pin:
        """A pin of an answer of now. Called with the lock."""
        ...

    def publish(self, query: Query, inputs: Sequence[Any], rules: str | None) -> Publication | None:
        """What pages may look at the query by; None where they cannot now. Called with the lock."""
        ...


class LiveQueries:
    """The live queries of one store."""

    def __init__(self, host: LiveHost, store: Store, anchored: dict[int, Any] | None = None) -> None:
        """`store` is the host's; `anchored` is where frames are kept alive while they are listened to or displayed; a
        host that outlives whoever holds it passes one of its own."""
        self.host = host
        self.upkeep = Upkeep(store)
        self._shared: dict[Hashable, Shared] = {}
        self._of: dict[int, Shared] = {}  # by id() of what they follow
        # Who is to be told of a change, by the predicates that a query reads (None: all); and what was looked at
        # before, is not kept up to date and has changed since. By id().
        self._readers: dict[str | None, dict[int, Shared]] = {}
        self._dirty: dict[int, Shared] = {}
        self._looking: dict[
            int, Shared
        ] = {}  # likewise: kept up to date, but what is pulled is read when it is seen
        self.orders = count()  # in which queries are told of a change: as they were first listened to
        # of frames that nobody holds any more; the collector puts them here
        self.ended: deque[Hold] = deque()
        # by id(): a LiveFrame compares like its frame
        self._anchored: dict[int, LiveFrame] = {} if anchored is None else anchored

    def open(
        self,
        live: Followed,
        inputs: Sequence[Any] = (),
        given: Sequence[Any] = (),
        rules: str | None = None,
        *,
        kinds: Mapping[str, str] | None = None,
        nullable: Collection[str] = (),
        timeout: float = 10.0,
    ) -> LiveFrame:
        """A live frame of this query of `upkeep`; `live` is dropped where an equal query with equal `inputs` is
        followed already. `given` are the inputs as the host knows them, rules among them; `rules` are the kept ones.

        `kinds` and `nullable` are those of `result_frame`; `timeout` is how long the first look waits for a
        complete answer. Nothing is evaluated yet.
        """
        key = key_of((live.query.text, live.query.rules, inputs)) or object()
        with self.host.lock:
            self._sweep()
            shared = self._shared.get(key)
            if shared is None:
                asked = self.host.follow(live.query, given)
                shared = Shared(
                    key, live, self, dict(kinds or {}), frozenset(nullable), asked, (given, rules)
                )
                self._shared[key] = self._of[id(live)] = shared
            frame = LiveFrame(self, shared, timeout)
            shared.hold(frame)
            return frame

    def changed(self, delta: Delta) -> None:
        """Tells the queries that this delta touches. Call with the lock held, after each transaction and before
        those who wait are notified. Does not raise: what a listener's query raises goes to `LiveFrame.error`."""
        if self.ended:
            self._sweep()
        try:
            dropped = self.upkeep.changed(delta)
        except BaseException:  # an interrupt: what was dropped is seen from what is there
            for shared in list(self._of.values()):
                self.soil(shared)
            raise
        heard: dict[int, Shared] = {}
        for live in dropped:
            shared = self._of[id(live)]
            heard[id(shared)] = shared
        if self._readers:
            for predicate in (None, *sorted(delta.predicates)):
                heard.update(self._readers.get(predicate, ()))
        told: list[Shared] = []
        for shared in heard.values():
            maintained = shared.live.maintained
            if maintained is None:
                self.soil(shared)
            elif not shared.live.has_news:
                continue
            if shared.anchors:
                told.append(shared)
        for shared in sorted(told, key=attrgetter("order")):
            self._tell(shared)

    def soil(self, shared: Shared) -> None:
        """Something may have changed that a query reads."""
        if shared.evaluated and not shared.live.is_current:
            shared.dirty = True
            self.file(shared)

    def _tell(self, shared: Shared) -> None:
        frames = shared.frames()
        if shared.live.is_current or any(frame._listeners for frame in frames):
            self._try(shared)
        for frame in frames:
            frame._touch()

    def catch_up(self) -> None:
        """Brings up to date what was looked at before. Call with the lock held, before the user's code runs in a
        transaction: until its end those live frames show the state at its beginning. (One that nobody has looked
        at sees, like `q`, what the transaction has written so far.)"""
        if self.ended:
            self._sweep()
        for shared in [*self._dirty.values(), *self._looking.values()]:
            self._try(shared)

    def _try(self, shared: Shared) -> None:
        try:
            shared.refresh()
        except Exception as error:  # noqa: BLE001 (a callable of the user's may raise anything)
            for frame in shared.frames():
                frame._fail(error, "evaluating a live query")

    def file(self, shared: Shared) -> None:
        """Files a query under what it has to be told, and leaves it out where it has not."""
        is_current = shared.live.is_current
        here = id(shared)
        if shared.dirty and shared.evaluated and not is_current and shared.holds:
            self._dirty[here] = shared
        else:
            self._dirty.pop(here, None)
        if is_current and shared.holds and shared.live.query.looks_up:
            self._looking[here] = shared
        else:
            self._looking.pop(here, None)
        read: Collection[str | None] = ()
        if shared.anchors or (shared.evaluated and not is_current and not shared.dirty):
            found = shared.live.query.predicates
            read = (None,) if found is None else found
        if read is not shared.read:
            for predicate in shared.read:
                del self._readers[predicate][here]
                if not self._readers[predicate]:
                    del self._readers[predicate]
            for predicate in read:
                self._readers.setdefault(predicate, {})[here] = shared
            shared.read = read

    def _sweep(self) -> None:
        """Forgets the queries whose frames nobody holds any more."""
        while self.ended:
            self.release(self.ended.popleft())

    def release(self, hold: Hold) -> None:
        """A frame has ended."""
        shared = hold.shared
        if shared.holds.pop(id(hold), None) is not None and not shared.holds:
            del self._shared[shared.key], self._of[id(shared.live)]
            self.file(shared)
            self.upkeep.release(shared.live)
            self.host.unfollow(shared.asked)

    def state_changed(self) -> None:
        """Has displayed tables show the store's new state (offline, loaded …)."""
        with self.host.lock:
            for frame in list(self._anchored.values()):
                frame._touch()

    def close(self) -> None:
        """Closes every live frame of the store."""
        with self.host.lock:
            frames = [frame for shared in self._shared.values() for frame in shared.frames()]
        for frame in frames:
            frame.close()


class _Listener:
    __slots__ = ("call", "shown", "stopped")

    def __init__(self, call: Callable[[LiveFrame, LiveDelta], object]) -> None:
        self.call = call
        self.stopped = False
        self.shown = False


class LiveFrame(Shown):
    """A DataFrame that follows its query. In expressions it behaves like its present frame.

    `live["age"].mean()`, `len(live)`, `live.plot()`, `live + 1` work as they do for `live.df`; functions that insist
    on a DataFrame, such as `pandas.concat`, want `live.df` itself. As the last value of a cell it shows a table
    that keeps itself up to date until it is closed or its cell is run again.
    """

    __slots__ = (
        "__weakref__", "_cell", "_closed", "_displays", "_error", "_failed", "_hold", "_host", "_listeners", "_owner",
        "_seen", "_settled", "_shared", "_timeout",
    )  # fmt: skip

    def __init__(self, owner: LiveQueries, shared: Shared, timeout: float) -> None:
        self._owner = owner
        self._hold: Hold  # set by whoever opens it
        self._host = owner.host
        self._shared = shared
        self._timeout = timeout
        self._seen = -1  # the version of the last frame given out
        self._settled = False
        self._closed = False
        self._error: BaseException | None = None
        self._failed = False  # evaluation failed, and that was shown
        self._listeners: list[_Listener] = []
        self._displays: list[Display] = []
        self._cell = current_cell()

    # -- looking -----------------------------------------------------------------------------------------------

    @property
    def df(self) -> pd.DataFrame:
        """The present answer: an ordinary DataFrame, yours to modify; the next access gives the fresh one."""
        version, frame = self._look()
        self._seen = max(self._seen, version)
        return frame

    @property
    def value(self) -> Any:
        """The present answer in the shape that `db.q` gives: a DataFrame, a Series, a tuple or a single value."""
        form = self._shared.live.query.shape
        if form == "relation":
            return self.df
        version, result = self._result()
        self._seen = max(self._seen, version)
        return shape(
            result,
            form,
            kinds=self._shared.kinds,
            nullable=self._shared.nullable,
            attrs=self._attrs(result.skipped),
        )

    @property
    def version(self) -> int:
        """A number that grows with each change of the answer."""
        shared = self._shared
        with self._host.lock:
            shared.refresh()
            return shared.live.version

    @property
    def error(self) -> BaseException | None:
        """What a callback (or an evaluation for one) raised last; None if nothing did."""
        return self._error

    @property
    def closed(self) -> bool:
        """True once it follows its query no more."""
        return self._closed

    def wait(
        self, timeout: float | None = 30, until: Callable[[pd.DataFrame], Any] | None = None
    ) -> LiveFrame:
        """Returns this live frame as soon as it is newer than the last `.df` seen, or as soon as `until(df)` is
        true (asked at once and after each change). Raises `TimeoutError` otherwise, or when it is closed.

        Not within a transaction: nothing new would come.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._settle(None if timeout is None else min(timeout, self._timeout))
        looked = self._seen
        while True:
            if until is not None:
                looked, frame = self._look()
                self._seen = max(self._seen, looked)
                if until(frame):
                    return self
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._host.wait_for(partial(self._is_newer, looked), left):
                wanted = "a newer answer" if until is None else "the answer that was waited for"
                raise TimeoutError(f"{wanted} did not come within {timeout} seconds ({self._host.state})")
            if until is None and not self._closed:
                return self
            if self._closed:
                raise TimeoutError("the live frame was closed: nothing new will come")

    def _is_newer(self, than: int) -> bool:
        return self._closed or self.version > than

    def _settle(self, timeout: float | None = None) -> None:
        """The first look waits for a complete answer; what is here by then has to do."""
        if not self._settled:
            limit = self._timeout if timeout is None else timeout
            complete = self._host.settle(self._shared.asked, limit)
            self._settled = complete or limit >= self._timeout

    def _result(self) -> tuple[int, Result]:
        self._settle()
        with self._host.lock:
            self._shared.refresh()
            return self._shared.live.version, self._shared.live.result

    def _look(self) -> tuple[int, pd.DataFrame]:
        self._settle()
        shared = self._shared
        with self._host.lock:
            shared.refresh()
            live, memo = shared.live, shared.memo
            stamp, attrs = shared.stamp, self._attrs(live.skipped)
            frame = memo[1] if memo is not None and memo[0] == stamp else None
            rows, is_appended = ([], False) if frame is not None else live.held
        if frame is None:
            frame = shared.build(stamp, rows, is_appended)
        copy = frame.copy(deep=not _COPIES_ARE_LAZY)
        if live.query.looks_up:  # pandas copies neither dicts nor lists
            for name in [name for name, dtype in copy.dtypes.items() if is_object_dtype(dtype)]:
                copy[name] = pd.Series([own(cell) for cell in copy[name]], dtype=object)
        copy.attrs["tripleweb"] = attrs
        return stamp.version, copy

    def _attrs(self, skipped: Mapping[str, int]) -> dict[str, Any]:
        attrs = self._host.attrs(self._shared.asked)
        attrs |= {f"skipped_{column}": count for column, count in skipped.items()}
        return attrs

    def why(self, row: Any, /, *, derivations: int = 1) -> pd.DataFrame:
        """Why a row is in the answer: the triples and conditions that make it so, a line a row.

        `row` is its number (a label of `live.df`), a row of it as a Series, a dict of as many columns as tell it
        from all others, or a tuple of all its values. Shown are so many `derivations`, those of the fewest triples
        first; of an aggregate, the rows of its group. Columns: `derivation`, `depth` (how many rules it is in),
        `kind` (one of `triple call input rule or not aggregate pull`), `clause`, `subject predicate value` of the
        triple, `time` and `user`, who wrote it, where that is known here (a replica knows of its own writes), `note`
        (the values a condition held with), `ways` (in how many ways a rule holds). `attrs["tripleweb"]` counts
        `derivations` and `triples`, and the `rows` of a group with the `rows_left_out`. Raises `ValueError` where
        not exactly one row is meant, `TypeError`, `BudgetError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", id="ada", name="Ada", age=36)
        >>> live = db.live("[:find ?name :where [?u :user/name ?name] [?u :user/age ?age] [(> ?age 30)]]")
        >>> why = live.why(0)
        >>> why["clause"].tolist()
        ['[?u :user/name ?name]', '[?u :user/age ?age]', '[(> ?age 30)]']
        >>> why["value"].tolist(), why["note"].tolist()
        (['Ada', 36, None], ['', '', '(> 36 30)'])
        """
        self._settle()
        with self._host.lock:
            shared = self._shared
            if self._closed:
                raise TriplewebError("this live frame was closed; open it again")
            if self._host.within_transaction:  # the triples are ahead of the answer
                raise TriplewebError(
                    "why a row is there is not to be told within a transaction: end it first"
                )
            shared.refresh()
            live, attrs = shared.live, self._attrs(shared.live.skipped)
            return because.why(live, row, derivations, self._host.author, attrs, live.budget)

    def pin(self) -> Pin:
        """The present answer, to be shown again by `Database.at`, by whoever may read the app: a text with the query,
        the server's position and the answer's digest. What is written must be decided (`db.flush()`), and the answer
        complete: `TriplewebError`, `HistoryError` for a store without a server, `ValueError` for what cannot be asked
        again.
        """
        self._settle()
        with self._host.lock:
            shared = self._shared
            shared.refresh()
            return self._host.pin(shared.live.query, shared.live.inputs, shared.live.result, shared.asked)

    # -- following ---------------------------------------------------------------------------------------------

    def on_change(self, fn: Callable[[LiveFrame, LiveDelta], object]) -> Callable[[], None]:
        """Calls `fn(live, delta)` after each transaction that changes the answer, in order, on the store's one
        thread of callbacks and outside of its lock; `delta.added` and `delta.removed` are DataFrames. Returns a
        function that stops it. What `fn` raises goes to `error` and is logged once.
        """
        if not callable(fn):
            raise TypeError(f"on_change expects a function of (live, delta), not {type(fn).__name__}")
        listener = _Listener(fn)
        with self._host.lock:
            if self._closed:
                raise TriplewebError("this live frame was closed; open it again")
            self._shared.refresh()  # what is there already is no change
            self._listeners.append(listener)
            self._anchor()

        def stop() -> None:
            listener.stopped = True
            with self._host.lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)
                self._anchor()

        return stop

    def react(self, *others: Any) -> Any:
        """`@live.react` runs a function now and whenever the frame has changed, and replaces its output in place: what
        it prints, draws, returns. It gets the frame, or nothing. `@live.react(other, …)` follows several frames.

        In a notebook it runs between cells, never in one, and not more often than it takes; an error is its output. It
        ends with its cell, which runs again, or its frame. In a script it runs on the store's thread of callbacks.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> people = db.live("[:find ?name :where [_ :user/name ?name]]")
        >>> @people.react
        ... def count(df):
        ...     print(len(df), "people")
        0 people
        """
        from tripleweb import reacting

        if len(others) == 1 and not isinstance(others[0], LiveFrame):
            return reacting.react([self], others[0])
        if not all(isinstance(other, LiveFrame) for other in others):
            raise TypeError("react takes a function, or the other frames that it follows")
        return partial(reacting.react, [self, *others])

    @property
    def plot(self) -> Plot:
        """As `df.plot`; in a notebook the chart follows the frame."""
        from tripleweb.charts import Plot

        return Plot(self)

    def close(self) -> None:
        """Ends all following: callbacks, waiting and displays. What was seen last stays."""
        with self._host.lock:
            if self._closed:
                return
            if not self._shared.evaluated:
                try:
                    self._shared.refresh()
                except Exception as error:  # noqa: BLE001 (a query that cannot be run ends, too)
                    self._fail(error, "evaluating a live query")
            for listener in self._listeners:
                listener.stopped = True
            self._listeners.clear()
            displays, self._displays = self._displays, []
            self._anchor()
            frozen = self._shared.freeze()
            self._owner.release(self._hold)
            del self._hold  # its end is told already
            self._shared, self._closed = frozen, True
        for display in displays:
            display.close()

    def _call(self, listener: _Listener, delta: LiveDelta) -> None:
        """One call of a listener, on the thread of the callbacks."""
        self._settle()
        if listener.stopped:
            return
        try:
            listener.call(self, delta)
        except Exception as error:
            self._error = error
            if not listener.shown:
                listener.shown = True
                log.error("a callback of a live frame failed", exc_info=error)
            self._touch()

    def _fail(self, error: Exception, what: str) -> None:
        self._error = error
        if not self._failed:
            self._failed = True
            log.error("%s failed", what, exc_info=error)

    def _anchor(self) -> None:
        """Keeps this frame alive exactly while it is listened to or displayed."""
        shared = self._shared
        if (self._listeners or self._displays) and not self._closed:
            self._owner._anchored[id(self)] = self
            if not shared.anchors:
                shared.order = next(self._owner.orders)
            shared.anchors.add(id(self))
        else:
            self._owner._anchored.pop(id(self), None)
            shared.anchors.discard(id(self))
        self._owner.file(shared)

    def _touch(self) -> None:
        for display in self._displays:
            display.touch()

    def __len__(self) -> int:
        self._settle()
        with self._host.lock:
            self._shared.refresh()
            return len(self._shared.live.held[0])

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._shared.live.query.columns)
