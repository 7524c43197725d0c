"""Replicas that are not heard of for a month: the gist of their receipts stays, and all that it is needed for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.http_client import User, push, wait_until
from tests.peers import NOW_MS, Peer, Peers, triples
from tests.test_sync_cores import hello, send
from tripleweb.cli import main
from tripleweb.clock import stamp_text, unpack
from tripleweb.storage import backups
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.decisions import PIECE, PIECES_MAX, decode_gists, encode_gists, gist_of
from tripleweb.sync.messages import Check, Confirm, Fault, Poke, Push, PushedTransaction, Receipt, Welcome
from tripleweb.sync.records import Commit, ReplicaRow
from tripleweb.sync.server import Actor, Limits
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer

DAY_MS = 86_400_000
STAMP = stamp_text(7, "00000000000a")
TAKEN = Check("[:find ?s . :where [?s :k/owner]]")


def unheard(peers: Peers, *asked: Peer) -> None:
    """What they have pending reaches the server and is decided; the answers are lost with the connections."""
    for peer in asked:
        peer.up()
        peers.down()
        peer.up()
    peers.commit()
    for peer in asked:
        peer.disconnect()


def time_passes(peers: Peers, days: float) -> None:
    """Time passes at the server, which looks around and does what is to be done in the background."""
    peers.now_ms += int(days * DAY_MS)
    peers.server.tick(peers.now_ms)
    peers.settle()


def kept(peers: Peers) -> tuple[int, int]:
    """(receipts that are kept whole, those of which the gist is), on the disk; the server's memory has the same."""
    whole = sum(map(len, peers.server.decisions._receipts.values()))
    gists = [body for held in peers.server.decisions._gists.values() for body in held.values()]
    assert whole == len(peers.disk.receipts)
    assert sorted(gists) == sorted(peers.disk.gists.values())
    return whole, sum(len(decode_gists(body)) for body in gists)


def count(peer: Peer, by: int = 1) -> str:
    return peer.write(lambda tx: tx.increment("e", "k/n", by))


def test_after_thirty_days_the_gist_is_kept_and_the_last_number() -> None:
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    for _ in range(3):
        count(ada)
    unheard(peers, ada)
    time_passes(peers, 29.9)
    assert kept(peers) == (3, 0)
    time_passes(peers, 0.2)
    assert kept(peers) == (0, 3)
    assert not peers.server.decisions.has(ada.core.replica)
    assert peers.disk.replicas[ada.core.replica].last == 3
    (body,) = peers.disk.gists.values()
    assert len(body) < 50 * 3
    peers.open()
    assert kept(peers) == (0, 3)
    ada.connect()
    bob.connect()
    peers.settle()
    peers.agree()
    assert kept(peers) == (0, 0)
    assert not peers.server.decisions._gists and not peers.server.decisions._receipts


