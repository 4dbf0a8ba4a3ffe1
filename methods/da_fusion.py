"""DA-Fusion (Trabucco et al. 2023): SDEdit on real tail images, with a word for each tail class that the images taught.

A diffusion model may have no good word for a rare finding. Textual inversion (Gal et al. 2022) learns one: the model is
frozen, and only the embedding of a new token is trained, on the train images of the class. So the row beside `sdedit`
with the same settings shows what the learned words are worth. What is from the papers:

- One new token a class, with its own short training; U-Net, VAE and text encoder are frozen.
- Images are made from real images, noised and denoised under a prompt with the new token.

What is ours:

- An image has many labels. Its prompt names all of them as always, with the token in place of the class's name.
- The embedding starts as the mean of the embeddings of the class's name, not of an unrelated word.
- The strength is the same for all images (`denoise_steps`), and the plan says how many there are. The paper draws the
  strength of each image, and shows real and synthetic ones with equal probability.
- The default training is shorter than the paper's (1,000 steps of 4 images at 5e-4, for Stable Diffusion), so that a
  CPU can do it with the shipped model. The record `inversion.json` tells the steps, and the loss before and after.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from bench.contract import (
    AugmentedBatch,
    ConfigError,
    Context,
    Diffusion,
    DiffusionModel,
    Float32,
    Latents,
    LatentTable,
    Resources,
    Settings,
    Stage,
    Task,
    Train,
    TrainSet,
    Work,
    checkpoints,
    seeds,
    train_set,
    write_strict_json,
)
from methods.sdedit import Sdedit

if TYPE_CHECKING:
    from torch import Tensor

_SAVE_EVERY = 50  # steps
_JUDGED = 64  # draws of image, noise and timestep, the same before and after the training


class InversionSettings(Settings):
    """The training of the new tokens."""

    steps: int = Field(200, ge=1, le=100_000, description="optimiser steps for each class (Adam)")
    learning_rate: float = Field(5e-3, gt=0, le=1, description="of the embedding, constant")
    batch_size: int = Field(8, ge=1, le=1024, description="images in a step, drawn with replacement")


class LearnedTokens(Stage):
    """The embedding of a new token for every tail class, by textual inversion."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=60)

    latents: Latents
    train: Train
    diffusion: DiffusionModel
    settings: InversionSettings = InversionSettings()
    seed: int

    def compute(self, work: Work) -> None:
        """Write `tokens.npy`, `float32 [n_tail, width]`, and `inversion.json`.

        There is a checkpoint after every 50 steps, and a resumed training gives the same bits.
        """
        train, table = train_set(work, self.train), work.get(self.latents)
        diffusion, steps = self.diffusion.load(work.device), self.settings.steps
        vectors, classes = [], {}
        for k, name in enumerate(train.tail):
            lesson = Lesson(diffusion, table, train, name, self.settings, seeds.derive(self.seed, "inversion", k))
            before = lesson.judged(diffusion)
            saved = checkpoints.Checkpoints(work.ckpt / str(k), fingerprint="")
            for step in lesson.run(saved):
                work.progress(k * steps + step, len(train.tail) * steps, name)
            vectors.append(lesson.vector)
            classes[name] = {"images": len(lesson.rows), "loss_of_name": before, "loss_of_token": lesson.judged()}
        np.save(work.out / "tokens.npy", np.array(vectors, np.float32))
        write_strict_json(work.out / "inversion.json", self.settings.model_dump() | {"classes": classes})

    def open(self, folder: Path) -> Float32:
        """Return the embeddings, in the order of the tail classes."""
        return np.load(folder / "tokens.npy")

    def size(self) -> int | None:
        """Return the number of images in all steps of a class."""
        return self.settings.steps * self.settings.batch_size


