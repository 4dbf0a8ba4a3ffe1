"""The paper's data sets, on trees of the shape of their downloads: what is read, chosen, kept and refused."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bench.data import bulk_decode as cxr_lt_decode
from bench.data.images import read_bytes, read_image
from bench.data.kinds.cxr_lt.choice import sample_patients
from bench.data.kinds.cxr_lt.dataset import MimicCxrLt, NihCxrLt
from bench.data.kinds.cxr_lt.releases import MIMIC, PAPER_TAIL
from bench.errors import DataError
from bench.plugins import registry
from bench.store.store import Store
from tests.cxr_lt_trees import HEAD, Tree, mimic_tree, nih_tree

SPELT_2024 = {"No Finding": "Normal", "Pleural Thickening": "Pleural_Thickening"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A tree of the 26 classes that no test changes: laterals, paths with and without files/, no file missing."""
    return mimic_tree(tmp_path_factory.mktemp("mimic"), release="1.1.0-26", prefixes=("files/", ""))


@pytest.fixture
def tree(tmp_path):
    """A small tree of the paper's 19 classes to damage."""
    return mimic_tree(tmp_path / "tree", n_patients=20)


def mimic(tree: Tree, **settings) -> MimicCxrLt:
    return MimicCxrLt(**tree.settings(**settings))


def read(dataset, tmp_path: Path):
    return Store(tmp_path / "store").get(dataset)


