"""Live frames through what users call: at every step they show what `db.q` answers, and cost nobody who is not
concerned."""

from __future__ import annotations

import _thread
import gc
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.live_host import wait_until
from tripleweb import Database, frame, t
from tripleweb.datalog.pull import frozen
from tripleweb.datalog.standing import _Aggregation
from tripleweb.errors import DeletedError
from tripleweb.live import LiveDelta, LiveFrame

SCHEMA = tripleweb.schema(
    user={"name": t.string(), "age": t.number(optional=True), "active": t.boolean(default=True)},
    post={
        "title": t.string(),
        "score": t.number(optional=True),
        "by": t.ref("user", optional=True),
        "tags": t.ref_many("post"),
        "likes": t.counter(),
    },
)
RULES = "[(above ?a ?b) [?a :post/tags ?b]] [(above ?a ?b) [?a :post/tags ?m] (above ?m ?b)]"
QUERIES: list[tuple[str, tuple[Any, ...]]] = [
    ("[:find ?u ?n ?a :where [?u :user/name ?n] [?u :user/age ?a]]", ()),
    ("[:find ?a ?active :where [?u :user/age ?a] [?u :user/active ?active]]", ()),
    (
        "[:find ?t ?n :where [?p :post/title ?t] [?p :post/by ?u] [?u :user/name ?n] [?p :post/score ?s] [(> ?s 2)]]",
        (),
    ),
    ("[:find ?p ?s :in $ ?u :where [?p :post/by ?u] [?p :post/score ?s]]", ("u1",)),
    ("[:find ?p ?s :in $ ?u :where [?p :post/by ?u] [?p :post/score ?s]]", ("u2",)),
    ("[:find ?u (count ?p) (sum ?l) :where [?p :post/by ?u] [?p :post/likes ?l]]", ()),
    ("[:find (avg ?s) (max ?s) (min ?s) :with ?p :where [?p :post/score ?s]]", ()),
    ("[:find ?s :with ?p :where [?p :post/score ?s]]", ()),
    ("[:find ?p ?s :where [?p :post/score ?s] :order-by [?s ?p] :limit 3]", ()),
    ("[:find ?p ?t :where [?p :post/title ?t] :order-by [?t ?p]]", ()),
    ("[:find ?u ?n :where [?u :user/name ?n] (not [?p :post/by ?u])]", ()),
    ("[:find ?a ?b :in $ % :where (above ?a ?b)]", (RULES,)),
    ("[:find ?p (pull ?p [:post/title {:post/by [:user/name]}]) :where [?p :post/score ?s]]", ()),
    ("[:find ?e ?v :where [?e ?p ?v]]", ()),
    ("[:find ?t ?x :in $ [?x ...] :where [?p :post/score ?x] [?p :post/title ?t]]", ([1, 2, 3],)),
    ("[:find ?n ?h :in $ ?f :where [?u :user/name ?n] [(?f ?n) ?h]]", (len,)),
]

# Where entities are left out, a row of 1 and one of 1.0 are one row, and either may be seen.
MERGING = [query for query in QUERIES if query[0].startswith(("[:find ?a ?active", "[:find ?t ?x"))]


def multiset(table: pd.DataFrame) -> Counter[Any]:
    """Rows that can be counted; what is missing is None, and True is not 1."""
    cells = [
        [None if cell is pd.NA or cell is pd.NaT or cell != cell else cell for cell in table[name].tolist()]
        for name in table.columns
    ]
    return Counter(tuple(map(frozen, row)) for row in zip(*cells, strict=True))


def check(db: Database, live: LiveFrame, query: tuple[str, tuple[Any, ...]], said: str) -> None:
    got, wanted = live.df, db.q(query[0], *query[1])
    assert multiset(got) == multiset(wanted), said
    assert list(got.columns) == list(wanted.columns), said
    if query not in MERGING:
        assert dict(got.dtypes) == dict(wanted.dtypes), said
    assert got.attrs == wanted.attrs and got.index.equals(pd.RangeIndex(len(wanted))), said
    if ":order-by" in query[0]:
        assert got.equals(wanted), said
    assert len(live) == len(got), said


