"""What goes wrong, aimed at where something is under way: a fault that hits nothing is wasted.

As with the users, what is drawn becomes a deed, and what a deed does follows from it alone. A crash that is to come at
a point inside of a step (while a commit is saved, when a frame leaves) is a deed that lies in wait for that point.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.network import Connection
from tests.sim.nodes import YEAR_MS, ClientNode

if TYPE_CHECKING:
    from tests.sim.world import World


class Faults:
    """The faults of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deeds: dict[str, Callable[..., None]] = {
            "cut": self.cut,
            "held": self.held,
            "apart": self.apart,
            "frame": self.frame,
            "crashes": self.crashes,
            "ambushed": self.ambushed,
            "read slow": self.reads_slowly,
            "becomes": self.becomes,
            "disk full": self.disk_full,
            "clock": self.clock,
            "copied": self.copied,
            "pings": self.pings,
            "ticks": self.ticks,
            "backed up": self.backed_up,
            "restored": self.restored,
            **world.absences.deeds,
        }

    def start(self) -> None:
        """Lets every kind of fault that this run has happen again and again, each with its own randomness."""
        options, weather = self.world.options, self.world.options.weather
        for mean, fault in (
            (weather.cut_every_ms, self._draw_cut),
            (weather.hold_every_ms, self._draw_hold),
            (weather.partition_every_ms, self._draw_partition),
            (weather.mishap_every_ms, self._draw_mishap),
            (options.crash_every_ms, self._draw_crash),
            (options.crash_saving_every_ms, self._draw_ambush),
            (options.server_crash_every_ms, self._draw_server_crash),
            (options.server_crash_committing_every_ms, self._draw_server_ambush),
            (options.pause_every_ms, self._draw_pause),
            (options.role_every_ms, self._draw_role),
            (options.full_every_ms, self._draw_full),
            (options.server_full_every_ms, self._draw_server_full),
            (5_000.0 if options.clocks == "wild" else 0.0, self._draw_clock),
            (options.clone_every_ms if options.clones else 0.0, self._draw_clone),
            (options.ping_every_ms, self._draw_ping),
            (options.tick_every_ms, self._draw_tick),
            (0.4 * options.restore_every_ms, self._draw_backup),
            (options.restore_every_ms, self._draw_restore),
            (options.sleep_every_ms, self.world.absences.draw_sleep),
            (options.cut_every_ms, self.world.absences.draw_cut),
        ):
            if mean:
                self._repeat(mean, fault, self.world.random(f"faults/{fault.__name__}"))

    def _repeat(self, mean: float, fault: Callable[[random.Random], None], rng: random.Random) -> None:
        def again() -> None:
            fault(rng)
            self._repeat(mean, fault, rng)

        self.world.draw_after(rng.expovariate(1 / mean), again)

    # -- the network -------------------------------------------------------------------------------------------

    def _connected(self, rng: random.Random) -> ClientNode | None:
        """One of those who are connected, rather one with frames under way."""
        found = [(n, n.connection) for n in self.world.nodes.values() if n.connection is not None]
        busy = [(node, c) for node, c in found if len(c.up) or len(c.down)]
        among = busy if busy and rng.random() < 0.8 else found
        return rng.choice(among)[0] if among else None

    def _connection(self, who: str) -> Connection | None:
        node = self.world.nodes.get(who)
        return None if node is None else node.connection

    def _draw_cut(self, rng: random.Random) -> None:
        node = self._connected(rng)
        if node is not None and node.connection is not None:
            up, down = (rng.randint(0, len(pipe)) for pipe in (node.connection.up, node.connection.down))
            self.world.do(node.name, "cut", up=up, down=down)

    def cut(self, who: str, up: int, down: int) -> None:
        """The line breaks; so many of the frames under way still arrive."""
        connection = self._connection(who)
        if connection is not None:
            self.world.network.cut(connection, up, down)

    def _draw_hold(self, rng: random.Random) -> None:
        node = self._connected(rng)
        if node is not None:
            self.world.do(node.name, "held", upwards=rng.random() < 0.5, for_ms=rng.randint(100, 8_000))

    def held(self, who: str, upwards: bool, for_ms: int) -> None:
        """One direction of a connection stands still; nothing is lost, it comes late."""
        connection = self._connection(who)
        if connection is not None:
            self.world.network.hold(connection, upwards, for_ms)

    def _draw_partition(self, rng: random.Random) -> None:
        names = list(self.world.nodes)
        among = sorted(rng.sample(names, rng.randint(1, len(names))))
        ways = rng.choice([["up"], ["down"], ["up", "down"], ["up", "down"]])
        self.world.do("network", "apart", among=among, ways=ways, for_ms=rng.randint(1_000, 12_000))

    def apart(self, who: str, among: list[str], ways: list[str], for_ms: int) -> None:
        """Clients are cut off from the server, in one direction or in both; nobody can connect anew."""
        self.world.marks["apart"] += 1
        for name in among:
            self.world.network.part(name, for_ms)
            for way in ways:
                self.held(name, way == "up", for_ms)

    def _draw_mishap(self, rng: random.Random) -> None:
        node = self._connected(rng)
        name = node.name if node is not None and rng.random() < 0.9 else rng.choice(list(self.world.nodes))
        fate = rng.choice(["lost", "twice", "late"])
        after = int(rng.expovariate(1 / (3 * self.world.options.weather.delay_ms + 50)))
        self.world.do(name, "frame", upwards=rng.random() < 0.4, fate=fate, after_ms=after)

    def frame(self, who: str, upwards: bool, fate: str, after_ms: int) -> None:
        """The next frame that a client sends or is sent is lost, or comes late or once more after so many
        milliseconds, overtaken by others."""
        self.world.network.mishaps[who, upwards] = (fate, after_ms)

    # -- processes ---------------------------------------------------------------------------------------------

    def _running(self, rng: random.Random) -> ClientNode | None:
        """One of the running clients, rather one with something pending."""
        running = [node for node in self.world.nodes.values() if node.core is not None]
        busy = [node for node in running if node.core is not None and node.core.outbox]
        among = busy if busy and rng.random() < 0.8 else running
        return rng.choice(among) if among else None

    def _draw_crash(self, rng: random.Random) -> None:
        node, options = self._running(rng), self.world.options
        if node is not None:
            lost = rng.choice([1, 1, 2, rng.randint(1, 12)]) if rng.random() < options.lost_tail else 0
            self.world.do(node.name, "crashes", lost=lost, down_ms=rng.randint(0, 4_000))

    def _draw_server_crash(self, rng: random.Random) -> None:
        if self.world.server.up and (self.world.server.committing or rng.random() < 0.3):
            landed = int(rng.random() < 0.5)
            self.world.do("server", "crashes", lost=1 - landed, down_ms=rng.randint(0, 3_000))

    def crashes(self, who: str, lost: int, down_ms: int) -> None:
        """A process dies. `lost`: so many of a client's last commits; of the server the one that is out."""
        node = self.world.nodes.get(who)
        if who == "server":
            if self.world.server.up:
                self.world.server.crash("crash", down_ms, landed=not lost)
        elif node is not None and node.core is not None:
            node.crash("crash", down_ms, lost)

    def _draw_ambush(self, rng: random.Random) -> None:
        node = self._running(rng)
        if node is not None:
            point = rng.choice(["before saving", "after saving", "pushing"])
            self.world.do(
                node.name, "ambushed", point=point, nth=rng.randint(0, 2), down_ms=rng.randint(0, 4_000)
            )

    def _draw_server_ambush(self, rng: random.Random) -> None:
        point = rng.choice(["before landing", "after landing", "after landing"])
        self.world.do("server", "ambushed", point=point, nth=0, down_ms=rng.randint(0, 3_000))

    def ambushed(self, who: str, point: str, nth: int, down_ms: int) -> None:
        """A process will die at a point: the next time, or the nth after that, that it gets there."""
        node = self.world.server if who == "server" else self.world.nodes.get(who)
        if node is not None:
            node.ambush.lay(point, nth, down_ms)

    def _draw_pause(self, rng: random.Random) -> None:
        node = self._connected(rng)
        if node is not None:
            self.world.do(node.name, "read slow", for_ms=rng.randint(100, 8_000))

    def reads_slowly(self, who: str, for_ms: int) -> None:
        """The server's buffer to a client is full for a while."""
        connection, server = self._connection(who), self.world.server
        if connection is not None and server.core is not None:
            server.core.pause(connection.number)
            self.world.after(for_ms, lambda: server.resume(connection))

    # -- people and machines -----------------------------------------------------------------------------------

    def _draw_role(self, rng: random.Random) -> None:
        node, expelled = rng.choice(list(self.world.nodes.values())), self.world.options.expelled
        role = "reader" if node.role == "writer" else "writer"
        if expelled and node.role != "none" and rng.random() < expelled:
            role = "none"
        self.world.do(node.name, "becomes", role=role)

    def becomes(self, who: str, role: str) -> None:
        """A user gets or loses the right to write, or to be there at all, in the middle of a connection."""
        node, server = self.world.nodes.get(who), self.world.server
        if node is not None:
            node.role = role
            self.world.marks[f"becomes {role}"] += 1
            for connection in [c for c in server.links.values() if c.client == who]:  # also forgotten ones
                server.set_role(connection, role)

    def _draw_full(self, rng: random.Random) -> None:
        node = self._running(rng)
        if node is not None:
            self.world.do(node.name, "disk full", for_ms=rng.choice([50, 1_000, rng.randint(0, 6_000)]))

    def _draw_server_full(self, rng: random.Random) -> None:
        self.world.do("server", "disk full", for_ms=rng.choice([50, 1_000, rng.randint(0, 6_000)]))

    def disk_full(self, who: str, for_ms: int) -> None:
        """A disk takes nothing for a while."""
        node = self.world.server if who == "server" else self.world.nodes.get(who)
        if node is not None:
            node.full_until = self.world.now + for_ms

    def _draw_clock(self, rng: random.Random) -> None:
        if rng.random() < 0.2:
            self.world.do("server", "clock", step_ms=rng.choice([-2_000, 2_000]))
        node = rng.choice(list(self.world.nodes.values()))
        tolerance = self.world.options.limits.tolerance_ms
        step = rng.choice([-YEAR_MS, -70_000, -500, 500, tolerance + 1_500, YEAR_MS])
        self.world.do(node.name, "clock", step_ms=step)

    def clock(self, who: str, step_ms: int) -> None:
        """A clock jumps."""
        if who == "server":
            self.world.server.clock.offset_ms += step_ms
            self.world.server.stepped_back_ms += max(0, -step_ms)
        elif who in self.world.nodes:
            self.world.nodes[who].clock.offset_ms += step_ms

    def _draw_clone(self, rng: random.Random) -> None:
        world = self.world
        originals = [n for n in world.nodes.values() if "+" not in n.name and n.core is not None]
        if originals and len(world.nodes) < len(world.options.clients) + world.options.clones:
            node = rng.choice(originals)
            self.world.do(node.name, "copied", to=f"{node.name}+{len(world.nodes)}")

    def copied(self, who: str, to: str) -> None:
        """A replica's file is copied, and the copy runs beside the original."""
        node = self.world.nodes.get(who)
        if node is not None:
            node.lossy = True
            self.world.add(ClientNode(self.world, to, node.user, node.role, node.disk.copied()))

    def _draw_ping(self, rng: random.Random) -> None:
        self.world.do("all", "pings")

    def _draw_tick(self, rng: random.Random) -> None:
        self.world.do("server", "ticks", sweeps=rng.random() < 0.3)

    def ticks(self, who: str, sweeps: bool) -> None:
        """The server looks what is too long ago, and at times at what is needed no more."""
        self.world.server.tick()
        if sweeps:
            self.world.server.sweep()

    def pings(self, who: str) -> None:
        """Everybody asks for the server's clock."""
        for node in self.world.nodes.values():
            node.ping()

    # -- backups -----------------------------------------------------------------------------------------------

    def _draw_backup(self, rng: random.Random) -> None:
        self.world.do("server", "backed up")

    def _draw_restore(self, rng: random.Random) -> None:
        self.world.do(
            "server", "restored", back=rng.choice([0, 0, 1, rng.randint(0, 3)]), down_ms=rng.randint(0, 3_000)
        )

    def backed_up(self, who: str) -> None:
        """What is durable at the server is kept aside."""
        self.world.backups.make()

    def restored(self, who: str, back: int, down_ms: int) -> None:
        """The server is put back to a backup."""
        self.world.backups.restore(back, down_ms)
