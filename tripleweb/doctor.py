"""Why does it not connect? `%tripleweb doctor` asks the questions that a colleague would, in their order.

Each finding says what was looked at, whether it is well, and how to mend it if not. Invariants: looking changes
nothing and starts nothing; no token is shown; what cannot be found out is said to be so.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tripleweb import __version__, discovery, places
from tripleweb.discovery import EMBEDDED, MACHINE, PARENT, Info, Place, Unreachable
from tripleweb.errors import NoServerError, StorageError, StoreLockedError
from tripleweb.storage.file import OwnerLock
from tripleweb.sync.messages import PROTOCOL

if TYPE_CHECKING:
    from tripleweb.status import Status

EXTENSION = "tripleweb_jupyter"
CLOCK_OFF_S = 60
_SIGNS = {"well": ("✓", "#2e7d32"), "note": ("!", "#b26a00"), "ill": ("✗", "#c62828")}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found: `state` is "well", "note" (worth knowing) or "ill"; `advice` says how to mend it."""

    state: Literal["well", "note", "ill"]
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found; it shows itself as text and as HTML.

    >>> print(Report((Finding("well", "a server answers"), Finding("ill", "no token", "give token="))))
    ✓ a server answers
    ✗ no token
        give token=
    """

    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """True if nothing needs to be mended."""
        return all(finding.state != "ill" for finding in self.findings)

    def __repr__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{_SIGNS[finding.state][0]} {finding.found}")
            lines += [f"    {line}" for line in finding.advice.splitlines()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        left = "style='text-align:left;vertical-align:top;white-space:pre-wrap'"
        rows = []
        for finding in self.findings:
            sign, colour = _SIGNS[finding.state]
            advice = f"<br><i>{html.escape(finding.advice)}</i>" if finding.advice else ""
            rows.append(
                f"<tr><td {left}><b style='color:{colour}'>{sign}</b></td>"
                f"<td {left}>{html.escape(finding.found)}{advice}</td></tr>"
            )
        return f"<table>{''.join(rows)}</table>"


def examine(
    url: str | None = None,
    token: str | None = None,
    *,
    status: Status | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Report:
    """Looks at everything between this process and the server that `connect` would find. `status` is that of the
    store that is open already, if there is one. Raises `ValueError` for what is no address."""
    findings = [Finding("well", f"tripleweb {__version__} in {sys.prefix} (Python {sys.version.split()[0]})")]
    findings += _folder(environment)
    if url == EMBEDDED:
        findings += _data_folder(environment)
    else:
        findings += _server(url, token, environment)
    if status is not None:
        findings += _store(status)
    return Report(tuple(findings))


def _folder(environment: Mapping[str, str]) -> Iterator[Finding]:
    folder = places.data_dir(environment)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        yield Finding(
            "ill",
            f"the data folder {folder} cannot be written to: {error.strerror or error}",
            "Replicas are kept there. Make it writable, or set TRIPLEWEB_DATA to another folder.",
        )
    else:
        yield Finding("well", f"data folder: {folder}")


def _server(url: str | None, token: str | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        place = discovery.find(url, token, environment)
    except NoServerError:
        yield from _nobody(environment)
        return
    try:
        info = discovery.ask(place)
    except Unreachable as error:
        yield Finding("note", f"server: {place.url} (from {place.source})")
        yield from _unreachable(place, error, environment)
        return
    yield Finding("well", f"server: {place.url} (from {place.source}), where you are {info.user}")
    yield from _agreement(info)


def _nobody(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Nobody told of a server."""
    pid = environment.get("JPY_PARENT_PID", "")
    if pid.isdecimal() and places.is_alive(int(pid)):
        yield Finding(
            "ill", f"the Jupyter server of this kernel (process {pid}) has no tripleweb", _mend(pid)
        )
        return
    locked = list(_data_folder(environment))
    yield from locked
    if all(finding.state == "well" for finding in locked):
        yield Finding(
            "ill",
            "no server is known here, and no Jupyter server started this kernel",
            "Run `tripleweb serve` on this machine, or give url= and token= of a server (or set TRIPLEWEB_URL and "
            'TRIPLEWEB_TOKEN),\nor connect with url="embedded", which runs a server in this process.',
        )


