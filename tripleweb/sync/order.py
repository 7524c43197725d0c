"""Whether a frame is missing, came twice or was overtaken: what both sides count, and what came of it so far.

A stream does none of that; a proxy, a relay or a fault of ours might. Then it is noticed before anything is applied,
and answered by closing the connection and saying hello again. An end that does not count (0) is believed. Parts are
kept here until the poke that they belong to has come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from tripleweb.change import Change
from tripleweb.clock import parse_stamp
from tripleweb.errors import ProtocolError
from tripleweb.sync import messages
from tripleweb.sync.messages import (
    ClientFrame,
    Part,
    Poke,
    Receipt,
    Rows,
    Subscription,
    WireRegister,
    is_whole,
)
from tripleweb.sync.views import Shown

_UNSENT = 1 << 53


class Count:
    """Frames that number themselves from 1."""

    def __init__(self) -> None:
        self.last = 0

    def skips(self, n: int) -> bool:
        """Takes the next frame; True if one before it is missing, or it came before."""
        self.last += 1
        return n not in (0, self.last)


@dataclass(slots=True)
class Loaded:
    """What has come of a subscription so far: places up to `upto`, of how many."""

    registers: list[WireRegister] = field(default_factory=list)
    upto: int = 0
    of: int = 0
    heard: int = 0  # what the server had heard when it sent the last of it


class Arrivals:
    """What came to a client since its hello; what has come of subscriptions of which not all is here stays beyond."""

    def __init__(self) -> None:
        self.loads: dict[str, Loaded] = {}
        self.asked: dict[str, int] = {}  # by which frame a subscription came or ended
        self.begin()

    def begin(self, subscriptions: Iterable[Subscription] = ()) -> None:
        """A hello lists these. The first poke brings those of the whole app to life."""
        self.loads = {
            name: load for name, load in self.loads.items() if not self._is_earlier(name, load.heard)
        }
        self.asked.clear()
        self.awaited = {one.id for one in subscriptions if one.kind == "triples" and is_whole(one)}
        self._parts: list[Part] = []  # of no load
        self._parts_of: list[int] = []  # the transactions that told parts belong to
        self._told: dict[int, Count] = {}  # likewise
        self._own = Count()  # what was made for this connection alone
        self._rows: dict[str, tuple[int, int]] = {}  # display -> (number, seq) of its last rows
        self.came = self._took = 0  # parts of loads; those of them that the server was told of

    def changes(self, name: str) -> None:
        """A subscription comes or ends, with the next frame that says so."""
        self.asked[name] = _UNSENT
        self.awaited.discard(name)

    def sent(self, name: str, n: int) -> None:
        """This frame says that a subscription comes or ends."""
        if self.asked.get(name) == _UNSENT:  # else it asks again for what is on its way
            self.asked[name] = n

    def _is_earlier(self, name: str, heard: int) -> bool:
        """True if what the server had heard is that a subscription was there before it came (again) or ended."""
        return heard < self.asked.get(name, 0)

    def is_of_another(self, name: str, poke: Poke) -> bool:
        """True if what a poke says of this subscription was said before it ended, or came again."""
        return poke.n > 0 and self._is_earlier(name, poke.heard)

    def part(self, part: Part) -> None:
        counted = self._told.setdefault(part.seq, Count()) if part.seq else self._own
        if (part.seq or part.n) and counted.skips(part.n):
            raise ProtocolError("order", f"part {part.n} of {part.seq} came where {counted.last} was due")
        if part.seq:
            self._parts_of.append(part.seq)
        if not part.id:
            if part.anew:
                self._parts.clear()
                self.loads.clear()
            self._parts.append(part)
            return
        heard = part.heard if part.n else _UNSENT
        load = self.loads.get(part.id)
        is_other = (
            load is not None
            and self._is_earlier(part.id, load.heard)
            and not self._is_earlier(part.id, heard)
        )
        if part.start == 0 and (load is None or load.upto > 0 or is_other):
            load = self.loads[part.id] = Loaded()
        if load is None or load.upto != part.start:
            raise ProtocolError(
                "order", f"a part from {part.start} of {part.id!r} does not go on where it stood"
            )
        self.came += 1
        load.registers.extend(part.registers)
        load.upto, load.of, load.heard = part.upto, part.of, heard

    def took(self) -> list[ClientFrame]:
        """What the server is to be told of parts of loads that have come."""
        told, self._took = self._took, self.came
        return [messages.Took(self.came)] if self.came > told else []

    def rows(self, rows: Rows | Shown) -> None:
        """Rows follow on those before them, or are the first of a subscription: of one that had the name before, some
        may still be on their way, and have the right number, but an earlier seq."""
        last, stood = self._rows.get(rows.id, (0, -1))
        is_first = rows.n == 1 and rows.reset
        if rows.n not in (0, last + 1) and not is_first:
            raise ProtocolError("order", f"rows {rows.n} of {rows.id!r} came where {last + 1} were due")
        is_behind = rows.seq <= stood if isinstance(rows, Rows) else rows.seq < stood
        if rows.n and not is_first and is_behind:
            raise ProtocolError("order", f"rows of {rows.id!r} of {rows.seq} came where it stood at {stood}")
        self._rows[rows.id] = (rows.n, rows.seq)

    def poke(self, poke: Poke, subscribed: Mapping[str, Subscription], outbox: Collection[int]) -> None:
        """Nothing that belongs to a poke is missing."""
        if poke.n and self._own.skips(poke.n):
            raise ProtocolError("order", f"poke {poke.n} came where {self._own.last} was due")
        within = sum(1 for seq in self._parts_of if poke.since <= seq <= poke.seq)
        if poke.parts != len(self._parts_of) or within != poke.parts:
            raise ProtocolError("order", f"a poke of {poke.parts} parts came with those of {self._parts_of}")
        missing = sorted(name for name in self.awaited if name in subscribed and name not in poke.cursors)
        if missing:
            raise ProtocolError("order", f"the first poke does not bring {missing} to life")
        self.awaited.clear()
        told = [receipt.number for receipt in poke.receipts if receipt.number in outbox]
        if told != list(islice(outbox, len(told))):
            raise ProtocolError("order", f"receipts {told} came where {next(iter(outbox))} was due")

    def take(
        self, poke: Poke, is_fresh: bool, at: int
    ) -> tuple[list[WireRegister], list[WireRegister], list[tuple[str, str]]]:
        """The registers that came for a poke; those of them that a transaction before `at` had set, beyond which the
        replica stands; and what is to be forgotten. They are kept no longer. A reset makes what came of loads void,
        unless there is nothing yet (`is_fresh`) that it could replace. What was made for this connection alone waits
        for a poke that was, too: one that comes once more, or too early, takes nothing of it."""
        waiting = [part for part in self._parts if part.n and not part.seq and not poke.n]
        parts = [part for part in self._parts if not (part.n and not part.seq and not poke.n)]
        come = [one for part in parts if not 0 < part.seq < at for one in part.registers]
        old = [one for part in parts if 0 < part.seq < at for one in part.registers]
        gone = [place for part in parts for place in part.forget]
        for name in list(poke.cursors):
            load = self.loads.pop(name, None)
            if load is not None and (is_fresh or not poke.reset):
                come += load.registers
            if self.is_of_another(name, poke):  # it is here; that it lives is said of another
                del poke.cursors[name]
        for name in [name for name, n in self.asked.items() if poke.n and n <= poke.heard]:
            if name in self.loads and self.loads[name].heard < self.asked[name]:
                del self.loads[name]
        self._parts = waiting
        self._parts_of.clear()
        self._told = {seq: count for seq, count in self._told.items() if seq >= poke.seq}
        return come, old, gone

    def progress(self, name: str) -> tuple[int, int]:
        """(places that have come of a subscription, places there are, as far as is known)."""
        load = self.loads.get(name)
        return (0, 0) if load is None or self._is_earlier(name, load.heard) else (load.upto, load.of)


def in_time(receipt: Receipt, stood: int) -> Receipt:
    """A receipt, without what it says of the registers if the client stands beyond the point of which that is true."""
    if receipt.seq >= stood or not (receipt.current or receipt.absent):
        return receipt
    return msgspec.structs.replace(receipt, current=[], absent=[], reload=True)


def opened(
    poke: Poke, come: Iterable[WireRegister]
) -> tuple[list[Change], list[list[Change]], list[tuple[Receipt, int, list[Change]]], int]:
    """What came with a poke: registers that were loaded, the changes of each transaction, receipts with their times and
    with the registers that they tell of, and the latest time at which the server decided any of it. Raises
    `ProtocolError` for what cannot be read."""
    try:
        parts = [messages.register_from_wire(wire) for wire in come]
        committed = [messages.decode_committed(body) for body in poke.transactions]
        entries = []
        for entry in committed:
            stamp = parse_stamp(entry.stamp)
            entries.append([messages.change_from_wire(wire, *stamp) for wire in entry.changes])
        told = [
            (r, parse_stamp(r.stamp)[0], [messages.register_from_wire(wire) for wire in r.current])
            for r in poke.receipts
            if r.triples_stood is not None  # or it raises
        ]
    except ValueError as error:
        raise ProtocolError("malformed", str(error)) from None
    return parts, entries, told, max([poke.at, *(one.at for one in poke.receipts)])
