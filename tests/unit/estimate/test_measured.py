"""Estimates are measured seconds and bytes, scaled by sizes; what was never measured is not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.data.kinds.phantom import Phantom
from bench.estimate.measured import Measured, Sample
from bench.estimate.pilot import pilot_overrides
from bench.files import write_json
from bench.matrix.load import load_matrix
from bench.pipeline.stage import walk
from bench.store.store import Store
from tests.conftest import ToyRun


def sample(size: int, seconds: float, device: str = "cpu", finished: str = "2026-01-01") -> Sample:
    return Sample("dataset-phantom", size, seconds, 100 * size, 5000, device, finished, frozenset({("image_px", "64")}))


def predicted(size: int, *samples: Sample) -> Any:
    return Measured(samples).predict(Phantom(n_images=size))


def test_one_size_is_scaled_by_the_ratio_and_files_of_fixed_length_are_not() -> None:
    found = predicted(1000, sample(250, 2.0), sample(250, 4.0), sample(250, 3.0))
    assert (found.seconds, found.n, found.ratio) == (12.0, 3, 4.0)
    assert found.n_bytes == 4 * 25_000 + 5000


def test_two_sizes_give_the_line_through_both() -> None:
    """A start of 3 s and 0.01 s an image: what is taken before the first image is not multiplied with the images."""
    found = predicted(2000, sample(100, 3 + 1.0), sample(500, 3 + 5.0))
    assert found.seconds == pytest.approx(3 + 20.0)
    falling = predicted(2000, sample(100, 4.0), sample(500, 3.0))
    assert falling.seconds == pytest.approx(12.0)  # the nearest size, by its ratio


def test_the_machine_that_computed_last_counts() -> None:
    slow, fast = sample(100, 50.0, "old", "2026-01-01"), sample(100, 5.0, "new", "2026-02-01")
    found = predicted(100, slow, fast, slow)
    assert (found.seconds, found.device) == (5.0, "new")


def test_a_kind_that_was_never_measured_and_a_size_that_is_not_known_are_not_guessed() -> None:
    assert Measured([]).predict(Phantom(n_images=100)) is None
    other = Sample("codec", 100, 1.0, 0, 0, "cpu", "")
    assert predicted(100, other) is None


@pytest.mark.parametrize(
    ("change", "not_known"),
    [
        ("classifier.steps=7", set()),
        ("classifier.architecture=resnet50", {"classifier", "scores"}),
        ("classifier.image_px=96", {"classifier", "scores"}),
        ("datasets.0.image_px=96", {"dataset-phantom", "classifier", "scores", "fidelity", "realfeatures"}),
    ],
)
def test_other_networks_and_sides_of_images_are_not_guessed(toy_run: ToyRun, change: str, not_known: set[str]) -> None:
    measured = Measured.of(Store(toy_run.store))
    stages = walk([s for cell in load_matrix("toy", [change]).cells for s in cell.targets])
    kinds = ("dataset-phantom", "classifier", "scores", "fidelity", "realfeatures")
    assert {s.stage_name() for s in stages if measured.seconds(s) is None} & set(kinds) == not_known


@pytest.mark.parametrize(
    "change", [{"size": None}, {"size": -1}, {"seconds": "long"}, {"seconds": float("nan")}, {"files": None}]
)
def test_a_manifest_that_makes_no_sense_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {"stage": "split", "measured_as": "split", "size": 10, "seconds": 1.0, "files": {"a.npy": {"bytes": 8}}}
    write_json(tmp_path / "split" / "a" / "manifest.json", whole)
    write_json(tmp_path / "split" / "b" / "manifest.json", whole | change)
    assert [len(found) for found in Measured.of(Store(tmp_path)).kinds.values()] == [1]


def test_every_stage_of_a_run_says_its_size(toy_run: ToyRun) -> None:
    """Against a count that does not ask the stages: labels and images in the store's own files."""
    matrix, store = load_matrix("toy"), Store(toy_run.store)
    for stage in walk([s for cell in matrix.cells for s in cell.targets]):
        manifest = json.loads((store.folder(stage) / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["size"] == stage.size()
        assert manifest["measured_as"] == stage.measured_as()
    cell = next(c for c in matrix.cells if c.method.name == "smote")
    assert cell.augmented.size() == len(store.open(cell.augmented))
    assert cell.dataset.size() == len(store.open(cell.dataset).labels)
    steps = store.open(cell.classifier).record["steps"]
    assert cell.classifier.size() == steps * cell.classifier.settings.batch_size


def test_finished_stages_are_predicted_to_take_what_they_took(toy_run: ToyRun) -> None:
    store = Store(toy_run.store)
    measured = Measured.of(store)
    for stage in walk([s for cell in load_matrix("toy").cells for s in cell.targets]):
        took = [s.seconds for s in measured.kinds[stage.measured_as()]]
        assert min(took) <= measured.seconds(stage) <= max(took)


def test_a_pilot_keeps_rows_pixels_and_steps_and_takes_fewer_images() -> None:
    whole = load_matrix("demo")
    pilot = load_matrix("demo", pilot_overrides(whole))
    assert [c.label for c in pilot.cells] == [c.label for c in whole.cells]
    assert pilot.cells[0].dataset.image_px == whole.cells[0].dataset.image_px
    assert pilot.cells[0].dataset.size() < whole.cells[0].dataset.size() / 5
    for small, large in zip(pilot.cells, whole.cells, strict=True):
        assert small.augmented.size() <= large.augmented.size() / 2
        assert small.method == large.method
