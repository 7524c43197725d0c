"""A TCP proxy before a server, that does to connections what bad networks do.

It knows where WebSocket frames begin, so that a connection is cut within one. Invariants: bytes are passed on in order
and unchanged; what is frozen stays open at both ends and passes nothing on, ever, as when a cable was pulled; new
connections are served as ever.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

PIECE = 4096


class Frames:
    """Follows one direction of a connection: `inside` says if the next byte is not the first of a frame."""

    def __init__(self) -> None:
        self._head = b""  # of the handshake, or of a frame, as far as it has come
        self._left = 0  # bytes of the frame after its head
        self.upgraded = False

    @property
    def inside(self) -> bool:
        return self.upgraded and bool(self._head or self._left)

    def feed(self, byte: int) -> None:
        if self._left:
            self._left -= 1
            return
        self._head += bytes((byte,))
        if not self.upgraded:
            if self._head.endswith(b"\r\n\r\n"):
                self._head, self.upgraded = b"", True
            return
        if len(self._head) < 2:
            return
        short = self._head[1] & 0x7F
        more = {126: 2, 127: 8}.get(short, 0)
        if len(self._head) == 2 + more:
            size = int.from_bytes(self._head[2:], "big") if more else short
            self._left = size + (4 if self._head[1] & 0x80 else 0)
            self._head = b""


class Way:
    """One direction of a connection."""

    def __init__(self) -> None:
        self.frames = Frames()
        self.cut_after: int | None = None  # as many bytes more, and to the inside of a frame, then it is cut


class Proxy:
    """Passes on what comes to `url`, from `__enter__` to `__exit__`; in a thread of its own."""

    def __init__(self, target: str, seed: int = 0) -> None:
        self._target = int(target.rpartition(":")[2].strip("/"))
        self._random = random.Random(seed)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ways: dict[int, tuple[Way, Way]] = {}
        self._frozen: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._made = 0
        self.delay = 0.0  # seconds that each piece is held up, at most
        self.piece = PIECE
        self.cuts = 0  # connections that were cut within a frame
        self.url = ""

    # -- from any thread

    def cut(self) -> None:
        """Each connection that stands is cut within one of its next frames."""
        self._call(self._cut)

    def freeze(self) -> int:
        """No connection that stands now passes on anything more; how many there were."""
        return int(self._call(self._freeze))

    @property
    def standing(self) -> int:
        """How many WebSockets pass on what comes."""
        return int(self._call(self._standing))

    def _call(self, function: Any) -> Any:
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(function()))
        return done.result(20)

    # -- in its own

    def _standing(self) -> int:
        return sum(
            number not in self._frozen and all(way.frames.upgraded for way in ways)
            for number, ways in self._ways.items()
        )

    def _cut(self) -> None:
        for ways in self._ways.values():
            self._random.choice(ways).cut_after = self._random.choice((0, 1, 3, 10, 50))

    def _freeze(self) -> int:
        new = self._ways.keys() - self._frozen
        self._frozen |= new
        return len(new)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        self._ready.set()
        await self._end
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._made += 1
        number = self._made
        ways = self._ways[number] = Way(), Way()
        pumps = [
            asyncio.ensure_future(self._pump(number, ways[0], reader, there[1])),
            asyncio.ensure_future(self._pump(number, ways[1], there[0], writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (writer, there[1]):
                self._reset(end)
            del self._ways[number]
            self._frozen.discard(number)

    @staticmethod
    def _reset(end: asyncio.StreamWriter) -> None:
        """Ends it as a dead machine's neighbour does: by a reset where anything was unread, or never sent."""
        raw = end.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.transport.abort()

    async def _pump(
        self, number: int, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Until one end closes, or it is cut."""
        try:
            while data := await reader.read(self.piece):
                if self.delay:
                    await asyncio.wait([self._end], timeout=self.delay * self._random.random())
                if number in self._frozen:
                    await asyncio.Event().wait()
                for at, byte in enumerate(data):
                    if way.cut_after is not None:
                        way.cut_after -= 1
                        if way.cut_after < 0 and way.frames.inside:
                            writer.write(data[:at])
                            await writer.drain()
                            self.cuts += 1
                            return
                    way.frames.feed(byte)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(lambda: self._end.set_result(None))
        self._thread.join(20)
        assert not self._thread.is_alive()
