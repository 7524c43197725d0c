"""The data: the project tracker's graph of the live bench as columns, a file a kind, in a folder of the cache.

Invariants: drawn from a fixed seed, so the same on every machine; made once a size, and anew when a module that makes
it changes. A folder has `user.json`, `post.json`, `comment.json` and `tag.json` (name of a column -> its values),
`plan.json` (what engines are asked about) and `answers.json` (what they have to find).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.live import installed, workload
from tests.bench.queries import answers, asked

SIZES = {"XS": 10, "S": 100, "M": 1_000, "L": 10_000}  # users, of 126 triples each
FIELDS = {
    "user": ("name", "email", "age", "isActive", "createdAt", "managerId"),
    "post": ("title", "score", "createdAt", "authorId", "tagIds"),
    "comment": ("text", "postId", "authorId"),
    "tag": ("name",),
}
Columns = dict[str, list[Any]]


def folder(size: str) -> Path:
    """Where the data of a size is. Raises `NotInstalled`."""
    pins = [Path(str(module.__file__)) for module in (workload, answers, asked)] + [Path(__file__)]
    return installed.kept(f"tracker-{size}", pins, lambda place: write(place, size))


def write(place: Path, size: str) -> None:
    users = SIZES[size]
    kinds = columns(workload.entities(users))
    for kind, table in kinds.items():
        _dump(place / f"{kind}.json", table)
    plan = {
        "size": size,
        "users": users,
        "entities": sum(len(table["id"]) for table in kinds.values()),
        "triples": sum(_triples(cells) for t in kinds.values() for name, cells in t.items() if name != "id"),
        "parameters": parameters(kinds),
    }
    _dump(place / "plan.json", plan)
    _dump(place / "answers.json", answers.answers(kinds, plan["parameters"]))


def columns(entities: Iterable[workload.Entity]) -> dict[str, Columns]:
    kinds: dict[str, Columns] = {kind: {name: [] for name in ("id", *FIELDS[kind])} for kind in FIELDS}
    for entity in entities:
        for name, cells in kinds[entity["type"]].items():
            cells.append(entity.get(name))
    return kinds


def parameters(kinds: dict[str, Columns]) -> dict[str, Any]:
    """What is asked about, and the writes of the figures that write: a score and the manager of the last user, who
    has nobody below."""
    users, posts = kinds["user"], kinds["post"]
    return {
        "email": users["email"][len(users["id"]) // 2],
        "tag": kinds["tag"]["id"][7],
        "root": users["id"][0],
        "manager": users["id"][5],
        "scored": [posts["id"][0], (posts["score"][0] + 50) % 101, posts["score"][0]],  # post, new, old
        "moved": [users["id"][-1], users["id"][1], users["managerId"][-1]],
    }


def _triples(cells: list[Any]) -> int:
    return sum(len(v) if isinstance(v, list) else v is not None for v in cells)


def _dump(file: Path, held: Any) -> None:
    file.write_text(json.dumps(held, separators=(",", ":")), encoding="utf-8")
