"""The bench of windows in small: what it measures is right, and windows that show the wrong thing are told. No time is
judged."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import windows as bench
from tripleweb.sync import windows


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CHANGES", 10)


@pytest.mark.usefixtures("small")
def test_it_counts_what_is_sent() -> None:
    told: dict[str, Any] = bench.run(["--rows", "6000"])
    assert told["disagreements"] == []
    frames = {name: told[f"change_{name}_frames"] for name in ("1_window", "100_windows_all_see")}
    assert frames == {"1_window": 1, "100_windows_all_see": 100}
    for name in ("0_windows", "100_windows_none_sees", "100_paused"):
        assert told[f"change_{name}_frames"] == 0, name
        assert f"bytes_per_frame_{name}" not in told
    assert 50 < told["bytes_per_frame_1_window"] < 300
    assert told["longest_step_ms"] > 0 and told["longest_step_in"] in ("open", *_looks(told))


def _looks(told: dict[str, Any]) -> list[str]:
    return [name.removesuffix("_bytes") for name in told if name.endswith("_bytes")]


@pytest.mark.usefixtures("small")
def test_it_tells_of_windows_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    read = windows.Windows._read

    def shifted(self: Any, answer: Any, view: Any) -> Any:
        view.first += 1
        return read(self, answer, view)

    monkeypatch.setattr(windows.Windows, "_read", shifted)
    assert bench.run(["--rows", "6000"])["disagreements"]
