"""The published numbers that stand beside ours, read from `poster.yaml`: code here names no method."""

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
        setting: what they were measured on.
        rows: method label → column → number or None (not given).
        controls: labels of the rows that others are held against.
        left_open: (what the paper does not say, where our choice is found, as a dotted path).
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
