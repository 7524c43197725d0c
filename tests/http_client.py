"""A plain HTTP client, and bodies of bulk pushes, for tests of the endpoints."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tripleweb.clock import pack, stamp_text
from tripleweb.web import WebServer

API = "/api/tripleweb/v1/"
DEADLINE = 30


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> tuple[int, str]:
        """(status, word); what an error is made of is checked."""
        said = self.json
        assert set(said) == {"error", "message"}, said
        assert said["message"], said
        assert self.headers["content-type"].startswith("application/json")
        return self.status, said["error"]


class User:
    """Somebody who talks to a server."""

    def __init__(self, server: WebServer, name: str | None = None, token: str | None = None) -> None:
        self.url = urlsplit(server.url)
        self.name = name or server.access.owner
        self.token = token or (server.access.mint(name, shared=True) if name else server.token)

    def open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=DEADLINE)

    def open_slow(self) -> http.client.HTTPConnection:
        """A connection whose buffers are small, so that what is not read soon waits at the server."""
        connection = self.open()
        plug = connection.sock = socket.socket()
        plug.settimeout(DEADLINE)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        plug.connect((self.url.hostname, self.url.port))
        return connection

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"tripleweb {self.token}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body` goes as it is if it is bytes or pieces, else as JSON."""
        connection = self.open()
        if body is not None and not isinstance(body, bytes | Iterable):
            raise TypeError(body)
        if isinstance(body, dict | str):
            body = json.dumps(body).encode()
        try:
            path = path if path.startswith("/") else API + path
            connection.request(method, path, body, {**self.headers, **headers})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers)

    def query(self, app: str, text: str, *inputs: Any, **more: Any) -> Answer:
        return self.post(f"apps/{app}/query", {"query": text, "inputs": list(inputs), **more})

    def rows(self, app: str, text: str, *inputs: Any, **more: Any) -> list[list[Any]]:
        answer = self.query(app, text, *inputs, **more)
        assert answer.status == 200, answer.body
        rows: list[list[Any]] = answer.json["rows"]
        return sorted(rows)

    def push(self, app: str, *changes: Any, number: int = 1, replica: str = "aaaaaaaaaaaa") -> Answer:
        """One transaction."""
        return self.post(f"apps/{app}/changes", push(number, *changes, replica=replica))


def push(number: int, *changes: Any, replica: str = "aaaaaaaaaaaa", **more: Any) -> bytes:
    """A push of one transaction in one line."""
    tx = {"number": number, "id": f"{replica}-{number}", "changes": list(changes), **more}
    return json.dumps({"t": "push", "replica": replica, "transactions": [tx]}).encode() + b"\n"


def triple(number: int, subject: str, predicate: str, value: Any, kind: str = "string") -> bytes:
    """A triple of the first format, of replica `tttttttttttt`."""
    hlc = stamp_text(pack(1_700_000_000_000, number), "tttttttttttt")
    said = {
        "subject": subject,
        "predicate": predicate,
        "object": value,
        "object_type": kind,
        "hlc": hlc,
    }
    return json.dumps(said).encode() + b"\n"


def wait_until(condition: Callable[[], Any], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)
