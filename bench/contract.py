"""The names that the author of a method or of a data set imports.

A method is one file in `methods/` with one subclass of `Method`:

    class Copies(Method):
        name = "copies"

        def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
            for index in ctx.batches(64):
                rows = [ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index]
                yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], np.array(rows)[:, None])

A method turns the train split and a plan (how many images of which class, resolved by the harness) into synthetic
samples. It is pure and seeded. It does not choose the split or the counts, train the final classifier, read val or
test, log, or look at the clock.

Heavy steps that several variants share (an encoder, a codec) are stages. The method names them in `inputs`, and the
harness computes each one once. If a method reads a file of its own, such as weights, the key must depend on the
file's contents and not on its path: give the method (or a model among its settings) a method `content` that returns
{"file": digest}, and mark the path `not_semantic`.

Images are grey, `uint8 [n, H, W]`, or have colour, `uint8 [n, H, W, 3]`, as the data set says. Code that takes means of
images serves both as it is. `over_images` gives weights of images or of pixels the axes that they are multiplied with.

This module defines nothing itself. It collects the names in groups, so that one import is enough.
"""

from __future__ import annotations

from bench import seeds
from bench.augment.detail import at_pixels, lost_detail, with_detail
from bench.augment.label_policies import CLAIMED_CLASS, PARENT_SHARE, LabelPolicy, union
from bench.augment.latents import Latents, LatentTable
from bench.augment.method import Context, Method, Plan, Task
from bench.augment.prompt_saliency import PromptSaliency, PromptSaliencySettings, soft_mask
from bench.augment.saliency_table import NO_CLASS, SaliencyTable
from bench.data.class_balance import draw_probabilities, rarest_class
from bench.data.dataset import Dataset, KnownLabels, TableWriter
from bench.data.split import Train, train_set
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.schedule import GuidanceScale
from bench.errors import ConfigError, DataError, SourceError, listed, nearest
from bench.files import new_array, read_json_or_raise, write_strict_json
from bench.pipeline import checkpoints
from bench.pipeline.settings import Settings, not_semantic
from bench.pipeline.stage import Resources, Stage, Work
from bench.pixels import over_images
from bench.tables import AugmentedBatch, Float32, ImageTable, Int64, TrainSet, UInt8

# For every method.
__all__ = ["AugmentedBatch", "ConfigError", "Context", "Float32", "Int64", "Method", "TrainSet", "UInt8"]
__all__ += ["listed", "nearest", "over_images", "seeds"]
# For a method that uses the diffusion model or has stages of its own.
__all__ += ["Diffusion", "DiffusionModel", "GuidanceScale", "LatentTable", "Latents", "Plan", "Resources", "Settings"]
__all__ += [
    "Stage",
    "Task",
    "Train",
    "Work",
    "checkpoints",
    "new_array",
    "not_semantic",
    "read_json_or_raise",
    "train_set",
]
__all__ += ["write_strict_json"]
# For batches in which rare classes come more often.
__all__ += ["draw_probabilities", "rarest_class"]
# For maps of where a finding is.
__all__ += ["NO_CLASS", "PromptSaliency", "PromptSaliencySettings", "SaliencyTable", "soft_mask"]
# For images that a VAE has decoded.
__all__ += ["at_pixels", "lost_detail", "with_detail"]
# For the labels of synthetic images.
__all__ += ["CLAIMED_CLASS", "PARENT_SHARE", "LabelPolicy", "union"]
# For a data set.
__all__ += ["DataError", "Dataset", "ImageTable", "KnownLabels", "SourceError", "TableWriter"]
