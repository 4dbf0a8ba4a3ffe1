"""Differences between two rows at the same seed, and the verdict on each in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.results.numbers import fixed
from reports.published import published
from reports.run_facts import by_method
from reports.statistics import ALPHA, Estimate, Verdict, holm, least_p, over_seeds, over_test_patients, verdict
from reports.table_rows import Column

if TYPE_CHECKING:
    from bench.results.cells import CellResult
    from bench.store.store import Store

EFFECT_COLUMNS = (
    Column("fid_tail", "tail FID", -1),
    Column("label_fidelity_tail", "tail label fidelity", 1, 3),
    Column("map_head", "head mAP", 1, 3),
    Column("map_tail", "tail mAP", 1, 3),
)
MAIN = "map_tail"  # the column of the verdicts below the main table
_FEW_SEEDS = 10  # with fewer, a bootstrap interval is notably too short, see `reports.statistics`


@dataclass(frozen=True)
class Effect:
    """Row minus control in one column, paired by seed.

    Attributes:
        dataset, row, control: labels.
        named: whether the matrix itself names the control (`against`).
        seeds, differences: the seeds that both rows have, and the difference at each.
        p_holm: p adjusted for the number of comparisons of the data set; None where there is no p.
        n_compared: that number.
    """

    dataset: str
    row: str
    control: str
    named: bool
    column: Column
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    estimate: Estimate
    p_holm: float | None = None
    n_compared: int = 0

    @property
    def verdict(self) -> Verdict:
        """The verdict on the estimate, see `reports.statistics.verdict`."""
        return verdict(self.estimate)

    def sentence(self, places: int = 3) -> str:
        """Return the verdict in words, with the numbers behind it and `places` decimals."""
        said = _WORDS[self.verdict].format(control=self.control, column=self.column.heading)
        if self.column.better == -1:  # else higher is better, as everyone reads it
            said = said.replace("lower than", "lower (better) than").replace("higher than", "higher (worse) than")
        return f"{said} ({', '.join(self._numbers(places))})"

    def _numbers(self, places: int) -> list[str]:
        e = self.estimate
        if e.same:
            return [f"n = {e.n}"]
        numbers = [signed(e.mean, places)]
        if e.low is not None:
            numbers.append(f"95 % CI {interval(e, places)}")
        if e.over_test and e.why is None:
            return [*numbers, f"over {e.units}", "one seed: training noise is not in it"]
        numbers.append(f"n = {e.n}")
        if e.p is not None:
            least = f", the least that {e.n} seeds can give" if math.isclose(e.p, least_p(e.n)) and e.p >= 0.05 else ""
            numbers.append(f"p = {p_text(e.p)}{least}")
        return numbers if e.why is None else [*numbers, e.why]

    def as_row(self) -> dict[str, Any]:
        """Return all of the effect as one flat record."""
        e = self.estimate
        return {
            "dataset": self.dataset,
            "row": self.row,
            "against": self.control,
            "column": self.column.key,
            "verdict": self.verdict,
            "difference": e.mean,
            "sd": e.sd,
            "n": e.n,
            "n_above": sum(d > 0 for d in self.differences),
            "interval_over": e.source if e.low is not None else None,
            "low": e.low,
            "high": e.high,
            "p": e.p,
            "p_least": least_p(e.n) if e.p is not None else None,
            "p_holm": self.p_holm,
            "n_compared": self.n_compared,
            "seeds": " ".join(map(str, self.seeds)),
            "sentence": self.sentence(decimals([self])),
        }


_WORDS: dict[Verdict, str] = {
    "higher": "higher than {control} in {column}",
    "lower": "lower than {control} in {column}",
    "unsettled_higher": "in these seeds higher than {control} in {column}, chance not ruled out",
    "unsettled_lower": "in these seeds lower than {control} in {column}, chance not ruled out",
    "none": "no evidence of a difference from {control} in {column}",
    "undecided": "undecided against {control} in {column}",
    "same": "the same images as {control}, so the same {column}",
}


def signed(value: float, places: int) -> str:
    """Return `+0.004` or `−0.021`."""
    return fixed(value, places, plus=True)


def interval(estimate: Estimate, places: int) -> str:
    """Return `−0.021 to +0.030`, or an empty text."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{signed(estimate.low, places)} to {signed(estimate.high, places)}"


