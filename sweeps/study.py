"""Run an Optuna study over cells: ask for settings, compute the stages that measure them on val, tell the numbers.

The file `<store>/studies/<name>.journal` is the study; the results of its trials are stages in the store. A sweep goes
on where it stopped, and several drivers (processes) may share a journal. If a driver dies, its trials are queued again
with the same settings, and most of their stages are finished by then. The stage `scores`, which reads test, is never
computed, and synthetic images are compared with val: no objective depends on test.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import seeds
from bench.errors import ConfigError
from bench.run.inline import Inline
from bench.run.placement import ChosenExecutor
from bench.run.progress import Silent
from bench.run.run_matrix import run_stages
from bench.run.workload import Reporter
from bench.store.claims import Locks
from bench.store.store import Store
from bench.store.work import Execution
from sweeps.dimensions import Choices, Dimension, IntRange
from sweeps.outcome import SweepResult, outcome
from sweeps.records import TrialTracker
from sweeps.result_files import check_controls, write_outcome
from sweeps.settings import Sweep, fingerprint, load_sweep
from sweeps.trials import Trials

if TYPE_CHECKING:
    import optuna

_DEATHS = 2  # times that a trial is queued again after its driver died; more, and the trial is probably the cause


def run_sweep(
    path: str | Path,
    store: Store,
    *,
    n_trials: int | None = None,
    placement: ChosenExecutor | None = None,
    execution: Execution | None = None,
    reporter: Reporter | None = None,
    overrides: Iterable[str] = (),
    say: Callable[[str], object] = lambda line: None,
    labels: dict[str, str] | None = None,
    tracker: TrialTracker | None = None,
) -> SweepResult:
    """Run a sweep until it has `n_trials` trials in total and return what was found.

    As soon as a trial ends, the next one is proposed, which then knows its result. If several stages are computed at
    once, several trials are measured at once, but at most a quarter of the study: trials that are measured together do
    not know each other's results.

    Args:
        path: sweep file, or the name of a shipped one.
        store: gets the stages, the journal and the results.
        n_trials: number of trials over all runs of this study; the file's number if None.
        placement: the executor, and how many stages it computes at once; this process if None.
        execution: the device and the number of threads.
        reporter: is called with everything that happens to a stage.
        overrides: `key=value` of the base matrix, as in `bench run --set`.
        say: is called with one line for every trial that begins or ends.
        labels: gets the name of every stage, by its key, e.g. `classifier · trial 3`; for the reporter.
        tracker: is told of the trials as they end, and closed in the end; one that writes records alone if None.

    Raises:
        ConfigError: if the file is wrong, or the journal was made with other settings or other code.
    """
    sweep = load_sweep(path, overrides)
    total = sweep.settings.n_trials if n_trials is None else n_trials
    if total < 1:
        raise ConfigError(f"--trials {total}: want 1 or more")
    try_sampler(sweep)  # these two refuse wrong settings before anything is written
    check_controls(sweep)
    store.require_writable()
    placement = placement or ChosenExecutor(Inline(), 1)
    driver = Driver(sweep, store)
    places = max(1, placement.jobs // len(sweep.matrix({}).cells))
    tracker = tracker or TrialTracker(sweep, store, say)
    trials = Trials(driver, total, places, say, {} if labels is None else labels, tracker.ended)
    with driver.alive(), contextlib.closing(tracker):
        driver.prepare(total)
        try:
            while targets := trials.more():
                run_stages(
                    targets,
                    store,
                    executor=placement.executor,
                    execution=execution or Execution(),
                    reporter=reporter or Silent(),
                    on_outcome=trials.on_outcome,
                    more=trials.more,
                )
                trials.all_ended()
        except BaseException:  # after Ctrl-C or an error of ours, the next run goes on with these trials
            driver.give_back()
            raise
        result = driver.outcome()
        write_outcome(result, sweep, driver.folder)
        tracker.ended(result)  # trials of drivers that were killed before they wrote a record
    return result


class Driver:
    """One process that works on a study."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        """Open the study's journal; make it if it is not there.

        Raises:
            ConfigError: if the journal belongs to a sweep with other settings or is damaged, or the sampler refuses its
                options.
        """
        self.sweep, self.store = sweep, store
        self.folder = store.root / "studies"
        self.id = uuid.uuid4().hex
        self.mine: dict[int, optuna.Trial] = {}
        self._begun: dict[int, float] = {}  # trial → our monotonic time when we asked for it
        sampler = make_sampler(sweep, 0)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.study = _open(self.folder / f"{sweep.name}.journal", store.locks, sweep, sampler)
            self._check_fingerprint()

    def _check_fingerprint(self) -> None:
        """Refuse a study whose trials were measured with other settings or other code."""
        mark = fingerprint(self.sweep)
        known = self.study.user_attrs.get("fingerprint")
        if known is None:
            self.study.set_user_attr("fingerprint", mark)
        elif known != mark:
            raise ConfigError(
                f"{self.sweep.source}: the study '{self.sweep.name}' in {self.folder} was made with other settings or "
                "another version of the code; give the sweep another name, or remove its files there to start again"
            )

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Hold the study's lock for the length of a block. It is free again if we die."""
        return self.store.locks.alone(f"study-{self.sweep.name}")

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Hold a lock that tells other drivers that we live."""
        # Optuna cannot tell a running trial from one whose driver was killed. This lock becomes free at our death,
        # whatever the cause, so another driver may then queue our trials again.
        try:
            with self.store.locks.alone(_life(self.id)):
                yield
        finally:
            self.store.locks.forget(_life(self.id))

    def prepare(self, total: int) -> None:
        """Queue the trials of dead drivers again, then the settings in `enqueue`, then the grid if there is one."""
        from optuna.trial import TrialState

        settings = self.sweep.settings
        # Whether a driver on another host lives may take minutes to see, so the study is not locked meanwhile. A driver
        # that is dead stays so. A trial without a driver lost its process between asking and writing its name, or is
        # being asked for at this moment; the lock tells them apart.
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        drivers = {t.user_attrs["driver"] for t in running if "driver" in t.user_attrs}
        dead = {None} | {driver for driver in drivers if not self.store.locks.lives(_life(driver))}
        with self._alone():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get("driver") in dead:
                    self._requeue(trial, deaths=trial.user_attrs.get("deaths", 0) + 1)
            for values in settings.enqueue:
                self.study.enqueue_trial(dict(values), user_attrs={"enqueued": True}, skip_if_exists=True)
            if settings.sampler.name == "GridSampler":
                points = itertools.product(*(d.grid() for d in settings.search.values()))
                for point in itertools.islice(points, total):
                    self.study.enqueue_trial(dict(zip(settings.search, point, strict=True)), skip_if_exists=True)

    def _requeue(self, trial: optuna.trial.FrozenTrial, deaths: int) -> None:
        from optuna.trial import TrialState, create_trial

        self.study.tell(trial.number, state=TrialState.FAIL)
        if deaths <= _DEATHS:
            kept = {k: v for k, v in trial.user_attrs.items() if k == "enqueued"}
            # This is what Optuna's `enqueue_trial` does, but that would leave out what a sampler has noted about the
            # trial. NSGA-II and NSGA-III would then not count it to its generation, and propose other settings later.
            again = create_trial(
                state=TrialState.WAITING,
                system_attrs=trial.system_attrs | {"fixed_params": trial.params},
                user_attrs=kept | {"retry_of": trial.number, "deaths": deaths},
            )
            self.study.add_trial(again)

    def ask(self, total: int, places: int) -> optuna.Trial | None:
        """Return a trial to measure, or None if there is none for us now.

        There is none if all drivers together have asked for `total` trials, if `places` of ours are being measured, or
        if a quarter of the study is being measured by all drivers together. Each driver may always have one.
        """
        from optuna.trial import TrialState

        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            again = {t.user_attrs.get("retry_of") for t in trials}
            n_waiting = sum(t.state == TrialState.WAITING for t in trials)
            n_running = sum(t.state == TrialState.RUNNING for t in trials)
            n_taken = sum(t.state != TrialState.WAITING and t.number not in again for t in trials)
            full = len(self.mine) >= places or (self.mine and n_running >= total // 4)
            grid_done = self.sweep.settings.sampler.name == "GridSampler" and not n_waiting
            if n_taken >= total or full or grid_done:
                return None
            # The sampler's seed depends on the number of trials. One generator for the whole run would start again
            # after a stop, and the study would propose other settings than without the stop. For the same reason a
            # trial that was queued again counts once.
            self.study.sampler = make_sampler(self.sweep, sum(t.number not in again for t in trials))
            trial = self.study.ask()
            for key, dimension in self.sweep.settings.search.items():
                _suggest(trial, key, dimension)
            trial.set_user_attr("driver", self.id)
            self.mine[trial.number], self._begun[trial.number] = trial, time.monotonic()
            return trial

    def tell(self, trial: optuna.Trial, values: list[float]) -> None:
        """Tell the study the objectives of a trial."""
        self._end(trial, values=values)

    def tell_failed(self, trial: optuna.Trial, reason: str) -> None:
        """Tell the study that a trial has no objectives, and why."""
        from optuna.trial import TrialState

        trial.set_user_attr("reason", reason)
        self._end(trial, state=TrialState.FAIL)

    def tell_pruned(self, trial: optuna.Trial, measured: dict[str, float], reason: str) -> None:
        """Tell the study that a trial was given up before its classifier, and what was measured until then."""
        from optuna.trial import TrialState

        trial.set_user_attr("reason", reason)
        trial.set_user_attr("measured", measured)
        self._end(trial, state=TrialState.PRUNED)

    def _end(self, trial: optuna.Trial, **told: Any) -> None:
        """Write how long a trial took, and tell the study how it ended."""
        # Like the seconds of stages, these are of the monotonic clock: it stands still while the machine sleeps, and
        # nobody sets it back. Optuna's own times are of the wall clock.
        trial.set_user_attr("seconds", time.monotonic() - self._begun.pop(trial.number))
        self.study.tell(trial, **told)
        del self.mine[trial.number]

    def at_the_gate(self, trial: optuna.Trial, value: float) -> list[float]:
        """Write the gate's metric of a trial into the study, and return that of all other trials."""
        from optuna.trial import TrialState

        trial.set_user_attr("gate", value)
        # A trial that was queued again has a copy with the same value, so the failed original does not count.
        others = (t for t in self.study.get_trials(deepcopy=False) if t.number != trial.number)
        return [t.user_attrs["gate"] for t in others if "gate" in t.user_attrs and t.state != TrialState.FAIL]

    def give_back(self) -> None:
        """Queue our unfinished trials again, so that the next run begins with them."""
        with self._alone():
            for trial in self.study.get_trials(deepcopy=False):
                if trial.number in self.mine and not trial.state.is_finished():
                    self._requeue(trial, deaths=trial.user_attrs.get("deaths", 0))
        self.mine.clear()

    def outcome(self) -> SweepResult:
        """Return what the study has found so far."""
        return outcome(self.study, self.sweep, self.folder)


