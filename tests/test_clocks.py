"""Wrong clocks: whoever has one neither wins for ever, nor is shut out, nor loses what he wrote (DESIGN, section 3)."""

from __future__ import annotations

import pytest

from tests.peers import NOW_MS, Peer, Peers
from tripleweb.clock import MOMENT_MAX, TOLERANCE_MS, pack, unpack
from tripleweb.sync.client import APP
from tripleweb.sync.messages import Subscription
from tripleweb.sync.records import Fate

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
WRONG = [-10 * YEAR, -YEAR, -HOUR, -70_000, 70_000, HOUR, YEAR, 10 * YEAR]
ABSURD = [0, -1, -(10**16), 10**16, 1 << 62, MOMENT_MAX, MOMENT_MAX + 1, NOW_MS]


def fates(peer: Peer) -> list[Fate]:
    return [fate for update in peer.updates if update.commit for fate in update.commit.fates]


def pass_time(peers: Peers, ms: int) -> None:
    peers.now_ms += ms
    for peer in peers.clients:
        if peer.conn is not None:
            peer.core.ping(peer.now_ms)
    peers.settle()


def value(peers: Peers, predicate: str = "k/v") -> object:
    """What everybody shows."""
    peers.settle()
    peers.agree()
    (shown,) = peers.server.store.values("e", predicate)
    return shown


@pytest.mark.parametrize("ahead", WRONG)
@pytest.mark.parametrize("before", [True, False], ids=["before it is known", "once it is known"])
def test_a_wrong_clock_neither_wins_for_ever_nor_loses(ahead: int, before: bool) -> None:
    """A correct write made seconds after a far-future one was accepted wins; and the other way round."""
    peers = Peers()
    ada, bob = peers.client("ada"), peers.join("bob")
    ada.ahead_ms = ahead
    if not before:
        ada.connect()
        peers.settle()
    for number in range(5):
        ada.set("e", "k/v", f"ada's {number}")
        ada.set("e", f"k/{number}", number)
    if before:
        ada.connect()
    assert value(peers) == "ada's 4"
    for turn in range(3):
        pass_time(peers, 2_000)
        bob.set("e", "k/v", f"bob's {turn}")
        assert value(peers) == f"bob's {turn}"
        pass_time(peers, 2_000)
        ada.set("e", "k/v", f"ada's {turn}")
        assert value(peers) == f"ada's {turn}"
    assert {fate.outcome for fate in fates(ada)} <= {"applied", "restamped"}
    assert {fate.outcome for fate in fates(bob)} == {"applied"}
    for peer in (ada, bob):
        assert abs(unpack(peer.core.clock.last)[0] - peers.now_ms) < TOLERANCE_MS
    assert not peers.faults


@pytest.mark.parametrize("ahead", WRONG)
def test_a_clock_that_jumps_between_question_and_answer_is_not_believed(ahead: int) -> None:
    """The offset is the server's clock minus ours: a jump on the way would make it wrong by half of the jump."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.core.ping(ada.now_ms)
    ada.up()
    ada.ahead_ms = ahead
    peers.settle()
    assert ada.core.offset_ms in (0, -ahead)
    pass_time(peers, 15_000)
    assert ada.core.offset_ms == -ahead
    ada.set("e", "k/v", 1)
    pass_time(peers, 2_000)
    bob.set("e", "k/v", 2)
    assert value(peers) == 2


def test_a_jump_during_the_handshake_is_made_good_by_the_next_answer() -> None:
    peers = Peers()
    ada = peers.client("ada").connect()
    ada.up()
    ada.ahead_ms = HOUR
    peers.settle()
    pass_time(peers, 15_000)
    assert ada.core.offset_ms == -HOUR


@pytest.mark.parametrize("back", [-70_000, -HOUR, -10 * YEAR])
@pytest.mark.parametrize("whole", [True, False], ids=["the app", "a query"])
def test_what_was_loaded_is_seen_by_a_clock_that_jumped_back(back: int, whole: bool) -> None:
    """A load tells the server's clock: what is written next is later than what came with it."""
    peers = Peers()
    bob, ada = peers.join("bob"), peers.client("ada")
    ada.connect(whole=False)
    peers.settle()
    bob.set("e", "k/v", "bob's")
    peers.settle()
    ada.ahead_ms = back
    if whole:
        ada.core.subscribe(Subscription(APP))
    else:
        ada.ask("q", "[:find ?v . :where [?e :k/v ?v]]")
    peers.settle()
    (loaded,) = ada.core.store.registers_of("e")
    ada.set("e", "k/v", "ada's")
    (written,) = ada.core.store.registers_of("e")
    assert (loaded.value, written.value) == ("bob's", "ada's") and written.time > loaded.time
    assert value(peers) == "ada's"


