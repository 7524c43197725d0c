"""Planted bugs: each is patched into the real cores, and the simulator must object. The test of the test.

`CAUGHT` says at which seed each was first noticed; `tests/test_sim.py` gives it that seed and the twenty after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.sim import forgotten, longago, unwelcome
from tripleweb.change import DELETED
from tripleweb.clock import Clock, parse_stamp
from tripleweb.influx import loaded
from tripleweb.store import Store
from tripleweb.sync import client, feed, messages
from tripleweb.sync.client import ClientCore
from tripleweb.sync.guards import Guards
from tripleweb.sync.messages import Receipt
from tripleweb.sync.order import Arrivals
from tripleweb.sync.pages import Pages
from tripleweb.sync.readers import Readers
from tripleweb.sync.restores import Keepsakes
from tripleweb.sync.server import TenantCore
from tripleweb.sync.tail import Tail, told
from tripleweb.transaction import Transaction

Patch = tuple[Any, str, Any]


def resume_by_last_hlc() -> list[Patch]:
    """The client says what it knows by the highest stamp it has seen; the server sends what is later."""
    with_cursor, subscribe = ClientCore._with_cursor, Readers.subscribe

    def by_stamp(self: ClientCore, subscription: Any) -> Any:
        subscription = with_cursor(self, subscription)
        if subscription.cursor is not None:
            subscription.cursor = (subscription.cursor[0], max(self.seen, self.clock.last))
        return subscription

    def from_stamp(self: Readers, reader: Any, subscription: Any, **more: Any) -> None:
        if subscription.cursor is not None:
            epoch, time = subscription.cursor
            known = self.tail.floor
            for entry in self.tail.between(self.tail.floor, self.log.durable_seq):
                if entry.registers[0].time > time:
                    break
                known = entry.seq
            subscription = msgspec.structs.replace(subscription, cursor=(epoch, known))
        subscribe(self, reader, subscription, **more)

    return [
        (ClientCore, "_with_cursor", by_stamp),
        (ClientCore, "_check_joins", lambda self, poke: None),
        (Readers, "subscribe", from_stamp),
    ]


def ack_before_commit() -> list[Patch]:
    take = TenantCore.take_commit

    def take_and_tell(self: TenantCore) -> Any:
        commit = take(self)
        if commit is not None:
            self._durable_batch, self.durable_seq = commit.batch, commit.seq
        return commit

    return [(TenantCore, "take_commit", take_and_tell)]


def clock_not_restored() -> list[Patch]:
    start = ClientCore.__init__

    def forgetful(self: ClientCore, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.clock.last = 0

    return [(ClientCore, "__init__", forgetful)]


def late_write_revives() -> list[Patch]:
    merge = Store._merge

    def reviving(self: Store, change: Any, touched: Any) -> Any:
        grave = self._graves.get(change.subject)
        if change.predicate != DELETED and grave is not None and grave < change.stamp:
            del self._graves[change.subject]
        return merge(self, change, touched)

    return [(Store, "_merge", reviving)]


def number_taken_for_duplicate() -> list[Patch]:
    """A number that was decided is a duplicate, whatever its id."""
    push, poke = TenantCore._push, ClientCore._poke

    def by_number(self: TenantCore, link: Any, pushed: Any, now_ms: int) -> None:
        held = self.decisions.find(link.replica, pushed.number, now_ms)
        if held is not None:
            pushed = msgspec.structs.replace(pushed, id=held[0].id)
        push(self, link, pushed, now_ms)

    def believing(self: ClientCore, frame: Any, now_ms: int) -> Any:
        for receipt in frame.receipts:
            if receipt.number in self.outbox:
                receipt.id = self.outbox[receipt.number].id
        return poke(self, frame, now_ms)

    return [(TenantCore, "_push", by_number), (ClientCore, "_poke", believing)]


def slot_written_twice() -> list[Patch]:
    """A transaction's writes are not netted."""
    netted = Transaction.__dict__["changes"].fget

    def twice(self: Transaction) -> list[Any]:
        changes = netted(self)
        return [*changes[:1], *changes] if len(changes) > 1 else changes

    return [(Transaction, "changes", property(twice))]


