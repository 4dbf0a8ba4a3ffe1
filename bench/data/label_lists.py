"""Read a column that lists the labels of each picture, such as `Edema|Mass` or `['edema', 'mass']`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.data.cell_values import number
from bench.data.class_columns import NO_VALUE, separator_of
from bench.data.csv_file import Problems, Rows, alike, named, quoted
from bench.errors import DataError, listed, nearest
from bench.tables import Float32

_SIGNS = "|;"  # which separate labels and are in none
_MOST = 1000  # different labels; a column with more of them holds remarks


@dataclass(frozen=True)
class LabelList:
    """Where labels are listed. The settings of a `folder` have the same meaning.

    Attributes:
        column: the column of lists.
        separator: what stands between two labels.
        no_finding: the label that says that there is none, or None.
        blank_is_none: whether a blank cell says that there is none. Otherwise it is refused.
    """

    column: str
    separator: str
    no_finding: str | None
    blank_is_none: bool


@dataclass(frozen=True)
class Listed:
    """What the lists say.

    Attributes:
        class_names: in the order of the settings if these name them, else in alphabetical order.
        labels: `float32 [n, C]`, 1 if the class is listed and 0 if not.
        others: labels that are listed but are no class, each with the number of its rows.
        n_only_others: how many rows list only such labels, so that all of their classes are 0.
    """

    class_names: tuple[str, ...]
    labels: Float32
    others: Mapping[str, int] = field(default_factory=dict)
    n_only_others: int = 0

    def note(self, with_names: bool) -> str:
        """Return which labels are not taken as one phrase, or an empty text if all are.

        Args:
            with_names: name them. They are cells of the file, so only the user's own terminal may show them.
        """
        if not self.others:
            return ""
        shown = sorted(self.others, key=lambda name: -self.others[name])
        names = listed((f"{quoted(name)} ({self.others[name]:,} rows)" for name in shown), 6)
        only = f"; rows that list no other: {self.n_only_others:,}" if self.n_only_others else ""
        return f"labels not taken: {names if with_names else f'{len(shown):,}'}{only}"


def a_sign(separator: str) -> str:
    """Return a separator of labels unchanged, or say that it cannot be used.

    Raises:
        ValueError: if it has letters or digits.
    """
    if any(c.isalnum() for c in separator):
        raise ValueError(f"'{separator}' has letters or digits, which labels have too; want a sign such as | or ;")
    return separator


def read_lists(
    rows: Rows, spec: LabelList, classes: Sequence[str] | None, not_classes: Sequence[str], problems: Problems
) -> Listed:
    """Return the labels that the column of `spec` lists. Cells that are no list are added to `problems`.

    Args:
        rows: the file.
        spec: the column, and how to read it.
        classes: the labels that are classes; None for all that are listed, but for `not_classes` and `no_finding`.
        not_classes: labels that are no classes.
        problems: collects the faults.

    Raises:
        DataError: if a class is in no cell, if labels differ only in capitals, or if fewer than two are classes.
    """
    cells = rows.column(spec.column)
    _check_separator(rows, spec, cells)
    items = {cell: _items(cell, spec.separator) for cell in set(cells)}
    faults = {cell: fault for cell, found in items.items() if (fault := _fault(found, spec))}
    for line, cell in zip(rows.lines, cells, strict=True):
        if cell in faults:
            problems.add(line, f"column '{spec.column}' {faults[cell]}")
    counts = Counter(label for cell in cells if cell not in faults for label in dict.fromkeys(items[cell]))
    names = _classes(rows, spec, counts, classes, not_classes)
    place = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(rows), len(names)), np.float32)
    n_only = 0
    for row, cell in enumerate(cells):
        found = [place[label] for label in items[cell] if label in place]
        labels[row, found] = 1
        n_only += not found and bool(set(items[cell]) - {spec.no_finding})
    others = {label: n for label, n in counts.items() if label not in place and label != spec.no_finding}
    return Listed(names, labels, others, n_only)


def _items(cell: str, separator: str) -> list[str]:
    """Return the labels in a cell. Brackets around the list and quotes around a label do not belong to them."""
    inner = cell[1:-1] if cell[:1] == "[" and cell[-1:] == "]" else cell
    if not inner.strip():
        return []
    items = [item.strip() for item in inner.split(separator)]
    return [named(i[1:-1].strip() if len(i) > 1 and i[0] == i[-1] and i[0] in "'\"" else i) for i in items]


def _fault(items: Sequence[str], spec: LabelList) -> str:
    """Return what is wrong with a list, or an empty text."""
    if not items and not spec.blank_is_none:
        say = f"write {quoted(spec.no_finding)}" if spec.no_finding else "write its labels"
        return f"is blank; {say}, or set blank: negative if a blank cell means that nothing was found"
    if "" in items:
        return f"has an empty label (two '{spec.separator}' in a row, or one at an end); write each label once"
    if spec.no_finding in items and len(set(items)) > 1:
        other = next(item for item in items if item != spec.no_finding)
        return f"lists {quoted(str(spec.no_finding))} beside {quoted(other)}; take one of them out"
    return ""


def _check_separator(rows: Rows, spec: LabelList, cells: Sequence[str]) -> None:
    """Refuse a separator that is in no cell if another one is."""
    if any(spec.separator in cell for cell in cells):
        return
    other = separator_of(Counter(cell for cell in cells if cell))
    if other is not None:
        raise DataError(
            f"{rows.path}: label_separator: no cell of column '{spec.column}' has '{spec.separator}', but its labels "
            f"look separated by '{other}'; set label_separator: \"{other}\""
        )


def _check_spelling(where: str, spec: LabelList, counts: Mapping[str, int]) -> None:
    """Refuse labels that differ in nothing that counts, or that hold what looks like another separator."""
    if pair := alike(sorted(counts)):
        raise DataError(
            f"{where} lists {quoted(pair[0])} and {quoted(pair[1])}, which differ only in capitals or white space; "
            "write one of them everywhere"
        )
    inside = next((s for s in _SIGNS if s != spec.separator and any(s in label for label in counts)), None)
    if inside is not None:
        label = quoted(next(label for label in counts if inside in label))
        raise DataError(
            f"{where} lists {label}, which holds '{inside}'; set label_separator: \"{inside}\", or rename it"
        )


def _classes(
    rows: Rows, spec: LabelList, counts: Mapping[str, int], classes: Sequence[str] | None, not_classes: Sequence[str]
) -> tuple[str, ...]:
    where = f"{rows.path}: column '{spec.column}'"
    _check_spelling(where, spec, counts)
    no_finding = () if spec.no_finding is None else (spec.no_finding,)
    for setting, given in (("class_names", classes or ()), ("not_classes", not_classes), ("no_finding", no_finding)):
        for name in given:
            if name not in counts:
                have = f"have: {listed((quoted(c)[1:-1] for c in counts), 20)}"
                raise DataError(f"{where}: {setting}: no row lists '{name}'{nearest(name, list(counts))} ({have})")
    # Also if the classes are named: a row whose labels are missing would else count as one without any of them.
    others = sorted(set(counts) - {*(classes or ()), *not_classes, *no_finding})
    if (none := next((name for name in others if name.casefold() in NO_VALUE), None)) is not None:
        raise DataError(
            f"{where} lists {quoted(none)}, which says that there is no value; leave such a cell blank, or name it as "
            "no_finding or in not_classes; if it is a label here, name it in class_names"
        )
    if classes is not None:
        return tuple(classes)
    if (code := next((label for label in counts if number(label) is not None), None)) is not None:
        raise DataError(f"{where} lists {quoted(code)}, a number; if numbers are labels here, name them in class_names")
    names = tuple(others)
    if len(names) > _MOST:
        raise DataError(f"{where} has {len(names):,} different labels; if it holds no remarks, name the class_names")
    if len(names) < 2:
        have = listed((quoted(n) for n in names), 6) or "none"
        raise DataError(f"{where} lists {len(names)} labels that are classes ({have}); want two or more")
    return names
