"""From the command to the table: the toy matrix run once, then read, explained and run again."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import BENCH, ROOT, ToyRun
from tests.e2e.driver import Bench

METHODS = ["baseline", "duplicate", "smote", "roentgen@3", "ours@0", "ours@1", "ours@2", "sdedit@2"]


def manifests(store: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every finished stage's manifest: both stay when nothing is computed again."""
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in store.glob("*/*/manifest.json")}


def test_run_prints_rows_of_numbers_or_null_on_stdout_and_talks_on_stderr(toy_run: ToyRun) -> None:
    rows = toy_run.rows
    assert [r["method"] for r in rows] == METHODS
    assert {r["state"] for r in rows} == {"done"}
    for row in rows:
        assert all(0 <= row[k] <= 1 for k in ("map_head", "map_tail", "map_all"))
        assert row["seeds"] == [0]
        assert row["map_all_sd"] is None
    assert rows[0]["n_synthetic"] == 0
    assert rows[0]["fid_tail"] is None
    assert all(r["n_synthetic"] == 15 and r["fid_tail"] > 0 for r in rows[1:])
    assert "stages to compute, 0 finished ones reused, 2 at once" in toy_run.stderr
    assert "Traceback" not in toy_run.stderr


def test_steps_of_ours_share_everything_up_to_the_fused_latents(toy_run: ToyRun) -> None:
    found = [p.parent.parent.name for p in toy_run.store.glob("*/*/manifest.json")]
    once = {"dataset-phantom", "split", "train", "latents", "codec", "saliency", "pairs", "fused", "realfeatures"}
    assert {name: found.count(name) for name in once} == dict.fromkeys(once, 1)
    assert found.count("classifier") == found.count("scores") == found.count("fidelity") == len(METHODS)


def test_nothing_of_a_work_in_progress_is_left(toy_run: ToyRun) -> None:
    assert list(toy_run.store.glob("*/*.work")) == []
    assert list(toy_run.store.glob("*/*.failed.json")) == []


def test_table_repeats_what_run_printed(bench: Bench, toy_run: ToyRun) -> None:
    said = bench("table", "toy", "--store", toy_run.store, "--json")
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out) == toy_run.rows
    said = bench("table", "toy", "--store", toy_run.store)
    assert said.err == ""
    assert all(name in said.out for name in METHODS)
    assert "> One seed cannot rank these rows" in said.out
    assert said.out.splitlines()[-1] == f"notes: bench table toy --notes --store {toy_run.store}"
    noted = bench("table", "toy", "--notes", "--store", toy_run.store).out
    assert noted.partition("> ")[0] == said.out.partition("> ")[0]
    assert "Chosen where the paper is silent" in noted
    assert "notes: " not in noted


def test_further_figures_are_printed_on_request(bench: Bench, toy_run: ToyRun) -> None:
    asked = ["--metrics", "auroc", "--metrics", "cam_pointing", "--store", toy_run.store]
    rows = {row["method"]: row for row in json.loads(bench("table", "toy", *asked, "--json").out)}
    assert all(0 <= row[f"auroc_{group}"] <= 1 for row in rows.values() for group in ("head", "tail", "all"))
    assert (rows["baseline"]["cam_pointing"], 0 <= rows["ours@1"]["cam_pointing"] <= 1) == (None, True)
    said = bench("table", "toy", *asked).out
    assert f"{rows['ours@1']['auroc_tail']:.3f}" in said
    wrong = bench("table", "toy", "--metrics", "aurok", "--store", toy_run.store)
    assert (wrong.code, wrong.out) == (2, "")
    assert "column 'aurok': no finished cell has it; did you mean 'auroc_all'?" in wrong.err


