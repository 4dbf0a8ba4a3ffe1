"""A failing cell is data: recorded with its traceback, shown with its reason, and no other cell's business."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.matrix.load import load_matrix
from bench.plugins import registry
from bench.results.cells import read_matrix
from bench.store.store import Store
from reports.run_facts import holes
from tests.conftest import BENCH, ROOT
from tests.e2e.driver import Bench, Said

ZOO = '''
"""One method for each way of going wrong."""
import ctypes, os, sys
from typing import Literal
import numpy as np
from bench.contract import AugmentedBatch, Method, Stage

class Odd(BaseException): pass
class OutOfMemoryError(RuntimeError): pass

class Judge(Stage):
    fails: bool = True
    def compute(self, work):
        if self.fails:
            raise RuntimeError("no judgement")
        (work.out / "x").touch()
    def open(self, folder):
        return {"judged": 1}

def copies(ctx, i):
    row = int(ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])))
    return ctx.train.images[[row]], ctx.train.labels[[row]], np.array([[row]])

class Zoo(Method):
    name = "zoo"
    at = "how"
    how: str = "fine"

    def inputs(self, task):
        if self.how == "plan":
            raise KeyError("no such input")
        return {}

    def diagnostics(self, task):
        if self.how == "planned_diagnostics":
            raise KeyError("no such diagnostics")
        return Judge() if self.how == "diagnostics" else None

    def skip(self, train):
        return 7 if self.how == "skip" else None

    def augment(self, ctx):
        if self.how == "few":
            return
        if self.how == "raises":
            raise ValueError("two\\nlines [bold]")
        if self.how == "memory":
            raise MemoryError("no room")
        if self.how == "device_memory":
            raise OutOfMemoryError("no room on the device")
        if self.how == "exit":
            sys.exit("bye")
        if self.how == "odd":
            raise Odd("never seen")
        if self.how == "os_exit":
            os._exit(0)
        if self.how == "segfault":
            ctypes.string_at(0)
        for i in range(len(ctx.samples)):
            images, labels, parents = copies(ctx, i)
            if self.how == "shape":
                images = images[:, :-1]
            if self.how == "dtype":
                images = images.astype(np.float64) / 255
            if self.how == "nan":
                images = np.full(images.shape, np.nan, np.float32)
            if self.how == "labels":
                labels = labels[:, :-1]
            if self.how == "label_range":
                labels = labels + 1
            if self.how == "rows":
                parents = parents + len(ctx.train)
            if self.how == "lists":
                labels = labels.tolist()
            extras = {"a/b": labels} if self.how == "extras" else {}
            extras |= {"mask": labels[:, : 1 + i % 2]} if self.how == "changing" else {}
            yield AugmentedBatch(images, labels, parents, extras) if self.how != "tuple" else (images, labels)
        while self.how == "many":
            yield AugmentedBatch(images, labels, parents)
'''
REASONS = {
    "raises": "ValueError: two lines [bold]",
    "memory": "MemoryError: no room",
    "device_memory": "OutOfMemoryError: no room on the device",
    "exit": "StageError: it raised SystemExit: bye",
    "odd": "StageError: it raised Odd: never seen",
    "few": "(counts equal the plan): made 0, the plan asks for",
    "many": "(counts equal the plan): made ",
    "shape": "(images uint8 [b, H, W]): in the batch that begins with sample 0: got uint8 [1, 31, 32]",
    "dtype": "(images uint8 [b, H, W]): in the batch that begins with sample 0: got float64",
    "nan": "(images uint8 [b, H, W]): in the batch that begins with sample 0: got float32",
    "labels": "(labels float32 [b, C]): in the batch",
    "label_range": "(labels in [0, 1] or NaN): in the batch",
    "rows": "(parents are train rows or -1): in the batch",
    "lists": "(everything is a numpy array): in the batch that begins with sample 0: labels is a list",
    "tuple": "(`augment` yields AugmentedBatch): in the batch that begins with sample 0: got tuple",
    "extras": "(names of extras are letters, digits and _): in the batch",
    "changing": "(every batch has the same extras): in the batch that begins with sample 1",
    "skip": "(`skip` returns a reason in words or None): got 7",
    "plan": "method 'zoo' broke while its stages were planned: KeyError: 'no such input'",
}
DEADLY = {
    "segfault": "StageError: its process was killed by SIGSEGV 2 times",
    "os_exit": "StageError: its process ended with code 0",
}
IN_PROCESSES = ("raises", "memory", "exit", "odd", "few", "plan")  # the contract is the same for every executor
STICKY = set(REASONS) - {"memory", "device_memory", "plan"}
MATRIX: dict[str, Any] = {
    "name": "zoo",
    "datasets": [{"kind": "phantom", "n_images": 80, "image_px": 32, "prevalence_floor": 0.1}],
    "split": {"min_positives": 1},
    "augment": {"per_class": 1},
    "classifier": {"steps": 1, "architecture": "resnet18", "n_validations": 1, "batch_size": 8},
    "scores": {"n_bootstrap": 2},
}


@dataclass(frozen=True)
class Ran:
    """A run of every failing row beside two that work."""

    jobs: int
    folder: Path
    code: int
    err: str
    rows: dict[str, dict[str, Any]]

    @property
    def place(self) -> Store:
        """The store that it filled."""
        return Store(self.folder / "store")

    @property
    def reasons(self) -> dict[str, str]:
        """Row → what its failure has to say."""
        chosen = REASONS if self.jobs == 1 else {how: REASONS[how] for how in IN_PROCESSES} | DEADLY
        return {f"zoo@{how}": text for how, text in chosen.items()} | {
            "no_package": "PluginError: methods.no_package cannot be used: ModuleNotFoundError: No module named 'nowhere'",
            "gone@3": "PluginError: methods.syntax cannot be used: SyntaxError:",
        }


@pytest.fixture(scope="module", params=[1, 2])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    jobs, folder = request.param, tmp_path_factory.mktemp("zoo")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "zoo.py").write_text(ZOO, encoding="utf-8")
    (folder / "plugins" / "no_package.py").write_text("import nowhere\n", encoding="utf-8")
    (folder / "plugins" / "syntax.py").write_text('class Gone(:\n    name = "gone"\n', encoding="utf-8")
    rows = [f"zoo@{how}" for how in (REASONS if jobs == 1 else [*IN_PROCESSES, *DEADLY])]
    rows = ["baseline", *rows, "no_package", "gone@3", "zoo@diagnostics"]
    chosen = MATRIX | {"methods": rows, "settings": {"no_package": {"any": {"thing": [1, None]}}}}
    (folder / "zoo.yaml").write_text(yaml.safe_dump(chosen), encoding="utf-8")
    command = [*BENCH, "run", folder / "zoo.yaml", "--store", folder / "store", "--jobs", jobs]
    environment = os.environ | {"BENCH_METHODS": str(folder / "plugins")}  # a process of its own: workers inherit it
    said = subprocess.run(
        [str(part) for part in [*command, "--device", "cpu", "--wandb", "off", "--json"]],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert said.stdout, said.stderr
    return Ran(jobs, folder, said.returncode, said.stderr, {r["method"]: r for r in json.loads(said.stdout)})


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let this process find the methods in a folder, as `BENCH_METHODS` would."""
    import methods

    def forget() -> None:
        registry.methods.cache_clear()
        registry.broken.cache_clear()
        importlib.invalidate_caches()
        for name in [n for n in sys.modules if n.startswith("methods.") and (folder / f"{n[8:]}.py").exists()]:
            del sys.modules[name]

    methods.__path__.append(str(folder))  # in place, as methods/__init__.py does: its spec holds the same list
    forget()
    try:
        yield
    finally:
        methods.__path__.remove(str(folder))
        forget()


