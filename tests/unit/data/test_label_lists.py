"""A column that lists labels, several CSV files, and rows that are selected: as public releases have them."""

import csv

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from bench.data.kinds.folder import FolderDataset
from bench.errors import DataError
from bench.privacy.names import places

CELLS = ["Edema|Mass", "No Finding", "Mass", "Hernia", "Edema", "No Finding", "Mass|Edema|Hernia", "Edema"]


def write(file, columns):
    with open(file, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return str(file)


def table(cells=CELLS, begin=0, **more):
    n = len(cells)
    return {"path": [f"{begin + i}.png" for i in range(n)], "Finding Labels": cells, **more}


def dataset(tmp_path, cells=CELLS, more=None, **settings):
    """Return a data set over a list with a column of labels; there are no pictures."""
    file = write(tmp_path / "labels.csv", table(cells, **(more or {})))
    return FolderDataset(csv=file, **{"labels_column": "Finding Labels", **settings})


def fault(tmp_path, *args, **settings):
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, *args, **settings).known_labels()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("style", ["{}|{}", "{}; {}", "['{}', '{}']", '["{}", "{}"]', " {} , {} "])
def test_lists_of_every_style_are_read_like_pandas_dummies(tmp_path, style):
    separator = next(s for s in "|;," if s in style)
    opening, closing = style.split("{}")[0], style.split("{}")[-1]
    joint = style[len(opening) : -len(closing) or None].removeprefix("{}").removesuffix("{}")
    cells = [opening + joint.join(cell.split("|")) + closing for cell in CELLS]
    known = dataset(tmp_path, cells, label_separator=separator, no_finding="No Finding").known_labels()
    expected = pd.Series(CELLS).str.get_dummies("|").drop(columns="No Finding")
    assert known.class_names == tuple(expected.columns)
    np.testing.assert_array_equal(known.labels, expected.to_numpy(np.float32))


def test_without_no_finding_it_is_a_class_like_any_other(tmp_path):
    assert dataset(tmp_path).known_labels().class_names == ("Edema", "Hernia", "Mass", "No Finding")
    names = ("Mass", "No Finding")
    known = dataset(tmp_path, class_names=names, no_finding="No Finding").known_labels()
    assert known.class_names == names
    np.testing.assert_array_equal(known.labels[:3], [[1, 0], [0, 1], [1, 0]])


def test_labels_that_are_no_classes_are_told_and_named_only_to_the_user(tmp_path):
    data = dataset(tmp_path, class_names=("Mass", "Edema"), no_finding="No Finding")
    assert data.selection_note() == "labels not taken: 1; rows that list no other: 1"
    (check,) = [c for c in data.sources() if c.what == "CSV"]
    assert check.said.endswith("; labels not taken: 'Hernia' (2 rows); rows that list no other: 1")
    assert dataset(tmp_path, not_classes=("Hernia",)).known_labels().class_names == ("Edema", "Mass", "No Finding")


def test_columns_of_labels_beside_the_list_are_told(tmp_path):
    data = dataset(tmp_path, more={"Tube": list("01010101"), "Age": list("23456789")})
    assert data.selection_note() == "columns not taken: Tube (labels are taken from 'Finding Labels')"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("", "row 3: column 'Finding Labels' is blank; write 'No Finding', or set blank: negative"),
        ("[]", "row 3: column 'Finding Labels' is blank"),
        ("Edema||Mass", "row 3: column 'Finding Labels' has an empty label (two '|' in a row, or one at an end)"),
        ("Edema|", "has an empty label"),
        ("|", "has an empty label"),
        ("Edema|No Finding", "row 3: column 'Finding Labels' lists 'No Finding' beside 'Edema'; take one of them out"),
        ("edema", "lists 'Edema' and 'edema', which differ only in capitals or white space"),
    ],
)
def test_a_cell_that_is_no_list_is_refused_by_row(tmp_path, cell, said):
    assert said in fault(tmp_path, [CELLS[0], cell, *CELLS[1:]], no_finding="No Finding")


