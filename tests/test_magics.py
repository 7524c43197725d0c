"""The magics in a real IPython shell: what they bind, what they show, and how errors look and count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

import tripleweb
from tripleweb.database import Database
from tripleweb.errors import NoServerError, QueryError, SchemaError, TriplewebError
from tripleweb.live import LiveFrame
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with the magics loaded; nothing is connected."""
    quiet = Config()
    quiet.HistoryManager.enabled = False
    quiet.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=quiet)
    run(shell, "%load_ext tripleweb")
    yield shell
    if "tripleweb" in shell.extension_manager.loaded:
        run(shell, "%unload_ext tripleweb")
    InteractiveShell.clear_instance()


@pytest.fixture
def people(shell: InteractiveShell) -> Iterator[Database]:
    """The same, with a local store called `db`."""
    with tripleweb.open() as db:
        db.insert("user", id="ada", name="Ada", age=36)
        db.insert("user", id="bob", name="Bob", age=51)
        db.insert("user", id="eve", name="Eve", age=22)
        shell.user_ns["db"] = db
        yield db


def run(shell: InteractiveShell, cell: str) -> Any:
    """The value of the cell. Raises what it raised."""
    result = shell.run_cell(cell)
    result.raise_error()
    return result.result


def expect_failure(shell: InteractiveShell, cell: str, error: type[BaseException]) -> ExecutionResult:
    """The outcome of a cell that must fail so, as run-all would notice."""
    result = shell.run_cell(cell)
    assert not result.success
    assert isinstance(result.error_in_exec, error), result.error_in_exec
    return result


NAMES = "[:find ?name :where [?u :user/name ?name]]"
OLDER = "[:find ?name :in $ ?min-age :where [?u :user/name ?name] [?u :user/age ?a] [(> ?a ?min-age)]]"


# ---------------------------------------- loading


def test_load_again_changes_nothing(shell: InteractiveShell) -> None:
    before = shell.magics_manager.registry["TriplewebMagics"]
    run(shell, "%load_ext tripleweb")
    tripleweb.load_ipython_extension(shell)
    assert shell.magics_manager.registry["TriplewebMagics"] is before


