"""What is asked of a store is here, or it is said that it is not: loading before an answer, and what that is worth.

Invariants: nothing here waits within a transaction, nor longer than it was told to; an answer that may lack something
comes with a warning (`strict`: an `IncompleteError`), and says so in `attrs`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tripleweb.datalog.query import Query
from tripleweb.errors import IncompleteError, TriplewebError
from tripleweb.session import Session
from tripleweb.subscriptions import Asked
from tripleweb.sync.client import APP

PATIENCE_S = 1.0  # so long nobody is told that it takes long
STEP_S = 0.2
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class Loading:
    """Brings here what is asked of a session's store. An `Asked` is None where the whole app is here anyway."""

    def __init__(self, session: Session, progress: Progress | None = None) -> None:
        """`progress` shows how far something long has come, where somebody looks."""
        self._session = session
        self._progress = progress

    def ask(self, query: Query, inputs: Sequence[Any], rules: str | None) -> Asked | None:
        """Asks the server for what a query needs. Raises `QueryError` for what cannot be run."""
        session = self._session
        if not session.is_partial:
            return None
        with session.lock:
            return self._sent(session.subscriptions.ask(query, inputs, rules))

    def ask_kind(self, kind: str) -> Asked | None:
        """Asks the server for all entities of a kind."""
        return self.ask_predicates([f"{kind}/"])

    def ask_predicates(self, predicates: Sequence[str]) -> Asked | None:
        """Asks the server for all that has one of these predicates."""
        session = self._session
        if not session.is_partial:
            return None
        with session.lock:
            return self._sent(session.subscriptions.ask_predicates(predicates))

    def ask_read(self, predicates: Collection[str] | None) -> Asked | None:
        """Asks the server for all that a query reads, whether it fits there or not; None: that may be anything."""
        if predicates is None:
            return self.ask_app()
        return self.ask_predicates(sorted(predicates)) if predicates else None

    def ask_app(self) -> Asked | None:
        """Asks the server for all of the app."""
        return self.ask_predicates(())

    def _sent(self, asked: Asked) -> Asked:
        if not asked.is_settled:
            self._session.wake()
        return asked

    def hold(self, asked: Asked | None) -> None:
        """What was asked for stays here until `release`. Called with the lock held."""
        if asked is not None:
            self._session.subscriptions.hold(asked)

    def release(self, asked: Asked | None) -> None:
        """The opposite of `hold`."""
        if asked is not None:
            self._session.subscriptions.release(asked)

    def settle(self, asked: Asked | None, timeout: float) -> bool:
        """Waits for what the server has, as long as that makes sense; True if all of it was here at some time."""
        session = self._session
        if not session.is_whole:
            raise TriplewebError(session.orphaned)
        if session.app and session.is_settling(asked) and not session.within_transaction:
            deadline = time.monotonic() + timeout
            with self._held(asked):
                if not session.wait_for(lambda: not session.is_settling(asked), min(timeout, PATIENCE_S)):
                    self._wait_long(asked, deadline)
        return self._is_complete(asked)

    def _wait_long(self, asked: Asked | None, deadline: float) -> None:
        """Waits where somebody may want to see that it goes on."""
        session = self._session
        with self._progress(f"loading from {session.app}") if self._progress else nullcontext(None) as show:
            while (left := deadline - time.monotonic()) > 0:
                if session.wait_for(lambda: not session.is_settling(asked), min(left, STEP_S)):
                    return
                if show is not None:
                    show(*session.core.progress(APP if asked is None else asked.id))

    @contextmanager
    def _held(self, asked: Asked | None) -> Iterator[None]:
        """Whatever else is asked for meanwhile, this is not given up."""
        with self._session.lock:
            self.hold(asked)
        try:
            yield
        finally:
            with self._session.lock:
                self.release(asked)

    def load(self, asked: Asked | None, timeout: float, strict: bool) -> None:
        """What is asked for is here, or it is said that it is not."""
        if not self.settle(asked, timeout):
            self._say_incomplete(strict, asked)

    def predicates(self, timeout: float, strict: bool) -> frozenset[str]:
        """What there is data of: here, and at the server where not all of it is here."""
        session = self._session
        found: dict[str, int] | None = {}
        if not session.is_partial:
            self.load(None, timeout, strict)
        else:
            found = None if session.within_transaction else self.describe(timeout)
            if found is None:
                self._say_incomplete(strict)
        with session.lock:
            return frozenset((*(found or ()), *session.store.predicates()))

    def describe(self, timeout: float) -> dict[str, int] | None:
        """The server's predicates, and how many triples each has; None where it cannot be asked."""
        session = self._session
        if session.state == "connecting":
            session.wait_for(lambda: session.state != "connecting", timeout)
        with session.lock:
            name = session.subscriptions.describe()
            if name is None:
                return None
            session.wake()
        try:
            session.wait_for(
                lambda: session.subscriptions.described(name) is not None or session.state != "online",
                timeout,
            )
            return session.subscriptions.described(name)
        finally:
            with session.lock:
                session.subscriptions.forget(name)

    def _is_complete(self, asked: Asked | None) -> bool:
        return self._session.core.complete if asked is None else asked.is_complete

    def _say_incomplete(self, strict: bool, asked: Asked | None = None) -> None:
        session = self._session
        reason = session.core.reason if asked is None or asked.failure is None else asked.failure.message
        said = f"not all of {session.app} is here ({session.state}{f': {reason}' if reason else ''})"
        if strict:
            raise IncompleteError(said)
        warnings.warn(f"{said}; the answer may lack some of it", stacklevel=4)

    def attrs(self, asked: Asked | None = None) -> dict[str, Any]:
        """What an answer of this moment is worth; flat JSON. Called with the lock held."""
        session = self._session
        return {
            "complete": self._is_complete(asked),
            "scope": "local" if not session.app else "query" if session.is_partial else "app",
            "position": session.position,
        }
