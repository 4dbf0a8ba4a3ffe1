"""Freed memory is kept for the next batch, unless the user tunes glibc, and no result depends on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

_KEPT = """
import pathlib, re, torch
from bench.store.work import Execution
Execution(device="cpu").apply()
resident = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
before = resident()
block = torch.ones(40 << 18)  # 40 MiB: glibc alone would give it back
del block
print(resident() - before)
"""
_STEP = """
import hashlib, torch
from torchvision.models import resnet18
from bench.store.work import Execution
Execution(device="cpu").apply()
torch.manual_seed(0)
network = resnet18(num_classes=3)
network(torch.randn(8, 3, 64, 64)).square().mean().backward()
print(hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in network.parameters())).hexdigest())
"""


def _output_of(code: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout


def test_a_freed_block_is_kept() -> None:
    assert float(_output_of(_KEPT)) > 39


def test_a_users_own_limit_holds() -> None:
    assert float(_output_of(_KEPT, MALLOC_MMAP_THRESHOLD_="131072")) < 20


def test_gradients_are_the_same_to_the_last_bit() -> None:
    assert _output_of(_STEP) == _output_of(_STEP, MALLOC_MMAP_THRESHOLD_="131072")
