"""The apps of one server: what there is, who is a member, and what that means for who is connected.

The registry on disk is the truth, `hub.apps` its image in memory, and this the one place where either is changed (a
hub that opens an app without an entry makes one, too). Invariant: a change is durable before anybody is told of it,
and from then on it holds for open connections as well as for new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tripleweb.access import BARRED, ROLES, Access
from tripleweb.hub import Hub
from tripleweb.ids import check_id, nano_id
from tripleweb.storage import App

NAME_MAX = 200
MEMBERS_MAX = 10_000


class Registry:
    """The apps of `hub`, as far as `access` lets somebody see and change them. It is used on the hub's loop."""

    def __init__(self, hub: Hub, access: Access) -> None:
        self._hub = hub
        self._access = access
        self._changing = asyncio.Lock()

    def visible(self, user: str) -> list[App]:
        """The apps in which `user` has a role, by name."""
        apps = [app for app in list(self._hub.apps.values()) if self._access.role(user, app.id) is not None]
        return sorted(apps, key=lambda app: (app.name.casefold(), app.id))

    def entry(self, app: App, user: str) -> dict[str, str | None]:
        """An app as `user` sees it."""
        return {"id": app.id, "name": app.name, "role": self._access.role(user, app.id)}

    def members(self, app: App) -> dict[str, str | None]:
        """Who is named in an app, and as what; None: as somebody without any role."""
        return {user: role if role in ROLES else None for user, role in sorted(app.members.items())}

    async def create(self, user: str, name: str | None = None, app: str | None = None) -> App:
        """A new app (or the one there is) with an id of the server's, if none is given; `user` is its admin.

        Whoever is admin by himself is not entered as a member. Raises `ValueError` for a name that is none.
        """
        async with self._changing:
            if app is not None and app in self._hub.apps:
                return self._hub.apps[app]
            made = app or nano_id(self._hub.random_bytes)
            is_named = app is None or not self._access.personal
            members = {user: "admin"} if is_named and not self._access.administers(user) else {}
            entry = App(made, made if name is None else check_name(name), self._hub.now_ms(), members)
            await self._hub.in_thread(self._hub.stores.put, entry)
            self._hub.apps[made] = entry
            return entry

    async def patch(self, app: str, name: str | None, members: Mapping[str, str | None]) -> App:
        """Gives an app another name (None: the same) and users other roles; None takes every role from one.

        Open connections go on with the new role at once, or end. Raises `ValueError`, `KeyError` for an app that is
        not there (any more).
        """
        if name is not None:
            check_name(name)
        roles: dict[str, str | None] = {}
        for user, role in members.items():
            check_id(user, "user")
            if role not in (*ROLES, None):
                raise ValueError(f"{role!r:.40} is no role: {', '.join(ROLES)} or null")
            if self._access.administers(user) and role != "admin":
                raise ValueError(f"{user} administers this server and is admin of every app")
            # without an entry, everybody may write on a personal server
            roles[user] = BARRED if role is None and self._access.personal else role
        async with self._changing:
            if len(self._hub.apps[app].members.keys() | roles.keys()) > MEMBERS_MAX:
                raise ValueError(f"an app has at most {MEMBERS_MAX:,} members")
            patched = await self._hub.in_thread(self._hub.stores.patch, app, name, roles)
            self._hub.apps[app] = patched
            self.enforce(app)
            return patched

    def enforce(self, app: str) -> None:
        """Has the connections of an app go on with the roles of now."""
        self._hub.set_roles(app, lambda user: self._access.role(user, app))

    async def delete(self, app: str) -> None:
        """Deletes an app with its data and ends its connections. Raises `StorageError`, `KeyError`."""
        async with self._changing:
            if app not in self._hub.apps:
                raise KeyError(app)
            await self._hub.drop(app)


def check_name(name: object) -> str:
    """Returns the name of an app, without space around it; raises `ValueError` for what may not be one.

    >>> check_name(" Sales 2026 ")
    'Sales 2026'
    """
    if not isinstance(name, str) or not name.strip() or not name.strip().isprintable():
        raise ValueError(f"the name of an app is printable text, not {name!r:.80}")
    name = name.strip()
    if len(name) > NAME_MAX:
        raise ValueError(f"the name of an app has at most {NAME_MAX} characters")
    return name
