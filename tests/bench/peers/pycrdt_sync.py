"""pycrdt and pycrdt-websocket on uvicorn, stored by `SQLiteYStore`: a map an entity.

Its clients also speak to y-websocket.

`python -m tests.bench.peers.pycrdt_sync ROLE PORT FOLDER`, the roles being server, writer and reader.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.sync.role import follow, now_us, paced, say

KINDS = ("item", "user", "post", "comment", "tag")
BATCH = 500  # entities a transaction


async def _serve(port: int, folder: Path) -> None:
    import uvicorn
    from pycrdt.store import SQLiteYStore
    from pycrdt.websocket import ASGIServer, WebsocketServer, YRoom

    class Store(SQLiteYStore):
        db_path = str(folder / "ystore.db")

    class Server(WebsocketServer):
        async def get_room(self, name: str) -> YRoom:
            if name not in self.rooms:
                self.rooms[name] = YRoom(ready=True, ystore=Store(name), log=self.log)
            await self.start_room(self.rooms[name])
            return self.rooms[name]

    keeps = "auto_clean_rooms" in inspect.signature(WebsocketServer).parameters
    server = Server(auto_clean_rooms=False) if keeps else Server()
    async with server:
        config = uvicorn.Config(
            ASGIServer(server), port=port, log_level="error", ws_max_size=1 << 30, ws="websockets"
        )
        web = uvicorn.Server(config)
        serving = asyncio.create_task(web.serve())
        deadline = now_us() + 30_000_000
        while not web.started and now_us() < deadline:
            await asyncio.sleep(0.05)
        print("serves", flush=True)
        await serving


class _Channel:
    path = "room"

    def __init__(self, socket: Any) -> None:
        self.socket, self.bytes_in = socket, 0

    def __aiter__(self) -> _Channel:
        return self

    async def __anext__(self) -> bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def send(self, message: bytes) -> None:
        await self.socket.send(message)

    async def recv(self) -> bytes:
        message = await self.socket.recv()
        self.bytes_in += len(message)
        return bytes(message)


class _Client:
    def __init__(self, doc: Any = None) -> None:
        from pycrdt import Doc, Map

        self.doc = doc if doc is not None else Doc()
        self.maps = {kind: self.doc.get(kind, type=Map) for kind in KINDS}
        self.seen = 0
        self.target = 0
        self.reached = asyncio.Event()
        self.delays: list[int] | None = None

    async def connect(self, port: int) -> None:
        import websockets
        from pycrdt import Provider

        socket = await websockets.connect(
            f"ws://127.0.0.1:{port}/room", max_size=None, compression=None, ping_interval=None
        )
        self.channel = _Channel(socket)
        self._provider = Provider(self.doc, self.channel)
        self._ended, live = asyncio.Event(), asyncio.Event()

        async def keep() -> None:
            async with self._provider:
                live.set()
                await self._ended.wait()

        self._kept = asyncio.create_task(keep())
        await live.wait()
        await self._provider.synced.wait()

    async def close(self) -> None:
        self._ended.set()
        await self._kept
        await self.channel.socket.close()

    def watch(self) -> None:
        self._watch = self.maps["item"].observe_deep(self._see)

    def _see(self, events: Any, transaction: Any = None) -> None:
        if self.delays is not None:
            now = now_us()
            self.delays.extend(now - event.target["score"] for event in events)
        self.seen += len(events)
        if self.target and self.seen >= self.target:
            self.target = 0
            self.reached.set()


async def _write(port: int) -> None:
    from pycrdt import Map

    client = _Client()
    await client.connect(port)
    say(ready=1)
    items = client.maps["item"]

    async def insert(order: Mapping[str, Any]) -> None:
        with client.doc.transaction():
            for i in range(order["n"]):
                items[f"i{i}"] = Map({"name": f"n{i}", "score": 0.0})
        say(done=1)

    async def burst(order: Mapping[str, Any]) -> None:
        say(t0=now_us())
        for i in range(order["n"]):
            items[f"i{i}"]["score"] = float(order["v"])
            if i % 10 == 9:
                await asyncio.sleep(0)

    async def at_rate(order: Mapping[str, Any]) -> None:
        async def one(i: int) -> None:
            items[f"i{i % 100}"]["score"] = float(now_us())

        await paced(order, one)
        say(done=1)

    async def load(order: Mapping[str, Any]) -> None:
        entities = json.loads(Path(order["entities"]).read_text(encoding="utf-8"))
        began = now_us()
        for start in range(0, len(entities), BATCH):
            with client.doc.transaction():
                for entity in entities[start : start + BATCH]:
                    fields = {k: v for k, v in entity.items() if k not in ("id", "type") and v is not None}
                    client.maps[entity["type"]][entity["id"]] = Map(fields)
            await asyncio.sleep(0)
        say(loaded=(now_us() - began) / 1e6)

    async def touch(order: Mapping[str, Any]) -> None:
        posts, ids = client.maps["post"], order["ids"]
        for start in range(0, len(ids), order["each"]):
            with client.doc.transaction():
                for post in ids[start : start + order["each"]]:
                    posts[post]["score"] = float(order["v"])
            await asyncio.sleep(0)
        say(done=1)

    await follow({"insert": insert, "burst": burst, "paced": at_rate, "load": load, "touch": touch})


async def _read(port: int) -> None:
    clients: list[_Client] = []
    fresh = _Client()
    heard = 0
    say(ready=1)

    def received() -> int:
        return sum(client.channel.bytes_in for client in clients)

    async def sub(order: Mapping[str, Any]) -> None:
        for _ in range(order["k"]):
            clients.append(_Client())
            await clients[-1].connect(port)
            clients[-1].watch()
        deadline = now_us() + 60_000_000
        while any(len(client.maps["item"]) < order["n"] for client in clients) and now_us() < deadline:
            await asyncio.sleep(0.05)
        say(subbed=1)

    async def expect(order: Mapping[str, Any]) -> None:
        for client in clients:
            client.seen, client.target = 0, order["n"]
            client.reached.clear()
        before = received()
        say(armed=1)
        for client in clients:
            await client.reached.wait()
        say(t=now_us(), bytes=(received() - before) / len(clients) / order["n"])

    async def listen(order: Mapping[str, Any]) -> None:
        nonlocal heard
        for client in clients:
            client.delays = []
        heard = received()
        say(armed=1)

    async def delays(order: Mapping[str, Any]) -> None:
        for client in clients:
            deadline = now_us() + 5_000_000
            while len(client.delays or ()) < order["n"] and now_us() < deadline:
                await asyncio.sleep(0.01)
        told = [int(delay) for client in clients for delay in client.delays or ()]
        say(delays=told, bytes=(received() - heard) / max(1, len(told)))
        for client in clients:
            client.delays = None

    async def begin(order: Mapping[str, Any]) -> None:
        nonlocal fresh
        fresh, began = _Client(), now_us()
        await fresh.connect(port)
        synced = now_us()
        held = {kind: entities.to_py() for kind, entities in fresh.maps.items()}
        took = now_us() - began
        count = sum(
            len(v) if isinstance(v, list) else 1
            for entities in held.values()
            for fields in entities.values()
            for v in fields.values()
        )
        say(t=took / 1e6, synced=(synced - began) / 1e6, n=count)

    async def leave(order: Mapping[str, Any]) -> None:
        await fresh.close()
        say(off=1)

    async def come_back(order: Mapping[str, Any]) -> None:
        nonlocal fresh
        began = now_us()
        fresh = _Client(fresh.doc)
        await fresh.connect(port)
        took = now_us() - began
        posts = fresh.maps["post"]
        say(t=took / 1e6, n=sum(posts[post]["score"] == float(order["v"]) for post in order["ids"]))

    await follow(
        {
            "sub": sub,
            "expect": expect,
            "listen": listen,
            "delays": delays,
            "fresh": begin,
            "off": leave,
            "on": come_back,
        }
    )


if __name__ == "__main__":
    role, port, folder = sys.argv[1:4]
    if role == "server":
        asyncio.run(_serve(int(port), Path(folder)))
    else:
        asyncio.run({"writer": _write, "reader": _read}[role](int(port)))
