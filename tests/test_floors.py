"""The floors drawn in ARCHITECTURE.md hold: the drawing is read here, and every module's imports against it.

Imports count wherever they stand: at the top, inside a function, under TYPE_CHECKING, or as a literal handed
to `import_module`. The second half plants each kind of breach and sees that it is found.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "tripleweb": ROOT / "tripleweb",
    "tripleweb_jupyter": ROOT / "jupyter_ext" / "tripleweb_jupyter",
    "tripleweb_widgets": ROOT / "widgets" / "tripleweb_widgets",
}
PURE = 3  # the highest floor without clock, randomness, threads, sockets or databases
PURE_LIBRARIES = {"msgspec", "nanoid"}
NUMPY_ROOM = (
    "tripleweb.datalog.vectorised"  # it alone below the frames has numpy, and is imported on first use
)
IMPURE = set(
    "_thread asyncio concurrent http multiprocessing queue random sched secrets select selectors signal "
    "socket socketserver sqlite3 ssl subprocess tempfile threading time urllib uuid".split()
)
CLOCK_CALLS = {"now", "utcnow", "today"}
OS_CALLS = {"urandom", "getrandom", "environ", "getenv", "getpid", "fork", "open", "system"}
RANDOM_NANOID = {"generate", "non_secure_generate"}
# Libraries with a floor of their own, below which they are not imported.
FIRST_FLOOR = {"pandas": 6, "IPython": 6, "anywidget": 7, "ipywidgets": 7}


@dataclass(frozen=True)
class House:
    """The drawing: a floor for each name in it, and the modules that exist."""

    floors: dict[str, int]
    modules: frozenset[str]

    def floor(self, module: str) -> int | None:
        """The floor of a module. A drawn package stands for all that is in it, the root for itself only."""
        name = module
        while name not in self.floors:
            name, dot, _ = name.rpartition(".")
            if not dot or name == "tripleweb":
                return None
        return self.floors[name]


def read_drawing(text: str) -> dict[str, int]:
    """Module -> floor, from the first fenced block under the heading "Floors".

    A line is a number, a word for the floor, then modules; an indented line continues the one above. A bare
    name is a module of `tripleweb`, unless it names one of the three packages.
    """
    block = re.search(r"^## Floors$.*?^```\w*$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert block, "ARCHITECTURE.md has no fenced drawing under '## Floors'"
    floors: dict[str, int] = {}
    floor = -1
    for line in block[1].strip().splitlines():
        words = line.split()
        if not line[0].isspace():
            floor, words = int(words[0]), words[2:]
        for word in words:
            name = word if word in PACKAGES else f"tripleweb.{word}"
            assert name not in floors, f"{word} is drawn twice"
            floors[name] = floor
    return floors


def read_index(text: str, modules: frozenset[str]) -> set[str]:
    """The modules named in the right columns of the tables under "Where things are"."""
    section = text.partition("\n### Where things are\n")[2].partition("\n## ")[0]
    assert section, "ARCHITECTURE.md has no section 'Where things are'"
    named = set()
    for line in section.splitlines():
        for word in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2]) if line.startswith("|") else ():
            homes = [home for home in ("tripleweb.datalog.", "tripleweb.") if f"{home}{word}" in modules]
            assert homes, f"{word} is no module: {line}"
            named.update(f"{home}{word}" for home in homes)
    return named


def find_modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(
    tree: ast.AST, module: str, modules: frozenset[str], is_package: bool = False
) -> Iterator[tuple[str, int]]:
    """Every (imported module, line); `from package import name` is `package.name` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.split(".")
                source = ".".join(
                    parents[: len(parents) - node.level + is_package] + ([source] if source else [])
                )
            for alias in node.names:
                deeper = f"{source}.{alias.name}"
                yield (deeper if deeper in modules else source), node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
                yield str(node.args[0].value), node.lineno


