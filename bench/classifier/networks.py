"""Image classifiers from torchvision: building them from a seed or a weights file, and running them on images."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from bench.errors import ConfigError, listed
from bench.pixels import to_planes
from bench.tables import Float32, ImageRows, UInt8
from bench.weight_files import read_weights

_HEADS = {  # the last layer of each architecture
    "densenet121": "classifier",
    "resnet18": "fc",
    "resnet50": "fc",
    "convnext_tiny": "classifier.2",
    "efficientnet_b0": "classifier.1",
}

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Those of ImageNet, which pretrained weights expect.

# torchvision's DenseNet files date from a time when module names could contain dots, so the names must be translated.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_WRAPPED = re.compile(r"(^|\.)(?:module|_orig_mod)\.")  # by DataParallel and by torch.compile


def build(architecture: str, n_classes: int, seed: int, weights: str | None = None) -> nn.Module:
    """Return the network, initialised from `seed`. If a file `weights` is given, all but the last layer come from it.

    Raises:
        ConfigError: if the file is missing, is not a weights file, or belongs to another architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(torchvision.models, architecture)(weights=None, num_classes=n_classes)
    if weights is not None:
        load_trunk(network, _HEADS[architecture], Path(weights).expanduser(), "classifier.weights")
    return network.to(memory_format=torch.channels_last)  # 20 % faster than the default layout on a CPU.


def xrv_densenet(weights: Path, field: str) -> nn.Module:
    """Return torchxrayvision's DenseNet121 without its head: one input channel, pooled features `[n, 1024]`.

    Raises:
        ConfigError: if the file is not a state dict or belongs to another network. The message names `field`.
    """
    with torch.random.fork_rng(devices=[]):
        network = torchvision.models.densenet121(weights=None, num_classes=1)
        network.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    load_trunk(network, _HEADS["densenet121"], weights, field, unused=("op_threshs",))
    return without_head(network, "densenet121").eval()


def load_trunk(network: nn.Module, head: str, path: Path, field: str, unused: Sequence[str] = ()) -> str:
    """Load the weights in `path` into `network`, except those of the head (made for other classes) and of `unused`.

    The names may have a common prefix (`module.densenet121.`), as in checkpoints of a network inside of another.

    Returns:
        How many tensors were taken, and which were left out, in words.

    Raises:
        ConfigError: if the file is missing, is not a weights file, or belongs to another network. The message names
            `field`.
    """
    found = read_weights(path, field)
    state = {_plain_name(name): value for name, value in found.items() if name not in unused}
    have = {name: value.shape for name, value in network.state_dict().items() if not name.startswith(f"{head}.")}
    prefix = _prefix(state, have, f"{field}: {path}")
    named = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    trunk = {name: value for name, value in named.items() if not name.startswith(f"{head}.")}
    wrong = trunk.keys() - have.keys()
    # Files from before PyTorch 0.4.1 lack `num_batches_tracked`. Nothing here reads it.
    wrong |= {n for n in have if n not in trunk and not n.endswith("num_batches_tracked")}
    wrong |= {n for n, value in trunk.items() if n in have and value.shape != have[n]}
    if wrong:
        name = type(network).__name__
        raise ConfigError(f"{field}: {path} is of another network than {name}: {listed(wrong, 3)}")
    network.load_state_dict(trunk, strict=False)
    heads = {name: value for name, value in named.items() if name not in trunk}
    left = [f"the last layer ({heads[n].shape[0]} outputs)" for n in heads if heads[n].ndim == 2]
    if others := [name for name in state if not name.startswith(prefix)]:
        left.append(f"{len(others)} tensors of other parts ({listed(others, 3)})")
    return f"{len(trunk)} tensors taken" + (f"; left out: {' and '.join(left)}" if left else "")


def _plain_name(name: str) -> str:
    """Return a tensor's name without what torch's wrappers add, and as torchvision writes it today."""
    return _OLD_NAME.sub(r"\1\2", _WRAPPED.sub(r"\1", name))


def _prefix(state: Mapping[str, Tensor], have: Mapping[str, object], where: str) -> str:
    """Return what stands before the names of the network: the prefix that most of its names have.

    Raises:
        ConfigError: if two networks of the file are whole.
    """
    first = next(iter(have))
    found = [n.removesuffix(first) for n in state if n.endswith(first) and n.removesuffix(first)[-1:] in ("", ".")]
    n_with = {prefix: sum(f"{prefix}{name}" in state for name in have) for prefix in found}
    best = sorted(n_with, key=lambda prefix: -n_with[prefix])
    if len(best) > 1 and n_with[best[1]] == n_with[best[0]]:
        raise ConfigError(f"{where} holds several such networks ({listed(best)}); save the one that you want alone")
    return best[0] if best else ""


@functools.cache
def check_trunk(architecture: str, path: Path, field: str) -> str:
    """Return what `load_trunk` says of a file, without a network that is used.

    Raises:
        ConfigError: see `load_trunk`.
    """
    with torch.random.fork_rng(devices=[]):
        network = getattr(torchvision.models, architecture)(weights=None, num_classes=1)
    return load_trunk(network, _HEADS[architecture], path, field)


def to_input(images: UInt8, image_px: int | None, device: str) -> Tensor:
    """Return images as normalised `float32 [n, 3, h, w]`, resized to side `image_px` if it is set."""
    pixels = to_planes(images).to(device).float() / 255
    if image_px not in (None, pixels.shape[-1]):
        pixels = nn.functional.interpolate(pixels, (image_px, image_px), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def without_head(network: nn.Module, architecture: str) -> nn.Module:
    """Replace the last layer of `network` by the identity and return it: its output is the pooled features `[n, d]`."""
    owner, _, name = _HEADS[architecture].rpartition(".")
    setattr(network.get_submodule(owner), name, nn.Identity())
    return network


def head_of(network: nn.Module, architecture: str) -> nn.Module:
    """Return the last layer of `network`."""
    return network.get_submodule(_HEADS[architecture])


def in_batches(network: nn.Module, images: ImageRows | UInt8, image_px: int | None, device: str) -> Float32:
    """Return the network's outputs `float32 [n, k]` in evaluation mode; `images` are read batch by batch.

    Raises:
        ValueError: if there are no images.
    """
    was_training = network.training
    network.eval()
    outputs: Float32 | None = None
    with torch.inference_mode():
        for start in range(0, len(images), size := _batch_size(images, image_px, device)):
            batch = to_input(np.array(images[start : start + size]), image_px, device)
            found = network(batch).float().cpu().numpy()
            # One array for all outputs. A list of small arrays, one per batch, fragments the heap between the large
            # buffers of the batches, and the process grew with every batch.
            if outputs is None:
                outputs = np.empty((len(images), *found.shape[1:]), np.float32)
            outputs[start : start + len(found)] = found
    network.train(was_training)
    if outputs is None:
        raise ValueError("no images to run the network on")
    return outputs


def _batch_size(images: ImageRows | UInt8, image_px: int | None, device: str) -> int:
    """Return how many images have about a quarter million pixels together on a CPU, or four million on a GPU.

    Larger batches are slower on a CPU, since they leave its caches: DenseNet121 at 64 px takes 1.3 times as long in
    batches of 256 as in batches of 64. The size must not depend on anything else of the machine: a convolution may add
    in another order for another batch size, and the last bits of the outputs would differ.
    """
    px = image_px or np.shape(images[:1])[1]
    return max(4, (1 << (18 if device == "cpu" else 22)) // px**2)
