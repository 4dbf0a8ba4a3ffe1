"""How well the code of `ours` tells the tail, and how well its maps point at it, by its networks, batches and budget.

Each codec is trained on the train split of the demo's phantoms. Its classifier is judged on val against the true
labels, and its maps, which are of train images, against the true masks of the findings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import common

if TYPE_CHECKING:
    from bench.contract import Float32
    from bench.store.store import Store
    from methods.fusion.saliency import Saliency

LOCAL = {"encoder": "local", "classifier": "local", "batches": "class_balanced", "positive_weights": "none"}
VARIANTS: dict[str, dict[str, Any]] = {
    "image-wide": {},
    "local": LOCAL,
    "local, U-Net as encoder": LOCAL | {"encoder": "unet"},
    "local, image-wide classifier": LOCAL | {"classifier": "conv"},
    "local, plain batches": LOCAL | {"batches": "plain", "positive_weights": "balanced"},
    "local, mean over sites": LOCAL | {"pooling_sharpness": 0},
    "local, temperature 0.03": LOCAL | {"temperature": 0.03},
    "local, temperature 0.01": LOCAL | {"temperature": 0.01},
    "local, one generation": LOCAL | {"generations": 1, "interaction_epochs": 9},
    "local, 2 x the epochs": LOCAL | {"interaction_epochs": 6, "imitation_epochs": 2},
    "local, 10 x the epochs": LOCAL | {"interaction_epochs": 30, "imitation_epochs": 10},
    "image-wide, 2 x the epochs": {"interaction_epochs": 6, "imitation_epochs": 2},
    "image-wide, 10 x the epochs": {"interaction_epochs": 30, "imitation_epochs": 10},
}
COLUMNS = (
    "likeliest word",
    "AP tail, val",
    "AP head, val",
    "L1, val",
    "pointing",
    "pointing, mean of classes",
    "IoU",
    "n",
    "seconds",
)


def main() -> int:
    """Train, judge, and print a table in Markdown."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT", default=list(VARIANTS))
    parser.add_argument("--images", type=int, default=3000, help="phantoms in train, val and test together")
    parser.add_argument("--folder", type=Path, help="where the store goes, kept [a temporary one]")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    with common.folder(given.folder, "bench-codes-") as place:
        for name in given.only:
            for seed in given.seeds:
                common.say(f"{name}, seed {seed}")
                found.setdefault(name, []).append(judged(place, maps_of(VARIANTS[name], given.images, seed)))
    if given.json:
        return common.report([], True, codes=found, seeds=given.seeds)
    print("\n".join(table(found)))
    print(common.machine(), f"seeds {given.seeds}")
    return 0


def table(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table: means over seeds, with the standard deviation where there are two or more."""
    yield "| code | " + " | ".join(COLUMNS) + " | seeds |"
    yield "|---|" + "---:|" * (len(COLUMNS) + 1)
    for name, of_seeds in found.items():
        cells = []
        for column in COLUMNS:
            values = [v[column] for v in of_seeds]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 and column not in ("n", "seconds") else ""
            cells.append(f"{np.mean(values):.0f}" if column in ("n", "seconds") else f"{np.mean(values):.3f}{spread}")
        yield f"| {name} | " + " | ".join(cells) + f" | {len(of_seeds)} |"


def maps_of(codec: dict[str, Any], n_images: int, seed: int) -> Saliency:
    """Return the stage of the maps of `ours` with a codec's settings; its inputs lead to all other stages."""
    from bench.matrix.build import build_matrix
    from bench.pipeline.stage import walk

    raw = {
        "name": "codes",
        "datasets": [{"kind": "phantom", "n_images": n_images, "image_px": 64, "prevalence_floor": 0.012}],
        "split": {"val": 0.2, "test": 0.3, "seed": 0, "min_positives": 6 if n_images >= 3000 else 1},
        "augment": {"per_class": 1},
        "methods": [{"row": "ours", "method": "ours@0", "settings": {"codec": codec}}],
        "classifier": {"steps": 1, "batch_size": 2},
        "seeds": [seed],
    }
    (cell,) = build_matrix(raw, "benchmarks.codes").cells
    return next(s for s in walk([cell.augmented]) if s.stage_name() == "saliency")  # type: ignore[return-value]


def judged(root: Path, saliency: Saliency) -> dict[str, float]:
    """Return the columns of one codec. Maps count that are for a tail class which is truly in the image."""
    from bench.metrics.average_precision import average_precision
    from bench.store.store import Store
    from methods.fusion.diagnostics import judged_maps, true_sites

    store = Store(root)
    maps, data = store.get(saliency), store.get(saliency.train.split.dataset)
    parts = store.get(saliency.train.split)
    tail, head = ([data.class_names.index(name) for name in names] for names in (data.tail, data.head))
    scores, l1 = on_val(store, saliency, data.images[parts["val"]])
    ap = np.array(average_precision(scores, data.true_labels[parts["val"]]), dtype=float)
    of_tail = np.isin(maps.classes, tail)
    cams, rows, classes = maps.cams[of_tail], parts["train"][maps.rows[of_tail]], maps.classes[of_tail]
    truth = true_sites(saliency.train.split.dataset, rows, classes, cams.shape[-1])
    if truth is None:
        raise SystemExit("the data set does not know where its findings are")
    measures = judged_maps(cams, truth, classes)
    there = truth.any(axis=(1, 2))
    of_class = [judged_maps(cams[at], truth[at], classes[at]) for at in (classes == c for c in set(classes[there]))]
    return {
        "likeliest word": store.get(saliency.codec).record["final"]["mean_max_probability"],
        "AP tail, val": float(np.mean(ap[tail])),
        "AP head, val": float(np.mean(ap[head])),
        "L1, val": l1,
        "pointing": number(measures["cam_pointing"]),
        "pointing, mean of classes": float(np.mean([number(m["cam_pointing"]) for m in of_class])),
        "IoU": number(measures["cam_iou"]),
        "n": number(measures["n_maps_judged"]),
        "seconds": float(store.manifest(saliency.codec)["seconds"]),
    }


def number(value: float | None) -> float:
    """Return a measure as a number; NaN if nothing could be judged."""
    return float("nan") if value is None else float(value)


def on_val(store: Store, saliency: Saliency, images: Any) -> tuple[Float32, float]:
    """Return the scores `float32 [n, C]` of images by the classifier of codes, and the mean L1 of their latents."""
    import torch

    pipeline = saliency.latents.diffusion.load("cpu")
    networks = store.get(saliency.codec).load("cpu", saliency.checkpoint)
    scores, errors = [], []
    for start in range(0, len(images), pipeline.batch_size):
        latents = torch.from_numpy(pipeline.encode(images[start : start + pipeline.batch_size])[0])
        with torch.inference_mode():
            codes = networks.encode(latents)
            scores.append(networks.classifier(codes).numpy())
            errors.append((networks.decoder(codes) - latents).abs().mean(dim=(1, 2, 3)).numpy())
    return np.concatenate(scores), float(np.concatenate(errors).mean())


if __name__ == "__main__":
    sys.exit(main())
