"""Checks every batch that a method yields against the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench.augment.label_policies import CLAIMED_CLASS, PARENT_SHARE
from bench.augment.method import Context, Method
from bench.data.exclusions import without_contradictions
from bench.errors import ContractError
from bench.tables import AugmentedBatch, TrainSet

SHARE = f"extras/{PARENT_SHARE}"

_NAME = re.compile(r"[A-Za-z0-9_]+")

_COUNTS = "counts equal the plan"


def skip_of(method: Method, train: TrainSet) -> str | None:
    """Return the reason why a method skips the train split, or None if it does not.

    Raises:
        ContractError: if the method's `skip` returns neither a text nor None.
    """
    reason = method.skip(train)
    if reason is not None and not isinstance(reason, str):
        raise ContractError(method.label, "`skip` returns a reason in words or None", f"got {reason!r}"[:200])
    return reason


def checked(method: Method, ctx: Context) -> Iterator[AugmentedBatch]:
    """Yield the method's batches after checking each one against the contract.

    Labels come out without contradictions, as under every label policy: a class that excludes others gives way to them.

    Raises:
        ContractError: if a batch breaks a rule. The message names the method, the rule and what was found.
    """
    made, wanted = ctx.start, len(ctx.samples)
    first: AugmentedBatch | None = None
    if made < wanted:
        for batch in method.augment(_guarded(ctx)):
            for rule, fault in _faults(batch, ctx.train, method.soft_labels, first):
                raise ContractError(method.label, rule, f"in the batch that begins with sample {made}: {fault}")
            first = first or batch
            made += len(batch.labels)
            if made > wanted:  # Do not wait for the end: a method that never stops would fill the disk.
                raise ContractError(method.label, _COUNTS, f"made {made} and maybe more, the plan asks for {wanted}")
            yield replace(batch, labels=without_contradictions(batch.labels, ctx.train.excludes))
    if made != wanted:
        raise ContractError(method.label, _COUNTS, f"made {made}, the plan asks for {wanted}")


def _guarded(ctx: Context) -> Context:
    """Return the context with a read-only copy of the samples, and a plan of its own."""
    # The result is stored with the target classes that were asked for. A method that changed them would make other
    # images under these, and its row would look like any other.
    samples = ctx.samples.copy()
    samples.flags.writeable = False
    return replace(ctx, plan=dict(ctx.plan), samples=samples)


def _faults(
    batch: object, train: TrainSet, soft_labels: bool, first: AugmentedBatch | None
) -> Iterator[tuple[str, str]]:
    """Yield (rule, what is wrong) for each fault of a batch; `first` is the first batch of this run, if any.

    The checks build on each other: values can only be checked once the shapes are right. So only the faults of the
    first failing group are returned.
    """
    if not isinstance(batch, AugmentedBatch):
        yield "`augment` yields AugmentedBatch", f"got {type(batch).__name__}"
        return
    arrays: dict[str, object] = {"images": batch.images, "labels": batch.labels, "parents": batch.parents}
    arrays |= {f"extras.{name}": array for name, array in batch.extras.items()}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            yield "everything is a numpy array", f"{name} is a {type(array).__name__}"
            return
    found = [*_shape_faults(batch, train)] or [*_extra_faults(batch, first)]
    found = found or [*_value_faults(batch, train, soft_labels)]
    yield from found or _evidence_faults(batch, len(train.class_names))


def _shape_faults(batch: AugmentedBatch, train: TrainSet) -> Iterator[tuple[str, str]]:
    images, labels, parents = batch.images, batch.labels, batch.parents
    if labels.dtype != np.float32 or labels.ndim != 2 or labels.shape[1] != len(train.class_names):
        want = f"want float32 [b, {len(train.class_names)}]"
        yield "labels float32 [b, C]", f"got {labels.dtype} {list(labels.shape)}, {want}"
        return
    shape = (len(labels), *train.images.image_shape)
    if images.dtype != np.uint8 or images.shape != shape:
        axes = ", ".join("bHW3"[: len(shape)])
        yield f"images uint8 [{axes}]", f"got {images.dtype} {list(images.shape)}, want uint8 {list(shape)}"
    if parents.ndim != 2 or len(parents) != len(labels) or not np.issubdtype(parents.dtype, np.integer):
        yield "parents int64 [b, p]", f"got {parents.dtype} {list(parents.shape)}, want {len(labels)} rows of integers"


def _value_faults(batch: AugmentedBatch, train: TrainSet, soft_labels: bool) -> Iterator[tuple[str, str]]:
    labels, parents = batch.labels, batch.parents
    if np.isinf(labels).any() or (labels < 0).any() or (labels > 1).any():
        yield "labels in [0, 1] or NaN", f"got {np.nanmin(labels)} to {np.nanmax(labels)}"
    between = labels[(labels > 0) & (labels < 1)]
    if len(between) and not soft_labels:
        yield "labels of 0 and 1, or `soft_labels = True`", f"got {between[0]}"
    if (parents < -1).any() or (parents >= len(train)).any():
        yield "parents are train rows or -1", f"got {parents.min()} to {parents.max()} of {len(train)} train rows"


def _extra_faults(batch: AugmentedBatch, first: AugmentedBatch | None) -> Iterator[tuple[str, str]]:
    n = len(batch.labels)
    for name, array in batch.extras.items():
        if not _NAME.fullmatch(name):
            yield "names of extras are letters, digits and _", f"got {name!r}"[:200]
        elif array.dtype.kind not in "biuf" or array.shape[:1] != (n,):
            yield f"extras.{name} numbers [b, ...]", f"got {array.dtype} {list(array.shape)} for {n} samples"
    if first is not None and _kinds(batch) != _kinds(first):
        yield "every batch has the same extras", f"got {_kinds(batch)}, before {_kinds(first)}"


def _kinds(batch: AugmentedBatch) -> dict[str, str]:
    """Return the type and per-sample shape of each extra.

    The shape of `parent_share` is left out, because the number of parents may differ between batches.
    """
    free = {PARENT_SHARE}
    return {n: f"{a.dtype} {[] if n in free else list(a.shape[1:])}" for n, a in sorted(batch.extras.items())}


def _evidence_faults(batch: AugmentedBatch, n_classes: int) -> Iterator[tuple[str, str]]:
    """Yield the faults of the two extras that label policies read."""
    share: Any = batch.extras.get(PARENT_SHARE)
    claimed: Any = batch.extras.get(CLAIMED_CLASS)
    if share is not None and share.shape != batch.parents.shape:
        yield f"extras.{PARENT_SHARE} float32 [b, p], as parents", f"got {list(share.shape)}"
    elif share is not None:
        there = batch.parents >= 0
        sums = np.where(there, share, 0).sum(axis=1)
        # `~(x < y)` instead of `x >= y`, so that a NaN counts as wrong.
        wrong = (share < 0).any(axis=1) | (np.any(there, axis=1) & ~(np.abs(sums - 1) < 1e-3))
        if wrong.any():
            yield f"extras.{PARENT_SHARE} at least 0, 1 in all over the parents", f"got {share[wrong][0].tolist()}"
    if claimed is not None and (claimed.shape != (len(batch.labels),) or claimed.dtype.kind != "i"):
        yield f"extras.{CLAIMED_CLASS} int64 [b]", f"got {claimed.dtype} {list(claimed.shape)}"
    elif claimed is not None and ((claimed < -1).any() or (claimed >= n_classes).any()):
        yield f"extras.{CLAIMED_CLASS} a class or -1", f"got {claimed.min()} to {claimed.max()} of {n_classes} classes"
