"""The newest part of the log, in memory: those who were away are caught up from it, and copies are recognised by it.

Here also stands how what is sent is cut into frames of bounded size.

Invariant: `entries` are the log from `floor` (not included) to `seq`, without a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from tripleweb.change import Change
from tripleweb.sync import messages
from tripleweb.sync.messages import Part, Poke, Receipt
from tripleweb.sync.records import Entry


class FrameLimits(Protocol):
    """Where frames are cut."""

    @property
    def poke_transactions_max(self) -> int: ...
    @property
    def part_registers(self) -> int: ...
    @property
    def frame_bytes(self) -> int: ...


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

    def between(self, since: int, upto: int) -> list[Entry]:
        """The entries after `since` up to `upto`, both at or above the floor."""
        return self._entries[since - self.floor : upto - self.floor]

    def stretch(
        self, since: int, durable: int, receipts: list[Receipt], least: int, limits: FrameLimits
    ) -> tuple[int, list[Receipt]]:
        """(upto, the receipts told): how far the next poke goes. A receipt goes with the poke that reaches the point
        where it was decided, for what it says is true of that point. `least`: so far it must reach, whatever its
        size, since the load that goes with it does."""
        upto, size = min(durable, since + limits.poke_transactions_max), 0
        for entry in self.between(since, upto):
            size += len(entry.body)
            if size > limits.frame_bytes and entry.seq > since + 1:
                upto = entry.seq - 1
                break
        upto, told, size = max(upto, least), 0, 0
        for receipt in receipts:
            if receipt.seq > upto:
                break
            size += len(messages.encode(receipt)) if receipt.current or receipt.absent else 0
            if told and size > limits.frame_bytes and not least:
                # this one may be of the very entry at its seq, unless an earlier one is
                upto = max(since, receipt.seq - (receipts[told - 1].seq < receipt.seq))
                break
            told += 1
        return upto, receipts[:told]


def parts(registers: Iterable[Change], limits: FrameLimits) -> Iterator[Part]:
    """Registers in frames of bounded size."""
    part, size = Part([]), 0
    for register in registers:
        if part.registers and (size > limits.frame_bytes or len(part.registers) >= limits.part_registers):
            yield part
            part, size = Part([]), 0
        part.registers.append(messages.register_to_wire(register))
        size += messages.wire_bytes(register)
    if part.registers:
        yield part


def pokes(
    epoch: str,
    since: int,
    upto: int,
    entering: dict[str, int | None],
    entries: list[Entry],
    receipts: list[Receipt],
    limits: FrameLimits,
    loaded: int = 0,
) -> Iterator[Part | Poke]:
    """A poke; what a large transaction has set goes before it in parts. `loaded`: parts that have gone already."""
    transactions = []
    for entry in entries:
        body = entry.body
        if len(body) > limits.frame_bytes // 2:
            for n, part in enumerate(parts(entry.registers, limits), 1):
                loaded += 1
                part.seq, part.n = entry.seq, n
                yield part
            body = messages.encode(msgspec.structs.replace(messages.decode_committed(body), changes=[]))
        transactions.append(msgspec.Raw(body))
    if None in entering.values():  # the load has it all
        receipts = [msgspec.structs.replace(r, current=[], absent=[], reload=False) for r in receipts]
    yield Poke(epoch, since, upto, dict(entering), transactions, receipts, loaded)
