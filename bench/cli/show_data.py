"""What the command line prints of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from bench.data.split import PARTS

_PAIRS = 10  # classes that occur together, the most frequent pairs


def print_description(found: dict[str, Any], console: Console) -> None:
    """Print what `bench.data.describe.describe` found."""
    console.print(f"{found['dataset']} ({found['kind']}, {found['sharing']}); table {found['table']}", markup=False)
    console.print(_parts(found))
    console.print(f"split: {found['split']}")
    for line in held_out_lines(found.get("held_out_pairs")):
        console.print(line, markup=False, soft_wrap=True)
    if found["patients"] is None:
        console.print("patients are not known: images of one person may be in train and in test")
    if found.get("note"):
        console.print(found["note"], markup=False)
    if found["split_fault"]:
        console.print(f"refused by a run: {found['split_fault']}", markup=False)
    console.print(_classes(found))
    factor = found["imbalance_factor"]
    console.print(
        f"{found['labels_an_image']:.2f} labels an image, {found['images_without_a_label']:,} images without one; "
        f"imbalance factor {f'{factor:.0f}' if factor else 'unknown: a class has no positive in train'}"
    )
    together = Table("together", "", "images", "times chance", box=None)
    for one, other, n, lift in pairs(found):
        together.add_row(Text(one), Text(other), f"{n:,}", f"{lift:.2f}")
    console.print(together)
    for line in _in_words(found):
        console.print(line, markup=False)


def held_out_lines(found: dict[str, Any] | None) -> list[str]:
    """Return what `bench.data.describe.held_out_pairs` found as lines, or nothing if it is None."""
    if found is None:
        return []
    lines = []
    for pair in found["pairs"]:
        of = "" if pair["patients"] is None else f" of {pair['patients']:,} patients"
        maybe = f"; {pair['maybe']:,} more have one of them, and the other is unknown" if pair["maybe"] else ""
        lines.append(f"held out: {' + '.join(pair['classes'])}, {pair['images']:,} images{of}{maybe}")
    share = f"{found['images_of_patients'] / found['images_in_all']:.0%} of all images"
    of = "" if found["patients"] is None else f" (all images of {found['patients']:,} patients)"
    return [*lines, f"held out: {found['images_of_patients']:,} images{of} are in test because of these pairs, {share}"]


def _parts(found: dict[str, Any]) -> Table:
    """Return the number of images and patients in each part."""
    table = Table("part", "images", "patients", box=None)
    for name, part in found["parts"].items():
        table.add_row(name, f"{part['images']:,}", _count(part["patients"]))
    table.add_row("all", f"{found['images']:,}", _count(found["patients"]))
    return table


def _count(n: int | None) -> str:
    return "unknown" if n is None else f"{n:,}"


def _classes(found: dict[str, Any]) -> Table:
    """Return the positives of each class in each part, and how many patients they are of: `12 (3)`."""
    # Where every image is of another patient, or nobody knows, the second number would repeat the first.
    alone = found["patients"] in (None, found["images"])
    table = Table("class", "", *PARTS, "unknown", "of train", box=None)
    if not alone:
        table.caption, table.caption_justify = "in brackets: patients with a positive", "left"
    for c in found["classes"]:
        shown = [f"{c[part]:,}" + ("" if alone else f" ({c['patients'][part]:,})") for part in PARTS]
        table.add_row(Text(c["name"]), c["group"], *shown, f"{c['unknown']:,}", f"{100 * c['train_share']:.2f} %")
    return table


def pairs(found: dict[str, Any], n: int = _PAIRS) -> list[tuple[str, str, int, float]]:
    """Return the `n` pairs of classes that occur together most often.

    Returns:
        Two names, the number of images with both, and how many times as many that is as chance would give.
    """
    names, both = [c["name"] for c in found["classes"]], np.array(found["cooccurrence"])
    alone, total = np.diag(both), max(1, found["images"])
    order = sorted(zip(*np.triu_indices(len(names), 1), strict=True), key=lambda ij: -both[ij])[:n]
    return [
        (names[i], names[j], int(both[i, j]), float(both[i, j] * total / (alone[i] * alone[j])))
        for i, j in order
        if both[i, j]
    ]


def _in_words(found: dict[str, Any]) -> list[str]:
    """Return sentences on the pictures, and on the rows that were left out."""
    lines, pictures = [], found["pictures"]
    for name, n in found["contradictions"].items():
        lines.append(f"{n:,} image{'s'[: n != 1]} with {name} and a class that it excludes; see the setting excludes")
    if pictures and "fault" in pictures:
        lines.append(f"pictures: {pictures['fault']}")
    elif pictures:
        lines.append(f"pictures: {pictures['missing']:,} missing, {decimal(round(1e9 * pictures['gigabytes']))}")
        if pictures["width_px"]:
            wide, high = (" / ".join(map(str, pictures[name])) for name in ("width_px", "height_px"))
            lines[-1] += f"; smallest / median / largest of {pictures['sampled']}: {wide} px wide, {high} px high"
        if pictures["unreadable"]:
            lines[-1] += f"; {pictures['unreadable']} of them cannot be read"
    lines += [f"look at the pictures: {note}" for note in found["odd"]]
    if found["changed_source"]:
        lines.append(f"refused by a run: {found['changed_source']}")
    if found["left_out"]:
        lines.append(", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in found["left_out"].items()))
    return lines
