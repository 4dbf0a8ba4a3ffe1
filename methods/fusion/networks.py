"""The networks of the sparse code: encoder and decoder between latents and codes, and the classifier of codes.

No encoder or decoder here has batch normalisation. With batch statistics a code would depend on the other latents in
its batch, and a frozen teacher in evaluation mode would give other codes than the encoder that was trained.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from methods.fusion.settings import CodeActivation, CodecSettings


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, each after group normalisation and SiLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        """Map `[b, n_in, h, w]` to `[b, n_out, h, w]`."""
        super().__init__()
        self.norm1, self.norm2 = _norm(n_in), _norm(n_out)
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, `[b, n_out, h, w]`."""
        inner = self.conv1(functional.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(functional.silu(self.norm2(inner)))


class UNet(nn.Module):
    """A U-Net with a linear last layer, so that logits (as encoder) and latents (as decoder) are unbounded.

    With `bounded` it ends in Tanh, as the decoder in the paper's released code does.
    """

    def __init__(self, n_in: int, n_out: int, width: int, downsamplings: int, bounded: bool = False) -> None:
        """Build a network that halves the side `downsamplings` times; channels double up to four times `width`."""
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(downsamplings + 1)]
        self.stem = nn.Conv2d(n_in, width, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), Block(b, b)) for a, b in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(Block(b + a, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, n_out, 3, padding=1))
        if bounded:
            self.head.append(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[b, n_in, h, w]` to `[b, n_out, h, w]`."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(torch.cat([functional.interpolate(x, size=skip.shape[-2:]), skip], dim=1))
        return self.head(x)


class LocalEncoder(nn.Sequential):
    """An encoder whose code of a site depends on the 3 x 3 sites of the latent around it, and on nothing else.

    It has no normalisation: statistics over sites would let each site see the whole latent.
    """

    def __init__(self, n_in: int, n_out: int, width: int) -> None:
        """Map `[b, n_in, h, w]` to `[b, n_out, h, w]`, with `2 * width` channels between."""
        super().__init__(nn.Conv2d(n_in, 2 * width, 3, padding=1), nn.SiLU(), nn.Conv2d(2 * width, n_out, 1))


class SimplicialEmbedding(nn.Module):
    """A softmax over V words in each of L simplices at every site (Lavoie et al. 2023, equation 1).

    With the activation `tanh` the logits pass through Tanh first, as in the paper's released code. Logits within
    [-1, 1] bound the probability of a word by e^(1/tau) / (e^(1/tau) + (V - 1) e^(-1/tau)). For V = 64 and tau = 1
    that is 0.105, so such a code can never be sparse.
    """

    def __init__(
        self, n_simplices: int, vocab_size: int, temperature: float, activation: CodeActivation = "softmax"
    ) -> None:
        """Set up an embedding of `n_simplices * vocab_size` channels; a lower temperature gives sparser codes."""
        super().__init__()
        self.n_simplices, self.vocab_size, self.temperature = n_simplices, vocab_size, temperature
        self.activation = activation

    def split(self, x: Tensor) -> Tensor:
        """Return `[b, L, V, h, w]`, a view of the channels of `[b, L*V, h, w]`."""
        return x.unflatten(1, (self.n_simplices, self.vocab_size))

    def log_codes(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities of the words, `[b, L, V, h, w]`."""
        return functional.log_softmax(self._scores(logits), dim=2)

    def forward(self, logits: Tensor) -> Tensor:
        """Return codes `[b, L*V, h, w]`, which are non-negative and sum to 1 per simplex and site."""
        return functional.softmax(self._scores(logits), dim=2).flatten(1, 2)

    def _scores(self, logits: Tensor) -> Tensor:
        return self.split(logits.tanh() if self.activation == "tanh" else logits) / self.temperature


class CodeClassifier(nn.Module):
    """A small convolutional classifier of codes. Its feature maps keep half the latent's resolution.

    It is built for class activation maps. Dilation, instead of more halving, keeps the maps fine. ReLU keeps the
    activations that a map weights from being negative. Every layer is normalised, even the last one: without that,
    all ReLUs of the last layer can die in the first steps, which leaves a constant score and empty maps.
    """

    def __init__(self, n_in: int, n_classes: int, width: int) -> None:
        """Build the layers for codes `[b, n_in, h, w]`."""
        super().__init__()
        wide = 4 * width
        self.features = nn.Sequential(
            _conv_relu(n_in, width),
            _conv_relu(width, wide, stride=2),
            _conv_relu(wide, wide, dilation=1),
            _conv_relu(wide, wide, dilation=2),
            _conv_relu(wide, wide, dilation=4),
        )
        self.head = nn.Linear(wide, n_classes)

    def forward(self, codes: Tensor) -> Tensor:
        """Return logits `[b, C]`."""
        return self.head(self.features(codes).mean(dim=(2, 3)))


class LocalClassifier(nn.Module):
    """A classifier of codes that scores each site by the 7 x 7 sites around it, and pools the scores.

    The score of an image is log(mean(exp(r s))) / r over the scores s of its sites (Pinheiro & Collobert 2015), and
    their mean for r = 0. With a larger r fewer sites are enough, which suits a finding that is small. The normalisation
    is over batches, so no site sees statistics of its image alone; `IteratedLearning` settles them for evaluation.
    """

    def __init__(self, n_in: int, n_classes: int, width: int, sharpness: float) -> None:
        """Build the layers for codes `[b, n_in, h, w]`; `sharpness` is r, at least 0."""
        super().__init__()
        wide = 4 * width
        self.sharpness = sharpness
        self.features = nn.Sequential(
            _conv_batch_relu(n_in, wide), _conv_batch_relu(wide, wide), _conv_batch_relu(wide, wide)
        )
        self.head = nn.Linear(wide, n_classes)

    def forward(self, codes: Tensor) -> Tensor:
        """Return logits `[b, C]`."""
        sites = self.head(self.features(codes).flatten(2).transpose(1, 2))
        if self.sharpness == 0:
            return sites.mean(dim=1)
        return (torch.logsumexp(self.sharpness * sites, dim=1) - math.log(sites.shape[1])) / self.sharpness


class CodecNetworks(nn.Module):
    """Encoder, simplicial embedding, decoder and classifier for latents of one shape."""

    def __init__(self, settings: CodecSettings, latent_shape: tuple[int, int, int], n_classes: int) -> None:
        """Build the networks; the number of halvings is limited by the latent's side.

        Raises:
            ConfigError: if the latent is too small for the classifier.
        """
        super().__init__()
        channels, h, w = latent_shape
        settings.check(min(h, w))
        n_code = settings.n_simplices * settings.vocab_size
        halvings = min(settings.downsamplings, int(math.log2(min(h, w))))
        self.embedding = SimplicialEmbedding(
            settings.n_simplices, settings.vocab_size, settings.temperature, settings.code_activation
        )
        self._fresh_encoder: Callable[[], nn.Module] = (
            functools.partial(LocalEncoder, channels, n_code, settings.width)
            if settings.encoder == "local"
            else functools.partial(UNet, channels, n_code, settings.width, halvings)
        )
        self.encoder = self.fresh_encoder()
        self.decoder = UNet(n_code, channels, settings.width, halvings, bounded=settings.decoder_range == "tanh")
        self.classifier = build_classifier(settings, n_code, n_classes)

    def fresh_encoder(self) -> nn.Module:
        """Return an encoder with new random weights from torch's global generator: an untrained student."""
        return self._fresh_encoder()

    def encode(self, latents: Tensor) -> Tensor:
        """Return the codes of latents, `[b, L*V, h, w]`."""
        return self.embedding(self.encoder(latents))

    @property
    def feature_layers(self) -> list[nn.Module]:
        """Return the classifier's feature layers, shallow to deep. Saliency is computed on their outputs."""
        return list(self.classifier.features)  # type: ignore[arg-type]


def build_classifier(settings: CodecSettings, n_code: int, n_classes: int) -> nn.Module:
    """Return the classifier of codes with `n_code` channels; `vgg11` and `densenet121` are torchvision's."""
    if settings.classifier == "local":
        return LocalClassifier(n_code, n_classes, settings.width, settings.pooling_sharpness)
    if settings.classifier == "conv":
        return CodeClassifier(n_code, n_classes, settings.width)
    from torchvision import models

    if settings.classifier == "vgg11":
        # No dropout: it draws from torch's global generator, whose state is not in the checkpoints.
        vgg = models.vgg11(weights=None, num_classes=n_classes, dropout=0.0)
        vgg.features[0] = nn.Conv2d(n_code, 64, 3, padding=1)
        return vgg
    densenet = models.densenet121(weights=None, num_classes=n_classes)
    densenet.features.conv0 = nn.Conv2d(n_code, 64, 7, stride=2, padding=3, bias=False)
    return densenet


def _conv_relu(n_in: int, n_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, _norm(n_out), nn.ReLU())


def _conv_batch_relu(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU())


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)
