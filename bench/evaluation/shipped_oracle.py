"""The path of the shipped oracle. It is not in `oracle`, so that keys and reports need not import torch."""

from __future__ import annotations

from pathlib import Path

SHIPPED_ORACLE = Path(__file__).parents[1] / "assets" / "oracle"
ORACLE_WEIGHTS = "oracle.safetensors"
