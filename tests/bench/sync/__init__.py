"""The sync server under load: tripleweb beside Triplit, pycrdt-websocket, y-websocket and a bare Tornado relay.

`python -m tests.bench sync [--quick] [--engines a,b] [--figures a,b] [--clients n,n] [--seconds n]` runs all of them,
one after the other, on the same writes, and prints tables (standard error) and JSON (standard output). Server, writer
and readers are processes of their own on loopback; peers are installed outside of the checkout by npm and pip, and one
that cannot be is told as such. `figures` says what is measured and how, `judged` what tripleweb ought to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    from tests.bench.sync.race import race  # here: peers import this package without what the race needs

    return race(flags)
