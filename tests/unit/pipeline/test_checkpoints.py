"""Checkpoints: when they are written, and that large ones pass through memory piece by piece."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.pipeline import checkpoints
from bench.pipeline.checkpoints import Pace


def test_a_training_saves_every_20_seconds_and_more_seldom_where_saving_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, cost, saved = [0.0], [0.0], []

    def save(folder: Path, number: int, state: dict[str, Any]) -> None:
        clock[0] += cost[0]
        saved.append((number, state))

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "save", save)
    pace = Pace()
    for second in range(1, 101):
        clock[0] += 1.0
        cost[0] = 0.5 if second < 60 else 3.0
        pace.save_if_due(tmp_path, second, lambda second=second: {"at": second})
    # The one at 60 took 3 s, so the next is due 60 s later.
    assert [number for number, _ in saved] == [20, 40, 60]
    assert saved[0] == (20, {"at": 20})


def test_what_is_saved_is_not_copied_as_a_whole(tmp_path: Path) -> None:
    state = {f"w{i}": torch.full((1 << 18,), float(i)) for i in range(24)}  # 24 tensors of 1 MiB
    tracemalloc.start()
    try:
        checkpoints.save(tmp_path, 1, state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20  # a buffer of the whole file has 24 MiB
    found = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_checkpoint_of_other_settings_is_passed_over(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, {"at": 1}, fingerprint="a")
    checkpoints.save(tmp_path, 2, {"at": 2}, fingerprint="b")
    assert checkpoints.load_newest(tmp_path, fingerprint="a") == {"at": 1}
    assert checkpoints.load_newest(tmp_path, fingerprint="c") is None
