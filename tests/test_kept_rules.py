"""Rules that a store keeps: `db.rules`."""

from __future__ import annotations

import asyncio

import pytest

import tripleweb
from tripleweb import t
from tripleweb.datalog.rulebook import Rulebook
from tripleweb.errors import QueryError

ADULT = "[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]"
ABOVE = """[[(above ?a ?b) [?a :user/manager ?b]]
            [(above ?a ?b) [?a :user/manager ?m] (above ?m ?b)]]"""
SCHEMA = tripleweb.schema(user={"age": t.number(), "manager": t.ref("user", optional=True)})


@pytest.fixture(params=["open", "schema"])
def db(request: pytest.FixtureRequest) -> tripleweb.Database:
    db = tripleweb.open(schema=SCHEMA if request.param == "schema" else None)
    for id, age, manager in (("ada", 36, "bob"), ("bob", 17, "cy"), ("cy", 50, None)):
        db.insert("user", id=id, age=age, **({"manager": tripleweb.Ref(manager)} if manager else {}))
    return db


def adults(db: tripleweb.Database, *inputs: object, ins: str = "") -> list[str]:
    return sorted(db.q(f"[:find ?u {ins} :where (adult ?u)]", *inputs)["u"])


def test_every_way_of_asking_knows_them(db: tripleweb.Database) -> None:
    db.rules(ADULT)
    assert adults(db) == ["ada", "cy"]
    assert sorted(asyncio.run(db.aq("[:find ?u :where (adult ?u)]"))["u"]) == ["ada", "cy"]
    live = db.live("[:find ?u :where (adult ?u)]")
    assert sorted(live.df["u"]) == ["ada", "cy"]
    db.update("user", "bob", age=18)
    assert sorted(live.df["u"]) == ["ada", "bob", "cy"]
    live.close()


def test_recursive_ones(db: tripleweb.Database) -> None:
    db.rules(ABOVE)
    assert sorted(db.q('[:find ?b :where (above "ada" ?b)]')["b"]) == ["bob", "cy"]
    live = db.live('[:find ?b :where (above "ada" ?b)]')
    assert len(live) == 2
    db.unset("bob", "user/manager")
    assert live.df["b"].tolist() == ["bob"]
    live.close()


def test_the_same_name_replaces_all_bodies(db: tripleweb.Database) -> None:
    db.rules(ABOVE)
    db.rules(ADULT)
    before = adults(db)
    db.rules("[(adult ?u) [?u :user/age ?a] [(>= ?a 40)]] [(adult ?u) [?u :user/age 17]]")
    assert (before, adults(db)) == (["ada", "cy"], ["bob", "cy"])
    assert db.rules().names == ["above", "adult"]
    assert str(db.rules()).splitlines() == [
        "[(above ?a ?b) [?a :user/manager ?b]]",
        "[(above ?a ?b) [?a :user/manager ?m] (above ?m ?b)]",
        "[(adult ?u) [?u :user/age ?a] [(>= ?a 40)]]",
        "[(adult ?u) [?u :user/age 17]]",
    ]
    assert repr(db.rules()) == str(db.rules())
    again = tripleweb.open()
    again.rules(str(db.rules()))
    assert str(again.rules()) == str(db.rules())


def test_beside_rules_of_the_query(db: tripleweb.Database) -> None:
    db.rules(ADULT)
    own = "[(old ?u) [?u :user/age ?a] [(> ?a 40)]]"
    assert db.q("[:find [?u ...] :in $ % :where (adult ?u) (old ?u)]", own).tolist() == ["cy"]
    assert adults(db, "[(adult ?u) [?u :user/age 17]]", ins=":in $ %") == ["bob"], "its own come first"
    assert adults(db) == ["ada", "cy"], "and only there"
    assert adults(db, ins=":in $ %") == ["ada", "cy"], "% need not be given where rules are kept"
    assert adults(db, "ada", ins=":in $ % ?u") == ["ada"]


def test_live_queries_of_the_same_text_and_other_rules_differ(db: tripleweb.Database) -> None:
    db.rules(ADULT)
    first = db.live("[:find ?u :where (adult ?u)]")
    db.rules("[(adult ?u) [?u :user/age 17]]")
    second = db.live("[:find ?u :where (adult ?u)]")
    assert (sorted(first.df["u"]), sorted(second.df["u"])) == (["ada", "cy"], ["bob"])
    first.close()
    second.close()


def test_what_is_no_rule_changes_nothing(db: tripleweb.Database) -> None:
    db.rules(ADULT)
    for wrong, line in (
        ("[(adult ?u)]", 1),
        ("[(a ?x) [?x :b]]\n[(adult ?u) [?u", 2),
        ("[(not ?u) [?u :a]]", 1),
    ):
        with pytest.raises(QueryError) as error:
            db.rules(wrong)
        assert error.value.line == line
    assert str(db.rules()) == ADULT
    with pytest.raises(QueryError, match="unknown rule adlut; did you mean adult"):
        db.q("[:find ?u :where (adlut ?u)]")
    with pytest.raises(QueryError):
        tripleweb.open().q("[:find ?u :in $ % :where [?u :a]]")


def test_the_schema_holds_within_them() -> None:
    """What does not fit reads as missing, also where only a kept rule reads it."""
    db = tripleweb.open(schema=SCHEMA)
    db.insert("user", id="ada", age=36)
    plain = tripleweb.Database(db._session)
    plain._finalizer.detach()
    plain.set("bob", "user/age", "forty")
    rule = "[(aged ?u) [?u :user/age _]]"
    db.rules(rule)
    plain.rules(rule)
    query = "[:find [?u ...] :where (aged ?u)]"
    assert db.q(query).tolist() == ["ada"]
    assert sorted(plain.q(query)) == ["ada", "bob"]


def test_a_rulebook_is_a_value() -> None:
    book = Rulebook().having(ADULT)
    more = book.having(ABOVE)
    assert (book.names, more.names, len(more)) == (["adult"], ["above", "adult"], 2)
