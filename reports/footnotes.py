"""The footnotes of one data set's table, and what was chosen where the paper is silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.pipeline.key import content_of
from bench.pipeline.stage import walk
from bench.privacy.names import WITHHELD
from reports.few_patients import reference_note
from reports.published import published
from reports.run_facts import by_method, selection_rules, span, synthetic_notes

if TYPE_CHECKING:
    from bench.augment.method import Plan
    from bench.classifier.settings import ClassifierSettings
    from bench.diffusion.model import DiffusionModel
    from bench.matrix.matrix import Matrix
    from bench.results.cells import CellResult
    from reports.run_facts import DatasetFacts


def footnotes(
    matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None, with_published: bool = True
) -> list[str]:
    """Return the footnotes without which one data set's table cannot be read."""
    settings = matrix.settings
    counted = [r for r in results if r.counted]
    notes = [_images_note(matrix, results, facts)]
    listed = ", ".join(str(s) for s in settings.seeds)
    n = len(settings.seeds)
    seeds = (
        f"Seeds {listed} (the table shows mean ± sd, n = {n})"
        if n > 1
        else f"Only seed {listed}: the spread is not known"
    )
    own = _own_recipes(matrix)
    notes.append(f"{seeds}. {_PAIRED.format(rest=_LIKE_RECIPES if own else _ONE_RECIPE)}")
    if any(_draws_by_class(cell.row.classifier) for cell in matrix.cells):
        notes[-1] += _DRAWN
    if own:
        notes.append(_recipes_note(matrix, own))
    notes.append(_network_note(settings.classifier))
    notes.extend(_fidelity_notes(counted, facts))
    extractor = settings.fidelity.extractor
    if extractor.kind == "classifier" and extractor.seed is not None and any(r.fidelity for r in counted):
        notes.append(
            f"For all rows and seeds, that extractor is the baseline classifier trained with seed {extractor.seed}."
        )
    notes.extend(_floor_notes(counted))
    notes.extend(_score_notes(counted))
    notes.extend(_held_out_note(counted))
    if _draws_or_encodes(matrix):
        notes.append(_model_note(settings.diffusion))
    odd = [*(facts.notes if facts else ()), *synthetic_notes(results, facts)]
    notes.extend(f"Look at the images: {note}." for note in odd[:_MOST_LISTED])
    if len(odd) > _MOST_LISTED:
        notes.append(f"… and {len(odd) - _MOST_LISTED} more notes of this kind, in the records of the cells.")
    if with_published:
        notes.append(f"The {published().short} is {published().citation}: {published().setting}. {_COMPARE}")
    return notes


PATIENTS_UNKNOWN = " Patients are not known: images of one person may be in train and in test."
_PAIRED = "At a seed every row has the same split{rest}. Synthetic images come in between, so the batches differ."
_ONE_RECIPE = ", the same initialisation and the same order of the real images among themselves"
_LIKE_RECIPES = (
    ", and rows with the same classifier settings also the same initialisation and the same order of the real images "
    "among themselves"
)
_DRAWN = " Where images are drawn by class (sampler, retrain_head, balanced_mixup), the order depends on all of them."
_COMPARE = (
    "Its data and its extractor are others than those of this run: compare the order of rows and the differences "
    "between them, not values."
)


def _own_recipes(matrix: Matrix) -> list[tuple[list[str], dict[str, Any]]]:
    """Return (rows, classifier settings in which they differ from the matrix), one entry for each set of settings."""
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


def _draws_by_class(recipe: ClassifierSettings) -> bool:
    return recipe.sampler != "plain" or recipe.retrain_head > 0 or recipe.mix == "balanced_mixup"


def _recipes_note(matrix: Matrix, own: list[tuple[list[str], dict[str, Any]]]) -> str:
    base = matrix.settings.classifier.model_dump(mode="json")
    said = [
        f"{_rows(rows)} {'train' if len(rows) > 1 else 'trains'} with "
        + ", ".join(f"{name} {_plain(value)} (the matrix: {_plain(base[name])})" for name, value in chosen.items())
        for rows, chosen in own
    ]
    return f"Not all classifiers are trained in the same way: {'; '.join(said)}."


def _rows(labels: list[str]) -> str:
    return f"{'rows' if len(labels) > 1 else 'row'} {', '.join(labels)}"


def _network_note(settings: ClassifierSettings) -> str:
    start = "from random weights"
    if settings.weights is not None:
        start = f"its trunk from {_place(settings.weights, Path(settings.weights).name, settings)}"
    return f"Classifier: {settings.architecture}, {start}."


def _draws_or_encodes(matrix: Matrix) -> bool:
    """Return whether the images of some row come from the diffusion model, or from the latents of its VAE."""
    of_rows = {cell.label: cell for cell in matrix.cells}.values()
    return any(getattr(stage, "diffusion", None) is not None for c in of_rows for stage in walk([c.augmented]))