def test_a_blank_cell_may_mean_that_nothing_was_found(tmp_path):
    known = dataset(tmp_path, [*CELLS, ""], blank="negative", no_finding="No Finding").known_labels()
    assert known.labels[-1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"class_names": ("Edema", "Mas")}, "class_names: no row lists 'Mas'; did you mean 'Mass'?"),
        ({"not_classes": ("Oedema",)}, "not_classes: no row lists 'Oedema'"),
        ({"no_finding": "Normal"}, "no_finding: no row lists 'Normal'"),
        ({"label_separator": " "}, "lists 'Edema|Mass', which holds '|'; set label_separator: \"|\", or rename it"),
        ({"labels_column": "Finding"}, "no column 'Finding'"),
        ({"label_separator": ";"}, "no cell of column 'Finding Labels' has ';', but its labels look separated by '|'"),
        ({"not_classes": ("Edema", "Mass", "Hernia")}, "lists 1 labels that are classes ('No Finding'); want two"),
    ],
)
def test_settings_that_the_file_does_not_bear_out_are_refused(tmp_path, settings, said):
    assert said in fault(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels_column": None, "no_finding": "Normal"}, "no_finding says how labels_column is read"),
        ({"labels_column": None, "label_separator": ";"}, "label_separator says how labels_column is read"),
        ({"uncertain": "positive"}, "uncertain is the meaning of -1"),
        ({"label_separator": ""}, "at least 1 character"),
        ({"label_separator": "and"}, "has letters or digits"),
        ({"where": {"view": []}}, "'view' has no value"),
    ],
)
def test_settings_without_an_effect_are_refused(tmp_path, settings, said):
    with pytest.raises(ValidationError, match=said):
        dataset(tmp_path, **settings)


def test_numbers_are_labels_only_if_they_are_named(tmp_path):
    cells = ["1|2", "2", "3", "1", "7|2", "1", "2", "3"]
    assert "lists '1', a number; if numbers are labels here, name them in class_names" in fault(tmp_path, cells)
    assert dataset(tmp_path, cells, class_names=("1", "2")).known_labels().labels.sum() == 7


@pytest.mark.parametrize("cell", ["nan", "None", "N/A"])
def test_a_word_for_no_value_becomes_no_class(tmp_path, cell):
    cells = ["Edema|Mass", "Edema", cell, "Mass", "Mass", "Edema", "Mass", cell]
    assert f"lists '{cell}', which says that there is no value" in fault(tmp_path, cells, no_finding=None)
    assert dataset(tmp_path, cells, no_finding=cell).known_labels().class_names == ("Edema", "Mass")
    named = {"no_finding": None, "class_names": ("Edema", "Mass")}
    assert f"lists '{cell}', which says that there is no value" in fault(tmp_path, cells, **named)
    assert dataset(tmp_path, cells, not_classes=(cell,), **named).known_labels().labels.sum() == 7
    assert dataset(tmp_path, cells, no_finding=None, class_names=("Edema", cell)).known_labels().labels.sum() == 5


VIEWS = {
    "Frontal/Lateral": ["Frontal", "Lateral", *["Frontal"] * 6],
    "fold": ["1", "1.0", "2", "3", "1", "1", "2", "1"],
}


def test_where_takes_rows_by_text_and_by_number_and_tells_how_many_are_left_out(tmp_path):
    data = dataset(tmp_path, more=VIEWS, where={"Frontal/Lateral": "Frontal", "fold": [1, 2]})
    assert len(data.known_labels().labels) == 6
    assert data.name_of(1, tmp_path) == "row 4 (2.png)"
    assert data.selection_note() == "where leaves out 2 of 8 rows"
    assert data.known_labels().class_names == ("Edema", "Hernia", "Mass", "No Finding")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"View": "Frontal"}, "where: no column 'View'"),
        ({"Frontal/Lateral": "Frontel"}, "no cell of column 'Frontal/Lateral' is 'Frontel'; did you mean 'Frontal'?"),
        ({"fold": [1, 7]}, "no cell of column 'fold' is 7 (have: '1', '1.0', '2', '3')"),
        ({"Frontal/Lateral": "Lateral", "fold": 3}, "the columns together select nothing"),
    ],
)
def test_where_that_selects_nothing_is_refused(tmp_path, where, said):
    assert said in fault(tmp_path, more=VIEWS, where=where)


