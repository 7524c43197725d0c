"""The bench of big queries in small, without peers: what it measures is right, and what goes wrong is told. No time is
judged."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as bench
from tests.bench import history
from tests.bench.live.installed import ROOT, NotInstalled
from tests.bench.queries import race as races
from tests.bench.queries import tracker
from tests.bench.queries.agreed import canonical, compared, digest, figure_of, merged
from tests.bench.queries.asked import FIGURES, NUMBER, OWN, OWN_FILE, PEERS, TEXT, TRUTH
from tests.bench.queries.judged import best, ratio, verdicts
from tests.bench.queries.picture import picture
from tests.bench.queries.table import tables

SQL = ("Q0", "Q1", "Q2", "Q3", "Q4", "Q5a", "Q5b", "Q6", "Q7", "closure")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("queries")
    engines = f"{OWN},{OWN_FILE},sqlite-seed,sqlite-tuned,sqlite-native"
    flags = ["--quick", "--engines", engines, "--rounds", "2"]
    told = races.race([*flags, "--out", str(out), "--history", str(out / "history.jsonl")])
    return {**told, "out": str(out)}


def test_every_answer_is_that_of_plain_python(told) -> None:
    assert told["disagreements"] == []
    engines = told["sizes"]["XS"]["engines"]
    for engine, facts in engines.items():
        assert "broken" not in facts, (engine, facts)
        for name, figure in facts["figures"].items():
            assert figure.get("agrees"), (engine, name, figure)
            assert 0 < figure["least_ms"] <= figure["hot_ms"] <= figure["most_ms"], (engine, name)
            assert len(figure["firsts_ms"]) == 2 and figure["n"] >= 2
    assert set(engines[OWN]["figures"]) == set(FIGURES)
    assert set(engines[OWN_FILE]["figures"]) == set(races.DURABLE)
    for engine in ("sqlite-seed", "sqlite-tuned", "sqlite-native"):
        assert set(SQL) < set(engines[engine]["figures"])


def test_equal_answers_have_equal_digests(told) -> None:
    engines = told["sizes"]["XS"]["engines"]
    for name, figure in engines["sqlite-seed"]["figures"].items():
        own = engines[OWN]["figures"][name]
        assert (own["digest"], own["columns"]) == (figure["digest"], figure["columns"]), name
        assert set(own["columns"]) == set(FIGURES[name].columns)


def test_loads_are_told_with_what_the_disk_allows(told) -> None:
    engines = told["sizes"]["XS"]["engines"]
    for facts in engines.values():
        assert facts["triples"] == told["sizes"]["XS"]["triples"] == 1_453 and facts["load_s"] > 0
    assert engines[OWN_FILE]["raw_write_s"] > 0 and sum(engines[OWN_FILE]["bytes_on_disk"].values()) > 1_453
    assert "pyarrow" in engines[OWN]["note"]


def test_what_was_told_is_kept(told) -> None:
    out = Path(told["out"])
    kept = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    assert {**kept, "out": told["out"]} == told
    text = (out / "tables.md").read_text(encoding="utf-8")
    assert "All answers agree." in text and "WRONG" not in text and "is broken" not in text
    (line,) = history.lines(out / "history.jsonl")
    assert (
        line.bench == "queries"
        and line.figures["XS Q4 hot_ms"] > 0
        and "XS tripleweb load_per_s" in line.figures
    )


# -- data and answers ----------------------------------------------------------------------------------------------


def test_the_data_is_the_same_each_time_and_outside_of_the_checkout(tmp_path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tracker.write(tmp_path / name, "XS")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()
    assert ROOT not in tracker.folder("XS").parents


def test_what_is_written_changes_the_data() -> None:
    given = json.loads((tracker.folder("XS") / "plan.json").read_text(encoding="utf-8"))["parameters"]
    for name in ("scored", "moved"):
        _, new, old = given[name]
        assert new != old


# -- agreement -----------------------------------------------------------------------------------------------------


def test_values_are_the_same_where_they_mean_the_same() -> None:
    assert canonical([[1, 2.0, "3"]], [NUMBER]) == canonical([[1.0, "2", 3]], [NUMBER])
    assert canonical([[0.1 + 0.2]], [NUMBER]) == canonical([[0.3]], [NUMBER])
    assert canonical([[True, 1, "true"]], [TRUTH]) == [["true"] * 3]
    assert canonical([[False, 0, "0"]], [TRUTH]) == [["false"] * 3]
    assert canonical([[None]], [TEXT]) != canonical([["None"]], [TEXT])
    assert canonical([["yes"]], [TRUTH]) != canonical([[True]], [TRUTH])
    assert canonical([["x"]], [NUMBER]) != canonical([["y"]], [NUMBER])


def test_a_digest_is_of_a_bag_of_rows() -> None:
    rows = [("a", "1"), ("b", "2")]
    assert digest(rows) == digest(rows[::-1])
    for other in ([("a", "2"), ("b", "1")], rows[:1], [*rows, rows[0]], [("a1", ""), ("b", "2")]):
        assert digest(rows) != digest(other)


def test_another_row_is_another_answer() -> None:
    columns = [["a", "b"], ["1", "2"]]
    assert compared(columns, [["b", "a"], ["2", "1"]]) == (True, "")
    for wrong, said in (
        ([["a", "b"], ["2", "1"]], "2 rows missing, 2 too many"),
        ([["a"], ["1"]], "1 rows missing, 0 too many"),
        ([["a", "b", "b"], ["1", "2", "2"]], "0 rows missing, 1 too many"),
        ([["a", "b"]], "1 columns instead of 2"),
        ([["a", "b"], ["1"]], r"columns of \[2, 1\] rows"),
        ([], "0 columns instead of 2"),
    ):
        agrees, difference = compared(wrong, columns)
        assert not agrees and re.match(said, difference), difference


def test_the_first_execution_is_told_apart() -> None:
    line = {"figure": "Q0", "ms": [9.0, 1.0, 3.0, 2.0], "columns": [["a"]]}
    figure = figure_of(line, [["a"]])
    assert figure["agrees"] and (figure["first_ms"], figure["hot_ms"], figure["n"]) == (9.0, 2.0, 3)
    assert figure_of({**line, "ms": [9.0]}, [["a"]])["hot_ms"] == 9.0
    slow = figure_of({**line, "ms": [9.0, 5.0, 2.0, 2.0, 7.0, 2.0]}, [["a"]])
    assert (slow["hot_ms"], slow["cold_n"], slow["warming_ms"]) == (2.0, 2, 10.0)
    assert figure_of({**line, "columns": [["b"]]}, [["a"]])["difference"]
    assert figure_of({"figure": "Q0", "error": "no"}, [["a"]]) == {"error": "no"}


def test_rounds_are_merged_and_hide_nothing() -> None:
    def facts(first: float, columns: list[list[str]] | None = None) -> dict[str, Any]:
        line = {"figure": "Q0", "ms": [first, 1.0], "columns": columns or [["a"]]}
        return {"load_s": first, "figures": {"Q0": figure_of(line, [["a"]])}}

    whole = merged([facts(3.0), facts(9.0), facts(4.0)])
    assert whole["load_s"] == whole["figures"]["Q0"]["first_ms"] == 4.0 and whole["figures"]["Q0"]["n"] == 3
    assert not merged([facts(3.0, [["b"]]), facts(4.0)])["figures"]["Q0"]["agrees"]
    assert merged([{**facts(3.0), "broken": "it"}, facts(4.0)])["broken"] == "it"


# -- what goes wrong is told ---------------------------------------------------------------------------------------


def engine(figures: dict[str, Any]) -> list[str]:
    """The command of an engine that tells these figures and dies."""
    lines = "\n".join(json.dumps({"figure": name, **told}) for name, told in figures.items())
    script = f"import sys; open(sys.argv[1], 'w').write({lines!r} + '\\n{{\"fig'); sys.exit('boom')"
    return [sys.executable, "-c", script]


def test_a_wrong_answer_is_loud_and_a_peer_that_breaks_is_told(monkeypatch, tmp_path, capsys) -> None:
    def command(name: str, folder: Path, out: Path, options: Any) -> list[str]:
        if name == "polars":
            raise NotInstalled("there is no wheel")
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        wrong = [cells[1:] for cells in answers["Q4"]]
        told = {
            "Q0": {"ms": [1.0], "columns": answers["Q0"]},
            "Q4": {"ms": [1.0], "columns": wrong},
            "Q6": {"error": "no"},
        }
        return [*engine(told), str(out)]

    monkeypatch.setattr(races, "command", command)
    told = races.race(["--quick", "--engines", "polars,oxigraph", "--out", str(tmp_path)])
    engines = told["sizes"]["XS"]["engines"]
    assert engines["polars"]["broken"] == "not installed: there is no wheel"
    assert "boom" in engines["oxigraph"]["broken"] and engines["oxigraph"]["figures"]["Q0"]["agrees"]
    assert [said.partition(":")[0] for said in told["disagreements"]] == ["XS, oxigraph, Q4"]
    text = tables(told, [])
    assert "oxigraph, Q4: the answer is WRONG: 1 rows missing" in text and "oxigraph, Q6: no" in text

    monkeypatch.setattr(
        sys, "argv", ["bench", "queries", "--quick", "--engines", "oxigraph", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="ANSWERS DISAGREE"):
        bench.main()
    assert json.loads(capsys.readouterr().out)["queries"]["disagreements"]


def test_tripleweb_may_not_break(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(
        races, "command", lambda name, folder, out, options: [*engine({"Q0": {"error": "x"}}), str(out)]
    )
    told = races.race(["--quick", "--engines", OWN, "--out", str(tmp_path)])
    assert [said.partition(":")[0] for said in told["disagreements"]] == [f"XS, {OWN}, Q0", f"XS, {OWN}"]


def test_what_nobody_knows_is_refused(capsys) -> None:
    for flags in (["--engines", "oracle"], ["--figures", "beauty"], ["--sizes", "XXL"]):
        with pytest.raises(SystemExit):
            races.race(flags)
        assert f"is called {flags[1]}" in capsys.readouterr().err


# -- ratios and targets --------------------------------------------------------------------------------------------


def figures(hot: float, first: float = 1.0, agrees: bool = True, **more: float) -> dict[str, Any]:
    told = {name: {"hot_ms": hot, "first_ms": first, "agrees": agrees} for name in FIGURES}
    return {"figures": told, "triples": 1_000_000, **more}


def test_ratios_are_of_right_answers_only() -> None:
    engines = {OWN: figures(2.0), "oxigraph": figures(4.0), "sqlite-tuned": figures(1.0, agrees=False)}
    assert best(engines, PEERS, "Q4") == (4.0, "oxigraph") and ratio(engines, PEERS, "Q4") == 2.0
    assert ratio(engines, ["cozo-triples"], "Q4") is None
    assert ratio({**engines, OWN: figures(2.0, agrees=False)}, PEERS, "Q4") is None


def test_targets_are_judged_beside_the_others() -> None:
    def words(own: dict[str, Any], peer: float, table: float) -> dict[tuple[str, str, bool], str]:
        rivals = {name: figures(peer if name not in ("duckdb-native", "pandas") else table) for name in PEERS}
        rivals["sqlite-tuned"] = figures(peer, load_s=8.0)
        rivals["datascript"] = figures(peer * 10)
        engines = {OWN: own, **rivals}
        return {(v.figure, v.said, v.must): v.word for v in verdicts({"L": engines, "M": engines})}

    good = words(figures(1.0, load_s=1.0, bytes_per_triple=120.0), 30.0, 4.0)
    assert set(good.values()) == {"met"}
    poor = words(figures(1.0, first=3.0, load_s=2.5, bytes_per_triple=140.0), 2.5, 0.4)
    assert poor["L Q2", "3 x the best triple peer", True] == "missed"
    assert (
        poor["L Q3", "2 x the best triple peer", True]
        == poor["L Q5a", "1 x the best triple peer", True]
        == "met"
    )
    assert poor["L Q4", "30 x DataScript", True] == "missed"
    assert poor["L closure", "at most 2 x the time of DuckDB", True] == "missed"
    assert poor["L load, triples/s", "from frames into memory", True] == "missed"
    assert poor["L load, triples/s", "4 x SQLite's tuned triples", True] == "missed"
    assert poor["L memory, bytes a triple", "before the first query", True] == "met"
    assert poor["L memory, bytes a triple", "before the first query", False] == "missed"
    assert poor["M Q1", "at most 1.3 x the time of SQLite", True] == "met"
    assert poor["M Q4", "not slower than tables", False] == "missed"
    assert poor["M Q4, first", "at most 2 x the best triple peer's first", True] == "missed"
    assert {v.word for v in verdicts({"L": {OWN: figures(1.0)}})} == {"not measured"}
    assert verdicts({"S": {OWN: figures(1.0)}}) == []


# -- the picture ---------------------------------------------------------------------------------------------------


def test_the_picture_is_xml_with_a_dot_an_engine(told) -> None:
    size = {"triples": 126, "engines": {OWN: figures(1.0), **{name: figures(5.0) for name in PEERS}}}
    drawn = ElementTree.fromstring(picture({"sizes": {"M": size}}))
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 9 * len(PEERS) and titles[0].endswith("5×")
    assert "prefers-color-scheme: dark" in ElementTree.tostring(drawn, encoding="unicode")
    assert (Path(told["out"]) / "ratios.svg").exists()
    assert (
        picture({"sizes": {}})
        == picture({"sizes": {"M": {"triples": 1, "engines": {OWN: figures(1.0)}}}})
        == ""
    )


# -- the history ---------------------------------------------------------------------------------------------------

MACHINE = {"when": "2026-01-01", "commit": "c" * 40, "changed_files": 0, "processor": "fast", "cores": 2}


def test_what_became_worse_is_shown(tmp_path, capsys) -> None:
    file = tmp_path / "history.jsonl"
    for hot, rate in ((1.0, 900.0), (1.2, 1_000.0), (9.0, 1_100.0)):
        line = {"M Q1 hot_ms": hot, "M Q2 hot_ms": 5.0, "M tripleweb load_per_s": rate}
        history.append(history.Line.of("queries", MACHINE, line), file)
    last = {"M Q1 hot_ms": 1.3, "M Q2 hot_ms": 10.0, "M tripleweb load_per_s": 500.0, "M Q3 hot_ms": 7.0}
    history.append(history.Line.of("queries", {**MACHINE, "cores": 64}, {"M Q1 hot_ms": 0.1}), file)
    history.append(history.Line.of("queries", MACHINE, last), file)
    told = history.run(["--file", str(file)])["queries, 2 cores of fast"]
    assert told["runs"] == 4 and told["worse"] == {"M Q2 hot_ms": 2.0, "M tripleweb load_per_s": 2.0}
    said = capsys.readouterr().err
    assert "beside 3 earlier runs" in said and "3 figures, 0 better, 2 worse" in said
    assert history.run(["--file", str(file), "--tolerance", "3"])["queries, 2 cores of fast"]["worse"] == {}


def test_a_history_of_nothing_or_of_one_run_is_no_regression(tmp_path) -> None:
    file = tmp_path / "history.jsonl"
    assert history.run(["--file", str(file)]) == {}
    history.append(history.Line.of("queries", MACHINE, {"M Q1 hot_ms": 1.0}), file)
    assert history.run(["--file", str(file)])["queries, 2 cores of fast"]["worse"] == {}


def test_a_quick_run_is_not_history(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(history, "FILE", tmp_path / "history.jsonl")
    races.race(["--quick", "--engines", "sqlite-tuned", "--figures", "Q0", "--out", str(tmp_path)])
    assert not history.FILE.exists()
    races.race(
        [
            "--sizes",
            "XS",
            "--rounds",
            "1",
            "--engines",
            "sqlite-tuned",
            "--figures",
            "Q0",
            "--out",
            str(tmp_path),
        ]
    )
    assert len(history.lines(history.FILE)) == 1
