"""House rules as tests (the reasons stand in CONTRIBUTING.md, "House rules"). A rule is a function from text to the
places where it is broken; the second half plants a breach of each."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("tripleweb", "jupyter_ext", "widgets")
SKIPPED_FOLDERS = {"__pycache__", "node_modules", "build", "dist", ".ipynb_checkpoints"}
TEXT_ENDINGS = set(".py .md .js .mjs .css .toml .json .yml .yaml .ipynb .sh .txt .edn".split()) | {""}
LINES_MAX = 600
# Names that say where code was put instead of what it is about.
EMPTY_NAMES = set("base common core helper helpers lib manager misc shared stuff tools util utils".split())

Rule = Callable[[str], Iterator[str]]


def files(*folders: str) -> list[Path]:
    """The project's own text files: everything in the checkout but hidden and generated folders."""
    found = []
    for folder in folders or (".",):
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
            hidden |= path.name == ".git"  # a file in a second worktree
            if hidden or SKIPPED_FOLDERS & set(parts) or any(part.endswith(".egg-info") for part in parts):
                continue
            if path.is_file() and path.suffix in TEXT_ENDINGS:
                found.append(path)
    return found


def python_files(*folders: str) -> list[Path]:
    return [path for path in files(*folders) if path.suffix == ".py"]


def check(paths: list[Path], *rules: Rule) -> None:
    assert paths, "nothing to check: this test holds nothing"
    found = [
        f"{path.relative_to(ROOT)}:{place}"
        for path in paths
        for rule in rules
        for place in rule(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


# ---------------------------------------- the rules


def too_long(text: str) -> Iterator[str]:
    count = len(text.splitlines())
    if count > LINES_MAX:
        yield f"1: {count} lines; a module has at most {LINES_MAX}"


def no_head(text: str) -> Iterator[str]:
    if text.strip() and not ast.get_docstring(ast.parse(text)):
        yield "1: no docstring at the head that says what this is"


def no_future_annotations(text: str) -> Iterator[str]:
    body = ast.parse(text).body
    if len(body) > 1 and not any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in body
    ):
        yield "1: no `from __future__ import annotations`"


def indirect_imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"{node.lineno}: a relative import"
            if any(alias.name == "*" for alias in node.names):
                yield f"{node.lineno}: a star import"


def swallowed_exceptions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            idle = all(isinstance(part, (ast.Pass, ast.Continue)) for part in node.body)
            if broad and idle:
                yield f"{node.lineno}: every exception is swallowed"


def lines_with(pattern: str, said: str, flags: int = 0) -> Rule:
    def rule(text: str) -> Iterator[str]:
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line, flags):
                yield f"{number}: {said}: {line.strip()[:80]}"

    return rule


# The brackets keep these patterns from finding themselves.
unfinished = lines_with(r"\b(TO[D]O|FIX[M]E|XX[X]|NotImplemented[E]rror)\b", "unfinished")
places_of_one_machine = lines_with(
    r"(?<![\w.])/(work|farm|root|home|Users)/\w|/tmp/te[a]m", "a path of one machine"
)
registry_hosts = lines_with(
    r"\b(pypi[.]org|pythonhosted[.]org|registry[.]npmjs|registry[.]yarnpkg|deb[.]debian)",
    "a registry's host (the ordinary clients know theirs)",
)
numbers_of_papers = lines_with(
    r"\bissues? #?[0-9]", "a numbered paper instead of what it says", re.IGNORECASE
)


def hopeful_sleeps(text: str) -> Iterator[str]:
    """A sleep is fine as the pause of a loop that has a deadline; alone it is a hope."""

    def visit(node: ast.AST, has_deadline: bool) -> Iterator[str]:
        if isinstance(node, (ast.While, ast.For, ast.AsyncFor)):
            has_deadline = has_deadline or bool(re.search(r"deadline|monotonic|timeout", ast.unparse(node)))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            has_deadline = False
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep":
            yields_only = (
                bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            )
            if not has_deadline and not yields_only:
                yield f"{node.lineno}: sleeps and hopes: wait for a condition, in a loop with a deadline"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, has_deadline)

    yield from visit(ast.parse(text), False)


