"""Rules that a store keeps for its queries, which may call them without being given them. A rulebook never changes:
one with more rules is another one."""

from __future__ import annotations

from collections.abc import Mapping

from tripleweb.datalog.clauses import Branch, Rules, parse_rules


class Rulebook:
    """Rules by name. Printed, it is their text.

    >>> book = Rulebook().having("[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]")
    >>> book.having("[(adult ?u) [?u :user/age ?a] [(>= ?a 21)]]")
    [(adult ?u) [?u :user/age ?a] [(>= ?a 21)]]
    >>> book.names
    ['adult']
    """

    __slots__ = ("rules",)

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules: Mapping[str, tuple[Branch, ...]] = dict(rules or {})

    def having(self, text: str) -> Rulebook:
        """A rulebook that has these rules as well, instead of those of the same names. Raises `QueryError`."""
        return Rulebook({**self.rules, **parse_rules(text)})

    @property
    def names(self) -> list[str]:
        """The names of its rules, sorted."""
        return sorted(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __str__(self) -> str:
        return "\n".join(str(body.form) for name in self.names for body in self.rules[name])

    __repr__ = __str__
