"""Keep what was found in the text of modules between processes, so that only changed modules are parsed again.

Parsing a hundred modules takes a quarter of a second, which is a third of a run in which everything is finished. An
entry is found by a digest of the text itself, never by a path or a time. A clock that is set back, or a file that is
replaced within the same second, can therefore not bring back the facts of another text.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from bench.files import write_text

AFFECTS_RESULTS = False

_FILE = Path(__file__).parent / "__pycache__" / "code-facts.json"


def content_key(*texts: str) -> str:
    """Return what stands for texts and for the version of Python, whose parser reads them."""
    whole = json.dumps([sys.version, *texts])
    return hashlib.sha256(whole.encode()).hexdigest()


def remembered(key: str) -> Any:
    """Return the JSON value that was kept under a key, or None."""
    return _entries().get(key)


def remember(key: str, value: Any) -> None:
    """Keep a JSON value under a key. It is written when the process ends, if Python may write bytecode."""
    entries = _entries()
    if not _new and not sys.dont_write_bytecode:
        atexit.register(_write)
    entries[key] = _new[key] = value


_new: dict[str, Any] = {}


@functools.cache
def _entries() -> dict[str, Any]:
    """Return what is in the file; nothing if it is missing or damaged, for then the modules are parsed again."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_FILE.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


_MOST_ENTRIES = 4000  # a file of some megabytes; older entries, of texts that have changed since, are then dropped


def _write() -> None:
    entries = _entries() if len(_entries()) <= _MOST_ENTRIES else _new
    with contextlib.suppress(OSError):  # an installation that nobody may write to parses its modules every time
        write_text(_FILE, json.dumps(entries))
