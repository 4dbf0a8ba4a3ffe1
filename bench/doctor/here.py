"""This machine and its Python: libraries, device, memory, W&B, plugins; and the store, see `bench.doctor.store`."""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bench.doctor.check import Check, guarded
from bench.doctor.store import examine_store
from bench.errors import in_words
from bench.files import versions
from bench.machine import Machine

_DISTRIBUTION = "longtail-bench"
_LEAST_MEMORY_GB = 4.0  # what a stage asks for unless it says otherwise

Look = Callable[[Machine, Path], Iterator[Check]]


def examine(machine: Machine, store: Path) -> Iterator[Check]:
    """Yield the checks of this machine and of a store's folder, which is left as it was."""
    looks: dict[str, Look] = {
        "libraries": _libraries,
        "device": _device,
        "machine": _machine,
        "store": examine_store,
        "W&B": _wandb,
        "plugins": _plugins,
    }
    for what, look in looks.items():
        yield from guarded(what, look(machine, store))


def _libraries(machine: Machine, store: Path) -> Iterator[Check]:
    found = versions()
    told = ", ".join(f"{name} {found[name]}" for name in found if name not in ("python", "platform", _DISTRIBUTION))
    yield Check("python", True, f"{found['python']} at {sys.executable}")
    try:
        wanted = [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Check("libraries", False, f"{_DISTRIBUTION} is not installed for this Python; run `pip install -e .`")
        return
    lacking = [str(r) for r in wanted if (not r.marker or r.marker.evaluate({"extra": ""})) and not _there(r)]
    lack = f"not installed, or another version: {', '.join(lacking)}; run `pip install -e .` again"
    yield Check("libraries", not lacking, lack if lacking else told)


def _there(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _device(machine: Machine, store: Path) -> Iterator[Check]:
    said, works = devices()
    if machine.executor == "slurm":  # jobs compute elsewhere: there it is looked at by a probe
        works = True
    elif machine.device.startswith("cuda") and not said.startswith("cuda"):
        works, said = False, f"device {machine.device} is asked for, and torch sees {said}; see `nvidia-smi`"
    yield Check("device", works, said)


def devices() -> tuple[str, bool]:
    """Return what torch computes on, in words, and whether it does: each GPU multiplies a small matrix."""
    import torch

    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        return ("mps" if mps else "cpu (torch sees no GPU)"), True
    named = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        named.append(f"{facts.name} {facts.total_memory / 2**30:.0f} GB")
        try:
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            if float((ones @ ones).sum()) != 64**3:
                return f"cuda:{index} ({facts.name}) computes nonsense", False
        except RuntimeError as error:
            return f"cuda:{index} ({facts.name}) does not compute: {in_words(error)}", False
    return f"cuda: {', '.join(named)}", True


def _machine(machine: Machine, store: Path) -> Iterator[Check]:
    yield Check("cores", True, str(len(os.sched_getaffinity(0))))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own, where there is one
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        memory = min(memory, int(text))
    gb = memory / 2**30
    enough = gb >= _LEAST_MEMORY_GB or machine.executor == "slurm"
    little = f"{gb:.1f} GB; a computation may need {_LEAST_MEMORY_GB:.0f} GB, take a larger machine"
    yield Check("memory", enough, f"{gb:.1f} GB" if enough else little)


def _wandb(machine: Machine, store: Path) -> Iterator[Check]:
    try:
        import wandb
    except Exception as error:  # an import can fail in any way
        yield Check("W&B", False, f"does not import ({in_words(error)}); reinstall it, or run with --wandb off")
        return
    login = "logged in" if _has_login() else "not logged in, which only --wandb online needs"
    yield Check("W&B", True, f"{wandb.__version__}, offline unless --wandb says otherwise; {login}")


def _has_login() -> bool:
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("//")[2].partition("/")[0]
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _plugins(machine: Machine, store: Path) -> Iterator[Check]:
    from bench import registry

    told = f"{len(registry.methods())} methods, {len(registry.datasets())} data set kinds"
    if not registry.broken():
        yield Check("plugins", True, told)
    for entry in registry.broken():
        yield Check("plugins", False, f"{entry.module} cannot be used: {entry.reason}; its cells would fail, mend it")
