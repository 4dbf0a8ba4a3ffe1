"""The SLURM of the tests behaves as a cluster does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster, until


def test_a_job_runs_and_its_steps_too(cluster: Cluster) -> None:
    job = cluster.sbatch("srun echo from a step; scontrol ping")
    assert cluster.wait_idle(20)
    assert "from a step" in cluster.output(job)
    assert "is UP" in cluster.output(job)  # a job finds its cluster without help
    assert cluster.job(job)["JobState"] == "COMPLETED"


def test_four_tasks_of_an_array_run_beside_each_other(cluster: Cluster, tmp_path: Path) -> None:
    meet = f"touch {tmp_path}/$SLURM_ARRAY_TASK_ID; while [ $(ls {tmp_path} | wc -l) -lt 4 ]; do sleep 0.05; done; echo met"
    job = cluster.sbatch(meet, "--array", "0-3")
    assert cluster.wait_idle(20)
    assert [cluster.output(f"{job}_{task}") for task in range(4)] == ["met\n"] * 4


def test_high_preempts_low_which_is_told_requeued_and_run_again(cluster: Cluster, tmp_path: Path) -> None:
    script = f"""
        trap 'echo told; scontrol requeue $SLURM_JOB_ID; sleep 60' USR2
        echo attempt $SLURM_RESTART_COUNT
        [ -e {tmp_path}/second ] && exit 0
        touch {tmp_path}/second
        while true; do sleep 0.05; done"""
    low = cluster.sbatch(script, "--partition", "low", "--signal", "B:USR2@60", "--exclusive", "--requeue")
    assert until((tmp_path / "second").exists)
    high = cluster.sbatch("echo first", "--partition", "high", "--exclusive")
    assert cluster.wait_idle(60)
    assert cluster.output(high) == "first\n"
    said = [line for line in cluster.output(low).splitlines() if line.startswith(("attempt", "told"))]
    assert said == ["attempt", "told", "attempt 1"]


def test_a_cancelled_job_ends(cluster: Cluster) -> None:
    job = cluster.sbatch("echo begun; sleep 60")
    assert until(lambda: cluster.output(job))
    cluster.run("scancel", job)
    assert cluster.wait_idle(10)
    assert cluster.job(job)["JobState"] == "CANCELLED"


def test_a_job_sees_the_gpus_that_it_asked_for(cluster: Cluster) -> None:
    job = cluster.sbatch("echo $CUDA_VISIBLE_DEVICES", "--gpus-per-node", "2")
    assert cluster.wait_idle(20)
    assert cluster.output(job) == "0,1\n"


def test_two_clusters_do_not_meet_and_one_ends_with_its_starter_job_and_all(cluster: Cluster, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tests.slurm.cluster import Cluster
other = Cluster.start(Path({str(tmp_path)!r}))
other.sbatch("exec sleep 4321")
print(other.squeue(), flush=True)
time.sleep(60)"""
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert starter.stdout
    assert b"PENDING" in (line := starter.stdout.readline()) or b"RUNNING" in line
    assert cluster.squeue() == []
    assert until(lambda: any("4321" in line for line in _commands()))
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    assert until(lambda: not [line for line in _commands() if str(tmp_path) in line or "sleep 4321" in line])
    assert "is UP" in cluster.run("scontrol", "ping")


def _commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes() + b" " + (path / "environ").read_bytes()
        except OSError:  # ended while we looked
            continue
        if int(path.name) != os.getpid():
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found
