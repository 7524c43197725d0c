"""A server on a real socket: who gets in, what hostile frames cost, two clients that talk."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from tripleweb.access import Grant
from tripleweb.clock import pack, stamp_text
from tripleweb.errors import StorageError
from tripleweb.storage import App
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync import messages
from tripleweb.sync.messages import (
    Fault,
    Hello,
    Ping,
    Poke,
    Pong,
    Push,
    PushedTransaction,
    Subscription,
    Welcome,
)
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer, _ReadingAhead

API = "api/tripleweb/v1/"
DEADLINE = 30


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE):
            return await work()

    return asyncio.run(bounded())


async def get(server: WebServer, path: str, **headers: str) -> HTTPResponse:
    return await AsyncHTTPClient().fetch(server.url + path, headers=headers, raise_error=False)


class Client:
    """A WebSocket that speaks the protocol."""

    def __init__(self, socket: WebSocketClientConnection, replica: str) -> None:
        self.socket = socket
        self.replica = replica
        self.number = 0

    @classmethod
    async def connect(
        cls,
        server: WebServer,
        app: str = "app",
        replica: str = "a" * 12,
        token: str | None = None,
        label: str = "",
    ) -> Client:
        address = f"{server.url.replace('http', 'ws', 1)}{API}apps/{app}/sync{label}"
        headers = {"Authorization": f"tripleweb {token or server.token}"}
        return cls(await websocket_connect(HTTPRequest(address, headers=headers)), replica)

    async def say(self, frame: Any) -> None:
        await self.socket.write_message(messages.encode(frame))

    async def hear(self, kind: type[Any]) -> Any:
        while True:
            message = await self.socket.read_message()
            assert message is not None, f"closed ({self.socket.close_code}) where {kind.__name__} was due"
            frame = messages.decode_server(message)
            if isinstance(frame, kind):
                return frame

    async def hello(self) -> Welcome:
        await self.say(Hello((2, 2), self.replica, "x", self.number + 1, 0, 0, [], [Subscription("app")]))
        return await self.hear(Welcome)

    async def push(self, *changes: Any) -> None:
        self.number += 1
        stamp = stamp_text(pack(1_700_000_000_000, self.number), self.replica)
        await self.say(
            Push([PushedTransaction(self.number, f"{self.replica}-{self.number}", stamp, list(changes))])
        )

    async def is_alive(self) -> bool:
        await self.say(Ping(1))
        return bool((await self.hear(Pong)).echo == 1)

    async def closing(self) -> tuple[str | None, int | None]:
        """Reads to the end; the code of the fault, if there was one, and of the close."""
        code = None
        while (message := await self.socket.read_message()) is not None:
            frame = messages.decode_server(message)
            if isinstance(frame, Fault):
                code = frame.code
        return code, self.socket.close_code


# ---------------------------------------- who gets in


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (None, False),
        ("", False),
        ("tripleweb", False),
        ("tripleweb ", False),
        ("tripleweb wrong", False),
        ("tripleweb {token}x", False),
        ("Basic {token}", False),
        ("token {token}", False),
        ("Bearer {token}", False),
        ("{token}", False),
        ("tripleweb {token}", True),
        ("TripleWeb {token}", True),
    ],
)
def test_only_a_grant_gets_in(server: WebServer, header: str | None, allowed: bool) -> None:
    headers = {} if header is None else {"Authorization": header.format(token=server.token)}

    async def work() -> None:
        answer = await get(server, API + "info", **headers)
        assert answer.code == (200 if allowed else 403)
        address = f"{server.url.replace('http', 'ws', 1)}{API}apps/app/sync"
        if allowed:
            (await websocket_connect(HTTPRequest(address, headers=headers))).close()
        else:
            assert json.loads(answer.body)["error"] == "forbidden"
            with pytest.raises(HTTPClientError) as refused:
                await websocket_connect(HTTPRequest(address, headers=headers))
            assert refused.value.code == 403

    run(work)


def test_a_token_in_an_address_is_not_looked_at(server: WebServer) -> None:
    async def work() -> None:
        for path in (f"{API}info?token={server.token}", f"{API}apps/app/sync?token={server.token}"):
            assert (await get(server, path)).code == 403

    run(work)


def test_a_revoked_grant_opens_nothing(server: WebServer) -> None:
    async def work() -> None:
        token = server.access.mint("ada")
        client = await Client.connect(server, token=token)
        assert await client.is_alive()
        server.access.revoke(token)
        with pytest.raises(HTTPClientError):
            await Client.connect(server, token=token)

    run(work)


def test_a_foreign_page_is_not_let_in_even_with_a_token(server: WebServer) -> None:
    async def work() -> None:
        address = f"{server.url.replace('http', 'ws', 1)}{API}apps/app/sync"
        headers = {"Authorization": f"tripleweb {server.token}", "Origin": "https://elsewhere.example"}
        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(HTTPRequest(address, headers=headers))
        assert refused.value.code == 403
        headers["Origin"] = server.url.rstrip("/")
        (await websocket_connect(HTTPRequest(address, headers=headers))).close()

    run(work)


def test_the_sockets_address_answers_other_requests_in_json_and_makes_no_app(server: WebServer) -> None:
    shake = {
        "Authorization": f"tripleweb {server.token}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}

    async def work() -> None:
        for name in ("Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
            answer = await get(server, API + "apps/app/sync", **{k: v for k, v in shake.items() if k != name})
            assert (answer.code, json.loads(answer.body)["error"]) == (400, "malformed"), name
        answer = await get(server, API + "apps/app/sync", **shake, **foreign)
        assert (answer.code, json.loads(answer.body)["error"]) == (403, "forbidden")
        assert server.hub.apps == {}

    run(work)


def test_info(server: WebServer) -> None:
    async def work() -> None:
        answer = await get(server, API + "info", Authorization=f"tripleweb {server.token}")
        assert answer.headers["Content-Type"].startswith("application/json")
        assert json.loads(answer.body) == {
            "version": version("tripleweb"),
            "protocol": 2,
            "server_id": server.hub.server_id,
            "user": "ada",
        }

    run(work)


@pytest.mark.parametrize("app", [".hidden", "a%2Fb", "%C3%A4", "%FF", "x" * 65, "a%20b", "a%00b", "%2E%2E"])
def test_what_is_no_app_id_is_not_there(server: WebServer, app: str) -> None:
    async def work() -> None:
        answer = await get(server, f"{API}apps/{app}/sync", Authorization=f"tripleweb {server.token}")
        assert answer.code == 404
        assert json.loads(answer.body)["error"] == "unknown"
        assert server.hub.apps == {}

    run(work)


@pytest.mark.parametrize(
    "path", ["", "api", API, API + "app", API + "apps//sync", API + "other", "../etc/passwd"]
)
def test_other_addresses_are_not_there(server: WebServer, path: str) -> None:
    async def work() -> None:
        answer = await get(server, path, Authorization=f"tripleweb {server.token}")
        assert answer.code == 404
        assert set(json.loads(answer.body)) == {"error", "message"}

    run(work)


def test_an_app_name_is_percent_decoded_and_an_unknown_app_is_made(server: WebServer) -> None:
    async def work() -> None:
        await (await Client.connect(server, "my%2Dapp%2E1")).hello()
        assert list(server.hub.apps) == ["my-app.1"]

    run(work)


def test_roles_come_from_the_registry_and_names_from_the_grant() -> None:
    stores = MemoryStores()
    stores.put(App("app", "App", 0, {"bob": "reader", "eve": "nothing-known"}))

    async def work() -> None:
        said = []
        for user in ("ada", "bob", "cy"):
            token = server.access.mint(user)
            client = await Client.connect(
                server, replica=f"{user:x<12}", token=token, label="?label=Ki%07ra%E2%80%AE%20"
            )
            welcome = await client.hello()
            said.append((welcome.user, welcome.role))
        assert said == [("ada", "admin"), ("bob", "reader"), ("cy", "writer")]
        assert {actor.label for actor in server.hub.connections["app"]} == {"Ki ra"}
        with pytest.raises(HTTPClientError) as refused:
            await Client.connect(server, token=server.access.mint("eve"))
        assert refused.value.code == 403

    with WebServer(stores, owner="ada") as server:
        run(work)


def test_what_a_reader_writes_is_rejected() -> None:
    stores = MemoryStores()
    stores.put(App("app", "App", 0, {"bob": "reader"}))

    async def work() -> None:
        bob = await Client.connect(server, token=server.access.mint("bob"))
        await bob.hello()
        await bob.hear(Poke)
        await bob.push(("x", "n/v", "", "n", 1))
        receipt = (await bob.hear(Poke)).receipts[0]
        assert (receipt.outcome, receipt.reason) == ("rejected", "permission")

    with WebServer(stores, owner="ada") as server:
        run(work)


# ---------------------------------------- talking


def test_two_clients_talk(server: WebServer) -> None:
    async def work() -> None:
        ada, bob = (
            await Client.connect(server, replica="a" * 12),
            await Client.connect(server, replica="b" * 12),
        )
        for client in (ada, bob):
            await client.hello()
            await client.hear(Poke)
        await ada.push(("ada", "user/name", "", "s", "Ada ☃"))
        poke = await bob.hear(Poke)
        assert json.loads(bytes(poke.transactions[0]))[3] == [["ada", "user/name", "", "s", "Ada ☃"]]
        assert (await ada.hear(Poke)).receipts[0].outcome == "applied"
        assert len(server.hub.connections["app"]) == 2
        ada.socket.close()
        await bob.push(("bob", "user/name", "", "s", "Bob"))
        assert (await bob.hear(Poke)).receipts[0].outcome == "applied"

    run(work)


def test_what_is_read_ahead_is_what_was_sent() -> None:
    """Frames of all sizes, in pieces of all sizes."""
    chosen = random.Random(5)
    sizes = [chosen.choice([2, 4, 125, 3_000, 65_535, 65_536, 70_000, 300_000]) for _ in range(200)]
    sent = random.Random(6).randbytes(sum(sizes))

    class Stream:
        at = 0

        async def read_bytes(self, n: int, partial: bool = False) -> bytes:
            assert n <= 65_536 or not partial
            piece = sent[self.at : self.at + (chosen.randrange(1, n + 1) if partial else n)]
            self.at += len(piece)
            return piece

    async def work() -> None:
        reading = _ReadingAhead.__new__(_ReadingAhead)
        reading.stream, reading._wire_bytes_in = Stream(), 0  # type: ignore[assignment]
        assert b"".join([await reading._read_bytes(size) for size in sizes]) == sent
        assert reading._wire_bytes_in == len(sent) and not reading._ahead

    run(work)


def test_the_sockets_of_a_server_read_ahead(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tornado calls what is overridden by a name of its own: it still does."""
    asked: list[int] = []
    plain = _ReadingAhead._read_bytes

    async def counted(self: Any, n: int) -> bytes:
        asked.append(n)
        return await plain(self, n)

    monkeypatch.setattr(_ReadingAhead, "_read_bytes", counted)

    async def work() -> None:
        assert await (await Client.connect(server)).is_alive()

    run(work)
    assert asked[0] == 2 and len(asked) >= 3


