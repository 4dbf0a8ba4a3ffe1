"""Costs that are told before anything runs: counted operations, numbers of images, and the seconds told from them."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.cost import Cost, NoEstimate, Sizes
from bench.datasets.cxr_lt import MimicCxrLt, NihCxrLt
from bench.datasets.cxr_lt_releases import PAPER_TAIL
from bench.datasets.phantom import Phantom
from bench.files import write_json
from bench.flops import classifier_flops, count, of_network
from bench.matrix import build_matrix
from bench.rates import Rates, Sample, of_store
from bench.stage import code_digests
from bench.store import Store
from tests.cxr_lt_trees import HEAD, mimic_tree

CLASSIFIER = Cost(flop=1e12, what="densenet121 at 64 px")


def by_hand(n_in: int, n_out: int, side: int, height: int, width: int) -> int:
    """Count a convolution's multiplications and additions, one by one; what reads the edge counts too."""
    found = 0
    for _ in itertools.product(range(n_out), range(height), range(width)):
        for _ in itertools.product(range(n_in), range(side), range(side)):
            found += 2
    return found


def test_operations_are_those_of_a_hand_made_loop() -> None:
    found = of_network(lambda: nn.Conv2d(3, 4, 3, padding=1), 3, 5, 6)
    assert found.forward == by_hand(3, 4, 3, 5, 6)
    assert of_network(lambda: nn.Linear(7, 5), 7).forward == 2 * 7 * 5
    assert found.bytes == 4 * (3 * 4 * 9 + 4)


def test_a_step_of_training_is_a_pass_forward_and_two_back() -> None:
    """Of the first layer one back: nobody asks for the gradient of the pixels."""
    one, two = 2 * 6 * 6, 2 * 6 * 3
    found = of_network(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), 6)
    assert (found.forward, found.training) == (one + two, 2 * one + 3 * two)


def test_counting_leaves_the_generator_alone_and_takes_no_memory() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    network = classifier_flops("densenet121", 10, 224)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.forward == pytest.approx(2 * 2.83e9, rel=0.01)  # multiplications and additions, published as 2.83 G
    assert network.bytes == pytest.approx(4 * 7.06e6, rel=0.02)
    assert count(lambda: torch.empty(100_000, 100_000) @ torch.empty(100_000, 100_000)) == 2e15


def test_sizes_are_those_that_the_stages_will_find() -> None:
    matrix = build_matrix(
        {
            "name": "sizes",
            "datasets": [{"kind": "phantom", "n_images": 60, "image_px": 32, "prevalence_floor": 0.3}],
            "split": {"min_positives": 1},
            "augment": {"per_class": 2, "counts": {"Fracture": 5}},
            "methods": ["baseline", "duplicate"],
            "classifier": {"architecture": "resnet18"},
        },
        "here",
    )
    cell, sizes = matrix.cells[1], Sizes()
    table = sizes.table(cell.dataset)
    assert table.images.shape == (60, 32, 32)
    assert sum(len(rows) for rows in sizes.rows(cell.split).values()) == 60
    assert sizes.samples(cell.augmented.plan, cell.augmented.train) == 4 * 2 + 5
    cost = cell.classifier.cost(sizes)
    n = len(sizes.train(cell.classifier.train)) + 13
    network = cell.classifier.settings.flops(10, 32)
    n_val = len(sizes.rows(cell.split)["val"])
    assert cost.flop == n // 32 * 10 * 32 * network.training + 6 * n_val * network.forward


def test_before_the_files_are_there_a_release_has_its_documented_size(tmp_path: Path) -> None:
    paper = MimicCxrLt(labels="/nowhere", root="/nowhere", image_px=512)
    found = paper.expected()
    assert len(found.known.labels) == pytest.approx(257_018, abs=2)
    assert "documented, not counted" in found.documented
    assert (found.known.head, found.known.tail) == (HEAD, PAPER_TAIL)
    rare = found.known.class_names.index("Pneumomediastinum")
    assert found.known.labels[:, rare].mean() == pytest.approx(788 / 264_849, rel=0.15)
    some = MimicCxrLt(labels="/nowhere", root="/nowhere", limit=6_538).expected()
    assert len(some.known.labels) == pytest.approx(25_702, rel=0.01)
    assert len(NihCxrLt(labels="/nowhere", root="/nowhere").expected().known.labels) == 112_120
    tree = mimic_tree(tmp_path)
    real = MimicCxrLt(**tree.settings()).expected()
    assert (len(real.known.labels), real.documented) == (len(tree.rows), "")
    assert (real.known.head, real.known.tail) == (HEAD, PAPER_TAIL)


def test_what_is_finished_is_counted_as_it_was_read(tmp_path: Path) -> None:
    """Pictures that were left out are in no file of labels."""
    dataset = Phantom(n_images=20, image_px=16)
    store = Store(tmp_path)
    store.get(dataset)
    sizes = Sizes(store)
    assert sizes.table(dataset).labels.tobytes() == Sizes().table(dataset).labels.tobytes()
    assert dataset.cost(sizes).bytes == dataset.cost(Sizes()).bytes


@pytest.fixture
def measured() -> Sample:
    return Sample("classifier", CLASSIFIER, 100.0, 90.0, 120.0, 3, "cpu", "a CPU", 1, "shipped")


