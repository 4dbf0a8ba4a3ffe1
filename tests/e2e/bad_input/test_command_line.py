"""Words of the command line, and variables of the environment, that cannot be met."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.bad_input.matrices import TEXT, write
from tests.e2e.driver import Bench, refused

RUN = ["run", "m.yaml", "--wandb", "off"]
MATRICES = "(have: audit, demo, generations, imbalance, labels, paper, redraw, size, toy)"

# `m.yaml` is a matrix that is right, `file` a file, `full` a folder with a file in it
CASES: dict[str, tuple[list[str], str]] = {
    # what there is
    "verb": (["rn", "toy"], "bench: no such command 'rn'; did you mean 'run'? (see `bench --help`)"),
    "no matrix": (["run"], "bench run: missing argument 'MATRIX' (see `bench run --help`)"),
    "no cell": (["explain", "toy"], "bench explain: missing argument 'CELL' (see `bench explain --help`)"),
    "one matrix too many": (["run", "toy", "demo"], "bench run: got unexpected extra argument(s) (demo) (see `bench run"),
    "option": ([*RUN, "--job", "2"], "bench run: no such option: --job (Possible options: --jobs"),
    "option of no verb": (["--bogus"], "bench: no such option: --bogus (see `bench --help`)"),
    "option without a value": ([*RUN, "--set"], "option '--set' requires an argument"),
    "matrix": (["run", "toi"], "matrix 'toi': no such file and no shipped matrix of that name; did you mean 'toy'? (have"),
    "nameless matrix": (["table", ""], "matrix '': is a folder; give a YAML file or one of audit, chestmnist, "),
    "cell": (["explain", "toy", "our@1"], "matrix toy: no cell 'our@1'; did you mean 'ours@1'? (cells: phantom/baseline"),
    "cells": (["explain", "toy", "ours"], "'ours' is in 3 cells: phantom/ours@0/s0, phantom/ours@1/s0, phantom/ours@2/s0;"),
    "any cell": (["explain", "toy", ""], "matrix toy: '' is in 8 cells: phantom/baseline/s0, "),
    "cell of another seed": (["explain", "toy", "ours@1/s7"], "matrix toy: no cell 'ours@1/s7'; did you mean "),
    "sweep": (["sweep", "il_sé"], "sweep 'il_sé': no such file and no shipped sweep of that name; did you mean 'il_se'?"),
    "matrix for a sweep": (["sweep", "toy"], "sweep 'toy': no such file and no shipped sweep of that name (have: cam, il_se)"),
    "column": (["effects", "m.yaml", "--column", "map_tial"], "column 'map_tial': no finished cell has it (nothing is fini"),
    "pretraining": (["pretrain", "difusion"], "pretrain 'difusion': want diffusion or oracle; did you mean 'diffusion'?"),
    "oracle of a matrix": (["pretrain", "oracle", "toy"], "pretrain oracle: takes no matrix"),
    "pretraining of nothing": (["pretrain", "diffusion", "nope"], "matrix 'nope': no such file and no shipped matrix"),
    # numbers and words
    "no jobs": ([*RUN, "--jobs", "0"], "--jobs 0: want 1 or more"),
    "fewer than no jobs": ([*RUN, "--jobs", "-1"], "--jobs -1: want 1 or more"),
    "jobs in words": ([*RUN, "--jobs", "many"], "bench run: --jobs / -j: want a whole number, got 'many' (see"),
    "half a job": ([*RUN, "--jobs", "1.5"], "bench run: --jobs / -j: want a whole number, got '1.5'"),
    "no threads": ([*RUN, "--threads", "0"], "bench run: --threads: want 1 or more, got '0'"),
    "no trials": (["sweep", "cam", "--trials", "0"], "bench sweep: --trials: want 1 or more, got '0'"),
    "device": ([*RUN, "--device", "gpu"], "--device gpu: want auto, cpu, cuda, cuda:0 (1, ...) or mps"),
    "device without a number": ([*RUN, "--device", "cuda:x"], "--device cuda:x: want auto, cpu, cuda, cuda:0 (1, ...) or"),
    "device that is not here": ([*RUN, "--device", "cuda:99"], "--device cuda:99: torch sees "),
    "no device": ([*RUN, "--device", ""], "--device : want auto, cpu, cuda, cuda:0"),
    "W&B": (["run", "m.yaml", "--wandb", "of"], "--wandb of: no such mode; did you mean 'off'? (have: offline, online, off)"),
    "sharing offline": (["run", "m.yaml", "--share-with", "wandb.org"], "--share-with wandb.org: works only with --wandb online, got --wandb offline"),
    "sharing with the cloud": ([*RUN[:2], "--wandb", "online", "--share-with", "api.wandb.ai"], "--share-with api.wandb.ai: is W&B's own cloud"),
    "W&B in capitals": (["run", "m.yaml", "--wandb", "OFF"], "--wandb OFF: no such mode"),
    # --set
    "nothing to set": ([*RUN, "--set", "classifier.steps"], "--set classifier.steps: want key=value, e.g. --set "),
    "set nobody": ([*RUN, "--set", "=3"], "--set =3: want key=value, e.g. --set classifier.steps=10"),
    "set a hole": ([*RUN, "--set", "classifier..steps=3"], "--set classifier..steps=3: want key=value"),
    "set through a word": ([*RUN, "--set", "name.x=1"], "--set name.x=1: nothing to set at 'x': there is 'small', not a"),
    "set beyond a list": ([*RUN, "--set", "methods.7=smote"], "--set methods.7=smote: nothing to set at '7': there is a l"),
    "set before a list": ([*RUN, "--set", "methods.-1=smote"], "--set methods.-1=smote: nothing to set at '-1': there is"),
    "set a word of a list": ([*RUN, "--set", "datasets.x.n_images=9"], "nothing to set at 'x': there is a list of 1; give 0"),
    "set far beyond": ([*RUN, "--set", f"methods.{'9' * 5000}=x"], "nothing to set at '999"),
    "set no YAML": ([*RUN, "--set", "seeds=[1"], "--set seeds=[1: the value is not YAML (value:1: not YAML: expected ','"),
    "set a key twice": ([*RUN, "--set", "split={val: 0.1, val: 0.2}"], "key 'val' is given twice"),
    "set Python": ([*RUN, "--set", "name=!!python/object/apply:os.mkdir [made]"], "the value is not YAML"),
    "set a typing error": ([*RUN, "--set", "clasifier.steps=3"], "m.yaml.clasifier: unknown setting; did you mean 'classif"),
    "set deep": ([*RUN, "--set", "name=" + "[" * 3000], "the value is not YAML (value: nested too deeply"),
    "set nothing": ([*RUN, "--set", "methods="], "m.yaml.methods: want a list, e.g. [a, b], got nothing"),
    "set a yes": ([*RUN, "--set", "classifier.steps=yes"], "m.yaml.classifier.steps: want a number, got true"),
    "set a colour": ([*RUN, "--set", "x\x1b[31m=3"], "m.yaml.x\\x1b[31m: unknown setting"),
    "set of a pretraining": (["pretrain", "diffusion", "--set", "unet.stepz=3"], "unet.stepz: unknown setting; did you mean"),
    # places
    "store that is a file": ([*RUN, "--store", "file"], "--store file: is a file; give a folder"),
    "store below a file": ([*RUN, "--store", "file/below", "--jobs", "1"], "cannot be written: Not a directory; choose anot"),
    "status of a file": (["status", "m.yaml", "--store", "file"], "--store file: is a file; give a folder"),
    "list of a file": (["ls", "--store", "file"], "--store file: is a file; give a folder"),
    "sweep below a file": (["sweep", "cam", "--store", "file/x"], "cannot be written: Not a directory; choose another"),
    "report that is a file": (["report", "m.yaml", "--out", "file"], "--out file: is a file; give a folder"),
    "report below a file": (["report", "m.yaml", "--out", "file/x"], "--out file/x: cannot be written: Not a directory; giv"),
    "pretraining to a file": (["pretrain", "oracle", "--out", "file"], "--out file: is not an empty folder; give a new one"),
    "pretraining to a full folder": (["pretrain", "diffusion", "--out", "full"], "--out full: is not an empty folder"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder that the commands run in."""
    write(tmp_path, TEXT)
    write(tmp_path, "mine", "file")
    (tmp_path / "full").mkdir()
    write(tmp_path / "full", "mine", "file")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_a_faulty_request_is_refused(bench: Bench, folder: Path, case: str) -> None:
    args, said = CASES[case]
    assert said in refused(bench, *args, folder=folder)


