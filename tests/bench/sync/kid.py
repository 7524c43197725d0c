"""A process of the bench: started, told what to do, asked what it says, looked at from outside, ended.

Invariant: whatever is asked has a deadline, and a process that has ended in the meantime is told with its last words.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Broken(Exception):
    """An engine that did not do what it was asked for."""


class Kid:
    """One process. It says lines, JSON objects but for a server's first one, which means that it can be reached."""

    def __init__(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self._words = " ".join(words[-4:-2])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")

    def _line(self, deadline: float, what: str) -> str:
        try:
            line = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Broken(f"{self._words} does not say {what!r}: {self._last_words()}") from None
        if not line:
            raise Broken(f"{self._words} has ended instead of saying {what!r}: {self._last_words()}")
        return line

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-600:].decode(errors="replace").strip()

    def first_line(self, timeout: float = 60) -> str:
        return self._line(time.monotonic() + timeout, "anything")

    def get(self, key: str, timeout: float = 120) -> dict[str, Any]:
        """The next thing said that has this key."""
        deadline = time.monotonic() + timeout
        while True:
            said = json.loads(self._line(deadline, key))
            if key in said:
                return dict(said)

    def say(self, op: str, **order: Any) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps({"op": op, **order}), file=self._process.stdin, flush=True)
        except OSError:
            raise Broken(f"{self._words} has ended before {op!r}: {self._last_words()}") from None

    def ask(self, op: str, key: str, timeout: float = 120, **order: Any) -> dict[str, Any]:
        self.say(op, **order)
        return self.get(key, timeout)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """Seconds of processor that it has used, in steps of the system's tick; 0 where there is no /proc."""
        return self._of_proc(
            "stat", lambda text: sum(map(int, text.rpartition(")")[2].split()[11:13])) / TICKS
        )

    def rss(self) -> int:
        """Bytes of memory that it holds; 0 where there is no /proc."""
        return int(self._of_proc("statm", lambda text: int(text.split()[1]) * PAGE))

    def _of_proc(self, name: str, read: Any) -> float:
        try:
            return float(read(Path(f"/proc/{self.pid}/{name}").read_text()))
        except OSError:
            return 0.0

    def settle(self, quiet_s: float = 0.3, timeout: float = 60) -> None:
        """Until it has used no processor for a while."""
        deadline = time.monotonic() + timeout
        before, since = self.cpu_s(), time.monotonic()
        while time.monotonic() - since < quiet_s:
            if time.monotonic() > deadline:
                raise Broken(f"{self._words} does not come to rest")
            time.sleep(0.05)
            used = self.cpu_s()
            if used > before:
                before, since = used, time.monotonic()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._errors):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be told to it
                    continue
