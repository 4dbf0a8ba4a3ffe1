"""Steps that no signal may cut in two, and a wish to stop that cannot get lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Wish:
    """Whether a signal has asked this command to stop.

    A handler raises KeyboardInterrupt wherever the main thread stands. In a finaliser, or in a callback of the garbage
    collector or of the import system, Python prints that exception and goes on. So the wish is kept here as well, and
    loops that run for hours ask for it.
    """

    asked = False

    @classmethod
    def obey(cls) -> None:
        """Raise KeyboardInterrupt if a signal has asked to stop."""
        if cls.asked:
            raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP until the end of the block, from programs that are started in it as well."""
    # The mask of this thread is what programs that we start inherit. It is not enough for ourselves: the kernel gives
    # the signal to another thread then (of the progress display, of a lease), and Python still raises in the main one.
    held: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in STOPS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            if handler is not None:  # None stands for a handler that is not Python's
                signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
