"""The files of a sweep: its trials as CSV and JSON, and the matrix that trains the best settings again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bench.errors import ConfigError
from bench.files import write_text
from bench.matrix.build import build_matrix
from bench.plugins import registry
from sweeps.outcome import FILES, SweepResult, TrialRow
from sweeps.settings import Sweep, set_key, with_rows


def write_outcome(result: SweepResult, sweep: Sweep, folder: Path) -> None:
    """Write the trials as CSV and JSON, and the matrix with the best, beside the journal, each by one rename."""
    import pandas as pd

    write_text(folder / f"{sweep.name}.{FILES['csv']}", pd.DataFrame(result.rows()).to_csv(index=False))
    write_text(folder / f"{sweep.name}.{FILES['json']}", json.dumps(result.as_dict(), indent=1))
    if result.best is not None:
        write_text(folder / f"{sweep.name}.{FILES['best']}", confirmation_yaml(result, sweep))


def confirmation_yaml(result: SweepResult, sweep: Sweep) -> str:
    """Return the matrix file that confirms what a sweep found.

    Its rows are the controls, the untuned setting and the best trials; its seeds are new. Which trials are the best is
    said by the objectives on val: first those that no other trial beats, each group in the order of the first
    objective. A trial of the untuned setting has no second row. All rows of a matrix share `augment`: if the search
    varies it, only trials with that of the best are there, and the untuned setting only if it has the same.

    Raises:
        ValueError: if no trial is done.
    """
    if result.best is None:
        raise ValueError(f"no trial of {result.name} is done")
    plan = {key: result.trial(result.best).params[key] for key in shared_keys(sweep)}
    alike = [t for t in result.leading() if plan.items() <= t.params.items() and not is_untuned(t, sweep)]
    best = alike[: sweep.settings.confirm.best]
    untuned = sweep.settings.method
    if sweep.matrix(plan).settings.augment == sweep.matrix({}).settings.augment:
        rows: list[Any] = [untuned, *(_row(t, sweep) | {"against": untuned} for t in best)]
    else:
        rows = [_row(t, sweep) for t in best]
    first_seed = max(sweep.settings.seeds) + 1
    seeds = list(range(first_seed, first_seed + sweep.settings.confirm.n_seeds))
    numbers = "; ".join(f"trial {t.number}: " + ", ".join(f"{m} {v:.4f}" for m, v in t.values.items()) for t in best)
    n_done = sum(t.state == "done" for t in result.trials)
    raw = with_rows(sweep.raw(plan), [*controls(sweep), *rows]) | {
        "name": f"{sweep.name}-best",
        "description": f"The best of {n_done} trials of the sweep {sweep.name}, with seeds that no trial has used.",
        "seeds": seeds,
    }
    header = (
        f"# bench run {sweep.name}.best.yaml\n"
        f"# The best of {n_done} finished trials of the sweep '{sweep.name}', chosen on val ({numbers}).\n"
        "# Their numbers in the search are too good, because the luckiest was chosen. These seeds are new.\n"
    )
    return header + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=110)


def controls(sweep: Sweep) -> list[Any]:
    """Return the rows beside the tuned one: `controls`, or else the rows of the base that make no images."""
    return list(sweep.settings.controls or sweep.base_controls)


def check_controls(sweep: Sweep) -> None:
    """Refuse controls that no matrix can have.

    Raises:
        ConfigError: with the field of the sweep file.
    """
    raw = with_rows(sweep.raw({}), [*controls(sweep), sweep.settings.method])
    build_matrix(raw, f"{sweep.source}.controls")


def shared_keys(sweep: Sweep) -> list[str]:
    """Return the keys of the search that all rows of a matrix share, so that no row can have its own value of them."""
    return [key for key in sweep.settings.search if key.startswith("augment.")]


def is_untuned(trial: TrialRow, sweep: Sweep) -> bool:
    """Tell whether a trial measured the base's own setting: then it has the same stages."""
    try:
        cells = sweep.matrix(trial.params).cells
    except ConfigError:  # the base was changed since
        return False
    return [c.classifier.key for c in cells] == [c.classifier.key for c in sweep.matrix({}).cells]


def _row(trial: TrialRow, sweep: Sweep) -> dict[str, Any]:
    """Return the row of a trial: what it changes of the method's settings and of the classifier's."""
    name = registry.Shorthand.of(sweep.settings.method).name
    own: dict[str, Any] = {}
    for key, value in trial.params.items():
        set_key(own, key, value)
    row: dict[str, Any] = {"method": sweep.settings.method, "row": label_of(trial, sweep)}
    if settings := own.get("settings", {}).get(name):
        row["settings"] = settings
    if classifier := own.get("classifier"):
        row["classifier"] = classifier
    return row


def label_of(trial: TrialRow, sweep: Sweep) -> str:
    """Return the label of a trial's row in the confirmation, e.g. `ours@5 trial 7`."""
    return f"{sweep.settings.method} trial {trial.number}"
