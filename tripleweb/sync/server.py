"""The server's side of the protocol for one app: frames in, commits and frames out. No I/O, no clock, no threads.

Everything revolves around five verbs. `receive` takes a frame and changes memory only. `take_commit` hands out what
must become durable, `committed` says that it has. `frames_to_send` gives what may leave: receipts, pokes and parts of
which nothing is not yet durable. `step` does one bounded slice of longer work (first loads, evaluations).

Invariants: every transaction gets exactly one receipt, decided once, stored with what it promises and kept until the
replica confirms it; seq rises by one with each accepted transaction, in commit order; within one replica the stamps
rise with the numbers; a connection's pokes join without a gap; a protocol error costs its connection and nothing
else. After a failed commit the core is thrown away and loaded again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import msgspec

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.clock import TOLERANCE_MS, Clock, parse_stamp, stamp_text
from tripleweb.errors import ProtocolError, QueryError
from tripleweb.ids import nano_id
from tripleweb.store import Delta, Fate, Store
from tripleweb.sync import messages
from tripleweb.sync.display import Display
from tripleweb.sync.messages import (
    PROTOCOL,
    ClientFrame,
    Committed,
    Failed,
    Fault,
    Hello,
    Part,
    PushedTransaction,
    Receipt,
    ServerFrame,
    Subscription,
    Welcome,
    register_to_wire,
)
from tripleweb.sync.order import Count
from tripleweb.sync.records import Commit, Entry, ReplicaRow, TenantState
from tripleweb.sync.tail import Tail, parts, pokes
from tripleweb.terms import from_wire, to_wire

Conn = Hashable

_REPLICA = re.compile(r"[0-9a-z]{12}")
_NUMBER_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class Actor:
    """Who speaks on a connection, as the server knows it: never from the client, the label excepted."""

    user: str
    label: str = ""
    session: str = ""
    role: str = "writer"  # reader, writer, admin


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a tenant; the simulator draws them anew for every run."""

    tolerance_ms: int = TOLERANCE_MS
    transaction_changes_max: int = messages.TRANSACTION_CHANGES_MAX
    tail_max: int = 20_000  # transactions kept in memory for those who come back
    poke_transactions_max: int = 2_000
    part_registers: int = 500
    frame_bytes: int = 4 << 20  # where pokes and parts are cut
    receipt_bytes_max: int = 1 << 20  # what a receipt tells of the server's registers; beyond it, load again
    lost_max: int = 10_000  # changes of which a receipt says singly that they lost
    unread_max: int = 1_000  # frames that wait for a connection that asks for more
    subscriptions_max: int = 1_000
    rows_max: int = 10_000
    query_units: int = 5_000_000
    slice_units: int = 5_000


@dataclass(slots=True)
class _Connection:
    actor: Actor
    replica: str = ""  # "" until hello
    incarnation: str = ""
    seq: int = 0  # where its triples subscriptions stand
    triples: dict[str, Subscription] = field(default_factory=dict)
    displays: dict[str, Display] = field(default_factory=dict)
    entering: dict[str, int | None] = field(default_factory=dict)  # come to life with the next poke
    loads: int = 0  # first loads still running
    loaded: int = 0  # what they contain reaches up to this seq
    parts: int = 0  # of them, sent since the last poke
    numbered: int = 0  # and since hello
    heard: Count = field(default_factory=Count)  # frames since hello, pings aside
    generation: int = 0  # of hello; work begun for an older one is dropped
    receipts: list[tuple[int, Receipt]] = field(default_factory=list)  # with the commit they wait for
    out: deque[tuple[int, ServerFrame]] = field(default_factory=deque)  # likewise
    partial: PushedTransaction | None = None
    paused: bool = False
    rekeying: bool = False  # what it pushes is ignored until it says hello again


