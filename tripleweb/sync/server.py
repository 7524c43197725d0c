"""The server's side of the protocol for one app: frames in, commits and frames out. No I/O, no clock, no threads.

Everything revolves around five verbs. `receive` takes a frame and changes memory only. `take_commit` hands out what
must become durable, `committed` says that it has. `frames_to_send` gives what may leave: receipts, pokes and parts of
which nothing is not yet durable. `step` does one bounded slice of longer work (first loads, evaluations).

Invariants: every transaction gets exactly one receipt, decided once, stored with what it promises and kept (of who is
long unseen the gist, see `decisions`) until the replica confirms it; seq rises by one with each accepted transaction,
in commit order; within one replica the stamps rise with the numbers; a connection's pokes join without a gap; a
protocol error costs its connection and nothing else. After a failed commit the core is thrown away and loaded again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.clock import Clock, parse_stamp, stamp_text
from tripleweb.errors import ProtocolError
from tripleweb.ids import BYTES_MAX, check_id, nano_id
from tripleweb.influx import loaded
from tripleweb.store import Delta, Fate
from tripleweb.sync import messages
from tripleweb.sync.decisions import Decisions
from tripleweb.sync.feed import Conn, Feed, Holding
from tripleweb.sync.guards import Behind, Guards
from tripleweb.sync.limits import Limits as Limits
from tripleweb.sync.messages import (
    PROTOCOL,
    ClientFrame,
    Committed,
    Fault,
    Hello,
    PushedTransaction,
    Receipt,
    ServerFrame,
    Welcome,
    register_to_wire,
)
from tripleweb.sync.published import Publications, Publish
from tripleweb.sync.readers import Readers
from tripleweb.sync.records import Commit, Entry, ReplicaRow, TenantState
from tripleweb.sync.tail import Tail
from tripleweb.sync.views import Scroll
from tripleweb.terms import from_wire, slot, to_wire

_REPLICA = re.compile(r"[0-9a-z]{12}")
_NUMBER_MAX = 1 << 53


def _check_name(name: str) -> None:
    """What a client calls its subscriptions is said back to it in every frame about them."""
    if len(name) > BYTES_MAX:
        raise ProtocolError("malformed", f"an id of a subscription has at most {BYTES_MAX} characters")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who speaks on a connection, as the server knows it: never from the client, the label excepted."""

    user: str
    label: str = ""
    session: str = ""
    role: str = "writer"  # reader, writer, admin


