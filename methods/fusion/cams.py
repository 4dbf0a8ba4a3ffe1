"""Class activation maps on a codec's classifier, at latent resolution, each normalised to [0, 1].

The three gradient methods that weigh a layer's activations in one line each are written here, batched and on the
device; the others are the `grad-cam` library's. EigenCAM ignores the class: the first principal component of the
activations is the same whatever the target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Weighing of activations A [b, k, h, w] by gradients G of the target's score, summed over channels afterwards.
_BY_GRADIENT = {
    "gradcam": lambda a, g: a * g.mean(dim=(2, 3), keepdim=True),  # Selvaraju et al. 2017, equations 1 and 2
    "hirescam": lambda a, g: a * g,  # Draelos & Carin 2020
    "layercam": lambda a, g: a * g.relu(),  # Jiang et al. 2021, equation 5
}
_BY_LIBRARY = {"eigencam": "EigenCAM", "gradcam++": "GradCAMPlusPlus", "xgradcam": "XGradCAM"}


def class_activation_maps(
    cam_method: str, classifier: nn.Module, layers: Sequence[nn.Module], codes: Tensor, classes: Tensor
) -> Tensor:
    """Return maps `float32 [b, h, w]` in [0, 1] of the score of `classes[i]` on `codes[i]`.

    Maps of several layers are normalised, brought to the codes' resolution and averaged. A map that is nowhere
    positive is all zero.

    Args:
        cam_method: one of gradcam, hirescam, layercam, eigencam, gradcam++, xgradcam.
        classifier: maps codes `[b, n, h, w]` to logits `[b, C]`; no parameter of it is changed.
        layers: the modules inside it whose outputs are weighed.
        codes: `[b, n, h, w]`.
        classes: `int64 [b]`, the column of the target.
    """
    if cam_method in _BY_LIBRARY:
        return _library_maps(_BY_LIBRARY[cam_method], classifier, layers, codes, classes)
    weigh = _BY_GRADIENT[cam_method]
    with torch.enable_grad(), _captured(layers) as activations:
        scores = classifier(codes.detach().requires_grad_()).gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(scores, activations)
    maps = []
    for activation, gradient in zip(activations, gradients, strict=True):
        positive = weigh(activation.detach(), gradient).sum(dim=1, keepdim=True).relu()
        maps.append(functional.interpolate(normalised(positive), size=codes.shape[-2:], mode="bilinear"))
    return normalised(torch.cat(maps, dim=1).mean(dim=1, keepdim=True))[:, 0]


def normalised(maps: Tensor) -> Tensor:
    """Return each `[h, w]` of `[b, 1, h, w]` stretched to [0, 1]; a constant map becomes zero."""
    low = maps.amin(dim=(2, 3), keepdim=True)
    span = maps.amax(dim=(2, 3), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


@contextlib.contextmanager
def _captured(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Give a list that the next forward pass fills with the layers' outputs, in the order of `layers`."""
    outputs: dict[int, Tensor] = {}
    filled: list[Tensor] = []

    def keep(position: int, output: Tensor) -> None:
        outputs[position] = output
        filled[:] = [outputs[i] for i in sorted(outputs)]

    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, i=i: keep(i, output))
        for i, layer in enumerate(layers)
    ]
    try:
        yield filled
    finally:
        for hook in hooks:
            hook.remove()


def _library_maps(
    name: str, classifier: nn.Module, layers: Sequence[nn.Module], codes: Tensor, classes: Tensor
) -> Tensor:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets: list[Any] = [ClassifierOutputTarget(int(c)) for c in classes]
    with torch.enable_grad(), getattr(pytorch_grad_cam, name)(model=classifier, target_layers=list(layers)) as cam:
        maps = cam(input_tensor=codes.detach().requires_grad_(), targets=targets)
    return normalised(torch.from_numpy(maps).to(codes)[:, None])[:, 0]