def fault(dataset, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(dataset, tmp_path)
    return told(caught.value)


def told(error: DataError) -> str:
    """Return the line, after looking for ids and paths in it and in all that a log or a record would hold."""
    assert "\n" not in str(error)
    logged = "".join(traceback.format_exception(error))
    assert not re.search(r"\b[ps]?(1000\d{4}|5000\d{4})\b|p10/|\.jpg", logged), f"an id or path: {logged}"
    return str(error)


def rewrite(path: Path, change) -> None:
    """Let `change(header, rows)` alter a label file, where rows are dicts."""
    with open(path, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        header, rows = list(reader.fieldnames), list(reader)
    change(header, rows)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def truth(rows, names) -> np.ndarray:
    return np.array([[row[n] for n in names] for row in rows], dtype=np.float32)


def in_order(tree: Tree) -> list[dict]:
    return [row for part in ("train", "val", "test") for row in tree.part(part)]


# --- what is read


@pytest.mark.parametrize(
    "shape",
    [
        {"release": "1.1.0-19"},
        {"release": "1.1.0-19", "prefixes": ("",), "files_folder": False},
        {"release": "1.1.0-26", "prefixes": ("files/", ""), "laterals": False},
        {"release": "1.1.0-26", "prefixes": ("",), "without": ("subject_id", "study_id"), "laterals": False},
        {"release": "2.0.0-40", "path_column": "fpath", "spell": SPELT_2024, "laterals": False},
        {"release": "2.0.0-40", "path_column": "fpath", "files_folder": False, "laterals": False},
    ],
    ids=["19", "19-bare", "26", "26-ids-in-path", "40", "40-bare"],
)
def test_every_layout_gives_what_was_written(tmp_path, shape):
    tree = mimic_tree(tmp_path / "tree", n_patients=20, **shape)
    dataset = mimic(tree, release=shape["release"], classes="all")
    table, rows = read(dataset, tmp_path), in_order(tree)
    assert table.class_names == MIMIC[shape["release"]].classes
    np.testing.assert_array_equal(table.labels, truth(rows, table.class_names))
    assert table.splits.tolist() == [("train", "val", "test").index(r["part"]) for r in rows]
    for ours, theirs in ((table.patients, "subject_id"), (_beside(dataset, tmp_path, "studies"), "study_id")):
        assert _same_groups(ours, [r[theirs] for r in rows])
        assert ours.max() < len(rows), "numbers of our own, not the release's"
    base = tree.root / "files" if shape.get("files_folder", True) else tree.root
    for i in (0, 41, len(rows) - 1):
        np.testing.assert_array_equal(table.images[i], read_image(base / rows[i]["rest"], 16, "pad", "window"))


def _beside(dataset, tmp_path, name):
    return np.load(Store(tmp_path / "store").folder(dataset) / f"{name}.npy")


def _same_groups(ours, theirs) -> bool:
    pairs = set(zip(ours.tolist(), theirs, strict=True))
    return len(pairs) == len(set(ours.tolist())) == len(set(theirs))


@pytest.mark.parametrize("release", ["multi-label", "single-label", "single-label-balanced"])
@pytest.mark.parametrize("packed", [False, True])
def test_nih_in_every_layout(tmp_path, release, packed):
    tree = nih_tree(tmp_path / "tree", release, n_patients=20, packed=packed, spell=SPELT_2024)
    table, rows = read(NihCxrLt(**tree.settings(release=release)), tmp_path), in_order(tree)
    np.testing.assert_array_equal(table.labels, truth(rows, table.class_names))
    assert _same_groups(table.patients, [r["subj_id"] for r in rows])
    assert {"No Finding", "Pleural Thickening"} <= set(table.class_names)
    where = next(tree.root.rglob(rows[50]["id"]))
    np.testing.assert_array_equal(table.images[50], read_image(where, 16, "pad", "window"))
    if release != "multi-label":
        assert (table.labels.sum(axis=1) == 1).all()


def test_labels_may_name_the_releases_folder_itself(tree, tmp_path):
    inside = tree.files["train"].parent
    assert inside != tree.labels
    assert mimic(tree).key == MimicCxrLt(**tree.settings(labels=str(inside))).key


def test_unknown_labels_are_unknown(tree, tmp_path):
    def change(header, rows):
        rows[0]["Fracture"], rows[1]["Fracture"], rows[2]["Fracture"] = "-1", "", "1.0"

    rewrite(tree.files["train"], change)
    table = read(mimic(tree), tmp_path)
    np.testing.assert_array_equal(table.labels[:3, table.class_names.index("Fracture")], [np.nan, np.nan, 1])


def test_sharing():
    assert (MimicCxrLt.sharing, NihCxrLt.sharing) == ("credentialed", "open")


# --- what is chosen


def test_the_papers_classes(shared, tmp_path):
    known = mimic(shared, release="1.1.0-26").known_labels()
    counts = {
        n: sum(r[n] for r in shared.part("train") if r["ViewPosition"] != "LATERAL") for n in MIMIC["1.1.0-26"].classes
    }
    head = sorted((c for c in counts if c not in PAPER_TAIL), key=lambda c: -counts[c])[:5]
    assert known.class_names == (*head, *PAPER_TAIL)
    assert set(head) == set(HEAD)


def test_by_rank_and_by_name(shared):
    everything = mimic(shared, release="1.1.0-26", classes="all").known_labels()
    train = everything.labels[everything.splits == 0].sum(axis=0)
    ranked = [everything.class_names[i] for i in np.argsort(-train, kind="stable")]
    chosen = mimic(shared, release="1.1.0-26", classes=(2, "normal", 26, "pleural_thickening"), tail=(26,))
    assert chosen.known_classes() == (ranked[1], "No Finding", ranked[25], "Pleural Thickening")
    known = chosen.known_labels()
    assert (known.head, known.tail) == ((ranked[1], "No Finding", "Pleural Thickening"), (ranked[25],))
    few = mimic(shared, release="1.1.0-26", classes="all", n_tail=3)
    assert set(few.known_labels().tail) == set(ranked[-3:])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": ("Fractur", "Edema")}, "no class 'Fractur'; did you mean 'Fracture'?"),
        ({"classes": (0, 1)}, "want a rank from 1 (most frequent in train) to 26, got 0"),
        ({"classes": (1, 27)}, "got 27"),
        ({"classes": ("Edema", "edema")}, "class 'Edema' is given twice"),
        ({"classes": ("Edema", "Mass"), "tail": ("Hernia",)}, "tail: no class 'Hernia'"),
        ({"classes": ("Edema", "Mass"), "tail": ("Mass",), "head": ("Mass",)}, "Mass in head and in tail"),
        ({"classes": ("Edema", "Mass"), "tail": ("Mass", "Edema")}, "all 2 classes are tail"),
        ({"views": ("PA", "LATERALL")}, "views: no row is 'LATERALL'; did you mean 'LATERAL'?"),
        ({"limit": 5}, "raise it, or lower keep_tail"),
    ],
)
def test_choices_that_cannot_be_met(shared, tmp_path, settings, said):
    assert said in fault(mimic(shared, release="1.1.0-26", **settings), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"classes": ("Edema",)},
        {"classes": "paper", "n_tail": 2},
        {"classes": "all", "tail": ("Edema",), "n_tail": 2},
        {"keep_tail": 0.5},
        {"views": ()},
    ],
)
def test_settings_that_contradict_each_other(shared, settings):
    with pytest.raises(ValidationError):
        mimic(shared, **settings)


