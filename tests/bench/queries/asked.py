"""What is asked: the figures of the bench, the columns of their answers, and who is raced.

Invariants: an answer is a bag of rows, whose columns are compared by their kind (numbers to nine digits; the truth may
be `true`, `1` or `"true"`), so an engine that stores text only can still be compared. All engines answer with the same
columns in the same order. Dates (`createdAt`) are text in every engine. A pulled entity is told as one text, its JSON
with sorted names and sorted lists.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, NUMBER, TRUTH = "text", "number", "truth"


@dataclass(frozen=True)
class Asked:
    """One figure; `columns` are name -> kind."""

    title: str
    columns: dict[str, str]


FIGURES: dict[str, Asked] = {
    "Q0": Asked("names of all tags; the process's first query", {"name": TEXT}),
    "Q1": Asked("a user by e-mail", {"name": TEXT, "user": TEXT}),
    "Q2": Asked("posts scored over 90 by active users, with their names", {"title": TEXT, "name": TEXT}),
    "Q3": Asked("comments on posts with one tag", {"comment": TEXT, "text": TEXT, "name": TEXT}),
    "Q4": Asked("posts and their mean score by author", {"user": TEXT, "mean": NUMBER, "count": NUMBER}),
    "Q5a": Asked("everybody below one manager", {"name": TEXT}),
    "Q5b": Asked("everybody below the root", {"name": TEXT}),
    "Q6": Asked("users who never commented", {"name": TEXT}),
    "Q7": Asked(
        "all users, six columns",
        {"user": TEXT, "name": TEXT, "email": TEXT, "age": NUMBER, "isActive": TRUTH, "createdAt": TEXT},
    ),
    "pull_one": Asked("pull of a user with the posts that name it", {"pulled": TEXT}),
    "pull_many": Asked("pull of the posts scored over 90, with author and tags", {"pulled": TEXT}),
    "Q2_written": Asked("Q2 after a score was written", {"title": TEXT, "name": TEXT}),
    "Q4_written": Asked("Q4 after a score was written", {"user": TEXT, "mean": NUMBER, "count": NUMBER}),
    "Q5b_written": Asked("Q5b after an edge of the tree was moved", {"name": TEXT}),
    "closure": Asked("all pairs of manager and report", {"manager": TEXT, "report": TEXT}),
}
QUERIES = ("Q1", "Q2", "Q3", "Q4", "Q5a", "Q5b", "Q6", "Q7")

TRIPLES = ("datascript", "cozo-triples", "duckdb-triples", "sqlite-seed", "sqlite-tuned", "oxigraph")
TABLES = ("duckdb-native", "sqlite-native", "cozo-native", "pandas", "polars")
PEERS = (*TRIPLES, *TABLES)
OWN, OWN_FILE = "tripleweb", "tripleweb-file"

REFERENCES = {"managerId", "authorId", "postId", "tagIds"}
HOT = 90  # a post with a higher score is in the answer of Q2
