"""The invariants, each a function with a name. They look at the nodes from outside and raise `Violation`."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.sim import interest
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.clock import Stamp, pack, parse_stamp
from tripleweb.datalog import evaluate
from tripleweb.store import Delta, Store
from tripleweb.sync import messages
from tripleweb.sync.client import ClientCore
from tripleweb.sync.messages import FRAME_BYTES_MAX, Check, Part, Poke, Receipt, Rows, input_from_wire
from tripleweb.sync.records import LOST, Commit, Entry, LocalCommit
from tripleweb.terms import slot, to_wire
from tripleweb.transaction import Transaction

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode
    from tests.sim.world import World

View = dict[tuple[str, str, str, str], Any]


class Violation(AssertionError):
    """A promise that was not kept; `name` says which."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(f"{name}: {message}")


@dataclass
class Written:
    """A local transaction that returned: what its user relies on."""

    id: str
    by: str
    time: int  # of its first stamp
    changes: list[Change]  # increments as such
    check: Check | None = None  # the query that decides on it


def hold(name: str, kept: bool, message: str) -> None:
    if not kept:
        raise Violation(name, message)


# -- seeing ------------------------------------------------------------------------------------------------------------


def view(store: Store) -> View:
    """The visible triples, kinds kept apart."""
    return {(s, p, slot(v), type(v).__name__): v for p in store.predicates() for s, v in store.scan(p)}


def register_view(store: Store) -> dict[Key, Change]:
    return {change.key: change for change in store.registers()}


def difference(one: Store, other: Store) -> str:
    left, right = view(one), view(other)
    only = [f"{s} {p} {v}" for s, p, v, _ in sorted(left.keys() - right.keys())]
    missing = [f"{s} {p} {v}" for s, p, v, _ in sorted(right.keys() - left.keys())]
    return f"has {only}, misses {missing}"


class Cut:
    """The server's log up to some point, as a store of its own that follows a client's cursor."""

    def __init__(self) -> None:
        self.store = Store()
        self.seq = 0

    def at(self, log: list[Entry], seq: int) -> Store:
        if seq < self.seq:
            self.store, self.seq = Store(), 0
        for entry in log[self.seq : seq]:
            self.store.apply(entry.registers)
        self.seq = seq
        return self.store


class Judge:
    """What the checks remember of the server's decisions: its log, followed entry by entry."""

    def __init__(self) -> None:
        self.logged: set[str] = set()  # ids in the log
        self.newest: dict[str, tuple[Stamp, int]] = {}  # replica -> its last stamp and number in the log
        self.users: dict[str, set[str]] = {}  # replica -> as whom it wrote
        self.receipts: dict[tuple[str, int], Receipt] = {}  # (replica, number) -> as it was committed
        self.told: set[tuple[str, int]] = set()  # (id, number) of what has a receipt
        self.store = Store()  # the log so far


# -- at every write ----------------------------------------------------------------------------------------------------


def stamp_is_new(node: ClientNode, tx: Transaction) -> None:
    """HLC monotone, and causality: a stamp is later than all that its replica gave, and than what it overwrites."""
    core = node.core
    assert core is not None
    if not tx.changes:
        return
    last = node.issued.get(tx.replica, -1)
    hold("hlc monotone", tx.time > last, f"{node.name} stamps {tx.time} after {last}")
    bound = pack(node.now_ms + core.offset_ms + core.limits.tolerance_ms)
    seen = [r for c in tx.changes for r in core.store.registers_of(c.subject)]
    if any(r.time > tx.time for r in seen):  # it cannot know what will become of that
        node.ran_ahead = True
    newest = max((r.time for r in seen if r.replica != tx.replica and r.time <= bound), default=0)
    hold("causality", tx.time > newest, f"{node.name} stamps {tx.time} after it saw {newest}")


def written_is_seen(node: ClientNode, tx: Transaction) -> None:
    """What a transaction wrote is there when it returns."""
    core = node.core
    assert core is not None
    for change in {change.key: change for change in tx.changes}.values():
        if change.slot != COUNTER:
            register = core.store.register(change.key)
            hold(
                "local write is seen",
                register is not None and register.value == change.value,
                f"{node.name} wrote {change}, has {register}",
            )


