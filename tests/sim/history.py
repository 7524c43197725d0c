"""What happened in a run, written down: it can be done again, thinned, and read.

All chance of a run is in three places. Its *options* say what kind of a run it is. Its *deeds* are what somebody did at
a moment: a user's transaction, a fault; a deed carries everything that was drawn for it. *Lots*, such as the delay of
a frame, follow from the seed, the place and the moment alone (`World.lot`). So a deed can be left out, and nothing
that does not depend on it moves; and a history done again gives the very same run.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from tests.sim.options import Options
from tripleweb.sync.client import ClientLimits
from tripleweb.sync.server import Limits


@dataclass(frozen=True)
class Deed:
    """Somebody did something: a client, the server, or the network."""

    at: int  # virtual milliseconds
    who: str
    what: str
    how: dict[str, Any]

    def __str__(self) -> str:
        told = [f"{name}={_plain(value)}" for name, value in self.how.items() if name != "operations"]
        for name, *rest in self.how.get("operations", ()):
            told.append(f"{name}({', '.join(map(_plain, rest))})")
        return f"{self.at:>6} ms  {self.who:<6} {self.what:<10} {' '.join(told)}".rstrip()


@dataclass(frozen=True)
class History:
    """A run that can be done again. `bug`: the planted bug it is about; `broken`: the promise that it breaks."""

    seed: int
    options: Options
    deeds: list[Deed]
    bug: str = ""
    broken: str = ""

    def save(self, path: Path) -> None:
        """One line for what kind of a run it is, then one for each deed, so that they can be thinned by hand."""
        lines = [replace(self, deeds=[]), *self.deeds]
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> History:
        first, *rest = path.read_bytes().splitlines()
        deeds = [msgspec.json.decode(line, type=Deed) for line in rest if line.strip()]
        return replace(msgspec.json.decode(first, type=cls), deeds=deeds)

    def __str__(self) -> str:
        options = self.options
        bounds = [*_set(options.limits, Limits()), *_set(options.client_limits, ClientLimits())]
        weather = [
            f"{name}={getattr(options.weather, name):.4g}" for name in ("delay_ms", "spike", "half_open")
        ]
        lines = [
            f"seed {self.seed}: {', '.join(f'{name} ({role})' for name, _, role in options.clients)}",
            f"  clocks {options.clocks}, a commit takes {options.commit_ms} ms, idle close {options.idle_close}",
            f"  network {'hostile' if options.hostile else 'stream'} {' '.join(weather)}",
            f"  bounds {' '.join(bounds)}",
        ]
        return "\n".join([*lines, *(f"  {deed}" for deed in self.deeds)])


def _set(bounds: Any, usual: Any) -> list[str]:
    """The bounds that are not what they usually are."""
    named = ((field.name, getattr(bounds, field.name)) for field in fields(bounds))
    return [f"{name}={value}" for name, value in named if value != getattr(usual, name)]


def _plain(value: Any) -> str:
    """A value of a deed, for people: of a value on the wire its raw part."""
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and len(value[0]) < 2
    ):
        return repr(value[1])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)
