"""What waits for the server's word at a replica: how it is pushed, and what has become of it when the word comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tripleweb.clock import parse_stamp, stamp_text, unpack
from tripleweb.sync import messages
from tripleweb.sync.messages import Push, PushedTransaction, Receipt
from tripleweb.sync.records import FATES_MAX, LOST_MAX, Fate, Pending
from tripleweb.terms import to_wire


def pushes(due: Iterable[Pending], replica: str, changes_max: int, bytes_max: int) -> Iterator[Push]:
    """Transactions in frames of bounded size; one that does not fit goes on in the next frame."""
    batch: list[PushedTransaction] = []
    changes, size = 0, 0
    for pending in due:
        stamp = stamp_text(pending.time, replica)
        piece: list[messages.WireChange] = []
        for change in pending.changes:
            if changes >= changes_max or size >= bytes_max:
                if piece:
                    batch.append(PushedTransaction(pending.number, pending.id, stamp, piece, more=True))
                yield Push(batch)
                batch, piece, changes, size = [], [], 0, 0
            piece.append(messages.change_to_wire(change))
            changes += 1
            size += messages.wire_bytes(change)
        batch.append(PushedTransaction(pending.number, pending.id, stamp, piece))
    if batch:
        yield Push(batch)


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
