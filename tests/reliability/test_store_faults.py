"""The store when processes die inside a commit, disks are full or read-only, and stores are moved or copied."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StoreError
from bench.pipeline.stage import Work
from bench.store import attempt
from bench.store.store import Store
from bench.store.verify import verify
from bench.store.work import Execution
from tests.conftest import BENCH, ROOT, ToyRun
from tests.reliability.toys import Toy

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate", "open"}


class Big(Toy):
    """A toy with a folder and a larger file, so that a commit has several steps."""

    def misbehave(self, work: Work) -> None:
        (work.out / "sub").mkdir()
        (work.out / "sub" / "x.bin").write_bytes(b"x" * 100_000)
        (work.ckpt / "state").write_bytes(b"s")


class KilledInCommit(Big):
    """Is killed before the `moment`-th change to the file system after its computation."""

    def misbehave(self, work: Work) -> None:
        super().misbehave(work)
        if Moment.number is not None:  # in a fork, which dies: such a hook cannot be taken out again
            sys.addaudithook(_kill_at(Moment.number))

    @classmethod
    def stage_name(cls) -> str:
        return "big"


class Moment:
    """Which change to die before; None outside of the forks that die."""

    number: int | None = None


def _kill_at(moment: int) -> Callable[[str, Any], None]:
    left = [moment]

    def hook(event: str, arguments: Any) -> None:
        writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if event in CHANGES and writes:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def killed(store: Store, moment: int) -> bool:
    """Compute in a fork that dies at a moment; tell whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            Moment.number = moment
            Store(store.root, store.locks.kind).compute(KilledInCommit(value=7), Execution())
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def left_in(store: Store) -> list[str]:
    return sorted(p.name for p in (store.root / "big").iterdir())


@pytest.mark.parametrize("kind", ["flock", "lease"])
@pytest.mark.parametrize("torn_target", [False, True])
def test_a_kill_at_any_moment_of_a_commit_tears_nothing_and_blocks_nothing(
    tmp_path: Path, kind: str, torn_target: bool
) -> None:
    moment, deaths = 0, 0
    while True:
        store = Store(tmp_path / str(moment), kind)
        stage = KilledInCommit(value=7)
        if torn_target:
            (store.folder(stage) / "sub").mkdir(parents=True)
            (store.folder(stage) / "sub" / "torn.bin").write_bytes(b"torn")
        died = killed(store, moment)
        deaths += died
        if store.has(stage):
            assert verify(store).damage == []
        assert store.state(stage) in ("done", "missing")
        assert store.get(stage) == 7
        store.tidy()
        assert left_in(store) == [stage.key]
        assert verify(store).damage == []
        assert "sub/torn.bin" not in store.manifest(stage)["files"]
        if not died:
            break
        moment += 1
    assert deaths >= 8, "the kills must reach into the commit"


