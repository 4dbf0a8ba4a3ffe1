"""Choose the executor."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import ConfigError, nearest
from bench.run.machine_file import EXECUTORS, Machine
from bench.run.workload import Executor


@dataclass(frozen=True)
class ChosenExecutor:
    """An executor, and how many stages it computes at once (for the estimate of the time left)."""

    executor: Executor
    jobs: int

    @property
    def goes_on_alone(self) -> bool:
        """Whether the computations go on when this process ends."""
        return bool(getattr(self.executor, "goes_on_alone", False))


def choose_executor(machine: Machine, jobs: int) -> ChosenExecutor:
    """Return the executor that the machine file asks for, with `jobs` computations at once on this machine.

    Raises:
        ConfigError: for `inline` with several jobs.
    """
    name = machine.executor or ("processes" if jobs > 1 else "inline")
    if name == "slurm":
        from bench.run.slurm.executor import Slurm

        return ChosenExecutor(Slurm(machine), machine.slurm.cap)
    if name == "processes":
        from bench.run.processes import Processes

        return ChosenExecutor(Processes(jobs), jobs)
    from bench.run.inline import Inline

    if jobs > 1:
        raise ConfigError(f"--executor inline: computes one at a time, got --jobs {jobs}; use processes")
    return ChosenExecutor(Inline(), 1)


def check_executor(name: str) -> None:
    """Refuse an unknown executor.

    Raises:
        ConfigError: with the nearest name.
    """
    if name not in EXECUTORS:
        hint = nearest(name, EXECUTORS)
        raise ConfigError(f"--executor {name}: no such executor{hint} (have: {', '.join(EXECUTORS)})")
