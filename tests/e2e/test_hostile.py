"""What a first user does wrong, or simply expects: one clear line, nothing half-written, no traceback."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.matrix.load import load_matrix
from bench.plugins import registry
from tests.conftest import ROOT, ToyRun
from tests.e2e.driver import Bench

PHANTOM = "{kind: phantom, n_images: 80, image_px: 32, prevalence_floor: 0.1}"


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of methods as `BENCH_METHODS` would add it."""
    import methods

    folder = tmp_path / "plugins"
    folder.mkdir()
    methods.__path__.append(str(folder))  # in place, as methods/__init__.py does: its spec holds the same list
    _forget()
    yield folder
    methods.__path__.remove(str(folder))
    _forget()


def _forget() -> None:
    registry.methods.cache_clear()
    registry.broken.cache_clear()
    importlib.invalidate_caches()
    for name in [n for n in sys.modules if n.startswith("methods.hostile_")]:
        del sys.modules[name]


def test_a_plugin_that_exits_on_import_stops_nothing(bench: Bench, plugins: Path) -> None:
    (plugins / "hostile_exit.py").write_text("raise SystemExit('bye')", encoding="utf-8")
    said = bench("methods")
    assert (said.code, said.err) == (0, "")
    assert "broken methods.hostile_exit: SystemExit: bye" in said.out


def test_an_unknown_method_names_the_files_that_did_not_import(bench: Bench, plugins: Path) -> None:
    (plugins / "hostile_typo.py").write_text("def (:", encoding="utf-8")
    said = bench("table", "toy", "--set", "methods=[jitter]")
    assert said.code == 2
    assert "no method 'jitter'" in said.err
    assert "did not import: methods.hostile_typo" in said.err


def test_a_plugin_folder_that_is_not_there_is_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_METHODS", "/no/such/folder")
    _forget()
    try:
        said = bench("methods")
    finally:
        monkeypatch.undo()
        _forget()
    assert "broken BENCH_METHODS: no folder /no/such/folder" in said.out


def test_choosing_methods_on_the_command_line_drops_the_settings_of_the_others() -> None:
    matrix = load_matrix("toy", ["methods=[baseline, smote]"])
    assert [c.method.label for c in matrix.cells] == ["baseline", "smote"]


def test_two_data_sets_of_one_name_are_refused_by_what_to_do(bench: Bench) -> None:
    said = bench("table", "toy", "--set", f"datasets=[{PHANTOM}, {PHANTOM.replace('80', '90')}]")
    assert said.code == 2
    assert "datasets 0 and 1 are both called 'phantom'" in said.err


@pytest.mark.parametrize("below_a_file", [False, True])
def test_a_report_that_cannot_be_written_is_one_line(bench: Bench, tmp_path: Path, below_a_file: bool) -> None:
    out = tmp_path / "file"
    out.write_text("mine", encoding="utf-8")
    said = bench("report", "toy", "--store", tmp_path / "store", "--out", out / "x" if below_a_file else out)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_a_sweep_on_a_store_that_cannot_be_written_is_one_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = bench("sweep", "cam", "--trials", 1, "--jobs", 1, "--quiet", "--store", tmp_path / "file" / "below")
    assert said.code == 2
    assert "cannot be written: Not a directory" in said.err
    assert said.err.count("\n") == 1


def test_a_failure_of_many_lines_is_told_in_one(bench: Bench, plugins: Path, tmp_path: Path) -> None:
    code = """
from bench.contract import Method
class Bad(Method):
    name = "hostile"
    def augment(self, ctx):
        raise ValueError("one\\ntwo " + "long " * 40)
        yield
"""
    (plugins / "hostile_bad.py").write_text(code, encoding="utf-8")
    chosen = ["--set", f"datasets=[{PHANTOM}]", "--set", "methods=[hostile]", "--set", "split.min_positives=1"]
    options = [*chosen, "--store", tmp_path / "store"]
    said = bench("run", "toy", *options, "--wandb", "off", "--jobs", 1)
    assert said.code == 1
    lines = said.err.splitlines()
    assert all(line.startswith(("[", "failed: ", "1 of 1 cells", "5 stages", "8 stages")) for line in lines), lines
    assert sum("ValueError: one two long" in line for line in lines) == 2  # when it happens, and at the end
    assert "! hostile: failed: ValueError: one two" in bench("table", "toy", *options).out


def test_a_pretraining_that_fails_says_why_even_when_quiet(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        f"name: m\ndatasets: [{PHANTOM}]\nmethods: [baseline]\nclassifier: {{steps: 1}}\nsplit: {{min_positives: 70}}\n",
        encoding="utf-8",
    )
    said = bench("pretrain", "diffusion", path, "--store", tmp_path / "store", "--quiet")
    assert said.code == 1
    assert "min_positives asks for 70" in said.err


def test_a_pretraining_that_is_stopped_says_how_to_go_on_with_its_matrix(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.run_matrix.run_stages", stopped)
    for matrix in (["toy"], []):
        said = bench("pretrain", "diffusion", *matrix, "--store", tmp_path / "store", "--quiet")
        assert said.code == 130
        assert said.err.endswith(f"Go on with: {' '.join(['bench pretrain diffusion', *matrix])} (same options)\n")


def test_running_a_finished_matrix_imports_no_torch(toy_run: ToyRun) -> None:
    code = f"import sys; sys.argv = ['bench', 'run', 'toy', '--wandb', 'off', '--store', {str(toy_run.store)!r}]\n"
    code += "from bench.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'torch', 'diffusers', 'pandas'} & sys.modules.keys()), file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    reused, imported = told.splitlines()
    assert re.fullmatch(r"nothing to compute, \d+ finished ones reused", reused)
    assert imported == "[]"
