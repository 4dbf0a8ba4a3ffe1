"""The border: what may leave of data that are not open, and that nothing else does."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bench import border, export, words
from bench.border import check_server, derived_from, payload
from bench.datasets.folder import FolderDataset
from bench.errors import BorderError, ConfigError
from bench.matrix import build_matrix
from bench.results import CellResult
from bench.stage import not_semantic
from bench.store import Store
from bench.study import Study
from reports import write_report
from reports.folder import MARKER
from tests.conftest import ROOT
from tests.unit import report_fixtures as fixtures

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
        },
        "classifier": {"architecture": "resnet18", "class_names": ["Fracture"]},
        "history": [{"step": 1, "val_ap": {"Fracture": 0.5, "/data/p10000032": 0.1}, "image": "a.jpg"}],
        "stage_records": {"split/files": {"rows": [{"patient": 10_000_032.0}]}},
        "synthetic": "augmented/x",
    } | changes


@pytest.mark.parametrize("sharing", ["credentialed", "Open", "unheard of", ""])
def test_of_what_is_not_open_only_what_is_listed_leaves(sharing: str, tmp_path: Path) -> None:
    sent = payload(a_record(sharing=sharing), tmp_path)
    assert (sent.name, sent.group, sent.job_type, sent.grid) == ("ward/withheld/s3", "m", "withheld", None)
    assert sent.tags == ("ward", "withheld", "skipped")
    assert sent.config == {
        "dataset.only": ["withheld"],
        "dataset.home": "withheld",
        "classifier.steps": 2,
        "method.seed": 123456789012,
        "run.key": "a1b2c3d4e5f60718a1b2c3d4e5f60718",
        "run.seeds.cell": 3,
        "run.seeds.method": 7570336705058487230,
        "run.versions.torch": "2.14.1",
        "run.git": None,
        "run.seconds": 1.5,
    }
    assert sent.summary == {
        "ap/Fracture": 0.5,
        "ap/class 2": 0.25,
        "map_all": 0.375,
        "selection": "best_val_map_all",
        "metric_id": "oracle-64d-8b2badd2",
        "diagnostics/share": 0.5,
        "selected/architecture": "resnet18",
    }
    assert sent.curves == {"classifier": [{"step": 1.0, "val_ap/Fracture": 0.5, "val_ap/class 2": 0.1}]}


def test_a_server_that_the_record_allows_gets_everything_and_it_is_said(tmp_path: Path) -> None:
    host = "wandb.hospital.org"
    sent = payload(a_record(shared_with=[host]), tmp_path, host)
    assert sent.config["run.shared_with"] == host
    assert sent.name == "ward/leaky p10000032/s3"
    assert sent.curves["split/files/rows"] == [{"patient": 10_000_032.0}]
    for others in (payload(a_record(), tmp_path, host), payload(a_record(shared_with=[host]), tmp_path)):
        assert "run.shared_with" not in others.config
        assert others.name == "ward/withheld/s3"


URL = "https://wandb.hospital.org"
REFUSED = {
    "offline": ("wandb.hospital.org", "offline", None, "goes with --wandb online alone, got --wandb offline"),
    "off": ("wandb.hospital.org", "off", None, "online alone"),
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
    assert not found.shows("phantom")
    assert {c.sharing for c in build_matrix(toy("tiny"), "m.yaml").cells} == {"open"}


def test_no_code_uploads_a_file() -> None:
    uploads = {"log_artifact", "log_model", "link_artifact", "link_model", "upload_file", "Artifact", "log_code"}
    for folder in ("bench", "methods", "reports", "sweeps"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    owner = getattr(node.value, "id", "")
                    assert node.attr not in uploads, path
                    assert not (owner in ("wandb", "run") and node.attr in ("save", "watch")), path


# ---- reports


class Kept(fixtures.Ward):
    """Credentialed, read from a place."""

    kind = "kept"
    root: str = not_semantic("")


class Open(fixtures.Blobs):
    kind = "open"
    root: str = not_semantic("")


FAILED = "cannot read /data/ward7/p10/p10000032/x.jpg of patient 10000032"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[CellResult], Store]:
    """Two methods on one data set of each kind, the first of them failed."""
    folder = tmp_path_factory.mktemp("mixed")
    datasets = (Kept(root="/data/ward7"), Open(root="/data/open7"))
    matrix, store = fixtures.make_matrix(methods=fixtures.METHODS[:2], datasets=datasets), Store(folder / "store")
    settings = matrix.settings.model_copy(update={"description": "of /data/ward7 and p10000032"})
    matrix = replace(matrix, settings=settings)
    results = fixtures.with_nearest(fixtures.fill(matrix, store), store)
    broken = [
        replace(r, state="failed", scores=None, fidelity=None, history=[], failure={"error": FAILED})
        if r.cell.label == "baseline"
        else r
        for r in results
    ]
    return matrix, broken, store


def test_each_data_set_of_a_report_to_be_passed_on_is_treated_its_own_way(prepared: Any, tmp_path: Path) -> None:
    matrix, results, store = prepared
    paths = write_report(matrix, results, store, tmp_path / "out", share=True)
    names = {p.name for p in paths}
    assert "open-samples-smote.png" in names
    assert not [n for n in names if n.startswith("kept-samples")]
    assert "kept-nearest-train-image.pdf" in names
    page = paths[0].read_text()
    assert "of kept none may be passed on, real or synthetic" in page
    assert "the reason is withheld" in page
    assert "cannot read withheld of patient 10000032" in page  # the open data set's own
    texts = "".join(
        p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in (".html", ".md", ".yaml", ".csv")
    )
    assert "/data/" not in texts
    assert "of withheld and withheld" in texts
    settings = yaml.safe_load((tmp_path / "out" / "matrix.yaml").read_text())
    assert [d["root"] for d in settings["datasets"]] == ["withheld", "withheld"]
    assert {m for r in results for m in (r.cell.name,)} == {c.name for c in matrix.cells}  # what was given is as it was


def test_what_a_method_takes_from_elsewhere_counts_too() -> None:
    cell = build_matrix(toy("tiny"), "m.yaml").cells[1]
    secret = cell.split.model_copy(update={"dataset": fixtures.Ward()})
    donors = cell.augmented.model_copy(update={"needs": {"donors": secret}})
    assert replace(cell, augmented=donors).sharing == "credentialed"
    assert cell.sharing == "open"


def test_a_report_goes_where_a_link_leads_and_never_where_the_command_runs(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    write_report(small, results[:1], store, tmp_path / "link", share=True)
    assert (tmp_path / "there" / MARKER).is_file()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--out \.: is the folder that the command runs in; give a new one"):
        write_report(small, results[:1], store, Path("."), share=True)


def test_no_machine_is_named_in_what_is_passed_on(prepared: Any) -> None:
    there, here = (export.export(*prepared, passed_on) for passed_on in (True, False))
    assert there.hosts({"ward-node-3"}) == []
    assert here.hosts({"ward-node-3"}) == ["ward-node-3"]


def test_the_folder_of_a_report_to_be_passed_on_holds_nothing_else(prepared: Any, tmp_path: Path) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    out = tmp_path / "out"
    paths = write_report(small, results[:1], store, out, share=True)
    assert set((out / MARKER).read_text().splitlines()[1:]) == {str(p.relative_to(out)) for p in paths}
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    write_report(small, results[:1], store, out, share=True)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    with pytest.raises(ConfigError, match="holds a report to be passed on; give a local one another folder"):
        write_report(small, results[:1], store, out)
    (out / "figures").mkdir(exist_ok=True)
    (out / "figures" / "old.png").write_bytes(b"a picture")
    with pytest.raises(ConfigError, match=r"holds files that no --share wrote \(figures/old.png\); give a new folder"):
        write_report(small, results[:1], store, out, share=True)
    assert (out / "figures" / "old.png").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_slips_through_is_found_before_anything_is_written(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    monkeypatch.setattr(export, "plain_words", lambda text: text)
    with pytest.raises(BorderError, match=r"\(report\.html\); nothing was written"):
        write_report(small, results[:1], store, tmp_path / "out", share=True)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_whose_axis_is_a_place_is_left_out(prepared: Any) -> None:
    matrix, results, store = prepared
    for x, kept in (("dataset.root", False), ("classifier.settings.steps", True)):
        study = Study(x=x, line="row", columns=["map_tail"], levels=["baseline"])
        settings = matrix.settings.model_copy(update={"study": study})
        found = export.export(replace(matrix, settings=settings), results, store, True)
        assert (found.matrix.settings.study is not None) == kept
