"""The hub with real cores, over sockets and disks that do what the test says: who hears what, when, and what it costs.

Every test runs on an event loop of its own, within a deadline.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from tripleweb.clock import pack, stamp_text
from tripleweb.datalog import evaluate
from tripleweb.errors import ProtocolError, StorageError
from tripleweb.hub import Hub, Line
from tripleweb.storage import App
from tripleweb.storage.memory import MemoryStores, MemoryTenant
from tripleweb.sync import messages
from tripleweb.sync.messages import (
    Confirm,
    Fault,
    Hello,
    Ping,
    Poke,
    Pong,
    Push,
    PushedTransaction,
    Receipt,
    Rows,
    ServerFrame,
    Subscribe,
    Subscription,
    Unsubscribe,
    Welcome,
)
from tripleweb.sync.records import Commit, TenantState
from tripleweb.sync.server import Actor, Limits, TenantCore
from tripleweb.tenant import HubLimits

DEADLINE = 20


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test that is a coroutine, within the deadline."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(DEADLINE):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition, under the deadline of `on_loop`."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


class Disk(MemoryStores):
    """Stores whose commits and openings can be held up and made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = threading.Event()
        self.commit_gate = threading.Event()
        self.open_gate.set()
        self.commit_gate.set()
        self.failure: Exception | None = None
        self.opened = 0  # apps
        self.begun = 0  # commits that have reached the disk
        self.commits: list[Commit] = []  # and those that are on it
        self.threads: set[str] = set()

    def open(self, app: str) -> MemoryTenant:
        assert self.open_gate.wait(DEADLINE)
        self.opened += 1
        self._check_closed(app)
        tenant = super().open(app)
        held: MemoryTenant = _DiskTenant(self, app, tenant._data)
        self._open[app] = held
        return held

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Commits reach the disk and stay there until the block ends."""
        self.commit_gate.clear()
        try:
            yield
        finally:
            self.commit_gate.set()


class _DiskTenant(MemoryTenant):
    def __init__(self, disk: Disk, app: str, data: Any) -> None:
        super().__init__(app, data)
        self._disk = disk

    def load(self, tail: int = 10_000) -> TenantState:
        self._disk.threads.add(threading.current_thread().name)
        return super().load(tail)

    def commit(self, commit: Commit) -> None:
        disk = self._disk
        disk.begun += 1
        assert disk.commit_gate.wait(DEADLINE)
        if disk.failure is not None:
            raise disk.failure
        super().commit(commit)
        disk.commits.append(commit)


class Page:
    """A client without a socket: the `Outlet` of its line, and what it says over it."""

    def __init__(self, hub: Hub, user: str, replica: str) -> None:
        self.hub = hub
        self.actor = Actor(user, role="writer")
        self.replica = replica
        self.line: Line
        self.number = 0
        self.sent: list[bytes] = []  # by the server, in order
        self.seen = 0
        self.closed: tuple[int, str] | None = None
        self.reads = asyncio.Event()
        self.reads.set()

    # what the server does with it
    async def write(self, data: bytes) -> None:
        if self.closed is not None:
            raise ConnectionError("closed")
        await self.reads.wait()
        self.sent.append(data)

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    # what it does itself
    async def join(self, app: str = "app") -> Page:
        self.line = await self.hub.join(app, self.actor, self)
        return self

    async def say(self, frame: Any) -> None:
        await self.line.receive(messages.encode(frame).decode())

    async def hello(self, **more: Any) -> Welcome:
        subscriptions = more.pop("subscriptions", [Subscription("app")])
        await self.say(Hello((2, 2), self.replica, "x", self.number + 1, 0, 0, [], subscriptions, **more))
        return await self.hear(Welcome)

    async def push(self, *values: Any, more: bool = False) -> int:
        """Pushes one transaction; returns its number."""
        self.number += 1
        changes = [
            (f"{self.replica}-{self.number}-{i}", "n/v", "", "s", str(v)) for i, v in enumerate(values)
        ]
        stamp = stamp_text(pack(1_700_000_000_000, self.number), self.replica)
        await self.say(
            Push([PushedTransaction(self.number, f"{self.replica}-{self.number}", stamp, changes, more)])
        )
        return self.number

    async def hear(self, kind: type[Any], where: Callable[[Any], bool] = lambda frame: True) -> Any:
        """The next frame of a kind, passing over others."""
        while True:
            await until(lambda: self.seen < len(self.sent) or self.closed)
            assert self.seen < len(self.sent), f"closed with {self.closed} where {kind.__name__} was due"
            frame = messages.decode_server(self.sent[self.seen])
            self.seen += 1
            if isinstance(frame, kind) and where(frame):
                return frame

    async def hear_receipt(self, number: int) -> Receipt:
        poke = await self.hear(Poke, lambda poke: any(r.number == number for r in poke.receipts))
        return next(receipt for receipt in poke.receipts if receipt.number == number)

    @property
    def frames(self) -> list[ServerFrame]:
        return [messages.decode_server(data) for data in self.sent]

    def receipts(self) -> list[int]:
        return [r.number for frame in self.frames if isinstance(frame, Poke) for r in frame.receipts]

    async def hear_goodbye(self) -> tuple[str, int]:
        fault = await self.hear(Fault)
        await until(lambda: self.closed)
        assert self.closed is not None
        assert fault.code == self.closed[1]
        assert fault == messages.decode_server(self.sent[-1])
        return fault.code, self.closed[0]


async def page(hub: Hub, user: str = "ada", app: str = "app", replica: str = "") -> Page:
    """A client that is connected and has said hello."""
    made = Page(hub, user, replica or f"{user:a<12}")
    await made.join(app)
    await made.hello()
    return made


# ---------------------------------------- durable first


@on_loop
async def test_nothing_is_acknowledged_or_told_before_it_is_durable() -> None:
    disk = Disk()
    hub = Hub(disk)
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    with disk.held_up():
        begun = disk.begun
        await ada.push("Ada")
        await until(lambda: disk.begun > begun)
        for someone in (ada, bob):  # both are answered meanwhile: it is not the loop that waits
            await someone.say(Ping(7))
            assert (await someone.hear(Pong)).echo == 7
        assert ada.receipts() == []
        assert not any(isinstance(frame, Poke) and frame.transactions for frame in bob.frames)
    assert (await ada.hear_receipt(1)).outcome == "applied"
    assert (await bob.hear(Poke, lambda poke: poke.transactions)).seq == 1
    await hub.close()


@on_loop
async def test_what_comes_while_a_commit_is_out_goes_into_the_next_one() -> None:
    disk = Disk()
    hub = Hub(disk)
    ada = await page(hub, "ada")
    with disk.held_up():
        begun = disk.begun
        await ada.push("first")
        await until(lambda: disk.begun > begun)
        for i in range(50):
            await ada.push(i)
    await ada.hear_receipt(51)
    assert [len(commit.entries) for commit in disk.commits if commit.entries] == [1, 50]
    await hub.close()


@pytest.mark.parametrize(
    "limits", [HubLimits(), HubLimits(burst_min=1, patience_s=1)], ids=["", "waited for"]
)
@on_loop
async def test_a_failed_commit_closes_the_connections_and_the_next_client_gets_the_app_from_storage(
    limits: HubLimits,
) -> None:
    disk = Disk()
    hub = Hub(disk, limits=limits)
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    await ada.push("kept")
    await ada.hear_receipt(1)
    disk.failure = StorageError("no space left")
    await ada.push("lost")
    for someone in (ada, bob):
        assert await someone.hear_goodbye() == ("closing", 1011)
    assert 2 not in ada.receipts()
    assert not [
        f for f in bob.frames if isinstance(f, Poke) and any(b"lost" in bytes(t) for t in f.transactions)
    ]
    disk.failure = None
    ada.closed, ada.number = None, 1
    await ada.join()
    welcome = await ada.hello()
    assert (welcome.last, welcome.seq, welcome.rekey) == (1, 1, False)
    await ada.push("lost")
    assert (await ada.hear_receipt(2)).outcome == "applied"
    await hub.close()


@on_loop
async def test_a_user_has_a_name_that_can_be_kept() -> None:
    hub = Hub(Disk())
    with pytest.raises(ProtocolError, match="control characters"):
        await page(hub, "ada\0bob")
    assert not hub.lines
    await hub.close()


@on_loop
async def test_a_commit_that_was_waited_for_lands_once() -> None:
    """… and the next one with it, in whatever order what was posted comes."""
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(burst_min=1, patience_s=1))
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    for number in range(1, 31):
        await ada.push(number)
        await ada.hear_receipt(number)
    await bob.hear(Poke, lambda poke: poke.seq == 30)
    assert [entry.seq for commit in disk.commits for entry in commit.entries] == list(range(1, 31))
    assert hub.counts.accepted == 30
    await hub.close()


@on_loop
async def test_an_overdue_commit_is_a_failed_one() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(commit_s=0.05))
    ada = await page(hub, "ada")
    with disk.held_up():
        await ada.push("slow")
        assert await ada.hear_goodbye() == ("closing", 1011)
        assert ada.receipts() == []
    ada.closed, ada.number = None, 1
    await ada.join()
    # it landed after all: the receipt is there, and it is the same transaction
    assert (await ada.hello()).rekey is False
    assert (await ada.hear_receipt(1)).outcome == "applied"
    await hub.close()


@on_loop
async def test_an_error_in_the_core_costs_the_open_app_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(Disk())
    ada = await page(hub, "ada")
    await ada.push("kept")
    await ada.hear_receipt(1)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(TenantCore, "receive", broken)
        await ada.say(Ping(1))
        assert await ada.hear_goodbye() == ("closing", 1011)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    bob = await page(hub, "bob")
    assert (await bob.hear(Poke)).seq == 1
    await hub.close()


# ---------------------------------------- connections


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{}", "malformed"),
        ("", "malformed"),
        ("{", "malformed"),
        ('{"t":"made-up"}', "malformed"),
        ('{"t":"ping","now":"late"}', "malformed"),
        ("[" * 100_000, "malformed"),
        ('{"t":"push","transactions":[]}' * 2, "malformed"),
        ('{"t":"confirm","number":1}', "order"),
        (
            '{"t":"hello","protocol":[7,9],"replica":"a","incarnation":"x","next":1,"confirmed":0,"now":0}',
            "protocol",
        ),
    ],
)
@on_loop
async def test_a_broken_protocol_costs_its_connection_only(data: str | bytes, code: str) -> None:
    hub = Hub(Disk())
    bob = await page(hub, "bob")
    ada = await Page(hub, "ada", "a" * 12).join()
    await ada.line.receive(data)
    assert await ada.hear_goodbye() == (code, 1008)
    await ada.say(Ping(1))  # too late: not answered
    await bob.push("still here")
    assert (await bob.hear_receipt(1)).outcome == "applied"
    assert not any(isinstance(frame, Pong) for frame in ada.frames)
    assert len(hub.connections["app"]) == 1
    await hub.close()


@on_loop
async def test_nothing_is_taken_after_what_broke_the_protocol() -> None:
    hub = Hub(Disk())
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    ada.reads.clear()  # the fault is on its way, the socket still open
    await ada.line.receive("{")
    await ada.push("too late")
    await bob.hear_receipt(await bob.push("in time"))
    assert [frame.seq for frame in bob.frames if isinstance(frame, Poke)][-1] == 1
    ada.reads.set()
    assert await ada.hear_goodbye() == ("malformed", 1008)
    await hub.close()


@on_loop
async def test_the_same_frame_is_encoded_once_for_everybody() -> None:
    hub = Hub(Disk())
    pages = [await page(hub, f"user{i}", replica=f"{i:0>12}") for i in range(5)]
    for someone in pages:
        await someone.hear(Poke)
    await pages[0].push("for all")
    told = []
    for someone in pages[1:]:
        await someone.hear(Poke)
        told.append(someone.sent[someone.seen - 1])
    assert len(told) == 4
    assert all(data is told[0] for data in told)
    await hub.close()


@on_loop
async def test_a_slow_reader_is_paused_not_buffered_and_catches_up_in_one_go() -> None:
    limits = HubLimits(unsent_bytes_high=20_000, unsent_bytes_low=5_000)
    hub = Hub(Disk(), limits=limits)
    ada, bob = await page(hub, "ada"), await page(hub, "bob")
    await bob.hear(Poke)
    bob.reads.clear()
    for i in range(300):
        await ada.hear_receipt(await ada.push("x" * 1_000 + str(i)))
    assert bob.line.paused
    assert bob.line.unsent < 25_000, "300 kB have been written, and are kept for the slow reader"
    heard = len(bob.sent)
    bob.reads.set()
    await until(lambda: any(isinstance(f, Poke) and f.seq == 300 for f in bob.frames))
    pokes = [frame for frame in bob.frames if isinstance(frame, Poke)]
    assert len(pokes) - heard < 60, "what was missed comes in one poke, not in 300"
    assert [poke.since for poke in pokes[1:]] == [poke.seq for poke in pokes[:-1]]
    assert sum(len(poke.transactions) for poke in pokes) == 300
    assert not bob.line.paused
    await hub.close()


@on_loop
async def test_a_first_load_waits_for_its_reader() -> None:
    limits = HubLimits(unsent_bytes_high=10_000, unsent_bytes_low=1_000)
    hub = Hub(Disk(), limits=limits, core_limits=Limits(part_registers=20))
    ada = await page(hub, "ada")
    await ada.push(*["y" * 500] * 400)
    await ada.hear_receipt(1)
    bob = await Page(hub, "bob", "b" * 12).join()
    await bob.hello()
    bob.reads.clear()
    cy = await page(hub, "cy")
    await cy.hear(Poke)  # a load of 200 kB went to somebody else meanwhile
    assert bob.line.unsent < 60_000, (
        "more than the parts of one slice were made for a reader who does not read"
    )
    bob.reads.set()
    poke = await bob.hear(Poke)
    registers = [r for frame in bob.frames if isinstance(frame, messages.Part) for r in frame.registers]
    assert (poke.seq, len(registers)) == (1, 400)
    await hub.close()


@on_loop
async def test_a_reader_that_has_stopped_is_let_go() -> None:
    hub = Hub(Disk(), limits=HubLimits(send_s=0.05))
    ada = await page(hub, "ada")
    await ada.hear(Poke)
    ada.reads.clear()
    await ada.say(Ping(1))
    await until(lambda: ada.closed)
    await until(lambda: not hub.connections["app"])
    assert ada.closed == (1011, "")
    await hub.close()


@on_loop
async def test_more_than_may_be_kept_for_one_connection_ends_it() -> None:
    hub = Hub(Disk(), limits=HubLimits(unsent_bytes_max=5_000))
    ada = await page(hub, "ada")
    bob = await page(hub, "bob")
    await bob.hear(Poke)
    bob.reads.clear()
    await ada.hear_receipt(await ada.push(*["z" * 1_000] * 10))
    bob.reads.set()
    assert await bob.hear_goodbye() == ("overload", 1013)
    assert ada.closed is None
    await hub.close()


@on_loop
async def test_connections_are_bounded() -> None:
    hub = Hub(Disk(), limits=HubLimits(lines_max=2))
    ada = await page(hub, "ada")
    await page(hub, "bob")
    with pytest.raises(ProtocolError, match="2 connections are open"):
        await page(hub, "cy")
    ada.line.leave()
    await until(lambda: len(hub.connections["app"]) == 1)
    await page(hub, "cy")
    await hub.close()


@on_loop
async def test_who_leaves_at_once_has_left() -> None:
    hub = Hub(Disk())
    ada = await Page(hub, "ada", "a" * 12).join()
    assert len(hub.connections["app"]) == 1
    ada.line.leave()
    await until(lambda: not hub.connections["app"])
    await hub.close()


@on_loop
async def test_actors_have_sessions_and_can_be_expelled() -> None:
    hub = Hub(Disk())
    ada, bob = await page(hub, "ada"), Page(hub, "bob", "b" * 12)
    bob.actor = Actor("bob", session="kernel-7", role="writer")
    await bob.join()
    assert (await bob.hello()).session == "kernel-7"
    assert ada.line.actor.session
    assert hub.expel(lambda actor: actor.session == "kernel-7", "revoked") == 1
    assert await bob.hear_goodbye() == ("forbidden", 1008)
    assert ada.closed is None
    await hub.close()


# ---------------------------------------- apps


@on_loop
async def test_an_app_is_opened_by_the_first_client_and_entered_into_the_registry() -> None:
    disk = Disk()
    hub = Hub(disk, now_ms=lambda: 1234)
    assert disk.tenants() == []
    pages = await asyncio.gather(*(page(hub, f"u{i}", replica=f"{i:0>12}") for i in range(5)))
    assert len(pages) == len(hub.connections["app"]) == 5
    assert disk.apps() == hub.apps == {"app": App("app", "app", 1234)}
    assert all(name.startswith("tripleweb-hub") for name in disk.threads)
    await hub.close()


@on_loop
async def test_an_app_that_somebody_waits_for_is_not_closed_as_idle() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(linger_s=0, tenants_max=1))
    disk.open_gate.clear()
    joining = asyncio.create_task(page(hub, "bob"))
    await until(lambda: hub.connections)
    with pytest.raises(ProtocolError, match="1 apps are in use"):
        await page(hub, "ada", "other")
    disk.open_gate.set()
    (await joining).line.leave()
    await until(lambda: "app" not in hub.connections)
    for opened in (2, 3, 4):
        ada = await page(hub, "ada")
        assert disk.opened == opened
        ada.line.leave()
        await until(lambda: "app" not in hub.connections)
    await hub.close()


@pytest.mark.parametrize("app", ["", ".hidden", "a/b", "ä", "x" * 65, "a b"])
@on_loop
async def test_what_is_no_app_id_is_not_opened(app: str) -> None:
    disk = Disk()
    hub = Hub(disk)
    with pytest.raises(ValueError, match="App ID"):
        await page(hub, "ada", app)
    assert disk.tenants() == []
    await hub.close()


@on_loop
async def test_an_idle_app_is_closed_and_opened_again_with_everything_in_it() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(linger_s=0.05))
    ada = await page(hub, "ada")
    await ada.push("kept")
    await ada.hear_receipt(1)
    held = disk._open["app"]
    await asyncio.wait([asyncio.create_task(until(lambda: held.closed))], timeout=0.2)
    assert not held.closed, "somebody is there"
    ada.line.leave()
    await until(lambda: held.closed and "app" not in hub.connections)
    bob = await page(hub, "bob")
    assert (await bob.hear(Poke)).seq == 1
    assert disk._open["app"] is not held
    await hub.close()


@on_loop
async def test_open_apps_are_bounded_and_the_longest_unused_one_goes() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(tenants_max=2))
    for app in ("one", "two"):
        ada = await page(hub, "ada", app)
        ada.line.leave()
        await until(lambda app=app: not hub.connections[app])
    three = await page(hub, "ada", "three")
    await until(lambda: list(hub.connections) == ["three", "two"])
    await page(hub, "ada", "two")
    with pytest.raises(ProtocolError, match="2 apps are in use"):
        await page(hub, "ada", "four")
    three.line.leave()
    await until(lambda: not hub.connections["three"])
    await page(hub, "ada", "four")
    await until(lambda: list(hub.connections) == ["four", "two"])
    await hub.close()


@on_loop
async def test_opening_happens_beside_the_loop_and_has_a_deadline() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(open_s=0.05))
    disk.open_gate.clear()
    with pytest.raises(TimeoutError):
        await page(hub, "ada")
    disk.open_gate.set()  # it goes on opening: whoever comes next finds it open
    await until(lambda: disk._open)
    await page(hub, "ada")
    await hub.close()


@on_loop
async def test_an_app_that_cannot_be_opened_says_why_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk()
    hub = Hub(disk)

    def damaged(self: MemoryTenant, tail: int = 0) -> TenantState:
        raise StorageError("app.sqlite is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(_DiskTenant, "load", damaged)
        with pytest.raises(StorageError, match="is damaged"):
            await page(hub, "ada")
        await until(lambda: "app" not in hub.connections)
    await page(hub, "ada")
    await hub.close()


@on_loop
async def test_a_clean_close_makes_everything_durable_and_says_so_first() -> None:
    disk = Disk()
    hub = Hub(disk)
    ada = await page(hub, "ada")
    with disk.held_up():
        begun = disk.begun
        numbers = [await ada.push(i) for i in range(20)]
        await until(lambda: disk.begun > begun)
        closing = asyncio.create_task(hub.close())
        await until(lambda: hub._closing)
    await closing
    assert ada.receipts() == numbers
    assert await ada.hear_goodbye() == ("closing", 1001)
    assert all(tenant.closed for tenant in disk._open.values())
    assert sum(len(commit.entries) for commit in disk.commits) == 20
    with pytest.raises(ProtocolError, match="stopping"):
        await page(hub, "bob")


@on_loop
async def test_closing_does_not_wait_for_ever_for_an_app_that_opens() -> None:
    disk = Disk()
    hub = Hub(disk)
    disk.open_gate.clear()
    joining = asyncio.create_task(page(hub, "ada"))
    await until(lambda: hub.connections)
    with pytest.raises(TimeoutError, match="closing took longer"):
        await hub.close(timeout_s=0.1)
    with pytest.raises(ProtocolError, match="stopping"):
        await joining
    disk.open_gate.set()
    await until(lambda: disk.opened and disk._open["app"].closed)
    assert disk._open["app"].closed


@on_loop
async def test_closing_has_a_deadline() -> None:
    disk = Disk()
    hub = Hub(disk)
    ada = await page(hub, "ada")
    with disk.held_up():
        await ada.push("stuck")
        with pytest.raises(TimeoutError, match="closing took longer"):
            await hub.close(timeout_s=0.1)
    assert ada.receipts() == []


# ---------------------------------------- the loop is never held


def numbers(count: int) -> list[Any]:
    return [f"v{i}" for i in range(count)]


CROSS = "[:find (count ?a) . :where [_ :n/v ?a] [_ :n/v ?b] [(< ?a ?b)]]"


@on_loop
async def test_between_two_turns_of_the_loop_work_is_bounded_and_a_display_that_is_gone_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work is counted where it is done: in the evaluation."""
    limits = Limits(slice_units=500, query_units=10**9)
    hub_limits = HubLimits(slice_s=60, slice_steps_max=4)  # so that time plays no part
    hub = Hub(Disk(), limits=hub_limits, core_limits=limits)
    work = 0
    original = evaluate.steps

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal work
        running = original(*args, **kwargs)
        try:
            while True:
                done = next(running)
                work += done
                yield done
        except StopIteration as end:
            return end.value
        finally:
            running.close()

    monkeypatch.setattr(evaluate, "steps", counted)
    ada = await page(hub, "ada")
    await ada.push(*numbers(3_000))
    await ada.hear_receipt(1)
    await ada.say(Subscribe(Subscription("heavy", "rows", CROSS)))
    turns: list[int] = []
    while work < 200_000:
        turns.append(work)
        await asyncio.sleep(0)
    steps = [later - sooner for sooner, later in pairwise(turns)]
    largest_yield = evaluate.SLICE
    assert 0 < max(steps) <= 4 * (limits.slice_units + largest_yield)
    await ada.say(Ping(1))
    assert (await ada.hear(Pong)).echo == 1
    await ada.say(Unsubscribe("heavy"))
    await ada.say(Ping(2))
    await ada.hear(Pong, lambda pong: pong.echo == 2)
    stopped = work
    for _ in range(50):
        await asyncio.sleep(0)
    assert work <= stopped + 4 * (limits.slice_units + largest_yield)
    for _ in range(50):
        await asyncio.sleep(0)
    await ada.say(Subscribe(Subscription("light", "rows", '[:find ?v :where [?e :n/v ?v] [(= ?v "v1")]]')))
    assert (await ada.hear(Rows)).added == [[("s", "v1")]]
    await hub.close()


