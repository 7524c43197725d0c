"""The HTTP endpoints of a server without Jupyter, as a plain HTTP client meets them."""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.http_client import API, User, push, triple, wait_until
from tripleweb.access import BARRED
from tripleweb.endpoints import BULK_BYTES_MAX, DRAINED_BYTES_MAX, JSON_BYTES_MAX
from tripleweb.errors import ProtocolError
from tripleweb.metrics import render
from tripleweb.storage import App
from tripleweb.storage.memory import MemoryStores, MemoryTenant
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync.bulk import BulkReader
from tripleweb.sync.messages import Confirm, Hello, Push
from tripleweb.sync.records import Commit
from tripleweb.web import WebServer

AGES = "[:find ?u ?age :where [?u :user/age ?age]]"
# every value of a product: without end for all purposes
RUNAWAY = "[:find ?a ?b ?c ?d :where [?a :n/v ?w] [?b :n/v ?x] [?c :n/v ?y] [?d :n/v ?z]]"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


@pytest.fixture
def ada(server: WebServer) -> User:
    return User(server)


@pytest.fixture
def shared() -> Iterator[WebServer]:
    stores = MemoryStores()
    stores.put(App("notes", "Notes", 0, {"bob": "writer", "cy": "admin", "dan": "reader"}))
    with WebServer(stores, owner="ada", personal=False) as running:
        yield running


def numbers(count: int) -> list[Any]:
    return [[f"e{i}", "n/v", "", "n", i] for i in range(count)]


# ---------------------------------------- the browser's client


def test_the_modules_of_the_browsers_client(server: WebServer, ada: User) -> None:
    answer = ada.get("static/live.js")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert b"export function mountAll" in answer.body
    for imported in re.findall(rb'from "./([a-z]+.js)"', answer.body):
        assert ada.get(f"static/{imported.decode()}").status == 200
    for name in ("none.js", "..%2F__init__.py", "%2e%2e%2f__init__.py", ""):
        assert ada.get(f"static/{name}").status == 404
    assert User(server, token="wrong").get("static/live.js").status == 200, "the files of a published package"


# ---------------------------------------- apps


def test_apps_are_made_listed_renamed_and_deleted(server: WebServer, ada: User) -> None:
    assert ada.get("apps").json == []
    made = ada.post("apps", {"name": "  Sales 2026 "})
    assert made.status == 201
    app = made.json["id"]
    assert made.json == {"id": app, "name": "Sales 2026", "role": "admin"}
    assert len(app) == 21
    assert ada.get("apps").json == [made.json]
    assert ada.get(f"apps/{app}").json == {**made.json, "members": {}}
    patched = ada.call("PATCH", f"apps/{app}", {"name": "Sales", "members": {"bob": "reader", "eve": None}})
    assert patched.json == {
        **made.json,
        "name": "Sales",
        "members": {"bob": "reader", "eve": None},
    }
    assert ada.get(f"apps/{app}").json == patched.json
    assert server.hub.stores.apps()[app].members == {"bob": "reader", "eve": BARRED}
    assert ada.push(app, *numbers(3)).status == 200
    deleted = ada.call("DELETE", f"apps/{app}")
    assert (deleted.status, deleted.body) == (204, b"")
    assert ada.get(f"apps/{app}").error == (404, "unknown")
    assert (server.hub.stores.apps(), server.hub.stores.tenants(), ada.get("apps").json) == ({}, [], [])
    assert ada.call("DELETE", f"apps/{app}").error == (404, "unknown")


def test_a_deleted_app_begins_anew(ada: User) -> None:
    assert ada.push("app", *numbers(3)).status == 200
    assert ada.call("DELETE", "apps/app").status == 204
    assert ada.push("app", ["x", "n/v", "", "n", 7]).status == 200
    assert ada.rows("app", "[:find ?u ?v :where [?u :n/v ?v]]") == [["x", 7]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {},
        {"name": None},
        {"name": 7},
        {"name": ""},
        {"name": " "},
        {"name": "a\nb"},
        {"name": "x" * 201},
        {"name": "a", "id": "mine"},
    ],
)
def test_an_app_has_a_name(server: WebServer, ada: User, body: Any) -> None:
    assert ada.post("apps", body).error == (400, "malformed")
    assert server.hub.apps == {}


@pytest.mark.parametrize(
    "patch",
    [
        {"member": {"bob": "reader"}},
        {"members": {"bob": "emperor"}},
        {"members": {"bob": ""}},
        {"members": {"": "reader"}},
        {"members": {"b\x00b": "reader"}},
        {"members": ["bob"]},
        {"members": {"ada": "reader"}},
        {"members": {"ada": None}},
        {"name": "\t"},
    ],
)
def test_a_patch_that_means_nothing_changes_nothing(server: WebServer, ada: User, patch: Any) -> None:
    app = ada.post("apps", {"name": "App"}).json["id"]
    assert ada.call("PATCH", f"apps/{app}", patch).error == (400, "malformed")
    assert ada.get(f"apps/{app}").json["members"] == {}
    assert server.hub.stores.apps()[app].name == "App"


