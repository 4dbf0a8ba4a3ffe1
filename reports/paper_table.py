"""The table of results beside the published numbers, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from bench.results.cells import CellResult, numbers
from reports.beside_fid import TextTable
from reports.beside_map import ACCURACY, beside_tables
from reports.beside_pairs import HELD_OUT, HELD_OUT_OF_ALL
from reports.differences import Effect, controls_of, effects, notes, verdicts
from reports.few_patients import few_note, few_patients, marked
from reports.footnotes import footnotes, left_open
from reports.published import published
from reports.run_facts import by_dataset, dataset_facts
from reports.table_rows import (
    PUBLISHED_COLUMNS,
    SUPPORTED,
    Layout,
    Row,
    columns_of,
    hole_lines,
    no_skill,
    number,
    table_rows,
)
from reports.text import md, md_table, tex, tex_line

if TYPE_CHECKING:
    from bench.matrix.matrix import Matrix
    from bench.store.store import Store
    from reports.run_facts import DatasetFacts


@dataclass(frozen=True)
class Part:
    """One data set's table, with its notes and verdicts.

    Attributes:
        results: the data set's cells, finished or not.
        facts: sizes and names of the data set; None where the store does not hold it.
        effects: the differences between its rows, see `reports.differences`.
        narrow: leave out the number of seeds, and the mean without classes of few patients, which 80 columns have no
            room for; notes and holes give them too.
    """

    matrix: Matrix
    label: str
    results: list[CellResult]
    facts: DatasetFacts | None
    effects: list[Effect]
    narrow: bool = False

    @functools.cached_property
    def with_published(self) -> bool:
        """Whether the paper's numbers stand beside the rows; unless the matrix says it, the data set does."""
        said = self.matrix.settings.published
        return self.results[0].cell.dataset.beside_published if said is None else said

    @functools.cached_property
    def counted(self) -> list[CellResult]:
        """The cells whose figures the table shows. All other numbers of the report are of these cells too."""
        return [r for r in self.results if r.counted]

    @functools.cached_property
    def controls(self) -> list[str]:
        """The rows that others are compared with, finished or not."""
        return controls_of(self.results)

    @functools.cached_property
    def few(self) -> dict[str, int]:
        """The tail classes of few test patients, and how many each has."""
        return few_patients(self.counted)

    @property
    def few_note(self) -> list[str]:
        """What is said of these classes; a narrow table has the means without them here and not in a column."""
        means = {row.method: number(row.values[SUPPORTED.key], 3) for row in self.rows}
        return few_note(self.few, self.counted, means if self.narrow else None)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The table's rows."""
        return table_rows(self.results, self.with_published)

    @functools.cached_property
    def layout(self) -> Layout:
        """Which cells the rows have."""
        layout = Layout.of(self.rows)
        if not self.narrow:
            return layout
        return replace(layout, seeds=False, own=tuple(c for c in layout.own if c.key != SUPPORTED.key))

    @property
    def headings(self) -> list[str]:
        """The headings of the rows' cells."""
        short = published().short
        named = ["method", *(["seeds"] if self.layout.seeds else []), *(c.titled for c in self.layout.own)]
        return [*named, *(f"{short} {c.heading}" for c in self.layout.theirs)]

    @property
    def lines(self) -> list[list[str]]:
        """The cells of every row. The last line is that of a classifier without skill."""
        return [*self.layout.texts(self.rows), self.layout.no_skill(self.counted)]

    @property
    def verdicts(self) -> dict[str, str]:
        """Row → how its tail mAP compares with that of its controls."""
        return marked(verdicts(self.effects), self.few)

    @property
    def notes(self) -> list[str]:
        """The table's footnotes, without those of the verdicts."""
        return [
            *self.few_note,
            *footnotes(self.matrix, self.results, self.facts, with_published=bool(self.layout.theirs)),
        ]

    @property
    def verdict_notes(self) -> list[str]:
        """The notes without which the verdicts cannot be read."""
        return notes(self.effects) if self.verdicts else []

    @property
    def chosen(self) -> list[str]:
        """What was chosen where the paper is silent, as one more footnote; nothing where its numbers are not shown."""
        if not self.with_published:
            return []
        chosen = "; ".join(f"{what}: {said}" for what, said in left_open(self.matrix, self.counted, self.facts))
        return [f"Chosen where the paper is silent. {chosen}."] if chosen else []


