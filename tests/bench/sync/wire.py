"""The least client of a WebSocket, so that what is measured is the server: text frames, whole, without compression.

What it sends is masked with a key of zeros, which costs the server what any key does and this side nothing.
"""

from __future__ import annotations

import asyncio
import os
import struct
from base64 import b64encode
from collections.abc import Mapping


class Socket(asyncio.Protocol):
    """One connection; `on_message` is called with each message. `bytes_in` counts what was received after the
    handshake, frames and all."""

    def __init__(self) -> None:
        self.bytes_in = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""

    def on_message(self, data: bytes) -> None:
        raise AssertionError(f"who listens to {data[:40]!r}?")

    async def connect(self, port: int, path: str, headers: Mapping[str, str]) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", port)
        asked = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **headers,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in asked.items()), "", ""]
        self._transport.write("\r\n".join(lines).encode())
        await self._opened

    def send(self, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes((0x81, 0x80 | size))
        elif size < 65_536:
            head = struct.pack("!BBH", 0x81, 0xFE, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0xFF, size)
        self._transport.write(head + b"\0\0\0\0" + data)

    def close(self) -> None:
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionError("closed in the middle of the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        rest = self._rest + data if self._rest else data
        if not self._opened.done():
            head, end, rest = rest.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._opened.set_exception(ConnectionError(head.decode("latin-1")))
                return
            self._opened.set_result(None)
            self.bytes_in = -(len(data) - len(rest))
        self.bytes_in += len(data)
        at, there = 0, len(rest)
        while there - at >= 2:
            size, begin = rest[at + 1], at + 2
            if size == 126:
                begin += 2
                size = int.from_bytes(rest[at + 2 : begin], "big")
            elif size == 127:
                begin += 8
                size = int.from_bytes(rest[at + 2 : begin], "big")
            if there < begin + size:
                break
            kind = rest[at]
            at = begin + size
            if kind in (0x81, 0x82):
                self.on_message(rest[begin:at])
            elif kind == 0x89:
                self._transport.write(bytes((0x8A, 0x80 | size)) + b"\0\0\0\0" + rest[begin:at])
            elif kind == 0x88:
                self._transport.close()
            else:
                raise ValueError(f"a frame of kind {kind:#x}")
        self._rest = rest[at:]
