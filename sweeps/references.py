"""Read a study without computing: what it has found, and the stages that clean-up must keep for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.pipeline.stage import Stage
from bench.store.store import Store
from sweeps.outcome import SweepResult, outcome
from sweeps.settings import Sweep, load_sweep

if TYPE_CHECKING:
    import optuna


def stages_of(path: str | Path, store: Store, overrides: Iterable[str] = ()) -> list[Stage]:
    """Return the stages that measure the trials of a study: finished, running and waiting ones.

    Args:
        path: sweep file, or the name of a shipped one.
        store: the store with the study's journal, which is only read.
        overrides: the `key=value` overrides of the base matrix with which the sweep was run.

    Raises:
        ConfigError: if the sweep file is wrong, or the study is not in the store or damaged.
    """
    from optuna.trial import TrialState

    sweep = load_sweep(path, overrides)
    found: dict[str, Stage] = {}
    for trial in _study(sweep, store).get_trials(deepcopy=False):
        if trial.state == TrialState.FAIL:
            continue
        params = trial.system_attrs.get("fixed_params", {}) if trial.state == TrialState.WAITING else trial.params
        try:
            cells = sweep.matrix(params).cells
        except ConfigError:  # the settings exclude each other, so the trial has no stages
            continue
        stages = (getattr(cell, part) for cell in cells for part in sorted(sweep.needs))
        found |= {s.key: s for s in stages}
    return list(found.values())


def found_so_far(path: str | Path, store: Store, overrides: Iterable[str] = ()) -> SweepResult:
    """Return what a study has found so far. Nothing is computed and nothing is written.

    Raises:
        ConfigError: if the sweep file is wrong, or the study is not in the store.
    """
    sweep = load_sweep(path, overrides)
    return outcome(_study(sweep, store), sweep, store.root / "studies")


def _study(sweep: Sweep, store: Store) -> optuna.Study:
    """Return the study of a sweep, which is only read.

    Raises:
        ConfigError: if it is not in the store.
    """
    import optuna

    from sweeps.journal import read_journal

    journal = store.root / "studies" / f"{sweep.name}.journal"
    if not journal.is_file():
        raise ConfigError(f"{sweep.source}: store {store.root} has no study '{sweep.name}'; run it or leave it out")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=sweep.name, storage=read_journal(journal))
