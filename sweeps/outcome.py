"""The result of a sweep: its trials as a table, a CSV file and a JSON file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results.numbers import fixed
from sweeps.settings import Sweep

if TYPE_CHECKING:
    import optuna
    from rich.table import Table

_STATES = {"COMPLETE": "done", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting", "PRUNED": "pruned"}
ENDED = ("done", "failed", "pruned")


_FEWEST_FOR_IMPORTANCES = 10  # finished trials; with fewer, the best tenth is one trial


@dataclass(frozen=True)
class TrialRow:
    """One trial: its `values` by metric, its `params` by the keys of `search`, and the `reason` why it ended early.

    The values of a trial that was pruned are those that were known by then. A failed one has none. `gate` is what the
    gate measured, and `retried_as` the trial that has the settings of one whose process stopped.
    """

    number: int
    state: str
    values: dict[str, float]
    params: dict[str, Any]
    seconds: float | None
    enqueued: bool
    reason: str | None
    gate: float | None = None
    retried_as: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing about the trial will change."""
        return self.state in ENDED


@dataclass(frozen=True)
class SweepResult:
    """The trials of a study in their order, and the best of them.

    Attributes:
        name: the study.
        objectives: metric → direction; all metrics are of val.
        trials: all trials, also failed and waiting ones.
        best: number of the best trial by the first objective (the earliest of equals), or None if none is done.
        pareto: numbers of the trials that no other trial beats in every objective.
        files: paths of the written files: `journal`, `csv`, `json`, `best`.
        importances: metric → key of `search` → share of what makes a trial good; empty with few trials. See
            `importances`.
        fingerprint: stands for the search, the objectives and the stages of the base when the study was made.
    """

    name: str
    objectives: dict[str, str]
    trials: tuple[TrialRow, ...]
    best: int | None
    pareto: tuple[int, ...]
    files: dict[str, str]
    importances: dict[str, dict[str, float]] = field(default_factory=dict)
    fingerprint: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, for `--json`."""
        return json.loads(json.dumps(asdict(self)))

    def trial(self, number: int) -> TrialRow:
        """Return a trial by its number."""
        return next(t for t in self.trials if t.number == number)

    def standing(self, total: int) -> str:
        """Return how many of `total` trials have ended, and which is the best, in words."""
        n_ended = sum(t.has_ended and t.retried_as is None for t in self.trials)
        if self.best is None:
            return f"{n_ended} of {total} ended"
        metric = next(iter(self.objectives))
        value = self.trial(self.best).values[metric]
        return f"{n_ended} of {total} ended, best: trial {self.best} with {metric} {value:.4f}"

    def leading(self) -> list[TrialRow]:
        """Return the trials that are done, the best first: those on the Pareto front, each by the first objective."""
        metric, direction = next(iter(self.objectives.items()))
        sign = -1 if direction == "maximize" else 1
        done = [t for t in self.trials if t.state == "done"]
        return sorted(done, key=lambda t: (t.number not in self.pareto, sign * t.values[metric], t.number))

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat mapping for each trial, for a table or a CSV file."""
        return [
            {"trial": t.number, "state": t.state, "best": t.number == self.best, "pareto": t.number in self.pareto}
            | {m: t.values.get(m) for m in self.objectives}
            | t.params
            | {"seconds": t.seconds, "enqueued": t.enqueued, "reason": t.reason}
            for t in self.trials
        ]

    @property
    def best_path(self) -> str | None:
        """Path of the matrix file with the best settings, or None if no trial is done."""
        return self.files.get("best")

    def lines(self) -> list[str]:
        """Return what to know beside the table: the Pareto front, and which settings decide."""
        found = []
        if len(self.objectives) > 1 and self.pareto:
            found.append(f"No trial is better in everything than one of: {', '.join(map(str, self.pareto))}.")
        names = short_names(dict.fromkeys(k for t in self.trials for k in t.params))
        n_done = sum(t.state == "done" for t in self.trials)
        for metric, shares in self.importances.items():
            told = ", ".join(f"{names[key]} {share:.2f}" for key, share in shares.items())
            found.append(f"What decides {metric} (PED-ANOVA, {n_done} trials): {told}.")
        return found

    def table(self) -> Table:
        """Return the trials as a table for a terminal. Columns have the last parts of dotted keys."""
        from rich.table import Table
        from rich.text import Text

        keys = list(dict.fromkeys(k for t in self.trials for k in t.params))
        names = short_names(keys)
        table = Table(title=f"{self.name}: {', '.join(f'{d} {m}' for m, d in self.objectives.items())} on val")
        for name in ("trial", *self.objectives, *(names[k] for k in keys), "s", "note"):
            table.add_column(name, justify="left" if name == "note" else "right")
        for t in self.trials:
            note = t.reason or ("" if t.state == "done" else t.state) or ("tried first" if t.enqueued else "")
            numbers = [fixed(t.values[m], 4) if m in t.values else "–" for m in self.objectives]
            params = [f"{v:.4g}" if isinstance(v := t.params.get(k, "–"), float) else str(v) for k in keys]
            seconds = "–" if t.seconds is None else f"{t.seconds:.0f}"
            style = "bold" if t.number == self.best else {"failed": "red", "pruned": "dim"}.get(t.state)
            # as `Text`: square brackets in a setting or an error are no markup
            table.add_row(str(t.number), *numbers, *map(Text, params), seconds, Text(note[:120]), style=style)
        return table


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return dotted key → the shortest end of it that no other of the keys has, e.g. `generations`."""
    parts = {key: key.split(".") for key in keys}
    names = {}
    for key, mine in parts.items():
        others = [p for k, p in parts.items() if k != key]
        n = next((n for n in range(1, len(mine)) if all(p[-n:] != mine[-n:] for p in others)), len(mine))
        names[key] = ".".join(mine[-n:])
    return names


def outcome(study: optuna.Study, sweep: Sweep, folder: Path) -> SweepResult:
    """Return the state of a study."""
    trials = study.get_trials(deepcopy=False)
    retries = {t.user_attrs.get("retry_of"): t.number for t in trials}
    metrics = [o.metric for o in sweep.settings.objectives]
    rows = tuple(_row(t, metrics, retries.get(t.number)) for t in trials)
    done = [r for r in rows if r.state == "done"]
    first = sweep.settings.objectives[0]
    sign = -1 if first.direction == "maximize" else 1
    best = min(done, key=lambda r: (sign * r.values[first.metric], r.number)).number if done else None
    files = {kind: str(folder / f"{sweep.name}.{tail}") for kind, tail in FILES.items()}
    return SweepResult(
        name=sweep.name,
        objectives={o.metric: o.direction for o in sweep.settings.objectives},
        trials=rows,
        best=best,
        pareto=tuple(t.number for t in study.best_trials) if done else (),
        importances=importances(study, sweep) if len(done) >= _FEWEST_FOR_IMPORTANCES else {},
        fingerprint=study.user_attrs.get("fingerprint", ""),
        files=files if best is not None else {k: v for k, v in files.items() if k != "best"},
    )


FILES = {"journal": "journal", "csv": "trials.csv", "json": "trials.json", "best": "best.yaml"}


def importances(study: optuna.Study, sweep: Sweep) -> dict[str, dict[str, float]]:
    """Return metric → key → how much the setting decides whether a trial is among the best tenth, in shares of 1.

    This is PED-ANOVA (Watanabe, Bansal & Hutter, IJCAI 2023) as Optuna computes it, over the finished trials.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    found = {}
    for i, objective in enumerate(sweep.settings.objectives):
        sign = -1.0 if objective.direction == "maximize" else 1.0  # the evaluator takes low values for good ones
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes")
            found[objective.metric] = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial, i=i, sign=sign: sign * trial.values[i],  # type: ignore[misc]
            )
    return found


def _row(trial: optuna.trial.FrozenTrial, metrics: list[str], retried_as: int | None) -> TrialRow:
    state = _STATES[trial.state.name]
    reason = trial.user_attrs.get("reason")
    if state == "failed" and reason is None:
        again = f"again as trial {retried_as}" if retried_as is not None else "not tried again, it stopped too often"
        reason = f"its process stopped: {again}"
    return TrialRow(
        number=trial.number,
        state=state,
        values=dict(zip(metrics, trial.values or (), strict=False)) or dict(trial.user_attrs.get("measured", {})),
        params=dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {})),
        seconds=_seconds(trial),
        enqueued=bool(trial.user_attrs.get("enqueued", False)),
        reason=reason,
        gate=trial.user_attrs.get("gate"),
        retried_as=retried_as,
    )


def _seconds(trial: optuna.trial.FrozenTrial) -> float | None:
    """Return how long a trial took, in seconds; None if it has not ended."""
    if "seconds" in trial.user_attrs:
        return round(trial.user_attrs["seconds"], 1)
    # Its process was killed, or the study is of an earlier version. Then Optuna's two looks at the wall clock are all
    # there is, which count the time that the machine slept and any change of the clock.
    return round(trial.duration.total_seconds(), 1) if trial.duration else None
