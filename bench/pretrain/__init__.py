"""Trains the assets: a small Stable Diffusion pipeline for any data set, and the phantom's oracle."""

from pathlib import Path

# Here and not beside the network: keys and reports need the place without importing torch.
SHIPPED_ORACLE = Path(__file__).parent.parent / "assets" / "oracle"
ORACLE_WEIGHTS = "oracle.safetensors"
