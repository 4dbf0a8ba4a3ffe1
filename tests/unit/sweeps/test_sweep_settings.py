"""Sweep files: every fault is one line that names what is allowed; nothing but val may be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from bench.errors import ConfigError
from bench.matrix.load import load_matrix
from bench.plugins import registry
from sweeps.dimensions import FloatRange, IntRange
from sweeps.result_files import check_controls, controls
from sweeps.settings import Gate, Sweep, load_sweep, set_key
from tests.tiny_cells import Baseline, Copies, methods, tiny  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("methods")

SEARCH = {
    "settings.copies.noise.level": {"type": "int", "low": 0, "high": 9},
    "settings.copies.noise.kind": {"type": "categorical", "choices": ["none", "grey"]},
    "settings.copies.gain": {"type": "float", "low": 0.5, "high": 2.0, "log": True},
}
IMAGES = {"augment.per_class": {"type": "int", "low": 1, "high": 9}}
FID = [{"metric": "val_map_tail", "direction": "maximize"}, {"metric": "fid_tail", "direction": "minimize"}]
STEPS = {"classifier.steps": {"type": "int", "low": 1, "high": 2}}


def sweep_file(folder: Path, matrix: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a matrix and a sweep over it; return the sweep's path."""
    (folder / "base.yaml").write_text(yaml.safe_dump(matrix or tiny()))
    raw = {
        "name": "study",
        "base": "base.yaml",
        "method": "copies@1",
        "search": SEARCH,
        "objectives": [{"metric": "val_map_tail", "direction": "maximize"}],
        "sampler": {"name": "RandomSampler", "seed": 0},
        "n_trials": 3,
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in raw.items() if v is not None}))
    return path


def load(folder: Path, **changes: Any) -> Sweep:
    return load_sweep(sweep_file(folder, **changes))


def test_a_trial_is_the_tuned_row_alone_and_measured_on_val(tmp_path: Path) -> None:
    sweep = load(tmp_path, seeds=[3, 4], set={"classifier.steps": 5})
    matrix = sweep.matrix({"settings.copies.noise.level": 7, "classifier.learning_rate": 1e-5})
    assert [c.name for c in matrix.cells] == ["phantom/copies@1/s3", "phantom/copies@1/s4"]
    assert matrix.cells[0].method.noise.level == 7
    assert matrix.settings.classifier.learning_rate == 1e-5
    assert matrix.settings.classifier.steps == 5
    assert matrix.settings.fidelity.reference == "val"
    assert sweep.raw({})["settings"]["copies"]["noise"]["level"] == 4  # the base itself is as it was


def test_an_extractor_that_is_the_controls_classifier_is_so_in_a_trial_too(tmp_path: Path) -> None:
    matrix = tiny(fidelity={"extractor": {"kind": "classifier"}}, methods=["copies@0", "baseline", "copies@1"])
    path = sweep_file(tmp_path, matrix)
    sweep = load_sweep(path)
    (cell,) = sweep.matrix({"settings.copies.noise.level": 7}).cells
    (expected,) = [c for c in load_matrix(str(tmp_path / "base.yaml")).cells if c.name == "phantom/baseline/s0"]
    assert cell.name == "phantom/copies@1/s0"
    assert cell.fidelity.settings.extractor.classifier.key == expected.classifier.key
    (control,) = load_sweep(sweep_file(tmp_path, matrix, method="baseline", search=STEPS)).matrix({}).cells
    assert control.name == "phantom/baseline/s0"


def test_a_control_is_compared_with_the_rows_that_are_left(tmp_path: Path) -> None:
    others = ["baseline", "copies@1", "copies@2"]
    weighted = {"row": "pw", "method": "baseline", "classifier": {"positive_weights": True}, "against": others}
    sweep = load_sweep(sweep_file(tmp_path, tiny(methods=[*others, weighted])))
    (cell,) = sweep.matrix({}).cells
    assert cell.name == "phantom/copies@1/s0"
    check_controls(sweep)
    assert controls(sweep) == ["baseline", weighted | {"against": ["baseline", "copies@1"]}]


