"""The fidelity stage and the extractors: what each figure compares, and null where nothing can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.augmented import Augmented
from bench.classifier import networks
from bench.classifier.classifier import Classifier
from bench.classifier.settings import ClassifierSettings
from bench.contract import AugmentedBatch, Context, Method, Plan
from bench.data.kinds.phantom import CLASS_NAMES
from bench.data.split import Split, SplitSettings, Train
from bench.errors import ConfigError
from bench.evaluation.extractors import ClassifierExtractor, InceptionExtractor, OracleExtractor, extract_all
from bench.evaluation.fidelity import Fidelity, RealFeatures
from bench.evaluation.measures import FidelitySettings
from bench.evaluation.oracle import build_oracle
from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS
from bench.metrics.cooccurrence import cooccurrence_gap
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance
from bench.metrics.manifold import MEASURES, manifold_measures
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.tables import Float32, Int64
from bench.testing.toy import ToyDataset
from tests.unit.classifier.classifier_fixtures import Twins, cell

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> str:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("oracle")
    torch.manual_seed(0)
    save_file({name: t.contiguous() for name, t in build_oracle().state_dict().items()}, str(folder / ORACLE_WEIGHTS))
    return str(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def fidelity(baseline: Classifier, per_class: int, **settings: object) -> Fidelity:
    chosen = FidelitySettings(**({"extractor": {"kind": "classifier"}} | settings)).with_classifier(baseline)
    made = cell(per_class=per_class)
    return Fidelity(split=made.split, train=made.train, augmented=made.augmented, settings=chosen)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classifier stand for an extractor that was trained on other images, whose floor is of train images."""
    monkeypatch.setattr(ClassifierExtractor, "saw_train", False)


def a_work(store: Store, stage: object, tmp_path: Path) -> Work:
    return Work(store, stage, tmp_path / "out", tmp_path / "ckpt", Execution(device="cpu"))


@pytest.mark.usefixtures("unseen")
def test_figures_are_the_distances_of_the_rows_they_name(store: Store) -> None:
    baseline = cell()
    stage = fidelity(baseline, per_class=6)
    found = store.get(stage)
    table, split = store.get(baseline.split.dataset), store.get(baseline.split)
    real = store.get(baseline).features(table.images)
    augmented = store.get(stage.augmented)
    held_out = np.concatenate([split["val"], split["test"]])
    for name in table.tail:
        c = table.class_names.index(name)
        reference = real[held_out[table.labels[held_out, c] == 1]]
        synthetic = store.get(baseline).features(augmented.images[augmented.target_class == c])
        row = found["per_class"][name]
        assert row["fid"] == pytest.approx(frechet_distance(synthetic, reference), rel=1e-3)
        assert row["kid"] == pytest.approx(kernel_distance(synthetic, reference), rel=1e-3, abs=1e-6)
        assert (row["n_real"], row["n_synthetic"]) == (len(reference), 6)
        assert row["n_floor"] == min(6, int((table.labels[split["train"], c] == 1).sum()))
        assert row["fid_floor"] is not None
        assert row["kid_floor"] is not None
    for k in ("fid", "kid"):
        assert found[f"{k}_tail"] == pytest.approx(np.mean([found["per_class"][n][k] for n in table.tail]))
        assert found[f"{k}_tail_floor"] == pytest.approx(
            np.mean([found["per_class"][n][f"{k}_floor"] for n in table.tail])
        )
    assert found["n_synthetic"] == 12
    assert found["n_tail_classes"] == 2
    assert found["label_fidelity"] is None
    assert found["label_fidelity_tail"] is None
    assert found["nearest_train"]["synthetic"] == pytest.approx(0, abs=1e-4)  # copies of train images
    assert found["nearest_train"]["held_out"] > 0.1
    assert found["nearest_train"]["without_parents"] > 0.1
    assert found["metric_id"] == stage.settings.extractor.metric_id


