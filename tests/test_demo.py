"""`make demo HEADLESS=1` and the quickstart, each as a person would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from notebooks import story

ROOT = Path(__file__).resolve().parent.parent


def run_demo(tmp_path: Path, *, script: str = "") -> subprocess.CompletedProcess[str]:
    """The demo in a process of its own; `script` runs before it."""
    home = tmp_path / "home"
    home.mkdir()
    code = f"import sys\n{script}\nfrom notebooks.demo import main\nsys.exit(main(['--headless']))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.long
def test_the_headless_demo_agrees_with_pandas(tmp_path: Path) -> None:
    """A real server, two kernels: exits 0, and a row is in the other kernel's live frame within 250 ms (median)."""
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("every frame agreed with pandas")
    medians = [int(ms) for ms in re.findall(r"(\d+) ms each \(median", done.stdout)]
    assert len(medians) == 2, done.stdout
    assert max(medians) < 250, done.stdout
    assert not list(tmp_path.glob("tripleweb-demo-*")), "the demo left files behind"


@pytest.mark.long
def test_the_headless_demo_fails_unless_it_agrees(tmp_path: Path) -> None:
    """Pandas' own answer is wrong by one flight here: the demo must notice."""
    plant = (
        "from notebooks.story import Story\n"
        "right = Story.notes\n"
        "Story.notes = lambda self, flights: right(self, flights).iloc[1:]"
    )
    done = run_demo(tmp_path, script=plant)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT WHAT PANDAS SAYS" in done.stdout


def test_the_data_is_what_the_demo_says() -> None:
    tables = story.read_tables()
    assert {kind: len(table) for kind, table in tables.items()} == {
        "airport": 1458,
        "airline": 16,
        "plane": 3322,
        "flight": 842,
    }
    day = tables["flight"]
    assert not day.duplicated(["carrier", "flight"]).any()
    assert isinstance(day["time_hour"].dtype, pd.DatetimeTZDtype)


def test_the_makefile_runs_this_demo() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m notebooks.demo $(if $(HEADLESS),--headless)" in makefile
