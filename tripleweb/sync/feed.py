"""What one connection reads, what its replica holds, and how it is told.

A `Feed` is the reading side of one connection. Its `Holding` says which places its replica holds: those that its
queries need or needed (`relevance`), and what it wrote itself lately. What an accepted transaction means to a holding
waits as news, in the order of seq, until it is durable; a feed of the whole app has no news, and is told the tail of
the log. `readers` says what comes to be news.

Invariants: a feed's pokes join without a gap, and nothing in them is not yet durable; a poke has parts, then
transactions, then what is to be forgotten. A poke that has a load reaches as far as the load does (`loaded`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tripleweb.change import COUNTER, DELETED, Change
from tripleweb.datalog.needed import Place
from tripleweb.errors import ProtocolError
from tripleweb.sync.display import Display, DisplayLimits
from tripleweb.sync.messages import Part, Poke, Receipt, ServerFrame
from tripleweb.sync.order import Count
from tripleweb.sync.records import Entry
from tripleweb.sync.relevance import Interest
from tripleweb.sync.tail import FrameLimits, Log, Shared, Tail, Told, pokes, told
from tripleweb.sync.windows import Window, WindowLimits

Conn = Hashable


class ReaderLimits(FrameLimits, DisplayLimits, WindowLimits, Protocol):
    """Beside those of frames and displays: how much may wait, how long and how much is remembered of a replica that is
    away."""

    @property
    def news_max(self) -> int: ...
    @property
    def subscriptions_max(self) -> int: ...
    @property
    def subscription_bytes_max(self) -> int: ...
    @property
    def holdings_max(self) -> int: ...
    @property
    def held_ms(self) -> int: ...
    @property
    def own_max(self) -> int: ...
    @property
    def lag_max(self) -> int: ...


@dataclass(slots=True, eq=False)
class Load:
    """A subscription on its way to a replica: its places, in the order in which they are sent. Those that change
    meanwhile are sent again at the end, and none of them is seen there before all have come."""

    interest: Interest
    places: list[Place] | None = None  # None: not evaluated yet
    sent: int = 0  # of them
    again: dict[Place, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Holding:
    """What a replica holds, whether it is connected or not."""

    replica: str
    ticket: str
    own: Interest  # what it wrote itself
    feed: Feed | None = None
    interests: dict[str, Interest] = field(default_factory=dict)  # by subscription
    said: dict[str, bytes] = field(default_factory=dict)  # what was asked for, likewise
    loads: dict[str, Load] = field(default_factory=dict)  # those of which not all is there yet
    # what it was told to forget, and at which seq, oldest first
    forgets: dict[Place, int] = field(default_factory=dict)
    # own places: when they were written, and by which transaction; oldest first
    written: dict[Place, tuple[int, int]] = field(default_factory=dict)
    confirmed: int = 0  # up to here it has its receipts
    left: int = 0  # when its connection was lost

    def holds(self, place: Place) -> bool:
        """True if it has a place, or is on its way to have it with the next poke."""
        if place in self.own.places:
            return True
        return any(one.holds(*place) for name, one in self.interests.items() if name not in self.loads)

    def loading(self, interest: Interest) -> tuple[list[Load], bool]:
        """The loads by which an interest is asked for; True if it is there by none but them, or not at all."""
        names = [name for name, one in self.interests.items() if one is interest]
        loads = [self.loads[name] for name in names if name in self.loads]
        return loads, bool(loads) and len(loads) == len(names)

    def has_all_coarse(self, asked: dict[str, bytes]) -> bool:
        """True if everything coarse is still asked for. Which places of it were there before is not known: it cannot
        end unheard."""
        return all(
            one.needed is not None or asked.get(name) == self.said[name] or name in self.loads
            for name, one in self.interests.items()
        )

    def load_again(self, entries: Iterable[Entry], since: int) -> None:
        """What has changed of what is being loaded is sent again at the end, and what came to be needed after `since`
        with it: nobody was there to be told."""
        for load in self.loads.values():
            if load.places is not None:
                known = set(load.places)
                load.again.update((place, None) for place in load.interest.since(since) if place not in known)
        for change in (change for entry in entries if self.loads for change in entry.registers):
            for load in self.loads.values():
                if load.interest.holds(change.subject, change.predicate):
                    load.again[change.subject, change.predicate] = None

    def trim(self, floor: int, most: int) -> bool:
        """Bounds what is known of what it was told to forget: nobody is caught up from before `floor`. False if there
        was more than `most`: then nothing is known any more."""
        forgets = self.forgets
        while forgets and forgets[oldest := next(iter(forgets))] < floor:
            del forgets[oldest]
        is_known = len(forgets) <= most
        if not is_known:
            forgets.clear()
        return is_known

    def aged(self, since_ms: int, most: int) -> list[Place]:
        """What it wrote before that, or beyond `most`; but not where it may not have the receipt, which says something
        of the place."""
        old: list[Place] = []
        surplus = len(self.written) - most
        for place, (at, number) in self.written.items():
            if at > since_ms and len(old) >= surplus:
                break
            if number > self.confirmed:
                break
            old.append(place)
        return old


@dataclass(slots=True)
class Gone:
    """What is to be forgotten."""

    places: list[Place]


@dataclass(frozen=True, slots=True)
class Come:
    """Places that come whole."""

    places: list[Place]
    parts: list[Part]


News = tuple[int, Told | Come | Gone]  # with its seq


def missed(
    holding: Holding, since: int, entries: Iterable[Entry], holds: Callable[[Holding, Change], bool]
) -> list[News]:
    """What a holding that was away since a seq has not heard: changes, and what it was to forget. It is told of that
    until then, for what it asks for may need it as long."""
    left = {place: seq for place, seq in holding.forgets.items() if seq >= since and not holding.holds(place)}
    until: dict[str, int] = {}
    for (subject, _), seq in left.items():
        until[subject] = max(seq, until.get(subject, 0))
    news: list[News] = []
    for entry in entries:
        kept = [
            at
            for at, one in enumerate(entry.registers)
            if holds(holding, one)
            or left.get(one[:2], 0) >= entry.seq
            or (one.predicate == DELETED and until.get(one.subject, 0) >= entry.seq)
        ]
        if kept:
            news.append((entry.seq, Told(entry, tuple(kept))))
    gone: dict[int, list[Place]] = {}
    for place, seq in left.items():
        gone.setdefault(seq, []).append(place)
    news.extend((seq, Gone(places)) for seq, places in gone.items())
    return sorted(news, key=lambda one: one[0])


@dataclass(slots=True, eq=False)
class Feed:
    """The reading side of one connection since its last hello."""

    conn: Conn
    out: deque[tuple[int, ServerFrame]] = field(default_factory=deque)  # with the commit they wait for
    replica: str = ""
    holding: Holding | None = None
    seq: int = 0  # where its triples subscriptions stand
    whole: dict[str, None] = field(default_factory=dict)  # subscriptions of the whole app
    displays: dict[str, Display] = field(default_factory=dict)
    windows: dict[str, Window] = field(default_factory=dict)
    ready: dict[Window, None] = field(default_factory=dict)  # those that have a frame
    sizes: dict[str, int] = field(default_factory=dict)  # of all of its subscriptions, in bytes
    entering: dict[str, int | None] = field(default_factory=dict)  # come to life with the next poke
    heard: Count = field(default_factory=Count)  # frames since its hello, pings aside
    made: int = 0  # frames for it alone, since its hello: they count themselves
    within: dict[int, int] = field(
        default_factory=dict
    )  # seq -> parts of that transaction that it was told, likewise
    news: deque[News] = field(default_factory=deque)
    gone: int = -1  # the seq of the latest of them that says what is to be forgotten
    receipts: list[tuple[int, Receipt]] = field(default_factory=list)  # with the commit they wait for
    asked: int = 0  # what it asked for that is still to be evaluated
    window: int = 0  # parts of loads that may be on their way to it; 0: any number
    put_parts: int = 0  # of loads, since its hello,
    took_parts: int = 0  # and of them those that it says have come
    loads: int = 0  # loads, and evaluations that others wait for, still running
    loaded: int = 0  # what they contain reaches up to this seq
    round: int = 0  # how often all began from nothing; older loads are void
    is_reload_due: bool = False  # the load that begins from nothing has not begun
    reset: bool = False  # the next poke replaces what is there
    is_fresh: bool = False  # there is nothing there: it takes what has come of loads with the reset
    is_nudged: bool = False  # there shall be one, even if it has nothing to tell
    has_parts: bool = (
        False  # parts for it alone are there, or on their way, that only a poke for it alone takes
    )
    paused: bool = False
    is_over: bool = False

    def put(self, batch: int, part: Part) -> None:
        """A part for it alone, for when a commit is durable."""
        self.made += 1
        part.n = self.made
        part.heard = self.heard.last if part.id else 0
        self.put_parts += bool(part.id)
        self.has_parts = self.has_parts or not part.id
        self.out.append((batch, part))

    def took(self, parts: int) -> None:
        """So many parts of loads have come to it. Raises `ProtocolError`."""
        if not self.took_parts <= parts <= self.put_parts:
            raise ProtocolError("order", f"{parts} parts came where {self.put_parts} were sent")
        self.took_parts = parts

    @property
    def is_full(self) -> bool:
        """True if enough of loads is on its way."""
        return 0 < self.window <= self.put_parts - self.took_parts

    def refusal(self, limits: ReaderLimits) -> str:
        """Why it may have no more subscriptions; "" if it may have those that it has."""
        if len(self.sizes) > limits.subscriptions_max:
            return "too many subscriptions on this connection"
        if sum(self.sizes.values()) > limits.subscription_bytes_max:
            return "the subscriptions of this connection are too long"
        if self.asked >= limits.subscriptions_max:  # asked for, given up and asked for again
            return "too much is still being loaded for this connection"
        return ""

    def gone_again(self, interest: Interest, places: Iterable[Place]) -> list[Place]:
        """What it is about to hear that it is to forget, but an interest holds, besides these places: it is to come
        with the load of that."""
        gone = [place for _, one in self.news if isinstance(one, Gone) for place in one.places]
        known = set(places) if gone else ()
        return [place for place in dict.fromkeys(gone) if place not in known and interest.holds(*place)]

    def keep(self, places: Iterable[Place]) -> None:
        """What comes with the next poke is not to be forgotten after it."""
        known: set[Place] | None = None
        for _, one in self.news:
            if isinstance(one, Gone):
                known = set(places) if known is None else known
                one.places = [place for place in one.places if place not in known]

    def may_lack(self, registers: Iterable[Change], stamp: tuple[int, str]) -> bool:
        """True if there is more at a place than who has just written this there knows, or will know by then."""
        if self.gone >= self.seq:  # it may be about to hear that it is to forget the place
            return True
        return any(one.slot[:2] == COUNTER or (one.time, one.replica) != stamp for one in registers)

    def pokes(self, log: Log, tail: Tail, limits: FrameLimits, shared: Shared) -> Iterator[ServerFrame]:
        """Takes it from where it stands to what is durable, in as many pokes as that needs. `shared` are those that
        were made for others."""
        durable_seq = log.durable_seq
        is_common = bool(self.whole) and not (self.receipts or self.entering or self.reset or self.has_parts)
        if is_common and (frames := shared.get(self.seq, self.replica)) is not None:
            self.seq = durable_seq
            yield from frames
            return
        if not self.whole and self.holding is None:  # it writes only
            self.seq = durable_seq
        durable = sum(1 for batch, _ in self.receipts if log.is_durable(batch))
        receipts = [receipt for _, receipt in self.receipts[:durable]]
        del self.receipts[:durable]
        begin, made = self.seq, list[ServerFrame]()
        while (
            receipts
            or self.entering
            or self.reset
            or self.is_nudged
            or (self.seq < durable_seq if self.whole else self.news and self.news[0][0] <= durable_seq)
        ):
            loads: list[Part] = []
            since, least = self.seq, self.loaded
            reach = tail.reach(since, durable_seq, limits) if self.whole else durable_seq
            upto, said = told(since, reach, receipts, limits, least)
            forget: list[Place] = []
            if self.whole:
                entries = tail.between(since, upto)
                # its own entries a replica has, unless it comes back, or begins anew
                own = "" if self.entering or self.reset else self.replica
                others = [one for one in entries if one.replica != own]
                is_common = is_common and len(others) == len(entries)
                tells = [Told(entry) for entry in others]
            else:
                untold = receipts[len(said)].seq if len(said) < len(receipts) else durable_seq + 1
                upto, tells, loads, forget = self._drain(upto, least, untold, limits)
                said = [receipt for receipt in said if receipt.seq <= upto]
            entering = self.entering
            while len(forget) > limits.part_registers:
                made.append(Part([], forget=forget[: limits.part_registers]))
                forget = forget[limits.part_registers :]
            poke = Poke(log.epoch, since, upto, entering, [], said, forget, self.reset, parts=len(loads))
            if self.reset and self.holding is not None and not self.whole:
                poke.ticket = self.holding.ticket
            if loads or entering or self.reset:  # what is loaded was accepted by now
                poke.at = log.now_ms
            made += map(self._counted, (*loads, *pokes(poke, tells, limits)))
            mark = tail.mark(upto) if self.whole else 0
            poke.mark = mark if mark != poke.at else 0
            self.within = {seq: n for seq, n in self.within.items() if seq >= upto}
            self.seq, self.reset, self.is_nudged, self.is_fresh = upto, False, False, False
            self.entering = {name: base for name, base in self.entering.items() if name not in entering}
            receipts = receipts[len(said) :]
        if is_common and made:
            shared.put(begin, made, tail.between(begin, durable_seq))
        elif made:
            self.has_parts = False
            for frame in made:
                if isinstance(frame, Poke) or (isinstance(frame, Part) and not frame.seq):
                    self.made += 1
                    frame.n, frame.heard = self.made, self.heard.last if isinstance(frame, Poke) else 0
        yield from made

    def _counted(self, frame: ServerFrame) -> ServerFrame:
        """A part of a transaction, which others may be told, too, with its number here."""
        if not isinstance(frame, Part):
            return frame
        n = self.within[frame.seq] = self.within.get(frame.seq, 0) + 1
        return frame if frame.n == n else msgspec.structs.replace(frame, n=n)

    def _drain(
        self, upto: int, least: int, untold: int, limits: FrameLimits
    ) -> tuple[int, list[Told], list[Part], list[Place]]:
        """(how far the next poke goes, its transactions, the parts before it, what is forgotten after it). What is
        news up to `least` goes into it, whatever its size. Nothing is forgotten before a receipt at `untold`, which may
        be of these very places."""
        entries: list[Told] = []
        loads: list[Part] = []
        forget: dict[Place, None] = {}
        late: list[tuple[int, Gone]] = []
        size = 0
        at = max(self.seq, least)
        while self.news and self.news[0][0] <= upto:
            seq, one = self.news[0]
            is_large = size > limits.frame_bytes or len(entries) >= limits.poke_transactions_max
            if seq > at and ((entries and is_large) or (forget and not isinstance(one, Gone))):
                break
            at = max(at, seq)
            self.news.popleft()
            if isinstance(one, Told):
                entries.append(one)
                size += len(one.body)
            elif isinstance(one, Come):
                loads += one.parts
                for place in one.places:
                    forget.pop(place, None)
                for _, other in late:
                    other.places = [place for place in other.places if place not in one.places]
            elif least < seq and untold <= seq:
                late.append((seq, one))
            else:
                forget.update(dict.fromkeys(one.places))
        else:
            at = upto
        self.news.extendleft(reversed(late))
        return at, entries, loads, list(forget)
