"""Backups of an app: whole or not there, put back under a new epoch, and what `check` finds wrong."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tripleweb
from tests.faults.processes import TOKEN, Server, wait_until
from tests.http_client import User
from tripleweb import places, t
from tripleweb.cli import main
from tripleweb.errors import StorageError
from tripleweb.influx import loaded
from tripleweb.storage import App, backups
from tripleweb.storage.memory import MemoryStores
from tripleweb.storage.sqlite import BLOCKED, SqliteStores, file_name
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer

APP = "notes"


def filled(folder: Path, count: int = 40, app: str = APP) -> Path:
    """A server's folder with an app of so many transactions."""
    with (
        WebServer(SqliteStores(folder), owner="ada") as server,
        tripleweb.connect(app, url=server.url, token=server.token, path=":memory:") as db,
    ):
        for n in range(count):
            db.set(f"e{n % 7}", "k/n", n)
        db.delete("e6")
        db.flush(30)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path / "server")


@pytest.fixture
def stores(folder: Path) -> Iterator[SqliteStores]:
    held = SqliteStores(folder)
    yield held
    held.close()


def made(stores: SqliteStores, target: Path) -> backups.Note:
    tenant = stores.open(APP)
    try:
        return backups.make(tenant, stores.apps()[APP], target, 1)
    finally:
        tenant.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def alter(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_backup_is_put_back_under_a_new_epoch(stores: SqliteStores, tmp_path: Path) -> None:
    target = tmp_path / "b.sqlite"
    note = made(stores, target)
    assert names(tmp_path) == ["b.sqlite", "server"] and backups.verify(target) == note
    tenant = stores.open(APP)
    before, registers = tenant.load(), sorted(loaded(tenant.load().registers).registers())
    tenant.close()
    done = backups.put_back(stores, APP, target)
    assert done.epoch != before.epoch == note.epoch and done.note == note
    tenant = stores.open(APP)
    after = tenant.load()
    assert (after.epoch, after.seq, after.replicas) == (done.epoch, before.seq, before.replicas)
    assert sorted(loaded(after.registers).registers()) == registers and [e.id for e in after.tail] == [
        e.id for e in before.tail
    ]
    tenant.close()
    assert done.aside is not None and done.aside.exists() and stores.tenants() == [APP]
    assert backups.check(stores, APP) == []


def test_a_restore_into_an_empty_folder_brings_the_app_with_its_members(
    stores: SqliteStores, tmp_path: Path
) -> None:
    stores.put(App(APP, "Notes", 5, {"bob": "reader"}))
    made(stores, tmp_path / "b.sqlite")
    other = SqliteStores(tmp_path / "other")
    done = backups.put_back(other, APP, tmp_path / "b.sqlite")
    assert done.aside is None and other.apps() == {APP: App(APP, "Notes", 5, {"bob": "reader"})}
    other.close()


def test_what_is_no_backup_of_this_app_is_refused(stores: SqliteStores, tmp_path: Path) -> None:
    target, text, empty = tmp_path / "b.sqlite", tmp_path / "t", tmp_path / "e"
    made(stores, target)
    text.write_text("no database")
    empty.write_bytes(b"")
    foreign = tmp_path / "f"
    alter(foreign, "CREATE TABLE meta (name TEXT, value)")
    data = stores.folder / file_name(APP)
    before = names(stores.folder), data.read_bytes()
    with pytest.raises(
        StorageError, match=f"^{re.escape(str(text))} "
    ):  # the file that they gave, not a copy of ours
        backups.put_back(stores, APP, text)
    for wrong, said in (
        (text, "no backup"),
        (empty, "no backup"),
        (foreign, "not a tripleweb tenant"),
        (data, "no backup"),  # an app's file as it lies there
        (tmp_path / "nowhere", "nowhere"),
        (tmp_path, str(tmp_path)),
    ):
        with pytest.raises(StorageError, match=said):
            backups.put_back(stores, APP, wrong)
    with pytest.raises(StorageError, match="of app 'notes', not of 'other'"):
        backups.put_back(stores, "other", target)
    assert (names(stores.folder), data.read_bytes()) == before
    assert backups.put_back(stores, "other", target, force=True).note.app == APP
    assert backups.check(stores, "other") == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE triples SET object = 'other' WHERE rowid = (SELECT max(rowid) FROM triples)",
        "UPDATE meta SET value = value - 1 WHERE name = 'seq'",
        "UPDATE replicas SET last = last + 1",
        "bytes",
        "short",
    ],
)
def test_a_backup_that_was_altered_is_refused(stores: SqliteStores, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "b.sqlite"
    made(stores, target)
    size = target.stat().st_size
    if damage == "bytes":
        with open(target, "r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(5_000))
    elif damage == "short":
        os.truncate(target, size // 2)
    else:
        alter(target, damage)
    before = names(stores.folder)
    with pytest.raises(StorageError):
        backups.put_back(stores, APP, target)
    assert names(stores.folder) == before


def test_a_backup_that_cannot_be_finished_leaves_nothing(
    stores: SqliteStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b.sqlite"
    target.write_bytes(b"the one before")

    def broken(tenant: object) -> str:
        raise StorageError("it does not read back")

    monkeypatch.setattr(backups, "_read_whole", broken)
    with pytest.raises(StorageError, match="read back"):
        made(stores, target)
    assert target.read_bytes() == b"the one before" and names(tmp_path) == ["b.sqlite", "server"]


def test_an_interrupted_restore_leaves_no_empty_app(
    stores: SqliteStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(stores, tmp_path / "b.sqlite")
    replace = os.replace

    def dies(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        backups.put_back(stores, APP, tmp_path / "b.sqlite")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="interrupted: run it again"):
        stores.open(APP)
    assert backups.put_back(stores, APP, tmp_path / "b.sqlite").note.app == APP
    assert backups.check(stores, APP) == [] and not any(BLOCKED in name for name in names(stores.folder))


def garbage(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(5 * 4096)
        file.write(os.urandom(3 * 4096))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM log WHERE seq = 5", "no entry 5"),
        ("DELETE FROM log WHERE seq = (SELECT max(seq) FROM log)", "the log ends at"),
        ("UPDATE log SET body = x'7b7d' WHERE seq = 3", "log entry 3"),
        ("UPDATE triples SET object = 99 WHERE subject = 'e1'", "table and log differ"),
        ("DELETE FROM triples WHERE subject = 'e2'", "table and log differ"),
        ("DELETE FROM triples WHERE predicate = '_deleted'", "table and log differ"),
        ("INSERT INTO receipts VALUES ('zzzzzzzzzzzz', 1, 'x', '{}')", "not known to have made it"),
        ("DELETE FROM replicas", "known up to 0"),
        (garbage, "damaged"),
        (lambda path: path.write_bytes(b"x" * 5_000), "not a database"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), ""),
    ],
)
def test_check_finds_each_damage(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: str | Callable[[Path], object], said: str
) -> None:
    assert main(["check", APP, "--data", str(folder)]) == 0
    assert capsys.readouterr().out == "notes: whole\n"
    path = folder / file_name(APP)
    stores = SqliteStores(folder)
    tenant = stores.open(APP)
    backups.compact(tenant, 0)  # all of it in the table
    tenant.close()
    stores.close()
    if isinstance(damage, str):
        alter(path, damage)
    else:
        damage(path)
    filled(folder, 3, "other")
    assert main(["check", "--data", str(folder)]) == 1
    out = capsys.readouterr().out
    assert (
        out.startswith("notes: damaged\n")
        and "other: whole" in out
        and said in out
        and "tripleweb restore" in out
    )


def test_the_command_line_on_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract: "`tripleweb backup APP FILE`, `tripleweb restore APP FILE`, `tripleweb check [APP]`" work on the data
    directory (`--data DIR`)."""
    data, file = ["--data", str(folder)], str(tmp_path / "b")
    assert main(["backup", APP, file, *data]) == 0
    assert "read whole" in capsys.readouterr().out
    assert main(["restore", APP, file, *data]) == 0
    assert "its epoch is" in capsys.readouterr().out
    assert main(["compact", APP, *data]) == 0
    assert main(["check", APP, *data]) == 0
    for wrong, said in (
        (["backup", "nowhere", file, *data], "no app nowhere"),
        (["check", "nowhere", *data], "no app nowhere"),
        (["restore", "nowhere", file, *data], "not of 'nowhere'"),
        (["check", "--data", str(tmp_path / "none")], "no such folder"),
        (["check", "--url", "ftp://x"], "no address"),
        (["check", "--url", "http://127.0.0.1:1/"], "cannot be reached"),
    ):
        assert main(wrong) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit) as ended:
        main(["backup", ".hidden", file])
    assert ended.value.code == 2


def test_the_command_line_on_a_running_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract: "… or on a running server (`--url`)"; one that has left word in the folder is found."""
    file = str(tmp_path / "b")
    with WebServer(SqliteStores(folder), owner="ada") as server:
        assert main(["check", "--data", str(folder)]) == 1
        assert "--url" in capsys.readouterr().err
        server.announce(folder)
        assert main(["backup", APP, file, "--data", str(folder)]) == 0
        places.withdraw(folder)
        monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
        with tripleweb.connect(
            APP, url=server.url, token=server.token, path=":memory:", replicate="all"
        ) as db:
            db.set("late", "k/n", 1)
            db.flush(30)
            assert main(["restore", APP, file, "--url", server.url]) == 0
            wait_until(lambda: db.status.state == "online" and db.status.pending == 0, "online again")
            db.flush(60)
            assert dict(db.q("[:find ?e ?v :where [?e :k/n ?v]]").itertuples(index=False))["late"] == 1
        assert main(["check", "--url", server.url]) == 0
        assert main(["compact", APP, "--url", server.url]) == 0
        assert main(["restore", APP, __file__, "--url", server.url]) == 1
        assert "400: the body is no backup" in capsys.readouterr().err
        monkeypatch.setenv("TRIPLEWEB_TOKEN", "wrong")
        assert main(["check", APP, "--url", server.url]) == 1
        assert "403" in capsys.readouterr().err
        assert names(folder / "backups") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "backup"), ("PUT", "backup"), ("POST", "restore"), ("GET", "check"), ("POST", "compact")],
)
def test_only_admins_get_at_the_files(folder: Path, method: str, path: str) -> None:
    """Contract: "Everything is authenticated." """
    with WebServer(SqliteStores(folder), owner="ada") as server:
        before = names(folder)
        for user in (User(server, "bob"), User(server, token="0123456789" * 4)):
            answer = user.call(method, f"apps/{APP}/{path}", b"{}" if method != "GET" else None)
            assert answer.error == (403, "forbidden"), answer
        assert names(folder) == before


