"""What a replica asks for: shared, named, kept, ended, refused; and how a store waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.live_host import wait_until
from tests.peers import Peer, Peers
from tests.stores import NAMES, Connect, level, online
from tripleweb import subscriptions
from tripleweb.database import Database
from tripleweb.datalog.query import parse
from tripleweb.errors import IncompleteError, QueryError, TriplewebError
from tripleweb.storage.memory import MemoryStores
from tripleweb.subscriptions import Asked, Subscriptions, key_of
from tripleweb.sync.client import APP, Update
from tripleweb.sync.messages import Described, Failed, Part, Poke, ServerFrame
from tripleweb.sync.server import Limits
from tripleweb.terms import Ref
from tripleweb.web import WebServer

AGES = "[:find ?a :in $ ?n :where [?u :user/name ?n] [?u :user/age ?a]]"
TESTED = "[:find ?n :in $ ?f :where [_ :user/name ?n] [(?f ?n)]]"
GOOD = "[[(good ?s ?f) [?s ?p ?v] [(?f ?v)]]]"
ANY = "[:find ?s :in $ ?f % :where (good ?s ?f)]"


class Kim:
    """A replica that loads what it asks for, and what it asks for, beside somebody who has everything."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.peers = Peers(limits)
        self.all = self.peers.join("all")
        for name, age in (("Ada", 36), ("Bob", 17)):
            self.all.set(name.lower(), "user/name", name)
            self.all.set(name.lower(), "user/age", age)
        self.peers.settle()
        self.peer: Peer = self.peers.client("kim").connect(whole=False)
        self.asked = Subscriptions(self.peer.core)
        self._heard = 0
        self.settle()

    def settle(self) -> None:
        self.peers.settle()
        for update in self.peer.updates[self._heard :]:
            if update.frame is not None:
                self.asked.heard(update.frame)
        self._heard = len(self.peer.updates)

    def ask(self, text: str, *inputs: Any, rules: str | None = None) -> Asked:
        asked = self.asked.ask(parse(text), inputs, rules)
        self.settle()
        return asked

    @property
    def subjects(self) -> set[str]:
        return {subject for subject, _, _ in self.peer.triples}


# -- what is one thing -------------------------------------------------------------------------------------------------


def test_equal_questions_are_one() -> None:
    kim = Kim()
    ada = kim.ask(AGES, "Ada")
    assert kim.ask(AGES, "Ada") is ada and kim.ask(AGES, "Bob") is not ada
    assert ada.is_complete and ada.is_settled and kim.subjects == {"ada", "bob"}
    assert kim.ask(TESTED, str.isupper) is kim.ask(TESTED, str.islower), "callables stay here"
    one, other = kim.ask(NAMES), kim.ask(NAMES, rules="[(named ?u) [?u :user/name]]")
    assert one is not other
    assert kim.asked.ask_predicates(["user/"]) is kim.asked.ask_predicates(["user/"])


def test_an_id_says_what_is_asked_for() -> None:
    """… in every process: a replica that is opened again finds it."""
    kim = Kim()
    inputs: list[Any] = ["Ada"]
    found = [
        kim.ask(AGES, *inputs).id,
        kim.asked.ask_predicates(["user/"]).id,
        kim.ask(ANY, str.isupper, GOOD).id,
    ]
    code = """
from tests.test_subscriptions import *
kim = Kim()
print(kim.ask(AGES, "Ada").id, kim.asked.ask_predicates(["user/"]).id, kim.ask(ANY, str.isupper, GOOD).id)
"""
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.split() == found, told.stderr
    assert found[2] == APP, "everything there is"


def test_inputs_are_equal_only_where_their_types_are() -> None:
    assert key_of((1, "a")) == key_of([1, "a"])
    for one, other in (
        (1, True),
        (1, 1.0),
        ([1], [True]),
        ("a", Ref("a")),
        ([], {}),
        ({"a": 1}, {"a": True}),
    ):
        assert key_of(one) != key_of(other)
    assert key_of({1}) is None and key_of(range(3)) == key_of(range(3)) and key_of([[{}.keys()]]) is None
    assert key_of(list(range(5_000))) is None