def test_what_was_acknowledged_is_there_after_a_restart_on_the_same_port(tmp_path: Any) -> None:
    async def write() -> None:
        client = await Client.connect(first)
        await client.hello()
        await client.hear(Poke)
        await client.push(("ada", "user/age", "", "n", 37))
        assert (await client.hear(Poke)).receipts[0].outcome == "applied"

    async def read() -> None:
        client = await Client.connect(second, replica="b" * 12)
        welcome = await client.hello()
        assert (welcome.seq, welcome.server) == (1, first.hub.server_id)
        part = await client.hear(messages.Part)
        assert part.registers[0][:5] == ("ada", "user/age", "", "n", 37)

    with WebServer(SqliteStores(tmp_path)) as first:
        run(write)
    port = int(first.url.rstrip("/").rpartition(":")[2])
    with WebServer(SqliteStores(tmp_path), port=port, token=first.token) as second:
        assert second.url == first.url
        run(read)


def test_stopping_says_goodbye_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    server = WebServer(MemoryStores()).start()

    async def work() -> tuple[str | None, int | None]:
        client = await Client.connect(server)
        await client.hello()
        stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
        said = await client.closing()
        await stopping
        return said

    assert run(work) == ("closing", 1001)
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("tripleweb") and t.is_alive()]
    assert not left


