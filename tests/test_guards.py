"""Guarded transactions: a query decides on them at the server, at their place in the order.

First the cores, frame by frame; then what a user holds, with real servers, files and threads.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.peers import Peer, Peers
from tests.test_restores import restore
from tripleweb.change import Change
from tripleweb.clock import stamp_text
from tripleweb.errors import TriplewebError
from tripleweb.storage.packing import decode_pending, decode_registers, encode_pending, encode_registers
from tripleweb.storage.replica import ReplicaFile
from tripleweb.sync import guards, messages
from tripleweb.sync.client import NO_GUARDS, ClientLimits
from tripleweb.sync.messages import Check, Push, PushedTransaction, Receipt
from tripleweb.sync.records import Kept, LocalCommit, Pending
from tripleweb.sync.server import Limits

FREE = "[:find ?s . :in $ ?s :where (not [?s :seat/holder])]"


def free(seat: str) -> Check:
    return Check(FREE, [["s", seat]])


def book(peer: Peer, seat: str = "12A", check: Check | None = None) -> str:
    """Takes a seat for a peer, if nobody has it."""
    return peer.write(lambda tx: tx.set(seat, "seat/holder", peer.name), check or free(seat))


def holder(peers: Peers, seat: str = "12A") -> list[Any]:
    return list(peers.server.store.values(seat, "seat/holder"))


def outcomes(peer: Peer) -> list[tuple[str, str]]:
    return [(receipt.outcome, receipt.reason) for receipt in peer.receipts]


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """The checks that are asked for from now on, as they are."""
    asked: list[Check] = []
    refusal = guards.Guards.refusal

    def counted(self: guards.Guards, check: Check) -> str:
        asked.append(check)
        return refusal(self, check)

    monkeypatch.setattr(guards.Guards, "refusal", counted)
    return asked


def test_one_of_two_gets_the_seat() -> None:
    """…is committed only if the query has an answer at the server at that moment; refused, it is undone here."""
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    book(ann), book(bob)
    assert list(bob.core.store.values("12A", "seat/holder")) == ["bob"], "seen at once"
    peers.settle()
    assert holder(peers) == ["ann"]
    peers.agree()
    assert (outcomes(ann), outcomes(bob)) == ([("applied", "")], [("rejected", "guard")])
    assert bob.receipts[0].message == "the query of its check has no answer"
    fates = bob.disk.load().fates
    assert [(f.subject, f.value, f.outcome, f.reason) for f in fates] == [
        ("12A", ("s", "bob"), "rejected", "guard")
    ]


def test_it_sees_what_was_accepted_and_is_not_durable_yet_and_not_its_own_writes() -> None:
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    taken = Check("[:find ?s . :where [?s :seat/holder]]")
    book(ann, check=taken)
    ann.up()
    peers.server.step()
    assert peers.server.seq == 0, "it would have an answer with what it writes itself"
    bob.set("1F", "seat/holder", "bob")
    bob.up()
    book(ann, check=taken)
    ann.up()
    peers.server.step()
    assert peers.server.seq == 2 and peers.server.durable_seq == 0
    peers.settle()
    peers.agree()
    assert outcomes(ann) == [("rejected", "guard"), ("applied", "")]


def test_what_is_pushed_behind_it_waits_and_what_others_push_does_not() -> None:
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    book(ann)
    ann.set("x", "k/v", 1)
    book(ann, "12B")
    ann.set("x", "k/v", 2)
    ann.up()
    assert peers.server.seq == 0
    bob.set("y", "k/v", 3)
    bob.up()
    assert peers.server.seq == 1
    assert peers.server.step() and peers.server.seq == 3, "a guarded one, and what is behind it"
    assert peers.server.step() and peers.server.seq == 5
    assert not peers.server.has_work()
    peers.settle()
    peers.agree()
    assert [receipt.number for receipt in ann.receipts] == [1, 2, 3, 4]


def test_what_was_decided_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays of decided numbers give the stored receipt."""
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    book(ann), book(bob)
    frames = [peer.core.frames_to_send(peer.now_ms) for peer in (ann, bob)]
    for peer, sent in zip((ann, bob), frames, strict=True):
        for frame in sent:
            peers.to_server(peer.conn or 0, messages.encode(frame))
        peers.server.step()
    asked = count_questions(monkeypatch)
    peers.commit()
    for _ in range(
        2
    ):  # the receipts are lost twice, and what was pushed comes again, by hand and with a hello
        for peer, sent in zip((ann, bob), frames, strict=True):
            for frame in sent:
                again = msgspec.structs.replace(frame, n=0)
                peers.to_server(peer.conn or 0, messages.encode(again))
        while peers.server.has_work():
            peers.server.step()
    for peer in (ann, bob):
        peer.disconnect()
        peer.connect()
    peers.settle()
    assert not asked and not peers.faults
    assert (outcomes(ann), outcomes(bob)) == ([("applied", "")], [("rejected", "guard")])
    assert holder(peers) == ["ann"]
    peers.agree()


