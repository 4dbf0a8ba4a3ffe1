"""The paper's method, `ours@d`, in five stages: code, saliency, pairs, fusion and d denoising steps.

`Fusion` is the method, `Codec` the sparse code learnt by iterated learning, and `Fused` the stage that puts two codes
together. `Diagnostics` judges the inner steps.

Read in this order: settings, networks, objectives, iterated_learning, codec, cams, saliency, pairing, fuse, method,
diagnostics.
"""

from methods.fusion.method import Fusion

__all__ = ["Fusion"]
