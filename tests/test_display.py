"""Live displays: in a real kernel while a cell runs, and their rules with a shell that only pretends."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.live_host import NAMES, Host, wait_until
from tripleweb import display
from tripleweb.subscriptions import Publication
from tripleweb.sync.published import Publish


class Shell:
    """A shell with a kernel, as far as displays look at it."""

    def __init__(self) -> None:
        self.kernel = object()
        self.parent: dict[str, Any] = {"metadata": {"cellId": "one"}, "header": {"msg_id": "m1"}}
        self.hooks: list[Any] = []
        self.events = SimpleNamespace(register=lambda event, hook: self.hooks.append((event, hook)))

    def get_parent(self) -> dict[str, Any]:
        return self.parent

    def run_cell(self, cell: str) -> None:
        self.parent = {"metadata": {"cellId": cell}, "header": {"msg_id": "m"}}
        for event, hook in self.hooks:
            assert event == "pre_run_cell"
            hook(None)


class Output:
    """An output of a notebook: what it showed, one after the other."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self.pause: threading.Event | None = None

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        if self.pause is not None:
            self.pause.wait(20)
        self.shown.append(bundle)

    @property
    def text(self) -> str:
        return self.shown[-1]["text/plain"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell()
    monkeypatch.setattr(display, "running_shell", lambda: shell)
    return shell


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> list[Output]:
    """The outputs that were put out, in order."""
    out: list[Output] = []

    def put_out(bundle: dict[str, str], raw: bool, display_id: bool = False) -> Output | None:
        out.append(Output())
        out[-1].shown.append(bundle)
        return out[-1] if display_id else None

    monkeypatch.setattr("IPython.display.display", put_out)
    return out


@pytest.fixture
def host() -> Host:
    host = Host()
    host.set("a", name="Ada", age=36)
    return host


def quiet() -> None:
    """Returns when the screen has shown everything that it was told."""
    seen = threading.Event()
    marker = display.Display(
        display._screen, SimpleNamespace(update=lambda *a, **k: seen.set()), lambda note: {}, None, None
    )
    marker.touch()
    assert seen.wait(20)


def published(host: Host, name: str = "V1") -> Publication:
    host.publication = Publication(Publish("v1", NAMES))
    host.publication.name = name
    return host.publication


def test_a_saved_table_can_come_to_life_again(shell: Shell, outputs: list[Output]) -> None:
    """Neither the query nor an address nor a token stands in it: only names that the server gave."""
    host = Host()
    host.app = 'a"pp'
    published(host)
    live = host.live(NAMES)
    live._ipython_display_()
    html = outputs[0].shown[0]["text/html"]
    assert 'data-tripleweb-app="a&quot;pp" data-tripleweb-view="V1"' in html
    assert html.count("<script>") == 1 and "jupyter-config-data" in html
    assert ":user/name" not in html and "http" not in html and "token" not in html
    assert "user/name" not in outputs[0].shown[0]["text/plain"]


def test_what_a_page_shows_is_not_written_any_more(shell: Shell, outputs: list[Output]) -> None:
    host = Host()
    known = published(host)
    live = host.live(NAMES)
    live._ipython_display_()
    host.set("ada", name="Ada", age=36)
    wait_until(lambda: "Ada" in outputs[0].text)
    known.watched = True
    host.set("bob", name="Bob", age=51)
    assert len(live) == 2
    host.publication = None  # away from the server: what waits is known only here
    host.set("eve", name="Eve", age=22)
    wait_until(lambda: "Eve" in outputs[0].text)
    assert all("Bob" not in shown["text/plain"] for shown in outputs[0].shown[:-1])
    assert "data-tripleweb-view" not in outputs[0].shown[-1]["text/html"]
    host.publication = known  # a page may look yet, at an output that is gone: it has to be written once
    host.lives.state_changed()
    wait_until(lambda: "data-tripleweb-view" in outputs[0].shown[-1]["text/html"])
    host.set("eve", age=23)
    assert len(live.df) == 3
    live.close()
    wait_until(lambda: "closed" in outputs[0].text)
    assert "23" in outputs[0].text and "data-tripleweb-view" not in outputs[0].shown[-1]["text/html"]


def test_showing_waits_for_a_name_but_not_for_long(shell: Shell, outputs: list[Output]) -> None:
    host = Host()
    published(host, "")
    live = host.live(NAMES)
    live._ipython_display_()
    assert "data-tripleweb-view" not in outputs[0].shown[0]["text/html"]
    assert host.publication is not None
    host.publication.name = "V2"
    host.lives.state_changed()  # as a session says when it hears of it
    wait_until(lambda: 'data-tripleweb-view="V2"' in outputs[0].shown[-1]["text/html"])


def test_a_display_follows(shell: Shell, outputs: list[Output], host: Host) -> None:
    """As the last value of a cell it shows a table that keeps itself up to date."""
    live = host.live()
    live._ipython_display_()
    assert (
        len(outputs) == 1
        and "Ada    36" in outputs[0].text
        and set(outputs[0].shown[0]) == {"text/plain", "text/html"}
    )
    host.set("a", age=37)
    wait_until(lambda: "Ada    37" in outputs[0].text)
    assert "updated" in outputs[0].text and "updated" not in outputs[0].shown[0]["text/plain"]
    host.set("a", other=1)
    quiet()
    assert len(outputs[0].shown) == 2, "what does not change the answer does not dirty the notebook"
    live.close()


def test_updates_come_at_most_ten_times_a_second(
    shell: Shell, outputs: list[Output], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latest state only."""
    live = host.live()
    live._ipython_display_()
    outputs[0].pause = threading.Event()
    for age in range(100):
        host.set("a", age=age)
    outputs[0].pause.set()
    wait_until(lambda: "Ada    99" in outputs[0].text)
    quiet()
    assert len(outputs[0].shown) <= 3
    assert display.PAUSE >= 0.1
    live.close()


def test_the_pause_between_updates(shell: Shell, outputs: list[Output], host: Host) -> None:
    live = host.live()
    live._ipython_display_()
    quiet()
    began = time.monotonic()
    for age in range(4):
        host.set("a", age=age)
        wait_until(lambda: len(outputs[0].shown) == age + 2)
    assert time.monotonic() - began >= 3 * display.PAUSE
    live.close()


def test_a_change_while_it_is_being_shown(
    shell: Shell, outputs: list[Output], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = host.live()
    show = display.show

    def slow(*arguments: Any, **options: Any) -> Any:
        shown = show(*arguments, **options)
        host.set("a", age=99)
        return shown

    monkeypatch.setattr("tripleweb.showing.show", slow)
    live._ipython_display_()
    wait_until(lambda: "Ada    99" in outputs[0].text)
    assert len(outputs) == 1
    live.close()


def test_an_update_that_comes_too_late_is_dropped(shell: Shell, outputs: list[Output], host: Host) -> None:
    slow, live = host.live(), host.live()  # they hear of changes in this order
    slow._ipython_display_()
    shell.run_cell("two")
    live._ipython_display_()
    for output in outputs:
        output.pause = threading.Event()
    host.set("a", age=1)
    wait_until(lambda: display._screen._touched == {})  # the screen has them in hand, and waits for the first
    shell.run_cell("two")
    for output in outputs:
        output.pause.set()  # type: ignore[union-attr]
    quiet()
    assert [len(output.shown) for output in outputs] == [2, 1]
    slow.close()


def test_a_closed_frame_shows_its_end(shell: Shell, outputs: list[Output], host: Host) -> None:
    live = host.live()
    live._ipython_display_()
    live.close()
    wait_until(lambda: "closed" in outputs[0].text)
    host.set("a", age=1)
    live._ipython_display_()
    assert "Ada    36" in outputs[1].text and "closed" in outputs[1].text
    quiet()
    assert len(outputs[0].shown) == 2


def test_running_a_cell_again_ends_what_it_displayed(shell: Shell, outputs: list[Output], host: Host) -> None:
    """Running a cell again closes what its last run displayed."""
    made_here = host.live()
    shell.run_cell("two")
    made_here._ipython_display_()
    both = host.live("[:find ?n :where [_ :user/name ?n]]")
    both._ipython_display_()
    shell.run_cell("three")
    both._ipython_display_()
    assert not both.closed
    shell.run_cell("two")
    assert both.closed, "it was made and displayed by that cell"
    assert not made_here.closed, "it was made by another cell, which may use it"
    host.set("a", age=99)
    wait_until(lambda: "closed" in outputs[2].text)
    quiet()
    assert len(outputs[0].shown) == len(outputs[1].shown) == 1, "their outputs are gone"
    assert made_here["age"].tolist() == [99]
    made_here._ipython_display_()
    host.set("a", age=98)
    wait_until(lambda: "Ada    98" in outputs[3].text)
    made_here.close()


def test_without_ids_of_cells_each_execution_is_a_cell(shell: Shell) -> None:
    shell.parent = {"metadata": {}, "header": {"msg_id": "m7"}}
    assert display.current_cell() == "m7"
    shell.kernel = None  # type: ignore[assignment]
    assert display.current_cell() is None


def test_an_update_that_fails_is_shown(shell: Shell, outputs: list[Output], host: Host) -> None:
    live = host.live("[:find ?n :in $ ?f :where [_ :user/age ?a] [(?f ?a) ?n]]", lambda age: 100 // age)
    live._ipython_display_()
    host.set("a", age=0)
    wait_until(lambda: "ZeroDivisionError" in outputs[0].text)
    host.set("a", age=50)
    wait_until(lambda: "2" in outputs[0].text and "ZeroDivisionError" not in outputs[0].text)
    assert live.df["n"].tolist() == [2]
    live.close()


def test_the_state_is_shown(shell: Shell, outputs: list[Output], host: Host) -> None:
    host.state, host.complete = "offline", False
    live = host.live(timeout=0.01)
    live._ipython_display_()
    assert outputs[0].text.endswith("[1 row · offline · incomplete]")
    host.state = "online"
    host.finish_loading()
    wait_until(lambda: outputs[0].text.endswith("· online]"))
    live.close()


def test_a_displayed_frame_needs_no_name(shell: Shell, outputs: list[Output], host: Host) -> None:
    host.live()._ipython_display_()
    host.set("a", age=5)
    wait_until(lambda: "Ada     5" in outputs[0].text)
    shell.run_cell("one")
    quiet()
    assert host.lives._anchored == {}


def test_elsewhere_it_is_a_plain_table(
    monkeypatch: pytest.MonkeyPatch, outputs: list[Output], shell: Shell, host: Host
) -> None:
    """Elsewhere it is a plain table."""
    monkeypatch.setattr(display, "running_shell", lambda: None)
    live = host.live()
    live._ipython_display_()
    host.set("a", age=1)
    quiet()
    assert len(outputs[0].shown) == 1
    assert "<table>" in live._repr_html_() and repr(live) == "name  age\nAda     1\n[1 row]"
    assert live._repr_mimebundle_()["text/plain"] == repr(live)


def test_a_process_without_ipython_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert display.current_cell() is None


CELLS = [
    "from tests.live_host import Host, wait_until\nhost = Host()\nhost.set('a', name='Ada', age=0)",
    "live = host.live()\nlive",
    """
import threading, time
from IPython import get_ipython
publisher = get_ipython().display_pub
sent = []
publish = publisher.publish
def spy(data, *args, **kw):
    sent.append((threading.current_thread().name, data['text/plain']))
    return publish(data, *args, **kw)
publisher.publish = spy
for age in (1, 2):
    host.set('a', age=age)
    wait_until(lambda: sent and f'Ada     {age}' in sent[-1][1])  # while this cell runs
host.live("[:find ?n :where [_ :user/name ?n]]")
""",
    "print(sorted({name for name, _ in sent if name != 'MainThread'}))",
    "host.set('a', age=3)\nwait_until(lambda: 'Ada     3' in sent[-1][1])",
]


def test_in_a_real_kernel() -> None:
    """A table that keeps itself up to date while a long cell runs, in its own output whichever cell that is."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [cell["outputs"] for cell in notebook["cells"]]
    assert [len(output) for output in outputs] == [0, 1, 1, 1, 0]
    shown = outputs[1][0]["data"]
    assert "Ada     3" in shown["text/plain"] and ">3</td>" in shown["text/html"]
    assert "1 row · updated" in shown["text/html"]
    assert "Ada" in outputs[2][0]["data"]["text/html"]
    assert outputs[3][0]["text"] == "['tripleweb-screen']\n"
