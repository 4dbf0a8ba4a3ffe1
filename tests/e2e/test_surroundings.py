"""What lies in the working folder, how Python is started, and an impatient hand on Ctrl-C change no result."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.matrix.load import load_matrix
from bench.run.machine_file import SlurmSettings
from bench.run.slurm.queue import _python
from tests.conftest import BENCH, ROOT
from tests.e2e.bad_input.matrices import TEXT, write
from tests.reliability.helpers import group_is_gone, until

NAMES = ["random", "json", "queue", "select", "numbers", "socket", "bench", "methods", "reports", "sweeps"]


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return a folder with a matrix, and files and packages whose names are taken; each leaves a mark if imported."""
    write(tmp_path, TEXT)
    for name in NAMES:
        path = tmp_path / (f"{name}/__init__.py" if name in NAMES[-4:] else f"{name}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\nraise RuntimeError({name!r})\n")
    return tmp_path


def start(*args: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BENCH, *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def bench(*args: str, folder: Path = ROOT, **environment: str) -> tuple[int, str]:
    process = start(*args, folder=folder, **environment)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def test_what_lies_in_the_working_folder_is_not_imported(
    crowded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = tmp_path_factory.mktemp("bin") / "bench"  # as an installation makes it
    script.write_text("from bench.cli.main import main\nif __name__ == '__main__':\n    main()\n")
    run = [sys.executable, str(script), "run", "m.yaml", "--jobs", "2", "--quiet", "--wandb", "offline"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=crowded, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((crowded / "bench-runs" / "wandb").glob("offline-run-*"))
    assert not (crowded / "imported").exists()


def test_nor_by_python_m_unless_it_is_called_bench(crowded: Path) -> None:
    shutil.rmtree(crowded / "bench")
    code, said = bench("doctor", "m.yaml", folder=crowded)
    assert "locks: " in said
    assert "baseline" in bench("methods", folder=crowded)[1]
    assert not (crowded / "imported").exists()


def test_a_job_of_slurm_does_not_import_from_the_working_folder(crowded: Path) -> None:
    for settings in (SlurmSettings(), SlurmSettings(python=f"env {shlex.quote(sys.executable)}")):
        command = f"{_python(settings)} -u -m bench.cli methods"  # as submitit puts it together
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sh", "-c", command], cwd=crowded, env=environment, capture_output=True, check=True)
        assert b"baseline" in done.stdout
    assert not (crowded / "imported").exists()


@pytest.mark.parametrize("name", ["methods", "reports", "sweeps"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_foreign_package_with_a_name_of_ours_is_refused_by_its_path(tmp_path: Path, name: str, whole: bool) -> None:
    (tmp_path / name).mkdir()
    if whole:
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    else:
        (tmp_path / name / "mine.py").write_text("")
    installed = os.pathsep.join([str(tmp_path), str(ROOT)]) if whole else str(tmp_path)
    code, said = bench("methods", PYTHONPATH=installed, folder=tmp_path)
    if code == 0:  # a folder without __init__.py hides only what is installed in a way that Python asks last
        assert not whole
        return
    wanted = f"error: {tmp_path / name}: would be taken for the package '{name}' of bench, which is {ROOT / name}; "
    assert (code, said) == (2, wanted + "rename it, or take its folder out of PYTHONPATH\n")
    assert not (tmp_path / "imported").exists()


def test_without_docstrings_and_asserts_keys_and_help_are_the_same(tmp_path: Path) -> None:
    keys = "from bench.matrix.load import load_matrix; print([c.key for c in load_matrix('toy').cells])"
    told = subprocess.run([sys.executable, "-OO", "-c", keys], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == f"{[c.key for c in load_matrix('toy').cells]}\n"
    for verb in (["--help"], ["run", "--help"], ["methods"]):
        assert bench(*verb, PYTHONOPTIMIZE="2") == bench(*verb)
    optimised = [sys.executable, "-OO", *BENCH[1:], "gc", "--help"]
    told = subprocess.run(optimised, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == bench("gc", "--help")[1]
    assert "Remove results that no named matrix or sweep needs." in told.stdout


@pytest.mark.parametrize("moment", ["imports", "first start"])
def test_ctrl_c_twice_is_one_line_and_leaves_no_process(tmp_path: Path, moment: str) -> None:
    write(tmp_path, TEXT)
    store = tmp_path / "store"
    process = start("run", "m.yaml", "--jobs", "2", "--wandb", "off", "--store", str(store), folder=tmp_path)
    try:
        reached = {
            "imports": lambda: b"numpy" in Path(f"/proc/{process.pid}/maps").read_bytes(),
            "first start": lambda: (store / "locks").is_dir(),
        }[moment]
        assert until(reached, 120)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 130, said
        assert [line for line in said.splitlines() if "stages to compute" not in line] == [
            "stopped"
            if moment == "imports"
            else "stopped; finished stages and checkpoints are kept. Go on with: bench run m.yaml (same options)"
        ]
        assert group_is_gone(process.pid, 5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
