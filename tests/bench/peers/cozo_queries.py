"""Cozo in memory in the bench of queries, answers into DataFrames: python -m tests.bench.peers.cozo_queries FOLDER OUT
OPTIONS, in an environment of its own. Variants: `cozo-triples` (with an index by value), `cozo-native` (a relation a
kind). Indexes are named in the questions, since Cozo chooses none by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import pandas as pd
from pycozo.client import Client

from tests.bench.queries.measured import Stopwatch, of_frame, seconds

BATCH = 20_000
TRIPLES = {
    "Q0": "?[n] := *t{p: 'tag/name', o: n}",
    "Q1": "?[n, u] := *t:pos{p: 'user/email', o: $email, s: u}, *t{p: 'user/name', s: u, o: n}",
    "Q2": """?[title, n] := *t:pos{p: 'post/score', s: post, o: score}, score > 90,
        *t{p: 'post/authorId', s: post, o: u}, *t{p: 'user/isActive', s: u, o: true},
        *t{p: 'post/title', s: post, o: title}, *t{p: 'user/name', s: u, o: n}""",
    "Q3": """?[c, text, n] := *t:pos{p: 'post/tagIds', o: $tag, s: post}, *t:pos{p: 'comment/postId', o: post, s: c},
        *t{p: 'comment/text', s: c, o: text}, *t{p: 'comment/authorId', s: c, o: u}, *t{p: 'user/name', s: u, o: n}""",
    "Q4": """?[u, mean(score), count(post)] := *t{p: 'post/authorId', s: post, o: u},
        *t{p: 'post/score', s: post, o: score}""",
    "Q5": """below[e] := *t:pos{p: 'user/managerId', o: $top, s: e}
        below[e] := below[x], *t:pos{p: 'user/managerId', o: x, s: e}
        ?[n] := below[e], *t{p: 'user/name', s: e, o: n}""",
    "Q6": """said[u] := *t{p: 'comment/authorId', o: u}
        ?[n] := *t{p: 'user/name', s: u, o: n}, not said[u]""",
    "Q7": """?[u, n, mail, age, active, made] := *t{p: 'user/name', s: u, o: n}, *t{p: 'user/email', s: u, o: mail},
        *t{p: 'user/age', s: u, o: age}, *t{p: 'user/isActive', s: u, o: active},
        *t{p: 'user/createdAt', s: u, o: made}""",
    "closure": """pairs[m, e] := *t{p: 'user/managerId', s: e, o: m}
        pairs[m, e] := pairs[m, x], *t:pos{p: 'user/managerId', o: x, s: e}
        ?[m, e] := pairs[m, e]""",
}
NATIVE = {
    "Q0": "?[n] := *tag{name: n}",
    "Q1": "?[n, u] := *user:mail{email: $email, id: u}, *user{id: u, name: n}",
    "Q2": """?[title, n] := *post{id: post, score, title, authorId: u}, score > 90,
        *user{id: u, name: n, isActive: true}""",
    "Q3": """?[c, text, n] := *post_tag:tagged{tagId: $tag, postId: post}, *comment:about{postId: post, id: c},
        *comment{id: c, text, authorId: u}, *user{id: u, name: n}""",
    "Q4": "?[u, mean(score), count(post)] := *post{id: post, score, authorId: u}",
    "Q5": """below[e] := *user:led{managerId: $top, id: e}
        below[e] := below[x], *user:led{managerId: x, id: e}
        ?[n] := below[e], *user{id: e, name: n}""",
    "Q6": """said[u] := *comment{authorId: u}
        ?[n] := *user{id: u, name: n}, not said[u]""",
    "Q7": """?[u, n, mail, age, active, made] := *user{id: u, name: n, email: mail, age, isActive: active,
        createdAt: made}""",
    "closure": """pairs[m, e] := *user{id: e, managerId: m}, m != null
        pairs[m, e] := pairs[m, x], *user:led{managerId: x, id: e}
        ?[m, e] := pairs[m, e]""",
}
RELATIONS = """
{:create user {id: String => name: String, email: String, age: Int, isActive: Bool, createdAt: String,
    managerId: String?}}
{:create post {id: String => title: String, score: Int, createdAt: String, authorId: String}}
{:create post_tag {postId: String, tagId: String}}
{:create comment {id: String => text: String, postId: String, authorId: String}}
{:create tag {id: String => name: String}}"""
INDEXES = (
    "user:mail {email}",
    "user:led {managerId}",
    "post:scored {score}",
    "post:written {authorId}",
    "post_tag:tagged {tagId, postId}",
    "comment:about {postId}",
    "comment:said {authorId}",
)


class Cozo:
    """A database in memory."""

    def __init__(self, native: bool) -> None:
        self.native = native
        self.db = Client("mem", "", dataframe=True)

    def load(self, watch: Stopwatch, rows: Any) -> None:
        if not self.native:
            self.db.run(":create t {p: String, s: String, o: Any}")
            self.db.run("::index create t:pos {p, o, s}")
            self._put("t", ("s", "p", "o"), rows)
            return
        self.db.run(RELATIONS)
        for index in INDEXES:
            self.db.run(f"::index create {index}")
        for name, columns in rows.items():
            self._put(name, tuple(columns), zip(*columns.values(), strict=True))

    def _put(self, relation: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        left, header = iter(rows), ", ".join(names)
        while batch := [list(row) for row in islice(left, BATCH)]:
            self.db.run(f"?[{header}] <- $rows :put {relation} {{{header}}}", {"rows": batch})


def run(watch: Stopwatch) -> None:
    native = watch.options["variant"] == "cozo-native"
    watch.weigh()
    rows: Any = watch.tables() if native else list(watch.triples())
    began = seconds()
    cozo = Cozo(native)
    cozo.load(watch, rows)
    load_s = seconds() - began
    del rows
    versions = {"cozo": watch.version("cozo_embedded"), "pandas": pd.__version__}
    watch.loaded(watch.options["variant"], versions, load_s)

    given = watch.given
    texts = NATIVE if native else TRIPLES
    top = {"Q5a": given["manager"], "Q5b": given["root"]}
    for figure in watch.options["figures"]:
        text = texts.get("Q5" if figure in top else figure)
        if text is not None:
            held = {"email": given["email"], "tag": given["tag"], "top": top.get(figure, "")}
            watch.ask(figure, lambda: cozo.db.run(text, held), of_frame)
    watch.asked()


if __name__ == "__main__":
    run(Stopwatch())
