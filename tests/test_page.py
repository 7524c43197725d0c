"""The browser's client: its own tests under node, its types, and that it writes cells as the saved tables have them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.npm import installed
from tripleweb.sync.display import cell_to_wire
from tripleweb.table import cell_text
from tripleweb.terms import Ref

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "widgets" / "tripleweb_widgets" / "static"
TYPESCRIPT = "5.9.3"
SECONDS = 110


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node")
    return found


def run(command: list[str], **more: Any) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
    return done.stdout


def test_the_pages_own_tests_pass(node: str) -> None:
    tests = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "page").glob("*.test.mjs"))
    assert len(tests) >= 2
    said = run([node, "--test", *tests])
    assert "# fail 0" in said and "# skipped 0" in said


def cells() -> list[Any]:
    """Cells of every kind, odd ones, and some at random."""
    draw = random.Random(11)
    numbers = [
        0,
        1,
        -7,
        1.5,
        0.1,
        2 / 3,
        1e-5,
        1.25e-7,
        123456.7,
        1234567.8,
        1e21,
        1e300,
        -2.5e-300,
        (1 << 62),
        -(1 << 53) - 1,
    ]
    numbers += [draw.uniform(-1, 1) * 10.0 ** draw.randrange(-9, 12) for _ in range(2_000)]
    texts = [
        "",
        "plain",
        "a\tb\nc\r\x07\x9f",
        "\u2028\u202e\u2066",
        "🦊" * 130,
        "x" * 120,
        "x" * 121,
        "é" * 5_000,
        "<b>&amp;",
    ]
    dates = [
        datetime(2013, 1, 1, tzinfo=UTC),
        datetime(2013, 1, 1, 5, 30, tzinfo=UTC),
        datetime(1, 1, 1, 0, 0, 9, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
    trees: list[Any] = [
        {"user/name": "Ada", "user/age": 36, "user/boss": {"user/name": None}},
        ["a", 1, True, 2.5, dates[0]],
        [],
        {"k": ["x" * 200] * 3},
        [[[1]], {"deep": [1, {"er": "\u0007"}]}],
        list(range(500)),
    ]
    nested: Any = "end"
    for _ in range(30):
        nested = [nested]
    return [*numbers, *texts, *dates, *trees, nested, True, False, None, Ref("p1")]


def test_cells_read_as_in_the_saved_table(node: str, tmp_path: Path) -> None:
    given = cells()
    file = tmp_path / "cells.json"
    file.write_text(json.dumps([cell_to_wire(cell) for cell in given]), encoding="utf-8")
    script = (
        f"import {{ cellText }} from {json.dumps((STATIC / 'cells.js').as_uri())};"
        "import { readFileSync } from 'node:fs';"
        "const cells = JSON.parse(readFileSync(process.argv[1], 'utf8'));"
        "console.log(JSON.stringify(cells.map(cellText)));"
    )
    said = json.loads(run([node, "--input-type=module", "-e", script, str(file)]))
    for cell, theirs in zip(given, said, strict=True):
        assert theirs == cell_text(cell), f"{cell!r} reads {theirs!r} in a page"


@pytest.mark.long
def test_the_types_hold(node: str) -> None:
    compiler = installed("typescript", TYPESCRIPT, dict(os.environ)) / "typescript" / "bin" / "tsc"
    assert run([node, str(compiler), "-p", "widgets"]) == ""
