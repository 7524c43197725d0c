"""The bounds of one tenant at a server: what a client may ask for, what is kept for it, how much is done at a time.

Invariant: whatever grows with what others do has its bound here, or in the limits of the hub and its lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from tripleweb.clock import TOLERANCE_MS
from tripleweb.sync import messages


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a tenant; the simulator draws them anew for every run."""

    tolerance_ms: int = TOLERANCE_MS
    transaction_changes_max: int = messages.TRANSACTION_CHANGES_MAX
    tail_max: int = 20_000  # transactions kept in memory for those who come back
    poke_transactions_max: int = 2_000
    part_registers: int = 500
    window_parts: int = 4  # of loads, on their way to a connection that says what has come
    frame_bytes: int = 4 << 20  # where pokes and parts are cut
    receipt_bytes_max: int = 1 << 20  # what a receipt tells of the server's registers; beyond it, load again
    told_bytes_max: int = 64 << 20  # what all receipts of a commit tell of them, likewise
    lost_max: int = 10_000  # changes of which a receipt says singly that they lost
    unconfirmed_max: int = 100_000  # receipts that are kept for a replica
    unread_max: int = 1_000  # frames that wait for a connection that asks for more
    news_max: int = 20_000  # transactions that wait for one that reads slowly
    unseen_ms: int = 30 * 86_400_000  # after that, of what was decided for a replica the gist is kept
    held_ms: int = 300_000  # how long one that is away is remembered, and what it wrote counts as asked for
    lag_max: int = 1_000  # seqs behind, where nothing of it concerns a connection
    own_max: int = 100_000  # places that count as asked for by having been written
    behind_max: int = 20_000  # changes that wait for guarded transactions before them
    subscriptions_max: int = 1_000
    subscription_bytes_max: int = 16 << 20  # of all of a connection
    holdings_max: int = 10_000  # replicas, those that are away first
    rows_max: int = 10_000
    windows_max: int = 100  # of a connection
    window_rows_max: int = 1_000
    view_bytes_max: int = 64 << 10
    answers_max: int = 200  # that are kept for windows,
    answer_bytes_max: int = 256 << 20  # of the rows of each, about
    answer_idle_ms: int = 60_000  # that nobody looks at
    published_max: int = 10_000  # queries that pages may look at by name,
    published_bytes_max: int = 64 << 10  # each with its inputs,
    unused_ms: int = 180 * 86_400_000  # that nobody has looked at
    query_units: int = 5_000_000
    slice_units: int = 5_000
