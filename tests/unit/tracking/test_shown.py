"""Curves and fused pairs at W&B: what is picked of a cell, where it may go, and that it counts only when it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from bench.contract import AugmentedBatch, Context, Method
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.privacy.media import Table, read_media, write_media
from bench.results import record
from bench.results.cells import read_cell, read_matrix
from bench.results.shown import write_shown
from bench.results.tiles import ANCHOR_RGB, PARTNER_RGB, tile
from bench.store.store import Store
from bench.tracking import save_dashboard
from bench.tracking import tracker as track
from bench.tracking.marker import run_id
from bench.tracking.upload import Uploaded, upload
from tests import tiny_cells
from tests.conftest import ROOT
from tests.tiny_cells import tiny
from tests.track_fixtures import run, server  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb

Place = tuple[Store, Matrix]


class Halves(Method):
    """The left half of an anchor beside the right half of a partner, with what the report shows of fused images."""

    name: ClassVar[str] = "halves"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        for index in ctx.batches(8):
            anchors = np.array([ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            partners = np.array([int(ctx.rng(i).integers(len(ctx.train))) for i in index])
            images = ctx.train.images[anchors]
            half = images.shape[2] // 2
            images[:, :, half:] = ctx.train.images[partners][:, :, half:]
            mask = np.zeros((len(index), 8, 8), np.float32)
            mask[:, :, :4] = 1
            extras = {"anchor_cam": mask / 2, "mask": mask, "partner_cam": 1 - mask}
            labels = ctx.train.labels[anchors]
            yield AugmentedBatch(images, labels, np.stack([anchors, partners], axis=1), extras)


def known(patch: pytest.MonkeyPatch) -> None:
    found = {"baseline": tiny_cells.Baseline, "halves": Halves}
    patch.setattr("bench.plugins.registry.methods", lambda: found)


def a_matrix() -> Matrix:
    return build_matrix(tiny(methods=["halves"], settings={}), "tiny")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the matrix has run; nobody changes it."""
    store = Store(tmp_path_factory.mktemp("fused"))
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        run(a_matrix(), store, track.make_tracker("off", store, a_matrix()))
    return store


