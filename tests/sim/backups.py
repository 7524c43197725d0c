"""Backups of the server's disk, and what becomes of a run when it is put back to one.

What the server had accepted since is forgotten, and each transaction of that is owed anew: whoever wrote it and has
lost nothing pushes it again, so at the end it must be in the log like any other, once. The judge goes back with the
server; frames of the time before arrive nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.checks import Cut, Judge
from tests.sim.disk import TenantDisk

if TYPE_CHECKING:
    from tests.sim.world import World

KEPT = 4


class Backups:
    """The last few of a run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made: list[tuple[TenantDisk, Judge]] = []
        self.owed: set[str] = set()  # ids of what was accepted and forgotten at some time
        self.heard: dict[str, Any] = {}  # id -> a receipt that its writer has had
        self._restores = 0

    def forgot(self, tx: str) -> bool:
        """True if the server, as it is now, never decided on a transaction, though it may have before a restore; then
        it is owed."""
        if self._restores and not any(known == tx for known, _ in self.world.server.judge.told):
            self.owed.add(tx)
            self.world.settled.discard(tx)
            return True
        return False

    def _numbers(self, tx: str) -> set[int]:
        """By which numbers its writer knows that a transaction was accepted."""
        node = self.world.nodes[self.world.written[tx].by]
        kept = node.disk.load().kept if node.core is None else node.core.kept
        return {number for one in kept if one.id == tx for _, number in [*one.was, (one.replica, one.number)]}

    def make(self) -> None:
        server = self.world.server
        self.made.append((server.disk.copied(), _copied(server.judge, server.disk)))
        del self.made[:-KEPT]

    def restore(self, back: int, down_ms: int) -> None:
        """The server dies, and comes up again as it was at the last backup, or at one of those before."""
        world, server = self.world, self.world.server
        if not self.made or not server.up:
            return
        disk, judge = self.made[max(0, len(self.made) - 1 - back)]
        known = {receipt.id: receipt for receipt in server.judge.receipts.values()}
        for connection in list(world.network.connections.values()):
            world.network.cut(connection, 0, 0)
            connection.down.void()
        for node in world.nodes.values():  # also one that the server has forgotten, and the client has not
            if node.connection is not None:
                node.connection.down.void()
        server.crash("restored", down_ms)
        self._restores += 1
        world.marks["restored: on a hostile network"] += world.options.hostile
        server.disk, server.judge = disk.copied(), _copied(judge, disk)
        server.disk.epoch = f"e{self._restores + 1}"
        server.guard_judge.cut = Cut()
        self.heard |= world.acknowledged
        # who died just after he had saved a receipt has heard it, too
        self.heard |= {tx: known[tx] for tx in sorted(world.settled - self.heard.keys()) if tx in known}
        # who was not told yet may hear something else
        server.guard_judge.forgotten |= server.guard_judge.accepted - judge.logged
        server.guard_judge.accepted &= judge.logged | self.heard.keys()
        # also what an earlier restore had forgotten, and this one brings back
        server.guard_judge.accepted |= {tx for tx in judge.logged if world.written[tx].check is not None}
        decided = {receipt.id: receipt for receipt in judge.receipts.values()}
        waiting = {tx for node in world.nodes.values() for tx in node.outbox.values()}
        for tx, receipt in self.heard.items():
            if tx in waiting:
                world.acknowledged.pop(tx, None)
            elif tx in decided:
                # also where it was forgotten by an earlier restore, or decided otherwise after one
                world.acknowledged[tx] = decided[tx]
                world.settled.add(tx)
                numbers = self._numbers(tx)
                if numbers and decided[tx].number not in numbers:
                    # it was on its way when its writer's name changed: he pushes it again, and is told again
                    del world.acknowledged[tx]
                    self.owed.add(tx)
            elif receipt.outcome != "rejected":
                world.acknowledged.pop(tx, None)
                world.settled.discard(tx)
                self.owed.add(tx)
                world.marks["restored: accepted and forgotten"] += 1
        for node in world.nodes.values():
            unsaved = {node.outbox.get(number, "") for commit in node.unsaved for number in commit.decided}
            node.owed |= unsaved - decided.keys()
            node.cut = Cut()
            node.dead.clear()


def _copied(judge: Judge, disk: TenantDisk) -> Judge:
    twin = Judge()
    twin.logged, twin.told = set(judge.logged), set(judge.told)
    twin.newest, twin.receipts = dict(judge.newest), dict(judge.receipts)
    twin.users = {replica: set(users) for replica, users in judge.users.items()}
    for entry in disk.log:
        twin.store.apply(entry.registers)
    return twin