def parts_of(
    matrix: Matrix,
    results: list[CellResult],
    store: Store | None,
    classes: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Part]:
    """Return a part for each data set.

    Args:
        matrix: the matrix.
        results: its cells, finished or not.
        store: read for the sizes of splits and for intervals over test patients; None leaves them out.
        classes: data set → name of a class → the name that stands for it in `results`.
    """
    return [
        Part(
            matrix,
            label,
            members,
            dataset_facts(members[0].cell, store, (classes or {}).get(label, {})) if store else None,
            effects(members, store),
        )
        for label, members in by_dataset(results).items()
    ]


def markdown(parts: list[Part]) -> str:
    """Return the table of every data set as Markdown with its verdicts and footnotes."""
    lines = [f"# {md(parts[0].matrix.name)}", ""] if parts else []
    for part in parts:
        lines += [f"## {md(part.label)}", ""]
        lines += md_table(part.headings, part.lines)
        lines += [f"- **{md(row.method)}**: {md(row.hole)}" for row in part.rows if row.hole]
        lines += [f"- **{md(row)}**: {md(said)}" for row, said in part.verdicts.items()]
        lines += [f"- {md(note)}" for note in [*part.notes, *part.verdict_notes, *part.chosen]]
        for beside in beside_tables(part.counted):
            lines += ["", f"### {md(beside.title)}", "", *md_table(beside.headings, beside.lines)]
            lines += [f"- {md(note)}" for note in beside.notes]
        lines.append("")
    return "\n".join(lines)


def csv_table(parts: list[Part]) -> str:
    """Return the table as CSV for machines.

    It holds numbers in full precision with sd and n, the 95 % interval over test patients (with one seed), the
    published numbers, the verdict, and why numbers are missing. Accuracies and scores on held-out pairs have columns
    where there are any.
    """
    out = io.StringIO()
    short = published().short
    columns = (*columns_of(row for part in parts for row in part.rows), SUPPORTED)
    names = [name for c in columns for name in (c.key, f"{c.key}_sd")]
    fields = ["dataset", "method", "n_seeds", *names, "fid_tail_equal_n", "fid_tail_floor_spread", *_BOUNDS]
    beside = {(part.label, row.method): _beside(part, row) for part in parts for row in part.rows}
    fields += dict.fromkeys(name for found in beside.values() for name in found)
    fields += ["n_synthetic", "no_skill_head", "no_skill_tail"]
    fields += [f"{short}_{c.key}" for c in PUBLISHED_COLUMNS] + ["verdict", "hole"]
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for part in parts:
        levels, said = no_skill(part.counted), part.verdicts
        for row in part.rows:
            numbers = {n: v for c in columns for n, v in ((c.key, row.values[c.key]), (f"{c.key}_sd", row.sds[c.key]))}
            writer.writerow(
                {"dataset": row.dataset, "method": row.method, "n_seeds": row.n_seeds, **numbers, **_bounds(part, row)}
                | beside[part.label, row.method]
                | {name: _mean_of(part, row, name) for name in ("fid_tail_equal_n", "fid_tail_floor_spread")}
                | {"n_synthetic": row.n_synthetic, "verdict": said.get(row.method), "hole": row.hole}
                | {"no_skill_head": levels["map_head"], "no_skill_tail": levels["map_tail"]}
                | {f"{short}_{c.key}": row.published(c.key) for c in PUBLISHED_COLUMNS}
            )
    return out.getvalue()


