"""How far something long has come: a bar under the cell, or a line in a terminal, that goes away at the end.

Invariants: nothing is shown for what takes less than a second, nor from another thread than the main one, nor where
nobody looks (a script, a pipe); nothing of it stays in a notebook.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from tripleweb.display import current_cell

WIDTH = 30  # of a bar in a terminal
LONG = 100_000  # steps of what may be worth a bar
PATIENCE_S = 1.0


class Show(Protocol):
    def __call__(self, done: int, of: int) -> None:
        """So much is done, of so much (0: nobody knows)."""
        ...


@contextmanager
def progress(what: str) -> Iterator[Show]:
    """Shows how far `what` has come, each time when it is told.

    >>> with progress("loading") as show:
    ...     show(1, 2)
    """
    if threading.current_thread() is not threading.main_thread():
        yield _nobody
    elif current_cell() is not None:
        yield from _in_notebook(what)
    elif sys.stderr is not None and sys.stderr.isatty():
        yield from _in_terminal(what, sys.stderr)
    else:
        yield _nobody


@contextmanager
def patient_progress(what: str, of: int) -> Iterator[Show]:
    """Shows how far `what` has come if it is long: of more than `LONG` steps, and not done after a second."""
    began, shown = time.monotonic(), _nobody
    with ExitStack() as stack:

        def show(done: int, of: int) -> None:
            nonlocal shown
            if shown is _nobody and time.monotonic() > began + PATIENCE_S:
                shown = stack.enter_context(progress(what))
            shown(done, of)

        yield show if of > LONG else _nobody


def _nobody(done: int, of: int) -> None:
    """There is nobody to show it to."""


def said(what: str, done: int, of: int) -> str:
    """The words beside a bar.

    >>> said("loading", 1_000, 4_000), said("loading", 0, 0)
    ('loading: 1,000 of 4,000', 'loading …')
    """
    return f"{what}: {done:,} of {of:,}" if of else f"{what} …"


def _in_terminal(what: str, out: Any) -> Iterator[Show]:
    longest = 0

    def show(done: int, of: int) -> None:
        nonlocal longest
        full = WIDTH * min(done, of) // of if of else 0
        line = f"{said(what, done, of)} [{'#' * full}{'.' * (WIDTH - full)}]"
        longest = max(longest, len(line))
        out.write(f"\r{line:<{longest}}")
        out.flush()

    try:
        yield show
    finally:
        out.write(f"\r{'':<{longest}}\r")
        out.flush()


def _in_notebook(what: str) -> Iterator[Show]:
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(done: int, of: int) -> None:
        words = html.escape(said(what, done, of))
        at = f'value="{done}" max="{of}"' if of else ""
        bar = f'<progress {at} aria-label="{words}" style="width:20em"></progress> {words}'
        handle.update({"text/html": f"<div>{bar}</div>", "text/plain": said(what, done, of)}, raw=True)

    try:
        yield show
    finally:
        handle.update({"text/plain": ""}, raw=True)
