"""Records and trackers: complete, idempotent, and unable to hurt the benchmark or to leak credentialed data."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.privacy import border
from bench.results import record
from bench.store.store import Store
from bench.tracking import marker, sender
from bench.tracking import tracker as track
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import NO_WANDB, a_record, tell

FAKE_WANDB = {
    "absent": NO_WANDB,
    "no login": "Settings = dict\ndef setup(*a): raise RuntimeError('no API key\\nlog in first')",
    "hangs": "import time\nSettings = dict\ndef setup(*a): time.sleep(60)",
    "dies": "import os\nos._exit(3)",
}


@pytest.mark.parametrize("sharing", ["credentialed", "unheard of"])
def test_of_a_data_set_that_is_not_open_only_settings_and_aggregates_leave(place: Any, sharing: str) -> None:
    store, matrix = place
    secret = {
        "sharing": sharing,
        "stage_records": {"split/files": {"rows": [{"patient": 10_000_032.0}]}},
        "skip": "no image in /data/mimic/p10/p10000032",
    }
    full = a_record(store, matrix, **secret)
    full["config"] |= {"dataset.root": "/data/mimic", "dataset.files": ["p10/p10000032/s1.jpg"], "dataset.home": "~x"}
    full["fidelity"] = (full["fidelity"] or {}) | {"worst": "p10/p10000032/s1.jpg"}
    sent = border.payload(full, store.root)
    text = json.dumps([sent.config, sent.summary, sent.curves, sent.tags])
    assert set(sent.media) == {"per_class"}
    assert "mimic" not in text
    assert "10000032" not in text
    assert sent.config["settings"]["classifier"]["steps"] == 2
    assert sent.summary["map_all"] == full["scores"]["map_all"]
    assert len(sent.curves["classifier"]) == 2


def a_shared_training(**changes: Any) -> dict[str, Any]:
    """Return the record of a training that cells share."""
    found = {"kind": "stage", "matrix": "tiny", "cell": "codec-1a2b3c4d", "stage": "codec", "dataset": "phantom"}
    found |= {"sharing": "open", "key": "1a2b3c4d", "seed": 2**62 + 1, "seconds": 3.0, "versions": {}, "git": None}
    found |= {"config": {"settings": {"width": 16, "start": "/data/mimic/p10000032.safetensors"}}, "shared_with": []}
    found["stage_records"] = {"codec/codec": {"generations": [{"l1": 0.5}, {"l1": 0.25}], "n_classes": 3}}
    return found | changes


def test_a_shared_training_is_a_run_with_its_curve_and_settings(tmp_path: Path) -> None:
    sent = border.payload(a_shared_training(), tmp_path)
    assert (sent.name, sent.group, sent.job_type) == ("codec-1a2b3c4d", "tiny", "stage")
    assert sent.curves == {"codec/codec/generations": [{"l1": 0.5}, {"l1": 0.25}]}
    assert sent.summary == {"stage_seconds": 3.0, "codec_n_classes": 3}
    assert (sent.config["seed"], sent.config["settings"]["settings"]["width"]) == (2**62 + 1, 16)


def test_of_a_shared_training_on_credentialed_data_only_settings_leave(tmp_path: Path) -> None:
    closed = a_shared_training(sharing="credentialed", dataset="/data/mimic/set")
    sent = border.payload(closed, tmp_path)
    assert (sent.curves, dict(sent.media)) == ({}, {})
    text = json.dumps([sent.config, sent.summary, sent.tags, sent.name])
    assert "mimic" not in text
    assert "10000032" not in text
    assert sent.config["settings"]["settings"]["width"] == 16
    assert border.payload(closed | {"shared_with": ["wandb.hospital.org"]}, tmp_path, "wandb.hospital.org").curves


def test_of_an_open_data_set_samples_and_curves_are_shown(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    stages = {"codec/codec": {"generations": [{"l1": 0.5, "note": "x"}, {"l1": 0.25, "note": "y"}], "n": 3}}
    sent = border.payload(a_record(store, matrix, stage_records=stages), store.root)
    assert sent.curves["codec/codec/generations"] == [{"l1": 0.5}, {"l1": 0.25}]
    grid = sent.media["samples"].pixels
    images = matrix.cells[1].augmented.open(store.folder(matrix.cells[1].augmented))
    assert grid.shape == (64 * len(set(images.target_class)), 64 * 8)
    for row, target in enumerate(dict.fromkeys(images.target_class.tolist())):
        for column, i in enumerate(np.flatnonzero(images.target_class == target)[:8]):
            shown = grid[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
            assert (shown == images.images[i]).all()
    assert border.payload(a_record(store, build_matrix(tiny(), "tiny")), store.root).tags == ("phantom", "copies@1")


def test_a_run_id_stands_for_cell_and_key(place: tuple[Store, Matrix]) -> None:
    first = a_record(*place)
    assert marker.run_id(first) == marker.run_id(first | {"seconds": 1.0})
    assert len({marker.run_id(first | c) for c in ({}, {"key": "k"}, {"cell": "c"}, {"matrix": "m"})}) == 4


def leet(*arguments: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"`wandb leet inspect` is not usable here: {done.stderr[-200:]}")
    return done.stdout


def test_offline_runs_hold_what_the_record_holds_and_are_made_once(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    said: list[str] = []
    for _ in range(2):
        tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert said == []
    runs = sorted(store.root.glob("wandb/offline-run-*"))
    assert len(runs) == len(matrix.cells)
    cell = matrix.cells[1]
    found = record.read_record(record.record_folder(store, cell))
    folder = next(r for r in runs if r.name.endswith(marker.run_id(found)))
    summary = json.loads(leet("--summary", "--json", str(folder)))
    assert (summary["name"], summary["run_id"]) == (cell.name, marker.run_id(found))
    assert summary["state"] == "finished"
    assert summary["config"]["settings"]["method"]["noise"]["level"] == 4
    assert summary["config"]["method"] == "copies"
    assert summary["config"]["run"]["key"] == cell.key
    assert summary["summary"]["map_all"] == pytest.approx(found["scores"]["map_all"])
    assert summary["summary"]["classifier/train_loss"] == pytest.approx(found["history"][-1]["train_loss"])
    assert summary["tags"] == ["phantom", "copies@1"]
    records = leet("--json", str(folder))
    assert '"run_group":"tiny"' in records
    assert '"job_type":"copies@1"' in records
    assert len(list(folder.glob("files/media/images/*.png"))) == 1
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    assert str(Path.home()) not in records.replace(str(store.root), "")
    assert f'"host":"{host}"' not in records.replace(" ", "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("absent", "wandb is not installed"), ("no login", "no API key"), ("hangs", "in time"), ("dies", "code 3")],
)
def test_a_broken_wandb_is_told_once_and_in_the_end(
    place: tuple[Store, Matrix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    store, matrix = place
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE_WANDB[fault])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setattr(sender, "_WAIT_S", 1.0)
    monkeypatch.setattr(sender, "_WAIT_PER_RECORD_S", 0.5 if fault == "hangs" else 10.0)
    said: list[str] = []
    tracker = track.make_tracker("online", store, matrix, said.append)
    begun = time.monotonic()
    for cell in matrix.cells:
        tracker.cell_ended(cell)
    told_s = time.monotonic() - begun
    tracker.close()
    assert told_s < 5.0  # a cell that ends does not wait for its mirror
    assert time.monotonic() - begun < 50
    assert reason in said[-1]
    assert "lacks 2 of 2 runs" in said[-1]
    assert said[-1].endswith("and `bench upload tiny` sends what is missing")
    assert len(said) - 1 == said[0].count("tried again later")  # once, if the first try ends before the last cell
    assert "\n" not in "".join(said)
    for cell in matrix.cells:
        folder = record.record_folder(store, cell)
        assert record.read_record(folder)["state"] == "done"
        assert not (folder / "wandb.json").exists()  # so that the next run tries again
    assert tracker._child is None


def test_a_disk_that_refuses_the_record_is_told_once(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    (store.root / "cells").write_text("in the way")
    said: list[str] = []
    tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_an_unknown_mode_is_refused_with_the_nearest(place: tuple[Store, Matrix]) -> None:
    with pytest.raises(ConfigError, match="--wandb ofline: no such mode; did you mean 'offline'"):
        track.make_tracker("ofline", *place)
