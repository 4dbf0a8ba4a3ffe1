"""The stage that runs a method: it resolves the plan, checks every batch and writes the samples to disk."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import SerializeAsAny

from bench import seeds
from bench.augment.batch_checks import checked, skip_of
from bench.augment.kept_batches import KeptBatches
from bench.augment.method import Context, Method, Plan, Task
from bench.augment.unusable import Reason, UnusableDiagnostics, UnusableMethod
from bench.data.census import COUNTS_FILE, by_group
from bench.data.split import Train, train_set
from bench.diffusion.model import DiffusionModel
from bench.errors import BenchError, ContractError, DataError
from bench.files import read_json_or_raise, write_strict_json
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import AugmentedSet


class Augmented(Stage):
    """The synthetic samples of one method: images, labels, parents and target classes."""

    method: SerializeAsAny[Method]
    train: Train
    plan: Plan
    seed: int
    needs: dict[str, SerializeAsAny[Stage]] = {}
    diffusion: DiffusionModel | None = None

    @property
    def resources(self) -> Resources:  # type: ignore[override]
        """A GPU only for methods that use the diffusion model or results that took one; copies need none."""
        return Resources(gpu=self.method.uses_diffusion or any(need.resources.gpu for need in self.needs.values()))

    @classmethod
    def of(cls, method: Method, task: Task) -> Augmented:
        """Return the stage for a method in a cell.

        The seed does not depend on the method's name, so that methods in the same cell are compared on paired seeds.
        """
        # The label policy is applied in a later stage. It must not be in this key, or every policy would generate the
        # same images again.
        method = method.model_copy(update={"labels": "own"})
        if not method.makes_images:
            return cls(method=method, train=task.train, plan=Plan(per_class=0), seed=0)
        try:
            return cls._planned(method, task)
        except (BenchError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # The method's own code ran here, so any exception is possible. Only this method's cells may fail.
            reason = Reason.of(f"method '{method.name}' broke while its stages were planned", error)
            broken = UnusableMethod.of(method.name, None, {"as": repr(method)}, reason)
            return cls(method=broken, train=task.train, plan=task.plan, seed=task.seed)

    @classmethod
    def _planned(cls, method: Method, task: Task) -> Augmented:
        planned = cls(
            method=method,
            train=task.train,
            plan=task.plan,
            seed=task.seed,
            needs=method.inputs(task),
            diffusion=task.diffusion if method.uses_diffusion else None,
        )
        _try_key(planned)
        return planned

    def size(self) -> int | None:
        """Return the number of images to make."""
        return self.plan.size(self.train)

    def measured_as(self) -> str:
        """Return the method's label beside the stage's name: the methods differ in what an image takes."""
        return f"{self.stage_name()} {self.method.label}"

    def context(self, work: Work) -> Context:
        """Return the context that the method is given."""
        return self._with_inputs(self._without_inputs(work), work)

    def _with_inputs(self, ctx: Context, work: Work) -> Context:
        return replace(ctx, inputs={name: work.get(stage) for name, stage in self.needs.items()})

    def _without_inputs(self, work: Work) -> Context:
        train = train_set(work, self.train)
        samples = self.plan.samples(train, self.method.tail_only)
        return Context(
            train=train,
            plan=self.plan.resolve(train),
            samples=samples,
            seed=seeds.derive(self.seed, "augment"),
            device=work.device,
            progress=lambda done: work.progress(done, len(samples), "samples"),
            diffusion_model=self.diffusion,
        )

    def compute(self, work: Work) -> None:
        """Write images, labels, parents, target_class and extras as npy files, `plan.json` and `census.json`.

        The census has the counts of `bench.data.census.counts` for each target class, by its column.

        If the method skips the data set, the arrays are empty and `plan.json` holds the reason. Batches are kept in
        `work.ckpt` as the method yields them, so that a killed computation resumes after the last kept batch.
        """
        ctx = self._without_inputs(work)
        reason = skip_of(self.method, ctx.train) if len(ctx.samples) else None
        if reason:
            ctx = replace(ctx, samples=ctx.samples[:0])
        if len(ctx.samples):
            ctx = self._with_inputs(ctx, work)
        kept = KeptBatches(work.ckpt)
        try:
            for batch in checked(self.method, replace(ctx, start=kept.n)):
                kept.add(batch)
        except ContractError:
            # The kept batches must go. A method that made too many would otherwise look complete to the next attempt,
            # which counts what is kept and stores it as a result.
            kept.forget()
            raise
        kept.write(work.out, ctx)
        write_strict_json(work.out / "plan.json", {"plan": ctx.plan, "skip": reason})
        write_strict_json(
            work.out / COUNTS_FILE, by_group(np.load(work.out / "images.npy", mmap_mode="r"), ctx.samples)
        )

    def open(self, folder: Path) -> AugmentedSet:
        """Return the set, memory-mapped."""
        names = ("images", "labels", "parents", "target_class")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        extras = {
            p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in sorted((folder / "extras").glob("*.npy"))
        }
        return AugmentedSet(**arrays, extras=extras)

    def skip_reason(self, folder: Path) -> str | None:
        """Return why the method declined the data set, or None."""
        return read_json_or_raise(folder / "plan.json")["skip"]


def diagnostics_of(method: Method, task: Task) -> Stage | None:
    """Return the stage that judges a method's inner steps, or None if the method has no diagnostics.

    If planning the stage raises, return an `UnusableDiagnostics` that fails with the reason when it is computed.
    """
    try:
        stage = method.diagnostics(task)
        if stage is not None:
            _try_key(stage)
        return stage
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = Reason.of(f"the diagnostics of method '{method.name}' broke while they were planned", error)
        return UnusableDiagnostics(asked=repr(method), reason=reason)


def _try_key(stage: Stage) -> None:
    """Compute the stage's key, so that settings or code that cannot be in a key fail now and not during a run.

    Missing data is no error here: a matrix may be read before its data has been downloaded.
    """
    with contextlib.suppress(DataError):
        _ = stage.key
