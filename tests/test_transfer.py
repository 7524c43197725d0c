"""`db.export` and `db.import_`: what goes out comes back exactly, in every format; what is wrong is said, with its
line, and nothing is written; CSV, JSON Lines, datoms and tables of others are read, too."""

from __future__ import annotations

import csv
import gzip
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tripleweb
from tests.stores import SCHEMA, Connect, level
from tripleweb import Ref, cli, places, t, transfer
from tripleweb.database import Database
from tripleweb.datalog import edn
from tripleweb.errors import DeletedError, IncompleteError, SchemaError
from tripleweb.exchange import files
from tripleweb.inventory import Inventory
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.store import Store
from tripleweb.web import WebServer

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [".csv", ".jsonl", ".edn", ".csv.gz", ".jsonl.gz", ".edn.gz"]
# pyarrow is an extra, and changes what pandas does: `test_with_pyarrow` has it, and runs the others once more
IS_THERE = find_spec("pyarrow") is not None
ALL = [*TEXTS, *[".parquet"] * IS_THERE]
TRAPS = [
    "", " ", "  x ", "a\nb", "a\r\nb", "\r", "\n", '"', '""', "a,b", "'", "\\", "\\n", "\t", "\x00", "\x0b\x1c\x85",
    "\u2028", "é", "𝄞", "e\u0301", "1", "1.0", "true", "None", "nil", "2020-01-01T00:00:00.000000Z", "#inst", ":a/b",
    "]", "[", ";", "=1+1", "\ufeff", "x" * 300, "single",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0.0, 1.0, -0.5, 1e16, 1e-7, 1.7976931348623157e308, 5e-324, 0.1
]  # fmt: skip
MOMENT = datetime(2013, 1, 1, 12, 30, 15, 123456, UTC)
DATES = [
    MOMENT, datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
]  # fmt: skip
NAMES = ["ada", "a b", "a/b", 'q"q', "é/ü", "1", "𝄞", ":k", "a\\", "[x]", "a,b", "#", ";", "B", "a!"]
PREDICATES = [
    "user/name", "user/a b", "user", "k/x/y", 'q"/é', ":a/b", "user/1", "x-y.z/a+b", "a/", "/a", "a!/x", "nil", "#x"
]  # fmt: skip


def triples(db: Database) -> list[Any]:
    """All that is there, with the types of values and how they stand in their fields."""
    return [(s, p, type(value), str(value), holding) for s, p, value, holding in inventory(db)]


def inventory(db: Database) -> list[Any]:
    return list(Inventory(db._session.store))


def some_value(dice: random.Random) -> Any:
    kind = dice.randrange(5)
    if kind == 0:
        return dice.choice(TRAPS)
    if kind == 1:
        return dice.choice(NUMBERS)
    if kind == 2:
        return dice.random() < 0.5
    return dice.choice(DATES) if kind == 3 else Ref(dice.choice(NAMES))


def fill(db: Database, dice: random.Random, steps: int = 80) -> None:
    """Writes of all sorts, and what follows: sets of one, of none, counters, deletions, values that took turns."""
    for _ in range(steps):
        subject, predicate = dice.choice(NAMES), dice.choice(PREDICATES)
        if db._session.store.deleted(subject) is not None:
            continue
        what = dice.randrange(12)
        if what < 6:
            db.set(subject, predicate, some_value(dice))
        elif what < 9:
            db.set(subject, predicate, {some_value(dice) for _ in range(dice.randrange(4))})
        elif what < 11:
            db.increment("count", subject, n=dice.choice([1, 5, -2, 0, 2**40]))
        elif dice.random() < 0.2:
            db.delete(subject)
        else:
            db.unset(subject, predicate)


