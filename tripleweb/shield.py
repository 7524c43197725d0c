"""Ctrl-C at the right moment: a step that must not be left in the middle is taken to its end first."""

from __future__ import annotations

import threading
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

# `signal` without its enums: turning every argument and result into them costs ten times what is done here
_signal: Any = import_module("_signal")
_SIGINT: int = _signal.SIGINT


class Shield:
    """Holds Ctrl-C back while a step is taken that must not be left in the middle; it is raised at the end.

    >>> with Shield() as shield:
    ...     shield.acquire(threading.Lock())
    """

    def __init__(self) -> None:
        self._outer: Any = None
        self._held: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Shield:
        if threading.get_ident() == threading.main_thread().ident:
            outer = _signal.getsignal(_SIGINT)
            if callable(outer):
                self._outer = outer
                _signal.signal(_SIGINT, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer is not None:
            _signal.signal(_SIGINT, self._outer)
            if self._held is not None and not isinstance(error, KeyboardInterrupt):
                self._outer(*self._held)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._held = number, frame

    @property
    def struck(self) -> bool:
        """True if Ctrl-C came meanwhile."""
        return self._held is not None

    def acquire(self, lock: Any) -> None:
        """Waits for a lock; gives up by `KeyboardInterrupt` if Ctrl-C comes first."""
        if lock.acquire(False):
            return
        while not lock.acquire(timeout=0.05):
            if self.struck:
                raise KeyboardInterrupt
