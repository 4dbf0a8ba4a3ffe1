"""Every column of a CSV is a class, or named as something else, or told: none is lost, and none is taken by chance."""

import csv
import unicodedata

import numpy as np
import pytest
from pydantic import ValidationError

from bench.data.cell_values import number
from bench.data.kinds.folder import FolderDataset
from bench.errors import DataError

N = 12


def dataset(tmp_path, columns, **settings):
    """Return a data set over a list with these columns (name → cells) behind the paths; there are no pictures."""
    table = {"path": [f"{i}.png" for i in range(N)], **columns}
    with open(tmp_path / "labels.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
    return FolderDataset(csv=str(tmp_path / "labels.csv"), **settings)


def bits(every):
    return [str(int(i % every == 0)) for i in range(N)]


PLAIN = {"a": bits(2), "b": bits(3)}


def classes(tmp_path, columns, **settings):
    return dataset(tmp_path, columns, **settings).known_labels().class_names


def fault(tmp_path, columns, **settings):
    with pytest.raises(DataError) as caught:
        classes(tmp_path, columns, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- cells


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.0", 1), ("1.00", 1), ("1e0", 1), ("1,0", 1), ("+1", 1), ("1.", 1), ("10E-1", 1), ("0,000", 0),
        ("0", 0), ("-0", 0), ("0.0", 0), ("-1", -1), ("-1.0", -1), ("-1,0", -1), ("0.97", 0.97), ("12,5", 12.5),
        ("1,000", None), ("12,345", None), ("1.0.0", None), ("1,0,0", None), ("", None), ("x", None), ("nan", None),
        ("inf", None), ("0x1", None), ("1_0", None), ("١", None), ("1 0", None), ("e0", None), (".", None),
    ],
)  # fmt: skip
def test_numbers_are_read_in_any_format_that_has_one_meaning(text, value):
    assert number(text) == value


def test_a_class_is_the_same_in_every_format_of_its_numbers(tmp_path):
    formats = {"0": ["0", "0.0", "0,0", "0.00", " 0 ", "0e0"], "1": ["1", "1.0", "1,0", "1.00", " 1 ", "1e0"]}
    odd = [formats[cell][i % 6] for i, cell in enumerate(bits(3))]
    known = dataset(tmp_path, {"a": bits(2), "b": bits(3), "c": odd}).known_labels()
    assert known.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(known.labels[:, 2], known.labels[:, 1])


def test_uncertain_is_minus_one_in_every_format(tmp_path):
    cells = ["-1", "-1.0", "-1,0", " -1.00"] + ["1", "0"] * 4
    known = dataset(tmp_path, {**PLAIN, "c": cells}, uncertain="positive").known_labels()
    np.testing.assert_array_equal(known.labels[:, 2], [1] * 4 + [1, 0] * 4)


# --- columns that choose rows


def test_a_class_stays_one_where_rows_are_chosen_by_it(tmp_path):
    edema = ["-1" if i % 4 == 1 else bit for i, bit in enumerate(bits(2))]
    data = dataset(tmp_path, {"Edema": edema, **PLAIN}, where={"Edema": [0, 1]})
    assert data.known_labels().class_names == ("Edema", "a", "b")
    assert data.selection_note() == f"where leaves out {edema.count('-1')} of {N} rows"


def test_a_class_that_has_one_value_where_rows_are_chosen_is_told(tmp_path):
    data = dataset(tmp_path, {**PLAIN, "c": bits(2)}, where={"c": 1})
    assert data.known_labels().class_names == ("a", "b")
    assert "columns not taken: c (where leaves it a single value)" in data.selection_note()


