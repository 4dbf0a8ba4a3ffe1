"""A small matrix with made-up scores and real pictures, for tests of the reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from bench.classifier.settings import ClassifierSettings
from bench.contract import AugmentedBatch, Context, Method, Plan, TrainSet
from bench.data.dataset import Dataset, TableWriter
from bench.data.split import SplitSettings
from bench.evaluation.extractors import ClassifierExtractor
from bench.evaluation.measures import FidelitySettings
from bench.matrix.build import CellBuilder
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.matrix.rows import Row
from bench.matrix.settings import MatrixSettings
from bench.matrix.study import Study
from bench.pipeline.stage import Work
from bench.results.cells import CellResult
from bench.store.store import Store

HEAD = ("Support Devices", "Lung Opacity", "Wide & <b>bold</b>")
TAIL = ("Enlarged Cardiomediastinum", "50 % | x_y", "Fracture")
CLASSES = HEAD + TAIL


class Blobs(Dataset):
    """Grey squares with a bright blob a class."""

    kind: ClassVar[str] = "blobs"
    beside_published: ClassVar[bool] = True
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"
    n_images: int = 240
    image_px: int = 32

    def compute(self, work: Work) -> None:
        rng = np.random.default_rng(0)
        shares = np.array([0.4, 0.35, 0.3, 0.12, 0.08, 0.1])
        labels = (rng.random((self.n_images, len(CLASSES))) < shares).astype(np.float32)
        writer = TableWriter(work.out, self.n_images, self.image_px)
        side = self.image_px // 4
        for i in range(self.n_images):
            image = rng.integers(40, 90, (self.image_px, self.image_px))
            for c in np.flatnonzero(labels[i]):
                image[(c % 3) * side : (c % 3) * side + side, (c // 3) * 2 * side :][:, :side] += 120
            writer.images[i] = image
        writer.finish(labels, np.arange(self.n_images), CLASSES, HEAD, TAIL)


class Ward(Blobs):
    """The same behind a use agreement."""

    kind: ClassVar[str] = "ward"
    sharing: ClassVar[Literal["open", "credentialed"]] = "credentialed"


class Control(Method):
    name: ClassVar[str] = "baseline"
    makes_images: ClassVar[bool] = False

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        yield from ()


class Copies(Method):
    name: ClassVar[str] = "smote"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        for index in ctx.batches(16):
            rows = np.array([ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], rows[:, None])


class Mixes(Method):
    """Half of each parent, with maps and mask beside, as a method that fuses has them."""

    name: ClassVar[str] = "ours"
    at: ClassVar[str | None] = "denoise_steps"
    denoise_steps: int = 1

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        px = ctx.train.images.image_px
        mask = np.tri(8, dtype=np.uint8)
        ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
        big = np.kron(mask, np.ones((px // 8, px // 8), np.uint8))
        for index in ctx.batches(16):
            n = len(index)
            anchors = np.array([ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            partners = np.array([int(ctx.rng(i + 10_000).integers(len(ctx.train))) for i in index])
            images = np.where(big, ctx.train.images[anchors], ctx.train.images[partners])
            extras = {"anchor_cam": ramp, "partner_cam": ramp.T, "mask": mask}
            yield AugmentedBatch(
                np.minimum(images, 255 - 10 * self.denoise_steps).astype(np.uint8),
                ctx.train.labels[anchors],
                np.stack([anchors, partners], axis=1),
                {name: np.repeat(plane[None], n, axis=0) for name, plane in extras.items()},
            )


class Declines(Copies):
    name: ClassVar[str] = "declines"

    def skip(self, train: TrainSet) -> str | None:
        return "needs <script>alert(1)</script> & colour images"


METHODS: tuple[Method, ...] = (Control(), Copies(), Mixes(denoise_steps=0), Mixes(denoise_steps=5), Declines())


def make_matrix(
    methods: tuple[Method, ...] = METHODS,
    seeds: tuple[int, ...] = (0,),
    datasets: tuple[Dataset, ...] = (Blobs(),),
    against: dict[str, tuple[str, ...]] | None = None,
    study: Study | None = None,
) -> Matrix:
    """Return a matrix of methods that need not be registered; `against`: row → the rows that it is held against."""
    settings = MatrixSettings(
        name="toy-report",
        description="made-up scores, real pictures <em>& such</em>",
        datasets=[{"kind": d.kind} for d in datasets],
        split=SplitSettings(min_positives=1),
        augment=Plan(per_class=10),
        methods=[m.label for m in methods],
        classifier=ClassifierSettings(steps=10),
        fidelity=FidelitySettings(extractor=ClassifierExtractor()),
        seeds=list(seeds),
        study=study,
    )
    rows = [Row(m.label, m, settings.classifier, (against or {}).get(m.label, ())) for m in methods]
    builders = [CellBuilder(settings, d) for d in datasets]
    cells = tuple(b.build(row, s) for b in builders for row in rows for s in seeds)
    return Matrix(settings, cells)


def fill(matrix: Matrix, store: Store) -> list[CellResult]:
    """Compute the pictures' stages and return results with made-up numbers for every cell."""
    for cell in matrix.cells:
        store.get(cell.split)
        store.get(cell.augmented)
    return [make_result(cell, store) for cell in matrix.cells]


