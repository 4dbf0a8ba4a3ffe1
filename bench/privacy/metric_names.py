"""Names of metrics for a tracker: letters, digits and `_`, since W&B neither filters nor sorts by others."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9_]+")
_LONGEST = 32
_GROUPS = ("head", "medium", "tail", "all")  # a class of such a name would take the name of a mean


def short_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a short name of letters, digits and `_` for each name; no two are the same, even in other cases.

    `Enlarged Cardiomediastinum` becomes `Enlarged_Cardiomediastinum`. If two names would become the same, the later one
    gets a number at its end, and so does one that is in `taken` (in lower case).
    """
    found: dict[str, str] = {}
    taken = {*taken}
    for name in names:
        letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        stem = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")[:_LONGEST].rstrip("_") or "other"
        short, n = stem, 1
        while short.lower() in taken:
            n += 1
            short = f"{stem}_{n}"
        taken.add(short.lower())
        found[name] = short
    return found


class MetricNames:
    """The names of one cell's metrics. A class has the same short name in each of them.

    Attributes:
        classes: each class's name → its short name, in the order of the classes.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        """Name the metrics of data with these classes."""
        self.classes = short_names(classes, _GROUPS)

    def named(self, tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        """Return the finite numbers and the texts of nested mappings as `a_b_c` → value.

        Args:
            tree: nested mappings.
            prefix: what each name begins with.
        """
        found: dict[str, Any] = {}
        for name, value in self._leaves(tree, prefix):
            while name in found:  # two paths that differ only in where their parts end
                name += "_"
            found[name] = value
        return found

    def table(self, results: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one mapping for each class: `class`, `short_name`, and every number that results give by class.

        Args:
            results: mappings from a class to a number (`ap`) or to several (`per_class`); all else is left out.
        """
        rows = {name: {"class": name, "short_name": short} for name, short in self.classes.items()}
        columns: dict[str, dict[str, float]] = {}
        for metric, part in results.items():
            of_classes = isinstance(part, dict) and part.keys() <= rows.keys()
            for name, found in part.items() if of_classes else ():
                for column, value in (found if isinstance(found, dict) else {metric: found}).items():
                    if is_number(value):
                        columns.setdefault(column, {})[name] = float(value)
        return [row | {column: found.get(name) for column, found in columns.items()} for name, row in rows.items()]

    def _leaves(self, tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        odd = short_names(n for n in tree if n not in self.classes and not _PLAIN.fullmatch(n))
        for name, value in tree.items():
            path = f"{prefix}{self.classes.get(name) or odd.get(name) or name}"
            if isinstance(value, dict):
                yield from self._leaves(value, f"{path}_")
            elif is_number(value) or isinstance(value, str):
                yield path, value


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
