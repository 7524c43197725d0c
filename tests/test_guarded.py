"""What a user does with guarded transactions: with real servers, files and threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.http_client import User, push, wait_until
from tripleweb import QueryError, TriplewebError, t
from tripleweb.database import Database
from tripleweb.pen import Block
from tripleweb.storage.memory import MemoryStores
from tripleweb.sync import guards, messages
from tripleweb.web import WebServer

FREE = "[:find ?s . :in $ ?s :where (not [?s :seat/holder])]"


def book(db: Database, who: str, seat: str = "12A") -> Block:
    with db.transaction(check=FREE, inputs=(seat,)) as tx:
        db.set(seat, "seat/holder", who)
    return tx


def holder(db: Database, seat: str = "12A") -> Any:
    found = db.get("seat", seat)
    return None if found is None else found.get("holder")


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


@pytest.fixture
def connect(server: WebServer) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def connect(**how: Any) -> Database:
        how = {"path": ":memory:", "replicate": "all", "token": server.token, **how}
        made.append(tripleweb.connect("app", url=server.url, **how))
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


def online(*dbs: Database) -> None:
    for db in dbs:
        assert db._session.wait_for(lambda db=db: db._session.core.state == "online", 30), db.status


# -- without a server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_store_of_its_own_decides_at_once(where: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tripleweb"
    db = tripleweb.open() if where == "memory" else tripleweb.open(path)
    assert book(db, "ada").wait()
    tx = book(db, "bob")
    assert not tx.wait() and tx.message == "the query of its check has no answer"
    assert holder(db) == "ada"
    with db.transaction(check=FREE, inputs=["12A"]) as tx:
        db.set("12A", "seat/holder", "kim")
        db.increment("seat", "12A", tries=1)
        db.delete("12A")
        assert db.get("seat", "12A") is None, "seen at once"
    assert not tx.wait()
    assert db.get("seat", "12A") == {"id": "12A", "holder": "ada"}
    told = db.receipts()
    assert told[["subject", "predicate", "value", "outcome", "reason"]].values.tolist()[0] == [
        "12A", "seat/holder", "bob", "rejected", "guard",
    ]  # fmt: skip
    assert set(told["outcome"]) == {"rejected"}
    with pytest.raises(tripleweb.RejectedError, match="guard"):
        db.flush(strict=True)
    if where == "file":
        db.close()
        with tripleweb.open(path) as again:
            assert holder(again) == "ada"
            assert again.receipts().equals(told), "as durable as what it is about"


def test_it_is_decided_without_what_it_writes() -> None:
    db = tripleweb.open()
    with db.transaction(check="[:find ?s . :where [?s :seat/holder]]") as tx:
        db.set("12A", "seat/holder", "ada")
        assert holder(db) == "ada"
    assert not tx.wait() and holder(db) is None


def test_undo_passes_over_what_was_refused() -> None:
    db = tripleweb.open()
    db.set("12A", "seat/holder", "ada")
    book(db, "bob")
    assert db.undo().empty and holder(db) is None
    assert book(db, "bob").wait() and holder(db) == "bob"
    assert db.undo().empty and holder(db) is None
    assert db.redo().empty and holder(db) == "bob"


def test_what_cannot_be_asked_is_said_before_anything_is_written() -> None:
    db = tripleweb.open()
    ran = []
    with pytest.raises(QueryError, match="line 1"), db.transaction(check="[:find ?s :where [?s"):
        ran.append(1)
    with pytest.raises(QueryError, match="takes 1 input"):
        db.transaction(check=FREE)
    with pytest.raises(ValueError, match="Python function"):
        db.transaction(
            check="[:find ?s . :in $ ?f :where [?s :seat/holder ?h] [(?f ?h)]]", inputs=[str.isupper]
        )
    with pytest.raises(ValueError, match="MB"):
        db.transaction(check="[:find ?s . :in $ [?s ...] :where [?s :k/v]]", inputs=[["x" * 500] * 3_000])
    with pytest.raises(ValueError, match="there is none"):
        db.transaction(inputs=["12A"])
    with pytest.raises(TypeError, match="sequence"):
        db.transaction(check=FREE, inputs="12A")
    with pytest.raises((ValueError, TypeError)):
        db.transaction(check=FREE, inputs=[float("nan")])
    assert not ran and not len(db.receipts())


def test_a_check_belongs_to_the_outermost_block() -> None:
    db = tripleweb.open()
    with db.transaction(check=FREE, inputs=["12A"]) as outer:
        with db.transaction() as inner:
            db.set("12A", "seat/holder", "ada")
        with pytest.raises(TriplewebError, match="end it first"):
            outer.wait()
    assert outer.wait() and inner.wait()
    with pytest.raises(TriplewebError, match="outermost"), db.transaction():
        db.set("x", "k/v", 1)
        with db.transaction(check=FREE, inputs=["12B"]):
            pass
    assert db.get("k", "x") is None
    assert book(db, "bob", "12B").wait(), "the next one begins anew"


def test_what_an_exception_undid_is_not_waited_for() -> None:
    db = tripleweb.open()
    for check in ({}, {"check": FREE, "inputs": ["12A"]}):
        block = db.transaction(**check)
        with pytest.raises(TriplewebError, match="not committed"):
            block.wait()
        with pytest.raises(ZeroDivisionError), block as tx:
            db.set("12A", "seat/holder", 1 / 0)
        with pytest.raises(TriplewebError, match="not committed"):
            tx.wait()
    assert holder(db) is None and not len(db.receipts())


def test_every_block_can_be_waited_for() -> None:
    db = tripleweb.open()
    with db.transaction() as tx:
        db.set("x", "k/v", 1)
    assert tx.wait()
    with db.transaction() as tx:
        pass
    assert tx.wait()
    for expected in (True, False):
        with db.transaction(check=FREE, inputs=["12A"]) as tx:
            pass
        assert tx.wait() is expected
        db.set("12A", "seat/holder", "ada")


def test_schema_and_kept_rules_are_part_of_the_question() -> None:
    seats = tripleweb.schema(seat={"holder": t.string(optional=True), "row": t.number(optional=True)})
    db = tripleweb.open(schema=seats)
    db._session.write(lambda tx: tx.set("12A", "seat/row", "twelve"))  # of another client: not a number
    with db.transaction(check="[:find ?s . :where [?s :seat/row]]") as tx:
        db.update("seat", "12A", holder="ada")
    assert not tx.wait()
    db.rules("[(taken ?s) [?s :seat/holder]]")
    for who, expected in (("ada", True), ("bob", False)):
        with db.transaction(check="[:find ?s . :in $ ?s :where (not (taken ?s))]", inputs=["12B"]) as tx:
            db.update("seat", "12B", holder=who)
        assert tx.wait() is expected


# -- with a server ----------------------------------------------------------------------------------------------


def test_committed_only_if_it_has_an_answer_at_the_server(connect: Callable[..., Database]) -> None:
    """A guarded transaction, `with db.transaction(check='[:find … ]', inputs=(…)) as tx:`, is committed only if the
    query has an answer at the server at that moment; `tx.wait(timeout=30)` returns whether it was; refused, it is
    undone here with a receipt: `rejected` (… guard …) with the value kept."""
    ann, bob = connect(), connect()
    online(ann, bob)
    bob.go_offline()
    assert book(ann, "ann").wait()
    tx = book(bob, "bob")
    with pytest.raises(TimeoutError, match="offline"):
        tx.wait(30)
    assert holder(bob) == "bob" and bob.status.pending == 1
    bob.go_online()
    assert tx.wait() is False and tx.message == "the query of its check has no answer"
    assert holder(bob) == "ann", "undone here"
    told = bob.receipts()
    assert told[["subject", "value", "outcome", "reason"]].values.tolist() == [
        ["12A", "bob", "rejected", "guard"]
    ]
    with bob.transaction() as plain:
        bob.set("x", "k/v", 1)
    assert plain.wait()


def test_schema_and_rules_travel(connect: Callable[..., Database]) -> None:
    seats = tripleweb.schema(seat={"holder": t.string(optional=True), "row": t.number(optional=True)})
    db, plain = connect(schema=seats), connect()
    plain.set("12A", "seat/row", "twelve")
    plain.flush(30)
    with db.transaction(check="[:find ?s . :where [?s :seat/row]]") as tx:
        db.update("seat", "12A", holder="ada")
    assert tx.wait() is False
    db.rules("[(taken ?s) [?s :seat/holder]]")
    for who, expected in (("ada", True), ("bob", False)):
        with db.transaction(check="[:find ?s . :in $ ?s :where (not (taken ?s))]", inputs=["12B"]) as tx:
            db.update("seat", "12B", holder=who)
        assert tx.wait() is expected, tx.message


def test_what_is_not_loaded_is_asked_at_the_server(connect: Callable[..., Database]) -> None:
    """A replica that has next to nothing: the query is the server's."""
    ann, bob = connect(), connect(replicate="queries")
    assert book(ann, "ann").wait()
    tx = book(bob, "bob")
    assert tx.wait() is False and holder(bob) == "ann"
    assert bob.undo()["reason"].tolist() == ["rejected"]
    assert holder(ann) == "ann"


