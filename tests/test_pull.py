"""`pull`: patterns, what they give, what they cost, and pulled values that are kept up to date.

DataScript answers the same patterns on the same databases (`tests/datascript`); every failure names its seed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.datalog_source import Triples
from tests.pull_generator import ENTITIES, KINDS, MANY, PREDICATES, REFERENCES, Maker, Triple
from tests.test_datascript import ask, datascript, to_entity
from tests.test_datascript import plain as atom
from tripleweb import t
from tripleweb.datalog.builtins import SLICE
from tripleweb.datalog.evaluate import Budget, run, steps
from tripleweb.datalog.live import LiveQuery, Rows
from tripleweb.datalog.pull import DEPTH_MAX, StandingPull, frozen, mapped
from tripleweb.datalog.pullpattern import parse_pull
from tripleweb.datalog.query import Query, parse
from tripleweb.errors import BudgetError, QueryError
from tripleweb.inquiry import plain as as_json
from tripleweb.store import Delta
from tripleweb.sync.display import Display, cell_to_wire
from tripleweb.sync.messages import Subscription
from tripleweb.sync.server import Limits
from tripleweb.terms import Ref, Value
from tripleweb.view import Fitting

PEOPLE: list[Triple] = [
    ("ada", "user/name", "Ada"),
    ("ada", "user/manager", Ref("bob")),
    ("ada", "user/age", 36),
    ("bob", "user/name", "Bob"),
    ("bob", "user/manager", Ref("cy")),
    ("cy", "user/name", "Cy"),
    ("p1", "post/title", "One"),
    ("p1", "post/author", Ref("ada")),
    ("p1", "post/tags", Ref("t1")),
    ("p1", "post/tags", Ref("t2")),
    ("p2", "post/title", "Two"),
    ("p2", "post/author", Ref("ada")),
    ("t1", "tag/label", "python"),
    ("t2", "tag/label", "data"),
]


def pulled(pattern: str, root: str = "ada", triples: list[Triple] | None = None) -> Any:
    source = Triples(PEOPLE if triples is None else triples)
    return run(f"[:find (pull ?e {pattern}) . :in ?e]", [root], source).rows[0][0]


# -- what comes out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "pattern", "expected"),
    [
        ("ada", "[:user/name :user/age]", {"user/name": "Ada", "user/age": 36}),
        ("ada", '["user/name"]', {"user/name": "Ada"}),
        ("ada", "[:db/id :user/name :nothing/here]", {"id": "ada", "user/name": "Ada"}),
        ("ada", "[:id]", {"id": "ada"}),
        ("ada", "[:nothing/here]", None),
        ("ada", "[:user/manager]", {"user/manager": "bob"}),
        ("ada", "[{:user/manager [:user/name]}]", {"user/manager": {"user/name": "Bob"}}),
        ("ada", "[{:user/manager [:nothing/here]}]", None),
        ("ada", "[{:user/manager [:db/id]}]", {"user/manager": {"id": "bob"}}),
        ("ada", "[:post/_author]", {"post/_author": ["p1", "p2"]}),
        ("bob", "[:user/_manager]", {"user/_manager": ["ada"]}),
        (
            "ada",
            "[{:post/_author [:post/title]}]",
            {"post/_author": [{"post/title": "One"}, {"post/title": "Two"}]},
        ),
        ("p1", "[:post/tags]", {"post/tags": ["t1", "t2"]}),
        ("p1", "[{:post/tags [:tag/label]}]", {"post/tags": [{"tag/label": "python"}, {"tag/label": "data"}]}),
        ("p1", "[{(limit :post/tags 1) [:tag/label]}]", {"post/tags": [{"tag/label": "python"}]}),
        ("p1", "[[:post/tags :limit 1]]", {"post/tags": ["t1"]}),
        ("p1", '[["limit" :post/tags 1]]', {"post/tags": ["t1"]}),
        ("p1", "[[:post/tags :as :tags :limit 1]]", {"tags": ["t1"]}),
        ("p1", '[(:post/title :as "Title")]', {"Title": "One"}),
        ("p1", '[[:post/x :default "none"]]', {"post/x": "none"}),
        ("p1", '[(default :post/x false)]', {"post/x": False}),
        ("p1", '[[:post/x :default [1 ["a" true]]]]', {"post/x": [1, ["a", True]]}),
        ("p1", '[[:post/_x :default 1 :as y]]', {"y": 1}),
        ("p1", '[[:post/x :default nil]]', None),
        (
            "ada",
            "[:user/name {:user/manager ...}]",
            {"user/name": "Ada", "user/manager": {"user/name": "Bob", "user/manager": {"user/name": "Cy"}}},
        ),
        (
            "ada",
            "[:user/name {:user/manager 1}]",
            {"user/name": "Ada", "user/manager": {"user/name": "Bob"}},
        ),
        ("t1", "[*]", {"id": "t1", "tag/label": "python"}),
        ("t1", "[:tag/label *]", {"tag/label": "python", "id": "t1"}),
        ("t1", "[* [:tag/label :as label]]", {"id": "t1", "label": "python"}),
        ("nobody", "[*]", {"id": "nobody"}),
        ("nobody", "[:user/name]", None),
    ],
)  # fmt: skip
def test_what_is_pulled(root: str, pattern: str, expected: Any) -> None:
    found = pulled(pattern, root)
    assert found == expected
    assert list(found or ()) == list(expected or ()), "in the order of the pattern"


def test_all_values_stay_what_they_are() -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    values: list[Value] = [True, 1, 1.5, moment, "x"]
    found = pulled("[:k/v]", "a", [("a", "k/v", value) for value in reversed(values)])["k/v"]
    assert found == [True, 1, 1.5, moment, "x"], "sorted by kind"
    assert list(map(type, found)) == [bool, int, float, datetime, str]
    assert type(pulled("[:k/v]", "a", [("a", "k/v", Ref("b"))])["k/v"]) is str


def test_a_text_leads_on_like_a_reference() -> None:
    triples: list[Triple] = [("a", "to", "b"), ("a", "to", Ref("b")), ("a", "to", 7), ("b", "name", "B")]
    assert pulled("[{:to [:name]}]", "a", triples) == {"to": [{"name": "B"}]}
    assert pulled("[{:_to [:db/id]}]", "b", triples) == {"_to": [{"id": "a"}]}


def test_a_circle_ends_where_it_was_met() -> None:
    triples: list[Triple] = [("a", "to", Ref("b")), ("b", "to", Ref("a")), ("a", "name", "A")]
    again = {"to": {"name": "A", "to": {"id": "b"}}}
    assert pulled("[:name {:to ...}]", "a", triples) == {"name": "A", "to": again}
    assert pulled("[:name {:to ...}]", "a", [("a", "to", Ref("a"))]) == {"to": {"to": {"id": "a"}}}


def test_a_thousand_values_unless_one_says_otherwise() -> None:
    triples: list[Triple] = [("a", "n", n) for n in range(1_500)]
    for pattern, count in (
        ("[:n]", 1_000),
        ("[*]", 1_000),
        ("[[:n :limit nil]]", 1_500),
        ("[(limit :n 1200)]", 1_200),
    ):
        assert pulled(pattern, "a", triples)["n"] == list(range(count))


def test_a_limit_counts_what_is_there() -> None:
    triples: list[Triple] = [("a", "to", Ref(f"b{n}")) for n in range(5)] + [("b3", "n", 1), ("b4", "n", 2)]
    assert pulled("[{(limit :to 1) [:n]}]", "a", triples) == {"to": [{"n": 1}]}


# -- in a query -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "columns", "rows"),
    [
        ("(pull ?u [:user/name])", ("u",), [({"user/name": "Ada"},), ({"user/name": "Bob"},), ({"user/name": "Cy"},)]),
        ("?u (pull ?u [:user/age])", ("u", "u_2"), [("ada", {"user/age": 36}), ("bob", None), ("cy", None)]),
        ("[(pull ?u [:user/age]) ...]", ("u",), [({"user/age": 36},), (None,), (None,)]),
        ("[(pull ?u [:user/age]) ?u]", ("u", "u_2"), [({"user/age": 36}, "ada")]),
        ("(pull ?u [:user/age]) .", ("u",), [({"user/age": 36},)]),
        ("(pull $ ?u [:user/age]) .", ("u",), [({"user/age": 36},)]),
        ("(pull ?u [:user/age]) (count ?name)", ("u", "count_name"), [({"user/age": 36}, 1), (None, 1), (None, 1)]),
    ],
)  # fmt: skip
def test_in_every_shape(find: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    result = run(f"[:find {find} :where [?u :user/name ?name]]", [], Triples(PEOPLE))
    assert result.columns == columns
    assert sorted(result.rows, key=repr) == sorted(rows, key=repr)


def test_order_and_limit_go_by_the_id() -> None:
    query = "[:find (pull ?u [:user/name]) :where [?u :user/name] :order-by [u :desc] :limit 2]"
    result = run(query, [], Triples(PEOPLE))
    assert result.rows == [({"user/name": "Cy"},), ({"user/name": "Bob"},)]


def test_a_pattern_can_come_as_an_input() -> None:
    query = "[:find (pull ?u ?pattern) . :in ?u ?pattern]"
    assert run(query, ["ada", "[:user/age]"], Triples(PEOPLE)).rows == [({"user/age": 36},)]
    assert parse(query).predicates is None
    for wrong, said in ((7, "no pattern"), ("[:a", "not closed")):
        with pytest.raises(QueryError, match=said):
            run(query, ["ada", wrong], Triples(PEOPLE))
    with pytest.raises(QueryError, match=r"\?p is not an input"):
        parse("[:find (pull ?u ?p) :where [?u :a ?p]]")


def test_what_is_no_id_has_nothing() -> None:
    assert run("[:find (pull ?n [*]) :where [_ :user/age ?n]]", [], Triples(PEOPLE)).rows == [(None,)]


def test_every_cell_is_its_owners() -> None:
    query = "[:find ?a (pull ?u [* [:x :default [1]]]) :in $ [?a ...] :where [?u :user/age]]"
    rows = run(query, [["x", "y"]], Triples(PEOPLE)).rows
    rows[0][1]["x"].append(2)
    rows[0][1]["more"] = 1
    assert rows[1][1]["x"] == [1]
    assert "more" not in rows[1][1]
    assert "more" not in run(query, [["x", "y"]], Triples(PEOPLE)).rows[0][1]


def test_what_a_query_with_a_pull_reads() -> None:
    def reads(pattern: str) -> frozenset[str] | None:
        return parse(f"[:find (pull ?u {pattern}) :where [?u :user/name]]").predicates

    assert reads("[:user/age {:user/manager [:db/id :post/_author]}]") == {
        "user/name", "user/age", "user/manager", "post/author",
    }  # fmt: skip
    assert reads("[{:user/manager [*]}]") is None
    got = parse("[:find (get ?p :post/author :user/name) :where [?p :post/title]]")
    assert got.predicates == {"post/title", "post/author", "user/name"}


# -- patterns that cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "place", "said"),
    [
        (":a", 1, "not a pattern to pull"),
        ("{:a [:b]}", 1, "not a pattern to pull"),
        ("[]", 1, "pulls nothing"),
        ("[:a 7]", 5, "not an attribute"),
        ("[:a nil]", 5, "not an attribute"),
        ("[:a foo]", 5, "not an attribute"),
        ("[[]]", 2, "not an attribute"),
        ("[[7 :as :x]]", 3, "not an attribute"),
        ("[{}]", 2, "empty map"),
        ("[{:a 0}]", 6, "recursion of no depth"),
        ("[{:a -1}]", 6, "recursion of no depth"),
        ("[{:a 1.5}]", 6, "recursion of no depth"),
        ("[{:a foo}]", 6, "neither a pattern nor a recursion"),
        ("[{:a :b}]", 6, "neither a pattern nor a recursion"),
        ("[{:a []}]", 6, "pulls nothing"),
        ("[{:db/id [:a]}]", 3, "an id has no attributes"),
        ("[{{:a 1} [:a]}]", 3, "not an attribute"),
        ("[[:a :as]]", 2, "an option without its value"),
        ("[[:a :as 7]]", 10, "not a key"),
        ("[[:a :foo 7]]", 6, "not an option"),
        ("[[:a as 7]]", 6, "not an option"),
        ("[[:a :xform inc]]", 6, "functions are not pulled through"),
        ("[[:a :limit 0]]", 13, "not a limit"),
        ("[[:a :limit x]]", 13, "not a limit"),
        ("[(limit :a -1)]", 12, "not a limit"),
        ("[(limit [:a] 1)]", 9, "not an attribute"),
        ("[(limit :a)]", 3, "not an attribute"),
        ("[[:db/id :limit 3]]", 10, "neither limit nor default"),
        ("[[:a :default :b]]", 15, "not a default"),
        ("[[:a :default {:b 1}]]", 15, "not a default"),
    ],
)  # fmt: skip
def test_malformed_patterns(pattern: str, place: int, said: str) -> None:
    with pytest.raises(QueryError, match=said) as error:
        parse_pull(pattern)
    assert (error.value.line, error.value.column) == (1, place)
    assert error.value.form and error.value.expected
    with pytest.raises(QueryError) as within:
        parse(f"[:find (pull ?x {pattern}) :in ?x]")
    assert within.value.column == place + len("[:find (pull ?x ")


@pytest.mark.parametrize("wrong", ["(pull ?x)", "(pull ?x [:a] [:b])", '(pull "x" [:a])', "(pull [:a] ?x)"])
def test_malformed_pulls(wrong: str) -> None:
    with pytest.raises(QueryError):
        parse(f"[:find {wrong} :in ?x]")


# -- what it costs ----------------------------------------------------------------------------------------------


def chain(length: int) -> list[Triple]:
    return [(f"n{i:04}", "to", Ref(f"n{i + 1:04}")) for i in range(length)]


def test_work_is_counted_and_comes_in_slices() -> None:
    triples: list[Triple] = [("a", "to", Ref(f"b{n}")) for n in range(3_000)] + [
        (f"b{n}", "n", n) for n in range(3_000)
    ]
    source = Triples(triples)
    index: dict[tuple[str, str], list[Value]] = {}
    for subject, predicate, value in triples:
        index.setdefault((subject, predicate), []).append(value)
    source.values = lambda subject, predicate: index.get((subject, predicate), [])  # type: ignore[method-assign]
    query = "[:find (pull ?e [{[:to :limit nil] [:n]}]) . :in ?e]"
    work = steps(query, ["a"], source)
    units = []
    while True:
        try:
            units.append(next(work))
        except StopIteration as done:
            assert len(done.value.rows[0][0]["to"]) == 3_000
            assert done.value.work >= 6_000
            break
    assert len(units) > 1
    assert max(units) <= SLICE
    with pytest.raises(BudgetError):
        run(query, ["a"], source, budget=Budget(rows=5_000))
    with pytest.raises(BudgetError):
        run(query, ["a"], source, budget=Budget(bytes=100_000))


def test_too_deep_is_an_error_with_a_place() -> None:
    with pytest.raises(BudgetError, match=f"at most {DEPTH_MAX} entities deep") as error:
        pulled("[:db/id {:to ...}]", "n0000", chain(DEPTH_MAX + 1))
    assert (error.value.line, error.value.column) == (1, 17)
    deep = pulled("[:db/id {:to ...}]", "n0000", chain(DEPTH_MAX - 1))
    assert json.loads(json.dumps(deep)) == deep
    assert frozen(deep) == frozen(mapped(deep, lambda leaf: leaf))


# -- with a schema ----------------------------------------------------------------------------------------------

SCHEMA = tripleweb.schema(
    user={
        "name": t.string(),
        "active": t.boolean(default=True),
        "manager": t.ref("user", optional=True),
        "made": t.number(default=lambda: 7),
    },
    post={
        "title": t.string(),
        "author": t.ref("user", optional=True),
        "tags": t.ref_many("tag"),
        "words": t.many(t.string(), default=["none"]),
        "likes": t.counter(),
    },
    tag={"label": t.string()},
)


@pytest.fixture
def db() -> tripleweb.Database:
    db = tripleweb.open(schema=SCHEMA)
    db.set("ada", "user/name", "Ada")
    db.set("p", "post/title", "One")
    db.set("p", "post/author", "ada")
    return db


def one(db: tripleweb.Database, root: str, pattern: str) -> Any:
    return db.q(f"[:find (pull ?e {pattern}) . :in ?e]", root)


def test_a_schema_reads_as_get_does(db: tripleweb.Database) -> None:
    assert one(db, "ada", "[:user/name :user/active :user/made]") == {"user/name": "Ada", "user/active": True}
    assert one(db, "p", "[:post/likes :post/words]") == {"post/likes": 0, "post/words": ["none"]}
    assert one(db, "p", "[{:post/author [:user/active]}]") == {"post/author": {"user/active": True}}
    assert one(db, "ada", "[:user/active]") == {"user/active": True}
    assert one(db, "ada", "[[:user/active :default false]]") == {"user/active": False}, (
        "the pattern's own default"
    )
    assert one(db, "ada", "[*]") == {"id": "ada", "user/active": True, "user/name": "Ada"}
    db.increment("post", "p", likes=2)
    db.set("p", "post/tags", {"t1"})
    db.update("user", "ada", active=False)
    assert one(db, "p", "[:post/likes :post/tags]") == {"post/likes": 2, "post/tags": ["t1"]}
    assert one(db, "ada", "[:user/active]") == {"user/active": False}


def test_a_default_does_not_make_an_entity(db: tripleweb.Database) -> None:
    assert one(db, "nobody", "[:user/active]") is None
    assert one(db, "p", "[:user/active]") is None, "it is there, but not as a user"
    db.delete("ada")
    assert one(db, "p", "[:post/title {:post/author [:user/name :user/active]}]") == {"post/title": "One"}
    assert one(db, "p", "[* :user/active]") == {
        "id": "p", "post/author": "ada", "post/likes": 0, "post/title": "One", "post/words": ["none"],
    }  # fmt: skip


def test_misfits_read_as_missing() -> None:
    plain = tripleweb.open()
    plain.set("ada", "user/name", 7)
    plain.set("ada", "user/active", "yes")
    plain.set("ada", "user/manager", {"bob", 3})
    seen = run(
        parse("[:find (pull ?e [:user/name :user/active :user/manager]) . :in ?e]").of_schema(SCHEMA),
        ["ada"],
        plain._session.store,
    )
    assert seen.rows == [(None,)]
    plain.set("ada", "user/manager", {Ref("bob"), Ref("cy"), 3})
    query = "[:find (pull ?e [:user/active :user/manager]) . :in ?e]"
    seen = run(parse(query).of_schema(SCHEMA), ["ada"], plain._session.store)
    assert seen.rows == [({"user/active": True, "user/manager": "bob"},)], "a single field has one value"
    assert run(query, ["ada"], plain._session.store).rows[0][0]["user/manager"] == [3, "bob", "cy"]


def test_the_text_says_what_a_schema_says() -> None:
    query = parse("[:find (pull ?p [:post/likes :post/words :post/tags]) :where [?p :post/title]]").of_schema(
        SCHEMA
    )
    assert query.text.endswith(
        ":kinds {:post/author reference :post/likes counter :post/tags [reference] :post/title text "
        ':post/words ([text] "none")}]'
    )
    again = parse(query.text)
    assert (again.fields, again.predicates) == (query.fields, query.predicates)
    assert again.of_schema(SCHEMA) is again
    plain = parse("[:find ?p :where [?p :post/likes]]").of_schema(SCHEMA)
    assert plain.text.endswith(":kinds {:post/likes number}]"), "nobody looks anything up"
    for wrong in (
        "[]",
        "[text text]",
        "(text 7)",
        "(text)",
        "(boolean true false)",
        "(counter 3)",
        "(text nil)",
    ):
        with pytest.raises(QueryError, match="not a"):
            parse(f"[:find ?a :where [?a :b] :kinds {{:b {wrong}}}]")
    every = ':kinds {:a (reference "x") :b ([number] 1 2.5) :c (date #inst "2020") :d (boolean false) :e (text "\\"")}'
    fields = parse(f"[:find ?a :where [?a :b] {every}]").fields
    assert fields["a"].default == Ref("x")
    assert fields["b"].default == (1, 2.5)
    made = parse("[:find (pull ?a [:a :b :c :d :e]) :in ?a]")._of_fields(fields)
    assert parse(made.text).fields == fields


# -- get --------------------------------------------------------------------------------------------------------


def test_get_misses_nothing_and_drops_nothing() -> None:
    query = "[:find ?u (get ?u :user/age) (get ?u :user/manager :user/name) :where [?u :user/name] :order-by [?u]]"
    result = run(query, [], Triples(PEOPLE))
    assert result.columns == ("u", "age", "manager.name")
    assert result.rows == [("ada", 36, "Bob"), ("bob", None, "Cy"), ("cy", None, None)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (":order-by [age]", ["b", "a", "c"]),
        (":order-by [age :desc]", ["a", "b", "c"]),
        (":order-by [(get ?u :to :age) :asc]", ["c", "a", "b"]),
        (":order-by [(get ?u :to :age) :desc ?u]", ["a", "c", "b"]),
        (":order-by [age :desc] :limit 1", ["a"]),
        (":order-by [age :desc] :offset 1 :limit 1", ["b"]),
    ],
)
def test_order_by_what_may_be_missing(order: str, expected: list[str]) -> None:
    triples: list[Triple] = [
        ("a", "there", True), ("b", "there", True), ("c", "there", True), ("a", "age", 3), ("b", "age", 1),
        ("a", "to", Ref("a")), ("c", "to", Ref("b")),
    ]  # fmt: skip
    result = run(f"[:find ?u (get ?u :age) :where [?u :there] {order}]", [], Triples(triples))
    assert [row[0] for row in result.rows] == expected
    assert all(len(row) == 2 for row in result.rows)


def test_get_through_many_is_a_list() -> None:
    find = "(get ?p :post/tags) (get ?p :post/tags :tag/label)"
    query = f"[:find {find} :where [?p :post/title] :order-by [(get ?p :post/title)]]"
    rows = run(query, [], Triples([*PEOPLE, ("p1", "post/tags", Ref("t0"))])).rows
    assert rows == [(["t0", "t1", "t2"], [None, "python", "data"]), (None, None)]
    db = tripleweb.open(schema=SCHEMA)
    for subject, predicate, value in PEOPLE:
        if predicate != "user/age":
            db.set(subject, predicate, value)
    db.unset("p1", "post/tags", "t1")
    frame = db.q(query)
    assert frame["tags"].tolist() == [["t2"], []]
    assert frame["tags.label"].tolist() == [["data"], []]


@pytest.mark.parametrize("wrong", ["(get ?u)", "(get ?u 7)", '(get "u" :a)', "(get ?x :a)"])
def test_malformed_gets(wrong: str) -> None:
    with pytest.raises(QueryError):
        parse(f"[:find {wrong} :in ?u]")
    with pytest.raises(QueryError):
        parse(f"[:find ?u :in ?u :order-by [{wrong}]]")


# -- live -------------------------------------------------------------------------------------------------------


def test_a_live_query_follows_what_it_pulls() -> None:
    source = Triples(PEOPLE)
    live = LiveQuery(
        "[:find ?u (pull ?u [:user/name {:user/manager [:user/name]}]) :where [?u :user/age]]", [], source
    )
    live.refresh()
    delta = source.change([("bob", "user/name", "Robert")], [("bob", "user/name", "Bob")])
    assert live.touched(delta)
    old = ("ada", {"user/name": "Ada", "user/manager": {"user/name": "Bob"}})
    new = ("ada", {"user/name": "Ada", "user/manager": {"user/name": "Robert"}})
    assert live.refresh() == Rows([new], [old])
    assert live.refresh() is None


def test_true_is_not_one_in_what_is_pulled() -> None:
    source = Triples([("a", "v", True)])
    live = LiveQuery("[:find (pull ?u [:v]) :where [?u :v]]", [], source)
    live.refresh()
    source.change([("a", "v", 1)], [("a", "v", True)])
    assert live.refresh() == Rows([({"v": 1},)], [({"v": True},)])


def test_frames_hold_dicts_that_are_yours(db: tripleweb.Database) -> None:
    query = "[:find (pull ?u [:user/name]) :where [?u :user/name]]"
    frame = db.q(query)
    assert frame["u"].dtype == object
    assert frame["u"].tolist() == [{"user/name": "Ada"}]
    live = db.live(query)
    live.df["u"][0]["user/name"] = "mine"
    assert live.df["u"].tolist() == [{"user/name": "Ada"}]
    db.set("ada", "user/name", "Ada L.")
    assert live.df["u"].tolist() == [{"user/name": "Ada L."}]
    assert "Ada L." in repr(live)
    live.close()


# -- on its way elsewhere ---------------------------------------------------------------------------------------


def test_what_is_pulled_travels() -> None:
    tree = {"id": "a", "at": datetime(2020, 1, 1, tzinfo=UTC), "many": [True, {"deep": 1.5}]}
    plain_tree = {"id": "a", "at": "2020-01-01T00:00:00.000000Z", "many": [True, {"deep": 1.5}]}
    assert as_json(tree) == plain_tree
    assert as_json(("x", tree)) == ["x", plain_tree]
    kind, text = cell_to_wire(tree)
    assert (kind, json.loads(text)) == ("j", plain_tree)
    display = Display(Subscription("1", "rows", "[:find ?u (pull ?u [*]) :where [?u :user/age]]"))
    source = Triples(PEOPLE)

    def frame() -> Any:
        work = display.answer(source, "epoch", 1, Limits())
        while True:
            try:
                next(work)
            except StopIteration as done:
                return done.value

    first = frame()
    assert [json.loads(row[1][1])["user/age"] for row in first.added] == [36]
    assert frame() is None, "nothing new"
    source.change([("ada", "user/age", 37)], [("ada", "user/age", 36)])
    second = frame()
    assert [json.loads(row[1][1])["user/age"] for row in (*second.removed, *second.added)] == [36, 37]


# -- kept up to date --------------------------------------------------------------------------------------------

FIELDS = parse(
    "[:find ?a :where [?a :b] :kinds {:k/n (number 5) :k/many [number] :k/s text :k/e reference :k/link [reference]}]"
).fields


def check_history(seed: int) -> int:
    """Pulls that stand, against fresh ones, after every step of a random history; how many values changed."""
    maker = Maker(seed)
    fields = FIELDS if seed % 2 else {}
    source = Triples(maker.triples())
    seen = Fitting(source, {name: field.type for name, field in fields.items()})
    pattern = parse_pull(maker.pattern())
    standing = StandingPull(pattern, source, fields)
    fresh = {root: StandingPull(pattern, source, fields).value(root) for root in ENTITIES}
    assert seen.predicates() == source.predicates()
    assert {root: standing.value(root) for root in ENTITIES} == fresh, f"seed {seed}: {pattern}"
    changes = 0
    for _ in range(12):
        held = source.all()
        gone = maker.random.sample(held, min(len(held), maker.random.choice([0, 1, 1, 4])))
        come = [maker.triple(misfits=True) for _ in range(maker.random.choice([0, 1, 1, 4]))]
        removed = source.change([], gone).removed
        added = source.change(come).added
        delta = Delta(removed, added)
        known = dict(fresh)
        fresh = {root: StandingPull(pattern, source, fields).value(root) for root in ENTITIES}
        differ = {
            root: (known[root], fresh[root])
            for root in ENTITIES
            if frozen(known[root]) != frozen(fresh[root])
        }
        changes += len(differ)
        if maker.random.random() < 0.5:
            found = standing.renew(delta.removed, delta.added)
            assert found == differ, f"seed {seed}: {pattern} after {delta}"
        else:
            affected = standing.affected(delta.removed, delta.added)
            assert set(differ) <= set(affected), f"seed {seed}: {pattern} after {delta}"
        now = {root: standing.value(root) for root in ENTITIES}
        assert list(map(frozen, now.values())) == list(map(frozen, fresh.values())), f"seed {seed}: {pattern}"
    for root in ENTITIES:
        standing.forget(root)
    assert (len(standing), standing._by_subject, standing._by_end) == (0, {}, {}), f"seed {seed}"
    return changes


def test_standing_pulls_are_fresh_pulls() -> None:
    assert sum(map(check_history, range(300))) > 1_000


@pytest.mark.long
def test_many_standing_pulls_are_fresh_pulls() -> None:
    for seed in range(1_000, 1_500):
        check_history(seed)


def test_only_what_is_affected_is_pulled_again() -> None:
    source = Triples(PEOPLE)
    standing = StandingPull("[:user/name {:user/manager [:user/name]} :post/_author]", source)
    for root in ("ada", "bob", "cy"):
        standing.value(root)

    def after(*triples: Triple) -> list[str]:
        delta = source.change(triples)
        roots = standing.affected(delta.removed, delta.added)
        for root in roots:
            standing.value(root)
        return sorted(roots)

    assert after(("bob", "user/name", "B.")) == ["ada", "bob"]
    assert after(("bob", "user/age", 3)) == [], "nobody pulls that"
    assert after(("p1", "post/title", "x")) == []
    assert after(("p3", "post/author", Ref("cy"))) == ["cy"]
    assert after(("p3", "post/author", Ref("dan"))) == [], "somebody else"
    assert after(("cy", "user/manager", Ref("dan"))) == ["bob", "cy"]
    assert after(("dan", "user/name", "Dan")) == ["cy"]


# -- against DataScript -----------------------------------------------------------------------------------------


__all__ = ["datascript"]  # the fixture


def as_case(seed: int) -> dict[str, Any]:
    maker = Maker(seed)
    triples = maker.triples()
    roots = maker.random.sample(ENTITIES, 4)
    query = f"[:find ?e (pull ?e {maker.pattern()}) :in $ [?e ...]]"
    return {"name": f"seed {seed}", "triples": triples, "query": query, "inputs": [roots]}


def theirs(case: dict[str, Any]) -> dict[str, Any]:
    triples = [[to_entity(s), p, to_entity(v)] for s, p, v in case["triples"]]
    return {
        **case,
        "triples": triples,
        "references": list(REFERENCES),
        "many": list(MANY),
        "inputs": [to_entity(case["inputs"][0])],
    }


def plain(cell: Any) -> Any:
    """Pulled values of either side in one form. DataScript's reference without a pattern is a map of its id."""
    if isinstance(cell, dict):
        held = {key: plain(value) for key, value in cell.items()}
        return held["id"] if list(held) == ["id"] else tuple(sorted(held.items()))
    return tuple(map(plain, cell)) if isinstance(cell, list) else atom(cell)


