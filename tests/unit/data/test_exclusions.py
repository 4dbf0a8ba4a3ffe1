"""Classes that exclude others: which they are, what is told of rows that contradict, and what labels become."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.exclusions import contradictions, exclusion_table, without_contradictions
from bench.errors import ConfigError
from bench.testing.toy import ToyDataset


@pytest.mark.parametrize("name", ["No Finding", "No_Finding", "no finding", "NO-FINDING", "Normal", "normal"])
def test_no_finding_in_its_usual_spellings_excludes_all_but_devices(name: str) -> None:
    table = exclusion_table(("Edema", name, "Support_Devices", "Normal Heart"), None)
    assert table.tolist() == [[False] * 4, [True, False, False, True], [False] * 4, [False] * 4]


def test_two_names_for_nothing_do_not_exclude_each_other() -> None:
    """An image with both would lose both, and be an image of which nothing is known to be absent."""
    table = exclusion_table(("No Finding", "Normal", "Edema"), None)
    assert table.tolist() == [[False, False, True], [False, False, True], [False] * 3]


@pytest.mark.parametrize("declared", [{"A": ("B",), "B": ("A",)}, {"A": "all", "B": "all"}])
def test_classes_that_exclude_each_other_are_refused(declared: dict) -> None:
    with pytest.raises(ConfigError, match="excludes: 'A' and 'B' exclude each other; name the one that gives way"):
        exclusion_table(("A", "B", "C"), declared)


def test_what_is_declared_stands_for_the_default() -> None:
    names = ("No Finding", "Edema", "Clear Lungs", "Fracture")
    table = exclusion_table(names, {"Clear Lungs": ("Edema",), "No Finding": "all"})
    assert [np.flatnonzero(row).tolist() for row in table] == [[1, 2, 3], [], [1], []]
    assert not exclusion_table(names, {}).any()


@pytest.mark.parametrize("declared", [{"Edma": "all"}, {"No Finding": ("Edma",)}])
def test_a_class_that_is_not_there_is_refused(declared: dict) -> None:
    with pytest.raises(ConfigError, match=r"toy\.excludes: no class 'Edma'.*did you mean 'Edema'"):
        ToyDataset(excludes=declared).exclusions(("No Finding", "Edema"))


def test_labels_equal_the_rule_written_out() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 0.25, 0.5, np.nan], (200, 4)).astype(np.float32)
    excludes = exclusion_table(("a", "b", "c", "d"), {"a": "all", "c": ("d",)})
    found = without_contradictions(labels, excludes)
    for row, got in zip(labels, found, strict=True):
        others = {0: [1, 2, 3], 2: [3]}
        for c, label in enumerate(row):
            highest = max((row[o] for o in others.get(c, []) if not np.isnan(row[o])), default=0)
            np.testing.assert_equal(got[c], label if np.isnan(label) else min(label, 1 - highest))
    assert without_contradictions(labels, None) is labels


def test_rows_that_contradict_are_counted() -> None:
    rows = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, np.nan, 1], [1, np.nan, 0]]
    excludes = exclusion_table(("No Finding", "a", "b"), None)
    assert contradictions(np.array(rows, np.float32), excludes).tolist() == [2, 0, 0]