@pytest.fixture(params=ALL)
def named(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- there and back --------------------------------------------------------------------------------------------


def test_there_and_back(tmp_path: Path, named: str) -> None:
    """`db.export("all.jsonl"); db.import_("all.jsonl")`"""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    for number in range(6):
        db, other = tripleweb.open(), tripleweb.open()
        fill(db, dice)
        path = tmp_path / f"{number}{named}"
        held = triples(db)
        assert db.export(path) == len(held)
        assert other.import_(str(path)) == len(held)
        assert triples(other) == held
        assert other.import_(path) == len(held) and triples(other) == held, "twice is once"


def test_every_value_in_every_format(tmp_path: Path, named: str) -> None:
    db = tripleweb.open()
    for number, value in enumerate([*TRAPS, *NUMBERS, True, False, *DATES, *map(Ref, NAMES)]):
        db.set(f"e{number:03}", "x/v", value)
        db.set(f"e{number:03}", "x/many", {value})
    db.set("long", "x/v", "\x01é" * 300_000)  # nearly a megabyte
    for number, subject in enumerate(NAMES):
        for predicate in PREDICATES:
            db.set(subject, predicate, number)
    db.export(tmp_path / f"all{named}")
    other = tripleweb.open()
    other.import_(tmp_path / f"all{named}")
    assert triples(other) == triples(db)
    values = {row[0]: row[2] for row in inventory(other)}
    assert values["e000"] == "" and type(values[f"e{len(TRAPS) + 7:03}"]) is float


def test_equal_triples_make_equal_files(tmp_path: Path, named: str) -> None:
    """Whatever the order in which they were written, and the format that they came through."""
    one, other = tripleweb.open(), tripleweb.open()
    rows = [(s, p, f"{s} {p}") for s in NAMES for p in PREDICATES]
    for row in rows:
        one.set(*row)
    for row in reversed(rows):
        other.set(*row)
    for name in [name for name in TEXTS if name != named]:
        other.export(tmp_path / f"step{name}")
        other = tripleweb.open()
        other.import_(tmp_path / f"step{name}")
    for name, db in (("one", one), ("other", other)):
        db.export(tmp_path / f"{name}{named}")
    assert (tmp_path / f"one{named}").read_bytes() == (tmp_path / f"other{named}").read_bytes()


def test_into_a_store_with_other_data(tmp_path: Path) -> None:
    """Single values are assigned, members added, counters brought to the total; the rest stays."""
    db, other = tripleweb.open(), tripleweb.open()
    db.set("ada", "user/name", "Ada")
    db.set("ada", "user/tags", {"a", "b"})
    db.increment("user", "ada", likes=5)
    db.export(tmp_path / "all.csv")
    other.set("ada", "user/name", "Old")
    other.set("ada", "user/age", 36)
    other.set("ada", "user/tags", {"b", "c"})
    other.set("bob", "user/name", "Bob")
    other.increment("user", "ada", likes=2)
    for _ in range(2):
        assert other.import_(tmp_path / "all.csv") == 4
        assert other.get("user", "ada") == {
            "id": "ada", "name": "Ada", "age": 36, "tags": ["a", "b", "c"], "likes": 5
        }  # fmt: skip
        assert other.get("user", "bob") == {"id": "bob", "name": "Bob"}
    other.increment("user", "ada", likes=1)
    assert other.get("user", "ada")["likes"] == 6, "it goes on counting"


def test_bunches_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many transactions, sets that are larger than one; entities are whole in one as far as possible."""
    db = tripleweb.open()
    db.set("big", "x/set", {f"m{number}" for number in range(100)})
    for number in range(40):
        db.set(f"e{number}", "x/a", number)
        db.set(f"e{number}", "x/b", {number, "x"})
    db.export(tmp_path / "all.jsonl")
    for name, size in (("BUNCH", 10), ("BUNCH_MAX", 20), ("PIECE", 7)):
        monkeypatch.setattr(transfer, name, size)
    other = tripleweb.open()
    told: list[set[str]] = []

    class Watcher:
        def changed(self, delta: Any) -> None:
            told.append({subject for subject, _, _ in delta.added})

        def catch_up(self) -> None: ...
        def state_changed(self) -> None: ...

    watcher = Watcher()
    other._session.watch(watcher)
    assert other.import_(tmp_path / "all.jsonl") == 220
    assert triples(other) == triples(db)
    assert len(told) > 10
    assert all(sum(f"e{number}" in subjects for subjects in told) == 1 for number in range(40))


def test_rows_in_any_order(tmp_path: Path) -> None:
    db = tripleweb.open()
    dice = random.Random(7)
    fill(db, dice)
    db.export(tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_bytes().split(b"\n")[:-1]
    dice.shuffle(lines)
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join(lines + lines[:5]))  # some of them twice
    other = tripleweb.open()
    assert other.import_(tmp_path / "mixed.jsonl") == len(triples(db))
    assert triples(other) == triples(db)


def test_within_a_transaction_it_is_all_or_nothing(tmp_path: Path) -> None:
    db, other = tripleweb.open(), tripleweb.open()
    fill(db, random.Random(3))
    db.export(tmp_path / "all.edn")
    with pytest.raises(ZeroDivisionError), other.transaction():
        other.import_(tmp_path / "all.edn")
        assert triples(other) == triples(db)
        _ = 1 / 0
    assert triples(other) == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Rows stream: a file that is refused at its end was never in memory."""
    path = tmp_path / "all.csv"
    with path.open("w") as file:
        file.write("subject,predicate,value,kind\n")
        for number in range(60_000):
            file.write(f"e{number:06},x/v,{'text ' * 20}{number},text\n")
        file.write("e999999,x/v,x,number\n")
    db = tripleweb.open()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="line 60002"):
            db.import_(path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size // 2
    finally:
        tracemalloc.stop()
    assert triples(db) == []


# -- what files are --------------------------------------------------------------------------------------------


def test_endings(tmp_path: Path) -> None:
    """Parquet (with [parquet]), CSV, JSON Lines, EDN datoms, by the ending"""
    db = tripleweb.open()
    for name in ("all", "all.json", "all.gz", "all.txt"):
        with pytest.raises(ValueError, match=r"\.parquet \.csv"):
            db.export(tmp_path / name)
        with pytest.raises(ValueError, match=r"\.parquet \.csv"):
            db.import_(tmp_path / name)
    assert db.export(tmp_path / "ALL.CSV") == 0 and db.import_(tmp_path / "ALL.CSV") == 0


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tripleweb.open()
    db.set("ada", "user/name", "Ada")
    path = tmp_path / "all.jsonl"
    db.export(path)
    before = path.read_bytes()
    db.set("bob", "user/name", "Bob")

    def torn(self: Inventory) -> Any:
        yield "ada", "user/name", "x", "single"
        raise OSError("no space left")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(Inventory, "__iter__", torn)
        db.export(path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["all.jsonl"]
    for bad in (tmp_path, tmp_path / "missing" / "all.csv"):
        with pytest.raises((OSError, ValueError)):
            db.export(bad)
    assert [one.name for one in tmp_path.iterdir()] == ["all.jsonl"]
    with pytest.raises(FileNotFoundError):
        db.import_(tmp_path / "other.jsonl")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    db = tripleweb.open()
    with pytest.raises(ImportError, match=r"tripleweb\[parquet\]"):
        db.export(tmp_path / "all.parquet")
    with pytest.raises(ImportError, match=r"tripleweb\[parquet\]"):
        db.import_(tmp_path / "x.parquet")


def test_our_own_reader_of_edn_reads_them(tmp_path: Path) -> None:
    db = tripleweb.open()
    fill(db, random.Random(11))
    db.export(tmp_path / "all.edn")
    forms = edn.read_all((tmp_path / "all.edn").read_text(encoding="utf-8"))
    told = [(form.value[0].value, form.value[1].value, form.value[2].value) for form in forms]
    assert told == [row[:3] for row in inventory(db)]
    assert [type(one[2]) for one in told] == [type(row[2]) for row in inventory(db)]


def test_other_programs_read_them(tmp_path: Path) -> None:
    """`csv` and pandas, with what they do by default but for missing values."""
    import pandas as pd

    db = tripleweb.open()
    fill(db, random.Random(5))
    db.export(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["predicate"]) for row in rows] == [row[:2] for row in inventory(db)]
    db.export(tmp_path / "all.jsonl")
    frame = pd.read_json(tmp_path / "all.jsonl", lines=True, dtype=False)
    assert frame["subject"].tolist() == [row[0] for row in inventory(db)]


# -- what others write -----------------------------------------------------------------------------------------


def taken(tmp_path: Path, name: str, text: str | bytes, schema: Any = None) -> list[Any]:
    """The triples that a file makes."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    db = tripleweb.open(schema=schema)
    db.import_(tmp_path / name)
    return [(s, p, value) for s, p, value, _ in inventory(db)]


def test_csv_of_others(tmp_path: Path) -> None:
    """Values are what they look like; columns stand in any order; Excel's mark and line ends are no matter."""
    text = "\ufeffPredicate,note,value,Subject\n" + "".join(
        f"x/{name},n,{value},e\n"
        for name, value in zip(
            "abcdefghijklmn",
            ["36", "-1.5", "1e3", "true", "False", "007", "+49", "", "12345678901234567890123", "nan",
             "2013-01-01T00:00:00Z", "2013-01-01 02:00:00.5+02:00", "2013-01-01", '"a ""b"", c"'],
            strict=True,
        )
    )  # fmt: skip
    expected = [36, -1.5, 1000.0, True, False, "007", "+49", "12345678901234567890123", "nan",
                datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 0, 0, 0, 500000, UTC),
                "2013-01-01", 'a "b", c']  # fmt: skip
    found = [value for _, _, value in taken(tmp_path, "a.csv", text)]
    assert found == expected and [type(one) for one in found] == [type(one) for one in expected]