def abandoned_without_trace(node: ClientNode, before: dict[Key, Change]) -> None:
    core = node.core
    assert core is not None
    hold("abandoned without a trace", register_view(core.store) == before, node.name)


def delta_is_exact(node: ClientNode, delta: Delta) -> None:
    """The triples as they were, and a delta, are the triples as they are."""
    core = node.core
    assert core is not None
    for s, p, v in delta.removed:
        key = (s, p, slot(v), type(v).__name__)
        hold("delta exact", key in node.view, f"{node.name}: {key} removed, but it was not there")
        del node.view[key]
    for s, p, v in delta.added:
        key = (s, p, slot(v), type(v).__name__)
        hold("delta exact", key not in node.view, f"{node.name}: {key} added, but it was there")
        node.view[key] = v


# -- restarts ----------------------------------------------------------------------------------------------------------


def local_write_survives(node: ClientNode, core: ClientCore) -> None:
    """What a replica showed, held back and counted before its process died is there when it starts again."""
    again = ClientCore(node.disk.load(), random_bytes=random.Random(0).randbytes, limits=core.limits)
    hold(
        "local write survives",
        view(again.store) == view(core.store),
        f"{node.name}: {difference(again.store, core.store)}",
    )
    left, right = register_view(again.store), register_view(core.store)
    differ = [
        (left.get(k), right.get(k)) for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)
    ]
    hold("local write survives", not differ, f"{node.name}: {differ}")
    for name in ("next", "decided", "cursors", "epoch", "at", "mark", "ticket"):
        one, other = getattr(again, name), getattr(core, name)
        if name == "cursors" and interest.asks(node):  # one that ended is there until the next poke ends it
            one = {held: seq for held, seq in one.items() if held in other}
        hold("cursor and outbox saved with the data", one == other, f"{node.name}: {name} {one} was {other}")
    hold(
        "cursor and outbox saved with the data",
        list(again.outbox.values()) == list(core.outbox.values()),
        f"{node.name}: outbox {list(again.outbox.values())} was {list(core.outbox.values())}",
    )
    last = node.issued.get(core.replica, 0)
    hold("clock survives", again.clock.last >= last, f"{node.name}: clock {again.clock.last} after {last}")


def no_acknowledged_write_lost(world: World) -> None:
    """Every receipt that a client has is still true at the server: accepted is in the log, rejected is not."""
    logged = {entry.id: entry for entry in world.server.disk.log}
    for tx, receipt in world.acknowledged.items():
        entry = logged.get(tx)
        if receipt.outcome == "rejected":
            kept = entry is None or world.nodes[world.written[tx].by].lossy
            hold("rejected stays rejected", kept, f"{tx} was rejected, and is in the log")
        else:
            written = world.written.get(tx)
            all_lost = written is not None and bool(receipt.losses)
            hold("no acknowledged write lost", entry is not None or all_lost, f"{tx} is not in the log")


# -- frames ------------------------------------------------------------------------------------------------------------


def frame_size(world: World, data: bytes) -> None:
    hold("frame size", len(data) <= FRAME_BYTES_MAX, f"{len(data)} bytes")


def ack_only_after_commit(world: World, frame: object) -> None:
    """Nothing leaves the server that its disk does not have."""
    disk = world.server.disk
    if isinstance(frame, Poke):
        hold("ack only after commit", frame.seq <= disk.seq, f"a poke to {frame.seq}, durable is {disk.seq}")
        for receipt in frame.receipts:
            held = (receipt.id, receipt.number) in world.server.judge.told
            hold("ack only after commit", held, f"receipt {receipt.number} {receipt.id} is not durable")
    elif isinstance(frame, Part):
        for wire in frame.registers:
            register = messages.register_from_wire(wire)
            if register.predicate == DELETED:
                held = register.subject in disk.graves
            else:
                stored = disk.registers.get(register.key)
                held = register.subject in disk.graves or (
                    stored is not None and stored.stamp >= register.stamp
                )
            hold("ack only after commit", held, f"{register} is sent, and is not durable")
    elif isinstance(frame, Rows):
        hold("ack only after commit", frame.seq <= disk.seq, f"rows of {frame.seq}, durable is {disk.seq}")


