"""Seeds derived by name, so that adding an axis or a method never shifts another one's randomness."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def derive(root: int, *axes: str | int) -> int:
    """Return a 63-bit seed for `axes` under `root`; the same in every process and on every machine.

    `hash()` is salted per process and arithmetic on seeds collides; a digest of the names does neither.
    """
    text = json.dumps([root, *axes], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(root: int, *axes: str | int) -> np.random.Generator:
    """Return a numpy generator seeded by `derive(root, *axes)`."""
    return np.random.default_rng(derive(root, *axes))
