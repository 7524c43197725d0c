"""Patterns that cannot hang: the regular expressions of `re-find`, `re-matches` and `re-seq`.

Python's `re` backtracks, so that a short pattern can hold a server for hours. Here a pattern is read into a small
program. Where its worst case on a text is small, `re` runs it; elsewhere a machine that never tries the same
instruction at the same place twice, which finds the same match in steps of at most program × text. Invariants: at
most `STEPS_MAX` steps a call (`BudgetError`), the same answer from both ways, the same language on every Python.
(The machine alone runs repeats of what may be empty, such as `(|a)*`, where it goes on and `re` would stop.)

    pattern = flags? alternatives            flags = '(?i)'
    alternatives = sequence ('|' sequence)*
    sequence = (piece repeat?)*              repeat = ('*' | '+' | '?' | '{m}' | '{m,}' | '{m,n}') '?'?
    piece = '.' | '^' | '$' | set | escape | '(' alternatives ')' | '(?:' alternatives ')' | any other character
    escape = one of \\d \\D \\w \\W \\s \\S \\b \\B \\n \\t \\r or a sign taken as itself
    set = '[' '^'? (character | character '-' character | escape)+ ']'

There are no look-arounds and no back-references.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from tripleweb.errors import BudgetError

LENGTH_MAX = 1_000
PROGRAM_MAX = 2_000
REPEAT_MAX = 1_000
NESTED_MAX = 50
STEPS_MAX = 100_000  # of the machine below: some 30 ms
RE_STEPS_MAX = 1_000_000  # of `re`, in the worst case: some 10 ms

Groups = tuple[str | None, ...]
Test = Callable[[str], bool]

_CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


class Pattern:
    """A compiled pattern. Raises `ValueError` for text that is none.

    >>> Pattern("(a+)(b)?").search("xaay")
    ('aa', 'aa', None)
    >>> Pattern("(a+)+b").search("a" * 1000) is None
    True
    """

    def __init__(self, source: str) -> None:
        if len(source) > LENGTH_MAX:
            raise ValueError(f"a pattern has at most {LENGTH_MAX:,} characters; this one has {len(source):,}")
        self.source = source
        reader = _Reader(source)
        node = reader.pattern()
        self._groups = reader.groups + 1
        self._program: list[tuple[Any, ...]] = []
        self._emit(("group", 0, node))
        self._program.append(("match",))
        self._cost = _cost(node)
        self._re: re.Pattern[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.source == other.source

    def __hash__(self) -> int:
        return hash((Pattern, self.source))

    def search(self, text: str) -> Groups | None:
        """The first match, its groups after it; None if there is none."""
        if compiled := self._quick(len(text)):
            return _groups(compiled.search(text))
        return self._strings(text, self._run(text, 0, False, [0]))

    def match(self, text: str) -> Groups | None:
        """The match of the whole text."""
        if compiled := self._quick(len(text)):
            return _groups(compiled.fullmatch(text))
        return self._strings(text, self._run(text, 0, True, [0]))

    def all(self, text: str) -> list[Groups]:
        """All matches, from left to right, none overlapping another."""
        if compiled := self._quick(len(text)):
            return [(found[0], *found.groups()) for found in compiled.finditer(text)]
        out: list[Groups] = []
        at, steps = 0, [0]
        while at <= len(text):
            places = self._run(text, at, False, steps)
            groups = self._strings(text, places)
            if groups is None or places is None:
                break
            out.append(groups)
            at = places[1] + (places[0] == places[1])
        return out

    def effort(self, size: int) -> int:
        """The units of work that a text of this size may take, roughly: a step is a quarter of a microsecond."""
        return (
            min(size * len(self._program), STEPS_MAX) >> 4
            if self._quick(size)
            else (min(size * len(self._program), STEPS_MAX) >> 2)
        )

    def _quick(self, size: int) -> re.Pattern[str] | None:
        """Python's own pattern, where its worst case on a text of this size is small."""
        if self._cost is None or (size + 1) ** (self._cost[0] + 1) * self._cost[1] > RE_STEPS_MAX:
            return None
        if self._re is None:
            self._re = re.compile(self.source)
        return self._re

    def _strings(self, text: str, places: tuple[int, ...] | None) -> Groups | None:
        if places is None:
            return None
        pairs = zip(places[::2], places[1::2], strict=True)
        return tuple(None if end < 0 else text[start:end] for start, end in pairs)

    def _emit(self, node: tuple[Any, ...]) -> None:
        program, kind = self._program, node[0]
        if len(program) > PROGRAM_MAX:
            raise ValueError(f"the pattern is too large: {self.source[:80]}")
        if kind == "group":
            program.append(("save", 2 * node[1]))
            self._emit(node[2])
            program.append(("save", 2 * node[1] + 1))
        elif kind == "sequence":
            for part in node[1]:
                self._emit(part)
        elif kind == "either":
            jumps = []
            for part in node[1][:-1]:
                split = self._reserve()
                self._emit(part)
                jumps.append(self._reserve())
                program[split] = ("split", split + 1, len(program))
            self._emit(node[1][-1])
            for jump in jumps:
                program[jump] = ("jump", len(program))
        elif kind == "repeat":
            self._emit_repeat(*node[1:])
        else:
            program.append(node)

    def _emit_repeat(self, body: tuple[Any, ...], least: int, most: int | None, lazy: bool) -> None:
        program = self._program
        for _ in range(least):
            before = len(program)
            self._emit(body)
            if len(program) == before:
                return  # an empty body, however often
        if most is None:
            split = self._reserve()
            self._emit(body)
            program.append(("jump", split))
            program[split] = ("split", *_ordered(split + 1, len(program), lazy))
            return
        splits = []
        for _ in range(most - least):
            splits.append(self._reserve())
            self._emit(body)
        for split in splits:
            program[split] = ("split", *_ordered(split + 1, len(program), lazy))

    def _reserve(self) -> int:
        self._program.append(())
        return len(self._program) - 1

    def _run(self, text: str, start: int, whole: bool, steps: list[int]) -> tuple[int, ...] | None:
        """Where the leftmost match and its groups begin and end, by backtracking in the order that `re` has."""
        program, size = self._program, len(text)
        tried: set[tuple[int, int]] = set()
        for first in range(start, (start if whole else size) + 1):
            stack = [(0, first, (-1,) * (2 * self._groups))]
            while stack:
                pc, at, places = stack.pop()
                while (pc, at) not in tried:
                    tried.add((pc, at))
                    steps[0] += 1
                    if steps[0] > STEPS_MAX:
                        raise BudgetError(
                            f"matching a text of {size:,} characters takes too long: {self.source[:80]}"
                        )
                    step = program[pc]
                    kind = step[0]
                    if kind == "one":
                        if at >= size or not step[1](text[at]):
                            break
                        pc, at = pc + 1, at + 1
                    elif kind == "split":
                        stack.append((step[2], at, places))
                        pc = step[1]
                    elif kind == "jump":
                        pc = step[1]
                    elif kind == "save":
                        places = (*places[: step[1]], at, *places[step[1] + 1 :])
                        pc += 1
                    elif kind == "place":
                        if not step[1](text, at):
                            break
                        pc += 1
                    else:
                        if whole and at < size:
                            break
                        return places
        return None


