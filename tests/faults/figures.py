"""How long clients stood still in a fault, as far as the server was there for them; a table of it.

Moments are those of `time.monotonic`, which is one clock for all processes of a machine and knows nothing of the
clocks that tests set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Span = tuple[float, float]


def longest(waits: Iterable[Span], outages: Sequence[Span]) -> float:
    """The longest unbroken part of one of `waits` that lies outside of all `outages`, in seconds."""
    most = 0.0
    for begin, end in waits:
        if end - begin <= most:
            continue
        at = begin
        for out, back in sorted(outages):
            if back <= at:
                continue
            if out >= end:
                break
            most = max(most, out - at)
            at = max(at, back)
        most = max(most, end - at)
    return most


@dataclass(frozen=True, slots=True)
class Figures:
    """What a fault cost: how many writes there were, and the longest waits, in seconds."""

    clients: int
    writes: int
    undecided: float  # from a write to its being decided
    unseen: float  # from one thing that a reader saw to the next, while others wrote


FIGURES: dict[str, Figures] = {}  # of the faults of this run, by name


def table(figures: dict[str, Figures]) -> str:
    """A line a fault."""
    rows = [("fault", "clients", "writes", "longest s undecided", "longest s a reader saw nothing")]
    rows += [
        (name, str(f.clients), str(f.writes), f"{f.undecided:.2f}", f"{f.unseen:.2f}")
        for name, f in figures.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(lines)
