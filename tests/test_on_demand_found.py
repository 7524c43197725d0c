"""Loading what is asked: what random histories found, each thing by itself, and what hostile clients try."""

from __future__ import annotations

from typing import Any

from tests.peers import Peer, triples
from tests.test_on_demand import NAMES, POSTS, SILENT, asking, post, right, subjects, world
from tripleweb.sync import messages
from tripleweb.sync.client import APP
from tripleweb.sync.messages import Describe, Failed, Part, Poke, Subscribe, Subscription, Unsubscribe
from tripleweb.sync.server import Limits
from tripleweb.terms import Ref

# ---------------------------------------- what the random histories found


def test_what_is_asked_for_again_at_once_is_not_forgotten_after_its_load() -> None:
    """… nor is anything between shown as it was before."""
    peers, everything = world(Limits(poke_transactions_max=1, part_registers=1))
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.core.unsubscribe("mine")
    kim.ask("more", "[:find ?p ?t :where [?p :post/author _] [?p :post/title ?t]]")
    kim.up()
    everything.set("ada1", "post/title", "new")
    post(everything, "bob3", "bob")
    peers.settle()
    right(peers, kim, "[:find ?p ?t :where [?p :post/author _] [?p :post/title ?t]]")
    assert ("ada1", "post/title", "new") in kim.triples


def test_a_load_is_told_in_a_poke_that_reaches_as_far() -> None:
    """Transactions that a load has seen are told with it, however many, and whatever is forgotten on the way."""
    peers, everything = world(Limits(poke_transactions_max=1, frame_bytes=200))
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    assert kim.conn is not None
    peers.server.pause(kim.conn)
    for number in range(5):
        post(everything, f"ada{number}", "ada", f"title {number}")
        peers.settle()
    kim.core.unsubscribe("theirs")
    kim.ask("names", NAMES)
    peers.settle()
    kim.got.clear()
    peers.server.resume(kim.conn)
    peers.settle()
    loaded = next(poke for poke in kim.of(Poke) if "names" in poke.cursors)
    assert loaded.seq == peers.server.seq
    right(peers, kim, POSTS, "ada")
    right(peers, kim, NAMES)
    assert "bob1" not in subjects(kim)


def test_what_a_load_brought_that_ended_before_it_lived_comes_again() -> None:
    """What it wrote there itself is followed on, and is not all that is there."""
    peers, everything = world()
    everything.write(lambda tx: tx.add("ada1", "post/tags", "red"))
    peers.settle()
    kim = asking(peers)
    kim.ask("tags", "[:find ?t :where [_ :post/tags ?t]]")
    kim.up()
    while peers.server.has_work():
        peers.server.step()  # it has been sent
    kim.write(lambda tx: tx.add("ada1", "post/tags", "blue"))
    kim.up()
    kim.core.unsubscribe("tags")
    peers.settle()
    assert sorted(value for s, p, value in kim.triples if p == "post/tags") == ["blue", "red"]


def test_who_is_cut_off_before_it_was_loaded_again_begins_anew() -> None:
    """What it was to forget is not remembered beyond a load of everything."""
    peers, everything = world(Limits(news_max=2, part_registers=1))
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    assert kim.conn is not None
    peers.server.pause(kim.conn)
    kim.core.unsubscribe("theirs")
    for number in range(4):
        everything.set("ada1", "post/title", f"{number}")
        kim.up()
        everything.up()
        peers.commit()
    kim.disconnect()
    kim.connect(whole=False)
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}
    right(peers, kim, POSTS, "ada")


def test_a_slow_reader_has_one_load_waiting_for_it() -> None:
    peers, everything = world(Limits(news_max=1))
    kim = asking(peers, mine=(POSTS, "ada"))
    assert kim.conn is not None
    peers.server.pause(kim.conn)
    for number in range(30):
        everything.set("ada1", "post/title", f"{number}")
        peers.settle()
    assert len(peers.server.readers.loads.jobs) == 1
    peers.server.resume(kim.conn)
    peers.settle()
    right(peers, kim, POSTS, "ada")


def test_nothing_is_left_of_those_who_come_and_go() -> None:
    peers, _ = world()
    readers = peers.server.readers
    before = len(readers.relevance._interests), len(readers._holdings), len(readers.due)
    for number in range(20):
        kim = asking(peers, f"kim{number}", mine=(POSTS, "ada"), names=(NAMES,))
        kim.set("own", "post/title", "x")
        peers.settle()
        kim.disconnect()
        peers.clients.remove(kim)
    peers.now_ms += peers.limits.held_ms + 1
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert (len(readers.relevance._interests), len(readers._holdings), len(readers.due)) == before
    assert not readers._away