@pytest.mark.parametrize("crash", ["while it waits", "before it is durable", "when it is durable"])
def test_it_is_decided_once_whatever_dies(crash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    book(ann)
    ann.set("x", "k/v", 1)
    ann.up()
    if crash != "while it waits":
        peers.server.step()
    if crash == "when it is durable":
        peers.commit()
    peers.open()
    ann.start()
    assert [one.check for one in ann.core.outbox.values()] == [free("12A"), None], "durable in its outbox"
    asked = count_questions(monkeypatch)
    bob.connect()
    ann.connect()
    peers.settle()
    assert len(asked) == (crash != "when it is durable")
    assert holder(peers) == ["ann"] and outcomes(ann) == [("applied", "")] * 2
    peers.agree()


def test_a_connection_that_ends_takes_along_what_waits() -> None:
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    book(ann)
    ann.up()
    ann.disconnect()
    assert not peers.server.has_work() and not peers.server.is_behind
    book(bob)
    peers.settle()
    ann.connect()
    peers.settle()
    assert holder(peers) == ["bob"] and outcomes(ann) == [("rejected", "guard")]
    peers.agree()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (Check("[:find ?s :where"), "cannot be asked"),
        (Check(FREE, []), "takes 1 inputs"),
        (Check(FREE, [["z", 1]]), "cannot be asked"),
        (Check(FREE, ["12A"]), "not an input"),
        (Check("[:find ?s . :where (gone ?s)]", rules="[(gone ?s"), "cannot be asked"),
        (Check("[:find ?a :where [?a :k/v ?x] [?b :k/v ?y] [?c :k/v ?z] [(< ?x ?y ?z)]]"), "units of work"),
    ],
)
def test_a_check_that_cannot_be_asked_refuses(check: Check, said: str) -> None:
    peers = Peers(Limits(query_units=2_000, slice_units=500))
    ann = peers.join("ann")
    ann.write(lambda tx: [tx.set(f"e{i}", "k/v", i) for i in range(60)])
    book(ann, check=check)
    ann.set("x", "k/v", 1)
    peers.settle()
    assert outcomes(ann) == [("applied", ""), ("rejected", "guard"), ("applied", "")]
    assert said in ann.receipts[1].message and len(ann.receipts[1].message) <= guards.MESSAGE_MAX
    assert not peers.faults
    peers.agree()


def test_a_query_that_takes_longer_than_a_slice_is_asked_beside_the_loop() -> None:
    peers = Peers(Limits(slice_units=100))
    ann, bob = peers.join("ann"), peers.join("bob")
    ann.write(lambda tx: [tx.set(f"e{i}", "k/v", i) for i in range(400)])
    peers.settle()
    seq = peers.server.seq
    book(ann, check=Check("[:find (count ?e) . :where [?e :k/v ?x] [(< ?x 300)]]"))
    ann.set("x", "k/w", 1)
    ann.up()
    assert not peers.server.is_heavy
    assert peers.server.step() and peers.server.is_heavy and not peers.server.has_work()
    bob.set("y", "k/w", 1)
    bob.up()
    assert peers.server.seq == seq + 1, "others go on"
    peers.server.evaluate()
    assert peers.server.seq == seq + 2 and not peers.server.is_heavy
    peers.server.step()
    assert peers.server.seq == seq + 3
    peers.settle()
    peers.agree()


def test_a_query_that_turns_out_to_take_longer_is_asked_beside_the_loop() -> None:
    """Few triples, and many combinations of them."""
    peers = Peers(Limits(slice_units=200))
    ann = peers.join("ann")
    ann.write(lambda tx: [tx.set(f"e{i}", "k/v", i) for i in range(60)])
    peers.settle()
    pairs = "[:find (count ?a) . :with ?b :where [?a :k/v ?x] [?b :k/v ?y] [(< ?x ?y)]]"
    for _ in range(2):
        book(ann, check=Check(pairs))
        ann.up()
        assert peers.server.step() and peers.server.is_heavy
        peers.server.evaluate()
        peers.settle()
    assert outcomes(ann) == [("applied", "")] * 3


