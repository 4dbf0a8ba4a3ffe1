"""Floating-point operations of networks, counted on the real architecture without weights (tensors without storage)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cost import NoEstimate
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.diffusion import DiffusionModel

_ARCHITECTURES = Path(__file__).parent / "presets" / "architectures.yaml"


def count(run: Callable[[], Any]) -> float:
    """Return the floating-point operations of `run`, which makes its tensors on the device `meta`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(devices=[]), torch.device("meta"), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class NetworkFlops:
    """Of one image: `forward`, and `training` (forward and backward); `bytes` of the weights in a file."""

    forward: float
    training: float
    bytes: int


def of_network(build: Callable[[], Any], *shape: int) -> NetworkFlops:
    """Count a network that takes `[b, *shape]` and gives a tensor; two images, for batch statistics need them."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = build()

    def train() -> None:
        network.train()(torch.empty(2, *shape)).sum().backward()

    def apply() -> None:
        with torch.no_grad():
            network.eval()(torch.empty(2, *shape))

    return NetworkFlops(count(apply) / 2, count(train) / 2, weights_bytes(network))


def weights_bytes(network: Any) -> int:
    """Return the bytes of a network's state."""
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


@functools.cache
def classifier_flops(architecture: str, n_classes: int, image_px: int) -> NetworkFlops:
    """Return what an image classifier of torchvision takes of one colour image."""
    import torchvision

    return of_network(
        lambda: getattr(torchvision.models, architecture)(weights=None, num_classes=n_classes), 3, image_px, image_px
    )


@dataclass(frozen=True)
class DiffusionFlops:
    """Networks of a latent diffusion model, by their configuration.

    Attributes:
        unet, vae: configurations in diffusers' form, as JSON.
        tokens: length of a prompt.
        twice: whether the schedule evaluates one of its steps twice (PNDM).
    """

    unet: str
    vae: str
    tokens: int
    twice: bool

    def latent_shape(self, image_px: int) -> tuple[int, int, int]:
        """Return `(c, h, w)` of the latent of an image."""
        config = json.loads(self.vae)
        side = image_px // 2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1)
        return int(config.get("latent_channels", 4)), side, side

    def encode(self, image_px: int) -> float:
        """Return operations for one image."""
        return _vae_flops(self.vae, image_px, self.latent_shape(image_px))[0]

    def decode(self, image_px: int) -> float:
        """Return operations for one latent."""
        return _vae_flops(self.vae, image_px, self.latent_shape(image_px))[1]

    def denoise(self, image_px: int, steps: int, schedule: int, guidance_scale: float) -> float:
        """Return operations for one latent over the last `steps` of a schedule; with guidance each is twice."""
        if steps == 0:
            return 0.0
        evaluations = steps + (self.twice and schedule > 1 and steps > 1)
        words = self.tokens, int(_width(json.loads(self.unet)))
        once = _unet_flops(self.unet, self.latent_shape(image_px), *words)
        return once * evaluations * (1 if guidance_scale == 1 else 2)


def _width(unet: dict[str, Any]) -> int:
    width = unet.get("cross_attention_dim", 1280)
    return int(max(width) if isinstance(width, list) else width)


@functools.cache
def _unet_flops(config: str, shape: tuple[int, int, int], tokens: int, width: int) -> float:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(json.loads(config)).eval()

    def run() -> None:
        with torch.no_grad():
            unet(torch.empty(1, *shape), torch.empty(1), encoder_hidden_states=torch.empty(1, tokens, width))

    return count(run)


@functools.cache
def _vae_flops(config: str, image_px: int, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Return operations to encode and to decode one image."""
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(json.loads(config)).eval()

    def encode() -> None:
        with torch.no_grad():
            vae.encode(torch.empty(1, 3, image_px, image_px))

    def decode() -> None:
        with torch.no_grad():
            vae.decode(torch.empty(1, *shape))

    return count(encode), count(decode)


def diffusion_flops(model: DiffusionModel) -> DiffusionFlops:
    """Return the networks of a model, from its folder, else from what is known of its preset.

    Raises:
        NoEstimate: where neither is there.
    """
    try:
        path = model.path
        read = {n: json.loads((path / n / "config.json").read_text("utf-8")) for n in ("unet", "vae", "text_encoder")}
        scheduler = json.loads((path / "scheduler" / "scheduler_config.json").read_text("utf-8"))
        tokens = int(read["text_encoder"].get("max_position_embeddings", 77))
    except (ConfigError, OSError, ValueError) as error:
        preset = _presets().get(model.preset or "")
        if preset is None:
            raise NoEstimate("the diffusion model is not there, and its architecture is not known") from error
        read, scheduler, tokens = preset, preset["scheduler"], int(preset["tokens"])
    twice = scheduler.get("_class_name") == "PNDMScheduler"
    return DiffusionFlops(json.dumps(read["unet"]), json.dumps(read["vae"]), tokens, twice)


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    """Return the architecture behind each preset that names one."""
    import yaml

    families = yaml.safe_load(_ARCHITECTURES.read_text(encoding="utf-8"))
    return {preset: family for family in families.values() for preset in family["presets"]}


@dataclass(frozen=True)
class FeatureFlops:
    """What an extractor takes of one image: `forward`; its features' `width`; `n_judged` classes; `what` it is."""

    forward: float
    width: int
    n_judged: int
    what: str


@functools.cache
def oracle_flops(native_px: int) -> FeatureFlops:
    """Return what the phantom's oracle takes."""
    import torch

    from bench.pretrain.oracle import ORACLE_PX, build_oracle

    with torch.device("meta"):
        oracle = build_oracle().eval()

    def run() -> None:
        with torch.no_grad():
            oracle(torch.empty(1, 1, ORACLE_PX, ORACLE_PX))

    return FeatureFlops(count(run), oracle.head.in_features, oracle.head.out_features, f"oracle at {native_px} px")


@functools.cache
def inception_flops(image_px: int) -> float:
    """Return what torchvision's Inception v3 takes of one image; the FID's differs from it by average pools."""
    import torchvision

    def build() -> Any:
        return torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)

    return of_network(build, 3, image_px, image_px).forward
