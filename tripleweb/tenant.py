"""One open app at the server: what arrives, what becomes durable, what leaves when.

One task an app (`Tenant`) drives the core: it takes what has come in, hands commits to the writer threads, sends what
may leave, and does long work in slices between which the loop runs on. Small pushes the core takes as they come, a
bounded number of them between two turns of the task, and never while the task is in the middle of its turn.

Invariants: nothing leaves before what it promises is durable (the core sees to it; nothing is sent past it but
faults); the event loop is never held for longer than a slice and a burst's commit (`patience_s`), whatever clients
send; everything has a bound and a deadline. A broken protocol costs the connection. A failed or overdue commit, or an
error in the core, costs the open app: its connections are closed, and the next client has it read from storage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from tripleweb.collector import collector_at_rest
from tripleweb.errors import DamagedError, ProtocolError, StorageError
from tripleweb.hindsight import Hindsight
from tripleweb.ids import RandomBytes, nano_id
from tripleweb.line import CLOSED_BY_FAILURE, Line, Outlet, spread
from tripleweb.metrics import Counts
from tripleweb.storage import App, TenantStorage, TenantStores, backups
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.storage.writer import Writer
from tripleweb.sync import messages
from tripleweb.sync.messages import (
    FRAME_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    ClientFrame,
    Confirm,
    Fault,
    Push,
    Took,
    Unsubscribe,
)
from tripleweb.sync.past import Deeds, Past
from tripleweb.sync.records import Commit
from tripleweb.sync.server import Actor, Limits, TenantCore
from tripleweb.view import View

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds and deadlines of a server; seconds and bytes."""

    linger_s: float = 60  # an app without connections stays open
    tick_s: float = 15  # between two looks at what may be forgotten
    tenants_max: int = 256  # open apps
    lines_max: int = 4_000  # connections
    slice_s: float = 0.02  # work between two turns of the loop
    slice_steps_max: int = 4  # evaluation steps in it, each bounded by the core
    thread_bytes: int = 32 << 10  # a larger frame is taken in a thread, not on the loop
    direct_bytes: int = 4 << 10  # a smaller one as it comes,
    direct_max: int = 200  # so many of them between two turns of the app's task
    uncommitted_bytes_max: int = 32 << 20  # taken in while a commit is on its way to the disk
    # less than `unsent_bytes_max`: whoever follows gets it in one message
    transaction_bytes_max: int = TRANSACTION_BYTES_MAX + FRAME_BYTES_MAX
    frames_burst: int = 20_000  # that a connection may send at once,
    frames_a_second: float = 10_000  # and from then on: more is not read sooner
    unsent_bytes_high: int = 1 << 20  # a slower reader is paused,
    unsent_bytes_low: int = 256 << 10  # until this little is left
    unsent_bytes_max: int = 256 << 20  # more at once ends the connection
    open_s: float = 60
    commit_s: float = 60
    burst_min: int = 20  # transactions in a commit, for which the loop waits
    patience_s: float = 0.005  # so long: its thread would else wait for the interpreter
    confirmed_s: float = 1  # what clients have confirmed waits so long for a commit to go with
    send_s: float = 60  # for one message
    backup_every_s: float = 86_400  # an app that changes is backed up in the server's folder; 0: never
    backups_kept: int = 3  # of each app
    log_s: float = backups.LOG_MS / 1_000  # what the log has of an app's history,
    log_bytes_max: int = 1 << 30
    log_min: int = (
        20_000  # and of that the newest entries, however large; `log_every_s`: how often it is looked at
    )
    log_every_s: float = 3_600
    goodbye_s: float = 2  # for what is still to be sent when an app closes


