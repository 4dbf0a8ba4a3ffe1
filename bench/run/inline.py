"""Compute one stage after the other in this process: for debugging, tests and a single GPU."""

from __future__ import annotations

import dataclasses

from bench.errors import StageBusy
from bench.run.signals import Wish
from bench.run.workload import BUSY_S, Workload


class Inline:
    """Computes in the calling process."""

    def run(self, work: Workload) -> None:
        """Compute every stage in order. A failure is recorded in the store and blocks only the stages that need it.

        A stage that ends its process (a segfault, `os._exit`) ends this one too; `processes` survives that.
        """
        execution = dataclasses.replace(work.execution, on_progress=work.reporter.polled)
        while True:
            Wish.obey()
            free = work.free(at_most=1)
            if work.finished:
                return
            if not free:
                work.wait_for_others()
                continue
            stage = free[0]
            work.reporter.started(stage)
            try:
                work.store.compute(stage, execution, wait_s=BUSY_S)
            except StageBusy:  # another process was faster; there may be something else to do
                continue
            except Exception as error:  # a failure is a result too; the store has its traceback
                work.record_outcome(stage, "failed", f"{type(error).__name__}: {error}")
            else:
                work.record_outcome(stage, "done")
