"""Looking back, from random histories of several writers through a server to its log: at every moment that something
was committed, `as_of` answers what a plain `Store` shows that merged the log up to there, and the rows of `history`
lead there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.stores import level
from tests.test_looking_back import moment
from tests.test_storage import Tenant, wait_until
from tripleweb.change import COUNTER, SINGLE, Change
from tripleweb.database import Database
from tripleweb.errors import DeletedError, HistoryError, IncompleteError, TriplewebError
from tripleweb.hindsight import Hindsight
from tripleweb.past import Past, moment_ms
from tripleweb.storage import TenantStorage, TenantStores
from tripleweb.storage.archive import Sizes
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.store import Store
from tripleweb.sync import past as rules
from tripleweb.sync.records import Entry
from tripleweb.terms import Value, slot
from tripleweb.web import WebServer

EVERYTHING = "[:find ?s ?p ?o :where [?s ?p ?o]]"
TINY = Sizes(kept=3, run_bytes=500, frame=12)
Triples = set[tuple[str, str, str, str]]


def shown(store: Store, kinds: set[str] | None = None) -> Triples:
    """What is visible, as a query sees it: a reference is the text of its id."""
    return {
        (s, p, slot(v).replace("r:", "s:", 1), "str" if isinstance(v, str) else type(v).__name__)
        for p in store.predicates()
        if kinds is None or p.partition("/")[0] in kinds
        for s, v in store.scan(p)
    }


def merged(entries: list[Entry]) -> Store:
    store = Store()
    for entry in entries:
        store.apply(entry.registers)
    return store


def answered(frame: pd.DataFrame) -> Triples:
    """What a frame shows; a column of numbers is of floats as soon as one of them is."""
    return {
        (s, p, slot(plain), type(plain).__name__)
        for s, p, o in frame.itertuples(index=False)
        for plain in [
            o.to_pydatetime() if isinstance(o, pd.Timestamp) else str(o) if isinstance(o, str) else o
        ]
    }


# ---------------------------------------- the rules alone


@pytest.mark.parametrize("seed", range(20))
def test_frames_tell_what_was_and_rows_lead_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ROWS", 3)
    tenant = Tenant(f"{seed}/rules")
    for _ in range(30):
        tenant.commit()
    entries = tenant.entries
    for seq in range(0, len(entries) + 1, 5):
        for kinds in (None, ["k"], ["other", "none"]):
            asked = rules.Past("p", at=1, kinds=kinds)
            pieces = [entry.registers for entry in entries[:seq]]
            frames = [frame for _, frame in rules.was(pieces, asked, "e", seq) if frame is not None]
            assert [frame.more for frame in frames] == [True] * (len(frames) - 1) + [False]
            told = Store()
            for frame in frames:
                told.apply(rules.told_registers(frame))
            wanted = None if kinds is None else {*kinds}
            assert shown(told) == shown(merged(entries[:seq]), wanted)
    for subject in ("e0", "e1", "e2"):
        floor = seed % 3 * len(entries) // 4
        standing = {(p, slot(v), type(v)) for s, p, v in triples(merged(entries[:floor])) if s == subject}
        history = rules.History(merged(entries[:floor]).registers_of(subject))
        for entry in entries[floor:]:
            changes = [one for one in entry.registers if one.subject == subject]
            for at, by, predicate, old, new in history.rows(entry.at, entry.by, changes):
                assert (at, by) == (entry.at, entry.by) and (old is not None or new is not None)
                if old is not None:
                    standing.remove((predicate, slot(old), type(old)))
                if new is not None:
                    standing.add((predicate, slot(new), type(new)))
            now = triples(merged(entries[: entry.seq]))
            assert standing == {(p, slot(v), type(v)) for s, p, v in now if s == subject}


def triples(store: Store) -> list[tuple[str, str, Value]]:
    return [(s, p, v) for p in store.predicates() for s, v in store.scan(p)]


def test_old_and_new_stand_in_one_row_where_a_field_has_one_value() -> None:
    history = rules.History()

    def rows(*changes: tuple[str, Any], time: int) -> list[Any]:
        return [
            row[2:]
            for row in history.rows(1, "ada", [Change("x", "k/v", *one, time, "a") for one in changes])
        ]

    assert rows((SINGLE, 1), time=1) == [("k/v", None, 1)]
    assert rows((SINGLE, 2), time=2) == [("k/v", 1, 2)]
    assert rows((SINGLE, 2), time=3) == []
    assert rows((SINGLE, None), time=4) == [("k/v", 2, None)]
    assert rows((COUNTER + "a", 3), time=5) == [("k/v", None, 3)]
    assert rows((COUNTER + "a", 5), time=6) == [("k/v", 3, 5)]
    assert rows((COUNTER + "a", None), time=7) == [("k/v", 5, None)]
    assert rows(("s:a", "a"), ("s:b", "b"), time=8) == [("k/v", None, "a"), ("k/v", None, "b")]
    assert rows(("s:a", None), ("s:c", "c"), time=9) == [("k/v", "a", None), ("k/v", None, "c")]


def test_moments() -> None:
    noon = datetime(2013, 1, 1, 12, tzinfo=UTC)
    same = [noon, pd.Timestamp(noon), noon.astimezone(tz=None), "2013-01-01T13:00:00+01:00"]
    assert {moment_ms(one) for one in same} == {1357041600000}
    assert moment_ms(pd.Timestamp("2013-01-01T12:00:00.000999999Z")) == 1357041600000
    for naive in (datetime(2013, 1, 1), pd.Timestamp("2013-01-01"), "2013-01-01", "yesterday", pd.NaT):
        with pytest.raises((ValueError, TypeError)):
            moment_ms(naive)
    with pytest.raises(ValueError, match="no time zone"):
        tripleweb.open().as_of(datetime(2013, 1, 1))
    with pytest.raises(TypeError):
        moment_ms(5)


# ---------------------------------------- through a server


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> TenantStores:
    return MemoryStores() if request.param == "memory" else SqliteStores(tmp_path / "data", TINY)


@pytest.fixture
def server(stores: TenantStores) -> Iterator[WebServer]:
    with WebServer(stores, owner="ada") as running:
        yield running


def connected(server: WebServer) -> Database:
    return tripleweb.connect("app", url=server.url, token=server.token, path=":memory:", replicate="all")


def storage_of(server: WebServer) -> TenantStorage:
    return server.hub.tenants["app"].storage


def archive_all(storage: TenantStorage) -> None:
    """All that may be is in the archive; folding is the server's."""
    wait_until(lambda: not storage.backlog, "the log was never folded")
    while storage.archive():
        pass


