"""What the storage layout allows without sockets: commits through the writer's thread, full sync, as the hub does.

`one_by_one`: commits of one change, the next one when the last has landed. `commits_of_50` and `commits_of_1000`:
whole transactions of one change each, so many to a commit.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from typing import Any

from tripleweb.change import Change
from tripleweb.clock import pack, stamp_text
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.storage.writer import Writer
from tripleweb.sync.messages import Committed, Receipt, change_to_wire, encode
from tripleweb.sync.records import Commit, Entry, ReplicaRow

NOW = pack(1_700_000_000_000)
REPLICA = "0123456789ab"


def ceiling(seconds: float) -> dict[str, Any]:
    return {
        name: asyncio.run(_measure(size, seconds))
        for name, size in (("one_by_one", 1), ("commits_of_50", 50), ("commits_of_1000", 1_000))
    }


async def _measure(size: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="tripleweb-bench-") as folder:
        stores = SqliteStores(folder)
        storage, writer = stores.open("bench"), Writer(loop.call_soon_threadsafe)
        times: list[float] = []
        began, batch = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            batch += 1
            commit = _commit(batch, size)
            landed: asyncio.Future[None] = loop.create_future()

            def done(_: Commit, error: Exception | None, landed: asyncio.Future[None] = landed) -> None:
                landed.set_exception(error) if error else landed.set_result(None)

            start = time.perf_counter()
            writer.submit(storage, commit, done)
            await landed
            times.append(time.perf_counter() - start)
        await loop.run_in_executor(None, writer.stop)
        stores.close()
    taken = statistics.median(times)
    return {
        "commits_per_s": round(1 / taken),
        "changes_per_s": round(size / taken),
        "p99_ms": round(sorted(times)[len(times) * 99 // 100] * 1e3, 3),
        "n": len(times),
    }


def _commit(batch: int, size: int) -> Commit:
    commit = Commit(batch, batch * size, NOW + batch * size)
    for seq in range((batch - 1) * size + 1, batch * size + 1):
        change = Change(f"i{seq % 1000}", "item/score", "", seq, NOW + seq, REPLICA)
        stamp = stamp_text(change.time, REPLICA)
        body = encode(Committed(seq, "ada", stamp, [change_to_wire(change)]))
        commit.entries.append(Entry(seq, REPLICA, seq, f"{seq:021d}", "ada", 1, body, (change,)))
        receipt = encode(Receipt(seq, f"{seq:021d}", "applied", stamp, seq, 1))
        commit.receipts.append((REPLICA, seq, f"{seq:021d}", receipt))
    commit.replicas[REPLICA] = ReplicaRow("ada", commit.seq, commit.seq - size, commit.time)
    return commit