class Lesson:
    """The training of one class's token. Every step has its own draws, so that it can be resumed after any step."""

    def __init__(
        self,
        diffusion: Diffusion,
        table: LatentTable,
        train: TrainSet,
        name: str,
        settings: InversionSettings,
        seed: int,
    ) -> None:
        """Start from the embedding of the class's name; `seed` belongs to this class."""
        import torch

        self.table, self.train, self.settings, self.seed = table, train, settings, seed
        self.rows = train.rows_with(train.class_names.index(name))
        self.diffusion = with_tokens(diffusion, [name], named(diffusion, name)[None])
        encoder = self.diffusion.pipeline.text_encoder
        self.token = encoder.get_input_embeddings().new.requires_grad_()
        self.optimizer = torch.optim.Adam([self.token], lr=settings.learning_rate)

    @property
    def vector(self) -> Float32:
        """Return the embedding as it is now, `float32 [width]`."""
        return self.token.detach()[0].float().cpu().numpy()

    def run(self, saved: checkpoints.Checkpoints) -> Iterator[int]:
        """Train from the newest checkpoint on; yield the number of steps done. Without images nothing is learned."""
        import torch

        begin = 0
        if found := saved.newest():
            begin, state = found
            with torch.no_grad():
                self.token.copy_(state["token"])
            self.optimizer.load_state_dict(state["optimizer"])
        for step in range(begin, self.settings.steps if len(self.rows) else 0):
            self.optimizer.zero_grad()
            with torch.enable_grad():
                self.loss(seeds.rng(self.seed, "step", step), self.settings.batch_size).backward()
            self.optimizer.step()
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == self.settings.steps:
                state = {"token": self.token.detach(), "optimizer": self.optimizer.state_dict()}
                saved.save(step + 1, state)
            yield step + 1

    def judged(self, diffusion: Diffusion | None = None) -> float | None:
        """Return the loss over draws that are always the same, or None for a class without images.

        It is under prompts with the token, or under those of `diffusion`, which says the class's name instead.
        """
        import torch

        if not len(self.rows):
            return None
        sizes = [len(part) for part in np.array_split(np.arange(_JUDGED), -(-_JUDGED // self.settings.batch_size))]
        with torch.no_grad():
            losses = [float(self.loss(seeds.rng(self.seed, "judge", i), n, diffusion)) for i, n in enumerate(sizes)]
        return float(np.average(losses, weights=sizes))

    def loss(self, rng: np.random.Generator, n: int, prompted: Diffusion | None = None) -> Tensor:
        """Return the training loss of the diffusion model over n drawn images, under prompts with the token.

        With `prompted` they are the prompts and the text encoder of that model. Images are drawn from those of the
        class, their latents from the VAE's posterior, and timesteps evenly.
        """
        import torch
        from torch.nn import functional

        diffusion = prompted or self.diffusion
        pipeline, device = diffusion.pipeline, diffusion.device
        rows = rng.choice(self.rows, n)
        drawn, added = rng.standard_normal((2, n, *self.table.shape), dtype=np.float32)
        kept = pipeline.scheduler.alphas_cumprod
        timesteps = torch.from_numpy(rng.integers(len(kept), size=n))
        clean = torch.from_numpy(self.table.mean[rows] + self.table.std[rows] * drawn).to(device)
        noise = torch.from_numpy(added).to(device)
        signal = kept[timesteps].to(device, torch.float32)[:, None, None, None]
        noisy = (signal.sqrt() * clean + (1 - signal).sqrt() * noise).to(diffusion.dtype)
        texts = embedded(diffusion, [diffusion.prompt(self.train.class_names, row) for row in self.train.labels[rows]])
        predicted = pipeline.unet(noisy, timesteps.to(device), encoder_hidden_states=texts).sample.float()
        wanted = {
            "epsilon": noise,
            "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * clean,
            "sample": clean,
        }[pipeline.scheduler.config.prediction_type]
        return functional.mse_loss(predicted, wanted)


def embedded(diffusion: Diffusion, prompts: list[str]) -> Tensor:
    """Return text embeddings `[n, tokens, width]`, with a gradient to the embedding of a token that is trained."""
    tokenizer, encoder = diffusion.pipeline.tokenizer, diffusion.pipeline.text_encoder
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(diffusion.device))[0]


def named(diffusion: Diffusion, name: str) -> Tensor:
    """Return the mean embedding of the pieces of a class's name in a prompt, `[width]`."""
    prompts, pipeline = diffusion.prompts, diffusion.pipeline
    bare = prompts.model_copy(update={"template": "{findings}"})
    pieces = pipeline.tokenizer(bare.of([name], [1]), add_special_tokens=False).input_ids
    return pipeline.text_encoder.get_input_embeddings().weight[pieces].detach().float().mean(dim=0)


def with_tokens(diffusion: Diffusion, class_names: Sequence[str], vectors: Tensor) -> Diffusion:
    """Return a diffusion model whose prompts name `class_names` by new tokens; the given one stays as it is.

    U-Net, VAE and scheduler are shared, and the text encoder is copied.

    Args:
        diffusion: the model.
        class_names: the classes that have a token.
        vectors: `[len(class_names), width]`, the tokens' embeddings.

    Raises:
        ConfigError: if the model's tokenizer has such a token already.
    """
    pipeline = diffusion.pipeline
    tokenizer, encoder = copy.deepcopy(pipeline.tokenizer), copy.deepcopy(pipeline.text_encoder)
    tokens = [f"<learned-{i}>" for i in range(len(class_names))]
    first = len(tokenizer)
    if tokenizer.add_tokens(tokens) != len(tokens):
        raise ConfigError(f"diffusion.folder: the tokenizer has one of {tokens} already; remove it from the folder")
    encoder.set_input_embeddings(_extended(encoder.get_input_embeddings(), first, vectors))
    learned = copy.copy(diffusion)
    parts = pipeline.components | {"tokenizer": tokenizer, "text_encoder": encoder}
    learned.pipeline = type(pipeline)(**parts, requires_safety_checker=False)
    words = diffusion.prompts.words | dict(zip(class_names, tokens, strict=True))
    learned.prompts = diffusion.prompts.model_copy(update={"words": words})
    return learned


def _extended(known: Any, first: int, vectors: Tensor) -> Any:
    """Return an embedding layer that looks ids from `first` on up in `vectors` (its parameter `new`)."""
    import torch
    from torch import nn

    class Extended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known = known
            self.new = nn.Parameter(vectors.float().to(known.weight.device), requires_grad=False)

        def forward(self, ids: Tensor) -> Tensor:
            is_new = ids >= first
            new = self.new[(ids - first).clamp(min=0)].to(known.weight.dtype)
            return torch.where(is_new[..., None], new, self.known(ids.masked_fill(is_new, 0)))

    return Extended()


@dataclass(frozen=True)
class _Learned(Context):
    """A context whose diffusion model knows the new tokens."""

    learned: Diffusion | None = None

    @property
    def diffusion(self) -> Diffusion:
        return self.learned or super().diffusion


class DaFusion(Sdedit):
    """Redraw real tail images like `sdedit`, under prompts in which learned tokens stand for the tail classes.

    Parents, labels and all settings but `inversion` are those of `sdedit`.
    """

    name: ClassVar[str] = "da-fusion"

    inversion: InversionSettings = InversionSettings()

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the latents of the train images and the learned tokens."""
        tokens = LearnedTokens(
            latents=task.latents, train=task.train, diffusion=task.diffusion, settings=self.inversion, seed=task.seed
        )
        return super().inputs(task) | {"tokens": tokens}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the redrawn images. The parent of a sample is the train row that it was redrawn from.

        Raises:
            ConfigError: if `copies` names a class that the data set does not have.
        """
        import torch

        learned = with_tokens(ctx.diffusion, ctx.train.tail, torch.from_numpy(ctx.inputs["tokens"]))
        yield from super().augment(_Learned(**vars(ctx), learned=learned))

    @classmethod
    def toy(cls) -> DaFusion:
        """Return the method with one step of a schedule of two, and tokens of two training steps."""
        inversion = InversionSettings(steps=2, batch_size=2)
        return cls(denoise_steps=1, num_inference_steps=2, inversion=inversion)
