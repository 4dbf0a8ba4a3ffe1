"""Finds how many images fit through a network at once, by trying and halving when memory runs out.

The limit depends on the device, so it must not change the samples. They have neither noise nor generators in common;
only their last bits may differ, as between any two batch sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bench.errors import StageError

T = TypeVar("T")


class BatchFit:
    """Runs work in pieces that fit into memory, and remembers the limit of each kind of work for the next call."""

    def __init__(self) -> None:
        """Start without a limit."""
        self._most: dict[str, int] = {}
        self._relieved: set[str] = set()

    def run(
        self, what: str, n: int, compute: Callable[[slice], T], relieve: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Return the results of `compute` on consecutive slices that cover the rows 0 to n, in order.

        A slice that does not fit is halved and tried again. If a single image does not fit, `relieve` is called once;
        it may trade speed for memory, and its effect stays.

        Args:
            what: the kind of work, as a gerund for messages ("decoding"). Each kind has a limit of its own.
            n: number of rows.
            compute: computes one slice.
            relieve: frees memory, for example by slicing attention.

        Raises:
            StageError: if a single image does not fit even after `relieve`.
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

        # Blocks cached for the larger piece would otherwise stay reserved. Without a GPU this does nothing.
        torch.cuda.empty_cache()
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
    """Append the result of `compute` to `parts` and return None, or return the message if memory ran out.

    The message is returned as text, because the exception must be gone before the next try. It refers to the frames
    of the failed try, and through them to its tensors, so that their memory would not be freed.
    """
    import torch

    try:
        parts.append(compute(rows))
    except torch.OutOfMemoryError as error:
        return " ".join(str(error).split())[:160]
    return None