class Writer:
    """Random writes by every method that writes."""

    def __init__(self, seed: int, db: Database) -> None:
        self.rng = random.Random(seed)
        self.db = db
        self.users = [f"u{n}" for n in range(5)]
        self.posts = [f"p{n}" for n in range(9)]

    def write(self) -> str:
        """One transaction, or one that comes to nothing; says what it was."""
        rng = self.rng
        what = rng.choice(
            [
                self.user,
                self.post,
                self.post,
                self.score,
                self.score,
                self.score,
                self.members,
                self.members,
                self.count,
                *(self.unset, self.delete, self.frame, self.block, self.block, self.aborted, self.undo),
            ]
        )
        try:
            what()
        except DeletedError:  # deletes are for ever: such a write comes to nothing
            return f"{what.__name__} of what was deleted"
        return what.__name__

    def fresh(self, ids: list[str], kind: str) -> str:
        """One of these, sometimes a new one, so that deletes do not use them up."""
        if self.rng.random() < 0.1:
            ids.append(f"{kind}{len(ids)}")
            return ids[-1]
        return self.rng.choice(ids)

    def number(self) -> int | float:
        return self.rng.choice([0, 1, 2, 3, 4, 1.0, 2.5])

    def user(self) -> None:
        id, rng = self.fresh(self.users, "u"), self.rng
        if rng.random() < 0.5:
            self.db.insert("user", id=id, name=rng.choice(["Ada", "Bob", "Cyd"]), active=rng.random() < 0.5)
        else:
            self.db.update("user", id, age=rng.choice([None, self.number()]))

    def post(self) -> None:
        title, by = self.rng.choice(["a", "b", "c"]), self.rng.choice(self.users)
        self.db.insert("post", id=self.fresh(self.posts, "p"), title=title, score=self.number(), by=by)

    def score(self) -> None:
        self.db.set(self.rng.choice(self.posts), "post/score", self.number())

    def members(self) -> None:
        method = self.rng.choice([self.db.add, self.db.add, self.db.remove])
        method("post", self.rng.choice(self.posts), tags=self.rng.choice(self.posts))

    def count(self) -> None:
        self.db.increment("post", self.rng.choice(self.posts), likes=self.rng.choice([1, 2, -1]))

    def unset(self) -> None:
        self.db.unset(self.rng.choice(self.posts), self.rng.choice(["post/score", "post/by", "post/tags"]))

    def delete(self) -> None:
        if self.rng.random() < 0.3:
            self.db.delete(self.rng.choice([*self.users, *self.posts]))

    def frame(self) -> None:
        rows = self.rng.choice([2, 10, 120])  # the last is more than is followed triple by triple
        ids = [f"p{self.rng.randrange(2 * rows)}" for _ in range(rows)]
        ids = list(dict.fromkeys(ids))
        table = pd.DataFrame({"id": ids, "title": "f", "score": [self.number() for _ in ids]})
        try:
            self.db.insert_frame("post", table, id="id", deleted="raise")
        except DeletedError:
            keep = [id for id in ids if self.db.get("post", id) is not None]
            self.db.insert_frame("post", table[table["id"].isin(keep)], id="id")

    def block(self) -> None:
        with self.db.transaction():
            for _ in range(self.rng.randint(1, 6)):
                self.rng.choice([self.user, self.post, self.score, self.members, self.count])()

    def aborted(self) -> None:
        with pytest.raises(ZeroDivisionError), self.db.transaction():
            for _ in range(self.rng.randint(1, 6)):
                self.rng.choice([self.score, self.members, self.count])()
            raise ZeroDivisionError

    def undo(self) -> None:
        try:
            (self.db.undo if self.rng.random() < 0.7 else self.db.redo)()
        except tripleweb.TriplewebError:  # nothing to take back
            assert not self.db._session.within_transaction


def check_history(db: Database, seed: int, steps: int) -> None:
    """A random history under live frames that are opened, looked at, listened to, closed and dropped."""
    writer, rng = Writer(seed, db), random.Random(seed)
    for _ in range(20):
        writer.write()
    open_: list[tuple[LiveFrame, tuple[str, tuple[Any, ...]]]] = []
    told: list[tuple[LiveFrame, Counter[Any], list[LiveDelta]]] = []
    for step in range(steps):
        while len(open_) < 8:
            query = rng.choice(QUERIES)
            live = db.live(query[0], *query[1])
            open_.append((live, query))
            if rng.random() < 0.4 and "?f" not in query[0]:
                deltas: list[LiveDelta] = []
                told.append((live, multiset(live.df), deltas))
                live.on_change(lambda live, delta, deltas=deltas: deltas.append(delta))
        said = f"seed {seed} step {step}: {writer.write()}"
        for live, query in open_:
            if rng.random() < 0.6:
                check(db, live, query, f"{said}: {query[0]}")
        if rng.random() < 0.1:
            within(db, writer, open_, said)
        if rng.random() < 0.2:
            live, query = open_.pop(rng.randrange(len(open_)))
            last = multiset(live.df)
            if rng.random() < 0.5:
                live.close()
                writer.write()
                assert multiset(live.df) == last, f"{said}: closed frames keep their last answer"
                told = [each for each in told if each[0] is not live]
            del live
    done: list[int] = []
    db._session.submit(lambda: done.append(1))
    wait_until(lambda: done)
    for live, before, deltas in told:
        total = before + Counter()
        for delta in deltas:
            gone = multiset(delta.removed)
            assert all(total[row] >= number for row, number in gone.items()), (
                f"seed {seed}: what goes was there"
            )
            total.subtract(gone)
            total.update(multiset(delta.added))
        assert +total == multiset(live.df), f"seed {seed}: the differences make the answer"


