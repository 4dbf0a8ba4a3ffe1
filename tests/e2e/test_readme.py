"""What README.md and docs/ tell a reader to do works: links, commands and options exist, and the method runs in a matrix."""

import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.plugins import registry
from bench.testing import other_process as elsewhere
from bench.testing.methods import METHOD_CHECKS
from tests.e2e.test_failures import installed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted(ROOT.glob("docs/*.md"))
GUIDE = [ROOT / "README.md", *DOCS]
PAGES = [
    *GUIDE,
    *(ROOT / f for f in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *ROOT.glob("reports/results/*.md"),
]
OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]  # that one may name what is gone
MOST_WORDS = 1300
FIRST_LINES = 10

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
_RUNNABLE = re.compile(r"^ *(bench|make|python -m) \w+", re.M)
_OPTION = re.compile(r"(?<=\s)--?[a-z][\w-]*")


def name_of(page):
    return str(page.relative_to(ROOT))


def without_blocks(text):
    """Return a page without its blocks of code, in which a `#` is no heading and brackets are no link."""
    return _BLOCK.sub("", text)


def links(page):
    """Return the links and pictures of a page that lead into the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text(encoding="utf-8")))
    return [link for link in dict.fromkeys(found) if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """Return what GitHub calls the headings of a page; the second of two equal ones ends with `-1`."""
    seen, found = Counter(), set()
    for heading in re.findall(r"^#+ +(.+?) *$", without_blocks(page.read_text(encoding="utf-8")), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def commands(page):
    """Return (verb, options) of every `bench` command on a page: in blocks of shell code, and between backticks."""
    text = page.read_text(encoding="utf-8")
    shell = [line for kind, block in _BLOCK.findall(text) if kind == "bash" for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]*)`", without_blocks(text).replace("\n", " "))
    found = []
    for code in [*shell, *spans]:
        for part in re.split(r"&&|;|\||\s#\s", code):
            if command := re.match(r"\s*bench ([a-z]\w*)(.*)", part):
                found.append((command[1], tuple(_OPTION.findall(command[2]))))
    return found


def run(command, plugins, **kwargs):
    env = os.environ | {"BENCH_METHODS": str(plugins)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, **kwargs)


@functools.cache
def shown(*arguments):
    """Return what `bench` prints for these arguments."""
    return run([sys.executable, "-m", "bench.cli", *arguments], ROOT).stdout


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The folder with README's example, as `BENCH_METHODS` names it."""
    code = re.search(r"```python\n(.*?class Jitter\(Method\).*?)```", README, re.S).group(1)
    folder = tmp_path_factory.mktemp("methods")
    (folder / "jitter.py").write_text(code, encoding="utf-8")
    return folder


def test_the_example_conforms(plugins, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_METHODS", str(plugins))  # for a process of its own: one that is there has read it before
    monkeypatch.setattr(elsewhere, "_process", functools.cache(elsewhere._process.__wrapped__))
    with installed(plugins):
        method = registry.methods()["jitter"].toy()
        for check in METHOD_CHECKS:
            check(method, tmp_path / check.__name__)
    assert len(METHOD_CHECKS) >= 8


def test_the_example_runs_in_a_matrix(plugins, tmp_path):
    command = [sys.executable, "-m", "bench.cli", "run", "toy", "--json", "--wandb", "off", "--store", str(tmp_path)]
    command += ["--set", "methods=[baseline, jitter@2]", "--set", "settings={}", "--set", "classifier.steps=1"]
    done = run(command, plugins)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert rows["jitter@2"]["state"] == "done"
    assert rows["jitter@2"]["n_synthetic"] == 15  # 3 for each of five tail classes
    assert rows["jitter@2"]["fid_tail"] > 0


@pytest.mark.parametrize(
    ("page", "link"), [pytest.param(p, t, id=f"{name_of(p)}-{t}") for p in PAGES for t in links(p)]
)
def test_links_lead_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.is_relative_to(ROOT)
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_every_page_is_reached_from_the_readme():
    todo, reached = [ROOT / "README.md"], set()
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md" and page.is_file():
            reached.add(page)
            todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert not [name_of(page) for page in DOCS if page not in reached]


def test_the_readme_is_short():
    assert len(README.split()) <= MOST_WORDS


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_a_page_begins_with_a_command(page):
    text = page.read_text(encoding="utf-8")
    begins = next(block.start(2) for block in _BLOCK.finditer(text) if block[1] == "bash")
    command = _RUNNABLE.search(text, begins)
    assert text.count("\n", 0, command.start()) < FIRST_LINES


@pytest.mark.parametrize("page", OF_TODAY, ids=name_of)
def test_the_verbs_exist(page):
    for verb in {verb for verb, _ in commands(page)}:
        assert re.search(rf"^ +{verb} ", shown("--help"), re.M), verb


@pytest.mark.parametrize("page", OF_TODAY, ids=name_of)
def test_the_options_exist(page):
    for verb, option in {(verb, option) for verb, options in commands(page) for option in options}:
        assert re.search(rf"(?<![\w-]){option}\b(?!-)", shown(verb, "--help")), f"bench {verb} {option}"


def test_the_commands_are_found():
    found = commands(ROOT / "docs" / "run-a-matrix.md")
    assert ("run", ("--jobs",)) in found
    assert len({verb for verb, _ in found}) >= 10