class TenantCore:
    """One app's data and everyone connected to it; the head of this module says how to drive it."""

    def __init__(
        self,
        state: TenantState,
        *,
        server_id: str,
        random_bytes: Callable[[int], bytes],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.server_id = server_id
        self.epoch = state.epoch
        self.seq = self.durable_seq = state.seq
        self.clock = Clock(state.time, self.limits.tolerance_ms)
        self.store = Store()
        self.store.apply(state.registers)
        self.replicas = state.replicas
        self.connections: dict[Conn, _Connection] = {}
        self._random_bytes = random_bytes
        self._tail = Tail(state.tail, state.seq, self.limits.tail_max)
        self._receipts: dict[str, dict[int, tuple[str, Receipt, int]]] = {}
        for (replica, number), (tx_id, body) in sorted(state.receipts.items()):
            receipt = messages.decode_receipt(body)
            self._receipts.setdefault(replica, {})[number] = (tx_id, receipt, 0)
        self._building = Commit(1, self.seq, self.clock.last)
        self._in_flight: Commit | None = None
        self._durable_batch = 0
        self._jobs: deque[tuple[Conn, int, Iterator[None]]] = deque()

    # -- connections -------------------------------------------------------------------------------------------

    def connect(self, conn: Conn, actor: Actor, now_ms: int) -> None:
        """A connection was opened by `actor`, who is authenticated."""
        self.connections[conn] = _Connection(actor)

    def disconnect(self, conn: Conn, now_ms: int) -> None:
        """A connection is gone; its work is dropped."""
        self.connections.pop(conn, None)

    def pause(self, conn: Conn) -> None:
        """The connection reads slowly: it gets nothing new until `resume`, then one larger poke."""
        if conn in self.connections:
            self.connections[conn].paused = True

    def resume(self, conn: Conn) -> None:
        if conn in self.connections:
            self.connections[conn].paused = False

    def set_role(self, conn: Conn, role: str) -> None:
        """The actor's role changed; it holds from the next frame on."""
        link = self.connections.get(conn)
        if link is not None:
            link.actor = replace(link.actor, role=role)

    def receive(self, conn: Conn, frame: ClientFrame, now_ms: int) -> None:
        """Takes one decoded frame. Raises `ProtocolError` if it breaks the protocol: send the fault and close."""
        link = self.connections.get(conn)
        if link is None:
            return
        if len(link.out) > self.limits.unread_max:
            raise ProtocolError("overload", "much is asked for, and what is answered is not read")
        if isinstance(frame, Hello):
            self._hello(conn, link, frame, now_ms)
        elif isinstance(frame, messages.Ping):
            link.out.append((0, messages.Pong(now_ms, frame.now)))
        elif not link.replica:
            if not link.rekeying:
                raise ProtocolError("order", f"the first frame is hello, not {type(frame).__name__.lower()}")
        elif link.heard.skips(frame.n):
            raise ProtocolError("order", f"frame {frame.n} came where {link.heard.last} was due")
        elif isinstance(frame, messages.Push):
            for pushed in frame.transactions:
                self._push(link, pushed, now_ms)
        elif isinstance(frame, messages.Confirm):
            self._confirm(link.replica, frame.number)
        elif isinstance(frame, messages.Subscribe):
            self._subscribe(conn, link, frame.subscription)
        elif isinstance(frame, messages.Unsubscribe):
            link.triples.pop(frame.id, None)
            link.displays.pop(frame.id, None)
            if link.entering.get(frame.id) is not None:  # a load under way is told to its end
                del link.entering[frame.id]

    def _hello(self, conn: Conn, link: _Connection, hello: Hello, now_ms: int) -> None:
        low, high = hello.protocol
        if not low <= PROTOCOL <= high:
            raise ProtocolError(
                "protocol", f"this server speaks protocol {PROTOCOL}, the client {low} to {high}"
            )
        if not _REPLICA.fullmatch(hello.replica):
            raise ProtocolError("malformed", f"not a replica id: {hello.replica[:40]!r}")
        if not (0 <= hello.confirmed < hello.next <= _NUMBER_MAX):
            raise ProtocolError("malformed", f"confirmed {hello.confirmed} is not below next {hello.next}")
        row = self.replicas.get(hello.replica)
        last = 0 if row is None else row.last
        # a client that keeps nothing says so by a `next` beyond every number; else a lost receipt is a lost tail
        shortened = row is not None and hello.confirmed < row.confirmed and hello.next < _NUMBER_MAX
        rekey = row is not None and (row.user != link.actor.user or hello.next <= last or shortened)
        fresh = _Connection(link.actor, generation=link.generation + 1, out=link.out, rekeying=rekey)
        self.connections[conn] = fresh
        if not rekey:
            self._replace(conn, hello)
            fresh.replica, fresh.incarnation = hello.replica, hello.incarnation
            self._confirm(hello.replica, hello.confirmed)
            for _, receipt, batch in self._receipts.get(hello.replica, {}).values():
                fresh.receipts.append((batch, receipt))
        actor, tolerance = link.actor, self.limits.tolerance_ms
        welcome = Welcome(
            PROTOCOL, self.server_id, self.epoch, self.durable_seq, last, actor.user, actor.session, actor.role,
            now_ms, tolerance, rekey=rekey,
        )  # fmt: skip
        fresh.out.append((0, welcome))
        if not rekey:
            fresh.seq = self.seq
            for subscription in hello.subscriptions:
                self._subscribe(conn, fresh, subscription)

    def _replace(self, conn: Conn, hello: Hello) -> None:
        """One replica, one connection: an older one is a half-open socket of the same process, or a copy."""
        for other, link in self.connections.items():
            if other != conn and link.replica == hello.replica:
                self._expel(link, "this replica has connected again from elsewhere")

    def _expel(self, link: _Connection, message: str) -> None:
        """Takes the identity from a connection: it has to say hello with another. All that it waited for is dropped."""
        link.out.append((0, Fault("replaced", message)))
        link.replica, link.rekeying = "", True
        link.generation += 1
        for waiting in (link.triples, link.displays, link.entering, link.receipts):
            waiting.clear()

    def _confirm(self, replica: str, number: int) -> None:
        row = self.replicas.get(replica)
        if row is not None and row.confirmed < number <= row.last:
            stored = self._receipts.get(replica, {})
            for n in range(row.confirmed + 1, number + 1):
                stored.pop(n, None)
            row.confirmed = number
            self._building.replicas[replica] = row

    # -- writing -----------------------------------------------------------------------------------------------

    def _push(self, link: _Connection, pushed: PushedTransaction, now_ms: int) -> None:
        if link.rekeying:
            return
        if link.partial is not None:
            if (pushed.number, pushed.id) != (link.partial.number, link.partial.id):
                raise ProtocolError("order", f"transaction {link.partial.number} is not finished")
            link.partial.changes.extend(pushed.changes)
            pushed = msgspec.structs.replace(link.partial, more=pushed.more)
        if len(pushed.changes) > self.limits.transaction_changes_max:
            raise ProtocolError(
                "size", f"a transaction has at most {self.limits.transaction_changes_max:,} changes"
            )
        link.partial = pushed if pushed.more else None
        if pushed.more:
            return
        row = self.replicas.setdefault(link.replica, ReplicaRow(link.actor.user))
        if pushed.number > row.last + 1:
            raise ProtocolError("order", f"transaction {pushed.number} came where {row.last + 1} was due")
        if pushed.number <= row.last:
            held = self._receipts.get(link.replica, {}).get(pushed.number)
            if held is not None and held[0] == pushed.id:
                link.receipts.append((held[2], held[1]))
            else:  # the number is taken by another transaction: this replica is a copy
                self._expel(link, f"number {pushed.number} of this replica is taken")
            return
        try:
            time, replica = parse_stamp(pushed.stamp)
        except ValueError as error:
            raise ProtocolError("malformed", str(error)) from None
        if replica != link.replica:
            raise ProtocolError("malformed", f"a stamp of replica {replica!r} from replica {link.replica!r}")
        known = self._tail.find(pushed.id)
        if known is None or not self._is_copy(link, pushed, known):
            receipt = self._decide(link, row, pushed, time, now_ms)
        else:
            receipt = self._recall(link, pushed, known, now_ms)
        row.last = pushed.number
        self._building.replicas[link.replica] = row
        self._building.receipts.append((link.replica, pushed.number, pushed.id, messages.encode(receipt)))
        batch = self._building.batch
        self._receipts.setdefault(link.replica, {})[pushed.number] = (pushed.id, receipt, batch)
        link.receipts.append((batch, receipt))

    def _decide(
        self, link: _Connection, row: ReplicaRow, pushed: PushedTransaction, sent_time: int, now_ms: int
    ) -> Receipt:
        """The fate of a new transaction, decided once."""
        replica = link.replica
        receipt = Receipt(pushed.number, pushed.id, "applied", pushed.stamp, self.seq, now_ms)
        time = self.clock.tick(now_ms) if self.clock.is_ahead(sent_time, now_ms) else sent_time
        if time <= row.time:
            time = row.time + 1
        try:
            if link.actor.role not in ("writer", "admin"):
                raise PermissionError(f"a {link.actor.role} may not write")
            changes = [messages.change_from_wire(wire, time, replica) for wire in pushed.changes]
            if len({change.key for change in changes}) != len(changes):
                raise ValueError("a transaction has at most one change a slot")
            changes = [self._total(change) if change.slot[:2] == COUNTER else change for change in changes]
        except (ValueError, TypeError, PermissionError) as error:
            receipt.outcome = "rejected"
            receipt.reason = "permission" if isinstance(error, PermissionError) else "invalid"
            self._tell_current(receipt, self._keys(link, pushed), [])
            return receipt
        self.clock.witness(time, now_ms)
        row.time = time
        receipt.stamp = stamp_text(time, replica)
        fates: list[Fate | None] = []
        delta = self.store.apply(changes, fates)
        for i, fate in enumerate(fates):
            if fate is not None and len(receipt.lost) < self.limits.lost_max:
                by = self.replicas.get(fate[2])
                receipt.lost.append((i, fate[0], "" if by is None else by.user))
        stands = [c for c, fate in zip(changes, fates, strict=True) if fate is None or fate[0] == "reset"]
        if stands:
            self._log(link, row, receipt, stands, now_ms)
        if any(fates) or time != sent_time:
            self._tell_current(receipt, [c.key for c in changes], fates)
        self._notice(delta)
        return receipt

    @staticmethod
    def _keys(link: _Connection, pushed: PushedTransaction) -> list[Key]:
        """The registers that a transaction was to set."""
        return [
            (s, p, COUNTER + link.replica if place == COUNTER else place)
            for s, p, place, _, _ in pushed.changes
        ]

    def _is_copy(self, link: _Connection, pushed: PushedTransaction, entry: Entry) -> bool:
        """True if an entry is this transaction, pushed under another identity."""
        keys = set(self._keys(link, pushed))
        own = COUNTER + link.replica
        return entry.replica != link.replica and all(
            (s, p, own if place[:2] == COUNTER else place) in keys for s, p, place, *_ in entry.registers
        )

    def _recall(self, link: _Connection, pushed: PushedTransaction, entry: Entry, now_ms: int) -> Receipt:
        """The receipt of a transaction that this replica pushed before, or a copy of it did, as somebody else."""
        stamp = stamp_text(entry.registers[0].time, entry.replica)
        receipt = Receipt(pushed.number, pushed.id, "applied", stamp, self.seq, now_ms)
        keys = dict.fromkeys([*self._keys(link, pushed), *(change.key for change in entry.registers)])
        self._tell_current(receipt, list(keys), [])
        return receipt

    def _total(self, increment: Change) -> Change:
        """The replica's share after an increment: what the store merges."""
        if increment.slot != COUNTER or increment.value is None:
            raise ValueError("a transaction counts in slot 'c:'; shares are the server's to write")
        key = (increment.subject, increment.predicate, COUNTER + increment.replica)
        held = self.store.register(key)
        before = held.value if held is not None and held.value is not None else 0
        value = from_wire(*to_wire(before + increment.value))  # type: ignore[operator]
        return Change(*key, value, increment.time, increment.replica)

    def _log(
        self, link: _Connection, row: ReplicaRow, receipt: Receipt, stands: list[Change], now_ms: int
    ) -> None:
        self.seq += 1
        receipt.seq = self.seq
        body = messages.encode(
            Committed(
                self.seq,
                link.actor.user,
                now_ms,
                receipt.stamp,
                [messages.change_to_wire(change) for change in stands],
                receipt.number,
                receipt.id,
            )
        )
        entry = Entry(
            self.seq, link.replica, receipt.number, receipt.id, link.actor.user, now_ms, body, tuple(stands)
        )
        self._building.entries.append(entry)
        self._tail.add(entry)

    def _tell_current(self, receipt: Receipt, keys: list[Key], fates: list[Fate | None]) -> None:
        """Puts into a receipt what the server has for the keys of its transaction, and what beat them."""
        wanted = dict.fromkeys(keys)
        for key, fate in zip(keys, fates, strict=False):
            if fate is not None and fate[0] == "reset":
                wanted[(key[0], key[1], SINGLE)] = wanted[(key[0], key[1], RESET)] = None
            elif fate is not None and fate[0] == "deleted":
                wanted[(key[0], DELETED, SINGLE)] = None
        size = 0
        for key in list(wanted):
            if key[1] == DELETED and self.store.deleted(key[0]) is None:
                wanted.update(dict.fromkeys(register.key for register in self.store.registers_of(key[0])))
        for key in wanted:
            register = self.store.register(key)
            if register is not None:
                receipt.current.append(register_to_wire(register))
                size += messages.wire_bytes(register)
            else:
                receipt.absent.append(key)
            if size + 500 * len(receipt.absent) > self.limits.receipt_bytes_max:
                receipt.current, receipt.absent, receipt.reload = [], [], True
                return

    def _notice(self, delta: Delta) -> None:
        """Displays whose predicates a delta touches are stale."""
        if not delta:
            return
        predicates = delta.predicates
        for conn, link in self.connections.items():
            for display in link.displays.values():
                if display.query.predicates is None or not predicates.isdisjoint(display.query.predicates):
                    display.stale = True
                    self._schedule(conn, link, display)

    # -- subscriptions -----------------------------------------------------------------------------------------

    def _subscribe(self, conn: Conn, link: _Connection, subscription: Subscription) -> None:
        if len(link.triples) + len(link.displays) >= self.limits.subscriptions_max:
            link.out.append(
                (0, Failed(subscription.id, "limits", "too many subscriptions on this connection"))
            )
        elif subscription.kind == "triples":
            if not link.triples:
                link.seq = self.seq
            link.triples[subscription.id] = subscription
            cursor = subscription.cursor
            if (
                cursor is not None
                and cursor[0] == self.epoch
                and self._tail.floor <= cursor[1] <= self.durable_seq
            ):
                link.entering[subscription.id] = cursor[1]
                link.seq = min(link.seq, cursor[1])
            else:
                link.entering[subscription.id] = None
                link.loads += 1
                self._jobs.append((conn, link.generation, self._load(link)))
        elif subscription.kind == "rows" and subscription.query is not None:
            try:
                display = Display(subscription)
            except (QueryError, ValueError, TypeError) as error:
                link.out.append((0, Failed(subscription.id, "query", str(error))))
                return
            link.displays[subscription.id] = display
            self._schedule(conn, link, display)
        else:
            link.out.append(
                (0, Failed(subscription.id, "query", f"no subscription of kind {subscription.kind!r}"))
            )

    def _load(self, link: _Connection) -> Iterator[None]:
        """Sends every register there is, in parts. Changes of the meantime follow in the poke that ends the load:
        the connection's seq stays where it was when its interest was registered."""
        for part in chain(parts(self.store.registers(), self.limits), [Part([])]):
            link.parts, link.numbered, link.loaded = link.parts + 1, link.numbered + 1, self.seq
            part.n = link.numbered
            link.out.append((self._last_batch(), part))
            yield
        link.loads -= 1

    def _last_batch(self) -> int:
        """The commit that must be durable before the store's present content may be shown."""
        if self._building.entries:
            return self._building.batch
        return self._durable_batch if self._in_flight is None else self._in_flight.batch

    def _schedule(self, conn: Conn, link: _Connection, display: Display) -> None:
        if not display.running:
            display.running = True
            self._jobs.append((conn, link.generation, self._answer(link, display)))

    def _answer(self, link: _Connection, display: Display) -> Iterator[None]:
        """Brings a display up to date, in slices, until it is not stale any more."""
        while display.stale and link.displays.get(display.id) is display:
            seq, batch = self.seq, self._last_batch()
            view = self.store.view(display.query.predicates)
            answer = display.answer(view, self.epoch, seq, self.limits)
            try:
                while True:
                    next(answer)
                    yield
                    if link.displays.get(display.id) is not display:
                        return
            except StopIteration as done:
                if done.value is not None:
                    link.out.append((batch, done.value))
            finally:
                answer.close()
        display.running = False

    # -- leaving -----------------------------------------------------------------------------------------------

    def take_commit(self) -> Commit | None:
        """What must become durable now; None while another commit is out or nothing changed."""
        building = self._building
        if self._in_flight is not None or not (building.entries or building.receipts or building.replicas):
            return None
        building.seq, building.time = self.seq, self.clock.last
        building.replicas = {replica: replace(row) for replica, row in building.replicas.items()}
        self._in_flight = building
        self._building = Commit(building.batch + 1, self.seq, self.clock.last)
        return building

    def committed(self, commit: Commit, now_ms: int) -> None:
        """`commit` is durable: what waited for it may leave."""
        assert commit is self._in_flight
        self._in_flight = None
        self._durable_batch = commit.batch
        self.durable_seq = commit.seq

    def frames_to_send(self) -> list[tuple[Conn, ServerFrame]]:
        """Everything that may leave now, in order for each connection. A fault is a connection's last frame."""
        out: list[tuple[Conn, ServerFrame]] = []
        shared: dict[tuple[int, int], list[ServerFrame]] = {}
        for conn, link in self.connections.items():
            if link.paused:
                continue
            while link.out and link.out[0][0] <= self._durable_batch:
                out.append((conn, link.out.popleft()[1]))
            if link.replica and not link.loads and not link.out:
                out.extend((conn, frame) for frame in self._pokes(link, shared))
        return out

    def _pokes(
        self, link: _Connection, shared: dict[tuple[int, int], list[ServerFrame]]
    ) -> list[ServerFrame]:
        """Takes a connection from where it stands to what is durable, in as many pokes as that needs."""
        durable = sum(1 for batch, _ in link.receipts if batch <= self._durable_batch)
        if not (durable or link.entering or (link.triples and link.seq < self.durable_seq)):
            return []
        if not link.triples:
            link.seq = self.durable_seq
        if (
            link.triples and link.seq < self._tail.floor
        ):  # it was slow for longer than the tail is: from nothing again
            self._reload(link)
            return []
        receipts = [receipt for _, receipt in link.receipts[:durable]]
        del link.receipts[:durable]
        catching_up = bool(link.entering)
        frames: list[ServerFrame] = []
        while True:
            least = link.loaded if None in link.entering.values() else 0
            since = link.seq
            upto, told = self._tail.stretch(since, self.durable_seq, receipts, least, self.limits)
            entries = self._tail.between(since, upto)
            # its own entries a replica has, unless it comes back
            others = entries if catching_up else [entry for entry in entries if entry.replica != link.replica]
            if catching_up or told or len(others) < len(entries):
                entering, link.entering, sent, link.parts = link.entering, {}, link.parts, 0
                frames.extend(pokes(self.epoch, since, upto, entering, others, told, self.limits, sent))
            else:
                if (since, upto) not in shared:
                    shared[since, upto] = list(pokes(self.epoch, since, upto, {}, others, [], self.limits))
                frames.extend(shared[since, upto])
            link.seq = upto
            receipts = receipts[len(told) :]
            if upto == self.durable_seq and not receipts:
                return frames

    def _reload(self, link: _Connection) -> None:
        link.seq = self.seq
        link.entering = dict.fromkeys(link.triples)
        link.loads += 1
        conn = next(conn for conn, other in self.connections.items() if other is link)
        self._jobs.append((conn, link.generation, self._load(link)))

    def has_work(self) -> bool:
        """True if `step` has something to do."""
        return bool(self._jobs)

    def step(self) -> bool:
        """One bounded slice of the longest-waiting load or evaluation; False if all of them wait for their readers
        (call again after `frames_to_send` or `resume`)."""
        for _ in range(len(self._jobs)):
            conn, generation, job = self._jobs.popleft()
            link = self.connections.get(conn)
            if link is None or link.generation != generation:
                continue  # the connection is gone or began anew; dropping the job cancels it
            if link.paused or len(link.out) > 100:
                self._jobs.append((conn, generation, job))
                continue
            try:
                next(job)
            except StopIteration:
                return True
            self._jobs.append((conn, generation, job))
            return True
        return False

    def new_session(self) -> str:
        """An id for a connection's session."""
        return nano_id(self._random_bytes, 12)
