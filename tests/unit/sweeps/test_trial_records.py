"""Trials in records and as runs at W&B: complete, sent once, and within the border."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.privacy.border import payload
from bench.store.store import Store
from bench.tracking.marker import run_id
from bench.tracking.sender import Sender
from bench.tracking.upload import Uploaded, finish
from sweeps.outcome import SweepResult
from sweeps.records import TrialTracker, trial_folder
from sweeps.references import found_so_far
from sweeps.settings import load_sweep
from tests.dashboard_keys import Held
from tests.e2e.conftest import bench  # noqa: F401 - a fixture
from tests.e2e.driver import Bench, refused
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import server  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FREE, GAIN, LEVEL, fake, sweep  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb

pytestmark = pytest.mark.usefixtures("methods")

FAILS = "settings.copies.fails"


def record_of(store: Store, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((trial_folder(store, "study", number) / "record.json").read_text())
    return found


def tracked(path: Path, store: Store, said: list[str], **options: Any) -> SweepResult:
    sender = Sender(store.root, "online", None, said.append, "bench upload study", "trials")
    return sweep(path, store, tracker=TrialTracker(load_sweep(path), store, said.append, sender), **options)


def send(path: Path, store: Store) -> Uploaded:
    sender = Sender(store.root, "online", None, lambda line: None, "bench upload study", "trials")
    found = found_so_far(path, store)
    n = TrialTracker(load_sweep(path), store, lambda line: None, sender).ended(found)
    return finish(sender, n, len(found.trials) - n, lambda done, total: None)


def test_every_trial_that_ended_has_a_record_and_a_run(tmp_path: Path, server: Wandb) -> None:  # noqa: F811
    """One trial is done, one fails, one is pruned by the gate."""
    search = FREE | {FAILS: {"type": "categorical", "choices": [False, True]}}
    objectives = [{"metric": "val_map_tail", "direction": "maximize"}, {"metric": "kid_tail", "direction": "minimize"}]
    levels = ((2, False), (3, False), (4, True), (50, False))
    first = [{LEVEL: level, FAILS: fails, GAIN: 2.0 if level == 50 else 1.0} for level, fails in levels]
    gate = {"metric": "fid_tail", "keep": 0.1, "after": 2}
    options: dict[str, Any] = {"search": search, "objectives": objectives, "enqueue": first, "gate": gate}
    path, store, said = sweep_file(tmp_path, **options), Store(tmp_path / "store"), []
    result = tracked(path, store, said, n_trials=4)
    assert [t.state for t in result.trials] == ["done", "done", "failed", "pruned"]
    assert said == []
    assert len(server.runs) == 4
    for trial, (level, fails) in zip(result.trials, levels, strict=True):
        record = record_of(store, trial.number)
        run = server.run(run_id(record))
        assert (run["group"], run["job_type"], run["name"]) == ("study", "trial", f"study/trial {trial.number}")
        assert (run["config"]["level"], run["config"]["fails"]) == (level, fails)
        assert run["config"]["settings"]["method"]["noise"]["level"] == level
        assert (run["config"]["trial"], run["config"]["state"]) == (trial.number, trial.state)
        assert (run["summary"]["state"], run["state"]) == (trial.state, "finished")
        assert run["summary"]["seconds"] == trial.seconds
        assert record["reason"] == trial.reason
        for metric, value in trial.values.items():
            assert run["summary"][metric] == pytest.approx(value)
        assert ("val_map_tail" in run["summary"]) == (trial.state == "done")
        assert ("fid_tail" in run["summary"]) == (trial.state != "failed")  # what the gate measured
    assert "asked to fail" not in server.text  # messages stay here
    n_rows = len(server.sent_rows)
    assert send(path, store) == Uploaded(sent=0, there=4, lacking={}, unfinished=0)
    assert len(server.sent_rows) == n_rows


def test_upload_sends_what_is_missing_of_a_study(
    tmp_path: Path,
    fake: list[int],  # noqa: F811
    server: Wandb,  # noqa: F811
    bench: Bench,  # noqa: F811
) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=3)  # not tracked
    (trial_folder(store, "study", 1) / "record.json").unlink()  # as if its driver had been killed just before
    assert server.runs == {}
    server.faults = {"refuse"}
    failed = bench("upload", path, "--store", store.root)
    assert (failed.code, failed.out) == (1, "sent 0; W&B has 0 of 3 finished trials\n")
    assert "W&B (online) lacks 3 of 3 trials (trial 0, trial 1, trial 2): " in failed.err
    server.faults = set()
    done = bench("upload", path, "--store", store.root)
    assert (done.code, done.out, done.err) == (0, "sent 3; W&B has all 3 finished trials\n", "")
    assert {run["config"]["gain"] for run in server.runs.values()} == {
        t.params[GAIN] for t in found_so_far(path, store).trials
    }
    assert bench("upload", path, "--store", store.root).out.startswith("nothing is missing")


def test_a_dashboard_of_a_study_names_what_its_runs_have_and_is_replaced(
    tmp_path: Path,
    fake: list[int],  # noqa: F811
    server: Wandb,  # noqa: F811
    bench: Bench,  # noqa: F811
) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    said = refused(bench, "dashboard", path, "--store", store.root, folder=tmp_path)
    assert said.endswith("has no study 'study'; run it or leave it out")
    sweep(path, store, n_trials=3)  # not tracked
    said = refused(bench, "dashboard", path, "--store", store.root, folder=tmp_path)
    assert said == f"no finished trial was uploaded to W&B; first: bench upload {path} --store {store.root}"
    bench("upload", path, "--store", store.root)
    first = bench("dashboard", path, "--store", store.root)
    assert (first.code, first.err) == (0, "")
    assert [line.partition(": ")[0] for line in first.out.splitlines()] == [
        "created sweep study",
        "created bench dashboard study (sweep)",
    ]
    held = Held.at(server.runs.values())
    for view in server.views.values():
        assert held.lacks(json.loads(view["spec"])) == set()
    (told,) = (json.loads(view["spec"]) for view in server.views.values() if view["type"] == "runs")
    table = told["blocks"][2]["content"]
    for trial in found_so_far(path, store).trials:
        line = next(
            line for line in table.splitlines() if line.startswith((f"| {trial.number} |", f"| {trial.number} ("))
        )
        assert f"{trial.values['val_map_tail']:.4f}" in line
    (trial_folder(store, "study", 1) / "wandb.json").unlink()
    again = bench("dashboard", path, "--store", store.root)
    assert "the panels lack 1 of 3 trials that have ended (trial 1)" in again.err
    assert again.out == first.out.replace("created", "updated")


def test_two_parameters_of_one_name_have_columns_of_their_own(tmp_path: Path, fake: list[int]) -> None:  # noqa: F811
    search = FREE | {"classifier.steps": {"type": "int", "low": 1, "high": 2}}
    path = sweep_file(tmp_path, search=search)
    store = Store(tmp_path / "store")
    sweep(path, store, n_trials=1)
    record = record_of(store, 0)
    record["columns"] = {"noise.level": 3, "other.level": 4, "study": "theirs", "run": 5}
    config = payload(record, store.root).config
    assert (config["noise_level"], config["other_level"]) == (3, 4)
    assert (config["study"], config["study_2"], config["run_2"]) == ("study", "theirs", 5)
    assert config["run"]["key"] == record["key"]


def test_of_credentialed_data_only_parameters_and_aggregates_leave(tmp_path: Path, fake: list[int]) -> None:  # noqa: F811
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=1)
    secrets = {"sharing": "credentialed", "reason": "no image /data/mimic/p10000032", "dataset": "/data/mimic/set"}
    record = record_of(store, 0)
    record |= secrets
    record["columns"] |= {"weights": "/home/me/weights.pth", "number": 10000032}
    record["metrics"] |= {"/data/mimic/p10000032.jpg": 0.5}
    sent = payload(record, store.root)
    text = json.dumps([sent.config, sent.summary, sent.tags, sent.name, sent.group])
    assert "mimic" not in text
    assert "10000032" not in text
    assert "weights.pth" not in text
    assert sent.config["level"] == record["columns"]["level"]
    assert sent.summary["val_map_tail"] == record["metrics"]["val_map_tail"]
    allowed = record | {"shared_with": ["wandb.hospital.org"]}
    assert payload(allowed, store.root, "wandb.hospital.org").config["dataset"] == "/data/mimic/set"
    assert payload(allowed, store.root, "elsewhere.org").config["dataset"] == "withheld"


def test_a_record_holds_what_was_measured_with_other_code(tmp_path: Path, fake: list[int]) -> None:  # noqa: F811
    """The settings of a trial whose study was made with other settings are in its record alone."""
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=2)
    before = record_of(store, 0)
    changed = sweep_file(tmp_path, search=FREE, matrix=tiny(augment={"per_class": 3}))
    tracker = TrialTracker(load_sweep(changed), store, print)
    assert tracker.ended(found_so_far(changed, store)) == 2
    assert record_of(store, 0) == before
    (trial_folder(store, "study", 1) / "record.json").unlink()
    with pytest.raises(ConfigError, match=r"trial 1 of 'study' has no record, and the study was made with other"):
        TrialTracker(load_sweep(changed), store, print).ended(found_so_far(changed, store))
