"""What a user gets: sdist -> wheel -> an empty environment, and an editable install, on every Python that is here.

Packages are installed by pip as it is configured outside of the tests (`outer_environment`).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tripleweb

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tripleweb", "tripleweb_jupyter", "tripleweb_widgets")
SETTINGS = "etc/jupyter/jupyter_server_config.d/tripleweb_jupyter.json"
PROBE = """
import importlib, json, sys, pathlib
where = {name: str(pathlib.Path(importlib.import_module(name).__file__).parent) for name in sys.argv[1:]}
assets = sorted(path.name for path in pathlib.Path(where["tripleweb_widgets"]).rglob("*.js"))
version = importlib.import_module("tripleweb").__version__
print(json.dumps({"where": where, "assets": assets, "prefix": sys.prefix, "version": version}))
"""

# What a user does first: a server, a kernel that writes, another that follows. Run from elsewhere, with the installed.
SMOKE = """
import subprocess, sys, time
from pathlib import Path
import pandas as pd
import tripleweb

if sys.argv[1:] == ["write"]:
    db = tripleweb.connect("smoke")
    frame = pd.DataFrame({"name": ["Ada", None, "Cy"], "age": [36, 41, 7]})
    frame["since"] = pd.Timestamp("2020-01-01", tz="UTC")
    db.insert_frame("user", frame, id="age", prefix="u")
    db.flush()
    sys.exit()
serve = [sys.executable, "-m", "tripleweb.cli", "serve"]
with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
    try:
        assert "serves" in server.stdout.readline()
        db = tripleweb.connect("smoke")
        live = db.live("[:find ?age ?name ?since :order-by [?age] :where [?u :user/age ?age] [?u :user/since ?since]"
                       " [(get-else $ ?u :user/name \\"nobody\\") ?name]]")
        assert len(live) == 0
        subprocess.run([sys.executable, __file__, "write"], check=True, timeout=60)
        frame = live.wait(timeout=30, until=lambda df: len(df) == 3).df
        assert frame["name"].tolist() == ["Cy", "Ada", "nobody"], frame
        assert frame["age"].tolist() == [7, 36, 41] and frame["age"].dtype == "int64", frame.dtypes
        assert str(frame["since"].dtype) == "datetime64[us, UTC]", frame.dtypes
        assert frame["name"].dtype == pd.Series(["text"]).dtype, frame.dtypes
        db.close()
    finally:
        server.terminate()
        assert server.wait(30) == 0
