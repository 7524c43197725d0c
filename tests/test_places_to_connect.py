"""Each place where `connect` finds its server, in real servers with real kernels; and who one is there.

    url=, TRIPLEWEB_URL, a JupyterHub, the Jupyter server of a kernel, a server on this machine

`tripleweb serve`, `url="embedded"` and nbclient are in test_embedded.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import tripleweb
from notebooks.server import JupyterServer, Kernel
from tests.lab import BUSY, SECONDS, Notebook
from tests.npm import installed
from tests.password_server import PASSWORD, PasswordServer
from tripleweb.access import os_user

PROXY = "configurable-http-proxy"
PROXY_VERSION = "5.1.0"
HUB_TOKEN = "the-tests-own-token-of-the-hub"

CONNECT = """
import json, os, tripleweb
from tripleweb import discovery

def connect(*gone):
    held = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(gone)} if gone else {}
    try:
        place = discovery.find()
        with tripleweb.connect("notes", path=":memory:") as db:
            _ = db.insert("note", text="hello")
            db.flush(30)
            return [place.source, db.status.state, db.status.user, db.status.server]
    finally:
        os.environ.update(held)
"""


def run(kernel: Kernel, *gone: str) -> list[Any]:
    """Connects in a kernel, in an environment without what begins with one of `gone`."""
    names = ", ".join(repr(name) for name in gone)
    kernel.run(CONNECT)
    found: list[Any] = json.loads(kernel.run(f"print(json.dumps(connect({names})))"))
    return found


@pytest.mark.long
@pytest.mark.parametrize("app", ["jupyter_server", "jupyterlab"])
def test_a_token_server(tmp_path: Path, app: str) -> None:
    """On any other Jupyter server every kernel and every request that brings only the server's token is the server's
    owner."""
    with JupyterServer(tmp_path, app=app) as server:
        for notebook in ("a.ipynb", None):
            kernel = Kernel(server, notebook)
            url = server.url.replace("127.0.0.1", "localhost")
            url = url if "localhost" in server.url else server.url
            assert run(kernel) == ["TRIPLEWEB_URL", "online", os_user(), url]
            assert run(kernel, "TRIPLEWEB_")[:3] == [
                "the Jupyter server of this kernel",
                "online",
                os_user(),
            ]
            # Any process of this user finds it, too.
            told = run(kernel, "TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JPY_")
            assert told[:3] == ["the server on this machine", "online", os_user()]
            kernel.close()


@pytest.mark.long
def test_a_password_server(tmp_path: Path) -> None:
    """There is no token that a kernel could find; the extension gives it one."""
    with PasswordServer(tmp_path, options=(PASSWORD,)) as server:
        assert server.token == ""
        for notebook in ("a.ipynb", None):
            kernel = Kernel(server, notebook)
            assert run(kernel)[:3] == ["TRIPLEWEB_URL", "online", os_user()]
            told = run(kernel, "TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JPY_")
            assert told[:3] == ["the server on this machine", "online", os_user()]
            kernel.close()


# ---------------------------------------- a JupyterHub

HUB = """
import sys
c = get_config()
c.JupyterHub.ip = "127.0.0.1"
c.JupyterHub.port = {port}
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{node!r}, {proxy!r}]
c.JupyterHub.cookie_secret_file = "{folder}/cookie-secret"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/{{username}}"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = [
    "--allow-root", "--ServerApp.allow_unauthenticated_access=False", "--LabApp.expose_app_in_browser=True"
]
FOLDERS = {{
    "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
    "IPYTHONDIR": "ipython", "TRIPLEWEB_DATA": "tripleweb",
}}
c.Spawner.environment = {{
    name: lambda spawner, path=path: f"{folder}/{{spawner.user.name}}/{{path}}" for name, path in FOLDERS.items()
}}
c.Spawner.env_keep = ["PATH", "PYTHONPATH", "LANG"]
c.Spawner.start_timeout = 90
c.Spawner.http_timeout = 90
c.JupyterHub.services = [{{"name": "tests", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"]
}}]
"""


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Hub:
    """A real JupyterHub with its proxy, and the single-user servers it starts; its files are below `folder`."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self.folder = folder
        self.process = process
        self.url = f"http://127.0.0.1:{port}/"

    def ask(
        self, path: str, payload: object = None, method: str | None = None, token: str = HUB_TOKEN
    ) -> Any:
        data = None if payload is None else json.dumps(payload).encode()
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def start(self, user: str) -> SingleUser:
        """Starts a user's server, and returns when it is ready."""
        try:
            self.ask(f"hub/api/users/{user}", {})
        except urllib.error.HTTPError as error:
            assert error.code == 409  # he is known
        try:
            self.ask(f"hub/api/users/{user}/server", {})
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read()!r}\n{self.log()}") from None
        deadline = time.monotonic() + 90
        while not self.ask(f"hub/api/users/{user}")["servers"].get("", {}).get("ready"):
            assert time.monotonic() < deadline and self.process.poll() is None, self.log()
            time.sleep(0.2)
        return SingleUser(self, user)

    def stop(self, user: str) -> None:
        """Stops a user's server."""
        self.ask(f"hub/api/users/{user}/server", method="DELETE")
        deadline = time.monotonic() + 60
        while self.ask(f"hub/api/users/{user}")["servers"]:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")[-5000:]


