"""A real Jupyter server and its kernels, driven from outside of them: for the demo and for tests.

Everything runs on loopback and leaves its files in one folder. Nothing here waits without a deadline, and what is
started is ended by its process id.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient


class JupyterServer:
    """A real Jupyter server in a process of its own, with all its files in one folder.

    The server runs from `__enter__` (which returns when it answers; `RuntimeError` with its last words if it never
    does) to `__exit__`. `url` ends with a slash; `token` opens it. `folder/work` is what its file browser shows.
    `data` is tripleweb's data folder, which servers may share.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str = "jupyter_server",
        options: tuple[str, ...] = (),
        data: Path | None = None,
    ) -> None:
        self.folder = folder
        self.data = data or folder / "data"
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
            "TRIPLEWEB_DATA": str(self.data),
        }
        for name in (
            "TRIPLEWEB_URL",
            "TRIPLEWEB_TOKEN",
            "JPY_PARENT_PID",
            "JPY_SESSION_NAME",
            "JUPYTER_TOKEN",
        ):
            environment.pop(name, None)
        # JupyterLab asks in a corner of every page whether it may fetch news.
        notification = (
            jupyter / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        )
        notification.parent.mkdir(parents=True, exist_ok=True)
        notification.write_text('{"fetchNews": "false"}')
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

    def get(self, path: str, payload: object = None) -> Any:
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

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends the server at once: nothing is said or written any more. Its kernels notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

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
        elif process.returncode == -signal.SIGKILL:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # its kernels have noticed
        self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


class Kernel:
    """A kernel of a `JupyterServer`, which is told what to run as a notebook would tell it.

    With `notebook`, a path in the server's file browser, it is that notebook's kernel; without, a kernel of its own.
    Raises `TimeoutError` or `RuntimeError` if it does not start. `run` is `start` and `finish` at once; between the
    two the cell runs while the caller does something else.
    """

    def __init__(self, server: JupyterServer, notebook: str | None = None, *, timeout: float = 60) -> None:
        kernel: Any = {"name": "python3"}
        if notebook is None:
            self.id = server.get("api/kernels", kernel)["id"]
        else:
            session = {"path": notebook, "name": notebook, "type": "notebook", "kernel": kernel}
            self.id = server.get("api/sessions", session)["kernel"]["id"]
        self._server = server
        self._meet(timeout)

    def _meet(self, timeout: float) -> None:
        told = self._server.runtime / f"kernel-{self.id}.json"
        deadline = time.monotonic() + timeout
        while not told.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the kernel {self.id} did not start in {timeout} seconds")
            time.sleep(0.05)
        self._client = BlockingKernelClient(connection_file=str(told))
        self._client.load_connection_file()
        # Without the heartbeat: while a busy machine starts a kernel, a late beat would count as a dead kernel.
        self._client.start_channels(hb=False)
        self._client.wait_for_ready(timeout=timeout)

    def start(self, code: str, timeout: float = 30) -> str:
        """Returns once the cell runs, with its name for `finish`."""
        cell: str = self._client.execute(code, allow_stdin=False)
        deadline = time.monotonic() + timeout
        while self._told(cell, deadline)["msg_type"] != "execute_input":
            pass
        return cell

    def finish(self, cell: str, timeout: float = 60) -> str:
        """What the cell printed, once it has ended. Raises `RuntimeError` with its traceback if it failed."""
        printed, failed = [], None
        deadline = time.monotonic() + timeout
        while True:
            message = self._told(cell, deadline)
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                failed = "\n".join(content["traceback"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        if failed is not None:
            raise RuntimeError(f"a cell failed:\n{failed}")
        return "".join(printed)

    def _told(self, cell: str, deadline: float) -> dict[str, Any]:
        """The next that the kernel tells everybody about this cell."""
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError("the kernel is late with a cell") from None
            if message["parent_header"].get("msg_id") == cell:
                return message

    def run(self, code: str, timeout: float = 60) -> str:
        return self.finish(self.start(code), timeout)

    def restart(self, timeout: float = 60) -> None:
        """The same kernel in a process that knows nothing yet."""
        self.close()
        self._server.get(f"api/kernels/{self.id}/restart", {})
        self._meet(timeout)

    def close(self) -> None:
        """Ends the conversation; the kernel itself ends with its server."""
        self._client.stop_channels()
