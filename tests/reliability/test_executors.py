"""Both executors: the same bytes, failures that stop only what needs them, killed children that cost one attempt."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import ConfigError, StoreError
from bench.pipeline.stage import Resources, Stage, Work
from bench.run.inline import Inline
from bench.run.machine_file import Machine
from bench.run.placement import choose_executor
from bench.run.processes import Processes, gpus_of
from bench.run.run_matrix import run_stages
from bench.run.workload import Outcome, Workload
from bench.store.store import Store
from bench.store.work import Execution
from tests.reliability.helpers import until
from tests.reliability.toys import Counts, Dies, Fails, Leaves, Slow, Toy, noted


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.pending: list[Stage] = []
        self.reused = -1
        self.lines: list[str] = []
        self.details: dict[str, str] = {}
        self.polls: list[float] = []

    def planned(self, pending: list[Stage], reused: int) -> None:
        self.pending, self.reused = pending, reused

    def started(self, stage: Stage) -> None:
        self.lines.append(f"started {stage.stage_name()} {stage.value}")  # type: ignore[attr-defined]

    def polled(self, stage: Stage, done: float, total: float, note: str) -> None:
        self.polls.append(done / total)

    def finished(self, stage: Stage, outcome: Outcome, detail: str = "") -> None:
        self.lines.append(f"{outcome} {stage.stage_name()} {stage.value}")  # type: ignore[attr-defined]
        self.details[stage.key] = detail


def bring(targets: list[Stage], store: Store, how: Any, told: list[Stage] | None = None) -> tuple[Workload, Heard]:
    heard = Heard()
    work = Workload.plan(targets, store, Execution(device="cpu"), heard)
    work.on_outcome = (told if told is not None else []).append
    how.run(work)
    return work, heard


@pytest.fixture(params=["inline", "processes"])
def how(request: pytest.FixtureRequest) -> Any:
    return Inline() if request.param == "inline" else Processes(2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def some_stages() -> list[Stage]:
    shared = Toy(value=1)
    return [Toy(value=10, inputs_=(shared, Counts(value=2, steps=3))), Toy(value=20, inputs_=(shared,))]


class Sees(Toy):
    """Writes the GPUs that its process sees, and the device that it is told to compute on (which is not here)."""

    def compute(self, work: Work) -> None:
        seen = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "device": work.execution.device}  # type: ignore[attr-defined]
        (work.out / "number.json").write_text(json.dumps(seen), encoding="utf-8")


@pytest.mark.parametrize(
    ("device", "visible", "n_seen", "expected"),
    [
        ("cuda", None, 2, {("0", "cuda"), ("1", "cuda")}),
        ("cuda", "2,3", 2, {("2", "cuda"), ("3", "cuda")}),
        ("cuda:1", "2,3", 2, {("3", "cuda")}),
        ("cuda:1", None, 2, {("1", "cuda")}),
        ("cuda", "GPU-aa,-1,GPU-bb", 1, {("GPU-aa", "cuda")}),
    ],
)
def test_each_process_sees_one_of_the_gpus_that_were_given(
    store: Store, monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, n_seen: int, expected: set[Any]
) -> None:
    """Those of CUDA_VISIBLE_DEVICES and no others; `n_seen` is what torch counts among them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_seen)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    stages = [Sees(value=i, seconds=0.0) for i in range(4)]
    Processes(2).run(Workload.plan(stages, store, Execution(device=device), Heard()))
    found = [store.open(stage) for stage in stages]
    assert {(told["gpus"], told["device"]) for told in found} == expected
    assert gpus_of("cpu") == []


def test_both_executors_write_the_same_bytes(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("inline", "processes")]
    for store, how in zip(stores, (Inline(), Processes(2)), strict=True):
        bring(some_stages(), store, how)
    found = [{m["key"]: (m["files"], m["identity"], m["inputs"], m["device"]) for m in s.manifests()} for s in stores]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_a_failure_stops_only_what_needs_it(store: Store, how: Any) -> None:
    bad = Fails(value=1)
    above = Toy(value=2, inputs_=(bad,))
    top = Toy(value=3, inputs_=(above,))
    fine = Toy(value=4, inputs_=(Toy(value=5),))
    told: list[Stage] = []
    work, heard = bring([top, fine], store, how, told)
    assert {work.stages[k].value: o for k, o in work.outcomes.items()} == {  # type: ignore[attr-defined]
        1: "failed",
        2: "blocked",
        3: "blocked",
        4: "done",
        5: "done",
    }
    assert heard.details[bad.key] == "ValueError: on purpose"
    assert heard.details[top.key].startswith("needs fails")
    assert sorted(s.value for s in told) == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]
    assert [store.state(s) for s in (bad, above, top, fine)] == ["failed", "missing", "missing", "done"]


