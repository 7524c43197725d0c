"""Completion: what may stand where somebody types a query, and that a shell offers it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import tripleweb
from tests.datalog_generator import Generator
from tripleweb import t
from tripleweb.database import Database
from tripleweb.datalog.completion import Known, complete, queried
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer
from tripleweb_jupyter.completion import offers

KNOWN = Known(["user/name", "user/age", "post/title", "odd name", "bare"], ["adult"])


def words(text: str, cursor: int | None = None) -> list[str]:
    offer = complete(text, len(text) if cursor is None else cursor, KNOWN)
    assert text[: len(text) if cursor is None else cursor].endswith(offer.typed)
    return [word for word, _ in offer.words]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("[:fi", [":find"]),
        ("{:find [?n] :wh", [":where"]),
        ("[:find ?n :where [?u :us", [":user/age", ":user/name"]),
        ("[:find ?n :where [?u ", [":bare", ":post/title", ":user/age", ":user/name"]),
        ('[:find ?n :where [?u "us', ["user/age", "user/name"]),
        ('[:find ?n :where [?u "odd', ["odd name"]),
        ("[:find ?n :where [?u :user/name ?name] [?u :user/age ?na", ["?name"]),
        ("[:find ?n :where (ad", ["adult"]),
        ("[:find ?n :where (or", ["or", "or-join"]),
        ("[:find ?n :where (not-join [?u] [(get-e", ["get-else"]),
        ("[:find (cou", ["count", "count-distinct"]),
        ("[:find (pu", ["pull"]),
        ("[:find (pull ?u [:post/t", [":post/title"]),
        ("[:find (pull ?u [{:user/_n", [":user/_name"]),
        ("[:find (pull ?u [*]) :wh", [":where"]),
        ("[:find ?n :where ; a comment :us", []),
        ('[:find ?n :where [?u "a \\" :us', []),
        ("[(old ?u) [?u :user/na", [":user/name"]),
        ("[(old ?u) (ad", ["adult"]),
        (":", []),
        ("", []),
    ],
)
def test_what_may_stand_there(typed: str, expected: list[str]) -> None:
    assert words(typed) == expected


def test_in_the_middle_the_variables_after_the_cursor_count() -> None:
    text = "[:find ?"
    assert words(text + " :where [?u :user/name ?name]]", len(text)) == ["?u", "?name"]


def test_whatever_is_typed_and_wherever_it_never_raises() -> None:
    """Every place of generated queries, and of what random cuts make of them."""
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    for number in range(60):
        text = Generator(seed + number).case().text()
        for _ in range(4):
            cursor = draw.randrange(len(text) + 1)
            offer = complete(text, cursor, KNOWN)
            assert text[:cursor].endswith(offer.typed), f"seed {seed}"
            assert all(word.startswith(offer.typed) for word, _ in offer.words), f"seed {seed}"
            start, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
            cut = text[:start] + text[end:] + draw.choice(["", '"', "[(", "}])", "\\", ":", "?"])
            complete(cut, draw.randrange(len(cut) + 1), KNOWN)


def test_a_long_text_is_looked_at_near_the_cursor_only() -> None:
    text = "[:find ?n :where " + "[?u :user/name ?n] " * 200_000
    began = time.monotonic()
    assert complete(text + "[?u :us", len(text) + 7, KNOWN).typed == ":us"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("code", "is_query"),
    [
        ('db.q("[:find ?n', True),
        ("db.q('''\n  [:find ?n", True),
        ("db.q('[:find ?n', ", False),
        ("x = [1]\ndb.live('{:find [?n]", True),
        ("[:find ?n", False),
        ("# [:find", False),
    ],
)
def test_a_query_within_python(code: str, is_query: bool) -> None:
    assert (queried(code, len(code)) is not None) == is_query


# ---------------------------------------- in a shell


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    quiet = Config()
    quiet.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=quiet)
    shell.run_cell("%load_ext tripleweb").raise_error()
    yield shell
    if "tripleweb" in shell.extension_manager.loaded:
        shell.run_cell("%unload_ext tripleweb").raise_error()
    InteractiveShell.clear_instance()


def tab(shell: InteractiveShell, text: str) -> list[str]:
    """What the shell offers at the end of a cell, as kernels ask for it."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    assert all(text.endswith(text[one.start : one.end]) for one in found)
    return [one.text for one in found]


