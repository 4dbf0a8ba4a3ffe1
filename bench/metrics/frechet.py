"""The Fréchet distance between two sets of features, exact also for fewer samples than features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]


def frechet_distance(a: Features, b: Features) -> float:
    """Return the Fréchet distance of `a [n, d]` and `b [m, d]` (FID, Heusel et al. 2017).

    That of the Gaussians fitted to them, squared:

        |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2),   S = X^T X / (n - 1), X centred

    The eigenvalues of S_a S_b = A^T A B^T B / ((n-1)(m-1)) other than 0 are those of (A B^T)(A B^T)^T / ((n-1)(m-1)),
    that is the squared singular values of the cross-Gram A B^T / sqrt((n-1)(m-1)). So the trace of the root is its
    nuclear norm: no d x d root of a singular matrix, and nothing of size d x d where n and m are below d (the same
    identity for covariances of rank n: Mathiasen & Hvilshøj 2020, arXiv 2009.14075). Where n > d, A is first replaced
    by its triangular factor, which leaves A^T A and so the singular values as they are. All in float64.

    Raises:
        ValueError: for fewer than two samples on a side, different widths, or features that are not finite.
    """
    a, b = _checked(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    root_a, root_b = _root(a - mean_a), _root(b - mean_b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross
    return max(0.0, float(distance))  # equal sets come out at about -1e-15


def _checked(a: Features, b: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"frechet_distance: want [n, d] and [m, d], got {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet_distance: want two samples or more on each side, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("frechet_distance: features hold NaN or infinity")
    return a.astype(np.float64), b.astype(np.float64)


def _root(centred: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return R `[min(n, d), d]` with R^T R the covariance of the centred samples."""
    n, d = centred.shape
    factor = np.linalg.qr(centred, mode="r") if n > d else centred
    return factor / np.sqrt(n - 1)
