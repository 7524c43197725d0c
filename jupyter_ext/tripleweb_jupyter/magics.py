"""The magics: `%tripleweb` (or `%tw`) for the store, `%%datalog` and `%datalog` for queries, `%%rules` for their rules.

They work on the store that the notebook calls `db`, whoever bound it; of their own they only remember which stores
`%tripleweb connect` opened, since unloading closes those. Invariants: text is never interpolated, since values
reach a query only as inputs; what goes wrong is a real exception, at which a run of all cells stops, shown in a line or
two: with the place in the query where it has one.
"""

from __future__ import annotations

import re
import time
import weakref
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

import tripleweb
from tripleweb import discovery
from tripleweb.datalog.clauses import RULES, SOURCE, BindCollection, BindTuple, Input, Variable
from tripleweb.datalog.edn import Form
from tripleweb.datalog.query import Query, parse
from tripleweb.datalog.rulebook import Rulebook
from tripleweb.doctor import Report, examine
from tripleweb.errors import NoServerError, QueryError, TriplewebError
from tripleweb.panel import Panel
from tripleweb_jupyter import completion

if TYPE_CHECKING:
    import pandas as pd

    from tripleweb.database import Database
    from tripleweb.live import LiveFrame

WIDTH = 100  # of the line of the query that an error shows
PATIENCE_S = 3  # for the status that is shown after connecting
ACTIONS = ("connect", "status", "apps", "offline", "online", "disconnect", "doctor")
NOT_CONNECTED = "no store here is called db; connect one first:  %tripleweb connect my-app"


class MagicUsageError(UsageError):
    """A magic that was called wrongly.

    IPython prints its own `UsageError` as mere text, which nbval takes for success; this one is shown as briefly, but
    as the error that it is.
    """


