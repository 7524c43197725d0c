"""The newest part of the log, in memory: those who were away are caught up from it, and copies are recognised by it.

Here also stands how what is sent is cut into frames of bounded size, and an entry cut down to what somebody is told.

Invariant: `entries` are the log from `floor` (not included) to `seq`, without a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from tripleweb.change import Change
from tripleweb.sync import messages
from tripleweb.sync.messages import Part, Poke, Receipt, ServerFrame
from tripleweb.sync.records import Entry


class FrameLimits(Protocol):
    """Where frames are cut."""

    @property
    def poke_transactions_max(self) -> int: ...
    @property
    def part_registers(self) -> int: ...
    @property
    def frame_bytes(self) -> int: ...


class Log(Protocol):
    """Where the tenant stands."""

    epoch: str
    seq: int
    durable_seq: int
    now_ms: int  # when something last came in

    def last_batch(self) -> int:
        """The commit that must be durable before the store's present content may be shown."""
        ...

    def is_durable(self, batch: int) -> bool: ...


class Tail:
    """The last `keep` to `2 * keep` entries of the log."""

    def __init__(self, entries: Iterable[Entry], seq: int, keep: int) -> None:
        self.seq = seq
        self._keep = keep
        self._entries = list(entries)
        self._seqs = {entry.id: entry.seq for entry in self._entries}

    @property
    def floor(self) -> int:
        """The seq after which the tail begins."""
        return self.seq - len(self._entries)

    def add(self, entry: Entry) -> None:
        self.seq = entry.seq
        self._entries.append(entry)
        self._seqs[entry.id] = entry.seq
        if len(self._entries) > 2 * self._keep:
            surplus = len(self._entries) - self._keep
            for old in self._entries[:surplus]:
                if self._seqs.get(old.id) == old.seq:
                    del self._seqs[old.id]
            del self._entries[:surplus]

    def find(self, transaction: str) -> Entry | None:
        """The entry of a transaction, by its random id."""
        seq = self._seqs.get(transaction)
        return None if seq is None else self._entries[seq - self.floor - 1]

    def mark(self, seq: int) -> int:
        """When the entry at `seq` was accepted; 0 if that is not known here (any more)."""
        after = self.seq - seq
        return self._entries[-1 - after].at if 0 <= after < len(self._entries) else 0

    def between(self, since: int, upto: int) -> list[Entry]:
        """The entries after `since` up to `upto`, both at or above the floor."""
        return self._entries[since - self.floor : upto - self.floor]

    def reach(self, since: int, durable: int, limits: FrameLimits) -> int:
        """How far a poke goes that has all entries after `since`."""
        upto, size = min(durable, since + limits.poke_transactions_max), 0
        for entry in self.between(since, upto):
            size += len(entry.body)
            if size > limits.frame_bytes and entry.seq > since + 1:
                return entry.seq - 1
        return upto


class Told:
    """An entry as a feed is told it: all of it, or the changes at these places of it."""

    __slots__ = ("_body", "entry", "kept")

    def __init__(self, entry: Entry, kept: tuple[int, ...] | None = None) -> None:
        self.entry = entry
        self.kept = None if kept is None or len(kept) == len(entry.registers) else kept
        self._body: bytes | None = entry.body if self.kept is None else None

    @property
    def registers(self) -> Sequence[Change]:
        registers = self.entry.registers
        return registers if self.kept is None else [registers[at] for at in self.kept]

    @property
    def body(self) -> bytes:
        """The JSON of `messages.Committed`."""
        if self._body is None:
            self._body = self.without([messages.change_to_wire(change) for change in self.registers])
        return self._body

    def without(self, changes: list[messages.WireChange]) -> bytes:
        """The same with these changes only."""
        whole = messages.decode_committed(self.entry.body)
        return messages.encode(msgspec.structs.replace(whole, changes=changes))


def told(
    since: int, upto: int, receipts: list[Receipt], limits: FrameLimits, least: int = 0
) -> tuple[int, list[Receipt]]:
    """(upto, the receipts told): a receipt goes with the poke that reaches the point where it was decided, for what it
    says is true of that point. `least`: so far the poke must reach, whatever its size, since the load that goes with it
    does; what was decided until then is older than the load, and must not come after it."""
    upto, count, size = max(upto, least), 0, 0
    for receipt in receipts:
        if receipt.seq > upto:
            break
        size += len(messages.encode(receipt)) if receipt.current or receipt.absent else 0
        if count and size > limits.frame_bytes and receipt.seq > least:
            # this one may be of the very entry at its seq, unless an earlier one is
            upto = max(since, receipt.seq - (receipts[count - 1].seq < receipt.seq))
            break
        count += 1
    return upto, receipts[:count]


class Shared:
    """Pokes that take everybody who stands at some seq to what is durable now; but a replica is not told its own."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[list[ServerFrame], set[str]]] = {}

    def get(self, since: int, replica: str) -> list[ServerFrame] | None:
        frames, writers = self._held.get(since, (None, ()))
        return None if replica in writers else frames

    def put(self, since: int, frames: list[ServerFrame], entries: Iterable[Entry]) -> None:
        self._held[since] = frames, {entry.replica for entry in entries}


def parts(registers: Iterable[Change], limits: FrameLimits, seq: int = 0) -> Iterator[Part]:
    """Registers in frames of bounded size. Those of a transaction, whose `seq` is given, count themselves."""
    part, size = Part([], seq=seq, n=1 if seq else 0), 0
    for register in registers:
        if part.registers and (size > limits.frame_bytes or len(part.registers) >= limits.part_registers):
            yield part
            part, size = Part([], seq=seq, n=part.n + 1 if seq else 0), 0
        part.registers.append(messages.register_to_wire(register))
        size += messages.wire_bytes(register)
    if part.registers:
        yield part


def pokes(poke: Poke, entries: Iterable[Told], limits: FrameLimits) -> Iterator[Part | Poke]:
    """A poke with these transactions; what a large one has set goes before it in parts."""
    size = 0
    for entry in entries:
        body = entry.body
        size += len(body)
        if len(body) > limits.frame_bytes // 2 or size > 2 * limits.frame_bytes:
            for part in parts(entry.registers, limits, entry.entry.seq):
                poke.parts += 1
                yield part
            body = entry.without([])
        poke.transactions.append(msgspec.Raw(body))
        poke.at = max(poke.at, entry.entry.at)
    if poke.reset:  # the load has it all
        poke.receipts = [
            msgspec.structs.replace(r, current=[], absent=[], reload=False) for r in poke.receipts
        ]
    yield poke
