"""Partial replicas, built from nothing but what a server ships, answer every query as the server does, after every
commit of a random history; and what they hold is what they need.

A failure prints its seed; `follow(NAMES, SEED)` and `follow_mixtures(SEED)` replay it. The planted bugs at the end are
tried on the same tests: each must be noticed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.lineage_oracle import is_connected, places
from tests.live_constructs import CONSTRUCTS, SHAPES, constructs, of_one_shape
from tests.live_histories import History
from tests.live_mixtures import Mixture
from tests.partial_replicas import Server
from tripleweb.change import DELETED, Change
from tripleweb.datalog import lineage, needed, pull, recursion
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.inputs import prepare
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Delta
from tripleweb.sync.relevance import Relevance
from tripleweb.terms import Ref

MORE = """
    [:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/e "e1") ?b] [?b :k/n ?n]]
    [:find ?a :where [?a :k/s _] [(get-some $ ?a :k/e :o/e) [_ ?b]] [(missing? $ ?b :k/n)]]
    [:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/e "e1") ?b] [?b :k/m _] [(get-else $ ?b :k/n 0) ?n]]
    [:find ?a :where [?a :k/n _] (not [(get-else $ ?a :k/e "e2") ?b] (not [?b :k/link ?a]))]
    [:find (pull ?a [*]) :where [?a :k/s "a"]]
    [:find (pull ?a [:k/n {:k/e 2} :k/none]) :where [?a :k/link _]]
    [:find (pull ?a [{[:k/_link :limit 1] [:k/n {:k/e [*]}]}]) ?n :where [?a :k/n ?n] :order-by [?n] :limit 2]
    [:find (pull ?a [[:k/_e :limit 2] :k/c]) :where [?a :k/n _] (not [?a :k/s "a"]) :kinds {:k/c counter}]
    [:find (pull ?b [{:k/_link ...}]) (count ?a) :where [?a :k/e ?b]]
    [:find (pull ?b [:k/s]) :in $ % :where (reach "e1" ?b)] | [RULES]
    [:find [(pull ?a [:k/many {:k/link [:k/s]}]) ?n] :where [?a :k/n ?n] :order-by [?n :desc]]
    [:find (pull ?a [:k/many]) (get ?a :k/e :k/n) :where [?a :k/n _] :order-by [(get ?a :k/e :k/s) :desc] :limit 2]
    [:find ?a ?n :with ?m :where [?a :k/n ?n] [?a :k/many ?m] :order-by [?n :desc] :limit 2 :offset 1]
