"""Random histories of replicas that load what they ask: whatever is lost, slow, restarted, copied or forgotten, what a
replica shows is what the server had at the point where the replica stands, and what it asked for is all there.

After every poke (I) what is shown at a place is what the server had there as of `ClientCore.at`, with what is pending
on top, and (C) the query of each live subscription answers as on the server's store of that point. Nothing is sent that
is not durable. When all is settled, nothing is shown that the server does not follow for the replica.

A failure prints its seed; `follow(SEED)` replays it. Bugs planted at the end must be noticed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.peers import Peer, Peers, triples
from tripleweb.change import COUNTER, DELETED, Change
from tripleweb.datalog.evaluate import run
from tripleweb.errors import DeletedError
from tripleweb.store import Store
from tripleweb.sync import feed, messages, readers
from tripleweb.sync.client import APP, ClientCore
from tripleweb.sync.messages import Failed, Fault, Part, Poke, Subscription
from tripleweb.sync.server import Limits
from tripleweb.terms import Ref
from tripleweb.transaction import Transaction

RULES = "[[(reach ?a ?b) [?a :k/e ?b]] [(reach ?a ?b) [?a :k/e ?c] (reach ?c ?b)]]"
QUERIES: list[tuple[str, list[Any], str | None]] = [
    ("[:find ?a ?n :where [?a :k/e ?b] [?b :k/n ?n]]", [], None),
    ("[:find ?b ?s :in $ ?a :where [?a :k/e ?b] [?b :k/s ?s]]", ["s1"], None),
    ("[:find ?s :in $ ?a :where [?a :k/s ?s]]", ["s2"], None),
    ("[:find ?a ?s :where [?a :k/s ?s] (not [_ :k/e ?a])]", [], None),
    ("[:find ?a :where [?a :k/n ?n] (or [?a :k/s _] (and [?a :k/e ?b] [?b :k/s _]))]", [], None),
    ('[:find ?b ?n :in $ % :where (reach "s0" ?b) [?b :k/n ?n]]', [], RULES),
    ("[:find ?a ?n :where [?a :k/n ?n] :order-by [?n :desc] :limit 2]", [], None),
    ("[:find (pull ?a [:k/s {:k/e [:k/n :k/m]}]) :where [?a :k/n _]]", [], None),
    ("[:find (pull ?a [*]) :in $ ?s :where [?a :k/s ?s]]", ["x"], None),
    ("[:find ?s (count ?a) :where [?a :k/s ?s] [?a :k/m _]]", [], None),
    ("[:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/n 0) ?n]]", [], None),
    ("[:find ?a ?c :where [?a :k/c ?c]]", [], None),
    ("[:find ?a ?m :in $ [?a ...] :where [?a :k/m ?m]]", [["s1", "s3", "s4"]], None),
    ("[:find ?p ?v :in $ ?a :where [?a ?p ?v]]", ["s3"], None),
]
KINDS = [["k/"], ["k/n", "o/x"], ["o/"]]
SUBJECTS = [f"s{n}" for n in range(7)]
NAMES = ["a", "b"]  # before the number of what is asked for: equal queries may be there twice


def drawn(rng: random.Random) -> Limits:
    return Limits(
        part_registers=rng.choice([1, 2, 500]),
        frame_bytes=rng.choice([300, 1_000, 4 << 20]),
        poke_transactions_max=rng.choice([1, 2, 2_000]),
        news_max=rng.choice([3, 8, 40, 20_000]),
        tail_max=rng.choice([2, 5, 20, 20_000]),
        held_ms=rng.choice([2_000, 60_000]),
        lag_max=rng.choice([1, 4, 1_000]),
        own_max=rng.choice([1, 3, 100_000]),
        receipt_bytes_max=rng.choice([200, 1_500, 1 << 20]),
        query_units=rng.choice([25, 5_000_000, 5_000_000]),
        slice_units=rng.choice([0, 5_000]),
    )


def values(store: Store, subject: str, predicate: str) -> list[str]:
    return sorted(map(repr, store.values(subject, predicate)))


def is_asked(one: Subscription, predicate: str) -> bool:
    """True if a subscription without a query asks for this predicate."""
    wanted = one.predicates
    return one.id == APP or any(predicate == w or (w[-1] == "/" and predicate.startswith(w)) for w in wanted)


class World(Peers):
    """Peers whose frames wait in pipes: `step` lets one random thing happen."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pipes: dict[Any, deque[bytes]] = {}  # by connection to the server, by (connection,) from it
        self.states: list[list[Change]] = [[]]  # by seq
        self.mirror = Store()
        self.stores: dict[int, Store] = {}
        self.known: set[tuple[Any, ...]] = set()  # registers that are or were durable
        self.flight: Any = None
        self.wanted: dict[Peer, dict[str, Subscription]] = {}
        self.checks = 0
        self.said = ""
        super().__init__(drawn(self.rng))
        self.random = random.Random(seed + 1)
        for number in range(3):
            self.enter(self.client(f"r{number}", role="reader" if number == 2 else "writer"))
        writer = self.client("all")
        self.wanted[writer] = {APP: Subscription(APP)}

    def enter(self, peer: Peer) -> None:
        self.wanted[peer] = {}

    # -- what happens

    def open(self) -> None:
        self.pipes.clear()
        self.flight = None
        super().open()

    def link(self, peer: Peer) -> None:
        peer.core.subscriptions.clear()
        for one in self.wanted[peer].values():
            peer.core.subscribe(self.copy(one))
        peer.connect(whole=False)

    @staticmethod
    def copy(one: Subscription) -> Subscription:
        return Subscription(
            one.id, query=one.query, inputs=one.inputs, rules=one.rules, predicates=one.predicates
        )

    def cut(self, peer: Peer, seen: bool = True) -> None:
        if peer.conn is not None:
            self.pipes.pop(peer.conn, None)
            self.pipes.pop((peer.conn,), None)
        peer.disconnect(seen)

    def send(self, peer: Peer) -> bool:
        if peer.conn is None:
            return False
        frames = peer.core.frames_to_send(peer.now_ms)
        self.pipes.setdefault(peer.conn, deque()).extend(map(messages.encode, frames))
        return bool(frames)

    def arrive(self, peer: Peer) -> bool:
        """One frame of a client reaches the server."""
        if peer.conn is None or not (pipe := self.pipes.get(peer.conn)):
            return False
        conn = peer.conn
        self.to_server(conn, pipe.popleft())
        if peer.conn is None:
            raise AssertionError(f"{peer.name} was thrown out: {self.faults[-1]}")
        return True

    def emit(self) -> bool:
        """What may leave the server is on its way."""
        moved = False
        for conn, frame in self.server.frames_to_send():
            moved = True
            self.check_frame(frame)
            self.pipes.setdefault((conn,), deque()).append(messages.encode(frame))
        return moved

    def deliver(self, peer: Peer) -> bool:
        if peer.conn is None or not (pipe := self.pipes.get((peer.conn,))):
            return False
        frame = messages.decode_server(pipe.popleft())
        update = peer.take(frame)
        peer.got.clear()
        if isinstance(update.frame, Failed):
            peer.core.unsubscribe(update.frame.id)
            self.wanted[peer].pop(update.frame.id, None)
        if isinstance(frame, Fault):
            self.cut(peer)
        elif isinstance(frame, Poke) and peer.core.state == "online":  # else it is to load again
            self.check(peer, "after a poke")
        return True

    def take_commit(self) -> bool:
        if self.flight is not None:
            return False
        self.flight = self.server.take_commit()
        return self.flight is not None

    def land(self) -> bool:
        if self.flight is None:
            return False
        commit, self.flight = self.flight, None
        self.disk.commit(commit)
        for entry in self.disk.log[len(self.states) - 1 :]:
            self.mirror.apply(entry.registers)
            self.states.append(list(self.mirror.registers()))
            self.known.update(entry.registers)
        self.server.committed(commit, self.now_ms)
        return True

    def work(self) -> bool:
        if self.server.is_heavy:
            self.server.evaluate()
            return True
        return self.server.has_work() and self.server.step()

    def sweep(self) -> None:
        readers = self.server.readers
        for interest in list(readers.relevance._interests.values()):
            if interest.needed is not None and interest not in readers._swept:
                readers._swept.add(interest)
                readers.loads.evaluations.append((interest, partial(readers._sweep, interest)))

    # -- what people do

    def subscribe(self, peer: Peer) -> None:
        name = self.rng.choice(NAMES)
        kind = self.rng.random()
        if kind < 0.06:
            one = Subscription(APP)
        elif kind < 0.2:
            kinds = self.rng.choice(KINDS)
            one = Subscription(name + kinds[0], predicates=kinds)
        else:
            text, inputs, rules = self.rng.choice(QUERIES)
            wire = [messages.input_to_wire(given) for given in inputs]
            one = Subscription(f"{name}{len(text)}", query=text, inputs=wire, rules=rules)
        self.wanted[peer][one.id] = one
        peer.core.subscribe(self.copy(one))

    def unsubscribe(self, peer: Peer, name: str = "") -> None:
        names = sorted(self.wanted[peer])
        if names:
            name = name or self.rng.choice(names)
            del self.wanted[peer][name]
            peer.core.unsubscribe(name)

    def write(self, peer: Peer) -> None:
        rng = self.rng

        def one(tx: Transaction) -> None:
            subject, kind = rng.choice(SUBJECTS), rng.random()
            if kind < 0.25:
                tx.set(subject, "k/n", rng.choice([None, 1, 2, 3, 4]))
            elif kind < 0.4:
                tx.set(subject, "k/s", rng.choice(["x", "y", "z" * 40, None]))
            elif kind < 0.6:
                tx.set(subject, "k/e", Ref(rng.choice(SUBJECTS)))
            elif kind < 0.7:
                tx.add(subject, "k/m", rng.choice("pqr"))
            elif kind < 0.77:
                tx.remove(subject, "k/m", rng.choice("pqr"))
            elif kind < 0.83:
                tx.assign(subject, "k/m", rng.sample("pqrs", 2))
            elif kind < 0.93:
                tx.increment(subject, "k/c", rng.choice([1, 2, 5]))
            elif kind < 0.985:
                tx.set(subject, "o/x", rng.choice(["1", "2"]))
            else:
                tx.delete(subject)

        def all_(tx: Transaction) -> None:
            for _ in range(rng.choice([1, 1, 1, 2, 6])):
                with suppress(DeletedError):
                    one(tx)

        tx = peer.core.begin(peer.now_ms)
        all_(tx)
        commit = peer.core.prepare(tx)
        if commit is not None:
            peer.disk.save(commit)
        peer.core.accept(tx, commit)

    def step(self) -> None:
        rng = self.rng
        peer = rng.choice(self.clients)
        kind = rng.random()
        if peer.conn is None and kind < 0.4:
            return self.link(peer)
        if kind < 0.12:
            self.write(peer)
        elif kind < 0.2:
            self.subscribe(peer)
        elif kind < 0.25:
            self.unsubscribe(peer)
        elif kind < 0.35:
            self.send(peer)
        elif kind < 0.5:
            for _ in range(rng.randrange(4)):
                self.arrive(peer)
        elif kind < 0.56:
            self.take_commit()
        elif kind < 0.63:
            self.land()
        elif kind < 0.7:
            self.emit()
        elif kind < 0.82:
            for _ in range(rng.randrange(6)):
                self.deliver(peer)
        elif kind < 0.9:
            self.work()
        elif kind < 0.93:
            self.cut(peer)
        elif kind < 0.94 and peer.conn is not None:
            (self.server.pause if rng.random() < 0.6 else self.server.resume)(peer.conn)
        elif kind < 0.955:
            self.now_ms += rng.choice([10, 1_000, 3_000, 61_000])
            self.server.tick(self.now_ms)
        elif kind < 0.965:
            self.sweep()
        elif kind < 0.972:
            self.cut(peer)
            peer.start()
        elif kind < 0.976:
            self.open()
        elif kind < 0.979 and len(self.clients) < 6 and APP not in self.wanted[peer]:
            twin = peer.copied(f"{peer.name}+")
            self.wanted[twin] = dict(self.wanted[peer])
        elif kind < 0.985:
            peer.ahead_ms = rng.choice([0, 0, 30_000, 200_000])
        else:
            self.settle()
            self.check_settled()
        return None

    def settle(self) -> None:
        for _ in range(20_000):
            moved = False
            for peer in self.clients:
                if peer.conn is None:
                    self.link(peer)
                    moved = True
                self.server.resume(peer.conn)
                moved = self.send(peer) or moved
                while self.arrive(peer):
                    moved = True
            moved = self.take_commit() or moved
            moved = self.land() or moved
            moved = self.emit() or moved
            for peer in self.clients:
                while self.deliver(peer):
                    moved = True
            moved = self.work() or moved
            if not moved:
                return
        raise AssertionError("it never settles")

    # -- what must be so

    def check_frame(self, frame: Any) -> None:
        if isinstance(frame, Poke):
            assert frame.since <= frame.seq, "a poke goes back"
            assert frame.seq <= self.disk.seq, "a poke is told before it is durable"
            assert len(frame.forget) <= max(self.limits.part_registers, 1), "a frame without bound"
        if isinstance(frame, Part):
            assert len(frame.registers) <= self.limits.part_registers
            for wire in frame.registers:
                assert messages.register_from_wire(wire) in self.known, f"not durable: {wire}"

    def store_at(self, seq: int) -> Store:
        if seq not in self.stores:
            store = self.stores[seq] = Store()
            store.apply(self.states[seq])
        return self.stores[seq]

    def expected(self, peer: Peer, place: tuple[str, str], base: Iterable[Change]) -> list[str]:
        """What is at a place if the server's registers there are `base`, with what is pending on top."""
        store = Store()
        store.apply(base)
        for pending in peer.core.outbox.values():
            for change in pending.changes:
                if change.subject != place[0] or change.predicate not in (place[1], DELETED):
                    continue
                if change.slot == COUNTER:
                    key = (*place, COUNTER + peer.core.replica)
                    held = store.register(key)
                    share = (held.value if held is not None and held.value is not None else 0) + change.value  # type: ignore[operator]
                    if store.deleted(place[0]) is None:
                        store.put([Change(*key, share, change.time, change.replica)])
                else:
                    store.apply([change])
        return values(store, *place)

    def check(self, peer: Peer, note: str) -> None:
        self.checks += 1
        core = peer.core
        base = self.store_at(core.at if core.epoch else 0)
        places = {(s, p) for s, p, _ in peer.triples}
        places |= {(c.subject, c.predicate) for one in core.outbox.values() for c in one.changes}
        for place in sorted(places):
            if place[1] == DELETED:
                continue
            shown = values(core.store, *place)
            if shown != self.expected(peer, place, base.registers_at(*place)):
                bare = self.expected(peer, place, ())
                assert shown == bare, (
                    f"{note}: {peer.name} at {core.at} shows {shown} at {place}, {bare} pending"
                )
        if not core.outbox:
            for name, one in core.subscriptions.items():
                if core.is_live(name):
                    self.check_answer(peer, one, base, note)

    def check_answer(self, peer: Peer, one: Subscription, base: Store, note: str) -> None:
        mine: Any
        theirs: Any
        if one.query is not None:
            inputs = [messages.input_from_wire(wire) for wire in one.inputs]
            mine, theirs = (
                sorted(map(repr, run(one.query, inputs, store, rules=one.rules).rows))
                for store in (peer.core.store, base)
            )
        else:
            mine, theirs = (
                sorted(repr(triple) for triple in triples(store) if is_asked(one, triple[1]))
                for store in (peer.core.store, base)
            )
        assert mine == theirs, (
            f"{note}: {peer.name} at {peer.core.at}, {one.id} {one.query or one.predicates}"
        )

    def check_settled(self) -> None:
        readers = self.server.readers
        for peer in self.clients:
            core = peer.core
            assert not core.outbox, f"{peer.name} has pending writes"
            assert not core._arrivals._parts, f"{peer.name} has parts and no poke"
            self.check(peer, "settled")
            for name in core.subscriptions:
                assert core.is_live(name), f"{peer.name} waits for {name}"
            feed = self.server.connections[peer.conn].feed
            assert not feed.news and not feed.entering and not feed.loads and not feed.receipts, peer.name
            if not feed.whole:
                for s, p, v in sorted(peer.triples, key=repr):
                    assert feed.holding is not None
                    assert feed.holding.holds((s, p)), (
                        f"settled: {peer.name} shows {s} {p} {v!r}, not followed"
                    )
                    assert (s, p, v) in triples(self.server.store), (
                        f"settled: {peer.name} shows {s} {p} {v!r}"
                    )
        connected = {peer.core.replica for peer in self.clients}
        assert not readers.loads.evaluations and connected >= {
            one.replica for one in readers._holdings.values() if one.feed is not None
        }

    def check_nothing_left(self) -> None:
        """All have gone for long."""
        for peer in self.clients:
            self.cut(peer)
        while self.take_commit() or self.land() or self.emit() or self.work():
            pass
        self.now_ms += self.limits.held_ms + 1
        self.server.tick(self.now_ms)
        one = self.server.readers
        left = (one._holdings, one._away, one.relevance._interests, one.relevance._held, one.due, one._whole)
        assert not any(left), left