def test_settings_of_methods_that_only_other_rows_have_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Others(Copies):
        name: ClassVar[str] = "others"

    monkeypatch.setattr(registry, "methods", lambda: {"baseline": Baseline, "copies": Copies, "others": Others})
    base = tiny(methods=["baseline", "copies@1", "others@2"])
    base["settings"] = {**base["settings"], "others": {"gain": 0.5}}
    sweep = load_sweep(sweep_file(tmp_path, base))
    check_controls(sweep)
    assert list(sweep.matrix({}).settings.settings) == ["copies"]


def test_overrides_are_of_the_base_and_come_last(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, set={"classifier.steps": 5})
    assert load_sweep(path, ["classifier.steps=6"]).matrix({}).settings.classifier.steps == 6


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"nmae": "x"}, r"study\.yaml\.nmae: unknown setting; did you mean 'name'\?"),
        ({"sampler": None}, r"study\.yaml\.sampler: is not given"),
        ({"sampler": {"name": "TPESampler"}}, r"study\.yaml\.sampler\.seed: is not given"),
        (
            {"sampler": {"name": "TPESampler", "seed": 0, "options": {"seed": 4}}},
            r"sampler\.options: 'seed' stands beside the options, not among them; move it",
        ),
        ({"sampler": {"name": "TPE", "seed": 0}}, r"sampler\.name: .*'TPESampler'"),
        ({"objectives": [{"metric": "map_tail", "direction": "maximize"}]}, r"read on test.*use 'val_map_tail'"),
        ({"objectives": [{"metric": "val_map_tial", "direction": "maximize"}]}, r"did you mean 'val_map_tail'"),
        ({"method": "copeis@1"}, r"no method 'copeis'; did you mean 'copies'"),
        ({"base": "tinny"}, r"matrix 'tinny': no such file"),
        ({"search": {"settings.copies.noise.lvel": SEARCH["settings.copies.noise.level"]}}, r"did you mean 'settings\.copies\.noise\.level'"),
        ({"search": {"settings.copies.shift": SEARCH["settings.copies.noise.level"]}}, r"no setting 'settings\.copies\.shift' to vary"),
        ({"search": {"fidelity.seed": {"type": "int", "low": 0, "high": 1}}}, r"no setting 'fidelity\.seed' to vary"),
        ({"search": {"classifier.n_validations": {"type": "int", "low": 1, "high": 9}}}, r"no setting 'classifier\.n_validations' to vary"),
        ({"search": {"classifier.selection": {"type": "categorical", "choices": ["last"]}}}, r"no setting 'classifier\.selection' to vary"),
        ({"search": {"augment.counts": {"type": "categorical", "choices": [1]}}}, r"no setting 'augment\.counts' to vary"),
        ({"search": IMAGES, "objectives": FID}, r"study\.yaml\.search\.augment\.per_class: .*fid_tail.*objectives.*kid_tail"),
        ({"search": IMAGES, "gate": {"metric": "fid_tail"}}, r"study\.yaml\.search\.augment\.per_class: .*fid_tail.*gate.*kid_tail"),
        ({"objectives": [{"metric": "val_map_tail", "direction": "minimize"}]}, r"objectives\.0: 'val_map_tail' is better when larger, got minimize; want 'maximize'"),
        ({"objectives": [{"metric": "kid_tail", "direction": "maximize"}]}, r"objectives\.0: 'kid_tail' is better when smaller, got maximize; want 'minimize'"),
        ({"objectives": FID + FID[1:]}, r"study\.yaml\.objectives: got 'fid_tail' twice; name each once"),
        ({"objectives": FID[1:], "gate": {"metric": "kid_tail"}}, r"study\.yaml: gate: no objective needs a classifier.*leave it out"),
        ({"confirm": {"n_seeds": 10**9}}, r"confirm\.n_seeds: want 1000 or less"),
        ({"search": {"datasets.0.n_images": {"type": "int", "low": 1, "high": 9}}}, r"no setting 'datasets\.0\.n_images'"),
        ({"search": {"settings.copies.noise.level": {"type": "int", "low": 0, "high": 99}}}, r"search\.settings\.copies\.noise\.level: 99 is refused: .*want 50 or less"),
        ({"search": {"settings.copies.noise.kind": {"type": "categorical", "choices": ["gray"]}}}, r"'gray' is refused"),
        ({"search": {"settings.copies.gain": {"type": "float", "low": 2.0, "high": 1.0}}}, r"low 2\.0 is above high 1\.0"),
        ({"search": {"settings.copies.gain": {"type": "float", "low": 0.0, "high": 1.0, "log": True}}}, r"log needs low above 0"),
        ({"search": {"settings.copies.gain": {"type": "real", "low": 0.0, "high": 1.0}}}, r"search\.settings\.copies\.gain.*have: categorical, float, int"),
        ({"enqueue": [{"settings.copies.noise.level": 10}]}, r"enqueue\.0\.settings\.copies\.noise\.level: 10 is outside"),
        ({"enqueue": [{"settings.copies.noise.levl": 1}]}, r"is not searched; did you mean 'settings\.copies\.noise\.level'"),
        ({"sampler": {"name": "GridSampler", "seed": 0}}, r"GridSampler needs a step"),
        ({"n_trials": 0}, r"n_trials: .*want 1 or more, got 0"),
        ({"set": {"classifier.stepz": 1}}, r"classifier\.stepz: unknown setting; did you mean 'steps'"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_says_what_is_allowed(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        load(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_an_unknown_sweep_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep 'il_es': no such file .*did you mean 'il_se'"):
        load_sweep("il_es")


def test_values_survive_the_way_into_yaml() -> None:
    raw: dict[str, Any] = {}
    for value in (1e-05, 3, True, None, "none", "0.5", "a: b, [c]", [1, 2], -2.5e8):
        set_key(raw, "a.b", value)
        assert raw["a"]["b"] == value
        assert type(raw["a"]["b"]) is type(value)


def test_ranges_know_their_values() -> None:
    steps = FloatRange(type="float", low=0.1, high=0.5, step=0.1)
    assert steps.grid() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert steps.holds(0.3)
    assert not steps.holds(0.35)
    whole = IntRange(type="int", low=1, high=8, step=3)
    assert whole.grid() == [1, 4, 7]
    assert [v for v in range(10) if whole.holds(v)] == [1, 4, 7]
    assert not whole.holds(True)
    assert not whole.holds(1.0)


def test_a_gate_lets_the_better_share_pass() -> None:
    low, high = (Gate(metric=m, keep=0.75, after=4) for m in ("fid_tail", "label_fidelity_tail"))
    others = [10.0, 20.0, 30.0, 40.0, 50.0]  # their quartiles are 20 and 40
    assert [low.passes(v, others) for v in (5.0, 40.0, 41.0)] == [True, True, False]
    assert [high.passes(v, others) for v in (55.0, 20.0, 19.0)] == [True, True, False]
    assert low.passes(1e9, others[:3])  # too few to compare with


def test_a_gate_is_on_something_known_before_the_classifier(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.yaml\.gate\.metric: no metric 'val_map_tail' before the classifier"):
        load(tmp_path, gate={"metric": "val_map_tail"})


def test_the_number_of_images_is_searched_with_measures_that_do_not_depend_on_it(tmp_path: Path) -> None:
    kid = [{"metric": "kid_tail", "direction": "minimize"}]
    assert load(tmp_path, search=IMAGES, objectives=kid).needs == {"fidelity"}


def test_a_classifier_that_measures_the_images_is_not_searched(tmp_path: Path) -> None:
    matrix = tiny(fidelity={"extractor": {"kind": "classifier"}})
    sweep = load_sweep(sweep_file(tmp_path, matrix, search=STEPS))  # no image is measured
    assert sweep.needs == {"classifier"}
    with pytest.raises(ConfigError, match=r"study\.yaml\.search\.classifier\.steps: got fid_tail.*another network"):
        load_sweep(sweep_file(tmp_path, matrix, search=STEPS, objectives=FID))
