"""What it costs a server to know which replica needs which place: a change with 0 to 1,000 subscriptions of one shape,
each of another user (of 10,000, with as many posts and comments); the first load; memory.

Microseconds are medians of what comes on top of the write: `changed` and `holders` of each of its places."""

from __future__ import annotations

import random
import statistics
import time
import tracemalloc
from collections.abc import Iterator

from tripleweb.change import Change
from tripleweb.store import Store
from tripleweb.sync.relevance import Interest, Relevance
from tripleweb.terms import Ref, Value

SIZE = 10_000
CHANGES = 4_000
SHAPES = {
    "posts": "[:find ?t ?s :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t] [?p :post/score ?s]]",
    "talk": """[:find ?t ?n :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t] [?c :comment/post ?p]
                [?c :comment/author ?a] [?a :user/name ?n]]""",
    "unhidden": "[:find ?t :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t] (not [?p :post/hidden true])]",
    "pulled": "[:find (pull ?p [:post/title {:post/author [:user/name]}]) :in $ ?u :where [?p :post/author ?u]]",
    "best": """[:find ?p ?s :in $ ?u :where [?p :post/author ?u] [?p :post/score ?s]
                :order-by [?s :desc] :limit 3]""",
}


def run() -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, text in SHAPES.items():
        for count in (0, 100, 1_000):
            store = _world(random.Random(1))
            relevance = Relevance(store)
            interests, loads = _subscribed(relevance, text, count)
            rng = random.Random(2)
            times, news, before = [], 0, relevance.work
            for seq in range(1, CHANGES + 1):
                changes = list(_changes(rng, seq))
                delta = store.apply(changes)
                began = time.perf_counter()
                found = relevance.changed(delta, seq)
                for change in changes:
                    list(relevance.holders(change.subject, change.predicate))
                times.append((time.perf_counter() - began) * 1e6)
                news += sum(map(len, found.values()))
            figures[f"{name}_{count}_change_us"] = round(statistics.median(times), 2)
            figures[f"{name}_{count}_rows_per_change"] = round((relevance.work - before) / CHANGES, 2)
            if count == 1_000:
                figures[f"{name}_{count}_places"] = sum(len(interest.places) for interest in interests)
                figures[f"{name}_{count}_new_places"] = news
                figures[f"{name}_load_ms"] = round(statistics.median(loads) * 1e3, 3)
        figures[f"{name}_bytes_per_subscription"] = _memory(text, 500)
    figures["bytes_per_further_place"] = _per_place()
    return figures


def _world(rng: random.Random) -> Store:
    store = Store()
    triples: list[tuple[str, str, Value]] = []
    for n in range(SIZE):
        someone, other = (Ref(f"u{rng.randrange(SIZE)}") for _ in range(2))
        triples += [(f"u{n}", "user/name", f"name {n}"), (f"p{n}", "post/author", someone)]
        triples += [(f"p{n}", "post/title", f"title {n}"), (f"p{n}", "post/score", rng.randrange(100))]
        triples += [
            (f"c{n}", "comment/post", Ref(f"p{rng.randrange(SIZE)}")),
            (f"c{n}", "comment/author", other),
        ]
    store.apply(Change(s, p, "", v, 1, "r") for s, p, v in triples)
    return store


def _subscribed(relevance: Relevance, text: str, count: int) -> tuple[list[Interest], list[float]]:
    interests, times = [], []
    for user in range(count):
        began = time.perf_counter()
        interests.append(relevance.open(text, [f"u{user}"]))
        relevance.load(interests[-1], 0)
        times.append(time.perf_counter() - began)
    return interests, times


def _changes(rng: random.Random, seq: int) -> Iterator[Change]:
    """One commit: mostly a score, sometimes a title, another author, a new comment, a name."""
    post, someone, choice = f"p{rng.randrange(SIZE)}", f"u{rng.randrange(SIZE)}", rng.random()
    time_ = seq + 10
    if choice < 0.6:
        yield Change(post, "post/score", "", rng.randrange(100), time_, "r")
    elif choice < 0.75:
        yield Change(post, "post/title", "", f"title {seq}", time_, "r")
    elif choice < 0.85:
        yield Change(post, "post/author", "", Ref(someone), time_, "r")
    elif choice < 0.95:
        yield Change(f"n{seq}", "comment/post", "", Ref(post), time_, "r")
        yield Change(f"n{seq}", "comment/author", "", Ref(someone), time_, "r")
    else:
        yield Change(someone, "user/name", "", f"name {seq}", time_, "r")


def _memory(text: str, count: int) -> float:
    """Of a subscription with what it holds, when the shape is known."""
    relevance = Relevance(_world(random.Random(1)))
    _subscribed(relevance, text, 20)
    tracemalloc.start()
    held = [relevance.open(text, [f"u{user}"]) for user in range(20, 20 + count)]
    for interest in held:
        relevance.load(interest, 0)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return round(size / count)


def _per_place() -> float:
    """Of a place, where one subscription holds many."""
    relevance = Relevance(_world(random.Random(1)))
    text = "[:find ?t ?s :where [?p :post/title ?t] [?p :post/score ?s]]"
    interest = relevance.open(text)
    interest.needed and interest.needed.find()
    tracemalloc.start()
    relevance.load(interest, 0)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return round(size / len(interest.places))
