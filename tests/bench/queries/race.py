"""The race: one engine after the other over the data of each size, each in a process of its own, in rounds, so that a
busy minute does not hit one engine alone and a first execution is not one sample. What they told is compared, judged,
set side by side, drawn, and added to the history. An engine that breaks keeps what it had told.

The result has `disagreements`: what is in there makes the bench end with an error."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import history
from tests.bench.live.installed import home
from tests.bench.live.race import machine, ran
from tests.bench.queries import tracker
from tests.bench.queries.agreed import figure_of, merged
from tests.bench.queries.asked import FIGURES, OWN, OWN_FILE, QUERIES, TRIPLES
from tests.bench.queries.installed import ENGINES, command
from tests.bench.queries.judged import FIRST, HOT, load_rate, ratio, time_of, verdicts
from tests.bench.queries.picture import picture
from tests.bench.queries.table import of_size, of_targets, tables

DURABLE = ("Q0", "Q4")  # what is asked of a store that was opened again


def race(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench queries")
    parser.add_argument("--quick", action="store_true", help="1,453 triples and few runs: does it work?")
    parser.add_argument("--sizes", help=f"which of {', '.join(tracker.SIZES)} (default: S,M,L)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which ones (default: %(default)s)")
    parser.add_argument("--figures", default=",".join(FIGURES), help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, help="after the first (default: 20, and 7 at L)")
    parser.add_argument("--seconds", type=float, help="a budget for each figure (default: 10)")
    parser.add_argument("--rounds", type=int, help="processes of each engine (default: 3, and 1 at L)")
    parser.add_argument(
        "--out", type=Path, help="a folder for figures, tables and picture (default: in the cache)"
    )
    parser.add_argument(
        "--history", type=Path, help="a file to add a line to (default: the one in the checkout)"
    )
    chosen = parser.parse_args(flags)
    engines, figures = chosen.engines.split(","), chosen.figures.split(",")
    sizes = (chosen.sizes or ("XS" if chosen.quick else "S,M,L")).split(",")
    for what, known, given in (
        ("engine", ENGINES, engines),
        ("figure", FIGURES, figures),
        ("size", tracker.SIZES, sizes),
    ):
        for name in given:
            if name not in known:
                parser.error(f"no {what} is called {name}; there are {', '.join(known)}")

    began = time.monotonic()
    told: dict[str, Any] = {"machine": machine(), "sizes": {}}
    for size in sizes:
        options = {
            "runs": chosen.runs or (3 if chosen.quick else 7 if size == "L" else 20),
            "seconds": chosen.seconds or (1.0 if chosen.quick else 10.0),
            "rounds": chosen.rounds or (1 if chosen.quick or size == "L" else 3),
            "figures": figures,
        }
        told["sizes"][size] = _size(size, engines, options)
        print("\n" + of_size(size, told["sizes"][size]), file=sys.stderr, flush=True)
    held = {name: size["engines"] for name, size in told["sizes"].items()}
    judged = verdicts(held)
    told["targets"] = [{**vars(verdict), "word": verdict.word} for verdict in judged]
    told["disagreements"] = list(_disagreements(held))
    told["seconds"] = round(time.monotonic() - began)
    print("\n" + of_targets(judged), file=sys.stderr, flush=True)
    _keep(told, tables(told, judged), chosen.out)
    if chosen.history or not chosen.quick:
        line = history.Line.of("queries", told["machine"], dict(_figures(held)))
        history.append(line, chosen.history or history.FILE)
    return told


def _size(size: str, engines: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    folder = tracker.folder(size)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    expected = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    rounds: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for number in range(options["rounds"]):
        for engine in engines:
            said = f"{size}, {plan['triples']:,} triples, round {number + 1}: {engine} ..."
            print(f"  {said}", file=sys.stderr, flush=True)
            rounds[engine].append(_run(engine, folder, options, expected))
    told = {engine: merged(facts) for engine, facts in rounds.items()}
    return {"triples": plan["triples"], "options": options, "engines": told}


def _run(
    engine: str, folder: Path, options: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """One process of one engine."""
    if engine == OWN_FILE:
        options = {**options, "figures": [name for name in options["figures"] if name in DURABLE]}
    with tempfile.TemporaryDirectory(prefix="tripleweb-bench-") as scratch:
        out = Path(scratch) / "told.jsonl"
        facts, lines = ran(lambda: command(engine, folder, out, options), out)
    for line in lines:
        if "figure" in line:
            facts["figures"][line["figure"]] = figure_of(line, expected[line["figure"]])
        else:
            facts |= line
    return facts


def _disagreements(sizes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Wrong answers of anybody; and tripleweb's failures, since a figure that is missing is no figure that is good."""
    return [
        f"{size}, {engine}, {name}: {figure.get('difference') or figure.get('error')}"
        for size, engines in sizes.items()
        for engine, facts in engines.items()
        for name, figure in facts["figures"].items()
        if not figure.get("agrees") and ("difference" in figure or engine in (OWN, OWN_FILE))
    ] + [
        f"{size}, {engine}: {engines[engine]['broken']}"
        for size, engines in sizes.items()
        for engine in (OWN, OWN_FILE)
        if "broken" in engines.get(engine, {})
    ]


def _figures(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What is remembered of a run."""
    kept: dict[str, float | None] = {}
    for size, engines in sizes.items():
        for figure in FIGURES:
            for which in (HOT, FIRST):
                kept[f"{size} {figure} {which}"] = time_of(engines, OWN, figure, which)
            if figure in QUERIES:
                kept[f"{size} {figure} times"] = ratio(engines, TRIPLES, figure)
        for engine in (OWN, OWN_FILE):
            kept[f"{size} {engine} load_per_s"] = load_rate(engines, engine)
        own = engines.get(OWN, {})
        kept[f"{size} memory_bytes"] = own.get("bytes_per_triple")
        kept[f"{size} memory_asked_bytes"] = own.get("engine_after", {}).get("bytes_per_triple_asked")
    return {name: float(f"{value:.4g}") for name, value in kept.items() if value is not None}


def _keep(told: Mapping[str, Any], text: str, out: Path | None) -> None:
    folder = out or home() / "queries" / told["machine"]["when"].replace(":", "").replace("+0000", "Z")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    (folder / "tables.md").write_text(text, encoding="utf-8")
    drawn = picture(told)
    if drawn:
        (folder / "ratios.svg").write_text(drawn, encoding="utf-8")
    print(f"\nkept in {folder}", file=sys.stderr, flush=True)
