"""The race: one engine after the other, each figure on a server of its own; what they told is judged and set side by
side. An engine that breaks keeps what it had told; the others go on."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from tests.bench.live.installed import NotInstalled
from tests.bench.live.race import calibration_ms, machine
from tests.bench.sync.ceiling import ceiling
from tests.bench.sync.figures import ONLY_OWN, QUICK, Engine, Sizes, names
from tests.bench.sync.installed import ENGINES, PINS, words
from tests.bench.sync.judged import verdicts
from tests.bench.sync.kid import Broken
from tests.bench.sync.table import tables

__all__ = ["PINS", "race"]


def race(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench sync")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which ones (default: %(default)s)")
    parser.add_argument("--figures", default=",".join([*names(), "ceiling"]), help="(default: %(default)s)")
    parser.add_argument("--clients", help="how many (default: 1,10,50,200; paced: all but 200)")
    parser.add_argument("--seconds", type=float, help="of what is sustained (default: 30)")
    parser.add_argument("--bursts", type=int, help="how many (default: 7)")
    chosen = parser.parse_args(flags)
    engines, figures = chosen.engines.split(","), chosen.figures.split(",")
    for what, known, given in (
        ("engine", list(ENGINES), engines),
        ("figure", [*names(), "ceiling"], figures),
    ):
        for name in given:
            if name not in known:
                parser.error(f"no {what} is called {name}; there are {', '.join(known)}")
    changed: dict[str, Any] = {}
    if chosen.clients:
        clients = [int(k) for k in chosen.clients.split(",")]
        changed = {"clients": clients, "paced_clients": [k for k in clients if k <= 50]}
    for name in ("seconds", "bursts"):
        if getattr(chosen, name) is not None:
            changed[name] = getattr(chosen, name)
    sizes = Sizes(**{**vars(QUICK if chosen.quick else Sizes()), **changed})

    began = time.monotonic()
    told: dict[str, Any] = {"machine": machine(), "sizes": vars(sizes), "engines": {}}
    for engine in engines:
        told["engines"][engine] = _run(engine, sizes, figures)
    if "ceiling" in figures:
        told["ceiling"] = ceiling(min(5.0, sizes.seconds))
    judged = verdicts({engine: facts["figures"] for engine, facts in told["engines"].items()})
    told["targets"] = [vars(verdict) for verdict in judged]
    told["seconds"] = round(time.monotonic() - began)
    print(tables(told, judged), file=sys.stderr, flush=True)
    return told


def _run(engine: str, sizes: Sizes, figures: Sequence[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "calibration_ms": calibration_ms(),
        "load_average": os.getloadavg()[0],
        "figures": {},
    }
    began = time.monotonic()
    try:
        running = Engine(engine, words(engine), sizes)
    except NotInstalled as error:
        facts["broken"] = f"not installed: {error}"
        return facts
    for figure in names():
        if figure not in figures or (figure in ONLY_OWN and engine != "tripleweb"):
            continue
        print(f"  {engine}: {figure} ...", file=sys.stderr, flush=True)
        try:
            facts["figures"][figure] = getattr(running, figure)()
        except Broken as error:
            facts["figures"][figure] = {"error": str(error)}
    facts["seconds"] = round(time.monotonic() - began)
    return facts