def test_what_stood_is_overwritten_whatever_the_clocks_say() -> None:
    """It was decided with these there, so what it writes comes after them, though its clock is behind."""
    peers = Peers()
    ann, bob, kim = peers.join("ann"), peers.join("bob"), peers.join("kim")
    ann.ahead_ms = 30_000
    ann.core.offset_ms = 0
    bob.core.offset_ms = bob.ahead_ms = -30_000
    book(ann)
    peers.settle()
    ann.core.clock.last += 5_000 << 16
    ann.set("12A", "seat/holder", None)
    peers.settle()
    bob.core.clock.last = bob.core.seen = 0  # it was asleep when that came
    book(bob)
    (pending,) = bob.core.outbox.values()
    stood = peers.server.store.register(("12A", "seat/holder", ""))
    assert stood is not None and pending.time < stood.time
    peers.settle()
    assert holder(peers) == ["bob"]
    assert outcomes(bob) == [("applied", "")] and not bob.receipts[0].lost
    peers.agree()
    book(kim)
    peers.settle()
    assert outcomes(kim) == [("rejected", "guard")]


def test_a_reader_may_not_ask_by_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers()
    eve = peers.join("eve", role="reader")
    asked = count_questions(monkeypatch)
    book(eve)
    peers.settle()
    assert outcomes(eve) == [("rejected", "permission")] and not asked
    peers.agree()


@pytest.mark.parametrize("frame_bytes", [1, 4 << 20])
def test_a_large_one_in_pieces(frame_bytes: int) -> None:
    """Its check stands in the first piece."""
    peers = Peers()
    limits = ClientLimits(frame_changes_max=2, frame_bytes_max=frame_bytes)
    ann, bob = peers.join("ann", limits=limits), peers.join("bob")
    book(bob)
    peers.settle()
    for check in (free("12A"), free("12B")):
        ann.write(lambda tx: [tx.set(f"e{i}", "k/v", i) for i in range(7)], check)
        peers.settle()
    assert outcomes(ann) == [("rejected", "guard"), ("applied", "")]
    peers.agree()


def test_a_new_identity_keeps_the_check() -> None:
    """…as does a copy, and what the server knows under another number is not asked again."""
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    ann.disconnect()
    book(ann)
    twin = ann.copied("twin")
    book(bob)
    peers.settle()
    ann.connect()
    peers.settle()
    twin.connect()
    peers.settle()
    assert twin.core.replica != ann.core.replica
    assert outcomes(ann) == outcomes(twin) == [("rejected", "guard")]
    assert holder(peers) == ["bob"]
    peers.agree()


def test_what_a_copy_pushed_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers()
    ann = peers.join("ann")
    ann.disconnect()
    book(ann)
    twin = ann.copied("twin")
    ann.connect()
    peers.settle()
    asked = count_questions(monkeypatch)
    twin.connect()
    peers.settle()
    assert not asked and outcomes(twin) == [("applied", "")] and peers.server.seq == 1
    peers.agree()


def pushed(number: int, **more: Any) -> Push:
    stamp = stamp_text(number << 16, "0123456789ab")
    return Push([PushedTransaction(number, f"tx{number}", stamp, [("e", "k/v", "", "n", number)], **more)])


def test_what_breaks_the_protocol_behind_it_costs_the_connection() -> None:
    peers = Peers()
    ann = peers.client("ann").connect()
    conn, ann.conn = ann.conn or 0, None  # spoken by hand
    hello = messages.Hello((2, 2), "0123456789ab", "i", 1 << 53, 0, peers.now_ms)
    for frame in (hello, pushed(1, check=free("12A")), pushed(3)):
        peers.to_server(conn, messages.encode(frame))
    assert not peers.faults
    peers.settle()
    faults = [event["server"] for event in peers.transcript if event.get("server", {}).get("t") == "fault"]
    assert [fault["code"] for fault in faults] == ["order"]
    assert peers.server.seq == 1, "what came before is decided"
    peers.to_server(conn, messages.encode(pushed(2)))
    peers.settle()
    assert peers.server.seq == 1


def test_what_waits_is_bounded() -> None:
    peers = Peers(Limits(behind_max=10))
    ann = peers.client("ann").connect()
    conn, ann.conn = ann.conn or 0, None
    hello = messages.Hello((2, 2), "0123456789ab", "i", 1 << 53, 0, peers.now_ms)
    peers.to_server(conn, messages.encode(hello))
    for number in range(1, 7):
        assert not peers.server.is_behind
        peers.to_server(conn, messages.encode(pushed(number, check=free("12A"))))
    assert peers.server.is_behind
    peers.settle()
    assert not peers.server.is_behind and peers.server.seq == 6


