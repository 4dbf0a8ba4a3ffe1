"""One stage after the other in this process: for debugging, tests and a single GPU."""

from __future__ import annotations

import dataclasses

from bench.run.workload import Workload


class Inline:
    """Computes in the calling process."""

    def run(self, work: Workload) -> None:
        """Compute every stage in order; a failure is recorded in the store and stops only what needs it.

        A stage that takes its process with it (a segfault, `os._exit`) takes this one: see `processes` for those.
        """
        execution = dataclasses.replace(work.execution, on_progress=work.reporter.polled)
        while not work.finished:
            stage = work.ready()[0]
            work.reporter.started(stage)
            try:
                work.store.compute(stage, execution)
            except Exception as error:  # any failure of a stage is data; the store has its traceback
                work.record_outcome(stage, "failed", f"{type(error).__name__}: {error}")
            else:
                work.record_outcome(stage, "done")
