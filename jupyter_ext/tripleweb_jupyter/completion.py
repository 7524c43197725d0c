"""Tab in a notebook: what may stand in a query, in a cell of the magics or in a Python text, and what magics take.

Invariants: nothing is written or loaded for it, and nothing kept but what the server says there is, for `FRESH_S`; it
waits for nobody longer than `PATIENCE_S`; where it has nothing to offer, everybody else's offers are as they were.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tripleweb.database import Database
from tripleweb.datalog.completion import Known, Offer, complete, queried
from tripleweb.schema import Schema

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from tripleweb_jupyter.magics import TriplewebMagics

FRESH_S = 10.0
PATIENCE_S = 0.3
OFFERS_MAX = 500
CELL_FLAGS = ("--once", "--limit")
LINE_FLAGS = ("--url", "--schema")
_CELL = re.compile(r"\s*%%(datalog|rules)\b(.*)")
_LINE = re.compile(r"\s*%(tripleweb|tw|datalog)\s+(.*)\Z", re.DOTALL)
_described: weakref.WeakKeyDictionary[Database, tuple[float, Mapping[str, int]]] = weakref.WeakKeyDictionary()


def offers(
    text: str, cursor: int, names: Mapping[str, Any], actions: Iterable[str], apps: Iterable[str]
) -> Offer | None:
    """What may stand at `cursor` in a cell; None where that is not ours to say. `names` are the notebook's variables.

    >>> offers("%tw sta", 7, {}, ["status", "apps"], [])
    Offer(typed='sta', words=(('status', 'action'),))
    >>> offers("%%datalog people --l", 20, {}, [], []).words
    (('--limit', 'flag'),)
    """
    cell = _CELL.match(text)
    first = text.find("\n") if "\n" in text else len(text)
    if cell is not None:
        if cursor <= first:
            return _words(text[:cursor], ((flag, "flag") for flag in CELL_FLAGS if cell[1] == "datalog"))
        return complete(text[first:], cursor - first, _known(names))
    start = text.rfind("\n", 0, cursor) + 1
    line = _LINE.match(text[start:cursor])
    if line is not None and line[1] == "datalog":
        return complete(line[2], len(line[2]), _known(names))
    if line is not None:
        return _of_line(line[2], names, actions, apps)
    begun = queried(text, cursor)
    return None if begun is None else complete(text[begun:], cursor - begun, _known(names))


def _of_line(typed: str, names: Mapping[str, Any], actions: Iterable[str], apps: Iterable[str]) -> Offer:
    before = typed.split()
    if typed and not typed[-1].isspace():
        before = before[:-1]
    if before and before[-1] == "--schema":
        return _words(typed, ((name, "schema") for name, held in names.items() if isinstance(held, Schema)))
    if not before:
        return _words(typed, ((action, "action") for action in actions))
    if before[0] != "connect":
        return _words(typed, ())
    app = ((name, "app") for name in apps if len(before) == 1)
    return _words(typed, [*app, *((flag, "flag") for flag in LINE_FLAGS if flag not in before)])


def _words(typed: str, words: Iterable[tuple[str, str]]) -> Offer:
    last = re.search(r"\S*\Z", typed)
    begun = "" if last is None else last[0]
    return Offer(begun, tuple((word, what) for word, what in words if word.startswith(begun)))


def _known(names: Mapping[str, Any]) -> Known:
    """What there is in the store that the notebook calls `db`, and at its server."""
    db = names.get("db")
    if not isinstance(db, Database) or db._session.closed:
        return Known()
    there = _there(db)
    lock = db._session.lock
    if not lock.acquire(timeout=PATIENCE_S):  # another thread is in the middle of a transaction
        return Known({*db.schema.types, *there}, db._rules.names)
    try:
        return Known({*db.schema.types, *there, *db._session.store.predicates()}, db._rules.names)
    finally:
        lock.release()


def _there(db: Database) -> Mapping[str, int]:
    if not db._session.is_partial or db._session.within_transaction:
        return {}
    now = time.monotonic()
    asked, said = _described.get(db, (now - FRESH_S, {}))
    if now - asked >= FRESH_S:
        said = db._loading.describe(PATIENCE_S) or said
        _described[db] = now, said
    return said


# -- in IPython ------------------------------------------------------------------------------------------------


def begin(shell: InteractiveShell, magics: TriplewebMagics) -> None:
    """Offers from now on. An IPython before 8.6 cannot be told what a whole cell needs, and is left as it is."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        return
    from tripleweb_jupyter.magics import ACTIONS

    @context_matcher(identifier="tripleweb")
    def matcher(context: Any) -> Any:
        lines = context.full_text.split("\n")
        cursor = sum(len(line) + 1 for line in lines[: context.cursor_line]) + context.cursor_position
        found = offers(context.full_text, cursor, shell.user_ns, ACTIONS, magics.apps)
        if found is None:
            return {"completions": []}
        return {
            "completions": [SimpleCompletion(word, type=what) for word, what in found.words[:OFFERS_MAX]],
            "matched_fragment": found.typed,
            "suppress": bool(found.words),
        }

    completer = shell.Completer
    if completer is not None:
        end(shell)
        completer.custom_matchers.append(matcher)


def end(shell: InteractiveShell) -> None:
    """Offers no more."""
    completer = shell.Completer
    if completer is not None and hasattr(completer, "custom_matchers"):
        completer.custom_matchers[:] = [
            one for one in completer.custom_matchers if getattr(one, "matcher_identifier", "") != "tripleweb"
        ]
