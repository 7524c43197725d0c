"""What became of a session's writes: kept within bounds, counted where it is not, and told once.

Its session calls everything with its lock held, and saves the commits that `note` was given. Invariant: what is counted
here outlives the process with the same commit as what it counts, so that neither a restart nor a crash forgets that
something was rejected, or that receipts are not kept any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tripleweb.sync.messages import Receipt
from tripleweb.sync.records import FATES_MAX, LocalCommit, LocalState, lost, worth_keeping


class Fates:
    """The receipts of one replica."""

    def __init__(self, state: LocalState) -> None:
        self.kept = list(state.fates)
        # written values that did not stand, and are kept nowhere any more; at least so many
        self.forgotten = int(state.meta.get("forgotten", 0))
        # transactions that were rejected, by reason: since the last strict flush, and since they were last told
        self.rejected = Counter[str]()
        self.untold = Counter[str](state.meta.get("untold", {}))
        self._due = len(self.kept) + FATES_MAX

    def note(self, commit: LocalCommit, receipts: Iterable[Receipt] = ()) -> None:
        """Takes note of what a commit that is about to be saved decides."""
        rejected = Counter(receipt.reason for receipt in receipts if receipt.outcome == "rejected")
        if rejected:
            self.rejected += rejected
            self.inherit(commit, rejected)
        self.kept.extend(commit.fates)
        if len(self.kept) > self._due:
            before, self.kept = self.kept, worth_keeping(self.kept)
            self._due = len(self.kept) + FATES_MAX
            self.forgotten += lost(before) - lost(self.kept)
            commit.meta["forgotten"] = self.forgotten

    def inherit(self, commit: LocalCommit, rejected: Counter[str]) -> None:
        """Rejections that are to be told here; `commit` keeps them."""
        self.untold += rejected
        commit.meta["untold"] = dict(self.untold)

    def flushed(self) -> Counter[str]:
        """What was rejected since this was last asked. Who asks is told by it."""
        rejected, self.rejected = self.rejected, Counter()
        self.untold -= rejected
        return rejected

    def tell(self, commit: LocalCommit) -> Counter[str]:
        """What was rejected and never told; `commit` keeps that it is told now."""
        untold, self.untold = self.untold, Counter()
        commit.meta["untold"] = {}
        return untold
