"""Claims: one holder at a time, named while it lives, free when it dies; leases where there are no file locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError, StageBusy
from bench.pipeline.stage import Work
from bench.store.claims import Locks, described, slurm_job
from bench.store.leases import has_died, this_process
from bench.store.store import Store
from bench.store.work import Execution
from tests.reliability.helpers import kill_group, start, until
from tests.reliability.toys import Toy, noted

LEASE = {"lease_s": 1.0, "beat_s": 0.1}
AS_LEASE = "locks='lease', lease_s=1.0, beat_s=0.1"


@pytest.fixture(params=["flock", "lease"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Locks:
    return Locks(tmp_path / "locks", request.param, **LEASE)


def twin(locks: Locks) -> Locks:
    """Claims as another process sees them."""
    return Locks(locks.folder, locks.kind, **LEASE)


def test_one_at_a_time(locks: Locks) -> None:
    claim = locks.try_claim("a", {})
    assert claim is not None
    assert twin(locks).try_claim("a", {}) is None
    other = twin(locks).try_claim("b", {})
    assert other is not None
    claim.release()
    again = twin(locks).try_claim("a", {})
    assert again is not None
    assert again.token != claim.token
    for held in (again, other):
        held.release()


def test_a_holder_is_named_while_it_holds_and_not_after(locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert locks.holder("a") is None
    claim = locks.try_claim("a", {"stage": "toy", "log": "logs/x"})
    assert claim is not None
    holder = twin(locks).holder("a")
    assert holder is not None
    assert (holder["pid"], holder["job"], holder["log"], holder["stage"]) == (os.getpid(), "77", "logs/x", "toy")
    assert holder["since"][:2] == "20"
    assert [h["stage"] for h in twin(locks).held()] == ["toy"]
    assert f"process {os.getpid()} (SLURM job 77)" in described(holder)
    claim.release()
    assert twin(locks).holder("a") is None
    assert list(locks.held()) == []


def test_who_waits_long_enough_is_told_who_is_at_it(locks: Locks) -> None:
    claim = locks.try_claim("a", {})
    started = time.monotonic()
    with pytest.raises(StageBusy, match=rf"stage toy a is being computed by host .+, process {os.getpid()}") as caught:
        twin(locks).claim("a", {"stage": "toy"}, wait_s=0.2)
    assert 0.2 <= time.monotonic() - started < 1.5
    assert caught.value.holder["pid"] == os.getpid()
    claim.release()  # type: ignore[union-attr]


def test_waiting_ends_when_the_result_is_there(locks: Locks) -> None:
    claim = locks.try_claim("a", {})
    assert twin(locks).claim("a", {}, finished=lambda: True) is None
    claim.release()  # type: ignore[union-attr]


def test_a_key_is_forgotten_only_when_nobody_holds_it(locks: Locks) -> None:
    claim = locks.try_claim("a", {})
    twin(locks).forget("a")
    assert twin(locks).holder("a") is not None
    claim.release()  # type: ignore[union-attr]
    locks.forget("a")
    locks.forget("never")
    assert locks.names() == []


def test_a_lock_file_that_is_removed_between_open_and_lock_is_no_claim(tmp_path: Path) -> None:
    """Else a cleaner and two processes could end up with two holders, each with a lock on another inode."""
    locks = Locks(tmp_path, "flock")
    real, opened = fcntl.flock, []

    def slow(handle: Any, how: int) -> None:
        if not opened:
            (tmp_path / "a").unlink()
        opened.append(handle)
        real(handle, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.store.claims.fcntl.flock", slow)
        claim = locks.try_claim("a", {})
    assert len(opened) == 2
    assert claim is not None
    assert Locks(tmp_path, "flock").try_claim("a", {}) is None
    claim.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_leases_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(handle: Any, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.delenv("BENCH_LOCKS", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("bench.store.claims.fcntl.flock", refuse)
        locks = Locks(tmp_path / "locks", **LEASE)
        claim = locks.try_claim("a", {})
    assert claim is not None
    assert locks.kind == "lease"
    elsewhere = Locks(tmp_path / "locks", **LEASE)  # on a host whose kernel would grant the lock
    assert elsewhere.kind == "lease"
    assert elsewhere.try_claim("a", {}) is None
    claim.release()


def test_the_kind_is_chosen_by_argument_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_LOCKS", "lease")
    assert Store(tmp_path).locks.kind == "lease"
    assert Store(tmp_path, "flock").locks.kind == "flock"
    monkeypatch.setenv("BENCH_LOCKS", "nfs")
    with pytest.raises(ConfigError, match="BENCH_LOCKS=nfs: want flock or lease"):
        Store(tmp_path)
    monkeypatch.delenv("BENCH_LOCKS")
    assert Store(tmp_path).locks.kind == "flock"


def test_a_job_of_an_array_is_named_as_slurm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert slurm_job() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == "7_3"


def test_a_silent_lease_is_taken_over_after_its_time_on_our_clock(tmp_path: Path) -> None:
    held = Locks(tmp_path, "lease", lease_s=0.5, beat_s=60).try_claim("a", {"process": None})
    assert held is not None
    waiter, started = Locks(tmp_path, "lease", lease_s=0.5, beat_s=60), time.monotonic()
    os.utime(next(tmp_path.glob("a.lease/*")), (2**33, 2**33))  # a clock far ahead: times of files do not count
    claim = waiter.claim("a", {})
    assert 0.5 <= time.monotonic() - started < 3
    assert claim is not None
    assert held.lost()
    assert not held.confirm()
    held.release()  # of what it no longer has: the successor's claim stands
    assert not claim.lost()
    assert Locks(tmp_path, "lease", lease_s=0.5, beat_s=60).try_claim("a", {}) is None
    assert claim.confirm()
    claim.release()


def test_two_who_see_nobody_cannot_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.store.leases._top", lambda folder: 0)  # neither has seen the other
    first = Locks(tmp_path, "lease", **LEASE).try_claim("a", {})
    assert first is not None
    assert Locks(tmp_path, "lease", **LEASE).try_claim("a", {}) is None
    first.release()


class Overtaken(Toy):
    """Is taken over while it computes, and goes on: silently, or telling its progress."""

    tells: bool = False

    def compute(self, work: Work) -> None:
        successor = Locks(work.store.locks.folder, "lease", lease_s=0.3, beat_s=0.05)
        Claims.held = successor.claim(self.key, {"stage": "overtaken"})
        Claims.went_on = False
        if self.tells:
            work.progress(1, 1)
        Claims.went_on = True
        (work.out / "number.json").write_text("0", encoding="utf-8")


class Claims:
    held: Any = None
    went_on = False


@pytest.mark.parametrize("tells", [True, False])
def test_who_was_taken_over_commits_nothing_and_records_no_failure(tmp_path: Path, tells: bool) -> None:
    store, stage = Store(tmp_path, "lease", lease_s=0.3, beat_s=60), Overtaken(tells=tells)
    with pytest.raises(StageBusy, match="stage overtaken"):
        store.compute(stage, Execution(), wait_s=0.1)
    assert Claims.went_on is not tells, "whoever tells its progress stops there"
    assert not store.folder(stage).exists()
    assert store.failure(stage) is None
    assert not Claims.held.lost()
    assert store.state(stage) == "running"
    Claims.held.release()
    assert list(tmp_path.glob("overtaken/*")) == []


def test_who_looked_long_ago_cannot_take_a_number_that_has_come_and_gone(tmp_path: Path) -> None:
    old = Locks(tmp_path, "lease", **LEASE)
    for _ in range(3):
        claim = old.try_claim("a", {})
        assert claim is not None
        claim.release()
    holder = Locks(tmp_path, "lease", **LEASE).try_claim("a", {})
    assert holder is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.store.leases._top", lambda folder: 1)  # what it saw before it was stopped
        patch.setattr("bench.store.leases.Leases._is_over", lambda self, key, number: True)
        assert Locks(tmp_path, "lease", **LEASE).try_claim("a", {}) is None
    assert not holder.lost()
    assert holder.confirm()
    holder.release()


def test_signs_of_life_keep_a_lease(tmp_path: Path) -> None:
    held = Locks(tmp_path, "lease", lease_s=0.6, beat_s=0.05).try_claim("a", {})
    assert held is not None
    with pytest.raises(StageBusy):
        Locks(tmp_path, "lease", lease_s=0.6, beat_s=0.05).claim("a", {}, wait_s=1.5)
    assert held.confirm()
    assert not held.lost()
    held.release()


def test_who_did_not_look_for_long_starts_to_count_again(tmp_path: Path) -> None:
    """Both may have been stopped together: a suspended laptop must not hand every lease to who wakes first."""
    held = Locks(tmp_path, "lease", lease_s=0.3, beat_s=60).try_claim("a", {"process": None})
    waiter = Locks(tmp_path, "lease", lease_s=0.3, beat_s=60)
    assert waiter.try_claim("a", {}) is None
    time.sleep(0.4)
    assert waiter.try_claim("a", {}) is None
    held.release()  # type: ignore[union-attr]


def test_of_many_who_take_over_one_succeeds(tmp_path: Path) -> None:
    folder = str(tmp_path / "locks")
    stale = Locks(tmp_path / "locks", "lease", lease_s=0.5, beat_s=60).try_claim("a", {"process": None})
    assert stale is not None
    code = (
        f"from bench.store.claims import Locks; import time; gather({str(tmp_path)!r}); "
        f"l = Locks(__import__('pathlib').Path({folder!r}), 'lease', lease_s=0.5, beat_s=0.1); "
        "end = time.monotonic() + 2.5; c = None\n"
        "while time.monotonic() < end and not c: c = l.try_claim('a', {}); time.sleep(0.001)\n"
        "time.sleep(max(0, end - time.monotonic())); print(bool(c))"
    )
    processes = [start(code) for _ in range(4)]
    assert until(lambda: len(noted(tmp_path / "ready")) == 4)
    (tmp_path / "go").touch()
    told = [p.communicate() for p in processes]
    assert sorted(out for out, _ in told) == ["False\n"] * 3 + ["True\n"], told
    assert stale.lost()
    stale.release()


def test_a_dead_process_of_this_machine_is_known_at_once() -> None:
    assert not has_died(this_process())
    assert not has_died(None)
    assert not has_died("another-boot/pid:[1]/1/1")
    child = subprocess.Popen(
        ["python3", "-c", "from bench.store.leases import this_process as t; print(t())"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    told = child.communicate()[0].strip()
    assert has_died(told)
    pid = told.rpartition("/")[0].rpartition("/")[2]
    assert has_died(this_process().replace(f"/{os.getpid()}/", f"/{pid}/"))  # type: ignore[union-attr]


def test_a_process_that_ended_and_that_nobody_has_asked_about_is_dead() -> None:
    code = "from bench.store.leases import this_process as t; print(t(), flush=True); input()"
    child = subprocess.Popen(
        ["python3", "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    told = child.stdout.readline().strip()  # type: ignore[union-attr]
    assert not has_died(told)
    child.stdin.close()  # type: ignore[union-attr]
    assert until(lambda: has_died(told), 5), "a zombie counted as alive"
    child.wait()
    child.stdout.close()  # type: ignore[union-attr]


def test_a_killed_holder_of_a_lease_on_this_machine_frees_it_at_once(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store", locks="lease")
    holder = start(f"Store({str(store.root)!r}, locks='lease').get(Toy(value=6, log={str(log)!r}, seconds=60))")
    assert until(lambda: noted(log) and store.state(Toy(value=6)) == "running")
    kill_group(holder)
    assert store.state(Toy(value=6)) == "missing"
    assert store.compute(Toy(value=6), Execution(), wait_s=2)


def test_a_stopped_holder_that_wakes_after_the_takeover_disturbs_nobody(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store", locks="lease", **LEASE)
    stage = Toy(value=6, log=str(log), seconds=1.5)
    code = f"s = Toy(value=6, log={str(log)!r}, seconds=1.5); print(Store({str(store.root)!r}, {AS_LEASE})"
    first = start(f"{code}.compute(s, Execution()))")
    assert until(lambda: noted(log) and list(store.root.glob("toy/*.work/progress.json")))
    os.killpg(first.pid, signal.SIGSTOP)
    second = start(f"{code}.compute(s, Execution()))")
    assert until(lambda: len(noted(log)) == 2)
    folders = {p.name for p in store.root.glob("toy/*.work/*") if p.is_dir()}
    assert len(folders) == 2, folders  # one attempt's out and ckpt
    os.killpg(first.pid, signal.SIGCONT)
    told = [p.communicate(timeout=20) for p in (first, second)]
    assert [out for out, _ in told] == ["False\n", "True\n"], told
    assert "another process took over" in told[0][1]
    assert "Traceback" not in told[0][1]
    assert store.failure(stage) is None
    assert store.get(stage) == 6
    assert noted(log) == ["toy 6"] * 2
    assert list(store.root.glob("toy/*.work")) == []


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_who_waits_says_once_for_whom(tmp_path: Path, kind: str) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store", locks=kind)
    code = f"Store({str(store.root)!r}, locks={kind!r})"
    holder = start(f"{code}.get(Toy(value=6, log={str(log)!r}, seconds=60))")
    assert until(lambda: noted(log) and store.state(Toy(value=6)) == "running")
    waiter = start(f"{code}.compute(Toy(value=6), Execution(), wait_s=3)")
    _, said = waiter.communicate(timeout=20)
    line = f"waiting: stage toy {Toy(value=6).key[:8]} is being computed by host "
    assert said.count(line) == 1
    assert f"process {holder.pid}" in said
    assert said.splitlines()[-1].startswith("bench.errors.StageBusy: ")
    kill_group(holder)


def test_what_a_holder_says_of_itself_is_json(tmp_path: Path) -> None:
    claim = Locks(tmp_path, "flock").try_claim("a", {"uses": ["b"]})
    assert json.loads((tmp_path / "a").read_text(encoding="utf-8"))["uses"] == ["b"]
    claim.release()  # type: ignore[union-attr]
    assert not (tmp_path / "a").exists()
