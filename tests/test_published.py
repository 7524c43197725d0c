"""Queries that pages look at by a name: who gets one, what it means and for how long, who hears of being looked at."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pages import Page, Shown
from tests.peers import NOW_MS, Peer, Peers
from tripleweb.errors import QueryError
from tripleweb.sync import messages
from tripleweb.sync.limits import Limits
from tripleweb.sync.messages import Failed, Subscribe, Subscription
from tripleweb.sync.published import DAY_MS, Publications, Publish, Published, Watched
from tripleweb.sync.server import TenantCore
from tripleweb.sync.views import View

NAMES = "[:find ?n :where [_ :user/name ?n]]"
OLDER = "[:find ?n :in $ ?least :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a ?least)]]"


def publish(peer: Peer, query: str, *inputs: Any, rules: str | None = None) -> str:
    """The name that a client gets."""
    wire = [messages.input_to_wire(given) for given in inputs]
    assert peer.core.ask(Publish("v", query, wire, rules))
    peer.peers.settle()
    told = [frame for frame in peer.got if isinstance(frame, Published | Failed)][-1]
    assert isinstance(told, Published), told
    return told.view


def look(page: Page, name: str, view: str) -> None:
    page.asked[name] = Subscription(name, "rows", view=View(10), published=view)
    page.shown[name] = Shown()
    page.said.append(Subscribe(page.asked[name]))
    page.peers.settle()


def watched(peer: Peer) -> list[str]:
    return [frame.view for frame in peer.got if isinstance(frame, Watched)]


def people(peers: Peers) -> Peer:
    ada = peers.join("ada")
    for name, age in (("Ada", 36), ("Bob", 51)):
        ada.write(
            lambda tx, name=name, age=age: (tx.set(name, "user/name", name), tx.set(name, "user/age", age))
        )  # type: ignore[misc]
    peers.settle()
    return ada


def rows(page: Page, name: str = "w") -> list[Any]:
    return sorted(row[0][1] for row in page.shown[name].rows)


def test_a_page_looks_at_what_a_client_has_published() -> None:
    peers = Peers()
    ada = people(peers)
    name = publish(ada, OLDER, 40)
    assert len(name) == 21 and "Bob" not in name
    page = Page(peers).connect()
    look(page, "w", name)
    assert rows(page) == ["Bob"]
    ada.set("Ada", "user/age", 41)
    peers.settle()
    assert rows(page) == ["Ada", "Bob"]


def test_rules_travel_with_it() -> None:
    peers = Peers()
    ada = people(peers)
    name = publish(
        ada, "[:find ?n :where (old ?u) [?u :user/name ?n]]", rules="[(old ?u) [?u :user/age ?a] [(> ?a 50)]]"
    )
    page = Page(peers).connect()
    look(page, "w", name)
    assert rows(page) == ["Bob"]


def test_the_same_query_of_the_same_user_has_one_name() -> None:
    peers = Peers()
    ada, bob = people(peers), peers.join("bob")
    name = publish(ada, OLDER, 40)
    assert publish(ada, OLDER, 40) == name
    assert len({name, publish(ada, OLDER, 41), publish(ada, NAMES), publish(bob, OLDER, 40)}) == 4


def test_a_name_outlives_the_server() -> None:
    peers = Peers()
    name = publish(people(peers), NAMES)
    again = TenantCore(peers.disk.load(0), server_id="s1", random_bytes=peers.random.randbytes)
    assert again.published.by_name == peers.server.published.by_name
    assert again.published.publish(Publish("v", NAMES), "ada", NOW_MS, []) == name
    assert not again.published.changed


def test_a_name_is_told_when_it_is_durable() -> None:
    peers = Peers()
    ada = people(peers)
    ada.core.ask(Publish("v", NAMES))
    ada.up()
    assert not peers.down()
    assert peers.commit()
    peers.down()
    assert isinstance(ada.got[-1], Published)


def test_names_that_nobody_knows() -> None:
    peers = Peers()
    people(peers)
    page = Page(peers).connect()
    look(page, "w", "nobody-knows-this")
    assert (page.failed["w"].code, "any more" in page.failed["w"].message) == ("unknown", True)
    page.said.append(Subscribe(Subscription("x", "rows", published="y")))
    page.peers.settle()
    assert [frame.code for frame in page.got if isinstance(frame, Failed)] == ["unknown", "query"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Publish("v", "[:find ?n"), "line 1"),
        (Publish("v", OLDER), "inputs"),
        (Publish("v", OLDER, [["n", "x"]]), "n"),
        (Publish("v", NAMES + " " * 70_000), "64 KiB"),
    ],
)
def test_what_cannot_be_asked_has_no_name(asked: Publish, said: str) -> None:
    peers = Peers()
    ada = people(peers)
    ada.core.ask(asked)
    peers.settle()
    told = ada.got[-1]
    assert isinstance(told, Failed) and told.id == "v" and said in told.message
    assert not peers.server.published.by_name


def test_who_has_published_hears_that_a_page_looks() -> None:
    peers = Peers()
    ada, bob = people(peers), peers.join("bob")
    name, other = publish(ada, NAMES), publish(bob, NAMES)
    assert watched(ada) == watched(bob) == []
    page = Page(peers).connect()
    look(page, "w", name)
    look(page, "again", name)
    assert (watched(ada), watched(bob)) == ([name], [])
    publish(ada, NAMES)  # as after a lost connection: a page looks already
    assert watched(ada) == [name, name]
    page.drop()
    publish(ada, NAMES)
    assert watched(ada) == [name, name]
    ada.disconnect()
    page.connect()
    peers.settle()
    assert not peers.server.published._publishers.get(name)
    assert peers.server.published._publishers[other]


# -- for how long -----------------------------------------------------------------------------------------------


def publications(**bounds: int) -> Publications:
    names = iter(f"name{number}" for number in range(100))
    return Publications({}, Limits(**bounds), lambda: next(names))


def test_what_is_not_used_is_forgotten() -> None:
    known = publications(unused_ms=10 * DAY_MS)
    old, used, seen = (
        known.publish(Publish("v", NAMES, rules=f"; {n}"), "ada", NOW_MS, []) for n in range(3)
    )
    known.look(seen)
    known.find(used, NOW_MS + 9 * DAY_MS)
    known.changed.clear()
    known.tick(NOW_MS + 10 * DAY_MS)
    assert (list(known.by_name), known.changed) == ([seen, used], {old: None})
    known.look_away(seen)
    known.tick(NOW_MS + 10 * DAY_MS)
    assert list(known.by_name) == [used]


def test_of_too_many_the_one_goes_that_was_not_used_for_longest() -> None:
    known = publications(published_max=3)
    names = [known.publish(Publish("v", NAMES, rules=f"; {n}"), "ada", NOW_MS, []) for n in range(3)]
    known.find(names[0], NOW_MS + DAY_MS)
    latest = known.publish(Publish("v", NAMES), "ada", NOW_MS + DAY_MS, [])
    assert list(known.by_name) == [names[2], names[0], latest]


def test_using_one_is_noted_once_a_day() -> None:
    known = publications()
    name = known.publish(Publish("v", NAMES), "ada", NOW_MS, [])
    known.changed.clear()
    for hour in range(24):
        known.find(name, NOW_MS + hour * 3_600_000)
    assert not known.changed
    known.find(name, NOW_MS + DAY_MS)
    assert list(known.changed) == [name]


def test_what_is_wrong_leaves_nothing() -> None:
    known = publications()
    with pytest.raises(QueryError):
        known.publish(Publish("v", "[:find"), "ada", NOW_MS, [])
    assert not known.by_name and not known.changed
