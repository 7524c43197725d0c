"""Two real Jupyter servers of one data folder: the second relays to the first, and takes over when that is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.websocket import websocket_connect

from notebooks.server import JupyterServer, Kernel
from tripleweb import places
from tripleweb.access import os_user
from tripleweb.relay import Relayed, Upstream
from tripleweb.storage.memory import MemoryStores
from tripleweb.sync.server import Actor
from tripleweb.web import WebServer

API = "api/tripleweb/v1/"
OPTIONS = ("--TripleWeb.takeover_s=0.2", "--ServerApp.allow_unauthenticated_access=False")
CONNECT = """
import tripleweb
db = tripleweb.connect("notes")
live = db.live("[:find ?t :where [_ :note/text ?t]]")
_ = live.df
print(db.status.state, db.status.user, db.status.server)
"""


def until(condition: Callable[[], Any], timeout: float = 30) -> Any:
    """What `condition` gives as soon as it is true of something."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)
    return found


def ask(
    server: JupyterServer, path: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    """(status, what is said, headers) of a request with the server's token, unless other headers are given."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    headers = headers or {"Authorization": f"token {server.token}"}
    request = urllib.request.Request(server.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, said, found = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            status, said, found = error.code, error.read(), error.headers
    is_json = "application/json" in (found["Content-Type"] or "")
    return status, json.loads(said) if is_json and said else said.decode(), found


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[JupyterServer, JupyterServer]]:
    """The holder, and one that relays to it."""
    data = folder / "data"
    with (
        JupyterServer(folder / "one", options=OPTIONS, data=data) as holder,
        JupyterServer(
            folder / "two", options=(*OPTIONS, "--ServerApp.base_url=/user/ada/"), data=data
        ) as relaying,
    ):
        yield holder, relaying


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JupyterServer, JupyterServer]]:
    with two_servers(tmp_path_factory.mktemp("pair")) as servers:
        yield servers


def test_endpoints_are_relayed(pair: tuple[JupyterServer, JupyterServer]) -> None:
    """A second Jupyter server of the same user relays to the one that holds the data directory."""
    holder, relaying = pair
    infos = [ask(server, API + "info") for server in pair]
    assert infos[0][:2] == infos[1][:2]
    assert infos[1][1]["user"] == os_user()

    status, made, _ = ask(relaying, API + "apps", "POST", {"name": "Sales <b>"})
    assert (status, made["role"]) == (201, "admin")
    assert made in ask(holder, API + "apps")[1]
    assert ask(relaying, f"{API}apps/{made['id']}", "PATCH", {"members": {"bob": "reader"}})[1][
        "members"
    ] == {"bob": "reader"}
    status, said, headers = ask(relaying, "tripleweb")
    assert status == 200 and "Sales &lt;b&gt;" in said
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Content-Type"].startswith("text/html")
    assert ask(relaying, f"{API}apps/{made['id']}/query", "POST", {"query": "[:find ?x"})[0] == 400
    asked = {"query": "[:find ?x :where [?x :a/b 1]]"}
    status, said, _ = ask(relaying, f"{API}apps/{made['id']}/query", "POST", asked)
    assert (status, said["rows"]) == (200, [])
    assert ask(relaying, f"{API}apps/{made['id']}/snapshot")[0] == 200
    assert ask(relaying, API + "metrics")[0] == 200
    assert ask(relaying, f"{API}apps/{made['id']}", "DELETE")[0] == 204
    assert ask(relaying, f"{API}apps/{made['id']}")[0] == 404
    assert ask(relaying, API + "nothing")[0] == ask(holder, API + "nothing")[0] != 200

    # A body that is too large is refused by the holder, and its sender hears why.
    status, said, _ = ask(relaying, API + "apps", "POST", b"x" * (3 << 20))
    assert (status, said["error"]) == (413, "size")


def test_a_grant_that_does_not_relay_speaks_for_itself() -> None:
    """Who somebody is never comes from what they say about themselves."""
    with WebServer(MemoryStores(), owner="ada") as server:
        for token, user in (
            (server.token, "ada"),
            (server.access.mint("eve"), "eve"),
            (server.access.mint("ada", shared=True, relays=True), "bob"),
        ):
            headers = {"Authorization": f"tripleweb {token}", "Tripleweb-Speaker": '{"user": "bob"}'}
            with urllib.request.urlopen(
                urllib.request.Request(server.url + API + "info", headers=headers), timeout=20
            ) as answer:
                assert json.loads(answer.read())["user"] == user


def test_the_callers_credentials_stay_here(tmp_path: Path) -> None:
    places.announce(tmp_path, "http://127.0.0.1:9/base/", "the-holders-token")
    passed = Upstream(tmp_path).request("/x", "label=a%26b&token=the-callers", Actor("Zoë", "Z", "s", ""))
    assert passed.url == "http://127.0.0.1:9/base/x?label=a%26b"
    assert dict(passed.headers) == {
        "Authorization": "tripleweb the-holders-token",
        "Tripleweb-Speaker": '{"user": "Zo\\u00eb", "label": "Z", "session": "s", "reader": false}',
    }


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_what_is_cut_off_on_the_way_does_not_look_complete(tmp_path: Path, length: str) -> None:
    """The holder dies in the middle of an answer."""

    class Relay(Relayed):
        def initialize(self, upstream: Upstream) -> None:
            self.upstream = upstream

        async def prepare(self) -> None:
            await self.begin()

        def caller(self) -> Actor:
            return Actor("ada")

        async def get(self) -> None:
            await self.relay()

    async def holder(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n{length}\r\n\r\n"
        writer.write(head.encode() + (b"5\r\nhello\r\n" if "chunked" in length else b"hello"))
        await writer.drain()
        writer.close()

    async def ask_through() -> None:
        listening = await asyncio.start_server(holder, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        places.announce(tmp_path, f"http://127.0.0.1:{port}/", "token-token")
        upstream = Upstream(tmp_path)
        application = web.Application([("/.*", Relay, {"upstream": upstream})])
        server = application.listen(0, "127.0.0.1")
        (socket,) = server._sockets.values()
        try:
            with pytest.raises((HTTPStreamClosedError, HTTPClientError)):
                await AsyncHTTPClient().fetch(f"http://127.0.0.1:{socket.getsockname()[1]}/x")
            await asyncio.wait_for(upstream.lost(20), 5)
        finally:
            server.stop()
            upstream.close()
            listening.close()

    asyncio.run(ask_through())


@pytest.mark.parametrize("credentials", ["", "token wrong", "tripleweb wrong"])
def test_strangers_are_not_relayed(pair: tuple[JupyterServer, JupyterServer], credentials: str) -> None:
    relaying = pair[1]
    headers = {"Authorization": credentials} if credentials else {"Accept": "*/*"}
    # nor is whoever says of himself who he is
    headers["Tripleweb-Speaker"] = json.dumps({"user": os_user()})
    for path, method in (("info", "GET"), ("apps", "POST"), ("apps/a/changes", "POST")):
        status, said, _ = ask(relaying, API + path, method, None if method == "GET" else {}, **headers)
        assert status == 403, said

    async def open_socket() -> int:
        address = f"{relaying.url.replace('http', 'ws', 1)}{API}apps/a/sync"
        try:
            (await websocket_connect(HTTPRequest(address, headers=headers))).close()
        except HTTPClientError as error:
            return error.code
        return 101

    assert asyncio.run(open_socket()) == 403


async def open_socket(server: JupyterServer, headers: dict[str, str]) -> None:
    address = f"{server.url.replace('http', 'ws', 1)}{API}apps/pages/sync"
    (await websocket_connect(HTTPRequest(address, headers=headers))).close()


def test_a_foreign_page_reaches_nothing_through_a_relay(pair: tuple[JupyterServer, JupyterServer]) -> None:
    """What a browser sends along by itself opens no more here than at the holder."""
    for server in pair:
        jar = CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        opener.open(f"{server.url}api/me?token={server.token}", timeout=30).close()
        browser = {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)}
        foreign = {**browser, "Origin": "http://elsewhere.example"}
        assert ask(server, API + "info", **browser)[0] == 200
        for path in ("info", "apps", "apps/pages/snapshot"):
            assert ask(server, API + path, **foreign)[0] == 404, (server.url, path)
        with pytest.raises(HTTPClientError) as refused:
            asyncio.run(open_socket(server, foreign))
        assert refused.value.code == 403
        assert ask(server, API + "apps/pages/sync", **browser)[0] == 400  # opens no socket
    assert ask(pair[0], API + "apps/pages")[0] == 404


def test_other_methods_and_addresses_end_at_the_relay(pair: tuple[JupyterServer, JupyterServer]) -> None:
    relaying = pair[1]
    for method in ("PUT", "DELETE"):
        status, said, _ = ask(relaying, API + "info", method, b"")
        assert (status, said["error"]) == (405, "malformed")
    allowed = [ask(server, API + "info", "OPTIONS")[2]["Access-Control-Allow-Methods"] for server in pair]
    assert allowed[0] == allowed[1] != None  # noqa: E711
    for path in ("nothing", "apps/a/nothing", ""):
        for server in pair:
            status, said, _ = ask(server, API + path)
            assert (status, said["error"]) == (404, "unknown"), (server.url, path)
    for server in pair:
        log = server.log.read_text()
        assert "Uncaught" not in log and "never retrieved" not in log


def test_only_a_server_that_relays_is_believed_who_speaks(pair: tuple[JupyterServer, JupyterServer]) -> None:
    holder = pair[0]
    word = places.announced(holder.data / "server")
    assert word is not None and word["pid"] == holder.pid
    speaker = {"Tripleweb-Speaker": json.dumps({"user": "bob", "reader": True})}
    said = ask(holder, API + "info", Authorization=f"tripleweb {word['token']}", **speaker)
    assert said[1]["user"] == "bob"
    token = {"Authorization": f"tripleweb {word['token']}"}
    status, said, _ = ask(holder, API + "apps/a/changes", "POST", {}, **token, **speaker)
    assert status == 403 and "bob is a reader" in said["message"]
    own = ask(holder, API + "info", Authorization=f"token {holder.token}", **speaker)
    assert own[1]["user"] == os_user()
    broken = {"Tripleweb-Speaker": "{"}
    assert ask(holder, API + "info", Authorization=f"tripleweb {word['token']}", **broken)[0] == 400


def test_a_browser_keeps_its_name_on_the_way(pair: tuple[JupyterServer, JupyterServer]) -> None:
    """A browser has the name of its login or cookie."""
    relaying = pair[1]
    jar = CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    with opener.open(f"{relaying.url}api/me?token={relaying.token}", timeout=30) as answer:
        me = json.loads(answer.read())["identity"]["username"]
    with opener.open(relaying.url + API + "info", timeout=30) as answer:
        assert json.loads(answer.read())["user"] == me != os_user()


@pytest.mark.long
@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_the_second_server_takes_over(tmp_path: Path, ending: str) -> None:
    """Its kernels go on without anybody doing anything, and nothing is lost."""
    with two_servers(tmp_path) as (holder, relaying):
        check_takeover(holder, relaying, ending)


def check_takeover(holder: JupyterServer, relaying: JupyterServer, ending: str) -> None:
    first, second = Kernel(holder), Kernel(relaying, "a.ipynb")
    told = [kernel.run(CONNECT).split() for kernel in (first, second)]
    assert [words[:2] for words in told] == [["online", os_user()]] * 2
    assert [words[2] for words in told] == [server.url for server in (holder, relaying)]
    first.run("db.insert('note', text='from the first'); db.flush(20)")
    second.run("live.wait(20, until=lambda df: 'from the first' in set(df['t']))")
    second.run("db.insert('note', text='from the second'); db.flush(20)")
    first.run("live.wait(20, until=lambda df: len(df) == 2)")
    second.run("notes = db.as_of('2100-01-01T00:00:00Z').frame('note')")
    assert second.run("print(len(notes), len(db.history(notes['id'][0])))").split() == ["2", "1"]

    # It writes all the time, while the other server ends.
    cell = second.start(
        "import time\nfor n in range(60):\n    _ = db.insert('note', text=f'note {n}'); time.sleep(0.05)"
    )
    first.close()
    if ending == "kill":
        holder.kill()
    else:
        os.kill(holder.pid, signal.SIGTERM)
    second.finish(cell)
    second.run("db.flush(60)")
    assert second.run("print(db.status.state, db.status.pending, len(live.df))").split() == [
        "online",
        "0",
        "62",
    ]
    word = until(lambda: places.announced(relaying.data / "server"))
    assert word["pid"] == relaying.pid

    third = Kernel(relaying)
    third.run(CONNECT)
    third.run("live.wait(30, until=lambda df: len(df) == 62)")
    assert third.run("print(len(live.df))").split() == ["62"]

    # And the first one, started again, relays to the second.
    with JupyterServer(holder.folder.parent / "three", options=OPTIONS, data=holder.data) as again:
        fourth = Kernel(again)
        assert fourth.run(CONNECT).split()[:2] == ["online", os_user()]
        fourth.run("db.insert('note', text='back'); db.flush(30)")
        third.run("live.wait(30, until=lambda df: len(df) == 63)")
        fourth.close()
    for kernel in (second, third):
        kernel.close()


def test_a_kernel_that_is_gone_is_not_relayed_any_more(pair: tuple[JupyterServer, JupyterServer]) -> None:
    """Its grant has ended, and with it whatever it left behind."""
    relaying = pair[1]
    kernel = Kernel(relaying, "a.ipynb")
    token = kernel.run("import os; print(os.environ['TRIPLEWEB_TOKEN'])").strip()
    kernel.close()
    grant = {"Authorization": f"tripleweb {token}"}
    assert ask(relaying, API + "info", **grant)[0] == 200

    async def outlive() -> list[str | bytes | None]:
        address = f"{relaying.url.replace('http', 'ws', 1)}{API}apps/a/sync"
        socket = await websocket_connect(HTTPRequest(address, headers=grant))
        status = await asyncio.to_thread(ask, relaying, f"api/kernels/{kernel.id}", "DELETE")
        assert status[0] == 204
        assert (await asyncio.to_thread(ask, relaying, API + "info", **grant))[0] == 403
        async with asyncio.timeout(20):
            heard = [await socket.read_message()]
            while heard[-1] is not None:
                heard.append(await socket.read_message())
        return heard

    assert json.loads(asyncio.run(outlive())[-2] or "{}")["code"] == "forbidden"
