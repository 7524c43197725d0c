"""Random databases with circles and random patterns to pull from them, from one seed: for DataScript, and for pulls
that are kept up to date."""

from __future__ import annotations

import random

from tripleweb.terms import Ref, Value

ENTITIES = [f"e{n}" for n in range(1, 7)]
# predicate -> kind of its values, as `tests/datalog_generator.py` has them
PREDICATES = {"k/n": "n", "k/many": "n", "k/s": "s", "k/e": "e", "k/link": "e"}
MANY = ("k/many", "k/link")
REFERENCES = ("k/e", "k/link")
KINDS = ':kinds {"k/n" number "k/many" [number] "k/s" text "k/e" reference "k/link" [reference]}'

Triple = tuple[str, str, Value]


class Maker:
    """Makes triples and patterns. A pattern names no attribute twice on one level: DataScript forgets the second."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def triple(self, misfits: bool = False) -> Triple:
        subject = self.random.choice(ENTITIES)
        predicate = self.random.choice(list(PREDICATES))
        kind = PREDICATES[predicate]
        if misfits and self.random.random() < 0.1:
            kind = self.random.choice("nse")
        value: Value
        if kind == "n":
            value = self.random.choice([0, 1, 2, 2.5])
        elif kind == "s":
            value = self.random.choice(["a", "b", ""])
        else:
            value = Ref(self.random.choice(ENTITIES))
        return subject, predicate, value

    def triples(self) -> list[Triple]:
        """A database in which single predicates have single values."""
        out: dict[object, Triple] = {}
        for _ in range(self.random.randint(4, 30)):
            triple = self.triple()
            many = triple[1] in MANY
            out[triple if many else triple[:2]] = triple
        return list(out.values())

    def pattern(self, depth: int = 2) -> str:
        names = [*PREDICATES, "k/_link", "k/_e", ":db/id"]
        chosen = self.random.sample(names, self.random.randint(1, 4))
        items = [self.item(name, depth) for name in chosen]
        if self.random.random() < 0.25:
            items.insert(self.random.randint(0, len(items)), self.random.choice(["*", '"*"', ":*"]))
        return f"[{' '.join(items)}]"

    def item(self, name: str, depth: int) -> str:
        text = name if name.startswith(":") else f'"{name}"'
        attribute = self.attribute(name, text)
        if name.replace("/_", "/") not in REFERENCES:
            return attribute
        choice = self.random.random()
        if depth and choice < 0.4:
            return f"{{{attribute} {self.pattern(depth - 1)}}}"
        if choice < 0.6:
            if ":default" in attribute:  # in JavaScript, recursions that differ in it only share their depth
                attribute = text
            return f"{{{attribute} {self.random.choice(['...', '1', '2', '3'])}}}"
        return attribute

    def attribute(self, name: str, text: str) -> str:
        options = ""
        if self.random.random() < 0.15:
            options += f' :as "{self.random.choice("xyz")}-{name}"'
        if name != ":db/id" and self.random.random() < 0.2:
            options += f" :default {self.random.choice(['7', 'false', 'true'])}"
        if name.replace("/_", "/") in MANY and self.random.random() < 0.25:
            limit = self.random.choice(["1", "2", "nil"])
            if not options and self.random.random() < 0.5:
                return f"(limit {text} {limit})"
            options += f" :limit {limit}"
        return f"[{text}{options}]" if options else text