def _life(driver: str) -> str:
    return f"driver-{driver}"


def _open(journal: Path, locks: Locks, sweep: Sweep, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    import optuna

    from sweeps.journal import open_journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=open_journal(journal, locks),
        study_name=sweep.name,
        directions=[o.direction for o in sweep.settings.objectives],
        sampler=sampler,
        load_if_exists=True,
    )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([o.metric for o in sweep.settings.objectives])  # optuna-dashboard shows them
    return study


def make_sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that proposes trial `number`.

    Raises:
        ConfigError: if Optuna refuses the options.
    """
    # QMCSampler keeps its seed, since the seed decides its whole sequence. A grid is queued as a whole beforehand,
    # because Optuna's GridSampler ends a study by itself, which does not work with ask and tell. The random sampler
    # then only completes settings that `enqueue` leaves open.
    import optuna

    chosen = sweep.settings.sampler
    seed = chosen.seed if chosen.name == "QMCSampler" else seeds.derive(chosen.seed, "trial", number) & 0xFFFFFFFF
    name = "RandomSampler" if chosen.name == "GridSampler" else chosen.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return getattr(optuna.samplers, name)(seed=seed, **chosen.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{sweep.source}.sampler.options: {error}") from error


def try_sampler(sweep: Sweep) -> None:
    """Propose one trial of a study that is not kept: some options fail only then, such as a text for a number.

    Raises:
        ConfigError: if Optuna refuses the options.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, directions = make_sampler(sweep, 0), [o.direction for o in sweep.settings.objectives]
    try:
        trial = optuna.create_study(sampler=sampler, directions=directions).ask()
        for key, dimension in sweep.settings.search.items():
            _suggest(trial, key, dimension)
    except Exception as error:
        raise ConfigError(f"{sweep.source}.sampler.options: Optuna cannot use them ({error})") from error


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> None:
    if isinstance(dimension, Choices):
        trial.suggest_categorical(key, dimension.choices)
    elif isinstance(dimension, IntRange):
        trial.suggest_int(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    else:
        trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
