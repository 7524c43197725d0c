"""Where a client keeps its replicas on this machine: by server, app and user, one file for each running session.

    servers.json              address -> the id of the server that answered there last, and who one was to it
    SERVER/APP/USER/          replica files
    unknown/ADDRESS/APP/      likewise, of a server that was never reached and so has no id yet

Names of folders are readable but for people only: a digest makes them unique and safe on every file system. Invariant:
a replica is only ever given to a session of the server and the user that it belongs to, as far as they are known;
files of a server that was unknown move to their place once it is known and nobody holds them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.ids import nano_id
from tripleweb.storage.file import OwnerLock
from tripleweb.storage.replica import ENDING, Durability, ReplicaFile, adopt, unsent

Identity = tuple[str, str]  # server id, user


class Shelf:
    """The replicas under `root`. Sessions of several processes may use it at the same time."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def identity(self, url: str) -> Identity | None:
        """Which server answered at an address the last time, and who one was; None if it was never reached."""
        held = self._servers().get(url)
        return (held[0], held[1]) if held else None

    def remember(self, url: str, identity: Identity) -> None:
        """Notes who answered at an address."""
        servers = self._servers()
        if servers.get(url) == list(identity):
            return
        servers[url] = list(identity)
        path = self.root / "servers.json"
        draft = path.with_suffix(f".{os.getpid()}-{nano_id(os.urandom, 6)}")
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_text(json.dumps(servers, indent=1), encoding="utf-8")
            os.replace(draft, path)
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error

    def adopt(
        self, url: str, app: str, identity: Identity | None, durability: Durability = "process"
    ) -> ReplicaFile:
        """A replica of an app that no running session holds, unsent writes first, or a new one.

        `identity` None: the server does not answer, and what is remembered of its address counts. Raises
        `StorageError` for a damaged file.
        """
        identity = identity or self.identity(url)
        waiting = self.root / "unknown" / _name(url) / _name(app)
        if identity is None:
            return adopt(waiting, durability)
        home = self._home(app, identity)
        if waiting.is_dir():
            self._bring(waiting, home, identity)
        return adopt(home, durability)

    def unsent(self, app: str, identity: Identity, besides: Collection[str] = ()) -> ReplicaFile | None:
        """A replica with unsent writes that no running session holds and that is not at one of the paths `besides`."""
        home = self._home(app, identity)
        return unsent(home, besides) if home.is_dir() else None

    def _home(self, app: str, identity: Identity) -> Path:
        server, user = identity
        return self.root / _name(server) / _name(app) / _name(user)

    def _bring(self, waiting: Path, home: Path, identity: Identity) -> None:
        """Moves the files of `waiting` that belong to `identity`, or to nobody yet, and that nobody holds."""
        choosing = OwnerLock(waiting / "adopt.lock", waiting, wait=10)
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(waiting.glob("*" + ENDING)):
                try:
                    replica = ReplicaFile(path)
                except StoreLockedError:
                    continue
                try:
                    meta = replica.load().meta
                finally:
                    replica.close()
                if meta.get("server", "") in ("", identity[0]) and meta.get("user", "") in ("", identity[1]):
                    os.replace(path, home / path.name)
                    with suppress(FileNotFoundError):
                        Path(f"{path}.lock").unlink()
        except OSError as error:
            raise StorageError(f"{waiting}: {error}") from error
        finally:
            choosing.release()

    def _servers(self) -> dict[str, list[str]]:
        path = self.root / "servers.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{path} cannot be read ({error}); without it, replicas are only found online"
            ) from error
        return {url: pair for url, pair in held.items() if isinstance(pair, list) and len(pair) == 2}


def _name(text: str) -> str:
    """A folder's name for any text.

    >>> _name("My.App")
    'my-app-feaec90644'
    """
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:30]
    return f"{readable}-{sha256(text.encode()).hexdigest()[:10]}".lstrip("-")
