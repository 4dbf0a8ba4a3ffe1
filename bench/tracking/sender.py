"""Copy records to W&B, in child processes that cannot stop what is being computed.

W&B runs in a child process that reads the records (`bench.tracking.wandb_child`). In this process, a failed login, a
dead network or a crash in W&B's library could block or end the run. In a child it costs a line of warning; what was not
copied is tried again later, and `bench upload` sends what is missing in the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from bench.errors import ConfigError, listed, nearest
from bench.privacy.border import check_server
from bench.tracking.marker import has_offline_copy, was_open
from bench.tracking.wandb_child import Child, server_of_wandb

Mode = Literal["offline", "online", "off"]
MODES: tuple[Mode, ...] = ("offline", "online", "off")
Say = Callable[[str], object]

_BATCH = 200  # records for one child; their folders stay far below the system's limit on a command line
_WAIT_S = 60.0  # longest wait for the last child in the end
_WAIT_PER_RECORD_S = 10.0  # added to it for every record that is still to be copied
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 900.0  # before what could not be copied is tried again; doubled each time
_LATE = "it did not finish in time"
_LOOK_S = 0.1  # between two looks at a child that we wait for


def check_mode(mode: str, share_with: str | None) -> None:
    """Refuse a mode that does not exist, or a server that may not have the data.

    Raises:
        ConfigError: for an unknown mode, or a server that may not have the data (`bench.privacy.border.check_server`).
    """
    if mode not in MODES:
        raise ConfigError(f"--wandb {mode}: no such mode{nearest(mode, MODES)} (have: {', '.join(MODES)})")
    if share_with is not None:
        check_server(share_with, mode)
        check_server(share_with, mode, server_of_wandb(share_with))


def to_stderr(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def make_sender(
    root: Path, mode: str, share_with: str | None, say: Say | None, upload: str, what: str
) -> Sender | None:
    """Return what copies records to W&B for `--wandb MODE`, or None if the mode is `off`; see `Sender`.

    Raises:
        ConfigError: see `check_mode`.
    """
    check_mode(mode, share_with)
    return None if mode == "off" else Sender(root, mode, share_with, say or to_stderr, upload, what)


class Sender:
    """Copies records to W&B, one W&B run for each, in child processes. Only `close` waits for them.

    Attributes:
        sent: names of the records that were copied by this sender.
        there: those of which W&B had everything before.
        lacking: those that W&B lacks, each with the reason.
    """

    def __init__(self, root: Path, mode: str, share_with: str | None, say: Say, upload: str, what: str) -> None:
        """Copy records of the store in `root`.

        Args:
            root: the store's folder.
            mode: `offline` or `online`.
            share_with: host that the user allows to have everything, or None.
            say: prints one line of warning.
            upload: the command that sends what is missing in the end.
            what: what a record is about, in the plural, e.g. `cells`.
        """
        self.mode, self.share_with, self.say, self.upload, self.what = mode, share_with, say, upload, what
        self.sent: set[str] = set()
        self.there: set[str] = set()
        self.lacking: dict[str, str] = {}
        self._root = root.resolve()
        self._waiting: list[tuple[str, Path]] = []
        self._child: Child | None = None
        self._not_before, self._pause_s = 0.0, _PAUSE_S
        self._warned = self._closing = False
        self._were_open: list[str] = []

    def offer(self, name: str, folder: Path, record: dict[str, Any]) -> None:
        """Queue a record in its folder, unless W&B has it."""
        if was_open(folder, record):
            self._were_open.append(name)
        # Whether it was sent online is known by the child, which asks W&B where to.
        if self.mode == "offline" and has_offline_copy(folder, record, self.share_with):
            self.there.add(name)
        else:
            self._waiting.append((name, folder.resolve()))

    def close(self, wait: bool = False, on_progress: Callable[[], object] = lambda: None) -> None:
        """Copy what is left, and say which W&B lacks. No process is left after this.

        Args:
            wait: wait for as long as it takes; otherwise about 10 seconds for each record.
            on_progress: called now and then.
        """
        if self._were_open:
            self.say(
                f"warning: W&B was given pictures of {listed(self._were_open, 3)} while these data were said to be "
                f"open; delete them there, and their runs in {self._root / 'wandb'}"
            )
        n_left = len(self._waiting) + len(self._child.records if self._child else ())
        limit = float("inf") if wait else time.monotonic() + _WAIT_S + _WAIT_PER_RECORD_S * n_left
        self._not_before, self._closing = 0.0, True
        try:
            self.pump()
            while self._child is not None and time.monotonic() < limit:
                time.sleep(_LOOK_S)
                self.pump()
                on_progress()
            if self._child is not None:
                self._child.stop()
                self._collect(self._child, _LATE)
                self.lacking |= {name: _LATE for name, _ in self._waiting}
        finally:
            if self._child is not None:
                self._child.stop()
        self._say_lacking()

    def pump(self) -> None:
        """Collect the child if it has ended, and start the next one if records wait. Never blocks."""
        if self._child is not None:
            ended = self._child.has_ended()
            self._note(self._child)
            if not ended:
                return
            self._collect(self._child)
        if self._waiting and time.monotonic() >= self._not_before:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._child = Child(self.mode, self._root, self.share_with, batch, is_last_try=self._closing)

    def _note(self, child: Child) -> None:
        """Take note of what a child has told so far."""
        told = child.told()
        self.sent |= {name for name, became in told.items() if became == "sent"}
        self.there |= {name for name, became in told.items() if became == "there"}

    def _collect(self, child: Child, reason: str = "") -> None:
        """Take note of what became of a child's records. Those that W&B lacks wait for a later try, if there is one."""
        self._child = None
        self._note(child)
        lacking = child.lacking(reason)
        if not lacking:
            self._pause_s = _PAUSE_S
            child.remove_log()  # after a failure the log is kept: it says why
            return
        if child.is_last_try or reason:
            self.lacking |= lacking
            return
        self._waiting += [(name, folder) for name, folder in child.records if name in lacking]
        self._not_before = time.monotonic() + (0.0 if self._closing else self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if not self._warned and not self._closing:
            reason = next(iter(lacking.values()))
            self.say(f"warning: W&B ({self.mode}): {reason}; it is tried again later")
        self._warned = True

    def _say_lacking(self) -> None:
        if self.lacking:
            n = len(self.sent) + len(self.there) + len(self.lacking)
            names, reason = listed(sorted(self.lacking), 3), next(iter(self.lacking.values()))
            self.say(
                f"warning: W&B ({self.mode}) lacks {len(self.lacking)} of {n} {self.what} ({names}): {reason}; the "
                f"local records are complete, and `{self.upload}` sends what is missing"
            )
