"""JupyterLab and Notebook 7 in Chromium as tests use them: a server, a browser, notebooks in pages of their own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from notebooks.server import JupyterServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SECONDS = 1000  # Playwright counts in milliseconds
PANEL = "window.jupyterapp.shell.currentWidget"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# works without a pause until it is told to end, or for two minutes
BUSY = """import pathlib, time
until = time.monotonic() + 120
while time.monotonic() < until and not pathlib.Path("enough").exists():
    sum(range(100_000))"""


PAGES = {"jupyterlab": "doc/tree", "notebook": "notebooks"}  # where an application shows a notebook alone


def run_lab(folder: Path, app: str = "jupyterlab") -> Iterator[JupyterServer]:
    """A JupyterLab (or Notebook 7), as long as it is needed."""
    options = ("--LanguageServerManager.autodetect=False", "--expose-app-in-browser")
    with JupyterServer(folder, app=app, options=options) as server:
        yield server


def run_browser() -> Iterator[Browser]:
    """A Chromium, likewise. Skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Notebook:
    """A notebook that is open in a page of its own. `enter`: what a page has to go through to get there."""

    def __init__(
        self,
        browser: Browser,
        lab: JupyterServer,
        name: str,
        cells: list[str] | None = None,
        enter: Callable[[Page], None] | None = None,
    ) -> None:
        if cells is not None:
            (lab.work / name).write_text(json.dumps(written(cells)), encoding="utf-8")
        self.name = name
        self.page: Page = browser.new_page(viewport={"width": 1000, "height": 1100})
        self.page.goto(f"{lab.url}{PAGES[lab.app]}/{name}" + ("" if enter else f"?token={lab.token}"))
        if enter is not None:
            enter(self.page)
        self.ready()

    def ready(self) -> None:
        """Until it is loaded, and its kernel idle."""
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
