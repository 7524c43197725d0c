"""docs/history.md does what it says: its Python is run in order, then its commands, on a data folder of their own."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "history.md"
COMMANDS = re.compile(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_it_says_what_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted > 30
    text = PAGE.read_text(encoding="utf-8")
    blocks = COMMANDS.findall(text)
    assert len(blocks) == text.count("```sh") > 1
    environment = {**os.environ, "TRIPLEWEB_DATA": str(tmp_path / "data")}
    command = f"{shlex.quote(sys.executable)} -m tripleweb"
    for commands, shown in blocks:
        script = f'set -eu\ntripleweb() {{ {command} "$@"; }}\n{commands}'
        ran = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, ""), commands
        pattern = ".+".join(map(re.escape, shown.split("…")))
        assert re.fullmatch(pattern, ran.stdout), (shown, ran.stdout)
