"""The hybrid logical clock: stamps that order conflicts, whatever the wall clocks say.

A *time* is one integer: 48 bits of milliseconds since 1970 and 16 bits of counter, so that "add one" carries an
overflowing counter into the milliseconds by itself. A *stamp* is the pair (time, replica id), compared as such. On
the wire a stamp is text of fixed width that sorts in the same order: 16 hexadecimal digits, `-`, the replica id.

Invariants: the times of one clock rise strictly, also over restarts (the owner saves `last` with every commit); a
remote stamp never pushes a clock beyond now plus the tolerance, so no wrong clock is infectious. Only the server's
word (`lower`) ever sets a clock back. A wall clock that shows a moment beyond `MOMENT_MAX` is broken and tells
nothing: times go on from the last one, and come right again with it.

Source: Kulkarni et al., Logical Physical Clocks, 2014 (https://cse.buffalo.edu/tech-reports/2014-04.pdf).
"""

from __future__ import annotations

import re

COUNTER_BITS = 16
TOLERANCE_MS = 60_000
TIME_MAX = (1 << 63) - 1  # a time fits a signed 64-bit column; the year 6429
MOMENT_MAX = 1 << 46  # milliseconds, the year 4199: far enough from TIME_MAX for a clock never to get there

Stamp = tuple[int, str]

_STAMP = re.compile(r"([0-9a-f]{16})-([0-9a-z]{1,40})")


def pack(ms: int, counter: int = 0) -> int:
    """The time of a moment in milliseconds and a counter.

    >>> pack(1, 2) == (1 << 16) + 2
    True
    """
    return (ms << COUNTER_BITS) + counter


def unpack(time: int) -> tuple[int, int]:
    """(milliseconds, counter) of a time.

    >>> unpack(pack(1700000000000, 7))
    (1700000000000, 7)
    """
    return time >> COUNTER_BITS, time & ((1 << COUNTER_BITS) - 1)


def stamp_text(time: int, replica: str) -> str:
    """A stamp as it travels.

    >>> stamp_text(pack(1700000000000), "00000000000a")
    '018bcfe568000000-00000000000a'
    """
    return f"{time:016x}-{replica}"


def parse_stamp(text: str) -> Stamp:
    """The stamp that was written as `text`.

    >>> parse_stamp("018bcfe568000000-00000000000a")
    (111411200000000000, '00000000000a')
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"not a stamp: {text[:80]!r}; expected 16 hexadecimal digits, '-' and a replica id")
    time = int(match[1], 16)
    if time > TIME_MAX:
        raise ValueError(f"not a stamp: {text[:80]!r} lies beyond the year 6429")
    return time, match[2]


class Clock:
    """One replica's clock. `now_ms` is the wall clock, handed in by the caller, who may have corrected it.

    >>> clock = Clock()
    >>> first = clock.tick(1000)
    >>> clock.tick(1000) == first + 1 and clock.tick(500) == first + 2
    True
    """

    __slots__ = ("last", "tolerance_ms")

    def __init__(self, last: int = 0, tolerance_ms: int = TOLERANCE_MS) -> None:
        self.last = last
        self.tolerance_ms = tolerance_ms

    def tick(self, now_ms: int) -> int:
        """A new time, later than all this clock gave or saw."""
        time = now_ms << COUNTER_BITS if now_ms <= MOMENT_MAX else 0
        self.last = time = time if time > self.last else self.last + 1
        return time

    def witness(self, time: int, now_ms: int) -> None:
        """Takes note of a remote time, so that what is written after seeing it is later than it."""
        if self.last < time <= self.horizon(now_ms):
            self.last = time

    def horizon(self, now_ms: int) -> int:
        """The latest remote time that is believed."""
        return pack(min(now_ms, MOMENT_MAX) + self.tolerance_ms)

    def lower(self, time: int) -> None:
        """Sets the clock back: the server has re-stamped what ran ahead, nothing later than `time` is left."""
        self.last = min(self.last, time)

    def is_ahead(self, time: int, now_ms: int) -> bool:
        """True if a time lies further in the future than the tolerance allows."""
        return time > pack(now_ms + self.tolerance_ms, (1 << COUNTER_BITS) - 1)
