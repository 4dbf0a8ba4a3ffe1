"""What is only found out while a stage computes: a failed cell, one line, and every verb that says so."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.e2e.bad_input.matrices import changed, write
from tests.e2e.driver import Bench


def test_data_that_cannot_be_used_fails_its_cells_and_says_so_everywhere(bench: Bench, tmp_path: Path) -> None:
    path, store = write(tmp_path, changed({"split": {"min_positives": 70}})), tmp_path / "store"
    options = ["--store", store]
    said = bench("run", path, *options, "--jobs", 1, "--wandb", "off", "--quiet", "--json")
    assert said.code == 1
    assert "failed: phantom/baseline/s0: DataError: split: class " in said.err
    assert "split.min_positives asks for 70" in said.err
    assert "1 of 1 cells failed" in said.err
    assert "Traceback" not in said.err
    rows = yaml.safe_load(said.out)
    assert (rows[0]["state"], rows[0]["map_all"]) == ("failed", None)
    assert "min_positives" in rows[0]["reason"]
    assert '"state": "failed"' in bench("status", path, *options, "--json").out
    assert '"action": "stop"' in bench("explain", path, "baseline", *options, "--json").out
    for verb in (["table", path], ["status", path], ["explain", path, "baseline"], ["ls"]):
        assert bench(*verb, *options).code == 0
