"""Tables of pairs of findings that no image of train or val has together: held-out beside seen combinations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from reports.beside_fid import TextTable
from reports.run_facts import by_method
from reports.table_rows import Column, mean_sd

if TYPE_CHECKING:
    from bench.results.cells import CellResult

HELD_OUT = tuple(
    column
    for group in ("head", "medium", "tail")
    for column in (
        Column(f"held_out_ap_{group}", f"held-out AP {group}", 1, 3),
        Column(f"seen_ap_{group}", f"seen AP {group}", 1, 3),
        Column(f"held_out_gap_{group}", f"seen − held-out AP {group}", 0, 3),
        Column(f"held_out_no_skill_{group}", f"no skill {group}", 0, 3, spread=False),
    )
)
HELD_OUT_OF_ALL = (
    Column("held_out_ap_all", "held-out AP all", 1, 3),
    Column("seen_ap_all", "seen AP all", 1, 3),
    Column("held_out_gap_all", "seen − held-out AP all", 0, 3),
    Column("held_out_no_skill_all", "no skill all", 0, 3, spread=False),
)
HELD_OUT_NOTES = (
    "Held-out AP is the average precision of a class on the test images that have both classes of a pair, and seen AP "
    "that on test images that have the class and none of the pairs. Both stand against the same negatives, at equal "
    "numbers of positives, so they share one no-skill level. The numbers are means over the classes of all pairs.",
    "Compare rows with each other: they are measured on the same images. Seen minus held-out AP is not the cost of "
    "novelty alone, since images with both findings may be easier or harder to read.",
)


def pair_tables(results: Iterable[CellResult]) -> list[TextTable]:
    """Return a table for each held-out pair, with a line for each row; cells are mean ± sd over seeds.

    `results` are counted cells, see `CellResult.counted`.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for label, members in by_method(results).items():
        if found := [pairs for r in members if (pairs := (r.scores or {}).get("held_out_pairs"))]:
            rows[label] = found
    names = next((list(found[0]) for found in rows.values()), [])
    return [_pair_table({label: [pairs[name] for pairs in found] for label, found in rows.items()}) for name in names]


def _pair_table(rows: dict[str, list[dict[str, Any]]]) -> TextTable:
    """Return the table of one pair; `rows` holds its figures at each seed, by row."""
    first = next(found[0] for found in rows.values())
    classes = list(first["ap"])
    headings = ["method", *(f"{name}, {said} ↑" for name in classes for said in ("held out", "seen"))]
    lines = [
        [label, *(mean_sd([f[figure][name] for f in found], 3) for name in classes for figure in ("ap", "seen_ap"))]
        for label, found in rows.items()
    ]
    levels = "; ".join(
        f"{name} {first['n_positives'][name]} positives, {first['n_negatives'][name]} negatives, no skill "
        f"{first['no_skill'][name]:.3f} ({first['n_seen'][name]} seen)"
        for name in classes
    )
    note = f"{first['n_images']} test images have both. {levels}."
    return TextTable(f"Held-out pair: {' + '.join(classes)}", headings, lines, [note])