def test_a_port_in_use_is_an_error_of_start_and_lets_go_of_the_directory(tmp_path: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            WebServer(SqliteStores(tmp_path), port=taken.getsockname()[1]).start()
    SqliteStores(tmp_path).close()


def test_an_app_that_cannot_be_opened_is_a_fault_not_a_hanging_socket(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(app: str) -> None:
        raise StorageError(f"{app}.tenant.sqlite is damaged")

    monkeypatch.setattr(server.hub.stores, "open", damaged)

    async def work() -> None:
        client = await Client.connect(server)
        fault = await client.hear(Fault)
        assert fault.code == "closing"
        assert "is damaged" in fault.message
        assert await client.closing() == (None, 1011)

    with caplog.at_level(logging.WARNING):
        run(work)
    assert "is damaged" in caplog.text


def test_too_many_connections_are_told_so() -> None:
    async def work() -> None:
        await (await Client.connect(server)).hello()
        assert await (await Client.connect(server)).closing() == ("overload", 1013)

    with WebServer(MemoryStores(), limits=HubLimits(lines_max=1)) as server:
        run(work)


# ---------------------------------------- hostile frames


def hostile_frames(seed: int) -> Iterator[tuple[str | bytes, bool]]:
    """(message, whether it is certainly not of the protocol)."""
    rng = random.Random(seed)
    good = [
        '{"t":"hello","protocol":[2,2],"replica":"1234567890ab","incarnation":"x","next":1,"confirmed":0,"now":5,'
        '"subscriptions":[{"id":"app","cursor":["e",3]},{"id":"r","kind":"rows","query":"[:find ?a :where [?a :b]]"}]}',
        '{"t":"push","transactions":[{"number":1,"id":"a","stamp":"018bcfe568000000-zzzzzzzzzzzz",'
        '"changes":[["a","b/c","","n",1],["a","b/d","c:","n",2.5],["a","b/e","*","",null]]}]}',
        '{"t":"confirm","number":3}',
        '{"t":"subscribe","subscription":{"id":"q","kind":"rows","query":"[:find ?x :where [?x :a ?x]]","inputs":[]}}',
        '{"t":"unsubscribe","id":"q"}',
        '{"t":"ping","now":12}',
    ]
    odd = [
        "1e999", "-1", "1" * 4_000, "9" * 25, "1.5", "null", "true", '""', '"\\ud800"', "[]", "{}", '"\\u0000"',
        "[" * 3_000, '{"a":' * 500 + "1" + "}" * 500, "-9223372036854775809", "18446744073709551616",
        '"%s"' % ("x" * 9_000),
    ]  # fmt: skip
    while True:
        text = rng.choice(good)
        kind = rng.randrange(6)
        if kind == 0:
            yield rng.randbytes(rng.randrange(1, 3_000)), True
        elif kind == 1:
            yield text[: rng.randrange(len(text))], True
        elif kind == 2:
            yield (
                "".join(
                    chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x100, 0xD000)])) for _ in range(99)
                ),
                True,
            )
        elif kind == 3:  # one value of it becomes something else
            places = [i for i, c in enumerate(text) if c in ":,[" and i > 12]
            at = rng.choice(places) + 1
            end = min((i for i in (text.find(c, at) for c in ",]}") if i > 0), default=len(text))
            yield text[:at] + rng.choice(odd) + text[end:], False
        elif kind == 4:
            yield rng.choice(odd), True
        else:
            yield text, False


