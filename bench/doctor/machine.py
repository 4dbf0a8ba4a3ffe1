"""Check this machine and its Python: libraries, device, memory, the store, W&B, plugins."""

from __future__ import annotations

import netrc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from rich.filesize import decimal

from bench.checks import Check, guarded
from bench.doctor.store import LEAST_FREE, examine_store
from bench.errors import in_words
from bench.plugins import registry
from bench.run.machine_file import Machine
from bench.run.placement import lacking_device
from bench.store.manifest import device_name, versions

_DISTRIBUTION = "longtail-bench"
_LEAST_MEMORY_GB = 4.0  # what most stages ask for, see `Resources`

Examination = Callable[[Machine, Path], Iterator[Check]]


def examine(machine: Machine, store: Path) -> Iterator[Check]:
    """Yield the checks of this machine and of a store's folder, and leave the folder as it was."""
    looks: dict[str, Examination] = {
        "libraries": _libraries,
        "device": _device,
        "machine": _machine,
        "store": examine_store,
        "temporary folder": _temporary,
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
    if machine.executor == "slurm":  # jobs run on other machines, and a probe job checks the device there
        works = True
    elif lacks := lacking_device(machine.device):
        works, said = False, f"{machine.device} is asked for, and {lacks}"
    yield Check("device", works, said)


def devices() -> tuple[str, bool]:
    """Return in words which devices torch uses, or what is wrong with one; and whether all of them work."""
    # A device that torch lists can still fail: its driver may not fit, or the GPU may be too old for the kernels. Only
    # a real convolution shows that, and on a GPU one in each precision.
    import torch

    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        wrong = device_fault("mps" if mps else "cpu", "float32")
        return wrong or ("mps" if mps else f"cpu (torch sees no GPU), {device_name(None)}"), wrong is None
    named = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        for precision in ("float32", "float16", "bfloat16"):
            if wrong := device_fault(f"cuda:{index}", precision):
                return f"{wrong} ({facts.name})", False
        named.append(f"{facts.name} {facts.total_memory / 2**30:.0f} GB")
    return f"cuda: {', '.join(named)}", True


def device_fault(device: str, precision: str) -> str | None:
    """Return what is wrong with a device's convolution of ones in a precision, or None."""
    import torch

    try:
        dtype = getattr(torch, precision)
        images, kernel = (torch.ones(shape, device=device, dtype=dtype) for shape in ((2, 4, 16, 16), (8, 4, 3, 3)))
        right = bool((torch.nn.functional.conv2d(images, kernel) == 4 * 3 * 3).all())
    except RuntimeError as error:
        return f"{device} does not compute in {precision}: {in_words(error)}"
    return None if right else f"{device} computes nonsense in {precision}"


def best_device(machine: Machine) -> str:
    """Return the device that stages would use on this machine."""
    import torch

    if machine.device != "auto":
        return machine.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _machine(machine: Machine, store: Path) -> Iterator[Check]:
    yield Check("cores", True, str(len(os.sched_getaffinity(0))))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # the limit of a container, if there is one
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        memory = min(memory, int(text))
    gb = memory / 2**30
    enough = gb >= _LEAST_MEMORY_GB or machine.executor == "slurm"
    little = f"{gb:.1f} GB; a computation may need {_LEAST_MEMORY_GB:.0f} GB, take a larger machine"
    yield Check("memory", enough, f"{gb:.1f} GB" if enough else little)


def _temporary(machine: Machine, store: Path) -> Iterator[Check]:
    folder = tempfile.gettempdir()  # raises if no temporary folder can be written
    free = shutil.disk_usage(folder).free
    little = f"{decimal(free)} free at {folder}; make room, or set TMPDIR to another folder"
    enough = free >= LEAST_FREE
    yield Check("temporary folder", enough, f"{decimal(free)} free at {folder}" if enough else little)


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

    told = f"{len(registry.methods())} methods, {len(registry.datasets())} data set kinds"
    if not registry.broken():
        yield Check("plugins", True, told)
    for entry in registry.broken():
        yield Check("plugins", False, f"{entry.module} cannot be used: {entry.reason}; its cells would fail; repair it")
