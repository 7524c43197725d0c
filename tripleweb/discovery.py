"""How a kernel finds its server: who is asked, in which order, and what a server says about itself.

    1. `url=` and `token=`
    2. TRIPLEWEB_URL and TRIPLEWEB_TOKEN: the server extension sets both for its kernels
    3. JUPYTERHUB_SERVICE_URL and JUPYTERHUB_API_TOKEN: a single-user server of a JupyterHub
    4. the running Jupyter server that started this kernel (its process is JPY_PARENT_PID)
    5. the server of this user on this machine: `tripleweb serve`, or a Jupyter server with the extension

`url="embedded"` is a server inside this process, which `embedded` keeps. A place that is named is taken as it is,
whether anybody answers there or not: a server that is down is no error. No address holds a token, and neither does any
message.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tripleweb import embedded, places
from tripleweb.errors import NoServerError
from tripleweb.link import API, SCHEMES

Environment = Mapping[str, str]
EMBEDDED = "embedded"
ANSWER_BYTES_MAX = 1 << 20
PARENT = "the Jupyter server of this kernel"
MACHINE = "the server on this machine"

_ADVICE = (
    "found no server to connect to. Run this notebook on a Jupyter server that has tripleweb installed (restart one "
    "that was started before it was), or give url= and token=, or set TRIPLEWEB_URL and TRIPLEWEB_TOKEN, or start "
    '`tripleweb serve` on this machine, or connect with url="embedded", which runs a server in this process; '
    "tripleweb.open() makes a store without a server, and %tripleweb doctor says more."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is: `url` ends with a slash; `source` says who told."""

    url: str
    token: str | None = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Info:
    """What a server says about itself, and who one is to it. `ahead_s`: how far our clock is ahead of its, roughly."""

    server_id: str
    user: str
    version: str = ""
    protocol: int = 0
    ahead_s: float = field(default=0.0, compare=False)


