"""Taking back what this session wrote: where it still stands, as a new transaction, and again forth."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.test_store import VALUES, triples
from tripleweb import Ref, TriplewebError, t
from tripleweb.change import DELETED, RESET, SINGLE, Change
from tripleweb.database import Database
from tripleweb.errors import DeletedError
from tripleweb.schema import SCHEMALESS
from tripleweb.storage.memory import MemoryStores
from tripleweb.store import Store
from tripleweb.terms import slot
from tripleweb.transaction import Transaction
from tripleweb.undo import CHANGES_MAX, DEEDS_MAX, Deed, Deeds
from tripleweb.web import WebServer

BLOG = tripleweb.schema(
    user={"name": t.string(), "age": t.number(optional=True)},
    post={"title": t.string(), "tags": t.many(t.string()), "likes": t.counter()},
)


@pytest.fixture
def db() -> Database:
    return tripleweb.open(schema=BLOG)


def others(db: Database, *changes: tuple[str, str, str, Any], later_ms: int = 1_000) -> None:
    """Writes of somebody else, later than ours."""
    clock = db._session.core.clock
    stamp = clock.last + (later_ms << 16)
    db._session.store.apply([Change(*change, stamp, "zz") for change in changes])
    clock.witness(stamp, stamp >> 16)


def rows(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    assert list(frame.columns) == ["subject", "predicate", "value", "reason"]
    return sorted(frame.itertuples(index=False, name=None), key=str)


def content(db: Database) -> dict[Any, Any]:
    return triples(db._session.store)


WRITES: dict[str, Callable[[Database], Any]] = {
    "insert": lambda db: db.insert("user", id="new", name="New", age=1),
    "merge": lambda db: db.insert("user", id="ada", age=1),
    "update": lambda db: db.update("user", "ada", name="Eve", age=None),
    "assign a set": lambda db: db.update("post", "p", tags=["b", "c"]),
    "empty a set": lambda db: db.update("post", "p", tags=[]),
    "add": lambda db: db.add("post", "p", tags=["c", "a"]),
    "remove": lambda db: db.remove("post", "p", tags=["a", "z"]),
    "count": lambda db: db.increment("post", "p", likes=5),
    "set": lambda db: db.set("ada", "user/age", 1.5),
    "set a free one": lambda db: db.set("ada", "x/y", {1, "1"}),
    "set nothing new": lambda db: db.set("ada", "user/name", "Ada"),
    "one in the place of many": lambda db: db.set("ada", "x/many", "one"),
    "many in the place of one": lambda db: db.set("ada", "x/one", {2, 3}),
    "unset": lambda db: db.unset("ada", "x/one"),
    "unset many": lambda db: db.unset("ada", "x/many"),
    "unset a member": lambda db: db.unset("ada", "x/many", "m"),
    "unset the one": lambda db: db.unset("ada", "x/one", 1),
    "rows": lambda db: db.insert_frame(
        "user",
        pd.DataFrame({"id": ["ada", "r1", "r2"], "name": ["A", "B", "C"], "age": [1, 2, None]}),
        id="id",
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_undo_and_redo(db: Database, name: str) -> None:
    """`db.undo()` takes back this session's last transaction as a new one, where its values still stand; returns a
    frame of what it left alone; `db.redo()`."""
    db.insert("user", id="ada", name="Ada", age=36)
    db.insert("post", id="p", title="P", tags=["a", "b"], likes=2)
    db.set("ada", "x/one", 1)
    db.set("ada", "x/many", {"m", "n"})
    before = content(db)
    forms = as_entities(db)
    WRITES[name](db)
    after = content(db)
    if name == "set nothing new":
        assert after == before and db.undo().empty and content(db) == before
        return
    assert after != before
    for _ in range(3):
        stamp = db._session.core.clock.last
        assert rows(db.undo()) == []
        assert content(db) == before and as_entities(db) == forms
        assert db._session.core.clock.last > stamp, "it is a new transaction"
        assert rows(db.redo()) == []
        assert content(db) == after


def as_entities(db: Database) -> Any:
    """Without a schema, which shows what is single and what is many."""
    places = (("user", "ada"), ("x", "ada"), ("post", "p"))
    return [SCHEMALESS.entity(db._session.store, kind, subject) for kind, subject in places]


def test_one_after_the_other(db: Database) -> None:
    for age in (1, 2, 3):
        db.set("ada", "user/age", age)
    ages = []
    for step in (db.undo, db.undo, db.redo, db.undo, db.undo, db.redo, db.redo, db.redo):
        assert step().empty
        ages.append(db._session.store.values("ada", "user/age"))
    assert ages == [[2], [1], [2], [1], [], [1], [2], [3]]
    with pytest.raises(TriplewebError, match="nothing to redo"):
        db.redo()
    db.undo()
    db.set("ada", "user/name", "Ada")
    with pytest.raises(TriplewebError, match="nothing to redo"):
        db.redo()  # something else was written
    for _ in range(3):
        db.undo()
    with pytest.raises(TriplewebError, match="nothing to undo"):
        db.undo()
    assert content(db) == {}


def test_a_transaction_is_taken_back_whole(db: Database) -> None:
    with db.transaction():
        db.insert("user", id="ada", name="Ada", age=1)
        db.update("user", "ada", age=2)
        db.increment("post", "p", likes=2)
        db.increment("post", "p", likes=3)
    with db.transaction():
        pass  # nothing was written: nothing to take back
    with pytest.raises(KeyError), db.transaction():
        db.set("ada", "user/name", "never")
        raise KeyError
    assert db.undo().empty and content(db) == {("p", "post/likes", "n:0", "int"): 0}
    assert db.get("post", "p")["likes"] == 0
    with db.transaction():
        db.set("ada", "user/name", "Ada")
        with pytest.raises(TriplewebError, match="within a transaction"):
            db.undo()
    assert db.get("user", "ada")["name"] == "Ada"


def test_what_others_wrote_since_is_left_alone(db: Database) -> None:
    """…where its values still stand; returns a frame of what it left alone."""
    db.insert("user", id="ada", name="Ada", age=36)
    db.update("user", "ada", name="Eve", age=37)
    others(db, ("ada", "user/name", SINGLE, "Theirs"))
    assert rows(db.undo()) == [("ada", "user/name", "Eve", "newer")]
    assert db.get("user", "ada") == {"id": "ada", "name": "Theirs", "age": 36}
    others(db, ("ada", "user/age", SINGLE, 40))
    assert rows(db.redo()) == [("ada", "user/age", 36, "newer")]
    # the same value, but in somebody else's word
    db.set("ada", "user/age", 41)
    others(db, ("ada", "user/age", SINGLE, 41))
    assert rows(db.undo()) == [("ada", "user/age", 41, "newer")] and db.get("user", "ada")["age"] == 41
    db.set("ada", "user/age", 42)
    others(db, ("ada", "user/age", RESET, None), ("ada", "user/age", "n:1", 1))
    assert rows(db.undo()) == [("ada", "user/age", 42, "reset")]
    with pytest.raises(TriplewebError, match="nothing to redo"):
        db.redo()  # the last undo wrote nothing
    # a value that is only taken away
    db.set("ada", "x/y", 1)
    db.unset("ada", "x/y")
    others(db, ("ada", "x/y", SINGLE, 2))
    assert rows(db.undo()) == [("ada", "x/y", 1, "newer")] and db._session.store.values("ada", "x/y") == [2]


def test_sets_go_back_element_by_element(db: Database) -> None:
    db.insert("post", id="p", title="P", tags=["a", "b"])
    db.update("post", "p", tags=["b", "c", "d", "e"])
    others(
        db,
        ("p", "post/tags", "s:theirs", "theirs"),
        ("p", "post/tags", "s:c", "c"),  # they added it, too
        ("p", "post/tags", "s:d", None),  # and have removed this
    )
    left = db.undo()
    assert rows(left) == [("p", "post/tags", "c", "newer"), ("p", "post/tags", "d", "newer")]
    assert db.get("post", "p")["tags"] == ["a", "b", "c", "theirs"]
    db.add("post", "p", tags=["x", "y"])
    others(db, ("p", "post/tags", RESET, None), ("p", "post/tags", "s:new", "new"))
    assert rows(db.undo()) == [("p", "post/tags", "x", "reset"), ("p", "post/tags", "y", "reset")]
    assert db.get("post", "p")["tags"] == ["new"]
    db.remove("post", "p", tags="new")
    others(db, ("p", "post/tags", RESET, None), ("p", "post/tags", "s:z", "z"))
    assert rows(db.undo()) == [("p", "post/tags", "new", "reset")]
    # what the deed took away, somebody has put back, or taken away himself
    db.update("post", "p", tags=["1", "2"])
    db.update("post", "p", tags=[])
    others(db, ("p", "post/tags", "s:1", "1"), ("p", "post/tags", "s:2", None))
    assert rows(db.undo()) == [("p", "post/tags", "2", "newer")] and db.get("post", "p")["tags"] == ["1"]


def test_members_that_came_beside_a_single_value_stay() -> None:
    db = tripleweb.open()
    db.set("x", "k/v", "old")
    db.set("x", "k/v", "new")
    others(db, ("x", "k/v", "s:beside", "beside"))
    assert db.undo().empty
    assert db._session.store.values("x", "k/v") == ["beside", "old"]


def test_counters_count_back(db: Database) -> None:
    db.insert("post", id="p", title="P", likes=2)
    db.increment("post", "p", likes=3)
    others(db, ("p", "post/likes", "c:zz", 10))
    db.increment("post", "p", likes=0.5)
    assert db.undo().empty and db.undo().empty
    assert db.get("post", "p")["likes"] == 12 and db.redo().empty and db.get("post", "p")["likes"] == 15
    db.increment("post", "q", likes=-(2**63))
    assert rows(db.undo()) == [("q", "post/likes", -(2**63), "limits")]
    # a plain number beside what was counted is in the sum, where nobody can tell it apart
    loose = tripleweb.open()
    loose._session.store.apply([Change("p", "post/likes", "c:zz", 5, 1, "zz")])
    for write, value in (
        (lambda: loose.set("p", "post/likes", 3), 3),
        (lambda: loose.unset("p", "post/likes"), 8),
    ):
        write()
        assert rows(loose.undo()) == [("p", "post/likes", value, "counter")]
        loose.set("p", "post/likes", 3)


def test_a_delete_is_for_ever(db: Database) -> None:
    db.insert("user", id="ada", name="Ada", age=36)
    db.insert("user", id="bob", name="Bob")
    with db.transaction():
        db.delete("ada")
        db.update("user", "bob", name="Rob")
    assert rows(db.undo()) == [("ada", "user/age", 36, "deleted"), ("ada", "user/name", "Ada", "deleted")]
    assert db.get("user", "ada") is None and db.get("user", "bob")["name"] == "Bob"
    with pytest.raises(DeletedError):
        db.update("user", "ada", age=1)
    assert db.redo().empty and db.get("user", "bob")["name"] == "Rob"
    db.increment("post", "q", likes=3)
    db.update("user", "bob", age=7, name="B")
    others(db, ("bob", DELETED, SINGLE, True), ("q", DELETED, SINGLE, True))
    assert rows(db.undo()) == [("bob", "user/age", 7, "deleted"), ("bob", "user/name", "B", "deleted")]
    assert rows(db.undo()) == [("q", "post/likes", 3, "deleted")]


def test_references_and_texts_are_two() -> None:
    db = tripleweb.open()
    db.set("x", "k/v", "ada")
    db.set("x", "k/v", Ref("ada"))
    db.set("y", "k/n", {1})
    db.add("k", "y", n={1.0, 2})
    assert [type(v) for v in db._session.store.values("y", "k/n")] == [float, int]
    assert db.undo().empty and [type(v) for v in db._session.store.values("y", "k/n")] == [int]
    assert db.undo().empty and db.undo().empty
    assert type(db._session.store.values("x", "k/v")[0]) is str
    assert db._session.store.values("y", "k/n") == []


def test_what_is_remembered_is_bounded(db: Database) -> None:
    deeds = db._session._deeds
    for age in range(DEEDS_MAX + 10):
        db.set("ada", "user/age", age)
    assert len(deeds.done) == DEEDS_MAX
    for _ in range(DEEDS_MAX // 2):  # each undo is remembered, too
        assert db.undo().empty
    assert len(deeds.done) == 0 and len(deeds.undone) == DEEDS_MAX // 2
    db.insert_frame("user", pd.DataFrame({"name": ["x"] * (CHANGES_MAX + 1)}))
    assert len(deeds.done) == 1, "what was undone is forgotten"
    db.set("ada", "user/age", 1)
    assert len(deeds.done) == 1 and db.undo().empty
    with pytest.raises(TriplewebError, match="nothing to undo"):
        db.undo()


class Bench:
    """A store with one writer whose deeds are remembered, and somebody else."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store, self.deeds, self.time = Store(), Deeds(), 100

    def write(self, do: Callable[[Transaction], Any]) -> Deed:
        self.time += 10
        tx = Transaction(self.store, self.time, "me")
        do(tx)
        return Deed("", tx, tx.commit())

    def something(self, tx: Transaction) -> None:
        rng = self.rng
        for _ in range(rng.randrange(1, 6)):
            subject, predicate, value = rng.choice("ab"), rng.choice(["k/a", "k/b"]), rng.choice(VALUES)
            rng.choice(
                [
                    lambda: tx.set(subject, predicate, value),
                    lambda: tx.set(subject, predicate, None),
                    lambda: tx.set_columns(["a", "b"], [(predicate, [value, rng.choice([None, *VALUES])])]),
                    lambda: tx.assign(subject, predicate, rng.sample(VALUES, 2)),
                    lambda: tx.add(subject, predicate, value),
                    lambda: tx.remove(subject, predicate, value),
                    lambda: tx.increment(subject, "k/count", rng.choice([1, -2, 7])),
                ]
            )()

    def turn(self, redo: bool) -> list[Any]:
        left: list[Any] = []
        deed = self.deeds.last(redo)
        by = self.write(lambda tx: left.extend(self.deeds.take_back(tx, deed)))
        self.deeds.turn(by, redo)
        return left

    def shown(self) -> dict[Any, Any]:
        """All triples; a counter that is back at 0 shows that somebody counted."""
        return {key: value for key, value in triples(self.store).items() if (key[1], value) != ("k/count", 0)}


