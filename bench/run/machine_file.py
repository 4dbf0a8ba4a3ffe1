"""The machine file: where stages are computed and what they ask of the machine.

Nothing here changes a result, so nothing here enters a key, and none of it may stand in a matrix file.

```yaml
executor: slurm
slurm:
  account: radiology
  cap: 16                                # tasks of one array that run at once
  setup: [module load cuda/12.4]         # shell lines before Python starts
  cpu: {partition: cpu, cpus: 2, memory_gb: 8, minutes: 60}
  gpu: {partition: gpu, cpus: 8, memory_gb: 32, minutes: 240, gpus: 1}
  stages:
    classifier: {minutes: 600}           # by the stage's name; what is not given comes from cpu or gpu
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from bench.config.validation import build
from bench.config.yaml_file import read_yaml
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Resources

# Every library gets the number of threads that `threads` says. Left alone, it would take the node's number of cores,
# and the rounding of sums would differ between nodes.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ExecutorName = Literal["inline", "processes", "slurm"]
EXECUTORS: tuple[ExecutorName, ...] = ("inline", "processes", "slurm")

# sbatch options that `extra` may not give: those that the executor relies on, and those with a setting of their own
_OURS = {"array", "dependency", "output", "error", "open-mode", "signal", "wckey", "job-name", "nodes", "ntasks"}
_OURS |= {"ntasks-per-node", "requeue", "no-requeue", "export", "time", "partition", "account", "qos", "constraint"}
_OURS |= {"cpus-per-task", "mem", "gpus-per-node", "wrap", "parsable", "wait"}


class JobRequest(Settings):
    """What a job asks of SLURM. None leaves the choice to the stage's group (`cpu` or `gpu`), then to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int | None = Field(None, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    minutes: int | None = Field(None, ge=1, description="time limit; a job that reaches it is requeued and goes on")
    gpus: int | None = Field(None, ge=0)
    extra: dict[str, str | int | bool] = Field({}, description="further sbatch options, e.g. {reservation: night}")

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name in extra:
            if name.replace("_", "-") in _OURS:
                raise ValueError(f"'{name}' is set by bench itself; leave it out")
        return {k: v for k, v in extra.items() if v is not False}

    def over(self, other: JobRequest) -> JobRequest:
        """Return this request; what it leaves open is taken from `other`."""
        mine = {k: v for k, v in self.model_dump().items() if v is not None and k != "extra"}
        return JobRequest.model_validate(other.model_dump() | mine | {"extra": other.extra | self.extra})


# What a job gets if the file does not say, and its stage does not need more.
_CPU: dict[str, Any] = {"cpus": 1, "memory_gb": 8, "minutes": 60}
_GPU: dict[str, Any] = {"cpus": 4, "memory_gb": 32, "minutes": 240, "gpus": 1}


class SlurmSettings(Settings):
    """How jobs are handed to SLURM."""

    account: str | None = None
    partition: str | None = None
    cap: int = Field(16, ge=1, description="tasks of one array that run at once")
    largest_array: int = Field(1000, ge=1, description="the cluster's MaxArraySize less one")
    cpu: JobRequest = Field(JobRequest(), description="of stages that need no GPU [1 CPU, 8 GB, 60 minutes, or more]")
    gpu: JobRequest = Field(JobRequest(), description="of the others [1 GPU, 4 CPUs, 32 GB, 240 minutes, or more]")
    stages: dict[str, JobRequest] = Field({}, description="by stage name, e.g. classifier; over cpu or gpu")
    setup: list[str] = Field([], description="shell lines before Python starts")
    python: str | None = Field(None, min_length=1, description="command that starts Python on a node [this Python]")
    max_timeouts: int = Field(20, ge=0, description="times that a job may reach its time limit and be requeued")
    signal_s: int = Field(90, ge=1, description="seconds before the limit at which a job is told to stop")
    poll_s: float = Field(10.0, gt=0, description="seconds between two questions to the scheduler")
    settle_s: float = Field(15.0, ge=0, description="seconds a shared file system may take to show a job's files")

    def ask(self, name: str, wants: Resources) -> JobRequest:
        """Return the request of a stage's job.

        The stage's own entry comes first, then its group's. What both leave open is what the stage says it needs, or
        the default of its group if that is more. `account` and `partition` come last.

        Args:
            name: the stage's name.
            wants: what the stage says it needs; whether that is a GPU decides its group.
        """
        given, default = (self.gpu, JobRequest(**_GPU)) if wants.gpu else (self.cpu, JobRequest(**_CPU))
        own, group = self.stages.get(name, JobRequest()), given.over(_at_least(default, wants))
        return own.over(group).over(JobRequest(account=self.account, partition=self.partition))


def _at_least(default: JobRequest, wants: Resources) -> JobRequest:
    least = {"cpus": wants.cpus, "memory_gb": wants.memory_gb, "minutes": wants.minutes}
    return default.model_copy(update={name: max(n, getattr(default, name)) for name, n in least.items()})


class Machine(Settings):
    """Where and how stages are computed. Options of the command line win over the file."""

    executor: ExecutorName | None = Field(None, description="None: processes where jobs is more than 1, else inline")
    jobs: int | None = Field(None, ge=1, description="computations at once on this machine [GPUs, else cores]")
    device: str = "auto"
    threads: int = Field(1, ge=1, description="CPU threads of one computation; changes rounding")
    locks: Literal["flock", "lease"] | None = Field(None, description="how stages are claimed [flock, if it works]")
    slurm: SlurmSettings = SlurmSettings()


def load_machine(path: Path | None) -> Machine:
    """Return the settings in a machine file, or the defaults if `path` is None.

    Raises:
        ConfigError: one line that names the file and field.
    """
    return Machine() if path is None else build(Machine, read_yaml(path), path.name)