def gap_free(node: ClientNode, poke: Poke) -> None:
    """A poke starts at or before where each living subscription stands, and has every entry of others up to its end."""
    core = node.core
    assert core is not None
    if core.state != "online" or interest.asks(node) or poke.epoch != node.world.server.disk.epoch:
        return
    seqs = {messages.decode_committed(body).seq for body in poke.transactions}
    for entry in node.world.server.disk.log[poke.since : poke.seq]:
        if entry.replica != core.replica:
            hold(
                "gap-free pokes",
                entry.seq in seqs,
                f"{node.name}: {entry.seq} is missing in {poke.since}..{poke.seq}",
            )


def consistent_cut(node: ClientNode) -> None:
    """After a poke a replica shows the server's state at its cursor with what is pending on top: every transaction
    whole, nothing rejected, nothing of later."""
    core = node.core
    assert core is not None
    if not core.outbox:
        node.ran_ahead = False
    own_order_here(node)
    now = view(core.store)
    hold("delta exact", node.view == now, f"{node.name}: {sorted(node.view.keys() ^ now.keys())}")
    pending_seen(node)
    if interest.asks(node):  # `partial`
        return
    cursor = interest.lives(core)
    if cursor is None or node.ran_ahead or core.epoch != node.world.server.disk.epoch:
        return
    store = node.cut.at(node.world.server.disk.log, cursor)
    kept = store.record()
    for pending in core.outbox.values():
        for change in pending.changes:
            if change.slot != COUNTER:
                store.apply([change])
            elif store.deleted(change.subject) is None:
                share = (change.subject, change.predicate, COUNTER + core.replica)
                held = store.register(share)
                before = held.value if held is not None and held.value is not None else 0
                store.put([Change(*share, before + change.value, pending.time, core.replica)])  # type: ignore[operator]
    expected = view(store)
    store.stop()
    try:
        hold(
            "consistent cut",
            now == expected,
            f"{node.name} at {cursor}: {sorted(now.items() ^ expected.items(), key=str)}",
        )
    finally:
        store.undo(kept)


def pending_seen(node: ClientNode) -> None:
    """What a user wrote and the server has not decided on is there, unless something later is."""
    core = node.core
    assert core is not None
    for pending in core.outbox.values():
        if core.state != "online" and pending.id in {one.id for one in core.kept}:
            continue  # it was accepted, and no longer here when the server forgot it: the load that follows brings it
        for change in pending.changes:
            s, p, place = change.key
            held: Any = core.store.values(s, p) if place == COUNTER else core.store.register(change.key)
            # a copy may have pushed it under the name that both had, and that name was another
            is_it = held and place != COUNTER and (held.time, held.value) == (pending.time, change.value)
            kept = is_it or (held and (place == COUNTER or held.stamp >= (pending.time, core.replica)))
            deleted = core.store.deleted(s) is not None
            hold(
                "pending is seen", bool(kept) or deleted, f"{node.name}: {change} is pending, there is {held}"
            )


def on_its_way_as_pushed(node: ClientNode) -> None:
    """What was pushed on this connection and is not decided keeps its stamp: the server decides on that one."""
    core = node.core
    assert core is not None
    for number, time in node.pushed.items():
        pending = core.outbox.get(number)
        kept = pending is None or pending.time == time
        hold("on its way as pushed", kept, f"{node.name}: {number} was pushed at {time}, is {pending}")


def own_order_here(node: ClientNode) -> None:
    """Of two pending writes of one register the later one stands, or neither does."""
    core = node.core
    assert core is not None
    if node.lossy:
        return
    earlier: dict[Key, list[int]] = {}
    for pending in core.outbox.values():
        for change in pending.changes:
            if change.slot != COUNTER:
                earlier.setdefault(change.key, []).append(pending.time)
    for key, times in earlier.items():
        held = core.store.register(key)
        beaten = held is not None and held.replica == core.replica and held.time in set(times) - {times[-1]}
        hold("own order", not beaten, f"{node.name}: {held}, written after that were {times}")