def test_nih_has_not_the_papers_classes(tmp_path):
    tree = nih_tree(tmp_path / "tree", n_patients=10)
    assert "'paper' needs Enlarged Cardiomediastinum, Fracture" in fault(
        NihCxrLt(**tree.settings(classes="paper")), tmp_path
    )


def test_views(shared, tmp_path):
    rows = in_order(shared)
    table = read(mimic(shared, release="1.1.0-26", views=("pa",)), tmp_path)
    kept = [i for i, r in enumerate(rows) if r["ViewPosition"] == "PA"]
    source = _beside(mimic(shared, release="1.1.0-26", views=("PA",)), tmp_path, "source_rows")
    assert source.tolist() == kept
    assert len(table.images) == len(kept)
    assert len(mimic(shared, release="1.1.0-26", views="all").known_labels().labels) == len(rows)
    facts = json.loads(
        (Store(tmp_path / "store").folder(mimic(shared, release="1.1.0-26", views=("PA",))) / "source.json").read_text()
    )
    assert facts["rows_in_other_views"] == len(rows) - len(kept)


def test_views_must_be_told_where_not_all_are_frontal(tmp_path):
    tree = mimic_tree(tmp_path / "tree", n_patients=10, release="1.1.0-26", without=("ViewPosition",))
    assert "no column that says a picture's view; set views: all" in fault(mimic(tree, release="1.1.0-26"), tmp_path)
    assert mimic(tree, release="1.1.0-26", views="all").known_labels() is not None


def limited(tree, limit, keep_tail=1.0, seed=0, **settings):
    return mimic(
        tree, release="1.1.0-26", limit=limit, keep_tail=keep_tail, sample_seed=seed, classes=("Edema", "Support Devices", 26), tail=(26,), **settings
    ).known_labels()  # fmt: skip


def test_the_files_of_another_release_are_recognised(shared, tmp_path):
    assert "holds the files of release '1.1.0-26'; set `release` to it" in fault(mimic(shared), tmp_path)


def test_a_limit_takes_whole_patients_and_every_tail_positive(shared):
    everything, drawn = limited(shared, 60), limited(shared, 40)
    tail = everything.labels[:, 2] == 1
    assert len(np.unique(everything.patients)) == 60
    assert len(np.unique(drawn.patients)) == 40
    assert (drawn.labels[:, 2] == 1).sum() == tail.sum()
    whole = [(everything.patients == p).sum() for p in np.unique(drawn.patients)]
    assert [(drawn.patients == p).sum() for p in np.unique(drawn.patients)] == whole
    assert set(np.unique(drawn.splits)) == {0, 1, 2}


def test_a_share_of_the_tails_patients(shared):
    everything = limited(shared, 60)
    with_tail = np.unique(everything.patients[everything.labels[:, 2] == 1])
    drawn = limited(shared, 40, keep_tail=0.5)
    kept = np.unique(drawn.patients[drawn.labels[:, 2] == 1])
    assert len(kept) == int(np.ceil(len(with_tail) / 2))
    assert set(kept) < set(with_tail)


def test_a_draw_without_regard_to_labels_keeps_their_frequency():
    patients = np.arange(1000) // 2
    tail = patients % 10 == 0
    shares = []
    for seed in range(30):
        rows = sample_patients(patients, tail, 100, None, seed, "here")
        assert len(np.unique(patients[rows])) == 100
        assert rows.sum() == 200
        shares.append(tail[rows].mean())
    assert np.mean(shares) == pytest.approx(0.1, abs=4 * np.std(shares) / np.sqrt(30))
    assert np.std(shares) > 0


