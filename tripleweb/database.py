"""The object a user holds: `open` and `connect` make a `Database`, whose methods are what one writes and asks.

Everything that is written goes through `writes` by the rules of the schema, in one transaction of the session;
everything that is asked is evaluated under the session's lock, so that it sees whole transactions, and becomes pandas
in `frame`. Invariants: a method that raises has changed nothing; a method that waits has a timeout; what the data is
worth is always said (`attrs["tripleweb"]`), a warning comes where it is less than was asked for.
"""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from tripleweb import past
from tripleweb.datalog import evaluate, query
from tripleweb.datalog.executor import Executor
from tripleweb.datalog.explain import COLUMNS, explain
from tripleweb.datalog.inputs import ITEMS_MAX, prepare
from tripleweb.datalog.rulebook import Rulebook
from tripleweb.editing import Editing
from tripleweb.errors import TriplewebError
from tripleweb.hosting import Hosting, Now
from tripleweb.ids import check_id, kind_of
from tripleweb.loading import Loading
from tripleweb.pen import Block, Pen
from tripleweb.progress import progress
from tripleweb.schema import Schema, check_schema, field_of
from tripleweb.select import Compiled, Selection
from tripleweb.session import Session
from tripleweb.status import Status, receipts
from tripleweb.subscriptions import Asked, check_of

if TYPE_CHECKING:
    import pandas as pd

    from tripleweb.frame import Columns
    from tripleweb.live import LiveFrame, LiveQueries

Query = query.Query
_QUERIES_MAX = 500
Path = str | os.PathLike[str]


