"""Kernels and servers that go and come again, in real processes: nobody does anything about it, and nothing is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from notebooks.server import JupyterServer, Kernel
from tripleweb import places
from tripleweb.access import os_user
from tripleweb.link import Pace
from tripleweb.session import Session
from tripleweb.storage.replica import MemoryReplica, ReplicaFile
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.web import WebServer

TEXTS = "[:find [?t ...] :where [_ :note/text ?t]]"
SHOW = f"print(*sorted(db.q('{TEXTS}')))"
TOKEN = "the-token-of-these-tests"
CONNECT = "import tripleweb\ndb = tripleweb.connect('notes')\nlive = db.live('[:find ?t :where [_ :note/text ?t]]')\n"


def until(condition: Callable[[], Any], timeout: float = 40) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


# ---------------------------------------- kernels


@pytest.mark.long
def test_a_kernel_is_restarted(tmp_path: Path) -> None:
    """Run all cells again, and all is there: what the server has, and what it has not been sent."""
    with JupyterServer(tmp_path) as server:
        kernel = Kernel(server, "a.ipynb")
        kernel.run(CONNECT + "db.insert('note', text='sent'); db.flush(30)")
        kernel.run("db.go_offline(); _ = db.insert('note', text='unsent')")
        kernel.restart()
        kernel.run(CONNECT + "db.flush(30)")
        assert kernel.run(SHOW).split() == ["sent", "unsent"]
        assert kernel.run("print(db.status.state, db.status.user)").split() == ["online", os_user()]
        other = Kernel(server, "b.ipynb")
        assert other.run(CONNECT + SHOW).split() == ["sent", "unsent"]
        for one in (kernel, other):
            one.close()


# ---------------------------------------- servers


@pytest.mark.long
def test_a_jupyter_server_is_killed_and_started_again_at_the_same_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is its client: it stays where it is, and writes on while the server is away."""
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path / "mine"))
    options = (
        f"--ServerApp.port={free_port()}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
    )
    with JupyterServer(tmp_path, options=options) as server:
        db = tripleweb.connect("notes", url=server.url, token=TOKEN)
        live = db.live("[:find ?t :where [_ :note/text ?t]]")
        db.insert("note", text="before")
        db.flush(20)
        server.kill()
        db.insert("note", text="meanwhile")
        until(lambda: db.status.state == "offline")
        assert db.status.pending == 1
    with db, JupyterServer(tmp_path, options=options) as server:
        until(lambda: db.status.state == "online")
        db.flush(40)
        kernel = Kernel(server)
        assert kernel.run(CONNECT + SHOW).split() == ["before", "meanwhile"]
        kernel.run("db.insert('note', text='after'); db.flush(20)")
        live.wait(20, until=lambda df: len(df) == 3)
        kernel.close()


@pytest.mark.long
def test_a_jupyter_server_is_killed_and_started_again_elsewhere(tmp_path: Path) -> None:
    """Its kernels die with it; the next one takes up what they had not sent, and with it their replica."""
    with JupyterServer(tmp_path) as server:
        port = server.url
        kernel = Kernel(server, "a.ipynb")
        kernel.run(CONNECT + "db.insert('note', text='sent'); db.flush(30)")
        kernel.run("db.go_offline(); _ = db.insert('note', text='unsent')")
        replica = kernel.run("print(db._session.core.replica)").strip()
        pid = int(kernel.run("import os; print(os.getpid())"))
        server.kill()
        kernel.close()
        until(lambda: not is_running(pid))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(port.rstrip("/").rpartition(":")[2])))
        taken.listen()
        with JupyterServer(tmp_path) as server:
            assert server.url != port
            kernel = Kernel(server, "a.ipynb")
            kernel.run(CONNECT + "db.flush(30)")
            assert kernel.run("print(db._session.core.replica)").strip() == replica
            other = Kernel(server, "b.ipynb")
            assert other.run(CONNECT + SHOW).split() == ["sent", "unsent"]
            kernel.close()
            other.close()


def is_running(pid: int) -> bool:
    """A process that has ended may stay in the table until somebody asks for it."""
    try:
        return places.is_alive(pid) and ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# ---------------------------------------- an hour


@contextmanager
def turned_away(port: int) -> Iterator[list[str]]:
    """A server that is not ready: it answers 503 to everything, and counts."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            """Not to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_the_server_is_gone_for_an_hour(tmp_path: Path) -> None:
    """As many attempts as are made in an hour, in shorter pauses; writes queue up and arrive in the end, once."""
    usual = Pace()
    attempts = int(3600 / usual.longest_pause)
    pace = Pace(first_pause=usual.first_pause / 1_500, longest_pause=usual.longest_pause / 1_500)
    port = free_port()
    with WebServer(SqliteStores(tmp_path / "server"), port=port, owner="ada", token=TOKEN) as server:
        session = Session(ReplicaFile(tmp_path / "a.tripleweb"), app="notes", url=server.url)
        session.connect(TOKEN, pace=pace)
        session.write(lambda tx: tx.set("n0", "note/text", "before"))
        session.flush(20)
    with turned_away(port) as seen:
        for number in range(1, 21):
            session.write(lambda tx, number=number: tx.set(f"n{number}", "note/text", "meanwhile"))
            until(lambda number=number: len(seen) >= number * attempts / 20)
        assert session.state == "offline" and session.core.pending == 20
    with WebServer(SqliteStores(tmp_path / "server"), port=port, owner="ada", token=TOKEN) as server:
        session.flush(20)
        assert (session.state, session.core.pending) == ("online", 0)
        other = Session(MemoryReplica(), app="notes", url=server.url)
        other.connect(TOKEN)
        assert other.wait_for(lambda: other.store.count("note/text") == 21, 20)
        other.close()
        session.close()
        assert server.hub.tenants["notes"].durable_seq == 21, "one was taken twice"
