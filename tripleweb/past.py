"""Looking back, for a user: what an app was at a moment, what became of an entity. The server is asked, as it has the
log.

A `Past` is a state that stands still: the first question fixes the transaction after which it is, and what is loaded of
it, kind by kind as queries need it, stays. Invariants: an answer is whole or an error, never less than was asked for;
what this session has written and the server not yet accepted is not in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tripleweb.collector import collector_at_rest
from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import Result
from tripleweb.datalog.clauses import Rules
from tripleweb.datalog.executor import Executor
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.query import Query
from tripleweb.errors import HistoryError, IncompleteError, TriplewebError
from tripleweb.ids import check_id, kind_of
from tripleweb.influx import absorb
from tripleweb.schema import Schema, field_of
from tripleweb.select import Compiled, Selection
from tripleweb.session import Session
from tripleweb.store import Store
from tripleweb.subscriptions import is_whole
from tripleweb.sync.messages import ClientFrame, Failed
from tripleweb.sync.past import PAST, Deeds, Did, Was, told_registers, told_rows
from tripleweb.sync.past import Past as AskPast
from tripleweb.terms import normalise

if TYPE_CHECKING:
    import pandas as pd

    from tripleweb.frame import Columns
    from tripleweb.live import LiveFrame

_HISTORY = {"time": "d", "user": "s", "predicate": "s", "old": "", "new": ""}
_EPOCH = datetime.fromtimestamp(0, UTC)


class Asking(Protocol):
    """What this needs of a database."""

    schema: Schema
    _session: Session

    def _parsed(self, text: str) -> Query: ...


def moment_ms(moment: Any) -> int:
    """Milliseconds of a moment: an aware datetime, a `pandas.Timestamp`, or such a date as text. Raises `ValueError`
    for one without a time zone, `TypeError` for anything else.

    >>> moment_ms("2013-01-01T00:00:00.001999Z") - moment_ms("2013-01-01T01:00:00+01:00")
    1
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"not a moment: {moment[:60]!r}; write it as 2013-01-01T00:00:00Z") from None
    if not isinstance(moment, datetime):
        raise TypeError(f"a moment is an aware datetime or pandas.Timestamp, not {type(moment).__name__}")
    if getattr(moment, "nanosecond", 0):
        moment = moment.floor("us")  # type: ignore[attr-defined]
    plain = normalise(moment)
    if not isinstance(plain, datetime):  # NaT
        raise ValueError("a missing time is not a moment")
    return (plain - _EPOCH) // timedelta(milliseconds=1)


def history(db: Asking, subject: str, timeout: float) -> pd.DataFrame:
    """A row for each value that came, went or was replaced at an entity; see `Database.history`."""
    from tripleweb.frame import result_frame

    check_id(subject)
    rows: list[tuple[Any, ...]] = []
    for frame in _told(db._session, lambda name: Deeds(name, subject), timeout):
        assert isinstance(frame, Did)
        rows += [(_EPOCH + timedelta(milliseconds=at), *rest) for at, *rest in told_rows(frame)]
    return result_frame(tuple(_HISTORY), rows, kinds=_HISTORY, attrs={"complete": True, "scope": "history"})


class Past:
    """A state that was, to be asked like a store; `Database.as_of` makes it."""

    def __init__(
        self,
        db: Asking,
        budget: Callable[[], evaluate.Budget],
        *,
        at: int | None = None,
        position: tuple[str, int] | None = None,
    ) -> None:
        self._db = db
        self._budget = budget
        self._at = at
        self._position = position
        self._store = Store()
        self._executor = Executor(self._store)
        self._kinds: set[str] | None = set()  # that are here; None: all
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        if self._position is not None:
            return f"<{self._db._session.app} as of {':'.join(map(str, self._position))}>"
        return f"<{self._db._session.app} as of {_EPOCH + timedelta(milliseconds=self._at or 0)}>"

    def q(self, query_text: str, /, *inputs: Any, timeout: float = 30) -> Any:
        """Answers a Datalog query as `Database.q` does, of what was. Raises `QueryError`, `HistoryError` where the log
        does not reach back so far, and `IncompleteError` where the server cannot be asked."""
        parsed = self._db._parsed(query_text)
        return self._shown(parsed, self.run(parsed, inputs, timeout))

    def select(self, kind: str, /) -> Selection:
        """The entities that there were of a kind, as `Database.select` chooses among them; `df()` is their frame, and
        `live()` an error: what was does not change. Without a schema the first look at what a reference leads to loads
        all that was, as that may be of any kind. Raises as `q`, and `SchemaError`."""
        return Selection(_Then(self), kind)

    def kinds(self, *, timeout: float = 30) -> list[str]:
        """The kinds that there was data of, sorted. Loads all that was. Raises as `q`."""
        with self._lock:
            return sorted({kind_of(predicate) for predicate in self.store(None, timeout).predicates()})

    def fields(self, kind: str, /, *, timeout: float = 30) -> list[str]:
        """The fields of a kind that there was data of, sorted. Raises as `q`."""
        with self._lock:
            names = self.store({kind}, timeout).predicates()
            return sorted(field_of(name) for name in names if kind_of(name) == kind)

    def run(self, query: Query, inputs: Sequence[Any], timeout: float, rules: Rules | None = None) -> Result:
        """The answer to a query, with kept rules where it has them from elsewhere."""
        with self._lock:
            self._load(_kinds_of(query, inputs, rules), timeout)
            return self._executor.run(query, inputs, rules, self._budget())

    def _shown(self, parsed: Query, result: Result, columns: Columns | Compiled | None = None) -> Any:
        from tripleweb.frame import columns_of, shape

        known = columns or columns_of(parsed, self._db.schema)
        attrs = self.attrs() | {f"skipped_{column}": count for column, count in result.skipped.items()}
        return shape(result, parsed.shape, kinds=known.kinds, nullable=known.nullable, attrs=attrs)

    def get(self, kind: str, id: str, /, *, timeout: float = 30) -> dict[str, Any] | None:
        """What was known of an entity as one kind; None if there was none. Raises as `q`."""
        subject = check_id(id)
        with self._lock:
            self._load({kind}, timeout)
            return self._db.schema.entity(self._store, kind, subject)

    def frame(self, kind: str, /, *, timeout: float = 30) -> pd.DataFrame:
        """All entities that there were of a kind, as `Database.frame` shows them. Raises as `q`."""
        from tripleweb.frame import kind_frame

        self._db.schema.fields(kind)
        with self._lock:
            self._load({kind}, timeout)
            frame = kind_frame(self._store, self._db.schema, kind)
            frame.attrs["tripleweb"] = self.attrs()
        return frame

    def store(self, kinds: set[str] | None, timeout: float = 30) -> Store:
        """What was visible of some kinds, None for all, as a store that nobody writes to."""
        with self._lock:
            self._load(kinds, timeout)
            return self._store

    def attrs(self) -> dict[str, Any]:
        """What a frame of it says about itself; flat JSON."""
        position = self._position
        return {
            "complete": True,
            "scope": "past",
            "position": "" if position is None else f"{position[0]}:{position[1]}",
        }

    def _load(self, kinds: set[str] | None, timeout: float) -> None:
        """Has these kinds here. The first time it finds the transaction, even where no kind is asked for."""
        held = self._kinds
        if held is None or (self._position is not None and kinds is not None and kinds <= held):
            return
        wanted = None if kinds is None else sorted(kinds - held)
        position = self._position
        at = self._at if position is None else None

        def make(name: str) -> ClientFrame:
            return AskPast(name, at=at, position=position, kinds=wanted)

        frames = list(_told(self._db._session, make, timeout))
        with collector_at_rest():  # all of it stays
            for frame in frames:
                assert isinstance(frame, Was)
                position = (frame.epoch, frame.seq)
                absorb(self._store, told_registers(frame))
        self._position = position
        self._kinds = None if kinds is None else held | kinds


