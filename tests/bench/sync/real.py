"""Real clients (`tripleweb.connect`, in memory): what a user sees, the whole way from a write to a callback.

`python -m tests.bench.sync.real ROLE PORT FOLDER`, the roles being real-writer and real-reader.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tripleweb
from tests.bench.sync.own import APP, token
from tests.bench.sync.role import follow, now_us, paced, say

PROBE = "[:find ?i ?v :where [?i :item/score ?v]]"


async def _write(options: Mapping[str, Any]) -> None:
    db = tripleweb.connect(APP, **options)
    say(ready=1)

    async def burst(order: Mapping[str, Any]) -> None:
        began = now_us()
        for i in range(order["n"]):
            db.set(f"i{i}", "item/score", order["v"])
        say(t0=began, written=now_us())
        await asyncio.to_thread(db.flush, 60)
        say(acknowledged=order["n"], t=now_us())

    async def at_rate(order: Mapping[str, Any]) -> None:
        async def one(i: int) -> None:
            db.set(f"i{i % 100}", "item/score", now_us())

        await paced(order, one)
        await asyncio.to_thread(db.flush, 60)
        say(done=1)

    await follow({"burst": burst, "paced": at_rate})
    db.close()


class _Client:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.db = tripleweb.connect(APP, **options)
        self.count, self.target = 0, 0
        self.reached = threading.Event()
        self.delays: list[int] | None = None
        self._live = self.db.live(PROBE)
        self._live.on_change(self._changed)

    def _changed(self, live: Any, delta: Any) -> None:
        added = delta.added
        if self.delays is not None:
            now = now_us()
            self.delays.extend(now - int(written) for written in added["v"])
        self.count += len(added)
        if self.target and self.count >= self.target:
            self.target = 0
            self.reached.set()


async def _read(options: Mapping[str, Any]) -> None:
    clients: list[_Client] = []
    say(ready=1)

    async def sub(order: Mapping[str, Any]) -> None:
        for _ in range(order["k"]):
            clients.append(_Client(options))
        say(subbed=1)

    async def expect(order: Mapping[str, Any]) -> None:
        for client in clients:
            client.count, client.target = 0, order["n"]
            client.reached.clear()
        say(armed=1)
        for client in clients:
            await asyncio.to_thread(client.reached.wait)
        say(t=now_us(), bytes=None)

    async def listen(order: Mapping[str, Any]) -> None:
        for client in clients:
            client.delays = []
        say(armed=1)

    async def delays(order: Mapping[str, Any]) -> None:
        for client in clients:
            deadline = now_us() + 5_000_000
            while len(client.delays or ()) < order["n"] and now_us() < deadline:
                await asyncio.sleep(0.01)
        say(delays=[delay for client in clients for delay in client.delays or ()], bytes=None)
        for client in clients:
            client.delays = None

    await follow({"sub": sub, "expect": expect, "listen": listen, "delays": delays})
    for client in clients:
        client.db.close()


if __name__ == "__main__":
    role, port, folder = sys.argv[1:4]
    options = {"url": f"http://127.0.0.1:{port}/", "token": token(Path(folder)), "path": ":memory:"}
    asyncio.run({"real-writer": _write, "real-reader": _read}[role](options))
