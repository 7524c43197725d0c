"""What is loaded of a connected store, as a user meets it: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.live_host import wait_until
from tests.stores import SCHEMA, Connect, level, online
from tripleweb import Ref
from tripleweb.database import Database
from tripleweb.errors import DeletedError, IncompleteError, SchemaError
from tripleweb.subscriptions import TTL_S
from tripleweb.web import WebServer

TITLES = "[:find [?t ...] :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t]]"
NAMES = "[:find [?n ...] :where [_ :user/name ?n]]"


@pytest.fixture
def writer(connect: Connect) -> Database:
    """Somebody who has everything: two users with two posts each."""
    db = connect(schema=SCHEMA, replicate="all")
    for user in ("ada", "bob"):
        db.insert("user", id=user, name=user.title(), age=36)
        for number in (1, 2):
            db.insert("post", id=f"{user}{number}", title=f"{user} {number}", author=user)
    level(db)
    return db


@pytest.fixture
def db(connect: Connect, writer: Database) -> Iterator[Database]:
    """A store that has just been connected, without a schema; a warning is a failure."""
    db = connect()
    online(db)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield db


def here(db: Database) -> set[str]:
    """Whatever the replica holds something of."""
    with db._session.lock:
        store = db._session.store
        return {subject for predicate in store.predicates() for subject, _ in store.scan(predicate)}


def pass_minutes(db: Database, minutes: float) -> None:
    """So much time goes by while it is connected."""
    with db._session.lock:
        for _ in range(round(minutes * 4)):
            db._session.subscriptions.tick(15)
        db._session.wake()


# -- what is loaded ----------------------------------------------------------------------------------------------------


def test_only_what_is_asked(db: Database) -> None:
    """`replicate="queries"` (default) loads what queries ask for."""
    assert not here(db), "a replica starts empty"
    assert sorted(db.q(TITLES, "ada")) == ["ada 1", "ada 2"]
    assert here(db) == {"ada1", "ada2"}
    assert db.get("user", "bob")["name"] == "Bob"
    assert here(db) == {"ada1", "ada2", "bob"}
    assert db.q("[:find (count ?n) . :where [_ :user/name ?n]]") == 2
    assert here(db) == {"ada1", "ada2", "ada", "bob"}


def test_everything(connect: Connect, writer: Database) -> None:
    """`"all"` keeps a full copy of the app."""
    db = connect(replicate="all")
    online(db)
    assert here(db) == here(writer) and len(here(db)) == 6
    writer.insert("user", id="cyd", name="Cyd")
    wait_until(lambda: "cyd" in here(db))
    db.go_offline()
    frame = db.q("[:find ?p :where [?p :post/title]]", strict=True)
    assert len(frame) == 4 and frame.attrs["tripleweb"] | {"position": ""} == {
        "complete": True,
        "scope": "app",
        "position": "",
    }
    assert (db.kinds(strict=True), len(db.frame("post", strict=True))) == (["post", "user"], 4)


def test_the_answer_is_loaded_first(db: Database) -> None:
    """Connected with `replicate="queries"`, `q` (like `get`) loads what the query needs first."""
    assert db.q(TITLES, "bob", strict=True).tolist() != []
    assert db.get("post", "ada1", strict=True) == {"id": "ada1", "title": "ada 1", "author": "ada"}
    assert db.get("post", "nobody", strict=True) is None
    assert sorted(asyncio.run(db.aq(TITLES, "ada", strict=True))) == ["ada 1", "ada 2"]
    silent = '[:find [?u ...] :where [?u :user/name] (not [_ :post/author ?u])]'  # fmt: skip
    assert db.q(silent, strict=True).empty
    tree = "[:find (pull ?u [:user/name {:post/_author [:post/title]}]) . :in $ ?u]"
    assert len(db.q(tree, "ada", strict=True)["post/_author"]) == 2
    top = "[:find ?t :where [_ :post/title ?t] :order-by [?t :desc] :limit 1]"
    assert db.q(top, strict=True)["t"].tolist() == ["bob 2"]


def test_what_is_there_without_a_query(db: Database) -> None:
    """`db.kinds(); db.fields("post"); db.frame("post")`: what is there, without a query."""
    assert db.kinds() == ["post", "user"] and db.fields("post") == ["author", "title"]
    assert not here(db), "that loads nothing"
    assert db.fields("tag") == [] and db.frame("tag").empty
    frame = db.frame("post", strict=True)
    assert sorted(frame["id"]) == ["ada1", "ada2", "bob1", "bob2"] == sorted(here(db))
    assert frame.attrs["tripleweb"]["complete"] is True


def test_selections(db: Database, connect: Connect) -> None:
    """For people who do not write Datalog, the same engine by method calls."""
    for store in (db, connect(schema=SCHEMA)):
        found = store.select("post").where("author.name", "Ada").include("author").order_by("-title")
        frame = found.df(strict=True)
        assert frame["title"].tolist() == ["ada 2", "ada 1"] and set(frame["author.name"]) == {"Ada"}
        assert found.limit(1).live().df["title"].tolist() == ["ada 2"]


def test_what_a_query_costs_is_asked_of_what_there_is(db: Database) -> None:
    """`db.explain(query)` of what was not loaded before; what is not here may be there."""
    told = db.explain('[:find ?a :where [?u :user/name "Nobody"] [?u :user/age ?a]]')
    assert set(told["note"]) == {""}
    assert db.explain("[:find ?a :where [_ :user/age ?a]]")["actual"].tolist()[-1] == 1
    typo = db.explain("[:find ?a :where [_ :user/aeg ?a]]")
    assert typo["note"][0] == "no triple has :user/aeg; did you mean :user/age?"
    assert typo.attrs["tripleweb"]["complete"] is True


def test_callables_run_here(db: Database) -> None:
    """Callables run only here: the rest of the query is what is loaded."""
    query = "[:find [?n ...] :in $ ?f :where [?u :user/name ?n] [?u :user/age ?a] [(?f ?n)]]"
    assert db.q(query, lambda name: name == "Ada", strict=True).tolist() == ["Ada"]
    assert here(db) == {"ada", "bob"}
    with pytest.raises(ZeroDivisionError):
        db.q(query, lambda name: 1 / 0)


def test_large_inputs_stay_here(db: Database) -> None:
    """Callables run only here: the rest of the query is what is loaded. (So with what is too large to be sent.)"""
    names = pd.DataFrame({"n": ["Ada", *(f"nobody {number}" for number in range(5_000))]})
    found = db.q("[:find ?n ?a :in $ [[?n]] :where [?u :user/name ?n] [?u :user/age ?a]]", names, strict=True)
    assert found.to_numpy().tolist() == [["Ada", 36]] and here(db) == {"ada", "bob"}
    few = db.q("[:find ?n . :in $ [?n ...] :where [?u :user/boss ?n]]", list(names["n"][:10]), strict=True)
    assert few is None and sum(map(len, map(str, db._session.core.subscriptions.values()))) < 5_000


# -- how long it is kept -----------------------------------------------------------------------------------------------


def test_fresh_for_five_minutes(db: Database, writer: Database) -> None:
    """`q` … keeps it fresh for five minutes after its last use."""
    assert TTL_S == 300
    db.q(TITLES, "ada")
    writer.insert("post", id="ada3", title="ada 3", author="ada")
    wait_until(lambda: "ada3" in here(db))
    pass_minutes(db, 4.5)
    level(db)
    assert here(db) == {"ada1", "ada2", "ada3"}
    assert len(db.q(TITLES, "ada")) == 3
    pass_minutes(db, 4.5)
    level(db)
    assert here(db), "its last use counts"
    pass_minutes(db, 1)
    wait_until(lambda: not here(db))
    writer.update("post", "ada3", title="new")
    level(writer)
    assert sorted(db.q(TITLES, "ada", strict=True)) == ["ada 1", "ada 2", "new"]


def test_live_frames_keep_it(db: Database, writer: Database) -> None:
    """`live = db.live(query, *inputs)`  # the same, kept fresh."""
    live = db.live(TITLES, "ada")
    assert len(live.df) == 2
    pass_minutes(db, 30)
    writer.insert("post", id="ada3", title="ada 3", author="ada")
    live.wait(10)
    assert len(live.df) == 3
    live.close()
    pass_minutes(db, 6)
    wait_until(lambda: not here(db))
    assert len(live.df) == 3, "what was seen last stays"


