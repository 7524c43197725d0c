"""A server core and its clients' cores in one process, joined by hand: each frame goes through the wire form.

`settle` lets everything happen; `up`, `commit`, `down` let one thing happen, for those who want to interfere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.sim.disk import ReplicaDisk, TenantDisk
from tripleweb.errors import ProtocolError
from tripleweb.store import Store
from tripleweb.sync import messages
from tripleweb.sync.client import APP, ClientCore, ClientLimits, Update
from tripleweb.sync.messages import Fault, Subscription
from tripleweb.sync.server import Actor, Limits, TenantCore
from tripleweb.transaction import Transaction

NOW_MS = 1_700_000_000_000


def triples(store: Store) -> set[tuple[str, str, Any]]:
    return {(s, p, v) for p in store.predicates() for s, v in store.scan(p)}


class Peer:
    """One client: its core, its disk, the connection it has, everything it was sent."""

    def __init__(
        self, peers: Peers, name: str, user: str, role: str, disk: ReplicaDisk, limits: ClientLimits
    ) -> None:
        self.peers = peers
        self.name = name
        self.user = user
        self.role = role
        self.disk = disk
        self.limits = limits
        self.conn: int | None = None
        self.got: list[messages.ServerFrame] = []
        self.updates: list[Update] = []
        self.ahead_ms = 0  # how far its clock runs ahead
        self.start()

    @property
    def now_ms(self) -> int:
        return self.peers.now_ms + self.ahead_ms

    def start(self) -> None:
        """The process starts (again), from what is on the disk."""
        self.core = ClientCore(self.disk.load(), random_bytes=self.peers.random.randbytes, limits=self.limits)
        self.conn = None

    def copied(self, name: str) -> Peer:
        """A process on a copy of this one's file."""
        twin = Peer(self.peers, name, self.user, self.role, self.disk.copied(), self.limits)
        self.peers.clients.append(twin)
        return twin

    def connect(self, *subscriptions: Subscription, whole: bool = True) -> Peer:
        """`whole`: it subscribes to the whole app if to nothing else."""
        for subscription in subscriptions or ((Subscription(APP),) if whole else ()):
            self.core.subscribe(subscription)
        self.peers.connections += 1
        self.conn = self.peers.connections
        self.peers.note({"connect": self.conn, "user": self.user, "session": self.name, "role": self.role})
        self.peers.server.connect(
            self.conn, Actor(self.user, session=self.name, role=self.role), self.peers.now_ms
        )
        self.core.connected(self.now_ms)
        return self

    def ask(self, name: str, query: str, *inputs: Any, rules: str | None = None) -> None:
        """Subscribes to what a query needs."""
        wire = [messages.input_to_wire(given) for given in inputs]
        self.core.subscribe(Subscription(name, query=query, inputs=wire, rules=rules))

    def disconnect(self, seen_by_server: bool = True) -> None:
        if self.conn is not None and seen_by_server:
            self.peers.note({"disconnect": self.conn})
            self.peers.server.disconnect(self.conn, self.peers.now_ms)
        self.conn = None
        self.core.disconnected()

    def write(self, write: Callable[[Transaction], None], check: messages.Check | None = None) -> str:
        """One transaction; returns its random id. `check`: the query that must have an answer."""
        tx = self.core.begin(self.now_ms)
        write(tx)
        commit = self.core.prepare(tx, check)
        assert commit is not None
        self.disk.save(commit)
        self.core.accept(tx, commit)
        return commit.pending[0].id

    def set(self, subject: str, predicate: str, value: Any) -> str:
        return self.write(lambda tx: tx.set(subject, predicate, value))

    def up(self) -> list[messages.ClientFrame]:
        """What the client sends reaches the server."""
        sent: list[messages.ClientFrame] = []
        if self.conn is not None:
            for frame in self.core.frames_to_send(self.now_ms):
                sent.append(frame)
                self.peers.to_server(self.conn, messages.encode(frame))
        return sent

    def take(self, frame: messages.ServerFrame) -> Update:
        """The client gets a frame, and saves what it has to."""
        self.got.append(frame)
        update = self.core.receive(frame, self.now_ms)
        if update.commit is not None:
            self.disk.save(update.commit)
        self.updates.append(update)
        return update

    def of(self, kind: type) -> list[Any]:
        """The frames of one kind that it got."""
        return [frame for frame in self.got if isinstance(frame, kind)]

    @property
    def receipts(self) -> list[messages.Receipt]:
        return [receipt for update in self.updates for receipt in update.receipts]

    @property
    def triples(self) -> set[tuple[str, str, Any]]:
        return triples(self.core.store)


