"""Seeds: the same everywhere, different for every axis."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np

from bench.seeds import derive, rng


def test_derive_is_the_first_63_bits_of_the_digest_of_the_names() -> None:
    digest = hashlib.sha256(b'[7,"classifier",3]').digest()
    assert derive(7, "classifier", 3) == int.from_bytes(digest[:8], "big") // 2
    assert 0 <= derive(7, "classifier", 3) < 2**63


def test_derive_is_the_same_in_a_process_with_another_hash_salt() -> None:
    code = "from bench.seeds import derive, rng; print(derive(5, 'a', 2), rng(5, 'a').integers(1 << 40))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert told == {f"{derive(5, 'a', 2)} {rng(5, 'a').integers(1 << 40)}\n"}


def test_different_axes_never_share_a_seed() -> None:
    axes = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("b", "a"), (1,), ("1",), ("a", 1), ("a1",), ("a,b",), ('a","b',)]
    found = [derive(root, *names) for root in (0, 1, 2) for names in axes]
    assert len(set(found)) == len(found)


def test_generators_of_neighbouring_samples_are_unrelated() -> None:
    draws = np.array([rng(0, "sample", i).standard_normal(64) for i in range(200)])
    correlations = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert abs(correlations.mean()) < 0.01
    assert abs(correlations.std() - 64**-0.5) < 0.02
