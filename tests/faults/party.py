"""Crowds of stores at one server, and what has to be true of them after any fault.

No acknowledged write lost, none doubled (each writer's items are numbered, and counted in two counters), all stores
equal, no reader saw a gap, and the server's disk says the same. `Party.judge` asserts all of it and gives the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.crowd import digest
from tests.faults.figures import FIGURES, Figures, Span, longest
from tests.faults.processes import PATIENCE_S, TOKEN, Process, Server, asked, client, let_pass, wait_until

APP = "app"
# what a link and a server wait for, short: else a night's sleep takes a minute of a test
QUICK = {"tick": 0.5, "keep_alive": 0.5, "silence": 2.0, "longest_pause": 2.0, "settled": 0.5, "connect": 2.0}


class Party:
    """`url` is where crowds connect: the server, or a proxy before it."""

    def __init__(self, server: Server, folder: Path, *, url: str = "", app: str = APP) -> None:
        self.server = server
        self.url = url or server.url
        self.app = app
        self._folder = folder
        self._crowds: dict[Process, list[Span]] = {}  # with the times when nobody could reach the server
        self._others: list[Process] = []
        self.outages: list[Span] = []
        self.counts: dict[str, int] = {}  # once it is judged: the counters,
        self.dump: list[Any] = []  # and everything
        self.clients = 0

    # -- who is there

    def crowd(self, name: str, writers: int, readers: int, **options: Any) -> Process:
        given = json.dumps({"writers": writers, "readers": readers, **options})
        process = Process("crowd", self.url, TOKEN, self.app, str(self._folder), name, given)
        self._crowds[process] = []
        self.clients += process.answer()
        return process

    def store(self, role: str, name: str) -> Process:
        """A process with one store; see `tests.faults.client`."""
        path = str(self._folder / name) if role == "writer" else ":memory:"
        process = client(role, self.server.url, self.app, path, data=self._folder / "data", name=name)
        self._others.append(process)
        process.answer()
        return process

    def wrote(self) -> int:
        return sum(sum(crowd.ask("wrote").values()) for crowd in self._crowds)

    def wait_for_writes(self, count: int) -> None:
        """Until so many more were written, at work as they are."""
        before = self.wrote()
        wait_until(lambda: self.wrote() >= before + count, f"{count} writes")

    def wait_for_all(self, timeout: float = PATIENCE_S) -> None:
        """Until something that each of them writes from now on is decided: what was before is over."""
        began = time.monotonic()
        for crowd in self._crowds:
            wait_until(lambda crowd=crowd: crowd.ask("decided") > began, "all are served again", timeout)

    # -- what nobody can be blamed for

    def outage(self, begin: float, end: float, *, of: Process | None = None) -> None:
        """Nobody (or not this crowd) could reach the server meanwhile: waiting is no fault."""
        if of is None:
            self.outages.append((begin, end))
        for crowd in self._crowds:
            if of in (None, crowd):
                self._crowds[crowd].append((begin, end))

    def restart_server(self, pause: float = 0.0, meanwhile: Callable[[], object] = lambda: None) -> None:
        """kill -9, and started again on its files and its port."""
        begin = time.monotonic()
        self.server.kill()
        meanwhile()
        let_pass(pause)
        self.server.start()
        self.outage(begin, time.monotonic())

    # -- the end

    def judge(self, fault: str, note: str = "", mortals: dict[str, int] | None = None) -> Figures:
        """`mortals` are writers that are gone for good, with the last number that was flushed."""
        totals: dict[str, int] = {}
        for crowd in self._crowds:
            totals |= crowd.ask("stop", timeout=120)
        ended = time.monotonic()
        for crowd in self._crowds:
            crowd.ask("flush", timeout=120)
        last = self.store("idle", "last")
        counts, dump = self.counts, self.dump = asked(last, "counts"), asked(last, "dump")
        items: dict[str, list[int]] = {}
        for subject, predicate, value in dump:
            if predicate == "item/n":
                items.setdefault(subject.rpartition("-")[0], []).append(value)
        said = f"{fault} {note}"
        for name, total in totals.items():
            assert sorted(items.get(name, [])) == list(range(total)), f"{said}: {name} lost what it wrote"
        for name, flushed in (mortals or {}).items():
            mine = sorted(items[name])
            assert len(mine) > flushed, f"{said}: {name}: an acknowledged write is lost"
            assert mine == list(range(len(mine))), f"{said}: {name}: a gap"
        assert items.keys() <= totals.keys() | (mortals or {}).keys(), said
        wanted = {name: len(mine) for name, mine in items.items()}
        total = sum(wanted.values())
        assert counts == {**wanted, "all": total}, f"{said}: counted twice, or not at all"
        right = digest(dump)
        for crowd in self._crowds:
            wait_until(
                lambda crowd=crowd: set(crowd.ask("dumps", timeout=120)) == {right}, f"{said}: all equal"
            )
            assert crowd.ask("gaps") == [], said
        figures = self._figures(totals, ended)
        self.restart_server()
        assert asked(self.store("idle", "after"), "dump") == dump, f"{said}: the disk says something else"
        FIGURES[fault] = figures
        return figures

    def items(self) -> list[tuple[str, str, int]]:
        """The items of `dump`."""
        fields = {(subject, predicate): value for subject, predicate, value in self.dump}
        return [(e, fields[e, "item/by"], n) for (e, predicate), n in fields.items() if predicate == "item/n"]

    def _figures(self, totals: dict[str, int], ended: float) -> Figures:
        undecided = unseen = 0.0
        for crowd, outages in self._crowds.items():
            waits = crowd.ask("waits")
            undecided = max(undecided, longest(waits["undecided"], outages))
            spans = ((begin, min(end, ended)) for begin, end in waits["unseen"])
            unseen = max(unseen, longest(spans, outages))
        return Figures(self.clients, sum(totals.values()), undecided, unseen)

    def __enter__(self) -> Party:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._crowds, *self._others):
            with suppress(ProcessLookupError):
                process.kill()
