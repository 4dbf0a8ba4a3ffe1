"""The store: a result appears whole, once, and never changes; nothing left behind blocks a later attempt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StageError, StoreError
from bench.pipeline.stage import Work
from bench.store.store import Store
from bench.store.work import Execution
from tests.reliability.toys import Fails, Toy, noted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def everything_below(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_result_is_computed_once_and_its_inputs_with_it(store: Store, log: Path) -> None:
    below = Toy(value=2, log=str(log))
    above = Toy(value=3, inputs_=(below, below), log=str(log))
    assert store.get(above) == 7
    assert store.get(above) == 7
    assert noted(log) == ["toy 3", "toy 2"]
    assert store.compute(below, Execution()) is False


def test_a_reader_never_sees_a_part_of_a_result(store: Store) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watched(Toy):
        def misbehave(self, work: Work) -> None:
            (work.out / "first.txt").write_text("1", encoding="utf-8")
            seen.append((store.has(self), store.folder(self).exists()))

    stage = Watched()
    store.compute(stage, Execution())
    assert seen == [(False, False)]
    assert store.has(stage)
    assert not (store.folder(stage).parent / f"{stage.key}.work").exists()


def test_states_go_from_missing_over_running_to_done(store: Store) -> None:
    seen: list[Any] = []

    class Watched(Toy):
        def misbehave(self, work: Work) -> None:
            work.progress(1, 4, "quarter")
            seen.extend([store.state(self), store.progress(self)])

    stage = Watched()
    seen.append(store.state(stage))
    store.compute(stage, Execution())
    assert seen == ["missing", "running", {"done": 1, "total": 4, "note": "quarter"}]
    assert store.state(stage) == "done"
    assert store.progress(stage) is None


def test_asking_for_the_state_does_not_look_like_a_computation_to_another_who_asks(store: Store) -> None:
    import fcntl

    stage = Toy()
    path = store.root / "locks" / stage.key
    path.parent.mkdir(parents=True)
    with open(path, "a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # what a second `bench status` holds for an instant
        assert store.state(stage) == "missing"


def test_the_manifest_tells_settings_inputs_files_and_versions(store: Store) -> None:
    below = Toy(value=1)
    stage = Toy(value=5, inputs_=(below,))
    store.get(stage)
    manifest = store.manifest(stage)
    content = (store.folder(stage) / "number.json").read_bytes()
    assert manifest["files"] == {"number.json": {"bytes": 1, "sha256": hashlib.sha256(content).hexdigest()}}
    assert manifest["inputs"] == {below.key: "toy"}
    assert manifest["identity"]["value"] == 5
    assert "log" not in manifest["identity"]
    assert (manifest["key"], manifest["stage"], manifest["bytes"]) == (stage.key, "toy", 1)
    assert {"python", "torch", "numpy", "longtail-bench"} <= manifest["versions"].keys()
    assert sorted(m["key"] for m in store.manifests()) == sorted([below.key, stage.key])


def test_the_manifest_names_the_device_that_was_used(store: Store) -> None:
    class OnDevice(Toy):
        def misbehave(self, work: Work) -> None:
            assert work.device == "cpu"

    store.compute(OnDevice(), Execution(device="cpu"))
    store.compute(Toy(), Execution(device="auto"))
    assert store.manifest(OnDevice())["device"] == "cpu"
    assert store.manifest(Toy())["device"] is None


def test_a_failed_attempt_leaves_its_reason_and_its_checkpoint_but_no_result(store: Store) -> None:
    stage = Fails(value=1)
    with pytest.raises(ValueError, match="on purpose"):
        store.compute(stage, Execution())
    record = store.failure(stage)
    assert record is not None
    assert record["error"] == "ValueError: on purpose"
    assert "misbehave" in record["traceback"]
    assert (record["attempt"], record["sticky"]) == (1, True)
    assert store.state(stage) == "failed"
    assert not store.has(stage)
    assert list(store.root.glob(f"*/{stage.key}.work/ckpt*/tried"))


def test_a_failure_of_the_code_is_not_tried_again_until_asked(store: Store, log: Path) -> None:
    stage = Fails(once=True, log=str(log))
    with pytest.raises(ValueError, match="on purpose"):
        store.compute(stage, Execution())
    with pytest.raises(StageError, match="failed before: ValueError: on purpose"):
        store.compute(stage, Execution())
    assert len(noted(log)) == 1
    store.forget_failure(stage)
    assert store.compute(stage, Execution())
    assert store.state(stage) == "done"
    assert not (store.folder(stage) / "half.bin").exists() or noted(log) == ["fails 0"] * 2


@pytest.mark.parametrize("error", ["OSError", "MemoryError"])
def test_a_failure_of_the_machine_is_tried_again(store: Store, log: Path, error: Any) -> None:
    stage = Fails(error=error, once=True, log=str(log))
    with pytest.raises((OSError, MemoryError)):
        store.compute(stage, Execution())
    assert store.failure(stage)["sticky"] is False  # type: ignore[index]
    assert store.compute(stage, Execution())
    assert store.failure(stage) is None


def test_a_device_without_memory_and_a_missing_library_are_the_machines_fault(store: Store) -> None:
    import torch

    class Full(Toy):
        def misbehave(self, work: Work) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Lacks(Toy):
        def misbehave(self, work: Work) -> None:
            raise ModuleNotFoundError("No module named 'x'")

    for stage in (Full(), Lacks()):
        with pytest.raises((torch.OutOfMemoryError, ImportError)):
            store.compute(stage, Execution())
        assert store.failure(stage)["sticky"] is False  # type: ignore[index]


def test_files_of_a_failed_attempt_are_not_in_the_result(store: Store) -> None:
    class Litters(Toy):
        def misbehave(self, work: Work) -> None:
            if not (work.ckpt / "tried").exists():
                (work.ckpt / "tried").touch()
                (work.out / "litter.bin").write_bytes(b"x")
                raise OSError("later")

    with pytest.raises(OSError, match="later"):
        store.compute(Litters(), Execution())
    store.compute(Litters(), Execution())
    assert sorted(p.name for p in store.folder(Litters()).iterdir()) == ["manifest.json", "number.json"]


def test_a_left_over_work_folder_never_blocks(store: Store) -> None:
    stage = Toy(value=4)
    work = store.folder(stage).parent / f"{stage.key}.work"
    (work / "out" / "sub").mkdir(parents=True)
    (work / "out" / "sub" / "old.bin").write_bytes(b"old")
    (work / "progress.json").write_text("{half", encoding="utf-8")
    assert store.progress(stage) is None
    assert store.get(stage) == 4
    assert not work.exists()
    assert "sub/old.bin" not in store.manifest(stage)["files"]


def test_the_work_folder_of_a_finished_stage_is_tidied_away_and_no_other(store: Store) -> None:
    done, open_ = Toy(value=1), Toy(value=2)
    store.get(done)
    for stage in (done, open_):
        (store.folder(stage).parent / f"{stage.key}.work" / "ckpt").mkdir(parents=True)
    store.tidy()
    assert [p.name for p in store.root.glob("*/*.work")] == [f"{open_.key}.work"]
    assert store.has(done)


def test_a_folder_without_a_manifest_is_no_result_and_gives_way_to_one(store: Store) -> None:
    stage = Toy(value=4)
    store.get(stage)
    (store.folder(stage) / "manifest.json").unlink()
    (store.folder(stage) / "number.json").write_text("999", encoding="utf-8")
    assert store.state(stage) == "missing"
    assert store.get(stage) == 4
    assert [p.name for p in store.folder(stage).parent.iterdir()] == [stage.key]


def test_a_result_that_another_wrote_meanwhile_is_kept(store: Store, tmp_path: Path) -> None:
    class Overtaken(Toy):
        def misbehave(self, work: Work) -> None:
            twin = Store(tmp_path / "twin")
            if not twin.has(self) and work.store.root != twin.root:
                twin.compute(self, Execution())
                shutil.copytree(twin.folder(self), work.store.folder(self))

    stage = Overtaken()
    store.compute(stage, Execution())
    assert everything_below(store.folder(stage)) == everything_below(Store(tmp_path / "twin").folder(stage))


@pytest.mark.parametrize(("file", "damage"), [("number.json", "4,"), ("number.json", None), ("manifest.json", "{")])
def test_a_damaged_result_is_named_in_one_line(store: Store, file: str, damage: str | None) -> None:
    stage = Toy(value=4)
    store.get(stage)
    path = store.folder(stage) / file
    path.unlink() if damage is None else path.write_text(damage, encoding="utf-8")
    with pytest.raises(StoreError, match="damaged") as caught:
        store.manifest(stage) if file == "manifest.json" else store.get(stage)
    assert str(store.folder(stage)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_moved_stays_valid(store: Store, log: Path, tmp_path: Path) -> None:
    stage = Toy(value=3, inputs_=(Toy(value=2),), log=str(log))
    store.get(stage)
    before = everything_below(store.root)
    os.rename(store.root, tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    assert moved.get(stage) == 5
    assert everything_below(moved.root) == before
    assert not any(str(tmp_path / "store").encode() in content for content in before.values())


def test_a_finished_result_is_never_written_again(store: Store) -> None:
    stage = Toy(value=3)
    store.get(stage)
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*")}
    store.get(stage)
    store.compute(stage, Execution())
    store.state(stage)
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("*")} == before


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be written: Not a directory; choose another with --store"):
        Store(tmp_path / "file" / "store").get(Toy())


def test_a_full_disk_does_not_hide_the_error_it_caused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.store.store.write_json", full)
    with pytest.raises(StoreError, match="disk full") as caught:
        store.compute(Toy(), Execution())
    assert "No space left" in str(caught.value.__cause__)
    monkeypatch.undo()
    assert store.get(Toy(value=0)) == 0


def test_results_with_subfolders_and_no_files_are_kept_as_they_are(store: Store) -> None:
    class Nested(Toy):
        def misbehave(self, work: Work) -> None:
            (work.out / "a" / "b").mkdir(parents=True)
            (work.out / "a" / "b" / "x.json").write_text(json.dumps([1]), encoding="utf-8")
            (work.out / "empty").mkdir()

    store.compute(Nested(), Execution())
    assert sorted(store.manifest(Nested())["files"]) == ["a/b/x.json", "number.json"]
    assert (store.folder(Nested()) / "empty").is_dir()
