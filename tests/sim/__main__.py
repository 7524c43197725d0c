"""python -m tests.sim [SEED | LO..HI] [--log] [--digest] [--steps N]: runs seeds; without any, 300 fresh ones.

A failure prints the promise that was broken and the line that replays it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback

from tests.sim.checks import Violation
from tests.sim.world import STEPS_MAX, World


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="", help="one seed, or a range LO..HI (HI not included)")
    parser.add_argument("--log", action="store_true", help="print every event")
    parser.add_argument("--steps", type=int, default=STEPS_MAX, help="stop after so many events")
    parser.add_argument("--digest", action="store_true", help="print the digest of each seed's trace")
    parser.add_argument("--network", default="")
    given = parser.parse_args(arguments)
    if ".." in given.seeds:
        low, high = map(int, given.seeds.split(".."))
    elif given.seeds:
        low, high = int(given.seeds), int(given.seeds) + 1
    else:
        low = random.SystemRandom().randrange(1_000_000)
        high = low + 300
    failed, started, written = [], time.monotonic(), 0
    for seed in range(low, high):
        world = World(seed, log=given.log, steps=given.steps, network=given.network)
        try:
            written += len(world.run().written)
            if given.digest:
                print(f"seed {seed}: digest {world.digest}")
        except Violation as violation:
            failed.append(seed)
            print(f"seed {seed}: {violation}\n  replay: python -m tests.sim {seed} --log")
        except Exception:  # noqa: BLE001 - a bug of a core or of the simulator: show it, go on with the next
            failed.append(seed)
            print(f"seed {seed}:\n{traceback.format_exc()}  replay: python -m tests.sim {seed} --log")
    seconds = time.monotonic() - started
    print(
        f"{high - low} seeds from {low}, {written} transactions, {seconds:.1f} s, {len(failed)} failed {failed}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