def test_status_ls_and_methods_are_json_on_request(bench: Bench, toy_run: ToyRun) -> None:
    rows = json.loads(bench("status", "toy", "--store", toy_run.store, "--json").out)
    assert [(r["cell"], r["state"]) for r in rows] == [(f"phantom/{m}/s0", "done") for m in METHODS]
    assert all(r["done"] == r["stages"] for r in rows)
    listed = json.loads(bench("ls", "--store", toy_run.store, "--json").out)
    assert len(listed) == len(manifests(toy_run.store))
    found = json.loads(bench("methods", "--json").out)
    assert {"baseline", "duplicate", "smote", "roentgen", "ours"} <= found["methods"].keys()
    assert found["broken"] == {}
    for verb in (["status", "toy"], ["ls"], ["explain", "toy", "ours@1"]):
        said = bench(*verb, "--store", toy_run.store)
        assert (said.code, said.err) == (0, "")
        assert said.out


def test_explain_says_that_all_is_reused_and_what_a_change_would_run(bench: Bench, toy_run: ToyRun) -> None:
    options = ["--store", toy_run.store, "--json"]
    rows = json.loads(bench("explain", "toy", "ours@1", *options).out)
    assert {r["action"] for r in rows} == {"reuse"}
    changed = json.loads(bench("explain", "toy", "ours@1", "--set", "classifier.steps=5", *options).out)
    by_stage = {r["stage"]: r for r in changed}
    assert {s for s, r in by_stage.items() if r["action"] == "run"} == {"classifier", "scores"}
    assert by_stage["classifier"]["why"] == "nearest finished one differs in settings.steps: 4 → 5"


def test_running_again_computes_nothing_and_prints_the_same(bench: Bench, toy_run: ToyRun) -> None:
    before = manifests(toy_run.store)
    said = bench("run", "toy", "--store", toy_run.store, "--json", "--jobs", 2, "--wandb", "off")
    assert said.code == 0
    assert json.loads(said.out) == toy_run.rows
    assert "nothing to compute" in said.err
    assert manifests(toy_run.store) == before


def test_the_report_is_written(bench: Bench, toy_run: ToyRun, tmp_path: Path) -> None:
    said = bench("report", "toy", "--store", toy_run.store, "--out", tmp_path / "report")
    assert said.code == 0
    paths = [Path(line) for line in said.out.splitlines()]
    assert paths
    assert all(p.is_file() and p.stat().st_size > 0 for p in paths)
    assert ".html" in {p.suffix for p in paths}


def test_every_cell_has_its_record(toy_run: ToyRun) -> None:
    records = [json.loads(p.read_text(encoding="utf-8")) for p in toy_run.store.glob("cells/toy/*/record.json")]
    assert {r["cell"] for r in records} >= {f"phantom/{m}/s0" for m in METHODS}


def test_help_is_quick_and_complete() -> None:
    code = "import sys; sys.argv = ['bench', '--help']\nfrom bench.cli.main import main\ntry:\n    main()\n"
    code += (
        "except SystemExit:\n    print(sorted({'torch', 'pandas', 'pydantic', 'rich.progress'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(verb in told for verb in ("run", "table", "status", "explain", "ls", "report", "sweep", "methods"))
    assert told.splitlines()[-1] == "[]"  # nothing heavy was imported


def test_reading_verbs_do_not_import_torch(toy_run: ToyRun) -> None:
    code = f"import sys; sys.argv = ['bench', 'table', 'toy', '--json', '--store', {str(toy_run.store)!r}]\n"
    code += "from bench.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'torch', 'diffusers', 'sklearn', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    assert told == "[]\n"


def test_a_training_time_of_nothing_is_refused_before_torch_is_loaded() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['bench', 'pretrain', 'diffusion', '--minutes', '0']\n"
    code += "from bench.cli.main import main\nmain()"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert told.stderr.startswith("error: --minutes 0: want more than 0 and less than 525,600")


def test_the_installed_command_is_there() -> None:
    script = Path(BENCH[0]).parent / "bench"
    if not script.exists():
        pytest.skip("the package is not installed as a command here")
    told = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    assert told == f"longtail-bench {metadata.version('longtail-bench')}\n"
    assert subprocess.run([script, "methods", "--json"], capture_output=True, text=True, check=True).stdout.startswith(
        "{"
    )
