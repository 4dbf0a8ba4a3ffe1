"""Several processes at one store, some of them killed: computed once, never torn, never blocked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bench.store.store import Store
from bench.store.work import Execution
from tests.reliability.helpers import kill_group, start, until
from tests.reliability.toys import Counts, Toy, noted


def test_eight_processes_that_want_one_stage_compute_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stage = Toy(value=6, log=str(log), seconds=0.5)
    code = f"gather({str(tmp_path)!r}); print(Store({str(tmp_path / 'store')!r}).get({stage!r}))"
    processes = [start(code) for _ in range(8)]
    assert until(lambda: len(noted(tmp_path / "ready")) == 8)
    (tmp_path / "go").touch()
    told = [p.communicate() for p in processes]
    assert [out for out, _ in told] == ["6\n"] * 8, told
    assert noted(log) == ["toy 6"]
    assert len(list(Store(tmp_path / "store").manifests())) == 1


def test_who_waits_for_a_killed_process_takes_over(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store")
    stage = Toy(value=6, log=str(log), seconds=0.3)
    holder = start(f"Store({str(store.root)!r}).get(Toy(value=6, log={str(log)!r}, seconds=60))")
    assert until(lambda: noted(log) and store.state(stage) == "running")
    waiter = start(f"print(Store({str(store.root)!r}).get({stage!r}))")
    kill_group(holder)
    assert waiter.communicate()[0] == "6\n"
    assert noted(log) == ["toy 6"] * 2
    assert store.state(stage) == "done"


def test_a_killed_computation_is_missing_not_running_and_leaves_no_result(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store")
    holder = start(f"Store({str(store.root)!r}).get(Toy(log={str(log)!r}, seconds=60))")
    assert until(lambda: noted(log))
    kill_group(holder)
    assert store.state(Toy()) == "missing"
    assert list(store.manifests()) == []
    assert store.compute(Toy(), Execution())


@pytest.mark.parametrize("after", [1, 7, 13])
def test_a_stage_killed_between_checkpoints_goes_on_where_it_was(tmp_path: Path, after: int) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store")
    stage = Counts(value=2, log=str(log))
    process = start(f"Store({str(store.root)!r}).get({stage!r})")
    assert until(lambda: noted(log).count("counts 2") == 1 and len(noted(log)) > after)
    kill_group(process)
    assert store.get(stage) == 2
    steps = [line for line in noted(log) if line.startswith("step")]
    assert len(steps) <= stage.steps + 1  # the step that was killed before its checkpoint may be there twice
    assert list(dict.fromkeys(steps)) == [f"step {i}" for i in range(stage.steps)]


def test_a_result_is_whole_at_the_moment_it_appears(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    stages = [Toy(value=v) for v in range(40)]
    process = start(f"[Store({str(store.root)!r}).get(Toy(value=v)) for v in range(40)]")
    for stage in stages:
        assert until(lambda stage=stage: store.folder(stage).exists())
        manifest = json.loads((store.folder(stage) / "manifest.json").read_text(encoding="utf-8"))
        for name, record in manifest["files"].items():
            content = (store.folder(stage) / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == record["sha256"]
    process.communicate()