def breaches(module: str, source: str, house: House, is_package: bool = False) -> list[str]:
    """What this source does that its floor does not allow, each as `module:line: sentence`."""
    found: list[str] = []
    floor = house.floor(module)
    if floor is None:
        return [f"{module}:1: not in the drawing of ARCHITECTURE.md"]

    def breach(line: int, text: str) -> None:
        found.append(f"{module}:{line}: {text} (floor {floor})")

    tree = ast.parse(source)
    for target, line in imports(tree, module, house.modules, is_package):
        top = target.split(".")[0]
        if top in PACKAGES:
            theirs = house.floor(target)
            if theirs is None or theirs > floor:
                breach(line, f"imports {target} of floor {theirs}")
        elif floor < FIRST_FLOOR.get(top, 0):
            breach(line, f"imports {top}, which enters on floor {FIRST_FLOOR[top]}")
        elif floor <= PURE:
            if top in IMPURE:
                breach(line, f"imports {top}")
            elif top not in sys.stdlib_module_names | PURE_LIBRARIES and not (
                top == "numpy" and is_in_numpy_room(module)
            ):
                breach(line, f"imports {top}, neither the standard library nor {sorted(PURE_LIBRARIES)}")
    if floor <= PURE:
        for line, text in impurities(tree):
            breach(line, text)
        if not is_in_numpy_room(module):
            for target, line in imports(on_import(tree), module, house.modules, is_package):
                if is_in_numpy_room(target):
                    breach(line, f"imports {target} at the top, not on first use")
    return sorted(set(found))


def is_in_numpy_room(module: str) -> bool:
    return module == NUMPY_ROOM or module.startswith(f"{NUMPY_ROOM}.")


def on_import(tree: ast.Module) -> ast.Module:
    """What is run when a module is imported: no bodies of functions, and nothing for the type checker only."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(kept, [])


def impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Uses of the clock, of randomness and of unordered iteration that need no forbidden import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).split(".")[-1]
            if node.attr in CLOCK_CALLS and owner in ("datetime", "date", "dt", "Timestamp"):
                yield node.lineno, f"reads the clock by {ast.unparse(node)}"
            if node.attr in OS_CALLS and owner == "os":
                yield node.lineno, f"uses {ast.unparse(node)}"
            if node.attr in RANDOM_NANOID and owner == "nanoid":
                yield node.lineno, f"draws randomness by {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "os" and names & OS_CALLS:
                yield node.lineno, f"imports {sorted(names & OS_CALLS)} from os"
            if node.module == "nanoid" and names & RANDOM_NANOID:
                yield node.lineno, "imports nanoid's own randomness"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("list", "tuple", "iter", "enumerate") and node.args and is_set(node.args[0]):
                yield node.lineno, "takes the elements of a set in no particular order: sort them"
        elif isinstance(node, (ast.For, ast.comprehension)) and is_set(node.iter):
            yield node.iter.lineno, "iterates over a set in no particular order: sort it"


def is_set(node: ast.expr) -> bool:
    return isinstance(node, (ast.Set, ast.SetComp)) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that `start` imports, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for target in graph.get(todo.pop(), set()) - seen:
            seen.add(target)
            todo.append(target)
    return seen


MODULES = find_modules()
HOUSE = House(read_drawing((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")), frozenset(MODULES))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_keeps_to_its_floor(module: str) -> None:
    path = MODULES[module]
    found = breaches(module, path.read_text(encoding="utf-8"), HOUSE, path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_drawing_shows_only_what_is_there() -> None:
    ghosts = sorted(name for name in HOUSE.floors if name not in MODULES)
    assert not ghosts, f"drawn in ARCHITECTURE.md, but not there: {ghosts}"


def test_every_module_is_found_by_what_it_does() -> None:
    modules = frozenset(find_modules())
    named = read_index((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), modules)
    packages = {name.rpartition(".")[0] for name in modules}
    wanted = {name for name in modules - packages if name.startswith("tripleweb.")}
    assert not sorted(wanted - named), "modules without a line under 'Where things are'"
    with pytest.raises(AssertionError, match="ghost is no module"):
        read_index("\n### Where things are\n\n| what | `store`; `ghost` |\n", modules)


def test_session_and_hub_never_import_each_other() -> None:
    graph = {
        module: {
            target
            for target, _ in imports(ast.parse(path.read_text(encoding="utf-8")), module, HOUSE.modules)
        }
        for module, path in MODULES.items()
    }
    for one, other in (("tripleweb.session", "tripleweb.hub"), ("tripleweb.hub", "tripleweb.session")):
        assert one in MODULES, f"{one} is gone: this test holds nothing any more"
        assert other not in reachable(one, graph), f"{one} reaches {other}"


def test_the_type_checker_is_strict_on_every_pure_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["files"] == ["tripleweb"]
    assert "exclude" not in settings
    assert all(set(override) == {"module", "ignore_missing_imports"} for override in settings["overrides"])


LIGHT = """
import sys
events = []
def hook(event, args):
    if event in ("_thread.start_new_thread", "socket.__new__"):
        events.append(event)
