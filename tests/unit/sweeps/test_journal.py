"""The journal of a study: half a last line costs one trial, damage before it is refused, and every lock will do."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bench.errors import ConfigError
from bench.store.claims import Locks
from bench.store.store import Store
from sweeps import study
from sweeps.journal import open_journal, read_journal
from sweeps.references import stages_of
from sweeps.settings import load_sweep
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FREE, fake, in_child, on_run, sweep  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("methods", "fake")


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Store, Path]:
    """Return a sweep file, a store in which it has run three trials, and the journal."""
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=3)
    return path, store, store.root / "studies" / "study.journal"


def states(storage: JournalStorage) -> list[tuple[int, str, dict[str, object]]]:
    return [(t.number, t.state.name, dict(t.params)) for t in storage.get_all_trials(0)]


def test_a_study_with_half_a_last_line_goes_on(
    place: tuple[Path, Store, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path, store, journal = place
    whole = journal.read_bytes()
    os.truncate(journal, len(whole) - 7)
    with caplog.at_level(logging.WARNING):
        result = sweep(path, store, n_trials=5)
    last = whole.splitlines(keepends=True)[-1]
    (said,) = [r.getMessage() for r in caplog.records]
    assert "the last line was half written" in said
    (kept,) = journal.parent.glob("study.journal.cut-*")
    assert kept.name in said
    assert kept.read_bytes() == last[:-7]
    # the end of trial 2 was cut, so it is tried again with the same settings
    assert [t.state for t in result.trials] == ["done", "done", "failed", "done", "done", "done"]
    assert result.trials[3].params == result.trials[2].params
    assert all(isinstance(json.loads(line), dict) for line in journal.read_bytes().splitlines())


def test_wherever_a_write_stopped_the_whole_lines_are_the_study(place: tuple[Path, Store, Path]) -> None:
    _, store, journal = place
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    for n in range(4, len(lines)):
        start, size = sum(map(len, lines[:n])), len(lines[n])
        journal.write_bytes(content[:start])
        wanted = states(JournalStorage(JournalFileBackend(str(journal))))
        for more in (0, 1, size // 2, size - 1):
            journal.write_bytes(content[: start + more])
            assert states(read_journal(journal)) == wanted
            assert journal.stat().st_size == start + more  # who reads alone changes nothing
            assert states(open_journal(journal, store.locks)) == wanted
            assert journal.read_bytes() == content[:start]


@pytest.mark.parametrize(
    "junk", [b"\0" * 40, b"\0" * 40 + b"\n", b'{"op_code"\n', b"[1]\n", b"\xff\xfe\n", b"\n", b"3\n"]
)
def test_a_last_line_that_is_no_record_is_cut_off(place: tuple[Path, Store, Path], junk: bytes) -> None:
    _, store, journal = place
    whole = journal.read_bytes()
    journal.write_bytes(whole + junk)
    open_journal(journal, store.locks)
    assert journal.read_bytes() == whole
    (kept,) = journal.parent.glob("study.journal.cut-*")
    assert kept.read_bytes() == junk


def test_damage_before_the_last_line_is_refused_with_its_line(place: tuple[Path, Store, Path]) -> None:
    path, store, journal = place
    lines = journal.read_bytes().splitlines(keepends=True)
    broken = b"".join([*lines[:3], lines[3][:-9], *lines[4:]])  # as an append to half a line left it
    journal.write_bytes(broken)
    for read in (lambda: sweep(path, store, n_trials=5), lambda: stages_of(path, store)):
        with pytest.raises(ConfigError, match=r"study\.journal, line 4: is not a record of Optuna.*move it away"):
            read()
        assert journal.read_bytes() == broken


def test_a_driver_that_dies_within_its_write_does_not_harm_the_others(place: tuple[Path, Store, Path]) -> None:
    _, store, journal = place
    storage = open_journal(journal, store.locks)
    with open(journal, "ab") as handle:
        handle.write(b'{"op_code":5,"wor')
    storage.set_study_user_attr(0, "mark", 1)
    assert open_journal(journal, store.locks).get_study_user_attrs(0)["mark"] == 1
    assert all(isinstance(json.loads(line), dict) for line in journal.read_bytes().splitlines())


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file system refuse flock, as NFS and Lustre without it do."""

    def refuse(handle: object, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("locks", [None, "lease"])
def test_a_sweep_runs_where_no_file_can_be_locked(tmp_path: Path, no_flock: None, locks: str | None) -> None:
    path = sweep_file(tmp_path, search=FREE)
    for total in (2, 4):
        result = sweep(path, Store(tmp_path / "store", locks), n_trials=total)
    assert [t.state for t in result.trials] == ["done"] * 4


def test_drivers_share_a_study_where_no_file_can_be_locked(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = sweep_file(tmp_path, search=FREE), tmp_path / "store"
    on_run(monkeypatch, lambda: time.sleep(0.05))
    context = multiprocessing.get_context("fork")
    drivers = [context.Process(target=lambda: sweep(path, Store(root), n_trials=9)) for _ in range(3)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    assert [d.exitcode for d in drivers] == [0, 0, 0]
    result = sweep(path, Store(root), n_trials=9)
    assert [t.state for t in result.trials] == ["done"] * 9
    assert len({json.dumps(t.params) for t in result.trials}) == 9


def test_a_driver_that_was_killed_is_known_where_no_file_can_be_locked(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    with monkeypatch.context() as patch:
        on_run(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert in_child(lambda: sweep(path, store, n_trials=2)) == -signal.SIGKILL
    result = sweep(path, store, n_trials=2)
    assert [t.state for t in result.trials] == ["failed", "done", "done"]
    assert result.trials[1].params == result.trials[0].params


def test_a_driver_of_another_host_is_watched_until_it_is_known_whether_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sweep_file(tmp_path, search=FREE)
    store = Store(tmp_path / "store", "lease", lease_s=1.0, beat_s=0.1)
    monkeypatch.setattr("bench.store.claims.this_process", lambda: "another boot/pid:[1]/7/7")
    other = study.Driver(load_sweep(path), store)
    with other.alive():
        other.prepare(3)
        other.ask(3, 1)
        twin = Store(tmp_path / "store", "lease", lease_s=1.0, beat_s=0.1)
        assert [t.state for t in sweep(path, twin, n_trials=3).trials] == ["running", "done", "done"]
    silent = Locks(store.locks.folder, "lease", lease_s=1.0, beat_s=60).try_claim(f"driver-{other.id}", {})
    result = sweep(path, Store(tmp_path / "store", "lease", lease_s=1.0, beat_s=0.1), n_trials=4)
    assert [t.state for t in result.trials].count("failed") == 1
    assert [t.state for t in result.trials].count("done") == 4
    assert silent is not None
    silent.release()