def test_nothing_is_known_of_subscriptions_that_ended() -> None:
    peers, everything = world(Limits(tail_max=2, own_max=3))
    kim = asking(peers)
    for number in range(10):
        kim.ask(f"q{number}", POSTS, ("ada", "bob")[number % 2])
        peers.settle()
        kim.core.unsubscribe(f"q{number}")
        everything.set("bob", "user/name", f"{number}")
        peers.settle()
    peers.server.tick(peers.now_ms)
    holding = peers.server.readers._holdings[kim.core.replica]
    assert not (holding.said or holding.interests) and len(holding.forgets) <= 8


def test_a_feed_that_is_over_says_nothing_on_the_connection_of_the_next() -> None:
    """A replica says hello again while what it asked for is still being evaluated."""
    peers, everything = world()
    kim = peers.client("kim").connect(whole=False)
    kim.ask("mine", POSTS, "ada")
    kim.up()
    peers.down()
    kim.core._rekey()
    kim.got.clear()
    kim.up()
    everything.set("ada1", "post/title", "new")
    peers.settle()
    assert len([poke for poke in kim.of(Poke) if poke.reset]) == 1
    assert sum("mine" in poke.cursors for poke in kim.of(Poke)) == 1
    right(peers, kim, POSTS, "ada")
    assert all(not feed.is_over for feed in peers.server.readers.due)


def test_the_whole_app_asked_for_and_given_up_on_one_connection() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.core.subscribe(Subscription(APP))
    kim.core.unsubscribe("theirs")
    peers.settle()
    assert kim.triples == triples(peers.server.store)
    everything.set("new", "post/title", "x")
    peers.settle()
    assert kim.triples == triples(peers.server.store)
    kim.core.unsubscribe(APP)
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}
    everything.set("ada1", "post/title", "later")
    peers.settle()
    right(peers, kim, POSTS, "ada")
    kim.core.subscribe(Subscription(APP))
    peers.settle()
    kim.disconnect()
    kim.core.unsubscribe(APP)
    everything.set("bob1", "post/title", "later")
    peers.settle()
    kim.connect(whole=False)
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}


def test_a_replica_of_the_whole_app_that_gives_it_up_shows_nothing_old() -> None:
    peers, everything = world()
    kim = peers.join("kim")
    kim.core.unsubscribe(APP)
    peers.settle()
    everything.set("ada1", "post/title", "new")
    peers.settle()
    assert not kim.triples


def test_kinds_given_up_while_away() -> None:
    """What had been there, and was removed meanwhile, is gone too."""
    peers, everything = world()
    kim = peers.client("kim").connect(Subscription("k", predicates=["post/"]))
    kim.ask("names", NAMES)
    peers.settle()
    kim.disconnect()
    kim.core.unsubscribe("k")
    everything.set("ada1", "post/title", None)
    everything.write(lambda tx: tx.delete("bob1"))
    peers.settle()
    kim.connect(whole=False)
    peers.settle()
    assert subjects(kim) == {"ada", "bob"}


def test_what_is_counted_is_counted_once_whatever_is_forgotten() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.core.unsubscribe("theirs")
    kim.up()
    kim.write(lambda tx: tx.increment("ada1", "post/likes", 2))
    peers.down()
    assert "bob1" not in subjects(kim) and ("ada1", "post/likes", 2) in kim.triples
    peers.settle()
    assert ("ada1", "post/likes", 2) in kim.triples


def test_counting_on_after_the_place_was_forgotten() -> None:
    """Its own share comes with the load, what is counted since on top."""
    likes = "[:find ?n :where [?p :post/likes ?n]]"
    peers, _ = world()
    kim = asking(peers)
    kim.write(lambda tx: tx.increment("ada1", "post/likes", 5))
    peers.settle()
    peers.now_ms += peers.limits.held_ms + 1
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert not kim.triples
    kim.ask("likes", likes)
    kim.up()
    assert peers.server.step() and peers.server.step()  # it has been read
    kim.write(lambda tx: tx.increment("ada1", "post/likes", 2))
    assert kim.triples == {("ada1", "post/likes", 2)}
    peers.down()
    while peers.server.has_work():
        peers.server.step()
        peers.down()
    assert kim.triples == {("ada1", "post/likes", 7)}
    peers.settle()
    right(peers, kim, likes)
    assert kim.triples == {("ada1", "post/likes", 7)}


