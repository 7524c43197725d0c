"""The panel of `%tripleweb status`: what it says, that it follows, and that it costs nothing while nothing happens."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import tripleweb
from tests.live_host import wait_until
from tests.test_display import Output, Shell
from tripleweb import display, panel
from tripleweb.database import Database
from tripleweb.panel import Panel, followed
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer

NAMES = "[:find ?name :where [_ :user/name ?name]]"


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    shell, out = Shell(), []

    def put_out(bundle: dict[str, str], raw: bool, display_id: bool = False) -> Output:
        out.append(Output())
        out[-1].shown.append(bundle)
        return out[-1]

    monkeypatch.setattr(display, "running_shell", lambda: shell)
    monkeypatch.setattr("IPython.display.display", put_out)
    monkeypatch.setattr(panel, "PAUSE_S", 0.05)
    monkeypatch.setattr(display, "PAUSE", 0.01)
    return out


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as server:
        yield server


def connect(server: WebServer, **more: Any) -> Database:
    return tripleweb.connect("my-app", url=server.url, token=server.token, path=":memory:", **more)


def test_it_begins_with_the_status() -> None:
    with tripleweb.open() as db:
        shown = Panel(db)
        assert repr(shown) == repr(db.status)
        assert shown._repr_html_() == db.status._repr_html_()


def test_it_tells_what_is_followed() -> None:
    with tripleweb.open() as db:
        db.insert("user", name="Ada")
        names = db.live(NAMES)
        again = db.live(NAMES)
        never = db.live("[:find ?e :where [?e :user/age <script>]]".replace("<script>", '"<script>"'))
        assert len(names.df) == 1
        one, other = followed(db)[1], followed(db)[0]
        assert (one.text, one.rows, one.frames, one.reason) == (NAMES, 1, 2, "")
        assert one.cost is not None
        assert other.rows is None
        html = Panel(db)._repr_html_()
        assert "not looked at" in html and "&lt;script&gt;" in html and "<script>" not in html
        del again, never


def test_it_follows_and_ends_with_its_cell(
    outputs: list[Output], server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPLEWEB_URL", server.url)
    monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
    with connect(server) as db:
        assert db._session.wait_for(lambda: db._session.core.caught_up, 10)
        shown = Panel(db)
        shown._ipython_display_()
        (output,) = outputs
        wait_until(lambda: "ada (" in output.shown[-1]["text/html"])  # the members, asked for beside it
        db.go_offline()
        wait_until(lambda: "offline" in output.text)
        db.insert("user", name="Ada")
        wait_until(lambda: "1 write pending" in output.text)
        display.running_shell().run_cell("one")
        count = len(output.shown)
        db.go_online()
        db.flush()
        assert len(output.shown) == count


def test_nothing_is_written_where_nothing_changes(outputs: list[Output]) -> None:
    with tripleweb.open() as db:
        shown = Panel(db)
        shown._ipython_display_()
        db.insert("user", name="Ada")  # which a local store's status does not show
        wait_until(lambda: shown._timer is None)
        db.live(NAMES).df  # noqa: B018
        assert len(outputs[0].shown) == 1


def test_it_holds_no_store(outputs: list[Output]) -> None:
    db = tripleweb.open()
    shown = Panel(db)
    held = weakref.ref(db)
    del db
    gc.collect()
    assert held() is None
    assert repr(shown).startswith("<tripleweb: local")


def test_without_a_kernel_it_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    out: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: out.append(bundle))
    monkeypatch.setattr(display, "running_shell", lambda: SimpleNamespace(kernel=None))
    with tripleweb.open() as db:
        Panel(db)._ipython_display_()
        assert [bundle["text/plain"] for bundle in out] == [repr(db.status)]
