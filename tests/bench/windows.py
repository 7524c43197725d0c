"""What windows over a large answer cost a server: `python -m tests.bench windows [--rows N]` (100,000 by default).

One server core with people of a name and an age, and pages that look at 25 of them each. A step is what is done between
two looks at the clock of the loop; what is found beside the loop is told apart, and so is Python's collector, whose
whole rounds hold up everything in the process and grow with all that it holds. What a change costs is the median of
300, from the writer's frame to the frames for all who look, encoded; with no window it is what the write itself costs.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.pages import Shown
from tripleweb.change import Change
from tripleweb.clock import pack, stamp_text
from tripleweb.sync import messages, views
from tripleweb.sync.messages import Hello, Push, PushedTransaction, Subscribe, Subscription
from tripleweb.sync.records import TenantState
from tripleweb.sync.server import Actor, TenantCore
from tripleweb.sync.views import Filter, Scroll, View

ROWS = 100_000
CHANGES = 300
COUNT = 25
NOW_MS = 1_700_000_000_000
QUERY = "[:find ?e ?name ?age :where [?e :user/name ?name] [?e :user/age ?age]]"
PAGE, WRITER = 1, 2  # connections


def run(flags: Sequence[str] = ()) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench windows")
    parser.add_argument("--rows", type=int, default=ROWS, help="(default: %(default)s)")
    rows = parser.parse_args(flags).rows
    import tripleweb.datalog.vectorised  # noqa: F401  # as the host does, beside its loop

    figures: dict[str, Any] = {"rows": rows}
    disagreements: list[str] = []
    looks = _World(rows)
    _looks(looks, figures)
    disagreements += looks.disagreements()
    apart = [View(COUNT, number * rows // 200, [("name", "asc")]) for number in range(100)]
    cases = {
        "0_windows": [],
        "1_window": apart[:1],
        "100_windows_one_sees": apart,
        "100_windows_none_sees": apart,
        "100_windows_all_see": apart[:1] * 100,
        "100_paused": [_paused(view) for view in apart],
    }
    for name, shown in cases.items():
        world = _World(rows)
        for number, view in enumerate(shown):
            world.ask(f"w{number}", view)
        world.settle()
        _changes(world, name, figures)
        disagreements += world.disagreements()
    _memory(rows, figures)
    return {**figures, "disagreements": disagreements}


def _paused(view: View) -> View:
    return View(view.count, view.first, view.order, paused=True)


class _World:
    """A server core, a page and a writer."""

    def __init__(self, rows: int) -> None:
        rng = self.rng = random.Random(1)
        self.ages = {f"e{number:06}": rng.randrange(100) for number in range(rows)}
        self.names = {subject: f"name {rng.randrange(10**9)}" for subject in self.ages}
        registers = [
            Change(subject, predicate, "", value, 1, "r" * 12)
            for subject in self.ages
            for predicate, value in (("user/name", self.names[subject]), ("user/age", self.ages[subject]))
        ]
        state = TenantState("e1", seq=1, time=1, registers=iter(registers))
        self.core = TenantCore(state, server_id="s", random_bytes=rng.randbytes)
        self.said: dict[int, int] = defaultdict(int)
        self.pushed = 0
        self.shown: dict[str, Shown] = {}
        self.views: dict[str, View] = {}
        self.frames: list[bytes] = []  # of windows, since the last `settle`
        self.steps: list[float] = []
        self.beside: list[float] = []  # what was found beside the loop
        self.rounds: list[float] = []  # of the collector
        for conn in (PAGE, WRITER):
            self.core.connect(conn, Actor(f"user{conn}"), NOW_MS)
            self.core.receive(conn, Hello((2, 2), f"{conn:012}", "x", 1, 0, NOW_MS), NOW_MS)
        self.settle()

    def say(self, conn: int, frame: Any) -> None:
        self.said[conn] += 1
        frame.n = self.said[conn]
        self.core.receive(conn, frame, NOW_MS)

    def ask(self, name: str, view: View) -> None:
        self.shown[name], self.views[name] = Shown(), view
        self.say(PAGE, Subscribe(Subscription(name, "rows", QUERY, view=view)))

    def scroll(self, name: str, view: View) -> None:
        self.views[name] = view
        self.say(PAGE, Scroll(name, view))

    def write(self, *triples: tuple[str, str, Any]) -> None:
        self.pushed += 1
        stamp = stamp_text(pack(NOW_MS, self.pushed), f"{WRITER:012}")
        changes = [(s, p, "", "s" if isinstance(o, str) else "n", o) for s, p, o in triples]
        self.say(WRITER, Push([PushedTransaction(self.pushed, f"t{self.pushed}", stamp, changes)]))
        for subject, predicate, value in triples:
            (self.names if predicate == "user/name" else self.ages)[subject] = value

    def settle(self) -> None:
        """Everything happens."""
        self.frames, self.steps, self.beside, self.rounds = [], [], [], []
        core = self.core
        while True:
            if (commit := core.take_commit()) is not None:
                core.committed(commit, NOW_MS)
            told = [frame for conn, frame in core.frames_to_send() if conn == PAGE]
            self.frames += [messages.encode(frame) for frame in told if isinstance(frame, views.Shown)]
            if core.is_heavy:
                self.beside.append(_took(core.evaluate))
            elif core.has_work():
                self.steps.append(_took(core.step))
            elif commit is None and not told:
                return

    def take(self) -> None:
        """The page takes in what it was sent."""
        for data in self.frames:
            frame = messages.decode_server(data)
            assert isinstance(frame, views.Shown)
            self.shown[frame.id].apply(frame)

    def disagreements(self) -> list[str]:
        """Windows that show other rows than there are."""
        ranked: dict[Any, list[str]] = {}
        wrong = []
        for name, view in self.views.items():
            if view.paused:
                continue
            key = str((view.order, view.filters))
            if key not in ranked:
                ranked[key] = self._ranked(view)
            wanted = ranked[key][view.first : view.first + view.count]
            if [row[0][1] for row in self.shown[name].rows] != wanted:
                wrong.append(f"{name}: {view}")
        return wrong

    def _ranked(self, view: View) -> list[str]:
        of = {"e": lambda subject: subject, "name": self.names.__getitem__, "age": self.ages.__getitem__}
        found = sorted(self.ages)
        for column, direction in reversed(view.order or [("e", "asc"), ("name", "asc")]):
            found.sort(key=of[column], reverse=direction == "desc")
        for one in view.filters:
            text = one.value[1]
            found = [subject for subject in found if text in self.names[subject]]
        return found


def _took(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


def _looks(world: _World, figures: dict[str, Any]) -> None:
    """One window, from its opening to other orders and filters, and much that is written at once."""
    longest: dict[str, float] = {}
    half = len(world.ages) // 2

    def looked(name: str, begin: Any) -> None:
        gc.collect()
        gc.disable()  # it is timed below
        took = _took(lambda: (begin(), world.settle()))
        longest[name] = max(world.steps, default=0)
        figures[f"{name}_ms"] = _ms(took)
        if world.beside:
            figures[f"{name}_beside_the_loop_ms"] = _ms(sum(world.beside))
        figures[f"{name}_bytes"] = sum(map(len, world.frames))
        world.take()
        gc.enable()

    looked("open", lambda: world.ask("w", View(COUNT)))
    looked("scroll", lambda: world.scroll("w", View(COUNT, half)))
    for column, direction in (("name", "asc"), ("name", "desc"), ("age", "desc")):
        view = View(COUNT, half, [(column, direction)])
        looked(f"order_{column}_{direction}", lambda view=view: world.scroll("w", view))
    filters = [Filter("name", "contains", ["s", "99"])]
    looked("filter", lambda: world.scroll("w", View(COUNT, 0, [], filters)))
    looked("filter_order", lambda: world.scroll("w", View(COUNT, 0, [("name", "desc")], filters)))
    some = [(subject, "user/age", world.rng.randrange(100)) for subject in list(world.ages)[:5_000]]
    looked("change_of_5000", lambda: world.write(*some))
    many = [(subject, "user/age", world.rng.randrange(100)) for subject in list(world.ages)[::2]]
    looked("change_of_half", lambda: world.write(*many))
    slowest = max(longest, key=longest.__getitem__)
    figures["longest_step_ms"], figures["longest_step_in"] = _ms(longest[slowest]), slowest
    figures["round_of_the_collector_ms"] = _ms(_took(gc.collect))


def _changes(world: _World, name: str, figures: dict[str, Any]) -> None:
    """Of the age of one person at a time."""
    world.take()
    seen = [row[0][1] for shown in world.shown.values() for row in shown.rows]
    if not seen or name.endswith("none_sees"):
        seen = sorted(world.ages.keys() - set(seen))
    times, told, sent = [], 0, 0
    for number in range(CHANGES):
        write = (world.rng.choice(seen), "user/age", 100 + number)
        times.append(_took(lambda write=write: (world.write(write), world.settle())))
        told += len(world.frames)
        sent += sum(map(len, world.frames))
        world.take()
    figures[f"change_{name}_us"] = round(statistics.median(times) * 1e6, 1)
    figures[f"change_{name}_frames"] = round(told / CHANGES, 2)
    if told:
        figures[f"bytes_per_frame_{name}"] = round(sent / told, 1)


def _memory(rows: int, figures: dict[str, Any]) -> None:
    """Of a row that windows are kept over, and of it in one further order."""
    world = _World(rows)
    tracemalloc.start()
    try:
        world.ask("w", View(COUNT))
        world.settle()
        first = tracemalloc.get_traced_memory()[0]
        world.ask("other", View(COUNT, 0, [("age", "desc")]))
        world.settle()
        both = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    figures["bytes_per_row"] = round(first / rows)
    figures["bytes_per_row_and_further_order"] = round((both - first) / rows, 1)
