"""Status, receipts and endings as a user meets them: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

import tripleweb
from tests.stores import Connect, later, level, online
from tripleweb import Ref, fates
from tripleweb.errors import RejectedError, TriplewebError
from tripleweb.storage import replica
from tripleweb.sync import client, records
from tripleweb.web import WebServer


def test_status(server: WebServer, connect: Connect) -> None:
    """`db.status` has `.state` (`"local" "connecting" "online" "offline" "refused"`), `.pending` (writes whose fate the
    server has not decided and made durable), `.server`, `.app`, `.user`, `.reason`; its repr and HTML are what
    `%tripleweb status` shows."""
    local = tripleweb.open().status
    assert (local.state, local.pending, local.server, local.app, local.user, local.reason) == (
        "local",
        0,
        "",
        "",
        "",
        "",
    )
    db = connect(label="Ada's <laptop>")
    states = {db.status.state}
    online(db)
    states.add(db.status.state)
    assert states <= {"connecting", "online"} and db.status.state == "online"
    assert (db.status.server, db.status.app, db.status.user) == (server.url, "app", "ada")
    db.go_offline()
    db.set("x", "k/v", 1)
    db.set("x", "k/v", 2)
    assert (db.status.state, db.status.pending, db.status.reason) == ("offline", 2, "by choice")
    assert "2 writes pending" in repr(db.status) and "by choice" in db.status._repr_html_()
    assert repr(db) == repr(db.status) and db._repr_html_() == db.status._repr_html_()
    wrong = connect(token="wrong")
    assert wrong._session.wait_for(lambda: wrong.status.state == "refused", 10) and wrong.status.reason


def test_flush(connect: Connect) -> None:
    """`db.flush(timeout=30)` returns when everything written so far is decided; `TimeoutError` otherwise, at once when
    offline by choice or refused."""
    db = connect()
    for number in range(50):
        db.set(f"e{number}", "k/v", number)
    assert db.flush() is None and db.status.pending == 0
    tripleweb.open().flush(0)
    db.go_offline()
    db.flush()  # nothing is written that is not decided
    db.set("x", "k/v", 1)
    with pytest.raises(TimeoutError, match=r"1 of 1 transactions .*by choice"):
        db.flush(timeout=1_000)
    refused = connect(token="wrong")
    assert refused._session.wait_for(lambda: refused.status.state == "refused", 10)
    refused.set("x", "k/v", 1)
    with pytest.raises(TimeoutError, match="refused"):
        refused.flush(timeout=1_000)
    with pytest.raises(TriplewebError, match="transaction"), db.transaction():
        db.set("y", "k/v", 1)
        db.flush()


def test_what_became_of_writes(server: WebServer, connect: Connect) -> None:
    """`db.receipts()` is a DataFrame (`time subject predicate value outcome by reason`) of what became of writes:
    `applied`, `superseded` (it lost when it arrived: `by`, `reason` newer, reset or deleted) … Nothing is dropped
    silently."""
    one, other = connect(), connect(token=server.access.mint("bob"))
    for subject in ("new", "set", "gone", "fine"):
        one.set(subject, "k/v", "first")
    level(one, other)
    one.go_offline()
    for subject in ("new", "set", "gone", "fine"):
        one.set(subject, "k/v", f"lost {subject}") if subject != "set" else one.add(
            "k", subject, v="lost set"
        )
    later(other)
    other.set("new", "k/v", "theirs")
    other.set("set", "k/v", {"a"})
    other.delete("gone")
    level(other)
    one.go_online()
    online(one)
    level(one, other)
    receipts = one.receipts()
    assert list(receipts.columns) == ["time", "subject", "predicate", "value", "outcome", "by", "reason"]
    assert str(receipts.dtypes["time"]) == "datetime64[us, UTC]"
    last = receipts.tail(4).set_index("subject")
    fates = {
        subject: (row["value"], row["outcome"], row["by"], row["reason"]) for subject, row in last.iterrows()
    }
    assert fates == {
        "new": ("lost new", "superseded", "bob", "newer"),
        "set": ("lost set", "superseded", "bob", "reset"),
        "gone": ("lost gone", "superseded", "bob", "deleted"),
        "fine": ("lost fine", "applied", "", ""),
    }
    one.flush(strict=True)  # what lost was not rejected


def test_what_was_stamped_anew(connect: Connect) -> None:
    """`restamped`: of a clock that runs far ahead of the server's, and what stands all the same."""
    db = connect()
    online(db)
    ahead = int(time.time() * 1000) + 3_600_000
    db._session.core.clock.last = ahead << 16
    db.set("x", "k/v", 1)
    level(db)
    (receipt,) = db.receipts().to_dict("records")
    assert (receipt["subject"], receipt["value"], receipt["outcome"]) == ("x", 1, "restamped")
    assert receipt["time"].timestamp() * 1000 >= ahead, "when it was written, as it was known here"
    other = connect()
    level(other)
    other.set("x", "k/v", 2)
    level(db, other)
    assert db.get("k", "x")["v"] == 2, "an hour need not pass until somebody else may write"


