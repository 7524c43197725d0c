"""What kind of a run a seed gives: what its world is like, how its people behave, which bounds its cores have.

Everything is drawn, probabilities and whole features alike, so that runs differ in kind (a swarm); the bounds of the
cores are drawn tiny or huge. `calmer` says what may be made milder while a failing history is shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tripleweb.sync.client import ClientLimits
from tripleweb.sync.server import Limits


@dataclass(frozen=True)
class Weather:
    """What the network is like; times in milliseconds, 0: never."""

    delay_ms: float  # mean, one way
    spike: float  # chance that a frame takes very long
    cut_every_ms: float  # mean time between cuts, for the whole network
    hold_every_ms: float  # mean time between standstills of one direction of one connection
    half_open: float  # chance that the server is not told of a connection's end
    partition_every_ms: float  # mean time until some clients are cut off from the server, one way or both
    mishap_every_ms: float  # mean time between frames that are lost, come twice or late: a *hostile* network


@dataclass(frozen=True)
class Habits:
    """What kind of users there are."""

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
    guarded: float = 0.0  # chance of a transaction that a query decides on

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


@dataclass(frozen=True)
class Options:
    """What kind of a run this is; mean times in milliseconds, 0: never."""

    clients: list[tuple[str, str, str]]  # name, user, role
    busy_ms: int
    weather: Weather
    limits: Limits
    client_limits: ClientLimits
    commit_ms: float  # until a commit is durable, and again until the core is told
    crash_every_ms: float  # of a client, rather of one with something pending
    crash_saving_every_ms: float  # of a client while it saves or pushes
    server_crash_every_ms: float
    server_crash_committing_every_ms: float  # with a commit out, landed or not
    idle_close: bool
    lost_tail: float  # chance that a client's crash is a power failure
    clones: int
    clone_every_ms: float
    clocks: str  # good, skewed, wild
    pause_every_ms: float
    role_every_ms: float
    ping_every_ms: float
    habits: Habits
    asking: list[str]  # of the clients: who asks for less than the whole app
    tick_every_ms: float  # of the server
    restore_every_ms: float = 0.0  # the server is put back to a backup
    sleep_every_ms: float = 0.0  # somebody is unseen for longer than the server keeps receipts
    cut_every_ms: float = 0.0  # the log is cut off
    full_every_ms: float = 0.0  # the disk of a client is full for a while
    server_full_every_ms: float = 0.0  # the server's
    expelled: float = 0.0  # chance that a user whose role changes has none

    @property
    def hostile(self) -> bool:
        return self.weather.mishap_every_ms > 0

    @classmethod
    def draw(cls, rng: random.Random, network: str = "", asking: bool | None = None) -> Options:
        """`network`: "stream" or "hostile"; "" draws that, too. `asking`: whether some ask for less than the app."""

        def some(chance: float, value: Callable[[], float]) -> float:
            drawn = value()
            return drawn if rng.random() < chance else 0.0

        def either(*values: Any) -> Any:
            return rng.choice(values)

        guards = random.Random(rng.getstate()[1][0])  # its own: what else is drawn stays as it was
        absences = random.Random(f"absences {rng.getstate()[1][1]}")  # likewise
        troubles = random.Random(f"troubles {rng.getstate()[1][2]}")  # likewise
        copies = rng.random() < 0.4
        clients, readers = rng.randint(2, 4), either(0, 0, 1)
        hostile = some(0.3, lambda: 1.0) if not network else float(network == "hostile")
        options = cls(
            clients=[
                (f"c{i}", f"user{i % 3}", "reader" if i < readers else "writer") for i in range(clients)
            ],
            busy_ms=either(15_000, 25_000, 40_000),
            weather=Weather(
                delay_ms=either(0, 5, 50, 300, 1_500),
                spike=some(0.5, lambda: rng.uniform(0, 0.1)),
                cut_every_ms=some(0.7, lambda: rng.uniform(1_000, 15_000)),
                hold_every_ms=some(0.5, lambda: rng.uniform(2_000, 15_000)),
                half_open=some(0.5, lambda: rng.uniform(0, 1)),
                partition_every_ms=some(0.3, lambda: rng.uniform(5_000, 20_000)),
                mishap_every_ms=hostile * rng.choice([150, 500, 2_000]),
            ),
            limits=Limits(
                tolerance_ms=either(300, 5_000, 60_000, 60_000),
                # what is copied and pushed by several is known by the tail; a hello that comes twice makes a copy
                tail_max=20_000 if copies else max(either(5, 20, 200, 20_000), 20_000 if hostile else 0),
                poke_transactions_max=either(1, 2, 7, 2_000),
                part_registers=either(3, 10, 500),
                frame_bytes=either(50, 500, 4 << 20),
                receipt_bytes_max=either(100, 1_000, 1 << 20),
                lost_max=either(1, 10_000),
                slice_units=either(10, 100, 5_000),
            ),
            client_limits=ClientLimits(
                in_flight_max=either(1, 2, 5, 1_000),
                frame_changes_max=either(1, 2, 5, 5_000),
                frame_bytes_max=either(100, 1_000, 4 << 20),
                fates_max=either(1, 5, 10_000),
            ),
            commit_ms=either(0, 2, 50, 500, 3_000),
            crash_every_ms=some(0.6, lambda: rng.uniform(1_500, 15_000)),
            crash_saving_every_ms=some(0.6, lambda: rng.uniform(2_000, 15_000)),
            server_crash_every_ms=some(0.4, lambda: rng.uniform(5_000, 30_000)),
            server_crash_committing_every_ms=some(0.6, lambda: rng.uniform(3_000, 20_000)),
            idle_close=rng.random() < 0.5,
            lost_tail=some(0.7, lambda: rng.uniform(0.1, 0.8)) if copies else 0.0,
            clones=rng.randint(0, 2) if copies else 0,
            clone_every_ms=rng.uniform(5_000, 20_000),
            clocks=either("good", "skewed", "wild", "wild"),
            pause_every_ms=some(0.4, lambda: rng.uniform(1_000, 10_000)),
            role_every_ms=some(0.3, lambda: rng.uniform(3_000, 15_000)),
            ping_every_ms=5_000,
            habits=replace(Habits.draw(rng), guarded=guards.choice([0, 0, 0.1, 0.4])),
            asking=[],
            tick_every_ms=0.0,
        )
        if rng.random() < 0.4 if asking is None else asking:
            options = options._with_asking(rng)
        restores = some(0.25, lambda: rng.uniform(4_000, 15_000))
        options = replace(options, restore_every_ms=restores)
        if absences.random() < 0.3:
            options = options._with_absences(absences, copies or hostile)
        return options._with_troubles(troubles) if troubles.random() < 0.3 else options

    def _with_absences(self, rng: random.Random, whole: bool) -> Options:
        """Some sleep for long. `whole`: the log is not cut, by which copies are known."""
        return replace(
            self,
            limits=replace(self.limits, unseen_ms=rng.choice([500, 2_000, 6_000])),
            sleep_every_ms=rng.uniform(2_000, 8_000),
            cut_every_ms=0.0 if whole else rng.choice([0.0, rng.uniform(1_000, 8_000)]),
            tick_every_ms=self.tick_every_ms or 1_000,
        )

    def _with_troubles(self, rng: random.Random) -> Options:
        """Disks are full for a while, users lose every role."""
        return replace(
            self,
            full_every_ms=rng.choice([0.0, rng.uniform(1_500, 8_000)]),
            server_full_every_ms=rng.choice([0.0, rng.uniform(3_000, 12_000)]),
            role_every_ms=rng.choice([self.role_every_ms, rng.uniform(1_500, 6_000)]),
            expelled=rng.choice([0.0, 0.3, 0.6]),
        )

    def _with_asking(self, rng: random.Random) -> Options:
        """Some or all clients ask for less than the whole app."""
        names = [name for name, _, _ in self.clients]
        limits = replace(
            self.limits,
            part_registers=rng.choice([1, 3, 10, 500]),
            news_max=rng.choice([2, 10, 100, 20_000]),
            held_ms=rng.choice([500, 3_000, 10_000, 300_000]),
            lag_max=rng.choice([1, 5, 1_000]),
            own_max=rng.choice([1, 4, 100_000]),
        )
        asking = [name for name in names if rng.random() < 0.7] or names[:1]
        return replace(self, limits=limits, asking=asking, tick_every_ms=rng.choice([300, 1_000, 5_000]))

    def calmer(self) -> Iterator[Options]:
        """This, with one thing of it milder or one client less; nothing that only deeds depend on."""
        for client in self.clients:
            if len(self.clients) > 1:
                yield replace(self, clients=[other for other in self.clients if other != client])
        for name in self.asking:
            yield replace(self, asking=[other for other in self.asking if other != name])
        for name, calm in (("clocks", "good"), ("commit_ms", 1), ("idle_close", False)):
            if getattr(self, name) != calm:
                yield replace(self, **{name: calm})  # type: ignore[arg-type]
        for name, calm in (("half_open", 0.0), ("spike", 0.0), ("delay_ms", 5)):
            if getattr(self.weather, name) != calm:
                yield replace(self, weather=replace(self.weather, **{name: calm}))  # type: ignore[arg-type]
        plain = Limits(tail_max=self.limits.tail_max)
        for name in ("tolerance_ms", "poke_transactions_max", "part_registers", "frame_bytes",
                     "receipt_bytes_max", "lost_max", "slice_units", "news_max", "held_ms",
                     "lag_max", "own_max", "unseen_ms"):  # fmt: skip
            if getattr(self.limits, name) != getattr(plain, name):
                yield replace(self, limits=replace(self.limits, **{name: getattr(plain, name)}))
        usual = ClientLimits()
        for name in ("in_flight_max", "frame_changes_max", "frame_bytes_max", "fates_max"):
            if getattr(self.client_limits, name) != getattr(usual, name):
                yield replace(self, client_limits=replace(self.client_limits, **{name: getattr(usual, name)}))