@pytest.fixture
def ask(ran: Ran, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Said]]:
    """Return a function that calls `bench VERB zoo.yaml ARGS` here."""
    monkeypatch.setenv("COLUMNS", "400")
    with installed(ran.folder / "plugins"):
        yield lambda verb, *args: bench(verb, ran.folder / "zoo.yaml", *args, "--store", ran.folder / "store")


def test_every_other_cell_finishes_and_the_exit_code_is_1(ran: Ran) -> None:
    assert ran.code == 1
    assert (ran.rows["baseline"]["state"], ran.rows["baseline"]["reason"]) == ("done", None)
    assert ran.rows["baseline"]["map_all"] is not None
    n_bad = len(ran.reasons) + 1
    assert f"{n_bad} of {n_bad + 1} cells failed" in ran.err
    assert "Traceback" not in ran.err


def test_a_hole_in_the_table_has_its_reason(ran: Ran, ask: Callable[..., Said]) -> None:
    for row, reason in ran.reasons.items():
        found = ran.rows[row]
        assert (found["state"], found["map_all"]) == ("failed", None), row
        assert reason in " ".join(found["reason"].split()), row
    text = ask("table").out
    assert "! zoo@raises: failed: ValueError: two lines [bold]" in text
    assert "! gone@3: failed: PluginError: methods.syntax" in text


