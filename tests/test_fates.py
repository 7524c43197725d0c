"""The fate of every write: said once, whole, kept, and shown where a user looks without being asked."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from traitlets.config import Config

import tripleweb
from tests.peers import Peer, Peers
from tests.stores import Connect, level, online
from tripleweb.database import Database
from tripleweb.session import Session, now_ms
from tripleweb.storage.replica import MemoryReplica
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.records import Fate, worth_keeping
from tripleweb.sync.server import Limits
from tripleweb.web import WebServer


def fates(peer: Peer) -> list[Fate]:
    return [fate for update in peer.updates if update.commit for fate in update.commit.fates]


def fill(kind: str, count: int) -> Callable[[Any], None]:
    """Writes `count` entities in one transaction."""
    return lambda tx: tx.set_columns([f"e{i}" for i in range(count)], [(f"{kind}/v", list(range(count)))])


# -- whole -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 5_000])
def test_what_a_server_does_not_take_is_rejected_and_holds_nothing_up(pieces: int) -> None:
    """`rejected` (limits …): a server may have narrower bounds than its clients; its word on one transaction must not
    keep those behind it from ever being heard."""
    peers = Peers(Limits(transaction_changes_max=4))
    ada, bob = peers.join("ada", limits=ClientLimits(frame_changes_max=pieces)), peers.join("bob")
    ada.set("first", "k/v", 1)
    ada.write(fill("large", 5))
    ada.write(lambda tx: tx.increment("first", "k/n", 1))
    ada.write(fill("fits", 4))
    peers.settle()
    peers.agree()
    assert not peers.faults
    told = {(fate.predicate, fate.outcome, fate.reason) for fate in fates(ada)}
    assert told == {
        ("k/v", "applied", ""),
        ("large/v", "rejected", "limits"),
        ("k/n", "applied", ""),
        ("fits/v", "applied", ""),
    }
    assert [fate.value for fate in fates(ada) if fate.outcome == "rejected"] == [("n", i) for i in range(5)]
    assert len(bob.triples) == 6


def test_a_transaction_too_large_by_its_bytes_is_not_kept_while_it_comes() -> None:
    peers = Peers()
    ada = peers.join("ada", limits=ClientLimits(frame_changes_max=2))
    ada.write(fill("large", 6))
    first, *rest = ada.core.frames_to_send(ada.now_ms)
    assert ada.conn is not None
    peers.server.receive(ada.conn, first, peers.now_ms)
    peers.server.exceed(ada.conn)
    for frame in rest:
        peers.server.receive(ada.conn, frame, peers.now_ms)
        partial = peers.server.connections[ada.conn].partial
        assert partial is None or not partial.changes
    ada.set("after", "k/v", 1)
    peers.settle()
    peers.agree()
    assert [(r.outcome, r.reason) for r in ada.receipts] == [("rejected", "limits"), ("applied", "")]


def test_every_change_that_lost_is_told() -> None:
    """`superseded`: of a large transaction, too, each value that lost is told, and no other."""
    peers = Peers(Limits(lost_max=3))
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.disconnect()
    ada.write(fill("k", 40))
    peers.now_ms += 1_000
    bob.write(fill("k", 20))
    bob.write(lambda tx: tx.delete("e30"))
    peers.settle()
    ada.connect()
    peers.settle()
    peers.agree()
    told = {(int(fate.subject[1:]), fate.outcome, fate.reason, fate.by) for fate in fates(ada)}
    lost = {(i, "superseded", "newer", "bob") for i in range(20)} | {(30, "superseded", "deleted", "bob")}
    assert told == lost | {(i, "applied", "", "") for i in range(20, 40) if i != 30}


def test_a_copy_is_told_what_its_original_lost() -> None:
    """The same transaction, pushed by a copy of the replica: its receipt does not claim more than the first."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.disconnect()
    ada.write(lambda tx: (tx.set("e", "k/lost", 1), tx.set("e", "k/stands", 1)))  # type: ignore[func-returns-value]
    copy = ada.copied("copy")
    peers.now_ms += 1_000
    bob.set("e", "k/lost", 2)
    peers.settle()
    for peer in (ada, copy):
        peer.connect()
        peers.settle()
    assert copy.core.replica != ada.core.replica
    peers.agree()
    said = [{(f.predicate, f.outcome, f.reason, f.by) for f in fates(peer)} for peer in (ada, copy)]
    assert said[0] == said[1] == {("k/lost", "superseded", "newer", "bob"), ("k/stands", "applied", "", "")}


