"""A live frame as an output of a notebook: a table that stays fresh, written by the kernel until a page shows it.

Where the store is online, the saved table carries the name by which the server knows its query (`published`), and a few
lines that bring it to life in any page of the same server: now, after a reload, in a second browser, when the kernel is
gone. As soon as a page looks, the kernel writes that output no more, so that what happens reaches the page and leaves
the notebook as it is; away from the server it takes it back, since only here are the writes that wait.

Invariants: neither a query nor an address nor a token stands in a notebook; text of the data is escaped; a closed frame
leaves a plain table; showing waits for a first answer, but never for long.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from tripleweb.datalog.builtins import outward
from tripleweb.display import Bundle, Display, current_cell, show
from tripleweb.frame import FrameLike
from tripleweb.table import ROWS_MAX, living_html, table_html, table_text

if TYPE_CHECKING:
    from tripleweb.followed import Shared
    from tripleweb.live import LiveHost
    from tripleweb.subscriptions import Publication

ANSWER_S = 1.0  # for a first complete answer; a cell that shows a table should not stand still
NAME_S = 0.3  # for the name of its query


class _Output:
    """One output of a frame. `name` is the one that it was written with last."""

    def __init__(self, frame: Shown) -> None:
        self._frame = frame
        self._name = ""

    def render(self, note: str) -> Bundle | None:
        """The output as it is to be now; None where a page sees to it."""
        frame = self._frame
        known = None if frame._closed else frame._published()
        name = "" if known is None else known.name
        if known is not None and known.watched and name == self._name:
            return None
        self._name = name
        bundle = frame._bundle(note)
        if name:
            bundle["text/html"] = living_html(bundle["text/html"], frame._host.app, name)
        return bundle


class Shown(FrameLike):
    """How a live frame shows itself; the rest of it is in `live`."""

    __slots__ = ()
    _cell: Hashable | None
    _closed: bool
    _displays: list[Display]
    _error: BaseException | None
    _host: LiveHost
    _shared: Shared
    _timeout: float

    if TYPE_CHECKING:

        @property
        def version(self) -> int: ...
        def close(self) -> None: ...
        def _anchor(self) -> None: ...
        def _settle(self, timeout: float | None = None) -> None: ...

    def _ipython_display_(self) -> None:
        self._settle(min(ANSWER_S, self._timeout))
        before = self.version
        if current_cell() is not None and not (self._closed or self._host.within_transaction):
            known = self._published()
            if known is not None:
                self._host.wait_for(lambda: known.is_settled, NAME_S)
        display = show(_Output(self).render, ended=self._display_ended)
        if display is not None and not self._closed:
            with self._host.lock:
                self._displays.append(display)
                self._anchor()
                if self.version != before:  # it changed before the display could hear of it
                    display.touch()

    def _display_ended(self, cell: Hashable) -> None:
        """The cell of a display runs again. A frame that was made by the same cell goes with it."""
        with self._host.lock:
            self._displays[:] = [display for display in self._displays if display.cell != cell]
            self._anchor()
        if cell == self._cell:
            self.close()

    def _published(self) -> Publication | None:
        """What pages may look at it by; None where they cannot now."""
        with self._host.lock:
            return self._host.publish(self._shared.live.query, *self._shared.given)

    def _bundle(self, note: str = "") -> Bundle:
        """The table as it is now, in the forms that notebooks know; waits for nothing."""
        with self._host.lock:
            self._shared.refresh()
            live = self._shared.live
            held, _ = live.held
            columns, count = live.query.columns, len(held)
            rows = [tuple(map(outward, row[: len(columns)])) for row in held[:ROWS_MAX]]
        notes = [note, "closed" if self._closed else self._host.note]
        if not self._host.attrs(self._shared.asked).get("complete", True):
            notes.append("incomplete")
        if self._error is not None:
            notes.append(f"{type(self._error).__name__}: {self._error}")
        return {
            "text/plain": table_text(columns, rows, notes=notes, of=count),
            "text/html": table_html(columns, rows, notes=notes, of=count),
        }

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        self._settle()
        return self._bundle()

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]

    def __repr__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]
