"""A server inside this process: `url="embedded"`, for notebooks that no Jupyter server runs, scripts and tests.

There is one for all stores of the process, on a thread of its own, over the user's data folder, so that what was
written is there the next time. The folder belongs to one server at a time: while another one has it, that one serves
us as well, and when it is gone we take the folder over. Invariant: the server outlives the stores of its process.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from tripleweb import places
from tripleweb.errors import NoServerError, StoreLockedError, TriplewebError

if TYPE_CHECKING:
    from tripleweb.web import WebServer

PATIENCE_S = 5  # for a server that has the folder already, and its address not yet

_log = logging.getLogger("tripleweb")
_choosing = threading.Lock()
_server: WebServer | None = None
_pid = 0  # of the process that it runs in: a forked child has none


def locate() -> tuple[str, str]:
    """(address, token) of the server that has the user's data folder; it is this process' if nobody else's.

    Raises `NoServerError` if another has it and left no address, `StorageError`.
    """
    with _choosing:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            if _server is not None and _pid == os.getpid():
                return _server.url, _server.token
            try:
                _start()
            except StoreLockedError as locked:
                held = places.announced(places.server_dir())
                if held is not None:
                    return held["url"], held["token"]
                if time.monotonic() > deadline:
                    raise NoServerError(
                        f"another server has this data, and left no address to reach it: {locked}"
                    ) from None
                time.sleep(0.05)


def _start() -> None:
    global _server, _pid
    from tripleweb.access import owner
    from tripleweb.storage.sqlite import SqliteStores
    from tripleweb.web import WebServer

    folder = places.server_dir()
    server = WebServer(SqliteStores(folder), owner=owner()).start()
    try:
        server.announce(folder)
    except OSError as error:
        _log.warning("other processes will not find the server of this one: %s", error)
    _server, _pid = server, os.getpid()


def stop() -> None:
    """Ends the server, if there is one; what it has is durable. The next store that asks for one starts it again."""
    global _server
    with _choosing:
        server, _server = _server, None
        if server is not None and _pid == os.getpid():
            places.withdraw(places.server_dir())
            server.stop()


def _stop_at_exit() -> None:
    try:
        stop()
    except (TriplewebError, OSError):
        _log.exception("the embedded server could not be ended; what it acknowledged is on disk")


def _forked() -> None:
    global _choosing
    _choosing = threading.Lock()  # a thread of the parent may have had the other


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
# What was registered last runs first: `discovery` imports this before there is any session to be closed at the end.
atexit.register(_stop_at_exit)