@pytest.fixture
def place(fused: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A store of its own with the finished stages, which are shared, and no records; and the matrix."""
    known(monkeypatch)
    (tmp_path / "store").mkdir()
    for path in fused.root.iterdir():
        if path.name not in ("cells", "wandb", "locks"):
            (tmp_path / "store" / path.name).symlink_to(path)
    return Store(tmp_path / "store"), a_matrix()


def send(place: Place, share_with: str | None = None, said: list[str] | None = None) -> Uploaded:
    say = (said if said is not None else []).append
    return upload(track.make_tracker("online", *place, say, share_with), place[1], lambda done, total: None)


def folder_of(place: Place) -> Path:
    return record.record_folder(place[0], place[1].cells[0])


def picked(place: Place) -> dict[str, Any]:
    store, matrix = place
    (cell,) = matrix.cells
    write_shown(store, read_cell(cell, store), folder_of(place))
    return read_media(folder_of(place), cell.key)


def test_curves_are_those_of_scikit_learn_on_the_test_images(place: Place) -> None:
    store, (cell,) = place[0], place[1].cells
    table, rows = store.open(cell.dataset), store.open(cell.split)["test"]
    predicted = np.load(store.folder(cell.scores) / "logits.npy")
    curves = picked(place)["pr_curves"]
    assert curves.columns == ("class", "recall", "precision", "no_skill")
    scores = store.open(cell.scores)
    assert {row[0] for row in curves.rows} == {name for name, ap in scores["ap"].items() if ap is not None}
    for name in {row[0] for row in curves.rows}:
        c = table.class_names.index(name)
        seen = ~np.isnan(table.labels[rows, c])
        precision, recall, thresholds = precision_recall_curve(table.labels[rows, c][seen], predicted[seen, c])
        mine = [row[1:] for row in curves.rows if row[0] == name]
        assert [at for at, _, _ in mine] == pytest.approx([(i + 1) / 50 for i in range(50)])
        for at, found, no_skill in mine:
            assert found == pytest.approx(precision[: len(thresholds)][recall[: len(thresholds)] >= at - 1e-9][-1])
            assert no_skill == pytest.approx(scores["prevalence"][name])


def test_pairs_are_the_first_samples_of_each_class_with_their_parents(place: Place) -> None:
    store, (cell,) = place[0], place[1].cells
    table, train = store.open(cell.dataset), store.open(cell.split)["train"]
    made = store.open(cell.augmented)
    pairs = picked(place)["fusion_pairs"]
    classes = [row[0] for row in pairs.rows]
    assert set(classes) == set(table.tail)
    assert len(classes) == min(2, 20 // len(table.tail)) * len(table.tail)
    firsts = {name: np.flatnonzero(made.target_class == table.class_names.index(name)) for name in table.tail}
    for number, (name, row) in enumerate(zip(classes, pairs.rows, strict=True)):
        sample = firsts[name][classes[:number].count(name)]
        shown = dict(zip(pairs.columns, row, strict=True))
        anchor, partner = (table.images[train[i]] for i in made.parents[sample])
        for column, image in {"anchor": anchor, "partner": partner, "result": made.images[sample]}.items():
            assert np.array_equal(shown[column].pixels, tile(image, 64))
        assert shown["mask"].pixels[0, 0].tolist() == list(ANCHOR_RGB)
        assert shown["mask"].pixels[-1, -1].tolist() == list(PARTNER_RGB)
        assert not np.array_equal(shown["anchor map"].pixels, shown["anchor"].pixels)
        assert name in shown["labels"]


def test_all_of_it_is_sent_once_and_looked_for(place: Place, server: Wandb, tmp_path: Path) -> None:  # noqa: F811
    assert send(place) == Uploaded(sent=1, there=0, lacking={}, unfinished=0)
    (found,) = server.runs.values()
    (artifact,) = server.artifacts.values()
    name = run_id(record.read_record(folder_of(place)))
    assert (artifact["name"], artifact["state"]) == (f"run-{name}-fusion_pairs", "COMMITTED")
    pairs = picked(place)["fusion_pairs"]
    pixels = {cell.pixels.tobytes() for row in pairs.rows for cell in row[1:7]}
    assert len([file for file in artifact["files"] if file.endswith(".png")]) == len(pixels)
    assert found["summary"]["fusion_pairs"]["nrows"] == len(pairs.rows)
    assert found["summary"]["pr_curves"]["nrows"] % 50 == 0
    assert found["files"][found["summary"]["pr_curves"]["path"]] > 0
    assert not [place for place in (str(place[0].root), str(ROOT), str(tmp_path)) if place in server.text]
    copies = (place[0].root / "wandb" / "cache" / "artifacts").rglob("*")  # which W&B makes of the pictures
    assert not [path for path in copies if path.is_file()]
    (folder_of(place) / "wandb.json").unlink()  # the mirror was killed before it wrote it
    assert send(place) == Uploaded(sent=0, there=1, lacking={}, unfinished=0)


def test_a_table_whose_pictures_did_not_arrive_is_not_sent(place: Place, server: Wandb) -> None:  # noqa: F811
    server.faults = {"pictures403"}
    (reason,) = send(place).lacking.values()
    assert "the server has not got the pictures of the table fusion_pairs" in reason
    server.faults = set()
    assert send(place) == Uploaded(sent=1, there=0, lacking={}, unfinished=0)
    assert {one["state"] for one in server.artifacts.values()} == {"COMMITTED"}


def test_what_an_earlier_version_has_sent_is_not_sent_again_and_named_nowhere(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(track, "write_shown", lambda *given: None)
        assert send(place).sent == 1
    (before,) = server.runs.values()
    assert "pr_curves" not in before["summary"]
    assert send(place) == Uploaded(sent=0, there=1, lacking={}, unfinished=0)
    (cell,) = save_dashboard.finished(place[1], read_matrix(place[1], place[0]), place[0])
    assert list(cell.sent.media) == ["samples", "per_class"]


def test_pictures_of_credentialed_data_wait_and_go_only_where_they_may(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    place, host = (place[0], a_matrix()), server.url.partition("//")[2]
    assert send(place).sent == 1
    assert not (folder_of(place) / "shown.npz").exists()
    assert send(place, host).sent == 1
    reduced, full = server.runs.values()
    assert {"pr_curves", "fusion_pairs"} <= set(full["summary"])
    assert (folder_of(place) / "shown.npz").exists()
    assert not {"pr_curves", "fusion_pairs", "samples"} & set(reduced["summary"])
    (artifact,) = server.artifacts.values()
    assert artifact["run"].rpartition("/")[2] == run_id(record.read_record(folder_of(place)), host)
    (folder_of(place) / "wandb.json").unlink()
    monkeypatch.setenv("WANDB_PROJECT", "another")
    assert send(place).sent == 1  # to anybody, with the file there
    assert len(server.artifacts) == 1
    (cell,) = save_dashboard.finished(place[1], read_matrix(place[1], place[0]), place[0])
    assert list(cell.sent.media) == ["per_class"]


def test_a_damaged_result_costs_the_pictures_alone(place: Place, server: Wandb) -> None:  # noqa: F811
    store, (cell,) = place[0], place[1].cells
    folder, said = store.folder(cell.scores), []
    whole = (folder / "logits.npy").read_bytes()
    (folder / "logits.npy").write_bytes(b"x" * len(whole))  # of the same size
    try:
        assert send(place, said=said).sent == 1
    finally:
        (folder / "logits.npy").write_bytes(whole)
    assert len(said) == 1
    assert f"warning: W&B gets no curves and no pairs of {cell.name}: " in said[0]


def test_what_is_there_stays_and_what_is_of_other_results_does_not(place: Place) -> None:
    key, folder = place[1].cells[0].key, folder_of(place)
    write_media(folder, key, {"mine": Table(("a",), [[1]])})
    assert set(picked(place)) == {"mine"}
    write_media(folder, "other", {"mine": Table(("a",), [[1]])})
    assert set(picked(place)) == {"pr_curves", "fusion_pairs"}
    (folder / "shown.npz").write_bytes(b"torn")
    assert set(picked(place)) == {"pr_curves", "fusion_pairs"}