def test_live_frames_over_a_reconnect(db: Database, writer: Database) -> None:
    """`db.go_offline()`, `db.go_online()`: a live frame tells what changed meanwhile, and nothing else."""
    live = db.live(TITLES, "ada")
    assert len(live.df) == 2
    told: list[tuple[list[Any], list[Any]]] = []
    live.on_change(lambda _, delta: told.append((delta.added["t"].tolist(), delta.removed["t"].tolist())))
    db.go_offline()
    writer.update("post", "ada1", title="new")
    writer.update("post", "bob1", author="ada")
    level(writer)
    assert live.df.attrs["tripleweb"]["complete"] is True and sorted(live["t"]) == ["ada 1", "ada 2"]
    db.go_online()
    live.wait(10, until=lambda df: sorted(df["t"]) == ["ada 2", "bob 1", "new"])
    wait_until(lambda: told)
    assert sorted(name for added, _ in told for name in added) == ["bob 1", "new"]
    assert [name for _, removed in told for name in removed] == ["ada 1"]


# -- what it is worth --------------------------------------------------------------------------------------------------


def test_offline_answers(db: Database) -> None:
    """Offline answers from the replica."""
    loaded = sorted(db.q(TITLES, "ada"))
    db.go_offline()
    db.set("ada1", "post/title", "mine")
    assert sorted(db.q(TITLES, "ada", strict=True)) == ["ada 2", "mine"] != loaded
    assert db.q(TITLES, "ada").attrs["tripleweb"]["complete"] is True
    with pytest.warns(UserWarning, match=r"not all of app is here \(offline: by choice\).*lack some"):
        found = db.q(TITLES, "bob")
    assert found.empty and found.attrs["tripleweb"]["complete"] is False
    for ask in (
        lambda: db.q(TITLES, "bob", strict=True),
        lambda: db.get("user", "ada", strict=True),
        lambda: db.kinds(strict=True),
        lambda: db.frame("user", strict=True),
        lambda: db.select("post").df(strict=True),
        lambda: asyncio.run(db.aq(NAMES, strict=True)),
    ):
        with pytest.raises(IncompleteError, match="by choice"):
            ask()


