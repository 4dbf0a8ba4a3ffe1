"""The border: what may leave of data that are not open, and that nothing else does."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from bench.data.kinds.folder import FolderDataset
from bench.diffusion.model import DiffusionModel
from bench.errors import ConfigError, StoreError
from bench.matrix.build import build_matrix
from bench.pipeline.settings import not_semantic
from bench.privacy import border
from bench.privacy import names as words
from bench.privacy.border import check_server, derived_from, payload
from bench.privacy.media import Medium, Picture, Table, as_json, write_media
from bench.results.cells import CellResult
from bench.store.store import Store
from reports import redaction as export
from tests.conftest import ROOT
from tests.unit.reports import report_fixtures as fixtures

PLACES = [
    "/data/mimic",
    "~/scans",
    "C:\\scans",
    "p10/p10000032/s50414267",
    "files/p10/x.jpg",
    "scan.dcm",
    "see /data/x, line 3",
    "labels.csv",
]
IDS = [
    "p10000032",
    "10000032",
    "00000001_000",
    "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014",
    "1.2.840.113619.2.5",
    "patient 10000032",
]
NAMES = [
    "Enlarged Cardiomediastinum",
    "ours@5",
    "+ linear decoder",
    "oracle-64d-antialias64-8b2badd2",
    "2.14.1+cu126",
    "5b77e9dc6aa47eb64363f429bb8f0222a970b83b",
    "val_ap",
    "Größe ≥ 3",
    "",
]


@pytest.mark.parametrize("text", [*PLACES, *IDS, "two\nlines"])
def test_a_place_or_an_id_is_no_name(text: str) -> None:
    assert not words.is_name(text)
    assert not words.is_plain(text)


@pytest.mark.parametrize("text", NAMES)
def test_names_pass(text: str) -> None:
    assert words.is_name(text)
    assert words.is_plain(text)


def test_one_slash_is_allowed_in_a_name_alone() -> None:
    assert words.is_name("Nodule/Mass")
    assert not words.is_plain("Nodule/Mass")


def toy(preset: str) -> dict[str, Any]:
    """Return a matrix that draws with a preset's settings, and the tiny weights."""
    return {
        "name": "m",
        "datasets": ["phantom"],
        "diffusion": {"preset": preset, "folder": "tiny"},
        "methods": ["baseline", "roentgen@2"],
        "classifier": {"steps": 1},
    }


class Inner(BaseModel):
    weights: str | None = not_semantic(None)
    n: int = 3


class Outer(BaseModel):
    root: str = not_semantic("default")
    kind: str = not_semantic("x", word=True)
    workers: int = not_semantic(4)
    several: dict[str, Any] = not_semantic({})
    note: str = "as is"
    inner: tuple[Inner, ...] = ()
    counts: dict[str, int] = {}


def test_settings_that_say_where_are_known_by_their_declaration_not_by_a_slash() -> None:
    given = Outer(root="scans", kind="tiny", workers=8, several={"a": "b"}, inner=(Inner(weights="roentgen"),))
    for told in (True, False):
        found = words.reduced(given, told)
        assert (found.root, found.kind, found.workers, found.several) == ("withheld", "tiny", 8, {})
        assert found.inner[0] == Inner(weights="withheld")
    assert words.reduced(Outer(), True) == Outer()  # a default is nobody's place
    assert words.places(given) == {"scans", "roentgen"}


def test_other_settings_are_looked_at_too() -> None:
    given = Outer(note="of p10000032", counts={"Fracture": 4, "p10/p10000032/s1": 2, "Mass": 10_000_032})
    found = words.reduced(given, True)
    assert (found.note, found.counts) == ("withheld", {"Fracture": 4, "Mass": "withheld"})
    assert words.reduced(given, False) == given
    assert words.reduced(Outer(note="in /data/x or not"), False).note == "in withheld or not"


def test_cells_that_choose_rows_are_withheld_though_they_look_harmless() -> None:
    where = {"subject_id": ("s0", 12), "sex": "F", "p10/p10000032/s1": 1}
    given = FolderDataset(csv="labels.csv", patient_column="subject_id", where=where)
    assert words.reduced(given, True).where == {"subject_id": "withheld", "sex": "withheld"}
    assert words.reduced(given, False).where == given.where