def idle_tests(text: str) -> Iterator[str]:
    """A test needs something that can fail: an assert, `raises`, or a call that checks or waits."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            body = "\n".join(ast.unparse(part) for part in node.body)
            if not re.search(r"\bassert|raises\(|\bcheck|assert_|expect|agree|wait_", body):
                yield f"{node.lineno}: {node.name} asserts nothing"


def untidy_notebook(text: str) -> Iterator[str]:
    """Fixed readable ids, no counts, no traces of a run; outputs only where nbval compares them."""
    notebook = json.loads(text)
    if (notebook["nbformat"], notebook["nbformat_minor"]) < (4, 5):
        yield "1: older than format 4.5, which gives cells their ids"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    if notebook["metadata"] != {"kernelspec": kernel, "language_info": {"name": "python"}}:
        yield f"1: metadata that says more than the kernel: {sorted(notebook['metadata'])}"
    if text != json.dumps(notebook, indent=1, ensure_ascii=False) + "\n":
        yield "1: not written as nbformat writes it (indent 1, no escapes, a newline at the end)"
    seen = set()
    for number, cell in enumerate(notebook["cells"], 1):
        name = cell.get("id", "")
        if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name) or re.fullmatch(r"[0-9a-f]{8}(-.*)?", name):
            yield f"cell {number}: the id {name!r} is not a word that stays"
        if name in seen:
            yield f"cell {number}: the id {name!r} is there twice"
        seen.add(name)
        if cell["metadata"].keys() - {"tags"}:
            yield f"cell {number}: metadata {sorted(cell['metadata'])}"
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        compared = source.startswith("# NBVAL_CHECK_OUTPUT\n")
        # nbval compares nothing in a cell that has no count
        if cell["execution_count"] != (1 if compared else None) or any(
            output.get("execution_count") for output in cell["outputs"]
        ):
            yield f"cell {number}: an execution count that is not {'1' if compared else 'null'}"
        if bool(cell["outputs"]) != compared:
            yield f"cell {number}: an output that no test compares, or a comparison with nothing"
        if re.search(r"(?<!^)# NBVAL_", source):
            yield f"cell {number}: nbval reads its markers only as a line of their own at the top"


# ---------------------------------------- the project


def test_modules() -> None:
    check(
        python_files(*SOURCES),
        too_long,
        no_head,
        no_future_annotations,
        indirect_imports,
        swallowed_exceptions,
    )


def test_names_of_modules() -> None:
    empty = [path for path in python_files(*SOURCES, "tests") if path.stem.strip("_") in EMPTY_NAMES]
    assert not empty, f"a module is named for what it is about: {empty}"


def test_tests() -> None:
    tests = [path for path in python_files("tests") if path != Path(__file__)]
    check(tests, no_head, no_future_annotations, hopeful_sleeps, idle_tests, swallowed_exceptions)


def test_tests_lie_where_pytest_looks() -> None:
    lost = [
        path
        for path in python_files()
        if path.stem.startswith("test_") and path.parts[len(ROOT.parts)] != "tests"
    ]
    assert not lost, lost


def test_every_text() -> None:
    paths = [path for path in files() if path != Path(__file__)]
    check(paths, unfinished, places_of_one_machine, registry_hosts, numbers_of_papers)


def test_notebooks() -> None:
    check([path for path in files("notebooks") if path.suffix == ".ipynb"], untidy_notebook)


# ---------------------------------------- each breach, planted

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "load-flights",
            "metadata": {},
            "outputs": [],
            "source": ["1"],
        }
    ],
    "metadata": {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


def notebook(**changes: object) -> str:
    """The tidy notebook above with its one cell changed."""
    return (
        json.dumps({**NOTEBOOK, "cells": [{**NOTEBOOK["cells"][0], **changes}]}, indent=1, ensure_ascii=False)
        + "\n"
    )


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (too_long, "\n" * 601),
        (no_head, "x = 1"),
        (no_future_annotations, '"""Head."""\nx = 1'),
        (indirect_imports, "from .terms import Ref"),
        (indirect_imports, "from tripleweb.terms import *"),
        (swallowed_exceptions, "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed_exceptions, "try:\n    f()\nexcept:\n    pass"),
        (unfinished, "# TO" + "DO: later"),
        (unfinished, "raise NotImplemented" + "Error"),
        (places_of_one_machine, 'open("/ro' + 'ot/notes")'),
        (registry_hosts, "https://pypi" + ".org/simple"),
        (numbers_of_papers, "as issue " + "7 demands"),
        (hopeful_sleeps, "def test_a():\n    time.sleep(1)\n    assert done"),
        (hopeful_sleeps, "while not done():\n    sleep(0.1)"),
        (hopeful_sleeps, "while time.monotonic() < deadline:\n    def f():\n        time.sleep(1)"),
        (idle_tests, "def test_a():\n    run()"),
        (untidy_notebook, notebook(id="3f2a9c1e")),
        (untidy_notebook, notebook(id="3f2a9c1e-11d2")),
        (untidy_notebook, notebook(execution_count=3)),
        (
            untidy_notebook,
            notebook(source=["# NBVAL_CHECK_OUTPUT\n", "1"], outputs=[{"output_type": "stream"}]),
        ),
        (untidy_notebook, notebook(source=["# NBVAL_CHECK_OUTPUT\n", "1"], execution_count=1)),
        (untidy_notebook, notebook(metadata={"collapsed": True})),
        (untidy_notebook, notebook(outputs=[{"output_type": "stream", "name": "stdout", "text": ["1"]}])),
        (untidy_notebook, notebook(source=["f() # NBVAL_IGNORE_OUTPUT"])),
        (untidy_notebook, json.dumps(NOTEBOOK)),
        (untidy_notebook, json.dumps({**NOTEBOOK, "metadata": {"widgets": {}}}, indent=1) + "\n"),
        (untidy_notebook, json.dumps({**NOTEBOOK, "cells": NOTEBOOK["cells"] * 2}, indent=1) + "\n"),
    ],
)
def test_each_breach_is_found(rule: Rule, text: str) -> None:
    assert len(list(rule(text))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (no_head, ""),
        (swallowed_exceptions, "try:\n    f()\nexcept OSError:\n    pass"),
        (swallowed_exceptions, "try:\n    f()\nexcept Exception as error:\n    seen.append(error)"),
        (places_of_one_machine, "(r'/api/tripleweb/v1/work/x', h)  # https://example.com/home/page"),
        (hopeful_sleeps, "while not done():\n    assert time.monotonic() < deadline\n    time.sleep(0.01)"),
        (hopeful_sleeps, "async def turn():\n    await asyncio.sleep(0)"),
        (idle_tests, "def test_a():\n    with pytest.raises(ValueError):\n        f()"),
        (untidy_notebook, notebook()),
        (
            untidy_notebook,
            notebook(
                source=["# NBVAL_CHECK_OUTPUT\n", "1"], outputs=[{"output_type": "stream"}], execution_count=1
            ),
        ),
    ],
)
def test_what_is_allowed_is_no_breach(rule: Rule, text: str) -> None:
    assert list(rule(text)) == []