def test_a_hundred_thousand_changes_rejected_at_once() -> None:
    """`rejected` … with the value kept: as many as one transaction had."""
    peers = Peers()
    ada = peers.join("ada", role="reader")
    ada.write(fill("k", 100_000))
    peers.settle()
    peers.agree()
    assert not ada.triples
    told = worth_keeping(fates(ada))
    assert [fate.value[1] for fate in told] == list(range(100_000))
    assert {(fate.outcome, fate.reason) for fate in told} == {("rejected", "permission")}


def test_what_was_rejected_is_gone_at_once_however_much_it_was() -> None:
    """A receipt too large to say what is there instead has the replica load again: what was rejected is not shown until
    then, neither here nor by who takes up the file."""
    peers = Peers(Limits(receipt_bytes_max=100))
    ada = peers.join("ada")
    ada.write(fill("old", 5))
    ada.set("dead", "k/v", 1)
    ada.write(lambda tx: tx.increment("n", "k/count", 1))
    peers.settle()
    ada.disconnect()
    ada.role = "reader"
    ada.write(
        lambda tx: [  # type: ignore[func-returns-value]
            *(tx.set(f"e{i}", "old/v", "rejected") for i in range(5)),
            *(tx.set(f"e{i}", "new/v", "rejected") for i in range(5)),
            tx.delete("dead"),
            tx.increment("n", "k/count", 10),
        ]
    )
    ada.connect()
    while ada.receipts[-1].outcome == "applied":
        ada.up()
        peers.commit()
        peers.down()
    assert [(r.outcome, r.reload) for r in ada.receipts[-1:]] == [("rejected", True)]
    ada.disconnect()
    assert not [triple for triple in ada.triples if triple[2] == "rejected"]
    assert ("n", "k/count", 1) in ada.triples and ada.core.store.deleted("dead") is None
    assert not ada.core.complete
    here = ada.triples
    ada.start()
    assert ada.triples == here
    ada.connect()
    peers.settle()
    peers.agree()
    assert len(ada.triples) == 7


# -- kept --------------------------------------------------------------------------------------------------------------


def demote(server: WebServer, role: str) -> None:
    """What eve may do from her next connection on."""
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": role})


def test_receipts_outlive_restarts_reconnects_and_new_identities(
    server: WebServer, connect: Connect, tmp_path: Path
) -> None:
    """Each write has one row, whatever happened on its way."""
    eve = {"token": server.access.mint("eve"), "path": tmp_path / "eve"}
    db = connect(**eve)
    db.set("a", "k/v", "applied")
    level(db)
    db.go_offline()
    demote(server, "reader")
    db.set("b", "k/v", "rejected")
    db.close()
    shutil.copy(tmp_path / "eve", tmp_path / "copy")
    db = connect(**eve)  # restarted, with something unsent
    db.flush(10)
    demote(server, "writer")
    db.go_offline()
    db.go_online()  # pushed again: nothing is decided twice
    db.set("c", "k/v", "applied")
    level(db)
    copy = connect(**{**eve, "path": tmp_path / "copy"})
    copy.flush(10)
    copy.set("d", "k/v", "applied")
    copy.flush(10)
    for store, expected in (
        (db, [("applied", ""), ("rejected", "permission"), ("applied", "")]),
        (copy, [("applied", ""), ("applied", ""), ("applied", "")]),  # asked again, by a writer
    ):
        receipts = store.receipts()
        assert list(zip(receipts["outcome"], receipts["reason"], strict=True)) == expected
        assert receipts["value"][1] == "rejected"


