"""What is done to a run: each scenario disturbs one store; `Trial.finish` then finishes and judges it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import BENCH
from tests.reliability.helpers import ROOT, found, group_is_gone, until
from tests.reliability.judge import COMMAND, LIMIT_S, finished
from tests.reliability.moments import wait_until_done
from tests.reliability.trial import Trial
from tests.reliability.warm import Run, start


class Refused(Exception):
    """A disturbance that this machine does not allow; the reason is its text."""


def killed(trial: Trial, times: int = 4) -> None:
    """SIGKILL of the whole group, again and again, at moments of all kinds; now and then a checkpoint is torn too."""
    for _ in range(times):
        if not trial.strike():
            break
        checkpoints = [p for p in found(trial.store, "*/*.work/ckpt*/*") if p.is_file()]
        if checkpoints and trial.rng.random() < 0.3:  # as a machine does that dies with it in its memory
            path = max(checkpoints, key=lambda p: p.stat().st_mtime_ns)
            os.truncate(path, trial.rng.randrange(path.stat().st_size + 1))
            trial.say(f"  torn: {path.relative_to(trial.store)}")


def terminated(trial: Trial, times: int = 2) -> None:
    """SIGTERM to the whole group, SIGKILL after a grace: a scheduler's time limit or preemption."""
    for _ in range(times):
        if not trial.strike("any stage", signal.SIGTERM, grace_s=trial.rng.choice([0.05, 0.3, 10.0])):
            break


