"""What a server answers over plain HTTP, whoever hosts it; docs/http.md describes each endpoint for its users.

The handlers are mixins over the seam `caller()`: who speaks, as the server knows it, or None. The Jupyter extension
puts them on Jupyter's handlers and asks Jupyter; `web` puts them on plain ones. Whoever hosts them calls `begin` once
it knows the caller, before any of a body is read.

Errors are JSON, `{"error", "message"}`: 400 `malformed`, or `query`; 403 `forbidden` (not known here, or not allowed);
404 `unknown` (also what is no App ID); 409 `replaced`; 413 `size`; 422 `budget`; 429 `overload`; 503 `unavailable`.
Invariants: nothing is read for, or said to, somebody without a role in the app; reading creates nothing; a body is
bounded while it arrives; a client that goes away takes its work with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from tornado import web
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.log import app_log, gen_log

from tripleweb import metrics
from tripleweb.access import WRITING, Access, Grant
from tripleweb.bulk import BulkPush, Snapshot
from tripleweb.dashboard import CONTENT_SECURITY_POLICY, page
from tripleweb.errors import BudgetError, ProtocolError, QueryError, StorageError
from tripleweb.hub import Hub
from tripleweb.ids import check_app, check_id
from tripleweb.inquiry import BUDGET_S, Inquiry, TooManyError, plain
from tripleweb.line import Line, Outlet
from tripleweb.registry import Registry
from tripleweb.storage import App
from tripleweb.sync.messages import PROTOCOL
from tripleweb.sync.server import Actor

PREFIX = "/api/tripleweb/v1"
INFO = PREFIX + "/info"
APPS = PREFIX + "/apps"
APP = PREFIX + r"/apps/([^/]+)"
CHANGES = APP + "/changes"
QUERY = APP + "/query"
SNAPSHOT = APP + "/snapshot"
METRICS = PREFIX + "/metrics"
DASHBOARD = "/tripleweb"
ELSEWHERE = PREFIX + "(?:/.*)?"
SPEAKER = "Tripleweb-Speaker"

LABEL_MAX = 80
JSON_BYTES_MAX = 1 << 20
BULK_BYTES_MAX = 64 << 20
DRAINED_BYTES_MAX = (
    4 * BULK_BYTES_MAX
)  # so much of a body that is refused is read, so that its sender hears why
ROWS_A_PIECE = 1_000

_ERRORS = {
    400: "malformed",
    401: "forbidden",
    403: "forbidden",
    404: "unknown",
    405: "malformed",
    413: "size",
    503: "unavailable",
}
_STATUS = {"forbidden": 403, "replaced": 409, "size": 413, "overload": 503, "closing": 503}
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Refusal(web.HTTPError):
    """A status, the word for programs and the message for people."""

    def __init__(self, status: int, message: str, error: str = "") -> None:
        super().__init__(status, message)
        self.error = error or _ERRORS.get(status, "failed")
        self.message = message


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what goes wrong inside into a `Refusal`."""
    try:
        yield
    except ProtocolError as error:
        raise Refusal(_STATUS.get(error.code, 400), str(error), error.code) from error
    except BudgetError as error:
        raise Refusal(422, str(error), "budget") from error
    except QueryError as error:
        raise Refusal(400, str(error), "query") from error
    except TooManyError as error:
        raise Refusal(429, str(error), "overload") from error
    except StorageError as error:
        raise Refusal(503, str(error)) from error
    except TimeoutError as error:
        raise Refusal(503, str(error) or "the server is busy: it takes too long") from error


@dataclass(slots=True)
class Site:
    """What the handlers of one server share. Without a hub it answers 503, with `reason`."""

    access: Access
    hub: Hub | None
    reason: str = ""
    query_budget: float = BUDGET_S
    registry: Registry = field(init=False)
    inquiry: Inquiry = field(init=False)

    def __post_init__(self) -> None:
        if self.hub is not None:
            self.registry = Registry(self.hub, self.access)
            self.inquiry = Inquiry(self.hub, self.query_budget)


class _Spoken(msgspec.Struct, frozen=True):
    user: str
    label: str = ""
    session: str = ""
    reader: bool = False


def speaking(actor: Actor) -> dict[str, str]:
    """The header by which a server that relays says who is speaking; `role` is "reader" or left open."""
    spoken = _Spoken(actor.user, actor.label, actor.session, actor.role == "reader")
    return {SPEAKER: json.dumps(msgspec.to_builtins(spoken))}


