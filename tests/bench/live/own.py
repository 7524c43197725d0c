"""tripleweb in the live bench, by its public names alone: python -m tests.bench.live.own FOLDER OUT.

A change of a followed query is `db.set` and a look at `live.version`, which is up to date by contract; so whatever
keeping the answer costs is in the figure, whether it is paid by the write or by the look. With a hundred queries the
looks themselves are taken off: a second round of them, when nothing is new, is measured beside each change.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

import tripleweb
from tests.bench.live.measured import Stopwatch, Writes, seconds
from tests.bench.live.workload import REFERENCES, hundred_rows

REPORTS = """[[(reports ?m ?e) [?e :user/managerId ?m]]
              [(reports ?m ?e) [?x :user/managerId ?m] (reports ?x ?e)]]"""
JOIN = """[:find ?title ?name :where [?p :post/score ?s] [(> ?s 90)] [?p :post/authorId ?u]
           [?u :user/isActive true] [?p :post/title ?title] [?u :user/name ?name]]"""
AGGREGATE = """[:find ?u (avg ?s) (count ?s) :with ?p
                :where [?p :post/authorId ?u] [?p :post/score ?s]]"""
NEGATION = "[:find ?name :where [?u :user/name ?name] (not [_ :comment/authorId ?u])]"
RECURSION = "[:find ?name :in $ % ?m :where (reports ?m ?e) [?e :user/name ?name]]"
POSTS_ABOVE = """[:find ?title ?name ?s :in $ ?floor :where [?p :post/score ?s] [(> ?s ?floor)]
                  [?p :post/authorId ?u] [?u :user/isActive true] [?p :post/title ?title] [?u :user/name ?name]]"""
USERS_ABOVE = """[:find ?name ?age :in $ ?floor :where [?u :user/age ?age] [(> ?age ?floor)]
                  [?u :user/isActive true] [?u :user/name ?name]]"""
FRAME = """[:find ?p ?title ?s :in $ ?floor ?until :where [?p :post/score ?s] [(> ?s ?floor)]
            [?p :post/createdAt ?at] [(< ?at ?until)] [?p :post/title ?title]]"""
POINT = "[:find ?name . :in $ ?e :where [?e :user/name ?name]]"

FOLLOWED: dict[str, tuple[str, Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "join": (JOIN, lambda given: ()),
    "aggregate": (AGGREGATE, lambda given: ()),
    "negation": (NEGATION, lambda given: ()),
    "recursion_root": (RECURSION, lambda given: (REPORTS, given["root"])),
    "recursion_manager": (RECURSION, lambda given: (REPORTS, given["manager"])),
    "recursion_sizes": (RECURSION, lambda given: (REPORTS, given["root"])),
}


class Own:
    """The store under measurement."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.db = tripleweb.open()
        began = seconds()
        triples, self.posts = self._load()
        self.loaded_s = seconds() - began
        self.triples = triples

    def _load(self) -> tuple[int, list[str]]:
        """One frame a kind; making the frames is part of it."""
        columns: dict[str, dict[str, list[Any]]] = {}
        fields = {
            "tag": ("name",),
            "user": ("name", "email", "age", "isActive", "createdAt", "managerId"),
            "post": ("title", "score", "createdAt", "authorId", "tagIds"),
            "comment": ("text", "postId", "authorId"),
        }
        triples = 0
        for entity in self.watch.entities():
            kind = entity["type"]
            table = columns.setdefault(kind, {name: [] for name in ("id", *fields[kind])})
            table["id"].append(entity["id"])
            for name in fields[kind]:
                value = convert(name, entity.get(name))
                table[name].append(value)
                triples += 0 if value is None else len(value) if isinstance(value, set) else 1
        posts = columns["post"]["id"]
        for kind, table in columns.items():
            frame = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in table.items()})
            self.db.insert_frame(kind, frame.infer_objects(), id="id")
        return triples, posts

    def bulk(self, writes: Writes) -> None:
        with self.db.transaction():
            for subject, predicate, value in writes:
                self.db.set(subject, predicate, value)

    def run(self) -> None:
        watch = self.watch
        watch.tell(
            engine="tripleweb", versions=versions(), loaded_s=round(self.loaded_s, 3), triples=self.triples
        )
        gc.collect()
        watch.attempt("point", self.point)
        watch.attempt("set", self.set)
        for figure in FOLLOWED:
            watch.attempt(figure, self.followed)
        watch.attempt("frame", self.frame)
        for figure in ("hundred_changed", "hundred_heard"):
            watch.attempt(figure, self.hundred)
        for figure, durability in (("durable", "process"), ("durable_full", "full")):
            watch.attempt(figure, lambda figure, durability=durability: self.durable(figure, durability))

    def followed(self, figure: str) -> None:
        db = self.db
        query, given = FOLLOWED[figure]
        began = seconds()
        live = db.live(query, *given(self.watch.parameters))
        first = live.version
        opened = (seconds() - began) * 1e3

        def change(subject: str, predicate: str, value: Any) -> int:
            db.set(subject, predicate, value)
            return live.version - first

        self.watch.follow(
            figure,
            change=change,
            bulk=self.bulk,
            convert=convert,
            answer=lambda: rows(live.df),
            close=live.close,
            opened_ms=opened,
        )

    def frame(self, figure: str) -> None:
        db, given = self.db, self.watch.parameters
        live = db.live(FRAME, given["floor"], given["until"])
        assert len(live.df)

        def change(subject: str, predicate: str, value: Any) -> None:
            db.set(subject, predicate, value)
            live.df  # noqa: B018 (building the frame is what is measured)

        self.watch.follow(
            figure,
            change=change,
            bulk=self.bulk,
            convert=convert,
            answer=lambda: rows(live.df),
            close=live.close,
        )

    def hundred(self, figure: str) -> None:
        db, plan = self.db, self.watch.plan
        began = seconds()
        lives = [db.live(POSTS_ABOVE, floor) for floor in plan["thresholds"]]
        lives += [db.live(USERS_ABOVE, floor) for floor in plan["ages"]]

        def look() -> int:
            return sum([live.version for live in lives])

        first = look()
        opened = (seconds() - began) * 1e3

        def change(subject: str, predicate: str, value: Any) -> int:
            db.set(subject, predicate, value)
            return look() - first

        def answer() -> list[list[Any]]:
            return [row for i, live in enumerate(lives) for row in hundred_rows(i, rows(live.df))]

        def close() -> None:
            for live in lives:
                live.close()

        self.watch.follow(
            figure,
            change=change,
            free=look,
            bulk=self.bulk,
            convert=convert,
            answer=answer,
            close=close,
            opened_ms=opened,
            note="without the look at 100 versions",
        )

    def point(self, figure: str) -> None:
        db = self.db
        self.watch.look_up(figure, lambda subject: db.q(POINT, subject))

    def set(self, figure: str) -> None:
        db = self.db
        writes = self.watch.scores(self.posts)
        before = {post: db.get("post", post)["score"] for post, *_ in writes}

        def run(part: Writes) -> None:
            for subject, predicate, value in part:
                db.set(subject, predicate, value)

        self.watch.batches(figure, writes, run)
        self.bulk([(post, "post/score", score) for post, score in before.items()])
        with tripleweb.open() as db:
            self.watch.batches(f"{figure}_empty", writes, run, note="a store that begins empty")

    def durable(self, figure: str, durability: Any) -> None:
        single, together = self.watch.plan["durable"]
        with fresh_file() as path, tripleweb.open(path, durability=durability) as db:

            def one_by_one(part: Writes) -> None:
                for subject, predicate, value in part:
                    db.set(subject, predicate, value)

            def transaction(part: Writes) -> None:
                with db.transaction():
                    one_by_one(part)

            note = f"survives the death of the {'machine' if durability == 'full' else 'process'}"
            self.watch.batches(
                f"{figure}_one_by_one",
                [(f"e{i % 1000}", "user/age", i) for i in range(single)],
                one_by_one,
                note=note,
            )
            self.watch.batches(
                f"{figure}_transaction",
                [(f"f{i}", "user/name", "x") for i in range(together)],
                transaction,
                parts=5,
                note=note,
            )


def convert(name: str, value: Any) -> Any:
    """A field's value as tripleweb has it: references as such, lists as sets."""
    if name.rpartition("/")[2] not in REFERENCES or value is None:
        return value
    if isinstance(value, list):
        return {tripleweb.Ref(member) for member in value} or None
    return tripleweb.Ref(value)


def rows(frame: pd.DataFrame) -> Sequence[tuple[Any, ...]]:
    return list(frame.astype(object).itertuples(index=False, name=None))


@contextmanager
def fresh_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "bench.tripleweb"


def versions() -> dict[str, str]:
    return {"tripleweb": tripleweb.__version__, "python": sys.version.split()[0], "pandas": pd.__version__}


if __name__ == "__main__":
    Own(Stopwatch(sys.argv[1], sys.argv[2])).run()
