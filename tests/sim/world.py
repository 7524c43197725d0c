"""One run: a server, some clients, a clock that jumps to the next event; everything follows from the seed.

Two phases. In the first anything may fail, and nothing wrong may be promised. Then everything is healed, the users
stop, and within a bound of virtual time all must agree; `pending` says why not yet, and that is the failure's message.
Each component has its own randomness, named after it, so that one more draw somewhere moves nothing elsewhere.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.sim import checks
from tests.sim.checks import Violation
from tests.sim.network import Connection, Network, Weather
from tests.sim.nodes import YEAR_MS, ClientNode, ServerNode
from tests.sim.workload import Habits, Workload
from tripleweb.change import Change
from tripleweb.clock import parse_stamp
from tripleweb.sync import messages
from tripleweb.sync.client import APP, ClientLimits
from tripleweb.sync.messages import Fault, Poke
from tripleweb.sync.records import LocalCommit
from tripleweb.sync.server import Limits

HEAL_MS = 600_000  # virtual time in which everybody has to agree after the faults
STEPS_MAX = 400_000


@dataclass(frozen=True)
class Options:
    """What kind of a run this is: drawn from the seed, features and probabilities alike."""

    clients: int
    readers: int
    busy_ms: int
    weather: Weather
    limits: Limits
    client_limits: ClientLimits
    commit_ms: float  # mean time until a commit is durable, and again until the core is told
    crash_every_ms: float  # of each client; 0: none
    crash_saving: float  # chance that a client dies while it saves, with something pending
    server_crash_every_ms: float
    server_crash_committing: float  # chance that the server dies with a commit out
    commit_fails: float
    idle_close: bool
    lost_tail: float  # chance that a client's crash is a power failure
    clones: int
    clone_every_ms: float
    clocks: str  # good, skewed, wild
    pause_every_ms: float
    role_every_ms: float
    habits: Habits

    @classmethod
    def draw(cls, rng: random.Random) -> Options:
        def some(chance: float, value: Callable[[], float]) -> float:
            drawn = value()
            return drawn if rng.random() < chance else 0.0

        def either(*values: Any) -> Any:
            return rng.choice(values)

        copies = rng.random() < 0.4
        return cls(
            clients=rng.randint(2, 4),
            readers=either(0, 0, 1),
            busy_ms=either(15_000, 25_000, 40_000),
            weather=Weather(
                delay_ms=either(0, 5, 50, 300, 1_500),
                spike=some(0.5, lambda: rng.uniform(0, 0.1)),
                cut_every_ms=some(0.7, lambda: rng.uniform(1_000, 15_000)),
                hold_every_ms=some(0.5, lambda: rng.uniform(2_000, 15_000)),
                half_open=some(0.5, lambda: rng.uniform(0, 1)),
            ),
            limits=Limits(
                tolerance_ms=either(300, 5_000, 60_000, 60_000),
                # what is copied and pushed by several is known by the tail
                tail_max=20_000 if copies else either(5, 20, 200, 20_000),
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
            crash_every_ms=some(0.6, lambda: rng.uniform(3_000, 30_000)),
            crash_saving=some(0.6, lambda: rng.uniform(0, 0.06)),
            server_crash_every_ms=some(0.4, lambda: rng.uniform(5_000, 30_000)),
            server_crash_committing=some(0.6, lambda: rng.uniform(0, 0.15)),
            commit_fails=some(0.3, lambda: rng.uniform(0, 0.05)),
            idle_close=rng.random() < 0.5,
            lost_tail=some(0.7, lambda: rng.uniform(0.1, 0.8)) if copies else 0.0,
            clones=rng.randint(0, 2) if copies else 0,
            clone_every_ms=rng.uniform(5_000, 20_000),
            clocks=either("good", "skewed", "wild", "wild"),
            pause_every_ms=some(0.4, lambda: rng.uniform(1_000, 10_000)),
            role_every_ms=some(0.2, lambda: rng.uniform(3_000, 15_000)),
            habits=Habits.draw(rng),
        )


@dataclass
class Written:
    """A local transaction that returned: what its user relies on."""

    id: str
    by: str
    time: int  # of its first stamp
    counts: list[tuple[str, str, int]]  # increments: subject, predicate, amount
    changes: list[Change]


@dataclass
class World:
    """A run of one seed. `log` shows every event; `steps` ends it early."""

    seed: int
    log: bool = False
    steps: int = STEPS_MAX
    options: Options = field(init=False)

    def __post_init__(self) -> None:
        self.options = Options.draw(self.random("options"))
        self.now = 0
        self.faults = True
        self.healed = False
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._done = 0
        self._digest = sha256()
        self.marks: Counter[str] = Counter()  # situations that were reached
        self.written: dict[str, Written] = {}
        self.settled: set[str] = set()  # ids whose receipt is on their replica's disk
        self.acknowledged: dict[str, Any] = {}  # id -> receipt, as clients have it
        self.network = Network(self, self.options.weather, self.random("network"))
        self.network.at_server = lambda connection, data: self.server.receive(connection, data)
        self.network.ended_at_server = lambda connection: self.server.ended(connection)
        self.network.at_client = lambda c, data: self.nodes[c.client].receive(c, data)
        self.network.ended_at_client = lambda c: self.nodes[c.client].lose_connection(c, "loses connection")
        self.server = ServerNode(self)
        self.workload = Workload(self, self.options.habits, self.random("workload"))
        self.chance = self.random("faults")
        self.nodes: dict[str, ClientNode] = {}
        for i in range(self.options.clients):
            role = "reader" if i < self.options.readers else "writer"
            self.nodes[f"c{i}"] = ClientNode(self, f"c{i}", f"user{i % 3}", role)

    def random(self, component: str) -> random.Random:
        return random.Random(f"{self.seed}/{component}")

    # -- time --------------------------------------------------------------------------------------------------

    def after(self, delay_ms: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + max(0, int(delay_ms)), self._count, what))

    def say(self, *words: object, **more: object) -> None:
        """A line of the trace."""
        line = " ".join(
            w.decode() if isinstance(w, bytes) else str(w) for w in (self.now, *words, *more.values())
        )
        self._digest.update(line.encode() + b"\n")
        if self.log:
            print(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def run(self) -> World:
        """The whole run; raises `Violation`."""
        self._schedule_faults()
        for node in list(self.nodes.values()):
            self.workload.start(node)
        self._until(self.options.busy_ms)
        self._heal()
        deadline = self.now + HEAL_MS
        while reasons := self.pending():
            if self.now >= deadline:
                raise Violation("convergence", "; ".join(reasons))
            self._until(self.now + 500)
        checks.at_the_end(self)
        return self

    def _until(self, moment: int) -> None:
        while self._heap and self._heap[0][0] <= moment:
            self.now, _, what = heapq.heappop(self._heap)
            self._done += 1
            if self._done > self.steps:
                raise Violation("steps", f"more than {self.steps} events")
            what()
        self.now = moment

    # -- faults ------------------------------------------------------------------------------------------------

    def _schedule_faults(self) -> None:
        options = self.options
        for mean, fault in (
            (options.weather.cut_every_ms, self._cut),
            (options.weather.hold_every_ms, self._hold),
            (options.server_crash_every_ms, self._crash_server),
            (options.pause_every_ms, self._pause),
            (options.role_every_ms, self._change_role),
            (5_000.0 if options.clocks == "wild" else 0.0, self._step_clock),
            (options.clone_every_ms if options.clones else 0.0, self._clone),
            (options.crash_every_ms / 2, self._crash_client),
            (5_000.0, self._ping),
        ):
            if mean:
                self._repeat(mean, fault)

    def _repeat(self, mean: float, fault: Callable[[], None]) -> None:
        def again() -> None:
            if self.faults:
                fault()
                self.after(self.chance.expovariate(1 / mean), again)

        self.after(self.chance.expovariate(1 / mean), again)

    def _any_connection(self) -> Connection | None:
        """One of the connections, those with something under way more likely."""
        found = [node.connection for node in self.nodes.values() if node.connection is not None]
        busy = [c for c in found if c is not None and (len(c.up) or len(c.down))]
        among = busy if busy and self.chance.random() < 0.8 else found
        return self.chance.choice(among) if among else None

    def _cut(self) -> None:
        connection = self._any_connection()
        if connection is not None:
            self.say("cut", connection.number)
            self.network.cut(connection)

    def _hold(self) -> None:
        connection = self._any_connection()
        if connection is not None:
            upwards, for_ms = self.chance.random() < 0.5, self.chance.randint(100, 8_000)
            self.say("hold", connection.number, upwards, for_ms)
            self.network.hold(connection, upwards, for_ms)

    def _crash_server(self) -> None:
        if self.server.up and (self.server._commit is not None or self.chance.random() < 0.3):
            self.server.crash()

    def _crash_client(self) -> None:
        running = [node for node in self.nodes.values() if node.core is not None]
        busy = [node for node in running if node.core is not None and node.core.outbox]
        among = busy if busy and self.chance.random() < 0.8 else running
        if among:
            self.chance.choice(among).crash()

    def _pause(self) -> None:
        connection, core = self._any_connection(), self.server.core
        if connection is not None and core is not None:
            self.say("pause", connection.number)
            core.pause(connection.number)
            self.after(self.chance.randint(100, 8_000), lambda: self._resume(connection))

    def _resume(self, connection: Connection) -> None:
        if self.server.core is not None:
            self.server.core.resume(connection.number)
            self.server.pump()

    def _change_role(self) -> None:
        node = self.chance.choice(list(self.nodes.values()))
        node.role = "reader" if node.role == "writer" else "writer"
        self.say(node.name, "becomes", node.role)
        if node.connection is not None and self.server.core is not None:
            self.server.core.set_role(node.connection.number, node.role)

    def _step_clock(self) -> None:
        if self.chance.random() < 0.2:
            step = self.chance.choice([-2_000, 2_000])
            self.server.clock.offset_ms += step
            self.server.stepped_back_ms += max(0, -step)
        node = self.chance.choice(list(self.nodes.values()))
        node.clock.offset_ms += self.chance.choice(
            [-YEAR_MS, -70_000, -500, 500, self.options.limits.tolerance_ms + 1_500, YEAR_MS]
        )
        self.say(node.name, "clock", node.clock.offset_ms)

    def _clone(self) -> None:
        """A replica's file is copied, and the copy runs beside the original."""
        originals = [node for node in self.nodes.values() if "+" not in node.name and node.core is not None]
        if originals and len(self.nodes) < self.options.clients + self.options.clones:
            node = self.chance.choice(originals)
            name = f"{node.name}+{len(self.nodes)}"
            self.say(node.name, "is copied to", name)
            node.lossy = True
            self.nodes[name] = ClientNode(self, name, node.user, node.role, node.disk.copied())
            self.workload.start(self.nodes[name])

    def _ping(self) -> None:
        for node in self.nodes.values():
            if node.core is not None and node.connection is not None and node.core.state == "online":
                node.core.ping(node.now_ms)
                node.pump()

    # -- what is noted, for the checks --------------------------------------------------------------------------

    def note(self, node: ClientNode, commit: LocalCommit) -> None:
        """A commit of a replica is on its disk: its user may rely on what it wrote."""
        kept = {pending.id for pending in commit.pending}
        decided = [node.outbox.pop(number) for number in commit.decided]
        self.settled.update(decided)
        self.settled -= kept
        checks.losses_are_told(self, node, commit, [tx for tx in decided if tx not in kept])
        if commit.decided:  # the server's word may set a clock back
            replica, clock = str(node.core.replica), int(commit.meta["clock"])
            node.issued[replica] = min(node.issued.get(replica, -1), clock)
        for pending in commit.pending:
            node.outbox[pending.number] = pending.id
            if pending.id not in self.written:
                node.issued[pending.changes[0].replica] = pending.time
                self.written[pending.id] = Written(
                    pending.id,
                    node.name,
                    pending.time,
                    [(c.subject, c.predicate, int(c.value)) for c in pending.changes if c.slot == "c:"],  # type: ignore[arg-type]
                    list(pending.changes),
                )

    def mark(self, frame: messages.ServerFrame) -> None:
        """Takes note of what kind of a frame the server sends."""
        marks = self.marks
        marks[type(frame).__name__.lower()] += 1
        if isinstance(frame, messages.Welcome) and frame.rekey:
            marks["welcome: rekey"] += 1
        elif isinstance(frame, Fault):
            marks[f"fault: {frame.code}"] += 1
        elif isinstance(frame, Poke):
            marks["poke: load"] += None in frame.cursors.values()
            marks["poke: catch-up"] += any(frame.cursors.values())
            marks["poke: large transaction"] += any(
                b'"changes":[]' in bytes(body) for body in frame.transactions
            )
            for receipt in frame.receipts:
                marks[f"receipt: {receipt.outcome}"] += 1
                marks["receipt: reload"] += receipt.reload
                marks.update(f"lost: {reason}" for _, reason, _ in receipt.lost)
                pushed = self.written.get(receipt.id)
                time = parse_stamp(receipt.stamp)[0]
                marks["receipt: set back"] += pushed is not None and time < pushed.time

    def receipt(self, node: ClientNode, receipt: messages.Receipt) -> None:
        self.say(node.name, "learns", receipt.number, receipt.id, receipt.outcome, receipt.stamp)
        checks.receipt_is_truthful(self, node, receipt)
        self.acknowledged[receipt.id] = receipt

    def refused(self, words: str) -> None:
        """A peer broke the protocol, in the eyes of the other: nobody here ever should."""
        self.say("refused", words)
        raise Violation("no protocol errors among ourselves", words)

    # -- the end -----------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.say("heal")
        self.faults = False
        self.network.calm = True
        self.healed = True
        for node in self.nodes.values():
            node.clock.offset_ms = max(-1_000, min(1_000, node.clock.offset_ms))
        for connection in list(self.network.connections.values()):
            connection.up.release()
            connection.down.release()
            if self.server.core is not None:
                self.server.core.resume(connection.number)
        self.server.pump()

    def pending(self) -> list[str]:
        """Why the run is not at its end: what is still under way, and who differs."""
        server = self.server
        if not server.up:
            return ["the server is down"]
        core = server.open()
        reasons = []
        if server._commit is not None or core._building.entries:
            reasons.append("the server has a commit under way")
        for node in self.nodes.values():
            if node.core is None:
                reasons.append(f"{node.name} is down")
            elif node.core.state != "online":
                reasons.append(f"{node.name} is {node.core.state}")
            elif node.core.pending:
                reasons.append(f"{node.name} has {node.core.pending} pending")
            elif not node.core.complete or node.core.cursors.get(APP) != core.durable_seq:
                reasons.append(f"{node.name} stands at {node.core.cursors} of {core.durable_seq}")
            elif checks.view(node.core.store) != checks.view(core.store):
                reasons.append(f"{node.name} differs: {checks.difference(node.core.store, core.store)}")
            else:
                reasons.extend(checks.displays_differ(node, core.store))
        return reasons
