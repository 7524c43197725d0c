"""Displayed live frames in a real browser: what pages of the server show, beside kernels and after them.

A writer in this process stands for a colleague. What is looked at is the page, never the kernel.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, expect

import tripleweb
from notebooks.server import JupyterServer
from tests.lab import BUSY, PANEL, SECONDS, Notebook
from tripleweb.database import Database

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

QUERY = "[:find ?id ?name ?age :where [?id :user/name ?name] [?id :user/age ?age] :order-by [?id]]"
CLIENT = "api/tripleweb/v1"


def connect(app: str, magic: str = "") -> str:
    return f"%load_ext tripleweb\n%tripleweb connect {app}{magic}"


def show(query: str = QUERY) -> str:
    return f"%%datalog people\n{query}"


@contextmanager
def colleague(lab: JupyterServer, app: str) -> Iterator[Database]:
    with tripleweb.connect(app, url=lab.url, token=lab.token, path=":memory:") as db:
        yield db


def people(db: Database, count: int, **first: Any) -> None:
    ages = [20 + number % 40 for number in range(count)]
    names = [f"Name {number:06}" for number in range(count)]
    names[0] = first.get("name", names[0])
    db.insert_frame(
        "user", pd.DataFrame({"id": [f"u{n:06}" for n in range(count)], "name": names, "age": ages}), id="id"
    )
    db.flush()


def table(notebook: Notebook, number: int = 1) -> Locator:
    """The live table of a cell, as soon as the page shows it."""
    found = notebook.output(number).locator(".tripleweb-live")
    expect(found.locator(".state")).to_have_text("live", timeout=20 * SECONDS)
    return found


def texts(found: Locator, column: int) -> list[str]:
    return found.locator(f"tbody tr td:nth-child({column})").all_inner_texts()


def until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.02)


def test_it_lives_on_after_a_reload_in_another_browser_and_without_its_kernel(
    browser: Browser,
    lab: JupyterServer,
) -> None:
    """[It keeps itself up to date] also after a page reload, in a second browser and after a kernel restart."""
    with colleague(lab, "alive") as db:
        people(db, 3)
        notebook = Notebook(browser, lab, "alive.ipynb", [connect("alive"), show()])
        notebook.run(0)
        notebook.run(1)
        table(notebook)
        notebook.command("docmanager:save")

        notebook.page.reload()
        notebook.ready()
        db.update("user", "u000001", age=71)
        expect(table(notebook).locator("tbody")).to_contain_text("71", timeout=20 * SECONDS)

        other = Notebook(browser, lab, "alive.ipynb")
        db.update("user", "u000001", age=72)
        for one in (notebook, other):
            expect(table(one).locator("tbody")).to_contain_text("72", timeout=20 * SECONDS)

        notebook.page.evaluate(f"async () => {{ await {PANEL}.sessionContext.shutdown(); }}")
        db.update("user", "u000001", age=73)
        for one in (notebook, other):
            expect(table(one).locator("tbody")).to_contain_text("73", timeout=20 * SECONDS)
        notebook.page.close()
        other.page.close()


def test_what_happens_reaches_the_page_and_leaves_the_notebook_alone(
    browser: Browser, lab: JupyterServer
) -> None:
    with colleague(lab, "clean") as db:
        people(db, 3)
        notebook = Notebook(browser, lab, "clean.ipynb", [connect("clean"), show()])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        notebook.command("docmanager:save")
        dirty = f"{PANEL}.context.model.dirty"
        for age in range(80, 90):
            db.update("user", "u000001", age=age)
            expect(live.locator("tbody")).to_contain_text(str(age), timeout=20 * SECONDS)
        assert notebook.page.evaluate(dirty) is False
        saved = json.loads((lab.work / "clean.ipynb").read_text(encoding="utf-8"))
        (output,) = saved["cells"][1]["outputs"]
        html = "".join(output["data"]["text/html"])
        assert "Name 000001" in html and "data-tripleweb-view" in html
        for secret in (lab.token, ":user/name", lab.url):
            assert secret not in html
        notebook.page.close()


def test_changed_cells_are_lit_and_text_from_data_stays_text(browser: Browser, lab: JupyterServer) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    with colleague(lab, "lit") as db:
        people(db, 3, name=evil)
        notebook = Notebook(browser, lab, "lit.ipynb", [connect("lit"), show()])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        expect(live.locator("tbody")).to_contain_text(evil)
        assert live.locator("tbody img, tbody b").count() == 0
        db.update("user", "u000002", age=55, name=evil.upper())
        lit = live.locator("tbody td.lit-a, tbody td.lit-b")
        expect(lit).to_have_count(2, timeout=20 * SECONDS)
        assert sorted(lit.all_inner_texts()) == sorted(["55", evil.upper()])
        assert notebook.page.title() != "owned"
        notebook.picture("lit")
        notebook.page.close()


def test_100_000_rows_are_sorted_filtered_and_paged_at_the_server(
    browser: Browser, lab: JupyterServer
) -> None:
    with colleague(lab, "many") as db:
        people(db, 100_000)
        notebook = Notebook(browser, lab, "many.ipynb", [connect("many"), show()])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        expect(live.locator(".count")).to_have_text("showing 1–25 of 100,000 rows", timeout=60 * SECONDS)
        live.get_by_label("next page").click()
        until(lambda: texts(live, 1)[0] == "u000025")
        live.locator("th button", has_text="age").click()
        live.locator("th button", has_text="age").click()
        until(lambda: set(texts(live, 3)) == {"59"})
        expect(live.locator("th[aria-sort=descending]")).to_have_text("age")
        live.locator("th button", has_text="name").click(modifiers=["Shift"])
        live.locator("th button", has_text="name").click(modifiers=["Shift"])
        until(lambda: texts(live, 1)[0] == "u099999")
        live.get_by_role("button", name="show the filters").click()
        live.get_by_label("filter name").fill("9999")
        live.get_by_label("filter age").fill("20..30")
        expect(live.locator(".count")).to_contain_text("of 100,000", timeout=20 * SECONDS)
        until(
            lambda: (
                all("9999" in name for name in texts(live, 2))
                and set(texts(live, 3)) <= set("20 21 22 23 24 25 26 27 28 29 30".split())
            )
        )
        notebook.picture("many")
        live.get_by_label("filter age").fill("twenty")
        expect(live.get_by_label("filter age")).to_have_attribute(
            "aria-invalid", "true", timeout=20 * SECONDS
        )
        live.get_by_label("filter age").fill("")
        db.insert("user", id="new", name="a 9999 z", age=59)
        until(lambda: "new" in texts(live, 1))
        notebook.page.close()


def test_what_cannot_be_shown_is_said_and_the_table_goes_on(browser: Browser, lab: JupyterServer) -> None:
    with colleague(lab, "odd") as db:
        people(db, 60)
        notebook = Notebook(browser, lab, "odd.ipynb", [connect("odd"), show()])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        live.get_by_role("button", name="show the filters").click()
        live.get_by_label("filter name").fill("Name")
        live.locator("th button", has_text="age").click()
        expect(live.locator(".count")).to_have_text("showing 1–25 of 60 rows", timeout=20 * SECONDS)
        until(lambda: texts(live, 3)[0] == "20")
        live.get_by_label("filter age").fill("20..40")
        expect(live.locator(".count")).to_contain_text("(of 60)", timeout=20 * SECONDS)
        live.get_by_label("filter name").fill("x" * 100_000)
        expect(live.get_by_role("alert")).to_contain_text("cannot be shown", timeout=20 * SECONDS)
        notebook.picture("odd")
        expect(live.locator(".state")).to_have_text("live")
        expect(live.get_by_label("filter age")).to_have_value("20..40")
        expect(live.get_by_label("filter name")).to_have_value("Name")
        db.update("user", "u000000", age=21)
        until(lambda: "21" in texts(live, 3))
        live.get_by_label("filter age").fill("")
        expect(live.get_by_role("alert")).to_have_text("", timeout=20 * SECONDS)
        expect(live.locator(".count")).to_contain_text("of 60", timeout=20 * SECONDS)

        live.get_by_label("next page").click()
        live.get_by_label("next page").click()
        expect(live.locator("tbody tr")).to_have_count(10, timeout=20 * SECONDS)
        with db.transaction():  # the page that is looked at is gone
            for number in range(45, 60):
                db.delete(f"u{number:06}")
        expect(live.locator("tbody tr")).to_have_count(20, timeout=20 * SECONDS)
        expect(live.locator(".count")).to_have_text("showing 26–45 of 45 rows")
        notebook.page.close()


def test_by_keyboard(browser: Browser, lab: JupyterServer) -> None:
    with colleague(lab, "keys") as db:
        people(db, 60)
        notebook = Notebook(browser, lab, "keys.ipynb", [connect("keys"), show()])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        live.get_by_role("region").focus()
        for key, first in (("PageDown", "u000025"), ("End", "u000050"), ("Home", "u000000")):
            notebook.page.keyboard.press(key)
            until(lambda first=first: texts(live, 1)[0] == first)
        assert len(texts(live, 1)) == 25
        live.locator("th button", has_text="id").focus()
        notebook.page.keyboard.press("Enter")
        notebook.page.keyboard.press("Enter")
        until(lambda: texts(live, 1)[0] == "u000059")
        notebook.page.close()


def test_away_from_the_server_the_kernel_shows_what_waits_here(browser: Browser, lab: JupyterServer) -> None:
    with colleague(lab, "away") as db:
        people(db, 3)
        cells = [
            connect("away"),
            show(),
            "db.go_offline(); db.update('user', 'u000001', age=77)",
            "db.go_online()",
        ]
        notebook = Notebook(browser, lab, "away.ipynb", cells)
        notebook.run(0)
        notebook.run(1)
        table(notebook)
        notebook.run(2)
        output = notebook.output(1)
        expect(output).to_contain_text("77", timeout=20 * SECONDS)
        expect(output).to_contain_text("1 write pending", timeout=20 * SECONDS)
        assert output.locator(".tripleweb-live").count() == 0
        notebook.run(3)
        expect(table(notebook).locator("tbody")).to_contain_text("77", timeout=20 * SECONDS)
        notebook.page.close()


def test_one_socket_and_one_query_however_many_displays(browser: Browser, lab: JupyterServer) -> None:
    with colleague(lab, "fifty") as db:
        people(db, 30)
        notebook = Notebook(browser, lab, "fifty.ipynb", [connect("fifty"), *[show()] * 8])
        sockets: list[str] = []
        notebook.page.on("websocket", lambda socket: sockets.append(socket.url))
        notebook.run(0)
        for number in range(1, 9):
            notebook.run(number)
        for number in range(1, 9):
            notebook.cell(number).scroll_into_view_if_needed()
            table(notebook, number)
        for _ in range(10):
            notebook.run(1)
        table(notebook, 1)
        assert len([url for url in sockets if "/sync" in url]) == 1
        db.update("user", "u000001", age=64)
        for number in range(1, 9):  # what is out of sight is told when it is looked at
            notebook.cell(number).scroll_into_view_if_needed()
            expect(table(notebook, number).locator("tbody")).to_contain_text("64", timeout=20 * SECONDS)
        notebook.page.close()


def test_a_chart_follows_what_others_write(browser: Browser, lab: JupyterServer) -> None:
    """`@live.react`, and `live.plot(…)`, in place, also right after a long cell."""
    chart = "@people.react\ndef chart(df):\n    print('rows', len(df))\n    df.plot.barh(x='name', y='age')"
    with colleague(lab, "charts") as db:
        people(db, 3)
        cells = [connect("charts"), show(), chart, "people.plot(x='name', y='age', kind='bar')"]
        notebook = Notebook(browser, lab, "charts.ipynb", cells)
        for number in range(4):
            notebook.run(number)
        sources = []
        for number in (2, 3):
            notebook.cell(number).scroll_into_view_if_needed()
            picture = notebook.output(number).locator("img")
            expect(picture).to_have_count(1, timeout=20 * SECONDS)
            sources.append(picture.get_attribute("src"))
        expect(notebook.output(2)).to_contain_text("rows 3")
        db.insert("user", id="new", name="New", age=99)
        expect(notebook.output(2)).to_contain_text("rows 4", timeout=20 * SECONDS)
        for number, before in zip((2, 3), sources, strict=True):
            notebook.cell(number).scroll_into_view_if_needed()
            expect(notebook.output(number).locator("img")).not_to_have_attribute(
                "src", before or "", timeout=20 * SECONDS
            )
        assert notebook.output(2).count() == 1
        notebook.picture("charts", 2)
        notebook.page.close()


def test_exported_and_untrusted_it_is_a_plain_table(browser: Browser, lab: JupyterServer) -> None:
    import nbformat
    from nbconvert import HTMLExporter

    with colleague(lab, "plain") as db:
        people(db, 3)
        notebook = Notebook(browser, lab, "plain.ipynb", [connect("plain"), show()])
        notebook.run(0)
        notebook.run(1)
        table(notebook)
        notebook.command("docmanager:save")
        notebook.page.close()
    saved = nbformat.read(lab.work / "plain.ipynb", as_version=4)
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    file = lab.work / "plain.html"
    file.write_text(HTMLExporter(template_name="basic").from_notebook_node(saved)[0], encoding="utf-8")
    page.goto(file.as_uri())
    expect(page.locator(".tripleweb-table tbody tr")).to_have_count(3)
    assert page.locator(".tripleweb-live").count() == 0 and not problems
    page.close()
    saved.cells[1].source += "\n"  # another one than the one that was signed
    saved.cells[1].metadata.trusted = False
    nbformat.write(saved, lab.work / "untrusted.ipynb")
    untrusted = Notebook(browser, lab, "untrusted.ipynb")
    expect(untrusted.output(1).locator(".tripleweb-table tbody tr")).to_have_count(3)
    assert untrusted.output(1).locator(".tripleweb-live").count() == 0
    untrusted.page.close()


def test_from_a_write_to_the_pixel(browser: Browser, lab: JupyterServer, record_property: Any) -> None:
    """How long it takes until a cell shows what was written elsewhere, also while the kernel of the page is busy."""
    with colleague(lab, "pixel") as db:
        people(db, 30)
        notebook = Notebook(browser, lab, "pixel.ipynb", [connect("pixel"), show(), BUSY])
        notebook.run(0)
        notebook.run(1)
        live = table(notebook)
        notebook.page.evaluate(
            """() => {
                window.seen = {};
                const body = document.querySelector(".tripleweb-live tbody");
                new MutationObserver(() => {
                    for (const cell of body.querySelectorAll("td.number")) {
                        window.seen[cell.textContent] ??= Date.now();
                    }
                }).observe(body, {childList: true, subtree: true, characterData: true});
            }"""
        )

        def measured(first: int) -> float:
            waits = []
            for age in range(first, first + 30):
                began = time.time()
                db.update("user", "u000003", age=age)
                expect(live.locator("tbody")).to_contain_text(str(age), timeout=20 * SECONDS)
                waits.append(notebook.page.evaluate(f"window.seen['{age}']") - began * 1e3)
            return statistics.median(waits)

        idle = measured(1_000)
        notebook.run(2, wait=False)
        notebook.wait_for("busy")
        busy = measured(2_000)
        assert notebook.prompt(2).strip() == "[*]:", "the long cell has ended: this showed nothing"
        (lab.work / "enough").touch()
        notebook.wait_for("idle")
        (lab.work / "enough").unlink()
        print(
            f"from a write to the pixel: {idle:.0f} ms, while the kernel is busy {busy:.0f} ms (medians of 30)"
        )
        record_property("pixel_ms", {"idle": idle, "busy": busy})
        notebook.page.close()


def test_the_first_screen_of_the_readme(browser: Browser, lab: JupyterServer) -> None:
    """From nothing to a shared live chart, by what stands there and nothing else."""
    screen = (
        (Path(__file__).resolve().parent.parent / "README.md")
        .read_text(encoding="utf-8")
        .partition("## Two")[0]
    )
    first, chart, other = re.findall(r"```python\n(.*?)```", screen, re.DOTALL)
    query = re.findall(r"```\n(%%datalog.*?)```", screen, re.DOTALL)[0]
    mine = Notebook(browser, lab, "mine.ipynb", [first, chart, "%load_ext tripleweb", query])
    for number in range(4):
        mine.run(number)
    live = table(mine, 0)
    assert sorted(texts(live, 1)) == ["B6 725", "DL 461"]
    mine.cell(1).scroll_into_view_if_needed()
    picture = mine.output(1).locator("img")
    expect(picture).to_have_count(1, timeout=20 * SECONDS)
    before = picture.get_attribute("src")
    yours = Notebook(browser, lab, "yours.ipynb", [other])
    yours.run(0)
    expect(picture).not_to_have_attribute("src", before or "", timeout=20 * SECONDS)
    mine.cell(0).scroll_into_view_if_needed()
    until(lambda: sorted(texts(live, 1)) == ["B6 725", "DL 461", "UA 1545"])
    mine.cell(3).scroll_into_view_if_needed()
    until(lambda: "42" in texts(table(mine, 3), 2))
    mine.picture("readme", 0)
    mine.page.close()
    yours.page.close()


def test_tab_and_the_status_in_jupyterlab(browser: Browser, lab: JupyterServer) -> None:
    """Tab completes within a cell of the magics; `%tripleweb status` keeps itself fresh."""
    with colleague(lab, "typed") as db:
        people(db, 3)
        typed = "%%datalog\n[:find ?n :where [?u :us"
        cells = [connect("typed"), "%tripleweb status", show(), typed, "db.go_offline()"]
        notebook = Notebook(browser, lab, "typed.ipynb", cells)
        for number in range(3):
            notebook.run(number)
        panel = notebook.output(1)
        expect(panel).to_contain_text("online", timeout=20 * SECONDS)
        expect(panel).to_contain_text("(admin)", timeout=20 * SECONDS)  # the members
        expect(panel).to_contain_text(":user/name ?name", timeout=20 * SECONDS)  # what is followed
        notebook.picture("status", 1)
        editor = notebook.cell(3).locator(".cm-content")
        editor.click()
        notebook.page.keyboard.press("Control+End")
        notebook.page.keyboard.press("Tab")
        offers = notebook.page.locator(".jp-Completer")
        expect(offers).to_contain_text(":user/name", timeout=20 * SECONDS)
        expect(offers).to_contain_text(":user/age")
        notebook.page.keyboard.press("Escape")
        notebook.run(4)
        expect(panel).to_contain_text("offline", timeout=20 * SECONDS)
        notebook.page.close()


def test_fifty_frames_and_one_cell_run_fifty_times(browser: Browser, lab: JupyterServer) -> None:
    """Running a cell again leaves one query; fifty displayed frames follow at one socket."""
    many = "frames = [db.live(people_query, n) for n in range(50)]\nfor one in frames:\n    display(one)"
    query = "people_query = '[:find ?id ?age :in $ ?least :where [?id :user/age ?age] [(> ?age ?least)]]'"
    with colleague(lab, "crowded") as db:
        people(db, 30)
        look = "from tripleweb.panel import followed\nlen(followed(db))"
        notebook = Notebook(browser, lab, "crowded.ipynb", [connect("crowded"), show(), look, query, many])
        notebook.run(0)
        for _ in range(50):
            notebook.run(1)
        notebook.run(2)
        expect(notebook.output(2)).to_have_text("1", timeout=20 * SECONDS)
        sockets: list[str] = []
        notebook.page.on("websocket", lambda socket: sockets.append(socket.url))
        notebook.run(3)
        notebook.run(4)
        last = notebook.output(4).locator(".tripleweb-table").last
        last.scroll_into_view_if_needed()
        live = notebook.output(4).locator(".tripleweb-live").last
        expect(live.locator(".state")).to_have_text("live", timeout=30 * SECONDS)
        assert len([url for url in sockets if "/sync" in url]) <= 1
        db.update("user", "u000000", age=99)
        expect(live.locator("tbody")).to_contain_text("99", timeout=20 * SECONDS)
        notebook.page.close()
