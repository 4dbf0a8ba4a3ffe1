"""The Fréchet distance between two sets of features, which stays exact with fewer samples than features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]


def frechet_distance(a: Features, b: Features) -> float:
    """Return the Fréchet distance of `a [n, d]` and `b [m, d]` (FID, Heusel et al. 2017).

    This is the squared Fréchet distance between the Gaussians that are fitted to the two sets:

        |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2),   S = X^T X / (n - 1), X centred

    The nonzero eigenvalues of S_a S_b = A^T A B^T B / ((n-1)(m-1)) are those of (A B^T)(A B^T)^T / ((n-1)(m-1)). These
    are the squared singular values of the cross-Gram matrix A B^T / sqrt((n-1)(m-1)), so the trace of the root is its
    nuclear norm (Mathiasen & Hvilshøj 2020, arXiv 2009.14075, use the same identity for covariances of rank n).
    If n > d, A is first replaced by its triangular QR factor, which has the same A^T A and thus the same singular
    values. All sums are in float64.

    Raises:
        ValueError: for fewer than two samples on a side, different widths, or features that are not finite.
    """
    # The tail has fewer images than features, so its covariance is singular. The usual matrix square root of
    # S_a @ S_b is then unstable: it returns complex numbers, or an answer that depends on the linear algebra library.
    # The singular values below need no such root, and no d x d matrix while n and m are below d.
    a, b = _checked(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    root_a, root_b = _root(a - mean_a), _root(b - mean_b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross
    return max(0.0, float(distance))  # rounding gives about -1e-15 for equal sets


def _checked(a: Features, b: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"frechet_distance: want [n, d] and [m, d], got {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet_distance: want two samples or more on each side, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("frechet_distance: features hold NaN or infinity")
    return a.astype(np.float64), b.astype(np.float64)


def _root(centred: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a matrix R `[min(n, d), d]` such that R^T R is the covariance of the centred samples."""
    n, d = centred.shape
    factor = np.linalg.qr(centred, mode="r") if n > d else centred
    return factor / np.sqrt(n - 1)
