"""The page as a browser shows it: nothing fetched, nothing wider than the window, pictures there, prints."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.beside_fid import DISTANCES, MANIFOLD
from reports.page import page
from reports.paper_table import parts_of
from reports.redaction import export
from tests.unit.reports import report_fixtures as fixtures

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")

# Measures the page that the address names in frames of two widths, and leaves the findings in a `pre`. What is folded is
# opened first. The page itself holds no script.
PROBE = """<!doctype html><title>waiting</title><script>
const widths = [420, 1280], found = {};
const measure = frame => {
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll('details').forEach(folded => folded.open = true);
  const pictures = [...page.images];
  return {
    overflow: root.scrollWidth - root.clientWidth,
    tables: page.querySelectorAll('table').length,
    scrolling: [...page.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth)
      .map(e => `${e.getAttribute('aria-label')}: ${e.scrollWidth} > ${e.clientWidth}`),
    broken: pictures.filter(p => !p.complete || !p.naturalWidth).length,
    pictures: pictures.length,
    resources: frame.contentWindow.performance.getEntriesByType('resource')
      .map(e => e.name).filter(n => !n.startsWith('data:')).length,
    scripts: page.scripts.length,
    bold: page.querySelectorAll('main b').length,
    unreadable: [...page.querySelectorAll('p, li, td, th, dd, figcaption')]
      .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).length,
  };
};
for (const width of widths) {
  const frame = document.createElement('iframe');
  frame.style.width = width + 'px'; frame.style.height = '900px'; frame.src = location.search.slice(1);
  frame.onload = () => {  // a load event waits for the pictures
    found[width] = measure(frame);
    if (Object.keys(found).length === widths.length) {
      document.body.innerHTML = '';
      document.body.append(Object.assign(document.createElement('pre'), {textContent: JSON.stringify(found)}));
    }
  };
  document.addEventListener('DOMContentLoaded', () => document.body.append(frame));
}
</script><body></body>"""


class Recording(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


def browse(profile: Path, *args: str) -> str:
    """Run chromium headless and return what it prints."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
    ]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixtures.make_report(tmp_path_factory.mktemp("page"), methods=fixtures.METHODS[:4])


def measure(folder: Path, page: str, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what the probe finds at each width, and what the server was asked for."""
    (folder / "probe.html").write_text(PROBE, encoding="utf-8")
    Recording.asked = []
    handler = functools.partial(Recording, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/probe.html?{page}"
        text = browse(profile, "--virtual-time-budget=20000", "--dump-dom", url)
        server.shutdown()
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", text)[1])), list(Recording.asked)


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    return measure(folder, "report.html", tmp_path_factory.mktemp("profile"))


LONG = ("of which every name has several words and more than sixty letters", "_without_a_place_to_break" * 3)


def widest(matrix: Matrix, results: list[CellResult]) -> tuple[Matrix, list[CellResult]]:
    """Return a matrix of fifteen rows with long names, in which every table has all of its columns."""
    found = []
    columns = (*DISTANCES, *MANIFOLD)
    for name in ("", *LONG):
        for r in results:
            row = replace(r.cell.row, label=r.cell.label + (f" {name}" if name else ""))
            numbers = {c.key: -1234.5678 - 321 * r.cell.seed for c in columns}
            classes = {c: v | {"n_floor": 4} for c, v in (r.fidelity or {})["per_class"].items()}
            drawn = {"floor_draws": 20}
            fidelity = {
                **drawn,
                **(r.fidelity or {}),
                **(numbers if r.cell.method.makes_images else {}),
                "per_class": classes,
            }
            diagnostics = {f"diagnostic_number_{i}": 0.125 * r.cell.seed for i in range(14)}
            found.append(replace(r, cell=replace(r.cell, row=row), fidelity=fidelity, diagnostics=diagnostics))
    return replace(matrix, cells=tuple(r.cell for r in found)), found


@pytest.fixture(scope="module")
def widths(tmp_path_factory):
    """What is measured of pages without figures: one seed, three seeds, and the widest matrix."""
    folder = tmp_path_factory.mktemp("wide")
    found = {}
    for name, seeds in {"one-seed": (0,), "seeds": (0, 1, 2), "widest": (0, 1, 2)}.items():
        store, matrix = Store(folder / name), fixtures.make_matrix(seeds=seeds)
        results = fixtures.with_nearest(fixtures.fill(matrix, store), store)
        if name == "widest":
            matrix, results = widest(matrix, results)
        parts = parts_of(matrix, results, store)
        settings = f"name: {'a long line of settings ' * 20}{'x' * 400}"
        text = page(export(matrix, results, store, False), store, parts, {part.label: [] for part in parts}, settings)
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
        found[name] = measure(folder, f"{name}.html", tmp_path_factory.mktemp("profile"))[0]
    return found


@pytest.mark.parametrize(("name", "n_tables"), [("one-seed", 5), ("seeds", 5), ("widest", 9)])
def test_no_table_scrolls_sideways_in_a_window_of_1280_pixels(widths, name, n_tables):
    found = widths[name]["1280"]
    assert found["tables"] >= n_tables
    assert found["scrolling"] == []
    assert found["overflow"] <= 0


@pytest.mark.parametrize("width", ["420", "1280"])
def test_page_fits_and_shows_its_pictures(measured, width):
    found = measured[0][width]
    assert found["overflow"] <= 0
    assert found["pictures"] == 9
    assert found["broken"] == 0
    assert found["unreadable"] == 0


def test_page_fetches_nothing_and_runs_nothing(measured):
    found, asked = measured
    assert {a for a in asked if a != "/favicon.ico"} == {"/probe.html?report.html", "/report.html"}
    for width in found.values():
        assert (width["resources"], width["scripts"], width["bold"]) == (0, 0, 0)


def test_page_prints(folder, tmp_path):
    target = tmp_path / "page.pdf"
    browse(tmp_path / "profile", f"--print-to-pdf={target}", (folder / "report.html").as_uri())
    assert target.read_bytes().startswith(b"%PDF")
