"""What somebody may do in an app, and what happens to those who are connected when that changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.http_client import User, push, wait_until
from tripleweb.database import Database
from tripleweb.errors import RejectedError
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.web import WebServer


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


def connect(server: WebServer, user: User, app: str = "app") -> Database:
    return tripleweb.connect(app, url=server.url, token=user.token, path=":memory:")


def give(server: WebServer, members: dict[str, str | None], app: str = "app") -> None:
    answer = User(server).call("PATCH", f"apps/{app}", {"members": members})
    assert answer.status == 200, answer.body


def outcomes(db: Database) -> list[tuple[Any, ...]]:
    return [
        tuple(row) for row in db.receipts()[["subject", "value", "outcome", "reason"]].itertuples(index=False)
    ]


def test_a_role_changes_on_an_open_connection(server: WebServer) -> None:
    """What a reader writes is rejected and undone at the client, its value kept in the receipt."""
    bob = User(server, "bob")
    with closing(connect(server, bob)) as db, closing(connect(server, User(server))) as owners:
        db.set("x", "n/v", 1)
        db.flush(10, strict=True)
        give(server, {"bob": "reader"})
        db.set("x", "n/v", 2)
        db.set("y", "n/v", 3)
        with pytest.raises(RejectedError):
            db.flush(10, strict=True)
        assert db.get("n", "x") == {"id": "x", "v": 1}
        assert db.get("n", "y") is None
        assert [row for row in outcomes(db) if row[2] == "rejected"] == [
            ("x", 2, "rejected", "permission"),
            ("y", 3, "rejected", "permission"),
        ]
        owners.set("x", "n/v", 5)
        wait_until(lambda: db.get("n", "x") == {"id": "x", "v": 5})  # reading goes on
        give(server, {"bob": "writer"})
        db.set("x", "n/v", 6)
        db.flush(10, strict=True)
        wait_until(lambda: owners.get("n", "x") == {"id": "x", "v": 6})
        assert db.status.state == "online"


def test_a_writer_who_is_let_go_is_cut_off_and_told(server: WebServer) -> None:
    bob = User(server, "bob")
    with closing(connect(server, bob)) as db:
        db.set("x", "n/v", 1)
        db.flush(10)
        give(server, {"bob": None})
        wait_until(lambda: db.status.state == "refused")
        assert "bob" in db.status.reason
        wait_until(lambda: not server.hub.connections["app"])  # the client is told before its line has ended
        db.set("x", "n/v", 2)  # written here, waits here
        assert db.status.pending == 1
        assert User(server).rows("app", "[:find ?v :where [_ :n/v ?v]]") == [[1]]
    for answer in (
        bob.get("apps/app"),
        bob.get("apps/app/snapshot"),
        bob.get("apps/app/sync"),
        bob.query("app", "[:find ?v :where [_ :n/v ?v]]"),
        bob.push("app", ["x", "n/v", "", "n", 9], replica="bbbbbbbbbbbb"),
        bob.call("PATCH", "apps/app", {"members": {"bob": "admin"}}),
        bob.call("DELETE", "apps/app"),
    ):
        assert answer.error == (403, "forbidden")
    assert bob.get("apps").json == []
    assert "<h2>" not in bob.get("/tripleweb").body.decode()


def test_who_is_connected_when_an_app_is_deleted_is_told_and_does_not_bring_it_back(
    server: WebServer,
) -> None:
    with closing(connect(server, User(server, "bob"))) as db:
        db.set("x", "n/v", 1)
        db.flush(10)
        assert User(server).call("DELETE", "apps/app").status == 204
        wait_until(lambda: db.status.state == "refused")
        assert "deleted" in db.status.reason
        User(server).push("app", ["new", "n/v", "", "n", 1])  # somebody begins anew
        db.go_online()
        wait_until(lambda: db.get("n", "new") is not None)
        assert db.get("n", "x") is None
        assert User(server).call("DELETE", "apps/app").status == 204
        wait_until(lambda: db.status.state == "refused")
    assert User(server).get("apps").json == []


def test_the_owner_of_a_personal_server_is_admin_of_every_app(server: WebServer) -> None:
    """ "on a personal server its owner is admin of every app; everyone else who is authenticated there may write until
    the owner says otherwise" """
    ada, bob = User(server), User(server, "bob")
    made = bob.post("apps", {"name": "Bob's"}).json["id"]
    give(server, {"bob": "reader"}, made)
    assert bob.get(f"apps/{made}").json["role"] == "reader"
    assert ada.get(f"apps/{made}").json["role"] == "admin"
    refused = bob.call("PATCH", f"apps/{made}", {"members": {"ada": "reader"}})
    assert refused.error == (403, "forbidden")


