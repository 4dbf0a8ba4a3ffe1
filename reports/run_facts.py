"""What was run: sizes of the data set, versions, times and failures. All of it is read from the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.census import in_words, table_notes
from bench.evaluation.grouped_scores import GroupedScores
from bench.privacy.names import plain_words

if TYPE_CHECKING:
    from bench.matrix.cell import Cell
    from bench.results.cells import CellResult
    from bench.store.store import Store


@dataclass(frozen=True)
class DatasetFacts:
    """The facts about a data set that the report shows.

    Attributes:
        label, sharing: its name and who may see its images.
        class_names, head, medium, tail: names of the classes; medium is empty unless the matrix has such a group.
        n_images: images in train, val, test.
        train_counts: class → positives in train (observed labels).
        image_px: side of an image in pixels.
        official: whether the data set itself says which images are train, val and test.
        patients_known: whether the data set knows which images are of one patient.
        taken: which part of its source is used, in words; empty where all of it is.
        notes: what is odd about its pictures, in counts.
    """

    label: str
    sharing: str
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]
    n_images: dict[str, int]
    train_counts: dict[str, int]
    image_px: int
    official: bool = False
    taken: str = ""
    notes: tuple[str, ...] = ()
    patients_known: bool = True
    medium: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """How the images were split, in words."""
        if self.official:
            return "the data set's own split"
        return f"split by {'patient' if self.patients_known else 'image'}"

    def group(self, name: str) -> str:
        """Return `head`, `medium`, `tail` or an empty string for a class."""
        groups = {"head": self.head, "medium": self.medium, "tail": self.tail}
        return next((group for group, names in groups.items() if name in names), "")


def dataset_facts(cell: Cell, store: Store, classes: Mapping[str, str] | None = None) -> DatasetFacts | None:
    """Return the facts about a cell's data set, or None if the store lacks it or its split.

    `classes` gives other names for classes; a class without one keeps its name.
    """
    if not (store.has(cell.dataset) and store.has(cell.split)):
        return None
    table = cell.dataset.open(store.folder(cell.dataset))
    rows = cell.split.open(store.folder(cell.split))
    counts = np.nansum(table.labels[rows["train"]], axis=0)
    part = np.full(len(table.labels), -1, np.int64)
    for i, found in enumerate(rows.values()):
        part[found] = i
    said = classes or {}
    scores = cell.scores
    medium = scores.medium(table, rows["train"]) if isinstance(scores, GroupedScores) else ()
    head_alone = [name for name in table.head if name not in medium]
    names, head, medium, tail = (
        tuple(said.get(n, n) for n in found) for found in (table.class_names, head_alone, medium, table.tail)
    )
    return DatasetFacts(
        label=cell.dataset.label,
        sharing=cell.dataset.sharing,
        class_names=names,
        head=head,
        medium=medium,
        tail=tail,
        n_images={part: len(found) for part, found in rows.items()},
        train_counts={name: int(n) for name, n in zip(names, counts, strict=True)},
        image_px=table.image_px,
        official=table.splits is not None,
        taken=plain_words(cell.dataset.selection_note()),
        notes=tuple(table_notes(store.folder(cell.dataset), table.labels, part)),
        patients_known=table.patients_known,
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


def synthetic_notes(results: Iterable[CellResult], facts: DatasetFacts | None) -> list[str]:
    """Return sentences on black, white and constant synthetic images, for each row and class of one data set."""
    notes = []
    for label, members in by_method(results).items():
        for column in sorted({c for r in members for c in r.census}, key=int):
            sums: Counter[str] = Counter()
            for result in members:
                sums.update(result.census.get(column, {}))
            if said := in_words(sums):
                name = f" of {facts.class_names[int(column)]}" if facts else ""
                notes.append(f"{label}: of {sums['images']:,} synthetic images{name}, {said}")
    return notes


def selection_rules(results: Iterable[CellResult]) -> list[str]:
    """Return the rules by which the tested checkpoints were chosen, as the scores record them."""
    return sorted({str(rule) for r in results if (rule := (r.scores or {}).get("selection"))})


def span(numbers: Iterable[int]) -> str:
    """Return `40` for equal numbers, `12–40` for a range, and `?` for no number."""
    found = sorted(set(numbers))
    if not found:
        return "?"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def manifests(results: Iterable[CellResult], store: Store) -> list[dict[str, Any]]:
    """Return the manifest of every finished stage that the cells need, each once, inputs first."""
    from bench.pipeline.stage import walk

    stages = walk([s for r in results for s in r.cell.targets])
    return [store.manifest(s) for s in stages if store.has(s)]


def wall_times(found: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Return (kind of stage, how many of it were computed, their seconds in sum), the longest first."""
    times: dict[str, list[float]] = {}
    for manifest in found:
        times.setdefault(manifest["stage"], []).append(float(manifest.get("seconds", 0)))
    rows = [(stage, len(seconds), sum(seconds)) for stage, seconds in times.items()]
    return sorted(rows, key=lambda row: -row[2])


def versions(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (library, its version or versions) of all manifests."""
    seen: dict[str, set[str]] = {}
    for manifest in found:
        for name, version in manifest.get("versions", {}).items():
            seen.setdefault(name, set()).add(str(version))
    return [(name, ", ".join(sorted(values))) for name, values in sorted(seen.items())]


def code_states(results: Iterable[CellResult], store: Store) -> list[str]:
    """Return the commits in the records of the cells; without records, the commit that writes the report."""
    from bench.results.record import git_state, read_record, record_folder

    records = [read_record(record_folder(store, r.cell)) for r in results]
    found = [r["git"] for r in records if r and r.get("git")] or [g for g in [git_state()] if g]
    texts = (f"{g['commit'][:12]}{', with uncommitted changes' if g.get('dirty') else ''}" for g in found)
    return list(dict.fromkeys(texts)) or ["not a git checkout"]


def holes(results: Iterable[CellResult]) -> list[tuple[str, str, str]]:
    """Return (cell, state, reason) for every cell whose numbers or diagnostics are missing from the tables."""
    rows = []
    for r in results:
        if r.skip:
            rows.append((r.cell.name, "skipped", r.skip))
        elif r.state != "done":
            what = "diagnostics " if r.measured and not r.reason else ""
            rows.append((r.cell.name, r.state, r.reason or what + _NOT_DONE[r.state]))
    return rows


_NOT_DONE = {
    "running": "being computed now",
    "missing": "not run yet",
    "failed": "failed; the record gives no reason",
}
