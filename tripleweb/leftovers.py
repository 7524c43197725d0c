"""Unsent writes in replica files that no session has open, as killed kernels leave them: sent beside a running store.

A store takes up one such file when it is opened. If there are more, a thread takes them one after the other while the
store is online: each is opened as what it is, with its own identity, so that all is exactly once, and closed when
everything in it is decided. What became of its writes is told by the running store: `receipts`, `notices`.

Invariants: nothing is sent while the store is offline by choice or closed; nothing is deleted; a file that the server
does not want, or that cannot be read, is left as it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from tripleweb.errors import TriplewebError
from tripleweb.session import Session
from tripleweb.storage.replica import ReplicaFile
from tripleweb.sync.records import LocalCommit

log = logging.getLogger("tripleweb")

TURN_S = 0.5  # between two looks whether the store still runs

Find = Callable[[Collection[str]], ReplicaFile | None]


def send(session: Session, find: Find, begin: Callable[[ReplicaFile], Session]) -> None:
    """Sends, on a thread of its own, what the files have that `find` gives: one with unsent writes that nobody has open
    and that is not among the given paths, or None. `begin` makes a session of one, and connects it."""
    name = f"tripleweb-leftovers-{session.app}"
    threading.Thread(target=_send_all, args=(session, find, begin), name=name, daemon=True).start()


def _send_all(session: Session, find: Find, begin: Callable[[ReplicaFile], Session]) -> None:
    done: set[str] = set()
    try:
        while not session.closed:
            if not session.wait_for(lambda: session.closed or _is_online(session), TURN_S) or session.closed:
                continue
            replica = find(done)
            if replica is None:
                return
            helper = begin(replica)
            if _send_one(session, helper):
                done.add(replica.path)
    except TriplewebError as error:
        log.warning("what dead sessions of %s left is not sent now: %s", session.app, error)


def _is_online(session: Session) -> bool:
    return session.core.state == "online"


def _send_one(session: Session, helper: Session) -> bool:
    """True if there is nothing more to be done about a file."""
    known, is_refused = len(helper.fates), False
    try:
        while helper.core.pending and not is_refused and not session.closed and _is_online(session):
            helper.wait_for(lambda: not helper.core.pending or helper.core.state == "refused", TURN_S)
            is_refused = helper.core.state == "refused"
    finally:
        with helper.lock:
            fates, rejected = helper.fates[known:], helper.take_rejected()
        helper.close(0)
    with session.lock:
        if fates and not session.closed:
            commit = LocalCommit(fates=fates)
            session.outcomes.inherit(commit, rejected)
            session.save_received(commit)
            session.changed.notify_all()
    return is_refused or not helper.core.pending
