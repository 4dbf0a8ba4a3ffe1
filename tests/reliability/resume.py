"""A stage computed in a process of its own that can be made to die between two checkpoints."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from bench.pipeline.stage import Stage
from tests.reliability.warm import append, context


def compute(stage: Stage, root: Path, told: Path, die_at: tuple[str, int] | None, checkpoint_s: float) -> int:
    """Compute a stage and return the exit code of its process.

    Args:
        stage: what to compute, with whatever it needs.
        root: the store.
        told: file that gets a line `<stage> <done> <note>` for every step that the computation tells of.
        die_at: (text in the path, n): be killed just before the n-th such checkpoint is put in its place.
        checkpoint_s: least seconds between two checkpoints.
    """
    process = context().Process(target=_be_worker, args=(stage, root, told, die_at, checkpoint_s))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _be_worker(stage: Stage, root: Path, told: Path, die_at: tuple[str, int] | None, checkpoint_s: float) -> None:
    from bench.pipeline import checkpoints
    from bench.store.store import Store
    from bench.store.work import Execution

    os.setsid()
    checkpoints.LEAST_SECONDS = checkpoint_s
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "os.rename" and die_at and "/ckpt" in (target := str(arguments[1])) and die_at[0] in target:
            seen += 1
            if seen == die_at[1]:
                os.killpg(0, signal.SIGKILL)

    def tell(of: Stage, done: float, total: float, note: str) -> None:
        append(told, f"{of.stage_name()} {done:g} {note}")

    store = Store(root)
    for below in stage.inputs():
        store.get(below, Execution("cpu"))
    if die_at:
        sys.addaudithook(hook)
    store.compute(stage, Execution("cpu", on_progress=tell))