def test_a_schema_says_what_values_are(tmp_path: Path) -> None:
    schema = tripleweb.schema(
        user={
            "zip": t.string(),
            "boss": t.ref("user", optional=True),
            "tags": t.many(t.string()),
            "n": t.counter(),
        }
    )
    rows = ["ada,user/zip,01234", "bob,user/zip,1234", "bob,user/boss,ada", "bob,user/tags,7", "bob,user/n,7"]
    text = "\n".join(["subject,predicate,value", *rows])
    found = taken(tmp_path, "a.csv", text, schema)
    assert found == [
        ("ada", "user/zip", "01234"), ("bob", "user/boss", Ref("ada")), ("bob", "user/n", 7),
        ("bob", "user/tags", "7"), ("bob", "user/zip", "1234"),
    ]  # fmt: skip
    assert type(found[1][2]) is Ref
    db = tripleweb.open(schema=schema)
    for _ in range(2):
        db.import_(tmp_path / "a.csv")
        assert db.get("user", "bob") == {"id": "bob", "zip": "1234", "boss": "ada", "tags": ["7"], "n": 7}


def test_datoms_of_others(tmp_path: Path) -> None:
    schema = tripleweb.schema(user={"name": t.string(), "boss": t.ref("user", optional=True)})
    for text in (
        '[[1 :user/name "Ada"] [2 :user/name "Bob"]\n [2 :user/boss 1]]',
        '[1 :user/name "Ada"]\n\n; a note ]\n[2 :user/name "Bob"] [2\n :user/boss 1]\n',
        '#{[1 :user/name "Ada" 536870913 true], [2 :user/name "Bob" 536870913 true] [2 :user/boss 1 536870913]}',
        '(#datascript/Datom [1 :user/name "Ada" 1 true]\n#datascript/Datom [2 :user/name "Bob" 1 true]\n'
        "#datascript/Datom [2 :user/boss 1 1 true])",
        '[[:db/add "1" :user/name "Ada"]\n[:db/add "2" "user/name" "Bob"]\n[:db/add 2 :user/boss 1]]\n',
        '[\n[1 :user/name "Ada"]\n[2 :user/name "Bob"]\n[2 :user/boss 1]\n]\n',
    ):
        found = taken(tmp_path, "a.edn", text, schema)
        assert found == [("1", "user/name", "Ada"), ("2", "user/boss", "1"), ("2", "user/name", "Bob")], text
    assert taken(tmp_path, "b.edn", '["e" :x/t "a\n\n[b] \\" ;c"]\n["e" :x/k :green]') == [
        ("e", "x/k", "green"), ("e", "x/t", 'a\n\n[b] " ;c')
    ]  # fmt: skip


