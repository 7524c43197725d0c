"""Undo and redo of several sessions that edit the same things at once: random histories over real cores.

Every value that is written is another one, so it is known at any time whose it is, and in whose deed it came.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.peers import Peer, Peers, triples
from tests.sim.disk import ReplicaDisk
from tripleweb.change import DELETED
from tripleweb.clock import parse_stamp
from tripleweb.sync import messages
from tripleweb.sync.client import ClientLimits, Update
from tripleweb.sync.messages import Check
from tripleweb.transaction import Transaction
from tripleweb.undo import Deed, Deeds, Left

Triple = tuple[str, str, Any]
NEVER = Check("[:find ?s . :where [?s :never/there]]")
GUARDS = [
    NEVER,
    Check("[:find ?s . :in $ ?s :where (not [?s :k/a])]", [["s", "a"]]),
    Check("[:find ?v . :in $ ?s :where [?s :k/b ?v]]", [["s", "b"]]),
]


class Person(Peer):
    """A session with what it remembers of its deeds, as `session.Session` keeps it."""

    def start(self) -> None:
        super().start()
        self.deeds = Deeds(self.core.store.replicas)
        self.brought: dict[str, list[Triple]] = {}  # by transaction: the values that it wrote
        self.outcomes: dict[str, str] = {}

    def act(self, write: Callable[[Transaction], Any], check: Check | None = None) -> Deed | None:
        tx = self.core.begin(self.now_ms)
        write(tx)
        commit = self.core.prepare(tx, check)
        if commit is not None:
            self.disk.save(commit)
        changes = list(tx.changes)
        delta = self.core.accept(tx, commit)
        if not changes or commit is None:
            return None
        id = commit.pending[0].id
        self.brought[id] = [
            (c.subject, c.predicate, c.value) for c in changes if c.slot[:2] != "c:" and c.value
        ]
        return Deed(id, tx, delta)

    def do(self, write: Callable[[Transaction], Any], check: Check | None = None) -> None:
        deed = self.act(write, check)
        if deed is not None:
            self.deeds.add(deed)

    def turn(self, redo: bool = False) -> tuple[Deed, list[Left]]:
        deed, left = self.deeds.last(redo), list[Left]()
        self.deeds.turn(self.act(lambda tx: left.extend(self.deeds.take_back(tx, deed))), redo)
        return deed, left

    def take(self, frame: messages.ServerFrame) -> Update:
        update = super().take(frame)
        for pending in update.commit.pending if update.commit is not None else ():
            self.deeds.restamped(pending.id, (pending.time, self.core.replica))
        for one in update.receipts:
            self.outcomes[one.id] = one.outcome
            rejected = one.outcome == "rejected"
            stamp, held = parse_stamp(one.stamp), one.registers_held
            self.deeds.decided(one.id, stamp, rejected, one.triples_stood, one.unseen, held)
        return update


class History:
    """Some people, what they do, and what must always be so."""

    def __init__(self, seed: int, names: str = "abc") -> None:
        self.rng = random.Random(seed)
        self.peers = Peers()
        self.people: list[Person] = []
        self.values = 0
        for name in names:
            person = Person(self.peers, f"p{name}", name, "writer", ReplicaDisk(), ClientLimits())
            self.peers.clients.append(person)
            self.people.append(person)
            person.connect()
        self.peers.settle()

    def value(self, person: Person) -> str:
        self.values += 1
        return f"{person.name}:{self.values}"

    def something(self, person: Person, deletes: float) -> Callable[[Transaction], Any]:
        rng = self.rng
        drawn = []
        for _ in range(rng.randrange(1, 4)):
            subject, kind = rng.choice("abcd" if deletes else "ab"), rng.random()
            if kind < deletes:
                drawn.append(("delete", subject))
            elif kind < 0.45:
                drawn.append(("set", subject, rng.choice(["k/a", "k/b"]), self.value(person)))
            elif kind < 0.55:
                drawn.append(("set", subject, rng.choice(["k/a", "k/b"]), None))
            elif kind < 0.7:
                drawn.append(("add", subject, "k/tags", self.value(person)))
            elif kind < 0.8:
                mine = sorted(map(str, person.core.store.values(subject, "k/tags")))
                drawn.append(("remove", subject, "k/tags", rng.choice(mine) if mine else "none"))
            elif kind < 0.88:
                drawn.append(("assign", subject, "k/tags", [self.value(person) for _ in range(2)]))
            else:
                drawn.append(("increment", subject, "k/likes", rng.choice([1, -2, 5])))

        def write(tx: Transaction) -> None:
            for name, *how in drawn:
                if tx.store.deleted(how[0]) is None:
                    getattr(tx, name)(*how)

        return write

    def step(self, deletes: float = 0.0, guarded: float = 0.3) -> None:
        """Somebody does something, or the network does."""
        self.peers.now_ms += self.rng.randrange(1, 2_000)
        person, kind = self.rng.choice(self.people), self.rng.random()
        if kind < 0.5:
            check = self.rng.choice(GUARDS) if self.rng.random() < guarded else None
            person.do(self.something(person, deletes), check)
        elif kind < 0.65:
            self.turn(person, redo=self.rng.random() < 0.4)
        elif kind < 0.75:
            person.disconnect() if person.conn is not None else person.connect()
        else:
            self.peers.settle()

    def turn(self, person: Person, redo: bool = False) -> None:
        """Takes something back, and looks at what that has done to what stood and to what was told."""
        if person.core.is_guarded or not (person.deeds.undone if redo else person.deeds.done):
            return
        before = triples(person.core.store)
        deed = person.deeds.last(redo)
        refused = self.refused(person)
        deed, left = person.turn(redo)
        after = triples(person.core.store)
        brought = set(person.brought[deed.id])
        for triple in before - after:
            if triple[1] != "k/likes":
                assert triple in brought, f"{triple} went, which it had not brought: {brought}"
        assert not {triple for triple in after - before if triple in refused}, "refused, and back"
        if person.outcomes.get(deed.id) == "rejected":
            assert before == after and {one.reason for one in left} <= {"rejected"}
        told = {tuple(one[:3]) for one in left}
        for subject, predicate in {(s, p) for s, p, _ in after if p in ("k/a", "k/b")}:
            assert len(person.core.store.values(subject, predicate)) == 1, (
                "what somebody else wrote has company"
            )
        for subject, predicate, value in set(deed_came(deed)) - before:
            held = person.core.store.register((subject, predicate, ""))
            if predicate != "k/tags" and held is not None and held.replica != person.core.replica:
                assert (subject, predicate, value) in told, (
                    f"{value} did not stand any more, which is not told"
                )
        for triple in brought & before & after:
            assert triple in told or self.stands_by_another(person, deed, triple), (
                f"{triple} is silently left"
            )

    def stands_by_another(self, person: Person, deed: Deed, triple: Triple) -> bool:
        """True if a value shows by a word of this session that is not the deed's: what was there before."""
        return any(triple in brought for id, brought in person.brought.items() if id != deed.id) or not any(
            value == triple for value in deed_came(deed)
        )

    def refused(self, person: Person) -> set[Triple]:
        """Values that came with nothing but what was rejected."""
        no = {id for id, outcome in person.outcomes.items() if outcome == "rejected"}
        gone = {triple for id in no for triple in person.brought.get(id, ())}
        return gone - {triple for id, all_ in person.brought.items() if id not in no for triple in all_}

    def end(self) -> None:
        for person in self.people:
            if person.conn is None:
                person.connect()
        self.peers.settle()
        self.peers.agree()
        shown = triples(self.peers.server.store)
        for person in self.people:
            assert not shown & self.refused(person)


