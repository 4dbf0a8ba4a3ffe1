"""Compute stages in SLURM jobs, one array of jobs for each level of the work.

All arrays are submitted at once, and each depends on the arrays that make its inputs. So this process may end, and the
cluster goes on. Another `bench run` of the same matrix finds the jobs in the queue, submits what is missing, and
watches. The store says what is finished, never SLURM: a job can end well for SLURM and leave no result, or be killed
after its result was complete.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import ConfigError, StageError, nearest
from bench.pipeline.stage import Stage
from bench.plugins import registry
from bench.run.machine_file import JobRequest, Machine
from bench.run.signals import Wish, uninterrupted
from bench.run.slurm.job import StageJob, recipe_path
from bench.run.slurm.queue import Queue, SchedulerBusy, ask_queue, cancel, submit
from bench.run.slurm.recipe import write_recipe
from bench.run.workload import Workload
from bench.store.submissions import Ledger

_ATTEMPTS = 3  # jobs of one stage that may end without a result or an error, e.g. because the node died


@dataclass
class _Watch:
    """What this process knows about its workload.

    Attributes:
        work: the workload.
        ledger: the record of submitted jobs, which all drivers of the store share.
        known: keys of the stages that were submitted here, or found in the queue.
        jobs: key → the stage's last job.
        queued: keys of the stages whose last job was in the queue when SLURM was last asked, or was submitted since.
        told_started: keys of the stages whose start was reported.
        gone_since: key → monotonic time since when the stage's job is neither in the queue nor running.
        losses: key → number of jobs that ended without a result.
        ended: job → how it ended; kept here because SLURM forgets ended jobs after some minutes.
        told_stuck: (job, reason) pairs that were printed.
    """

    work: Workload
    ledger: Ledger
    known: set[str] = field(default_factory=set)
    jobs: dict[str, str] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)
    told_started: set[str] = field(default_factory=set)
    gone_since: dict[str, float] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ended: dict[str, str] = field(default_factory=dict)
    told_stuck: set[tuple[str, str]] = field(default_factory=set)

    @property
    def open(self) -> list[Stage]:
        """The stages without an outcome."""
        return [s for k, s in self.work.stages.items() if k not in self.work.outcomes]


class Slurm:
    """Computes every stage in a job of its own."""

    def __init__(self, machine: Machine) -> None:
        """Take the `slurm` settings of the machine file."""
        self.settings = machine.slurm
        self.goes_on_alone = False  # jobs that were submitted, now or earlier, go on when this process ends

    def run(self, work: Workload) -> None:
        """Submit the stages that are not in the queue, then watch the store until every stage has an outcome.

        Raises:
            ConfigError: if SLURM's commands are missing here, or sbatch refuses a job.
        """
        if "%" in str(work.store.root):
            raise ConfigError(f"--store {work.store.root}: SLURM reads % in a path as a pattern; choose another")
        self._check_names()
        watch = _Watch(work, Ledger(work.store))
        while not work.finished:
            Wish.obey()
            if added := [s for s in watch.open if s.key not in watch.known]:  # at first all, later those of new targets
                watch.known |= {s.key for s in added}
                self._submit(watch, added)
            self._look(watch)
            if not work.finished:
                time.sleep(self.settings.poll_s)

    def _check_names(self) -> None:
        if unknown := sorted(self.settings.stages.keys() - (known := stage_classes()).keys()):
            hint = nearest(unknown[0], known)
            raise ConfigError(f"slurm.stages.{unknown[0]}: no such stage{hint}; `bench explain` names them")

    def _settle_remembered(self, watch: _Watch) -> None:
        """Record the outcome of stages with a sticky failure, which is not tried again."""
        for stage in watch.open:
            failure = watch.work.store.failure(stage)
            if failure and failure.get("sticky", True) and stage.key not in watch.work.outcomes:
                watch.work.record_outcome(stage, "failed", failure["error"])

    def _submit(self, watch: _Watch, stages: Iterable[Stage]) -> None:
        """Submit those of `stages` that are not in the queue, level by level."""
        # The ledger is locked from the question to SLURM until the new jobs are written down. Without that, two
        # commands that start together would both find the queue empty and submit every stage twice.
        store, ledger = watch.work.store, watch.ledger
        with ledger.alone():
            queue = self._patiently()
            ledger.prune(queue.live)
            watch.jobs |= {key: job for key, job in ledger.jobs().items() if job in queue.live}
            watch.queued = {k for k, job in watch.jobs.items() if job in queue.live}
            self.goes_on_alone |= bool(watch.queued)
            self._settle_remembered(watch)  # another driver's jobs may have failed while we waited
            stages = [s for s in stages if s.key not in watch.work.outcomes and not store.has(s)]
            wanted = [s for s in stages if s.key not in watch.queued]
            arrays: list[str] = []
            try:
                for (_, name, _), members in self._groups(watch.work, wanted).items():
                    arrays += self._submit_group(watch, name, members)
            except SchedulerBusy as busy:
                print(f"{busy}; what is left is submitted later", file=sys.stderr)
            finally:
                missed = [s for s in wanted if s.key not in watch.queued]
                for stage in missed:
                    watch.jobs.pop(stage.key, None)  # the job of an earlier attempt
                    recipe_path(store, stage.key).unlink(missing_ok=True)
                n, held = len(wanted) - len(missed), len(stages) - len(wanted)
                jobs = f"submitted {n} jobs to SLURM ({', '.join(arrays)})" if n else "nothing submitted"
                rest = f", {len(missed)} not submitted" if missed else ""
                print(f"{jobs}{rest}, {held} in the queue already", file=sys.stderr)

    def _patiently(self) -> Queue:
        """Ask SLURM until it answers. Without an answer, stages that are in the queue might be submitted twice."""

        def tell(why: str) -> None:
            print(f"SLURM does not answer ({why}); asking again in a while", file=sys.stderr)

        while (queue := ask_queue(tell=tell)) is None:
            time.sleep(self.settings.poll_s)
        return queue

    def _groups(self, work: Workload, wanted: list[Stage]) -> dict[tuple[int, str, str], list[Stage]]:
        """Return stages by (level, name, job request as JSON), lower levels first."""
        # A level is the longest way down to a finished stage. An array can only depend on jobs that were submitted
        # before it, so levels are submitted from the bottom up. All jobs of an array have the same request.
        level: dict[str, int] = {}
        for key in work.stages:  # inputs come before what needs them
            level[key] = 1 + max((level[below] for below in work.waits_for[key]), default=-1)
        groups: dict[tuple[int, str, str], list[Stage]] = defaultdict(list)
        for stage in wanted:
            asks = self.settings.ask(stage.stage_name(), stage.resources).model_dump_json()
            groups[level[stage.key], stage.stage_name(), asks].append(stage)
        return dict(sorted(groups.items(), key=lambda g: g[0][0]))

    def _submit_group(self, watch: _Watch, name: str, members: list[Stage]) -> list[str]:
        size, store = self.settings.largest_array, watch.work.store
        ask: JobRequest = self.settings.ask(name, members[0].resources)
        arrays = []
        for start in range(0, len(members), size):
            part = members[start : start + size]
            below = {k for s in part for k in watch.work.waits_for[s.key]}
            after = {watch.jobs[k].partition("_")[0] for k in below & watch.queued}
            for stage in part:
                store.forget_failure(stage)
                write_recipe(recipe_path(store, stage.key), stage)
            how = watch.work.execution
            jobs = [StageJob(str(store.root), name, s.key, how.device, how.threads, ask.gpus or 0) for s in part]
            # A signal between sbatch and the ledger would leave jobs in the queue that no `bench` knows: nobody could
            # cancel them, and the next run would submit their stages again.
            with uninterrupted():
                ids = submit(jobs, f"bench-{name}", ask, self.settings, watch.ledger.jobs_folder, after)
                new = dict(zip((s.key for s in part), ids, strict=True))
                try:
                    watch.ledger.add(new)
                except OSError:
                    cancel(ids)
                    raise
                watch.jobs |= new
                watch.queued |= new.keys()
                self.goes_on_alone = True
            arrays.append(f"{name} {ids[0].partition('_')[0]}" + (f" x{len(part)}" if len(part) > 1 else ""))
        return arrays

    def _look(self, watch: _Watch) -> None:
        """Record the outcomes of ended stages, and submit stages again whose job left no result and no failure."""
        work, store = watch.work, watch.work.store
        queue = ask_queue()  # before the store; a job that ends in between is seen next time
        watch.ended |= queue.ended if queue else {}
        for stage in watch.open:
            job = watch.jobs.get(stage.key, "")
            if store.has(stage):
                work.record_outcome(stage, "done")
                if queue and queue.is_pending(job):  # a waiting job that is not needed any more holds up its dependants
                    cancel([job])
                continue
            in_queue = queue is None or job in queue.live
            if queue and (why := queue.stuck(job)):
                self._tell_stuck(watch, stage, job, why)
            if store.state(stage) == "running":
                self._tell_progress(watch, stage)
                watch.gone_since.pop(stage.key, None)
            elif not in_queue:
                watch.gone_since.setdefault(stage.key, time.monotonic())
            if in_queue:
                watch.gone_since.pop(stage.key, None)
        now = time.monotonic()
        gone = [s for s in watch.open if now - watch.gone_since.get(s.key, now) > self.settings.settle_s]
        if gone:
            self._deal_with_lost(watch, gone)

    def _tell_stuck(self, watch: _Watch, stage: Stage, job: str, why: str) -> None:
        if (job, why) not in watch.told_stuck:
            watch.told_stuck.add((job, why))
            print(
                f"SLURM does not start job {job} ({stage.stage_name()}): {why}; see `scontrol show job {job}`; "
                "once the machine file is corrected: `bench cancel`, then `bench run` again",
                file=sys.stderr,
            )

    def _tell_progress(self, watch: _Watch, stage: Stage) -> None:
        if stage.key not in watch.told_started:
            watch.told_started.add(stage.key)
            watch.work.reporter.started(stage)
        if told := watch.work.store.progress(stage):
            watch.work.reporter.polled(stage, told["done"], told["total"], told["note"])

    def _deal_with_lost(self, watch: _Watch, gone: list[Stage]) -> None:
        work, store, ended = watch.work, watch.work.store, watch.ended
        for stage in gone:
            if stage.key in work.outcomes:  # blocked by the failure of another stage
                continue
            if failure := store.failure(stage):
                work.record_outcome(stage, "failed", failure["error"])
                continue
            job = watch.jobs.get(stage.key, "")
            if ended.get(job) == "CANCELLED":
                self._give_up(work, stage, f"its SLURM job {job} was cancelled")
                continue
            # Dependencies are `afterany`, so a job also starts if a job below it died. It then finds its inputs missing
            # and ends at once. That is not counted, or one lost job would use up the attempts of all stages above it.
            had_all = all(work.outcomes.get(k) == "done" for k in work.waits_for[stage.key])
            watch.losses[stage.key] += bool(job) and had_all
            if watch.losses[stage.key] >= _ATTEMPTS:
                how = f" ({ended[job]})" if job in ended else ""
                detail = f"its SLURM job ended {_ATTEMPTS} times without a result, last {job}{how}"
                self._give_up(work, stage, f"{detail}{_last_words(watch.ledger.output(job))}; see `bench logs`")
        again = [s for s in gone if s.key not in work.outcomes]
        for stage in again:
            watch.gone_since.pop(stage.key, None)
        if again:
            self._submit(watch, again)

    def _give_up(self, work: Workload, stage: Stage, detail: str) -> None:
        """Record a failure with its reason, for `bench status`. It is not sticky: the next run tries again."""
        work.store.record_failure(stage, StageError(detail), sticky=False)
        work.record_outcome(stage, "failed", detail)


def stage_classes() -> dict[str, type[Stage]]:
    """Return every stage class by its name, plugins included."""
    import bench.matrix.cell  # noqa: F401 - the stages of all cells, which `bench doctor` may not have imported yet

    registry.methods(), registry.datasets()
    found: dict[str, type[Stage]] = {}
    waiting = Stage.__subclasses__()
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        with contextlib.suppress(AttributeError):  # a base class without a name of its own
            found[cls.stage_name()] = cls
    return found


def _last_words(paths: Iterable[Path]) -> str:
    """Return `: ` and the last line that a job printed, e.g. a setup line that failed; empty if it printed nothing."""
    for path in paths:
        with contextlib.suppress(OSError):
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            own = [line for line in lines if not line.startswith(("srun: ", "slurmstepd: "))]
            if own or lines:  # SLURM's own lines come last and say the least
                return f": {(own or lines)[-1].strip()[:200]}"
    return ""