def pending_not_put_on_top() -> list[Patch]:
    return [(ClientCore, "_put_pending_on_top", lambda self, step, full: None)]


def cursor_saved_apart() -> list[Patch]:
    """The cursor goes to the disk with the commit after the data's."""
    poke = ClientCore._poke

    def apart(self: ClientCore, frame: Any, now_ms: int) -> Any:
        before = dict(self.cursors)
        update = poke(self, frame, now_ms)
        if update.commit is not None and "cursors" in update.commit.meta:
            update.commit.meta["cursors"] = before
        return update

    return [(ClientCore, "_poke", apart)]


def data_saved_after_the_cursor() -> list[Patch]:
    """A commit has the new cursor and not the registers."""
    poke = ClientCore._poke

    def apart(self: ClientCore, frame: Any, now_ms: int) -> Any:
        update = poke(self, frame, now_ms)
        if update.commit is not None and not update.commit.clear:
            update.commit.registers = update.commit.registers[:-1]
        return update

    return [(ClientCore, "_poke", apart)]


def pending_not_restamped() -> list[Patch]:
    def clock_only(self: ClientCore, step: Any, now_ms: int) -> None:
        if step.ahead is not None:
            self.clock.lower(max(step.last, self.seen))

    return [(ClientCore, "_restamp", clock_only)]


def own_order_not_enforced() -> list[Patch]:
    """Not by the server, for clients whose clocks were set back too far."""
    decide = TenantCore._decide

    def any_order(self: TenantCore, link: Any, row: Any, *rest: Any) -> Any:
        row.time = 0
        return decide(self, link, row, *rest)

    return [(TenantCore, "_decide", any_order), (Clock, "lower", lambda self, time: setattr(self, "last", 0))]


def future_accepted() -> list[Patch]:
    return [(Clock, "is_ahead", lambda self, time, now_ms: False)]


def nothing_witnessed() -> list[Patch]:
    return [(ClientCore, "_witness", lambda self, changes, now_ms: None)]


def copies_counted_twice() -> list[Patch]:
    """What a copy of a replica pushed already is not recognised by its id."""
    return [(Tail, "find", lambda self, transaction: None)]


def shortened_not_noticed() -> list[Patch]:
    """A replica that has lost receipts which it had confirmed is welcomed as if nothing were."""
    hello = TenantCore._hello

    def trusting(self: TenantCore, conn: Any, link: Any, frame: Any, now_ms: int) -> None:
        row = self.replicas.get(frame.replica)
        if row is not None and frame.confirmed < row.confirmed < frame.next:
            frame = msgspec.structs.replace(frame, confirmed=row.confirmed)
        hello(self, conn, link, frame, now_ms)

    return [(TenantCore, "_hello", trusting)]


def rejected_not_undone() -> list[Patch]:
    settle = ClientCore._settle

    def keeping(
        self: ClientCore, pending: Any, receipt: Any, time: int, current: list[Any], *rest: Any
    ) -> None:
        if receipt.outcome == "rejected":
            receipt, current = msgspec.structs.replace(receipt, absent=[]), []
        settle(self, pending, receipt, time, current, *rest)

    return [(ClientCore, "_settle", keeping)]


def load_told_too_early() -> list[Patch]:
    """The poke after a load reaches less far than the load."""

    def short(since: int, upto: int, receipts: Any, limits: Any, least: int = 0) -> Any:
        return told(since, upto, receipts, limits, 0)

    return [(feed, "told", short)]


def receipt_cut_off() -> list[Patch]:
    """A poke that has no room for a receipt passes its transaction all the same."""

    def past(since: int, upto: int, receipts: Any, *rest: Any) -> Any:
        upto, said = told(since, upto, receipts, *rest)
        left_out = receipts[len(said) : len(said) + 1]
        return (upto + bool(left_out and left_out[0].seq == upto + 1), said)

    return [(feed, "told", past)]


