"""Maps, partners and fused latents at the paper's size, against the same steps as the paper's released code does them.

Ours are the stages themselves, over random latents of 4 x 64 x 64. The peer has the same networks, weights and latents,
and goes the way of the released code: two latents at a time with their gradients, the `grad-cam` library's EigenCAM,
everything in lists, a k-d tree over the maps, and the parents encoded again, two at a time, for masks in NumPy. It is
written from the description of that code and shares nothing with it. So this compares ways of working and not networks.
The released networks are smaller, see the matrix `paper`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import common
from benchmarks.common import Figure
from benchmarks.memory import compute, peak_rss_anon

if TYPE_CHECKING:
    from torch import Tensor

    from bench.contract import Float32, Stage
    from bench.store.store import Store
    from methods.fusion.fuse import Fused
    from methods.fusion.networks import CodecNetworks

SPEED_BOUND = 0.5  # ours / peer, in CPU seconds
GROWTH_MIB = 64.0  # largest growth of a peak; from 512 to 2,048 images the latents grow by 192 MiB
PARTS = ("maps", "pairs", "fused")
_AT_ONCE = 2  # latents that the released code takes at once
_K = 3


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=(640, 2560), metavar=("FEW", "MANY"))
    parser.add_argument("--latent-px", type=int, default=64, help="side of a latent")
    parser.add_argument("--width", type=int, default=64, help="channels of the U-Nets")
    parser.add_argument("--per-class", type=int, default=32, help="fused latents of each tail class")
    parser.add_argument("--folder", type=Path, help="where the stores go, kept [a temporary one]")
    given = parser.parse_args()
    with common.folder(given.folder, "bench-fusion-") as place:
        ours, n_train = [], []
        for n in given.images:
            fused = stages(n, given.width, given.per_class)
            n_train.append(prepare(place / str(n), fused, given.latent_px))
            ours.append([measured(place / str(n), compute, s) for s in (fused.pairs.saliency, fused.pairs, fused)])
        few = given.images[0]
        peak, _ = measured(place / str(few), as_released, stages(few, given.width, given.per_class))
        peers = np.load(place / str(few) / "peer.npy").tolist()
    figures = list(compared([s for _, s in ours[0]], peers))
    figures.append(Figure.of("peak memory: ours", "MiB", [max(mib for mib, _ in ours[0])]))
    figures.append(Figure.of("peak memory: peer", "MiB", [peak]))
    for part, (before, _), (after, _) in zip(PARTS, *ours, strict=True):
        figures.append(Figure.of(f"{part}: growth of the peak", "MiB", [after - before], GROWTH_MIB))
    return common.report(figures, given.json, train_images=n_train, fused=5 * given.per_class)


def compared(ours: list[float], peers: list[float]) -> Iterator[Figure]:
    """Yield the CPU seconds of each part, and the ratio of all."""
    for part, mine, theirs in zip(PARTS, ours, peers, strict=True):
        yield Figure.of(f"{part}, CPU: ours", "s", [mine])
        yield Figure.of(f"{part}, CPU: peer", "s", [theirs])
    yield Figure.of("all, CPU: ours / peer", "", [sum(ours) / sum(peers)], SPEED_BOUND)


def stages(n_images: int, width: int, per_class: int) -> Fused:
    """Return the stage of the fused latents with the preset `released`; its inputs lead to all other stages."""
    from bench.matrix.build import build_matrix
    from bench.pipeline.stage import walk

    codec = {"width": width, "downsamplings": 6, "classifier": "vgg11", "generations": 1}
    raw = {
        "name": "fusion",
        # No step looks at the images, so they are as small as they can be.
        "datasets": [{"kind": "phantom", "n_images": n_images, "image_px": 16, "prevalence_floor": 0.06}],
        "split": {"val": 0.1, "test": 0.1, "min_positives": 1},
        "augment": {"per_class": per_class},
        "methods": [{"row": "ours", "method": "ours@0", "preset": "released", "settings": {"codec": codec}}],
        "classifier": {"steps": 1, "batch_size": 2},
    }
    (cell,) = build_matrix(raw, "benchmarks.fusion").cells
    return next(s for s in walk([cell.augmented]) if s.stage_name() == "fused")  # type: ignore[return-value]


def prepare(root: Path, fused: Fused, latent_px: int) -> int:
    """Write random latents and a codec with random weights into a store, and return the number of train images."""
    import torch
    from safetensors.torch import save_file

    from bench.files import new_array, write_json
    from bench.store.store import Store
    from methods.fusion.networks import CodecNetworks

    store = Store(root)
    codec = fused.pairs.saliency.codec
    compute(root, codec.train)
    labels = np.load(store.folder(codec.train) / "labels.npy")
    shape = (4, latent_px, latent_px)
    rng = np.random.default_rng(0)
    with by_hand(store, codec.latents) as out:
        for name, scale in (("mean", 1.0), ("std", 0.1)):
            array = new_array(out / f"{name}.npy", (len(labels), *shape), np.float32)
            for row in range(len(array)):
                array[row] = scale * np.abs(rng.standard_normal(shape))
    with by_hand(store, codec) as out:
        torch.manual_seed(0)
        networks = CodecNetworks(codec.settings, shape, labels.shape[1])
        for name in ("codec", "codec-first"):
            save_file(networks.state_dict(), out / f"{name}.safetensors")
        write_json(out / "codec.json", {"latent_shape": list(shape), "n_classes": labels.shape[1]})
    return len(labels)


@contextlib.contextmanager
def by_hand(store: Store, stage: Stage) -> Iterator[Path]:
    """Yield the folder of a stage's result, which counts as finished afterwards."""
    from bench.files import write_json

    folder = store.folder(stage)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    write_json(folder / "manifest.json", {"stage": stage.stage_name(), "key": stage.key, "seconds": 0.0})


