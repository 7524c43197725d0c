"""From times to figures, from answers to agreement, from figures to targets.

A figure is hot: the first fifth of the repetitions, at most 500, is left out. Times are microseconds a change (or a
lookup, or a write). `changed_*` are of those changes alone that alter the answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.live.workload import Change, size_class

WARM_MAX = 500
SMALL, LARGE = 1_000, 10_000  # users: 126 thousand and 1.26 million triples
MODERATE = "4-15"  # entities in a moved subtree

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What a figure of tripleweb ought to be, at most; `users` is the size it is measured at. Rates are told as such
    and compared as the time of one."""

    figure: str
    users: int
    must_us: float | None = None
    stretch_us: float | None = None
    statistic: str = "median_us"
    must_of_small: float | None = None  # at most so many times what it is at the small size
    below_peer: str | None = None  # stretch: below the same statistic of this peer
    moved: str | None = None  # of this class of moved subtrees
    must_of_moved: float | None = None  # at most so many times what it is for a subtree of MODERATE size


def per_second(rate: float) -> float:
    return 1e6 / rate


def _targets() -> Iterable[Target]:
    for figure in ("join", "aggregate", "negation"):
        yield Target(figure, SMALL, must_us=20)
        yield Target(figure, LARGE, must_of_small=3, stretch_us=10)
        for users in (SMALL, LARGE):
            yield Target(figure, users, statistic="mean_us", below_peer="db-ivm")
    for users in (SMALL, LARGE):
        # of a hundred queries 80 run their triggers; to look at 80 answers that are others now is told beside it
        yield Target("hundred_heard", users, must_us=60, stretch_us=30)
        yield Target("hundred_changed", users, stretch_us=60)
        yield Target("recursion_root", users, must_us=40, stretch_us=20)
        yield Target("recursion_manager", users, must_us=40, stretch_us=20)
        yield Target("recursion", users, statistic="per_moved_us", moved="64-255", must_of_moved=2)
        yield Target("frame", users, must_us=1_000, stretch_us=500)
        yield Target("point", users, must_us=20, stretch_us=5)
        yield Target("set", users, must_us=per_second(150_000), stretch_us=per_second(300_000))
    yield Target("recursion", LARGE, moved="1", must_of_small=3)
    yield Target("durable_one_by_one", SMALL, must_us=per_second(2_000), stretch_us=per_second(4_000))
    yield Target("durable_transaction", SMALL, must_us=per_second(80_000), stretch_us=per_second(150_000))


TARGETS = tuple(_targets())


def figure_of(line: Mapping[str, Any], changes: Sequence[Change], expected: Any) -> dict[str, Any]:
    """The figures of one line that an engine told."""
    if "error" in line:
        return {"error": line["error"]}
    times: list[float] = line["us"]
    if not times:
        return {"error": "nothing was measured"}
    cold = min(WARM_MAX, len(times) // 5)
    hot = times[cold:]
    figure: dict[str, Any] = {**_spread(hot), "n": len(hot), "first_us": times[0]}
    if line.get("gross_us"):
        figure["gross_median_us"] = statistics.median(line["gross_us"][cold:])
    done = changes[cold : len(times)]
    hits = [taken for taken, change in zip(hot, done, strict=False) if change[4]]
    if hits and len(hits) < len(hot):
        figure |= {f"changed_{name}": value for name, value in _spread(hits).items()} | {
            "changed_n": len(hits)
        }
    if any(change[5] for change in done):
        figure["by_moved"] = _by_moved(hot, done)
    for name in ("opened_ms", "note"):
        if line.get(name):
            figure[name] = line[name]
    if expected is not None:
        figure["agrees"], figure["difference"] = compared(
            line["rows"], expected[: len(line["rows"])] if line["figure"] == "point" else expected
        )
        if figure["agrees"] and line.get("told"):
            figure["agrees"], figure["difference"] = _noticed(line, changes)
        if figure["agrees"]:
            del figure["difference"]
    return figure


def _spread(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_us": round(statistics.median(ordered), 2),
        "mean_us": round(statistics.fmean(ordered), 2),
        "p99_us": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
    }


def _by_moved(times: Sequence[float], changes: Sequence[Change]) -> dict[str, dict[str, float]]:
    """By the size of the subtree that was moved: times, and times for each of its entities."""
    classes: dict[str, list[tuple[float, int]]] = {}
    for taken, change in sorted(zip(times, changes, strict=False), key=lambda pair: pair[1][5]):
        classes.setdefault(size_class(change[5]), []).append((taken, change[5]))
    return {
        name: {
            **_spread([taken for taken, _ in pairs]),
            "per_moved_us": round(statistics.median(taken / moved for taken, moved in pairs), 2),
            "n": len(pairs),
        }
        for name, pairs in classes.items()
    }


def compared(rows: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]]) -> tuple[bool, str]:
    """Whether two answers are the same set of rows; numbers to nine digits, since engines add in different orders."""
    got, wanted = set(map(_canonical, rows)), set(map(_canonical, expected))
    if got == wanted:
        return True, ""
    missing, extra = sorted(wanted - got), sorted(got - wanted)
    return False, f"{len(missing)} rows missing, {len(extra)} too many: {missing[:2]} {extra[:2]}"[:500]


