"""What the server keeps of what it has decided, until the replica that asked has confirmed that it knows.

A receipt is kept whole, so that it can be told again, word for word. Of a replica that was not heard of for long
(`unseen_ms`) only the gist stays: which transaction it was, what became of it and why, which of its changes lost, its
stamp and its point in the server's order; 40 bytes instead of several hundred. What the server's registers were then,
who had won, and what a query's refusal said is gone; a receipt made of a gist says "load again" instead.

It is not less, because whoever sleeps for a year may have pushed just before, and not know what became of it. Told
nothing, or that his number is taken, he would push it again under another name, and what he counted would count twice;
told "applied" of what was refused, he would be lied to. And the whole random id is kept, not a digest: the receipt must
name its transaction, by which a copy of a replica, which has used the same number for something else, sees that it is
one.

Invariants: of every number above the confirmed one, up to the last, there is a receipt or a gist, never both, and
what they tell agrees; what waits for the disk is not made a gist; no slice takes more than a few hundred receipts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Protocol

import msgspec

from tripleweb.clock import parse_stamp, stamp_text
from tripleweb.errors import ProtocolError
from tripleweb.sync import messages
from tripleweb.sync.messages import Receipt
from tripleweb.sync.records import Commit, ReplicaRow

PIECE = 200  # receipts that become one gist, in one slice
PIECES_MAX = 20  # of them in one commit
LONG_AGO = "decided long ago: what was said then is no longer kept"
_LOOKED_AT = 1_000  # replicas in a slice
_LOOK_MS = 3_600_000  # from one look at who is long unseen to the next


class DecisionLimits(Protocol):
    """How long a replica may be unseen before only the gist of its receipts is kept."""

    @property
    def unseen_ms(self) -> int: ...


class _More(msgspec.Struct, array_like=True, gc=False):
    """What is not so of a transaction that was applied as it was pushed."""

    rejected: bool
    reason: str
    reload: bool  # the receipt said what the registers are
    stood: bool  # and what had stood there
    lost: list[tuple[int, int, str]]  # runs: first index, count, reason
    writer: str  # whose stamp it has: a copy had pushed it before


class Gist(msgspec.Struct, array_like=True, gc=False):
    """What stays of a receipt.

    >>> receipt = Receipt(7, "k7", "applied", "018bcfe568000000-00000000000a", 41, lost=[(0, "newer", "bob")])
    >>> gist_of(receipt, "00000000000a").receipt("00000000000a", 9).losses
    {0: ('newer', '')}
    """

    number: int
    id: str
    time: int  # of its stamp
    seq: int
    more: _More | None = None

    def receipt(self, replica: str, now_ms: int) -> Receipt:
        """What a replica is told of it. It is told now, so no clock is set by when that was decided."""
        more = self.more
        if more is None:
            stamp = stamp_text(self.time, replica)
            return Receipt(self.number, self.id, "applied", stamp, self.seq, now_ms)
        return Receipt(
            self.number,
            self.id,
            "rejected" if more.rejected else "applied",
            stamp_text(self.time, more.writer or replica),
            self.seq,
            now_ms,
            more.reason,
            reload=more.reload,
            runs=[(first, count, reason, "") for first, count, reason in more.lost],
            unseen=more.stood,
            message=LONG_AGO if more.reason == "guard" else "",
        )


def gist_of(receipt: Receipt, replica: str) -> Gist:
    """What stays of a receipt of a replica."""
    time, writer = parse_stamp(receipt.stamp)
    runs: list[tuple[int, int, str]] = []
    for index, (reason, _) in sorted(receipt.losses.items()):
        first, count, last = runs[-1] if runs else (0, 0, "")
        if first + count == index and last == reason:
            runs[-1] = (first, count + 1, reason)
        else:
            runs.append((index, 1, reason))
    more = _More(
        receipt.outcome == "rejected",
        receipt.reason,
        receipt.reload or bool(receipt.current or receipt.absent),
        receipt.unseen or bool(receipt.stood),
        runs,
        "" if writer == replica else writer,
    )
    is_plain = more == _More(False, "", False, False, [], "")
    return Gist(receipt.number, receipt.id, time, receipt.seq, None if is_plain else more)


encode_gists = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[Gist])


def decode_gists(body: bytes) -> list[Gist]:
    """Those that were encoded together, in the order of their numbers; `ProtocolError` for anything else: it costs the
    connection of the replica that they are of, and no other's."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ProtocolError("malformed", f"what is kept of old receipts cannot be read: {error}") from None


