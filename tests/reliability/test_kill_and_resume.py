"""A real matrix, killed and interrupted again and again: the table in the end is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BENCH, ROOT, ToyRun
from tests.reliability.helpers import group_is_gone, until

# A part of the toy matrix: fewer cells, the same stages, so its numbers must be the toy run's.
METHODS = ["baseline", "smote", "ours@1"]
COMMAND = ["toy", "--set", f"methods=[{', '.join(METHODS)}]"]


@dataclass
class Disturbed:
    """What happened to a matrix that was stopped several times."""

    store: Path
    computed_again: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    interrupt_code: int = 0
    interrupt_said: str = ""
    left_over: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    last_said: str = ""

    def finished(self) -> dict[str, tuple[str, int]]:
        """Return stamp and inode of every finished stage."""
        found = {}
        for path in self.store.glob("*/*/manifest.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[f"{manifest['stage']}/{manifest['key']}"] = (manifest["finished"], path.stat().st_ino)
            lost = [n for n, f in manifest["files"].items() if (path.parent / n).stat().st_size != f["bytes"]]
            self.torn += [f"{path.parent}/{n}" for n in lost]
        return found

    def count(self, stage: str) -> int:
        """Return how many stages of a kind are finished (all kinds for `*`)."""
        return len(list(self.store.glob(f"{stage}/*/manifest.json")))

    def start(self) -> subprocess.Popen[str]:
        """Start `bench run` as a shell would: the leader of a group of its own."""
        options = ["--jobs", "2", "--wandb", "off", "--json", "--store", str(self.store)]
        return subprocess.Popen(
            [*BENCH, "run", *COMMAND, *options],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def stop(self, condition: Any, how: signal.Signals) -> tuple[int, str]:
        """Start, wait for a condition, send a signal to the whole group, compare what was finished before and after."""
        before = self.finished()
        process = self.start()
        assert until(lambda: condition() or process.poll() is not None, 120)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, how)
        _, said = process.communicate(timeout=30)
        if not group_is_gone(process.pid):
            self.left_over.append(how.name)
        self.compare(before)
        return process.returncode, said

    def compare(self, before: dict[str, tuple[str, int]]) -> None:
        """Note every stage that was finished before and is not the same now."""
        after = self.finished()
        self.computed_again += [name for name, stamp in before.items() if after.get(name) != stamp]


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """Kill after the first stage, interrupt after the codec, kill inside a classifier's training, then finish."""
    seen = Disturbed(tmp_path_factory.mktemp("disturbed") / "store")
    seen.stop(lambda: seen.count("*") >= 1, signal.SIGKILL)
    seen.interrupt_code, seen.interrupt_said = seen.stop(lambda: seen.count("codec") >= 1, signal.SIGINT)
    seen.stop(lambda: list(seen.store.glob("classifier/*.work/progress.json")), signal.SIGKILL)
    before = seen.finished()
    process = seen.start()
    out, seen.last_said = process.communicate(timeout=200)
    assert process.returncode == 0, seen.last_said[-3000:]
    seen.rows = json.loads(out)
    seen.compare(before)
    return seen


def test_the_table_is_that_of_an_undisturbed_run(disturbed: Disturbed, toy_run: ToyRun) -> None:
    assert disturbed.rows == [r for r in toy_run.rows if r["method"] in METHODS]


def test_no_finished_stage_is_computed_again_and_none_is_torn(disturbed: Disturbed) -> None:
    assert disturbed.computed_again == []
    assert disturbed.torn == []


def test_the_same_files_as_in_an_undisturbed_run(disturbed: Disturbed, toy_run: ToyRun) -> None:
    different = []
    for path in disturbed.store.glob("*/*/manifest.json"):
        twin = toy_run.store / path.relative_to(disturbed.store)
        files = [json.loads(p.read_text(encoding="utf-8"))["files"] for p in (path, twin)]
        names = {n for n in files[0].keys() | files[1].keys() if files[0].get(n) != files[1].get(n)}
        # a training's record has its speed
        different += [f"{path.parent.parent.name}/{n}" for n in names - {"record.json"}]
    assert different == []


def test_nothing_is_left_running_or_lying_about(disturbed: Disturbed) -> None:
    assert disturbed.left_over == []
    assert list(disturbed.store.glob("*/*.work")) == []
    assert list(disturbed.store.glob("*/*.failed.json")) == []


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(disturbed: Disturbed) -> None:
    assert disturbed.interrupt_code == 130
    assert disturbed.interrupt_said.splitlines()[-1].startswith(
        "stopped; finished stages and checkpoints are kept. Go on with: bench run toy"
    )
    assert "Traceback" not in disturbed.interrupt_said


def test_the_last_run_says_what_it_reused(disturbed: Disturbed) -> None:
    assert "stages to compute, 0 finished ones reused" not in disturbed.last_said
    assert "finished ones reused" in disturbed.last_said
