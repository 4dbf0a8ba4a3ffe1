"""The report's files: what is there, what is escaped, what is left out and why; nothing is computed."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.errors import ConfigError
from bench.matrix.study import Study
from bench.results.cells import CellResult
from bench.results.pictures import load_pictures
from bench.store.store import Store
from reports.figures import charts
from reports.figures.nearest import nearest_images
from reports.figures.pictures import fusion_strips
from reports.figures.style import LIGHT, Looks, Omitted, slug, two_lines, unique
from reports.page import duration
from reports.paper_table import parts_of
from reports.published import published
from reports.report import figures_of, write_report
from reports.report_folder import is_of
from reports.run_facts import dataset_facts
from tests.unit.reports import report_fixtures as fixtures


class Tags(HTMLParser):
    """Collects tags with their attributes and the text outside of style."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self._inside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        self._inside = self._inside[: -1 - self._inside[::-1].index(tag)] if tag in self._inside else self._inside

    def handle_data(self, data):
        if "style" not in self._inside:
            self.text.append(data)


def parse(path: Path) -> Tags:
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    matrix = fixtures.make_matrix()
    return matrix, fixtures.with_nearest(fixtures.fill(matrix, store), store), store


@pytest.fixture(scope="module")
def report(filled, tmp_path_factory):
    """The report's folder and what the store held before and after."""
    matrix, results, store = filled
    before = sorted(store.root.rglob("*"))
    out = tmp_path_factory.mktemp("report")
    paths = write_report(matrix, results, store, out)
    return out, paths, before, sorted(store.root.rglob("*"))


def test_files_are_those_returned_and_the_store_is_only_read(report):
    out, paths, before, after = report
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted([*paths, out / "files.txt"])
    assert paths[0].name == "report.html"
    assert before == after
    tables = {"table.md", "table.tex", "table.csv", "table.html", "effects.md", "effects.csv"}
    assert {p.name for p in paths} >= tables | {"matrix.yaml"}
    assert {p.suffix for p in paths if p.parent.name == "figures"} == {".png", ".pdf"}


def test_every_figure_is_drawn_and_the_declined_one_says_why(report):
    names = {p.stem for p in report[1] if p.suffix == ".png"}
    charts = {"ap-by-frequency", "quality-by-steps", "label-fidelity", "training-curves", "fusion-ours-0"}
    charts |= {"nearest-train-image"}
    grids = {"samples-smote", "samples-ours-0", "samples-ours-5"}
    assert names == {f"blobs-{n}" for n in charts | grids}
    assert "Samples: declines: needs <script>" in "".join(parse(report[0] / "report.html").text)


@pytest.mark.parametrize("name", ["report.html", "table.html"])
def test_page_is_self_contained_and_escaped(report, name):
    page = parse(report[0] / name)
    assert not [t for t, _ in page.tags if t in ("script", "link", "iframe", "object", "b", "em")]
    loads = [v for _, a in page.tags for k, v in a.items() if k in ("src", "srcset")]
    assert all(v.startswith("data:image/webp;base64,") for v in loads)
    assert all(a["href"].startswith("#") for t, a in page.tags if t == "a")
    text = "".join(page.text)
    assert "<script>alert(1)</script> & colour images" in text
    assert "{{" not in text
    assert "None" not in re.sub(r"precision None", "", text)


def test_page_is_accessible(report):
    tags = parse(report[0] / "report.html").tags
    assert all(a.get("alt") for t, a in tags if t == "img")
    assert all(a.get("scope") for t, a in tags if t == "th")
    ids = {a["id"] for _, a in tags if "id" in a}
    assert {a["href"][1:] for t, a in tags if t == "a"} <= ids
    assert ("html", {"lang": "en"}) in tags


def test_resolved_matrix_beside_the_page_loads(report, filled):
    resolved = yaml.safe_load((report[0] / "matrix.yaml").read_text(encoding="utf-8"))
    assert resolved["methods"] == [m.label for m in fixtures.METHODS]
    assert resolved["classifier"]["steps"] == 10


def test_open_data_carry_no_banner(report):
    assert "Do not share" not in "".join(parse(report[0] / "report.html").text)