def test_what_cannot_be_run_is_not_asked_for() -> None:
    kim = Kim()
    with pytest.raises(QueryError):
        kim.ask(AGES)
    with pytest.raises(TypeError):
        kim.ask(AGES, object())
    assert not kim.peer.core.subscriptions


# -- how long ----------------------------------------------------------------------------------------------------------


def test_it_ends_some_minutes_after_its_last_use() -> None:
    kim = Kim()
    ada, names = kim.ask(AGES, "Ada"), kim.ask(NAMES)
    for _ in range(4):
        assert not kim.asked.tick(60)
    kim.ask(AGES, "Ada")
    assert not kim.asked.tick(60) and kim.asked.tick(60)
    kim.settle()
    assert set(kim.peer.core.subscriptions) == {ada.id}
    assert not names.is_complete and ada.is_complete
    assert ("bob", "user/name", "Bob") not in kim.peer.triples, "it is forgotten"
    assert kim.ask(NAMES).is_complete and ("bob", "user/name", "Bob") in kim.peer.triples


def test_a_machine_that_slept_has_not_used_it_up() -> None:
    kim = Kim()
    kim.ask(NAMES)
    assert not kim.asked.tick(1_000_000) and kim.peer.core.subscriptions


def test_what_is_held_does_not_end() -> None:
    """… also where it was found by another question in between."""
    kim = Kim()
    first = kim.ask(TESTED, str.isupper)
    while not kim.asked.tick(60):
        pass
    second = kim.ask(TESTED, str.islower)
    kim.asked.hold(second)
    assert kim.ask(TESTED, str.isupper) is second and first.id == second.id
    for _ in range(20):
        assert not kim.asked.tick(60)
    kim.asked.release(second)
    assert sum(kim.asked.tick(60) for _ in range(7)) == 1
    assert not kim.peer.core.subscriptions


def test_of_very_many_the_idlest_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "ASKED_MAX", 3)
    kim = Kim(Limits(subscriptions_max=5))
    held = kim.ask(NAMES)
    kim.asked.hold(held)
    used = kim.ask(AGES, "Ada")
    for number in range(20):
        kim.ask(AGES, f"nobody {number}")
        assert kim.ask(AGES, "Ada") is used
    assert held.is_complete and used.is_complete and len(kim.peer.core.subscriptions) == 3
    assert not kim.peer.of(Failed)


def test_what_was_asked_for_is_found_again() -> None:
    """By a replica that is opened again: offline it is complete, online it hears on."""
    kim = Kim()
    ada = kim.ask(AGES, "Ada")
    kim.peer.disconnect()
    kim.peer.start()
    kim.asked = Subscriptions(kim.peer.core)
    kim.asked.restore(kim.peer.disk.load().meta["asked"])
    again = kim.ask(AGES, "Ada")
    assert again is not ada and again.id == ada.id
    assert again.is_complete and not again.is_settled
    kim.all.set("ada", "user/age", 37)
    kim.peer.connect(whole=False)
    kim.settle()
    assert again.is_settled and ("ada", "user/age", 37) in kim.peer.triples
    assert [kim.asked.tick(60) for _ in range(6)][-1], "and ends as if it had been asked for now"


def test_a_replica_with_everything_is_complete() -> None:
    """A full copy that is opened to load what it is asked for, without its server."""
    kim = Kim()
    assert kim.ask(ANY, str.isupper, GOOD).id == APP
    kim.peer.disconnect()
    assert kim.ask(NAMES).is_complete


# -- what the server refuses -------------------------------------------------------------------------------------------


def test_a_refusal_is_known_and_the_next_use_asks_again() -> None:
    kim = Kim(Limits(query_units=1))
    names = kim.ask(NAMES)
    assert names.failure is not None and names.failure.code == "budget"
    assert names.is_settled and not names.is_complete
    assert not kim.peer.core.subscriptions, "nor is it said again when it connects again"
    assert kim.asked.ask(parse(NAMES), (), None) is names and not names.is_settled
    kim.settle()
    assert names.failure is not None and len(kim.peer.of(Failed)) == 2


@pytest.fixture
def strict_server() -> Any:
    with WebServer(MemoryStores(), owner="ada", core_limits=Limits(query_units=5)) as running:
        yield running


