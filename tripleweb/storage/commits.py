"""A server's commit as one statement: a row of a view, which a trigger takes apart.

Every step of SQLite's lets go of the interpreter's lock, and getting it back from a busy event loop takes up to 5 ms;
so a commit is one statement, whatever is in it. Its log, receipts, gists, replicas and names are rows as JSON, which
say where in `bodies` theirs begins and how long it is. Invariant: what is confirmed, or has a gist in its place, is
there no more as soon as the commit that says so is.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from tripleweb.storage.file import PAGE_BYTES
from tripleweb.sync.messages import encode
from tripleweb.sync.records import Commit

TAKE = "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
TAKING = """
CREATE TEMP VIEW commits AS
    SELECT NULL AS log, NULL AS receipts, NULL AS gists, NULL AS replicas, NULL AS names, NULL AS bodies, NULL AS seq,
        NULL AS time;
CREATE TEMP TRIGGER taking INSTEAD OF INSERT ON commits BEGIN
    INSERT INTO log (seq, replica, number, id, "by", at, body)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
            json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
            substr(NEW.bodies, json_extract(value, '$[6]'), json_extract(value, '$[7]'))
        FROM json_each(NEW.log);
    INSERT INTO receipts (replica, number, id, body)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
            substr(NEW.bodies, json_extract(value, '$[3]'), json_extract(value, '$[4]'))
        FROM json_each(NEW.receipts);
    INSERT INTO gists (replica, number, body)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
            substr(NEW.bodies, json_extract(value, '$[2]'), json_extract(value, '$[3]'))
        FROM json_each(NEW.gists);
    INSERT INTO replicas (replica, user, last, confirmed, time, seen)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
            json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')
        FROM json_each(NEW.replicas) WHERE true
        ON CONFLICT (replica) DO UPDATE SET user = excluded.user, last = excluded.last,
            confirmed = excluded.confirmed, time = excluded.time, seen = excluded.seen;
    DELETE FROM receipts WHERE rowid IN (
        SELECT receipts.rowid FROM json_each(NEW.gists) CROSS JOIN receipts
        WHERE receipts.replica = json_extract(value, '$[0]') AND receipts.number <= json_extract(value, '$[1]'));
    DELETE FROM receipts WHERE rowid IN (
        SELECT receipts.rowid FROM json_each(NEW.replicas) CROSS JOIN receipts
        WHERE receipts.replica = json_extract(value, '$[0]') AND receipts.number <= json_extract(value, '$[3]'));
    DELETE FROM gists WHERE rowid IN (
        SELECT gists.rowid FROM json_each(NEW.replicas) CROSS JOIN gists
        WHERE gists.replica = json_extract(value, '$[0]') AND gists.number <= json_extract(value, '$[3]'));
    INSERT OR REPLACE INTO names (name, body)
        SELECT json_extract(value, '$[0]'),
            substr(NEW.bodies, json_extract(value, '$[1]'), json_extract(value, '$[2]'))
        FROM json_each(NEW.names) WHERE json_extract(value, '$[2]') > 0;
    DELETE FROM names WHERE name IN (
        SELECT json_extract(value, '$[0]') FROM json_each(NEW.names) WHERE json_extract(value, '$[2]') = 0);
    UPDATE meta SET value = NEW.seq WHERE name = 'seq';
    UPDATE meta SET value = NEW.time WHERE name = 'time';
END"""


def scattered(commit: Commit) -> int:
    """The pages, about, on which what it alters beside the log lies."""
    replaced = sum(2 + 4 * len(body) // PAGE_BYTES for *_, body in commit.gists)  # with the receipts that go
    return (
        len({replica for replica, *_ in commit.receipts})
        + len(commit.replicas)
        + len(commit.names)
        + replaced
    )


def packed(commit: Commit) -> tuple[str, str, str, str, str, bytes, int, int]:
    """A row of the view `commits`."""
    bodies = [entry.body for entry in commit.entries]
    bodies += [body for _, _, _, body in commit.receipts]
    bodies += [body for _, _, body in commit.gists]
    bodies += [body or b"" for body in commit.names.values()]
    sizes = [len(body) for body in bodies]
    begins = accumulate(sizes, initial=1)  # as SQLite counts
    places = zip(begins, sizes, strict=False)
    log = [(e.seq, e.replica, e.number, e.id, e.by, e.at, *next(places)) for e in commit.entries]
    receipts = [(replica, number, tx, *next(places)) for replica, number, tx, _ in commit.receipts]
    gists = [(replica, number, *next(places)) for replica, number, _ in commit.gists]
    replicas = [(name, r.user, r.last, r.confirmed, r.time, r.seen) for name, r in commit.replicas.items()]
    names = [(name, *next(places)) for name in commit.names]
    return (
        *(_text(log), _text(receipts), _text(gists), _text(replicas), _text(names)),
        *(b"".join(bodies), commit.seq, commit.time),
    )


def _text(rows: list[Any]) -> str:
    return encode(rows).decode()
