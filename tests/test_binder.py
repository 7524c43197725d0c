"""binder/ can be built: what repo2docker would stumble over, checked without it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import yaml  # comes with jupyter-server

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"


def test_the_environment_has_a_python_that_the_project_supports() -> None:
    environment = yaml.safe_load((BINDER / "environment.yml").read_text(encoding="utf-8"))
    pinned = [text for text in environment["dependencies"] if re.fullmatch(r"python=3\.\d+", text)]
    assert len(pinned) == 1 and int(pinned[0].removeprefix("python=3.")) >= 11
    assert "pip" in environment["dependencies"]
    assert set(environment) == {"name", "channels", "dependencies"}


def test_scripts_can_be_executed() -> None:
    scripts = [path for path in BINDER.iterdir() if path.suffix == ""]
    assert {path.name for path in scripts} >= {"postBuild"}
    for path in scripts:
        assert os.access(path, os.X_OK), f"{path.name} is not executable"
        assert path.read_text(encoding="utf-8").startswith("#!"), f"{path.name} has no shebang"
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr


def test_what_it_names_is_there() -> None:
    script = (BINDER / "postBuild").read_text(encoding="utf-8")
    for notebook in re.findall(r"/lab/tree/(\S+\.ipynb)", script):
        assert (ROOT / notebook).is_file(), f"{notebook} is not there"
    for module in re.findall(r"\b(tripleweb_[a-z]+) ", script):
        assert importlib.util.find_spec(module), f"{module} cannot be imported"
    assert "01_quickstart.ipynb" in script and "tripleweb_jupyter" in script
