"""The SLURM executor on a real SLURM: the same bytes, once each, through dead drivers, killed and preempted workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.pipeline.stage import Stage
from bench.run.inline import Inline
from bench.run.jobs import cancel_stages
from bench.run.log import log_path
from bench.run.machine_file import JobRequest, Machine, SlurmSettings
from bench.run.progress import Silent
from bench.run.slurm.executor import Slurm
from bench.run.slurm.queue import ask_queue
from bench.run.status import StateCache
from bench.run.workload import Workload
from bench.store.store import Store
from bench.store.submissions import Ledger
from bench.store.work import Execution
from tests.conftest import ROOT
from tests.reliability.helpers import until
from tests.reliability.toys import Counts, Dies, Fails, Toy, noted
from tests.slurm.cluster import Cluster

QUICK = SlurmSettings(poll_s=0.3, settle_s=1.0, cpu=JobRequest(cpus=1, memory_gb=1, minutes=5))
PATIENCE_S = 90.0


@pytest.fixture
def store(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield Store(tmp_path / "store")
    queue = ask_queue()
    if queue and queue.live:
        subprocess.run(["scancel", *queue.live], check=False)


def bring(targets: list[Stage], store: Store, settings: SlurmSettings = QUICK) -> Workload:
    work = Workload.plan(targets, store, Execution(device="cpu"), Silent())
    Slurm(Machine(slurm=settings, device="cpu")).run(work)
    return work


def outcomes(work: Workload) -> dict[int, str]:
    return {work.stages[k].value: o for k, o in work.outcomes.items()}  # type: ignore[attr-defined]


def start_driver_of(code: str, store: Store, tmp_path: Path) -> subprocess.Popen[str]:
    preamble = (
        "import sys; from pathlib import Path; from tests.slurm.test_executor import *; "
        "store = Store(Path(sys.argv[1])); log = sys.argv[2]; "
    )
    command = [sys.executable, "-c", f"{preamble}{code}; bring(targets, store)", str(store.root), str(tmp_path / "log")]
    return subprocess.Popen(command, cwd=ROOT, text=True)


def test_the_same_bytes_as_in_one_process(store: Store, tmp_path: Path) -> None:
    shared = Toy(value=1)
    targets = [Toy(value=10, inputs_=(shared, Counts(value=2, steps=3))), Toy(value=20, inputs_=(shared,))]
    plain = Store(tmp_path / "inline")
    Inline().run(Workload.plan(list(targets), plain, Execution(device="cpu"), Silent()))
    assert set(bring(list(targets), store).outcomes.values()) == {"done"}
    found = [{m["key"]: (m["files"], m["identity"], m["inputs"]) for m in s.manifests()} for s in (plain, store)]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_what_many_jobs_want_is_computed_once_and_an_array_keeps_its_cap(store: Store, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    shared = Toy(value=100, log=log, seconds=0.5)
    targets: list[Stage] = [Toy(value=i, inputs_=(shared,), log=log, seconds=0.2) for i in range(12)]
    work = bring(targets, store, QUICK.model_copy(update={"cap": 2}))
    assert set(work.outcomes.values()) == {"done"}
    assert Counter(noted(tmp_path / "log")) == {f"toy {v}": 1 for v in (100, *range(12))}
    arrays = {job.partition("_")[0] for job in Ledger(store).jobs().values()}
    assert len(arrays) == 2
    script = next(p for p in (store.root / "slurm" / "jobs").glob("*_submission.sh") if "array" in p.read_text())
    assert "--array=0-11%2" in script.read_text(encoding="utf-8")


def test_a_failure_stops_only_what_needs_it_and_is_recorded(store: Store) -> None:
    bad = Fails(value=1)
    work = bring([Toy(value=2, inputs_=(bad,)), Toy(value=4, inputs_=(Toy(value=5),))], store)
    assert outcomes(work) == {1: "failed", 2: "blocked", 4: "done", 5: "done"}
    failure = store.failure(bad)
    assert failure is not None
    assert failure["error"] == "ValueError: on purpose"
    assert "misbehave" in failure["traceback"]
    assert "ValueError: on purpose" in log_path(store, bad).read_text(encoding="utf-8")
    before = ask_queue()
    assert outcomes(bring([bad], store)) == {1: "failed"}  # it sticks: nothing is submitted
    after = ask_queue()
    assert before is not None
    assert after is not None
    assert after.live.keys() | after.ended.keys() <= before.live.keys() | before.ended.keys()


def test_a_driver_may_die_and_another_goes_on_without_submitting_anew(store: Store, tmp_path: Path) -> None:
    code = "targets = [Toy(value=2, log=log, inputs_=(Toy(value=1, seconds=4, log=log),))]"
    driver = start_driver_of(code, store, tmp_path)
    first = Toy(value=1)
    assert until(lambda: store.state(first) == "running", PATIENCE_S)
    driver.kill()
    driver.wait()
    jobs = Ledger(store).jobs()
    assert len(jobs) == 2
    work = bring([Toy(value=2, log=str(tmp_path / "log"), inputs_=(first,))], store)
    assert outcomes(work) == {1: "done", 2: "done"}
    assert Ledger(store).jobs() == jobs
    assert noted(tmp_path / "log") == ["toy 1", "toy 2"]


def test_the_cluster_finishes_without_any_driver(store: Store, tmp_path: Path) -> None:
    driver = start_driver_of("targets = [Toy(value=2, log=log, inputs_=(Toy(value=1, log=log),))]", store, tmp_path)
    assert until(lambda: len(Ledger(store).jobs()) == 2, PATIENCE_S)
    driver.kill()
    driver.wait()
    assert until(lambda: store.has(Toy(value=2, inputs_=(Toy(value=1),))), PATIENCE_S)


def test_two_drivers_submit_each_stage_once(store: Store, tmp_path: Path) -> None:
    code = "targets = [Toy(value=i, log=log, inputs_=(Toy(value=9, seconds=1, log=log),)) for i in range(4)]"
    drivers = [start_driver_of(code, store, tmp_path) for _ in range(2)]
    assert [d.wait(timeout=PATIENCE_S) for d in drivers] == [0, 0]
    assert Counter(noted(tmp_path / "log")) == {f"toy {v}": 1 for v in (9, 0, 1, 2, 3)}
    assert len(Ledger(store).jobs()) == 5


def steps_of(tmp_path: Path) -> list[str]:
    return [line for line in noted(tmp_path / "log") if line.startswith("step")]


def disturbed(store: Store, tmp_path: Path, disturb: Any, ask: JobRequest, steps: int = 200) -> Workload:
    """Bring a stage of `steps` checkpointed steps to its end while `disturb(job)` is called once, in its middle."""
    stage = Counts(value=1, steps=steps, log=str(tmp_path / "log"))

    def soon() -> None:
        until(lambda: len(steps_of(tmp_path)) > 20, PATIENCE_S)
        disturb(Ledger(store).jobs()[stage.key])

    thread = threading.Thread(target=soon)
    thread.start()
    work = bring([stage], store, QUICK.model_copy(update={"cpu": ask}))
    thread.join()
    return work


def goes_on(work: Workload, tmp_path: Path, steps: int = 200) -> None:
    assert outcomes(work) == {1: "done"}
    counted = Counter(steps_of(tmp_path))
    assert len(counted) == steps
    assert sum(counted.values()) <= steps + 1  # the step that was cut off may be repeated, no other
    assert noted(tmp_path / "log").count("counts 1") == 2


def test_a_killed_worker_goes_on_from_its_checkpoint(store: Store, tmp_path: Path) -> None:
    def kill(job: str) -> None:
        holder = store.holder(Counts(value=1, steps=200))
        assert holder is not None
        assert holder["job"] == job
        os.kill(holder["pid"], signal.SIGKILL)

    goes_on(disturbed(store, tmp_path, kill, JobRequest(cpus=1, minutes=5)), tmp_path)


def test_a_time_limit_requeues_and_the_job_goes_on(store: Store, tmp_path: Path) -> None:
    """The signal is what SLURM sends `signal_s` seconds before the limit, which is a minute at least."""

    def reach_the_limit(job: str) -> None:
        subprocess.run(["scancel", "--signal=USR2", job], check=True)

    work = disturbed(store, tmp_path, reach_the_limit, JobRequest(cpus=1, minutes=5))
    goes_on(work, tmp_path)
    assert len(Ledger(store).jobs()) == 1


def test_a_preempted_job_is_requeued_and_goes_on(store: Store, tmp_path: Path) -> None:
    def preempt(job: str) -> None:
        subprocess.run(
            ["sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"], check=True
        )

    goes_on(disturbed(store, tmp_path, preempt, JobRequest(partition="low", cpus=1, minutes=5)), tmp_path)


def test_a_worker_that_always_dies_is_given_up_and_says_where_to_look(store: Store) -> None:
    stage = Dies(value=1, deaths=99)
    assert outcomes(bring([Toy(value=2, inputs_=(stage,))], store)) == {1: "failed", 2: "blocked"}
    failure = store.failure(stage)
    assert failure is not None
    assert "its SLURM job ended 3 times without a result" in failure["error"]
    assert not failure["sticky"]


def test_what_scancel_ends_is_not_tried_again_until_asked(store: Store, tmp_path: Path) -> None:
    def scancel(job: str) -> None:
        subprocess.run(["scancel", job], check=True)

    steps = 400  # 8 s at least: submitit ignores the SIGTERM, the SIGKILL comes after KillWait
    work = disturbed(store, tmp_path, scancel, JobRequest(cpus=1, minutes=5), steps)
    assert outcomes(work) == {1: "failed"}
    assert "was cancelled" in (store.failure(Counts(value=1, steps=steps)) or {})["error"]
    again = bring([Counts(value=1, steps=steps, log=str(tmp_path / "log"))], store)
    goes_on(again, tmp_path, steps)


def test_cancel_ends_jobs_that_run_and_jobs_that_wait(store: Store, tmp_path: Path) -> None:
    code = "targets = [Toy(value=2, inputs_=(Toy(value=1, seconds=60),))]"
    driver = start_driver_of(code, store, tmp_path)
    top = Toy(value=2, inputs_=(Toy(value=1),))
    assert until(lambda: store.state(Toy(value=1)) == "running", PATIENCE_S)
    assert len(cancel_stages([top], store)["jobs"]) == 2
    assert driver.wait(timeout=PATIENCE_S) == 0  # the driver sees it and ends
    assert until(lambda: store.holder(Toy(value=1)) is None, 20)
    queue = ask_queue()
    assert queue is not None
    assert not queue.live


def test_code_that_changed_since_submission_is_not_run(store: Store, tmp_path: Path) -> None:
    stage = Toy(value=1)
    recipe = store.root / "slurm" / "stages" / f"{stage.key}.json"
    from bench.run.slurm.job import StageJob
    from bench.run.slurm.recipe import write_recipe

    write_recipe(recipe, Toy(value=2))
    job = StageJob(str(store.root), "toy", stage.key, "cpu", 1)
    done = subprocess.run(
        [sys.executable, "-c", f"from bench.run.slurm.job import StageJob; {job!r}()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the code has changed since this job was submitted" in done.stderr
    assert not store.has(stage)


def test_a_request_that_sbatch_refuses_is_one_line(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"slurm: sbatch refused bench-toy: .*[Pp]artition"):
        bring([Toy()], store, QUICK.model_copy(update={"cpu": JobRequest(partition="nowhere", cpus=1, minutes=5)}))
    assert Ledger(store).jobs() == {}


def test_a_job_that_cannot_start_is_told_and_status_says_why(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = Toy(value=1)

    def let_go() -> None:
        until(lambda: "does not start" in capfd.readouterr().err, PATIENCE_S)
        row = StateCache(store).about(stage)
        said.append(row)
        job = Ledger(store).jobs()[stage.key]
        subprocess.run(["scontrol", "update", f"jobid={job}", "timelimit=5"], check=True)

    said: list[dict[str, Any]] = []
    thread = threading.Thread(target=let_go)
    thread.start()
    work = bring([stage], store, QUICK.model_copy(update={"cpu": JobRequest(cpus=1, minutes=5000)}))
    thread.join()
    assert outcomes(work) == {1: "done"}
    assert said[0]["state"] == "submitted"
    assert "(Partition" in said[0]["queue"]  # PartitionTimeLimit, or PartitionConfig while it looks


def test_a_held_job_whose_stage_is_done_does_not_block_what_waits_behind_it(store: Store, tmp_path: Path) -> None:
    below = Toy(value=1)

    def hold_and_finish() -> None:
        until(lambda: len(Ledger(store).jobs()) == 2, PATIENCE_S)
        subprocess.run(["scontrol", "hold", Ledger(store).jobs()[below.key]], check=True)
        store.get(below)  # somebody else computes it

    # an array of one CPU more than the node has left waits long enough to be held
    blocker = subprocess.run(
        ["sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep 8"], check=True, capture_output=True
    )
    assert blocker.returncode == 0
    thread = threading.Thread(target=hold_and_finish)
    thread.start()
    work = bring([Toy(value=2, inputs_=(below,))], store)
    thread.join()
    assert outcomes(work) == {1: "done", 2: "done"}


def test_a_job_that_dies_before_python_says_what_it_printed(store: Store) -> None:
    work = bring([Toy(value=1)], store, QUICK.model_copy(update={"setup": ["echo no module cuda >&2; exit 3"]}))
    assert outcomes(work) == {1: "failed"}
    assert "without a result" in (store.failure(Toy(value=1)) or {})["error"]
    assert "no module cuda" in (store.failure(Toy(value=1)) or {})["error"]
    assert "ended_job" not in StateCache(store).about(Toy(value=1))  # a failure says more


def test_status_tells_a_job_that_is_gone(store: Store, tmp_path: Path) -> None:
    driver = start_driver_of("targets = [Toy(value=1, seconds=60)]", store, tmp_path)
    assert until(lambda: store.state(Toy(value=1)) == "running", PATIENCE_S)
    driver.kill()
    driver.wait()
    subprocess.run(["scancel", Ledger(store).jobs()[Toy(value=1).key]], check=True)
    assert until(lambda: "ended_job" in StateCache(store).about(Toy(value=1)), PATIENCE_S)


def test_a_refused_submission_leaves_nothing(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"largest_array"):
        bring(
            [Toy(value=v) for v in range(1100)],
            store,
            QUICK.model_copy(update={"largest_array": 5000}),
        )
    left = [p for p in (store.root / "slurm").rglob("*") if p.is_file() and p.name != "lock"]
    assert left == []


def test_a_store_whose_path_slurm_would_read_as_a_pattern_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        bring([Toy()], Store(tmp_path / "50%done"))


def test_a_name_in_the_machine_file_that_is_no_stage_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"slurm.stages.clasifier: no such stage; did you mean 'classifier'"):
        bring([Toy()], store, QUICK.model_copy(update={"stages": {"clasifier": JobRequest(minutes=600)}}))
    assert not (store.root / "slurm").exists()


def test_a_node_without_a_working_gpu_does_not_compute_on_its_cpu(store: Store) -> None:
    work = Workload.plan([Toy(value=1)], store, Execution(device="auto"), Silent())
    asks = QUICK.model_copy(update={"cpu": JobRequest(cpus=1, minutes=5, gpus=1)})
    Slurm(Machine(slurm=asks)).run(work)
    assert outcomes(work) == {1: "failed"}
    assert "torch sees none that works" in (store.failure(Toy(value=1)) or {})["error"]
    assert not store.has(Toy(value=1))


def test_the_profiles_variables_do_not_win_over_the_machine_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EXPORT": "NONE", "TIMELIMIT": "1", "NO_REQUEUE": "1", "PARTITION": "nowhere"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    asks = JobRequest(partition="main", cpus=1, minutes=5, extra={"comment": "as asked"})
    work = bring([Toy(value=1)], store, QUICK.model_copy(update={"cpu": asks}))
    assert outcomes(work) == {1: "done"}
    assert os.environ["SBATCH_EXPORT"] == "NONE"  # ours to hide, not to change


def test_a_site_that_exports_nothing_gets_what_results_stand_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    line = "unset OMP_NUM_THREADS"  # PYTHONPATH stays: a job finds the toys nowhere else
    script = store.root / "slurm" / "jobs"
    assert outcomes(bring([Toy(value=1)], store, QUICK.model_copy(update={"setup": [line]}))) == {1: "done"}
    text = next(script.glob("*_submission.sh")).read_text(encoding="utf-8")
    assert f"export PYTHONPATH={ROOT}" in text
    assert "export OMP_NUM_THREADS=1" in text


def test_a_refusal_that_passes_is_waited_out(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("sbatch")
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/bash\n[ -e {tmp_path}/once ] && exec {real} "$@"\ntouch {tmp_path}/once\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1\n",
        encoding="utf-8",
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    assert outcomes(bring([Toy(value=2, inputs_=(Toy(value=1),))], store)) == {1: "done", 2: "done"}


def test_one_cell_is_cancelled_without_what_others_need(store: Store, tmp_path: Path) -> None:
    code = "below = Toy(value=9, seconds=6); targets = [Toy(value=v, inputs_=(below,)) for v in (1, 2)]"
    driver = start_driver_of(code, store, tmp_path)
    below = Toy(value=9)
    mine, other = (Toy(value=v, inputs_=(below,)) for v in (1, 2))
    assert until(lambda: store.state(below) == "running", PATIENCE_S)
    assert len(cancel_stages([mine], store, [other])["jobs"]) == 1
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert [store.has(s) for s in (below, mine, other)] == [True, False, True]
    assert "was cancelled" in (store.failure(mine) or {})["error"]


def test_what_was_cancelled_stays_so_when_slurm_has_forgotten_it(store: Store, tmp_path: Path) -> None:
    """The cluster forgets ended jobs after 10 s; the driver looks again only after 15."""
    slow = QUICK.model_copy(update={"settle_s": 15.0})
    stage = Toy(value=1, seconds=60)
    thread = threading.Thread(
        target=lambda: until(lambda: store.state(stage) == "running", PATIENCE_S) and cancel_stages([stage], store)
    )
    thread.start()
    work = bring([stage], store, slow)
    thread.join()
    assert outcomes(work) == {1: "failed"}
    assert len(Ledger(store).jobs()) == 1
