"""The rules of every pytest run of this project: tests, doctests and notebooks alike.

- Nothing touches the user's home. Before anything is imported, every directory that Jupyter, IPython,
  tripleweb, matplotlib or the XDG convention would use is pointed at a temporary folder, and so is HOME itself.
  This happens at import, not in a fixture: notebook cells run by nbval see the environment, but no fixtures.
- Where CI is set, a skip is a failure: there everything a test needs has been installed.
- Elsewhere one line at the end says what was left out, and why.

`outer_environment` gives the few tests that install packages the environment as it was outside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

_OUTER = dict(os.environ)
_ROOT = Path(tempfile.mkdtemp(prefix="tripleweb-tests-"))
_FOLDERS = {
    "HOME": "home",
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "JUPYTERLAB_SETTINGS_DIR": "jupyter/lab/settings",
    "JUPYTERLAB_WORKSPACES_DIR": "jupyter/lab/workspaces",
    "MPLCONFIGDIR": "matplotlib",
    "TRIPLEWEB_DATA": "data",
    "XDG_CACHE_HOME": "xdg/cache",
    "XDG_CONFIG_HOME": "xdg/config",
    "XDG_DATA_HOME": "xdg/data",
    "XDG_RUNTIME_DIR": "xdg/runtime",
    "XDG_STATE_HOME": "xdg/state",
}
# What would lead a test to a server, a hub or a kernel outside of it.
_FOREIGN = ("TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JPY_PARENT_PID", "JPY_SESSION_NAME", "JUPYTER_PATH")


def _isolate() -> None:
    for name in [name for name in os.environ if name in _FOREIGN or name.startswith("JUPYTERHUB_")]:
        del os.environ[name]
    for name, folder in _FOLDERS.items():
        (_ROOT / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ[name] = str(_ROOT / folder)


_isolate()


def _is_ci() -> bool:
    return _OUTER.get("CI", "").lower() not in ("", "0", "false")


@pytest.fixture(scope="session")
def outer_environment() -> dict[str, str]:
    """The environment in which pytest was started: its HOME, its caches, its package indexes (a copy)."""
    return dict(_OUTER)


_left_out: Counter[str] = Counter()


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _judge_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    if _is_ci():
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped although CI is set: {_reason(report)}"
    else:
        _left_out[_reason(report)] += 1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.CallInfo, None]:
    outcome = yield
    _judge_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CallInfo, None]:
    outcome = yield
    _judge_skip(outcome.get_result())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in sorted(_left_out.items()))
        terminalreporter.write_line(f"left out: {reasons}", yellow=True)


def pytest_unconfigure() -> None:
    os.environ.clear()
    os.environ.update(_OUTER)
    shutil.rmtree(_ROOT, ignore_errors=True)