def test_json_lines_of_others(tmp_path: Path) -> None:
    text = """{"subject": "e", "predicate": "x/a", "value": 1, "more": [1]}

{"subject":"e","predicate":"x/b","value":null}
{"subject":"e","predicate":"x/c","value":"1","kind":null}
{"subject":"e","predicate":"x/d","value":"1","kind":"number"}
{"subject":"e","predicate":"x/e","value":"f","kind":"reference"}
{"subject":"e","predicate":"x/f","value":"a"}
{"subject":"e","predicate":"x/f","value":true}"""
    found = taken(tmp_path, "a.jsonl", text)
    assert [value for _, _, value in found] == [1, "1", 1, "f", True, "a"]


def test_the_first_format(tmp_path: Path) -> None:
    """What its changes leave, whatever their order: the newer value, no entity that was deleted."""
    stamp = "018bcfe56800000{}-0123456789ab"
    rows = [
        ("ada", "user/age", "37", "number", 2), ("ada", "user/age", "36", "number", 1),
        ("ada", "user/friends", '"bob"', "refMany", 1), ("gone", "user/name", '"G"', "string", 1),
        ("gone", "_deleted", "true", "boolean", 0), ("ada", "user/ok", "true", "boolean", 1),
    ]  # fmt: skip
    text = "\n".join(
        f'{{"subject":"{s}","predicate":"{p}","object":{o},"object_type":"{k}","hlc":"{stamp.format(at)}"}}'
        for s, p, o, k, at in rows
    )
    assert taken(tmp_path, "a.jsonl", text) == [
        ("ada", "user/age", 37), ("ada", "user/friends", Ref("bob")), ("ada", "user/ok", True)
    ]  # fmt: skip


