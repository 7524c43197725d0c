"""What becomes of one transaction, for whoever waits for it: taken, or rejected and undone.

A `Verdict` belongs to one outermost block. It is open from when its transaction was written until the server has
decided and made durable what it decided; where there is no server, it is decided with the end of the block. Invariants:
it is decided once; nobody but its holder keeps it alive. All but `wait` is called with the session's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from tripleweb.errors import TriplewebError
from tripleweb.sync.messages import Check, Receipt
from tripleweb.sync.outbox import fates_of, refused
from tripleweb.sync.records import LocalCommit, Pending
from tripleweb.transaction import Transaction

if TYPE_CHECKING:
    from tripleweb.session import Session


class Verdict:
    """`check`: what the server is to ask. `refusal`: why a store without one does not take it. `accepted` is None as
    long as it is not decided; `message` says why it was rejected."""

    __slots__ = ("__weakref__", "accepted", "check", "is_written", "message", "refusal")

    def __init__(self, check: Check | None = None) -> None:
        self.check = check
        self.refusal = ""
        self.is_written = False
        self.accepted: bool | None = None
        self.message = ""

    def decide(self, receipt: Receipt) -> None:
        """The transaction's receipt is here."""
        self.accepted = receipt.outcome != "rejected"
        self.message = receipt.message or receipt.reason

    def refuse(self, tx: Transaction, singly: int) -> tuple[LocalCommit, Receipt]:
        """Its check had no answer when a transaction began that there is no server for: what is to be kept of it."""
        pending = Pending(0, "", tx.time, tx.changes)
        receipt = refused(pending, tx.replica, self.refusal)
        self.decide(receipt)
        return LocalCommit(fates=list(fates_of(pending, receipt, singly))), receipt

    def wait(self, session: Session, timeout: float | None) -> bool:
        """Whether it was taken, once that is known. Raises `TimeoutError` if it is not after `timeout` seconds, at once
        when offline by choice or refused; `TriplewebError` for a transaction that has not ended, or was undone."""
        if session.within_transaction:
            raise TriplewebError("cannot wait within a transaction: end it first")
        if self.accepted is None and not self.is_written:
            raise TriplewebError("this transaction was not committed: there is nothing to wait for")
        if self.accepted is None:
            session.wait_decided(lambda: self.accepted is not None, timeout)
        if self.accepted is None:
            raise TimeoutError(f"the transaction is not decided ({session.standing})")
        return self.accepted


def again(check: Check | None) -> Verdict | None:
    """Of what is redone: it is asked what was asked before."""
    return None if check is None else Verdict(check)


class Verdicts:
    """The open verdicts of a session, by the ids of their transactions."""

    def __init__(self) -> None:
        self._open: WeakValueDictionary[str, Verdict] = WeakValueDictionary()

    def expect(self, id: str, verdict: Verdict) -> None:
        """A transaction was written; "": there is nobody who is to decide on it."""
        verdict.is_written = True
        if id:
            self._open[id] = verdict
        else:
            verdict.accepted = True

    def decided(self, receipt: Receipt) -> None:
        """A receipt has come."""
        if (verdict := self._open.pop(receipt.id, None)) is not None:
            verdict.decide(receipt)