class Host(Protocol):
    """What an open app needs of its server."""

    stores: TenantStores
    server_id: str
    limits: HubLimits
    core_limits: Limits | None
    random_bytes: RandomBytes
    now_ms: Callable[[], int]
    apps: dict[str, App]
    counts: Counts
    is_closed: bool

    @property
    def writer(self) -> Writer: ...

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, done beside the loop."""
        ...

    async def retire(self, storage: TenantStorage) -> None:
        """Closes a storage after what was submitted to it."""
        ...

    def forget(self, tenant: Tenant) -> None:
        """The tenant is closed."""
        ...

    def tend(self, tenant: Tenant) -> None:
        """Some time has passed: what is due for its data is done, beside the loop."""
        ...


_SMALL = (Push, Confirm, Took)  # what may be taken as it comes


@dataclass(slots=True)
class _Arrival:
    line: Line
    frame: ClientFrame
    bytes: int
    taken: asyncio.Future[None]


class Tenant:
    """One open app."""

    _core: TenantCore

    def __init__(self, hub: Host, app: str) -> None:
        self.app = app
        self.limits = hub.limits
        self.lines: dict[int, Line] = {}
        self.expected = 0  # who waits for `ready`
        self.ending = False
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self.used_at = self._loop.time()
        self._storage: TenantStorage | None = None
        self._inbox: deque[_Arrival | Callable[[], None]] = deque()
        self._landed: deque[tuple[Commit, Exception | None]] = deque()
        self._in_flight: Commit | None = None
        self._flight_ends = self._left_at = 0.0
        self.cut_due = 0.0  # when it is to be looked whether the log has outgrown its bounds
        self._tick_due = self._loop.time() + hub.limits.tick_s
        self._uncommitted = 0  # bytes taken in since the last commit left
        self._has_unhurried = False  # there may be something to commit that is not urgent
        self._direct = 0  # frames that may be taken as they come, before the task has its turn
        self._failure: Exception | None = None  # of one of them
        self._hindsight = Hindsight(self)
        self._wake = asyncio.Event()
        self._landing = asyncio.Event()  # of the commit that is out
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.exception())  # nobody may be left who asks
        self.task = asyncio.create_task(self._live())

    # -- what others call: it only leaves notes for the task ----------------------------------------------------

    def join(self, number: int, actor: Actor, outlet: Outlet) -> Line:
        """A new connection; the app is open."""
        actor = actor if actor.session else replace(actor, session=nano_id(self._hub.random_bytes, 12))
        line = self.lines[number] = Line(self, number, actor, outlet)
        self.post(self._connect, line)
        return line

    async def view(self, predicates: frozenset[str] | None) -> tuple[View, str, int]:
        """(some predicates, None for all, as they are now; the epoch; the seq that they are the state of).

        It may not be durable yet: see `durable`. Raises `StorageError` if the app failed.
        """
        seen: asyncio.Future[tuple[View, str, int]] = self._loop.create_future()

        def look() -> None:
            if not seen.done():
                seen.set_result((self._core.store.view(predicates), self._core.epoch, self._core.seq))

        if not self.ending:
            self._inbox.append(look)
            self._wake.set()
            either: list[asyncio.Future[Any]] = [seen, self.task]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not seen.done():
            raise StorageError(f"app {self.app} was closed meanwhile")
        return seen.result()

    async def durable(self, seq: int) -> None:
        """Returns when the state of `seq` is on disk. Raises `StorageError` if it never will be."""
        while self._core.durable_seq < seq:
            if self.task.done():
                raise StorageError(f"app {self.app} was closed meanwhile")
            await self._landing.wait()

    @property
    def position(self) -> tuple[str, int]:
        """(epoch, seq) of the last transaction that is on disk; the app is open."""
        return self._core.epoch, self._core.durable_seq

    async def beside(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, done beside the loop."""
        return await self._hub.in_thread(work, *arguments)

    @property
    def storage(self) -> TenantStorage:
        """Where its data is; the app is open."""
        assert self._storage is not None
        return self._storage

    @property
    def backup(self) -> messages.Cursor | None:
        """How far the latest verified backup reaches."""
        return self._core.backup

    def backed_up(self, position: messages.Cursor) -> None:
        """A verified backup reaches this far: clients are told."""
        self._core.backup = position

    @property
    def durable_seq(self) -> int:
        """The number of the last transaction that is on disk; 0 while the app is being opened."""
        return self._core.durable_seq if self._storage is not None else 0

    def release(self) -> None:
        """Somebody who used the app does so no longer."""
        self.expected -= 1
        self.used_at = self._loop.time()
        self._wake.set()

    def take(self, line: Line, frame: ClientFrame, size: int) -> Awaitable[None] | None:
        """None if the core has taken the frame, or never will; else that is so when it is awaited."""
        if self.ending:
            return None
        self._wake.set()
        if self._direct and size <= self.limits.direct_bytes and type(frame) in _SMALL:
            if not (self._inbox or self._is_choked or line.carried):
                self._direct -= 1
                try:
                    self._receive_now(line, frame, size)
                except Exception as error:  # noqa: BLE001 - the task ends by it, as by one of its own
                    self._failure, self._direct = error, 0
                return None
        arrival = _Arrival(line, frame, size, self._loop.create_future())
        self._inbox.append(arrival)
        return arrival.taken

    def post(self, note: Callable[[Line], None], line: Line) -> None:
        """Has `note(line)` called by the task, after what came before it."""
        self._inbox.append(lambda: note(line))
        self._wake.set()

    def end(self) -> None:
        """Closes the app after what has come in so far."""
        self.ending = True
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        return not (self.lines or self.expected or self.ending)

    # -- the task ----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        failure: Exception | None = None
        try:
            self._storage, self._core = await self._hub.in_thread(self._open)
            self.ready.set_result(None)
            while not self.ending or self._in_flight is not None:
                self._direct = self.limits.direct_max
                await self._rest()
                self._direct = 0
                while await self._slice():
                    self._direct = self.limits.direct_max
                    await asyncio.sleep(0)
                    self._direct = 0
        except asyncio.CancelledError:  # the hub waits no longer
            if not self.ready.done():
                self.ready.set_exception(ProtocolError("closing", "the server is stopping"))
            raise
        except StorageError as error:
            failure = error
            _log.error("app %s is closed here, to be read again from storage: %s", self.app, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, what is in memory is no longer to be trusted
            failure = error
            _log.exception("app %s is closed here, to be read again from storage", self.app)
        self.ending, self._direct = True, 0
        try:
            await self._shut(failure)
        finally:
            self._loop.call_soon(self._announce)  # when the task is done

    def _open(self) -> tuple[TenantStorage, TenantCore]:
        import tripleweb.datalog.vectorised  # noqa: F401  # beside the loop, or the first query would hold it up

        hub = self._hub
        if self.app not in hub.apps:
            entry = App(self.app, self.app, hub.now_ms())
            hub.stores.put(entry)
            hub.apps[self.app] = entry
        try:
            return self._read()
        except DamagedError as error:
            if not isinstance(hub.stores, SqliteStores) or hub.is_closed:
                raise
            _log.error("%s", backups.rescue(hub.stores, self.app, str(error)))
            return self._read()

    def _read(self) -> tuple[TenantStorage, TenantCore]:
        hub = self._hub
        storage = hub.stores.open(self.app)
        try:
            with collector_at_rest():
                core = TenantCore(
                    storage.load(),
                    server_id=hub.server_id,
                    random_bytes=hub.random_bytes,
                    limits=hub.core_limits,
                )
            if hub.is_closed:  # it did not wait: the directory may be somebody else's by now
                raise StorageError(f"app {self.app} was opened after its server had closed")
        except BaseException:
            storage.close()
            raise
        return storage, core

    async def _rest(self) -> None:
        """Until there is something to do."""
        if self._wake.is_set() and not self._is_overdue:
            self._wake.clear()
            await asyncio.sleep(0)  # what the sockets have by now is taken together
            return
        now = self._loop.time()
        if now >= self._tick_due:
            self._core.tick(self._hub.now_ms())
            self._hub.tend(self)
            self._tick_due = now + self.limits.tick_s
        ends = self._tick_due
        if self._in_flight is not None:
            ends = min(ends, self._flight_ends)
        elif self._has_unhurried:
            ends = min(ends, now + self.limits.confirmed_s)
        elif self.is_idle:
            ends = min(ends, self.used_at + self.limits.linger_s)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                await self._wake.wait()
        if self._is_overdue:
            raise StorageError(f"a commit took longer than {self.limits.commit_s} seconds")
        if self.is_idle and self._loop.time() >= self.used_at + self.limits.linger_s:
            self.ending = True
        self._wake.clear()

    async def _slice(self) -> bool:
        """A bounded piece of what there is to do; True if there is more of it."""
        if self._failure is not None:
            raise self._failure
        ends = time.monotonic() + self.limits.slice_s
        steps, stalled = 0, False
        while time.monotonic() < ends:
            took = await self._take_one()
            if self._core.has_work() and not stalled and steps < self.limits.slice_steps_max:
                stalled = not self._core.step()  # all of it waits for slow readers, or for what is sent below
                steps += 1
            elif not took:
                break
        self._commit()
        sent = await self._pump()
        if self._core.is_heavy:  # as long as a query may take: the app waits for it, the loop does not
            await self._hub.in_thread(self._core.evaluate)
            return True
        is_working = self._core.has_work() and (sent or not stalled)
        return is_working or bool(self._landed) or (bool(self._inbox) and not self._is_choked)

    @property
    def _is_overdue(self) -> bool:
        return self._in_flight is not None and not self._landed and self._loop.time() > self._flight_ends

    @property
    def _is_choked(self) -> bool:
        """The disk, or the queries of guarded transactions, are behind: nothing more is taken in before they have
        caught up."""
        is_full = self._in_flight is not None and self._uncommitted > self.limits.uncommitted_bytes_max
        return is_full or self._core.is_behind

    async def _take_one(self) -> bool:
        if self._landed:
            self._land(*self._landed.popleft())
        elif not self._inbox or self._is_choked:
            return False
        elif isinstance(first := self._inbox.popleft(), _Arrival):
            try:
                await self._receive(first)
            finally:
                if not first.taken.done():
                    first.taken.set_result(None)
        else:
            first()
        return True

    async def _receive(self, arrival: _Arrival) -> None:
        line, frame = arrival.line, arrival.frame
        if line.number not in self.lines:
            return
        try:
            if self._weigh(line, frame, arrival.bytes) > self.limits.thread_bytes:
                await self._hub.in_thread(self._core.receive, line.number, frame, self._hub.now_ms())
            else:
                self._core.receive(line.number, frame, self._hub.now_ms())
        except ProtocolError as error:
            self._refuse(line, error)
        else:
            if isinstance(frame, Past | Deeds):
                self._hindsight.ask(line, frame)
            elif isinstance(frame, Unsubscribe):
                self._hindsight.give_up(line, frame.id)

    def _receive_now(self, line: Line, frame: ClientFrame, size: int) -> None:
        """A small frame, as it comes."""
        try:
            self._weigh(line, frame, size)
            self._core.receive(line.number, frame, self._hub.now_ms())
        except ProtocolError as error:
            self._refuse(line, error)

    def _weigh(self, line: Line, frame: ClientFrame, size: int) -> int:
        """The bytes of a frame, and of what has come of its transaction before."""
        if not isinstance(frame, Push):
            self._has_unhurried = self._has_unhurried or isinstance(frame, Confirm)
            return size
        weight = line.carried + size
        self._has_unhurried = True
        self._uncommitted += size
        line.carried = weight if frame.transactions and frame.transactions[-1].more else 0
        if weight > self.limits.transaction_bytes_max:
            self._core.exceed(line.number)
        return weight

    def _refuse(self, line: Line, error: ProtocolError) -> None:
        self._core.disconnect(line.number, self._hub.now_ms())
        line.fault(error.code, str(error))

    def _connect(self, line: Line) -> None:
        if line.number in self.lines:
            self._core.connect(line.number, line.actor, self._hub.now_ms())

    def part(self, line: Line) -> None:
        """A connection is gone."""
        if self.lines.pop(line.number, None) is not None:
            self._core.disconnect(line.number, self._hub.now_ms())
            self.used_at = self._loop.time()

    def resume(self, line: Line) -> None:
        """A slow reader has caught up."""
        line.paused = False
        self._core.resume(line.number)

    def set_role(self, line: Line) -> None:
        """The role of a line's actor has changed."""
        self._core.set_role(line.number, line.actor.role)

    def _commit(self) -> None:
        if self._in_flight is not None:
            return
        now = self._loop.time()
        urgent = not self.ending and now < self._left_at + self.limits.confirmed_s
        self._has_unhurried = self._has_unhurried and urgent
        if (commit := self._core.take_commit(urgent)) is not None:
            assert self._storage is not None
            self._in_flight, self._uncommitted = commit, 0
            self._left_at, self._flight_ends = now, now + self.limits.commit_s
            flight = self._hub.writer.submit(self._storage, commit, self._note_landing)
            is_burst = len(commit.receipts) >= self.limits.burst_min
            if is_burst and self._hub.writer.wait(flight, self.limits.patience_s):
                self._land(commit, flight.error)

    def _note_landing(self, commit: Commit, error: Exception | None) -> None:
        if commit is self._in_flight:
            self._landed.append((commit, error))
            self._wake.set()

    def _land(self, commit: Commit, error: Exception | None) -> None:
        self._in_flight = None
        if error is not None:
            raise error
        self._core.committed(commit, self._hub.now_ms())
        self._hub.counts.land(commit)
        self._announce()

    def _announce(self) -> None:
        """Wakes those who wait for `durable`."""
        self._landing.set()
        self._landing = asyncio.Event()

    async def _pump(self) -> bool:
        """Sends what may leave; True if there was any. A frame that goes to many is encoded once."""
        frames = self._core.frames_to_send()  # holds them all, so that their ids are theirs
        encoded: dict[int, bytes] = {}
        ends = time.monotonic() + self.limits.slice_s
        for number, frame in frames:
            line = self.lines.get(number)  # type: ignore[call-overload]
            if line is None:
                continue
            data = encoded.get(id(frame))
            if data is None:
                data = encoded[id(frame)] = messages.encode(frame)
            line.send(data)
            if isinstance(frame, Fault):
                line.finish(frame.code)
            elif not line.paused and line.unsent > self.limits.unsent_bytes_high:
                line.paused = True
                self._core.pause(number)
            if time.monotonic() > ends:
                await asyncio.sleep(0)
                ends = time.monotonic() + self.limits.slice_s
        return bool(frames)

    async def _shut(self, failure: Exception | None) -> None:
        """The end, clean or not; afterwards the app may be opened again."""
        if not self.ready.done():
            self.ready.set_exception(failure or ProtocolError("closing", "the server is stopping"))
        lines = list(self.lines.values())
        for line in lines:
            wait = spread(len(lines))
            if failure is None:
                line.fault("closing", "this server is closing the app", wait=wait)
            else:
                said = "the app failed at this server; connect again"
                line.fault("closing", said, CLOSED_BY_FAILURE, wait)
        for left in self._inbox:
            if isinstance(left, _Arrival) and not left.taken.done():
                left.taken.set_result(None)
        if lines:
            tasks = [line.task for line in lines]
            await asyncio.wait(tasks, timeout=self.limits.goodbye_s)
            for task in tasks:
                task.cancel()
        await self._hindsight.close()
        if self._storage is not None:
            await self._hub.retire(self._storage)
        self._hub.forget(self)
