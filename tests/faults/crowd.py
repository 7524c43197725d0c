"""`python -m tests.faults.crowd URL TOKEN APP FOLDER NAME OPTIONS`: several stores in one process, until it is killed
or its input ends.

`OPTIONS` is JSON: how many `writers` and `readers`; `pause`, the seconds between two writes of a writer (0.05); `pace`,
times of the links that are not the usual ones. A writer writes as in `tests.faults.client`: one item of its own, and
one more in two counters. It is called NAME.0, NAME.1, … and has a file in `FOLDER`; every third one has all of the
app, the others what is asked for. A reader follows all items, without a file.

Orders: `stop` ends writing and answers with how many each wrote, `wrote` only answers; `decided` answers when that was
written which was decided last (of the writer for whom that is longest ago); `flush`; `clock` sets the clocks of all
stores to so many `ahead_ms` of the true one; `dumps` answers with what each store shows, by its `digest`, None for one
that does not have all of it just now; `waits` with all waits since the start: of writes until they were
decided, of readers from one sight to the next; `gaps` with items that a reader saw without those written before them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import tripleweb
from tests.faults.client import EVERYTHING, ITEMS
from tests.faults.figures import Span
from tripleweb import link
from tripleweb.live import LiveDelta, LiveFrame

LOOK_S = 0.005  # between two looks at what was decided


def digest(rows: Sequence[Any]) -> str:
    """Of rows as they are after a way through JSON."""
    return hashlib.sha256("\n".join(sorted(json.dumps(list(row)) for row in rows)).encode()).hexdigest()[:16]


class Writer:
    def __init__(self, name: str, db: tripleweb.Database, pause: float) -> None:
        self.name = name
        self.db = db
        self.pause = pause
        self.number = 0
        self.waits: list[Span] = []
        self._written: deque[float] = deque()  # when those that are not decided yet were written
        self._random = random.Random(name)

    def write(self) -> None:
        began = time.monotonic()
        with self.db.transaction():
            self.db.insert("item", id=f"{self.name}-{self.number}", by=self.name, n=self.number)
            self.db.increment("sum", "all", count=1)
            self.db.increment("sum", self.name, count=1)
        self.number += 1
        self._written.append(began)

    def keep_writing(self, stopped: threading.Event) -> None:
        while not stopped.wait(self.pause * self._random.uniform(0.5, 1.5)):
            self.write()

    def look(self) -> None:
        """Notes what was decided: always the oldest first."""
        now = time.monotonic()
        while len(self._written) > self.db.status.pending:
            self.waits.append((self._written.popleft(), now))


class Reader:
    def __init__(self, db: tripleweb.Database) -> None:
        self.db = db
        self.gaps: list[Any] = []
        self.sights: list[float] = [time.monotonic()]
        self._numbers: dict[str, set[int]] = defaultdict(set)
        self.live = db.live(ITEMS)
        self.live.on_change(self._seen)

    def _seen(self, live: LiveFrame, delta: LiveDelta) -> None:
        self.sights.append(time.monotonic())
        touched = set()
        for _, name, number in delta.removed.itertuples(index=False):  # a server that is put back to a backup
            self._numbers[name].discard(number)
            touched.add(name)
        for _, name, number in delta.added.itertuples(index=False):
            self._numbers[name].add(number)
            touched.add(name)
        for name in (
            touched
        ):  # each writer's numbers have no gap: a transaction is never seen without those before it
            numbers = self._numbers[name]
            if numbers and len(numbers) != max(numbers) + 1:
                self.gaps.append([name, max(numbers), sorted(set(range(max(numbers))) - numbers)[:10]])


class Crowd:
    def __init__(self, url: str, token: str, app: str, folder: str, name: str, options: str) -> None:
        given = json.loads(options)
        if "pace" in given:
            link.Pace = functools.partial(link.Pace, **given["pace"])  # type: ignore[assignment,misc]
        connect = functools.partial(tripleweb.connect, app, url=url, token=token)
        self.readers = [Reader(connect(path=":memory:")) for _ in range(given["readers"])]
        self.writers = [
            Writer(
                f"{name}.{n}",
                connect(path=f"{folder}/{name}.{n}", replicate="queries" if n % 3 else "all"),
                given.get("pause", 0.05),
            )
            for n in range(given["writers"])
        ]
        self.all = [each.db for each in (*self.writers, *self.readers)]
        self.stopped, self._ended = threading.Event(), threading.Event()
        self._working = [
            threading.Thread(target=each.keep_writing, args=(self.stopped,), daemon=True)
            for each in self.writers
        ]
        self._looking = threading.Thread(target=self._look, daemon=True)
        for thread in (*self._working, self._looking):
            thread.start()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            for writer in self.writers:
                writer.look()

    def obey(self, order: dict[str, Any]) -> Any:
        what = order["do"]
        if what == "stop":
            self.stopped.set()
            for thread in self._working:
                thread.join(30)
                assert not thread.is_alive(), "a write does not return"
            return {writer.name: writer.number for writer in self.writers}
        if what == "wrote":
            return {writer.name: writer.number for writer in self.writers}
        if what == "decided":
            return min((writer.waits[-1][0] if writer.waits else 0.0) for writer in self.writers)
        if what == "clock":
            for db in self.all:
                ahead = order["ahead_ms"]
                db._session._now = lambda ahead=ahead: time.time_ns() // 1_000_000 + ahead
            return None
        if what == "flush":
            for writer in self.writers:
                writer.db.go_online()
                writer.db.flush(60)
            return None
        if what == "dumps":
            return [self._dump(db) for db in self.all]
        if what == "waits":
            for writer in self.writers:
                writer.look()
            return {
                "undecided": [wait for writer in self.writers for wait in writer.waits],
                "unseen": [
                    wait
                    for reader in self.readers
                    for wait in zip(reader.sights, reader.sights[1:], strict=False)
                ],
            }
        if what == "gaps":
            return [gap for reader in self.readers for gap in reader.gaps]
        raise ValueError(what)

    @staticmethod
    def _dump(db: tripleweb.Database) -> str | None:
        try:
            return digest(db.q(EVERYTHING, timeout=20, strict=True).to_numpy().tolist())
        except tripleweb.IncompleteError:
            return None  # it waits before it tries to connect again: whoever asks may ask again

    def run(self) -> None:
        for line in sys.stdin:
            print(json.dumps({"answer": self.obey(json.loads(line))}), flush=True)
        self.stopped.set()
        self._ended.set()
        for db in self.all:
            db.close()


if __name__ == "__main__":
    crowd = Crowd(*sys.argv[1:])
    print(json.dumps({"answer": len(crowd.all)}), flush=True)
    crowd.run()
