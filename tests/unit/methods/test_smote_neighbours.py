"""SMOTE's search for neighbours: a stage that all seeds share, that reads images in blocks and goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.augment.augmented import Augmented
from bench.contract import Plan, Task
from bench.data.split import train_set
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods import smote
from methods.mlsmote import Mlsmote
from methods.smote import Smote, SmoteNeighbours
from tests.unit.methods.smote_fixtures import neighbours_by_cdist


def search(task: Task, method: Smote | None = None) -> SmoteNeighbours:
    found = Augmented.of(method or Smote(), task).needs["neighbours"]
    assert isinstance(found, SmoteNeighbours)
    return found


def work_of(stage: SmoteNeighbours, root: Path) -> Work:
    (root / "out").mkdir(parents=True, exist_ok=True)
    (root / "ckpt").mkdir(exist_ok=True)
    return Work(Store(root / "store"), stage, root / "out", root / "ckpt", Execution())


@pytest.mark.parametrize("bytes_at_once", [1, 5_000, 1 << 30])
def test_in_blocks_of_any_size_it_finds_what_all_distances_say(tmp_path, monkeypatch, bytes_at_once):
    monkeypatch.setattr(smote, "_BLOCK_BYTES", bytes_at_once)
    stage = search(toy_task())
    found = Store(tmp_path).get(stage)
    expected = neighbours_by_cdist(train_set(work_of(stage, tmp_path / "w"), stage.train), 5)
    assert found.keys() == expected.keys()
    for column, positions in expected.items():
        np.testing.assert_array_equal(found[column], positions)


def test_a_class_that_the_plan_adds_is_searched_too(tmp_path):
    task = toy_task()
    head = Store(tmp_path).get(task.train.split.dataset).head[0]
    more = toy_task(plan=Plan(per_class=4, counts={head: 3}))
    column = Store(tmp_path).get(task.train.split.dataset).class_names.index(head)
    none = toy_task(plan=Plan(per_class=4, counts={head: 0}))
    assert search(none).key == search(task).key
    assert column not in Store(tmp_path).get(search(task))
    assert column in Store(tmp_path).get(search(more))
    assert len(Store(tmp_path).get(Augmented.of(Smote(), more)).images) > 3


def test_seeds_and_mlsmote_share_one_search_which_holds_no_gpu():
    one, other = toy_task(), toy_task(seed=1)
    assert search(one).key == search(other).key == search(one, Mlsmote()).key
    assert search(one).key != search(one, Smote(k_neighbors=3)).key
    assert not search(one).resources.gpu
    assert not Augmented.of(Smote(), one).resources.gpu
    assert Augmented.of(Smote(space="latent"), one).resources.gpu


def test_what_was_found_before_a_kill_is_not_searched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(smote, "_BLOCK_BYTES", 5_000)
    stage, searched = search(toy_task()), smote.neighbours.nearest
    calls = []

    def dies_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return searched(*args)

    monkeypatch.setattr(smote.neighbours, "nearest", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        stage.compute(work_of(stage, tmp_path))
    stage.compute(work_of(stage, tmp_path))
    monkeypatch.setattr(smote.neighbours, "nearest", searched)
    whole = work_of(stage, tmp_path / "whole")
    blocks = sum(
        len(list(smote.blocks(smote.reader(train, None), train.rows_with(column))))
        for train in [train_set(whole, stage.train)]
        for column in train.tail_index
    )
    assert len(calls) == blocks + 1  # the third was searched twice, the others once
    resumed, undisturbed = stage.open(tmp_path / "out"), Store(tmp_path / "whole").get(stage)
    assert all(np.array_equal(resumed[column], undisturbed[column]) for column in undisturbed)
