"""docs/http.md does what it says: its commands are run in order by a shell, and their output is what stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tripleweb import custody, endpoints
from tripleweb.storage.memory import MemoryStores
from tripleweb.web import SYNC, WebServer

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "http.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
END = "-- the next one --"


def examples() -> list[tuple[str, str, str]]:
    """(commands, kind of output, output)."""
    blocks = BLOCK.findall(PAGE)
    assert [kind for kind, _ in blocks[::2]] == ["sh"] * (len(blocks) // 2)
    return [(sh, kind, text) for (_, sh), (kind, text) in zip(blocks[::2], blocks[1::2], strict=True)]


def agree(shown: Any, given: Any) -> bool:
    """`…` in a text stands for anything; times are not compared."""
    if isinstance(shown, dict):
        return (
            isinstance(given, dict)
            and shown.keys() == given.keys()
            and all(name == "at" or agree(shown[name], given[name]) for name in shown)
        )
    if isinstance(shown, list):
        return isinstance(given, list) and len(shown) == len(given) and all(map(agree, shown, given))
    if isinstance(shown, str) and "…" in shown:
        pattern = ".*".join(map(re.escape, shown.split("…")))
        return isinstance(given, str) and re.fullmatch(pattern, given, re.DOTALL) is not None
    return type(shown) is type(given) and shown == given


def test_every_command_prints_what_stands_there() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown = examples()
    script = f"\necho; echo '{END}'\n".join(commands for commands, _, _ in shown)
    with WebServer(MemoryStores(), owner="ada") as server:
        environment = {
            "PATH": os.environ["PATH"],
            "TRIPLEWEB_URL": server.url,
            "TRIPLEWEB_TOKEN": server.token,
            "no_proxy": "*",
        }
        ran = subprocess.run(
            ["bash", "-eu", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    printed = ran.stdout.split(END + "\n")
    assert len(printed) == len(shown)
    for (commands, kind, text), given in zip(shown, printed, strict=True):
        if kind == "json":
            assert agree(json.loads(text), json.loads(given)), (commands, text, given)
        else:
            assert agree(text.strip(), given.strip()), (commands, text, given)


@pytest.mark.parametrize(
    ("shown", "given", "same"),
    [
        ({"a": "…", "at": 1}, {"a": "x", "at": 2}, True),
        ({"a": "x…"}, {"a": "yx"}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
        (1, True, False),
        ("a…c", "a\nb\nc", True),
    ],
)
def test_the_comparison_notices(shown: Any, given: Any, same: bool) -> None:
    assert agree(shown, given) is same


def test_every_endpoint_is_described() -> None:
    routes = [
        endpoints.INFO,
        endpoints.APPS,
        endpoints.APP,
        SYNC,
        endpoints.CHANGES,
        endpoints.QUERY,
        endpoints.SNAPSHOT,
        custody.BACKUP,
        custody.RESTORE,
        custody.CHECK,
        custody.COMPACT,
        endpoints.METRICS,
        endpoints.DASHBOARD,
    ]
    for route in routes:
        name = route.removeprefix(endpoints.PREFIX + "/").replace("([^/]+)", "{app}")
        assert f"| `{name}` |" in PAGE, name
