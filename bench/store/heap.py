"""Keeps the memory that a batch frees for the next batch, where the C library is glibc.

A network on the CPU allocates and frees the same large blocks at every step. By default glibc gives such blocks back to
the kernel at once, and the next step takes a page fault for every 4 KiB of them. Keeping them saves 6 to 24 % of the
time of diffusion models and codecs, and nothing of DenseNet121's (`benchmarks/README.md`). No result changes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGEST_BLOCK = 64 << 20  # Larger blocks go back to the kernel at once, so that they leave no holes in the heap.
_MOST_KEPT = 128 << 20  # of free memory at the end of the heap
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, once in a process, and return whether it was told.

    It is not where the C library is another one, or where the user's environment tunes it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS_OWN):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