def write_something(db: Database, rng: random.Random) -> None:
    x, p = f"e{rng.randrange(5)}", rng.choice(["k/a", "k/b", "o/a"])
    value = rng.choice(
        [1, 2.5, True, "1", "text", tripleweb.Ref("e0"), datetime(2013, 1, 1, tzinfo=UTC), 2**60]
    )
    roll = rng.random()
    try:
        if roll < 0.3:
            db.set(x, p, value)
        elif roll < 0.4:
            db.unset(x, p)
        elif roll < 0.5:
            db.set(x, "k/many", {rng.randrange(4), "m"})
        elif roll < 0.65:
            rng.choice([db.add, db.remove])("k", x, many={rng.randrange(4)})
        elif roll < 0.75:
            db.increment("n", x, hits=rng.randrange(1, 4))
        elif roll < 0.8:
            db.delete(x)
        elif roll < 0.9:
            with db.transaction():
                for i in range(rng.randrange(2, 30)):
                    db.set(f"e{i}", "o/batch", rng.randrange(9))
        else:
            core = db._session.core  # a clock that is wrong: restamped, or superseded
            core.clock.last = max(0, core.clock.last + (rng.choice([-5_000, 200_000]) << 16))
            db.set(x, p, value)
    except DeletedError:
        pass


@pytest.mark.parametrize("seed", range(2))
def test_at_every_moment_and_for_every_entity(server: WebServer, seed: int) -> None:
    check_histories(server, seed, steps=50)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 103))
def test_at_every_moment_and_for_every_entity_at_length(server: WebServer, seed: int) -> None:
    check_histories(server, seed, steps=150)