def test_where_nothing_is_drawn_how_does_not_matter(shared):
    assert mimic(shared, release="1.1.0-26", keep_tail=None).key == mimic(shared, release="1.1.0-26").key


def test_the_draw_is_seeded(shared):
    one, again, other = (limited(shared, 40, seed=s).patients.tolist() for s in (1, 1, 2))
    assert one == again != other


# --- what enters the key


def test_the_key_is_of_the_labels_and_the_settings_alone(tree, tmp_path):
    key = mimic(tree).key
    moved = Tree(tmp_path / "l", tmp_path / "r", tree.rows)
    shutil.copytree(tree.labels, moved.labels)
    assert mimic(moved, workers=7).key == key, "no place, no speed; the pictures are not even looked at"
    for other in ({"image_px": 8}, {"fit": "crop"}, {"jpeg": "full"}, {"missing": "leave_out"}, {"limit": 20},
                  {"views": ("PA", "AP", "LL")}, {"classes": "all"}):  # fmt: skip
        assert mimic(moved, **other).key != key, other
    assert mimic(moved, views=("pa", "AP")).key == key
    rewrite(moved.labels / tree.files["val"].relative_to(tree.labels), lambda header, rows: rows.pop())
    assert mimic(moved).key != key


def test_a_tree_that_is_not_there_can_be_planned_up_to_its_key(tmp_path):
    dataset = MimicCxrLt(labels=str(tmp_path / "nowhere"), root=str(tmp_path))
    assert dataset.known_classes() is None
    assert dataset.known_labels() is None
    with pytest.raises(DataError, match="no such folder; check the setting 'labels'"):
        _ = dataset.key


# --- what is refused, by file and row, never by id


def _cell(column, value, row=4):
    def change(header, rows):
        rows[row][column] = value

    return change


def _without(column):
    return lambda header, rows: header.remove(column)


def _other_patients_path(header, rows):
    rows[4]["path"] = rows[-1]["path"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cell("Edema", "yes"), "row 6: class 'Edema' is 'yes'; allowed: 1, 0, -1 (uncertain) or blank"),
        (_cell("Edema", "0.5"), "row 6: class 'Edema' is '0.5'"),
        (_cell("subject_id", ""), "row 6: column 'subject_id' holds no whole number"),
        (_cell("study_id", "x"), "row 6: column 'study_id' holds no whole number"),
        (_cell("path", ""), "row 6: column 'path' does not name a picture as the release does"),
        (_cell("path", "files/p10/../../etc/passwd"), "row 6: column 'path' does not name"),
        (_other_patients_path, "row 6: column 'subject_id' and the path name different ones"),
        (_without("path"), "no column 'path' (have"),
        (_without("Edema"), "class 'Edema': no column 'Edema'"),
        (lambda header, rows: rows.clear(), "no rows below the header"),
        (lambda header, rows: rows.append(rows[0]), "test.csv row 14: the same picture as"),
    ],
)  # fmt: skip
def test_a_label_file_that_cannot_be_used(tree, tmp_path, change, said):
    part = "test" if "test.csv" in said else "train"
    rewrite(tree.files[part], change)
    with pytest.raises(DataError) as caught:
        _ = mimic(tree).key
    text = told(caught.value).replace("labels_test", "test")
    assert said in text.replace("row 18", "row 14")
    assert tree.files[part].name in str(caught.value)


def test_a_class_under_two_spellings(tree, tmp_path):
    def change(header, rows):
        header.append("Normal")
        for row in rows:
            row["Normal"] = 0

    rewrite(tree.files["val"], change)
    assert "class 'No Finding' is there twice (No Finding, Normal)" in fault(mimic(tree), tmp_path)


def test_a_file_that_is_no_csv(tree, tmp_path):
    tree.files["val"].write_bytes(b"PK\x03\x04 and so on")
    assert "spreadsheet or zip" in fault(mimic(tree), tmp_path)


