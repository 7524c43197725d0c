"""`python -m tests.faults.server FOLDER PORT OWNER TOKEN [PING_S [BACKUP_S]]`: a server, until its input ends.

It says its address, then obeys: `count` answers with the threads and open files that it has; `room` lets no file grow
beyond so many bytes (-1: as large as it likes), which is what a full disk is to those who write; `clock` sets its clock
to so many `ahead_ms` of the true one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

from tripleweb import web
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.tenant import HubLimits
from tripleweb.web import WebServer


def make_room(bytes: int) -> None:
    """No file of this process grows beyond so many bytes; -1: as large as it likes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if bytes < 0 else bytes, hard))


def main(folder: str, port: str, owner: str, token: str, ping_s: str = "", backup_s: str = "") -> None:
    if ping_s:
        web.PING_S = float(ping_s)  # type: ignore[assignment]
    limits = HubLimits(tick_s=0.2, backup_every_s=float(backup_s)) if backup_s else None
    stores = SqliteStores(Path(folder))
    with WebServer(stores, port=int(port), owner=owner, token=token, limits=limits) as server:
        print(json.dumps({"answer": server.url}), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            answer = None
            if order["do"] == "count":
                answer = {"threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}
            elif order["do"] == "room":
                make_room(order["bytes"])
            elif order["do"] == "clock":
                ahead = order["ahead_ms"]
                server.hub.now_ms = lambda ahead=ahead: time.time_ns() // 1_000_000 + ahead
            print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
