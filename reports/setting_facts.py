"""The facts that a table cannot be read without: what is compared, on which images, seeds, extractor and controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.footnotes import asked_for
from reports.run_facts import span
from reports.text import joined

if TYPE_CHECKING:
    from reports.paper_table import Part

_MOST_CONTROLS = 3  # that a line names


def setting_facts(part: Part) -> list[tuple[str, str]]:
    """Return (what, one short sentence) for one data set; the page shows them below the table, never folded."""
    facts = [
        ("Compared", _compared(part)),
        ("Images", _images(part)),
        ("Seeds", _seeds(part)),
        ("FID and KID", _extractor(part)),
        ("Control", _control(part)),
    ]
    return [(what, text) for what, text in facts if text]


def _compared(part: Part) -> str:
    recipes = [cell.row.classifier for cell in part.matrix.cells if cell.dataset.label == part.label]
    networks = " or ".join(dict.fromkeys(recipe.architecture for recipe in recipes))
    n = len(part.rows)
    rows = "One row" if n == 1 else f"{n} rows"
    return f"{rows}. Each row trains a {networks} on the same real images and on the images that its method makes."


def _images(part: Part) -> str:
    plan, facts = part.matrix.settings.augment, part.facts
    if facts is None:
        return f"{asked_for(plan)}."
    sizes = joined([f"{n} {name}" for name, n in facts.n_images.items()])
    tail = f"each of the {len(facts.tail)} tail classes" if len(facts.tail) > 1 else "the tail class"
    return f"{sizes} images of {facts.image_px} px, {facts.split}; {asked_for(plan, tail)}."


def _seeds(part: Part) -> str:
    seeds = part.matrix.settings.seeds
    if len(seeds) == 1:
        return f"Seed {seeds[0]} alone, so the spread over seeds is not known."
    return f"{joined([str(seed) for seed in seeds])}. The table shows the mean ± standard deviation over them."


def _extractor(part: Part) -> str:
    """Return what measured the images and how many there are on each side; empty before any is measured."""
    found: list[dict[str, Any]] = [r.fidelity for r in part.counted if r.fidelity]
    ids = sorted({str(f["metric_id"]) for f in found if f.get("metric_id")})
    if not ids:
        return ""
    classes = [c for f in found for c in (f.get("per_class") or {}).values()]
    real, made = (span(c[key] for c in classes if c.get(key)) for key in ("n_real", "n_synthetic"))
    of_all = any(r.cell.augmented.plan.counts for r in part.counted)
    each = "class that images were made for" if of_all else "tail class"
    sides = f", between {real} real and {made} synthetic images of each {each}" if made != "?" else ""
    return f"Extractor {joined(ids)}{sides}."


def _control(part: Part) -> str:
    controls = list(dict.fromkeys(e.control for e in part.effects))
    if not controls:
        return f"{joined(part.controls)}, with which no row can be compared yet." if part.controls else ""
    if len(controls) > _MOST_CONTROLS:
        return (
            f"{len(controls)} rows; each row is compared with the one that the matrix names for it, at the same seed."
        )
    if len(controls) == 1:
        return f"{controls[0]}: the other rows are compared with it at the same seed."
    return f"{joined(controls)}: the other rows are compared with them at the same seed."
