"""The command line: a server without Jupyter, for scripts, IPython and editors on this machine; and care of its data.

    tripleweb serve [--data DIR] [--port N] [--history-days N] [--history-bytes N]
                    [--backup-every HOURS] [--backups-kept N] [--unseen-days N]
    tripleweb apps | backup APP FILE | restore APP FILE | check [APP] | compact APP
                                                                   [--data DIR | --url URL --token TOKEN]
    tripleweb export APP FILE | import APP FILE  [--data DIR | --url URL --token TOKEN]

`care` and `ferry` say what the latter do. The server listens on loopback only, keeps its apps in DIR (by default where
the Jupyter extension keeps them), and leaves word of its address and token in that folder, readable by this user alone,
where `tripleweb.connect` finds it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tripleweb import __version__, care, ferry, places
from tripleweb.errors import TriplewebError
from tripleweb.sync.server import Limits
from tripleweb.tenant import HubLimits

_HOUR_S, _DAY_S = 3_600, 86_400
_DAYS_MAX = 1_000_000  # what is more would be no moment any more


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for what went wrong, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="tripleweb", description="The collaborative data layer for Jupyter."
    )
    parser.add_argument("--version", action="version", version=f"tripleweb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run a server without Jupyter, on loopback")
    serve.add_argument("--data", type=Path, default=None, metavar="DIR", help="where the apps are kept")
    serve.add_argument("--port", type=_port, default=0, metavar="N", help="the port; a free one by default")
    limits = HubLimits()
    serve.add_argument(
        "--history-days",
        type=_amount,
        default=limits.log_s / _DAY_S,
        metavar="N",
        help="days of its history that the log of an app has (%(default)g)",
    )
    serve.add_argument(
        "--history-bytes",
        type=_count,
        default=limits.log_bytes_max,
        metavar="N",
        help="bytes that it has at most (%(default)d); the newest 20,000 transactions stay in any case",
    )
    serve.add_argument(
        "--backup-every",
        type=_amount,
        default=limits.backup_every_s / _HOUR_S,
        metavar="HOURS",
        help="between two backups of an app that changes, in `backups` in the data folder (%(default)g); 0: none",
    )
    serve.add_argument(
        "--backups-kept",
        type=_some,
        default=limits.backups_kept,
        metavar="N",
        help="how many of these are kept of each app (%(default)d)",
    )
    serve.add_argument(
        "--unseen-days",
        type=_amount,
        default=Limits().unseen_ms / 1_000 / _DAY_S,
        metavar="N",
        help="days without a word of a session, after which only what became of its writes is kept (%(default)g)",
    )
    care.add_commands(commands)
    ferry.add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command in ferry.COMMANDS:
            return ferry.run(options)
        if options.command != "serve":
            return care.run(options)
        limits = HubLimits(
            log_s=options.history_days * _DAY_S,
            log_bytes_max=options.history_bytes,
            backup_every_s=options.backup_every * _HOUR_S,
            backups_kept=options.backups_kept,
        )
        core_limits = Limits(unseen_ms=int(options.unseen_days * _DAY_S * 1_000))
        return _serve(options.data or places.server_dir(), options.port, limits, core_limits)
    except (TriplewebError, OSError, OverflowError, ValueError, ImportError) as error:
        print(f"tripleweb: {error}", file=sys.stderr)
        return 1


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:  # the system would take the remainder
        raise argparse.ArgumentTypeError(f"a port is a number up to 65535, not {text}")
    return int(text)


def _amount(text: str) -> float:
    number = float(text) if text.replace(".", "", 1).isdecimal() else -1.0
    if not 0 <= number <= _DAYS_MAX:
        raise argparse.ArgumentTypeError(f"a number from 0 to {_DAYS_MAX:,}, not {text}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"a whole number from 0 on, not {text}")
    return int(text)


def _some(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("at least 1 is kept; --backup-every 0 makes none")
    return int(text)


def _serve(folder: Path, port: int, limits: HubLimits, core_limits: Limits) -> int:
    from tripleweb.storage.sqlite import SqliteStores
    from tripleweb.web import WebServer

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with WebServer(SqliteStores(folder), port=port, limits=limits, core_limits=core_limits) as server:
        server.announce(folder)
        try:
            print(f"tripleweb {__version__} serves {folder} at {server.url} (Ctrl-C ends it)", flush=True)
            while not ended.wait(3600):
                pass
        finally:
            places.withdraw(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
