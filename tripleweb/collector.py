"""Python's garbage collector, put to rest where everything that is made stays: it takes half of the time there.

Invariants: it rests as long as anybody is inside, in whatever thread, and afterwards runs if it did before. In a fork
nobody is inside who was so in another thread.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Rest:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.ran_before = True


_rest = _Rest()


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No garbage collection inside, nor in any other thread meanwhile.

    >>> with collector_at_rest():
    ...     gc.isenabled()
    False
    """
    rest = _rest
    with rest.lock:
        rest.inside += 1
        if rest.inside == 1:
            rest.ran_before = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with rest.lock:
            rest.inside -= 1
            if not rest.inside and rest.ran_before and rest is _rest:
                gc.enable()


def _forked() -> None:
    global _rest
    if _rest.inside and _rest.ran_before:
        gc.enable()
    _rest = _Rest()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
