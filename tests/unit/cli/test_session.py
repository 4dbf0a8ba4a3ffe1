"""What all verbs share: where things run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, ToyRun


@pytest.mark.parametrize("threads", [1, 2])
def test_every_library_gets_the_threads_that_are_asked_for(toy_run: ToyRun, threads: int) -> None:
    """A node with more cores must not round differently: the linear algebra of FID runs in numpy and scipy."""
    arguments = ["bench", "run", "toy", "--wandb", "off", "--threads", str(threads), "--store", str(toy_run.store)]
    code = f"import sys, json; sys.argv = {arguments!r}\nfrom bench.cli.main import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nimport numpy, scipy.linalg, threadpoolctl\n"
    code += "print(json.dumps(threadpoolctl.threadpool_info()), file=sys.stderr)"
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    pools = json.loads(told.stderr.splitlines()[-1])
    assert pools
    assert {pool["num_threads"] for pool in pools} == {threads}