def test_counting_where_one_has_counted_before_without_asking() -> None:
    peers, _ = world()
    kim = asking(peers)
    for number in (5, 2):
        kim.write(lambda tx, number=number: tx.increment("ada1", "post/likes", number))
        peers.settle()
        assert kim.triples == {("ada1", "post/likes", 5 if number == 5 else 7)}
        peers.now_ms += peers.limits.held_ms + 1
        peers.server.tick(peers.now_ms)
        peers.settle()
        assert not kim.triples


def test_what_was_to_be_deleted_by_a_reader_is_followed() -> None:
    """The receipt brings all of the entity back, more than the replica asked for."""
    peers, everything = world()
    kim = peers.client("kim", role="reader").connect(whole=False)
    kim.ask("mine", "[:find ?t :where [?p :post/title ?t]]")
    peers.settle()
    kim.write(lambda tx: tx.delete("ada1"))
    peers.settle()
    everything.set("ada1", "post/author", Ref("bob"))
    peers.settle()
    assert ("ada1", "post/author", Ref("bob")) in kim.triples


def test_what_one_deletes_while_all_is_loaded_stays_deleted() -> None:
    peers, _ = world(Limits(part_registers=1))
    kim = peers.client("kim").connect(whole=False)
    kim.ask("mine", POSTS, "ada")
    kim.up()
    for _ in range(3):
        peers.server.step()
        peers.down()
    kim.write(lambda tx: tx.delete("ada1"))
    peers.settle()
    assert subjects(kim) == {"ada2"}


def test_what_is_forgotten_comes_in_frames_of_bounded_size() -> None:
    peers, _ = world(Limits(part_registers=2))
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.got.clear()
    kim.core.unsubscribe("mine")
    kim.core.unsubscribe("theirs")
    peers.settle()
    assert not kim.triples
    assert max(len(frame.forget) for frame in [*kim.of(Poke), *kim.of(Part)]) == 2


def test_what_a_returning_replica_wrote_is_told_without_waiting_for_more() -> None:
    peers, _ = world()
    kim = asking(peers)
    kim.set("own", "post/title", "mine")
    peers.settle()
    kim.disconnect()
    kim.connect(whole=False)
    kim.got.clear()
    peers.settle()
    assert len(kim.of(Part)) == len(kim.of(Poke)) == 1
    assert kim.of(Part)[0].n < kim.of(Poke)[0].n


def test_what_is_given_up_while_away_is_told_until_it_is_forgotten() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.disconnect()
    kim.core.unsubscribe("theirs")
    everything.set("ada1", "post/title", "new")
    peers.settle()
    everything.set("bob1", "post/title", "not durable yet")
    everything.up()
    kim.connect(whole=False)
    kim.up()
    peers.down()
    assert kim.core.at == peers.server.durable_seq < peers.server.seq
    assert ("ada1", "post/title", "new") in kim.triples and ("bob1", "post/title", "of bob") in kim.triples
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}


def test_a_load_ends_with_what_it_is_for() -> None:
    """What nobody follows any more is not sent, for nobody would forget it."""
    peers, everything = world(Limits(part_registers=1))
    kim = peers.client("kim").connect(Subscription("k", predicates=["post/"]), whole=False)
    kim.up()
    for _ in range(3):
        peers.server.step()
    everything.set("bob2", "post/title", None)
    everything.up()
    kim.core.unsubscribe("k")
    kim.up()
    everything.set("bob2", "post/title", "again")
    everything.up()
    peers.settle()
    assert not kim.triples


def test_what_is_about_to_be_forgotten_and_written_again_is_whole() -> None:
    peers, everything = world()
    everything.write(lambda tx: tx.assign("ada1", "post/tags", ["a", "b"]))
    peers.settle()
    kim = asking(peers, tags=("[:find ?t :where [_ :post/tags ?t]]",))
    kim.core.unsubscribe("tags")
    kim.up()
    everything.write(lambda tx: tx.remove("ada1", "post/tags", "a"))
    everything.up()
    kim.write(lambda tx: tx.add("ada1", "post/tags", "c"))
    peers.settle()
    assert {v for _, p, v in kim.triples if p == "post/tags"} == {"b", "c"}


def test_what_one_wrote_is_followed_until_one_has_the_receipt() -> None:
    """… however much it is: the receipt brings back what stood there."""
    peers, everything = world(Limits(own_max=1))
    kim = peers.client("kim", role="reader").connect(whole=False)
    peers.settle()
    kim.write(
        lambda tx: [tx.set(f"{user}{n}", "post/title", "no") for user in ("ada", "bob") for n in (1, 2)]
    )
    kim.up()
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert len(kim.triples) == 4
    everything.set("ada1", "post/title", "new")
    peers.settle()
    assert ("ada1", "post/title", "new") in kim.triples
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert len(kim.triples) == 1


