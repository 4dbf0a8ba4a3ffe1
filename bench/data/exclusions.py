"""Classes that exclude others: an image with a finding is no image of "No Finding"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.errors import ConfigError, listed, nearest

Exclusions = Mapping[str, Literal["all"] | tuple[str, ...]]

_NOTHING = {"no finding", "no findings", "normal"}
_BESIDE_NOTHING = {"support devices"}  # a device is no finding: CheXpert's labeller gives both (Irvin et al. 2019)


def exclusion_table(class_names: Sequence[str], declared: Exclusions | None) -> npt.NDArray[np.bool_]:
    """Return which classes exclude which, `bool [C, C]`: row i is True where class i cannot be present beside class j.

    Args:
        class_names: the classes of the data set.
        declared: class → the classes that it excludes, or `all` others. None: a class called "No Finding" or "Normal",
            in whatever spelling, excludes all others but classes of that kind and "Support Devices".

    Raises:
        ConfigError: if `declared` names a class that the data set does not have, or lets two classes exclude each
            other: an image with both would lose both.
    """
    table = np.zeros((len(class_names), len(class_names)), dtype=bool)
    if declared is None:
        plain = [" ".join(re.split(r"[\W_]+", name.casefold())).strip() for name in class_names]
        for i in (i for i, name in enumerate(plain) if name in _NOTHING):
            table[i] = [name not in _NOTHING | _BESIDE_NOTHING for name in plain]
        return table
    for name, others in declared.items():
        for unknown in {name, *(() if others == "all" else others)} - set(class_names):
            hint, have = nearest(unknown, class_names), listed(class_names)
            raise ConfigError(f"excludes: no class '{unknown}' in the data set{hint} (have: {have})")
        i = class_names.index(name)
        table[i] = [j != i and (others == "all" or other in others) for j, other in enumerate(class_names)]
    if (table & table.T).any():
        a, b = (class_names[i] for i in np.argwhere(table & table.T)[0])
        raise ConfigError(f"excludes: '{a}' and '{b}' exclude each other; name the one that gives way beside the other")
    return table


def without_contradictions(
    labels: npt.NDArray[np.float32], excludes: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.float32]:
    """Return labels in which a class that excludes others is at most as likely as all of these being absent.

    Its label is lowered to 1 minus the highest known label of the classes that it excludes. So beside a finding of 1,
    "No Finding" becomes 0. Labels of findings stay as they are, and so do unknown labels (NaN).

    Args:
        labels: `float32 [n, C]` in [0, 1] or NaN.
        excludes: `bool [C, C]`, see `exclusion_table`; None: no class excludes another.
    """
    if excludes is None or not excludes.any():
        return labels
    found = labels.copy()
    known = np.nan_to_num(labels)
    for i in np.flatnonzero(excludes.any(axis=1)):
        found[:, i] = np.minimum(labels[:, i], 1 - known[:, excludes[i]].max(axis=1))
    return found


def contradictions(labels: npt.NDArray[np.float32], excludes: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return, for each class, in how many rows it is 1 together with a class that it excludes, `int64 [C]`."""
    positive = labels == 1
    both = positive & ((positive.astype(np.float32) @ excludes.T.astype(np.float32)) > 0)
    return both.sum(axis=0).astype(np.int64)
