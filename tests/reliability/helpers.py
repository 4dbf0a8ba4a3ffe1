"""Processes of their own, started and killed by tests."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PREAMBLE = "from bench.store.store import Execution, Store; from tests.reliability.toys import *; "


def start(code: str) -> subprocess.Popen[str]:
    """Start a fresh Python, leader of a process group, that has the store and the toys imported."""
    return subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + code],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to a process and all of its children, as a crash or the end of a job does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def group_is_gone(group: int, within_s: float = 5.0) -> bool:
    """Tell whether no living process of a group is left (zombies do not count)."""
    return until(lambda: not _living(group), within_s)


def _living(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # ended while we looked
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def found(root: Path, pattern: str) -> list[Path]:
    """Return the files that match under a folder in which others make and remove files meanwhile."""
    return [root / name for name in glob.glob(pattern, root_dir=root)]


def until(condition: Callable[[], object], within_s: float = 20.0) -> bool:
    """Wait for a condition; tell whether it came true in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