def test_apps_are_listed_of_a_folder_and_of_a_running_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract: "`tripleweb apps | …` work on the data directory (`--data DIR`) or on a running server (`--url`)"."""
    with WebServer(SqliteStores(folder), owner="ada") as server:
        made = User(server).post("apps", {"name": "Ü 🦊"}).json["id"]
        monkeypatch.setenv("TRIPLEWEB_TOKEN", server.token)
        assert main(["apps", "--url", server.url]) == 0
        told = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
        assert sorted(told) == sorted([[APP, "admin", APP], [made, "admin", "Ü 🦊"]])
        server.announce(folder)
        assert main(["apps", "--data", str(folder)]) == 0  # the running server that has the folder
        assert f"{made}  admin  Ü 🦊" in capsys.readouterr().out.splitlines()
    assert main(["apps", "--data", str(folder)]) == 0
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert sorted(told) == sorted([[APP, APP], [made, "Ü 🦊"]])
    assert main(["apps", "--data", str(folder / "nowhere")]) == 1


def test_a_body_that_is_no_backup_of_the_app_is_malformed(folder: Path, tmp_path: Path) -> None:
    """Contract: "Errors are {"error", "message"}". 503 would have clients try again, and our paths mean nothing to
    them."""
    assert main(["backup", APP, str(tmp_path / "b"), "--data", str(folder)]) == 0
    good = (tmp_path / "b").read_bytes()
    with WebServer(SqliteStores(folder), owner="ada") as server:
        ada = User(server)
        before = ada.get("apps").json
        for app, body, said in (
            (APP, b"{not a backup", "no backup"),
            (APP, b"SQLite format 3\x00" + b"x" * 5_000, "the body"),
            ("other", good, "a backup of app"),
        ):
            answer = ada.call("POST", f"apps/{app}/restore", body)
            assert answer.error == (400, "malformed"), answer
            assert said in answer.json["message"] and str(folder) not in answer.json["message"]
        assert ada.get("apps").json == before and names(folder / "backups") == []


def test_a_server_in_memory_says_that_it_has_no_files() -> None:
    with WebServer(MemoryStores(), owner="ada") as server:
        ada = User(server)
        app = ada.post("apps", {"name": "x"}).json["id"]
        answer = ada.get(f"apps/{app}/check")
        assert answer.error == (503, "unavailable") and "in memory" in answer.json["message"]


def test_a_backup_while_writers_write(tmp_path: Path) -> None:
    """Real processes: nothing that was acknowledged is lost that its writer holds, nothing counts twice, all agree."""
    server = Server(tmp_path / "server")
    stop = threading.Event()
    counts = [0, 0, 0]

    def joined(path: Path | str) -> tripleweb.Database:
        schema = tripleweb.schema(tally={"n": t.counter()})
        return tripleweb.connect(APP, url=server.url, token=TOKEN, path=path, replicate="all", schema=schema)

    def write(n: int) -> None:
        with joined(tmp_path / f"r{n}") as db:
            while not stop.is_set():
                with db.transaction():
                    db.set(f"w{n}-{counts[n]}", "k/n", n)
                    db.increment("tally", "all", n=1)
                counts[n] += 1
                db.flush(60)
            db.flush(60)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: min(counts) > 20, "some writes")
        url = ["--url", server.url, "--token", TOKEN]
        assert main(["backup", APP, str(tmp_path / "b"), *url]) == 0
        wait_until(lambda at=list(counts): min(a - b for a, b in zip(counts, at, strict=True)) > 20, "more")  # type: ignore[misc]
        assert main(["restore", APP, str(tmp_path / "b"), *url]) == 0
        wait_until(
            lambda at=list(counts): min(a - b for a, b in zip(counts, at, strict=True)) > 5, "and more"
        )  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(60)
        with joined(":memory:") as db:
            wait_until(lambda: len(db.q("[:find ?e :where [?e :k/n]]")) == sum(counts), f"all of {counts}")
            assert db.get("tally", "all") == {"id": "all", "n": sum(counts)}
        assert main(["check", APP, *url]) == 0
    finally:
        stop.set()
        server.kill()


# -- damaged files -----------------------------------------------------------------------------------------------------


def state(server: WebServer, app: str, path: Path | str = ":memory:") -> tripleweb.Database:
    return tripleweb.connect(app, url=server.url, token=server.token, path=path, replicate="all")


def rows(db: tripleweb.Database) -> dict[str, int]:
    return dict(db.q("[:find ?e ?v :where [?e :k/n ?v]]").itertuples(index=False))


@pytest.mark.parametrize("damage", [garbage, lambda path: path.write_bytes(b"x" * 5_000)])
def test_a_damaged_file_stops_its_app_alone_until_it_is_restored(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    filled(folder, 3, "other")
    assert main(["backup", APP, str(tmp_path / "b"), "--data", str(folder)]) == 0
    path = folder / file_name(APP)
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):  # also by a server that never saw the damage
        with WebServer(SqliteStores(folder), owner="ada") as server:
            with state(server, "other") as db:
                db.flush(30)
                assert rows(db) == {"e0": 0, "e1": 1, "e2": 2}
            answer = User(server).get(f"apps/{APP}/check")
            assert answer.error == (503, "unavailable")
            assert (
                "damaged" in answer.json["message"]
                and f"tripleweb restore {APP} FILE" in answer.json["message"]
            )
            assert ".aside" in answer.json["message"] and not path.exists()
    (aside,) = folder.glob("*.aside")
    assert aside.read_bytes() == damaged
    assert main(["check", APP, "--data", str(folder)]) == 1
    assert main(["restore", APP, str(tmp_path / "b"), "--data", str(folder)]) == 0
    assert main(["check", APP, "--data", str(folder)]) == 0
    with WebServer(SqliteStores(folder), owner="ada") as server, state(server, APP) as db:
        db.flush(30)
        assert rows(db)["e0"] == 35


def test_a_damaged_file_is_replaced_by_the_servers_own_backup(tmp_path: Path) -> None:
    """… and what it had not seen comes again from whoever wrote it."""
    folder, replica = tmp_path / "server", tmp_path / "replica"
    limits = HubLimits(tick_s=0.05, backup_every_s=0.2)
    with (
        WebServer(SqliteStores(folder), owner="ada", limits=limits) as server,
        state(server, APP, replica) as db,
    ):
        db.set("early", "k/n", 1)
        db.flush(30)
        wait_until(
            lambda: list(folder.glob("backups/notes/*.backup.sqlite")), "the server makes a backup by itself"
        )
    with WebServer(SqliteStores(folder), owner="ada") as server, state(server, APP, replica) as db:
        db.set("late", "k/n", 2)
        db.flush(30)
    garbage(folder / file_name(APP))
    with WebServer(SqliteStores(folder), owner="ada") as server:
        with state(server, APP) as other:  # the writer is not there yet
            other.flush(30)
            assert rows(other) == {"early": 1}
        with state(server, APP, replica) as db:
            db.flush(30)
            wait_until(lambda: rows(db) == {"early": 1, "late": 2}, "all of it")
        assert User(server).get(f"apps/{APP}/check").json == {"problems": []}


def test_the_servers_own_backups_are_few(stores: SqliteStores) -> None:
    tenant = stores.open(APP)
    for at in (5, 1_000_000_000_000, 1_000_000_000_001, 2_000_000_000_000):
        backups.keep(stores, tenant, stores.apps()[APP], at, 2)
    assert [backups.kept_at(path) for path in backups.kept(stores, APP)] == [
        2_000_000_000_000,
        1_000_000_000_001,
    ]
    assert tenant.load().backup == tenant.position
    tenant.close()


# -- a log with a floor ------------------------------------------------------------------------------------------------


def test_the_log_is_cut_by_age_and_by_size(stores: SqliteStores) -> None:
    tenant = stores.open(APP)
    last, now = tenant.position[1], tenant.load().tail[-1].at
    size, month = tenant.log_bytes, 30 * 86_400_000
    assert size > 0
    assert backups.floor_of(tenant, now, month, size, 5) == 0
    assert backups.floor_of(tenant, now + month + 1, month, size, 5) == last
    half = backups.floor_of(tenant, now, month, size // 2, 5)
    assert 0 < half < last and backups.floor_of(tenant, now, month, 0, 5) == last - 5
    while tenant.fold(1_000):
        pass
    while tenant.trim(half):
        pass
    assert tenant.floor == half and list(backups.problems(tenant)) == []
    assert tenant.log_bytes <= size
    backups.compact(tenant, last)
    assert tenant.floor == last and list(backups.problems(tenant)) == [] and not tenant.load().tail
    tenant.close()


def test_clients_below_the_floor_load_again_and_hand_in_what_they_wrote(tmp_path: Path) -> None:
    """Registers and the graveyard keep their stamps: what arrives late merges as ever, once."""
    folder, replica = tmp_path / "server", tmp_path / "replica"
    limits = HubLimits(tick_s=0.05, log_s=0.0, log_every_s=0.7, linger_s=0)
    with WebServer(SqliteStores(folder), owner="ada", limits=limits) as server:
        with state(server, APP, replica) as ada:
            ada.set("a", "k/n", 1)
            ada.set("gone", "k/n", 1)
            ada.flush(30)
            ada.go_offline()
            ada.set("a", "k/n", 2)
            ada.set("gone", "k/n", 2)
            ada.set("late", "k/n", 3)
        with state(server, APP) as bob:
            bob.delete("gone")
            bob.set("a", "k/n", 4)
            bob.set("b", "k/n", 5)
            bob.flush(30)
            wait_until(lambda: server.site.hub.tenants[APP].storage.floor >= 5, "the log is cut")  # type: ignore[union-attr]
        with state(server, APP, replica) as ada:
            ada.flush(30)
            assert rows(ada) == {"a": 4, "b": 5, "late": 3}
            outcomes = list(ada.receipts()["outcome"])
        assert outcomes == ["applied", "applied", "superseded", "superseded", "applied"]
    assert main(["check", APP, "--data", str(folder)]) == 0
