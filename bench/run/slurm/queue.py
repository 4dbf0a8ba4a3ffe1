"""Query, cancel and submit SLURM jobs (through submitit)."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import ConfigError
from bench.run.machine_file import THREADS, JobRequest, SlurmSettings

_TIMEOUT_S = 60.0
_LONGEST_REASON = 300
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
_ENDED |= {"REVOKED", "TIMEOUT"}
# Reasons for waiting that do not pass by themselves.
_STUCK = (
    *("PartitionTimeLimit", "PartitionNodeLimit", "PartitionDown", "PartitionConfig", "BadConstraints"),
    *("Held", "held", "Invalid", "ReqNodeNotAvail", "Nodes required", "DependencyNeverSatisfied"),
    *("AssocGrp", "AssocMax", "QOSM", "QOSG"),
)


def require_slurm() -> None:
    """Refuse a machine without SLURM's commands.

    Raises:
        ConfigError: with the first missing command.
    """
    if missing := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
        raise ConfigError(f"--executor slurm: no `{missing[0]}` here; run this on a login node of the cluster")


# Messages of sbatch after which it may take the same job a little later.
_PASSES = (
    *("Socket timed out", "Unable to contact slurm controller", "Zero Bytes were transmitted", "try again"),
    *("temporarily unable", "AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit"),
)
_HANDED_ON = ("PYTHONPATH", "BENCH_METHODS", "BENCH_LOCKS", *THREADS)


class SchedulerBusy(ConfigError):
    """SLURM did not take a job now, but may take it later."""


@dataclass(frozen=True)
class Queue:
    """SLURM's answer about our jobs at one moment. SLURM forgets ended jobs after some minutes."""

    live: dict[str, str]  # job → `PENDING (Priority)`, `RUNNING (node3)`
    ended: dict[str, str]  # job → `COMPLETED`, `CANCELLED`, `OUT_OF_MEMORY`, ...

    def is_pending(self, job: str) -> bool:
        """Tell whether a job waits in the queue."""
        return self.live.get(job, "").startswith("PENDING")

    def stuck(self, job: str) -> str | None:
        """Return why a job will not start without somebody's help, or None if it may."""
        state = self.live.get(job, "")
        return state if state.startswith("PENDING") and any(reason in state for reason in _STUCK) else None


