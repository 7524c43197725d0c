"""Who sleeps for longer than the server keeps what it would tell him, and a log that is cut off meanwhile.

A month is some seconds here (`Limits.unseen_ms`). Somebody goes to sleep rather when he has just asked something: what
he sent arrives, the answer does not. Either his process ends, or he goes on writing with the lid closed. The checks say
what must be true of the gists that the server makes of receipts; that nothing is lost, doubled, or told otherwise than
it was decided, the other invariants say, which hold for sleepers like for anybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.checks import hold
from tripleweb.sync.decisions import decode_gists
from tripleweb.sync.messages import Receipt
from tripleweb.sync.records import Commit

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World


class Absences:
    """Those of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deeds: dict[str, Callable[..., None]] = {"sleeps": self.sleeps, "log cut": self.log_cut}

    def draw_sleep(self, rng: random.Random) -> None:
        world = self.world
        here = [
            node for node in world.nodes.values() if node.core is not None and node.connection is not None
        ]
        asking = [node for node in here if node.pushed and node.core is not None and node.core.outbox]
        among = asking if asking and rng.random() < 0.8 else here
        if among:
            for_ms = int(world.options.limits.unseen_ms * rng.choice([0.5, 1.2, 2])) + rng.randint(0, 8_000)
            world.do(rng.choice(among).name, "sleeps", ends=rng.random() < 0.5, for_ms=for_ms)

    def sleeps(self, who: str, ends: bool, for_ms: int) -> None:
        """Somebody is away for long; his process ends, or writes on. What he has sent arrives."""
        node, world = self.world.nodes.get(who), self.world
        if node is None or node.core is None:
            return
        connection = node.connection
        if ends:
            node.crash("sleeps", for_ms)
        elif connection is not None:
            world.marks["client: lid closed"] += 1
            world.network.cut(connection, len(connection.up), 0)
            world.network.part(who, for_ms)
        for moment in (for_ms // 2, for_ms - 100):
            world.after(moment, self._look)

    def _look(self) -> None:
        """The server looks who is long unseen, also where the app had been closed."""
        if self.world.server.up:
            self.world.server.open()
            self.world.server.tick()

    def draw_cut(self, rng: random.Random) -> None:
        kept, restarts = rng.choice([0, 1, 3, 10]), rng.random() < 0.5
        self.world.do("server", "log cut", kept=kept, restarts=restarts, down_ms=rng.randint(0, 1_000))

    def log_cut(self, who: str, kept: int, restarts: bool, down_ms: int) -> None:
        """The log is cut off but for its newest entries, in the middle of everybody's sessions; and the server may
        start again, which is when it has to do with what is left."""
        server = self.world.server
        server.disk.cut(server.disk.seq - kept)
        self.world.marks["log cut"] += 1
        if restarts and server.up:
            server.crash("restarts on a log that was cut", down_ms)


# -- what must be true ---------------------------------------------------------------------------------------------


def outcomes_kept(world: World, commit: Commit) -> None:
    """A gist says of each transaction what its receipt said; and of each number that is not confirmed there is one of
    both, once."""
    server = world.server
    for replica, _, body in commit.gists:
        for gist in decode_gists(body):
            world.marks["receipt: its gist"] += 1
            receipt = server.judge.receipts.get((replica, gist.number))
            hold("outcomes kept", receipt is not None, f"{gist} of {replica} was never decided")
            assert receipt is not None
            as_decided(gist.receipt(replica, -1), receipt)
    disk = server.disk
    for replica in {*commit.replicas, *(replica for replica, _, _ in commit.gists)}:
        row = disk.replicas[replica]
        numbers = [number for name, number in disk.receipts if name == replica]
        for (name, _), body in disk.gists.items():
            numbers += [gist.number for gist in decode_gists(body) if name == replica]
        due = list(range(row.confirmed + 1, row.last + 1))
        there = sorted(number for number in numbers if number > row.confirmed)
        hold("outcomes kept", there == due, f"of {replica} {there} are kept, {due} are not confirmed")


def as_decided(told: Receipt, decided: Receipt) -> None:
    """What is told of a transaction is what was decided: to the word, unless its replica was unseen for long."""
    for name in ("id", "outcome", "stamp", "seq", "reason"):
        one, other = getattr(told, name), getattr(decided, name)
        hold("receipts truthful", one == other, f"{name} of {told} is {one}, decided was {other}")
    one_lost, other_lost = told.losses, decided.losses
    hold("receipts truthful", one_lost.keys() == other_lost.keys(), f"{told} lost, decided was {decided}")
    for index, (reason, by) in one_lost.items():
        hold("receipts truthful", reason == other_lost[index][0], f"{told}, decided was {decided}")
        is_same = by == other_lost[index][1]
        hold(
            "receipts truthful",
            is_same or (not by and told.at != decided.at),
            f"{told}, decided was {decided}",
        )


def long_enough_ago(world: World, told: Receipt, decided: Receipt) -> None:
    """Nobody is told the gist who was seen lately."""
    if told.at != decided.at:
        world.marks["receipt: long ago"] += 1
        least = world.options.limits.unseen_ms - world.server.stepped_back_ms
        hold("gists of the long unseen", told.at - decided.at >= least, f"{told}, decided was {decided}")


def name_kept(node: ClientNode) -> None:
    """Whoever has lost nothing is not taken for a copy: under another name the server may not know what he asked."""
    world = node.world
    is_sound = not (node.lossy or world.options.hostile or world.options.restore_every_ms)
    copies = any(other.lossy for other in world.nodes.values())
    hold("names kept", not is_sound or copies, f"{node.name} is told to take another name")