@pytest.mark.parametrize("seed", range(200))
def test_to_and_fro(seed: int) -> None:
    """Any walk through what was done and undone shows at each step what was there then."""
    bench = Bench(seed)
    bench.store.apply(Change("a", "k/a", place, v, 1, "z") for place, v in ((SINGLE, "one"), ("s:m", "m")))
    states = [bench.shown()]
    for _ in range(5):
        deed = bench.write(bench.something)
        if len(deed):  # else all netted out
            bench.deeds.add(deed)
            states.append(bench.shown())
    at = len(states) - 1
    for step in range(20):
        redo = bool(bench.rng.getrandbits(1)) if 0 < at < len(states) - 1 else at == 0
        at += 1 if redo else -1
        assert bench.turn(redo) == [], f"seed {seed}, step {step}"
        assert bench.shown() == states[at], f"seed {seed}, step {step}"


@pytest.mark.parametrize("seed", range(200))
def test_what_others_wrote_is_never_touched(seed: int) -> None:
    """Whatever somebody else has written since shows as before; what is left alone is told with a reason."""
    bench = Bench(seed)
    alone = bench.rng.random() < 0.1
    for _ in range(3):
        bench.deeds.add(bench.write(bench.something))
        if not alone and bench.rng.random() < 0.5:
            values = bench.rng.sample(VALUES, bench.rng.randrange(1, 4))
            theirs = [
                Change(
                    bench.rng.choice("ab"),
                    bench.rng.choice(["k/a", "k/b"]),
                    place,
                    value,
                    bench.time + 5,
                    "z",
                )
                for value in values
                for place in [bench.rng.choice([SINGLE, slot(value)])]
            ]
            bench.store.apply(theirs)
    store = bench.store
    theirs = [change for change in store.registers() if change.replica == "z"]
    standing = [change for change in theirs if change.stamp >= store.floor(change.subject, change.predicate)]
    seen = triples(bench.store)
    told = [bench.turn(redo=False) for _ in range(3)]
    content = triples(bench.store)
    for change in standing:
        if change.value is not None:
            key = (change.subject, change.predicate, slot(change.value), type(change.value).__name__)
            assert (key in seen) <= (key in content), f"seed {seed}: {change}"
    for left in told:
        assert {each.reason for each in left} <= {"newer", "reset"}, f"seed {seed}"
    if alone:
        assert told == [[], [], []] and bench.shown() == {}, f"seed {seed}"


