"""The page as a browser shows it: nothing fetched, nothing wider than the window, pictures there, prints."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.unit.reports import report_fixtures as fixtures

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")

# Measures a page in frames of two widths and leaves the findings in the title. The page itself holds no script.
PROBE = """<!doctype html><title>waiting</title><script>
const widths = [420, 1280], found = {};
const measure = frame => {
  const page = frame.contentDocument, root = page.documentElement;
  const pictures = [...page.images];
  return {
    overflow: root.scrollWidth - root.clientWidth,
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
  frame.style.width = width + 'px'; frame.style.height = '900px'; frame.src = 'report.html';
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


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    """What the probe found at each width, and what the server was asked for."""
    (folder / "probe.html").write_text(PROBE, encoding="utf-8")
    Recording.asked = []
    handler = functools.partial(Recording, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/probe.html"
        text = browse(tmp_path_factory.mktemp("profile"), "--virtual-time-budget=20000", "--dump-dom", url)
        server.shutdown()
    return json.loads(re.search(r"<pre>(.*?)</pre>", text)[1]), list(Recording.asked)


@pytest.mark.parametrize("width", ["420", "1280"])
def test_page_fits_and_shows_its_pictures(measured, width):
    found = measured[0][width]
    assert found["overflow"] <= 0
    assert found["pictures"] == 9
    assert found["broken"] == 0
    assert found["unreadable"] == 0


def test_page_fetches_nothing_and_runs_nothing(measured):
    found, asked = measured
    assert {a for a in asked if a != "/favicon.ico"} == {"/probe.html", "/report.html"}
    for width in found.values():
        assert (width["resources"], width["scripts"], width["bold"]) == (0, 0, 0)


def test_page_prints(folder, tmp_path):
    target = tmp_path / "page.pdf"
    browse(tmp_path / "profile", f"--print-to-pdf={target}", (folder / "report.html").as_uri())
    assert target.read_bytes().startswith(b"%PDF")
