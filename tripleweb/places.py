"""Where tripleweb keeps its files: one rule, for servers and replicas alike.

`TRIPLEWEB_DATA` names the folder; without it, it is the user's data folder of the platform. Below it, `server` belongs
to the server of this user and machine, `replicas` to the kernels. A server's folder has a token of its own, in the
file `token`, which outlives restarts; `serving.json` says where the server is, while it runs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tripleweb.ids import nano_id

ANNOUNCEMENT = "serving.json"
TOKEN = "token"
TOKEN_LENGTH = 43


def data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for everything tripleweb keeps for this user; it need not be there yet.

    >>> data_dir({"TRIPLEWEB_DATA": "/data/tw"}).as_posix()
    '/data/tw'
    """
    if named := environment.get("TRIPLEWEB_DATA"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = environment.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Application Support"
    else:
        base = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "tripleweb"


def server_dir() -> Path:
    """The folder of the apps that a server on this machine keeps for this user."""
    return data_dir() / "server"


def replicas_dir() -> Path:
    """The folder of the replicas that this user's kernels keep."""
    return data_dir() / "replicas"


def announce(folder: Path, url: str, token: str) -> None:
    """Leaves word in a server's folder where it can be reached, for this user's eyes only."""
    path = folder / ANNOUNCEMENT
    fresh = path.with_suffix(f".{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": url, "token": token, "pid": os.getpid(), "host": platform.node()}, file)
    fresh.replace(path)


def lasting_token(folder: Path) -> str:
    """The token of a server's folder, made when it is first asked for; the same after a restart, so that who was given
    it is let in again. For this user's eyes only; a folder without the file `token` gets another one.

    Raises `OSError` where it cannot be read or kept.
    """
    path = folder / TOKEN
    try:
        held = path.read_text(encoding="ascii").strip()
        if len(held) >= TOKEN_LENGTH and held.isprintable():
            return held
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    token = nano_id(os.urandom, TOKEN_LENGTH)
    fresh = path.with_suffix(f".{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return token


def withdraw(folder: Path) -> None:
    """Takes back what this process announced."""
    if (held := announced(folder)) is not None and held["pid"] == os.getpid():
        (folder / ANNOUNCEMENT).unlink(missing_ok=True)


def announced(folder: Path) -> dict[str, Any] | None:
    """What the server of a folder left word of: `url`, `token`, `pid`. None if there is none, if its process has died
    without taking it back, or if it runs on another machine, where its address means something else."""
    try:
        held = json.loads((folder / ANNOUNCEMENT).read_text(encoding="utf-8"))
        pid = int(held["pid"])
        told = {"url": str(held["url"]), "token": str(held["token"]), "pid": pid}
        is_here = held.get("host", platform.node()) == platform.node()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return told if is_here and is_alive(pid) else None


def is_alive(pid: int) -> bool:
    """False if there is no such process on this machine."""
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C; who is dead does not answer either
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is there, though not ours
    return True
