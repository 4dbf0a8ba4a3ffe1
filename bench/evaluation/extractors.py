"""Feature extractors: they turn images into the feature vectors that distances between sets are measured on.

Each has a `metric_id` that names the network, the width of its features, the resize and the weights. Numbers with
different ids are never comparable. An extractor takes images and returns `float32 [n, d]`.
One whose network takes one channel sees the luma of a colour image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.classifier.classifier import Classifier
from bench.content_digests import digest_of
from bench.data.kinds.phantom import CLASS_NAMES
from bench.errors import ConfigError
from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS, SHIPPED_ORACLE
from bench.paths import counted_from
from bench.pipeline.missing_inputs import may_be_missing
from bench.pipeline.settings import Settings, not_semantic
from bench.pipeline.stage import Work
from bench.pixels import luma, to_planes
from bench.tables import Float32, UInt8

if TYPE_CHECKING:
    from torch import nn

_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION_FILE}"
_INCEPTION_SHA256 = "6726825d"  # The first digits of the digest.
_INCEPTION_PX, _INCEPTION_WIDTH = 299, 2048
_XRV_PX, _XRV_WIDTH = 224, 1024
_WIDTHS = {"densenet121": 1024, "resnet18": 512, "resnet50": 2048, "convnext_tiny": 768, "efficientnet_b0": 1280}
_XRV_SAVE = 'torch.save(torchxrayvision.models.DenseNet(weights="densenet121-res224-all").state_dict(), "xrv.pth")'


@dataclass(frozen=True)
class Extracted:
    """Features of some images and, if the extractor can recognise findings, the findings that it sees.

    Attributes:
        features: `float32 [n, d]`.
        positives: `bool [n, C]` over the extractor's `class_names`, or None if it has none.
    """

    features: Float32
    positives: npt.NDArray[np.bool_] | None = None


Extract = Callable[[UInt8], Extracted]


class OracleExtractor(Settings):
    """The oracle of the phantom data set, trained on the true labels of other phantoms: 64 features, and findings."""

    saw_train: ClassVar[bool] = False
    kind: Literal["oracle"] = "oracle"
    folder: str | None = not_semantic(None, description="folder with oracle.safetensors; null = the shipped one")

    def content(self) -> dict[str, str]:
        """Return the digest of the weights, which enters keys instead of their path."""
        return {"weights": digest_of(self._weights())}

    def _weights(self) -> Path:

        path = (SHIPPED_ORACLE if self.folder is None else Path(self.folder).expanduser()) / ORACLE_WEIGHTS
        if not path.is_file():
            raise ConfigError(
                f"fidelity.extractor.folder: no {path}{counted_from(path.parent)}; give a folder made by "
                "`bench pretrain oracle`, or null for the shipped oracle"
            )
        return path

    @property
    def metric_id(self) -> str:
        """Return the name of the feature space."""
        return f"oracle-64d-antialias64-{self.content()['weights'][:8]}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes that it judges, in the order of `Extracted.positives`."""
        return tuple(CLASS_NAMES)

    def load(self, work: Work) -> Extract:
        """Return the function that extracts a batch."""
        import torch

        from bench.evaluation.oracle import load_oracle, to_input

        device = work.device
        oracle = load_oracle(self._weights().parent).to(device)

        def extract(images: UInt8) -> Extracted:
            with torch.inference_mode():
                logits, features = oracle(to_input(images).to(device))
            return Extracted(features.float().cpu().numpy(), (logits > 0).cpu().numpy())

        return extract