sys.addaudithook(hook)
import tripleweb
heavy = [name for name in %r if name in sys.modules]
assert not heavy, f"import tripleweb loads {heavy}"
assert not events, f"import tripleweb causes {events}"
import threading
assert threading.active_count() == 1, threading.enumerate()
"""


def test_import_is_light() -> None:
    heavy = "pandas numpy tornado IPython jupyter_server ipykernel ipywidgets anywidget".split()
    done = subprocess.run(
        [sys.executable, "-c", LIGHT % heavy], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------- the checker itself, each breach planted

PLANTED_HOUSE = House(
    read_drawing(
        "## Floors\n```\n7 faces tripleweb\n6 frame frame\n4 links link\n2 query datalog\n0 words terms\n```\n"
    ),
    frozenset(
        ["tripleweb", "tripleweb.frame", "tripleweb.link", "tripleweb.datalog", "tripleweb.datalog.edn"]
    ),
)


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("tripleweb.terms", "from tripleweb.datalog import edn", "imports tripleweb.datalog.edn of floor 2"),
        ("tripleweb.terms", "from tripleweb import t", "imports tripleweb of floor 7"),
        ("tripleweb.datalog.edn", "def f():\n    import tripleweb.link", "imports tripleweb.link of floor 4"),
        ("tripleweb.datalog.edn", "from ..link import Link", "imports tripleweb.link of floor 4"),
        ("tripleweb.datalog", "def f():\n    import_module('tripleweb.frame')", "of floor 6"),
        ("tripleweb.datalog", "if TYPE_CHECKING:\n    import pandas", "enters on floor 6"),
        ("tripleweb.link", "import pandas as pd", "enters on floor 6"),
        ("tripleweb.frame", "import anywidget", "enters on floor 7"),
        ("tripleweb.terms", "import time", "imports time"),
        ("tripleweb.terms", "from concurrent.futures import ThreadPoolExecutor", "imports concurrent"),
        ("tripleweb.terms", "import requests", "neither the standard library"),
        ("tripleweb.datalog", "import numpy", "neither the standard library"),
        ("tripleweb.datalog", "from tripleweb.datalog.vectorised import Vectorised", "not on first use"),
        ("tripleweb.terms", "import datetime\ndatetime.datetime.now()", "reads the clock"),
        ("tripleweb.terms", "from datetime import date\ndate.today()", "reads the clock"),
        ("tripleweb.terms", "import os\nos.urandom(8)", "uses os.urandom"),
        ("tripleweb.terms", "from os import urandom", "from os"),
        ("tripleweb.terms", "from nanoid import generate", "nanoid's own randomness"),
        ("tripleweb.terms", "for x in set(xs): pass", "iterates over a set"),
        ("tripleweb.terms", "[x for x in {1, 2}]", "iterates over a set"),
        ("tripleweb.terms", "list(set(xs))", "elements of a set"),
        ("tripleweb.ghost", "", "not in the drawing"),
    ],
)
def test_each_breach_is_found(module: str, source: str, said: str) -> None:
    found = breaches(module, source, PLANTED_HOUSE)
    assert len(found) == 1 and said in found[0], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tripleweb.terms", "import math, datetime, msgspec\nfrom nanoid import resources"),
        ("tripleweb.terms", "sorted(set(xs)); len({1, 2}); self.now; instance.today"),
        ("tripleweb.datalog.edn", "from tripleweb.terms import Ref"),
        ("tripleweb.datalog.vectorised", "import numpy"),
        ("tripleweb.datalog.vectorised.steps", "import numpy as np"),
        ("tripleweb.datalog", "def first():\n    from tripleweb.datalog.vectorised import Vectorised"),
        ("tripleweb.link", "import tornado, asyncio, time\nfrom tripleweb.datalog.edn import read"),
        ("tripleweb.frame", "import pandas"),
        ("tripleweb", "import tripleweb.frame"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    assert breaches(module, source, PLANTED_HOUSE) == []


def test_a_detour_between_session_and_hub_is_seen() -> None:
    assert "hub" in reachable("session", {"session": {"web"}, "web": {"hub", "session"}})