def own_entries_never_sent() -> list[Patch]:
    """A replica that comes back is not sent its own entries."""
    between, original = Tail.between, feed.Feed.pokes

    def pokes(self: feed.Feed, log: Any, tail: Tail, *rest: Any) -> Any:
        tail.__dict__["without"] = self.replica
        try:
            return iter(list(original(self, log, tail, *rest)))
        finally:
            del tail.__dict__["without"]

    def others(self: Tail, since: int, upto: int) -> Any:
        without = self.__dict__.get("without")
        return [entry for entry in between(self, since, upto) if entry.replica != without]

    return [(feed.Feed, "pokes", pokes), (Tail, "between", others)]


def replaced_goes_on_writing() -> list[Patch]:
    """A connection whose replica has connected again keeps its identity."""
    return [(TenantCore, "_replace", lambda self, conn, hello, now_ms: None)]


def subscribed_too_early() -> list[Patch]:
    """What is subscribed between hello and welcome is forgotten."""

    def subscribe(self: ClientCore, subscription: Any) -> None:
        self.subscriptions[subscription.id] = subscription
        if self.state == "online":
            self._queue.append(messages.Subscribe(self._with_cursor(subscription)))

    return [(ClientCore, "subscribe", subscribe)]


def restamped_on_its_way() -> list[Patch]:
    """What is on its way gets a new stamp as well, while the server decides on the old one."""
    return [(ClientCore, "_in_flight", property(lambda self: False))]


def ties_go_by_arrival() -> list[Patch]:
    """Of two changes of the same millisecond the one that arrives later wins."""
    merge = Store._merge

    def later(self: Store, change: Any, touched: Any) -> Any:
        held = self.register(change.key)
        if held is not None and held.time >> 16 == change.time >> 16 and held.stamp != change.stamp:
            change = change._replace(time=max(held.time + 1, change.time))
        return merge(self, change, touched)

    return [(Store, "_merge", later)]


def display_misses_deletes() -> list[Patch]:
    """A display is told of what was added only."""
    noticed = Pages.noticed

    def half(self: Pages, delta: Any) -> Any:
        return noticed(self, delta) if delta.added else []

    return [(Pages, "noticed", half)]


def receipts_stamp_ignored() -> list[Patch]:
    """A re-stamped transaction keeps its own stamp at its replica."""
    settle = ClientCore._settle

    def as_pushed(
        self: ClientCore, pending: Any, receipt: Any, time: int, current: list[Any], *rest: Any
    ) -> None:
        if time != pending.time and not receipt.lost:
            receipt, current = msgspec.structs.replace(receipt, absent=[]), []
        settle(self, pending, receipt, time, current, *rest)

    return [(ClientCore, "_settle", as_pushed)]


def readers_write() -> list[Patch]:
    """A role that changes in the middle of a connection is not heeded."""
    return [(TenantCore, "set_role", lambda self, conn, role: None)]


def losers_not_told() -> list[Patch]:
    """A receipt leaves out the first of what lost."""
    decide = TenantCore._decide

    def silent(self: TenantCore, *args: Any) -> Any:
        receipt = decide(self, *args)
        del receipt.lost[:1]
        return receipt

    return [(TenantCore, "_decide", silent)]


def told_of_the_past() -> list[Patch]:
    """What a receipt has of the server's registers is what they were before the transaction."""
    decide = TenantCore._decide

    def earlier(self: TenantCore, link: Any, row: Any, pushed: Any, *args: Any) -> Any:
        keys = pushed.keys(link.replica)
        before = [held for held in map(self.store.register, keys) if held is not None]
        receipt = decide(self, link, row, pushed, *args)
        if receipt.current:
            receipt.current = [messages.register_to_wire(held) for held in before]
        return receipt

    return [(TenantCore, "_decide", earlier)]


def late_receipt_believed() -> list[Patch]:
    """A receipt that comes after a later poke puts back what it knows."""
    return [(client, "in_time", lambda receipt, stood: receipt)]