@contextmanager
def shown_briefly(query: str = "", *, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Has IPython show what is raised inside in a line or two; `query` is the text that its place refers to."""
    kinds: tuple[type[Exception], ...] = (TriplewebError, UsageError, *also)
    try:
        yield
    except kinds as raised:
        error: Any = MagicUsageError(*raised.args) if type(raised) is UsageError else raised
        lines = [f"{type(raised).__name__}: {raised}"]
        if isinstance(raised, QueryError) and raised.line is not None and raised.column is not None:
            lines += pointed(query, raised.line, raised.column)
        # IPython asks the exception itself how it wants to be shown.
        error._render_traceback_ = lambda: lines
        raise error from None


def pointed(query: str, line: int, column: int) -> list[str]:
    """The line of the query, shortened to `WIDTH` round the place, and a caret below that place.

    >>> print("\\n".join(pointed("[:find ?x\\n :where (?x)]", 2, 9)))
     :where (?x)]
            ^
    """
    lines = query.split("\n")
    if not 1 <= line <= len(lines):
        return []
    text, place = lines[line - 1].replace("\t", " "), column - 1
    start = max(0, min(place - WIDTH // 2, len(text) - WIDTH))
    before = "…" if start else ""
    after = "…" if len(text) > start + WIDTH else ""
    return [
        f"{before}{text[start : start + WIDTH]}{after}",
        " " * (len(before) + place - start) + "^",
    ]


def inputs_from(query: Query, names: Mapping[str, Any]) -> list[Any]:
    """What `:in` asks for, taken from the variables of the same name (hyphens as underscores).

    `[?x ...]` is the whole of `x`, `[?x ?y]` the pair of both, `[[?x ?y]]` the rows whose columns they are; `%` are the
    rules that the store keeps, and nothing is given for them. Raises `QueryError` where one is missing.

    >>> inputs_from(parse("[:find ?x :in $ ?min-age [?tag ...] :where [?x :a ?tag] [(> ?x ?min-age)]]"),
    ...             {"min_age": 30, "tag": ["a", "b"]})
    [30, ['a', 'b']]
    """

    def error(name: str, message: str, expected: str) -> QueryError:
        return next(
            (form.error(message, expected) for form in _forms(query.form) if form.symbol(name)),
            QueryError(message, form=name, expected=expected),
        )

    def value(item: Input) -> Any:
        if isinstance(item, Variable):
            name = item.name.removeprefix("?").replace("-", "_")
            if name not in names:
                raise error(
                    item.name, f"{item.name} is asked for, but the notebook has no {name}", f"{name} = …"
                )
            return names[name]
        if isinstance(item, BindTuple):
            return tuple(value(part) for part in item.items)
        if isinstance(item, BindCollection) and isinstance(item.item, Variable):
            return value(item.item)
        if isinstance(item, BindCollection) and isinstance(item.item, BindTuple):
            columns = value(item.item)
            try:
                return list(zip(*columns, strict=True))
            except (TypeError, ValueError) as wrong:
                raise item.form.error(f"not columns of one length: {wrong}", "lists or Series") from None
        raise QueryError("no variable of the notebook stands for _ in :in", expected="a variable such as ?x")

    return [value(item) for item in query.inputs if item not in (SOURCE, RULES)]


def _forms(form: Form) -> Iterator[Form]:
    """The form and everything in it; of a query, what stands in `:in` first."""
    yield form
    if isinstance(form.value, tuple):
        parts = list(form.value)
        start = next((n for n, part in enumerate(parts) if part.kind == "keyword" and part.value == "in"), 0)
        for part in parts[start:] + parts[:start]:
            yield from _forms(part)


def limited(query: Query, count: int) -> str:
    """The text of the query with at most `count` rows.

    >>> limited(parse("[:find ?x :where [?x :a 1]] ; [sic]"), 5)
    '[:find ?x :where [?x :a 1] :limit 5] ; [sic]'
    >>> limited(parse("{:find [?x], :where [[?x :a 1]], :limit 10}"), 5)
    '{:find [?x], :where [[?x :a 1]], :limit 5}'
    """
    text = query.text
    if query.limit is None:
        # The closing bracket is the last one that, with a limit before it, makes a query with that limit.
        end = len(text)
        while (end := text.rfind("]" if query.form.kind == "vector" else "}", 0, end)) >= 0:
            attempt = f"{text[:end]} :limit {count}{text[end:]}"
            try:
                if parse(attempt).limit == count:
                    return attempt
            except QueryError:
                continue
        raise QueryError("no place for a limit", form=str(query.form), expected="[:find … ]")
    if query.limit <= count:
        return text
    parts = query.form.value
    number = next(
        after for word, after in pairwise(parts) if word.kind == "keyword" and word.value == "limit"
    )
    lines = text.split("\n")
    line = lines[number.line - 1]
    lines[number.line - 1] = line[: number.column - 1] + re.sub(
        r"^\+?\d+N?", str(count), line[number.column - 1 :]
    )
    return "\n".join(lines)


@magics_class
class TriplewebMagics(Magics):
    """`%tripleweb`, `%tw`, `%%datalog`, `%datalog`."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.opened: weakref.WeakSet[Database] = weakref.WeakSet()
        self.apps: list[str] = []  # as the server has told last

    @no_var_expand
    @line_magic("tripleweb")
    @line_magic("tw")
    @magic_arguments()
    @argument(
        "action",
        nargs="?",
        default="status",
        help=" | ".join(ACTIONS),
    )
    @argument("app", nargs="?", help="the app to connect to")
    @argument("--url", help="its server, if not the one that this notebook runs on")
    @argument("--schema", metavar="NAME", help="the notebook's variable that holds the schema")
    def tripleweb(self, line: str) -> Any:
        """Connects the notebook's store `db` to an app, and says how it stands."""
        with shown_briefly():
            given = parse_argstring(self.tripleweb, line)
            if given.action == "connect":
                return self._connect(given.app, given.url, given.schema)
            if given.action == "doctor" and not (given.app or given.schema):
                return self._examine(given.url)
            if given.action == "apps" and not (given.app or given.schema):
                return self._apps(given.url)
            if given.app or given.url or given.schema:
                raise UsageError("an app, --url and --schema go with:  %tripleweb connect my-app")
            if given.action == "status":
                return Panel(self._database(self.shell.user_ns))
            if given.action == "offline":
                self._database(self.shell.user_ns).go_offline()
            elif given.action == "online":
                self._database(self.shell.user_ns).go_online()
            elif given.action == "disconnect":
                self._disconnect()
            else:
                raise UsageError(f"unknown: {given.action}; there are {', '.join(ACTIONS)}")
        return None

    def _connect(self, app: str | None, url: str | None, schema_name: str | None) -> Any:
        if app is None:
            raise UsageError("which app?  %tripleweb connect my-app")
        schema = None
        if schema_name is not None:
            if schema_name not in self.shell.user_ns:
                raise UsageError(f"the notebook has no variable {schema_name} that could be the schema")
            schema = self.shell.user_ns[schema_name]
        # A cell that is run again must not leave a second session of the same app behind.
        before = self.shell.user_ns.get("db")
        if any(before is db for db in self.opened) and before.status.app == app:
            before.close()
        with shown_briefly(also=(ValueError, TypeError)):
            db = tripleweb.connect(app, url=url, schema=schema)
        self.opened.add(db)
        self.shell.user_ns["db"] = db
        deadline = time.monotonic() + PATIENCE_S
        while db.status.state == "connecting" and time.monotonic() < deadline:
            time.sleep(0.01)
        return db.status

    def _examine(self, url: str | None) -> Report:
        db = self.shell.user_ns.get("db")
        with shown_briefly(also=(ValueError,)):
            return examine(url, status=db.status if isinstance(db, tripleweb.Database) else None)

    def _apps(self, url: str | None) -> pd.DataFrame:
        """The apps of the server that `connect` would find, or of the one that `db` is connected to."""
        import pandas as pd

        db = self.shell.user_ns.get("db")
        if url is None and isinstance(db, tripleweb.Database) and db.status.server:
            url = db.status.server
        with shown_briefly(also=(ValueError, TypeError)):
            place = discovery.find(url)
            try:
                told = discovery.look_up(place, "apps")
            except discovery.Unreachable as error:
                raise NoServerError(f"{error}; %tripleweb doctor says more") from None
        self.apps = [entry["id"] for entry in told]
        return pd.DataFrame(told, columns=["id", "name", "role"])

    def _disconnect(self) -> None:
        db = self._database(self.shell.user_ns)
        self.opened.discard(db)
        db.disconnect()
        del self.shell.user_ns["db"]

    def close(self) -> None:
        """Closes the stores that `%tripleweb connect` opened; nothing that was written is lost."""
        for db in list(self.opened):
            db.close()
        self.opened.clear()

    def _database(self, names: Mapping[str, Any]) -> Database:
        from tripleweb.database import Database

        db = names.get("db")
        if not isinstance(db, Database):
            raise UsageError(NOT_CONNECTED)
        return db

    @staticmethod
    def _live(db: Database, text: str, inputs: list[Any]) -> LiveFrame:
        live = db.live(text, *inputs)
        _ = live.version  # evaluates it now, so that an error is this cell's and not that of whoever looks
        return live

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    @magic_arguments()
    @argument("name", nargs="?", help="the variable that receives the live frame (or the frame)")
    @argument("--once", action="store_true", help="the answer of this moment instead of a live frame")
    @argument("--limit", type=int, metavar="N", help="at most N rows")
    def datalog(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Runs the cell, or the rest of the line, as a query of `db`.

        Inputs (:in) are the notebook's variables of the same name, hyphens as underscores. A cell shows a live frame,
        a line gives the answer of this moment, as db.q does.
        """
        names = ChainMap(local_ns or {}, self.shell.user_ns)
        text = line if cell is None else cell
        with shown_briefly(text):
            db = self._database(names)
            if cell is None:
                return db.q(text, *inputs_from(parse(text), names))
            given = parse_argstring(self.datalog, line)
            if given.name is not None and not given.name.isidentifier():
                raise UsageError(f"not a name for a variable: {given.name}")
            if given.limit is not None and given.limit < 0:
                raise UsageError("--limit is a number of rows")
            query = parse(text)
            inputs = inputs_from(query, names)
            if given.limit is not None:
                text = limited(query, given.limit)
            answer = db.q(text, *inputs) if given.once else self._live(db, text, inputs)
            if given.name is not None:
                self.shell.user_ns[given.name] = answer
            return answer

    @no_var_expand
    @needs_local_scope
    @cell_magic
    def rules(self, line: str, cell: str, local_ns: dict[str, Any] | None = None) -> Rulebook:
        """Adds the cell's rules to those that `db` keeps for its queries, instead of those of the same names.

        One rule after the other, each in brackets: `[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]`.
        """
        with shown_briefly(cell):
            if line.strip():
                raise UsageError("%%rules takes nothing on its line; the cell has the rules")
            return self._database(ChainMap(local_ns or {}, self.shell.user_ns)).rules(cell)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext tripleweb` ends here. Loading again changes nothing."""
    if not isinstance(shell.magics_manager.registry.get(TriplewebMagics.__name__), TriplewebMagics):
        shell.register_magics(TriplewebMagics)
        completion.begin(shell, shell.magics_manager.registry[TriplewebMagics.__name__])


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext tripleweb`: closes the stores that the magics opened and takes the magics away."""
    manager = shell.magics_manager
    magics = manager.registry.pop(TriplewebMagics.__name__, None)
    if magics is None:
        return
    magics.close()
    completion.end(shell)
    for kind in manager.magics.values():
        for name in [
            name for name, function in kind.items() if getattr(function, "__self__", None) is magics
        ]:
            del kind[name]
