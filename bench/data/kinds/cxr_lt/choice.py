"""Choose what is used of a CXR-LT release: classes by preset, name or rank, views, and a sample of the patients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench import seeds
from bench.data.kinds.cxr_lt.labels import LabelRows
from bench.data.kinds.cxr_lt.releases import FRONTAL, PAPER, PAPER_N_HEAD, PAPER_TAIL, same_class
from bench.errors import DataError, listed, nearest
from bench.tables import Float32, Int64

Item = str | int  # a class by its name, or by its rank in the train rows, where 1 is the most frequent
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClassChoice:
    """The names of the classes of a data set; `names` is in the order of the table's columns."""

    names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]


@dataclass(frozen=True)
class SelectionSettings:
    """What the settings of a `CxrLt` ask for.

    `kind` is what messages call the data set, and `frontal` is that of the `Release`.
    """

    kind: str
    frontal: bool
    views: str | tuple[str, ...]
    classes: str | tuple[Item, ...]
    head: tuple[Item, ...] | None
    tail: tuple[Item, ...] | None
    n_tail: int | None
    limit: int | None
    keep_tail: float | None
    seed: int


@dataclass(frozen=True)
class Selection:
    """The rows and classes that are used of a release. The arrays are read-only.

    Attributes:
        rows: all rows of the release.
        classes: the names of the classes that are used.
        index: `int64 [n]`, the rows that are used.
        labels: `float32 [n, C]`, the labels of these rows and classes.
        patients, splits: `int64 [n]`, those of these rows.
        left_out: how many rows are not used, by reason.
    """

    rows: LabelRows
    classes: ClassChoice
    index: Int64
    labels: Float32
    patients: Int64
    splits: Int64
    left_out: dict[str, int]


@functools.lru_cache(maxsize=8)
def choose(rows: LabelRows, wanted: SelectionSettings) -> Selection:
    """Return what the settings select of a release.

    The ranks of classes are those in the train rows with the chosen views, before patients are drawn.

    Raises:
        DataError: if they ask for classes, views or patients that are not there; see the functions below.
    """
    # Ranks after the draw would depend on the sample, and a pilot would have other classes than the real run.
    viewed = rows_in_view(rows, wanted.views, wanted.frontal, wanted.kind)
    counts = np.nansum(rows.labels[viewed & (rows.splits == 0)], axis=0).astype(np.int64)
    w = wanted
    classes = choose_classes(w.classes, w.head, w.tail, w.n_tail, rows.class_names, counts, w.kind)
    index = np.flatnonzero(viewed)
    left_out = {"rows": len(viewed), "rows_in_other_views": len(viewed) - len(index)}
    if w.limit is not None:
        positive = (rows.labels[np.ix_(index, _columns(rows, classes.tail))] == 1).any(axis=1)
        index = index[sample_patients(rows.patients[index], positive, w.limit, w.keep_tail, w.seed, w.kind)]
    left_out["rows_of_patients_not_drawn"] = len(viewed) - left_out["rows_in_other_views"] - len(index)
    labels = rows.labels[np.ix_(index, _columns(rows, classes.names))]
    chosen = Selection(rows, classes, index, labels, rows.patients[index], rows.splits[index], left_out)
    for array in (chosen.index, chosen.labels, chosen.patients, chosen.splits):
        array.setflags(write=False)
    return chosen


def _columns(rows: LabelRows, names: Sequence[str]) -> Int64:
    return np.array([rows.class_names.index(c) for c in names])


