"""Notebooks in a real browser: JupyterLab, Chromium, kernels and server as a person has them.

What is tested is what a person sees: the text of the page, read while the kernel behind it is busy.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import tripleweb
from notebooks.server import JupyterServer
from tests.lab import BUSY, SECONDS, Notebook, run_lab

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent
CONNECT = "%load_ext tripleweb\n%tripleweb connect people"
PEOPLE = (
    "%%datalog people\n[:find ?name ?age :where [?u :user/name ?name] [?u :user/age ?age] :order-by [?name]]"
)


def test_a_table_follows_another_notebook_while_its_kernel_is_busy(
    browser: Browser, lab: JupyterServer
) -> None:
    writer = Notebook(browser, lab, "writer.ipynb", [
        CONNECT,
        "db.insert('user', id='ada', name='Ada', age=36)\ndb.flush()",
        "db.insert('user', id='eve', name='Eve <b>Online</b>', age=22)\ndb.flush()",
        "db.update('user', 'ada', age=37)\ndb.flush()",
    ])  # fmt: skip
    reader = Notebook(browser, lab, "reader.ipynb", [CONNECT, PEOPLE, BUSY])
    writer.run(0)
    writer.run(1)
    reader.run(0)
    reader.run(1)
    table = reader.output(1).locator("table")
    expect(table).to_contain_text("Ada", timeout=20 * SECONDS)

    reader.run(2, wait=False)
    reader.wait_for("busy")
    writer.run(2)
    expect(table).to_contain_text("Eve <b>Online</b>", timeout=20 * SECONDS)
    writer.run(3)
    expect(table).to_contain_text("37", timeout=20 * SECONDS)
    assert reader.prompt(2).strip() == "[*]:", "the long cell has ended: this showed nothing"
    reader.picture("reader")
    writer.picture("writer")

    (lab.work / "enough").touch()
    reader.wait_for("idle")
    (lab.work / "enough").unlink()
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(2)
    assert reader.output(1).count() == 1, "one table, kept up to date, is not a second one"


def test_in_notebook_7(browser: Browser, tmp_path: Path) -> None:
    """A table and a chart follow a colleague while the kernel works, and the table does so after a reload."""
    for server in run_lab(tmp_path, "notebook"):
        with tripleweb.connect("people", url=server.url, token=server.token, path=":memory:") as db:
            db.insert("user", id="ada", name="Ada", age=36)
            db.flush()
            chart = "@people.react\ndef oldest(df):\n    print('oldest:', df['age'].max())"
            notebook = Notebook(browser, server, "seven.ipynb", [CONNECT, PEOPLE, chart, BUSY])
            for number in range(3):
                notebook.run(number)
            table = notebook.output(1).locator(".tripleweb-live")
            expect(table.locator(".state")).to_have_text("live", timeout=20 * SECONDS)
            expect(notebook.output(2)).to_contain_text("oldest: 36", timeout=20 * SECONDS)
            notebook.run(3, wait=False)
            notebook.wait_for("busy")
            db.insert("user", id="eve", name="Eve <b>Online</b>", age=72)
            expect(table).to_contain_text("Eve <b>Online</b>", timeout=20 * SECONDS)
            assert notebook.prompt(3).strip() == "[*]:", "the long cell has ended: this showed nothing"
            (server.work / "enough").touch()
            notebook.wait_for("idle")
            expect(notebook.output(2)).to_contain_text("oldest: 72", timeout=20 * SECONDS)
            notebook.picture("notebook7")
            notebook.command("docmanager:save")
            notebook.page.reload()
            notebook.ready()
            db.update("user", "eve", age=73)
            expect(table).to_contain_text("73", timeout=20 * SECONDS)
            notebook.page.close()


@pytest.mark.parametrize(
    ("name", "pictures"), [("01_quickstart", (0, 9, 16, 20)), ("02_charts", (0, 4, 9, 15))], ids=str
)
def test_the_notebooks_run_from_top_to_bottom(
    browser: Browser, lab: JupyterServer, name: str, pictures: tuple[int, ...]
) -> None:
    file = f"{name}.ipynb"
    shutil.copy(ROOT / "notebooks" / file, lab.work)
    notebook = Notebook(browser, lab, file)
    notebook.cell(0).click()
    notebook.command("notebook:run-all-cells")
    notebook.wait_for("idle")
    notebook.command("docmanager:save")
    for number in pictures:
        notebook.picture(f"{name}-{number}", number)
    ran = json.loads((lab.work / file).read_text(encoding="utf-8"))
    wanted = json.loads((ROOT / "notebooks" / file).read_text(encoding="utf-8"))
    for cell, before in zip(ran["cells"], wanted["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert cell["execution_count"], f"{cell['id']} did not run to its end"
            kinds = {output["output_type"] for output in cell["outputs"]}
            assert "error" not in kinds, cell["outputs"]
            if before["outputs"]:
                assert cell["outputs"] == before["outputs"], cell["id"]
