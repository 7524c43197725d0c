"""The server extension in a real Jupyter server: who gets in and under what name, what kernels are told.

Most tests run a Jupyter server in this process (pytest-jupyter) that refuses whatever is not authenticated; the last
ones start one as people do, with real kernels.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from jupyter_server.auth import Authorizer
from jupyter_server.utils import JupyterServerAuthWarning
from pytest_jupyter.jupyter_core import (  # noqa: F401 - fixtures, of this module only: the plugin's act everywhere
    echo_kernel_spec,
    jp_asyncio_loop,
    jp_config_dir,
    jp_data_dir,
    jp_env_config_path,
    jp_env_jupyter_path,
    jp_environ,
    jp_home_dir,
    jp_kernel_dir,
    jp_runtime_dir,
    jp_system_config_path,
    jp_system_jupyter_path,
)
from pytest_jupyter.jupyter_server import (  # noqa: F401
    jp_argv,
    jp_base_url,
    jp_configurable_serverapp,
    jp_extension_environ,
    jp_http_port,
    jp_logging_stream,
    jp_nbconvert_templates,
    jp_root_dir,
    jp_server_cleanup,
    jp_serverapp,
    jp_web_app,
)
from pytest_jupyter.pytest_tornasync import http_server, http_server_port  # noqa: F401
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

from notebooks.server import JupyterServer, Kernel
from tripleweb import places
from tripleweb.errors import StoreLockedError
from tripleweb.storage.sqlite import SqliteStores
from tripleweb_jupyter.extension import TripleWeb

API = "api/tripleweb/v1/"
HELLO = '{"t":"hello","protocol":[2,2],"replica":"%s","incarnation":"x","next":1,"confirmed":0,"now":0}'
DEADLINE = 30


class Restrained(Authorizer):
    """Lets everybody do what `allowed` says on tripleweb, and anything elsewhere."""

    allowed: ClassVar = {"read", "write", "execute"}

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "tripleweb" or action in self.allowed


@pytest.fixture
def settings() -> dict[str, Any]:
    """`c.TripleWeb` and more, for tests to change."""
    return {}


@pytest.fixture
def jp_server_config(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {
        "ServerApp": {
            "jpserver_extensions": {"tripleweb_jupyter": True, "jupyter_server_terminals": False},
            "allow_unauthenticated_access": False,
            "authorizer_class": Restrained,
            **settings.pop("ServerApp", {}),
        },
        "IdentityProvider": {"token": "server-token"},
        "TripleWeb": {"data_dir": str(tmp_path / "apps"), **settings},
    }


class Running:
    """The server in this process, as its clients see it."""

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.loop = loop
        self.extension: TripleWeb = app.extension_manager.extension_points["tripleweb_jupyter"].app
        self.url = f"http://127.0.0.1:{app.port}{app.base_url}"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(DEADLINE):
                return await work

        return self.loop.run_until_complete(bounded())

    def start(self) -> None:
        """What Jupyter does once its port is bound, and pytest-jupyter leaves out."""
        self.run(self.app.extension_manager.start_all_extensions())

    def fetch(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> HTTPResponse:
        request = HTTPRequest(
            self.url + path,
            method,
            headers=headers,
            body=None if body is None else json.dumps(body),
            request_timeout=DEADLINE,
            allow_nonstandard_methods=True,
            follow_redirects=False,
        )

        async def ask() -> HTTPResponse:  # the client belongs to the loop that runs when it is made
            return await AsyncHTTPClient().fetch(request, raise_error=False)

        answer: HTTPResponse = self.run(ask())
        return answer

    def api(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """As the owner; the JSON that comes back."""
        answer = self.fetch(path, method, body, Authorization="token server-token")
        assert answer.code < 300, answer.body
        return json.loads(answer.body) if answer.body else None

    def open(self, path: str = API + "apps/app/sync", **headers: str) -> WebSocketClientConnection:
        request = HTTPRequest(self.url.replace("http", "ws", 1) + path, headers=headers)

        async def connect() -> WebSocketClientConnection:
            return await websocket_connect(request)

        socket: WebSocketClientConnection = self.run(connect())
        return socket

    def status(self, path: str = API + "apps/app/sync", **headers: str) -> int:
        """Of opening the socket: 101, or what it was refused with."""
        try:
            self.open(path, **headers).close()
        except HTTPClientError as error:
            return error.code
        return 101

    def welcome(self, path: str = API + "apps/app/sync", **headers: str) -> dict[str, Any]:
        """What the server says to a hello."""
        socket = self.open(path, **headers)
        self.run(socket.write_message(HELLO % os.urandom(6).hex()))
        message = self.run(socket.read_message())
        socket.close()
        return json.loads(message)

    def cookie(self) -> str:
        """A login cookie, as a browser gets it."""
        answer = self.fetch("api/me?token=server-token")
        cookies = [line.split(";")[0] for line in answer.headers.get_list("Set-Cookie")]
        return "; ".join(cookie for cookie in cookies if cookie.startswith("username-"))


@pytest.fixture
def server(jp_serverapp: Any, http_server: Any, jp_asyncio_loop: Any) -> Running:  # noqa: F811
    return Running(jp_serverapp, jp_asyncio_loop)


@pytest.fixture
def started(server: Running) -> Iterator[Running]:
    before = {name: os.environ.get(name) for name in ("TRIPLEWEB_URL", "TRIPLEWEB_TOKEN")}
    server.start()
    yield server
    server.run(server.app.extension_manager.stop_all_extensions())
    assert {name: os.environ.get(name) for name in before} == before


# ---------------------------------------- who gets in


@pytest.mark.parametrize(
    ("header", "query", "socket", "info"),
    [
        (None, "", 403, 403),
        ("token wrong", "", 403, 403),
        ("Bearer wrong", "", 403, 403),
        ("tripleweb wrong", "", 403, 403),
        ("tripleweb", "", 403, 403),
        ("tripleweb server-token", "", 403, 403),  # the server's token is Jupyter's business
        (None, "?token=wrong", 403, 403),
        ("token server-token", "", 101, 200),
        ("Bearer server-token", "", 101, 200),
        (None, "?token=server-token", 101, 200),
        ("tripleweb GRANT", "", 101, 200),
        ("token GRANT", "", 403, 403),
        ("Bearer GRANT", "", 403, 403),
        (None, "?token=GRANT", 403, 403),
    ],
)
@pytest.mark.parametrize("open_to_all", [False, True])
def test_the_table_of_credentials(
    server: Running, header: str | None, query: str, socket: int, info: int, open_to_all: bool
) -> None:
    """`allow_unauthenticated_access` is True by default in Jupyter; nothing here depends on it."""
    server.app.web_app.settings["allow_unauthenticated_access"] = open_to_all
    grant = server.extension.site.access.mint("ada")
    headers = {} if header is None else {"Authorization": header.replace("GRANT", grant)}
    query = query.replace("GRANT", grant)
    assert server.status(API + "apps/app/sync" + query, **headers) == socket
    answer = server.fetch(API + "info" + query, **headers)
    assert answer.code == info
    assert set(json.loads(answer.body)) == (
        {"error", "message"} if info == 403 else {"version", "protocol", "server_id", "user"}
    )


def test_origins(server: Running) -> None:
    """A browser's cookie counts on pages of this server only; tokens are not sent by a browser on its own."""
    ours, foreign, cookie = server.url.split("/a%40b")[0], "http://elsewhere.example", server.cookie()
    assert cookie
    assert server.status(Cookie=cookie, Origin=ours) == 101
    assert server.status(Cookie=cookie, Origin=foreign) == 403
    assert server.status(Cookie=cookie + "x", Origin=ours) == 403
    grant = server.extension.site.access.mint("ada")
    for token in ("token server-token", f"tripleweb {grant}"):
        assert server.status(Authorization=token, Origin=foreign) == 101


