"""Nothing of a credentialed data set leaves: every byte written for W&B and for the report to be passed on is looked at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.border_scan import Found, plant, scan
from tests.conftest import BENCH, ROOT
from tests.cxr_lt_trees import Tree, mimic_tree

SECRET = "Ward7-Qz4Kx"  # in the names of folders, so in every path
PLUGIN = """
from bench.contract import AugmentedBatch, Method
from bench.contract import Stage, not_semantic


class Odd(Stage):
    def compute(self, work):
        pass

    def open(self, folder):
        return {{"rows": 3, "{root}/a.jpg": 1.0, "p{patient}_score": 0.5, "worst": "{root}/a.jpg"}}


class Leaky(Method):
    name = "leaky"
    atlas: str = "{root}"
    only: list[int] = [{patient}]
    cache: str | None = not_semantic(None)
    says: str = "copies"

    def skip(self, train):
        return "patient {patient} in {root} has too few" if self.says == "skips" else None

    def augment(self, ctx):
        if self.says == "fails":
            raise ValueError("cannot read {root}/files/p10/p{patient}/{dicom}.jpg of patient {patient}")
        for index in ctx.batches(8):
            rows = [int(ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i]))) for i in index]
            import numpy as np

            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], np.array(rows)[:, None])

    def diagnostics(self, task):
        return Odd() if self.says == "copies" else None
"""

# The report to be passed on; then the same store's local report, and W&B with a guard that takes every data set for open.
REPORTS = """
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from bench.cli.main import main

from bench.privacy import border
from bench.tracking import marker
from bench.tracking import wandb_mirror as mirror
from bench.store.store import Store
from reports import redaction

given, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
for more in (["--share"], ["--out", str(out / "report")]):
    sys.argv = ["bench", "report", given, "--store", str(place), *more]
    with suppress(SystemExit):
        main()


def dashboard(folder):
    folder.mkdir()
    sys.argv = ["bench", "dashboard", given, "--store", str(place), "--dry-run"]
    with open(folder / "saved.json", "w") as file, redirect_stdout(file), suppress(SystemExit):
        main()


dashboard(place / "dashboard")
border.is_open = mirror.is_open = marker.is_open = redaction.is_open = lambda sharing: True
dashboard(out / "dashboard")
store = Store(place)
(out / "augmented").symlink_to(store.root / "augmented")
for record in sorted((store.root / "cells").rglob("record.json")):
    if (record.parent / "wandb.json").exists():
        (record.parent / "wandb.json").unlink()
        mirror.mirror(record.parent, out)