def test_a_row_of_another_length(tree, tmp_path):
    with open(tree.files["val"], "a", encoding="utf-8") as handle:
        handle.write("files/p10/p10000001,10000001,3\n")
    assert "3 columns, the header has" in fault(mimic(tree), tmp_path)


def test_a_missing_label_file(tree, tmp_path):
    tree.files["test"].unlink()
    said = fault(mimic(tree), tmp_path)
    assert "miccai2023_mimic-cxr-lt_labels_test.csv" in said
    assert "CSV files there:" in said


def test_a_patient_in_two_parts(tree, tmp_path):
    taken = []

    rewrite(tree.files["train"], lambda header, rows: taken.append(rows.pop(9)))

    def change(header, rows):
        rows.insert(2, taken[0])

    rewrite(tree.files["val"], change)
    said = fault(mimic(tree), tmp_path)
    assert f"{tree.files['train']} row " in said
    assert f"{tree.files['val']} row 4 are of one patient; a patient must be in one part" in said


def test_missing_pictures_are_counted_and_named_by_row(tree, tmp_path):
    rows = in_order(tree)
    gone = [0, 5, 30, len(rows) - 1]
    for i in gone:
        (tree.root / "files" / rows[i]["rest"]).unlink()
    said = fault(mimic(tree), tmp_path)
    assert "4 missing pictures: " in said
    assert "labels_train.csv row 2: no such file; " in said
    assert "labels_train.csv row 7: no such file; " in said
    assert said.endswith("and 1 more")
    dataset = mimic(tree, missing="leave_out")
    table = read(dataset, tmp_path)
    kept = [i for i in range(len(rows)) if i not in gone]
    np.testing.assert_array_equal(table.labels, truth([rows[i] for i in kept], table.class_names))
    facts = json.loads((Store(tmp_path / "store").folder(dataset) / "source.json").read_text())
    assert (facts["missing_pictures"], facts["images"]) == (4, len(kept))


