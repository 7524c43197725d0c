"""Who asks what there was, or what was done, is answered from the log on disk, beside everything else.

One question of an app is at work at a time, a few of each connection wait. It is read and merged in threads, in slices
after each of which others may have the interpreter; it ends with its connection, at its deadline, and where it takes
more than its bound. Nothing is told but what is durable, and a connection that reads slowly is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Protocol

from tripleweb.collector import collector_at_rest
from tripleweb.errors import HistoryError, StorageError
from tripleweb.ids import check_id
from tripleweb.line import Line
from tripleweb.storage import TenantStorage
from tripleweb.sync import messages
from tripleweb.sync.messages import Failed
from tripleweb.sync.past import KINDS_MAX, ROWS, Deeds, Did, History, Past, Row, Was, did, was

PER_LINE = 8  # questions that may wait
SLICE_S = 0.02
PATIENCE_S = 120
WORK_MAX = 20_000_000  # changes that are read for one answer, and rows that are told
BYTES_MAX = 1 << 30  # of an answer
UNSENT_MAX = 512 << 10  # that wait for a connection before more is told to it
PAUSE_S = 0.01

Steps = Generator[tuple[int, Was | Did | None], None, None]

_log = logging.getLogger(__name__)


class Host(Protocol):
    """What this needs of the app."""

    app: str
    lines: dict[int, Line]

    @property
    def storage(self) -> TenantStorage: ...

    @property
    def position(self) -> tuple[str, int]: ...

    async def beside(self, work: Callable[..., Any], *arguments: Any) -> Any: ...


class Hindsight:
    """Answers questions about the past of one app."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: Counter[int] = Counter()
        self._turn = asyncio.Lock()
        self._tasks: dict[asyncio.Task[None], tuple[int, str]] = {}  # whose question it is, and its id

    def ask(self, line: Line, asked: Past | Deeds) -> None:
        """Answers in a while."""
        if self._waiting[line.number] >= PER_LINE:
            self._fail(line, asked, "overload", f"{PER_LINE} questions of this connection wait already")
            return
        self._waiting[line.number] += 1
        task = asyncio.create_task(self._answer(line, asked))
        self._tasks[task] = line.number, asked.id
        task.add_done_callback(self._tasks.pop)

    def give_up(self, line: Line, name: str) -> None:
        """Nobody waits any more for the answer to this question of the connection, if there is one."""
        for task, asked in self._tasks.items():
            if asked == (line.number, name):
                task.cancel()

    async def close(self) -> None:
        """Drops all of them; returns when none reads any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _answer(self, line: Line, asked: Past | Deeds) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S), self._turn:
                await self._tell(line, asked)
        except HistoryError as error:
            self._fail(line, asked, "history", str(error))
        except TimeoutError:
            self._fail(line, asked, "overload", "it takes too long")
        except ValueError as error:
            self._fail(line, asked, "malformed", str(error))
        except StorageError as error:
            _log.error("the past of app %s cannot be read: %s", self._host.app, error)
            self._fail(line, asked, "storage", "the past cannot be read at this server; its log says why")
        finally:
            self._waiting[line.number] -= 1
            if not self._waiting[line.number]:
                del self._waiting[line.number]

    def _fail(self, line: Line, asked: Past | Deeds, code: str, message: str) -> None:
        line.send(messages.encode(Failed(asked.id, code, message)))

    async def _tell(self, line: Line, asked: Past | Deeds) -> None:
        steps = self._steps(asked)
        work = told = 0
        going = True
        try:
            while going and line.number in self._host.lines:
                if line.unsent > UNSENT_MAX:
                    await asyncio.sleep(PAUSE_S)
                    continue
                done, frames, going = await self._whole(_slice, steps)
                work, told = work + done, told + sum(map(len, frames))
                if work > WORK_MAX or told > BYTES_MAX:
                    said = "that is more than this server tells at a time: ask for less"
                    self._fail(line, asked, "overload", said)
                    return
                for data in frames:
                    line.send(data)
        finally:
            await self._whole(steps.close)

    async def _whole(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What is begun in a thread is waited for, also by who is cancelled: nobody else may touch its steps."""
        running = asyncio.ensure_future(self._host.beside(work, *arguments))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _steps(self, asked: Past | Deeds) -> Steps:
        return self._done(asked) if isinstance(asked, Deeds) else self._state(asked)

    def _state(self, asked: Past) -> Steps:
        storage, (epoch, _) = self._host.storage, self._host.position
        if (asked.at is None) == (asked.position is None):
            raise ValueError("either a moment or a position is asked for")
        if asked.kinds is not None and len(asked.kinds) > KINDS_MAX:
            raise ValueError(f"at most {KINDS_MAX:,} kinds are asked for at a time, or all")
        if asked.position is not None and asked.position[0] != epoch:
            raise HistoryError(
                "that position is of another history: the server was restored from a backup since"
            )
        seq = storage.reach(asked.at) if asked.at is not None else asked.position[1]  # type: ignore[index]
        kinds = None if asked.kinds is None else {*asked.kinds}
        with closing(storage.past(seq, kinds)) as pieces:  # type: ignore[type-var]
            yield from was(pieces, asked, epoch, seq)

    def _done(self, asked: Deeds) -> Steps:
        subject = check_id(asked.subject)
        history: History | None = None
        rows: list[Row] = []
        with closing(self._host.storage.deeds(subject)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                for deed in piece:
                    if history is None:
                        history = History(deed.changes)
                        continue
                    rows += history.rows(deed.at, deed.by, deed.changes)
                    while len(rows) > ROWS:
                        yield ROWS, did(asked.id, rows[:ROWS], True)
                        del rows[:ROWS]
                yield 1 + len(piece), None
        yield 1, did(asked.id, rows, False)


def _slice(steps: Steps) -> tuple[int, list[bytes], bool]:
    """Some of the work: (how much, what is to be told, whether there is more)."""
    ends = time.monotonic() + SLICE_S
    work = 0
    frames: list[bytes] = []
    with collector_at_rest():
        while time.monotonic() < ends:
            try:
                done, frame = next(steps)
            except StopIteration:
                return work, frames, False
            work += done
            if frame is not None:
                frames.append(messages.encode(frame))
    return work, frames, True