def choose_classes(
    classes: str | Sequence[Item],
    head: Sequence[Item] | None,
    tail: Sequence[Item] | None,
    n_tail: int | None,
    have: tuple[str, ...],
    counts: Int64,
    where: str,
) -> ClassChoice:
    """Return the classes that the settings mean.

    Args:
        classes: `paper`, `all`, or names and ranks.
        head: names and ranks; None means all classes that are not in the tail.
        tail: names and ranks; None means the `n_tail` rarest of the chosen classes.
        n_tail: None means half of the chosen classes.
        have: the classes of the release.
        counts: `int64 [C]`, their positives in train. Classes with equal counts rank in the order of the release.
        where: what messages call the data set.

    Raises:
        DataError: for a name or rank that is not a class, a class that is given twice or is in head and in tail, or a
            tail that leaves no head.
    """
    ranked = [have[i] for i in np.argsort(-counts, kind="stable")]
    if classes == PAPER:
        return _papers(ranked, where)
    names = list(have) if isinstance(classes, str) else _resolved(classes, ranked, f"{where}: classes")
    chosen_tail = (
        _resolved(tail, ranked, f"{where}: tail", names)
        if tail is not None
        else [c for c in ranked if c in names][-(n_tail or max(1, len(names) // 2)) :]
    )
    rest = [c for c in names if c not in chosen_tail]
    chosen_head = _resolved(head, ranked, f"{where}: head", names) if head is not None else rest
    if both := set(chosen_head) & set(chosen_tail):
        raise DataError(f"{where}: {listed(both)} in head and in tail; name each class once")
    if not chosen_head:
        raise DataError(f"{where}: all {len(names)} classes are tail; at least one must be head")
    return ClassChoice(
        tuple(names), tuple(c for c in names if c in chosen_head), tuple(c for c in names if c in chosen_tail)
    )


def _papers(ranked: list[str], where: str) -> ClassChoice:
    if absent := [c for c in PAPER_TAIL if c not in ranked]:
        raise DataError(f"{where}: classes: '{PAPER}' needs {listed(absent)}, which this release lacks; name classes")
    head = tuple(c for c in ranked if c not in PAPER_TAIL)[:PAPER_N_HEAD]
    return ClassChoice(head + PAPER_TAIL, head, PAPER_TAIL)


def _resolved(items: Sequence[Item], ranked: list[str], where: str, among: Sequence[str] | None = None) -> list[str]:
    names = []
    for item in items:
        if isinstance(item, int) and not 1 <= item <= len(ranked):
            raise DataError(f"{where}: want a rank from 1 (most frequent in train) to {len(ranked)}, got {item}")
        name = ranked[item - 1] if isinstance(item, int) else same_class(item, ranked)
        if name is None or (among is not None and name not in among):
            have = ranked if among is None else among
            raise DataError(f"{where}: no class '{item}'{nearest(str(item), have)} (have: {listed(have, 40)})")
        if name in names:
            raise DataError(f"{where}: class '{name}' is given twice ({item}); name each class once")
        names.append(name)
    return names


def rows_in_view(rows: LabelRows, views: tuple[str, ...] | str, frontal: bool, where: str) -> Bools:
    """Return which rows have one of the views, `bool [n]`.

    Raises:
        DataError: if the label files have no views and the release is not known to hold only these, or if no row has
            one of the views.
    """
    everything = np.ones(len(rows.labels), dtype=bool)
    if isinstance(views, str) or (rows.views is None and frontal and set(FRONTAL) <= set(views)):
        return everything
    if rows.views is None:
        raise DataError(f"{where}: views: the label files have no column that says a picture's view; set views: all")
    found = np.isin(rows.views, views)
    for view in views:
        if not (rows.views == view).any():
            have = listed(v for v in np.unique(rows.views).tolist() if v)
            raise DataError(f"{where}: views: no row is '{view}'{nearest(view, have.split(', '))} (have: {have})")
    return found


def sample_patients(
    patients: Int64, tail_positive: Bools, limit: int, keep_tail: float | None, seed: int, where: str
) -> Bools:
    """Return which rows belong to `limit` patients that are drawn at random, `bool [n]`.

    A share `keep_tail` (rounded up) of the patients with a positive of the tail is drawn first. The rest of the limit
    is drawn from the patients without one. The tail is then more frequent in the sample than in the release, in test as
    well as in train. If `keep_tail` is None, labels do not matter, and classes are about as frequent as in the release.

    Args:
        patients: `int64 [n]`.
        tail_positive: `bool [n]`, the rows with a positive label of the tail.
        limit: the number of patients in all.
        keep_tail: the share of the patients of the tail to keep, 0 to 1, or None.
        seed: the seed of the draw.
        where: what messages call the data set.

    Raises:
        DataError: if the patients of the tail alone are more than the limit.
    """
    ids, inverse = np.unique(patients, return_inverse=True)
    order = seeds.rng(seed, "limit").permutation(len(ids))
    if keep_tail is None:
        return np.isin(inverse, order[:limit])
    with_tail = np.zeros(len(ids), dtype=bool)
    with_tail[inverse[tail_positive]] = True
    kept = order[with_tail[order]][: int(np.ceil(keep_tail * with_tail.sum()))]
    if len(kept) > limit:
        raise DataError(
            f"{where}: limit: {len(kept)} patients with a positive of the tail are to be kept (keep_tail: "
            f"{keep_tail:g}), but the limit is {limit}; raise it, or lower keep_tail"
        )
    others = order[~with_tail[order]][: limit - len(kept)]
    taken = np.zeros(len(ids), dtype=bool)
    taken[np.concatenate([kept, others])] = True
    return taken[inverse]
