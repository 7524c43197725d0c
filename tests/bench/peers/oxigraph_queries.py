"""Oxigraph in memory in the bench of queries, SPARQL over the same triples, answers into DataFrames: python -m
tests.bench.peers.oxigraph_queries FOLDER OUT OPTIONS, in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyoxigraph as ox

from tests.bench.queries.measured import Stopwatch, of_frame, reference, seconds

ENTITY, PREDICATE = "e:", "a:"


def of(predicate: str) -> str:
    return f"<{PREDICATE}{predicate}>"


NAMED = f"?u {of('user/name')} ?n"
BELOW = f"SELECT ?n {{{{ ?u {of('user/managerId')}+ <{ENTITY}{{}}> . {NAMED} }}}}"


def texts(given: dict[str, Any]) -> dict[str, str]:
    return {
        "Q0": f"SELECT ?n {{ ?t {of('tag/name')} ?n }}",
        "Q1": f'SELECT ?n ?u {{ ?u {of("user/email")} "{given["email"]}" . {NAMED} }}',
        "Q2": f"""SELECT ?title ?n {{ ?p {of("post/score")} ?s FILTER(?s > 90) ?p {of("post/authorId")} ?u .
            ?u {of("user/isActive")} true . ?p {of("post/title")} ?title . {NAMED} }}""",
        "Q3": f"""SELECT ?c ?text ?n {{ ?p {of("post/tagIds")} <{ENTITY}{given["tag"]}> .
            ?c {of("comment/postId")} ?p . ?c {of("comment/text")} ?text .
            ?c {of("comment/authorId")} ?u . {NAMED} }}""",
        "Q4": f"""SELECT ?u (AVG(?s) AS ?mean) (COUNT(?p) AS ?count) {{ ?p {of("post/authorId")} ?u .
            ?p {of("post/score")} ?s }} GROUP BY ?u""",
        "Q5a": BELOW.format(given["manager"]),
        "Q5b": BELOW.format(given["root"]),
        "Q6": f"SELECT ?n {{ {NAMED} FILTER NOT EXISTS {{ ?c {of('comment/authorId')} ?u }} }}",
        "Q7": f"""SELECT ?u ?n ?mail ?age ?active ?made {{ {NAMED} . ?u {of("user/email")} ?mail .
            ?u {of("user/age")} ?age . ?u {of("user/isActive")} ?active . ?u {of("user/createdAt")} ?made }}""",
        "closure": f"SELECT ?m ?e {{ ?e {of('user/managerId')}+ ?m }}",
    }


class Oxigraph:
    """A store in memory."""

    def __init__(self) -> None:
        self.store = ox.Store()

    def load(self, rows: Iterable[tuple[str, str, Any]]) -> None:
        predicates: dict[str, tuple[ox.NamedNode, bool]] = {}
        quads = []
        for subject, name, value in rows:
            if name not in predicates:
                predicates[name] = ox.NamedNode(PREDICATE + name), reference(name)
            predicate, refers = predicates[name]
            target = ox.NamedNode(ENTITY + value) if refers else ox.Literal(value)
            quads.append(ox.Quad(ox.NamedNode(ENTITY + subject), predicate, target))
        self.store.bulk_extend(quads)

    def ask(self, question: str) -> pd.DataFrame:
        """Literals and names as text: to make numbers of them would be further work."""
        found = self.store.query(question)
        width = range(len(found.variables))
        names = [variable.value for variable in found.variables]
        return pd.DataFrame([[row[i].value for i in width] for row in found], columns=names)


def plain(frame: pd.DataFrame) -> list[list[Any]]:
    return [[value.removeprefix(ENTITY) for value in cells] for cells in of_frame(frame)]


def run(watch: Stopwatch) -> None:
    watch.weigh()
    rows = list(watch.triples())
    began = seconds()
    oxigraph = Oxigraph()
    oxigraph.load(rows)
    load_s = seconds() - began
    del rows
    watch.loaded("oxigraph", {"oxigraph": ox.__version__, "pandas": pd.__version__}, load_s)
    questions = texts(watch.given)
    for figure in watch.options["figures"]:
        if figure in questions:
            watch.ask(figure, lambda: oxigraph.ask(questions[figure]), plain)
    watch.asked()


if __name__ == "__main__":
    run(Stopwatch())