@pytest.mark.parametrize("app", [".hidden", "a%2Fb", "%FF", "x" * 65, "%00", "nobody-made-this"])
@pytest.mark.parametrize(
    ("method", "tail"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/query"), ("GET", "/snapshot")],
)
def test_reading_creates_nothing(server: WebServer, ada: User, app: str, method: str, tail: str) -> None:
    """ "unknown app 404; invalid App ID 404" """
    body = {"query": AGES} if method == "POST" else {} if method == "PATCH" else None
    assert ada.call(method, f"apps/{app}{tail}", body).error == (404, "unknown")
    assert (server.hub.apps, server.hub.stores.tenants()) == ({}, [])


def test_on_a_personal_server_the_first_push_creates_an_app(server: WebServer) -> None:
    bob = User(server, "bob")
    assert bob.push("new", *numbers(1)).status == 200
    assert bob.get("apps").json == [{"id": "new", "name": "new", "role": "writer"}]
    assert User(server).get("apps").json == [{"id": "new", "name": "new", "role": "admin"}]
    assert bob.push(".bad", *numbers(1)).error == (404, "unknown")


def test_who_makes_an_app_is_its_admin(server: WebServer) -> None:
    """On a personal server, everybody who is let in may."""
    bob, eve = User(server, "bob"), User(server, "eve")
    made = bob.post("apps", {"name": "Bob's"}).json
    assert made["role"] == "admin"
    assert eve.get(f"apps/{made['id']}").json["role"] == "writer"
    assert bob.call("PATCH", f"apps/{made['id']}", {"members": {"eve": "reader"}}).status == 200
    assert eve.get(f"apps/{made['id']}").json["role"] == "reader"
    assert eve.call("PATCH", f"apps/{made['id']}", {"members": {"eve": "admin"}}).error == (403, "forbidden")
    assert eve.call("DELETE", f"apps/{made['id']}").error == (403, "forbidden")


def test_apps_are_only_made_by_administrators_where_it_is_so_configured() -> None:
    with WebServer(MemoryStores(), owner="ada", auto_create_apps=False) as server:
        ada, bob = User(server), User(server, "bob")
        assert bob.post("apps", {"name": "Bob's"}).error == (403, "forbidden")
        assert bob.push("new", *numbers(1)).error == (404, "unknown")
        assert ada.push("new", *numbers(1)).status == 200
        assert bob.push("new", ["b", "n/v", "", "n", 1], replica="bbbbbbbbbbbb").status == 200


# ---------------------------------------- a shared server


def test_on_a_shared_server_only_members_come_in(shared: WebServer) -> None:
    ada, bob, cy, dan, eve = (User(shared, name) for name in ("ada", "bob", "cy", "dan", "eve"))
    roles = {u.name: [a["role"] for a in u.get("apps").json] for u in (ada, bob, cy, dan, eve)}
    assert roles == {"ada": ["admin"], "bob": ["writer"], "cy": ["admin"], "dan": ["reader"], "eve": []}
    for method, tail in [("GET", ""), ("DELETE", ""), ("GET", "/snapshot"), ("GET", "/sync")]:
        assert eve.call(method, f"apps/notes{tail}").error == (403, "forbidden")
    assert eve.query("notes", AGES).error == (403, "forbidden")
    assert eve.push("notes", *numbers(1)).error == (403, "forbidden")
    assert bob.push("notes", *numbers(1), replica="bbbbbbbbbbbb").status == 200
    assert dan.rows("notes", "[:find ?v :where [_ :n/v ?v]]") == [[0]]
    assert dan.push("notes", *numbers(1), replica="dddddddddddd").error == (403, "forbidden")
    assert bob.call("PATCH", "apps/notes", {"name": "Mine"}).error == (403, "forbidden")
    assert cy.call("PATCH", "apps/notes", {"members": {"bob": None}}).json["members"] == {
        "cy": "admin",
        "dan": "reader",
    }
    assert bob.query("notes", AGES).error == (403, "forbidden")


def test_on_a_shared_server_only_an_administrator_creates(shared: WebServer) -> None:
    ada, cy = User(shared), User(shared, "cy")
    assert cy.post("apps", {"name": "Mine"}).error == (403, "forbidden")
    assert cy.push("mine", *numbers(1)).error == (404, "unknown")
    made = ada.post("apps", {"name": "Ours"}).json
    assert made["role"] == "admin"
    assert ada.push("first-use", *numbers(1)).status == 200
    assert cy.get("apps/first-use").error == (403, "forbidden")


def test_who_creates_by_first_use_on_a_shared_server_is_admin_there() -> None:
    with WebServer(MemoryStores(), owner="ada", personal=False, auto_create_apps=True) as server:
        bob, eve = User(server, "bob"), User(server, "eve")
        assert bob.push("bobs", *numbers(1)).status == 200
        assert bob.get("apps").json == [{"id": "bobs", "name": "bobs", "role": "admin"}]
        assert eve.get("apps").json == []


# ---------------------------------------- who gets in


ENDPOINTS = [
    ("GET", "info"),
    ("GET", "apps"),
    ("POST", "apps"),
    ("GET", "apps/app"),
    ("PATCH", "apps/app"),
    ("DELETE", "apps/app"),
    ("GET", "apps/app/sync"),
    ("POST", "apps/app/changes"),
    ("POST", "apps/app/query"),
    ("GET", "apps/app/snapshot"),
    ("GET", "metrics"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_strangers_get_nothing(server: WebServer, ada: User, method: str, path: str) -> None:
    ada.push("app", *numbers(1))
    stranger = User(server, token="x" * 43)
    body = push(2, ["x", "n/v", "", "n", 1]) if method in ("POST", "PATCH") else None
    assert stranger.call(method, path, body).error == (403, "forbidden")
    assert ada.rows("app", "[:find ?u :where [?u :n/v _]]") == [["e0"]]


def test_methods_that_are_none_are_refused_in_json(ada: User) -> None:
    assert ada.call("PUT", "apps").error == (405, "malformed")
    assert ada.call("GET", "apps/app/query").error == (405, "malformed")
    assert ada.call("GET", "apps/app/changes").error == (405, "malformed")


# ---------------------------------------- changes


def test_a_push_is_answered_with_receipts_when_it_is_durable(tmp_path: Path) -> None:
    with WebServer(SqliteStores(tmp_path), owner="ada") as server:
        ada = User(server)
        body = push(1, ["ada", "user/age", "", "n", 36]) + push(2, ["p", "n/likes", "c:", "n", 2])
        answer = ada.post("apps/app/changes", body)
        epoch = answer.json["position"].partition(":")[0]
        assert answer.json["position"] == f"{epoch}:2"
        receipts = answer.json["receipts"]
        assert [(r["number"], r["outcome"], r["seq"]) for r in receipts] == [
            (1, "applied", 1),
            (2, "applied", 2),
        ]
        assert ada.rows("app", AGES) == [["ada", 36]]
        assert server.hub.counts.accepted == 2
    with WebServer(SqliteStores(tmp_path), owner="ada", token=server.token) as again:
        assert User(again).rows("app", "[:find ?u ?n :where [?u :n/likes ?n]]") == [["p", 2]]


def test_nothing_is_answered_before_the_commit() -> None:
    stores = _Slow()
    with WebServer(stores, owner="ada") as server, ThreadPoolExecutor(2) as threads:
        ada = User(server)
        pushing = threads.submit(ada.push, "app", *numbers(1))
        wait_until(lambda: stores.waiting)
        asking = threads.submit(ada.rows, "app", "[:find ?v :where [_ :n/v ?v]]")
        wait_until(lambda: server.hub.counts.units or server.site.inquiry._asking)
        assert not pushing.done()
        assert not asking.done(), "what is not durable was shown"
        stores.held = False
        assert pushing.result(20).status == 200
        assert asking.result(20) == [[0]]


class _Slow(MemoryStores):
    """Commits wait until `held` is false."""

    def __init__(self) -> None:
        super().__init__()
        self.held = True
        self.waiting = False

    def open(self, app: str) -> MemoryTenant:
        tenant = super().open(app)
        commit = tenant.commit

        def slow(what: Commit) -> None:
            self.waiting = True
            wait_until(lambda: not self.held)
            commit(what)

        tenant.commit = slow  # type: ignore[method-assign]
        return tenant


def test_the_same_push_counts_once(ada: User) -> None:
    body = push(1, ["p", "n/likes", "c:", "n", 1]) + push(2, ["p", "n/likes", "c:", "n", 10])
    first, second = ada.post("apps/app/changes", body), ada.post("apps/app/changes", body)
    assert first.json["receipts"] == second.json["receipts"]
    assert ada.rows("app", "[:find ?n :where [_ :n/likes ?n]]") == [[11]]
    longer = body + push(3, ["p", "n/likes", "c:", "n", 100])
    assert len(ada.post("apps/app/changes", longer).json["receipts"]) == 3
    assert ada.rows("app", "[:find ?n :where [_ :n/likes ?n]]") == [[111]]


def test_a_number_that_is_taken_is_a_copy(ada: User) -> None:
    assert ada.push("app", *numbers(1)).status == 200
    other = json.dumps(
        {
            "t": "push",
            "replica": "aaaaaaaaaaaa",
            "transactions": [{"number": 1, "id": "another", "changes": numbers(2)}],
        }
    ).encode()
    assert ada.post("apps/app/changes", other).error == (409, "replaced")


def test_a_replica_belongs_to_its_user(server: WebServer, ada: User) -> None:
    assert ada.push("app", *numbers(1)).status == 200
    assert User(server, "bob").push("app", *numbers(1), number=2).error == (409, "replaced")


def test_a_confirmed_receipt_is_forgotten(server: WebServer, ada: User) -> None:
    assert ada.push("app", *numbers(1)).status == 200
    hello = {"t": "hello", "replica": "aaaaaaaaaaaa", "next": 3, "confirmed": 1}
    body = json.dumps(hello).encode() + b"\n" + push(2, ["x", "n/v", "", "n", 1])
    answer = ada.post("apps/app/changes", body)
    assert [r["number"] for r in answer.json["receipts"]] == [2]
    body = json.dumps({**hello, "confirmed": 2}).encode()
    assert ada.post("apps/app/changes", body).json["receipts"] == []
    wait_until(lambda: server.hub.stores._data["app"].receipts == {})  # type: ignore[attr-defined]


def test_what_loses_is_said_to_lose(ada: User) -> None:
    assert ada.push("app", ["ada", "user/age", "", "n", 36]).status == 200
    old = push(
        1, ["ada", "user/age", "", "n", 35], replica="oooooooooooo", stamp="0000000100000000-oooooooooooo"
    )
    receipt = ada.post("apps/app/changes", old).json["receipts"][0]
    assert receipt["outcome"] == "applied"
    assert receipt["lost"] == [[0, "newer", "ada"]]
    assert receipt["current"][0][:5] == ["ada", "user/age", "", "n", 36]


def test_a_transaction_that_is_invalid_is_rejected_and_the_rest_goes_on(server: WebServer, ada: User) -> None:
    body = push(1, ["x", "_hidden", "", "n", 1]) + push(2, ["x", "n/v", "", "n", 1])
    receipts = ada.post("apps/app/changes", body).json["receipts"]
    assert [(r["outcome"], r.get("reason")) for r in receipts] == [("rejected", "invalid"), ("applied", None)]
    assert (server.hub.counts.accepted, server.hub.counts.rejected) == (1, 1)


def test_triples_of_the_first_format(ada: User) -> None:
    body = b"".join(
        [
            b'{"t":"hello","replica":"tttttttttttt"}\n',
            triple(1, "ada", "user/name", "Ada"),
            triple(1, "ada", "user/age", 36, "number"),
            triple(2, "bob", "user/name", "Bob"),
            triple(2, "bob", "user/boss", "ada", "ref"),
            b"\n",
            triple(3, "eve", "user/name", "Eve"),
            triple(4, "eve", "_deleted", True, "boolean").rstrip(b"\n"),
        ]
    )
    for _ in range(2):  # sending it again changes nothing
        receipts = ada.post("apps/app/changes", body).json["receipts"]
        assert [(r["number"], r["outcome"]) for r in receipts] == [(n, "applied") for n in (1, 2, 3, 4)]
        assert receipts[0]["id"] == "018bcfe568000001-tttttttttttt"
    assert ada.rows("app", "[:find ?u ?p ?v :where [?u ?p ?v]]") == [
        ["ada", "user/age", 36],
        ["ada", "user/name", "Ada"],
        ["bob", "user/boss", "ada"],
        ["bob", "user/name", "Bob"],
    ]


def test_a_transaction_may_come_in_pieces_and_many_triples_in_one_transaction(ada: User) -> None:
    pieces = [push(1, *numbers(700)[i::7], more=i < 6) for i in range(7)]
    receipts = ada.post("apps/app/changes", b"".join(pieces)).json["receipts"]
    assert [(r["number"], r["outcome"], r["seq"]) for r in receipts] == [(1, "applied", 1)]
    triples = [triple(1, f"t{i}", "n/v", i, "number") for i in range(5_000)]
    body = b'{"t":"hello","replica":"tttttttttttt"}\n' + b"".join(triples)
    receipts = ada.post("apps/app/changes", body).json["receipts"]
    assert [(r["number"], r["outcome"], r["seq"]) for r in receipts] == [(1, "applied", 2)]
    assert ada.rows("app", "[:find (count ?u) :where [?u :n/v _]]") == [[5_700]]


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b"", "malformed", "the body is empty"),
        (b"\n\n", "malformed", "the body is empty"),
        (b"{", "malformed", "line 1: not a line"),
        (b"[]", "malformed", "line 1"),
        (b"\xff\xfe", "malformed", "line 1"),
        (b"[" * 200_000, "malformed", "line 1"),
        (b'{"t":"push","transactions":[]}', "malformed", '"replica"'),
        (b'{"t":"hello","replica":"short"}', "malformed", "not a replica id"),
        (b'{"t":"hello","replica":"aaaaaaaaaaaa","protocol":[7,9]}', "protocol", "protocol 2"),
        (b'{"t":"hello","replica":"aaaaaaaaaaaa","next":1,"confirmed":1}', "malformed", "not below"),
        (push(2, *numbers(1)), "order", "came where 1 was due"),
        (push(1, *numbers(1), stamp="x"), "malformed", "not a stamp"),
        (push(1, *numbers(1), more=True), "malformed", "not finished"),
        (push(1, *numbers(1)) + push(1, *numbers(1)).replace(b"-1", b"-x"), "malformed", "two transactions"),
        (push(1, *numbers(1)) + b'{"t":"subscribe"}', "malformed", "line 2"),
        (b'{"t":"hello","replica":"aaaaaaaaaaaa"}\n' + triple(1, "a", "n/v", "x"), "malformed", "of replica"),
        (
            b'{"t":"hello","replica":"tttttttttttt"}\n' + triple(1, "a", "n/v", "x", "odd"),
            "malformed",
            "type",
        ),
        (b'{"t":"hello","replica":"tttttttttttt"}\n{"subject":"a"}', "malformed", "missing"),
        (triple(1, "a", "n/v", "x"), "malformed", '"replica"'),
    ],
)
def test_a_body_that_breaks_the_protocol_costs_its_request_only(
    server: WebServer, ada: User, body: bytes, error: str, said: str
) -> None:
    answer = ada.post("apps/app/changes", body)
    assert answer.error == (400, error)
    assert said in answer.json["message"]
    wait_until(lambda: not server.hub.connections.get("app"))
    assert ada.push("app", *numbers(1)).status in (200, 409)


