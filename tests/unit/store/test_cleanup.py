"""Clean-up keeps what is named, used or young and nothing else; verification finds every kind of damage."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import StoreError
from bench.pipeline.stage import Stage, Work, walk
from bench.store.cleanup import in_use, remove, unwanted
from bench.store.inventory import Entry, inventory, size_rows
from bench.store.store import Store
from bench.store.verify import delete_damaged, verify
from bench.store.work import Execution
from tests.reliability.helpers import kill_group, start, until
from tests.reliability.toys import Fails, Slow, Toy, noted

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def keys(stages: Iterable[Stage]) -> set[str]:
    return {s.key for s in walk(list(stages))}


def age(store: Store, hours: float) -> None:
    """Make everything in the store so old."""
    then = time.time() - hours * HOUR
    for path in [store.root, *store.root.rglob("*")]:
        os.utime(path, (then, then))


def going(store: Store, keep: Iterable[Stage] = (), **options: Any) -> set[tuple[str, str]]:
    return {(e.what, e.key) for e in unwanted(store, keys(keep), **options)}


def clean(store: Store, keep: Iterable[Stage] = (), **options: Any) -> list[Entry]:
    wanted = keys(keep)
    return remove(store, unwanted(store, wanted, **options), wanted)


def work_folder(store: Store, stage: Stage) -> Path:
    return store.folder(stage).with_name(f"{stage.key}.work")


def test_what_is_named_stays_with_all_below_it_and_the_rest_goes(store: Store) -> None:
    below, other = Toy(value=1), Toy(value=2)
    named = Slow(value=3, inputs_=(below,))
    for stage in (named, other):
        store.get(stage)
    age(store, 2)
    assert going(store, [named]) == {("result", other.key)}
    assert store.has(other), "a dry run removes nothing"
    gone = clean(store, [named])
    assert [e.key for e in gone] == [other.key]
    assert gone[0].bytes > 0
    assert [store.has(s) for s in (named, below, other)] == [True, True, False]
    assert not (store.root / ".trash").exists()
    assert store.get(other) == 2


def test_what_is_young_stays(store: Store) -> None:
    old, young = Toy(value=1), Toy(value=2)
    store.get(old)
    age(store, 2)
    store.get(young)
    assert going(store) == {("result", old.key)}
    assert going(store, grace_s=3 * HOUR) == set()
    assert going(store, grace_s=0) == {("result", old.key), ("result", young.key)}
    assert going(store, older_than_s=3 * HOUR) == set()
    assert going(store, keep_kinds=["toy"]) == set()


def test_a_clock_that_was_set_back_makes_nothing_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.get(Toy(value=1))
    monkeypatch.setattr(time, "time", lambda: 2.0**33)  # this host's clock; the file system's does not agree
    assert going(store) == set()
    age_in_future = {p: os.utime(p, (2**33, 2**33)) for p in store.root.rglob("*")}
    assert age_in_future
    assert going(store) == set()


def test_what_lies_beside_results_goes_with_its_stage(store: Store) -> None:
    gone, kept = Fails(value=1), Fails(value=2)
    for stage in (gone, kept):
        with pytest.raises(ValueError, match="on purpose"):
            store.compute(stage, Execution())
        log = store.root / "logs" / "fails" / f"{stage.key}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("said", encoding="utf-8")
    (store.root / "locks" / gone.key).touch()  # of a process that was killed
    (store.root / ".trash" / "12345678-x").mkdir(parents=True)  # of a clean-up that was killed
    for name in ("cells/m/c", "reports/m", "studies", "wandb"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "record.json").write_text("{}", encoding="utf-8")
    age(store, 2)
    found = {(e.what, e.key) for e in clean(store, [kept])}
    assert found == {(what, gone.key) for what in ("work", "failure", "log", "lock")} | {("trash", "12345678-x")}
    left = {p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file()}
    assert {p for p in left if gone.key in p} == set()
    assert {f"fails/{kept.key}.failed.json", f"logs/fails/{kept.key}.log"} <= left
    assert {"cells/m/c/record.json", "reports/m/record.json", "studies/record.json", "wandb/record.json"} <= left
    assert work_folder(store, kept).exists()


def test_a_file_that_a_killed_process_never_finished_goes_when_it_is_old(store: Store) -> None:
    folder = store.root / "cells" / "m" / "c"
    folder.mkdir(parents=True)
    (store.root / "toy").mkdir()
    names = [folder / ".record.json.host-1.123", store.root / "toy" / ".0.failed.json.host.9"]
    for path in (*names, folder / "record.json", folder / ".keep"):
        path.touch()
    assert clean(store) == []
    age(store, 2)
    assert {e.path for e in clean(store)} == set(names)
    assert sorted(p.name for p in folder.iterdir()) == [".keep", "record.json"]


def test_the_log_of_a_result_that_stays_stays(store: Store) -> None:
    stage = Toy(value=1)
    store.get(stage)
    log = store.root / "logs" / "toy" / f"{stage.key}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    age(store, 2)
    assert going(store, older_than_s=3 * HOUR) == set()
    assert going(store) == {("result", stage.key), ("log", stage.key)}


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_what_runs_and_what_it_stands_on_stay(tmp_path: Path, kind: str) -> None:
    store, log = Store(tmp_path / "store", kind), tmp_path / "log"
    below, other = Toy(value=1), Toy(value=2)
    for stage in (below, other):
        store.get(stage)
    running = Toy(value=3, inputs_=(below,), log=str(log), seconds=60)
    code = f"Toy(value=3, inputs_=(Toy(value=1),), log={str(log)!r}, seconds=60)"
    process = start(f"Store({str(store.root)!r}, {kind!r}).get({code})")
    assert until(lambda: noted(log) and work_folder(store, running).exists())
    age(store, 2)
    assert in_use(store) == {below.key, running.key}
    gone = clean(store)
    assert ("result", other.key) in {(e.what, e.key) for e in gone}
    assert {e.key for e in gone if e.what != "lock"} == {other.key}
    assert store.has(below)
    assert store.state(running) == "running"
    kill_group(process)
    age(store, 2)
    assert {("result", below.key), ("work", running.key)} <= going(store)


def test_what_a_run_will_need_stays_while_it_lasts(store: Store) -> None:
    below = Toy(value=1)
    store.get(below)
    age(store, 2)
    with store.using([Toy(value=2, inputs_=(below,))]):
        assert clean(store) == []
    assert going(store) == {("result", below.key)}


def test_what_waits_in_a_queue_stays_with_all_below_it(store: Store) -> None:
    below = Toy(value=1)
    store.get(below)
    waiting = Toy(value=2, inputs_=(below,))
    for name, content in (
        ("submitted/1.json", {"jobs": {waiting.key: "12_0"}}),
        (f"stages/{waiting.key}.json", {"target": waiting.key, "stages": {waiting.key: {}, below.key: {}}}),
    ):
        path = store.root / "slurm" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    age(store, 2)
    assert going(store) == set()
    store.get(waiting)  # as the job does; the note of its submission stays until the next one
    age(store, 2)
    assert going(store) == {("result", below.key), ("result", waiting.key)}


def test_what_comes_into_use_after_the_look_stays(store: Store) -> None:
    below, held = Toy(value=1), Toy(value=2)
    for stage in (below, held):
        store.get(stage)
    age(store, 2)
    seen = unwanted(store, ())
    claim = store.locks.try_claim(held.key, {})
    with store.using([below]):
        assert remove(store, seen) == []
    claim.release()  # type: ignore[union-attr]
    (store.folder(held) / "manifest.json").touch()  # made anew since
    assert [e.key for e in remove(store, seen)] == [below.key]


def test_who_has_a_result_open_keeps_it(store: Store) -> None:
    class Array(Toy):
        def misbehave(self, work: Work) -> None:
            np.save(work.out / "a.npy", np.arange(1000))

        def open(self, folder: Path) -> Any:
            return np.load(folder / "a.npy", mmap_mode="r")

    opened = store.get(Array())
    age(store, 2)
    clean(store)
    assert not store.has(Array())
    assert opened.sum() == 499500


def test_a_result_that_was_moved_elsewhere_and_linked_is_not_lost(store: Store, tmp_path: Path) -> None:
    stage = Toy(value=1)
    store.get(stage)
    store.folder(stage).rename(tmp_path / "elsewhere")
    store.folder(stage).symlink_to(tmp_path / "elsewhere")
    assert store.get(stage) == 1
    assert [e.what for e in clean(store, grace_s=0)] == ["result"]
    assert not store.has(stage)
    assert (tmp_path / "elsewhere" / "number.json").exists(), "only the link was ours to remove"
    assert not (store.root / ".trash").exists()


def test_clean_up_beside_a_run_never_breaks_it(tmp_path: Path) -> None:
    """The hardest case: no grace, nothing named, while a process computes a chain again and again."""
    store = Store(tmp_path / "store")
    code = (
        f"store = Store({str(store.root)!r})\n"
        "for v in range(25):\n"
        "    a = Toy(value=v, seconds=0.01); b = Toy(value=100, inputs_=(a,), seconds=0.01)\n"
        "    assert store.get(b) == 100 + v, v\n"
        "print('fine')"
    )
    process = start(code)
    removed = 0
    while process.poll() is None:
        removed += len(clean(store, grace_s=0))
        time.sleep(0.005)
    out, said = process.communicate()
    assert out == "fine\n", said
    assert removed > 10


def test_sizes_are_told_by_kind(store: Store) -> None:
    for stage in (Toy(value=1), Toy(value=2), Slow(value=1)):
        store.get(stage)
    with pytest.raises(ValueError, match="on purpose"):
        store.compute(Fails(), Execution())
    rows = {(r["what"], r["stage"]): r for r in size_rows(store)}
    assert rows[("result", "toy")]["count"] == 2
    whole = sum(p.stat().st_size for p in (store.root / "toy").rglob("*") if p.is_file())
    assert rows[("result", "toy")]["bytes"] == whole
    assert rows[("result", "toy")]["largest_key"] in {Toy(value=1).key, Toy(value=2).key}
    assert {("result", "slow"), ("work", ""), ("failure", "")} <= rows.keys()
    assert size_rows(Store(store.root / "empty")) == []


@pytest.fixture
def three(store: Store) -> list[Stage]:
    stages: list[Stage] = [Toy(value=1), Toy(value=2), Slow(value=3)]
    for stage in stages:
        store.get(stage)
    return stages


def test_a_whole_store_is_whole(store: Store, three: list[Stage]) -> None:
    told: list[tuple[int, int]] = []
    found = verify(store, jobs=2, on_progress=lambda done, total: told.append((done, total)))
    assert (found.stages, found.files, found.bytes, found.damage) == (3, 3, 3, [])
    assert told[-1] == (3, 3)
    assert verify(store, {three[0].key}).stages == 1


def flip(folder: Path) -> None:
    (folder / "number.json").write_text("9", encoding="utf-8")  # same size


def shorten(folder: Path) -> None:
    (folder / "number.json").write_text("", encoding="utf-8")


def lose(folder: Path) -> None:
    (folder / "number.json").unlink()


def add(folder: Path) -> None:
    (folder / "new").touch()


def tear(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": ', encoding="utf-8")


def bare(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def change(folder: Path, **news: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | news), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "file", "problem", "detail"),
    [
        (flip, "number.json", "changed", "another content"),
        (shorten, "number.json", "changed", "0 bytes, not 1"),
        (lose, "number.json", "missing", "1 bytes"),
        (add, "new", "extra", "0 bytes"),
        (tear, "manifest.json", "manifest", "cannot be read"),
        (bare, "manifest.json", "manifest", "is not there"),
        (lambda f: change(f, key="0" * 32), "manifest.json", "key", f"is that of toy/{'0' * 32}"),
        (lambda f: change(f, files={"number.json": 3}), "manifest.json", "manifest", "cannot be understood"),
        (lambda f: change(f, files=[], bytes="x"), "manifest.json", "manifest", "cannot be read"),
        (lambda f: change(f, identity=[float("nan")]), "manifest.json", "manifest", "cannot be understood"),
        (lambda f: change(f, identity={"a": 1}), "manifest.json", "key", "its settings are not those"),
    ],
)
def test_every_kind_of_damage_is_found_and_mended_by_the_next_run(
    store: Store, three: list[Stage], harm: Any, file: str, problem: str, detail: str
) -> None:
    harm(store.folder(three[1]))
    found = verify(store, jobs=2)
    assert [(d.stage, d.key, d.file, d.problem) for d in found.damage] == [("toy", three[1].key, file, problem)]
    assert found.damage[0].detail.startswith(detail)
    assert delete_damaged(store, found) == [("toy", three[1].key)]
    assert [store.has(s) for s in three] == [True, False, True]
    assert store.get(three[1]) == 2
    assert verify(store).damage == []


def test_a_damaged_result_that_is_just_computed_is_left_alone(store: Store, three: list[Stage]) -> None:
    flip(store.folder(three[0]))
    claim = store.locks.try_claim(three[0].key, {})
    assert delete_damaged(store, verify(store)) == []
    claim.release()  # type: ignore[union-attr]


def test_results_that_appear_and_vanish_meanwhile_are_no_damage(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = f"s = Store({str(store.root)!r}); [s.get(Toy(value=v)) for v in range(80)]"
    process = start(code)
    looks = 0
    while process.poll() is None:
        assert verify(store).damage == []
        clean(store, grace_s=0)
        looks += 1
        time.sleep(0.03)  # time to read a result before it is taken away again
    assert process.returncode == 0, process.communicate()
    assert looks > 3


def test_a_store_that_cannot_be_written_is_one_line(
    store: Store, three: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(30, "Read-only file system")

    age(store, 2)
    flip(store.folder(three[0]))
    monkeypatch.setattr("bench.store.cleanup.os.rename", refuse)
    for act in (lambda: clean(store), lambda: delete_damaged(store, verify(store))):
        with pytest.raises(StoreError, match="cannot be removed: Read-only file system"):
            act()


def test_tidying_leaves_a_stage_that_a_living_process_is_at(store: Store) -> None:
    stage = Toy(value=1)
    store.get(stage)
    (work_folder(store, stage) / "out.other").mkdir(parents=True)
    claim = store.locks.try_claim(stage.key, {})
    store.tidy()
    assert work_folder(store, stage).exists()
    claim.release()  # type: ignore[union-attr]
    store.tidy()
    assert not work_folder(store, stage).exists()


def test_everything_that_lies_in_a_store_is_listed(store: Store) -> None:
    store.get(Toy(value=1))
    (store.root / "toy" / "notes.txt").touch()  # not ours: never listed, never removed
    assert [(e.what, e.stage) for e in inventory(store)] == [("result", "toy")]