"""


@dataclass(frozen=True)
class Place:
    """Where everything is, and what the scanner found: as it is, and without the guard (`open_`)."""

    folder: Path
    tree: Tree
    report: Found
    wandb: Found
    dashboard: Found
    open_report: Found
    open_wandb: Found
    open_dashboard: Found

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def shared(self) -> Path:
        return self.store / "reports" / "border-shared"


def write_matrix(folder: Path, tree: Tree) -> Path:
    patient, dicom = tree.rows[0]["subject_id"], tree.rows[0]["dicom_id"]
    (folder / "plugins").mkdir()
    text = PLUGIN.format(root=tree.root, patient=patient, dicom=dicom)
    (folder / "plugins" / "leaky.py").write_text(text, encoding="utf-8")
    cache = {"cache": "scans-of-ward"}
    matrix = {
        "name": "border",
        "description": f"on {tree.root}, without patient {patient}",
        "datasets": [{"kind": "mimic-cxr-lt", "name": f"of-{patient}", **tree.settings(image_px=32)}],
        "split": {"min_positives": 1},
        "augment": {"per_class": 2},
        "methods": [
            "baseline",
            "duplicate",
            "ours@1",
            {"method": "leaky", "row": f"copies of p{patient}", "against": "duplicate", "settings": cache},
            {"method": "leaky", "row": "fails", "settings": {"says": "fails"}},
            {"method": "leaky", "row": "skips", "settings": {"says": "skips"}},
        ],
        "settings": {
            "ours": {
                "num_inference_steps": 2,
                "codec": {"generations": 1, "interaction_epochs": 1, "imitation_epochs": 1},
            }
        },
        "classifier": {"architecture": "resnet18", "steps": 1, "batch_size": 8, "n_validations": 1},
        "scores": {"n_bootstrap": 20},
        "fidelity": {"extractor": {"kind": "classifier"}},
        "diffusion": {"folder": "tiny"},
        "seeds": [0],
    }
    path = folder / "border.yaml"
    path.write_text(yaml.safe_dump(matrix), encoding="utf-8")
    return path


def arrays_of(store: Path) -> list[np.ndarray]:
    """Return images, latents, maps and masks, real and made, of every stage."""
    found = [np.load(p) for p in sorted(store.glob("*/*/**/*.npy"))]
    return [a for a in found if a.ndim >= 3 and len(a)]


def words_of(folder: Path, tree: Tree) -> list[str]:
    """Return what names somebody or some place: ids, paths, this machine."""
    ids = {str(r[n]) for r in tree.rows for n in ("subject_id", "study_id", "dicom_id")}
    names = {socket.gethostname(), str(Path.home())}
    return [*ids, SECRET, str(folder), "scans-of-ward", "Traceback", *(n for n in names if len(n) > 5)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("border")
    tree = mimic_tree(folder / SECRET, size=(48, 48))
    for path in tree.root.rglob("*.jpg"):
        Image.fromarray(plant(np.asarray(Image.open(path).convert("L")))).save(path, quality=95)
    matrix, store = write_matrix(folder, tree), folder / "store"
    env = os.environ | {"BENCH_METHODS": str(folder / "plugins"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # what W&B takes up by itself
    env |= {f"WANDB_{name}": f"about {tree.rows[0]['subject_id']}" for name in ("NOTES", "RUN_NOTES")}
    (folder / "config-defaults.yaml").write_text(yaml.safe_dump({"who": {"value": tree.rows[0]["subject_id"]}}))
    (folder / "wandb").mkdir()
    (folder / "wandb" / "settings").write_text(f"[default]\nrun_notes = {tree.rows[0]['subject_id']}\n")

    def command(*arguments: object, code: int = 0) -> str:
        done = subprocess.run([*map(str, arguments)], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr[-3000:]
        assert "arning" not in done.stderr
        return done.stderr

    run = ("run", matrix, "--store", store, "--jobs", 1, "--device", "cpu", "--wandb", "offline", "--quiet")
    said = command(*BENCH, *run, code=1)
    assert "1 of 6 cells failed" in said
    (folder / "open").mkdir()
    command(sys.executable, "-c", REPORTS, matrix, store, folder / "open")
    words, arrays = words_of(folder, tree), arrays_of(store)
    report, wandb, saved = (scan(store / n, words, arrays) for n in ("reports/border-shared", "wandb", "dashboard"))
    open_report, open_wandb, open_saved = (
        scan(folder / "open" / n, words, arrays) for n in ("report", "wandb", "dashboard")
    )
    return Place(folder, tree, report, wandb, saved, open_report, open_wandb, open_saved)


def test_a_report_to_be_passed_on_names_nobody_and_shows_nothing(place: Place) -> None:
    assert place.report.words == {}
    assert place.report.rows == set()
    assert place.report.marks == set()
    assert place.report.pictures >= 10  # charts, each as PNG and twice on the page


def test_what_is_written_for_wandb_names_nobody_and_shows_nothing(place: Place) -> None:
    assert place.wandb.words == {}
    assert place.wandb.rows == set()
    assert place.wandb.marks == set()
    assert place.wandb.pictures == 0
    assert len(list(place.store.glob("wandb/offline-run-*/*.wandb"))) == 6  # five cells, and the codec of one


def test_what_is_saved_of_a_dashboard_names_nobody_and_shows_nothing(place: Place) -> None:
    assert place.dashboard == Found()
    text = (place.store / "dashboard" / "saved.json").read_text(encoding="utf-8")
    assert "ap_Pneumothorax" in text  # aggregates of classes are there, pictures are not
    assert '"samples"' not in text
    assert '"pr_curves"' not in text
    assert json.loads(text)["figures"] == {}
    patient = str(place.tree.rows[0]["subject_id"])
    assert place.open_dashboard.words[patient] == {"saved.json"}
    assert '"samples"' in (place.folder / "open" / "dashboard" / "saved.json").read_text(encoding="utf-8")


def test_the_scanner_finds_all_of_it_where_the_guard_is_off(place: Place) -> None:
    patient = str(place.tree.rows[0]["subject_id"])
    assert "report.html" in place.open_report.words[patient]
    assert {"report.html", "matrix.yaml"} <= place.open_report.words[SECRET]
    assert "report.html" in place.open_report.marks  # in a WebP of a data URI
    assert {Path(n).suffix for n in place.open_report.marks} == {".html", ".png", ".pdf"}
    assert len({n for n in place.open_wandb.marks if n.endswith(".png")}) == 2  # copies; what is fused has no mark
    assert len({n for n in place.open_wandb.rows if n.endswith(".png")}) == 3
    assert any(n.endswith(".wandb") for n in place.open_wandb.words[SECRET])
    assert any(n.endswith(".wandb") for n in place.open_wandb.words[patient])


def test_the_scanner_finds_rows_of_numbers_of_every_kind(place: Place, tmp_path: Path) -> None:
    arrays = arrays_of(place.store)
    kinds = {a.dtype for a in arrays}
    assert {np.dtype("uint8"), np.dtype("float32")} <= kinds
    for i, array in enumerate(arrays):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a").write_bytes(b"head" + zlib.compress(array.tobytes()) + b"tail")
    found = scan(tmp_path, [], arrays).rows
    assert len(found) >= len(arrays) - 2  # a mask of two values has no line to tell it by


def test_charts_hold_no_raster_in_which_a_picture_could_be(place: Place) -> None:
    pdfs = list(place.shared.rglob("*.pdf"))
    assert len(pdfs) >= 5
    assert not [p.name for p in pdfs if b"/Subtype /Image" in p.read_bytes()]


def test_what_may_pass_is_there(place: Place) -> None:
    table = (place.shared / "table.csv").read_text()
    assert "Pneumothorax" in (place.shared / "table.md").read_text()
    assert table.count("\n") == 7
    assert "the reason is withheld" in table
    page = (place.shared / "report.html").read_text()
    assert "This report was written to be passed on" in page
    settings = yaml.safe_load((place.shared / "matrix.yaml").read_text())
    assert settings["datasets"][0]["root"] == "withheld"
    assert settings["datasets"][0]["release"] == "1.1.0-19"
    assert settings["settings"]["ours"]["num_inference_steps"] == 2
