"""From what an engine told of a figure to what is kept of it: times, rows, digests, and whether the answer is right.

A digest is of a column, or of the whole rows, whatever their order; two answers with the same digests are the same.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from tests.bench.queries.asked import FIGURES, NUMBER, TEXT

WARM = 1.5  # an execution that takes more than so many times the hot median is not hot yet
Columns = Sequence[Sequence[Any]]


def figure_of(line: Mapping[str, Any], expected: Columns) -> dict[str, Any]:
    """The figure of one line: `first_ms`, `hot_ms` (the median of the others; the first where there are none), how many
    executions came before it was hot (`cold_n`) and what they took beyond it (`warming_ms`), what was found, and
    `agrees`, with the `difference` if it does not."""
    if "error" in line:
        return {"error": line["error"]}
    times: list[float] = line["ms"]
    hot = times[1:] or times
    kinds = FIGURES[line["figure"]].columns
    got = canonical(line["columns"], list(kinds.values()))
    wanted = canonical(expected, list(kinds.values()))
    figure = {
        "first_ms": times[0],
        "hot_ms": round(statistics.median(hot), 4),
        "least_ms": min(hot),
        "most_ms": max(hot),
        "n": len(times) - 1,
        "ms": times,
        **_warming(times, statistics.median(hot)),
        "rows": len(got[0]) if got else 0,
        "digest": digest(zip(*got, strict=True)) if got else "",
        "columns": {name: digest(zip(cells)) for name, cells in zip(kinds, got, strict=False)},
    }
    if line.get("note"):
        figure["note"] = line["note"]
    figure["agrees"], difference = compared(got, wanted)
    return figure if figure["agrees"] else {**figure, "difference": difference}


def _warming(times: Sequence[float], hot: float) -> dict[str, float]:
    cold = list(takewhile(lambda time: time > WARM * hot, times))
    return {"cold_n": len(cold), "warming_ms": round(sum(cold) - hot * len(cold), 4)}


def merged(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What an engine told in several processes, as one: medians of times and weights; a round that went wrong is
    what is told of it."""
    last = rounds[-1]
    broken = [facts for facts in rounds if "broken" in facts]
    if broken or len(rounds) == 1:
        return broken[0] if broken else last
    whole = {**last, "rounds": len(rounds)}
    for name in (
        "load_s",
        "load_transacted_s",
        "bytes_per_triple",
        "raw_write_s",
        "opened_s",
        "calibration_ms",
    ):
        whole |= _middle(rounds, name)
    if "engine_after" in last:
        whole["engine_after"] = _middle([facts["engine_after"] for facts in rounds], "bytes_per_triple_asked")
    whole["figures"] = {
        name: _merged_figure([facts["figures"][name] for facts in rounds]) for name in last["figures"]
    }
    return whole


def _merged_figure(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    wrong = [figure for figure in told if not figure.get("agrees")]
    if wrong:
        return wrong[0]
    whole = {**told[-1], "n": sum(figure["n"] for figure in told)}
    for name in ("first_ms", "hot_ms", "cold_n", "warming_ms"):
        whole |= _middle(told, name)
    whole["least_ms"] = min(figure["least_ms"] for figure in told)
    whole["most_ms"] = max(figure["most_ms"] for figure in told)
    whole["firsts_ms"] = [figure["first_ms"] for figure in told]
    whole["ms"] = [time for figure in told for time in figure["ms"]]
    return whole


def _middle(rounds: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    values = [facts[name] for facts in rounds if facts.get(name) is not None]
    return {name: round(statistics.median(values), 4)} if values else {}


def canonical(columns: Columns, kinds: Sequence[str]) -> list[list[str]]:
    """Columns as texts that are equal where the values mean the same."""
    padded = [
        *kinds,
        *[TEXT] * (len(columns) - len(kinds)),
    ]  # a column too many is a difference, not an error
    return [
        [_canonical(value, kind) for value in cells]
        for cells, kind in zip(columns, padded[: len(columns)], strict=True)
    ]


def _canonical(value: Any, kind: str) -> str:
    if value is None:
        return "none"
    if kind == TEXT:
        return f"text {value}"
    if kind == NUMBER:
        try:
            return f"{float(value):.9g}"
        except (TypeError, ValueError):
            return f"no number {value!r}"
    return {"true": "true", "1": "true", "false": "false", "0": "false"}.get(
        str(value).lower(), f"no truth {value!r}"
    )


def digest(rows: Iterable[Sequence[str]]) -> str:
    lines = sorted("\x1f".join(row) for row in rows)
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()[:12]


def compared(got: Columns, wanted: Columns) -> tuple[bool, str]:
    """Whether two answers are the same bag of rows, and what differs."""
    if len(got) != len(wanted):
        return False, f"{len(got)} columns instead of {len(wanted)}"
    if len(set(map(len, got))) > 1:
        return False, f"columns of {[len(cells) for cells in got]} rows"
    here, there = Counter(zip(*got, strict=True)), Counter(zip(*wanted, strict=True))
    if here == there:
        return True, ""
    missing, extra = there - here, here - there
    return False, (
        f"{missing.total()} rows missing, {extra.total()} too many: {sorted(missing)[:1]} {sorted(extra)[:1]}"
    )[:500]