def test_a_prefix_of_the_paths_is_taken_off(tmp_path):
    more = {"Image Path": [f"CheXpert-v1.0/train/{i}.jpg" for i in range(8)]}
    settings = {"more": more, "path_column": "Image Path"}
    assert dataset(tmp_path, path_prefix="CheXpert-v1.0/", **settings).name_of(0, tmp_path) == "row 2 (train/0.jpg)"
    assert "no path begins with 'CheXpert/'" in fault(tmp_path, path_prefix="CheXpert/", **settings)


# --- one file for each part


def parts(tmp_path, changes=None, **settings):
    """Return a data set with a file for each part; `changes` maps a part to columns that its file has too."""
    files = {}
    for i, part in enumerate(("train", "val", "test")):
        who = [f"{part}{k // 2}" for k in range(len(CELLS))]
        files[part] = write(tmp_path / f"{part}.csv", table(begin=10 * i, who=who) | (changes or {}).get(part, {}))
    return FolderDataset(csv=files, labels_column="Finding Labels", patient_column="who", **settings)


def test_files_of_train_val_and_test_are_the_official_split(tmp_path):
    data = parts(tmp_path)
    known = data.known_labels()
    assert known.splits.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    np.testing.assert_array_equal(known.labels, np.tile(known.labels[:8], (3, 1)))
    assert data.name_of(9, tmp_path) == "row 3 of val.csv (11.png)"
    assert places(data) == {str(tmp_path / f"{part}.csv") for part in ("train", "val", "test")}


def test_the_key_holds_the_content_of_all_files(tmp_path):
    def listing():
        return parts(tmp_path)._listing().digest

    first = listing()
    assert listing() == first
    write(tmp_path / "test.csv", table(begin=30, who=[f"x{i}" for i in range(8)]))
    changed = FolderDataset(
        csv={p: str(tmp_path / f"{p}.csv") for p in ("train", "val", "test")}, labels_column="Finding Labels"
    )
    assert changed._listing().digest != first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"val": {"who": ["train0"] * 8}},
            "row 2 of train.csv: patient 'train0' is in train, in row 2 of val.csv in val; a patient",
        ),
        ({"test": {"Finding Labels": ["", *CELLS[1:]]}}, "row 2 of test.csv: column 'Finding Labels' is blank"),
        ({"test": {"finding labels": CELLS}}, "'Finding Labels' and 'finding labels' differ only in capitals"),
    ],
)
def test_faults_name_the_file_and_its_line(tmp_path, changes, said):
    with pytest.raises(DataError) as caught:
        parts(tmp_path, changes).known_labels()
    assert said in str(caught.value)


def test_one_picture_in_two_files_is_refused(tmp_path):
    data = parts(tmp_path, {"val": {"path": ["0.png", *[f"{10 + i}.png" for i in range(1, 8)]]}})
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"row 2 of val\.csv: 0\.png: the same picture as row 2 of train\.csv"):
        data.content()


def test_a_column_that_only_some_files_have_is_told(tmp_path):
    data = parts(tmp_path, {"train": {"Tube": list("01010101")}, "val": {"Tube": list("01010101")}})
    assert data.selection_note() == "columns not taken: Tube (not in test.csv)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"csv": {"train": "a.csv", "val": "b.csv"}}, "want a file for each of train, val and test, got train, val"),
        ({"csv": {"train": "a.csv", "valid": "b.csv", "test": "c.csv"}}, "got test, train, valid"),
        ({"csv": {"train": "a.csv", "val": "a.csv", "test": "c.csv"}}, "names one file for two parts"),
        (
            {"csv": {"train": "a.csv", "val": "b.csv", "test": "c.csv"}, "split_column": "split"},
            "take split_column out",
        ),
        ({"csv": {"train": "a.csv", "val": "x/b.csv", "test": "c.csv"}}, "lie in different folders; say in root"),
    ],
)
def test_files_that_are_no_split_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        FolderDataset(**settings)
