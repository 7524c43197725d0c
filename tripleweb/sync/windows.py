"""Windows: pages look at some rows of large answers, which the server keeps, and are told what changes there.

Equal queries share one `Answer`, however they are looked at; equal orders and filters share one arrangement of its rows
(`datalog.arranged`). A change costs each arrangement a search, and a window nothing unless it touches its rows. All
work of an answer is one job in slices, but for finding all rows of it, which the caller makes beside its loop.

Invariants: a frame shows an answer as it was at one commit, and leaves when that is durable; of a window at most one
frame waits, and is made anew from what was sent last if it could not leave before the next; `shown` is what its client
has. For a window that is paused, or whose connection reads slowly, nothing is done but to note that it is behind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeVar

from tripleweb.datalog.answer import Row
from tripleweb.datalog.arranged import (
    DEAR,
    FEW,
    PART,
    Arranged,
    Arrangement,
    Entry,
    Order,
    cells_of,
    is_touched,
)
from tripleweb.datalog.bodies import Unsupported
from tripleweb.datalog.builtins import chunks
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.ranking import Meter
from tripleweb.datalog.told import Told
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Delta, Store
from tripleweb.sync import views
from tripleweb.sync.messages import Subscription, encode, input_from_wire
from tripleweb.sync.tail import Log
from tripleweb.sync.views import Look, Shown, View, WireCell, wire_cell

Key = tuple[Order, bytes]
Work = Iterator[bool]
T = TypeVar("T")


class TooMany(Exception):
    """There is no room for another answer."""


class WindowLimits(Protocol):
    """Bounds: of a view, of what is kept for windows, and of what is sent."""

    @property
    def query_units(self) -> int: ...
    @property
    def slice_units(self) -> int: ...
    @property
    def frame_bytes(self) -> int: ...
    @property
    def windows_max(self) -> int: ...
    @property
    def window_rows_max(self) -> int: ...
    @property
    def view_bytes_max(self) -> int: ...
    @property
    def answers_max(self) -> int: ...
    @property
    def answer_bytes_max(self) -> int: ...
    @property
    def answer_idle_ms(self) -> int: ...


class Reader(Protocol):
    """The connection of a window: it gets nothing while it is `paused`; `ready` are its windows that have a frame."""

    paused: bool
    ready: dict[Window, None]


@dataclass(slots=True)
class Draft:
    """A frame that waits for a commit, and what its client has once it has come."""

    batch: int
    frame: Shown
    entries: list[Entry]
    look: Look


class Window:
    """What one subscription shows of an answer."""

    def __init__(self, name: str, reader: Reader, answer: Answer, look: Look) -> None:
        self.id = name
        self.published = ""  # the name by which its query was asked for
        self.reader = reader
        self.answer = answer
        self.look = look
        self.shown: list[Entry] | None = None  # what the client has; None: nothing
        self.said: tuple[Look, int, int] | None = None  # of which look, with which totals
        self.draft: Draft | None = None
        self.is_changed = True  # its rows may be others than those that are shown or drafted
        self.is_behind = False  # something was to be drafted, and could not be
        self.frames = 0

    @property
    def is_awake(self) -> bool:
        return not (self.look.paused or self.reader.paused)


class Answer:
    """The rows of one query, as of the commit `batch` and `seq`, arranged. `fresh`: all of them anew, to be taken;
    `news`: (removed, added), likewise."""

    def __init__(self, key: bytes, told: Told) -> None:
        self.key = key
        self.told = told
        self.columns = told.query.columns[: told.width]
        self.windows: dict[Window, None] = {}
        self.meter = Meter()
        self.reason = ""  # why it cannot be followed
        self.is_busy = False
        self.idle_since: int | None = None
        self.seq = self.batch = 0
        self.clear()

    def clear(self) -> None:
        """Nothing of it is known any more."""
        self.arranged = Arranged(self.told.subjects)
        self.arrangements: dict[Key, Arrangement] = {}
        self.fresh: list[Row] | None = None
        self.news: tuple[list[Row], list[Row]] | None = None
        self.is_stale = True
        for window in self.windows:
            window.shown, window.draft, window.is_changed = None, None, True

    @property
    def is_wanted(self) -> bool:
        """True if somebody looks at it."""
        return any(window.is_awake for window in self.windows)

    def by_key(self) -> dict[Key, list[Window]]:
        """Its windows that somebody looks at, by what they need."""
        found: dict[Key, list[Window]] = {}
        for window in self.windows:
            if window.is_awake:
                found.setdefault(window.look.key, []).append(window)
        return found


class Windows:
    """All windows of one tenant. `begin` takes work in slices; `later` what may take long, with how many rows that is
    expected to look at; `ready` is told of a reader that has a frame, `fail` of a window that has ended, and why."""

    def __init__(
        self,
        log: Log,
        store: Store,
        limits: WindowLimits,
        begin: Callable[[Work], None],
        later: Callable[[Callable[[], float], Callable[[], None]], None],
        ready: Callable[[Window], None],
        fail: Callable[[Window, str, str], None],
    ) -> None:
        self._log = log
        self._store = store
        self._limits = limits
        self._begin = begin
        self._later = later
        self._ready = ready
        self._fail = fail
        self._upkeep = Upkeep(store)
        self.answers: dict[bytes, Answer] = {}  # the idlest first
        self.budget = Budget(limits.query_units, limits.answer_bytes_max)

    # -- who looks ---------------------------------------------------------------------------------------------

    def open(self, reader: Reader, asked: Subscription, view: View) -> Window:
        """A new window. Raises `QueryError` and `ValueError` for what cannot be run, `ViewError` for a view that is
        none of its answer, `TooMany`."""
        key = encode((asked.query, asked.inputs, asked.rules))
        answer = self.answers.get(key)
        if answer is None:
            inputs = [input_from_wire(wire) for wire in asked.inputs]
            answer = Answer(key, Told(self._upkeep, asked.query or "", inputs, asked.rules))
        window = Window(asked.id, reader, answer, self._read(answer, view))
        if key not in self.answers:
            self._make_room()
            self.answers[key] = answer
        answer.windows[window] = None
        if answer.told.maintained is None or answer.told.has_news:
            answer.is_stale = True  # nobody was told of changes while it had no windows
        self.wake(answer)
        return window

    def _read(self, answer: Answer, view: View) -> Look:
        limits, told = self._limits, answer.told
        return views.read(
            view, answer.columns, told.query.order_by, limits.window_rows_max, limits.view_bytes_max
        )

    def _make_room(self) -> None:
        while len(self.answers) >= self._limits.answers_max:
            idle = next((one for one in self.answers.values() if not (one.windows or one.is_busy)), None)
            if idle is None:
                raise TooMany(f"at most {self._limits.answers_max:,} queries have windows at a time")
            self._close(idle)

    def scroll(self, window: Window, view: View) -> None:
        """It looks otherwise now. Raises `ViewError`."""
        window.look = self._read(window.answer, view)
        window.is_changed, window.is_behind = True, False
        self.wake(window.answer)

    def close(self, window: Window) -> None:
        """It ends."""
        answer = window.answer
        del answer.windows[window]
        window.reader.ready.pop(window, None)
        if not answer.windows and self.answers.get(answer.key) is answer:
            self.answers[answer.key] = self.answers.pop(answer.key)

    def resume(self, window: Window) -> None:
        """Its connection reads again."""
        if window.is_behind or window.is_changed or window.answer.is_stale:
            window.is_changed, window.is_behind = (
                True,
                False,
            )  # where its answer is being worked on, it is seen to, too
            self.wake(window.answer)

    def noticed(self, answer: Answer) -> None:
        """What an answer's query reads has changed."""
        if answer.told.maintained is None or answer.told.has_news:
            answer.is_stale = True
            self.wake(answer)

    def changed(self, delta: Delta) -> None:
        """The store has changed; then those whose queries read that are `noticed`."""
        if self.answers:
            self._upkeep.changed(delta)

    def tick(self, now_ms: int) -> None:
        """Gives up what nobody has looked at for some time."""
        for answer in list(self.answers.values()):
            if answer.is_busy or answer.is_wanted:
                answer.idle_since = None
            elif answer.idle_since is None:
                answer.idle_since = now_ms
            elif now_ms - answer.idle_since < self._limits.answer_idle_ms:
                continue
            elif answer.windows:
                answer.told.drop()
                answer.clear()
            else:
                self._close(answer)

    def _close(self, answer: Answer) -> None:
        answer.told.drop()
        if self.answers.get(answer.key) is answer:
            del self.answers[answer.key]

    # -- the work of an answer ---------------------------------------------------------------------------------

    def wake(self, answer: Answer) -> None:
        """Does what its windows wait for, if it is not being done."""
        if not answer.is_busy and answer.is_wanted:
            answer.is_busy = True
            self._begin(self._work(answer))

    def _work(self, answer: Answer) -> Work:
        try:
            while answer.is_wanted:
                if answer.fresh is not None:
                    yield from self._take(answer)
                elif answer.news is not None:
                    yield from self._take_news(answer)
                elif answer.is_stale and answer.reason:
                    yield from self._afresh(answer)
                elif answer.is_stale and (
                    answer.told.maintained is None or self._expected(answer) > self._limits.slice_units
                ):
                    self._later(partial(self._expected, answer), partial(self._look, answer))
                    return  # it goes on after that
                elif answer.is_stale:
                    self._follow(answer)
                elif missing := [one for one in answer.by_key() if one not in answer.arrangements]:
                    yield from self._arrange(answer, missing[0])
                else:
                    # all of them, or only the first would be seen where much is written
                    for number, window in enumerate(list(answer.windows), 1):
                        if self._draft(window) or number % FEW == 0:
                            yield False
                    if not answer.is_stale and not self._is_due(answer):
                        break
        except QueryError as error:
            self._end(answer, error)
        wanted = {window.look.key for window in answer.windows}
        for key in [key for key in answer.arrangements if key not in wanted]:
            del answer.arrangements[key]
        answer.is_busy = False

    def _is_due(self, answer: Answer) -> bool:
        return any(one.is_awake and one.is_changed and not one.is_behind for one in answer.windows)

    def _expected(self, answer: Answer) -> float:
        """How many rows are about to be looked at, to know of all of an answer or of what became of it."""
        if answer.told.maintained is not None:
            return float(DEAR * answer.told.waiting)
        names = answer.told.query.predicates
        return float(
            sum(map(self._store.count, self._store.predicates() if names is None else sorted(names)))
        )

    def _look(self, answer: Answer) -> None:
        """Finds all rows, or what became of them."""
        try:
            if answer.is_wanted and answer.told.maintained is not None:
                self._follow(answer)
            elif answer.is_wanted:
                self._find(answer)
        except QueryError as error:
            self._end(answer, error)
        answer.is_busy = False
        self.wake(answer)

    def _find(self, answer: Answer) -> None:
        """Finds all rows, and follows them from now on."""
        self._stand(answer)
        try:
            answer.fresh = answer.told.begin(self.budget)
        except Unsupported as why:
            answer.reason, answer.is_stale = str(why), True

    def _stand(self, answer: Answer) -> None:
        """What is found next is as of now."""
        answer.is_stale = False
        answer.seq, answer.batch = self._log.seq, self._log.last_batch()

    def _afresh(self, answer: Answer) -> Work:
        """Finds all rows of what cannot be followed."""
        self._stand(answer)
        work = answer.told.afresh(self._store.view(answer.told.query.predicates), self.budget)
        answer.fresh = yield from self._sliced(work)

    def _take(self, answer: Answer) -> Work:
        """Takes all rows in, as they were found."""
        rows: list[Row] = []
        for part in chunks(answer.fresh or (), PART):
            rows += map(cells_of, part)
            yield False
        answer.fresh = None
        removed, added = yield from self._sliced(answer.arranged.difference(rows))
        yield from self._rearrange(answer, removed, added)

    def _follow(self, answer: Answer) -> None:
        """Hears what became of the rows."""
        self._stand(answer)
        removed, added = answer.told.news(self.budget)
        if removed or added:
            answer.news = removed, added

    def _take_news(self, answer: Answer) -> Work:
        """Takes in what became of the rows."""
        (removed, added), answer.news = answer.news or ([], []), None
        gone: list[Row] = []
        come: list[Row] = []
        for rows, cells in ((removed, gone), (added, come)):
            for part in chunks(rows, PART):
                cells += map(cells_of, part)
                yield False
        yield from self._rearrange(answer, gone, come)

    def _rearrange(self, answer: Answer, removed: list[Row], added: list[Row]) -> Work:
        gone, come = yield from self._sliced(answer.arranged.take(removed, added))
        wanted = answer.by_key()
        for key in list(answer.arrangements):
            if key not in wanted:  # nobody looks
                del answer.arrangements[key]
                continue
            ops = yield from self._sliced(answer.arrangements[key].change(gone, come))
            for window in answer.windows:
                look = window.look
                if look.key == key and (
                    ops is None or len(ops) > FEW or is_touched(ops, look.first, look.first + look.count)
                ):
                    window.is_changed = True
        for window in answer.windows:
            if not window.is_awake:
                window.is_changed = window.is_behind = True

    def _arrange(self, answer: Answer, key: Key) -> Work:
        """Makes the arrangement that some window needs."""
        look = answer.by_key()[key][0].look
        arrangement = Arrangement(look.order, look.keep, answer.meter)
        like = answer.arrangements.get((look.order, b""))
        yield from self._sliced(arrangement.fill(answer.arranged, like))
        answer.arrangements[key] = arrangement

    def _sliced(self, work: Generator[int, None, T]) -> Generator[bool, None, T]:
        units = 0
        while True:
            try:
                units += next(work)
            except StopIteration as done:
                found: T = done.value
                return found
            if units >= self._limits.slice_units:
                units = 0
                yield False

    def _end(self, answer: Answer, error: QueryError) -> None:
        """It cannot be answered (any more): its windows end."""
        self._close(answer)
        for window in list(answer.windows):
            self._fail(window, "budget" if isinstance(error, BudgetError) else "query", str(error))

    # -- what is sent ------------------------------------------------------------------------------------------

    def _draft(self, window: Window) -> bool:
        """Makes the frame that takes its client to where the answer is, if it has not all of it. True if rows were
        compared for that."""
        answer, look = window.answer, window.look
        arrangement = answer.arrangements.get(look.key)
        if window not in answer.windows or arrangement is None:
            return False
        draft = window.draft
        if not window.is_awake or (draft is not None and not self._log.is_durable(draft.batch)):
            window.is_behind = True
            return False
        window.is_behind = False
        said = look, answer.arranged.size, arrangement.size
        is_same = not window.is_changed and draft is None
        if is_same and window.said is not None and said[1:] == window.said[1:] and look == window.said[0]:
            return False
        window.is_changed = False
        if is_same and window.shown is not None and look == window.said[0]:  # type: ignore[index]
            entries = window.shown
        else:
            entries = arrangement.part(look.first, look.count)
        frame = self._difference(window, entries, *said)
        if frame is None:
            window.draft = None
            window.reader.ready.pop(window, None)
            return True
        if self._is_large(frame):
            size = f"{self._limits.frame_bytes >> 20} MB"
            self._fail(window, "limits", f"these rows take more than {size}: ask for fewer rows, or columns")
            return True
        window.draft = Draft(answer.batch, frame, entries, look)
        window.reader.ready[window] = None
        self._ready(window)
        return True

    def _difference(
        self, window: Window, entries: list[Entry], look: Look, total: int, matching: int
    ) -> Shown | None:
        """From what the client has to these entries; None if there is nothing to be said."""
        answer = window.answer
        frame = Shown(window.id, self._log.epoch, answer.seq, total, matching, look.first, look.turn)
        if window.shown is None or window.said is None:
            return self._whole(frame, entries, look, answer)
        before, *totals = window.said
        old = {entry.number: entry for entry in window.shown}
        staying = [entry for entry in entries if entry.number in old]
        if before.key != look.key or before.columns != look.columns or (old and entries and not staying):
            return self._whole(frame, entries, look, answer)
        here = {entry.number for entry in staying}
        frame.removed = [number for number in old if number not in here]
        places = {number: at for at, number in enumerate(old)}
        firm = _rising([places[entry.number] for entry in staying])
        for at, entry in enumerate(entries):
            was = old.get(entry.number)
            if was is None:
                frame.inserted.append((at, entry.number, self._cells(entry, look, answer)))
                continue
            if places[entry.number] not in firm:
                frame.moved.append((at, entry.number))
            if was is not entry and (cells := self._cells(entry, look, answer)) != self._cells(
                was, look, answer
            ):
                frame.changed.append((entry.number, cells))
        if len(frame.inserted) + len(frame.moved) + len(frame.changed) > len(entries):
            frame.moved, frame.inserted, frame.removed, frame.changed = [], [], [], []
            return self._whole(frame, entries, look, answer)
        is_told = [total, matching] == totals and look.first == before.first and look.turn == before.turn
        if is_told and not (frame.removed or frame.inserted or frame.moved or frame.changed):
            return None
        return frame

    def _whole(self, frame: Shown, entries: list[Entry], look: Look, answer: Answer) -> Shown:
        frame.reset = True
        frame.columns = [answer.columns[column] for column in look.columns]
        frame.rows = [(entry.number, self._cells(entry, look, answer)) for entry in entries]
        return frame

    def _cells(self, entry: Entry, look: Look, answer: Answer) -> list[WireCell]:
        ids = answer.told.ids
        return [wire_cell(entry.row[column], column in ids) for column in look.columns]

    def _is_large(self, frame: Shown) -> bool:
        rows = [*(row[-1] for row in frame.inserted), *(row[-1] for row in (*frame.rows, *frame.changed))]
        most = sum(views.wire_bytes(value) for cells in rows for _, value in cells)
        return most > self._limits.frame_bytes and len(encode(frame)) > self._limits.frame_bytes

    def frames(self, reader: Reader) -> Iterator[Shown]:
        """What may leave to a reader now."""
        for window in list(reader.ready):
            draft = window.draft
            if draft is None:  # it was given up meanwhile
                del reader.ready[window]
                continue
            if not self._log.is_durable(draft.batch):
                continue
            del reader.ready[window]
            frame = draft.frame
            window.frames = frame.n = window.frames + 1
            window.shown, window.said, window.draft = (
                draft.entries,
                (draft.look, frame.total, frame.matching),
                None,
            )
            if window.is_behind:
                self.wake(window.answer)
            yield frame


def _rising(places: list[int]) -> set[int]:
    """The most of these numbers that rise from left to right: what need not be moved."""
    if all(a < b for a, b in pairwise(places)):
        return set(places)
    ends: list[int] = []  # the least last number of a rising sequence of each length
    before: dict[int, int | None] = {}
    for place in places:
        at = bisect_left(ends, place)
        before[place] = ends[at - 1] if at else None
        ends[at : at + 1] = [place]
    found: set[int] = set()
    last: int | None = ends[-1]
    while last is not None:
        found.add(last)
        last = before[last]
    return found
