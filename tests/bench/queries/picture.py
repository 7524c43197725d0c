"""A picture for the documents: what the others take, as multiples of what tripleweb takes, on a logarithmic scale.

A row a question, a dot an engine: full where triples are stored (pale in the untuned schema), hollow where a table a
kind is. It is drawn on a card of its own, light or dark as the reader's system is, so it can be read on any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tests.bench.queries.asked import FIGURES, OWN, PEERS, QUERIES, TRIPLES
from tests.bench.queries.judged import time_of
from tests.bench.queries.table import short

ROWS = (*QUERIES, "closure")
LABELS = {
    "Q1": "one user by e-mail",
    "Q2": "join with a condition",
    "Q3": "join over tags",
    "Q4": "mean by author",
    "Q5a": "recursion, small",
    "Q5b": "recursion, large",
    "Q6": "negation",
    "Q7": "a table of all users",
    "closure": "all pairs of a tree",
}
FAMILIES = {  # name -> light, dark
    "DataScript": ("#c2410c", "#fb923c"),
    "Cozo": ("#a21caf", "#e879f9"),
    "DuckDB": ("#a16207", "#facc15"),
    "SQLite": ("#1d4ed8", "#60a5fa"),
    "Oxigraph": ("#047857", "#34d399"),
    "pandas": ("#be123c", "#fda4af"),
    "polars": ("#475569", "#cbd5e1"),
}
WIDTH, LEFT, RIGHT, TOP, STEP, BOTTOM = 880, 236, 92, 122, 38, 56

STYLE = """
svg { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }
.card { fill: #ffffff; stroke: #d0d7de } .title { fill: #1f2328; font-size: 18px; font-weight: 600 }
.said { fill: #57606a; font-size: 12.5px } .name { fill: #1f2328; font-size: 13px; font-weight: 600 }
.grid { stroke: #e5e9ee } .span { stroke: #c4ccd6; stroke-width: 2 } .own { stroke: #1f2328; stroke-width: 1.6 }
.faster { fill: #1f232808 } .any { stroke: #57606a; fill: #57606a }
.middle { text-anchor: middle } .end { text-anchor: end } circle { stroke-width: 2 } circle.pale { fill-opacity: 0.3 }
"""
DARK = """
.card { fill: #0d1117; stroke: #30363d } .title, .name { fill: #e6edf3 } .said { fill: #9aa4af }
.grid { stroke: #21262d } .span { stroke: #3d444d } .own { stroke: #e6edf3 } .faster { fill: #ffffff0a }
.any { stroke: #9aa4af; fill: #9aa4af }
"""


def picture(told: Mapping[str, Any]) -> str:
    """The largest size of a race as SVG; nothing if tripleweb or the others are not in it."""
    if not told["sizes"]:
        return ""
    size = list(told["sizes"].values())[-1]
    ratios = {figure: dict(_ratios(size["engines"], figure)) for figure in ROWS}
    ratios = {figure: held for figure, held in ratios.items() if held}
    if not ratios:
        return ""
    scale = _Scale([ratio for held in ratios.values() for ratio in held.values()])
    height = TOP + STEP * len(ratios) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="Times of other engines as multiples of tripleweb\'s">',
        f"<style>{_style()}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        _text(24, 34, "title", "How long the others take, as multiples of tripleweb"),
        _text(
            24, 55, "said", f"Hot median into a DataFrame (DataScript: arrays), {size['triples']:,} triples."
        ),
        *_legend(),
        *_axis(scale, height),
    ]
    for row, (figure, held) in enumerate(ratios.items()):
        own = time_of(size["engines"], OWN, figure)
        parts += _row(figure, held, own or 0, TOP + STEP * row + STEP / 2, scale)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """From a ratio to a place; whole decades, and 1 is in it."""

    def __init__(self, ratios: Sequence[float]) -> None:
        self.low = min(-1, math.floor(math.log10(min(ratios))))
        self.high = max(1, math.ceil(math.log10(max(ratios))))

    def __call__(self, ratio: float) -> float:
        part = (math.log10(ratio) - self.low) / (self.high - self.low)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def decades(self) -> Iterator[float]:
        for exponent in range(self.low, self.high + 1):
            yield 10.0**exponent


def _ratios(engines: Mapping[str, Any], figure: str) -> Iterator[tuple[str, float]]:
    own = time_of(engines, OWN, figure)
    for engine in PEERS:
        time = time_of(engines, engine, figure)
        if own and time:
            yield engine, time / own


def family(engine: str) -> str:
    name = engine.partition("-")[0]
    return next(known for known in FAMILIES if known.lower() == name)


def _style() -> str:
    def colours(which: int, card: str) -> str:
        dots = "".join(
            f".{name} {{ stroke: {pair[which]}; fill: {pair[which]} }}" for name, pair in FAMILIES.items()
        )
        return f"{dots} circle.hollow {{ fill: {card} }}"

    dark = f"{DARK}{colours(1, '#0d1117')}"
    return f"{STYLE}{colours(0, '#ffffff')} @media (prefers-color-scheme: dark) {{ {dark} }}"


def _legend() -> Iterator[str]:
    x = 30.0
    for name in FAMILIES:
        yield _dot(x, 80, name, "")
        yield _text(x + 11, 84.5, "said", name)
        x += 34 + 6.6 * len(name)
    x = WIDTH - 294
    for classes, said, width in (
        ("any", "triples", 62),
        ("any pale", "untuned", 70),
        ("any hollow", "a table a kind", 0),
    ):
        yield _dot(x, 80, classes, "")
        yield _text(x + 11, 84.5, "said", said)
        x += 18 + width


def _axis(scale: _Scale, height: float) -> Iterator[str]:
    top, bottom = TOP - 6, height - BOTTOM + 4
    one = scale(1)
    yield f'<rect class="faster" x="{LEFT}" y="{top}" width="{one - LEFT:.1f}" height="{bottom - top}"/>'
    for decade in scale.decades():
        x = scale(decade)
        yield f'<line class="{"own" if decade == 1 else "grid"}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
        said = "tripleweb" if decade == 1 else f"{decade:g}×"
        yield _text(x, bottom + 17, "name middle" if decade == 1 else "said middle", said)
    yield _text(LEFT, bottom + 36, "said", "← faster than tripleweb")
    yield _text(WIDTH - RIGHT, bottom + 36, "said end", "slower than tripleweb →")
    yield _text(WIDTH - 24, top - 4, "said end", "tripleweb")


def _row(figure: str, held: Mapping[str, float], own: float, y: float, scale: _Scale) -> Iterator[str]:
    places = [scale(ratio) for ratio in held.values()]
    name = "all pairs" if figure == "closure" else figure
    label = LABELS[figure] if figure != "closure" else "transitive closure"
    yield _text(24, y + 4.5, "name", name)
    yield _text(96, y + 4.5, "said", label)
    yield f'<line class="span" x1="{min(places)}" x2="{max(places)}" y1="{y}" y2="{y}"/>'
    for engine, ratio in sorted(held.items(), key=lambda one: -one[1]):
        classes = family(engine) + (
            " pale" if engine == "sqlite-seed" else "" if engine in TRIPLES else " hollow"
        )
        yield _dot(scale(ratio), y, classes, f"{FIGURES[figure].title}: {engine} {ratio:.3g}×")
    yield _text(WIDTH - 24, y + 4.5, "said end", f"{short(own)} ms")


def _dot(x: float, y: float, classes: str, said: str) -> str:
    title = f"<title>{escape(said)}</title>" if said else ""
    return f'<circle class="{classes}" cx="{x}" cy="{y}" r="5">{title}</circle>'


def _text(x: float, y: float, classes: str, said: str) -> str:
    return f'<text class="{classes}" x="{x}" y="{y}">{escape(said)}</text>'
