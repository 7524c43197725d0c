"""What a store does, found and written, as a user meets it: each test quotes what it holds (see test_contract)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.http_client import User
from tests.stores import NAMES, SCHEMA, Connect, later, level, online
from tripleweb import Ref
from tripleweb.database import Database
from tripleweb.errors import DeletedError, SchemaError
from tripleweb.web import WebServer


def test_open(tmp_path: Path) -> None:
    """`db = tripleweb.open(schema=schema)  # in memory`; `db = tripleweb.open("notes.tripleweb", schema=schema)  # a
    durable file, same API`."""
    with tripleweb.open(schema=SCHEMA) as db, tripleweb.open(schema=SCHEMA) as other:
        db.insert("user", name="Ada")
        assert len(db.q(NAMES)) == 1 and other.q(NAMES).empty
    path = tmp_path / "notes.tripleweb"
    told = []
    for place in (None, str(path)):
        with tripleweb.open(place, schema=SCHEMA) as db:
            live = db.live(NAMES)
            with db.transaction():
                db.insert("user", id="ada", name="Ada", age=36)
                db.insert_frame("post", pd.DataFrame({"k": ["p"], "title": ["P"], "author": ["ada"]}), id="k")
            db.add("post", "p", tags=["a", "b"])
            db.remove("post", "p", tags="a")
            db.increment("post", "p", likes=2)
            db.set("ada", "user/active", False)
            db.unset("ada", "user/age")
            db.insert("tag", id="gone", label="G")
            db.delete("gone")
            assert live["name"].tolist() == ["Ada"]
            assert [len(db.undo()) for _ in range(3)] == [1, 1, 0] and db.redo().empty
            told.append((db.get("user", "ada"), db.get("post", "p"), db.kinds(), repr(db.status)))
    assert told[0] == told[1]
    with tripleweb.open(path, schema=SCHEMA) as db:
        assert (db.get("user", "ada"), db.get("post", "p")) == told[1][:2]
        assert db.get("tag", "gone") is None
        with pytest.raises(DeletedError):
            db.insert("tag", id="gone", label="again")


def test_connect(server: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`db = tripleweb.connect("my-app", schema=schema)  # local replica, synced in the background`;
    `tripleweb.connect("my-app", url="http://host:8888/", token="…", replicate="queries", path=None, label=None)`."""
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    monkeypatch.setenv("TRIPLEWEB_URL", server.url)
    monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
    with tripleweb.connect("my-app", schema=SCHEMA) as db:
        monkeypatch.delenv("TRIPLEWEB_URL")
        monkeypatch.delenv("TRIPLEWEB_TOKEN")
        place = {
            "url": server.url,
            "token": server.token,
            "replicate": "queries",
            "path": None,
            "label": None,
        }
        with tripleweb.connect("my-app", **place) as other:
            live = other.live(NAMES)
            assert live.df.empty
            db.insert("user", name="Ada")
            assert live.wait(10, until=lambda df: df["name"].tolist() == ["Ada"]) is live
            assert other.status.server == db.status.server == server.url
            files = {store._session.replica.path for store in (db, other)}
            assert len(files) == 2 and all(Path(file).is_relative_to(tmp_path) for file in files)


def test_a_full_copy(connect: Connect) -> None:
    """`"all"` keeps a full copy of the app."""
    one = connect()
    one.insert_frame("row", pd.DataFrame({"n": range(100)}))
    level(one)
    other = connect(replicate="all")
    online(other)
    other.go_offline()
    assert other.q("[:find (count ?r) . :where [?r :row/n]]", strict=True) == 100


def test_a_label(server: WebServer, connect: Connect) -> None:
    """`label=` is shown beside it, marked as self-chosen."""
    db = connect(label="Ada's <laptop>")
    online(db)
    assert db.status.user == "ada"
    page = User(server, token=server.token).get("/tripleweb").body.decode()
    assert "calls itself “Ada&#x27;s &lt;laptop&gt;”" in page and "ada" in page


def test_writes_are_here_at_once(connect: Connect, server: WebServer) -> None:
    """Writes are local, immediate, atomic."""
    db = connect(schema=SCHEMA)
    online(db)
    db.go_offline()
    ada = db.insert("user", name="Ada")
    assert db.get("user", ada)["name"] == "Ada" and db.q(NAMES)["name"].tolist() == ["Ada"]
    assert db.status.pending == 1
    with pytest.raises(SchemaError):
        db.insert_frame("user", pd.DataFrame({"name": ["Bob", "Cyd"], "age": [1, "two"]}))
    with pytest.raises(SchemaError):
        db.update("user", ada, age=36, active="yes")
    assert db.get("user", ada)["age"] is None and len(db.q(NAMES)) == 1 and db.status.pending == 1


def test_insert(blog: Database) -> None:
    """`insert` returns the id; an existing id= merges; at least one field."""
    ada = blog.insert("user", name="Ada")
    assert blog.insert("user", id=ada, age=36) == ada
    assert blog.get("user", ada) == {
        "id": ada, "name": "Ada", "age": 36, "active": True, "joined": None, "manager": None
    }  # fmt: skip
    bare = tripleweb.open()
    with pytest.raises(ValueError, match="at least one field"):
        bare.insert("user", id="x")
    with pytest.raises(SchemaError, match="at least one field"):
        bare.insert("user", name=None)
    assert bare.kinds() == []