print("pandas", pd.__version__, "agrees")
"""


def pythons() -> list[str]:
    """A Python of each minor version from 3.11 on: this one, those on the PATH, those of pyenv."""
    candidates = [sys.executable, *(shutil.which(f"python3.{minor}") or "" for minor in range(11, 20))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path(pwd.getpwuid(os.getuid()).pw_dir, ".pyenv"))
    candidates += map(str, sorted(pyenv.glob("versions/3.*/bin/python")))
    ask = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2]) if sys.version_info >= (3, 11) else None"
    found: dict[str, str] = {}
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, timeout=30)
        if done.returncode == 0 and (version := done.stdout.strip()):
            found.setdefault(version, candidate)
    return [found[version] for version in sorted(found)]


class Shell:
    """Runs commands in the outer environment and shows what they said if they fail."""

    def __init__(self, environment: dict[str, str]) -> None:
        ours = {name: text for name, text in os.environ.items() if name.startswith(("JUPYTER", "IPYTHON"))}
        self.environment = {**environment, **ours, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.environment.pop("PYTHONPATH", None)

    def __call__(self, *command: str | Path, cwd: Path) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shell(outer_environment: dict[str, str]) -> Shell:
    return Shell(outer_environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    shell(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, shell: Shell) -> Path:
    """Built from the unpacked sdist, not from the checkout."""
    shell(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", sdist / "dist", cwd=sdist)
    (found,) = (sdist / "dist").glob("*.whl")
    return found


def test_the_sdist_can_run_its_own_tests(sdist: Path) -> None:
    for name in (
        "pyproject.toml",
        "conftest.py",
        "Makefile",
        "LICENSE",
        "README.md",
        "ARCHITECTURE.md",
        ".ci/run",
    ):
        assert (sdist / name).is_file(), name
    for folder in ("tests", "notebooks", "binder", "tools"):
        assert any((sdist / folder).iterdir()), folder


def test_the_wheel_has_all_packages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"tripleweb-{tripleweb.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    release = f"tripleweb-{tripleweb.__version__}"
    assert tops == {*PACKAGES, f"{release}.dist-info", f"{release}.data"}
    assert f"{release}.data/data/{SETTINGS}" in names
    here = {
        path.relative_to(root).as_posix()
        for root, package in (
            (ROOT, "tripleweb"),
            (ROOT / "jupyter_ext", PACKAGES[1]),
            (ROOT / "widgets", PACKAGES[2]),
        )
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here == {name for name in names if name.split("/")[0] in PACKAGES}


def check_installed(shell: Shell, binaries: Path, elsewhere: Path, expected: dict[str, Path]) -> None:
    """Seen from a folder that is not the checkout: imports, version, assets, the command, the enabled extension."""
    told = json.loads(shell(binaries / "python", "-c", PROBE, *PACKAGES, cwd=elsewhere))
    assert {name: Path(where) for name, where in told["where"].items()} == expected
    assert told["version"] == tripleweb.__version__
    assets = sorted(path.name for path in (ROOT / "widgets" / "tripleweb_widgets").rglob("*.js"))
    assert told["assets"] == assets
    assert (Path(told["prefix"]) / SETTINGS).is_file()
    listed = shell(binaries / "jupyter", "server", "extension", "list", cwd=elsewhere)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", listed)
    assert re.search(r"tripleweb_jupyter.*enabled", plain), plain
    assert re.search(rf"tripleweb_jupyter {re.escape(tripleweb.__version__)}.*OK", plain), plain
    assert tripleweb.__version__ in shell(binaries / "tripleweb", "--version", cwd=elsewhere)


def check_smoke(shell: Shell, python: Path, folder: Path) -> str:
    """The real thing with what is installed there: a server and two clients in processes of their own."""
    script = folder / "smoke.py"
    script.write_text(SMOKE, encoding="utf-8")
    data = Shell({**shell.environment, "TRIPLEWEB_DATA": str(folder / "data")})
    said = data(python, script, cwd=folder)
    assert "agrees" in said
    return said


def test_the_lower_bounds_are_true(wheel: Path, shell: Shell, tmp_path: Path) -> None:
    """Every dependency at the oldest version that pyproject.toml allows."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = [need.replace(">=", "==") for need in tomllib.load(file)["project"]["dependencies"]]
    assert "pandas==2.2" in wanted
    shell(pythons()[0], "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    shell(python, "-m", "pip", "--quiet", "install", wheel, *wanted, cwd=tmp_path)
    assert "pandas 2.2.0 agrees" in check_smoke(shell, python, tmp_path)


@pytest.mark.parametrize("python", pythons())
def test_installs_into_an_empty_environment(
    python: str, wheel: Path, sdist: Path, shell: Shell, tmp_path: Path
) -> None:
    """The wheel with its dependencies; then, the wheel gone without a trace, the same tree editable."""
    shell(python, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    binaries = tmp_path / "env" / "bin"
    pip = (binaries / "python", "-m", "pip", "--quiet")
    shell(*pip, "install", wheel, cwd=tmp_path)
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(shell(binaries / "python", "-c", asked, cwd=tmp_path).strip())
    check_installed(shell, binaries, tmp_path, {name: packages / name for name in PACKAGES})
    check_smoke(shell, binaries / "python", tmp_path)
    shell(*pip, "uninstall", "--yes", "tripleweb", cwd=tmp_path)
    assert not (tmp_path / "env" / SETTINGS).exists(), "uninstalling leaves the extension enabled"

    tree = tmp_path / "tree"
    shutil.copytree(sdist, tree, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    shell(*pip, "install", "--editable", tree, cwd=tmp_path)
    folders = (tree, tree / "jupyter_ext", tree / "widgets")
    check_installed(
        shell,
        binaries,
        tmp_path,
        {name: folder / name for name, folder in zip(PACKAGES, folders, strict=True)},
    )
