"""A store as its live frames need it: where they wait, what they ask the server for, who wrote what; and as selections
need it.

Invariants: it keeps the store alive with its frames; what needs the store's lock says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tripleweb.datalog.answer import Result
from tripleweb.datalog.query import Query
from tripleweb.loading import Loading
from tripleweb.schema import Schema
from tripleweb.select import Compiled
from tripleweb.session import Session
from tripleweb.status import foot
from tripleweb.store import Store
from tripleweb.subscriptions import Asked, Publication

if TYPE_CHECKING:
    from tripleweb.frame import Columns
    from tripleweb.live import LiveFrame, LiveQueries
    from tripleweb.pin import Pin


class Owner(Protocol):
    """What this needs of a database."""

    schema: Schema
    _session: Session
    _loading: Loading
    _lives: LiveQueries | None

    def _parsed(self, text: str) -> Query: ...
    def _ask(self, parsed: Query, inputs: Sequence[Any]) -> Asked | None: ...
    def _answer(
        self, parsed: Query, inputs: Sequence[Any], columns: Columns | Compiled | None, asked: Asked | None
    ) -> Any: ...
    def _follow(
        self, parsed: Query, inputs: Sequence[Any], timeout: float, columns: Columns | Compiled | None
    ) -> LiveFrame: ...


@dataclass(frozen=True, slots=True)
class Now:
    """A database as its selections need it; see `select.Source`."""

    database: Owner
    patience: ClassVar[float] = 10

    @property
    def schema(self) -> Schema:
        return self.database.schema

    @property
    def is_partial(self) -> bool:
        return self.database._session.is_partial

    @property
    def load(self) -> Callable[[Any, float, bool], object]:
        return self.database._loading.load  # itself: its warning names the line that many frames up

    @property
    def follow(self) -> Callable[[Query, Sequence[Any], float, Compiled], LiveFrame]:
        return self.database._follow

    def names(self, kind: str, timeout: float, strict: bool) -> Collection[str]:
        return self.database._loading.predicates(timeout, strict)

    @contextmanager
    def look(self) -> Iterator[Store]:
        with self.database._session.lock:
            yield self.database._session.store

    def parsed(self, text: str) -> Query:
        return self.database._parsed(text)

    def ask(self, parsed: Query, inputs: Sequence[Any]) -> Asked | None:
        return self.database._ask(parsed, inputs)

    def answer(self, parsed: Query, made: Compiled, asked: Any) -> Any:
        return self.database._answer(parsed, made.inputs, made, asked)


class Hosting:
    """A database as its live frames need it; see `live.LiveHost`."""

    def __init__(self, database: Owner) -> None:
        session = self._session = database._session
        self.lock = session.lock
        self.submit = session.submit
        self.wait_for = session.wait_for
        self._database = database
        self._loading = database._loading

    @property
    def state(self) -> str:
        return self._session.state

    @property
    def note(self) -> str:
        return foot(self._session)

    @property
    def within_transaction(self) -> bool:
        return self._session.within_transaction

    def follow(self, parsed: Query, inputs: Sequence[Any]) -> Asked | None:
        asked = self._database._ask(parsed, inputs)
        self._loading.hold(asked)
        return asked

    def unfollow(self, asked: Asked | None) -> None:
        self._loading.release(asked)

    def settle(self, asked: Asked | None, timeout: float) -> bool:
        return self._loading.settle(asked, timeout)

    def attrs(self, asked: Asked | None) -> dict[str, Any]:
        with self.lock:
            return self._loading.attrs(asked)

    def pin(self, query: Query, inputs: Sequence[Any], result: Result, asked: Asked | None) -> Pin:
        from tripleweb.pin import pinned, refuse

        session = self._session
        complete = bool(self._loading.attrs(asked)["complete"])
        position = refuse(session.position, session.core.pending, complete, session.core.reason)
        return pinned(session.app, position, query, inputs, result)

    @property
    def app(self) -> str:
        return self._session.app

    def publish(self, query: Query, inputs: Sequence[Any], rules: str | None) -> Publication | None:
        session = self._session
        known = session.subscriptions.publish(query, inputs, rules, self._heard)
        if known is not None and not known.is_settled:
            session.wake()
        return known

    def _heard(self) -> None:
        """What pages may look at, or whether one does, is otherwise now: whoever shows it is to know."""
        lives = self._database._lives
        if lives is not None:
            lives.state_changed()

    def author(self, replica: str) -> str | None:
        core = self._session.core
        return core.user or None if replica == core.replica else None
