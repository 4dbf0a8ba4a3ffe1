"""Our four packages belong together: `methods`, `reports` and `sweeps` are those that lie beside `bench`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bench.errors import ConfigError

AFFECTS_RESULTS = False
PLACE = Path(__file__).resolve().parents[1]  # the folder that holds all four


def require_installed(*packages: str) -> None:
    """Refuse a foreign package that has the name of one of ours, without importing it.

    Raises:
        ConfigError: with the place of the foreign package.
    """
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ConfigError(f"{PLACE / name}: is not there, though bench is; install longtail-bench again")
        found = Path(spec.origin).parent if spec.origin else Path(next(iter(spec.submodule_search_locations or "?")))
        if found.resolve() != PLACE / name:
            raise ConfigError(
                f"{found}: would be taken for the package '{name}' of bench, which is {PLACE / name}; rename it, or "
                "take its folder out of PYTHONPATH"
            )
