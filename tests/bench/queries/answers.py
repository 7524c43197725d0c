"""The answers of the bench, by plain Python from the columns alone: what every engine has to agree with.

An answer is a list of columns, as `asked.FIGURES` names them; the order of rows means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.queries.asked import FIGURES, HOT

Kinds = Mapping[str, Mapping[str, list[Any]]]
Row = tuple[Any, ...]


def answers(kinds: Kinds, given: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Figure -> columns."""
    found = _Answers(kinds, given)
    named = {name: getattr(found, name.partition("_written")[0].lower())() for name in FIGURES}
    return {name: columns_of(rows, len(FIGURES[name].columns)) for name, rows in named.items()}


def columns_of(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]


def pulled(entity: Any) -> str:
    """A pulled entity as text."""
    return json.dumps(_sorted(entity), sort_keys=True, separators=(",", ":"))


def _sorted(held: Any) -> Any:
    if isinstance(held, Mapping):
        return {name: _sorted(value) for name, value in held.items()}
    if isinstance(held, list):
        return sorted(map(_sorted, held), key=lambda one: json.dumps(one, sort_keys=True))
    return held


class _Answers:
    def __init__(self, kinds: Kinds, given: Mapping[str, Any]) -> None:
        self.given = given
        self.users, self.posts = kinds["user"], kinds["post"]
        self.comments, self.tags = kinds["comment"], kinds["tag"]
        self.names = dict(zip(self.users["id"], self.users["name"], strict=True))
        self.reports: dict[str, list[str]] = {user: [] for user in self.users["id"]}
        for user, manager in zip(self.users["id"], self.users["managerId"], strict=True):
            if manager is not None:
                self.reports[manager].append(user)

    def q0(self) -> list[Row]:
        return [(name,) for name in self.tags["name"]]

    def q1(self) -> list[Row]:
        at = self.users["email"].index(self.given["email"])
        return [(self.users["name"][at], self.users["id"][at])]

    def _hot(self) -> list[int]:
        return [i for i, score in enumerate(self.posts["score"]) if score > HOT]

    def q2(self) -> list[Row]:
        active = dict(zip(self.users["id"], self.users["isActive"], strict=True))
        authors = self.posts["authorId"]
        hot = [i for i in self._hot() if active[authors[i]]]
        return [(self.posts["title"][i], self.names[authors[i]]) for i in hot]

    def q3(self) -> list[Row]:
        tagged = zip(self.posts["id"], self.posts["tagIds"], strict=True)
        posts = {post for post, tags in tagged if self.given["tag"] in tags}
        c = self.comments
        rows = zip(c["id"], c["text"], c["authorId"], c["postId"], strict=True)
        return [(comment, text, self.names[author]) for comment, text, author, post in rows if post in posts]

    def q4(self) -> list[Row]:
        scores: dict[str, list[int]] = {}
        for author, score in zip(self.posts["authorId"], self.posts["score"], strict=True):
            scores.setdefault(author, []).append(score)
        return [(author, sum(own) / len(own), len(own)) for author, own in scores.items()]

    def _below(self, top: str) -> list[str]:
        found, front = [], [top]
        while front:
            front = [report for user in front for report in self.reports[user]]
            found += front
        return found

    def q5a(self) -> list[Row]:
        return [(self.names[user],) for user in self._below(self.given["manager"])]

    def q5b(self) -> list[Row]:
        return [(self.names[user],) for user in self._below(self.given["root"])]

    def q6(self) -> list[Row]:
        talkative = set(self.comments["authorId"])
        return [(name,) for user, name in self.names.items() if user not in talkative]

    def q7(self) -> list[Row]:
        names = ("id", "name", "email", "age", "isActive", "createdAt")
        return list(zip(*(self.users[name] for name in names), strict=True))

    def closure(self) -> list[Row]:
        return [(user, report) for user in self.users["id"] for report in self._below(user)]

    def pull_one(self) -> list[Row]:
        ((name, user),) = self.q1()
        rows = zip(self.posts["authorId"], self.posts["title"], self.posts["score"], strict=True)
        posts = [
            {"post/title": title, "post/score": score} for author, title, score in rows if author == user
        ]
        entity = {"user/name": name, "user/email": self.given["email"]}
        return [(pulled({**entity, "post/_authorId": posts} if posts else entity),)]

    def pull_many(self) -> list[Row]:
        labels = dict(zip(self.tags["id"], self.tags["name"], strict=True))
        rows = []
        for i in self._hot():
            entity: dict[str, Any] = {
                "post/title": self.posts["title"][i],
                "post/authorId": {"user/name": self.names[self.posts["authorId"][i]]},
            }
            if self.posts["tagIds"][i]:
                entity["post/tagIds"] = [{"tag/name": labels[tag]} for tag in self.posts["tagIds"][i]]
            rows.append((pulled(entity),))
        return rows