def ask_queue(timeout_s: float = _TIMEOUT_S, tell: Callable[[str], object] = lambda why: None) -> Queue | None:
    """Return the state of our jobs, or None if SLURM does not answer.

    Args:
        timeout_s: how long to wait for an answer.
        tell: called with the reason in one line if there is none.

    Raises:
        ConfigError: if `squeue` is missing here.
    """
    # `sacct` would remember ended jobs for longer, but accounting is off on many clusters.
    command = ["squeue", "--me", "--states=all", "--noheader", "--array", "--format", "%i|%T|%r|%N"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise ConfigError("slurm: no `squeue` here; run this on a machine of the cluster") from error
    except subprocess.TimeoutExpired:
        tell(f"no answer within {timeout_s:g} s")
        return None
    if told.returncode:
        tell(" ".join(told.stderr.split())[:_LONGEST_REASON] or f"squeue ended with {told.returncode}")
        return None
    queue = Queue({}, {})
    for line in told.stdout.splitlines():
        job, state, reason, nodes = [*line.split("|"), "", "", ""][:4]
        if state in _ENDED:
            queue.ended[job] = state
        else:
            queue.live[job] = f"{state} ({nodes or reason})"
    return queue


def cancel(jobs: Iterable[str]) -> None:
    """Take jobs out of the queue.

    Raises:
        ConfigError: with what scancel said.
    """
    wanted = sorted(jobs)
    for start in range(0, len(wanted), 200):  # a command line has a largest length
        told = subprocess.run(["scancel", *wanted[start : start + 200]], capture_output=True, text=True, check=False)
        if told.returncode:
            raise ConfigError(f"scancel: {' '.join(told.stderr.split())}")


def submit(
    jobs: Sequence[Callable[[], object]],
    name: str,
    ask: JobRequest,
    settings: SlurmSettings,
    folder: Path,
    after: Iterable[str] = (),
) -> list[str]:
    """Submit jobs as one array (a single job without one) and return their ids, in order.

    Args:
        jobs: what each job calls; submitit pickles it.
        name: the name that squeue shows.
        ask: the request of each job.
        settings: cap, setup lines, time-outs.
        folder: where submitit keeps its files and the jobs' output; all machines must see it.
        after: ids of jobs that must have ended, well or not, before any of these begins.

    Raises:
        ConfigError: with what sbatch said.
        SchedulerBusy: if sbatch may take the jobs later.
    """
    import submitit

    before = set(folder.glob("*")) if folder.is_dir() else set()
    executor = submitit.SlurmExecutor(folder, max_num_timeout=settings.max_timeouts, python=_python(settings))
    executor.update_parameters(**_parameters(name, ask, settings, after))
    try:
        # The error that we raise already holds sbatch's lines, so they need not be printed as well.
        with outside_any_job(ask), contextlib.redirect_stderr(io.StringIO()):
            return [str(job.job_id) for job in executor.submit_array(list(jobs))]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        for path in set(folder.glob("*")) | set(folder.glob(".submission_file_*")):
            if path not in before and path.suffix in (".pkl", ".sh"):
                path.unlink(missing_ok=True)
        said = _cause(str(error))
        if any(text in said for text in _PASSES):
            raise SchedulerBusy(f"slurm: sbatch does not take {name} now: {said}") from error
        hint = "; see slurm.largest_array (MaxArraySize less one)" if "array" in said else ""
        raise ConfigError(f"slurm: sbatch refused {name}: {said}{hint}") from error


@contextlib.contextmanager
def outside_any_job(ask: JobRequest | None = None) -> Iterator[None]:
    """Hide the SLURM and SBATCH variables of our own environment from sbatch for the length of the block."""
    # If `bench` runs inside a job, sbatch would hand that job's variables on to the new one. SBATCH_ variables of a
    # user's profile win over the lines of a script, and so over the machine file. They are kept only for what the
    # request leaves open.
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
    if ask:
        said = {"ACCOUNT": ask.account, "PARTITION": ask.partition, "QOS": ask.qos, "CONSTRAINT": ask.constraint}
        kept |= {f"SBATCH_{name}" for name, value in said.items() if value is None}
    ours = ("SLURM", "SRUN_", "SBATCH_")
    hidden = {k: v for k, v in os.environ.items() if k.startswith(ours) and k not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _python(settings: SlurmSettings) -> str:
    """Return the command that starts Python in a job, which may not import what lies in the working folder."""
    return f"{settings.python or shlex.quote(sys.executable)} -P"


def _exports() -> list[str]:
    """Return shell lines that set the variables that results and claims depend on; some sites export none to jobs."""
    found = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    given = [f"export {name}={shlex.quote(value)}" for name, value in found.items()]
    # with PYTHONOPTIMIZE=2 there are no docstrings, and transformers cannot be imported
    return ["export SLURM_EXPORT_ENV=ALL", "unset PYTHONOPTIMIZE", *given]


def _cause(text: str) -> str:
    """Return sbatch's own lines from submitit's error, or its last line if there are none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("sbatch:")]
    return " ".join(said or lines[-1:])


def _parameters(name: str, ask: JobRequest, settings: SlurmSettings, after: Iterable[str]) -> dict[str, object]:
    chosen: dict[str, object] = {
        "job_name": name,
        "time": ask.minutes,
        "partition": ask.partition,
        "account": ask.account,
        "qos": ask.qos,
        "constraint": ask.constraint,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": ask.cpus,
        "mem": f"{round(ask.memory_gb * 1024)}MB" if ask.memory_gb else None,
        "gpus_per_node": ask.gpus or None,
        "array_parallelism": settings.cap,
        "signal_delay_s": settings.signal_s,
        "setup": [*_exports(), *settings.setup],
        "stderr_to_stdout": True,
        "wckey": None,  # submitit sets its own name, which a cluster with a list of wckeys refuses
        # `afterok` would leave jobs in the queue for ever behind a failed one. With `afterany` a job starts, finds its
        # inputs missing, and ends; the driver then says which stage failed.
        "dependency": ",".join(f"afterany:{job}" for job in sorted(after)) or None,
        # Only srun passes the signal before the time limit on to Python; a batch script keeps it to itself.
        "use_srun": True,
        "additional_parameters": {"requeue": True} | ask.extra,
    }
    return {k: v for k, v in chosen.items() if v is not None or k == "wckey"}
