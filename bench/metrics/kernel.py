"""The kernel distance (KID), which is unbiased at every sample size; the Fréchet distance is not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench import seeds

Features = npt.NDArray[np.floating]


def kernel_distance(a: Features, b: Features, subset_size: int = 1000, n_subsets: int = 100, seed: int = 0) -> float:
    """Return the kernel distance of `a [n, d]` and `b [m, d]` (KID, Bińkowski et al. 2018), not scaled by 1000.

    This is the squared maximum mean discrepancy under the kernel (x·y / d + 1)^3. The estimate is unbiased, so it may
    be slightly negative. If a side has more than `subset_size` samples, the result is the mean over `n_subsets` pairs
    of random subsets without replacement, as in torch-fidelity and torchmetrics. A side with fewer samples is used
    whole, and if both have fewer, the whole sets are compared once.

    Raises:
        ValueError: for fewer than two samples on a side or different widths.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b), subset_size) < 2:
        raise ValueError(
            f"kernel_distance: want [n, d] and [m, d] with two samples or more, got {list(a.shape)}, {list(b.shape)}"
        )
    # The cube of a product of features sums terms of very different size, and the distance is a small difference of
    # large means. In float32, the rounding error would be as large as the differences between methods.
    x, y = a.astype(np.float64), b.astype(np.float64)
    if max(len(x), len(y)) <= subset_size:
        return _unbiased_mmd2(x, y)
    return float(_over_subsets(x, y, subset_size, n_subsets, seeds.rng(seed, "kernel-distance")).mean())


def subset_distances(
    a: Features, b: Features, subset_size: int = 1000, n_subsets: int = 100, seed: int = 0
) -> npt.NDArray[np.float64] | None:
    """Return the kernel distances of `n_subsets` pairs of random subsets of `a [n, d]` and `b [m, d]`.

    A subset has `subset_size` samples without replacement, or half of the smaller side if that is fewer. The standard
    deviation of these distances (KID's ± in torch-fidelity and torchmetrics) says how much the estimate depends on the
    choice of images. It is that of subsets of this size, so it is larger than the error of the estimate on the whole
    sets. The result is None if half of a side is fewer than two samples.
    """
    # A subset as large as its side would be the same set every time, and the deviation would be 0.
    size = min(subset_size, len(a) // 2, len(b) // 2)
    if size < 2:
        return None
    rng = seeds.rng(seed, "kernel-subsets")
    return _over_subsets(a.astype(np.float64), b.astype(np.float64), size, n_subsets, rng)


def _over_subsets(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], size: int, n_subsets: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the kernel distance of each of `n_subsets` pairs of subsets, `float64 [n_subsets]`."""
    drawn = [
        _unbiased_mmd2(x[rng.permutation(len(x))[:size]], y[rng.permutation(len(y))[:size]]) for _ in range(n_subsets)
    ]
    return np.array(drawn)


def _kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _unbiased_mmd2(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the unbiased MMD^2 (Gretton et al. 2012, eq. 3), which leaves out pairs of a sample with itself."""

    def within(x: npt.NDArray[np.float64]) -> float:
        gram = _kernel(x, x)
        return float((gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(_kernel(a, b).mean())