@on_loop
async def test_small_pushes_are_taken_as_they_come_but_not_without_end() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(direct_max=3))
    ada, bob = await page(hub, "ada"), await page(hub, "bob")

    def push(who: Page) -> Any:
        who.number += 1
        stamp = stamp_text(pack(1_700_000_000_000, who.number), who.replica)
        changes = [(f"{who.replica}-{who.number}", "n/v", "", "n", 1)]
        pushed = PushedTransaction(who.number, f"{who.replica}-{who.number}", stamp, changes, False)
        return who.line.take_in(messages.encode(Push([pushed])).decode())

    await until(lambda: hub.tenants["app"]._direct == 3)
    waits = [push(ada), push(bob), push(ada), push(bob), push(ada)]
    assert [wait is None for wait in waits] == [True, True, True, False, False]
    for wait in waits[3:]:
        await wait
    await ada.hear_receipt(3)
    await bob.hear_receipt(2)
    assert hub.tenants["app"].durable_seq == 5
    await hub.close()


@on_loop
async def test_what_clients_confirm_waits_for_a_commit_to_go_with() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(confirmed_s=0.2))
    ada = await page(hub, "ada")
    await ada.hear_receipt(await ada.push("one"))
    left = len(disk.commits)
    await ada.say(Confirm(1))
    await ada.say(Ping(1))
    await ada.hear(Pong)
    assert disk.begun == left  # not by itself,
    await until(lambda: len(disk.commits) > left)  # but not never
    assert not disk.commits[-1].receipts and disk.commits[-1].replicas[ada.replica].confirmed == 1
    await ada.hear_receipt(await ada.push("two"))
    await ada.say(Confirm(2))
    await hub.close()  # nor is it lost with a server that ends
    assert disk.commits[-1].replicas[ada.replica].confirmed == 2


