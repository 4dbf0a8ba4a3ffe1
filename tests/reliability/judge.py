"""What must be true of a store after any disturbance, held against an undisturbed run of the same matrix."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.files import read_json
from tests.reliability.helpers import found
from tests.reliability.warm import MATRIX, Spy, start

COMMAND = ["run", str(MATRIX), "--wandb", "off", "--json"]
LIMIT_S = 150.0  # a run that is not through by then waits for something that will not come
_TOLD = ("cells/", "locks/")  # folders whose files hold times and hosts: that they are there is what counts
_SPEEDS = {"images_per_second", "wall_s", "processor_s"}


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        rows: the table.
        files: path in the store → digest, or that it is there.
        events: what it did to the store, in order, as `warm.Spy` names it.
        planning_s, wall_s: until the first stage began, and in all.
    """

    rows: Any
    files: dict[str, str]
    events: list[str]
    planning_s: float
    wall_s: float

    @property
    def stages(self) -> set[str]:
        """All stages, as `<stage>/<key>`."""
        return {str(Path(p).parent) for p in self.files if p.endswith("/manifest.json")}


def undisturbed(scratch: Path) -> Reference:
    """Run the matrix once and keep what came out.

    Raises:
        RuntimeError: if it fails: nothing can be judged then.
    """
    store = scratch / "store"
    spy = Spy(store, scratch / "attempts", scratch / "events")
    run = start([*COMMAND, "--jobs", "2", "--store", str(store)], scratch / "run", spy)
    while not found(store, "*/*.work") and not run.ended():
        time.sleep(0.005)
    planned = time.monotonic()
    if run.wait(LIMIT_S) != 0:
        raise RuntimeError(f"the undisturbed run failed: {run.said[-2000:]}")
    ended = time.monotonic()
    events = (scratch / "events").read_text(encoding="utf-8").splitlines()
    return Reference(run.rows, contents(store), events, planned - run.began, ended - run.began)


def contents(root: Path) -> dict[str, str]:
    """Return every file of a store with the digest of what may not differ between two runs."""
    digests = {}
    for path in walk(root):
        name = str(path.relative_to(root))
        if name.startswith("logs/") or name == "locks":  # which logs there are depends on how many computed at once
            continue
        told = name.startswith(_TOLD) or path.name == "manifest.json"
        digests[name] = "there" if told else _digest(path)
    return digests


def walk(root: Path) -> Iterator[Path]:
    """Yield the files under a folder; of an empty folder the folder, which is a leftover too."""
    for folder, folders, names in os.walk(root):
        yield from (Path(folder, n) for n in names)
        if not folders and not names:
            yield Path(folder)


