"""A real SLURM on this machine: munged, slurmctld and slurmd in a folder of their own, with free ports, on loopback only.

By hand: `python -m tests.slurm.cluster start FOLDER`, which prints what to export, and `... stop FOLDER`.

One node, `node`, with 8 CPUs, 64 GB and 2 GPUs, whatever the machine has; partitions `main` (the default), `low` and
`high`, whose jobs preempt those of `low`. No accounting. A preempted job gets its `--signal` at once, is killed and
requeued some 11 seconds later, whatever GraceTime says, and like every requeued job starts again within three seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
_ROOT = Path(__file__).parents[2]
_ATTEMPTS = 3  # a port that was free may be another's before ours binds it


def why_not() -> str | None:
    """Return why no cluster can be started here, in words for a skipped test; None where one can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a SLURM for the tests runs on Linux, as root"
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)"
    return None


class Cluster:
    """One running SLURM; `env` is what a process needs in its environment to talk to it."""

    def __init__(self, folder: Path, supervisor: subprocess.Popen[str]) -> None:
        self.folder, self.supervisor = folder, supervisor
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}

    @classmethod
    def start(cls, folder: Path, *, detached: bool = False) -> Cluster:
        """Start a cluster in a folder, and return when its node is idle; `detached` lives on when we end.

        Raises:
            RuntimeError: with what the daemons said.
        """
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            supervisor, said = _supervise(folder, 0 if detached else os.getpid())
            if said == "ready":
                return cls(folder, supervisor)
        logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in sorted(folder.glob("*.out")))
        raise RuntimeError(f"no SLURM in {folder}: {said}\n{logs}")

    def stop(self) -> None:
        """End the daemons and all that they started."""
        self.supervisor.terminate()
        self.supervisor.wait(30)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command with the cluster in its environment; return what it printed, stripped.

        Raises:
            RuntimeError: with what it said, if it fails and `check` is set.
        """
        env = os.environ | self.env
        done = subprocess.run(command, env=env, text=True, capture_output=True, check=False, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        return done.stdout.strip()

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a shell script; return the job's id. All attempts write to `<folder>/<id>.out`; see `output`."""
        output = ("--output", str(self.folder / "%A_%a.out" if "--array" in options else self.folder / "%j.out"))
        return self.run("sbatch", "--parsable", *output, "--open-mode", "append", *options, "--wrap", script)

    def output(self, job: str) -> str:
        """Return what a job (`7`) or a task of an array (`7_0`), submitted by `sbatch`, has printed so far."""
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def squeue(self, *options: str) -> list[dict[str, str]]:
        """Return `id, name, state, reason, partition` of the jobs that wait or run, tasks of arrays one by one."""
        names = ("id", "name", "state", "reason", "partition")
        lines = self.run("squeue", "--noheader", "--array", "--format", "%i|%j|%T|%r|%P", *options).splitlines()
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` tells, also of a job that has just ended; empty when SLURM has forgotten it."""
        told = self.run("scontrol", "--oneliner", "show", "job", job, check=False)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def wait_idle(self, within_s: float = 60.0) -> bool:
        """Wait until no job waits or runs; tell whether that came true in time."""
        return until(lambda: not self.squeue(), within_s)

    def scancel_all(self) -> None:
        """Cancel every job, and return when none is left."""
        if self.squeue():
            self.run("scancel", "--user", "root")
            assert self.wait_idle(20), f"still there after scancel: {self.squeue()}"


def until(condition: Callable[[], object], within_s: float = 20.0) -> bool:
    """Wait for a condition, asking ten times a second; tell whether it came true in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def _supervise(folder: Path, parent: int) -> tuple[subprocess.Popen[str], str]:
    """Start a supervisor; return it and what it says: `ready`, or what went wrong."""
    command = [sys.executable, "-m", "tests.slurm.supervisor", str(folder), str(parent)]
    with open(folder / "supervisor.out", "a") as err:
        # a session of its own: Ctrl-C is its parent's to handle, and it must live to clean up
        process = subprocess.Popen(
            command, cwd=_ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
            start_new_session=True,
        )  # fmt: skip
    (folder / "supervisor.pid").write_text(str(process.pid))
    assert process.stdout
    with process.stdout as out:
        said = out.readline().strip()
    if said != "ready":
        process.wait()
    return process, said


def _running_in(folder: Path) -> int | None:
    """Return the supervisor of the cluster in a folder, None where none runs."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "supervisor.pid").read_text())
        if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    return None


def _by_hand(verb: str, folder: Path) -> None:
    pid = _running_in(folder)
    if verb == "stop" and pid:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not _running_in(folder))
    elif verb == "start":
        if why := why_not():
            sys.exit(why)
        if not pid:
            Cluster.start(folder, detached=True)
        print(f"export SLURM_CONF={folder / 'slurm.conf'}")


if __name__ == "__main__":
    _by_hand(sys.argv[1], Path(sys.argv[2]).resolve())