def test_unload_takes_everything_away(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%unload_ext tripleweb")
    for magic in ("tripleweb", "tw", "datalog"):
        assert shell.find_line_magic(magic) is None
    assert shell.find_cell_magic("datalog") is None
    run(shell, "%load_ext tripleweb")
    assert shell.find_cell_magic("datalog") is not None


# ---------------------------------------- without a store


@pytest.mark.parametrize(
    "cell",
    [
        f"%%datalog\n{NAMES}",
        f"%datalog {NAMES}",
        "%tripleweb status",
        "%tripleweb offline",
        "%tw",
        "%tw disconnect",
    ],
)
def test_without_a_store_it_says_how_to_get_one(
    shell: InteractiveShell, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_failure(shell, cell, UsageError)
    shown = "".join(capsys.readouterr())
    assert "%tripleweb connect my-app" in shown and len(shown.strip().splitlines()) == 1, shown


def test_something_else_called_db_is_no_store(shell: InteractiveShell) -> None:
    shell.user_ns["db"] = "sqlite://"
    expect_failure(shell, f"%datalog {NAMES}", UsageError)


@pytest.mark.parametrize(
    "cell",
    [
        "%tripleweb connect",
        "%tripleweb connect a b",
        "%tripleweb connect my-app --schema nowhere",
        "%tripleweb connect my-app --nonsense",
        "%tripleweb dance",
        "%tripleweb status my-app",
    ],
)
def test_a_magic_called_wrongly(
    shell: InteractiveShell, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_failure(shell, cell, UsageError)
    assert len("".join(capsys.readouterr()).strip().splitlines()) == 1


def test_connect_without_any_server(
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))  # where a server that runs here is not announced
    expect_failure(shell, "%tripleweb connect my-app", NoServerError)
    shown = "".join(capsys.readouterr())
    assert "NoServerError" in shown and "Traceback" not in shown and "db" not in shell.user_ns


# ---------------------------------------- queries


def test_a_cell_is_a_live_frame(shell: InteractiveShell, people: Database) -> None:
    answer = run(shell, f"%%datalog names\n{NAMES}")
    names = shell.user_ns["names"]
    assert answer is names and isinstance(names, LiveFrame)
    assert sorted(names.df["name"]) == ["Ada", "Bob", "Eve"]
    people.insert("user", name="Zoe")
    assert sorted(names.df["name"]) == ["Ada", "Bob", "Eve", "Zoe"]


def test_without_a_name_it_is_only_shown(shell: InteractiveShell, people: Database) -> None:
    before = set(shell.user_ns)
    assert len(run(shell, f"%%datalog\n{NAMES}")) == 3
    assert {name for name in set(shell.user_ns) - before if not name.startswith("_")} == set()


def test_once_is_the_answer_of_this_moment(shell: InteractiveShell, people: Database) -> None:
    run(shell, f"%%datalog names --once\n{NAMES}")
    run(shell, "%%datalog ages --once\n[:find [?a ...] :where [_ :user/age ?a]]")
    people.insert("user", name="Zoe", age=1)
    assert isinstance(shell.user_ns["names"], pd.DataFrame) and len(shell.user_ns["names"]) == 3
    assert sorted(shell.user_ns["ages"]) == [22, 36, 51]


def test_a_line_is_a_value(shell: InteractiveShell, people: Database) -> None:
    assert run(shell, "oldest = %datalog [:find (max ?a) . :where [_ :user/age ?a]]") is None
    assert shell.user_ns["oldest"] == 51
    assert len(run(shell, f"%datalog {NAMES}")) == 3


@pytest.mark.parametrize(
    ("limit", "expected"), [("", 2), ("--limit 1", 1), ("--limit=5", 2), ("--limit 0", 0)]
)
@pytest.mark.parametrize("once", ["", "--once"])
def test_limit(shell: InteractiveShell, people: Database, limit: str, expected: int, once: str) -> None:
    query = "[:find ?name :where [?u :user/name ?name] :order-by [?name] :limit 2] ; at most two ]"
    names = run(shell, f"%%datalog {once} {limit}\n{query}")
    assert list(names["name"]) == ["Ada", "Bob"][:expected]


@pytest.mark.parametrize("line", ["--nope", "a b", "no-name", "--limit many", "--limit -1"])
def test_a_wrong_line_above_a_query(shell: InteractiveShell, people: Database, line: str) -> None:
    expect_failure(shell, f"%%datalog {line}\n{NAMES}", UsageError)


# ---------------------------------------- inputs


def test_inputs_are_the_variables_of_the_notebook(shell: InteractiveShell, people: Database) -> None:
    run(shell, "min_age = 30")
    assert sorted(run(shell, f"%%datalog\n{OLDER}").df["name"]) == ["Ada", "Bob"]
    assert sorted(run(shell, f"%datalog {OLDER}")["name"]) == ["Ada", "Bob"]
    run(shell, "names, low, high = ['Ada', 'Eve'], 20, 30")
    where = "[?u :user/name ?names] [?u :user/age ?a] [(< ?low ?a ?high)]"
    cell = f"%%datalog --once\n[:find ?u :in [?names ...] [?low ?high] $ :where {where}]"
    assert list(run(shell, cell)["u"]) == ["eve"]
    shell.user_ns.update(name=pd.Series(["Ada", "Bob"]), bonus=[1, 2])
    cell = "%%datalog --once\n[:find ?u ?bonus :in $ [[?name ?bonus]] :where [?u :user/name ?name] :order-by [?u]]"
    assert run(shell, cell).values.tolist() == [["ada", 1], ["bob", 2]]


def test_a_function_of_the_notebook(shell: InteractiveShell, people: Database) -> None:
    run(shell, "def is_old(age):\n    return age > 50")
    cell = "%%datalog --once\n[:find [?u ...] :in $ ?is-old :where [?u :user/age ?a] [(?is-old ?a)]]"
    assert list(run(shell, cell)) == ["bob"]


def test_inside_of_a_function_its_own_variables_count(shell: InteractiveShell, people: Database) -> None:
    run(shell, f"min_age = 1\ndef older(min_age):\n    answer = %datalog {OLDER}\n    return answer")
    assert list(run(shell, "older(50)")["name"]) == ["Bob"]


def test_text_is_never_interpolated(shell: InteractiveShell, people: Database) -> None:
    run(shell, "name = 'Ada'\nuser = 'x'")
    for text in ("{name}", "$name", "$$name", '{db.delete(\\"ada\\")}'):
        for cell in (f'%datalog [:find ?u :in $ ?user :where [?u :user/name "{text}"]]',
                     f'%%datalog --once\n[:find ?u :in $ ?user :where [?u :user/name "{text}"]]'):  # fmt: skip
            assert run(shell, cell).empty
    people.insert("user", id="odd", name="{name}")
    assert list(run(shell, '%datalog [:find ?u :where [?u :user/name "{name}"]]')["u"]) == ["odd"]


@pytest.mark.parametrize(
    ("query", "column", "said"),
    [
        (OLDER, 20, "the notebook has no min_age"),
        ("[:find ?u :where [?u :user/name ?n] :in $ ?n]", 43, "the notebook has no n"),
        ("{:find [?u] :in [$ [?n ...]] :where [[?u :user/name ?n]]}", 21, "the notebook has no n"),
    ],
)
def test_a_missing_input(
    shell: InteractiveShell, people: Database, query: str, column: int, said: str
) -> None:
    error = expect_failure(shell, f"%%datalog\n{query}", QueryError).error_in_exec
    assert said in str(error) and (error.line, error.column) == (1, column)


def test_columns_of_an_input_relation_have_one_length(shell: InteractiveShell, people: Database) -> None:
    run(shell, "n, a = [1, 2], [1]")
    expect_failure(shell, "%%datalog\n[:find ?n :in [[?n ?a]] :where [?u :user/age ?a]]", QueryError)


# ---------------------------------------- errors


def test_an_error_is_a_line_and_a_caret(
    shell: InteractiveShell, people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "[:find ?name\n :where [?u :user/name ?name]\n\t[(bigger ?name 3)]]"
    error = expect_failure(shell, f"%%datalog names\n{query}", QueryError).error_in_exec
    lines = "".join(capsys.readouterr()).strip("\n").splitlines()
    assert (error.line, error.column) == (3, 4)
    assert lines[0].startswith("QueryError: ") and "(line 3, column 4)" in lines[0]
    assert lines[1:] == [" [(bigger ?name 3)]]", "   ^"]
    assert "names" not in shell.user_ns


def test_a_long_line_is_shown_round_the_place(
    shell: InteractiveShell, people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "[?u :user/name ?name] " * 20
    expect_failure(shell, f"%datalog [:find ?name :where {where} [(bigger ?name 3)] {where}]", QueryError)
    _, shown, caret = "".join(capsys.readouterr()).strip("\n").splitlines()
    assert len(shown) < 110 and shown.startswith("…") and shown.endswith("…")
    assert shown[caret.index("^") :].startswith("bigger")


def test_an_error_is_one_that_python_code_can_catch(shell: InteractiveShell, people: Database) -> None:
    run(
        shell,
        "from tripleweb.errors import QueryError\n"
        "try:\n    get_ipython().run_cell_magic('datalog', '', '[:find')\n"
        "except QueryError as error:\n    caught = error.line, error.column",
    )
    assert shell.user_ns["caught"] == (1, 1)


def test_an_error_of_the_answer_is_shown_as_well(shell: InteractiveShell, people: Database) -> None:
    """A query that can be read but not run fails in its own cell, not when somebody looks at the frame."""
    expect_failure(shell, "%%datalog\n[:find ?b :where [(+ ?a 1) ?b]]", QueryError)


def test_nbval_and_run_all_stop_at_it(tmp_path: Path) -> None:
    def cell(name: str, source: str) -> dict[str, object]:
        empty: dict[str, object] = {"metadata": {}, "outputs": [], "execution_count": None}
        return {"cell_type": "code", "id": name, "source": source, **empty}

    notebook = {
        "cells": [
            cell("load", "%load_ext tripleweb\nimport tripleweb"),
            cell("not-connected", f"%datalog {NAMES}"),
            cell("open", "db = tripleweb.open()"),
            cell("wrong", "%%datalog\n[:find ?name]"),
        ],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    (tmp_path / "wrong.ipynb").write_text(json.dumps(notebook))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    assert "nowhere bound" in done.stdout and "%tripleweb connect my-app" in done.stdout


# ---------------------------------------- rules

ADULT = "[(adult ?u) [?u :user/age ?a] [(>= ?a 36)]]"


def test_rules_of_a_cell_are_kept(shell: InteractiveShell, people: Database) -> None:
    book = run(shell, f"%%rules\n{ADULT}\n[(named ?u ?n) [?u :user/name ?n]]")
    assert book.names == ["adult", "named"]
    query = "[:find ?n :where (adult ?u) (named ?u ?n)]"
    assert sorted(run(shell, f"%datalog {query}")["n"]) == ["Ada", "Bob"]
    assert sorted(run(shell, f"%%datalog --once\n{query.replace(':where', ':in $ % :where')}")["n"]) == [
        "Ada",
        "Bob",
    ]
    live = run(shell, f"%%datalog old\n{query.replace(':where', ':in % $ :where')}")
    assert sorted(live.df["n"]) == ["Ada", "Bob"]
    people.insert("user", name="Cy", age=40)
    assert sorted(live.df["n"]) == ["Ada", "Bob", "Cy"]


def test_a_wrong_rule_is_shown_where_it_is(shell: InteractiveShell, people: Database) -> None:
    expect_failure(shell, "%%rules\n[(adult ?u) [?u :user/age", QueryError)
    expect_failure(shell, f"%%rules now\n{ADULT}", UsageError)
    assert len(people.rules()) == 0


# ---------------------------------------- a server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A real server on loopback, which the environment names as it does in a kernel."""
    with WebServer(MemoryStores(), owner="ada") as server:
        monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
        monkeypatch.setenv("TRIPLEWEB_URL", server.url)
        monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
        yield server


def test_connect_binds_db(shell: InteractiveShell, server: WebServer) -> None:
    """[The status:] its repr and HTML are what `%tripleweb status` shows."""
    status = run(shell, "%tripleweb connect my-app")
    db = shell.user_ns["db"]
    assert isinstance(db, Database)
    assert (status.app, status.state, status.server) == ("my-app", "online", server.url)
    shown = run(shell, "%tw status")
    assert repr(shown) == repr(db.status)
    assert shown._repr_html_().startswith(db.status._repr_html_())
    with tripleweb.connect("my-app") as other:
        other.insert("user", name="Ada")
        other.flush()
    names = run(shell, f"%%datalog\n{NAMES}")
    names.wait(until=lambda df: list(df["name"]) == ["Ada"])


def test_the_apps_of_the_server(shell: InteractiveShell, server: WebServer) -> None:
    run(shell, "%tripleweb connect my-app")
    apps = run(shell, "%tripleweb apps")
    assert list(apps.columns) == ["id", "name", "role"]
    assert apps.to_dict("records") == [{"id": "my-app", "name": "my-app", "role": "admin"}]
    assert run(shell, f"%tw apps --url {server.url}").equals(apps)
    expect_failure(shell, "%tripleweb apps --url http://127.0.0.1:1/", NoServerError)


def test_a_schema_is_a_variable_of_the_notebook(shell: InteractiveShell, server: WebServer) -> None:
    run(
        shell, "from tripleweb import t\nimport tripleweb\nrules = tripleweb.schema(user={'age': t.number()})"
    )
    run(shell, "%tripleweb connect my-app --schema rules")
    expect_failure(shell, "db.insert('user', age='old')", SchemaError)


def test_connecting_again_leaves_no_second_session(shell: InteractiveShell, server: WebServer) -> None:
    run(shell, "%tripleweb connect my-app")
    first = shell.user_ns["db"]
    first.insert("user", name="Ada")
    run(shell, "%tripleweb connect my-app")
    second = shell.user_ns["db"]
    assert first is not second
    with pytest.raises(TriplewebError, match="closed"):
        first.insert("user", name="Eve")
    assert list(second.frame("user")["name"]) == ["Ada"]


def test_another_app_leaves_the_first_alone(shell: InteractiveShell, server: WebServer) -> None:
    run(shell, "%tripleweb connect one\none = db")
    run(shell, "%tripleweb connect two")
    assert shell.user_ns["one"].insert("user", name="Ada")
    assert shell.user_ns["db"].status.app == "two"


def test_the_doctor(shell: InteractiveShell, server: WebServer) -> None:
    """tests/test_doctor.py says what it finds."""
    run(shell, "%tripleweb connect notes")
    run(shell, "report = get_ipython().run_line_magic('tripleweb', 'doctor')")
    report = shell.user_ns["report"]
    assert report.is_well and "db: <tripleweb: " in repr(report)
    run(shell, f"report = get_ipython().run_line_magic('tw', 'doctor --url {server.url}')")
    assert server.url in repr(shell.user_ns["report"])


def test_offline_online_disconnect(shell: InteractiveShell, server: WebServer) -> None:
    run(shell, "%tripleweb connect my-app")
    db = shell.user_ns["db"]
    run(shell, "%tripleweb offline")
    assert db.status.state == "offline"
    db.insert("user", name="Ada")
    assert db.status.pending == 1
    run(shell, "%tripleweb online")
    db.flush(timeout=10)
    assert db.status.pending == 0
    run(shell, "%tripleweb disconnect")
    assert "db" not in shell.user_ns
    with pytest.raises(TriplewebError, match="closed"):
        db.insert("user", name="Eve")


def test_unload_closes_what_connect_opened(shell: InteractiveShell, server: WebServer) -> None:
    run(shell, "%tripleweb connect one\none = db")
    run(shell, "%tripleweb connect two\ntwo = db")
    own = shell.user_ns["own"] = tripleweb.open()
    run(shell, "%unload_ext tripleweb")
    for name in ("one", "two"):
        with pytest.raises(TriplewebError, match="closed"):
            shell.user_ns[name].insert("user", name="Ada")
    assert own.insert("user", name="Ada")
    own.close()


def test_a_bad_app_name_is_one_line(
    shell: InteractiveShell, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_failure(shell, "%tripleweb connect .hidden", ValueError)
    assert len("".join(capsys.readouterr()).strip().splitlines()) == 1
