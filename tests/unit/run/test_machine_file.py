"""The machine file: what a stage asks for, and one line for what cannot be understood."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from bench.errors import ConfigError
from bench.pipeline.stage import Resources, Stage
from bench.run.machine_file import Machine, load_machine


class Heavy(Stage):
    resources: ClassVar[Resources] = Resources(gpu=True)


class Light(Stage):
    pass


def load(tmp_path: Path, text: str) -> Machine:
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return load_machine(path)


def test_without_a_file_the_defaults_hold() -> None:
    assert load_machine(None) == Machine()


def test_a_stage_asks_for_its_own_entry_over_its_group_over_the_defaults(tmp_path: Path) -> None:
    slurm = load(
        tmp_path,
        """
slurm:
  account: lab
  partition: all
  gpu: {partition: gpu, minutes: 10, extra: {gres-flags: enforce-binding}}
  stages: {heavy: {minutes: 99, extra: {reservation: night}}}
""",
    ).slurm
    heavy, light = (slurm.ask(s.stage_name(), s.resources) for s in (Heavy(), Light()))
    assert (heavy.account, heavy.partition, heavy.minutes, heavy.gpus, heavy.cpus) == ("lab", "gpu", 99, 1, 4)
    assert heavy.extra == {"gres-flags": "enforce-binding", "reservation": "night"}
    assert (light.account, light.partition, light.minutes, light.gpus) == ("lab", "all", 60, None)


class Long(Stage):
    resources: ClassVar[Resources] = Resources(cpus=4, memory_gb=64, minutes=240)


def test_what_the_file_leaves_open_is_what_the_stage_needs_if_that_is_more(tmp_path: Path) -> None:
    def asked(text: str, stage: Stage = Long()) -> tuple[object, ...]:  # noqa: B008 - never changed
        found = load(tmp_path, text).slurm.ask(stage.stage_name(), stage.resources)
        return found.cpus, found.memory_gb, found.minutes

    assert asked("slurm: {}") == (4, 64, 240)
    assert asked("slurm: {cpu: {minutes: 30}}") == (4, 64, 30)
    assert asked("slurm: {cpu: {minutes: 30}, stages: {long: {cpus: 1}}}") == (1, 64, 30)
    assert asked("slurm: {}", Light()) == (1, 8, 60)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("slurm: {partitions: x}", "m.yaml.slurm.partitions: unknown setting; did you mean 'partition'?"),
        (
            "executor: slrum",
            "m.yaml.executor: want 'inline', 'processes' or 'slurm', got 'slrum'; did you mean 'slurm'?",
        ),
        ("slurm: {cap: 0}", "m.yaml.slurm.cap: want 1 or more, got 0"),
        ("slurm: {stages: {classifier: {minutes: long}}}", "m.yaml.slurm.stages.classifier.minutes: "),
        ("- executor", "want a mapping of settings"),
        ("a: [", "not YAML"),
        ("jobs: 1\njobs: 2", "key 'jobs' is given twice"),
        ("slurm: {cpu: {extra: {array: 0-3}}}", "'array' is set by bench itself"),
        ("slurm: {gpu: {extra: {ntasks_per_node: 2}}}", "'ntasks_per_node' is set by bench itself"),
    ],
)
def test_a_faulty_file_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read: No such file"):
        load_machine(tmp_path / "nowhere.yaml")


def test_an_option_that_is_off_is_not_handed_on(tmp_path: Path) -> None:
    assert load(tmp_path, "slurm: {cpu: {extra: {exclusive: true, overcommit: false}}}").slurm.cpu.extra == {
        "exclusive": True
    }