def _model_note(model: DiffusionModel) -> str:
    preset = f"preset {model.preset}, " if model.preset else ""
    said = Path(model.folder).name if Path(model.folder).is_absolute() else model.folder
    where = _place(model.folder, said, model)
    return f"Diffusion model: {preset}{where}, in {model.precision}, asked for '{model.prompt.template}'."


def _place(text: str, said: str, model: ClassifierSettings | DiffusionModel) -> str:
    """Return the name of weights and the beginning of their digest, or that their place is withheld."""
    if text.startswith(WITHHELD):
        return f"a place that is {text}"
    digest = next(iter(content_of(model).values()), None)
    return f"{said} (sha256 {digest[:8]}…)" if digest else said


def _images_note(matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None) -> str:
    plan = f"the matrix asks for {asked_for(matrix.settings.augment)}"
    if facts:
        sizes, parts = " / ".join(str(n) for n in facts.n_images.values()), " / ".join(facts.n_images)
        taken = f" ({facts.taken})" if facts.taken else ""
        head = f"{sizes} images ({parts}, {facts.split}) at {facts.image_px} px{taken}"
        return f"{head}; {plan}.{'' if facts.patients_known else PATIENTS_UNKNOWN}{_classes_note(facts)}"
    train = span(int(r.classifier["n_real"]) for r in results if r.classifier and r.classifier.get("n_real"))
    return f"{train} real training images; {plan}."


def asked_for(plan: Plan, tail: str = "each tail class") -> str:
    """Return how many images are to be made of which class; `tail` is what to call the tail classes."""
    images = f"{plan.per_class} synthetic {'image' if plan.per_class == 1 else 'images'} for {tail}"
    return images + (f", but for {', '.join(f'{name} {n}' for name, n in plan.counts.items())}" if plan.counts else "")


def _classes_note(facts: DatasetFacts) -> str:
    """Return the names of the head, medium and tail classes, or their number where there are too many to list."""
    medium, n = facts.medium, len(facts.medium)
    if len(facts.head) + n + len(facts.tail) > _MOST_CLASSES:
        between = f", {n} medium" if n else ""
        return f" There are {len(facts.head)} head{between} and {len(facts.tail)} tail classes."
    between = f" Medium classes: {', '.join(medium)}; methods see them as head." if n else ""
    return f" Head classes: {', '.join(facts.head)}.{between} Tail classes: {', '.join(facts.tail)}."


def _fidelity_notes(results: list[CellResult], facts: DatasetFacts | None) -> list[str]:
    found = [r.fidelity for r in results if r.fidelity]
    if not found:
        return []
    ids = sorted({str(f.get("metric_id")) for f in found if f.get("metric_id")})
    classes = [c for f in found for c in (f.get("per_class") or {}).values()]
    real = span(c["n_real"] for c in classes if c.get("n_real"))
    made = span(c["n_synthetic"] for c in classes if c.get("n_synthetic"))
    return [
        f"FID and KID are means over the tail classes of the distance between the real images that have the class "
        f"(n = {real}) and the images that were made for it (n = {made}), with the extractor {', '.join(ids)}. FID is "
        f"biased with so few images: compare {_how_to_read(found)}{_floor_spread(found)}"
        f"{_left_out(found)}{_OF_ALL if any(r.cell.augmented.plan.counts for r in results) else ''}",
        *reference_note(results, facts.tail if facts else None),
    ]


_OF_ALL = " These n are of all classes that images were made for."


def _how_to_read(found: list[dict[str, Any]]) -> str:
    """Return what to compare FID with: its floor, or the other rows alone where there is no floor, and why."""
    measured = [c for f in found for c in (f.get("per_class") or {}).values() if c.get("fid") is not None]
    if measured and not any(c.get("n_floor") for c in measured):
        return (
            "rows of equal n, and read it together with KID. It has no floor, because the extractor was trained on the "
            "train images and all other real images are the reference (`fidelity.reference: test` leaves those of val "
            "for a floor)."
        )
    floor = span(n for c in measured if (n := c.get("n_floor")))
    other = f"its floor, which is the FID between real images and other real images (n = {floor})"
    return f"it with {other}, and read it together with KID."


def _left_out(found: list[dict[str, Any]]) -> str:
    """Return which classes have no distance and are therefore missing in its mean over the tail."""
    made = [f.get("per_class") or {} for f in found if f.get("n_synthetic")]
    names = ", ".join(sorted({name for classes in made for name, c in classes.items() if c.get("fid") is None}))
    return f" Classes of fewer than two images on a side are not in these means: {names}." if names else ""


def _floor_spread(found: list[dict[str, Any]]) -> str:
    """Return by how much the floor of the tail varies with the real images that are drawn for it."""
    known = sorted({(f["fid_tail_floor_spread"], f["floor_draws"]) for f in found if f.get("fid_tail_floor_spread")})
    if not known:
        return ""
    spreads = dict.fromkeys(f"{spread:.3g}" for spread, _ in (known[0], known[-1]))
    return (
        f" The floor is the mean over {known[0][1]} draws of these other images; a single draw misses it by "
        f"{' to '.join(spreads)} (sd)."
    )