@pytest.mark.parametrize(
    ("role", "reads", "writes", "rules"),
    [("reader", 200, 403, 403), ("writer", 200, 200, 403), ("admin", 200, 200, 200), (None, 403, 403, 403)],
)
def test_the_table_of_roles(server: WebServer, role: str | None, reads: int, writes: int, rules: int) -> None:
    User(server).push("app", ["x", "n/v", "", "n", 1])
    give(server, {"bob": role})
    bob = User(server, "bob")
    assert bob.get("apps/app").status == reads
    assert bob.get("apps/app/snapshot").status == reads
    assert bob.query("app", "[:find ?v :where [_ :n/v ?v]]").status == reads
    assert bob.push("app", ["y", "n/v", "", "n", 1], replica="bbbbbbbbbbbb").status == writes
    assert bob.call("PATCH", "apps/app", {"name": "New"}).status == rules
    assert bob.call("PATCH", "apps/app", {"members": {"eve": "admin"}}).status == rules
    assert bob.call("DELETE", "apps/app").status == (204 if rules == 200 else rules)


def test_a_role_that_ends_while_a_body_arrives_ends_the_push(server: WebServer) -> None:
    ada, bob = User(server), User(server, "bob")
    ada.push("app", ["x", "n/v", "", "n", 1])

    def body() -> Iterator[bytes]:
        yield push(1, ["b1", "n/v", "", "n", 1], replica="bbbbbbbbbbbb")
        wait_until(lambda: ["b1"] in ada.rows("app", "[:find ?u :where [?u :n/v _]]"))
        give(server, {"bob": None})
        yield push(2, ["b2", "n/v", "", "n", 1], replica="bbbbbbbbbbbb")

    assert bob.post("apps/app/changes", body()).error == (403, "forbidden")
    assert ada.rows("app", "[:find ?u :where [?u :n/v _]]") == [["b1"], ["x"]]


def test_members_survive_a_restart(tmp_path: Path) -> None:
    with WebServer(SqliteStores(tmp_path), owner="ada") as first:
        User(first).push("app", ["x", "n/v", "", "n", 1])
        give(first, {"bob": "reader", "eve": None})
    with WebServer(SqliteStores(tmp_path), owner="ada", token=first.token) as second:
        assert User(second).get("apps/app").json["members"] == {"bob": "reader", "eve": None}
        assert User(second, "bob").get("apps/app").json["role"] == "reader"
        assert User(second, "eve").get("apps/app").error == (403, "forbidden")
        assert User(second, "fay").get("apps/app").json["role"] == "writer"


def test_a_role_that_ends_while_somebody_connects_is_noticed(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being admitted and being connected lies the opening of the app."""
    User(server).push("app", ["x", "n/v", "", "n", 1])
    join = server.hub.join

    async def slow(*given: Any) -> Any:
        line = await join(*given)
        server.hub.apps["app"] = server.hub.apps["app"].patched(None, {"bob": ""})
        return line

    monkeypatch.setattr(server.hub, "join", slow)
    with closing(connect(server, User(server, "bob"))) as db:
        wait_until(lambda: db.status.state == "refused")
        assert db._session.store.predicates() == [], "nothing of the app has come"
