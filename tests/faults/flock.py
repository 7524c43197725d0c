"""`python -m tests.faults.flock URL TOKEN APP COUNT`: so many bare clients of the protocol in one process, each with
all of the app; who loses his connection makes another at once.

Orders: `joined` answers with how many are connected and have all that was there; `seen` with what each holds, as
`[items, counts]` and how many hold just that; `waits` with the time from each loss of a connection to being joined.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict
from typing import Any
from urllib.parse import urlsplit

from tests.bench.sync import own
from tests.faults.figures import Span
from tests.faults.processes import PATIENCE_S

AGAIN_S = 0.02  # between two attempts of one


class Flock:
    def __init__(self, url: str, token: str, app: str, count: str) -> None:
        self._port = urlsplit(url).port
        own.OwnClient.token = token
        own.APP = app
        self.clients = [own.OwnClient() for _ in range(int(count))]
        self.joined: set[int] = set()
        self.waits: list[Span] = []

    async def keep(self, number: int) -> None:
        """One of them, for ever."""
        assert self._port is not None
        now = asyncio.get_running_loop().time
        lost, deadline = now(), now() + PATIENCE_S
        while True:
            assert now() < deadline, "one does not come back"
            before, one = self.clients[number], own.OwnClient()
            one.replica, one.store, one.cursor = before.replica, before.store, before.cursor
            try:
                await one.join(self._port)
            except OSError:
                await asyncio.sleep(AGAIN_S)
                continue
            self.clients[number] = one
            joining = asyncio.ensure_future(one.joined.wait())
            await asyncio.wait([joining, one.closed], return_when=asyncio.FIRST_COMPLETED)
            joining.cancel()
            if one.joined.is_set():
                self.joined.add(number)
                self.waits.append((lost, now()))
                await one.closed
                lost, deadline = now(), now() + PATIENCE_S
                self.joined.discard(number)
            else:
                await asyncio.sleep(AGAIN_S)

    def seen(self) -> list[list[Any]]:
        """What each of them holds: how often there is each."""
        told: Counter[str] = Counter()
        for client in self.clients:
            items, counts = [], defaultdict(int)
            for subject, fields in client.store.items():
                if "item/n" in fields:
                    items.append([subject, fields["item/by"][0], fields["item/n"][0]])
                for key, (value, _) in fields.items():
                    if isinstance(key, tuple) and key[0] == "sum/count":
                        counts[subject] += value
            told[json.dumps([sorted(items), counts], sort_keys=True)] += 1
        return [[*json.loads(text), count] for text, count in told.items()]

    def obey(self, order: dict[str, Any]) -> Any:
        if order["do"] == "joined":
            return len(self.joined)
        if order["do"] == "seen":
            return self.seen()
        if order["do"] == "waits":
            return self.waits
        raise ValueError(order["do"])


async def main(arguments: list[str]) -> None:
    flock = Flock(*arguments)
    keeping = [asyncio.ensure_future(flock.keep(number)) for number in range(len(flock.clients))]
    print(json.dumps({"answer": len(keeping)}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        for each in keeping:
            if each.done():
                each.result()  # raises what ended it
        print(json.dumps({"answer": flock.obey(json.loads(line))}), flush=True)
    for each in keeping:
        each.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
