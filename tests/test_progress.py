"""Progress of what takes long: shown where somebody looks, gone at the end, and never in the way."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tripleweb import progress as module
from tripleweb.loading import Loading
from tripleweb.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_in_a_terminal_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with progress("loading") as show:
        show(0, 0)
        show(500, 1_000)
    lines = out.getvalue().split("\r")
    assert lines[1].startswith("loading … [") and "loading: 500 of 1,000 [" in lines[2]
    assert lines[2].count("#") == lines[2].count(".") == module.WIDTH // 2
    assert not lines[-2].strip() and len(lines[-2]) == len(lines[2]) and lines[-1] == ""


def test_it_goes_away_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with pytest.raises(KeyboardInterrupt), progress("loading") as show:
        show(1, 2)
        raise KeyboardInterrupt
    assert out.getvalue().endswith("\r") and not out.getvalue().split("\r")[-2].strip()


def test_a_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))

    def display(bundle: dict[str, str], **how: Any) -> Any:
        shown.append(bundle)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(module, "current_cell", lambda: "cell")
    with progress("loading from <b>") as show:
        show(1, 4)
    assert shown[0] == shown[-1] == {"text/plain": ""}
    assert 'value="1" max="4"' in shown[1]["text/html"] and "&lt;b&gt;" in shown[1]["text/html"]
    assert "<b>" not in shown[1]["text/html"]


def test_nothing_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with progress("loading") as show:
        show(1, 2)
    monkeypatch.setattr(sys, "stderr", Terminal())

    def elsewhere() -> None:
        with progress("loading") as show:
            show(1, 2)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert not out.getvalue() and not sys.stderr.getvalue()  # type: ignore[attr-defined]


def waiting(turns: int) -> tuple[Any, list[float]]:
    """A session that is settled after so many waits."""
    waits: list[float] = []

    def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
        waits.append(timeout)
        return len(waits) > turns

    session = SimpleNamespace(
        app="app",
        lock=threading.RLock(),
        is_whole=True,
        within_transaction=False,
        is_settling=lambda asked: len(waits) <= turns,
        wait_for=wait_for,
        core=SimpleNamespace(progress=lambda name: (len(waits), 10), complete=True),
    )
    return session, waits


@pytest.mark.parametrize("turns", [0, 3])
def test_who_waits_long_sees_that_it_goes_on(turns: int) -> None:
    session, waits = waiting(turns)
    told: list[Any] = []

    @contextmanager
    def bar(what: str) -> Iterator[Callable[[int, int], None]]:
        told.append(what)
        yield lambda done, of: told.append((done, of))
        told.append("gone")

    assert Loading(session, bar).settle(None, 60)
    assert told == ([] if turns == 0 else ["loading from app", (2, 10), (3, 10), "gone"])
    assert len(waits) == turns + 1 and max(waits) <= 1.0