def test_a_refusal_is_said(strict_server: WebServer) -> None:
    place: Any = {"url": strict_server.url, "token": strict_server.token, "path": ":memory:"}
    with tripleweb.connect("app", replicate="all", **place) as one, tripleweb.connect("app", **place) as db:
        for number in range(20):
            one.set(f"u{number}", "user/name", f"{number}")
        level(one)
        with pytest.warns(UserWarning, match=r"not all of app is here .*lack some"):
            frame = db.q(NAMES)
        assert frame.attrs["tripleweb"]["complete"] is False
        with pytest.raises(IncompleteError, match="5 units of work"):
            db.q(NAMES, strict=True)
        live = db.live(NAMES)
        assert live.df.attrs["tripleweb"]["complete"] is False
        assert db.q("[:find ?n . :where [\"nobody\" :user/name ?n]]", strict=True) is None  # fmt: skip


# -- waiting -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stalled(connect: Connect, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A store whose server answers nothing that is asked from now on."""
    one = connect(replicate="all")
    one.set("x", "user/name", "Ada")
    level(one)
    db = connect()
    online(db)
    receive = db._session.core.receive

    def deaf(frame: ServerFrame, now_ms: int) -> Update:
        return Update() if isinstance(frame, Part | Poke | Described) else receive(frame, now_ms)

    monkeypatch.setattr(db._session.core, "receive", deaf)
    return db


def test_waiting_ends(stalled: Database) -> None:
    with pytest.warns(UserWarning, match="not all of app"):
        assert stalled.q("[:find ?a :where [_ :user/age ?a]]", timeout=0.05).empty


def test_waiting_can_be_interrupted(stalled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a load is waited for leaves the store usable."""
    session = stalled._session

    def strike() -> None:
        wait_until(lambda: session._waiting)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    for ask in (stalled.q, lambda query, timeout: len(stalled.live(query, timeout=timeout))):
        threading.Thread(target=strike).start()
        with pytest.raises(KeyboardInterrupt):
            ask(NAMES, timeout=60)
    assert not session._waiting
    monkeypatch.undo()
    stalled.go_offline()
    stalled.go_online()
    assert stalled.q(NAMES, strict=True)["name"].tolist() == ["Ada"]
    stalled.set("y", "user/name", "Bob")
    stalled.flush(10)
    assert len(stalled.live(NAMES)) == 2
    assert all(asked.holds == 1 for asked in session.subscriptions._asked.values() if asked.holds)


def test_nothing_waits_within_a_transaction(stalled: Database) -> None:
    with stalled.transaction(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stalled.set("y", "user/name", "Bob")
        assert stalled.q(NAMES, timeout=60)["name"].tolist() == ["Bob"]
        assert stalled.get("user", "y", timeout=60) == {"id": "y", "name": "Bob"}
        assert stalled.frame("user", timeout=60)["id"].tolist() == ["y"]
        assert stalled.select("user").df(timeout=60)["id"].tolist() == ["y"]
        assert stalled.kinds(timeout=60) == ["user"]
        assert len(stalled.live(NAMES, timeout=60)) == 1
        for ask in (stalled.q, stalled.explain):
            with pytest.raises(IncompleteError):
                ask(NAMES, strict=True)
    assert len(said) >= 5 and all("not all of app is here" in str(one.message) for one in said)


def test_a_closed_store_waits_for_nobody(connect: Connect) -> None:
    db = connect()
    db.q(NAMES)
    db.close()
    with pytest.warns(UserWarning, match="not all of app is here"):
        db.q("[:find ?a :where [_ :user/age ?a]]", timeout=60)
    assert db.q(NAMES, strict=True).empty
    with pytest.raises(TriplewebError, match="closed"):
        db.set("x", "user/name", "X")


def test_many_threads_wait_for_one_load(connect: Connect) -> None:
    one = connect(replicate="all")
    for number in range(100):
        one.set(f"u{number}", "user/name", f"{number}")
    level(one)
    db = connect()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(db.q(NAMES, strict=True)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [100] * 8 and len(db._session.subscriptions._asked) == 1
