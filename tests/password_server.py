"""A Jupyter server that a password guards, as a person logs in to it."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

from jupyter_server.auth import passwd

from notebooks.server import JupyterServer

WORD = "correct horse"
PASSWORD = f"--PasswordIdentityProvider.hashed_password={passwd(WORD)}"


class PasswordServer(JupyterServer):
    """Started with the option `PASSWORD`. There is no token then; what `get` needs is in a cookie."""

    _opener: urllib.request.OpenerDirector | None = None

    def get(self, path: str, payload: object = None) -> Any:
        if path == "api":  # answers before anybody has logged in
            return super().get(path)
        data = None if payload is None else json.dumps(payload).encode()
        if self._opener is None:
            self._jar = CookieJar()
            self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
            self._opener.open(self.url + "login", timeout=30).close()
            form = urllib.parse.urlencode({"password": WORD, "_xsrf": self._xsrf})
            self._opener.open(self.url + "login", form.encode(), timeout=30).close()
        headers = {"X-XSRFToken": self._xsrf, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=30) as answer:
            return json.loads(answer.read())

    @property
    def _xsrf(self) -> str:
        return next(cookie.value or "" for cookie in self._jar if cookie.name == "_xsrf")
