"""What people read of a race: the engines side by side, the targets, and what was not right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.live.table import aligned
from tests.bench.sync.judged import Verdict

MARKS = {("met", True): "+", ("met", False): "++", ("missed", True): "MISSED", ("missed", False): "-"}
MORE = ("per_s",)


def tables(told: Mapping[str, Any], judged: Sequence[Verdict]) -> str:
    """All of a race."""
    engines = told["engines"]
    quiet = ", ".join(f"{e} {f['calibration_ms']} ms ({f['load_average']:.1f})" for e, f in engines.items())
    parts = [
        f"\n{told['machine']}",
        f"how busy the machine was, by a fixed loop (and load average): {quiet}",
        "\nin brackets: how many times better tripleweb is",
        *aligned([["", *engines], *_rows(engines)]),
        *(f"storage alone, {name}: {figure}" for name, figure in told.get("ceiling", {}).items()),
        *_wrongs(engines),
        "\n## Targets: ++ stretch met, + must met, - stretch missed, MISSED, ? not measured",
        *aligned([["figure", "target", "measured", "bound", ""], *map(_target, judged)]),
    ]
    return "\n".join(parts)


def _rows(engines: Mapping[str, Any]) -> Iterator[list[str]]:
    leaves: dict[tuple[str, ...], None] = {}
    for facts in engines.values():
        leaves.update(dict.fromkeys(path for path, _ in _leaves(facts["figures"])))
    for path in sorted(leaves, key=lambda path: _order(path, engines)):
        values = [dict(_leaves(facts["figures"])).get(path) for facts in engines.values()]
        ours = dict(_leaves(engines["tripleweb"]["figures"])).get(path) if "tripleweb" in engines else None
        yield [" ".join(path), *(_cell(path, v, ours, e) for e, v in zip(engines, values, strict=True))]


def _order(path: tuple[str, ...], engines: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    figures = list(dict.fromkeys(name for facts in engines.values() for name in facts["figures"]))
    return figures.index(path[0]), tuple(int(step) if step.isdecimal() else -1 for step in path[1:])


def _leaves(held: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(held, Mapping):
        for name, value in held.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(held, int | float):
        yield path, held


def _cell(path: tuple[str, ...], value: float | None, ours: float | None, engine: str) -> str:
    if value is None:
        return ""
    said = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if engine == "tripleweb" or not ours or not value or path[-1] in ("n", "triples", "least", "most"):
        return said
    ratio = ours / value if path[-1].endswith(MORE) else value / ours
    return f"{said} ({ratio:.2g})"


def _wrongs(engines: Mapping[str, Any]) -> Iterator[str]:
    def errors(held: Any, path: str) -> Iterator[str]:
        if isinstance(held, Mapping):
            if "error" in held:
                yield f"! {path}: {held['error']}"
            for name, value in held.items():
                yield from errors(value, f"{path}, {name}")

    for engine, facts in engines.items():
        if "broken" in facts:
            yield f"! {engine} is broken: {facts['broken']}"
        yield from errors(facts["figures"], engine)


def _target(verdict: Verdict) -> list[str]:
    amounts = ["" if v is None else f"{v:,.5g}" for v in (verdict.measured, verdict.bound)]
    return [verdict.figure, verdict.said, *amounts, MARKS.get((verdict.word, verdict.must), "?")]