@pytest.mark.usefixtures("unseen")
def test_manifolds_and_the_spread_of_kid_are_of_the_rows_they_name(store: Store) -> None:
    stage = fidelity(cell(), per_class=8, k_neighbors=2, kid_subsets=30)
    found = store.get(stage)
    table, split, augmented = store.get(stage.split.dataset), store.get(stage.split), store.get(stage.augmented)
    real = store.get(cell()).features(table.images)
    held_out = np.concatenate([split["val"], split["test"]])
    for name in table.tail:
        c = table.class_names.index(name)
        reference = real[held_out[table.labels[held_out, c] == 1]]
        synthetic = store.get(cell()).features(augmented.images[augmented.target_class == c])
        row = found["per_class"][name]
        assert {m: row[m] for m in MEASURES} == pytest.approx(manifold_measures(synthetic, reference, 2))
        assert row["kid_sd"] > 0
        assert all(row[f"{m}_real"] is not None for m in MEASURES)
    rows = [found["per_class"][name] for name in table.tail]
    for m in MEASURES:
        assert found[f"{m}_tail"] == pytest.approx(np.mean([row[m] for row in rows]))
        assert found[f"{m}_tail_real"] == pytest.approx(np.mean([row[f"{m}_real"] for row in rows]))
    assert found["k_neighbors"] == 2


class Same(ToyDataset):
    """Both tail classes are on the same images."""

    kind: ClassVar[str] = "toy-same"

    def _label(self, labels: Float32, rows: Int64, draw: np.random.Generator) -> None:
        super()._label(labels, rows, draw)
        labels[rows, 3] = labels[rows, 2]


class InOrder(Method):
    """Copies of a class's images one after the other: alike for classes on the same images."""

    name: ClassVar[str] = "in-order"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        for index in ctx.batches(8):
            having = [ctx.train.rows_with(ctx.samples[i]) for i in index]
            rows = np.array([h[i % len(h)] for i, h in zip(index, having, strict=True)])
            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], rows[:, None])


def test_subsets_of_classes_are_drawn_independently(store: Store) -> None:
    """Of two classes with the same images the sd of the mean is sd / sqrt 2; with shared subsets it would be sd."""
    split = Split(dataset=Same(n_images=120), settings=SplitSettings(min_positives=1))
    train = Train(split=split)
    augmented = Augmented(method=InOrder(), train=train, plan=Plan(per_class=14), seed=0)
    settings = FidelitySettings(extractor=ClassifierExtractor(), kid_subsets=400).with_classifier(cell())
    found = store.get(Fidelity(split=split, train=train, augmented=augmented, settings=settings))
    one, other = (found["per_class"][name] for name in store.get(split.dataset).tail)
    assert one["kid"] == pytest.approx(other["kid"])  # the same images on both sides
    assert one["kid_sd"] != other["kid_sd"]
    assert found["kid_tail_sd_subsets"] == pytest.approx(np.hypot(one["kid_sd"], other["kid_sd"]) / 2, rel=0.15)


@pytest.mark.usefixtures("unseen")
def test_the_floor_is_the_mean_over_draws_of_real_images(store: Store) -> None:
    stage = fidelity(cell(), per_class=4, floor_draws=200)
    found, table, split = store.get(stage), store.get(stage.split.dataset), store.get(stage.split)
    real = store.get(cell()).features(table.images)
    held_out = np.concatenate([split["val"], split["test"]])
    rng, drawn = np.random.default_rng(0), []
    for name in table.tail:
        has = table.labels[:, table.class_names.index(name)] == 1
        reference, others = real[held_out[has[held_out]]], real[split["train"][has[split["train"]]]]
        pick = [others[rng.permutation(len(others))[:4]] for _ in range(200)]
        drawn.append([[frechet_distance(x, reference), kernel_distance(x, reference)] for x in pick])
        row = found["per_class"][name]
        for i, distance in enumerate(("fid", "kid")):
            values = np.array(drawn[-1])[:, i]
            error = 4 * values.std() / np.sqrt(100)  # of the difference of two means over 200 draws
            assert row[f"{distance}_floor"] == pytest.approx(values.mean(), abs=error)
            assert row[f"{distance}_floor_spread"] == pytest.approx(values.std(), rel=0.25)
    of_tail = np.array(drawn).mean(axis=0).std(axis=0)
    assert found["fid_tail_floor_spread"] == pytest.approx(of_tail[0], rel=0.25)
    assert found["kid_tail_floor_spread"] == pytest.approx(of_tail[1], rel=0.25)
    assert found["floor_draws"] == 200


@pytest.mark.usefixtures("unseen")
def test_a_floor_of_all_real_images_has_no_spread(store: Store) -> None:
    found = store.get(fidelity(cell(), per_class=60))
    assert found["fid_tail_floor"] > 0
    assert found["fid_tail_floor_spread"] is None
    assert all(row["fid_floor_spread"] is None for row in found["per_class"].values())


