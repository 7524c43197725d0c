"""What people read of a race: a table a size, the moved subtrees, the targets, and what was not right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.live.judged import MODERATE, Verdict, moved_classes, per_second

TITLES = {
    "join": "one change, a live join",
    "aggregate": "one change, a live aggregate",
    "negation": "one change, a live negation",
    "hundred_changed": "one change, 100 live queries, 80 answers change",
    "hundred_heard": "one change, 100 live queries, 80 look, none changes",
    "recursion_root": "an edge moved in a tree, reports of the root",
    "recursion_manager": "an edge moved in a tree, reports of a third",
    "frame": "a change to a fresh frame of 1,000 rows",
    "point": "a point query, scalar",
    "set": "a write in memory, nobody listens",
    "set_empty": "the same, a store that begins empty",
    "durable_one_by_one": "a durable write (the process may die)",
    "durable_transaction": "the same, within a transaction",
    "durable_full_one_by_one": "a durable write (the machine may die)",
    "durable_full_transaction": "the same, within a transaction",
}
MARKS = {"stretch met": "++", "must met": "+", "missed": "MISSED", "stretch missed": "-", "not measured": "?"}


def tables(told: Mapping[str, Any], judged: Sequence[Verdict]) -> str:
    """All of a race."""
    parts = [f"\n{told['machine']}", *(of_size(users, size) for users, size in told["sizes"].items())]
    return "\n".join([*parts, of_targets(judged)])


def of_size(users: str, size: Mapping[str, Any]) -> str:
    """The engines side by side at one size."""
    parts = [
        f"\n## {size['triples']:,} triples ({users} users)",
        "median us (mean, p99) of tripleweb; of the others median (mean) and median / tripleweb's",
        _quiet(size["engines"]),
        *_figures(size["engines"]),
        *_moved(size["engines"]),
        *_wrongs(size["engines"]),
    ]
    return "\n".join(parts)


def of_targets(judged: Sequence[Verdict]) -> str:
    """What tripleweb ought to be, and is."""
    parts = ["\n## Targets: ++ stretch met, + must met, - stretch missed, MISSED, ? not measured"]
    return "\n".join([*parts, *_targets(judged)])


def _quiet(engines: Mapping[str, Any]) -> str:
    """A fixed piece of Python before each engine, and the load average: how far the figures may be compared."""
    told = [f"{e} {f['calibration_ms']} ms ({f['load_average']:.1f})" for e, f in engines.items()]
    return f"how busy the machine was, by a fixed loop (and load average): {', '.join(told)}\n"


def _figures(engines: Mapping[str, Any]) -> list[str]:
    own = engines.get("tripleweb", {}).get("figures", {})
    rows = [["", *engines]]
    for name, title in TITLES.items():
        cells = []
        for engine, facts in engines.items():
            figure = facts["figures"].get(name, {})
            if "median_us" not in figure:
                cells.append("broken" if "error" in figure else "")
                continue
            cell = f"{_us(figure['median_us'])} ({_us(figure['mean_us'])}"
            if engine == "tripleweb":
                cell += f", {_us(figure['p99_us'])})"
            else:
                ours = own.get(name, {}).get("median_us")
                cell += f") x{_ratio(figure['median_us'] / ours)}" if ours else ")"
            cells.append(cell + ("" if figure.get("agrees", True) else " WRONG"))
        if any(cells):
            rows.append([title, *cells])
        changed = {e: f["figures"].get(name, {}).get("changed_median_us") for e, f in engines.items()}
        if any(changed.values()):
            ours = changed.get("tripleweb")
            rows.append(["  where the answer changes"] + [_beside(v, ours, e) for e, v in changed.items()])
    return aligned(rows)


def _beside(value: float | None, ours: float | None, engine: str) -> str:
    if value is None:
        return ""
    return _us(value) + (f" x{_ratio(value / ours)}" if ours and engine != "tripleweb" else "")


def _moved(engines: Mapping[str, Any]) -> list[str]:
    rows = [["entities in the moved subtree: median us (us an entity)", *engines]]
    classes = {engine: moved_classes(facts["figures"]) for engine, facts in engines.items()}
    for name in ("1", "2-3", "4-15", "16-63", "64-255", "256+"):
        cells = [
            f"{_us(of[name]['median_us'])} ({_us(of[name]['per_moved_us'])})" if name in of else ""
            for of in classes.values()
        ]
        if any(cells):
            rows.append([f"  {name}", *cells])
    return ["", *aligned(rows)] if len(rows) > 1 else []


def _wrongs(engines: Mapping[str, Any]) -> list[str]:
    found = []
    for engine, facts in engines.items():
        if "broken" in facts:
            found.append(f"! {engine} is broken: {facts['broken']}")
        for name, figure in facts["figures"].items():
            if "error" in figure:
                found.append(f"! {engine}, {name}: {figure['error']}")
            elif not figure.get("agrees", True):
                found.append(f"! {engine}, {name}: the answer is WRONG: {figure['difference']}")
    return found


def _targets(judged: Sequence[Verdict]) -> list[str]:
    rows = [["figure", "users", "statistic", "measured", "must", "stretch", ""]]
    for verdict in judged:
        target = verdict.target
        amounts = []
        for value in (verdict.measured, verdict.must, verdict.stretch):
            rate = value is not None and target.figure.partition("_")[0] in ("set", "durable")
            amounts.append(
                "" if value is None else f"{per_second(value):,.0f}/s" if rate else f"{_us(value)} us"
            )
        statistic = target.statistic.removesuffix("_us")
        if target.must_of_small is not None:
            statistic += f", at most {target.must_of_small} times the small size's"
        if target.below_peer is not None:
            statistic += f", below {target.below_peer}'s"
        if target.moved is not None:
            statistic += f", {target.moved} moved"
        if target.must_of_moved is not None:
            statistic += f", at most {target.must_of_moved} times that of {MODERATE}"
        rows.append([target.figure, str(target.users), statistic, *amounts, f"{MARKS[verdict.word]}"])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