def _data_folder(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Is the folder of a server on this machine free?"""
    folder = places.data_dir(environment) / "server"
    if (held := places.announced(folder)) is not None:
        yield Finding("well", f"{folder} is served by process {held['pid']} at {held['url']}")
        return
    lock = folder / "server.lock"
    if not lock.exists():
        yield Finding("well", f"{folder} is free")
        return
    try:
        OwnerLock(lock, folder).release()
    except StoreLockedError as error:
        yield Finding(
            "ill",
            f"{error}; it left no address to reach it",
            "It may be starting or ending: try again. Else it listens on a Unix socket, gives its kernels no grants "
            "(c.TripleWeb.kernel_grants),\nor runs on another machine that shares this folder. End it, or set "
            "TRIPLEWEB_DATA to another folder.",
        )
    except StorageError as error:
        yield Finding(
            "ill", f"the data folder of the server cannot be used: {error}", "Mend its permissions."
        )
    else:
        yield Finding("well", f"{folder} is free")


def _unreachable(place: Place, error: Unreachable, environment: Mapping[str, str]) -> Iterator[Finding]:
    said = str(error)
    pid = environment.get("JPY_PARENT_PID", "")
    if place.source == PARENT and error.lacks_us(place):
        yield Finding(
            "ill", f"the Jupyter server of this kernel (process {pid}) has no tripleweb", _mend(pid)
        )
    elif error.status in (401, 403):
        yield Finding("ill", f"it refuses the token: {said}", _TOKENS.get(place.source, _TOKENS["url="]))
    elif error.status == 404:
        yield Finding("ill", f"it has no tripleweb: {said}", _mend(""))
    elif error.status == 503:
        yield Finding(
            "ill",
            f"it has tripleweb, but not its data: {said}",
            "Another server may have the data folder: end that one, or give this server a folder of its own "
            "(c.TripleWeb.data_dir) and restart it.\nIts log says more.",
        )
    elif error.status:
        yield Finding(
            "ill", f"it answers something else: {said}", "Is the address right? Its log may say more."
        )
    else:
        yield Finding(
            "ill",
            said,
            "Is it running, and the address right? Until it is back, what you write is kept and sent later.",
        )


_TOKENS = {
    "url=": "Give token= as that server has it: the one in the address that it prints when it starts, or one made for "
    "you.\nOn a server with a password, connect from its own kernels without url=.",
    "TRIPLEWEB_URL": "TRIPLEWEB_TOKEN is not (or no longer) valid there. In a kernel: restart it. Where you set the "
    "variables yourself: set them anew.",
    "JupyterHub": "The Hub's token in this environment has expired: restart your server in the Hub's control panel.",
    MACHINE: "That server was just started again, or its word is out of date: try again.",
}


def _agreement(info: Info) -> Iterator[Finding]:
    if info.protocol != PROTOCOL:
        older = "here" if info.protocol > PROTOCOL else "there"
        yield Finding(
            "ill",
            f"the server speaks version {info.protocol} of the protocol (tripleweb {info.version}), we {PROTOCOL}",
            f"Upgrade tripleweb {older}: pip install --upgrade tripleweb, then restart that side.",
        )
    elif info.version != __version__:
        yield Finding(
            "note", f"the server has tripleweb {info.version}, we {__version__}; they understand each other"
        )
    if abs(info.ahead_s) > CLOCK_OFF_S:
        way = "ahead of" if info.ahead_s > 0 else "behind"
        yield Finding(
            "note",
            f"the clock of this machine is {abs(info.ahead_s):,.0f} s {way} the server's",
            "Writes are stamped by the server's clock, so that nothing is lost; yet set the clock that is wrong "
            "(timedatectl set-ntp true).",
        )


def _store(status: Status) -> Iterator[Finding]:
    ways = {
        "offline": "Your writes are kept. If you went offline yourself: %tripleweb online",
        "refused": "Connect again once this is mended: %tripleweb connect " + status.app,
        "connecting": "Wait a moment, and look again.",
    }
    state: Literal["well", "note", "ill"] = "well" if status.state not in ways else "note"
    yield Finding(
        "ill" if status.state == "refused" else state, f"db: {status!r}", ways.get(status.state, "")
    )


# -- the server's side ---------------------------------------------------------------------------------------------


def _mend(pid: str) -> str:
    """How to get tripleweb into a Jupyter server; `pid` is its process, "" if it is not on this machine."""
    command = command_of(pid) if pid else []
    python = Path(command[0]) if command else Path()
    if not python.is_absolute():
        return (
            "Install tripleweb where that server runs (pip install tripleweb), and restart it: "
            f"`jupyter server extension list` there shows {EXTENSION}."
        )
    there, here = python.parent.parent, Path(sys.prefix)
    if not (there.exists() and there.samefile(here)):
        if not list(there.glob("lib/python*/site-packages/tripleweb*")):
            return (
                f"That server runs in another environment, {there}, which has no tripleweb:\n"
                f"{python} -m pip install tripleweb, then restart the server."
            )
        return (
            f"That server runs in another environment, {there}, where tripleweb is installed but not loaded:\n"
            f"restart the server; if that does not help: {python} -m jupyter server extension enable {EXTENSION}"
        )
    if not is_enabled():
        return (
            f"Its extension is switched off: {python} -m jupyter server extension enable {EXTENSION}, then restart "
            "the server."
        )
    return (
        "The extension is installed and enabled, so the server was started before that: restart the server."
    )


def command_of(pid: str) -> list[str]:
    """The command line of a process on this machine; empty if that cannot be found out."""
    try:
        if sys.platform == "linux":
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        listed = ["ps", "-o", "command=", "-p", pid]
        return subprocess.run(listed, capture_output=True, text=True, timeout=5, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


def is_enabled() -> bool:
    """True if Jupyter servers of this environment load the extension."""
    from jupyter_core.paths import jupyter_config_path
    from jupyter_server.extension.config import ExtensionConfigManager

    config: Any = ExtensionConfigManager(read_config_path=jupyter_config_path())
    return bool(config.get_jpserver_extensions("jupyter_server_config").get(EXTENSION))