class Unreachable(Exception):
    """Nobody of ours answers at a place. `status` is the HTTP status of whoever did, 0 if nobody did."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)

    def lacks_us(self, place: Place) -> bool:
        """True if whoever answered has no tripleweb. A Jupyter server that has it would have told its kernels itself;
        one with a password does not let them see what it has."""
        return self.status == 404 or (place.source == PARENT and 300 <= self.status < 500)


def find(url: str | None = None, token: str | None = None, environment: Environment = os.environ) -> Place:
    """The server to connect to. Raises `NoServerError`, which says what to do, `ValueError` for a bad address and
    `TypeError` for what is none.

    >>> find("http://127.0.0.1:8888/user/ada", "secret")
    Place(url='http://127.0.0.1:8888/user/ada/', source='url=')
    >>> find(environment={"TRIPLEWEB_URL": "http://0.0.0.0:8888/"}).url
    'http://127.0.0.1:8888/'
    """
    for name, given in (("url", url), ("token", token)):
        if not isinstance(given, str | None):
            raise TypeError(f"{name}= is text, not {type(given).__name__}")
    if url == EMBEDDED:
        if token is not None:
            raise ValueError('url="embedded" takes no token')
        return Place(*embedded.locate(), EMBEDDED)
    token = _tidy_token(token)
    if url is not None:
        return Place(tidy_url(url), token or _token_for(url, environment), "url=")
    for look in (_in_environment, _on_hub, _parent, _on_this_machine):
        place = look(environment)
        if place is not None:
            return Place(place.url, token or place.token, place.source)
    raise NoServerError(_ADVICE)


def follow(
    place: Place, environment: Environment = os.environ
) -> Callable[[], tuple[str, str | None]] | None:
    """How to find a server that may move, by its (address, token) of now; None for one that stays where it is.

    The server of the data folder on this machine has another port each time it is started, and may be another process
    tomorrow; it is the same server by its data.
    """
    if place.source == EMBEDDED:
        return embedded.locate
    if place.source != MACHINE:
        return None

    def look() -> tuple[str, str | None]:
        now = _on_this_machine(environment) or place
        return now.url, now.token

    return look


def ask(place: Place, timeout: float = 3.0) -> Info:
    """What the server at `place` says about itself. Raises `Unreachable`."""
    held, date = _read(place, "info", timeout)
    try:
        return Info(
            str(held["server_id"]),
            str(held["user"]),
            str(held.get("version", "")),
            int(held.get("protocol", 0)),
            time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_server_of_ours(place, error) from None


def look_up(place: Place, path: str, timeout: float = 3.0) -> Any:
    """What the server at `place` answers below its API: JSON. Raises `Unreachable`."""
    return _read(place, path, timeout)[0]


def _read(place: Place, path: str, timeout: float) -> tuple[Any, str | None]:
    """What is there, and when that was by the server's clock. A grant of ours, or a token of Jupyter's: which it is the
    server tells."""
    refusal: Unreachable | None = None
    for scheme in SCHEMES if place.token else SCHEMES[:1]:
        try:
            return _read_by(place, scheme, path, timeout)
        except Unreachable as error:
            if error.status not in (401, 403):
                raise
            refusal = error
    assert refusal is not None
    raise refusal


def _read_by(place: Place, scheme: str, path: str, timeout: float) -> tuple[Any, str | None]:
    headers = {"Authorization": f"{scheme} {place.token}"} if place.token else {}
    request = urllib.request.Request(f"{place.url}{API}{path}", headers=headers)
    try:
        with _opener.open(request, timeout=timeout) as answer:
            return json.loads(answer.read(ANSWER_BYTES_MAX)), answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            raise Unreachable(f"{place.url} answers {error.code}: {_said(error)}", error.code) from None
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"cannot reach {place.url}: {reason}") from None
    except ValueError as error:
        raise _no_server_of_ours(place, error) from None


def _no_server_of_ours(place: Place, error: Exception) -> Unreachable:
    return Unreachable(f"{place.url} is not a tripleweb server: {error}", 404)


def _said(error: urllib.error.HTTPError) -> str:
    """What a server of ours says is wrong; of another, the words of the protocol."""
    try:
        return str(json.loads(error.read(1 << 16))["message"])[:500]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return str(error.reason)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect leads to a page for people to log in, and would carry the token elsewhere."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


# Without the proxies of the environment: the socket that follows does not know them either.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _tidy_token(token: str | None) -> str | None:
    """A token as it may stand in a header; read from a file, it often ends with the line."""
    token = token.strip() if token else None
    if token and not token.isprintable():
        raise ValueError("token= has control characters in it; no token has")
    return token


def tidy_url(url: str) -> str:
    """An address in one form: without query and fragment, with a slash at the end, reachable from this machine.

    >>> tidy_url("https://[::]:8888/user/ada?token=secret")
    'https://[::1]:8888/user/ada/'
    >>> tidy_url("localhost:8888")
    Traceback (most recent call last):
    ValueError: url='localhost:8888': expected an address such as 'http://127.0.0.1:8888/'
    """
    said = f"url={_without_query(url)!r}: expected an address such as 'http://127.0.0.1:8888/'"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(said)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname, parts.netloc.rpartition("@")[2])
    if host != parts.netloc.rpartition("@")[2] and port is not None:
        host += f":{port}"
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/", "", ""))


def _without_query(url: str) -> str:
    return url.partition("?")[0][:100]


def _token_for(url: str, environment: Environment) -> str | None:
    """The token that is there for this very address."""
    for look in (_in_environment, _on_hub, _on_this_machine):
        place = look(environment)
        if place is not None and place.url == tidy_url(url):
            return place.token
    return None


def _in_environment(environment: Environment) -> Place | None:
    if url := environment.get("TRIPLEWEB_URL"):
        return Place(tidy_url(url), _tidy_token(environment.get("TRIPLEWEB_TOKEN")), "TRIPLEWEB_URL")
    return None


def _on_hub(environment: Environment) -> Place | None:
    url, token = environment.get("JUPYTERHUB_SERVICE_URL"), environment.get("JUPYTERHUB_API_TOKEN")
    if url and token:
        return Place(tidy_url(url), token, "JupyterHub")
    return None


def _running_servers() -> Iterable[dict[str, Any]]:
    from jupyter_server.serverapp import list_running_servers

    return list_running_servers()


def _parent(
    environment: Environment, running: Callable[[], Iterable[dict[str, Any]]] = _running_servers
) -> Place | None:
    """The Jupyter server that started this kernel. Its file holds no token where a password guards it."""
    pid = environment.get("JPY_PARENT_PID", "")
    if not pid.isdecimal():
        return None
    for server in running():
        url = str(server.get("url", ""))
        if str(server.get("pid")) == pid and url.startswith(("http://", "https://")):
            return Place(tidy_url(url), server.get("token") or None, PARENT)
    return None


def _on_this_machine(environment: Environment) -> Place | None:
    """The server that holds this user's data folder."""
    held = places.announced(places.data_dir(environment) / "server")
    if held is None:
        return None
    return Place(tidy_url(held["url"]), held["token"], MACHINE)
