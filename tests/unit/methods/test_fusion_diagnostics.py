"""Diagnostics of fusion on a toy data set whose true masks are known or drawn as boxes, and the phantom's masks at site resolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.contract import DiffusionModel, Latents, Plan, Task
from bench.data.boxes import BoxSettings
from bench.data.dataset import Dataset
from bench.data.kinds.folder import FolderDataset
from bench.data.kinds.phantom.dataset import Phantom
from bench.data.kinds.phantom.render import render
from bench.data.split import Split, SplitSettings, Train
from bench.store.store import Store
from methods.fusion.diagnostics import DESCRIPTIONS, Diagnostics, judged_maps, judged_masks
from methods.fusion.fuse import Fused
from tests.pictures import write_png
from tests.unit.methods.fusion_fixtures import CLASS_NAMES, HEAD, TAIL, Toy, ours, tiny_pipeline, toy_images, toy_labels

SIDE = 8  # of the toy's latents
NEED_TRUTH = {
    "n_maps_judged", "cam_pointing", "cam_pointing_chance", "cam_pointing_prior", "cam_iou",
    "cam_iou_above_half", "cam_inside_ratio", "n_samples_judged", "share_of_true_site_taken",
}  # fmt: skip


def toy_masks(n: int) -> np.ndarray:
    """Return `bool [n, 4, 8, 8]`: the place of each class of the toy; in every third image only the reader saw it."""
    masks = np.zeros((n, 4, SIDE, SIDE), dtype=bool)
    masks[:, 0, :3], masks[:, 1, -3:] = True, True
    masks[:, 2, 2:4, :2], masks[:, 3, 2:-2, -2:] = True, True
    drawn = (toy_labels(n) == 1) & (np.arange(n) % 3 > 0)[:, None]
    return masks & drawn[:, :, None, None]


class KnownToy(Toy):
    """The toy with true masks."""

    kind: ClassVar[str] = "known-toy"

    def true_masks(self, rows: np.ndarray, side: int) -> np.ndarray:
        """Return the masks of the rows."""
        assert side == SIDE
        return toy_masks(self.n_images)[rows]


def boxed_toy(folder: Path) -> FolderDataset:
    """Write the toy as pictures and lists, with a box for each finding of the tail that was drawn; return the data set."""
    labels, masks = toy_labels(72), toy_masks(72)
    listed, drawn = [f"path,{','.join(CLASS_NAMES)}"], ["image,finding,x,y,w,h"]
    boxes = {"Spot": "0,10,8,6", "Bar": "26,8,6,16"}  # where `toy_images` has them, in its 32 pixels
    for i, image in enumerate(toy_images(labels, 32)):
        write_png(folder / f"{i}.png", image)
        listed.append(",".join([f"{i}.png", *("" if np.isnan(x) else f"{x:.0f}" for x in labels[i])]))
        drawn += [f"{i}.png,{c},{box}" for c, box in boxes.items() if masks[i, CLASS_NAMES.index(c)].any()]
    (folder / "list.csv").write_text("\n".join(listed), encoding="utf-8")
    (folder / "boxes.csv").write_text("\n".join(drawn), encoding="utf-8")
    return FolderDataset(
        csv=str(folder / "list.csv"),
        boxes=BoxSettings(csv=str(folder / "boxes.csv")),
        head=HEAD,
        tail=TAIL,
        image_px=32,
    )


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def task_over(dataset: Dataset, pipeline: Path, per_class: int = 15) -> Task:
    train = Train(split=Split(dataset=dataset, settings=SplitSettings(min_positives=1, val=0.1, test=0.1)))
    diffusion = DiffusionModel(folder=str(pipeline))
    latents = Latents(train=train, diffusion=diffusion)
    return Task(train=train, latents=latents, diffusion=diffusion, plan=Plan(per_class=per_class), seed=3)


def diagnosed(store: Store, task: Task, **settings: Any) -> tuple[dict[str, float | int | None], Fused]:
    stage = ours(**settings).diagnostics(task)
    assert isinstance(stage, Diagnostics)
    return store.get(stage), stage.fused


@pytest.mark.parametrize("boxed", [False, True], ids=["drawn by the data set", "boxes of a folder"])
def test_the_measures_are_those_of_the_judged_maps_and_samples(
    store: Store, pipeline: Path, tmp_path: Path, boxed: bool
) -> None:
    task = task_over(boxed_toy(tmp_path) if boxed else KnownToy(), pipeline)
    found, stage = diagnosed(store, task)
    at, masks = store.get(task.train.split)["train"], toy_masks(72)
    assert (at != np.arange(len(at))).any()  # else a train row taken for a data set's row would go unnoticed
    table, fused = store.get(stage.pairs.saliency), store.get(stage)
    tail = [CLASS_NAMES.index(c) for c in TAIL]

    hits, areas, overlaps, energies = [], [], [], []
    for cam, row, c in zip(table.cams, table.rows, table.classes, strict=True):
        true = masks[at[row], c]
        if c in tail and true.any():
            top = set(np.argsort(-cam, axis=None)[: true.sum()]) if cam.any() else set()
            inside = set(np.flatnonzero(true))
            hits.append(cam.any() and int(cam.argmax()) in inside)
            areas.append(true.mean())
            overlaps.append(len(top & inside) / len(top | inside))
            energies.append(cam[true].sum() / cam.sum() / true.mean() if cam.any() else 0)
    assert found["n_maps_judged"] == len(hits) > 3
    assert found["cam_pointing"] == pytest.approx(np.mean(hits))
    assert found["cam_pointing_chance"] == pytest.approx(np.mean(areas))
    assert found["cam_pointing_prior"] == 1  # every class of the toy has one place
    assert found["cam_iou"] == pytest.approx(np.mean(overlaps), abs=0.02)  # ties for the last place
    assert found["cam_inside_ratio"] == pytest.approx(np.mean(energies), rel=1e-5)

    target = np.repeat(tail, 15)
    shares = [
        mask[true].mean()
        for mask, anchor, c in zip(fused.mask, fused.parents[:, 0], target, strict=True)
        if (true := masks[at[anchor], c]).any()
    ]
    assert found["n_samples_judged"] == len(shares)
    assert 0 < len(shares) < len(fused.parents)  # some findings are only the reader's
    assert found["share_of_true_site_taken"] == pytest.approx(np.mean(shares))


def test_the_rest_needs_no_truth(store: Store, pipeline: Path) -> None:
    found, stage = diagnosed(store, task_over(Toy(), pipeline))
    table, fused = store.get(stage.pairs.saliency), store.get(stage)
    assert list(found) == list(DESCRIPTIONS)
    assert {name for name, value in found.items() if value is None} == NEED_TRUTH
    assert found["cam_empty_share"] == pytest.approx(np.mean([not cam.any() for cam in table.cams]))
    assert found["mean_share_tail"] == pytest.approx(fused.mask.mean())
    assert found["mean_share_head"] == pytest.approx(1 - fused.mask.mean())
    assert found["distinct_anchors"] == len({int(p) for p in fused.parents[:, 0]})
    assert found["distinct_partners"] == len({int(p) for p in fused.parents[:, 1]})
    assert found["median_partner_distance"] == pytest.approx(np.median(store.get(stage.pairs).distances))


def test_the_code_is_measured_at_the_checkpoint_that_fusion_used(store: Store, pipeline: Path) -> None:
    task = task_over(Toy(), pipeline)
    last, stage = diagnosed(store, task)
    first, _ = diagnosed(store, task, checkpoint="first")
    record = store.get(stage.pairs.saliency.codec).record
    for name in ("reconstruction_l1", "mean_max_probability", "normalised_entropy", "latents_beyond_1"):
        assert last[name] == record["final"][name]
        assert first[name] == record["first"][name]
    assert first["reconstruction_l1"] != last["reconstruction_l1"]


def test_every_number_of_steps_shares_the_diagnostics(pipeline: Path) -> None:
    task = task_over(Toy(), pipeline)
    assert len({ours(denoise_steps=d).diagnostics(task).key for d in (0, 1, 5)}) == 1


def test_if_nobody_drew_the_findings_no_map_is_judged_and_none_counts_as_a_miss() -> None:
    cams, nobody = np.random.default_rng(0).random((5, 4, 4), np.float32), np.zeros((5, 4, 4), dtype=bool)
    found = judged_maps(cams, nobody, np.array([2, 2, 3, 3, 3])) | judged_masks(cams, nobody)
    assert {name for name, value in found.items() if value is not None} == {"n_maps_judged", "n_samples_judged"}
    assert found["n_maps_judged"] == found["n_samples_judged"] == 0


def test_an_empty_plan_has_nothing_to_say_and_trains_nothing(pipeline: Path, tmp_path: Path) -> None:
    found, _ = diagnosed(Store(tmp_path), task_over(KnownToy(), pipeline, per_class=0))
    assert list(found) == list(DESCRIPTIONS)
    assert set(found.values()) == {None}
    assert not (tmp_path / "codec").exists()


def test_the_result_is_flat_json(store: Store, pipeline: Path) -> None:
    found, _ = diagnosed(store, task_over(KnownToy(), pipeline))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(value is None or isinstance(value, (int, float)) for value in found.values())


@pytest.mark.parametrize("side", [64, 16, 10, 1])
def test_a_site_of_the_phantom_is_in_if_any_of_its_pixels_is(side: int) -> None:
    phantom, rows = Phantom(n_images=40, image_px=64), np.array([33, 2, 17])
    found = phantom.true_masks(rows, side)
    expected = np.zeros((3, 10, side, side), dtype=bool)
    for i, row in enumerate(rows):
        for c, y, x in np.argwhere(render(phantom, int(row), masks=True).masks):
            expected[i, c, y * side // 64, x * side // 64] = True
    np.testing.assert_array_equal(found, expected)


def test_the_phantom_has_masks_of_what_was_drawn_alone() -> None:
    phantom, rows = Phantom(n_images=60, image_px=32), np.arange(60)
    drawn = np.stack([render(phantom, int(row)).true_labels for row in rows])
    found = phantom.true_masks(rows, 8).any(axis=(2, 3))
    np.testing.assert_array_equal(found, drawn)  # no thin finding is lost either
    assert drawn.any()


@pytest.mark.parametrize("side", [0, 33])
def test_more_sites_than_pixels_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"image_px = 32, got {side}"):
        Phantom(n_images=8, image_px=32).true_masks(np.array([0]), side)
