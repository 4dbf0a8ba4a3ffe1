"""Compute each stage in a fresh process, several at once; CUDA_VISIBLE_DEVICES gives each process its GPU.

A fresh process for each stage leaves no memory, thread or random state behind, and a crash ends one attempt of one
stage. Children come from a fork server that has imported the heavy libraries once: importing torch in each child would
take seconds, and forking this process would copy its threads and locks in an unknown state.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.errors import StageBusy, StageError
from bench.pipeline.stage import Stage
from bench.run.log import compute_logged
from bench.run.signals import Wish, uninterrupted
from bench.run.workload import BUSY_S, Workload
from bench.store.store import Store
from bench.store.work import Execution

# A killed worker is started once more, and goes on from its checkpoints. Most kills come from outside (memory, an
# administrator) and do not repeat; a stage that dies twice probably kills itself, and a third try would cost as much.
_ATTEMPTS_AFTER_A_KILL = 2
_TO_END_S = 10.0  # for a child that was told to end; then it is killed
_BUSY = "busy"  # a child's last word if another process computes the stage
_OURS = "bench"  # the value of PYTHONSAFEPATH if we have set it; to Python, any value means yes


def gpus_of(device: str) -> list[str]:
    """Return the GPUs that `device` stands for, as CUDA_VISIBLE_DEVICES names them for the stages of this process.

    `cuda:1` is one GPU, `cuda` and `auto` are all that this process can see, and `cpu` and `mps` are none. If
    CUDA_VISIBLE_DEVICES is `2,3`, as on a machine that several people share, these are GPUs 2 and 3, not 0 and 1.
    """
    kind, _, index = device.partition(":")
    if kind in ("cpu", "mps"):
        return []
    import torch

    n_gpus = torch.cuda.device_count()  # it starts no CUDA context, which would take memory on the GPU
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(n_gpus)]
    return names[:n_gpus] if not index else names[int(index) : int(index) + 1]


@dataclass
class _Running:
    stage: Stage
    process: BaseProcess
    slot: int
    said: Connection  # brings the child's error if the store cannot take it (a full disk)
    failed_before: int  # failed attempts on record at the start; a record that is not newer is not of this attempt


class Processes:
    """Computes up to `jobs` stages at once."""

    def __init__(self, jobs: int) -> None:
        """Use `jobs` processes. Slot i sees one of the GPUs of the device, i modulo their number."""
        self.jobs = jobs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["bench.run.preload"])

    def run(self, work: Workload) -> None:
        """Bring every stage to an outcome. On an exception, Ctrl-C included, end the children first."""
        gpus = gpus_of(work.execution.device)
        running: list[_Running] = []
        kills: dict[str, int] = {}
        self._wait_for_the_server()
        try:
            while not work.finished:
                Wish.obey()
                if len(running) < self.jobs:
                    self._start(work, running, gpus)
                if running:
                    wait([r.process.sentinel for r in running], timeout=0.25)
                elif not work.finished:
                    work.wait_for_others()
                for r in running:
                    if told := work.store.progress(r.stage):
                        work.reporter.polled(r.stage, told["done"], told["total"], told["note"])
                for r in [r for r in running if not r.process.is_alive()]:
                    running.remove(r)
                    self._settle(work, r, kills)
        finally:
            with uninterrupted():
                for r in running:
                    r.process.terminate()
                for r in running:
                    r.process.join(_TO_END_S)
                    r.process.kill()
                    r.process.join()

    def _wait_for_the_server(self) -> None:
        """Wait until the fork server has imported everything.

        Raises:
            StageError: if it has ended instead.
        """
        # Afterwards a start takes milliseconds, so that it can hold back Ctrl-C. This one may be interrupted at any
        # moment, since a child that does nothing need not be ended.
        try:
            with _out_of_reach():
                multiprocessing.forkserver.ensure_running()
            self.context.Process(target=_nothing).start()
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            time.sleep(0.2)  # a Ctrl-C ends the server as well, and may reach us a little later
            raise StageError("the process that starts the stages has ended; what it said stands above") from error

    def _start(self, work: Workload, running: list[_Running], gpus: list[str]) -> None:
        slots = [s for s in range(self.jobs) if s not in {r.slot for r in running}]
        for slot, stage in zip(slots, work.free({r.stage.key for r in running}, len(slots)), strict=False):
            gpu = gpus[slot % len(gpus)] if gpus else None
            # The reporter belongs to this process: a child writes its progress into the store, where `run` reads it.
            # The one GPU that a child sees is its `cuda`, whatever number it has here.
            execution = replace(work.execution, on_progress=None, device=work.execution.device.partition(":")[0])
            said, says = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_child, args=(work.store.root, stage, execution, gpu, says))
            before = (work.store.failure(stage) or {}).get("attempt", 0)
            with uninterrupted():  # a child that is started must be in `running`, or nobody would end it
                process.start()
                running.append(_Running(stage, process, slot, said, before))
            says.close()
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
        elif (told := _last_words(ended.said)) != _BUSY:  # else another process was faster, and computes it
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


@contextlib.contextmanager
def _out_of_reach() -> Iterator[None]:
    """Keep a Python that is started in the block from the files of the working folder, and from Ctrl-C."""
    # multiprocessing starts `python -c`, which looks for modules in the working folder first. A user's random.py there,
    # or a folder bench, would be imported in place of the real one.
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ.setdefault("PYTHONSAFEPATH", _OURS)
    try:
        multiprocessing.resource_tracker.ensure_running()  # now, because it unblocks SIGINT after its start
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until `bench.run.preload` takes over
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]


def _nothing() -> None:
    pass


def _child(root: Path, stage: Stage, execution: Execution, gpu: str | None, says: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent ends us in order
    if os.environ.get("PYTHONSAFEPATH") == _OURS:
        del os.environ["PYTHONSAFEPATH"]  # it was meant for the fork server, not for programs that a stage starts
    faulthandler.enable()  # a crash inside a library leaves its stack in the log
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    store = Store(root)
    try:
        while True:
            try:
                compute_logged(store, stage, execution, wait_s=BUSY_S)
                return
            except StageBusy:
                if store.locks.lives(stage.key):
                    raise
    except StageBusy:
        says.send(_BUSY)
        os._exit(1)
    except Exception as error:  # the store has its traceback, unless the disk is full
        says.send(f"{type(error).__name__}: {error}")
        os._exit(1)
