"""What is inserted in bulk is what the same writes one by one would be: checks, registers, deltas, undo, the log, and
what follows; it neither stops the user's garbage collector nor leaves it stopped."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tripleweb
from tests.test_identity import in_fork
from tests.test_store import VALUES, added, check_counts_and_indexes, members, random_changes, triples
from tripleweb import influx, t
from tripleweb import progress as bars
from tripleweb.blocks import Changes
from tripleweb.change import SINGLE, Change
from tripleweb.collector import collector_at_rest
from tripleweb.errors import DeletedError, SchemaError, TriplewebError
from tripleweb.frame import frame_columns
from tripleweb.intake import are_plain_ids, taken_column, taken_ids
from tripleweb.schema import Field
from tripleweb.storage.packing import (
    Unpacker,
    decode_registers,
    encode_apart,
    encode_blocks,
    encode_registers,
)
from tripleweb.store import Store
from tripleweb.terms import Ref
from tripleweb.transaction import Transaction

MOMENT = datetime(2024, 5, 1, 12, tzinfo=UTC)
SCHEMA = tripleweb.schema(
    user={
        "name": t.string(optional=True),
        "age": t.number(optional=True),
        "active": t.boolean(default=True),
        "joined": t.date(optional=True),
        "boss": t.ref("user", optional=True),
        "tags": t.ref_many("user"),
        "words": t.many(t.string()),
        "points": t.many(t.number()),
        "likes": t.counter(),
        "small": t.number(optional=True, check=lambda n: n < 1000),
    }
)
CELLS: dict[str, list[Any]] = {
    "": ["a", "b", "", 1, 2.5, -0.0, True, MOMENT, Ref("x"), {"a"}, {1}, {Ref("x"), "x"}, set()],
    "s": ["a", "b", "x" * 300, "ä", "\ud800", 3, Ref("x")],
    "n": [0, 1, 1.5, -0.0, 2**70, float("inf"), True, np.int64(7)],
    "b": [True, False, 1, np.True_],
    "d": [
        MOMENT,
        MOMENT.replace(year=2000),
        datetime(2020, 1, 1),
        pd.Timestamp("2024-01-01", tz="Asia/Tokyo"),
    ],
    "r": ["x", "y", Ref("x"), Ref("z"), "", "new\nline", "ü", 4],
}
MISSING = [None, float("nan"), pd.NA, pd.NaT]


def fields(rng: random.Random) -> tuple[Field, list[Any]]:
    letter = rng.choice(sorted(CELLS))
    if letter and rng.random() < 0.4:
        member = {"s": t.string(), "n": t.number(), "b": t.boolean(), "d": t.date(), "r": t.ref("user")}[
            letter
        ]
        kinds = [list, tuple, frozenset] if letter != "n" else [list, tuple]
        pool = [rng.choice(kinds)(rng.choices(CELLS[letter], k=rng.randrange(4))) for _ in range(4)]
        pool.append("text" if rng.random() < 0.1 else [])
        return t.many(member), pool
    if not letter:
        return Field("", predicate="k/a", kind="k", name="a"), CELLS[""]
    return Field(letter, predicate="k/a", kind="k", name="a"), CELLS[letter]


@pytest.mark.parametrize("seed", range(400))
def test_a_column_is_taken_as_its_cells_would_be(seed: int) -> None:
    rng = random.Random(seed)
    field, pool = fields(rng)
    some = rng.sample(pool, rng.randrange(1, min(4, len(pool)) + 1))
    if rng.random() < 0.5:
        some += rng.sample(MISSING, rng.randrange(1, 3))
    cells = rng.choices(some, k=rng.choice([1, 3, 10]))
    wanted: list[Any] = []
    try:
        for cell in cells:
            wanted.append(None if isinstance(cell, float) and cell != cell else field.take(cell))
    except (ValueError, TypeError) as error:
        with pytest.raises(type(error)) as raised:
            taken_column(field, cells, {})
        assert f"row {len(wanted)}: " in str(raised.value), f"seed {seed}"
        return
    refs: dict[str, Ref] = {}
    for _ in range(2):  # with references that are known, too
        assert list(map(typed, taken_column(field, cells, refs))) == list(map(typed, wanted)), f"seed {seed}"


def typed(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(typed, value))
    return type(value), value, str(value)  # -0.0 is not 0.0


@pytest.mark.parametrize("text", ["", "a\nb", "\ud800", "x" * 513, "ü" * 400, 3])
def test_what_may_be_no_id_is_asked(text: Any) -> None:
    assert not are_plain_ids(["a", text]) and not are_plain_ids([])
    with pytest.raises((ValueError, TypeError)):
        taken_column(t.ref("user"), ["a", text], {})


def test_repeated_cells_become_one_object() -> None:
    texts = [f"word {i % 7}" for i in range(3_000)]
    moments = [MOMENT.replace(second=i % 60) for i in range(3_000)]
    numbers = [1_000_000 + i % 5 for i in range(3_000)]
    for letter, cells in (("s", texts), ("d", moments), ("n", numbers), ("r", texts)):
        found = taken_column(Field(letter), cells, {})
        assert found == cells and len(set(map(id, found))) == len(set(cells))
    zeros = [0.0, -0.0] * 2_000
    assert list(map(str, taken_column(Field("n"), zeros, {}))) == list(map(str, zeros))


def test_many_new_ids_differ() -> None:
    import os

    ids = taken_ids({}, [], "", 5_000, os.urandom)
    assert len(set(ids)) == 5_000 and {len(text) for text in ids} == {21}
    assert taken_ids({}, [], "p/", 200, os.urandom)[7].startswith("p/")


def random_frame(rng: random.Random, ids: list[str]) -> pd.DataFrame:
    """Rows that fit the schema, some columns of them, cells missing here and there."""
    rows = len(ids)
    some = lambda make: [None if rng.random() < 0.2 else make() for _ in range(rows)]  # noqa: E731
    data: dict[str, list[Any]] = {
        "name": some(lambda: rng.choice(["Ada", "Bob", "Çelik"])),
        "age": some(lambda: rng.randrange(90)),
        "active": [rng.random() < 0.5 for _ in range(rows)],
        "joined": some(lambda: MOMENT.replace(day=rng.randrange(1, 28))),
        "boss": some(lambda: f"e{rng.randrange(9)}"),
        "tags": some(lambda: [f"e{rng.randrange(5)}" for _ in range(rng.randrange(4))]),
        "words": some(lambda: rng.sample(["x", "y", "z"], rng.randrange(3))),
        "points": some(lambda: rng.sample([1, 2.5, 3], rng.randrange(3))),
        "likes": some(lambda: rng.randrange(1, 4)),
        "small": some(lambda: rng.randrange(5)),
    }
    names = rng.sample(sorted(data), rng.randrange(1, len(data) + 1))
    return pd.DataFrame(
        {"id": ids, "active": data["active"]} | {name: pd.Series(data[name], dtype=object) for name in names}
    )


def one_by_one(db: tripleweb.Database, frame: pd.DataFrame) -> None:
    for row in frame.to_dict("records"):
        given = {name: cell for name, cell in row.items() if name != "id" and cell is not None}
        db.insert("user", id=row["id"], **given)


def told(db: tripleweb.Database) -> dict[str, Any]:
    """Everything there is, but for stamps."""
    store = db._session.store
    registers = Counter(
        (*c[:2], c[2][:2] if c[2].startswith("c:") else c[2], typed(c[3])) for c in store.registers()
    )
    triples = Counter((s, p, typed(v)) for p in store.predicates() for s, v in store.scan(p))
    counts = {p: store.count(p) for p in store.predicates()}
    found = {v: sorted(store.subjects("user/tags", v)) for v in (f"e{i}" for i in range(5))}
    return {"registers": registers, "triples": triples, "counts": counts, "found": found}


@pytest.mark.parametrize("seed", range(60))
def test_a_frame_is_its_rows(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    dbs = [tripleweb.open(tmp_path / name, schema=SCHEMA) for name in ("bulk", "single")]
    lives = [db.live("[:find ?u ?t ?n :where [?u :user/tags ?t] [?t :user/name ?n]]") for db in dbs]
    for live in lives:
        live.df  # noqa: B018 - from now on it follows
    alive = [f"e{i}" for i in range(12)]
    try:
        for _ in range(rng.randrange(1, 4)):
            ids = rng.sample(alive, rng.randrange(1, len(alive)))
            frame, more = random_frame(rng, ids), random_frame(rng, rng.sample(alive, 3))
            is_block = rng.random() < 0.5
            for db, write in zip(dbs, (bulk, one_by_one), strict=True):
                with db.transaction():
                    write(db, frame)
                    if is_block:
                        db.update("user", ids[0], name="within", tags=["e1"])
                        write(db, more)
            if rng.random() < 0.3:
                victim = alive.pop()
                for db in dbs:
                    db.delete(victim)
            assert told(dbs[0]) == told(dbs[1]), f"seed {seed}"
        if rng.random() < 0.5:
            left = [db.undo() for db in dbs]
            order = ["subject", "predicate", "reason"]
            assert sorted(map(str, left[0][order].values)) == sorted(map(str, left[1][order].values)), (
                f"seed {seed}"
            )
            assert told(dbs[0])["triples"] == told(dbs[1])["triples"], f"seed {seed}"
            for db in dbs:
                with suppress(TriplewebError):  # a delete was not taken back
                    db.redo()
            assert told(dbs[0])["triples"] == told(dbs[1])["triples"], f"seed {seed}"
        frames = [live.df.sort_values(["u", "t"], ignore_index=True) for live in lives]
        pd.testing.assert_frame_equal(*frames)
        before = told(dbs[0])
    finally:
        for db in dbs:
            db.close()
    with tripleweb.open(tmp_path / "bulk", schema=SCHEMA) as again:
        assert told(again) == before, f"seed {seed}"


def bulk(db: tripleweb.Database, frame: pd.DataFrame) -> None:
    db.insert_frame("user", frame, id="id")


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_that_fails_has_written_nothing(seed: int) -> None:
    rng = random.Random(seed)
    db = tripleweb.open(schema=SCHEMA)
    ids = [f"e{i}" for i in range(8)]
    bulk(db, random_frame(rng, ids[:4]))
    db.delete("e0")
    before, first = told(db), random_frame(rng, ids[1:])
    bad = random_frame(rng, rng.sample(ids[1:], 3))
    bad["words"] = [["x"], ["y"], [7]]
    with pytest.raises(SchemaError, match="row 2"), db.transaction():
        bulk(db, first)
        bulk(db, bad)
    assert told(db)["triples"] == before["triples"], f"seed {seed}"
    assert told(db)["registers"] == before["registers"], f"seed {seed}"
    with pytest.raises(DeletedError):
        bulk(db, random_frame(rng, ids))
    assert told(db)["registers"] == before["registers"], f"seed {seed}"
    with pytest.raises(ValueError, match="row 1: the key 'e1'"):
        bulk(db, random_frame(rng, ["e1", "e1"]))


def test_the_collector_rests_as_long_as_anybody_needs_it() -> None:
    """Whoever comes when another one is inside, and leaves after it, neither ends its rest nor leaves it resting."""
    first, second = collector_at_rest(), collector_at_rest()
    assert gc.isenabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_in_a_fork_the_collector_runs_though_another_thread_was_inside() -> None:
    inside, leave = threading.Event(), threading.Event()

    def rest() -> None:
        with collector_at_rest():
            inside.set()
            leave.wait(60)

    def afterwards() -> tuple[bool, bool, bool]:
        before = gc.isenabled()
        with collector_at_rest():
            within = gc.isenabled()
        return before, within, gc.isenabled()

    thread = threading.Thread(target=rest)
    thread.start()
    try:
        assert inside.wait(60)
        assert in_fork(afterwards) == "(True, False, True)"
    finally:
        leave.set()
        thread.join(60)
    assert gc.isenabled()


def test_the_collector_runs_as_before() -> None:
    db = tripleweb.open()
    frozen = gc.get_freeze_count()
    for is_on in (True, False):
        try:
            (gc.enable if is_on else gc.disable)()
            db.insert_frame("k", pd.DataFrame({"a": range(2_000)}))
            with pytest.raises(ValueError, match="row 1"):
                db.insert_frame("k", pd.DataFrame({"a": [1, float("inf")]}))
            assert gc.isenabled() is is_on
        finally:
            gc.enable()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize(
    ("rows", "patience", "shown"), [(60_000, 0.0, True), (40_000, 0.0, False), (60_000, 60.0, False)]
)
def test_a_bar_above_100k_triples(
    rows: int, patience: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            seen.append((0, 0)) if text.strip() else None

        def flush(self) -> None: ...

    monkeypatch.setattr(bars, "PATIENCE_S", patience)
    monkeypatch.setattr(bars.sys, "stderr", Terminal())
    frame = pd.DataFrame({"a": range(rows), "b": "x"})
    tripleweb.open().insert_frame("k", frame)
    assert bool(seen) is shown


def test_what_is_new_in_bulk_is_no_history(tmp_path: Path) -> None:
    """It is not written a second time; what is written over is, once it is more than what is there."""
    frame = pd.DataFrame({"id": [f"e{i}" for i in range(5_000)], "n": range(5_000), "t": "x"})
    frame["tags"] = [{f"t{i % 3}", "t4"} for i in range(5_000)]
    with tripleweb.open(tmp_path / "r") as db:
        db.insert_frame("k", frame, id="id")
        assert not db._session.replica.due
        count = sum(1 for _ in db._session.store.registers())
    for round_ in range(4):
        with tripleweb.open(tmp_path / "r") as db:
            assert sum(1 for _ in db._session.store.registers()) == count
            assert not db._session.replica.due
            db.insert_frame("k", frame.assign(n=round_, t=f"y{round_}"), id="id")
            before = told(db)
    with tripleweb.open(tmp_path / "r") as db:
        assert told(db) == before and not db._session.replica.due
    size = (tmp_path / "r").stat().st_size
    assert size < 2_500_000, size


@pytest.mark.parametrize("seed", range(40))
def test_registers_are_packed_and_unpacked(seed: int) -> None:
    """In rows, in columns, in blocks, by whatever stamps; on top of what is there."""
    rng = random.Random(seed)
    store, there = Store(), Store()
    for kept in (store, there):
        kept.apply(random_changes(random.Random(seed), 20))
    for time in range(100, 104):
        tx = Transaction(store, time, rng.choice("ab"))
        ids = [f"e{i}" for i in range(1, rng.choice([5, 200])) if store.deleted(f"e{i}") is None]
        some = rng.sample(ids, max(1, len(ids) // 2))
        tx.set_columns(some, [(p, [rng.choice(VALUES) for _ in some]) for p in ("k/a", "other/a")])
        if rng.random() < 0.5:
            tx.assign_column(some, rng.choice(["k/b", "k/a"]), [members(rng.sample(VALUES, 2)) for _ in some])
        if rng.random() < 0.3:
            tx.increment(some[0], "k/n", 2)
        tx.commit()
        changes = tx.changes
        assert decode_registers(encode_registers(changes)) == list(changes), f"seed {seed}"
        if isinstance(changes, Changes):
            there.put(tx.registers().loose)
            for body in encode_blocks(changes.blocks):
                Unpacker().load(there, body)
        else:
            Unpacker().load(there, encode_registers(tx.registers()))
        assert registers(there) == registers(store), f"seed {seed}"
        again, unpacker, found = Store(), Unpacker(), list(store.registers())
        rng.shuffle(found) if rng.random() < 0.2 else None
        step = rng.choice([7, 150, 5_000])
        for start in range(0, len(found), step):
            body = encode_apart(found[start : start + step])
            assert sorted(map(repr, decode_registers(body))) == sorted(map(repr, found[start : start + step]))
            unpacker.load(again, body)
        assert registers(again) == registers(store), f"seed {seed}"
        check_counts_and_indexes(again, seed)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_absorbed_is_merged(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes twice, is deleted, or is there already; and what is given out makes the same store again."""
    rng = random.Random(seed)
    monkeypatch.setattr(influx, "FEW", rng.choice([0, 3, 50]))
    monkeypatch.setattr(influx, "SLICE", rng.choice([5, 40, 50_000]))
    one, other, new = Store(), Store(), Store()
    subjects = rng.choice([3, 60])
    for time in range(3):
        changes = random_changes(rng, rng.choice([10, 200]), subjects)
        tx = Transaction(new, 20 + time, "t")
        some = [f"n{time}.{i}" for i in range(30)]
        tx.set_columns(some, [("k/a", [rng.choice(VALUES) for _ in some])])
        tx.assign_column(some, "k/b", [members(rng.sample(VALUES, 3)) for _ in some])
        changes += [*tx.changes, *rng.sample(list(tx.changes), 20)]
        rng.shuffle(changes) if rng.random() < 0.3 else None
        content = triples(other)
        wanted, found = one.apply(changes), influx.absorb(other, changes)
        assert registers(one) == registers(other), f"seed {seed}"
        assert added(content, found) == triples(other), f"seed {seed}"
        for name in ("added", "removed"):
            assert sorted(map(repr, getattr(wanted, name))) == sorted(map(repr, getattr(found, name)))
        check_counts_and_indexes(other, seed)
        given = influx.contents(one)
        assert sorted(map(repr, given)) == registers(one), f"seed {seed}"
        for again in (influx.loaded(given), influx.loaded([*given, *rng.sample(list(given), 5)])):
            assert registers(again) == registers(one), f"seed {seed}"
            check_counts_and_indexes(again, seed)
    influx.replace(new, [*influx.contents(one), *list(one.registers())[:3]])
    assert registers(new) == registers(one), f"seed {seed}"
    empty = Store()
    influx.replace(empty, list(one.registers()))
    assert registers(empty) == registers(one), f"seed {seed}"


