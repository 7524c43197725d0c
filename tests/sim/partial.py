"""The invariants of replicas that ask for less than the whole app, each a function with a name, as in `checks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim import interest
from tests.sim.checks import hold
from tripleweb.store import Store

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World


def places_current(node: ClientNode) -> None:
    """What a replica shows at a place is what the server had there at the point where the replica stands: nothing is
    shown that is not followed. Places where something is pending aside, and the way there while it is caught up: see
    `subscriptions_exact`."""
    core = node.core
    assert core is not None
    if core.state != "online" or core.at < node.welcomed_at:
        return
    places, deleted = interest.unsettled(core)
    here = interest.shown(core.store)
    there = interest.shown(node.cut.at(node.world.server.disk.log, core.at))
    for place, values in here.items():
        if place not in places and place[0] not in deleted:
            there_is = there.get(place, [])
            hold(
                "places current",
                values == there_is,
                f"{node.name} at {core.at} has {place} {values}, not {there_is}",
            )


def subscriptions_exact(node: ClientNode) -> None:
    """What lives answers as on the server's store at the point where the replica stands. On the way there, while it is
    caught up in several pokes, it may lack what came to be needed, and then no longer was, while it was away."""
    core = node.core
    assert core is not None
    if core.state != "online" or core.outbox or core.at < node.welcomed_at:
        return
    store = node.cut.at(node.world.server.disk.log, core.at)
    for one in core.subscriptions.values():
        if one.kind == "triples" and core.is_live(one.id):
            mine, theirs = interest.answer(one, core.store), interest.answer(one, store)
            node.world.marks["asked: answered"] += bool(theirs)
            hold(
                "subscriptions exact",
                mine == theirs,
                f"{node.name} at {core.at}, {one.id}: {mine}, not {theirs}",
            )


def asks_what_differs(node: ClientNode, store: Store) -> list[str]:
    """Why a replica that asks for less is not where it should be: everything asked lives, and answers as the server;
    what it shows the server follows for it."""
    core, server = node.core, node.world.server.open()
    assert core is not None
    reasons = []
    for one in core.subscriptions.values():
        if one.kind == "triples":
            if not core.is_live(one.id):
                reasons.append(f"{node.name} waits for {one.id}")
            elif (mine := interest.answer(one, core.store)) != (theirs := interest.answer(one, store)):
                reasons.append(f"{node.name} differs: {one.id} gives {mine}, not {theirs}")
    there, holding = interest.shown(store), server.readers._holdings.get(core.replica)
    for place, values in interest.shown(core.store).items():
        if holding is None or not holding.holds(place):
            reasons.append(f"{node.name} shows {place}, which is not followed")
        elif values != there.get(place):
            reasons.append(f"{node.name} shows {place} {values}, not {there.get(place)}")
    return reasons


def nothing_beyond(world: World) -> None:
    """After a quiet moment, when what was written is long ago and all interests were swept, a replica shows what it
    asked for and nothing else."""
    store = world.server.open().store
    for node in world.nodes.values():
        core = node.core
        assert core is not None
        if interest.asks(node):
            asked = [one for one in core.subscriptions.values() if one.kind == "triples"]
            beyond = sorted(interest.shown(core.store).keys() - interest.needed(asked, store))
            hold(
                "nothing beyond what is asked",
                not beyond,
                f"{node.name} shows {beyond}, for {sorted(core._live)}",
            )