def test_a_delete_wins(connect: Connect) -> None:
    """`db.delete(ada)`: every kind of it; wins over every concurrent update, for ever."""
    one, other = connect(), connect()
    one.insert("user", id="x", name="X")
    one.insert("post", id="x", title="P")
    level(one, other)
    for db in (one, other):
        db.go_offline()
    one.delete("x")
    later(other)
    other.update("user", "x", name="later")
    other.set("x", "new/kind", 1)
    for db in (one, other):
        db.go_online()
        online(db)
        db.flush(10)
    level(one, other)
    for db in (one, other):
        assert db.kinds() == [] and db.get("user", "x") is None
        with pytest.raises(DeletedError):
            db.insert("user", id="x", name="again")
    lost = other.receipts().tail(2)
    assert lost["outcome"].tolist() == ["superseded"] * 2 and lost["reason"].tolist() == ["deleted"] * 2


def test_what_is_there(blog: Database) -> None:
    """`db.kinds(); db.fields("post"); db.frame("post")`: what is there, without a query."""
    ada = blog.insert("user", name="Ada", age=36)
    blog.insert("post", id="p", title="P", author=ada, tags=["t1"])
    assert blog.kinds() == ["post", "user"]
    assert blog.fields("post") == ["author", "tags", "title"] and blog.fields("tag") == []
    frame = blog.frame("post")
    assert frame.to_dict("records") == [{"id": "p", "title": "P", "author": ada, "tags": ["t1"], "likes": 0}]


def test_what_insert_demands(blog: Database) -> None:
    """`insert` and `insert_frame` demand them …; `update`, `add` and `set` never do; removing one raises
    `SchemaError`."""
    with pytest.raises(SchemaError, match="required"):
        blog.insert("post", title="P")
    with pytest.raises(SchemaError, match=r"row 1.*required"):
        blog.insert_frame("user", pd.DataFrame({"name": ["Ada", None]}))
    blog.update("post", "p", title="P")
    blog.add("post", "q", tags="t1")
    blog.set("r", "post/title", "R")
    assert set(blog.frame("post")["id"]) == {"p", "q", "r"}
    for remove in (
        lambda: blog.update("post", "p", title=None),
        lambda: blog.unset("p", "post/title"),
        lambda: blog.set("p", "post/title", None),
    ):
        with pytest.raises(SchemaError, match="required"):
            remove()


def test_key_columns_as_they_are_stored(db: Database) -> None:
    """Integers in decimal, dates as stored; `None` makes nano ids."""
    frame = pd.DataFrame(
        {
            "n": np.array([7, -(2**62)], dtype="int64"),
            "d": pd.to_datetime(["2013-01-01T05:00:00Z", "2013-06-01T04:00:00.5Z"], format="ISO8601"),
            "s": ["é", "x y"],
        }
    )
    assert db.insert_frame("r", frame, id="n") == ["7", str(-(2**62))]
    assert db.insert_frame("r", frame, id=["s", "d"], prefix="p:") == [
        "p:é/2013-01-01T05:00:00.000000Z", "p:x y/2013-06-01T04:00:00.500000Z"
    ]  # fmt: skip
    assert db.insert_frame("r", frame.astype({"n": "Int64"}), id="n", prefix="q") == ["q7", f"q{-(2**62)}"]
    made = db.insert_frame("r", frame)
    assert len(set(made)) == 2 and all(len(name) == 21 for name in made)
    assert db.get("r", made[1])["s"] == "x y"


def test_bulk(blog: Database) -> None:
    """`ids = db.insert_frame("user", df, id="email")  # bulk`."""
    df = pd.DataFrame({"email": ["a@x", "b@x"], "name": ["Ada", "Bob"], "age": [36, np.nan]})
    ids = blog.insert_frame("user", df, id="email")
    assert ids == ["a@x", "b@x"] and blog.fields("user") == ["active", "age", "name"]
    assert [blog.get("user", id)["age"] for id in ids] == [36, None]
    for wrong in (df.assign(email=["a@x", None]), df.assign(email=["c@x", "c@x"]), df.drop(columns="email")):
        with pytest.raises(ValueError, match=r"key|column"):
            blog.insert_frame("user", wrong, id="email")
    assert len(blog.frame("user")) == 2


def test_single_triples(db: Database) -> None:
    """`db.set("abc", "user/name", "Ada"); db.unset("abc", "user/name")  # single triples`."""
    db.set("abc", "user/name", "Ada")
    assert db.get("user", "abc") == {"id": "abc", "name": "Ada"}
    db.unset("abc", "user/name")
    assert db.get("user", "abc") is None and db.kinds() == []


def test_references_read_back(blog: Database) -> None:
    """References read back as `tripleweb.Ref`, which is a `str`."""
    blog.insert("post", id="p", title="P", author="ada", tags=["t2", "t1"])
    got = blog.get("post", "p")
    assert [type(got["author"]), *map(type, got["tags"])] == [Ref, Ref, Ref] and isinstance(
        got["author"], str
    )
    assert (got["author"], got["tags"]) == ("ada", ["t1", "t2"]) and f"{got['author']}" == "ada"
    assert type(blog.q("[:find ?a . :where [_ :post/author ?a]]")) is str