def deed_came(deed: Deed) -> list[Triple]:
    return [(s, p, v) for s, p, _, v, came in deed.changes() if came and v is not None and p != DELETED]


@pytest.mark.parametrize(
    "seed", [*range(25), *(pytest.param(n, marks=pytest.mark.long) for n in range(25, 120))]
)
def test_whatever_others_do(seed: int) -> None:
    """What goes is what the deed had brought; all else is told; nothing that was refused comes back; all agree."""
    print("seed", seed)
    history = History(seed)
    for _ in range(60):
        history.step(deletes=0.02 if seed % 3 == 0 else 0.0)
    history.end()
    for _ in range(40):
        history.turn(history.rng.choice(history.people), redo=history.rng.random() < 0.3)
        if history.rng.random() < 0.3:
            history.peers.settle()
    history.end()


@pytest.mark.parametrize("seed", range(15))
def test_back_and_forth_again(seed: int) -> None:
    """Where nobody interferes, redo brings back what undo took, and undo what was there before, guards or none."""
    print("seed", seed)
    history = History(seed, "ab")
    person, other = history.people
    other.do(lambda tx: tx.assign("a", "k/tags", ["theirs", "also"]))
    other.do(lambda tx: tx.set("a", "k/a", "theirs"))
    history.peers.settle()
    states = [shown(person)]
    for _ in range(6):
        history.peers.now_ms += 10
        check = history.rng.choice([None, None, *GUARDS])
        write = history.something(person, 0)
        person.do(write, check)
        known = person.deeds.done[-1].id if person.deeds.done else ""
        history.peers.settle()
        if person.outcomes.get(known) != "rejected" or shown(person) != states[-1]:
            if shown(person) != states[-1]:
                states.append(shown(person))
    at = shown(person)
    undone = 0
    while person.deeds.done:
        person.turn()
        undone += 1
        history.peers.settle()
    assert shown(person) == states[0]
    while person.deeds.undone:
        person.turn(redo=True)
        history.peers.settle()
    assert shown(person) == at
    history.end()


