"""What is kept of modules between processes is found by their text alone; damage to it costs time, never a key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.pipeline import code_cache

PROGRAM = """
import sys
from pathlib import Path
from bench.pipeline import code_cache
code_cache._FILE = Path({file!r})
sys.dont_write_bytecode = {quiet}
sys.path.insert(0, {place!r})
import ast
parse, parsed = ast.parse, []
ast.parse = lambda text, *more: parsed.append(text) or parse(text, *more)
from acme import Make
print(Make().key, len(parsed))
"""
STAGE = "from bench.contract import Stage\nclass Make(Stage):\n    n: int = {n}\n"


def run(tmp_path: Path, n: int = 1, quiet: bool = False) -> tuple[str, int]:
    """Return the key of a stage, and how many modules were parsed for it, in a process of its own."""
    (tmp_path / "acme.py").write_text(STAGE.format(n=n), encoding="utf-8")
    program = PROGRAM.format(file=str(tmp_path / "facts.json"), place=str(tmp_path), quiet=quiet)
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    key, count = out.split()
    return key, int(count)


def test_only_changed_modules_are_parsed_again_and_keys_are_those_without_it(tmp_path: Path) -> None:
    first, n_first = run(tmp_path)
    again, n_again = run(tmp_path)
    changed, n_changed = run(tmp_path, n=22)
    back, n_back = run(tmp_path)
    assert (first == again == back, changed != first) == (True, True)
    assert n_first > 0
    assert (n_again, n_changed, n_back) == (0, 1, 0)
    (tmp_path / "facts.json").unlink()
    assert run(tmp_path) == (first, n_first)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}'])
def test_a_damaged_file_is_not_used(tmp_path: Path, damage: str) -> None:
    key, n_parsed = run(tmp_path)
    (tmp_path / "facts.json").write_text(damage, encoding="utf-8")
    assert run(tmp_path) == (key, n_parsed)


def test_where_no_bytecode_may_be_written_nothing_is_kept(tmp_path: Path) -> None:
    run(tmp_path, quiet=True)
    assert not (tmp_path / "facts.json").exists()


def test_the_key_of_an_entry_holds_all_of_its_texts() -> None:
    keys = {code_cache.content_key(*texts) for texts in (("a", "b"), ("ab",), ("a", "c"), ("", "ab"), ("a", "b", ""))}
    assert len(keys) == 5
