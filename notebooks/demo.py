"""`make demo`: JupyterLab with the demo notebooks, on a free port, leaving no trace outside of the checkout.

The notebooks are worked on as copies in `.demo/`, beside the demo's data and Jupyter's own files, so that neither the
checkout nor the home directory changes; `make clean` removes them. `make demo HEADLESS=1` tells the same story
without a browser (`story`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import webbrowser
from pathlib import Path

from notebooks.server import JupyterServer
from notebooks.story import tell

NOTEBOOKS = Path(__file__).resolve().parent
FIRST = "01_quickstart.ipynb"


def has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def show() -> int:
    """JupyterLab until Ctrl-C. What was changed in a notebook of the demo is still there the next time."""
    folder = NOTEBOOKS.parent / ".demo"
    # Looking for language servers starts npm, which leaves its cache in the home directory.
    server = JupyterServer(folder, app="jupyterlab", options=("--LanguageServerManager.autodetect=False",))
    server.work.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not (server.work / notebook.name).exists():
            shutil.copy(notebook, server.work)
    with server:
        address = f"{server.url}lab/tree/{FIRST}?token={server.token}"
        print(
            f"\nJupyterLab is running with the demo notebooks:\n\n    {address}\n\nCtrl-C ends it.",
            flush=True,
        )
        if has_display():
            webbrowser.open(address)
        try:
            return server.wait()
        except KeyboardInterrupt:
            print()
            return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    parser.add_argument("--headless", action="store_true", help="tell the story without a browser")
    headless = parser.parse_args(arguments).headless
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # as Ctrl-C: take the server along
    return tell() if headless else show()


if __name__ == "__main__":
    sys.exit(main())
