"""What `gpu` measures in processes of their own: a compiled network, and several trainings on one card at once.

A compilation cannot be stopped when its time is over, and it may bring down its process. So each has a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.store.work import Execution
from benchmarks.gpu_clock import LEAST, Enough, Laps, LeftOut, Slice
from benchmarks.gpu_subjects import run_until_enough, training

_ROOT = Path(__file__).parents[1]
_WARM_UP = 5  # steps of a job before it is ready


def main() -> int:
    """Do what the arguments say, a kind and its settings as JSON, and print the result as JSON."""
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    device = Execution(device=settings["device"]).apply()
    try:
        found = compiled(**settings) if kind == "compiled" else job(**settings)
    except LeftOut as reason:
        print(json.dumps({"left_out": str(reason)}), flush=True)
        return 0
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else None
    print(json.dumps({"values": found, "peak_mib": peak}), flush=True)
    return 0


def compiled(device: str, batch: int, until: float, **settings: Any) -> list[float]:
    """Return the images/s of training steps whose network is compiled; `until` is on the clock `time.monotonic`."""
    subject = training(batch=batch, device=device, **settings)
    subject.network.compile()
    # The first step compiles, and a later one may again.
    laps = Laps(Slice(until), most=20, skip=4)
    run_until_enough(subject, laps)
    return [batch / lap for lap in laps.counted()]


def job(device: str, batch: int, window_s: float, **settings: Any) -> list[float]:
    """Return the images/s in each of three windows of time; they begin when a line comes on stdin."""
    subject, rates = training(batch=batch, device=device, **settings), list[float]()
    steps, began = 0, 0.0

    def after_step(done: float, total: float, note: str) -> None:
        nonlocal steps, began
        steps += 1
        if done == _WARM_UP:
            print("ready", flush=True)
            sys.stdin.readline()
            steps, began = 0, time.perf_counter()
        # A step ends with reading its loss, so the GPU has done it.
        elif done > _WARM_UP and (now := time.perf_counter()) - began >= window_s:
            rates.append(steps * batch / (now - began))
            steps, began = 0, now
            if len(rates) == LEAST:
                raise Enough

    run_until_enough(subject, after_step)
    return rates


@contextlib.contextmanager
def children(kind: str, n: int, time_left: Slice, settings: dict[str, Any]) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield `n` processes of a kind, which are killed at the end of the time, and in any case at the end of the block.

    Raises:
        LeftOut: if the time ended before the block did.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_child", kind, json.dumps(settings)]
    pipe = subprocess.PIPE
    # A group of its own lets the processes that a compilation starts be ended with it.
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, process_group=0, cwd=_ROOT)
        for _ in range(n)
    ]
    seconds, late = time_left.left, threading.Event()
    timer = threading.Timer(seconds, lambda: (late.set(), kill(started)))
    timer.start()
    try:
        yield started
    except LeftOut as reason:
        if late.is_set():
            raise LeftOut(f"left out: it did not end in the {seconds:.0f} s that were left for it") from reason
        raise
    finally:
        timer.cancel()
        kill(started)
        for process in started:
            process.communicate()


def kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End the processes that have not ended, with all that they started."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a process prints at its end.

    Raises:
        LeftOut: with the reason that it gives, or with its error.
    """
    out, errors = process.communicate()
    if process.returncode:
        raise LeftOut(f"it ended with an error: {_error_of(errors)}")
    found = dict(json.loads(out.strip().splitlines()[-1]))
    if "left_out" in found:
        raise LeftOut(found["left_out"])
    return found


def _error_of(errors: str) -> str:
    """Return the line of a traceback that names the error. What a compiler says may have hints after it."""
    lines = errors.strip().splitlines() or ["no message"]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exceeded|Failed)\b", line)]
    return (named or lines)[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
