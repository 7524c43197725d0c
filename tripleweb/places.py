"""Where tripleweb keeps its files: one rule, for servers and replicas alike.

`TRIPLEWEB_DATA` names the folder; without it, it is the user's data folder of the platform. Below it, `server` belongs
to the server of this user and machine, `replicas` to the kernels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


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
