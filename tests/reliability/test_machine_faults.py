"""What a machine does to a run: a full disk, a store that cannot be written, a damaged file, a clock set back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.reliability.judge import Reference
from tests.reliability.scenarios import SCENARIOS, Refused
from tests.reliability.trial import Trial


@pytest.mark.parametrize("name", ["disk-full", "read-only", "truncated", "clock"])
def test_a_machine_fault(name: str, reference: Reference, tmp_path: Path) -> None:
    trial = Trial(name, tmp_path / "trial", reference, random.Random(name), None, print)
    refused = ""
    try:
        SCENARIOS[name](trial)
    except Refused as refusal:
        refused = str(refusal)
    assert trial.verdict.faults == []
    if refused:
        pytest.skip(refused)
