"""The benchmarks' own promises: what breaks a bound ends with exit code 1; the hundred cells are a hundred."""

from __future__ import annotations

import json

import pytest

from bench.matrix.load import load_matrix
from benchmarks import common
from benchmarks.common import Figure
from benchmarks.rerun import MATRIX


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


def test_the_hundred_cells_are_a_hundred():
    assert len(load_matrix(str(MATRIX)).cells) == 100
