"""Hostile clients against a real Jupyter server: they cost their own connections, pages and other clients go on.

While each attack runs, two stores and a page are used as people use them; how long they ever waited is asserted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

import tripleweb
from notebooks.server import JupyterServer
from tests.faults.processes import wait_until
from tests.test_web import hostile_frames
from tripleweb.storage.memory import MemoryStores
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

API = "api/tripleweb/v1/"
HELLO = (
    '{"t":"hello","protocol":[2,2],"replica":"%s","incarnation":"x","next":1,"confirmed":0,"now":0,'
    '"subscriptions":[{"id":"app","cursor":null}]}'
)
PAGES = ("api/status", API + "info", "tripleweb")
WAITED_MAX_S = (
    20.0  # on a machine that is slow and busy; a server that stands still would be at the deadlines below
)
MB = 1 << 20


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


class Bystanders:
    """A writer, a reader and somebody with a browser, at work from `__enter__` to `__exit__`."""

    def __init__(self, server: JupyterServer) -> None:
        self._server = server
        self._stopped = threading.Event()
        self.waited: dict[str, list[float]] = {}
        self._writer, self._reader = (
            tripleweb.connect("bystanders", url=server.url, token=server.token, path=":memory:") for _ in "wr"
        )
        self._live = self._reader.live("[:find ?n :where [_ :tick/n ?n]]")
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._go, args=(work,)) for work in (self._tick, self._look)]

    def _go(self, work: Callable[[int], None]) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                work(number)
                number += 1
                self._stopped.wait(0.02)
        except BaseException as error:  # noqa: BLE001 - raised where the test is
            self._failure = error

    def _note(self, what: str, began: float) -> None:
        self.waited.setdefault(what, []).append(time.monotonic() - began)

    def _tick(self, number: int) -> None:
        began = time.monotonic()
        text = f"{began}"
        self._writer.insert("tick", id="tick", n=text)
        self._live.wait(timeout=30, until=lambda df: text in set(df["n"]))
        self._note("sync", began)

    def _look(self, number: int) -> None:
        page = PAGES[number % len(PAGES)]
        began = time.monotonic()
        request = urllib.request.Request(
            self._server.url + page, headers={"Authorization": f"token {self._server.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        self._note(page, began)

    def __enter__(self) -> Bystanders:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def wait_for_more(self) -> None:
        """Until each of them has been served once more."""
        before = {what: len(self.waited.get(what, [])) for what in ("sync", *PAGES)}
        wait_until(
            lambda: self._failure or all(len(self.waited.get(what, [])) > n for what, n in before.items()),
            "bystanders are served",
        )

    def __exit__(self, *_: object) -> None:
        try:
            if self._failure is None:
                self.wait_for_more()
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(60)
            self._reader.close()
            self._writer.close()
        if self._failure is not None:
            raise self._failure
        longest = {what: max(waits) for what, waits in self.waited.items()}
        assert max(longest.values()) < WAITED_MAX_S, longest


class Raw:
    """A socket that has been upgraded by hand, to send on it what no client would."""

    def __init__(self, server: JupyterServer, app: str = "hostile") -> None:
        parts = urlsplit(server.url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {parts.path}{API}apps/{app}/sync HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: token {server.token}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(4096)
        assert b" 101 " in answer.split(b"\r\n")[0], answer

    def send(self, data: bytes, *, opcode: int = 1, last: bool = True) -> None:
        size = len(data)
        head = bytes([(0x80 if last else 0) | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += struct.pack("!BH", 0x80 | 126, size)
        else:
            head += struct.pack("!BQ", 0x80 | 127, size)
        self.socket.sendall(head + bytes(4) + data)  # masked with zeros

    def ended(self, timeout: float = 30) -> bool:
        """Reads whatever comes, to the end of the connection; False if it does not end."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(200):
            return await work()

    return asyncio.run(bounded())


async def connect(server: JupyterServer, app: str = "hostile") -> WebSocketClientConnection:
    address = f"{server.url.replace('http', 'ws', 1)}{API}apps/{app}/sync"
    return await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {server.token}"}))