def test_a_slow_answer_says_less_than_a_quick_one() -> None:
    peers = Peers()
    ada = peers.join("ada")
    ada.ahead_ms = 100
    pass_time(peers, 0)
    assert ada.core.offset_ms == -100
    ada.core.ping(ada.now_ms)
    ada.up()
    peers.now_ms += 40_000  # the answer is long on its way
    peers.settle()
    assert ada.core.offset_ms == -100


def test_a_clock_jumps_back_and_forth_while_it_runs() -> None:
    """Absurd clocks stop no write, and are forgotten when they are right again."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    written = 0
    for turn in range(3):
        for moment in ABSURD:
            ada.ahead_ms = moment - peers.now_ms
            before = ada.core.clock.last
            ada.set("e", "k/v", written)
            ada.set("e", f"k/{turn}", written)
            written += 1
            assert ada.core.clock.last > before
            if moment % 2:
                pass_time(peers, 1_000)
            if turn == 1:
                ada.disconnect()
                ada.connect()
    assert value(peers) == written - 1
    ada.ahead_ms = 0
    pass_time(peers, 15_000)
    ada.set("e", "k/v", "right again")
    assert value(peers) == "right again"
    pass_time(peers, 2_000)
    bob.set("e", "k/v", "bob's")
    assert value(peers) == "bob's"
    assert {fate.outcome for fate in fates(ada)} <= {"applied", "restamped"}
    assert len([fate for fate in fates(ada) if fate.predicate == "k/v"]) == written + 1
    assert not peers.faults


@pytest.mark.parametrize("absurd", ABSURD)
def test_a_server_whose_clock_is_absurd_for_a_while(absurd: int) -> None:
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    peers.now_ms, right = absurd, peers.now_ms
    for peer in (ada, bob):
        peer.ahead_ms = right - absurd
    for number in range(3):
        ada.set("e", "k/v", number)
        bob.set("e", f"k/{number}", number)
        pass_time(peers, 1_000)
        bob.disconnect()
        bob.connect()
    peers.now_ms = right + 60_000
    for peer in (ada, bob):
        peer.ahead_ms = 0
    pass_time(peers, 15_000)
    for turn in range(3):
        for peer in (ada, bob):
            pass_time(peers, 2_000)
            peer.set("e", "k/v", f"{peer.name} {turn}")
            assert value(peers) == f"{peer.name} {turn}"
    assert not peers.faults


@pytest.mark.parametrize("back", [-YEAR, -HOUR, -(10**16)])
def test_a_restart_never_stamps_backwards(back: int) -> None:
    peers = Peers()
    ada = peers.client("ada")
    ada.set("e", "k/v", "before")
    last = ada.core.clock.last
    ada.ahead_ms = back
    ada.start()
    ada.set("e", "k/v", "after")
    assert ada.core.clock.last > last
    ada.connect()
    assert value(peers) == "after"


def test_a_laptop_that_slept() -> None:
    """Its clock is right, what is on its way is old, and the connection has long been given up at the other end."""
    peers = Peers()
    ada, bob = peers.join("ada"), peers.join("bob")
    ada.set("e", "k/v", "before the night")
    ada.core.ping(ada.now_ms)
    ada.up()
    peers.now_ms += 8 * HOUR
    ada.disconnect(seen_by_server=False)
    ada.set("e", "k/w", "in the morning")
    bob.set("e", "k/v", "overnight")
    peers.settle()
    ada.connect()
    assert value(peers) == "overnight" and value(peers, "k/w") == "in the morning"
    assert ada.core.offset_ms == 0 and abs(unpack(ada.core.clock.last)[0] - peers.now_ms) < 1_000
    ada.set("e", "k/v", "after breakfast")
    assert value(peers) == "after breakfast"
    assert {fate.outcome for fate in fates(ada)} == {"applied"}
    assert ada.core.clock.last >= pack(peers.now_ms)
