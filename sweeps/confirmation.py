"""What is left of the gain of a sweep when its best settings are trained again with fresh seeds.

The best of many trials is partly the luckiest: with one seed, tail mAP varies by more than most settings change it. So
the search only proposes settings. They are compared on val with seeds that no trial has used, beside the untuned
setting and controls (`sweeps.result_files` writes that matrix). All rows of a matrix share `augment`. If the best trial
has another than the base, there is no untuned row in it, and the gain is not known.

The row that is best with these seeds is partly their luckiest one, too. So the gain is measured crosswise: for each
seed a row is chosen by all other seeds, and its gain at that seed counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.results.numbers import fixed
from bench.store.store import Store
from sweeps.outcome import SweepResult
from sweeps.result_files import is_untuned, label_of, shared_keys
from sweeps.settings import VAL_METRICS, Sweep
from sweeps.trials import read_metric


@dataclass(frozen=True)
class ConfirmedRow:
    """A row of the confirmation: its value in the search (None for a row that was no trial), and with fresh seeds."""

    row: str
    searched: float | None
    mean: float
    sd: float | None
    n: int

    def shown(self) -> list[str]:
        """Return the row as the texts of a table."""
        numbers = ["–" if v is None else fixed(v, 4) for v in (self.searched, self.mean, self.sd)]
        return [self.row, *numbers, str(self.n)]


@dataclass(frozen=True)
class Confirmed:
    """What was left of a gain.

    Attributes:
        metric: the objective on val that decides.
        rows: every row of the confirmation whose cells are finished.
        chosen: the tuned row with the best mean, or None if no tuned row is finished.
        gain_searched: the best trial's value minus the untuned setting's, in the search; None if the untuned setting
            was not among the trials.
        gain_confirmed: the mean, over seeds, of the tuned row that is best at all other seeds, minus the untuned row.
            None if there is no other seed to choose a row by.
        sd: the standard deviation of that difference over seeds.
        n: the number of seeds that all these rows have.
        better: whether that mean is a gain.
        shared: the varied settings that all rows share, if there is no untuned row because of them.
        tuned: whether the confirmation has a tuned row, finished or not.
    """

    metric: str
    rows: tuple[ConfirmedRow, ...]
    chosen: str | None
    gain_searched: float | None
    gain_confirmed: float | None
    sd: float | None
    n: int
    better: bool = False
    shared: tuple[str, ...] = ()
    tuned: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the confirmation as JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def line(self) -> str:
        """Return what was left of the gain, in one sentence."""
        if not self.tuned:
            return "No row of the confirmation is tuned: the best trial is the untuned setting."
        if self.chosen is None:
            return f"No tuned row of the confirmation has a {self.metric} yet."
        said = [f"Best on val with fresh seeds: {self.chosen}."]
        if self.gain_confirmed is None:
            said.append(f"Its gain is not known: {self._why_unknown()}.")
        else:
            spread = f" ± {self.sd:.4f}" if self.sd is not None else ""
            said.append(
                f"A row that is chosen by the other seeds gains {fixed(self.gain_confirmed, 4, plus=True)}{spread} in "
                f"{self.metric} over the untuned setting ({self.n} seeds)."
            )
        if self.gain_searched is not None:
            gain = fixed(self.gain_searched, 4, plus=True)
            said.append(f"In the search, the best trial was {gain} against the untuned one.")
        if self.gain_confirmed is not None and not self.better:
            said.append("That is no gain: keep the untuned setting.")
        return " ".join(said)

    def _why_unknown(self) -> str:
        if self.shared:
            verb = "belongs" if len(self.shared) == 1 else "belong"
            return f"{' and '.join(self.shared)} {verb} to the whole matrix, so no untuned row can stand beside it"
        return f"there is {'only one seed to choose it by' if self.n else 'no untuned row beside it'}"


def confirmed(result: SweepResult, sweep: Sweep, matrix: Matrix, store: Store) -> Confirmed | None:
    """Return what the finished cells of the confirmation say, or None if no objective is a score of the classifier.

    Measures of synthetic images are left out: the confirmation measures them against other images than the search.
    """
    scores = [o for o in sweep.settings.objectives if VAL_METRICS[o.metric] == "classifier"]
    if not scores:
        return None
    metric, sign = scores[0].metric, 1.0 if scores[0].direction == "maximize" else -1.0
    trials = {label_of(t, sweep): t.values[metric] for t in result.trials if t.state == "done"}
    untuned = sweep.settings.method
    same = next((t for t in result.trials if t.state == "done" and is_untuned(t, sweep)), None)
    searched = trials | ({untuned: same.values[metric]} if same else {})
    by_row = _by_seed(matrix.cells, metric, store)
    rows = tuple(
        ConfirmedRow(row, searched.get(row), fmean(v.values()), stdev(v.values()) if len(v) > 1 else None, len(v))
        for row, v in by_row.items()
    )
    tuned = [r for r in rows if r.row in trials]
    if not tuned:
        has_tuned = any(cell.label in trials for cell in matrix.cells)
        return Confirmed(metric, rows, None, None, None, None, 0, tuned=has_tuned)
    chosen = max(tuned, key=lambda r: sign * r.mean).row
    both, gains = _crosswise([by_row[r.row] for r in tuned], by_row.get(untuned, {}), sign)
    best = max(sign * t for t in trials.values()) * sign
    return Confirmed(
        metric=metric,
        rows=rows,
        chosen=chosen,
        gain_searched=best - searched[untuned] if untuned in searched else None,
        gain_confirmed=fmean(gains) if gains else None,
        sd=stdev(gains) if len(gains) > 1 else None,
        n=len(both),
        better=bool(gains) and sign * fmean(gains) > 0,
        shared=() if any(cell.label == untuned for cell in matrix.cells) else tuple(shared_keys(sweep)),
    )


def _crosswise(
    tuned: Sequence[dict[int, float]], untuned: dict[int, float], sign: float
) -> tuple[list[int], list[float]]:
    """Return the seeds that all rows have, and at each the gain of the row that is best at the others.

    A single row needs no choice. Of several rows none can be chosen with one seed, and there are no gains.
    """
    shared = sorted(set(untuned).intersection(*tuned))
    if len(shared) == 1 and len(tuned) > 1:
        return shared, []
    gains = []
    for seed in shared:
        others = [s for s in shared if s != seed]
        best = max(tuned, key=lambda row: sign * sum(row[s] for s in others))
        gains.append(best[seed] - untuned[seed])
    return shared, gains


def _by_seed(cells: Sequence[Cell], metric: str, store: Store) -> dict[str, dict[int, float]]:
    """Return row → seed → the mean of a metric over data sets, of the cells that have it."""
    found: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        if store.has(cell.classifier) and (value := read_metric(cell, metric, store)) is not None:
            found.setdefault(cell.label, {}).setdefault(cell.seed, []).append(value)
    n_datasets = len({cell.dataset.label for cell in cells})
    return {row: {seed: fmean(v) for seed, v in seeds.items() if len(v) == n_datasets} for row, seeds in found.items()}