def tombstones_win(node: ClientNode, poke: Poke) -> None:
    """What the server told to be deleted is never seen again, and `_deleted` never at all."""
    core = node.core
    assert core is not None
    if core.state != "online":  # it has not taken the poke
        return
    for body in poke.transactions:
        node.dead.update(c[0] for c in messages.decode_committed(body).changes if c[1] == DELETED)
    unsettled = {place[0] for place in interest.unsettled(core)[0]} if interest.asks(node) else set()
    for subject in sorted(node.dead - unsettled):
        hold("tombstones win", not list(core.store.about(subject)), f"{node.name} shows {subject}")
    hold("tombstones win", DELETED not in core.store.predicates(), f"{node.name} shows {DELETED}")


def receipt_is_the_servers(world: World, node: ClientNode, receipt: Receipt) -> Receipt:
    """What a client is told of its transaction is what the server has decided (which is returned), and it is told
    once."""
    before = world.acknowledged.get(receipt.id)
    if before is not None and not node.lossy:
        raise Violation(
            "decided once", f"{node.name} gets a second receipt for {receipt.id}: {receipt}, {before}"
        )
    replica = "" if node.core is None else node.core.replica
    decided = world.server.judge.receipts.get((replica, receipt.number))
    hold("receipts truthful", decided is not None, f"{receipt} was never committed")
    assert decided is not None
    written = world.written.get(receipt.id)
    if written is not None and parse_stamp(receipt.stamp)[0] < written.time:
        node.ran_ahead = True
    return decided


def losses_are_told(world: World, node: ClientNode, commit: LocalCommit, decided: list[str]) -> None:
    """Every value that was written and is not in the log is kept, as one that did not stand."""
    told = Counter((f.subject, f.predicate, f.value) for f in commit.fates if f.outcome in LOST)
    for tx in decided if not node.lossy else ():
        entry = next((entry for entry in world.server.disk.log if entry.id == tx), None)
        stood = entry.keys("") if entry is not None else set()
        for change in world.written[tx].changes:
            if change.key not in stood:
                value = change.subject, change.predicate, to_wire(change.value)
                told[value] -= 1
                hold("losses told", told[value] >= 0, f"{node.name}: {change} of {tx} is not told to be lost")


# -- the server --------------------------------------------------------------------------------------------------------


def log_rises(world: World, commit: Commit) -> None:
    """Own order: within one replica the stamps rise with the numbers, and no transaction is accepted twice."""
    server, judge = world.server, world.server.judge
    for entry in commit.entries:
        hold("decided once", entry.id not in judge.logged, f"{entry.id} is in the log twice")
        judge.logged.add(entry.id)
        judge.users.setdefault(entry.replica, set()).add(entry.by)
        last = judge.newest.get(entry.replica)
        stamp = parse_stamp(messages.decode_committed(entry.body).stamp)
        if last is not None:
            rises = last[0] < stamp and last[1] < entry.number
            hold("own order", rises, f"{stamp} of {entry.number} after {last}")
        newest = pack(entry.at + world.options.limits.tolerance_ms + 1 + server.stepped_back_ms)
        forced = last is not None and stamp[0] == last[0][0] + 1
        hold("no stamp from the future", stamp[0] <= newest or forced, f"{stamp} at {entry.at}")
        judge.newest[entry.replica] = (stamp, entry.number)
        keys = [change.key for change in entry.registers]
        hold("one change a slot", len(keys) == len(set(keys)), f"{entry}")
        for change in entry.registers:
            if change.slot[:2] == COUNTER:
                hold("shares are their owner's", change.slot == COUNTER + entry.replica, f"{change}")


