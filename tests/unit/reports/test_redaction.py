"""A report that may be passed on: what it is made of, and where it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import BorderError, ConfigError
from bench.matrix.study import Study
from bench.pipeline.settings import not_semantic
from bench.results.cells import CellResult
from bench.store.store import Store
from reports import redaction as export
from reports.report import write_report
from reports.report_folder import MARKER
from tests.unit.reports import report_fixtures as fixtures


class Kept(fixtures.Ward):
    """Credentialed, read from a place."""

    kind = "kept"
    root: str = not_semantic("")


class Open(fixtures.Blobs):
    kind = "open"
    root: str = not_semantic("")


FAILED = "cannot read /data/ward7/p10/p10000032/x.jpg of patient 10000032"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[CellResult], Store]:
    """Two methods on one data set of each kind, the first of them failed."""
    folder = tmp_path_factory.mktemp("mixed")
    datasets = (Kept(root="/data/ward7"), Open(root="/data/open7"))
    matrix, store = fixtures.make_matrix(methods=fixtures.METHODS[:2], datasets=datasets), Store(folder / "store")
    settings = matrix.settings.model_copy(update={"description": "of /data/ward7 and p10000032"})
    matrix = replace(matrix, settings=settings)
    results = fixtures.with_nearest(fixtures.fill(matrix, store), store)
    broken = [
        replace(r, state="failed", scores=None, fidelity=None, history=[], failure={"error": FAILED})
        if r.cell.label == "baseline"
        else r
        for r in results
    ]
    return matrix, broken, store


def test_each_data_set_of_a_report_to_be_passed_on_is_treated_its_own_way(prepared: Any, tmp_path: Path) -> None:
    matrix, results, store = prepared
    paths = write_report(matrix, results, store, tmp_path / "out", share=True)
    names = {p.name for p in paths}
    assert "open-samples-smote.png" in names
    assert not [n for n in names if n.startswith("kept-samples")]
    assert "kept-nearest-train-image.pdf" in names
    page = paths[0].read_text()
    assert "of kept none may be passed on, real or synthetic" in page
    assert "the reason is withheld" in page
    assert "cannot read" not in page  # an open data set's message may be of the other
    texts = "".join(
        p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in (".html", ".md", ".yaml", ".csv")
    )
    assert "/data/" not in texts
    assert "of withheld and withheld" in texts
    settings = yaml.safe_load((tmp_path / "out" / "matrix.yaml").read_text())
    assert [d["root"] for d in settings["datasets"]] == ["withheld", "withheld"]
    assert {m for r in results for m in (r.cell.name,)} == {c.name for c in matrix.cells}  # what was given is as it was


def test_a_report_goes_where_a_link_leads_and_never_where_the_command_runs(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    write_report(small, results[:1], store, tmp_path / "link", share=True)
    assert (tmp_path / "there" / MARKER).is_file()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"--out \.: is the folder that the command runs in, or above it; give a new one"
    ):
        write_report(small, results[:1], store, Path("."), share=True)


def test_no_machine_is_named_in_what_is_passed_on(prepared: Any) -> None:
    there, here = (export.export(*prepared, for_sharing) for for_sharing in (True, False))
    assert there.hosts({"ward-node-3"}) == []
    assert here.hosts({"ward-node-3"}) == ["ward-node-3"]


def test_the_folder_of_a_report_to_be_passed_on_holds_nothing_else(prepared: Any, tmp_path: Path) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    out = tmp_path / "out"
    paths = write_report(small, results[:1], store, out, share=True)
    assert set((out / MARKER).read_text().splitlines()[1:]) == {str(p.relative_to(out)) for p in paths}
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    write_report(small, results[:1], store, out, share=True)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    with pytest.raises(ConfigError, match="holds a report to be passed on; give a local one another folder"):
        write_report(small, results[:1], store, out)
    (out / "figures").mkdir(exist_ok=True)
    (out / "figures" / "old.png").write_bytes(b"a picture")
    with pytest.raises(ConfigError, match=r"holds files that no --share wrote \(figures/old.png\); give a new folder"):
        write_report(small, results[:1], store, out, share=True)
    assert (out / "figures" / "old.png").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_slips_through_is_found_before_anything_is_written(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, results, store = prepared
    small = replace(matrix, cells=matrix.cells[:1])
    monkeypatch.setattr(export, "plain_words", lambda text: text)
    with pytest.raises(BorderError, match=r"\(report\.html\); nothing was written"):
        write_report(small, results[:1], store, tmp_path / "out", share=True)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_whose_axis_is_a_place_is_left_out(prepared: Any) -> None:
    matrix, results, store = prepared
    for x, kept in (("dataset.root", False), ("classifier.settings.steps", True)):
        study = Study(x=x, line="row", columns=["map_tail"], levels=["baseline"])
        settings = matrix.settings.model_copy(update={"study": study})
        found = export.export(replace(matrix, settings=settings), results, store, True)
        assert (found.matrix.settings.study is not None) == kept
