"""Guarded transactions of a run: which queries decide on them, and that they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.checks import Cut, hold
from tripleweb.datalog import evaluate
from tripleweb.sync.messages import decode_receipt, input_from_wire
from tripleweb.sync.records import Commit
from tripleweb.terms import Value

if TYPE_CHECKING:
    from tests.sim.world import World

# queries that decide on transactions, of an entity, some with one more input
GUARDS: list[tuple[str, list[Value]]] = [
    ("[:find ?e . :in $ ?e :where (not [?e :k/title])]", []),
    ("[:find ?e . :in $ ?e :where (not [?e :k/owner])]", []),
    ("[:find ?o . :in $ ?e :where [?e :k/owner ?o]]", []),
    ("[:find ?s . :in $ ?e ?most :where [?e :k/size ?s] [(< ?s ?most)]]", [5, 10, 20]),
    ("[:find ?n . :in $ ?e ?least :where [?e :k/likes ?n] [(>= ?n ?least)]]", [0, 3]),
    ("[:find (count ?x) . :in $ ?e ?t :where [?e :k/tags ?t] [?x :k/tags ?t]]", ["red", 1, True]),
    ("[:find ?a :in $ ?e :where [?a :k/size ?x] [?b :k/size ?y] [(< ?x ?y)] (not [?e :k/size])]", []),
]


class GuardJudge:
    """The server's decisions on guarded transactions, beside the plain evaluator on its log."""

    def __init__(self) -> None:
        self.cut = Cut()  # the log so far
        self.accepted: set[str] = set()
        self.dead: set[str] = (
            set()
        )  # accepted, but nothing of it stood: pushed again, it may be decided anew, or not
        self.forgotten: set[str] = set()  # of these, by a restore at some time

    def check(self, world: World, commit: Commit) -> None:
        """A guarded transaction is accepted if its query had an answer at its place in the order, else it is not; what
        was accepted once, and is in the log, is never refused, and what it wrote stood then."""
        entries = {(entry.id, entry.replica): entry for entry in commit.entries}
        store = self.cut.at(world.server.disk.log, commit.seq - len(commit.entries))
        for replica, _, tx, body in commit.receipts:
            receipt, written = decode_receipt(body), world.written[tx]
            # of copies one was told that it was accepted, and another was not
            unsure = tx in self.forgotten and world.nodes[written.by].lossy
            if receipt.reason == "guard" and not unsure:
                hold("guards hold", written.check is not None, f"{written} has none: {receipt}")
                hold("guards hold", tx not in self.accepted, f"accepted before: {receipt}")
            if written.check is not None and tx not in self.accepted | self.dead and not unsure:
                inputs = [input_from_wire(wire) for wire in written.check.inputs]
                answers = evaluate.run(written.check.query, inputs, store).rows
                if receipt.outcome == "rejected":
                    is_due = not answers or receipt.reason == "permission"
                else:
                    (self.accepted if (tx, replica) in entries else self.dead).add(tx)
                    is_due = bool(answers) and all(reason == "deleted" for _, reason, _ in receipt.lost)
                hold("guards hold", is_due, f"{written.check}: {answers}, {receipt}")
            if (entry := entries.get((tx, replica))) is not None:
                store.apply(entry.registers)
                self.cut.seq = entry.seq
