"""tripleweb in the bench of queries, by its public names alone: python -m tests.bench.queries.own FOLDER OUT OPTIONS.

The data comes as one DataFrame a kind, with plain strings for references and lists for many-valued fields; `load_s`
begins when the frames are there. `createdAt` is text, as in every other engine. Variant `file` loads a durable store
instead, reads it back, and writes the same bytes plainly beside it.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

import tripleweb
from tests.bench.live.own import AGGREGATE, JOIN, NEGATION, RECURSION, REPORTS, versions
from tests.bench.queries.answers import pulled
from tests.bench.queries.asked import OWN, OWN_FILE
from tests.bench.queries.measured import KINDS, Stopwatch, Writes, of_frame, seconds
from tripleweb import t

SCHEMA = tripleweb.schema(
    tag={"name": t.string()},
    user={
        "name": t.string(),
        "email": t.string(),
        "age": t.number(),
        "isActive": t.boolean(),
        "createdAt": t.string(),
        "managerId": t.ref("user", optional=True),
    },
    post={
        "title": t.string(),
        "score": t.number(),
        "createdAt": t.string(),
        "authorId": t.ref("user"),
        "tagIds": t.ref_many("tag"),
    },
    comment={"text": t.string(), "postId": t.ref("post"), "authorId": t.ref("user")},
)
TAGS = "[:find ?name :where [_ :tag/name ?name]]"
BY_EMAIL = "[:find ?name ?u :in $ ?email :where [?u :user/email ?email] [?u :user/name ?name]]"
TALK = """[:find ?c ?text ?name :in $ ?tag :where [?p :post/tagIds ?tag] [?c :comment/postId ?p]
           [?c :comment/text ?text] [?c :comment/authorId ?u] [?u :user/name ?name]]"""
USERS = """[:find ?u ?name ?email ?age ?active ?created :where [?u :user/name ?name] [?u :user/email ?email]
            [?u :user/age ?age] [?u :user/isActive ?active] [?u :user/createdAt ?created]]"""
CLOSURE = "[:find ?m ?e :in $ % :where (reports ?m ?e)]"
PULL_ONE = """[:find (pull ?u [:user/name :user/email {:post/_authorId [:post/title :post/score]}])
               :in $ ?email :where [?u :user/email ?email]]"""
PULL_MANY = """[:find (pull ?p [:post/title {:post/authorId [:user/name]} {:post/tagIds [:tag/name]}])
                :where [?p :post/score ?s] [(> ?s 90)]]"""


def questions(given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Figure -> a query with its inputs."""
    return {
        "Q0": (TAGS,),
        "Q1": (BY_EMAIL, given["email"]),
        "Q2": (JOIN,),
        "Q3": (TALK, given["tag"]),
        "Q4": (AGGREGATE,),
        "Q5a": (RECURSION, REPORTS, given["manager"]),
        "Q5b": (RECURSION, REPORTS, given["root"]),
        "Q6": (NEGATION,),
        "Q7": (USERS,),
        "pull_one": (PULL_ONE, given["email"]),
        "pull_many": (PULL_MANY,),
        "Q2_written": (JOIN,),
        "Q4_written": (AGGREGATE,),
        "Q5b_written": (RECURSION, REPORTS, given["root"]),
        "closure": (CLOSURE, REPORTS),
    }


def frames(watch: Stopwatch) -> dict[str, pd.DataFrame]:
    return {kind: pd.DataFrame(watch.columns(kind)) for kind in KINDS}


def load(db: tripleweb.Database, tables: Mapping[str, pd.DataFrame]) -> None:
    for kind, table in tables.items():
        db.insert_frame(kind, table, id="id")


def ask(watch: Stopwatch, db: tripleweb.Database) -> None:
    written = writes(watch, db)
    for figure, question in questions(watch.given).items():
        columns = pulled_column if figure.startswith("pull") else of_frame
        watch.ask(figure, lambda: db.q(*question), columns, written.get(figure))


def writes(watch: Stopwatch, db: tripleweb.Database) -> dict[str, Writes]:
    post, score, old_score = watch.given["scored"]
    user, boss, old_boss = watch.given["moved"]
    scored = (
        lambda: db.set(post, "post/score", score),
        lambda: db.set(post, "post/score", old_score),
    )
    moved = (
        lambda: db.set(user, "user/managerId", boss),
        lambda: db.set(user, "user/managerId", old_boss),
    )
    return {"Q2_written": scored, "Q4_written": scored, "Q5b_written": moved}


def pulled_column(frame: pd.DataFrame) -> list[list[Any]]:
    return [[pulled(entity) for entity in frame.iloc[:, 0]]]


def in_memory(watch: Stopwatch) -> None:
    ready()
    watch.weigh()
    tables = frames(watch)
    with tripleweb.open(schema=SCHEMA) as db:
        began = seconds()
        load(db, tables)
        load_s = seconds() - began
        tables.clear()
        watch.loaded(OWN, versions(), load_s, note=note())
        ask(watch, db)
        watch.asked()


def durable(watch: Stopwatch) -> None:
    """A load into a file, and the same bytes written plainly: what the disk allows."""
    ready()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.tripleweb"
        watch.weigh()
        tables = frames(watch)
        with tripleweb.open(path, schema=SCHEMA) as db:
            began = seconds()
            load(db, tables)
            load_s = seconds() - began
            tables.clear()
            parts = {file.name: file.stat().st_size for file in sorted(Path(folder).iterdir())}
        size = sum(parts.values())
        raw_s = median(plainly(Path(folder) / f"plain{i}", size) for i in range(3))
        gc.collect()
        began = seconds()
        with tripleweb.open(path, schema=SCHEMA) as db:
            opened_s = seconds() - began
            watch.loaded(
                OWN_FILE,
                versions(),
                load_s,
                bytes_on_disk=parts,
                raw_write_s=round(raw_s, 6),
                raw_write_mb_per_s=round(size / raw_s / 1e6, 1),
                opened_s=round(opened_s, 3),
            )
            ask(watch, db)


def plainly(path: Path, size: int) -> float:
    """Seconds to write so many bytes in one go, down to the disk."""
    block = os.urandom(1 << 20)
    began = seconds()
    with open(path, "wb") as file:
        for left in range(size, 0, -len(block)):
            file.write(block[:left])
        file.flush()
        os.fsync(file.fileno())
    return seconds() - began


def ready() -> None:
    """What is imported on first use is imported now: it is not part of a load."""
    with tripleweb.open(schema=SCHEMA) as db:
        db.insert_frame("tag", pd.DataFrame({"id": ["a"], "name": ["b"]}), id="id")


def note() -> str:
    arrow = "pyarrow" if "pyarrow" in sys.modules else "no pyarrow"
    return f"an environment of its own, with {arrow}; createdAt is text; loaded from frames, with a schema"


if __name__ == "__main__":
    watch = Stopwatch()
    durable(watch) if watch.options["variant"] == "file" else in_memory(watch)