# -- connected -----------------------------------------------------------------------------------------------------
@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


@pytest.fixture
def connect(server: WebServer) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def connect(token: str | None = None) -> Database:
        made.append(
            tripleweb.connect(
                "app", replicate="all", url=server.url, token=token or server.token, path=":memory:"
            )
        )
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


def settled(*dbs: Database) -> None:
    for db in dbs:
        assert db._session.wait_for(lambda db=db: db._session.core.caught_up, 10), db.status
        db.flush(10)
    for db in dbs:
        for _ in range(2):  # the second answer comes after what was on its way when the first one came
            assert db._loading.describe(10) is not None


def test_undo_travels(connect: Callable[..., Database]) -> None:
    """…as a new one: everybody hears of it, and gets a receipt for it like for every other."""
    one, other = connect(), connect()
    one.set("x", "k/v", 1)
    one.set("x", "k/v", 2)
    settled(one, other)
    assert one.undo().empty
    settled(one, other)
    assert content(one) == content(other) and other._session.store.values("x", "k/v") == [1]
    other.set("x", "k/v", 3)
    settled(other, one)
    assert rows(one.undo()) == [("x", "k/v", 1, "newer")]
    with pytest.raises(TriplewebError, match="nothing to undo"):
        one.undo()
    assert other.undo().empty and other._session.store.values("x", "k/v") == [1]
    settled(one, other)
    assert content(one) == content(other)
    assert set(one.receipts()["outcome"]) == {"applied"}


