"""What one data set's table must be read with, and what was chosen where the paper is silent, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.pipeline.key import content_of
from bench.privacy.names import WITHHELD
from reports.published import published
from reports.run_facts import by_method, span

if TYPE_CHECKING:
    from bench.classifier.settings import ClassifierSettings
    from bench.diffusion.model import DiffusionModel
    from bench.matrix.matrix import Matrix
    from bench.results.cells import CellResult
    from reports.run_facts import DatasetFacts


def footnotes(
    matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None, with_published: bool = True
) -> list[str]:
    """Return what one data set's table must be read with, one sentence each."""
    settings = matrix.settings
    notes = [_images_note(matrix, results, facts)]
    listed = ", ".join(str(s) for s in settings.seeds)
    n = len(settings.seeds)
    seeds = f"Seeds {listed} (mean ± sd, n = {n})" if n > 1 else f"Seed {listed} alone: no spread is known"
    own = _own_recipes(matrix)
    notes.append(f"{seeds}. {_PAIRED.format(rest=_LIKE_RECIPES if own else _ONE_RECIPE)}")
    if own:
        notes.append(_recipes_note(matrix, own))
    notes.append(_network_note(settings.classifier))
    notes.extend(_fidelity_notes(results))
    extractor = settings.fidelity.extractor
    if extractor.kind == "classifier" and extractor.seed is not None and any(r.fidelity for r in results):
        notes.append(f"That extractor is the baseline trained with seed {extractor.seed}, for all rows and seeds.")
    notes.extend(_floor_notes(results))
    notes.extend(_score_notes(results))
    notes.append(_model_note(settings.diffusion))
    if with_published:
        notes.append(f"{published().short.capitalize()} = {published().citation}: {published().setting}. {_COMPARE}")
    return notes


_PAIRED = "At a seed every row has the same split{rest}; synthetic images come in between, so batches differ."
_ONE_RECIPE = ", the same initialisation and the same order of the real images among themselves"
_LIKE_RECIPES = (
    ", and rows with the same classifier settings also the same initialisation and the same order of the real images "
    "among themselves"
)
_COMPARE = "Other data and another extractor: compare orders and differences between rows, not values."


def _own_recipes(matrix: Matrix) -> list[tuple[list[str], dict[str, Any]]]:
    """Return (rows, classifier settings in which they differ from the matrix), rows that differ alike together."""
    base = matrix.settings.classifier.model_dump(mode="json")
    found: list[tuple[list[str], dict[str, Any]]] = []
    for label, row in {cell.label: cell.row for cell in matrix.cells}.items():
        own = {k: v for k, v in row.classifier.model_dump(mode="json").items() if v != base[k]}
        rows = next((rows for rows, known in found if known == own), None)
        if rows is not None:
            rows.append(label)
        elif own:
            found.append(([label], own))
    return found


def _recipes_note(matrix: Matrix, own: list[tuple[list[str], dict[str, Any]]]) -> str:
    base = matrix.settings.classifier.model_dump(mode="json")
    said = [
        f"{_rows(rows)} {'train' if len(rows) > 1 else 'trains'} with "
        + ", ".join(f"{name} {_plain(value)} (the matrix: {_plain(base[name])})" for name, value in chosen.items())
        for rows, chosen in own
    ]
    return f"Not all classifiers are trained alike: {'; '.join(said)}."


def _rows(labels: list[str]) -> str:
    return f"{'rows' if len(labels) > 1 else 'row'} {', '.join(labels)}"


def _network_note(settings: ClassifierSettings) -> str:
    start = "from random weights"
    if settings.weights is not None:
        start = f"its trunk from {_place(settings.weights, Path(settings.weights).name, settings)}"
    return f"Classifier: {settings.architecture}, {start}."


def _model_note(model: DiffusionModel) -> str:
    preset = f"preset {model.preset}, " if model.preset else ""
    where = _place(model.folder, model.folder, model)
    return f"Diffusion model: {preset}{where}, {model.precision}, asked for '{model.prompt.template}'."


def _place(text: str, said: str, model: ClassifierSettings | DiffusionModel) -> str:
    """Return what weights are called and the beginning of their digest; where they lie is not always said."""
    if text.startswith(WITHHELD):
        return f"a place that is {text}"
    digest = next(iter(content_of(model).values()), None)
    return f"{said} (sha256 {digest[:8]}…)" if digest else said


def _images_note(matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None) -> str:
    plan = f"{matrix.settings.augment.per_class} synthetic images per tail class asked for"
    if facts:
        sizes, parts = " / ".join(str(n) for n in facts.n_images.values()), " / ".join(facts.n_images)
        split = "the data set's own split" if facts.official else "split by patient"
        taken = f" ({facts.taken})" if facts.taken else ""
        head = f"{sizes} images ({parts}, {split}) at {facts.image_px} px{taken}"
        return f"{head}; {plan}.{_classes_note(facts)}"
    train = span(int(r.classifier["n_real"]) for r in results if r.classifier and r.classifier.get("n_real"))
    return f"{train} real training images; {plan}."


def _classes_note(facts: DatasetFacts) -> str:
    """Return which classes are head and tail, where they are few enough to be listed."""
    if len(facts.head) + len(facts.tail) > _MOST_CLASSES:
        return f" {len(facts.head)} classes are head, {len(facts.tail)} are tail."
    return f" Head: {', '.join(facts.head)}; tail: {', '.join(facts.tail)}."


