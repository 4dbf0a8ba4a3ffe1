"""Runs a function in another process, which shares no memory with this one and hashes strings differently."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Argument = TypeVar("Argument")


def in_another_process(function: Callable[[Path, Argument], T], argument: Argument) -> T:
    """Return `function(folder, argument)`, computed by a spawned process in an empty folder.

    The process is kept for the next call, because most of its time goes into imports.
    """
    with tempfile.TemporaryDirectory(prefix="bench-elsewhere-") as folder:
        return _process().submit(function, Path(folder), argument).result(timeout=240)


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
