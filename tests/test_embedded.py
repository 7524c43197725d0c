"""`url="embedded"`: a server inside the process that uses it, in real processes; and a server that moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import tripleweb
from tripleweb import embedded, places
from tripleweb.access import os_user
from tripleweb.discovery import find
from tripleweb.storage.sqlite import SqliteStores

WRITER = """
import sys, tripleweb
db = tripleweb.connect("notes", url="embedded", path=sys.argv[1] or None)
for line in sys.stdin:
    db.insert("note", text=line.strip())
    if line.startswith("flushed"):
        db.flush(30)
    print(db.status.state, flush=True)
"""
TEXTS = "[:find [?t ...] :where [_ :note/text ?t]]"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of this test's own, and nothing else that leads to a server."""
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    for name in ("TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    embedded.stop()


@contextmanager
def writer(path: str = ":memory:") -> Iterator[Callable[[str], str]]:
    """Another process with the app open: writes a line and says how its store stands. It ends without a complaint."""
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def write(line: str) -> str:
            process.stdin.write(line + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        write.kill = process.kill  # type: ignore[attr-defined]
        try:
            yield write
        finally:
            process.stdin.close()
            process.wait(30)
        complaints.seek(0)
        assert complaints.read() == ""


def test_stores_of_one_process_share_a_server() -> None:
    """`url="embedded"` runs a server inside this process."""
    with (
        tripleweb.connect("notes", url="embedded") as one,
        tripleweb.connect("notes", url="embedded") as other,
    ):
        one.insert("note", text="hello")
        one.flush(20)
        assert (one.status.state, one.status.user) == ("online", os_user())
        assert one.status.server == other.status.server
        live = other.live(TEXTS)
        live.wait(20, until=lambda df: len(df) == 1)
    assert sum(thread.name == "tripleweb-server" for thread in threading.enumerate()) == 1


def test_others_on_this_machine_find_it() -> None:
    with tripleweb.connect("notes", url="embedded") as one:
        assert find().url == one.status.server
    embedded.stop()
    with pytest.raises(tripleweb.NoServerError):
        find()
    with pytest.raises(ValueError, match="takes no token"):
        find("embedded", "secret")


def test_what_a_process_wrote_is_there_for_the_next() -> None:
    """Also what was not flushed: it is sent at the end of the process, or else by the next."""
    for number in range(3):
        with writer("") as write:
            write(f"note {number}")
    with tripleweb.connect("notes", url="embedded") as db:
        db.flush(20)
        with tripleweb.connect("notes", url="embedded", path=":memory:") as other:
            assert sorted(other.q(TEXTS)) == ["note 0", "note 1", "note 2"]


def test_what_is_online_at_the_end_of_its_process_is_sent() -> None:
    """No replica is kept here that could send it later: the server ends after the store."""
    with writer() as write:
        assert write("flushed") == "online"
        write("not flushed")
    with tripleweb.connect("notes", url="embedded", path=":memory:") as db:
        assert sorted(db.q(TEXTS)) == ["flushed", "not flushed"]


def test_a_second_process_uses_the_first_ones_server_and_takes_over() -> None:
    with writer() as write:
        assert write("flushed") == "online"
        with tripleweb.connect("notes", url="embedded", path=":memory:") as db:
            live = db.live("[:find ?t :where [_ :note/text ?t]]")
            live.wait(20, until=lambda df: list(df["t"]) == ["flushed"])
            db.insert("note", text="before")
            db.flush(20)
            first = db.status.server
            write.kill()  # type: ignore[attr-defined]
            db.insert("note", text="after")
            db.flush(30)
            assert db.status.state == "online" and db.status.server != first
            with writer() as again:
                assert again("flushed too") == "online"
                live.wait(20, until=lambda df: len(df) == 4)


def test_a_server_that_left_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PATIENCE_S", 0.1)
    stores = SqliteStores(places.server_dir())
    try:
        with pytest.raises(tripleweb.NoServerError, match=f"left no address.*process {os.getpid()}"):
            tripleweb.connect("notes", url="embedded")
    finally:
        stores.close()


@pytest.mark.long
def test_a_notebook_that_no_jupyter_server_runs() -> None:
    """nbclient, as papermill uses it."""
    cells = [
        "import tripleweb\ndb = tripleweb.connect('notes', url='embedded')",
        "n = db.insert('note', text='from a notebook')",
        "live = db.live('[:find ?t :where [_ :note/text ?t]]')\nlive",
        "print(live.df['t'].tolist(), db.status.state)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert notebook.cells[3].outputs[0].text == "['from a notebook'] online\n"
    assert "from a notebook" in notebook.cells[2].outputs[0].data["text/html"]
    with tripleweb.connect("notes", url="embedded", path=":memory:") as db:
        assert db.q(TEXTS).tolist() == ["from a notebook"]


@contextmanager
def serving(*options: str) -> Iterator[subprocess.Popen[str]]:
    """`tripleweb serve`."""
    command = [sys.executable, "-m", "tripleweb.cli", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "serves" in process.stdout.readline()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()  # type: ignore[union-attr]


def test_a_server_that_is_started_again_elsewhere_is_found_again() -> None:
    """Another port, the same data; nobody does anything."""
    with serving() as first:
        db = tripleweb.connect("notes", path=":memory:")
        db.insert("note", text="before")
        db.flush(20)
        address = db.status.server
        first.kill()
        first.wait(20)
        db.insert("note", text="meanwhile")
    with db, serving():
        db.flush(40)
        assert db.status.state == "online" and db.status.server != address
        with tripleweb.connect("notes", path=":memory:") as other:
            assert sorted(other.q(TEXTS)) == ["before", "meanwhile"]
