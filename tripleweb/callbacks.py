"""Who follows what a store holds; and the one thread of a store on which what its users gave to be called is called:
one after the other, in order.

Invariants: the thread is made with the first job; a job that raises, although it is expected to deal with its own
exceptions, is logged, and the next one is run; after `close` nothing more is taken.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from tripleweb.store import Delta

log = logging.getLogger("tripleweb")


class Watcher(Protocol):
    """Who follows what a session holds. All of it is called with the lock held, and must not raise."""

    def changed(self, delta: Delta) -> None:
        """A transaction, of this session or from the server, has changed the triples."""
        ...

    def catch_up(self) -> None:
        """The user's code is about to run within a transaction: now is the last whole state until its end."""
        ...

    def state_changed(self) -> None:
        """`state` or `complete` may have changed."""
        ...


class Callbacks:
    """Runs jobs on a thread of its own. Call with the store's lock held."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job` after those that came before it."""
        if self._closed:
            return
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            name = f"tripleweb-callbacks-{self._name}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """What was submitted is still run, and the thread ends."""
        self._closed = True
        if self._jobs is not None:
            self._jobs.put(None)

    def orphan(self) -> None:
        """In a fork, where the thread is not: what waited for it there is the parent's, the next job makes another."""
        self._jobs = None


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except Exception:
            log.exception("a callback failed")
        del job  # what it holds is not kept alive until the next one comes
