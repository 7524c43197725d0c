"""What tripleweb's figures ought to be beside the others: ratios, and targets with a must and a stretch.

A ratio is the other's time divided by tripleweb's: over 1, tripleweb is faster. Triple peers store generic triples as
tripleweb does; all of the peers are these and the engines with a table a kind, whose schema is the question's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.bench.queries.asked import OWN, PEERS, QUERIES, TABLES, TRIPLES
from tests.bench.sync.judged import Verdict

Engines = Mapping[str, Mapping[str, Any]]  # engine -> what it told
Sizes = Mapping[str, Engines]
LARGE, SMALL = "L", "M"
HOT, FIRST = "hot_ms", "first_ms"

SQLITE = ("sqlite-seed", "sqlite-tuned", "sqlite-native")
DUCKDB = ("duckdb-triples", "duckdb-native")
COZO = ("cozo-triples", "cozo-native")


def time_of(engines: Engines, engine: str, figure: str, which: str = HOT) -> float | None:
    """Milliseconds, of right answers only."""
    told = engines.get(engine, {}).get("figures", {}).get(figure, {})
    return told[which] if told.get("agrees") else None


def best(engines: Engines, of: Iterable[str], figure: str, which: str = HOT) -> tuple[float | None, str]:
    """The fastest of them, and which it is."""
    times = [(time, engine) for engine in of if (time := time_of(engines, engine, figure, which)) is not None]
    return min(times) if times else (None, "")


def ratio(engines: Engines, of: Iterable[str], figure: str, which: str = HOT) -> float | None:
    """The time of the fastest of them divided by tripleweb's."""
    theirs, ours = best(engines, of, figure, which)[0], time_of(engines, OWN, figure, which)
    return theirs / ours if theirs and ours else None


def load_rate(engines: Engines, engine: str) -> float | None:
    """Triples a second."""
    told = engines.get(engine, {})
    return told["triples"] / told["load_s"] if told.get("load_s") else None


def verdicts(sizes: Sizes) -> list[Verdict]:
    """Of the sizes that were run."""
    judges = {LARGE: _large, SMALL: _small}
    return [verdict for size, judge in judges.items() if size in sizes for verdict in judge(sizes[size])]


def _large(engines: Engines) -> Iterator[Verdict]:
    def times(figure: str, of: Sequence[str], said: str, bound: float, must: bool) -> Verdict:
        return _at_least(f"{LARGE} {figure}", said, ratio(engines, of, figure), bound, must)

    for figure in QUERIES:
        if figure == "Q1":
            continue
        bound = {"Q3": 2, "Q5a": 1}.get(figure, 3)
        yield times(figure, TRIPLES, f"{bound} x the best triple peer", bound, True)
        if figure != "Q3":
            yield times(figure, ["datascript"], "30 x DataScript", 30, True)
    for figure, bound in (("Q2", 1.5), ("Q4", 1.2), ("Q3", 3), ("Q5a", 3), ("Q5b", 3), ("Q6", 3)):
        yield times(figure, PEERS, f"{bound} x the best of all", bound, False)
    yield times("closure", DUCKDB, "at most 2 x the time of DuckDB", 1 / 2, True)
    yield times("closure", COZO, "15 x Cozo", 15, True)
    yield times("closure", DUCKDB, "at most 1.5 x the time of DuckDB", 1 / 1.5, False)
    load, tuned = load_rate(engines, OWN), load_rate(engines, "sqlite-tuned")
    figure = f"{LARGE} load, triples/s"
    yield _at_least(figure, "from frames into memory", load, 500_000, True)
    yield _at_least(figure, "4 x SQLite's tuned triples", load, 4 * tuned if tuned else None, True)
    yield _at_least(figure, "from frames into memory", load, 1_000_000, False)
    memory = engines.get(OWN, {}).get("bytes_per_triple")
    figure = f"{LARGE} memory, bytes a triple"
    yield Verdict(figure, "before the first query", memory, 160, False, True)
    yield Verdict(figure, "before the first query", memory, 130, False, False)


def _small(engines: Engines) -> Iterator[Verdict]:
    for figure in QUERIES:
        name = f"{SMALL} {figure}"
        if figure == "Q1":
            beside = ratio(engines, SQLITE, figure)
            yield _at_least(name, "at most 1.3 x the time of SQLite", beside, 1 / 1.3, True)
        else:
            bound = 2 if figure in ("Q2", "Q4", "Q7") else 1
            said = f"{bound} x the best triple peer"
            yield _at_least(name, said, ratio(engines, TRIPLES, figure), bound, True)
        tables = [engine for engine in TABLES if (figure, engine) != ("Q7", "pandas")]  # has that very frame
        yield _at_least(name, "not slower than tables", ratio(engines, tables, figure), 1, False)
    for figure in QUERIES:
        beside = ratio(engines, TRIPLES, figure, FIRST)
        name = f"{SMALL} {figure}, first"
        yield _at_least(name, "at most 2 x the best triple peer's first", beside, 1 / 2, True)
        yield _at_least(name, "ahead of the best triple peer's first", beside, 1, False)


def _at_least(figure: str, said: str, measured: float | None, bound: float | None, must: bool) -> Verdict:
    return Verdict(figure, said, measured, bound, True, must)