# -- servers that are older -------------------------------------------------------------------------------------


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that have never heard of guards: they do not say so, and take what comes as it is."""
    monkeypatch.setattr(messages, "FEATURES", [messages.LINEAGE, messages.WINDOW])
    decode = messages.decode_client

    def without(data: bytes | str) -> messages.ClientFrame:
        frame = decode(data)
        for one in frame.transactions if isinstance(frame, Push) else ():
            one.check = None
        return frame

    monkeypatch.setattr(messages, "decode_client", without)


def test_an_older_server_is_not_given_what_it_would_take_unguarded(older: None) -> None:
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    bob.set("12A", "seat/holder", "bob")
    peers.settle()
    with pytest.raises(TriplewebError, match="newer version"):
        book(ann, "12B")
    ann.disconnect()
    ann.start()
    ann.set("x", "k/v", 1)
    book(ann)
    ann.write(lambda tx: tx.increment("p", "k/likes", 2), free("12A"))
    ann.set("x", "k/v", 2)
    assert list(ann.core.store.values("12A", "seat/holder")) == ["ann"]
    ann.connect()
    peers.settle()
    assert holder(peers) == ["bob"] and peers.server.store.values("x", "k/v") == [2]
    assert not peers.server.store.values("p", "k/likes")
    peers.agree()
    rejected = [receipt for receipt in ann.receipts if receipt.outcome == "rejected"]
    assert [(receipt.reason, receipt.message) for receipt in rejected] == [("guard", NO_GUARDS)] * 2
    ann.start()
    fates = [(f.subject, f.outcome, f.reason) for f in ann.disk.load().fates if f.outcome == "rejected"]
    assert fates == [("12A", "rejected", "guard"), ("p", "rejected", "guard")]
    ann.connect()
    peers.settle()
    peers.agree()


def test_receipts_travel_with_their_message() -> None:
    receipt = Receipt(1, "x", "rejected", "s", reason="guard", message="why")
    assert messages.decode_receipt(messages.encode(receipt)) == receipt
    assert b"message" not in messages.encode(Receipt(1, "x", "applied", "s"))


# -- what is kept -----------------------------------------------------------------------------------------------


def test_a_server_put_back_to_a_backup_does_not_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged is not lost, though its query has no answer any more; what waits is asked."""
    peers = Peers()
    ann, bob = peers.join("ann"), peers.join("bob")
    backup = copy.deepcopy(peers.disk)
    book(ann), book(bob, "1F")
    peers.settle()
    ann.disconnect()
    book(ann, "1F"), book(ann, "1G")
    asked = count_questions(monkeypatch)
    restore(peers, backup, "e2")
    peers.settle()
    assert not asked and holder(peers, "1F") == ["bob"]
    ann.connect(*ann.core.subscriptions.values(), whole=False)
    peers.settle()
    assert asked == [free("1F"), free("1G")]
    assert (holder(peers), holder(peers, "1F"), holder(peers, "1G")) == (["ann"], ["bob"], ["ann"])
    assert outcomes(ann)[-2:] == [("rejected", "guard"), ("applied", "")]
    peers.agree()


def test_a_file_keeps_the_check_of_what_is_unsent(tmp_path: Path) -> None:
    """…until it is decided; what the server took is kept for the day on which it is put back to a backup."""
    path = tmp_path / "a.replica"
    change = Change("12A", "seat/holder", "", "ann", 5, "a")
    guarded, plain = Pending(1, "x", 5, [change], free("12A")), Pending(2, "y", 6, [])
    rules = Pending(3, "z", 7, [], Check("[:find ?s . :where (r ?s)]", rules="[(r ?s) [?s :k/v]]"))
    file = ReplicaFile(path)
    file.save(LocalCommit(pending=[guarded, plain, rules]))
    file.close()
    file = ReplicaFile(path)
    assert file.load().pending == [guarded, plain, rules]
    kept = Kept("a", 1, "x", 5, [change], "e1", 1, 1)
    file.save(LocalCommit(decided=[1], kept=[kept]))
    file.close()
    file = ReplicaFile(path)
    state = file.load()
    file.close()
    assert state.pending == [plain, rules] and state.kept == [kept]


def test_a_version_without_checks_does_not_read_them() -> None:
    """It would push them unguarded."""
    body = encode_pending([], free("12A"))
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        decode_registers(body)
    assert decode_pending(encode_registers([])) == ([], None)