def test_a_manifest_that_makes_no_sense_is_left_out(tmp_path: Path) -> None:
    store, dataset = Store(tmp_path), Phantom(n_images=12, image_px=32)
    store.get(dataset)
    whole = json.loads((store.folder(dataset) / "manifest.json").read_text())
    assert [s.stage for s in of_store(store)] == ["dataset-phantom"]
    split = {"class": "bench.split.Split", "dataset": {"stage": "split", "key": "c" * 32}}
    for key, changes in {
        "a" * 32: {"identity": {"class": ["bench.split.Split"]}},
        "b" * 32: {"seconds": None},
        "c" * 32: {"identity": split},  # its own input
        "d" * 32: {"identity": 3},
        "e" * 32: {"seconds": float("nan")},
        "f" * 32: {"threads": "two"},
    }.items():
        write_json(tmp_path / "dataset-phantom" / key / "manifest.json", whole | {"key": key} | changes)
    assert [s.n for s in of_store(store)] == [1]


@pytest.mark.parametrize("size", [float("nan"), float("inf"), -1.0, 1e308, 10**400], ids=lambda n: str(n)[:9])
def test_a_cost_that_is_no_size_is_refused(size: float) -> None:
    with pytest.raises(NoEstimate, match="its cost has flop"):
        Cost(flop=size)


def test_who_looks_at_images_that_are_not_read_gets_no_estimate() -> None:
    train = Sizes().train(
        build_matrix({"name": "m", "datasets": ["phantom"], "methods": ["baseline"], "classifier": {}}, "m")
        .cells[0]
        .augmented.train
    )
    assert len(train.images) == len(train.labels)
    with pytest.raises(NoEstimate, match="images, which are not read yet"):
        train.images[:2]


def test_an_equal_stage_takes_what_it_took(measured: Sample) -> None:
    told = Rates((measured,)).estimate("classifier", CLASSIFIER, "cpu")
    assert (told.seconds, told.times) == (pytest.approx(100), pytest.approx(1))
    assert told.sample is not None
    assert (told.sample.n, told.sample.name) == (3, "a CPU")
    thrice = Rates((measured,)).estimate("classifier", replace(CLASSIFIER, flop=3e12), "cpu")
    assert thrice.seconds == pytest.approx(300, rel=0.01)


def test_the_nearest_in_kind_and_size_is_asked_and_this_store_first(measured: Sample) -> None:
    small = replace(measured, cost=replace(CLASSIFIER, flop=1e9), seconds=5.0)
    other = replace(measured, cost=replace(CLASSIFIER, what="resnet18 at 32 px"), seconds=7.0)
    elsewhere = replace(measured, stage="scores", seconds=9.0)
    rates = Rates((small, other, elsewhere, measured))
    assert rates.estimate("classifier", CLASSIFIER, "cpu").seconds == pytest.approx(100)
    here = replace(measured, seconds=40.0, origin="this store")
    assert Rates((measured, here)).estimate("classifier", CLASSIFIER, "cpu").seconds == pytest.approx(40)
    toy = replace(here, cost=replace(CLASSIFIER, flop=1e6))  # says nothing of a night's work
    assert Rates((measured, toy)).estimate("classifier", CLASSIFIER, "cpu").seconds == pytest.approx(100)


def test_a_stage_of_a_second_tells_nothing_of_a_days_work(measured: Sample) -> None:
    short = replace(measured, cost=replace(CLASSIFIER, flop=1e10), seconds=1.0)
    told = Rates((short,)).estimate("classifier", CLASSIFIER, "cpu")
    assert told.sample is not None  # some tens of times the work
    told = Rates((short,)).estimate("classifier", replace(CLASSIFIER, flop=1e14), "cpu")
    assert told.sample is None
    assert told.seconds == pytest.approx(1e14 / 5e10, rel=0.01)


def test_a_gpu_that_was_never_measured_is_assumed_and_said_to_be(measured: Sample) -> None:
    told = Rates((measured,), tflops=20).estimate("classifier", CLASSIFIER, "gpu")
    assert told.sample is None
    assert told.seconds == pytest.approx(1e12 / 20e12, abs=0.1)
    gpu = replace(measured, device="gpu", name="a GPU", seconds=2.0)
    told = Rates((measured, gpu), tflops=20).estimate("classifier", CLASSIFIER, "gpu")
    assert told.seconds == pytest.approx(2)
    assert told.sample is not None
    assert told.sample.name == "a GPU"


def test_what_no_network_does_takes_a_gpus_machine_as_long_as_any(measured: Sample) -> None:
    drawn = replace(measured, stage="dataset-phantom", cost=Cost(images=100), seconds=2.0)
    told = Rates((drawn,)).estimate("dataset-phantom", Cost(images=1000), "gpu")
    assert told.seconds == pytest.approx(20, rel=0.05)
    assert told.sample is not None
    search = replace(measured, stage="scores", cost=Cost(host=1e11, flop=1e9), seconds=50.0)  # half of the model's time
    mixed = Rates((search,), tflops=1).estimate("scores", Cost(host=2e11, flop=1e12), "gpu")
    assert mixed.sample is None
    assert mixed.seconds == pytest.approx(100 + 1, rel=0.05)


PLUGIN = """
from bench.stage import Stage, inert

class Mine(Stage):
    x: int = 1

    def compute(self, work):
        work.out.joinpath("x").write_text({result})

    @inert
    def cost(self, sizes):
        {estimate}
"""


def test_another_estimate_leaves_keys_alone_and_another_result_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    texts = {
        "costs_a": PLUGIN.format(result='"1"', estimate="return None"),
        "costs_b": PLUGIN.format(result='"1"', estimate="import bench.networks; return bench.networks"),
        "costs_c": PLUGIN.format(result='"2"', estimate="return None"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    a, b, c = (list(code_digests(importlib.import_module(name).Mine).values()) for name in texts)
    assert a == b
    assert a != c