def test_what_is_finished_is_reused_and_what_only_it_needs_is_not_wanted(
    store: Store, how: Any, tmp_path: Path
) -> None:
    below = Toy(value=1)
    middle = Toy(value=2, inputs_=(below,))
    store.get(middle)
    (store.folder(below) / "manifest.json").unlink()  # as after a clean-up of inputs
    work, heard = bring([Toy(value=3, inputs_=(middle,))], store, how)
    assert [s.value for s in heard.pending] == [3]  # type: ignore[attr-defined]
    assert heard.reused == 1
    assert list(work.outcomes.values()) == ["done"]


def test_a_computation_tells_how_far_it_is(store: Store, how: Any) -> None:
    _, heard = bring([Toy(seconds=0.8)], store, how)
    assert heard.polls
    assert all(0 < share <= 1 for share in heard.polls)


def test_the_longest_way_ahead_starts_first(store: Store) -> None:
    way = Toy(value=1)
    work, heard = bring([Toy(value=2), Toy(value=3), Slow(value=4, inputs_=(way,))], store, Inline())
    assert heard.lines[0] == "started toy 1"
    assert heard.lines[2] == "started slow 4"


def test_a_killed_child_is_tried_once_more_and_its_rubbish_is_gone(store: Store, tmp_path: Path) -> None:
    stage = Dies(value=1, deaths=1, log=str(tmp_path / "log"))
    work, heard = bring([Toy(value=2, inputs_=(stage,))], store, Processes(2))
    assert set(work.outcomes.values()) == {"done"}
    assert noted(tmp_path / "log") == ["dies 1"] * 2
    assert heard.lines == ["started dies 1", "started dies 1", "done dies 1", "started toy 2", "done toy 2"]
    assert sorted(store.manifest(stage)["files"]) == ["half.bin", "number.json"]
    assert store.failure(stage) is None


def test_a_child_killed_twice_is_reported_recorded_and_tried_again_by_the_next_run(store: Store) -> None:
    stage, fine = Dies(value=1, deaths=2), Toy(value=3)
    work, heard = bring([Toy(value=2, inputs_=(stage,)), fine], store, Processes(2))
    assert work.outcomes[stage.key] == "failed"
    assert work.outcomes[fine.key] == "done"
    assert heard.details[stage.key] == "its process was killed by SIGKILL 2 times (out of memory?)"
    assert store.state(stage) == "failed"
    assert "killed by SIGKILL" in store.failure(stage)["error"]  # type: ignore[index]
    work, _ = bring([stage], store, Processes(2))
    assert work.outcomes[stage.key] == "done"


def test_a_child_that_leaves_without_a_word_is_a_failure(store: Store) -> None:
    work, heard = bring([Leaves()], store, Processes(1))
    assert work.outcomes[Leaves().key] == "failed"
    assert heard.details[Leaves().key] == "its process ended with code 3"
    assert store.state(Leaves()) == "failed"


def test_an_older_failure_is_not_taken_for_this_one(store: Store) -> None:
    store.record_failure(Leaves(), MemoryError("last week"))
    work, heard = bring([Leaves()], store, Processes(1))
    assert work.outcomes[Leaves().key] == "failed"
    assert heard.details[Leaves().key] == "its process ended with code 3"


def test_a_failure_is_remembered_until_retry_is_asked_for(store: Store, tmp_path: Path) -> None:
    stage = Fails(once=True, log=str(tmp_path / "log"))
    options: dict[str, Any] = {"executor": Inline(), "execution": Execution(device="cpu"), "reporter": Heard()}
    for _ in range(2):
        assert run_stages([stage], store, **options).outcomes == {stage.key: "failed"}
    assert len(noted(tmp_path / "log")) == 1
    assert run_stages([stage], store, retry_failed=True, **options).outcomes == {stage.key: "done"}


def test_an_unusable_store_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stage = Toy(log=str(tmp_path / "log"))
    for how in (Inline(), Processes(2)):
        with pytest.raises(StoreError, match="cannot be written"):
            run_stages([stage], Store(tmp_path / "file"), executor=how, execution=Execution(), reporter=Heard())
    assert noted(tmp_path / "log") == []