def test_what_was_asked_and_not_answered_is_not_done_again() -> None:
    """The answer was lost before it slept: it is told what became of that, under the number that it has."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    count(ada)
    unheard(peers, ada)
    replica = ada.core.replica
    time_passes(peers, 31)
    count(bob, 10)
    ada.set("e", "k/late", "written while it was away")
    ada.connect()
    peers.settle()
    assert not any(welcome.rekey for welcome in ada.of(Welcome))
    assert (ada.core.replica, ada.of(Fault)) == (replica, [])
    assert [receipt.outcome for receipt in ada.receipts] == ["applied", "applied"]
    peers.agree()
    assert triples(peers.server.store) == {("e", "k/n", 11), ("e", "k/late", "written while it was away")}


# -- what became of it -------------------------------------------------------------------------------------------------


def _applied(ada: Peer, bob: Peer) -> None:
    ada.set("e", "k/a", 1)


def _newer(ada: Peer, bob: Peer) -> None:
    ada.write(lambda tx: (tx.set("e", "k/a", 1), tx.set("e", "k/b", 1), tx.set("f", "k/a", 1)))  # type: ignore[arg-type, return-value, func-returns-value]
    bob.peers.now_ms += 5
    bob.write(lambda tx: (tx.set("e", "k/a", 2), tx.set("e", "k/b", 2)))  # type: ignore[arg-type, return-value, func-returns-value]


def _reset(ada: Peer, bob: Peer) -> None:
    ada.write(lambda tx: tx.add("e", "k/tags", "red"))
    bob.peers.now_ms += 5
    bob.write(lambda tx: tx.assign("e", "k/tags", ["blue"]))


def _deleted(ada: Peer, bob: Peer) -> None:
    ada.write(lambda tx: (tx.increment("e", "k/n", 1), tx.set("f", "k/a", 1)))  # type: ignore[arg-type, return-value, func-returns-value]
    bob.write(lambda tx: tx.delete("e"))


def _restamped(ada: Peer, bob: Peer) -> None:
    ada.ahead_ms = DAY_MS
    ada.set("e", "k/a", 1)
    count(ada)


def _not_allowed(ada: Peer, bob: Peer) -> None:
    bob.set("e", "k/a", "stood there")
    ada.set("e", "k/a", "rejected")
    count(ada)
    ada.role = "reader"


def _refused(ada: Peer, bob: Peer) -> None:
    ada.write(lambda tx: tx.set("e", "k/a", 1), TAKEN)
    ada.set("e", "k/b", 1)


def _too_large(ada: Peer, bob: Peer) -> None:
    ada.write(lambda tx: [tx.set(f"e{n}", "k/a", 1) for n in range(8)])  # type: ignore[arg-type, return-value, func-returns-value]
    ada.set("e", "k/b", 1)


@pytest.mark.parametrize(
    "write", [_applied, _newer, _reset, _deleted, _restamped, _not_allowed, _refused, _too_large]
)
def test_the_outcome_is_the_same_after_an_hour_and_after_a_year(write: Callable[[Peer, Peer], None]) -> None:
    """To the word, but for who had won, and what a refusal said."""

    def told(days: float) -> tuple[Any, Any, Any]:
        peers = Peers(Limits(transaction_changes_max=5))
        ada, bob = peers.join("ada"), peers.join("bob")
        ada.disconnect()
        write(ada, bob)
        peers.settle()
        ada.connect()
        unheard(peers, ada)
        fates = len(ada.disk.load().fates)
        time_passes(peers, days)
        assert kept(peers)[0 if days > 30 else 1] == 0
        bob.set("other", "k/a", "meanwhile")
        ada.role, ada.ahead_ms = "writer", 0
        ada.connect()
        peers.settle()
        peers.agree()
        assert ada.core.replica in peers.disk.replicas
        said = [(f.subject, f.predicate, f.value, f.outcome, f.reason) for f in ada.disk.load().fates[fates:]]
        outcomes = [(receipt.outcome, receipt.reason, receipt.number) for receipt in ada.receipts]
        return said, outcomes, ada.triples

    after_an_hour, after_a_year = told(1 / 24), told(366)
    assert after_an_hour == after_a_year
    assert after_an_hour[0]


def test_a_stamp_that_was_set_back_is_told_and_the_clock_with_it() -> None:
    """… but no clock is set by a decision of long ago: what is written next is of now."""
    for days in (0, 1, 31):
        peers = Peers()
        ada = peers.join("ada")
        ada.disconnect()
        ada.ahead_ms = 3_600_000
        ada.set("e", "k/a", 1)
        ada.connect()
        unheard(peers, ada)
        ada.ahead_ms = 0
        time_passes(peers, days)
        ada.connect()
        ada.up()
        peers.settle()
        assert abs(ada.core.offset_ms) < 1_000
        ada.set("e", "k/b", 2)
        (written,) = ada.core.outbox.values()
        assert abs(unpack(written.time)[0] - peers.now_ms) < 1_000
        peers.settle()
        peers.agree()


def test_what_is_pushed_again_by_one_who_keeps_nothing_is_answered_again() -> None:
    peers = Peers()
    peers.server.connect(9, Actor("ada"), NOW_MS)
    send(peers, 9, hello(next=1 << 53))
    stamp = stamp_text(NOW_MS << 16, "0123456789ab")
    pushes = [
        PushedTransaction(n, f"id{n}", stamp, [("e", "k/n", "c:", "n", 1)])
        for n in range(1, 4)
    ]  # fmt: skip
    send(peers, 9, Push(pushes))
    peers.settle()
    peers.server.disconnect(9, NOW_MS)
    time_passes(peers, 31)
    assert kept(peers) == (0, 3)
    peers.server.connect(9, Actor("ada"), peers.now_ms)
    send(peers, 9, hello(next=1 << 53))
    said = [frame for _, frame in peers.server.frames_to_send() if isinstance(frame, Poke)]
    assert [receipt.number for poke in said for receipt in poke.receipts] == [1, 2, 3]
    send(peers, 9, Push([pushes[1]], n=1))
    (poke,) = [frame for _, frame in peers.server.frames_to_send() if isinstance(frame, Poke)]
    assert [(receipt.number, receipt.id, receipt.outcome) for receipt in poke.receipts] == [
        (2, "id2", "applied")
    ]
    assert peers.server.store.values("e", "k/n") == [3]
    send(peers, 9, Push([msgspec.structs.replace(pushes[1], id="another")], n=2))
    assert [frame.code for _, frame in peers.server.frames_to_send() if isinstance(frame, Fault)] == [
        "replaced"
    ]


def test_a_copy_that_used_the_same_number_is_told_apart() -> None:
    """The ids are kept whole, so that the receipt says whose it is."""
    peers = Peers()
    ada = peers.join("ada")
    ada.disconnect()
    copy = ada.copied("copy")
    count(ada)
    ada.connect()
    unheard(peers, ada)
    count(copy, 10)
    count(copy, 100)
    time_passes(peers, 31)
    copy.connect()  # its numbers go beyond what the server knows: only the id says that it is another
    peers.settle()
    ada.connect()
    peers.settle()
    assert copy.core.replica != ada.core.replica
    peers.agree()
    assert peers.server.store.values("e", "k/n") == [111]


# -- who is unseen, and when it is looked ------------------------------------------------------------------------------


def test_who_is_connected_or_was_lately_is_not_long_unseen() -> None:
    peers = Peers()
    ada = peers.join("ada")
    count(ada)
    ada.up()
    peers.commit()  # the answer lies in a buffer: the connection is held up for a month
    peers.now_ms += 31 * DAY_MS
    peers.server.tick(peers.now_ms)
    while peers.server.has_work():
        peers.server.step()
    assert kept(peers) == (1, 0)
    ada.disconnect()
    time_passes(peers, 29)
    assert kept(peers) == (1, 0)
    peers.open()  # that it was seen is durable
    time_passes(peers, 0.5)
    assert kept(peers) == (1, 0)
    ada.connect()  # a hello, and the answer is lost once more
    ada.up()
    peers.commit()
    ada.disconnect()
    peers.open()
    time_passes(peers, 29)
    assert kept(peers) == (1, 0)
    time_passes(peers, 2)
    assert kept(peers) == (0, 1)
    ada.connect()
    peers.settle()
    peers.agree()
    assert peers.server.store.values("e", "k/n") == [1]


def test_days_are_a_limit_like_others() -> None:
    peers = Peers(Limits(unseen_ms=1_000))
    ada = peers.join("ada")
    count(ada)
    unheard(peers, ada)
    time_passes(peers, 0.5 / 86_400)
    assert kept(peers) == (1, 0)
    time_passes(peers, 1 / 86_400)
    assert kept(peers) == (0, 1)


def test_a_server_whose_clock_went_back_looks_again() -> None:
    peers = Peers()
    ada = peers.join("ada")
    peers.server.tick(peers.now_ms + 400 * DAY_MS)  # it was wrong when it started
    count(ada)
    unheard(peers, ada)
    time_passes(peers, 31)
    assert kept(peers) == (0, 1)


def test_it_is_done_in_slices_and_commits_of_bounded_size() -> None:
    peers = Peers()
    ada = peers.client("ada", limits=ClientLimits(in_flight_max=10_000)).connect()
    peers.settle()
    many = PIECE * (PIECES_MAX + 3) + 1
    for _ in range(many):
        count(ada)
    ada.up()
    peers.commit()
    ada.disconnect()
    server = peers.server
    server.tick(peers.now_ms + 31 * DAY_MS)
    commits = []
    while server.has_work() or server._building.gists:
        while server.has_work():
            before = len(server._building.gists)
            assert server.step()
            after = len(server._building.gists)
            assert after <= min(before + 1, PIECES_MAX)
        assert server.take_commit(urgent=True) is None
        commit = server.take_commit()
        assert commit is not None
        commits.append([len(decode_gists(body)) for _, _, body in commit.gists])
        peers.disk.commit(commit)
        server.committed(commit, peers.now_ms)
    assert [len(sizes) for sizes in commits] == [PIECES_MAX, 4]
    assert max(map(max, commits)) == PIECE
    assert kept(peers) == (0, many)
    ada.connect()
    peers.settle()
    peers.agree()
    assert server.store.values("e", "k/n") == [many]


def test_a_server_that_dies_with_a_gist_on_its_way_has_the_receipt() -> None:
    for landed in (False, True):
        peers = Peers()
        ada = peers.join("ada")
        count(ada)
        unheard(peers, ada)
        peers.now_ms += 31 * DAY_MS
        peers.server.tick(peers.now_ms)
        assert peers.server.step()
        commit = peers.server.take_commit()
        assert commit is not None and commit.gists
        if landed:
            peers.disk.commit(commit)
        peers.open()
        assert kept(peers) == ((0, 1) if landed else (1, 0))
        ada.connect()
        peers.settle()
        peers.agree()
        assert peers.server.store.values("e", "k/n") == [1]
        assert kept(peers) == (0, 0)


def test_who_comes_back_while_a_gist_is_on_its_way_is_told_once() -> None:
    peers = Peers()
    ada = peers.join("ada")
    count(ada)
    unheard(peers, ada)
    peers.now_ms += 31 * DAY_MS
    peers.server.tick(peers.now_ms)
    assert peers.server.step()
    ada.connect()
    count(ada)  # number 2 is decided in the commit that has the gist of number 1
    peers.settle()
    assert len(ada.receipts) == 2
    peers.agree()
    assert kept(peers) == (0, 0)
    assert peers.server.store.values("e", "k/n") == [2]


def test_gists_are_confirmed_one_by_one_and_asked_again_by_who_lost_the_answer_again() -> None:
    peers = Peers()
    ada = peers.client("ada").connect()
    peers.settle()
    numbers = [count(ada) for _ in range(3)]
    unheard(peers, ada)
    time_passes(peers, 31)
    send_confirm(peers, ada, 1)
    assert kept(peers) == (0, 3)  # what is confirmed lies beside what is not
    assert [r.id for r, _ in peers.server.decisions.unconfirmed(ada.core.replica, 0)] == numbers[1:]
    problems = [n for n in (2, 3) if peers.server.decisions.find(ada.core.replica, n, 0) is None]
    assert not problems
    send_confirm(peers, ada, 3)
    assert kept(peers) == (0, 0)


def send_confirm(peers: Peers, peer: Peer, number: int) -> None:
    """As a client of its own that has the peer's identity."""
    row = peers.server.replicas[peer.core.replica]
    peers.server.connect(99, Actor(peer.user), peers.now_ms)
    send(peers, 99, hello(peer.core.replica, next=row.last + 1, confirmed=row.confirmed))
    send(peers, 99, Confirm(number, n=1))
    peers.commit()
    peers.server.disconnect(99, peers.now_ms)
    peers.commit()