def test_offline_from_the_start(connect: Connect, writer: Database, tmp_path: Path) -> None:
    """The store opens offline with what it has: what was asked for before it was closed is complete."""
    db = connect(path=tmp_path / "r")
    assert len(db.q(TITLES, "ada", strict=True)) == 2
    db.close()
    again = connect(path=tmp_path / "r")
    again.go_offline()
    assert len(again.q(TITLES, "ada", strict=True)) == 2
    again.go_online()
    writer.insert("post", id="ada3", title="ada 3", author="ada")
    level(writer, again)
    assert len(again.q(TITLES, "ada", strict=True)) == 3


def test_attrs(db: Database) -> None:
    """The frame's `attrs["tripleweb"]` is flat JSON: `complete` (bool), `scope`, `position`."""
    for frame in (
        db.q(TITLES, "ada"),
        db.live(TITLES, "bob").df,
        db.frame("user"),
        db.select("post").df(),
        db.select("post").live().df,
    ):
        said = frame.attrs["tripleweb"]
        assert said.keys() == {"complete", "scope", "position"}
        assert (said["complete"], said["scope"]) == (True, "query") and json.loads(json.dumps(said)) == said
        epoch, _, seq = said["position"].rpartition(":")
        assert epoch and int(seq) >= 6


# -- writing what is not here ------------------------------------------------------------------------------------------