@pytest.mark.parametrize("seed", range(4))
def test_hostile_frames_cost_their_connection_only(
    server: WebServer, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        bystander = await Client.connect(server, replica="b" * 12)
        await bystander.hello()
        frames = hostile_frames(seed)
        for _ in range(60):
            client = await Client.connect(server)
            if seed % 2:
                await client.hello()
            sent = []
            for _ in range(4):
                data, is_alien = next(frames)
                sent.append(data)
                try:
                    await client.socket.write_message(data, binary=isinstance(data, bytes))
                except WebSocketClosedError:  # an earlier one has cost it
                    break
                if is_alien:
                    code, close_code = await client.closing()
                    assert (code is not None, close_code) == (True, 1008), f"seed {seed}: {sent!r:.2000}"
                    break
            else:
                client.socket.close()
        assert await bystander.is_alive(), f"seed {seed}"

    run(work)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], f"seed {seed}"


def test_a_frame_over_the_limit_is_not_read(server: WebServer) -> None:
    async def work() -> None:
        bystander = await Client.connect(server, replica="b" * 12)
        await bystander.hello()
        client = await Client.connect(server)
        largest = messages.FRAME_BYTES_MAX
        await client.socket.write_message('{"t":"ping","now":1,"pad":"%s"}' % ("x" * (largest - 30)))
        assert (await client.hear(Pong)).echo == 1
        try:
            await client.socket.write_message(b"x" * (largest + 1))
        except WebSocketClosedError:  # the server may cut it off while it is being sent
            assert client.socket.close_code in (None, 1009)
        assert await client.socket.read_message() is None
        assert await bystander.is_alive()

    run(work)


def test_bytes_that_are_no_websocket_cost_their_connection_only(server: WebServer) -> None:
    host, port = "127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2])
    for data in (
        os.urandom(500),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + bytes(100),
        b"GET " + b"a" * 70_000,
    ):
        with socket.create_connection((host, port), timeout=DEADLINE) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(1 << 16):
                pass

    async def work() -> None:
        assert await (await Client.connect(server)).is_alive()

    run(work)


def test_grants_name_other_users_too(server: WebServer) -> None:
    async def work() -> None:
        token = server.access.accept("a-token-from-elsewhere", Grant("bob", session="s7"))
        welcome = await (await Client.connect(server, token=token)).hello()
        assert (welcome.user, welcome.session) == ("bob", "s7")

    run(work)
