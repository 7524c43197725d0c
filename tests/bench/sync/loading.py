"""A large load beside other news, over the socket that has both; and the same content over HTTP.

`python -m tests.bench.sync.loading loader PORT FOLDER`: a connection hears what is written to one kind, and asks for
all other kinds meanwhile. Told are how long the load took, and how long what was written during it was on its way.
"""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.live.workload import entities
from tests.bench.sync.own import APP, OwnClient, _decode, _Part, token
from tests.bench.sync.role import follow, now_us, say

HEARD = "item/"


class Loader(OwnClient):
    """Hears of items, and can ask for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.asks, self.came = [HEARD], 0
        self.loaded = asyncio.Event()

    def hello(self, subscribed: bool) -> dict[str, Any]:
        return {**super().hello(subscribed), "features": ["lineage", "window"]}

    def subscription(self) -> dict[str, Any]:
        return {"id": f"those {len(self.asks)}", "kind": "triples", "predicates": self.asks}

    def on_message(self, data: bytes) -> None:
        super().on_message(data)
        if data.startswith(b'{"t":"part"') and b'"id":"those ' in data[-200:]:
            self.came += 1
            self.send(b'{"t":"took","parts":%d}' % self.came)
        elif f'"cursors":{{"those {len(self.asks)}"'.encode() in data[:200]:
            self.loaded.set()


def fetched(port: int) -> dict[str, dict[Any, Any]]:
    """All there is, over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"tripleweb {OwnClient.token}"}
    connection.request("GET", f"/api/tripleweb/v1/apps/{APP}/snapshot", headers=headers)
    store: dict[str, dict[Any, Any]] = {}
    response = connection.getresponse()
    response.readline()  # says of which moment it is
    for line in response:
        frame = _decode(line)
        for subject, predicate, slot, _, value, stamp in frame.registers if type(frame) is _Part else ():
            fields = store.setdefault(subject, {})
            fields[(predicate, slot) if slot else predicate] = (value, stamp)
    connection.close()
    return store


async def _load(port: int) -> None:
    others = sorted({f"{entity['type']}/" for entity in entities(10)})
    say(ready=1)

    async def hears(count: int) -> tuple[Loader, list[int]]:
        """A client, and what it heard before it asks for more: so much, if that comes."""
        client = Loader()
        await client.join(port)
        await client.loaded.wait()
        client.delays = []
        say(armed=1)
        deadline = now_us() + 10_000_000
        while len(client.delays) < count and now_us() < deadline:
            await asyncio.sleep(0.01)
        quiet, client.delays = client.delays, []
        return client, quiet

    async def load(order: Mapping[str, Any]) -> None:
        client, quiet = await hears(order["heard"])
        client.asks, client.loaded = others, asyncio.Event()
        began = now_us()
        await client.subscribe()
        await client.loaded.wait()
        tell(began, client, client.store, quiet)

    async def fetch(order: Mapping[str, Any]) -> None:
        client, quiet = await hears(order["heard"])
        began = now_us()
        tell(began, client, await asyncio.to_thread(fetched, port), quiet)

    def tell(began: int, client: Loader, store: dict[str, Any], quiet: list[int]) -> None:
        seconds, busy, client.delays = (now_us() - began) / 1e6, client.delays, None
        client.close()
        triples = sum(len(fields) for subject, fields in store.items() if not subject.startswith("i"))
        say(seconds=seconds, quiet=quiet, busy=busy, triples=triples)

    await follow({"load": load, "fetch": fetch})


if __name__ == "__main__":
    _, port, folder = sys.argv[1:4]
    OwnClient.token = token(Path(folder))
    asyncio.run(_load(int(port)))