def test_noise_is_refused_and_harms_nothing(ada: User) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    good = push(1, ["good", "n/v", "", "n", 1]) * 3
    for _ in range(30):
        body = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        answer = ada.post("apps/noise/changes", bytes(body))
        assert answer.status in (200, 400, 409, 413), (seed, answer.status, answer.body)
        json.loads(answer.body)
    assert ada.push("app", *numbers(1)).status == 200


def test_a_body_beyond_its_bound_is_413_in_json(server: WebServer, ada: User) -> None:
    line = push(1, *numbers(1))
    huge = line + b" " * (BULK_BYTES_MAX + 1 - len(line))
    assert ada.post("apps/app/changes", huge).error == (413, "size")
    assert ada.post("apps", b" " * (JSON_BYTES_MAX + 1)).error == (413, "size")
    pieces = (b" " * (1 << 20) + b"\n" for _ in range(66))  # chunked: its length is not known before
    assert ada.post("apps/app/changes", (line, *pieces)).error == (413, "size")
    assert ada.rows("app", "[:find ?v :where [_ :n/v ?v]]") in ([], [[0]])


def test_a_long_line_is_413(ada: User) -> None:
    assert ada.post("apps/app/changes", push(1, ["x", "n/v", "", "s", "x" * (17 << 20)])).error == (
        413,
        "size",
    )


