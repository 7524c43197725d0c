"""Perspective: views follow their tables; the join is a table of its own. It has neither negation nor recursion, and
runs in an environment of its own: python -m tests.bench.peers.perspective_views FOLDER OUT."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import perspective

from tests.bench.live.measured import Stopwatch, Writes, seconds

FIELDS = {
    "user": {"name": "string", "isActive": "boolean"},
    "post": {"title": "string", "score": "float", "createdAt": "string", "authorId": "string"},
}
KEYS = {"user": "authorId", "post": "id"}  # a join is on one name that both tables have


class Views:
    """Users and posts as tables, indexed by their id."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.client = perspective.Server().new_local_client()
        columns: dict[str, dict[str, list[Any]]] = {
            kind: {name: [] for name in (KEYS[kind], *fields)} for kind, fields in FIELDS.items()
        }
        for entity in watch.entities():
            for name, cells in columns.get(entity["type"], {}).items():
                cells.append(entity["id"] if name == KEYS[entity["type"]] else number(entity[name]))
        began = seconds()
        self.tables = {}
        for kind, fields in FIELDS.items():
            key = KEYS[kind]
            self.tables[kind] = self.client.table({key: "string", **fields}, index=key)
            self.tables[kind].update(columns[kind])
        loaded = seconds() - began
        self.posts = columns["post"]["id"]
        versions = {"perspective": perspective.__version__, "pandas": pd.__version__}
        watch.tell(engine="perspective", versions=versions, loaded_s=loaded, triples=None)

    def write(self, subject: str, predicate: str, value: Any) -> None:
        kind, _, name = predicate.partition("/")
        table = self.tables[kind]
        table.update([{KEYS[kind]: subject, name: number(value)}])
        table.size()  # the answer comes after the update was taken in

    def bulk(self, writes: Writes) -> None:
        """The last value of each cell, a field at a time: one by one the join is made anew for each."""
        latest: dict[str, dict[str, Any]] = {}
        for subject, predicate, value in writes:
            latest.setdefault(predicate, {})[subject] = number(value)
        for predicate, cells in latest.items():
            kind, _, name = predicate.partition("/")
            table = self.tables[kind]
            table.update([{KEYS[kind]: subject, name: value} for subject, value in cells.items()])
            table.size()

    def measure(
        self,
        figure: str,
        open_view: Callable[[], Any],
        columns: Sequence[str],
        frame: bool = False,
        note: str = "",
        rows_of: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
    ) -> None:
        began = seconds()
        view = open_view()
        opened = (seconds() - began) * 1e3
        heard = [0]

        def hear(*_: Any) -> None:
            heard[0] += 1

        view.on_update(hear)

        def change(subject: str, predicate: str, value: Any) -> None:
            self.write(subject, predicate, value)
            if frame:
                view.to_dataframe()

        def answer() -> list[Any]:
            return list(
                rows_of(view.to_dataframe())[list(columns)].astype(object).itertuples(index=False, name=None)
            )

        self.watch.follow(
            figure,
            change=change,
            bulk=self.bulk,
            answer=answer,
            close=view.delete,
            opened_ms=opened,
            note=note,
        )

    def join(self, figure: str) -> None:
        joined = self.client.join(self.tables["post"], self.tables["user"], "authorId", "inner")

        def open_view() -> Any:
            return joined.view(
                filter=[["score", ">", 90], ["isActive", "==", True]], columns=["title", "name"]
            )

        try:
            self.measure(figure, open_view, ["title", "name"])
        finally:
            joined.delete()

    def aggregate(self, figure: str) -> None:
        def open_view() -> Any:
            return self.tables["post"].view(
                group_by=["authorId"], columns=["score", "id"], aggregates={"score": "avg", "id": "count"}
            )

        def grouped(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["authorId"].notna()]  # without the total

        self.measure(figure, open_view, ["authorId", "score", "id"], rows_of=grouped, note="update taken in")

    def frame(self, figure: str) -> None:
        given = self.watch.parameters

        def open_view() -> Any:
            filters = [["score", ">", given["floor"]], ["createdAt", "<", given["until"]]]
            return self.tables["post"].view(filter=filters, columns=["id", "title", "score"])

        self.measure(figure, open_view, ["id", "title", "score"], frame=True, note="update and to_dataframe")

    def set(self, figure: str) -> None:
        def run(part: Writes) -> None:
            for subject, predicate, value in part:
                self.write(subject, predicate, value)

        self.watch.batches(figure, self.watch.scores(self.posts), run, note="update, taken in")

    def run(self) -> None:
        watch = self.watch
        watch.attempt("frame", self.frame)
        watch.attempt("aggregate", self.aggregate)
        watch.attempt("join", self.join)
        watch.attempt("set", self.set)


def number(value: Any) -> Any:
    """Integers as the floats of the columns."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


if __name__ == "__main__":
    Views(Stopwatch(sys.argv[1], sys.argv[2])).run()
