"""The published numbers beside those of a run, read from `poster.yaml`: no code here names a method."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Published:
    """A published results table.

    Attributes:
        citation: where the numbers are from.
        short: one word for column headings.
        setting: the data and networks of the published numbers.
        rows: method label → column → number or None (not given).
        controls: labels of the rows that other rows are compared with.
        left_open: (what the paper does not say, the dotted path of what was chosen here).
    """

    citation: str
    short: str
    setting: str
    rows: dict[str, dict[str, float | None]]
    controls: tuple[str, ...]
    left_open: tuple[tuple[str, str], ...]

    def value(self, label: str, column: str) -> float | None:
        """Return a published number, or None where there is none."""
        return self.rows.get(label, {}).get(column)


@functools.cache
def published() -> Published:
    """Return the table in `poster.yaml`."""
    raw = yaml.safe_load((Path(__file__).parent / "poster.yaml").read_text(encoding="utf-8"))
    return Published(
        citation=raw["citation"],
        short=raw["short"],
        setting=raw["setting"],
        rows=raw["rows"],
        controls=tuple(raw["controls"]),
        left_open=tuple((item["what"], item["at"]) for item in raw["left_open"]),
    )
