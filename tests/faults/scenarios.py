"""Real faults, one function each: what happens to a party of real processes, which is then judged.

Each returns what it cost. `seed` decides all that is random here.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.faults.figures import FIGURES, Figures, longest
from tests.faults.party import APP, QUICK, Party
from tests.faults.processes import TOKEN, Process, Server, let_pass, wait_until
from tests.faults.proxy import Proxy
from tripleweb.storage.sqlite import file_name

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
PING_S = 1.0  # of a server whose laptops sleep for some seconds only


def killed(folder: Path, seed: int) -> Figures:
    """kill -9 of the server, ten times at random moments, under 12 writers and 4 readers; five times a writer's
    machine is lost with it."""
    rng = random.Random(seed)
    with Server(folder / "server") as server, Party(server, folder) as party:
        for name, readers in (("a", 2), ("b", 1), ("c", 1)):
            party.crowd(name, 4, readers, pause=0.15)
        lost: dict[str, Process] = {}
        for kill in range(10):
            if rng.random() < 0.7:  # else while they are still coming back
                party.wait_for_all()
            if kill % 2 == 0:
                mortal = lost[f"lost{kill}"] = party.store("writer", f"lost{kill}")
                wait_until(lambda mortal=mortal: mortal.said("flushed"), f"load, seed {seed}, kill {kill}")
            let_pass(rng.uniform(0.0, 1.2))  # the moment is drawn
            if kill % 2 == 0:
                mortal.kill()
                for path in folder.glob(f"lost{kill}*"):
                    path.unlink()
            party.restart_server(rng.choice((0.0, 0.0, 1.0)))
        mortals = {name: max(mortal.said("flushed")) for name, mortal in lost.items()}
        return party.judge("kill -9 of the server, 10 times", f"seed {seed}", mortals)


def disk_full(folder: Path, seed: int) -> Figures:
    """The server's disk takes no more for a while, three times, under load."""
    with Server(folder / "server") as server, Party(server, folder) as party:
        party.crowd("a", 3, 1)
        party.crowd("b", 3, 1)
        for _ in range(3):
            party.wait_for_all()
            begin = time.monotonic()
            server.process.ask("room", bytes=1)
            party.wait_for_writes(30)  # they go on
            server.process.ask("room", bytes=-1)
            party.outage(begin, time.monotonic())
        party.wait_for_all()
        return party.judge("the server's disk is full, 3 times", f"seed {seed}")


def cut(folder: Path, seed: int) -> Figures:
    """All connections are cut within a frame, again and again; now and then all is slow and comes in small pieces."""
    rng = random.Random(seed)
    with (
        Server(folder / "server") as server,
        Proxy(server.url, seed) as proxy,
        Party(server, folder, url=proxy.url) as party,
    ):
        party.crowd("a", 4, 2, pace=QUICK)
        party.crowd("b", 4, 2, pace=QUICK)
        for turn in range(8):
            party.wait_for_all()
            wait_until(lambda: proxy.standing == 12, f"seed {seed}, turn {turn}: all are there again")
            proxy.delay, proxy.piece = rng.choice(((0.0, 4096), (0.02, 4096), (0.0, 16), (0.001, 200)))
            before = proxy.cuts
            proxy.cut()
            wait_until(
                lambda before=before: proxy.cuts >= before + 8, f"seed {seed}, turn {turn}: they are cut"
            )
        proxy.delay, proxy.piece = 0.0, 4096
        party.wait_for_all()
        return party.judge("sockets cut within a frame", f"seed {seed}")


def half_open(folder: Path, seed: int, *, usual: bool = False) -> Figures:
    """Connections that stay open and pass nothing on, as when a cable is pulled. `usual`: with the times that links
    and servers have, not with short ones."""
    with (
        Server(folder / "server", ping_s=None if usual else PING_S) as server,
        Proxy(server.url, seed) as proxy,
        Party(server, folder, url=proxy.url) as party,
    ):
        options = {} if usual else {"pace": QUICK}
        party.crowd("a", 3, 1, **options)
        party.crowd("b", 3, 1, **options)
        for turn in range(1 if usual else 3):
            party.wait_for_all(180)
            wait_until(lambda: proxy.standing == 8, f"seed {seed}, turn {turn}: all are there again", 180)
            assert proxy.freeze() == 8
        party.wait_for_all(180)
        wait_until(lambda: proxy.standing == 8, f"seed {seed}: all are there again", 180)
        return party.judge(f"half-open connections{', usual times' if usual else ''}", f"seed {seed}")


