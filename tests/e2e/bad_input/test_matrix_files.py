"""Matrix files that cannot be read, or would eat all memory: one line with the file and, where there is one, the line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.matrix.load import load_matrix
from tests.e2e.bad_input.matrices import TEXT, write
from tests.e2e.driver import Bench, refused


def _grown(first: str, kind: str) -> str:
    """Return nine lines of aliases that stand for a thousand million values."""
    lines = [f"a: &a {first}"]
    for below, name in zip("abcdefgh", "bcdefghi", strict=True):
        ten = ",".join([f"*{below}"] * 10)
        lines.append(f"{name}: &{name} [{ten}]" if kind == "list" else f"{name}: &{name}\n  <<: [{ten}]")
    return "\n".join(lines) + "\n"


MAPPING = "m.yaml: want a mapping of settings (lines `key: value`), got "

# the file's text or bytes, and how the line begins after `error: `
CASES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", MAPPING + "nothing"),
    "only comments": ("# name: x\n", MAPPING + "nothing"),
    "a list": ("- a\n- b\n", MAPPING + "a list"),
    "a word": ("hello\n", MAPPING + "a text"),
    "a number": ("3\n", MAPPING + "a number"),
    "a forgotten colon": ("name small\n", MAPPING + "a text"),
    "unclosed": (TEXT + "seeds: [1\n", "m.yaml:15: not YAML: expected ',' or ']'"),
    "tabs": (TEXT + "scores:\n\tn_bootstrap: 3\n", "m.yaml:15: not YAML: found character '\\t' that cannot start any"),
    "two documents": (TEXT + "---\n" + TEXT, "m.yaml:14: not YAML: but found another document; one document a file"),
    "key twice": (TEXT + "seeds: [1]\nseeds: [2]\n", "m.yaml:15: not YAML: key 'seeds' is given twice; give it once"),
    "key twice below": (TEXT + "scores: {n_bootstrap: 3, n_bootstrap: 4}\n", "m.yaml:14: not YAML: key 'n_bootstrap' is"),
    "key of a number": (TEXT + "3: 4\n", "m.yaml:14: not YAML: key 3 is not text; put it in quotes"),
    "key of a yes": (TEXT + "yes: 4\n", "m.yaml:14: not YAML: key true is not text; put it in quotes"),
    "key of a list": (TEXT + "? [a, b]\n: 4\n", "m.yaml:14: not YAML: key ['a', 'b'] is not text; put it in quotes"),
    "key that steers a terminal": (TEXT + '"a\\e[31m": 3\n', "m.yaml.a\\x1b[31m: unknown setting"),
    "key without end": (TEXT + "? " + "k" * 3000 + "\n: 3\n", "m.yaml.kkk"),
    "unknown anchor": (TEXT + "seeds: *mine\n", "m.yaml:14: not YAML: found undefined alias"),
    "alias of itself": ("name: &n [*n]\n", "m.yaml:1: not YAML: an alias stands inside the value that it names"),
    "alias of itself in settings": (
        TEXT + "settings: &s {baseline: *s}\n",
        "m.yaml:14: not YAML: an alias stands inside the value that it names",
    ),
    "a thousand million values": (
        TEXT + _grown("[x,x,x,x,x,x,x,x,x,x]", "list").replace("i: &i", "description: &i"),
        "m.yaml:18: not YAML: aliases make this more than 100000 values; write out fewer",
    ),
    "a thousand million merges": (
        _grown("{q: 1}", "merge") + TEXT,
        "m.yaml:11: not YAML: aliases make this more than 100000 values; write out fewer",
    ),
    "merge of a number": (TEXT + "<<: 3\n", "m.yaml:14: not YAML: expected a mapping or list of mappings for merging"),
    "deep lists": ("name: " + "[" * 3000, "m.yaml: nested too deeply (at most 40 levels)"),
    "deep mappings": ("name: " + "{b: " * 60 + "}" * 60, "m.yaml:1: not YAML: nested too deeply (at most 40 levels)"),
    "Python object": (
        TEXT + "description: !!python/object/apply:os.mkdir [made]\n",
        "m.yaml:14: not YAML: could not determine a constructor for the tag",
    ),
    "own tag": (TEXT + "description: !mine 3\n", "m.yaml:14: not YAML: could not determine a constructor for the tag"),
    "tag that lies": (TEXT + "description: !!bool perhaps\n", "m.yaml: not YAML: a value cannot be read"),
    "number of 5,000 digits": (TEXT + "seeds: [" + "1" * 5000 + "]\n", "m.yaml: not YAML: a value cannot be read"),
    "zero byte": (TEXT.encode() + b"description: a\0b\n", "m.yaml: not YAML: unacceptable character #x0000"),
    "escaped zero byte": (
        TEXT + 'diffusion: {folder: "a\\0b"}\n',
        "m.yaml:14: not YAML: text with a character that no file can hold",
    ),
    "half a character": (
        TEXT + 'description: "\\ud800"\n',
        "m.yaml:14: not YAML: text with a character that no file can hold",
    ),
    "10 MB": (TEXT + "# " + "x" * (10 << 20) + "\n", "m.yaml: 10 MiB; such a file is at most 1 MiB"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "m.yaml: not UTF-8 text (byte 0); save the file as UTF-8"),
    "UTF-16": (TEXT.encode("utf-16"), "m.yaml: not UTF-8 text (byte 0); save the file as UTF-8"),
    "latin-1": (TEXT.encode() + "description: grün\n".encode("latin-1"), "m.yaml: not UTF-8 text (byte "),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_cannot_be_read_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    text, said = CASES[case]
    path = write(tmp_path, text)
    assert refused(bench, "run", path, "--store", tmp_path / "store", folder=tmp_path).startswith(said)


def _linked(folder: Path) -> Path:
    (folder / "link.yaml").symlink_to(folder / "nothing.yaml")
    return folder / "link.yaml"


def _piped(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.yaml")
    return folder / "pipe.yaml"


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "demmo", "no such file and no shipped matrix of that name"),
    "a folder": (lambda folder: folder, "is a folder; give a YAML file or one of audit, chestmnist, "),
    "a link to nothing": (_linked, "is a broken link; give a YAML file"),
    "a pipe": (_piped, "is not a regular file; give a YAML file"),
    "below a file": (lambda folder: write(folder, TEXT) / "below", "no such file"),
    "a name too long": (lambda folder: folder / ("n" * 300), "File name too long"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_path_that_is_no_matrix_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    make, said = PLACES[case]
    path = make(tmp_path)
    line = refused(bench, "run", path, "--store", tmp_path / "store", folder=tmp_path)
    assert str(path) in line
    assert said in line


def test_a_file_that_one_may_not_read_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    line = refused(bench, "run", path, "--store", tmp_path / "store", folder=tmp_path)
    assert line == "m.yaml: cannot be read: Permission denied"


GOOD_FILES: dict[str, str | bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "lines of Windows": TEXT.replace("\n", "\r\n"),
    "anchors": TEXT + "scores: &s {n_bootstrap: 3}\n",
    "merges": TEXT.replace("classifier:", "classifier:\n  <<: [{steps: 2}, {batch_size: 4}]"),
    "a day for a description": TEXT + "description: 2024-13-45\n",
    "a smile": TEXT + "description: \U0001f600\n",
    "a start of a document": "%YAML 1.1\n---\n" + TEXT + "...\n",
}


@pytest.mark.parametrize("case", GOOD_FILES)
def test_a_file_that_is_only_unusual_is_read(tmp_path: Path, case: str) -> None:
    matrix = load_matrix(str(write(tmp_path, GOOD_FILES[case])))
    assert [c.name for c in matrix.cells] == ["phantom/baseline/s0"]
    assert matrix.settings.classifier.steps == 1
    assert not isinstance(matrix.settings.description, bytes)