"""  # the rows of a Read that leads somewhere, trees of every kind, windows


def queries(name: str) -> list[tuple[str, list[Any]]]:
    if name != "more":
        return constructs(name)
    rules = constructs("recursion")[0][1][0]
    lines = filter(None, map(str.strip, MORE.splitlines()))
    return [(line.partition(" | ")[0], [rules] if "%" in line else []) for line in lines]


def said(delta: Delta) -> str:
    return repr(delta) if len(delta.added) + len(delta.removed) < 30 else "a large batch"


def started(seed: int, batches: int) -> tuple[Server, History]:
    server = Server()
    history = History(seed, server)  # type: ignore[arg-type]
    for _ in range(batches):
        server.commit(history.batch(8))
    return server, history


def go_on(server: Server, history: History, note: str, steps: int) -> None:
    for step in range(steps):
        delta = history.large() if step % 11 == 10 else history.batch()
        server.commit(delta)
        server.check(f"{note}, step {step}: {said(delta)}")
        if step % 7 == 6:
            server.sweep()
            server.check(f"{note}, swept at step {step}")
            for replica in server.replicas:
                check_held(server, replica.queries, note)
        if step % 9 == 8 and all(len(replica.queries) > 1 for replica in server.replicas):
            server.unsubscribe(server.replicas[step % len(server.replicas)], 0)
            server.check(f"{note}, one left at step {step}")


def check_held(server: Server, subscribed: Sequence[tuple[str, list[Any], Any]], note: str) -> None:
    """What is held after a sweep is what the oracle finds, as far as it knows."""
    for text, inputs, interest in subscribed:
        if any(map(callable, inputs)) or interest.needed is None or "pull" in text or "get" in text:
            continue
        try:
            due = places(text, inputs, server.store)
        except AssertionError:
            continue
        held = set(interest.places)
        assert due <= held, f"{note}: {text} lacks {due - held}"
        assert held == due or not is_connected(text, inputs), f"{note}: {text} holds {held - due} for nothing"


def follow(names: Sequence[str], seed: int, steps: int = 15, most: int = 12) -> Server:
    """Queries of these constructs over three replicas."""
    server, history = started(seed, seed % 3 * 4)
    rng = random.Random(seed)
    chosen = [query for name in names for query in queries(name)]
    rng.shuffle(chosen)
    replicas = [server.replica() for _ in range(3)]
    for number, (text, inputs) in enumerate(chosen[:most]):
        server.subscribe(replicas[number % 3], text, inputs)
    server.check(f"seed {seed}, at first")
    go_on(server, history, f"seed {seed}", steps)
    return server


def is_query(text: str, inputs: list[Any]) -> bool:
    """Not all mixtures are."""
    try:
        prepare(text, inputs)
    except QueryError:
        return False
    return True


def follow_mixtures(seed: int, steps: int = 12, most: int = 6) -> int:
    """Random queries over two replicas; how many could not be compiled."""
    server, history = started(seed, 2)
    replicas = [server.replica() for _ in range(2)]
    number = 0
    while sum(len(replica.queries) for replica in replicas) < most:
        text, inputs = Mixture(seed * 100 + number).query()
        number += 1
        if is_query(text, inputs):
            server.subscribe(replicas[number % 2], text, inputs)
    go_on(server, history, f"seed {seed}", steps)
    return sum(interest.needed is None for replica in replicas for _, _, interest in replica.queries)


@pytest.mark.parametrize("name", [*CONSTRUCTS, "more"])
def test_partial_replicas_answer_as_the_server_does(name: str) -> None:
    server = follow([name], 1, *((10, 6) if "recursion" in name else ()))
    exact = [i.needed is not None for replica in server.replicas for _, _, i in replica.queries]
    assert any(exact) != (name == "variable predicates"), "what is compiled is followed by place"


@pytest.mark.parametrize("seed", range(20, 22))
def test_queries_of_all_constructs_share_replicas(seed: int) -> None:
    assert follow([*CONSTRUCTS, "more"], seed, steps=12, most=20).shipped


def test_random_queries() -> None:
    assert sum(follow_mixtures(seed) for seed in range(2)) < 4


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 102))
def test_more_random_queries(seed: int) -> None:
    assert sum(follow_mixtures(seed * 10 + number) for number in range(6)) < 18
    follow([*CONSTRUCTS, "more"], seed, steps=25, most=20)


# -- who holds what, and at what cost -------------------------------------------------------------------------

POSTS = "[:find ?t ?s :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t] [?p :post/score ?s]]"
SHAPED = {
    "posts": POSTS,
    "unread": "[:find ?t :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t] (not [?p :post/read true])]",
    "pulled": "[:find (pull ?p [:post/title :post/score]) :in $ ?u :where [?p :post/author ?u]]",
    "best": "[:find ?s ?p :in $ ?u :where [?p :post/author ?u] [?p :post/score ?s] :order-by [?s :desc] :limit 2]",
}


def write(server: Server, *triples: tuple[str, str, Any]) -> None:
    server.commit(server.apply([Change(s, p, "", v, server.seq + 1, "r") for s, p, v in triples]))


def blog(users: int) -> Server:
    """A server with three posts of each user."""
    server = Server()
    for user in range(users):
        for n in range(3):
            post = f"p{user}.{n}"
            write(
                server,
                (post, "post/author", Ref(f"u{user}")),
                (post, "post/title", post),
                (post, "post/score", n),
            )
    return server


@pytest.mark.parametrize("name", SHAPED)
def test_a_replica_holds_not_one_triple_of_others(name: str) -> None:
    server = blog(5)
    mine = server.replica()
    server.subscribe(mine, SHAPED[name], ["u1"])
    write(server, ("p2.0", "post/score", 50), ("p1.0", "post/score", 60))
    write(server, ("p3.0", "post/author", Ref("u1")), ("new", "post/author", Ref("u4")))
    server.check("a post changed hands")
    write(server, ("p3.0", "post/author", Ref("u3")), ("p3.0", "post/title", "not yours"))
    server.sweep()
    server.check("and went back")
    assert {subject[:2] for subject, _, _ in mine.triples()} == {"p1"}


@pytest.mark.parametrize("name", SHAPED)
def test_a_change_costs_those_whom_it_concerns(name: str) -> None:
    """The same changes with 5 and with 100 subscriptions of one shape touch as many rows."""
    worked = []
    for users in (5, 100):
        server = blog(100)
        for user in range(users):
            server.subscribe(server.replica(), SHAPED[name], [f"u{user}"])
        before, server.replicas = server.relevance.work, server.replicas[:5]
        for n in range(20):
            write(
                server,
                (f"p{n % 5}.0", "post/score", 10 + n),
                (f"p{n % 5}.1", "post/author", Ref(f"u{n % 4}")),
            )
            write(server, (f"q{n}", "post/author", Ref(f"u{n % 5}")), (f"q{n}", "post/title", "t"))
        worked.append(server.relevance.work - before)
    few, many = worked
    assert 0 < many <= few * 1.1 or few == many == 0, f"{few} rows with few subscriptions, {many} with many"


def test_equal_subscriptions_are_one_interest_until_it_is_closed() -> None:
    server = blog(3)
    one, two = server.replica(), server.replica()
    mine = server.subscribe(one, POSTS, ["u1"])
    assert server.subscribe(two, POSTS, ["u1"]) is mine and list(mine.readers) == [one, two]
    other = server.subscribe(two, POSTS, ["u2"])
    assert list(server.relevance.holders("p1.0", "post/score")) == [mine]
    assert set(server.relevance.holders_of("p2.1")) == {other} and not list(
        server.relevance.holders_of("p0.0")
    )
    assert not list(server.relevance.holders("p0.0", "post/score"))
    everything = server.subscribe(one, "[:find ?p ?v :where [_ ?p ?v]]")
    whole = server.subscribe(one, "[:find ?a :where [?a :post/title _] [(missing? $ ?a :post/_reply)]]")
    assert everything.coarse is None and whole.coarse is not None
    assert whole.coarse >= {"post/title", "post/reply"} and not whole.places
    assert set(server.relevance.holders("p1.0", "post/title")) == {mine, everything, whole}
    assert set(server.relevance.holders("p1.0", "post/score")) == {mine, everything}
    assert set(server.relevance.holders_of("nobody")) == {everything, whole}
    assert (
        server.relevance.open(None) is server.relevance.open(None)
        and server.relevance.open(None).coarse is None
    )
    server.check("all of them")
    server.relevance.close(server.relevance.open(None))
    for replica in (one, two):
        while replica.queries:
            server.unsubscribe(replica, 0)
    relevance = server.relevance
    relevance.changed(Delta(), server.seq)
    left = (relevance._held, relevance._interests, relevance._coarse, relevance._of, relevance._predicates)
    lineages = relevance._lineages
    assert not any(left) and not any(
        (lineages._shapes, lineages._row_shapes, lineages._triggers, lineages._firsts)
    )
    assert not len(lineages.readers) and not lineages._replayed and not one.triples()


def test_what_came_in_since_a_commit() -> None:
    server = blog(2)
    mine = server.subscribe(server.replica(), POSTS, ["u1"])
    before = server.seq
    write(server, ("x", "post/author", Ref("u1")), ("x", "post/title", "X"), ("x", "post/score", 1))
    assert {subject for subject, _ in mine.since(before)} == {"x"} and len(list(mine.since(before - 1))) == 12
    assert not list(mine.since(server.seq))


def test_what_falls_out_of_need_stays_until_a_sweep() -> None:
    server = blog(40)
    mine = server.subscribe(server.replica(), POSTS, ["u1"])
    for user in range(2, 40):
        write(server, (f"p{user}.0", "post/author", Ref("u1")))
        write(server, (f"p{user}.0", "post/author", Ref("u2")), (f"p{user}.0", "post/title", "elsewhere"))
    assert len(mine.places) == 9 + 38 * 3 and server.relevance.is_stale(mine)
    server.check("it is held, and current")
    server.sweep()
    assert len(mine.places) == 9 and not server.relevance.is_stale(mine)
    server.check("and is not there any more")


def test_an_interest_hears_of_commits_before_it_is_loaded() -> None:
    server = blog(2)
    interest = server.relevance.open(POSTS, ["u1"])
    assert not interest.is_loaded and not interest.places and server.relevance.expected_rows(interest) > 0
    write(server, ("x", "post/author", Ref("u1")), ("x", "post/title", "X"), ("x", "post/score", 1))
    assert {subject for subject, _ in interest.places} == {"x"}
    server.relevance.load(interest, server.seq)
    assert interest.is_loaded and len(interest.places) == 12


def test_windows_of_one_shape_are_followed_whenever_they_are_loaded() -> None:
    server = blog(4)
    interests = [server.relevance.open(SHAPED["best"], [f"u{user}"]) for user in range(4)]
    for interest in reversed(interests):
        server.relevance.load(interest, server.seq)
    assert len(server.relevance._lineages._row_shapes) == 1
    delta = server.apply([Change(f"p{user}.0", "post/score", "", 70, 1000, "r") for user in range(4)])
    found = server.relevance.changed(delta, server.seq + 1)
    assert {interest: len(places) for interest, places in found.items()} == dict.fromkeys(interests, 2)


def test_a_load_beyond_its_units_can_be_tried_again() -> None:
    server = blog(30)
    interest = server.relevance.open("[:find ?t ?s :where [?p :post/title ?t] [?p :post/score ?s]]")
    with pytest.raises(BudgetError):
        server.relevance.load(interest, server.seq, 50)
    assert not interest.is_loaded
    server.relevance.load(interest, server.seq, 10_000)
    assert len(interest.places) == 180
    with pytest.raises(QueryError):
        server.relevance.open("[:find ?t :where [?p]")


def test_an_interest_that_cannot_be_followed_says_so_and_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = blog(4)
    replica = server.replica()
    rules = "[[(above ?a ?b) [?a :post/next ?b]] [(above ?a ?c) [?a :post/next ?b] (above ?b ?c)]]"
    fine = server.subscribe(replica, "[:find ?u :where [?p :post/next ?q] [?q :post/author ?u]]")
    for text, inputs in (
        ('[:find ?b :in $ % :where (above "p1.0" ?b)]', [rules]),
        ("[:find ?p ?q :where [?p :post/next ?q] [?p :post/title _] :order-by [?q] :limit 2]", []),
        ("[:find ?t :where [?p :post/next ?q] [?q :post/title ?t]]", []),
        ("[:find (pull ?p [:post/title {:post/next ...}]) :where [?p :post/title _]]", []),
    ):
        interest = server.subscribe(replica, text, inputs)

        def fail(*_: Any) -> None:
            raise BudgetError("too much")

        with monkeypatch.context() as patch:
            if "pull" in text:
                patch.setattr(pull.Puller, "steps", fail)
            elif interest.needed._shape is None:
                patch.setattr(interest.needed._rows.shape, "step", fail)
            elif inputs:
                patch.setattr(interest.needed._shape, "step", fail)
            else:
                triggers = interest.needed._shape.triggers
                patch.setitem(triggers, "post/next", [fail])
                server.relevance._lineages._is_collected = False
            delta = server.apply([Change("p1.0", "post/next", "", Ref("p2.0"), server.seq + 1, "r")])
            with pytest.raises(BudgetError):
                server.commit(delta, reload=False)
        server.relevance._lineages._is_collected = False
        assert interest.trouble is not None and server.relevance.is_stale(interest), text
        assert fine.trouble is None
        server.relevance.load(interest, server.seq)
        assert interest.trouble is None
        for each in (interest, fine):
            server.ship(replica, server.places(each))
        server.check(text)
        write(server, ("p2.0", "post/next", Ref("p3.0")))
        server.check(text)
        write(server, ("p2.0", "post/next", None), ("p1.0", "post/next", None))
        server.check(text)


def test_what_costs_more_to_follow_than_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "FEW", 2)
    monkeypatch.setattr(needed, "AFRESH", 2)
    names = ["order and limit", "recursion from", "more"]
    assert follow(names, 5, steps=10, most=20).reloads > 2


def test_subscriptions_of_one_shape() -> None:
    server, history = started(3, 3)
    rng = random.Random(3)
    for line in filter(str.strip, SHAPES.splitlines()):
        if "reach" not in line and "back" not in line:
            replica = server.replica()
            for text, inputs in of_one_shape(line, rng, 6):
                server.subscribe(replica, text, inputs)
    go_on(server, history, "shapes", 10)
    assert len(server.relevance._lineages._shapes) < 22


def test_a_deleted_entity_goes_wherever_something_of_it_is_held() -> None:
    server = blog(3)
    replicas = [server.replica() for _ in range(2)]
    server.subscribe(replicas[0], POSTS, ["u1"])
    server.subscribe(replicas[1], POSTS, ["u2"])
    server.commit(server.apply([Change("p1.0", DELETED, "", True, server.seq + 1, "r")]))
    server.check("deleted")
    assert replicas[0].store.deleted("p1.0") and not replicas[1].store.deleted("p1.0")


# -- planted bugs ---------------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def _witnesses_missing(patch: Patch) -> None:
    patch.setattr(lineage.Parts, "_witness", lambda *_: None)


def _nested_witnesses_missing(patch: Patch) -> None:
    def witness(self: Any, outside: Any, negation: Any) -> None:
        inside = lineage._plain(negation.literals)
        self._need([*outside, *inside], inside)

    patch.setattr(lineage.Parts, "_witness", witness)


def _reads_dropped(patch: Patch) -> None:
    need = lineage.Parts._need
    plain: Callable[[Any], Any] = lambda literals: [x for x in literals if not isinstance(x, lineage.Read)]  # noqa: E731
    patch.setattr(lineage.Parts, "_need", lambda self, all_, asked: need(self, all_, plain(asked)))


def _reads_only_where_filters_hold(patch: Patch) -> None:
    patch.setattr(lineage.Parts, "_before", lambda self, literals, read: tuple(literals))


def _reads_not_after_removals(patch: Patch) -> None:
    run = needed.Lineages._run
    patch.setattr(
        needed.Lineages, "_run", lambda self, delta, *heard: run(self, Delta([], delta.added), *heard)
    )


def _values_in_heads_forgotten(patch: Patch) -> None:
    """A trigger is spared where a value took the place of another, though the value leads somewhere."""
    patch.setattr(lineage, "Counter", lambda head: _Ones())


class _Ones(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return 1

    def update(self, *_: Any) -> None:  # type: ignore[override]
        pass


def _trees_not_followed(patch: Patch) -> None:
    patch.setattr(needed._Trees, "renewed", lambda self: ())


def _new_referrers_not_noticed(patch: Patch) -> None:
    enter = pull.Readers.enter
    patch.setattr(pull.Readers, "enter", lambda self, which, subjects, ends: enter(self, which, subjects, ()))
    patch.setattr(pull.Readers, "leave", lambda *_: None)


def _registered_after_the_snapshot(patch: Patch) -> None:
    def later(self: Any, shape: Any) -> None:
        self._is_followed = True
        self._lineages.__dict__.setdefault("late", []).append((shape, (*self._constants, self)))

    changed = needed.Lineages.changed

    def late(self: Any, delta: Delta) -> Any:
        out = changed(self, delta)
        for shape, row in self.__dict__.pop("late", ()):
            self.enter(shape, row)
        return out

    patch.setattr(needed.Needed, "_follow", later)
    patch.setattr(needed.Lineages, "changed", late)


def _rows_of_windows_not_replaced(patch: Patch) -> None:
    def changed(self: Any) -> list[Any]:
        self.settle()
        return []

    patch.setattr(needed._Rows, "changed", changed)


def _second_derivations_in_windows_ignored(patch: Patch) -> None:
    def changed(self: Any) -> list[Any]:
        change = self.settle()
        return [] if change is None else [tuple(map(inward, row)) for row in change.added]

    patch.setattr(needed._Rows, "changed", changed)


def _skipped_rows_not_held(patch: Patch) -> None:
    window = needed._window
    patch.setattr(
        needed,
        "_window",
        lambda query: needed.replace(window(query), offset=query.offset, limit=query.limit or 1),
    )


def _deletions_not_forwarded(patch: Patch) -> None:
    patch.setattr(Relevance, "holders_of", lambda self, subject: ())


def _rules_not_followed(patch: Patch) -> None:
    patch.setattr(lineage.Shape, "_tell", lambda *_: None)


def _rules_without_lineage(patch: Patch) -> None:
    patch.setattr(recursion.Recursion, "bodies", lambda self: [])


def _others_shipped_too(patch: Patch) -> None:
    """Constants are lifted, and whose they are is forgotten."""
    find = needed.Needed.find

    def everybody(self: Any, *units: float) -> Any:
        return {
            place: None
            for other in self._lineages.__dict__.setdefault("all", [self])
            for place in find(other)
        }

    patch.setattr(needed.Needed, "find", everybody)


BUGS: dict[Callable[[Patch], None], Sequence[str]] = {
    _witnesses_missing: ["not"],
    _nested_witnesses_missing: ["nested not"],
    _reads_dropped: ["lookups"],
    _reads_only_where_filters_hold: ["lookups"],
    _reads_not_after_removals: ["more"],
    _values_in_heads_forgotten: ["lookups", "more"],
    _trees_not_followed: ["more"],
    _new_referrers_not_noticed: ["more"],
    _registered_after_the_snapshot: ["joins"],
    _rows_of_windows_not_replaced: ["order and limit"],
    _second_derivations_in_windows_ignored: ["more", "order and limit", "shapes"],
    _skipped_rows_not_held: ["order and limit"],
    _deletions_not_forwarded: ["lookups"],
    _rules_not_followed: ["recursion"],
    _rules_without_lineage: ["recursion"],
    _others_shipped_too: ["joins"],
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__[1:])
def test_a_planted_bug_is_noticed(bug: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(12):
            follow(BUGS[bug], seed, most=6 if "rules" in bug.__name__ else 12)
