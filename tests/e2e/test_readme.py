"""What README.md tells a newcomer to do works: its method is found, passes the conformance suite, and runs in a matrix."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.testing import elsewhere
from bench.testing.methods import METHOD_CHECKS
from tests.e2e.test_failures import installed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The folder with README's example, as `BENCH_METHODS` names it."""
    code = re.search(r"```python\n(.*?class Jitter\(Method\).*?)```", README, re.S).group(1)
    folder = tmp_path_factory.mktemp("methods")
    (folder / "jitter.py").write_text(code, encoding="utf-8")
    return folder


def run(command, plugins, **kwargs):
    env = os.environ | {"BENCH_METHODS": str(plugins)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, **kwargs)


def test_the_example_conforms(plugins, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_METHODS", str(plugins))  # for a process of its own: one that is there has read it before
    monkeypatch.setattr(elsewhere, "_process", functools.cache(elsewhere._process.__wrapped__))
    with installed(plugins):
        method = registry.methods()["jitter"].toy()
        for check in METHOD_CHECKS:
            check(method, tmp_path / check.__name__)
    assert len(METHOD_CHECKS) >= 8


def test_the_example_runs_in_a_matrix(plugins, tmp_path):
    command = [sys.executable, "-m", "bench.cli", "run", "toy", "--json", "--wandb", "off", "--store", str(tmp_path)]
    command += ["--set", "methods=[baseline, jitter@2]", "--set", "settings={}", "--set", "classifier.steps=1"]
    done = run(command, plugins)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert rows["jitter@2"]["state"] == "done"
    assert rows["jitter@2"]["n_synthetic"] == 15  # 3 for each of five tail classes
    assert rows["jitter@2"]["fid_tail"] > 0


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_the_commands_exist():
    shown = run([sys.executable, "-m", "bench.cli", "--help"], ROOT).stdout
    for verb in set(re.findall(r"^bench (\w+)", README, re.M)):
        assert f"  {verb} " in shown, verb
