"""Writes a matrix's report: tables for papers, figures, and one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reports.facts import DatasetFacts, by_dataset, by_method, dataset_facts
from reports.figures import charts, pictures
from reports.figures.style import Drawing, Looks, Omitted, Saved, save

if TYPE_CHECKING:
    from bench.matrix import Matrix
    from bench.results import CellResult
    from bench.store import Store


def write_report(matrix: Matrix, results: list[CellResult], store: Store, out: Path) -> list[Path]:
    """Write the report of what the store holds and return its files, the page first. Nothing is computed.

    Args:
        matrix: the matrix.
        results: its cells as `bench.results.read_matrix` gives them, finished or not.
        store: where the cells' stages are.
        out: the folder to write, made if need be: `report.html`, `table.*`, `matrix.yaml`, `figures/`.
    """
    import yaml

    from bench.record import resolved
    from reports.page import page, table_page
    from reports.paper_table import csv_table, latex, markdown

    facts = {label: dataset_facts(members[0].cell, store) for label, members in by_dataset(results).items()}
    out.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_dump(resolved(matrix.settings, matrix.cells), sort_keys=False, allow_unicode=True)
    drawn = {label: draw(members, facts[label], store, out) for label, members in by_dataset(results).items()}
    texts = {
        "report.html": page(matrix, results, store, facts, drawn, settings),
        "table.md": markdown(matrix, results, facts),
        "table.tex": latex(matrix, results, facts),
        "table.csv": csv_table(results),
        "table.html": table_page(matrix, results, facts),
        "matrix.yaml": settings,
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    figures = [file for items in drawn.values() for item in items if isinstance(item, Saved) for file in item.files]
    return [*(out / name for name in texts), *figures]


def draw(results: list[CellResult], facts: DatasetFacts | None, store: Store, out: Path) -> list[Saved | Omitted]:
    """Draw one data set's figures into `out/figures`; what cannot be drawn is listed with its reason."""
    looks = Looks(r.cell.method.label for r in results)
    with_images = [r for r in results if r.cell.method.makes_images]
    grids = [_first_grid(members, store) for members in by_method(with_images).values()]
    found: list[Drawing | Omitted] = [
        charts.ap_by_frequency(results, facts, looks),
        charts.quality_by_steps(results, looks),
        charts.label_fidelity(results, facts, looks),
        charts.training_curves(results, looks),
        *pictures.fusion_strips(with_images, store),
        *grids,
    ]
    return [save(item, out / "figures") if isinstance(item, Drawing) else item for item in found]


def _first_grid(members: list[CellResult], store: Store) -> Drawing | Omitted:
    """Return the grid of the first seed that has images."""
    found = [pictures.sample_grid(r, store) for r in members]
    return next((item for item in found if isinstance(item, Drawing)), found[0])
