"""Random small databases and random queries over them, from one seed: for the oracle, and for DataScript.

Every clause can run where it stands, with the variables bound before it, and a `not` has no variable of its own that
is used later: so the order of clauses, which DataScript has and this engine has not, makes no difference.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tripleweb.terms import Ref, Value

ENTITIES = [f"e{n}" for n in range(1, 7)]
NUMBERS: list[Value] = [0, 1, 2, 3, 2.5]
TEXTS: list[Value] = ["a", "b", "ab", "e1", ""]
MIXED: list[Value] = [True, False, 1, 1.5, "1", "a", "true"]
# predicate -> the kind of its values: e(ntity) n(umber) s (text) m(ixed); `many` ones have several
PREDICATES = {"k/n": "n", "k/many": "n", "k/s": "s", "k/e": "e", "k/link": "e", "k/m": "m"}
MANY = {"k/many", "k/link"}

RULES = [
    # name, kinds of the arguments, text
    ("reach", "ee", '[(reach ?a ?b) [?a "k/link" ?b]] [(reach ?a ?b) [?a "k/link" ?m] (reach ?m ?b)]'),
    ("back", "ee", '[(back ?a ?b) [?a "k/e" ?b]] [(back ?a ?b) (back ?m ?b) [?a "k/e" ?m]]'),
    ("twice", "ee", '[(twice ?a ?b) [?a "k/link" ?b]] [(twice ?a ?b) (twice ?a ?m) (twice ?m ?b)]'),
    ("small", "e", '[(small ?a) [?a "k/n" ?n] [(< ?n 2)]] [(small ?a) [?a "k/s" "a"]]'),
    ("lonely", "e", '[(lonely ?a) [?a "k/n" _] (not [_ "k/link" ?a])]'),
    ("even-path", "ee", '[(even-path ?a ?b) [?a "k/e" ?m] (odd-path ?m ?b)]'),
    ("odd-path", "ee", '[(odd-path ?a ?b) [?a "k/e" ?b]] [(odd-path ?a ?b) [?a "k/e" ?m] (even-path ?m ?b)]'),
    ("big", "n", "[(big ?n) [(> ?n 1)]]"),
]
HARD_RULES = {"twice", "back"}
RULES_TEXT = "[" + "\n".join(text for _, _, text in RULES) + "]"


@dataclass
class Case:
    """A database, a query and its inputs."""

    seed: int
    triples: list[tuple[str, str, Value]]
    find: list[str] = field(default_factory=list)
    with_: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    ins: list[str] = field(default_factory=list)
    inputs: list[object] = field(default_factory=list)
    rules: str = RULES_TEXT

    def text(self, where: list[str] | None = None) -> str:
        parts = ["[:find", *self.find]
        if self.with_:
            parts += [":with", *self.with_]
        parts += [":in $ %", *self.ins, ":where", *(self.where if where is None else where)]
        return " ".join(parts) + "]"


class Generator:
    """Makes one case. For DataScript it leaves out what has no counterpart there: values of mixed kinds, texts that
    are ids too, and recursion that takes DataScript for ever."""

    def __init__(self, seed: int, *, datascript: bool = False) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.mixed = not datascript
        self.texts = [text for text in TEXTS if text not in ENTITIES] if datascript else TEXTS
        self.rules = [rule for rule in RULES if not (datascript and rule[0] in HARD_RULES)]
        self.bound: dict[str, str] = {}  # variable -> kind
        self.fresh = 0

    def case(self) -> Case:
        case = Case(self.seed, self.triples())
        for _ in range(self.random.choice([0, 0, 1, 2])):
            self.input(case)
        for _ in range(self.random.randint(1, 4)):
            case.where.append(self.clause(2))
        if not self.bound:
            case.where.append(self.pattern(self.bound))
            case.where.append(f'[{self.variable("e", self.bound)} "k/n" _]')
        names = sorted(self.bound)
        self.random.shuffle(names)
        case.find = names[: self.random.randint(1, min(3, len(names)))]
        if len(names) > len(case.find) and self.random.random() < 0.2:
            case.with_ = names[len(case.find) : len(case.find) + 1]
        if self.random.random() < 0.35:
            self.aggregate(case)
        return case

    def values(self, kind: str) -> list[Value]:
        return {"n": NUMBERS, "s": self.texts, "e": list(ENTITIES), "m": MIXED}[kind]

    def triples(self) -> list[tuple[str, str, Value]]:
        out = []
        for entity in ENTITIES:
            for predicate, kind in PREDICATES.items():
                if kind == "m" and not self.mixed:
                    continue
                count = self.random.choice([0, 1, 1, 1, 1] if predicate not in MANY else [0, 2, 3, 4])
                values = self.values(kind)
                if kind == "e" and not self.mixed:  # no circles: DataScript goes round them for ever
                    values = values[ENTITIES.index(entity) + 1 :]
                for value in self.random.sample(values, min(count, len(values))):
                    out.append((entity, predicate, Ref(value) if kind == "e" else value))
        return out

    def input(self, case: Case) -> None:
        kind = self.random.choice("ens")
        values = self.values(kind)
        form = self.random.choice(["scalar", "collection", "tuple", "relation"])
        first = self.variable(kind, self.bound)
        if form == "scalar":
            case.ins.append(first)
            case.inputs.append(self.random.choice(values))
        elif form == "collection":
            case.ins.append(f"[{first} ...]")
            case.inputs.append(self.random.sample(values, self.random.randint(0, 3)))
        else:
            second = self.variable("n", self.bound)
            rows = [
                [self.random.choice(values), self.random.choice(NUMBERS)]
                for _ in range(self.random.randint(0, 3))
            ]
            case.ins.append(f"[{first} {second}]" if form == "tuple" else f"[[{first} {second}]]")
            case.inputs.append([self.random.choice(values), 1] if form == "tuple" else rows)

    # -- clauses

    def variable(self, kind: str, bound: dict[str, str]) -> str:
        self.fresh += 1
        bound[name := f"?{kind}{self.fresh}"] = kind
        return name

    def old(self, kind: str, bound: dict[str, str]) -> str | None:
        names = [name for name, held in bound.items() if held == kind]
        return self.random.choice(names) if names else None

    def constant(self, kind: str) -> str:
        value = self.random.choice(self.values(kind))
        if isinstance(value, bool):
            return "true" if value else "false"
        return f'"{value}"' if isinstance(value, str) else str(value)

    def term(self, kind: str, bound: dict[str, str], new: bool = True) -> str:
        """A variable that is bound, a new one, a constant or a blank."""
        choice = self.random.random()
        old = self.old(kind, bound)
        if old and choice < 0.5:
            return old
        if new and choice < 0.93:
            return self.variable(kind, bound)
        return self.constant(kind) if choice < 0.97 else "_"

    def pattern(self, bound: dict[str, str]) -> str:
        predicate = self.random.choice([p for p, kind in PREDICATES.items() if self.mixed or kind != "m"])
        subject = self.term("e", bound)
        return f'[{subject} "{predicate}" {self.other(subject, self.term(PREDICATES[predicate], bound))}]'

    def other(self, first: str, second: str) -> str:
        """`second`, but never a variable twice in a pattern or binding for DataScript, which does not join them."""
        return "_" if first == second and first.startswith("?") and not self.mixed else second

    def clause(self, depth: int) -> str:
        bound = self.bound
        make = [self.pattern] * 5 + [self.test, self.function, self.lookup] + [self.rule] * 2
        if depth:
            make += [self.negation, self.negation_join, self.either, self.either_join]
        return self.random.choice(make)(bound)

    def test(self, bound: dict[str, str]) -> str:
        a = self.old("n", bound)
        if a is None:
            return self.pattern(bound)
        name = self.random.choice(["<", ">", "<=", "=", "not="] + ["even?", "odd?"] * self.mixed)
        if name.endswith("?"):
            return f"[({name} {a})]"
        b = self.old("n", bound) if self.random.random() < 0.5 else self.constant("n")
        c = self.random.choice(["", " 2", f" {a}"])
        if not self.mixed and (a == b or a in c):  # a variable twice in a call is an error in DataScript
            b, c = self.constant("n"), ""
        return f"[({name} {a} {b}{c})]"

    def function(self, bound: dict[str, str]) -> str:
        a, s = self.old("n", bound), self.old("s", bound)
        if s and self.random.random() < 0.4:
            return f"[(str {s} {self.repeated(s, self.constant('s'))}) {self.variable('s', bound)}]"
        if a is None:
            return self.pattern(bound)
        choice = self.random.randint(0, 3)
        if choice == 0:
            return f"[(identity {a}) {self.old('n', bound) or '_'}]"
        if choice == 1:
            first = self.variable("n", bound)
            second = self.other(first, self.old("n", bound) or "_")
            return f"[(tuple {a} {self.constant('n')}) [{first} {second}]]"
        name = self.random.choice(["+", "-", "*"])
        return f"[({name} {a} {self.repeated(a, self.constant('n'))}) {self.variable('n', bound)}]"

    def repeated(self, name: str, constant: str) -> str:
        """The variable again or a constant; DataScript takes an input that is there twice in a call for unbound."""
        chosen = self.random.choice([name, constant])
        return chosen if self.mixed else constant

    def lookup(self, bound: dict[str, str]) -> str:
        entity = self.old("e", bound)
        if entity is None:
            return self.pattern(bound)
        if self.random.random() < 0.5:
            return f'[(missing? $ {entity} "k/n")]'
        return f'[(get-else $ {entity} "k/n" {self.constant("n")}) {self.variable("n", bound)}]'

    def rule(self, bound: dict[str, str]) -> str:
        name, kinds, _ = self.random.choice(self.rules)
        if name == "big" or (
            name == "lonely" and not self.mixed
        ):  # DataScript finds nothing bound in its `not`
            held = self.old(kinds, bound)
            return f"({name} {held})" if held else self.pattern(bound)
        terms = [self.term(kind, bound) for kind in kinds]
        return f"({name} {' '.join([terms[0], *(self.other(terms[0], term) for term in terms[1:])])})"

    def inner(self, bound: dict[str, str], must: str) -> list[str]:
        """One or two patterns over what is bound and variables of their own; `must` is in them."""
        local = dict(bound)
        predicate = self.random.choice([p for p in PREDICATES if PREDICATES[p] == bound[must]] or ["k/n"])
        if bound[must] == "e" and self.random.random() < 0.5:
            predicate = self.random.choice(["k/n", "k/s", "k/e"])
            first = f'[{must} "{predicate}" {self.other(must, self.term(PREDICATES[predicate], local))}]'
        else:
            first = f'[{self.other(must, self.term("e", local))} "{predicate}" {must}]'
        return [first, *([self.pattern(local)] if self.random.random() < 0.4 else [])]

    def negation(self, bound: dict[str, str]) -> str:
        must = self.random.choice(list(bound)) if bound else None
        if must is None or bound[must] == "m":
            return self.pattern(bound)
        inner = self.inner(bound, must)
        if bound[must] == "e" and self.random.random() < 0.3:
            inner.append(f'(not [{must} "k/n" {self.constant("n")}])')
        return f"(not {' '.join(inner)})"

    def negation_join(self, bound: dict[str, str]) -> str:
        must = self.random.choice(list(bound)) if bound else None
        if must is None or bound[must] == "m":
            return self.pattern(bound)
        return f"(not-join [{must}] {' '.join(self.inner({must: bound[must]}, must))})"

    def either(self, bound: dict[str, str]) -> str:
        """Every branch has the same two variables."""
        e = self.old("e", bound) or self.variable("e", bound)
        n = self.old("n", bound) if self.random.random() < 0.4 else None
        n = n or self.variable("n", bound)
        branches = [
            f'[{e} "k/n" {n}]',
            f'[{e} "k/many" {n}]',
            f'(and [{e} "k/s" {self.constant("s")}] [{self.constant("e")} "k/n" {n}])',
            f'(and [{e} "k/many" {n}] (not [{e} "k/n" {n}]))',
        ]
        return f"(or {' '.join(self.random.sample(branches, self.random.randint(1, 3)))})"

    def either_join(self, bound: dict[str, str]) -> str:
        e = self.old("e", bound) or self.variable("e", bound)
        branches = [
            f'[{e} "k/n" {self.constant("n")}]',
            f'(and [{e} "k/link" ?local] [?local "k/n" ?other])',
            f'(and [?local "k/e" {e}] [?local "k/s" {self.constant("s")}])',
            f"(reach {e} {self.constant('e')})",
        ]
        return f"(or-join [{e}] {' '.join(self.random.sample(branches, self.random.randint(1, 3)))})"

    def aggregate(self, case: Case) -> None:
        index = self.random.randrange(len(case.find))
        name = case.find[index]
        numeric = ["sum", "avg", "median", "variance", "stddev"]
        functions = ["count", "count-distinct", "distinct", "min", "max", "min 2", "max 2"]
        kind = self.bound[name]
        choice = self.random.choice(
            (numeric if kind == "n" else []) + (functions if kind in "ns" else functions[:3])
        )
        case.find[index] = f"({choice} {name})"
