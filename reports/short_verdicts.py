"""One line for each row on how it compares with its controls: the command line and the page show it below the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.differences import Effect
from reports.statistics import MIN_FOR_INTERVAL, Verdict

LONGEST_LINE = 98  # letters, so that a line and the mark before it fit 100 columns of a terminal
_PHRASES: dict[Verdict, str] = {
    "higher": "higher than {controls}",
    "lower": "lower than {controls}",
    "unsettled_higher": "perhaps higher than {controls}",
    "unsettled_lower": "perhaps lower than {controls}",
    "none": "not shown to differ from {controls}",
    "undecided": "not yet comparable with {controls}",
    "same": "the same as of {controls}, whose images it has",
}


def short_verdicts(compared: Sequence[Effect], longest: int = LONGEST_LINE) -> list[str]:
    """Return one line for each row that is compared with another one, or one for all where no row can be ranked.

    The numbers behind a verdict and its conditions are in the notes alone.

    Args:
        compared: the effects in one column.
        longest: a longer line is cut and ends with an ellipsis.
    """
    if sentence := too_few_seeds(compared):
        return [sentence]
    return [_shortened(f"{row}: {line}", longest) for row, line in verdict_lines(compared).items()]


def too_few_seeds(compared: Iterable[Effect]) -> str | None:
    """Return the sentence that stands for all rows where the seeds are too few to rank any of them."""
    n_seeds = max((e.estimate.n for e in compared), default=0)
    if not 0 < n_seeds < MIN_FOR_INTERVAL:
        return None
    seeds = "One seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return f"{seeds} cannot rank these rows: training them again could change their order."


def verdict_lines(compared: Iterable[Effect]) -> dict[str, str]:
    """Return row → `tail mAP higher than baseline; not shown to differ from duplicate`."""
    by_row: dict[str, dict[Verdict, list[Effect]]] = {}
    for effect in compared:
        by_row.setdefault(effect.row, {}).setdefault(effect.verdict, []).append(effect)
    return {row: _line(by_verdict) for row, by_verdict in by_row.items()}


def _line(by_verdict: dict[Verdict, list[Effect]]) -> str:
    phrases = [
        _PHRASES[verdict].format(controls=" and ".join(effect.control for effect in found))
        for verdict, found in by_verdict.items()
    ]
    column = next(found[0].column for found in by_verdict.values())
    return f"{column.heading} {'; '.join(phrases)}"


def _shortened(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