def test_status_gives_one_line_for_each_and_the_store_keeps_the_traceback(ran: Ran, ask: Callable[..., Said]) -> None:
    rows = {r["cell"].split("/")[1]: r for r in json.loads(ask("status", "--json").out)}
    for row, reason in ran.reasons.items():
        found = rows[row]
        assert found["state"] == "failed"
        assert reason in found["note"]
        assert "\n" not in found["note"]
        [failed] = found["failed"]
        how = row.removeprefix("zoo@")
        assert failed["stage"] == "augmented"
        assert failed["sticky"] == (how in STICKY), row
        record = json.loads((ran.place.root / "augmented" / f"{failed['key']}.failed.json").read_text())
        assert "Traceback (most recent call last)" in record["traceback"] or how in DEADLY, row
    assert rows["baseline"]["state"] == "done"


def test_explain_shows_the_plugins_own_traceback(ask: Callable[..., Said]) -> None:
    text = ask("explain", "zoo@exit").out
    assert "SystemExit: bye" in text
    assert 'sys.exit("bye")' in text
    text = ask("explain", "gone@3").out
    assert "class Gone(:" in text
    assert "SyntaxError" in text
    assert 'raise KeyError("no such input")' in ask("explain", "zoo@plan/s0").out


def test_diagnostics_that_fail_leave_the_figures_in_the_table(ran: Ran, ask: Callable[..., Said]) -> None:
    status = {r["cell"].split("/")[1]: r for r in json.loads(ask("status", "--json").out)}
    found = ran.rows["zoo@diagnostics"]
    assert found["map_all"] is not None
    assert found["fid_metric"] is not None
    assert found["state"] == status["zoo@diagnostics"]["state"] == "failed"
    assert found["reason"] == "diagnostics failed: RuntimeError: no judgement"
    assert "! zoo@diagnostics: diagnostics failed: RuntimeError: no judgement" in ask("table").out


def test_the_report_lists_every_hole_with_its_reason(ran: Ran) -> None:
    with installed(ran.folder / "plugins"):
        matrix = load_matrix(str(ran.folder / "zoo.yaml"))
        listed = {cell.split("/")[1]: (state, why) for cell, state, why in holes(read_matrix(matrix, ran.place))}
    expected = ran.reasons | {"zoo@diagnostics": "diagnostics failed: RuntimeError: no judgement"}
    assert listed.keys() == expected.keys()
    for row, (state, why) in listed.items():
        assert (state, expected[row] in why) == ("failed", True), why


# --- in this process


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of methods as `BENCH_METHODS` would add it."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    with installed(folder):
        yield folder


