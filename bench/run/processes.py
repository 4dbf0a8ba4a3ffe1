"""A fresh process per stage, several beside each other; GPUs are dealt by CUDA_VISIBLE_DEVICES.

Children come from a fork server that has imported the heavy libraries once, so that a fresh process costs
milliseconds. A killed child costs one attempt of one stage: its checkpoints stay, the next attempt goes on from them.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.errors import StageError
from bench.pipeline.stage import Stage
from bench.run.log import compute_logged
from bench.run.workload import Workload
from bench.store.store import Store
from bench.store.work import Execution

_ATTEMPTS_AFTER_A_KILL = 2


def count_gpus() -> int:
    """Return the number of CUDA devices in sight."""
    import torch

    return torch.cuda.device_count()  # asks the driver without starting CUDA in this process


@dataclass
class _Running:
    stage: Stage
    process: BaseProcess
    slot: int
    said: Connection  # the child's error, where the store cannot take it (a full disk)
    failed_before: int  # attempts on record when it began: an older record says nothing of this one


class Processes:
    """Computes up to `jobs` stages at once."""

    def __init__(self, jobs: int, n_gpus: int | None = None) -> None:
        """Use `jobs` processes; with GPUs (counted when the work begins if None), slot i sees GPU i modulo `n_gpus`."""
        self.jobs, self.n_gpus = jobs, n_gpus
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["bench.run.preload"])

    def run(self, work: Workload) -> None:
        """Bring every stage to an outcome; on an interrupt the children are stopped before it is passed on."""
        self.n_gpus = count_gpus() if self.n_gpus is None else self.n_gpus
        running: list[_Running] = []
        kills: dict[str, int] = {}
        try:
            while not work.finished:
                self._start(work, running)
                wait([r.process.sentinel for r in running], timeout=0.25)
                for r in running:
                    if told := work.store.progress(r.stage):
                        work.reporter.polled(r.stage, told["done"], told["total"], told["note"])
                for r in [r for r in running if not r.process.is_alive()]:
                    running.remove(r)
                    self._settle(work, r, kills)
        finally:
            for r in running:
                r.process.terminate()
            for r in running:
                r.process.join()

    def _start(self, work: Workload, running: list[_Running]) -> None:
        busy = {r.stage.key for r in running}
        free = [s for s in range(self.jobs) if s not in {r.slot for r in running}]
        for stage in work.ready():
            if not free:
                return
            if stage.key in busy:
                continue
            slot = free.pop(0)
            gpu = slot % self.n_gpus if self.n_gpus else None
            # the reporter stays here: a child tells its progress through the store
            execution = replace(work.execution, on_progress=None)
            said, says = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_child, args=(work.store.root, stage, execution, gpu, says))
            process.start()
            says.close()
            before = (work.store.failure(stage) or {}).get("attempt", 0)
            running.append(_Running(stage, process, slot, said, before))
            work.reporter.started(stage)

    def _settle(self, work: Workload, ended: _Running, kills: dict[str, int]) -> None:
        stage, code = ended.stage, ended.process.exitcode
        if work.store.has(stage):
            work.record_outcome(stage, "done")
        elif code is not None and code < 0:
            kills[stage.key] = kills.get(stage.key, 0) + 1
            if kills[stage.key] >= _ATTEMPTS_AFTER_A_KILL:
                name = signal.Signals(-code).name
                hint = " (out of memory?)" if name == "SIGKILL" else ""
                self._lost(work, stage, f"its process was killed by {name} {kills[stage.key]} times{hint}")
        elif (failure := work.store.failure(stage)) and _is_of(ended, failure):
            work.record_outcome(stage, "failed", failure["error"])
        else:
            told = _last_words(ended.said)
            self._lost(work, stage, told or f"its process ended with code {code}")

    def _lost(self, work: Workload, stage: Stage, detail: str) -> None:
        """Write down a failure that the child could not record itself; the next run tries again."""
        work.store.record_failure(stage, StageError(detail), sticky=False)
        work.record_outcome(stage, "failed", detail)


def _is_of(ended: _Running, failure: dict[str, Any]) -> bool:
    """Tell whether a record of failure is of this attempt, or of one that keeps all later ones from trying."""
    return bool(failure.get("sticky", True)) or failure.get("attempt", 0) > ended.failed_before


def _last_words(said: Connection) -> str:
    try:
        return str(said.recv()) if said.poll() else ""
    except (EOFError, OSError):
        return ""


def _child(root: Path, stage: Stage, execution: Execution, gpu: int | None, says: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    faulthandler.enable()  # a crash of a library leaves its stack in the log
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    try:
        compute_logged(Store(root), stage, execution)
    except Exception as error:  # recorded in the store with its traceback; the driver reads it there, if it could be
        says.send(f"{type(error).__name__}: {error}")
        os._exit(1)