@on_loop
async def test_messages_keep_their_order_where_a_socket_passes_some_on_at_once() -> None:
    class Moody(Page):
        def write(self, data: bytes) -> Any:
            if not self.reads.is_set():
                return super().write(data)
            self.sent.append(data)
            return None

    hub = Hub(MemoryStores())
    ada = await page(hub, "ada")
    bob = Moody(hub, "bob", "bobbbbbbbbbb")
    await bob.join()
    await bob.hello()
    for number in range(1, 30):
        await ada.push(number)
        if number % 10 == 5:
            bob.reads.clear()
        await ada.hear_receipt(number)
        if number % 10 == 8:
            assert bob.line.unsent > 0
            bob.reads.set()
            await until(lambda: bob.line.unsent == 0 and bob.line._is_free)
    await bob.hear(Poke, lambda poke: poke.seq == 29)
    seqs = [poke.seq for poke in bob.frames if isinstance(poke, Poke)]
    assert seqs == sorted(set(seqs)) and seqs[-1] == 29
    bob.closed = (1, "")  # an error at once is as good as a later one
    bob.write = lambda data: Page.write(bob, data)  # type: ignore[method-assign]
    await ada.push("last")
    await until(lambda: bob.line.number not in hub.tenants["app"].lines)
    await hub.close()


