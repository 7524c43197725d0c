"""The stopwatch of the engines that run in Python: reads a plan, times changes one by one, writes a line a figure.

A line is JSON: `{"figure", "us": [...], "rows": [...] or null, "opened_ms", "note"}`, and is written as soon as the
figure is done, so that an engine that breaks later still has told what it knew. `measured.mjs` beside the peers is the
same for Node.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Change = list[Any]
Writes = Sequence[tuple[str, str, Any]]

seconds = time.perf_counter


class Stopwatch:
    """One engine's run over one plan."""

    def __init__(self, folder: str, out: str) -> None:
        self.folder = Path(folder)
        self.plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        self.parameters = self.plan["parameters"]
        self._out = open(out, "a", encoding="utf-8")  # noqa: SIM115 (for the whole of the process)

    def entities(self) -> Iterator[dict[str, Any]]:
        with open(self.folder / "entities.jsonl", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def tell(self, **facts: Any) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()

    def attempt(self, figure: str, measure: Callable[[str], None]) -> None:
        """Runs one figure; what it raises is told instead of its times, and the others go on."""
        try:
            measure(figure)
        except Exception as error:  # noqa: BLE001 (an engine may raise anything, and that is its result)
            traceback.print_exc()
            self.tell(figure=figure, error=f"{type(error).__name__}: {error}"[:500])

    def follow(
        self,
        figure: str,
        *,
        change: Callable[[str, str, Any], Any],
        bulk: Callable[[Writes], None],
        answer: Callable[[], Sequence[Sequence[Any]]],
        close: Callable[[], None] = lambda: None,
        convert: Callable[[str, Any], Any] = lambda predicate, value: value,
        free: Callable[[], Any] | None = None,
        opened_ms: float | None = None,
        note: str = "",
    ) -> None:
        """Times `change` for each change of the figure until the cap, writes the rest by `bulk`, tells the answer,
        and takes everything back. `free` is work that does not count: it is done and timed once more after each
        change, and taken off. What `change` returns is told as `told`, from the beginning and after each."""
        changes = self.plan["changes"][figure]
        ready = [(s, p, convert(p, new)) for s, p, new, *_ in changes]
        gc.collect()
        times: list[float] = []
        gross: list[float] = []
        told: list[Any] = []
        deadline = seconds() + self.plan["cap_s"]
        try:
            for s, p, value in ready:
                if len(times) >= 2 and seconds() > deadline:
                    break
                began = seconds()
                said = change(s, p, value)
                taken = seconds() - began
                told.append(said)
                gross.append(taken)
                if free is not None:
                    began = seconds()
                    free()
                    taken -= seconds() - began
                times.append(taken)
            bulk(ready[len(times) :])
            rows = [list(row) for row in answer()]
        finally:  # the figures that come after begin with the data as it was
            close()
            bulk([(s, p, convert(p, old)) for s, p, _, old, *_ in reversed(changes)])
        extra: dict[str, Any] = {}
        if any(said is not None for said in told):
            extra["told"] = told
        if free is not None:
            extra["gross_us"] = microseconds(gross)
        self.tell(figure=figure, us=microseconds(times), rows=rows, opened_ms=opened_ms, note=note, **extra)

    def look_up(self, figure: str, one: Callable[[str], Any], note: str = "") -> None:
        """Times one lookup after the other; the answers are told."""
        gc.collect()
        times, found = [], []
        deadline = seconds() + self.plan["cap_s"]
        for subject in self.plan["lookups"]:
            if len(times) >= 2 and seconds() > deadline:
                break
            began = seconds()
            value = one(subject)
            times.append(seconds() - began)
            found.append([value])
        self.tell(figure=figure, us=microseconds(times), rows=found, note=note)

    def batches(
        self, figure: str, writes: Writes, run: Callable[[Writes], None], parts: int = 20, note: str = ""
    ) -> None:
        """Times `run` on parts of the writes; a figure is the time a write of one part."""
        gc.collect()
        size = max(1, len(writes) // parts)
        times: list[float] = []
        deadline = seconds() + self.plan["cap_s"]
        for start in range(0, len(writes) - size + 1, size):
            if len(times) >= 2 and seconds() > deadline:
                break
            part = writes[start : start + size]
            began = seconds()
            run(part)
            times.append((seconds() - began) / size)
        self.tell(figure=figure, us=microseconds(times), rows=None, note=note, each=size)

    def scores(self, posts: Sequence[str]) -> list[tuple[str, str, int]]:
        """The writes of `set`: scores of posts, spread over all of them."""
        return [(posts[i * 7919 % len(posts)], "post/score", i % 101) for i in range(self.plan["writes"])]


def microseconds(times: Sequence[float]) -> list[float]:
    return [round(t * 1e6, 2) for t in times]