def measured(root: Path, work: Callable[[Path, Any], None], stage: Stage) -> tuple[float, float]:
    """Return the peak memory in MiB and the CPU seconds of a piece of work in a process of its own."""
    peak = peak_rss_anon(stage.stage_name(), timed, root, work, stage)
    seconds = float(np.load(root / "seconds.npy"))
    common.say(f"{work.__name__} {stage.stage_name():10s} {peak:8.0f} MiB {seconds:8.1f} s")
    return peak, seconds


def timed(root: Path, work: Callable[[Path, Any], None], stage: Stage) -> None:
    """Work on one thread, and write the CPU seconds without those for imports."""
    import torch
    from threadpoolctl import threadpool_limits

    import methods.fusion  # noqa: F401

    torch.set_num_threads(1)
    threadpool_limits(1)
    started = time.process_time()
    work(root, stage)
    np.save(root / "seconds.npy", time.process_time() - started)


def as_released(root: Path, fused: Fused) -> None:
    """Go the way of the released code over the same latents, and write the CPU seconds of each part."""
    from sklearn.neighbors import NearestNeighbors

    from bench.data.split import Train
    from bench.store.store import Store

    store = Store(root)
    codec = fused.pairs.saliency.codec
    train: Train = codec.train
    labels = np.load(store.folder(train) / "labels.npy")
    table = store.get(train.split.dataset)
    tail = [i for i, name in enumerate(table.class_names) if name in table.tail]
    latents = list(store.get(codec.latents).sample(np.arange(len(labels)), 0))
    marks = [time.process_time()]

    networks = store.get(codec).load().requires_grad_(True)
    maps = peer_maps(networks, latents, labels, tail)
    marks.append(time.process_time())

    is_tail = (labels[:, tail] == 1).any(axis=1)
    flat = np.array(maps).reshape(len(maps), -1)
    head_rows = np.flatnonzero(~is_tail)
    search = NearestNeighbors(n_neighbors=_K, algorithm="kd_tree").fit(flat[head_rows])
    near = {c: head_rows[search.kneighbors(flat[labels[:, c] == 1], return_distance=False)] for c in tail}
    marks.append(time.process_time())

    rng = np.random.default_rng(0)
    made: list[Float32] = []
    for c, partners in near.items():
        anchors = np.flatnonzero(labels[:, c] == 1)
        for _ in range(0, fused.plan.per_class, _AT_ONCE):
            chosen = rng.integers(len(anchors), size=_AT_ONCE)
            pairs = [(int(anchors[i]), int(rng.choice(partners[i]))) for i in chosen]
            made.extend(peer_fused(networks, latents, maps, pairs, rng))
    marks.append(time.process_time())
    np.save(root / "peer.npy", np.diff(marks))


def peer_maps(networks: CodecNetworks, latents: list[Float32], labels: Float32, tail: list[int]) -> list[Float32]:
    """Return a map for the best-scored tail class of each latent, or its best-scored head class."""
    import torch
    from pytorch_grad_cam import EigenCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    of_tail = torch.zeros(labels.shape[1])
    of_tail[tail] = 1
    maps: list[Float32] = []
    with EigenCAM(model=networks.classifier, target_layers=list(networks.classifier.features[2:-1])) as cam:
        for start in range(0, len(latents), _AT_ONCE):
            batch = torch.from_numpy(np.stack(latents[start : start + _AT_ONCE])).requires_grad_()
            own = torch.from_numpy(np.nan_to_num(labels[start : start + _AT_ONCE]))
            codes = networks.encode(batch)
            scores = networks.classifier(codes.detach()).detach()
            weight = torch.where((own * of_tail).any(dim=1, keepdim=True), of_tail, 1 - of_tail) * own
            targets = [ClassifierOutputTarget(int(i)) for i in (weight * scores).argmax(dim=1)]
            maps.extend(cam(input_tensor=codes, targets=targets))
    return maps


def peer_fused(
    networks: CodecNetworks,
    latents: list[Float32],
    maps: list[Float32],
    pairs: list[tuple[int, int]],
    rng: np.random.Generator,
) -> list[Float32]:
    """Return the fused latents of two pairs (anchor, partner), with masks and codes in NumPy."""
    import torch

    def codes_of(rows: list[int]) -> Tensor:
        return networks.encode(torch.from_numpy(np.stack([latents[r] for r in rows])))

    with torch.no_grad():
        anchors, partners = [a for a, _ in pairs], [p for _, p in pairs]
        of_anchor, of_partner = codes_of(anchors).numpy(), codes_of(partners).numpy()
        wide = np.ones((1, of_anchor.shape[1], 1, 1), dtype=int)
        high = np.stack([maps[r] for r in anchors])[:, None] * wide > rng.normal(0.5, 0.1)
        low = np.stack([maps[r] for r in partners])[:, None] * wide < rng.normal(0.5, 0.1)
        coin = rng.random(of_anchor.shape[2:]) > rng.random()
        mixed = np.where(high == low, np.where(coin, of_anchor, of_partner), np.where(high, of_anchor, of_partner))
        return list(networks.decoder(torch.from_numpy(mixed)).numpy())


if __name__ == "__main__":
    sys.exit(main())
