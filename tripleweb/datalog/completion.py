"""What may stand where somebody is typing a query: predicates, built-ins, rules, clauses, variables.

A half-written query is no query, so this looks at the signs before the cursor only. Invariants: it never raises,
whatever stands there; it costs a pass over the text; what it offers can stand at that place, and begins as what is
typed there does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tripleweb.datalog.aggregates import AGGREGATES
from tripleweb.datalog.builtins import FUNCTIONS

CLAUSES = (":find", ":in", ":keys", ":limit", ":offset", ":order-by", ":strs", ":where", ":with")
WORDS = ("and", "not", "not-join", "or", "or-join")
TEXT_MAX = 100_000  # a longer one is no query that somebody types
_TOKEN = re.compile(r"""[^\s\[\](){}",;]*\Z""")
_KEYWORD = re.compile(r"""[^\s\[\](){}",;:]+\Z""")
_VARIABLE = re.compile(r"""\?[^\s\[\](){}",;]+""")
_QUERY = re.compile(r"""[\[{]\s*:find\b""")

Words = Iterable[tuple[str, str]]
Places = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to be offered: names of predicates, and of rules that are kept."""

    predicates: Collection[str] = ()
    rules: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What may replace `typed`, the last signs before the cursor: (text, what it is), the best first."""

    typed: str
    words: tuple[tuple[str, str], ...] = ()


def complete(text: str, cursor: int, known: Known) -> Offer:
    """What may stand at `cursor` in a query that is being typed.

    >>> complete("[:find ?n :where [?u :user/na", 29, Known(["user/name", "user/age"]))
    Offer(typed=':user/na', words=((':user/name', 'predicate'),))
    >>> [word for word, _ in complete("[:find (cou", 11, Known()).words]
    ['count', 'count-distinct']
    """
    before = text[max(0, cursor - TEXT_MAX) : cursor]
    places, string = _scan(before)
    if string is not None:
        return _offer(string, ((name, "predicate") for name in sorted(known.predicates)))
    if places is None:  # a comment
        return Offer("")
    found = _TOKEN.search(before)
    typed = "" if found is None else found[0]
    if typed.startswith(":"):
        return _offer(typed, _keywords(typed, places, known))
    if typed.startswith("?"):
        rest = text[cursor : cursor + TEXT_MAX]
        there = _VARIABLE.findall(before[: len(before) - len(typed)]) + _VARIABLE.findall(rest)
        return _offer(typed, ((name, "variable") for name in dict.fromkeys(there)))
    if before[: len(before) - len(typed)].endswith("("):
        return _offer(typed, _callables(places, known))
    if not typed and len(places) > 1 and places[-1][0] == "[" and places[0][1] == ":where":
        return _offer(typed, _keywords(typed, places, known))
    return Offer(typed)


def queried(text: str, cursor: int) -> int | None:
    """Where the query begins that a cursor in a Python text stands in: in a string that holds `[:find …`; None if it
    stands in none. Quotes are found by sight, not by reading Python.

    >>> code = 'db.q("[:find ?n :where [?u :user/na")'
    >>> queried(code, len(code) - 2), queried(code, len(code))
    (6, None)
    """
    before = text[max(0, cursor - TEXT_MAX) : cursor]
    shift = cursor - len(before)
    starts = [found.start() for found in _QUERY.finditer(before)]
    if not starts:
        return None
    start = starts[-1]
    quote = re.search(r"""('''|\"\"\"|'|")\s*\Z""", before[:start])
    if quote is None or quote[1] in before[start:]:
        return None
    return shift + start


def _scan(text: str) -> tuple[Places | None, str | None]:
    """Which brackets are open at the end of a text, each with the last clause that was begun in it (None within a
    comment), and what stands of a string that is not closed."""
    places: Places = []
    string: str | None = None
    at, end = 0, len(text)
    while at < end:
        sign = text[at]
        if sign == '"':
            begin = at + 1
            at = begin
            while at < end and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
            if at >= end:
                string = text[begin:]
                break
        elif sign == ";":
            at = text.find("\n", at)
            if at < 0:
                return None, None
        elif sign in "[({":
            places.append((sign, ""))
        elif sign in "])}":
            if places:
                places.pop()
        elif sign == ":" and places:
            found = re.match(r":[a-z-]+(?![^\s\[\](){}\",;])", text[at : at + 20])
            if found is not None and found[0] in CLAUSES:
                places[-1] = places[-1][0], found[0]
        at += 1
    return places, string


def _keywords(typed: str, places: Places, known: Known) -> Words:
    if not places:
        return ()
    if len(places) == 1:
        return ((clause, "clause") for clause in CLAUSES)
    names: Iterable[str] = known.predicates
    if "/_" in typed:  # backwards, in what is pulled
        names = (name.replace("/", "/_", 1) for name in names)
    return ((f":{name}", "predicate") for name in sorted(names) if _KEYWORD.match(name))


def _callables(places: Places, known: Known) -> Words:
    if places[0][1] == ":find":
        return ((name, "aggregate") for name in ("pull", *sorted(AGGREGATES)))
    if len(places) > 2 and places[-2][0] == "[":  # a call: [(> ?a 1)]
        return ((name, "function") for name in sorted(FUNCTIONS))
    return [*((name, "rule") for name in sorted(known.rules)), *((name, "clause") for name in WORDS)]


def _offer(typed: str, words: Words) -> Offer:
    return Offer(typed, tuple((word, what) for word, what in words if word.startswith(typed)))