@pytest.mark.parametrize("verb", ["run", "table", "status", "report", "effects"])
def test_a_store_of_the_environment_that_is_a_file_is_refused(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("BENCH_STORE", "file")
    assert "file: is a file; give a folder" in refused(bench, verb, "m.yaml", folder=folder)


def test_the_verb_alone_and_the_help_are_no_errors(bench: Bench) -> None:
    assert bench("run", "--help").code == 0
    assert "Usage: " in bench("run", "--help").out
    assert "run" in bench().err + bench().out


def test_a_report_of_nothing_says_so(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = bench("report", "m.yaml", "--store", "store")
    assert (said.code, said.err) == (0, "")
    assert "**baseline**: not run yet" in (folder / "store/reports/small/table.md").read_text(encoding="utf-8")
    said = bench("effects", "m.yaml", "--store", "store")
    assert said.code == 0
    assert "There is nothing to compare yet" in said.out


def test_a_column_that_no_figure_has_is_named_in_the_report(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    chosen = ["--set", "study={x: row, columns: [map_tial]}", "--store", "store"]
    assert bench("report", "m.yaml", *chosen).code == 0
    pages = "".join(p.read_text(encoding="utf-8") for p in (folder / "store/reports/small").glob("*.html"))
    assert "map_tial" in pages