if IS_THERE:

    def test_tables_of_others(tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def table(values: Any) -> list[Any]:
            count = len(values)
            columns = {
                "subject": [f"e{n}" for n in range(count)],
                "predicate": ["x/v"] * count,
                "value": values,
            }
            pq.write_table(pa.table(columns), tmp_path / "a.parquet")
            db = tripleweb.open()
            db.import_(tmp_path / "a.parquet")
            return [row[2] for row in inventory(db)]

        assert table(["1", None, "x"]) == ["1", "x"]
        for values in ([1, 2], [1.5, 2.0], [True, False], [MOMENT, MOMENT + timedelta(1)]):
            found = table(values)
            assert found == values and [type(one) for one in found] == [type(one) for one in values]
        for values in ([b"x"], [[1]], [MOMENT.replace(tzinfo=None)]):
            with pytest.raises(ValueError, match=r"a\.parquet, row 1"):
                table(values)


# -- what is wrong ---------------------------------------------------------------------------------------------

HEAD = "subject,predicate,value,kind,field\r\n"
GOOD = {".csv": f"{HEAD}a,x/v,1,number,single\r\n", ".jsonl": '{"subject":"a","predicate":"x/v","value":1}\n',
        ".edn": '["a" :x/v 1]\n'}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "line 1: expected a header"),
        ("a.csv", "s,p,o\na,b,c\n", "line 1: expected a header.*got s, p, o"),
        ("a.csv", "subject,subject,predicate,value\n", "line 1: expected a header"),
        ("a.csv", f"{HEAD}a,x/v,1\r\n", "line 2: expected 5 fields as in the header, got 3"),
        ("a.csv", f'{HEAD}a,x/v,"1\r\n2\r\n', "line 2: not a row of CSV"),
        ("a.csv", f'{HEAD}a,x/v,"1"2,,\r\n', "line 2: not a row of CSV"),
        ("a.csv", f"{HEAD}a,x/v,1,integer,single\r\n", "line 2: kind 'integer': expected one of text number"),
        ("a.csv", f"{HEAD}a,x/v,1,number,sin\r\n", "line 2: field 'sin': expected single, set or counter"),
        ("a.csv", f"{HEAD}a,x/v,one,number,single\r\n", "line 2: expected a number.*got 'one'"),
        ("a.csv", f"{HEAD}a,x/v,9223372036854775808,number,\r\n", "line 2: integers have 64 bits"),
        ("a.csv", f"{HEAD}a,x/v,1e999,number,\r\n", "line 2: expected a number"),
        ("a.csv", f"{HEAD}a,x/v,nan,number,\r\n", "line 2: expected a number"),
        ("a.csv", f"{HEAD}a,x/v,yes,boolean,\r\n", "line 2: expected true or false"),
        ("a.csv", f"{HEAD}a,x/v,2020-01-01T00:00:00,date,\r\n", "line 2: expected a date with its zone"),
        ("a.csv", f"{HEAD}a,x/v,2020-01-01T00:00:00.000000001Z,date,\r\n", "line 2: .*nanoseconds"),
        ("a.csv", f"{HEAD}a,x/v,2020-02-30T00:00:00Z,date,\r\n", "line 2: expected a date"),
        ("a.csv", f"{HEAD}a,x/v,,reference,\r\n", "line 2: an id must not be empty"),
        ("a.csv", f"{HEAD},x/v,1,number,\r\n", "line 2: an id must not be empty"),
        ("a.csv", f"{HEAD}a,_deleted,true,boolean,\r\n", "line 2: a predicate does not begin with '_'"),
        ("a.csv", f'{HEAD}"a\nb",x/v,1,number,\r\nb,c,d,number,\r\n', "line 2: an id has no control"),
        ("a.csv", f'{HEAD}a,x/v,"1\n2",text,\r\nb,c,d,number,\r\n', "line 4: expected a number"),
        ("a.csv", f"{HEAD}a,x/v,1,number,single\r\na,x/v,2,number,single\r\n", "line 3: .*a single value, got 2"),
        ("a.csv", f"{HEAD}b,x/v,1,number,\r\na,x/v,x,text,counter\r\n", "line 3: .*counter's total is a number"),
        ("a.csv", b"subject,predicate,value\na,x/v,\xff\n", "line 2: not text in UTF-8"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: "),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":1}\n{"subject":"a","pred', "line 2: "),
        ("a.jsonl", "[1,2]\n", "line 1: Expected `object`"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v"}', "line 1: there is no value"),
        ("a.jsonl", '{"subject":1,"predicate":"x/v","value":1}', r"line 1: Expected `str`.*\$\.subject"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":[1]}', r"line 1: .*\$\.value"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":"1","kind":"boolean"}', "line 1: expected true"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":true,"kind":"number"}', "line 1: expected a number"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":18446744073709551616}', "line 1: .*64 bits"),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","value":"\\ud800"}', "line 1: "),
        ("a.jsonl", "[" * 100_000, "line 1: "),
        ("a.jsonl", b"\x00\xff" * 1000, "line 1: "),
        ("a.jsonl", '{"subject":"a","predicate":"x/v","object":1,"object_type":"money","hlc":"0"}', "line 1: "),
        ("a.edn", '["a" :x/v', "line 1: .*not closed.*cut off"),
        ("a.edn", '["a" :x/v "b', "line 1: .*not closed"),
        ("a.edn", '["a" :x/v 1]\n["a" :x/w]', "line 2: not a datom"),
        ("a.edn", '["a" :x/v 1]]', "line 1: a bracket that closes nothing"),
        ("a.edn", '[["a" :x/v 1]]\n["b" :x/v 1]', "line 2: more after the end"),
        ("a.edn", '["a" :x/v nil]', "line 1: nil is not a value"),
        ("a.edn", '["a" :x/v [1 2]]', r"line 1: \[1 2\] is not a value"),
        ("a.edn", '\n["a"\n:x/v #uuid "b"]', "line 3: an unknown tag"),
        ("a.edn", '[1 :x/v 1 5 false]', "line 1: a datom of what was retracted"),
        ("a.edn", "hello", "line 1: not a datom: 'hello'"),
        ("a.edn", '"hello"', "line 1: text outside"),
        ("a.edn", "[" * 1000, "line 1: brackets 20 deep"),
        ("a.edn", '["a" :x/v #tripleweb/ref ""]', "line 1: not a reference"),
        ("a.edn", '["a" :x/v 9223372036854775808]', "line 1: an integer beyond 64 bit"),
        ("a.edn", '["a" :x/v 1 :sett]', "line 1: field 'sett'"),
        ("a.csv.gz", b"subject", "not a compressed file"),
        *[("a.parquet", b"PAR1 and so on", "not a Parquet file")] * IS_THERE,
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    db = tripleweb.open()
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"(?s)^{name}[,:].*{said}") as caught:
        db.import_(tmp_path / name)
    assert len(str(caught.value)) < 500
    assert triples(db) == []