def within(db: Database, writer: Writer, open_: list[Any], said: str) -> None:
    """In a transaction frames that were looked at show the state at its beginning."""
    before = [(live, multiset(live.df), live.version) for live, _ in open_]
    try:
        with db.transaction():
            for _ in range(3):
                writer.score()
                writer.count()
                for live, rows, version in before:
                    assert multiset(live.df) == rows and live.version == version, said
    except DeletedError:
        for live, rows, _ in before:
            assert multiset(live.df) == rows, said


@pytest.fixture(params=["always patched", "as it is"])
def patching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "always patched":
        monkeypatch.setattr(frame, "PATCHED_FROM", 1)


@pytest.mark.usefixtures("patching")
@pytest.mark.parametrize("seed", range(8))
def test_live_frames_show_what_a_query_answers(seed: int) -> None:
    print("seed", seed)
    with tripleweb.open(schema=SCHEMA) as db:
        check_history(db, seed, 60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 108))
def test_live_frames_show_what_a_query_answers_at_length(seed: int) -> None:
    print("seed", seed)
    with tripleweb.open(schema=SCHEMA) as db:
        check_history(db, seed, 200)


def test_two_sessions_follow_the_same_writes() -> None:
    """Live frames hear of what others write, and at rest both sessions show the same."""
    with (
        tripleweb.connect("followed", url="embedded", schema=SCHEMA, path=":memory:") as one,
        tripleweb.connect("followed", url="embedded", schema=SCHEMA, path=":memory:") as two,
    ):
        writers = [Writer(1, one), Writer(2, two)]
        lives = [[(db.live(text, *inputs), (text, inputs)) for text, inputs in QUERIES] for db in (one, two)]
        told: list[Counter[Any]] = []
        for live, _ in lives[1]:
            total = multiset(live.df)
            told.append(total)

            def add(live: LiveFrame, delta: LiveDelta, total: Counter[Any] = total) -> None:
                total.subtract(multiset(delta.removed))
                total.update(multiset(delta.added))

            live.on_change(add)
        for round_ in range(8):
            for _ in range(10):
                for writer in writers:
                    writer.write()
            for db in (one, two):
                db.flush(30)
            last = max(int(db._session.position.rpartition(":")[2]) for db in (one, two))
            for db, shown in zip((one, two), lives, strict=True):
                wait_until(lambda db=db: int(db._session.position.rpartition(":")[2]) >= last)
                for live, query in shown:
                    check(db, live, query, f"round {round_}: {query[0]}")
            for (live, query), (other, _) in zip(*lives, strict=True):
                assert multiset(live.df) == multiset(other.df), query[0]
        done: list[int] = []
        two._session.submit(lambda: done.append(1))
        wait_until(lambda: done)
        for (live, query), total in zip(lives[1], told, strict=True):
            assert +total == multiset(live.df), query[0]


# ---------------------------------------- what a write costs