def grant_actor(grant: Grant, request: HTTPServerRequest) -> Actor:
    """Whom a request with a grant comes from; the role is left open, or "reader": then he is no more than that.

    A server that relays says who is speaking, else it is whom the grant stands for. Raises 400.
    """
    if not (grant.relays and SPEAKER in request.headers):
        return Actor(grant.user, grant.label, grant.session, "")
    try:
        spoken = msgspec.json.decode(request.headers[SPEAKER].encode("latin-1"), type=_Spoken)
        check_id(spoken.user, "user")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the header {SPEAKER} does not say who speaks: {error}") from None
    return Actor(spoken.user, spoken.label, spoken.session, "reader" if spoken.reader else "")


class Endpoint(web.RequestHandler):
    """What all of them have in common; a mixin, too."""

    site: Site
    reader_only = False  # whatever role the caller has
    is_half_read = False  # there may be a body that nobody will read: the connection ends with the answer

    def caller(self) -> Actor | None:
        """Who speaks."""
        return None

    async def begin(self) -> None:
        """Called when the caller is known, before a body is read. What it raises is the answer."""

    def speaker(self) -> Actor:
        """The caller. Raises `HTTPError` as `open_hub` does."""
        self.open_hub()
        caller = self.caller()
        assert caller is not None
        return caller

    def open_hub(self) -> Hub:
        """The hub. Raises `HTTPError`: 403 for strangers, 503 where there is none."""
        if self.caller() is None:
            raise Refusal(403, "this request does not say who it comes from")
        if self.site.hub is None:
            raise Refusal(503, self.site.reason)
        return self.site.hub

    def admit(self, app: str, *, create: bool = False) -> Actor:
        """The caller with the role he has in `app`, which need not exist if `create` is true and he may create it.

        Raises `HTTPError`: as `open_hub`; 404 for what is no app, 403 for one who has no role there.
        """
        hub, caller, access = self.open_hub(), self.speaker(), self.site.access
        try:
            check_app(app)
        except ValueError as error:
            raise Refusal(404, str(error)) from None
        role = access.role(caller.user, app)
        if app not in hub.apps:
            if not (create and access.may_create(caller.user)):
                raise Refusal(404, f"there is no app {app}")
            role = role or "admin"
        if role is None:
            raise Refusal(403, f"{caller.user} is not a member of app {app}")
        label = "".join(c for c in self.get_query_argument("label", "") if c.isprintable())[:LABEL_MAX]
        return replace(caller, role="reader" if self.reader_only else role, label=label or caller.label)

    async def join(self, app: str, actor: Actor, outlet: Outlet) -> Line:
        """A connection for one who was admitted; the app is made if there is none."""
        hub, site = self.open_hub(), self.site
        if app not in hub.apps:
            await site.registry.create(actor.user, app=app)
        line = await hub.join(app, actor, outlet)
        line.reader_only = self.reader_only
        role = site.access.role(actor.user, app)
        if role != actor.role and not (self.reader_only and role is not None):  # it changed meanwhile
            site.registry.enforce(app)
        return line

    def entry(self, app: str) -> App:
        """An app of the registry; 404 if it is gone."""
        entry = self.open_hub().apps.get(app)
        if entry is None:
            raise Refusal(404, f"there is no app {app}")
        return entry

    def administer(self, app: str) -> Actor:
        """As `admit`; raises 403 unless the caller is admin of the app."""
        actor = self.admit(app)
        if actor.role != "admin":
            raise Refusal(403, f"{actor.user} is no admin of app {app}")
        return actor

    def reply(self, answer: Any, status: int = 200) -> None:
        """Ends with a JSON answer."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(answer))

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        try:
            return super().decode_argument(value, name)
        except web.HTTPError:
            if name is not None:
                raise
            raise Refusal(404, "a path is percent-encoded UTF-8") from None

    def log_exception(self, *error: Any) -> None:
        """What is refused is no warning, which Tornado would print where nobody configured logging, as in a kernel.
        And no line has the query of an address, where Jupyter lets its token stand."""
        said = (self.request.method, self.request.path, error[1])
        if not isinstance(error[1], web.HTTPError):
            app_log.error("%s %s: %r", *said, exc_info=error)
        elif error[1].status_code < 500:
            _log.debug("%s %s: %s", *said)
        else:
            gen_log.warning("%s %s: %s", *said)

    def write_error(self, status_code: int, **more: Any) -> None:
        error = more.get("exc_info", (None, None))[1]
        word, message = _ERRORS.get(status_code, "failed"), HTTPStatus(status_code).phrase
        if isinstance(error, Refusal):
            word, message = error.error, error.message
        elif isinstance(error, web.HTTPError) and error.log_message:
            message = error.log_message if error.args else error.log_message.replace("%%", "%")
        self.set_header("Content-Type", "application/json")
        if self.is_half_read:
            self.set_header("Connection", "close")
        self.finish(json.dumps({"error": word, "message": message}))


@web.stream_request_body
class Upload(Endpoint):
    """An endpoint with a body: bounded while it arrives, as JSON when it is there."""

    bytes_max = JSON_BYTES_MAX
    is_half_read = True  # until `begin` is done
    _body = b""
    _size = 0
    _refused: Exception | None = None

    async def begin(self) -> None:
        self.open_hub()
        connection: Any = self.request.connection
        connection.set_max_body_size(DRAINED_BYTES_MAX)
        if self._declared() > self.bytes_max:
            self.refuse(self._too_large())
        self.is_half_read = False

    def refuse(self, refusal: Exception) -> None:
        """Has `refusal` be the answer: at once if the body was not sent yet or is huge, else after reading it away."""
        self._refused = self._refused or refusal
        if self._declared() > DRAINED_BYTES_MAX or "Expect" in self.request.headers:
            self.is_half_read = True
            raise refusal

    def _declared(self) -> int:
        """The length of the body by its header; 0 if that says nothing, or nonsense, which Tornado refuses."""
        length = self.request.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else 0

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body of this request has at most {self.bytes_max:,} bytes; send several")

    async def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._refused is None and self._size > self.bytes_max:
            self._refused = self._too_large()
        if self._refused is None and not self._finished:
            try:
                await self.take(chunk)
            except Exception as error:  # noqa: BLE001 - raised by `check_body`; here, Tornado would drop the connection
                self._refused = error

    async def take(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._body += chunk

    def check_body(self) -> None:
        """Raises what went wrong with the body."""
        if self._refused is not None:
            raise self._refused

    def read(self, form: type[T]) -> T:
        """The body as a struct. Raises 400 and 413."""
        self.check_body()
        try:
            return msgspec.json.decode(self._body, type=form)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Refusal(400, f"the body is not the JSON that belongs here: {error}") from None


class Info(Endpoint):
    """What one is talking to."""

    def get(self) -> Any:
        hub, caller = self.open_hub(), self.speaker()
        said = {"version": version("tripleweb"), "protocol": PROTOCOL}
        self.reply({**said, "server_id": hub.server_id, "user": caller.user})


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Apps(Upload):
    """The apps that the caller may see; a new one."""

    async def get(self) -> None:
        user, registry = self.speaker().user, self.site.registry
        self.reply([registry.entry(app, user) for app in registry.visible(user)])

    async def post(self) -> None:
        user = self.speaker().user
        given = self.read(_Named)
        if self.reader_only or not self.site.access.may_create(user):
            raise Refusal(403, "on this server only an administrator creates apps")
        with refusing():
            try:
                app = await self.site.registry.create(user, given.name)
            except ValueError as error:
                raise Refusal(400, str(error)) from error
        self.reply(self.site.registry.entry(app, user), 201)


class _Patch(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    members: dict[str, str | None] = {}


class AppEntry(Upload):
    """One app: its name and members."""

    async def get(self, app: str) -> None:
        user = self.admit(app).user
        self._say(self.entry(app), user)

    async def patch(self, app: str) -> None:
        user = self.administer(app).user
        given = self.read(_Patch)
        with refusing():
            try:
                patched = await self.site.registry.patch(app, given.name, given.members)
            except ValueError as error:
                raise Refusal(400, str(error)) from error
            except KeyError:
                raise Refusal(404, f"there is no app {app}") from None
        self._say(patched, user)

    async def delete(self, app: str) -> None:
        self.administer(app)
        with refusing():
            try:
                await self.site.registry.delete(app)
            except KeyError:
                raise Refusal(404, f"there is no app {app}") from None
        self.set_status(204)
        self.finish()

    def _say(self, app: App, user: str) -> None:
        registry = self.site.registry
        self.reply({**registry.entry(app, user), "members": registry.members(app)})


class Changes(Upload):
    """Bulk push: transactions in, receipts out."""

    bytes_max = BULK_BYTES_MAX
    push: BulkPush | None = None

    async def begin(self) -> None:
        await super().begin()
        if self.request.method != "POST":
            return
        app = self.path_args[0]
        try:
            actor = self.admit(app, create=True)
            if actor.role not in WRITING:
                raise Refusal(403, f"{actor.user} is a {actor.role} of app {app} and may not write")
        except web.HTTPError as error:
            self.refuse(error)
            return
        self.push = BulkPush(self.open_hub(), lambda end: self.join(app, actor, end))

    async def take(self, chunk: bytes) -> None:
        assert self.push is not None
        with refusing():
            await self.push.feed(chunk)

    async def post(self, app: str) -> None:
        self.check_body()
        assert self.push is not None
        with refusing():
            position, receipts = await self.push.finish()
        self.reply({"position": position, "receipts": receipts})

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.push is not None:
            self.push.fail(ProtocolError("closing", "the client is gone"))
            self.push.leave()

    def on_finish(self) -> None:
        super().on_finish()
        if self.push is not None:
            self.push.leave()


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    query: str
    inputs: list[Any] = []
    rules: str | None = None


class Query(Upload):
    """A query, asked once."""

    _asking: asyncio.Task[Any] | None = None
    _is_gone = False

    async def post(self, app: str) -> None:
        user = self.admit(app).user
        given = self.read(_Question)
        ask = self.site.inquiry.ask(app, user, given.query, given.inputs, given.rules)
        self._asking = asyncio.ensure_future(ask)
        try:
            with refusing():
                answer = await self._asking
            self.admit(app)  # he may have lost his role meanwhile
            await self._write(answer.columns, answer.rows, answer.position)
        except StreamClosedError:
            return
        except asyncio.CancelledError:
            if not self._is_gone:
                raise

    async def _write(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]], position: str) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(b'{"columns":' + msgspec.json.encode(columns) + b',"rows":[')
        for start in range(0, len(rows), ROWS_A_PIECE):
            if start:
                self.write(b",")
                await self.flush()
                await asyncio.sleep(0)
            piece = [[plain(value) for value in row] for row in rows[start : start + ROWS_A_PIECE]]
            self.write(msgspec.json.encode(piece)[1:-1])
        self.finish(b'],"position":' + msgspec.json.encode(position) + b"}")

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._is_gone = True
        if self._asking is not None:
            self._asking.cancel()


class SnapshotLines(Endpoint):
    """All of an app, as JSON lines."""

    _snapshot: Snapshot | None = None

    async def get(self, app: str) -> None:
        actor = self.admit(app)
        self.set_header("Content-Type", "application/x-ndjson")
        self._snapshot = Snapshot(self.open_hub(), self._write_out)
        try:
            with refusing():
                await self._snapshot.run(lambda end: self.join(app, actor, end))
        except ConnectionError:
            return  # nobody is left to be told
        finally:
            self._snapshot.leave()
        self.finish()

    async def _write_out(self, line: bytes) -> None:
        try:
            self.write(line)
            await self.flush()
        except (StreamClosedError, RuntimeError) as error:
            raise ConnectionError("the client is gone") from error

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._snapshot is not None:
            self._snapshot.fail(ProtocolError("closing", "the client is gone"))
            self._snapshot.leave()


class Metrics(Endpoint):
    """What Prometheus asks for; it names every open app."""

    async def get(self) -> None:
        hub, user = self.open_hub(), self.speaker().user
        if not self.site.access.administers(user):
            raise Refusal(403, "only an administrator of this server sees its metrics")
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.finish(metrics.render(hub.counts, len(hub.apps), hub.tenants))


class Dashboard(Endpoint):
    """The page for people."""

    async def get(self) -> None:
        hub, user, registry = self.open_hub(), self.speaker().user, self.site.registry
        connections = hub.connections
        shown = [
            (registry.entry(app, user), registry.members(app), connections.get(app.id, []))
            for app in registry.visible(user)
        ]
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")
        self.finish(page(user, version("tripleweb"), self.site.access.personal, shown))


class Unknown(Endpoint):
    """Any other address, whatever is asked of it and whoever asks."""

    def prepare(self) -> None:
        raise Refusal(404, "there is nothing at this address")
