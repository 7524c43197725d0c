"""The workload of the live bench: a project tracker's graph, and changes of its single fields.

Everything is drawn from fixed seeds, so each engine, in whatever language, gets the same data and the same changes,
from the files that `write` leaves in a folder: `entities.jsonl` (one entity a line) and `plan.json`.

Invariants: the changes of each figure start from the data as it was made (who runs several figures on one store
takes each one's changes back); a change is `[subject, predicate, new, old, hit, moved]`, where `hit` says whether the
answer is another one afterwards and `moved` is the size of the subtree that hangs below a moved edge (else 0).
`answers.py` has the answers that they lead to.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Entity = dict[str, Any]
Change = list[Any]  # [subject, predicate, new, old, hit, moved]
Rows = list[list[Any]]

REFERENCES = {"managerId", "authorId", "postId", "tagIds"}
HOT = 90  # a post with a higher score is in the answer of the join
THRESHOLDS = [HOT + i / 10 for i in range(80)]  # of the 80 live queries about posts
AGES = [18 + 3 * i for i in range(20)]  # of the 20 about users
SAMPLED = (0, 40, 79, 80, 99)  # those of the hundred whose rows are compared; of the others the count is
FRAME_ROWS = 1_000

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz-"
_WORDS = "sync graph room query live cell frame merge clock index tenant offline patch delta note triple join".split()


def entities(users: int) -> Iterator[Entity]:
    """200 tags, so many users in a tree, 10 times as many posts, 20 times as many comments: 126 triples a user."""
    r = random.Random(42)

    def name() -> str:
        return "".join(r.choices(_ALPHABET, k=21))

    def date() -> str:
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=r.randrange(31_000_000))
        return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def text(words: int) -> str:
        return " ".join(r.choices(_WORDS, k=words))

    tags = [name() for _ in range(200)]
    people = [name() for _ in range(users)]
    posts = [name() for _ in range(10 * users)]
    talkative = [u for i, u in enumerate(people) if i % 10 != 3]  # every tenth user never comments
    for i, tag in enumerate(tags):
        yield {"id": tag, "type": "tag", "name": f"tag{i}"}
    for i, user in enumerate(people):
        entity = {
            "id": user,
            "type": "user",
            "name": f"User {i}",
            "email": f"user{i}@example.com",
            "age": r.randrange(18, 80),
            "isActive": r.random() < 0.8,
            "createdAt": date(),
        }
        if i:
            entity["managerId"] = people[r.randrange(i // 8, i // 2 + 1) if i > 1 else 0]
        yield entity
    for i, post in enumerate(posts):
        yield {
            "id": post,
            "type": "post",
            "title": f"Post {i} {text(4)}",
            "score": r.randrange(101),
            "createdAt": date(),
            "authorId": r.choice(people),
            "tagIds": r.sample(tags, r.randrange(5)),
        }
    for _ in range(20 * users):
        yield {
            "id": name(),
            "type": "comment",
            "text": text(8),
            "postId": r.choice(posts),
            "authorId": r.choice(talkative),
        }


def triple_count(entity: Entity) -> int:
    return sum(len(v) if isinstance(v, list) else 1 for k, v in entity.items() if k not in ("id", "type"))


@dataclass
class Plan:
    """What an engine is to do: read by all of them as JSON."""

    users: int
    triples: int
    cap_s: float  # an engine leaves a figure after so many seconds of measuring
    parameters: dict[str, Any]
    changes: dict[str, list[Change]]
    lookups: list[str]  # users whose name is looked up
    writes: int  # of `set`; durable ones are told in `durable`
    durable: tuple[int, int]  # one by one, within a transaction
    thresholds: list[float] = field(default_factory=lambda: list(THRESHOLDS))
    ages: list[int] = field(default_factory=lambda: list(AGES))
    sampled: list[int] = field(default_factory=lambda: list(SAMPLED))


class Workload:
    """Data of one size and the plan for it."""

    def __init__(self, users: int, changes: int, cap_s: float) -> None:
        self.entities = list(entities(users))
        self.by_id = {e["id"]: e for e in self.entities}
        self.kinds: dict[str, list[Entity]] = {"user": [], "post": [], "comment": [], "tag": []}
        for entity in self.entities:
            self.kinds[entity["type"]].append(entity)
        self.random = random.Random(7)
        people = [u["id"] for u in self.kinds["user"]]
        parameters = {"root": people[0], "manager": self._middle_manager(), **self._thousand()}
        made = {
            "join": self._join(changes),
            "aggregate": self._aggregate(changes),
            "negation": self._negation(changes),
            "hundred_changed": self._hundred(changes, hit=True),
            "hundred_heard": self._hundred(changes, hit=False),
            "recursion_root": self._moves(changes, parameters["root"], uniform=True),
            "recursion_manager": self._moves(changes, parameters["manager"], uniform=True),
            "recursion_sizes": self._moves(max(20, changes // 5), parameters["root"], uniform=False),
            "frame": self._titles(max(20, changes // 5), parameters),
        }
        self.plan = Plan(
            users=users,
            triples=sum(map(triple_count, self.entities)),
            cap_s=cap_s,
            parameters=parameters,
            changes=made,
            lookups=self.random.choices(people, k=4 * changes),
            writes=8 * changes,
            durable=(2 * changes, 40 * changes),
        )

    def write(self, folder: Path) -> None:
        with open(folder / "entities.jsonl", "w", encoding="utf-8") as file:
            for entity in self.entities:
                file.write(json.dumps(entity, separators=(",", ":")) + "\n")
        (folder / "plan.json").write_text(json.dumps(vars(self.plan)), encoding="utf-8")

    # -- changes -----------------------------------------------------------------------------------------------

    def _join(self, count: int) -> list[Change]:
        """Eight of ten a score, one a user's name, one whether a user is active; about a fifth change the answer."""
        r, users, posts = self.random, self.kinds["user"], self.kinds["post"]
        score = {p["id"]: p["score"] for p in posts}
        active = {u["id"]: u["isActive"] for u in users}
        names = {u["id"]: u["name"] for u in users}
        hot = dict.fromkeys(active, 0)
        for post in posts:
            hot[post["authorId"]] += post["score"] > HOT
        made = []
        for i in range(count):
            x = r.random()
            if x < 0.8:
                post = r.choice(posts)
                author, old, new = post["authorId"], score[post["id"]], r.randrange(101)
                turned = (new > HOT) - (old > HOT)
                hot[author] += turned
                score[post["id"]] = new
                made.append([post["id"], "post/score", new, old, bool(turned) and active[author], 0])
                continue
            user = r.choice(users)["id"]
            if x < 0.9:
                made.append(
                    [user, "user/name", f"Renamed {i}", names[user], active[user] and hot[user] > 0, 0]
                )
                names[user] = f"Renamed {i}"
            else:
                new, old = r.random() < 0.8, active[user]
                made.append([user, "user/isActive", new, old, new != old and hot[user] > 0, 0])
                active[user] = new
        return made

    def _aggregate(self, count: int) -> list[Change]:
        score = {p["id"]: p["score"] for p in self.kinds["post"]}
        made = []
        for post in self.random.choices(list(score), k=count):
            new, old = self.random.randrange(101), score[post]
            score[post] = new
            made.append([post, "post/score", new, old, new != old, 0])
        return made

    def _negation(self, count: int) -> list[Change]:
        """Comments get other authors: a third of the changes gives one to a silent user, a third silences one."""
        r = self.random
        author = {c["id"]: c["authorId"] for c in self.kinds["comment"]}
        of: dict[str, list[str]] = {u["id"]: [] for u in self.kinds["user"]}
        for comment, user in author.items():
            of[user].append(comment)
        silent = sorted(u for u, comments in of.items() if not comments)
        single: list[str] = []  # users who have one comment, or had one
        everybody, comments = list(of), list(author)
        made = []
        for i in range(count):
            comment, new = r.choice(comments), r.choice(everybody)
            if i % 3 == 0 and silent:
                new = silent[r.randrange(len(silent))]
            elif i % 3 == 1:
                single = [u for u in single if len(of[u]) == 1]
                if single:
                    comment = of[r.choice(single)][0]
            old = author[comment]
            if new != old:
                of[old].remove(comment)
                of[new].append(comment)
                author[comment] = new
            spoke, fell_silent = new != old and len(of[new]) == 1, not of[old]
            if spoke:
                silent.remove(new)
                single.append(new)
            if fell_silent:
                silent.append(old)
            made.append([comment, "comment/authorId", new, old, spoke or fell_silent, 0])
        return made

    def _hundred(self, count: int, hit: bool) -> list[Change]:
        """Scores of active users' posts: each change alters the answers of all 80, or (they hear of it) of none."""
        active = {u["id"] for u in self.kinds["user"] if u["isActive"]}
        score = {p["id"]: p["score"] for p in self.kinds["post"] if p["authorId"] in active}
        posts = [p for p, s in score.items() if hit or s <= HOT]
        made = []
        for post in self.random.choices(posts, k=count):
            old = score[post]
            new = (99 if old == 100 else 100) if hit else (old + self.random.randrange(1, HOT)) % HOT
            score[post] = new
            made.append([post, "post/score", new, old, hit, 0])
        return made

    def _reports(self) -> tuple[dict[str, str], dict[str, set[str]]]:
        manager = {u["id"]: u["managerId"] for u in self.kinds["user"] if "managerId" in u}
        reports: dict[str, set[str]] = {u["id"]: set() for u in self.kinds["user"]}
        for user, boss in manager.items():
            reports[boss].add(user)
        return manager, reports

    def _middle_manager(self) -> str:
        """The one whose reports are nearest to a third of all."""
        _, reports = self._reports()
        size = dict.fromkeys(reports, 1)
        manager, _ = self._reports()
        for user in reversed(list(manager)):  # reports come after their managers
            size[manager[user]] += size[user]
        third = len(size) / 3
        return min(list(manager), key=lambda user: abs(size[user] - third))

    def _moves(self, count: int, top: str, uniform: bool) -> list[Change]:
        """People get other managers, always an earlier one, so the tree stays a tree. `uniform`: anybody (most have
        few reports); else the earlier people, who have many, as often as the later ones."""
        r = self.random
        people = [u["id"] for u in self.kinds["user"]]
        manager, reports = self._reports()
        members = {top, *below(reports, top)}
        made = []
        first = 9
        for _ in range(count):
            i = (
                r.randrange(first, len(people))
                if uniform
                else int(first * (len(people) / first) ** r.random())
            )
            user, new = people[i], people[r.randrange(i)]
            if user == top:
                continue
            old = manager[user]
            manager[user] = new
            reports[old].discard(user)
            reports[new].add(user)
            moved = [user, *below(reports, user)]
            was, now = old in members, new in members
            if was != now:
                (members.update if now else members.difference_update)(moved)
            made.append([user, "user/managerId", new, old, was != now, len(moved)])
        return made

    def _thousand(self) -> dict[str, Any]:
        """The bounds of score and date within which there are 1,000 posts (or a tenth of a smaller number)."""
        posts = self.kinds["post"]
        wanted = min(FRAME_ROWS, len(posts) // 10)
        scores = sorted((p["score"] for p in posts), reverse=True)
        floor = scores[wanted] - 1
        dates = sorted(p["createdAt"] for p in posts if p["score"] > floor)
        return {"floor": floor, "until": dates[wanted]}

    def _titles(self, count: int, parameters: dict[str, Any]) -> list[Change]:
        title = {
            p["id"]: p["title"]
            for p in self.kinds["post"]
            if p["score"] > parameters["floor"] and p["createdAt"] < parameters["until"]
        }
        made = []
        for i, post in enumerate(self.random.choices(list(title), k=count)):
            made.append([post, "post/title", f"Retitled {i}", title[post], True, 0])
            title[post] = f"Retitled {i}"
        return made


def below(reports: dict[str, set[str]], top: str) -> list[str]:
    """Everybody below `top`."""
    found = sorted(reports[top])
    for user in found:
        found.extend(sorted(reports[user]))
    return found


def hundred_rows(number: int, rows: Sequence[Iterable[Any]]) -> Rows:
    """What is compared of one of the hundred answers: how many rows, and of some the rows."""
    told: Rows = [[number, "rows", len(rows)]]
    if number in SAMPLED:
        told += [[number, *row] for row in rows]
    return told


def size_class(moved: int) -> str:
    """The class of a moved subtree: 1, 2-3, 4-15, 16-63, 64-255, 256 and more."""
    bounds = (1, 3, 15, 63, 255)
    names = ("1", "2-3", "4-15", "16-63", "64-255", "256+")
    return names[bisect_left(bounds, moved)]