def a_record(**changes: Any) -> dict[str, Any]:
    return {
        "key": "a1b2c3d4e5f60718a1b2c3d4e5f60718",
        "matrix": "m",
        "cell": "ward/leaky p10000032/s3",
        "dataset": "ward",
        "sharing": "credentialed",
        "method": "leaky p10000032",
        "seeds": {"cell": 3, "method": 7570336705058487230},
        "config": {
            "dataset.only": [10000032],
            "dataset.home": "~x",
            "classifier.steps": 2,
            "method.name": "leaky",
            "method.denoise_steps": 4,
            "method.seed": 123456789012,
        },
        "seconds": 1.5,
        "versions": {"torch": "2.14.1"},
        "git": None,
        "skip": "patient 10000032 has no image",
        "scores": {
            "ap": {"Fracture": 0.5, "/data/p10000032": 0.25},
            "map_all": 0.375,
            "selection": "best_val_map_all",
            "rows": [0.1, 0.2],
            "note": "see p10000032",
        },
        "fidelity": {"metric_id": "oracle-64d-8b2badd2", "reference": "/data/x"},
        "diagnostics": {
            **{f"image_{i}": 0.1 for i in range(200)},
            "share": 0.5,
            "p10000032_score": 0.5,
            "/data/x.jpg": 1.0,
            "nearest_patient": 10000032,
            "seed_patient": 10000032,
            "nearest_study": 50000011.0,
        },
        "classifier": {"architecture": "resnet18", "class_names": ["Fracture"]},
        "history": [{"step": 1, "val_ap": {"Fracture": 0.5, "/data/p10000032": 0.1}, "image": "a.jpg"}],
        "stage_records": {"split/files": {"rows": [{"patient": 10_000_032.0}]}},
        "synthetic": "augmented/x",
    } | changes


@pytest.mark.parametrize("sharing", ["credentialed", "Open", "unheard of", ""])
def test_of_what_is_not_open_only_what_is_listed_leaves(sharing: str, tmp_path: Path) -> None:
    sent = payload(a_record(sharing=sharing), tmp_path)
    assert (sent.name, sent.group, sent.job_type) == ("ward/withheld/s3", "m", "withheld")
    assert sent.tags == ("ward", "withheld", "skipped")
    assert re.fullmatch("[0-9a-f]{32}", sent.config["run"].pop("payload"))
    assert sent.config == {
        "method": "leaky",
        "method_label": "withheld",
        "denoise_steps": 4,
        "dataset": "ward",
        "seed": 3,
        "matrix": "m",
        "settings": {
            "dataset": {"only": ["withheld"], "home": "withheld"},
            "classifier": {"steps": 2},
            "method": {"name": "leaky", "seed": 123456789012, "denoise_steps": 4},
        },
        "run": {
            "key": "a1b2c3d4e5f60718a1b2c3d4e5f60718",
            "seeds": {"cell": 3, "method": 7570336705058487230},
            "versions": {"torch": "2.14.1"},
            "git": None,
            "seconds": 1.5,
        },
        "classes": {"Fracture": "Fracture", "class_2": "class 2"},
    }
    assert sent.summary == {
        "stage_seconds": 1.5,
        "ap_Fracture": 0.5,
        "ap_class_2": 0.25,
        "map_all": 0.375,
        "selection": "best_val_map_all",
        "metric_id": "oracle-64d-8b2badd2",
        "diagnostics_share": 0.5,
        "selected_architecture": "resnet18",
    }
    assert sent.curves == {"classifier": [{"step": 1.0, "val_ap_Fracture": 0.5, "val_ap_class_2": 0.1}]}
    assert sent.headlines == {"map_all": 0.375, "stage_seconds": 1.5}
    rows = [["Fracture", "Fracture", 0.5], ["class 2", "class_2", 0.25]]
    assert sent.media == {"per_class": Table(("class", "short_name", "ap"), rows)}


