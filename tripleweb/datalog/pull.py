"""Pull: what an entity and those that it refers to look like, as a tree of plain dicts and lists.

What comes out: a dict by the attributes' texts (`"user/name"`, `"user/_manager"`; the id under `"id"`), in the order of
the pattern, without what is missing; None for an entity of which nothing is there. One value is a value, several
are a sorted list of at most `:limit`; a reverse attribute is always a list. A reference is its id's text, with a
pattern of its own a dict. With a schema (`fields`) an attribute reads as `get` reads it: a set is always a list, a
single one never; a plain default (0 for a counter) stands in for what is missing of an entity that is there as that
kind.

Recursion goes on with the pattern that it stands in; an entity that was met on the way here by recursion gives
`{"id": …}` and ends it. Invariants: pulling never recurses in Python, is counted and comes in slices, and ends with
`BudgetError` at `DEPTH_MAX` entities below each other; what was handed out is nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from tripleweb.datalog.builtins import CHUNK, complete, inward, outward
from tripleweb.datalog.pullpattern import (
    LIMIT,
    Attribute,
    Fields,
    PullPattern,
    companions,
    parse_pull,
    stand_in,
)
from tripleweb.errors import BudgetError
from tripleweb.ids import kind_of
from tripleweb.schema import Field
from tripleweb.terms import Value, kind, sort_key
from tripleweb.view import Fitting, Source, index_key

DEPTH_MAX = 200  # of entities below each other; JSON and Python itself do not go much deeper
UNIT_BYTES = 100  # what a unit of work leaves behind, about

Triple = tuple[str, str, Value]
Pulled = dict[str, Any] | None


class Visits:
    """What a pull looked at: the entities, and the ends of reverse attributes as (predicate, id); if asked for, the
    places (subject, predicate) that the tree is made of, those where nothing is among them."""

    __slots__ = ("ends", "places", "subjects")

    def __init__(self, places: dict[tuple[str, str], None] | None = None) -> None:
        self.subjects: dict[str, None] = {}
        self.ends: dict[tuple[str, str], None] = {}
        self.places = places


# one more entity to pull: the pattern, its id, those met by recursion, and what is left of each recursion
_Ask = tuple[PullPattern, str, frozenset[str], dict[Attribute, int]]


class Puller:
    """Pulls from a source that gives only what fits the `fields`; `weigh` is told of bytes."""

    def __init__(
        self, source: Source, fields: Fields | None = None, weigh: Callable[[int], object] | None = None
    ) -> None:
        self._source = source
        self._fields: Fields = fields or {}
        self._groups: dict[str, list[str]] = {}
        for name in sorted(self._fields):
            self._groups.setdefault(kind_of(name), []).append(name)
        self._weigh = weigh
        self._units = 0  # since the last yield

    def steps(
        self, pattern: PullPattern, root: Any, visits: Visits | None = None
    ) -> Generator[int, None, Pulled]:
        """Pulls in slices: yields the work done. What is no id has nothing."""
        if not isinstance(root, str):
            return None
        stack = [self._entity((pattern, str(root), frozenset(), {}), visits)]
        below: Pulled = None
        while True:
            try:
                ask = stack[-1].send(below)
            except StopIteration as done:
                below = done.value
                stack.pop()
                if not stack:
                    yield self._counted()
                    return below
                continue
            if len(stack) >= DEPTH_MAX:
                message = f"a pull goes at most {DEPTH_MAX} entities deep"
                place = pattern.form.error(message)
                raise BudgetError(
                    message,
                    line=place.line,
                    column=place.column,
                    form=place.form,
                    expected="a number for the recursion",
                )
            stack.append(self._entity(ask, visits))
            below = None
            if self._units >= CHUNK:
                yield self._counted()

    def pull(self, pattern: PullPattern, root: Any, visits: Visits | None = None) -> Pulled:
        """`steps` at once."""
        return complete(self.steps(pattern, root, visits))

    def _counted(self) -> int:
        units, self._units = self._units, 0
        if self._weigh is not None:
            self._weigh(units * UNIT_BYTES)
        return units

    def _entity(self, ask: _Ask, visits: Visits | None) -> Generator[_Ask, Pulled, Pulled]:
        """The dict of one entity; asks for those below it."""
        pattern, subject, seen, limits = ask
        places = None if visits is None else visits.places
        if visits is not None:
            visits.subjects[subject] = None
        self._units += 1
        out: dict[str, Any] = {}
        for place, attribute in enumerate(pattern.attributes):
            if place == pattern.star:
                self._all(out, pattern, subject, places)
            name = attribute.predicate
            if not name:
                out[attribute.key] = subject
                continue
            field = None if attribute.reverse else self._fields.get(name)
            if attribute.reverse:
                if visits is not None:
                    visits.ends[name, subject] = None
                found: Sequence[Value] = sorted(set(self._source.subjects(name, subject)))
            else:
                found = self._values(subject, name, field, attribute.default is None)
                if places is not None:
                    self._note(places, subject, name, field)
            self._units += 1 + len(found)
            if not found:
                if attribute.default is not None:
                    out[attribute.key] = thawed(attribute.default)
                continue
            several = attribute.reverse or len(found) > 1 if field is None else field.many
            limit = attribute.limit if several else 1
            cells: list[Any] = []
            if attribute.nested is None and not attribute.recursive:
                cells = list(map(outward, found if limit is None else found[:limit]))
                if attribute.reverse and places is not None:
                    places.update(dict.fromkeys((str(value), name) for value in cells))
            for value in found if not cells else ():
                if limit is not None and len(cells) >= limit:
                    break
                if not isinstance(value, str):
                    continue
                if attribute.reverse and places is not None:
                    places[value, name] = None
                if attribute.nested is not None:
                    below = yield attribute.nested, str(value), seen, limits
                elif value in seen:
                    below = {"id": str(value)}
                else:
                    left = limits.get(attribute, attribute.depth)
                    if left == 0:
                        continue
                    less = limits if left is None else {**limits, attribute: left - 1}
                    below = yield pattern, str(value), seen | {str(value)}, less
                if below is not None:
                    cells.append(below)
            if cells:
                out[attribute.key] = cells if several else cells[0]
        if pattern.star is not None and pattern.star >= len(pattern.attributes):
            self._all(out, pattern, subject, places)
        return out or None

    def _note(
        self, places: dict[tuple[str, str], None], subject: str, name: str, field: Field | None
    ) -> None:
        """Notes where an attribute was looked for, and where it was seen whether the entity is there."""
        places[subject, name] = None
        if field is not None and stand_in(field) is not None:
            places.update(dict.fromkeys((subject, other) for other in self._groups[field.kind]))

    def _values(self, subject: str, name: str, field: Field | None, fill: bool) -> Sequence[Value]:
        found = self._source.values(subject, name)
        if len(found) > 1:
            found = _arranged(found)
            if field is not None and not field.many:
                found = [field.read(found)]
        if not found and fill and field is not None:
            instead = stand_in(field)
            if instead is not None and self._is_there(subject, field.kind):
                return instead
        return found

    def _is_there(self, subject: str, group: str) -> bool:
        """True if the entity has something of this kind that a schema knows."""
        names = self._groups.get(group, ())
        self._units += len(names)
        return any(self._source.values(subject, name) for name in names)

    def _all(
        self,
        out: dict[str, Any],
        pattern: PullPattern,
        subject: str,
        places: dict[tuple[str, str], None] | None,
    ) -> None:
        """All that is there of an entity and that the pattern does not name."""
        if all(attribute.predicate for attribute in pattern.attributes):
            out["id"] = subject
        held: dict[str, list[Value]] = {}
        for name, value in self._source.about(subject):
            held.setdefault(name, []).append(value)
            self._units += 1
        if places is not None:
            places.update(dict.fromkeys((subject, name) for name in held))
        for group in sorted({kind_of(name) for name in held if name in self._fields}):
            for name in self._groups[group]:
                instead = stand_in(self._fields[name])
                if instead is not None:
                    held.setdefault(name, instead)
        for name in sorted(held):
            field, found = self._fields.get(name), held[name]
            if name in pattern.named or name == "id":
                continue
            if len(found) > 1:
                found = _arranged(found)
            if len(found) > 1 if field is None else field.many:
                out[name] = list(map(outward, found[:LIMIT]))
            else:
                out[name] = outward(found[0] if field is None else field.read(found))


def _arranged(values: Iterable[Value]) -> list[Value]:
    """Values in order; a text and a reference to it are one."""
    distinct = {index_key(value): value for value in values}
    return sorted(distinct.values(), key=lambda value: (*sort_key(value), kind(value)))


# -- pulled values --------------------------------------------------------------------------------------------


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A copy of a tree of dicts, lists and tuples with `leaf` of its leaves; does not recurse.

    >>> mapped({"a": [1, {"b": 2}]}, str)
    {'a': ['1', {'b': '2'}]}
    """
    top: list[Any] = [None]
    pending: list[tuple[Any, Any, Any]] = [(top, 0, value)]
    while pending:
        holder, place, item = pending.pop()
        cls = type(item)
        if cls is dict:
            made: Any = dict.fromkeys(item)
            pending.extend((made, key, below) for key, below in item.items())
        elif cls is list or cls is tuple:
            made = [None] * len(item)
            pending.extend((made, index, below) for index, below in enumerate(item))
        else:
            made = leaf(item)
        holder[place] = made
    return top[0]


