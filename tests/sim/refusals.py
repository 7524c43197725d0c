"""The invariants of what is refused: a write that a disk does not take, and whoever may not write or be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.checks import hold, local_write_survives, register_view
from tripleweb.change import Change, Key

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World


def failed_without_trace(node: ClientNode, before: dict[Key, Change], outbox: tuple[int, list[int]]) -> None:
    """A write that the disk did not take raises: neither memory nor disk have anything of it."""
    core = node.core
    assert core is not None
    hold("failed without a trace", register_view(core.store) == before, node.name)
    hold("failed without a trace", (core.next, list(core.outbox)) == outbox, f"{node.name}: {outbox}")
    if not node.unsaved:
        local_write_survives(node, core)


def roles_respected(world: World, before: int) -> None:
    """What came into the log came from somebody who is there, and may write at that moment."""
    core = world.server.core
    for entry in core._building.entries if core is not None and core.seq > before else ():
        assert core is not None
        there = [number for number, link in core.connections.items() if link.replica == entry.replica]
        roles = [world.server.roles[number] for number in there if number in world.server.links]  # type: ignore[index]
        may = entry.seq <= before or any(role in ("writer", "admin") for role in roles)
        hold("roles respected", may, f"{entry.replica} wrote as {roles}")


def still_here(world: World, number: object) -> None:
    """Nothing is sent to who has left, or has no role any more."""
    here = number in world.server.links and world.server.roles[number] != "none"  # type: ignore[index]
    hold("nothing for who is gone", here, f"a frame for connection {number}")
