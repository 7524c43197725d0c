"""The stopwatch of the engines that run in Python: reads the data, times questions, weighs the process, tells lines.

Started as MODULE FOLDER OUT OPTIONS: the folder of the data, the file of the lines, and JSON: `runs`, `seconds` (a
budget for each figure), `figures`, `variant`. A line is JSON and is written as soon as its figure is done, so that an
engine that breaks later still has told what it knew. Needs the standard library alone. DataScript has its own twin.

Memory is what the process has grown by since `weigh` was called first, with garbage collected and freed memory given
back: data that was read in order to be loaded has to be let go before.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bench.queries.asked import REFERENCES

KINDS = ("tag", "user", "post", "comment")
Ask = Callable[[], Any]
Writes = tuple[Callable[[], Any], Callable[[], Any]]  # to write something, and to take it back

seconds = time.perf_counter


class Stopwatch:
    """One engine's run over the data of one size."""

    def __init__(self) -> None:
        folder, out, options = sys.argv[1:4]
        self.folder = Path(folder)
        self.plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        self.given: dict[str, Any] = self.plan["parameters"]
        self.options: dict[str, Any] = json.loads(options)
        self._out = open(out, "a", encoding="utf-8")  # noqa: SIM115 (for the whole of the process)
        self._began = 0

    def columns(self, kind: str) -> dict[str, list[Any]]:
        held: dict[str, list[Any]] = json.loads((self.folder / f"{kind}.json").read_text(encoding="utf-8"))
        return held

    def triples(self) -> Iterator[tuple[str, str, Any]]:
        """Kind by kind, field by field."""
        for kind in KINDS:
            held = self.columns(kind)
            subjects = held.pop("id")
            for name, cells in held.items():
                predicate = f"{kind}/{name}"
                for subject, value in zip(subjects, cells, strict=True):
                    for one in value if isinstance(value, list) else () if value is None else (value,):
                        yield subject, predicate, one

    def tables(self) -> dict[str, dict[str, list[Any]]]:
        """A table a kind, and one for tags of posts."""
        held = {kind: self.columns(kind) for kind in KINDS}
        pairs = list(zip(held["post"]["id"], held["post"].pop("tagIds"), strict=True))
        held["post_tag"] = {
            "postId": [post for post, tags in pairs for _ in tags],
            "tagId": [tag for _, tags in pairs for tag in tags],
        }
        return held

    def weigh(self) -> None:
        """Memory counts from here."""
        self._began = resident()

    def loaded(self, engine: str, versions: Mapping[str, str], load_s: float, **facts: Any) -> None:
        self.tell(
            engine=engine,
            versions={**versions, "python": sys.version.split()[0]},
            load_s=round(load_s, 3),
            triples=self.plan["triples"],
            bytes_per_triple=self._per_triple(),
            **facts,
        )

    @staticmethod
    def version(distribution: str) -> str:
        return importlib.metadata.version(distribution)

    def asked(self) -> None:
        """After the last figure: what memory has become."""
        self.tell(engine_after={"bytes_per_triple_asked": self._per_triple()})

    def _per_triple(self) -> float | None:
        if not self._began:
            return None
        return round((resident() - self._began) / self.plan["triples"], 1)

    def ask(
        self,
        figure: str,
        one: Ask,
        columns: Callable[[Any], list[list[Any]]],
        writes: Writes | None = None,
        note: str = "",
    ) -> None:
        """Times the first execution and, within the budget, the others. With `writes` something is written before
        each, and what was written is taken back before the next, neither of which is timed; the answer is then that
        to the data as it was. What it raises is told instead, and the others go on."""
        if figure not in self.options["figures"]:
            return
        try:
            gc.collect()
            times: list[float] = []
            deadline = seconds() + self.options["seconds"]
            while len(times) <= self.options["runs"] and (len(times) < 2 or seconds() < deadline):
                if writes is not None:
                    writes[len(times) % 2]()
                began = seconds()
                answer = one()
                times.append(seconds() - began)
                if times[0] > 3 * self.options["seconds"]:
                    break
            if writes is not None:
                writes[1]()
                answer = one()
            ms = [round(t * 1e3, 4) for t in times]
            self.tell(figure=figure, ms=ms, columns=columns(answer), note=note)
        except Exception as error:  # noqa: BLE001 (an engine may raise anything, and that is its result)
            traceback.print_exc()
            self.tell(figure=figure, error=f"{type(error).__name__}: {error}"[:500])

    def tell(self, **facts: Any) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


def reference(predicate: str) -> bool:
    return predicate.rpartition("/")[2] in REFERENCES


def of_frame(frame: Any) -> list[list[Any]]:
    """The columns of a pandas DataFrame."""
    return [frame.iloc[:, i].tolist() for i in range(frame.shape[1])]


def resident() -> int:
    """Bytes of this process in memory, where the system tells (else 0)."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except (OSError, AttributeError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
