"""Too much of it: floods, storms, long queues, a server that was set back. Everything has a bound, and says so."""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers import Peers, triples
from tests.stores import Connect
from tripleweb.hub import Hub, HubLimits
from tripleweb.line import RETURNS_A_SECOND, Allowance, spread
from tripleweb.link import Pace
from tripleweb.session import Session
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.replica import MemoryReplica
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync import messages
from tripleweb.sync.messages import Hello, Ping, Push, PushedTransaction
from tripleweb.sync.server import Actor, Limits
from tripleweb.web import WebServer

TOKEN = "a-token-that-stays"
QUICK = Pace(first_pause=0.01, longest_pause=0.1, tick=0.1, connect=2)

# -- floods ------------------------------------------------------------------------------------------------------------


def test_an_allowance_lets_through_what_it_promises() -> None:
    chance = random.Random(3)
    allowance = Allowance(20, 100, now=5.0)
    now, passed = 5.0, []
    for _ in range(2_000):
        now += chance.choice([0, 0, 0.001, 0.01, 0.2])
        passed.append(now + allowance.take(now))
    for first in range(0, 2_000, 7):
        for count in (1, 30, 200):
            within = passed[first : first + count]
            if len(within) > 20:
                assert within[-1] - within[0] >= (len(within) - 21) / 100 - 1e-3
    assert passed == sorted(passed) and passed[-1] - now < 21


class Outlet:
    def __init__(self) -> None:
        self.said: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self, code: int, reason: str) -> None:
        self.said.append(reason.encode())


def test_a_flood_is_slowed_down_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends more frames than it may is read more slowly: nothing it sent is lost, and nobody else waits."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    async def flood() -> tuple[int, int]:
        hub = Hub(MemoryStores(), limits=HubLimits(frames_burst=10, frames_a_second=0.01))
        monkeypatch.setattr("tripleweb.line.asyncio.sleep", noted)
        outlets = Outlet(), Outlet()
        busy, calm = [await hub.join("app", Actor("ada"), outlet) for outlet in outlets]
        hello = messages.encode(Hello((2, 2), "0123456789ab", "i", 1, 0, 0)).decode()
        await busy.receive(hello)
        for number in range(29):
            await busy.receive(messages.encode(Ping(number)).decode())
        await calm.receive(messages.encode(Ping(1)).decode())
        deadline = time.monotonic() + 10
        while len(outlets[0].said) < 30 or not outlets[1].said:
            assert time.monotonic() < deadline
            await sleep(0.001)
        counts = len(outlets[0].said), len(outlets[1].said)
        monkeypatch.undo()
        await hub.close()
        return counts

    assert asyncio.run(flood()) == (30, 1)
    assert len(waited) == 20 and all(99 * n <= w <= 100 * n for n, w in enumerate(waited, 1)), waited


def test_a_replica_that_never_confirms_is_told_to() -> None:
    """Receipts are kept until they are confirmed: not without end."""
    peers = Peers(Limits(unconfirmed_max=5))
    ada = peers.client("ada").connect()
    conn, ada.conn = ada.conn or 0, None
    peers.to_server(conn, messages.encode(Hello((2, 2), "0123456789ab", "i", 99, 0, peers.now_ms)))
    for number in range(1, 8):
        stamp = f"018bcfe56800000{number}-0123456789ab"
        pushed = PushedTransaction(number, f"tx{number}", stamp, [("e", "k/v", "", "n", number)])
        peers.to_server(conn, messages.encode(Push([pushed])))
    assert [(fault.code, "confirm them" in fault.message) for fault in peers.faults] == [("overload", True)]
    assert peers.server.seq == 5
    bob = peers.join("bob")  # who confirms as clients do
    for number in range(20):
        bob.set("e", "k/w", number)
        peers.settle()
    peers.agree(bob)


# -- storms ------------------------------------------------------------------------------------------------------------


def test_who_is_sent_away_comes_back_at_a_moment_of_its_own() -> None:
    """Reconnect storms are spread, by the server's word too."""
    waits = sorted(spread(4_000) for _ in range(4_000))
    assert waits[-1] <= 1_000 * 4_000 / RETURNS_A_SECOND
    for first in range(len(waits) - 400):
        assert waits[first + 400] - waits[first] > 1_000, "400 in a second, where 200 are meant"
    assert spread(0) == 0 and spread(1) <= 5


def test_a_server_that_stops_tells_each_connection_its_moment() -> None:
    async def stop() -> list[int]:
        hub = Hub(MemoryStores())
        outlets = [Outlet() for _ in range(200)]
        for outlet in outlets:
            await hub.join("app", Actor("ada"), outlet)
        await hub.close()
        faults = [messages.decode_server(outlet.said[0]) for outlet in outlets]
        assert all(isinstance(fault, messages.Fault) and fault.code == "closing" for fault in faults)
        return [fault.wait for fault in faults if isinstance(fault, messages.Fault)]

    waits = asyncio.run(stop())
    assert len(waits) == 200 and min(waits) >= 0 and max(waits) <= 1_000 and len(set(waits)) > 100


