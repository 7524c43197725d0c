"""tripleweb's side of the sync bench: the writer and the readers of its protocol, spoken by hand.

`python -m tests.bench.sync.own ROLE PORT FOLDER`: `FOLDER` is the server's, where it has left its token.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.sync import minimal
from tests.bench.sync.minimal import Write
from tests.bench.sync.role import now_us
from tripleweb import places
from tripleweb.ids import nano_id, replica_id

APP = "bench"


class _Transaction(msgspec.Struct, array_like=True, gc=False):
    seq: int
    by: str
    stamp: str
    changes: list[tuple[str, str, str, str, Any]]


class _Receipt(msgspec.Struct):
    number: int
    outcome: str


class _Welcome(msgspec.Struct, tag_field="t", tag="welcome"):
    features: list[str] = []


class _Part(msgspec.Struct, tag_field="t", tag="part"):
    registers: list[tuple[str, str, str, str, Any, str]]


class _Poke(msgspec.Struct, tag_field="t", tag="poke"):
    epoch: str
    seq: int
    cursors: dict[str, int | None] = {}
    transactions: list[_Transaction] = []
    receipts: list[_Receipt] = []


class _Fault(msgspec.Struct, tag_field="t", tag="fault"):
    code: str
    message: str


_decode = msgspec.json.Decoder(_Welcome | _Part | _Poke | _Fault).decode
_encode = msgspec.json.encode


class OwnClient(minimal.Client):
    """A replica that keeps nothing but its registers."""

    token = ""

    def __init__(self) -> None:
        super().__init__()
        self.replica = replica_id(os.urandom)
        self.features: list[str] = []
        self._random = random.Random(self.replica).randbytes
        self._time = 0

    async def join(self, port: int, subscribed: bool = True) -> None:
        headers = {"Authorization": f"tripleweb {self.token}"}
        await self.connect(port, f"/api/tripleweb/v1/apps/{APP}/sync", headers)
        self.send(_encode(self.hello(subscribed)))

    def hello(self, subscribed: bool) -> dict[str, Any]:
        return {
            "t": "hello",
            "protocol": [2, 2],
            "replica": self.replica,
            "incarnation": "x",
            "next": 1,
            "confirmed": 0,
            "now": time.time_ns() // 1_000_000,
            "subscriptions": [self.subscription()] if subscribed else [],
        }

    async def subscribe(self) -> None:
        self.send(_encode({"t": "subscribe", "subscription": self.subscription()}))

    def subscription(self) -> dict[str, Any]:
        asked = {"id": "app", "kind": "triples"}
        return asked if self.cursor is None else {**asked, "cursor": self.cursor}

    def write(self, writes: Sequence[Write]) -> bytes:
        self._time = max(self._time + 1, time.time_ns() // 1_000_000 << 16)
        transaction = {
            "number": self.sent,
            "id": nano_id(self._random),
            "stamp": f"{self._time:016x}-{self.replica}",
            "changes": writes,
        }
        return _encode({"t": "push", "transactions": [transaction]})

    def on_message(self, data: bytes) -> None:
        frame = _decode(data)
        if type(frame) is _Poke:
            self._poke(frame)
        elif type(frame) is _Part:
            store = self.store
            for subject, predicate, slot, _, value, stamp in frame.registers:
                fields = store.get(subject)
                if fields is None:
                    fields = store[subject] = {}
                key = (predicate, slot) if slot else predicate
                held = fields.get(key)
                if held is None or stamp >= held[1]:
                    fields[key] = (value, stamp)
        elif type(frame) is _Welcome:
            self.features = frame.features
        else:
            print(frame, file=sys.stderr, flush=True)

    def _poke(self, poke: _Poke) -> None:
        store, count = self.store, 0
        for transaction in poke.transactions:
            stamp = transaction.stamp
            for subject, predicate, slot, _, value in transaction.changes:
                fields = store.get(subject)
                if fields is None:
                    fields = store[subject] = {}
                key = (predicate, slot) if slot else predicate
                held = fields.get(key)
                if held is None or stamp >= held[1]:
                    fields[key] = (value, stamp)
                count += 1
        if self.delays is not None:
            now = now_us()
            self.delays.extend(now - change[4] for each in poke.transactions for change in each.changes)
        self.cursor = poke.epoch, poke.seq
        if count:
            self.took(count)
        if poke.receipts:
            assert all(receipt.outcome == "applied" for receipt in poke.receipts), poke.receipts
            self.send(b'{"t":"confirm","number":%d}' % poke.receipts[-1].number)
            self.acknowledge(poke.receipts[-1].number)
        if poke.cursors:
            self.joined.set()


def token(folder: Path) -> str:
    """Of the server that has this folder."""
    left = places.announced(folder)
    assert left is not None, f"no server has left its address in {folder}"
    return str(left["token"])


if __name__ == "__main__":
    role, port, folder = sys.argv[1:4]
    OwnClient.token = token(Path(folder))
    minimal.run(OwnClient, role, int(port))
