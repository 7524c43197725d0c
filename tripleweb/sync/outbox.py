"""What waits for the server's word at a replica: how it is pushed, and what has become of it when the word comes, also
in the store; and what a poke does, as it is being gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tripleweb.change import COUNTER, DELETED, Change, Key
from tripleweb.clock import TOLERANCE_MS, parse_stamp, stamp_text, unpack
from tripleweb.store import Delta, Store
from tripleweb.sync import messages
from tripleweb.sync.messages import Push, PushedTransaction, Receipt
from tripleweb.sync.records import FATES_MAX, LOST_MAX, Fate, LocalCommit, Pending
from tripleweb.terms import to_wire


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of a replica; the simulator draws them anew for every run."""

    tolerance_ms: int = TOLERANCE_MS
    in_flight_max: int = 1_000  # transactions pushed and not yet decided
    frame_changes_max: int = 5_000
    frame_bytes_max: int = 4 << 20
    fates_max: int = 10_000
    kept_max: int = 100_000  # accepted transactions that no backup is known to hold,
    kept_bytes_max: int = 128 << 20
    kept_ms: int = 7 * 86_400_000
    transaction_changes_max: int = messages.TRANSACTION_CHANGES_MAX
    transaction_bytes_max: int = messages.TRANSACTION_BYTES_MAX


@dataclass(slots=True)
class Step:
    """What one poke does, as it is being gathered."""

    commit: LocalCommit = field(default_factory=LocalCommit)
    deltas: list[Delta] = field(default_factory=list)
    touched: dict[Key, None] = field(default_factory=dict)
    shares: set[Key] = field(default_factory=set)  # our counter shares that the server has set
    counted: list[Change] = field(
        default_factory=list
    )  # our increments that it has taken, by their last stamps
    last: int = 0  # the latest stamp that the server gave one of our transactions
    epoch: str = ""  # the server's
    ahead: Receipt | None = None  # of a transaction whose stamp the server has set back


def pushes(due: Iterable[Pending], replica: str, changes_max: int, bytes_max: int) -> Iterator[Push]:
    """Transactions in frames of bounded size; one that does not fit goes on in the next frame."""
    batch: list[PushedTransaction] = []
    changes, size = 0, 0
    for pending in due:
        stamp = stamp_text(pending.time, replica)
        piece: list[messages.WireChange] = []
        check = pending.check
        size += 0 if check is None else len(messages.encode(check))
        for change in pending.changes:
            if changes >= changes_max or size >= bytes_max:
                if piece:
                    batch.append(PushedTransaction(pending.number, pending.id, stamp, piece, True, check))
                    check = None
                yield Push(batch)
                batch, piece, changes, size = [], [], 0, 0
            piece.append(messages.change_to_wire(change))
            changes += 1
            size += messages.wire_bytes(change)
        batch.append(PushedTransaction(pending.number, pending.id, stamp, piece, check=check))
    if batch:
        yield Push(batch)


def refused(pending: Pending, replica: str, message: str) -> Receipt:
    """The receipt of a guarded transaction that is refused here."""
    stamp = stamp_text(pending.time, replica)
    return Receipt(pending.number, pending.id, "rejected", stamp, reason="guard", message=message)


def fates_of(pending: Pending, receipt: Receipt, singly: int) -> Iterator[Fate]:
    """What became of each value of a transaction; of those that stand only of the first `singly`."""
    lost = receipt.losses
    written = unpack(pending.time)[0]
    restamped = parse_stamp(receipt.stamp)[0] != pending.time
    fallen = 0
    for i, change in enumerate(pending.changes):
        stands = i not in lost and receipt.outcome != "rejected"
        if stands and i >= singly:
            continue
        fallen += not stands
        if fallen > LOST_MAX + FATES_MAX + 1:  # more than are kept: who keeps them sees that and says it
            break
        reason, by = lost.get(i, (receipt.reason, ""))
        if receipt.outcome == "rejected":
            outcome = "rejected"
        elif i in lost:
            outcome = "superseded"
        else:
            outcome = "restamped" if restamped else "applied"
        yield Fate(written, change.subject, change.predicate, to_wire(change.value), outcome, by, reason)


def shares(parts: Iterable[Change], mine: str, counted: Iterable[Change]) -> Iterator[Change]:
    """Our own shares of counters among registers that were loaded: they have what we counted before we held the place.
    What we `counted` after a share was read comes on top."""
    found: dict[Key, Change] = {}
    for share in parts:
        if share.slot == mine and (share.key not in found or found[share.key].time < share.time):
            found[share.key] = share
    for share in found.values():
        later = [one for one in counted if one[:2] == share[:2] and one.time > share.time]
        value = (share.value or 0) + sum(one.value for one in later)  # type: ignore[misc, operator]
        yield share._replace(value=value, time=max([share.time, *(one.time for one in later)]))


def stored_key(change: Change, replica: str) -> Key:
    """The register that a change of ours stands in: an increment in our share."""
    slot = COUNTER + replica if change.slot == COUNTER else change.slot
    return change.subject, change.predicate, slot


def take_away(store: Store, replica: str, pending: Pending, step: Step) -> None:
    """Takes a rejected transaction out of the store. What stood there before is not known any more: it comes with
    the load that follows, and until then nothing is shown there rather than what was rejected."""
    gone: list[Key] = []
    for change in pending.changes:
        key = stored_key(change, replica)
        held = store.register(key)
        if held is not None and change.slot == COUNTER:
            before = held.value - change.value  # type: ignore[operator]
            if before:
                step.deltas.append(store.put([held._replace(value=before)]))  # type: ignore[arg-type]
                step.touched[key] = None
            else:
                gone.append(key)
                step.shares.add(key)
        elif held is not None and held.stamp == (pending.time, replica):
            gone.append(key)
    revive = [subject for subject, predicate, _ in gone if predicate == DELETED]
    step.deltas.append(store.put((), gone, revive))
    step.commit.revive.extend(revive)
    step.touched.update(dict.fromkeys(gone))


def stamp_anew(store: Store, replica: str, pending: Pending, time: int, step: Step) -> None:
    """Gives a transaction another stamp, and what stands of it in the store with it; what was beaten may win now."""
    old, pending.time = pending.time, time
    pending.changes = [change._replace(time=time) for change in pending.changes]
    step.commit.pending.append(pending)
    for change in pending.changes:
        key = stored_key(change, replica)
        held = store.register(key)
        if held is not None and held.stamp == (old, replica):
            step.deltas.append(store.put([held._replace(time=time)]))
        step.touched[key] = None


def put_again(store: Store, replica: str, pending: Pending, step: Step, changes: Sequence[Change]) -> None:
    """Applies changes of ours over what the server said; increments only where it has set our share."""
    again = []
    for change in changes:
        key = stored_key(change, replica)
        if change.slot != COUNTER:
            if key in step.touched or change.time != pending.time or change.predicate == DELETED:
                again.append(change)
                step.touched[key] = None
        elif key in step.shares and store.deleted(change.subject) is None:
            held = store.register(key)
            share = (held.value if held is not None and held.value is not None else 0) + change.value  # type: ignore[operator]
            time = change.time if held is None else max(held.time, change.time)
            step.deltas.append(store.put([Change(*key, share, time, replica)]))
            step.touched[key] = None
    step.deltas.append(store.apply(again))