def _mean_of(part: Part, row: Row, column: str) -> float | None:
    """Return a row's mean over seeds of a figure that has no column in the table.

    `fid_tail_equal_n` is the FID of as many synthetic images as the floor has; FID itself if the two are equal.
    """
    found = numbers((r for r in part.counted if r.cell.label == row.method), column)
    return fmean(found) if found else None


_BOUNDS = ("map_head_low", "map_head_high", "map_tail_low", "map_tail_high")


def _bounds(part: Part, row: Row) -> dict[str, float | None]:
    """Return the interval over test patients of a row with one seed. A row with several seeds has an sd instead."""
    done = [r.scores or {} for r in part.counted if r.cell.label == row.method]
    return {name: done[0].get(name) if len(done) == 1 else None for name in _BOUNDS}


def _beside(part: Part, row: Row) -> dict[str, float | None]:
    """Return a row's accuracies and scores on held-out pairs: mean, sd over seeds and, with one seed, the interval."""
    members = [r for r in part.counted if r.cell.label == row.method]
    found: dict[str, float | None] = {}
    for column in (*ACCURACY, *HELD_OUT, *HELD_OUT_OF_ALL):
        if values := numbers(members, column.key):
            found[column.key] = fmean(values)
            if column.spread:
                found[f"{column.key}_sd"] = stdev(values) if len(values) > 1 else None
            ends = {f"{column.key}_{end}": members[0].number(f"{column.key}_{end}") for end in ("low", "high")}
            if len(members) == 1 and None not in ends.values():
                found |= ends
    return found


def latex(parts: list[Part]) -> str:
    """Return a document that compiles as it is. Each `table` in it fits a paper that loads booktabs and graphicx."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
    ]
    for part in parts:
        lines += _latex_table(part)
        for beside in beside_tables(part.counted):
            lines += _latex_beside(part, beside)
    return "\n".join([*lines, r"\end{document}", ""])


def _latex_table(part: Part) -> list[str]:
    layout, short = part.layout, published().short
    heads = ["", *(["seeds"] if layout.seeds else []), *(c.titled for c in (*layout.own, *layout.theirs))]
    first, last = layout.n_before + 1, layout.first_published
    caption = f"{part.matrix.name} on {part.label}" + (f": this run beside the {short}." if layout.theirs else ".")
    spanning = [
        rf"{' &' * (layout.n_before - 1)} & \multicolumn{{{len(layout.own)}}}{{c}}{{this run}}",
        rf" & \multicolumn{{{len(layout.theirs)}}}{{c}}{{{tex(short)}}} \\",
        rf"\cmidrule(lr){{{first}-{last}}}\cmidrule(lr){{{last + 1}-{len(heads)}}}",
    ]
    *lines, level = part.lines
    said = hole_lines(part.rows)
    said += [f"{row}: {verdict}." for row, verdict in part.verdicts.items()]
    return [
        *_latex_head(caption, len(heads)),
        *(spanning if layout.theirs else []),
        tex_line(heads),
        r"\midrule",
        *(tex_line(cells) for cells in lines),
        r"\midrule",
        tex_line(level),
        *_latex_foot([*said, *part.notes, *part.verdict_notes]),
    ]


def _latex_beside(part: Part, beside: TextTable) -> list[str]:
    return [
        *_latex_head(f"{part.matrix.name} on {part.label}: {beside.title}.", len(beside.headings), wide=True),
        tex_line(beside.headings),
        r"\midrule",
        *(tex_line(cells) for cells in beside.lines),
        *_latex_foot(beside.notes, wide=True),
    ]


def _latex_head(caption: str, n_cells: int, wide: bool = False) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{tex(caption)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{l{'r' * (n_cells - 1)}}}",
        r"\toprule",
    ]


def _latex_foot(said: list[str], wide: bool = False) -> list[str]:
    return [
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\setlength{\parskip}{2pt}",
        *(f"{tex(line)}\\par" for line in said),
        r"\end{minipage}",
        r"\end{table}",
    ]