def follow(seed: int, steps: int = 250) -> World:
    world = World(seed)
    try:
        for step in range(steps):
            world.said = f"seed {seed}, step {step}"
            world.step()
        world.settle()
        world.check_settled()
        world.check_nothing_left()
    except Exception as error:
        raise AssertionError(f"{world.said}: {type(error).__name__}: {error}") from error
    return world


@pytest.mark.parametrize("seeds", [range(n * 10, n * 10 + 10) for n in range(4)], ids=str)
def test_random_histories(seeds: range) -> None:
    assert sum(follow(seed).checks for seed in seeds) > 300


@pytest.mark.long
@pytest.mark.parametrize("seeds", [range(n * 100, n * 100 + 60) for n in range(1, 5)], ids=str)
def test_more_random_histories(seeds: range) -> None:
    assert sum(follow(seed, steps=400).checks for seed in seeds) > 1_800


# ---------------------------------------- planted bugs

Patch = pytest.MonkeyPatch


def _forgets_before_parts(patch: Patch) -> None:
    """What is forgotten goes before the parts of its poke are taken."""
    take, drop = ClientCore._take_shares, ClientCore._drop

    def early(self: Any, parts: Any, step: Any) -> None:
        take(self, parts, step)
        drop(self, self._forget, step)
        step.deltas.append(self.store.apply(parts))

    patch.setattr(ClientCore, "_take_shares", early)
    patch.setattr(ClientCore, "_drop", lambda self, places, step: None)


