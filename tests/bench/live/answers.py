"""The answers of the live bench, by pandas, from the data and the changes alone: what engines have to agree with."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tests.bench.live.workload import AGES, HOT, THRESHOLDS, Rows, Workload, below, hundred_rows


class Answers:
    """The answers of one workload."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    def expected(self, figure: str) -> Rows | None:
        """The answer after all the changes of a figure, by pandas; None for a figure that has no answer."""
        compute = {
            "join": self._answer_join,
            "aggregate": self._answer_aggregate,
            "negation": self._answer_negation,
            "hundred_changed": self._answer_hundred,
            "hundred_heard": self._answer_hundred,
            "recursion_root": self._answer_reports,
            "recursion_sizes": self._answer_reports,
            "recursion_manager": self._answer_reports,
            "frame": self._answer_frame,
            "point": self._answer_point,
        }.get(figure)
        return None if compute is None else compute(figure)

    def _table(self, kind: str, figure: str = "") -> pd.DataFrame:
        """The entities of a kind after the changes of a figure."""
        latest = {(s, p): new for s, p, new, *_ in self.workload.plan.changes.get(figure, ())}
        fields = {"user": ("name", "age", "isActive", "managerId"), "comment": ("authorId",)}
        names = fields.get(kind, ("title", "score", "authorId", "createdAt"))
        columns: dict[str, list[Any]] = {"id": [e["id"] for e in self.workload.kinds[kind]]}
        for name in names:
            columns[name] = [
                latest.get((e["id"], f"{kind}/{name}"), e.get(name)) for e in self.workload.kinds[kind]
            ]
        return pd.DataFrame(columns)

    def _joined(self, figure: str) -> pd.DataFrame:
        users = self._table("user", figure).rename(columns={"id": "authorId"})
        return self._table("post", figure).merge(users[users["isActive"]], on="authorId")

    def _answer_join(self, figure: str) -> Rows:
        both = self._joined(figure)
        return _rows(both.loc[both["score"] > HOT, ["title", "name"]].drop_duplicates())

    def _answer_aggregate(self, figure: str) -> Rows:
        scores = self._table("post", figure).groupby("authorId")["score"].agg(["mean", "count"])
        return _rows(scores.reset_index())

    def _answer_negation(self, figure: str) -> Rows:
        users, comments = self._table("user", figure), self._table("comment", figure)
        return _rows(users.loc[~users["id"].isin(comments["authorId"]), ["name"]])

    def _answer_hundred(self, figure: str) -> Rows:
        both, users = self._joined(figure), self._table("user", figure)
        answers: Rows = []
        for i, bound in enumerate([*THRESHOLDS, *AGES]):
            if i < len(THRESHOLDS):
                frame = both.loc[both["score"] > bound, ["title", "name", "score"]].drop_duplicates()
            else:
                frame = users.loc[users["isActive"] & (users["age"] > bound), ["name", "age"]]
            answers += hundred_rows(i, _rows(frame))
        return answers

    def _answer_reports(self, figure: str) -> Rows:
        users = self._table("user", figure)
        top = self.workload.plan.parameters["manager" if figure == "recursion_manager" else "root"]
        reports: dict[str, set[str]] = {user: set() for user in users["id"]}
        for user, boss in zip(users["id"], users["managerId"], strict=True):
            if isinstance(boss, str):
                reports[boss].add(user)
        return _rows(users.loc[users["id"].isin(below(reports, top)), ["name"]])

    def _answer_frame(self, figure: str) -> Rows:
        posts, bounds = self._table("post", figure), self.workload.plan.parameters
        chosen = (posts["score"] > bounds["floor"]) & (posts["createdAt"] < bounds["until"])
        return _rows(posts.loc[chosen, ["id", "title", "score"]])

    def _answer_point(self, figure: str) -> Rows:
        return [[self.workload.by_id[user]["name"]] for user in self.workload.plan.lookups]


def _rows(frame: pd.DataFrame) -> Rows:
    return [list(row) for row in frame.astype(object).itertuples(index=False, name=None)]
