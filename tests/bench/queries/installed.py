"""How the engines of the bench are started; `live.installed` says where peers are kept."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.live.installed import NODE, PEERS, node_modules, python
from tests.bench.queries.asked import OWN, OWN_FILE
from tests.bench.queries.asked import PEERS as ENGINES_OF_OTHERS

PINS = PEERS / "queries"
ENGINES = (OWN, OWN_FILE, *ENGINES_OF_OTHERS)

_MODULES = {
    "cozo": "cozo_queries",
    "duckdb": "sql_queries",
    "sqlite": "sql_queries",
    "oxigraph": "oxigraph_queries",
    "pandas": "frame_queries",
    "polars": "frame_queries",
}


def command(engine: str, folder: Path, out: Path, options: Mapping[str, Any]) -> list[str]:
    """The command that runs an engine, in the checkout. Raises `NotInstalled`."""
    name, _, variant = engine.partition("-")
    if engine in (OWN, OWN_FILE):
        words = [sys.executable, "-m", "tests.bench.queries.own"]
    elif engine == "datascript":
        modules = node_modules(PEERS)
        shutil.copy(PEERS / "datascript_queries.mjs", modules)  # imports are looked up from where the file is
        words = ["node", "--expose-gc", NODE, str(modules / "datascript_queries.mjs")]
    else:
        words = [_interpreter(name), "-W", "ignore", "-m", f"tests.bench.peers.{_MODULES[name]}"]
        variant = engine
    return [*words, str(folder), str(out), json.dumps({**options, "variant": variant})]


def _interpreter(name: str) -> str:
    """Answers of all but polars and pandas are made frames without pyarrow, as tripleweb's are: that is faster."""
    if name == "sqlite":  # comes with Python
        return sys.executable
    return str(python(PINS / ("frames.txt" if name in ("pandas", "polars") else "requirements.txt")))
