"""Who may come in, and what they may do in an app.

A *grant* is what a token opens: tripleweb's endpoints, for one user, and nothing else of the server that handed it
out. Tokens are 258 random bits; only their digest is kept, and it is what is looked up, so that neither the time a
look-up takes nor this process's memory tells anything about a token. A grant that `relays` is for another server of
the same person, which has asked for itself who is speaking and is believed.

A *role* is reader, writer or admin of one app. On a personal server its owner is admin of every app, and everyone else
who is authenticated is a writer unless the app's members say otherwise (`BARRED` keeps somebody out). On a shared
server only members come in, and its administrators, who are admins of every app. Unknown apps are created by whoever
may create them: `auto_create`, which by default is so on a personal server; elsewhere by administrators only.

Invariants: a revoked token opens nothing; who somebody is never comes from what they say about themselves.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from tripleweb.ids import RandomBytes, nano_id
from tripleweb.storage import App

ROLES = ("reader", "writer", "admin")
WRITING = ("writer", "admin")
BARRED = (
    ""  # stands in an app's members for one who has no role there, where others have one without being named
)

_TOKEN_LENGTH = 43
_TOKEN_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for. `session` is "" where several kernels share the token: each connection is one then."""

    user: str
    label: str = ""
    session: str = ""
    notebook: str = ""
    kernel: str = ""
    relays: bool = False


class Access:
    """The grants and roles of one server. `apps` is its registry, read at each question."""

    def __init__(
        self,
        owner: str,
        apps: Mapping[str, App],
        *,
        personal: bool = True,
        administrators: Collection[str] = (),
        auto_create: bool | None = None,
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        self.owner = owner
        self.personal = personal
        self.auto_create = personal if auto_create is None else auto_create
        self._administrators = frozenset(administrators) | ({owner} if personal else frozenset())
        self._apps = apps
        self._random_bytes = random_bytes
        self._grants: dict[bytes, Grant] = {}  # by the digest of the token

    def take_over(self, apps: Mapping[str, App]) -> None:
        """From now on `apps` is the registry; grants stay."""
        self._apps = apps

    # -- grants ------------------------------------------------------------------------------------------------

    def mint(
        self, user: str, *, label: str = "", notebook: str = "", shared: bool = False, relays: bool = False
    ) -> str:
        """A new token for `user`. Not `shared`: for one kernel or page, which so has a session of its own.

        >>> access = Access("ada", {})
        >>> access.grant(access.mint("ada", notebook="a.ipynb")).notebook
        'a.ipynb'
        """
        session = "" if shared else nano_id(self._random_bytes, 12)
        token = nano_id(self._random_bytes, _TOKEN_LENGTH)
        return self.accept(token, Grant(user, label, session, notebook, relays=relays))

    def accept(self, token: str, grant: Grant) -> str:
        """Has a token that was made elsewhere stand for `grant`; returns the token.

        Raises `ValueError` for one that is too short to be a secret.
        """
        if not 8 <= len(token) <= _TOKEN_LENGTH_MAX:
            raise ValueError(f"a token has 8 to {_TOKEN_LENGTH_MAX} characters")
        self._grants[_digest(token)] = grant
        return token

    def grant(self, token: str) -> Grant | None:
        """What a token stands for; None if nothing."""
        return self._grants.get(_digest(token)) if len(token) <= _TOKEN_LENGTH_MAX else None

    def bind(self, token: str, kernel: str) -> None:
        """Notes the kernel that a token was given to. What it had before is for the same notebook from now on."""
        key = _digest(token)
        held = self._grants.get(key)
        if held is not None:
            for other, grant in self._grants.items():
                if other == key or grant.kernel == kernel:
                    self._grants[other] = replace(grant, kernel=kernel, notebook=held.notebook)

    def revoke(self, token: str) -> Grant | None:
        """From now on the token opens nothing; returns what it stood for."""
        return self._grants.pop(_digest(token), None)

    def sweep(self, alive: Callable[[str], bool]) -> list[Grant]:
        """Revokes the grants of kernels that are no longer `alive`, and returns them."""
        gone = [key for key, grant in self._grants.items() if grant.kernel and not alive(grant.kernel)]
        return [self._grants.pop(key) for key in gone]

    # -- roles -------------------------------------------------------------------------------------------------

    def role(self, user: str, app: str) -> str | None:
        """What `user` may be in `app`: "reader", "writer", "admin", or None: nothing at all.

        >>> access = Access("ada", {"notes": App("notes", "Notes", 0, {"bob": "reader"})})
        >>> [access.role(user, "notes") for user in ("ada", "bob", "eve")]
        ['admin', 'reader', 'writer']
        """
        if self.administers(user):
            return "admin"
        entry = self._apps.get(app)
        named = None if entry is None else entry.members.get(user)
        if named in ROLES:
            return named
        return "writer" if self.personal and named is None else None

    def administers(self, user: str) -> bool:
        """True for those to whom the whole server is open."""
        return user in self._administrators

    def may_create(self, user: str) -> bool:
        """True if `user` may make apps."""
        return self.auto_create or self.administers(user)


def owner() -> str:
    """Whose server this is: the Hub's user on a JupyterHub, elsewhere the user of the operating system."""
    return os.environ.get("JUPYTERHUB_USER") or os_user()


def os_user() -> str:
    """The name of the operating system's user: whose server this is, where nobody says otherwise."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no environment and no entry for this number, as in containers
        return f"user-{os.getuid()}" if hasattr(os, "getuid") else "user"


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
