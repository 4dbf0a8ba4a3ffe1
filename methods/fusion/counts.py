"""What the networks of the code take of one latent; counted without weights, for estimates alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.flops import NetworkFlops, count, of_network, weights_bytes
from methods.fusion.codec import CodecSettings

if TYPE_CHECKING:
    from bench.cost import Sizes
    from bench.types import TrainSet
    from methods.fusion.codec import Codec


@dataclass(frozen=True)
class CodecFlops:
    """Of one latent: its networks apart, and the bytes of all their weights."""

    encoder: NetworkFlops
    decoder: NetworkFlops
    classifier: NetworkFlops
    bytes: int


def codec_of(codec: Codec, sizes: Sizes) -> tuple[TrainSet, tuple[int, int, int], CodecFlops]:
    """Return the train split, the latent's shape, and what the networks take.

    Raises:
        NoEstimate: where the diffusion model's architecture is not known.
    """
    train = sizes.train(codec.train)
    shape = sizes.diffusion(codec.latents.diffusion).latent_shape(train.images.image_px)
    return train, shape, codec_flops(codec.settings.model_dump_json(), shape, len(train.class_names))


@functools.cache
def codec_flops(settings: str, shape: tuple[int, int, int], n_classes: int) -> CodecFlops:
    """Count the networks for latents of a shape."""
    import torch

    chosen = CodecSettings.model_validate_json(settings)
    n_code, (_, h, w) = chosen.n_simplices * chosen.vocab_size, shape
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        networks = _networks(chosen, shape, n_classes)
    encoder = of_network(lambda: networks.encoder, *shape)
    decoder = of_network(lambda: networks.decoder, n_code, h, w)
    classifier = of_network(lambda: networks.classifier, n_code, h, w)
    return CodecFlops(encoder, decoder, classifier, weights_bytes(networks))


def _networks(settings: CodecSettings, shape: tuple[int, int, int], n_classes: int) -> Any:
    from methods.fusion.networks import CodecNetworks

    return CodecNetworks(settings, shape, n_classes)


@functools.cache
def map_flops(settings: str, shape: tuple[int, int, int], n_classes: int, cam_method: str, all_layers: bool) -> float:
    """Return what one map takes on the classifier, the code given."""
    import torch

    from methods.fusion.cams import class_activation_maps

    chosen = CodecSettings.model_validate_json(settings)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        networks = _networks(chosen, shape, n_classes).eval().requires_grad_(False)
    layers: Sequence[Any] = networks.feature_layers if all_layers else networks.feature_layers[-1:]
    # those of the library want numbers; they too take a pass forward and one back
    method = "layercam" if cam_method.endswith("++") or cam_method == "xgradcam" else cam_method

    def run() -> None:
        codes = torch.empty(1, chosen.n_simplices * chosen.vocab_size, *shape[1:])
        class_activation_maps(method, networks.classifier, layers, codes, torch.zeros(1, dtype=torch.int64))

    return count(run)