@pytest.mark.parametrize("name", [".jsonl.gz", ".csv.gz", ".edn.gz", *[".parquet"] * IS_THERE])
def test_a_file_that_was_cut_off(tmp_path: Path, name: str) -> None:
    db, other = tripleweb.open(), tripleweb.open()
    for number in range(500):
        db.set(f"e{number}", "x/v", f"text {number * 7919}")
    path = tmp_path / f"all{name}"
    db.export(path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 20, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="all"):
            other.import_(path)
        assert triples(other) == []


@pytest.mark.parametrize("name", [".jsonl", ".csv", ".edn"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_never_ends(tmp_path: Path, name: str, packed: bool) -> None:
    """64 MB, which a compressed file has in a few kilobytes: no more than a line that may be is taken into memory."""
    path = tmp_path / f"all{name}{'.gz' if packed else ''}"
    text = GOOD[name].encode() + {".csv": b'b,x/v,"', ".jsonl": b'{"value":"', ".edn": b'["b" :x/v "'}[name]
    with gzip.open(path, "wb") if packed else path.open("wb") as file:
        file.write(text)
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    db = tripleweb.open()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="longer than 8 MB"):
            db.import_(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * files.LINE_BYTES_MAX
    finally:
        tracemalloc.stop()
    assert triples(db) == []


def test_lines_that_go_on_for_ever(tmp_path: Path) -> None:
    """A text in quotes of many lines is bounded, too; and read in time that grows as it does."""
    db = tripleweb.open()
    for name, begun in ((".csv", 'b,x/v,"'), (".edn", '["b" :x/v "')):
        path = tmp_path / f"all{name}"
        path.write_text(GOOD[name] + begun + "line\n" * 2_000_000)
        with pytest.raises(ValueError, match=r"all\.\w+, line [23]: "):
            db.import_(path)
    assert triples(db) == []
    assert csv.field_size_limit() < 1_000_000, "the setting of the process is as it was"


# -- deleted, schema -------------------------------------------------------------------------------------------


def test_deleted_entities(tmp_path: Path) -> None:
    db = tripleweb.open()
    for id in ("ada", "bob"):
        db.set(id, "user/name", id)
        db.set(id, "user/tags", {"a", "b"})
    db.export(tmp_path / "all.jsonl")
    db.delete("ada")
    before = triples(db)
    with pytest.raises(DeletedError, match=r"all\.jsonl, line 1: 'ada' was deleted"):
        db.import_(tmp_path / "all.jsonl", deleted="raise")
    with pytest.warns(UserWarning, match="3 values were left out: deleted ids"):
        assert db.import_(tmp_path / "all.jsonl") == 3
    assert triples(db) == before
    with pytest.raises(ValueError, match="deleted='no'"):
        db.import_(tmp_path / "all.jsonl", deleted="no")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("ada,user/age,x,text", "user.age = 'x': expected a number, not text"),
        ("ada,user/name,1,number", "user.name = 1: expected text"),
        ("ada,post/tags,1,number", "expected an id of a tag"),
        ("ada,post/likes,x,text", "post.likes = 'x': expected a number"),
        ("ada,user/small,11,number", "its check"),
        ("ada,user/age,1,number\r\nada,user/age,2,number", "a single value, got 2"),
    ],
)
def test_what_does_not_fit_the_schema(tmp_path: Path, row: str, said: str) -> None:
    schema = tripleweb.schema(
        user={
            "name": t.string(), "age": t.number(optional=True),
            "small": t.number(optional=True, check=lambda n: n < 10),
        },
        post={"tags": t.ref_many("tag"), "likes": t.counter()},
        tag={"label": t.string()},
    )  # fmt: skip
    db = tripleweb.open(schema=schema)
    text = f"subject,predicate,value,kind\r\naa,user/name,Ok,text\r\n{row}\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode())
    with pytest.raises(SchemaError, match=rf"^a\.csv, line [34]: (?s:.*){said}"):
        db.import_(tmp_path / "a.csv")
    assert triples(db) == []