@pytest.mark.parametrize("seed", range(60))
def test_what_is_gathered_is_merged(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever pieces and order it comes, also where equal stamps meet and what is gathered has to make room."""
    rng = random.Random(f"{seed}/gather")
    monkeypatch.setattr(influx, "FEW", rng.choice([0, 3, 50]))
    monkeypatch.setattr(influx, "SLICE", rng.choice([1, 20, 50_000]))
    monkeypatch.setattr(influx, "STEP", rng.choice([1, 7, 10_000]))
    pieces = [random_changes(rng, rng.randrange(80), rng.choice([3, 60])) for _ in range(rng.randrange(6))]
    one, other = Store(), Store()
    for piece in pieces:
        one.apply(piece)
    counts = list(influx.gather(other, pieces))
    assert registers(one) == registers(other), f"seed {seed}"
    assert sum(counts) >= sum(map(len, pieces)) and max(counts, default=0) <= max(80, influx.STEP)
    check_counts_and_indexes(other, seed)


def test_equal_references_that_come_become_one_object() -> None:
    changes = [Change(f"e{i}", "k/r", SINGLE, Ref(f"t{i % 3}"), 1, "a") for i in range(300)]
    store = influx.loaded(changes)
    assert len({id(value) for _, value in store.scan("k/r")}) == 3


def registers(store: Store) -> list[str]:
    return sorted(map(repr, store.registers()))


def test_missing_cells_of_a_frame_are_no_values() -> None:
    frame = pd.DataFrame(
        {
            "text": pd.Series(["a", None, "b"]),
            "int": pd.Series([1, None, 3], dtype="Int64"),
            "date": pd.to_datetime(["2024-01-01", None, "2024-01-02"], utc=True),
            "float": [1.0, float("nan"), 2.0],
            "all": [1, 2, 3],
        }
    )
    db = tripleweb.open()
    ids = db.insert_frame("k", frame)
    assert db.get("k", ids[1]) == {"id": ids[1], "all": 2}
    assert [db._session.store.count(f"k/{name}") for name in frame] == [2, 2, 2, 2, 3]
    assert frame_columns(frame)["int"][0] == 1
