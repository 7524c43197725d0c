"""From text to a checked query: shapes, columns, what a query depends on, and every complaint with its place."""

from __future__ import annotations

import random
import time

import pytest

from tests.datalog_generator import RULES_TEXT, Generator
from tests.datalog_source import Triples
from tripleweb.datalog.evaluate import Budget, run
from tripleweb.datalog.query import Pull, parse, parse_rules
from tripleweb.errors import QueryError


@pytest.mark.parametrize(
    ("find", "shape", "columns"),
    [
        ("?name ?age", "relation", ["name", "age"]),
        ("[?name ...]", "collection", ["name"]),
        ("[?name ?age]", "tuple", ["name", "age"]),
        ("?name .", "scalar", ["name"]),
        ("?first-name", "relation", ["first-name"]),
        ("(avg ?age)", "relation", ["avg_age"]),
        ("(count-distinct ?x) .", "scalar", ["count_distinct_x"]),
        ("(min 3 ?x)", "relation", ["min_3_x"]),
        ("?x (min ?n ?x)", "relation", ["x", "min_n_x"]),
        ("(aggregate ?f ?x)", "relation", ["aggregate_f_x"]),
        ("(pull ?u [:user/name])", "relation", ["u"]),
        ("?x ?x ?x", "relation", ["x", "x_2", "x_3"]),
        ("?x ?x_2 ?x", "relation", ["x", "x_2", "x_3"]),
    ],
)
def test_shapes_and_columns(find: str, shape: str, columns: list[str]) -> None:
    names = "?name ?age ?first-name ?x ?x_2 ?u"
    query = parse(f"[:find {find} :in ?n ?f {names}]")
    assert query.shape == shape
    assert list(query.columns) == columns


@pytest.mark.parametrize("key", [":keys", ":strs", ":syms"])
def test_columns_can_be_named(key: str) -> None:
    assert parse(f"[:find ?x (count ?y) {key} who many :in [[?x ?y]]]").columns == ("who", "many")


def test_a_map_is_a_query_too() -> None:
    query = parse("{:find [?x .] :in [[?x ...]] :where [[(> ?x 1)]] :limit 3 :order-by [?x :desc]}")
    listed = parse("[:find ?x . :in [?x ...] :where [(> ?x 1)] :order-by [?x :desc] :limit 3]")
    for part in ("shape", "find", "columns", "inputs", "where", "order_by", "limit"):
        assert getattr(query, part) == getattr(listed, part)


def test_order_limit_offset() -> None:
    query = parse("[:find ?n (avg ?a) :in [[?n ?a]] :order-by [avg_a :desc ?n] :limit 5 :offset 2]")
    assert (query.order_by, query.limit, query.offset) == (((1, True), (0, False)), 5, 2)
    assert parse("[:find ?n :keys who :in [?n ...] :order-by [who :asc]]").order_by == ((0, False),)


@pytest.mark.parametrize(
    ("where", "predicates"),
    [
        ('[?e :user/name ?x] [?e "user/age" 3]', {"user/name", "user/age"}),
        ("[?e :a ?x] (not [?e :b]) (or [?e :c] (and [?e :d] (not-join [?e] [?e :e])))", set("abcde")),
        ("[?e :a ?x] [(get-else $ ?e :b 1) ?y]", {"a", "b"}),
        ("[?e :a ?x] [(get-some $ ?e :b :c) [?p ?y]]", {"a", "b", "c"}),
        ("[?e :a ?x] [(missing? $ ?e :k/_b)]", {"a", "k/_b", "k/b"}),
        ("[?e ?p ?x]", None),
        ("[?e _ ?x]", None),
        ("[?e] [?e :a ?x]", None),
        ("[?e :a ?x] [(get-else $ ?e ?x 1) ?y]", None),
        ("[?e :a ?x] (up ?x ?y)", {"a", "up", "down", "other"}),
    ],
)
def test_what_a_query_depends_on(where: str, predicates: set[str] | None) -> None:
    rules = """[[(up ?a ?b) [?a :up ?b] (down ?b ?a)] [(up ?a ?b) [?a :other ?b]]
                [(down ?a ?b) [?a :down ?b]] [(down ?a ?b) (up ?b ?a)] [(unused ?a) [?a :unused]]]"""
    query = parse(f"[:find ?x :where {where}]")
    bound = query.bind_rules(rules)
    assert bound.predicates == (None if predicates is None else frozenset(predicates))
    if "(up" in where:
        assert query.predicates == frozenset("a")