def receipts_truthful(world: World, commit: Commit) -> None:
    """Every receipt says what the log and the registers say, at the point where it was decided."""
    judge, entries = world.server.judge, {(entry.id, entry.replica): entry for entry in commit.entries}
    for replica, number, tx, body in commit.receipts:
        receipt = messages.decode_receipt(body)
        judge.receipts[replica, number] = receipt
        judge.told.add((tx, number))
        written, entry = world.written.get(tx), entries.pop((tx, replica), None)
        hold("receipts truthful", written is not None, f"a receipt for {tx}, which nobody wrote")
        assert written is not None
        hold("no invalid writes among ourselves", receipt.reason != "invalid", f"{receipt}")
        if receipt.outcome == "rejected":
            hold("receipts truthful", entry is None and bool(receipt.reason), f"{receipt}, {entry}")
        elif entry is not None or tx not in judge.logged:  # else a copy has pushed it before
            stamp = parse_stamp(receipt.stamp)
            _losers_are_named(judge, replica, written, stamp, receipt, world.options.limits.lost_max)
            stands = [] if entry is None else [change.key for change in entry.registers]
            _the_rest_is_logged(replica, written, receipt, stands, world.options.limits.lost_max)
            hold("receipts truthful", entry is None or entry.seq == receipt.seq, f"{receipt}, {entry}")
            if entry is not None:
                hold("receipts truthful", entry.registers[0].stamp == stamp, f"{receipt}, {entry}")
        if entry is not None:
            judge.store.apply(entry.registers)
        for wire in receipt.current:
            register = messages.register_from_wire(wire)
            held = judge.store.register(register.key)
            hold("receipts truthful", held == register, f"{tx} is told {register}, held is {held}")
        for s, p, place in receipt.absent:
            held = judge.store.register((s, p, place))
            hold("receipts truthful", held is None, f"{tx} is told of no {s} {p} {place}, held is {held}")
    hold("receipts truthful", not entries, f"logged without a receipt: {entries}")


def _losers_are_named(
    judge: Judge, replica: str, written: Written, stamp: Stamp, receipt: Receipt, most: int
) -> None:
    """`lost` is what was beaten by what the server had, for the right reason, by the right user."""
    expected: list[tuple[int, str, Change]] = []
    for i, change in enumerate(written.changes):
        s, p, place = change.key
        held = judge.store.register((s, p, COUNTER + replica if place == COUNTER else place))
        grave = judge.store.register((s, DELETED, SINGLE))
        floors = [judge.store.register((s, p, mark)) for mark in (SINGLE, RESET)]
        floors = [floor for floor in floors if floor is not None and floor.stamp > stamp]
        if p == DELETED:
            continue
        if grave is not None:
            expected.append((i, "deleted", grave))
        elif held is not None and held.stamp > stamp:
            expected.append((i, "newer", held))
        elif floors and place[:2] != COUNTER:
            expected.append((i, "reset", max(floors, key=lambda floor: floor.stamp)))  # type: ignore[union-attr,arg-type,return-value]
    told = [(i, reason) for i, reason, _ in receipt.lost]
    due = [(i, reason) for i, reason, _ in expected[:most]]
    # changes of one transaction meet each other, too: a reset and its members have one stamp
    hold("receipts truthful", told == due, f"{written} at {stamp}: lost {told}, by the registers {due}")
    for (_, _, by), (_, _, winner) in zip(receipt.lost, expected, strict=False):
        users = judge.users.get(winner.replica, set())
        hold("receipts truthful", by in users, f"{written} lost to {winner}, told was {by!r}")


def _the_rest_is_logged(
    replica: str, written: Written, receipt: Receipt, stands: list[Key], most: int
) -> None:
    """What did not lose is in the log, and nothing that lost is; what a reset hides is there all the same."""
    if len(receipt.lost) >= most:
        return
    gone = {i for i, reason, _ in receipt.lost if reason != "reset"}
    due = [
        (c.subject, c.predicate, COUNTER + replica if c.slot == COUNTER else c.slot)
        for i, c in enumerate(written.changes)
        if i not in gone
    ]
    hold("receipts truthful", stands == due, f"{written}: logged {stands}, by its receipt {due}")


# -- displays ----------------------------------------------------------------------------------------------------------


def rows_join(node: ClientNode, rows: Rows) -> None:
    """A display starts with a reset, and what is taken from it was there."""
    core = node.core
    assert core is not None
    if rows.id not in core.subscriptions:
        return
    if rows.reset:
        node.displays[rows.id] = Counter()
    shown = node.displays.get(rows.id)
    if shown is None:  # of the subscription before, on its way when it ended
        return
    shown.update(tuple(map(tuple, row)) for row in rows.added)
    shown.subtract(Counter(tuple(map(tuple, row)) for row in rows.removed))
    hold("rows join", all(n >= 0 for n in shown.values()), f"{node.name}: {rows}")


