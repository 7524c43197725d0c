"""Recorded conversations of every version of the protocol, replayed against the cores of today.

A transcript is JSON lines: who connected, each frame of each connection, what a client showed in the end. The server
must still mean the same by its answers to the recorded clients, and a client must still understand the recorded
server. `python -m tests.test_transcripts` records the present version; an older one is never recorded again. `v1` is of
before clients asked for less than the whole app.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Peer, Peers, triples
from tests.sim.disk import TenantDisk
from tripleweb.clock import parse_stamp
from tripleweb.sync import messages
from tripleweb.sync.client import ClientCore, ClientLimits
from tripleweb.sync.messages import PROTOCOL, Subscription
from tripleweb.sync.records import LocalState, Pending
from tripleweb.sync.server import Actor, Limits, TenantCore
from tripleweb.terms import Ref, to_wire

FOLDER = Path(__file__).resolve().parent / "transcripts"
VERSIONS = sorted(FOLDER.glob("v*.jsonl"))
NEWEST = FOLDER / f"v{PROTOCOL}-lineage.jsonl"
LIMITS = Limits(part_registers=4, frame_bytes=1_500)


def record() -> list[dict[str, Any]]:
    """A conversation in which every frame and every kind of receipt occurs."""
    peers = Peers(LIMITS)
    ada = peers.join("ada")
    ada.set("ada", "user/name", "Ada")
    ada.write(lambda tx: (tx.set("ada", "user/age", 36), tx.set("ada", "user/active", True)))  # type: ignore[func-returns-value]
    ada.set("ada", "user/joined", datetime(2013, 1, 1, tzinfo=UTC))
    ada.set("ada", "user/score", 2.5)
    ada.set("ada", "user/large", 2**60)
    ada.set("p", "post/author", Ref("ada"))
    ada.write(lambda tx: tx.assign("p", "post/tags", [Ref("t1"), Ref("t2")]))
    ada.write(lambda tx: (tx.remove("p", "post/tags", Ref("t1")), tx.increment("p", "post/likes", 3)))  # type: ignore[func-returns-value]
    ada.set("gone", "user/name", "Gone")
    ada.write(lambda tx: tx.delete("gone"))
    peers.settle()
    bob = peers.join("bob", limits=ClientLimits(frame_changes_max=2))
    page = peers.client("page").connect(
        Subscription("top", "rows", "[:find ?e ?n :where [?e :user/name ?n]]"),
        Subscription("bad", "rows", "[:find"),
    )
    peers.settle()
    peers.now_ms += 1_000
    ada.set("p", "post/title", "older")
    peers.now_ms += 1_000
    bob.write(lambda tx: [tx.set("p", f"post/{i}", i) for i in range(5)])  # type: ignore[func-returns-value]
    bob.set("p", "post/title", "newer")
    bob.up()
    peers.settle()
    ada.core.ping(ada.now_ms)
    bob.ahead_ms = 86_400_000
    bob.set("bob", "user/name", "Bob")
    bob.write(lambda tx: tx.increment("p", "post/likes", 4))
    peers.settle()
    eve = peers.join("eve", role="reader")
    eve.write(lambda tx: (tx.set("p", "post/title", "eve's"), tx.set("new", "user/name", "New")))  # type: ignore[func-returns-value]
    peers.settle()
    ada.write(lambda tx: [tx.set(f"e{i}", "post/text", "x" * 60) for i in range(30)])  # type: ignore[func-returns-value]
    peers.settle()
    page.core.unsubscribe("top")
    page.core.subscribe(Subscription("ages", "rows", "[:find ?a :where [_ :user/age ?a]]"))
    peers.settle()
    bob.disconnect()
    bob.set("bob", "user/age", 40)
    copy, late = bob.copied("copy"), bob.copied("late")
    ada.set("ada", "user/age", 37)
    peers.settle()
    bob.connect()
    bob.up()
    copy.connect()
    peers.settle()
    bob.connect()
    peers.settle()
    late.connect()
    peers.settle()
    peers.agree(ada, bob, copy, late, eve)
    kim = ask_for_less(peers, ada)
    for peer in (ada, eve, kim):
        shown = sorted([s, p, *to_wire(v)] for s, p, v in peer.triples)
        peers.note({"conn": peer.conn, "shows": shown, "all": peer is not kim})
    return peers.transcript


def ask_for_less(peers: Peers, ada: Peer) -> Peer:
    """Somebody who asks by query: a load in parts, what comes to be needed, what is forgotten, and a short absence."""
    kim = peers.client("kim")
    kim.ask("texts", "[:find ?e ?t :where [?e :post/text ?t]]")
    kim.ask("titles", "[:find ?t :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t]]", Ref("bob"))
    kim.connect(whole=False)
    peers.settle()
    ada.set("p", "post/author", Ref("bob"))
    kim.set("kim", "user/name", "Kim")
    assert kim.core.ask(messages.Describe("d1"))
    peers.settle()
    kim.core.unsubscribe("texts")
    peers.settle()
    lee = peers.client("lee")
    lee.ask("names", "[:find ?e ?n :where [?e :user/name ?n]]")
    lee.core.subscribe(Subscription("ages", predicates=["user/age"]))
    lee.connect(whole=False)
    peers.settle()
    lee.disconnect()
    ada.set("ada", "user/name", "Ada L.")
    peers.settle()
    lee.connect(whole=False)
    peers.settle()
    assert not any(poke.reset for poke in lee.of(messages.Poke)[1:])
    return kim


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def meaning(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """What a connection was told, apart from how it was cut into frames."""
    told: dict[str, Any] = {"registers": []}
    for i, frame in enumerate(frames):
        kind = frame["t"]
        if kind == "poke":
            for receipt in frame.get("receipts", []):
                told[f"receipt {receipt['id']}"] = receipt
            for transaction in frame.get("transactions", []):
                told[f"transaction {transaction['seq']}"] = transaction
        elif kind == "part":
            told["registers"].extend(json.dumps(register) for register in frame["registers"])
        else:
            told[f"{kind} {i if kind == 'rows' else frame.get('id', '')}"] = frame
    told["registers"].sort()
    return {name: value for name, value in told.items() if not name.startswith("rows")} | {
        "rows": [value for name, value in told.items() if name.startswith("rows")]
    }


def contains(now: Any, recorded: Any) -> bool:
    """Everything that was said is still said; more may be said besides."""
    if isinstance(recorded, dict):
        return isinstance(now, dict) and all(k in now and contains(now[k], v) for k, v in recorded.items())
    if isinstance(recorded, list):
        return isinstance(now, list) and len(now) == len(recorded) and all(map(contains, now, recorded))
    return bool(now == recorded)


def test_the_present_version_is_recorded() -> None:
    assert NEWEST in VERSIONS


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_a_transcript_has_every_frame_and_outcome(path: Path) -> None:
    events = load(path)
    said = {event[side]["t"] for event in events for side in ("client", "server") if side in event}
    frames = {
        s.__struct_config__.tag for u in (messages.ClientFrame, messages.ServerFrame) for s in u.__args__
    }
    assert frames == said or (path != NEWEST and said < frames)
    receipts = [r for event in events for r in event.get("server", {}).get("receipts", [])]
    assert {receipt["outcome"] for receipt in receipts} == {"applied", "rejected"}
    assert any(receipt.get("lost") for receipt in receipts)
    assert any(event.get("server", {}).get("rekey") for event in events)


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_the_server_still_means_the_same(path: Path) -> None:
    events = load(path)
    disk = TenantDisk("e1")
    core = TenantCore(disk.load(0), server_id="s1", random_bytes=bytes, limits=LIMITS)
    recorded: dict[int, list[dict[str, Any]]] = {}
    now: dict[int, list[dict[str, Any]]] = {}

    def settle(at: int) -> None:
        moved = True
        while moved:
            moved = False
            if (commit := core.take_commit()) is not None:
                disk.commit(commit)
                core.committed(commit, at)
                moved = True
            for conn, frame in core.frames_to_send():
                now.setdefault(int(conn), []).append(json.loads(messages.encode(frame)))  # type: ignore[call-overload]
                moved = True
            moved = (core.has_work() and core.step()) or moved

    for event in events:
        at = event["at"]
        if "connect" in event:
            names = {"session": event["session"], "role": event["role"]}
            core.connect(event["connect"], Actor(event["user"], **names), at)
        elif "disconnect" in event:
            core.disconnect(event["disconnect"], at)
        elif "client" in event:
            if event["client"].get("ticket"):  # it is random
                event["client"]["ticket"] = core.readers._holdings[event["client"]["replica"]].ticket
            core.receive(event["conn"], messages.decode_client(json.dumps(event["client"])), at)
            settle(at)
        elif "server" in event:
            recorded.setdefault(event["conn"], []).append(event["server"])
    assert recorded.keys() == now.keys()
    for conn, frames in recorded.items():
        said, meant = meaning(now[conn]), meaning(frames)
        for name, value in meant.items():
            if name not in ("registers", "rows"):
                assert contains(said.get(name), value), (
                    f"connection {conn}, {name}: {said.get(name)}, was {value}"
                )
    shown = [event["shows"] for event in events if "shows" in event and event.get("all", True)]
    assert all(
        sorted([s, p, *to_wire(v)] for s, p, v in triples(core.store)) == rows for rows in json_form(shown)
    )


def json_form(shown: list[Any]) -> list[Any]:
    return [[[s, p, kind, value] for s, p, kind, value in rows] for rows in shown]


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_a_client_still_understands(path: Path) -> None:
    """A replica with what the recorded client pushed still pending hears what that client heard, and shows the same."""
    events = load(path)
    replayed = 0
    for shows in (event for event in events if "shows" in event):
        mine = [event for event in events if event.get("conn") == shows["conn"]]
        hello = next(event["client"] for event in mine if event.get("client", {}).get("t") == "hello")
        pending: dict[int, Pending] = {}
        for event in mine:
            for pushed in event.get("client", {}).get("transactions", []):
                stamp = parse_stamp(pushed["stamp"])
                changes = [messages.change_from_wire(tuple(wire), *stamp) for wire in pushed["changes"]]
                known = pending.setdefault(
                    pushed["number"], Pending(pushed["number"], pushed["id"], stamp[0], [])
                )
                known.changes.extend(changes)
        meta = {"replica": hello["replica"], "next": max(pending, default=0) + 1}
        core = ClientCore(LocalState(pending=list(pending.values()), meta=meta), random_bytes=bytes)
        for subscription in hello["subscriptions"]:
            core.subscribe(messages.msgspec.convert(subscription, Subscription))
        core.connected(mine[0]["at"])
        core.frames_to_send(mine[0]["at"])
        receipts = []
        for event in mine:
            if "server" in event:
                update = core.receive(messages.decode_server(json.dumps(event["server"])), event["at"])
                receipts.extend(update.receipts)
        assert sorted([s, p, *to_wire(v)] for s, p, v in triples(core.store)) == shows["shows"]
        assert [receipt.number for receipt in receipts] == sorted(pending)
        assert core.pending == 0
        replayed += 1
    assert replayed == 2 + (path == NEWEST)


if __name__ == "__main__":
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in record()]
    NEWEST.write_text("\n".join(lines) + "\n", encoding="utf-8")
