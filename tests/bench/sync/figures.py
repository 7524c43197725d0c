"""What is measured of an engine, each figure on a server that begins empty.

burst       1,000 writes on 1,000 entities, one message and one transaction each, sent without waiting: until every one
            of so many clients has all of them, and until the writer has been told of all of them
sustained   bursts, the next one as soon as everybody has the last, for so many seconds
paced       100 writes a second: from a write to each client's having it
fresh       a client that has nothing, until it has 126 thousand triples as dicts
catch_up    a client that has missed so many changes of as many entities (10,000 in transactions of 500, 1,000 singly)
memory      what the server's memory grows by with each connection that hears everything
durable     (tripleweb) the server is killed in the middle of bursts: what it had acknowledged must be there
real        (tripleweb) real clients instead of minimal ones
loads       (tripleweb) a client asks for 126 thousand triples while it hears others: how long that takes, and what it
            does to the delay of what it hears; and the same content over HTTP
subscriptions (tripleweb) 1,000 queries of few shapes, and one: see `asked.py`
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.live.workload import REFERENCES, entities
from tests.bench.sync.asked import asked
from tests.bench.sync.installed import ROOT, Words, environment
from tests.bench.sync.kid import Broken, Kid

Figure = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    clients: Sequence[int] = (1, 10, 50, 200)
    writes: int = 1_000  # in a burst
    bursts: int = 7
    seconds: float = 30  # of what is sustained
    paced: int = 600  # writes
    paced_clients: Sequence[int] = (1, 10, 50)
    users: int = 1_000  # of the fresh client's data, 126 triples each
    repetitions: int = 5  # of fresh clients and of catching up
    missed: Sequence[int] = (1_000, 10_000)
    connections: int = 200  # of which memory is measured
    kills: int = 5
    real_clients: int = 10
    subscriptions: int = 1_000
    asked_users: int = 10_000  # of the data that these ask for some of
    asked_changes: int = 5_000
    quiet_s: float = 0.3  # without work, before a server counts as being at rest


QUICK = Sizes(
    clients=(1, 3), writes=100, bursts=2, seconds=0.2, paced=20, paced_clients=(1, 3), users=10, repetitions=2,
    missed=(20, 50), connections=10, kills=1, real_clients=2, subscriptions=20, asked_users=20, asked_changes=50,
    quiet_s=0.1,
)  # fmt: skip


class Engine:
    """One engine's processes, and what is measured with them."""

    def __init__(self, name: str, words: Words, sizes: Sizes) -> None:
        self.name, self.sizes = name, sizes
        self._words = words

    @contextmanager
    def running(self) -> Iterator[Cast]:
        """A server with an empty folder; whoever plays with it ends with it."""
        with tempfile.TemporaryDirectory(prefix="tripleweb-bench-") as folder:
            cast = Cast(self._words, Path(folder))
            try:
                yield cast
            finally:
                cast.end()

    # -- figures

    def burst(self) -> Figure:
        return {str(k): self._tried(self._burst, k) for k in self.sizes.clients}

    def _tried(self, figure: Callable[[int], Figure], k: int) -> Figure:
        try:
            return figure(k)
        except Broken as error:
            return {"error": str(error)}

    def _burst(self, k: int) -> Figure:
        with self.running() as cast:
            writer, reader = self._audience(cast, k)
            told = []
            for number in range(1, self.sizes.bursts + 1):
                told.append(self._one_burst(cast.server, writer, reader, number))
                if told[-1]["seconds"] > 10 and number >= 2:
                    break
        rates = [one["delivered_per_s"] for one in told]
        figure = {
            "delivered_per_s": round(statistics.median(rates)),
            "least": round(min(rates)),
            "most": round(max(rates)),
            "server_cpu_us": round(statistics.median(one["cpu_us"] for one in told), 1),
            "n": len(told),
        }
        if acknowledged := [one["acknowledged_per_s"] for one in told if "acknowledged_per_s" in one]:
            figure["acknowledged_per_s"] = round(statistics.median(acknowledged))
        if bytes_in := [one["bytes"] for one in told if one["bytes"] is not None]:
            figure["bytes_a_change"] = round(statistics.median(bytes_in), 1)
        return figure

    def _audience(self, cast: Cast, k: int, kind: str = "") -> tuple[Kid, Kid]:
        """A writer, and k clients that have what there is."""
        plain = cast.play("writer")
        plain.ask("insert", "done", n=self.sizes.writes)
        writer = cast.play(f"{kind}writer") if kind else plain
        reader = cast.play(f"{kind}reader")
        reader.ask("sub", "subbed", k=k, n=self.sizes.writes)
        cast.server.settle(self.sizes.quiet_s)
        return writer, reader

    def _one_burst(self, server: Kid, writer: Kid, reader: Kid, number: int) -> Figure:
        writes = self.sizes.writes
        reader.ask("expect", "armed", n=writes, v=number)
        before = server.cpu_s()
        writer.say("burst", n=writes, v=number)
        began = writer.get("t0")["t0"]
        told = reader.get("t", 120)
        seconds = (told["t"] - began) / 1e6
        one = {
            "delivered_per_s": writes / seconds,
            "seconds": seconds,
            "bytes": told["bytes"],
            "cpu_us": (server.cpu_s() - before) * 1e6 / writes,
        }
        if self.name in ("tripleweb", "relay"):
            said = writer.get("acknowledged")
            one["acknowledged_per_s"] = writes / ((said["t"] - began) / 1e6)
        return one

    def sustained(self) -> Figure:
        return {str(k): self._tried(self._sustained, k) for k in self.sizes.clients}

    def _sustained(self, k: int) -> Figure:
        with self.running() as cast:
            writer, reader = self._audience(cast, k)
            used, began, number = cast.server.cpu_s(), time.monotonic(), 0
            rss = cast.server.rss()
            while time.monotonic() - began < self.sizes.seconds:
                number += 1
                self._one_burst(cast.server, writer, reader, number)
            seconds = time.monotonic() - began
            return {
                "delivered_per_s": round(number * self.sizes.writes / seconds),
                "server_cpu_share": round((cast.server.cpu_s() - used) / seconds, 2),
                "server_grew_mb": round((cast.server.rss() - rss) / 1e6, 1),
                "n": number * self.sizes.writes,
            }

    def paced(self) -> Figure:
        return {str(k): self._tried(self._paced, k) for k in self.sizes.paced_clients}

    def _paced(self, k: int) -> Figure:
        with self.running() as cast:
            return self._delays(cast.server, *self._audience(cast, k), k)

    def _delays(self, server: Kid, writer: Kid, reader: Kid, k: int) -> Figure:
        writer.ask("paced", "done", n=100, rate=100)  # warm
        server.settle(self.sizes.quiet_s)
        reader.ask("listen", "armed")
        used = server.cpu_s()
        writer.ask("paced", "done", n=self.sizes.paced, rate=100)
        used = server.cpu_s() - used
        told = reader.ask("delays", "delays", n=self.sizes.paced)
        delays = sorted(told["delays"])
        if len(delays) < self.sizes.paced * k * 0.9:
            raise Broken(f"{len(delays)} of {self.sizes.paced * k} deliveries were seen")
        figure = {
            "p50_ms": _at(delays, 0.5),
            "p99_ms": _at(delays, 0.99),
            "least_ms": delays[0] / 1e3,
            "server_cpu_us": round(used * 1e6 / self.sizes.paced, 1),
            "n": len(delays),
        }
        if told["bytes"] is not None:
            figure["bytes_a_change"] = round(told["bytes"], 1)
        return figure

    def fresh(self) -> Figure:
        """A fresh client, and after it one that comes back."""
        with self.running() as cast:
            posts = cast.load(self.sizes.users, 3 * self.sizes.quiet_s)
            reader = cast.play("reader")
            told = [reader.ask("fresh", "t") for _ in range(self.sizes.repetitions)]
            figure = _times(told)
            if "synced" in told[0]:  # as opposed to having it as dicts
                figure["synced_s"] = round(statistics.median(one["synced"] for one in told), 3)
            figure["triples"], figure["loaded_s"] = told[-1]["n"], round(cast.loaded_s, 2)
            figure["catch_up"] = {}
            for missed in self.sizes.missed:
                ids = (posts * (missed // len(posts) + 1))[:missed] if missed > len(posts) else posts[:missed]
                figure["catch_up"][str(missed)] = self._catch_up(cast, reader, list(dict.fromkeys(ids)))
        return figure

    def _catch_up(self, cast: Cast, reader: Kid, ids: list[str]) -> Figure:
        told = []
        writer = cast.playing["writer"]
        for number in range(self.sizes.repetitions):
            reader.ask("off", "off")
            value = 1_000_000 + 1_000 * len(ids) + number
            writer.ask("touch", "done", ids=ids, v=value, each=1 if len(ids) <= 1_000 else 500)
            cast.server.settle(2 * self.sizes.quiet_s)
            told.append(reader.ask("on", "t", ids=ids, v=value))
        if told[-1]["n"] != len(ids):
            return {"error": f"{told[-1]['n']} of {len(ids)} changes arrived"}
        return _times(told)

    def memory(self) -> Figure:
        """Bytes a connection, and of it a subscription where the two can be told apart."""
        with self.running() as cast:
            writer, count = cast.play("writer"), self.sizes.connections
            writer.ask("insert", "done", n=10)
            reader = cast.play("reader")
            reader.ask("sub", "subbed", k=2, n=10)
            cast.server.settle(self.sizes.quiet_s)
            before = cast.server.rss()
            if self.name not in ("tripleweb", "relay"):
                reader.ask("sub", "subbed", k=count, n=10)
                cast.server.settle(self.sizes.quiet_s)
                return {"bytes_a_connection": round((cast.server.rss() - before) / count)}
            reader.ask("connect", "connected", k=count)
            cast.server.settle(self.sizes.quiet_s)
            connected = cast.server.rss()
            reader.ask("subscribe", "subbed")
            cast.server.settle(self.sizes.quiet_s)
            subscribed = cast.server.rss()
        return {
            "bytes_a_connection": round((subscribed - before) / count),
            "of_it_bytes_a_subscription": round((subscribed - connected) / count),
        }

    def durable(self) -> Figure:
        """What was acknowledged, and what of it is on disk after the server was killed in the middle of bursts."""
        from tests.bench.sync.own import APP
        from tripleweb.storage.sqlite import SqliteStores

        acknowledged = lost = 0
        for kill in range(self.sizes.kills):
            with self.running() as cast:
                writer, _ = self._audience(cast, 1)
                writer.say("burst", n=20 * self.sizes.writes, v=7)
                writer.get("t0")
                deadline = time.monotonic() + 0.05 + 0.03 * kill
                while time.monotonic() < deadline:
                    time.sleep(0.001)
                cast.server.kill()
                told = writer.get("acknowledged")["acknowledged"]
                stores = SqliteStores(cast.folder)
                rows = stores.open(APP).load(tail=0).replicas.values()
                stores.close()
                acknowledged += told
                lost += max(0, told - max(row.last for row in rows))
        return {"acknowledged": acknowledged, "lost": lost, "kills": self.sizes.kills}

    def real(self) -> Figure:
        """From `db.set` to a callback of another client; bursts to ten of them."""
        with self.running() as cast:
            writer, reader = self._audience(cast, 1, "real-")
            figure = {"callback": self._delays(cast.server, writer, reader, 1)}
        with self.running() as cast:
            writer, reader = self._audience(cast, self.sizes.real_clients, "real-")
            told = [self._one_burst(cast.server, writer, reader, n) for n in range(1, self.sizes.bursts + 1)]
        rates = [one["delivered_per_s"] for one in told]
        figure[f"burst_{self.sizes.real_clients}"] = {
            "delivered_per_s": round(statistics.median(rates)),
            "least": round(min(rates)),
            "most": round(max(rates)),
            "acknowledged_per_s": round(statistics.median(one["acknowledged_per_s"] for one in told)),
        }
        return figure

    def loads(self) -> Figure:
        """Quiet and busy are 100 writes a second before and during a load, both heard by who loads."""
        figure: Figure = {}
        with self.running() as cast:
            cast.load(self.sizes.users, 3 * self.sizes.quiet_s)
            writer = cast.playing["writer"]
            writer.ask("insert", "done", n=100)
            loader = cast.play("loader")
            for way in ("load", "fetch"):
                told = []
                for _ in range(self.sizes.repetitions):
                    loader.say(way, heard=self.sizes.paced // 6)
                    loader.get("armed")
                    writer.say("paced", n=self.sizes.paced // 2, rate=100)
                    told.append(loader.get("seconds"))
                    writer.get("done")
                named = figure["over the socket" if way == "load" else "over HTTP"] = {
                    name: _spread_of([d for one in told for d in one[name]]) for name in ("quiet", "busy")
                }
                named["median_ms"] = round(statistics.median(one["seconds"] for one in told) * 1e3, 1)
                named["triples"] = told[-1]["triples"]
        return figure

    def subscriptions(self) -> Figure:
        """Without sockets: what the core does for a change, and the bytes that leave."""
        return asked(self.sizes.asked_users, self.sizes.subscriptions, self.sizes.asked_changes)


class Cast:
    """A server, and who was asked to play with it."""

    def __init__(self, words: Words, folder: Path) -> None:
        self.folder = folder
        self._words = words
        self._port = _free_port()
        self.playing: dict[str, Kid] = {}
        self.loaded_s = 0.0
        self.server = self._start("server")
        self.server.first_line()

    def _start(self, role: str) -> Kid:
        kid = self.playing[role] = Kid(self._words(role, self._port, self.folder), ROOT, environment())
        return kid

    def play(self, role: str) -> Kid:
        """A new process that is ready."""
        kid = self._start(role)
        kid.get("ready", 60)
        return kid

    def load(self, users: int, quiet_s: float) -> list[str]:
        """The data of the live bench into the server; returns the ids of its posts."""
        those = list(entities(users))
        for name, content in (("writes.json", writes_of(those)), ("entities.json", those)):
            (self.folder / name).write_text(json.dumps(content), encoding="utf-8")
        paths = {"path": str(self.folder / "writes.json"), "entities": str(self.folder / "entities.json")}
        self.loaded_s = self.play("writer").ask("load", "loaded", **paths)["loaded"]
        self.server.settle(quiet_s)
        return [entity["id"] for entity in those if entity["type"] == "post"]

    def end(self) -> None:
        for kid in reversed(list(self.playing.values())):
            kid.kill()


def writes_of(those: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """The entities as writes of single fields: [subject, predicate, slot, kind, value]."""
    made: list[list[Any]] = []
    for entity in those:
        subject, kind = entity["id"], entity["type"]
        for field, value in entity.items():
            if field in ("id", "type"):
                continue
            for one in value if isinstance(value, list) else [value]:
                letter = "r" if field in REFERENCES else "b" if isinstance(one, bool) else "n"
                letter = "s" if isinstance(one, str) and letter == "n" else letter
                slot = f"r:{one}" if isinstance(value, list) else ""
                made.append([subject, f"{kind}/{field}", slot, letter, one])
    return made


def names() -> list[str]:
    """The figures that there are, in the order in which they are measured."""
    text = __doc__ or ""
    found = re.findall(r"^(\w+) +\S", text, re.MULTILINE)
    return [name for name in found if hasattr(Engine, name)]


ONLY_OWN = ("durable", "real", "loads", "subscriptions")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _at(ordered: Sequence[int], share: float) -> float:
    """A quantile of microseconds, in milliseconds."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3, 3)


def _spread_of(delays: list[int]) -> Figure:
    """Of microseconds."""
    if not delays:
        return {"n": 0}
    delays.sort()
    return {"p50_ms": _at(delays, 0.5), "p99_ms": _at(delays, 0.99), "n": len(delays)}


def _times(told: Sequence[Figure]) -> Figure:
    times = [one["t"] for one in told]
    return {"median_ms": round(statistics.median(times) * 1e3, 1), "least_ms": round(min(times) * 1e3, 1)}
