"""The paper's table, ours beside the published numbers: terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from reports.facts import by_dataset, dataset_facts, footnotes, left_open
from reports.published import published
from reports.rows import COLUMNS, PUBLISHED_COLUMNS, no_skill, no_skill_texts, table_rows, texts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bench.matrix import Matrix
    from bench.results import CellResult
    from bench.store import Store
    from reports.facts import DatasetFacts

FactsByDataset = dict[str, "DatasetFacts | None"]
N_NUMBERS = len(COLUMNS) + len(PUBLISHED_COLUMNS)


def headings() -> list[str]:
    """Return the headings of the cells that `reports.rows.texts` gives."""
    short = published().short
    return ["method", *(c.titled for c in COLUMNS), *(f"{short} {c.heading}" for c in PUBLISHED_COLUMNS)]


def terminal_table(matrix: Matrix, results: list[CellResult], store: Store | None = None) -> RenderableType:
    """Return the table of every data set with its footnotes and holes, for rich to print.

    With `store`, the footnotes also give the sizes of the splits.
    """
    from rich.console import Group

    parts: list[Any] = []
    for label, members in by_dataset(results).items():
        facts = dataset_facts(members[0].cell, store) if store else None
        parts.append(_terminal_part(matrix, label, members, facts))
    return Group(*parts)


def _terminal_part(matrix: Matrix, label: str, members: list[CellResult], facts: DatasetFacts | None) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = table_rows(members)
    grid = Table(title=Text(f"{matrix.name}: {label}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for i, heading in enumerate(headings()):
        theirs = i > len(COLUMNS)
        # Headings of several lines and the sd under its mean, so that several seeds still fit 80 columns.
        text = Text(re.sub(" (?![↑↓])", "\n", heading))
        grid.add_column(text, justify="right" if i else "left", style="dim" if theirs else "", overflow="fold")
    for row, cells in zip(rows, texts(rows), strict=True):
        grid.add_row(*(Text(c.replace(" ± ", "\n±")) for c in cells), style="dim" if row.n_seeds == 0 else "")
    grid.add_section()
    grid.add_row(*(Text(c) for c in no_skill_texts(members)), style="italic")
    holes = [Text(f"! {row.method}: {row.hole}", style="yellow") for row in rows if row.hole]
    notes = [Text(f"· {note}", style="dim") for note in _notes(matrix, members, facts)]
    return Group(grid, *holes, *notes)


def _notes(matrix: Matrix, members: list[CellResult], facts: DatasetFacts | None) -> list[str]:
    """Return the footnotes and, as one more, what was chosen where the paper is silent."""
    chosen = "; ".join(f"{what}: {value}" for what, value in left_open(matrix, members, facts))
    return [*footnotes(matrix, members, facts), *([f"Chosen where the paper is silent. {chosen}."] if chosen else [])]


def markdown(matrix: Matrix, results: list[CellResult], facts: FactsByDataset) -> str:
    """Return the table of every data set as Markdown with its footnotes."""
    lines = [f"# {_md(matrix.name)}", ""]
    for label, members in by_dataset(results).items():
        rows = table_rows(members)
        lines += [f"## {_md(label)}", ""]
        lines.append(_md_line(headings()))
        lines.append("|---|" + "---:|" * N_NUMBERS)
        lines += [_md_line(cells) for cells in [*texts(rows), no_skill_texts(members)]]
        lines.append("")
        lines += [f"- **{_md(row.method)}**: {_md(row.hole)}" for row in rows if row.hole]
        lines += [f"- {_md(note)}" for note in _notes(matrix, members, facts[label])]
        lines.append("")
    return "\n".join(lines)


def _md(text: str) -> str:
    """Escape what Markdown, or the HTML inside it, would read as markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in text)


def _md_line(cells: list[str]) -> str:
    return "| " + " | ".join(_md(c) for c in cells) + " |"


def csv_table(results: list[CellResult]) -> str:
    """Return the table as CSV for machines: full precision, sd and n, the published numbers, the reason of a hole."""
    out = io.StringIO()
    short = published().short
    names = [name for c in COLUMNS for name in (c.key, f"{c.key}_sd")]
    fields = ["dataset", "method", "n_seeds", *names, "n_synthetic", "no_skill_head", "no_skill_tail"]
    fields += [f"{short}_{c.key}" for c in PUBLISHED_COLUMNS] + ["hole"]
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for members in by_dataset(results).values():
        levels = no_skill(members)
        for row in table_rows(members):
            numbers = {n: v for c in COLUMNS for n, v in ((c.key, row.values[c.key]), (f"{c.key}_sd", row.sds[c.key]))}
            writer.writerow(
                {"dataset": row.dataset, "method": row.method, "n_seeds": row.n_seeds, **numbers}
                | {"n_synthetic": row.n_synthetic, "hole": row.hole}
                | {"no_skill_head": levels["map_head"], "no_skill_tail": levels["map_tail"]}
                | {f"{short}_{c.key}": row.published(c.key) for c in PUBLISHED_COLUMNS}
            )
    return out.getvalue()


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}


def _tex(text: str) -> str:
    """Escape what LaTeX would read as markup; what its fonts lack becomes a question mark, so that it compiles."""
    return "".join(_LATEX.get(c, c if c.isascii() or (c.isalpha() and ord(c) < 0x180) else "?") for c in text)


def latex(matrix: Matrix, results: list[CellResult], facts: FactsByDataset) -> str:
    r"""Return a document that compiles alone; each `table` in it can be pasted into a paper that loads booktabs."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs}",
        r"\begin{document}",
    ]
    for label, members in by_dataset(results).items():
        lines += _latex_table(matrix, label, members, facts[label])
    return "\n".join([*lines, r"\end{document}", ""])


def _latex_table(matrix: Matrix, label: str, members: list[CellResult], facts: DatasetFacts | None) -> list[str]:
    rows = table_rows(members)
    n_own, n_theirs = len(COLUMNS), len(PUBLISHED_COLUMNS)
    heads = ["", *(c.titled for c in COLUMNS), *(c.titled for c in PUBLISHED_COLUMNS)]
    caption = f"{matrix.name} on {label}: this run beside the {published().short}."
    return [
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3.5pt}",
        rf"\caption{{{_tex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * N_NUMBERS}}}",
        r"\toprule",
        rf" & \multicolumn{{{n_own}}}{{c}}{{this run}}",
        rf" & \multicolumn{{{n_theirs}}}{{c}}{{{_tex(published().short)}}} \\",
        rf"\cmidrule(lr){{2-{n_own + 1}}}\cmidrule(lr){{{n_own + 2}-{N_NUMBERS + 1}}}",
        _tex_line(heads),
        r"\midrule",
        *(_tex_line(cells) for cells in texts(rows)),
        r"\midrule",
        _tex_line(no_skill_texts(members)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\setlength{\parskip}{2pt}",
        *(f"{_tex(f'{row.method}: {row.hole}')}\\par" for row in rows if row.hole),
        *(f"{_tex(note)}\\par" for note in footnotes(matrix, members, facts)),
        r"\end{minipage}",
        r"\end{table}",
    ]


def _tex_line(cells: list[str]) -> str:
    return " & ".join(_tex(c) for c in cells) + r" \\"