def _own_writes_not_followed(patch: Patch) -> None:
    patch.setattr(readers.Readers, "wrote", lambda *_: None)


def _ticket_ignored(patch: Patch) -> None:
    """Whoever comes back is taken for who left, wherever it stands."""
    resume = readers.Readers._resume

    def trusting(self: Any, one: Any, hello: Any, *rest: Any) -> None:
        if (held := self._holdings.get(hello.replica)) is not None:
            hello.ticket = held.ticket
        resume(self, one, hello, *rest)

    patch.setattr(readers.Readers, "_resume", trusting)


def _entering_not_cleared(patch: Patch) -> None:
    pokes = feed.Feed.pokes

    def again(self: Any, *rest: Any) -> Any:
        before = dict(self.entering)
        yield from pokes(self, *rest)
        self.entering = before if self.is_over or len(before) < 2 else {}

    patch.setattr(feed.Feed, "pokes", again)


def _gap_not_told(patch: Patch) -> None:
    patch.setattr(readers.Tail, "between", lambda self, since, upto: [])


def _cut_at_forgets_missing(patch: Patch) -> None:
    """Places that came after what is forgotten go into the same poke, before it."""
    drain = feed.Feed._drain

    def unordered(self: Any, *rest: Any) -> Any:
        gone = {place for _, one in self.news if isinstance(one, feed.Gone) for place in one.places}
        at, entries, loads, forget = drain(self, *rest)
        return at, entries, loads, [*forget, *sorted(gone - set(forget))] if forget else forget

    patch.setattr(feed.Feed, "_drain", unordered)


