"""The HTTP endpoints on a real Jupyter server: its logins and cookies, XSRF, its authorizer, its login page."""

from __future__ import annotations

import getpass
import json
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from tests.http_client import push
from tests.test_extension import (  # noqa: F401 - its fixtures act here, too
    API,
    Restrained,
    Running,
    echo_kernel_spec,
    http_server,
    http_server_port,
    jp_argv,
    jp_asyncio_loop,
    jp_base_url,
    jp_config_dir,
    jp_configurable_serverapp,
    jp_data_dir,
    jp_env_config_path,
    jp_env_jupyter_path,
    jp_environ,
    jp_extension_environ,
    jp_home_dir,
    jp_http_port,
    jp_kernel_dir,
    jp_logging_stream,
    jp_nbconvert_templates,
    jp_root_dir,
    jp_runtime_dir,
    jp_server_cleanup,
    jp_server_config,
    jp_serverapp,
    jp_system_config_path,
    jp_system_jupyter_path,
    jp_web_app,
    server,
    settings,
)
from tripleweb.endpoints import Info, Site

OWNER = {"Authorization": "token server-token"}
QUERY = {"query": "[:find ?v :where [_ :n/v ?v]]"}
ENDPOINTS: list[tuple[str, str, Any]] = [
    ("GET", "info", None),
    ("GET", "apps", None),
    ("POST", "apps", {"name": "App"}),
    ("GET", "apps/app", None),
    ("PATCH", "apps/app", {"name": "New"}),
    ("POST", "apps/app/changes", {"t": "hello", "replica": "hhhhhhhhhhhh"}),
    ("POST", "apps/app/query", QUERY),
    ("GET", "apps/app/snapshot", None),
    ("GET", "metrics", None),
    ("GET", "static/live.js", None),
    ("DELETE", "apps/app", None),
]
BODIES = [(method, path, body) for method, path, body in ENDPOINTS if method != "GET"]


def write(server: Running, number: int = 1, **headers: str) -> Any:  # noqa: F811
    body = json.loads(push(number, ["x", "n/v", "", "n", number]))
    return server.fetch(API + "apps/app/changes", "POST", body, **(headers or OWNER))


def login(server: Running) -> dict[str, str]:  # noqa: F811
    """The headers of a browser that is logged in, but for the XSRF one."""
    answer = server.fetch("api/me?token=server-token")
    cookies = [line.split(";")[0] for line in answer.headers.get_list("Set-Cookie")]
    xsrf = server.fetch("login")
    cookies += [line.split(";")[0] for line in xsrf.headers.get_list("Set-Cookie")]
    return {"Cookie": "; ".join(dict.fromkeys(cookies))}


def token_of(cookie: str) -> str:
    return next(part.partition("=")[2] for part in cookie.split("; ") if part.startswith("_xsrf="))


def test_the_owner_uses_all_of_them(server: Running) -> None:  # noqa: F811
    assert write(server).code == 200
    for method, path, body in ENDPOINTS:
        answer = server.fetch(API + path, method, body, **OWNER)
        assert answer.code in (200, 201, 204), (path, answer.body)
    assert json.loads(server.fetch(API + "apps", **OWNER).body)[0]["role"] == "admin"


@pytest.mark.parametrize("open_to_all", [False, True])
@pytest.mark.parametrize(
    "credentials", [{}, {"Authorization": "token wrong"}, {"Authorization": "tripleweb wrong"}]
)
def test_strangers_get_nothing(server: Running, credentials: dict[str, str], open_to_all: bool) -> None:  # noqa: F811
    write(server)
    server.app.web_app.settings["allow_unauthenticated_access"] = open_to_all
    for method, path, body in ENDPOINTS:
        answer = server.fetch(API + path, method, body, **credentials)
        if path.startswith("static/"):  # the files of a published package
            assert answer.code == 200 or "tripleweb" in credentials.get("Authorization", "")
            continue
        assert answer.code == 403, path
        assert set(json.loads(answer.body)) == {"error", "message"}
    assert write(server, 2, **(credentials or {"Accept": "*/*"})).code == 403
    rows = server.fetch(API + "apps/app/query", "POST", QUERY, **OWNER)
    assert json.loads(rows.body)["rows"] == [[1]]


