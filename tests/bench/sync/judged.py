"""What tripleweb's figures ought to be, by themselves and beside the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.sync.installed import RIVALS

Engines = Mapping[str, Mapping[str, Any]]  # engine -> its figures
BURST, PACED = "delivered_per_s", "p50_ms"


@dataclass(frozen=True)
class Verdict:
    """A target and what became of it; `word`: "met", "missed" or "not measured". `more`: more is better."""

    figure: str
    said: str
    measured: float | None
    bound: float | None
    more: bool
    must: bool

    @property
    def word(self) -> str:
        if self.measured is None or self.bound is None:
            return "not measured"
        held = self.measured >= self.bound if self.more else self.measured <= self.bound
        return "met" if held else "missed"


def verdicts(engines: Engines) -> list[Verdict]:
    return list(_verdicts(engines))


def _verdicts(engines: Engines) -> Iterator[Verdict]:
    def of(engine: str, *path: str) -> float | None:
        held: Any = engines.get(engine, {})
        for step in path:
            held = held.get(step) if isinstance(held, Mapping) else None
        return held if isinstance(held, int | float) else None

    def best(more: bool, *path: str) -> float | None:
        there = [value for rival in RIVALS if (value := of(rival, *path)) is not None]
        return (max if more else min)(there, default=None)

    def times(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    def verdict(path: tuple[str, ...], said: str, bound: float | None, more: bool, must: bool) -> Verdict:
        return Verdict(" ".join(path), said, of("tripleweb", *path), bound, more, must)

    yield verdict(("durable", "lost"), "acknowledged and not on disk", 0, False, True)
    for k in ("10", "50"):
        path = ("burst", k, BURST)
        yield verdict(path, "ahead of every rival", best(True, *path), True, True)
        path = ("sustained", k, BURST)
        yield verdict(path, "ahead of every rival", best(True, *path), True, True)
    path = ("paced", "50", "p99_ms")
    yield verdict(path, "ahead of every rival", best(False, *path), False, True)
    for k in ("1", "10", "50"):
        yield verdict(("paced", k, PACED), "at 100 writes/s", 8, False, True)
    path = ("burst", "50", BURST)
    yield verdict(path, "a third of the relay", times(of("relay", *path), 1 / 3), True, True)
    yield verdict(("fresh", "catch_up", "1000", "median_ms"), "1,000 missed changes", 50, False, True)
    yield verdict(path, "half of the relay", times(of("relay", *path), 1 / 2), True, False)
    for k in ("1", "10"):
        path = ("burst", k, BURST)
        yield verdict(path, "a third of the relay", times(of("relay", *path), 1 / 3), True, False)
    path = ("paced", "1", PACED)
    yield verdict(path, "twice y-websocket's", times(of("y-websocket", *path), 2), False, False)
    path = ("fresh", "median_ms")
    yield verdict(path, "pycrdt's, into dicts", of("pycrdt", *path), False, False)
