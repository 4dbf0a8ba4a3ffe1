"""The method with a stage of its own in CONTRIBUTING.md works: it keeps the contract, and it runs in a matrix."""

import functools
import json
import re
import sys

import pytest

from bench.matrix.load import load_matrix
from bench.plugins import registry
from bench.testing import other_process as elsewhere
from bench.testing.methods import METHOD_CHECKS
from tests.e2e.test_failures import installed
from tests.e2e.test_readme import ROOT, run

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OVERRIDES = ("methods=[baseline, mean-blend@0.5, mean-blend@0.1]", "settings={}", "classifier.steps=1")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The folder with the page's example, as `BENCH_METHODS` names it."""
    code = re.search(r"```python\n(.*?class MeanBlend\(Method\).*?)```", PAGE, re.S).group(1)
    folder = tmp_path_factory.mktemp("methods")
    (folder / "mean_blend.py").write_text(code, encoding="utf-8")
    return folder


def test_the_example_conforms(plugins, tmp_path, monkeypatch):
    # A child that an earlier test started has read BENCH_METHODS already and would not find the example.
    monkeypatch.setenv("BENCH_METHODS", str(plugins))
    monkeypatch.setattr(elsewhere, "_process", functools.cache(elsewhere._process.__wrapped__))
    with installed(plugins):
        method = registry.methods()["mean-blend"].toy()
        for check in METHOD_CHECKS:
            check(method, tmp_path)


def test_variants_share_the_stage(plugins):
    with installed(plugins):
        cells = load_matrix("toy", OVERRIDES).cells
        stages = [stage for c in cells for stage in c.augmented.inputs() if stage.stage_name() == "classmeans"]
        assert len(stages) == 2
        assert len({stage.key for stage in stages}) == 1
        assert stages[0].size() == stages[0].train.size()


def test_the_example_runs_in_a_matrix(plugins, tmp_path):
    command = [sys.executable, "-m", "bench.cli", "run", "toy", "--json", "--wandb", "off", "--store", str(tmp_path)]
    for override in OVERRIDES:
        command += ["--set", override]
    done = run(command, plugins)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert rows["mean-blend@0.5"]["state"] == rows["mean-blend@0.1"]["state"] == "done"
    assert rows["mean-blend@0.5"]["n_synthetic"] == 15  # 3 for each of five tail classes
    assert len(list(tmp_path.rglob("means.npy"))) == 1


def test_the_walk_counts_its_files():
    walk = PAGE.partition("## A method with a stage of its own")[2].partition("```python")[0]
    assert "five files" in walk
    assert len(re.findall(r"^\d\. ", walk, re.M)) == 5