def test_a_browser_needs_the_xsrf_header_to_change_anything(server: Running) -> None:  # noqa: F811
    """A foreign page can make a browser send its cookie, but does not know the token in it."""
    write(server)
    browser = login(server)
    xsrf = {"X-XSRFToken": token_of(browser["Cookie"])}
    assert server.fetch(API + "apps", **browser).code == 200
    for method, path, body in BODIES:
        assert server.fetch(API + path, method, body, **browser).code == 403, path
        assert server.fetch(API + path, method, body, **browser, **{"X-XSRFToken": "wrong"}).code == 403, path
    assert server.fetch(API + "apps/app/query", "POST", QUERY, **browser, **xsrf).code == 200
    foreign = {"Origin": "http://elsewhere.example"}
    for method, path, body in BODIES:
        assert server.fetch(API + path, method, body, **browser, **xsrf, **foreign).code in (403, 404), path
    assert write(server, 2, **browser, **xsrf).code == 409  # let in, but the replica is the owner's
    made = server.fetch(API + "apps", "POST", {"name": "Browser's"}, **browser, **xsrf)
    assert (made.code, json.loads(made.body)["role"]) == (201, "admin")


def test_a_refusal_before_the_body_says_that_the_connection_ends(server: Running) -> None:  # noqa: F811
    """A client that keeps connections would send its next request into one that is being closed."""
    write(server)
    keeping = {"Connection": "keep-alive"}
    for headers in (login(server), {"Authorization": "tripleweb wrong"}, {}):
        for path in ("apps", "apps/app/query", "apps/app/changes"):
            answer = server.fetch(API + path, "POST", {"name": "x"}, **headers, **keeping)
            assert (answer.code, answer.headers["Connection"]) == (403, "close")
    refused = server.fetch(API + "apps", "POST", {"nonsense": 1}, **OWNER, **keeping)
    assert (refused.code, refused.headers.get("Connection")) == (400, None)  # that one was read


