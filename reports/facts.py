"""What was run: the data set's sizes, settings, versions, times, failures. Read from the store, never computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.published import published

if TYPE_CHECKING:
    from bench.matrix import Cell, Matrix
    from bench.results import CellResult
    from bench.store import Store


@dataclass(frozen=True)
class DatasetFacts:
    """A data set as the report needs it.

    Attributes:
        label, sharing: its name and who may see its images.
        class_names, head, tail: names of the classes.
        n_images: images in train, val, test.
        train_counts: class → positives in train (observed labels).
        image_px: side of an image in pixels.
    """

    label: str
    sharing: str
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]
    n_images: dict[str, int]
    train_counts: dict[str, int]
    image_px: int

    def group(self, name: str) -> str:
        """Return `head`, `tail` or an empty string for a class."""
        return "head" if name in self.head else "tail" if name in self.tail else ""


def dataset_facts(cell: Cell, store: Store) -> DatasetFacts | None:
    """Return the facts of a cell's data set, or None where the store does not hold it and its split."""
    if not (store.has(cell.dataset) and store.has(cell.split)):
        return None
    table = cell.dataset.open(store.folder(cell.dataset))
    rows = cell.split.open(store.folder(cell.split))
    counts = np.nansum(table.labels[rows["train"]], axis=0)
    return DatasetFacts(
        label=cell.dataset.label,
        sharing=cell.dataset.sharing,
        class_names=table.class_names,
        head=table.head,
        tail=table.tail,
        n_images={part: len(found) for part, found in rows.items()},
        train_counts={name: int(n) for name, n in zip(table.class_names, counts, strict=True)},
        image_px=int(table.images.shape[-1]),
    )


def by_dataset(results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Return the results of each data set, in the matrix's order."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.cell.dataset.label, []).append(result)
    return groups


def by_method(results: Iterable[CellResult]) -> dict[str, list[CellResult]]:
    """Return the results of each method's label, in the matrix's order."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.cell.label, []).append(result)
    return groups


def span(numbers: Iterable[int]) -> str:
    """Return `40` for equal numbers, `12-40` for a range, `?` for none."""
    found = sorted(set(numbers))
    if not found:
        return "?"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def footnotes(
    matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None, with_published: bool = True
) -> list[str]:
    """Return what one data set's table must be read with, one sentence each."""
    settings = matrix.settings
    notes = [_images_note(matrix, results, facts)]
    listed = ", ".join(str(s) for s in settings.seeds)
    n = len(settings.seeds)
    seeds = f"Seeds {listed} (mean ± sd, n = {n})" if n > 1 else f"Seed {listed} alone: no spread is known"
    notes.append(f"{seeds}. {_PAIRED}")
    notes.extend(_fidelity_notes(results))
    notes.extend(_floor_notes(results))
    notes.extend(_score_notes(results))
    notes.append(f"Diffusion model: {settings.diffusion.folder}, {settings.diffusion.precision}.")
    if with_published:
        notes.append(f"{published().short.capitalize()} = {published().citation}: {published().setting}. {_COMPARE}")
    return notes


_PAIRED = (
    "At a seed every row has the same split, the same initialisation and the same order of the real images among "
    "themselves; synthetic images come in between, so batches differ."
)
_COMPARE = "Other data and another extractor: compare orders and differences between rows, not values."


def _images_note(matrix: Matrix, results: list[CellResult], facts: DatasetFacts | None) -> str:
    plan = f"{matrix.settings.augment.per_class} synthetic images per tail class asked for"
    if facts:
        sizes, parts = " / ".join(str(n) for n in facts.n_images.values()), " / ".join(facts.n_images)
        return f"{sizes} images ({parts}, split by patient) at {facts.image_px} px; {plan}."
    train = span(int(r.classifier["n_real"]) for r in results if r.classifier and r.classifier.get("n_real"))
    return f"{train} real training images; {plan}."


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


_MOST_LISTED = 8  # rows in a footnote


def _floor_notes(results: list[CellResult]) -> list[str]:
    """Return FID at the floor's n for the rows whose own n is another."""
    found = []
    for label, members in by_method(r for r in results if floor_differs(r) and not r.skip).items():
        pairs = [
            ((r.fidelity or {}).get("fid_tail_equal_n"), (r.fidelity or {}).get("fid_tail_floor")) for r in members
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            equal, floor = (float(np.mean(side)) for side in zip(*known, strict=True))
            found.append(f"{label} {equal:.4g} (floor {floor:.4g})")
    if not found:
        return []
    values = ", ".join(found) if len(found) <= _MOST_LISTED else "in the table beside FID"
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
        return ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return str(value)


def manifests(results: Iterable[CellResult], store: Store) -> list[dict[str, Any]]:
    """Return the manifests of every finished stage behind the cells, each once, inputs first."""
    from bench.stage import walk

    stages = walk([s for r in results for s in r.cell.targets])
    return [store.manifest(s) for s in stages if store.has(s)]


def wall_times(found: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Return (stage, how many were computed, seconds in all), longest first."""
    times: dict[str, list[float]] = {}
    for manifest in found:
        times.setdefault(manifest["stage"], []).append(float(manifest.get("seconds", 0)))
    rows = [(stage, len(seconds), sum(seconds)) for stage, seconds in times.items()]
    return sorted(rows, key=lambda row: -row[2])


def versions(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (library, version or versions) over the manifests."""
    seen: dict[str, set[str]] = {}
    for manifest in found:
        for name, version in manifest.get("versions", {}).items():
            seen.setdefault(name, set()).add(str(version))
    return [(name, ", ".join(sorted(values))) for name, values in sorted(seen.items())]


def code_states(results: Iterable[CellResult], store: Store) -> list[str]:
    """Return the commits that the cells' records name, else the checkout that writes the report."""
    from bench.record import git_state, read_record, record_folder

    records = [read_record(record_folder(store, r.cell)) for r in results]
    found = [r["git"] for r in records if r and r.get("git")] or [g for g in [git_state()] if g]
    texts = (f"{g['commit'][:12]}{', with uncommitted changes' if g.get('dirty') else ''}" for g in found)
    return list(dict.fromkeys(texts)) or ["not a git checkout"]


def holes(results: Iterable[CellResult]) -> list[tuple[str, str, str]]:
    """Return (cell, state, reason) for every cell whose numbers are not in the table."""
    rows = []
    for r in results:
        if r.skip:
            rows.append((r.cell.name, "skipped", r.skip))
        elif r.state != "done":
            rows.append((r.cell.name, r.state, str((r.failure or {}).get("error") or _NOT_DONE[r.state])))
    return rows


_NOT_DONE = {
    "running": "being computed now",
    "missing": "not run yet",
    "failed": "failed; the record holds no reason",
}