def check_histories(server: WebServer, seed: int, steps: int) -> None:
    rng = random.Random(f"{seed}/past")
    dbs = [connected(server), connected(server)]
    for step in range(steps):
        write_something(rng.choice(dbs), rng)
        if rng.random() < 0.5:
            dbs[step % 2].flush()
    level(*dbs)
    storage = storage_of(server)
    entries = storage.since(0, 10_000)
    assert len(entries) > steps // 3
    for archived in (False, True):
        if archived:
            archive_all(storage)
        for at in sorted({entry.at for entry in entries}):
            if rng.random() < 0.5 and not archived:
                continue
            last = max(entry.seq for entry in entries if entry.at <= at)
            moment = datetime.fromtimestamp(0, UTC) + timedelta(
                milliseconds=at, microseconds=rng.randrange(1000)
            )
            then, store = dbs[0].as_of(moment), merged(entries[:last])
            kinds = {p.partition("/")[0] for p in store.predicates()}
            if "k" in kinds and rng.random() < 0.5:
                names = then.q("[:find ?s ?o :where [?s :k/a ?o]]")
                assert {(s, "k/a") for s in names["s"]} == {
                    (s, p) for s, p, _, _ in shown(store) if p == "k/a"
                }
            everything = then.q(EVERYTHING)
            assert shown(then.store(None)) == shown(store), f"seed {seed}, moment {at}"
            expected = shown(store)
            if everything["o"].dtype == "float64":
                expected = {(*rest, "float") for *rest, _ in expected}
            assert answered(everything) == expected, f"seed {seed}, moment {at}"
        for subject in ("e0", "e3", "e17", "nobody"):
            frame = dbs[1].history(subject)
            history = rules.History()
            rows = [
                (pd.Timestamp(at, unit="ms", tz="UTC"), *rest)
                for entry in entries
                for at, *rest in history.rows(
                    entry.at, entry.by, [one for one in entry.registers if one.subject == subject]
                )
            ]
            assert list(frame.columns) == ["time", "user", "predicate", "old", "new"]
            assert repr([tuple(row)[:3] for row in frame.itertuples(index=False)]) == repr(
                [row[:3] for row in rows]
            )
            for column, at in (("old", 3), ("new", 4)):
                found = [None if pd.isna(value) else value for value in frame[column]]
                assert found == [row[at] for row in rows]
    for db in dbs:
        db.close()


def test_what_is_not_accepted_yet_is_not_in_the_past(server: WebServer) -> None:
    db, other = connected(server), connected(server)
    db.set("x", "k/v", 1)
    level(db, other)
    other.go_offline()
    other.set("x", "k/v", 2)
    assert db.as_of(datetime.now(UTC)).q("[:find ?v . :where [_ :k/v ?v]]") == 1
    with pytest.raises(IncompleteError, match="offline: by choice"):
        other.as_of(datetime.now(UTC)).q("[:find ?v . :where [_ :k/v ?v]]")
    with pytest.raises(IncompleteError, match="cannot be asked now"):
        other.history("x")
    other.close()
    db.close()


def test_a_past_stands_still(server: WebServer) -> None:
    db = connected(server)
    db.set("x", "k/v", 1)
    db.set("x", "o/v", 1)
    db.flush()
    then = db.as_of(datetime.now(UTC) + timedelta(days=1))
    assert then.q("[:find ?v . :where [_ :k/v ?v]]") == 1
    db.set("x", "k/v", 2)
    db.set("x", "o/v", 2)
    db.delete("x")
    db.flush()
    assert then.q("[:find ?v . :where [_ :k/v ?v]]") == 1 == then.q("[:find ?v . :where [_ :o/v ?v]]")
    assert then.get("o", "x") == {"id": "x", "v": 1} and then.frame("k")["v"].tolist() == [1]
    epoch, seq = then._position or ("", 0)
    again = Past(db, then._budget, position=(epoch, seq))
    assert again.frame("o")["v"].tolist() == [1] and len(shown(again.store(None))) == 2
    with pytest.raises(HistoryError, match="restored"):
        Past(db, then._budget, position=("another", seq)).frame("o")
    with pytest.raises(HistoryError, match="outside"):
        Past(db, then._budget, position=(epoch, seq + 99)).frame("o")
    db.close()


def as_columns(frame: pd.DataFrame) -> tuple[Any, ...]:
    return repr(frame), frame.dtypes.astype(str).to_dict(), frame.attrs["tripleweb_kind"]