def p_text(p: float) -> str:
    """Return a p value with two significant digits, or as many as show that it is below 0.05."""
    if not 0.001 <= p < 0.1:
        return "< 0.001" if p < 0.001 else f"{p:.2f}"
    digits = 2
    while p < ALPHA <= float(f"{p:.{digits}g}"):
        digits += 1
    return f"{p:.{digits}g}"


def decimals(effects: Iterable[Effect]) -> int:
    """Return the number of decimals for the effects in one column.

    It is that of the column, or enough to show two digits of the typical difference.
    """
    found = list(effects)
    if found and found[0].column.decimals is not None:
        return found[0].column.decimals
    sizes = sorted(max(abs(e.estimate.mean), e.estimate.sd or 0.0) for e in found)
    typical = sizes[len(sizes) // 2] if sizes else 0.0
    return min(4, max(0, 1 - math.floor(math.log10(typical)))) if typical > 0 else 3


def effects(
    results: Sequence[CellResult], store: Store | None = None, columns: Sequence[Column] = EFFECT_COLUMNS
) -> list[Effect]:
    """Return one data set's effects: each row minus each row that it names, or minus each control row if it names none.

    Two controls are compared once, the later minus the earlier. Where two rows share one seed only, the interval of a
    mean AP is over resampled test patients; these are read from `store`.
    """
    groups = by_method(r for r in results if r.counted)
    controls = [label for label in controls_of(results) if label in groups]
    found = [
        effect
        for row, control, named in _pairs(groups, controls)
        for column in columns
        if (effect := _effect(groups[row], groups[control], column, named, store))
    ]
    tested = [e for e in found if e.estimate.p is not None]
    adjusted = holm([e.estimate.p or 0.0 for e in tested])
    by_id = {id(e): p for e, p in zip(tested, adjusted, strict=True)}
    return [replace(e, p_holm=by_id.get(id(e)), n_compared=len(tested)) for e in found]


def controls_of(results: Iterable[CellResult]) -> list[str]:
    """Return the rows that others are compared with, of one data set's cells, finished or not.

    They are the rows that have the name of a control. Where there is none, a row of that method is the control under
    another name: if several are, the one that is trained as most rows are. A row that names its own controls is none.
    """
    rows = {label: members[0].cell.row for label, members in by_method(results).items()}
    recipes, found = [row.classifier for row in rows.values()], []
    for name in published().controls:
        others = [label for label, row in rows.items() if row.method.name == name and not row.against]
        if name in rows:
            found.append(name)
        elif others:
            found.append(max(others, key=lambda label: recipes.count(rows[label].classifier)))
    return found


def _pairs(groups: dict[str, list[CellResult]], controls: list[str]) -> list[tuple[str, str, bool]]:
    pairs: list[tuple[str, str, bool]] = []
    for row, members in groups.items():
        if against := members[0].cell.against:
            pairs += [(row, control, True) for control in against if control in groups]
            continue
        before = controls[: controls.index(row)] if row in controls else controls
        pairs += [(row, control, False) for control in before]
    return pairs


def _effect(
    row: list[CellResult], control: list[CellResult], column: Column, named: bool, store: Store | None
) -> Effect | None:
    base = {r.cell.seed: r for r in control}
    shared = [(r, base[r.cell.seed]) for r in row if r.cell.seed in base]
    measured = []
    for a, b in shared:
        x, y = a.number(column.key), b.number(column.key)
        if x is not None and y is not None:
            measured.append((a, b, x - y))
    if not measured:
        return None
    differences = tuple(d for _, _, d in measured)
    estimate = over_seeds(differences)
    if all(_one_number(a, b, column.key) for a, b, _ in measured):
        estimate = Estimate(0.0, 0.0, len(measured), same=True)
    elif len(measured) == 1 and store is not None:
        estimate = _over_test(*measured[0], column.key, store) or estimate
    cell = row[0].cell
    return Effect(
        dataset=cell.dataset.label,
        row=cell.label,
        control=control[0].cell.label,
        named=named,
        column=column,
        seeds=tuple(a.cell.seed for a, _, _ in measured),
        differences=differences,
        estimate=estimate,
    )


def _one_number(a: CellResult, b: CellResult, column: str) -> bool:
    """Tell whether a column is of the synthetic images, and both cells have the same ones under the same labels."""
    of_images = column in (a.fidelity or {}) and column not in (a.scores or {})
    return of_images and a.cell.fidelity.key == b.cell.fidelity.key


def _over_test(a: CellResult, b: CellResult, difference: float, column: str, store: Store) -> Estimate | None:
    """Return the estimate over resampled test patients, or None if the store or the column has no resamples."""
    drawn = [
        s.replicates(store.folder(s)).get(column) if store.has(s) else None for s in (a.cell.scores, b.cell.scores)
    ]
    first, second = drawn
    if first is None or second is None or len(first) != len(second) or len(first) == 0:
        return None
    return over_test_patients(difference, first - second, bool((a.scores or {}).get("patients_known", True)))


def verdicts(found: Iterable[Effect], column: str = MAIN) -> dict[str, str]:
    """Return row → its verdicts in one column as one sentence."""
    chosen = [e for e in found if e.column.key == column]
    places = decimals(chosen)
    said: dict[str, list[str]] = {}
    for e in chosen:
        said.setdefault(e.row, []).append(e.sentence(places))
    return {row: "; ".join(sentences) for row, sentences in said.items()}


def by_chance(found: Iterable[Effect]) -> float:
    """Return how many of these effects are expected to have p < 0.05 by chance alone; it is at most 5 % of them.

    With n seeds every p is a multiple of the least possible p. The true level of the test is therefore the highest
    multiple below 0.05: zero with five seeds, 0.031 with six.
    """
    steps = [least_p(e.estimate.n) for e in found]
    return sum(step * (math.ceil(ALPHA / step) - 1) for step in steps)


def notes(found: Sequence[Effect]) -> list[str]:
    """Return the notes without which effects cannot be read, of one or two sentences each."""
    if not found:
        return []
    said = ["A difference is the row minus its control at the same seed."]
    over = [e for e in found if e.estimate.source == "seeds" and e.estimate.p is not None]
    if over:
        ns = sorted({e.estimate.n for e in over})
        least = ", ".join(f"{p_text(least_p(n))} with {n}" for n in ns)
        said.append(
            "A difference is the mean over n seeds. Its 95 % interval is a BCa bootstrap interval over seeds, and its "
            f"p is that of the exact sign-flip test (the least possible p is {least} seeds). All seeds share one "
            "split, so the interval does not cover what another test set would give."
        )
        if ns[0] < _FEW_SEEDS:
            said.append(
                f"With fewer than {_FEW_SEEDS} seeds a bootstrap interval is too short. An interval that leaves out "
                "zero therefore counts only if p < 0.05; otherwise chance is not ruled out."
            )
        said.append(
            f"{over[0].n_compared} comparisons have a p. No p is corrected for this number; p_holm in effects.csv is "
            "corrected by Holm's method."
        )
    if drawn := next((e.estimate.units for e in found if e.estimate.over_test), None):
        said.append(
            f"One seed: the 95 % interval is over paired resamples of the {drawn}. A resample that loses all positives "
            "of some class is drawn again. The interval does not cover what another training "
            "would give."
        )
    return said
