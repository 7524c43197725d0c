"""Notebooks in a real browser: JupyterLab, Chromium, kernels and server as a person has them.

What is tested is what a person sees: the text of the page, read while the kernel behind it is busy.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from notebooks.server import JupyterServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SECONDS = 1000  # Playwright counts in milliseconds
PANEL = "window.jupyterapp.shell.currentWidget"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    options = ("--LanguageServerManager.autodetect=False", "--expose-app-in-browser")
    with JupyterServer(tmp_path_factory.mktemp("lab"), app="jupyterlab", options=options) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Notebook:
    """A notebook that is open in a page of its own."""

    def __init__(
        self, browser: Browser, lab: JupyterServer, name: str, cells: list[str] | None = None
    ) -> None:
        if cells is not None:
            (lab.work / name).write_text(json.dumps(written(cells)), encoding="utf-8")
        self.name = name
        self.page: Page = browser.new_page(viewport={"width": 1000, "height": 1100})
        self.page.goto(f"{lab.url}doc/tree/{name}?token={lab.token}")
        self.page.wait_for_function(
            "window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=60 * SECONDS
        )
        self.page.evaluate(
            f"async () => {{ await {PANEL}.context.ready; await {PANEL}.sessionContext.ready; }}"
        )
        self.wait_for("idle")

    def wait_for(self, state: str, timeout: float = 60) -> None:
        """Until the kernel is in this state."""
        self.page.wait_for_function(
            f"{PANEL}.sessionContext.session?.kernel?.status === {json.dumps(state)}",
            timeout=timeout * SECONDS,
        )

    def command(self, name: str, *, wait: bool = True) -> None:
        run = f"window.jupyterapp.commands.execute({json.dumps(name)})"
        self.page.evaluate(f"async () => {{ {'await' if wait else ''} {run}; }}")

    def run(self, number: int, *, wait: bool = True) -> None:
        """Runs a cell (they count from 0); without `wait`, only begins to."""
        self.cell(number).locator(".jp-InputArea-editor").click()
        self.command("notebook:run-cell", wait=wait)

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def output(self, number: int) -> Locator:
        return self.cell(number).locator(".jp-OutputArea-output")

    def prompt(self, number: int) -> str:
        return self.cell(number).locator(".jp-InputPrompt").inner_text()

    def picture(self, name: str, cell: int = 0) -> None:
        """Keeps a screenshot that begins at a cell, where `TRIPLEWEB_PICTURES` names a folder for them."""
        if folder := os.environ.get("TRIPLEWEB_PICTURES"):
            self.page.evaluate(f"async () => {{ await {PANEL}.content.scrollToItem({cell}, 'start'); }}")
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def written(cells: list[str]) -> dict[str, Any]:
    return {
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
            for n, text in enumerate(cells)
        ],
        "metadata": {"kernelspec": KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


CONNECT = "%load_ext tripleweb\n%tripleweb connect people"
# works without a pause until it is told to end, or for two minutes
BUSY = """import pathlib, time
until = time.monotonic() + 120
while time.monotonic() < until and not pathlib.Path("enough").exists():
    sum(range(100_000))"""
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
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(2)
    assert reader.output(1).count() == 1, "one table, kept up to date, is not a second one"


def test_the_quickstart_runs_from_top_to_bottom(browser: Browser, lab: JupyterServer) -> None:
    shutil.copy(ROOT / "notebooks" / "01_quickstart.ipynb", lab.work)
    notebook = Notebook(browser, lab, "01_quickstart.ipynb")
    notebook.cell(0).click()
    notebook.command("notebook:run-all-cells")
    notebook.wait_for("idle")
    notebook.command("docmanager:save")
    for number in (0, 9, 16, 20):
        notebook.picture(f"quickstart-{number}", number)
    ran = json.loads((lab.work / "01_quickstart.ipynb").read_text(encoding="utf-8"))
    wanted = json.loads((ROOT / "notebooks" / "01_quickstart.ipynb").read_text(encoding="utf-8"))
    for cell, before in zip(ran["cells"], wanted["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert cell["execution_count"], f"{cell['id']} did not run to its end"
            kinds = {output["output_type"] for output in cell["outputs"]}
            assert "error" not in kinds, cell["outputs"]
            if before["outputs"]:
                assert cell["outputs"] == before["outputs"], cell["id"]