def test_a_wrong_root_is_not_a_tree_of_missing_pictures(tree, tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in ("refuse", "leave_out"):
        assert "check 'root'" in fault(mimic(tree, root=str(tmp_path / "empty"), missing=missing), tmp_path)
    assert "no such folder; check the setting 'root'" in fault(mimic(tree, root=str(tmp_path / "no")), tmp_path)


def test_a_damaged_picture_is_mended_and_alone_read_again(tree, tmp_path):
    rows = in_order(tree)
    path = tree.root / "files" / rows[70]["rest"]
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    dataset, store = mimic(tree), Store(tmp_path / "store")
    said = fault(dataset, tmp_path)
    number = 1 + rows[:71].index(rows[70]) - [r["part"] for r in rows].index(rows[70]["part"])
    assert f"1 bad picture: {tree.files[rows[70]['part']].name} row {number + 1}: damaged or cut off" in said
    path.write_bytes(good)
    first = tree.root / "files" / rows[0]["rest"]
    first.write_bytes(b"would be refused if it were read once more")
    np.testing.assert_array_equal(store.get(dataset).images[70], read_image(path, 16, "pad", "window"))


def test_a_disk_that_fails_while_decoding(tree, tmp_path, monkeypatch):
    real, broken = read_bytes, tree.root / "files" / tree.rows[0]["rest"]

    def fails(path):
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(cxr_lt_decode, "read_bytes", fails)
    assert "labels_train.csv row 2: cannot be read now (Input/output error)" in fault(mimic(tree), tmp_path)
    monkeypatch.undo()
    assert len(read(mimic(tree), tmp_path).images) == len(tree.rows)


def test_label_files_that_change_under_a_run(tree, tmp_path):
    dataset = mimic(tree)
    _ = dataset.key
    rewrite(tree.files["train"], lambda header, rows: rows.pop())
    assert "the label files changed since this run was planned" in fault(dataset, tmp_path)


def test_a_draft_differs_by_little_and_only_of_large_jpegs(tmp_path):
    tree = mimic_tree(tmp_path / "tree", n_patients=10, size=(256, 304))
    drafts, full = (
        read(mimic(tree, jpeg=jpeg, image_px=24), tmp_path).images.astype(int) for jpeg in ("draft", "full")
    )
    off = np.abs(drafts - full)
    assert 0 < off.max() <= 3
    assert off.mean() < 0.5
    large = [read(mimic(tree, jpeg=jpeg, image_px=160), tmp_path).images for jpeg in ("draft", "full")]
    np.testing.assert_array_equal(*large)  # half of the picture would be less than twice its side


# --- resumption

CHILD = """
import sys, json, time
from bench.data import bulk_decode as cxr_lt_decode
from bench.data.kinds.cxr_lt.dataset import MimicCxrLt
from bench.store.store import Store
cxr_lt_decode.CHUNK, cxr_lt_decode._MARK_EVERY_S = 4, 0.0
real = cxr_lt_decode.read_image
def slow(*args):
    time.sleep(0.01)
    print("decoded", flush=True)
    return real(*args)
cxr_lt_decode.read_image = slow
Store(sys.argv[1]).get(MimicCxrLt(**json.loads(sys.argv[2])))
"""


def test_killed_while_decoding_it_goes_on_and_gives_the_same_bytes(tree, tmp_path, monkeypatch):
    dataset = mimic(tree, workers=1)
    killed, whole = (Store(tmp_path / name) for name in ("killed", "whole"))
    settings = json.dumps(tree.settings(workers=1))
    command = [sys.executable, "-c", CHILD, str(killed.root), settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for i, _ in enumerate(child.stdout):
            if i == 40:
                os.kill(child.pid, signal.SIGKILL)
    again = []

    def counted(path, *args):
        again.append(path)
        return read_image(path, *args)

    monkeypatch.setattr(cxr_lt_decode, "CHUNK", 4)
    monkeypatch.setattr(cxr_lt_decode, "read_image", counted)
    np.testing.assert_array_equal(killed.get(dataset).images, whole.get(dataset).images)
    n = len(tree.rows)
    assert n - 42 <= len(again) - n <= n - 40 + 12, "what was done before the kill but for the last chunks is kept"
    assert not list(killed.root.glob("*/*.work"))


@pytest.mark.parametrize("name", ["found.npy", "done.npy", "images.npy", "read.npy"])
def test_a_checkpoint_that_is_cut_off_is_begun_again(tree, tmp_path, monkeypatch, name):
    """A full disk or a power failure while it was made."""
    dataset, store = mimic(tree), Store(tmp_path / "store")

    def no_more(*args):
        raise RuntimeError("stop here")

    monkeypatch.setattr(cxr_lt_decode, "read_image", no_more)
    with pytest.raises(RuntimeError):
        store.get(dataset)
    [ckpt] = store.root.glob("dataset-mimic-cxr-lt/*.work/ckpt.*")
    (ckpt / name).write_bytes((ckpt / name).read_bytes()[:100])
    monkeypatch.undo()
    store.forget_failure(dataset)
    np.testing.assert_array_equal(store.get(dataset).images, read(mimic(tree, workers=1), tmp_path / "other").images)


def test_killed_after_the_last_picture_none_is_decoded_again(tree, tmp_path, monkeypatch):
    """The digest of a table of 65 GB takes minutes, in which a job can be ended."""
    dataset, store = mimic(tree), Store(tmp_path / "store")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.store.store.manifest_of", killed)
    with pytest.raises(KeyboardInterrupt):
        store.get(dataset)
    monkeypatch.undo()
    shutil.rmtree(tree.root / "files" / "p10")
    assert len(store.get(dataset).images) == len(tree.rows)
    assert [p.name for p in store.folder(dataset).parent.iterdir()] == [dataset.key]


def test_a_second_run_opens_no_picture(tree, tmp_path):
    read(mimic(tree), tmp_path)
    shutil.rmtree(tree.root)
    started = time.monotonic()
    assert len(read(mimic(tree), tmp_path).images) == len(tree.rows)
    assert time.monotonic() - started < 1


def test_found_by_its_kind():
    assert {"mimic-cxr-lt", "nih-cxr-lt"} <= registry.datasets().keys()
    assert not [b for b in registry.broken() if "cxr_lt" in b.module]
