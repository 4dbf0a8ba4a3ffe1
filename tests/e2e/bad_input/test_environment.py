"""A machine that refuses: no room, no permission, no home, no letters, nobody who listens, no W&B."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.cli.main import main
from tests.conftest import BENCH, ROOT
from tests.e2e.bad_input.matrices import TEXT, write

RUN = ["run", "m.yaml", "--jobs", "1", "--quiet", "--wandb", "off"]


@dataclass(frozen=True)
class Place:
    """A folder with a matrix and a store in which it is finished."""

    folder: Path

    def bench(self, *args: str, before: str = "", after: str = "", **environment: str | None) -> tuple[int, str, str]:
        """Run `before && bench ARGS after` in a shell in the folder; a variable that is None is taken away."""
        variables = {k: v for k, v in (os.environ | {"PYTHONPATH": str(ROOT)} | environment).items() if v is not None}
        script = f'{before}"$@" {after}'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script, "bash", *BENCH, *args],
            cwd=self.folder, env=variables, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def on_a_disk(self, *args: str, size: str, then: str = "") -> tuple[int, str, str]:
        """Run a command while `disk` is a file system of its own, of a size and prepared by `then`; it goes with it."""
        unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        (self.folder / "disk").mkdir(exist_ok=True)
        mount = f"mount -t tmpfs -o size={size} tmpfs disk"
        probe = subprocess.run([*unshare, "sh", "-c", mount], cwd=self.folder, capture_output=True, check=False)
        if probe.returncode:
            pytest.skip("this user may not mount a file system of his own")
        script = f'{mount} && {then or "true"} && exec "$@"'
        done = subprocess.run(
            [*unshare, "bash", "-c", script, "bash", *BENCH, *args], cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a place whose `store` holds the finished matrix."""
    place = Place(tmp_path_factory.mktemp("finished"))
    write(place.folder, TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        patch.setattr(sys, "argv", ["bench", *RUN, "--store", "store"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place where nothing was run."""
    write(tmp_path, TEXT)
    return Place(tmp_path)


READ_ONLY = "mount -o remount,ro disk"
FULL = "{ head -c 1m /dev/zero > disk/filler 2>/dev/null || true; }"


@pytest.mark.parametrize("store", ["disk", "disk/store"])
def test_a_store_that_may_not_be_written_is_refused(place: Place, store: str) -> None:
    code, out, said = place.on_a_disk(*RUN, "--store", store, size="64k", then=READ_ONLY)
    assert (code, out) == (2, "")
    path = place.folder / store
    assert said == f"error: store {path}: cannot be written: Read-only file system; choose another with --store\n"


def test_a_report_that_may_not_be_written_is_refused(finished: Place) -> None:
    code, out, said = finished.on_a_disk(
        "report", "m.yaml", "--store", "store", "--out", "disk/report", size="64k", then=READ_ONLY
    )
    assert (code, out) == (2, "")
    assert said == "error: --out disk/report: cannot be written: Read-only file system; give another folder\n"


def test_a_report_on_a_full_disk_is_one_line(finished: Place) -> None:
    code, _, said = finished.on_a_disk(
        "report", "m.yaml", "--store", "store", "--out", "disk/report", size="64k", then=FULL
    )
    assert code == 2
    assert said == "error: --out disk/report: cannot be written: No space left on device; give another folder\n"


@pytest.mark.parametrize("size", ["60k", "200k"])  # images do not fit; the classifier does not
def test_a_disk_that_fills_fails_the_cell_in_one_line(place: Place, size: str) -> None:
    code, _, said = place.on_a_disk(*RUN, "--store", "disk/store", size=size)
    assert code == 1, said  # not killed by the kernel, as a process is that writes to a map without room
    # what else the cell computes may leave no room for its record; that is one line of its own
    lines = [line for line in said.splitlines() if not line.startswith("warning: the record of phantom/baseline/s0 ")]
    assert lines[0].startswith("failed: phantom/baseline/s0: ")
    assert "disk full" in lines[0] or "No space left on device" in lines[0]
    assert lines[1].startswith("1 of 1 cells failed")
    assert len(lines) == 2


def test_a_finished_store_may_be_read_only(finished: Place) -> None:
    code, out, _ = finished.on_a_disk(
        *RUN, "--store", "disk/store", size="200m", then=f"cp -r store disk/store && {READ_ONLY}"
    )
    assert code == 0
    assert "baseline" in out


ASCII = {"PYTHONIOENCODING": "ascii"}
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("verb", "letters"),
    [(["table"], ASCII), (["table"], OLD), (["status"], ASCII), (["explain", "baseline"], ASCII), (["effects"], ASCII)],
)
def test_a_terminal_without_arrows_and_dashes_is_enough(
    finished: Place, verb: list[str], letters: dict[str, str]
) -> None:
    code, out, said = finished.bench(verb[0], "m.yaml", *verb[1:], "--store", "store", **letters)
    assert (code, said) == (0, "")
    assert out.isascii()
    assert "baseline" in out or "nothing to compare" in out


def test_a_message_of_other_letters_is_still_said(place: Place) -> None:
    code, _, said = place.bench("table", "gemälde", PYTHONIOENCODING="ascii")
    assert code == 2
    assert said.startswith("error: matrix 'gem")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("verb", "columns"), [("table", "1"), ("table", "20"), ("status", "20"), ("ls", "20")])
def test_a_narrow_terminal_is_enough(finished: Place, verb: str, columns: str) -> None:
    args = [verb] if verb == "ls" else [verb, "m.yaml"]
    code, out, said = finished.bench(*args, "--store", "store", COLUMNS=columns)
    assert (code, said) == (0, "")
    assert out


@pytest.mark.parametrize("verb", [["table", "m.yaml"], ["ls", "--json"], ["methods"], ["--help"]])
def test_a_reader_who_leaves_early_is_no_error(finished: Place, verb: list[str]) -> None:
    store = ["--store", "store"] if verb[0] in ("table", "ls") else []
    for reader in ("head -n 1", "true"):
        assert finished.bench(*verb, *store, after=f"| {reader}")[2] == ""


def test_streams_that_are_closed_are_no_error(finished: Place) -> None:
    assert finished.bench("table", "m.yaml", "--store", "store", after=">&-") == (0, "", "")
    code, out, _ = finished.bench(*RUN, "--store", "store", after="2>&-")
    assert code == 0
    assert "baseline" in out
    assert finished.bench("table", "nowhere", after=">&- 2>&-") == (2, "", "")


def test_an_output_without_room_is_one_line(finished: Place) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code, _, said = finished.bench("table", "m.yaml", "--store", "store", after="> /dev/full")
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "No space left on device" in said


def test_no_home_and_no_place_for_temporary_files_are_no_error(place: Place) -> None:
    code, out, said = place.bench(*RUN, "--store", "store", HOME="/proc/nowhere", TMPDIR="/proc/nowhere")
    assert code == 0
    assert "Traceback" not in said  # matplotlib says that it would like a folder for its fonts
    assert "baseline" in out
    assert place.bench("status", "m.yaml", "--store", "store", HOME=None)[::2] == (0, "")


def test_a_folder_that_is_gone_is_one_line(place: Place) -> None:
    (place.folder / "gone").mkdir()
    code, _, said = place.bench("table", "toy", before="cd gone && rmdir ../gone && ")
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def _warned(said: str, mode: str) -> str:
    assert said.count("\n") == 1, said
    begin = f"warning: W&B ({mode}) lacks 1 of 1 runs (phantom/baseline/s0): "
    assert said.startswith(begin)
    assert re.search(r"; the local records are complete, and `bench upload m\.yaml .*` sends what is missing\n$", said)
    return said[len(begin) :]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_goes_on_without_wandb(finished: Place, mode: str) -> None:
    stub = finished.folder / "stub" / "wandb"
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "__init__.py").write_text("raise ImportError('none here', name='wandb')\n", encoding="utf-8")
    run = ["run", "m.yaml", "--quiet", "--store", "store", "--wandb", mode]
    code, out, said = finished.bench(*run, PYTHONPATH=os.pathsep.join([str(stub.parent), str(ROOT)]))
    assert code == 0
    assert "baseline" in out
    assert _warned(said, mode).startswith("wandb is not installed;")


def test_a_run_goes_on_without_a_login(finished: Place) -> None:
    run = ["run", "m.yaml", "--quiet", "--store", "store", "--wandb", "online"]
    home = finished.folder / "home"
    home.mkdir(exist_ok=True)
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": None, "NETRC": str(home / "none")}
    code, out, said = finished.bench(*run, HOME=str(home), **nowhere)
    assert code == 0
    assert "baseline" in out
    assert "API key" in _warned(said, "online")


def test_a_plugin_folder_that_is_missing_stops_only_what_needs_it(finished: Place) -> None:
    code, _, said = finished.bench("table", "m.yaml", "--store", "store", BENCH_METHODS="/no/such/folder")
    assert (code, said) == (0, "")
    code, _, said = finished.bench("table", "m.yaml", "--set", "methods=[mine]", BENCH_METHODS="/no/such/folder")
    assert code == 2
    assert said.startswith("error: m.yaml.methods.0: no method 'mine'")
    assert said.count("\n") == 1
    assert "BENCH_METHODS" in said


def test_a_store_that_one_may_not_read_is_one_line(finished: Place, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished.folder / "store", store)
    store.chmod(0)
    try:
        if os.access(store, os.R_OK):
            pytest.skip("this user may read every folder")
        code, _, said = finished.bench("run", "m.yaml", "--store", str(store))
        assert code == 2
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    finally:
        store.chmod(0o700)
