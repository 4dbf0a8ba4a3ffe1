"""The page: one HTML file that holds all it shows. It can be read offline, in light and dark, and on paper."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports import run_facts as read
from reports.beside_fid import TextTable, diagnostics
from reports.beside_map import beside_tables
from reports.differences import MAIN, Effect, by_chance, notes
from reports.effects import columns_of, grid, marks
from reports.few_patients import marked
from reports.figures.style import Omitted, Saved
from reports.footnotes import left_open
from reports.published import published
from reports.setting_facts import setting_facts
from reports.short_verdicts import too_few_seeds, verdict_lines
from reports.statistics import ALPHA, holm
from reports.table_rows import COLUMNS, MISSING, decimals, mean_sd, no_skill, number

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench.results.cells import CellResult
    from bench.store.store import Store
    from reports.paper_table import Part
    from reports.redaction import ReportInput
    from reports.run_facts import DatasetFacts

TEMPLATES = Path(__file__).parent / "templates"
_MOST_COLUMNS = 8  # of numbers beside each other, so that a table fits a window 1280 pixels wide
_MOST_PAIRS = 7  # columns that hold two numbers


def page(
    made_of: ReportInput,
    store: Store,
    parts: list[Part],
    drawn: dict[str, list[Saved | Omitted]],
    settings: str,
) -> str:
    """Return the report as one HTML text.

    Args:
        made_of: the matrix and its cells, finished or not.
        store: read for manifests and records.
        parts: the tables of its data sets.
        drawn: data set → its figures.
        settings: the resolved matrix as YAML.
    """
    matrix, results = made_of.matrix, made_of.results
    manifests = read.manifests(made_of.originals, store)
    times = read.wall_times(manifests)
    context = {
        "matrix": matrix,
        "n_done": sum(r.measured for r in results),
        "n_cells": len(results),
        "finished": max((m["finished"] for m in manifests if m.get("finished")), default=None),
        "rows": list(dict.fromkeys(c.label for c in matrix.cells)),
        "sections": [_section(part, drawn[part.label]) for part in parts],
        "for_sharing": made_of.for_sharing,
        "credentialed": sorted(made_of.credentialed),
        "derived": sorted(made_of.hidden - made_of.credentialed),
        "settings": settings,
        "times": [(stage, n, duration(seconds)) for stage, n, seconds in times],
        "total_time": duration(sum(seconds for _, _, seconds in times)),
        "hosts": made_of.hosts({str(m["host"]) for m in manifests if m.get("host")}),
        "devices": sorted({str(m["device"]) for m in manifests if m.get("device")}),
        "versions": read.versions(manifests),
        "code": read.code_states(made_of.originals, store),
        "holes": read.holes(results),
        "published": published(),
    }
    return environment().get_template("report.html.j2").render(context)


def table_page(made_of: ReportInput, parts: list[Part]) -> str:
    """Return the table alone, with its footnotes, as one HTML text."""
    sections = [_section(part, []) for part in parts]
    return (
        environment()
        .get_template("table.html.j2")
        .render(
            matrix=made_of.matrix,
            sections=sections,
            published=published(),
            for_sharing=made_of.for_sharing,
            credentialed=sorted(made_of.credentialed),
            derived=sorted(made_of.hidden - made_of.credentialed),
        )
    )


def environment() -> Environment:
    """Return the templates' environment. Text is escaped, and a name that a template lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["css"] = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    # An arrow alone on a line would look like a mark of its own.
    environment.filters["one_line_arrow"] = lambda heading: heading.replace(" ↑", "\u00a0↑").replace(" ↓", "\u00a0↓")
    return environment


def duration(seconds: float) -> str:
    """Return `8.1 s`, `3 min 05 s` or `2 h 04 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _section(part: Part, drawn: list[Saved | Omitted]) -> dict[str, Any]:
    """Return everything that one data set's part of the page shows."""
    results, rows = part.counted, part.rows
    *lines, level = part.lines
    compared = [e for e in part.effects if e.column.key == MAIN]
    return {
        "label": part.label,
        "facts": setting_facts(part),
        "glance": [*glance(part), *part.few_note, *settled(part.effects)],
        "layout": part.layout,
        "rows": list(zip(rows, lines, strict=True)),
        "no_skill": level,
        "too_few_seeds": too_few_seeds(compared),
        "verdict_lines": marked(verdict_lines(compared), part.few),
        "verdicts": part.verdicts,
        "verdict_notes": part.verdict_notes,
        "notes": part.notes,
        "effects": _effects(part),
        "tables": [*beside_tables(results), *blocks_of(diagnostics(results))],
        "left_open": left_open(part.matrix, results, part.facts) if part.with_published else [],
        "figures": [f for f in drawn if isinstance(f, Saved)],
        "omitted": [f for f in drawn if isinstance(f, Omitted)],
        "classes": _class_table(results, part.facts),
        "fidelity": _fidelity_table(results, decimals(COLUMNS[0], rows)),
    }


