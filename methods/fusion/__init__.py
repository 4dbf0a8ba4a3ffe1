"""The paper's method, `ours@d`: a sparse code by iterated learning, saliency, neighbours, fusion, d denoising steps.

Read in this order: codec, iterate, saliency, pairing, fuse, method.
"""

from methods.fusion.method import Fusion

__all__ = ["Fusion"]
