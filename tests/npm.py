"""Packages of npm that tests run, installed once into a folder of the cache, outside of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SECONDS = 110


def installed(package: str, version: str, environment: dict[str, str]) -> Path:
    """The folder `node_modules` that has the package; `environment` is the one outside of pytest. Skips without npm."""
    for program in ("node", "npm"):
        if shutil.which(program, path=environment.get("PATH")) is None:
            pytest.skip(f"{package} is not there: there is no {program}")
    home = environment.get("XDG_CACHE_HOME") or os.path.join(
        environment.get("HOME") or tempfile.gettempdir(), ".cache"
    )
    for above in (Path(home), Path(tempfile.gettempdir())):
        folder = above / "tripleweb-tests" / f"{package}-{version}"
        if (folder / "node_modules" / package).exists():
            return folder / "node_modules"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(dir=folder.parent))
            break
        except OSError:  # no home that can be written to
            continue
    (fresh / "package.json").write_text("{}", encoding="utf-8")
    command = ["npm", "install", "--prefix", str(fresh), "--no-audit", "--no-fund", f"{package}@{version}"]
    npm = {**environment, "npm_config_cache": str(fresh / "npm-cache")}
    done = subprocess.run(command, env=npm, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        pytest.skip(f"{package} is not there: npm could not install it: {done.stderr.strip()[-200:]}")
    shutil.rmtree(fresh / "npm-cache", ignore_errors=True)
    try:
        fresh.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(fresh, ignore_errors=True)
    return folder / "node_modules"
