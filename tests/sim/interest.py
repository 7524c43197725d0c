"""What users ask the server for, and what they must then see. All that knows of subscriptions' contents is here.

A user asks for the whole app (some a second time), or, in some runs, only for what queries from a pool need. Displays
are there for both. A subscription's name says what it asks for: `q1:e3` is the second query, asked of `e3`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from tests.sim.options import Habits
from tripleweb.change import Change
from tripleweb.datalog import evaluate
from tripleweb.ids import kind_of
from tripleweb.store import Store
from tripleweb.sync.client import APP, ClientCore
from tripleweb.sync.messages import Subscription, input_from_wire, input_to_wire, is_whole
from tripleweb.sync.relevance import Relevance
from tripleweb.terms import Ref

if TYPE_CHECKING:
    from tests.sim.nodes import ClientNode

Place = tuple[str, str]

DISPLAYS = [
    "[:find ?e ?v :where [?e :k/title ?v]]",
    "[:find ?e (sum ?n) :where [?e :k/likes ?n]]",
    "[:find ?e ?t :where [?e :k/tags ?t] (not [?e :k/title _])]",
    "[:find ?e ?o ?v :in $ ?min :where [?e :k/owner ?o] [?e :k/size ?v] [(>= ?v ?min)] :order-by [?v ?e ?o]]",
]
RULES = "[[(above ?a ?b) [?a :k/owner ?b]] [(above ?a ?b) [?a :k/owner ?c] (above ?c ?b)]]"
# what is asked for, and of what: nothing, an entity, several entities, a number; or predicates
POOL: list[tuple[str | list[str], str]] = [
    ("[:find ?e ?t :where [?e :k/title ?t]]", ""),
    ("[:find ?e ?t :in $ ?o :where [?e :k/owner ?o] [?e :k/title ?t]]", "entity"),
    ("[:find ?e ?s :where [?e :k/owner ?o] [?o :k/size ?s]]", ""),
    ("[:find ?e :where [?e :k/title _] (not [_ :k/owner ?e])]", ""),
    (
        "[:find ?e :where [?e :k/size _] (or-join [?e] [?e :k/title _] (and [?e :k/owner ?o] [?o :k/title _]))]",
        "",
    ),
    ("[:find ?b ?s :in $ % ?a :where (above ?a ?b) [?b :k/size ?s]]", "entity"),
    ("[:find ?e ?s :where [?e :k/size ?s] :order-by [?s ?e] :limit 2]", ""),
    ("[:find ?e ?s ?t :where [?e :k/size ?s] [?e :k/title ?t] :order-by [?s ?t] :limit 2 :offset 1]", ""),
    ("[:find ?o (count ?e) (sum ?s) :where [?e :k/owner ?o] [?e :k/size ?s]]", ""),
    ("[:find (pull ?e [:k/title {:k/owner [:k/size]} {:k/_owner [:k/tags]}]) :where [?e :k/size _]]", ""),
    ("[:find (pull ?e [*]) :in $ ?o :where [?e :k/owner ?o]]", "entity"),
    ("[:find ?e ?n :where [?e :k/title _] [(get-else $ ?e :k/size 0) ?n]]", ""),
    ("[:find ?e ?n :in $ ?min :where [?e :k/likes ?n] [(>= ?n ?min)]]", "number"),
    ("[:find ?p ?v :in $ ?e :where [?e ?p ?v]]", "entity"),
    ("[:find ?e ?t :in $ [?e ...] :where [?e :k/tags ?t]]", "entities"),
    (["k/likes"], ""),
    (["k/title", "k/tags"], ""),
    (["k/"], ""),
]


def asks(node: ClientNode) -> bool:
    """True of a user who asks for less than the whole app; a copy does as the original."""
    return node.name.split("+")[0] in node.world.options.asking


def at_start(node: ClientNode, meta: dict[str, Any]) -> list[Subscription]:
    """What a user asks for whenever his process starts; `meta`: what his file knows."""
    wanted = [] if asks(node) else [Subscription(APP)]
    if asks(node) and node.world.lot("asks again", node.name) < 0.8:
        wanted += [msgspec.convert(wire, Subscription) for wire in meta.get("asked", ())]
    if node.world.options.habits.displays:
        wanted.append(subscription(f"rows{node.number % len(DISPLAYS)}"))
    return wanted


def drawn(node: ClientNode, habits: Habits, subjects: list[str], rng: random.Random) -> dict[str, Any] | None:
    """What a user asks for next, or does not any more; None: nothing ever changes."""
    displays = [f"rows{i}" for i in range(len(DISPLAYS))] if habits.displays else []
    if not asks(node):
        names = (["second"] if habits.second else []) + displays
        if not names:
            return None
        name = rng.choice(names)
        return {"name": name, "given": rng.choice([0, 10]) if name == "rows3" else None}
    assert node.core is not None
    there = sorted(name for name in node.core.subscriptions if name[0] == "q")
    if there and rng.random() < 0.35:  # it goes, perhaps to come again
        return {"name": rng.choice(there), "given": None}
    if displays and rng.random() < 0.1:
        return {"name": "rows0", "given": None}
    number = rng.randrange(len(POOL))
    kind = POOL[number][1]
    given: Any = None
    if kind == "entity":
        given = rng.choice(subjects)
    elif kind == "entities":
        given = sorted(rng.sample(subjects, 2))
    elif kind == "number":
        given = rng.choice([0, 2, 10])
    more = "" if given is None else f":{given if kind != 'entities' else '+'.join(given)}"
    return {"name": f"q{number}{more}", "given": given}


def subscription(name: str, given: Any = 0) -> Subscription:
    """What a name stands for, with what was drawn for it."""
    if name[0] == "q":
        asked, kind = POOL[int(name[1:].split(":")[0])]
        if isinstance(asked, list):
            return Subscription(name, predicates=asked)
        inputs = {"": [], "entity": [Ref(given) if kind == "entity" else 0], "number": [given]}.get(kind)
        if inputs is None:
            inputs = [[Ref(one) for one in given]]
        rules = RULES if "%" in asked else None
        return Subscription(name, query=asked, inputs=[input_to_wire(one) for one in inputs], rules=rules)
    if not name.startswith("rows"):
        return Subscription(name)
    return Subscription(
        name, "rows", DISPLAYS[int(name[4:])], [input_to_wire(given)] if name == "rows3" else []
    )


def lives(core: ClientCore) -> int | None:
    """The point of the server's order whose state a whole replica shows; None if nothing of it is kept current."""
    return max((core.cursors[name] for name in core._live), default=None)


