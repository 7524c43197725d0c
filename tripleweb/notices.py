"""A line under a cell for what nobody should miss: writes that were rejected, a server that does not let us in.

It is said once, at the end of the next cell that runs, on the kernel's main thread and into that cell's output; a cell
without news shows nothing of it. Invariants: no thread says anything; IPython is asked for only where it is loaded
already, and elsewhere nothing happens; what is said here is also in `db.receipts()` and `db.status`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from tripleweb.display import running_shell
from tripleweb.session import Session
from tripleweb.status import pending_words

_watched: weakref.WeakSet[Session] = weakref.WeakSet()
_refusals: weakref.WeakKeyDictionary[Session, str] = weakref.WeakKeyDictionary()  # which were said


def watch(session: Session) -> None:
    """From now on cells say what becomes of this store."""
    shell = running_shell()
    if shell is not None:
        _watched.add(session)
        shell.events.register("post_run_cell", _cell_ran)  # once, however often


def news(session: Session) -> Iterator[str]:
    """What there is to say of a store since this was last asked."""
    rejected = session.take_rejected()
    if count := rejected.total():
        writes, them = ("writes", "them") if count > 1 else ("write", "it")
        why = ", ".join(sorted(rejected))
        yield (
            f"tripleweb: {count:,} {writes} to {session.app} rejected ({why}) and taken back; "
            f"db.receipts() has kept {them}"
        )
    refusal = session.core.reason if session.state == "refused" and not session.closed else ""
    if refusal and _refusals.get(session) != refusal:
        waiting = pending_words(session.core.pending)
        yield f"tripleweb: {session.app} is not synced: {refusal}{f' ({waiting})' if waiting else ''}"
    _refusals[session] = refusal


def _cell_ran(*_: object) -> None:
    lines = [line for session in sorted(_watched, key=lambda each: each.app) for line in news(session)]
    if lines:
        from IPython.display import display

        display({"text/plain": "\n".join(lines)}, raw=True)