def displays_differ(node: ClientNode, store: Store) -> list[str]:
    """Rows displays equal a fresh evaluation."""
    core = node.core
    assert core is not None
    reasons = []
    for subscription in core.subscriptions.values():
        if subscription.kind == "rows":
            inputs = [input_from_wire(wire) for wire in subscription.inputs]
            fresh = Counter(
                tuple(to_wire(value) for value in row)
                for row in evaluate.run(subscription.query or "", inputs, store).rows
            )
            shown = +node.displays.get(subscription.id, Counter())
            if shown != fresh:
                reasons.append(f"{node.name} {subscription.id} shows {shown - fresh}, lacks {fresh - shown}")
    return reasons


# -- the end -----------------------------------------------------------------------------------------------------------


def at_the_end(world: World) -> None:
    arrival_order_is_irrelevant(world)
    no_acknowledged_write_lost(world)
    everything_is_decided(world)
    rejected_shows_nowhere(world)
    counters_count(world)
    every_client_would_be_the_same_after_a_restart(world)


def arrival_order_is_irrelevant(world: World) -> None:
    """A fresh store fed the log in the order of stamps, or in any, is the server's."""
    core = world.server.open()
    changes = [change for entry in world.server.disk.log for change in entry.registers]
    by_stamp = sorted(changes, key=lambda change: change.stamp)
    for order in (by_stamp, by_stamp[::-1]):
        store = Store()
        for change in order:
            store.apply([change])
        hold("arrival order irrelevant", view(store) == view(core.store), difference(store, core.store))
    again = Store()
    again.apply(world.server.disk.load(0).registers)
    hold(
        "server's disk is its memory",
        register_view(again) == register_view(core.store),
        difference(again, core.store),
    )
    delta = core.store.apply(changes)
    hold("no acknowledged write lost", not delta, f"feeding the log again alters {delta}")


def everything_is_decided(world: World) -> None:
    """Every write that returned has its receipt, unless its replica's file was damaged."""
    for written in world.written.values():
        if not world.nodes[written.by].lossy:
            hold("decided once", written.id in world.settled, f"{written} never got a receipt")


def rejected_shows_nowhere(world: World) -> None:
    """What was rejected is undone at its writer, and never came to anybody else."""
    rejected = {
        change.value
        for tx, receipt in world.acknowledged.items()
        if receipt.outcome == "rejected" and not world.nodes[world.written[tx].by].lossy
        for change in world.written[tx].changes
        if change.predicate == "k/title" and change.value is not None
    }
    for node in world.nodes.values():
        assert node.core is not None
        shown = [(s, v) for s, v in node.core.store.scan("k/title") if v in rejected]
        hold("rejected shows nowhere", not shown, f"{node.name} shows {shown}")


def counters_count(world: World) -> None:
    """A counter is the sum of the accepted increments: none doubled, none lost."""
    store = world.server.open().store
    sums: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for entry in world.server.disk.log:
        written = world.written.get(entry.id)
        hold("receipts truthful", written is not None, f"{entry} was never written")
        assert written is not None
        took_effect = {(c.subject, c.predicate) for c in entry.registers if c.slot[:2] == COUNTER}
        if entry.id not in seen:
            seen.add(entry.id)
            counts = [c for c in written.changes if c.slot == COUNTER]
            for s, p, amount in ((c.subject, c.predicate, int(c.value)) for c in counts):  # type: ignore[arg-type]
                if (s, p) in took_effect:
                    sums[s, p] += amount
    for (s, p), expected in sorted(sums.items()):
        if store.deleted(s) is None:
            values = store.values(s, p)
            hold("counters count", values == [expected], f"{s} {p} is {values}, counted were {expected}")


def every_client_would_be_the_same_after_a_restart(world: World) -> None:
    for node in world.nodes.values():
        assert node.core is not None
        local_write_survives(node, node.core)