def _canonical(row: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        f"{v:.9g}" if isinstance(v, int | float) and not isinstance(v, bool) else str(v) for v in row
    )


def _noticed(line: Mapping[str, Any], changes: Sequence[Change]) -> tuple[bool, str]:
    """Whether the versions of the followed queries grew exactly with the changes that altered their answers."""
    many = 80 if line["figure"].startswith("hundred") else 1
    before = 0
    for i, version in enumerate(line["told"]):
        if version - before != (many if changes[i][4] else 0):
            return False, f"change {i}, {changes[i]}: {version - before} answers changed"
        before = version
    return True, ""


def moved_classes(figures: Figures) -> dict[str, dict[str, float]]:
    """By the size of a moved subtree, from whichever figure moved more of that size."""
    classes: dict[str, dict[str, float]] = {}
    for name in ("recursion_root", "recursion_sizes"):
        for size, spread in figures.get(name, {}).get("by_moved", {}).items():
            if size not in classes or spread["n"] > classes[size]["n"]:
                classes[size] = spread
    return classes


@dataclass(frozen=True)
class Verdict:
    target: Target
    measured: float | None
    must: float | None
    stretch: float | None
    word: str  # "stretch met", "must met", "missed", "not measured"


def verdicts(sizes: Mapping[int, Mapping[str, Figures]]) -> list[Verdict]:
    """`sizes`: users -> engine -> figures."""

    def at(users: int, engine: str, target: Target, moved: str | None) -> float | None:
        figures = sizes.get(users, {}).get(engine, {})
        figure = figures.get(target.figure, {}) if moved is None else moved_classes(figures).get(moved, {})
        value: float | None = figure.get(target.statistic)
        return value

    judged = []
    for target in TARGETS:
        measured = at(target.users, "tripleweb", target, target.moved)
        must, stretch = target.must_us, target.stretch_us
        small = at(SMALL, "tripleweb", target, target.moved)
        if target.must_of_small is not None and small is not None:
            must = small * target.must_of_small
        if target.below_peer is not None:
            stretch = at(target.users, target.below_peer, target, None)
        if target.must_of_moved is not None:
            base = at(target.users, "tripleweb", target, MODERATE)
            must = None if base is None else base * target.must_of_moved
        if measured is None or (must is None and stretch is None):
            word = "not measured"
        elif stretch is not None and measured <= stretch and (must is None or measured <= must):
            word = "stretch met"
        elif must is not None and measured <= must:
            word = "must met"
        else:
            word = "missed" if must is not None else "stretch missed"
        judged.append(Verdict(target, measured, must, stretch, word))
    return judged