def picked(folder: Path, key: str) -> dict[str, Medium]:
    """Write what was picked of a cell's images beside a record, and a set of synthetic images."""
    (folder / "augmented" / "x").mkdir(parents=True)
    np.save(folder / "augmented" / "x" / "images.npy", np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
    np.save(folder / "augmented" / "x" / "target_class.npy", np.array([1, 1, 0]))
    picture = Picture(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "of a class")
    rows = [["Fracture", picture, None], ["Mass", picture, 0.5]]
    media = {"fusion_pairs": Table(("class", "anchor", "labels"), rows), "one": picture}
    write_media(folder, key, media)
    return media


def alike(found: Medium, wanted: Medium) -> bool:
    mine, theirs = [], []
    return as_json(found, mine) == as_json(wanted, theirs) and all(map(np.array_equal, mine, theirs))


def test_what_was_picked_of_images_leaves_only_where_everything_may(tmp_path: Path) -> None:
    host, key = "wandb.hospital.org", a_record()["key"]
    media = picked(tmp_path, key)
    closed = [a_record(), a_record(sharing="Open"), a_record(shared_with=["wandb.other.org"])]
    for record in closed:
        for server in (None, host):
            assert set(payload(record, tmp_path, server, tmp_path).media) == {"per_class"}
    assert set(payload(a_record(shared_with=[host]), tmp_path, None, tmp_path).media) == {"per_class"}
    for record, server in ((a_record(sharing="open"), None), (a_record(shared_with=[host]), host)):
        sent = payload(record, tmp_path, server, tmp_path)
        assert list(sent.media) == ["samples", "per_class", "fusion_pairs", "one"]
        assert all(alike(sent.media[name], medium) for name, medium in media.items())
        assert sent.of_training().media == {}


def test_what_was_picked_of_other_results_is_left_and_a_damaged_file_is_told(tmp_path: Path) -> None:
    picked(tmp_path, "of other results")
    assert set(payload(a_record(sharing="open"), tmp_path, None, tmp_path).media) == {"samples", "per_class"}
    (tmp_path / "shown.npz").write_bytes((tmp_path / "shown.npz").read_bytes()[:100])
    with pytest.raises(StoreError, match=r"shown.npz cannot be read .* delete it, and `bench upload` writes it anew"):
        payload(a_record(sharing="open"), tmp_path, None, tmp_path)
    assert set(payload(a_record(), tmp_path, None, tmp_path).media) == {"per_class"}  # it is not even opened


def test_the_digest_covers_what_was_picked_and_is_what_it_was_without_it(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        return payload(a_record(sharing="open") | changes, tmp_path, None, tmp_path).config["run"]["payload"]

    without = digest()
    media = picked(tmp_path, a_record()["key"])
    with_all = digest()
    other = Picture(np.zeros((4, 4, 3), np.uint8), "of a class")
    write_media(tmp_path, a_record()["key"], media | {"one": other})
    assert len({without, with_all, digest()}) == 3
    (tmp_path / "shown.npz").unlink()
    # What version 0.1.0 wrote before anything was picked: such runs are not sent again.
    assert digest() == "a1fd91e96888bc839a919069b3c2b7e7"
    assert payload(a_record(), tmp_path).config["run"]["payload"] == "aed4b8c842301ea5bc33b04d53d028c6"


def test_a_server_that_the_record_allows_gets_everything_and_it_is_said(tmp_path: Path) -> None:
    host = "wandb.hospital.org"
    sent = payload(a_record(shared_with=[host]), tmp_path, host)
    assert sent.config["run"]["shared_with"] == host
    assert sent.name == "ward/leaky p10000032/s3"
    assert sent.curves["split/files/rows"] == [{"patient": 10_000_032.0}]
    for others in (payload(a_record(), tmp_path, host), payload(a_record(shared_with=[host]), tmp_path)):
        assert "shared_with" not in others.config["run"]
        assert others.name == "ward/withheld/s3"


def test_the_digest_of_a_run_follows_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    digests = [
        payload(a_record(**changes), tmp_path).config["run"]["payload"]
        for changes in ({}, {"stages": {"x": 1}}, {"seconds": 2.5}, {"fidelity": None}, {"history": []})
    ]
    assert digests[0] == digests[1]  # the stages of a record are not sent
    assert len(set(digests)) == 4


URL = "https://wandb.hospital.org"
REFUSED = {
    "offline": ("wandb.hospital.org", "offline", None, "works only with --wandb online, got --wandb offline"),
    "off": ("wandb.hospital.org", "off", None, "works only with --wandb online"),
    "the cloud": ("api.wandb.ai", "online", None, "is W&B's own cloud"),
    "the cloud's new name": ("api.forge.coreweave.com", "online", None, "is W&B's own cloud"),
    "the cloud for one": ("us.wandb.io:443", "online", None, "want a host in small letters"),
    "the cloud in capitals": ("API.wandb.ai", "online", None, "want a host in small letters"),
    "the cloud with a dot": ("api.wandb.ai.", "online", None, "want a host in small letters"),
    "an address": ("https://wandb.hospital.org", "online", None, "want a host in small letters, e.g. wandb"),
    "a user": ("me@wandb.hospital.org", "online", None, "want a host"),
    "a path": ("wandb.hospital.org/api", "online", None, "want a host"),
    "no port": ("wandb.hospital.org:x", "online", None, "want a host"),
    "nothing": ("", "online", None, "want a host"),
    "another": (
        "wandb.hospital.org",
        "online",
        "https://api.wandb.ai",
        "W&B talks to api.wandb.ai; set WANDB_BASE_URL",
    ),
    "another port": ("wandb.hospital.org", "online", f"{URL}:8080", "W&B talks to wandb.hospital.org:8080"),
    "one that looks so": ("wandb.hospital.org", "online", "https://wandb.hospital.org@api.wandb.ai/", "api.wandb.ai"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_server_that_may_not_have_it_is_refused(case: str) -> None:
    server, mode, url, said = REFUSED[case]
    with pytest.raises(ConfigError) as raised:
        check_server(server, mode, url)
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"--share-with {server}: ")


@pytest.mark.parametrize(
    ("server", "url"), [("wandb.hospital.org", f"{URL}:443/"), ("10.0.0.5:8080", "http://10.0.0.5:8080")]
)
def test_the_server_that_wandb_talks_to_is_accepted(server: str, url: str) -> None:
    check_server(server, "online", url)


def test_a_folder_is_credentialed_unless_its_owner_says_open() -> None:
    assert FolderDataset(csv="a.csv").sharing == "credentialed"
    assert FolderDataset(csv="a.csv", sharing="open").sharing == "open"

    class Plain(fixtures.Dataset):
        kind = "plain"

    assert Plain().sharing == "credentialed"  # a plugin that does not say
    assert not border.is_open(Plain().sharing)


def test_derived_weights_are_said_to_fall_under_the_terms() -> None:
    ward, blobs = (fixtures.make_matrix(datasets=(d,)).cells[0] for d in (fixtures.Ward(), fixtures.Blobs()))
    assert "learn from ward fall under the same terms" in str(derived_from(ward.augmented.train))
    assert derived_from(blobs.augmented.train) is None


def test_what_a_model_draws_is_treated_as_what_it_learnt_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    matrix = build_matrix(toy("roentgen-v1"), "m.yaml")
    assert {c.label: c.sharing for c in matrix.cells} == {"baseline": "open", "roentgen@2": "credentialed"}
    found = export.export(matrix, [CellResult(c, "missing") for c in matrix.cells], store, True)
    assert not found.may_show("phantom")
    assert {c.sharing for c in build_matrix(toy("tiny"), "m.yaml").cells} == {"open"}
    assert DiffusionModel(folder="mine").sharing == "credentialed"  # nobody knows what it learnt from
    assert DiffusionModel(preset="tiny", folder="mine").sharing == "credentialed"
    assert DiffusionModel(preset="tiny").sharing == DiffusionModel(preset="sd-1.5").sharing == "open"
    assert DiffusionModel(folder="mine", sharing="open").sharing == DiffusionModel().sharing == "open"


def test_no_code_uploads_a_file() -> None:
    uploads = {"log_artifact", "log_model", "link_artifact", "link_model", "upload_file", "Artifact", "log_code"}
    for folder in ("bench", "methods", "reports", "sweeps"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    owner = getattr(node.value, "id", "")
                    assert node.attr not in uploads, path
                    assert not (owner in ("wandb", "run") and node.attr in ("save", "watch")), path


def test_what_a_method_takes_from_elsewhere_counts_too() -> None:
    cell = build_matrix(toy("tiny"), "m.yaml").cells[1]
    secret = cell.split.model_copy(update={"dataset": fixtures.Ward()})
    donors = cell.augmented.model_copy(update={"needs": {"donors": secret}})
    assert replace(cell, augmented=donors).sharing == "credentialed"
    assert cell.sharing == "open"
