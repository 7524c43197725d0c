"""What it costs that replicas hear of what they asked for, and nothing else: one server core, in this process.

So many replicas, each with one query of a few shapes about another user; a writer changes posts, comments and names.
Told are the microseconds of the core for a change (taking it, deciding it, committing it in memory, and the frames that
leave, encoded), the bytes that leave for it, and what would leave if each replica heard every change of each predicate
that its query reads. And one replica alone, which asks for one user's posts: what it holds, of how much.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.live.workload import REFERENCES, entities
from tripleweb.change import Change
from tripleweb.datalog.query import parse
from tripleweb.ids import nano_id, replica_id
from tripleweb.sync import messages
from tripleweb.sync.messages import Hello, Poke, Push, PushedTransaction, Subscription
from tripleweb.sync.records import TenantState
from tripleweb.sync.server import Actor, TenantCore
from tripleweb.terms import Ref, Value

NOW_MS = 1_700_000_000_000
SHAPES = (
    "[:find ?t ?s :in $ ?u :where [?p :post/authorId ?u] [?p :post/title ?t] [?p :post/score ?s]]",
    """[:find ?t ?n :in $ ?u :where [?p :post/authorId ?u] [?p :post/title ?t] [?c :comment/postId ?p]
        [?c :comment/authorId ?a] [?a :user/name ?n]]""",
    "[:find ?n :in $ ?m :where [?u :user/managerId ?m] [?u :user/name ?n] (not [_ :comment/authorId ?u])]",
)


def asked(users: int, subscriptions: int, changes: int) -> dict[str, Any]:
    """The figure."""
    told: dict[str, Any] = {}
    for count in (subscriptions // 10, subscriptions):
        told[str(count)] = _Run(users).follow(count, changes)
    few, many = told[str(subscriptions // 10)], told[str(subscriptions)]
    told["a change costs, times that of a tenth"] = round(many["core_us"] / few["core_us"], 2)
    told["one user's posts"] = _Run(users).alone()
    return told


class _Run:
    """A core with the data, and whoever connects to it."""

    def __init__(self, users: int) -> None:
        self._values = dict[tuple[str, str], Value]()
        registers = list(self._registers(users))
        self.triples = len(registers)
        state = TenantState("e1", registers=registers, time=1)
        self.core = TenantCore(state, server_id="s1", random_bytes=os.urandom)
        self.users = [s for s, p in self._values if p == "user/name"]
        self.posts = [s for s, p in self._values if p == "post/score"]
        self.comments = [s for s, p in self._values if p == "comment/authorId"]

    def _registers(self, users: int) -> Iterator[Change]:
        for entity in entities(users):
            for name, raw in entity.items():
                if name in ("id", "type"):
                    continue
                predicate = f"{entity['type']}/{name}"
                several = raw if isinstance(raw, list) else [raw]
                for value in [Ref(one) if name in REFERENCES else one for one in several]:
                    place = messages.slot(value) if isinstance(raw, list) else ""
                    self._values[entity["id"], predicate] = value
                    yield Change(entity["id"], predicate, place, value, 1, "0" * 12)

    def join(self, conn: int, *subscriptions: Subscription) -> str:
        replica = replica_id(os.urandom)
        self.core.connect(conn, Actor(f"user {conn}"), NOW_MS)
        hello = Hello(
            (messages.PROTOCOL,) * 2,
            replica,
            "x",
            1,
            0,
            NOW_MS,
            features=[messages.LINEAGE],
            subscriptions=list(subscriptions),
        )
        self.core.receive(conn, hello, NOW_MS)
        return replica

    def settle(self) -> int:
        """Does all there is to do; the bytes that leave, of the writer's receipts besides."""
        size, core = 0, self.core
        while True:
            commit = core.take_commit()
            if commit is not None:
                core.committed(commit, NOW_MS)
            frames = core.frames_to_send()
            size += sum(len(messages.encode(frame)) for conn, frame in frames if conn)
            if core.is_heavy:
                core.evaluate()
            elif not (core.has_work() and core.step()) and not frames and commit is None:
                return size

    def follow(self, count: int, changes: int) -> dict[str, Any]:
        replica, rng = self.join(0), random.Random(7)
        read: dict[str, int] = {}
        began = time.perf_counter()
        size = 0
        for n in range(count):
            text = SHAPES[n % len(SHAPES)]
            user = self.users[n * 7919 % len(self.users)]
            self.join(n + 1, Subscription("q", query=text, inputs=[("s", user)]))
            for predicate in parse(text).predicates or ():
                read[predicate] = read.get(predicate, 0) + 1
            size += self.settle()
        joined = time.perf_counter() - began
        times, sent, whole, told = [], 0, 0, 0
        for number in range(1, changes + 1):
            subject, predicate, value = self._change(rng)
            stamp = f"{(NOW_MS + number) << 16:016x}-{replica}"
            change = (subject, predicate, "", *messages.to_wire(value))
            push = Push([PushedTransaction(number, nano_id(rng.randbytes), stamp, [change])])
            began = time.perf_counter()
            self.core.receive(0, push, NOW_MS + number)
            left = self.settle()
            times.append((time.perf_counter() - began) * 1e6)
            sent, told = sent + left, told + bool(left)
            poke = Poke("e1", number, number, {}, [messages.msgspec.Raw(self._last())])
            whole += len(messages.encode(poke)) * read.get(predicate, 0)
        return {
            "core_us": round(statistics.median(times), 1),
            "core_mean_us": round(statistics.fmean(times), 1),
            "bytes": sent,
            "bytes of whole predicates": whole,
            "times fewer bytes": round(whole / sent) if sent else None,
            "changes that reach somebody": told,
            "n": changes,
            "load_ms": round(joined / count * 1e3, 2),
            "load_bytes": round(size / count),
        }

    def _last(self) -> bytes:
        tail = self.core.readers.tail
        return tail.between(tail.seq - 1, tail.seq)[0].body

    def _change(self, rng: random.Random) -> tuple[str, str, Value]:
        """As people write: scores mostly, titles, authors of comments and of posts, names."""
        chance = rng.random()
        if chance < 0.6:
            return rng.choice(self.posts), "post/score", rng.randrange(101)
        if chance < 0.75:
            return rng.choice(self.posts), "post/title", f"Retitled {rng.randrange(10**6)}"
        if chance < 0.9:
            return rng.choice(self.comments), "comment/authorId", Ref(rng.choice(self.users))
        if chance < 0.95:
            return rng.choice(self.posts), "post/authorId", Ref(rng.choice(self.users))
        return rng.choice(self.users), "user/name", f"Renamed {rng.randrange(10**6)}"

    def alone(self) -> dict[str, Any]:
        """One replica that asks for one user's posts: bytes, and whose posts it was sent."""
        user = self.users[len(self.users) // 2]
        self.join(1, Subscription("q", query=SHAPES[0], inputs=[("s", user)]))
        places, size = set(), 0
        while True:
            frames = self.core.frames_to_send()
            for _, frame in frames:
                size += len(messages.encode(frame))
                if isinstance(frame, messages.Part):
                    places.update(register[:2] for register in frame.registers)
            if self.core.is_heavy:
                self.core.evaluate()
            elif not (self.core.has_work() and self.core.step()) and not frames:
                break
        others = [s for s, _ in places if self._values.get((s, "post/authorId")) != user]
        whole = sum(messages.wire_bytes(register) for register in self.core.store.registers())
        return {
            "triples": len(places),
            "of others": len(others),
            "of": self.triples,
            "bytes": size,
            "percent of all bytes": round(100 * size / whole, 4),
        }
