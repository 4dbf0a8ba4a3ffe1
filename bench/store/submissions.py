"""Which stages were handed to SLURM, and as which jobs: kept with the store, so that any `bench` can go on from it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.files import read_json, write_json
from bench.store.claims import alone
from bench.store.store import Store


class Ledger:
    """Entries under `<store>/slurm/submitted/`, one file a submission."""

    def __init__(self, store: Store) -> None:
        """Read and write the entries of a store."""
        self.folder = store.root / "slurm" / "submitted"
        self.jobs_folder = store.root / "slurm" / "jobs"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other drivers from submitting meanwhile: what two want is submitted once."""
        # where the file system has no locks two may submit the same; the second job then finds it claimed
        with alone(self.folder.parent / "lock"):
            yield

    def add(self, jobs: Mapping[str, str]) -> None:
        """Note that the stages with these keys were submitted as these jobs."""
        if jobs:
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            write_json(
                self.folder / f"{at.replace(':', '')}-{uuid.uuid4().hex[:8]}.json", {"at": at, "jobs": dict(jobs)}
            )

    def jobs(self) -> dict[str, str]:
        """Return the last job of every stage that was submitted and not forgotten, key → job id."""
        found: dict[str, str] = {}
        for path in sorted(self.folder.glob("*.json")):
            found |= jobs_in(path)
        return found

    def prune(self, live: Mapping[str, str]) -> None:
        """Forget submissions of which no job is in the queue any more, and the files that were kept for them."""
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
            if not link.exists():  # submitit leaves a link to each script
                link.unlink(missing_ok=True)

    def output(self, job: str) -> list[Path]:
        """Return the files in which SLURM keeps what a job printed outside of its stage's own log."""
        return sorted(self.jobs_folder.glob(f"{job}_*_log.out")) if job else []


def jobs_in(path: Path) -> dict[str, str]:
    """Return key → job of one entry; nothing of one that is damaged."""
    found = (read_json(path) or {}).get("jobs")
    return {k: j for k, j in found.items() if isinstance(j, str)} if isinstance(found, dict) else {}


def _forget_files(folder: Path, job: str) -> None:
    """Remove submitit's pickles and scripts of a job; its output stays for `bench logs`."""
    for pattern in (f"{job}_*.pkl", f"{job.partition('_')[0]}_submission.sh"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
