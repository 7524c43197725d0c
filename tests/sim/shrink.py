"""A failing history made small: deeds are left out (delta debugging), then its options are made milder, as long as it
still breaks the same promise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from tests.sim import mutants
from tests.sim.checks import Violation
from tests.sim.history import Deed, History
from tests.sim.world import World

STEPS_MAX = 60_000  # of a run: one that goes in circles is no smaller history


def run(given: int | History, bug: str = "", **options: object) -> World:
    """A run with a planted bug, or without. Raises `Violation`, for whatever else the cores raise as well; then
    `broken_by` has the history."""
    with ExitStack() as stack:
        if bug:
            stack.enter_context(mutants.planted(mutants.named(bug)))
        world = World(given, **options)  # type: ignore[arg-type]
        try:
            return world.run()
        except Exception as error:
            name = error.name if isinstance(error, Violation) else type(error).__name__
            error.history = replace(world.history, bug=bug, broken=name)  # type: ignore[attr-defined]
            raise


def broken_by(error: Exception) -> History:
    """The history up to a failure of `run`."""
    history: History = error.history  # type: ignore[attr-defined]
    return history


def fails_alike(history: History) -> bool:
    """True if a history breaks the promise that it is said to break."""
    try:
        run(history, history.bug, steps=STEPS_MAX)
    except Exception as error:  # noqa: BLE001 - a core may raise anything: that is what it may be about
        return broken_by(error).broken == history.broken
    return False


def shrink(history: History, attempts: int = 2_000) -> History:
    """A history that breaks the same promise with as little as possible, found in at most so many runs."""
    left = attempts

    def fails(candidate: History) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails_alike(candidate)

    size = None
    while size != (size := len(history.deeds)) and left > 0:
        deeds = _thinned(history.deeds, lambda deeds, now=history: fails(replace(now, deeds=deeds)))  # type: ignore[misc]
        history = _calmed(replace(history, deeds=_shorter(deeds, history, fails)), fails)
        ends = replace(history.options, busy_ms=history.deeds[-1].at + 1 if history.deeds else 1)
        if ends != history.options and fails(sooner := replace(history, options=ends)):
            history = sooner
    return history


def _thinned(deeds: list[Deed], fails: Callable[[list[Deed]], bool]) -> list[Deed]:
    """As few deeds as still fail: blocks are left out, from large ones to single deeds, the latest first."""
    block = len(deeds)
    while block:
        end = len(deeds)
        while end > 0:
            without = deeds[: max(0, end - block)] + deeds[end:]
            if fails(without):
                deeds = without
            end -= block
        block //= 2
    return deeds


def _shorter(deeds: list[Deed], history: History, fails: Callable[[History], bool]) -> list[Deed]:
    """Transactions of fewer operations."""
    for i, deed in enumerate(deeds):
        for j in reversed(range(len(deed.how.get("operations", ())))):
            kept = deeds[i].how["operations"]
            fewer = replace(deed, how={**deed.how, "operations": kept[:j] + kept[j + 1 :]})
            candidate = [*deeds[:i], fewer, *deeds[i + 1 :]]
            if len(kept) > 1 and fails(replace(history, deeds=candidate)):
                deeds = candidate
    return deeds


def _calmed(history: History, fails: Callable[[History], bool]) -> History:
    """The mildest options under which it still fails."""
    tried: list[object] = []
    moved = True
    while moved:
        moved = False
        for options in history.options.calmer():
            if options not in tried and fails(replace(history, options=options)):
                history, moved = replace(history, options=options), True
                break
            tried.append(options)
    return history
