"""Real processes for tests that break things: a server on a port that it keeps, and clients that take orders.

`Server` runs `WebServer` over files; `Client` runs a store that writes or follows. Both are told what to do by lines of
JSON on their standard input and answer by lines on their standard output; both may be killed at any moment, and
leave nothing behind but their files. Whatever waits here has a deadline.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "a-token-that-outlives-its-server"
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def let_pass(seconds: float) -> None:
    """For a fault that lasts: a server that is away, a laptop that sleeps. It is no way to wait for something."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def asked(process: Process, what: str) -> Any:
    """What a client answers once it knows: one that waits before it tries to connect again does not, just then."""
    found: list[Any] = []

    def knows() -> bool:
        found.append(process.ask(what))
        return found[-1] is not None

    wait_until(knows, f"{what} is complete")
    return found[-1]


class Process:
    """A module of the tests, run as a process of its own."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.faults.{module}", *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self.heard: list[dict[str, Any]] = []
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else it was killed in the middle of it
                said = json.loads(line)
                self.heard.append(said)
                if "answer" in said:
                    self._answers.put(said)
        self._answers.put(None)

    def ask(self, what: str, timeout: float = PATIENCE_S, **more: Any) -> Any:
        """Gives an order and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._process.stdin.flush()
        return self.answer(what, timeout)

    def answer(self, what: str = "its first word", timeout: float = PATIENCE_S) -> Any:
        try:
            said = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"{self._process.args!r:.200} does not answer to {what!r}") from None
        assert said is not None, (
            f"{self._process.args!r:.200} ended ({self._process.wait(10)}) before {what!r}"
        )
        return said["answer"]

    def said(self, word: str) -> list[Any]:
        """All that it said under this word so far."""
        return [said[word] for said in list(self.heard) if word in said]

    def stop(self) -> None:
        """As a laptop that falls asleep; returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: ") T " in Path(f"/proc/{self.pid}/stat").read_text(), "it stands still")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """As the machine's out-of-memory killer would; returns when it is dead and all it said has been heard."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # an order that was never read
                pass

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Server:
    """A server in a process of its own, over the files in `folder`, that can be killed and started on its port."""

    def __init__(
        self, folder: Path, owner: str = "ada", *, ping_s: float | None = None, backup_s: float | None = None
    ) -> None:
        self.folder = folder
        self.ping_s = ping_s  # between two pings, and how long their answers are waited for; None: the usual
        self.owner = owner
        self.backup_s = backup_s  # between two backups of an app that changes; None: the usual
        self.port = 0
        self.starts = 0
        self.start()

    def start(self) -> None:
        more = ["" if seconds is None else str(seconds) for seconds in (self.ping_s, self.backup_s)]
        self.process = Process("server", str(self.folder), str(self.port), self.owner, TOKEN, *more)
        self.url: str = self.process.answer()
        self.port = int(self.url.rpartition(":")[2].strip("/"))
        self.starts += 1

    def kill(self) -> None:
        self.process.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def client(role: str, url: str, app: str, path: str = "", *, data: Path, name: str = "") -> Process:
    """A client process; see `tests.faults.client`. `data` is where replicas without a path go."""
    return Process("client", role, url, TOKEN, app, path, name, environment={"TRIPLEWEB_DATA": str(data)})