def test_the_share_of_the_reference_that_one_patient_has_is_told(store: Store) -> None:
    stage = fidelity(cell(), per_class=4)
    found, table, split = store.get(stage), store.get(stage.split.dataset), store.get(stage.split)
    held_out = np.concatenate([split["val"], split["test"]])
    for name in table.tail:
        who = table.patients[held_out][table.labels[held_out, table.class_names.index(name)] == 1].tolist()
        assert found["per_class"][name]["largest_patient"] == max(who.count(p) for p in who) / len(who)


def test_other_pictures_of_a_parents_patient_are_no_unrelated_images(store: Store) -> None:
    """The toy has two images of each patient. A copy of one must not be near to train by the other one."""
    stage = fidelity(cell(), per_class=6)
    found, table, split = store.get(stage), store.get(stage.split.dataset), store.get(stage.split)
    real, train = store.get(cell()).features(table.images), split["train"]
    parents = train[np.asarray(store.get(stage.augmented).parents)[:, 0]]
    apart = []
    for parent in parents:
        others = train[table.patients[train] != table.patients[parent]]
        apart.append(np.linalg.norm(real[others] - real[parent], axis=1).min())
    raw = np.load(store.folder(stage) / "nearest_without_parents.npy")
    np.testing.assert_allclose(raw, apart, rtol=1e-3)
    assert found["nearest_train"]["without_parents"] == pytest.approx(np.median(apart), rel=1e-3)


def test_manifolds_are_null_where_a_side_has_too_few_images(store: Store) -> None:
    found = store.get(fidelity(cell(), per_class=4, k_neighbors=4))
    assert found["fid_tail"] is not None
    assert all(found[f"{m}_tail"] is None for m in MEASURES)
    assert all(row[f"{m}_real"] is None for row in found["per_class"].values() for m in MEASURES)
    few = store.get(fidelity(cell(), per_class=3))
    assert few["kid_tail"] is not None
    assert few["kid_tail_sd_subsets"] is None  # half of three images is no set


def test_copies_are_told_by_their_distance_to_train(store: Store) -> None:
    lonely = Split(dataset=ToyDataset(lonely=True), settings=SplitSettings(min_positives=1))
    train = Train(split=lonely)
    augmented = Augmented(method=Twins(), train=train, plan=Plan(per_class=6), seed=0)
    settings = FidelitySettings(extractor=ClassifierExtractor()).with_classifier(cell())
    stage = Fidelity(split=lonely, train=train, augmented=augmented, settings=settings)
    found, folder = store.get(stage), store.folder(stage)
    raw = {name: np.load(folder / f"nearest_{name}.npy") for name in ("synthetic", "without_parents", "held_out")}
    assert [len(raw["synthetic"]), len(raw["without_parents"])] == [12, 12]
    assert found["nearest_train"]["without_parents"] == pytest.approx(np.median(raw["without_parents"]))
    median, near = balanced_quantiles(store, stage, raw["held_out"])
    assert found["nearest_train"]["held_out"] == pytest.approx(median)
    assert found["nearest_ratio"] == pytest.approx(0, abs=1e-4)
    assert found["nearest_ratio_without_parents"] == pytest.approx(np.median(raw["without_parents"]) / median)
    assert found["copies_share"] == 1
    assert found["copies_share_without_parents"] == pytest.approx((raw["without_parents"] < near).mean())


