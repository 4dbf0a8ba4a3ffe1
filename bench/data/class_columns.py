"""Decide which columns of a CSV file are classes, and account for every other one.

Without `class_names`, a column is a class, or is named by the settings as something else, or is listed with the reason
why it is no class. A column that may be a class or not is refused: guessing wrong would lose a class, or would train on
the sex of the patients.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from bench.data.cell_values import label_of, number
from bench.data.csv_file import Rows, missing_column, quoted
from bench.errors import DataError, listed

PARTS = {"train": 0, "val": 1, "valid": 1, "validate": 1, "validation": 1, "test": 2}
NO_VALUE = {"nan", "na", "n/a", "none", "null", "uncertain", "unknown"}
_WORDS = {"yes", "no", "true", "false", "positive", "negative"}
_FEW = 3  # a column of so many different values or fewer may be a class
_LONGEST = 40  # letters; longer texts are remarks and no labels
_METADATA = re.compile(
    r"(is|has|patient|study|image)?(sex|gender|male|female|age|agegroup|race|ethnicity|smoker|insurance|language|weight|"
    r"height|bmi|alive|dead|deceased|died|death|survived|mortality|icu|inpatient|outpatient|emergency|train|training|"
    r"val|valid|validation|test|testing|holdout|split|fold|set|subset|dataset|view|viewposition|projection|frontal|"
    r"lateral|frontallateral|lateralfrontal|ap|pa|appa|paap|portable|supine|orientation|position|index|row|id|followup|"
    r"year|month|scanner|manufacturer|device|site|hospital|modality|quality|reader|rad|radiologist)(m|f|male|id)?"
)
_PATIENT_WORDS = {"patient", "subject", "participant", "person", "case", "pid", "mrn", "patientid", "subjectid"}
_ID_WORDS = {"id", "ids", "no", "nr", "num", "number", "key", "code", "uid", "index"}


@dataclass(frozen=True)
class Verdict:
    """What a column is, as far as its name and its cells tell.

    Attributes:
        kind: whether it is a class, or no class, or may be one (`unclear`).
        why: why it is no class, or why that is unclear.
    """

    kind: Literal["class", "other", "unclear"]
    why: str = ""


def class_columns(
    rows: Rows, named: Sequence[str], not_classes: Sequence[str], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the classes, and the columns that are not taken with the reason for each.

    Args:
        rows: the file.
        named: the columns that the settings name as something else: paths, patients, parts.
        not_classes: the columns that the settings say are no classes.
        classes: the classes that the settings name; None to look for them.

    Raises:
        DataError: if a named column is missing, if columns may be classes or not, or if fewer than two are classes.
    """
    for setting, given in (("class_names", classes or ()), ("not_classes", not_classes)):
        for name in given:
            if name not in rows.header:
                raise DataError(f"{rows.path}: {setting}: {missing_column(name, rows.header)}")
    if classes is not None:
        return tuple(classes), {}
    found = {name: _verdict(name, rows.column(name)) for name in rows.header if name not in {*named, *not_classes}}
    names = tuple(name for name, verdict in found.items() if verdict.kind == "class")
    others = {name or "(no name)": verdict.why for name, verdict in found.items() if verdict.kind == "other"}
    unclear = {name: verdict.why for name, verdict in found.items() if verdict.kind == "unclear"}
    if unclear:
        raise DataError(f"{rows.path}: {_asked(rows, unclear, names)}{_lists(others)}")
    if len(names) < 2:
        have = f"have: {listed(quoted(c)[1:-1] for c in rows.header)}"
        raise DataError(f"{rows.path}: found {len(names)} columns of 0/1, want two or more ({have}){_lists(others)}")
    return names, others


def not_taken(others: Mapping[str, str]) -> str:
    """Return the columns that are not taken as one phrase, or an empty text if there are none."""
    return f"columns not taken: {listed(f'{name} ({why})' for name, why in others.items())}" if others else ""