def test_a_finished_matrix_needs_no_writable_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.get(Toy(value=1))
    monkeypatch.setattr(Store, "require_writable", lambda self: pytest.fail("asked to write"))
    work = run_stages([Toy(value=1)], store, executor=Processes(2), execution=Execution(), reporter=Heard())
    assert work.outcomes == {}


def test_jobs_choose_the_executor_unless_it_is_named() -> None:
    assert isinstance(choose_executor(Machine(), 1).executor, Inline)
    assert isinstance(choose_executor(Machine(), 2).executor, Processes)
    assert isinstance(choose_executor(Machine(executor="inline"), 1).executor, Inline)
    with pytest.raises(ConfigError, match="computes one at a time"):
        choose_executor(Machine(executor="inline"), 2)
    assert isinstance(choose_executor(Machine(executor="processes"), 1).executor, Processes)


def test_results_are_plain_files(store: Store, how: Any) -> None:
    stage = Toy(value=7)
    bring([stage], store, how)
    assert json.loads((store.folder(stage) / "number.json").read_text(encoding="utf-8")) == 7


def test_targets_that_come_later_are_computed_in_the_same_run(store: Store, how: Any) -> None:
    shared, broken = Toy(value=1), Fails(value=2)
    later = [[Toy(value=20, inputs_=(shared,))], [Toy(value=30, inputs_=(broken,)), Toy(value=40)]]
    ended: list[Stage] = []
    work = run_stages(
        [Toy(value=10, inputs_=(shared,)), broken],
        store,
        executor=how,
        execution=Execution(device="cpu"),
        reporter=Heard(),
        on_outcome=ended.append,
        more=lambda: later.pop(0) if later and len(ended) > 2 else [],
    )
    assert work.finished
    by_value = {s.value: work.outcomes[s.key] for s in work.stages.values()}  # type: ignore[attr-defined]
    assert by_value == {1: "done", 10: "done", 2: "failed", 20: "done", 30: "blocked", 40: "done"}
    assert sorted(s.value for s in ended) == sorted(by_value)  # type: ignore[attr-defined]  # each was told once
    assert (store.root / "locks").is_dir()
    assert not [p for p in (store.root / "locks").iterdir() if p.name.startswith("run-")]


def test_the_critical_path_is_the_longest_way_up(store: Store) -> None:
    class Long(Toy):
        resources = Resources(minutes=7)

    a = Toy(value=1)
    b, c = Long(value=2, inputs_=(a,)), Toy(value=3, inputs_=(a,))
    top = [Toy(value=4, inputs_=(b, c)), Toy(value=5, inputs_=(c,))]
    work = Workload.plan(top, store, Execution(device="cpu"), Heard())

    def longest(stage: Stage) -> float:
        above = [longest(s) for s in work.stages.values() if stage.key in {below.key for below in s.inputs()}]
        return stage.resources.minutes + max(above, default=0)

    assert work.minutes_behind == {key: longest(stage) for key, stage in work.stages.items()}
    assert work.minutes_behind[a.key] == 9


def test_two_runs_share_the_work(how: Any, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    below = [Toy(value=v, log=log, seconds=1.0) for v in range(1, 7)]
    target = Toy(value=100, inputs_=tuple(below), log=log)
    executors = [Processes(1), Processes(1)] if isinstance(how, Processes) else [Inline(), Inline()]
    with ThreadPoolExecutor(2) as both:
        runs = [both.submit(bring, [target], Store(tmp_path / "store"), executor) for executor in executors]
        heard = [run.result(120) for run in runs]
    assert sorted(noted(tmp_path / "log")) == sorted(f"toy {s.value}" for s in [*below, target])
    for work, told in heard:
        assert work.outcomes == {s.key: "done" for s in [*below, target]}
        assert len([line for line in told.lines if line.startswith("done")]) == 7
    begun = [{line for line in told.lines if line.startswith("started")} for _, told in heard]
    assert min(len(begun[0] - begun[1]), len(begun[1] - begun[0])) >= 1  # each has done what the other never began


def test_who_finds_nothing_free_waits_and_takes_over_from_the_dead(
    how: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, stage = Store(tmp_path / "store"), Toy(value=3)
    claim = store.locks.claim(stage.key, {"stage": "toy", "key": stage.key})
    assert claim is not None
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(bring, [stage], Store(tmp_path / "store"), how)
        assert until(lambda: "waiting: stage toy" in caplog.text, 60)
        assert not run.done()
        claim.release()
        work, _ = run.result(60)
    assert work.outcomes == {stage.key: "done"}
    assert caplog.text.count("waiting:") == 1