@dataclass(frozen=True, slots=True)
class _Then:
    """A past, as a selection asks it: what a query needs are kinds."""

    past: Past
    patience: ClassVar[float] = 30

    @property
    def schema(self) -> Schema:
        return self.past._db.schema

    @property
    def is_partial(self) -> bool:
        return self.past._kinds is not None

    @property
    def load(self) -> Callable[[Any, float, bool], object]:
        return lambda kinds, timeout, strict: self.past.store(kinds, timeout)

    @property
    def follow(self) -> Callable[[Query, Sequence[Any], float, Compiled], LiveFrame]:
        raise TriplewebError("what was does not change, so nothing can follow it: look at it with df()")

    def names(self, kind: str, timeout: float, strict: bool) -> Collection[str]:
        self.past.store({kind}, timeout)
        return ()

    @contextmanager
    def look(self) -> Iterator[Store]:
        with self.past._lock:
            yield self.past._store

    def parsed(self, text: str) -> Query:
        return self.past._db._parsed(text)

    def ask(self, parsed: Query, inputs: Sequence[Any]) -> set[str] | None:
        return _kinds_of(parsed, inputs)

    def answer(self, parsed: Query, made: Compiled, asked: Any) -> Any:
        return self.past._shown(parsed, self.past.run(parsed, made.inputs, self.patience), made)


def _kinds_of(query: Query, inputs: Sequence[Any], rules: Rules | None = None) -> set[str] | None:
    """The kinds that a query reads; None: it may be any."""
    predicates = prepare(query, inputs, rules)[0].query.predicates
    return None if predicates is None else {kind_of(one) for one in predicates}


def _told(session: Session, make: Callable[[str], ClientFrame], timeout: float) -> Iterator[Was | Did]:
    """The frames of an answer, all of it. Raises `HistoryError`, `IncompleteError`."""
    if not session.app:
        raise HistoryError(
            "history is kept by a server: this store has none; open it with tripleweb.connect to look back"
        )
    if session.within_transaction:
        raise TriplewebError("cannot look back within a transaction: end it first")
    deadline = time.monotonic() + timeout
    if session.state == "connecting":
        session.wait_for(lambda: session.state != "connecting", timeout)
    with _asked(session, make) as frames:
        while not is_whole(frames):
            left = deadline - time.monotonic()
            if left <= 0:
                raise IncompleteError(f"the server has not told the past within {timeout} seconds")
            if session.state != "online":
                raise IncompleteError(_unreachable(session))
            session.wait_for(lambda: is_whole(frames) or session.state != "online", left)
        for frame in frames:
            if isinstance(frame, Failed):
                raise (
                    HistoryError(frame.message) if frame.code == "history" else IncompleteError(frame.message)
                )
            yield frame


@contextmanager
def _asked(session: Session, make: Callable[[str], ClientFrame]) -> Iterator[Sequence[Was | Did | Failed]]:
    with session.lock:
        if session.state == "online" and PAST not in session.core.features:
            raise HistoryError("this server cannot look back: it runs an older version of tripleweb")
        sent = session.subscriptions.look_back(make)
        if sent is None:
            raise IncompleteError(_unreachable(session))
        session.wake()
    name, frames = sent
    try:
        yield frames
    finally:
        with session.lock:
            session.subscriptions.forget(name)
            session.wake()


def _unreachable(session: Session) -> str:
    reason = session.core.reason
    return (
        f"the past of {session.app} is kept by its server, which cannot be asked now"
        f" ({session.state}{f': {reason}' if reason else ''})"
    )
