"""The writer and the readers of a protocol spoken by hand: decoded, and the last write wins into a dict.

`Client` is what a protocol fills in (`own`, and the relay of `tests/bench/peers`); `run` does what the race asks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.sync.role import follow, now_us, paced, say
from tests.bench.sync.wire import Socket

NEVER = 1 << 62
Write = tuple[str, str, str, str, Any]  # subject, predicate, slot, kind, value
BATCH = 2_000  # writes a message, of what is loaded
TOUCHED = "post/score"


class Client(Socket):
    """A connection to the app of the bench. What came in is in `store`: subject -> field -> (value, stamp)."""

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, dict[Any, tuple[Any, str]]] = {}
        self.cursor: Any = None
        self.delays: list[int] | None = None  # microseconds since what came in was written, if asked for
        self.joined = asyncio.Event()  # what was there is here
        self.sent = self.acknowledged = 0  # writes
        self._count, self._target, self._reached = 0, NEVER, asyncio.Event()
        self._all_acknowledged = asyncio.Event()

    async def join(self, port: int, subscribed: bool = True) -> None:
        """Connects, and says what it wants to hear: all after `cursor`, or nothing. `joined` is set when it is here."""
        raise AssertionError("a protocol says how")

    async def subscribe(self) -> None:
        """The same for one that heard nothing so far."""
        raise AssertionError("a protocol says how")

    def write(self, writes: Sequence[Write]) -> bytes:
        """A message that carries writes, as one transaction."""
        raise AssertionError("a protocol says how")

    # -- for the protocols

    def took(self, count: int) -> None:
        """So many changes are in the store."""
        self._count += count
        if self._count >= self._target:
            self._target = NEVER
            self._reached.set()

    def acknowledge(self, acknowledged: int) -> None:
        """So many of the messages sent are durable."""
        self.acknowledged = acknowledged
        if acknowledged >= self.sent:
            self._all_acknowledged.set()

    # -- for the roles

    def push(self, writes: Sequence[Write]) -> None:
        self.sent += 1
        self._all_acknowledged.clear()
        self.send(self.write(writes))

    async def everything_acknowledged(self) -> None:
        if self.acknowledged < self.sent:
            lost = asyncio.ensure_future(self._all_acknowledged.wait())
            await asyncio.wait([lost, self.closed], return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()

    def expect(self, count: int) -> None:
        self._count, self._target = 0, count
        self._reached.clear()

    async def reached(self) -> None:
        await self._reached.wait()


def run(kind: type[Client], role: str, port: int) -> None:
    """Plays a role: "writer" or "reader"."""
    asyncio.run(_writer(kind, port) if role == "writer" else _reader(kind, port))


def score(i: int, value: float) -> Write:
    return f"i{i}", "item/score", "", "n", value


async def _writer(kind: type[Client], port: int) -> None:
    client = kind()
    await client.join(port, subscribed=False)
    say(ready=1)

    async def insert(order: Mapping[str, Any]) -> None:
        n = order["n"]
        client.push([(f"i{i}", "item/name", "", "s", f"n{i}") for i in range(n)])
        client.push([score(i, 0) for i in range(n)])
        await client.everything_acknowledged()
        say(done=1)

    async def burst(order: Mapping[str, Any]) -> None:
        began = now_us()
        say(t0=began)
        for i in range(order["n"]):
            client.push([score(i, order["v"])])
            if i % 20 == 19:
                await asyncio.sleep(0)
        await client.everything_acknowledged()
        say(acknowledged=client.acknowledged, t=now_us())

    async def at_rate(order: Mapping[str, Any]) -> None:
        async def one(i: int) -> None:
            client.push([score(i % 100, now_us())])

        await paced(order, one)
        await client.everything_acknowledged()
        say(done=1)

    async def load(order: Mapping[str, Any]) -> None:
        writes = json.loads(Path(order["path"]).read_text(encoding="utf-8"))
        began = now_us()
        for start in range(0, len(writes), BATCH):
            client.push(writes[start : start + BATCH])
            if client.sent % 8 == 0:
                await client.everything_acknowledged()
        await client.everything_acknowledged()
        say(loaded=(now_us() - began) / 1e6)

    async def touch(order: Mapping[str, Any]) -> None:
        ids, each = order["ids"], order["each"]
        for start in range(0, len(ids), each):
            client.push([(i, TOUCHED, "", "n", order["v"]) for i in ids[start : start + each]])
            await asyncio.sleep(0)
        await client.everything_acknowledged()
        say(done=1)

    await follow({"insert": insert, "burst": burst, "paced": at_rate, "load": load, "touch": touch})


async def _reader(kind: type[Client], port: int) -> None:
    clients: list[Client] = []
    fresh = kind()
    say(ready=1)

    async def connect(order: Mapping[str, Any]) -> None:
        """Connections, without subscriptions yet."""
        for _ in range(order["k"]):
            clients.append(kind())
            await clients[-1].join(port, subscribed=False)
        say(connected=1)

    async def subscribe(order: Mapping[str, Any]) -> None:
        for client in clients:
            await client.subscribe()
            await client.joined.wait()
        say(subbed=1)

    async def sub(order: Mapping[str, Any]) -> None:
        for _ in range(order["k"]):
            clients.append(kind())
            await clients[-1].join(port)
            await clients[-1].joined.wait()
        say(subbed=1)

    async def expect(order: Mapping[str, Any]) -> None:
        for client in clients:
            client.expect(order["n"])
        before = sum(client.bytes_in for client in clients)
        say(armed=1)
        for client in clients:
            await client.reached()
        received = sum(client.bytes_in for client in clients) - before
        say(t=now_us(), bytes=received / len(clients) / order["n"])

    async def listen(order: Mapping[str, Any]) -> None:
        for client in clients:
            client.delays = []
        nonlocal heard
        heard = sum(client.bytes_in for client in clients)
        say(armed=1)

    async def delays(order: Mapping[str, Any]) -> None:
        for client in clients:
            deadline = now_us() + 5_000_000
            while len(client.delays or ()) < order["n"] and now_us() < deadline:
                await asyncio.sleep(0.01)
        told = [delay for client in clients for delay in client.delays or ()]
        received = sum(client.bytes_in for client in clients) - heard
        for client in clients:
            client.delays = None
        say(delays=told, bytes=received / max(1, len(told)))

    async def begin(order: Mapping[str, Any]) -> None:
        nonlocal fresh
        fresh.store = {}
        fresh, began = kind(), now_us()
        await fresh.join(port)
        await fresh.joined.wait()
        took = now_us() - began
        say(t=took / 1e6, n=sum(map(len, fresh.store.values())))

    async def leave(order: Mapping[str, Any]) -> None:
        fresh.close()
        await fresh.closed
        say(off=1)

    async def come_back(order: Mapping[str, Any]) -> None:
        nonlocal fresh
        known = fresh
        fresh, began = kind(), now_us()
        fresh.store, fresh.cursor = known.store, known.cursor
        await fresh.join(port)
        await fresh.joined.wait()
        took = now_us() - began
        held = fresh.store
        say(t=took / 1e6, n=sum(held[i][TOUCHED][0] == order["v"] for i in order["ids"]))

    heard = 0
    await follow(
        {
            "connect": connect,
            "subscribe": subscribe,
            "sub": sub,
            "expect": expect,
            "listen": listen,
            "delays": delays,
            "fresh": begin,
            "off": leave,
            "on": come_back,
        }
    )
