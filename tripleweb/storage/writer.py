"""Threads in which commits are made durable, so that an event loop waits for a disk as long as it likes to.

An app always has the same thread, so its commits are made in the order in which they were submitted. Each ends in
exactly one call of `post(done, commit, error)`, `post` being how the caller wants to be called from another thread
(`loop.call_soon_threadsafe`). Who submits one commit while everything newer gathers in the next has group commit.

Folding and archiving are done in small slices while nothing else is waiting and nothing has come for a moment (`rest`
seconds), and between commits only for an app whose log runs away from its table or its archive. The threads are
daemons: what is not acknowledged may die with the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from tripleweb.errors import StorageError
from tripleweb.storage import TenantStorage
from tripleweb.sync.records import Commit

Post = Callable[..., Any]
Done = Callable[[Commit, Exception | None], None]
Retired = Callable[[Exception | None], None]

FOLD = 500  # registers in a slice
BACKLOG_MAX = 100_000  # log entries that are not in the table, or rows that need not be

log = logging.getLogger(__name__)


class _Lane:
    """One thread with its queue."""

    def __init__(self, name: str, rest: float) -> None:
        self.rest = rest
        self.jobs: deque[Callable[[], None]] = deque()
        self.unfolded: dict[int, TenantStorage] = {}  # by id(); touched by the thread only
        self.changed = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def put(self, job: Callable[[], None]) -> None:
        with self.changed:
            if self.stopping:
                raise StorageError("the writer has stopped")
            if self.thread.ident is None:
                self.thread.start()
            self.jobs.append(job)
            self.changed.notify()

    def _run(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            job()

    def _next(self) -> Callable[[], None] | None:
        """The next job; folding if none comes; None when all is done and nothing will come any more."""
        with self.changed:
            rested = False
            while not self.jobs:
                if self.stopping:
                    return None
                if rested:
                    return self._fold_one
                rested = not self.changed.wait(self.rest if self.unfolded else None) and bool(self.unfolded)
            return self.jobs.popleft()

    def _fold_one(self) -> None:
        """Slices of the longest-waiting app, until it is done or a job has come."""
        key, storage = next(iter(self.unfolded.items()))
        while not self.jobs and not self.stopping:
            if not self.fold(storage):
                self.unfolded.pop(key)
                return

    def fold(self, storage: TenantStorage) -> int:
        """One slice, of the older log where nothing is left to fold. A storage that fails here refuses the next commit,
        which is when its owner hears of it."""
        try:
            moved = storage.archive() if storage.unarchived > BACKLOG_MAX else 0
            return moved or storage.fold(FOLD) or storage.archive()
        except Exception:
            log.exception("folding the log of app %r failed", storage.app)
            return 0


class Flight:
    """A commit on its way to the disk. `error`: what went wrong, once it has landed."""

    __slots__ = ("_landed", "error")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._landed = threading.Event()

    def land(self, error: Exception | None) -> None:
        self.error = error
        self._landed.set()

    def wait(self, seconds: float) -> bool:
        """True if it has landed by then. The interpreter's lock is free meanwhile."""
        return self._landed.wait(seconds)


class Writer:
    """The threads; `post(function, *arguments)` is how results come back.

    `limit` bounds what may wait in all; `submit` raises `StorageError` beyond it.
    """

    def __init__(self, post: Post, *, threads: int = 2, limit: int = 10_000, rest: float = 0.25) -> None:
        self._post = post
        self._limit = limit
        self._hurried_until = 0.0
        self._lanes = [_Lane(f"tripleweb-writer-{n}", rest) for n in range(threads)]

    def submit(self, storage: TenantStorage, commit: Commit, done: Done) -> Flight:
        """Has `commit` made durable, then `done(commit, None)` called; `done(commit, error)` if that failed. Who waits
        for the flight knows before that."""
        flight = Flight()

        def job() -> None:
            error = self._tried(lambda: storage.commit(commit))
            flight.land(error)
            self._call(done, commit, error)
            if error is not None:
                lane.unfolded.pop(id(storage), None)
                return
            lane.unfolded[id(storage)] = storage
            if max(storage.backlog, storage.unarchived) > BACKLOG_MAX:
                lane.fold(storage)

        lane = self._lane(storage)
        self._put(lane, job)
        return flight

    def wait(self, flight: Flight, seconds: float) -> bool:
        """True if a commit lands within some seconds. At most a quarter of the time is spent waiting, whosever commits
        these are, and where one does not land in time a twentieth."""
        began = time.monotonic()
        if began < self._hurried_until:
            return False
        has_landed = flight.wait(seconds)
        now = time.monotonic()
        self._hurried_until = now + (3 if has_landed else 20) * (now - began)
        return has_landed

    def trim(self, storage: TenantStorage, floor: int) -> None:
        """Lets go of the log before a floor, one slice after the other, between commits. A storage that fails here
        refuses the next commit."""
        lane = self._lane(storage)

        def job() -> None:
            try:
                is_done = not storage.trim(floor)
            except Exception:
                log.exception("cutting off the log of app %r failed", storage.app)
                return
            if not (is_done or lane.stopping):
                lane.put(job)

        self._put(lane, job)

    def retire(self, storage: TenantStorage, done: Retired) -> None:
        """Closes a storage after its commits, then has `done(error or None)` called."""

        def job() -> None:
            lane.unfolded.pop(id(storage), None)
            self._call(done, self._tried(storage.close))

        lane = self._lane(storage)
        self._put(lane, job)

    def stop(self, timeout: float = 30) -> bool:
        """Takes nothing more, finishes what was submitted; True if that was done in time."""
        deadline = time.monotonic() + timeout
        for lane in self._lanes:
            with lane.changed:
                lane.stopping = True
                lane.changed.notify()
        for lane in self._lanes:
            if lane.thread.ident is not None:
                lane.thread.join(max(0, deadline - time.monotonic()))
        return not any(lane.thread.is_alive() for lane in self._lanes)

    def _lane(self, storage: TenantStorage) -> _Lane:
        return self._lanes[crc32(storage.app.encode()) % len(self._lanes)]

    def _put(self, lane: _Lane, job: Callable[[], None]) -> None:
        if sum(len(lane.jobs) for lane in self._lanes) >= self._limit:
            raise StorageError(f"{self._limit} commits are waiting for the disk")
        lane.put(job)

    def _tried(self, work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed to the one who submitted
            return error
        return None

    def _call(self, done: Callable[..., None], *arguments: Any) -> None:
        try:
            self._post(done, *arguments)
        except Exception:
            log.exception("the result of a commit could not be delivered")  # the caller's loop is closed
