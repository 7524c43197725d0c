"""What users ask the server for, and what they must then see. All that knows of subscriptions' contents is here.

Today everybody asks for the whole app, some a second time, and for displays. Whoever adds clients that ask by query
changes `at_start`, `changed` and `footprint`; the checks hold every replica to its footprint.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.sim.options import Habits
from tripleweb.store import Store
from tripleweb.sync.client import APP, ClientCore
from tripleweb.sync.messages import Subscription, input_to_wire

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode

QUERIES = [
    "[:find ?e ?v :where [?e :k/title ?v]]",
    "[:find ?e (sum ?n) :where [?e :k/likes ?n]]",
    "[:find ?e ?t :where [?e :k/tags ?t] (not [?e :k/title _])]",
    "[:find ?e ?o ?v :in $ ?min :where [?e :k/owner ?o] [?e :k/size ?v] [(>= ?v ?min)] :order-by [?v ?e ?o]]",
]


def at_start(node: ClientNode) -> list[Subscription]:
    """What a user asks for whenever his process starts."""
    wanted = [Subscription(APP)]
    if node.world.options.habits.displays:
        wanted.append(subscription(f"rows{node.number % len(QUERIES)}"))
    return wanted


def changeable(habits: Habits) -> list[str]:
    """The subscriptions that come and go in a run."""
    displays = [f"rows{i}" for i in range(len(QUERIES))] if habits.displays else []
    return (["second"] if habits.second else []) + displays


def drawn_input(name: str, rng: random.Random) -> int | None:
    """What is drawn for a subscription that comes."""
    return rng.choice([0, 10]) if name == "rows3" else None


def subscription(name: str, given: int | None = 0) -> Subscription:
    if not name.startswith("rows"):
        return Subscription(name)
    return Subscription(
        name, "rows", QUERIES[int(name[4:])], [input_to_wire(given)] if name == "rows3" else []
    )


def lives(core: ClientCore) -> int | None:
    """The point of the server's order whose state a replica shows; None if nothing of it is kept current."""
    return max((core.cursors[name] for name in core._live), default=None)


def footprint(node: ClientNode, store: Store) -> Store:
    """Of a server's state what a replica has to show, exactly: neither less nor more."""
    return store