def test_what_was_rejected_is_kept(server: WebServer, connect: Connect) -> None:
    """`strict=True` raises `RejectedError` on rejections. `rejected` (… permission …) with the value kept."""
    db = connect(token=server.access.mint("eve"))
    db.set("x", "k/v", "mine")
    level(db)
    db.go_offline()
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    lost = [{"a", "b"}, Ref("y"), 2**60, datetime(2020, 1, 1, tzinfo=UTC), "text"]
    for number, value in enumerate(lost):
        db.set(f"r{number}", "k/v", value)
    db.set("x", "k/v", None)
    db.go_online()
    with pytest.raises(RejectedError, match="permission"):
        db.flush(10, strict=True)
    receipts = db.receipts()
    rejected = receipts[receipts["outcome"] == "rejected"]
    assert set(rejected["reason"]) == {"permission"}
    kept = [value for value in rejected["value"] if value is not None]
    assert kept == ["a", "b", "y", 2**60, datetime(2020, 1, 1, tzinfo=UTC), "text"]
    assert db.q("[:find ?s ?v :where [?s :k/v ?v]]").to_numpy().tolist() == [["x", "mine"]], "undone here"


def test_a_large_load_pushes_no_loss_out(server: WebServer, connect: Connect, tmp_path: Path) -> None:
    """`rejected` … with the value kept. Nothing is dropped silently."""
    db = connect(token=server.access.mint("eve"), path=tmp_path / "eve")
    online(db)
    db.go_offline()
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    db.insert_frame("row", pd.DataFrame({"k": range(11_000), "v": range(11_000)}), id="k")
    db.go_online()
    db.flush(30)
    apps["app"] = apps["app"].patched(None, {"eve": "writer"})
    db.go_offline()
    db.go_online()
    for first in range(0, 24_000, 8_000):
        db.insert_frame("large", pd.DataFrame({"n": range(first, first + 8_000)}))
    db.flush(30)
    for _ in range(2):
        receipts = db.receipts()
        lost = receipts[receipts["outcome"] == "rejected"]
        assert set(lost.loc[lost["predicate"] == "row/v", "value"]) == set(range(11_000))
        assert {"rejected", "applied"} == set(receipts["outcome"])
        db.close()
        db = connect(token=server.access.mint("eve"), path=tmp_path / "eve")


def test_more_losses_than_can_be_kept_are_said(
    server: WebServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is dropped silently: neither now nor after a restart."""
    for module in (records, client, fates, replica):
        for name, value in (("LOST_MAX", 100), ("FATES_MAX", 10)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    db = connect(token=server.access.mint("eve"), path=tmp_path / "eve")
    online(db)
    db.go_offline()
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    db.insert_frame("row", pd.DataFrame({"v": range(110)}))
    db.go_online()
    db.flush(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        receipts = db.receipts()
    assert receipts["value"].tolist() == list(range(110)) and receipts.attrs["tripleweb"]["forgotten"] == 0
    db.go_offline()
    for first in (1_000, 2_000, 3_000):
        db.insert_frame("row", pd.DataFrame({"v": range(first, first + 25)}))
    db.go_online()
    db.flush(10)
    for _ in range(2):
        with pytest.warns(UserWarning, match="did not stand are not kept any more"):
            receipts = db.receipts()
        kept = receipts["value"].tolist()
        assert len(kept) + receipts.attrs["tripleweb"]["forgotten"] == 185
        assert kept[-25:] == list(range(3_000, 3_025))
        db.close()
        db = connect(token=server.access.mint("eve"), path=tmp_path / "eve")


def test_ending(tmp_path: Path, connect: Connect) -> None:
    """`db.go_offline()`, `db.go_online()`, `db.close()`, `db.disconnect(forget=True)` (wipes the replica)."""
    path = tmp_path / "replica"
    db = connect(path=path)
    online(db)
    db.go_offline()
    assert db.status.state == "offline"
    db.set("x", "k/v", 1)
    db.go_online()
    level(db)
    db.close()
    assert path.exists()
    with pytest.raises(TriplewebError, match="closed"):
        db.set("x", "k/v", 2)
    again = connect(path=path)
    assert again.q("[:find ?v . :where [_ :k/v ?v]]") == 1
    again.disconnect()
    assert path.exists()
    connect(path=path).disconnect(forget=True)
    assert not path.exists()