def blocks_of(table: TextTable | None) -> list[TextTable]:
    """Return a table as several that are narrow enough, each with the names of the rows; the last has the notes."""
    if table is None:
        return []
    found = [
        replace(
            table,
            headings=[table.headings[0], *(table.headings[1 + i] for i in block)],
            lines=[[line[0], *(line[1 + i] for i in block)] for line in table.lines],
            notes=[],
        )
        for block in blocks(len(table.headings) - 1, _MOST_COLUMNS)
    ]
    return [*found[:-1], replace(found[-1], notes=table.notes)]


def blocks(n_columns: int, most: int) -> list[range]:
    """Return the places of columns in as few blocks of at most `most` as it takes, all about as wide as each other.

    A table with a column for each method is as wide as the matrix is long. Blocks of columns, one below the other,
    keep it from scrolling sideways, which hides numbers that a reader wants to compare.
    """
    n = -(-n_columns // most)
    bounds = [i * n_columns // n for i in range(n + 1)] if n else []
    return [range(start, end) for start, end in itertools.pairwise(bounds)]


def glance(part: Part) -> list[str]:
    """Return the few facts to start from, one sentence each; none of them ranks rows beyond what the seeds allow."""
    said, rows = [], part.rows
    scored = [r for r in rows if r.values["map_tail"] is not None]
    if scored:
        best = max(scored, key=lambda r: r.values["map_tail"] or 0.0)
        level = number(no_skill(part.counted)["map_tail"], 3)
        controls = [r for r in scored if r.method in part.controls and r is not best]
        beside = [f"{r.method} {number(r.values['map_tail'], 3)}" for r in controls]
        value = number(best.values["map_tail"], 3, best.sds["map_tail"])
        said.append(f"{best.method} has the highest tail mAP, {value} ({', '.join([*beside, f'no skill {level}'])}).")
    # A control that copies real images is near to them by construction, which is no finding.
    measured = [r for r in rows if r.values["fid_tail"] is not None and r.method not in part.controls]
    if measured:
        near = min(measured, key=lambda r: r.values["fid_tail"] or 0.0)
        places = decimals(COLUMNS[0], rows)
        floor = near.values["fid_tail_floor"]
        of_real = f" (real images against other real images: {number(floor, places)})" if floor is not None else ""
        said.append(f"{near.method} has the lowest tail FID, {number(near.values['fid_tail'], places)}{of_real}.")
    if said and max(r.n_seeds for r in rows) == 1:
        said.append("There is only one seed, so small differences between rows may be noise.")
    return said


def settled(effects: Sequence[Effect]) -> list[str]:
    """Return the sentence that says which differences in the main column have a small p, or nothing with one seed.

    Whoever ranks rows needs it: it also says how many are expected by chance alone, and which remain after Holm's
    correction within the column.
    """
    main = [e for e in effects if e.column.key == MAIN and e.estimate.source == "seeds" and e.estimate.n > 1]
    if not main:
        return []
    adjusted = zip(main, holm([1.0 if e.estimate.p is None else e.estimate.p for e in main]), strict=True)
    beyond = [(f"{e.row} {e.verdict} than {e.control}", p) for e, p in adjusted if e.verdict in ("higher", "lower")]
    expected, most = by_chance(main), max(e.estimate.n for e in main)
    chance = (
        f"at most {expected:.2g} of them are expected by chance alone"
        if expected
        else f"{most} seeds or fewer cannot give p < 0.05"
    )
    said = (
        f"{len(beyond)} of {len(main)} differences in {main[0].column.heading} {'has' if len(beyond) == 1 else 'have'} "
        f"p < {ALPHA} and an interval that leaves out zero, not corrected for their number ({chance})"
    )
    if not beyond:
        return [f"{said}. This does not show that the rows are equal: their order remains open."]
    kept = [words for words, p in beyond if p < ALPHA]
    compared = "this comparison" if len(main) == 1 else f"these {len(main)} comparisons"
    return [
        f"{said}: {'; '.join(words for words, _ in beyond)}. "
        f"What remains after Holm's correction for {compared}: {'; '.join(kept) or 'nothing'}."
    ]


def _effects(part: Part) -> dict[str, Any] | None:
    """Return the table of effects, in which a cell is a difference and its interval."""
    if not part.effects:
        return None
    lines = [(e.row, e.control, e.estimate.n, [c.split("\n") for c in cells]) for e, cells in grid(part.effects)]
    there = [e.estimate for e in part.effects]
    beside = ["with p"] if any(e.p is not None for e in there) else []
    beside += ["with the 95 % interval below it"] if any(e.low is not None for e in there) else []
    return {
        "what": ", ".join(["the row minus its control at the same seed", *beside]),
        "columns": columns_of(part.effects),
        "lines": lines,
        "notes": [*notes(part.effects), *marks(part.effects)],
    }


def _class_table(results: list[CellResult], facts: DatasetFacts | None) -> dict[str, Any] | None:
    """Return AP for each class and method (mean over seeds), with the positives in train and the prevalence in test."""
    scored = read.by_method(r for r in results if r.scores)
    if not scored:
        return None
    every = [r.scores or {} for members in scored.values() for r in members]
    names = list(facts.class_names) if facts else list(every[0]["ap"])
    lines = [
        {
            "name": name,
            "group": facts.group(name) if facts else "",
            "n_train": facts.train_counts[name] if facts else MISSING,
            "n_test": _average([s.get("n_positives", {}).get(name) for s in every], 0),
            "prevalence": _average([s["prevalence"].get(name) for s in every], 3),
            "ap": [_average([(r.scores or {})["ap"].get(name) for r in members], 3) for members in scored.values()],
        }
        for name in names
    ]
    order = {"head": 0, "medium": 1, "": 2, "tail": 3}
    lines.sort(key=lambda line: order[str(line["group"])])
    return {"methods": list(scored), "lines": lines, "blocks": blocks(len(scored), _MOST_COLUMNS)}


def _fidelity_table(results: list[CellResult], places: int) -> dict[str, Any] | None:
    """Return FID, the number of images on both sides and label fidelity of each class and method (means over seeds).

    FID has `places` decimals.
    """
    told = read.by_method(r for r in results if (r.fidelity or {}).get("per_class"))
    made = {m: members for m, members in told.items() if any((r.fidelity or {}).get("n_synthetic") for r in members)}
    measured = [r.fidelity or {} for members in made.values() for r in members]
    names = list(dict.fromkeys(c for f in measured for c in f["per_class"]))
    if not names:
        return None

    def of(members: list[CellResult], name: str, key: str, n: int) -> str:
        return _average([(r.fidelity or {})["per_class"].get(name, {}).get(key) for r in members], n)

    def seen(members: list[CellResult], name: str) -> str:
        return _average([((r.fidelity or {}).get("label_fidelity") or {}).get(name) for r in members], 2)

    first = next(iter(made.values()))
    lines = [
        {
            "name": name,
            "n_real": of(first, name, "n_real", 0),
            "n_synthetic": read.span(n for f in measured if (n := f["per_class"].get(name, {}).get("n_synthetic"))),
            "floor": _with_spread(of(first, name, "fid_floor", places), of(first, name, "fid_floor_spread", places)),
            "cells": [(of(members, name, "fid", places), seen(members, name)) for members in made.values()],
        }
        for name in names
    ]
    nearest = [_average([_nearest(r, "synthetic") for r in members], 3) for members in made.values()]
    held_out = _average([_nearest(r, "held_out") for members in made.values() for r in members], 3)
    has_labels = any(f.get("label_fidelity") for f in measured)
    return {
        "methods": list(made),
        "lines": lines,
        "blocks": blocks(len(made), _MOST_PAIRS if has_labels else _MOST_COLUMNS),
        "has_labels": has_labels,
        "nearest": nearest if held_out != MISSING else None,
        "nearest_held_out": held_out,
    }


def _with_spread(mean: str, spread: str) -> str:
    return mean if spread == MISSING else f"{mean} ± {spread}"


def _nearest(result: CellResult, side: str) -> float | None:
    """Return the median feature distance of a side's images to their nearest train image."""
    return ((result.fidelity or {}).get("nearest_train") or {}).get(side)


def _average(values: Iterable[float | None], places: int) -> str:
    return mean_sd(values, places, spread=False)
