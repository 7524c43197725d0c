"""Whether a frame is missing, came twice or was overtaken: what both sides count.

A stream does none of that; a proxy, a relay or a fault of ours might. Then it is noticed before anything is applied,
and answered by closing the connection and saying hello again. An end that does not count (0) is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

import msgspec

from tripleweb.errors import ProtocolError
from tripleweb.sync.messages import Part, Poke, Receipt, Rows, Subscription, WireRegister


class Count:
    """Frames that number themselves from 1."""

    def __init__(self) -> None:
        self.last = 0

    def skips(self, n: int) -> bool:
        """Takes the next frame; True if one before it is missing, or it came before."""
        self.last += 1
        return n not in (0, self.last)


class Arrivals:
    """What came to a client since its hello."""

    def __init__(self) -> None:
        self.parts: list[WireRegister] = []
        self.awaited: set[str] = set()  # that hello has listed: the first poke brings them to life
        self._parts_of: list[int] = []  # the transactions that the parts belong to, 0: to a load
        self._numbered: dict[int, Count] = {0: Count()}  # likewise
        self._rows: dict[str, int] = {}  # display -> the number of its last rows

    def await_all(self, subscriptions: Iterable[Subscription]) -> None:
        """Hello lists these."""
        self.awaited = {s.id for s in subscriptions if s.kind == "triples"}

    def part(self, part: Part) -> None:
        if self._numbered.setdefault(part.seq, Count()).skips(part.n):
            raise ProtocolError("order", f"part {part.n} of {part.seq} came out of its order")
        self.parts.extend(part.registers)
        self._parts_of.append(part.seq)

    def drop_parts(self) -> None:
        """A poke has taken them."""
        self.parts.clear()
        self._parts_of.clear()
        self._numbered = {0: self._numbered[0]}

    def rows(self, rows: Rows) -> None:
        """Rows follow on those before them, or are the first of a subscription."""
        due = self._rows.get(rows.id, 0) + 1
        if rows.n not in (0, due) and not (rows.n == 1 and rows.reset):
            raise ProtocolError("order", f"rows {rows.n} of {rows.id!r} came where {due} were due")
        self._rows[rows.id] = rows.n

    def poke(self, poke: Poke, subscribed: Collection[str], outbox: Collection[int]) -> None:
        """Nothing that belongs to a poke is missing."""
        within = sum(1 for seq in self._parts_of if not seq or poke.since < seq <= poke.seq)
        if poke.parts and not poke.parts == within == len(self._parts_of):
            raise ProtocolError("order", f"a poke of {poke.parts} parts came with those of {self._parts_of}")
        missing = sorted(name for name in self.awaited if name in subscribed and name not in poke.cursors)
        if missing:
            raise ProtocolError("order", f"the first poke does not bring {missing} to life")
        self.awaited.clear()
        told = [receipt.number for receipt in poke.receipts if receipt.number in outbox]
        if told != list(islice(outbox, len(told))):
            raise ProtocolError("order", f"receipts {told} came where {next(iter(outbox))} was due")


def in_time(receipt: Receipt, stood: int) -> Receipt:
    """A receipt, without what it says of the registers if the client stands beyond the point of which that is true."""
    if receipt.seq >= stood or not (receipt.current or receipt.absent):
        return receipt
    return msgspec.structs.replace(receipt, current=[], absent=[], reload=True)
