"""What a group shares: every file has the mode that the umask says, and what may not be read is not called damaged."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench.errors import StoreError
from bench.matrix.build import build_matrix
from bench.pipeline.stage import Stage, Work
from bench.store.store import Store
from bench.store.verify import delete_damaged, verify
from bench.tracking.tracker import make_tracker
from tests.reliability.toys import Toy
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import run
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FREE, fake, sweep  # noqa: F401 - a fixture


class Private(Stage):
    """Writes as libraries do that care for nobody but their user."""

    def compute(self, work: Work) -> None:
        """Write with safetensors, tempfile and a folder of its own."""
        save_file({"a": torch.zeros(2)}, work.out / "a.safetensors")
        os.close(tempfile.mkstemp(dir=work.out)[0])
        os.close(tempfile.mkstemp(dir=tempfile.mkdtemp(dir=work.out))[0])

    def open(self, folder: Path) -> int:
        """Return how many files there are."""
        return sum(p.is_file() for p in folder.rglob("*"))


@pytest.fixture(params=[0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def strange(root: Path, umask: int) -> dict[str, str]:
    """Return the modes of what has another one than the umask says; links have none of their own."""
    found = {}
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o777 != (0o777 if stat.S_ISDIR(mode) else 0o666) & ~umask:
            found[str(path.relative_to(root))] = stat.filemode(mode)
    return found


@pytest.mark.parametrize("locks", ["flock", "lease"])
def test_a_result_has_the_mode_that_the_umask_says(tmp_path: Path, umask: int, locks: str) -> None:
    store = Store(tmp_path / "store", locks)
    assert store.get(Private()) == 4
    assert strange(store.root, umask) == {}


@pytest.mark.usefixtures("methods", "fake")
@pytest.mark.parametrize("umask", [0o002, 0o027], ids=oct, indirect=True)
def test_a_whole_store_has(tmp_path: Path, umask: int) -> None:
    store, matrix = Store(tmp_path / "store"), build_matrix(tiny(methods=["copies@1"]), "tiny")
    sweep(sweep_file(tmp_path, search=FREE), store, n_trials=2)
    run(matrix, store, make_tracker("offline", store, matrix))
    assert list(store.root.glob("wandb/offline-run-*"))
    assert strange(store.root, umask) == {}


def as_nobody(action: Callable[[], Any]) -> Any:
    """Return what an action returns in a process whose user may not read everything."""
    context = multiprocessing.get_context("fork")
    receives, sends = context.Pipe(duplex=False)

    def act() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            sends.send(action())
        except Exception as error:
            sends.send(error)

    process = context.Process(target=act)
    process.start()
    process.join(60)
    return receives.recv()


@pytest.fixture
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store with two results that another user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        before = os.umask(0)
        store = Store(Path(folder) / "store")
        store.get(Toy(value=1)), store.get(Toy(value=2))
        os.umask(before)
        yield store


@pytest.mark.parametrize("what", ["number.json", "manifest.json", ""])
def test_what_may_not_be_read_is_not_damaged(open_to_all: Store, what: str) -> None:
    store, closed = open_to_all, Toy(value=1)
    (store.folder(closed) / what).chmod(0)
    found = as_nobody(lambda: verify(Store(store.root)))
    if what == "number.json":
        (damage,) = found.damage
        assert (damage.file, damage.problem) == ("number.json", "unreadable")
    assert [d.detail for d in found.damage] == ["may not be read: Permission denied"]
    assert found.unreadable() == [("toy", closed.key)]
    assert found.damaged() == []
    assert as_nobody(lambda: delete_damaged(Store(store.root), found)) == []
    (store.folder(closed) / what).chmod(0o755)
    assert verify(store).damage == []


@pytest.mark.parametrize("what", ["number.json", "manifest.json"])
def test_a_result_that_may_not_be_read_is_told_as_such(open_to_all: Store, what: str) -> None:
    path = open_to_all.folder(Toy(value=1)) / what
    path.chmod(0)
    error = as_nobody(lambda: Store(open_to_all.root).get(Toy(value=1)))
    assert isinstance(error, StoreError)
    assert str(error).startswith(f"{path} may not be read by this user; let its owner allow it")
    assert "damaged" not in str(error)


def test_damage_is_damage_beside_what_may_not_be_read(open_to_all: Store) -> None:
    one, two = (open_to_all.folder(Toy(value=v)) / "number.json" for v in (1, 2))
    one.chmod(0)
    two.write_text("3")
    found = as_nobody(lambda: verify(Store(open_to_all.root)))
    assert found.unreadable() == [("toy", Toy(value=1).key)]
    assert found.damaged() == [("toy", Toy(value=2).key)]


def test_a_kind_that_may_not_be_listed_is_not_passed_over(open_to_all: Store) -> None:
    (open_to_all.root / "toy").chmod(0)
    error = as_nobody(lambda: verify(Store(open_to_all.root)))
    assert isinstance(error, PermissionError)
    assert str(open_to_all.root / "toy") in str(error)