@pytest.mark.parametrize(
    "path",
    ["api/contents", "api/kernels", "api/sessions", "api/status", "api/me", "api/config/x", "tree", "lab"],
)
def test_a_grant_opens_nothing_else_of_jupyter(server: Running, path: str) -> None:
    grant = server.extension.site.access.mint(server.extension.site.access.owner)
    assert server.fetch(API + "info", Authorization=f"tripleweb {grant}").code == 200
    for scheme in ("tripleweb", "token", "Bearer"):
        assert server.fetch(path, Authorization=f"{scheme} {grant}").code in (302, 403, 404)
    assert server.fetch(f"{path}?token={grant}").code in (302, 403, 404)
    if path.startswith("api/"):
        assert server.fetch(path, Authorization=f"tripleweb {grant}").code == 403
        assert server.fetch(path, Authorization="token server-token").code == 200


@pytest.mark.parametrize("app", [".hidden", "a%2Fb", "%FF", "x" * 65])
def test_what_is_no_app_id_is_not_there(server: Running, app: str) -> None:
    assert server.status(f"{API}apps/{app}/sync", Authorization="token server-token") == 404


def test_endpoints_are_declared_as_authenticated(
    jp_configurable_serverapp: Callable[..., Any],  # noqa: F811
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jp_configurable_serverapp()
    said = [str(w.message) for w in caught if issubclass(w.category, JupyterServerAuthWarning)]
    assert not [text for text in said if "tripleweb" in text.lower()]


@pytest.mark.parametrize(
    ("allowed", "socket", "info", "role"),
    [({"read", "write"}, 101, 200, "admin"), ({"read"}, 101, 200, "reader"), ({"write"}, 403, 403, None)],
)
def test_jupyters_authorizer_is_asked(
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[str],
    socket: int,
    info: int,
    role: str | None,
) -> None:
    monkeypatch.setattr(Restrained, "allowed", allowed)
    grant = server.extension.site.access.mint(server.extension.site.access.owner)
    for token in ("token server-token", f"tripleweb {grant}"):
        assert server.status(Authorization=token) == socket
        assert server.fetch(API + "info", Authorization=token).code == info
        if role is not None:
            assert server.welcome(Authorization=token)["role"] == role


# ---------------------------------------- under what name


def test_who_brings_only_the_servers_token_is_its_owner(server: Running) -> None:
    """ "the operating system's user name, the same after a restart … never a random name per request" """
    for _ in range(2):
        info = server.api(API + "info")
        assert info["user"] == getpass.getuser()
        welcome = server.welcome(Authorization="token server-token")
        assert (welcome["user"], welcome["role"], welcome["server"]) == (
            getpass.getuser(),
            "admin",
            info["server_id"],
        )


def test_a_browser_has_the_name_of_its_cookie(server: Running) -> None:
    one, other = server.cookie(), server.cookie()
    names = {}
    for cookie in (one, other):
        me = json.loads(server.fetch("api/me", Cookie=cookie).body)["identity"]["username"]
        for _ in range(2):
            assert server.welcome(Cookie=cookie)["user"] == me
        assert server.welcome(Cookie=cookie, Authorization="token server-token")["user"] == me
        names[cookie] = me
    assert names[one] != names[other]
    assert server.welcome(Cookie=one)["role"] == "writer"


def test_everybody_who_comes_to_an_open_server_is_its_owner(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.app.identity_provider, "token", "")
    assert json.loads(server.fetch(API + "info").body)["user"] == getpass.getuser()


def test_a_server_with_a_password_knows_its_kernels(
    started: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no token then that a kernel could find anywhere else."""
    monkeypatch.setattr(started.app.identity_provider, "token", "")
    monkeypatch.setattr(started.app.identity_provider, "hashed_password", "argon2:not-a-hash")
    assert started.status() == 403
    assert started.status(Authorization="token server-token") == 403
    assert started.welcome(Authorization=f"tripleweb {os.environ['TRIPLEWEB_TOKEN']}")["role"] == "admin"


def test_on_a_hub_everybody_is_whom_the_hub_names(monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    monkeypatch.setenv("JUPYTERHUB_USER", "alice")
    from jupyter_server.auth import User

    from tripleweb_jupyter import extension, handlers

    assert extension.owner() == "alice"
    handler = SimpleNamespace(identity_provider=server.app.identity_provider, current_user=User("bob"))
    assert server.run(handlers.user_name(handler, "alice")) == "bob"  # type: ignore[arg-type]


def test_a_provider_that_knows_names_is_believed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_server.auth import IdentityProvider, User

    class Company(IdentityProvider):
        def get_user(self, handler: Any) -> User | None:
            name = handler.request.headers.get("X-Remote-User")
            return User(name) if name else None

    provider = Company(parent=server.app)
    monkeypatch.setitem(server.app.web_app.settings, "identity_provider", provider)
    answer = server.fetch(API + "info", **{"X-Remote-User": "grace"})
    assert json.loads(answer.body)["user"] == "grace"
    assert server.fetch(API + "info").code == 403


# ---------------------------------------- what kernels are told


def test_the_environment_is_set_once_the_server_has_started(started: Running) -> None:
    url, token = os.environ["TRIPLEWEB_URL"], os.environ["TRIPLEWEB_TOKEN"]
    assert url == f"http://localhost:{started.app.port}/a%40b/"
    assert token != "server-token"
    grant = started.extension.grant(token)
    assert grant is not None
    assert (grant.user, grant.session, grant.notebook, grant.kernel) == (getpass.getuser(), "", "", "")
    assert started.welcome(Authorization=f"tripleweb {token}")["user"] == getpass.getuser()


def test_before_it_has_started_nobody_is_told_an_address(server: Running) -> None:
    env = server.app.session_manager.get_kernel_env("a.ipynb", None)
    assert "TRIPLEWEB_TOKEN" not in env
    assert "TRIPLEWEB_URL" not in os.environ


def test_a_kernel_that_is_started_as_soon_as_the_port_is_bound_is_told_the_address(server: Running) -> None:
    """Jupyter answers requests before it has told every extension to start."""
    given: list[dict[str, str]] = []
    start_kernel = server.app.kernel_manager.start_kernel

    async def noted(**kwargs: Any) -> str:
        kernel: str = await start_kernel(**kwargs)
        given.append(dict(kwargs.get("env") or os.environ))
        return kernel

    server.app.kernel_manager.start_kernel = noted
    server.api("api/kernels", "POST", {"name": "echo"})
    server.api(
        "api/sessions", "POST", {"path": "a", "name": "a", "type": "notebook", "kernel": {"name": "echo"}}
    )
    server.start()
    assert {env["TRIPLEWEB_URL"] for env in given} == {os.environ["TRIPLEWEB_URL"]}
    assert given[0]["TRIPLEWEB_TOKEN"] == os.environ["TRIPLEWEB_TOKEN"] != given[1]["TRIPLEWEB_TOKEN"]
    server.run(server.app.extension_manager.stop_all_extensions())
    assert "TRIPLEWEB_URL" not in os.environ
    server.api("api/kernels", "POST", {"name": "echo"})
    assert "TRIPLEWEB_URL" not in os.environ, "told again after the end"


@pytest.mark.parametrize("settings", [{"kernel_grants": False}])
def test_kernels_are_told_nothing_if_so_configured(started: Running) -> None:
    assert "TRIPLEWEB_URL" not in os.environ
    env = started.app.session_manager.get_kernel_env("a.ipynb", "a.ipynb")
    assert not {name for name in env if name.startswith("TRIPLEWEB_T") or name == "TRIPLEWEB_URL"}


@pytest.mark.parametrize(
    ("ip", "cert", "base", "sock", "public", "url"),
    [
        ("127.0.0.1", "", "/", "", "", "http://127.0.0.1:8900/"),
        ("localhost", "", "/user/alice/", "", "", "http://localhost:8900/user/alice/"),
        ("0.0.0.0", "", "/", "", "", "http://127.0.0.1:8900/"),
        ("", "", "/", "", "", "http://127.0.0.1:8900/"),
        ("::", "", "/", "", "", "http://[::1]:8900/"),
        ("fe80::1", "", "/", "", "", "http://[fe80::1]:8900/"),
        ("host.example", "cert.pem", "/x", "", "", "https://host.example:8900/x/"),
        ("127.0.0.1", "", "/", "jupyter.sock", "", None),
        ("127.0.0.1", "", "/", "", "https://hub.example/user/a", "https://hub.example/user/a/"),
    ],
)
def test_the_address_for_kernels(
    ip: str, cert: str, base: str, sock: str, public: str, url: str | None
) -> None:
    stub = SimpleNamespace(ip=ip, port=8900, certfile=cert, base_url=base, sock=sock)
    extension = SimpleNamespace(serverapp=stub, public_url=public)
    extension.local_url = lambda: TripleWeb.local_url(extension)  # type: ignore[arg-type]
    assert TripleWeb.kernel_url(extension) == url  # type: ignore[arg-type]


def test_a_kernel_with_a_notebook_has_a_grant_of_its_own_which_ends_with_it(
    started: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    get_kernel_env = started.app.session_manager.get_kernel_env

    def noted(*args: Any) -> dict[str, str]:
        given.append(get_kernel_env(*args))
        return given[-1]

    monkeypatch.setattr(started.app.session_manager, "get_kernel_env", noted)
    sessions = []
    for path in ("a.ipynb", "folder/b.ipynb"):
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "echo"}}
        sessions.append(started.api("api/sessions", "POST", body))
    tokens = [env["TRIPLEWEB_TOKEN"] for env in given]
    assert len({*tokens, os.environ["TRIPLEWEB_TOKEN"]}) == 3
    assert {env["TRIPLEWEB_URL"] for env in given} == {os.environ["TRIPLEWEB_URL"]}
    grants = [started.extension.grant(token) for token in tokens]
    assert [(g.notebook, g.kernel) for g in grants if g] == [
        (session["path"], session["kernel"]["id"]) for session in sessions
    ]
    welcomes = [started.welcome(Authorization=f"tripleweb {token}") for token in tokens]
    assert {w["user"] for w in welcomes} == {getpass.getuser()}
    assert [w["session"] for w in welcomes] == [g.session for g in grants if g]

    left = started.open(Authorization=f"tripleweb {tokens[0]}")
    started.api(f"api/sessions/{sessions[0]['id']}", "DELETE")
    assert started.status(Authorization=f"tripleweb {tokens[0]}") == 403
    assert (
        json.loads(started.run(left.read_message()))["code"] == "forbidden"
    )  # a child that the kernel left behind
    assert started.run(left.read_message()) is None
    assert started.status(Authorization=f"tripleweb {tokens[1]}") == 101

    started.api(f"api/sessions/{sessions[1]['id']}", "PATCH", {"path": "folder/c.ipynb"})
    grant = started.extension.grant(tokens[1])
    assert grant is not None
    assert grant.notebook == "folder/c.ipynb"
    started.api(f"api/kernels/{sessions[1]['kernel']['id']}/restart", "POST")
    assert started.status(Authorization=f"tripleweb {tokens[1]}") == 101
    started.api(f"api/sessions/{sessions[1]['id']}", "DELETE")
    assert started.status(Authorization=f"tripleweb {tokens[1]}") == 403
    assert started.status(Authorization=f"tripleweb {os.environ['TRIPLEWEB_TOKEN']}") == 101


def test_a_kernel_that_does_not_start_leaves_no_grant(started: Running) -> None:
    before = len(started.extension.site.access._grants)
    body = {"path": "a.ipynb", "name": "a", "type": "notebook", "kernel": {"name": "no-such-kernel"}}
    answer = started.fetch("api/sessions", "POST", body, Authorization="token server-token")
    assert answer.code >= 400
    assert len(started.extension.site.access._grants) == before
    assert started.status(Authorization=f"tripleweb {os.environ['TRIPLEWEB_TOKEN']}") == 101


# ---------------------------------------- data


def test_the_data_lies_where_the_setting_says_and_belongs_to_this_server(
    server: Running, tmp_path: Path
) -> None:
    server.welcome(API + "apps/notes/sync", Authorization="token server-token")
    assert [path.name for path in (tmp_path / "apps").glob("*.tenant.sqlite")] == ["notes.tenant.sqlite"]
    with pytest.raises(StoreLockedError):
        SqliteStores(tmp_path / "apps")
    server.run(server.app.extension_manager.stop_all_extensions())
    SqliteStores(tmp_path / "apps").close()


@pytest.mark.parametrize("settings", [{"data_dir": ""}])
def test_by_default_it_lies_in_the_users_data_folder(server: Running) -> None:
    assert SqliteStores.__name__ == type(server.extension.site.hub.stores).__name__  # type: ignore[union-attr]
    assert (Path(os.environ["TRIPLEWEB_DATA"]) / "server" / "server.sqlite").exists()


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[SqliteStores]:
    stores = SqliteStores(tmp_path / "apps")
    yield stores
    stores.close()


@pytest.mark.parametrize("settings", [{"takeover_s": 0.05}])
def test_a_second_server_on_the_same_data_says_so_and_takes_over(
    taken: SqliteStores,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    settings: dict[str, Any],
) -> None:
    """tests/test_relay.py has the case in which the first one left its address."""
    server: Running = request.getfixturevalue("started")
    logged = [
        line for line in capsys.readouterr().err.splitlines() if "in use by another running session" in line
    ]
    assert [line[:2] for line in logged] == ["[W"]
    answer = server.fetch(API + "info", Authorization="token server-token")
    assert answer.code == 503
    said = json.loads(answer.body)
    assert said["error"] == "unavailable"
    assert "left no address" in said["message"]
    assert server.status(Authorization="token server-token") == 503
    assert server.fetch(API + "info").code == 403  # strangers are told nothing
    assert server.status() == 403
    grant = f"tripleweb {os.environ['TRIPLEWEB_TOKEN']}"
    assert server.status(Authorization=grant) == 503
    assert server.api("api/kernels") == []

    taken.close()

    async def takeover() -> None:
        deadline = time.monotonic() + DEADLINE
        while server.extension.upstream is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    server.run(takeover())
    assert server.welcome(Authorization=grant)["role"] == "admin"
    assert server.api(API + "info")["server_id"] == taken.server_id
    word = places.announced(taken.folder)
    assert word is not None and word["url"] == os.environ["TRIPLEWEB_URL"]


# ---------------------------------------- a server as people start it

ASK = """
import json, os, urllib.error, urllib.request

def ask(path, scheme):
    headers = {"Authorization": scheme + " " + os.environ["TRIPLEWEB_TOKEN"]}
    request = urllib.request.Request(os.environ["TRIPLEWEB_URL"] + path, headers=headers)
    try:
        return json.loads(urllib.request.urlopen(request, timeout=20).read())
    except urllib.error.HTTPError as error:
        return error.code

print(json.dumps([
    os.environ["TRIPLEWEB_URL"], os.environ["TRIPLEWEB_TOKEN"], ask("api/tripleweb/v1/info", "tripleweb"),
    ask("api/contents", "tripleweb"), ask("api/contents", "token"),
]))
"""


def test_kernels_of_a_real_server_find_it(tmp_path: Path) -> None:
    """`TRIPLEWEB_URL`/`TRIPLEWEB_TOKEN` (the server extension sets both for its kernels): the package as it is
    installed enables its extension; a notebook's kernel and one without both reach it."""
    options = ("--ServerApp.allow_unauthenticated_access=False", "--ServerApp.base_url=/user/ada/")
    with JupyterServer(tmp_path, options=options) as server:
        (server.work / "a.ipynb").write_text(
            '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
        )
        told = []
        for notebook in ("a.ipynb", None):
            kernel = Kernel(server, notebook)
            told.append(json.loads(kernel.run(ASK)))
            kernel.close()
        where = urlsplit(server.url)
    for url, token, info, *refused in told:
        assert url == f"http://127.0.0.1:{where.port}{where.path}"
        assert info["user"] == getpass.getuser()
        assert refused == [403, 403]
        assert token not in (tmp_path / "server.log").read_text()
    assert told[0][1] != told[1][1]
    assert (tmp_path / "data" / "server" / "server.sqlite").exists()
