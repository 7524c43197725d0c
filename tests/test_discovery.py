"""Who is asked for a server, in which order, and what is made of the answers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tripleweb import discovery, places
from tripleweb.discovery import Info, Place, Unreachable, ask, find, tidy_url
from tripleweb.errors import NoServerError
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer

EVERYTHING = {
    "TRIPLEWEB_URL": "http://127.0.0.1:1111/",
    "TRIPLEWEB_TOKEN": "from-the-extension",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:2222/user/ada/",
    "JUPYTERHUB_API_TOKEN": "from-the-hub",
    "JPY_PARENT_PID": "4242",
}
RUNNING = [
    {"pid": 17, "url": "http://127.0.0.1:3333/", "token": "of-another"},
    {"pid": 4242, "url": "http://127.0.0.1:4444/base/", "token": "of-the-parent"},
    {"pid": 4242, "url": "http+unix://%2Ftmp%2Fsocket/", "token": "of-a-socket"},
]


@pytest.fixture(autouse=True)
def running_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_parent", lambda e, parent=discovery._parent: parent(e, lambda: RUNNING))


def without(*names: str) -> dict[str, str]:
    return {name: text for name, text in EVERYTHING.items() if not name.startswith(names)}


def test_the_order(tmp_path: Path) -> None:
    """`connect` finds its server: `url=`, then `TRIPLEWEB_URL`/`TRIPLEWEB_TOKEN`, JupyterHub, the running Jupyter
    server that started this kernel, a `tripleweb serve` on this machine."""
    home = {"TRIPLEWEB_DATA": str(tmp_path)}
    (tmp_path / "server").mkdir()
    places.announce(tmp_path / "server", "http://127.0.0.1:5555/", "of-this-machine")
    told = [
        find("http://127.0.0.1:6666", "given", EVERYTHING | home),
        find(environment=EVERYTHING | home),
        find(environment=without("TRIPLEWEB") | home),
        find(environment=without("TRIPLEWEB", "JUPYTERHUB") | home),
        find(environment=home),
    ]
    assert [(place.url, place.token) for place in told] == [
        ("http://127.0.0.1:6666/", "given"),
        ("http://127.0.0.1:1111/", "from-the-extension"),
        ("http://127.0.0.1:2222/user/ada/", "from-the-hub"),
        ("http://127.0.0.1:4444/base/", "of-the-parent"),
        ("http://127.0.0.1:5555/", "of-this-machine"),
    ]
    assert all(place.token not in repr(place) for place in told if place.token)


def test_nothing_found_says_what_to_do(tmp_path: Path) -> None:
    """Nothing found: `NoServerError` that says what to do."""
    with pytest.raises(NoServerError, match=r"Jupyter server.*url=.*TRIPLEWEB_URL.*tripleweb\.open"):
        find(environment={"TRIPLEWEB_DATA": str(tmp_path), "JPY_PARENT_PID": "99"})


def test_a_token_given_alone_goes_with_the_server_that_is_found() -> None:
    assert find(token="mine", environment=EVERYTHING) == Place(
        "http://127.0.0.1:1111/", "mine", "TRIPLEWEB_URL"
    )


def test_an_address_that_is_known_brings_its_token() -> None:
    assert find("http://127.0.0.1:1111", environment=EVERYTHING).token == "from-the-extension"
    assert find("http://127.0.0.1:2222/user/ada", environment=EVERYTHING).token == "from-the-hub"
    assert find("http://127.0.0.1:7777/", environment=EVERYTHING).token is None


def test_a_server_that_died_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / places.ANNOUNCEMENT).write_text(
        json.dumps({"url": "http://127.0.0.1:5555/", "token": "x", "pid": 2**22 + 1})
    )
    with pytest.raises(NoServerError):
        find(environment={"TRIPLEWEB_DATA": str(tmp_path)})


@pytest.mark.parametrize(
    ("url", "tidy"),
    [
        ("http://localhost:8888", "http://localhost:8888/"),
        ("https://hub.example.org/user/ada/?token=secret#x", "https://hub.example.org/user/ada/"),
        ("http://0.0.0.0:8888/a%40b/", "http://127.0.0.1:8888/a%40b/"),
        ("http://name:word@localhost:8888/", "http://localhost:8888/"),
        ("http://[::1]:8888/", "http://[::1]:8888/"),
    ],
)
def test_addresses_have_one_form(url: str, tidy: str) -> None:
    assert tidy_url(url) == tidy


@pytest.mark.parametrize(
    "url", ["", "localhost", "ftp://host/", "http://", "/api?token=secret", "http+unix://x/"]
)
def test_what_is_no_address_is_said_without_its_query(url: str) -> None:
    with pytest.raises(ValueError, match="expected an address") as caught:
        find(url)
    assert "secret" not in str(caught.value)


class Jupyter(BaseHTTPRequestHandler):
    """Answers `info` as the test has set it up, to those who bring `token secret`."""

    answer: Any = None
    status = 200
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        status = self.status if self.headers.get("Authorization") == "token secret" else 403
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/login")
        self.end_headers()
        self.wfile.write(self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode())

    def log_message(self, *_: Any) -> None:
        """Not to standard error."""


@pytest.fixture
def jupyter() -> Iterator[tuple[type[Jupyter], str]]:
    handler = type("Handler", (Jupyter,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_server_says_who_it_is_and_who_one_is() -> None:
    with WebServer(MemoryStores(), owner="ada") as server:
        info = ask(Place(server.url, server.token, "url="))
        assert (
            (info.user, info.protocol) == ("ada", 2)
            and info.server_id == server.hub.server_id
            and info.version
        )
        with pytest.raises(Unreachable) as caught:
            ask(Place(server.url, "wrong", "url="))
        assert caught.value.status == 403 and "wrong" not in str(caught.value)
        with pytest.raises(Unreachable) as caught:
            ask(Place(server.url + "elsewhere/", server.token, "url="))
        assert caught.value.status == 404
    with pytest.raises(Unreachable, match="cannot reach") as caught:
        ask(Place(server.url, server.token, "url="))
    assert caught.value.status == 0


def test_a_token_of_jupyter_is_understood(jupyter: tuple[type[Jupyter], str]) -> None:
    handler, url = jupyter
    handler.answer = {"server_id": "s", "user": "ada", "more": 1}
    assert ask(Place(url, "secret", "url=")) == Info("s", "ada")
    assert handler.seen == ["tripleweb secret", "token secret"]


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, b"<html>a page</html>", 404),
        (200, {"server_id": "s"}, 404),
        (200, [], 404),
        (302, b"", 302),
        (500, b"", 500),
    ],
)
def test_other_answers(jupyter: tuple[type[Jupyter], str], status: int, answer: Any, said: int) -> None:
    handler, url = jupyter
    handler.status, handler.answer = status, answer
    with pytest.raises(Unreachable) as caught:
        ask(Place(url, "secret", "url="))
    assert caught.value.status == said and "secret" not in str(caught.value)


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9/")
    with WebServer(MemoryStores(), owner="ada") as server:
        assert ask(Place(server.url, server.token, "url=")).user == "ada"


def test_a_token_read_from_a_file_may_end_with_its_line() -> None:
    assert find("http://127.0.0.1:8888", "secret\n").token == "secret"
    there = {"TRIPLEWEB_URL": "http://127.0.0.1:8888/", "TRIPLEWEB_TOKEN": " secret\r\n"}
    assert find(environment=there).token == "secret"
    with pytest.raises(ValueError, match="control characters") as raised:
        find("http://127.0.0.1:8888", "se\ncret")
    assert "cret" not in str(raised.value)