def test_a_running_server_does_it_beside_all_else(tmp_path: Path) -> None:
    """… and answers whoever asks again, also after a restart."""
    limits = HubLimits(tick_s=0.05, confirmed_s=0.1)
    body = push(1, ["e", "k/n", "c:", "n", 1]) + push(2, ["e", "k/n", "c:", "n", 1])
    again = None
    for _ in range(2):
        with WebServer(
            SqliteStores(tmp_path), owner="ada", limits=limits, core_limits=Limits(unseen_ms=0)
        ) as server:
            ada = User(server)
            answer = ada.post("apps/app/changes", body).json["receipts"]
            assert [(r["number"], r["outcome"]) for r in answer] == [(1, "applied"), (2, "applied")]
            assert ada.rows("app", "[:find ?n :where [_ :k/n ?n]]") == [[2]]
            wait_until(lambda: not server.hub.tenants["app"].storage.load(0).receipts)
            wait_until(lambda: len(server.hub.tenants["app"].storage.load(0).gists) == 1)
            again = [(r["number"], r["id"], r["stamp"]) for r in answer] if again is None else again
            assert [(r["number"], r["id"], r["stamp"]) for r in answer] == again
            other = json.loads(push(1, ["e", "k/n", "c:", "n", 1]))
            other["transactions"][0]["id"] = "another"
            assert ada.post("apps/app/changes", json.dumps(other).encode()).error == (409, "replaced")
    assert main(["check", "app", "--data", str(tmp_path)]) == 0


