"""Displays that keep themselves up to date: outputs of a notebook that one thread of this process rewrites.

`show` puts out a bundle of MIME types under a display id. Whoever owns it calls `Display.touch` when there is news,
from any thread and as often as they like: the screen's thread takes the latest state, at most ten times a second.
Updates by display id reach the right output from any thread and also while a cell runs.

Invariants: nothing is printed; a display ends when it is closed or when its cell runs again, and then costs nothing
any more. Without a kernel to show it in, `show` prints the bundle once and returns None. IPython is asked for only
where it is loaded already.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Protocol

log = logging.getLogger("tripleweb")

PAUSE = 0.1  # seconds between two updates
Bundle = dict[str, str]


class Render(Protocol):
    def __call__(self, note: str) -> Bundle | None:
        """What to show now, with `note` in its foot; None (not at first): what there is shall stay."""
        ...


class Display:
    """One output of a notebook. `cell` is the cell that put it out."""

    def __init__(
        self,
        screen: _Screen,
        handle: Any,
        render: Render,
        cell: Hashable,
        ended: Callable[[Hashable], None] | None,
        shown: Bundle | None = None,
    ) -> None:
        self.cell = cell
        self.closed = False
        self._screen = screen
        self._handle = handle
        self._render = render
        self._ended = ended
        self._shown = shown

    def touch(self) -> None:
        """There is news: shows it soon."""
        self._screen.touch(self)

    def close(self) -> None:
        """Shows the state at the end, then no more."""
        if not self.closed:
            self._screen.touch(self, last=True)

    def end(self) -> None:
        """The cell runs again: its outputs are gone."""
        if not self.closed:
            self.closed = True
            if self._ended is not None:
                self._ended(self.cell)

    def update(self) -> None:
        """Writes the present state, on the screen's thread."""
        moment = datetime.now().astimezone()
        try:
            bundle: Bundle | None = self._render(f"updated {moment:%H:%M:%S}")
        except Exception as error:  # noqa: BLE001 (a query may hold a callable of the user's, which may raise anything)
            text = f"{type(error).__name__}: {error}"
            bundle = {"text/plain": f"[{text}]"}
        if (
            bundle is not None and bundle != self._shown
        ):  # a notebook that is written to is one that has to be saved
            self._shown = bundle
            self._handle.update(bundle, raw=True)


class _Screen:
    """The displays of this process and the thread that updates them, which starts with the first."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._touched: dict[Display, bool] = {}  # display -> is it the last time
        self._by_cell: dict[Hashable, list[Display]] = {}
        self._thread: threading.Thread | None = None

    def forked(self) -> None:
        """In a fork: its thread is not there, which may have held the lock."""
        self._news, self._thread, self._touched = threading.Condition(), None, {}

    def add(self, display: Display) -> None:
        with self._news:
            self._by_cell.setdefault(display.cell, []).append(display)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tripleweb-screen", daemon=True)
                self._thread.start()

    def touch(self, display: Display, last: bool = False) -> None:
        with self._news:
            if not display.closed:
                display.closed = last
                self._touched[display] = last
                if last:
                    self._drop(display)
                self._news.notify()

    def cell_runs(self, *_: object) -> None:
        """A cell is about to run: what its last run displayed ends."""
        cell = current_cell()
        with self._news:
            displays = self._by_cell.pop(cell, [])
        for display in displays:
            display.end()

    def _drop(self, display: Display) -> None:
        displays = self._by_cell.get(display.cell, [])
        if display in displays:
            displays.remove(display)
        if not displays:
            self._by_cell.pop(display.cell, None)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: bool(self._touched))
                touched, self._touched = self._touched, {}
            for display, last in touched.items():
                if last or not display.closed:
                    try:
                        display.update()
                    except Exception:
                        log.exception("a display could not be updated")
            time.sleep(PAUSE)


_screen = _Screen()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_screen.forked)
_hooked: set[int] = set()  # shells (by id) that tell the screen when a cell runs


def show(render: Render, *, ended: Callable[[Hashable], None] | None = None) -> Display | None:
    """Puts out what `render` gives and returns the display that keeps it up to date; `ended(cell)` is called when
    its cell runs again. None where there is no kernel that could update it."""
    from IPython.display import display as put_out

    shell = running_shell()
    cell = current_cell()
    if shell is None or cell is None:
        put_out(render(""), raw=True)
        return None
    if id(shell) not in _hooked:
        _hooked.add(id(shell))
        shell.events.register("pre_run_cell", _screen.cell_runs)
    bundle = render("")
    handle = put_out(bundle, raw=True, display_id=True)
    display = Display(_screen, handle, render, cell, ended, bundle)
    _screen.add(display)
    return display


def current_cell() -> Hashable | None:
    """What stands for the running cell: its id in the notebook, else the message that runs it; None outside of a
    kernel."""
    shell = running_shell()
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    parent = shell.get_parent()
    cell: str | None = parent.get("metadata", {}).get("cellId") or parent.get("header", {}).get("msg_id")
    return cell


def running_shell() -> Any:
    """IPython's shell, None where there is none."""
    loaded = sys.modules.get("IPython")
    return None if loaded is None else loaded.get_ipython()
