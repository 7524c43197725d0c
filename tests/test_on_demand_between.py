"""Loading what is asked, in the moments between a decision and its being durable, or between two frames: each of these
is here because wrong code in `sync` had not been noticed by the tests before it."""

from __future__ import annotations

from tests.peers import Peer
from tests.test_on_demand import NAMES, POSTS, asking, post, right, subjects, world
from tripleweb.sync import messages
from tripleweb.sync.messages import Part, Poke
from tripleweb.sync.server import Limits

ALL = "[:find ?p ?t :where [?p :post/author _] [?p :post/title ?t]]"
LIKES = "[:find ?n :where [?p :post/likes ?n]]"


def failures(peer: Peer) -> list[tuple[str, str]]:
    return [(one.id, one.code) for one in peer.of(messages.Failed)]


def test_asked_for_again_while_the_forgetting_is_not_durable() -> None:
    peers, everything = world(Limits(part_registers=1, window_parts=0))
    kim = asking(peers, mine=(POSTS, "ada"))
    everything.set("bob", "user/name", "x")
    everything.up()  # not durable: what is to be forgotten waits for it
    kim.core.unsubscribe("mine")
    kim.ask("more", ALL)
    kim.up()
    while peers.server.has_work() and peers.server.step():
        pass
    peers.settle()
    right(peers, kim, ALL)
    assert subjects(kim) == {"ada1", "ada2", "bob1", "bob2"}


def test_same_asked_by_two_names_and_the_first_given_up() -> None:
    peers, everything = world(Limits(part_registers=1, window_parts=0))
    kim = asking(peers, a=(POSTS, "ada"))
    kim.ask("b", POSTS, "ada")
    kim.up()
    assert peers.server.step()  # its places are known
    post(everything, "ada3", "ada")
    everything.up()  # not durable
    kim.core.unsubscribe("a")
    kim.up()
    while peers.server.has_work() and peers.server.step():
        pass
    peers.settle()
    right(peers, kim, POSTS, "ada")


def test_a_load_sent_before_what_it_saw_is_durable() -> None:
    peers, everything = world(Limits(poke_transactions_max=1))
    kim = asking(peers, mine=(POSTS, "ada"))
    for number in range(5):
        post(everything, f"ada{number}", "ada", f"title {number}")
    everything.up()  # not durable
    kim.ask("names", NAMES)
    kim.up()
    while peers.server.has_work() and peers.server.step():
        pass
    kim.got.clear()
    peers.commit(), peers.down()
    loaded = next(poke for poke in kim.of(Poke) if "names" in poke.cursors)
    assert loaded.seq == peers.server.seq
    peers.settle()
    right(peers, kim, POSTS, "ada")


def test_forgets_are_bounded() -> None:
    for own_max, most in ((3, 3), (1_000, 12)):
        peers, everything = world(Limits(tail_max=2, own_max=own_max))
        kim = asking(peers)
        for number in range(10):
            post(everything, f"x{number}", f"u{number}")
            peers.settle()
            kim.ask(f"q{number}", POSTS, f"u{number}")
            peers.settle()
            kim.core.unsubscribe(f"q{number}")
            everything.set("bob", "user/name", f"{number}")
            peers.settle()
        ticket = peers.server.readers._holdings[kim.core.replica].ticket
        peers.server.tick(peers.now_ms)
        holding = peers.server.readers._holdings[kim.core.replica]
        assert len(holding.forgets) <= most
        assert (holding.ticket == ticket) == (own_max > 3)


def test_what_is_counted_while_its_place_is_forgotten() -> None:
    peers, _ = world()
    kim = asking(peers, likes=(LIKES,))
    kim.write(lambda tx: tx.increment("ada1", "post/likes", 5))
    peers.settle()
    peers.now_ms += peers.limits.held_ms + 1
    peers.server.tick(peers.now_ms)
    peers.settle()
    assert kim.triples == {("ada1", "post/likes", 5)}
    kim.core.unsubscribe("likes")
    kim.up()
    kim.write(lambda tx: tx.increment("ada1", "post/likes", 2))
    peers.down()
    assert kim.triples == {("ada1", "post/likes", 2)}
    peers.settle()
    assert kim.triples == {("ada1", "post/likes", 7)}


def test_set_again_where_the_forgetting_is_on_its_way() -> None:
    """Only its own word stands there: it is to come again all the same."""
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    everything.set("bob", "user/name", "x")
    everything.up()  # not durable
    kim.core.unsubscribe("mine")
    kim.up()
    kim.set("ada1", "post/title", "mine")
    kim.up()
    peers.settle()
    assert kim.triples == {("ada1", "post/title", "mine")}