def test_a_past_is_selected_from_as_the_present_is(server: WebServer) -> None:
    """Without a schema: a reference leads to whatever kind there was, a field that came later is no column."""
    db = connected(server)
    db.insert("user", id="ada", name="Ada")
    db.insert("user", id="bob", name="Bob")
    for id, score, author in ("p1", 91, "ada"), ("p2", 95, "bob"), ("p3", 17, "ada"):
        db.insert("post", id=id, score=score, author=tripleweb.Ref(author))
    db.flush()
    questions: list[Callable[[Any], Any]] = [
        lambda of: of.select("post"),
        lambda of: of.select("post").order_by("-score").offset(1).limit(1),
        lambda of: of.select("post").where("author.name", "Ada").order_by("score"),
        lambda of: of.select("post").include("author").where("score", "in", list(range(200))),
        lambda of: of.select("user").where("name", "startswith", "B"),
        lambda of: of.select("nothing"),
    ]
    as_they_were = [as_columns(question(db).df()) for question in questions]
    kinds, fields = db.kinds(), db.fields("post")
    at = moment()
    db.insert("post", id="p4", score=99, author=tripleweb.Ref("bob"), later=1)
    db.update("user", "ada", name="Ada L.", later=True)
    db.insert("later", x=1)
    db.delete("p1")
    db.flush()
    shared = db.as_of(at)
    for question, as_it_was in zip(questions[::-1], as_they_were[::-1], strict=True):
        for then in (db.as_of(at), shared):
            assert as_columns(question(then).df()) == as_it_was, question(then)
        assert question(then).df().attrs["tripleweb"]["scope"] == "past"
    for then in (db.as_of(at), shared):
        assert (then.fields("post"), then.kinds(), then.fields("later")) == (fields, kinds, [])
    assert db.as_of("2013-01-01T00:00:00Z").kinds() == []
    assert db.kinds() == ["later", "post", "user"]
    db.close()


def test_a_selection_of_the_past_loads_what_it_needs_and_cannot_be_followed(server: WebServer) -> None:
    schema = tripleweb.schema(
        user={"name": tripleweb.t.string()},
        post={"author": tripleweb.t.ref("user")},
        other={"n": tripleweb.t.number()},
    )
    with tripleweb.connect("app", url=server.url, token=server.token, path=":memory:", schema=schema) as db:
        db.insert("post", id="p", author=db.insert("user", id="ada", name="Ada"))
        db.insert("other", n=1)
        db.flush()
        then = db.as_of(moment())
        posts = then.select("post").include("author")
        assert posts.df()["author.name"].tolist() == ["Ada"] and then._kinds == {"post", "user"}
        with pytest.raises(tripleweb.SchemaError, match="did you mean"):
            then.select("post").where("auther", "ada")
        db.go_offline()
        assert posts.where("author.name", "Ada").df(timeout=5)["id"].tolist() == ["p"]
        for asked in (then.select("other").df, then.kinds, lambda: db.as_of(moment()).select("post").df()):
            with pytest.raises(IncompleteError, match="cannot be asked now"):
                asked()
        with pytest.raises(TriplewebError, match=r"does not change.*df\(\)"):
            then.select("other").live()


def test_before_the_floor_is_no_history(server: WebServer) -> None:
    db = connected(server)
    moments = []
    for value in range(8):
        db.set("x", "k/v", value)
        db.flush()
        moments.append(moment())
    storage = storage_of(server)
    archive_all(storage)
    while storage.trim(5):
        pass
    query = "[:find ?v . :where [_ :k/v ?v]]"
    for value, at in enumerate(moments):
        if value < 4:
            with pytest.raises(HistoryError, match="kept no longer"):
                db.as_of(at).q(query)
        else:
            assert db.as_of(at).q(query) == value
    assert db.history("x")["old"].tolist() == [4, 5, 6]
    assert db.q(query) == 7
    db.close()


def test_a_reader_may_look_back_and_a_stranger_not(server: WebServer) -> None:
    db = connected(server)
    db.set("x", "k/v", 1)
    db.flush()
    line = next(iter(server.hub.tenants["app"].lines.values()))
    server._loop.call_soon_threadsafe(server.hub.set_roles, "app", lambda user: "reader")
    assert db._session.wait_for(lambda: line.actor.role == "reader", 10)
    assert db.as_of(datetime.now(UTC)).frame("k")["v"].tolist() == [1] and len(db.history("x")) == 1
    server._loop.call_soon_threadsafe(server.hub.set_roles, "app", lambda user: None)
    assert db._session.wait_for(lambda: db.status.state != "online", 10)
    with pytest.raises(IncompleteError):
        db.history("x")
    db.close()


