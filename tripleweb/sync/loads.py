"""The long work of who reads a tenant: what queries need is found, and whole contents are sent, in slices beside all
else.

A replica begins with a load: of all that replaces what it has (`replace`), or of one subscription (`send`), which is
told beside the others and kept aside there until all of it has come. Invariants: a slice is bounded (but for
evaluations that the caller is to make beside its loop, `is_heavy`), work for a connection that is over or whose
subscription has ended goes no further, and what has been sent is as of where the feed is then taken (`reach`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from tripleweb.change import Change
from tripleweb.datalog.needed import Place
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Store
from tripleweb.sync import messages
from tripleweb.sync.feed import Feed, Holding, Load, ReaderLimits
from tripleweb.sync.messages import Part
from tripleweb.sync.relevance import Interest, Relevance
from tripleweb.sync.tail import Log, parts

Failure = tuple[str, str]  # code and message
Job = Iterator[bool]  # a slice each; True: nothing could be done, for it waits for its reader


class Loads:
    """All loads and evaluations of one tenant. `due`: who may have something to send."""

    def __init__(
        self, log: Log, store: Store, relevance: Relevance, limits: ReaderLimits, due: dict[Feed, None]
    ) -> None:
        self.log = log
        self.store = store
        self.relevance = relevance
        self.limits = limits
        self.due = due
        self.jobs: deque[tuple[Feed | None, Job]] = deque()
        self.waiting: dict[Feed, list[Job]] = {}  # until what is on its way has come
        self.evaluations: deque[tuple[Interest, Callable[[Failure | None], None]]] = deque()  # and what then
        # other work that may be no slice: the rows that it is expected to look at, and itself
        self.long: deque[tuple[Callable[[], float], Callable[[], None]]] = deque()

    def begin(self, feed: Feed | None, job: Job) -> None:
        """Work for a connection, or for several (None), slice by slice."""
        self.jobs.append((feed, job))

    def evaluate_later(self, interest: Interest, then: Callable[[Failure | None], None]) -> None:
        """Finds what an interest needs, unless that is known by then. `then` is told whether it could be found."""
        self.evaluations.append((interest, then))

    def registers(self, places: Iterable[Place]) -> Iterator[Change]:
        """All that stands at these places, as it is when each of them is reached."""
        for place in places:
            yield from self.store.registers_at(*place)

    # -- what is sent ------------------------------------------------------------------------------------------

    def replace(
        self, feed: Feed, registers: Iterable[Change], has_ended: Callable[[], bool] = lambda: False
    ) -> None:
        """Sends registers before anything else is told."""
        round_ = feed.round
        feed.loads += 1
        self.begin(feed, self.whole(feed, registers, lambda: feed.round != round_ or has_ended()))

    def whole(self, feed: Feed, registers: Iterable[Change], is_void: Callable[[], bool]) -> Job:
        """Sends registers, in parts. Changes of the meantime follow in the poke that ends the load: the feed's seq
        stays where it was when its interest was registered. A load is void when all begins from nothing, or when what
        it is for has ended: nobody follows what it would go on to send."""
        for part in parts(registers, self.limits):
            if is_void():
                break
            feed.put(self.log.last_batch(), part)
            self.due[feed] = None
            yield False
        feed.loads -= 1
        self.reach(feed)

    def send(self, feed: Feed, holding: Holding, name: str, load: Load, sent: Callable[[], None]) -> Job:
        """Sends the places of one subscription, in parts that have whole ones. What changes meanwhile is sent again;
        where nothing is left, `sent` is told."""
        places = load.places = load.places or []
        while holding.loads.get(name) is load:
            if feed.is_full:
                yield True
                continue
            if load.sent == len(places):
                places += load.again or feed.gone_again(load.interest, places)
                load.again.clear()
            for piece in self._pieces(load, places):
                piece.id = name
                feed.put(self.log.last_batch(), piece)
            self.due[feed] = None
            is_whole = load.sent == len(places) and not load.again
            if is_whole and not feed.gone_again(load.interest, places):
                self.reach(feed)
                sent()
                return
            yield False

    def _pieces(self, load: Load, places: list[Place]) -> list[Part]:
        """The next places of a load. One may be larger than a part: it has come with the last of these."""
        start = load.sent
        registers: list[Change] = []
        size = 0  # at most
        while load.sent < len(places) and size < self.limits.frame_bytes // 4:
            more = self.store.registers_at(*places[load.sent])
            if registers and len(registers) + len(more) > self.limits.part_registers:
                break
            registers += more
            size += sum(map(messages.wire_bytes, more))
            load.sent += 1
        if size <= self.limits.frame_bytes and len(registers) <= self.limits.part_registers:
            pieces = [Part([messages.register_to_wire(register) for register in registers])]
        else:
            pieces = list(parts(registers, self.limits))
        for piece in pieces:
            piece.start, piece.of = start, len(places)
            piece.upto = load.sent if piece is pieces[-1] else start
        return pieces

    def reach(self, feed: Feed) -> None:
        """What has been sent to a feed is of now: its next poke comes as far."""
        feed.loaded = self.log.seq
        feed.put(self.log.last_batch(), Part([]))
        self.due[feed] = None

    # -- slices ------------------------------------------------------------------------------------------------

    @property
    def is_heavy(self) -> bool:
        """True if an evaluation waits that is no slice: `evaluate` is to be called where it holds nobody up."""
        return self._is_heavy or self._is_long

    @property
    def _is_heavy(self) -> bool:
        waits = self.evaluations
        return bool(waits) and self.relevance.expected_rows(waits[0][0]) > self.limits.slice_units

    @property
    def _is_long(self) -> bool:
        return bool(self.long) and self.long[0][0]() > self.limits.slice_units

    def evaluate(self) -> None:
        """The longest-waiting evaluation of those that are no slices, as a whole."""
        if self._is_long and not self._is_heavy:
            self.long.popleft()[1]()
        else:
            self._evaluate()

    def _evaluate(self) -> None:
        interest, then = self.evaluations.popleft()
        then(self._find(interest) if interest.readers else None)

    def _find(self, interest: Interest) -> Failure | None:
        try:
            if not interest.is_loaded:
                self.relevance.load(interest, self.log.seq, self.limits.query_units)
        except QueryError as error:
            return failure_of(error)
        return None

    def resume(self, feed: Feed) -> None:
        """Some of what was on its way to a connection has come; or the connection is over, and its jobs with it."""
        self.jobs.extend((feed, job) for job in self.waiting.pop(feed, ()))

    def has_work(self) -> bool:
        """True if `step` has something to do."""
        return bool(
            self.jobs or (self.evaluations and not self._is_heavy) or (self.long and not self._is_long)
        )

    def step(self) -> bool:
        """One bounded slice of the longest-waiting load or evaluation; False if all of them wait for their readers."""
        if self.evaluations and not self._is_heavy:
            self._evaluate()
            return True
        if self.long and not self._is_long:
            self.long.popleft()[1]()
            return True
        for _ in range(len(self.jobs)):
            feed, job = self.jobs.popleft()
            if feed is not None and feed.is_over:
                continue  # dropping the job cancels it
            if feed is not None and (feed.paused or len(feed.out) > 100):
                self.jobs.append((feed, job))
                continue
            try:
                waits = next(job)
            except StopIteration:
                return True
            if not waits or feed is None:
                self.jobs.append((feed, job))
                return True
            self.waiting.setdefault(feed, []).append(job)
        return False


def failure_of(error: QueryError) -> Failure:
    """What a client is told of a query that could not be answered."""
    return "budget" if isinstance(error, BudgetError) else "query", str(error)
