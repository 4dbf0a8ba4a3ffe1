"""Which stages a study stands on: what clean-up must keep so that the sweep can go on and its trials can be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.pipeline.stage import Stage
from bench.store.store import Store
from sweeps.settings import load_sweep


def stages_of(path: str | Path, store: Store, overrides: Iterable[str] = ()) -> list[Stage]:
    """Return the stages that measure every trial of a study: finished ones, those at work and those in the queue.

    Args:
        path: sweep file, or the name of a shipped one.
        store: the store that holds the study's journal, which is only read.
        overrides: `key=value` of the base matrix, as the sweep was run with.

    Raises:
        ConfigError: for a file that cannot be understood, or a study that is not in the store.
    """
    from optuna.trial import TrialState

    sweep = load_sweep(path, overrides)
    journal = store.root / "studies" / f"{sweep.name}.journal"
    if not journal.is_file():
        raise ConfigError(f"{sweep.source}: store {store.root} has no study '{sweep.name}'; run it or leave it out")
    found: dict[str, Stage] = {}
    for trial in _trials(journal, sweep.name):
        if trial.state == TrialState.FAIL:
            continue
        params = trial.system_attrs.get("fixed_params", {}) if trial.state == TrialState.WAITING else trial.params
        try:
            cells = sweep.matrix(params).cells
        except ConfigError:  # settings that cannot go together: the trial has no stages
            continue
        stages = (getattr(cell, part) for cell in cells for part in sorted(sweep.needs))
        found |= {s.key: s for s in stages}
    return list(found.values())


def _trials(journal: Path, name: str) -> list[Any]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(journal))))
    return study.get_trials(deepcopy=False)
