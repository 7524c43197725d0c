"""Random live queries that mix all constructs of the language, from one seed."""

from __future__ import annotations

from typing import Any

from tests.datalog_generator import MIXED, Generator
from tests.live_constructs import CALLABLES, NEED_BOUND, RULES, RULES_TEXT
from tests.live_histories import KINDS
from tripleweb.terms import Value


class Mixture(Generator):
    """Random queries of every construct. `text` has clauses in any order: they have none of their own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rules = [rule for rule in RULES if rule[0] not in NEED_BOUND]
        self.case_inputs: list[Any] = []
        self.ins: list[str] = []

    def query(self) -> tuple[str, list[Any]]:
        """(text, inputs)."""
        rng = self.random
        case = self.case()
        where = case.where
        ins, inputs = [*case.ins, *self.ins], [*case.inputs, *self.case_inputs]
        rng.shuffle(where)
        find = " ".join(case.find)
        tail = ""
        shape = rng.random()
        if shape < 0.06:
            find = f"{case.find[0]} ."
        elif shape < 0.12:
            find = f"[{case.find[0]} ...]"
        elif shape < 0.16:
            find = f"[{find}]"
        if rng.random() < 0.15:
            names = [name for name in case.find[: 1 if shape < 0.12 else None] if name.startswith("?")]
            if names:
                tail += f" :order-by [{' '.join(name + rng.choice(['', ' :desc']) for name in names)}]"
        if rng.random() < 0.12:
            tail += f" :limit {rng.randint(0, 4)}"
        if rng.random() < 0.07:
            tail += f" :offset {rng.randint(0, 2)}"
        if rng.random() < 0.2:
            kinds = {
                "k/n": "number",
                "k/s": "text",
                "k/e": "reference",
                "k/m": "number",
                "k/link": "reference",
            }
            pairs = rng.sample(sorted(kinds.items()), rng.randint(1, 3))
            tail += f" :kinds {{{' '.join(f':{name} {kind}' for name, kind in pairs)}}}"
        used = {word.strip("()[] ") for word in find.split()}
        with_ = [name for name in case.with_ if name not in used]
        parts = [f"[:find {find}", *([f":with {' '.join(with_)}"] if with_ else [])]
        parts += [" ".join([":in $ %", *ins]), ":where", *where]
        return f"{' '.join(parts)}{tail}]", [RULES_TEXT, *inputs]

    # -- clauses beyond those of DataScript's generator

    def values(self, kind: str) -> list[Value]:
        return [*MIXED] if kind == "m" else super().values("n" if kind == "c" else kind)

    def pattern(self, bound: dict[str, str]) -> str:
        predicate = self.random.choice(sorted(KINDS))
        kind = "n" if KINDS[predicate] == "c" else KINDS[predicate]
        subject = self.term("e", bound)
        choice = self.random.random()
        if choice < 0.03:
            return f'[{subject} "{predicate}"]' if subject != "_" else f'[_ "{predicate}" _]'
        other = self.old(self.random.choice("ens"), bound) if choice < 0.1 else None
        return f'[{subject} "{predicate}" {other or self.term(kind, bound)}]'

    def clause(self, depth: int) -> str:
        bound = self.bound
        more = [self.get_some, self.many_of, self.mixed_test, self.called]
        more += [self.filtered_not, self.not_with_lookup, self.not_rule, self.not_or, self.guarded]
        if self.random.random() < 0.35:
            return self.random.choice(more)(bound)
        return super().clause(depth)

    def any_old(self, bound: dict[str, str]) -> str | None:
        return self.random.choice(sorted(bound)) if bound else None

    def get_some(self, bound: dict[str, str]) -> str:
        entity = self.old("e", bound)
        if entity is None:
            return self.pattern(bound)
        names = " ".join(f'"{name}"' for name in self.random.sample(sorted(KINDS), 2))
        return f"[(get-some $ {entity} {names}) [{self.variable('p', bound)} {self.variable('m', bound)}]]"

    def many_of(self, bound: dict[str, str]) -> str:
        n, rng = self.old("n", bound), self.random
        if n is None or rng.random() < 0.3:
            rows = f"[[1 {rng.choice([1, 2])}] [2 2.5] [0 3]]"
            return f"[(ground {rows}) [[{n or self.variable('n', bound)} {self.variable('n', bound)}]]]"
        item = self.old("n", bound) if rng.random() < 0.3 else self.variable("n", bound)
        return rng.choice([f"[(range 0 {n}) [{item} ...]]", f"[(vector {n} 2) [{item} ...]]"])

    def mixed_test(self, bound: dict[str, str]) -> str:
        a, b = self.any_old(bound), self.any_old(bound)
        if a is None:
            return self.pattern(bound)
        b = b if self.random.random() < 0.6 else self.constant(self.random.choice("mns"))
        return f"[({self.random.choice(['<', '=', 'not=', '>=', '!='])} {a} {b})]"

    def called(self, bound: dict[str, str]) -> str:
        held = self.any_old(bound)
        if held is None or self.ins:
            return self.pattern(bound)
        name = self.random.choice(["positive", "tens", "pair", "list"])
        self.ins.append("?call")
        self.case_inputs.append(CALLABLES[name])
        if name == "positive":
            return f"[(?call {held})]"
        if name == "tens":
            return f"[(?call {held}) {self.variable('n', bound)}]"
        if name == "pair":
            return f"[(?call {held}) [_ {self.variable('n', bound)}]]"
        return f"[(?call {held}) [{self.variable('m', bound)} ...]]"

    def filtered_not(self, bound: dict[str, str]) -> str:
        n, e = self.old("n", bound), self.old("e", bound)
        if n is None or e is None:
            return self.pattern(bound)
        subject = self.random.choice([e, "_", "?inner"])
        test = self.random.choice(["<", ">", "=", "not="])
        inside = [
            f'[{subject} "{self.random.choice(["k/many", "k/n", "k/m"])}" ?held]',
            f"[({test} ?held {n})]",
        ]
        if self.random.random() < 0.3:
            inside.append(f'[{e} "k/e" {self.random.choice(["_", "?inner", "?other"])}]')
        if self.random.random() < 0.2:
            inside.append('(not [?held2 "k/many" ?held] [?held2 "k/s" "a"])')
        joined = sorted({n, *([e] if any(e in part for part in inside) else [])})
        self.random.shuffle(inside)
        if self.random.random() < 0.5 and "(not [?held2" not in inside[-1]:
            return f"(not-join [{' '.join(joined)}] {' '.join(inside)})"
        self.fresh += 1
        return (
            f"(not {' '.join(inside)})".replace("?inner", f"?inner{self.fresh}")
            .replace("?held", f"?held{self.fresh}")
            .replace("?other", f"?other{self.fresh}")
        )

    def not_with_lookup(self, bound: dict[str, str]) -> str:
        e = self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        self.fresh += 1
        x, b = f"?got{self.fresh}", f"?via{self.fresh}"
        return self.random.choice(
            [
                f'(not [(get-else $ {e} "k/n" 1) {x}] [(= {x} 1)])',
                f'(not [{e} "k/e" {b}] [(get-else $ {b} "k/n" 0) {x}] [(< {x} 1)])',
                f'(not [{e} "k/link" {b}] [(missing? $ {b} "k/s")])',
                f'(not-join [{e}] [{e} "k/e" {b}] [(get-some $ {b} "k/s" "k/m") [_ {x}]] [_ "k/m" {x}])',
            ]
        )

    def not_rule(self, bound: dict[str, str]) -> str:
        e, other = self.old("e", bound), self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        name = self.random.choice([name for name, kinds, _ in self.rules if kinds == "ee"])
        self.fresh += 1
        inner = f"?far{self.fresh}"
        return self.random.choice(
            [
                f"(not ({name} {e} {other}))",
                f"(not ({name} {e} {self.constant('e')}))",
                f"(not ({name} _ {e}))",
                f'(not ({name} {e} {inner}) [{inner} "k/n" 1])',
                f"(not-join [{e}] ({name} {inner} {e}) (small {inner}))",
                f"(not (top {e}))",
            ]
        )

    def not_or(self, bound: dict[str, str]) -> str:
        e = self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        return self.random.choice(
            [
                f'(not (or [{e} "k/n" {self.constant("n")}] [{e} "k/s" {self.constant("s")}]))',
                f'(not (or-join [{e}] (and [{e} "k/e" ?o] [?o "k/n" 1]) (reach {e} {self.constant("e")})))',
                f'(or-join [{e}] (not [{e} "k/n" 1]) [{e} "k/s" "a"])',
                f'(not [{e} "k/n" _] (not (or [{e} "k/s" "a"] [{e} "o/n" 1])))',
            ]
        )

    def guarded(self, bound: dict[str, str]) -> str:
        n = self.old("n", bound)
        if n is None:
            return self.pattern(bound)
        choice, e = self.random.random(), self.old("e", bound)
        other = self.old("n", bound) if choice < 0.2 else self.variable("n", bound) if choice < 0.66 else ""
        if choice < 0.33 or (choice < 0.66 and e is None):
            return f"(down {n} {other})"
        if choice < 0.66:
            return f"(climb {e} {other})"
        e = e or self.variable("e", bound)
        return f'(or-join [[{n}] {e}] (and [(> {n} 1)] [{e} "k/n" _]) [{e} "k/many" {n}])'
