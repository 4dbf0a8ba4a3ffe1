"""The command line as a fixture."""

from __future__ import annotations

import pytest

from tests.e2e.driver import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Return a function that runs `bench ARGS` here and tells the exit code, stdout and stderr."""
    return Bench(monkeypatch, capfd)