def _groups(found: re.Match[str] | None) -> Groups | None:
    return None if found is None else (found[0], *found.groups())


def _ordered(first: int, second: int, swapped: bool) -> tuple[int, int]:
    return (second, first) if swapped else (first, second)


def _cost(node: tuple[Any, ...], repeated: bool = False) -> tuple[int, int] | None:
    """(degree, factor) of the ways in which `re` may try this node; None where they may be exponential."""
    kind = node[0]
    if kind == "group":
        return _cost(node[2], repeated)
    if kind == "repeat":
        least, most = node[2], node[3]
        if most is not None and most <= 1:
            inner = _cost(node[1], repeated)
            return None if inner is None or repeated else (inner[0], 2 * inner[1])
        inner = _cost(node[1], True)
        if inner is None or repeated or _may_be_empty(node[1]):
            return None
        return (1, 1) if most is None else (0, most - least + 1)
    parts = [_cost(part, repeated) for part in node[1]] if kind in ("sequence", "either") else []
    degree, factor = 0, 1
    if kind == "either":
        factor = len(parts)
        if repeated:
            return None
    for part in parts:
        if part is None:
            return None
        degree, factor = degree + part[0], factor * part[1]
    return degree, factor


def _may_be_empty(node: tuple[Any, ...]) -> bool:
    kind = node[0]
    if kind == "repeat":
        return node[2] == 0 or _may_be_empty(node[1])
    if kind == "group":
        return _may_be_empty(node[2])
    if kind in ("sequence", "either"):
        return (all if kind == "sequence" else any)(_may_be_empty(part) for part in node[1])
    return bool(kind == "place")


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and _CLASSES["w"](text[at])


def _edge(text: str, at: int) -> bool:
    return _is_word(text, at - 1) != _is_word(text, at)


