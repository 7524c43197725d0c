"""Functions that run again when their frames change, and whose output is replaced in place: `@live.react`.

What a user draws is not for any thread: pyplot's state, for one, is that of the whole process. So a reaction runs on
the kernel's own loop, between cells and never in one; in a plain IPython when the next cell has run; in a script, where
nobody waits, on the store's thread of callbacks.

Invariants: one run at a time, with the latest frames, never from within another run; between two of them lies at least
`PAUSE_S`, and as much time as the last one took, so that the kernel stays at hand; an error is the output, and the next
change runs it again; nothing is put out while nothing changes. It ends with its cell, its frames, or `stop`.
"""

from __future__ import annotations

import asyncio
import inspect
import linecache
import sys
import threading
import time
import traceback
import weakref
from base64 import b64encode
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from tripleweb.display import current_cell, running_shell

if TYPE_CHECKING:
    from tripleweb.live import LiveFrame

PAUSE_S = 0.2
_PICTURES = ("image/png", "image/jpeg")
Bundle = dict[str, Any]


class Reaction:
    """A function that follows live frames. `runs` counts; `error` is what its last run raised, None if it went well.

    It still is the function: called, it runs as it would.
    """

    def __init__(self, function: Callable[..., Any], frames: Sequence[LiveFrame]) -> None:
        if not callable(function):
            raise TypeError(f"react expects a function, not {type(function).__name__}")
        if kind := _kind_that_waits(function):
            name = getattr(function, "__name__", "this")
            raise TypeError(
                f"react runs plain functions: {name} is {kind}, which nobody here would run to its end"
            )
        self.function = function
        self.frames = tuple(frames)
        self.runs = 0
        self.error: BaseException | None = None
        self._takes = _frames_taken(function, len(self.frames))
        self._shell: Any = running_shell()
        self._cell = current_cell()
        self._loop = _running_loop() if self._cell is not None else None
        self._handle: Any = None
        self._shown: Bundle | None = None
        self._lock = threading.Lock()
        self._is_due = False  # it is on its way to be run
        self._is_running = self.stopped = False
        self._ready_at = 0.0
        self._ends: list[Callable[[], None]] = []
        self._name = getattr(function, "__name__", "function")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def __repr__(self) -> str:
        return f"<reaction {self._name}: {self.runs} runs{', stopped' * self.stopped}>"

    def start(self, shown: Bundle | None = None) -> Reaction:
        """Runs it now, and then when a frame changes. `shown`: what it is to replace, instead of a first run."""
        for frame in self.frames:
            _ = frame.df  # the first look waits for a complete answer
        self._ends = [frame.on_change(lambda live, delta: self.touch()) for frame in self.frames]
        if self._shell is not None:
            _follow_cells(self._shell)
            _reactions.add(self)
        try:
            if shown is None:
                self._run()
            else:
                self._show(shown)
        except BaseException:  # interrupted: nobody has it, so nobody could stop it
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """It follows no more; its output stays."""
        self.stopped = True
        for end in self._ends:
            end()

    def touch(self) -> None:
        """A frame has changed; from any thread, as often as one likes."""
        with self._lock:
            if self._is_due or self.stopped:
                return
            self._is_due = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the kernel is ending
                self._loop.call_soon_threadsafe(self._soon)
        elif self._shell is None:
            self.run_if_due()

    def _soon(self) -> None:
        """On the kernel's loop: now, or when the pause is over."""
        assert self._loop is not None
        wait = self._ready_at - time.monotonic()
        if wait > 0:
            self._loop.call_later(wait, self.run_if_due)
        else:
            self.run_if_due()

    def run_if_due(self) -> None:
        """Runs it where something has changed, unless a cell runs: then when that has ended."""
        if not self._is_due or self.stopped or _cells.is_running or self._is_running:
            return
        self._run()

    def _run(self) -> None:
        with self._lock:
            self._is_due = False
            self._is_running = True
        began = time.monotonic()
        try:
            if any(frame.closed for frame in self.frames) and self.runs:
                self.stop()
                return
            bundle = self._output()
        finally:
            self.runs += 1
            self._is_running = False
            took = time.monotonic() - began
            self._ready_at = time.monotonic() + max(PAUSE_S, took)
        self._show(bundle)
        with self._lock:
            again, self._is_due = self._is_due, False
        if again:  # somebody came from another thread meanwhile, and was turned away
            self.touch()

    def _output(self) -> Bundle:
        """What the function puts out, as one bundle."""
        if self._shell is None:
            self._call()
            if self.error is not None:
                print(_short(self.error, self.function), file=sys.stderr)  # noqa: T201
            return {}
        from IPython.utils.capture import capture_output

        pyplot = sys.modules.get("matplotlib.pyplot")
        figures = [] if pyplot is None else pyplot.get_fignums()
        with capture_output() as caught:
            value = self._call()
        outputs = [one.data for one in caught.outputs]
        text = caught.stdout + caught.stderr
        drawn: list[Bundle] = []
        try:
            with capture_output() as caught:
                drawn = _drawn(figures, self._shell)
            text += caught.stdout + caught.stderr
        except Exception as error:  # noqa: BLE001 (only now matplotlib finds out what is wrong with a figure)
            self.error = self.error or error
        outputs += drawn
        if value is not None and not (
            drawn and type(value).__module__.partition(".")[0] in ("matplotlib", "numpy")
        ):
            outputs.append(self._shell.display_formatter.format(value)[0])
        if text:
            outputs.insert(0, {"text/plain": text.rstrip("\n")})
        if self.error is not None:
            outputs.append({"text/plain": _short(self.error, self.function)})
        return joined(outputs)

    def _call(self) -> Any:
        """What the function gives; None where it, or a query of its frames, raises: that is the `error`."""
        try:
            value = self.function(*[frame.df for frame in self.frames][: self._takes])
        except Exception as error:  # noqa: BLE001 (a user's function may raise anything)
            self.error = error
            return None
        self.error = None
        return value

    def _show(self, bundle: Bundle) -> None:
        if self._shell is None or bundle == self._shown:
            return
        self._shown = bundle
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    @property
    def cell(self) -> Hashable | None:
        """The cell that it belongs to."""
        return self._cell