def balanced_quantiles(store: Store, stage: Fidelity, distances: np.ndarray) -> list[float]:
    """Return median and 5th percentile when each held-out image is there lcm / n times for each class of n images."""
    table, split = store.get(stage.split.dataset), store.get(stage.split)
    held_out = np.concatenate([split["val"], split["test"]])
    has = table.labels[held_out][:, [table.class_names.index(name) for name in table.tail]] == 1
    has = has[has.any(axis=1)]
    assert len(has) == len(distances)
    n = has.sum(axis=0)
    assert n[0] != n[1]
    copies = [d for d, row in zip(distances, has, strict=True) for _ in range(int((row * np.lcm(*n) // n).sum()))]
    return [float(np.quantile(copies, q, method="inverted_cdf")) for q in (0.5, 0.05)]


def test_without_images_there_is_nothing_near(store: Store) -> None:
    stage = fidelity(cell(), per_class=0)
    found = store.get(stage)
    for column in ("nearest_ratio", "nearest_ratio_without_parents", "copies_share", "copies_share_without_parents"):
        assert found[column] is None
    assert found["nearest_train"]["held_out"] > 0.1
    assert np.load(store.folder(stage) / "nearest_synthetic.npy").shape == (0,)


@pytest.mark.parametrize("per_class", [0, 1])
def test_null_where_nothing_can_be_compared(per_class: int, store: Store) -> None:
    stage = fidelity(cell(), per_class)
    found = store.get(stage)
    assert found["fid_tail"] is None
    assert found["kid_tail"] is None
    assert found["fid_tail_floor"] is None
    assert found["n_synthetic"] == 2 * per_class
    assert found["n_tail_classes"] == 0
    text = (store.folder(stage) / "fidelity.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == found


@pytest.mark.usefixtures("unseen")
def test_a_mean_floor_is_of_the_classes_that_the_mean_distance_is_of(store: Store, tmp_path: Path) -> None:
    """The last class has one image in train, hence a distance (to two held-out images) and no floor."""
    lonely = Split(dataset=ToyDataset(lonely=True), settings=SplitSettings(min_positives=1))
    train = Train(split=lonely)
    augmented = Augmented(method=Twins(), train=train, plan=Plan(per_class=4), seed=0)
    settings = FidelitySettings(extractor=ClassifierExtractor()).with_classifier(cell())
    found = store.get(Fidelity(split=lonely, train=train, augmented=augmented, settings=settings))
    floors = [row["fid_floor"] for row in found["per_class"].values()]
    assert floors[0] is not None
    assert floors[1] is None
    assert found["n_tail_classes"] == 2
    assert found["fid_tail"] is not None
    assert found["fid_tail_floor"] is None
    assert found["kid_tail_floor"] is None
    assert found["fid_tail_equal_n"] is None


@pytest.mark.parametrize("reference", ["held_out", "val"])
def test_an_extractor_that_saw_train_has_no_floor_of_train_images(reference: str, store: Store) -> None:
    """To it perfect images are like held-out ones, which are nearer to each other than train images are to them."""
    found = store.get(fidelity(cell(), per_class=7, reference=reference))  # no other test has this result in the store
    assert found["fid_tail"] is not None
    for figure in ("fid_tail_floor", "kid_tail_floor", "fid_tail_floor_spread", "fid_tail_equal_n", "recall_tail_real"):
        assert found[figure] is None
    assert {row["n_floor"] for row in found["per_class"].values()} == {0}


def test_an_extractor_that_saw_train_takes_its_floor_from_val_where_test_is_the_reference(store: Store) -> None:
    stage = fidelity(cell(), per_class=61, reference="test")  # so many that all of val is drawn
    found, table, split = store.get(stage), store.get(stage.split.dataset), store.get(stage.split)
    real = store.get(cell()).features(table.images)
    for name in table.tail:
        has = table.labels[:, table.class_names.index(name)] == 1
        val, test = (real[split[part][has[split[part]]]] for part in ("val", "test"))
        row = found["per_class"][name]
        assert (row["n_floor"], row["n_real"]) == (len(val), len(test))
        assert row["fid_floor"] == pytest.approx(frechet_distance(val, test), rel=1e-3)


def test_reference_train_takes_its_floor_from_held_out(store: Store) -> None:
    stage = fidelity(cell(), 6, reference="train")
    found, table, split = store.get(stage), store.get(stage.split.dataset), store.get(stage.split)
    for name in table.tail:
        c = table.class_names.index(name)
        has = table.labels[:, c] == 1
        assert found["per_class"][name]["n_real"] == int(has[split["train"]].sum())
        assert found["per_class"][name]["fid_floor"] > 1e-3
        held_out = np.concatenate([split["val"], split["test"]])
        there, train = (table.labels[rows[has[rows]]] for rows in (held_out, split["train"]))
        gap = cooccurrence_gap(there, train, c)
        assert gap > 0
        assert found["per_class"][name]["cooccurrence_gap_real"] == pytest.approx(gap)


def test_real_features_are_one_stage_for_all_methods(store: Store) -> None:
    baseline = cell()
    few, many = fidelity(baseline, 2), fidelity(baseline, 6)
    assert few.key != many.key
    assert few.real_features.key == many.real_features.key
    assert few.real_features in few.inputs()


def test_label_fidelity_is_the_share_that_the_oracle_calls_positive(
    store: Store, oracle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Opacity", "Fracture", "Nodule")  # what the toy has of it
    monkeypatch.setattr(OracleExtractor, "class_names", property(lambda self: names))
    stage = fidelity(cell(), 6, extractor=OracleExtractor(folder=oracle))
    found, augmented, table = store.get(stage), store.get(stage.augmented), store.get(stage.split.dataset)
    positives = stage.settings.extractor.load(a_work(store, stage, Path()))(np.array(augmented.images)).positives
    for name in table.tail:
        made = augmented.target_class == table.class_names.index(name)
        assert found["label_fidelity"][name] == pytest.approx(positives[made, names.index(name)].mean())
    assert found["label_fidelity_tail"] == pytest.approx(np.mean([found["label_fidelity"][n] for n in table.tail]))


def test_label_fidelity_of_classes_that_the_oracle_does_not_know_is_null(store: Store, oracle: str) -> None:
    found = store.get(fidelity(cell(), 5, extractor=OracleExtractor(folder=oracle)))
    assert found["label_fidelity"]["Nodule"] is None
    assert found["label_fidelity_tail"] == found["label_fidelity"]["Fracture"] is not None


def test_oracle_features_do_not_depend_on_the_batch(oracle: str, store: Store, tmp_path: Path) -> None:
    extractor = OracleExtractor(folder=oracle)
    stage = RealFeatures(dataset=cell().split.dataset, extractor=extractor)
    extract = extractor.load(a_work(store, stage, tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (10, 48, 48), dtype=np.uint8)
    one, all_ = (extract_all(extract, images, batch_size=size) for size in (3, 64))
    assert one.features.shape == (10, 64)
    assert one.features.dtype == np.float32
    assert one.positives.shape == (10, len(CLASS_NAMES))
    assert one.positives.dtype == bool
    np.testing.assert_allclose(one.features, all_.features, rtol=1e-4, atol=1e-5)


def test_ids_tell_kind_resize_and_weights_apart(oracle: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    extractors = [
        OracleExtractor(folder=oracle),
        ClassifierExtractor(classifier=cell()),
        ClassifierExtractor(classifier=cell(seed=1)),
        ClassifierExtractor(classifier=cell(image_px=64)),
        InceptionExtractor(weights=str(tmp_path / "a")),
        InceptionExtractor(weights=str(tmp_path / "a"), resize="tf1"),
        InceptionExtractor(weights=str(tmp_path / "b")),
    ]
    assert len({e.metric_id for e in extractors}) == len(extractors)
    assert len({RealFeatures(dataset=cell().split.dataset, extractor=e).key for e in extractors}) == len(extractors)
    assert "2048d" in extractors[-1].metric_id
    assert "antialias299" in extractors[-1].metric_id


@pytest.mark.parametrize("architecture", get_args(ClassifierSettings.model_fields["architecture"].annotation))
def test_the_id_of_every_classifier_tells_the_width_of_its_features(architecture: str) -> None:
    width = networks.head_of(networks.build(architecture, 2, seed=0), architecture).in_features
    found = ClassifierExtractor(classifier=cell(architecture=architecture)).metric_id
    assert found.startswith(f"{architecture}-{width}d-native-")


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"no Inception weights at .*download https://.* set fidelity.extractor.weights"
    ):
        InceptionExtractor().content()
    with pytest.raises(ConfigError, match=r"fidelity.extractor.folder: no .*bench pretrain oracle"):
        OracleExtractor(folder=str(tmp_path)).content()
    with pytest.raises(ConfigError, match="names no classifier"):
        _ = ClassifierExtractor().metric_id
    with pytest.raises(
        ValidationError, match="does not match any of the expected tags: 'oracle', 'classifier', 'inception', 'xrv'"
    ):
        FidelitySettings(extractor={"kind": "orcale"})


def test_a_file_that_is_no_inception_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x80\x04not weights")
    extractor = InceptionExtractor(weights=str(tmp_path / "w.pth"))
    with pytest.raises(ConfigError, match=r"w.pth is no weights-inception-2015-12-05-6726825d.pth"):
        extractor.load(a_work(Store(tmp_path), None, tmp_path))


def test_settings_survive_json(oracle: str) -> None:
    settings = FidelitySettings(extractor=OracleExtractor(folder=oracle), reference="val", kid_subset_size=10)
    assert FidelitySettings.model_validate(json.loads(settings.model_dump_json())) == settings


def test_inception_runs_from_a_local_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patch:  # random weights under the real names
        patch.setattr(extractor, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "w.pth")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    found = {}
    for resize in ("antialias", "tf1"):
        extract = InceptionExtractor(weights=str(tmp_path / "w.pth"), resize=resize).load(a_work(store, None, tmp_path))
        found[resize] = extract_all(extract, images, batch_size=2).features
    assert found["tf1"].shape == (3, 2048)
    assert found["tf1"].dtype == np.float32
    assert not np.allclose(found["tf1"], found["antialias"], rtol=1e-3, atol=0)
    theirs = network(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1))[0]
    np.testing.assert_allclose(found["tf1"], theirs.numpy(), rtol=1e-3, atol=1e-12)