def answer(asked: Subscription, store: Store) -> list[str]:
    """What a store has of a subscription, by the plain evaluator."""
    if asked.query is None:
        found: list[Any] = [
            (s, p, v)
            for p in store.predicates()
            for s, v in store.scan(p)
            if is_whole(asked) or p in asked.predicates or f"{kind_of(p)}/" in asked.predicates
        ]
    else:
        inputs = [input_from_wire(wire) for wire in asked.inputs]
        found = list(evaluate.run(asked.query, inputs, store, rules=asked.rules).rows)
    return sorted(_text(row) for row in found)


def _text(cell: Any) -> str:
    """A cell as text; the order within what was pulled is not promised."""
    if isinstance(cell, dict):
        return repr(sorted((name, _text(value)) for name, value in cell.items()))
    if isinstance(cell, list):
        return repr(sorted(map(_text, cell)))
    return repr([_text(one) for one in cell]) if isinstance(cell, tuple) else repr(cell)


def needed(asked: list[Subscription], store: Store) -> set[Place]:
    """All places of a store that subscriptions need."""
    relevance, found = Relevance(store), set[Place]()
    for one in asked:
        if one.query is None:
            interest = relevance.open_predicates(one.predicates)
        else:
            interest = relevance.open(one.query, [input_from_wire(wire) for wire in one.inputs], one.rules)
        relevance.load(interest, 0)
        found.update(relevance.held(interest))
    return found


def shown(store: Store) -> dict[Place, list[str]]:
    """What a store shows, by place."""
    places: dict[Place, list[str]] = {}
    for p in store.predicates():
        for s, v in store.scan(p):
            places.setdefault((s, p), []).append(repr(v))
    return {place: sorted(values) for place, values in places.items()}


def unsettled(core: ClientCore) -> tuple[set[Place], set[str]]:
    """Places and deleted entities of which the server has not decided yet."""
    changes: list[Change] = [change for pending in core.outbox.values() for change in pending.changes]
    return (
        {(change.subject, change.predicate) for change in changes},
        {change.subject for change in changes if change.predicate == "_deleted"},
    )
