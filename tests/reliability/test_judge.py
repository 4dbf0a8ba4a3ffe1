"""The judge of the reliability suite finds what it is there to find."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.reliability.judge import Reference, Verdict, contents, finished

KEY = "0" * 32


def write(store: Path, stamp: str = "2026-01-01T00:00:00+00:00") -> None:
    folder = store / "toy" / KEY
    folder.mkdir(parents=True)
    (folder / "number.bin").write_bytes(b"12345678")
    (folder / "record.json").write_text(json.dumps({"loss": 1.0, "images_per_second": len(str(store))}))
    files = {name: {"bytes": (folder / name).stat().st_size} for name in ("number.bin", "record.json")}
    manifest = {"stage": "toy", "key": KEY, "finished": stamp, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def verdict(tmp_path: Path) -> Verdict:
    for name in ("undisturbed", "store"):
        write(tmp_path / name)
    reference = Reference([1], contents(tmp_path / "undisturbed"), [], 0, 1)
    return Verdict(reference, tmp_path / "store", tmp_path / "attempts")


def faults(verdict: Verdict, rows: list[int] | None = None, code: int | None = 0) -> str:
    verdict.at_end(code, rows or [1], "said")
    return "\n".join(verdict.faults)


def test_a_store_that_differs_in_speeds_alone_is_fine(verdict: Verdict) -> None:
    verdict.after_stop(finished(verdict.store))
    assert faults(verdict) == ""


def test_a_wrong_table_a_failure_and_a_hang_are_found(verdict: Verdict) -> None:
    assert "table differs" in faults(verdict, [2])
    assert "ended with code 1: said" in faults(verdict, code=1)
    assert "a hang" in faults(verdict, code=None)


def test_changed_missing_and_left_over_files_are_found(verdict: Verdict) -> None:
    folder = verdict.store / "toy" / KEY
    (folder / "number.bin").write_bytes(b"12345679")
    (folder / "record.json").unlink()
    (verdict.store / "toy" / f"{KEY}.work" / "ckpt").mkdir(parents=True)
    (verdict.store / "toy" / "x.npy.part").touch()
    told = faults(verdict)
    for line in (
        f"differs: toy/{KEY}/number.bin",
        f"missing: toy/{KEY}/record.json",
        f"left over: toy/{KEY}.work/ckpt",
        "left over: toy/x.npy.part",
    ):
        assert line in told


def test_a_torn_result_and_one_computed_again_are_found(verdict: Verdict) -> None:
    before = finished(verdict.store)
    manifest = verdict.store / "toy" / KEY / "manifest.json"
    text = manifest.read_text()
    os.truncate(manifest.parent / "number.bin", 3)
    verdict.after_stop({})
    assert verdict.faults == [f"toy/{KEY}/number.bin is torn: 3 of 8 bytes"]
    manifest.with_name("new").write_text(text.replace("2026-01-01", "2026-01-02"))
    manifest.with_name("new").replace(manifest)
    verdict.after_stop(before)
    assert f"toy/{KEY} was finished and is computed again" in verdict.faults


def test_an_attempt_at_a_finished_stage_is_found(verdict: Verdict) -> None:
    verdict.attempts.write_text(f"toy/{KEY} mkdir out.1 first\ntoy/{KEY} rename {KEY} first\n")
    verdict.computed_once()
    assert verdict.faults == []
    with open(verdict.attempts, "a") as handle:
        handle.write(f"toy/{KEY} mkdir out.2 again\n")
    log = verdict.store / "logs" / "toy" / f"{KEY}.log"
    log.parent.mkdir(parents=True)
    log.write_text("--- computed in 1 s\n--- computed in 1 s\n")
    verdict.computed_once()
    assert verdict.faults == [
        f"attempted though finished: toy/{KEY} mkdir out.2 again",
        f"computed 2 times by its log: toy/{KEY}",
    ]


@pytest.mark.parametrize(("killed", "found"), [(0, 1), (1, 0)])
def test_two_attempts_beside_each_other_are_found(verdict: Verdict, killed: int, found: int) -> None:
    with verdict.one_attempt_each(killed):
        verdict.attempts.write_text("".join(f"toy/{KEY} mkdir out.{i} first\n" for i in (1, 1, 2)))
    assert len(verdict.faults) == found


def test_a_process_that_still_uses_the_store_is_found(verdict: Verdict) -> None:
    with open(verdict.store / "toy" / KEY / "number.bin", "rb"):
        assert f"still using the store: [{os.getpid()}]" in faults(verdict)
