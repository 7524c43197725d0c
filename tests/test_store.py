"""The store's promises: order and duplication do not matter, deltas are exact, floors and deletes hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from operator import itemgetter

import pytest

from tripleweb.cells import value_order
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change
from tripleweb.errors import DeletedError
from tripleweb.store import Delta, Store, net
from tripleweb.terms import Ref, Value, slot
from tripleweb.transaction import Transaction

VALUES: list[Value] = ["a", "1", 1, 1.0, True, 2.5, Ref("a"), datetime(2020, 1, 1, tzinfo=UTC), "x" * 300]


def random_changes(rng: random.Random, n: int, subjects: int = 3) -> list[Change]:
    out = []
    for _ in range(n):
        subject = f"e{rng.randrange(subjects)}"
        predicate = rng.choice(["k/a", "k/b", "other/a"])
        time, replica = rng.randrange(12), rng.choice("abc")
        roll = rng.random()
        if roll < 0.04:
            out.append(Change(subject, DELETED, SINGLE, True, time, replica))
        elif roll < 0.40:
            out.append(Change(subject, predicate, SINGLE, rng.choice([*VALUES, None]), time, replica))
        elif roll < 0.50:
            out.append(Change(subject, predicate, RESET, None, time, replica))
        elif roll < 0.90:
            value = rng.choice(VALUES)
            out.append(
                Change(subject, predicate, slot(value), rng.choice([value, value, None]), time, replica)
            )
        else:
            share = rng.choice([None, 1, 2, 0.5])
            out.append(Change(subject, predicate, COUNTER + replica, share, time, replica))
    return out


def triples(store: Store) -> dict[tuple[str, str, str, str], Value]:
    return {(s, p, slot(v), type(v).__name__): v for p in store.predicates() for s, v in store.scan(p)}


def added(content: dict, delta: Delta) -> dict:
    content = dict(content)
    for s, p, v in delta.removed:
        del content[(s, p, slot(v), type(v).__name__)]
    for s, p, v in delta.added:
        key = (s, p, slot(v), type(v).__name__)
        assert key not in content
        content[key] = v
    return content


@pytest.mark.parametrize("seed", range(150))
def test_any_order_and_any_duplication_gives_the_same_store(seed: int) -> None:
    rng = random.Random(seed)
    changes = random_changes(rng, 40)
    first = Store()
    first.apply(changes)
    for _ in range(4):
        again = changes + rng.choices(changes, k=15)
        rng.shuffle(again)
        other = Store()
        cut = rng.randrange(len(again))
        other.apply(again[:cut])
        other.apply(again[cut:])
        assert sorted(map(repr, other.registers())) == sorted(map(repr, first.registers())), f"seed {seed}"
        assert triples(other) == triples(first), f"seed {seed}"


@pytest.mark.parametrize("seed", range(100))
def test_a_delta_applied_to_the_old_content_gives_the_new(seed: int) -> None:
    rng = random.Random(seed)
    store = Store()
    content: dict = {}
    deltas = []
    for _ in range(25):
        delta = store.apply(random_changes(rng, rng.randrange(1, 6)))
        if rng.random() < 0.5:
            store.subjects(
                "k/a", rng.choice(VALUES)
            )  # builds the reverse index, to be kept right from here on
        content = added(content, delta)
        assert content == triples(store), f"seed {seed}"
        deltas.append(delta)
    assert added({}, net(deltas)) == content
    for value in VALUES:
        expected = {
            s
            for (s, p, _, _), v in content.items()
            if p == "k/a" and v == value and isinstance(v, bool) == isinstance(value, bool)
        }
        assert set(store.subjects("k/a", value)) == expected, f"seed {seed}"
    for p in ("k/a", "k/b", "other/a"):
        assert store.count(p) == sum(1 for key in content if key[1] == p)


@pytest.mark.parametrize("seed", range(100))
def test_undo_of_a_recorded_batch_leaves_no_trace(seed: int) -> None:
    rng = random.Random(seed)
    store = Store()
    store.apply(random_changes(rng, 30))
    before, seen = sorted(map(repr, store.registers())), triples(store)
    kept = store.record()
    forth = store.apply(random_changes(rng, 15))
    store.stop()
    back = store.undo(kept)
    assert sorted(map(repr, store.registers())) == before, f"seed {seed}"
    assert triples(store) == seen
    assert not net([forth, back])


def test_the_later_stamp_wins_and_the_loser_learns_why() -> None:
    store = Store()
    fates: list = []
    store.apply(
        [
            Change("e", "k/a", SINGLE, "new", 5, "a"),
            Change("e", "k/a", SINGLE, "old", 4, "b"),
            Change("e", "k/a", SINGLE, "new", 5, "a"),
            Change("e", "k/a", "s:m", "m", 3, "b"),
            Change("gone", DELETED, SINGLE, True, 2, "a"),
            Change("gone", "k/a", SINGLE, "late", 9, "b"),
        ],
        fates,
    )
    assert fates == [None, ("newer", 5, "a"), None, ("reset", 5, "a"), None, ("deleted", 2, "a")]
    assert store.values("e", "k/a") == ["new"] and store.values("gone", "k/a") == []


def test_equal_stamps_go_by_replica_and_then_by_value() -> None:
    tie = [Change("e", "k/a", SINGLE, v, 1, r) for v, r in [("x", "a"), ("y", "b"), ("z", "b"), (None, "b")]]
    for order in permutations(tie):
        store = Store()
        store.apply(order)
        assert store.values("e", "k/a") == ["z"]


def test_assigning_a_set_hides_what_it_did_not_see() -> None:
    store = Store()
    store.apply([Change("e", "k/t", slot(v), v, 1, "a") for v in ("x", "y")])
    store.apply([Change("e", "k/t", RESET, None, 2, "b"), Change("e", "k/t", "s:z", "z", 2, "b")])
    store.apply([Change("e", "k/t", "s:y", "y", 1, "c")])
    assert store.values("e", "k/t") == ["z"]
    store.apply([Change("e", "k/t", "s:y", "y", 3, "c")])
    assert store.values("e", "k/t") == ["y", "z"]


def test_a_single_value_and_members_of_one_field_live_by_one_floor() -> None:
    store = Store()
    store.apply([Change("e", "k/t", "s:m", "m", 2, "a"), Change("e", "k/t", SINGLE, "one", 1, "a")])
    assert store.values("e", "k/t") == ["m", "one"]
    store.apply([Change("e", "k/t", SINGLE, None, 3, "a")])
    assert store.values("e", "k/t") == []


def test_counter_shares_add_up_and_only_a_delete_hides_them() -> None:
    store = Store()
    store.apply([Change("p", "post/likes", COUNTER + r, n, 1, r) for r, n in [("a", 2), ("b", 3)]])
    assert store.values("p", "post/likes") == [5]
    store.apply(
        [Change("p", "post/likes", RESET, None, 9, "c"), Change("p", "post/likes", SINGLE, 10, 9, "c")]
    )
    assert store.values("p", "post/likes") == [15]
    store.apply([Change("p", DELETED, SINGLE, True, 0, "z")])
    assert store.values("p", "post/likes") == []


def test_true_is_not_one_and_text_is_no_number_but_one_is_one_point_zero() -> None:
    store = Store()
    store.apply([Change("e", "k/t", slot(v), v, 1, "a") for v in (True, 1, "1", Ref("1"))])
    assert len(store.values("e", "k/t")) == 4
    assert store.subjects("k/t", 1.0) == ["e"] and store.subjects("k/t", False) == []
    store.apply([Change("e", "k/t", slot(1.0), None, 2, "a")])
    assert store.values("e", "k/t") == [True, Ref("1"), "1"]


def test_a_view_stays_as_it_was() -> None:
    store = Store()
    store.apply([Change(f"e{i}", "k/a", SINGLE, i, 1, "a") for i in range(5)])
    store.apply([Change("e0", "k/t", slot(v), v, 1, "a") for v in ("x", "y")])
    view = store.view(frozenset(["k/a", "k/t", "k/none"]))
    store.apply([Change("e1", "k/a", SINGLE, 99, 2, "a"), Change("e9", "k/a", SINGLE, 9, 2, "a")])
    store.apply([Change("e0", DELETED, SINGLE, True, 2, "a")])
    assert sorted(view.scan("k/a")) == [(f"e{i}", i) for i in range(5)]
    assert view.values("e0", "k/t") == ["x", "y"] and list(view.subjects("k/a", 1)) == ["e1"]
    assert sorted(view.about("e0")) == [("k/a", 0), ("k/t", "x"), ("k/t", "y")]


# -- transactions ------------------------------------------------------------------------------------------------


def test_a_transaction_has_one_change_a_slot() -> None:
    store = Store()
    store.apply([Change("e", "k/t", "s:old", "old", 1, "z")])
    tx = Transaction(store, 5, "a")
    tx.set("e", "k/a", 1)
    tx.set("e", "k/a", 2)
    tx.add("e", "k/t", "x")
    tx.assign("e", "k/t", ["y"])
    tx.increment("e", "k/n", 2)
    tx.increment("e", "k/n", 3)
    delta = tx.commit()
    assert [c[:4] for c in tx.changes] == [
        ("e", "k/a", SINGLE, 2),
        ("e", "k/t", RESET, None),
        ("e", "k/t", "s:y", "y"),
        ("e", "k/n", COUNTER, 5),
    ]
    assert store.values("e", "k/t") == ["y"] and store.values("e", "k/n") == [5]
    assert ("e", "k/t", "old") in delta.removed and ("e", "k/n", 5) in delta.added and len(delta.added) == 3
    replay = Store()
    replay.apply([Change("e", "k/t", "s:old", "old", 1, "z"), *tx.registers()])
    assert sorted(map(repr, replay.registers())) == sorted(map(repr, store.registers()))


def test_the_last_word_on_a_field_counts_within_a_transaction() -> None:
    for last, expected in (("set", ["one"]), ("assign", ["m"]), ("unset", [])):
        store = Store()
        tx = Transaction(store, 5, "a")
        for word in ("add", "set", "assign", "unset", last):
            if word == "add":
                tx.add("e", "k/t", "first")
            elif word == "set":
                tx.set("e", "k/t", "one")
            elif word == "assign":
                tx.assign("e", "k/t", ["m"])
            else:
                tx.set("e", "k/t", None)
        tx.commit()
        assert store.values("e", "k/t") == expected, last
        replay = Store()
        replay.apply(tx.registers())
        assert replay.values("e", "k/t") == expected, last


@pytest.mark.parametrize("seed", range(150))
def test_a_rolled_back_transaction_leaves_no_trace_and_a_committed_one_replays(seed: int) -> None:
    rng = random.Random(seed)
    store, twin = Store(), Store()
    past = random_changes(rng, 30)
    store.apply(past)
    twin.apply(past)
    before = sorted(map(repr, store.registers()))
    content = triples(store)
    for keep in (False, True):
        tx = Transaction(store, 100, "t")
        for _ in range(12):
            subject, predicate = f"e{rng.randrange(3)}", rng.choice(["k/a", "k/b"])
            value = rng.choice(VALUES)
            if rng.random() < 0.3:
                store.subjects(predicate, value)  # builds the reverse index, to be kept right from here on
            try:
                rng.choice(
                    [
                        lambda: tx.set_columns(*random_columns(rng, store)),
                        lambda: tx.assign_column(*random_sets(rng, store)),
                        lambda: tx.set(subject, predicate, value),
                        lambda: tx.set(subject, predicate, None),
                        lambda: tx.assign(subject, predicate, rng.sample(VALUES, 2)),
                        lambda: tx.add(subject, predicate, value),
                        lambda: tx.remove(subject, predicate, value),
                        lambda: tx.increment(subject, predicate, rng.choice([1, -2, 0.5])),
                        *([lambda: tx.delete(subject)] if rng.random() < 0.15 else []),
                    ]
                )()
            except DeletedError:
                assert store.deleted(subject)
        if keep:
            delta = tx.commit()
            assert added(content, delta) == triples(store), f"seed {seed}"
            check_changes(tx.changes, rng)
            keys = [c.key for c in tx.changes]
            assert len(keys) == len(set(keys))
            twin.apply(tx.registers())
            assert triples(twin) == triples(store), f"seed {seed}"
            assert sorted(map(repr, twin.registers())) == sorted(map(repr, store.registers())), f"seed {seed}"
        else:
            tx.rollback()
            assert sorted(map(repr, store.registers())) == before, f"seed {seed}"
        check_counts_and_indexes(store, seed)


def random_columns(rng: random.Random, store: Store) -> tuple[list[str], list[tuple[str, list]]]:
    alive = [s for s in ("e0", "e1", "e2", "new", "newer") if store.deleted(s) is None]
    subjects = rng.sample(alive, rng.randrange(1, len(alive) + 1))
    predicates = rng.sample(["k/a", "k/b", "other/a", "fresh/a"], rng.randrange(1, 4))
    return subjects, [(p, [rng.choice([*VALUES, None]) for _ in subjects]) for p in predicates]


def random_sets(rng: random.Random, store: Store) -> tuple[list[str], str, list[list | None]]:
    subjects, ((predicate, _), *_) = random_columns(rng, store)
    sets = [members(rng.sample(VALUES, rng.randrange(4))) for _ in subjects]
    return subjects, predicate, [each if rng.random() < 0.9 else None for each in sets]


def members(values: list) -> list:
    """As `Field.take` gives them."""
    return sorted({slot(value): value for value in values}.values(), key=value_order)


def check_changes(changes: Sequence[Change], rng: random.Random) -> None:
    """They are a sequence, in blocks or not."""
    whole = list(changes)
    assert len(changes) == len(whole)
    start, stop = rng.randrange(len(whole) + 1), rng.randrange(len(whole) + 2)
    assert list(changes[start:stop]) == whole[start:stop]
    assert [changes[at] for at in range(len(whole))] == whole
    for change in whole:
        assert type(change) is Change


def check_counts_and_indexes(store: Store, seed: int) -> None:
    content = triples(store)
    for predicate in ("k/a", "k/b", "other/a", "fresh/a"):
        held = [(key[0], value) for key, value in content.items() if key[1] == predicate]
        assert store.count(predicate) == len(held), f"seed {seed}"
        for value in VALUES:
            wanted = {s for s, v in held if v == value and isinstance(v, bool) == isinstance(value, bool)}
            assert set(store.subjects(predicate, value)) == wanted, f"seed {seed}"


@pytest.mark.parametrize("seed", range(100))
def test_columns_written_at_once_are_as_if_written_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    stores = Store(), Store()
    past = random_changes(rng, 20)
    made: list[Transaction] = []
    columns = [random_columns(rng, Store()) for _ in range(2)]
    whole = [random_sets(rng, Store()) for _ in range(2)]
    stood = [random_sets(rng, Store()) for _ in range(2)] + (whole if rng.random() < 0.5 else [])
    member = rng.random() < 0.3
    for store in stores:
        store.apply([change for change in past if change.predicate != DELETED])
        for time, each in enumerate(stood, 50):
            earlier = Transaction(store, time, "s")
            earlier.assign_column(*each)
            earlier.commit()
        made.append(Transaction(store, 100, "t"))
        if member:
            made[-1].add("e0", "k/a", "m")
    for subjects, held in columns:
        made[0].set_columns(subjects, held)
        for predicate, cells in held:
            for subject, value in zip(subjects, cells, strict=True):
                if value is not None:
                    made[1].set(subject, predicate, value)
        if whole and rng.random() < 0.7:
            subjects, predicate, sets = whole.pop()
            made[0].assign_column(subjects, predicate, sets)
            for subject, each in zip(subjects, sets, strict=True):
                if each is not None:
                    made[1].assign(subject, predicate, each)
    assert set(made[0].changes) == set(made[1].changes), f"seed {seed}"
    check_changes(made[0].changes, rng)
    asked = {
        (*key[:2], place) for key in map(itemgetter(0, 1), made[1].changes) for place in ("", "*", "s:a")
    }
    for key in {*asked, *(change.key for change in made[1].changes)}:
        assert before(made[0], key) == before(made[1], key), f"seed {seed}"
    deltas = [tx.commit() for tx in made]
    assert deltas[0].come == len(deltas[0].added) and deltas[0].predicates == deltas[1].predicates
    assert bool(deltas[0]) == bool(deltas[1])
    for name in ("added", "removed"):
        one, other = (sorted(map(repr, getattr(delta, name))) for delta in deltas)
        assert one == other, f"seed {seed}"
    registers = [sorted(map(repr, store.registers())) for store in stores]
    assert registers[0] == registers[1], f"seed {seed}"
    for store, tx in zip(stores, made, strict=True):
        check_counts_and_indexes(store, seed)
        store.undo(tx.replaced)
    registers = [sorted(map(repr, store.registers())) for store in stores]
    assert registers[0] == registers[1], f"seed {seed}"
    assert triples(stores[0]) == triples(stores[1]), f"seed {seed}"


def before(tx: Transaction, key: tuple[str, str, str]) -> Change | str | None:
    try:
        return tx.replaced.before(key)
    except KeyError:
        return "not written"


@pytest.mark.parametrize("between", ["add", "columns", "unset", "increment"])
def test_a_value_that_is_written_twice_in_a_transaction_goes_back_to_the_first(between: str) -> None:
    store = Store()
    store.apply([Change("e", "k/a", SINGLE, 1, 1, "r"), Change("f", "k/a", SINGLE, 1, 1, "r")])
    before = sorted(map(repr, store.registers()))
    tx = Transaction(store, 5, "t")
    tx.set("e", "k/a", 2)
    match between:
        case "add":
            tx.add("f", "k/b", "m")
        case "columns":
            tx.set_columns(["e", "f"], [("k/c", [7, 8])])
        case "unset":
            tx.set("f", "k/a", None)
        case "increment":
            tx.increment("f", "k/n", 1)
    tx.set("e", "k/a", 3)
    first = tx.replaced.before(("e", "k/a", SINGLE))
    assert first is not None and first.value == 1
    assert [c.value for c in tx.changes if c.key == ("e", "k/a", SINGLE)] == [3]
    tx.rollback()
    assert sorted(map(repr, store.registers())) == before and store.values("e", "k/a") == [1]


def test_writing_to_a_deleted_entity_is_an_error() -> None:
    store = Store()
    tx = Transaction(store, 1, "a")
    tx.set("e", "k/a", 1)
    tx.delete("e")
    with pytest.raises(DeletedError):
        tx.set("e", "k/a", 2)
    tx.commit()
    assert [c.predicate for c in tx.changes] == [DELETED]