def thawed(value: Any) -> Any:
    """A copy of a tree that is the caller's to modify; tuples become lists.

    >>> thawed((1, (2,)))
    [1, [2]]
    """
    return mapped(value, lambda leaf: leaf) if type(value) in (dict, list, tuple) else value


def frozen(value: Any) -> Any:
    """A key of a cell: equal for equal ones, where `True` is not `1`, nor, in what was pulled, `1.0`; does not recurse.

    >>> frozen({"a": [True], "b": 1}) == frozen({"b": 1, "a": [1]})
    False
    """
    if type(value) not in (dict, list):
        return inward(value)
    flat: list[Any] = []
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if type(item) is dict:
            flat.append(("{", len(item)))
            for key in sorted(item, key=str, reverse=True):
                pending += [item[key], ("key", key)]
        elif type(item) is list:
            flat.append(("[", len(item)))
            pending += reversed(item)
        else:
            flat.append((0.0, item) if type(item) is float else inward(item))
    return tuple(flat)


class StandingPull:
    """The pulled values of many roots over a source that changes, each computed again only where it may differ.

    It remembers which entities each tree visited and where its reverse attributes ended. After every change of the
    source `affected` (or `renew`) must be told; `forget` gives up a root. Values given are shared: copy before you
    hand them to somebody who may write (`thawed`).

    >>> from tripleweb.change import Change
    >>> from tripleweb.store import Store
    >>> store = Store()
    >>> delta = store.apply([Change(id, "user/name", "", id.title(), 1, "r") for id in ("ada", "bob")])
    >>> standing = StandingPull("[:user/name]", store)
    >>> standing.value("ada"), standing.value("bob")
    ({'user/name': 'Ada'}, {'user/name': 'Bob'})
    >>> delta = store.apply([Change("ada", "user/name", "", "Ada L.", 2, "r")])
    >>> standing.renew(delta.removed, delta.added)
    {'ada': ({'user/name': 'Ada'}, {'user/name': 'Ada L.'})}
    """

    def __init__(
        self,
        pattern: PullPattern | str,
        source: Source,
        fields: Fields | None = None,
        weigh: Callable[[int], object] | None = None,
        readers: Readers | None = None,
    ) -> None:
        """`weigh` is told of bytes and may raise: then the root is as unknown as before. `readers` hears who reads
        what."""
        self.pattern = parse_pull(pattern) if isinstance(pattern, str) else pattern
        self.stale: dict[str, None] = {}  # roots that `Readers.mark` has found
        self._readers = readers
        fields = fields or {}
        types = {name: field.type for name, field in fields.items() if field.type}
        self._puller = Puller(Fitting(source, types) if types else source, fields, weigh)
        ahead, self._back = self.pattern.reads
        self._ahead = None if ahead is None else ahead | companions(ahead, fields)
        # root -> (value, the entities visited, the ends of reverse attributes)
        self._known: dict[str, tuple[Pulled, tuple[str, ...], tuple[tuple[str, str], ...]]] = {}
        self._by_subject: _Roots = {}
        self._by_end: _Roots = {}

    def value(self, root: str) -> Pulled:
        """What is pulled of a root now."""
        held = self._known.get(root)
        if held is None:
            visits = Visits()
            pulled = self._look(root, visits)
            held = self._known[root] = pulled, tuple(visits.subjects), tuple(visits.ends)
            for subject in held[1]:
                _link(self._by_subject, subject, root)
            for end in held[2]:
                _link(self._by_end, end, root)
            if self._readers is not None:
                self._readers.enter(self, held[1], held[2])
        return held[0]

    def _look(self, root: str, visits: Visits) -> Pulled:
        return self._puller.pull(self.pattern, root, visits)

    def touched(self, removed: Iterable[Triple], added: Iterable[Triple]) -> list[str]:
        """The roots whose values these changes may have changed; forgets nothing."""
        roots: dict[str, None] = {}
        for triples in (removed, added):
            for triple in triples:
                self._collect(roots, triple)
        return list(roots)

    def note(self, triple: Triple) -> None:
        """As `touched`, of one triple, for later: into `stale`."""
        self._collect(self.stale, triple)

    def _collect(self, roots: dict[str, None], triple: Triple) -> None:
        subject, predicate, value = triple
        if self._ahead is None or predicate in self._ahead:
            roots.update(_roots(self._by_subject, subject))
        if predicate in self._back and isinstance(value, str):
            roots.update(_roots(self._by_end, (predicate, str(value))))

    def affected(self, removed: Iterable[Triple], added: Iterable[Triple]) -> list[str]:
        """The roots whose values may have changed: they are forgotten, so that `value` pulls them again."""
        roots = self.touched(removed, added)
        for root in roots:
            self.forget(root)
        return roots

    def renew(self, removed: Iterable[Triple], added: Iterable[Triple]) -> dict[str, tuple[Pulled, Pulled]]:
        """Pulls the affected roots again: (old, new) of those that differ."""
        changed: dict[str, tuple[Pulled, Pulled]] = {}
        for root in self.touched(removed, added):
            old = self._known[root][0]
            self.forget(root)
            new = self.value(root)
            if frozen(old) != frozen(new):
                changed[root] = old, new
        return changed

    def renew_root(self, root: str) -> bool:
        """Pulls a root again; True if its value differs from what it was, or was not known."""
        held = self._known.get(root)
        self.forget(root)
        return held is None or frozen(held[0]) != frozen(self.value(root))

    def forget(self, root: str) -> None:
        """Gives up a root, if it is known."""
        held = self._known.pop(root, None)
        if held is not None:
            for subject in held[1]:
                _unlink(self._by_subject, subject, root)
            for end in held[2]:
                _unlink(self._by_end, end, root)
            if self._readers is not None:
                self._readers.leave(
                    self,
                    [subject for subject in held[1] if subject not in self._by_subject],
                    [end for end in held[2] if end not in self._by_end],
                )

    def close(self) -> None:
        """Gives up all roots."""
        for root in list(self._known):
            self.forget(root)

    def __len__(self) -> int:
        return len(self._known)