def _digest(path: Path) -> str:
    if path.is_dir():
        return "an empty folder"
    if path.name == "record.json":
        return json.dumps(_without_speeds(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _without_speeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_speeds(v) for k, v in value.items() if k not in _SPEEDS}
    return [_without_speeds(v) for v in value] if isinstance(value, list) else value


def finished(store: Path) -> dict[str, tuple[str, int]]:
    """Return stamp and inode of every finished stage: both change when it is computed again."""
    stamps = {}
    for path in found(store, "*/*/manifest.json"):
        if path.parent.suffix == "":
            stamp = (read_json(path) or {}).get("finished", "unreadable")
            stamps[f"{path.parent.parent.name}/{path.parent.name}"] = (stamp, path.stat().st_ino)
    return stamps


def in_flight(store: Path) -> str:
    """Say what a kill left in the work folders, in few words."""
    told = []
    for work in sorted(found(store, "*/*.work")):
        files = [p for p in walk(work) if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        at = "".join(f", {p.parent.name}/{p.name}" for p in files if p.name.startswith(("manifest", ".manifest")))
        told.append(f"{work.parent.name} ({len(files)} files, {size >> 10} KiB{at})")
    return "; ".join(told) or "nothing in work"


@dataclass
class Verdict:
    """Everything that was wrong with one store, collected as it is disturbed and finished.

    Attributes:
        deleted: stages that were taken away on purpose, as `<stage>/<key>`: computed anew only where they are needed.
        swept: small files that were left over and went with `bench gc`: locks of killed runs, halves of renames.
    """

    reference: Reference
    store: Path
    attempts: Path
    faults: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    swept: list[str] = field(default_factory=list)

    def after_stop(self, before: dict[str, tuple[str, int]]) -> None:
        """Check what a stopped run left: what was finished is as it was, and no result is torn."""
        after = finished(self.store)
        for name, stamp in before.items():
            if after.get(name) != stamp:
                self.faults.append(f"{name} was finished and is {'computed again' if name in after else 'gone'}")
        for name in after.keys() - before.keys():
            folder = self.store / name
            if (manifest := read_json(folder / "manifest.json")) is None:
                self.faults.append(f"{name}/manifest.json is torn")
                continue
            sizes = {n: (folder / n).stat().st_size if (folder / n).exists() else -1 for n in manifest["files"]}
            self.faults += [
                f"{name}/{n} is torn: {size} of {manifest['files'][n]['bytes']} bytes"
                for n, size in sizes.items()
                if size != manifest["files"][n]["bytes"]
            ]

    def at_end(self, code: int | None, rows: Any, said: str) -> None:
        """Check a run that was let finish: its table, every file, the counts, and that nothing lies about."""
        if code != 0:
            self.faults.append(
                f"the last run ended with {'a hang' if code is None else f'code {code}'}: {said[-1500:]}"
            )
            return
        if rows != self.reference.rows:
            self.faults.append("the table differs from that of the undisturbed run")
        there, wanted = contents(self.store), self.reference.files
        if small := sorted(name for name in there.keys() - wanted.keys() if _is_for_gc(name)):
            there = self._swept(small)
        for stage in self.deleted:  # it comes back only where something needs it
            there.pop(stage.partition("/")[0], None)
            wanted = {n: d for n, d in wanted.items() if n in there or not n.startswith(f"{stage}/")}
        self.faults += [f"left over: {name}" for name in sorted(there.keys() - wanted.keys())]
        self.faults += [f"missing: {name}" for name in sorted(wanted.keys() - there.keys())]
        self.faults += [f"differs: {n}" for n in sorted(there.keys() & wanted.keys()) if there[n] != wanted[n]]
        self.computed_once()
        if users := users_of(self.store):
            self.faults.append(f"still using the store: {users}")

    def _swept(self, small: list[str]) -> dict[str, str]:
        """Let `bench gc` take away what a kill leaves between the making and the renaming of a small file."""
        folder = self.attempts.with_name(f"gc-{len(self.swept)}")
        gc = start(["gc", str(MATRIX), "--store", str(self.store), "--grace", "0", "--yes"], folder)
        if gc.wait(LIMIT_S) != 0:
            self.faults.append(f"`bench gc` failed: {gc.said[-1500:]}")
        self.swept += small
        return contents(self.store)

    def computed_once(self) -> None:
        """Check that no attempt was made at a finished stage, by what was seen in the runs and by their logs."""
        self.faults += [f"attempted though finished: {line}" for line in self._lines() if line.endswith(" again")]
        for log in found(self.store, "logs/*/*.log"):
            name = f"{log.parent.name}/{log.stem}"
            times = log.read_text(encoding="utf-8", errors="replace").count(" computed in ")
            if times > 1 + (name in self.deleted):
                self.faults.append(f"computed {times} times by its log: {name}")

    @contextlib.contextmanager
    def one_attempt_each(self, killed: int = 0) -> Iterator[None]:
        """Check that runs which end by themselves try each stage once, but for `killed` attempts that were not let."""
        seen = len(self._lines())
        yield
        attempts: dict[str, set[str]] = defaultdict(set)
        for line in self._lines()[seen:]:
            stage, event, folder, _ = line.split()
            if event == "mkdir":
                attempts[stage].add(folder)
        if sum(len(folders) - 1 for folders in attempts.values()) > killed:
            twice = {stage: len(folders) for stage, folders in attempts.items() if len(folders) > 1}
            self.faults.append(f"computed more than once though nothing stopped it: {twice}")

    def _lines(self) -> list[str]:
        return self.attempts.read_text(encoding="utf-8").splitlines() if self.attempts.exists() else []


def _is_for_gc(name: str) -> bool:
    return name.startswith("locks/") or ("/" in name and Path(name).name.startswith(".") and ".work/" not in name)


def users_of(folder: Path) -> list[int]:
    """Return the processes that have a file under a folder open."""
    users = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                users.add(int(link.parts[2]))
        except OSError:  # ended while we looked
            continue
    return sorted(users)
