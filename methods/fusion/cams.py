"""Class activation maps of a codec's classifier, at latent resolution, each normalised to [0, 1].

Methods that take a few lines are written here, batched and on the device. The others come from the `grad-cam` library.
EigenCAM ignores the class: the first principal component of the activations is the same for every target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Each weights activations A [b, k, h, w] by gradients G of the target's score; the sum over channels follows later.
_BY_GRADIENT = {
    "gradcam": lambda a, g: a * g.mean(dim=(2, 3), keepdim=True),  # Selvaraju et al. 2017, equations 1 and 2
    "hirescam": lambda a, g: a * g,  # Draelos & Carin 2020
    "layercam": lambda a, g: a * g.relu(),  # Jiang et al. 2021, equation 5
}
_BY_LIBRARY = {"gradcam++": "GradCAMPlusPlus", "xgradcam": "XGradCAM"}


def class_activation_maps(
    cam_method: str, classifier: nn.Module, layers: Sequence[nn.Module], codes: Tensor, classes: Tensor
) -> Tensor:
    """Return maps `float32 [b, h, w]` in [0, 1]: map i is for the score of class `classes[i]` on `codes[i]`.

    The maps of several layers are normalised, resized to the codes' resolution and averaged. A map without positive
    values becomes all zero.

    Args:
        cam_method: one of gradcam, hirescam, layercam, eigencam, scorecam, gradcam++, xgradcam.
        classifier: maps codes `[b, n, h, w]` to logits `[b, C]`; its parameters are not changed.
        layers: the modules in the classifier whose outputs are used.
        codes: `[b, n, h, w]`.
        classes: `int64 [b]`, the column of the target class.
    """
    if cam_method in _BY_LIBRARY:
        return _library_maps(_BY_LIBRARY[cam_method], classifier, layers, codes, classes)
    if cam_method in _BY_GRADIENT:
        per_layer = _gradient_maps(cam_method, classifier, layers, codes, classes)
    else:
        with torch.no_grad(), _captured(layers) as activations:
            classifier(codes)
        if cam_method == "eigencam":
            per_layer = [principal_component(activation) for activation in activations]
        else:
            per_layer = [_score_cam(classifier, activation, codes, classes) for activation in activations]
    resized = [
        functional.interpolate(normalised(maps.relu()[:, None]), size=codes.shape[-2:], mode="bilinear")
        for maps in per_layer
    ]
    return normalised(torch.cat(resized, dim=1).mean(dim=1, keepdim=True))[:, 0]


def normalised(maps: Tensor) -> Tensor:
    """Return `[b, k, h, w]` with each `[h, w]` map stretched to [0, 1]; a constant map becomes zero."""
    low = maps.amin(dim=(2, 3), keepdim=True)
    span = maps.amax(dim=(2, 3), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


def principal_component(activations: Tensor) -> Tensor:
    """Return the projection of the sites of `[b, k, h, w]` on their first principal component, `[b, h, w]`.

    This is EigenCAM (Muhammad & Yeasin 2020), centred over sites as in the grad-cam library. The sign of a principal
    component is arbitrary, and the library takes the one that its SVD happens to return: a map may be inverted. Here
    the sign is chosen such that the map rises with the mean activation of a site.
    """
    sites = activations.double().flatten(2).transpose(1, 2)
    sites = sites - sites.mean(dim=1, keepdim=True)
    if sites.shape[1] < sites.shape[2]:  # Both Gram matrices have the same largest eigenvalue; use the smaller one.
        values, vectors = torch.linalg.eigh(sites @ sites.mT)
        projection = vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        projection = (sites @ torch.linalg.eigh(sites.mT @ sites)[1][..., -1:])[..., 0]
    falls = (projection * sites.sum(dim=2)).sum(dim=1, keepdim=True) < 0
    return torch.where(falls, -projection, projection).view(-1, *activations.shape[2:]).to(activations)


def _gradient_maps(
    cam_method: str, classifier: nn.Module, layers: Sequence[nn.Module], codes: Tensor, classes: Tensor
) -> list[Tensor]:
    """Return a map `[b, h, w]` for every layer, at the layer's resolution."""
    weigh = _BY_GRADIENT[cam_method]
    with torch.enable_grad(), _captured(layers) as activations:
        scores = classifier(codes.detach().requires_grad_()).gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(scores, activations)
    return [weigh(a.detach(), g).sum(dim=1) for a, g in zip(activations, gradients, strict=True)]


def _score_cam(classifier: nn.Module, activation: Tensor, codes: Tensor, classes: Tensor) -> Tensor:
    """Return the Score-CAM map `[b, h, w]` of one layer (Wang et al. 2020, equations 3 to 6).

    The weight of a channel comes from the target's score when the codes are multiplied by that channel's map; the
    weights are a softmax over channels. It takes one forward pass of the batch per channel.
    """
    masks = normalised(functional.interpolate(activation, size=codes.shape[-2:], mode="bilinear", align_corners=True))
    with torch.no_grad():
        scores = [classifier(codes * masks[:, k, None]).gather(1, classes[:, None]) for k in range(masks.shape[1])]
    weights = torch.cat(scores, dim=1).softmax(dim=1)
    return (weights[:, :, None, None] * activation).sum(dim=1)


@contextlib.contextmanager
def _captured(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that the next forward pass fills with the layers' outputs, in the order of `layers`."""
    # Hooks fire in the order of the forward pass, which need not be that of `layers`. So outputs are kept by position.
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
