"""A day of changes in the log of one app: what it takes on disk, and how long a first look back takes at a client.

`--changes N` (a million by default; some minutes): 10,000 entities of one kind with four fields, twelve replicas; two
changes of three are transactions by themselves, the others come in transactions of twenty. Commits are made of fifty
transactions, with a rest now and then in which the server folds and archives, as on any day. Then a server is opened
on it, and for each of twenty random moments a client that has nothing asks a query over the whole kind.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tripleweb
from tripleweb.change import SINGLE, Change
from tripleweb.clock import pack, stamp_text
from tripleweb.ids import nano_id
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant
from tripleweb.sync.messages import Committed, change_to_wire, encode
from tripleweb.sync.records import Commit, Entry, ReplicaRow
from tripleweb.web import WebServer

ENTITIES = 10_000
DAY_MS = 86_400_000
BEGAN = int(time.time() * 1_000) - DAY_MS  # it ends now, for what is old is cut off
QUERY = "[:find (count ?u) (avg ?age) :where [?u :user/name ?name] [?u :user/age ?age]]"


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    """Megabytes, seconds."""
    changes = int(flags[1]) if flags else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        stores = SqliteStores(folder)
        tenant = stores.open("app")
        began = time.perf_counter()
        commits, slices = _fill(tenant, changes)
        made = time.perf_counter() - began
        tenant.close()
        sizes = sum(path.stat().st_size for path in Path(folder).glob("app.*"))
        looks = _looks(stores)
    return {
        "changes": changes,
        "MB on disk": round(sizes / 1e6, 1),
        "seconds to make": round(made),
        "commit, ms": _quantiles([1000 * one for one in commits]),
        "slice of background work, ms": _quantiles([1000 * one for one in slices]),
        "first as_of, s": _quantiles(looks),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    order = sorted(values)
    return {
        "p50": round(order[len(order) // 2], 3),
        "p99": round(order[int(len(order) * 0.99)], 3),
        "max": round(order[-1], 3),
    }


def _fill(tenant: SqliteTenant, changes: int) -> tuple[list[float], list[float]]:
    rng = random.Random(1)

    def name(size: int = 21) -> str:
        return nano_id(rng.randbytes, size)

    subjects = [name() for _ in range(ENTITIES)]
    replicas = [f"{rng.randrange(36**11):012d}"[-12:] for _ in range(12)]
    numbers = dict.fromkeys(replicas, 0)
    seq = batch = done = 0
    commits: list[float] = []
    slices: list[float] = []
    while done < changes:
        batch += 1
        commit = Commit(batch, 0, 0)
        for _ in range(50):
            at = BEGAN + DAY_MS * done // changes
            replica = rng.choice(replicas)
            numbers[replica] += 1
            seq += 1
            time_ = pack(at - rng.randrange(30), rng.randrange(3))
            count = 20 if rng.random() < 1 / 41 else 1
            held = {
                (subject, field): Change(subject, f"user/{field}", SINGLE, _value(rng, field), time_, replica)
                for subject, field in (
                    (rng.choice(subjects), rng.choice(["name", "age", "active", "score"]))
                    for _ in range(count)
                )
            }
            registers = tuple(held.values())
            by, wires = f"user {replica[0]}", [change_to_wire(one) for one in registers]
            body = encode(Committed(seq, by, stamp_text(time_, replica), wires))
            entry = Entry(seq, replica, numbers[replica], name(), by, at, body, registers)
            commit.entries.append(entry)
            commit.replicas[replica] = ReplicaRow(by, numbers[replica], numbers[replica], time_)
            done += len(registers)
        commit.seq, commit.time = seq, pack(at)
        began = time.perf_counter()
        tenant.commit(commit)
        commits.append(time.perf_counter() - began)
        if batch % 40 == 0 or done >= changes:
            moved = True
            while moved:
                began = time.perf_counter()
                moved = bool(tenant.fold(500) or tenant.archive())
                slices.append(time.perf_counter() - began)
    return commits, slices


def _value(rng: random.Random, field: str) -> str | int | float | bool:
    if field == "name":
        return f"name {rng.randrange(10**6)}"
    return (
        rng.randrange(100)
        if field == "age"
        else rng.random() < 0.5
        if field == "active"
        else round(rng.random(), 3)
    )


def _looks(stores: SqliteStores) -> list[float]:
    rng = random.Random(2)
    looks = []
    with (
        WebServer(stores, owner="ada") as server,
        tripleweb.connect("app", url=server.url, token=server.token, path=":memory:") as db,
    ):
        db._session.wait_for(lambda: db.status.state == "online", 60)
        db.q("[:find ?x . :where [?x :nothing/here 1]]")
        for _ in range(20):
            moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=BEGAN + rng.randrange(DAY_MS))
            began = time.perf_counter()
            frame = db.as_of(moment).q(QUERY, timeout=120)
            looks.append(time.perf_counter() - began)
            assert len(frame) == 1
    return looks
