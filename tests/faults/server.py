"""`python -m tests.faults.server FOLDER PORT OWNER TOKEN`: a server, until it is killed or its input ends.

It says its address, then answers `{"do": "count"}` with the threads and open files that it has.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from tripleweb.storage.sqlite import SqliteStores
from tripleweb.web import WebServer


def main(folder: str, port: str, owner: str, token: str) -> None:
    with WebServer(SqliteStores(Path(folder)), port=int(port), owner=owner, token=token) as server:
        print(json.dumps({"answer": server.url}), flush=True)
        for _ in sys.stdin:
            count = {"threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}
            print(json.dumps({"answer": count}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