class _Reader:
    """Recursive descent over the grammar above; `groups` counts the groups that are kept."""

    def __init__(self, source: str) -> None:
        self.ignore_case = source.startswith("(?i)")
        self.source = source
        self.at = 4 if self.ignore_case else 0
        self.groups = 0

    def fail(self, message: str) -> NoReturn:
        raise ValueError(f"{message} at character {self.at + 1} of the pattern {self.source[:80]}")

    def peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            self.fail("the pattern ends too early")
        self.at += 1
        return char

    def pattern(self) -> tuple[Any, ...]:
        node = self.alternatives(0)
        if self.peek():
            self.fail("a ) that closes nothing")
        return node

    def alternatives(self, depth: int) -> tuple[Any, ...]:
        if depth > NESTED_MAX:
            self.fail(f"groups nested more than {NESTED_MAX} deep")
        branches = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence(depth))
        return branches[0] if len(branches) == 1 else ("either", branches)

    def sequence(self, depth: int) -> tuple[Any, ...]:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeat(self.piece(depth)))
        return ("sequence", parts)

    def repeat(self, node: tuple[Any, ...]) -> tuple[Any, ...]:
        match = re.compile(r"([*+?])|\{(\d{1,4})(,?)(\d{1,4})?\}").match(self.source, self.at)
        if match is None:
            return node
        if node[0] == "place":
            self.fail("nothing to repeat")
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(match[1], (0, None))
        if match[2]:
            least = int(match[2])
            most = int(match[4]) if match[4] else None if match[3] else least
            if (
                (match[4] and not match[3])
                or max(least, most or 0) > REPEAT_MAX
                or (most is not None and most < least)
            ):
                self.fail(f"not a repeat: {match[0]}")
        self.at = match.end()
        lazy = self.peek() == "?"
        self.at += lazy
        if (self.peek() and self.peek() in "*+?") or re.match(r"\{\d+,?\d*\}", self.source[self.at :]):
            self.fail("a repeat of a repeat")
        return ("repeat", node, least, most, lazy)

    def piece(self, depth: int) -> tuple[Any, ...]:
        char = self.take()
        if char == "(":
            if self.source.startswith("?:", self.at):
                self.at += 2
                node = self.alternatives(depth + 1)
            elif self.peek() == "?":
                self.fail("only ( and (?: begin a group; look-arounds and names are not understood")
            else:
                self.groups += 1
                number = self.groups
                node = ("group", number, self.alternatives(depth + 1))
            if self.take() != ")":
                self.fail("a ( that is not closed")
            return node
        if char == "^":
            return ("place", lambda text, at: at == 0)
        if char == "$":
            return ("place", lambda text, at: at == len(text) or (at == len(text) - 1 and text[at] == "\n"))
        if char == ".":
            return ("one", lambda c: c != "\n")
        if char == "[":
            return ("one", self.cased(self.set()))
        if char in "*+?":
            self.fail("nothing to repeat")
        if char == "{" and re.match(r"\d+,?\d*\}|,\d*\}", self.source[self.at :]):
            self.fail("nothing to repeat, or a repeat without its least number")
        if char == "\\":
            if self.peek() and self.peek() in "bB":
                negated = self.take() == "B"
                return ("place", lambda text, at: _edge(text, at) != negated)
            escaped = self.escape()
            return ("one", escaped if callable(escaped) else self.cased(_same(escaped)))
        return ("one", self.cased(_same(char)))

    def escape(self) -> str | Test:
        """After a backslash: one character, or the test of a class."""
        char = self.take()
        if char.lower() in _CLASSES:
            test = _CLASSES[char.lower()]
            return (lambda c: not test(c)) if char.isupper() else test
        if char in _CONTROL:
            return _CONTROL[char]
        if char.isalnum():
            self.fail(f"an unknown escape: \\{char}")
        return char

    def set(self) -> Test:
        negated = self.peek() == "^"
        self.at += negated
        tests: list[Test] = []
        while self.peek() != "]" or not tests:
            first = self.member()
            if callable(first):
                tests.append(first)
                continue
            if self.peek() == "-" and self.source[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self.member()
                if callable(last) or last < first:
                    self.fail("not a range")
                tests.append(_between(first, last))
            else:
                tests.append(_same(first))
        self.at += 1
        return lambda c: any(test(c) for test in tests) != negated

    def member(self) -> str | Test:
        char = self.take()
        if char == "[" or (char in "-&~|" and self.peek() == char):
            self.fail(f"{char} needs a \\ before it in a set")
        return self.escape() if char == "\\" else char

    def cased(self, test: Test) -> Test:
        if not self.ignore_case:
            return test
        return lambda c: test(c) or test(c.lower()) or test(c.upper())


def _same(char: str) -> Test:
    return lambda c: c == char


def _between(first: str, last: str) -> Test:
    return lambda c: first <= c <= last
