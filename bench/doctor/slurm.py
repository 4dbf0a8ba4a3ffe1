"""Check a cluster for jobs: SLURM's commands, the requests of the machine file, and the nodes."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.checks import Check, guarded
from bench.errors import listed, nearest
from bench.pipeline.stage import Resources
from bench.run.machine_file import JobRequest, Machine, SlurmSettings
from bench.run.slurm.executor import stage_classes
from bench.run.slurm.queue import outside_any_job

_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_OUT_OF_USE = ("DOWN", "DRAIN", "FAIL", "MAINT", "INVAL", "NOT_RESPONDING", "POWERED_DOWN", "UNKNOWN")
Records = list[dict[str, str]]


def examine_slurm(machine: Machine, store: Path, wait_s: float) -> Iterator[Check]:
    """Yield the checks of a cluster. A check is left out if something that it needs was found missing.

    Args:
        machine: the machine file, with the `slurm` settings to try.
        store: the folder that jobs will write to.
        wait_s: how long a probe job may stay in the queue.
    """
    yield from guarded("SLURM", _examine(machine, store, wait_s))


def _examine(machine: Machine, store: Path, wait_s: float) -> Iterator[Check]:
    import bench.pretrain.stages  # noqa: F401 - `stage_classes` then knows them too
    from bench.doctor.probe_jobs import probe_nodes

    for check in guarded("SLURM", _answers()):
        yield check
        if not check.ok:
            return
    yield from guarded("slurm.largest_array", _array_size(machine.slurm))
    yield from guarded("slurm.account", _accounts(machine.slurm))
    asks, fine = asks_of(machine.slurm), {}
    yield from guarded("slurm.stages", _unknown_stages(machine.slurm))
    partitions, nodes = _records("scontrol", "show", "partition"), _records("scontrol", "show", "node")
    for label, ask in asks.items():
        for check in guarded(f"slurm.{label}", _satisfiable(label, ask, partitions, nodes)):
            yield check
            if check.ok:
                fine[label] = ask
    probed = {label: ask for label, ask in fine.items() if label in ("cpu", "gpu")} or fine
    yield from guarded("probe", probe_nodes(machine, store, probed, wait_s))


def asks_of(settings: SlurmSettings) -> dict[str, JobRequest]:
    """Return label → request: of the groups `cpu` and `gpu`, and of each stage with an entry of its own."""
    asks: dict[str, JobRequest] = {}
    for name, cls in stage_classes().items():
        # What some stages need depends on their settings. They are looked at as if it were a GPU.
        wants = cls.resources if isinstance(cls.resources, Resources) else Resources(gpu=True)
        label = f"stages.{name}" if name in settings.stages else "gpu" if wants.gpu else "cpu"
        ask = settings.ask(name, wants)
        asks[label] = ask if label not in asks else _larger(asks[label], ask)
    return dict(sorted(asks.items()))


def _larger(a: JobRequest, b: JobRequest) -> JobRequest:
    """Return a request of one group that covers two of its stages."""
    most = {name: max(getattr(a, name), getattr(b, name)) for name in ("cpus", "memory_gb", "minutes")}
    return a.model_copy(update=most)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)


def _records(*command: str) -> Records:
    """Return the output of `scontrol --oneliner show`, one mapping for each line.

    A value may hold spaces, so it ends where the next `name=` begins.
    """
    lines = _run(*command, "--oneliner").stdout.splitlines()
    return [dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", line)) for line in lines if "=" in line]


def _config() -> dict[str, str]:
    lines = _run("scontrol", "show", "config").stdout.splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def _answers() -> Iterator[Check]:
    lacking = [name for name in _COMMANDS if shutil.which(name) is None]
    where = f"not here: {', '.join(lacking)}; run this on a machine of the cluster, or load its module"
    yield Check("SLURM's commands", not lacking, where if lacking else ", ".join(_COMMANDS))
    if not lacking:
        pinged = _run("scontrol", "ping")
        said = " ".join((pinged.stdout + pinged.stderr).split())
        up = pinged.returncode == 0 and " UP" in said
        yield Check("slurmctld", up, said if up else f"does not answer ({said}); ask whoever runs the cluster")


def _array_size(settings: SlurmSettings) -> Iterator[Check]:
    size = _config().get("MaxArraySize", "")
    if size.isdigit():
        ok = settings.largest_array <= int(size) - 1
        asked = f"{settings.largest_array} tasks in an array; the cluster takes indices below {size}"
        yield Check("slurm.largest_array", ok, asked if ok else f"{asked}; set it to {int(size) - 1}")


def _accounts(settings: SlurmSettings) -> Iterator[Check]:
    named = {a.account for a in asks_of(settings).values() if a.account}
    if not named:
        return
    query = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=account", "where")
    told = _run(*query, f"user={getpass.getuser()}") if shutil.which("sacctmgr") else None
    if told is None or told.returncode:
        yield Check("slurm.account", True, f"{listed(named)}; not checked, this cluster keeps no accounts")
        return
    known = set(told.stdout.split())
    wrong = [f"{name}: not yours{nearest(name, known)} (have: {listed(known) or 'none'})" for name in named - known]
    yield Check("slurm.account", not wrong, "; ".join(wrong) or listed(named))


def _unknown_stages(settings: SlurmSettings) -> Iterator[Check]:
    known = set(stage_classes())
    for name in sorted(set(settings.stages) - known):
        yield Check(f"slurm.stages.{name}", False, f"no such stage{nearest(name, known)} (have: {listed(known, 30)})")


def _satisfiable(label: str, ask: JobRequest, partitions: Records, nodes: Records) -> Iterator[Check]:
    """Check a request against partitions and nodes, then ask sbatch, which also knows accounts and QOS."""
    wish = f"{ask.cpus or 1} CPUs, {ask.memory_gb or 0:g} GB, {ask.gpus or 0} GPUs, {ask.minutes} min"
    defaults = [p["PartitionName"] for p in partitions if p.get("Default") == "YES"]
    names = ask.partition.split(",") if ask.partition else defaults
    by_name = {p["PartitionName"]: p for p in partitions}
    if not names:
        yield Check(
            f"slurm.{label}", False, f"the cluster has no default partition; name one (have: {listed(by_name)})"
        )
        return
    wrong = [why for name in names if (why := why_refused(ask, wish, name, by_name, nodes))]
    if len(wrong) == len(names):
        yield Check(f"slurm.{label}", False, "; ".join(wrong))
        return
    with outside_any_job():
        tried = _run("sbatch", "--test-only", *_options(ask), "--wrap", "true")
    said = " ".join(tried.stderr.replace("sbatch: ", "").split())
    fine = f"{wish} in {','.join(names)}; {re.sub(r'^Job [0-9]+ to', 'could', said)}"
    yield Check(
        f"slurm.{label}", tried.returncode == 0, fine if tried.returncode == 0 else f"{wish}: sbatch says: {said}"
    )


def _options(ask: JobRequest) -> list[str]:
    named: dict[str, str | int | None] = {
        "partition": ask.partition,
        "account": ask.account,
        "qos": ask.qos,
        "constraint": ask.constraint,
        "cpus-per-task": ask.cpus,
        "mem": f"{round(ask.memory_gb * 1024)}M" if ask.memory_gb else None,
        "time": ask.minutes,
        "gpus-per-node": ask.gpus or None,
    }
    wants = named | {name.replace("_", "-"): value for name, value in ask.extra.items()}
    flags = [f"--{name}" for name, value in wants.items() if value is True]
    return flags + [f"--{k}={v}" for k, v in wants.items() if v is not None and not isinstance(v, bool)]


def why_refused(
    ask: JobRequest, wish: str, name: str, partitions: dict[str, dict[str, str]], nodes: Records
) -> str | None:
    """Return why a partition cannot serve a request, or None."""
    if (partition := partitions.get(name)) is None:
        return f"no partition {name}{nearest(name, partitions)} (have: {listed(partitions)})"
    if (state := partition.get("State", "UP")) != "UP":
        return f"partition {name} is {state}"
    limit = _minutes(partition.get("MaxTime", "UNLIMITED"))
    if limit is not None and (ask.minutes or 0) > limit:
        hint = f"set minutes to {limit:g} or less (a job that reaches its limit is requeued and goes on)"
        return f"{ask.minutes} minutes, and partition {name} allows {limit:g}; {hint}"
    members = [n for n in nodes if name in n.get("Partitions", "").split(",")]
    fitting = [n for n in members if _fits(ask, n)]
    if not fitting:
        largest = {"/".join(f"{x:g}" for x in _size(n)) for n in members}
        return f"no node of partition {name} has {wish}; its nodes have CPUs/GB/GPUs {listed(largest)}"
    if all(any(word in n.get("State", "") for word in _OUT_OF_USE) for n in fitting):
        states = {f"{n['NodeName']} {n['State']} {n.get('Reason', '')}".strip() for n in fitting}
        return f"the nodes of partition {name} that have {wish} are out of use: {listed(states, 4)}"
    return None


def _size(node: dict[str, str]) -> tuple[float, float, float]:
    gpus = sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", node.get("Gres", "")))
    return int(node.get("CPUTot", 0)), int(node.get("RealMemory", 0)) / 1024, gpus


def _fits(ask: JobRequest, node: dict[str, str]) -> bool:
    wanted: Iterable[float] = (ask.cpus or 1, ask.memory_gb or 0, ask.gpus or 0)
    return all(want <= has for want, has in zip(wanted, _size(node), strict=True))


def _minutes(limit: str) -> float | None:
    """Return SLURM's `[days-]hours:minutes:seconds` in minutes, or None if there is no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60
