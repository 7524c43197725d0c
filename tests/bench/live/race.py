"""The race: one engine after the other over the plan of each size, each in a process of its own; what they told is
judged and set side by side. An engine that breaks keeps what it had told; the others go on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.live.answers import Answers
from tests.bench.live.installed import ENGINES, ROOT, NotInstalled, command
from tests.bench.live.judged import LARGE, SMALL, figure_of, verdicts
from tests.bench.live.table import of_size, of_targets
from tests.bench.live.workload import Workload

ENGINE_SECONDS = 1_800


def race(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench live")
    parser.add_argument(
        "--quick", action="store_true", help="13 thousand triples and few changes: does it run?"
    )
    parser.add_argument("--engines", default=",".join(ENGINES), help="which ones (default: %(default)s)")
    parser.add_argument("--users", help="sizes in users, of 126 triples each (default: 1000,10000)")
    chosen = parser.parse_args(flags)
    engines = chosen.engines.split(",")
    for engine in engines:
        if engine not in ENGINES:
            parser.error(f"no engine is called {engine}; there are {', '.join(ENGINES)}")
    sizes = [100] if chosen.quick else [SMALL, LARGE]
    if chosen.users:
        sizes = [int(users) for users in chosen.users.split(",")]
    changes, cap_s = (60, 1.0) if chosen.quick else (2_500, 10.0)

    told: dict[str, Any] = {"machine": machine(), "sizes": {}}
    figures: dict[int, dict[str, Any]] = {}
    began = time.monotonic()
    for users in sizes:
        with tempfile.TemporaryDirectory(prefix="tripleweb-bench-") as folder:
            workload = Workload(users, changes, cap_s)
            workload.write(Path(folder))
            ran = {engine: _run(engine, Path(folder), workload) for engine in engines}
        told["sizes"][str(users)] = {"triples": workload.plan.triples, "engines": ran}
        print(of_size(str(users), told["sizes"][str(users)]), file=sys.stderr, flush=True)
        figures[users] = {engine: facts["figures"] for engine, facts in ran.items()}
    judged = verdicts(figures)
    told["targets"] = [
        {**vars(v.target), "must": v.must, "stretch": v.stretch, "measured": v.measured, "verdict": v.word}
        for v in judged
    ]
    told["seconds"] = round(time.monotonic() - began)
    print(f"\n{told['machine']}", of_targets(judged), sep="\n", file=sys.stderr)
    return told


def _run(engine: str, folder: Path, workload: Workload) -> dict[str, Any]:
    """One engine over one plan."""
    print(f"  {workload.plan.triples} triples: {engine} ...", file=sys.stderr, flush=True)
    answers = Answers(workload)
    out = folder / f"{engine}.jsonl"
    facts, lines = ran(lambda: [*command(engine), str(folder), str(out)], out)
    for line in lines:
        if "engine" in line:
            facts |= line
        else:
            name = line["figure"]
            facts["figures"][name] = figure_of(
                line, workload.plan.changes.get(name, ()), answers.expected(name)
            )
    return facts


def ran(words: Callable[[], Sequence[str]], out: Path) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Runs an engine's process to its end: how that went, and the lines that it told in `out`, however it ended."""
    facts: dict[str, Any] = {
        "calibration_ms": calibration_ms(),
        "load_average": os.getloadavg()[0],
        "figures": {},
    }
    began = time.monotonic()
    try:
        done = subprocess.run(
            words(), cwd=ROOT, capture_output=True, text=True, timeout=ENGINE_SECONDS, check=False
        )
        if done.returncode:
            facts["broken"] = f"ended with {done.returncode}: {done.stderr.strip()[-500:]}"
    except NotInstalled as error:
        facts["broken"] = f"not installed: {error}"
    except subprocess.TimeoutExpired:
        facts["broken"] = f"did not end within {ENGINE_SECONDS} s"
    facts["seconds"] = round(time.monotonic() - began, 1)
    return facts, _lines(out)


def _lines(out: Path) -> list[Mapping[str, Any]]:
    """What was told; the last line may be cut off."""
    if not out.exists():
        return []
    whole = out.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def machine() -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "node": _said("node", "--version"),
        "commit": _said("git", "rev-parse", "HEAD"),
        "changed_files": len(_said("git", "status", "--porcelain").splitlines()),
    }


def calibration_ms() -> float:
    """A fixed piece of Python: where it takes longer than elsewhere in a run, the machine was busy."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        sum(i * i for i in range(200_000))
        best = min(best, time.perf_counter() - began)
    return round(best * 1e3, 2)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _said(*words: str) -> str:
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