def calls_of(action: Callable[[], object]) -> int:
    """How many Python functions are called."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


KINDS_OF_FRAMES = {
    "looked at": "[:find ?p ?s :in $ ?u :where [?p :post/by ?u] [?p :post/score ?s]]",
    "not kept up to date": "[:find ?n :in $ ?u :where [?u :user/name ?n] [(missing? $ ?u :nothing/_here)]]",
    "of a function": "[:find ?n ?h :in $ ?u ?f :where [?u :user/name ?n] [(?f ?n) ?h]]",
    "with a tree": "[:find ?u (pull ?u [:user/name]) :in $ ?u :where [?u :user/name _]]",
}


@pytest.fixture
def db() -> Iterator[Database]:
    with tripleweb.open() as db:
        for n in range(10):
            db.insert("user", id=f"u{n}", name=f"n{n}")
            db.insert("post", id=f"p{n}", by=f"u{n}", score=n)
        yield db


def opened(db: Database, text: str, count: int, listen: bool) -> list[LiveFrame]:
    lives = []
    for n in range(count):
        inputs = [f"u{n}", len] if "?f" in text else [f"u{n}"]
        live = db.live(text, *inputs)
        len(live)
        if listen:
            live.on_change(print)
        lives.append(live)
    return lives


@pytest.mark.parametrize("listen", [False, True])
@pytest.mark.parametrize("text", KINDS_OF_FRAMES.values(), ids=KINDS_OF_FRAMES.keys())
def test_a_write_costs_nothing_for_frames_of_other_things(db: Database, text: str, listen: bool) -> None:
    """However many there are, and whether somebody listens."""
    write = iter(range(1000))

    def other() -> None:
        db.set("x", "other/thing", next(write))

    few = opened(db, text, 5, listen)
    for _ in range(3):
        other()
    before = calls_of(other)
    many = opened(db, text, 300, listen)
    for _ in range(3):
        other()
    assert calls_of(other) <= before + 5
    for live in (*few, *many):
        live.close()


def test_a_write_costs_what_it_concerns_among_frames_of_one_shape(db: Database) -> None:
    """Three hundred frames of the posts of one user each: a changed score concerns one of them."""
    text = KINDS_OF_FRAMES["looked at"]
    few = opened(db, text, 5, False)
    db.set("p1", "post/score", 50)
    before = calls_of(lambda: db.set("p1", "post/score", 51))
    many = opened(db, text, 300, False)
    db.set("p1", "post/score", 52)
    assert calls_of(lambda: db.set("p1", "post/score", 53)) <= before + 5
    assert few[1]["s"].tolist() == many[1]["s"].tolist() == [53]


@pytest.mark.parametrize("text", KINDS_OF_FRAMES.values(), ids=KINDS_OF_FRAMES.keys())
def test_a_dropped_frame_costs_nothing_any_more(db: Database, text: str) -> None:
    """From the next write on nothing of it is left."""
    score, name = iter(range(100, 200)), iter(range(1000))

    def write() -> None:
        db.set("p1", "post/score", next(score))
        db.set("u1", "user/name", f"n{next(name)}")

    len(db.live("[:find ?x :where [?x :nothing/here 1]]"))  # from now on there is somebody who follows
    write()
    before = calls_of(write)
    lives = opened(db, text, 100, False)
    write()
    del lives
    gc.collect()
    write()
    assert calls_of(write) <= before + 2
    kept = db._lives
    assert kept is not None and not kept._shared and not kept._of and not kept._readers and not kept._dirty
    assert not kept.upkeep._templates and not len(kept.upkeep.readers)


@pytest.mark.parametrize("text", KINDS_OF_FRAMES.values(), ids=KINDS_OF_FRAMES.keys())
def test_a_transaction_shows_the_state_at_its_beginning(db: Database, text: str) -> None:
    """Also what was written since a frame was looked at, and with nobody having looked since."""
    [live] = opened(db, text, 1, False)
    assert live._shared.live.is_current == ("missing?" not in text)
    db.set("u0", "user/name", "another name")
    db.set("p0", "post/score", 70)
    before = multiset(db.q(text, *(["u0", len] if "?f" in text else ["u0"])))
    with db.transaction():
        db.set("u0", "user/name", "yet one more name")
        db.set("p0", "post/score", 71)
        assert multiset(live.df) == before
    assert multiset(live.df) == multiset(db.q(text, *(["u0", len] if "?f" in text else ["u0"]))) != before


@pytest.mark.parametrize("listen", [False, True])
def test_an_interrupt_while_looking_loses_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch, listen: bool
) -> None:
    """Ctrl-C in the middle of a look: the next look, and who listens, have all of it, once."""
    text = "[:find ?u (count ?p) (sum ?s) :where [?p :post/by ?u] [?p :post/score ?s]]"
    live = db.live(text)
    deltas: list[LiveDelta] = []
    total = multiset(live.df)
    if listen:
        live.on_change(lambda live, delta: deltas.append(delta))
    plain, struck = _Aggregation.take, []

    def take(self: _Aggregation, pending: Any) -> None:
        plain(self, pending)
        if not struck:
            struck.append(1)
            _thread.interrupt_main()
            sum(range(10))  # where it is raised, if it is

    monkeypatch.setattr(_Aggregation, "take", take)
    with pytest.raises(KeyboardInterrupt):
        db.set("p1", "post/score", 77)
        live.df  # noqa: B018
    monkeypatch.undo()
    db.set("p2", "post/score", 78)
    assert multiset(live.df) == multiset(db.q(text))
    if listen:
        wait_until(lambda: len(deltas) == 2)
        for delta in deltas:
            total.subtract(multiset(delta.removed))
            total.update(multiset(delta.added))
        assert +total == multiset(live.df)