# -- queues ------------------------------------------------------------------------------------------------------------


def test_writes_queue_without_limit_while_there_is_no_server(server: WebServer, connect: Connect) -> None:
    """Offline writes queue up without limit, and leave in frames and in flights of bounded size."""
    db = connect()
    db.go_offline()
    for number in range(3_000):
        db.set(f"e{number % 100}", "k/v", number)
    assert db.status.pending == 3_000 and db.status.state == "offline"
    db.go_online()
    db.flush(60)
    assert db.status.pending == 0 and set(db.receipts()["outcome"]) <= {"applied", "restamped"}


# -- a server that was set back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(4))
def test_random_histories_with_an_old_backup_restored(block: int) -> None:
    """The server has the data of some time ago, under a new epoch: whatever clients know, all come back and agree."""
    for seed in range(block * 15, block * 15 + 15):
        chance = random.Random(seed)
        peers = Peers(Limits(tail_max=chance.choice([3, 20_000])))
        clients = [peers.join(f"c{number}") for number in range(4)]
        backup = None
        for step in range(60):
            peers.now_ms += chance.randrange(2_000)
            client, dice = chance.choice(clients), chance.random()
            if dice < 0.2:
                client.write(lambda tx: tx.increment("n", "k/count", 1))
            elif dice < 0.5:
                client.set(f"e{chance.randrange(3)}", "k/v", step)
            elif dice < 0.6:
                client.disconnect() if client.conn is not None else client.connect()
            elif dice < 0.7:
                client.up()
            elif dice < 0.75:
                peers.commit()
                peers.down()
            elif dice < 0.8 and backup is None:
                backup = copy.deepcopy(peers.disk)
            elif dice < 0.84 and backup is not None:
                peers.disk = copy.deepcopy(backup)
                peers.disk.epoch = f"e{step}"
                peers.open()
            elif dice < 0.95:
                peers.settle()
        for _ in range(4):
            for client in clients:
                if client.conn is None:
                    client.connect()
            peers.settle()
        for client in clients:
            assert client.core.state == "online" and client.core.pending == 0, f"seed {seed}: {client.name}"
            assert client.triples == triples(peers.server.store), f"seed {seed}: {client.name}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], WebServer]]:
    running: list[WebServer] = []

    def start(port: int) -> WebServer:
        stores = SqliteStores(tmp_path / "server")
        running.append(WebServer(stores, port=port, owner="ada", token=TOKEN).start())
        return running[-1]

    yield start
    running[-1].stop()


def test_four_clients_of_a_server_that_was_restored_from_an_old_backup(
    tmp_path: Path, start: Callable[[int], WebServer]
) -> None:
    """One that wrote, one that only read, one with writes unsent, one that wrote while it was down: all come back, and
    what the backup had not seen comes back with them."""

    def put(session: Session, subject: str, value: str) -> None:
        session.write(lambda tx: (tx.set(subject, "k/v", value), tx.increment("n", "k/count", 1)))  # type: ignore[func-returns-value]

    server = start(0)
    sessions = [Session(MemoryReplica(), app="app", url=server.url) for _ in range(4)]
    port = int(server.url.rpartition(":")[2].strip("/"))
    for number, session in enumerate(sessions):
        session.connect(TOKEN, pace=QUICK)
        put(session, f"e{number}", "before")
        session.flush(10)
    server.stop()
    shutil.copytree(tmp_path / "server", tmp_path / "backup")
    server = start(port)
    for _ in range(5):
        put(sessions[0], "e0", "after")
    put(sessions[2], "e2", "after")
    for session in sessions:
        session.flush(10)
    sessions[2].go_offline()
    put(sessions[2], "e2", "unsent")
    server.stop()
    put(sessions[3], "e3", "unsent")
    shutil.rmtree(tmp_path / "server")
    shutil.copytree(tmp_path / "backup", tmp_path / "server")
    start(port)
    sessions[2].go_online()
    for session in sessions:
        session.flush(20)

        def is_back(session: Session = session) -> bool:
            values = dict(session.store.scan("k/v"))
            wanted = {"e0": "after", "e1": "before", "e2": "unsent", "e3": "unsent"}
            counted = session.store.values("n", "k/count") == [12]
            return session.core.caught_up and values == wanted and counted

        assert session.wait_for(is_back, 20), (
            session.state,
            session.core.reason,
            list(session.store.scan("k/v")),
            session.store.values("n", "k/count"),
        )
    for session in sessions:
        session.close(0.2)