class SingleUser(JupyterServer):
    """A user's server, through the proxy; it is the Hub that starts and ends it."""

    def __init__(self, hub: Hub, user: str) -> None:
        super().__init__(hub.folder / user)
        self.url = f"{hub.url}user/{user}/"
        self.token = HUB_TOKEN
        self.runtime = hub.folder / user / "runtime"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, outer_environment: dict[str, str]) -> Iterator[Hub]:
    pytest.importorskip("jupyterhub", reason="JupyterHub is not installed")
    proxy = installed(PROXY, PROXY_VERSION, outer_environment) / PROXY / "bin" / PROXY
    with running_hub(tmp_path_factory.mktemp("hub"), proxy) as hub:
        yield hub


@contextmanager
def running_hub(folder: Path, proxy: Path) -> Iterator[Hub]:
    node = shutil.which("node")
    port = free_port()
    config = folder / "jupyterhub_config.py"
    config.write_text(
        HUB.format(
            port=port,
            hub_port=free_port(),
            proxy_port=free_port(),
            node=node,
            proxy=str(proxy),
            folder=folder,
            token=HUB_TOKEN,
        )
    )
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": "the-proxys-token"},
            start_new_session=True,
        )
    hub = Hub(folder, process, port)
    try:
        deadline = time.monotonic() + 90
        while True:
            assert time.monotonic() < deadline and process.poll() is None, hub.log()
            try:
                hub.ask("hub/api/")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        yield hub
    finally:
        process.terminate()  # it ends its servers and its proxy
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hub(hub: Hub) -> None:
    """Who I am comes from the server: the Hub's user on a JupyterHub."""
    server = hub.start("ada")
    for notebook in ("a.ipynb", None):
        kernel = Kernel(server, notebook)
        told = run(kernel)
        assert told[:3] == ["TRIPLEWEB_URL", "online", "ada"]
        assert told[3].endswith("/user/ada/")
        assert run(kernel, "TRIPLEWEB_URL", "TRIPLEWEB_TOKEN")[:3] == ["JupyterHub", "online", "ada"]
        kernel.close()

    # Through the Hub's proxy one is whom the Hub names, too: here somebody else, who may come in.
    info = hub.ask("user/ada/api/tripleweb/v1/info")
    assert info["user"] == "tests"
    own = hub.ask("hub/api/users/ada/tokens", {"scopes": ["access:servers!user=ada"]})["token"]
    assert hub.ask("user/ada/api/tripleweb/v1/info", token=own)["user"] == "ada"

    # And still so when it was stopped and started again: it is the same server, with the same data.
    hub.stop("ada")
    kernel = Kernel(hub.start("ada"))
    assert run(kernel)[1:3] == ["online", "ada"]
    found = kernel.run(
        "db = tripleweb.connect('notes', path=':memory:')\n"
        "print(len(db.q('[:find [?n ...] :where [?n :note/text]]')))"
    )
    kernel.close()
    assert int(found) == 5
    assert hub.ask("user/ada/api/tripleweb/v1/info")["server_id"] == info["server_id"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_page_of_a_hub(hub: Hub, browser: Browser) -> None:
    """[It keeps itself up to date] in the page: logged in at the Hub, behind its proxy, below its own address."""
    server = hub.start("bea")
    server.app, server.work = "jupyterlab", server.folder

    def log_in(page: Page) -> None:
        page.locator("#username_input").fill("bea")
        page.locator("#password_input").fill("any")
        page.locator("#login_submit").click()

    notes = "%%datalog notes\n[:find ?text :where [?n :note/text ?text]]"
    cells = ["%load_ext tripleweb\n%tripleweb connect notes", notes, BUSY]
    notebook = Notebook(browser, server, "notes.ipynb", cells, enter=log_in)
    for number in range(2):
        notebook.run(number)
    table = notebook.output(1).locator(".tripleweb-live")
    expect(table.locator(".state")).to_have_text("live", timeout=20 * SECONDS)
    notebook.run(2, wait=False)
    notebook.wait_for("busy")
    token = hub.ask("hub/api/users/bea/tokens", {"scopes": ["access:servers!user=bea"]})["token"]
    with tripleweb.connect("notes", url=server.url, token=token, path=":memory:") as db:
        db.insert("note", text="from <b>elsewhere</b>")
        expect(table).to_contain_text("from <b>elsewhere</b>", timeout=20 * SECONDS)
    (server.work / "enough").touch()
    notebook.wait_for("idle")
    notebook.picture("hub")
    notebook.page.close()
