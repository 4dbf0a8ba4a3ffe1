"""Who the patients of a folder are: by a column, by a pattern in the paths, or unknown, and then nothing else is said."""

import numpy as np
import pytest
from pydantic import ValidationError

from bench.data.describe import describe
from bench.data.kinds.folder import FolderDataset
from bench.data.split import SplitSettings
from bench.errors import DataError
from bench.store.store import Store
from tests.pictures import write_png

N = 12


def dataset(tmp_path, paths=None, column=None, name="who", **settings):
    """Return a data set over a list with these paths, and this column beside them; there are no pictures."""
    paths = paths or [f"{i}.png" for i in range(N)]
    rows = [f"{p},{i % 2},{i % 3 % 2}{f',{column[i]}' if column else ''}" for i, p in enumerate(paths)]
    header = f"path,a,b{f',{name}' if column else ''}"
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return FolderDataset(csv=str(tmp_path / "labels.csv"), image_px=16, **settings)


def patients(tmp_path, column):
    return dataset(tmp_path, column=column, patient_column="who").known_labels().patients.tolist()


def fault(found):
    with pytest.raises(DataError) as caught:
        found.known_labels()
    return str(caught.value)


WHO = [i // 3 for i in range(N)]


@pytest.mark.parametrize(
    "forms",
    [
        ("{}", "{}.0"), ("{}", "{}.00", "0{}", "{}."), ("000{}", "{}"), ("{}",),
        ("123456789012345678901234567890{}", "123456789012345678901234567890{}.0"),
    ],
)  # fmt: skip
def test_ids_that_are_equal_as_numbers_are_one_patient(tmp_path, forms):
    assert patients(tmp_path, [forms[i % len(forms)].format(w + 1) for i, w in enumerate(WHO)]) == WHO


def test_ids_among_texts_lose_only_the_point_of_a_float(tmp_path):
    cells = ["p1", "10000032", "10000032.0", "p1.0", "010", "10", "10.0", "1.5", "a.0", "P1", "10000032.00", "10.50"]
    assert patients(tmp_path, cells) == [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 1, 8]


@pytest.mark.parametrize("cell", ["1.23E+17", "1e+17", "1.0000000000000002e+17"])
def test_ids_that_were_rounded_are_refused(tmp_path, cell):
    """Python writes `repr(1e17)` so: different patients near it would become one."""
    said = f"row 2: column 'who' is '{cell}', a number that was rounded, as spreadsheets do; write the ids as text"
    assert said in fault(dataset(tmp_path, column=[cell] * N, patient_column="who"))


def test_ids_that_are_hashes_are_not_taken_for_rounded_numbers(tmp_path):
    cells = [f"12e{w}45" for w in WHO]
    assert patients(tmp_path, cells) == WHO


@pytest.mark.parametrize("cell", ["nan", "NaN", "None", "unknown"])
def test_a_word_for_no_value_is_no_patient(tmp_path, cell):
    """All rows without a patient would be one person, who may have other pictures in another part."""
    found = dataset(tmp_path, column=["p1"] * (N - 1) + [cell], patient_column="who")
    said = f"row {N + 1}: column 'who' is '{cell}', which says that there is no value; every row needs its patient"
    assert said in fault(found)


def test_a_patient_whose_id_has_two_forms_cannot_be_in_two_parts(tmp_path):
    lines = [f"{i}.png,{10 + i // 2}{'.0' if i % 2 else ''},{'train' if i % 2 else 'test'},{i % 2},1" for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,who,part,a,b", *lines]), encoding="utf-8")
    found = FolderDataset(csv=str(tmp_path / "labels.csv"), patient_column="who", split_column="part")
    assert "row 2: patient '10' is in test, in row 3 in train" in fault(found)


# --- a pattern


def test_a_pattern_in_the_paths_gives_the_patient(tmp_path):
    paths = [f"train/patient{w:05d}/study{i % 3}/view1.png" for i, w in enumerate(WHO)]
    found = dataset(tmp_path, paths, patient_pattern=r"patient(\d+)").known_labels()
    assert (found.patients.tolist(), found.patients_known) == (WHO, True)
    by_column = dataset(tmp_path, paths, [f"patient{w:05d}" for w in WHO], patient_column="who").known_labels()
    assert by_column.patients.tolist() == WHO


def test_rows_that_a_pattern_does_not_match_are_named(tmp_path):
    paths = ["patient1/a.png", "patient/b.png", "c.png"]
    said = fault(dataset(tmp_path, paths, patient_pattern="patient([0-9]*)"))
    assert "2 bad rows: row 3: patient_pattern 'patient([0-9]*)' finds nothing in the path" in said
    assert "row 4" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patient_pattern": "patient[0-9]+"}, "has 0 groups; want one"),
        ({"patient_pattern": "(a)(b)"}, "has 2 groups; want one"),
        ({"patient_pattern": "(a"}, "is no regular expression"),
        ({"patient_pattern": "(a)", "patient_column": "who"}, "give patient_column or patient_pattern, not both"),
    ],
)
def test_patterns_that_cannot_be_used(settings, said):
    with pytest.raises(ValidationError, match=said):
        FolderDataset(csv="x", **settings)


