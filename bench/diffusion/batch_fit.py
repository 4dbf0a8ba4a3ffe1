"""How many images go through a network at once: as many as the device's memory takes, found by trying.

No sample depends on it but for its last bits, as with any batch: samples share neither noise nor generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bench.errors import StageError

T = TypeVar("T")


class BatchFit:
    """Remembers, for each kind of work, how many images were not too many."""

    def __init__(self) -> None:
        """Begin without any limit."""
        self._most: dict[str, int] = {}
        self._relieved: set[str] = set()

    def run(
        self, what: str, n: int, compute: Callable[[slice], T], relieve: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Return what `compute` gives for the rows 0 to n, in pieces that fit into memory, in order.

        A piece that does not fit is halved and tried again. Where one image alone does not fit, `relieve` is called,
        once and for good: it may trade speed for memory.

        Raises:
            StageError: if even then one image is too much.
        """
        parts: list[T] = []
        done = 0
        while done < n or not parts:
            rows = slice(done, min(n, done + self._most.get(what, n)))
            too_much = _try(compute, rows, parts)
            if too_much is None:
                done = rows.stop
            else:
                self._shrink(what, rows.stop - rows.start, relieve, too_much)
        return parts

    def _shrink(self, what: str, size: int, relieve: Callable[[], None], said: str) -> None:
        import torch

        torch.cuda.empty_cache()  # nothing where there is no GPU
        if size > 1:
            self._most[what] = size // 2
        elif what not in self._relieved:
            self._relieved.add(what)
            relieve()
        else:
            raise StageError(
                f"diffusion: {what} one image takes more memory than the device has ({said}); "
                "set diffusion.precision=float16, or choose a smaller image_px"
            )


def _try(compute: Callable[[slice], T], rows: slice, parts: list[T]) -> str | None:
    """Append a piece's result, or return what was said where memory did not suffice.

    The error must be gone before the next try: it holds the frames, and so the tensors, of the failed one.
    """
    import torch

    try:
        parts.append(compute(rows))
    except torch.OutOfMemoryError as error:
        return " ".join(str(error).split())[:160]
    return None