def missing_pushes_not_noticed() -> list[Patch]:
    """The server does not count what it hears."""
    receive = TenantCore.receive

    def uncounted(self: TenantCore, conn: Any, frame: Any, now_ms: int) -> None:
        if hasattr(frame, "n"):
            frame.n = 0
        receive(self, conn, frame, now_ms)

    return [(TenantCore, "receive", uncounted)]


def parts_not_counted() -> list[Patch]:
    """A load of which a part is missing is taken for the whole."""
    part, poke = Arrivals.part, Arrivals.poke

    def any_part(self: Arrivals, frame: Any) -> None:
        frame.n = 0
        part(self, frame)

    def any_parts(self: Arrivals, frame: Any, *rest: Any) -> None:
        frame.n, frame.parts = 0, len(self._parts_of)
        poke(self, frame, *rest)

    return [(Arrivals, "part", any_part), (Arrivals, "poke", any_parts)]


def losses_cut_off() -> list[Patch]:
    """Of very many changes that lost, a receipt tells the first ones."""
    lose = Receipt.lose

    def some(self: Receipt, index: int, reason: str, by: str, singly: int) -> None:
        if len(self.lost) < singly:
            lose(self, index, reason, by, singly)

    return [(Receipt, "lose", some)]


def interest_after_the_snapshot() -> list[Patch]:
    """What changes while a subscription is loaded is not sent again."""
    loading = feed.Holding.loading

    def void(self: feed.Holding, interest: Any) -> Any:
        loads, alone = loading(self, interest)
        return [feed.Load(interest) for _ in loads], alone

    return [(feed.Holding, "loading", void)]


def forgets_not_told() -> list[Patch]:
    """What is followed no more stays where it is."""
    return [(Readers, "_forget", lambda self, holding, places: None)]


def own_writes_not_followed() -> list[Patch]:
    """What a replica writes does not count as asked for."""
    return [(Readers, "wrote", lambda self, *rest: None)]


def any_ticket_believed() -> list[Patch]:
    """A replica that comes back is told the gap, whatever it holds."""
    resume = Readers._resume

    def believing(self: Readers, reader: Any, hello: Any, *rest: Any) -> None:
        held = self._holdings.get(hello.replica)
        if held is not None:
            hello.ticket = held.ticket
        resume(self, reader, hello, *rest)

    return [(Readers, "_resume", believing)]


def loads_wait_for_ever() -> list[Patch]:
    """The server takes no note of what has come of a load."""
    return [(feed.Feed, "took", lambda self, parts: None)]


def guard_sees_its_own_writes() -> list[Patch]:
    """A guarded transaction is decided on the state that it would make."""
    decide = TenantCore._decide

    def too_late(self: TenantCore, link: Any, row: Any, pushed: Any, *args: Any) -> Any:
        if pushed.check is None:
            return decide(self, link, row, pushed, *args)
        time, replica = parse_stamp(pushed.stamp)
        after = loaded(self.store.registers())
        after.apply([messages.change_from_wire(wire, time, replica) for wire in pushed.changes])
        guards, self.guards = self.guards, Guards(after, self.limits)
        try:
            return decide(self, link, row, pushed, *args)
        finally:
            self.guards = guards

    return [(TenantCore, "_decide", too_late)]


def guard_asked_on_arrival() -> list[Patch]:
    """A query is asked when its transaction comes in, which is decided when it has its turn."""
    wait, refusal = Guards.wait, Guards.refusal

    def early(self: Guards, behind: Any, pushed: Any, is_whole: bool) -> None:
        if pushed.check is not None:
            self.__dict__.setdefault("early", {})[id(pushed.check)] = refusal(self, pushed.check)
        wait(self, behind, pushed, is_whole)

    def told(self: Guards, check: Any) -> str:
        return self.__dict__["early"].get(id(check), "")  # type: ignore[no-any-return]

    return [(Guards, "wait", early), (Guards, "refusal", told)]


