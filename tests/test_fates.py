"""The fate of every write: said once, whole, kept, and shown where a user looks without being asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.peers import Peer, Peers
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.records import Fate
from tripleweb.sync.server import Limits


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
