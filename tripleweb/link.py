"""The WebSocket of one store: a daemon thread with a loop of its own, so that sync goes on while a cell runs.

What arrives is passed in, what may leave is pumped out, and a timer asks for the server's clock; what any of it means
is decided by the `Peer`. A connection that ends is made again, with growing, jittered pauses, until `go_offline` or
`stop`. Invariants: every call of the peer is made on the link's thread with the peer's lock held, and no await
happens meanwhile; the thread never waits long for that lock (somebody may sit in a transaction), so the socket's
pings go on; nothing is printed, and tokens appear neither in addresses nor in the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from tripleweb.errors import ProtocolError, TriplewebError
from tripleweb.sync import messages
from tripleweb.sync.messages import ClientFrame, Fault, ServerFrame

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop
    from tornado.websocket import WebSocketClientConnection

log = logging.getLogger("tripleweb")
log.addHandler(logging.NullHandler())  # who wants to see it configures logging; standard error is not ours

API = "api/tripleweb/v1/"
# The extension's own grants, then the tokens of Jupyter servers and Hubs; which one a token is does not show.
SCHEMES = ("tripleweb", "token")
# One poke carries whole transactions, and what our own server sends is not what has to be bounded.
_INCOMING_BYTES_MAX = 64 * messages.FRAME_BYTES_MAX
_PARTING_S = 0.5  # what the other side has for its part of an end

_T = TypeVar("_T")


class _Cut(Exception):
    """This connection was given up by `go_offline` or `stop`: nothing of it concerns the peer any more."""


class Peer(Protocol):
    """Who speaks the protocol over a link. The methods are called with `lock` held."""

    @property
    def lock(self) -> Any:
        """A lock with `acquire` and `release`."""
        ...

    def link_up(self) -> None:
        """A connection stands."""
        ...

    def link_received(self, frame: ServerFrame, waited: float) -> None:
        """A frame arrived, `waited` seconds ago. `ProtocolError` ends the connection."""
        ...

    def link_outgoing(self) -> Iterable[ClientFrame]:
        """What may leave now, in order."""
        ...

    def link_tick(self) -> None:
        """Some seconds have gone by on a connection."""
        ...

    def link_down(self, reason: str, refused: bool) -> None:
        """The connection is gone or could not be made. `refused`: the server does not want us."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a link, in seconds."""

    first_pause: float = 0.2
    longest_pause: float = 30.0
    tick: float = 15.0
    keep_alive: float = 20.0
    connect: float = 10.0
    settled: float = 1.0  # a connection that held this long starts the pauses from the shortest again
    silence: float = 60.0  # a server that has answered nothing for so long is not there


