"""The page of a sweep: the trials, the Pareto front, what decides, the costs, and what fresh seeds left of the gain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from reports.beside_fid import TextTable
from reports.figures.search import Search, Trial, Value, search_figures
from reports.figures.style import Omitted, Saved, save
from reports.page import duration, environment
from reports.table_rows import MISSING, number
from reports.text import md, md_table

_PLACES = 4  # decimals of a metric


def write_sweep_page(
    search: Search, description: str, confirmation: TextTable | None, said: Sequence[str], out: Path
) -> list[Path]:
    """Write `sweep.html` and `figures/` into a folder, which is created if it is missing; return the files, page first.

    Args:
        search: the sweep.
        description: what the sweep asks, as its file says.
        confirmation: the rows that were trained again with fresh seeds, or None.
        said: sentences for the top of the page.
        out: the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = [item if isinstance(item, Omitted) else save(item, out / "figures") for item in search_figures(search)]
    page = (
        environment()
        .get_template("sweep.html.j2")
        .render(
            search=search,
            description=description,
            glance=[*_glance(search), *said],
            confirmation=confirmation,
            front=_front(search),
            drawn=[item for item in drawn if isinstance(item, Saved)],
            omitted=[item for item in drawn if isinstance(item, Omitted)],
            trials=_table("All trials", search.trials, search),
        )
    )
    (out / "sweep.html").write_text(page, encoding="utf-8")
    return [out / "sweep.html", *(file for item in drawn if isinstance(item, Saved) for file in item.files)]


def sweep_markdown(search: Search, confirmation: TextTable | None, said: Sequence[str]) -> str:
    """Return the tables of a sweep's page as Markdown, with what is said above them; see `write_sweep_page`."""
    lines = [f"# {md(search.name)}", "", *(f"- {md(fact)}" for fact in [*_glance(search), *said]), ""]
    tables = [confirmation, _front(search), _table("All trials", search.trials, search)]
    for table in filter(None, tables):
        lines += [f"## {md(table.title)}", "", *md_table(table.headings, table.lines)]
    return "\n".join(lines)


def _front(search: Search) -> TextTable | None:
    """Return the trials that no other trial beats in every objective; None if there is one objective."""
    front = [t for t in search.done if t.number in search.pareto]
    return _table("Pareto front", front, search) if len(search.objectives) > 1 and front else None


def _glance(search: Search) -> list[str]:
    """Return the few facts to start from."""
    counts = [(sum(t.state == state for t in search.trials), state) for state in ("done", "pruned", "failed")]
    told = ", ".join(f"{n} {state}" for n, state in counts if n)
    said = [f"{len(search.trials)} trials: {told or 'none has ended'}."]
    best = next((t for t in search.trials if t.number == search.best), None)
    if best is not None:
        metric, direction = next(iter(search.objectives.items()))
        settings = ", ".join(f"{name} {_shown(value)}" for name, value in best.params.items())
        word = "highest" if direction == "maximize" else "lowest"
        said.append(f"Trial {best.number} has the {word} {metric}, {number(best.values[metric], _PLACES)}: {settings}.")
        said.append("The best of many trials is partly the luckiest, so its number here is too good.")
    took = [t.seconds for t in search.trials if t.seconds is not None]
    if took:
        said.append(
            f"The trials took {duration(sum(took))} in all, {duration(median(took))} in the middle. Stages that trials "
            "share were computed once; trials that were measured together share their time."
        )
    return said


def _table(title: str, trials: Sequence[Trial], search: Search) -> TextTable:
    names = list(dict.fromkeys(name for t in search.trials for name in t.params))
    lines = [
        [
            f"{t.number}{' (best)' if t.number == search.best else ''}",
            *(number(t.values.get(metric), _PLACES) for metric in search.objectives),
            *(_shown(t.params[name]) if name in t.params else MISSING for name in names),
            MISSING if t.seconds is None else duration(t.seconds),
            t.state,
        ]
        for t in trials
    ]
    return TextTable(title, ["trial", *search.objectives, *names, "time", "state"], lines, [])


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
