"""What a server counts, and how it says so: the text format of Prometheus.

Counters begin at zero with the server and only grow. App IDs are labels here, so the text is for those who may see
every app.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tripleweb.sync.records import Commit

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Decided(msgspec.Struct):
    """As much of a receipt as is counted."""

    outcome: str


_decided = msgspec.json.Decoder(_Decided)


@dataclass(slots=True)
class Counts:
    """The counters of one server."""

    commits: int = 0
    accepted: int = 0  # transactions
    rejected: int = 0
    units: int = 0  # of evaluation, for queries asked over HTTP
    queries: dict[str, int] = field(default_factory=dict)  # by what became of them

    def land(self, commit: Commit) -> None:
        """A commit is on disk."""
        self.commits += 1
        for _, _, _, body in commit.receipts:
            if _decided.decode(body).outcome == "rejected":
                self.rejected += 1
            else:
                self.accepted += 1

    def ask(self, outcome: str) -> None:
        """A query came to its end."""
        self.queries[outcome] = self.queries.get(outcome, 0) + 1


class CountedLine(Protocol):
    """A connection."""

    unsent: int


class CountedApp(Protocol):
    """An open app."""

    @property
    def lines(self) -> Mapping[int, CountedLine]: ...
    @property
    def durable_seq(self) -> int: ...


def render(counts: Counts, known: int, apps: Mapping[str, CountedApp]) -> str:
    """The text for Prometheus. `known` is the number of apps of the registry, `apps` are those that are open.

    >>> print(render(Counts(commits=2), 1, {}).splitlines()[2])
    tripleweb_apps 1
    """
    lines = [line for app in apps.values() for line in app.lines.values()]
    out: list[str] = []

    def metric(name: str, kind: str, said: str, values: Iterable[tuple[str, int]]) -> None:
        out.append(f"# HELP tripleweb_{name} {said}")
        out.append(f"# TYPE tripleweb_{name} {kind}")
        out.extend(f"tripleweb_{name}{labels} {value}" for labels, value in values)

    metric("apps", "gauge", "Apps of the registry.", [("", known)])
    metric("open_apps", "gauge", "Apps that are open.", [("", len(apps))])
    metric("connections", "gauge", "Connections to apps.", [("", len(lines))])
    queued = sum(line.unsent for line in lines)
    metric("queue_bytes", "gauge", "Bytes that wait to be sent.", [("", queued)])
    metric("commits_total", "counter", "Commits made durable.", [("", counts.commits)])
    decided = [
        (_labels(outcome="accepted"), counts.accepted),
        (_labels(outcome="rejected"), counts.rejected),
    ]
    metric("transactions_total", "counter", "Transactions decided, by outcome.", decided)
    asked = [(_labels(outcome=outcome), count) for outcome, count in sorted(counts.queries.items())]
    metric("queries_total", "counter", "Queries asked over HTTP, by outcome.", asked)
    metric(
        "evaluation_units_total",
        "counter",
        "Work of queries asked over HTTP, in units.",
        [("", counts.units)],
    )
    durable = [(_labels(app=app), open_app.durable_seq) for app, open_app in sorted(apps.items())]
    metric("durable_seq", "gauge", "Number of the last durable transaction of each open app.", durable)
    return "\n".join(out) + "\n"


def _labels(**labels: str) -> str:
    """
    >>> _labels(app='a"b')
    '{app="a\\\\"b"}'
    """
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
