"""The peers, and what else is kept outside of the checkout: in the user's cache, else in the temporary folder.

A folder is named after what is in it (a hash of the pins), and counts only once its mark is there, so an installation
that was interrupted is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / "tests" / "bench" / "peers"
SECONDS = 600
NODE = "--max-old-space-size=12000"


class NotInstalled(Exception):
    """A peer that is not there, and why."""


def command(engine: str) -> list[str]:
    """The command that runs an engine, to which the folder of the plan and the file of its lines are added; it runs in
    the checkout. Raises `NotInstalled`."""
    return ENGINES[engine]()


def _own() -> list[str]:
    return [sys.executable, "-m", "tests.bench.live.own"]


def _sqlite() -> list[str]:
    return [sys.executable, "-m", "tests.bench.peers.sqlite_rerun"]


def _perspective() -> list[str]:
    return [str(python(PEERS / "requirements.txt")), "-m", "tests.bench.peers.perspective_views"]


def _node(script: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        folder = node_modules(PEERS)
        for source in PEERS.glob("*.mjs"):  # imports are looked up from where the importing file is
            shutil.copy(source, folder)
        return ["node", "--expose-gc", NODE, str(folder / script)]

    return command


ENGINES: dict[str, Callable[[], list[str]]] = {
    "tripleweb": _own,
    "db-ivm": _node("db_ivm.mjs"),
    "tinybase": _node("tinybase_queries.mjs"),
    "datascript": _node("datascript_rerun.mjs"),
    "sqlite": _sqlite,
    "perspective": _perspective,
}


@cache
def node_modules(pinned: Path) -> Path:
    """The folder that has `node_modules` with what `package.json` and `package-lock.json` of a folder name. Raises
    `NotInstalled`."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NotInstalled(f"there is no {program}")
    pins = [pinned / "package.json", pinned / "package-lock.json"]

    def install(folder: Path) -> None:
        for pin in pins:
            shutil.copy(pin, folder)
        _call(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder)

    return kept("node", pins, install)


@cache
def python(requirements: Path) -> Path:
    """An interpreter that has what a file of requirements names. Raises `NotInstalled`."""
    pins = [requirements]

    def install(folder: Path) -> None:
        _call([sys.executable, "-m", "venv", "--without-pip", str(folder)], cwd=folder)
        interpreter = str(folder / "bin" / "python")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            interpreter,
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _call([*pip, "-r", str(pins[0])], cwd=folder)

    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return kept(name, pins, install) / "bin" / "python"


def kept(name: str, pins: Sequence[Path], install: Callable[[Path], None]) -> Path:
    """The folder that `install` fills, unless it did so before from the same pins. Raises `NotInstalled`."""
    what = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:12]
    folder = home() / f"{name}-{what}"
    mark = folder / "installed"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        mark.touch()
    return folder


def home() -> Path:
    """Where peers, data and figures are kept. Raises `NotInstalled`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for above in (cache, Path(tempfile.gettempdir())):
        try:
            (above / "tripleweb-bench").mkdir(parents=True, exist_ok=True)
        except OSError:  # no home that can be written to
            continue
        return above / "tripleweb-bench"
    raise NotInstalled("neither the cache nor the temporary folder can be written to")


def _call(words: Sequence[str], cwd: Path) -> None:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{Path(words[0]).name}: {error}") from error
    if done.returncode:
        raise NotInstalled(f"{' '.join(words[:4])} …: {(done.stderr or done.stdout).strip()[-300:]}")
