"""SLURM: an array a level of the work, through submitit; the store says what is finished, never the scheduler.

Everything is submitted at once, each array behind those that make its inputs, so this process may end: the cluster
goes on. Another `bench run` of the same matrix finds what is in the queue, submits what is not, and watches.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.errors import ConfigError, StageError, nearest
from bench.pipeline.stage import Stage
from bench.run.machine_file import JobRequest, Machine
from bench.run.slurm.job import StageJob, recipe_path
from bench.run.slurm.queue import Queue, SchedulerBusy, ask_queue, cancel, submit
from bench.run.slurm.recipe import write_recipe
from bench.run.workload import Workload
from bench.store.submissions import Ledger

_ATTEMPTS = 3  # of a stage whose job ended without a word: the node died, or something kills it every time


@dataclass
class _Watch:
    """What one driver knows of its workload."""

    work: Workload
    ledger: Ledger
    jobs: dict[str, str] = field(default_factory=dict)  # key → last job
    queued: set[str] = field(default_factory=set)  # keys whose last job was in the queue when last asked, or is newer
    told_started: set[str] = field(default_factory=set)
    gone_since: dict[str, float] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ended: dict[str, str] = field(default_factory=dict)  # job → how, also when SLURM has forgotten it
    told_stuck: set[tuple[str, str]] = field(default_factory=set)

    @property
    def open(self) -> list[Stage]:
        """The stages without an outcome."""
        return [s for k, s in self.work.stages.items() if k not in self.work.outcomes]


class Slurm:
    """Computes every stage in a job of its own."""

    goes_on_alone: ClassVar[bool] = True  # when this process ends, the jobs do not

    def __init__(self, machine: Machine) -> None:
        """JobRequest for what the machine file says."""
        self.settings = machine.slurm

    def run(self, work: Workload) -> None:
        """Submit what is not in the queue, then watch the store until every stage has an outcome.

        Raises:
            ConfigError: if SLURM's commands are not here, or sbatch refuses a job.
        """
        if "%" in str(work.store.root):
            raise ConfigError(f"--store {work.store.root}: SLURM reads % in a path as a pattern; choose another")
        self._check_names()
        watch = _Watch(work, Ledger(work.store))
        self._submit(watch, watch.open)
        while not work.finished:
            self._look(watch)
            if not work.finished:
                time.sleep(self.settings.poll_s)

    def _check_names(self) -> None:
        if unknown := sorted(self.settings.stages.keys() - (known := stage_classes()).keys()):
            hint = nearest(unknown[0], known)
            raise ConfigError(f"slurm.stages.{unknown[0]}: no such stage{hint}; `bench explain` names them")

    def _settle_remembered(self, watch: _Watch) -> None:
        """Failures that stick are not tried again; the others make room for what the new attempt says."""
        for stage in watch.open:
            failure = watch.work.store.failure(stage)
            if failure and failure.get("sticky", True) and stage.key not in watch.work.outcomes:
                watch.work.record_outcome(stage, "failed", failure["error"])

    def _submit(self, watch: _Watch, stages: Iterable[Stage]) -> None:
        """Submit those of `stages` that are not in the queue by now, level by level."""
        store, ledger = watch.work.store, watch.ledger
        with ledger.alone():
            queue = self._patiently()
            ledger.prune(queue.live)
            watch.jobs |= {key: job for key, job in ledger.jobs().items() if job in queue.live}
            watch.queued = {k for k, job in watch.jobs.items() if job in queue.live}
            self._settle_remembered(watch)  # also what another driver's jobs failed at while we waited
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
                    watch.jobs.pop(stage.key, None)  # of an attempt before this one
                    recipe_path(store, stage.key).unlink(missing_ok=True)
                n, held = len(wanted) - len(missed), len(stages) - len(wanted)
                jobs = f"submitted {n} jobs to SLURM ({', '.join(arrays)})" if n else "nothing submitted"
                rest = f", {len(missed)} not submitted" if missed else ""
                print(f"{jobs}{rest}, {held} in the queue already", file=sys.stderr)

    def _patiently(self) -> Queue:
        """JobRequest SLURM until it answers: without, what is in the queue might be submitted twice."""
        while (queue := ask_queue()) is None:
            print("SLURM does not answer; asked again in a while", file=sys.stderr)
            time.sleep(self.settings.poll_s)
        return queue

    def _groups(self, work: Workload, wanted: list[Stage]) -> dict[tuple[int, str, str], list[Stage]]:
        """Return stages by (level, name, what they ask for), inputs' levels first."""
        level: dict[str, int] = {}
        for key in work.stages:  # inputs come before what needs them
            level[key] = 1 + max((level[below] for below in work.waits_for[key]), default=-1)
        groups: dict[tuple[int, str, str], list[Stage]] = defaultdict(list)
        for stage in wanted:
            asks = self.settings.ask(stage).model_dump_json()
            groups[level[stage.key], stage.stage_name(), asks].append(stage)
        return dict(sorted(groups.items(), key=lambda g: g[0][0]))

    def _submit_group(self, watch: _Watch, name: str, members: list[Stage]) -> list[str]:
        size, store = self.settings.largest_array, watch.work.store
        ask: JobRequest = self.settings.ask(members[0])
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
            with uninterrupted():  # a job that is in no ledger would be nobody's
                ids = submit(jobs, f"bench-{name}", ask, self.settings, watch.ledger.jobs_folder, after)
                new = dict(zip((s.key for s in part), ids, strict=True))
                try:
                    watch.ledger.add(new)
                except OSError:
                    cancel(ids)
                    raise
                watch.jobs |= new
                watch.queued |= new.keys()
            arrays.append(f"{name} {ids[0].partition('_')[0]}" + (f" x{len(part)}" if len(part) > 1 else ""))
        return arrays

    def _look(self, watch: _Watch) -> None:
        """Settle what has ended; what left the queue without a result or a reason is submitted again."""
        work, store = watch.work, watch.work.store
        queue = ask_queue()  # before the store: what ends in between is seen at the next look
        watch.ended |= queue.ended if queue else {}
        for stage in watch.open:
            job = watch.jobs.get(stage.key, "")
            if store.has(stage):
                work.record_outcome(stage, "done")
                if queue and queue.is_pending(job):  # requeued or held for nothing, and others wait behind it
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
            if stage.key in work.outcomes:  # blocked by one before it
                continue
            if failure := store.failure(stage):
                work.record_outcome(stage, "failed", failure["error"])
                continue
            job = watch.jobs.get(stage.key, "")
            if ended.get(job) == "CANCELLED":
                self._give_up(work, stage, f"its SLURM job {job} was cancelled")
                continue
            # one that found its inputs missing left at once and is not to blame
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
        """Write down why, so that `bench status` can tell; the next run tries again."""
        work.store.record_failure(stage, StageError(detail), sticky=False)
        work.record_outcome(stage, "failed", detail)


def stage_classes() -> dict[str, type[Stage]]:
    """Return every stage that there is, by its name."""
    from bench.plugins import registry

    registry.methods(), registry.datasets()
    found: dict[str, type[Stage]] = {}
    waiting = Stage.__subclasses__()
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        with contextlib.suppress(AttributeError):  # a base whose subclasses have the name
            found[cls.stage_name()] = cls
    return found


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and signals to stop until the end of a block."""
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last_words(paths: Iterable[Path]) -> str:
    """Return the last line that a job printed, for a detail: a setup line that failed, a Python that is not there."""
    for path in paths:
        with contextlib.suppress(OSError):
            lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            own = [line for line in lines if not line.startswith(("srun: ", "slurmstepd: "))]
            if own or lines:  # SLURM's own words come after, and say the least
                return f": {(own or lines)[-1].strip()[:200]}"
    return ""
