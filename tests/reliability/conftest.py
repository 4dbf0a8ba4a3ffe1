"""The undisturbed run that every disturbed one is held against."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict

import pytest

from tests.conftest import shared_folder
from tests.reliability.judge import Reference, undisturbed


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run the matrix undisturbed; beside other workers the first one runs it for all."""
    shared = shared_folder(tmp_path_factory, "undisturbed-of-all")
    with open(shared / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = shared / "reference.json"
        if not kept.exists():
            found = undisturbed(tmp_path_factory.mktemp("undisturbed"))
            kept.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return Reference(**json.loads(kept.read_text(encoding="utf-8")))
