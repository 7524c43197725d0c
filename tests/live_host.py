"""A store that live frames can follow, without a file or a server: what `database` does, in fifty lines."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from tripleweb.change import Change
from tripleweb.datalog.query import Query
from tripleweb.errors import TriplewebError
from tripleweb.live import LiveFrame, LiveQueries
from tripleweb.schema import SCHEMALESS
from tripleweb.store import Delta, Store
from tripleweb.subscriptions import Publication
from tripleweb.transaction import Transaction
from tripleweb.writes import set_triple

NAMES = "[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age]]"


def wait_until(condition: Callable[[], Any], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


class Host:
    """The lock, the thread of callbacks and the transactions of one store in memory."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.store = Store()
        self.lives = LiveQueries(self, self.store)
        self.state = "local"
        self.complete = True
        self.settled = 0  # how often somebody waited for a complete answer
        self.time = 0
        self.unfollowed = 0
        self.thread: threading.Thread | None = None
        self._tx: Transaction | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    # what live frames need

    @property
    def note(self) -> str:
        return self.state.removeprefix("local")

    @property
    def within_transaction(self) -> bool:
        return self._tx is not None and self.lock.acquire(blocking=False) and not self.lock.release()

    def submit(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        with self.lock:
            if self._tx is not None:
                raise TriplewebError("not within a transaction")
            return self.changed.wait_for(condition, timeout)

    def follow(self, query: Query, inputs: Sequence[Any]) -> Any:
        return query

    app = "app"
    publication: Publication | None = None  # what pages may look at any query by

    def publish(self, query: Query, inputs: Sequence[Any], rules: str | None) -> Publication | None:
        return self.publication

    def unfollow(self, asked: Any) -> None:
        self.unfollowed += 1

    def settle(self, asked: Any, timeout: float) -> bool:
        if self.within_transaction:
            return self.complete
        self.settled += 1
        return self.wait_for(lambda: self.complete, timeout)

    def attrs(self, asked: Any) -> dict[str, Any]:
        return {"complete": self.complete, "scope": "app", "position": self.time}

    def author(self, replica: str) -> str | None:
        return None

    # what a user does

    def live(self, query: str = NAMES, *inputs: Any, **options: Any) -> LiveFrame:
        return self.lives.open(self.lives.upkeep.open(query, inputs), inputs, **options)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction with the user's code in it."""
        with self.lock:
            self.lives.catch_up()
            with self._writing():
                yield

    def set(self, subject: str, **fields: Any) -> None:
        """Fields of a user, as one transaction or as part of the one that is open."""
        with self.lock, nullcontext() if self._tx is not None else self._writing():
            for name, value in fields.items():
                assert self._tx is not None
                set_triple(self._tx, SCHEMALESS, subject, f"user/{name}", value)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.time += 1
        tx = self._tx = Transaction(self.store, self.time, "a")
        try:
            yield
        except BaseException:
            self._tx = None
            tx.rollback()
            raise
        self._tx = None
        self._tell(tx.commit())

    def receive(self, *changes: tuple[str, str, str, Any]) -> None:
        """Changes from elsewhere."""
        with self.lock:
            self.time += 1
            self._tell(self.store.apply([Change(*change, self.time, "b") for change in changes]))

    def _tell(self, delta: Delta) -> None:
        if delta:
            self.lives.changed(delta)
        self.changed.notify_all()

    def finish_loading(self) -> None:
        with self.lock:
            self.complete = True
            self.changed.notify_all()
            self.lives.state_changed()
