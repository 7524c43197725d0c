"""A connection that lasts for one HTTP request: pushing a body, loading an app.

Both are ordinary lines of the hub, so whatever holds for the socket holds for them: roles, limits, exactly once,
nothing said before it is durable, and a slow side is not read or written faster than it can bear. What is here is
the other end of such a line.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import msgspec

from tripleweb.errors import ProtocolError
from tripleweb.hub import Hub
from tripleweb.ids import replica_id
from tripleweb.line import CLOSED_BY_FAILURE, Line
from tripleweb.sync import messages
from tripleweb.sync.bulk import BulkReader
from tripleweb.sync.messages import Fault, Hello, Poke, Receipt, Subscription, Welcome

DECIDED_S = 90  # until everything has its receipt, once the body has ended
RECEIPT_BYTES_MAX = (
    8 << 20
)  # what the receipts of one answer tell of the server's registers; beyond, load again
THREAD_BYTES = 256 << 10  # a larger line is decoded in a thread, not on the loop

Join = Callable[["_End"], Awaitable[Line]]


class _End(ABC):
    """The client's end of a line: the `Outlet` that the hub writes to."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self._news = asyncio.Event()
        self._failure: ProtocolError | None = None

    def fail(self, error: ProtocolError) -> None:
        """What is waited for will not come; the first reason counts."""
        self._failure = self._failure or error
        self._news.set()

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """What the server says."""

    def close(self, code: int, reason: str) -> None:
        failed = code == CLOSED_BY_FAILURE
        self.fail(ProtocolError("closing", "the app failed at this server" if failed else "it was closed"))

    def leave(self) -> None:
        """Ends the connection; more than once is fine."""
        line, self.line = self.line, None
        if line is not None:
            line.leave()


class BulkPush(_End):
    """The push of one body. Raises `ProtocolError`; what was taken in before that counts, and may be sent again."""

    def __init__(self, hub: Hub, join: Join) -> None:
        super().__init__()
        self._hub = hub
        self._join = join
        self._reader = BulkReader(hub.now_ms())
        self._position = ""
        self._receipts: dict[int, Receipt] = {}
        self._told = 0  # bytes of registers in them

    async def feed(self, data: bytes) -> None:
        """Takes a piece of the body; returns when the core has what it contains."""
        if self._reader.waiting + len(data) > THREAD_BYTES:
            frames = await self._hub.in_thread(self._reader.feed, data)
        else:
            frames = self._reader.feed(data)
        await self._say(frames, len(data))

    async def finish(self) -> tuple[str, list[Receipt]]:
        """(the server's position, a receipt for each transaction of the body, in order), all of it durable."""
        await self._say(self._reader.finish(), self._reader.waiting)
        try:
            async with asyncio.timeout(DECIDED_S):
                while not (self._position and self._receipts.keys() >= self._reader.pushed.keys()):
                    self._check()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise ProtocolError("closing", "deciding it takes too long; send it again") from None
        self._check()
        return self._position, [self._receipts[number] for number in self._reader.pushed]

    async def _say(self, frames: list[messages.ClientFrame], size: int) -> None:
        for frame in frames:
            self._check()
            if self.line is None:
                self.line = await self._join(self)
            await self.line.accept(frame, size // len(frames))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def write(self, data: bytes) -> None:
        frame = messages.decode_server(data)
        if isinstance(frame, Welcome):
            self._position = f"{frame.epoch}:{frame.seq}"
            if frame.rekey:
                self.fail(
                    ProtocolError(
                        "replaced",
                        "this replica id is another user's, or has written more than this request knows of",
                    )
                )
        elif isinstance(frame, Poke):
            self._position = f"{frame.epoch}:{frame.seq}"
            for receipt in frame.receipts:
                if self._reader.pushed.get(receipt.number) == receipt.id:
                    self._receipts[receipt.number] = self._bounded(receipt)
        elif isinstance(frame, Fault):
            self.fail(ProtocolError(frame.code, frame.message))
        self._news.set()

    def _bounded(self, receipt: Receipt) -> Receipt:
        if receipt.current or receipt.absent:
            self._told += len(messages.encode(receipt))
            if self._told > RECEIPT_BYTES_MAX:
                return msgspec.structs.replace(receipt, current=[], absent=[], reload=True)
        return receipt


class Snapshot(_End):
    """All of an app, line by line, handed to `write_out`, which returns when it has passed the line on."""

    def __init__(self, hub: Hub, write_out: Callable[[bytes], Awaitable[None]]) -> None:
        super().__init__()
        self._hub = hub
        self._write_out = write_out
        self._complete = False

    async def run(self, join: Join) -> None:
        """Returns when the last line is out: a poke, or a fault if it had to end early."""
        self.line = await join(self)
        whole = Subscription("app")
        replica = replica_id(self._hub.random_bytes)
        hello = Hello((messages.PROTOCOL,) * 2, replica, "", 1, 0, self._hub.now_ms(), [], [whole])
        await self.line.accept(hello, 0)
        await self._news.wait()
        if not self._complete:
            assert self._failure is not None
            await self._write_out(messages.encode(Fault(self._failure.code, str(self._failure))) + b"\n")

    async def write(self, data: bytes) -> None:
        if self._complete:
            return
        if data.startswith(b'{"t":"part"'):
            await self._write_out(data + b"\n")
            return
        frame = messages.decode_server(data)
        if isinstance(frame, Welcome):
            await self._write_out(json.dumps({"epoch": frame.epoch, "seq": frame.seq}).encode() + b"\n")
        elif isinstance(frame, Poke):
            await self._write_out(data + b"\n")
            self._complete = True
            self._news.set()
        elif isinstance(frame, Fault):
            self.fail(ProtocolError(frame.code, frame.message))
