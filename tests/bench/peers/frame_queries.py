"""pandas and polars in the bench of queries, on a table a kind: python -m tests.bench.peers.frame_queries FOLDER OUT
OPTIONS, in an environment of their own. What polars finds is made a pandas DataFrame, as everybody's answer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl

from tests.bench.queries.measured import Stopwatch, of_frame, seconds

Questions = dict[str, Callable[[], pd.DataFrame]]
SIX = ["id", "name", "email", "age", "isActive", "createdAt"]


def pandas_questions(tables: dict[str, pd.DataFrame], given: dict[str, Any]) -> Questions:
    users, posts, comments = tables["user"], tables["post"], tables["comment"]
    tagged, tags = tables["post_tag"], tables["tag"]

    def below(top: str) -> pd.DataFrame:
        found: set[str] = set()
        front = [top]
        while front:
            reports = users.loc[users.managerId.isin(front), "id"]
            front = [user for user in reports if user not in found]
            found.update(front)
        return users.loc[users.id.isin(found), ["name"]]

    def hot() -> pd.DataFrame:
        scored = posts.loc[posts.score > 90, ["title", "authorId"]]
        active = users.loc[users.isActive, ["id", "name"]]
        return scored.merge(active, left_on="authorId", right_on="id")[["title", "name"]]

    def talk() -> pd.DataFrame:
        said = tagged.loc[tagged.tagId == given["tag"], ["postId"]].merge(comments, on="postId")
        both = said.merge(users[["id", "name"]], left_on="authorId", right_on="id")
        return both[["id_x", "text", "name"]]

    return {
        "Q0": lambda: tags[["name"]].copy(),
        "Q1": lambda: users.loc[users.email == given["email"], ["name", "id"]],
        "Q2": hot,
        "Q3": talk,
        "Q4": lambda: posts.groupby("authorId").score.agg(["mean", "count"]).reset_index(),
        "Q5a": lambda: below(given["manager"]),
        "Q5b": lambda: below(given["root"]),
        "Q6": lambda: users.loc[~users.id.isin(comments.authorId.unique()), ["name"]],
        "Q7": lambda: users[SIX].copy(),
    }


def polars_questions(tables: dict[str, pl.DataFrame], given: dict[str, Any]) -> Questions:
    users, posts, comments = tables["user"], tables["post"], tables["comment"]
    tagged, tags, col = tables["post_tag"], tables["tag"], pl.col

    def below(top: str) -> pd.DataFrame:
        front = pl.Series("id", [top])
        found = []
        while len(front):
            front = users.join(pl.DataFrame({"managerId": front}), on="managerId", how="semi")["id"]
            found.append(front)
        everybody = pl.DataFrame({"id": pl.concat(found)})
        return users.join(everybody, on="id", how="semi").select("name").to_pandas()

    def hot() -> pd.DataFrame:
        active = users.lazy().filter(col("isActive"))
        both = posts.lazy().filter(col("score") > 90).join(active, left_on="authorId", right_on="id")
        return both.select("title", "name").collect().to_pandas()

    def talk() -> pd.DataFrame:
        said = tagged.lazy().filter(col("tagId") == given["tag"]).join(comments.lazy(), on="postId")
        both = said.join(users.lazy(), left_on="authorId", right_on="id")
        return both.select("id", "text", "name").collect().to_pandas()

    def authors() -> pd.DataFrame:
        scores = posts.group_by("authorId").agg(col("score").mean().alias("mean"), pl.len().alias("count"))
        return scores.to_pandas()

    return {
        "Q0": lambda: tags.select("name").to_pandas(),
        "Q1": lambda: users.filter(col("email") == given["email"]).select("name", "id").to_pandas(),
        "Q2": hot,
        "Q3": talk,
        "Q4": authors,
        "Q5a": lambda: below(given["manager"]),
        "Q5b": lambda: below(given["root"]),
        "Q6": lambda: (
            users.join(comments, left_on="id", right_on="authorId", how="anti").select("name").to_pandas()
        ),
        "Q7": lambda: users.select(SIX).to_pandas(),
    }


def run(watch: Stopwatch) -> None:
    library: Any = pl if watch.options["variant"] == "polars" else pd
    watch.weigh()
    columns = watch.tables()
    began = seconds()
    tables = {name: library.DataFrame(held) for name, held in columns.items()}
    load_s = seconds() - began
    del columns
    versions = {library.__name__: library.__version__, "pandas": pd.__version__}
    watch.loaded(watch.options["variant"], versions, load_s)
    made = polars_questions if library is pl else pandas_questions
    questions = made(tables, watch.given)
    for figure in watch.options["figures"]:
        if figure in questions:
            watch.ask(figure, questions[figure], of_frame)
    watch.asked()


if __name__ == "__main__":
    run(Stopwatch())
