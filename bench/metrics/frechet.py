"""The Fréchet distance between two sets of features, which stays exact with fewer samples than features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]
_LEAST_PIVOT = 1e-5  # of the largest; below it, Cholesky keeps fewer than six digits of the smallest directions


def frechet_distance(a: Features, b: Features) -> float:
    """Return the Fréchet distance of `a [n, d]` and `b [m, d]` (FID, Heusel et al. 2017).

    This is the squared Fréchet distance between the Gaussians that are fitted to the two sets:

        |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2),   S = X^T X / (n - 1), X centred

    The nonzero eigenvalues of S_a S_b = A^T A B^T B / ((n-1)(m-1)) are those of (A B^T)(A B^T)^T / ((n-1)(m-1)). These
    are the squared singular values of the cross-Gram matrix A B^T / sqrt((n-1)(m-1)), so the trace of the root is its
    nuclear norm (Mathiasen & Hvilshøj 2020, arXiv 2009.14075, use the same identity for covariances of rank n).
    If n > d and m > d, each set is first replaced by a triangular factor with the same A^T A and thus the same singular
    values. All sums are in float64.

    Raises:
        ValueError: for fewer than two samples on a side, different widths, or features that are not finite.
    """
    # The tail has fewer images than features, so its covariance is singular. The usual matrix square root of
    # S_a @ S_b is then unstable: it returns complex numbers, or an answer that depends on the linear algebra library.
    # The singular values below need no such root, and no d x d matrix while n or m is at most d.
    (mean_a, a), (mean_b, b) = _centred(a, b)
    distance = np.sum((mean_a - mean_b) ** 2) + np.vdot(a, a) / (len(a) - 1) + np.vdot(b, b) / (len(b) - 1)
    norm = np.sqrt((len(a) - 1) * (len(b) - 1))
    if min(len(a), len(b)) > a.shape[1]:  # with fewer samples on one side, the cross-Gram matrix is small already
        a, b = _factor(a), _factor(b)
    distance -= 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum() / norm
    return max(0.0, float(distance))  # rounding gives about -1e-15 for equal sets


def _centred(a: Features, b: Features) -> list[tuple[Float64, Float64]]:
    """Return the mean `[d]` of each set, and the set without its mean."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"frechet_distance: want [n, d] and [m, d], got {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet_distance: want two samples or more on each side, got {len(a)} and {len(b)}")
    found = []
    for given in (a, b):
        x = given.astype(np.float64)  # a copy, so that it may be changed
        mean = x.mean(axis=0)
        if not np.isfinite(mean).all():
            raise ValueError("frechet_distance: features hold NaN or infinity")
        x -= mean
        found.append((mean, x))
    return found


def _factor(centred: Float64) -> Float64:
    """Return a triangular R `[d, d]` such that R^T R = X^T X for `centred` X `[n, d]` with n > d."""
    # Cholesky takes a third of the time of QR, but squares the condition of the features. Where a feature is nearly a
    # sum of others, or always zero, it loses digits or fails, and QR does not.
    try:
        factor = np.asarray(np.linalg.cholesky(centred.T @ centred).T, np.float64)
        if (diagonal := np.diag(factor)).min() > _LEAST_PIVOT * diagonal.max():
            return factor
    except np.linalg.LinAlgError:
        pass
    return np.asarray(np.linalg.qr(centred, mode="r"), np.float64)