class ClassifierExtractor(Settings):
    """Features before the last layer of a trained classifier: the baseline of one seed, used in the cells of all seeds.

    If each seed used its own baseline, it would be measured in its own feature space, and a mean over seeds would mean
    nothing.

    It was trained on the train images (`saw_train`), so their features lie further from those of held-out images than
    the features of new real images do.
    """

    saw_train: ClassVar[bool] = True
    kind: Literal["classifier"] = "classifier"
    seed: int | None = Field(None, ge=0, description="seed of the baseline; null = the first seed of the matrix")
    classifier: Classifier | None = Field(None, description="null in a matrix file, which means that baseline")

    def _classifier(self) -> Classifier:
        if self.classifier is None:
            raise ConfigError(
                "fidelity.extractor: kind 'classifier' names no classifier; "
                "it uses the baseline's: add a row that makes no images (baseline) to `methods`"
            )
        return self.classifier

    @property
    def metric_id(self) -> str:
        """Return the name of the feature space."""
        settings = self._classifier().settings
        resize = f"antialias{settings.image_px}" if settings.image_px else "native"
        whose = "" if self.seed is None else f"-seed{self.seed}"
        return f"{settings.architecture}-{_WIDTHS[settings.architecture]}d-{resize}{whose}-{self._classifier().key[:8]}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return no classes: a classifier cannot judge the images that were made to train it."""
        return ()

    def load(self, work: Work) -> Extract:
        """Return the function that extracts a batch."""
        from bench.classifier.networks import in_batches, without_head

        trained, device = work.get(self._classifier()), work.device
        network = without_head(trained.load(device), trained.record["architecture"])
        return lambda images: Extracted(in_batches(network, images, trained.record["image_px"], device))


class InceptionExtractor(Settings):
    """The Inception v3 of the FID's authors (2,048 features), as in torchmetrics and torch-fidelity."""

    saw_train: ClassVar[bool] = False
    kind: Literal["inception"] = "inception"
    resize: Literal["antialias", "tf1"] = Field("antialias", description="torchmetrics' resize, or TensorFlow 1's")
    weights: str | None = not_semantic(None, description=f"{_INCEPTION_FILE}; null = the one in torch's hub cache")
    download: bool = not_semantic(False, description="download the file (91 MB) into that cache if it is missing")

    def content(self) -> dict[str, str]:
        """Return the digest of the weights, which enters keys instead of their path."""
        return {"weights": digest_of(self._weights())}

    def to_be_fetched(self) -> Path | None:
        """Return the file that a run will download, or None if it exists or may not be downloaded."""
        path = self._path()
        return path if self.download and self.weights is None and not path.is_file() else None

    def _path(self) -> Path:
        if self.weights is not None:
            return Path(self.weights).expanduser()
        import torch

        return Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE

    def _weights(self) -> Path:
        path = self._path()
        why = _fetch(path) if self.to_be_fetched() and not may_be_missing() else ""
        if not path.is_file():
            raise ConfigError(
                f"fidelity.extractor.weights: no Inception weights at {path}{counted_from(path)}{why}; download "
                f"{_INCEPTION_URL} and set fidelity.extractor.weights to the file, or choose kind 'classifier'"
            )
        return path

    @property
    def metric_id(self) -> str:
        """Return the name of the feature space."""
        weights = self.content()["weights"][:8]
        return f"inception-{_INCEPTION_WIDTH}d-{self.resize}{_INCEPTION_PX}-{weights}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return no classes: it does not recognise findings."""
        return ()

    def load(self, work: Work) -> Extract:
        """Return the function that extracts a batch."""
        import torch

        device = work.device
        network = _inception(self._weights(), self.resize == "antialias").to(device)

        def extract(images: UInt8) -> Extracted:
            pixels = to_planes(images).to(device).expand(-1, 3, -1, -1)
            with torch.inference_mode():
                return Extracted(network(pixels).float().cpu().numpy())

        return extract


def _fetch(path: Path) -> str:
    """Download the Inception weights to `path`; return why it failed, or an empty text."""
    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_INCEPTION_URL, str(path), hash_prefix=_INCEPTION_SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        return f" (it could not be fetched: {' '.join(str(error).split())[:160]})"
    return ""


