"""What compiled queries stand on: columns that stay, reverse indexes, and deltas replayed one triple at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.test_store import VALUES, random_changes, random_columns, random_sets
from tripleweb.change import DELETED, SINGLE, Change
from tripleweb.datalog.builtins import inward
from tripleweb.errors import DeletedError
from tripleweb.ids import kind_of
from tripleweb.store import Delta, Store
from tripleweb.terms import FALSE, TRUE, Ref, Value, slot
from tripleweb.transaction import Transaction

PREDICATES = ["k/a", "k/b", "other/a", "fresh/a"]
Content = dict[tuple[str, str, str, str], Value]  # subject, predicate, slot, type -> value


def content_of(store: Store) -> Content:
    return {key(s, p, v): v for p in store.predicates() for s, v in store.scan(p)}


def key(subject: str, predicate: str, value: Value) -> tuple[str, str, str, str]:
    return subject, predicate, slot(value), type(value).__name__


def stepped(content: Content, delta: Delta) -> list[tuple[int, tuple[str, str, Value], Content]]:
    """(sign, triple, what is visible when a listener hears of it)."""
    out = []
    content = dict(content)
    for triple in delta.removed:
        out.append((-1, triple, dict(content)))
        del content[key(*triple)]
    for triple in delta.added:
        assert key(*triple) not in content
        content[key(*triple)] = triple[2]
        out.append((1, triple, dict(content)))
    return out


def check_visible(store: Store, content: Content, indexed: list[str], said: str) -> None:
    """Every way of reading gives exactly `content`, and so do counts and the reverse indexes of `indexed`."""
    assert content_of(store) == content, said
    for predicate in PREDICATES:
        held = [(name[0], value) for name, value in content.items() if name[1] == predicate]
        assert store.count(predicate) == len(held), said
        table, column = store.column(predicate)
        for subject in sorted({s for s, _ in held}):
            row = table.row_of[store.numbers[subject]]
            assert store.names[table.entities[row]] == subject
            shown = sorted(slot(v) for s, v in held if s == subject)
            several = column.several(row)
            assert sorted(map(slot, store.values(subject, predicate))) == shown, said
            single = column.values[row]
            assert sorted(map(slot, several or (single,))) == shown, said
        if predicate in indexed:
            wanted: dict[Any, set[int]] = {}
            for subject, value in held:
                wanted.setdefault(inward(value), set()).add(table.row_of[store.numbers[subject]])
            reverse = column.reverse()
            assert {k: {rows} if type(rows) is int else rows for k, rows in reverse.items()} == wanted, said
            assert all(len(rows) > 1 for rows in reverse.values() if type(rows) is set), said


def check_replay(store: Store, old: Content, delta: Delta, indexed: list[str], said: str) -> None:
    wanted = iter(stepped(old, delta))
    new = content_of(store)
    before = snapshot(store)

    def step(predicate: str, subject: str, row: int, value: Value, sign: int) -> None:
        expected, triple, content = next(wanted)
        assert (expected, triple) == (sign, (subject, predicate, value)), said
        table, _ = store.column(predicate)
        assert table.row_of[store.numbers[subject]] == row
        check_visible(store, content, indexed, said)

    store.replay(delta, step)
    assert next(wanted, None) is None
    check_visible(store, new, indexed, said)
    assert snapshot(store) == before, said


def snapshot(store: Store) -> list[str]:
    cells = [
        f"{p} {row} {cell.visible!r} {cell.single!r}"
        for p in PREDICATES
        for row, cell in sorted(store.column(p)[1].cells.items())
    ]
    return sorted(map(repr, store.registers())) + cells


def random_deltas(rng: random.Random, store: Store, time: int) -> Iterator[Delta]:
    """Applies something to the store: what comes from elsewhere, or a transaction, which may be taken back."""
    if rng.random() < 0.4:
        yield store.apply(random_changes(rng, rng.randrange(1, 8)))
        return
    tx = Transaction(store, time, "t")
    for _ in range(rng.randrange(1, 6)):
        subject, predicate, value = f"e{rng.randrange(3)}", rng.choice(PREDICATES), rng.choice(VALUES)
        operations: list[Callable[[], None]] = [
            lambda: tx.set(subject, predicate, value),
            lambda: tx.set(subject, predicate, value),
            lambda: tx.set(subject, predicate, None),
            lambda: tx.set_columns(*random_columns(rng, store)),
            lambda: tx.assign_column(*random_sets(rng, store)),
            lambda: tx.assign(subject, predicate, rng.sample(VALUES, 2)),
            lambda: tx.add(subject, predicate, value),
            lambda: tx.remove(subject, predicate, value),
            lambda: tx.increment(subject, predicate, rng.choice([1, -2, 0.5])),
        ]
        if rng.random() < 0.05:
            operations = [lambda: tx.delete(subject)]
        try:
            rng.choice(operations)()
        except DeletedError:
            assert store.deleted(subject)
    yield tx.commit()
    if rng.random() < 0.2:
        yield store.undo(tx.replaced)  # entities rise from their graves


@pytest.mark.parametrize("seed", range(120))
def test_a_replay_shows_one_change_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    store = Store()
    indexed = rng.sample(PREDICATES, rng.randrange(len(PREDICATES) + 1))
    for predicate in indexed:
        store.column(predicate)[1].reverse()
    changes = 0
    for time in range(20, 45):
        old = content_of(store)
        for delta in random_deltas(rng, store, time):
            check_replay(store, old, delta, indexed, f"seed {seed} time {time}")
            old = content_of(store)
            changes += len(delta.added) + len(delta.removed)
    assert changes > 5, f"seed {seed}"


@pytest.mark.parametrize("seed", range(60))
def test_what_a_step_raises_leaves_the_new_state(seed: int) -> None:
    rng = random.Random(seed)
    store = Store()
    for predicate in PREDICATES[:2]:
        store.column(predicate)[1].reverse()
    raised = 0
    for time in range(20, 40):
        for delta in random_deltas(rng, store, time):
            new, before = content_of(store), snapshot(store)
            seen: list[int] = []
            last = rng.randrange(1, 5)

            def step(*change: Any, seen: list[int] = seen, last: int = last) -> None:
                seen.append(change[-1])
                if len(seen) == last:
                    raise KeyboardInterrupt

            if last <= len(delta.removed) + len(delta.added):
                with pytest.raises(KeyboardInterrupt):
                    store.replay(delta, step)
                raised += 1
            else:
                store.replay(delta, step)
            assert len(seen) == min(last, len(delta.removed) + len(delta.added))
            check_visible(store, new, PREDICATES[:2], f"seed {seed} time {time}")
            assert snapshot(store) == before, f"seed {seed}"
    assert raised, f"seed {seed}"


def test_several_values_of_an_entity_that_was_deleted_are_seen_going() -> None:
    store = Store()
    store.apply([Change("e", "k/a", slot(v), v, 1, "a") for v in ("a", Ref("a"), True)])
    store.column("k/a")[1].reverse()
    delta = store.apply([Change("e", DELETED, SINGLE, True, 2, "a")])
    assert len(delta.removed) == 3 and not store.column("k/a")[1].cells
    seen = []
    store.replay(delta, lambda *_: seen.append((store.values("e", "k/a"), store.subjects("k/a", "a"))))
    assert sorted(len(values) for values, _ in seen) == [1, 2, 3]
    assert seen[0][1] == ["e"]
    assert store.column("k/a") == (store.column("k/a")[0], store.column("k/a")[1])
    assert not store.column("k/a")[1].cells and store.column("k/a")[1].reverse() == {}


def test_a_reverse_index_keeps_one_row_bare_and_booleans_apart() -> None:
    store = Store()
    column = store.column("k/a")[1]
    reverse = column.reverse()
    assert reverse == {}
    for time, (subject, value) in enumerate([("p", 1), ("q", 1.0), ("r", True), ("s", Ref("x")), ("t", "x")]):
        store.apply([Change(subject, "k/a", SINGLE, value, time, "a")])
    assert reverse == {1: {0, 1}, TRUE: 2, "x": {3, 4}}
    store.apply([Change("q", "k/a", SINGLE, False, 9, "a"), Change("s", "k/a", SINGLE, "x", 9, "a")])
    assert reverse == {1: 0, TRUE: 2, FALSE: 1, "x": {3, 4}}
    assert column.reverse() is reverse and store.column("k/a")[1] is column


@pytest.mark.parametrize("seed", range(40))
def test_a_pinned_column_is_as_long_as_its_table(seed: int) -> None:
    rng = random.Random(seed)
    store = Store()
    table, column = store.column("k/a")
    values, reverse = column.values, column.reverse()
    for time in range(20, 40):
        for _ in random_deltas(rng, store, time):
            pass
        if time == 25:
            table.pin(column)
            table.pin(column)
        store.apply([Change(f"new{time}", rng.choice(PREDICATES), SINGLE, 1, time, "a")])
        if time >= 25:
            assert len(column.values) == len(column.times) == len(column.replicas) == len(table.entities)
    assert store.column("k/a") == (table, column) and table is store.column("k/b")[0]
    assert column.values is values and column.reverse() is reverse
    assert kind_of(column.predicate) == "k"
