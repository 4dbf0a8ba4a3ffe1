"""The detail that `smote` and `roentgen` add back is what the VAE loses of their parents, or of a random train image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.augmented import Augmented, checked
from bench.contract import Context, Method, Plan
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods.roentgen import Roentgen
from methods.smote import Smote


def made(method: Method, root: Path) -> tuple[Context, dict[str, Any]]:
    """Return the context of a method on the toy data, and all of its images, parents and extras."""
    torch.set_num_threads(1)
    stage = Augmented.of(method, toy_task(plan=Plan(per_class=6)))
    ctx = stage.context(Work(Store(root), stage, root / "unused" / "out", root / "unused" / "ckpt", Execution()))
    batches = list(checked(method, ctx))
    whole = {name: np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "parents")}
    return ctx, whole | {name: np.concatenate([b.extras[name] for b in batches]) for name in batches[0].extras}


def lost_of(ctx: Context) -> np.ndarray:
    images = ctx.train.images[:].astype(int)
    return images - ctx.diffusion.decode(np.array(ctx.inputs["latents"].mean))


def test_smote_adds_the_parents_detail_by_their_shares(tmp_path: Path) -> None:
    plain = made(Smote(space="latent"), tmp_path)[1]
    ctx, detailed = made(Smote(space="latent", detail="parents"), tmp_path)
    lost = lost_of(ctx)
    for i, (base, neighbour) in enumerate(plain["parents"]):
        step = 0.0 if neighbour == -1 else plain["step"][i]
        wanted = plain["images"][i] + (1 - step) * lost[base] + step * lost[neighbour]
        np.testing.assert_allclose(detailed["images"][i], wanted.clip(0, 255), atol=1)
    assert (detailed["images"] != plain["images"]).any()


def test_detail_in_pixels_is_refused() -> None:
    with pytest.raises(ValidationError, match="in space pixel no VAE loses any; set space to latent"):
        Smote(detail="parents")


def test_roentgen_adds_the_detail_of_a_random_train_image(tmp_path: Path) -> None:
    plain = made(Roentgen(num_inference_steps=2), tmp_path)[1]["images"]
    ctx, detailed = made(Roentgen(num_inference_steps=2, detail="random"), tmp_path)
    lost, donors = lost_of(ctx), []
    for image, seen in zip(plain, detailed["images"], strict=True):
        off = np.abs((image + lost).clip(0, 255) - seen).reshape(len(lost), -1).max(axis=1)
        assert off.min() <= 1
        donors.append(int(off.argmin()))
    assert len(set(donors)) > len(donors) / 2