def test_undo_of_what_is_still_on_its_way(connect: Callable[..., Database]) -> None:
    one, other = connect(), connect()
    settled(one, other)
    one.go_offline()
    one.set("x", "k/v", 1)
    one.set("x", "k/v", 2)
    one.increment("p", "c", n=3)
    assert one.undo().empty and one.undo().empty
    one.go_online()
    settled(one, other)
    assert other._session.store.values("x", "k/v") == [1] and other._session.store.values("c", "p/n") == [0]
    assert one.undo().empty and one.redo().empty and one.redo().empty
    settled(one, other)
    assert content(one) == content(other) and other._session.store.values("x", "k/v") == [2]


def test_stamps_that_the_server_changed(
    connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes of a clock that runs far ahead get other stamps at the server; they can be taken back all the same."""
    one = connect()
    settled(one)
    one.go_offline()
    one._session.core.clock.last = (int(time.time() * 1000) + 3_600_000) << 16
    for value in (1, 2, 3):
        one.set("x", "k/v", value)
    ahead = one._session.core.clock.last
    assert one.undo().empty
    one.go_online()
    settled(one)
    assert "restamped" in set(one.receipts()["outcome"])
    assert all(register.time < ahead for register in one._session.store.registers())
    values = []
    for step in (one.undo, one.undo, one.redo, one.redo, one.redo, one.undo):
        assert step().empty
        values.append(one._session.store.values("x", "k/v"))
    assert values == [[1], [], [1], [2], [3], [2]]


def test_what_was_rejected_is_not_there(server: WebServer, connect: Callable[..., Database]) -> None:
    db = connect(server.access.mint("eve"))
    db.set("x", "k/v", 1)
    settled(db)
    db.go_offline()
    apps = server.hub.apps
    apps["app"] = apps["app"].patched(None, {"eve": "reader"})
    db.set("x", "k/v", 2)
    db.increment("p", "c", n=3)
    db.go_online()
    db.flush(10)
    assert db._session.store.values("x", "k/v") == [1]
    assert rows(db.undo()) == [("c", "p/n", 3, "rejected")]
    assert rows(db.undo()) == [("x", "k/v", 2, "rejected")]
    assert db.status.pending == 0, "nothing was written for that"


def test_undo_outlives_a_new_identity(connect: Callable[..., Database]) -> None:
    """A replica that turns out to be a copy takes a new identity, and what is pending is stamped anew."""
    db = connect()
    settled(db)
    db.go_offline()
    db.set("x", "k/v", 1)
    db.set("x", "k/v", 2)
    session = db._session
    with session.lock:
        update = session.core._rekey()
        for pending in update.commit.pending if update.commit is not None else ():
            session._deeds.restamped(pending.id, (pending.time, session.core.replica))
    db.go_online()
    settled(db)
    assert db.undo().empty and session.store.values("x", "k/v") == [1]
    assert db.undo().empty and session.store.values("x", "k/v") == []