def _holdings_not_expired(patch: Patch) -> None:
    patch.setattr(readers.Readers, "_expire", lambda *_: None)


def _reset_without_own_places(patch: Patch) -> None:
    reload_ = readers.Readers._reload

    def bare(self: Any, one: Any) -> Any:
        if one.holding is not None:
            places, one.holding.own.places = one.holding.own.places, {}
            job = reload_(self, one)
            yield next(job, None)
            one.holding.own.places = places
            yield from job
        else:
            yield from reload_(self, one)

    patch.setattr(readers.Readers, "_reload", bare)


def _loads_cut_short(patch: Patch) -> None:
    """A poke that has a load need not reach as far as it."""
    told = feed.told
    patch.setattr(feed, "told", lambda since, upto, said, limits, least: told(since, upto, said, limits))


def _forgets_not_remembered(patch: Patch) -> None:
    catch_up = readers.Readers._catch_up

    def careless(self: Any, one: Any, holding: Any, since: int) -> None:
        holding.forgets.clear()
        one.news = deque(news for news in one.news if not isinstance(news[1], feed.Gone))
        catch_up(self, one, holding, since)

    patch.setattr(readers.Readers, "_catch_up", careless)


def _places_that_came_not_sent(patch: Patch) -> None:
    patch.setattr(readers.Readers, "_ship", lambda *_: None)


