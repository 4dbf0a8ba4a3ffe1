"""Names of metrics: letters, digits and `_`, the same for a class everywhere, and no two alike."""

from __future__ import annotations

import re

import pytest

from bench.files import flatten, nested
from bench.privacy.metric_names import MetricNames, short_names

CLASSES = ["Mass", "Nodule/Mass", "Nodule Mass", "nodule-mass", "Größe ≥ 3", "肺炎", "气胸", "x" * 80, "x" * 81, "_"]


def test_short_names_are_plain_short_and_different_even_in_other_cases() -> None:
    found = short_names(CLASSES)
    assert list(found) == CLASSES
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,34}", short) for short in found.values())
    assert len({short.lower() for short in found.values()}) == len(CLASSES)
    assert found["Mass"] == "Mass"
    assert found["Nodule/Mass"] == "Nodule_Mass"
    assert found == short_names(CLASSES)


def test_a_class_has_one_name_in_all_metrics_whichever_classes_they_have() -> None:
    metrics = MetricNames(["Nodule/Mass", "Nodule Mass", "Fracture"])
    found = metrics.named({"ap": {"Nodule/Mass": 0.1, "Nodule Mass": 0.2}, "label_fidelity": {"Nodule Mass": 0.5}})
    assert found == {"ap_Nodule_Mass": 0.1, "ap_Nodule_Mass_2": 0.2, "label_fidelity_Nodule_Mass_2": 0.5}


def test_a_class_called_like_a_group_does_not_take_the_name_of_the_mean() -> None:
    names = MetricNames(("Tail", "Mass"))
    found = names.named({"auroc": {"Tail": 0.25, "Mass": 0.5}, "auroc_tail": 0.75})
    assert found == {"auroc_Tail_2": 0.25, "auroc_Mass": 0.5, "auroc_tail": 0.75}


def test_nothing_is_lost_where_two_paths_would_have_one_name() -> None:
    found = MetricNames([]).named({"map": {"low": 1}, "map_low": 2, "map low": 3, "of": {"a.b": 4, "a/b": 5}})
    assert sorted(found.values()) == [1, 2, 3, 4, 5]
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in found)


def test_only_finite_numbers_and_texts_are_metrics() -> None:
    found = MetricNames([]).named({"a": 1, "b": float("nan"), "c": True, "d": None, "e": [1], "f": "word"}, "p_")
    assert found == {"p_a": 1, "p_f": "word"}


def test_the_table_has_each_class_once_with_what_is_known_of_it() -> None:
    results = {
        "ap": {"a b": 0.5, "c": None},
        "n_positives": {"a b": 3, "c": 4},
        "per_class": {"c": {"fid": 2.0, "n_real": 7, "kid": None}},
        "nearest_train": {"held_out": 1.0},
        "map_all": 0.5,
    }
    assert MetricNames(["a b", "c"]).table(results) == [
        {"class": "a b", "short_name": "a_b", "ap": 0.5, "n_positives": 3, "fid": None, "n_real": None},
        {"class": "c", "short_name": "c", "ap": None, "n_positives": 4, "fid": 2.0, "n_real": 7},
    ]


@pytest.mark.parametrize("tree", [{"a": {"b": {"c": 1}, "d": []}, "e": None}, {}, {"a": 1}])
def test_a_nested_mapping_is_the_inverse_of_a_flat_one(tree: dict[str, object]) -> None:
    assert nested(dict(flatten(tree))) == tree


def test_a_flat_name_that_leads_through_a_value_keeps_its_dots() -> None:
    flat = {"a.b": 1, "a.b.c": 2, "a": 3, "d.e": 4}
    assert nested(flat) == {"a": 3, "a.b": 1, "a.b.c": 2, "d": {"e": 4}}