def make_result(cell: Cell, store: Store) -> CellResult:
    """Return a finished cell's result, its numbers drawn from its name."""
    rng = np.random.default_rng(abs(hash_of(cell.name)))
    table = store.get(cell.dataset)
    head, tail = table.head, table.tail
    ap = {c: float(rng.uniform(0.4, 0.7) if c in head else rng.uniform(0.1, 0.3)) for c in table.class_names}
    prevalence = {c: 0.3 if c in head else 0.05 for c in table.class_names}
    n = len(cell.augmented.open(store.folder(cell.augmented)))
    history = [
        {"step": s, "val_map_head": 0.3 + 0.03 * s + float(rng.uniform(0, 0.03)), "val_map_tail": 0.1 + 0.01 * s}
        for s in range(2, 11, 2)
    ]
    return CellResult(
        cell=cell,
        state="done",
        scores={
            "n_test": 72,
            "ap": ap,
            "prevalence": prevalence,
            "n_positives": dict.fromkeys(table.class_names, 7),
            "map_head": float(np.mean([ap[c] for c in head])),
            "map_tail": float(np.mean([ap[c] for c in tail])),
            "map_all": float(np.mean(list(ap.values()))),
            "prevalence_head": 0.3,
            "prevalence_tail": 0.05,
            "selection": "best_val_map_all",
        },
        fidelity=make_fidelity(tail, n, rng),
        classifier={"n_real": 120, "selection": "best_val_map_all"},
        history=history,
        skip=cell.augmented.skip_reason(store.folder(cell.augmented)),
    )


def make_fidelity(tail: tuple[str, ...], n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return a fidelity record in the shape of `bench.evaluation.fidelity`."""
    fid = {c: float(rng.uniform(10, 40)) if n else None for c in tail}
    each = n // len(tail)
    return {
        "metric_id": "toy-8d-native",
        "n_synthetic": n,
        "fid_tail": float(np.mean([v for v in fid.values() if v])) if n else None,
        "kid_tail": 0.0321 if n else None,
        "fid_tail_floor": 8.5 if n else None,
        "label_fidelity": {c: float(rng.uniform(0.2, 0.9)) if n else None for c in tail},
        "label_fidelity_tail": 0.5 if n else None,
        "nearest_train": {"synthetic": 0.31 if n else None, "held_out": 0.93},
        "per_class": {
            c: {"fid": fid[c], "kid": 0.03, "n_real": 11, "n_synthetic": each, "fid_floor": 8.5, "n_floor": each}
            for c in tail
        },
    }


def with_nearest(results: list[CellResult], store: Store) -> list[CellResult]:
    """Return results with made-up distances to the nearest train image, and put their files into the store."""
    found = []
    for r in results:
        n, rng = (r.fidelity or {})["n_synthetic"], np.random.default_rng(abs(hash_of(r.cell.name)))
        if not n:
            found.append(r)
            continue
        raw = {
            "synthetic": rng.uniform(0.1, 0.5, n),
            "held_out": rng.uniform(0.5, 1.5, 41),
            "held_out_weights": np.ones(41),
        }
        raw["without_parents"] = raw["synthetic"] + 0.4
        folder = store.folder(r.cell.fidelity)
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in raw.items():
            np.save(folder / f"nearest_{name}.npy", values.astype(np.float32))
        middle = float(np.median(raw["held_out"]))
        figures = {
            "nearest_ratio": float(np.median(raw["synthetic"])) / middle,
            "nearest_ratio_without_parents": float(np.median(raw["without_parents"])) / middle,
            "copies_share": 0.75,
            "copies_share_without_parents": 0.25,
        }
        found.append(replace(r, fidelity={**(r.fidelity or {}), **figures}))
    return found


def hash_of(text: str) -> int:
    """Return a number for a text, the same in every process."""
    from bench.seeds import derive

    return derive(0, text)


def make_report(folder: Path, **kwargs: Any) -> Path:
    """Write the report of a filled matrix below `folder` and return its folder."""
    from reports.report import write_report

    store, matrix = Store(folder / "store"), make_matrix(**kwargs)
    write_report(matrix, with_nearest(fill(matrix, store), store), store, folder / "report")
    return folder / "report"