def worker_killed(trial: Trial) -> None:
    """One worker of a run is killed, as by the kernel when memory runs out: it costs one attempt of one stage."""
    with trial.verdict.one_attempt_each(killed=1):
        run = trial.start(jobs=2)
        wait_until_done(trial.rng.randrange(len(trial.reference.stages) // 2), trial.store, run)
        victim = 0
        while not victim and not run.ended():
            victim = _worker_of(run)
        if victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                trial.strikes.append("a worker")
        code = run.wait(LIMIT_S)
    trial.say(f"  a worker killed after {time.monotonic() - run.began:.2f} s; the run ended with {code}")
    if code != 0 or run.rows != trial.reference.rows:
        trial.verdict.faults.append(f"a killed worker ended the run with {code}: {run.said[-1500:]}")
    if code is not None and not group_is_gone(run.group):
        trial.verdict.faults.append("processes are left after a worker was killed")
    run.kill()
    trial.finish()  # killed just after its rename, it leaves a work folder that the next run takes away


def _worker_of(run: Run) -> int:
    """Return a process two below the driver: its fork server's child; 0 if there is none now."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == run.group and state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return next((pid for pid, parent in parents.items() if parents.get(parent) == run.group), 0)


def two_drivers(trial: Trial, rounds: int = 2) -> None:
    """Two runs of the same matrix at once, from two folders and by two names of the store, killed now and then."""
    folders = [trial.folder / "here", trial.folder / "there"]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "link").symlink_to(trial.folder)
    stores = ["../store", str(folders[1] / "link" / "store")]

    def both() -> list[Run]:
        return [trial.start(jobs=2, cwd=f, store=s) for f, s in zip(folders, stores, strict=True)]

    for _ in range(rounds):
        before, runs = finished(trial.store), both()
        for run in trial.rng.sample(runs, 2):
            wait_until_done(len(before) + trial.rng.randint(0, 4), trial.store, run)
            run.wait(trial.rng.uniform(0, 0.5))
            if not run.ended():
                trial.strikes.append("one of two drivers")
            if not run.kill():
                trial.verdict.faults.append("processes are left of one of two drivers")
        trial.verdict.after_stop(before)
        trial.say(f"  two drivers killed: {len(finished(trial.store))} done")
    with trial.verdict.one_attempt_each():
        runs = both()
        codes = [run.wait(LIMIT_S) for run in runs]
    for run, code in zip(runs, codes, strict=True):
        trial.verdict.at_end(code, run.rows if code == 0 else None, run.said)


def disk_full(trial: Trial) -> None:
    """The disk fills up: the run ends, says why in one line, and goes on when there is room."""
    size_kib = int(2 ** trial.rng.uniform(7, 17))
    trial.store.mkdir()
    with mounted(trial.store, "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs"):
        run = trial.start()
        code = run.wait(LIMIT_S)
        trial.say(f"  a disk of {size_kib} KiB: ended with {code}, {len(finished(trial.store))} done")
        if code not in (1, 2):
            trial.verdict.faults.append(f"a full disk ended the run with {code}: {run.said[-1500:]}")
        trial.strikes.append("a full disk")
        if "Traceback" in run.said or not ("disk full" in run.said or "No space left" in run.said):
            trial.verdict.faults.append(f"a full disk is not told in a line: {run.said[-1500:]}")
        run.kill()
        _mount("-o", "remount,size=2g", str(trial.store))
        trial.finish()


def read_only(trial: Trial) -> None:
    """A store that cannot be written: computing is refused in one line, what is finished is served."""
    trial.strike("any stage")
    trial.store.mkdir(exist_ok=True)
    with mounted(trial.store, "--bind", str(trial.store)):
        _mount("-o", "remount,ro,bind", str(trial.store))
        before = finished(trial.store)
        run = trial.start()
        code = run.wait(LIMIT_S)
        lines = run.said.strip().splitlines()
        if len(before) < len(trial.reference.stages) and (code != 2 or len(lines) != 1 or "error: " not in lines[0]):
            trial.verdict.faults.append(f"a read-only store ended the run with {code}: {run.said[-1500:]}")
        trial.say(f"  read-only: ended with {code}: {lines[-1] if lines else ''}")
        _mount("-o", "remount,rw,bind", str(trial.store))
        trial.finish()
        _mount("-o", "remount,ro,bind", str(trial.store))
        again = trial.start()
        if again.wait(LIMIT_S) != 0 or again.rows != trial.reference.rows:
            trial.verdict.faults.append(f"a finished read-only store is not served: {again.said[-1500:]}")


def truncated(trial: Trial) -> None:
    """A finished artefact is cut off: never served in silence, and computed anew once it is deleted as told."""
    trial.strike("any stage")
    victims = [p for p in found(trial.store, "*/*/*") if p.is_file() and p.suffix in (".npy", ".safetensors", ".json")]
    victims = [p for p in victims if ".work" not in str(p) and p.stat().st_size > 1 and p.parents[1].name != "cells"]
    if not victims:
        return
    path = trial.rng.choice(sorted(victims))
    os.truncate(path, trial.rng.randrange(path.stat().st_size))
    name = str(path.relative_to(trial.store))
    trial.strikes.append("a truncated file")
    run = trial.start()
    code = run.wait(LIMIT_S)
    trial.say(f"  {name} truncated: the next run ended with {code}")
    if code not in (0, 1, 2) or "Traceback" in run.said:
        trial.verdict.faults.append(f"{name} truncated ended the run with {code}: {run.said[-1500:]}")
    elif code and path.parent.name[:8] not in run.said:
        trial.verdict.faults.append(f"{name} truncated, but not named: {run.said[-1500:]}")
    verify = start(["verify", "--store", str(trial.store), "--delete"], trial.folder / "verify")
    if verify.wait(LIMIT_S) != 1:
        trial.verdict.faults.append(f"`bench verify` did not find {name}: {verify.said[-1500:]}")
    elif path.exists():
        trial.verdict.faults.append(f"`bench verify --delete` left {name}")
    trial.verdict.deleted.add(str(path.relative_to(trial.store).parents[-3]))
    trial.finish()


def clock_set_back(trial: Trial) -> None:
    """The clock is a day ahead, jumps back two days while it runs, and is right in the next run."""
    offset = trial.folder / "offset"
    offset.write_text("+1d\n", encoding="utf-8")
    process = subprocess.Popen(
        [*BENCH, *COMMAND, "--jobs", "1", "--store", str(trial.store)],
        env=os.environ | _fake_clock(offset),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    stages = len(trial.reference.stages)
    until(lambda: len(finished(trial.store)) >= stages // 3 or process.poll() is not None, LIMIT_S)
    offset.write_text("-1d\n", encoding="utf-8")
    until(lambda: len(finished(trial.store)) >= stages // 2 or process.poll() is not None, LIMIT_S)
    os.killpg(process.pid, signal.SIGTERM)
    trial.strikes.append("SIGTERM, the clock set back")
    said = _said_at_end(process)
    stamps = sorted(stamp for stamp, _ in finished(trial.store).values()) or ["never"]
    trial.say(f"  stopped with {process.returncode} after stages finished from {stamps[0]} to {stamps[-1]}")
    if process.returncode != 130 or "\nstopped; finished stages" not in said or "Traceback" in said:
        trial.verdict.faults.append(f"a stop ended with {process.returncode}: {said[-1500:]}")
    trial.finish()
    if stamps[0][:10] == stamps[-1][:10]:
        raise Refused("the clock was not set back: libfaketime is not installed, or has no effect here")


def _fake_clock(offset: Path) -> dict[str, str]:
    """Return the environment under which a process reads the clock with the offset in a file; monotonic time is real."""
    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so*"))), None)
    if library is None:
        return {}
    files = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset)}
    return files | dict.fromkeys(("FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"), "1")


def _said_at_end(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=LIMIT_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[1] + "(still there, killed)"


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something on a folder for the length of a block.

    Raises:
        Refused: where that is not allowed.
    """
    _mount(*options, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Refused(f"mount: {error.strerror}") from error
    if done.returncode:
        raise Refused(done.stderr.strip() or "mount failed")


Scenario = Callable[[Trial], None]
SCENARIOS: dict[str, Scenario] = {
    "killed": killed,
    "terminated": terminated,
    "worker": worker_killed,
    "two-drivers": two_drivers,
    "disk-full": disk_full,
    "read-only": read_only,
    "truncated": truncated,
    "clock": clock_set_back,
}
FINISH_THEMSELVES = ("worker", "two-drivers", "disk-full", "read-only", "truncated", "clock")
