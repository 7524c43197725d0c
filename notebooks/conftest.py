"""Notebooks run by nbval get a real Jupyter server, as they have one in JupyterLab.

Fixtures do not reach notebook cells, but the environment does: so these are hooks, and the server's address is told
by `TRIPLEWEB_URL` and `TRIPLEWEB_TOKEN`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from notebooks.server import JupyterServer

_server = ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    folder = Path(tempfile.mkdtemp(prefix="tripleweb-notebooks-"))
    _server.callback(shutil.rmtree, folder, ignore_errors=True)
    server = _server.enter_context(JupyterServer(folder))
    os.environ["TRIPLEWEB_URL"], os.environ["TRIPLEWEB_TOKEN"] = server.url, server.token


def pytest_sessionfinish() -> None:
    _server.close()