def test_damage_to_what_is_kept_is_found(tmp_path: Path) -> None:
    storage = SqliteTenant(tmp_path / "app", "app")
    row, gist = ReplicaRow("ada", last=3, confirmed=1), gist_of(Receipt(2, "b", "applied", STAMP), "")
    found = []
    for body, number in (
        (b"?", 3),
        (encode_gists([gist]), 3),
        (encode_gists([gist]), 2),
        (encode_gists([]), 2),
    ):
        storage.commit(Commit(1, 0, 1, gists=[("r", number, body)], replicas={"r": row}))
        found.append(" ".join(backups.problems(storage)))
        storage.commit(Commit(2, 0, 1, replicas={"r": replace(row, confirmed=3)}))
    assert "cannot be read" in found[0]
    assert ["is not of its transactions" in said for said in found] == [False, True, False, True]
    assert found[2] == ""
    storage.close()


# -- what comes late ---------------------------------------------------------------------------------------------------


def test_what_was_written_long_ago_merges_as_ever() -> None:
    """Registers and graveyard keep their stamps for ever, however short the log is."""
    peers = Peers(Limits(tail_max=1))
    ada, bob = peers.join("ada"), peers.join("bob")
    bob.set("e", "k/a", "old")
    bob.set("f", "k/a", "old")
    peers.settle()
    ada.disconnect()
    ada.set("f", "k/b", "to one who is dead by then")
    ada.set("e", "k/a", "later than old")
    ada.set("e", "k/b", "beaten")
    count(ada)
    peers.now_ms += 1_000
    bob.set("e", "k/b", "newer")
    bob.write(lambda tx: tx.delete("f"))
    peers.settle()
    time_passes(peers, 400)
    peers.disk.log = peers.disk.log[-1:]
    bob.disconnect()
    peers.open()
    bob.connect()
    ada.connect()
    peers.settle()
    assert [receipt.losses for receipt in ada.receipts] == [
        *({0: ("deleted", "bob")}, {}),
        *({0: ("newer", "bob")}, {}),
    ]
    peers.agree()
    assert peers.server.store.values("e", "k/a") == ["later than old"]
    assert peers.server.store.values("e", "k/b") == ["newer"]


