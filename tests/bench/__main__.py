"""python -m tests.bench [MODULE ...] [--OPTION ...]: runs benchmark modules (all by default, the history at the end)
and prints their figures as JSON. Options go to the one module that is named. Ends with an error if a module tells of
disagreements: answers that are not those of the others."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    words = sys.argv[1:]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names, flags = words[:first], words[first:]
    if flags and len(names) != 1:
        sys.exit("options need the one module they are for: python -m tests.bench MODULE --OPTION ...")
    modules = sorted(m.name for m in pkgutil.iter_modules([str(here)]) if not m.name.startswith("_"))
    names = names or sorted(modules, key=lambda name: name == "history")
    figures = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run = importlib.import_module(f"tests.bench.{name}").run
        figures[name] = run(flags) if flags else run()
    print(json.dumps(figures, indent=2))
    wrong = [f"! {name}: {said}" for name, told in figures.items() for said in told.get("disagreements", ())]
    if wrong:
        sys.exit("\n".join(["ANSWERS DISAGREE", *wrong]))


if __name__ == "__main__":
    main()