def _all_increments_counted_again(patch: Patch) -> None:
    top = ClientCore._put_pending_on_top
    patch.setattr(
        ClientCore,
        "_put_pending_on_top",
        lambda self, step, full: top(self, step, full or bool(step.touched)),
    )


def _forgotten_again_after_the_load(patch: Patch) -> None:
    """What is to be forgotten stays so, though a load brings it anew."""
    evaluated = readers.Readers._evaluated

    def careless(self: Any, one: Any, *rest: Any) -> None:
        gone = [(news, list(news.places)) for _, news in one.news if isinstance(news, feed.Gone)]
        evaluated(self, one, *rest)
        for news, places in gone:
            news.places = places

    patch.setattr(readers.Readers, "_evaluated", careless)


BUGS: dict[Callable[[Patch], None], int] = {  # with the seed that notices it first
    _forgets_before_parts: 4,
    _own_writes_not_followed: 1,
    _ticket_ignored: 3,
    _gap_not_told: 0,
    _cut_at_forgets_missing: 16,
    _holdings_not_expired: 0,
    _reset_without_own_places: 15,
    _loads_cut_short: 0,
    _forgets_not_remembered: 16,
    _places_that_came_not_sent: 1,
    _all_increments_counted_again: 0,
    _forgotten_again_after_the_load: 0,
    _entering_not_cleared: 0,
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__[1:])
def test_a_planted_bug_is_noticed(bug: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(BUGS[bug], BUGS[bug] + 100):
            follow(seed)
