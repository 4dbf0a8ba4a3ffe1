"""What was handed to SLURM: the last job of a stage counts, and what has left the queue is forgotten with its files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bench.store.store import Store
from bench.store.submissions import Ledger


def touched(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_the_last_submission_of_a_stage_counts(tmp_path: Path) -> None:
    ledger = Ledger(Store(tmp_path))
    ledger.add({"a": "1_0", "b": "1_1"})
    ledger.add({"b": "2"})
    assert ledger.jobs() == {"a": "1_0", "b": "2"}


def test_what_left_the_queue_is_forgotten_and_its_output_kept(tmp_path: Path) -> None:
    ledger = Ledger(Store(tmp_path))
    ledger.add({"a": "1_0", "b": "1_1"})
    ledger.add({"b": "2"})
    pickle, output = touched(ledger.jobs_folder, "1_0_submitted.pkl", "1_0_0_log.out")
    (script,) = touched(ledger.jobs_folder, "1_submission.sh")
    recipes = touched(tmp_path / "slurm" / "stages", "a.json", "b.json")
    ledger.prune({"1_1": "RUNNING"})  # of the second submission nothing is left; one task of the first runs
    assert ledger.jobs() == {"a": "1_0", "b": "1_1"}
    assert [p.exists() for p in (pickle, output, script, *recipes)] == [True] * 5
    ledger.prune({})
    assert ledger.jobs() == {}
    assert [p.exists() for p in (pickle, output, script, *recipes)] == [False, True, False, False, False]


def test_a_damaged_entry_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(Store(tmp_path))
    ledger.add({"a": "1"})
    for i, text in enumerate(('{"jobs": null}', '{"jobs": ["1"]}', '{"jobs": {"b": 3}}', "[1]", "x", "")):
        (ledger.folder / f"9{i}.json").write_text(text, encoding="utf-8")
    assert ledger.jobs() == {"a": "1"}
    ledger.prune({"1": "RUNNING"})
    assert ledger.jobs() == {"a": "1"}


def test_a_fault_while_submitting_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no room"), Ledger(Store(tmp_path)).alone():
        raise OSError("no room")


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_one_driver_at_a_time_submits(tmp_path: Path, kind: str) -> None:
    waited: list[float] = []

    def second() -> None:
        with Ledger(Store(tmp_path, kind)).alone():
            waited.append(time.monotonic())

    with Ledger(Store(tmp_path, kind)).alone():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        assert waited == []
        left = time.monotonic()
    thread.join(10)
    assert waited[0] >= left
