"""What the users do: transactions of all kinds on few things, so that they meet; subscriptions that come and go.

What is drawn becomes a deed; what a deed does (`write`, `asks`) follows from the deed alone.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.sim import interest
from tests.sim.guarded import GUARDS
from tripleweb.errors import DeletedError
from tripleweb.sync.messages import Check
from tripleweb.terms import Ref, Value, from_wire
from tripleweb.terms import to_wire as wire_pair
from tripleweb.transaction import Transaction

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World

TAGS: list[Value] = ["red", "green", "blue", 1, 1.5, True, Ref("e0")]


def to_wire(value: Value | None) -> list[Any]:
    """A value as a deed has it, written down or not."""
    return list(wire_pair(value))


class Workload:
    """The users of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.habits = world.options.habits
        self.subjects = [f"e{i}" for i in range(self.habits.subjects)]
        self.deeds = {"writes": self.writes, "asks": self.asks}
        self._rngs: dict[str, random.Random] = {}
        self._guards: dict[str, random.Random] = {}
        self._values = 0

    # -- deeds -------------------------------------------------------------------------------------------------

    def writes(self, who: str, operations: list[Any], give_up: bool, check: list[Any] | None = None) -> None:
        """A transaction, by its operations as JSON; `check`: the query that decides on it, and its inputs."""
        node = self.world.nodes.get(who)
        if node is not None:
            asked = None if check is None else Check(check[0], check[1])
            node.transact(lambda tx: _write(tx, operations), give_up, asked)

    def asks(self, who: str, name: str, given: Any) -> None:
        """A subscription comes, or goes if it is there."""
        node = self.world.nodes.get(who)
        if node is None or node.core is None:
            return
        if name in node.core.subscriptions:
            node.core.unsubscribe(name)
            node.displays.pop(name, None)
        else:
            node.core.subscribe(interest.subscription(name, given))
        node.pump()

    # -- what is drawn -----------------------------------------------------------------------------------------

    def start(self, node: ClientNode) -> None:
        """A user sits down."""
        self._rngs[node.name] = self.world.random(f"user/{node.name}")
        self._think(node)

    def greet(self, node: ClientNode) -> None:
        """A connection was made: some ask for something while the welcome is on its way."""
        rng = self._rngs.get(node.name)
        if rng is not None and rng.random() < (0.7 if interest.asks(node) else 0.2):
            self.world.draw_after(rng.expovariate(1 / 50), lambda: self._ask(node, rng))

    def _think(self, node: ClientNode) -> None:
        rng = self._rngs[node.name]
        self.world.draw_after(rng.expovariate(1 / self.habits.think_ms), lambda: self._act(node, rng))

    def _act(self, node: ClientNode, rng: random.Random) -> None:
        often = 0.2 if interest.asks(node) else 0.04
        if node.core is not None and not (rng.random() < often and self._ask(node, rng)):
            count = rng.randint(2, 6) if rng.random() < self.habits.many_writes else 1
            operations = [self._operation(node, rng) for _ in range(count)]
            guard = self._guard(node, operations)
            self.world.do(
                node.name,
                "writes",
                operations=operations,
                give_up=rng.random() < self.habits.give_up,
                **guard,
            )
        self._think(node)

    def _ask(self, node: ClientNode, rng: random.Random) -> bool:
        wanted = None if node.core is None else interest.drawn(node, self.habits, self.subjects, rng)
        if wanted is not None:
            self.world.do(node.name, "asks", **wanted)
        return wanted is not None

    def _guard(self, node: ClientNode, operations: list[Any]) -> dict[str, Any]:
        """A query that is to decide on a transaction, about what it writes or something else."""
        rng = self._guards.setdefault(node.name, self.world.random(f"guards/{node.name}"))
        if rng.random() >= self.habits.guarded:
            return {}
        subject = operations[0][1] if rng.random() < 0.8 else rng.choice(self.subjects)
        text, values = rng.choice(GUARDS)
        inputs = [to_wire(subject), *([to_wire(rng.choice(values))] if values else [])]
        return {"check": [text, inputs]}

    def _operation(self, node: ClientNode, rng: random.Random) -> list[Any]:
        habits = self.habits
        s = rng.choice(self.subjects)
        if rng.random() < habits.delete:
            self._values += 1
            self.subjects[self.subjects.index(s)] = f"e{len(self.subjects) + self._values}"
            return ["delete", s]
        if rng.random() < habits.count:
            return ["increment", s, "k/likes", to_wire(rng.choice([1, 1, 1, 5, -2, 100]))]
        if rng.random() < habits.members:
            tag, kind = rng.choice(TAGS), rng.random()
            if kind < 0.8:
                return ["add" if kind < 0.5 else "remove", s, "k/tags", to_wire(tag)]
            return ["assign", s, "k/tags", [to_wire(tag) for tag in rng.sample(TAGS, rng.randint(0, 3))]]
        if habits.mixed and rng.random() < 0.3:
            return ["set", s, "k/tags", to_wire(rng.choice([*TAGS, None]))]
        kind = rng.random()
        if kind < 0.5:
            self._values += 1
            return ["set", s, "k/title", to_wire(f"{node.name}:{self._values}")]
        if kind < 0.7:
            return ["set", s, "k/size", to_wire(rng.randrange(20))]
        if kind < 0.9:
            return ["set", s, "k/owner", to_wire(Ref(rng.choice(self.subjects)))]
        return ["set", s, rng.choice(["k/title", "k/size", "k/owner"]), to_wire(None)]


def _write(tx: Transaction, operations: list[Any]) -> None:
    for name, *place, wire in operations:
        try:
            if name == "delete":
                tx.delete(wire)
            elif name == "assign":
                tx.assign(*place, [from_wire(*pair) for pair in wire])
            else:
                getattr(tx, name)(*place, from_wire(*wire))
        except DeletedError:
            continue