def floor_differs(result: CellResult) -> bool:
    """Return whether some class has another number of images in its floor than in its FID.

    FID falls as the number of images grows, so the two are not comparable then.
    """
    classes = ((result.fidelity or {}).get("per_class") or {}).values()
    return any(c.get("n_floor") and c["n_floor"] != c.get("n_synthetic") for c in classes)


_MOST_CLASSES = 20  # that a footnote names
_MOST_LISTED = 8  # different values that a footnote lists


def _floor_notes(results: list[CellResult]) -> list[str]:
    """Return the FID of as many images as the floor has, for the rows that have made another number of images."""
    found: dict[str, list[str]] = {}  # rows that share their images share their distances
    for label, members in by_method(r for r in results if floor_differs(r)).items():
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
        "There are too few real images for a floor with as many images as were made. FID of as many synthetic images "
        f"as the floor has: {values}."
    ]


def _score_notes(results: list[CellResult]) -> list[str]:
    found = [r.scores for r in results if r.scores]
    if not found:
        return []
    n = span(int(s["n_test"]) for s in found if s.get("n_test"))
    return [
        f"mAP is the macro average precision on {n} test images, over observed labels. "
        f"{_checkpoint(selection_rules(results))} “No skill” is the mean prevalence of the classes, which equal scores "
        "for all images reach. Random scores reach more where a class has few positives."
        f"{_test_noise(found, _NOISE)}"
    ]


def _checkpoint(rules: list[str]) -> str:
    best = [rule for rule in rules if rule != "last"]
    if rules and not best:
        return "The checkpoint is that of the last step (`selection: last`); none was chosen on the validation images."
    last = "; with `selection: last` it is that of the last step" if "last" in rules else ""
    rule = ", ".join(best) or "a rule that is not recorded"
    return f"The checkpoint was chosen on the validation images by {rule}{last}."


def _held_out_note(results: list[CellResult]) -> list[str]:
    """Return the sentences on what held-out pairs do to test, or nothing."""
    found = [r.scores for r in results if r.scores and r.scores.get("held_out_pairs")]
    if not found:
        return []
    pairs = "; ".join(" + ".join(pair["ap"]) for pair in found[0]["held_out_pairs"].values())
    n, n_patients, n_moved = (
        span(s[name] for s in found)
        for name in ("n_held_out_images", "n_held_out_patients", "n_images_of_held_out_patients")
    )
    drawn = [{"patients_known": s.get("patients_known", True)} | s.get("held_out", {}) for s in found]
    noise = {f"{key}_{group}": f"{said} {group}" for group in ("head", "tail") for key, said in _PAIR_NOISE.items()}
    with_all = f", with all {n_moved} images of their {n_patients} patients" if found[0].get("patients_known") else ""
    return [
        f"No image of train or val has both findings of a held-out pair ({pairs}). The {n} images that have both are "
        f"in test{with_all}, so no number on test can be compared with that of a split without held-out pairs. "
        f"Synthetic images may have both.{_test_noise(drawn, noise)}"
    ]


_NOISE = {"map_tail": "tail mAP", "accuracy_tail": "tail top-1 accuracy", "accuracy_all": "top-1 accuracy"}
_PAIR_NOISE = {"ap": "held-out AP", "gap": "seen − held-out AP"}


def _test_noise(scores: list[dict[str, Any]], said: Mapping[str, str]) -> str:
    """Return by how much scores of the rows change when the test patients (or images) are drawn again.

    Args:
        scores: a mapping for each cell, with `<name>_low`, `<name>_high` and `n_bootstrap`.
        said: name of a score → what to call it. Scores without an interval are left out.
    """
    widths = [
        f"the {words} of a row changes by {w}" for name, words in said.items() if (w := _half_width(scores, name))
    ]
    if not widths:
        return ""
    first, *others = widths
    told = "; ".join([first, *(text.replace(" of a row changes", "") for text in others)])
    times = span(s["n_bootstrap"] for s in scores if "n_bootstrap" in s)
    units = "patients" if scores[0].get("patients_known", True) else "images"
    return f" When the test {units} are drawn again ({times} times), {told} (95 %)."


def _half_width(scores: list[dict[str, Any]], name: str) -> str:
    """Return half the width of the intervals of a score, least to greatest; an empty text if there is none."""
    ends = [(s.get(f"{name}_low"), s.get(f"{name}_high")) for s in scores]
    half = sorted((high - low) / 2 for low, high in ends if low is not None and high is not None)
    if not half:
        return ""
    return f"±{half[0]:.3f}" if f"{half[0]:.3f}" == f"{half[-1]:.3f}" else f"±{half[0]:.3f} to ±{half[-1]:.3f}"


def left_open(matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None) -> list[tuple[str, str]]:
    """Return (what the paper does not say, what was chosen here) for every choice that the settings or results hold."""
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
    """Return the different values at `path`; there are several where the rows differ in it."""
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
