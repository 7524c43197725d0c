"""Which processes an engine is made of, and where they come from; `live.installed` says where peers are kept."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.live.installed import NODE, PEERS, ROOT, node_modules, python

PINS = PEERS / "sync"
Words = Callable[[str, int, Path], list[str]]  # role, port, folder -> the command


def environment() -> dict[str, str]:
    """What a process of ours needs in order to find this checkout first."""
    ours = os.pathsep.join(str(ROOT / part) for part in (".", "jupyter_ext", "widgets"))
    return {"PYTHONPATH": ours, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}


def words(engine: str) -> Words:
    """How an engine's processes are started. Raises `NotInstalled`."""
    return ENGINES[engine]()


def _own() -> Words:
    def command(role: str, port: int, folder: Path) -> list[str]:
        if role == "server":
            return _python("tripleweb.cli", "serve", "--port", str(port), "--data", str(folder))
        module = {"real-writer": "real", "real-reader": "real", "loader": "loading"}.get(role, "own")
        return _python(f"tests.bench.sync.{module}", role, str(port), str(folder))

    return command


def _relay() -> Words:
    return lambda role, port, folder: _python("tests.bench.peers.relay", role, str(port), str(folder))


def _pycrdt() -> Words:
    there = str(python(PINS / "requirements.txt"))
    return lambda role, port, folder: [
        there, "-m", "tests.bench.peers.pycrdt_sync", role, str(port), str(folder),
    ]  # fmt: skip


def _y_websocket() -> Words:
    clients, server = _pycrdt(), _node("y_websocket_server.mjs")
    return lambda role, port, folder: (server if role == "server" else clients)(role, port, folder)


def _triplit() -> Words:
    return _node("triplit_sync.mjs")


def _node(script: str) -> Words:
    folder = node_modules(PINS)
    shutil.copy(PEERS / script, folder)  # imports are looked up from where the importing file is
    return lambda role, port, data: ["node", NODE, str(folder / script), role, str(port), str(data)]


def _python(module: str, *rest: str) -> list[str]:
    return [sys.executable, "-m", module, *rest]


ENGINES: dict[str, Callable[[], Words]] = {
    "tripleweb": _own,
    "relay": _relay,
    "triplit": _triplit,
    "pycrdt": _pycrdt,
    "y-websocket": _y_websocket,
}
RIVALS: Sequence[str] = ("triplit", "pycrdt", "y-websocket")
