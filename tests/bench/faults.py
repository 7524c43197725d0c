"""The longest stall that a client sees in each real fault, in seconds: `python -m tests.bench faults`.

`--only NAME`, `--seed N`; `--usual` adds half-open connections with the times that links and servers usually have,
which takes two minutes. Every fault is judged on the way, as in tests/test_faults.py: an error is a promise broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.figures import Figures, table
from tests.faults.scenarios import FAULTS, half_open, seed_of_today


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench faults")
    parser.add_argument("--only", choices=sorted(FAULTS))
    parser.add_argument("--seed", type=int, default=seed_of_today())
    parser.add_argument("--usual", action="store_true")
    given = parser.parse_args(flags)
    figures: dict[str, Figures] = {}
    for name in [given.only] if given.only else FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = FAULTS[name](Path(folder), given.seed)
    if given.usual:
        with tempfile.TemporaryDirectory() as folder:
            figures["half_open_usual"] = half_open(Path(folder), given.seed, usual=True)
    print(table(figures), file=sys.stderr)
    return {"seed": given.seed, **{name: asdict(figure) for name, figure in figures.items()}}
