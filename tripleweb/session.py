"""A running store: one lock round one `ClientCore`, its durable replica, its link and everyone who waits for news.

Local writes go begin, write, save, accept; frames go receive, save, tell. Both happen under `lock`, so a query under
it sees whole transactions. Callbacks run on one thread of their own, outside of the lock and in order.

Invariants: what a write returned from is saved; what the server is told has been saved; the disk never skips a step
(a step of the server's that could not be saved is saved before anything later, and nothing leaves until then); an
interrupted cell (`KeyboardInterrupt`) finds each step done or not done at all; a replica never speaks to another
server, or as another user, than it did before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tripleweb import lifetime
from tripleweb.callbacks import Callbacks, Watcher
from tripleweb.clock import parse_stamp
from tripleweb.collector import collector_at_rest
from tripleweb.errors import ProtocolError, RejectedError, StorageError, TriplewebError
from tripleweb.fates import Fates
from tripleweb.link import Link, Pace
from tripleweb.shield import Shield
from tripleweb.storage.replica import Replica, check_belongs
from tripleweb.store import Delta, Store
from tripleweb.subscriptions import Asked, Subscriptions
from tripleweb.sync.client import APP, ClientCore
from tripleweb.sync.messages import ClientFrame, Fault, Receipt, ServerFrame, Subscription, Welcome
from tripleweb.sync.records import Fate, LocalCommit
from tripleweb.transaction import Transaction
from tripleweb.undo import Deed, Deeds, Left
from tripleweb.verdict import Verdict, Verdicts, again

log = logging.getLogger("tripleweb")

_T = TypeVar("_T")
_FOR_EVER_S = 1e8  # longer than a lock can be waited for is not to be an error
_REFUSING = ("forbidden", "protocol")  # faults that another attempt does not mend


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _here() -> tuple[int, object]:
    loop = asyncio._get_running_loop()  # None where none runs in this thread
    return threading.get_ident(), None if loop is None else asyncio.current_task(loop)


class Session:
    """One replica at work. `app` and `url` are "" for a store without a server.

    `on_identity` is called (with the lock held) with the server's id and the user's name when they become known.
    Raises `StorageError` if the replica cannot be read or is one of something else.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        app: str = "",
        url: str = "",
        partial: bool = False,
        on_identity: Callable[[str, str], None] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        now: Callable[[], int] = now_ms,
    ) -> None:
        self.app = app
        self._url = url
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # notified whenever anything below may have changed
        self.replica = replica
        state = replica.load()
        check_belongs(replica, state, app)
        self.outcomes = Fates(state)
        self.core = ClientCore(state, random_bytes=random_bytes, local=not app)
        self.closed = False
        self.orphaned = ""  # in a fork: why this store is closed there,
        self.is_whole = True  # and whether what it holds was copied whole
        self._now = now
        self._on_identity = on_identity
        self._link: Link | None = None
        self._tx: Transaction | None = None
        self._depth = 0
        self._opener: tuple[int, object] = 0, None  # the thread, and its task, that has opened a transaction
        self._deeds = Deeds(self.core.store.replicas)
        self.verdict: Verdict | None = None  # of the block that is open
        self.verdicts = Verdicts()  # that somebody may wait for
        self._waiting = 0  # how many threads are in `wait_for`
        self._unsaved: deque[LocalCommit] = deque()
        self._watchers: list[weakref.ref[Watcher]] = []
        # whom callbacks or displays need is kept alive here, by their watcher
        self.anchored: dict[int, Any] = {}
        self._fault: Fault | None = None
        self._expelled = False  # the server has ended this connection for good
        self._callbacks = Callbacks(app or "local")
        self._compaction: Iterator[None] | None = None
        # of a replica that loads what is asked; others have the whole app
        self.is_partial = bool(app) and partial
        self.subscriptions = Subscriptions(self.core)
        self._ticked = time.monotonic()
        if self.is_partial:
            self.subscriptions.restore(state.meta.get("asked", ()))
        elif app:
            self.core.subscribe(Subscription(APP))
        lifetime.add(self)

    @property
    def name(self) -> str:
        return self.app if self.replica.path == ":memory:" else self.replica.path

    # -- what is there -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the server is, as far as is known; "" without one."""
        return self._url if self._link is None else self._link.url

    @property
    def fates(self) -> list[Fate]:
        return self.outcomes.kept

    @property
    def store(self) -> Store:
        return self.core.store

    @property
    def state(self) -> str:
        """One of `local connecting online offline refused`."""
        tries = self._link is not None and self._link.connecting and not self.closed
        return "connecting" if tries and self.core.state == "offline" else self.core.state

    @property
    def position(self) -> str | None:
        """How far the server's log is in here, as text; None where there is no server or nothing came yet."""
        at = self.core.cursors.get(APP) if not self.is_partial else self.core.at or None
        return None if at is None else f"{self.core.epoch}:{at}"

    def is_settling(self, asked: Asked | None = None) -> bool:
        """True while waiting makes sense: on the way to the server, or to its present state, as far as it is asked."""
        if self.state != "online":
            return self.state == "connecting"
        return not (self.core.caught_up if asked is None else asked.is_settled)

    def wake(self) -> None:
        """There may be something to send."""
        if self._link is not None:
            self._link.wake()

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, operation: Callable[[Transaction], _T]) -> _T:
        """Runs `operation` on the open transaction of this thread, or in one of its own, which is then committed."""
        with Shield() as shield:
            shield.acquire(self.lock)
            try:
                if self._tx is not None:
                    self._check_opener()
                    return operation(self._tx)
                tx = self._begin()
                try:
                    done = operation(tx)
                except BaseException:
                    self._abandon(tx)
                    raise
                deed = self._commit(tx)
                if deed is not None:
                    self._deeds.add(deed)
                return done
            finally:
                self.lock.release()

    def begin(self) -> Transaction:
        """Opens a transaction and keeps the lock until `end`; within an open one it joins that."""
        with Shield() as shield:
            shield.acquire(self.lock)
            try:
                self._check_opener()
                if self._tx is None:
                    for watcher in self._alive():
                        watcher.catch_up()
                tx = self._begin() if self._tx is None else self._tx
                if shield.struck:
                    if self._depth == 0:
                        self._abandon(tx)
                    raise KeyboardInterrupt
            except BaseException:
                self.lock.release()
                raise
            self._depth, self._opener = self._depth + 1, _here()
            return tx

    def end(self, commit: bool) -> None:
        """Ends what `begin` opened. The outermost end commits, unless it or one before it said not to."""
        if not self._depth or self._opener[0] != threading.get_ident():
            raise TriplewebError("a transaction is ended once, by the thread that opened it")
        with Shield():
            tx, verdict = self._tx, self.verdict
            try:
                self._depth -= 1
                if self._depth == 0:
                    self.verdict = None
                if tx is None:  # undone by an inner end
                    if commit and self._depth == 0:
                        raise TriplewebError("the transaction was undone by an exception inside of it")
                elif not commit:
                    self._abandon(tx)
                elif self._depth == 0:
                    deed = self._commit(tx, verdict)
                    if deed is not None:
                        self._deeds.add(deed)
            finally:
                self.lock.release()

    def _check_opener(self) -> None:
        """Tasks of one thread share its lock; they would write into each other's transactions."""
        if self._depth and self._opener != _here():
            raise TriplewebError(
                "another task of this thread has a transaction open: do not await within one"
            )

    def _begin(self) -> Transaction:
        self._check_open()
        if self._depth:
            raise TriplewebError("the transaction was undone by an exception inside of it")
        self._tx = self.core.begin(self._now())
        return self._tx

    def _abandon(self, tx: Transaction) -> None:
        self._tx = None
        self.core.abandon(tx)

    def take_back(self, redo: bool = False) -> list[Left]:
        """Takes back the last transaction of this session, or with `redo` the last that took one back, by a new one;
        returns what it left alone. Raises `TriplewebError` if there is none, and within a transaction."""
        with Shield() as shield:
            shield.acquire(self.lock)
            try:
                if self._tx is not None or self._depth:
                    raise TriplewebError("cannot take anything back within a transaction: end it first")
                if self.core.is_guarded:  # what is taken back might be somebody else's by then
                    raise TriplewebError(
                        "the server has not decided on a guarded transaction yet: nothing is taken back before"
                    )
                deed = self._deeds.last(redo)
                tx = self._begin()
                try:
                    left = self._deeds.take_back(tx, deed)
                except BaseException:
                    self._abandon(tx)
                    raise
                self._deeds.turn(self._commit(tx, again(deed.check if redo else None)), redo)
                return left
            finally:
                self.lock.release()

    def _commit(self, tx: Transaction, verdict: Verdict | None = None) -> Deed | None:
        if verdict is not None and verdict.refusal:
            refusal, receipt = verdict.refuse(tx, self.core.limits.fates_max)
            self._abandon(tx)
            self.save_received(refusal, [receipt])
            self._tell(Delta(), state=True)
            return None
        check = None if verdict is None or self.core.local else verdict.check
        try:
            commit = self.core.prepare(tx, check)
            if commit is not None:
                self._save(commit)
        except BaseException:
            self._abandon(tx)
            raise
        self._tx = None
        delta = self.core.accept(tx, commit)
        self._tell(delta, state=bool(self.app) and self.core.state != "online")
        if self._link is not None:
            self._link.wake()
        known = commit.pending[0].id if commit is not None and commit.pending else ""
        if verdict is not None:
            self.verdicts.expect(known, verdict)
        return Deed(known, tx, delta, check) if tx.changes else None

    def _check_open(self) -> None:
        if self.closed:
            raise TriplewebError(self.orphaned or "this store was closed; open it again")

    # -- saving ------------------------------------------------------------------------------------------------

    def _save_the_unsaved(self) -> None:
        while self._unsaved:
            self.replica.save(self._unsaved[0])
            self._unsaved.popleft()

    def _save(self, commit: LocalCommit) -> None:
        """Saves a local transaction, or raises and has saved nothing of it."""
        self._save_the_unsaved()
        self.replica.save(commit)
        self._tidy()

    def save_received(self, commit: LocalCommit, receipts: Iterable[Receipt] = ()) -> None:
        """Saves a step that memory has taken already: if it cannot be saved now, it comes before anything later."""
        self.outcomes.note(commit, receipts)
        self._unsaved.append(commit)
        self._save_the_unsaved()
        self._tidy()

    def _tidy(self) -> None:
        if self.replica.due and self._compaction is None:
            self._compaction = self.replica.compact(self.store.registers())
            self.submit(self._compact)

    def _compact(self) -> None:
        """One step of compaction, on the thread of the callbacks, so that it never holds anybody up for long."""
        with self.lock:
            if self._compaction is None:
                return
            try:
                if self._unsaved:
                    raise StorageError("what the server sent could not be saved")
                next(self._compaction)
            except StopIteration:
                self._compaction = None
                return
            except StorageError:
                log.exception("%s cannot be compacted now", self.replica.path)
                self._compaction = None
                return
        self.submit(self._compact)

    # -- news --------------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Tells `watcher` what happens from now on, as long as somebody else keeps it alive."""
        with self.lock:
            self._watchers.append(weakref.ref(watcher))

    def _alive(self) -> list[Watcher]:
        found = [watcher for held in self._watchers if (watcher := held()) is not None]
        if len(found) < len(self._watchers):
            self._watchers = [held for held in self._watchers if held() is not None]
        return found

    def _tell(self, delta: Delta, state: bool = False) -> None:
        """Tells watchers what changed, then wakes who waits. `state`: more than triples may have changed."""
        for watcher in self._alive():
            if delta:
                watcher.changed(delta)
            if state:
                watcher.state_changed()
        if self._waiting:
            self.changed.notify_all()

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job` on the thread of the callbacks: one after the other, outside of the lock."""
        with self.lock:
            self._callbacks.submit(job)

    # -- waiting -----------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until `condition` (asked with the lock held) is true; False if it is not by then. Not to be called
        within a transaction, which would let others into the middle of it."""
        with self.lock:
            if self._tx is not None:
                raise TriplewebError("cannot wait within a transaction: end it first")
            self._waiting += 1
            try:
                return self.changed.wait_for(
                    condition, None if timeout is None else min(timeout, _FOR_EVER_S)
                )
            finally:
                self._waiting -= 1

    @property
    def within_transaction(self) -> bool:
        """True if this thread has a transaction open."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return self._tx is not None
        finally:
            self.lock.release()

    def flush(self, timeout: float | None = 30, *, strict: bool = False) -> None:
        """Returns when everything written so far is decided by the server.

        Raises `TimeoutError` if it is not after `timeout` seconds, at once when offline by choice or refused, and with
        `strict` `RejectedError` if anything written since the last strict flush was rejected.
        """
        with self.lock:
            waiting = {pending.id for pending in self.core.outbox.values()}

        def left() -> int:
            return sum(pending.id in waiting for pending in self.core.outbox.values())

        self.wait_decided(lambda: not left(), timeout)
        with self.lock:
            if count := left():
                raise TimeoutError(
                    f"{count} of {len(waiting)} transactions are not decided ({self.standing})"
                )
            if not strict:
                return
            rejected = self.outcomes.flushed()
        if rejected:
            reasons = ", ".join(sorted(rejected))
            raise RejectedError(
                f"{rejected.total()} transactions were rejected ({reasons}); db.receipts() says which"
            )

    def wait_decided(self, decided: Callable[[], bool], timeout: float | None) -> None:
        """Waits until `decided` is true, or nothing will be decided unless somebody does something."""
        if self.core.outbox and self._link is not None:
            self._link.hurry()
        self.wait_for(lambda: decided() or self._hopeless(), timeout)

    @property
    def standing(self) -> str:
        """The state, and why."""
        return f"{self.state}{': ' + self.core.reason if self.core.reason else ''}"

    def take_rejected(self) -> Counter[str]:
        """How many transactions were rejected and never told, restarts included, by reason. Waits for nobody: what can
        not be told now is told the next time."""
        commit = LocalCommit()
        if not self.outcomes.untold or self.closed or not self.lock.acquire(blocking=False):
            return Counter()
        try:
            rejected = self.outcomes.tell(commit)
            self.save_received(commit)
            return rejected
        finally:
            self.lock.release()

    def _hopeless(self) -> bool:
        """True if nothing will be decided unless somebody does something."""
        return self.closed or self._link is None or not self._link.wanted or self.core.state == "refused"

    # -- the link ----------------------------------------------------------------------------------------------

    def connect(
        self,
        token: str | None,
        *,
        label: str | None = None,
        pace: Pace | None = None,
        locate: Callable[[], tuple[str, str | None]] | None = None,
    ) -> None:
        """Starts to sync with `url`, from now on until `close`. `locate` finds a server that has moved; see `Link`."""
        with self.lock:
            self._check_open()
            self._link = Link(self, self._url, token, self.app, label=label, pace=pace, locate=locate)
            self._link.start()

    def go_offline(self) -> None:
        """Stops syncing; writes queue up."""
        with self.lock:
            if self._link is not None and self._link.wanted:
                self._link.go_offline()
                self.core.disconnected("by choice")
                self._tell(Delta(), state=True)

    def go_online(self) -> None:
        """Syncs again, at once."""
        with self.lock:
            self._check_open()
            if self._link is not None:
                if self.core.state in ("offline", "refused"):
                    self.core.disconnected()
                self._link.go_online()
                self._tell(Delta(), state=True)

    def link_up(self) -> None:
        self._save_the_unsaved()
        self._fault = None
        self._ticked = time.monotonic()
        self.core.connected(self._now())
        self._tell(Delta(), state=True)

    def link_received(self, frame: ServerFrame, waited: float) -> None:
        if isinstance(frame, Fault):
            self._fault, self._expelled = frame, frame.code == "forbidden"
        elif isinstance(frame, Welcome):
            self._check_identity(frame)
        before = self.core.state, self.core.caught_up
        # as of its arrival: the core reads clocks from it, and somebody may have held the lock for long
        with collector_at_rest():  # all that a load brings stays
            update = self.core.receive(frame, self._now() - int(waited * 1000))
        for pending in update.commit.pending if update.commit is not None else ():
            self._deeds.restamped(pending.id, (pending.time, self.core.replica))
        for receipt in update.receipts:
            rejected, stood = receipt.outcome == "rejected", receipt.triples_stood
            stamp, held = parse_stamp(receipt.stamp), receipt.registers_held
            self._deeds.decided(receipt.id, stamp, rejected, stood, receipt.unseen, held)
            self.verdicts.decided(receipt)
        try:
            if update.commit is not None:
                self.save_received(update.commit, update.receipts)
            if update.frame is not None:
                self.subscriptions.heard(update.frame)
        finally:
            self._tell(update.delta, state=before != (self.core.state, self.core.caught_up))

    def _check_identity(self, welcome: Welcome) -> None:
        """Refuses another server or user than this replica belongs to; its unsent writes are not for them."""
        known = self.core.server_id, self.core.user
        found = welcome.server, welcome.user
        if known == found:
            return
        if known != ("", ""):
            what = f"user {known[1]!r}" if known[0] == found[0] else "server"
            said = f"this store belongs to another {what} than {self.url} now speaks for: connect again"
            self._fault = Fault("forbidden", said)
            raise ProtocolError("forbidden", said)
        if self._on_identity is not None:
            self._on_identity(*found)

    def link_outgoing(self) -> Iterable[ClientFrame]:
        self._save_the_unsaved()
        return self.core.frames_to_send(self._now())

    def link_tick(self) -> None:
        passed, self._ticked = time.monotonic() - self._ticked, time.monotonic()
        self.subscriptions.tick(passed)
        self.core.ping(self._now())

    def link_down(self, reason: str, refused: bool) -> None:
        if self._fault is not None:
            reason, refused = self._fault.message, self._fault.code in _REFUSING
            self._fault = None
        if self._expelled and self._link is not None:  # trying again would bring back an app that was deleted
            self._expelled = False
            self._link.go_offline()
        self.core.disconnected(reason, refused)
        self._tell(Delta(), state=True)

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self, timeout: float = 2.0) -> None:
        """Ends it. Writes that are still unsent get `timeout` seconds while online, or on the way there; what does not
        make it is sent by the next session that takes up this replica."""
        if self._end_link(timeout):
            with self.lock:
                self.replica.close()

    def wipe(self) -> None:
        """Ends it and deletes the replica, unsent writes included."""
        self._end_link(0)
        with self.lock:
            self.replica.wipe()  # raises if it was closed before: by now it may be somebody else's

    def _end_link(self, timeout: float) -> bool:
        """False if this session has ended already."""
        deadline = time.monotonic() + timeout
        if (
            timeout
            and self.core.pending
            and self.state in ("connecting", "online")
            and not self.within_transaction
        ):
            try:
                self.flush(timeout)
            except TimeoutError as late:
                log.info("%s is closed: %s", self.app, late)
        with self.lock:
            if self.closed:
                return False
            self.closed = True
            self._compaction = None
            if self.app:
                self.core.disconnected("closed")
            self._callbacks.close()
            self.changed.notify_all()
        lifetime.remove(self)
        if self._link is not None:
            self._link.stop(max(0.0, deadline - time.monotonic()) + 0.5)
        return True

    def forked(self, parent: int, whole: bool) -> None:
        """This is a fork of the process that the session lives in: see `lifetime`."""
        self._link = self._compaction = None
        self._callbacks.orphan()
        self._waiting = 0
        if whole and not self.app and self.replica.path == ":memory:":
            return
        self.orphaned = f"this store is process {parent}'s, of which this one is a fork: open one of its own"
        if self._tx is not None and whole:
            self._abandon(self._tx)
        self.closed, self.is_whole, self._tx = True, whole, None
        self._callbacks.close()
        if self.app:
            self.core.disconnected(self.orphaned)
        self.replica.close()