def check_same(folder: Path, cases: list[dict[str, Any]]) -> None:
    answers = ask(folder, [theirs(case) for case in cases])
    wrong, nested = [], 0
    for case in cases:
        answer = answers[case["name"]]
        if "error" in answer:
            wrong.append(f"{case['name']}: DataScript says {answer['error']}\n  {case['query']}")
            continue
        expected = Counter((atom(e), plain(value)) for e, value in answer["rows"])
        rows = run(f"{case['query'][:-1]} {KINDS}]", case["inputs"], Triples(case["triples"])).rows
        found = Counter((e, plain(value)) for e, value in rows)
        nested += '"id":1' in json.dumps(answer["rows"], separators=(",", ":"))
        if found != expected:
            wrong.append(
                f"{case['name']}: {case['query']}\n  only here {list((found - expected).elements())[:3]}\n"
                f"  only there {list((expected - found).elements())[:3]}"
            )
    assert not wrong, f"{len(wrong)} of {len(cases)} differ\n" + "\n".join(wrong[:10])
    assert nested >= len(cases) // 4, "hardly anything is pulled: this compares next to nothing"


def test_200_generated_patterns(datascript: Path) -> None:
    check_same(datascript, [as_case(seed) for seed in range(200)])


@pytest.mark.long
@pytest.mark.parametrize("start", range(10_000, 11_000, 500))
def test_1000_generated_patterns(datascript: Path, start: int) -> None:
    check_same(datascript, [as_case(seed) for seed in range(start, start + 500)])


def test_the_generator_makes_every_construct() -> None:
    text = " ".join(as_case(seed)["query"] for seed in range(200))
    for construct in ("...", "*", ":as", ":default", ":limit", "(limit", "k/_link", " 2}", ":db/id"):
        assert construct in text, construct
    assert set(PREDICATES) == set(re.findall(r"k/[a-z]+", text))
    assert isinstance(parse(as_case(0)["query"]), Query)
