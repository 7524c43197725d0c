"""Stores and a server for tests that ask for them by name. A module with needs of its own has its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import tripleweb
from tests.faults.figures import FIGURES, table
from tests.stores import SCHEMA, Connect
from tripleweb.database import Database
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import WebServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from notebooks.server import JupyterServer


@pytest.fixture
def db() -> Iterator[Database]:
    """A store in memory, without a schema."""
    with tripleweb.open() as db:
        yield db


@pytest.fixture
def blog() -> Iterator[Database]:
    """A store in memory, with the schema of `tests.stores`."""
    with tripleweb.open(schema=SCHEMA) as db:
        yield db


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A server in this process; its owner is ada."""
    with WebServer(MemoryStores(), owner="ada") as running:
        yield running


@pytest.fixture
def connect(server: WebServer) -> Iterator[Connect]:
    """`tripleweb.connect` to an app of `server`, without a file; closed at the end."""
    made: list[Database] = []

    def connect(**options: Any) -> Database:
        place = {"url": server.url, "token": server.token, "path": ":memory:", **options}
        made.append(tripleweb.connect("app", **place))
        return made[-1]

    yield connect
    for db in made:
        db._session.close(0.2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A JupyterLab with the extension, and a folder of its own for each module of tests."""
    from tests.lab import run_lab

    yield from run_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; not for the whole session, as Playwright keeps its event loop running until it is closed."""
    from tests.lab import run_browser

    yield from run_browser()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What real faults cost those who were there."""
    if FIGURES:
        terminalreporter.section("the longest stall in each fault")
        terminalreporter.write_line(table(FIGURES))
