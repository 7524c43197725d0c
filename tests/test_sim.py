"""The simulator: recorded and fixed seeds, the same trace under any hash seed, planted bugs that it must notice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim import mutants
from tests.sim.__main__ import main
from tests.sim.checks import Violation
from tests.sim.history import Deed, History
from tests.sim.mutants import CAUGHT, planted
from tests.sim.options import Options
from tests.sim.shrink import broken_by, fails_alike, run, shrink
from tests.sim.world import World
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.server import Limits

ROOT = Path(__file__).resolve().parent.parent
REGRESSIONS = [
    line.split("#")[0].split()
    for line in (ROOT / "tests/sim/regressions.txt").read_text(encoding="utf-8").splitlines()
    if line.split("#")[0].strip()
]


def check_seeds(low: int, high: int, network: str = "", folder: Path | None = None) -> None:
    """Runs the seeds and reports all failures together, each with the line that replays it."""
    failures = []
    more = f" --network {network}" if network else ""
    for seed in range(low, high):
        try:
            World(seed, network=network, folder=None if folder is None else folder / str(seed)).run()
        except Violation as violation:
            failures.append(f"{str(violation)[:500]}\n  replay: python -m tests.sim {seed} --log{more}")
    assert not failures, "\n" + "\n".join(failures)


@pytest.mark.parametrize("recorded", REGRESSIONS, ids=" ".join)
def test_recorded_seeds_first(recorded: list[str]) -> None:
    seed, *network = recorded
    check_seeds(int(seed), int(seed) + 1, *network)


@pytest.mark.parametrize("low", range(0, 60, 10))
def test_fixed_seeds(low: int) -> None:
    """Of which a third have a hostile network."""
    check_seeds(low, low + 10)


def test_the_fixed_seeds_reach_every_situation() -> None:
    """Faults that never happen guard nothing."""
    reached: Counter[str] = Counter()
    for seed in range(30):
        reached += World(seed).run().marks
    expected = {
        *(
            "welcome: rekey",
            "fault: replaced",
            "poke: load",
            "poke: catch-up",
            "poke: large transaction",
            "rows",
        ),
        *("receipt: applied", "receipt: rejected", "receipt: set back", "receipt: reload"),
        *("lost: newer", "lost: reset", "lost: deleted"),
        *("client: crash", "client: dies saving", "client: dies pushing", "client: loses its tail"),
        *("server: crash", "server: crash, a commit out", "server: crash after landing, a commit out"),
        *("server: commit failed, a commit out", "server: idles"),
        *("refused", "apart"),
        *("client: sleeps", "client: lid closed", "receipt: its gist", "receipt: long ago", "log cut"),
        *("restored: accepted and forgotten", "restored: on a hostile network"),
        *(
            "client: disk full, a write fails",
            "client: disk full, what came is not saved",
            "server: disk full",
        ),
        *("becomes none", "becomes reader", "becomes writer"),
    }
    assert not expected - reached.keys(), f"never reached: {sorted(expected - reached.keys())}"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("network", ["stream", "hostile"])
@pytest.mark.parametrize("low", range(10_000, 10_160, 40))
def test_many_seeds(low: int, network: str) -> None:
    check_seeds(low, low + 40, network)


@pytest.mark.parametrize("low", [0, *(pytest.param(low, marks=pytest.mark.long) for low in (100, 120))])
def test_storages_that_are_files(low: int, tmp_path: Path) -> None:
    """The real storages: a process that dies abandons its file as it is."""
    check_seeds(low, low + (3 if low == 0 else 20), folder=tmp_path)


def digests(hash_seed: str, seeds: str) -> str:
    """What the trace of the seeds sums up to in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sim", seeds, "--digest"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return "\n".join(line for line in ran.stdout.splitlines() if "digest" in line)


