"""The server and the clients of a run: the real cores, and around each the shell that drives it.

The shells do what the real ones do, and check at every step: a commit is saved before anything else is asked of the
core, frames leave when they may, a process that dies takes its core with it and finds its disk again.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial as bound
from typing import TYPE_CHECKING, Any

from tests.sim import absences, checks, interest, partial, refusals
from tests.sim.checks import Violation
from tests.sim.disk import ReplicaDisk, TenantDisk
from tests.sim.files import ReplicaOnFile, TenantFile
from tests.sim.guarded import GuardJudge
from tests.sim.network import Connection
from tripleweb.clock import parse_stamp
from tripleweb.errors import ProtocolError, StorageError
from tripleweb.store import Delta
from tripleweb.sync import messages
from tripleweb.sync.client import ClientCore, Update
from tripleweb.sync.messages import Check, Fault, Poke, Welcome
from tripleweb.sync.records import Commit, LocalCommit
from tripleweb.sync.server import Actor, TenantCore
from tripleweb.transaction import Transaction

if TYPE_CHECKING:
    from tests.sim.world import World

EPOCH_MS = 1_700_000_000_000
YEAR_MS = 365 * 86_400_000
PATIENCE_MS = 20_000  # how long a client waits for its welcome


class WallClock:
    """A clock that is wrong: by an offset, by a drift, by steps."""

    def __init__(self, rng: random.Random, kind: str) -> None:
        self.offset_ms = rng.randint(-20, 20)
        self.drift = rng.uniform(-1e-4, 1e-4)
        if kind == "skewed":
            self.offset_ms = rng.randint(-90_000, 90_000)
        elif kind == "wild":
            self.offset_ms = rng.choice([0, -YEAR_MS, YEAR_MS, 10 * YEAR_MS, rng.randint(-600_000, 600_000)])

    def now(self, true_ms: int) -> int:
        return int(EPOCH_MS + self.offset_ms + true_ms * (1 + self.drift))


class Ambush:
    """A crash that waits for its process to get to a point inside of a step."""

    def __init__(self) -> None:
        self._laid: tuple[str, int, int] | None = None  # the point, how often it passes, down for how long

    def lay(self, point: str, nth: int, down_ms: int) -> None:
        self._laid = point, nth, down_ms

    def springs(self, point: str) -> int | None:
        """How long the process is to be down if it dies here; None if it goes on."""
        if self._laid is None or self._laid[0] != point:
            return None
        _, nth, down_ms = self._laid
        self._laid = (point, nth - 1, down_ms) if nth else None
        return None if nth else down_ms


class ServerNode:
    """The tenant's core, its disk, and the shell around them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.random("server")
        self.disk = TenantDisk("e1") if world.folder is None else TenantFile("e1", world.folder)
        self.clock = WallClock(world.random("server/clock"), "good")
        self.ambush = Ambush()
        self.core: TenantCore | None = None
        self.up = True
        self.links: dict[int, Connection] = {}
        self.roles: dict[int, str] = {}  # connection -> what its user may do, in this moment
        self.judge = checks.Judge()
        self.guard_judge = GuardJudge()
        self.stepped_back_ms = 0  # of its clock, in all
        self.full_until = 0  # its disk takes nothing
        self._commit: Commit | None = None  # out, not yet told
        self._landed = False
        self._stepping = False

    @property
    def now_ms(self) -> int:
        return self.clock.now(self.world.now)

    @property
    def committing(self) -> bool:
        """A commit is out."""
        return self._commit is not None

    def open(self) -> TenantCore:
        if self.core is None:
            options = self.world.options
            state = self.disk.load(options.limits.tail_max)
            self.core = TenantCore(
                state, server_id="s1", random_bytes=self.rng.randbytes, limits=options.limits
            )
            self.world.say("server opens", seq=state.seq)
            checks.no_acknowledged_write_lost(self.world)
        return self.core

    def accept(self, connection: Connection, actor: Actor) -> None:
        core = self.open()
        self.links[connection.number] = connection
        self.roles[connection.number] = actor.role
        core.connect(connection.number, actor, self.now_ms)

    def set_role(self, connection: Connection, role: str) -> None:
        """What a user may do from now on; "none" ends his connection."""
        if self.core is not None and connection.number in self.links:
            self.roles[connection.number] = role
            if role == "none":
                self._fault(connection, Fault("forbidden", f"{connection.client} is not a member any more"))
            else:
                self.core.set_role(connection.number, role)

    def _fault(self, connection: Connection, fault: Fault) -> None:
        connection.down.send(messages.encode(fault))
        self._close(connection)

    def resume(self, connection: Connection) -> None:
        if self.core is not None:
            self.core.resume(connection.number)
            self.pump()

    def tick(self, later_ms: int = 0) -> None:
        """Some time has passed; `later_ms`: more than it has."""
        if self.core is not None:
            self.core.tick(self.now_ms + later_ms)
            self.pump()

    def sweep(self) -> None:
        """Everybody's interest is found anew, as it is now and then where it has grown."""
        if self.core is None:
            return
        readers = self.core.readers
        for interest_ in list(readers.relevance._interests.values()):
            if interest_.needed is not None and interest_ not in readers._swept:
                readers._swept.add(interest_)
                readers.loads.evaluations.append((interest_, bound(readers._sweep, interest_)))
        self.pump()

    def receive(self, connection: Connection, data: bytes) -> None:
        core = self.core
        if core is None or connection.number not in self.links:
            return
        self.world.say("server gets", connection.number, data)
        before = core.seq
        try:
            core.receive(connection.number, messages.decode_client(data), self.now_ms)
        except ProtocolError as error:
            self.world.refused(f"the server about {connection.client}: {error.code}: {error}")
            self._close(connection)
        refusals.roles_respected(self.world, before)
        self.pump()

    def ended(self, connection: Connection) -> None:
        self.world.network.forget(connection)
        if self.links.pop(connection.number, None) is not None and self.core is not None:
            self.core.disconnect(connection.number, self.now_ms)
            self.pump()

    def _close(self, connection: Connection) -> None:
        self.links.pop(connection.number, None)
        if self.core is not None:
            self.core.disconnect(connection.number, self.now_ms)
        self.world.network.close(connection)

    def pump(self) -> None:
        """Hands out what the core has: a commit to the disk, frames to the network, work to later."""
        core = self.core
        if core is None:
            return
        if self._commit is None:
            commit = core.take_commit()
            if commit is not None:
                self._commit, self._landed = commit, False
                self.world.after(self._disk_ms(), lambda: self._land(commit))
        gone: set[object] = set()  # by a fault among these frames
        for number, frame in core.frames_to_send():
            if number in gone:
                continue
            refusals.still_here(self.world, number)
            connection = self.links[number]
            checks.ack_only_after_commit(self.world, frame)
            self.world.mark(frame)
            data = messages.encode(frame)
            checks.frame_size(self.world, data)
            self.world.say("server sends", number, data)
            connection.down.send(data)
            if isinstance(frame, Fault):
                gone.add(number)
                self._close(connection)
        if (core.has_work() or core.is_heavy) and not self._stepping:
            self._stepping = True
            self.world.after(1 + 5 * self.world.lot("step"), self._step)
        is_idle = not self.links and self._commit is None and not core.decisions.has_work(core._building)
        if self.core is core and is_idle and self.world.options.idle_close:
            self.world.say("server idles")
            self.world.marks["server: idles"] += 1
            self.core = None

    def _disk_ms(self) -> float:
        return self.world.lot_ms(self.world.options.commit_ms if self.world.faults else 1, "server's disk")

    def _step(self) -> None:
        core, moved = self.core, True
        if core is not None:
            before = core.seq
            if core.is_heavy:
                core.evaluate()
            else:
                moved = core.step()
            refusals.roles_respected(self.world, before)
            self.pump()
        self._stepping = False
        if self.core is not None and (self.core.has_work() or self.core.is_heavy):
            self._stepping = True  # if nothing moved, all of it waits for slow readers
            self.world.after(1 + 5 * self.world.lot("step") if moved else 200, self._step)

    def _land(self, commit: Commit) -> None:
        if commit is not self._commit:
            return
        if (down_ms := self.ambush.springs("before landing")) is not None:
            self.crash("commit failed", down_ms, landed=False)
            return
        try:
            self._save(commit)
        except StorageError:
            self._reopen()
            return
        self._landed = True
        self.world.say("server commits", commit.batch, commit.seq)
        if (down_ms := self.ambush.springs("after landing")) is not None:
            self.crash("crash after landing", down_ms)
            return
        self.world.after(self._disk_ms(), lambda: self._told(commit))

    def _reopen(self) -> None:
        """The disk is full: the app is closed, to be read again from there by whoever comes next."""
        self.world.say("server's disk is full", self.disk.seq)
        self.world.marks["server: disk full"] += 1
        for connection in list(self.links.values()):
            self._fault(connection, Fault("closing", "the app failed at this server; connect again"))
        self._commit = self.core = None

    def _save(self, commit: Commit) -> None:
        self.disk.full = self.world.faults and self.world.now < self.full_until
        self.disk.commit(commit)
        checks.log_rises(self.world, commit)
        checks.receipts_truthful(self.world, commit)
        self.guard_judge.check(self.world, commit)
        absences.outcomes_kept(self.world, commit)

    def _told(self, commit: Commit) -> None:
        if commit is self._commit and self.core is not None:
            self._commit = None
            self.core.committed(commit, self.now_ms)
            self.pump()

    def crash(self, why: str, down_ms: int, landed: bool = False) -> None:
        """The process dies; a commit under way may have landed."""
        commit, self._commit = self._commit, None
        if commit is not None and not self._landed and landed:
            with suppress(StorageError):  # its disk is full
                self._save(commit)
        self.world.say("server", why, self.disk.seq)
        self.world.marks[f"server: {why}{', a commit out' if commit is not None else ''}"] += 1
        self.core = None
        for connection in list(self.links.values()):
            self.world.network.drop(connection)
        self.links.clear()
        self.up = False
        self.world.after(down_ms, self._start)

    def _start(self) -> None:
        self.up = True


