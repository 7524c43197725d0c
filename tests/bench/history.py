"""What was measured before: a line of JSON for each run, and what has become worse since.

`python -m tests.bench history [--file FILE] [--tolerance 1.25]` sets the last run of each bench and machine beside the
median of the runs before it on the same machine, and shows what is worse by more than the tolerance.

Invariants: a line is never changed, only added. A figure's name says by its ending which way is better: `_per_s` and
`times` are better when larger, all others when smaller. Runs on another processor, or on so many other cores, are not
compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.live.table import aligned

FILE = Path(__file__).with_name("history.jsonl")
MORE = ("_per_s", "times")
TOLERANCE = 1.25


@dataclass(frozen=True)
class Line:
    """One run of one bench."""

    bench: str
    when: str
    commit: str
    changed_files: int
    processor: str
    cores: int
    figures: Mapping[str, float]

    @classmethod
    def of(cls, bench: str, machine: Mapping[str, Any], figures: Mapping[str, float]) -> Line:
        """`machine` is what `live.race.machine` tells."""
        names = ("when", "commit", "changed_files", "processor", "cores")
        return cls(bench, **{name: machine[name] for name in names}, figures=figures)

    @property
    def place(self) -> tuple[str, str, int]:
        return self.bench, self.processor, self.cores


@dataclass(frozen=True)
class Change:
    """A figure of the last run beside the median of `runs` earlier ones; `worse` is how many times."""

    figure: str
    median: float
    last: float
    runs: int

    @property
    def worse(self) -> float:
        if not self.last or not self.median:
            return 1.0
        return self.median / self.last if self.figure.endswith(MORE) else self.last / self.median


def append(line: Line, file: Path = FILE) -> None:
    with open(file, "a", encoding="utf-8") as held:
        held.write(json.dumps(asdict(line), separators=(",", ":")) + "\n")


def lines(file: Path = FILE) -> list[Line]:
    """Oldest first."""
    if not file.exists():
        return []
    return [Line(**json.loads(text)) for text in file.read_text(encoding="utf-8").splitlines() if text]


def changes(earlier: Sequence[Line], last: Line) -> Iterator[Change]:
    """Of the figures that were measured before."""
    for figure, value in last.figures.items():
        known = [line.figures[figure] for line in earlier if figure in line.figures]
        if known:
            yield Change(figure, statistics.median(known), value, len(known))


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench history")
    parser.add_argument("--file", type=Path, default=FILE, help="(default: %(default)s)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="times worse (default: %(default)s)"
    )
    chosen = parser.parse_args(flags)
    places: dict[tuple[str, str, int], list[Line]] = {}
    for line in lines(chosen.file):
        places.setdefault(line.place, []).append(line)
    told: dict[str, Any] = {}
    for (bench, processor, cores), known in places.items():
        *earlier, last = known
        found = sorted(changes(earlier, last), key=lambda change: -change.worse)
        worse = [change for change in found if change.worse > chosen.tolerance]
        better = [change for change in found if change.worse < 1 / chosen.tolerance]
        place = f"{bench}, {cores} cores of {processor}"
        told[place] = {
            "runs": len(known),
            "last": last.when,
            "worse": {change.figure: round(change.worse, 2) for change in worse},
            "better": {change.figure: round(1 / change.worse, 2) for change in better},
        }
        print(
            f"\n## {place}: {last.when} ({last.commit[:10]}) beside {len(earlier)} earlier runs",
            file=sys.stderr,
        )
        said = f"{len(found)} figures, {len(better)} better, {len(worse)} worse by {chosen.tolerance} or more"
        print("\n".join([said, *_table(worse)]), file=sys.stderr)
    return told


def _table(worse: Sequence[Change]) -> list[str]:
    rows = [["figure", "median before", "now", "times worse", "runs"]]
    rows += [[c.figure, f"{c.median:,.4g}", f"{c.last:,.4g}", f"{c.worse:.2f}", str(c.runs)] for c in worse]
    return aligned(rows) if worse else []
