"""A store in one process: writes, bulk load, a cold join, a live query, at 1,000 and 100,000 entities."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas

import tripleweb

JOIN = """[:find ?title ?name :where [?p :post/score ?s] [(> ?s 90)] [?p :post/title ?title]
           [?p :post/author ?u] [?u :user/name ?name]]"""


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    with tripleweb.open() as db:
        figures["writes_in_memory_per_s"] = _rate(lambda i: db.set(f"e{i % 1000}", "user/age", i), 5_000)
    with tempfile.TemporaryDirectory() as folder, tripleweb.open(Path(folder) / "bench.tripleweb") as db:
        figures["writes_durable_one_by_one_per_s"] = _rate(
            lambda i: db.set(f"e{i % 1000}", "user/age", i), 2_000
        )
        began = time.perf_counter()
        with db.transaction():
            for i in range(20_000):
                db.set(f"e{i}", "user/name", "x")
        figures["writes_durable_in_a_transaction_per_s"] = 20_000 / (time.perf_counter() - began)
    for entities in (1_000, 100_000):
        with tripleweb.open() as db:
            began = time.perf_counter()
            triples = _load(db, entities)
            figures[f"bulk_load_triples_per_s_{entities}"] = triples / (time.perf_counter() - began)
            began = time.perf_counter()
            rows = len(db.q(JOIN))
            figures[f"cold_join_ms_{entities}"] = (time.perf_counter() - began) * 1e3
            assert rows > 0
            live = db.live(JOIN)
            assert len(live.df) == rows
            times = []
            for i in range(10):
                began = time.perf_counter()
                db.set("p7", "post/score", 95 + i % 2)
                assert len(live.df) >= rows
                times.append((time.perf_counter() - began) * 1e3)
            figures[f"live_update_to_frame_ms_{entities}"] = statistics.median(times)
    return figures


def _rate(write: Callable[[int], object], n: int) -> float:
    began = time.perf_counter()
    for i in range(n):
        write(i)
    return n / (time.perf_counter() - began)


def _load(db: tripleweb.Database, entities: int) -> int:
    users = max(1, entities // 10)
    db.insert_frame(
        "user",
        pandas.DataFrame(
            {"key": [f"u{i}" for i in range(users)], "name": [f"user {i}" for i in range(users)]}
        ),
        id="key",
    )
    posts = pandas.DataFrame(
        {
            "key": [f"p{i}" for i in range(entities)],
            "title": [f"post {i}" for i in range(entities)],
            "score": [i % 101 for i in range(entities)],
            "author": [f"u{i % users}" for i in range(entities)],
        }
    )
    db.insert_frame("post", posts, id="key")
    return users * 2 + entities * 4