def is_patient_column(name: str) -> bool:
    """Tell whether the name of a column is one of those that ids of patients usually have."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    parts = set(re.split(r"[\W_]+", words)) - {""}
    return bool(parts & _PATIENT_WORDS) and parts <= _PATIENT_WORDS | _ID_WORDS


def looks_like_a_class(rows: Rows, name: str) -> bool:
    """Tell whether a column would be a class if the settings said nothing."""
    return _verdict(name, rows.column(name)).kind == "class"


def _verdict(name: str, cells: Sequence[str]) -> Verdict:
    if not name:
        return Verdict("other", "it has no name")
    said = {c: n for c, n in Counter(cells).items() if c and c.casefold() not in NO_VALUE}
    if not said:
        return Verdict("other", "it is blank")
    total = sum(said.values())
    metadata = _METADATA.fullmatch(re.sub(r"[\W_]", "", name.casefold())) is not None
    # "Mostly" and not "only": a single wrong cell must be reported by its row, and must not make a class disappear.
    # Words are no labels, but a column of them is meant to be a class: its rows are refused.
    labels = sum(n for c, n in said.items() if label_of(c) is not None)
    words = sum(n for c, n in said.items() if c.casefold() in _WORDS)
    if 2 * (labels + words) > total:
        what = "labels" if labels else "words that may be labels"
        return Verdict("unclear", f"{what}, but its name is one of metadata") if metadata else Verdict("class")
    if {c.casefold() for c in said} <= PARTS.keys():
        return Verdict("other", f"if it is the official split, say split_column: {_yaml(name)}")
    if separator := separator_of(said):
        return Verdict("other", f"it lists labels separated by '{separator}'")
    if metadata:
        return Verdict("other", "its name is one of metadata")
    if is_patient_column(name):
        return Verdict("other", "its name is one of patients' ids")
    return _by_values(said, len(cells))


def _by_values(said: Mapping[str, int], n_cells: int) -> Verdict:
    """Return what a column is that holds no labels, by its different values and how many of them there are."""
    found = {number(c) for c in said}
    numbers = {v for v in found if v is not None} if None not in found else set()
    n_said = len(numbers or {c.casefold() for c in said})
    total = sum(said.values())
    n_values = n_said + (total < n_cells)
    if n_values == 1:
        return Verdict("other", "it is the same in every row")
    is_prose = any(len(c) > _LONGEST or "\n" in c for c in said)
    if n_values <= _FEW and n_values < n_cells and not is_prose:
        told = [*map(quoted, sorted(said)[:_FEW]), *(["blank"] if total < n_cells else [])]
        return Verdict("unclear", f"its values are {', '.join(told)}")
    if numbers and min(numbers) >= 0 and max(numbers) <= 1:
        return Verdict("unclear", "numbers between 0 and 1")
    return Verdict("other", f"{n_said:,} different {'numbers' if numbers else 'texts'}")


def separator_of(said: Mapping[str, int]) -> str | None:
    """Return the separator if the cells of a column list labels, such as `Edema|Fracture`, else None."""
    for separator in "|;,":
        if not any(separator in cell for cell in said):
            continue
        items = Counter(item.strip(" []'\"") for cell in said for item in cell.split(separator))
        again = 2 * len(items) <= items.total() or separator == "|"  # free text with commas hardly repeats a phrase
        if again and all(len(item) <= 60 and number(item) is None for item in items):
            return separator
    return None


def _asked(rows: Rows, unclear: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the question which columns are classes, with the first value of each and the lines to write."""
    told = []
    for name, why in unclear.items():
        at, cell = next((i, c) for i, c in enumerate(rows.column(name)) if c and c.casefold() not in NO_VALUE)
        told.append(f"{quoted(name)} (row {rows.lines[at]}: {quoted(cell)}; {why})")
    one = len(told) == 1
    what, it = ("this column is a class", "it is") if one else ("these columns are classes", "they are")
    return (
        f"not clear whether {what}: {', '.join(told)}; if {it} not, write not_classes: {_yaml(list(unclear))}; "
        f"if {it}, write 1, 0, -1 (uncertain) or blank in every cell, and class_names: {_yaml([*names, *unclear])}"
    )


def _lists(others: Mapping[str, str]) -> str:
    """Return what to set for the first column that lists labels, or an empty text."""
    name = next((name for name, why in others.items() if why.startswith("it lists")), None)
    if name is None:
        return ""
    separator = others[name][-2]
    say = f"labels_column: {_yaml(name)}" + ("" if separator == "|" else f' and label_separator: "{separator}"')
    return f"; column {quoted(name)} lists labels separated by '{separator}'; to take them, set {say}"


def _yaml(value: str | list[str]) -> str:
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=1 << 20).strip()[1:-1]