def _inception(weights: Path, antialias: bool) -> nn.Module:
    """Return torchmetrics' Inception with the given weights.

    torch-fidelity unpickles the file, which can run code in it. So it is first read with `weights_only=True`, which
    fails on a file that holds anything but tensors.
    """
    import torch
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        torch.load(weights, map_location="cpu", weights_only=True)
        return NoTrainInceptionV3("inception-v3-compat", [str(_INCEPTION_WIDTH)], str(weights), antialias=antialias)
    except ModuleNotFoundError as error:
        raise ConfigError("fidelity.extractor: kind 'inception' needs `pip install torch-fidelity`") from error
    except Exception as error:  # Torch raises many kinds of errors for a file that is not a weights file.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"fidelity.extractor.weights: {weights} is no {_INCEPTION_FILE}: {first}") from error


class XrvExtractor(Settings):
    """A DenseNet121 of torchxrayvision (Cohen et al. 2022), trained on findings of real radiographs: 1,024 features.

    The package itself is not needed, only a file with the network's state dict. The file that the package downloads is
    a pickled program and is never loaded here.
    """

    saw_train: ClassVar[bool] = False
    kind: Literal["xrv"] = "xrv"
    weights: str = not_semantic(..., description=f"state dict: {_XRV_SAVE}")

    def content(self) -> dict[str, str]:
        """Return the digest of the weights, which enters keys instead of their path."""
        return {"weights": digest_of(self._weights())}

    def _weights(self) -> Path:
        path = Path(self.weights).expanduser()
        if not path.is_file():
            none = f"no file {path}{counted_from(path)}"
            raise ConfigError(f"fidelity.extractor.weights: {none}; make it with {_XRV_SAVE}")
        with open(path, "rb") as handle:
            if b"torchxrayvision" in handle.read(1 << 16):
                raise ConfigError(
                    f"fidelity.extractor.weights: {path} is a pickled program, which is never run; "
                    f"make a state dict of it with {_XRV_SAVE}"
                )
        return path

    @property
    def metric_id(self) -> str:
        """Return the name of the feature space."""
        return f"xrv-densenet121-{_XRV_WIDTH}d-antialias{_XRV_PX}-{self.content()['weights'][:8]}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return no classes: its findings are not those of the data set."""
        return ()

    def load(self, work: Work) -> Extract:
        """Return the function that extracts a batch."""
        import torch

        from bench.classifier.networks import xrv_densenet

        device = work.device
        network = xrv_densenet(self._weights(), "fidelity.extractor.weights").to(device)
        side = (_XRV_PX, _XRV_PX)

        def extract(images: UInt8) -> Extracted:
            pixels = to_planes(luma(images)).to(device).float()
            if pixels.shape[-2:] != side:
                pixels = torch.nn.functional.interpolate(pixels, side, mode="bilinear", antialias=True)
            with torch.inference_mode():
                # The network expects pixels in [-1024, 1024], the range of computed tomography.
                return Extracted(network((pixels / 255 * 2 - 1) * 1024).float().cpu().numpy())

        return extract


Extractor = Annotated[
    OracleExtractor | ClassifierExtractor | InceptionExtractor | XrvExtractor, Field(discriminator="kind")
]


def extract_all(
    extract: Extract, images: UInt8, batch_size: int = 64, on_batch: Callable[[int], None] = lambda done: None
) -> Extracted:
    """Return the features of all images, in one array; the images are read batch by batch.

    Raises:
        ValueError: if there are no images.
    """
    parts = list(extracted_batches(extract, images, batch_size, on_batch))
    if not parts:
        raise ValueError("no images to extract features from")
    positives = [p.positives for p in parts if p.positives is not None]
    return Extracted(np.concatenate([p.features for p in parts]), np.concatenate(positives) if positives else None)


def extracted_batches(
    extract: Extract, images: UInt8, batch_size: int = 64, on_batch: Callable[[int], None] = lambda done: None
) -> Iterator[Extracted]:
    """Yield the features of images, batch by batch.

    The images are a memory map, and each batch is copied out of it. So neither the images nor the features of a large
    data set are ever in memory as a whole.
    """
    for start in range(0, len(images), batch_size):
        yield extract(np.array(images[start : start + batch_size]))
        on_batch(min(start + batch_size, len(images)))