class Link:
    """Keeps `peer` connected to the app `app` of the server at `url`, from `start` to `stop`.

    `locate`, if given, is asked before each attempt where the server is by now, and for its token, in a thread.

    `connecting` is True while a connection is being made and none was lost since `start` or `go_online`. Methods may
    be called from any thread and never wait, `stop` excepted. After `go_offline` and `stop` the peer hears nothing
    more of the old connection, not even that it is gone.
    """

    def __init__(
        self,
        peer: Peer,
        url: str,
        token: str | None,
        app: str,
        *,
        label: str | None = None,
        pace: Pace | None = None,
        locate: Callable[[], tuple[str, str | None]] | None = None,
    ) -> None:
        self.wanted = True
        self.connecting = False
        self._peer = peer
        self._pace = pace or Pace()
        self._locate = locate
        self._path = f"{API}apps/{quote(app, safe='')}/sync" + (
            f"?label={quote(label, safe='')}" if label else ""
        )
        self._aim(url, token)
        self._stopping = False
        self._generation = 0  # grows when what stands is given up
        self._serving = 0  # the generation of the attempt or connection that there is
        self._woken = False
        self._hurried = False
        self._pauses = 0
        self._told = 0.0  # seconds that the server has asked us to stay away
        self._unanswered = 0  # ticks since something was heard
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tornado: IOLoop | None = None
        self._wake: asyncio.Event | None = None
        self._socket: WebSocketClientConnection | None = None
        self._attempt: asyncio.Task[WebSocketClientConnection] | None = None
        self._thread = threading.Thread(target=self._run, name=f"tripleweb-link-{app}", daemon=True)

    # -- from any thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self.connecting = self.wanted
        self._thread.start()

    def wake(self) -> None:
        """There may be something to send."""
        if not self._woken:
            self._woken = True
            self._call_soon(self._set_wake)

    def hurry(self) -> None:
        """Somebody waits: a pause between two attempts ends now."""
        self._hurried = True
        self._call_soon(self._set_wake)

    def go_offline(self) -> None:
        """Ends the connection and makes no other."""
        self.wanted = self.connecting = False
        self._generation += 1
        self._call_soon(self._cut)

    def go_online(self) -> None:
        """Connects (again), at once."""
        self.wanted = self.connecting = True
        self.hurry()

    def stop(self, timeout: float = 2.0) -> bool:
        """Ends the connection and the thread; False if that took longer than `timeout`."""
        self._stopping = True
        self._generation += 1
        self._call_soon(self._cut)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _call_soon(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:  # the loop has been closed since: there is nobody left to tell
                log.debug("the link to %s has ended", self.url)

    # -- on the link's thread ----------------------------------------------------------------------------------

    def _aim(self, url: str, token: str | None) -> None:
        self.url, self._token = url, token
        self._address = "ws" + url.removeprefix("http") + self._path
        self._schemes = list(SCHEMES if token else SCHEMES[:1])

    def _set_wake(self) -> None:
        assert self._wake is not None
        self._wake.set()

    def _cut(self) -> None:
        self._set_wake()
        if self._serving != self._generation:  # else it has been replaced already
            if self._attempt is not None:
                self._attempt.cancel()
            if self._socket is not None:
                self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            log.exception("the link to %s ended by an error of its own", self.url)
        finally:
            if self._tornado is not None:  # which keeps loops that have ended, and their sockets with them
                self._tornado.close(all_fds=True)

    async def _main(self) -> None:
        from tornado.ioloop import IOLoop

        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tornado = IOLoop.current()
        while not self._stopping:
            if not self.wanted:
                await self._sleep(None)
                continue
            generation = self._serving = self._generation
            begun = time.monotonic()
            try:
                reason, refused = await self._connection(generation)
                log.debug("no connection to %s: %s", self.url, reason)
                await self._locked(generation, self._end, reason, refused)
            except _Cut:
                continue
            self._pauses = 0 if time.monotonic() - begun >= self._pace.settled else self._pauses + 1
            pause = min(self._pace.longest_pause, self._pace.first_pause * 2.0 ** min(self._pauses, 30))
            pause = (self._pace.longest_pause if refused else pause) * random.uniform(0.5, 1.0)
            pause, self._told = max(pause, min(self._told, self._pace.longest_pause)), 0.0
            await self._sleep(pause)

    def _end(self, reason: str, refused: bool) -> None:
        """Whoever sees that nothing is being connected any more sees why."""
        self.connecting = False
        self._peer.link_down(reason, refused)

    async def _sleep(self, seconds: float | None) -> None:
        """Until that time has gone by (None: for ever) or, if `hurry`, `go_online` or `stop` is called, until then."""
        assert self._wake is not None
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._stopping and not self._hurried and (deadline is None) != self.wanted:
            self._woken = False
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), deadline and max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
        self._hurried = False

    async def _connection(self, generation: int) -> tuple[str, bool]:
        """Makes a connection and keeps it; returns why it ended and whether it was refused."""
        from tornado.httpclient import HTTPClientError
        from tornado.iostream import StreamClosedError
        from tornado.websocket import WebSocketError

        self._attempt = asyncio.create_task(self._connect())
        try:
            socket = await self._attempt
        except asyncio.CancelledError:
            if generation != self._generation:
                raise _Cut from None
            raise
        except HTTPClientError as error:
            if error.code in (401, 403):
                return f"{self.url} refuses this token ({error.code} {error.message})", True
            return f"{self.url} answers: {error.code} {error.message}", False
        except TriplewebError as error:
            return str(error), False
        except (OSError, StreamClosedError, WebSocketError, TimeoutError) as error:
            return f"cannot reach {self.url}: {error or type(error).__name__}", False
        except RuntimeError as error:
            if threading.main_thread().is_alive():
                raise
            self.wanted, self._stopping = (
                False,
                True,
            )  # the interpreter is ending: addresses are not looked up any more
            return str(error), False
        finally:
            self._attempt = None
        self._socket = socket
        reader: asyncio.Task[None] | None = None
        try:
            await self._locked(generation, self._peer.link_up)
            self.connecting = False
            reader = asyncio.create_task(self._read(socket, generation))
            await self._converse(socket, reader, generation)
            reason = socket.close_reason or f"the connection to {self.url} was lost"
        except ProtocolError as error:
            reason = f"protocol: {error}"
        except TimeoutError as error:
            reason = str(error)
        except (WebSocketError, StreamClosedError):
            if reader is not None:  # what was said before the end tells why
                await asyncio.wait([reader], timeout=_PARTING_S)
            reason = f"the connection to {self.url} was lost"
        except _Cut:
            raise
        except Exception as error:
            log.exception("the connection to %s is closed because of an error here", self.url)
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._socket = None
            await _close(socket, reader)
        return reason, False

    async def _connect(self) -> WebSocketClientConnection:
        """Tries what the token may be, in turn; the scheme that was accepted comes first from then on."""
        from tornado.httpclient import HTTPClientError, HTTPRequest
        from tornado.websocket import websocket_connect

        if self._locate is not None and self._pauses:  # the first time, it was found just now
            found = await asyncio.to_thread(self._locate)
            if found != (self.url, self._token):
                self._aim(*found)
        for left in range(len(self._schemes) - 1, -1, -1):
            headers = {"Authorization": f"{self._schemes[0]} {self._token}"} if self._token else {}
            request = HTTPRequest(
                self._address,
                headers=headers,
                connect_timeout=self._pace.connect,
                request_timeout=self._pace.connect,
            )
            opening = asyncio.ensure_future(
                websocket_connect(
                    request, ping_interval=self._pace.keep_alive, max_message_size=_INCOMING_BYTES_MAX
                )
            )
            try:
                socket = await asyncio.shield(opening)
                if socket.protocol is not None:
                    socket.protocol.set_nodelay(True)  # a small frame waits for nothing
                return socket
            except asyncio.CancelledError:
                await _give_up(opening)
                raise
            except HTTPClientError as error:
                if error.code not in (401, 403) or not left:
                    raise
                self._schemes.append(self._schemes.pop(0))
        raise AssertionError("a link has one scheme at least")

    async def _read(self, socket: WebSocketClientConnection, generation: int) -> None:
        try:
            while (message := await socket.read_message()) is not None:
                if self._socket is socket:
                    self._unanswered = 0
                    frame, arrived = messages.decode_server(message), time.monotonic()
                    await self._locked(generation, self._deliver, frame, arrived)
                    self._set_wake()
        finally:
            self._set_wake()

    def _deliver(self, frame: ServerFrame, arrived: float) -> None:
        if isinstance(frame, Fault):
            self._told = frame.wait / 1000
        self._peer.link_received(frame, time.monotonic() - arrived)

    async def _converse(
        self, socket: WebSocketClientConnection, reader: asyncio.Task[None], generation: int
    ) -> None:
        assert self._wake is not None
        self._unanswered = 0
        tick = time.monotonic() + self._pace.tick
        while not reader.done():
            self._woken = False
            self._wake.clear()
            for frame in await self._locked(generation, self._peer.link_outgoing):
                await socket.write_message(messages.encode(frame))
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, tick - time.monotonic()))
            except TimeoutError:
                # counted, not measured: while somebody has the lock, nothing was asked
                self._unanswered += 1
                if self._unanswered * self._pace.tick > self._pace.silence:
                    raise TimeoutError(
                        f"{self.url} has not answered for {self._pace.silence:g} seconds"
                    ) from None
                await self._locked(generation, self._peer.link_tick)
                tick = time.monotonic() + self._pace.tick
        reader.result()  # raises what ended it

    async def _locked(self, generation: int, function: Callable[..., _T], *arguments: Any) -> _T:
        """Calls the peer with its lock held. Waits for the lock in short turns, between which the loop runs."""
        lock = self._peer.lock
        while not lock.acquire(timeout=0.002):
            if generation != self._generation:
                raise _Cut
            await asyncio.sleep(0.002)
        try:
            if generation != self._generation:
                raise _Cut
            return function(*arguments)
        finally:
            lock.release()


async def _close(socket: WebSocketClientConnection, reader: asyncio.Task[None] | None) -> None:
    """Closes a socket, and waits a little until the other side has closed it too. `reader` reads it already."""
    socket.close()
    if reader is None:
        reader = asyncio.create_task(_read_out(socket))
    await asyncio.wait([reader], timeout=_PARTING_S)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def _read_out(socket: WebSocketClientConnection) -> None:
    while await socket.read_message() is not None:
        pass


async def _give_up(opening: asyncio.Future[WebSocketClientConnection]) -> None:
    """Nobody wants this connection any more. Tornado cannot be told so before the server has answered: it is closed if
    that happens soon, else whenever it does, or when the loop ends."""
    opening.add_done_callback(_close_late)
    await asyncio.wait([opening], timeout=_PARTING_S)
    if opening.done() and opening.exception() is None:
        await _close(opening.result(), None)


def _close_late(opening: asyncio.Future[WebSocketClientConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