class Readers:
    """Which of the standing pulls over one source look at an entity or at an end of a reverse attribute, so that a
    change costs nothing for those that do not, however many there are."""

    def __init__(self) -> None:
        self._by_subject: _Roots = {}
        self._by_end: _Roots = {}

    def enter(self, pull: StandingPull, subjects: Iterable[str], ends: Iterable[tuple[str, str]]) -> None:
        for subject in subjects:
            _link(self._by_subject, subject, pull)
        for end in ends:
            _link(self._by_end, end, pull)

    def leave(self, pull: StandingPull, subjects: Iterable[str], ends: Iterable[tuple[str, str]]) -> None:
        for subject in subjects:
            _unlink(self._by_subject, subject, pull)
        for end in ends:
            _unlink(self._by_end, end, pull)

    def mark(self, removed: Iterable[Triple], added: Iterable[Triple]) -> None:
        """Notes in every pull which of its roots these changes may have changed (`StandingPull.stale`)."""
        if not self._by_subject:
            return
        for triples in (removed, added):
            for triple in triples:
                for pull in _roots(self._by_subject, triple[0]):
                    pull.note(triple)
                if isinstance(triple[2], str) and self._by_end:
                    for pull in _roots(self._by_end, (triple[1], str(triple[2]))):
                        pull.note(triple)

    def __len__(self) -> int:
        return len(self._by_subject) + len(self._by_end)


# key -> the roots (or pulls) that depend on it, in order: one as it is, more in a dict
_Roots = dict[Any, Any]


def _roots(index: _Roots, key: Any) -> dict[Any, None]:
    held = index.get(key)
    return {} if held is None else held if type(held) is dict else {held: None}


def _link(index: _Roots, key: Any, root: Any) -> None:
    held = index.get(key)
    if held is None:
        index[key] = root
    elif type(held) is dict:
        held[root] = None
    elif held != root:
        index[key] = {held: None, root: None}


def _unlink(index: _Roots, key: Any, root: Any) -> None:
    held = index[key]
    if type(held) is dict and len(held) > 1:
        del held[root]
    else:
        del index[key]
