"""Pictures that change after a table was made from them: what counts, what does not, and who says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.data import read_pictures
from bench.data.kinds.cxr_lt.dataset import MimicCxrLt
from bench.data.read_pictures import changes
from bench.errors import DataError
from bench.run import run_matrix
from bench.run.run_matrix import refuse_changed_sources
from bench.store.store import Store
from tests.cxr_lt_trees import mimic_tree, write_picture


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return the tree, the data set and the store with its table, whose second picture was missing."""
    monkeypatch.setattr(run_matrix, "_SEEN", set())
    tree = mimic_tree(tmp_path / "tree", n_patients=12)
    dataset, store = MimicCxrLt(**tree.settings(missing="leave_out")), Store(tmp_path / "store")
    places = dataset.pictures()
    places[1].unlink()
    for place in places:
        if place.exists():
            os.utime(place, (1e9, 1e9))
    store.get(dataset)
    return dataset, store, places


def said(dataset, store) -> str | None:
    again = dataset.model_copy()
    assert again.key == dataset.key
    return again.changed_source(store.folder(dataset))


def test_pictures_that_are_what_they_were_are_no_news(made):
    dataset, store, places = made
    assert said(dataset, store) is None
    os.utime(places[0])
    copy = places[2].with_suffix(".copy")
    shutil.copy(places[2], copy)
    os.replace(copy, places[2])
    assert said(dataset, store) is None
    refuse_changed_sources([dataset], store)


def test_replaced_new_and_lost_pictures_are_counted_and_the_run_is_refused(made):
    dataset, store, places = made
    was = places[3].stat()
    places[3].write_bytes(bytes(was.st_size))
    os.utime(places[3], ns=(was.st_atime_ns, was.st_mtime_ns))  # as `cp -p` and archives do
    write_picture(places[4], 40, (48, 40))
    write_picture(places[1], 1, (40, 48))
    places[5].unlink()
    with pytest.raises(DataError) as error:
        refuse_changed_sources([dataset], store)
    n = len(places)
    told = f"of {n} pictures, since the table was made: 2 replaced, 1 gone, 1 newly there; set edition: 2 to read them"
    assert str(error.value).startswith(f"mimic-cxr-lt: {told}")
    assert str(places[3].parent) not in str(error.value)
    assert changes(store.folder(dataset)) == read_pictures.Changes(n, 2, 1, 1)


def test_another_edition_reads_all_again_and_the_old_table_stays(made):
    dataset, store, places = made
    old = np.array(store.get(dataset).images)
    write_picture(places[0], 40, (40, 48))
    newer = dataset.model_copy(update={"edition": 2})
    new = store.get(newer).images
    assert (old[0] != new[0]).any()
    np.testing.assert_array_equal(old[1:], new[1:])
    np.testing.assert_array_equal(store.get(dataset).images, old)
    refuse_changed_sources([newer], store)


def test_unchanged_pictures_are_looked_up_and_not_read(made, monkeypatch):
    dataset, store, places = made
    record = np.load(store.folder(dataset) / read_pictures.FILE)
    # As if the table had been made long after the pictures were written: nothing is unsure.
    for i, place in enumerate(places):
        if place.exists():
            found = place.stat()
            record["version"][i] = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    np.save(store.folder(dataset) / read_pictures.FILE, record)
    read = []
    monkeypatch.setattr(read_pictures, "digests", lambda paths, *_: read.extend(paths) or [b""] * len(paths))
    assert said(dataset, store) is None
    assert not read
    os.utime(places[0])
    assert "1 replaced" in (said(dataset, store) or "")  # the stand-in's digest is another
    assert read == [places[0]]


def test_a_picture_that_changed_between_two_attempts_is_told(made, tmp_path, monkeypatch):
    """The first attempt decoded the old picture, and its row is kept."""
    dataset, _, places = made
    store = Store(tmp_path / "another")

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.store.store.manifest_of", killed)
        with pytest.raises(KeyboardInterrupt):
            store.get(dataset)
    write_picture(places[0], 40, (40, 48))
    store.get(dataset)
    assert "1 replaced" in (said(dataset, store) or "")


def test_pictures_that_are_all_gone_are_not_taken_for_changes(made):
    dataset, store, places = made
    shutil.rmtree(dataset.root)
    assert said(dataset, store) is None
    found = changes(store.folder(dataset))
    assert found is not None
    assert not found
    assert "none of the" in str(found)


def test_verify_and_the_other_verbs_tell(made, tmp_path):
    dataset, store, places = made
    settings = dataset.model_dump(mode="json", exclude_defaults=True)
    sets = [x for name, value in settings.items() for x in ("--set", f"{name}={json.dumps(value)}")]

    def bench(*arguments):
        command = [sys.executable, "-m", "bench.cli", *map(str, arguments), "--store", str(store.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert bench("verify")[0] == 0
    write_picture(places[0], 40, (40, 48))
    code, out, err = bench("verify")
    assert code == 1
    assert (
        f"dataset-mimic-cxr-lt {dataset.key[:8]}: of {len(places)} pictures, since the table was made: 1 replaced"
        in out
    )
    assert "give the data set another `edition`" in err
    code, out, _ = bench("describe", "mimic-cxr-lt", *sets)
    assert "refused by a run: of" in " ".join(out.split())
