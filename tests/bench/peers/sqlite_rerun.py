"""SQLite: no live queries, so each change is an UPDATE, a COMMIT and the SELECT once more. `triples(s, p, o)` with the
primary key (p, s, o) and an index on (p, o, s): python -m tests.bench.peers.sqlite_rerun FOLDER OUT."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tests.bench.live.measured import Stopwatch, Writes, seconds
from tests.bench.live.workload import hundred_rows

TABLE = "CREATE TABLE triples(s, p, o, PRIMARY KEY(p, s, o)) WITHOUT ROWID"
INDEX = "CREATE INDEX pos ON triples(p, o, s)"
ABOVE = """SELECT {columns} FROM triples score
  JOIN triples author ON author.s = score.s AND author.p = 'post/authorId'
  JOIN triples active ON active.s = author.o AND active.p = 'user/isActive' AND active.o = 1
  JOIN triples title ON title.s = score.s AND title.p = 'post/title'
  JOIN triples name ON name.s = author.o AND name.p = 'user/name'
  WHERE score.p = 'post/score' AND score.o > ?"""
JOIN = ABOVE.format(columns="title.o, name.o")
POSTS = ABOVE.format(columns="title.o, name.o, score.o")
USERS = """SELECT name.o, age.o FROM triples age
  JOIN triples active ON active.s = age.s AND active.p = 'user/isActive' AND active.o = 1
  JOIN triples name ON name.s = age.s AND name.p = 'user/name' WHERE age.p = 'user/age' AND age.o > ?"""
AGGREGATE = """SELECT author.o, avg(score.o), count(*) FROM triples author
  JOIN triples score ON score.s = author.s AND score.p = 'post/score'
  WHERE author.p = 'post/authorId' GROUP BY author.o"""
NEGATION = """SELECT name.o FROM triples name WHERE name.p = 'user/name'
  AND NOT EXISTS (SELECT 1 FROM triples c WHERE c.p = 'comment/authorId' AND c.o = name.s)"""
RECURSION = """WITH RECURSIVE r(id) AS (SELECT s FROM triples WHERE p = 'user/managerId' AND o = ? UNION
  SELECT x.s FROM r CROSS JOIN triples x INDEXED BY pos ON x.p = 'user/managerId' AND x.o = r.id)
  SELECT name.o FROM r CROSS JOIN triples name ON name.p = 'user/name' AND name.s = r.id"""
FRAME = """SELECT score.s AS p, title.o AS title, score.o AS s FROM triples score
  JOIN triples made ON made.s = score.s AND made.p = 'post/createdAt' AND made.o < ?
  JOIN triples title ON title.s = score.s AND title.p = 'post/title' WHERE score.p = 'post/score' AND score.o > ?"""
POINT = "SELECT o FROM triples WHERE p = 'user/name' AND s = ?"
WRITE = "UPDATE triples SET o = ? WHERE p = ? AND s = ?"


class Rerun:
    """One database in memory."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.con = sqlite3.connect(":memory:")
        began = seconds()
        self.con.execute(TABLE)
        self.con.execute(INDEX)
        self.con.executemany("INSERT INTO triples VALUES (?, ?, ?)", triples(watch))
        self.con.commit()
        self.con.execute("ANALYZE")
        loaded = seconds() - began
        (count,) = self.con.execute("SELECT count(*) FROM triples").fetchone()
        watch.tell(
            engine="sqlite", versions={"sqlite": sqlite3.sqlite_version}, loaded_s=loaded, triples=count
        )

    def write(self, subject: str, predicate: str, value: Any) -> None:
        self.con.execute(WRITE, (value, predicate, subject))
        self.con.commit()

    def bulk(self, writes: Writes) -> None:
        self.con.executemany(WRITE, [(value, predicate, subject) for subject, predicate, value in writes])
        self.con.commit()

    def rerun(self, figure: str, *queries: tuple[str, Sequence[Any]]) -> None:
        def ask() -> list[list[tuple[Any, ...]]]:
            return [self.con.execute(text, given).fetchall() for text, given in queries]

        def change(subject: str, predicate: str, value: Any) -> None:
            self.write(subject, predicate, value)
            ask()

        def answer() -> list[Any]:
            answers = ask()
            if len(answers) == 1:
                return answers[0]
            return [row for i, rows in enumerate(answers) for row in hundred_rows(i, rows)]

        began = seconds()
        ask()
        opened = (seconds() - began) * 1e3
        note = "UPDATE, COMMIT and the query again"
        self.watch.follow(figure, change=change, bulk=self.bulk, answer=answer, opened_ms=opened, note=note)

    def frame(self, figure: str) -> None:
        given = [self.watch.parameters["until"], self.watch.parameters["floor"]]

        def change(subject: str, predicate: str, value: Any) -> None:
            self.write(subject, predicate, value)
            pd.read_sql(FRAME, self.con, params=given)

        def answer() -> list[Any]:
            return self.con.execute(FRAME, given).fetchall()

        self.watch.follow(figure, change=change, bulk=self.bulk, answer=answer, note="read_sql")

    def set(self, figure: str) -> None:
        posts = [s for (s,) in self.con.execute("SELECT s FROM triples WHERE p = 'post/score'")]
        before = self.con.execute("SELECT s, p, o FROM triples WHERE p = 'post/score'").fetchall()

        def run(part: Writes) -> None:
            for subject, predicate, value in part:
                self.write(subject, predicate, value)

        self.watch.batches(figure, self.watch.scores(posts), run, note="UPDATE and COMMIT")
        self.bulk(before)

    def run(self) -> None:
        watch, plan, given = self.watch, self.watch.plan, self.watch.parameters
        con = self.con
        watch.attempt("point", lambda f: watch.look_up(f, lambda s: con.execute(POINT, (s,)).fetchone()[0]))
        watch.attempt("set", self.set)
        watch.attempt("join", lambda f: self.rerun(f, (JOIN, [90])))
        watch.attempt("aggregate", lambda f: self.rerun(f, (AGGREGATE, [])))
        watch.attempt("negation", lambda f: self.rerun(f, (NEGATION, [])))
        watch.attempt("recursion_root", lambda f: self.rerun(f, (RECURSION, [given["root"]])))
        watch.attempt("recursion_manager", lambda f: self.rerun(f, (RECURSION, [given["manager"]])))
        watch.attempt("recursion_sizes", lambda f: self.rerun(f, (RECURSION, [given["root"]])))
        watch.attempt("frame", self.frame)
        hundred = [(POSTS, [floor]) for floor in plan["thresholds"]]
        hundred += [(USERS, [floor]) for floor in plan["ages"]]
        watch.attempt("hundred_changed", lambda f: self.rerun(f, *hundred))
        watch.attempt("hundred_heard", lambda f: self.rerun(f, *hundred))
        watch.attempt("durable", lambda f: self.durable(f, "NORMAL"))
        watch.attempt("durable_full", lambda f: self.durable(f, "FULL"))

    def durable(self, figure: str, synchronous: str) -> None:
        single, together = self.watch.plan["durable"]
        upsert = "INSERT INTO triples VALUES (?, ?, ?)"
        with tempfile.TemporaryDirectory() as folder:
            con = sqlite3.connect(Path(folder) / "bench.sqlite")
            con.execute("PRAGMA journal_mode = WAL")
            con.execute(f"PRAGMA synchronous = {synchronous}")
            con.execute(TABLE)
            con.execute(INDEX)

            def one_by_one(part: Writes) -> None:
                for subject, predicate, value in part:
                    con.execute("DELETE FROM triples WHERE p = ? AND s = ?", (predicate, subject))
                    con.execute(upsert, (subject, predicate, value))
                    con.commit()

            def transaction(part: Writes) -> None:
                con.executemany(upsert, part)
                con.commit()

            note = f"a file, WAL, synchronous={synchronous}"
            writes = [(f"e{i % 1000}", "user/age", i) for i in range(single)]
            self.watch.batches(f"{figure}_one_by_one", writes, one_by_one, note=note)
            many = [(f"f{i}", "user/name", "x") for i in range(together)]
            self.watch.batches(f"{figure}_transaction", many, transaction, parts=5, note=note)
            con.close()


def triples(watch: Stopwatch) -> Iterator[tuple[str, str, Any]]:
    for entity in watch.entities():
        for name, value in entity.items():
            if name not in ("id", "type"):
                for member in value if isinstance(value, list) else [value]:
                    yield entity["id"], f"{entity['type']}/{name}", member


if __name__ == "__main__":
    Rerun(Stopwatch(sys.argv[1], sys.argv[2])).run()
