"""python -m tests.bench [MODULE ...]: runs benchmark modules (all by default) and prints their figures as JSON."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    names = sys.argv[1:] or sorted(
        m.name for m in pkgutil.iter_modules([str(here)]) if not m.name.startswith("_")
    )
    figures = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = importlib.import_module(f"tests.bench.{name}").run()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
