"""One connection to an app: what comes in, one frame at a time, and what goes out, one queue with one writer.

A message goes to the socket at once where nothing waits before it, and only what the socket does not pass on is waited
for by the line's task. Invariants: at most one frame of a line is on its way in; what waits to be sent has a bound, and
every message a deadline; messages leave in order; a fault is the last thing said. `hub` says what becomes of frames.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tripleweb.errors import ProtocolError
from tripleweb.sync import messages
from tripleweb.sync.messages import ClientFrame, Fault
from tripleweb.sync.server import Actor

# How a socket is closed after a fault (RFC 6455, and the registry of close codes that belongs to it).
CLOSE_CODES = {"closing": 1001, "overload": 1013}
CLOSED_BY_RULE = 1008
CLOSED_BY_FAILURE = 1011
RETURNS_A_SECOND = 200  # of those who were told to come back later

_log = logging.getLogger(__name__)


class LineLimits(Protocol):
    """Bytes that may wait to be sent (a reader with `high` of them is paused until `low` are left, `max` ends its
    connection), and the seconds that one message may take; how many frames may come in at once, and in a second."""

    @property
    def unsent_bytes_low(self) -> int: ...
    @property
    def unsent_bytes_max(self) -> int: ...
    @property
    def send_s(self) -> float: ...
    @property
    def frames_burst(self) -> int: ...
    @property
    def frames_a_second(self) -> float: ...


class OpenApp(Protocol):
    """What a line needs of the app that it is connected to."""

    app: str

    @property
    def limits(self) -> LineLimits: ...

    def take(self, line: Line, frame: ClientFrame, size: int) -> Awaitable[None] | None:
        """None if the core has taken the frame, or never will; else that is so when it is awaited."""
        ...

    def post(self, note: Callable[[Line], None], line: Line) -> None:
        """Has `note(line)` called after what came before it."""
        ...

    def part(self, line: Line) -> None:
        """A connection is gone."""
        ...

    def resume(self, line: Line) -> None:
        """A slow reader has caught up."""
        ...


class Outlet(Protocol):
    """A socket as a line uses it."""

    def write(self, data: bytes) -> Awaitable[Any] | None:
        """Sends one text message. None if the socket has passed it on; else that is so when it is awaited, and nothing
        more is written before. Raises `ConnectionError` if it is closed, at once or when awaited."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Closes it after what was written."""
        ...