# --- unknown patients


def test_without_either_no_patients_are_known_and_none_are_counted(tmp_path):
    found = dataset(tmp_path)
    known = found.known_labels()
    assert (known.patients_known, known.patients.tolist()) == (False, list(range(N)))
    told = describe(found, SplitSettings(), known)
    assert (told["images"], told["patients"], told["split"]) == (N, None, "by image, stratified")
    assert all(part["patients"] is None for part in told["parts"].values())
    named = dataset(tmp_path, column=WHO, patient_column="who")
    told = describe(named, SplitSettings(), named.known_labels())
    assert (told["patients"], told["split"]) == (4, "by patient, stratified")
    assert sum(part["patients"] for part in told["parts"].values()) == 4


@pytest.mark.parametrize("column", [None, WHO])
def test_the_table_remembers_whether_patients_are_known(tmp_path, column):
    for i in range(N):
        write_png(tmp_path / f"{i}.png", np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8))
    settings = {"patient_column": "who"} if column else {}
    table = Store(tmp_path / "store").get(dataset(tmp_path, column=column, **settings))
    assert table.patients_known is (column is not None)


@pytest.mark.parametrize(
    "name", ["patient", "Patient ID", "subject_id", "patientId", "PatientID", "pid", "MRN", "case_no", "patient-number"]
)
def test_a_column_that_looks_like_patients_is_told_with_the_setting(tmp_path, name):
    ids = [f"x{w}" for w in WHO]
    check = next(c for c in dataset(tmp_path, column=ids, name=name).sources() if c.what == "patients")
    told = f"column '{name}' looks like ids of patients; if it is, set patient_column: {name}"
    assert (check.ok, check.warns) == (True, True)
    assert told in check.said
    assert told in dataset(tmp_path, column=ids, name=name).selection_note()
    named = dataset(tmp_path, column=ids, name=name, patient_column=name)
    assert [(c.warns, c.said) for c in named.sources() if c.what == "patients"] == [
        (False, "4 patients, of whom none is in two parts of a split")
    ]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("CheXpert-v1.0-small/train/patient{w:05d}/study1/{i}.png", "patient[-_]?([0-9]+)"),
        ("Patient_{w}/{i}.png", "(?i)patient[-_]?([0-9]+)"),
        ("sub-{w:02d}/ses-1/{i}.png", "sub[-_]?([0-9]+)"),
        ("files/p10/p1000003{w}/s5041{i}/{i}.png", "p([0-9]{5,})"),
        ("images/0000001{w}_{i:03d}.png", "([0-9]{5,})_[0-9]+[.]"),
        ("1000003{w}/{i}.png", "^([0-9]{5,})"),
    ],
)
def test_paths_that_look_like_patients_are_told_with_a_pattern_that_finds_them(tmp_path, path, pattern):
    paths = [path.format(w=w, i=i) for i, w in enumerate(WHO)]
    hint = dataset(tmp_path, paths).selection_note()
    assert f'the paths look as if they hold ids of patients; if so, set patient_pattern: "{pattern}"' in hint
    assert dataset(tmp_path, paths, patient_pattern=pattern).known_labels().patients.tolist() == WHO


@pytest.mark.parametrize("path", ["{i}.png", "images_001/{i}.png", "2019/{i}.png", "1000003{i:02d}.png", "case{i}.png"])
def test_other_paths_are_not_taken_for_patients(tmp_path, path):
    found = dataset(tmp_path, [path.format(i=i) for i in range(N)])
    assert found.selection_note() == ""
    check = next(c for c in found.sources() if c.what == "patients")
    assert (check.warns, check.said) == (False, "not known: each image counts as a patient of its own")
