"""What the fork server imports once. Imports only: no tensor work and no CUDA call may happen before the fork."""

import diffusers  # noqa: F401
import sklearn.neighbors  # noqa: F401
import torch  # noqa: F401
import torchmetrics.functional.classification  # noqa: F401
import torchvision  # noqa: F401
from diffusers import StableDiffusionPipeline  # noqa: F401

from bench.plugins import registry

registry.methods()