# -- shown -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    quiet = Config()
    quiet.HistoryManager.enabled = False
    quiet.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=quiet)
    InteractiveShell.clear_instance()


def said_by_cells(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> str:
    """What the first cell that has something to say says: none waits for a store that is in use at this moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        shell.run_cell("pass").raise_error()
        said = capsys.readouterr().out
        if said:
            return said
    return ""


def test_a_cell_says_what_was_rejected_once(
    shell: InteractiveShell, server: WebServer, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without being asked, in one line, at the end of a cell, and only if there is something to say."""

    def cell(code: str) -> str:
        shell.run_cell(code).raise_error()
        return capsys.readouterr().out

    db = shell.user_ns["db"] = connect(token=server.access.mint("eve"))
    online(db)
    assert cell("db.set('x', 'k/v', 1)\ndb.flush()") == ""
    db.go_offline()
    demote(server, "reader")
    for number in range(3):
        db.set("x", "k/v", number)
    db.go_online()
    db.flush(10)
    assert capsys.readouterr().out == "", "no thread says anything"
    assert said_by_cells(shell, capsys).splitlines() == [
        "tripleweb: 3 writes to app rejected (permission) and taken back; db.receipts() has kept them"
    ]
    assert cell("pass") == ""
    said = cell(
        "db.set('x', 'k/v', 4)\ntry: db.flush(strict=True)\nexcept Exception as e: print(type(e).__name__)"
    )
    assert said == "RejectedError\n", "what the cell was told is not said a second time"


def test_what_no_cell_has_said_is_said_after_the_restart(
    shell: InteractiveShell,
    server: WebServer,
    connect: Connect,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    eve = {"token": server.access.mint("eve"), "path": tmp_path / "eve"}
    online(connect())
    demote(server, "reader")
    db = connect(**eve)
    db.set("x", "k/v", 1)
    db.flush(10)
    db.close()
    db = connect(**eve)
    assert "1 write to app rejected (permission)" in said_by_cells(shell, capsys)
    db.close()
    connect(**eve)
    shell.run_cell("pass")
    assert capsys.readouterr().out == ""


def test_a_cell_does_not_wait_for_somebody_elses_transaction(
    shell: InteractiveShell, server: WebServer, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for what it has to say nor for the status."""
    online(connect())
    demote(server, "reader")
    db = connect(token=server.access.mint("eve"))
    db.set("x", "k/v", 1)
    db.flush(10)
    opened, end = threading.Event(), threading.Event()

    def hold() -> None:
        with db.transaction():
            opened.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert opened.wait(10)
    try:
        shell.run_cell("pass")
        assert capsys.readouterr().out == "" and db.status.state == "online"
    finally:
        end.set()
        thread.join(10)
    assert "rejected" in said_by_cells(shell, capsys)


def test_a_cell_says_once_that_a_server_does_not_let_us_in(
    shell: InteractiveShell, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    db = connect(token="wrong")
    assert db._session.wait_for(lambda: db.status.state == "refused", 10)
    db.set("x", "k/v", 1)
    shell.run_cell("pass")
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("tripleweb: app is not synced: ") and said.endswith("(1 write pending)")
    assert "403" in said and "wrong" not in said
    shell.run_cell("pass")
    assert capsys.readouterr().out == ""


def test_a_store_that_is_closed_or_local_says_nothing(
    shell: InteractiveShell, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(token="wrong").close()
    tripleweb.open().set("x", "k/v", 1)
    shell.run_cell("pass")
    assert capsys.readouterr().out == ""


def test_in_a_real_kernel(server: WebServer, connect: Connect) -> None:
    """The line is in the output of the cell during which it happened, or of the next one."""
    online(connect())
    demote(server, "reader")
    place = f"url={server.url!r}, token={server.access.mint('eve')!r}, path=':memory:'"
    cells = [
        f"import tripleweb\ndb = tripleweb.connect('app', {place})",
        "db.set('x', 'k/v', 1)\ndb.flush(30)",
        "db.status.pending",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [cell["outputs"] for cell in notebook["cells"]]
    assert outputs[0] == [] and [output["data"]["text/plain"] for output in outputs[2]] == ["0"]
    ((shown,),) = [outputs[1]]
    assert shown["data"]["text/plain"].startswith("tripleweb: 1 write to app rejected (permission)")


def test_the_foot_of_a_table_says_what_waits(connect: Connect) -> None:
    """A table on the screen says that its store is away, and how much waits here."""
    db = connect()
    live = db.live("[:find ?v :where [_ :k/v ?v]]")
    online(db)
    assert repr(live).endswith("· online]")
    touched: list[bool] = []
    shown: Any = SimpleNamespace(touch=lambda: touched.append(True), cell=None)
    with db._session.lock:
        live._displays.append(shown)
        live._anchor()
    db.go_offline()
    assert touched and repr(live).endswith("· offline]")
    for count, words in ((1, "1 write pending"), (2, "2 writes pending")):
        touched.clear()
        db.set("x", "other/field", count)
        assert touched and repr(live).endswith(f"· offline · {words}]")
    db.go_online()
    level(db)
    assert repr(live).endswith("· online]")
    live._displays.clear()


# -- status ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead_ms", "said"),
    [
        (0, ""),
        (20_000, ""),
        (-20_000, ""),
        (3_600_000, "1 hour ahead of the server's"),
        (-7_300_000, "2 hours behind the server's"),
        (40_000, "40 seconds ahead"),
        (800 * 86_400_000, "2 years ahead"),
    ],
)
def test_a_clock_that_is_wrong_is_said(server: WebServer, ahead_ms: int, said: str) -> None:
    """A warning above 30 s of offset is visible in the status."""
    session = Session(MemoryReplica(), app="app", url=server.url, now=lambda: now_ms() + ahead_ms)
    session.connect(server.token)
    db = Database(session)
    online(db)
    assert (said in db.status.warning) if said else not db.status.warning
    assert db.status.state == "online" and not db.status.reason
    assert bool(said) == ("the clock here is" in repr(db.status)) == ("the clock here is" in db._repr_html_())
    db.close()


def test_the_status_in_every_state(server: WebServer, connect: Connect, tmp_path: Path) -> None:
    """`.state .pending .server .app .user .reason`, repr and HTML, in each state that there is."""

    def seen(db: Database) -> tuple[str, int, str, bool]:
        status = db.status
        for shown in (repr(status), status._repr_html_()):
            assert status.state in shown and status.reason.replace("'", "&#x27;") in shown.replace(
                "'", "&#x27;"
            )
        return status.state, status.pending, status.user, bool(status.reason)

    assert seen(tripleweb.open()) == ("local", 0, "", False)
    db = connect(path=tmp_path / "r")
    online(db)
    assert seen(db) == ("online", 0, "ada", False)
    db.go_offline()
    db.set("x", "k/v", 1)
    assert seen(db) == ("offline", 1, "ada", True)
    db.close()
    assert seen(db) == ("offline", 1, "ada", True) and db.status.reason == "closed"
    refused = connect(token="wrong")
    assert refused._session.wait_for(lambda: refused.status.state == "refused", 10)
    assert seen(refused) == ("refused", 0, "", True)
    url = server.url
    server.stop()
    down = tripleweb.connect("app", url=url, token="x", path=tmp_path / "r")
    assert down._session.wait_for(lambda: down.status.state == "offline", 10)
    assert seen(down) == ("offline", 1, "ada", True) and "1 write pending" in repr(down)
    down.close()
