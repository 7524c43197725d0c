"""One run: a server, some clients, a clock that jumps to the next event; everything follows from the seed.

Two phases. In the first anything may fail, and nothing wrong may be promised. Then everything is healed, the users
stop, and within a bound of virtual time all must agree; `pending` says why not yet, and that is the failure's message.
`history` says where chance comes in, and how a run is done again.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from tests.sim import absences, checks, interest, partial
from tests.sim.backups import Backups
from tests.sim.checks import Violation, Written
from tests.sim.faults import Faults
from tests.sim.history import Deed, History
from tests.sim.network import Network
from tests.sim.nodes import ClientNode, ServerNode
from tests.sim.options import Options
from tests.sim.workload import Workload
from tripleweb.clock import parse_stamp
from tripleweb.sync import messages
from tripleweb.sync.client import APP
from tripleweb.sync.messages import Fault, Poke
from tripleweb.sync.records import LocalCommit

HEAL_MS = 600_000  # virtual time in which everybody has to agree after the faults
STEPS_MAX = 400_000


class World:
    """A run of one seed, or of a history. `log` shows every event; `steps` ends it early; `network` is "stream" or
    "hostile"; `asking`: whether some ask for less than the whole app; `folder`: where storages are files."""

    def __init__(
        self,
        seed: int | History,
        log: bool = False,
        steps: int = STEPS_MAX,
        network: str = "",
        asking: bool | None = None,
        folder: Path | None = None,
    ) -> None:
        self._script = None if isinstance(seed, int) else seed.deeds
        self.seed = seed if isinstance(seed, int) else seed.seed
        self.options = (
            Options.draw(self.random("options"), network, asking) if isinstance(seed, int) else seed.options
        )
        self.log = log
        self.steps = steps
        self.folder = folder
        self.now = 0
        self.faults = True
        self.healed = False
        self.deeds: list[Deed] = []  # that were done
        self._heap: list[tuple[int, int, int, Callable[[], None]]] = []
        self._count = 0
        self._done = 0
        self._digest = sha256()
        self.marks: Counter[str] = Counter()  # situations that were reached
        self.written: dict[str, Written] = {}
        self.settled: set[str] = set()  # ids whose receipt is on their replica's disk
        self.acknowledged: dict[str, Any] = {}  # id -> receipt, as clients have it
        self.network = Network(self, self.options.weather)
        self.network.at_server = lambda connection, data: self.server.receive(connection, data)
        self.network.ended_at_server = lambda connection: self.server.ended(connection)
        self.network.at_client = lambda c, data: self.nodes[c.client].receive(c, data)
        self.network.ended_at_client = lambda c: self.nodes[c.client].lose_connection(c, "loses connection")
        self.server = ServerNode(self)
        self.backups = Backups(self)
        self.users = Workload(self)
        self.absences = absences.Absences(self)
        self.misfortune = Faults(self)
        self.nodes: dict[str, ClientNode] = {}
        for name, user, role in self.options.clients:
            self.add(ClientNode(self, name, user, role))

    def add(self, node: ClientNode) -> None:
        self.nodes[node.name] = node
        if self._script is None:
            self.users.start(node)

    # -- chance ------------------------------------------------------------------------------------------------

    def random(self, component: str) -> random.Random:
        """Randomness of a component's own: one more draw somewhere moves nothing elsewhere."""
        return random.Random(f"{self.seed}/{component}")

    def lot(self, *place: object) -> float:
        """A number from 0 to 1 that follows from the seed, the place and the moment alone."""
        drawn = blake2b(f"{self.seed}/{self.now}/{place}".encode(), digest_size=6).digest()
        return int.from_bytes(drawn, "big") / (1 << 48)

    def lot_ms(self, mean: float, *place: object) -> float:
        """A delay of so many milliseconds on average, in the same way."""
        return -math.log(1 - self.lot(*place)) * mean if mean else 0.0

    @property
    def history(self) -> History:
        """What was done so far."""
        return History(self.seed, self.options, list(self.deeds))

    def do(self, who: str, what: str, **how: Any) -> None:
        """A deed, now: it is written down, and done."""
        deed = Deed(self.now, who, what, how)
        self.deeds.append(deed)
        self.say(*str(deed).split()[2:])
        (self.users.deeds.get(what) or self.misfortune.deeds[what])(who, **how)

    # -- time --------------------------------------------------------------------------------------------------

    def after(self, delay_ms: float, what: Callable[[], None]) -> None:
        self._push(self.now + max(0, int(delay_ms)), 1, what)

    def draw_after(self, delay_ms: float, draw: Callable[[], None]) -> None:
        """Draws a deed after a while, if this is not a history that is done again. Deeds come first in their
        millisecond, so that doing them again does not depend on what they were drawn after."""
        if self._script is None:
            self._push(self.now + 1 + int(delay_ms), 0, draw)

    def _push(self, moment: int, turn: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (moment, turn, self._count, what))

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
        try:
            if self._script is None:
                self.misfortune.start()
            for deed in self._script or ():
                self._push(deed.at, 0, lambda deed=deed: self.do(deed.who, deed.what, **deed.how))  # type: ignore[misc]
            self._until(self.options.busy_ms)
            self._heal()
            self._settle()
            checks.at_the_end(self)
            if self.options.asking:  # when what was written is long ago, and its receipts are confirmed
                self._arrive()
                self.server.tick(self.options.limits.held_ms + self.server.stepped_back_ms + 1)
                self.server.sweep()
                self._until(self.now + 2_000)
                self._arrive()
                self._settle()
                partial.nothing_beyond(self)
        finally:
            self.server.disk.close()
            for node in self.nodes.values():
                node.disk.close()
        return self

    def _arrive(self) -> None:
        """Until nothing is under way: what had been sent before all was healed may take its time."""
        self._until(self.now + 2_000)
        deadline = self.now + HEAL_MS
        while any(len(c.up) or len(c.down) for c in self.network.connections.values()):
            if self.now >= deadline:
                raise Violation("convergence", "frames are under way for ever")
            self._until(self.now + 500)

    def _settle(self) -> None:
        deadline = self.now + HEAL_MS
        while reasons := self.pending():
            if self.now >= deadline:
                raise Violation("convergence", "; ".join(reasons))
            self._until(self.now + 500)

    def _until(self, moment: int) -> None:
        while self._heap and self._heap[0][0] <= moment:
            self.now, turn, _, what = heapq.heappop(self._heap)
            self._done += 1
            if self._done > self.steps:
                raise Violation("steps", f"more than {self.steps} events")
            if turn or self.faults:
                what()
        self.now = moment

    # -- what is noted, for the checks --------------------------------------------------------------------------

    def note(self, node: ClientNode, commit: LocalCommit) -> None:
        """A commit of a replica is on its disk: its user may rely on what it wrote."""
        kept = {pending.id for pending in commit.pending}
        decided = [node.outbox.pop(number) for number in commit.decided]
        self.settled.update(decided)
        self.settled -= kept
        self.backups.owed |= node.owed.intersection(decided)
        node.owed.difference_update(decided)
        # or it was told before
        told = [tx for tx in decided if tx not in kept and tx not in self.backups.owed]
        if node.core is None or node.core.epoch in (
            "",
            self.server.disk.epoch,
        ):  # else it was on its way for long
            checks.losses_are_told(self, node, commit, told)
        if commit.decided:  # the server's word may set a clock back
            replica, clock = str(node.core.replica), int(commit.meta["clock"])  # type: ignore[union-attr]
            node.issued[replica] = min(node.issued.get(replica, -1), clock)
        for pending in commit.pending:
            node.outbox[pending.number] = pending.id
            if pending.id not in self.written:
                node.issued[pending.changes[0].replica] = pending.time
                self.written[pending.id] = Written(
                    pending.id, node.name, pending.time, list(pending.changes), pending.check
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
            marks["poke: forget"] += bool(frame.forget)
            marks["poke: reset"] += frame.reset
            marks["poke: a place comes"] += bool(frame.parts)
            marks["poke: catch-up"] += any(frame.cursors.values())
            marks["poke: large transaction"] += any(
                bytes(body).endswith(b"[]]") for body in frame.transactions
            )
            for receipt in frame.receipts:
                marks[f"receipt: {receipt.outcome}"] += 1
                marks[f"rejected: {receipt.reason}"] += receipt.outcome == "rejected"
                marks["receipt: reload"] += receipt.reload
                marks.update(f"lost: {reason}" for _, reason, _ in receipt.lost)
                pushed = self.written.get(receipt.id)
                time = parse_stamp(receipt.stamp)[0]
                marks["receipt: set back"] += pushed is not None and time < pushed.time

    def receipt(self, node: ClientNode, receipt: messages.Receipt) -> None:
        self.say(node.name, "learns", receipt.number, receipt.id, receipt.outcome, receipt.stamp)
        if self.backups.forgot(receipt.id):
            if receipt.outcome == "rejected":  # that is not pushed again
                self.settled.add(receipt.id)
            return
        decided = checks.receipt_is_the_servers(self, node, receipt)
        absences.as_decided(receipt, decided)
        absences.long_enough_ago(self, receipt, decided)
        self.acknowledged[receipt.id] = receipt

    def refused(self, words: str) -> None:
        """A peer broke the protocol, in the eyes of the other: on a stream, nobody here ever should."""
        self.say("refused", words)
        self.marks["refused"] += 1
        if not self.options.hostile:
            raise Violation("no protocol errors among ourselves", words)

    # -- the end -----------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.say("heal")
        self.faults = False
        self.healed = True
        for node in self.nodes.values():
            node.clock.offset_ms = max(-1_000, min(1_000, node.clock.offset_ms))
            if node.role == "none":
                node.role = "reader" if self.lot("role", node.name) < 0.5 else "writer"
        self.network.heal()
        for connection in list(self.network.connections.values()):
            if self.options.hostile:  # what was lost on it is lost: the next connection is a stream
                self.network.cut(connection, 0, 0)
            self.server.resume(connection)

    def pending(self) -> list[str]:
        """Why the run is not at its end: what is still under way, and who differs."""
        server = self.server
        if not server.up:
            return ["the server is down"]
        core = server.open()
        reasons = []
        if server.committing or core._building.entries:
            reasons.append("the server has a commit under way")
        for node in self.nodes.values():
            if node.core is None:
                reasons.append(f"{node.name} is down")
            elif node.core.state != "online":
                reasons.append(f"{node.name} is {node.core.state}")
            elif node.core.pending:
                reasons.append(f"{node.name} has {node.core.pending} pending")
            elif interest.asks(node):
                reasons.extend(partial.asks_what_differs(node, core.store))
                reasons.extend(checks.displays_differ(node, core.store))
            elif not node.core.complete or node.core.cursors.get(APP) != core.durable_seq:
                reasons.append(f"{node.name} stands at {node.core.cursors} of {core.durable_seq}")
            elif checks.view(node.core.store) != checks.view(core.store):
                reasons.append(f"{node.name} differs: {checks.difference(node.core.store, core.store)}")
            else:
                reasons.extend(checks.displays_differ(node, core.store))
        return reasons
