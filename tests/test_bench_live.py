"""The live bench in small, without peers: what it measures is right, and what goes wrong is told. No time is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.live import race as races
from tests.bench.live.installed import NotInstalled
from tests.bench.live.judged import LARGE, SMALL, compared, figure_of, verdicts
from tests.bench.live.table import tables
from tests.bench.live.workload import Workload, below

FOLLOWED = {
    "join",
    "aggregate",
    "negation",
    "recursion_root",
    "recursion_manager",
    "recursion_sizes",
    "frame",
    "hundred_changed",
    "hundred_heard",
}
WRITES = {"set", "set_empty"} | {
    f"durable{how}_{part}" for how in ("", "_full") for part in ("one_by_one", "transaction")
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return races.race(["--quick", "--users", "30", "--engines", "tripleweb"])


def test_every_answer_is_pandas_answer(told) -> None:
    own = told["sizes"]["30"]["engines"]["tripleweb"]
    assert "broken" not in own, own["broken"]
    figures = own["figures"]
    assert set(figures) == FOLLOWED | WRITES | {"point"}
    for name in FOLLOWED | {"point"}:
        assert figures[name].get("agrees"), (name, figures[name])
    for name, figure in figures.items():
        assert figure["n"] > 0 and 0 < figure["median_us"] <= figure["p99_us"], name


def test_what_was_loaded_is_the_workload(told) -> None:
    size = told["sizes"]["30"]
    assert size["engines"]["tripleweb"]["triples"] == size["triples"] == Workload(30, 20, 1.0).plan.triples


def test_the_figures_are_told_as_json_and_as_a_table(told) -> None:
    assert json.loads(json.dumps(told)) == told
    assert {"python", "commit", "processor", "cores"} <= set(told["machine"])
    text = tables(told, verdicts({}))
    assert "a live negation" in text and "WRONG" not in text and "is broken" not in text


# -- the workload --------------------------------------------------------------------------------------------------


def test_the_workload_is_the_same_each_time() -> None:
    one, other = Workload(20, 30, 1.0), Workload(20, 30, 1.0)
    assert one.entities == other.entities and vars(one.plan) == vars(other.plan)


def test_changes_begin_with_the_data_and_say_what_was_there() -> None:
    workload = Workload(40, 200, 1.0)
    for figure, changes in workload.plan.changes.items():
        now: dict[tuple[str, str], Any] = {}
        for subject, predicate, new, old, *_ in changes:
            field = predicate.partition("/")[2]
            assert now.get((subject, predicate), workload.by_id[subject].get(field)) == old, figure
            now[subject, predicate] = new
    assert any(hit for *_, hit, _ in workload.plan.changes["negation"])
    assert all(hit for *_, hit, _ in workload.plan.changes["hundred_changed"])


def test_moved_edges_leave_a_tree_and_tell_its_size() -> None:
    workload = Workload(60, 200, 1.0)
    manager = {u["id"]: u["managerId"] for u in workload.kinds["user"] if "managerId" in u}
    everybody = len(manager)
    for user, _, new, _, _, moved in workload.plan.changes["recursion_sizes"]:
        manager[user] = new
        reports: dict[str, set[str]] = {u["id"]: set() for u in workload.kinds["user"]}
        for report, boss in manager.items():
            reports[boss].add(report)
        assert len(below(reports, workload.plan.parameters["root"])) == everybody
        assert len(below(reports, user)) + 1 == moved


# -- what goes wrong is told ---------------------------------------------------------------------------------------


def test_another_row_is_another_answer() -> None:
    rows = [["a", 1, 0.1 + 0.2], ["b", 2, 1.0]]
    assert compared(rows, [["b", 2, 1], ["a", 1, 0.3]]) == (True, "")
    for wrong in (rows[:1], [*rows, ["c", 3, 1.0]], [["a", 1, 0.31], rows[1]], [["a", "x", 0.3], rows[1]]):
        assert not compared(wrong, rows)[0]


def test_a_version_that_does_not_follow_the_answer_is_seen() -> None:
    changes = [["s", "p", 1, 0, True, 0], ["s", "p", 1, 1, False, 0], ["s", "p", 2, 1, True, 0]]
    line = {"figure": "join", "us": [3.0, 1.0, 2.0], "rows": [["a"]], "told": [1, 1, 2]}
    assert figure_of(line, changes, [["a"]])["agrees"]
    for versions in ([0, 0, 1], [1, 2, 3], [1, 1, 1]):
        figure = figure_of({**line, "told": versions}, changes, [["a"]])
        assert not figure["agrees"] and "answers changed" in figure["difference"]
    assert not figure_of(line, changes, [["b"]])["agrees"]


def test_the_first_repetitions_are_left_out() -> None:
    figure = figure_of({"figure": "set", "us": [900.0, 900.0, *[1.0] * 8], "rows": None}, [], None)
    assert figure["mean_us"] == figure["p99_us"] == 1.0 and figure["n"] == 8 and figure["first_us"] == 900.0


def test_a_peer_that_breaks_is_told_and_the_others_go_on(monkeypatch) -> None:
    dies = "import sys; open(sys.argv[2], 'w').write('{\"engine\": \"sqlite\"}\\n{\"figure\": '); sys.exit('boom')"

    def command(engine: str) -> list[str]:
        if engine == "tinybase":
            raise NotInstalled("there is no npm")
        return [sys.executable, "-c", dies]

    monkeypatch.setattr(races, "command", command)
    told = races.race(["--quick", "--users", "10", "--engines", "tinybase,sqlite"])
    engines = told["sizes"]["10"]["engines"]
    assert engines["tinybase"]["broken"] == "not installed: there is no npm"
    assert "boom" in engines["sqlite"]["broken"] and engines["sqlite"]["engine"] == "sqlite"
    assert "sqlite is broken" in tables(told, [])


def test_an_engine_that_nobody_knows_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        races.race(["--engines", "oracle"])
    assert "no engine is called oracle" in capsys.readouterr().err


def test_targets_are_judged_by_size_and_by_peer() -> None:
    def figures(join: float, mean: float) -> dict[str, Any]:
        return {"join": {"median_us": join, "mean_us": mean}}

    def words(sizes: dict[int, Any]) -> list[str]:
        return [v.word for v in verdicts(sizes) if v.target.figure == "join"]

    fast = {"tripleweb": figures(4.0, 5.0), "db-ivm": figures(6.0, 28.0)}
    slow = {"tripleweb": figures(13.0, 30.0), "db-ivm": figures(6.0, 28.0)}
    assert words({SMALL: fast, LARGE: fast}) == ["must met", "stretch met", "stretch met", "stretch met"]
    assert words({SMALL: fast, LARGE: slow}) == ["must met", "missed", "stretch met", "stretch missed"]
    assert words({SMALL: slow}) == ["must met", "not measured", "stretch missed", "not measured"]


def test_what_a_moved_subtree_costs_is_judged_by_its_size() -> None:
    def words(small: float, per_large: float) -> list[str]:
        def classes(one: float) -> dict[str, Any]:
            spread = {"1": one, "4-15": 4.0, "64-255": per_large}
            moved = {name: {"median_us": us, "per_moved_us": us, "n": 9} for name, us in spread.items()}
            return {"tripleweb": {"recursion_root": {"by_moved": moved}}}

        judged = verdicts({SMALL: classes(small), LARGE: classes(6.0)})
        return [v.word for v in judged if v.target.figure == "recursion"]

    assert words(2.0, 8.0) == ["must met", "must met", "must met"]
    assert words(1.9, 8.1) == ["missed", "missed", "missed"]


def test_nothing_of_a_peer_names_where_it_comes_from() -> None:
    lock = Path(races.ROOT / "tests/bench/peers/package-lock.json").read_text(encoding="utf-8")
    assert "://" not in lock and json.loads(lock)["packages"]["node_modules/tinybase"]["integrity"]
