"""Live queries for every construct of the language, by name: `CONSTRUCTS`; and of one shape each: `SHAPES`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from tests.datalog_generator import RULES as PLAIN_RULES

RULES = [
    *PLAIN_RULES,
    ("apart", "ee", '[(apart ?a ?b) [?a "k/e" ?b] (not (reach ?b ?a))]'),
    (
        "safe",
        "ee",
        """[(safe ?a ?b) [?a "k/link" ?b] (not (small ?b))]
           [(safe ?a ?b) (safe ?a ?m) [?m "k/link" ?b] (not [?b "k/n" 0])]""",
    ),
    ("climb", "en", '[(climb [?a] ?n) [?a "k/n" ?n]] [(climb [?a] ?n) [?a "k/e" ?m] (climb ?m ?n)]'),
    (
        "down",
        "nn",
        """[(down [?n] ?m) [(identity ?n) ?m]]
           [(down [?n] ?m) [(< 0 ?n 9)] [(- ?n 1) ?k] (down ?k ?m)]""",
    ),
    (
        "filled",
        "en",
        """[(filled ?a ?n) [?a "k/s" _] [(get-else $ ?a "k/n" 7) ?n]]
           [(filled ?a ?n) [?a "k/e" ?m] (filled ?m ?n)]""",
    ),
    ("top", "e", '[(top ?a) [?a "k/n" _] (not (reach _ ?a))]'),
    (
        "mixed",
        "ee",
        """[(mixed ?a ?b) (or [?a "k/e" ?b] [?a "o/e" ?b])]
           [(mixed ?a ?b) (mixed ?a ?m) (or [?m "k/e" ?b] (and [?m "k/link" ?b] [?b "k/n" 1]))]""",
    ),
    ("tied", "em", '[(tied ?a ?v) [?a "k/m" ?v]] [(tied ?a ?v) [?a "k/e" ?m] (tied ?m ?v)]'),
    # recursion over recursion, each hearing other predicates
    ("hop", "ee", '[(hop ?a ?b) (reach ?a ?b)] [(hop ?a ?b) (hop ?a ?m) [?m "k/e" ?b]]'),
    (
        "astray",
        "ee",
        """[(astray ?a ?b) [?a "o/e" ?b] (not (reach ?a ?b))]
           [(astray ?a ?b) (astray ?a ?m) [?m "o/e" ?b] (not (reach ?a ?b))]""",
    ),
    (
        "shaded",
        "ee",
        """[(shaded ?a ?b) [?a "k/link" ?b] (not [?b "k/s" "a"] (top ?b))]
           [(shaded ?a ?b) [?a "k/link" ?m] (shaded ?m ?b) (not-join [?m] [?m "k/n" ?n] [(< ?n 1)])]""",
    ),
]
NEED_BOUND = {"climb", "down"}  # their first argument
RULES_TEXT = "[" + "\n".join(text for _, _, text in RULES) + "]"


def _tens(value: Any) -> Any:
    return value * 10 if type(value) in (int, float) else None


def _spread(values: list[Any]) -> Any:
    return f"{len(values)} of {sorted(map(str, values))}"


CALLABLES: dict[str, Callable[..., Any]] = {
    "positive": lambda value: type(value) in (int, float) and value > 0,
    "tens": _tens,
    "pair": lambda value: (str(value), len(str(value))),
    "list": lambda value: [1, 2, value],
    "spread": _spread,
    "rarely": lambda values: len(values) if len(values) % 3 else None,
}

# name -> queries; `| …` behind one is the list of its inputs (rules are given where % stands)
CONSTRUCTS: dict[str, str] = {
    "joins": """
        [:find ?e ?n :where [?e :k/n ?n]]
        [:find ?n :where [_ :k/n ?n]]
        [:find ?e :where [?e :k/link]]
        [:find ?a ?n :where [?a :k/e ?b] [?b :k/n ?n]]
        [:find ?a ?n ?s :where [?a :k/n ?n] [?a :k/s ?s] [?a :k/many ?n]]
        [:find ?a ?n :where [?a :o/e ?b] [?b :k/n ?n] [?b :o/n ?n]]
        [:find ?a ?m :where [?a :k/e ?b] [?b :o/e ?c] [?c :k/many ?m]]
        [:find ?a ?c :where [?a :k/c ?c] [?a :k/n ?c]]
        [:find ?a ?v ?b :where [?a :k/m ?v] [?b :k/m ?v]]
        [:find ?a ?s :where [?a :k/e ?x] [?b :k/s ?x] [?b :k/s ?s]]
        [:find ?x ?a ?b :where [?a :k/s ?x] [?b :k/link ?x]]
    """,
    "self-joins": """
        [:find ?a ?b :where [?a :k/n ?n] [?b :k/n ?n]]
        [:find ?a :where [?a :k/e ?a]]
        [:find ?a ?c :where [?a :k/link ?b] [?b :k/link ?c]]
        [:find ?a ?d :where [?a :k/link ?b] [?b :k/link ?c] [?c :k/link ?d]]
        [:find ?a :where [?a :k/link ?b] [?b :k/link ?a]]
        [:find ?a ?x :where [?a :k/n ?x] [?a :k/n ?y] [?b :k/n ?y] [?b :k/many ?x]]
        [:find ?a ?b :where [?a :k/link ?c] [?b :k/link ?c] [?a :k/e ?d] [?b :k/e ?d]]
        [:find ?b :where [?a :k/m ?v] [?b :k/m ?v] [?c :k/m ?v] [?a :k/n 1] [?c :k/n 0]]
    """,
    "constants": """
        [:find ?a :where [?a :k/n 1]]
        [:find ?a :where [?a :k/m true]]
        [:find ?a :where [?a :k/m 1]]
        [:find ?a :where [?a :k/m "1"]]
        [:find ?a :where [?a :k/m 1.5]]
        [:find ?a :where [?a :k/m #inst "2020-01-01T00:00:00Z"]]
        [:find ?b ?a :where ["e1" :k/link ?b] [?a :k/e "e2"]]
        [:find ?a :where [?a :k/s "e1"]]
        [:find ?n :where ["e1" :k/n 1] ["e2" :k/many ?n]]
        [:find ?a ?b :where [?a :k/s "a"] [?b :k/s "b"]]
        [:find ?x :in $ ?x :where [_ :k/n 2]] | ["there"]
        [:find ?a :where [?a :k/c 2]]
    """,
    "predicates": """
        [:find ?a :where [?a :k/n ?n] [(< ?n 2)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/m ?w] [(< ?v ?w)]]
        [:find ?a :where [?a :k/n ?n] [?a :k/many ?m] [(<= 0 ?n ?m)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/n ?w] [(= ?v ?w)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/n ?w] [(not= ?v ?w)]]
        [:find ?a :where [?a :k/m ?v] [(= ?v true)]]
        [:find ?a :where [?a :k/m ?v] [(true? ?v)]]
        [:find ?a :where [?a :k/n ?n] [(even? ?n)]]
        [:find ?a :where [?a :k/s ?s] [(clojure.string/starts-with? ?s "a")]]
        [:find ?a :where [?a :k/s ?s] [(re-find #"^.b" ?s)]]
        [:find ?a :where [?a :k/n ?n] [(contains? #{1 2} ?n)]]
        [:find ?a :where [?a :k/many ?n] [(> ?n 0) ?is] [(= ?is false)]]
        [:find ?a :where [?a :k/e ?b] [(= ?b "e2")]]
        [:find ?a ?c :where [?a :k/c ?c] [(> ?c 1)]]
        [:find ?a :where [?a :k/m ?v] [(and ?v true)]]
    """,
    "functions": """
        [:find ?a ?m :where [?a :k/n ?n] [(+ ?n 1) ?m]]
        [:find ?a ?b :where [?a :k/n ?n] [(+ ?n 1) ?m] [?b :k/n ?m]]
        [:find ?a ?x ?y :where [?a :k/n ?n] [(tuple ?a ?n) [?x ?y]]]
        [:find ?a :where [?a :k/n ?n] [(tuple ?a ?n) [?a ?n]]]
        [:find ?n :where [?a :k/n ?n] [?b :k/many ?m] [(tuple ?m ?m) [?n _]]]
        [:find ?a ?i :where [?a :k/n ?n] [(range 0 ?n) [?i ...]]]
        [:find ?a ?x ?y :where [?a :k/n ?x] [(ground [[1 2] [2 3] [2.5 4]]) [[?x ?y]]]]
        [:find ?i ?a :where [(ground [0 1 2]) [?i ...]] [?a :k/n ?i]]
        [:find ?a ?x :where [?a :k/m ?v] [(vector ?v ?a) ?x]]
        [:find ?a :where [?a :k/n ?n] [(/ 6 ?n) _]]
        [:find ?a ?q :where [?a :k/many ?n] [(/ 6 ?n) ?q]]
        [:find ?t :where [_ :k/s ?s] [(str ?s "-") ?t]]
        [:find ?a ?m :where [?a :k/n ?n] [?a :k/many ?k] [(max ?n ?k) ?m]]
        [:find ?a ?k :where [?a :k/m ?v] [(type ?v) ?k]]
        [:find ?x ?y :where [?a :k/n ?n] [(vector ?n ?a) ?p] [(tuple ?n ?p) [?x [_ ?y]]]]
        [:find ?a ?s :where [?a :k/many ?n] [?a :k/n ?m] [(vector ?n ?m) ?v] [(set ?v) [?s ...]]]
        [:find ?c :where [_ :k/s ?s] [(count ?s) ?c] [(* ?c 2) ?d] [_ :k/n ?d]]
    """,
    "lookups": """
        [:find ?e ?n :where [?e :k/s _] [(get-else $ ?e :k/n 9) ?n]]
        [:find ?e ?n :where [?e :k/s _] [(get-else $ ?e :k/many "none") ?n]]
        [:find ?e ?b :where [?e :k/n ?n] [(get-else $ ?e :k/m ?n) ?b]]
        [:find ?e ?p ?v :where [?e :k/n _] [(get-some $ ?e :k/s :k/many) [?p ?v]]]
        [:find ?e ?v :where [?e :k/n _] [(get-some $ ?e :o/n :k/c) ?v]]
        [:find ?e :where [?e :k/n _] [(missing? $ ?e :k/s)]]
        [:find ?e ?is :where [?e :k/n _] [(missing? $ ?e :k/many) ?is]]
        [:find ?e ?b :where [?e :k/e ?b] [(missing? $ ?b :k/e)] [(missing? $ ?e :o/e)]]
        [:find ?e ?b ?n :where [?e :k/e ?b] [(get-else $ ?b :k/n 0) ?n] [?e :k/n ?n]]
        [:find ?e ?x ?y :where [?e :k/link ?b] [(get-else $ ?e :k/n 0) ?x] [(get-else $ ?b :k/n 0) ?y]]
        [:find ?e :where [?e :k/link ?b] [(get-else $ ?e :k/n 0) ?x] [(get-else $ ?b :k/n 0) ?x]]
        [:find ?v :where [(get-else $ "e1" :k/n 0) ?v]]
        [:find ?b ?v :where [?a :k/s ?b] [(get-else $ ?b :k/n 0) ?v]]
    """,
    "not": """
        [:find ?a :where [?a :k/n _] (not [?a :k/s _])]
        [:find ?a :where [?a :k/n _] (not [_ :k/link ?a])]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/many ?n])]
        [:find ?a :where [?a :k/n ?n] (not [?b :k/many ?n] [?b :k/s "a"])]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/e ?b] [?b :k/n ?n])]
        [:find ?a :where [?a :k/n _] (not-join [?a] [?a :k/e ?b] [?b :k/n ?n])]
        [:find ?a ?n :where [?a :k/n ?n] (not-join [?a] [?a :k/link ?b] [?b :k/n ?n])]
        [:find ?a ?b :where [?a :k/link ?b] (not [?b :k/link ?a])]
        [:find ?a :where [?a :k/n _] (not ["e1" :k/link ?a])]
        [:find ?a :where [?a :k/n _] (not [?a :k/n _] ["e1" :k/s "a"])]
        [:find ?a :where [?a :k/n _] (not [?a :k/n _] [_ :k/m true])]
        [:find ?a ?v :where [?a :k/m ?v] (not [?a :k/m ?w] [(< ?w ?v)])]
        [:find ?a :where [?a :k/link ?b] (not [?a :k/n 1]) (not [?b :k/n 0])]
        [:find ?a :where [?a :k/n 1] (not [?a :k/n ?n] [?b :k/n ?n] [?b :k/s "b"])]
    """,
    "not with filters": """
        [:find ?a ?n :where [?a :k/n ?n] (not [(> ?n 1)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?b :k/n ?m] [(< ?m ?n)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?a :k/many ?m] [(< ?m ?n)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?a :k/s _] [(= ?n 1)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [_ :k/s "a"] [(= ?n 1)])]
        [:find ?a ?b :where [?a :k/s _] [?b :k/s _] (not [(= ?a ?b)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [(+ ?n 1) ?m] [_ :k/many ?m])]
        [:find ?a ?n :where [?a :k/n ?n] (not [(range 0 ?n) [?i ...]] [?a :k/many ?i])]
        [:find ?a ?n ?m :where [?a :k/n ?n] [?a :k/many ?m] (not [?a :k/e ?b] [(< ?n ?m)] [?b :k/n ?n])]
        [:find ?a :where [?a :k/n ?n] (not [(get-else $ ?a :k/s "none") ?s] [(= ?s "none")])]
        [:find ?a :where [?a :k/n ?n] (not [(get-else $ ?a :k/c 1) ?n])]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] [(missing? $ ?b :k/n)])]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] [(get-else $ ?b :k/n 0) ?n] [(= ?n 0)])]
        [:find ?a :where [?a :k/n _] (not-join [?a] [?a :k/link ?b] [(get-some $ ?b :k/s :k/m) [?p ?v]] [?c :k/s ?v])]
    """,
    "nested not": """
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] (not [?b :k/s _]))]
        [:find ?a :where [?a :k/n _] (not [?a :k/link ?b] (not [?b :k/link ?a]))]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/e ?b] (not [?b :k/n ?n]))]
        [:find ?a :where [?a :k/n ?n] (not (not [?a :k/many ?n]))]
        [:find ?e :where [?e :k/e ?b] (not [?b :k/n ?n] (not [?b :k/n 2.5]))]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] (not [?b :k/e ?c] (not [?c :k/s "a"])))]
        [:find ?a :where [?a :k/n ?n] (not-join [?a ?n] [?a :k/link ?b] (not-join [?b ?n] [?b :k/many ?m] [(< ?m ?n)]))]
        [:find ?a :where [?a :k/s _] (not [?a :k/n ?n] (not [?a :k/many ?m] [(< ?m ?n)]) [(> ?n 0)])]
        [:find ?a :where [?a :k/s _] (not [?a :k/e ?b] (or [?b :k/n 1] (and [?b :k/n 0] (not [?b :k/s "a"]))))]
    """,
    "or": """
        [:find ?a ?n :where (or [?a :k/n ?n] [?a :k/many ?n])]
        [:find ?a :where [?a :k/s _] (or [?a :k/n 1] [?a :k/many 1] [?a :k/m 1])]
        [:find ?a :where (or-join [?a] (and [?a :k/e ?b] [?b :k/n 1]) (and [?a :k/link ?b] [?b :k/s "a"]))]
        [:find ?a ?b :where (or [?a :k/e ?b] [?a :k/link ?b]) (or [?b :k/e ?a] [?b :k/link ?a])]
        [:find ?a :where [?a :k/n ?n] (or-join [[?n] ?a] [(> ?n 1)] [?a :k/s "a"])]
        [:find ?a ?x :where [?a :k/n ?n] (or (and [(< ?n 2)] [(ground "small") ?x]) (and [(>= ?n 2)] [(str "big") ?x]))]
        [:find ?a :where [?a :k/n ?n] (or [(= ?n 1)] (and [(= ?n 2)] (not [?a :k/s _])) [?a :k/many ?n])]
        [:find ?a :where [?a :k/s ?s] (not (or [?a :k/n 1] [?a :k/many 1]))]
        [:find ?a :where [?a :k/n _] (not (or-join [?a] (and [?a :k/e ?b] [?b :k/n 1]) [?a :k/s "a"]))]
        [:find ?a ?b :where (or (and [?a :k/e ?b] [?a :k/n 1]) (and [?a :k/e ?b] [?b :k/n 1]))]
        [:find ?a :where (or (or [?a :k/n 1] [?a :k/n 2]) (and [?a :k/s "a"] (or [?a :k/m 1] [?a :k/m true])))]
    """,
    "rules": """
        [:find ?a :in $ % :where (small ?a)]
        [:find ?a ?n :in $ % :where [?a :k/n ?n] (big ?n)]
        [:find ?a :in $ % :where (lonely ?a) (small ?a)]
        [:find ?a :in $ % :where [?a :k/s _] (not (lonely ?a))]
        [:find ?a :in $ % :where [?a :k/n _] (not [?a :k/e ?b] (small ?b))]
        [:find ?a :in $ % :where (or-join [?a] (small ?a) (and [?a :k/many ?n] (big ?n)))]
        [:find ?x :in $ % :where (r ?x ?x)] | ['[[(r ?a ?b) [?a :k/link ?c] [?c :k/link ?b]]]']
        [:find ?n :in $ % :where (r "e1" ?n) (r ?b ?n)] | ['[[(r ?a ?n) [?a :k/n ?n]] [(r ?a ?n) [?a :o/n ?n]]]']
    """,
    "recursion": """
        [:find ?a ?b :in $ % :where (reach ?a ?b)]
        [:find ?a ?b :in $ % :where (back ?a ?b)]
        [:find ?a ?b :in $ % :where (twice ?a ?b)]
        [:find ?a ?b :in $ % :where (even-path ?a ?b)]
        [:find ?a ?b :in $ % :where (odd-path ?a ?b)]
        [:find ?a ?b :in $ % :where (safe ?a ?b)]
        [:find ?a ?b :in $ % :where (mixed ?a ?b)]
        [:find ?a ?v :in $ % :where (tied ?a ?v)]
        [:find ?a ?n :in $ % :where (filled ?a ?n)]
        [:find ?a ?b :in $ % :where (shaded ?a ?b)]
        [:find ?a ?b :in $ % :where (apart ?a ?b)]
        [:find ?a ?b :in $ % :where (hop ?a ?b)]
        [:find ?a ?b :in $ % :where (astray ?a ?b)]
        [:find ?a ?b :in $ % :where (astray ?a ?b) (hop ?b ?a)]
        [:find ?a :in $ % :where (top ?a)]
        [:find ?a :in $ % :where (reach ?a ?a)]
        [:find ?a ?n :in $ % :where (reach ?a ?b) [?b :k/n ?n] [?a :k/n ?n]]
        [:find ?a ?c :in $ % :where (reach ?a ?b) (back ?b ?c)]
        [:find ?a ?b :in $ % :where (reach ?a ?b) (reach ?b ?a)]
        [:find ?a (count ?b) :in $ % :where (reach ?a ?b)]
    """,
    "recursion from": """
        [:find ?b :in $ % :where (reach "e1" ?b)]
        [:find ?a :in $ % :where (reach ?a "e1")]
        [:find ?b :in $ % :where (twice "e1" ?b)]
        [:find ?b :in $ % :where (back "e1" ?b)]
        [:find ?a :in $ % :where (back ?a "e1")]
        [:find ?b :in $ % ?a :where (reach ?a ?b)] | ["e2"]
        [:find ?a ?b :in $ % [?a ...] :where (safe ?a ?b)] | [["e2", "e4"]]
        [:find ?b :in $ % ?a :where (even-path ?a ?b)] | ["e3"]
        [:find ?a ?b :in $ % :where [?a :k/s "a"] (reach ?a ?b)]
        [:find ?a ?b :in $ % :where [?a :k/n 1] [?a :k/e ?c] (twice ?c ?b)]
        [:find ?a ?n :in $ % :where [?a :k/s _] (climb ?a ?n)]
        [:find ?n :in $ % :where (climb "e1" ?n)]
        [:find ?a ?m :in $ % :where [?a :k/n ?n] (down ?n ?m)]
        [:find ?m :in $ % ?n :where (down ?n ?m) [_ :k/n ?m]] | [4]
        [:find ?b :in $ % :where (reach "e1" ?b) (reach "e2" ?b)]
        [:find ?b :in $ % :where (hop "e1" ?b)]
        [:find ?b :in $ % :where (astray "e1" ?b)]
        [:find ?x :in $ % :where ["e1" :k/e ?a] (reach ?a ?b) [?b :k/n ?x]]
        [:find ?b :in $ % :where (mixed "e1" ?b) (not [?b :k/s "a"])]
        [:find ?a ?b :in $ % [[?a ?n]] :where [?a :k/n ?n] (reach ?a ?b)] | [[["e1", 1], ["e2", 2], ["e3", 1]]]
    """,
    "recursion under not": """
        [:find ?a :in $ % :where [?a :k/n _] (not (reach ?a "e1"))]
        [:find ?a :in $ % :where [?a :k/n _] (not (reach _ ?a))]
        [:find ?a ?b :in $ % :where [?a :k/e ?b] (not (twice ?b ?a))]
        [:find ?a :in $ % :where [?a :k/n ?n] (not (reach ?a ?b) [?b :k/n ?n])]
        [:find ?a :in $ % :where [?a :k/n _] (not (reach ?a ?b) (not [?b :k/s _]))]
        [:find ?a :in $ % :where (lonely ?a) (not (climb ?a 1))]
        [:find ?a :in $ % :where [?a :k/n _] (not-join [?a] (safe ?a ?b) (small ?b))]
        [:find ?a ?b :in $ % :where (reach ?a ?b) (not (mixed ?a ?b))]
        [:find ?a :in $ % :where [?a :k/s _] (or-join [?a] (top ?a) (and (reach ?a ?b) [?b :k/n 1] [?a :k/n _]))]
        [:find ?a :in $ % :where (top ?a) (not (apart ?a _))]
        [:find ?a :in $ % :where [?a :k/n _] (not (hop ?a "e1"))]
        [:find ?a ?b :in $ % :where [?a :o/e ?b] (not (astray ?a ?b))]
    """,
    "aggregates": """
        [:find ?s (count ?a) :where [?a :k/s ?s]]
        [:find ?s (sum ?n) :with ?a :where [?a :k/s ?s] [?a :k/n ?n]]
        [:find ?s (sum ?n) :where [?a :k/s ?s] [?a :k/n ?n]]
        [:find (avg ?n) (median ?n) (variance ?n) (stddev ?n) :with ?a :where [?a :k/n ?n]]
        [:find ?s (min ?n) (max ?n) (min 2 ?n) (max 2 ?n) :where [?a :k/s ?s] [?a :k/many ?n]]
        [:find (count-distinct ?v) (distinct ?v) :with ?a :where [?a :k/m ?v]]
        [:find (min ?v) (max ?v) (sum ?v) (avg ?v) :with ?a :where [?a :k/m ?v]]
        [:find (rand ?n) (sample 2 ?n) (rand 3 ?n) :where [_ :k/many ?n]]
        [:find ?a (count ?b) (count ?c) :where [?a :k/link ?b] [?a :k/e ?c]]
        [:find (count ?a) :where [?a :k/n _] (not [?a :k/s _])]
        [:find ?b (sum ?c) :with ?a :where [?a :k/e ?b] [?a :k/c ?c]]
        [:find (sum ?x) :with ?a :where [?a :k/n ?n] [(* ?n 0.1) ?x]]
        [:find ?n (count ?n) :where [?a :k/n ?n]]
        [:find (count ?a) (max ?n) :with ?b :where [?a :k/link ?b] [?b :k/n ?n]]
    """,
    "with": """
        [:find ?n :with ?a :where [?a :k/n ?n]]
        [:find ?s ?n :with ?b :where [?a :k/s ?s] [?a :k/link ?b] [?b :k/n ?n]]
        [:find ?n :with ?a ?m :where [?a :k/n ?n] [?a :k/many ?m] (not [?a :k/s "a"])]
    """,
    "order and limit": """
        [:find ?a ?n :where [?a :k/n ?n] :order-by [?n :desc]]
        [:find ?a ?n :where [?a :k/n ?n] :order-by [?n ?a :desc] :limit 2]
        [:find ?a ?v :where [?a :k/m ?v] :order-by [?v] :limit 3 :offset 1]
        [:find ?n :with ?a :where [?a :k/n ?n] :order-by [?n] :limit 3]
        [:find ?s (count ?a) :where [?a :k/s ?s] :order-by [count_a :desc] :limit 2]
        [:find ?a ?m :where [?a :k/many ?m] :limit 3]
        [:find ?a ?b :where [?a :k/link ?b] :offset 2]
        [:find ?a :where [?a :k/n _] :limit 0]
        [:find ?s (avg ?n) :where [?a :k/s ?s] [?a :k/n ?n] :order-by [avg_n :desc ?s] :offset 1]
        [:find ?a ?b :in $ % :where (reach ?a ?b) :order-by [?b ?a] :limit 4]
    """,
    "shapes": """
        [:find ?n . :where [_ :k/n ?n]]
        [:find [?n ...] :where [_ :k/n ?n]]
        [:find [?a ?n] :where [?a :k/n ?n]]
        [:find (count ?a) . :where [?a :k/n 1]]
        [:find [(min ?n) (max ?n)] :where [_ :k/n ?n]]
        [:find [?n ...] :where [_ :k/many ?n] :order-by [?n :desc] :limit 2]
        [:find ?a . :where [?a :k/n ?n] [(> ?n 1)] :order-by [?a :desc]]
        [:find ?n . :where [_ :k/n ?n] :offset 1]
    """,
    "inputs": """
        [:find ?a :in $ ?n :where [?a :k/n ?n]] | [1.0]
        [:find ?a ?n :in $ [?n ...] :where [?a :k/n ?n]] | [[1, 2, 2.5, 1.0, True]]
        [:find ?a ?v :in $ [?v ...] :where [?a :k/m ?v]] | [[True, 1, "1", "true"]]
        [:find ?a ?t :in $ [[?n ?t]] :where [?a :k/n ?n]] | [[[1, "one"], [2, "two"], [1, "uno"]]]
        [:find ?a :in $ [?n ?s] :where [?a :k/n ?n] [?a :k/s ?s]] | [[1, "a"]]
        [:find ?e ?n :in $ [?e ...] :where [?e :k/n ?n]] | [["e1", "e2", "nobody"]]
        [:find ?x ?a :in $ [?x ...] :where [?a :k/s ?s] (not [?a :k/n ?x])] | [[1, 2]]
        [:find ?x ?y :in $ [?x ...] [?y ...] :where [?a :k/n ?x] [?b :k/many ?y]] | [[1, 2], [0, 1]]
        [:find ?a :in $ [?n ...] :where [?a :k/n ?n]] | [[]]
        [:find ?m :in $ ?n :where [?a :k/many ?m] [(> ?m ?n)]] | [1]
        [:find ?x :in $ [[?x _]] :where (not [_ :k/n ?x])] | [[[1, 2], [3, 4], [0, 0]]]
        [:find ?e ?n :in $ [[?e ?n]] :where (not [?e :k/many ?n])] | [[["e1", 1], ["e2", 2], ["e3", 1]]]
        [:find ?a :in $ [[?a [?n ...]] ...] :where [?a :k/n ?n]] | [[["e1", [1, 2]], ["e2", [0]]]]
    """,
    "callables": """
        [:find ?a :in $ ?f :where [?a :k/m ?v] [(?f ?v)]] | [CALLABLES["positive"]]
        [:find ?a ?x :in $ ?f :where [?a :k/m ?v] [(?f ?v) ?x]] | [CALLABLES["tens"]]
        [:find ?a ?x ?y :in $ ?f :where [?a :k/s ?s] [(?f ?s) [?x ?y]]] | [CALLABLES["pair"]]
        [:find ?a ?x :in $ ?f :where [?a :k/n ?n] [(?f ?n) [?x ...]]] | [CALLABLES["list"]]
        [:find ?s (aggregate ?f ?n) :in $ ?f :with ?a :where [?a :k/s ?s] [?a :k/many ?n]] | [CALLABLES["spread"]]
        [:find ?s (aggregate ?f ?a) :in $ ?f :where [?a :k/s ?s]] | [CALLABLES["rarely"]]
        [:find ?a :in $ ?f :where [?a :k/n ?n] (not [?a :k/many ?m] [(?f ?m)])] | [CALLABLES["positive"]]
        [:find ?b :in $ % ?f :where [?a :k/n ?n] [(?f ?n)] (reach ?a ?b)] | [CALLABLES["positive"]]
        [:find ?b :in $ ?f :where [?a :k/n ?n] [(?f ?n) ?m] [(/ ?m 10) ?k] [?b :k/many ?k]] | [CALLABLES["tens"]]
    """,
    "kinds": """
        [:find ?a ?n :where [?a :k/n ?n] :kinds {:k/n number}]
        [:find ?a ?s :where [?a :k/s ?s] :kinds {:k/s text}]
        [:find ?a ?b :where [?a :k/e ?b] [?b :k/n ?n] :kinds {:k/e reference :k/n number}]
        [:find ?a :where [?a :k/n _] (not [?a :k/s _]) :kinds {:k/s text :k/n number}]
        [:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/n 9) ?n] :kinds {:k/n number}]
        [:find ?a :where [?a :k/s _] [(missing? $ ?a :k/n)] :kinds {:k/n number}]
        [:find ?a :where [?a :k/m true] :kinds {:k/m boolean}]
        [:find ?a ?v :where [?a :k/m ?v] :kinds {:k/m date}]
        [:find ?a ?x :where [?a :k/s ?x] [?b :k/e ?x] :kinds {:k/s text :k/e reference}]
        [:find ?x ?b :where ["e1" :k/link ?x] [?b :k/s ?x] :kinds {:k/link reference}]
        [:find ?a :where [?a :k/s "a"] :kinds {:k/s reference}]
        [:find ?a ?b :in $ % :where (reach ?a ?b) :kinds {:k/link reference}]
        [:find ?a ?p ?v :where [?a :k/n _] [(get-some $ ?a :k/s :k/m) [?p ?v]] :kinds {:k/s text :k/m number}]
        [:find (sum ?n) :with ?a :where [?a :k/c ?n] :kinds {:k/c counter}]
    """,
    "pull and get": """
        [:find (pull ?a [:k/n :k/s {:k/e [:k/n {:k/link [:k/s]}]}]) :where [?a :k/n _]]
        [:find ?a (pull ?b [:k/many :k/_link]) :where [?a :k/e ?b]]
        [:find ?a (get ?a :k/e :k/n) :where [?a :k/s _]]
        [:find ?a (get ?a :k/n) :where [?a :k/s _] :order-by [(get ?a :k/n) ?a :desc] :limit 3]
        [:find [(pull ?a [:k/n {:k/e ...}]) ...] :where [?a :k/s "a"]]
    """,
    "variable predicates": """
        [:find ?p ?v :where ["e1" ?p ?v]]
        [:find ?a ?p :where [?a ?p 1] (not [?a :k/s "a"])]
        [:find ?p (count ?a) :where [?a ?p _]]
        [:find ?e ?n :in $ ?p :where [?e :k/s _] [(get-else $ ?e ?p 9) ?n]] | ["k/n"]
        [:find ?e :where [?e :k/n _] [(missing? $ ?e :k/_link)]]
    """,
}  # fmt: skip


# Queries of one shape each, which differ in their constants and inputs only; `:in` stands where both are the same.
SHAPES = """
    [:find ?a ?n :where [?a :k/s {s}] [?a :k/n ?n]]
    [:find ?n :where [{e} :k/n ?n] [?b :k/many ?n]]
    [:find ?a ?b :where [?a :k/m {m}] [?a :k/link ?b] [?b :k/n {n}]]
    [:find ?a :where [?a :k/n ?n] [(< {n} ?n)]]
    [:find ?a ?m :where [?a :k/n ?n] [(+ ?n {n}) ?m] [(not= ?m {n})]]
    [:find ?a :where [?a :k/s _] (not [?a :k/n {n}])]
    [:find ?a :where [?a :k/e ?b] (not [?b :k/many ?n] [(> ?n {n})])]
    [:find ?a :where [?a :k/e ?b] (not [?a :k/s {s}] (not [?b :k/n {n}]))]
    [:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/n {n}) ?n] [(>= ?n {n})]]
    [:find (count ?a) :where [?a :k/n ?n] (or [?a :k/s {s}] [?a :k/e {e}])]
    [:find ?s (sum ?n) :where [?a :k/s ?s] [?a :k/n ?n] [(not= ?s {s})]]
    [:find ?a ?x :in $ ?x :where [?a :k/m ?x] [?a :k/s {s}]] | {m}
    [:find ?a ?x :in $ ?x :where [?a :k/n _] (not [?a :k/m ?x])] | {m}
    [:find ?a ?b :in $ ?n :where [?a :k/n ?n] [?b :k/many ?n]] | {n}
    [:find ?x :in $ ?n ?x :where [?a :k/n ?n] [?a :k/link ?x]] | {n}, {e}
    [:find ?a :where [?a :k/s {s}] [?a :k/many {n}] [?a :k/link {e}] :limit 2]
    [:find ?b :in $ % :where (reach {e} ?b)] | RULES
    [:find ?a :in $ % :where [?a :k/n _] (not (back {e} ?a))] | RULES
