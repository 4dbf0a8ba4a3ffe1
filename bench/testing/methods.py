"""The rules that every method must keep, as checks that raise `ContractError`. Third-party methods can use them too.

    @pytest.mark.parametrize("check", METHOD_CHECKS)
    def test_contract(check, tmp_path):
        check(MyMethod.toy(), tmp_path)

`root` is the folder of a store; checks with the same `root` share what they compute.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.augment.augmented import Augmented, checked
from bench.augment.method import Context, Method, Plan
from bench.errors import ContractError
from bench.pixels import image_shape
from bench.plugins.discovery import name_fault
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.tables import AugmentedSet
from bench.testing.other_process import in_another_process
from bench.testing.toy import ToyDataset, toy_task

MethodCheck = Callable[[Method, Path], None]
PLAN = Plan(per_class=3, counts={"Nodule": 5})
GREY = ToyDataset()
SAMPLES = [2] * 3 + [3] * 5  # The target classes that PLAN asks for: columns of the toy data set's tail classes.


def check_facts(method: Method, root: Path) -> None:
    """Check that the name can be written in a matrix file, `at` names a field, and settings survive JSON."""
    cls = type(method)
    fault = name_fault("name", cls.name)
    _want(method, "a matrix file can hold the name", fault, fault is None)
    _want(method, "`at` names a field", cls.at, cls.at is None or cls.at in cls.model_fields)
    for chosen in (method, cls()):
        again = cls.model_validate_json(chosen.model_dump_json())
        _want(method, "settings survive JSON", again, again == chosen)


def check_plan(method: Method, root: Path, dataset: ToyDataset = GREY) -> None:
    """Check that the method makes as many images of every class as planned, in order and of the right shape."""
    made = _made(method, root, dataset)
    wanted = SAMPLES if method.makes_images else []
    reason = _skip_reason(method, root, dataset)
    _want(method, "serves the toy data set", f"skip: {reason}", reason is None)
    _want(method, "counts equal the plan", made.target_class.tolist(), made.target_class.tolist() == wanted)
    shape = len(wanted), *image_shape(dataset.image_px, dataset.colour)
    kept = made.images.dtype == np.uint8 and made.images.shape == shape
    _want(method, f"images uint8 {list(shape)}", (made.images.dtype, made.images.shape), kept)


def check_labels(method: Method, root: Path, dataset: ToyDataset = GREY) -> None:
    """Check that labels are in [0, 1] or NaN and contain the target class, and that parents are train rows or -1."""
    made, n_train = _made(method, root, dataset), len(_context(method, root, dataset).train)
    labels, parents = np.asarray(made.labels), np.asarray(made.parents)
    in_range = np.isnan(labels) | ((labels >= 0) & (labels <= 1))
    _want(method, "labels in [0, 1] or NaN", labels[~in_range], in_range.all())
    of_target = labels[np.arange(len(labels)), made.target_class]
    _want(method, "labels contain the target class", of_target, (of_target > 0).all())
    _want(method, "parents are train rows or -1", parents, ((parents >= -1) & (parents < n_train)).all())
    finite = all(np.isfinite(e).all() for e in made.extras.values() if np.issubdtype(e.dtype, np.floating))
    _want(method, "extras are finite", list(made.extras), finite)


def check_same_in_another_process(method: Method, root: Path) -> None:
    """Check that the same seed gives the same bytes in another process, where strings hash differently."""
    here, there = digest(_made(method, root)), in_another_process(made_elsewhere, method)
    _want(method, "same seed, same bytes in another process", (here, there), here == there)


def check_seed_matters(method: Method, root: Path) -> None:
    """Check that another seed gives other images."""
    if method.makes_images:
        same = digest(_made(method, root)) == digest(_made(method, root, seed=1))
        _want(method, "another seed, other samples", "equal bytes for seeds 0 and 1", not same)


def check_batch_size(method: Method, root: Path, dataset: ToyDataset = GREY) -> None:
    """Check that neither the batch size nor a start in the middle changes a label, a parent or a pixel.

    A method that uses stages or the diffusion model may differ by one grey level, because a convolution may add in
    another order for another batch size.
    """
    if not method.makes_images:
        return
    one, many = (_run(method, root, dataset, batch_size=b) for b in (1, 5))
    behind = {name: array[4:] for name, array in one.items()}
    allowed = 1 if method.inputs(toy_task()) or method.uses_diffusion else 0
    later = _run(method, root, dataset, start=4)
    for other, first, what in ((many, one, "batch size"), (later, behind, "start after a kill")):
        for name in ("labels", "parents"):
            same = np.array_equal(first[name], other[name], equal_nan=True)
            _want(method, f"{what} changes no {name}", other[name], same)
        apart = np.abs(first["images"].astype(int) - other["images"].astype(int)).max(initial=0)
        _want(method, f"{what} changes pixels by {allowed} grey levels at most", apart, apart <= allowed)


def check_leaves_no_trace(method: Method, root: Path) -> None:
    """Check that the method changes neither its inputs, nor their files, nor the global random generators."""
    _made(method, root)
    context, before = _context(method, root), _global_state()
    files, train = _files(root), _train_digest(context)
    list(checked(method, context))
    _want(method, "global random generators untouched", "another state", _global_state() == before)
    _want(method, "the train split unchanged", "other bytes", _train_digest(context) == train)
    _want(method, "files of inputs unchanged", "other bytes", _files(root) == files)


def check_sees_train_only(method: Method, root: Path) -> None:
    """Check that the images do not change if val and test hold other images and labels."""
    here, there = (digest(_made(method, root, ToyDataset(held_out_seed=s))) for s in (0, 1))
    _want(method, "no val or test row reachable", "output changes with val and test", here == there)


def check_empty_plan(method: Method, root: Path) -> None:
    """Check that an empty plan gives an empty set."""
    made = _made(method, root, plan=Plan(per_class=0))
    _want(method, "empty plan, empty set", len(made), len(made) == 0)


def check_one_image_class(method: Method, root: Path) -> None:
    """Check that the method can make images of a class with one train image, or skips the data set with a reason."""
    dataset = ToyDataset(lonely=True)
    made, reason = _made(method, root, dataset), _skip_reason(method, root, dataset)
    if reason is not None:
        _want(
            method, "a skip has a reason and makes nothing", (reason, len(made)), bool(reason.strip()) and not len(made)
        )
    elif method.makes_images:
        counts = np.bincount(made.target_class, minlength=4)[2:].tolist()
        _want(method, "one-image class is served", counts, counts == [3, 5])


def check_colour(method: Method, root: Path) -> None:
    """Check that the method makes colour images from colour images, by the rules above, or skips them with a reason."""
    dataset = ToyDataset(colour=True)
    made, reason = _made(method, root, dataset), _skip_reason(method, root, dataset)
    if reason is not None:
        kept = bool(reason.strip()) and not len(made)
        _want(method, "a skip has a reason and makes nothing", (reason, len(made)), kept)
        return
    for check in (check_plan, check_labels, check_batch_size):
        check(method, root, dataset)
    if method.makes_images:
        lost = bool((made.images.min(axis=-1) == made.images.max(axis=-1)).all())
        _want(method, "colours are not lost", "red, green and blue equal in every pixel", not lost)


METHOD_CHECKS: list[MethodCheck] = [
    check_facts,
    check_plan,
    check_labels,
    check_same_in_another_process,
    check_seed_matters,
    check_batch_size,
    check_leaves_no_trace,
    check_sees_train_only,
    check_empty_plan,
    check_one_image_class,
    check_colour,
]


def digest(made: AugmentedSet) -> str:
    """Return a digest of all arrays in a set of synthetic images."""
    arrays: dict[str, np.ndarray] = {
        "images": made.images,
        "labels": made.labels,
        "parents": made.parents,
        **made.extras,
    }
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}{arrays[name].shape}{arrays[name].dtype}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def made_elsewhere(root: Path, method: Method) -> str:
    """Return the digest of what `method` makes, computed in this process in a store at `root`."""
    return digest(_made(method, root))


def _stage(method: Method, dataset: ToyDataset = GREY, plan: Plan = PLAN, seed: int = 0) -> Augmented:
    return Augmented.of(method, toy_task(dataset, plan, seed))


def _made(method: Method, root: Path, dataset: ToyDataset = GREY, plan: Plan = PLAN, seed: int = 0) -> AugmentedSet:
    return Store(root).get(_stage(method, dataset, plan, seed))


def _skip_reason(method: Method, root: Path, dataset: ToyDataset = GREY) -> str | None:
    stage = _stage(method, dataset)
    return stage.skip_reason(Store(root).folder(stage))


def _context(method: Method, root: Path, dataset: ToyDataset = GREY) -> Context:
    """Return the context that the harness would give the method; its inputs are computed first."""
    stage = _stage(method, dataset)
    return stage.context(Work(Store(root), stage, root / "unused" / "out", root / "unused" / "ckpt", Execution()))


def _run(method: Method, root: Path, dataset: ToyDataset, **changes: int) -> dict[str, np.ndarray]:
    """Return the images, labels and parents that the method makes in a context with `changes`."""
    batches = list(checked(method, replace(_context(method, root, dataset), **changes)))  # type: ignore[arg-type]
    width, shape = max((b.parents.shape[1] for b in batches), default=1), image_shape(dataset.image_px, dataset.colour)
    padded = [np.pad(b.parents, ((0, 0), (0, width - b.parents.shape[1])), constant_values=-1) for b in batches]
    return {
        "images": np.concatenate([np.zeros((0, *shape), np.uint8), *(b.images for b in batches)]),
        "labels": np.concatenate([np.zeros((0, 4), np.float32), *(b.labels for b in batches)]),
        "parents": np.concatenate([np.zeros((0, width), np.int64), *padded]),
    }


def _global_state() -> tuple[object, ...]:
    import torch

    legacy = np.random.get_state(legacy=False)
    return random.getstate(), repr(legacy), legacy["state"]["key"].tobytes(), torch.random.get_rng_state().tolist()


def _train_digest(context: Context) -> str:
    return hashlib.sha256(context.train.images[:].tobytes() + context.train.labels.tobytes()).hexdigest()


def _files(root: Path) -> dict[str, str]:
    found = sorted(p for p in root.rglob("*") if p.is_file() and "unused" not in p.parts)
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def _want(method: Method, rule: str, seen: object, kept: object) -> None:
    if not kept:
        raise ContractError(type(method).name, rule, f"got {seen}")