@pytest.mark.parametrize("expect", [True, False])
def test_a_huge_body_is_refused_before_it_is_sent(ada: User, expect: bool) -> None:
    length = (BULK_BYTES_MAX if expect else DRAINED_BYTES_MAX) + 1
    said = "Expect: 100-continue\r\n" if expect else ""
    head = (
        f"POST {API}apps/app/changes HTTP/1.1\r\nHost: x\r\nAuthorization: tripleweb {ada.token}\r\n"
        f"Content-Length: {length}\r\n{said}\r\n"
    )
    with socket.create_connection((ada.url.hostname, ada.url.port or 0), timeout=20) as plug:
        plug.sendall(head.encode())
        answer = b"".join(iter(lambda: plug.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "size"


def test_a_push_that_breaks_off_leaves_nothing_behind(server: WebServer, ada: User) -> None:
    head = (
        f"POST {API}apps/app/changes HTTP/1.1\r\nHost: x\r\nAuthorization: tripleweb {ada.token}\r\n"
        f"Content-Length: 100000\r\n\r\n"
    )
    with socket.create_connection((ada.url.hostname, ada.url.port or 0), timeout=20) as plug:
        plug.sendall(head.encode() + push(1, *numbers(1)) + push(2, *numbers(1), more=True) + b'{"t":"pu')
        wait_until(lambda: server.hub.connections.get("app"))
    wait_until(lambda: not server.hub.connections.get("app"))
    receipts = ada.post("apps/app/changes", push(1, *numbers(1)) + push(2, ["b", "n/v", "", "n", 1]))
    assert [r["outcome"] for r in receipts.json["receipts"]] == ["applied", "applied"]


def test_the_reader_of_bodies_does_not_care_how_they_are_cut() -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    body = b"".join(
        [
            b'{"t":"hello","replica":"tttttttttttt","confirmed":3}\n',
            triple(1, "ä", "n/v", "☃"),
            triple(1, "b", "n/v", "x"),
            b'{"t":"confirm","number":4}\n',
            push(7, *numbers(2), replica="tttttttttttt"),
            triple(9, "c", "n/v", "x"),
        ]
    )
    whole = BulkReader(5)
    expected = whole.feed(body) + whole.finish()
    assert [type(frame) for frame in expected] == [Hello, Push, Confirm, Push, Push]
    assert whole.pushed == {
        4: "018bcfe568000001-tttttttttttt",
        7: "tttttttttttt-7",
        8: "018bcfe568000009-tttttttttttt",
    }
    for _ in range(50):
        reader = BulkReader(5)
        frames, rest = [], body
        while rest:
            cut = chance.randint(1, 60)
            frames += reader.feed(rest[:cut])
            rest = rest[cut:]
        assert frames + reader.finish() == expected, seed
        assert reader.pushed == whole.pushed


def test_a_body_has_at_most_so_many_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tripleweb.sync.bulk.TRANSACTIONS_MAX", 10)
    reader = BulkReader(5)
    reader.feed(b"".join(push(n) for n in range(1, 11)))
    with pytest.raises(ProtocolError, match="line 11: a bulk push has at most 10") as raised:
        reader.feed(push(11))
    assert raised.value.code == "size"


# ---------------------------------------- query


def test_a_query_gives_columns_rows_and_a_position(ada: User) -> None:
    ada.push(
        "app",
        ["ada", "user/age", "", "n", 36],
        ["ada", "user/joined", "", "d", "2013-01-01T10:00:00.000000Z"],
        ["ada", "user/boss", "", "r", "bob"],
        ["ada", "user/active", "", "b", True],
        ["ada", "user/name", "", "s", "Ada ☃"],
        ["ada", "user/big", "", "i", "1152921504606846977"],
        ["ada", "user/half", "", "n", 0.5],
    )
    answer = ada.query("app", '[:find ?p ?v :where ["ada" ?p ?v] :order-by [?p]]')
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json == {
        "columns": ["p", "v"],
        "rows": [
            ["user/active", True],
            ["user/age", 36],
            ["user/big", 1152921504606846977],
            ["user/boss", "bob"],
            ["user/half", 0.5],
            ["user/joined", "2013-01-01T10:00:00.000000Z"],
            ["user/name", "Ada ☃"],
        ],
        "position": answer.json["position"],
    }
    assert answer.json["position"].endswith(":1")
    assert ada.query("app", '[:find (distinct ?p) . :where ["ada" ?p 36]]').json["rows"] == [[["user/age"]]]
    assert ada.query("app", '[:find ?v :where ["eve" :user/age ?v]]').json["rows"] == []
    pull = '[:find (pull ?u [:db/id :user/age [:user/born :default #inst "2020"] {:user/_boss [*]}]) :in [?u ...]]'
    tree = {"id": "ada", "user/age": 36, "user/born": "2020-01-01T00:00:00.000000Z"}
    assert ada.query("app", pull.replace(":db/id ", ""), ["ada"]).json["rows"] == [
        [{k: tree[k] for k in tree if k != "id"}]
    ]
    assert ada.query("app", pull, ["ada"]).json == {**answer.json, "columns": ["u"], "rows": [[tree]]}
    assert ada.query("app", "[:find (pull ?u [:nothing]) :in ?u]", "ada").json["rows"] == [[None]]


@pytest.mark.parametrize(
    ("text", "inputs", "rows"),
    [
        ("[:find ?u :in ?n :where [?u :user/age ?n]]", [36], [["ada"]]),
        ("[:find ?u :in ?n :where [?u :user/age ?n]]", ["36"], []),
        ("[:find ?u :in $ [?n ...] :where [?u :user/age ?n]]", [[36, 17]], [["ada"], ["bob"]]),
        (
            "[:find ?x :in [[?n ?x]] :where [_ :user/age ?n]]",
            [[[36, "a"], [17, True], [1, 1]]],
            [["a"], [True]],
        ),
        ("[:find ?u :in ?d :where [?u :user/joined ?d]]", [{"date": "2013-01-01T00:00:00Z"}], [["ada"]]),
        ("[:find ?u :in ?d :where [?u :user/joined ?d]]", [{"date": "2013-01-01T01:00:00+01:00"}], [["ada"]]),
        ("[:find ?u :in % :where (old ?u)]", ["[[(old ?u) [?u :user/age ?a] [(> ?a 30)]]]"], [["ada"]]),
    ],
)
def test_inputs_are_plain_json(ada: User, text: str, inputs: list[Any], rows: list[Any]) -> None:
    ada.push(
        "app",
        ["ada", "user/age", "", "n", 36],
        ["bob", "user/age", "", "n", 17],
        ["ada", "user/joined", "", "d", "2013-01-01T00:00:00.000000Z"],
    )
    found = ada.query("app", text, *inputs)
    assert found.status == 200, found.body
    assert sorted(found.json["rows"], key=repr) == sorted(rows, key=repr)


def test_rules_may_come_apart(ada: User) -> None:
    """What only the rules read is read, too."""
    ada.push("app", ["a", "n/next", "", "r", "b"], ["b", "n/next", "", "r", "c"])
    rules = "[[(reach ?a ?b) [?a :n/next ?b]] [(reach ?a ?b) [?a :n/next ?c] (reach ?c ?b)]]"
    text = '[:find ?b :where (reach "a" ?b)]'
    assert ada.rows("app", text, rules=rules) == [["b"], ["c"]]


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b"", "malformed", "JSON"),
        ({"inputs": []}, "malformed", "query"),
        ({"query": 7}, "malformed", "str"),
        ({"query": AGES, "input": []}, "malformed", "input"),
        ({"query": "[:find ?u\n :where [?u :user/age ?x] [(nonsense ?x)]]"}, "query", "line 2, column 29"),
        ({"query": "[:find"}, "query", "line 1"),
        ({"query": ""}, "query", "expected"),
        ({"query": "[:find ?x :where [_ :a ?y]]"}, "query", "?x"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": []}, "query", "takes 1 inputs, not 0"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [{"when": 1}]}, "query", "not an input"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [{"date": "x"}]}, "query", "not a date"),
        (
            {
                "query": "[:find ?u :in ?n :where [?u :a ?n]]",
                "inputs": [{"date": "2013-01-01T00:00:00.0000001Z"}],
            },
            "query",
            "more than six digits",
        ),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [None]}, "query", "no value"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [{"date": "2013-01-01"}]}, "query", "?n"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [1 << 70]}, "query", "?n"),
        ({"query": "[:find ?u :in ?n :where [?u :a ?n]]", "inputs": [[[[[]]]]]}, "query", "not an input"),
        ({"query": "[:find ?u :where [?u :a%s ?n] [(% ?n)]]"}, "query", "%"),
        ({"query": "[:find ?x :where [?x :a 1]]" + " " * (64 << 10)}, "query", "65,536"),
        ({"query": "(" * 50_000}, "query", "line 1"),
    ],
)
def test_a_malformed_query_is_400(ada: User, body: Any, error: str, said: str) -> None:
    ada.push("app", *numbers(1))
    answer = ada.post("apps/app/query", body)
    assert answer.error == (400, error)
    assert said in answer.json["message"], answer.json["message"]
    assert "%%" not in answer.json["message"]