"""


def of_one_shape(line: str, rng: random.Random, count: int) -> Iterable[tuple[str, list[Any]]]:
    """Some queries of a shape, with their inputs."""
    text, _, rest = line.strip().partition(" | ")
    quoted = {
        "s": ['"a"', '"b"', '"e1"'],
        "e": ['"e1"', '"e2"', '"e3"', '"nobody"'],
        "n": ["0", "1", "1.0", "2", "2.5"],
        "m": ["true", "false", "1", '"1"', "1.5"],
    }
    names = {"RULES": RULES_TEXT, "true": True, "false": False}
    for _ in range(count):
        parts = []
        for part in (text, rest):
            for kind, values in quoted.items():
                while f"{{{kind}}}" in part:
                    part = part.replace(f"{{{kind}}}", rng.choice(values), 1)
            parts.append(part)
        yield parts[0], list(eval(f"({parts[1]},)", names)) if rest else []


def constructs(name: str) -> list[tuple[str, list[Any]]]:
    """The queries of a construct, with their inputs."""
    out = []
    for line in filter(None, map(str.strip, CONSTRUCTS[name].splitlines())):
        text, _, rest = line.partition(" | ")
        inputs = eval(rest, {"CALLABLES": CALLABLES}) if rest else []
        if "%" in text and not (inputs and isinstance(inputs[0], str) and inputs[0].startswith("[[")):
            inputs = [RULES_TEXT, *inputs]
        out.append((text, inputs))
    return out