def test_a_report_of_nothing_is_a_page_with_holes(tmp_path):
    matrix = fixtures.make_matrix(methods=fixtures.METHODS[:2])
    failure = {"error": "RuntimeError: <b>boom</b>"}
    results = [
        CellResult(matrix.cells[0], "failed", failure=failure),
        CellResult(matrix.cells[1], "missing"),
    ]
    paths = write_report(matrix, results, Store(tmp_path / "store"), tmp_path / "report")
    text = "".join(parse(paths[0]).text)
    assert "RuntimeError: <b>boom</b>" in text
    assert "not run yet" in text
    assert "No scores yet." in text
    assert not (tmp_path / "report" / "figures").exists()
    assert not (tmp_path / "store").exists()


def test_no_figure_of_an_older_report_is_left_beside_the_new_ones(filled, tmp_path):
    matrix, results, store = filled
    write_report(matrix, results, store, tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"not of a report")
    fewer = [r for r in results if r.cell.label != "smote"]
    paths = write_report(replace(matrix, cells=[r.cell for r in fewer]), fewer, store, tmp_path)
    left = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*paths, tmp_path / "files.txt", tmp_path / "figures" / "mine.png"}
    assert not list(tmp_path.rglob("*smote*"))


def test_no_file_of_somebody_else_is_written_over(filled, tmp_path, monkeypatch):
    """`--out .` beside the hand-written matrix.yaml, for one."""
    matrix, results, store = filled
    monkeypatch.chdir(tmp_path)
    Path("matrix.yaml").write_text("# mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out \.: holds files that no report wrote \(matrix.yaml\); give another"):
        write_report(matrix, results, store, Path())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("matrix.yaml", "# mine")]
    monkeypatch.setattr("reports.report._write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(matrix, results, store, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_list_of_files_that_is_not_a_reports_own_is_neither_believed_nor_written_over(filled, tmp_path):
    matrix, results, store = filled
    (tmp_path / "scan.png").write_bytes(b"mine")
    (tmp_path / "files.txt").write_text("my pictures\ncells of interest\nscan.png\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds files that no report wrote \(files.txt\)"):
        write_report(matrix, results, store, tmp_path)
    assert (tmp_path / "scan.png").read_bytes() == b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["files.txt", "scan.png"]


def test_a_report_tells_whose_it_is(filled, tmp_path):
    matrix, results, store = filled
    write_report(matrix, results, store, tmp_path)
    assert is_of(tmp_path, matrix)
    assert not is_of(tmp_path, replace(matrix, cells=matrix.cells[1:]))
    assert not is_of(tmp_path / "figures", matrix)


def test_several_data_sets_have_their_own_parts_and_credentialed_ones_are_named(tmp_path):
    folder = fixtures.make_report(
        tmp_path,
        methods=fixtures.METHODS[:1],
        datasets=(fixtures.Blobs(), fixtures.Ward()),
        seeds=(0, 1),
        study=Study(x="row", line="method", columns=["map_tail"]),
    )
    text = "".join(parse(folder / "report.html").text)
    headings = ("Results on blobs", "Results on ward", "Figures: blobs", "Figures: ward")
    places = [text.rindex(heading) for heading in headings]  # the contents name them before
    assert places == sorted(places), "the tables of all data sets come first"
    assert places[2] < text.index("figures/blobs-study.pdf") < places[3] < text.index("figures/ward-study.pdf")
    assert (folder / "figures" / "blobs-study.png").read_bytes() != (folder / "figures" / "ward-study.png").read_bytes()
    assert (folder / "figures" / "ward-training-curves.png").is_file()
    assert "Do not share this page. It contains pictures of credentialed data (ward), synthetic images derived" in text


def test_images_of_a_credentialed_model_on_open_data_are_told_as_what_they_are(tmp_path, monkeypatch):
    cells = fixtures.make_matrix().cells
    monkeypatch.setattr(type(cells[0]), "sharing", "credentialed")
    text = "".join(parse(fixtures.make_report(tmp_path) / "report.html").text)
    assert "Do not share this page. It contains synthetic images on blobs that a credentialed diffusion model" in text
    assert "credentialed data" not in text
    store, matrix = Store(tmp_path / "store"), fixtures.make_matrix()
    write_report(matrix, fixtures.fill(matrix, store), store, tmp_path / "shared", share=True)
    text = "".join(parse(tmp_path / "shared" / "report.html").text)
    assert re.search(r"Images on [a-z-]+(1|blobs)? were made with a credentialed diffusion model", text)
    assert "credentialed data" not in text


@pytest.mark.parametrize(("seeds", "said"), [((0, 1, 2), ", with p, with the 95 % interval below it."), ((0,), ".")])
def test_the_heading_of_differences_names_what_stands_in_their_cells(tmp_path, seeds, said):
    text = "".join(parse(fixtures.make_report(tmp_path, seeds=seeds) / "report.html").text)
    assert f"Each cell shows the row minus its control at the same seed{said}" in " ".join(text.split())


def test_rows_whose_names_make_one_file_name_keep_their_figures_apart(tmp_path):
    names = {"smote": "α", "ours@5": "β"}
    store, matrix = Store(tmp_path / "store"), fixtures.make_matrix(methods=(fixtures.METHODS[1], fixtures.METHODS[3]))
    results = [
        replace(r, cell=replace(r.cell, row=replace(r.cell.row, label=names[r.cell.label])))
        for r in fixtures.fill(matrix, store)
    ]
    matrix = replace(matrix, cells=tuple(r.cell for r in results))
    paths = write_report(matrix, results, store, tmp_path / "report")
    assert len(set(paths)) == len(paths)
    grids = [p for p in paths if p.suffix == ".png" and "samples" in p.name]
    assert len({p.read_bytes() for p in grids}) == 2
    text = "".join(parse(paths[0]).text)
    assert {p.stem for p in paths if p.suffix == ".png"} == set(re.findall(r"figures/(\S+)\.pdf", text))


def test_a_name_that_is_taken_gets_a_number():
    taken: set[str] = set()
    assert [unique(n, taken) for n in ("a-1", "a", "a", "A", "a-2", "b")] == ["a-1", "a", "a-2", "A-3", "a-2-2", "b"]


def test_the_nearest_images_are_drawn_with_their_shares_of_copies(filled):
    _, results, store = filled
    drawing = nearest_images(results, store, Looks(m.label for m in fixtures.METHODS))
    (ax,) = drawing.draw(LIGHT).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["held-out real", "smote", "ours@0", "ours@5"]
    assert [t.get_text() for t in ax.texts].count("75 % / 25 %") == 3
    folder = store.folder(results[1].cell.fidelity)
    made, held_out = (np.load(folder / f"nearest_{name}.npy") for name in ("synthetic", "held_out"))
    want = np.sort(made / np.median(held_out))
    drawn = [np.sort(line.get_xdata()) for line in ax.get_lines()]
    assert any(len(x) == len(want) and np.allclose(x, want) for x in drawn)


def test_variants_that_fused_the_same_pairs_share_a_strip(filled):
    matrix, results, store = filled
    strips = fusion_strips(results, store)
    assert [s.title for s in strips] == ["How a fused image was made: ours@0, ours@5"]


def test_pictures_are_of_the_class_they_stand_beside(filled):
    matrix, results, store = filled
    pictures = load_pictures(results[1], store)
    table = pictures.table
    for name in table.tail:
        c = table.class_names.index(name)
        assert (pictures.augmented.target_class[pictures.made_for(name, 5)] == c).all()
        having = table.images[pictures.train_rows[table.labels[pictures.train_rows, c] == 1]]
        for image in pictures.real_of(name, 3):
            assert any(np.array_equal(image, other) for other in having)


def test_no_pictures_without_the_stage(filled, tmp_path):
    _, results, _ = filled
    assert load_pictures(results[1], Store(tmp_path)) is None


def test_charts_survive_classes_and_methods_without_numbers(filled):
    matrix, results, store = filled
    facts, looks = dataset_facts(matrix.cells[0], store), Looks(m.label for m in fixtures.METHODS)
    thin = []
    for r in results:
        ap = {**r.scores["ap"], "Fracture": None}
        thin.append(replace(r, scores={**r.scores, "ap": ap}, fidelity={**r.fidelity, "label_fidelity": None}))
    assert isinstance(charts.label_fidelity(thin, facts, looks), Omitted)
    charts.ap_by_frequency(thin, facts, looks).draw(LIGHT).canvas.draw()
    bare = [replace(r, fidelity=None) for r in thin]
    charts.quality_by_steps(bare, looks).draw(LIGHT).canvas.draw()


def test_figures_show_the_numbers_of_the_results(filled):
    matrix, results, store = filled
    facts, looks = dataset_facts(matrix.cells[0], store), Looks(m.label for m in fixtures.METHODS)
    figure = charts.ap_by_frequency(results, facts, looks).draw(LIGHT)
    tail = sorted(fixtures.TAIL, key=facts.train_counts.get)
    line = next(x for x in figure.axes[0].get_lines() if x.get_color() == looks.colour["smote"])
    assert list(line.get_ydata()) == [results[1].scores["ap"][c] for c in tail]
    assert list(line.get_xdata()) == [0, 1, 2]
    named = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert named == [f"{c}  {100 * facts.train_counts[c] / 120:.2g} %" for c in tail]
    figure = charts.quality_by_steps(results, looks).draw(LIGHT)
    point = next(x for x in figure.axes[0].get_lines() if x.get_color() == looks.colour["ours@5"])
    assert point.get_xydata().tolist() == [[5.0, results[3].fidelity["fid_tail"]]]


class Stronger(fixtures.Mixes):
    strength: int = 2


def test_a_line_joins_rows_that_differ_in_the_steps_alone(filled):
    results = list(filled[1])
    for r in filled[1]:
        if r.cell.label.startswith("ours@"):  # the same method with another setting, as a row with a preset is
            method = Stronger(denoise_steps=r.cell.method.denoise_steps)
            row = replace(r.cell.row, label=f"strong@{method.denoise_steps}", method=method)
            results.append(replace(r, cell=replace(r.cell, row=row)))
    figure = charts.quality_by_steps(results, Looks(r.cell.label for r in results)).draw(LIGHT)
    joined = [x for x in figure.axes[0].get_lines() if len(x.get_xdata()) > 1 and x.get_linestyle() == "-"]
    assert [list(line.get_xdata()) for line in joined] == [[0, 5], [0, 5]]


def test_published_numbers_of_a_row_are_beside_its_own(filled):
    figure = charts.quality_by_steps(filled[1], Looks(m.label for m in fixtures.METHODS)).draw(LIGHT)
    for ax, column in zip(figure.axes, ("fid_tail", "map_tail"), strict=True):
        hollow = {
            tuple(p) for x in ax.get_lines() if x.get_markerfacecolor() == "none" for p in x.get_xydata().tolist()
        }
        rows = published().rows
        assert hollow == {(0.0, rows["ours@0"][column]), (5.0, rows["ours@5"][column])}


@pytest.mark.parametrize("said", [True, False])
def test_published_numbers_are_in_the_figure_only_where_the_tables_have_them(filled, said):
    matrix, results, store = filled
    asked = replace(matrix, settings=matrix.settings.model_copy(update={"published": said}))
    (part,) = parts_of(asked, results, store)
    (steps,) = [f for f in figures_of(part, store, with_pictures=False) if f.title == "Quality against steps"]
    figure = steps.draw(LIGHT)
    hollow = [x for ax in figure.axes for x in ax.get_lines() if x.get_markerfacecolor() == "none"]
    (legend,) = figure.legends
    words = [steps.caption, *(text.get_text() for text in legend.get_texts())]
    assert bool(hollow) == said
    assert any("poster" in text or "the paper" in text or "published" in text for text in words) == said


def test_classes_of_equal_frequency_do_not_lie_on_each_other(filled):
    matrix, results, store = filled
    facts = dataset_facts(matrix.cells[0], store)
    alike = replace(facts, train_counts=dict.fromkeys(facts.class_names, 12))
    figure = charts.ap_by_frequency(results, alike, Looks(m.label for m in fixtures.METHODS)).draw(LIGHT)
    for ax in figure.axes:
        places = {tick.get_position()[0] for tick in ax.get_xticklabels()}
        assert len(places) == len(ax.get_xticklabels()) == 3
        assert all(set(line.get_xdata()) == places for line in ax.get_lines())


def test_method_looks_do_not_depend_on_who_is_missing():
    labels = [f"m{i}" for i in range(9)]
    looks = Looks(labels)
    assert len({(looks.colour[m], looks.marker[m]) for m in labels}) == 9
    assert Looks(labels[:3]).colour["m2"] == looks.colour["m2"]


def test_names_of_files_and_labels():
    assert slug("my data/1", "samples", "ours@5") == "my-data-1-samples-ours-5"
    assert two_lines("Enlarged Cardiomediastinum") == "Enlarged\nCardiomediastinum"
    assert two_lines("Pneumomediastinum") == "Pneumomediastinum"


@pytest.mark.parametrize(("seconds", "text"), [(8.12, "8.1 s"), (185, "3 min 05 s"), (7440, "2 h 04 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
