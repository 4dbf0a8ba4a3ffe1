"""Write the report of a matrix: tables for papers, figures, and one self-contained page."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reports.figures import charts, pictures
from reports.figures.effects import forest
from reports.figures.nearest import nearest_images
from reports.figures.study import study_figures
from reports.figures.style import Drawing, Looks, Omitted, Saved, picture, save, unique
from reports.redaction import ReportInput, export
from reports.report_folder import folder_for
from reports.run_facts import by_method

if TYPE_CHECKING:
    from bench.matrix.matrix import Matrix
    from bench.results.cells import CellResult
    from bench.store.store import Store
    from reports.paper_table import Part


def write_report(matrix: Matrix, results: list[CellResult], store: Store, out: Path, share: bool = False) -> list[Path]:
    """Write the report on what the store holds, without computing anything, and return its files, the page first.

    Args:
        matrix: the matrix.
        results: its cells as `bench.results.cells.read_matrix` gives them, finished or not.
        store: it holds the stages of the cells.
        out: the folder to write, created if it is missing: `report.html`, `table.*`, `effects.*`, `matrix.yaml`,
            `figures/`, and `files.txt` with their names. An older report there is replaced.
        share: write a report that may be passed on, see `bench.privacy.border`. The folder must then be new, or hold
            such a report.

    Raises:
        ConfigError: for a folder that holds other files which would be lost.
        BorderError: if the report would hold something that may not leave; then nothing is written.
    """
    made_of = export(matrix, results, store, share)
    with folder_for(out, matrix, share) as folder, _words_for_numbers():
        names = _write(made_of, store, folder)
    return [out / name for name in names]


def table_text(matrix: Matrix, results: list[CellResult], store: Store, share: bool) -> str:
    """Return the table of every data set as Markdown with its notes, as it stands in the report.

    Args:
        matrix: the matrix.
        results: its cells, finished or not.
        store: it holds the stages of the cells.
        share: return a text that may be passed on, see `bench.privacy.border`.

    Raises:
        BorderError: if the text would hold something that may not leave.
    """
    from reports.paper_table import markdown, parts_of

    made_of = export(matrix, results, store, share)
    with _words_for_numbers():
        text = markdown(parts_of(made_of.matrix, made_of.results, store, made_of.classes))
    made_of.check("table.md", text)
    return text


def shown_figures(
    matrix: Matrix, results: list[CellResult], store: Store, out: Path, share: bool
) -> list[tuple[Drawing, Path]]:
    """Draw those figures of a report that a tracker may show into `out`, and return each with its PNG file.

    Args:
        matrix: the matrix.
        results: its cells, finished or not.
        store: it holds the stages of the cells.
        out: a folder for the files.
        share: return those of open data sets alone, see `bench.privacy.border`. Of a credentialed data set there is
            none, not even a chart of aggregates.
    """
    from reports.paper_table import parts_of

    made_of = export(matrix, results, store, share)
    made_of = replace(made_of, results=[r for r in made_of.results if made_of.may_show(r.cell.dataset.label)])
    with _words_for_numbers():
        found = _figures(made_of, parts_of(made_of.matrix, made_of.results, store, made_of.classes), store)
        return [picture(item, out) for items in found.values() for item in items if isinstance(item, Drawing)]


@contextlib.contextmanager
def _words_for_numbers() -> Iterator[None]:
    """Let settings hold a word where a number is withheld, of which pydantic would warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Pydantic serializer", category=UserWarning)
        yield


def _write(made_of: ReportInput, store: Store, out: Path) -> list[Path]:
    """Write the files of a report and return their names, the page first."""
    import yaml

    from reports.effects import EffectsTable
    from reports.page import page, table_page
    from reports.paper_table import csv_table, latex, markdown, parts_of
    from reports.table_rows import hole_lines

    matrix, results = made_of.matrix, made_of.results
    parts = parts_of(matrix, results, store, made_of.classes)
    settings = yaml.safe_dump(made_of.settings(), sort_keys=False, allow_unicode=True)
    drawn = {
        label: [save(item, out / "figures") if isinstance(item, Drawing) else item for item in items]
        for label, items in _figures(made_of, parts, store).items()
    }
    effects = EffectsTable(
        matrix.name,
        {part.label: part.effects for part in parts},
        {part.label: hole_lines(part.rows) for part in parts},
    )
    texts = {
        "report.html": page(made_of, store, parts, drawn, settings),
        "table.md": markdown(parts),
        "table.tex": latex(parts),
        "table.csv": csv_table(parts),
        "table.html": table_page(made_of, parts),
        "effects.md": effects.markdown(),
        "effects.csv": effects.csv(),
        "matrix.yaml": settings,
    }
    for name, text in texts.items():
        made_of.check(name, text)
        (out / name).write_text(text, encoding="utf-8")
    figures = [file for items in drawn.values() for item in items if isinstance(item, Saved) for file in item.files]
    return [*map(Path, texts), *(file.relative_to(out) for file in figures)]


def _figures(made_of: ReportInput, parts: list[Part], store: Store) -> dict[str, list[Drawing | Omitted]]:
    """Return label of a data set → its figures, which are not drawn yet.

    Labels of rows can give the same file name; it then gets a number.
    """
    found = {part.label: figures_of(part, store, made_of.may_show(part.label)) for part in parts}
    study = made_of.matrix.settings.study
    if study is not None:  # a figure of all data sets is shown with the first
        for label, figure in zip(found, study_figures(study, made_of.results), strict=False):
            found[label].insert(0, figure)
    taken: set[str] = set()
    return {
        label: [replace(f, name=unique(f.name, taken)) if isinstance(f, Drawing) else f for f in figures]
        for label, figures in found.items()
    }


def figures_of(part: Part, store: Store, with_pictures: bool) -> list[Drawing | Omitted]:
    """Return the figures of one data set, not drawn yet; one that cannot be drawn is there as the reason.

    Args:
        part: the data set's table and results.
        store: it holds the images.
        with_pictures: draw images, and dots that stand for one image each.
    """
    results, facts = part.counted, part.facts
    looks = Looks(r.cell.label for r in part.results)
    with_images = [r for r in part.results if r.cell.method.makes_images]
    found: list[Drawing | Omitted] = [
        forest(part.effects, part.label),
        charts.ap_by_frequency(results, facts, looks),
        charts.quality_by_steps(results, looks, part.with_published),
        charts.label_fidelity(results, facts, looks),
        nearest_images(results, store, looks, dots=with_pictures),
        charts.training_curves(results, looks),
    ]
    if with_pictures:
        found += pictures.fusion_strips(with_images, store)
        found += [_first_grid(members, store) for members in by_method(with_images).values()]
    else:
        found.append(Omitted("Pictures", f"of {part.label} none may be passed on, real or synthetic"))
    return found


def _first_grid(members: list[CellResult], store: Store) -> Drawing | Omitted:
    """Return the grid of the first seed for which there are images."""
    found = [pictures.sample_grid(r, store) for r in members]
    return next((item for item in found if isinstance(item, Drawing)), found[0])