def _fidelity_notes(results: list[CellResult]) -> list[str]:
    found = [r.fidelity for r in results if r.fidelity]
    if not found:
        return []
    ids = sorted({str(f.get("metric_id")) for f in found if f.get("metric_id")})
    classes = [c for f in found for c in (f.get("per_class") or {}).values()]
    real = span(c["n_real"] for c in classes if c.get("n_real"))
    made = span(c["n_synthetic"] for c in classes if c.get("n_synthetic"))
    floor = span(c["n_floor"] for c in classes if c.get("n_floor"))
    return [
        f"FID and KID: mean over the tail classes of the distance between real images having the class (n = {real}) "
        f"and images made for it (n = {made}); extractor {', '.join(ids)}. FID is biased at such n: "
        f"read it against the floor, real against real images at n = {floor}, and beside KID."
    ]


def floor_differs(result: CellResult) -> bool:
    """Return whether a class's floor is of fewer images than its FID is, so that the two do not compare."""
    classes = ((result.fidelity or {}).get("per_class") or {}).values()
    return any(c.get("n_floor") and c["n_floor"] != c.get("n_synthetic") for c in classes)


_MOST_CLASSES = 20  # named in a footnote
_MOST_LISTED = 8  # different values in a footnote


def _floor_notes(results: list[CellResult]) -> list[str]:
    """Return FID at the floor's n for the rows whose own n is another."""
    found: dict[str, list[str]] = {}  # rows that share their images share their distances
    for label, members in by_method(r for r in results if floor_differs(r) and not r.skip).items():
        pairs = [
            ((r.fidelity or {}).get("fid_tail_equal_n"), (r.fidelity or {}).get("fid_tail_floor")) for r in members
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            equal, floor = (float(np.mean(side)) for side in zip(*known, strict=True))
            found.setdefault(f"{equal:.4g} (floor {floor:.4g})", []).append(label)
    if not found:
        return []
    listed = [f"{', '.join(labels)} {figures}" for figures, labels in found.items()]
    more = sum(len(labels) for labels in list(found.values())[_MOST_LISTED:])
    values = "; ".join([*listed[:_MOST_LISTED], *([f"… and {more} more in table.csv"] if more else [])])
    return [
        "The real images do not suffice for a floor at the number of images made. FID of as many synthetic images as "
        f"the floor has: {values}."
    ]


def _score_notes(results: list[CellResult]) -> list[str]:
    found = [r.scores for r in results if r.scores]
    if not found:
        return []
    rules = ", ".join(sorted({str(s["selection"]) for s in found if s.get("selection")}))
    n = span(int(s["n_test"]) for s in found if s.get("n_test"))
    return [
        f"mAP: macro average precision on {n} test images (observed labels); "
        f"checkpoint chosen on val by {rules or 'an unrecorded rule'}. No skill = mean prevalence of the classes."
        f"{_test_noise(found)}"
    ]


def _test_noise(scores: list[dict[str, Any]]) -> str:
    """Return how far the tail mAP moves when the test patients are drawn anew, over the rows."""
    known = [s for s in scores if s.get("map_tail_low") is not None and s.get("map_tail_high") is not None]
    if not known:
        return ""
    half = sorted((s["map_tail_high"] - s["map_tail_low"]) / 2 for s in known)
    widths = f"±{half[0]:.3f}" if f"{half[0]:.3f}" == f"{half[-1]:.3f}" else f"±{half[0]:.3f} to ±{half[-1]:.3f}"
    return f" Test patients drawn anew ({known[0]['n_bootstrap']} times) move a row's tail mAP by {widths} (95 %)."


def left_open(matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None) -> list[tuple[str, str]]:
    """Return (what the paper does not say, what was chosen here) for every choice that can be read back."""
    methods: dict[str, list[Any]] = {}
    for cell in matrix.cells:
        methods.setdefault(cell.method.name, []).append(cell.method.model_dump(mode="json"))
    tree: dict[str, Any] = {"settings": matrix.settings.model_dump(mode="json"), "methods": methods}
    own = [f"{_rows(rows)}: {_named(chosen)}" for rows, chosen in _own_recipes(matrix)]
    tree["recipe"] = _plain(tree["settings"]["classifier"]) + (f" ({'; '.join(own)})" if own else "")
    tree["fidelity"] = next((r.fidelity for r in results if r.fidelity), {})
    if facts:
        images = " / ".join(str(n) for n in facts.n_images.values())
        tree["dataset"] = {"head": facts.head, "tail": facts.tail, "images": images}
    chosen = [(what, _lookup(tree, path.split("."))) for what, path in published().left_open]
    return [(what, " or ".join(_plain(v) for v in values)) for what, values in chosen if values]


def _lookup(tree: Any, path: list[str]) -> list[Any]:
    """Return the different values at `path`; where rows differ in it, there are several."""
    if isinstance(tree, list) and path:
        found = [value for item in tree for value in _lookup(item, path)]
        return [v for i, v in enumerate(found) if v not in found[:i]]
    if not path:
        return [] if tree is None else [tree]
    return _lookup(tree.get(path[0]), path[1:]) if isinstance(tree, dict) else []


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _named({k: v for k, v in value.items() if v is not None})
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return str(value)


def _named(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in chosen.items())
