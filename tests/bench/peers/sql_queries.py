"""SQLite and DuckDB in the bench of queries, answers into DataFrames: python -m tests.bench.peers.sql_queries FOLDER
OUT OPTIONS.

Variants: `sqlite-seed` (a table of texts with four indexes, as a first sketch of a triple store has it), `sqlite-tuned`
(typed values, clustered by predicate, a second index by value, indexes made after loading; where the planner errs the
order is given by hand), `duckdb-triples` (predicates are an enumeration, numbers stand beside their text, sorted), and
`sqlite-native`, `duckdb-native` (a table a kind). Both of SQLite's triples carry a kind and a stamp, as a store that
can be synced has to. SQLite runs beside tripleweb in its environment: reading into frames is faster without pyarrow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from tests.bench.queries.measured import Stopwatch, of_frame, reference, seconds

Ask = Callable[..., pd.DataFrame]
Texts = dict[str, str]


def triple_texts(s: str, p: str, o: str, number: str, true: str, reports: Texts) -> Texts:
    """The questions to a table `triples`, whose columns are called so; `number` makes a number of a value."""

    def of(alias: str, predicate: str) -> str:
        return f"{alias}.{p} = '{predicate}'"

    score = number.format(o=f"score.{o}", n="score.n")
    return {
        "Q0": f"SELECT {o} AS name FROM triples WHERE {p} = 'tag/name'",
        "Q1": f"""SELECT name.{o} AS name, mail.{s} AS "user" FROM triples mail
            JOIN triples name ON name.{s} = mail.{s} AND {of("name", "user/name")}
            WHERE {of("mail", "user/email")} AND mail.{o} = ?""",
        "Q2": f"""SELECT title.{o} AS title, name.{o} AS name FROM triples score
            JOIN triples author ON author.{s} = score.{s} AND {of("author", "post/authorId")}
            JOIN triples active ON active.{s} = author.{o} AND {of("active", "user/isActive")} AND active.{o} = {true}
            JOIN triples title ON title.{s} = score.{s} AND {of("title", "post/title")}
            JOIN triples name ON name.{s} = author.{o} AND {of("name", "user/name")}
            WHERE {of("score", "post/score")} AND {score} > 90""",
        "Q3": f"""SELECT about.{s} AS comment, said.{o} AS text, name.{o} AS name FROM triples tagged
            JOIN triples about ON about.{o} = tagged.{s} AND {of("about", "comment/postId")}
            JOIN triples said ON said.{s} = about.{s} AND {of("said", "comment/text")}
            JOIN triples author ON author.{s} = about.{s} AND {of("author", "comment/authorId")}
            JOIN triples name ON name.{s} = author.{o} AND {of("name", "user/name")}
            WHERE {of("tagged", "post/tagIds")} AND tagged.{o} = ?""",
        "Q4": f"""SELECT author.{o} AS "user", avg({score}) AS mean, count(*) AS count FROM triples author
            JOIN triples score ON score.{s} = author.{s} AND {of("score", "post/score")}
            WHERE {of("author", "post/authorId")} GROUP BY author.{o}""",
        "Q6": f"""SELECT name.{o} AS name FROM triples name WHERE {of("name", "user/name")} AND NOT EXISTS
            (SELECT 1 FROM triples said WHERE {of("said", "comment/authorId")} AND said.{o} = name.{s})""",
        "Q7": f"""SELECT name.{s} AS "user", name.{o} AS name, mail.{o} AS email, age.{o} AS age,
              active.{o} AS isActive, made.{o} AS createdAt FROM triples name
            JOIN triples mail ON mail.{s} = name.{s} AND {of("mail", "user/email")}
            JOIN triples age ON age.{s} = name.{s} AND {of("age", "user/age")}
            JOIN triples active ON active.{s} = name.{s} AND {of("active", "user/isActive")}
            JOIN triples made ON made.{s} = name.{s} AND {of("made", "user/createdAt")}
            WHERE {of("name", "user/name")}""",
        **reports,
        "score": f"UPDATE triples SET {o} = ? WHERE {p} = 'post/score' AND {s} = ?",
        "move": f"UPDATE triples SET {o} = ? WHERE {p} = 'user/managerId' AND {s} = ?",
    }


def planned(s: str, p: str, o: str) -> Texts:
    """Recursion whose joins the planner orders."""
    return {
        "Q5": f"""WITH RECURSIVE below(id) AS (SELECT {s} FROM triples WHERE {p} = 'user/managerId' AND {o} = ? UNION
            SELECT t.{s} FROM below JOIN triples t ON t.{p} = 'user/managerId' AND t.{o} = below.id)
            SELECT name.{o} AS name FROM below JOIN triples name ON name.{p} = 'user/name' AND name.{s} = below.id""",
        "closure": f"""WITH RECURSIVE pairs(m, e) AS (SELECT {o}, {s} FROM triples WHERE {p} = 'user/managerId' UNION
            SELECT pairs.m, t.{s} FROM pairs JOIN triples t ON t.{p} = 'user/managerId' AND t.{o} = pairs.e)
            SELECT m, e FROM pairs""",
    }


def ordered(s: str, p: str, o: str) -> Texts:
    """Recursion for SQLite in a given order. The predicate is looked up in a table of one row: a constant there has
    SQLite build a filter over all triples at some sizes, which takes ten times as long as the question does."""
    named = "WITH RECURSIVE names(p) AS (VALUES ('user/managerId'))"
    return {
        "Q5": f"""{named}, below(id) AS (SELECT {s} FROM triples WHERE {p} = 'user/managerId' AND {o} = ? UNION
            SELECT t.{s} FROM below CROSS JOIN names CROSS JOIN triples t ON t.{p} = names.p AND t.{o} = below.id)
            SELECT (SELECT {o} FROM triples WHERE {p} = 'user/name' AND {s} = below.id) AS name FROM below""",
        "closure": f"""{named}, pairs(m, e) AS (SELECT {o}, {s} FROM triples WHERE {p} = 'user/managerId' UNION
            SELECT pairs.m, t.{s} FROM pairs CROSS JOIN names CROSS JOIN triples t
            ON t.{p} = names.p AND t.{o} = pairs.e) SELECT m, e FROM pairs""",
    }


# The planner begins with all the active users at some sizes; this begins with the scores, which is 2.5 times as fast.
HOT = """SELECT title.o AS title, name.o AS name FROM triples score
    CROSS JOIN triples author ON author.s = score.s AND author.p = 'post/authorId'
    CROSS JOIN triples active ON active.s = author.o AND active.p = 'user/isActive' AND active.o = 1
    CROSS JOIN triples title ON title.s = score.s AND title.p = 'post/title'
    CROSS JOIN triples name ON name.s = author.o AND name.p = 'user/name'
    WHERE score.p = 'post/score' AND score.o > 90"""
NATIVE = {
    "Q0": "SELECT name FROM tag",
    "Q1": 'SELECT name, id FROM "user" WHERE email = ?',
    "Q2": """SELECT p.title, u.name FROM post p JOIN "user" u ON u.id = p.authorId
        WHERE p.score > 90 AND u.isActive""",
    "Q3": """SELECT c.id, c.text, u.name FROM post_tag t JOIN comment c ON c.postId = t.postId
        JOIN "user" u ON u.id = c.authorId WHERE t.tagId = ?""",
    "Q4": "SELECT authorId, avg(score) AS mean, count(*) AS count FROM post GROUP BY authorId",
    "Q5": """WITH RECURSIVE below(id) AS (SELECT id FROM "user" WHERE managerId = ? UNION
        SELECT u.id FROM below JOIN "user" u ON u.managerId = below.id)
        SELECT u.name FROM below JOIN "user" u ON u.id = below.id""",
    "Q6": 'SELECT name FROM "user" u WHERE NOT EXISTS (SELECT 1 FROM comment c WHERE c.authorId = u.id)',
    "Q7": 'SELECT id, name, email, age, isActive, createdAt FROM "user"',
    "closure": """WITH RECURSIVE pairs(m, e) AS (SELECT managerId, id FROM "user" WHERE managerId IS NOT NULL UNION
        SELECT pairs.m, u.id FROM pairs JOIN "user" u ON u.managerId = pairs.e) SELECT m, e FROM pairs""",
    "score": "UPDATE post SET score = ? WHERE id = ?",
    "move": 'UPDATE "user" SET managerId = ? WHERE id = ?',
}
NATIVE_INDEXES = """CREATE INDEX i1 ON user(email); CREATE INDEX i2 ON user(managerId);
    CREATE INDEX i3 ON post(authorId, score); CREATE INDEX i4 ON post_tag(tagId, postId);
    CREATE INDEX i5 ON comment(postId); CREATE INDEX i6 ON comment(authorId); CREATE INDEX i7 ON post(score);"""


def text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


class Sqlite:
    """A database in memory."""

    def __init__(self, watch: Stopwatch, kind: str) -> None:
        self.watch, self.kind = watch, kind
        self.versions = {"sqlite": sqlite3.sqlite_version, "pandas": pd.__version__}
        self.con = sqlite3.connect(":memory:")
        self.con.execute("PRAGMA cache_size = -400000")
        self.value: Callable[[Any], Any] = text if kind == "seed" else lambda value: value
        self.texts = {
            "seed": triple_texts(*SEED, "CAST({o} AS REAL)", "'true'", ordered(*SEED)),
            "tuned": {**triple_texts("s", "p", "o", "{o}", "1", ordered("s", "p", "o")), "Q2": HOT},
            "native": NATIVE,
        }[kind]

    def rows(self) -> Any:
        return self.watch.tables() if self.kind == "native" else list(self.watch.triples())

    def load(self, rows: Any) -> None:
        getattr(self, f"_load_{self.kind}")(rows)
        self.con.commit()
        self.con.execute("ANALYZE")

    def _load_seed(self, rows: Iterable[tuple[str, str, Any]]) -> None:
        self.con.executescript("""CREATE TABLE triples(subject TEXT, predicate TEXT, object TEXT, object_type INTEGER,
            hlc TEXT, PRIMARY KEY(subject, predicate, object)); CREATE INDEX idx_subject ON triples(subject);
            CREATE INDEX idx_predicate ON triples(predicate); CREATE INDEX idx_object ON triples(object);
            CREATE INDEX idx_hlc ON triples(hlc);""")
        self._insert((s, p, text(o), kind_of(p, o), stamp(i)) for i, (s, p, o) in enumerate(rows))

    def _load_tuned(self, rows: list[tuple[str, str, Any]]) -> None:
        self.con.execute(
            "CREATE TABLE triples(s, p, o, kind INTEGER, hlc TEXT, PRIMARY KEY(p, s, o)) WITHOUT ROWID"
        )
        self._insert((s, p, o, kind_of(p, o), stamp(i)) for i, (s, p, o) in enumerate(rows))
        self.con.executescript("CREATE INDEX pos ON triples(p, o, s); CREATE INDEX hlc ON triples(hlc);")

    def _insert(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self.con.executemany("INSERT INTO triples VALUES (?, ?, ?, ?, ?)", rows)

    def _load_native(self, tables: dict[str, dict[str, list[Any]]]) -> None:
        for name, columns in tables.items():
            declared = ", ".join(f"{c} PRIMARY KEY" if c == "id" else c for c in columns)
            self.con.execute(f"CREATE TABLE {name}({declared})")
            marks = ", ".join("?" * len(columns))
            rows = zip(*columns.values(), strict=True)
            self.con.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        self.con.executescript(NATIVE_INDEXES)

    def ask(self, question: str, *given: Any) -> pd.DataFrame:
        return pd.read_sql(question, self.con, params=given)

    def write(self, statement: str, *given: Any) -> None:
        self.con.execute(statement, given)
        self.con.commit()


class Duckdb:
    """A database in memory; values of triples are text, and numbers beside it."""

    value = staticmethod(text)

    def __init__(self, watch: Stopwatch, kind: str) -> None:
        import duckdb

        self.watch, self.kind = watch, kind
        self.versions = {"duckdb": duckdb.__version__, "pandas": pd.__version__}
        self.con = duckdb.connect(":memory:")
        self.texts = NATIVE
        if kind == "triples":
            texts = triple_texts("s", "p", "o", "{n}", "'true'", planned("s", "p", "o"))
            score = "UPDATE triples SET o = $1, n = TRY_CAST($1 AS DOUBLE) WHERE p = 'post/score' AND s = $2"
            self.texts = {**texts, "score": score}
        else:
            self.value = lambda value: value

    def rows(self) -> Any:
        return self.watch.tables() if self.kind == "native" else list(self.watch.triples())

    def load(self, rows: Any) -> None:
        if self.kind == "native":
            for name, columns in rows.items():
                frame = pd.DataFrame(columns)
                self.con.execute(f'CREATE TABLE "{name}" AS SELECT * FROM frame')
            return
        frame = pd.DataFrame(rows, columns=["s", "p", "o"])
        frame["n"] = [float(o) if type(o) in (int, float) else None for o in frame["o"]]
        frame["o"] = [text(o) for o in frame["o"]]
        self.con.execute("CREATE TYPE predicate AS ENUM (SELECT DISTINCT p FROM frame)")
        self.con.execute("CREATE TABLE triples AS SELECT s, p::predicate AS p, o, n FROM frame ORDER BY p, s")

    def ask(self, question: str, *given: Any) -> pd.DataFrame:
        return self.con.execute(question, given).df()

    def write(self, statement: str, *given: Any) -> None:
        self.con.execute(statement, given)


SEED = ("subject", "predicate", "object")


def stamp(i: int) -> str:
    return f"{1_700_000_000_000 + i:015d}-00000-node1234"


def kind_of(predicate: str, value: Any) -> int:
    if reference(predicate):
        return 4
    return 2 if isinstance(value, bool) else 1 if isinstance(value, int | float) else 0


def run(watch: Stopwatch) -> None:
    name, _, kind = watch.options["variant"].partition("-")
    if name == "duckdb":
        import duckdb  # noqa: F401 (memory counts without the library)
    watch.weigh()
    engine = (Sqlite if name == "sqlite" else Duckdb)(watch, kind)
    rows = engine.rows()
    began = seconds()
    engine.load(rows)
    load_s = seconds() - began
    del rows
    watch.loaded(watch.options["variant"], engine.versions, load_s)

    given, texts, value = watch.given, engine.texts, engine.value
    post, score, old_score = given["scored"]
    user, boss, old_boss = given["moved"]
    scored = tuple(lambda v=v: engine.write(texts["score"], value(v), post) for v in (score, old_score))
    moved = tuple(lambda v=v: engine.write(texts["move"], v, user) for v in (boss, old_boss))
    questions: dict[str, tuple[Any, ...]] = {
        **{name: (texts[name],) for name in ("Q0", "Q2", "Q4", "Q6", "Q7", "closure")},
        "Q1": (texts["Q1"], given["email"]),
        "Q3": (texts["Q3"], given["tag"]),
        "Q5a": (texts["Q5"], given["manager"]),
        "Q5b": (texts["Q5"], given["root"]),
        "Q2_written": (texts["Q2"],),
        "Q4_written": (texts["Q4"],),
        "Q5b_written": (texts["Q5"], given["root"]),
    }
    written = {"Q2_written": scored, "Q4_written": scored, "Q5b_written": moved}
    for figure in watch.options["figures"]:
        if figure in questions:
            watch.ask(figure, lambda: engine.ask(*questions[figure]), of_frame, written.get(figure))
    watch.asked()


if __name__ == "__main__":
    run(Stopwatch())