def spread(count: int) -> int:
    """Milliseconds that one of `count` clients is to stay away, so that they do not all come back at once."""
    return random.randrange(1 + 1_000 * count // RETURNS_A_SECOND)


class Allowance:
    """So many at once, and so many in a second. Who takes more is not refused, only slowed down.

    >>> allowance = Allowance(2, 10, now=0.0)
    >>> [allowance.take(now) for now in (0.0, 0.0, 0.0, 0.1, 9.0)]
    [0.0, 0.0, 0.1, 0.1, 0.0]
    """

    def __init__(self, burst: int, a_second: float, now: float) -> None:
        self._full = burst / a_second  # seconds that can be saved up
        self._each = 1 / a_second
        self._since = now - self._full  # taken are those of the time before that

    def take(self, now: float) -> float:
        """Takes one; seconds to wait before it may be used."""
        since = now - self._full
        self._since = since = (self._since if self._since > since else since) + self._each
        return 0.0 if since <= now else round(since - now, 6)


class Line:
    """One connection to an app, as its socket's handler holds it."""

    def __init__(self, tenant: OpenApp, number: int, actor: Actor, outlet: Outlet) -> None:
        self.number = number
        self.actor = actor
        self.unsent = 0  # bytes
        self.paused = False
        self.reader_only = False  # whatever role its user has
        self.carried = 0  # bytes of a transaction that has come in part
        self._tenant = tenant
        self._limits = tenant.limits
        self._outlet = outlet
        self._queue: deque[bytes] = deque()
        self._is_free = True  # nothing waits to be sent, and nothing is on its way
        # a message on its way that is to be waited for
        self._sending: tuple[Awaitable[Any], int] | None = None
        self._more = asyncio.Event()
        self._goodbye: tuple[int, str] | None = None
        self._loop = asyncio.get_running_loop()
        limits = self._limits
        self._allowance = Allowance(limits.frames_burst, limits.frames_a_second, self._loop.time())
        self.task = asyncio.create_task(self._write())

    def take_in(self, data: str | bytes) -> Awaitable[None] | None:
        """Takes one message from the socket, which is not read further before the core has it: None if it has, else
        something to be waited for."""
        if (wait := self._allowance.take(self._loop.time())) > 0:
            return self._take_later(wait, data)
        return self._take(data)

    async def _take_later(self, wait: float, data: str | bytes) -> None:
        await asyncio.sleep(wait)
        if (waiting := self._take(data)) is not None:
            await waiting

    def _take(self, data: str | bytes) -> Awaitable[None] | None:
        if self._goodbye is not None:
            return None
        try:
            if not isinstance(data, str):
                raise ProtocolError("malformed", "a frame is a message of text, not of bytes")
            frame = messages.decode_client(data)
        except ProtocolError as error:
            self.fault(error.code, str(error))
            return None
        return self._tenant.take(self, frame, len(data))

    async def receive(self, data: str | bytes) -> None:
        """As `take_in`, until the core has it."""
        if (waiting := self.take_in(data)) is not None:
            await waiting

    async def accept(self, frame: ClientFrame, size: int) -> None:
        """As `receive`, of a frame that is decoded already."""
        if self._goodbye is None and (waiting := self._tenant.take(self, frame, size)) is not None:
            await waiting

    def leave(self) -> None:
        """The socket is closed."""
        self._goodbye = self._goodbye or (1000, "")
        self.task.cancel()
        self._tenant.post(self._tenant.part, self)

    def send(self, data: bytes) -> None:
        """Sends a message after those that wait; nothing follows a fault."""
        if self._goodbye is not None:
            return
        if self._is_free:
            if (sending := self._begin(data)) is None:
                return
            self._is_free, self._sending = False, (sending, len(data))
        else:
            self._queue.append(data)
        self.unsent += len(data)
        self._more.set()
        if self.unsent > self._limits.unsent_bytes_max:
            self._drop_queue()
            self.fault("overload", "more is waiting to be sent than this server keeps")

    def _begin(self, data: bytes) -> Awaitable[Any] | None:
        """Hands a message to the socket; whatever becomes of it is seen by whoever waits for it."""
        try:
            return self._outlet.write(data)
        except ConnectionError as error:
            return _failed(error)

    def fault(self, code: str, message: str, close_code: int = 0, wait: int = 0) -> None:
        """Says what is wrong, and how many milliseconds to stay away; that is the last thing said."""
        if self._goodbye is None:
            self.send(messages.encode(Fault(code, message[:500], wait)))
            self.finish(code, close_code)

    def finish(self, code: str, close_code: int = 0) -> None:
        """Closes the socket after what is in the queue."""
        if self._goodbye is None:
            self._goodbye = (close_code or CLOSE_CODES.get(code, CLOSED_BY_RULE), code)
            self._more.set()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.unsent = 0

    async def _write(self) -> None:
        try:
            while True:
                await self._send_all()
                if self._goodbye is not None:
                    return
                self._is_free = True
                self._more.clear()
                await self._more.wait()
        except (ConnectionError, TimeoutError) as error:
            _log.debug("connection %s of app %s is gone: %r", self.number, self._tenant.app, error)
        finally:
            self._is_free = False
            if self._sending is not None and asyncio.iscoroutine(self._sending[0]):
                self._sending[0].close()
            self._goodbye = self._goodbye or (CLOSED_BY_FAILURE, "")
            self._drop_queue()
            self._tenant.post(self._tenant.part, self)
            self._outlet.close(*self._goodbye)

    async def _send_all(self) -> None:
        """What is on its way, then what waits."""
        while self._sending is not None or self._queue:
            if self._sending is None:
                data = self._queue.popleft()
                sending, size = self._begin(data), len(data)
            else:
                (sending, size), self._sending = self._sending, None
            if sending is not None:
                async with asyncio.timeout(self._limits.send_s):
                    await sending
            before, self.unsent = self.unsent, max(0, self.unsent - size)
            if self.unsent <= self._limits.unsent_bytes_low < before and self.paused:
                self._tenant.post(self._tenant.resume, self)


async def _failed(error: ConnectionError) -> None:
    raise error
