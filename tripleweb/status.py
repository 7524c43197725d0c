"""How a store stands and what became of its writes, as a user sees it: `db.status` and `db.receipts()`.

Invariant: nothing that a user should know is only in a log. What is wrong here is said in the status; receipts that are
not kept any more are counted, and the count is said wherever receipts are shown.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tripleweb.change import DELETED
from tripleweb.session import Session
from tripleweb.terms import from_wire

if TYPE_CHECKING:
    import pandas as pd

OFFSET_MS = 30_000  # a clock that is wrong by more is worth a word

WHAT = {"subject": "s", "predicate": "s", "value": ""}
_RECEIPTS = {"time": "d", **WHAT, "outcome": "s", "by": "s", "reason": "s"}


@dataclass(frozen=True, slots=True)
class Status:
    """How a store stands. `state` is one of `local connecting online offline refused`, `pending` counts the
    transactions whose fate the server has not decided and made durable, `reason` says why it is not online, `warning`
    what is wrong all the same."""

    state: str
    pending: int
    server: str
    app: str
    user: str
    reason: str = ""
    warning: str = ""

    @classmethod
    def of(cls, session: Session) -> Status:
        """How a session stands now; waits for nobody's transaction."""
        core, state = session.core, session.state
        reason = "" if state in ("online", "local") else core.reason
        wrong = clock_words(core.offset_ms)
        return cls(state, core.pending, session.url, session.app, core.user, reason, wrong)

    def __repr__(self) -> str:
        words = [self.state]
        if self.app:
            words.append(f"{self.app} at {self.server}" + (f" as {self.user}" if self.user else ""))
        words.append(pending_words(self.pending) or "0 writes pending")
        said = "; ".join(filter(None, (self.reason, self.warning)))
        return f"<tripleweb: {', '.join(words)}{f' ({said})' if said else ''}>"

    def _repr_html_(self) -> str:
        shown = {"app": self.app, "server": self.server, "user": self.user}
        shown |= {"pending": str(self.pending), "reason": self.reason, "warning": self.warning}
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{name}</th><td {left}>{html.escape(text)}</td></tr>"
            for name, text in shown.items()
            if text
        )
        colour = {"online": "#2e7d32", "local": "#2e7d32", "refused": "#c62828"}.get(self.state, "#b26a00")
        dot = f"<span style='color:{colour}'>●</span>"
        return f"<div>{dot} tripleweb: <b>{html.escape(self.state)}</b><table>{rows}</table></div>"


def pending_words(count: int) -> str:
    """How many writes wait, in words; "" for none.

    >>> pending_words(1), pending_words(1_200), pending_words(0)
    ('1 write pending', '1,200 writes pending', '')
    """
    return f"{count:,} write{'s' if count > 1 else ''} pending" if count else ""


def foot(session: Session) -> str:
    """How a store stands, in the foot of a table: its state, and away from the server what waits there; "" for one
    without a server."""
    state = session.state
    if state in ("local", "online"):
        return state.removeprefix("local")
    return " · ".join(filter(None, (state, pending_words(session.core.pending))))


def clock_words(offset_ms: int) -> str:
    """What is to be said of the clock of this machine, which the server's is ahead of by so much; "" for nothing.

    >>> clock_words(-7_200_000)
    "the clock here is 2 hours ahead of the server's; writes are stamped by the server's"
    """
    off = abs(offset_ms)
    if off <= OFFSET_MS:
        return ""
    units = {"year": 31_536_000_000, "day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1_000}
    unit, size = next((unit, size) for unit, size in units.items() if off * 1.02 >= size)
    count = round(off / size)
    amount = f"{count:,} {unit}{'s' if count > 1 else ''}"
    where = "behind" if offset_ms > 0 else "ahead of"
    return f"the clock here is {amount} {where} the server's; writes are stamped by the server's"


def receipts(session: Session) -> pd.DataFrame:
    """A row for each value whose fate is decided, oldest first; `attrs["tripleweb"]["forgotten"]` counts those that did
    not stand and are not kept any more."""
    from tripleweb.frame import result_frame

    with session.lock:
        fates, forgotten = list(session.fates), session.outcomes.forgotten
    rows = []
    for f in fates:
        what = ("", None) if f.predicate == DELETED else (f.predicate, from_wire(*f.value))
        rows.append((_moment(f.time), f.subject, *what, f.outcome, f.by, f.reason))
    return result_frame(tuple(_RECEIPTS), rows, kinds=_RECEIPTS, attrs={"forgotten": forgotten})


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
