"""The benchmarks' own promises: what breaks a bound ends with exit code 1; the hundred cells are a hundred."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.files import write_json
from bench.matrix.load import load_matrix
from bench.pipeline.stage import walk
from bench.store.store import Store
from benchmarks import common, decode, fusion, memory, neighbours, rerun, training
from benchmarks.common import Figure
from benchmarks.rerun import MATRIX

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("bound", "code"), [(None, 0), (3.0, 0), (2.9, 1)])
def test_a_broken_bound_is_exit_code_one(capsys, bound, code):
    figure = Figure.of("walk", "s", [2.0, 3.0, 9.0], bound)
    assert common.report([figure], as_json=False) == code
    assert ("BROKEN" in capsys.readouterr().out) == bool(code)
    assert common.report([figure], as_json=True, steps=5) == code
    told = json.loads(capsys.readouterr().out)
    assert (told["figures"][0]["value"], told["figures"][0]["low"], told["figures"][0]["high"]) == (3.0, 2.0, 9.0)
    assert told["machine"]["cores"] >= 1
    assert told["steps"] == 5


def test_the_readme_names_the_bounds_that_the_programs_hold():
    said = " ".join((ROOT / "benchmarks/README.md").read_text(encoding="utf-8").split())
    for bound in (
        f"The bound is {rerun.BOUND_S:g} s of wall time for each of `bench run`",
        f"and {rerun.HELP_BOUND_S:g} s for `bench --help`",
        f"The bound is {training.BOUND:g}.",
        f"The bound is {memory.GROWTH_MIB:g} MiB more at ten times the images",
        "The bounds are 2 s of CPU time for 100 cells, 5 s for 1,000 and 40 s for 10,000.",
        f"The bounds are {neighbours.CDIST_BOUND:g} against `cdist` and {neighbours.SKLEARN_BOUND:g} against scikit-learn.",
        f"A bound of {fusion.SPEED_BOUND:g} is on the CPU time of all three together",
        f"one of {fusion.GROWTH_MIB:g} MiB on the growth of each peak",
        "a later epoch takes at most a twentieth of the time of decoding",
    ):
        assert bound in said
    assert decode.SHARE_BOUND == 1 / 20
    assert rerun.CPU_BOUNDS_S == {100: 2.0, 1_000: 5.0, 10_000: 40.0}


def test_the_hundred_cells_are_a_hundred():
    assert len(load_matrix(str(MATRIX)).cells) == 100


def test_linked_seeds_are_finished_cells_with_manifests_of_their_own(tmp_path):
    store = Store(tmp_path)
    cells = load_matrix(str(MATRIX), ["seeds=[0,1,2]"]).cells
    of_seed_0 = walk([t for cell in cells if cell.seed == 0 for t in cell.targets])
    for stage in of_seed_0:
        folder = store.folder(stage)
        (folder / "inside").mkdir(parents=True)
        (folder / "inside/result.txt").write_text(stage.stage_name())
        write_json(folder / "manifest.json", {"stage": stage.stage_name(), "key": stage.key, "seconds": 3.0})
    everything = walk([t for cell in cells for t in cell.targets])
    assert rerun.link_seeds(tmp_path, n_seeds=3, computed=1) == len(everything) - len(of_seed_0) > 0
    for stage in everything:
        manifest = store.manifest(stage)
        assert (manifest["key"], manifest["seconds"]) == (stage.key, 3.0)
        assert (store.folder(stage) / "inside/result.txt").read_text() == stage.stage_name()
    assert rerun.link_seeds(tmp_path, n_seeds=3, computed=1) == 0
