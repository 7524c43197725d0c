"""Where arrays overtake generated code: the same queries by both, over more and more rows.

`touched` are the rows that generated code looked at, which is what the switch (`datalog.maintained.MANY`) goes by; both
are hot, and end in Python's rows. The crossing of a shape lies where `columns_us` becomes less than `code_us`.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.executor import Executor
from tripleweb.datalog.query import parse
from tripleweb.store import Store
from tripleweb.terms import Ref

ENTITIES = 20_000
SIZES = [10, 30, 100, 200, 300, 500, 1_000, 3_000, 10_000]
REPEATS = 15
SHAPES = {
    "filter": "[:find ?i ?n :in $ ?k :where [?i :item/group ?k] [?i :item/n ?n] [(> ?n 10)]]",
    "join": "[:find ?a ?n :in $ ?k :where [?i :item/group ?k] [?i :item/of ?a] [?a :item/n ?n]]",
    "negation": "[:find ?i :in $ ?k :where [?i :item/group ?k] (not [_ :item/of ?i])]",
    "group": "[:find ?n (count ?i) :in $ ?k :where [?i :item/group ?k] [?i :item/n ?n]]",
}


def items() -> Store:
    """A group of each size, with its name; the rest belongs to none."""
    ids = [f"item{number}" for number in range(ENTITIES)]
    groups: list[str | None] = [f"of {size}" for size in SIZES for _ in range(size)]
    groups += [None] * (ENTITIES - len(groups))
    store = Store()
    columns: list[tuple[str, list[Any]]] = [
        ("item/group", groups),
        ("item/n", [number * 7919 % 100 for number in range(ENTITIES)]),
        ("item/of", [Ref(ids[number * 104729 % ENTITIES]) for number in range(ENTITIES)]),
    ]
    store.put_columns(ids, columns, (1, "r"))
    return store


def run() -> dict[str, Any]:
    """Each shape at each size: rows touched, microseconds by generated code and by columns; and the crossings."""
    store = items()
    ways = {"code_us": Executor(store, many=1 << 60), "columns_us": Executor(store, many=-1)}
    found: dict[str, Any] = {}
    for name, text in SHAPES.items():
        query, told = parse(text), []
        for size in SIZES:
            row: dict[str, Any] = {"rows": size}
            for way, executor in ways.items():
                executor.prepared(query, [f"of {size}"])  # else what is looked up is not generated at once
                times = []
                for _ in range(REPEATS):
                    started = perf_counter()
                    result = executor.run(query, [f"of {size}"], None, Budget())
                    len(list(result.rows))
                    times.append(perf_counter() - started)
                row[way] = round(median(times) * 1e6, 1)
                if way == "code_us":
                    row["touched"] = result.work
            told.append(row)
        crossing = next((row["touched"] for row in told if row["columns_us"] < row["code_us"]), None)
        found[name] = {"crossing_touched": crossing, "sizes": told}
    return found