async def closing(client: WebSocketClientConnection) -> tuple[str, int | None]:
    """The code of the fault that was the last word, "" without one, and that of the close."""
    code = ""
    while (message := await client.read_message()) is not None:
        said = json.loads(message)
        code = said["code"] if said["t"] == "fault" else code
    return code, client.close_code


def memory_mb(server: JupyterServer) -> float:
    assert server._process is not None
    status = Path(f"/proc/{server._process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def test_frames_that_are_not_of_the_protocol(jupyter: JupyterServer) -> None:
    """Random bytes, truncated JSON, wrong types, huge numbers, before and after the hello."""
    seed = random.randrange(1 << 30)

    async def attack() -> int:
        frames, costs = hostile_frames(seed), 0
        for number in range(120):
            client = await connect(jupyter)
            if number % 2:
                await client.write_message(HELLO % f"{number:012}")
            sent = []
            for _ in range(4):
                data, is_alien = next(frames)
                sent.append(data)
                try:
                    await client.write_message(data, binary=isinstance(data, bytes))
                except WebSocketClosedError:
                    break
                if is_alien:
                    code, close_code = await closing(client)
                    assert (code != "", close_code) == (True, 1008), f"seed {seed}: {sent!r:.2000}"
                    costs += 1
                    break
            else:
                client.close()
        return costs

    with Bystanders(jupyter):
        assert run(attack) > 20, f"seed {seed}"


@pytest.mark.parametrize(
    "frame",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"t":"ping","now":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"t":"push","transactions":[{"number":1,"id":"a","stamp":"018bcfe568000000-zzzzzzzzzzzz",'
        '"changes":[["a","b/c","","n",' + "[" * 50_000 + "]" * 50_000 + "]]}]}",
        '{"t":"ping","now":' + "9" * 1_000_000 + "}",
        '{"t":"ping","now":1e' + "9" * 100_000 + "}",
        '{"t":"subscribe","subscription":{"id":"q","kind":"rows","query":"' + "[" * 200_000 + '"}}',
        '{"t":"subscribe","subscription":{"id":"q","kind":"rows","query":"[:find ?a :where '
        + "(not " * 20_000 + '[?a :b ?c]' + ")" * 20_000 + ']"}}',
        '{"t":"subscribe","subscription":{"id":"' + "q" * 1_000_000 + '","kind":"triples"}}',
        "\x00" * 1_000_000,
        b"\xff" * 1_000_000,
    ],
    ids=lambda frame: repr(frame[:30]),
)  # fmt: skip
def test_deep_and_huge_frames(jupyter: JupyterServer, frame: str | bytes) -> None:
    async def attack() -> None:
        for introduced in (False, True):
            client = await connect(jupyter)
            if introduced:
                await client.write_message(HELLO % "d33pd33pd33p")
            await client.write_message(frame, binary=isinstance(frame, bytes))
            if introduced and isinstance(frame, str) and frame.startswith('{"t":"subscribe"'):
                return  # a bad subscription is answered; it need not cost the connection
            code, close_code = await closing(client)
            assert code and close_code == 1008, (code, close_code)

    with Bystanders(jupyter):
        run(attack)


def test_64_megabytes_at_once(jupyter: JupyterServer) -> None:
    """As one message, as one in many pieces, as a body: not read into memory, and the connection is over."""
    with Bystanders(jupyter):
        before = memory_mb(jupyter)
        with Raw(jupyter) as raw:
            try:
                raw.send(b"x" * 64 * MB)
            except ConnectionError:
                pass
            assert raw.ended()
        with Raw(jupyter) as raw:
            try:
                raw.send(b'{"', last=False)
                for _ in range(64):
                    raw.send(b"x" * MB, opcode=0, last=False)
            except ConnectionError:
                pass
            assert raw.ended()
        with Raw(jupyter) as raw:  # it says that more is to come than anybody has
            raw.socket.sendall(struct.pack("!BBQ", 0x81, 0x80 | 127, (1 << 63) - 1) + bytes(4) + b"x")
            assert raw.ended()
        for path in ("changes", "query"):
            request = urllib.request.Request(
                f"{jupyter.url}{API}apps/hostile/{path}",
                data=b"[" * 80 * MB,
                headers={"Authorization": f"token {jupyter.token}", "Content-Type": "application/json"},
            )
            with pytest.raises((urllib.error.HTTPError, urllib.error.URLError, ConnectionError)) as refused:
                urllib.request.urlopen(request, timeout=60)
            if isinstance(refused.value, urllib.error.HTTPError):
                assert refused.value.code in (400, 413), refused.value
        assert memory_mb(jupyter) - before < 150


@pytest.mark.parametrize("reading", [True, False])
def test_a_flood_of_small_frames(jupyter: JupyterServer, reading: bool) -> None:
    """From four connections at once; half of the test they do not even read what they are answered."""

    async def flood(number: int) -> int:
        client = await connect(jupyter, "hostile")
        await client.write_message(HELLO % f"f100d{number:07}")
        ends, sent = time.monotonic() + 5, 0
        try:
            while time.monotonic() < ends:
                for _ in range(200):
                    await client.write_message('{"t":"ping","now":1}')
                    sent += 1
                if reading:
                    while (
                        sent % 1_000 == 0
                        and json.loads(await client.read_message() or "{}").get("t") != "pong"
                    ):
                        pass
                await asyncio.sleep(0)
        except (WebSocketClosedError, StreamClosedError):
            return sent
        finally:
            client.close()
        return sent

    async def attack() -> list[int]:
        return await asyncio.gather(*(flood(number) for number in range(4)))

    with Bystanders(jupyter):
        before = memory_mb(jupyter)
        assert min(run(attack)) > 500
        assert memory_mb(jupyter) - before < 300


def test_slow_and_silent_connections(jupyter: JupyterServer) -> None:
    """Two hundred that never finish a request, a handshake or a frame, trickled byte by byte."""
    parts = urlsplit(jupyter.url)
    sockets: list[socket.socket] = []
    raws = []
    try:
        with Bystanders(jupyter) as bystanders:
            for number in range(150):
                raw = socket.create_connection((parts.hostname, parts.port), timeout=30)
                sockets.append(raw)
                raw.sendall(b"GET /api/status HTTP/1.1\r\nHost: x\r\n"[: number % 40])
            for number in range(50):
                raws.append(Raw(jupyter))
                raws[-1].socket.sendall(bytes([0x81, 0x80 | 125, 0, 0, 0, 0])[: 1 + number % 6])
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                for each in sockets:
                    try:
                        each.sendall(b"X")
                    except ConnectionError:  # those that had sent rubbish are closed
                        pass
                bystanders.wait_for_more()
        assert bystanders.waited["sync"], "and writes went through meanwhile"
    finally:
        for each in [*sockets, *(raw.socket for raw in raws)]:
            each.close()


def test_a_transaction_that_is_never_finished_is_bounded() -> None:
    """A push that says `more` for ever: nothing of it is kept once it is larger than a transaction may be, and its
    end is its fate."""

    async def attack() -> None:
        address = f"{server.url.replace('http', 'ws', 1)}{API}apps/app/sync"
        headers = {"Authorization": f"tripleweb {server.token}"}
        client = await websocket_connect(HTTPRequest(address, headers=headers))
        await client.write_message(HELLO % "m0rem0rem0re")
        change = ["e", "k/p", "", "s", "x" * 900_000]
        piece = {
            "number": 1,
            "id": "a",
            "stamp": "018bcfe568000000-m0rem0rem0re",
            "changes": [change],
            "more": True,
        }
        for more in [True] * 99 + [False]:
            piece["more"] = more
            await client.write_message(json.dumps({"t": "push", "transactions": [piece]}))
            for tenant in list(server.hub.tenants.values()):
                if tenant.ready.done():
                    for link in list(tenant._core.connections.values()):
                        assert link.partial is None or len(link.partial.changes) < 13
        while '"reason":"limits"' not in (said := await client.read_message() or "closed"):
            assert said != "closed"
        client.close()

    with WebServer(MemoryStores(), limits=HubLimits(transaction_bytes_max=10 * MB)) as server:
        run(attack)
