"""Remember which stages were handed to SLURM, and as which jobs.

The records are kept in the store, so that any later `bench` command, on any host, can continue from them.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.files import read_json, write_json
from bench.store.store import Store


class Ledger:
    """The submissions of a store, one file each under `<store>/slurm/submitted/`.

    Submissions are separate files, because several drivers add to them and a shared file would need a lock.
    """

    def __init__(self, store: Store) -> None:
        """Read and write the submissions of a store."""
        self.locks = store.locks
        self.folder = store.root / "slurm" / "submitted"
        self.jobs_folder = store.root / "slurm" / "jobs"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other drivers from submitting during a block, so that a stage that several want is submitted once."""
        with self.locks.alone("slurm-submit"):
            yield

    def add(self, jobs: Mapping[str, str]) -> None:
        """Record a submission: `jobs` maps the key of each stage to the id of its job."""
        if jobs:
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            write_json(
                self.folder / f"{at.replace(':', '')}-{uuid.uuid4().hex[:8]}.json", {"at": at, "jobs": dict(jobs)}
            )

    def jobs(self) -> dict[str, str]:
        """Return the latest job of every submitted stage that was not forgotten, as a mapping from key to job id."""
        # File names begin with the time, so in sorted order a later job of a stage replaces an earlier one.
        found: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.json")):
            found |= jobs_in(path)
        return found

    def prune(self, live: Mapping[str, str]) -> None:
        """Forget submissions whose jobs have all left the queue, and remove the files that were kept for them.

        Args:
            live: the jobs in the queue; its keys are job ids.
        """
        entries = {path: jobs_in(path) for path in self.folder.glob("*.json")}
        over = {path for path, jobs in entries.items() if not any(job in live for job in jobs.values())}
        wanted = {key for path, jobs in entries.items() if path not in over for key in jobs}
        for path in over:
            path.unlink(missing_ok=True)
            for key, job in entries[path].items():
                _forget_files(self.jobs_folder, job)
                if key not in wanted:
                    (self.folder.parent / "stages" / f"{key}.json").unlink(missing_ok=True)
        for link in self.jobs_folder.glob(".submission_file_*.sh"):
            if not link.exists():  # submitit leaves a link to each script, which now points to nothing
                link.unlink(missing_ok=True)

    def output(self, job: str) -> list[Path]:
        """Return the files with what a job printed outside the log of its stage."""
        return sorted(self.jobs_folder.glob(f"{job}_*_log.out")) if job else []


def jobs_in(path: Path) -> dict[str, str]:
    """Return the jobs in one submission file, as a mapping from key to job id; empty if the file is damaged."""
    found = (read_json(path) or {}).get("jobs")
    return {k: j for k, j in found.items() if isinstance(j, str)} if isinstance(found, dict) else {}


def _forget_files(folder: Path, job: str) -> None:
    """Remove the pickles and scripts of a job; its output is kept for `bench logs`."""
    for pattern in (f"{job}_*.pkl", f"{job.partition('_')[0]}_submission.sh"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