def test_a_column_of_metadata_that_chooses_rows_is_no_class(tmp_path):
    data = dataset(tmp_path, {**PLAIN, "fold": ["0", "1", "2"] * (N // 3)}, where={"fold": [0, 1]})
    assert data.known_labels().class_names == ("a", "b")


# --- columns that may be classes


@pytest.mark.parametrize(
    ("one", "zero"),
    [
        ("Y", "N"), ("T", "F"), ("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("present", "absent"), ("pos", "neg"), ("ja", "nein"),
        ("x", ""), ("+", "-"), ("1", "2"), ("0.97", "0.03"), ("✓", "✗"), ("high", "low"),
    ],
)  # fmt: skip
def test_a_column_that_is_nearly_a_class_is_refused_with_what_to_write(tmp_path, one, zero):
    cells = [one if i % 4 == 0 else zero for i in range(N)]
    said = fault(tmp_path, {**PLAIN, "c": cells})
    assert f"not clear whether this column is a class: 'c' (row 2: '{one}'; its values are " in said
    assert "write not_classes: [c];" in said
    assert said.endswith("and class_names: [a, b, c]")
    assert classes(tmp_path, {**PLAIN, "c": cells}, not_classes=("c",)) == ("a", "b")


@pytest.mark.parametrize(("one", "zero"), [("yes", "no"), ("TRUE", "FALSE"), ("positive", "negative"), ("yes", "yes")])
def test_words_that_certainly_mean_labels_are_refused_by_row(tmp_path, one, zero):
    cells = [one if i % 4 == 0 else zero for i in range(N)]
    said = fault(tmp_path, {**PLAIN, "c": cells})
    assert f"12 bad rows: row 2: class 'c' is '{one}'; allowed: 1, 0, -1 (uncertain) or blank" in said
    assert said.endswith("name columns that are not classes in not_classes")


@pytest.mark.parametrize(("odd", "plain"), [("2", "0"), ("-", "1"), ("yes", "0"), ("?", "-1")])
def test_cells_that_are_no_labels_in_a_column_of_labels_are_refused_by_row(tmp_path, odd, plain):
    said = fault(tmp_path, {**PLAIN, "c": [odd if i % 4 == 0 else plain for i in range(N)]})
    assert f"3 bad rows: row 2: class 'c' is '{odd}'; allowed" in said


def test_probabilities_are_asked_about(tmp_path):
    assert "'c' (row 2: '0.0'; numbers between 0 and 1)" in fault(
        tmp_path, {**PLAIN, "c": [f"{i / 20}" for i in range(N)]}
    )


def test_all_unclear_columns_are_told_in_one_message_with_the_line_to_write(tmp_path):
    columns = {"gender": bits(2), **PLAIN, "is_test": bits(5), "Frontal/Lateral: which": ["F", "L"] * 6}
    said = fault(tmp_path, columns)
    assert "'gender' (row 2: '1'; labels, but its name is one of metadata), 'is_test' (row 2: '1'" in said
    assert "if they are not, write not_classes: [gender, is_test, 'Frontal/Lateral: which'];" in said
    named = ("gender", "is_test", "Frontal/Lateral: which")
    assert classes(tmp_path, columns, not_classes=named) == ("a", "b")
    assert classes(tmp_path, columns, class_names=("a", "gender")) == ("a", "gender")


@pytest.mark.parametrize(
    "name",
    ["sex", "Sex", "PatientSex", "Patient Gender", "is_test", "AP/PA", "frontal", "ViewPosition", "sex_M", "Age"],
)
def test_metadata_of_0_and_1_asks_for_a_decision(tmp_path, name):
    assert "its name is one of metadata" in fault(tmp_path, {**PLAIN, name: bits(2)})


@pytest.mark.parametrize("name", ["No Finding", "Support Devices", "Mass", "Lung Lesion", "Aortic Enlargement", "TB"])
def test_findings_are_no_metadata(tmp_path, name):
    assert classes(tmp_path, {**PLAIN, name: bits(4)}) == ("a", "b", name)


# --- columns that are no classes are told


def test_columns_that_are_no_classes_are_told_with_the_reason(tmp_path):
    columns = {
        "": [str(i) for i in range(N)],
        **PLAIN,
        "Sex": ["M", "F"] * 6,
        "Age": [str(50 + i) for i in range(N)],
        "age_years": [str(50 + i) for i in range(N)],
        "remark": [f"seen on day {i}" for i in range(N)],
        "site": ["Ulm"] * N,
        "ward": ["Ulm"] * N,
        "nothing": ["", "nan"] * 6,
        "Finding Labels": ["Edema|Mass", "Mass", "No Finding", ""] * 3,
        "part": ["train", "val", "test"] * 4,
    }
    found = dataset(tmp_path, columns)
    assert found.known_labels().class_names == ("a", "b")
    note = found.selection_note()
    for told in (
        "(no name) (it has no name)", "Sex (its name is one of metadata)", "Age (its name is one of metadata)",
        "age_years (12 different numbers)", "remark (12 different texts)", "ward (it is the same in every row)",
        "nothing (it is blank)", "Finding Labels (it lists labels separated by '|')",
        "part (if it is the official split, say split_column: part)",
    ):  # fmt: skip
        assert told in note
    (check, *_) = found.sources()
    assert note.partition("; ")[0] in check.said
    named = dataset(tmp_path, columns, class_names=("a", "b"))
    assert named.selection_note() == ""  # whoever names the classes has left the others out


def test_every_column_is_accounted_for(tmp_path):
    """Whatever the columns hold, each is taken, told or asked about; those that are asked about are named at once."""
    kinds = [
        ["0", "1"], ["0", "1", ""], ["-1", "0", "1.0"], ["1,0", "0,0"], ["0"], ["1", ""], ["x", ""], ["Y", "N", "?"],
        ["0.5", "0.25", "0.1"], ["0.5", "0.1", "0.2", "0.3"], ["1", "2", "3"], [str(i) for i in range(N)], ["A|B", "A"],
        ["same"], ["nan", ""], ["one", "two", "three", "four"], ["a word"] * 11 + ["a remark of more than forty letters"],
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = [kinds[i] for i in rng.integers(0, len(kinds), 12)]
        columns = {**PLAIN, **{f"c{k}": (kind * N)[:N] for k, kind in enumerate(chosen)}}
        with pytest.raises(DataError) as caught:
            dataset(tmp_path, columns | {"c99": ["Y", "N"] * 6}).known_labels()
        asked = {name for name in columns if f"'{name}' (row" in str(caught.value)}
        found = dataset(tmp_path, columns, not_classes=tuple(sorted(asked)))
        taken = set(found.known_labels().class_names)
        told = {name for name in columns if f"{name} (" in found.selection_note()}
        assert sorted([*taken, *told, *asked]) == sorted(columns)


@pytest.mark.parametrize("separator", ["|", ";", ", "])
def test_a_column_that_lists_labels_is_named(tmp_path, separator):
    cells = [
        separator.join(p) for p in (["Edema", "Mass"], ["Mass"], ["No Finding"], ["Edema", "Fracture", "Mass"])
    ] * 3
    cells[5] = separator.join(["Fracture", "Mass"])
    cells[6] = separator.join(["Edema", "No Finding"])
    said = fault(tmp_path, {"Finding Labels": cells, "Age": [str(i) for i in range(N)]})
    sign = separator.strip()
    assert "found 0 columns of 0/1" in said
    assert (
        f"column 'Finding Labels' lists labels separated by '{sign}'; to take them, set labels_column: Finding Labels"
        in said
    )


# --- names


@pytest.mark.parametrize("field", ["class_names", "head", "tail", "not_classes"])
def test_a_name_that_is_given_twice_is_refused(field):
    with pytest.raises(ValidationError, match="'a' is there twice; name each once"):
        FolderDataset(csv="x", **{field: ("a", "b", "a")})
    with pytest.raises(ValidationError, match="'a' and 'A' differ only in capitals or white space"):
        FolderDataset(csv="x", **{field: ("a", "b", "A")})


def test_a_class_that_is_also_none_is_refused():
    with pytest.raises(ValidationError, match="'a' is in class_names and in not_classes"):
        FolderDataset(csv="x", class_names=("a", "b"), not_classes=("a",))


@pytest.mark.parametrize(
    ("one", "other"),
    [("Mass", "mass"), ("Lung Mass", "Lung  Mass"), ("é", "É"), ("Lung Mass", "Lung\N{NO-BREAK SPACE}Mass")],
)
def test_columns_that_differ_in_nothing_that_is_seen_are_refused(tmp_path, one, other):
    said = fault(tmp_path, {**PLAIN, one: bits(2), other: bits(3)})
    assert "differ only in capitals or white space; rename one" in said or "cannot be shown" in said


def test_columns_that_differ_in_their_normal_form_are_refused(tmp_path):
    forms = [unicodedata.normalize(form, "Épanchement") for form in ("NFC", "NFD")]
    assert "is there twice" in fault(tmp_path, {**PLAIN, forms[0]: bits(2), forms[1]: bits(3)})


@pytest.mark.parametrize("in_file", ["NFC", "NFD"])
@pytest.mark.parametrize("in_settings", ["NFC", "NFD"])
def test_names_are_compared_in_one_normal_form(tmp_path, in_file, in_settings):
    name, asked = (unicodedata.normalize(form, "Épanchement") for form in (in_file, in_settings))
    found = dataset(tmp_path, {**PLAIN, name: bits(4)}, tail=(asked,)).known_labels()
    assert found.tail == (unicodedata.normalize("NFC", "Épanchement"),)
    assert found.tail[0] in found.class_names


# --- rows


def test_rows_without_anything_are_named(tmp_path):
    found = dataset(tmp_path, {**PLAIN, "c": bits(4)})
    with open(found.csv, "a", encoding="utf-8") as file:
        file.write(",,,\n , ,,\n")
    with pytest.raises(DataError, match="2 bad rows: row 14: no cell holds anything; take the row out; row 15"):
        found.known_labels()


def test_excels_first_line_is_no_row(tmp_path):
    found = dataset(tmp_path, PLAIN)
    text = (tmp_path / "labels.csv").read_text(encoding="utf-8")
    (tmp_path / "labels.csv").write_text(f"sep=,\n{text}", encoding="utf-8")
    assert found.known_labels().class_names == ("a", "b")
    (tmp_path / "labels.csv").write_text(f"sep=;\n{text.replace(',', ';')}", encoding="utf-8")
    with pytest.raises(DataError, match="its columns are separated by ';'; want commas"):
        found.known_labels()


def test_several_rows_for_each_picture_are_refused_with_what_differs(tmp_path):
    found = dataset(tmp_path, {})
    rows = [f"{i}.png,R{r},{i % 2},{int(i % 3 == 0 and r > 1)}" for i in range(N) for r in (1, 2, 3)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,rad_id,a,b", *rows]), encoding="utf-8")
    with pytest.raises(DataError, match=r"3 rows for each picture \(columns that differ between them: 'b', 'rad_id'\)"):
        found.known_labels()
    (tmp_path / "labels.csv").write_text("\n".join(["path,rad_id,a,b", *rows[1:]]), encoding="utf-8")
    with pytest.raises(DataError, match="2 to 3 rows for each picture"):
        found.known_labels()