def test_with_a_schema(tmp_path: Path, named: str) -> None:
    db, other = tripleweb.open(schema=SCHEMA), tripleweb.open(schema=SCHEMA)
    ada = db.insert("user", name="Ada", age=36, joined=MOMENT)
    post = db.insert("post", title="P", author=ada, tags=["x"], likes=3)
    db.insert("post", id="bare", title="Q", author=ada)
    db.set(ada, "elsewhere/x", 1.0)
    db.export(tmp_path / f"all{named}")
    other.import_(tmp_path / f"all{named}")
    assert triples(other) == triples(db)
    assert other.get("post", post) == db.get("post", post)


# -- connected -------------------------------------------------------------------------------------------------


def test_connected_all_of_the_app_is_loaded_first(connect: Connect, tmp_path: Path) -> None:
    one = connect()
    fill(one, random.Random(1))
    one.insert("user", id="u", name="Ada")
    one.increment("user", "u", likes=2)
    level(one)
    other = connect()
    assert triples(other) == []
    other.set("mine", "x/v", 1)  # not sent yet, maybe: it belongs to what is here
    count = other.export(tmp_path / "all.csv")
    assert count == len(triples(one)) + 1
    copy = tripleweb.open()
    copy.import_(tmp_path / "all.csv")
    assert [row for row in triples(copy) if row[0] != "mine"] == triples(one)


def test_what_is_not_whole_is_not_written(connect: Connect, tmp_path: Path) -> None:
    one = connect()
    one.set("ada", "user/name", "Ada")
    level(one)
    other = connect()
    other.go_offline()
    other.set("bob", "user/name", "Bob")
    with pytest.raises(IncompleteError):
        other.export(tmp_path / "all.jsonl", timeout=1)
    assert not (tmp_path / "all.jsonl").exists()
    with pytest.warns(UserWarning, match="not all of"):
        assert other.export(tmp_path / "all.jsonl", timeout=1, strict=False) == 1


def test_connected_counters_come_to_the_total(connect: Connect, tmp_path: Path) -> None:
    """Also where nobody had asked for them: what is there is loaded first."""
    one = connect()
    one.increment("post", "p", likes=5)
    one.set("p", "post/tags", {"a"})
    level(one)
    one.export(tmp_path / "all.jsonl")
    one.set("p", "post/tags", {"b"})
    level(one)
    for _ in range(2):
        other = connect()
        assert other.import_(tmp_path / "all.jsonl") == 2
        level(other)
    level(one)
    held = one.get("post", "p", strict=True)
    assert held == {"id": "p", "likes": 5, "tags": ["a", "b"]}
    offline = connect()
    offline.go_offline()
    with pytest.raises(IncompleteError):
        offline.import_(tmp_path / "all.jsonl", timeout=1)
    assert offline.status.pending == 0


@pytest.mark.parametrize("replicate", ["queries", "all"])
def test_connected_an_import_reaches_everybody(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicate: str
) -> None:
    monkeypatch.setattr(transfer, "BUNCH", 20)
    source = tripleweb.open()
    fill(source, random.Random(9), 120)
    source.export(tmp_path / "all.edn")
    one, other = connect(replicate=replicate), connect(replicate="all")
    assert one.import_(tmp_path / "all.edn") == len(triples(source))
    one.flush(20, strict=True)
    level(other)
    assert triples(other) == triples(source)


# -- the parts -------------------------------------------------------------------------------------------------


def test_an_inventory_is_of_one_moment() -> None:
    db = tripleweb.open()
    fill(db, random.Random(2))
    held, before = Inventory(db._session.store), inventory(db)
    fill(db, random.Random(4))
    assert list(held) == before and held.count == len(before)
    assert inventory(db) != before


