"""What the doctor finds, in each way in which connecting can fail, and how it says to mend it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from notebooks.server import JupyterServer, Kernel
from tests.password_server import PASSWORD, PasswordServer
from tripleweb import doctor
from tripleweb.doctor import Finding, Report, examine
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync.messages import PROTOCOL
from tripleweb.web import WebServer

OURS = {"server_id": "s", "user": "ada", "version": tripleweb.__version__, "protocol": PROTOCOL}
Answering = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment that leads nowhere."""
    return {"TRIPLEWEB_DATA": str(tmp_path)}


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Starts servers that answer everything in one way; gives their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Any, status: int = 200, date: str = "") -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(status)
                self.send_header("Date", date or formatdate(usegmt=True))
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                """Not to standard error."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ills(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.state == "ill"]


def the_ill(report: Report) -> str:
    """The one thing that needs to be mended, with how."""
    (finding,) = ills(report)
    assert finding.advice and not report.is_well
    return f"{finding.found} {finding.advice}"


def test_all_is_well(home: dict[str, str]) -> None:
    with WebServer(MemoryStores(), owner="ada") as server:
        report = examine(server.url, server.token, environment=home)
        with tripleweb.connect("notes", url=server.url, token=server.token, path=":memory:") as db:
            db.flush(10)
            db.q("[:find ?x :where [?x :a 1]]")
            held = examine(server.url, server.token, status=db.status, environment=home)
    assert report.is_well and held.is_well
    assert {finding.state for finding in held.findings} == {"well"}
    assert "where you are ada" in repr(report)
    assert "db: <tripleweb: online, notes" in repr(held)


def test_nothing_is_there(home: dict[str, str]) -> None:
    said = the_ill(examine(environment=home))
    assert "tripleweb serve" in said and "TRIPLEWEB_URL" in said and "embedded" in said
    assert not list(Path(home["TRIPLEWEB_DATA"]).iterdir()), "looking changes nothing"


def test_the_token_is_refused(home: dict[str, str]) -> None:
    with WebServer(MemoryStores(), owner="ada") as server:
        report = examine(server.url, "wrong-token-of-mine", environment=home)
        told = home | {"TRIPLEWEB_URL": server.url, "TRIPLEWEB_TOKEN": "wrong-token-of-mine"}
        in_kernel = examine(environment=told)
    assert "refuses the token" in the_ill(report) and "Give token=" in the_ill(report)
    assert "restart it" in the_ill(in_kernel)
    for shown in (repr(report), report._repr_html_(), repr(in_kernel)):
        assert "wrong-token-of-mine" not in shown


def test_the_server_is_down(home: dict[str, str]) -> None:
    with WebServer(MemoryStores()) as server:
        url = server.url
    assert "kept and sent later" in the_ill(examine(url, "token", environment=home))


def test_the_server_has_no_tripleweb(home: dict[str, str], answering: Answering) -> None:
    said = the_ill(examine(answering({}, 404), environment=home))
    assert "has no tripleweb" in said and "pip install tripleweb" in said
    assert "something else" in the_ill(examine(answering({}, 500), environment=home))


def test_the_server_has_not_its_data(home: dict[str, str], answering: Answering) -> None:
    reason = "in use by another running session (process 7) <script>"
    report = examine(answering({"error": "unavailable", "message": reason}, 503), environment=home)
    assert reason in the_ill(report) and "data_dir" in the_ill(report)
    page = report._repr_html_()
    assert "&lt;script&gt;" in page and "<script>" not in page


def test_versions_differ(home: dict[str, str], answering: Answering) -> None:
    later = examine(answering({**OURS, "version": "99.1"}), environment=home)
    assert later.is_well
    assert [f.found for f in later.findings if f.state == "note"] == [
        f"the server has tripleweb 99.1, we {tripleweb.__version__}; they understand each other"
    ]
    for protocol, side in ((PROTOCOL + 1, "here"), (PROTOCOL - 1, "there")):
        said = the_ill(examine(answering({**OURS, "protocol": protocol}), environment=home))
        assert f"Upgrade tripleweb {side}" in said


@pytest.mark.parametrize(("seconds", "said"), [(-3600, "ahead of"), (3600, "behind"), (20, None)])
def test_the_clock_is_off(home: dict[str, str], answering: Answering, seconds: int, said: str | None) -> None:
    report = examine(answering(OURS, date=formatdate(time.time() + seconds, usegmt=True)), environment=home)
    notes = [finding for finding in report.findings if finding.state == "note"]
    assert report.is_well and len(notes) == (said is not None)
    if said is not None:
        assert said in notes[0].found and "nothing is lost" in notes[0].advice


def test_the_data_folder_is_locked(home: dict[str, str]) -> None:
    stores = SqliteStores(Path(home["TRIPLEWEB_DATA"]) / "server")
    try:
        for url in (None, "embedded"):
            said = the_ill(examine(url, environment=home))
            assert "in use by another running session" in said and "left no address" in said
    finally:
        stores.close()
    assert examine("embedded", environment=home).is_well
    assert "tripleweb serve" in the_ill(examine(environment=home))


def test_the_data_folder_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = examine("embedded", environment={"TRIPLEWEB_DATA": str(tmp_path / "file" / "data")})
    assert "cannot be written to" in the_ill(report) and "TRIPLEWEB_DATA" in the_ill(report)


def test_the_server_runs_in_another_environment(home: dict[str, str], tmp_path: Path) -> None:
    python = tmp_path / "theirs" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    runs = [str(python), "-c", "print('here', flush=True); input()"]
    with subprocess.Popen(runs, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as jupyter:
        assert jupyter.stdout is not None
        jupyter.stdout.readline()  # before, its command line may still be empty
        environment = home | {"JPY_PARENT_PID": str(jupyter.pid)}
        said = the_ill(examine(environment=environment))
        assert f"{python} -m pip install tripleweb" in said
        (tmp_path / "theirs" / "lib" / "python3.13" / "site-packages" / "tripleweb").mkdir(parents=True)
        assert "installed but not loaded" in the_ill(examine(environment=environment))
        jupyter.communicate(b"\n", timeout=20)


def test_a_store_that_is_refused(home: dict[str, str]) -> None:
    with (
        WebServer(MemoryStores(), owner="ada") as server,
        tripleweb.connect("notes", url=server.url, token="wrong-token", path=":memory:") as db,
    ):
        deadline = time.monotonic() + 20
        while db.status.state != "refused":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        report = examine(server.url, "wrong-token", status=db.status, environment=home)
        db.go_offline()
        offline = examine(server.url, server.token, status=db.status, environment=home)
    assert [finding.found.split(":")[0] for finding in ills(report)] == ["it refuses the token", "db"]
    assert offline.is_well and "%tripleweb online" in repr(offline)


KERNEL = """
get_ipython().run_line_magic("load_ext", "tripleweb")
import tripleweb
try:
    tripleweb.connect("notes")
except tripleweb.NoServerError as error:
    print("NoServerError:", error)
print(repr(get_ipython().run_line_magic("tripleweb", "doctor")))
"""


@pytest.mark.long
@pytest.mark.parametrize("guard", ["token", "password"])
def test_a_jupyter_server_without_the_extension(tmp_path: Path, guard: str) -> None:
    off = '--ServerApp.jpserver_extensions={"tripleweb_jupyter": False}'
    server: JupyterServer = (
        JupyterServer(tmp_path, options=(off,))
        if guard == "token"
        else PasswordServer(tmp_path, options=(off, PASSWORD))
    )
    with server:
        kernel = Kernel(server)
        said = kernel.run(KERNEL)
        kernel.close()
    assert "NoServerError: " in said and "it has no tripleweb" in said
    assert "✗ the Jupyter server of this kernel" in said
    # it is switched off for that run only, so all that is left to do is to start it again
    assert "restart the server" in said, said
    assert server.token not in said or not server.token


def test_whether_the_extension_is_enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.is_enabled()
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": {"jpserver_extensions": {"tripleweb_jupyter": False}}})
    )
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # else the environment has the last word
    assert not doctor.is_enabled()
