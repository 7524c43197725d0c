"""Loading what is asked: what a replica holds, hears of, is told to forget, and gets when it comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.peers import Peer, Peers, triples
from tripleweb.change import Change
from tripleweb.datalog.evaluate import run
from tripleweb.errors import ProtocolError
from tripleweb.sync import messages
from tripleweb.sync.messages import Describe, Hello, Part, Poke, Subscribe, Subscription, Took
from tripleweb.sync.server import Limits
from tripleweb.terms import Ref

POSTS = "[:find ?p ?t :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t]]"
NAMES = "[:find ?n :where [_ :user/name ?n]]"
SILENT = "[:find ?n :where [?u :user/name ?n] (not [_ :post/author ?u])]"


def world(limits: Limits | None = None) -> tuple[Peers, Peer]:
    """Two users with two posts each, written by somebody who has everything."""
    peers = Peers(limits)
    all_ = peers.join("all")
    for user in ("ada", "bob"):
        all_.set(user, "user/name", user.title())
        for number in (1, 2):
            post(all_, f"{user}{number}", user)
    peers.settle()
    return peers, all_


def post(peer: Peer, post: str, author: str, title: str = "") -> None:
    def write(tx: Any) -> None:
        tx.set(post, "post/author", Ref(author))
        tx.set(post, "post/title", title or f"of {author}")

    peer.write(write)


def asking(peers: Peers, name: str = "kim", **queries: tuple[Any, ...]) -> Peer:
    peer = peers.client(name).connect(whole=False)
    for key, (query, *inputs) in queries.items():
        peer.ask(key, query, *inputs)
    peers.settle()
    return peer


def subjects(peer: Peer) -> set[str]:
    return {s for s, _, _ in peer.triples}


def right(peers: Peers, peer: Peer, query: str, *inputs: Any) -> None:
    """The replica answers as the server would, and what it holds the server has, too."""
    mine, theirs = (
        sorted(run(query, list(inputs), store).rows) for store in (peer.core.store, peers.server.store)
    )
    assert mine == theirs
    assert peer.triples <= triples(peers.server.store)


# ---------------------------------------- what is held


def test_a_replica_holds_what_it_asked_for_and_nothing_else() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    assert kim.triples == {
        (f"ada{n}", p, v) for n in (1, 2) for p, v in (("post/author", Ref("ada")), ("post/title", "of ada"))
    }
    right(peers, kim, POSTS, "ada")
    assert kim.core.complete and kim.core.is_live("mine")


def test_a_first_load_may_be_done_before_anything_was_told() -> None:
    """… by the poke that says that nothing else is there."""
    peers, _ = world()
    kim = peers.client("kim").connect(whole=False)
    kim.ask("mine", POSTS, "ada")
    kim.up()
    while peers.server.has_work():
        peers.server.step()
    peers.settle()
    right(peers, kim, POSTS, "ada")
    assert subjects(kim) == {"ada1", "ada2"} and kim.core.is_live("mine")


def test_it_hears_of_what_it_holds_and_of_nothing_else() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.got.clear()
    everything.set("bob1", "post/title", "no news")
    everything.set("bob", "user/name", "Bobby")
    peers.settle()
    assert not kim.got
    everything.write(
        lambda tx: [tx.set("ada1", "post/title", "new"), tx.set("bob1", "post/title", "no news")]
    )
    peers.settle()
    (poke,) = kim.of(Poke)
    assert b"no news" not in b"".join(bytes(raw) for raw in poke.transactions)
    assert ("ada1", "post/title", "new") in kim.triples
    right(peers, kim, POSTS, "ada")


def test_what_comes_to_be_needed_comes_with_the_change_that_made_it_so() -> None:
    """… in the poke of that change, and whole: its title has been there for long."""
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.got.clear()
    everything.set("bob1", "post/author", Ref("ada"))
    peers.settle()
    assert len(kim.of(Poke)) == 1
    assert ("bob1", "post/title", "of bob") in kim.triples
    right(peers, kim, POSTS, "ada")


def test_witnesses_of_a_negation_are_there() -> None:
    peers, everything = world()
    everything.set("cyd", "user/name", "Cyd")
    kim = asking(peers, silent=(SILENT,))
    right(peers, kim, SILENT)
    post(everything, "cyd1", "cyd")
    peers.settle()
    right(peers, kim, SILENT)
    assert ("cyd1", "post/author", Ref("cyd")) in kim.triples


def test_what_was_needed_stays_current() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), names=(NAMES,))
    everything.set("ada1", "post/author", Ref("bob"))
    peers.settle()
    everything.set("ada1", "post/title", "moved")
    peers.settle()
    assert ("ada1", "post/title", "of ada") not in kim.triples
    right(peers, kim, POSTS, "ada")


def test_a_deletion_reaches_who_holds_anything_of_it() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    everything.write(lambda tx: tx.delete("ada1"))
    peers.settle()
    assert "ada1" not in subjects(kim)
    right(peers, kim, POSTS, "ada")


def test_whole_predicates_and_kinds() -> None:
    peers, everything = world()
    kim = peers.client("kim").connect(
        Subscription("k", predicates=["user/"]), Subscription("t", predicates=["post/title"])
    )
    peers.settle()
    everything.set("cyd", "user/name", "Cyd")
    everything.set("cyd", "user/age", 7)
    everything.set("x", "post/title", "x")
    everything.set("x", "post/score", 1)
    peers.settle()
    wanted = {t for t in triples(peers.server.store) if t[1][:5] == "user/" or t[1] == "post/title"}
    assert kim.triples == wanted


def test_a_query_that_cannot_be_run_fails_and_nothing_else() -> None:
    peers, _ = world(Limits(query_units=1))
    kim = asking(peers, bad=("[:find",), dear=(NAMES,), mine=(POSTS, "nobody"))
    failed = {update.frame.id: update.frame.code for update in kim.updates if update.frame is not None}
    assert failed["bad"] == "query" and failed["dear"] == "budget"
    assert kim.core.is_live("mine") and not kim.core.is_live("bad")


# ---------------------------------------- what is forgotten


def test_what_nothing_asks_for_any_more_is_forgotten_and_not_deleted() -> None:
    peers, _everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.core.unsubscribe("theirs")
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}
    assert ("bob1", "post/title", "of bob") in triples(peers.server.store)
    kim.ask("theirs", POSTS, "bob")
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2", "bob1", "bob2"}
    right(peers, kim, POSTS, "bob")


def test_what_is_asked_for_again_at_once_is_kept() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.core.unsubscribe("mine")
    kim.ask("again", POSTS, "ada")
    everything.set("ada1", "post/title", "new")
    everything.write(lambda tx: tx.delete("ada2"))
    peers.settle()
    right(peers, kim, POSTS, "ada")
    assert subjects(kim) == {"ada1"}


def test_the_whole_app_is_forgotten_too() -> None:
    """… but for what else is asked for, and what was written."""
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.core.subscribe(Subscription("app"))
    peers.settle()
    assert kim.triples == triples(peers.server.store)
    kim.set("own", "post/title", "mine")
    peers.settle()
    kim.core.unsubscribe("app")
    everything.set("bob", "user/name", "Bobby")
    everything.set("ada1", "post/title", "new")
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2", "own"}
    right(peers, kim, POSTS, "ada")
    assert "app" not in kim.core.cursors
    kim.ask("names", NAMES)
    peers.settle()
    right(peers, kim, NAMES)


def test_what_another_query_needs_is_kept() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), names=(NAMES,), silent=(SILENT,))
    kim.core.unsubscribe("silent")
    peers.settle()
    right(peers, kim, NAMES)
    right(peers, kim, POSTS, "ada")
    everything.set("bob", "user/name", "Bobby")
    everything.set("ada1", "post/title", "new")
    peers.settle()
    right(peers, kim, NAMES)
    right(peers, kim, POSTS, "ada")
    assert "bob1" not in subjects(kim)


def test_what_is_pending_is_seen_whatever_is_forgotten() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.core.unsubscribe("mine")
    kim.up()
    kim.set("ada1", "post/title", "mine")
    peers.down()
    assert ("ada1", "post/title", "mine") in kim.triples and "ada2" not in subjects(kim)
    peers.settle()
    assert ("ada1", "post/title", "mine") in kim.triples


# ---------------------------------------- what it wrote itself


def test_what_a_replica_wrote_is_followed_and_forgotten_after_a_while() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.set("new", "post/title", "mine")
    kim.write(lambda tx: tx.add("bob1", "post/tags", "x"))
    peers.settle()
    everything.set("new", "post/title", "theirs")
    everything.write(lambda tx: tx.add("bob1", "post/tags", "y"))
    peers.settle()
    assert ("new", "post/title", "theirs") in kim.triples
    assert {v for s, _, v in kim.triples if s == "bob1"} == {"x", "y"}
    peers.now_ms += peers.limits.held_ms + 1
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}
    assert ("new", "post/title", "theirs") in triples(peers.server.store)


def test_the_rest_of_what_it_wrote_to_comes_with_the_receipt() -> None:
    """A place is held whole: members that others had added before."""
    peers, everything = world()
    everything.write(lambda tx: tx.add("bob1", "post/tags", "old"))
    peers.settle()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.write(lambda tx: tx.add("bob1", "post/tags", "new"))
    peers.settle()
    assert {v for s, p, v in kim.triples if p == "post/tags"} == {"old", "new"}


def test_a_rejected_write_to_what_it_does_not_hold() -> None:
    peers, everything = world()
    kim = peers.client("kim", role="reader").connect(whole=False)
    peers.settle()
    kim.set("bob1", "post/title", "no")
    peers.settle()
    assert kim.triples == {("bob1", "post/title", "of bob")}
    everything.set("bob1", "post/title", "later")
    peers.settle()
    assert kim.triples == {("bob1", "post/title", "later")}


def test_counting_where_others_count() -> None:
    peers, everything = world()
    everything.write(lambda tx: tx.increment("bob1", "post/likes", 5))
    peers.settle()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.write(lambda tx: tx.increment("bob1", "post/likes", 2))
    kim.write(lambda tx: tx.increment("bob1", "post/likes", 3))
    peers.settle()
    assert ("bob1", "post/likes", 10) in kim.triples


def test_counting_beside_what_is_forgotten() -> None:
    """What is pending is counted once, whatever a poke has forgotten."""
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"), likes=("[:find ?n :where [?p :post/likes ?n]]",))
    kim.write(lambda tx: tx.increment("bob1", "post/likes", 2))
    peers.settle()
    kim.core.unsubscribe("mine")
    kim.up()
    kim.write(lambda tx: tx.increment("bob1", "post/likes", 3))
    peers.down()
    assert ("bob1", "post/likes", 5) in kim.triples and "ada1" not in subjects(kim)
    peers.settle()
    assert ("bob1", "post/likes", 5) in kim.triples


def test_counting_on_from_what_was_forgotten() -> None:
    """Its own share comes back, with what is pending on top: by the receipt, or by a query."""
    for asks in (False, True):
        peers, _ = world()
        likes = "[:find ?n :where [?p :post/likes ?n]]"
        kim = asking(peers, likes=(likes,))
        kim.write(lambda tx: tx.increment("bob1", "post/likes", 2))
        peers.settle()
        peers.now_ms += peers.limits.held_ms + 1
        peers.server.tick(peers.now_ms)
        kim.core.unsubscribe("likes")
        peers.settle()
        assert not kim.triples
        for _ in range(2):
            kim.write(lambda tx: tx.increment("bob1", "post/likes", 3))
        if asks:
            kim.ask("likes", likes)
            kim.up()
            kim.write(lambda tx: tx.increment("bob1", "post/likes", 1))
        peers.settle()
        assert kim.triples == {("bob1", "post/likes", 9 if asks else 8)}
        right(peers, kim, likes)


def test_a_deletion_is_not_forgotten() -> None:
    """… or a file that has something of it would show it again."""
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    everything.write(lambda tx: tx.delete("ada1"))
    peers.settle()
    kim.core.unsubscribe("mine")
    peers.settle()
    assert not kim.triples and kim.core.store.deleted("ada1")
    kim.disconnect()
    kim.start()
    assert not kim.triples and kim.core.store.deleted("ada1")


# ---------------------------------------- coming back


def test_who_comes_back_is_told_the_gap_only() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), names=(NAMES,))
    kim.set("own", "post/title", "mine")
    peers.settle()
    kim.disconnect()
    everything.set("ada1", "post/title", "new")
    everything.set("bob2", "post/author", Ref("ada"))
    everything.set("bob1", "post/title", "no news")
    everything.set("own", "post/title", "theirs")
    everything.write(lambda tx: tx.delete("ada2"))
    peers.settle()
    kim.got.clear()
    kim.connect(whole=False)
    peers.settle()
    for query, *inputs in ((POSTS, "ada"), (NAMES,)):
        right(peers, kim, query, *inputs)
    assert ("own", "post/title", "theirs") in kim.triples
    said = " ".join(str(frame) for frame in kim.got)
    assert "no news" not in said and "Bob" not in said and not any(poke.reset for poke in kim.of(Poke))


def test_a_restarted_replica_is_told_the_gap_too() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.disconnect()
    kim.start()
    assert subjects(kim) == {"ada1", "ada2"}
    everything.set("ada1", "post/title", "new")
    peers.settle()
    kim.ask("mine", POSTS, "ada")
    kim.connect(whole=False)
    kim.got.clear()
    peers.settle()
    assert not any(poke.reset for poke in kim.of(Poke))
    right(peers, kim, POSTS, "ada")


def test_what_it_does_not_ask_for_any_more_is_forgotten_when_it_comes_back() -> None:
    for restarted in (False, True):
        peers, everything = world()
        kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
        kim.disconnect()
        kim.core.unsubscribe("theirs")
        if restarted:
            peers.open()
            everything.connect()
        everything.set("bob1", "post/title", "new")
        peers.settle()
        kim.connect(whole=False)
        peers.settle()
        assert subjects(kim) == {"ada1", "ada2"}
        right(peers, kim, POSTS, "ada")


def test_a_server_that_has_forgotten_it_loads_it_again() -> None:
    """What it holds and nothing covers is gone, what is pending stays."""
    for how in ("restarted", "long ago", "behind the tail"):
        peers, everything = world(Limits(tail_max=2))
        kim = asking(peers, mine=(POSTS, "ada"), names=(NAMES,))
        kim.set("own", "post/title", "decided")
        peers.settle()
        kim.disconnect()
        kim.set("bob1", "post/title", "pending")
        if how == "restarted":
            peers.open()
            everything.connect()
        elif how == "long ago":
            peers.now_ms += peers.limits.held_ms + 1
            peers.server.tick(peers.now_ms)
        else:
            for i in range(8):
                everything.set("bob2", "post/score", i)
                peers.settle()
        everything.set("ada1", "post/author", Ref("bob"))
        peers.settle()
        kim.got.clear()
        kim.connect(whole=False)
        peers.settle()
        assert any(poke.reset for poke in kim.of(Poke)), how
        right(peers, kim, POSTS, "ada")
        right(peers, kim, NAMES)
        assert ("bob1", "post/title", "pending") in kim.triples, how
        assert not {"ada1", "own"} & subjects(kim), how


def test_what_was_on_its_way_when_the_connection_broke_is_sent_again() -> None:
    """Places that came in, changes, and what was to be forgotten."""
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.core.unsubscribe("theirs")
    kim.up()
    everything.set("ada1", "post/title", "new")
    post(everything, "ada3", "ada")
    everything.up()
    peers.commit()
    peers.server.frames_to_send()  # lost
    kim.disconnect()
    kim.connect(whole=False)
    peers.settle()
    right(peers, kim, POSTS, "ada")
    assert subjects(kim) == {"ada1", "ada2", "ada3"}


def test_a_load_that_was_cut_off_is_made_again() -> None:
    peers, everything = world()
    kim = asking(peers, names=(NAMES,))
    for cut in range(12):
        kim.ask("mine", POSTS, "ada")
        kim.up()
        for _ in range(cut):
            peers.commit()
            if peers.server.has_work():
                peers.server.step()
            if cut % 2:
                peers.server.frames_to_send()  # lost
        kim.disconnect()
        everything.set("ada1", "post/title", f"{cut}")
        kim.connect(whole=False)
        peers.settle()
        right(peers, kim, POSTS, "ada")
        right(peers, kim, NAMES)
        kim.core.unsubscribe("mine")
        peers.settle()
        assert subjects(kim) == {"ada", "bob"}


def test_a_copy_holds_for_itself() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.disconnect()
    copy = kim.copied("copy")
    for peer in (kim, copy):
        if peer is copy:
            peer.ask("mine", POSTS, "ada")
        peer.set(f"by {peer.name}", "post/title", "x")
        peer.connect(whole=False)
        peers.settle()
    everything.set("ada1", "post/title", "new")
    peers.settle()
    assert kim.core.replica != copy.core.replica
    for peer in (kim, copy):
        right(peers, peer, POSTS, "ada")


def test_a_slow_reader_is_told_of_all_at_once_or_loaded_again() -> None:
    for news_max in (1_000, 3):
        peers, everything = world(Limits(news_max=news_max))
        kim = asking(peers, mine=(POSTS, "ada"))
        peers.server.pause(kim.conn)
        for i in range(9):
            everything.set("ada1", "post/title", f"{i}")
            peers.settle()
        kim.got.clear()
        assert kim.conn is not None
        peers.server.resume(kim.conn)
        peers.settle()
        assert [poke.reset for poke in kim.of(Poke)] == [news_max == 3]
        right(peers, kim, POSTS, "ada")


def test_who_is_told_nothing_for_long_is_moved_along() -> None:
    """… or the tail would not reach back to it when it is cut off."""
    peers, everything = world(Limits(lag_max=3, tail_max=4))
    kim = asking(peers, mine=(POSTS, "ada"))
    for i in range(10):
        everything.set("bob1", "post/score", i)
        peers.settle()
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert kim.core.at == peers.server.seq
    kim.disconnect()
    kim.got.clear()
    kim.connect(whole=False)
    peers.settle()
    assert not any(poke.reset for poke in kim.of(Poke))


# ---------------------------------------- large loads

SMALL = Limits(part_registers=2)


def loading(peers: Peers, kim: Peer, parts: int) -> None:
    """So many parts of a load have come to Kim."""
    while len(kim.of(Part)) < parts:
        kim.up()
        peers.commit()
        peers.server.step()
        peers.down()


def test_others_are_told_while_something_large_is_loaded() -> None:
    peers, everything = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    kim.got.clear()
    kim.ask("mine", POSTS, "ada")
    loading(peers, kim, 1)
    everything.set("bob", "user/name", "Bobby")
    kim.set("own", "post/title", "x")
    everything.up(), kim.up(), peers.commit(), peers.down()
    assert ("bob", "user/name", "Bobby") in kim.triples and kim.receipts
    assert not kim.core.is_live("mine") and "ada1" not in subjects(kim)
    assert kim.core.progress("mine") == (2, 4)
    peers.settle()
    right(peers, kim, POSTS, "ada")
    assert kim.core.is_live("mine") and kim.core.progress("mine") == (0, 0)


def test_few_parts_of_a_load_are_on_their_way_at_once() -> None:
    """… so that nothing else waits behind all of them."""
    peers, everything = world(Limits(part_registers=1, window_parts=2))
    kim = asking(peers, names=(NAMES,))
    kim.got.clear()
    kim.ask("mine", POSTS, "ada")
    kim.up()
    while peers.server.has_work() and peers.server.step():
        pass
    peers.down()
    assert [part.upto for part in kim.of(Part)] == [1, 2]
    assert not peers.server.has_work(), "what waits for its reader costs nobody anything"
    everything.set("bob", "user/name", "Bobby")
    everything.up(), peers.commit(), peers.down()
    assert ("bob", "user/name", "Bobby") in kim.triples
    assert [frame.parts for frame in kim.up() if isinstance(frame, Took)] == [4]  # with the two of names
    assert peers.server.step() and peers.server.step() and not peers.server.step()
    peers.settle()
    assert not peers.faults
    right(peers, kim, POSTS, "ada")


def test_who_does_not_say_what_has_come_is_sent_all_at_once() -> None:
    peers, _ = world(Limits(part_registers=1, window_parts=2))
    kim = peers.client("kim").connect(whole=False)
    kim.core.frames_to_send(peers.now_ms)
    hello = Hello((2, 2), kim.core.replica, "i", 1, 0, peers.now_ms, features=[messages.LINEAGE])
    assert kim.conn is not None
    peers.to_server(kim.conn, messages.encode(hello))
    peers.to_server(
        kim.conn,
        messages.encode(
            Subscribe(Subscription("n", query="[:find ?p ?t :where [?p :post/author _] [?p :post/title ?t]]"))
        ),
    )
    while peers.server.has_work() and peers.server.step():
        pass
    sent = [frame for conn, frame in peers.server.frames_to_send() if conn == kim.conn]
    assert len([part for part in sent if isinstance(part, Part) and part.id]) == 8


def test_what_has_come_is_within_what_was_sent() -> None:
    for wrong in (-1, 1):
        peers, _ = world(SMALL)
        kim = asking(peers, names=(NAMES,))
        assert kim.conn is not None
        put = peers.server.connections[kim.conn].feed.put_parts
        assert put
        peers.to_server(kim.conn, messages.encode(Took(put + wrong)))
        assert [fault.code for fault in peers.faults] == ["order"]


def test_what_changes_while_it_is_loaded() -> None:
    """Nothing of a load is seen before all of it is there, also not what changes of it."""
    peers, everything = world(SMALL)
    everything.write(lambda tx: tx.assign("ada1", "post/tags", ["a", "b"]))
    everything.set("x", "post/author", Ref("ada"))
    peers.settle()
    kim = asking(peers, names=(NAMES,))
    kim.got.clear()
    query = "[:find ?p ?t ?g :where [?p :post/author ?u] [?p :post/title ?t] [?p :post/tags ?g]]"
    kim.ask("mine", query)
    loading(peers, kim, 1)
    everything.set("ada1", "post/title", "new")
    everything.write(lambda tx: tx.add("ada1", "post/tags", "c"))
    everything.write(lambda tx: tx.delete("ada2"))
    post(everything, "ada3", "ada")
    everything.write(lambda tx: tx.add("ada3", "post/tags", "c"))
    everything.up(), peers.commit(), peers.down()
    assert subjects(kim) == {"ada", "bob"}
    peers.settle()
    right(peers, kim, query)
    assert "ada2" not in subjects(kim) and {v for s, p, v in kim.triples if p == "post/tags"} == {
        "a",
        "b",
        "c",
    }


def test_a_load_goes_on_where_it_broke_off() -> None:
    peers, everything = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    kim.got.clear()
    kim.ask("mine", "[:find ?t :where [_ :post/title ?t]]")
    loading(peers, kim, 1)
    before = {register[0] for part in kim.of(Part) for register in part.registers}
    kim.disconnect()
    changed = sorted(before)[0]
    everything.set(changed, "post/title", "new")
    everything.set("new", "post/title", "another")
    peers.settle()
    kim.got.clear()
    kim.connect(whole=False)
    peers.settle()
    right(peers, kim, "[:find ?t :where [_ :post/title ?t]]")
    again = [register[0] for part in kim.of(Part) for register in part.registers]
    assert len(set(again)) == len(again) and set(again) & before == {changed}
    assert not any(poke.reset for poke in kim.of(Poke))


def test_what_is_swept_while_it_is_loaded_is_not_kept() -> None:
    peers, everything = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    kim.ask("mine", POSTS, "ada")
    loading(peers, kim, len(kim.of(Part)) + 1)
    held = peers.server.readers.relevance.holders("ada1", "post/title")
    (interest,) = [one for one in held if one.needed is not None]
    everything.set("ada1", "post/author", Ref("bob"))
    everything.up(), peers.commit()
    peers.server.readers._sweep(interest, None)
    peers.settle()
    assert "ada1" not in subjects(kim)
    right(peers, kim, POSTS, "ada")


def test_a_subscription_that_ends_while_it_is_loaded_leaves_nothing() -> None:
    peers, _everything = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    kim.ask("mine", POSTS, "ada")
    loading(peers, kim, len(kim.of(Part)) + 1)
    kim.core.unsubscribe("mine")
    peers.settle()
    assert subjects(kim) == {"ada", "bob"} and kim.core.progress("mine") == (0, 0)
    held = peers.server.readers.relevance.holders("ada1", "post/title")
    assert all(one.needed is None for one in held)
    kim.ask("mine", POSTS, "ada")
    peers.settle()
    right(peers, kim, POSTS, "ada")


def test_a_part_that_does_not_go_on_is_refused() -> None:
    peers, _ = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    with pytest.raises(ProtocolError, match="does not go on"):
        kim.core.receive(Part([], "mine", 3, 4, 5), peers.now_ms)


# ---------------------------------------- bounds and old clients


def test_equal_subscriptions_share_one_result() -> None:
    peers, _ = world()
    asking(peers, "kim", mine=(POSTS, "ada"))
    before = peers.server.readers.relevance.work
    lee = asking(peers, "lee", mine=(POSTS, "ada"), again=(POSTS, "ada"))
    assert peers.server.readers.relevance.work == before
    right(peers, lee, POSTS, "ada")


def test_nothing_is_kept_of_who_has_gone_for_long() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.set("own", "post/title", "x")
    peers.settle()
    kim.disconnect()
    peers.now_ms += peers.limits.held_ms + 1
    peers.server.tick(peers.now_ms)
    assert not list(peers.server.readers.relevance.holders("ada1", "post/title"))
    assert not list(peers.server.readers.relevance.holders("own", "post/title"))


def test_a_client_of_before_gets_the_whole_app() -> None:
    peers, _ = world()
    kim = peers.client("kim")
    kim.connect(whole=False)
    kim.ask("mine", POSTS, "ada")
    kim.core.features = []
    hello = kim.core._hello(peers.now_ms)
    hello.features = []
    assert kim.conn is not None
    peers.to_server(kim.conn, messages.encode(hello))
    peers.settle()
    assert kim.triples == triples(peers.server.store)


def test_what_there_is_can_be_asked() -> None:
    peers, _ = world()
    kim = asking(peers)
    assert kim.core.ask(Describe("d"))
    peers.settle()
    (described,) = [update.frame for update in kim.updates if update.frame is not None]
    assert described.predicates == {"user/name": 2, "post/author": 4, "post/title": 4}


def test_changes_are_registers() -> None:
    """What is shipped of a place is all of it."""
    peers, everything = world()
    everything.write(lambda tx: tx.assign("ada1", "post/tags", ["a", "b"]))
    everything.write(lambda tx: tx.remove("ada1", "post/tags", "a"))
    peers.settle()
    kim = asking(peers, tags=("[:find ?t :where [?p :post/title _] [?p :post/tags ?t]]",))
    mine: list[Change] = list(kim.core.store.registers_at("ada1", "post/tags"))
    assert sorted(mine) == sorted(peers.server.store.registers_at("ada1", "post/tags"))


# ---------------------------------------- what the simulator found


def test_what_is_said_of_a_subscription_that_ended_does_not_bring_the_next_to_life() -> None:
    """It is asked for, given up and asked for again, before the answer to the first has come."""
    peers, _ = world(SMALL)
    kim = asking(peers, names=(NAMES,))
    kim.ask("mine", POSTS, "ada")
    kim.up()
    while peers.server.has_work():
        peers.server.step()
    kim.core.unsubscribe("mine")
    kim.ask("mine", POSTS, "ada")
    peers.down()
    assert not kim.core.is_live("mine") and kim.core.progress("mine") == (0, 0)
    peers.settle()
    assert kim.core.is_live("mine")
    right(peers, kim, POSTS, "ada")


def test_what_hides_something_is_loaded_with_whole_predicates() -> None:
    """A member that was taken away is not seen again when the server says what it has of it."""
    peers, everything = world()
    everything.write(lambda tx: tx.assign("ada1", "post/tags", ["a"]))
    everything.write(lambda tx: tx.assign("ada1", "post/tags", []))
    peers.settle()
    kim = peers.client("kim", role="reader").connect(whole=False)
    kim.core.subscribe(Subscription("posts", predicates=["post/"]))
    peers.settle()
    kim.write(lambda tx: tx.add("ada1", "post/tags", "a"))
    peers.settle()
    assert kim.core.store.values("ada1", "post/tags") == []


def test_what_a_replica_writes_while_it_loads_stays() -> None:
    """… also where that it was written has been forgotten before the load is there."""
    peers, _ = world(replace(SMALL, own_max=1))
    kim = asking(peers)
    kim.core.subscribe(Subscription("posts", predicates=["post/"]))
    loading(peers, kim, len(kim.of(Part)) + 1)
    kim.write(lambda tx: (tx.set("new1", "post/title", "x"), tx.set("new2", "post/title", "y")))  # type: ignore[func-returns-value]
    kim.up(), peers.commit(), peers.down()
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert {("new1", "post/title", "x"), ("new2", "post/title", "y")} <= kim.triples


def test_a_share_that_nets_to_nothing_is_seen() -> None:
    """What is left of a counter when a first write is rejected is what was counted since."""
    peers = Peers(Limits(receipt_bytes_max=100))
    kim = peers.join("kim", role="reader")
    kim.write(lambda tx: (tx.increment("n", "k/count", 2), tx.set("n", "k/v", 1)))  # type: ignore[func-returns-value]
    kim.up(), peers.commit()
    kim.write(lambda tx: tx.increment("n", "k/count", 1))
    kim.write(lambda tx: tx.increment("n", "k/count", -1))
    peers.down()
    assert kim.core.pending == 2 and kim.core.store.values("n", "k/count") == [0]