class Peers:
    """A server and whoever joins it."""

    def __init__(self, limits: Limits | None = None, epoch: str = "e1") -> None:
        self.random = random.Random(7)
        self.limits = limits or Limits()
        self.disk = TenantDisk(epoch)
        self.now_ms = NOW_MS
        self.connections = 0
        self.clients: list[Peer] = []
        self.faults: list[Fault] = []
        self.transcript: list[dict[str, Any]] = []
        self.open()

    def open(self) -> None:
        """The server starts (again), from what is on its disk; connections are gone."""
        for peer in self.clients:
            if peer.conn is not None:
                peer.conn = None
                peer.core.disconnected()
        self.server = TenantCore(
            self.disk.load(self.limits.tail_max),
            server_id="s1",
            random_bytes=self.random.randbytes,
            limits=self.limits,
        )

    def client(
        self, name: str, *, role: str = "writer", user: str | None = None, limits: ClientLimits | None = None
    ) -> Peer:
        peer = Peer(self, name, user or name, role, ReplicaDisk(), limits or ClientLimits())
        self.clients.append(peer)
        return peer

    def join(self, name: str, **how: Any) -> Peer:
        """A new client, connected and caught up."""
        peer = self.client(name, **how).connect()
        self.settle()
        return peer

    def to_server(self, conn: int, data: bytes) -> None:
        self.note({"conn": conn, "client": messages.msgspec.json.decode(data)})
        try:
            self.server.receive(conn, messages.decode_client(data), self.now_ms)
        except ProtocolError as error:
            self.faults.append(Fault(error.code, str(error)))
            self.server.disconnect(conn, self.now_ms)
            for peer in self.clients:
                if peer.conn == conn:
                    peer.conn = None
                    peer.core.disconnected(str(error))

    def commit(self) -> bool:
        """What is decided becomes durable."""
        commit = self.server.take_commit()
        if commit is None:
            return False
        self.disk.commit(commit)
        self.server.committed(commit, self.now_ms)
        return True

    def down(self) -> bool:
        """What the server sends reaches the clients."""
        moved = False
        for conn, frame in self.server.frames_to_send():
            moved = True
            data = messages.encode(frame)
            self.note({"conn": conn, "server": messages.msgspec.json.decode(data)})
            for peer in self.clients:
                if peer.conn == conn:
                    peer.take(messages.decode_server(data))
                    if isinstance(frame, Fault):
                        peer.disconnect()
        return moved

    def settle(self) -> None:
        """Everything happens, until nothing does any more."""
        for _ in range(10_000):
            moved = sum(len(peer.up()) for peer in self.clients) > 0
            moved = self.commit() or moved
            moved = self.down() or moved
            moved = (self.server.has_work() and self.server.step()) or moved
            if self.server.is_heavy:
                self.server.evaluate()
                moved = True
            if not moved:
                return
        raise AssertionError("it never settles")

    def note(self, event: dict[str, Any]) -> None:
        self.transcript.append({"at": self.now_ms, **event})

    def agree(self, *peers: Peer) -> None:
        """All (or the given) clients show what the server has, with nothing pending."""
        for peer in peers or self.clients:
            assert peer.core.pending == 0, f"{peer.name} has {peer.core.pending} pending"
            assert peer.triples == triples(self.server.store), peer.name