@on_loop
async def test_a_large_frame_is_taken_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last, small piece of a large transaction: with it, all of it is merged."""
    hub = Hub(Disk(), limits=HubLimits(thread_bytes=10_000))
    places: list[bool] = []
    original = TenantCore.receive

    def noted(self: TenantCore, *args: Any) -> None:
        if isinstance(args[1], Push):
            places.append(threading.current_thread() is threading.main_thread())
        original(self, *args)

    monkeypatch.setattr(TenantCore, "receive", noted)
    ada = await page(hub, "ada")
    await ada.push("small")
    await ada.push("x" * 20_000)
    await ada.push("x" * 6_000, more=True)
    ada.number -= 1
    await ada.push("y" * 6_000)
    await ada.push("small again")
    assert (await ada.hear_receipt(4)).outcome == "applied"
    assert places == [True, False, True, False, True]
    await hub.close()


@on_loop
async def test_nothing_more_is_taken_in_while_the_disk_is_far_behind() -> None:
    disk = Disk()
    hub = Hub(disk, limits=HubLimits(uncommitted_bytes_max=10_000))
    ada = await page(hub, "ada")
    await ada.hear(Poke)
    pushing: list[asyncio.Task[int]] = []
    with disk.held_up():
        begun = disk.begun
        await ada.push("first")
        await until(lambda: disk.begun > begun)

        async def push_all() -> int:
            for i in range(100):
                await ada.push("x" * 1_000 + str(i))
            return ada.number

        pushing.append(asyncio.create_task(push_all()))
        done, _ = await asyncio.wait(pushing, timeout=0.2)
        assert not done
        assert ada.number < 20, "100 kB were taken in on top of a commit that does not land"
    assert await pushing[0] == 101
    assert (await ada.hear_receipt(101)).outcome == "applied"
    await hub.close()


@on_loop
async def test_a_hub_serves_others_while_one_loads_much() -> None:
    """A ping takes a turn of its own between the parts of a load."""
    hub = Hub(Disk(), core_limits=Limits(part_registers=10))
    ada = await page(hub, "ada")
    await ada.push(*numbers(5_000))
    await ada.hear_receipt(1)
    bob = await Page(hub, "bob", "b" * 12).join()
    await bob.hello()
    await ada.say(Ping(5))
    await ada.hear(Pong)
    assert not any(isinstance(frame, Poke) for frame in bob.frames), (
        "the load was over before the ping was heard"
    )
    assert (await bob.hear(Poke)).seq == 1
    await hub.close()
