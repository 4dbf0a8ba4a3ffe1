"""A cluster for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Have one SLURM for all tests of this process."""
    if why := why_not():
        pytest.skip(why)
    cluster = Cluster.start(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Have a SLURM without a job, that this process talks to as well; what a test leaves in its queue is cancelled."""
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    slurm.scancel_all()
    yield slurm
    slurm.scancel_all()
