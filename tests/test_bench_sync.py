"""The sync bench in small, without peers: what it measures is right, and what goes wrong is told. No time is judged."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.live.installed import NotInstalled
from tests.bench.live.workload import entities, triple_count
from tests.bench.sync import race as races
from tests.bench.sync.figures import QUICK, names, writes_of
from tests.bench.sync.judged import verdicts
from tests.bench.sync.kid import Broken, Kid
from tests.bench.sync.table import tables
from tests.bench.sync.wire import Socket


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    told = races.race(["--quick", "--engines", "tripleweb"])
    relay = races.race(["--quick", "--engines", "relay", "--figures", "burst,fresh"])
    return {**told, "engines": {**told["engines"], **relay["engines"]}}


def test_every_figure_is_measured(told) -> None:
    for engine, facts in told["engines"].items():
        assert "broken" not in facts, facts
        assert "! " not in tables({**told, "engines": {engine: facts}}, []), facts
    own = told["engines"]["tripleweb"]["figures"]
    assert list(own) == names()
    for k in map(str, QUICK.clients):
        assert own["burst"][k]["acknowledged_per_s"] > 0 and own["sustained"][k]["delivered_per_s"] > 0
    for k in QUICK.paced_clients:
        paced = own["paced"][str(k)]
        assert paced["n"] == QUICK.paced * k and 0 < paced["least_ms"] <= paced["p50_ms"] <= paced["p99_ms"]
    assert own["real"]["callback"]["n"] == QUICK.paced


def test_a_fresh_client_has_all_the_data(told) -> None:
    triples = sum(map(triple_count, entities(QUICK.users)))
    for facts in told["engines"].values():
        fresh = facts["figures"]["fresh"]
        assert fresh["triples"] == triples
        assert set(fresh["catch_up"]) == {str(missed) for missed in QUICK.missed}


def test_who_asked_for_little_hears_little(told) -> None:
    subscriptions = told["engines"]["tripleweb"]["figures"]["subscriptions"]
    assert subscriptions["one user's posts"]["of others"] == 0
    assert 0 < subscriptions["one user's posts"]["triples"] < subscriptions["one user's posts"]["of"]
    for count in (QUICK.subscriptions // 10, QUICK.subscriptions):
        figure = subscriptions[str(count)]
        assert 0 < figure["bytes"] < figure["bytes of whole predicates"] and figure["core_us"] > 0


def test_what_was_acknowledged_is_durable(told) -> None:
    durable = told["engines"]["tripleweb"]["figures"]["durable"]
    assert durable["acknowledged"] > 0 and durable["lost"] == 0 and durable["kills"] == QUICK.kills


def test_the_figures_are_told_as_json_and_as_a_table(told) -> None:
    assert json.loads(json.dumps(told))["ceiling"]["one_by_one"]["commits_per_s"] > 0
    assert {"python", "commit", "processor", "cores"} <= set(told["machine"])
    assert "burst 1 delivered_per_s" in tables(told, verdicts({}))


def test_the_data_is_that_of_the_live_bench() -> None:
    those = list(entities(10))
    assert len(writes_of(those)) == sum(map(triple_count, those))
    kinds = {kind for _, _, _, kind, _ in writes_of(those)}
    assert kinds == {"s", "n", "b", "r"}


def test_frames_are_read_in_whatever_pieces_they_come() -> None:
    async def read(size: int) -> list[bytes]:
        socket, seen = Socket(), []
        socket.on_message = seen.append  # type: ignore[method-assign]
        frames = b"\x81\x02hi" + b"\x81\x7e\x01\x00" + b"x" * 256 + b"\x81\x7f" + (70_000).to_bytes(8, "big")
        stream = b"HTTP/1.1 101 Switching\r\n\r\n" + frames + b"y" * 70_000
        for at in range(0, len(stream), size):
            socket.data_received(stream[at : at + size])
        assert socket.bytes_in == len(stream) - 26
        return seen

    for size in (1, 7, 300, 1 << 20):
        assert asyncio.run(read(size)) == [b"hi", b"x" * 256, b"y" * 70_000], size


# -- what goes wrong is told ---------------------------------------------------------------------------------------


def test_a_process_that_ends_is_told_with_its_last_words() -> None:
    kid = Kid([sys.executable, "-c", "import sys; print('{}'); sys.exit('boom')"], Path.cwd(), {})
    with pytest.raises(Broken, match="boom"):
        kid.get("ready", 30)
    kid.kill()


def test_a_peer_that_breaks_is_told_and_the_others_go_on(monkeypatch) -> None:
    def words(engine: str) -> Any:
        if engine == "triplit":
            raise NotInstalled("there is no npm")
        return lambda role, port, folder: [sys.executable, "-c", "import sys; sys.exit('boom')", role, "", ""]

    monkeypatch.setattr(races, "words", words)
    told = races.race(["--quick", "--engines", "triplit,pycrdt", "--figures", "burst,memory"])
    assert told["engines"]["triplit"]["broken"] == "not installed: there is no npm"
    assert "boom" in told["engines"]["pycrdt"]["figures"]["memory"]["error"]
    assert "boom" in tables(told, [])


def test_what_nobody_knows_is_refused(capsys) -> None:
    for flags in (["--engines", "oracle"], ["--figures", "beauty"]):
        with pytest.raises(SystemExit):
            races.race(flags)
        assert f"is called {flags[1]}" in capsys.readouterr().err


def test_targets_are_judged_beside_the_others() -> None:
    def figures(rate: float, p50: float) -> dict[str, Any]:
        return {
            "burst": {k: {"delivered_per_s": rate} for k in ("1", "10", "50")},
            "paced": {k: {"p50_ms": p50, "p99_ms": 2 * p50} for k in ("1", "10", "50")},
            "fresh": {"median_ms": p50, "catch_up": {"1000": {"median_ms": p50}}},
            "durable": {"lost": 0},
        }

    def words(own: dict[str, Any], relay: float) -> dict[tuple[str, str, bool], str]:
        rivals = dict.fromkeys(("triplit", "pycrdt", "y-websocket"), figures(1_000, 3.0))
        judged = verdicts({"tripleweb": own, "relay": figures(relay, 1.0), **rivals})
        return {(v.figure, v.said, v.must): v.word for v in judged}

    good = words(figures(5_000, 2.0), 9_000)
    assert {word for (figure, *_), word in good.items() if "sustained" not in figure} == {"met"}
    bad = words(figures(900, 9.0), 9_000)
    assert bad["burst 10 delivered_per_s", "ahead of every rival", True] == "missed"
    assert bad["burst 50 delivered_per_s", "a third of the relay", True] == "missed"
    assert bad["paced 50 p99_ms", "ahead of every rival", True] == "missed"
    assert bad["paced 1 p50_ms", "at 100 writes/s", True] == "missed"
    assert bad["fresh catch_up 1000 median_ms", "1,000 missed changes", True] == "met"
    assert bad["sustained 10 delivered_per_s", "ahead of every rival", True] == "not measured"


def test_nothing_of_a_peer_names_where_it_comes_from() -> None:
    lock = (races.PINS / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in lock and json.loads(lock)["packages"]["node_modules/yjs"]["integrity"]