@cache
def _budget() -> evaluate.Budget:
    """A clause too few is an error, not the end of the kernel: 4 GB, or a quarter of the memory; a minute or two."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not everywhere one is told
        memory = 8 << 30
    return evaluate.Budget(rows=100_000_000, bytes=min(4 << 30, memory // 4))


class Database(Editing):
    """A store, as `open` and `connect` give it. Ends with `close`, with the process, or when nobody holds it."""

    def __init__(self, session: Session, schema: Schema | None = None) -> None:
        self._session = session
        self._loading = Loading(session, progress)
        self._lives: LiveQueries | None = None
        self._executor = Executor(session.store)
        self._queries: dict[str, Query] = {}  # by their text, with the schema's kinds
        self._rules = Rulebook()
        self._finalizer = weakref.finalize(self, _close_soon, session)
        self._finalizer.atexit = False  # then it gets a little time for what is unsent: see session
        self.schema = check_schema(schema)
        self._pen = Pen(session, self.schema)

    def __repr__(self) -> str:
        return repr(self.status)

    def _repr_html_(self) -> str:
        return self.status._repr_html_()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- writing (more of it: `editing`) ----------------------------------------------------------------------

    def transaction(self, check: str | None = None, inputs: Sequence[Any] = ()) -> Block:
        """A block whose writes become one transaction with one stamp; an exception in it undoes them all.

        With a `check`, a query with its `inputs`, it is guarded: it is seen here at once, but committed only if the
        query has an answer at the server at that moment, without what the block writes. `tx.wait(timeout=30)` returns
        whether it was; else it is undone here, with a receipt (`rejected`, `guard`), and `tx.message` says why.
        Raises `QueryError` and `ValueError` for a query that cannot be asked there, before anything is written.

        Blocks within blocks belong to the outermost. Other threads wait while one is open.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> for name in ("Ada", "Bob"):
        ...     with db.transaction("[:find ?s . :in $ ?s :where (not [?s :seat/holder])]", ["12A"]) as tx:
        ...         db.set("12A", "seat/holder", name)
        ...     tx.wait()
        True
        False
        >>> db.get("seat", "12A")["holder"]
        'Ada'
        """
        if check is None:
            if inputs:
                raise ValueError("inputs= are those of a check=, and there is none")
            return Block(self._session)
        if isinstance(inputs, str):
            raise TypeError(f"inputs= is a sequence of inputs, such as [{inputs!r}]")
        parsed, inputs = self._parsed(check), _repeatable(inputs)
        with self._session.lock:
            rules = self._rules
            asked = check_of(parsed, inputs, str(rules) or None)

        def refusal() -> str:
            answer = self._executor.run(parsed, inputs, rules.rules or None, _budget())
            return "" if answer.rows else "the query of its check has no answer"

        return Block(self._session, asked, refusal)

    # -- asking ------------------------------------------------------------------------------------------------

    def q(self, query_text: str, /, *inputs: Any, timeout: float = 10, strict: bool = False) -> Any:
        """Answers a Datalog query: a DataFrame, or what the form of `:find` asks for.

        Connected, it first waits up to `timeout` seconds for what it needs; what is missing then is said by a warning,
        with `strict` by `IncompleteError`. `attrs["tripleweb"]` of a frame has `complete`, `scope` and `position`.
        Raises `QueryError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", name="Ada", age=36)
        >>> db.q("[:find ?name . :in $ ?least :where [?u :user/name ?name] [?u :user/age ?a] [(> ?a ?least)]]", 30)
        'Ada'
        """
        parsed = self._parsed(query_text)
        inputs = _repeatable(inputs)
        asked = self._ask(parsed, inputs)
        self._loading.load(asked, timeout, strict)
        return self._answer(parsed, inputs, asked=asked)

    def live(self, query_text: str, /, *inputs: Any, timeout: float = 10) -> LiveFrame:
        """A live frame of a query: `q`, kept fresh. Returns at once; the first look waits up to `timeout` seconds for
        the first complete answer. Raises `QueryError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> live = db.live("[:find ?name :where [_ :user/name ?name]]")
        >>> len(live)
        0
        >>> ada = db.insert("user", name="Ada")
        >>> live.df["name"].tolist()
        ['Ada']
        """
        return self._follow(self._parsed(query_text), inputs, timeout)

    def select(self, kind: str, /) -> Selection:
        """The entities of a kind, for those who do not write Datalog; `select` says the rest.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada, bob = db.insert("user", name="Ada", age=36), db.insert("user", name="Bob", age=17)
        >>> db.select("user").where("age", ">", 18).df()["name"].tolist()
        ['Ada']
        """
        return Selection(Now(self), kind)

    def rules(self, text: str | None = None, /) -> Rulebook:
        """Keeps rules for the queries that are asked from now on, instead of those of the same names; returns all that
        are kept. A query's own rules (`%`) come before them. Raises `QueryError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> db.rules("[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]")
        [(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]
        """
        if text is not None:
            with self._session.lock:
                self._rules = self._rules.having(text)
                self._queries.clear()
        return self._rules

    def explain(
        self, query_text: str, /, *inputs: Any, timeout: float = 10, strict: bool = False
    ) -> pd.DataFrame:
        """Runs a query as `q` does and says how, a row a step; `datalog.explain` tells of the columns, `attrs` whether
        a live frame of it follows by triggers, or why not. Raises `QueryError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", name="Ada", age=36)
        >>> db.explain("[:find ?u :where [?u :user/aeg 36]]")["note"][0]
        'no triple has :user/aeg; did you mean :user/age?'
        """
        from tripleweb.frame import result_frame

        parsed, inputs = self._parsed(query_text), _repeatable(inputs)
        asked = self._ask(parsed, inputs)
        self._loading.load(asked, timeout, strict)
        there = self._loading.predicates(timeout, strict) if self._session.is_partial else ()
        with self._session.lock:
            rules, budget = self._rules.rules or None, _budget()
            told = explain(
                self._executor, parsed, inputs, rules, clock=perf_counter, budget=budget, there=there
            )
            attrs = self._loading.attrs(asked) | told.facts
        return result_frame(tuple(COLUMNS), told.rows, kinds=COLUMNS, attrs=attrs)

    def why_not(
        self, asked: str | LiveFrame, row: Any, /, *inputs: Any, timeout: float = 10, strict: bool = False
    ) -> pd.DataFrame:
        """Why a row is not in the answer of a query (or of a live frame): a line a clause, in the order in which they
        are followed with the row's values.

        `row` is a dict of some columns, a Series, a frame of one row or a tuple of all values; of a single column a
        value will do. Columns: `depth` (how
        many rules it is in), `kind` (one of `triple call input rule or not`, `find` and `limit` for what comes after
        the clauses, `row`), `clause`, `left` (in how many ways all clauses so far hold), `blamed` (it is one of those
        that cannot hold together; without any one of them they can), `note` (what the data say). `attrs["tripleweb"]`
        has `found`: it is in the answer. Loads all that the query's predicates have. Raises `QueryError`,
        `BudgetError`, `ValueError`, `TypeError`.

        >>> import tripleweb
        >>> db = tripleweb.open()
        >>> ada = db.insert("user", id="ada", name="Ada", age=29)
        >>> adults = "[:find ?name :where [?u :user/name ?name] [?u :user/age ?age] [(> ?age 30)]]"
        >>> why = db.why_not(adults, {"name": "Ada"})
        >>> why[why["blamed"]][["clause", "note"]].values.tolist()[-1]
        ['[(> ?age 30)]', '(> 29 30) is false']
        """
        from tripleweb import because
        from tripleweb.live import LiveFrame

        rules: str | None = str(self._rules) or None
        if not isinstance(asked, LiveFrame):
            parsed, inputs = self._parsed(asked), _repeatable(inputs)
        else:
            if inputs:
                raise TypeError("a live frame has its inputs: give them with the query's text, or none")
            parsed, (given, rules) = asked._shared.live.query, asked._shared.given
            inputs = tuple(given)
        program, bound = prepare(parsed, inputs, rules)
        needed = self._loading.ask_read(program.query.predicates)
        self._loading.load(needed, timeout, strict)
        with self._session.lock:
            attrs = self._loading.attrs(needed)
            return because.why_not(program, bound, self._session.store, row, attrs, _budget())

    async def aq(self, query_text: str, /, *inputs: Any, timeout: float = 10, strict: bool = False) -> Any:
        """`q` for async code: the event loop runs on meanwhile."""
        if self._session.within_transaction:  # whose state no other thread sees, and which holds them all up
            return self.q(query_text, *inputs, timeout=timeout, strict=strict)
        return await asyncio.to_thread(self.q, query_text, *inputs, timeout=timeout, strict=strict)

    def get(
        self, kind: str, id: str, /, *, timeout: float = 10, strict: bool = False
    ) -> dict[str, Any] | None:
        """What is known of an entity as one kind: a dict with `id`; None if there is none. Loads as `q` does."""
        subject = check_id(id)
        if self._session.is_partial:
            fields = self.schema.fields(kind)
            wanted = " ".join(f'"{kind}/{name}"' for name in fields) if fields else "*"
            self._loading.load(
                self._ask(self._parsed(f"[:find (pull ?e [{wanted}]) :in $ ?e]"), (subject,)), timeout, strict
            )
        with self._session.lock:
            return self.schema.entity(self._session.store, kind, subject)

    def kinds(self, *, timeout: float = 10, strict: bool = False) -> list[str]:
        """The kinds that there is data of, sorted."""
        return sorted({kind_of(predicate) for predicate in self._loading.predicates(timeout, strict)})

    def fields(self, kind: str, /, *, timeout: float = 10, strict: bool = False) -> list[str]:
        """The fields of a kind that there is data of, sorted."""
        names = self._loading.predicates(timeout, strict)
        return sorted(field_of(name) for name in names if kind_of(name) == kind)

    def frame(self, kind: str, /, *, timeout: float = 10, strict: bool = False) -> pd.DataFrame:
        """All entities of a kind as a DataFrame: `id`, then its fields. Raises `SchemaError` for an unknown kind."""
        from tripleweb.frame import kind_frame

        self.schema.fields(kind)
        asked = self._loading.ask_kind(kind)
        self._loading.load(asked, timeout, strict)
        with self._session.lock:
            frame = kind_frame(self._session.store, self.schema, kind)
            frame.attrs |= {"tripleweb": self._loading.attrs(asked), "tripleweb_kind": kind}
        return frame

    def _parsed(self, text: str) -> Query:
        """A query with the kept rules and what the schema says of fields. Raises `QueryError`."""
        fitted = self._queries.get(text)
        if fitted is None:
            if len(self._queries) >= _QUERIES_MAX:
                self._queries.clear()
            fitted = self._queries[text] = (
                query.parse(text).bind_rules(self._rules.rules).of_schema(self.schema)
            )
        return fitted

    def _ask(self, parsed: Query, inputs: Sequence[Any]) -> Asked | None:
        """Asks the server for what a query needs; None where nothing is to be asked."""
        return self._loading.ask(parsed, inputs, str(self._rules) or None)

    def _answer(
        self,
        parsed: Query,
        inputs: Sequence[Any],
        columns: Columns | Compiled | None = None,
        asked: Asked | None = None,
    ) -> Any:
        """What a query answers, of what is here."""
        from tripleweb.frame import columns_of, shape

        with self._session.lock:
            rules = self._rules.rules or None
            result = self._executor.run(parsed, inputs, rules, _budget())
            attrs = self._loading.attrs(asked)
        known = columns or columns_of(parsed, self.schema)
        attrs |= {f"skipped_{column}": count for column, count in result.skipped.items()}
        return shape(result, parsed.shape, kinds=known.kinds, nullable=known.nullable, attrs=attrs)

    def _follow(
        self, parsed: Query, inputs: Sequence[Any], timeout: float, columns: Columns | Compiled | None = None
    ) -> LiveFrame:
        from tripleweb.frame import columns_of
        from tripleweb.live import LiveQueries

        inputs = _repeatable(inputs)
        with self._session.lock:
            if self._lives is None:
                self._lives = LiveQueries(Hosting(self), self._session.store, self._session.anchored)
                self._session.watch(self._lives)
            live = self._lives.upkeep.open(parsed, inputs, self._rules.rules or None, _budget())
            rules = str(self._rules) or None
            known = columns or columns_of(parsed, self.schema)
            return self._lives.open(
                live, live.inputs, inputs, rules, kinds=known.kinds, nullable=known.nullable, timeout=timeout
            )

    # -- files -------------------------------------------------------------------------------------------------

    def export(self, path: Path, /, *, timeout: float = 60, strict: bool = True) -> int:
        """Writes all triples into a file and returns how many: Parquet (with pyarrow), CSV, JSON Lines or EDN datoms,
        by the ending: `.parquet .csv .jsonl .edn`, the last three also with `.gz`.

        A row is a subject, a predicate, a value and its kind. Connected, all of the app is loaded first, for up to
        `timeout` seconds; what is not whole is not written (`IncompleteError`), or with `strict=False` with a warning.
        The file is there whole or not at all. Raises `ValueError` for another ending, `ImportError`, `OSError`.

        >>> import tempfile, tripleweb
        >>> db, other = tripleweb.open(), tripleweb.open()
        >>> db.set("ada", "user/name", "Ada")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     db.export(f"{folder}/all.jsonl"), other.import_(f"{folder}/all.jsonl")
        (1, 1)
        >>> other.get("user", "ada")
        {'id': 'ada', 'name': 'Ada'}
        """
        from tripleweb.transfer import export

        return export(self._session, self._loading, path, timeout, strict)

    def import_(
        self, path: Path, /, *, deleted: Literal["raise", "skip"] = "skip", timeout: float = 60
    ) -> int:
        """Writes the triples of a file into this store and returns how many: what `export` wrote, or others, with
        columns `subject`, `predicate`, `value` and maybe `kind` and `field`.

        Single values are assigned, members are added to their sets, counters are brought to the file's total (for which
        they are loaded, for up to `timeout` seconds): importing twice is importing once. Fields that the schema knows
        are checked. All of the file is looked at first: `ValueError` or `SchemaError` says in which line something is
        wrong, and nothing was written. Then it is written in transactions of about 100,000 values; after an
        interruption, import again. Values of deleted entities are left out with a warning, or raise `DeletedError`.
        """
        from tripleweb.transfer import import_

        done = import_(self._session, self._loading, self.schema, path, deleted, timeout)
        if done.left_out:
            many = "1 value was" if done.left_out == 1 else f"{done.left_out:,} values were"
            warnings.warn(f"{many} left out: deleted ids", stacklevel=2)
        return done.written

    # -- sync --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """How the store stands."""
        return Status.of(self._session)

    def flush(self, timeout: float | None = 30, *, strict: bool = False) -> None:
        """Returns when the server has decided everything written so far.

        Raises `TimeoutError` otherwise, at once when offline by choice or refused, and with `strict` `RejectedError` if
        something was rejected.
        """
        self._session.flush(timeout, strict=strict)

    def receipts(self) -> pd.DataFrame:
        """What became of writes, oldest first: `time subject predicate value outcome by reason`. A delete of an entity
        has neither predicate nor value.

        The newest 10,000 are kept, and of those before them 100,000 that did not stand; warns if there were more:
        `attrs["tripleweb"]["forgotten"]` says how many at least.
        """
        frame = receipts(self._session)
        forgotten = frame.attrs["tripleweb"]["forgotten"]
        if forgotten:
            warnings.warn(
                f"{forgotten:,} older values that did not stand are not kept any more", stacklevel=2
            )
        return frame

    def history(self, id: str, /, *, timeout: float = 30) -> pd.DataFrame:
        """What became of an entity, oldest first: a frame of `time user predicate old new`, a row for each value that
        came, went or was replaced by another. `time` (datetime64[us, UTC]) is when the server committed it; where there
        was no value, it is missing. A counter shows its totals; a delete is a row for each value it removed.

        The server is asked, so what it has not accepted yet is not there. Raises `HistoryError` for a store without a
        server, `IncompleteError` where it cannot be asked, and `ValueError` for what is no id.
        """
        return past.history(self, id, timeout)

    def as_of(self, moment: Any, /) -> past.Past:
        """The app as it was after the last transaction that the server committed by a moment (an aware datetime, a
        `pandas.Timestamp`, or such a date as text), empty before the first: to be asked by `q`, `select`, `get`,
        `frame`, `kinds` and `fields`.

        What this session has written and the server not yet accepted is in no past. Raises `ValueError` for a moment
        without a time zone; its questions raise `HistoryError` before the floor of a compacted log and for a store
        without a server, and `IncompleteError` where the server cannot be asked.
        """
        return past.Past(self, _budget, at=past.moment_ms(moment))

    def at(self, pinned: str, /, *, timeout: float = 30) -> pd.DataFrame:
        """The answer that `live.pin()` has pinned, here or elsewhere: asked again of the server's log at that position,
        and compared with the pin's digest.

        Raises `ValueError` for what is no pin of this app, `HistoryError` where the log does not reach back so far or
        the answer is another, `IncompleteError` where the server cannot be asked.
        """
        from tripleweb import pin

        return pin.at(self, pinned, _budget, timeout)

    def go_offline(self) -> None:
        """Stops syncing; writes queue up durably."""
        self._session.go_offline()

    def go_online(self) -> None:
        """Syncs again."""
        self._session.go_online()

    def close(self) -> None:
        """Ends the store. Unsent writes stay in its replica and are sent by the next session that takes it up."""
        self._end(self._session.close)

    def disconnect(self, forget: bool = False) -> None:
        """Ends the store; with `forget` it deletes the replica, unsent writes included."""
        self._end(self._session.wipe if forget else self._session.close)

    def _end(self, end: Callable[[], None]) -> None:
        if self._session.within_transaction:
            raise TriplewebError("cannot close a store within a transaction: end it first")
        self._finalizer.detach()
        try:
            end()
        finally:
            if self._lives is not None:
                self._lives.close()


def _repeatable(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What can be gone through but once, so that it can be looked at twice; cut behind where it is too long."""
    return tuple([list(islice(one, ITEMS_MAX + 1)) if isinstance(one, Iterator) else one for one in inputs])


def _close_soon(session: Session) -> None:
    """Closes a session that nobody holds: not here, where the collector happens to run, maybe within that session."""
    threading.Thread(target=session.close, args=(0.0,), name="tripleweb-close", daemon=True).start()