def guard_asked_again() -> list[Patch]:
    """What a copy of a replica has pushed already is asked again."""
    recall = TenantCore._recall

    def again(self: TenantCore, link: Any, pushed: Any, entry: Any, now_ms: int) -> Receipt:
        receipt = recall(self, link, pushed, entry, now_ms)
        if pushed.check is not None and (refusal := self.guards.refusal(pushed.check)):
            receipt.outcome, receipt.reason, receipt.message = "rejected", "guard", refusal
        return receipt

    return [(TenantCore, "_recall", again)]


def guard_forgotten_by_the_file() -> list[Patch]:
    """A replica's file does not keep the query of what is unsent."""
    start = ClientCore.__init__

    def forgetful(self: ClientCore, state: Any, **more: Any) -> None:
        for pending in state.pending:
            pending.check = None
        start(self, state, **more)

    return [(ClientCore, "__init__", forgetful)]


def guarded_loses() -> list[Patch]:
    """What a guarded transaction writes may lose to what stood there when it was decided."""
    return [(TenantCore, "_latest", lambda self, changes: 0)]


# the first seed that notices it
def accepted_not_kept() -> list[Patch]:
    """A client forgets what was accepted: a server that is put back to a backup never hears of it again."""
    return [(Keepsakes, "decided", lambda *_: None)]


def known_pushed_again() -> list[Patch]:
    """What the backup has seen is pushed again, under a number that is free."""
    unknown = Keepsakes.unknown

    def all_of_it(self: Keepsakes, replica: str, last: int, former: Any, outbox: Any) -> Any:
        found = unknown(self, replica, last, former, outbox)
        return unknown(self, replica, 0, {}, outbox) if found else found

    return [(Keepsakes, "unknown", all_of_it)]


CAUGHT: dict[Callable[[], list[Patch]], int] = {
    resume_by_last_hlc: 0,
    ack_before_commit: 0,
    clock_not_restored: 0,
    late_write_revives: 5,
    number_taken_for_duplicate: 100,
    slot_written_twice: 0,
    pending_not_put_on_top: 0,
    cursor_saved_apart: 0,
    data_saved_after_the_cursor: 0,
    pending_not_restamped: 1,
    own_order_not_enforced: 13,
    future_accepted: 0,
    nothing_witnessed: 19,
    copies_counted_twice: 3,
    shortened_not_noticed: 3,
    rejected_not_undone: 2,
    load_told_too_early: 4,
    receipt_cut_off: 12,
    own_entries_never_sent: 4,
    replaced_goes_on_writing: 97,
    subscribed_too_early: 25,
    restamped_on_its_way: 2,
    ties_go_by_arrival: 2,
    display_misses_deletes: 29,
    receipts_stamp_ignored: 25,
    readers_write: 1,
    losers_not_told: 0,
    loads_wait_for_ever: 5,
    told_of_the_past: 0,
    losses_cut_off: 16,
    missing_pushes_not_noticed: 19,
    parts_not_counted: 38,
    interest_after_the_snapshot: 5,
    forgets_not_told: 5,
    own_writes_not_followed: 5,
    any_ticket_believed: 61,
    guard_sees_its_own_writes: 4,
    guard_asked_on_arrival: 19,
    guard_asked_again: 176,
    accepted_not_kept: 20,
    known_pushed_again: 20,
    guard_forgotten_by_the_file: 0,
    guarded_loses: 0,
    **forgotten.CAUGHT,
    **longago.CAUGHT,
    **unwelcome.CAUGHT,
}


def named(name: str) -> Callable[[], list[Patch]]:
    """The bug of a name."""
    return next((bug for bug in CAUGHT if bug.__name__ == name), None) or globals()[name]  # type: ignore[no-any-return]


@contextmanager
def planted(bug: Callable[[], list[Patch]]) -> Iterator[None]:
    """The cores with a bug, while it lasts."""
    patches = [(owner, name, owner.__dict__[name], replacement) for owner, name, replacement in bug()]
    try:
        for owner, name, _, replacement in patches:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original, _ in patches:
            setattr(owner, name, original)