class ClientNode:
    """A user's process: a replica on its disk, a core while it runs, a connection while there is one."""

    def __init__(
        self, world: World, name: str, user: str, role: str, disk: ReplicaDisk | None = None
    ) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.role = role
        self.number = len(world.nodes)
        self.rng = world.random(name)
        self.disk = disk or (ReplicaDisk() if world.folder is None else ReplicaOnFile(world.folder))
        self.clock = WallClock(world.random(f"{name}/clock"), world.options.clocks)
        self.ambush = Ambush()
        self.core: ClientCore | None = None
        self.connection: Connection | None = None
        self.view: checks.View = {}  # its triples, kept by deltas alone
        self.displays: dict[str, Counter[Any]] = {}
        self.cut = checks.Cut()
        self.dead: set[str] = set()  # what the server told it to be deleted
        self.outbox: dict[int, str] = {}  # number -> id, as its disk has it
        self.pushed: dict[int, int] = {}  # number -> time of the stamp, on this connection
        self.issued: dict[str, int] = {}  # replica -> last time of a stamp
        self.lossy = disk is not None  # has lost or shares its past: some promises do not hold
        self.ran_ahead = False  # has re-stamped what is pending
        self.full_until = 0  # its disk takes nothing
        self.unsaved: deque[LocalCommit] = deque()  # steps of the server's that memory has taken already
        self.owed: set[str] = (
            set()
        )  # ids of what is decided in memory only, and the server has forgotten since
        self._untold: list[str] = []  # whose receipts are in memory only
        self.welcomed_at = 0  # the seq where the server stood
        self._attempts = 0
        self._connected_at = 0
        self.start()

    @property
    def now_ms(self) -> int:
        return self.clock.now(self.world.now)

    def start(self) -> None:
        state = self.disk.load()
        self.outbox = {pending.number: pending.id for pending in state.pending}
        self.core = core = ClientCore(
            state, random_bytes=self.rng.randbytes, limits=self.world.options.client_limits
        )
        self.world.say(self.name, "starts", core.replica, core.next, sorted(core.outbox))
        self.view = checks.view(core.store)
        self.cut = checks.Cut()
        self.ran_ahead = bool(core.outbox)
        for subscription in interest.at_start(self, state.meta):
            core.subscribe(subscription)
        self.displays.clear()
        self._later()

    def crash(self, why: str, down_ms: int, lost: int = 0) -> None:
        """The process dies, and `lost` of its last commits with it. What its user sees afterwards must be what he
        saw."""
        core, self.core = self.core, None
        assert core is not None
        self.world.say(self.name, why)
        self.world.marks[f"client: {why}"] += 1
        if self.connection is not None:
            self.world.network.hang_up(self.connection)
            self.connection = None
        if self.unsaved:  # as if that had never come
            self._forget_the_unsaved()
        elif lost and self.disk.tail:
            self.world.marks["client: loses its tail"] += 1
            self.disk.lose_tail(min(lost, self.disk.tail))
            self.lossy = True
            self.issued.clear()
            self.dead.clear()
        elif why != "dies saving":
            checks.local_write_survives(self, core)
        self.world.after(down_ms, self.start)

    def _later(self) -> None:
        """Tries to connect in a while."""
        self._attempts += 1
        attempt = self._attempts
        delay = 10 if self.world.healed else 1 + self.world.lot_ms(500, "connects", self.name)
        self.world.after(delay, lambda: self._connect(attempt))

    def _connect(self, attempt: int) -> None:
        world, core = self.world, self.core
        if core is None or self.connection is not None or attempt != self._attempts:
            return
        if self.role == "none":
            core.disconnected("not a member", refused=True)
            self._later()
            return
        if not world.server.up or not world.network.reachable(self.name):
            self._later()
            return
        try:
            if not self._save_the_unsaved():
                return
        except StorageError:  # nothing leaves before
            self._later()
            return
        self.connection = world.network.connect(self.name)
        world.say(self.name, "connects", self.connection.number)
        world.server.accept(self.connection, Actor(self.user, session=self.name, role=self.role))
        self.pushed.clear()
        self._connected_at = world.now
        core.connected(self.now_ms)
        self.pump()
        world.users.greet(self)

    def ping(self) -> None:
        """Asks for the server's clock; a welcome that does not come is waited for elsewhere."""
        if self.core is None or self.connection is None:
            return
        if self.core.state == "online":
            self.core.ping(self.now_ms)
            self.pump()
        elif self.world.now > self._connected_at + PATIENCE_MS:
            self.hang_up("gives up")

    def lose_connection(self, connection: Connection, why: str) -> None:
        if connection is self.connection and self.core is not None:
            self.world.say(self.name, why)
            self.connection = None
            self.core.disconnected(why)
            self._later()

    def hang_up(self, why: str) -> None:
        """Ends its own connection and tries again later."""
        connection = self.connection
        if connection is not None:
            self.world.network.hang_up(connection)
            self.lose_connection(connection, why)

    def save(self, commit: LocalCommit) -> bool:
        """Saves a commit, or dies trying: before it landed, or after."""
        core = self.core
        assert core is not None
        if self.world.faults and (core.outbox or commit.pending):
            if (down_ms := self.ambush.springs("before saving")) is not None:
                self.crash("dies saving", down_ms)
                return False
            if (down_ms := self.ambush.springs("after saving")) is not None:
                self._keep(commit)
                self.crash("dies saving", down_ms)
                return False
        self._keep(commit)
        return True

    def _keep(self, commit: LocalCommit) -> None:
        self.disk.full = self.world.faults and self.world.now < self.full_until
        self.disk.save(commit)
        self.world.note(self, commit)
        self._untold.clear()

    def _save_the_unsaved(self) -> bool:
        """Saves what comes before anything later. False: it died of that. Raises `StorageError`."""
        while self.unsaved:
            if not self.save(self.unsaved[0]):
                return False
            self.unsaved.popleft()
        return True

    def _forget_the_unsaved(self) -> None:
        self.world.marks["client: forgets what its disk did not take"] += 1
        self.unsaved.clear()
        for tx in self._untold:
            self.world.acknowledged.pop(tx, None)
            self.world.backups.heard.pop(tx, None)
            if tx not in self.world.server.judge.logged:  # he may hear something else
                self.world.server.guard_judge.accepted.discard(tx)
        self._untold.clear()
        self.owed.clear()
        self.dead.clear()

    def transact(
        self, write: Callable[[Transaction], None], give_up: bool = False, check: Check | None = None
    ) -> None:
        core = self.core
        if core is None:
            return
        is_full = self.world.now < self.full_until
        before = checks.register_view(core.store) if give_up or is_full else {}
        outbox = core.next, list(core.outbox)
        tx = core.begin(self.now_ms)
        write(tx)
        if give_up:
            core.abandon(tx)
            checks.abandoned_without_trace(self, before)
            return
        try:
            if not self._save_the_unsaved():
                return
            checks.stamp_is_new(self, tx)
            # (one that writes nothing is pushed with its check, but nobody here would miss it)
            commit = core.prepare(tx, check if tx.changes else None)
            if commit is not None and not self.save(commit):
                return
        except StorageError:
            self.world.say(self.name, "cannot write: the disk is full")
            self.world.marks["client: disk full, a write fails"] += 1
            core.abandon(tx)
            refusals.failed_without_trace(self, before, outbox)
            return
        self.world.say(self.name, "writes", [change[:4] for change in tx.changes])
        delta = core.accept(tx, commit)
        self.follow(delta)
        checks.written_is_seen(self, tx)
        self.pump()

    def receive(self, connection: Connection, data: bytes) -> None:
        core = self.core
        if core is None or connection is not self.connection:
            return
        frame = messages.decode_server(data)
        if isinstance(frame, Poke):
            checks.gap_free(self, frame)
        elif isinstance(frame, Welcome):
            self.welcomed_at = frame.seq
            if frame.rekey:
                absences.name_kept(self)
        try:
            update = core.receive(frame, self.now_ms)
        except ProtocolError as error:
            self.world.refused(f"{self.name}: {error.code}: {error}")
            self.hang_up("refuses a frame")
            return
        try:
            if update.commit is not None and not self.save(update.commit):
                return
        except StorageError:
            assert update.commit is not None
            self._put_off(update, update.commit, frame)
            return
        self.follow(update.delta)
        self._heed(update, frame)
        if isinstance(frame, Fault):
            self.hang_up(f"fault {frame.code}")
            return
        self.pump()

    def _put_off(self, update: Update, commit: LocalCommit, frame: messages.ServerFrame) -> None:
        """What came cannot be saved now: memory has it, nothing leaves before the disk has it, too."""
        self.world.marks["client: disk full, what came is not saved"] += 1
        self.unsaved.append(commit)
        self._untold = [
            receipt.id for receipt in update.receipts if receipt.id not in self.world.acknowledged
        ]
        self.follow(update.delta)
        self._heed(update, frame)
        self.hang_up("cannot save")

    def _heed(self, update: Update, frame: messages.ServerFrame) -> None:
        core = self.core
        assert core is not None
        for receipt in update.receipts:
            self.world.receipt(self, receipt)
        if core.state != "online":  # it says hello again
            self.pushed.clear()
        if isinstance(frame, Poke):
            checks.on_its_way_as_pushed(self)
            checks.tombstones_win(self, frame)
            checks.consistent_cut(self)
            if interest.asks(self):
                partial.places_current(self)
                partial.subscriptions_exact(self)
        if isinstance(update.frame, messages.Rows):
            checks.rows_join(self, update.frame)
        elif isinstance(update.frame, messages.Failed):
            raise Violation("subscriptions answered", f"{self.name}: {update.frame.message}")

    def follow(self, delta: Delta) -> None:
        checks.delta_is_exact(self, delta)

    def pump(self) -> None:
        core, connection = self.core, self.connection
        if core is None or connection is None:
            return
        for frame in core.frames_to_send(self.now_ms):
            data = messages.encode(frame)
            checks.frame_size(self.world, data)
            connection.up.send(data)
            if isinstance(frame, messages.Push):
                for pushed in frame.transactions:
                    self.pushed[pushed.number] = parse_stamp(pushed.stamp)[0]
                if self.world.faults and (down_ms := self.ambush.springs("pushing")) is not None:
                    self.crash("dies pushing", down_ms)
                    return