def react(frames: Sequence[LiveFrame], function: Callable[..., Any]) -> Reaction:
    """Has a function follow frames, from its first run on, which is now."""
    return Reaction(function, frames).start()


# -- between cells ---------------------------------------------------------------------------------------------


class _Cells:
    """Whether a cell of this process runs."""

    is_running = False


_cells = _Cells()
_reactions: weakref.WeakSet[Reaction] = weakref.WeakSet()
_hooked: weakref.WeakSet[Any] = weakref.WeakSet()


def _follow_cells(shell: Any) -> None:
    if shell not in _hooked:
        _hooked.add(shell)
        _cells.is_running = True  # the one that asks for it
        shell.events.register("pre_execute", _cell_begins)  # also of what runs silently
        shell.events.register("post_execute", _cell_ended)


def _cell_begins(*_: object) -> None:
    _cells.is_running = True
    cell = current_cell()
    for reaction in list(_reactions):
        if cell is not None and reaction.cell == cell:
            reaction.stop()


def _cell_ended(*_: object) -> None:
    _cells.is_running = False
    for reaction in list(_reactions):
        if reaction._loop is not None:
            reaction._loop.call_soon(reaction._soon)
        else:
            reaction.run_if_due()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# -- outputs ---------------------------------------------------------------------------------------------------


def joined(outputs: Sequence[Bundle]) -> Bundle:
    """Several outputs as one, since an output is replaced as one: below each other, as HTML. What only a renderer of
    its own can show (Altair's and Plotly's) has to be alone.

    >>> joined([{"text/plain": "a < b"}, {"text/plain": "x", "text/html": "<b>x</b>"}])["text/html"]
    '<pre>a &lt; b</pre>\\n<b>x</b>'
    """
    if not outputs:
        return {"text/plain": ""}
    if len(outputs) == 1:
        return dict(outputs[0])
    plain = "\n".join(str(one.get("text/plain", "")) for one in outputs)
    return {"text/plain": plain, "text/html": "\n".join(map(_html, outputs))}


def _html(output: Bundle) -> str:
    if "text/html" in output:
        return str(output["text/html"])
    if "image/svg+xml" in output:
        return str(output["image/svg+xml"])
    for kind in _PICTURES:
        if kind in output:
            return f'<img alt="{escape(str(output.get("text/plain", "")))}" src="data:{kind};base64,{output[kind]}">'
    return f"<pre>{escape(str(output.get('text/plain', '')))}</pre>"


def _drawn(before: Sequence[int], shell: Any) -> list[Bundle]:
    """The figures that pyplot has got since, as outputs; they are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    figures = [pyplot.figure(number) for number in pyplot.get_fignums() if number not in before]
    try:
        return [picture(figure, shell) for figure in figures]
    finally:
        for figure in figures:
            close(figure)


def close(figure: Any) -> None:
    """Has pyplot forget a figure, and the inline backend, which keeps what it means to draw when a cell ends."""
    sys.modules["matplotlib.pyplot"].close(figure)
    inline = getattr(sys.modules.get("matplotlib_inline.backend_inline"), "show", None)
    waiting = getattr(inline, "_to_draw", None)
    if waiting:
        waiting[:] = [one for one in waiting if one is not figure]


def picture(figure: Any, shell: Any) -> Bundle:
    """A figure as the shell shows figures; as a PNG where it does not. Raises what is wrong with the figure, where the
    shell's formatters, asked as a whole, would print it."""
    data: Bundle = {"text/plain": repr(figure)}
    for kind, formatter in shell.display_formatter.formatters.items():
        if (
            formatter.enabled
            and kind.startswith("image/")
            and (draw := _printer(formatter, figure)) is not None
        ):
            drawn = draw(figure)
            data[kind] = drawn[0] if isinstance(drawn, tuple) else drawn  # with what a page is to know of it
    if len(data) == 1:
        file = BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        data["image/png"] = file.getvalue()
    return {kind: b64encode(one).decode() if isinstance(one, bytes) else one for kind, one in data.items()}


def _printer(formatter: Any, figure: Any) -> Callable[[Any], Any] | None:
    try:
        return formatter.lookup(figure)  # type: ignore[no-any-return]
    except KeyError:
        return None


def _frames_taken(function: Callable[..., Any], count: int) -> int:
    """How many frames a function wants: all of them, or none. Raises `TypeError` for another number."""
    try:
        wanted = inspect.signature(function)
    except (ValueError, TypeError):
        return count
    for number in (count, 0):
        with suppress(TypeError):
            wanted.bind(*[None] * number)
            return number
    frames = f"{count} frame{'s' * (count != 1)}"
    raise TypeError(
        f"{getattr(function, '__name__', 'the function')} takes neither {frames} nor nothing: {wanted}"
    )


def _kind_that_waits(function: Callable[..., Any]) -> str:
    """What a function is if a call of it does nothing yet; else ""."""
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004 (of an object that can be called)
        if inspect.iscoroutinefunction(one):
            return "an async function"
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            return "a generator"
    return ""


def _short(error: BaseException, function: Callable[..., Any]) -> str:
    """An error in two lines: what it was, and where in the user's code."""
    said = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(function, "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    if not own:
        return said
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip() or own[-1].line
    return f"{said}\n  line {own[-1].lineno} of {own[-1].name}: {line}"
