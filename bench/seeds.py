"""Seeds derived from names, so that adding an axis or a method never changes the random numbers of another."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derive(root: int, *axes: str | int) -> int:
    """Return a 63-bit seed for `axes` under `root`. It is the same in every process and on every machine."""
    # Python salts `hash()` per process, and sums such as `seed + i` collide between axes; a digest does neither.
    text = json.dumps([root, *axes], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(root: int, *axes: str | int) -> np.random.Generator:
    """Return a numpy generator with the seed `derive(root, *axes)`."""
    return np.random.default_rng(derive(root, *axes))