def test_no_line_of_the_log_has_a_token(
    server: Running,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Jupyter lets its token stand in an address, and our own is put there by mistake."""

    def fail(self: Any) -> None:
        raise RuntimeError("a fault of ours")

    grant = server.extension.site.access.mint(getpass.getuser())
    caplog.set_level("DEBUG")
    caplog.clear()
    asked = f"?token=server-token&tripleweb={grant}"
    assert server.fetch(API + "info" + asked).code == 200
    assert server.fetch(API + "apps/nothing" + asked).code == 404
    monkeypatch.setattr(Info, "get", fail)
    assert server.fetch(API + "info" + asked).code == 500
    assert "a fault of ours" in caplog.text
    monkeypatch.setattr(server.extension, "site", Site(server.extension.site.access, None, "no data"))
    assert server.fetch(API + "apps" + asked).code == 503
    assert "no data" in caplog.text
    # Jupyter's own line has the address, but for its token
    ours = [line for line in caplog.text.splitlines() if " ServerApp:log.py" not in line]
    assert not [line for line in ours if "server-token" in line or grant in line]


def test_tokens_need_no_xsrf_header(server: Running) -> None:  # noqa: F811
    grant = server.extension.site.access.mint(getpass.getuser())
    for number, token in enumerate((f"tripleweb {grant}", "token server-token", "Bearer server-token"), 1):
        assert write(server, number, Authorization=token).code == 200


def test_a_browser_is_a_writer_until_the_owner_says_otherwise(server: Running) -> None:  # noqa: F811
    write(server)
    browser = login(server)
    browser["X-XSRFToken"] = token_of(browser["Cookie"])
    name = json.loads(server.fetch(API + "info", **browser).body)["user"]
    assert name != getpass.getuser()
    assert json.loads(server.fetch(API + "apps/app", **browser).body)["role"] == "writer"
    assert server.fetch(API + "metrics", **browser).code == 403
    assert server.fetch(API + "apps/app", "PATCH", {"name": "Mine"}, **browser).code == 403
    said = server.fetch(API + "apps/app", "PATCH", {"members": {name: "reader"}}, **OWNER)
    assert json.loads(said.body)["members"] == {name: "reader"}
    assert server.welcome(**browser)["role"] == "reader"
    assert write(server, 2, **browser).code == 403


@pytest.mark.parametrize("allowed", [{"read"}, {"write"}, set()])
def test_jupyters_authorizer_is_asked(
    server: Running,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[str],
) -> None:
    write(server)
    monkeypatch.setattr(Restrained, "allowed", allowed)
    grant = server.extension.site.access.mint(getpass.getuser())
    for credentials in (OWNER, {"Authorization": f"tripleweb {grant}"}):
        for method, path, body in ENDPOINTS:
            action = "read" if method == "GET" or path.endswith("query") else "write"
            if (method, path) in (("DELETE", "apps/app"), ("PATCH", "apps/app")) and action in allowed:
                continue
            code = server.fetch(API + path, method, body, **credentials).code
            is_public = path.startswith("static/")
            assert (code < 300) == (action in allowed or is_public), (path, code)


def test_what_the_authorizer_forbids_is_not_taken_in_while_it_arrives(
    server: Running,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Restrained, "allowed", {"read"})
    body = push(1, ["x", "n/v", "", "n", 1]) + b"\n" * 100_000
    request = HTTPRequest(server.url + API + "apps/app/changes", "POST", headers=OWNER, body=body)

    async def ask() -> int:
        return (await AsyncHTTPClient().fetch(request, raise_error=False)).code

    assert server.run(ask()) == 403
    monkeypatch.setattr(Restrained, "allowed", {"read", "write"})
    assert server.fetch(API + "apps/app", **OWNER).code == 404


def test_the_page(server: Running) -> None:  # noqa: F811
    write(server)
    sent = server.fetch("tripleweb")
    assert sent.code == 302
    assert "/login?next=" in sent.headers["Location"]
    answer = server.fetch("tripleweb", **login(server))
    assert answer.code == 200
    assert "app" in answer.body.decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    grant = server.extension.site.access.mint(getpass.getuser())
    assert server.fetch("tripleweb", Authorization=f"tripleweb {grant}").code == 200
    assert server.fetch("tripleweb", Authorization="tripleweb wrong").code == 403


def test_types_of_content(server: Running) -> None:  # noqa: F811
    write(server)
    types = {
        "apps": "application/json",
        "apps/app/snapshot": "application/x-ndjson",
        "metrics": "text/plain; version=0.0.4; charset=utf-8",
    }
    for path, kind in types.items():
        assert server.fetch(API + path, **OWNER).headers["Content-Type"] == kind
    assert server.fetch(API + "apps/none", **OWNER).headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("settings", [{"query_budget": 0.01, "auto_create_apps": False, "unseen_days": 2}])
def test_settings(server: Running) -> None:  # noqa: F811
    assert write(server).code == 200  # the owner may
    changes = [[f"e{i}", "n/v", "", "n", i] for i in range(1_000)]
    body = {
        "t": "push",
        "replica": "bbbbbbbbbbbb",
        "transactions": [{"number": 1, "id": "x", "changes": changes}],
    }
    assert server.fetch(API + "apps/app/changes", "POST", body, **OWNER).code == 200
    product = {"query": "[:find ?a ?b :where [?a :n/v _] [?b :n/v _]]"}
    answer = server.fetch(API + "apps/app/query", "POST", product, **OWNER)
    assert (answer.code, json.loads(answer.body)["error"]) == (422, "budget")
    grant = server.extension.site.access.mint("bob")
    bob = {"Authorization": f"tripleweb {grant}"}
    assert server.fetch(API + "apps/new/changes", "POST", body, **bob).code == 404
    assert server.status(API + "apps/new/sync", **bob) == 404
    assert server.extension.site.hub.core_limits.unseen_ms == 2 * 86_400_000  # type: ignore[union-attr]
    assert server.fetch(API + "apps", "POST", {"name": "New"}, **bob).code == 403


def test_a_body_beyond_its_bound_is_413_in_json(server: Running) -> None:  # noqa: F811
    answer = server.fetch(API + "apps", "POST", {"name": "x" * (1 << 20)}, **OWNER)
    assert (answer.code, json.loads(answer.body)["error"]) == (413, "size")
