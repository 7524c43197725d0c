"""`make demo`: JupyterLab with the demo notebooks, on a free port, leaving no trace outside of the checkout.

The notebooks are worked on as copies in `.demo/`, beside the demo's data and Jupyter's own files, so that neither the
checkout nor the home directory changes; `make clean` removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from types import TracebackType

NOTEBOOKS = Path(__file__).resolve().parent
FIRST = "01_quickstart.ipynb"


class JupyterServer:
    """A real Jupyter server in a process of its own, with all its files in one folder.

    The server runs from `__enter__` (which returns when it answers; `RuntimeError` with its last words if it never
    does) to `__exit__`. `url` ends with a slash; `token` opens it. `folder/work` is what its file browser shows.
    """

    def __init__(self, folder: Path, *, app: str = "jupyter_server", options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.runtime = folder / "jupyter" / "runtime"
        self.log = folder / "server.log"
        self.app = app
        self.options = options
        self.url = ""
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> JupyterServer:
        for path in (self.work, self.runtime):
            path.mkdir(parents=True, exist_ok=True)
        jupyter = self.folder / "jupyter"
        environment = {
            **os.environ,
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
            "JUPYTER_DATA_DIR": str(jupyter / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(jupyter / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(jupyter / "workspaces"),
            "TRIPLEWEB_DATA": str(self.folder / "data"),
        }
        for name in (
            "TRIPLEWEB_URL",
            "TRIPLEWEB_TOKEN",
            "JPY_PARENT_PID",
            "JPY_SESSION_NAME",
            "JUPYTER_TOKEN",
        ):
            environment.pop(name, None)
        command = [sys.executable, "-m", self.app, "--no-browser", "--ip=127.0.0.1", *self.options]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.work,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(60)
        except BaseException:
            self._stop()
            raise
        return self

    def _wait_until_it_answers(self, timeout: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        # The port is only known once it is bound: Jupyter takes the next one where it is taken.
        told = self.runtime / f"jpserver-{self._process.pid}.json"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                about = json.loads(told.read_text(encoding="utf-8"))
                self.url, self.token = about["url"], about["token"]
                self.get("api")
                return
            except (FileNotFoundError, json.JSONDecodeError, urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise RuntimeError(
            f"the Jupyter server did not start:\n{self.log.read_text(errors='replace')[-3000:]}"
        )

    def get(self, path: str, payload: object = None) -> object:
        """The JSON at a path below `url`; with a payload, what it answers to posting that."""
        data = None if payload is None else json.dumps(payload).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def wait(self) -> int:
        """Until the server ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def _stop(self) -> None:
        """The server shuts its kernels down when it is asked to end; what is left after 10 s of its group is killed."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


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
    parser.parse_args(arguments)
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # as Ctrl-C: take the server along
    return show()


if __name__ == "__main__":
    sys.exit(main())
