"""How a method is run: what it is asked first, when it is stopped, and what becomes of one that cannot be planned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.augment.augmented import Augmented, diagnostics_of
from bench.augment.unusable import UnusableDiagnostics, UnusableMethod
from bench.contract import AugmentedBatch, Context, Method, Plan, Stage, Task, TrainSet, not_semantic
from bench.errors import ConfigError, ContractError, PluginError
from bench.pipeline.stage import Work
from bench.plugins import registry
from bench.store.store import Store
from bench.testing.toy import CLASS_NAMES, ToyDataset, toy_task


class Never(Stage):
    """An input that must not be read."""

    def compute(self, work: Work) -> None:
        raise RuntimeError("read all the same")


class Copies(Method):
    """Copies; `how` says what is odd about it."""

    name: ClassVar[str] = "copies"
    how: str = ""
    place: Any = None

    def inputs(self, task: Task) -> dict[str, Stage]:
        if self.how == "crash":
            return {}["x"]
        if self.how == "exit":
            raise SystemExit(1)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "refuse":
            raise ConfigError("not with this task")
        return {"no stage": 7} if self.how == "odd" else {"never": Never()}  # type: ignore[dict-item]

    def diagnostics(self, task: Task) -> Stage | None:
        self.inputs(task)
        return None

    def skip(self, train: TrainSet) -> str | None:
        return "not today" if self.how == "declines" else None

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        while True:
            rows = np.array([0, 1])
            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], rows[:, None])


class Endless(Copies):
    """The same without inputs."""

    def inputs(self, task: Task) -> dict[str, Stage]:
        return {}


class Writes(Method):
    """Copies, by a method that writes to what it is given, or gives a label of 0.5."""

    name: ClassVar[str] = "writes"
    what: str

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        given = {"samples": ctx.samples, "labels": ctx.train.labels, "excludes": ctx.train.excludes}
        if self.what in given:
            given[self.what][:] = given[self.what][0]
        elif self.what == "plan":
            ctx.plan.clear()
        for index in ctx.batches(4):
            rows = np.array([ctx.train.rows_with(ctx.samples[i])[0] for i in index])
            labels = ctx.train.labels[rows]
            labels[:, 0] = 0.5 if self.what == "soft" else labels[:, 0]
            yield AugmentedBatch(ctx.train.images[rows], labels, rows[:, None])


class WritesSoft(Writes):
    """The same, by a method that says so."""

    soft_labels: ClassVar[bool] = True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize(("how", "plan"), [("declines", Plan(per_class=2)), ("", Plan(per_class=0))])
def test_a_method_that_declines_or_has_nothing_to_make_reads_no_input(store: Store, how: str, plan: Plan) -> None:
    stage = Augmented.of(Copies(how=how), toy_task(plan=plan))
    assert [s.stage_name() for s in stage.inputs()] == ["train", "never"]
    assert len(store.get(stage)) == 0
    assert stage.skip_reason(store.folder(stage)) == ("not today" if how else None)
    assert not store.has(Never())


def test_a_method_that_makes_images_reads_its_inputs(store: Store) -> None:
    with pytest.raises(RuntimeError, match="read all the same"):
        store.get(Augmented.of(Copies(), toy_task(plan=Plan(per_class=1))))


def test_a_method_that_never_stops_is_stopped_every_time(store: Store) -> None:
    stage = Augmented.of(Endless(), toy_task(plan=Plan(per_class=3)))
    for _ in range(2):  # what the first attempt kept is as much as was asked for: it must not pass for all
        with pytest.raises(ContractError, match=r"\(counts equal the plan\): made 8 and maybe more, .* asks for 6"):
            store.get(stage)
        store.forget_failure(stage)


@pytest.mark.parametrize("what", ["samples", "labels", "excludes"])
def test_a_method_cannot_write_to_what_it_is_given(store: Store, what: str) -> None:
    task = toy_task(ToyDataset(excludes={"Opacity": "all"}), Plan(per_class=2))
    with pytest.raises(ValueError, match="read-only"):
        store.get(Augmented.of(Writes(what=what), task))


def test_a_plan_that_a_method_changes_is_recorded_as_it_was_asked_for(store: Store) -> None:
    stage = Augmented.of(Writes(what="plan"), toy_task(plan=Plan(per_class=2)))
    store.get(stage)
    told = json.loads((store.folder(stage) / "plan.json").read_text(encoding="utf-8"))
    assert list(told["plan"].values()) == [2, 2]


def test_labels_between_0_and_1_are_of_methods_that_say_so(store: Store) -> None:
    task = toy_task(plan=Plan(per_class=2))
    rule = r"\(labels of 0 and 1, or `soft_labels = True`\): in the batch that begins with sample 0: got 0.5"
    with pytest.raises(ContractError, match=rule):
        store.get(Augmented.of(Writes(what="soft"), task))
    assert (store.get(Augmented.of(WritesSoft(what="soft"), task)).labels[:, 0] == 0.5).all()


def test_a_file_that_a_method_names_enters_the_key_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    class Reads(Endless):
        table: str = not_semantic("")

        def content(self) -> dict[str, str]:
            return {"table": hashlib.sha256(Path(self.table).read_bytes()).hexdigest()}

    def key(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return Augmented.of(Reads(table=str(tmp_path / name)), toy_task()).key

    assert key("a", "one") == key("b", "one") != key("a", "two")


@pytest.mark.parametrize(
    ("how", "place", "reason"),
    [
        ("crash", None, "KeyError: 'x'"),
        ("exit", None, "SystemExit: 1"),
        ("odd", None, "ValidationError: "),
        ("", Path("/data"), "TypeError: a PosixPath cannot be part of a stage's key"),
    ],
)
def test_a_method_that_cannot_be_planned_fails_when_it_is_its_turn(
    store: Store, how: str, place: object, reason: str
) -> None:
    stage = Augmented.of(Copies(how=how, place=place), toy_task(plan=Plan(per_class=1)))
    assert isinstance(stage.method, UnusableMethod)
    assert stage.method.name == "copies"
    with pytest.raises(PluginError, match="broke while its stages were planned"):
        store.get(stage)
    failure = store.failure(stage) or {}
    assert reason in failure["error"]
    assert failure["sticky"] is False
    assert "in _planned" in failure["traceback"]


def test_a_refusal_and_an_interrupt_stay_what_they_are() -> None:
    for how, kind in (("refuse", ConfigError), ("interrupt", KeyboardInterrupt)):
        with pytest.raises(kind):
            Augmented.of(Copies(how=how), toy_task())
        with pytest.raises(kind):
            diagnostics_of(Copies(how=how), toy_task())


def test_diagnostics_that_cannot_be_planned_fail_when_it_is_their_turn(store: Store) -> None:
    stage = diagnostics_of(Copies(how="crash"), toy_task())
    assert isinstance(stage, UnusableDiagnostics)
    assert stage.key != getattr(diagnostics_of(Copies(how="exit"), toy_task()), "key", None)
    with pytest.raises(PluginError, match="the diagnostics of method 'copies' broke"):
        store.get(stage)
    assert diagnostics_of(Copies(), toy_task()) is None


@pytest.mark.parametrize("name", ["erase", "remix"])
def test_a_plan_for_a_head_class_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    """Erase would have labelled untouched images of the class as having it not."""
    task = toy_task(plan=Plan(per_class=0, counts={CLASS_NAMES[0]: 4}))
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match=f"augment.counts: '{CLASS_NAMES[0]}' is no tail class, as the method needs"):
        store.get(Augmented.of(registry.methods()[name].toy(), task))
