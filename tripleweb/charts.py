"""`live.plot(…)`: pandas' plots of a live frame, which follow it where they are an output of a notebook.

What comes back is what pandas gives, to be worked on as ever; when its cell has run, the figure is put out, and drawn
again when the frame changes, with the title and the labels that it had. Invariants: a plot into a figure of the user's
(`ax=`) follows nothing, nor one outside of a notebook; no figure stays open.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tripleweb.display import current_cell, running_shell
from tripleweb.reacting import Reaction, close, picture

if TYPE_CHECKING:
    from tripleweb.live import LiveFrame

_WORDS = ("title", "xlabel", "ylabel")


class Plot:
    """As `DataFrame.plot`: called, or by a kind (`live.plot.bar(…)`)."""

    def __init__(self, live: LiveFrame) -> None:
        self._live = live

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._draw("", arguments, options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not hasattr(self._live.df.plot, name):
            raise AttributeError(f"DataFrame.plot has no {name!r}")
        return lambda *arguments, **options: self._draw(name, arguments, options)

    def __dir__(self) -> list[str]:
        return dir(self._live.df.plot)

    def _draw(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        def draw(frame: Any) -> Any:
            plot = frame.plot
            return (getattr(plot, name) if name else plot)(*arguments, **options)

        drawn = draw(self._live.df)
        shell = running_shell()
        if shell is not None and current_cell() is not None and options.get("ax") is None:
            _when_cell_ends(shell, lambda: _follow(self._live, draw, drawn, shell))
        return drawn


def axes_of(drawn: Any) -> Any:
    """The (first) axes of what pandas has drawn."""
    return drawn.flat[0] if hasattr(drawn, "flat") else drawn


def _follow(live: LiveFrame, draw: Callable[[Any], Any], drawn: Any, shell: Any) -> None:
    from matplotlib import pyplot

    axes = axes_of(drawn)
    figure = axes.figure
    if not pyplot.fignum_exists(figure.number):  # the user has shown it, or closed it
        return
    words = {word: getattr(axes, f"get_{word}")() for word in _WORDS}

    def again(frame: Any) -> None:
        fresh = axes_of(draw(frame))
        for word, text in words.items():
            getattr(fresh, f"set_{word}")(text)

    try:
        shown = picture(figure, shell)
    finally:
        close(figure)
    if not live.closed:
        Reaction(again, [live]).start(shown)


def _when_cell_ends(shell: Any, act: Callable[[], None]) -> None:
    """Calls `act` at the end of the running cell, before figures that are open are put out."""

    def ended() -> None:
        hooks.remove(ended)
        try:
            act()
        except Exception as error:  # noqa: BLE001 (a hook that raises would end those after it)
            print(f"this plot does not follow its frame: {error}", file=sys.stderr)  # noqa: T201

    hooks = shell.events.callbacks["post_execute"]
    hooks.insert(0, ended)
