"""Connections as a stream gives them: in order, late, cut off somewhere, dead without anybody noticing.

A cut loses a suffix of what was under way, in each direction its own. Each end learns of it in its own time: the
server may believe for long in a connection that its client has left, and goes on receiving what was still under way.
Nothing ever arrives for a client on a connection that it has closed.

A hostile network does worse (`mishaps`): single frames are lost, come late or twice, overtaken by others. No stream
does that; a proxy, a relay or a fault of our own might, and then data must be late at most, never wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from tests.sim.options import Weather


class Timeline(Protocol):
    """The part of the world that the network needs."""

    now: int

    def after(self, delay_ms: float, what: Callable[[], None]) -> None: ...
    def lot(self, *place: object) -> float: ...
    def lot_ms(self, mean: float, *place: object) -> float: ...
    def say(self, *words: object) -> None: ...


class Pipe:
    """One direction of a connection."""

    def __init__(
        self,
        network: Network,
        place: tuple[str, bool],
        arrive: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._network = network
        self._place = place
        self._arrive = arrive
        self._ended = ended
        self._queue: deque[tuple[int, bytes | None]] = deque()  # None: the end of the stream
        self._held_until = 0
        self._broken = self._void = False

    def send(self, data: bytes | None) -> None:
        if self._broken:
            return
        self._broken = data is None
        mishap = self._network.mishaps.pop(self._place, None) if data is not None else None
        if data is not None and mishap is not None:
            fate, after_ms = mishap
            self._network.world.say("frame", *self._place, *mishap)
            if fate != "lost":
                self._network.world.after(after_ms, lambda: self._void or self._arrive(data))
            if fate != "twice":
                return
        self._put(data)

    def _put(self, data: bytes | None) -> None:
        world = self._network.world
        ready = world.now + self._network.delay(self._place)
        if self._queue:
            ready = max(ready, self._queue[-1][0])
        self._queue.append((ready, data))
        world.after(ready - world.now, self._flow)

    def _flow(self) -> None:
        now = self._network.world.now
        while self._queue and self._held_until <= now and self._queue[0][0] <= now:
            data = self._queue.popleft()[1]
            if data is None:
                self._ended()
            else:
                self._arrive(data)

    def hold(self, for_ms: int) -> None:
        """Stands still for a while."""
        self._held_until = max(self._held_until, self._network.world.now + for_ms)
        self._network.world.after(for_ms, self._flow)

    def release(self) -> None:
        self._held_until = 0
        self._flow()

    def cut(self, keep: int, told: bool) -> None:
        """Only the next `keep` frames still arrive; then, if `told`, the end of the stream."""
        while len(self._queue) > keep:
            self._queue.pop()
        self._broken = True
        if told:
            self._put(None)

    def void(self) -> None:
        """Nothing that was sent arrives any more, be it late or not."""
        self._void = True
        self.cut(0, True)

    def __len__(self) -> int:
        return len(self._queue)


class Connection:
    """A connection between a client and the server: two pipes and a number."""

    def __init__(self, network: Network, number: int, client: str) -> None:
        self.number = number
        self.client = client
        self.up = Pipe(
            network,
            (client, True),
            lambda data: network.at_server(self, data),
            lambda: network.ended_at_server(self),
        )
        self.down = Pipe(
            network,
            (client, False),
            lambda data: network.at_client(self, data),
            lambda: network.ended_at_client(self),
        )


class Network:
    """All connections, and what happens to them. The four hooks are set by the world."""

    at_server: Callable[[Connection, bytes], None]
    at_client: Callable[[Connection, bytes], None]
    ended_at_server: Callable[[Connection], None]
    ended_at_client: Callable[[Connection], None]

    def __init__(self, world: Timeline, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.calm = False
        self.connections: dict[int, Connection] = {}
        self.mishaps: dict[tuple[str, bool], tuple[str, int]] = {}  # (client, upwards): of its next frame
        self._apart: dict[str, int] = {}  # client -> when it can connect again
        self._numbers = 0

    def delay(self, place: tuple[str, bool]) -> int:
        mean = min(self.weather.delay_ms, 20) if self.calm else self.weather.delay_ms
        if not self.calm and self.world.lot("spike", place) < self.weather.spike:
            mean *= 20
        return int(self.world.lot_ms(mean, "delay", place))

    def reachable(self, client: str) -> bool:
        """True if a client can connect."""
        return self._apart.get(client, 0) <= self.world.now

    def connect(self, client: str) -> Connection:
        self._numbers += 1
        connection = Connection(self, self._numbers, client)
        self.connections[connection.number] = connection
        return connection

    def cut(self, connection: Connection, up: int, down: int) -> None:
        """The line breaks; so many frames still arrive, and both ends learn of it sooner or later."""
        self._end_at_server(connection, up)
        connection.down.cut(down, True)

    def hang_up(self, connection: Connection) -> None:
        """The client ends it: nothing reaches it any more, while what it sent still travels."""
        connection.down.cut(0, False)
        if self._told(connection):
            connection.up.send(None)
        else:
            kept = int(self.world.lot("kept", connection.client) * (len(connection.up) + 1))
            self._end_at_server(connection, kept, told=False)

    def _told(self, connection: Connection) -> bool:
        return self.calm or self.world.lot("told", connection.client) >= self.weather.half_open

    def _end_at_server(self, connection: Connection, keep: int, told: bool | None = None) -> None:
        told = self._told(connection) if told is None else told
        connection.up.cut(keep, told)
        if not told:  # the server's own pings find out
            wait = 5_000 + 25_000 * self.world.lot("found out", connection.client)
            self.world.after(wait, lambda: self.ended_at_server(connection))

    def drop(self, connection: Connection) -> None:
        """The server is gone, or forgets the connection."""
        connection.up.cut(0, False)
        kept = int(self.world.lot("kept", connection.client) * (len(connection.down) + 1))
        connection.down.cut(kept, True)
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
        (connection.up if upwards else connection.down).hold(for_ms)

    def part(self, client: str, for_ms: int) -> None:
        """A client cannot connect for a while."""
        self._apart[client] = max(self._apart.get(client, 0), self.world.now + for_ms)

    def heal(self) -> None:
        """From now on everything arrives, and soon."""
        self.calm = True
        self.mishaps.clear()
        self._apart.clear()
        for connection in list(self.connections.values()):
            connection.up.release()
            connection.down.release()
