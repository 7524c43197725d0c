"""What people read of a race, as Markdown: times, ratios, loads, targets, and what was not right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.bench.queries.asked import FIGURES, OWN, OWN_FILE, PEERS, QUERIES, TABLES, TRIPLES
from tests.bench.queries.judged import FIRST, HOT, best, load_rate, ratio
from tests.bench.sync.judged import Verdict
from tests.bench.sync.table import MARKS

OTHERS = ("closure", "pull_one", "pull_many", "Q2_written", "Q4_written", "Q5b_written", "Q0")
SPREAD = 1.5


def tables(told: Mapping[str, Any], judged: Sequence[Verdict]) -> str:
    """All of a race."""
    parts = [f"# Big queries\n\n{_machine(told['machine'])}"]
    parts += [of_size(name, size) for name, size in told["sizes"].items()]
    return "\n\n".join([*parts, of_targets(judged), questions()]) + "\n"


def of_size(name: str, size: Mapping[str, Any]) -> str:
    """The engines side by side at one size."""
    engines = size["engines"]
    parts = [
        f"## {name}: {size['triples']:,} triples",
        "\n".join(_wrongs(engines)) or "All answers agree.",
        f"Milliseconds, hot median (first execution); ~ where the hot ones spread: over {SPREAD} times the least:",
        _times(engines, QUERIES),
        "The other's time / tripleweb's, hot (first); over 1, tripleweb is faster:",
        _ratios(engines, QUERIES),
        "Before it is hot: milliseconds beyond the hot median (executions):",
        _table(engines, QUERIES, _warming),
        _times(engines, OTHERS),
        _ratios(engines, OTHERS),
        _loads(engines),
        _quiet(engines),
    ]
    return "\n\n".join(part for part in parts if part)


def of_targets(judged: Sequence[Verdict]) -> str:
    """What tripleweb ought to be, and is."""
    met = sum(v.word == "met" for v in judged if v.must)
    musts = sum(v.word != "not measured" for v in judged if v.must)
    stretched = sum(v.word == "met" for v in judged if not v.must)
    stretches = sum(v.word != "not measured" for v in judged if not v.must)
    counted = f"{met} of {musts} musts met, {stretched} of {stretches} stretches"
    rows = [["figure", "target", "measured", "bound", ""]]
    for verdict in judged:
        amounts = [
            "" if v is None else f"{v:,.0f}" if v >= 1000 else f"{v:.3g}"
            for v in (verdict.measured, verdict.bound)
        ]
        mark = MARKS.get((verdict.word, verdict.must), "?")
        rows.append([verdict.figure, verdict.said, *amounts, mark])
    title = f"## Targets: {counted}\n\n+ must met, ++ stretch met, MISSED, - stretch missed, ? not measured"
    return f"{title}\n\n{markdown(rows)}"


def questions() -> str:
    return "\n".join(f"- {name}: {asked.title}" for name, asked in FIGURES.items())


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head; as wide as its cells, so that it reads well as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['when']}, {machine['cores']} cores of {machine['processor']}, {machine['platform']}, "
        f"Python {machine['python']}, Node {machine['node']}, commit {machine['commit'][:10]} "
        f"({machine['changed_files']} files changed)"
    )


def _there(engines: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    return [name for name in figures if any(name in facts["figures"] for facts in engines.values())]


def _times(engines: Mapping[str, Any], figures: Sequence[str]) -> str:
    return _table(engines, figures, _cell)


def _table(
    engines: Mapping[str, Any], figures: Sequence[str], cell: Callable[[Mapping[str, Any]], str]
) -> str:
    there = _there(engines, figures)
    rows = [["", *there]]
    for engine, facts in engines.items():
        cells = [cell(facts["figures"].get(name, {})) for name in there]
        if any(cells):
            rows.append([engine, *cells])
    return markdown(rows) if len(rows) > 1 else ""


def _warming(figure: Mapping[str, Any]) -> str:
    return f"{short(figure['warming_ms'])} ({figure['cold_n']:g})" if "warming_ms" in figure else ""


def _cell(figure: Mapping[str, Any]) -> str:
    if "error" in figure:
        return "broken"
    if HOT not in figure:
        return ""
    wrong = "" if figure["agrees"] else " WRONG"
    spread = "~" if figure[HOT] > SPREAD * figure["least_ms"] else ""
    return f"{spread}{short(figure[HOT])} ({short(figure[FIRST])}){wrong}"


def _ratios(engines: Mapping[str, Any], figures: Sequence[str]) -> str:
    there = _there(engines, figures)
    rows = [["", *there]]
    for said, group in (
        ("best triple peer", TRIPLES),
        ("best with tables", TABLES),
        ("best of all", PEERS),
        ("DataScript", ("datascript",)),
    ):
        cells = []
        for name in there:
            hot, first = ratio(engines, group, name), ratio(engines, group, name, FIRST)
            who = f" {best(engines, group, name)[1]}" if len(group) > 1 else ""
            cells.append("" if hot is None or first is None else f"{short(hot)} ({short(first)}){who}")
        if any(cells):
            rows.append([said, *cells])
    return markdown(rows) if len(rows) > 1 else ""


def _loads(engines: Mapping[str, Any]) -> str:
    rows = [["", "load s", "triples/s", "bytes a triple", "after the queries", "versions"]]
    for engine, facts in engines.items():
        rate = load_rate(engines, engine)
        if rate is None:
            continue
        after = facts.get("engine_after", {}).get("bytes_per_triple_asked")
        weights = [
            "" if weight is None else f"{weight:,.0f}" for weight in (facts["bytes_per_triple"], after)
        ]
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        rows.append([engine, f"{facts['load_s']:.3g}", f"{rate:,.0f}", *weights, versions])
    return "\n\n".join([markdown(rows), *_notes(engines)]) if len(rows) > 1 else ""


def _notes(engines: Mapping[str, Any]) -> Iterator[str]:
    own = engines.get(OWN, {})
    if "note" in own:
        yield f"{OWN}: {own['note']}."
    if "raw_write_s" in (file := engines.get(OWN_FILE, {})):
        size = sum(file["bytes_on_disk"].values())
        raw = file["triples"] / file["raw_write_s"]
        yield (
            f"{OWN_FILE}: {size / 1e6:,.1f} MB on disk; the same bytes written plainly, with fsync: "
            f"{raw:,.0f} triples/s ({file['raw_write_mb_per_s']} MB/s); opened again in {file['opened_s']} s."
        )


def _quiet(engines: Mapping[str, Any]) -> str:
    told = [f"{e} {f['calibration_ms']} ms ({f['load_average']:.1f})" for e, f in engines.items()]
    return f"How busy the machine was, by a fixed loop (and load average): {', '.join(told)}"


def _wrongs(engines: Mapping[str, Any]) -> Iterator[str]:
    for engine, facts in engines.items():
        if "broken" in facts:
            yield f"! {engine} is broken: {facts['broken']}"
        for name, figure in facts["figures"].items():
            if "error" in figure:
                yield f"! {engine}, {name}: {figure['error']}"
            elif not figure["agrees"]:
                yield f"! {engine}, {name}: the answer is WRONG: {figure['difference']}"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
