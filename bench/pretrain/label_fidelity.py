"""Label fidelity: does an image that was asked for with a finding show it, by the oracle's word?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.diffusion.prompts import prompt_for
from bench.evaluation.oracle import Oracle, ask_oracle
from bench.files import read_json_or_raise, write_json
from bench.pretrain.networks import Pipeline
from bench.pretrain.sampling import sample_images


def label_fidelity(
    shown: NDArray[np.bool_], asked: NDArray[np.bool_], class_names: Sequence[str]
) -> dict[str, dict[str, float | int | None]]:
    """Return for every class P(shown | asked), P(shown | others asked) as `chance`, and their ratio.

    Args:
        shown: `[n, C]`, what the oracle sees.
        asked: `[n, C]`, what the prompts named; images with an empty prompt count for neither.
        class_names: Names of the C classes.
    """
    some = asked.any(axis=1)
    out: dict[str, dict[str, float | int | None]] = {}
    for c, name in enumerate(class_names):
        named, others = asked[:, c], some & ~asked[:, c]
        hit = float(shown[named, c].mean()) if named.any() else None
        chance = float(shown[others, c].mean()) if others.any() else None
        # Half a count keeps the ratio finite where chance is zero; it can only lower the ratio.
        floor = 0.5 / max(int(others.sum()), 1)
        ratio = hit / max(chance, floor) if hit is not None and chance is not None else None
        values = {"shown_if_asked": hit, "chance": chance, "ratio": ratio}
        out[name] = {k: None if v is None else round(v, 4) for k, v in values.items()}
        out[name]["n"] = int(named.sum())
    return out


def measure_fidelity(
    pipeline: Pipeline,
    oracle: Oracle,
    class_names: Sequence[str],
    image_px: int,
    n_images: int = 64,
    num_inference_steps: int = 75,
    guidance_scale: float = 3.5,
    seed: int = 1,
) -> dict[str, Any]:
    """Sample `n_images` for every single-finding prompt and ask the oracle (threshold one half)."""
    asked = np.repeat(np.eye(len(class_names), dtype=bool), n_images, axis=0)
    prompts = [prompt_for(class_names, row) for row in asked]
    images = sample_images(pipeline, prompts, image_px, num_inference_steps, guidance_scale, seed)
    logits, _ = ask_oracle(oracle, images)
    return {
        "per_class": label_fidelity(logits > 0, asked, class_names),
        "n_images_per_class": n_images, "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale, "seed": seed, "rule": "oracle probability > 0.5",
    }  # fmt: skip


def record_fidelity(folder: Path | str, oracle: Oracle, n_images: int = 64) -> dict[str, Any]:
    """Measure the pipeline in `folder` and add the figures to its `record.json`."""
    import torch
    from diffusers import StableDiffusionPipeline

    folder = Path(folder)
    record = read_json_or_raise(folder / "record.json")
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(folder), torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    figures = measure_fidelity(pipeline, oracle, record["class_names"], record["image_px"], n_images)
    write_json(folder / "record.json", {**record, "label_fidelity": figures})
    return figures