def test_it_is_kept_in_the_file_with_its_check(connect: Callable[..., Database], tmp_path: Path) -> None:
    path = tmp_path / "bob.replica"
    ann, bob = connect(), connect(path=path)
    online(ann, bob)
    bob.set("x", "k/v", 1)
    bob.flush(30)
    bob.go_offline()
    book(bob, "bob")
    book(bob, "bob", "12B")
    bob.set("x", "k/v", 2)
    bob.close()
    assert book(ann, "ann").wait()
    again = connect(path=path)
    again.flush(30)
    assert holder(again) == "ann" and holder(again, "12B") == "bob"
    assert again.get("k", "x") == {"id": "x", "v": 2}
    assert again.receipts().query("outcome == 'rejected'")["value"].tolist() == ["bob"]


def test_a_long_query_holds_nobody_up(
    connect: Callable[..., Database], server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the loop: other apps are served while a guard is evaluated."""
    entered, leave = threading.Event(), threading.Event()
    run, asked = guards.Executor.run, "[:find ?s . :in $ ?s :where (not [?s :seat/holder]) [(ground 1) _]]"

    def slow(self: Any, query: Any, *rest: Any) -> Any:
        if query.text == asked:
            entered.set()
            assert leave.wait(60)
        return run(self, query, *rest)

    monkeypatch.setattr(guards.Executor, "run", slow)
    monkeypatch.setattr(guards.Guards, "_price", lambda self, query, check: 1e9)
    db = connect()
    online(db)
    with db.transaction(check=asked, inputs=["12A"]) as tx:
        db.set("12A", "seat/holder", "ada")
    try:
        assert entered.wait(30)
        other = tripleweb.connect("other", url=server.url, token=server.token, path=":memory:")
        try:
            other.set("x", "k/v", 1)
            other.flush(30)
        finally:
            other.close()
        assert tx._verdict.accepted is None
    finally:
        leave.set()
    assert tx.wait()


def test_by_one_request(server: WebServer) -> None:
    """A bulk push may have checks, too; its answer says what became of each, also when it is sent again."""
    user = User(server)
    check = {"query": FREE, "inputs": [["s", "12A"]]}
    lines = b""
    for number, (seat, more) in enumerate(
        [("12A", {"check": check}), ("12A", {"check": check}), ("1F", {})], 1
    ):
        lines += push(number, [seat, "seat/holder", "", "s", f"p{number}"], **more)
    for _ in range(2):
        told = user.post("apps/app/changes", lines).json["receipts"]
        assert [(one["outcome"], one.get("reason")) for one in told] == [
            ("applied", None),
            ("rejected", "guard"),
            ("applied", None),
        ]
    found = user.rows("app", "[:find ?s ?h :where [?s :seat/holder ?h]]")
    assert found == [["12A", "p1"], ["1F", "p3"]]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("replicate", ["all", "queries"])
def test_a_race_for_seats(seed: int, replicate: str, connect: Callable[..., Database]) -> None:
    """Of those who race for one seat exactly one wins, always; all see him, and the others were told."""
    print("seed", seed)
    people = {name: connect(replicate=replicate) for name in ("ann", "bob", "kim")}
    online(*people.values())
    seats = [f"s{i}" for i in range(12)]
    won: dict[str, list[str]] = {seat: [] for seat in seats}
    failed: list[BaseException] = []
    start = threading.Barrier(len(people))

    def race(name: str) -> None:
        rng = random.Random(f"{seed}/{name}")
        db = people[name]
        try:
            start.wait(30)
            waiting = []
            for seat in rng.sample(seats, len(seats)):
                if rng.random() < 0.2:
                    db.go_offline()
                waiting.append((seat, book(db, name, seat)))
                db.go_online()
                if rng.random() < 0.5:
                    db.set(f"note-{name}", "note/text", seat)
            for seat, tx in waiting:
                if tx.wait(60):
                    won[seat].append(name)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=race, args=(name,)) for name in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed
    assert {seat: len(names) for seat, names in won.items()} == dict.fromkeys(seats, 1)
    for name, db in people.items():
        db.flush(30)
        for seat in seats:
            wait_until(lambda db=db, seat=seat: holder(db, seat) == won[seat][0])
        told = db.receipts()
        lost = told[told["outcome"] == "rejected"]["subject"].tolist()
        assert sorted(lost) == sorted(seat for seat in seats if won[seat] != [name])


def test_releases_and_bookings(connect: Callable[..., Database]) -> None:
    """A seat goes from hand to hand: who was told that he has it is its holder until he gives it back."""
    people = [connect(), connect()]
    online(*people)
    have: list[int] = []
    lock = threading.Lock()
    failed: list[BaseException] = []

    def hands(me: int) -> None:
        db = people[me]
        try:
            deadline = time.monotonic() + 60
            for _ in range(8):
                while not book(db, f"p{me}").wait(60):
                    assert time.monotonic() < deadline
                with lock:
                    have.append(me)
                    assert len(have) == 1, have
                with lock:
                    have.remove(me)
                with db.transaction() as tx:
                    db.set("12A", "seat/holder", None)
                assert tx.wait(60)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=hands, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed


def test_nothing_is_taken_back_before_a_guard_is_decided(connect: Callable[..., Database]) -> None:
    """Else what is taken back might be what somebody else has written by then."""
    ann, bob = connect(), connect()
    online(ann, bob)
    bob.set("12A", "seat/row", 12)
    bob.flush(30)
    bob.go_offline()
    book(bob, "bob")
    bob.set("12A", "seat/row", 13)
    with pytest.raises(TriplewebError, match="not decided"):
        bob.undo()
    assert book(ann, "ann").wait()
    bob.go_online()
    bob.flush(30)
    assert bob.undo().empty, "the row"
    assert bob.undo()["reason"].tolist() == ["rejected"]
    assert bob.undo().empty
    bob.flush(30)
    ann.flush(30)
    wait_until(lambda: ann.get("seat", "12A") == {"id": "12A", "holder": "ann"})
    assert bob.get("seat", "12A") == {"id": "12A", "holder": "ann"}


def test_what_is_redone_is_asked_again(connect: Callable[..., Database]) -> None:
    """Else who undoes and redoes a booking gets a seat that somebody else has booked in between."""
    ann, bob = connect(), connect()
    online(ann, bob)
    assert book(bob, "bob").wait()
    for _ in range(2):
        assert bob.undo().empty and holder(bob) is None
        bob.flush(30)
        assert bob.redo().empty and holder(bob) == "bob"
        bob.flush(30)
    assert bob.undo().empty
    bob.flush(30)
    bob.go_offline()
    assert book(ann, "ann").wait()
    assert bob.redo().empty and holder(bob) == "bob"
    bob.go_online()
    bob.flush(30)
    wait_until(lambda: holder(bob) == "ann")
    assert holder(ann) == "ann" and bob.receipts()["reason"].tolist()[-1] == "guard"
    assert bob.undo()["reason"].tolist() == ["rejected"]


def test_an_older_server(connect: Callable[..., Database], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "FEATURES", [messages.LINEAGE, messages.WINDOW])
    db = connect()
    online(db)
    with pytest.raises(TriplewebError, match="newer version"):
        book(db, "ada")
    assert holder(db) is None
    db.go_offline()
    tx = book(db, "ada")
    assert holder(db) == "ada"
    db.go_online()
    assert tx.wait() is False and "newer version" in tx.message
    db.flush(30)
    assert holder(db) is None and db.receipts()["reason"].tolist() == ["guard"]
    db.set("12A", "seat/holder", "eve")
    db.flush(30)


@pytest.mark.parametrize("form", ["single", "removed", "member", "assigned", "same"])
def test_undo_does_not_bring_back_what_was_refused(form: str, connect: Callable[..., Database]) -> None:
    """What was written over something that was refused since was written over what the server had there."""
    ann, bob = connect(), connect()
    online(ann, bob)
    ann.set("12A", "seat/row", 12)
    ann.flush(30)
    wait_until(lambda: bob.get("seat", "12A") is not None)
    bob.go_offline()
    if form in ("single", "same"):
        ann.set("12A", "seat/holder", "ann")
        ann.flush(30)
    none = "[:find ?s . :where [?s :never/there]]"
    with bob.transaction(check=none) as tx:
        if form in ("single", "same"):
            bob.set("12A", "seat/holder", "bob")
        elif form == "removed":
            bob.set("12A", "seat/row", None)
        else:
            bob._session.write(lambda tx: tx.add("12A", "seat/tags", "mine"))
    if form == "removed":
        bob.set("12A", "seat/row", 13)
    elif form == "member":
        bob._session.write(lambda tx: tx.remove("12A", "seat/tags", "mine"))
    elif form == "assigned":
        bob.set("12A", "seat/tags", {"a", "b"})
    else:
        bob.set("12A", "seat/holder", "bob" if form == "same" else "kim")
    bob.go_online()
    assert tx.wait() is False
    bob.flush(30)
    assert bob.undo().empty
    bob.flush(30)
    expected: dict[str, Any] = {"id": "12A", "row": 12}
    if form in ("single", "same"):
        expected["holder"] = "ann"
    assert bob.get("seat", "12A") == expected
    wait_until(lambda: ann.get("seat", "12A") == expected)
