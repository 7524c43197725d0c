"""A server in a process of its own thread: write to the other session's callback, and how long a page waits while a
runaway query runs."""

from __future__ import annotations

import json
import statistics
import threading
import time
import urllib.error
import urllib.request

import tripleweb
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer

RUNAWAY = "[:find (count ?a) . :where [?a :user/age ?x] [?b :user/age ?y] [(< ?x ?y)]]"


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    with WebServer(MemoryStores(), owner="bench") as server:
        options = {"url": server.url, "token": server.token, "path": ":memory:"}
        with tripleweb.connect("bench", **options) as writer, tripleweb.connect("bench", **options) as reader:
            with writer.transaction():
                for i in range(5_000):
                    writer.set(f"u{i}", "user/age", i)
            writer.flush(60)
            seen = threading.Event()
            live = reader.live("[:find ?v . :where [_ :probe/v ?v]]")
            live.on_change(lambda *_: seen.set())
            times = []
            for i in range(200):
                seen.clear()
                began = time.perf_counter()
                writer.set("e", "probe/v", i)
                assert seen.wait(10)
                times.append((time.perf_counter() - began) * 1e3)
            figures["write_to_callback_ms_p50"], figures["write_to_callback_ms_p99"] = _percentiles(times)
            figures["page_ms_p50"], figures["page_ms_p99"] = _percentiles([_page(server) for _ in range(200)])
            query = threading.Thread(target=_ask, args=(server,))
            query.start()
            times = []
            while query.is_alive():
                times.append(_page(server))
            figures["page_under_runaway_query_ms_p50"], figures["page_under_runaway_query_ms_p99"] = (
                _percentiles(times)
            )
            figures["pages_under_runaway_query"] = len(times)
    return figures


def _request(server: WebServer, path: str, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        f"{server.url}api/tripleweb/v1/{path}", data, {"Authorization": f"tripleweb {server.token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def _page(server: WebServer) -> float:
    began = time.perf_counter()
    _request(server, "info")
    return (time.perf_counter() - began) * 1e3


def _ask(server: WebServer) -> None:
    try:
        _request(server, "apps/bench/query", json.dumps({"query": RUNAWAY, "inputs": []}).encode())
    except urllib.error.HTTPError as error:
        assert error.code == 422, error


def _percentiles(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
