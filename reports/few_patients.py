"""Tail classes that rest on few test patients: they are named, marked and left out of a mean beside the tail mAP."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.results.cells import CellResult

MARK = "†"
LARGE_SHARE = 1 / 3  # of a class's reference images from one patient, who then counts as much as two others
_LONGEST_NAME = 24  # letters of a class name that a heading holds


def few_patients(results: Iterable[CellResult]) -> dict[str, int]:
    """Return tail class → its test patients, for the classes that `scores.min_patients` says are few."""
    found: dict[str, int] = {}
    for result in results:
        found |= (result.scores or {}).get("few_patients") or {}
    return found


def heading_without(few: Mapping[str, int]) -> str:
    """Return the heading of the mean without these classes."""
    (name, *others) = few
    return f"mAP tail without {name if not others and len(name) <= _LONGEST_NAME else _number(few)}"


def few_note(
    few: Mapping[str, int], results: Iterable[CellResult], without: Mapping[str, str] | None = None
) -> list[str]:
    """Return the sentences that say which classes they are, or nothing.

    Args:
        few: the classes, each with the number of its test patients.
        results: the cells; where the patients are not known, each image counts as one, and images are spoken of.
        without: row → its mean without these classes, for a table that has no column of it.
    """
    if not few:
        return []
    known = all((r.scores or {}).get("patients_known", True) for r in results)
    unit, they = ("patient", "So few people decide it, whatever the number of images") if known else (
        "image", "So few images decide it"
    )  # fmt: skip
    if len(few) == 1:
        ((name, n),) = few.items()
        said = f"rests on a class of {n} test {unit}{'s'[: n != 1]}: {name}"
    else:
        listed = ", ".join(f"{name} ({n})" for name, n in few.items())
        said = f"rests on {_number(few)} of few test {unit}s: {listed}"
    those = "this class" if len(few) == 1 else "these classes"
    beside = f"The column beside it is the mean without {those}."
    if without is not None:
        beside = f"The mean without {those}: {', '.join(f'{row} {text}' for row, text in without.items())}."
    return [f"{MARK} Tail mAP {said}. {they}. {beside}"]


def marked(said: Mapping[str, str], few: Mapping[str, int]) -> dict[str, str]:
    """Return texts on the tail mAP, each with the mark that leads to the note."""
    return {row: f"{text} {MARK}" if few else text for row, text in said.items()}


def reference_note(results: Iterable[CellResult], tail: Collection[str] | None) -> list[str]:
    """Return the sentence on tail classes whose real images are largely of one patient, or nothing.

    It gives the share of these images, and how much the FID of the class contributes to the tail FID, mean over rows.
    `tail` are the tail classes. Without it they are those that images were made for and that the plan does not name.
    """
    shares: dict[str, tuple[float, int]] = {}
    parts: dict[str, list[float]] = {}
    for result in results:
        per_class = (result.fidelity or {}).get("per_class") or {}
        names = per_class.keys() - result.cell.augmented.plan.counts if tail is None else tail
        classes = {n: c for n, c in per_class.items() if n in names and c.get("fid") is not None}
        total = sum(c["fid"] for c in classes.values())
        for name, one in classes.items():
            share = one.get("largest_patient") or 0.0
            if share >= LARGE_SHARE and share * one["n_real"] > 1.5:  # one image of three is no pile of images
                shares[name] = one["largest_patient"], one["n_real"]
                parts.setdefault(name, []).append(one["fid"] / total if total else 0.0)
    if not shares:
        return []
    listed = "; ".join(
        f"{name}: {100 * share:.0f} % of {n}, and {100 * sum(parts[name]) / len(parts[name]):.0f} % of the tail FID"
        for name, (share, n) in shares.items()
    )
    return [f"Many of the real images that FID compares with are of a single patient, for some classes. {listed}."]


def _number(few: Mapping[str, int]) -> str:
    return f"{len(few)} class{'es'[: 2 * (len(few) != 1)]}"