@pytest.mark.parametrize("seeds", ["0..8", pytest.param("8..28", marks=pytest.mark.long)])
def test_the_trace_does_not_depend_on_the_hash_seed(seeds: str) -> None:
    one, other = digests("1", seeds), digests("2", seeds)
    assert one == other
    low, high = map(int, seeds.split(".."))
    assert len(one.splitlines()) == high - low


def objects(seed: int) -> bool:
    """True if the simulator finds something wrong."""
    try:
        World(seed).run()
    except Violation:
        return True
    return False


@pytest.mark.parametrize("bug", CAUGHT, ids=lambda bug: bug.__name__)
def test_planted_bugs_are_noticed(bug: Callable[[], list[mutants.Patch]]) -> None:
    first = CAUGHT[bug]
    with planted(bug):
        assert any(objects(seed) for seed in range(first, first + 21)), f"unnoticed from seed {first} on"


def test_a_history_done_again_is_the_same_run() -> None:
    for seed in (1, 2, 9):
        world = World(seed).run()
        assert World(world.history).run().digest == world.digest


@pytest.mark.parametrize(
    "bug", [mutants.ties_go_by_arrival, mutants.receipt_cut_off], ids=lambda b: b.__name__
)
def test_a_failing_history_is_shrunk(
    bug: Callable[[], list[mutants.Patch]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left breaks the same promise, is read at a glance, and is done again from its file."""
    with pytest.raises(Violation) as failed:
        run(CAUGHT[bug], bug.__name__)
    whole = broken_by(failed.value)
    small = shrink(whole, attempts=300)
    assert fails_alike(small)
    assert small.broken == whole.broken
    assert len(small.deeds) <= min(12, len(whole.deeds) / 5)
    path = tmp_path / "small.jsonl"
    small.save(path)
    assert History.load(path) == small
    assert main(["--replay", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{whole.broken}: " in said
    assert str(small.deeds[0]) in said


def calm(*clients: tuple[str, str, str]) -> Options:
    """Options in which nothing happens but deeds."""
    drawn = Options.draw(random.Random(0), "hostile")
    return replace(
        drawn, clients=list(clients), busy_ms=5_000, clocks="good", commit_ms=1, idle_close=False,
        weather=replace(drawn.weather, delay_ms=5, spike=0, half_open=0), limits=Limits(),
        client_limits=ClientLimits(), habits=replace(drawn.habits, displays=False),
    )  # fmt: skip


def test_a_receipt_that_comes_too_late_does_not_put_the_past_back() -> None:
    """Directed: a rejection is lost on its way, others write there, and it is told again."""

    def write(at: int, who: str) -> Deed:
        return Deed(
            at, who, "writes", {"operations": [["set", "e", "k/title", ["s", who]]], "give_up": False}
        )

    deeds = [
        write(3_000, "ann"),
        Deed(3_001, "ann", "frame", {"upwards": False, "fate": "lost", "after_ms": 0}),
        write(3_500, "bob"),
        Deed(4_000, "ann", "cut", {"up": 0, "down": 0}),
    ]
    history = History(1, calm(("ann", "a", "reader"), ("bob", "b", "writer")), deeds)
    assert run(history).marks["receipt: rejected"] == 2
    with pytest.raises(Violation, match="consistent cut"):
        run(history, "late_receipt_believed")


def test_a_planted_bug_is_gone_afterwards() -> None:
    seed = CAUGHT[mutants.ack_before_commit]
    with planted(mutants.ack_before_commit), pytest.raises(Violation, match="ack only after commit"):
        World(seed).run()
    World(seed).run()


def test_a_failure_prints_the_line_that_replays_it(capsys: pytest.CaptureFixture[str]) -> None:
    seed = CAUGHT[mutants.ack_before_commit]
    with planted(mutants.ack_before_commit):
        assert main([str(seed)]) == 1
    said = capsys.readouterr().out
    assert f"replay: python -m tests.sim {seed} --log" in said
    assert "ack only after commit" in said


def test_steps_end_a_run_early(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["0", "--steps", "20", "--log"]) == 1
    assert "more than 20 events" in capsys.readouterr().out
