"""What is printed of a data set: classes that occur together, and sentences on its pictures."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from bench.cli.show_data import pairs, print_description

PATIENTS = {"train": 3, "val": 1, "test": 1}
COUNTS = {"train": 4, "val": 1, "test": 1, "patients": PATIENTS, "unknown": 0, "train_share": 0.4}
FOUND: dict[str, Any] = {
    "dataset": "ward [3]",
    "kind": "folder",
    "sharing": "credentialed",
    "table": "not computed yet",
    "images": 20,
    "patients": 9,
    "split": "by patient, stratified",
    "split_fault": "class 'c [x]' has no positive in val",
    "parts": {name: {"images": 10, "patients": 3} for name in ("train", "val", "test")},
    "classes": [{"name": name, "group": "head", **COUNTS} for name in ("a", "b", "c [x]")],
    "imbalance_factor": None,
    "labels_an_image": 0.75,
    "images_without_a_label": 1234,
    "cooccurrence": [[10, 5, 1], [5, 6, 0], [1, 0, 4]],
    "contradictions": {},
    "pictures": None,
    "left_out": None,
    "changed_source": None,
    "odd": [],
}


def rendered(found: dict[str, Any]) -> str:
    text = io.StringIO()
    print_description(found, Console(file=text, width=140))
    return text.getvalue()


def test_pairs_are_those_that_occur_together_the_most_frequent_first() -> None:
    assert pairs(FOUND) == [("a", "b", 5, 5 * 20 / (10 * 6)), ("a", "c [x]", 1, 1 * 20 / (10 * 4))]
    assert pairs(FOUND, 1) == pairs(FOUND)[:1]


def test_names_are_printed_as_they_are_and_faults_are_said() -> None:
    text = rendered(FOUND)
    assert text.startswith("ward [3] (folder, credentialed); table not computed yet\n")
    assert "refused by a run: class 'c [x]' has no positive in val" in text
    assert "imbalance factor unknown: a class has no positive in train" in text
    assert "1,234 images without one" in text
    assert "pictures" not in text


def test_patients_stand_beside_images_unless_every_image_is_of_another_one() -> None:
    text = rendered(FOUND)
    assert re.search(r"^ ?b +head +4 \(3\) +1 \(1\) +1 \(1\) +0 +40.00 %", text, re.MULTILINE)
    assert "in brackets: patients with a positive" in text
    text = rendered(FOUND | {"patients": 20})
    assert re.search(r"^ ?b +head +4 +1 +1 +0 +40.00 %", text, re.MULTILINE)
    assert "in brackets" not in text


def test_contradictions_are_told_with_their_number() -> None:
    text = rendered(FOUND | {"contradictions": {"No [x] Finding": 1200}})
    assert "1,200 images with No [x] Finding and a class that it excludes; see the setting excludes" in text


def test_pictures_are_told_in_a_line() -> None:
    sizes = {"width_px": [10, 20, 30], "height_px": [11, 21, 31], "sampled": 400, "unreadable": 2}
    pictures = {"missing": 1000, "gigabytes": 1.5, **sizes}
    last = rendered(FOUND | {"pictures": pictures, "left_out": {"rows_in_other_views": 1200}}).splitlines()[-2:]
    assert last == [
        "pictures: 1,000 missing, 1.5 GB; smallest / median / largest of 400: 10 / 20 / 30 px wide, "
        "11 / 21 / 31 px high; 2 of them cannot be read",
        "1,200 rows in other views",
    ]
    small = {"missing": 0, "gigabytes": 0.008, "sampled": 0, "unreadable": 0, "width_px": None, "height_px": None}
    assert rendered(FOUND | {"pictures": small}).endswith("pictures: 0 missing, 8.0 MB\n")
    assert rendered(FOUND | {"pictures": {"fault": "data: no such folder"}}).endswith(
        "pictures: data: no such folder\n"
    )


def test_patients_that_are_not_known_are_not_counted() -> None:
    parts = {part: {"images": 3, "patients": None} for part in FOUND["parts"]}
    note = "columns not taken: Sex (its name is one of metadata)"
    told = rendered(FOUND | {"patients": None, "parts": parts, "split": "by image, stratified", "note": note})
    assert told.count("unknown") >= len(parts) + 1
    assert (
        "split: by image, stratified\npatients are not known: images of one person may be in train and in test" in told
    )
    assert note in told