@pytest.fixture
def people(shell: InteractiveShell) -> Iterator[Database]:
    with tripleweb.open() as db:
        db.insert("user", name="Ada", age=36)
        db.rules("[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]")
        shell.user_ns["db"] = db
        yield db


def test_a_shell_offers_them(shell: InteractiveShell, people: Database) -> None:
    assert tab(shell, "%%datalog people\n[:find ?n :where\n [?u :us") == [":user/age", ":user/name"]
    assert tab(shell, "%datalog [:find ?n :where (ad") == ["adult"]
    assert tab(shell, "%%rules\n[(old ?u) [?u :user/a") == [":user/age"]
    assert tab(shell, 'df = db.q("[:find ?n :where [?u :user/n') == [":user/name"]
    assert tab(shell, "%%datalog people --") == ["--limit", "--once"]
    assert tab(shell, "%tw disc") == ["disconnect"]
    assert tab(shell, "%tripleweb connect my-app --") == ["--schema", "--url"]


def test_elsewhere_nothing_changes(shell: InteractiveShell, people: Database) -> None:
    assert "insert_frame" in tab(shell, "db.insert_fr")
    assert "%%datalog" in tab(shell, "%%data")


def test_a_schema_by_name(shell: InteractiveShell) -> None:
    shell.user_ns["people_schema"] = tripleweb.schema(user={"name": t.string()})
    shell.user_ns["people"] = 1
    assert tab(shell, "%tripleweb connect my-app --schema peo") == ["people_schema"]


def test_what_only_the_schema_knows(shell: InteractiveShell) -> None:
    with tripleweb.open(schema=tripleweb.schema(user={"name": t.string()})) as db:
        shell.user_ns["db"] = db
        assert tab(shell, "%%datalog\n[:find ?n :where [?u :u") == [":user/name"]


def test_what_only_the_server_has(shell: InteractiveShell) -> None:
    """A replica that loads what queries ask for has nothing yet."""
    with (
        WebServer(MemoryStores(), owner="ada") as server,
        tripleweb.connect("my-app", url=server.url, token=server.token, path=":memory:") as writer,
        tripleweb.connect("my-app", url=server.url, token=server.token, path=":memory:") as reader,
    ):
        writer.insert("user", name="Ada")
        writer.flush()
        shell.user_ns["db"] = reader
        assert reader._session.wait_for(lambda: reader._session.core.caught_up, 10)
        assert tab(shell, "%%datalog\n[:find ?n :where [?u :us") == [":user/name"]
        reader.go_offline()  # it is remembered for a while, and nobody is waited for
        assert tab(shell, "%%datalog\n[:find ?n :where [?u :us") == [":user/name"]


def test_a_transaction_of_another_thread_holds_nobody_up(shell: InteractiveShell, people: Database) -> None:
    entered, done = threading.Event(), threading.Event()

    def write() -> None:
        with people.transaction():
            entered.set()
            done.wait(30)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert entered.wait(10)
        offer = offers("%%datalog\n[:find ?n :where (adu", 30, shell.user_ns, [], [])
        assert offer is not None and [word for word, _ in offer.words] == ["adult"]
    finally:
        done.set()
        thread.join(10)


def test_unloading_ends_it(shell: InteractiveShell, people: Database) -> None:
    shell.run_cell("%unload_ext tripleweb").raise_error()
    assert ":user/name" not in tab(shell, "[:find ?n :where [?u :user/n")
    assert not [one for one in shell.Completer.custom_matchers if "tripleweb" in str(one)]