def test_counting_after_other_words() -> None:
    peers, _ = world()
    kim = asking(peers)
    for number in (5, 2):
        kim.write(lambda tx, number=number: tx.increment("ada1", "post/likes", number))
        peers.settle()
        assert ("ada1", "post/likes", 5 if number == 5 else 7) in kim.triples
        peers.now_ms += peers.limits.held_ms + 1
        peers.server.tick(peers.now_ms)
        peers.settle()
        assert not kim.triples
        kim.set("own", "post/title", f"{number}")  # it stands beyond what it was to forget
        peers.settle()


def test_deleting_while_all_is_loaded_anew() -> None:
    for steps in range(1, 8):
        peers, _ = world(Limits(part_registers=1))
        kim = asking(peers, mine=(POSTS, "ada"))
        kim.disconnect()
        peers.now_ms += peers.limits.held_ms + 1
        peers.server.tick(peers.now_ms)
        kim.connect(whole=False)
        kim.up(), peers.down()
        for _ in range(steps):
            peers.server.step()
            peers.down()
        kim.write(lambda tx: tx.delete("ada1"))
        kim.set("ada2", "post/title", "new")
        kim.set("own", "post/title", "own")
        peers.settle()
        assert subjects(kim) == {"ada2", "own"}, steps
        right(peers, kim, POSTS, "ada")


def test_what_is_given_up_while_away_is_told_of_until_then() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
    kim.disconnect()
    kim.core.unsubscribe("theirs")
    everything.set("bob1", "post/title", "new")
    everything.write(lambda tx: tx.delete("bob2"))
    peers.settle()
    everything.set("bob1", "post/title", "not durable yet")
    everything.up()
    kim.connect(whole=False)
    kim.up()
    peers.down()
    assert ("bob1", "post/title", "new") in kim.triples and "bob2" not in subjects(kim)
    peers.settle()
    assert subjects(kim) == {"ada1", "ada2"}


def test_a_load_of_all_ends_with_what_it_is_for() -> None:
    for steps in range(1, 12):
        peers, _ = world(Limits(part_registers=1))
        kim = asking(peers, mine=(POSTS, "ada"), theirs=(POSTS, "bob"))
        kim.disconnect()
        peers.now_ms += peers.limits.held_ms + 1
        peers.server.tick(peers.now_ms)
        kim.connect(whole=False)
        kim.up()
        for _ in range(steps):
            peers.server.step()
        peers.down()
        kim.core.unsubscribe("theirs")
        kim.up()
        kim.got.clear()
        peers.settle()
        assert not [r for part in kim.of(Part) for r in part.registers if r[0].startswith("bob")], steps
        assert subjects(kim) == {"ada1", "ada2"}, steps


def test_forgotten_and_written_again_in_one_poke_with_a_load() -> None:
    peers, everything = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    everything.set("bob", "user/name", "x")
    everything.up()  # not durable
    kim.core.unsubscribe("mine")
    kim.up()
    kim.set("ada1", "post/title", "mine")
    kim.ask("names", NAMES)
    kim.up()
    while peers.server.has_work() and peers.server.step():
        pass
    peers.commit(), peers.down()
    assert ("ada1", "post/title", "mine") in kim.triples
    peers.settle()
    assert ("ada1", "post/title", "mine") in kim.triples and "ada2" not in subjects(kim)


def test_a_poke_has_few_transactions() -> None:
    peers, everything = world(Limits(poke_transactions_max=1))
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.got.clear()
    for number in range(5):
        post(everything, f"ada{number}", "ada", f"title {number}")
    everything.up()
    peers.settle()
    assert max(len(poke.transactions) for poke in kim.of(Poke)) == 1
    right(peers, kim, POSTS, "ada")


def test_an_old_word_comes_after_it_was_asked_for_again() -> None:
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.disconnect()
    kim.connect(whole=False)
    kim.up()
    peers.commit()
    kim.core.unsubscribe("mine")
    kim.ask("mine", POSTS, "ada")
    peers.down()  # the word on the one before
    assert not kim.core.is_live("mine")
    peers.settle()
    assert kim.conn is not None and not peers.faults and kim.core.is_live("mine")
    right(peers, kim, POSTS, "ada")