@dataclass(slots=True)
class _Connection:
    actor: Actor
    feed: Feed
    replica: str = ""  # "" until hello
    incarnation: str = ""
    partial: PushedTransaction | None = None
    beyond: bool = False  # it is larger than a transaction may be: nothing of it is kept
    rekeying: bool = False  # what it pushes is ignored until it says hello again
    behind: Behind | None = None  # guarded transactions, and what was pushed after them


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
        self.origin = state.origin
        self.backup = state.backup  # what the latest verified backup holds; whoever made one sets it
        self.seq = self.durable_seq = state.seq
        self.clock = Clock(state.time, self.limits.tolerance_ms)
        self.store = loaded(state.registers)
        self.replicas = state.replicas
        self.connections: dict[Conn, _Connection] = {}
        self._tail = Tail(state.tail, state.seq, self.limits.tail_max)
        self.published = Publications(state.names, self.limits, partial(nano_id, random_bytes))
        self.readers = Readers(
            self, self.store, self._tail, self.limits, partial(nano_id, random_bytes, 12), self.published
        )
        self.decisions = Decisions(state.receipts, state.gists, self.replicas, self.limits)
        self._building = Commit(1, self.seq, self.clock.last)
        self._told_bytes = 0  # about, of registers, in the receipts of that
        self._in_flight: Commit | None = None
        self._durable_batch = 0
        self._may_send = True  # False: nothing has happened since that could let a frame leave
        self.guards = Guards(self.store, self.limits)
        self.now_ms = 0  # when something last came in
        self._guards_turn = False

    # -- connections -------------------------------------------------------------------------------------------

    def connect(self, conn: Conn, actor: Actor, now_ms: int) -> None:
        """A connection was opened by `actor`, who is authenticated."""
        self.connections[conn] = _Connection(actor, Feed(conn))

    def disconnect(self, conn: Conn, now_ms: int) -> None:
        """A connection is gone; its work is dropped."""
        link = self.connections.pop(conn, None)
        if link is not None:
            self._drop_behind(link)
            self.readers.leave(link.feed, now_ms)
            self._hear_of(link.replica, now_ms)

    def pause(self, conn: Conn) -> None:
        """The connection reads slowly: it gets nothing new until `resume`, then one larger poke."""
        if conn in self.connections:
            self.connections[conn].feed.paused = True

    def resume(self, conn: Conn) -> None:
        self._may_send = True
        if conn in self.connections:
            self.readers.resume(self.connections[conn].feed)

    def exceed(self, conn: Conn) -> None:
        """The transaction that is coming in is too large: it is no longer kept, and rejected at its end."""
        if conn in self.connections:
            self.connections[conn].beyond = True

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
        self.now_ms = now_ms
        if len(link.feed.out) > self.limits.unread_max:
            raise ProtocolError("overload", "much is asked for, and what is answered is not read")
        if not isinstance(frame, (messages.Push, messages.Confirm)):  # these wait for a commit
            self._may_send = True
        if isinstance(frame, Hello):
            self._hello(conn, link, frame, now_ms)
        elif isinstance(frame, messages.Ping):
            self.readers.say(link.feed, messages.Pong(now_ms, frame.now, self.backup))
        elif not link.replica:
            if not link.rekeying:
                raise ProtocolError("order", f"the first frame is hello, not {type(frame).__name__.lower()}")
        elif link.feed.heard.skips(frame.n):
            raise ProtocolError("order", f"frame {frame.n} came where {link.feed.heard.last} was due")
        elif isinstance(frame, messages.Push):
            for pushed in frame.transactions:
                self._push(link, pushed, now_ms)
        elif isinstance(frame, messages.Confirm):
            self._confirm(link.replica, frame.number)
        elif isinstance(frame, messages.Took):
            link.feed.took(frame.parts)
            self.readers.loads.resume(link.feed)
        elif isinstance(frame, messages.Subscribe):
            _check_name(frame.subscription.id)
            self.readers.subscribe(link.feed, frame.subscription)
        elif isinstance(frame, messages.Unsubscribe):
            self.readers.unsubscribe(link.feed, frame.id)
        elif isinstance(frame, Scroll):
            self.readers.pages.scroll(link.feed, frame.id, frame.view)
        elif isinstance(frame, messages.Describe):
            _check_name(frame.id)
            self.readers.describe(link.feed, frame.id)
        elif isinstance(frame, Publish):
            _check_name(frame.id)
            self.readers.pages.publish(link.feed, frame, link.actor.user, self._names_batch)
        # what looks back is answered by whoever has the log

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
        for subscription in hello.subscriptions:
            _check_name(subscription.id)
        later = list(self.connections.values())[list(self.connections).index(conn) + 1 :]
        if any(other.replica == hello.replica for other in later):  # this one was left before its hello came
            self._expel(link, "this replica has connected again from elsewhere", now_ms)
            return
        row = self.replicas.get(hello.replica)
        last = 0 if row is None else row.last
        # a client that keeps nothing says so by a `next` beyond every number; else a lost receipt is a lost tail
        shortened = row is not None and hello.confirmed < row.confirmed and hello.next < _NUMBER_MAX
        rekey = row is not None and (row.user != link.actor.user or hello.next <= last or shortened)
        self._drop_behind(link)
        self.readers.leave(link.feed, now_ms)
        feed = Feed(conn, link.feed.out, hello.replica, paused=link.feed.paused)
        feed.window = self.limits.window_parts if messages.WINDOW in hello.features else 0
        fresh = self.connections[conn] = _Connection(link.actor, feed, rekeying=rekey)
        if not rekey:
            self._replace(conn, hello, now_ms)
            fresh.replica, fresh.incarnation = hello.replica, hello.incarnation
            self._confirm(hello.replica, hello.confirmed)
            self._hear_of(hello.replica, now_ms)
            feed.receipts += [
                (batch, receipt) for receipt, batch in self.decisions.unconfirmed(hello.replica, now_ms)
            ]
        actor, tolerance = link.actor, self.limits.tolerance_ms
        welcome = Welcome(
            PROTOCOL, self.server_id, self.epoch, self.durable_seq, last, actor.user, actor.session, actor.role,
            now_ms, tolerance, list(messages.FEATURES), rekey=rekey,
            former={name: self.replicas[name].last for name in hello.former if name in self.replicas},
            backup=self.backup, nth=hello.nth, origin=self.origin,
        )  # fmt: skip
        self.readers.say(feed, welcome)
        if not rekey:
            self.readers.begin(feed, hello, now_ms)

    def _replace(self, conn: Conn, hello: Hello, now_ms: int) -> None:
        """One replica, one connection: an older one is a half-open socket of the same process, or a copy."""
        for other, link in self.connections.items():
            if other != conn and link.replica == hello.replica:
                self._expel(link, "this replica has connected again from elsewhere", now_ms)

    def _expel(self, link: _Connection, message: str, now_ms: int, code: str = "replaced") -> None:
        """Takes the identity from a connection: it has to say hello with another. All that it waited for is dropped."""
        self._drop_behind(link)
        self.readers.leave(link.feed, now_ms)
        link.feed = Feed(link.feed.conn, link.feed.out, paused=link.feed.paused)
        self.readers.say(link.feed, Fault(code, message))
        link.replica, link.rekeying = "", True

    def _confirm(self, replica: str, number: int) -> None:
        row = self.replicas.get(replica)
        if row is not None and row.confirmed < number <= row.last:
            self.decisions.confirm(replica, row.confirmed, number)
            row.confirmed = number
            self.readers.confirmed(replica, number)
            self._building.replicas[replica] = row

    def _hear_of(self, replica: str, now_ms: int) -> None:
        """A replica is here, or was until now. That is made durable where it matters."""
        row = self.replicas.get(replica)
        if row is not None:
            row.seen = now_ms
            if self.decisions.has(replica):
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
        if link.beyond or len(pushed.changes) > self.limits.transaction_changes_max:
            link.beyond, pushed.changes = True, []
        link.partial = pushed if pushed.more else None
        if pushed.more:
            return
        is_whole, link.beyond = not link.beyond, False
        if pushed.check is None and (link.behind is None or not link.behind.pushed):
            self._take(link, pushed, is_whole, now_ms)
            return
        if link.behind is None:
            link.behind = Behind(partial(self._take_in_turn, link))
        self.guards.wait(link.behind, pushed, is_whole)
        self._may_send = True

    def _drop_behind(self, link: _Connection) -> None:
        if link.behind is not None:
            self.guards.leave(link.behind)

    def _take_in_turn(self, link: _Connection, pushed: PushedTransaction, is_whole: bool) -> None:
        """Decides on a transaction that had to wait. Raises `guards.Heavy`."""
        try:
            self._take(link, pushed, is_whole, self.now_ms)
        except ProtocolError as error:
            self._expel(link, str(error), self.now_ms, error.code)

    def _take(self, link: _Connection, pushed: PushedTransaction, is_whole: bool, now_ms: int) -> None:
        """Decides on a transaction, if that has not been done before, and has its receipt told."""
        try:
            check_id(pushed.id, "id of a transaction")
            time, replica = parse_stamp(pushed.stamp)
        except ValueError as error:
            raise ProtocolError("malformed", str(error)) from None
        if replica != link.replica:
            raise ProtocolError("malformed", f"a stamp of replica {replica!r} from replica {link.replica!r}")
        row = self.replicas.setdefault(link.replica, ReplicaRow(link.actor.user))
        if pushed.number > row.last + 1:
            raise ProtocolError("order", f"transaction {pushed.number} came where {row.last + 1} was due")
        if pushed.number - row.confirmed > self.limits.unconfirmed_max:
            raise ProtocolError("overload", "too many receipts are kept for this replica: confirm them first")
        if pushed.number <= row.last:
            self._may_send = True
            held = self.decisions.find(link.replica, pushed.number, now_ms)
            if held is not None and held[0].id == pushed.id:
                self.readers.tell_receipt(link.feed, *held)
            else:  # the number is taken by another transaction: this replica is a copy
                self._expel(link, f"number {pushed.number} of this replica is taken", now_ms)
            return
        known = self._tail.find(pushed.id)
        if not is_whole:  # what it was to set is not known here any more
            receipt = Receipt(
                pushed.number, pushed.id, "rejected", pushed.stamp, self.seq, now_ms, "limits", reload=True
            )
        elif known is None or not self._is_copy(link, pushed, known):
            receipt = self._decide(link, row, pushed, time, now_ms)
        else:
            receipt = self._recall(link, pushed, known, now_ms)
        row.last, row.seen = pushed.number, now_ms
        self._building.replicas[link.replica] = row
        self._building.receipts.append((link.replica, pushed.number, pushed.id, messages.encode(receipt)))
        batch = self._building.batch
        self.decisions.add(link.replica, receipt, batch)
        if link.feed.holding is not None:
            keys = [*pushed.keys(link.replica), *(wire[:3] for wire in receipt.current)]
            self.readers.wrote(link.feed, pushed.number, keys, parse_stamp(receipt.stamp), now_ms)
        self.readers.tell_receipt(link.feed, receipt, batch)

    def _decide(
        self, link: _Connection, row: ReplicaRow, pushed: PushedTransaction, sent_time: int, now_ms: int
    ) -> Receipt:
        """The fate of a new transaction, decided once."""
        replica = link.replica
        receipt = Receipt(pushed.number, pushed.id, "applied", pushed.stamp, self.seq, now_ms)
        may_write = link.actor.role in ("writer", "admin")
        if may_write and pushed.check is not None and (refusal := self.guards.refusal(pushed.check)):
            receipt.outcome, receipt.reason, receipt.message = "rejected", "guard", refusal
            self._tell_current(receipt, pushed.keys(replica), [])
            return receipt
        time = self.clock.tick(now_ms) if self.clock.is_ahead(sent_time, now_ms) else sent_time
        if time <= row.time:
            time = row.time + 1
        try:
            if not may_write:
                raise PermissionError(f"a {link.actor.role} may not write")
            changes = [messages.change_from_wire(wire, time, replica) for wire in pushed.changes]
            if len(changes) > 1 and len({change[:3] for change in changes}) != len(changes):
                raise ValueError("a transaction has at most one change a slot")
            if any(change.slot[:2] == COUNTER for change in changes):
                changes = [self._total(c) if c.slot[:2] == COUNTER else c for c in changes]
            if pushed.check is not None and (met := self._latest(changes)) >= time:
                time = met + 1  # it was decided upon with these there, so it comes after them
                changes = [change._replace(time=time) for change in changes]
        except (ValueError, TypeError, PermissionError) as error:
            receipt.outcome = "rejected"
            receipt.reason = "permission" if isinstance(error, PermissionError) else "invalid"
            self._tell_current(receipt, pushed.keys(link.replica), [])
            return receipt
        self.clock.witness(time, now_ms)
        row.time = time
        receipt.stamp = stamp_text(time, replica)
        fates: list[Fate | None] = []
        delta = self.store.apply(changes, fates)
        if link.feed.holding is not None:
            stand = [change for change, fate in zip(changes, fates, strict=True) if fate is None]
            self._tell_stood(receipt, stand, delta, link.feed.holding)
        for i, fate in enumerate(fates):
            if fate is not None:
                receipt.lose(i, fate[0], self._user(fate[2]), self.limits.lost_max)
        stands = [c for c, fate in zip(changes, fates, strict=True) if fate is None or fate[0] == "reset"]
        if stands:
            entry = self._log(link, receipt, stands, now_ms)
            self.readers.tell(entry, delta, link.feed)
        if any(fates) or time != sent_time:
            self._tell_current(receipt, [c.key for c in changes], fates)
        return receipt

    def _latest(self, changes: list[Change]) -> int:
        """The latest time of what stands where these changes are to stand."""
        keys = {(s, p, place) for s, p, slot_, *_ in changes for place in (slot_, SINGLE, RESET)}
        return max((held.time for key in keys if (held := self.store.register(key)) is not None), default=0)

    def _tell_stood(self, receipt: Receipt, changes: list[Change], delta: Delta, holding: Holding) -> None:
        """Puts into a receipt what its writer could not know: the values that stood where it wrote. `changes` are those
        that did not lose: the others came to nothing, which is no sign that the same had stood there."""
        dead = {change.subject for change in changes if change.predicate == DELETED}
        came = {(s, p, type(v), slot(v)) for s, p, v in delta.added}
        again = [
            (change.subject, change.predicate, change.value)
            for change in changes
            if change.value is not None and change.slot[:2] != COUNTER and change.subject not in dead
        ]
        again = [(s, p, v) for s, p, v in again if (s, p, type(v), slot(v)) not in came]
        size = 0
        for subject, predicate, value in [*delta.removed, *again]:
            if subject not in dead and not holding.holds((subject, predicate)):
                receipt.stood.append((subject, predicate, *to_wire(value)))
                size += len(subject) + len(predicate) + (len(value) if isinstance(value, str) else 20)
                if size > self.limits.frame_bytes // 4:
                    receipt.stood, receipt.unseen = [], True
                    return

    def _user(self, replica: str) -> str:
        """Who writes as a replica, as far as is known."""
        row = self.replicas.get(replica)
        return "" if row is None else row.user

    def _is_copy(self, link: _Connection, pushed: PushedTransaction, entry: Entry) -> bool:
        """True if an entry is this transaction, pushed under another identity."""
        return entry.replica != link.replica and entry.keys(link.replica) <= set(pushed.keys(link.replica))

    def _recall(self, link: _Connection, pushed: PushedTransaction, entry: Entry, now_ms: int) -> Receipt:
        """The receipt of a transaction that this replica pushed before, or a copy of it did, as somebody else."""
        stamp = stamp_text(entry.registers[0].time, entry.replica)
        receipt = Receipt(pushed.number, pushed.id, "applied", stamp, self.seq, now_ms)
        keys = dict.fromkeys([*pushed.keys(link.replica), *(change.key for change in entry.registers)])
        self._tell_current(receipt, list(keys), [])
        stood = entry.keys(link.replica)
        for i, key in enumerate(pushed.keys(link.replica)):
            if key not in stood:  # it has lost then; to whom is not known any more, but who is there now is
                grave, held = self.store.deleted(key[0]), self.store.register(key)
                by = (grave or (held.stamp if held is not None else (0, "")))[1]
                receipt.lose(i, "deleted" if grave else "newer", self._user(by), self.limits.lost_max)
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

    def _log(self, link: _Connection, receipt: Receipt, stands: list[Change], now_ms: int) -> Entry:
        self.seq += 1
        receipt.seq = self.seq
        body = messages.encode(
            Committed(
                self.seq,
                link.actor.user,
                receipt.stamp,
                [messages.change_to_wire(change) for change in stands],
            )
        )
        entry = Entry(
            self.seq, link.replica, receipt.number, receipt.id, link.actor.user, now_ms, body, tuple(stands)
        )
        self._building.entries.append(entry)
        return entry

    def _tell_current(self, receipt: Receipt, keys: list[Key], fates: list[Fate | None]) -> None:
        """Puts into a receipt what the server has for the keys of its transaction, and what beat them."""
        wanted = dict.fromkeys(keys)
        for key, fate in zip(keys, fates, strict=False):
            if fate is not None and fate[0] == "reset":
                wanted[(key[0], key[1], SINGLE)] = wanted[(key[0], key[1], RESET)] = None
            elif fate is not None and fate[0] == "deleted":
                wanted[(key[0], DELETED, SINGLE)] = None
        # what is told in one commit is bounded, too, however little its transactions have asked
        room = min(self.limits.receipt_bytes_max, self.limits.told_bytes_max - self._told_bytes)
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
            if size + 500 * len(receipt.absent) > room:
                receipt.current, receipt.absent, receipt.reload = [], [], True
                return
        self._told_bytes += size + 500 * len(receipt.absent)

    # -- leaving -----------------------------------------------------------------------------------------------

    def last_batch(self) -> int:
        """The commit that must be durable before the store's present content may be shown."""
        if self._building.entries:
            return self._building.batch
        return self._durable_batch if self._in_flight is None else self._in_flight.batch

    def _names_batch(self) -> int:
        """The commit that must be durable before the names of published queries may be told."""
        if self.published.changed or self._building.names:
            return self._building.batch
        return self._durable_batch if self._in_flight is None else self._in_flight.batch

    def is_durable(self, batch: int) -> bool:
        return batch <= self._durable_batch

    def take_commit(self, urgent: bool = False) -> Commit | None:
        """What must become durable now; None while another commit is out or nothing changed. `urgent`: nor where there
        are confirmations (or gists) only, which can wait, since a client that is not believed says them again."""
        building = self._building
        building.names.update(self.published.changed)
        self.published.changed.clear()
        is_due = (
            building.entries
            or building.receipts
            or building.names
            or ((building.replicas or building.gists) and not urgent)
        )
        if self._in_flight is not None or not is_due:
            return None
        building.seq, building.time = self.seq, self.clock.last
        building.replicas = {replica: replace(row) for replica, row in building.replicas.items()}
        self._in_flight = building
        self._told_bytes = 0
        self._building = Commit(building.batch + 1, self.seq, self.clock.last)
        return building

    def committed(self, commit: Commit, now_ms: int) -> None:
        """`commit` is durable: what waited for it may leave."""
        assert commit is self._in_flight
        self._may_send = True
        self._in_flight = None
        self._durable_batch = commit.batch
        self.durable_seq = commit.seq

    def frames_to_send(self) -> list[tuple[Conn, ServerFrame]]:
        """Everything that may leave now, in order for each connection. A fault is a connection's last frame."""
        if not self._may_send:
            return []
        self._may_send = False
        return list(self.readers.frames())

    def has_work(self) -> bool:
        """True if `step` has something to do."""
        return (
            self.guards.has_work or self.readers.loads.has_work() or self.decisions.has_work(self._building)
        )

    @property
    def is_behind(self) -> bool:
        """True if so much waits for guarded transactions that nothing more is to be received before `step`."""
        return self.guards.is_full

    def step(self) -> bool:
        """One bounded slice of the longest-waiting load, evaluation or guarded transaction; False if all of them wait
        for their readers (call again after `frames_to_send` or `resume`)."""
        self._may_send = True
        has_faded = self.decisions.fade(self._building, self._durable_batch)  # a small part of a slice
        self._guards_turn = self.guards.has_work and not (self._guards_turn and self.readers.loads.has_work())
        if self._guards_turn:
            self.guards.step()
            return True
        return self.readers.loads.step() or has_faded

    @property
    def is_heavy(self) -> bool:
        """True if something waits for `evaluate`, which takes as long as a query may: call it beside the loop."""
        return self.guards.is_heavy or self.readers.loads.is_heavy

    def evaluate(self) -> None:
        """The longest-waiting evaluation that is no slice. Nothing else may be called meanwhile."""
        self._may_send = True
        if self.guards.is_heavy:
            self.guards.evaluate()
        else:
            self.readers.loads.evaluate()

    def tick(self, now_ms: int) -> None:
        """To be called every few seconds: forgets what replicas hold that have been away for long, and all but the gist
        of the receipts of those who were not seen for very long."""
        self._may_send = True
        self.published.tick(now_ms)
        self.readers.tick(now_ms)
        self.decisions.look({link.replica for link in self.connections.values()}, now_ms)
