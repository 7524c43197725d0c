"""All that is read of one tenant: who subscribes to what, and what an accepted transaction means to each of them.

A holding (`feed`) outlives its connection for some minutes, so that a replica that comes back with its `ticket` is
told the gap only. Invariants: what a replica holds is current as of where its feed stands; whoever is slow, or was away
for longer than the tail and the tickets reach, begins from nothing; interest is registered before it is evaluated. Work
that grows with the data comes in slices (`step`), but for evaluations that the caller is to make beside its loop
(`is_heavy`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from tripleweb.change import DELETED, Change, Key
from tripleweb.datalog.needed import Place
from tripleweb.errors import QueryError
from tripleweb.store import Delta, Store
from tripleweb.sync import messages
from tripleweb.sync.feed import Come, Conn, Feed, Gone, Holding, Load, News, ReaderLimits, missed
from tripleweb.sync.loads import Failure, Job, Loads, failure_of
from tripleweb.sync.messages import Failed, Part, Receipt, ServerFrame, Subscription
from tripleweb.sync.pages import Pages
from tripleweb.sync.published import Publications
from tripleweb.sync.records import Entry
from tripleweb.sync.relevance import Interest, Relevance
from tripleweb.sync.tail import Log, Shared, Tail, Told, parts


class Readers:
    """All that is read of one tenant."""

    def __init__(
        self,
        log: Log,
        store: Store,
        tail: Tail,
        limits: ReaderLimits,
        random_id: Callable[[], str],
        published: Publications,
    ) -> None:
        self.log = log
        self.store = store
        self.tail = tail
        self.limits = limits
        self.relevance = Relevance(store)
        self._random_id = random_id
        self._holdings: dict[str, Holding] = {}  # by replica
        self._away: deque[tuple[int, Holding]] = deque()  # since when, in that order
        self._whole: dict[Feed, None] = {}
        self.due: dict[Feed, None] = {}  # who may have something to send
        self.loads = Loads(log, store, self.relevance, limits, self.due)
        self.pages = Pages(log, store, self.loads, published)
        self._swept: set[Interest] = set()  # that are to be swept

    # -- coming and going --------------------------------------------------------------------------------------

    def begin(self, feed: Feed, hello: messages.Hello, now_ms: int) -> None:
        """A replica has said hello: what it holds already is followed from where it stands, all else is loaded."""
        self.due[feed] = None
        feed.seq = self.log.seq
        if hello.at is not None and hello.mark and not self._is_here(*hello.at, hello.mark):
            for subscription in filter(messages.is_whole, hello.subscriptions):
                subscription.cursor = None
        has_lineage = messages.LINEAGE in hello.features
        wanted = [one for one in hello.subscriptions if one.kind == "triples"]
        if has_lineage:
            self._resume(feed, hello, wanted, any(map(messages.is_whole, wanted)), now_ms)
        holding = feed.holding
        for subscription in hello.subscriptions:
            name = subscription.id
            feed.sizes[name] = len(messages.said(subscription))
            if holding is not None and name in holding.loads:  # it goes on where it broke off
                self._begin_query(feed, holding, name)
            elif name not in feed.entering:
                self.subscribe(feed, subscription, greets=True)

    def _is_here(self, epoch: str, seq: int, mark: int) -> bool:
        """False if what a replica has at `seq` is not what stands there here: the server has lost its tail, or an older
        file was put in its place, and others have written since. (Where nothing has come since, it stands beyond.)"""
        return epoch != self.log.epoch or self.tail.mark(seq) in (0, mark)

    def _resume(
        self, feed: Feed, hello: messages.Hello, wanted: Sequence[Subscription], whole: bool, now_ms: int
    ) -> None:
        self._expire(now_ms)
        held = self._holdings.get(hello.replica)
        epoch, since = hello.at or ("", 0)
        asked = {one.id: one for one in wanted}
        here = {one.id: messages.said(one) for one in wanted if one.cursor and one.cursor[1] >= since}
        known = (
            held is not None
            and not whole
            and held.has_all_coarse(here)
            and held.ticket == hello.ticket
            and epoch == self.log.epoch
            and self.tail.floor <= since <= self.log.durable_seq
        )
        if held is not None and not known:
            self._end(held)
        if held is None or not known:
            held = Holding(hello.replica, self._random_id(), self.relevance.open_places())
            held.own.readers[held] = None
            self._holdings[hello.replica] = held
        feed.holding, held.confirmed = held, hello.confirmed
        if not known and not whole:
            feed.reset = True
            feed.is_fresh = hello.at is None
            feed.loaded = self.log.seq
            # what is said of earlier writes comes with the reset, which ends what it says something of
            batch = max([self.log.last_batch(), *(batch for batch, _ in feed.receipts)])
            feed.put(batch, Part([]))
        if not known:
            held.feed = feed
            return
        feed.seq = since
        for place, (at, number) in held.written.items():  # the time that it was away does not count
            held.written[place] = at + now_ms - held.left, number
        for name, interest in list(held.interests.items()):
            subscription, load = asked.get(name), held.loads.get(name)
            if subscription is None or messages.said(subscription) != held.said[name]:
                self._leave(held, name)
            elif load is not None:
                load.sent = min(load.sent, subscription.have)
            elif name in here and interest.is_loaded:
                feed.entering[name] = since
            else:
                self._leave(held, name)
        held.feed = feed
        self._catch_up(feed, held, since)

    def _catch_up(self, feed: Feed, holding: Holding, since: int) -> None:
        """What a holding has missed: places that came in, changes of what it holds, what it has to forget."""
        here = [one for name, one in holding.interests.items() if name not in holding.loads]
        came = {place for one in here for place in one.since(since)}
        came.update(holding.own.since(since - 1))
        for part in parts(self.loads.registers(sorted(came)), self.limits):
            feed.put(self.log.last_batch(), part)
            feed.loaded, feed.is_nudged = self.log.seq, True
        holding.load_again(self.tail.between(since, self.log.seq), since)
        for news in missed(holding, since, self.tail.between(since, self.log.seq), self._holds):
            feed.news.append(news)
            feed.gone = news[0] if isinstance(news[1], Gone) else feed.gone

    def leave(self, feed: Feed, now_ms: int) -> None:
        """A connection is gone, or begins anew."""
        feed.is_over = True
        self.loads.resume(feed)
        self.due.pop(feed, None)
        self._whole.pop(feed, None)
        self.pages.leave(feed)
        feed.news.clear()
        if (holding := feed.holding) is not None and holding.feed is feed:
            holding.feed = None
            holding.left = now_ms
            self._away.append((now_ms, holding))
            self._expire(now_ms)

    def tick(self, now_ms: int) -> None:
        """Forgets who is long away, and what was written long ago; takes those on who would fall behind the tail."""
        self._expire(now_ms)
        self.pages.windows.tick(now_ms)
        for holding in self._holdings.values():
            if not holding.trim(self.tail.floor, self.limits.own_max):  # if it is cut off now it begins anew
                holding.ticket = self._random_id()
            feed = holding.feed
            if feed is not None:
                self._age(holding, now_ms)
                if self.log.durable_seq - feed.seq > self.limits.lag_max:
                    feed.is_nudged = True
                    self.due[feed] = None

    def _expire(self, now_ms: int) -> None:
        old, most = now_ms - self.limits.held_ms, self.limits.holdings_max
        while self._away and (self._away[0][0] <= old or len(self._holdings) > most):
            left, holding = self._away.popleft()
            if holding.feed is None and holding.left == left:
                self._end(holding)

    def _age(self, holding: Holding, now_ms: int) -> None:
        """What was written long ago counts as asked for no more."""
        old = holding.aged(now_ms - self.limits.held_ms, self.limits.own_max)
        for place in old:
            del holding.written[place]
            self.relevance.let_go(holding.own, place)
        self._forget(holding, old)

    def _end(self, holding: Holding) -> None:
        if self._holdings.get(holding.replica) is not holding:
            return
        for name in list(holding.interests):
            self._leave(holding, name)
        self.relevance.close(holding.own)
        del self._holdings[holding.replica]

    def say(self, feed: Feed, frame: ServerFrame) -> None:
        """A frame that waits for nothing."""
        feed.out.append((0, frame))
        self.due[feed] = None

    def tell_receipt(self, feed: Feed, receipt: Receipt, batch: int) -> None:
        """A receipt, for when the commit of this batch is durable."""
        feed.receipts.append((batch, receipt))
        self.due[feed] = None

    # -- subscriptions -----------------------------------------------------------------------------------------

    def subscribe(self, feed: Feed, subscription: Subscription, greets: bool = False) -> None:
        """Interest is registered at once, the load follows. `greets`: it came with the hello."""
        feed.sizes[name := subscription.id] = len(messages.said(subscription))
        self.due[feed] = None
        if refusal := feed.refusal(self.limits):
            self._fail(feed, name, "limits", refusal)
        elif subscription.kind == "triples":
            holding = feed.holding
            if holding is not None and not messages.is_whole(subscription):
                self._subscribe_query(feed, holding, subscription)
            else:  # the cursor of who holds some places only may be of before it was told to forget others
                is_kept = greets or holding is None
                self._subscribe_whole(feed, subscription, subscription.cursor if is_kept else None)
        elif subscription.kind == "rows":
            if (failure := self.pages.show(feed, subscription)) is not None:
                self._fail(feed, name, *failure)
        else:
            self._fail(feed, name, "query", f"no subscription of kind {subscription.kind!r}")

    def _subscribe_whole(self, feed: Feed, asked: Subscription, cursor: messages.Cursor | None) -> None:
        if not feed.whole and feed.holding is None:
            feed.seq = self.log.seq
        feed.whole[asked.id] = None
        self._whole[feed] = None
        feed.news.clear()
        if (
            cursor is not None
            and cursor[0] == self.log.epoch
            and self.tail.floor <= cursor[1] <= self.log.durable_seq
        ):
            feed.entering[asked.id] = cursor[1]
            feed.seq = min(feed.seq, cursor[1])
        else:
            feed.entering[asked.id] = None
            feed.reset = True
            self.loads.replace(feed, self.store.registers())

    def _subscribe_query(self, feed: Feed, holding: Holding, subscription: Subscription) -> None:
        name = subscription.id
        if holding.said.get(name) == messages.said(subscription):  # it is there, or on its way
            if name not in holding.loads:
                feed.entering[name] = None
            return
        if name in holding.interests:
            self._leave(holding, name)
        try:
            interest = self._open(subscription)
        except (QueryError, ValueError, TypeError) as error:
            self._fail(feed, name, "query", str(error))
            return
        holding.interests[name], holding.said[name] = interest, messages.said(subscription)
        interest.readers[holding] = None
        holding.loads[name] = Load(interest)
        self._begin_query(feed, holding, name)

    def _begin_query(self, feed: Feed, holding: Holding, name: str) -> None:
        """Sends what a query needs, as soon as it is known; the rest is told meanwhile, unless the load is to replace
        what is there."""
        load = holding.loads[name]
        feed.asked += 1
        waits = feed.reset and not feed.is_fresh
        if waits:
            feed.entering[name] = None
            feed.loads += 1
        self.loads.evaluate_later(load.interest, partial(self._evaluated, feed, holding, name, load, waits))

    def _open(self, subscription: Subscription) -> Interest:
        if subscription.query is None:
            return self.relevance.open_predicates(subscription.predicates)
        inputs = [messages.input_from_wire(wire) for wire in subscription.inputs]
        return self.relevance.open(subscription.query, inputs, subscription.rules)

    def unsubscribe(self, feed: Feed, name: str) -> None:
        self.due[feed] = None
        feed.sizes.pop(name, None)
        self.pages.hide(feed, name)
        if name in feed.whole:
            del feed.whole[name]
            if not feed.whole:
                del self._whole[feed]
                if feed.holding is not None:  # of all that it has, what else it asks for is to stay
                    self.again(feed)
        if feed.holding is not None and name in feed.holding.interests:
            self._leave(feed.holding, name)
        if feed.entering.get(name) is not None or feed.holding is not None:
            feed.entering.pop(name, None)  # (a load of the whole app is told to its end)

    def _leave(self, holding: Holding, name: str) -> None:
        """A subscription ends. If its load was sent, but does not live yet, it is not taken there: what else asks for
        its places brings them again."""
        feed = holding.feed
        is_untaken = feed is not None and feed.entering.pop(name, 0) is None
        del holding.said[name]
        interest = holding.interests.pop(name)
        places = list(self.relevance.held(interest)) if is_untaken else []
        if holding.loads.pop(name, None) is None:
            self._release(holding, interest)
        elif not any(other is interest for other in holding.interests.values()):  # nothing of it is there yet
            self._forsake(holding, interest)
        if feed is not None and (kept := [place for place in places if holding.holds(place)]):
            self.loads.replace(feed, self.loads.registers(one for one in kept if holding.holds(one)))

    def _release(self, holding: Holding, interest: Interest) -> None:
        """What nothing else asks for is to be forgotten, and what is still being loaded until it has come."""
        names = [name for name, other in holding.interests.items() if other is interest]
        if all(name in holding.loads for name in names):
            if interest.needed is None:  # if it is cut off before it hears of that it begins anew
                holding.ticket = self._random_id()
            places = list(self.relevance.held(interest))
            if not names:
                self._forsake(holding, interest)
            self._forget(holding, places)

    def _forsake(self, holding: Holding, interest: Interest) -> None:
        interest.readers.pop(holding, None)
        if not interest.readers:
            self.relevance.close(interest)

    def _forget(self, holding: Holding, places: Iterable[Place]) -> None:
        gone = [place for place in places if not holding.holds(place)]
        for place in gone:
            holding.forgets.pop(place, None)
            holding.forgets[place] = self.log.seq
        if gone and holding.feed is not None:
            holding.feed.gone = self.log.seq
            self._news(holding.feed, (self.log.seq, Gone(gone)))

    # -- what was written --------------------------------------------------------------------------------------

    def tell(self, entry: Entry, delta: Delta, writer: Feed) -> None:
        """A transaction was accepted, and the store has it: who is to be told what of it, once it is durable."""
        self.tail.add(entry)
        self.due.update(self._whole)
        self.pages.noticed(delta)
        if not self._holdings:
            return
        seq = entry.seq
        for interest, places in self.relevance.changed(delta, seq).items():
            self._ship(interest.readers, places, seq, interest)
            if interest.trouble is not None:  # what it needs is not known: nobody is told more before it is
                self._find_again(interest)
            elif interest not in self._swept and self.relevance.is_stale(interest):
                self._swept.add(interest)
                self.loads.evaluate_later(interest, partial(self._sweep, interest))
        reached: dict[Feed, dict[int, None]] = {}
        for at, change in enumerate(entry.registers):
            subject, predicate = change.subject, change.predicate
            deleted = predicate == DELETED
            holders = (
                self.relevance.holders_of(subject) if deleted else self.relevance.holders(subject, predicate)
            )
            for interest in holders:
                for holding in interest.readers:
                    feed = holding.feed
                    if feed is None or feed.whole:
                        continue
                    loads, alone = holding.loading(interest) if holding.loads and not deleted else ((), False)
                    for load in loads:
                        load.again[subject, predicate] = None
                    if not alone and feed is not writer:
                        reached.setdefault(feed, {})[at] = None
        made: dict[tuple[int, ...], Told] = {}
        for feed, found in reached.items():
            kept = tuple(sorted(found))
            if kept not in made:
                made[kept] = Told(entry, kept)
            self._news(feed, (seq, made[kept]))

    def wrote(
        self, feed: Feed, number: int, keys: Iterable[Key], stamp: tuple[int, str], now_ms: int
    ) -> None:
        """A replica has pushed changes of these registers, whatever became of them: it asked for these places."""
        holding = feed.holding
        if holding is None:
            return
        fresh: list[Place] = []
        for place in dict.fromkeys((subject, predicate) for subject, predicate, _ in keys):
            if place[1] == DELETED:
                if feed.reset:
                    fresh.append(place)
                continue
            # what it has just written it has, unless a load is about to take its place; what it holds may be on its way
            is_here = holding.holds(place) and not feed.loads
            if feed.reset or (not is_here and feed.may_lack(self.store.registers_at(*place), stamp)):
                fresh.append(place)
            holding.written.pop(place, None)
            holding.written[place] = now_ms, number
            self.relevance.hold(holding.own, place, self.log.seq)
        if fresh:
            self._ship([holding], fresh, self.log.seq)

    def confirmed(self, replica: str, number: int) -> None:
        """A replica has the receipts of its transactions up to this number."""
        if (holding := self._holdings.get(replica)) is not None:
            holding.confirmed = number

    def _ship(
        self, readers: Iterable[Holding], places: Iterable[Place], seq: int, interest: Interest | None = None
    ) -> None:
        """Places that came to be needed, as they are at this point of the log."""
        feeds, places = [], list(places)
        for one in readers:
            if one.feed is None or one.feed.whole:
                continue
            loads, alone = one.loading(interest) if interest is not None and one.loads else ((), False)
            for load in loads:
                load.again.update(dict.fromkeys(places))
            if not alone:
                feeds.append(one.feed)
        if feeds and (frames := list(parts(self.loads.registers(places), self.limits, seq))):
            for feed in feeds:
                self._news(feed, (seq, Come(places, frames)))

    def _holds(self, holding: Holding, change: Change) -> bool:
        if change.predicate != DELETED:
            return holding.holds((change.subject, change.predicate))
        return any(holding in one.readers for one in self.relevance.holders_of(change.subject))

    def _news(self, feed: Feed, news: News) -> None:
        if feed.whole:
            return
        feed.news.append(news)
        self.due[feed] = None
        if len(feed.news) > self.limits.news_max:
            self.again(feed)

    def again(self, feed: Feed) -> None:
        """From nothing again: it was slow for longer than anybody keeps what it missed, or has more than it needs."""
        feed.news.clear()
        feed.seq = self.log.seq
        feed.reset = True
        feed.entering = dict.fromkeys(feed.whole)
        self.due[feed] = None
        if (holding := feed.holding) is not None:
            feed.entering.update(dict.fromkeys(holding.interests))
            holding.ticket = self._random_id()  # cut off before the reset, it is not to go on from before
            holding.forgets.clear()
            feed.is_fresh = False
            holding.loads.clear()
            for name, interest in holding.interests.items():
                if not interest.is_loaded:
                    del feed.entering[name]
                    holding.loads[name] = Load(interest)
                    self._begin_query(feed, holding, name)
        feed.round += 1
        if not feed.is_reload_due:
            feed.is_reload_due = True
            feed.loads += 1
            self.loads.begin(feed, self._reload(feed))

    def _reload(self, feed: Feed) -> Job:
        feed.is_reload_due = False
        feed.round += 1
        feed.news.clear()  # until now: the load has it
        feed.seq = self.log.seq
        feed.put(self.log.last_batch(), Part([], anew=True))
        registers = self.store.registers()
        if (holding := feed.holding) is not None and not feed.whole:
            places = dict.fromkeys(
                place for one in holding.interests.values() for place in self.relevance.held(one)
            )
            places.update(dict.fromkeys(holding.own.places))
            registers = self.loads.registers(list(places))
        round_ = feed.round
        yield from self.loads.whole(feed, registers, lambda: feed.round != round_)

    # -- long work ---------------------------------------------------------------------------------------------

    def _evaluated(
        self, feed: Feed, holding: Holding, name: str, load: Load, waits: bool, failure: Failure | None
    ) -> None:
        """An interest was evaluated, or could not be: now it is sent."""
        feed.asked -= 1
        feed.loads -= waits
        self.due[feed] = None
        if feed.is_over or holding.loads.get(name) is not load:
            return
        if failure is not None:
            self._end_subscription(holding, name, failure)
            return
        places = list(self.relevance.held(load.interest))
        if waits:  # with all else that replaces what is there
            del holding.loads[name]
            places += feed.gone_again(load.interest, places)
            feed.keep(places)
            self.loads.replace(
                feed, self.loads.registers(places), lambda: holding.interests.get(name) is not load.interest
            )
        else:
            load.places = load.places or places
            sent = partial(self._loaded, feed, holding, name, load)
            self.loads.begin(feed, self.loads.send(feed, holding, name, load, sent))

    def _loaded(self, feed: Feed, holding: Holding, name: str, load: Load) -> None:
        """All places of a load have been sent, and with the next poke it is there."""
        places = load.places or []
        del holding.loads[name]
        feed.entering[name] = None
        feed.keep(places)
        # what was swept meanwhile has been sent, and is followed no more
        self._forget(holding, load.interest.lacks(places))

    def _end_subscription(self, holding: Holding, name: str, failure: Failure) -> None:
        if (feed := holding.feed) is not None:
            self._fail(feed, name, *failure)
        self._leave(holding, name)

    def _find_again(self, interest: Interest) -> None:
        """Its triggers have failed, or would have cost more than to find all from nothing."""
        waiting = [one.feed for one in interest.readers if one.feed is not None]
        for feed in waiting:
            feed.loads += 1
        interest.is_loaded = False
        self.loads.evaluate_later(interest, partial(self._found_again, interest, self.log.seq, waiting))

    def _found_again(
        self, interest: Interest, seq: int, waiting: list[Feed], failure: Failure | None
    ) -> None:
        for feed in waiting:
            feed.loads -= 1
            self.loads.reach(feed)
        if failure is None:
            self._ship(interest.readers, list(interest.since(seq - 1)), self.log.seq, interest)
        else:
            self._fail_all(interest, failure)

    def _fail_all(self, interest: Interest, failure: Failure) -> None:
        for holding in list(interest.readers):
            for name in [name for name, one in holding.interests.items() if one is interest]:
                self._end_subscription(holding, name, failure)

    def _sweep(self, interest: Interest, failure: Failure | None) -> None:
        """What an interest needed once and needs no more is followed no more."""
        self._swept.discard(interest)
        if not interest.readers or not interest.is_loaded:
            return
        try:
            dropped = self.relevance.sweep(interest, self.log.seq, self.limits.query_units)
        except QueryError as error:
            self._fail_all(interest, failure_of(error))
            return
        for holding in list(interest.readers):
            self._forget(holding, dropped)

    # -- leaving -----------------------------------------------------------------------------------------------

    def resume(self, feed: Feed) -> None:
        """A connection that read slowly has caught up."""
        feed.paused = False
        self.due[feed] = None
        self.pages.resume(feed)

    def describe(self, feed: Feed, name: str) -> None:
        """Says what there is."""
        counts = {one: self.store.count(one) for one in self.store.predicates()}
        feed.out.append((self.log.last_batch(), messages.Described(name, self.log.seq, counts)))
        self.due[feed] = None

    def _fail(self, feed: Feed, name: str, code: str, message: str) -> None:
        feed.sizes.pop(name, None)
        self.say(feed, Failed(name, code, message))

    def frames(self) -> Iterator[tuple[Conn, ServerFrame]]:
        """Everything that may leave now, in order for each connection."""
        shared = Shared()
        for feed in list(self.due):
            if feed.is_over:  # its connection may be another's by now
                del self.due[feed]
                continue
            if feed.paused:
                continue
            while feed.out and self.log.is_durable(feed.out[0][0]):
                yield feed.conn, feed.out.popleft()[1]
            for shown in self.pages.windows.frames(feed):
                yield feed.conn, shown
            if feed.whole and feed.seq < self.tail.floor:
                self.again(feed)
            elif feed.replica and not feed.loads and not feed.out:
                for frame in feed.pokes(self.log, self.tail, self.limits, shared):
                    yield feed.conn, frame
            if not (feed.out or feed.receipts or feed.news or feed.loads or feed.ready) and (
                not feed.whole or feed.seq == self.log.seq
            ):
                del self.due[feed]
