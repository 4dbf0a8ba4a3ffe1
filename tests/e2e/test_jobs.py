"""`bench logs` and `bench cancel`, on a machine of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.conftest import BENCH, ROOT, ToyRun
from tests.e2e.driver import Bench
from tests.reliability.helpers import group_is_gone, until


def test_logs_of_a_cell_are_those_of_what_ran_last_or_of_all(bench: Bench, toy_run: ToyRun) -> None:
    said = bench("logs", "toy", "ours@1/s0", "--store", toy_run.store)
    assert said.code == 0
    assert said.err.startswith("==> ")
    assert " begins on " in said.out
    assert " computed in " in said.out
    every = bench("logs", "toy", "ours@1/s0", "--all", "--store", toy_run.store)
    assert every.err.count("==> ") > 5
    one = bench("logs", "toy", "ours@1/s0", "--stage", "classifier", "--lines", 1, "--store", toy_run.store)
    assert one.err.count("==> ") == 1
    assert "classifier, done" in one.err
    assert one.out.count("\n") == 1


def test_logs_of_a_failed_cell_show_its_traceback(bench: Bench, tmp_path: Path) -> None:
    chosen = ["--set", "methods=[baseline]", "--set", "split.min_positives=400", "--store", tmp_path / "store"]
    assert bench("run", "toy", *chosen, "--wandb", "off", "--jobs", 2, "--quiet").code == 1
    said = bench("logs", "toy", "baseline", *chosen)
    assert said.code == 0
    assert ", failed)" in said.err
    assert "Traceback" in said.out
    assert "min_positives asks for 400" in said.out


def test_logs_that_are_not_there_are_one_line(bench: Bench, tmp_path: Path, toy_run: ToyRun) -> None:
    for args, line in (
        (["logs", "toy", "ours@1/s0", "--store", tmp_path], "nothing has been logged"),
        (["logs", "toy", "nobody", "--store", tmp_path], "no cell 'nobody'"),
        (["logs", "toy", "ours@1/s0", "--stage", "clasifier", "--store", toy_run.store], "did you mean 'classifier'?"),
    ):
        said = bench(*args)
        assert said.code == 2
        assert line in said.err
        assert said.err.count("\n") == 1


def test_cancel_stops_the_driver_and_its_processes_and_what_is_finished_is_kept(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    # Enough seeds that a slow `cancel` still meets a driver with much left to do.
    chosen = ["toy", "--set", "methods=[baseline, ours@1]", "--set", "seeds=[0, 1, 2, 3]", "--store", str(store)]
    driver = subprocess.Popen(
        [*BENCH, "run", *chosen, "--jobs", "2", "--wandb", "off"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert until(lambda: list(store.glob("classifier/*.work/progress.json")), 120)
    finished = set(store.glob("*/*/manifest.json"))
    try:
        said = bench("cancel", *chosen, "--json")
        assert said.code == 0, said
        assert driver.pid in json.loads(said.out)["processes"]
        assert driver.wait(timeout=30) == 130, driver.stderr and driver.stderr.read()
        assert group_is_gone(driver.pid, 30)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert set(store.glob("*/*/manifest.json")) >= finished
    assert not list(store.glob("*/*.failed.json"))
    again = bench("cancel", *chosen)
    assert again.out.startswith("cancelled 0 SLURM jobs, stopped 0 processes")
