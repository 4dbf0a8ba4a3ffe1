"""Compute each stage in a fresh process, several at once; CUDA_VISIBLE_DEVICES gives each process its GPU.

A fresh process for each stage leaves no memory, thread or random state behind, and a crash ends one attempt of one
stage. Children come from a fork server that has imported the heavy libraries once: importing torch in each child would
take seconds, and forking this process would copy its threads and locks in an unknown state.
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

# A killed worker is started once more, and goes on from its checkpoints. Most kills come from outside (memory, an
# administrator) and do not repeat; a stage that dies twice probably kills itself, and a third try would cost as much.
_ATTEMPTS_AFTER_A_KILL = 2


def count_gpus() -> int:
    """Return the number of CUDA devices that this process can see."""
    import torch

    return torch.cuda.device_count()  # it starts no CUDA context, which would take memory on the GPU


@dataclass
class _Running:
    stage: Stage
    process: BaseProcess
    slot: int
    said: Connection  # brings the child's error if the store cannot take it (a full disk)
    failed_before: int  # failed attempts on record at the start; a record that is not newer is not of this attempt


class Processes:
    """Computes up to `jobs` stages at once."""

    def __init__(self, jobs: int, n_gpus: int | None = None) -> None:
        """Use `jobs` processes. Slot i sees GPU i modulo `n_gpus`, which is counted at the start of `run` if None."""
        self.jobs, self.n_gpus = jobs, n_gpus
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["bench.run.preload"])

    def run(self, work: Workload) -> None:
        """Bring every stage to an outcome. On an exception, Ctrl-C included, end the children first."""
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
            # The reporter belongs to this process: a child writes its progress into the store, where `run` reads it.
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
        """Record a failure that the child could not record itself. It is not sticky: the next run tries again."""
        work.store.record_failure(stage, StageError(detail), sticky=False)
        work.record_outcome(stage, "failed", detail)


def _is_of(ended: _Running, failure: dict[str, Any]) -> bool:
    """Tell whether a failure record is of this attempt, or is sticky and so kept this attempt from starting."""
    return bool(failure.get("sticky", True)) or failure.get("attempt", 0) > ended.failed_before


def _last_words(said: Connection) -> str:
    try:
        return str(said.recv()) if said.poll() else ""
    except (EOFError, OSError):
        return ""


def _child(root: Path, stage: Stage, execution: Execution, gpu: int | None, says: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent ends us in order
    faulthandler.enable()  # a crash inside a library leaves its stack in the log
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    try:
        compute_logged(Store(root), stage, execution)
    except Exception as error:  # the store has its traceback, unless the disk is full
        says.send(f"{type(error).__name__}: {error}")
        os._exit(1)
