"""One change and the answers that follow it: tripleweb beside db-ivm, TinyBase, DataScript, SQLite and Perspective.

`python -m tests.bench live [--quick] [--engines a,b] [--users n,n]` runs all of them, one after the other, on the same
data and the same changes, compares every answer with pandas', and prints figures (standard error) and JSON (standard
output). Peers are installed outside of the checkout by npm and pip; one that cannot be is told as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    from tests.bench.live.race import race  # here: peers import this package without what the race needs

    return race(flags)