def test_an_inventory_is_all_that_is_visible() -> None:
    """As the store's own scans tell it, in order."""
    for seed in range(5):
        db = tripleweb.open()
        fill(db, random.Random(seed))
        store: Store = db._session.store
        scanned = [(s, p, v) for p in store.predicates() for s, v in store.scan(p)]
        told = [row[:3] for row in inventory(db)]
        key: Callable[[Any], Any] = lambda row: (row[0], row[1], type(row[2]).__name__, str(row[2]))  # noqa: E731
        assert sorted(told, key=key) == sorted(scanned, key=key)
        assert [row[:2] for row in told] == sorted(row[:2] for row in told)


@pytest.mark.long
def test_with_pyarrow(tmp_path: Path) -> None:
    """The same once more beside pyarrow, Parquet included; and what pandas makes of text with it."""
    there = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path / "with"), "pyarrow"]
    subprocess.run([*there, "--no-deps"], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "with"), *sys.path])}
    names = ["test_transfer.py", "test_frame.py", "test_sheet.py"]
    run = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "not long"]
    run += [str(Path(__file__).with_name(name)) for name in names]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-5_000:]
    assert done.stdout.count("parquet] PASSED") >= 4


# -- from the command line -------------------------------------------------------------------------------------


def test_as_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tripleweb … export | import` work on the data directory (`--data DIR`) or on a running server (`--url`): one
    that nobody serves, and one that a server holds, by its word or its address."""
    db, folder = tripleweb.open(), str(tmp_path / "data")
    fill(db, random.Random(3))
    db.export(tmp_path / "in.jsonl")
    said = f"{len(inventory(db)):,} triples of"
    assert cli.main(["import", "app", str(tmp_path / "in.jsonl"), "--data", folder]) == 0
    assert cli.main(["import", "app", str(tmp_path / "in.jsonl"), "--data", folder]) == 0, "twice is once"
    assert cli.main(["export", "app", str(tmp_path / "out.jsonl"), "--data", folder]) == 0
    assert capsys.readouterr().out.count(said) == 3
    written = (tmp_path / "in.jsonl").read_bytes()
    assert (tmp_path / "out.jsonl").read_bytes() == written
    with WebServer(SqliteStores(folder)) as server:
        server.announce(Path(folder))
        assert cli.main(["export", "app", str(tmp_path / "word.jsonl"), "--data", folder]) == 0
        monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token or "")
        assert cli.main(["export", "app", str(tmp_path / "url.jsonl"), "--url", server.url]) == 0
        assert cli.main(["export", "other", str(tmp_path / "no.jsonl"), "--url", server.url]) == 1
        assert "has no app 'other'" in capsys.readouterr().err
        monkeypatch.setenv("TRIPLEWEB_TOKEN", "wrong")
        assert cli.main(["export", "app", str(tmp_path / "no.jsonl"), "--url", server.url]) == 1
        assert "this token lets nobody see it; --token" in capsys.readouterr().err
        places.withdraw(Path(folder))
    for name in ("word.jsonl", "url.jsonl"):
        assert (tmp_path / name).read_bytes() == written
    assert not (tmp_path / "no.jsonl").exists()
    assert cli.main(["import", "new", str(tmp_path / "in.jsonl"), "--data", folder]) == 0, (
        "an import makes the app"
    )
    for command in (["export", "app", "x.txt"], ["export", "a b", "x.csv"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*command, "--data", folder])


@pytest.mark.parametrize("command", ["export", "import"])
@pytest.mark.parametrize("app", ["app", "new"])
def test_a_command_without_a_token_says_that_one_is_wanted_and_takes_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    app: str,
) -> None:
    """It is refused at once, however long it may wait."""
    for name in ("TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JUPYTERHUB_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path / "elsewhere"))
    file = tmp_path / "in.jsonl"
    db = tripleweb.open()
    db.set("x", "k/n", 1)
    db.export(file)
    with WebServer(MemoryStores()) as server:
        url = ["--url", server.url]
        assert cli.main(["import", "app", str(file), *url, "--token", server.token]) == 0
        before = sorted(server.hub.tenants)
        for given, said in (
            ([], "a token is wanted; give it as --token or in TRIPLEWEB_TOKEN"),
            (["--token", "wrong"], "this token lets nobody see it; --token or TRIPLEWEB_TOKEN gives another"),
        ):
            assert cli.main([command, app, str(file), *url, *given]) == 1
            told = capsys.readouterr().err
            assert said in told and "wrong" not in told
        assert sorted(server.hub.tenants) == before
        monkeypatch.setenv("TRIPLEWEB_TOKEN", "wrong")  # what stands beside the command counts
        made = app == "app" or command == "import"
        assert cli.main([command, app, str(file), *url, "--token", server.token]) == (0 if made else 1)
        monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
        assert cli.main([command, app, str(file), *url]) == (0 if made else 1)
