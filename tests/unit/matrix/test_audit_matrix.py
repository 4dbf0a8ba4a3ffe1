"""The audit's rows: each changes what it says, and all corrections together make the corrected method."""

from __future__ import annotations

from typing import Any

from bench.files import flatten
from bench.matrix.load import load_matrix

NOT_AUDITED_ALONE = {"codec.imitation_loss"}


def settings_of(row: Any) -> dict[str, Any]:
    return dict(flatten(row.method.model_dump(mode="json")))


def differing(a: Any, b: Any) -> set[str]:
    left, right = settings_of(a), settings_of(b)
    return {name for name in left.keys() | right.keys() if left.get(name) != right.get(name)}


def rows() -> dict[str, Any]:
    return {cell.label: cell.row for cell in load_matrix("audit").cells}


def test_all_corrections_together_are_the_corrected_method_and_the_other_way_round() -> None:
    found = rows()
    for start, end in (("released", "corrected"), ("corrected", "released")):
        changed = [r for r in found.values() if r.against == (start,) and r.label != end]
        assert len(changed) == 8
        together = set().union(*(differing(r, found[start]) for r in changed))
        assert together == differing(found[end], found[start]) - NOT_AUDITED_ALONE
        for row in changed:  # and each setting is changed to what it is at the other end
            for name in differing(row, found[start]):
                assert settings_of(row)[name] == settings_of(found[end])[name]


def test_no_setting_is_changed_by_two_rows() -> None:
    found = rows()
    for start, end in (("released", "corrected"), ("corrected", "released")):
        changed = [differing(r, found[start]) for r in found.values() if r.against == (start,) and r.label != end]
        assert sum(len(c) for c in changed) == len(set().union(*changed))