class Decisions:
    """The receipts, and gists of receipts, that the replicas of a tenant have not confirmed."""

    def __init__(
        self,
        receipts: Mapping[tuple[str, int], tuple[str, bytes]],
        gists: Mapping[tuple[str, int], bytes],
        rows: Mapping[str, ReplicaRow],
        limits: DecisionLimits,
    ) -> None:
        self._rows = rows
        self._limits = limits
        self._receipts: dict[str, dict[int, tuple[Receipt, int]]] = {}  # with the commit they wait for
        self._gists: dict[str, dict[int, bytes]] = {}  # by the last number in it
        for (replica, _), (_, body) in sorted(receipts.items()):
            self.add(replica, messages.decode_receipt(body), 0)
        for (replica, number), body in sorted(gists.items()):
            self._gists.setdefault(replica, {})[number] = body
        self._looking: list[str] = []  # who is still to be looked at
        self._here: Collection[str] = ()  # who was connected when that began,
        self._looked_ms: int | None = None  # which was then

    def add(self, replica: str, receipt: Receipt, batch: int) -> None:
        """A transaction is decided; the commit of this batch makes it durable. Numbers come in order."""
        self._receipts.setdefault(replica, {})[receipt.number] = receipt, batch

    def has(self, replica: str) -> bool:
        """True if there are receipts of it, which become gists if it is not heard of."""
        return replica in self._receipts

    def find(self, replica: str, number: int, now_ms: int) -> tuple[Receipt, int] | None:
        """What was decided of a number, and the commit that it waits for; None if that is not kept."""
        held = self._receipts.get(replica, {}).get(number)
        if held is not None:
            return held
        for last, body in self._gists.get(replica, {}).items():
            if number <= last:
                found = (gist for gist in decode_gists(body) if gist.number == number)
                return next(((gist.receipt(replica, now_ms), 0) for gist in found), None)
        return None

    def unconfirmed(self, replica: str, now_ms: int) -> Iterator[tuple[Receipt, int]]:
        """All that a replica is to be told, in the order of its numbers, with the commits that it waits for."""
        row = self._rows.get(replica)
        confirmed = 0 if row is None else row.confirmed
        for body in self._gists.get(replica, {}).values():
            for gist in decode_gists(body):
                if gist.number > confirmed:
                    yield gist.receipt(replica, now_ms), 0
        yield from self._receipts.get(replica, {}).values()

    def confirm(self, replica: str, since: int, upto: int) -> None:
        """A replica knows what became of its numbers after `since` up to `upto`."""
        receipts, gists = self._receipts.get(replica, {}), self._gists.get(replica, {})
        for number in range(since + 1, upto + 1):
            receipts.pop(number, None)
        for number in [number for number in gists if number <= upto]:
            del gists[number]
        self._let_go(replica)

    def _let_go(self, replica: str) -> None:
        for held in (self._receipts, self._gists):
            if not held.get(replica, True):
                del held[replica]

    # -- long unseen -------------------------------------------------------------------------------------------

    def look(self, here: Collection[str], now_ms: int) -> None:
        """Some time has passed. `here`: who is connected, and so is seen."""
        wait = min(_LOOK_MS, self._limits.unseen_ms)
        if self._looked_ms is None or not 0 <= now_ms - self._looked_ms < wait:
            self._looked_ms = now_ms
            self._here = here
            self._looking = list(self._receipts)

    def has_work(self, commit: Commit) -> bool:
        """True if `fade` has something to do for a commit that is being gathered."""
        return bool(self._looking) and len(commit.gists) < PIECES_MAX

    def fade(self, commit: Commit, durable_batch: int) -> bool:
        """One slice of making gists, into `commit`; False if there was nothing to do."""
        if not self.has_work(commit):
            return False
        for _ in range(min(_LOOKED_AT, len(self._looking))):
            replica = self._looking[-1]
            held = self._receipts.get(replica, {}) if self._is_long_unseen(replica) else {}
            old = [
                receipt
                for receipt, batch in islice(held.values(), PIECE)
                if batch <= durable_batch  # the others are no older than the server
            ]
            if not old:
                self._looking.pop()
                continue
            body = encode_gists([gist_of(receipt, replica) for receipt in old])
            number = old[-1].number
            for receipt in old:
                del held[receipt.number]
            self._let_go(replica)
            self._gists.setdefault(replica, {})[number] = body
            commit.gists.append((replica, number, body))
            break
        return True

    def _is_long_unseen(self, replica: str) -> bool:
        row = self._rows.get(replica)
        if row is None or replica in self._here:
            return False
        return row.seen + self._limits.unseen_ms <= (self._looked_ms or 0)
