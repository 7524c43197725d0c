"""`tripleweb serve` as a person starts it, and `connect` finding it on the same machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import tripleweb
from tripleweb import places
from tripleweb.cli import main
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync.server import Limits
from tripleweb.tenant import HubLimits
from tripleweb_jupyter.extension import TripleWeb


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    for name in ("TRIPLEWEB_URL", "TRIPLEWEB_TOKEN", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "tripleweb.cli", "serve"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        assert "serves" in process.stdout.readline()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_a_kernel_without_jupyter_finds_the_server_on_this_machine(serving: subprocess.Popen[str]) -> None:
    with (
        tripleweb.connect("notes", path=":memory:") as one,
        tripleweb.connect("notes", path=":memory:") as other,
    ):
        one.insert("note", text="hello")
        one.flush(10)
        assert one.status.state == "online"
        live = other.live("[:find ?t :where [_ :note/text ?t]]")
        live.wait(10, until=lambda df: list(df["t"]) == ["hello"])


def test_the_word_it_leaves_is_for_its_user_alone_and_taken_back_at_the_end(
    serving: subprocess.Popen[str],
) -> None:
    word = places.server_dir() / places.ANNOUNCEMENT
    assert word.stat().st_mode & 0o077 == 0
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(20) == 0
    assert not word.exists()
    with pytest.raises(tripleweb.NoServerError, match="tripleweb serve"):
        tripleweb.connect("notes")


def test_who_was_given_address_and_token_is_let_in_again_after_a_restart(tmp_path: Path) -> None:
    """Contract: "A known server that is down is no error: the store … keeps trying." A new token would refuse it."""
    folder = tmp_path / "apps"
    port = "0"
    for ending in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-m", "tripleweb.cli", "serve", "--data", str(folder), "--port", port],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert "serves" in process.stdout.readline()
            if port == "0":
                told = places.announced(folder)
                assert told is not None
                port = str(urlsplit(told["url"]).port)
                db = tripleweb.connect("notes", url=told["url"], token=told["token"], path=":memory:")
            db.insert("note", text=ending.name)
            db.flush(40)
            assert db.status.state == "online"
        finally:
            process.send_signal(ending)
            process.wait(20)
            process.stdout.close()  # type: ignore[union-attr]
        db.insert("note", text="while it is down")
    db.close()
    assert (folder / places.TOKEN).stat().st_mode & 0o077 == 0
    (folder / places.TOKEN).write_text("short")  # what is no token is not taken for one
    assert places.lasting_token(folder) not in ("short", told["token"])


def test_a_second_server_of_the_same_folder_says_who_has_it(
    serving: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 1
    assert "server" in capsys.readouterr().err


def test_a_dead_servers_word_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPLEWEB_DATA", str(tmp_path))
    for name in ("TRIPLEWEB_URL", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(20)
    folder = places.server_dir()
    folder.mkdir(parents=True)
    (folder / places.ANNOUNCEMENT).write_text(
        f'{{"url": "http://127.0.0.1:1/", "token": "t", "pid": {ended.pid}}}'
    )
    with pytest.raises(tripleweb.NoServerError):
        tripleweb.connect("notes")


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_what_is_no_port_is_bad_usage(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--data", str(tmp_path), f"--port={port}"])
    assert ended.value.code == 2
    assert port in capsys.readouterr().err


def test_what_a_server_keeps_is_set_by_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the Jupyter extension, whose traits have these names and defaults."""
    served: list[tuple[HubLimits, Limits]] = []

    def recorded(stores: SqliteStores, *, port: int, limits: HubLimits, core_limits: Limits) -> None:
        stores.close()
        served.append((limits, core_limits))
        raise OSError("not to be served")

    monkeypatch.setattr("tripleweb.web.WebServer", recorded)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    options = ["--history-days=0.5", "--history-bytes=1000", "--backup-every=0", "--backups-kept=7"]
    for some in ([], [*options, "--unseen-days=0.5"]):
        assert main(["serve", "--data", str(tmp_path), *some]) == 1
    wanted = HubLimits(log_s=43_200, log_bytes_max=1000, backup_every_s=0, backups_kept=7)
    assert served == [(HubLimits(), Limits()), (wanted, Limits(unseen_ms=43_200_000))]
    traits, defaults = TripleWeb.class_traits(), HubLimits()
    assert traits["history_days"].default_value * 86_400 == defaults.log_s
    assert traits["history_bytes"].default_value == defaults.log_bytes_max
    assert traits["backup_every"].default_value * 3_600 == defaults.backup_every_s
    assert traits["backups_kept"].default_value == defaults.backups_kept
    assert traits["unseen_days"].default_value * 86_400_000 == Limits().unseen_ms


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--history-days", "-1"),
        ("--history-days", "nan"),
        ("--history-days", "1e9"),
        ("--history-bytes", "1.5"),
        ("--backup-every", "1000001"),
        ("--backups-kept", "0"),
        ("--unseen-days", "-1"),
    ],
)
def test_what_no_server_can_keep_is_bad_usage(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--data", str(tmp_path), f"{option}={value}"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--data", str(tmp_path), "--port", port]) == 1
    assert f"port {port} of 127.0.0.1 cannot be had" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_what_is_told_of(tmp_path: Path) -> None:
    """Not a lock or a part of a file, which are ours."""
    with tripleweb.open() as db:
        with pytest.raises(FileNotFoundError) as raised:
            db.export(tmp_path / "no" / "all.csv")
        assert f"there is no folder '{tmp_path / 'no'}'" in str(raised.value) and ".part" not in str(
            raised.value
        )
    with pytest.raises(tripleweb.StorageError, match="there is no folder") as refused:
        tripleweb.open(tmp_path / "no" / "notes.tripleweb")
    assert ".lock" not in str(refused.value)


def test_it_runs_as_a_module_too() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tripleweb", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, f"tripleweb {tripleweb.__version__}", "")
