"""The replica's side of the protocol: local transactions and frames in, commits and frames out. No I/O, no clock.

Writes go `begin` -> (the transaction's methods) -> `prepare` -> the caller saves the commit -> `accept`. Frames go
`receive` -> the caller saves the returned commit before it calls anything else. `frames_to_send` gives what may leave
at any time. A caller that cannot save throws the core away and loads it again.

Invariants: the store is what the server said, with what is still pending on top; outbox, cursors, clock and data
change in the same commit; a transaction stays in the outbox until its receipt came; a poke is applied whole or, if it
does not join where this replica stands, not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from tripleweb.change import COUNTER, DELETED, Change, Key
from tripleweb.clock import Clock, parse_stamp
from tripleweb.errors import ProtocolError, TriplewebError
from tripleweb.ids import nano_id, replica_id
from tripleweb.influx import absorb, contents, replace
from tripleweb.store import Delta, net
from tripleweb.sync import messages
from tripleweb.sync.messages import (
    PROTOCOL,
    ClientFrame,
    Fault,
    Hello,
    Part,
    Poke,
    Receipt,
    ServerFrame,
    Subscription,
    Welcome,
)
from tripleweb.sync.order import Arrivals, in_time, opened
from tripleweb.sync.outbox import (
    ClientLimits,
    Step,
    fates_of,
    pushes,
    put_again,
    refused,
    shares,
    stamp_anew,
    stored_key,
    take_away,
)
from tripleweb.sync.records import Kept, LocalCommit, LocalState, Pending
from tripleweb.sync.restores import Keepsakes, joins
from tripleweb.sync.views import Shown
from tripleweb.transaction import Transaction

APP = "app"  # the subscription to the whole app
NO_GUARDS = "this server does not know guarded transactions: it needs a newer version of tripleweb"


@dataclass(slots=True)
class Update:
    """What a frame did: to the triples, to the disk (save `commit` first), and what is worth telling."""

    delta: Delta = field(default_factory=Delta)
    commit: LocalCommit | None = None
    receipts: list[Receipt] = field(default_factory=list)
    frame: ServerFrame | None = None  # rows and failed subscriptions, for whoever subscribed


class ClientCore:
    """One replica of one app. `local` True: a store without a server, which keeps no outbox."""

    def __init__(
        self,
        state: LocalState,
        *,
        random_bytes: Callable[[int], bytes],
        local: bool = False,
        limits: ClientLimits | None = None,
    ) -> None:
        meta = state.meta
        self.limits = limits or ClientLimits()
        self.local = local
        self.store = state.content()
        self.clock = Clock(int(meta.get("clock", 0)), self.limits.tolerance_ms)
        self.replica: str = meta.get("replica") or replica_id(random_bytes)
        self.next: int = int(meta.get("next", 1))
        self.decided: int = int(meta.get("decided", 0))  # up to this number everything has its receipt
        self.outbox: dict[int, Pending] = {p.number: p for p in sorted(state.pending, key=lambda p: p.number)}
        self.kept = Keepsakes(state.kept, self.limits, meta.get("origin", ""))
        self.cursors: dict[str, int] = dict(meta.get("cursors", {}))
        self.epoch: str = meta.get("epoch", "")
        self.at: int = int(meta.get("at", 0))  # the seq of the last poke,
        self.mark: int = int(meta.get("mark", 0))  # and when the server had accepted what that is
        self.ticket: str = meta.get("ticket", "")  # under which the server knows what is held here
        self.features: list[str] = []  # of the server
        self.server_id: str = meta.get("server", "")
        self.user: str = meta.get("user", "")
        self.role: str = ""
        self.session: str = ""
        self.offset_ms = 0  # the server's clock minus ours,
        self._doubt_ms = 0  # which is so far from being sure
        self.seen: int = int(meta.get("seen", 0))  # the latest time of a stamp that came from the server
        self.state = "local" if local else "offline"
        self.reason = ""
        self.subscriptions: dict[str, Subscription] = {}
        self.incarnation = nano_id(random_bytes, 12)
        self._random_bytes = random_bytes
        self._live: set[str] = set()  # triples subscriptions that came to life on this connection
        self._arrivals = Arrivals()
        self.progress = self._arrivals.progress
        self._said = 0  # frames since hello, pings aside
        self._hello_due = False
        self._hello_ms = self._hellos = 0  # when the last hello left, by our clock; how many did
        self._sent = 0  # highest number pushed on this connection
        self._ahead: Receipt | None = None  # the server has set this transaction's stamp back
        self._confirmed = self.decided
        self._queue: list[ClientFrame] = []

    @property
    def pending(self) -> int:
        """How many transactions the server has not decided."""
        return len(self.outbox)

    @property
    def is_guarded(self) -> bool:
        """True if the server has yet to decide whether something is taken at all."""
        return any(pending.check is not None for pending in self.outbox.values())

    @property
    def complete(self) -> bool:
        """True if every triples subscription has been loaded at some time (offline: as of then)."""
        wanted = [s.id for s in self.subscriptions.values() if s.kind == "triples"]
        return self.local or all(name in self.cursors for name in wanted)

    @property
    def caught_up(self) -> bool:
        """True if every triples subscription has come to life on this connection: nothing older is still on its way."""
        return self.state == "online" and all(
            s.id in self._live for s in self.subscriptions.values() if s.kind == "triples"
        )

    # -- writing -----------------------------------------------------------------------------------------------

    def begin(self, now_ms: int) -> Transaction:
        """A new local transaction; end it by `prepare` and `accept`, or by `abandon`. Raises `TriplewebError` for a
        function that a live query calls."""
        if self.store.is_replaying:
            raise TriplewebError("a function that a query calls cannot write")
        return Transaction(self.store, self.clock.tick(now_ms + self.offset_ms), self.replica)

    def prepare(self, tx: Transaction, check: messages.Check | None = None) -> LocalCommit | None:
        """What must be saved before `accept`; None if nothing was written (and there is no `check`, a query that must
        have an answer at the server). Raises `ValueError` for a transaction that the server would not take."""
        changes = tx.changes
        if not changes and check is None:
            return None
        if check is not None and self.state == "online" and messages.GUARD not in self.features:
            raise TriplewebError(NO_GUARDS)
        if not self.local:
            messages.check_size(
                changes, self.limits.transaction_changes_max, self.limits.transaction_bytes_max
            )
        commit = LocalCommit(registers=tx.registers(), fresh=tx.fresh)
        commit.meta = {"clock": self.clock.last, "replica": self.replica}
        if not self.local:
            commit.pending = [Pending(self.next, nano_id(self._random_bytes), tx.time, changes, check)]
            commit.meta["next"] = self.next + 1
        return commit

    def accept(self, tx: Transaction, commit: LocalCommit | None) -> Delta:
        """The commit is saved: the transaction stands."""
        if commit is not None and commit.pending:
            self.outbox[self.next] = commit.pending[0]
            self.next += 1
        return tx.commit()

    def abandon(self, tx: Transaction) -> None:
        """Undoes a transaction completely."""
        tx.rollback()

    # -- the connection ----------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Asks for data; kept over reconnects until `unsubscribe`. A name stands for one thing."""
        before = self.subscriptions.get(name := subscription.id)
        self.subscriptions[name] = subscription
        if (
            before is None
            or messages.is_whole(before)
            or messages.said(before) != messages.said(subscription)
        ):
            self._arrivals.changes(name)
        if self._introduced:
            self._queue.append(messages.Subscribe(self._with_cursor(subscription)))

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None and self._introduced:
            self._queue.append(messages.Unsubscribe(name))
        self._live.discard(name)
        self._arrivals.changes(name)
        if subscription is not None and (self.ticket or not messages.is_whole(subscription)):
            self.cursors.pop(name, None)  # what it brought will be forgotten

    def is_live(self, name: str) -> bool:
        """True if what a subscription asks for is here, as the server has it but for what is on its way."""
        return name in self._live

    def ask(self, frame: ClientFrame) -> bool:
        """Sends a frame that is answered by `Update.frame`; False where there is nobody to be asked."""
        if self.state == "online":
            self._queue.append(frame)
        return self.state == "online"

    @property
    def _introduced(self) -> bool:
        """Hello has left: what is subscribed from now on it does not list."""
        return self.state in ("connecting", "online") and not self._hello_due

    def connected(self, now_ms: int) -> None:
        """A connection stands; hello is the first that leaves on it."""
        self.reason = ""
        self._introduce()

    def disconnected(self, reason: str = "", refused: bool = False) -> None:
        """The connection is gone. `refused`: the server does not want us; somebody has to do something."""
        self._introduce()
        self._hello_due = False
        self.state, self.reason = ("refused" if refused else "offline"), reason

    def _introduce(self) -> None:
        """Says hello (again). What the server says before its welcome answers an earlier one, and is ignored."""
        self.state = "connecting"
        self._hello_due = True
        self._ahead = None
        self._live.clear()
        self._arrivals.begin()
        self._queue.clear()

    def _hello(self, now_ms: int) -> Hello:
        self._hello_due = False
        self._hello_ms = now_ms
        self._hellos += 1
        self._confirmed = self.decided
        self._said = 0
        self._arrivals.begin(self.subscriptions.values())
        who = (self.replica, self.incarnation, self.next, self.decided, now_ms)
        return Hello(
            (PROTOCOL, PROTOCOL),
            *who,
            features=list(messages.FEATURES),
            subscriptions=[self._with_cursor(s) for s in self.subscriptions.values()],
            ticket=self.ticket,
            at=(self.epoch, self.at) if self.epoch else None,
            mark=self.mark,
            former=self.kept.formers(self.replica),
            nth=self._hellos,
        )

    def _with_cursor(self, subscription: Subscription) -> Subscription:
        at = self.cursors.get(subscription.id)
        subscription.cursor = None if at is None or subscription.kind != "triples" else (self.epoch, at)
        subscription.have = self.progress(subscription.id)[0]
        return subscription

    def frames_to_send(self, now_ms: int) -> list[ClientFrame]:
        """What may leave now. Everything in it is saved, provided the caller saved each commit in its turn."""
        frames, self._queue = self._queue, []
        if self._hello_due:
            frames.insert(0, self._hello(now_ms))
        if self.state == "online":
            if self._ahead is None:
                frames.extend(self._pushes())
            if self.decided > self._confirmed:
                self._confirmed = self.decided
                frames.append(messages.Confirm(self.decided))
            frames += self._arrivals.took() if messages.WINDOW in self.features else ()
        for frame in frames:
            if not isinstance(frame, Hello | messages.Ping):
                self._said += 1
                frame.n = self._said
                if isinstance(frame, messages.Subscribe):
                    self._arrivals.sent(frame.subscription.id, frame.n)
                elif isinstance(frame, messages.Unsubscribe):
                    self._arrivals.sent(frame.id, frame.n)
        return frames

    @property
    def _in_flight(self) -> bool:
        """The server has yet to decide on something that was pushed on this connection."""
        return next(iter(self.outbox), self.next) <= self._sent

    def ping(self, now_ms: int) -> None:
        """Asks for the server's clock (and whether it is there)."""
        self._queue.append(messages.Ping(now_ms))

    def _pushes(self) -> list[ClientFrame]:
        """The pending transactions that were not yet pushed on this connection, in frames of bounded size."""
        limits, first = self.limits, next(iter(self.outbox), self.next)
        numbers = range(max(first, self._sent + 1), min(self.next, first + limits.in_flight_max))
        self._sent = max(self._sent, numbers.stop - 1)
        due = [self.outbox[number] for number in numbers]
        return list(pushes(due, self.replica, limits.frame_changes_max, limits.frame_bytes_max))

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, frame: ServerFrame, now_ms: int) -> Update:
        """Takes one decoded frame. Raises `ProtocolError` if it does not fit: close, connect, say hello again."""
        if isinstance(frame, Poke):
            if self.state == "online":
                return self._poke(frame, now_ms)
        elif isinstance(frame, Part):
            if self.state == "online":
                self._arrivals.part(frame)
        elif isinstance(frame, Welcome):
            return self._welcome(frame, now_ms)
        elif isinstance(frame, messages.Pong):
            self._measure(frame.echo, frame.now, now_ms)
            return Update(commit=self.kept.told(frame.backup, frame.now))
        elif isinstance(frame, Fault):
            self.reason = frame.message
            if frame.code == "replaced":  # somebody else has our identity: a copy of us, or we are the copy
                return self._rekey()
        elif self.state == "online":
            if isinstance(frame, messages.Rows | Shown):
                self._arrivals.rows(frame)
            elif isinstance(frame, messages.Failed):
                self._arrivals.awaited.discard(frame.id)
            return Update(frame=frame)
        return Update()

    def _measure(self, asked_ms: int, server_ms: int, now_ms: int) -> None:
        """The offset lies between two bounds, unless our clock jumped meanwhile. What is known is kept while it fits
        and is closer: then a jump is found out by the next answer, and a slow answer makes nothing worse."""
        low, high = server_ms - now_ms, server_ms - asked_ms
        if low <= high and (high - low <= self._doubt_ms or not low <= self.offset_ms <= high):
            self.offset_ms, self._doubt_ms = (low + high) // 2, high - low

    def _welcome(self, welcome: Welcome, now_ms: int) -> Update:
        if self.state != "connecting" or self._hello_due:
            raise ProtocolError("order", "a welcome came that nothing had asked for")
        if welcome.nth not in (0, self._hellos):
            return Update()  # it is late: an earlier hello asked for it
        self._measure(self._hello_ms, welcome.now, now_ms)
        self.user, self.role, self.session = welcome.user, welcome.role, welcome.session
        self.server_id = welcome.server
        self.features = welcome.features
        self.clock.tolerance_ms = max(self.limits.tolerance_ms, welcome.tolerance)
        commit = LocalCommit(meta={"server": welcome.server, "user": welcome.user})
        forgotten, there = self.kept.greeted(commit, welcome, self.replica, self.outbox)
        is_own = all(one.replica == self.replica for one in forgotten)
        is_own = is_own and all(number <= welcome.last for number in there)  # else known by another name
        if welcome.rekey or not (is_own and joins(welcome.last, forgotten, self.outbox, self.next)):
            return self._rekey(forgotten, commit, there)  # a copy, or what was forgotten is kept no more
        guarded = [one for one in self.outbox.values() if one.check is not None and one.number > welcome.last]
        if guarded and messages.GUARD not in welcome.features:
            return self._refuse(guarded, commit)
        self.outbox = self.kept.push_again(commit, forgotten) | self.outbox
        self.decided = commit.meta["decided"] = min([self.decided, *(number - 1 for number in self.outbox)])
        self.state = "online"
        self._sent = welcome.last
        step, last = Step(commit), 0
        for _, pending in sorted(self.outbox.items()):
            if pending.time <= last:  # of what is pushed again, the server had set a stamp forward
                self.clock.last = max(self.clock.last, last)
                stamp_anew(self.store, self.replica, pending, self.clock.tick(now_ms + self.offset_ms), step)
            last = pending.time
        if step.touched:
            self._put_pending_on_top(step, False)
            self._state_of(step)
            commit.meta["clock"] = self.clock.last
            commit.pending = list({one.number: one for one in commit.pending}.values())
        return Update(net(step.deltas), commit)

    def _refuse(self, guarded: Iterable[Pending], commit: LocalCommit) -> Update:
        """The server is older than guards, and would take what they are to keep out: what it has not decided is
        rejected here. Numbers have no holes: theirs go with nothing; what stood there comes with a load."""
        step, receipts = Step(commit), []
        for pending in guarded:
            receipts.append(refused(pending, self.replica, NO_GUARDS))
            commit.fates.extend(fates_of(pending, receipts[-1], self.limits.fates_max))
            take_away(self.store, self.replica, pending, step)
            empty = Pending(pending.number, nano_id(self._random_bytes), pending.time, [])
            self.outbox[pending.number] = empty
            commit.pending.append(empty)
        self._state_of(step)
        self.cursors.clear()
        self.ticket = ""
        commit.meta |= {"cursors": {}, "ticket": ""}
        self._introduce()
        return Update(net(step.deltas), commit, receipts)

    def _state_of(self, step: Step) -> None:
        """What a step has touched, as it now is, into its commit."""
        held = [(key, self.store.register(key)) for key in step.touched]
        step.commit.registers = [register for _, register in held if register is not None]
        step.commit.drop += [key for key, register in held if register is None]

    def _poke(self, poke: Poke, now_ms: int) -> Update:
        self._check_joins(poke)
        come, old, gone = self._arrivals.take(poke, not self.epoch, self.at)
        parts, entries, told, latest = opened(poke, come + old)
        if any(r.number in self.outbox and self.outbox[r.number].id != r.id for r in poke.receipts):
            return self._rekey()  # the number was used by a copy of this replica
        full = poke.reset or (messages.LINEAGE not in self.features and None in poke.cursors.values())
        told = [(in_time(receipt, self._stood(poke)), time, current) for receipt, time, current in told]
        update, step = Update(), Step(epoch=poke.epoch)
        # the server's clock is at least where it was when it decided this
        self.offset_ms = max(self.offset_ms, latest - now_ms)
        self._witness((change for changes in (parts, *entries) for change in changes), now_ms)
        if full:
            step.deltas.append(replace(self.store, parts))
        for receipt, time, current in told:
            pending = self.outbox.get(receipt.number)
            if pending is not None:
                self._witness(current, now_ms)
                self._settle(pending, receipt, time, current, step, full)
                update.receipts.append(receipt)
        self._restamp(step, now_ms)
        for changes in entries if full else [parts, *entries]:
            step.deltas.append(absorb(self.store, changes))
            step.touched.update(dict.fromkeys(change.key for change in changes))
        if not full:
            self._take_shares(parts[: len(come)], step)  # a share of long ago lacks what was counted since
        self._drop([*gone, *poke.forget], step)
        self._put_pending_on_top(step, full)
        self._stand_at(poke, full)
        while self.decided + 1 < self.next and self.decided + 1 not in self.outbox:
            self.decided += 1
        if any(receipt.reload for receipt in update.receipts) and not full:
            self.cursors.clear()
            self.ticket = ""
            self._introduce()
        commit = step.commit
        if full:
            commit.clear, commit.registers = True, contents(self.store)
        else:
            self._state_of(step)
        self.kept.release(commit, None, latest)
        names = ("epoch", "decided", "seen", "at", "mark", "ticket")
        commit.meta = {name: getattr(self, name) for name in names}
        commit.meta |= {"cursors": dict(self.cursors), "clock": self.clock.last}
        if poke.ticket or poke.reset:
            self.ticket = commit.meta["ticket"] = poke.ticket
            commit.meta["replica"] = self.replica  # whom the ticket is for, also if it never writes
        if poke.cursors:
            commit.meta["asked"] = [
                msgspec.to_builtins(msgspec.structs.replace(one, cursor=None, have=0))
                for one in self.subscriptions.values()
                if one.kind == "triples" and one.id != APP
            ]
        update.delta, update.commit = net(step.deltas), commit
        return update

    def _witness(self, changes: Iterable[Change], now_ms: int) -> None:
        """What is written after seeing these is later than they, except than those that lie beyond the tolerance."""
        bound = self.clock.horizon(now_ms + self.offset_ms)
        self.seen = max(
            (change.time for change in changes if self.seen < change.time <= bound), default=self.seen
        )
        self.clock.witness(self.seen, now_ms + self.offset_ms)

    def _stand_at(self, poke: Poke, full: bool) -> None:
        """Moves the cursors to where a poke leads."""
        if poke.epoch != self.epoch or full:  # a cursor of another epoch means nothing in this one
            self.cursors.clear()
            self.epoch, self.at = poke.epoch, 0
        if poke.seq >= self.at:
            self.at, self.mark = poke.seq, poke.mark or poke.at
        for name, base in poke.cursors.items():
            if name in self.subscriptions:
                self._live.add(name)
                if base is None:
                    self.cursors.pop(name, None)
        for name in sorted(self._live):
            self.cursors[name] = max(self.cursors.get(name, 0), poke.seq)

    def _check_joins(self, poke: Poke) -> None:
        """A poke fits if it starts where each of its subscriptions stands, or before: what overlaps is merged. Nothing
        that belongs to it is missing."""
        self._arrivals.poke(poke, self.subscriptions, self.outbox)
        if not poke.reset and self.ticket and (poke.epoch != self.epoch or poke.since > self.at):
            raise ProtocolError(
                "order", f"this replica stands at {self.at}, a poke from {poke.since} has a gap"
            )
        for name in sorted(self._live | poke.cursors.keys()) if not poke.reset else ():
            since = poke.cursors.get(name, poke.since)
            at = self.cursors.get(name)
            stands = at is not None and poke.epoch == self.epoch and (since is None or since <= at)
            is_its_own = name in self.subscriptions and not self._arrivals.is_of_another(name, poke)
            if is_its_own and since is not None and not stands:
                raise ProtocolError("order", f"{name!r} stands at {at}, a poke from {since} has a gap")

    def _stood(self, poke: Poke) -> int:
        """Up to where the server's word is here already."""
        if self.ticket:
            return self.at
        return max((self.cursors.get(name, 0) for name in self._live | poke.cursors.keys()), default=0)

    def _settle(
        self, pending: Pending, receipt: Receipt, time: int, current: list[Change], step: Step, full: bool
    ) -> None:
        """Takes a decided transaction out of the outbox, and the store to what the server says of it."""
        del self.outbox[pending.number]
        step.commit.decided.append(pending.number)
        # of what was pushed again it was told before what became of it
        if receipt.outcome == "rejected" or not self.kept.has(self.replica, pending.number):
            step.commit.fates.extend(fates_of(pending, receipt, self.limits.fates_max))
        self.kept.decided(step.commit, self.replica, pending, receipt, time, step.epoch)
        if full:  # the load is newer than what the receipt remembers
            pass
        elif current or receipt.absent:
            absent: list[Key] = [(s, p, place) for s, p, place in receipt.absent]
            revive = [s for s, p, _ in absent if p == DELETED]
            step.deltas.append(self.store.put(current, absent, revive))
            step.commit.revive.extend(revive)
            keys = [change.key for change in current] + absent
            step.touched.update(dict.fromkeys(keys))
            step.shares.update(key for key in keys if key[2] == COUNTER + self.replica)
        elif receipt.outcome == "rejected":
            take_away(self.store, self.replica, pending, step)
        else:  # all as pushed: only what the server's word on an earlier one took away has to be put back
            put_again(
                self.store, self.replica, pending, step, [c._replace(time=time) for c in pending.changes]
            )
        if receipt.outcome == "applied":
            if parse_stamp(receipt.stamp)[1] == self.replica:  # else a copy had pushed it, and counts it
                step.counted += [c._replace(time=time) for c in pending.changes if c.slot == COUNTER]
            step.last = time
            if time < pending.time:
                step.ahead = receipt

    def _restamp(self, step: Step, now_ms: int) -> None:
        """What is pending has to be later than what the server decided, and so has what is written from now on.

        If the server has set one of our stamps back, our clock runs ahead. Nothing more is pushed until it has
        decided on what is on its way; then the clock is set back as far as causality allows, and what is pending is
        stamped anew, in order. If it has set one forward (it was behind our own last), so is our clock.
        """
        self._ahead = step.ahead or self._ahead
        self.clock.last = max(self.clock.last, step.last)
        if self._in_flight:
            return
        if self._ahead is not None:
            self.clock.lower(max(step.last, self.seen))
            since = self._hello_ms + self.offset_ms - self._doubt_ms  # it was measured then
            if since <= self._ahead.at < now_ms + self.offset_ms - self.limits.tolerance_ms:
                self.offset_ms = self._ahead.at - now_ms
            self._ahead = None
        elif all(pending.time > step.last for pending in self.outbox.values()):
            return
        for pending in self.outbox.values():
            stamp_anew(self.store, self.replica, pending, self.clock.tick(now_ms + self.offset_ms), step)

    def _take_shares(self, parts: list[Change], step: Step) -> None:
        """Our own shares of counters, as they came with a load, with what was counted after it was made."""
        for share in shares(parts, COUNTER + self.replica, step.counted):
            if self.store.deleted(share.subject) is None:
                step.deltas.append(self.store.put([share]))
                step.shares.add(share.key)

    def _drop(self, places: Iterable[tuple[str, str]], step: Step) -> None:
        """What is no longer followed is no longer here. That deletes nothing: it is not known here any more."""
        gone = [register.key for place in places for register in self.store.registers_at(*place)]
        step.deltas.append(self.store.put((), gone))
        step.touched.update(dict.fromkeys(gone))
        step.shares.update(key for key in gone if key[2] == COUNTER + self.replica)

    def _put_pending_on_top(self, step: Step, full: bool) -> None:
        """Applies what is pending to the registers that the server's word has touched."""
        for pending in self.outbox.values():
            if full:
                keys = [stored_key(change, self.replica) for change in pending.changes]
                step.touched.update(dict.fromkeys(keys))
                step.shares.update(key for key in keys if key[2] == COUNTER + self.replica)
            put_again(self.store, self.replica, pending, step, pending.changes)

    def _rekey(
        self, forgotten: Iterable[Kept] = (), commit: LocalCommit | None = None, there: Collection[int] = ()
    ) -> Update:
        """Takes a new identity, since this replica is a copy of another or has lost its tail, and says hello with it.
        What is pending, but for what is `there`, and what the server has `forgotten`, keeps its ids, by which the
        server knows what a copy has pushed, and is numbered anew, in the order of the stamps. The cursors go: the next
        load brings what the old identity has counted."""
        old, self.replica = self.replica, replica_id(self._random_bytes)
        commit = commit or LocalCommit()
        moved = self.kept.renumber(commit, forgotten, self.outbox, (old, self.replica), self.store, there)
        self.outbox, delta = moved
        self.next, self.decided, self._sent = len(self.outbox) + 1, 0, 0
        self.cursors.clear()
        commit.meta |= {"replica": self.replica, "next": self.next, "decided": 0}
        commit.meta |= {"cursors": {}, "ticket": "", "clock": self.clock.last}
        self.ticket = ""
        self._arrivals.loads.clear()
        self._introduce()
        return Update(delta, commit)