def test_an_insert_merges_with_what_is_not_here(connect: Connect, writer: Database) -> None:
    """`insert` …: an existing id= merges; required fields are demanded unless the id already has a value for them
    here."""
    db = connect(schema=SCHEMA)
    with pytest.raises(SchemaError, match="required"):
        db.insert("user", id="ada", age=37)
    assert db.get("user", "ada")["age"] == 36
    db.insert("user", id="ada", age=37)
    db.update("user", "bob", age=18)
    level(db, writer)
    assert [writer.get("user", id)["age"] for id in ("ada", "bob")] == [37, 18]
    assert [db.get("user", id)["name"] for id in ("ada", "bob")] == ["Ada", "Bob"]


def test_what_somebody_has_deleted(db: Database, writer: Database) -> None:
    """Writing to a deleted id raises `DeletedError`; one whose end is not known here ends in a receipt that says so."""
    writer.delete("ada")
    level(writer)
    db.set("ada", "user/name", "late")
    level(db)
    receipt = db.receipts().iloc[-1]
    assert (receipt["outcome"], receipt["reason"], receipt["value"]) == ("superseded", "deleted", "late")
    assert db.get("user", "ada") is None and sorted(db.q(NAMES)) == ["Bob"]
    with pytest.raises(DeletedError):
        db.set("ada", "user/name", "later")


def test_sets_and_counters_of_others(db: Database, writer: Database) -> None:
    """`db.add("post", p, tags=[t1, t2])`: merge element by element; concurrent increments add up."""
    writer.add("post", "ada1", tags=["t1"])
    writer.increment("post", "ada1", likes=5)
    level(writer)
    db.add("post", "ada1", tags={Ref("t2")})
    db.increment("post", "ada1", likes=2)
    level(db, writer)
    for store in (db, writer):
        found = store.get("post", "ada1")
        assert (found["tags"], found["likes"]) == (["t1", "t2"], 7)


def test_what_is_written_is_here(db: Database, server: WebServer, connect: Connect) -> None:
    """Writes are local, immediate, atomic: also of what nobody asked for; five minutes after they were decided they
    count as asked for no more."""
    db.set("note", "note/text", "mine")
    level(db)
    assert here(db) == {"note"}
    other: Any = connect(token=server.access.mint("bob"))
    other.set("note", "note/text", "theirs")
    level(other)
    wait_until(lambda: db._session.store.values("note", "note/text") == ["theirs"])
    assert db.q("[:find ?t . :where [_ :note/text ?t]]", strict=True) == "theirs"


def test_undo_of_what_was_never_loaded(db: Database, writer: Database) -> None:
    """`db.undo()` takes back this session's last transaction as a new one, where its values still stand: what others
    had written there comes back, although it was not here."""
    writer.add("post", "ada1", tags=["t1"])
    level(writer)
    before = {
        subject: dict(writer.get(kind, subject) or {})
        for kind, subject in (("user", "ada"), ("post", "ada1"))
    }
    db.update("user", "ada", age=37, name=None, manager=Ref("bob"))
    assert db.undo().empty
    db.add("post", "ada1", tags={Ref("t1"), Ref("t2")})
    assert db.undo().empty
    db.insert_frame("user", pd.DataFrame({"k": ["ada", "bob"], "name": ["Ada", "Rob"]}), id="k")
    assert db.undo().empty
    level(db, writer)
    assert {kind: writer.get(kind, id) for kind, id in (("user", "ada"), ("post", "ada1"))} == {
        "user": before["ada"], "post": before["ada1"]
    }  # fmt: skip
    assert writer.get("user", "bob")["name"] == "Bob" and writer.fields("user") == ["active", "age", "name"]
    assert db.redo().empty
    level(db, writer)
    assert writer.get("user", "bob")["name"] == "Rob" and writer.get("user", "ada")["name"] == "Ada"
