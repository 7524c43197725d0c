"""What the users do: transactions of all kinds on few things, so that they meet; subscriptions that come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tripleweb.errors import DeletedError
from tripleweb.sync.client import APP
from tripleweb.sync.messages import Subscription, input_to_wire
from tripleweb.terms import Ref, Value
from tripleweb.transaction import Transaction

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World

TAGS: list[Value] = ["red", "green", "blue", 1, 1.5, True, Ref("e0")]
QUERIES = [
    "[:find ?e ?v :where [?e :k/title ?v]]",
    "[:find ?e (sum ?n) :where [?e :k/likes ?n]]",
    "[:find ?e ?t :where [?e :k/tags ?t] (not [?e :k/title _])]",
    "[:find ?e ?o ?v :in $ ?min :where [?e :k/owner ?o] [?e :k/size ?v] [(>= ?v ?min)] :order-by [?v ?e ?o]]",
]


@dataclass(frozen=True)
class Habits:
    """What kind of users there are in one run."""

    think_ms: float  # mean time between two transactions of one user
    subjects: int
    delete: float
    count: float
    members: float
    many_writes: float  # chance of a transaction with several writes
    give_up: float  # chance of a transaction that is abandoned
    mixed: bool  # a field is used as single and as many
    displays: bool
    second: bool  # another subscription to the whole app comes and goes

    @classmethod
    def draw(cls, rng: random.Random) -> Habits:
        return cls(
            think_ms=rng.choice([300, 500, 1_000, 3_000]),
            subjects=rng.choice([2, 4, 10]),
            delete=rng.choice([0, 0.02, 0.08]),
            count=rng.choice([0, 0.2, 0.4]),
            members=rng.choice([0, 0.2, 0.4]),
            many_writes=rng.choice([0, 0.2, 0.6]),
            give_up=rng.choice([0, 0, 0.1]),
            mixed=rng.random() < 0.3,
            displays=rng.random() < 0.5,
            second=rng.random() < 0.3,
        )


class Workload:
    """Drives the users of one run."""

    def __init__(self, world: World, habits: Habits, rng: random.Random) -> None:
        self.world = world
        self.habits = habits
        self.rng = rng
        self.subjects = [f"e{i}" for i in range(habits.subjects)]
        self._values = 0

    def subscriptions(self, node: ClientNode) -> list[Subscription]:
        """What a user asks for at the start."""
        wanted = [Subscription(APP)]
        if self.habits.displays:
            wanted.append(self._display(self.rng.randrange(len(QUERIES))))
        return wanted

    def _display(self, i: int) -> Subscription:
        inputs = [input_to_wire(self.rng.choice([0, 10]))] if i == 3 else []
        return Subscription(f"rows{i}", "rows", QUERIES[i], inputs)

    def start(self, node: ClientNode) -> None:
        self._think(node)

    def _think(self, node: ClientNode) -> None:
        self.world.after(self.rng.expovariate(1 / self.habits.think_ms), lambda: self._act(node))

    def _act(self, node: ClientNode) -> None:
        if not self.world.faults:
            return
        if node.core is not None:
            if not self.change_subscriptions(node, 0.04):
                operations = self._operations(node)
                node.transact(
                    lambda tx: self._write(tx, operations), give_up=self.rng.random() < self.habits.give_up
                )
        self._think(node)

    def change_subscriptions(self, node: ClientNode, chance: float) -> bool:
        """With this chance, if this run has such users, a subscription comes or goes."""
        core = node.core
        if core is None or not (self.habits.displays or self.habits.second) or self.rng.random() >= chance:
            return False
        names = []
        if self.habits.second:
            names.append("second")
        if self.habits.displays:
            names.extend(f"rows{i}" for i in range(len(QUERIES)))
        name = self.rng.choice(names)
        self.world.say(node.name, "changes subscription", name)
        if name in core.subscriptions:
            core.unsubscribe(name)
            node.displays.pop(name, None)
        elif name == "second":
            core.subscribe(Subscription(name))
        else:
            core.subscribe(self._display(int(name[4:])))
        node.pump()
        return True

    @staticmethod
    def _write(tx: Transaction, operations: list[Callable[[Transaction], None]]) -> None:
        for operation in operations:
            try:
                operation(tx)
            except DeletedError:
                continue

    def _operations(self, node: ClientNode) -> list[Callable[[Transaction], None]]:
        count = self.rng.randint(2, 6) if self.rng.random() < self.habits.many_writes else 1
        return [self._operation(node) for _ in range(count)]

    def _value(self, node: ClientNode) -> Value:
        self._values += 1
        return f"{node.name}:{self._values}"

    def _operation(self, node: ClientNode) -> Callable[[Transaction], None]:
        rng, habits = self.rng, self.habits
        s = rng.choice(self.subjects)
        roll = rng.random()
        if roll < habits.delete:
            self.subjects[self.subjects.index(s)] = (
                f"e{len(self.subjects) + self._values}-{rng.randrange(10**6)}"
            )
            return lambda tx: tx.delete(s)
        roll = rng.random()
        if roll < habits.count:
            amount = rng.choice([1, 1, 1, 5, -2, 100])
            return lambda tx: tx.increment(s, "k/likes", amount)
        roll = rng.random()
        if roll < habits.members:
            tag = rng.choice(TAGS)
            kind = rng.random()
            if kind < 0.5:
                return lambda tx: tx.add(s, "k/tags", tag)
            if kind < 0.8:
                return lambda tx: tx.remove(s, "k/tags", tag)
            tags = rng.sample(TAGS, rng.randint(0, 3))
            return lambda tx: tx.assign(s, "k/tags", tags)
        if habits.mixed and rng.random() < 0.3:
            value = rng.choice([*TAGS, None])
            return lambda tx: tx.set(s, "k/tags", value)
        kind = rng.random()
        if kind < 0.5:
            text = self._value(node)
            return lambda tx: tx.set(s, "k/title", text)
        if kind < 0.7:
            number = rng.randrange(20)
            return lambda tx: tx.set(s, "k/size", number)
        if kind < 0.9:
            other = Ref(rng.choice(self.subjects))
            return lambda tx: tx.set(s, "k/owner", other)
        predicate = rng.choice(["k/title", "k/size", "k/owner"])
        return lambda tx: tx.set(s, predicate, None)