# ---------------------------------------- hostile clients


def failures(peer: Peer) -> list[tuple[str, str]]:
    return [(one.id, one.code) for one in peer.of(Failed)]


def test_what_is_no_query_fails_and_nothing_else() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    deep = "[:find ?p :where " + "(not " * 5_000 + "[?p :post/title _]" + ")" * 5_001
    bad: list[dict[str, Any]] = [
        {"query": "[:find"},
        {"query": deep},
        {"query": POSTS, "inputs": [[[[["s", "ada"]]]]]},
        {"query": POSTS, "inputs": [{"many": 1}]},
        {"query": POSTS, "inputs": [None, 7, {}]},
        {"query": POSTS, "inputs": [["s", "ada"]] * 100_000},
        {"query": POSTS, "inputs": [["n", "ada"]]},
        {"query": POSTS, "rules": "[" * 5_000},
        {"query": NAMES, "rules": 'x"'},
        {"query": "", "inputs": [["s", "x"]]},
    ]
    for number, said in enumerate(bad):
        kim.core.ask(Subscribe(Subscription(f"bad{number}", **said)))
    peers.settle()
    assert {name for name, _ in failures(kim)} == {f"bad{number}" for number in range(len(bad))}
    right(peers, kim, POSTS, "ada")
    feed = peers.server.connections[kim.conn].feed
    assert list(feed.sizes) == ["mine"] and not feed.loads


def test_names_of_subscriptions_are_short() -> None:
    for frame in (Subscribe(Subscription("x" * 10_000, query=NAMES)), Describe("x" * 10_000)):
        peers, _ = world()
        kim = asking(peers)
        kim.core.ask(frame)
        peers.settle()
        assert kim.conn is None and peers.faults[-1].code == "malformed"


def test_subscriptions_are_bounded_together() -> None:
    peers, _ = world(Limits(subscriptions_max=3, subscription_bytes_max=3_000))
    kim = asking(peers, a=(POSTS, "ada"), b=(POSTS, "bob"), c=(NAMES,), d=(SILENT,))
    assert failures(kim) == [("d", "limits")]
    kim.core.unsubscribe("a")
    kim.ask("long", POSTS, "x" * 4_000)
    kim.ask("e", POSTS, "x" * 1_000)
    peers.settle()
    assert failures(kim)[1:] == [("long", "limits")] and kim.core.is_live("e")


def test_what_is_asked_for_in_a_loop_waits_in_bounded_numbers() -> None:
    peers, _ = world(Limits(subscriptions_max=5))
    kim = asking(peers)
    for _ in range(100):
        kim.ask("mine", POSTS, "ada")
        kim.core.unsubscribe("mine")
    kim.up()
    readers = peers.server.readers
    assert len(readers.loads.evaluations) <= 5 and len(readers.relevance._interests) <= 3
    peers.settle()
    assert ("mine", "limits") in failures(kim) and not kim.triples


def test_the_oldest_of_very_many_that_are_away_are_forgotten() -> None:
    peers, _ = world(Limits(holdings_max=5))
    kims = [asking(peers, f"kim{number}", mine=(POSTS, "ada")) for number in range(12)]
    for kim in kims:
        kim.disconnect()
    readers = peers.server.readers
    assert len(readers._holdings) == 5 and len(readers._away) <= 5
    for kim in kims:
        kim.connect(whole=False)
        peers.settle()
        right(peers, kim, POSTS, "ada")


def test_a_query_that_grows_beyond_its_units_fails_then() -> None:
    peers, everything = world(Limits(query_units=60))
    kim = asking(peers, names=(NAMES,))
    assert kim.core.is_live("names")
    for number in range(150):
        everything.set(f"u{number}", "user/name", f"{number}")
        peers.settle()
    assert failures(kim) == [("names", "budget")] and "user/name" not in {p for _, p, _ in kim.triples}


def test_frames_out_of_order_cost_the_connection() -> None:
    peers, _ = world()
    for frame in (Subscribe(Subscription("q", query=NAMES)), Unsubscribe("q"), Describe("d")):
        kim = peers.client("kim").connect(whole=False)
        assert kim.conn is not None
        peers.to_server(kim.conn, messages.encode(frame))
        assert peers.faults[-1].code == "order"
    kim = asking(peers, mine=(POSTS, "ada"))
    for name in ("nobody", "mine", "mine"):
        kim.core.ask(Unsubscribe(name))
    peers.settle()
    assert not kim.triples and kim.conn is not None