def test_too_much_is_refused_and_the_next_question_is_answered(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = connected(server)
    db.set("x", "k/v", 1)
    db.flush()
    with monkeypatch.context() as patched:
        patched.setattr("tripleweb.hindsight.WORK_MAX", 0)
        with pytest.raises(IncompleteError, match="ask for less"):
            db.as_of(datetime.now(UTC)).frame("k")
    with monkeypatch.context() as patched:
        patched.setattr("tripleweb.hindsight.PER_LINE", 0)
        with pytest.raises(IncompleteError, match="wait already"):
            db.history("x")
    assert db.as_of(datetime.now(UTC)).frame("k")["v"].tolist() == [1]
    hindsight: Hindsight = server.hub.tenants["app"]._hindsight
    wait_until(lambda: not hindsight._waiting, "questions are counted that nobody waits for")
    db.close()


@pytest.mark.parametrize("given_up", ["timeout", "interrupt", "connection"])
def test_a_long_look_back_holds_nobody_up_and_ends_with_who_waits_for_it(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, given_up: str
) -> None:
    db, other = connected(server), connected(server)
    level(db, other)
    is_closed, is_read = threading.Event(), threading.Event()

    def endless(seq: int, kinds: object = None) -> Iterator[list[Change]]:
        try:
            while True:
                is_read.set()
                yield []
        finally:
            is_closed.set()

    def interrupted(condition: Callable[[], bool], timeout: float | None = None) -> bool:
        assert is_read.wait(60)
        raise KeyboardInterrupt

    hindsight: Hindsight = server.hub.tenants["app"]._hindsight
    then = db.as_of(datetime.now(UTC))
    with monkeypatch.context() as patched:
        patched.setattr(storage_of(server), "past", endless)
        if given_up == "interrupt":
            patched.setattr(db._session, "wait_for", interrupted)
            with pytest.raises(KeyboardInterrupt):
                then.q(EVERYTHING)
        elif given_up == "timeout":
            with pytest.raises(IncompleteError, match="not told the past within"):
                then.q(EVERYTHING, timeout=0.2)
        else:
            with ThreadPoolExecutor(1) as beside:
                asked = beside.submit(then.q, EVERYTHING)
                assert is_read.wait(60) and not is_closed.is_set()
                for value in range(5):
                    other.set("x", "k/v", value)
                    other.flush(60)
                db.close()
                with pytest.raises(TriplewebError):
                    asked.result(60)
        wait_until(lambda: not hindsight._waiting, "the server goes on working for nobody")
        assert is_closed.is_set() == is_read.is_set()
    other.set("x", "k/v", 4)
    other.flush()
    assert other.as_of(datetime.now(UTC)).frame("k")["v"].tolist() == [4]
    if given_up != "connection":
        assert db.as_of(datetime.now(UTC)).frame("k")["v"].tolist() == [4]
    db.close()
    other.close()


def test_a_question_that_waits_is_given_up_alone(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two questions of a connection the second is given up while the first is at work: the first is answered."""
    db = connected(server)
    db.set("x", "k/v", 1)
    db.flush()
    is_read, goes_on = threading.Event(), threading.Event()
    storage = storage_of(server)
    past = storage.past

    def slow(seq: int, kinds: Any = None) -> Iterator[list[Change]]:
        is_read.set()
        assert goes_on.wait(60)
        yield from past(seq, kinds)

    monkeypatch.setattr(storage, "past", slow)
    hindsight: Hindsight = server.hub.tenants["app"]._hindsight
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(db.as_of(datetime.now(UTC)).frame, "k")
        try:
            assert is_read.wait(60)
            with pytest.raises(IncompleteError, match="not told the past within"):
                db.history("x", timeout=0.1)
            wait_until(lambda: sum(hindsight._waiting.values()) == 1, "it waits, though it was given up")
        finally:
            goes_on.set()
        assert first.result(60)["v"].tolist() == [1]
    assert len(db.history("x")) == 1
    db.close()


def test_a_store_without_a_server_says_so(tmp_path: Path) -> None:
    for db in (tripleweb.open(), tripleweb.open(tmp_path / "notes.tripleweb")):
        with pytest.raises(HistoryError, match="kept by a server"):
            db.history("x")
        with pytest.raises(HistoryError, match="kept by a server"):
            db.as_of(datetime.now(UTC)).frame("k")
        db.close()
