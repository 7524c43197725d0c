"""Big queries: tripleweb beside DataScript, Cozo, DuckDB, SQLite, Oxigraph, pandas and polars.

`python -m tests.bench queries [--quick] [--sizes S,M,L] [--engines a,b] [--figures a,b] [--runs n] [--rounds n]` runs
all of them, one after the other, each in a process of its own, on the same data; compares every row of every answer
with what plain Python finds; and prints tables (standard error) and JSON (standard output). Figures, tables and a
picture are left in the folder that `--out` names; a line is added to the history (`python -m tests.bench history`).
Peers are installed outside of the checkout by npm and pip, and one that cannot be is told as such. `asked` says what is
measured, `judged` what tripleweb ought to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    from tests.bench.queries.race import race  # here: peers import this package without what the race needs

    return race(flags)
