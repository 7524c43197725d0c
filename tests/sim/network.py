"""Connections as a stream gives them: in order, late, cut off somewhere, dead without anybody noticing.

A cut loses a suffix of what was under way, in each direction its own. Each end learns of it in its own time: the
server may believe for long in a connection that its client has left, and goes on receiving what was still under way.
Nothing ever arrives for a client on a connection that it has closed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Weather:
    """What the network is like in one run; times in milliseconds."""

    delay_ms: float  # mean, one way
    spike: float  # chance that a frame takes very long
    cut_every_ms: float  # mean time between cuts, for the whole network; 0: none
    hold_every_ms: float  # mean time between partitions of one direction of one connection; 0: none
    half_open: float  # chance that the server is not told of a connection's end


class Timeline(Protocol):
    """The part of the world that the network needs."""

    now: int

    def after(self, delay_ms: float, what: Callable[[], None]) -> None: ...


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network, arrive: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._network = network
        self._arrive = arrive
        self._ended = ended
        self._queue: deque[tuple[int, bytes | None]] = deque()  # None: the end of the stream
        self._held = False
        self._broken = False

    def send(self, data: bytes | None) -> None:
        if not self._broken:
            self._put(data)
            self._broken = data is None

    def _put(self, data: bytes | None) -> None:
        world = self._network.world
        ready = world.now + self._network.delay()
        if self._queue:
            ready = max(ready, self._queue[-1][0])
        self._queue.append((ready, data))
        world.after(ready - world.now, self._flow)

    def _flow(self) -> None:
        while self._queue and not self._held and self._queue[0][0] <= self._network.world.now:
            data = self._queue.popleft()[1]
            if data is None:
                self._ended()
            else:
                self._arrive(data)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        self._flow()

    def cut(self, keep: int, told: bool) -> None:
        """Only the next `keep` frames still arrive; then, if `told`, the end of the stream."""
        while len(self._queue) > keep:
            self._queue.pop()
        self._broken = True
        if told:
            self._put(None)

    def __len__(self) -> int:
        return len(self._queue)


class Connection:
    """A connection between a client and the server: two pipes and a number."""

    def __init__(self, network: Network, number: int, client: str) -> None:
        self.number = number
        self.client = client
        self.up = Pipe(
            network, lambda data: network.at_server(self, data), lambda: network.ended_at_server(self)
        )
        self.down = Pipe(
            network, lambda data: network.at_client(self, data), lambda: network.ended_at_client(self)
        )


class Network:
    """All connections, and what happens to them. The four hooks are set by the world."""

    at_server: Callable[[Connection, bytes], None]
    at_client: Callable[[Connection, bytes], None]
    ended_at_server: Callable[[Connection], None]
    ended_at_client: Callable[[Connection], None]

    def __init__(self, world: Timeline, weather: Weather, rng: random.Random) -> None:
        self.world = world
        self.weather = weather
        self.rng = rng
        self.calm = False
        self.connections: dict[int, Connection] = {}
        self._numbers = 0

    def delay(self) -> int:
        mean = min(self.weather.delay_ms, 20) if self.calm else self.weather.delay_ms
        if not self.calm and self.rng.random() < self.weather.spike:
            mean *= 20
        return int(self.rng.expovariate(1.0) * mean) if mean else 0

    def connect(self, client: str) -> Connection:
        self._numbers += 1
        connection = Connection(self, self._numbers, client)
        self.connections[connection.number] = connection
        return connection

    def cut(self, connection: Connection) -> None:
        """The line breaks; both ends learn of it sooner or later."""
        told = self.calm or self.rng.random() >= self.weather.half_open
        connection.up.cut(self.rng.randint(0, len(connection.up)), told)
        connection.down.cut(self.rng.randint(0, len(connection.down)), True)
        if not told:  # the server's own pings find out
            self.world.after(self.rng.randint(5_000, 30_000), lambda: self.ended_at_server(connection))

    def hang_up(self, connection: Connection) -> None:
        """The client ends it: nothing reaches it any more, while what it sent still travels."""
        connection.down.cut(0, False)
        told = self.calm or self.rng.random() >= self.weather.half_open
        if told:
            connection.up.send(None)
        else:
            connection.up.cut(self.rng.randint(0, len(connection.up)), False)
            self.world.after(self.rng.randint(5_000, 30_000), lambda: self.ended_at_server(connection))

    def drop(self, connection: Connection) -> None:
        """The server is gone, or forgets the connection."""
        connection.up.cut(0, False)
        connection.down.cut(self.rng.randint(0, len(connection.down)), True)
        self.forget(connection)

    def close(self, connection: Connection) -> None:
        """The server ends it in good order: what it sent arrives first."""
        connection.up.cut(0, False)
        connection.down.send(None)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)

    def hold(self, connection: Connection, upwards: bool, for_ms: int) -> None:
        """One direction stands still for a while; nothing is lost, it comes late."""
        pipe = connection.up if upwards else connection.down
        pipe.hold()
        self.world.after(for_ms, pipe.release)
