"""python -m tests.sim [SEED | LO..HI]: runs seeds; without any, 300 fresh ones.

A failure prints the promise that was broken and the line that replays it. `--shrink` makes a failing history small and
writes it to a file; `--replay FILE` does it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.sim.checks import Violation
from tests.sim.history import History
from tests.sim.mutants import CAUGHT
from tests.sim.shrink import broken_by, run, shrink
from tests.sim.world import STEPS_MAX


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="", help="one seed, or a range LO..HI (HI not included)")
    parser.add_argument("--log", action="store_true", help="print every event")
    parser.add_argument("--steps", type=int, default=STEPS_MAX, help="stop after so many events")
    parser.add_argument("--digest", action="store_true", help="print the digest of each seed's trace")
    parser.add_argument("--network", default="", choices=["stream", "hostile"], help="else the seed says")
    parser.add_argument(
        "--asking", action="store_true", help="some ask for less than the app; else the seed says"
    )
    parser.add_argument("--backend", default="memory", choices=["memory", "sqlite"], help="what storages are")
    parser.add_argument("--bug", default="", choices=[bug.__name__ for bug in CAUGHT], help="planted")
    parser.add_argument("--shrink", action="store_true", help="make a failing history small, and keep it")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="do a kept history again")
    given = parser.parse_args(arguments)
    if given.replay:
        history = History.load(given.replay)
        print(history)
        return _replay(history, given.log)
    if ".." in given.seeds:
        low, high = map(int, given.seeds.split(".."))
    elif given.seeds:
        low, high = int(given.seeds), int(given.seeds) + 1
    else:
        low = random.SystemRandom().randrange(1_000_000)
        high = low + 300
    failed, started, written = [], time.monotonic(), 0
    for seed in range(low, high):
        try:
            with tempfile.TemporaryDirectory() as folder:
                world = run(
                    seed,
                    given.bug,
                    log=given.log,
                    steps=given.steps,
                    network=given.network,
                    asking=given.asking or None,
                    folder=Path(folder) if given.backend == "sqlite" else None,
                )
            written += len(world.written)
            if given.digest:
                print(f"seed {seed}: digest {world.digest}")
        except Exception as error:  # noqa: BLE001 - a bug of a core or of the simulator: show it, go on with the next
            failed.append(seed)
            print(f"seed {seed}: {error if isinstance(error, Violation) else traceback.format_exc()}")
            options = [("--network", given.network), ("--bug", given.bug)]
            more = (
                "".join(f" {name} {value}" for name, value in options if value) + " --asking" * given.asking
            )
            print(f"  replay: python -m tests.sim {seed} --log{more}")
            if given.shrink:
                _keep(shrink(broken_by(error)))
    seconds = time.monotonic() - started
    print(
        f"{high - low} seeds from {low}, {written} transactions, {seconds:.1f} s, {len(failed)} failed {failed}"
    )
    return 1 if failed else 0


def _keep(history: History) -> None:
    path = (
        Path(tempfile.gettempdir()) / f"tripleweb-sim-{history.seed}{history.bug and '-' + history.bug}.jsonl"
    )
    history.save(path)
    print(f"{history}\n  breaks: {history.broken}\n  replay: python -m tests.sim --replay {path} --log")


def _replay(history: History, log: bool) -> int:
    try:
        run(history, history.bug, log=log)
    except Exception as error:  # noqa: BLE001 - whatever it is about
        print(f"  {error if isinstance(error, Violation) else traceback.format_exc()}")
        return 1
    print(f"  nothing is broken, where once was: {history.broken}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