def test_a_plugin_that_was_mended_is_run_without_another_word(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "failing_import.py"
    plugin.write_text("import nowhere\n" + ZOO, encoding="utf-8")
    request = one_row(tmp_path, "zoo@fine")
    run = [*request, "--jobs", 1, "--device", "cpu", "--wandb", "off", "--quiet", "--json"]
    with installed(tmp_path):
        said = bench("run", *run)
    assert said.code == 1
    assert "failing_import cannot be used: ModuleNotFoundError" in json.loads(said.out)[0]["reason"]
    plugin.write_text(ZOO, encoding="utf-8")
    with installed(tmp_path):
        said = bench("run", *run)
    assert said.code == 0
    assert json.loads(said.out)[0]["state"] == "done"


def one_row(folder: Path, row: str) -> list[object]:
    path = folder / "zoo.yaml"
    path.write_text(yaml.safe_dump(MATRIX | {"methods": [row]}), encoding="utf-8")
    return [path, "--store", folder / "store"]


def test_a_failure_stays_until_it_is_to_be_tried_again(bench: Bench, plugins: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    code = f"""
import pathlib
from bench.contract import AugmentedBatch, Method
class Failing(Method):
    name = "failing"
    def augment(self, ctx):
        if pathlib.Path({str(broken)!r}).exists():
            raise SystemExit(4)
        for i in ctx.batches(1):
            rows = ctx.train.rows_with(ctx.samples[i[0]])[:1]
            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], rows[:, None])
"""
    (plugins / "failing_once.py").write_text(code, encoding="utf-8")
    request = one_row(tmp_path, "failing")
    run = [*request, "--jobs", 1, "--device", "cpu", "--wandb", "off", "--quiet"]
    assert bench("run", *run).code == 1
    stage = load_matrix(str(request[0])).cells[0].augmented
    assert (Store(tmp_path / "store").failure(stage) or {})["attempt"] == 1
    broken.unlink()
    said = bench("run", *run)
    assert said.code == 1
    assert "SystemExit: 4" in said.err
    assert (Store(tmp_path / "store").failure(stage) or {})["attempt"] == 1  # it was not even tried
    assert bench("run", *run, "--retry-failed").code == 0
    assert json.loads(bench("status", *request, "--json").out)[0]["state"] == "done"


def test_what_the_user_interrupts_has_not_failed(bench: Bench, plugins: Path, tmp_path: Path) -> None:
    code = """
from bench.contract import Method
class Stopped(Method):
    name = "failing"
    def augment(self, ctx):
        raise KeyboardInterrupt
        yield
"""
    (plugins / "failing_stop.py").write_text(code, encoding="utf-8")
    request = one_row(tmp_path, "failing")
    assert bench("run", *request, "--jobs", 1, "--device", "cpu", "--wandb", "off", "--quiet").code == 130
    [row] = json.loads(bench("status", *request, "--json").out)
    assert (row["state"], [r["stage"] for r in row["ready"]]) == ("missing", ["augmented", "realfeatures"])


def test_a_broken_plugin_does_not_touch_a_matrix_without_it(bench: Bench, plugins: Path, tmp_path: Path) -> None:
    (plugins / "failing_import.py").write_text("import nowhere\n", encoding="utf-8")
    request = one_row(tmp_path, "baseline")
    said = bench("status", *request)
    assert (said.code, said.err) == (0, "")
    matrix = yaml.safe_load(Path(str(request[0])).read_text(encoding="utf-8"))
    matrix["settings"] = {"failing_import": {"x": 1}}
    matrix["methods"] = ["baseline", "failing_import"]
    Path(str(request[0])).write_text(yaml.safe_dump(matrix), encoding="utf-8")
    said = bench("status", *request, "--set", "methods=[baseline]", "--json")
    assert (said.code, len(json.loads(said.out))) == (0, 1)


def test_a_typing_error_is_refused_even_beside_a_broken_plugin(bench: Bench, plugins: Path, tmp_path: Path) -> None:
    (plugins / "failing_import.py").write_text("import nowhere\n", encoding="utf-8")
    said = bench("run", *one_row(tmp_path, "failing_imprt@2"))
    assert said.code == 2
    assert "no method 'failing_imprt'; did you mean 'failing_import'?" in said.err
    assert not (tmp_path / "store").exists()