def test_a_query_over_its_budget_is_422_and_the_server_answers_meanwhile() -> None:
    with WebServer(MemoryStores(), owner="ada", query_budget=1) as server, ThreadPoolExecutor(3) as threads:
        ada = User(server)
        ada.push("app", *numbers(300))
        asking = [threads.submit(ada.query, "app", RUNAWAY) for _ in range(3)]
        waits = []
        while not all(job.done() for job in asking):
            began = time.monotonic()
            assert ada.get("info").status == 200
            waits.append(time.monotonic() - began)
        assert {job.result().error for job in asking} == {(422, "budget")}
        assert "1,000,000 units" in asking[0].result().json["message"]
        assert len(waits) >= 5
        assert sorted(waits)[len(waits) // 2] < 0.25, "the loop was held"
        assert 2_900_000 < server.hub.counts.units <= 3_000_000


def test_a_query_ends_when_its_client_goes(server: WebServer, ada: User) -> None:
    ada.push("app", *numbers(300))
    connection = ada.open()
    body = json.dumps({"query": RUNAWAY})
    connection.request("POST", API + "apps/app/query", body, ada.headers)
    wait_until(lambda: server.hub.counts.units)
    connection.close()
    wait_until(lambda: server.hub.counts.queries.get("cancelled"))
    assert server.hub.counts.units < 5_000_000
    assert not server.site.inquiry._asking


def test_one_user_asks_so_many_queries_at_a_time(server: WebServer, ada: User) -> None:
    ada.push("app", *numbers(300))
    open_ones = []
    for _ in range(8):
        connection = ada.open()
        connection.request("POST", API + "apps/app/query", json.dumps({"query": RUNAWAY}), ada.headers)
        open_ones.append(connection)
    wait_until(lambda: server.site.inquiry._asking["ada"] == 8)
    assert ada.query("app", AGES).error == (429, "overload")
    assert User(server, "bob").rows("app", "[:find (count ?u) :where [?u :n/v _]]") == [[300]]
    for connection in open_ones:
        connection.close()
    wait_until(lambda: not server.site.inquiry._asking)
    assert ada.query("app", AGES).status == 200


def test_many_rows_are_whole(ada: User) -> None:
    ada.push("app", *numbers(4_001))
    rows = ada.rows("app", "[:find ?v :where [_ :n/v ?v]]")
    assert rows == [[i] for i in range(4_001)]


# ---------------------------------------- snapshot


def test_a_snapshot_is_a_position_parts_and_a_poke(ada: User) -> None:
    ada.push("app", *numbers(1_200), ["gone", "n/v", "", "n", 1])
    ada.push("app", ["gone", "_deleted", "", "b", True], number=2)
    answer = ada.get("apps/app/snapshot")
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, *parts, poke = answer.lines
    assert set(first) == {"epoch", "seq"}
    assert first["seq"] == 2
    assert {part["t"] for part in parts} == {"part"}
    assert len(parts) >= 3
    registers = [register for part in parts for register in part["registers"]]
    assert len(registers) == 1_201
    assert {tuple(r[:5]) for r in registers if r[0] != "gone"} == {tuple(change) for change in numbers(1_200)}
    assert [r[1] for r in registers if r[0] == "gone"] == ["_deleted"]
    assert (poke["t"], poke["epoch"], poke["seq"], poke["cursors"]) == (
        "poke",
        first["epoch"],
        2,
        {"app": None},
    )


def test_the_snapshot_of_an_empty_app(ada: User) -> None:
    app = ada.post("apps", {"name": "Empty"}).json["id"]
    lines = ada.get(f"apps/{app}/snapshot").lines
    assert (lines[0]["seq"], lines[-1]["t"], lines[-1]["seq"]) == (0, "poke", 0)
    assert not [register for line in lines for register in line.get("registers", [])]


def test_a_snapshot_waits_for_its_reader_and_is_consistent(server: WebServer, ada: User) -> None:
    """Each transaction sets both numbers of an entity; no snapshot has one without the other."""
    text = "x" * 2_000
    for number in range(1, 6):
        changes = [[f"e{number}-{i}", "n/v", "", "s", text] for i in range(2_000)]
        assert ada.push("app", *changes, number=number).status == 200
    connection = ada.open_slow()
    connection.request("GET", API + "apps/app/snapshot", headers=ada.headers)
    wait_until(lambda: server.hub.connections["app"])
    tenant = server.hub.tenants["app"]
    wait_until(lambda: any(line.paused for line in tenant.lines.values()))
    unsent = sum(line.unsent for line in tenant.lines.values())
    assert unsent < 8 << 20, "20 MB were made for a reader who does not read"
    for number in range(6, 16):
        changes = [["pair", "n/a", "", "n", number], ["pair", "n/b", "", "n", number]]
        assert ada.push("app", *changes, number=number).status == 200
    lines = [json.loads(text) for text in connection.getresponse()]
    connection.close()
    state = {tuple(r[:2]): r[4] for part in lines[1:-1] for r in part["registers"]}
    for tx in lines[-1]["transactions"]:
        state.update({tuple(change[:2]): change[4] for change in tx[3]})
    assert lines[-1]["t"] == "poke"
    assert len([key for key in state if key[1] == "n/v"]) == 10_000
    assert state[("pair", "n/a")] == state[("pair", "n/b")] == lines[-1]["seq"]
    wait_until(lambda: not server.hub.connections["app"])


def test_a_snapshot_whose_reader_goes_ends(server: WebServer, ada: User) -> None:
    ada.push("app", *[[f"e{i}", "n/v", "", "s", "x" * 5_000] for i in range(2_000)])
    connection = ada.open_slow()
    connection.request("GET", API + "apps/app/snapshot", headers=ada.headers)
    wait_until(lambda: server.hub.connections["app"])
    connection.close()
    wait_until(lambda: not server.hub.connections["app"])
    assert ada.get("info").status == 200


def test_reading_leaves_no_trace_of_replicas(server: WebServer, ada: User) -> None:
    ada.push("app", *numbers(1))
    for _ in range(5):
        assert ada.get("apps/app/snapshot").status == 200
    wait_until(lambda: not server.hub.connections["app"])
    core = server.hub.tenants["app"]._core
    wait_until(lambda: list(core.replicas) == ["aaaaaaaaaaaa"])


# ---------------------------------------- metrics and the page


@pytest.mark.parametrize("length", ["5x", "-5", "5, 6", ""])
def test_a_length_that_is_none_is_the_clients_mistake(
    server: WebServer, ada: User, caplog: pytest.LogCaptureFixture, length: str
) -> None:
    with socket.create_connection((ada.url.hostname, ada.url.port), timeout=10) as plug:
        head = f"POST {API}apps HTTP/1.1\r\nHost: a\r\nAuthorization: tripleweb {ada.token}\r\n"
        plug.sendall(f'{head}Content-Length: {length}\r\n\r\n{{"name":"x"}}'.encode())
        assert plug.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert "Traceback" not in caplog.text
    assert ada.get("apps").json == []


@pytest.mark.parametrize(
    "path", ["info", "apps", "apps/app", "apps/app/query", "apps/app/changes", "metrics"]
)
def test_what_goes_by_another_method_is_405_in_json(ada: User, path: str) -> None:
    assert ada.call("PUT", path, {}).error == (405, "malformed")


def test_metrics_are_for_administrators(server: WebServer, ada: User) -> None:
    ada.push("my-app", *numbers(3))
    ada.query("my-app", AGES)
    ada.query("my-app", "[:find")
    bob = User(server, "bob")
    assert bob.get("metrics").error == (403, "forbidden")
    answer = ada.get("metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["tripleweb_apps"] == values["tripleweb_open_apps"] == "1"
    assert int(values["tripleweb_commits_total"]) >= 1
    assert values['tripleweb_transactions_total{outcome="accepted"}'] == "1"
    assert values['tripleweb_transactions_total{outcome="rejected"}'] == "0"
    assert values['tripleweb_durable_seq{app="my-app"}'] == "1"
    assert values['tripleweb_queries_total{outcome="answered"}'] == "1"
    assert values['tripleweb_queries_total{outcome="malformed"}'] == "1"
    assert {"tripleweb_connections", "tripleweb_queue_bytes", "tripleweb_evaluation_units_total"} <= set(
        values
    )
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {key.partition("{")[0] for key in values} <= named
    assert render(server.hub.counts, 1, {}).endswith("\n")


EVIL = '<script>alert("1")</script>'


def test_the_page_escapes_everything() -> None:
    stores = MemoryStores()
    stores.put(App("evil", EVIL, 0, {EVIL + "&'": "reader", "'><img src=x onerror=alert(1)>": "odd<b>"}))
    with WebServer(stores, owner=EVIL) as server:
        owner = User(server, token=server.token)
        connection = owner.open()
        sync = f"{API}apps/evil/sync?label=%3Cscript%3Elabel%3C/script%3E"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(b"x" * 16).decode(),
        }
        connection.request("GET", sync, headers={**owner.headers, **upgrade})
        assert connection.getresponse().status == 101
        wait_until(lambda: server.hub.connections.get("evil"))
        answer = owner.get("/tripleweb")
        connection.close()
    page = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for evil in ("<script", "<img", "<b>", "onerror=alert(1)>"):
        assert evil not in page
    assert page.count("&lt;script&gt;alert") >= 3
    assert "&lt;script&gt;label&lt;/script&gt;" in page
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "prefers-color-scheme: dark" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_shows_what_one_may_see(shared: WebServer) -> None:
    page = User(shared, "cy").get("/tripleweb").body.decode()
    assert "Notes" in page
    assert "dan" in page
    assert "everybody else" not in page
    stranger = User(shared, "eve").get("/tripleweb").body.decode()
    assert "Notes" not in stranger
    assert "dan" not in stranger
    assert "No apps yet" in stranger


def test_a_browser_is_asked_for_the_token_and_only_for_the_page(server: WebServer, ada: User) -> None:
    def basic(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    asked = ada.call("GET", "/tripleweb", Authorization="")
    assert asked.error == (401, "forbidden")
    assert asked.headers["www-authenticate"].startswith("Basic realm=")
    assert ada.call("GET", "/tripleweb", **basic("me:wrong")).status == 401
    assert ada.call("GET", "/tripleweb", Authorization="Basic ?").status == 401
    assert ada.call("GET", "/tripleweb", **basic(f"anybody:{server.token}")).status == 200
    assert ada.call("GET", API + "apps", **basic(f"anybody:{server.token}")).error == (403, "forbidden")
    assert ada.call("GET", f"/tripleweb?token={server.token}", Authorization="").status == 401