def test_a_restored_server_has_the_gists_of_its_backup() -> None:
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    count(ada)
    unheard(peers, ada)
    time_passes(peers, 31)
    backup = peers.disk.copied()
    count(bob, 10)
    peers.settle()
    bob.disconnect()
    peers.disk = backup
    peers.disk.epoch = "e2"
    peers.open()
    ada.connect()
    bob.connect()
    peers.settle()
    peers.agree()
    assert peers.server.store.values("e", "k/n") == [11]


def test_a_gist_says_what_its_receipt_said() -> None:
    """All that a receipt can be, told apart where it matters."""
    stamp, other = stamp_text(7, "00000000000a"), stamp_text(7, "00000000000b")
    for receipt in (
        Receipt(1, "a", "applied", stamp, 3, 9),
        Receipt(
            2, "b", "applied", other, 3, 9, lost=[(0, "newer", "bob"), (1, "newer", "eve"), (4, "reset", "")]
        ),
        Receipt(3, "c", "rejected", stamp, 3, 9, "permission", reload=True),
        Receipt(4, "d", "rejected", stamp, 3, 9, "guard", absent=[("e", "k/a", "")], message="why"),
        Receipt(5, "e", "applied", stamp, 3, 9, runs=[(2, 5, "deleted", "bob")], stood=[("e", "p", "n", 1)]),
    ):
        again = gist_of(receipt, "00000000000a").receipt("00000000000a", 1_000)
        for name in ("number", "id", "outcome", "stamp", "seq", "reason"):
            assert getattr(again, name) == getattr(receipt, name)
        reasons = {index: reason for index, (reason, _) in receipt.losses.items()}
        assert {index: reason for index, (reason, _) in again.losses.items()} == reasons
        assert again.reload == (receipt.reload or bool(receipt.current or receipt.absent))
        assert again.unseen == bool(receipt.stood)
        assert (again.current, again.absent, again.at) == ([], [], 1_000)