def test_a_pull_is_read_with_its_query() -> None:
    query = parse("[:find (pull ?u [:user/name {:user/manager [:user/name]}]) :where [?u :user/name _]]")
    (pull,) = query.find
    assert isinstance(pull, Pull)
    assert (pull.variable.name, str(pull.pattern)) == ("?u", "[:user/name {:user/manager [:user/name]}]")
    assert query.predicates == {"user/name", "user/manager"}
    assert run(query, [], Triples()).rows == []


def test_callables_are_found_in_inputs() -> None:
    query = parse("[:find ?x :in ?f [?x ...] :where [(?f ?x)]]")
    assert query.uses_callables([len, [1]])
    assert query.uses_callables([1, [len]])
    assert not query.uses_callables([1, ["len"]])


def test_later_rules_replace_earlier_ones_by_name() -> None:
    query = parse("[:find ?x :where (r ?x)]").bind_rules(
        "[[(r ?x) [?x :a]] [(s ?x) [?x :s]]]", "[(r ?x) [?x :b]]"
    )
    assert query.predicates == frozenset("b")
    assert sorted(query.rules) == ["r", "s"]


E_OF = "[:find ?e :where [?e :a ?x] {}]"


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        # the whole
        ("find me", "me", "more text"),
        ('"text"', '"text"', "not a query"),
        ("[]", "[]", "nothing to find"),
        ("[?x]", "?x", "begins with a keyword"),
        ("[:find ?x :were [?x]]", ":were", "did you mean where"),
        ("[:find ?x :find ?x :in ?x]", ":find", "twice"),
        ("{:find ?x}", "?x", "not a vector"),
        # find
        ("[:find]", "[:find]", "nothing to find"),
        ("[:find []]", "[]", "nothing to find"),
        ("[:find 1]", "1", "cannot be found"),
        ("[:find ?x]", "[:find ?x]", "nowhere bound"),
        ("[:find (foo ?x) :in ?x]", "foo", "unknown aggregate"),
        ("[:find (medain ?x) :in ?x]", "medain", "did you mean median"),
        ("[:find (count) :in ?x]", "(count)", "aggregate of nothing"),
        ("[:find (count 1) :in ?x]", "(count 1)", "aggregate of nothing"),
        ("[:find (sum 1 ?x) :in ?x]", "(sum 1 ?x)", "does not take 1"),
        ("[:find (sample ?x) :in ?x]", "(sample ?x)", "does not take 0"),
        ("[:find (min -1 ?x) :in ?x]", "-1", "not a number of values"),
        ('[:find (min "a" ?x) :in ?x]', '"a"', "not a number of values"),
        ("[:find (min ?n ?x) :in ?x]", "(min ?n ?x)", "not an input"),
        ("[:find (aggregate ?f ?x) :in ?x :where [?f :a]]", "(aggregate ?f ?x)", "not an input"),
        ("[:find (pull ?x) :in ?x]", "(pull ?x)", "not a pull"),
        ("[:find ?x :with ?x :in ?x]", "?x", "twice"),
        ("[:find ?x :with ?y :in ?x]", "?y", "nowhere bound"),
        ("[:find ?x :keys a b :in ?x]", "[:find ?x :keys a b :in ?x]", "2 names for 1"),
        ("[:find ?x . :keys a :in ?x]", "[:find ?x . :keys a :in ?x]", "relation or a tuple"),
        ("[:find ?x :keys a :strs b :in ?x]", "[:find ?x :keys a :strs b :in ?x]", "named twice"),
        # order
        ("[:find ?x :in ?x :order-by ?x]", "?x", "not an order"),
        ("[:find ?x :in ?x :order-by []]", "[]", "not an order"),
        ("[:find ?x :in ?x ?y :order-by [?y]]", "?y", "not a column"),
        ("[:find ?x :in ?x :order-by [:asc ?x]]", ":asc", "not a direction"),
        ("[:find ?x :in ?x :order-by [?x :up]]", ":up", "not a direction"),
        ("[:find ?x :in ?x :limit -1]", "-1", "not a number"),
        ("[:find ?x :in ?x :limit ?x]", "?x", "not a number"),
        ("[:find ?x :in ?x :offset true]", "true", "not a number"),
        # in
        ("[:find ?x :in ?x ?x]", "?x", "given twice"),
        ("[:find ?x :in ?x % %]", "%", "given twice"),
        ("[:find ?x :in $ $2 ?x]", "$2", "one source"),
        ("[:find ?x :in [] ?x]", "[]", "empty binding"),
        ("[:find ?x :in x]", "x", "not a variable"),
        # patterns
        (E_OF.format("[?e :a ?x ?tx]"), "[?e :a ?x ?tx]", "transactions are not queryable"),
        (E_OF.format("[]"), "[]", "empty clause"),
        (E_OF.format("[:a :b 1]"), ":a", "a keyword is no value"),
        (E_OF.format("[1 :b ?e]"), "1", "a subject is an id"),
        (E_OF.format("[[:user/id 1] :b ?e]"), "[:user/id 1]", "look-up references"),
        (E_OF.format("[?e 1 ?x]"), "1", "not a predicate"),
        (E_OF.format("[?e :b nil]"), "nil", "nil is not a value"),
        (E_OF.format("[?e :b :c]"), ":c", 'expected "c"'),
        (E_OF.format("[?e :b c]"), "c", "not a value"),
        (E_OF.format("[$2 ?e :b]"), "$2", "one source"),
        (E_OF.format("?e"), "?e", "not a clause"),
        # calls
        (E_OF.format("[(foo ?x)]"), "foo", "unknown function"),
        (E_OF.format("[(missng? $ ?e :b)]"), "missng?", "did you mean missing?"),
        (E_OF.format("[(rand) ?y]"), "rand", "same answer everywhere"),
        (E_OF.format("[(inc) ?y]"), "(inc)", "does not take 0"),
        (E_OF.format("[(subs ?x 1 2 3) ?y]"), "(subs ?x 1 2 3)", "expected 2 to 3"),
        (E_OF.format("[(< ?x (+ 1 2))]"), "(+ 1 2)", "do not nest"),
        (E_OF.format("[(< ?x nil)]"), "nil", "nil is not a value"),
        (E_OF.format("[(< $ ?x)]"), "$", "only get-else"),
        (E_OF.format("[(get-else ?e :b 1) ?y]"), "(get-else ?e :b 1)", "reads the source"),
        (E_OF.format("[(get-else $ ?e :b nil) ?y]"), "nil", "no default"),
        (E_OF.format("[(missing? $ ?e 1)]"), "1", "not a predicate"),
        (E_OF.format("[(inc ?x) ?y ?z]"), "[(inc ?x) ?y ?z]", "too much"),
        (E_OF.format("[(inc ?x) 1]"), "1", "not a variable"),
        (E_OF.format("[()]"), "()", "not a call"),
        (E_OF.format('[(re-find "(" ?x)]'), '"("', "ends too early"),
        (E_OF.format('[(re-find #"(?=a)" ?x)]'), '#"(?=a)"', "look-arounds"),
        # not, or, rules
        (E_OF.format("(and [?e])"), "(and [?e])", "stands in (or"),
        (E_OF.format("(not)"), "(not)", "without clauses"),
        (E_OF.format("(not-join [?e])"), "(not-join [?e])", "without clauses"),
        (E_OF.format("(not-join ?e [?e])"), "(not-join ?e [?e])", "without its variables"),
        (E_OF.format("(not-join [] [?e])"), "[]", "no variables"),
        (E_OF.format("(not-join [?e ?e] [?e])"), "[?e ?e]", "repeat"),
        (E_OF.format("(not-join [?e ?y] [?e])"), "(not-join [?e ?y] [?e])", "?y is joined on but not used"),
        (E_OF.format("(or-join [?y] [?e :b] [?x])"), "(or-join [?y] [?e :b] [?x])", "?y is joined on but not used"),
        (E_OF.format("(or (and))"), "(and)", "without clauses"),
        (E_OF.format("(r)"), "(r)", "without arguments"),
        (E_OF.format("(< ?x 1)"), "(< ?x 1)", "stands in a vector"),
        (E_OF.format("(?r ?x)"), "(?r ?x)", "not a clause"),
        (E_OF.format("()"), "()", "empty clause"),
    ],
)  # fmt: skip
def test_complaints_say_where_what_and_what_else(text: str, form: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    error = caught.value
    assert said in str(error)
    assert error.form == form
    assert error.line == 1
    assert text[(error.column or 0) - 1 :].startswith(form)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1", "not a vector"),
        ("[1]", "not a rule"),
        ("[[[r ?x] [?x :a]]]", "not a rule"),
        ("[[(r ?x)]]", "without clauses"),
        ("[[(r) [?x :a]]]", "no variables"),
        ("[[(?r ?x) [?x :a]]]", "without a name"),
        ("[[(r x) [?x :a]]]", "not a variable"),
        ("[[(r $x) [?x :a]]]", "not a variable"),
        ("[[(r ?x ?x) [?x :a]]]", "repeat"),
        ("[[(not ?x) [?x :a]]]", "the language has taken"),
        ("[[(count ?x) [?x :a]]]", "the language has taken"),
        ("[[(r ?x ?y) [?x :a]]]", "?y is joined on but not used"),
        ("[[(r ?x ?y) [?x :a]] [(r ?a ?b) [?a :b]]]", "?y is joined on but not used"),
        ("[[(r ?x) [?x :a]] [(r ?x ?y) [?x :a ?y]]]", "differ in their number"),
        ("[[(r [?x] ?y) [?x :a ?y]] [(r ?x ?y) [?x :a ?y]]]", "differ in their number"),
    ],
)
def test_complaints_about_rules(text: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_rules(text)
    assert said in str(caught.value)
    assert caught.value.line == 1


RULES = """[[(needs ?n) [(> ?n 1)]] [(ok ?x) [?x :a ?n] (needs ?n)]
            [(win ?x) [?x :moves ?y] (not (win ?y))] [(twice ?x ?y) (twice ?y ?x)]]"""


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("[(> ?y 1)]", "insufficient bindings: ?y is not bound: [(> ?y 1)]"),
        ("[(+ ?y 1) ?z] [(+ ?z 1) ?y]", "insufficient bindings: ?y"),
        ("[(?f ?x)]", "insufficient bindings: ?f"),
        ("(not [?q :a ?r])", "insufficient bindings: ?q ?r"),
        ("(not-join [?q] [?q :a])", "insufficient bindings: ?q"),
        (
            "(not [?e :a ?y] (not [?e :b ?z] [(< ?z ?w)]))",
            "insufficient bindings: ?w is not bound: [(< ?z ?w)]",
        ),
        ("(or [?e :b] [(> ?y 1)])", "insufficient bindings: ?y"),
        ("(or [?e :b ?y] [?e :c])", "insufficient bindings: ?y"),
        ("(or-join [[?y]] [?y :a ?e])", "insufficient bindings: ?y"),
        ("(needs ?y)", "insufficient bindings: ?y"),
        ("(needs _)", "insufficient bindings: _"),
        ("(nobody ?e)", "unknown rule nobody"),
        ("(okk ?e)", "did you mean ok"),
        ("(or-join [?e ?z] [?e :b ?z] [?e :a])", "insufficient bindings: ?z"),
        ("(ok ?e ?x)", "ok does not take 2 arguments"),
        ("(win ?e)", "win is negated in a rule that it takes part in"),
    ],
)
def test_what_cannot_run_is_said_before_any_data_is_read(where: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        run(E_OF.format(where), [], Triples(), rules=RULES)
    assert said in str(caught.value)
    assert caught.value.line is not None
    with pytest.raises(QueryError):
        run(E_OF.format(where), [], Triples([("e", "a", 1)]), rules=RULES)


def test_what_is_found_must_be_bound_and_not_just_used() -> None:
    for text in (
        "[:find ?r :where [?e :a] (not [?e :b ?r])]",
        "[:find ?e :with ?r :where [?e :a] (not [?e :b ?r])]",
    ):
        with pytest.raises(QueryError, match=r"\?r is only used, never bound"):
            run(text, [], Triples())


def test_depth_and_size_are_bounded() -> None:
    """What recurses does so at most as deep as forms nest; what takes time with the number of clauses has few."""
    deep = "[?e :a ?x]"
    for _ in range(97):
        deep = f"(not {deep})"
    assert run(E_OF.format(deep), [], Triples([("e", "a", 1)])).rows == []
    either = "[?e :a ?x]"
    for _ in range(97):
        either = f"(or {either})"
    assert run(E_OF.format(either), [], Triples([("e", "a", 1)])).rows == [("e",)]
    with pytest.raises(QueryError, match="more than 100 deep"):
        parse(E_OF.format(f"(not {deep * 1})".replace("(not", "(not (not (not (not", 1)))
    with pytest.raises(QueryError, match="more than 500 clauses"):
        parse("[:find ?e :where " + "[?e :a]" * 501 + "]")
    chain = "".join(f"[(r{n} ?x) (r{n + 1} ?x)]" for n in range(120)) + "[(r120 ?x) [?x :a]]"
    with pytest.raises(QueryError, match="more than 100 deep"):
        run("[:find ?x :where (r0 ?x)]", [], Triples(), rules=f"[{chain}]")
    circle = (
        "".join(f"[(r{n} ?x) (r{n + 1} ?x)]" for n in range(400)) + "[(r400 ?x) [?x :a]] [(r400 ?x) (r0 ?x)]"
    )
    assert run("[:find ?x :where (r0 ?x)]", [], Triples([("e", "a", 1)]), rules=f"[{circle}]").rows == [
        ("e",)
    ]


def test_long_texts_are_parsed_in_time_that_grows_as_they_do() -> None:
    """A server parses what it is sent before any budget counts: twenty times the text must not take 400 times as
    long. A third of that leaves room for caches and a busy machine, and none for a square."""

    def seconds(count: int) -> float:
        names = " ".join(f"?x{n}" for n in range(count))
        began = time.process_time()
        assert len(parse(f"[:find {names} {'?y ' * count} :in ?y {names}]").columns) == 2 * count
        parse(f"[:find ?y :with {names} :in ?y {names}]")
        parse_rules(f"[[(r {names}) [(= {names})]]]")
        return time.process_time() - began

    assert min(seconds(24_000) for _ in range(2)) < 133 * min(seconds(1_200) for _ in range(5))


TOKENS = [
    *"()[]{}_$%.:?", "#{", "?x", "?y", ":find", ":where", ":in", ":with", ":keys", ":limit", ":offset", ":order-by",
    ":asc", "...", "not", "or", "not-join", "or-join", "and", "pull", "aggregate", "sum", "min", "count", "=", "<", "+",
    "get-else", "missing?", "ground", "re-find", "str", "range", "tuple", '"a"', '"k/n"', ":k/n", "1", "-1", "2.5",
    "nil", "true", "#inst", "#_", ";\n", '"', '"\\u12"', "\\", "1e999", "99999999999999999999", "reach",
    '#"("', "é", "\ud800",
]  # fmt: skip


def mangled(rng: random.Random) -> str:
    """Tokens in a row, or a good query with a few of them put in and some characters cut out."""
    if rng.random() < 0.4:
        text = " ".join(rng.choice(TOKENS) for _ in range(rng.randint(1, 25)))
        return f"[:find ?x :where {text}]" if rng.random() < 0.5 else text
    text = Generator(rng.randrange(1000)).case().text()
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 6))
        text = text[:start] + (rng.choice(TOKENS) if rng.random() < 0.6 else "") + text[end:]
    return text


@pytest.mark.parametrize("seed", range(8))
def test_malformed_text_raises_nothing_but_query_errors(seed: int) -> None:
    rng = random.Random(seed)
    source = Triples([("a", "k/n", 1), ("b", "k/s", "x")])
    refused = 0
    for index in range(500):
        text = mangled(rng)
        for attempt in (
            lambda: run(text, [RULES_TEXT], source, budget=Budget(rows=20_000)),
            lambda: parse_rules(text),
        ):
            try:
                attempt()
            except QueryError as error:
                refused += 1
                assert str(error), f"seed {seed}, text {index}"
            except Exception as error:
                raise AssertionError(f"seed {seed}, text {index}: {text!r}") from error
    assert refused > 500