def test_a_result_that_appears_while_a_zombie_is_about_to_rename_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last instant: confirmed its lease, was stopped before the rename, woke up after its successor finished."""
    mine = Store(tmp_path, "lease", lease_s=0.2, beat_s=60)
    real = attempt.publish

    def late(out: Path, target: Path) -> None:
        monkeypatch.setattr(attempt, "publish", real)
        real_folder = tmp_path / "elsewhere"
        Store(real_folder).compute(Big(value=3), Execution())
        shutil.copytree(Store(real_folder).folder(Big(value=3)), target)
        real(out, target)

    monkeypatch.setattr(attempt, "publish", late)
    mine.compute(Big(value=3), Execution())
    assert verify(mine).damage == []
    assert mine.failure(Big(value=3)) is None
    assert [p.name for p in (tmp_path / "big").iterdir()] == [Big(value=3).key]


def test_seconds_do_not_follow_the_clock_of_the_wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SetsBack(Toy):
        def misbehave(self, work: Work) -> None:
            monkeypatch.setattr("time.time", lambda: 0.0)

    store = Store(tmp_path)
    store.compute(SetsBack(), Execution())
    assert 0 <= store.manifest(SetsBack())["seconds"] < 10


class FillsDisk(Toy):
    """Writes a large file, then finds the disk full, in the words of one library or another."""

    how: str = "os"

    def misbehave(self, work: Work) -> None:
        (work.out / "large.bin").write_bytes(b"x" * 1000)
        (work.ckpt / "state").write_bytes(b"s")
        if self.how == "os":
            with open("/dev/full", "wb") as handle:
                handle.write(b"x")
        if self.how == "torch":
            import torch

            with open("/dev/full", "wb") as handle:
                torch.save({"a": torch.zeros(100_000)}, handle)
        if self.how == "safetensors":
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise ValueError("not reached by a full disk")


@pytest.mark.parametrize("how", ["os", "torch", "safetensors"])
def test_a_full_disk_gives_its_space_back_and_is_one_line(tmp_path: Path, how: str) -> None:
    store, stage = Store(tmp_path), FillsDisk(how=how)
    with pytest.raises(StoreError, match=r"disk full while computing fillsdisk .*make room .*run it again") as caught:
        store.compute(stage, Execution())
    assert "\n" not in str(caught.value)
    assert store.failure(stage)["sticky"] is False  # type: ignore[index]
    assert [p.name for p in tmp_path.glob("fillsdisk/*.work/*/*")] == ["state"]


def test_a_full_disk_in_the_commit_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("bench.store.store.write_json", full)
        with pytest.raises(StoreError, match="disk full"):
            store.compute(Big(), Execution())
    assert list(tmp_path.glob("big/*.work/out*")) == []
    assert store.get(Big()) == 0


def test_a_small_file_that_a_full_disk_cuts_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.files import write_json

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_a_full_disk_cuts_off_leaves_nothing_and_the_one_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.pipeline import checkpoints

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoints.save(tmp_path, 1, {"step": 1})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 2, {"step": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["000000001.ckpt"]
    assert checkpoints.load_newest(tmp_path) == {"step": 1}


def test_a_file_that_was_cut_off_is_never_served(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.compute(Big(value=3), Execution())
    os.truncate(store.folder(Big(value=3)) / "sub" / "x.bin", 99_999)  # `open` does not read it
    with pytest.raises(StoreError, match=r"sub/x\.bin is missing or cut off"):
        store.open(Big(value=3))


def test_a_result_cleaned_away_between_look_and_reading_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.compute(Big(value=3), Execution())
    real = Store.open

    def cleaned(self: Store, stage: Any) -> Any:
        monkeypatch.setattr(Store, "open", real)
        shutil.rmtree(store.folder(stage))
        return real(self, stage)

    monkeypatch.setattr(Store, "open", cleaned)
    assert store.get(Big(value=3)) == 3


def bench(*arguments: str, read_only: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line; with `read_only`, where that folder is mounted so (in a mount namespace of its own)."""
    command = [*BENCH, *arguments]
    if read_only:
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, str(read_only), *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def moved(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the toy run's store, made somewhere and then renamed."""
    first = tmp_path_factory.mktemp("copied") / "first"
    shutil.copytree(toy_run.store, first)
    return first.rename(first.with_name("second place"))


def test_a_copied_and_renamed_store_needs_nothing_computed(toy_run: ToyRun, moved: Path) -> None:
    done = bench("run", "toy", "--json", "--wandb", "off", "--store", str(moved))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == toy_run.rows
    assert "nothing to compute" in done.stderr
    assert verify(Store(moved), jobs=2).damage == []
    hidden = [p for p in moved.rglob("*") if str(toy_run.store).encode() in (p.read_bytes() if p.is_file() else b"")]
    assert hidden == []


def test_a_read_only_store_is_served_and_computing_for_it_is_one_line(moved: Path, tmp_path: Path) -> None:
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("no mount namespaces here")
    for arguments in (
        ("run", "toy", "--json", "--wandb", "off"),
        ("status", "toy", "--json"),
        ("ls", "--size"),
        ("verify", "-q"),
        ("report", "toy", "--set", "methods=[baseline, duplicate, ours@0]", "--out", str(tmp_path / "report")),
    ):
        done = bench(*arguments, "--store", str(moved), read_only=moved)
        assert done.returncode == 0, (arguments, done.stderr[-2000:])
    refused = bench("run", "toy", "--set", "seeds=[9]", "--wandb", "off", "--store", str(moved), read_only=moved)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith(f"error: store {moved}: cannot be written: Read-only file system")