def test_asked_again_for_what_is_on_its_way() -> None:
    peers, _ = world(Limits(part_registers=1))
    kim = asking(peers)
    kim.ask("mine", POSTS, "ada")
    kim.up()
    while not kim.core.progress("mine")[0]:
        peers.server.step(), peers.down()
    before = kim.core.progress("mine")
    kim.ask("mine", POSTS, "ada")
    kim.up()
    assert kim.core.progress("mine") == before
    peers.settle()
    right(peers, kim, POSTS, "ada")


def test_changed_while_loaded_by_a_second_name_and_the_first_given_up() -> None:
    """What a second name loads has what the first was told meanwhile."""
    for new in (False, True):
        for steps in range(5):
            peers, everything = world(Limits(part_registers=1))
            kim = asking(peers, a=(POSTS, "ada"))
            kim.ask("b", POSTS, "ada")
            kim.up()
            for _ in range(steps):
                peers.server.step(), peers.down(), kim.up()
            post(everything, "ada3" if new else "ada1", "ada", "new")
            everything.up(), peers.commit(), peers.down()
            kim.core.unsubscribe("a")
            peers.settle()
            assert kim.core.is_live("b")
            right(peers, kim, POSTS, "ada")


def test_what_costs_too_much_fails() -> None:
    peers, _ = world(Limits(query_units=1))
    kim = asking(peers, names=(NAMES,))
    assert failures(kim) == [("names", "budget")] and not kim.core.is_live("names")
    feed = peers.server.connections[kim.conn].feed
    assert not feed.sizes and not feed.loads and not feed.asked
    assert not peers.server.readers._holdings[kim.core.replica].loads


def test_one_more_when_the_others_are_there() -> None:
    peers, _ = world(Limits(subscriptions_max=3))
    kim = asking(peers, a=(POSTS, "ada"), b=(POSTS, "bob"), c=(NAMES,))
    kim.ask("d", ALL)
    peers.settle()
    assert failures(kim) == [("d", "limits")]


def test_who_came_and_went_again_is_remembered_from_then() -> None:
    for stays in (False, True):
        peers, everything = world()
        kim = asking(peers, mine=(POSTS, "ada"))
        kim.disconnect()
        peers.now_ms += peers.limits.held_ms // 2
        kim.connect(whole=False)
        peers.settle()
        if not stays:
            kim.disconnect()
        peers.now_ms += peers.limits.held_ms // 2 + 1
        peers.server.tick(peers.now_ms)
        kim.got.clear()
        if not stays:
            kim.connect(whole=False)
        everything.set("ada1", "post/title", "new")
        peers.settle()
        assert not any(poke.reset for poke in kim.of(Poke))
        right(peers, kim, POSTS, "ada")


def test_a_load_that_was_lost_comes_again_whatever_was_there_before() -> None:
    """A restarted replica had it, went on without it, asked again, and was cut off before it came."""
    peers, _ = world()
    kim = asking(peers, mine=(POSTS, "ada"))
    kim.disconnect()
    kim.start()
    kim.connect(whole=False)
    kim.set("own", "post/title", "it stands further on now")
    peers.settle()
    kim.disconnect()
    kim.ask("mine", POSTS, "ada")
    kim.connect(whole=False)
    kim.up()
    while peers.server.has_work():
        peers.server.step()
    assert any(isinstance(frame, Poke) for _, frame in peers.server.frames_to_send())  # which is lost
    kim.disconnect()
    kim.connect(whole=False)
    peers.settle()
    assert not peers.faults and kim.core.is_live("mine")
    right(peers, kim, POSTS, "ada")


def test_what_came_to_be_needed_while_away_comes_with_the_load_that_goes_on() -> None:
    """Its first part had come. What is sent after it is what is needed by now, not what was when it began."""
    least = "[:find ?p ?n :where [?p :post/n ?n] :order-by [?n ?p] :limit 2]"
    peers, everything = world(Limits(part_registers=1, window_parts=1))
    for number in range(4):
        everything.set(f"p{number}", "post/n", number)
    peers.settle()
    kim = asking(peers)
    kim.ask("mine", least)
    kim.up()
    while not any(part.id for part in kim.of(Part)):
        if not (peers.server.has_work() and peers.server.step()):
            peers.commit()
            peers.down()
            kim.up()
    assert not kim.core.is_live("mine")
    kim.disconnect()
    everything.set("p1", "post/n", 9)  # now the second one is p2, which nobody has touched
    peers.settle()
    kim.connect(whole=False)
    peers.settle()
    assert any(part.start == 1 for part in kim.of(Part) if part.id), "the load begins anew"
    right(peers, kim, least)
