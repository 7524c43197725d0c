"""A bound, not a product: the least sync server on Tornado. Triples and their order in SQLite (write-ahead log, full
sync), commits of what came within a millisecond, then each frame encoded once for everybody. Without identity, tenants,
receipts, schema or subscriptions, and on one thread.

`python -m tests.bench.peers.relay ROLE PORT FOLDER`, the roles being server, writer and reader.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.sync import minimal
from tests.bench.sync.minimal import Write
from tests.bench.sync.role import now_us

TABLES = """
CREATE TABLE triples (s TEXT, p TEXT, o, hlc TEXT, seq INTEGER, PRIMARY KEY (s, p)) WITHOUT ROWID;
CREATE INDEX by_seq ON triples (seq);
"""
PUT = """INSERT INTO triples VALUES (?, ?, ?, ?, ?) ON CONFLICT (s, p) DO UPDATE
SET o = excluded.o, hlc = excluded.hlc, seq = excluded.seq WHERE excluded.hlc >= hlc"""

_encode = msgspec.json.encode


def _frame(data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((0x81, size)) + data
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + data
    return struct.pack("!BBQ", 0x81, 127, size) + data


async def _serve(port: int, folder: Path) -> None:
    import tornado.web
    import tornado.websocket

    database = sqlite3.connect(folder / "relay.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.executescript(TABLES)
    members: set[Handler] = set()
    waiting: list[tuple[Handler, list[list[Any]]]] = []
    loop, seq = asyncio.get_running_loop(), 0

    def flush() -> None:
        nonlocal seq
        taken = waiting[:]
        waiting.clear()
        changes = [change for _, changes in taken for change in changes]
        rows = [(*change, seq + n) for n, change in enumerate(changes, 1)]
        seq += len(rows)
        database.execute("BEGIN")
        database.executemany(PUT, rows)
        database.execute("COMMIT")
        frame = _frame(_encode({"seq": seq, "c": changes}))
        writers = {writer: 0 for writer, _ in taken}
        for writer, _ in taken:
            writers[writer] += 1
        for member in members:
            if member not in writers:
                member.put(frame)
        for writer, count in writers.items():
            writer.put(_frame(b'{"seq":%d,"ack":%d}' % (seq, count)))

    class Handler(tornado.websocket.WebSocketHandler):
        def open(self, *_: str) -> None:
            self.set_nodelay(True)

        def put(self, frame: bytes) -> None:
            self.ws_connection.stream.write(frame)

        def on_close(self) -> None:
            members.discard(self)

        def on_message(self, message: str | bytes) -> None:
            said = msgspec.json.decode(message)
            if "c" in said:
                if not waiting:
                    loop.call_later(0.001, flush)
                waiting.append((self, said["c"]))
            else:
                members.add(self)
                asked = "SELECT s, p, o, hlc FROM triples WHERE seq > ? ORDER BY seq"
                rows = database.execute(asked, (said["since"],)).fetchall()
                self.put(_frame(_encode({"seq": seq, "c": rows, "joined": True})))

    application = tornado.web.Application([("/", Handler)], websocket_max_message_size=1 << 28)
    application.listen(port, "127.0.0.1")
    print("serves", flush=True)
    await asyncio.Event().wait()


class _Told(msgspec.Struct):
    seq: int
    c: list[tuple[str, str, Any, str]] = []
    ack: int = 0
    joined: bool = False


_decode = msgspec.json.Decoder(_Told).decode


class RelayClient(minimal.Client):
    """The relay keeps one register a field: of a field with many values, one a value."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0

    async def join(self, port: int, subscribed: bool = True) -> None:
        await self.connect(port, "/", {})
        if subscribed:
            await self.subscribe()

    async def subscribe(self) -> None:
        self.send(b'{"since":%d}' % (self.cursor or 0))

    def write(self, writes: Sequence[Write]) -> bytes:
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 << 16)
        stamp = f"{self._last:016x}-w"
        return _encode(
            {"c": [(s, f"{p}#{slot}" if slot else p, value, stamp) for s, p, slot, _, value in writes]}
        )

    def on_message(self, data: bytes) -> None:
        told = _decode(data)
        store = self.store
        for subject, predicate, value, stamp in told.c:
            fields = store.get(subject)
            if fields is None:
                fields = store[subject] = {}
            held = fields.get(predicate)
            if held is None or stamp >= held[1]:
                fields[predicate] = (value, stamp)
        if self.delays is not None:
            now = now_us()
            self.delays.extend(now - change[2] for change in told.c)
        self.cursor = told.seq
        if told.ack:
            self.acknowledge(self.acknowledged + told.ack)
        elif told.joined:
            self.joined.set()
        else:
            self.took(len(told.c))


if __name__ == "__main__":
    role, port, folder = sys.argv[1:4]
    if role == "server":
        asyncio.run(_serve(int(port), Path(folder)))
    else:
        minimal.run(RelayClient, role, int(port))
