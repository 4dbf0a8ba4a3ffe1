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


def lacking_device(device: str) -> str | None:
    """Return in words that this machine has no such device, or None. Torch is imported only to look for a GPU."""
    if device in ("auto", "cpu"):
        return None
    import torch

    if device == "mps":
        return None if torch.backends.mps.is_available() else "torch sees no mps here; give cpu or auto"
    n_gpus, index = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
    if index < n_gpus:
        return None
    if n_gpus:
        return f"torch sees {n_gpus} here; the last is cuda:{n_gpus - 1}"
    return "torch sees no GPU here; see `nvidia-smi`, or give cpu or auto"


def check_executor(name: str) -> None:
    """Refuse an unknown executor.

    Raises:
        ConfigError: with the nearest name.
    """
    if name not in EXECUTORS:
        hint = nearest(name, EXECUTORS)
        raise ConfigError(f"--executor {name}: no such executor{hint} (have: {', '.join(EXECUTORS)})")
