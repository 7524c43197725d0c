"""What becomes of the running stores of a process at its end, and when it forks.

At the end they are closed, with a little time for what is unsent. A fork has none of the threads that its parent's
stores live by, and shares sockets and files that are not its own: a store with a server or a file is closed there at
once, and says why; what it holds can still be read. One in memory belongs to nobody else, and goes on as a copy.

Invariants: a fork never speaks as its parent, nor touches its files; neither waits for the other. Every store's lock is
taken for the moment of the fork, so that the copy of what it guards is whole. A lock that a thread of the parent does
not give up is made anew in the fork, and the store behind it, which that thread may have left in the middle of a step,
is not read there.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from typing import Any, Protocol

log = logging.getLogger("tripleweb")

PATIENCE_S = 1.0  # for the locks of all stores, before a fork


class Running(Protocol):
    """A store that something has to be done about."""

    lock: Any

    @property
    def name(self) -> str:
        """What people know it by: its file, or its app."""
        ...

    def close(self, timeout: float = ...) -> None:
        """Ends it; what is unsent gets so many seconds."""
        ...

    def forked(self, parent: int, whole: bool) -> None:
        """This is the fork of the process `parent`; `whole`: no step was under way."""
        ...


_running: weakref.WeakSet[Running] = weakref.WeakSet()
_forking: list[tuple[Running, bool]] = []  # with their locks, as far as they could be had
_parent = os.getpid()


def add(store: Running) -> None:
    """From now on it is looked after, until it is closed or nobody holds it."""
    _running.add(store)


def remove(store: Running) -> None:
    """It has ended by itself."""
    _running.discard(store)


def _close_all() -> None:
    for store in list(_running):
        if not store.lock.acquire(timeout=1.0):  # a thread that will never end may have a transaction open
            log.warning("%s is left as it is: it is in use by another thread", store.name)
            continue
        store.lock.release()
        try:
            store.close(1.0)
        except Exception:
            log.exception("%s could not be closed", store.name)


def _before_fork() -> None:
    global _parent
    _parent = os.getpid()
    deadline = time.monotonic() + PATIENCE_S
    for store in list(_running):
        _forking.append((store, store.lock.acquire(timeout=max(0.0, deadline - time.monotonic()))))


def _after_in_parent() -> None:
    while _forking:
        store, held = _forking.pop()
        if held:
            store.lock.release()


def _after_in_child() -> None:
    while _forking:
        store, held = _forking.pop()
        if held:
            store.lock.release()
        else:
            store.lock._at_fork_reinit()  # as `logging` does with its own
        store.forked(_parent, held)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
