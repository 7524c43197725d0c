"""What is made durable: commits through the writer thread, saves of a replica, opening both with much in them."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

from tripleweb.change import Change
from tripleweb.clock import pack, stamp_text
from tripleweb.storage import TenantStorage
from tripleweb.storage.replica import ReplicaFile
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant
from tripleweb.storage.writer import Writer
from tripleweb.store import Store
from tripleweb.sync.messages import Committed, change_to_wire, encode
from tripleweb.sync.records import Commit, Entry, LocalCommit, Pending, ReplicaRow

REGISTERS = 126_000
NOW = pack(1_700_000_000_000)


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = SqliteStores(folder)
        for clients in (1, 50):
            figures |= asyncio.run(_commits(stores.open(f"clients-{clients}"), clients, seconds=3))
        stores.close()
        figures |= _tenant(Path(folder) / "tenant")
        figures |= _replica(Path(folder))
    return {name: round(value, 1) for name, value in figures.items()}


class _Server:
    """As the hub does it: what arrives while one commit is out goes into the next."""

    def __init__(self, storage: TenantStorage, writer: Writer) -> None:
        self.storage, self.writer = storage, writer
        self.seq = self.batch = 0
        self.building = Commit(1, 0, 0)
        self.waiting: list[asyncio.Future[None]] = []
        self.busy = False

    async def write(self, replica: str, number: int) -> None:
        self.seq += 1
        change = Change(f"e{number % 1000}", "user/age", "", number, NOW + self.seq, replica)
        body = Committed(self.seq, "ada", stamp_text(change.time, replica), [change_to_wire(change)])
        commit = self.building
        commit.entries.append(Entry(self.seq, replica, number, "V1StGXR8", "ada", 1, encode(body), (change,)))
        commit.receipts.append(
            (replica, number, "V1StGXR8", b'{"number":7,"id":"V1StGXR8","outcome":"applied"}')
        )
        commit.replicas[replica] = ReplicaRow("ada", number, number - 1, change.time)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        self.leave()
        await done

    def leave(self) -> None:
        if self.busy or not self.waiting:
            return
        self.busy = True
        commit, waiting = self.building, self.waiting
        commit.seq, commit.time = self.seq, NOW + self.seq
        self.batch += 1
        self.building, self.waiting = Commit(self.batch + 1, 0, 0), []

        def landed(commit: Commit, error: Exception | None) -> None:
            self.busy = False
            for one in waiting:
                one.set_exception(error) if error else one.set_result(None)
            self.leave()

        self.writer.submit(self.storage, commit, landed)


async def _commits(storage: TenantStorage, clients: int, seconds: float) -> dict[str, float]:
    writer = Writer(asyncio.get_running_loop().call_soon_threadsafe)
    server = _Server(storage, writer)
    times: list[float] = []
    began = time.perf_counter()

    async def client(replica: str) -> None:
        number = 0
        while time.perf_counter() < began + seconds:
            number += 1
            start = time.perf_counter()
            await server.write(replica, number)
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(client(f"{n:012d}") for n in range(clients)))
    took = time.perf_counter() - began
    await asyncio.get_running_loop().run_in_executor(None, writer.stop)
    times.sort()
    name = f"group_commit_{clients}_clients"
    return {
        f"{name}_per_s": len(times) / took,
        f"{name}_disk_commits_per_s": server.batch / took,
        f"{name}_p50_ms": times[len(times) // 2] * 1e3,
        f"{name}_p99_ms": times[len(times) * 99 // 100] * 1e3,
    }


def _changes(count: int) -> list[Change]:
    """Six fields an entity, mixed kinds."""
    values = ("Newark Liberty Intl", 17, 40.6925, True, "EWR", "America/New_York")
    return [
        Change(f"airport/{n // 6}", f"airport/f{n % 6}", "", values[n % 6], NOW + n // 6, "0123456789ab")
        for n in range(count)
    ]


def _tenant(path: Path) -> dict[str, float]:
    """One app with many triples: from the log, folding, from the table."""
    storage = SqliteTenant(path, "bench")
    changes = _changes(REGISTERS)
    commit = Commit(1, 0, 1)
    for seq, start in enumerate(range(0, REGISTERS, 60), 1):
        piece = [change._replace(time=NOW + seq) for change in changes[start : start + 60]]
        body = Committed(
            seq, "ada", stamp_text(NOW + seq, "0123456789ab"), [change_to_wire(c) for c in piece]
        )
        commit.entries.append(
            Entry(seq, "0123456789ab", seq, "V1StGXR8", "ada", 1, encode(body), tuple(piece))
        )
        commit.seq = seq
    figures = {}
    began = time.perf_counter()
    storage.commit(commit)
    figures["tenant_commit_registers_per_s"] = REGISTERS / (time.perf_counter() - began)
    figures["tenant_open_from_log_ms"] = _open_ms(storage, path)
    storage = SqliteTenant(path, "bench")
    began = time.perf_counter()
    longest = 0.0
    while True:
        start = time.perf_counter()
        if not storage.fold():
            break
        longest = max(longest, time.perf_counter() - start)
    figures["tenant_fold_registers_per_s"] = REGISTERS / (time.perf_counter() - began)
    figures["tenant_fold_longest_slice_ms"] = longest * 1e3
    figures["tenant_open_from_table_ms"] = _open_ms(storage, path)
    return figures


def _open_ms(storage: SqliteTenant, path: Path) -> float:
    """Opening and reading everything; what the store then takes to merge it is not counted."""
    storage.close()
    began = time.perf_counter()
    storage = SqliteTenant(path, "bench")
    count = sum(1 for _ in storage.load(tail=0).registers)
    took = (time.perf_counter() - began) * 1e3
    assert count == REGISTERS
    storage.close()
    return took


def _replica(folder: Path) -> dict[str, float]:
    figures = {}
    for durability, count in (("process", 10_000), ("full", 500)):
        replica = ReplicaFile(folder / durability, durability)  # type: ignore[arg-type]
        longest = 0.0
        began = time.perf_counter()
        for n in range(1, count + 1):
            change = Change(f"e{n % 1000}", "user/age", "", n, NOW + n, "0123456789ab")
            commit = LocalCommit(
                registers=[change],
                pending=[Pending(n, "V1StGXR8_Z5jdHi6B-myT", change.time, [change])],
                decided=[n - 100] if n > 100 else [],
                meta={"clock": change.time, "replica": "0123456789ab", "next": n + 1},
            )
            start = time.perf_counter()
            replica.save(commit)
            longest = max(longest, time.perf_counter() - start)
        figures[f"replica_saves_{durability}_per_s"] = count / (time.perf_counter() - began)
        figures[f"replica_saves_{durability}_longest_ms"] = longest * 1e3
        replica.close()
    path, changes, store = folder / "large", _changes(REGISTERS), Store()
    store.put(changes)
    replica = ReplicaFile(path)
    began = time.perf_counter()
    replica.save(LocalCommit(registers=changes))
    figures["replica_one_save_registers_per_s"] = REGISTERS / (time.perf_counter() - began)
    longest, began = 0.0, time.perf_counter()
    steps = replica.compact(store.registers())
    while True:
        start = time.perf_counter()
        if next(steps, steps) is steps:
            break
        longest = max(longest, time.perf_counter() - start)
    figures["replica_compact_registers_per_s"] = REGISTERS / (time.perf_counter() - began)
    figures["replica_compact_longest_step_ms"] = longest * 1e3
    replica.close()
    began = time.perf_counter()
    replica = ReplicaFile(path)
    assert len(list(replica.load().registers)) == REGISTERS
    figures["replica_open_ms"] = (time.perf_counter() - began) * 1e3
    replica.close()
    return figures


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
