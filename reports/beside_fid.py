"""Further tables of a report: what to read together with FID, and the diagnostics that methods record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.results.cells import CellResult, numbers
from reports.footnotes import floor_differs
from reports.run_facts import by_method, span
from reports.table_rows import Column, mean_sd, places_for

DISTANCES = (
    Column("fid_tail", "FID", -1),
    Column("fid_tail_equal_n", "FID at floor n", -1),
    Column("fid_tail_floor", "FID floor", spread=False),
    Column("fid_tail_floor_spread", "floor sd (draws)", spread=False),
    Column("kid_tail", "KID", -1),
    Column("kid_tail_sd_subsets", "KID sd (subsets)", spread=False),
    Column("kid_tail_floor", "KID floor", spread=False),
    Column("label_fidelity_tail", "label fidelity", 1, 2),
    Column("cooccurrence_gap_tail", "co-occurrence gap", -1, 3),
)
MANIFOLD = (
    Column("precision_tail", "precision", 1, 2),
    Column("recall_tail", "recall", 1, 2),
    Column("density_tail", "density", 1, 2),
    Column("coverage_tail", "coverage", 1, 2),
    Column("nearest_ratio", "nearest ratio", 0, 2),
    Column("nearest_ratio_without_parents", "ratio without parents", 0, 2),
    Column("copies_share", "copies", 0, 2),
    Column("copies_share_without_parents", "copies without parents", 0, 2),
)
_SAME_SCALE = (
    ("fid_tail", "fid_tail_equal_n", "fid_tail_floor", "fid_tail_floor_spread"),
    ("kid_tail", "kid_tail_sd_subsets", "kid_tail_floor"),
)


@dataclass(frozen=True)
class TextTable:
    """A table as text. Each line has as many cells as there are headings, and its first cell is the name of the row."""

    title: str
    headings: list[str]
    lines: list[list[str]]
    notes: list[str]


def beside_fid(results: Iterable[CellResult]) -> list[TextTable]:
    """Return a table of distances and one of coverage and copies, with a line for each row that made images.

    Cells are mean ± sd over seeds. A column without a number is left out, and so is a table without columns.
    `results` are counted cells, see `CellResult.counted`, as in all that follows.
    """
    measured = by_method(r for r in results if r.fidelity)
    rows = {m: found for m, found in measured.items() if any(_made(r) for r in found)}
    tables = [_table("Beside FID", DISTANCES, rows), _table("Coverage and copies", MANIFOLD, rows)]
    return [table for table in tables if table]


def _table(title: str, wanted: tuple[Column, ...], rows: dict[str, list[CellResult]]) -> TextTable | None:
    columns = [c for c in wanted if any(numbers(found, c.key) for found in rows.values())]
    if not any(floor_differs(r) for found in rows.values() for r in found):  # then this column would repeat FID
        columns = [c for c in columns if c.key != "fid_tail_equal_n"]
    if not columns:
        return None
    places = _places(columns, rows)
    lines = [
        [
            row,
            *(_counts(found, key) for key in ("n_real", "n_synthetic", "n_floor")),
            *(mean_sd(numbers(found, c.key), places[c.key], c.spread) for c in columns),
        ]
        for row, found in rows.items()
    ]
    heads = ["method", "n real", "n made", "n floor", *(c.titled for c in columns)]
    return TextTable(title, heads, lines, _notes({c.key for c in columns}, rows))


def _made(result: CellResult) -> bool:
    return bool((result.fidelity or {}).get("n_synthetic"))


def _classes(result: CellResult) -> list[dict[str, Any]]:
    return list(((result.fidelity or {}).get("per_class") or {}).values())


def _counts(found: list[CellResult], key: str) -> str:
    numbers = [n for r in found for c in _classes(r) if (n := c.get(key))]
    return span(numbers) if numbers else "–"


def _places(columns: list[Column], rows: dict[str, list[CellResult]]) -> dict[str, int]:
    """Return the number of decimals of every column; columns on one scale have the same."""
    places = {}
    for column in columns:
        family = next((keys for keys in _SAME_SCALE if column.key in keys), (column.key,))
        pooled = [v for c in columns if c.key in family for found in rows.values() for v in numbers(found, c.key)]
        places[column.key] = places_for(pooled) if column.decimals is None else column.decimals
    return places


def _notes(keys: set[str], rows: dict[str, list[CellResult]]) -> list[str]:
    first = next((r.fidelity or {} for found in rows.values() for r in found), {})
    said = [
        "All numbers are means over the tail classes. n real, n made and n floor are the numbers of real images, of "
        "synthetic images and of real images in the floor, for one class that images were made for."
    ]
    if "fid_tail_equal_n" in keys:
        said.append("FID falls as n grows. Where n made and n floor differ, compare FID at floor n with the floor.")
    if "fid_tail_floor_spread" in keys:
        said.append(
            f"The floor is the mean over {first.get('floor_draws')} draws of real images, and its sd is that over the "
            "draws: a difference between FID and floor within it is no difference."
        )
    if "kid_tail_sd_subsets" in keys:
        said.append(
            "KID sd is taken over random subsets of half of the smaller side; it shows the noise of the sample."
        )
    if "cooccurrence_gap_tail" in keys:
        real = first.get("cooccurrence_gap_tail_real")
        there = f" The real images that FID compares with have {real:.3f}." if real is not None else ""
        said.append(
            "The co-occurrence gap says how far the labels beside the class are from those of real train images: the "
            f"mean difference between the shares of images that have each of the other classes.{there}"
        )
    if {"precision_tail", "density_tail"} & keys:
        k = f" (k = {first['k_neighbors']})" if first.get("k_neighbors") else ""
        real = [(c, v) for c in MANIFOLD if (v := first.get(f"{c.key}_real")) is not None]
        there = (
            f" Other real images in their place reach {', '.join(f'{c.heading} {v:.2f}' for c, v in real)}."
            if real
            else ""
        )
        said.append(
            f"Precision is the share of synthetic images inside the manifold of real images{k}, and density says how "
            f"closely they lie there. Recall and coverage are shares of the real images that they reach.{there}"
        )
    if "nearest_ratio" in keys:
        said.append(
            "The nearest ratio is the median distance of the images to their nearest train image, divided by that of "
            "held-out real images. Images with a ratio far below 1 are near-copies. “Copies” is the share of "
            "images that are nearer to a train image than all but 5 % of the held-out images are: chance is 0.05. "
            "“Without parents” leaves out all train images of the patients that an image was made from; chance is "
            "0.05 there too."
        )
    return said


def diagnostics(results: Iterable[CellResult]) -> TextTable | None:
    """Return the diagnostics that methods record, with a line for each row; cells are mean ± sd over seeds."""
    rows = {m: found for m, found in by_method(results).items() if any(r.diagnostics for r in found)}
    names = list(dict.fromkeys(k for found in rows.values() for r in found for k in r.diagnostics or {}))
    columns = [Column(name, name.replace("_", " ")) for name in names]
    columns = [c for c in columns if any(_values_of(found, c.key) for found in rows.values())]
    if not columns:
        return None
    pooled = {c.key: [v for found in rows.values() for v in _values_of(found, c.key)] for c in columns}
    places = {key: 0 if all(v == round(v) for v in found) else places_for(found) for key, found in pooled.items()}
    lines = [[row, *(mean_sd(_values_of(found, c.key), places[c.key]) for c in columns)] for row, found in rows.items()]
    return TextTable("Diagnostics of the methods", ["method", *(c.heading for c in columns)], lines, [])


def _values_of(found: list[CellResult], name: str) -> list[float]:
    return [float(v) for r in found if (v := (r.diagnostics or {}).get(name)) is not None]