def shown(person: Person) -> set[Triple]:
    return {triple for triple in triples(person.core.store) if triple[1:] != ("k/likes", 0)}


def test_a_delete_is_for_ever_and_says_so() -> None:
    """Guarded or not, taken or refused; what was refused is not deleted."""
    history = History(1, "ab")
    person, other = history.people
    other.do(lambda tx: [tx.set(name, "k/a", name) for name in ("x", "y", "z")])
    history.peers.settle()
    person.do(lambda tx: tx.delete("x"))
    person.do(lambda tx: tx.delete("y"), Check("[:find ?v . :where [_ :k/a ?v]]"))
    person.do(lambda tx: tx.delete("z"), NEVER)
    history.peers.settle()
    assert shown(person) == {("z", "k/a", "z")}
    assert [left for _, left in (person.turn(), person.turn(), person.turn())] == [
        [Left("z", "k/a", "z", "rejected")],
        [Left("y", "k/a", "y", "deleted")],
        [Left("x", "k/a", "x", "deleted")],
    ]
    history.peers.settle()
    assert shown(person) == {("z", "k/a", "z")}
    history.end()


def test_counters_of_several_count_back_each_for_himself() -> None:
    history = History(1, "ab")
    one, other = history.people
    for person, amount in ((one, 5), (other, 7), (one, 3)):
        person.do(lambda tx, amount=amount: tx.increment("a", "k/likes", amount))  # type: ignore[misc]
        history.peers.settle()
    one.do(lambda tx: tx.increment("a", "k/likes", 100), NEVER)
    history.peers.settle()
    assert [list(map(tuple, left)) for _, left in (one.turn(), one.turn())] == [
        [("a", "k/likes", 100, "rejected")],
        [],
    ]
    history.peers.settle()
    assert history.peers.server.store.values("a", "k/likes") == [12]
    one.turn(), other.turn(), one.turn(redo=True)
    history.peers.settle()
    assert history.peers.server.store.values("a", "k/likes") == [5]
    history.end()