def clocks(folder: Path, seed: int) -> Figures:
    """The clocks of server and clients jump by an hour or a year, forwards and backwards, under load."""
    rng = random.Random(seed)
    with Server(folder / "server") as server, Party(server, folder) as party:
        jumping, _ = party.crowd("a", 3, 1), party.crowd("b", 3, 1)
        jumps = [
            (at_server, by) for at_server in (True, False) for by in (HOUR_MS, -HOUR_MS, YEAR_MS, -YEAR_MS)
        ]
        rng.shuffle(jumps)
        for number, (at_server, by) in enumerate(jumps):
            party.wait_for_writes(20)
            (server.process if at_server else jumping).ask("clock", ahead_ms=by)
            if number % 3 == 2:  # all say hello again, to a server whose clock is right
                party.restart_server()
            party.wait_for_all()
        for who in (server.process, jumping):
            who.ask("clock", ahead_ms=0)
        party.wait_for_all()
        return party.judge("clocks jump by an hour and a year", f"seed {seed}")


def asleep(folder: Path, seed: int) -> Figures:
    """A laptop sleeps for longer than anybody waits for its answer, others write on; the second time the server is
    another one when it wakes up, the third time its connection is gone without a word."""
    with (
        Server(folder / "server", ping_s=PING_S) as server,
        Proxy(server.url, seed) as proxy,
        Party(server, folder) as party,
    ):
        party.crowd("b", 3, 1, pace=QUICK)
        party.url = proxy.url
        laptop = party.crowd("laptop", 3, 2, pace=QUICK)
        for turn in range(3):
            party.wait_for_all()
            begin = time.monotonic()
            laptop.stop()
            try:
                let_pass(2.5 * PING_S)
                if turn == 1:
                    party.restart_server()
                elif turn == 2:
                    proxy.freeze()
            finally:
                laptop.go_on()
            party.outage(begin, time.monotonic(), of=laptop)
        party.wait_for_all()
        return party.judge("a laptop sleeps, 3 times", f"seed {seed}")


def herd(folder: Path, seed: int, count: int = 200) -> Figures:
    """The server is killed and started again, and 200 clients come back at once; three times."""
    name = f"{count} clients come back at once, 3 times"
    with Server(folder / "server") as server, Party(server, folder) as party:
        party.crowd("a", 3, 2, pause=0.3)
        with Process("flock", server.url, TOKEN, APP, str(count)) as flock:
            party.clients += flock.answer()

            def all_there() -> None:
                wait_until(lambda: flock.ask("joined") == count, f"seed {seed}: all {count} are there")

            for _ in range(3):
                all_there()
                party.wait_for_all()
                party.restart_server()
            all_there()
            party.wait_for_all()
            waits = flock.ask("waits")
            figures = party.judge(name, f"seed {seed}")
            all_there()
            items = sorted([e, by, n] for e, by, n in party.items())
            wait_until(
                lambda: flock.ask("seen") == [[items, party.counts, count]],
                f"seed {seed}: all {count} hold the same",
            )
        figures = replace(figures, unseen=max(figures.unseen, longest(waits, party.outages)))
        FIGURES[name] = figures
        return figures


def damaged(folder: Path, seed: int) -> Figures:
    """The file of one app is damaged while the server is dead: it is put back to the server's own backup, what that
    had not seen comes again from whoever wrote it, and another app goes on as if nothing had been."""
    rng = random.Random(seed)
    data = folder / "server"

    def spoil(app: str) -> None:
        path = data / file_name(app)
        with closing(
            sqlite3.connect(path)
        ) as connection:  # else what is damaged may stand in the log beside it
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            for page in range(0, path.stat().st_size // 4096, 2):
                file.seek(4096 * page + rng.randrange(2_000))
                file.write(rng.randbytes(2_000))

    with (
        Server(data, backup_s=1.0) as server,
        Party(server, folder) as party,
        Party(server, folder, app="other") as others,
    ):
        party.crowd("a", 3, 2)
        others.crowd("o", 2, 1)
        for turn in range(2):
            before = set(data.glob(f"backups/{APP}/*"))
            wait_until(
                lambda before=before: set(data.glob(f"backups/{APP}/*.backup.sqlite")) - before,
                f"seed {seed}, turn {turn}: the server makes a backup by itself",
            )
            party.wait_for_all()
            begin = time.monotonic()
            party.restart_server(meanwhile=lambda: spoil(APP))
            others.outage(begin, time.monotonic())
            party.wait_for_all()
            others.wait_for_all()
        aside = sorted(path.name for path in data.glob("*"))
        assert sum(".aside" in name for name in aside) >= 2, f"seed {seed}: nothing was damaged: {aside}"
        figures = party.judge("a damaged file, twice", f"seed {seed}")
        others.judge("… and another app beside it", f"seed {seed}")
        return figures


FAULTS: dict[str, Callable[[Path, int], Figures]] = {
    fault.__name__: fault for fault in (killed, disk_full, damaged, cut, half_open, clocks, asleep, herd)
}


def seed_of_today() -> int:
    """Where a run of this is not to be the same as the last one; TRIPLEWEB_FAULT_SEED does one again."""
    return int(os.environ.get("TRIPLEWEB_FAULT_SEED") or random.SystemRandom().randrange(1 << 30))
