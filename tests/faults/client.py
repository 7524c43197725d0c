"""`python -m tests.faults.client ROLE URL TOKEN APP PATH NAME`: one store, until it is killed or its input ends.

    writer     writes without a pause and says `{"wrote": n}` after each write that returned, `{"flushed": n}` after
               each flush. One write is one transaction: an item of its own, and one more in two counters.
    idle       does only what it is told

Orders: `stop` ends writing; `write` writes one; `fill` writes large ones until one fails; `room` as at the server;
`offline`, `online`, `flush`; `try_flush` answers with what is `pending` after a while; `dump` with everything that is
there; `counts` with the counters.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import tripleweb
from tests.faults.server import make_room

EVERYTHING = "[:find ?e ?p ?v :where [?e ?p ?v]]"
COUNTS = "[:find ?e ?n :where [?e :sum/count ?n]]"
ITEMS = "[:find ?e ?by ?n :where [?e :item/by ?by] [?e :item/n ?n]]"


class Client:
    def __init__(self, role: str, url: str, token: str, app: str, path: str, name: str) -> None:
        self.role = role
        self.name = name
        # who writes goes on with the number after what is in his file
        self.db = tripleweb.connect(
            app, url=url, token=token, path=path or None, replicate="all" if path else "queries"
        )
        self.stopped = threading.Event()
        self.number = len(self.db._session.store.subjects("item/by", name)) if path else 0  # type: ignore[arg-type]
        self._speaking = threading.Lock()

    def say(self, **what: Any) -> None:
        with self._speaking:
            sys.stdout.write(json.dumps(what) + "\n")
            sys.stdout.flush()

    def write(self) -> int:
        """One item, and one more in two counters."""
        number = self.number
        with self.db.transaction():
            self.db.insert("item", id=f"{self.name}-{number}", by=self.name, n=number)
            self.db.increment("sum", "all", count=1)
            self.db.increment("sum", self.name, count=1)
        self.number += 1
        return number

    def keep_writing(self) -> None:
        while not self.stopped.is_set():
            number = self.write()
            self.say(wrote=number)
            if number % 20 == 19:
                try:
                    self.db.flush(5)
                except TimeoutError:  # the server is dead just now
                    continue
                self.say(flushed=number)
            self.stopped.wait(0.002)

    def all_of(self, query: str) -> list[Any] | None:
        """All rows; None while it waits before it tries to connect again, and knows only some: ask once more."""
        try:
            return self.db.q(query, timeout=30, strict=True).to_numpy().tolist()
        except tripleweb.IncompleteError:
            return None

    def obey(self, order: dict[str, Any]) -> Any:
        what = order["do"]
        if what == "stop":
            self.stopped.set()
            self.worker.join(30)
            return self.number
        if what == "write":
            return self.write()
        if what == "room":
            return make_room(order["bytes"])
        if what == "fill":
            for number in range(order["most"]):
                try:
                    self.db.insert("big", id=f"{self.name}-{number}", text="x" * 50_000)
                except tripleweb.StorageError as error:
                    return [number, str(error)]
            return [order["most"], ""]
        if what == "offline":
            return self.db.go_offline()
        if what == "online":
            return self.db.go_online()
        if what == "flush":
            self.db.go_online()
            return self.db.flush(60)
        if what == "try_flush":
            try:
                self.db.flush(order["within"])
            except TimeoutError:
                return self.db.status.pending
            return 0
        if what == "counts":
            rows = self.all_of(COUNTS)
            return None if rows is None else dict(rows)
        if what == "pending":
            return self.db.status.pending
        if what == "dump":
            rows = self.all_of(EVERYTHING)
            return None if rows is None else sorted(rows, key=repr)
        raise ValueError(what)

    def run(self) -> None:
        work = {"writer": self.keep_writing, "idle": lambda: None}[self.role]
        self.worker = threading.Thread(target=work, daemon=True)
        self.worker.start()
        for line in sys.stdin:
            self.say(answer=self.obey(json.loads(line)))
        self.stopped.set()
        self.db.close()


if __name__ == "__main__":
    client = Client(*sys.argv[1:])
    client.say(answer=client.db._session.replica.path)
    client.run()
